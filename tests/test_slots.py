"""Generators, loops, composers, teachers and combiners at work along a stream: on the past alone, and saved."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

import kshot
import kshot.core.errors
from kshot.core.plugins import OwnFiles
from kshot.core.schedule import refit_point
from kshot.core.types import Example, Task
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.combiners.average import Average
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("one", "two")
TASK = Task(
    "t", "classification", tuple(Example(f"text {i}", LABELS[i % 2], f"e{i}") for i in range(20)), labels=LABELS
)
SEEN: list[tuple[str, ...]] = []


@dataclass(frozen=True)
class Spy(kshot.Generator):
    """Makes nothing, and remembers what it was given."""

    def generate(self, seeds, *, model, rng):
        SEEN.append(tuple(e.id for e in seeds))
        return kshot.Made(())


def setup(model: str = "scripted", seed: int = 0) -> Setup:
    return Setup(TASK, TaskModel.for_task(TASK, kshot.load_model(model)), seed)


def test_a_generator_sees_the_past_alone_and_once_for_each_doubling():
    SEEN.clear()
    recipe = parse_recipe("random:k=2", shots=2).having(generator=Spy())
    queries = make_stream(TASK, limit=20, seed=0).queries()
    make_learner(recipe, setup()).predict(queries)
    ids = [q.example.id for q in queries]
    assert [tuple(ids[:n]) for n in (1, 2, 4, 8, 16)] == SEEN


def test_what_is_made_is_shown_and_never_asked(tmp_path):
    recipe = parse_recipe("random:k=6,generator=word-edits", shots=6)
    queries = make_stream(TASK, limit=20, seed=0).queries()
    predictions = make_learner(recipe, setup()).predict(queries)
    assert {p.example_id for p in predictions} == {e.id for e in TASK.train}
    shown = {i for p in predictions for i in p.demonstrations}
    assert any(i.endswith("~1") for i in shown)
    for query, p in zip(queries, predictions, strict=True):
        known = {e.id for e in query.past[: refit_point(len(query.past))]}
        assert {i.removesuffix("~1") for i in p.demonstrations} <= known


def test_made_examples_are_saved_with_their_mark(tmp_path):
    run = kshot.adapt(TASK, "scripted", recipes="bm25:generator=word-edits", shots=2, out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/best/demonstrations.jsonl").read_text("utf-8").splitlines()]
    assert {row["meta"]["made"] for row in rows if "meta" in row} == {"word-edits"}
    assert kshot.load(tmp_path / "run").pool == run.best.pool


@dataclass(frozen=True)
class Counted(kshot.Loop):
    """Notes how many examples it was given."""

    def run(self, examples, *, model, rng):
        return kshot.Artefact(notes=(f"{len(examples)} examples are known.",))


def test_a_note_is_said_after_the_instruction_and_saved(tmp_path, monkeypatch):
    task = replace(TASK, instruction="Say one or two.")
    own = tmp_path / "own.py"
    source = (
        "from dataclasses import dataclass\n\nimport kshot\n\n\n@dataclass(frozen=True)\nclass Counted(kshot.Loop):\n"
    )
    source += "    def run(self, examples, *, model, rng):\n"
    own.write_text(source + '        return kshot.Artefact(notes=(f"{len(examples)} examples are known.",))\n')
    kshot.adapt(task, "scripted", recipes=f"zero-shot:loop={own}:Counted", out=tmp_path / "run")
    sent = json.loads((tmp_path / "run/prompts.json").read_text("utf-8"))
    notes = [text for role, text in sent["segments"] if role == "note"]
    assert [note.strip() for note in notes] == [f"{n} examples are known." for n in (1, 2, 4, 8, 16)]
    loaded = kshot.load(tmp_path / "run", allow_code=True)
    assert loaded.fitted.notes == ("20 examples are known.",)
    asked = loaded._learner.model.prompt((), task.train[0])[0].text
    assert asked.startswith("Say one or two.\n\n20 examples are known.\n\n")


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_average_is_that_of_the_formula(mean):
    recipe = parse_recipe(f"average(bm25:k=2,zero-shot,random:k=3):mean={mean}", shots=2)
    queries = make_stream(TASK, limit=12, seed=0).queries()
    whole = make_learner(recipe, setup("tiny")).predict(queries)
    parts = [make_learner(member, setup("tiny")).predict(queries) for member in recipe.members]
    for p, own in zip(whole, zip(*parts, strict=True), strict=True):
        rows = np.array([one.probs for one in own])
        expected = rows.mean(axis=0) if mean == "arithmetic" else np.exp(np.log(rows).mean(axis=0))
        assert p.probs == pytest.approx(expected / expected.sum(), rel=1e-12)
        assert p.answer == LABELS[int(np.argmax(p.probs))]
        assert p.tokens == pytest.approx(sum(one.tokens for one in own))
        assert p.prompt_tokens == sum(one.prompt_tokens for one in own)


def test_an_average_of_an_open_task_takes_the_text_that_most_have_written():
    task = Task("o", "generation", (Example("a", "x", "1"),), metrics=("exact_match",))
    one = kshot.core.types.Prediction("1", ("x",), (-1.0,), (float(np.exp(-1.0)),), "p")
    found = Average().combine(task, [one, replace(one, answer="q"), replace(one, answer="q")])
    assert found.answer == "q"
    assert found.probs == pytest.approx(one.probs)


def test_combined_recipes_that_train_are_saved_and_resumed(tmp_path):
    names = "average(fine-tune:lr=1e-2,steps=1,bm25:k=2)"
    whole = kshot.adapt(TASK, "tiny", recipes=names, shots=2, out=tmp_path / "one")
    asked = ["text 3", "another text"]
    assert (kshot.load(tmp_path / "one").predict_proba(asked) == whole.best.predict_proba(asked)).all()
    again = kshot.adapt(TASK, "tiny", recipes=names, shots=2, out=tmp_path / "one")
    assert again.work.scored == 0
    assert (again.best.predict_proba(asked) == whole.best.predict_proba(asked)).all()


@pytest.mark.slow
def test_a_teacher_changes_what_is_learnt_and_two_runs_are_the_same():
    queries = make_stream(TASK, limit=8, seed=0).queries()

    def said(name: str) -> list[tuple[float, ...]]:
        return [p.log_probs for p in make_learner(parse_recipe(name, shots=2), setup("tiny")).predict(queries)]

    taught = said("fine-tune:lr=1e-2,steps=1,teacher=demonstrations(k=2)")
    assert taught == said("fine-tune:lr=1e-2,steps=1,teacher=demonstrations(k=2)")
    assert taught != said("fine-tune:lr=1e-2,steps=1")


def test_fields_of_examples_survive_saving(tmp_path):
    rows = [
        replace(e, explanation=f"because {e.id}", references=("uno",), meta={"page": i})
        for i, e in enumerate(TASK.train)
    ]
    task = replace(TASK, kind="qa", labels=(), metrics=("exact_match",), train=tuple(rows))
    kshot.adapt(task, "scripted", recipes="bm25", shots=2, limit=8, out=tmp_path / "run")
    assert set(kshot.load(tmp_path / "run").pool) == set(task.train)
    assert {e.meta["page"] for e in kshot.load(tmp_path / "run").pool} == set(range(20))


@pytest.mark.parametrize("field", ["explanation", "references", "meta"])
def test_fields_of_examples_count_in_a_tasks_fingerprint(field):
    value = {"explanation": "why", "references": ("uno",), "meta": {"page": 1}}[field]
    other = replace(TASK, train=(replace(TASK.train[0], **{field: value}), *TASK.train[1:]))
    assert other.fingerprint != TASK.fingerprint


def test_a_recipe_is_rebuilt_from_its_record(tmp_path):
    for name in ("random:k=3,composer=wording(labels=true),contexts=2", "average(bm25:k=2,zero-shot):mean=geometric",
                 "fine-tune:lr=1e-3,steps=1,selector=bm25(k1=1.2),k=2,steerer=icv(strength=0.1)"):  # fmt: skip
        recipe = parse_recipe(name, shots=2)
        again = Recipe.rebuilt(json.loads(json.dumps(recipe.record())), tmp_path, OwnFiles(tmp_path, may_run=False))
        assert again == recipe
        assert again.fingerprint == recipe.fingerprint


BAD = {
    "Nan(kshot.Classifier)": (
        "fit(self, task, examples, *, rng):\n        return self\n\n    def probabilities(self, questions):\n"
        "        return [np.full(2, np.nan) for _ in questions]",
        "{own}:Nan must give 2 probabilities that sum to 1; it gave [nan, nan]",
    ),
    "Many(kshot.Selector)": (
        "fit(self, pool, *, model, rng):\n        return replace(self, _n=len(pool))\n\n"
        "    per_query = True\n    _n: int = 0\n\n"
        "    def select(self, question, k, *, rng):\n        return list(range(self._n))",
        "A selector must return at most k = 2 indices; Many returned 3.",
    ),
    "Unknown(kshot.Generator)": (
        "generate(self, seeds, *, model, rng):\n"
        "        return kshot.Made((replace(seeds[0], id='new', output='three', meta={'made': 'x'}),))",
        "random:generator={own}:Unknown: the output of an example that is made must be one of one, two; got 'three'.",
    ),
    "Again(kshot.Generator)": (
        "generate(self, seeds, *, model, rng):\n        return kshot.Made(tuple(seeds))",
        "each example that is made must have an id of its own; got ",
    ),
    "Unmarked(kshot.Generator)": (
        "generate(self, seeds, *, model, rng):\n        return kshot.Made((replace(seeds[0], id='new'),))",
        "each example that is made must say so in meta[\"made\"]; 'new' does not.",
    ),
    "Letters(kshot.Loop)": (
        "run(self, examples, *, model, rng):\n        return kshot.Artefact(notes='one string')",
        "a loop must leave notes as a tuple of texts; got 'one string'.",
    ),
    "Nothing(kshot.Combiner)": (
        "combine(self, task, members):\n        return None",
        "a combiner must return a prediction with finite log-probabilities and probabilities that sum to 1; got None",
    ),
}
HEAD = "from dataclasses import dataclass, replace\n\nimport numpy as np\n\nimport kshot\n\n\n@dataclass(frozen=True)\n"
USE = {"Classifier": "{}", "Selector": "{}:k=2", "Generator": "random:generator={}", "Loop": "zero-shot:loop={}"}


@pytest.mark.parametrize("name", BAD)
def test_what_a_method_of_ones_own_does_wrong_is_said(name, tmp_path):
    source, said = BAD[name]
    own = tmp_path / "own.py"
    own.write_text(f"{HEAD}class {name}:\n    def {source}\n")
    cls, _, contract = name.rstrip(")").partition("(kshot.")
    use = USE.get(contract, "{}(zero-shot,bm25)").format(f"{own}:{cls}")
    with pytest.raises(kshot.core.errors.KshotError) as error:
        kshot.adapt(TASK, "scripted", recipes=use, shots=2, out=tmp_path / "run")
    assert said.format(own=own) in str(error.value)


def test_what_a_composer_has_fitted_is_saved(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        f"{HEAD}class Told(kshot.Composer):\n    _known: tuple[str, ...] = ()\n\n"
        "    def fit(self, pool, *, model, rng):\n        return replace(self, _known=tuple(e.id for e in pool))\n\n"
        "    def compose(self, task, shown, question):\n"
        "        return kshot.Script((kshot.Piece('instruction', f'{len(self._known)} known'),\n"
        "                             kshot.Piece('question', question.input)))\n"
    )
    run = kshot.adapt(TASK, "tiny", recipes=f"random:composer={own}:Told", shots=2, limit=8, out=tmp_path / "run")
    loaded = kshot.load(tmp_path / "run", allow_code=True)
    assert len(loaded.recipe.part("composer")._known) == 20
    assert (loaded.predict_proba(["text 3"]) == run.best.predict_proba(["text 3"])).all()


def test_meta_must_be_json():
    other = replace(TASK, train=(replace(TASK.train[0], meta={"page": {1, 2}}), *TASK.train[1:]))
    with pytest.raises(kshot.core.errors.UserError, match="What an example has in `meta` must be JSON"):
        other.fingerprint  # noqa: B018 - computed when it is asked for
