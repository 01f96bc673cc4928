"""What a context is made of: parts with names, told apart in prose and in Python, and cut to fit a budget."""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kshot.core.given_files import text_of
from kshot.core.types import Example

WAYS = ("python", "fields", "sections", "paragraphs", "sentences")  # in which "auto" looks
_FIELD = re.compile(r"^([A-Za-z][\w /-]{0,39}?):[ \t]*(?=\S|$)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=\S)")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_BETWEEN: Mapping[str, str] = {"sentences": " ", "fields": "\n", "python": "\n\n"}
IMPORTS, DOCSTRING, SIGNATURES, CALLED, PRECEDING = "imports", "docstring", "signatures", "called", "preceding"


@dataclass(frozen=True)
class Part:
    """A part of what is said beside a question.

    Attributes:
        name: What it is called in all rows, such as "imports" or "sentence 2".
        text: It.
        in_input: It goes on after the input, as the lines before the one that is asked for; else it is context.
        keeps_end: Where it has to be cut, its end stays.
    """

    name: str
    text: str
    in_input: bool = False
    keeps_end: bool = False


@dataclass(frozen=True)
class Parted:
    """A question with the parts of what is said beside it, in their order."""

    example: Example
    parts: tuple[Part, ...]
    between: str = "\n\n"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(part.name for part in self.parts)

    def saying(self, names: Iterable[str], budget: int) -> Example:
        """Return the question with some of its parts, cut to a budget; a budget of 0 cuts nothing.

        Args:
            names: Of the parts that are said.
            budget: The most tokens of all of them together, as `n_tokens` counts them.
        """
        wanted = set(names)
        kept = within([part for part in self.parts if part.name in wanted], budget)
        context = self.between.join(part.text for part in kept if not part.in_input)
        asked = "\n".join([self.example.input, *(part.text for part in kept if part.in_input)])
        return replace(self.example, input=asked, context=context or None)


def n_tokens(text: str) -> int:
    """Return how many words and marks a text has: the same for every model."""
    return len(_TOKEN.findall(text))


def within(parts: Sequence[Part], budget: int) -> list[Part]:
    """Return parts cut to so many tokens together, without those of which nothing is left; 0 cuts nothing.

    Each may have the same number; what shorter ones leave is shared by the others.
    """
    if not budget:
        return list(parts)
    room = _shares([n_tokens(part.text) for part in parts], budget)
    cut = [replace(part, text=_cut(part.text, n, part.keeps_end)) for part, n in zip(parts, room, strict=True)]
    return [part for part in cut if part.text]


def _shares(lengths: Sequence[int], budget: int) -> list[int]:
    """Return how many tokens each may have: as even as can be, `budget` in all at most."""
    found, left = [0] * len(lengths), budget
    for place, i in enumerate(sorted(range(len(lengths)), key=lambda i: (lengths[i], i))):
        found[i] = min(lengths[i], left // (len(lengths) - place))
        left -= found[i]
    return found


def _cut(text: str, n: int, keeps_end: bool) -> str:
    places = [(m.start(), m.end()) for m in _TOKEN.finditer(text)]
    if len(places) <= n:
        return text
    if not n:
        return ""
    return text[places[-n][0] :] if keeps_end else text[: places[n - 1][1]]


def parted(example: Example, way: str, most: int) -> Parted:
    """Return a row whose context is told apart.

    Args:
        example: With a context; without one it has no parts.
        way: One of `WAYS`.
        most: Of paragraphs and sentences there are so many at most: neighbours go together.
    """
    text = example.context or ""
    if way == "python":
        parts = _python(text, example.input)
    elif way in ("fields", "sections"):
        parts = _named(text, _FIELD if way == "fields" else _HEADING)
    else:
        pieces = re.split(r"\n\s*\n", text.strip()) if way == "paragraphs" else _SENTENCE.split(text.strip())
        groups = np.array_split(np.array([p for p in pieces if p.strip()], object), min(most, max(1, len(pieces))))
        joined = [_BETWEEN.get(way, "\n\n").join(group) for group in groups if len(group)]
        parts = [Part(f"{way[:-1]} {i}", one) for i, one in enumerate(joined, 1)]
    return Parted(example, tuple(parts), _BETWEEN.get(way, "\n\n"))


def way_of(examples: Sequence[Example], most: int) -> str | None:
    """Return the first of `WAYS` in which half of the rows with a context have two parts or more.

    Fields and headings must say the same in half of the rows. None where no row has two parts in any way; else, where
    none reaches half, that in which most do.
    """
    rows, found = [e for e in examples if e.context], dict[str, int]()
    for way in WAYS:
        of_rows = [set(parted(e, way, most).names) for e in rows]
        if way in ("fields", "sections"):
            times = Counter(name for names in of_rows for name in names)
            usual = {name for name, n in times.items() if 2 * n >= len(rows)}
            of_rows = [names & usual for names in of_rows]
        found[way] = sum(len(names) > 1 for names in of_rows)
        if found[way] and 2 * found[way] >= len(rows):
            return way
    best = max(found, key=lambda way: found[way])
    return best if found[best] else None


def _named(text: str, mark: re.Pattern[str]) -> list[Part]:
    """Return the parts that begin with a line that names them; what stands before the first is "opening"."""
    found: dict[str, list[str]] = {}
    name = "opening"
    for line in text.strip().splitlines():
        if begins := mark.match(line):
            name = begins[1].strip().lower()
        found.setdefault(name, []).append(line)
    joined = {name: "\n".join(lines).strip() for name, lines in found.items()}
    return [Part(name, one) for name, one in joined.items() if one]


# Python


def _python(text: str, asked: str) -> list[Part]:
    """Return the parts of source that stands before what is asked; nothing where no Python begins it.

    Where its last line is indented, its last definition is what is being written, and belongs to the lines before.
    """
    lines = text.rstrip().splitlines()
    tree, n = _parsed(lines)
    if tree is None or not any(isinstance(node, _Definition | ast.Import | ast.ImportFrom) for node in tree.body):
        return []
    doc, body = ast.get_docstring(tree), list(tree.body)
    begun = [body.pop()] if lines[-1][:1].isspace() and n == len(lines) and isinstance(body[-1], _Definition) else []
    module = ast.Module(body, [])
    rest = [line for node in (*_others(module), *begun) for line in _text(node, lines).splitlines()]
    preceding = "\n".join([*rest, *lines[n:]]).strip("\n")
    parts = _of_file(module, lines, _called(f"{preceding}\n{asked}"))
    if doc:
        parts.insert(sum(part.name == IMPORTS for part in parts), Part(DOCSTRING, f'"""{doc}"""'))
    return [*parts, *([Part(PRECEDING, preceding, keeps_end=True)] if preceding.strip() else [])]


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _parsed(lines: Sequence[str]) -> tuple[ast.Module | None, int]:
    """Return the tree of the most lines from the first on that are Python, and how many they are."""
    n = len(lines)
    for _ in range(100):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse("\n".join(lines[:n])), n
        except SyntaxError as error:
            n = min(n - 1, max(0, (error.lineno or n) - 1))
        except (ValueError, RecursionError, MemoryError):
            return None, 0
        if n <= 0:
            break
    return None, 0


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions of a module and the methods of its classes by their own name; the first of a name counts."""
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for node in tree.body:
        for one in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(one.name, one)
    return found


def _text(node: ast.stmt, lines: Sequence[str]) -> str:
    start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return "\n".join(lines[start - 1 : node.end_lineno])


def _head(node: _Definition, lines: Sequence[str]) -> str:
    """Return the lines of a definition before its body."""
    last = max(node.lineno, node.body[0].lineno - 1)
    return "\n".join(lines[node.lineno - 1 : last]).split("\n\n")[0].rstrip()


def _called(text: str) -> set[str]:
    return set(re.findall(r"(\w+)\s*\(", text))


def _of_file(tree: ast.Module, lines: Sequence[str], called: set[str], but: str = "") -> list[Part]:
    """Return imports, signatures, and the functions that are called, in this order, as far as there are some.

    Args:
        tree: Of the file.
        lines: Its text.
        called: Names that are called by what is asked.
        but: The name of a function that is left out.
    """
    imports = [_text(node, lines) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    functions = {name: node for name, node in _functions(tree).items() if name != but}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    heads = [_head(node, lines) for node in sorted([*classes, *functions.values()], key=lambda node: node.lineno)]
    bodies = [_text(node, lines) for name, node in functions.items() if name in called]
    texts = {IMPORTS: imports, SIGNATURES: heads, CALLED: bodies}
    return [Part(name, "\n".join(some)) for name, some in texts.items() if some]


def _others(tree: ast.Module) -> list[ast.stmt]:
    """Return a module's statements that are no imports, definitions or docstring."""
    body = tree.body[1:] if ast.get_docstring(tree) else tree.body
    return [node for node in body if not isinstance(node, _Definition | ast.Import | ast.ImportFrom)]


def python_rows(files: Mapping[str, Path], n: int, *, rng: np.random.Generator) -> list[Parted]:
    """Return questions for a line of a function each, with the parts of its file that stand beside it.

    The input is the function's first line, the output a statement of one line from its body that is not its first;
    the docstring and the lines before it go on after the input. The functions that are said as "called" are those that
    these lines call, not those that the asked line calls.

    Args:
        files: Python source by name; what cannot be read or does not parse is passed over.
        n: The most questions; functions are drawn.
        rng: For the draws.
    """
    found = []
    for place, file in files.items():
        try:
            lines = text_of(file).splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        tree, end = _parsed(lines)
        if tree is None or end < len(lines):
            continue
        for name, node in _functions(tree).items():
            if row := _line_of(name, node, tree, lines, f"{place}:{node.lineno}", rng):
                found.append(row)
    return [found[i] for i in sorted(rng.permutation(len(found))[:n])]


def _line_of(
    name: str,
    node: ast.FunctionDef | ast.AsyncFunctionDef,
    tree: ast.Module,
    lines: Sequence[str],
    place: str,
    rng: np.random.Generator,
) -> Parted | None:
    has_doc = ast.get_docstring(node) is not None
    body = node.body[has_doc:]
    single = [s for s in body[1:] if s.lineno == s.end_lineno and 8 <= len(lines[s.lineno - 1].strip()) <= 100]
    if not single:
        return None
    target = single[int(rng.integers(len(single)))]
    before = "\n".join(lines[body[0].lineno - 1 : target.lineno - 1]).rstrip()
    parts = _of_file(tree, lines, _called(before), name)
    if has_doc:
        doc = node.body[0]
        parts.append(Part(DOCSTRING, "\n".join(lines[doc.lineno - 1 : doc.end_lineno]), in_input=True))
    if before:
        parts.append(Part(PRECEDING, before, in_input=True, keeps_end=True))
    answer = lines[target.lineno - 1].strip()
    return Parted(Example(_head(node, lines), answer, place), tuple(parts))
