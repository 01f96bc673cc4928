"""The combiner `taught`: answers weighed by how well they teach."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
import planted_talk as planted
from kshot.core.types import Example, Prediction, Question, Task
from kshot.measures.averages import averaged
from kshot.methods.combiners.taught import Taught, best_taught, exam_score
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import TaskModel

SUMS = tuple(Example(f"sum {i} of {i} and {i}", str(2 * i), f"s{i}") for i in range(20))
TASK = Task("sums", "math", SUMS, metrics=("exact_match",))


class Student(ScriptedModel):
    """Learns from a reason: a right one helps with other questions, and a wrong one misleads; each by chance."""

    def _answer(self, request):
        text = request.prompt.text
        noise = (hash_of(text) % 100) / 400
        p = 0.6 + noise if "add them" in text else 0.2 + noise if "take one" in text else 0.3
        return np.log([p])


def hash_of(text: str) -> int:
    from kshot.core.seeding import digest

    return int(digest(text)[:8], 16)


def said(answer: str, reason: str) -> Prediction:
    return Prediction("q", (answer,), (-1.0,), (0.3,), answer, found=({"reason": reason},))


def samples(rng: np.random.Generator, right: str, wrong: str) -> list[Prediction]:
    """Seven answers, most of them wrong for one reason or another; right ones have the right reason."""
    n_right = int(rng.integers(1, 4))
    rows = [said(right, f"add them {i}") for i in range(n_right)] + [said(wrong, f"take one {i}") for i in range(4)]
    return [rows[i] for i in rng.permutation(len(rows))]


def test_the_answer_that_teaches_wins_where_the_majority_is_wrong():
    rng, model = np.random.default_rng(0), TaskModel.for_task(TASK, Student())
    combiner, n_majority, n_sum, n_best = Taught().knowing(TASK, SUMS), 0, 0, 0
    for i in range(40):
        own = samples(rng, str(2 * i), str(2 * i - 1))
        asked = Question(f"sum {i} of {i} and {i}", f"new{i}")
        n_majority += Counter(p.answer for p in own).most_common(1)[0][0] == str(2 * i)
        n_sum += combiner.examining(asked, own, model=model).combine(TASK, own).answer == str(2 * i)
        best = replace(combiner, by="max").examining(asked, own, model=model)
        n_best += best.combine(TASK, own).answer == str(2 * i)
    assert n_majority == 0
    assert n_sum > 15  # three right against four wrong, and some two
    assert n_best == 40


def test_right_reasons_have_the_larger_scores():
    model = TaskModel.for_task(TASK, Student())
    right, wrong = (
        sorted(exam_score(model, replace(SUMS[0], explanation=f"{why} {i}"), SUMS[1:4]) for i in range(20))
        for why in ("add them", "take one")
    )
    assert all(a > b for a, b in zip(right, wrong, strict=True))  # at every quantile


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
def test_without_an_exam_it_is_the_majority(answers):
    rows = [said(answer, "") for answer in answers]
    combiner = Taught(exam=0).knowing(TASK, SUMS)
    model = TaskModel.for_task(TASK, Student())
    found = combiner.examining(Question("?", "q"), rows, model=model).combine(TASK, rows)
    assert found == averaged(rows, mean="arithmetic", is_open=True)
    assert found.answer == Counter(answers).most_common(1)[0][0] == best_taught(answers, [])


def test_ties_go_to_the_more_frequent_and_then_to_the_first():
    assert best_taught(["a", "b", "b"], [0.4, 0.2, 0.2]) == "b"
    assert best_taught(["b", "a"], [0.5, 0.5]) == "b"


def test_probabilities_are_weighed_by_the_scores():
    rows = [Prediction("q", ("one", "two"), (0, 0), p, "one") for p in ((0.9, 0.1), (0.2, 0.8))]
    found = replace(Taught(), _scores=(0.75, 0.25)).combine(planted.TASK, rows)
    assert found.probs == pytest.approx((0.75 * 0.9 + 0.25 * 0.2, 0.75 * 0.1 + 0.25 * 0.8))


def test_the_question_itself_is_never_in_its_exam():
    asked = []

    class Spied(Student):
        def _answer(self, request):
            asked.append(request.prompt.segments[-1].text)
            return super()._answer(request)

    combiner = Taught().knowing(TASK, SUMS)
    question = SUMS[3].question
    rows = [said("6", "add them"), said("5", "take one")]
    combiner.examining(question, rows, model=TaskModel.for_task(TASK, Spied()))
    assert len(asked) == 6
    assert not any("sum 3 of" in text for text in asked)


def test_it_is_measured_on_the_past_alone_saved_and_loaded(tmp_path):
    recipe = "taught(bm25:k=2,zero-shot,random:k=2)"
    run = kshot.adapt(planted.TASK, "tiny", recipes=recipe, shots=2, out=tmp_path / "run")
    inputs = ["text 3", "text 40"]
    before = run.best.predict_proba(inputs)
    assert (kshot.load(tmp_path / "run").predict_proba(inputs) == before).all()
    plain = kshot.adapt(planted.TASK, "tiny", recipes=recipe.replace("taught", "average"), shots=2, out=tmp_path / "a")
    assert not np.allclose(plain.best.predict_proba(inputs), before, atol=1e-12)
