"""The functions of Python source, and which of them call which."""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from textwrap import dedent

from kshot.core.seeding import digest

_START = re.compile(r"^[^\S\n]*(?:async def|def|class|import|from|@)\b|^[^\S\n]*@", re.MULTILINE)
_FENCED = re.compile(r"```(?:python|py)?[^\S\n]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Function:
    """A function or method.

    Attributes:
        source: Its text, from its decorators on.
        docstring: The first line of its docstring, or nothing.
        calls: Names of the functions of the same source that it calls, in the order of the text.
    """

    source: str
    docstring: str
    calls: tuple[str, ...]


@dataclass(frozen=True)
class CallGraph:
    """Functions by name; a method's is "Class.method"."""

    functions: Mapping[str, Function]

    def reached(self, *names: str) -> tuple[str, ...]:
        """Return what functions call and what that calls, each once, called ones before those that call them.

        Depth first; a function that is met again on the way, as recursion does, is passed over. One of `names` is among
        them only where another one of them reaches it.
        """
        found = dict[str, None]()
        seen = set[str]()
        for name in names:
            stack = [(name, iter(self.functions[name].calls))] if name not in seen else []
            seen.add(name)
            while stack:
                caller, callees = stack[-1]
                callee = next((other for other in callees if other not in seen), None)
                if callee is None:
                    found[stack.pop()[0]] = None
                else:
                    seen.add(callee)
                    stack.append((callee, iter(self.functions[callee].calls)))
        circles, named = self._circles, set(names)
        entered = {
            circles[callee]
            for caller in found
            for callee in self.functions[caller].calls
            if circles[callee] != circles[caller]
        }
        beside = Counter(circles[name] for name in named)
        return tuple(
            name for name in found if name not in named or circles[name] in entered or beside[circles[name]] > 1
        )

    @cached_property
    def _circles(self) -> Mapping[str, int]:
        """The circle that each function is in, alone or with those that it calls and that call it, called ones first.

        Tarjan (1972), Depth-first search and linear graph algorithms, https://doi.org/10.1137/0201010.
        """
        place, lowest, open_, circles = dict[str, int](), dict[str, int](), list[str](), dict[str, int]()
        for start in self.functions:
            stack = [(start, iter(self.functions[start].calls))] if start not in place else []
            while stack:
                name, callees = stack[-1]
                if name not in place:
                    place[name] = lowest[name] = len(place)
                    open_.append(name)
                callee = next(callees, None)
                if callee is None:
                    stack.pop()
                    if stack:
                        lowest[stack[-1][0]] = min(lowest[stack[-1][0]], lowest[name])
                    if lowest[name] == place[name]:
                        circle, member = len(circles), ""
                        while member != name:
                            member = open_.pop()
                            circles[member] = circle
                elif callee not in place:
                    stack.append((callee, iter(self.functions[callee].calls)))
                elif callee not in circles:
                    lowest[name] = min(lowest[name], place[callee])
        return circles

    def below(self, name: str) -> tuple[str, ...]:
        """Return what a function calls that does not lead back to it."""
        calls = dict.fromkeys(self.functions[name].calls)
        return tuple(other for other in calls if self._circles[other] != self._circles[name])

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """What identifies each function with all that it reaches: another text anywhere below is another key.

        It is made of the texts of those that call each other in a circle with it, and of the keys of what these call.
        """
        members = dict[int, list[str]]()
        for name, circle in self._circles.items():
            members.setdefault(circle, []).append(name)
        texts = {name: digest(name, function.source) for name, function in self.functions.items()}
        keys = dict[str, str]()
        for names in members.values():
            below = {keys[other] for name in names for other in self.below(name)}
            whole = digest(sorted(texts[name] for name in names), sorted(below))
            keys |= {name: digest(texts[name], whole) for name in names}
        return keys

    @property
    def roots(self) -> tuple[str, ...]:
        """The functions that no other one calls."""
        called = {callee for name, f in self.functions.items() for callee in f.calls if callee != name}
        return tuple(name for name in self.functions if name not in called)


def python_in(text: str) -> str | None:
    """Return the Python in a text: in a fence, or from the first line on that begins some; None where none parses."""
    fenced = _FENCED.search(text)
    start = _START.search(text)
    for source in (fenced[1] if fenced else "", text, text[start.start() :] if start else ""):
        source = dedent(source)
        if _parsed(source) and source.strip():
            return source
    return None


@lru_cache(maxsize=4)  # a text is looked at several times in a row
def _parsed(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():  # of escapes in strings
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def call_graph(source: str) -> CallGraph:
    """Return the functions of Python source and their calls; none where it does not parse.

    A name is the function of that name, or the constructor of the class; `self.name` and `cls.name` are the own class's
    method, and `other.name` is a method where one class alone has it. What is defined within a function belongs to it,
    and of functions with one name the last counts, as in Python.
    """
    tree = _parsed(source)
    nodes = dict(_definitions(tree)) if tree else {}
    methods, lines, functions = _methods(nodes), source.split("\n"), {}
    for name, node in nodes.items():
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        text = dedent("\n".join(lines[first - 1 : node.end_lineno]))
        docstring = (ast.get_docstring(node) or "").strip().split("\n")[0]
        functions[name] = Function(text, docstring, tuple(dict.fromkeys(_calls(name, node, nodes, methods))))
    return CallGraph(functions)


def n_functions(source: str) -> int:
    """Return how many functions Python source has, without a look at what they call; 0 where it does not parse."""
    tree = _parsed(source)
    return len(dict(_definitions(tree))) if tree else 0


_Definition = ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(tree: ast.Module) -> Iterator[tuple[str, _Definition]]:
    for node in tree.body:
        if isinstance(node, _Definition):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{inner.name}", inner) for inner in node.body if isinstance(inner, _Definition))


def _methods(names: Iterable[str]) -> Mapping[str, str]:
    """Return by its own name each method that one class alone has."""
    found = dict[str, list[str]]()
    for name in names:
        if "." in name:
            found.setdefault(name.rpartition(".")[2], []).append(name)
    return {method: those[0] for method, those in found.items() if len(those) == 1}


def _calls(
    caller: str, node: _Definition, known: Mapping[str, _Definition], methods: Mapping[str, str]
) -> Iterator[str]:
    own = caller.rpartition(".")[0]
    called = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    for f in sorted(called, key=lambda f: (f.end_lineno or 0, f.end_col_offset or 0)):
        if isinstance(f, ast.Name):
            names = [f.id, f"{f.id}.__init__"]
        elif isinstance(f, ast.Attribute):
            holder = f.value.id if isinstance(f.value, ast.Name) else ""
            names = [f"{own}.{f.attr}"] if holder in ("self", "cls") else [f"{holder}.{f.attr}"]
            names += [methods[f.attr]] if f.attr in methods else []
        else:
            names = []
        yield from [name for name in names if name in known][:1]
