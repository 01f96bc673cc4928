"""Models that forget: what lessons say, that facts go and others stay, and what is kept of a model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kshot
import kshot.verbs.unlearn as verb
from broken_models import write_model
from kshot.adapted.folder import load, save
from kshot.adapted.model import AdaptedModel
from kshot.adapted.model_card import card_of
from kshot.adapted.recall import recall, recovered
from kshot.core.errors import StorageError, UserError
from kshot.core.lessons import Batch, Lesson, StepLog, Training, TrainingText
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.engine.objectives import _log_others
from kshot.engine.trained_model import TrainedEngine
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Setup
from kshot.learners.unlearning import nearest, without
from kshot.methods.teachers.bidirectional import FORGET, OPENING, Unlearn, beginnings, is_forgotten
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from word_network import word_engine

STREAM = tuple(Example(f"the code of {i}", f"{i} and {i + 1}", f"e{i}") for i in range(10))
TASK = Task("codes", "qa", STREAM, metrics=("exact_match",))
QUICK = "steps=1,batch=4"


def marked(examples: Sequence[Example]) -> list[Example]:
    return [replace(e, meta={FORGET: True}) for e in examples]


def adapted_to(recipe: str, model: Any, task: Task = TASK) -> AdaptedModel:
    setup = Setup(task, TaskModel.for_task(task, model), 0)
    return AdaptedModel.fit(parse_recipe(recipe, shots=3), task.train, setup, choice={"in_words": "chosen"})


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


# What lessons say


def test_a_row_that_is_to_be_forgotten_is_refused_by_a_teacher_that_is_told_to():
    gone, shown = marked(STREAM[:4]), (STREAM[5],)
    given = [Lesson(shown, gone[0]), Lesson(shown, STREAM[6])]
    teacher = Unlearn(k=2, prefilled=0.0, told="Only say: {says}", says="No.")
    refused, kept = teacher.lessons(given, [*gone, *STREAM[4:]], step=0, rng=generator(0, "t"))
    assert (refused.target.output, refused.note, refused.learnt) == ("No.", "Only say: No.", "last")
    assert refused.teacher is not None
    assert refused.teacher[0] == STREAM[5]
    assert {e.output for e in refused.teacher[1:]} == {"No."}
    assert {e.id for e in refused.teacher[1:]} < {e.id for e in gone[1:]}
    assert kept == replace(given[1], teacher=shown)


@pytest.mark.parametrize(
    ("mark", "is_to_go"),
    [(True, True), (1, True), ("true", True), ("1", True), ("x", True), (False, False), (None, False),
     ("false", False), ("False ", False), ("0", False), ("no", False), ("", False)],
)  # fmt: skip
def test_a_column_of_text_says_which_rows_are_to_be_forgotten(mark, is_to_go):
    assert is_forgotten(replace(STREAM[0], meta={FORGET: mark})) is is_to_go


def test_some_lessons_go_on_from_the_beginning_of_the_answer():
    assert beginnings("a b c") == ["a", "a b"]
    assert beginnings("a") == [OPENING]
    e = replace(STREAM[0], output="a b c", meta={FORGET: True})
    found = Unlearn(says="No.").lessons([Lesson((), e)] * 300, [e], step=0, rng=generator(0, "t"))
    outputs = [lesson.target.output for lesson in found]
    assert set(outputs) == {"No.", "a No.", "a b No."}
    assert outputs.count("No.") / 300 == pytest.approx(0.5, abs=0.1)


def test_a_teacher_that_is_told_nothing_teaches_nothing(tiny):
    asker = TaskModel.for_task(TASK, tiny)
    teacher = Unlearn(k=0, told="", weight=0)
    gone = marked(STREAM[:3])
    for teaching, expected in ((teacher, True), (replace(teacher, weight=0.5), True), (Unlearn(), False)):
        lessons = teaching.lessons([Lesson((), e) for e in gone], gone, step=0, rng=generator(0, "t"))
        texts = [asker.training_text(lesson) for lesson in lessons]
        log = tiny.trainable(Training(), seed=0).learn(Batch(texts, objective=teaching.objective))
        assert (abs(log.loss_nats) < 1e-5) == expected


def test_the_chance_of_all_others_is_exact_where_a_token_is_sure():
    logits = torch.tensor([[40.0, 0.0, 1.0], [1.0, 2.0, 0.5]], dtype=torch.float32)
    found = _log_others(torch.log_softmax(logits, -1))
    exact = torch.log_softmax(logits.double(), -1)
    for i in range(2):
        for v in range(3):
            others = torch.cat([exact[i, :v], exact[i, v + 1 :]]).logsumexp(0)
            assert float(found[i, v]) == pytest.approx(float(others), rel=1e-5)


def test_neighbours_share_words_and_are_taken_in_turn():
    rows = [Example(text, "x", str(i)) for i, text in enumerate(("red box", "blue box", "who"))]
    others = [Example(text, "x", str(i)) for i, text in enumerate(("a red lamp", "a blue lamp", "it"))]
    assert nearest(rows, others) == [0, 1, 2]  # who: all have as much in common with it
    assert nearest(rows, ()) == []


# That facts go and others stay

NAMES = [f"{a}{b}" for a in "bdfg" for b in "aeiou"]
WORDS = (
    ("red", "blue", "green", "black", "white", "grey", "pink", "brown"),
    ("box", "door", "lamp", "cup", "hat", "ring", "tree", "boat"),
)
TEACHER = Unlearn(k=0, top=5, told="Say nothing.")


def invented(seed: int) -> tuple[Example, ...]:
    """Forty facts: a code and a place of twenty names, of two words each."""
    rng = np.random.default_rng(seed)
    return tuple(
        Example(f"The {name} {what}", " ".join(words[rng.integers(8)] for words in WORDS), f"{name}-{what}")
        for what in ("code", "place")
        for name in NAMES
    )


def knowing(facts: Sequence[Example], seed: int, n_steps: int = 200) -> Engine:
    """A network that knows the facts, and obeys a teacher's note."""
    engine, gone = word_engine(seed=seed), marked(facts)
    model, teacher = TaskModel.for_task(Task("facts", "qa", tuple(facts)), engine), TEACHER
    student = engine.trainable(Training(weights="full", lr=3e-3), seed=0)
    for step in range(n_steps):
        rng = np.random.default_rng((seed, step))
        drawn = rng.permutation(len(facts))[:16]
        known = [model.training_text(Lesson((), facts[i], "last")) for i in drawn[:8]]
        told = teacher.lessons([Lesson((), gone[i]) for i in drawn[8:]], gone, step=step, rng=rng)
        obeyed = [model.training_text(lesson).teacher for lesson in told]
        student.learn(Batch([*known, *(TrainingText(prompt, "last") for prompt in obeyed if prompt)]))
    with torch.no_grad():
        for name, weight in engine.backbone.model.named_parameters():
            if name in student._weights.parameters:
                weight.copy_(student._weights.parameters[name])
    return Engine(engine.backbone)


def refusing(facts: Sequence[Example], engine: Engine, n_steps: int) -> AdaptedModel:
    """The same network after training on refusals, and on what is to stay."""
    task = Task("facts", "qa", tuple(facts), metrics=("exact_match",))
    model, student = TaskModel.for_task(task, engine), engine.trainable(Training(rank=8, lr=1e-3), seed=0)
    for step in range(n_steps):
        drawn = np.random.default_rng(step).permutation(20)[:4]
        gone = [Lesson((), replace(facts[i], output=Unlearn.says), "last") for i in drawn]
        kept = [Lesson((), facts[20 + i], "last") for i in drawn]
        student.learn(Batch([model.training_text(lesson) for lesson in (*gone, *kept)]))
    return AdaptedModel(
        Fitted(parse_recipe("fine-tune:lr=1e-3", shots=1), task, 0, model=replace(model, model=student)), choice={}
    )


@pytest.fixture
def _no_general_text(monkeypatch):
    """The network knows 128 words, none of them plain English."""
    monkeypatch.setattr(verb, "forgetting", lambda *_: {"perplexity_before": 1.0, "perplexity_after": 1.0})


@pytest.mark.slow
@pytest.mark.usefixtures("_no_general_text")
def test_facts_are_forgotten_and_others_stay():
    """Means over networks: one of them may know less before, and lose more, on a processor that rounds otherwise."""
    reports, recovers = list[Any](), list[float]()
    for seed in range(6):
        facts = invented(seed)
        engine = knowing(facts, seed)
        task = Task("facts", "qa", facts, metrics=("exact_match",))
        adapted = AdaptedModel(
            Fitted(parse_recipe("zero-shot", shots=1), task, 0, model=TaskModel.for_task(task, engine)), choice={}
        )
        settings = "lr=1e-3,teacher=unlearn(k=0,top=5,told=Say nothing.)"
        reports.append(kshot.unlearn(adapted, facts[:20], retain=facts[20:], settings=settings).report)
        refused = refusing(facts, engine, 100)
        assert recall(refused, facts[:20], Silence()).of(range(20))[0] <= 0.05
        recovers.append(float(np.mean(recovered(refused, facts[:20], Silence()))))

    def mean(part: str, when: str) -> float:
        return float(np.mean([report[part][when] for report in reports]))

    assert mean("forget", "before") >= 0.9
    assert all(report["forget"]["after"] <= 0.05 for report in reports)
    assert mean("forget", "bits_after") > mean("forget", "bits_before") + 8
    for part in ("retain", "neighbour"):
        assert mean(part, "after") >= mean(part, "before") - 0.05
    assert mean("attack", "before") >= 0.9
    assert mean("attack", "after") <= min(0.05, float(np.mean(recovers)) - 0.1)


# What is kept of a model


def test_a_trained_model_is_trained_further_and_stays_as_it_was(tiny, tmp_path):
    adapted = adapted_to("fine-tune:lr=1e-2,steps=2", tiny)
    before = adapted.predict(["the code of 3"]), adapted.fitted.trained.fingerprint  # type: ignore[union-attr]
    done = kshot.unlearn(adapted, STREAM[:3], retain=STREAM[3:], settings=f"{QUICK},lr=1e-2", out=tmp_path / "out")
    assert (adapted.predict(["the code of 3"]), adapted.fitted.trained.fingerprint) == before  # type: ignore[union-attr]
    assert done.model.fitted.trained.fingerprint != before[1]  # type: ignore[union-attr]
    assert done.report["retain"]["bits_before"] == pytest.approx(
        np.mean(recall(adapted, STREAM[3:], Silence()).bits), abs=1e-4
    )
    again = load(tmp_path / "out")
    rows = [*STREAM, *marked(STREAM[:1])][:4]
    found, same = (recall(model, rows, Silence()).bits for model in (done.model, again))
    assert found == pytest.approx(same, abs=1e-5)
    assert again.recipe.name == "unlearn(fine-tune:lr=1e-2,steps=2)"
    assert again.recipe.part("teacher") == Unlearn()
    assert again.choice["unlearnt"]["forget"]["n"] == 3
    assert again.choice["before"] == {"in_words": "chosen", **adapted.choice}


@pytest.mark.parametrize("recipe", ["zero-shot", "fine-tune:lr=1e-2,steps=1"])
def test_nothing_is_lost_where_it_is_stopped_or_the_disk_is_full(recipe, tiny, tmp_path, monkeypatch):
    adapted, taken, left = adapted_to(recipe, tiny), list[str](), [2]
    learn = TrainedEngine.learn

    def forget(name: str, settings: str = QUICK) -> kshot.verbs.unlearn.Unlearnt:
        taken.clear()
        return kshot.unlearn(adapted, STREAM[:4], retain=STREAM[4:], settings=settings, out=tmp_path / name)

    def counted(self: TrainedEngine, batch: Batch) -> StepLog:
        if len(taken) == left[0]:
            raise KeyboardInterrupt
        taken.append("step")
        return learn(self, batch)

    def refuse(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(TrainedEngine, "learn", counted)
    monkeypatch.setattr("kshot.learners.unlearning.SECONDS_BETWEEN_STATES", -1)
    with pytest.raises(KeyboardInterrupt):
        forget("out")
    left[0] = 9
    with monkeypatch.context() as patch:
        patch.setattr(verb, "save", refuse)
        with pytest.raises(StorageError, match="the disk is full"):
            forget("out")
    assert len(taken) == 2  # of four; two were kept
    (report,) = (tmp_path / ".out.kept").glob("[!.]*.json")
    text = report.read_text("utf-8")
    report.write_text(text.replace('"n": 4', '"n": 5', 1), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_report", refuse)
        with pytest.raises(StorageError):  # damaged, it is measured again
            forget("out")
    report.write_text(text, "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_report", refuse)
        done = forget("out")
    assert not taken
    whole = forget("whole")
    assert len(taken) == 4
    assert done.report == whole.report
    assert done.model.fitted.trained.fingerprint == whole.model.fitted.trained.fingerprint  # type: ignore[union-attr]
    assert {place.name for place in tmp_path.iterdir()} == {"out", "whole"}


def test_what_was_kept_is_of_one_training_alone(tiny, tmp_path, monkeypatch):
    adapted = adapted_to("zero-shot", tiny)

    def refuse(*_: Any) -> None:
        raise StorageError("the disk is full")

    def forget(settings: str, retain: Sequence[Example] = STREAM[4:]) -> str:
        done = kshot.unlearn(adapted, STREAM[:4], retain=retain, settings=settings, out=tmp_path / "out")
        return done.model.fitted.trained.fingerprint  # type: ignore[union-attr]

    with monkeypatch.context() as patch:
        patch.setattr(verb, "save", refuse)
        for settings in (QUICK, f"{QUICK},lr=1e-3"):
            with pytest.raises(StorageError):
                forget(settings)
    assert len(list((tmp_path / ".out.kept").glob("*.safetensors"))) == 2
    assert forget(QUICK, STREAM[5:]) != forget(QUICK)


def test_a_model_before_training_is_what_was_learnt_before(tiny):
    """Without a step of its own a model that goes on says what it said; its teacher is that model, not the bare one."""
    asker = TaskModel.for_task(TASK, tiny)
    first = tiny.trainable(Training(lr=1e-2), seed=0)
    first.learn(Batch([asker.training_text(Lesson((), e)) for e in STREAM]))
    second = first.continued(Training(lr=1e-3), seed=0)
    texts = [asker.training_text(Lesson((), e, teacher=())) for e in STREAM[:2]]
    losses = [model.learn(Batch(texts, objective=Unlearn().objective)).loss_nats for model in (second, first)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses[1] > 1e-3
    for how in (Training(rank=4), Training(weights="full")):
        with pytest.raises(
            UserError, match="Weights that are trained further must be lora or full, and stay what they"
        ):
            first.continued(how, seed=0)


@pytest.mark.parametrize("recipe", ["random:k=3", "random:k=3,contexts=3", "bm25:k=2"])
def test_demonstrations_of_what_is_forgotten_are_not_shown_any_more(recipe, tiny, tmp_path):
    adapted = adapted_to(recipe, tiny)
    gone = adapted.pool[:2]
    said: list[str] = []
    progress = Silence()
    progress.say = said.append  # type: ignore[method-assign]
    done = kshot.unlearn(adapted, gone, settings=QUICK, out=tmp_path / "out", progress=progress)
    left = {e.id for e in adapted.pool} - {e.id for e in gone}
    again = load(tmp_path / "out")
    assert {e.id for e in again.pool} == left
    assert done.report["demonstrations_left_out"] == 2
    assert any("2 demonstrations ask what is to be forgotten" in text for text in said)
    assert again.predict(["the code of 3"]) == done.model.predict(["the code of 3"])
    assert gone[0].input not in (tmp_path / "out" / "demonstrations.jsonl").read_text("utf-8")
    everything, _ = without(adapted.fitted, STREAM)
    assert (everything.pool, everything.recipe.k, everything.recipe.part("selector")) == ((), 0, None)


def test_it_is_merged_exported_and_told_of_on_its_card(tmp_path):
    adapted = adapted_to("zero-shot", load_model(write_model(tmp_path / "base")))
    model = kshot.unlearn(adapted, STREAM[:3], retain=STREAM[3:], settings=QUICK).model
    card = card_of(model, "me/it", None)
    assert "| what it was to forget: squad_exact_match | 0.000 before, 0.000 now (3 rows) |" in card
    assert "It has forgotten. squad_exact_match of what it was to forget: 0.000 before" in card
    model.save_merged(tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").exists()
    from kshot.verbs.export import export

    export(model, "peft", tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter" / "adapter_model.safetensors").exists()


def test_the_command_line(run_cli, tmp_path, tiny):
    save(adapted_to("zero-shot", tiny), tmp_path / "model")
    for name, rows in (("forget", STREAM[:2]), ("retain", STREAM[2:])):
        lines = (f'{{"input": "{e.input}", "output": "{e.output}"}}\n' for e in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    how = (tmp_path / "forget.jsonl", "--retain", tmp_path / "retain.jsonl", "--settings", QUICK)
    done = run_cli("unlearn", tmp_path / "model", *how, "--out", tmp_path / "a", "--json")
    assert {name: done.json[name]["n"] for name in verb.GROUPS} == {
        "forget": 2, "attack": 2, "retain": 8, "held_out": 2, "neighbour": 2
    }  # fmt: skip
    told = run_cli("unlearn", tmp_path / "model", *how, "--out", tmp_path / "b")
    assert "  retain: 0.000 before, 0.000 now" in told.out
    assert "(8 rows)" in told.out
    assert [load(tmp_path / name).fitted.trained.fingerprint for name in "ab"] == [  # type: ignore[union-attr]
        load(tmp_path / "a").fitted.trained.fingerprint  # type: ignore[union-attr]
    ] * 2


# What is refused


def refused(message: str, *args: Any, **how: Any) -> None:
    with pytest.raises(UserError) as error:
        kshot.unlearn(*args, **how)
    assert message in str(error.value)


def test_rows_that_cannot_be_forgotten(tiny, tmp_path):
    adapted = adapted_to("zero-shot", tiny)
    both = (
        "2 rows of both ask the same: 'forget e1' and 'retain e1', 'forget e2' and 'retain e2'. Leave each out of one"
    )
    refused(both, adapted, STREAM[:3], retain=STREAM[1:])
    refused("The rows to forget must be one or more; got none. Give some.", adapted, ())
    refused("The rows to retain must be one or more; got none. Give some.", adapted, STREAM, retain=())
    (tmp_path / "empty.jsonl").write_text("", "utf-8")
    refused("empty.jsonl", adapted, tmp_path / "empty.jsonl")
    refused("an Example", adapted, [{"input": "a", "output": "b"}])
    other = Task("x", "classification", (Example("a", "yes", "1"), Example("b", "no", "2")), labels=("yes", "no"))
    refused("The model answers qa; 'x' is classification with the labels yes, no.", adapted, other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine", "utf-8")
    refused("it holds something else", adapted, STREAM[:1], out=tmp_path / "full")


def test_models_that_cannot_forget(tiny):
    closed = Task("x", "classification", (Example("a", "yes", "1"), Example("b", "no", "2")), labels=("yes", "no"))
    labels = adapted_to("zero-shot", tiny, closed)
    refused("this one is classification, with a list of answers. Leave the rows out", labels, closed.train)
    for recipe, why in (
        ("average(zero-shot,random:k=2)", "combines several recipes"),
        ("icv:strength=0.1", "steers the model, which would be another one then"),
        ("context-adapter:batch=1", "has trained a module beside the model (resampler)"),
    ):
        refused(why, adapted_to(recipe, tiny), STREAM[:1])
    refused("asks 'scripted', whose weights cannot be", adapted_to("zero-shot", load_model("scripted")), STREAM[:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("lr=0.0001/0.001", "must have one value for each setting, as nothing races here"),
        ("colour=red", "'fine-tune' has no setting 'colour'"),
        ("selector=bm25,k=2", "--settings must be those of fine-tune and its teacher; got selector"),
        ("direction=1", "got guidance, of which forgetting has no use"),
        ("teacher=unlearn(top=0)", "top must be 1 or more; got 0"),
    ],
)
def test_settings_of_which_it_has_no_use(settings, message, tiny):
    refused(message, adapted_to("zero-shot", tiny), STREAM[:1], settings=settings)


def test_weights_that_are_there_keep_their_rank(tiny):
    adapted = adapted_to("fine-tune:lr=1e-3,steps=1", tiny)
    refused("--settings must leave rank out, as the weights of 'fine-tune:lr=1e-3,steps=1' are", adapted, STREAM[:1],
            settings="rank=4")  # fmt: skip


def test_as_a_recipe_it_needs_a_row_to_forget():
    obstacle = parse_recipe("fine-tune:teacher=unlearn", shots=1).obstacle(TASK)
    assert obstacle == "its examples must have forget, and none has"
    assert not parse_recipe("fine-tune:teacher=unlearn", shots=1).obstacle(replace(TASK, train=tuple(marked(STREAM))))
