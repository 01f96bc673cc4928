"""The page of errors: what is said to users, and what they can do, read from the code that says it."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROW = "fail"  # the method that says what is wrong with a row of a file
REASON = "it "  # so begins what another error says why
IMPERATIVE = (
    r"adapt|add|allow|answer|ask|build|call|change|check|choose|combine|convert|copy|correct|cut|delete|do|"
    r"download|evaluate|expand|export|fill|finish|fit|fix|give|install|keep|leave|let|list|load|lower|make|"
    r"merge|move|name|open|pass|point|put|quote|raise|read|rename|remove|repeat|replace|resume|retry|run|"
    r"save|say|see|select|set|shorten|show|sort|split|start|steer|stop|switch|take|train|try|unpack|update|"
    r"upgrade|use|wait|write"
)
NAMED = re.compile("⟨([^⟩]*)⟩")
GUESS = "Did you mean ⟨name⟩?"
CLAUSE = re.compile(rf"(?<=[;:.,?)]) (?:or |and |then )?(?=(?:{IMPERATIVE})\b)", re.IGNORECASE)
HEAD = """# Errors

What kshot says when something is not as it must be, and what to do about it. Each message names the flag or the file
and row; here ⟨names⟩ stand for what is filled in. Where the remedy is empty, the message itself says what must hold.
The exit code is 2 where the input is wrong, 3 where the model or the disk failed while running, 130 after Ctrl-C. A
traceback is a mistake of kshot's: please report it.
"""


@dataclass(frozen=True)
class Said:
    """One message, and the file that says it.

    Attributes:
        text: With the names of what is filled in.
        remedy: The clause that says what to do; empty where it follows from what must hold.
    """

    file: Path
    text: str
    remedy: str


def errors_page(source: Path, first_sentence: dict[str, str], written: str) -> str:
    """Return the page as Markdown, room by room.

    Args:
        source: The folder of the package.
        first_sentence: What each room is for.
        written: Says that the page is made.
    """
    parts = [HEAD, written]
    rooms: dict[str, list[Said]] = {}
    for said in messages(source):
        rooms.setdefault(said.file.parts[0].removesuffix(".py"), []).append(said)
    for room, all_said in rooms.items():
        rows = sorted({f"| {_cell(s.text)} | {_cell(s.remedy)} |\n" for s in all_said}, key=str.lower)
        about = f"{first_sentence[room]}\n\n" if room in first_sentence else ""
        parts.append(f"## {room}\n\n{about}| error and cause | remedy |\n|---|---|\n{''.join(rows)}")
    return "\n".join(parts)


@cache
def messages(source: Path) -> list[Said]:
    """Return every message of an error of kshot's own, file by file."""
    trees = {file: ast.parse(file.read_text("utf-8")) for file in sorted(source.rglob("*.py"))}
    speakers = {ROW, *_errors(trees.values())}
    everywhere = {name: text for tree in trees.values() for name, text in _constants(tree)}
    found = []
    for file, tree in trees.items():
        constants = everywhere | _imported(tree, trees, source) | dict(_constants(tree))  # a name can stand for two
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and _name(node.func) in speakers:
                text = _filled(_template(node.args[0]), constants)
                is_whole = re.search(r"\w{4}", NAMED.sub("", text)) and not text.startswith(REASON)
                if is_whole:  # else it hands on another's words, or is handed on
                    found.append(Said(file.relative_to(source), text, remedy(text)))
    return found


def _filled(template: str, constants: dict[str, str]) -> str:
    return NAMED.sub(lambda name: constants.get(name[1], name[0]), template)


def _imported(tree: ast.Module, trees: dict[Path, ast.Module], source: Path) -> dict[str, str]:
    """Return the texts that a file imports by name from other files of the package."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            file = source.parent.joinpath(*node.module.split(".")).with_suffix(".py")
            texts = dict(_constants(trees[file])) if file in trees else {}
            found |= {a.asname or a.name: texts[a.name] for a in node.names if a.name in texts}
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text


def _errors(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of kshot's own errors."""
    bases = {
        node.name: {_name(base) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known, size = {"KshotError"}, 0
    while len(known) > size:
        size = len(known)
        known |= {name for name, of in bases.items() if of & known}
    return known


def remedy(text: str) -> str:
    """Return the part of a message that says what to do, from its first clause in the imperative; or ""."""
    if clause := CLAUSE.search(text):
        said = text[clause.end() :].rstrip(".")
        return f"{said[:1].upper()}{said[1:]}."
    return "Use the name that it suggests, or one of those that it lists." if GUESS in text else ""


def is_helpful(text: str) -> bool:
    """Return whether a message says what to do, or what must hold."""
    return bool(remedy(text) or re.search(r"\b(must|needs?|takes)\b", text) or "⟨remedy⟩" in text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _template(node: ast.expr) -> str:
    """Return a message with ⟨names⟩ in place of what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(_template, values))
        case ast.FormattedValue(value=ast.Call(func=ast.Name(id="did_you_mean"))):
            return f" {GUESS}"
        case ast.FormattedValue(value=ast.IfExp() as either):
            return _template(either)
        case ast.FormattedValue(value=value):
            return f"⟨{_name(value).strip('_')}⟩"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
        case ast.IfExp(body=body, orelse=orelse):
            return _template(body) or _template(orelse)
    return f"⟨{_name(node).strip('_')}⟩"


def _name(node: ast.AST) -> str:
    """Return the word that stands nearest to what an expression is about."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Constant(value=value):
            return str(value)
        case ast.Call(func=ast.Attribute(attr="join"), args=[of]):
            return _name(of)
        case ast.Call(func=ast.Name(), args=[of, *_]):
            return _name(of)
        case ast.Call(func=func):
            return _name(func)
        case ast.Subscript(value=value):
            return _name(value)
        case ast.GeneratorExp(generators=[of, *_]) | ast.ListComp(generators=[of, *_]):
            return _name(of.iter)
        case ast.BinOp(left=left):
            return _name(left)
    return "…"
