"""Write files of rows at random, as users have them, and know what is in them; see test_fuzzed_files.py."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kshot.tasks.missing import is_missing
from kshot.tasks.rows import FIELDS

WORDS = [
    "film", "was", "a", "good", "one", "and", "bad", "5", "stars", "naïve", "Größe", "東京", "Привет", "مرحبا", "👍🏽",
    "ok!", "don't", "(sic)", "x=1", "e.g.", "3,14", "N/A",
]  # fmt: skip
ODD = [
    "\u200b", "\ufeff", "\u2060", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\xa0", "\u3000", "e\u0301", "\u202e",
    "\r", "\n", "\r\n", "\n\n", "\t", '"', '""', "'", ",", ";", "|", "\\", "\\n", "#", "{", "}", "[", "]", " ", "  ",
    "\x01", "\x7f", "\ufffd", "\U0001f9ff", "null", "NaN", "None", "sep=;", "a,b", "<|endoftext|>", "###", "=1+1",
]  # fmt: skip
OTHERS = ("conversations", "instruction", "history", "A", "B", "C")
LETTERS = ("A", "(A)", "a)", "A.")  # how outputs may say which choice they are
# Rows that cannot be used: lines and values of JSON, cells beside an input and an output, values of Parquet.
BAD_LINES = [
    '{"input": "a"', "nonsense", "[1, 2]", "null", '{"input": "a", "output": "b"', '{"a": 1, "a": 2}',
]  # fmt: skip
BAD_VALUES = [
    {"input": "a"}, {"output": "b"}, {}, {"input": 3, "output": "b"}, {"input": "a", "output": None}, [1], 7,
    {"input": "\u200b \u2060", "output": "b"}, {"input": "a", "output": " "}, {"input": "a\0b", "output": "b"},
    {"input": "a", "output": ["b", "c"]}, {"input": "a", "output": "b", "context": 5}, {"input": ["a"], "output": "b"},
    {"input": "\ud800", "output": "b"}, {"input": "a", "output": "b", "choices": "a|b"},
]  # fmt: skip
BAD_CELLS = ["a", "a,b,c", "input,output", ",b", "a, ", "\u200b,b", '"a\0",b', '"a","b","c"']
BAD_RECORDS = [{"input": None, "output": "b"}, {"input": "a", "output": None}, {"input": "\u2060", "output": "b"}]
LABELS = [
    ("yes", "no"),
    ("positive", "negative", "neutral"),
    ("très bien", "mal"),
    ("0 stars", "5 stars"),
    ("a b", "c d"),
]
DAMAGE = (b"", b'"', b"\n", b"\0", b",", b"\xff", b"{", b"]")
READ = ("input", "output", "context")
REFUSED = "must be refused: "
INPUTS, OUTPUTS = (
    ("text", "sentence", "question", "Review", "query", "problem"),
    ("label", "answer", "Target", "sentiment"),
)


@dataclass(frozen=True)
class Written:
    """A source, and what is in it.

    Attributes:
        source: What is given to kshot.
        rows: What was meant, each with input, output and maybe context and choices; None where that is not known.
        columns: How the columns are named to kshot.
        bad: The numbers of rows that cannot be used; they are not among `rows`.
        plain: All texts can be seen and the file is whole, so it must be read.
        like: What it is, for whoever reads a failure.
    """

    source: Path
    rows: list[dict[str, Any]] | None
    columns: dict[str, str] = field(default_factory=dict)
    bad: tuple[int, ...] = ()
    plain: bool = False
    like: str = ""


def write_source(folder: Path, rng: Random) -> Written:
    """Write a file or a folder of a random kind."""
    kinds = [_table, _table, _table, _conversations, _instructions, _folder, _spoilt, _damaged, _values, _bytes]
    return rng.choice(kinds)(folder, rng)


def _text(rng: Random, odd: float) -> str:
    parts = [rng.choice(ODD) if rng.random() < odd else rng.choice(WORDS) for _ in range(rng.choice((1, 2, 5, 12)))]
    text = rng.choice(("", " ")) * (odd > 0) + rng.choice(("", " ", " ", " ")).join(parts)
    if rng.random() < odd / 20:
        text += "long " * rng.choice((2_000, 30_000))
    return text


def _rows(rng: Random, odd: float) -> list[dict[str, Any]]:
    labels = rng.choice(LABELS) if rng.random() < 0.6 else ()
    with_context, with_choices, rationale = rng.random() < 0.3, rng.random() < 0.15, rng.random() < 0.05
    form = rng.choice((None, *LETTERS))
    rows = []
    for i in range(rng.choice((1, 2, 3, 8, 20))):
        row: dict[str, Any] = {"input": f"{_text(rng, odd)} {i}" if rng.random() > odd / 5 else _text(rng, odd)}
        row["output"] = rng.choice(labels) if labels and rng.random() > odd / 5 else _text(rng, odd)
        if with_context and rng.random() < 0.8:
            row["context"] = _text(rng, odd)
        if with_choices:
            row["choices"] = [f"{word} {i}" for word in rng.sample(WORDS, rng.choice((2, 3, 4)))]
            row["output"] = rng.choice(row["choices"])
            if form:
                place = row["choices"].index(row["output"])
                row["written"] = form.replace("A", "ABCD"[place]).replace("a", "abcd"[place])
        elif rationale:
            row |= {"output": str(i), "written": f"{_text(rng, odd)}\n#### {i}"}
        rows.append(row)
    return rows


def as_written(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its output as it stands in the file: a letter for a choice, a rationale before a number."""
    return {f: row.get("written", v) if f == "output" else v for f, v in row.items() if f != "written"}


def _seen(rows: list[dict[str, Any]]) -> bool:
    return not any(isinstance(row.get(key), str) and is_missing(row[key]) for row in rows for key in READ)


def _names(rng: Random) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of the columns in the file, and those that are told to kshot."""
    own = {"input": "input", "output": "output", "context": "context", "choices": "choices"}
    style = rng.choice(("own", "guessed", "named"))
    if style == "own":
        return own, {}
    if style == "guessed":
        return own | {"input": rng.choice(INPUTS), "output": rng.choice(OUTPUTS)}, {}
    named = {"input": rng.choice(("Frage", "my text", "a;b", "été")), "output": rng.choice(("Klasse", "y", "Ja/Nein"))}
    return own | named, named


def _table(folder: Path, rng: Random, stem: str = "rows") -> Written:
    odd = rng.choice((0.0, 0.0, 0.05, 0.4))
    rows, (names, columns) = _rows(rng, odd), _names(rng)
    renamed = [{names[f]: v for f, v in as_written(row).items()} for row in rows]
    if rng.random() < 0.3:
        for i, row in enumerate(renamed):
            row |= rng.choice(({"id": f"r{i}"}, {"source": "web"}, {"score": i / 2}, {"score": float("nan")}))
    how = rng.choice((_json_lines, _json_list, _csv, _csv, _csv, _parquet))
    path, like = how(folder / stem, renamed, rng, "|" if any("choices" in row for row in rows) else "")
    return Written(path, rows, columns, plain=_seen(rows) and not like.startswith(REFUSED), like=like)


def _json_lines(path: Path, rows: list[dict[str, Any]], rng: Random, bar: str) -> tuple[Path, str]:
    end, ascii_only = rng.choice(("\n", "\r\n", "\n\n", "\r")), rng.random() < 0.5
    path, encoding = path.with_suffix(rng.choice((".jsonl", ".json"))), rng.choice(("utf-8", "utf-8-sig", "utf-16"))
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    path.write_bytes((end.join(lines) + rng.choice(("", end))).encode(encoding))
    return path, f"JSON Lines, {end!r}, {encoding}"


def _json_list(path: Path, rows: list[dict[str, Any]], rng: Random, bar: str) -> tuple[Path, str]:
    path = path.with_suffix(rng.choice((".jsonl", ".json")))
    value: Any = {"version": "1", "data": rows} if rng.random() < 0.3 else rows
    path.write_text(json.dumps(value, indent=rng.choice((None, 0, 2)), ensure_ascii=rng.random() < 0.5), "utf-8")
    return path, "JSON"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _csv(path: Path, rows: list[dict[str, Any]], rng: Random, bar: str) -> tuple[Path, str]:
    separator, end = rng.choice(",,,;\t"), rng.choice(("\n", "\n", "\r\n", "\r"))
    path = path.with_suffix(".tsv" if separator == "\t" and rng.random() < 0.5 else ".csv")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rng.shuffle(columns)
    cells = [["|".join(v) if isinstance(v := row.get(c, ""), list) else str(v) for c in columns] for row in rows]
    after = " " if rng.random() < 0.15 else ""
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))

    def cell(text: str) -> str:
        must = any(c in text for c in f'{separator}"\r\n') or (after and text[:1] == " ")
        return _quoted(text) if must or quoting == csv.QUOTE_ALL else text

    extra = separator * rng.choice((0, 0, 0, 2))
    lines = [(separator + after).join(map(cell, line)) + extra for line in [columns, *cells]]
    if rng.random() < 0.2:
        lines.append(separator * (len(columns) - 1))
    first = f"sep={separator}{end}" if rng.random() < 0.15 else ""
    text = first + end.join(lines) + rng.choice(("", end))
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"))
    if encoding == "cp1252" and text != text.encode("cp1252", "ignore").decode("cp1252"):
        encoding = "utf-8"
    path.write_bytes(text.encode(encoding))
    refused = encoding == "cp1252" and not text.isascii()
    return path, f"{REFUSED * refused}CSV, {separator!r}, {end!r}, {encoding}, blank {after!r}, first line {first!r}"


def _parquet(path: Path, rows: list[dict[str, Any]], rng: Random, bar: str) -> tuple[Path, str]:
    path = path.with_suffix(".parquet")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = pa.Table.from_pylist([{c: row.get(c) for c in columns} for row in rows])
    if rng.random() < 0.3:
        kinds = [(i, f) for i, f in enumerate(table.schema) if f.type == pa.string()]
        for i, f in kinds:
            table = table.set_column(i, f.name, table.column(i).dictionary_encode())
    pq.write_table(table, path)
    return path, "Parquet"


def _conversations(folder: Path, rng: Random) -> Written:
    odd = rng.choice((0.0, 0.05, 0.3))
    style, shared = rng.choice(("messages", "conversations", "pair")), rng.choice(("", "", "Be brief."))
    role, content = ("from", "value") if style == "conversations" else ("role", "content")
    user, assistant = ("human", "gpt") if style == "conversations" else ("user", "assistant")
    weighted, beside, parts = rng.random() < 0.3, rng.random() < 0.3, rng.random() < 0.2
    rows, meant = [], []
    for row in _rows(rng, odd):
        own = shared or rng.choice(("", f"S {_text(rng, odd)}"))
        turns = [(user if i % 2 == 0 else assistant, _text(rng, odd)) for i in range(2 * rng.choice((0, 0, 1, 2)))]
        talk = [*turns, (user, row["input"]), (assistant, row["output"])]
        messages = [{role: who, content: [{"type": "text", "text": t}] if parts else t} for who, t in talk]
        answers = [i for i, (who, _) in enumerate(talk) if who == assistant]
        last = answers[-1]
        if weighted:
            for i in answers:
                messages[i]["weight"] = rng.choice((0, 1, 1))
            last = max((i for i in answers if messages[i]["weight"]), default=-1)
        values: dict[str, Any] = {"system": own} if beside else {}
        if own and not beside:
            messages.insert(0, {role: rng.choice(("system", "developer")), content: own})
        if style == "pair":
            values |= {"prompt": messages[:-1], "completion": messages[-1:]}
        else:
            values[style] = messages
        rows.append(values)
        if last < 0:
            continue
        earlier = [f"{'User' if who == user else 'Assistant'}: {text}" for who, text in talk[: last - 1]]
        meant.append({"input": talk[last - 1][1], "output": talk[last][1], "system": own, "earlier": earlier})
    path = folder / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    texts = [{"input": text.partition(": ")[2]} for row in meant for text in row["earlier"]]
    plain = odd == 0 and bool(meant) or (bool(meant) and not weighted and _seen([*meant, *texts]))
    return Written(path, meant, plain=plain, like=f"conversations in {style}, beside {beside}")


def _instructions(folder: Path, rng: Random) -> Written:
    odd = rng.choice((0.0, 0.05, 0.3))
    shared, with_history, as_list = rng.choice(("", "Be brief.")), rng.random() < 0.5, rng.random() < 0.3
    rows, meant = [], []
    for row in _rows(rng, odd):
        own = shared or rng.choice(("", f"S {_text(rng, odd)}"))
        turns = [[f"q {_text(rng, odd)}", f"a {_text(rng, odd)}"] for _ in range(rng.randrange(3) * with_history)]
        context = row.get("context", "")
        values = {
            "instruction": row["input"],
            "input": context,
            "output": [row["output"]] if as_list else row["output"],
        }
        rows.append(values | {"system": own} | ({"history": turns} if with_history else {}))
        earlier = [f"{who}: {text}" for pair in turns for who, text in zip(("User", "Assistant"), pair, strict=True)]
        passage = [context] if context and not is_missing(context) else []
        meant.append(row | {"choices": (), "system": own, "before": passage, "earlier": earlier})
    path = folder / f"instructions{rng.choice(('.json', '.jsonl', '.parquet'))}"
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return Written(path, meant, plain=_seen(meant), like="instructions")


def _folder(folder: Path, rng: Random) -> Written:
    home = folder / "task"
    home.mkdir()
    train = _table(home, rng, "train")
    if rng.random() < 0.5:  # test rows without an answer
        names = {"input": "input"} | train.columns
        (home / "test.jsonl").write_text(json.dumps({names["input"]: "a", "Review": "b", "text": "c"}))
    if rng.random() < 0.5:
        card = {
            "instruction": _text(rng, 0.2),
            "metrics": ["accuracy"],
            rng.choice(("name", "kind", "labels", "x")): "qa",
        }
        (home / "task.json").write_text(json.dumps(card))
    return Written(home, train.rows, train.columns, like=f"folder of {train.like}")


def _spoilt(folder: Path, rng: Random) -> Written:
    """Write a good file, with rows among the others that cannot be used."""
    rows = [{f: row[f] for f in ("input", "output")} for row in _rows(rng, rng.choice((0.0, 0.05)))]
    rows = [row for row in rows if _seen([row])] or [{"input": "a", "output": "b"}]
    how = rng.choice((".jsonl", ".json", ".csv", ".parquet"))
    spoilt = {".jsonl": BAD_LINES + list(map(json.dumps, BAD_VALUES)), ".json": BAD_VALUES, ".csv": BAD_CELLS}
    if how == ".csv":
        rows = [{f: " ".join(text.split()) for f, text in row.items()} for row in rows]
    n_bad = rng.choice((1, 1, 2, len(rows) // 2 + 1, len(rows) + 1))
    bad = sorted(rng.sample(range(len(rows) + n_bad), n_bad))
    mixed: list[Any] = list(rows)
    for i in bad:
        mixed.insert(i, rng.choice(spoilt.get(how, BAD_RECORDS)))
    path, first = folder / f"spoilt{how}", 2 if how == ".csv" else 1
    if how == ".jsonl":
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in mixed))
    elif how == ".json":
        path.write_text(json.dumps(mixed))
    elif how == ".csv":
        cells = [r if isinstance(r, str) else ",".join(map(_quoted, r.values())) for r in mixed]
        path.write_text("\n".join(["input,output", *cells]))
    else:
        pq.write_table(pa.Table.from_pylist(mixed), path)
    return Written(path, rows, bad=tuple(i + first for i in bad), like=f"{n_bad} bad rows in {how}")


def _damaged(folder: Path, rng: Random) -> Written:
    """Write a good file and change some bytes of it; or give it another ending."""
    written = rng.choice((_table, _conversations))(folder, rng)
    data = bytearray(written.source.read_bytes())
    for _ in range(rng.choice((0, 1, 3, 30))):
        place = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 5))
        data[place : place + rng.choice((0, length))] = rng.choice((*DAMAGE, bytes([rng.randrange(256)] * 3)))
    if rng.random() < 0.2:
        del data[rng.randrange(len(data) + 1) :]
    path = folder / f"damaged{rng.choice((written.source.suffix, '.jsonl', '.csv', '.json', '.tsv', '.parquet'))}"
    path.write_bytes(data)
    return Written(path, None, written.columns, like=f"damaged {written.like}")


def _value(rng: Random, depth: int = 0) -> Any:
    kinds = ["text", "text", "number", "null", "bool", "nan", "half"] + ["list", "object"] * (depth < 3)
    kind = rng.choice(kinds)
    if kind == "list":
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == "object":
        keys = ("text", "label", "role", "content", "from", "value", "type", "weight", "data", "0", "")
        return {rng.choice(keys): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    simple = {"number": rng.choice((0, 1, -1, 2**70, 1.5, 1e999)), "null": None, "bool": rng.random() < 0.5}
    return {**simple, "nan": float("nan"), "half": "\ud800", "text": _text(rng, 0.3)}[kind]


def _values(folder: Path, rng: Random) -> Written:
    """Write rows whose columns hold anything."""
    names = rng.sample((*FIELDS, "text", "label", "answers", "messages", "system", "prompt", "completion", *OTHERS), 4)
    rows = [{name: _value(rng) for name in names if rng.random() < 0.9} for _ in range(rng.choice((1, 2, 5)))]
    path = folder / f"values{rng.choice(('.jsonl', '.json'))}"
    path.write_text(json.dumps(rows) if rng.random() < 0.3 else "\n".join(map(json.dumps, rows)))
    return Written(path, None, like="any values")


def _bytes(folder: Path, rng: Random) -> Written:
    alphabet = rng.choice((bytes(range(256)), b'{}[]":,\n a1', b'a,";\n\r\t |', "é\u200b\ufeff,\n{".encode()))
    data = bytes(rng.choice(alphabet) for _ in range(rng.choice((0, 1, 10, 300))))
    path = folder / f"bytes{rng.choice(('.jsonl', '.json', '.csv', '.tsv', '.parquet', '.txt'))}"
    path.write_bytes(rng.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"PAR1")) + data)
    return Written(path, None, like="any bytes")
