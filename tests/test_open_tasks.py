"""Tasks whose answers are texts: raced by bits, measured by the texts written at checkpoints, of every kind."""

import json
import re
import string
from dataclasses import replace

import numpy as np
import pytest

import kshot
from conftest import plain_prompt, write_task
from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.types import Example, GenerateRequest, Query, ScoreRequest, Task
from kshot.engine.language_model import Engine
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.samples import sample_row
from kshot.methods.classifiers import CLASSIFIERS
from kshot.methods.combiners import COMBINERS
from kshot.methods.steerers import STEERERS
from kshot.methods.tuners import TUNERS
from kshot.models.hf import Backbone
from kshot.models.scripted import ScriptedModel
from kshot.race.halving import slices
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.names import known_recipes
from kshot.taskmodel.taskmodel import TaskModel

KINDS = ("generation", "qa", "math", "parsing")
METRIC = {"generation": "exact_match", "qa": "exact_match", "math": "exact_match_number", "parsing": "exact_match"}
RECIPES = "zero-shot,random,bm25:order=label-interleaved,majority,tfidf-lr"
N, N_TEST = 28, 6
WITH_TEXT = [*range(4, 24)]  # of 28: 4..7, 8..15, 16..23; not the last four, as 24 is no checkpoint


def row_of(kind, i):
    """Return a made-up row and what the table model answers to it: right, right by the kind's rules only, or wrong."""
    if kind == "generation":
        output = f"there are {i} hats"
        row, near = {"input": f"Say it slowly: hats{i}."}, output.upper()
    elif kind == "qa":
        output = f"the river R{i}"
        row = {"input": f"Which river is meant in note{i}?", "context": f"Note {i}: ships go up the river R{i}."}
        row["references"], near = [output, f"R{i} (a stream)"], f"r{i}, stream!"
    elif kind == "math":
        output = f"{i} + {i} is 1,{2 * i:03d}"
        row, near = {"input": f"What is a thousand and twice case{i}?"}, f"It is {1000 + 2 * i}.0, sir."
    else:
        output = f"[GET [CITY C{i} ] ]"
        row, near = {"input": f"weather in city{i}, please"}, f"[get [city c{i} ] ]"
    return {**row, "output": output, "id": f"{kind}-{i}"}, (output, near, "no 5 idea")[i % 3]


def tasks_of(kind):
    """Return rows and table of a made-up task."""
    found = [row_of(kind, i) for i in range(N + N_TEST)]
    keys = [re.search(r"(hats|note|case|city)\d+\S*", row["input"]).group() for row, _ in found]
    return [row for row, _ in found], {key: text for key, (_, text) in zip(keys, found, strict=True)}


def squad_words(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in text.split() if word not in ("a", "an", "the")]


def score_by_hand(kind, references, answer):
    if kind == "qa":
        return any(squad_words(answer) == squad_words(r) for r in references)
    if kind == "math":
        numbers = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))] for text in references]
        mine = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", answer.replace(",", ""))]
        return bool(mine) and any(n[-1] == mine[-1] for n in numbers)
    return answer in references


def adapt_args(task, out, *more, model="scripted", recipes=RECIPES):
    return ("adapt", task, "--model", model, "--recipes", recipes, "--shots", 4, "--out", out, *more)


@pytest.fixture(scope="module", params=KINDS)
def finished(request, run_cli, tmp_path_factory):
    """A finished run of a kind: kind, task folder, run folder, what was printed, its sample rows by recipe, table."""
    kind, folder = request.param, tmp_path_factory.mktemp("open")
    rows, table = tasks_of(kind)
    task = write_task(folder / "task", rows[:N], rows[N:], card={"kind": kind, "instruction": "Answer."})
    (folder / "table.json").write_text(json.dumps(table))
    done = run_cli(*adapt_args(task, folder / "run", "--json", model=f"scripted:{folder / 'table.json'}"))
    samples = {}
    for line in (folder / "run" / "samples.jsonl").read_text("utf-8").splitlines():
        samples.setdefault(json.loads(line)["recipe"], []).append(json.loads(line))
    return kind, task, folder / "run", done.json, samples, table


# Through the command line


def test_the_leaderboard(finished):
    _, _, _, printed, samples, _ = finished
    board = printed["leaderboard"]
    assert {row["recipe"] for row in board[3:]} == {"tfidf-lr", "majority"}
    assert [row["status"] for row in board] == ["done"] * 3 + ["not-applicable"] * 2
    assert all(row["metric"] is None for row in board[3:])
    assert {(row["n"], row["metric_n"]) for row in board[:3]} == {(N, len(WITH_TEXT))}
    assert [row["bits_per_example"] for row in board[:3]] == sorted(row["bits_per_example"] for row in board[:3])
    assert printed["chosen"] == board[0]["recipe"]
    assert all(row["deployed"] is None and row["deployed_bits"] is not None for row in board[:3])
    assert set(samples) == {row["recipe"] for row in board[:3]}


def test_texts_are_written_behind_checkpoints(finished):
    _, _, _, _, samples, table = finished
    for rows in samples.values():
        assert [row["position"] for row in rows] == [*range(N)]
        assert [row["position"] for row in rows if row["answer"] is not None] == WITH_TEXT
        assert all((row["score"] is None) == (row["answer"] is None) for row in rows)
        assert not any(row["cut_off"] for row in rows)
        assert all(row["candidates"] == [row["gold"]] for row in rows)
        for row in rows:  # the table knows every row, whatever is shown
            assert row["answer"] in (None, *table.values())


def test_the_metric_is_that_of_the_texts(finished):
    kind, _, folder, printed, samples, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["leaderboard"] == printed["leaderboard"]
    assert results["chosen"] == printed["chosen"]
    for board in printed["leaderboard"][:3]:
        rows = [row for row in samples[board["recipe"]] if row["answer"] is not None]
        scores = [score_by_hand(kind, row["references"], row["answer"]) for row in rows]
        assert [row["score"] for row in rows] == scores
        assert board["metric"] == pytest.approx(np.mean(scores))
        assert board["metric_low"] < board["metric"] < board["metric_high"]
        values = results["results"][f"task|{board['recipe']}"]
        assert values[f"{METRIC[kind]},none"] == board["metric"]
        assert values["bits_per_example,none"] == board["bits_per_example"]
    near = {"generation": 1, "qa": 2, "math": 2, "parsing": 1}[kind]  # how many of three answers the rules accept
    assert np.mean(scores) == pytest.approx(near / 3, abs=0.1)


def test_the_bits_are_those_of_the_known_answer(finished):
    _, _, _, printed, samples, table = finished
    for board in printed["leaderboard"][:3]:
        rows = samples[board["recipe"]]
        for row in rows:
            believed = next(text for key, text in table.items() if row_key(row) == key)
            assert row["bits"] == pytest.approx(-np.log2(0.9 if believed == row["gold"] else 0.1))
            assert row["probs"] == pytest.approx([2 ** -row["bits"]])
        assert board["bits_per_example"] == pytest.approx(np.mean([row["bits"] for row in rows]))


def row_key(row):
    """Return the table's key of a sample row, from its id."""
    kind, i = row["example_id"].split("-")
    return {"generation": f"hats{i}.", "qa": f"note{i}?", "math": f"case{i}?", "parsing": f"city{i},"}[kind]


def test_predict_writes_the_texts(finished, run_cli, tmp_path):
    kind, task, folder, _, _, table = finished
    rows = [json.loads(line) for line in (task / "test.jsonl").read_text().splitlines()]
    expected = [table[row_key({"example_id": row["id"]})] for row in rows]
    plain = run_cli("predict", folder, task / "test.jsonl")
    assert (plain.code, plain.out.splitlines()) == (0, expected)
    printed = run_cli("predict", folder, task / "test.jsonl", "--json").json["predictions"]
    told = {"probs": {}, "cut_off": False}
    assert printed == [{"id": r["id"], "answer": text, **told} for r, text in zip(rows, expected, strict=True)]
    loaded = kshot.load(folder)
    assert loaded.predict([row["input"] for row in rows]) == expected
    with pytest.raises(UserError, match=f"predict_proba needs a task with labels or choices; this one is {kind}."):
        loaded.predict_proba(["x"])


def test_evaluate_takes_the_best_reference(finished, run_cli):
    kind, task, folder, _, _, table = finished
    rows = [json.loads(line) for line in (task / "test.jsonl").read_text().splitlines()]
    texts = [table[row_key({"example_id": row["id"]})] for row in rows]
    scores = [score_by_hand(kind, row.get("references", [row["output"]]), text)
              for row, text in zip(rows, texts, strict=True)]  # fmt: skip
    bits = [-np.log2(0.9 if text == row["output"] else 0.1) for row, text in zip(rows, texts, strict=True)]
    for source in (task, task / "test.jsonl"):
        found = run_cli("evaluate", folder, source, "--json").json
        assert found["n"] == N_TEST
        assert found["metric_name"] == METRIC[kind]
        assert found["metric"] == pytest.approx(np.mean(scores))
        assert found["bits_per_example"] == pytest.approx(np.mean(bits))
        assert found["low"] < found["metric"] < found["high"]
    assert sum(scores) == {"generation": 2, "qa": 4, "math": 4, "parsing": 2}[kind]


def test_without_json_people_can_read_it(finished, run_cli):
    kind, task, folder, printed, _, _ = finished
    again = run_cli(*adapt_args(task, folder, model=f"scripted:{folder.parent / 'table.json'}"))
    assert again.code == 0
    best = printed["leaderboard"][0]
    told = " ".join(again.out.split())
    assert (
        f"{best['recipe']} was chosen: once it knows all {N} examples it is expected to cost "
        f"{best['deployed_bits']:.2f} bits an answer on new inputs (95 % interval: {best['deployed_bits_low']:.2f} to "
        f"{best['deployed_bits_high']:.2f})." in told
    )
    assert f" {len(WITH_TEXT)} of {N} " in told
    assert "not-applicable" in again.out
    assert "\nmajority, tfidf-lr: it is not for tasks of kind " in again.out


def test_a_finished_run_computes_nothing_again(finished, run_cli):
    _, task, folder, printed, _, _ = finished
    args = adapt_args(task, folder, "--json", model=f"scripted:{folder.parent / 'table.json'}")
    again = run_cli(*args).json
    assert again["work"]["scored"] == 0
    assert again["leaderboard"] == printed["leaderboard"]


def test_predictions_of_a_row_without_its_answer_are_those_with_it(finished):
    """What is known of a test row does not reach its text."""
    _, task, folder, _, _, _ = finished
    adapted, rows = kshot.load(folder), Task.load(task).test
    known = adapted.predictions(rows)
    unknown = adapted.predictions([replace(e, output="", references=()) for e in rows])
    assert [p.answer for p in known] == [p.answer for p in unknown]
    assert [p.demonstrations for p in known] == [p.demonstrations for p in unknown]
    assert [p.log_probs for p in unknown] == [()] * N_TEST
    assert all(len(p.log_probs) == 1 for p in known)


def test_predict_counts_what_it_does():
    """Of inputs without an output nothing is scored; their texts are what counts."""
    told = []
    task = made(10)
    setup = Setup(task, TaskModel.for_task(task, ScriptedModel()), 0)
    learner = make_learner(parse_recipe("zero-shot", shots=2), setup)
    mixed = [task.train[0], replace(task.train[1], output=""), replace(task.train[2], output="")]
    learner.predict([Query(e, (), wants_text=True) for e in mixed], progress=told.append)
    assert sum(told) == 3


# Made in Python


def made(n, kind="generation"):
    rows = [row_of(kind, i)[0] for i in range(n)]
    return Task("made", kind, tuple(Example(r["input"], r["output"], r["id"]) for r in rows), metrics=(METRIC[kind],))


class Torn(ScriptedModel):
    """Writes the right text behind demonstrations, but finds the right answer likelier without them."""

    def with_store(self, store):
        return self

    def _answer(self, request):
        return np.log([0.5 if len(request.prompt.segments) == 1 else 0.1])

    def _text(self, request):
        text = super()._text(request)
        number = re.search(r"\d+", request.prompt.segments[-1].text).group()
        return replace(text, text=f"there are {number} hats" if len(request.prompt.segments) > 1 else "no")


def test_open_tasks_are_chosen_by_bits(tmp_path):
    run = kshot.adapt(made(12), Torn(), recipes="random,zero-shot", shots=2, out=tmp_path)
    assert [(row["recipe"], row["metric"]) for row in run.leaderboard] == [("zero-shot", 0), ("random", 1)]
    assert run.chosen == "zero-shot"
    choice = json.loads((tmp_path / "best" / "kshot.json").read_text())["choice"]
    assert choice["by"] == "bits as expected once all examples are known"


def checkpoints(n):
    """Return the positions whose texts are written, as documented: the first 8 from each of 4, 8, 16, …"""
    starts = [4 * 2**j for j in range(8)]
    return [i for i in range(n) if any(s <= i < min(s + 8, 2 * s) for s in starts)] or [n - 1]


@pytest.mark.parametrize(("n", "some"), [(1, [0]), (2, [1]), (4, [3]), (5, [4]), (9, [4, 5, 6, 7, 8]), (150, None)])
def test_which_texts_are_written(n, some):
    examples = tuple(Example(f"x{i}", f"y{i}", f"{i}") for i in range(n))
    stream = make_stream(Task("t", "generation", examples), limit=n, seed=0)
    found = [i for i, query in enumerate(stream.queries()) if query.wants_text]
    assert found == checkpoints(n) == (some or found)
    assert [len(query.past) for query in stream.queries()] == [*range(n)]


def predictions(name, stream, task, model, *, seed=0):
    queries = [Query(e, stream[:i], wants_text=i % 3 > 0) for i, e in enumerate(stream)]
    recipe = parse_recipe(name, shots=3)
    asked = TaskModel.for_task(task, kshot.load_model("tiny")) if recipe.selector_needs else None
    setup = Setup(task, TaskModel.for_task(task, model), seed, selector_model=asked)
    found = make_learner(recipe, setup).predict(queries)
    return [replace(p, seconds=0, fit_seconds=0) for p in found]


GRADIENTS = ("gradient-matching", "less")
SMALLER = {
    **dict.fromkeys(GRADIENTS, ",epochs=1,snapshots=1"),
    "ease": ",evaluations=8,starts=4,candidates=8,kept=4,steps=5,queries=4",
    "evolution": ",evaluations=8,queries=4",
}
# Others: test_steered_runs.py, test_combinations.py, test_supportive.py
OTHERS = (*CLASSIFIERS, *STEERERS, *COMBINERS, "supportive")
LEARNERS = [name for name in known_recipes() if name not in OTHERS]


def is_quick(name: str, order: str) -> bool:
    """Orders are the same code for every selector; where nothing is said of it, it is as selected."""
    return name not in (*TUNERS, "less") and (order == "as-selected" or name in ("random", "gradient-matching"))


@pytest.mark.parametrize(
    ("name", "order"),
    [pytest.param(name, order, marks=[] if is_quick(name, order) else [pytest.mark.slow])
     for name in LEARNERS for order in ("as-selected", "shuffled", "nearest-last", "label-interleaved")
     if name not in (*TUNERS, *GRADIENTS) or order == "nearest-last"],
)  # fmt: skip
def test_texts_and_demonstrations_rest_on_the_past_alone(name, order):
    rng = np.random.default_rng(1)
    nouns = [" and ".join(rng.choice(("hats", "cats", "rats", "bats", "mats"), 2).tolist()) for _ in range(18)]
    examples = tuple(Example(f"the {noun} of {i}", f"{i} {noun}", f"e{i}") for i, noun in enumerate(nouns))
    task = Task("nouns", "generation", examples, metrics=("exact_match",))
    recipe = name if name == "zero-shot" else f"{name}:order={order}"
    recipe += SMALLER.get(name, "")
    model = ScriptedModel()  # reads its demonstrations: another choice would be another text
    if name in TUNERS:
        recipe, model = f"{recipe},lr=1e-3/1e-2,steps=1", kshot.load_model("tiny")
    before = predictions(recipe, task.train, task, model)
    assert len({p.answer for p in before}) > 3 or name == "zero-shot"
    for cut in (13,) if name in TUNERS else (4, 13):
        own = replace(task.train[cut], output="many caps")
        future = [
            replace(e, input=f"{e.input} x", output=f"{i} there") for i, e in enumerate(task.train[cut + 1 : cut + 4])
        ]
        after = predictions(recipe, (*task.train[:cut], own, *future), task, model)
        assert after[:cut] == before[:cut]  # made again, they are the same
        kept = ("answer", "demonstrations", "prompt_tokens", "dropped", "cut_off")
        assert all(getattr(after[cut], k) == getattr(before[cut], k) for k in kept)
        assert after[cut].candidates == (own.output,)


def test_the_bits_do_rest_on_the_own_output():
    task = made(10)
    tiny = kshot.load_model("tiny")
    turned = (*task.train[:9], replace(task.train[9], output="there are 9 bats"))
    before, after = (predictions("bm25", stream, task, tiny) for stream in (task.train, turned))
    assert after[:9] == before[:9]
    assert after[9].log_probs != before[9].log_probs


@pytest.mark.parametrize("name", ["random", "bm25", "zero-shot"])
def test_bits_and_texts_are_the_models_own(name):
    """Answer and terminator are scored; the text ends before the terminator."""
    task, tiny = made(8), kshot.load_model("tiny")
    model = TaskModel.for_task(task, tiny)
    known = {e.id: e for e in task.train}
    for query, found in zip(task.train, predictions(name, task.train, task, tiny), strict=True):
        prompt = plain_prompt(task, [known[i] for i in found.demonstrations], query)
        (log_probs,) = tiny.score([ScoreRequest(prompt, (f" {query.output}\n\n",))])
        assert found.log_probs == pytest.approx(log_probs.tolist(), abs=1e-4)
        assert found.probs == pytest.approx(np.exp(log_probs).tolist(), rel=1e-3)
        assert found.prompt_tokens == len(prompt.text.encode()) + 1
        if found.answer is not None:
            (text,) = tiny.generate([GenerateRequest(prompt, model.answer_tokens, ("\n\n",))])
            assert (found.answer, found.cut_off) == (text.text.strip(), not text.finished)


def test_the_most_tokens_of_an_answer_are_a_quarter_more_than_those_of_the_longest_known():
    tiny = kshot.load_model("tiny")
    longest = max(len(f" {e.output}\n\n".encode()) for e in made(12).train)
    assert TaskModel.for_task(made(12), tiny).answer_tokens == longest + longest // 4 + 8
    short = replace(made(4), train=(Example("a", "b", "1"), Example("c", "d", "2")))
    assert TaskModel.for_task(short, tiny).answer_tokens == 16
    long = replace(short, train=(*short.train, Example("e", "f" * 900, "3")))
    assert TaskModel.for_task(long, tiny).answer_tokens == 1024


class Said(Silence):
    """Remembers what a user is told."""

    def __init__(self):
        self.told = []

    def say(self, text):
        self.told.append(text)


def test_a_text_that_never_ends_is_cut_and_said(tmp_path):
    progress = Said()
    kshot.adapt(made(12), "tiny", recipes="zero-shot,random", shots=2, out=tmp_path, progress=progress)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    for name in ("zero-shot", "random"):
        mine = [row for row in rows if row["recipe"] == name]
        n_cut = sum(row["cut_off"] for row in mine)
        assert n_cut > 0
        assert not any(row["cut_off"] for row in mine if row["answer"] is None)
        told = [text for text in progress.told if text.startswith(f"{name}: ")]
        assert told == [
            f"{name}: {n_cut} of 8 generated answers did not end within 33 tokens and were cut "
            "(`cut_off` in samples.jsonl)"
        ]


def test_the_seed_decides_everything(tmp_path, recorded):
    def record(folder, seed):
        kshot.adapt(made(12), "tiny", recipes="random:order=shuffled", shots=3, seed=seed, out=tmp_path / folder)
        return recorded(tmp_path / folder)

    first, again, other = record("a", 0), record("b", 0), record("c", 1)
    assert first == again
    assert [r["example_id"] for r in other["samples.jsonl"]] != [r["example_id"] for r in first["samples.jsonl"]]


def test_a_metric_over_all_texts_together(tmp_path):
    """BLEU and its like are no means of rows, and have bootstrap intervals."""
    task = replace(made(20), metrics=("rougeL", "exact_match"))
    table = {f"hats{i}.": f"there are {'some' if i % 2 else i} hats" for i in range(20)}
    run = kshot.adapt(task, ScriptedModel(table), recipes="zero-shot", shots=2, out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert set(scores) == {1.0, 0.75}  # 3 of 4 words
    (board,) = run.leaderboard
    assert board["metric"] == pytest.approx(np.mean(scores))
    assert board["metric_low"] <= board["metric"] <= board["metric_high"]
    assert (board["metric_n"], board["n"]) == (16, 20)


def test_a_sample_row_without_text_has_no_score():
    task = made(3)
    (found,) = predictions("zero-shot", task.train[:1], task, ScriptedModel())
    row = sample_row(task, "zero-shot", 0, task.train[0], found)
    assert (row["answer"], row["score"]) == (None, None)
    assert row["bits"] == pytest.approx(-np.log2(0.1))


# A dry run


@pytest.fixture
def no_network(monkeypatch):
    """Fail wherever a model is run; how it is packed is taken as tried."""

    def refuse(*_, **__):
        raise AssertionError("a dry run must not run the model")

    monkeypatch.setattr(Engine, "obstacle", None)
    monkeypatch.setattr("kshot.verbs.plan.tokens_per_second", lambda *_: 100.0)
    for name in ("packed_logits", "plain_logits"):
        monkeypatch.setattr(Backbone, name, refuse)


def test_a_dry_run_counts_scores_and_texts(no_network, run_cli, tmp_path):
    rows, _ = tasks_of("generation")
    task = write_task(tmp_path / "task", rows[:N], card={"kind": "generation"})
    args = adapt_args(task, tmp_path / "run", "--dry-run", "--json", model="tiny", recipes="zero-shot,random,majority")
    zero, random, majority = run_cli(*args).json["plan"]
    loaded, tiny = Task.load(task), kshot.load_model("tiny")
    stream = make_stream(loaded, limit=300, seed=0).examples
    prompts = [plain_prompt(loaded, (), e) for e in stream]
    requests = [ScoreRequest(p, (f" {e.output}\n\n",)) for p, e in zip(prompts, stream, strict=True)]
    texts = [ScoreRequest(prompts[i], ("\n",)) if i in WITH_TEXT else None for i in range(N)]
    n_scored = sum(tiny.forward_tokens(requests[i:j]) for i, j in slices(N))
    n_read = sum(tiny.forward_tokens([t for t in texts[i:j] if t]) for i, j in slices(N))
    n_written = len(WITH_TEXT) * TaskModel.for_task(loaded, tiny).answer_tokens
    n_tokens = n_scored + n_read + n_written
    assert zero["minutes"] == pytest.approx(n_tokens / 100 / 60)
    del zero["minutes"]
    assert zero == {"recipe": "zero-shot", "predictions": N, "forward_tokens": n_tokens, "training_steps": 0}
    assert random["forward_tokens"] > zero["forward_tokens"] > majority["forward_tokens"] == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_a_dry_run_of_best_of_n_counts_what_its_choice_costs(no_network, run_cli, tmp_path, kind):
    rows, _ = tasks_of("generation")
    rows = [row | ({"output": "ab"[i % 2]} if kind == "classification" else {}) for i, row in enumerate(rows[:20])]
    task = write_task(tmp_path / "task", rows, card={"kind": kind})
    names = "random,best-of-n,best-of-n:n=9,best-of-n:queries=1"
    args = adapt_args(task, tmp_path / "run", "--dry-run", "--json", model="tiny", recipes=names)
    tokens = {row["recipe"]: row["forward_tokens"] for row in run_cli(*args).json["plan"]}
    assert 0 < tokens["random"] < tokens["best-of-n:queries=1"] < tokens["best-of-n"] < tokens["best-of-n:n=9"]


# A model that chooses


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "answering"), [("generation", "tiny"), ("classification", "table")])
def test_best_of_n_follows_the_selector_model(run_cli, tmp_path, words_task, kind, answering):
    """One model scores all sets alike, so that the first one is kept; another one prefers some."""
    rows, table = tasks_of("generation")
    task = words_task if kind == "classification" else write_task(tmp_path / "task", rows[:24], card={"kind": kind})
    if kind == "classification":
        table = {e.input: e.output for e in Task.load(task).train}
    (tmp_path / "table.json").write_text(json.dumps(table))
    models = {"tiny": "tiny", "table": f"scripted:{tmp_path / 'table.json'}", "reader": "scripted"}

    def shown(name, answering, selecting=None):
        more = ("--selector-model", models[selecting]) if selecting else ()
        args = adapt_args(task, tmp_path / name, *more, "--json", model=models[answering], recipes="best-of-n")
        assert run_cli(*args).json["chosen"] == "best-of-n"
        text = (tmp_path / name / "samples.jsonl").read_text()
        adapted = [e.id for e in kshot.load(tmp_path / name).pool]
        return [json.loads(line)["demonstrations"] for line in text.splitlines()], adapted

    other = {"tiny": "reader", "table": "tiny"}[answering]
    own, judged = shown("own", answering), shown("judged", answering, other)
    assert own != judged == shown("alone", other)
    assert own[0] != judged[0]
    assert shown("same", answering, answering) == own
    manifest = json.loads((tmp_path / "judged" / "manifest.json").read_text())
    assert manifest["selector_model"] == kshot.load_model(models[other]).fingerprint
    refused = run_cli(*adapt_args(task, tmp_path / "judged", model=models[answering], recipes="best-of-n"))
    assert refused.code == 2
    assert "holds a run with another selector model (" in refused.err


def test_select_with_a_model_gives_the_demonstrations_of_the_run(run_cli, words_task, tmp_path):
    model = ("--model", "scripted")
    for order in ("as-selected", "shuffled", "label-interleaved"):
        name = f"best-of-n:order={order}"
        args = adapt_args(words_task, tmp_path / order, recipes=name)
        assert run_cli(*args).code == 0
        picked = run_cli("select", words_task, "--selector", name, "-k", 4, *model)
        assert picked.code == 0, picked.err
        written = (tmp_path / order / "best" / "demonstrations.jsonl").read_text()
        assert [json.loads(line) for line in picked.out.splitlines()] == [json.loads(x) for x in written.splitlines()]
        assert "tokens for 'scripted'" in picked.err
