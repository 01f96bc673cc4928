"""The composer `instruction`: candidates by rules and by the model, and which of them the past prefers."""

import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kshot
from api_server import ApiServer, served
from kshot.core.models import Capability
from kshot.core.types import Example, GenerateRequest, Generation, Prompt, Question, Task
from kshot.engine.load_model import load_model
from kshot.methods.composers.instruction import Instruction, by_rules, cleaned, fault
from kshot.models.scripted import ScriptedModel
from kshot.prompts.fitting import prompt_tokens
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from kshot.testing.check_part import check_part
from test_chat import SHAPES, chat_engine, chat_tokenizer

LABELS = ("good", "bad")
ROWS = tuple(Example(f"{'a fine' if i % 2 == 0 else 'an awful'} day, number {i}", LABELS[i % 2], f"r{i}")
             for i in range(24))  # fmt: skip
TASK = Task("days", "classification", ROWS[:16], ROWS[16:], labels=LABELS, instruction="Name it.")
RIGHT = "Judge the weather of the day."


class Obedient(ScriptedModel):
    """Is right where it is told RIGHT, and writes `texts` in turn where it is asked for an instruction."""

    def __init__(self, *texts: str, right: str = RIGHT, **settings: Any):
        super().__init__({"fine": "good", "awful": "bad"}, **settings)
        self.texts, self.right, self.requests = texts, right, list[GenerateRequest]()

    def generate(self, requests: Any, **how: Any) -> list[Generation]:
        if any(r.allowed for r in requests):
            return super().generate(requests, **how)
        self.requests += requests
        return [Generation(self.texts[r.seed % len(self.texts)], True) for r in requests]

    def _believed(self, prompt: Prompt) -> str | None:
        right = super()._believed(prompt)
        return right if self.right in prompt.text else LABELS[right == "good"]


class Mute(Obedient):
    capabilities = frozenset({Capability.SCORE})


class Unscored(Obedient):
    capabilities = frozenset({Capability.GENERATE})


def fit(model: Any, n: int = 16, task: Task = TASK, **settings: Any) -> tuple[Instruction, dict[str, Any]]:
    told: list[Any] = []
    asked = replace(TaskModel.for_task(task, model), notes=told.append)
    return Instruction(**settings).fit(task.train[:n], model=asked, rng=np.random.default_rng(0)), told[0]


def said(composer: Instruction, task: Task = TASK) -> list[str]:
    script = composer.compose(task, (), Question("a day", "q"))
    return [piece.text for piece in script.pieces if piece.role == "instruction"]


@pytest.mark.parametrize("kind", [Obedient, Unscored])
def test_what_the_model_writes_is_said_where_the_past_costs_fewer_bits_under_it(kind):
    found, told = fit(kind("Name the colour.", f'"{RIGHT}"', "Count the words."))
    assert said(found) == [RIGHT]
    assert said(found.alternatives[0]) == [RIGHT]
    assert {said(one)[0] for one in found.alternatives} >= {RIGHT, "Name it."}
    assert told["candidates"][0]["instruction"] == RIGHT
    assert told["candidates"][0]["bits"] < -20  # 32 examples at most, log2(9) bits each


def test_without_evidence_it_is_the_tasks_own():
    assert said(fit(Obedient(RIGHT), n=0)[0]) == ["Name it."]
    assert said(Instruction()) == ["Name it."]
    assert Instruction().alternatives == (Instruction(),)
    assert said(fit(Obedient("Count the words.", right="nothing"))[0]) == ["Name it."]
    assert said(fit(Obedient(RIGHT), n=16, task=replace(TASK, instruction=""))[0]) == [RIGHT]


def test_candidates_are_not_scored_on_the_examples_that_they_were_written_from():
    model = Obedient(RIGHT)
    scored: list[str] = []
    plain = model.score
    model.score = lambda requests, **how: scored.extend(r.prompt.text for r in requests) or plain(requests, **how)
    fit(model, n=4, source="model")
    source = [e.input for e in ROWS[:4] if e.input in model.requests[0].prompt.text]
    assert source == [e.input for e in ROWS[2:4]]
    under_it = [text for text in scored if RIGHT in text]
    assert under_it
    assert not any(text in prompt for text in source for prompt in under_it)


def test_what_comes_later_does_not_change_what_was_chosen_before():
    """The candidates of the first eight examples are written and kept alike, whatever follows them."""
    other = replace(TASK, train=(*ROWS[:8], *(replace(e, input=f"other {e.input}") for e in ROWS[8:16])))
    first = [fit(m, n=8, task=task)[0] for task in (TASK, other) for m in [Obedient("Name the colour.", RIGHT)]]
    assert said(first[0]) == said(first[1])
    assert first[0].alternatives == first[1].alternatives
    model, again = (Obedient("Name the colour.", RIGHT) for _ in range(2))
    fit(model, n=8)
    fit(again, n=16)
    assert [r.prompt for r in again.requests[: len(model.requests)]] == [r.prompt for r in model.requests]


def test_nothing_is_asked_twice(tmp_path):
    with closing(SqliteStore(tmp_path / "store.sqlite")) as store:
        engine = load_model("tiny").with_store(store)
        asked = TaskModel.for_task(TASK, engine)
        for n in (8, 8):
            part = replace(asked, ledger=asked.ledger.part())
            Instruction(asked=4).fit(ROWS[:n], model=part, rng=np.random.default_rng(0))
    assert part.ledger.cost.scored == 0
    assert part.ledger.cost.reused > 0


def test_after_demonstrations_where_it_is_chosen_jointly():
    model = Obedient(RIGHT)
    seen: list[Prompt] = []
    plain = model.score
    model.score = lambda requests, **how: seen.extend(r.prompt for r in requests) or plain(requests, **how)
    fit(model, joint=2)
    shown = [[s.text for s in prompt.segments if s.role == "demonstration"] for prompt in seen]
    first = [[], [f"Text: {ROWS[0].input}\nLabel:"], [f"Text: {e.input}\nLabel:" for e in ROWS[:2]]]
    assert all(some in first for some in shown)
    assert first[2] in shown
    assert not {f"Text: {e.input}\nLabel:" for e in ROWS[:2]} & {prompt.segments[-1].text for prompt in seen}


def test_sources():
    assert fit(Obedient(RIGHT), source="rules")[0]._texts == fit(Mute(RIGHT))[0]._texts
    assert not any(text == RIGHT for text in fit(Mute(RIGHT))[0]._texts)
    by_model = fit(Obedient(RIGHT), source="model")[0]
    assert {said(one)[0] for one in by_model.alternatives} == {RIGHT, "Name it."}
    assert Instruction(source="model").needs == {Capability.GENERATE}
    assert Instruction().needs == frozenset()


def test_why_candidates_are_rejected_is_counted():
    texts = ("", "good, bad", "a fine day, number 2", "Say good, bad or neutral.", "word " * 50 + ".", "Name it.")
    model = Obedient(*texts, right="nothing")
    _, told = fit(model, n=4, seeds=6, longest=40)
    assert told["rejected"] == {"empty": 1, "nothing but labels": 1, "other labels": 1, "repeats an example": 1,
                                "there already": 1, "too long": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "labels", "reason"),
    [
        ("", LABELS, "empty"),
        ("...", LABELS, "empty"),
        ("Say what\x13 it is about.", LABELS, "not plain text"),
        ("Say what \ufffd it is about.", LABELS, "not plain text"),
        ("good or bad", LABELS, "nothing but labels"),
        ("Label: bad", LABELS, "nothing but labels"),
        ("Write: an awful day, number 1", LABELS, "repeats an example"),
        ("Say whether it is good, bad or neutral.", LABELS, "other labels"),
        ("Answer with 'positive' or 'negative'.", LABELS, "other labels"),
        ("Choose one of these: sport, tech.", LABELS, "other labels"),
        ("Classify it as good or bad.", (*LABELS, "fair"), "other labels"),
        ("Classify it as good, bad or fair.", (*LABELS, "fair"), None),
        ("Read the text, think, and say how the day was.", LABELS, None),
        ("Is the day a good one? Don't think about it.", LABELS, None),
        ("Name the kind of day in one word or two.", LABELS, None),
    ],
)
def test_faults(text, labels, reason):
    assert fault(text, replace(TASK, labels=labels), ROWS[:2]) == reason


def test_an_open_tasks_outputs_are_not_repeated():
    task = Task("t", "generation", (Example("1 hat", "one hat", "a"),), metrics=("exact_match",))
    assert fault("Write 'one hat'.", task, task.train) == "repeats an example"
    assert fault("Write the number in words.", task, task.train) is None


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("\n\n The instruction was: 'Name it all.'\nInput: x", "Name it all."),
        ("Instruction:  Say   it! Then", "Say it! Then"),
        ("**Judge e.g. the day.**", "Judge e.g. the day."),
        ("Name it", "Name it"),
        ("'Name it'\n\nText: cut", "Name it"),
        ("", ""),
    ],
)
def test_what_is_written_is_cleaned(written, text):
    assert cleaned(written) == text
    assert cleaned("It came to no", finished=False) == ""


def test_rules_hold_for_every_kind():
    for kind in ("classification", "multiple_choice", "generation", "qa", "math", "parsing"):
        task = Task("my_task", kind, (), labels=LABELS if kind == "classification" else ())
        texts = by_rules(task)
        assert len(set(texts)) >= 2
        assert not any("{" in text or fault(text, task, ()) for text in texts)
    many = replace(TASK, labels=tuple(f"label-{i}" for i in range(77)))
    assert fit(Obedient(RIGHT), n=0, task=many, source="rules")[1]["rejected"] == {"too long": 3}


def test_texts_too_long_for_the_model_are_asked_about_with_fewer_pairs():
    long = replace(TASK, train=tuple(replace(e, input=f"{e.input} " + "word " * 100) for e in ROWS[:16]))
    model = Obedient(RIGHT, max_tokens=200)
    fit(model, task=long)
    assert all(model.count_tokens(r.prompt.text) <= 200 - 60 for r in model.requests)


@pytest.mark.parametrize("settings", [{}, {"source": "rules"}, {"joint": 2, "asked": 3}])
def test_it_keeps_the_contract(settings):
    check_part(Instruction(**settings))


def test_chat_models_are_asked_in_a_message():
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    model = TaskModel.for_task(TASK, engine)
    found = Instruction(asked=2, seeds=1, longest=8).fit(ROWS[:4], model=model, rng=np.random.default_rng(0))
    chosen = Instruction(_texts=(RIGHT,))
    assert f"<|im_start|>system\n{RIGHT}<|im_end|>" in replace(model, composer=chosen).compose((), ROWS[0]).text
    assert found.alternatives


def test_it_is_adapted_saved_and_loaded(tmp_path):
    run = kshot.adapt(TASK, "tiny", out=tmp_path / "run", recipes="zero-shot:composer=instruction(asked=4,seeds=1)")
    answers = run.best.predict(["a fine day"])
    assert kshot.load(tmp_path / "run").predict(["a fine day"]) == answers
    kept = json.loads((tmp_path / "run" / "best" / "composer.json").read_text("utf-8"))
    assert kept["_texts"]


def test_a_service_writes_and_scores(tmp_path, services_alone):
    with served(ApiServer()) as server:
        run = kshot.adapt(TASK, server.name, limit=4, shots=2, out=tmp_path / "run",
                          recipes="zero-shot:composer=instruction(asked=2,seeds=1)")  # fmt: skip
        assert set(run.best.predict(["a fine day"])) <= set(LABELS)
        assert "I gave a friend" in json.dumps(server.asked)


@pytest.mark.parametrize(("n_words", "most"), [(2, 62), (40, 110)])
def test_what_does_not_fit_is_neither_asked_for_nor_said(n_words, most):
    """No request is sent, or one with fewer pairs; a question without room for the best instruction has the task's."""

    class Strict(Obedient):
        def generate(self, requests: Any, **how: Any) -> list[Generation]:
            assert all(prompt_tokens(r.prompt, self) + r.max_tokens <= self.max_tokens for r in requests)
            return super().generate(requests, **how)

    told = list[Any]()
    rows = (replace(ROWS[0], input=ROWS[0].input + " on" * n_words), *ROWS[1:16])
    model = Strict(RIGHT + " It can be said." * 5, max_tokens=most)
    asked = replace(TaskModel.for_task(replace(TASK, train=rows), model), notes=told.append)
    fitted = Instruction().fit(rows, model=asked, rng=np.random.default_rng(0))
    saying = replace(asked, composer=fitted)
    assert all(saying.prompt((), row) for row in rows)
    assert (told[0]["rejected"].get("no room", 0) > 0) == (not model.requests)
    saying = replace(asked, composer=replace(fitted, _texts=("so it is " * most,)))
    assert saying.prompt((), rows[0]) == asked.prompt((), rows[0])
