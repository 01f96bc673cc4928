"""What users see, recorded: command lines on small tasks, with what they print and leave in their folders.

`python tests/golden.py` compares whichever kshot is importable with `golden.json`, to the last bit; with names only
these cases. `--record` writes the file anew, `--times` tells how long each case took.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # before torch is imported, and for child processes

GOLDEN = Path(__file__).with_name("golden.json")
NEW_PROCESS = [sys.executable, "-m", "kshot.cli.main"]

# The cases. A line is a command; "new:" runs it in a process of its own, "killed:" in one that is killed midway.


def adapt(recipes: str, more: str = "", *, task: str = "words", model: str = "tiny", out: str = "run") -> str:
    """Return the command that adapts."""
    return f"adapt {task} --model {model} --recipes {recipes} --shots 4 --limit 18 --out {out} --json {more}"


def select(selector: str, more: str = "", *, task: str = "words", k: int = 4) -> str:
    """Return the command that selects."""
    return f"select {task} --selector {selector} -k {k} {more}"


def asked(run: str = "run") -> list[str]:
    """Return the commands that ask an adapted model for answers."""
    return [f"predict {run} inputs.txt --json", f"evaluate {run} words --json"]


FULL = "--no-race"  # every recipe predicts the whole stream
TRAINING = "lr=1e-3,steps=1"
QUICK = "encoder=encoder,reward_encoder=encoder,queries=12,candidates=6,depth=12,epochs=1,reward_epochs=1"
ON_PROMPTS = "prompts=3,shots=2"
SURVIVES = "zero-shot,random,bm25"

CASES: dict[str, list[str]] = {
    # The recipes
    "prompted": [adapt("majority,zero-shot,random,all-past,bm25,bm25-major", FULL), *asked()],
    "raced": [adapt("majority,tfidf-lr,zero-shot,random:k=2,bm25,all-past", "--limit 20"), *asked()],
    "baselines": [adapt("majority,tfidf-lr"), *asked()],
    "embedded": [adapt("embedding-lr,diverse,dense", FULL), *asked(), select("diverse"), select("dense --query rice")],
    "best-of-n": [adapt("best-of-n,best-of-n:n=2,queries=4,order=shuffled", FULL), *asked()],
    "gradient-matching": [adapt("gradient-matching,gradient-matching:normalize=none,candidates=1", FULL), *asked()],
    "gradient-matching-prefix": [adapt("gradient-matching:of=prefix,epochs=1,snapshots=2", FULL), *asked()],
    "less": [adapt("less:epochs=1,snapshots=2"), *asked()],
    "orders": [
        adapt(
            ",".join(f"{name}:k=3,order={o}" for name in ("random", "bm25") for o in orders),
            f"{FULL} --limit 8",
            out=out,
        )
        for out, orders in {
            "run": ("as-selected", "shuffled", "nearest-last"),
            "more": ("label-interleaved", "most-confident-last"),
        }.items()
    ],
    "calibration": [
        adapt(
            ",".join(f"{name}:calibration={c}" for name in ("zero-shot", "bm25") for c in ("none", "contextual")), FULL
        ),
        *asked(),
    ],
    "calibration-alone": [
        line
        for name in ("none", "contextual", "temperature")
        for line in (adapt(f"random:calibration={name}", "--limit 9", out=name), f"predict {name} inputs.txt --json")
    ],
    "choose-by-bits": [adapt("zero-shot,random,bm25", "--choose-by bits --limit 9"), *asked()],
    "prefer-cheap": [adapt("zero-shot,random,bm25,majority", "--prefer cheap-queries --limit 9"), *asked()],
    "seed-and-limit": [
        adapt("random,random:fresh=true,balanced=true", "--seed 7 --limit 10 --shots 3"),
        *asked(),
        "evaluate run words --limit 2 --json",
    ],
    "from-a-file": ["adapt words --config run.yaml --json", *asked("from-file")],
    # Trained
    "fine-tune": [adapt("fine-tune:lr=1e-3/1e-2,steps=1"), *asked()],
    "icl+ft": [adapt("icl+ft:k=2,lr=1e-3/1e-2,steps=1"), *asked(), "merge run --out whole", "merge run --out whole"],
    "trained-fully": [adapt(f"fine-tune:weights=full,{TRAINING},batch=2"), *asked()],
    "trained-otherwise": [
        adapt(f"icl+ft:k=2,fixed=true,reuse=true,loss=last,target=current,{TRAINING}"),
        adapt(f"fine-tune:optimiser=adafactor,target=current,rank=2,calibration=none,{TRAINING}", out="more"),
        *asked("more"),
    ],
    "trained-defaults": [adapt("fine-tune", "--limit 8", task="few"), adapt("icl+ft", task="few", out="more")],
    "trained-and-shown": [adapt(f"fine-tune:selector=bm25,k=2,{TRAINING}"), *asked()],
    "guided": [adapt(f"fine-tune:direction=0.5,magnitude=0.5,warmup=2,{TRAINING}", task="few"), *asked()],
    "guided-ema": [
        adapt(f"icl+ft:k=1,direction=0.5,reference=ema,backend={backend},warmup=0,{TRAINING}", task="few", out=backend)
        for backend in ("exact", "surgery")
    ],
    "aligned": [
        adapt(f"fine-tune:{TRAINING}", "--source other", task="few"),
        adapt(f"icl+ft:k=1,align=pcgrad,{TRAINING}", "--source other", task="few", out="more"),
        *asked("more"),
    ],
    # Steered
    "icv": [adapt("icv"), *asked(), adapt("icv:strength=0.05,site=block,layer=1", out="more"), *asked("more")],
    "function-vector": [adapt(f"function-vector:{ON_PROMPTS},heads=2"), *asked()],
    "soft-injection": [adapt(f"soft-injection:{ON_PROMPTS},steps=4,every=2"), *asked()],
    "random-direction": [adapt("random-direction,random-direction:of=icv,selector=random,k=2", FULL), *asked()],
    "steered-and-shown": [adapt("icv:selector=bm25,k=2"), *asked()],
    "steered-and-trained": [adapt(f"fine-tune:steerer=icv,{TRAINING}"), *asked(), "merge run --out whole"],
    # Chat models
    "turns": [adapt("zero-shot,bm25", FULL, model="./chat", task="instructed"), *asked()],
    "block": [
        adapt("zero-shot,random", f"{FULL} --layout block --limit 9", model="./chat", task="instructed"),
        *asked(),
    ],
    "chat-plain": [
        adapt("random", "--layout plain", task="few", model="./chat"),
        adapt(f"icl+ft:k=1,{TRAINING}", model="./chat", task="few", out="more"),
    ],
    # Open tasks and choices
    **{
        f"{kind}-scripted": [
            adapt(
                "zero-shot,random,bm25:order=label-interleaved,majority,tfidf-lr",
                f"--limit {limit}",
                task=kind,
                model=f"scripted:{kind}.json",
            ),
            f"predict run {kind}/test.jsonl --json",
            f"evaluate run {kind} --json",
        ]
        for kind, limit in {"generation": 17, "qa": 17, "math": 9, "parsing": 9}.items()
    },
    "generation": [adapt("zero-shot,bm25,icv", task="generation", more="--limit 10"), "predict run inputs.txt --json"],
    "generation-trained": [adapt(f"icl+ft:k=1,{TRAINING}", "--limit 8", task="qa"), "predict run qa/test.jsonl --json"],
    "choices": [adapt("zero-shot,random,bm25,tfidf-lr", FULL, task="quiz"), "predict run quiz/test.jsonl --json"],
    "letters": [
        adapt("zero-shot,random,majority", FULL, task="letters"),
        "predict run letters/test.jsonl --json",
        "evaluate run letters --json",
        "evaluate run quiz --json",
    ],
    # Retrievers
    "retriever-stages": [
        f"retriever candidates words other --hold-out other --out found --settings {QUICK}",
        "retriever score found --model tiny",
        "retriever reward found",
        "retriever distill found",
        "retriever evaluate found --model tiny -k 3 --limit 3 --json",
    ],
    "retriever": [
        f"retriever train words --model tiny --iterations 2 --out found --settings {QUICK},target=reward",
        "retriever evaluate found --model tiny -k 3 --limit 3 --against bm25",
        adapt("llm-r:retriever=found,k=3,mmr=0.3", "--limit 10"),
        *asked(),
    ],
    # Selection
    "select": [
        select("random", "--seed 2"),
        select("random:balanced=true,order=label-interleaved", "--format prompt", task="instructed"),
        select("random", "--format messages", task="instructed"),
        select("bm25", "--query 'which goat, which horse?' --model scripted", k=3),
        select("bm25-major:order=shuffled", "--format messages", task="qa"),
        select("random", "--format prompt", task="quiz", k=2),
        select("random", "--format yaml"),
        select("bm25"),
        select("all-past", k=2),
        select("best-of-n"),
    ],
    "select-by-model": [
        select("best-of-n", "--model scripted"),
        select("best-of-n:n=3,order=most-confident-last", "--model tiny --seed 1"),
        select("random:order=nearest-last", "--query 'the goat' --model tiny"),
        select("gradient-matching", "--model tiny --format prompt"),
        select("gradient-matching:balanced=true,restarts=2,candidates=1", "--model tiny --gradients kept"),
        select("less:epochs=1,snapshots=2", "--model tiny --gradients kept --format messages"),
    ],
    "selector-model": [
        adapt("best-of-n,random:order=most-confident-last", f"{FULL} --limit 9 --selector-model scripted"),
        adapt("gradient-matching,best-of-n", f"{FULL} --selector-model tiny", model="scripted", out="more"),
    ],
    "own-selector": [
        adapt("./mine.py:Mine,./mine.py:Mine:reverse=true,order=nearest-last", FULL),
        *[f"{command} --allow-code" for command in asked()],
    ],
    # Stopped and resumed
    "resumed": [
        "killed:" + adapt(SURVIVES, FULL),
        adapt(SURVIVES, FULL),
        adapt(SURVIVES, FULL, out="whole"),
    ],
    "resumed-training": [
        "killed:" + adapt("icl+ft:k=2,lr=1e-3/1e-2,steps=2"),
        adapt("icl+ft:k=2,lr=1e-3/1e-2,steps=2"),
        adapt("icl+ft:k=2,lr=1e-3/1e-2,steps=2", out="whole"),
    ],
    "budget": [
        adapt("zero-shot,random,bm25", "--limit 18 --budget 4k-tokens"),
        adapt("zero-shot,random,bm25"),
        adapt("zero-shot,random,bm25"),
        adapt("zero-shot", "--budget 0.1k-tokens", out="more"),
        adapt(f"zero-shot,fine-tune:{TRAINING}", "--budget 3k-tokens", out="less"),
    ],
    # The rest
    "new-process": [
        adapt("zero-shot,bm25:calibration=none"),
        "new:predict run inputs.jsonl --json",
        "new:evaluate run words --json",
    ],
    "predict": [
        adapt("random"),
        "predict run inputs.txt",
        "predict run inputs.jsonl",
        "predict run inputs.jsonl --json",
        "predict run inputs.csv --columns input=question --json",
        "evaluate run words",
        "evaluate run words/test.jsonl --json",
    ],
    "dry-run": [
        adapt(f"zero-shot,best-of-n,majority,icv,fine-tune:{TRAINING}", "--dry-run --limit 8"),
        adapt("random,tfidf-lr", "--dry-run", task="generation"),
    ],
    "told": [
        "recipes --json",
        "recipes",
        "validate words --model tiny --json",
        "validate qa --model scripted",
        "validate parity.csv --columns input=question,output=answer --json",
    ],
    "refused": [
        adapt("randon"),
        adapt("random:k=0"),
        adapt("random:size=3"),
        adapt("random,random"),
        adapt("random:order=best"),
        adapt("random:calibration=platt"),
        adapt("icv", model="scripted"),
        adapt("fine-tune:lr=-1"),
        adapt("fine-tune:steerer=icw"),
        adapt("icl+ft:loss=first"),
        adapt("less:epochs=0"),
        adapt("best-of-n:n=1"),
        adapt("random", "--source other"),
        adapt("random", "--budget soon"),
        adapt("all", model="./nowhere"),
        adapt("all", task="no-such"),
        adapt("random"),
        adapt("random", "--seed 1"),
        "merge run --out whole",
        "predict words inputs.txt",
        "evaluate run other --json",
        "select words --selector icv -k 2",
    ],
}

# The tasks

WORDS = {
    "animal": ("cat", "dog", "horse", "cow", "sheep", "goat"),
    "food": ("bread", "cheese", "apple", "soup", "rice", "cake"),
    "tool": ("hammer", "saw", "drill", "wrench", "pliers", "axe"),
}
MINE = '''
from dataclasses import dataclass, replace

import kshot


@dataclass(frozen=True)
class Mine(kshot.Selector):
    """Show the shortest examples."""

    reverse: bool = False
    _order: tuple[int, ...] = ()

    per_query = False

    def fit(self, pool, *, model, rng):
        order = sorted(range(len(pool)), key=lambda i: (len(pool[i].input), pool[i].input), reverse=self.reverse)
        return replace(self, _order=tuple(order))

    def select(self, question, k, *, rng):
        return list(self._order[:k])
'''
TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def labelled_rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Return `n` made-up texts with their labels, all different, the labels in turn."""
    rows = []
    for i in range(start, start + n):
        label = list(WORDS)[i % 3]
        first, second = WORDS[label][i // 3 % 6], WORDS[label][(i // 3 * 5 + 1) % 6]
        rows.append({"input": f"the {first} and the {second}, number {i}", "output": label})
    return rows


def open_row(kind: str, i: int) -> tuple[dict[str, Any], str, str]:
    """Return a row, what is found in it alone, and what the scripted model answers: right, nearly right or wrong."""
    if kind == "generation":
        key, row, near = f"hats{i}.", {"input": f"Say it: hats{i}.", "output": f"there are {i} hats"}, f"There are {i}"
    elif kind == "qa":
        key, near = f"note{i}?", f"r{i}, stream!"
        row = {"input": f"Which river is in note{i}?", "output": f"the river R{i}", "context": f"Note {i}: river R{i}."}
        row["references"] = [row["output"], f"R{i} (a stream)"]
    elif kind == "math":
        key, near = f"case{i}?", f"It is {1000 + 2 * i}.0, sir."
        row = {"input": f"What is a thousand and twice case{i}?", "output": f"{i} + {i} is 1,{2 * i:03d}"}
    else:
        key, row = f"city{i},", {"input": f"weather in city{i}, please", "output": f"[GET [CITY C{i} ] ]"}
        near = f"[get [city c{i} ] ]"
    return row, key, (row["output"], near, "no 5 idea")[i % 3]


def write_task(folder: Path, rows: list[dict[str, Any]], n_test: int = 0, card: dict[str, Any] | None = None) -> None:
    """Write a task folder whose last rows are those of the test."""
    folder.mkdir()
    for name, part in {"train": rows[: len(rows) - n_test], "test": rows[len(rows) - n_test :]}.items():
        if part:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    if card:
        (folder / "task.json").write_text(json.dumps(card))


def write_data(folder: Path, commands: str) -> None:
    """Write the tasks and other files that the cases name, and the models among them where `commands` do."""
    write_task(folder / "words", labelled_rows(30), 6)
    write_task(folder / "few", labelled_rows(12), 3)
    write_task(folder / "other", [r | {"input": r["input"].upper()} for r in labelled_rows(16, start=40)], 4)
    write_task(folder / "instructed", labelled_rows(26), 2, {"instruction": "Name the kind {of} thing."})
    quiz, letters = [], []
    for i in range(16):
        choices = [str(i + j) for j in range(2 + i % 3)]
        quiz.append({"input": f"what is {i} and 1?", "output": str(i + 1), "choices": choices})
        listed = " ".join(f"({'ABCD'[j]}) {c}" for j, c in enumerate(choices))
        letters.append(
            {"input": f"what is {i} and {i % 2}? {listed}", "output": f"({'AB'[i % 2]})", "choices": choices}
        )
    write_task(folder / "quiz", quiz, 3)
    write_task(folder / "letters", letters, 3)
    for kind in ("generation", "qa", "math", "parsing"):
        found = [open_row(kind, i) for i in range(32)]
        write_task(folder / kind, [row for row, *_ in found], 4, {"kind": kind, "instruction": "Answer."})
        (folder / f"{kind}.json").write_text(json.dumps({key: text for _, key, text in found}))
    lines = ["question,answer", *(f"what is {i},{'odd' if i % 2 else 'even'}" for i in range(8))]
    (folder / "parity.csv").write_text("\n".join(lines))
    inputs = ["the cat and the axe", "rice", "which goat, which horse?", "the saw, number 3"]
    (folder / "inputs.txt").write_text("\n".join(inputs))
    (folder / "inputs.jsonl").write_text("".join(json.dumps({"input": t, "id": t[:6]}) + "\n" for t in inputs))
    (folder / "inputs.csv").write_text("question\n" + "\n".join(f'"{t}"' for t in inputs))
    (folder / "mine.py").write_text(MINE)
    (folder / "run.yaml").write_text("model: tiny\nrecipes: random,zero-shot\nshots: 3\nlimit: 9\nout: from-file\n")
    if "encoder=encoder" in commands:
        from encoders import make_tiny_encoder

        Path(make_tiny_encoder(folder / "made")).rename(folder / "encoder")
    if "./chat" in commands:
        write_chat_model(folder / "chat")


def write_chat_model(folder: Path) -> None:
    """Write a chat model of two layers whose tokens are bytes and the marks of its template."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(name, special=True, normalized=False) for name in ("<|im_end|>", "<|im_start|>")]
    tokenizer.add_special_tokens(marks)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    wrapped.chat_template = TEMPLATE
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(wrapped), max_position_embeddings=2048, bos_token_id=None, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)


# Records

DROPPED = {
    *("seconds", "fit_seconds", "query_ms", "ms", "minutes", "elapsed", "environment", "kshot_version", "python"),
    *("format", "kshot", "repeat", "run", "fingerprint", "chat_template", "n-samples"),
}
DIGEST = re.compile(r"[0-9a-f]{12,128}")
SAMPLE = ("example_id", "answer", "probs", "log_probs", "prompt_tokens", "tokens", "demonstrations", "dropped")
AGAIN = ("example_id", "answer", "log_probs", "demonstrations")


def cleaned(value: Any, folder: str) -> Any:
    """Return a value without times, places, versions and digests."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in DROPPED}
        if "parts" in kept:  # a recipe's record
            kept = {"name": kept["name"], "k": kept["k"]}
        return {k: cleaned(v, folder) for k, v in kept.items() if not (isinstance(v, str) and DIGEST.fullmatch(v))}
    if isinstance(value, list):
        return [cleaned(item, folder) for item in value]
    if isinstance(value, str):
        return re.sub(r"\bhere about \d+s", "here about …s", value.replace(folder, ""))
    return value


def columns(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, dict[str, list[Any]]]:
    """Return the essential of sample rows: for each recipe a list for each name, unless there is nothing in it."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        row = row | {"demonstrations": " ".join(row["demonstrations"])}
        recipe = found.setdefault(row["recipe"], {name: [] for name in names})
        for name in names:
            recipe[name].append(row[name])
    return {recipe: {k: v for k, v in lists.items() if any(v)} for recipe, lists in found.items()}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


def left_behind(folder: Path) -> dict[str, Any]:
    """Return what a run or an adapted model has left in its folder."""
    found: dict[str, Any] = {"files": sorted(f.name for f in folder.iterdir() if not f.name.startswith("."))}
    for file in (folder / "results.json", folder / "best" / "kshot.json"):
        if file.exists():
            found[file.name] = json.loads(file.read_text("utf-8"))
            found[file.name].pop("notes", None)  # of loops
            found[file.name].pop("sha256", None)  # of a record that holds times
    for name, kept in {"samples": SAMPLE, "second_look": AGAIN}.items():
        if (folder / f"{name}.jsonl").exists():
            found[name] = columns(read_rows(folder / f"{name}.jsonl"), kept)
    if (folder / "best").exists():
        found["best"] = sorted(f.name for f in (folder / "best").iterdir())
        rows = read_rows(folder / "best" / "demonstrations.jsonl")
        found["demonstrations"] = [" ".join(str(v) for k, v in row.items() if k != "input") for row in rows]
    for file in sorted(folder.glob("iteration-*/*.jsonl")):  # of a retriever
        found[f"{file.parent.name}/{file.name}"] = read_rows(file)
    if (folder / "prompts.json").exists():
        sent = json.loads((folder / "prompts.json").read_text("utf-8"))
        text = json.dumps(sent, sort_keys=True).encode()
        rows = {name: len(rows) for name, rows in sent["rows"].items()}
        found["prompts"] = [f"sha256 {hashlib.sha256(text).hexdigest()}", rows]
    return found


def run_here(args: list[str]) -> tuple[int, str, str]:
    """Run a command in this process, which has asked no model before; return exit code, stdout and stderr."""
    from typer.testing import CliRunner

    from kshot.cli.main import app
    from kshot.evaluators import forgetting

    forgetting._BEFORE.clear()
    result = CliRunner().invoke(app, args)
    return result.exit_code, result.stdout, result.stderr


def run_in_a_process(args: list[str]) -> tuple[int, str, str]:
    """Run a command in a process of its own."""
    done = subprocess.run([*NEW_PROCESS, *args], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def run_killed(args: list[str]) -> tuple[int, str, str]:
    """Run a command and kill it once its store has something, wherever it is then."""
    place, quiet = Path(args[args.index("--out") + 1]), subprocess.DEVNULL
    with subprocess.Popen([*NEW_PROCESS, *args], stdout=quiet, stderr=quiet) as process:
        while not (place / "store.sqlite").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    return 0, "", ""


WAYS: dict[str, Callable[[list[str]], tuple[int, str, str]]] = {"new": run_in_a_process, "killed": run_killed}


def printed(text: str) -> Any:
    """Return what was printed, read where it is JSON: a value, or a list of lines."""
    lines = text.splitlines()
    try:
        found = [json.loads(line) for line in lines]
    except ValueError:
        return lines
    return found[0] if len(found) == 1 else found


def run_case(name: str, folder: Path) -> dict[str, Any]:
    """Run the commands of a case in an empty folder and return the record, as JSON has it."""
    folder = folder.resolve()
    write_data(folder, " ".join(CASES[name]))
    is_killed = any(line.startswith("killed:") for line in CASES[name])
    record: dict[str, Any] = {}
    with chdir(folder):
        for n, line in enumerate(CASES[name], 1):
            way, _, command = line.partition(":")
            run = WAYS.get(way, run_here)
            code, out, err = run(shlex.split(line if run is run_here else command))
            told: dict[str, Any] = {"code": code, "out": printed(out)}
            if code:
                told["error"] = err.strip().rpartition("error: ")[2].split("\n")
            if is_killed and isinstance(told["out"], dict):
                told["out"].pop("work")  # what had been scored before the end is not told
            record[f"{n}: {line}"] = cleaned(told, f"{folder}/")
    for place in sorted(p for p in folder.iterdir() if (p / "results.json").exists() or (p / "iteration-1").exists()):
        record[f"in {place.name}"] = cleaned(left_behind(place), f"{folder}/")
    boards = [kept["results.json"]["leaderboard"] for kept in record.values() if "results.json" in kept]
    for told in record.values():
        if isinstance(told.get("out"), dict) and told["out"].get("leaderboard") in boards:
            told["out"]["leaderboard"] = "as in results.json"
    if is_killed and record["in run"] == record["in whole"]:
        record["in whole"] = "as in run"
    return json.loads(json.dumps(record))


# Comparison


def differences(expected: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each path at which two records differ, with both values."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            yield from differences(expected.get(key, "(nothing)"), found.get(key, "(nothing)"), f"{path}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, f"{path}/{i}")
    elif expected != found or type(expected) is not type(found):
        yield path, expected, found


def shown(value: Any) -> str:
    """Return a value as a short text."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def run_all(names: list[str], target: Path) -> None:
    """Run cases and write their records, with the seconds that each took."""
    found = {}
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                record = run_case(name, Path(folder))
            except Exception as error:  # the other cases still tell something
                record = {"failed": f"{type(error).__name__}: {str(error)[:2000]}"}
        found[name] = [record, time.monotonic() - began]
    target.write_text(json.dumps(found))


def run_in_two(names: list[str]) -> dict[str, tuple[dict[str, Any], float]]:
    """Run cases in two processes at once."""
    with tempfile.TemporaryDirectory() as folder:
        targets = [Path(folder) / str(i) for i in range(min(2, len(names)))]
        command = [sys.executable, __file__, "--part"]
        parts = [
            subprocess.Popen([*command, str(target), *names[i :: len(targets)]]) for i, target in enumerate(targets)
        ]
        if any([part.wait() for part in parts]):
            raise SystemExit("the cases could not be run")
        found = {name: pair for target in targets for name, pair in json.loads(target.read_text()).items()}
    return {name: tuple(found[name]) for name in names}


def main() -> int:
    """Compare, or record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases; all by default")
    parser.add_argument("--record", action="store_true", help="write what is found to golden.json")
    parser.add_argument("--times", action="store_true", help="tell how long each case took")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.names or list(CASES)
    if args.part:
        run_all(names, args.part)
        return 0
    found = run_in_two(names)
    golden = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    if args.times:
        for name, (_, seconds) in found.items():
            print(f"{name:26} {seconds:5.1f} s")
    if args.record:
        golden |= {name: record for name, (record, _) in found.items()}
        texts = {n: json.dumps(golden[n], ensure_ascii=False, separators=(",", ":")) for n in CASES if n in golden}
        lines = [f"{json.dumps(name)}:{text}" for name, text in texts.items()]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
        return int(any("failed" in record for record, _ in found.values()))
    n_differing = 0
    for name, (record, _) in found.items():
        differing = list(differences(golden.get(name, "(no such case)"), record))
        n_differing += bool(differing)
        if differing:
            print(f"\n{name}: {len(differing)} differences")
        for path, expected, now in differing[:10]:
            print(f"  {path}\n    was {shown(expected)}\n    now {shown(now)}")
    print(f"{len(found) - n_differing} of {len(found)} cases are as recorded")
    return int(n_differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
