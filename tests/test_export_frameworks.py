"""dspy and langchain load what was written for them, and their own prompts are what the model reads.

Both come with `kshot[frameworks]`, in an environment of its own: elsewhere these tests are skipped.
"""

import json
from typing import Any

import pytest

import kshot
from kshot.core.types import Example, Task
from kshot.export.for_dspy import ForDspy, signature
from kshot.export.for_langchain import ForLangchain
from kshot.export.handover import handover
from kshot.verbs.export import export
from test_export import LABELS, TASK, adapted_to, chat_model  # noqa: F401 - a fixture

BRACES = Task(
    "braces",
    "classification",
    (Example("one {input} {{x}}", "a", "1"), Example("two }{", "b's", "2")),
    (Example("three {input} {0}", "a", "3"), Example("{", "b's", "4")),
    labels=("a", "b's"),
    instruction="Say {a} or {{b}}.",
)


@pytest.fixture
def prompts() -> Any:
    return pytest.importorskip("langchain_core.prompts", reason="comes with kshot[frameworks]")


@pytest.fixture
def dspy() -> Any:
    return pytest.importorskip("dspy", reason="comes with kshot[frameworks]")


@pytest.mark.parametrize("task", [TASK, BRACES])
def test_a_few_shot_template_is_the_measured_prompt(prompts, task, tmp_path):
    adapted = adapted_to("all-past", kshot.load_model("scripted"), task)
    found = export(adapted, "langchain", tmp_path / "out", check=task).record["difference"]
    assert found["read_by"].startswith("langchain-core ")
    assert found["same_prompts"] == len(task.test)
    template = prompts.FewShotPromptTemplate(**json.loads((tmp_path / "out" / "few_shot.json").read_text("utf-8")))
    assert template.input_variables == ["input"]


def test_contexts_have_a_place_in_the_template(prompts, tmp_path):
    rows = tuple(Example(f"who {{{i}}}?", str(i), f"q{i}", context=f"I am {{{i}}}.") for i in range(4))
    task = Task("qa", "qa", rows[:3], rows[3:], metrics=("exact_match",))
    found = export(adapted_to("random", kshot.load_model("scripted"), task), "langchain", tmp_path / "out", check=task)
    assert found.record["difference"]["same_prompts"] == 1


def test_a_chat_template_has_the_measured_messages(prompts, chat_model, tmp_path):  # noqa: F811
    for task in (TASK, BRACES):
        adapted = adapted_to("random", chat_model, task)
        found = export(adapted, "langchain", tmp_path / task.name, check=task).record["difference"]
        assert found["same_prompts"] == len(task.test)
        assert found["largest_nats"] < 1e-4


def test_dspy_loads_the_program(dspy, chat_model, tmp_path):  # noqa: F811
    adapted = adapted_to("random", chat_model, BRACES)
    found = export(adapted, "dspy", tmp_path / "out", check=BRACES).record["difference"]
    assert found["read_by"].startswith("dspy 3.")
    assert (found["n"], found["same_prompts"]) == (2, 0)  # its words are its own
    assert found["largest_nats"] > 1e-3
    given = handover(adapted, "dspy")
    program = dspy.Predict(signature(given))
    program.load(tmp_path / "out" / "program.json")
    assert program.signature.instructions == "Say {a} or {{b}}."
    assert [dict(d) for d in program.demos] == [{"input": e.input, "output": e.output} for e in adapted.pool]
    lm = dspy.utils.DummyLM([{"output": "b's"}])
    with dspy.context(lm=lm):
        assert program(input="three").output == "b's"
    sent = lm.history[-1]["messages"]
    assert [m["role"] for m in sent] == ["system", *["user", "assistant"] * 2, "user"]
    assert "two }{" in str(sent)


def test_without_them_files_are_written_and_not_scored(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dspy", None)
    monkeypatch.setitem(__import__("sys").modules, "langchain_core", None)
    adapted = adapted_to("random", kshot.load_model("scripted"))
    for target, file in (("dspy", "program.json"), ("langchain", "few_shot.json")):
        done = export(adapted, target, tmp_path / target, check=TASK)
        assert "pip install 'kshot[frameworks]'" in done.record["difference"]["not_scored"]
        assert (tmp_path / target / file).exists()
    assert ForDspy().usage(handover(adapted, "dspy")).startswith("```python\nimport dspy")
    assert "FewShotPromptTemplate(**json.load" in ForLangchain().usage(handover(adapted, "langchain"))
    assert signature(handover(adapted, "dspy")) == f"input -> output: Literal[{', '.join(map(repr, LABELS))}]"
