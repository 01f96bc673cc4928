"""`kshot generate`: rows that can be learnt from, where they come from, and what is said of those that cannot."""

import json
from dataclasses import replace

import pytest

import kshot
from conftest import write_task
from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.learners.learner import Setup
from kshot.models.scripted import ScriptedModel
from kshot.race.second_look import second_look
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.reports.leaderboard import made_in_words
from kshot.taskmodel.taskmodel import TaskModel
from test_generators import IRONY, ROWS, TASK, WEATHER, Planted, said_otherwise


@pytest.fixture
def days(tmp_path):
    """Return a folder with a task, and the name of a scripted model that says its inputs otherwise."""
    card = {"name": "days", "kind": "classification", "labels": TASK.labels, "metrics": ["accuracy"]}
    train, test = ([{"id": e.id, "input": e.input, "output": e.output} for e in s] for s in (ROWS, TASK.test))
    folder = write_task(tmp_path / "days", train, test, card)
    table = {f"Text: {e.input}\nIn other words:": f"in week {i} we had a {e.input.split()[2]} time"
             for i, e in enumerate(ROWS)}  # fmt: skip
    table[f"Text: {ROWS[0].input}\nIn other words:"] = TASK.test[0].input
    table[f"Text: {ROWS[1].input}\nIn other words:"] = "a stormy time"  # which is bad, and not good
    (tmp_path / "model.json").write_text(json.dumps(table | WEATHER))
    return folder, f"scripted:{tmp_path / 'model.json'}"


def test_rows_are_written_that_can_be_learnt_from(days, tmp_path, run_cli):
    folder, model = days
    out = tmp_path / "more" / "train.jsonl"
    done = run_cli("generate", folder, "--model", model, "--method", "rephrase:near=1,rounds=1", "-n", 16, "--out", out)
    assert done.code == 0
    assert "14 of 16 examples made, 2 rejected" in done.err
    assert "it asks what a row of test asks (1)" in done.err
    assert "the model answers otherwise (1)" in done.err
    assert "1 asked what a row of test asks, and were dropped." in done.err
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(rows) == 14
    assert all(row["made"] == "rephrase" and row["from"][0] in {e.id for e in ROWS} for row in rows)
    (out.parent / "task.json").write_text((folder / "task.json").read_text("utf-8"))
    again = Task.load(out.parent)
    assert [e.meta["made"] for e in again.train] == ["rephrase"] * 14
    assert not {e.input for e in again.train} & {e.input for e in TASK.test}
    assert not list(out.parent.glob(".*"))
    alone = run_cli("adapt", out.parent, "--model", model, "--recipes", "zero-shot", "--dry-run")
    assert alone.code == 2
    assert "must have examples that no generator has made: all 14 of" in " ".join(alone.err.split())
    with (out.parent / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write((folder / "train.jsonl").read_text("utf-8"))
    told = run_cli("adapt", out.parent, "--model", model, "--recipes", "zero-shot", "--dry-run").err
    assert "14 of the 30 examples were made by a generator (column 'made'): they are learnt" in " ".join(told.split())
    told = run_cli("adapt", folder, "--model", model, "--recipes", "zero-shot", "--dry-run").err
    assert "were made" not in told


def with_made(n=24, others=()) -> Task:
    """Return a task in which half of the rows were made of the other half, and one of a made one."""
    given = [Example(f"it was {[*WEATHER][i % 4]} in week {i}", WEATHER[[*WEATHER][i % 4]], f"g{i}") for i in range(n)]
    made = [replace(e, input=f"again {e.input}", id=f"m-{e.id}", meta={"made": "mine", "from": [e.id]}) for e in given]
    far = Example("a day", "good", "far", meta={"made": "mine", "from": [made[0].id]})
    return replace(TASK, train=(far, *made, *given, *others))


@pytest.mark.parametrize("seed", range(5))
def test_what_was_made_comes_after_what_it_was_made_from_and_is_not_asked(seed):
    for limit in (7, 100):
        stream = make_stream(with_made(), limit=limit, seed=seed)
        assert len(stream.asked) == min(limit, 24)
        assert not any(e.is_made for e in stream.asked)
        place = {e.id: i for i, e in enumerate(stream.examples)}
        assert len(place) == 49
        assert all(place[f"g{i}"] < place[f"m-g{i}"] for i in range(24))
        assert place["g0"] < place["far"]
        given = [e.id for e in stream.examples if not e.is_made]
        assert stream.asked[-1].id == given[-1]


def test_a_loop_of_sources_ends():
    rows = [Example(f"text {i}", "good", f"m{i}", meta={"made": "mine", "from": [f"m{1 - i}"]}) for i in range(2)]
    assert len(make_stream(with_made(others=tuple(rows)), limit=100, seed=0).examples) == 51


def test_a_run_learns_what_was_made_and_scores_none_of_it(tmp_path):
    recipes = "majority,tfidf-lr,zero-shot,random:k=4,all-past,random:contexts=2"
    run = kshot.adapt(with_made(), "scripted", recipes=recipes, shots=4, race=False, out=tmp_path, abstain=0.5)
    rows = map(json.loads, (tmp_path / "samples.jsonl").read_text("utf-8").splitlines())
    stream = make_stream(with_made(), limit=100, seed=0)
    assert {row["position"] for row in rows} == set(stream.positions)
    assert {row["n"] for row in run.leaderboard} == {24}
    assert {e.id for e in run.best.pool} <= {e.id for e in stream.examples}


def test_a_second_look_hides_what_was_made_of_what_it_asks():
    task = with_made()
    stream, setup = make_stream(task, limit=100, seed=0), Setup(task, TaskModel.for_task(task, ScriptedModel({})), 0)
    for recipe in ("tfidf-lr", "random"):
        _, queries = second_look(parse_recipe(recipe, shots=4), setup, stream)
        assert len(queries) >= 16
        assert not any(query.example.is_made for query in queries)
        assert not any(query.example.id in e.sources for query in queries for e in query.past)


def test_a_column_that_is_called_made_and_means_something_else_changes_nothing():
    rows = [replace(e, meta={"made": "1998", "from": "Italy"}) for e in ROWS]
    plain = make_stream(TASK, limit=9, seed=0)
    assert make_stream(replace(TASK, train=tuple(rows)), limit=9, seed=0).fingerprint == plain.fingerprint


def test_json_has_the_counts_and_where_the_rows_are(days, tmp_path, run_cli):
    folder, model = days
    found = run_cli(
        "generate", folder, "--model", model, "-n", 16, "--method", "rephrase:near=1,rounds=1", "--json"
    ).json
    assert (found["made"], found["wanted"], found["rejected"]) == (14, 16, 2)
    assert found["reasons"] == {"it asks what a row of test asks": 1, "the model answers otherwise": 1}
    assert len(found["rows"]) == 14
    told = run_cli("generate", folder, "--model", model, "-n", 2, "--out", tmp_path / "a.jsonl", "--json").json
    assert told["out"] == str(tmp_path / "a.jsonl")


def test_without_out_rows_are_printed(days, run_cli):
    folder, model = days
    done = run_cli("generate", folder, "--model", model, "-n", 3)
    assert [json.loads(line)["made"] for line in done.out.splitlines()] == ["rephrase"] * 3


def test_a_model_that_writes_nothing_usable_ends_with_the_reasons(days, tmp_path, run_cli):
    folder, _ = days
    (tmp_path / "mute.json").write_text(json.dumps({"In other words:": " "}))
    done = run_cli(
        "generate", folder, "--model", f"scripted:{tmp_path / 'mute.json'}", "-n", 8, "--out", tmp_path / "none.jsonl"
    )
    assert done.code == 0
    assert "0 of 8 examples made" in done.err
    assert "24 rejected: it is empty (24)" in done.err
    assert "nothing was made that can be used" in done.err
    assert (tmp_path / "none.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-n", 0), "-n must be 1 or more; got 0."),
        (("-n", 5, "--method", "rephrase:n=3"), "leave n out of 'rephrase:n=3', which says 3 and -n 5."),
        (("--method", "rephrsae"), "there is no generator 'rephrsae'. Did you mean 'rephrase'?"),
        (("--method", "guideline"), "--method must be for tasks of kind classification; 'guideline' is for others."),
        (("--method", "skills"), "of skills, its examples must have meta.skills or explanation, and none has."),
        (("--method", "rephrase:near=2"), "near must be in 0..1; got 2"),
    ],
)
def test_what_cannot_be_made_is_said_before_a_model_is_loaded(days, run_cli, flags, said):
    done = run_cli("generate", days[0], "--model", "no/such-model", *flags)
    assert done.code == 2
    assert said in done.err


def test_generators_that_know_no_sets_of_labels_are_refused(tmp_path, run_cli):
    rows = [{"input": f"text {i}", "output": ["x", "y"][: i % 3]} for i in range(6)]
    folder = write_task(tmp_path / "sets", rows, card={"kind": "multi_label"})
    done = run_cli("generate", folder, "--model", "scripted", "--method", "word-edits")
    assert (done.code, done.out) == (2, "")
    assert "--method must be for tasks of kind multi_label; 'word-edits' is for others." in done.err


def test_a_flag_for_models_of_another_kind_is_refused(days, run_cli):
    folder, model = days
    done = run_cli("generate", folder, "--model", model, "--api", "concurrency=4")
    assert (done.code, done.out) == (2, "")
    assert "--api must be left out for" in done.err
    done = run_cli("generate", folder, "--model", "openai:http://127.0.0.1:9/v1#m", "--device", "cpu")
    assert (done.code, done.out) == (2, "")
    assert "--trust-remote-code must be left out for" in done.err
    with pytest.raises(UserError, match=r"^--api must be left out for 'scripted', which is behind no API\.$"):
        kshot.select(folder, "random", 2, model="scripted", api="concurrency=4")


@pytest.mark.parametrize("name", ["more.csv", "more.parquet", "more"])
def test_rows_are_not_written_to_a_file_that_would_be_read_as_another_kind(days, tmp_path, name, run_cli):
    done = run_cli("generate", days[0], "--model", "nowhere", "--out", tmp_path / name)
    assert done.code == 2
    assert f"--out must end in .jsonl, as rows are written as lines of JSON; got '{name}'" in " ".join(done.err.split())
    assert not (tmp_path / name).exists()


def test_a_file_that_is_there_stays(days, run_cli):
    folder, model = days
    before = (folder / "train.jsonl").read_text("utf-8")
    done = run_cli("generate", folder, "--model", model, "--out", folder / "train.jsonl")
    assert done.code == 2
    assert "--out must be a new file" in done.err
    assert (folder / "train.jsonl").read_text("utf-8") == before


def test_a_file_that_somebody_else_has_written_meanwhile_stays(days, tmp_path, monkeypatch):
    out = tmp_path / "more.jsonl"

    def load(*args, **how):
        out.write_text("theirs")
        return kshot.load_model(*args)

    monkeypatch.setattr("kshot.verbs.generate.load_model", load)
    with pytest.raises(UserError, match="--out must be a new file"):
        kshot.generate(days[0], days[1], n=2, out=out)
    assert out.read_text() == "theirs"
    assert not list(tmp_path.glob(".*"))


def test_labels_outside_the_task_are_rejected_whoever_made_them(days, tmp_path, run_cli):
    own = tmp_path / "own.py"
    own.write_text(
        "from dataclasses import dataclass, replace\nimport kshot\n\n\n@dataclass(frozen=True)\n"
        "class Own(kshot.Generator):\n    def generate(self, seeds, *, model, rng):\n"
        "        new = [replace(e, id='own ' + e.id, input='new ' + e.id, meta={'made': 'own'}) for e in seeds]\n"
        "        return kshot.Made((*new[:2], replace(new[2], output='fair'), replace(new[3], input=seeds[0].input)))\n"
    )
    found = run_cli("generate", days[0], "--model", "scripted", "--method", f"{own}:Own", "--json").json
    assert found["made"] == 2
    assert found["reasons"] == {"its output is none of the task's": 1, "it is not new": 1}


def test_what_was_computed_is_kept_until_the_end(days, tmp_path, monkeypatch):
    """A model that keeps its texts in the store is asked nothing twice."""
    out, calls = tmp_path / "more.jsonl", []
    plain = kshot.load_model("scripted")
    kind = type(plain)
    text = kind._text

    def counted(self, request):
        calls.append(request.prompt.text)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return text(self, request)

    monkeypatch.setattr(kind, "_text", counted)
    how = {"method": "rephrase:near=1,rounds=1", "n": 8, "out": out}
    generate = kind.generate
    one_by_one = lambda self, requests, **h: [found for r in requests for found in generate(self, [r], **h)]  # noqa: E731
    monkeypatch.setattr(kind, "generate", one_by_one)
    with pytest.raises(KeyboardInterrupt):
        kshot.generate(days[0], days[1], **how)
    assert not out.exists()
    done = kshot.generate(days[0], days[1], **how)
    assert len(calls) == 5 + 4 == 1 + len(set(calls))  # the interrupted one again, and none of the four before it
    assert done.cost.reused >= 4
    assert out.exists()


def test_what_other_voters_say_is_kept_too(days, tmp_path, monkeypatch):
    (tmp_path / "other.json").write_text(json.dumps(dict.fromkeys(WEATHER, "bad")))
    method = f"ensemble(near=1,rounds=1,models=scripted:{tmp_path / 'other.json'})"
    how = {"method": method, "n": 6, "out": tmp_path / "more.jsonl"}

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kshot.verbs.generate._checked", stopped)  # all has been asked by then
        with pytest.raises(KeyboardInterrupt):
            kshot.generate(days[0], days[1], **how)
    done = kshot.generate(days[0], days[1], **how)
    assert (done.cost.scored, done.cost.reused > 0) == (0, True)


def test_a_budget_that_is_spent_loses_nothing(tmp_path):
    how = {"method": "rephrase:near=1,rounds=1", "n": 6}
    plain = kshot.generate(TASK, "tiny", **how, out=tmp_path / "plain.jsonl")
    with pytest.raises(
        UserError, match=r"--budget must do for all that 'rephrase.* asks; 1-tokens were spent.*is lost"
    ):
        kshot.generate(TASK, "tiny", **how, budget="1-tokens")
    with pytest.raises(UserError, match=r"is kept beside .*more\.jsonl. Give a larger one, or a smaller -n"):
        kshot.generate(TASK, "tiny", **how, budget="1-tokens", out=tmp_path / "more.jsonl")
    done = kshot.generate(TASK, "tiny", **how, out=tmp_path / "more.jsonl")
    assert done.cost.reused > 0
    assert (done.rows, done.rejected) == (plain.rows, plain.rejected)
    with pytest.raises(UserError, match="--budget in usd must come with --prices"):
        kshot.generate(TASK, "tiny", budget="2usd")


def test_python_returns_the_examples(days):
    done = kshot.generate(TASK, Planted(said_otherwise, WEATHER), n=5)
    assert isinstance(done, kshot.Generated)
    assert len(done.examples) == 5
    assert all(isinstance(e, Example) for e in done.examples)
    assert done.in_words.startswith("rephrase: 5 of 5 examples made")
    with pytest.raises(UserError, match="must have a model that can generate"):
        kshot.generate(TASK, Mute(said_otherwise))


class Mute(Planted):
    capabilities = frozenset()


def test_word_edits_makes_as_many_as_are_wanted():
    assert len(kshot.generate(TASK, "scripted", method="word-edits", n=40).examples) == 40
    assert len(kshot.generate(TASK, "scripted", method="word-edits").examples) == 16


# In a recipe


@pytest.mark.parametrize("slot", ["bm25:k=4,generator={}", "tfidf-lr:generator={}"])
def test_what_a_recipe_has_made_is_told_and_never_scored(slot, tmp_path, days, run_cli):
    folder, model = days
    name = slot.format("rephrase(near=1,rounds=1,n=8)")
    done = run_cli("adapt", folder, "--model", model, "--recipes", name, "--out", tmp_path / "run")
    results = json.loads((tmp_path / "run/results.json").read_text("utf-8"))
    (row,) = results["leaderboard"]
    counts = row["made"]
    assert counts["made"] + counts["rejected"] == 8
    assert sum(counts.get("reasons", {}).values()) == counts["rejected"]
    assert f"{counts['made']} made, {counts['rejected']} rejected" in done.out
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert made_in_words(row) in page
    samples = (tmp_path / "run/samples.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["example_id"] for line in samples} == {e.id for e in ROWS}


def test_what_asks_a_row_of_test_is_dropped_in_a_recipe_whoever_made_it(days, tmp_path, run_cli):
    own = tmp_path / "own.py"
    own.write_text(
        "from dataclasses import dataclass, replace\nimport kshot\n\n\n"
        "def made(known, model):\n"
        "    asked = enumerate((*model.task.test, replace(known[0], input='new')))\n"
        "    meta = {'made': 'own'}\n"
        "    return tuple(replace(known[0], id=f'own {i}', input=e.input, meta=meta) for i, e in asked)\n\n\n"
        "@dataclass(frozen=True)\nclass Maker(kshot.Generator):\n    def generate(self, seeds, *, model, rng):\n"
        "        return kshot.Made(made(seeds, model))\n\n\n"
        "@dataclass(frozen=True)\nclass Talk(kshot.Loop):\n    def run(self, examples, *, model, rng):\n"
        "        return kshot.Artefact(demonstrations=made(examples, model))\n"
    )
    n = len(TASK.test)
    names = f"all-past:generator={own}:Maker,all-past:loop={own}:Talk"
    done = run_cli("adapt", days[0], "--model", "scripted", "--recipes", names, "--out", tmp_path / "run")
    assert f"examples of the loop that ask what a row of test asks are dropped: {n}" in " ".join(done.err.split())
    board = json.loads((tmp_path / "run/results.json").read_text("utf-8"))["leaderboard"]
    (counts,) = (row["made"] for row in board if "Maker" in row["recipe"])
    assert counts == {"made": 1, "rejected": n, "reasons": {"it asks what a row of test asks": n}}


def test_a_classifier_learns_what_was_made_too(tmp_path, days):
    folder, model = days
    name = "tfidf-lr:generator=rephrase(near=1,rounds=1,n=8)"
    run = kshot.adapt(folder, model, recipes=[name, "tfidf-lr"], race=False, out=tmp_path / "run")
    rows = {row["recipe"]: row for row in run.leaderboard}
    assert rows[name]["made"]["made"] > 0
    assert rows[name]["bits_per_example"] != rows["tfidf-lr"]["bits_per_example"]
    alone = kshot.adapt(folder, model, recipes=name, out=tmp_path / "alone")
    assert {e.meta.get("made") for e in alone.best.pool} == {None, "rephrase"}
    asked = ["a sunny time", "rainy days"]
    assert (kshot.load(tmp_path / "alone").predict_proba(asked) == alone.best.predict_proba(asked)).all()


def test_the_suite_tells_twins_with_and_without_context(tmp_path, run_cli):
    card = {"name": "irony", "kind": "classification", "labels": ["good", "bad"], "metrics": ["accuracy"]}
    rows = [{"id": e.id, "input": e.input, "context": e.context, "output": e.output} for e in IRONY.train]
    folder = write_task(tmp_path / "irony", rows, [*rows, {**rows[0], "id": "alone", "input": "alone"}], card)
    run_cli("adapt", folder, "--model", "scripted", "--recipes", "bm25", "--out", tmp_path / "run")
    found = run_cli("evaluate", tmp_path / "run", folder, "--suite", "flips", "--json").json
    assert (found["n_pairs"], found["n_without_partner"]) == (4, 1)
    shares = [found[name]["value"] for name in ("without_context", "with_context", "pairs")]
    assert shares == [0.5, 1.0, 1.0]
    assert found["pairs"]["n"] == 4
    assert found["pairs"]["low"] < 1.0
    plain = write_task(tmp_path / "plain", rows[::2] + rows[1:2], rows[:1], card)
    done = run_cli("evaluate", tmp_path / "run", plain, "--suite", "flips")
    assert done.code == 2
    assert "its examples must have the same input in another context, with another output (kshot generate " in done.err
