"""The functions of Python source, and which of them call which."""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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

    def reached(self, name: str) -> tuple[str, ...]:
        """Return what a function calls and what that calls, each once, called ones before those that call them.

        Depth first; a function that is met again on the way, as recursion does, is passed over. The function itself is
        not among them.
        """
        found, seen = list[str](), {name}
        stack = [iter(self.functions[name].calls)]
        path = [name]
        while stack:
            callee = next(stack[-1], None)
            if callee is None:
                stack.pop()
                found.append(path.pop())
            elif callee not in seen:
                seen.add(callee)
                path.append(callee)
                stack.append(iter(self.functions[callee].calls))
        return tuple(found[:-1])

    @cached_property
    def _reached(self) -> Mapping[str, frozenset[str]]:
        return {name: frozenset(self.reached(name)) for name in self.functions}

    def below(self, name: str) -> tuple[str, ...]:
        """Return what a function calls that does not lead back to it."""
        calls = dict.fromkeys(self.functions[name].calls)
        return tuple(other for other in calls if other != name and name not in self._reached[other])

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """What identifies each function with all that it reaches: another text anywhere below is another key.

        In recursion a key cannot be made of the callees' own keys, so it is made of the texts of all that is reached.
        """
        texts = {name: digest(name, function.source) for name, function in self.functions.items()}
        return {name: digest(texts[name], sorted(texts[other] for other in self._reached[name])) for name in texts}

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
    functions = {}
    for name, node in nodes.items():
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        text = dedent("\n".join(source.split("\n")[first - 1 : node.end_lineno]))
        docstring = (ast.get_docstring(node) or "").strip().split("\n")[0]
        functions[name] = Function(text, docstring, tuple(dict.fromkeys(_calls(name, node, nodes))))
    return CallGraph(functions)


_Definition = ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(tree: ast.Module) -> Iterator[tuple[str, _Definition]]:
    for node in tree.body:
        if isinstance(node, _Definition):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{inner.name}", inner) for inner in node.body if isinstance(inner, _Definition))


def _calls(caller: str, node: _Definition, known: Mapping[str, _Definition]) -> Iterator[str]:
    own = caller.rpartition(".")[0]
    called = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    for f in sorted(called, key=lambda f: (f.end_lineno or 0, f.end_col_offset or 0)):
        if isinstance(f, ast.Name):
            names = [f.id, f"{f.id}.__init__"]
        elif isinstance(f, ast.Attribute):
            holder = f.value.id if isinstance(f.value, ast.Name) else ""
            named = [name for name in known if name.endswith(f".{f.attr}")]
            names = [f"{own}.{f.attr}"] if holder in ("self", "cls") else [f"{holder}.{f.attr}"]
            names += named if len(named) == 1 else []
        else:
            names = []
        yield from [name for name in names if name in known][:1]
