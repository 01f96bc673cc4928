"""Notes on skills that one context asks for, from self-play of a task writer and a solver, chosen by replay."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.methods.contracts import Artefact
from kshot.methods.loops.refine import listed, one_line
from kshot.methods.loops.talking import Talking, told_at_the_end
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

Skills = Mapping[str, str]  # name -> note, in the order in which they were written
_NONE: Skills = {}
_PROPOSAL = re.compile(r"(?i)\s*(?P<what>add|merge)\s+(?P<name>[^:\n]{1,60}?)\s*:\s*(?P<why>[^\n]+)")
_CHALLENGE = (
    "{context}\n\n{skills}Write one question that can be answered from the text above and needs care, and then what a "
    "right answer must have, a line each:\nTask: …\nCheck: …\nCheck: …"
)
_SOLVE = "{context}\n\n{skills}Task: {task}\nAnswer:"
_JUDGE = (
    "{context}\n\nTask: {task}\nAnswer: {answer}\n\nDoes the answer have each of these?\n{checks}\nSay yes or no for "
    "each, in their order, with commas between:"
)
_PROPOSE = (
    "{skills}{side} These tasks were {how}:\n\n{cases}\n\nWhich skill is missing, or which of those there are should "
    "become better? Answer in the form 'add NAME: why' or 'merge NAME: why'."
)
_WRITE = (
    "Write the skill '{name}' ({why}) as one line: what to check before, how to proceed, what to check after, and what "
    "goes wrong easily.{old}\nSkill:"
)
_SIDES = {
    "reasoner": ("You help somebody to solve tasks.", "failed"),
    "challenger": ("You help somebody to write tasks that are hard and fair.", "solved, so they were too easy"),
}


@dataclass(frozen=True)
class Probe:
    """A task that somebody has written.

    Attributes:
        task: What is asked.
        checks: What a right answer must have; all of it.
    """

    task: str
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Played:
    """A task that was tried: which of its checks the answer has passed."""

    probe: Probe
    answer: str
    passed: tuple[bool, ...]

    @property
    def is_solved(self) -> bool:
        """Whether all checks are passed: none but all counts."""
        return all(self.passed)


@dataclass(frozen=True)
class SkillsFromContext(Talking):
    """Let a challenger write tasks on a context and a reasoner solve them; write skills of what goes wrong; replay.

    The context is that of the examples, or, where they have none, the examples themselves. In each iteration the
    challenger writes `tasks` tasks, each with checks; the reasoner answers each with its skills at hand; the judge says
    which checks an answer passes, and a task is solved only where all are. Failed tasks go to the reasoner's skills
    and solved ones to the challenger's: the editor proposes which to add or to merge, and writes it. The hardest failed
    task (the smallest share of checks passed) and the easiest solved one (the fewest checks) become probes. In the
    end each version i of the reasoner's skills, one an iteration, answers all probes, and the one with the greatest

        (hard solved + 1) / (hard + 1) x (easy solved + 1) / (easy + 1)

    is kept, the earlier of equals: not the last one, as skills drift. They are the notes. Whether they help on the
    task is for the race to say: no label is looked at.

    Attributes:
        iterations: How many.
        tasks: In each iteration.
        context_tokens: As much of the context is told to everybody.
        length: The most tokens of what anybody says.
        challenger: Who writes tasks: "model", "person", or another model.
        reasoner: Who solves them, likewise.
        judge: Who judges.
        editor: Who writes skills.

    Source: Ctx2Skill, From Context to Skills: Can Language Models Learn from Context Skillfully? (2026),
    https://arxiv.org/abs/2604.27660.
    Differs: one editor for both sides, who proposes and writes; a skill is a line; prompts are our own; many contexts
    are read as one.
    """

    iterations: int = setting(5, least=1, most=100)
    tasks: int = setting(5, least=1, most=100)
    context_tokens: int = setting(1000, least=50, most=1_000_000)
    length: int = setting(120, least=1, most=10_000)
    challenger: str = "model"
    reasoner: str = "model"
    judge: str = "model"
    editor: str = "model"

    version = 2
    players: ClassVar[tuple[str, ...]] = ("challenger", "reasoner", "judge", "editor")

    @property
    def calls_a_round(self) -> int:
        """Each task, its answer and its verdict; two skills, each proposed and written."""
        return 3 * self.tasks + 4

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield the newest skills after each iteration, and at the end those that replay chooses."""
        context = context_of(examples, model.model.count_tokens, self.context_tokens)
        skills = {side: _NONE for side in _SIDES}
        versions, hard, easy = list[Skills](), list[Probe](), list[Probe]()
        counts, best = list[tuple[int, int]](), list[Skills]()

        def tell() -> None:
            if kept := (best or versions)[-1:]:  # without a whole replay it is the newest
                replay = [list(pair) for pair in counts]
                model.note({"loop": "skills-from-context", "replay": replay, "skills": list(kept[0])})

        with told_at_the_end(tell):
            for _ in range(self.iterations):
                probes = [self._challenge(context, skills["challenger"], talk) for _ in range(self.tasks)]
                played = [self._play(context, skills["reasoner"], probe, talk) for probe in probes]
                failed = [one for one in played if not one.is_solved]
                solved = [one for one in played if one.is_solved]
                if failed:
                    hard.append(min(failed, key=lambda one: np.mean(one.passed)).probe)
                    skills["reasoner"] = self._edited("reasoner", skills["reasoner"], failed, talk)
                if solved:
                    easy.append(min(solved, key=lambda one: len(one.passed)).probe)
                    skills["challenger"] = self._edited("challenger", skills["challenger"], solved, talk)
                versions.append(skills["reasoner"])
                yield Artefact(notes=tuple(skills["reasoner"].values()))
            for one in versions:
                n_hard, n_easy = (
                    sum(self._play(context, one, probe, talk).is_solved for probe in some) for some in (hard, easy)
                )
                counts.append((n_hard, n_easy))
            best.append(versions[chosen(counts, len(hard), len(easy))])
        yield Artefact(notes=tuple(best[0].values()))

    def _challenge(self, context: str, skills: Skills, talk: Talk) -> Probe:
        asked = _CHALLENGE.format(context=context, skills=_said(skills))
        form = "'Task: …' and one or more lines 'Check: …'"
        return talk.ask_for("challenger", asked, read_probe, form, most=self.length)

    def _play(self, context: str, skills: Skills, probe: Probe, talk: Talk) -> Played:
        """Return how the reasoner does a task with some skills, as the judge sees it."""
        asked = _SOLVE.format(context=context, skills=_said(skills), task=probe.task)
        answer = talk.ask("reasoner", asked, most=self.length)
        checks, n = "\n".join(f"- {check}" for check in probe.checks), len(probe.checks)
        asked = _JUDGE.format(context=context, task=probe.task, answer=answer, checks=checks)
        passed = talk.ask_for(
            "judge", asked, lambda text: read_verdict(text, n), f"yes or no for each of {n} checks", most=4 * n
        )
        return Played(probe, answer, passed)

    def _edited(self, side: str, skills: Skills, cases: Sequence[Played], talk: Talk) -> Skills:
        """Return the skills of a side with one that was added, or written anew."""
        role, how = _SIDES[side]
        told = "\n\n".join(f"Task: {one.probe.task}\nAnswer: {one.answer}" for one in cases)
        asked = _PROPOSE.format(skills=_said(skills), side=role, how=how, cases=told)

        def reads(text: str) -> tuple[str, str] | None:
            found = _PROPOSAL.match(text)
            is_known = found and (found["what"].lower() == "add" or found["name"] in skills)
            return (found["name"], found["why"]) if found and is_known else None

        form = "'add NAME: why', or 'merge NAME: why' with a skill that there is"
        name, why = talk.ask_for("editor", asked, reads, form, most=self.length)
        old = f" Now it says: {skills[name]}" if name in skills else ""
        request = _WRITE.format(name=name, why=why, old=old)
        note = talk.ask_for("editor", request, one_line, "one line", most=self.length)
        return {**skills, name: f"{name}: {note}"}


def chosen(counts: Sequence[Sequence[int]], n_hard: int, n_easy: int) -> int:
    """Return which version replay keeps, the earlier of equals.

    Args:
        counts: Of each version how many hard and how many easy probes it has solved.
        n_hard: How many hard probes there are.
        n_easy: How many easy ones.

    Example:
        >>> chosen([(0, 3), (2, 2), (3, 0)], 3, 3)
        1
    """
    worth = [(hard + 1) / (n_hard + 1) * (easy + 1) / (n_easy + 1) for hard, easy in counts]
    return worth.index(max(worth))


def context_of(examples: Sequence[Example], count: Callable[[str], int], most: int) -> str:
    """Return the contexts of examples, each once, or the examples themselves, as many as have `most` tokens."""
    contexts = tuple(dict.fromkeys(e.context for e in examples if e.context))
    pieces, kept = contexts or [listed([e]) for e in examples], list[str]()
    for piece in pieces:
        if kept and count("\n\n".join((*kept, piece))) > most:
            break
        kept.append(piece)
    return "\n\n".join(kept)


def read_probe(text: str) -> Probe | None:
    r"""Return a task with its checks; None where either is missing.

    Example:
        >>> read_probe("Task: Who leads?\nCheck: names Ann\nCheck: says since when")
        Probe(task='Who leads?', checks=('names Ann', 'says since when'))
    """
    lines = [line.strip(" -*") for line in text.splitlines()]
    tasks = [line[5:].strip() for line in lines if line.startswith("Task:")]
    checks = tuple(line[6:].strip() for line in lines if line.startswith("Check:") and line[6:].strip())
    return Probe(tasks[0], checks) if tasks and tasks[0] and checks else None


def read_verdict(text: str, n: int) -> tuple[bool, ...] | None:
    """Return `n` times whether somebody says yes; None where it is not said so many times."""
    found = re.findall(r"\b(yes|no)\b", text.lower())
    return tuple(word == "yes" for word in found) if len(found) == n else None


def _said(skills: Skills) -> str:
    return "Skills:\n" + "\n".join(skills.values()) + "\n\n" if skills else ""
