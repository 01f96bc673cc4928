"""The suite `twins`: a base with demonstrations beside its tuned twin without, on one task and over several."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.types import Example, Generation, Task
from kshot.evaluators.twins import Twins
from kshot.measures.correlation import pearson, spearman
from kshot.measures.measured import Measured
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import TaskModel

ROWS = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(18)))
TASK = Task("words", "classification", ROWS[:9], ROWS[9:], labels=("animal", "food", "tool"), instruction="Which kind?")
KNOWS = {e.input: e.output for e in ROWS}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Tuned(ScriptedModel):
    """What was trained of a base: it knows answers without demonstrations, and writes inputs."""

    def __init__(self, table, base, writes=("a red cat", "the old saw")):
        super().__init__(table, name="tuned")
        self.base, self._writes, self.asked = base, writes, []

    def with_store(self, store):
        return self

    def generate(self, requests, **how):
        self.asked += [request.prompt.text for request in requests]
        own = [r for r in requests if r.temperature]
        return [Generation(f" {self._writes[r.seed % len(self._writes)]}", True) for r in own] or super().generate(
            requests, **how
        )


class Base(ScriptedModel):
    """Answers as the demonstration most like the question; it remembers what it was asked."""

    def __init__(self):
        super().__init__(name="base")
        self.asked = []

    def score(self, requests, **how):
        self.asked += [request.prompt.text for request in requests]
        return super().score(requests, **how)


def test_each_twin_is_asked_in_its_own_way():
    base = Base()
    tuned = Tuned(KNOWS, base)
    found = Twins(k=3, sets=2).beside(TASK, TaskModel.for_task(TASK, tuned), rng=rng())
    assert found["tuned"].value == 1
    assert 0 < found["base"].value < 1
    assert found["gain"].value == pytest.approx(1 - found["base"].value)
    texts = [text for text in base.asked if text.count("Label:") == 4]
    assert len(texts) == len(base.asked) == 9
    assert len({text.rsplit("\n\n", 1)[0] for text in texts}) == 2
    assert found["gain"].units == [e.id for e in TASK.test]


def test_ordered_labels_are_answered_with_the_median_where_the_task_says_so():
    class Torn(Base):
        def score(self, requests, **how):
            return [np.log([0.4, 0.25, 0.35]) for _ in super().score(requests, **how)]

    rows = tuple(replace(e, output="2") for e in ROWS)
    stars = Task("stars", "classification", rows[:9], rows[9:], labels=("1", "2", "3"), ordered=True)
    for answer, right in (("median", 1), ("most-probable", 0)):
        task = replace(stars, answer=answer, metrics=("accuracy",))
        found = Twins(k=2).beside(task, TaskModel.for_task(task, Tuned({}, Torn())), rng=rng())
        assert found["base"].value == right


def test_correlations_are_one_for_equal_scores_and_none_for_shuffled_ones():
    scores = rng(1).random(400)
    same = np.column_stack([scores, scores])
    assert pearson(same) == pytest.approx(1)
    assert spearman(np.column_stack([scores, scores**5])) == pytest.approx(1)
    assert pearson(np.column_stack([scores, scores**5])) < 0.95
    shuffled = np.column_stack([scores, rng(2).permutation(scores)])
    assert abs(pearson(shuffled)) < 0.12
    told = Measured([str(i) for i in range(400)], shuffled, spearman).record(rng())
    assert told["low"] < 0 < told["high"]
    assert spearman(np.column_stack([scores, -scores])) == pytest.approx(-1)
    assert np.isnan(pearson(np.column_stack([scores, np.ones(400)])))


@pytest.mark.parametrize("seed", range(4))
def test_correlations_are_those_of_scipy(seed):
    rows = rng(seed).integers(5, size=(30, 2)).astype(float)
    assert pearson(rows) == pytest.approx(stats.pearsonr(*rows.T).statistic)
    assert spearman(rows) == pytest.approx(stats.spearmanr(*rows.T).statistic)


def folders(place, n, *, with_test=True):
    for i in range(n):
        rows = [{"input": e.input, "output": e.output if i else "tool"} for e in ROWS]
        write_task(place / f"task{i}", rows[:9], rows[9:] if with_test else None, {"kind": "classification",
                   "labels": list(TASK.labels)})  # fmt: skip
    return str(place)


def test_over_several_tasks_the_scores_are_correlated(tmp_path):
    task, model = replace(TASK, name="own"), TaskModel.for_task(TASK, Tuned(KNOWS, Base()))
    found = Twins(k=3, tasks=folders(tmp_path, 3), rows=4).beside(task, model, rng=rng())
    assert [row["task"] for row in found["tasks"]] == ["own", "task0", "task1", "task2"]
    assert found["tasks"][0]["tuned"] == 1
    scores = np.array([[row["base"], row["tuned"]] for row in found["tasks"]])
    assert found["pearson"].value == pytest.approx(pearson(scores), nan_ok=True)
    assert found["pearson"].units == ["own", "task0", "task1", "task2"]


def test_the_tuned_twin_writes_what_the_base_is_shown():
    base, task = Base(), replace(TASK, train=())
    tuned = Tuned(KNOWS, base)
    suite = Twins(k=2, sets=2, writes=True)
    assert suite.obstacle(task) is None
    found = suite.beside(task, TaskModel.for_task(task, tuned), rng=rng())
    assert set(tuned.asked) == {"Which kind?\n\nText:"}
    assert found["n_written"] == 2
    assert {row["input"] for row in found["written"]} == {"a red cat", "the old saw"}
    assert all("a red cat" in text and "the old saw" in text for text in base.asked)


def test_what_it_needs_is_said(tmp_path, run_cli):
    model = TaskModel.for_task(TASK, Tuned(KNOWS, Base(), writes=("", " ")))
    with pytest.raises(UserError, match="must hold text; all 4 that 'tuned' wrote are empty. Leave writes out"):
        Twins(k=2, sets=2, writes=True).beside(TASK, model, rng=rng())
    with pytest.raises(UserError, match="needs a system whose weights were trained, beside its base; 'base' is asked"):
        Twins().beside(TASK, TaskModel.for_task(TASK, Base()), rng=rng())
    with pytest.raises(UserError, match="must be a folder that holds 2 folders of tasks or more; it holds 1. Name an"):
        Twins(tasks=folders(tmp_path / "few", 1)).beside(TASK, model, rng=rng())
    with pytest.raises(UserError, match="must have test rows; .*task0 has none. Add a file test.jsonl"):
        Twins(tasks=folders(tmp_path / "bare", 2, with_test=False)).beside(TASK, model, rng=rng())
    assert "it must have training rows" in (Twins().obstacle(replace(TASK, train=())) or "")
    sets = Task("s", "multi_label", ROWS[:2], ROWS[2:], labels=("a", "b"))
    assert "it is multi_label, where each label is right or wrong by itself" in (Twins().obstacle(sets) or "")
    chosen = Task("c", "multiple_choice", ROWS[:2], ROWS[2:])
    assert "whose rows have no choices of their own; these have" in (Twins(writes=True).obstacle(chosen) or "")
    passage = replace(TASK, test=(replace(ROWS[0], context="x"),))
    assert "whose rows have no context of their own; these have" in (Twins(writes=True).obstacle(passage) or "")


def test_a_run_that_trained_weights_is_asked_beside_its_base(run_cli, tmp_path):
    folder = write_task(tmp_path / "words", labelled_rows(9), labelled_rows(4, start=9))
    run_cli("adapt", folder, "--model", "tiny", "--recipes", "fine-tune:lr=1e-3,steps=1", "--out", tmp_path / "run")
    found = run_cli("evaluate", tmp_path / "run", folder, "--suite", "twins:k=2", "--json").json
    assert (found["n"], found["metric_name"]) == (4, "accuracy")
    assert found["gain"]["value"] == pytest.approx(found["tuned"]["value"] - found["base"]["value"])
    run_cli("adapt", folder, "--model", "tiny", "--recipes", "zero-shot", "--out", tmp_path / "plain")
    done = run_cli("evaluate", tmp_path / "plain", folder, "--suite", "twins")
    assert done.code == 2
    assert "needs a system whose weights were trained" in done.err
