"""Models that only write or only score are models like others: adapted, saved, loaded, and asked."""

from dataclasses import replace

import numpy as np
import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.models import Capability
from kshot.core.types import Example, Task
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import WRITTEN, TaskModel, written_log_probs


class Bare:
    """What every model must say of itself, and nothing that it could be asked."""

    def __init__(self):
        self._whole = ScriptedModel()
        self.name, self.origin, self.fingerprint = "bare", {}, self._whole.fingerprint
        self.weights_id = self.old_fingerprint = self.fingerprint
        self.max_tokens, self.remark, self.chat, self.control_tokens = 4096, None, None, ()
        self.is_remote = self.in_messages = False
        self.about: dict[str, object] = {}
        self.count_tokens = self._whole.count_tokens

    def with_store(self, store):
        return self


class Writer(Bare):
    capabilities = frozenset({Capability.GENERATE})

    def generate(self, requests, *, progress=None, ledger=None):
        return self._whole.generate(requests, progress=progress, ledger=ledger)


class Scorer(Bare):
    capabilities = frozenset({Capability.SCORE})

    def score(self, requests, *, progress=None, ledger=None):
        return self._whole.score(requests, progress=progress, ledger=ledger)

    def forward_tokens(self, requests):
        return 0


def task(kind="classification", n=12):
    rows = [("it rains", "wet"), ("the sun shines", "dry")] * n
    examples = tuple(Example(f"{text}, day {i}", label, f"e{i}") for i, (text, label) in enumerate(rows[:n]))
    is_open = kind != "classification"
    return Task(
        "t",
        kind,
        examples,
        labels=() if is_open else ("dry", "wet"),
        metrics=("exact_match" if is_open else "accuracy",),
    )


INPUTS = ["it rains today", "how the sun shines"]


@pytest.mark.parametrize("model", [Writer(), Scorer()], ids=["writes", "scores"])
def test_a_model_with_one_capability_is_adapted_saved_and_loaded(model, tmp_path):
    run = kshot.adapt(task(), model, recipes="zero-shot,bm25,random", shots=4, out=tmp_path / "run")
    assert {row["status"] for row in run.leaderboard} <= {"done", "dropped"}
    assert run.best.predict(INPUTS) == ["wet", "dry"]
    again = kshot.load(tmp_path / "run", model=model)
    assert np.array_equal(again.predict_proba(INPUTS), run.best.predict_proba(INPUTS))


def test_what_is_written_has_most_of_the_probability():
    assert written_log_probs("b", ("a", "b", "c")) == pytest.approx(np.log([0.05, WRITTEN, 0.05]))
    assert written_log_probs("else", ("a", "b")) == pytest.approx(np.log([0.5, 0.5]))
    assert written_log_probs("a", ("a",)) == pytest.approx(np.log([WRITTEN]))
    assert written_log_probs("b", ("a",)) == pytest.approx(np.log([1 - WRITTEN]))


def test_an_answer_is_written_whatever_white_space_is_around_it_in_the_rows():
    rows = tuple(Example("it rains", output, f"e{i}") for i, output in enumerate(("wet", " wet", "wet\n", "dry ")))
    model = TaskModel.for_task(Task("t", "generation", rows, metrics=("exact_match",)), Writer())
    (said,) = model.generate([model.prompt((), rows[0])[0]])
    exact = tuple(replace(e, output=e.output.replace(e.output.strip(), said.text.strip())) for e in rows)
    assert model.code_lengths([()] * 4, exact) == pytest.approx([-np.log2(WRITTEN)] * 4)


def test_an_open_task_for_a_model_that_writes(tmp_path):
    run = kshot.adapt(task("generation"), Writer(), recipes="zero-shot,bm25", shots=4, out=tmp_path)
    assert run.chosen == "bm25"
    assert run.best.predict(INPUTS) == ["wet", "dry"]


def test_an_open_task_needs_a_model_that_writes(tmp_path):
    with pytest.raises(UserError, match="'zero-shot' needs a model that can generate; give another --model"):
        kshot.adapt(task("generation"), Scorer(), recipes="zero-shot", shots=4, out=tmp_path)
    model = TaskModel.for_task(task("generation"), Scorer())
    with pytest.raises(UserError, match="need a model that can write; 'bare' only scores. Give another --model"):
        model.generate([model.prompt((), task().train[0])[0]])


@pytest.mark.parametrize("recipe", ["fine-tune:lr=1e-3", "icv", "best-of-n"])
def test_a_part_that_needs_more_says_so(recipe, tmp_path):
    with pytest.raises(UserError, match="needs a model that can (be trained|be steered|score)"):
        kshot.adapt(task(), Writer(), recipes=recipe, shots=4, out=tmp_path)
