"""How good a tutor the language model is: how many students get there, and how many had been told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kshot.core.errors import SettingError, UserError
from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.paths import path_of
from kshot.core.types import Task
from kshot.evaluators.evaluator import Evaluator
from kshot.evaluators.student_problems import StudentProblem, made_problems
from kshot.measures.measured import Measured
from kshot.methods.loops.tutoring import Tutorial, Tutoring
from kshot.methods.roles import Role, Scripted, Speaker, role_of, spoken
from kshot.methods.talk import OverError, Talk
from kshot.store.traces import Trace
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.mathdial import read_mathdial

_NO_LIMIT = 10**12
SCRIPTED = "scripted"


@dataclass(frozen=True)
class Tutors(Evaluator):
    """Let the language model tutor students who begin with a wrong answer: success@k always beside telling@k.

    Each dialogue is one of the loop `tutoring`: the tutor, who knows the answer, and the student speak in turn until
    the student says the answer or `turns` turns are over. `by_turn` has for each turn k the share of students who have
    said the answer by then, `success`, the share of them whom the tutor has told it by then, `telling`, and of those
    who found it untold, `untold`. A scripted student says its misconception until the tutor uses a word that helps
    against it, or tells the answer. Tutors write the most probable text. Dialogues in which somebody says nothing three
    times are `failed`: no success. Students who are right at once are left out, and counted.

    Attributes:
        file: Dialogues in MathDial's format, of which problem, wrong solution and profile are used; empty: problems of
            arithmetic that are made up.
        problems: The most problems.
        turns: The most turns of the tutor.
        length: The most tokens of a turn.
        student: "scripted"; "model" is the system's own, in the student's role; or another model as --model names it.

    Source: Macina et al. (2023), MathDial: A Dialogue Tutoring Dataset with Rich Pedagogical Properties Grounded in
    Math Reasoning Problems, https://arxiv.org/abs/2305.14536.
    Differs: the scripted student and the made-up problems are ours; telling is the answer's number or words in a turn.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    asks_model: ClassVar[bool] = True

    file: str = ""
    problems: int = setting(15, least=1, most=100_000)
    turns: int = setting(3, least=1, most=100)
    length: int = setting(60, least=1, most=10_000)
    student: str = SCRIPTED
    _given: tuple[StudentProblem, ...] = state(())

    def __post_init__(self):
        super().__post_init__()
        if not self.file:
            return
        if self.student == SCRIPTED:
            raise SettingError(
                "student must be 'model' or a model's name where dialogues come from a file, as they do not say which "
                "words would help a scripted one; got 'scripted'."
            )
        dialogues = read_mathdial(path_of(self.file))
        if not dialogues:
            raise UserError(f"{self.file} must hold dialogues in MathDial's format; it is empty. Name another file.")
        object.__setattr__(self, "file", str(path_of(self.file).absolute()))
        object.__setattr__(self, "_given", tuple(map(StudentProblem.of, dialogues, range(len(dialogues)))))

    @property
    def named_models(self) -> dict[str, tuple[str, ...]]:
        """The student, where it is another model."""
        return {"student": (self.student,)} if self.student not in (SCRIPTED, "model", "person") else {}

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return success and telling by turn; see `kshot.evaluators.evaluator.Evaluator`.

        Raises:
            UserError: No dialogue came to an end, as all that was written is empty.
        """
        assert model is not None
        problems = [self._given[i] for i in rng.permutation(len(self._given))[: self.problems]]
        problems = problems or made_problems(self.problems, rng=rng)
        tutor = Speaker(model, temperature=0.0)
        student = (
            None
            if self.student == SCRIPTED
            else role_of(self.student, model, temperature=0.0, setting="tutoring:student")
        )
        found = [self._lesson(one, tutor, student, model) for one in problems]
        if all(one is None for one in found):
            raise UserError(
                f"--suite tutoring needs turns with words; in all {len(found)} dialogues what was said is empty. "
                "Raise length, or evaluate a system with another model."
            )
        return self._report(problems, found)

    def _lesson(self, problem: StudentProblem, tutor: Role, student: Role | None, model: TaskModel) -> Tutorial | None:
        """Return the dialogue; None where somebody says nothing."""
        played = Scripted(problem.scripted.reply) if student is None else InCharacter(student, problem.profile)
        talk = Talk({"tutor": tutor, "student": played}, _NO_LIMIT, _NO_LIMIT, Trace(), model.progress.say)
        try:
            return Tutoring(turns=self.turns, length=self.length).lesson(problem.example, talk, problem.attempt)
        except OverError:
            return None

    def _report(self, problems: Sequence[StudentProblem], found: Sequence[Tutorial | None]) -> dict[str, Any]:
        begun = [
            (problem.example.id, lesson or Tutorial(problem.example, (), None, None))
            for problem, lesson in zip(problems, found, strict=True)
            if lesson is None or lesson.solved_at != 0
        ]
        units = [unit for unit, _ in begun]
        first = next(lesson for lesson in found if lesson is not None)
        return {
            "n": len(begun),
            "right_at_once": len(found) - len(begun),
            "failed": sum(lesson is None for lesson in found),
            "by_turn": {str(k): by_turn(units, [one for _, one in begun], k) for k in range(1, self.turns + 1)},
            "dialogue": spoken(first.turns),
        }


@dataclass(frozen=True)
class InCharacter:
    """A role that is told who it is, before all else that it is told.

    Attributes:
        role: Who speaks.
        profile: Who it plays.
    """

    role: Role
    profile: str

    @property
    def identity(self) -> str:
        """Of the role, with the profile."""
        return f"{self.role.identity} {self.profile}"

    def count(self, text: str) -> int:
        """Return the role's count."""
        return self.role.count(text)

    def speak(self, request: str, *, most: int, seed: int) -> str:
        """Return what the role says; see `Role`."""
        return self.role.speak(f"{self.profile}\n\n{request}" if self.profile else request, most=most, seed=seed)


def by_turn(units: Sequence[str], lessons: Sequence[Tutorial], k: int) -> dict[str, Measured]:
    """Return success, telling and untold success by a turn."""
    solved = [at is not None and at <= k for at in (one.solved_at for one in lessons)]
    told = [at is not None and at <= k for at in (one.told_at for one in lessons)]
    untold = [s and not t for s, t in zip(solved, told, strict=True)]
    rows = {"success": solved, "telling": told, "untold": untold}
    return {name: Measured(units, np.array(row, dtype=np.float64)) for name, row in rows.items()}
