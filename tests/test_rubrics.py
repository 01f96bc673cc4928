"""The suite `rubrics`: what passes, who judges, and tasks that cannot be solved without what they tell."""

import re
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import ModelError, UserError
from kshot.core.json_text import to_json
from kshot.core.types import Example, Generation, Task
from kshot.evaluators import EVALUATORS
from kshot.evaluators.invented_rules import CATEGORIES, invented_items
from kshot.evaluators.rubric_items import Rubric, RubricItem, read_items, script_of
from kshot.evaluators.rubrics import Rubrics, verdict
from kshot.measures.intervals import wilson
from kshot.methods import roles
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.load import load_task
from kshot.verbs.evaluate import evaluate, fitted, load_models_of

NUMBERS = "zero one two three four five six seven eight nine"
TASK = Task("t", "qa", (Example("1", "a", "e1"),), (Example("2", "b", "e2"),))


def rng(seed=0):
    return np.random.default_rng(seed)


class Saying(ScriptedModel):
    """Writes what a function says of the whole prompt."""

    def __init__(self, say):
        super().__init__(name="saying")
        self.say, self.asked = say, []

    def _text(self, request):
        self.asked.append(request.prompt.text)
        return Generation(self.say(request.prompt.text), True)


def value(measured) -> float:
    return measured.statistic(measured.rows)


def found(model, suite, seed=0):
    return suite.beside(TASK, TaskModel.for_task(TASK, model), rng=rng(seed))


def reader(prompt: str) -> str:
    """Answers from the rules in the prompt alone; without them it guesses among what there is to choose."""
    rules, asked = ("", prompt) if "Rules of the town" not in prompt else prompt.split("\n\nQuestion: ")
    luck = np.random.default_rng([ord(c) for c in prompt])
    numbers = {word: n for n, word in enumerate(NUMBERS.split())}
    if said := re.search(r"how many (\w+) are (\d+) (\w+)\?", asked):
        small, n, large = said.groups()
        per = re.search(rf"One {large} is (\w+) {small}\.", rules)
        return str(int(n) * numbers[per[1]] if per else luck.integers(1, 100))
    if said := re.search(r"who carries (\w+) enter \w+: (.*)\?", asked):
        rule = re.search(rf"Who carries {said[1]} enters by the (\w+) gate", rules)
        return rule[1] if rule else str(luck.choice(re.findall(r"red|blue|green|white", said[2])))
    if said := re.search(r"with commas between them: (.*)\.", asked):
        names = said[1].split(", ")
        above = re.findall(r"The (\w+) stands above the (\w+)\.", rules)
        order = [above[0][0], *(low for _, low in above)] if above else list(luck.permutation(names))
        return ", ".join(sorted(names, key=order.index))
    goods = re.findall(r"\w+", re.search(r"Which two of (.*) may be sold", asked)[1].replace(" and ", " "))
    rule = re.search(r"On market day (\w+) and (\w+) may be sold", rules)
    return " and ".join(rule.groups() if rule else luck.permutation(goods)[:2])


def test_without_the_rules_a_reader_falls_to_chance():
    report = found(Saying(reader), Rubrics(systems=60))
    assert value(report["solved"]) == 1
    low, high = wilson(240 * value(report["without_context"]["solved"]), 240)
    assert low < report["chance"] < high
    assert report["chance"] == pytest.approx((0 + 1 / 4 + 1 / 6 + 1 / 6) / 4)
    assert set(report["by_category"]) == set(CATEGORIES)
    assert all(value(one) == 1 for one in report["by_category"].values())


def test_a_task_is_solved_where_all_its_rubrics_pass():
    report = found(Saying(lambda prompt: "honey, salt, red"), Rubrics(systems=5))
    passed = [one["passed"] for one in report["answers"]]
    assert report["solved"].values == pytest.approx([float(all(some)) for some in passed])
    assert report["mean_rubric"].values == pytest.approx([np.mean(some) for some in passed])


@pytest.mark.parametrize("seed", range(5))
def test_invented_towns_are_short_and_different(seed):
    items = invented_items(10, rng=rng(seed))
    assert len({item.id for item in items}) == 40
    assert len({item.messages[0][1] for item in items}) == 10
    assert max(len(text) for item in items for _, text in item.messages) < 1100  # characters: below 800 tokens
    assert items == invented_items(10, rng=rng(seed))


checks = st.sampled_from([
    Rubric("regex", "a+"), Rubric("number", number=3), Rubric("set", items=("a",), among=("a", "b")),
    Rubric("order", items=("a", "b")),
])  # fmt: skip


@given(st.lists(checks, min_size=1, max_size=3), st.sampled_from(["a", "b, a", "a 3", "a then b: 3"]))
def test_the_order_of_rubrics_does_not_matter(rubrics, answer):
    results = set()
    for some in permutations(rubrics):
        item = RubricItem("1", "", "none", (("user", "?"),), tuple(some))
        suite = replace(Rubrics(), _items=(item,))
        report = found(Saying(lambda prompt: answer), suite)
        results.add((value(report["solved"]), value(report["mean_rubric"])))
    ((solved, mean),) = results
    assert solved == float(all(rubric.passes(answer) for rubric in rubrics))
    assert mean == pytest.approx(np.mean([rubric.passes(answer) for rubric in rubrics]))


@pytest.mark.parametrize(
    ("rubric", "yes", "no"),
    [
        (Rubric("regex", r"^\d{4}$"), "2026", "20266"),
        (Rubric("number", number=1250), "So 3 times: 1,250.", "1250 and then 3"),
        (Rubric("number", number=0.5, tolerance=0.01), "0.495", "none"),
        (Rubric("number", number=0.3, tolerance=0.1), "0.4", "0.41"),
        (Rubric("number", number=12), "pages 10-12", "It is -12."),
        (Rubric("number", number=-3), "\u22123", "10-3"),
        (Rubric("number", number=0.5), "It is .5", "5"),
        (Rubric("number", number=2), "1,2", "12"),
        (Rubric("set", items=("Red", "blue"), among=("red", "blue", "green")), "blue and red", "blue, red, green"),
        (Rubric("set", items=("red",), among=("blue",)), "RED", "hundred"),
        (Rubric("order", items=("x", "y", "z")), "x, then y, z", "y, x, z"),
    ],
)
def test_checks_say_what_they_must(rubric, yes, no):
    assert rubric.passes(yes)
    assert not rubric.passes(no)


def record(**changes):
    known = {
        "messages": [
            {"role": "system", "content": "Zib is 7."},
            {"role": "user", "content": "What is zib?"},
        ],
        "rubrics": ["The answer must say 7.", {"check": "number", "number": 7}],
        "metadata": {"task_id": "t1", "context_id": "c1", "context_category": "rules", "sub_category": "x"},
    }
    return {**known, **changes}


def written(folder, *records):
    file = folder / "tasks.jsonl"
    file.write_text("\n".join(map(to_json, records)) + "\n")
    return file


def test_a_file_in_the_published_schema_is_judged(tmp_path):
    judge = tmp_path / "judge.json"
    judge.write_text(to_json({"Answer:\n7\n": "Yes."}))
    talk = [("user", "Hi"), ("assistant", "Hello"), ("user", "zib?")]
    messages = [{"role": role, "content": text} for role, text in talk]
    second = record(metadata={"task_id": 2, "category": "facts"}, messages=messages)
    file = written(tmp_path, record(), second)
    model = Saying(lambda prompt: "8" if "Hello" in prompt else "7")
    report = found(model, EVALUATORS.build(f"rubrics(file={file},judge=scripted:{judge})"))
    assert report["solved"].units == ["t1", "2"]
    assert list(report["solved"].values) == [1, 0]
    assert {name: value(one) for name, one in report["by_category"].items()} == {"rules": 1, "facts": 0}
    assert (report["judged"], report["judge_failed"]) == (2, 1)  # the judge knows nothing of 8, and says "unknown"
    assert "judge must answer with yes or no; it has not, 3 times: 'unknown'" in report["judge_says"][0]
    assert "without_context" not in report
    assert model.asked[0].startswith("Zib is 7.\n\nQuestion: What is zib?\nAnswer:")
    assert model.asked[1].startswith("Question: Hi\nAnswer: Hello\n\nQuestion: zib?\nAnswer:")


def test_a_judge_that_breaks_down_is_counted_apart_and_fails_the_rubric(tmp_path, monkeypatch):
    class Broken(ScriptedModel):
        def with_store(self, store):
            return self

        def generate(self, requests, **_):
            raise ModelError("the server is gone")

    monkeypatch.setattr(roles, "load_model", lambda name: Broken())
    suite = EVALUATORS.build(f"rubrics(file={written(tmp_path, record())},judge=some/model)")
    report = found(Saying(lambda prompt: "7"), suite)
    assert (report["judged"], report["judge_failed"], report["judge_says"]) == (1, 1, ["the server is gone"])
    assert value(report["solved"]) == 0
    assert value(report["mean_rubric"]) == 0.5  # the number is right


def test_the_systems_own_model_can_judge(tmp_path):
    def say(prompt):
        return "no" if "Verdict:" in prompt else "7"

    suite = EVALUATORS.build(f"rubrics(file={written(tmp_path, record())})")
    report = found(Saying(say), suite)
    assert (report["judged"], report["judge_failed"], value(report["solved"])) == (1, 0, 0)


def test_a_judge_that_does_not_exist_is_said_before_anything_is_fitted(run_cli, words_task, tmp_path, monkeypatch):
    monkeypatch.setattr("kshot.verbs.evaluate.fitted", None)
    asked = "evaluate", "recipe:zero-shot", words_task, "--model", "scripted", "--suite"
    done = run_cli(*asked, f"rubrics(file={written(tmp_path, record())},judge=./nobody)")
    assert (done.code, "rubrics:judge must name a model, as --model does" in done.err) == (2, True)
    assert not EVALUATORS.build(f"rubrics(file={written(tmp_path, record())})").named_models
    unjudged = record(rubrics=[{"check": "number", "number": 7}])
    assert not EVALUATORS.build(f"rubrics(file={written(tmp_path, unjudged)},judge=./nobody)").named_models


def test_a_judge_is_loaded_once_for_both_systems_as_the_command_says(words_task, tmp_path, monkeypatch):
    loads = []

    def load(name, **placing):
        loads.append((name, placing))
        return Saying(lambda prompt: "yes")

    monkeypatch.setattr(roles, "load_model", load)
    suite, task = f"rubrics(file={written(tmp_path, record())},judge=some/model)", load_task(words_task)
    systems = [fitted("zero-shot", task, Saying(lambda prompt: "7")) for _ in range(2)]
    traces = load_models_of(suite, device="cpu", api=None)
    report = evaluate(systems[0], task, suite, against=systems[1], traces=traces)
    assert report["judged"] == 1
    assert loads == [("some/model", {"device": "cpu"})]


def test_what_a_judge_says():
    assert [verdict(text) for text in ("Yes", "**No.** It", " 'yes'", "yesterday", "", "It is: yes")] == [
        True, False, True, None, None, None,
    ]  # fmt: skip


def test_answers_that_are_empty_or_have_no_room(tmp_path):
    long = record(metadata={"task_id": "long"}, messages=[{"role": "user", "content": "word " * 5000}])
    empty = record(metadata={"task_id": "empty"}, messages=[{"role": "user", "content": "say nothing"}])
    suite = Rubrics(file=str(written(tmp_path, record(rubrics=[{"check": "number", "number": 7}]), long, empty)))
    report = found(Saying(lambda prompt: "" if "nothing" in prompt else "7"), suite)
    assert list(report["solved"].values) == [1, 0, 0]
    assert (report["empty"], report["too_long"], report["judged"]) == (1, 1, 0)
    with pytest.raises(UserError, match="needs answers with words; all 4 that 'saying' has written are empty"):
        found(Saying(lambda prompt: " \n"), Rubrics(systems=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rubrics": []}, "line 1: must be a task with rubrics; its 'rubrics' must be a list with one rubric at least"),
        ({"rubrics": None}, "it has none. Correct it."),
        ({"rubrics": [{"check": "taste"}]}, "an object whose 'check' is regex, number, set or order"),
        ({"rubrics": [""]}, "a rubric must be a text, or an object"),
        ({"rubrics": [{"check": "regex", "pattern": "("}]}, "'pattern' must be a regular expression"),
        ({"rubrics": [{"check": "number", "number": "7"}]}, "'number' and 'tolerance' must be finite numbers"),
        ({"rubrics": [{"check": "set", "items": []}]}, "'items' must be texts, one at least"),
        ({"metadata": {}}, "its 'metadata' must have 'task_id'"),
        ({"metadata": None}, "it must be an object with 'messages', 'rubrics' and 'metadata'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "its 'messages' must be objects with 'role'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "its 'messages' must end with one of the user"),
        ({"messages": [{"role": "system", "content": "x"}]}, "its 'messages' must end with one of the user"),
    ],
)
def test_a_line_that_is_no_task_with_rubrics_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        EVALUATORS.build(f"rubrics(file={written(tmp_path, record(**changes))})")


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="must be a file of tasks with rubrics; No such file"):
        Rubrics(file=str(tmp_path / "none"))
    with pytest.raises(UserError, match="line 2: must be a task with rubrics; its task_id 't1' is there already"):
        read_items(written(tmp_path, record(), record()))
    with pytest.raises(UserError, match="must hold tasks with rubrics, one a line; it is empty"):
        read_items(written(tmp_path))
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UserError, match="line 1: must be a task with rubrics"):
        read_items(tmp_path / "bad.jsonl")


def test_messages_of_one_role_in_a_row_are_one():
    script = script_of([("user", "a"), ("system", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")])
    assert [(piece.role, piece.text) for piece in script.pieces] == [
        ("question", "a\n\nb"), ("answer", "c\n\nd"), ("question", "e"),
    ]  # fmt: skip


def test_an_answer_ends_where_a_base_model_would_go_on_with_another_turn():
    class Running(Saying):
        def generate(self, requests, **_):
            self.stops = {one.stop for one in requests}
            return super().generate(requests)

    model = Running(lambda prompt: "red")
    found(model, Rubrics(systems=1))
    assert model.stops == {("\nAnswer:", "\nQuestion:", "\n\n")}
