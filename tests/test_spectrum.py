"""Sequences of samples: which tokens carry a loss, what is drawn, and that odds get right by it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import labelled_rows, write_task
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.types import Example, Query, ScoreRequest, Task
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.evaluators.distributions import Distribution, about, alignment, coverage, drawn, steerability
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.probabilities import jensen_shannon
from kshot.methods import processes
from kshot.methods.processes import KINDS, Process, make_process
from kshot.methods.tuners.spectrum import LOSSES, Spectrum
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.evaluate import evaluate
from word_network import word_engine

STREAM = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(12)))
TASK = Task("words", "classification", STREAM, labels=("animal", "food", "tool"), instruction="Name the kind.")
ASKER = Task("lessons", "classification", (), labels=("a", "b"))


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def learnt(model: Engine, lesson: Lesson, task: Task = TASK) -> tuple[str, str]:
    """Return a lesson's whole text, and the part of it that carries a loss."""
    row = model.training_row(TaskModel.for_task(task, model).training_text(lesson))
    text = model.backbone.detokenise(list(row.ids))
    return text, model.backbone.detokenise([row.ids[i] for i in row.supervised])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("instruction", [None, "", "Say it."])
def test_the_loss_is_on_outputs_with_their_ends(tiny, loss, instruction):
    lesson = Lesson(STREAM[:3], STREAM[3], LOSSES[loss], instruction=instruction)
    text, found = learnt(tiny, lesson)
    outputs = [f" {e.output}\n\n" for e in STREAM[:4]]
    kept = {"outputs": outputs if instruction != "" else outputs[1:], "last": outputs[3:], "first": outputs[:1]}
    assert found == "".join(kept.get(loss, [text]))
    said = TASK.instruction if instruction is None else instruction
    assert text.startswith(f"{said}\n\nText: " if said else "Text: ")


def test_where_the_task_has_no_instruction_the_first_output_carries_no_loss(tiny):
    bare = replace(TASK, instruction="")
    outputs = [f" {e.output}\n\n" for e in STREAM[:3]]
    assert learnt(tiny, Lesson(STREAM[:2], STREAM[2], "told"), bare)[1] == "".join(outputs[1:])
    assert learnt(tiny, Lesson((), STREAM[0], "told"), bare)[1] == outputs[0]  # alone it is all there is
    noted = TaskModel.for_task(bare, tiny).noted(["A note."]).training_text(Lesson(STREAM[:2], STREAM[2], "told"))
    assert noted.learnt == "answers"


def test_a_lesson_of_something_made_up_is_said_in_the_usual_words(tiny):
    recipe = parse_recipe("spectrum:made=1,composer=verbalised(words=letters)", shots=1)
    model = replace(TaskModel.for_task(TASK, tiny), composer=recipe.part("composer"), task_notes=("A note.",))
    (lesson,) = replace(recipe.part("tuner"), described=1.0, batch=1).lessons(STREAM[:2], tuple, step=0, rng=rng(0))
    assert lesson.is_apart
    assert lesson.instruction
    text = model.training_text(lesson).prompt.text
    assert text.startswith(f"{lesson.instruction}\n\nText: {lesson.demonstrations[0].input}\nLabel:")
    assert "note" not in text
    assert text.endswith(f"Label: {lesson.target.output}\n\n")


def test_sequences_are_drawn_without_replacement_and_their_length_too():
    tuner, lengths, told = Spectrum(k=6, described=0.75), Counter[int](), 0
    for seed in range(400):
        for lesson in tuner.lessons(STREAM, tuple, step=0, rng=rng(seed)):
            ids = [e.id for e in (*lesson.demonstrations, lesson.target)]
            assert len(set(ids)) == len(ids)
            assert set(ids) <= {e.id for e in STREAM}
            assert not lesson.is_apart
            lengths[len(ids)] += 1
            told += lesson.instruction is None
    assert set(lengths) == set(range(2, 8))
    assert told / 800 == pytest.approx(0.75, abs=0.05)
    assert sum(n * times for n, times in lengths.items()) / 800 == pytest.approx(3.9, abs=0.2)
    with_made = [one for seed in range(200) for one in Spectrum(made=0.5).lessons(STREAM, tuple, step=0, rng=rng(seed))]
    assert np.mean([one.is_apart for one in with_made]) == pytest.approx(0.5, abs=0.08)
    assert {one.target.meta["made"] for one in with_made if one.is_apart} == set(KINDS)
    current = [
        one for seed in range(9) for one in Spectrum(target="current").lessons(STREAM, tuple, step=0, rng=rng(seed))
    ]
    assert {one.target.id for one in current} == {STREAM[-1].id}


@pytest.mark.parametrize("kind", KINDS)
def test_processes_say_what_their_odds_are_and_some_are_held_out(kind):
    learnt, held = ([make_process(kind, rng=rng(i), held_out=is_held) for i in range(150)] for is_held in (False, True))
    if kind != "persona":  # what people think is not in their description
        assert not {one.description for one in learnt} & {one.description for one in held}
    else:
        assert not {one.probs for one in learnt} & {one.probs for one in held}
    one = held[0]
    assert make_process(kind, rng=rng(0), held_out=True) == one
    assert np.allclose(np.sum(one.probs, axis=1), 1)
    assert len(set(one.outcomes)) == len(one.outcomes)
    said = one.sample(4000, rng=rng(1))
    assert len({e.id for e in said}) == 4000
    asked = one.inputs[0]
    counts = Counter(e.output for e in said if e.input == asked)
    shares = np.array([counts[text] for text in one.outcomes]) / counts.total()
    assert np.abs(shares - one.chances(asked)).max() < 5 / np.sqrt(counts.total())


def test_an_urn_tells_its_counts():
    urn = make_process("urn", rng=rng(3))
    numbers = [int(word) for word in urn.description.split() if word.isdigit()]
    assert urn.probs[0] == pytest.approx([n / sum(numbers) for n in numbers])
    assert all(f"{n} {colour}" in urn.description for n, colour in zip(numbers, urn.outcomes, strict=True))


@pytest.mark.parametrize("loss", ["outputs", "all"])
def test_what_is_made_is_learnt_and_never_scored(tiny, loss):
    recipe = parse_recipe(f"spectrum:made=0.5,over=seen,loss={loss},k=2,lr=1e-3,steps=2", shots=1)
    model = TaskModel.for_task(TASK, tiny)
    runs = []
    for _ in range(2):
        learner = TrainedLearner(recipe, Setup(TASK, model, 0))
        queries = [Query(e, STREAM[:i]) for i, e in enumerate(STREAM[:5])]
        found = learner.predict(queries)
        runs.append([replace(p, seconds=0, fit_seconds=0) for p in found])
        assert [row["example"] for row in learner.log] == [e.id for e in STREAM[:4] for _ in range(2)]
    assert runs[0] == runs[1]
    for i, p in enumerate(runs[0]):
        assert (p.example_id, p.candidates) == (STREAM[i].id, TASK.labels)
        assert set(p.demonstrations) <= {e.id for e in STREAM[:i]}
        assert len(p.demonstrations) == min(2, i)


def test_bad_settings_say_what_must_hold():
    for text, message in (
        ("spectrum:kinds=urn+dice", "kinds must be some of urn, coin, range, persona, joined by .; got 'dice'"),
        ("spectrum:loss=every", "loss must be one of outputs, last, first, all; got 'every'"),
        ("spectrum:described=2", r"described must be in 0\.0\.\.1\.0; got 2"),
        ("spectrum:made=0.5,teacher=demonstrations", "'spectrum' makes some of its own. Leave the teacher out"),
    ):
        with pytest.raises(UserError, match=message):
            parse_recipe(text, shots=1)
    assert parse_recipe("spectrum:teacher=demonstrations", shots=1).part("teacher")
    most_common = AdaptedModel.fit(parse_recipe("majority", shots=1), TASK.train, Setup(TASK, None, 0), choice={})
    with pytest.raises(UserError, match="must ask one language model; 'majority' has none of its own"):
        evaluate(most_common, replace(TASK, test=TASK.train), "distribution")


def test_the_divergence_is_that_of_its_formula():
    for seed in range(20):
        p, q = rng(seed).dirichlet(np.ones(5), size=2)
        middle = (p + q) / 2
        expected = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
        assert jensen_shannon(p, q) == pytest.approx(expected)
    assert jensen_shannon([0.5, 0.5, 0], [0.5, 0, 0.5]) == pytest.approx(0.5)


def test_coverage_counts_what_is_valid_and_unique(tiny, monkeypatch):
    process = Process("range", "From 1 to 3.", ("a number",), ("1", "2", "3"), ((1 / 3,) * 3,))
    asked: list[Any] = []

    def generate(requests, **_):
        asked.extend(requests)
        return [type("Text", (), {"text": text})() for text in (" 1", " 2", " 2", " 9", "")]

    monkeypatch.setattr(tiny, "generate", generate)
    model = TaskModel.for_task(TASK, tiny)
    assert coverage(drawn(model, process, 5, seed=4), process) == {"valid": 0.6, "unique": 0.8, "unique_valid": 2.0}
    assert [one.seed for one in asked] == [4, 5, 6, 7, 8]
    assert {one.prompt.text for one in asked} == {"From 1 to 3.\n\nText: a number\nLabel:"}


def test_draws_that_are_all_empty_are_refused(tiny, monkeypatch):
    task = replace(TASK, test=STREAM[:3])
    monkeypatch.setattr(tiny, "generate", lambda requests, **_: [type("Text", (), {"text": " "})() for _ in requests])
    suite = Distribution(sequences=1, shown=1, generations=2, urns=1)
    with pytest.raises(UserError, match="must hold text; all 6 texts that 'tiny' drew are empty. Try another --layout"):
        suite.beside(task, TaskModel.for_task(task, tiny), rng=rng(0))


def test_a_finished_model_is_measured_on_three_axes(run_cli, tmp_path):
    data = write_task(tmp_path / "words", labelled_rows(9), labelled_rows(4, start=9))
    out = tmp_path / "run"
    recipes = "spectrum:made=0.5,k=2,lr=1e-3,steps=1"
    assert run_cli("adapt", data, "--model", "tiny", "--recipes", recipes, "--out", out).code == 0
    suite = "distribution(sequences=2,shown=2,generations=3,urns=2)"
    found = run_cli("evaluate", out, data, "--suite", suite, "--json").json
    for name in ("steerability_bits", "steerability_bits_people"):
        assert list(found[name]) == ["after_0", "after_1", "after_2", "saved"]
        bits = {at: one["value"] for at, one in found[name].items()}
        assert bits["saved"] == pytest.approx(bits["after_0"] - bits["after_2"])
    assert 0 < found["alignment_bits"]["low"] <= found["alignment_bits"]["value"] <= 1
    assert found["alignment_bits"]["n"] == 2
    assert set(found["coverage"]) == {"valid", "unique", "unique_valid"}
    assert found["n"] == 4


def two_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let urns hold red and blue alone: what a small network can learn in a minute."""
    monkeypatch.setattr(processes, "_COLOURS", ("red", "blue"))


def trained(seed: int, steps: int, tuner: Spectrum) -> tuple[Engine, TrainedEngine]:
    """Return a network with random weights, and after so many steps on what is made up; the last third are small."""
    base = word_engine(seed=seed)
    model = TrainedEngine(base, Training(weights="full", lr=2e-3), seed=seed)
    asker = TaskModel.for_task(ASKER, model)
    for step in range(steps):
        if step == steps - steps // 3:
            model._trainer.set_lr(3e-4)
        lessons = tuner.lessons((), tuple, step=0, rng=rng(seed, step))
        model.learn(Batch([asker.training_text(lesson) for lesson in lessons]))
    return base, model


def divergence(model: Engine, seed: int) -> tuple[float, float]:
    """Return the model's divergence from the odds of 40 held-out urns, and that of uniform odds."""
    urns = [make_process("urn", rng=rng(seed, 100, i), held_out=True) for i in range(40)]
    uniform = [jensen_shannon([0.5, 0.5], one.probs[0]) for one in urns]
    return float(alignment(TaskModel.for_task(ASKER, model), urns).mean()), float(np.mean(uniform))


URNS = Spectrum(k=3, batch=8, made=1.0, kinds="urn", described=1.0)


@pytest.mark.slow
def test_after_tuning_odds_of_urns_get_right(monkeypatch):
    two_colours(monkeypatch)
    base, model = trained(0, 120, replace(URNS, k=1))
    before, after = (divergence(one, 0)[0] for one in (base, model))
    assert after <= before / 2


class Counting(ScriptedModel):
    """Gives each answer the odds of Laplace's rule after what was shown, or always the same."""

    def __init__(self, *, is_steered: bool):
        super().__init__()
        self._is_steered = is_steered

    def _answer(self, request: ScoreRequest) -> np.ndarray:
        shown = request.prompt.text
        counts = [shown.count(f"Label:{text}") * self._is_steered for text in request.continuations]
        return np.log([(n + 1) / (sum(counts) + len(counts)) for n in counts])


def coins(n: int) -> list[Process]:
    """Held-out coins of which nothing is told."""
    return [replace(make_process("coin", rng=rng(7, i), held_out=True), description="") for i in range(n)]


def thrown(model: Engine | ScriptedModel, some: list[Process]) -> np.ndarray:
    """Return the bits of each of six throws, the mean over coins."""
    asker = TaskModel.for_task(ASKER, model)
    return steerability([(about(asker, one), one.sample(6, rng=rng(8, i))) for i, one in enumerate(some)]).mean(axis=0)


def test_steerability_is_what_each_sample_costs_after_those_before_it():
    some = coins(200)
    expected = []
    for i, coin in enumerate(some):
        said = [e.output for e in coin.sample(6, rng=rng(8, i))]
        expected.append([-np.log2((said[:at].count(text) + 1) / (at + 2)) for at, text in enumerate(said)])
    bits = thrown(Counting(is_steered=True), some)
    assert bits == pytest.approx(np.mean(expected, axis=0), abs=0.02)  # a little of the uniform odds is mixed in
    assert bits[0] == pytest.approx(1)
    assert bits[3:].mean() < bits[1] - 0.02
    assert thrown(Counting(is_steered=False), some) == pytest.approx(np.ones(6))


@pytest.mark.slow
def test_after_tuning_samples_steer():
    """Means over three seeds, of 300 coins: more throws that are shown make the next one cost less."""
    some, rows = coins(300), []
    for seed in range(3):
        _, model = trained(seed, 200, replace(URNS, k=5, kinds="coin", described=0.0))
        bits = thrown(model, some)
        rows.append([bits[1], bits[3:].mean()])  # the first carries no loss
    print(np.round(rows, 4))
    early, late = np.mean(rows, axis=0)
    assert late < early - 0.015


@pytest.mark.slow
def test_odds_get_right_as_every_output_is_learnt_and_not_the_last_alone(monkeypatch):
    """Means over three seeds against the base, uniform odds, and learning the last output alone."""
    two_colours(monkeypatch)
    rows = []
    for seed in range(3):
        base, model = trained(seed, 300, URNS)
        _, last = trained(seed, 300, replace(URNS, loss="last"))
        rows.append([divergence(base, seed)[0], *divergence(model, seed), divergence(last, seed)[0]])
    base, after, uniform, last = np.mean(rows, axis=0)
    print(np.round(rows, 4))
    assert after <= base / 2
    assert after < min(uniform, last)
