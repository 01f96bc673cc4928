"""The suite `instructions`: what is obeyed of all that was told, turn after turn."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.types import Example, Generation, Task
from kshot.evaluators import EVALUATORS
from kshot.evaluators.checkable import KINDS, Instruction, made_dialogue, obedience
from kshot.evaluators.instructions import Instructions
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import TaskModel

TASK = Task("t", "qa", (Example("1", "a", "e1"),), (Example("2", "b", "e2"),))
SUITE = Instructions(dialogues=12, samples=3)


def rng(seed=0):
    return np.random.default_rng(seed)


def witness(instructions, fact="") -> str:
    """Return an answer that obeys all of some instructions and holds a fact."""
    by_kind = {one.kind: one.value for one in instructions}
    said = " ".join(filter(None, (by_kind.get("start"), fact or "0", by_kind.get("number"), by_kind.get("end"))))
    return {"small": said.lower(), "capital": said.upper()}.get(by_kind.get("case", ""), said)


class Obeying(ScriptedModel):
    """Obeys what it finds in what it reads of the prompt: all of it, or the last message alone."""

    def __init__(self, known, *, remembers: bool, carefulness: float = 1.0):
        super().__init__(name="obeying")
        self.known, self.remembers, self.carefulness, self.asked = known, remembers, carefulness, []

    def generate(self, requests, **_):
        self.asked += [one.prompt.text for one in requests]
        return [Generation(self.say(one), True) for one in requests]

    def say(self, request) -> str:
        luck = np.random.default_rng([request.seed, len(request.prompt.text)])
        text = request.prompt.text if self.remembers else request.prompt.segments[-1].text
        told = {one for one in self.known if one.text.removeprefix("From now on, ") in text}
        return witness(sorted((one for one in told if luck.random() < self.carefulness), key=lambda one: one.kind))


def known(suite=SUITE, seed=0):
    luck = rng(seed)
    return {i for n in range(suite.dialogues) for i in made_dialogue(str(n), suite.turns, rng=luck).instructions}


def found(model, suite=SUITE, seed=0):
    return suite.beside(TASK, TaskModel.for_task(TASK, model), rng=rng(seed))


def value(measured) -> float:
    return measured.statistic(measured.rows)


def values(measured) -> list[float]:
    return [value(one) for one in measured.values()]


@pytest.mark.parametrize(
    ("kind", "value", "yes", "no"),
    [
        ("start", "Well", ["well, red", "Well"], ["Red, well", "Wellness", ""]),
        ("length", "3", ["It is red.", "don't say-so now"], ["It is all red", ""]),
        ("ban", "e", ["It is tan", "A dog"], ["red", "RED", ""]),
        ("number", "41", ["It has 41.", "41"], ["It has 410", "forty-one", "4 1"]),
        ("end", "done", ["Red. Done!", '"done"'], ["done red", "undone"]),
        ("case", "small", ["it is red 41.", "red"], ["It is red", ""]),
        ("case", "capital", ["IT IS RED 41."], ["IT IS Red"]),
    ],
)
def test_checks_say_what_they_must(kind, value, yes, no):
    one = Instruction(kind, value)
    assert [one.obeyed(text) for text in yes] == [True] * len(yes)
    assert [one.obeyed(text) for text in no] == [False] * len(no)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_all_instructions_of_a_dialogue_can_be_obeyed_together_with_its_facts(seed, turns):
    one = made_dialogue("1", turns, rng=rng(seed))
    assert len({i.kind for i in one.instructions}) == len(one.instructions) == len(one.questions) == turns
    for turn, fact in enumerate(one.facts):
        answer = witness(one.instructions[: turn + 1], fact)
        assert obedience(one.instructions[: turn + 1], answer) == 1
        assert fact in answer.casefold()
        assert fact in one.passage


@given(st.integers(0, 2**32), st.text(max_size=40))
def test_pif_is_a_share(seed, answer):
    assert 0 <= obedience(made_dialogue("1", 6, rng=rng(seed)).instructions, answer) <= 1


def test_a_fact_is_said_by_words_of_its_own():
    told = [made_dialogue("1", 1, rng=rng())]
    told = [replace(told[0], facts=("red",))]
    assert Instructions._right(told, [[["It is RED.", "It is covered."]]]) == [0.5]


def test_who_remembers_all_obeys_all():
    report = found(Obeying(known(), remembers=True))
    assert value(report["pif"]) == value(report["repeated"]["pif"]) == 1
    assert values(report["pif_n_k"]) == [1, 1, 1]
    assert values(report["by_kind"]) == [1] * len(KINDS)
    assert value(report["gain"]) == 0


def test_who_forgets_falls_with_the_turn_and_rises_where_all_is_repeated():
    report = found(Obeying(known(), remembers=False))
    falling = values(report["pif_by_turn"])
    assert falling[0] == 1
    assert falling[0] > falling[2] > falling[5]
    assert np.polyfit(range(6), falling, 1)[0] < -0.05
    assert values(report["repeated"]["pif_by_turn"]) == [1] * 6
    assert value(report["gain"]) == pytest.approx(1 - np.mean(falling))


@pytest.mark.parametrize("seed", range(4))
def test_pif_n_k_never_rises_with_k_and_is_the_rate_of_obeying_all_where_both_are_1(seed):
    suite = replace(SUITE, samples=5)
    some = values(found(Obeying(known(suite, seed), remembers=True, carefulness=0.8), suite, seed)["pif_n_k"])
    assert some == sorted(some, reverse=True)
    assert some[0] > some[4]
    alone = replace(SUITE, samples=1)
    report = found(Obeying(known(alone, seed), remembers=True, carefulness=0.8), alone, seed)
    (rate,) = values(report["pif_n_k"])
    assert len(report["pif_n_k"]["1"].units) == alone.dialogues  # turns of one dialogue are no units of their own
    obeyed = [turn == 1 for one in report["pif_by_turn"].values() for turn in one.values]
    assert rate == pytest.approx(np.mean(obeyed))


def test_what_is_sent_goes_on_with_the_first_answer_and_repeats_in_the_last_message_alone():
    suite = Instructions(dialogues=1, turns=2, samples=2)
    model = Obeying(known(suite), remembers=True)
    found(model, suite)
    one = made_dialogue("0", 2, rng=rng())
    first, last, repeated = model.asked[0], model.asked[4], model.asked[6]
    assert first.endswith(f"{one.passage}\n\nQuestion: {one.instructions[0].text}\n{one.questions[0]}\nAnswer:")
    assert last.startswith(f"{first} {witness(one.instructions[:1])}\n\nQuestion: {one.instructions[1].text}\n")
    said = [i.text.removeprefix("From now on, ") for i in one.instructions]
    assert repeated == last.replace("\nAnswer:", f"\nIn this answer too:\n- {said[0]}\n- {said[1]}\nAnswer:").replace(
        f"{one.questions[0]}\nIn this answer too:\n- {said[0]}\n- {said[1]}", one.questions[0]
    )


def test_the_same_seed_says_the_same():
    first, second = (found(Obeying(known(), remembers=True, carefulness=0.5)) for _ in range(2))
    assert values(first["pif_by_turn"]) == values(second["pif_by_turn"])


def test_answers_that_are_all_empty_are_refused():
    class Silent(ScriptedModel):
        def generate(self, requests, **_):
            return [Generation(" \n", True) for _ in requests]

    with pytest.raises(UserError, match="needs answers with words; all 8 that 'scripted' has drawn are empty"):
        found(Silent(), Instructions(dialogues=1, turns=2, samples=2))


def test_there_are_no_more_turns_than_kinds_of_instructions():
    with pytest.raises(UserError, match=r"instructions:turns must be in 1\.\.6; got 7"):
        EVALUATORS.build("instructions(turns=7)")
