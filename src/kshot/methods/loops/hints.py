"""Dialogues in which a teacher who knows the answer gives hints until a student finds it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, Task
from kshot.measures.text_metrics import numbers_in
from kshot.methods.contracts import Artefact
from kshot.methods.loops.refine import one_line
from kshot.methods.loops.talking import Talking, told_at_the_end
from kshot.methods.roles import spoken
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

_ATTEMPT = "{instruction}{question}\n{talk}{choices}Answer in as few words as you can.\nAnswer:"
_HINT = (
    "A student is asked this:\n{question}\n\nThe right answer is {answer}.\n\n{talk}\nGive the student one hint that "
    "leads to the right answer and does not say it.\nHint:"
)
_NO = "That is not it."
_OTHERWISE = "It is written in another way."  # where a task's metric is stricter than `is_same`


@dataclass(frozen=True)
class Hints(Talking):
    """Let a student try each example, with a hint after each wrong try; keep the dialogues that end with the answer.

    An episode is a question, a try, a check against the known answer, and, where it is wrong, a hint of a teacher who
    knows the answer; up to `turns` tries. The only reward is at its end: solved or not. A hint that says the answer is
    no hint: it is refused, and asked for again. Of the episodes that were solved after at least one hint, each becomes
    an example, marked as made, whose explanation is the dialogue: wrong tries and hints. With
    `fine-tune:loop=hints,composer=reason-first(reason_weight=0.3)` they are learnt: the student learns to say what
    was wrong and the hint by itself, with a weight of 0.3 beside the answer, and to answer after it.

    Attributes:
        turns: The most tries in an episode.
        episodes: The most examples that are tried.
        length: The most tokens of a try or a hint.
        student: Who tries: "model", "person", or another model.
        teacher: Who gives hints: "rules" (`rule_hint`, no model), or one of these.

    Source: Improving Interactive In-Context Learning from Natural Language Feedback (2026),
    https://arxiv.org/abs/2602.16066.
    Differs: offline: dialogues that end well are learnt, in place of a policy gradient over conversations; what a leak
    is is decided by the answer's words, without a judge; hints by rules are our own.
    """

    turns: int = setting(4, least=1, most=100)
    episodes: int = setting(32, least=1, most=100_000)
    length: int = setting(60, least=1, most=10_000)
    student: str = "model"
    teacher: str = "rules"

    version = 4
    least = 1

    @property
    def players(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """The student, and the teacher where no rules give the hints."""
        return ("student",) if self.teacher == "rules" else ("student", "teacher")

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield the solved dialogues after each episode; see `Talking.rounds`."""
        kept, solved_at = list[Example](), list[int | None]()
        with told_at_the_end(lambda: self._tell(solved_at, model)):
            for i in rng.permutation(len(examples))[: self.episodes]:
                example = examples[i]
                turns = self._episode(example, talk, model.task)
                is_solved = bool(turns) and turns[-1][0] == "Right"
                solved_at.append((len(turns) + 1) // 2 if is_solved else None)
                if is_solved and len(turns) > 1:
                    explanation = spoken(turns[:-1])
                    made = {**example.meta, "made": "hints"}
                    kept.append(replace(example, id=f"{example.id}-hinted", explanation=explanation, meta=made))
                yield Artefact(demonstrations=tuple(kept))

    def _tell(self, solved_at: Sequence[int | None], model: TaskModel) -> None:
        """Note what share of the episodes that came to their end were solved by each try, if there are any."""
        if n := len(solved_at):
            solved = [at for at in solved_at if at is not None]
            share = [round(sum(at <= k + 1 for at in solved) / n, 3) for k in range(self.turns)]
            model.note({"loop": "hints", "episodes": n, "solved_by_turn": share})

    def _episode(self, example: Example, talk: Talk, task: Task) -> list[tuple[str, str]]:
        """Return what was said: tries and hints in turn; a last try that is "Right" has solved it."""
        turns = list[tuple[str, str]]()
        choices = task.candidates(example)
        among = f"Answer with one of these: {', '.join(choices)}. " if choices else ""
        instruction = f"{task.instruction}\n\n" if task.instruction else ""
        for number in range(self.turns):
            said = f"{spoken(turns)}\n" if turns else ""
            words = {"instruction": instruction, "question": example.text, "talk": said, "choices": among}
            attempt = talk.ask_for("student", _ATTEMPT.format(**words), one_line, "a few words", most=self.length)
            if is_same(attempt, example):
                return [*turns, ("Right", attempt)]
            turns.append(("Wrong", attempt))
            if number + 1 < self.turns:
                turns.append(("Hint", self._hint(example, turns, talk)))
        return turns

    def _hint(self, example: Example, turns: Sequence[tuple[str, str]], talk: Talk) -> str:
        if self.teacher == "rules":
            return hint_on(turns[-1][1], example)
        asked = _HINT.format(question=example.text, answer=example.output, talk=spoken(turns))

        def reads(text: str) -> str | None:
            line = one_line(text)
            return None if line is None or leaks(line, example) else line

        return talk.ask_for("teacher", asked, reads, "one hint that does not say the answer", most=self.length)


def is_same(attempt: str, example: Example) -> bool:
    """Return whether a try is an accepted answer; case, signs around it and how a number is written do not count.

    Example:
        >>> is_same(" 12.0. ", Example("6 + 6?", "12", "a"))
        True
    """
    return plain(attempt) in {plain(answer) for answer in example.accepted}


def leaks(text: str, example: Example) -> bool:
    """Return whether a text says an accepted answer: its words in a row, or its number, whatever signs are around it.

    An answer that is one letter, as of a choice, is said in its own case; "A" and "I" before other words are words.

    Example:
        >>> leaks("It is Twelve, or 6+6=12.0", Example("6 + 6?", "12", "a")), leaks("over 120", Example("", "12", "a"))
        (True, False)
        >>> leaks("Think of a car.", Example("", "(A)", "a")), leaks("I take A.", Example("", "(A)", "a"))
        (False, True)
    """
    return any(_says(text, answer) for answer in example.accepted)


def concludes(text: str, example: Example) -> bool:
    """Return whether a text says an accepted answer (`leaks`), a number as the last one that it says.

    Example:
        >>> [concludes(text, Example("6 + 6?", "12", "a")) for text in ("6+6=12", "12 or 13", "Not 13 but 12.")]
        [True, False, True]
    """
    last = numbers_in(text)[-1:]
    numbers = {answer: _number(plain(answer)) for answer in example.accepted}
    return any(_says(text, answer) if number is None else number in last for answer, number in numbers.items())


def _says(text: str, answer: str) -> bool:
    if letter := re.fullmatch(r"\W*([^\W\d_])\W*", answer):
        return _says_letter(text, letter[1])
    if (number := _number(plain(answer))) is not None:
        return number in numbers_in(text)
    said, wanted = (" ".join(map(plain, one.split())) for one in (text, answer))
    words, own = (" ".join(re.findall(r"\w+", one.casefold())) for one in (text, answer))
    return bool((wanted and f" {wanted} " in f" {said} ") or (own and f" {own} " in f" {words} "))


def _says_letter(text: str, letter: str) -> bool:
    """Return whether a letter stands in a text by itself, other than as an article or a pronoun."""
    for found in re.finditer(rf"(?<!\w){letter}(?!\w|['’]\w)", text):
        goes_on = re.match(r" +[^\W\d_]", text[found.end() :])
        begins = re.search(r"(^|[.!?:]\s)\W*$", text[: found.start()])
        if not (goes_on and (letter in "aI" or (letter == "A" and begins))):
            return True
    return False


def plain(text: str) -> str:
    """Return a text in small letters without signs around it; a number as a number."""
    text = " ".join(text.casefold().split()).strip(" .,;:!?\"'“”‘’()[]*$")
    number = _number(text)
    if number is None:
        return text
    whole, _, rest = f"{number:f}".partition(".")  # all digits: 1234567 is not 1234568
    return f"{whole}.{rest}" if (rest := rest.rstrip("0")) else whole


def hint_on(attempt: str, example: Example) -> str:
    """Return a hint by rules on a wrong try that says none of the accepted answers; nothing where each would.

    Example:
        >>> hint_on("7", Example("6 + 6?", "12", "a")), hint_on("sho", Example("", "short", "a"))
        ('The number is too low.', 'That is not it.')
    """
    hints = (_OTHERWISE if is_same(attempt, example) else rule_hint(attempt, example.output), _NO, "No.")
    return next((hint for hint in hints if not leaks(hint, example)), "")


def rule_hint(attempt: str, answer: str) -> str:
    """Return a hint on a wrong try: which way a number is wrong, or where a text is; it may say the answer (`hint_on`).

    Example:
        >>> rule_hint("7", "12"), rule_hint("cart", "card"), rule_hint("car", "card")
        ('The number is too low.', 'The letter at place 4 is wrong.', 'It is too short.')
    """
    tried, right = _number(plain(attempt)), _number(plain(answer))
    if tried is not None and right is not None:
        return f"The number is too {'low' if tried < right else 'high'}."
    said, wanted = plain(attempt), plain(answer)
    if wanted.startswith(said):
        return "It is too short."
    if said.startswith(wanted):
        return "It is too long."
    place = next(i for i, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b)
    return f"The letter at place {place + 1} is wrong."


def _number(text: str) -> Decimal | None:
    return Decimal(text.replace(",", "")) if re.fullmatch(r"-?\d[\d,]*(\.\d+)?", text) and len(text) < 300 else None
