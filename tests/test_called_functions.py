"""The composer `calls`: what functions call is summarised once, from the leaves up, and said before their text."""

from collections import Counter
from dataclasses import replace
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.core.errors import SettingError
from kshot.core.models import Capability
from kshot.core.script import UsualWording
from kshot.core.types import Example, GenerateRequest, Generation, Query, Question, Task
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.composers.call_graph import CallGraph, call_graph, python_in
from kshot.methods.composers.called_functions import Calls, _read
from kshot.models.scripted import ScriptedModel
from kshot.prompts.layout import layout_for
from kshot.prompts.messages import ApiMessages
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES, chat_engine, chat_tokenizer

SOURCE = '''import math


def area(r):
    return square(r) * math.pi


def square(x):
    """Multiply a number by itself.

    More of it.
    """
    return x * x


def volume(r, h):
    return area(r) * h


def alone():
    return 1
'''
ROWS = (
    Example(SOURCE, "volumes", "file"),
    Example("What does volume do?", "It multiplies.", "named", context=SOURCE),
    Example(
        "Explain this:\n```python\ndef double(x):\n    return volume(x, 2)\n```",
        "It doubles.",
        "fenced",
        context=SOURCE,
    ),
)
TASK = Task("code", "generation", ROWS, ROWS, instruction="Say what it does.")


class Summarising(ScriptedModel):
    """Writes "does NAME with …", naming the summaries that it was given, and keeps count."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.asked = Counter[str]()

    def _text(self, request: GenerateRequest) -> Generation:
        text = request.prompt.text
        name = text.rpartition("What `")[2].partition("`")[0]
        self.asked[name] += 1
        known = [line[2:].partition(":")[0] for line in text.splitlines() if line.startswith("# ")]
        return Generation(f" does {name} with {' and '.join(known) or 'nothing'}", True)


class OnlyScores(ScriptedModel):
    capabilities = frozenset({Capability.SCORE})


def asking(part: Calls, model=None) -> TaskModel:
    return replace(TaskModel.for_task(TASK, model or Summarising()), composer=part)


def found_by(part: Calls, rows, model=None):
    asked = [((), row.question if isinstance(row, Example) else row) for row in rows]
    return part.consider(asked, model=asking(part, model), seed=0)


def chain(n: int) -> str:
    return "\n".join(f"def f{i}(x):\n    return {f'f{i + 1}(x)' if i + 1 < n else 'x'}" for i in range(n))


def test_what_is_called_is_summarised_from_the_leaves_up():
    model = Summarising()
    file, named, fenced = found_by(Calls(), ROWS, model)
    assert file["about"] == ["volume", "alone"]
    assert named["about"] == ["volume"]
    assert fenced["about"] == ["double"]
    known = [["square", "Multiply a number by itself."], ["area", "does area with square"]]
    assert file["summaries"] == named["summaries"] == known
    assert fenced["summaries"] == [*known, ["volume", "does volume with area"]]
    assert model.asked == {"area": 1, "volume": 1}


def test_summaries_can_come_from_docstrings_or_the_model_alone():
    model = Summarising()
    (written,) = found_by(Calls(summary="model"), ROWS[:1], model)
    assert written["summaries"][0] == ["square", "does square with nothing"]
    for part, without in ((Calls(summary="docstring"), model), (Calls(), OnlyScores())):
        (told,) = found_by(part, ROWS[:1], without)
        assert told["summaries"] == [["square", "Multiply a number by itself."], ["area", "def area(r):"]]
    assert model.asked == {"area": 1, "square": 1}


def test_a_function_is_summarised_once_in_a_run():
    model, part = Summarising(), Calls(summary="model")
    found_by(part, [*ROWS, *ROWS], model)
    found_by(part.knowing({"summaries": []}), ROWS, model)
    assert set(model.asked.values()) == {1}
    other = Summarising(confidence=0.8)  # another model: its own summaries
    found_by(part, ROWS, other)
    assert other.asked == model.asked


def test_alone_as_together():
    together = found_by(Calls(), ROWS)
    assert together == [found for row in ROWS for found in found_by(Calls(), [row])]


def test_recursion_of_one_and_of_several_ends():
    source = (
        "def even(n):\n    return n == 0 or odd(n - 1)\n\n\ndef odd(n):\n    return n != 0 and even(abs_(n) - 1)\n\n\n"
        "def abs_(n):\n    return n if n > 0 else abs_(-n)\n\n\ndef top(n):\n    return even(n)\n"
    )
    (found,) = found_by(Calls(), [Question(source, "q")])
    assert found["about"] == ["top"]
    assert dict(found["summaries"]) == {
        "abs_": "does abs_ with nothing",
        "odd": "does odd with abs_",  # without even, as that calls it
        "even": "does even with nothing",
    }
    (either,) = found_by(Calls(), [Question("what of odd?", "q", context=source)])
    assert {name: text for name, text in either["summaries"] if name != "odd"} == {
        "abs_": "does abs_ with nothing",
        "even": "does even with nothing",
    }
    (own,) = found_by(Calls(), [Question("def f(n):\n    return f(n)\n", "q")])
    assert (own["about"], own["summaries"]) == (["f"], [])
    (circle,) = found_by(Calls(), [Question("def f():\n    g()\n\n\ndef g():\n    f()\n", "q")])
    assert (circle["about"], circle["summaries"]) == (["f"], [["g", "does g with nothing"]])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=24), st.integers(0, 7))
def test_an_edit_makes_those_anew_that_reach_it(edges, edited):
    def graph(edit: str) -> CallGraph:
        calls = {i: "; ".join(f"f{b}()" for a, b in edges if a == i) or "pass" for i in range(8)}
        return call_graph("\n".join(f"def f{i}():\n    {calls[i]}{edit if i == edited else ''}" for i in range(8)))

    before, after = graph(""), graph("; 1")
    changed = {name for name in before.keys if before.keys[name] != after.keys[name]}
    assert changed == {f"f{edited}"} | {name for name in before.functions if f"f{edited}" in before.reached(name)}
    order = before.reached("f0")
    assert len(set(order)) == len(order)
    for name in order:
        assert all(order.index(other) < order.index(name) for other in before.below(name) if other in order)


def test_an_edit_of_a_leaf_is_summarised_with_its_ancestors_alone():
    model, part = Summarising(), Calls(summary="model")
    found_by(part, [ROWS[1]], model)
    model.asked.clear()
    found_by(part, [replace(ROWS[1], context=SOURCE.replace("square(r) * math.pi", "square(r) * 3"))], model)
    assert model.asked == {"area": 1}
    model.asked.clear()
    found_by(part, [replace(ROWS[1], context=SOURCE.replace("return 1", "return 2"))], model)
    assert not model.asked


def test_a_long_chain_is_no_deep_recursion():
    graph = call_graph(chain(3000))
    assert graph.reached("f0") == tuple(f"f{i}" for i in range(2999, 0, -1))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=16), st.lists(st.integers(0, 5), min_size=1))
def test_what_several_functions_reach_is_what_each_of_them_reaches(edges, asked):
    calls = {i: "; ".join(f"f{b}()" for a, b in edges if a == i) or "pass" for i in range(6)}
    graph = call_graph("\n".join(f"def f{i}():\n    {calls[i]}" for i in range(6)))
    names = [f"f{i}" for i in asked]
    found = graph.reached(*names)
    assert set(found) == {other for name in names for other in graph.reached(name)}
    assert len(set(found)) == len(found)
    for name in graph.functions:
        within = {other for other in graph.functions[name].calls if name not in (other, *graph.reached(other))}
        assert set(graph.below(name)) == within
    for name in found:
        assert all(found.index(other) < found.index(name) for other in graph.below(name) if other in found)


def many(n: int) -> str:
    """Return a class of `n` methods, each with calls of attributes."""
    calls = (f"self.f{(i + 1) % n}(); x.f{i * 7 % n}(); y.g{i}()" for i in range(n))
    return "class A:\n" + "".join(f"    def f{i}(self):\n        {line}\n" for i, line in enumerate(calls))


def test_many_functions_take_no_time():
    """What is more than the limit is not followed, and a text is read once."""
    start = process_time()
    read = _read(Question(many(1000), "q"))
    assert not isinstance(read, str)
    assert len(read.graph.keys) == 1000
    assert (len(read.called), len(read.by_distance)) == (999, 999)
    assert _read(Question(many(1001), "q")) == "more than 1000 functions"
    assert process_time() - start < 1.5  # 0.3 when this was written, 5 before
    assert _read(Question(many(1000), "another")) is read


def test_methods_constructors_and_nested_functions():
    graph = call_graph(
        "class A:\n    def __init__(self):\n        self.run()\n\n    def run(self):\n        def inner():\n"
        "            return helper()\n        return inner()\n\n\ndef helper():\n    return 1\n\n\n"
        "@wrap(helper())\nasync def go(x):\n    a = A()\n    x.run()\n    x.append(len([]))\n    A.run(a)\n"
    )
    assert {name: f.calls for name, f in graph.functions.items()} == {
        "A.__init__": ("A.run",),
        "A.run": ("helper",),
        "helper": (),
        "go": ("helper", "A.__init__", "A.run"),
    }
    assert graph.functions["go"].source.startswith("@wrap(helper())\nasync def go(x):")
    assert graph.functions["A.run"].source.startswith("def run(self):\n    def inner():")
    two = call_graph("class A:\n    def run(self): pass\nclass B:\n    def run(self): pass\ndef go(x):\n    x.run()\n")
    assert two.functions["go"].calls == ()  # which one it is cannot be told
    assert call_graph("def f(): pass\ndef f(): g()\ndef g(): pass").functions["f"].calls == ("g",)


PYTHON = {
    "def f():\n    pass\n": "def f():\n    pass\n",
    "    def f(self):\n        pass\n": "def f(self):\n    pass\n",
    "Explain:\ndef f():\n    pass": "def f():\n    pass",
    "Explain:\n```python\ndef f():\n    pass\n```\nIn short.": "def f():\n    pass\n",
    "def f(:": None,
    "What does it do?": None,
    "def f():\n    return '\\d'\n": "def f():\n    return '\\d'\n",
    "x = 1\x00": None,
    "(" * 300 + ")" * 300: None,
    "": None,
}


@pytest.mark.parametrize("text", PYTHON)
def test_python_is_found_in_a_text(text):
    assert python_in(text) == PYTHON[text]


def test_the_summaries_stand_before_the_text_of_what_calls_in_every_layout():
    question = ROWS[1].question
    part = Calls()
    (found,) = found_by(part, [question])
    script = part.knowing(found).compose(TASK, ROWS[2:], question)
    assert [piece.role for piece in script.pieces] == [
        "instruction", "context", "question", "answer", "note", "context", "question"
    ]  # fmt: skip
    said = "What is called:\nsquare: Multiply a number by itself.\narea: does area with square"
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    layouts = [*(layout_for(engine, name) for name in ("plain", "turns", "block")), ApiMessages()]
    for layout in layouts:
        before, _, after = layout.write(script).text.partition(said)
        assert "def volume" in after
        assert "What does volume do?" in after
        assert "It doubles." in before


WHY = {
    "Sing a song.": "no Python that can be parsed",
    "def f(:": "no Python that can be parsed",
    "hello": "no Python that can be parsed",
    "": "no Python that can be parsed",
}


@pytest.mark.parametrize("text", WHY)
def test_without_python_the_prompt_is_the_usual_one_and_it_is_said_why(text):
    question = Question(text, "q")
    (found,) = found_by(Calls(), [question])
    assert found == {"about": [], "summaries": [], "left_out": 0, "why": WHY[text]}
    assert Calls().knowing(found).compose(TASK, (), question) == UsualWording().compose(TASK, (), question)


def test_other_reasons_for_no_summaries():
    unnamed, leaf = found_by(Calls(), [replace(ROWS[1], input="What of it?"), replace(ROWS[1], input="And alone?")])
    assert unnamed["why"] == "the input names no function of the source"
    assert (leaf["about"], leaf["why"]) == (["alone"], "it calls nothing")
    (long,) = found_by(Calls(), [Question(chain(1001), "q")])
    assert long["why"] == "more than 1000 functions"


def test_the_farthest_are_left_out_where_they_are_too_many_or_too_long():
    question = Question("What of f0?", "q", context=chain(6))
    (few,) = found_by(Calls(most=2), [question])
    assert [name for name, _ in few["summaries"]] == ["f2", "f1"]
    assert few["left_out"] == 3
    seen = []
    for most in range(90, 220, 5):
        model = Summarising(max_tokens=most)
        plain = asking(Calls(), model)
        if model.count_tokens(plain.compose((), question).text) + plain.answer_tokens >= most:
            continue
        (found,) = found_by(Calls(), [question], model)
        prompt, _ = asking(Calls().knowing(found), model).prompt((), question)
        assert model.count_tokens(prompt.text) <= most
        assert len(found["summaries"]) + found["left_out"] == 5
        seen.append(len(found["summaries"]))
    assert seen == sorted(seen)
    assert {0, 5} < set(seen)


def test_a_task_without_python_is_not_applicable(run_cli, words_task):
    assert Calls().missing_field(TASK) is None
    failed = run_cli("adapt", words_task, "--model", "scripted", "--recipes", "zero-shot:composer=calls")
    assert failed.code == 2
    assert "must have Python functions" in " ".join(failed.err.split())


def test_on_a_stream():
    recipe = parse_recipe("random:k=1,composer=calls", shots=4)
    learner = PromptLearner(recipe, Setup(TASK, TaskModel.for_task(TASK, Summarising()), 0))
    predictions = learner.predict([Query(row, ROWS[:1], wants_text=True) for row in ROWS[1:]])
    assert [p.found[0]["about"] for p in predictions] == [["volume"], ["double"]]


def test_settings_say_what_they_can_be():
    with pytest.raises(SettingError, match="summary must be one of auto, docstring, model; got 'none'"):
        Calls(summary="none")
    with pytest.raises(SettingError, match="most must be 1 or more; got 0"):
        Calls(most=0)
