"""The composer `recycled`: questions made from the passage that is asked about, and evidence before answers."""

import re
from dataclasses import replace

import pytest

from api_server import ApiServer, served
from kshot.core.errors import SettingError
from kshot.core.models import Capability
from kshot.core.script import UsualWording
from kshot.core.types import Example, GenerateRequest, Generation, Query, Question, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.measures.evidence import evidence_f1
from kshot.methods.composers import made_questions
from kshot.methods.composers.made_questions import Made
from kshot.methods.composers.passages import CUTS, found_in, holding, numbered, paragraphs, passage_of, sentences
from kshot.methods.composers.recycled import Recycled, read_evidence
from kshot.models.scripted import ScriptedModel
from kshot.prompts.layout import layout_for
from kshot.prompts.messages import ApiMessages
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES, chat_engine, chat_tokenizer

PEOPLE = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Henry")
THINGS = ("bridge", "tower", "garden", "mill", "harbour", "chapel", "library", "station")
JOINTS = {"blank lines": "\n\n", "lines": "\n", "sentences": " "}
INSTRUCTION = "Answer with words of the passage."


def facts(n: int, start: int = 0) -> list[tuple[str, str, str]]:
    """Facts that are alike: the sentence, a question that it answers, and the answer."""
    found = []
    for i in range(start, start + n):
        person, thing = PEOPLE[i % 8], THINGS[(3 * i) % 8]
        year = str(1800 + 7 * i)
        sentence = f"The {thing} of number {i} was built by {person} in the year {year}."
        found.append((sentence, f"When was the {thing} of number {i} built?", year))
    return found


def example(i: int, *, n: int = 6, joint: str = "\n") -> Example:
    """A list of facts, one of which is asked for."""
    known = facts(n, 10 * i)
    _, asked, answer = known[(2 * i + 3) % n]
    return Example(asked, answer, f"row-{i}", context=joint.join(sentence for sentence, _, _ in known))


ROWS = tuple(example(i) for i in range(12))
TASK = Task("facts", "qa", ROWS[:8], ROWS[8:], instruction=INSTRUCTION)


class Reader(ScriptedModel):
    """Reads as small models do: it goes by what is shown.

    It names as evidence the paragraph that shares most words with the question, where it was shown what evidence is. It
    answers with the last word of the paragraph that was named or, where none was, of the first one; where nothing
    was shown it copies the whole paragraph.
    """

    def _text(self, request: GenerateRequest) -> Generation:
        lines = request.prompt.text.splitlines()
        if not lines[-1].endswith(("Evidence:", "Answer:")):
            return Generation("I write no questions.", True)
        where, asked = next((i, line) for i, line in reversed(list(enumerate(lines))) if line.startswith("Question: "))
        numbers = {m[1]: m[2] for line in lines if (m := re.match(r"(?:Context: )?\[(\d+)\] (.*)", line))}
        named = re.search(r"Evidence: \[(\d+)\]", "\n".join(lines[where:]))
        if lines[-1] == "Evidence:":
            words = set(asked.rstrip("?").split())
            return Generation(f" [{max(numbers, key=lambda i: len(words & set(numbers[i].split())))}]", True)
        last_context = [line for line in lines if line.startswith(("Context: ", "[1] "))][-1]
        text = numbers[named[1]] if named else last_context.removeprefix("Context: ").removeprefix("[1] ")
        is_shown = any(line.startswith("Answer: ") for line in lines[:where])
        return Generation(f" {text.rstrip('.').split()[-1]}" if is_shown else f" {text}", True)


class OnlyScores(ScriptedModel):
    capabilities = frozenset({Capability.SCORE})


def asking(model, task: Task = TASK, part: Recycled | None = None) -> TaskModel:
    return replace(TaskModel.for_task(task, model), composer=part or Recycled())


def found_by(part: Recycled, rows, model=None, task: Task = TASK):
    model = asking(model or ScriptedModel(), task, part)
    return part.consider([((), e.question) for e in rows], model=model, seed=0)


def prompt_of(part: Recycled, found, row: Example, model=None, task: Task = TASK, shown=()) -> str:
    return asking(model or ScriptedModel(), task, part.knowing(found)).compose(shown, row).text


@pytest.mark.parametrize("make", ["auto", "cloze", "template"])
@pytest.mark.parametrize("cut", JOINTS)
@pytest.mark.parametrize("evidence", [True, False])
def test_the_passage_is_said_once_and_evidence_points_at_the_answer(make, cut, evidence):
    part = Recycled(make=make, evidence=evidence)
    rows = [example(i, joint=JOINTS[cut]) for i in range(6)]
    for row, found in zip(rows, found_by(part, rows), strict=True):
        parts = part.cut(row)
        assert parts == tuple(sentence for sentence, _, _ in facts(6, 10 * int(row.id[4:])))
        assert len(found["made"]) == 3
        assert len({number for _, number, _ in found["made"]}) == 3
        for asked, number, answer in found["made"]:
            assert answer in parts[number - 1]
            assert not found_in(asked, answer)
            assert asked != row.input
        said = prompt_of(part, found | {"evidence": [2] if evidence else []}, row)
        for i, sentence in enumerate(parts, 1):
            assert said.count(f"[{i}] {sentence}\n") == 1
            assert said.count(sentence) == 1  # no made question repeats one as it is
        assert ("Evidence: [2]\nAnswer:" in said) == evidence
        assert said.count("Evidence: [") == (4 if evidence else 0)


def test_a_prompt_byte_for_byte():
    row = Example("Who came?", "Ann", "q", context="Ann came. Bob left at 9.")
    task = Task("t", "qa", (row,), instruction="Answer.")
    found = {"made": [["Fill in the blank: Bob left at ____.", 2, "9"]], "evidence": [1]}
    shown = [Example("Who sang?", "Cleo", "s", context="It rained. Cleo sang.")]
    assert prompt_of(Recycled(), found, row, task=task, shown=shown) == (
        "Answer.\n\nContext: [1] It rained.\n[2] Cleo sang.\nQuestion: Who sang?\nEvidence: [2]\nAnswer: Cleo\n\n"
        "Context: [1] Ann came.\n[2] Bob left at 9.\nQuestion: Fill in the blank: Bob left at ____.\nEvidence: [2]\n"
        "Answer: 9\n\nQuestion: Who came?\nEvidence: [1]\nAnswer:"
    )
    assert prompt_of(Recycled(), found | {"evidence": []}, row, task=task) == (
        "Answer.\n\nContext: [1] Ann came.\n[2] Bob left at 9.\nQuestion: Fill in the blank: Bob left at ____.\n"
        "Answer: 9\n\nQuestion: Who came?\nAnswer:"
    )


def test_in_turns_of_a_chat_and_in_messages():
    row = Example("Who came?", "Ann", "q", context="Ann came. Bob left at 9.")
    task = Task("t", "qa", (row,), instruction="Answer.")
    part = Recycled().knowing({"made": [["When did Bob leave?", 2, "9"]], "evidence": [1]})
    script = part.compose(task, (), row.question)
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    assert (
        layout_for(engine, "turns")
        .write(script)
        .text.endswith(
            "[1] Ann came.\n[2] Bob left at 9.\n\nWhen did Bob leave?<|im_end|>\n"
            "<|im_start|>assistant\n[2]\n\n9<|im_end|>\n<|im_start|>user\nWho came?<|im_end|>\n"
            "<|im_start|>assistant\n[1]\n\n"
        )
    )
    asks = replace(part, _asks_evidence=True).compose(task, (), row.question)
    assert layout_for(engine, "turns").write(asks).text.endswith("Who came?<|im_end|>\n<|im_start|>assistant\n")
    assert layout_for(engine, "block").write(asks).text.count("Evidence: [2]") == 1
    assert [m["content"] for m in ApiMessages().write(script).messages][-1] == "Who came?\n\nEvidence: [1]"


@pytest.mark.parametrize("layout", ["turns", "block"])
def test_a_chat_model_is_asked(layout):
    model = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    task = replace(TASK, train=(example(0, n=2),))
    part = Recycled(k=1)
    asked = replace(TaskModel.for_task(task, model, layout), composer=part)
    (found,) = part.consider([((), task.train[0].question)], model=asked, seed=0)
    assert found["by"] == ["cloze"]  # a random network writes no questions


def test_a_model_behind_an_api_is_asked():
    with served(ApiServer()) as server:
        (found,) = found_by(Recycled(), [example(0)], load_model(server.name))
    assert len(found["made"]) == 3


def run(recipe: str, model, rows=TASK.test, part=None, task=TASK):
    parsed = parse_recipe(recipe, shots=4)
    learner = PromptLearner(parsed.having(composer=part) if part else parsed, Setup(task, asking(model, task), 0))
    return learner.predict([Query(row, TASK.train, wants_text=True) for row in rows])


def right(predictions, rows=TASK.test) -> float:
    return sum(p.answer == row.output for p, row in zip(predictions, rows, strict=True)) / len(rows)


def test_a_scripted_reader_answers_better_than_without_and_than_after_other_passages():
    recycled = run("zero-shot:composer=recycled", Reader())
    others, none = right(run("random:k=3", Reader())), right(run("zero-shot", Reader()))
    assert right(recycled) == 1.0 >= max(others, none)
    assert max(others, none) < 1.0
    gold = [holding(Recycled().cut(row), row.accepted) for row in TASK.test]
    scores = [evidence_f1(p.found[0]["evidence"], true) for p, true in zip(recycled, gold, strict=True)]
    assert min(scores) == 1.0
    assert right(run("zero-shot:composer=recycled(evidence=false)", Reader())) < 1.0


def test_along_a_stream_what_is_found_depends_on_the_question_alone():
    together = run("random:k=2,composer=recycled", Reader())
    alone = [p for row in TASK.test for p in run("random:k=2,composer=recycled", Reader(), [row])]
    assert [p.found for p in together] == [p.found for p in alone]
    assert [p.answer for p in together] == [p.answer for p in alone]
    assert found_by(Recycled(), [ROWS[0]])[0]["made"] != found_by(Recycled(), [replace(ROWS[0], id="x")])[0]["made"]


def test_labels_keep_their_probabilities():
    rows = tuple(replace(row, output=("yes", "no")[i % 2]) for i, row in enumerate(ROWS))
    task = Task("facts", "classification", rows[:8], rows[8:], labels=("yes", "no"))
    predictions = run("zero-shot:composer=recycled", ScriptedModel({"Answer:": "no"}), task.test, task=task)
    assert all(sum(p.probs) == pytest.approx(1) for p in predictions)
    assert all(len(p.found[0]["made"]) == 3 for p in predictions)


def test_made_questions_that_do_not_fit_are_left_out():
    row = example(0, n=12)
    task = replace(TASK, train=(row,))
    seen = []
    for most in range(150, 500, 10):
        model = ScriptedModel(max_tokens=most)
        plain = asking(model, task, UsualWording())
        if model.count_tokens(plain.compose((), row).text) + plain.answer_tokens >= most:
            continue
        (found,) = found_by(Recycled(), [row], model, task)
        prompt, _ = asking(model, task, Recycled().knowing(found)).prompt((), row)
        assert model.count_tokens(prompt.text) <= most
        assert len(found["made"]) + found["left_out"] == 3
        if not found["made"]:
            assert prompt == plain.prompt((), row)[0]
            assert found["evidence"] == []
        seen.append(len(found["made"]))
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}


def test_there_is_room_for_the_evidence_beside_what_is_shown():
    rows = tuple(replace(row, output=("yes", "no")[i % 2]) for i, row in enumerate(ROWS))
    task = Task("facts", "classification", rows, labels=("yes", "no"))
    asked = [(rows[1:4], rows[0].question)]
    for most in range(220, 720, 7):

        class Measuring(ScriptedModel):
            def _text(self, request: GenerateRequest) -> Generation:
                assert self.count_tokens(request.prompt.text) + request.max_tokens <= self.max_tokens
                return Generation("[1]", True)

        model = asking(Measuring(max_tokens=most), task, Recycled())
        (found,) = Recycled().consider(asked, model=model, seed=0)
        assert found["evidence"] in ([1], [])


def test_without_a_passage():
    bare = Example("Who?", "Ann", "q")
    task = Task("t", "qa", (bare,), (bare,))
    assert Recycled().missing_field(task) == "context"
    assert Recycled().missing_field(TASK) is None
    (found,) = found_by(Recycled(), [bare], task=task)
    assert found == {"made": [], "by": [], "left_out": 0, "evidence": []}
    assert Recycled().knowing(found).compose(task, (), bare.question) == UsualWording().compose(task, (), bare.question)


def test_a_task_without_passages_is_not_applicable(run_cli, words_task):
    failed = run_cli("adapt", words_task, "--model", "scripted", "--recipes", "zero-shot:composer=recycled")
    assert failed.code == 2
    assert "its examples must have context, and none has" in " ".join(failed.err.split())


def test_a_passage_in_the_input():
    question = Question("Passage: Ann came. Is it so? The Question: mark is here.\nQuestion: Who came?", "q")
    assert passage_of(question) == ("Ann came. Is it so? The Question: mark is here.", "Who came?")
    assert passage_of(Question("Text: a question: without an end", "q")) == ("a", "without an end")
    assert passage_of(Question("Why is it so?", "q")) is None
    assert passage_of(Question("Why?", "q", context=" \n")) is None
    row = Example(question.input, "Ann", "q")
    task = Task("t", "qa", (row,))
    assert Recycled().missing_field(task) is None
    said = prompt_of(Recycled(), {"made": [["Who?", 1, "Ann"]], "evidence": [1]}, row, task=task)
    assert said.endswith("Context: [1] Ann came.\n[2] Is it so?\n[3] The Question: mark is here.\nQuestion: Who?\n"
                         "Evidence: [1]\nAnswer: Ann\n\nQuestion: Who came?\nEvidence: [1]\nAnswer:")  # fmt: skip


PARAGRAPH = "The old mill was bought in 1932 by Anna Berg, who turned it into a school."
WRITTEN = {
    " Who bought the mill?\nAnswer: Anna Berg": Made("Who bought the mill?", "Anna Berg"),
    "Question: When was it bought?\n\nANSWER: 1932.": Made("When was it bought?", "1932"),
    " Who bought the mill?\nAnswer: anna berg": Made("Who bought the mill?", "Anna Berg"),
    " What did it become?\nAnswer: a school\nPassage: next": Made("What did it become?", "a school"),
    " Who bought the mill?\nAnswer: Peter": None,  # not in the paragraph
    " Who bought the mill?\nAnswer:  ": None,
    " Who bought the mill?": None,
    "": None,
    " Who asked?\nAnswer: Anna Berg": None,  # as is asked
    " What did Anna Berg buy?\nAnswer: Anna Berg": None,  # told by the question
    f" What is it about?\nAnswer: {PARAGRAPH}": None,  # all of it
    " Who bought the mill?\nAnswer: 1932": None,
    " When was it bought?\nAnswer: Anna Berg": None,
    " How many mills?\nAnswer: the old mill": None,
    " Anna bought the mill\nAnswer: 1932": None,  # no question
    " Who bought the mill?\nAnswer: Ann": None,  # half a word
}


@pytest.mark.parametrize("text", WRITTEN)
def test_what_a_model_has_written_is_taken_or_not(text):
    assert made_questions.read(text, PARAGRAPH, "Who asked?") == WRITTEN[text]


def test_cloze_takes_the_place_of_what_cannot_be_used():
    row = Example("Who asked?", "x", "q", context="Anna Berg bought the mill in 1932.\nPeter sold the farm in 1950.")
    task = replace(TASK, train=(row,))
    model = ScriptedModel({"Anna Berg": "Who bought the mill?\nAnswer: Anna Berg", "Peter": "Nonsense"})
    model._text = lambda request: Generation(model._believed(request.prompt) or "", True)
    (auto,) = found_by(Recycled(evidence=False), [row], model, task)
    assert sorted(auto["by"]) == ["cloze", "model"]
    (alone,) = found_by(Recycled(evidence=False, make="model"), [row], model, task)
    assert alone["made"] == [["Who bought the mill?", 1, "Anna Berg"]]
    (scored,) = found_by(Recycled(), [row], OnlyScores(), task)
    assert scored["by"] == ["cloze", "cloze"]
    assert scored["evidence"] == []


def test_rules_ask_for_numbers_and_names_first():
    from kshot.core.seeding import generator

    asked = {made_questions.cloze(PARAGRAPH, "", generator(0, i)) for i in range(20)}
    assert {made.answer for made in asked if made} == {"1932", "Anna Berg"}
    assert Made(PARAGRAPH.replace("1932", "____").join(["Fill in the blank: ", ""]), "1932") in asked
    plain = "there was a very beautiful garden"
    assert made_questions.cloze(plain, "", generator(0)) == Made(
        "Fill in the blank: there was a very ____ garden", "beautiful"
    )
    assert made_questions.template(plain, "", generator(0)) == Made(
        "Which word comes after “there was a very” in the text?", "beautiful"
    )
    assert made_questions.cloze(plain, "fill in the blank: there was a very ____ garden!", generator(0)) is None
    assert made_questions.cloze("so it is", "", generator(0)) is None


def test_paragraphs_are_all_of_the_passage():
    passage = "Dr. A. Berg left the U.S. in 1932. “Why?” she asked. Nobody knew!\n\nThen: 他走了。她留下。 The end"
    assert sentences(passage.split("\n\n")[0]) == [
        "Dr. A. Berg left the U.S. in 1932.", "“Why?” she asked.", "Nobody knew!"
    ]  # fmt: skip
    for cut in CUTS:
        parts = paragraphs(passage, cut)
        assert "".join("".join(parts).split()) == "".join(passage.split())
        assert all(parts)
    assert len(paragraphs(passage, "auto")) == 2
    assert paragraphs("one alone", "auto") == ("one alone",)
    assert numbered(("a", "b")) == "[1] a\n[2] b"


def test_evidence_is_read_and_measured():
    assert read_evidence(" [2] [3]\n", 4) == [2, 3]
    assert read_evidence("[9], [2], [2] 1 3 4", 4) == [2, 1, 3]
    assert read_evidence("none", 4) == []
    assert holding(("a cat", "Cats", "the CAT."), ["cat"]) == [1, 3]
    assert evidence_f1([1, 2], [2]) == pytest.approx(2 / 3)
    assert evidence_f1([], [2]) == 0.0
    assert evidence_f1([], []) == 1.0


def test_settings_say_what_they_can_be():
    with pytest.raises(SettingError, match=r"k must be 1 or more; got 0\."):
        Recycled(k=0)
    with pytest.raises(SettingError, match="make must be one of auto, model, cloze, template; got 'guess'"):
        Recycled(make="guess")
