"""What loops in which roles speak have in common: a ledger that ends them, and a trace that is kept."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from kshot.core.errors import SettingError, UserError
from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.seeding import digest
from kshot.core.types import Example
from kshot.methods.contracts import Artefact, Loop
from kshot.methods.roles import STAND_IN, Role, role_of
from kshot.methods.talk import OverError, SpentError, Talk
from kshot.taskmodel.taskmodel import TaskModel


@contextmanager
def told_at_the_end(tell: Callable[[], object]) -> Iterator[None]:
    """Tell what there is once the rounds are done, or the ledger or a role has ended them."""
    try:
        yield
    except OverError:
        tell()
        raise
    tell()


@dataclass(frozen=True)
class Talking(Loop):
    """Let roles speak, round by round, until the loop is done or its ledger is spent; what is best so far counts.

    A loop says in `rounds` what a round is. A role is a setting: "model", the one that answers; "person", somebody at
    the terminal, who leaves with Ctrl-D; or another model, as --model names it.

    Attributes:
        calls: The most answers of roles and scored outputs in all.
        tokens: The most tokens that are read and written in all.
        players: The settings that name a role, in the order of their first words.
    """

    calls: int = setting(400, least=1, most=1_000_000)
    tokens: int = setting(1_000_000, least=1, most=1_000_000_000)
    _cast: tuple[tuple[str, Role], ...] = state(())

    least: ClassVar[int] = 4
    players: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.calls < self.calls_a_round:
            raise SettingError(
                f"calls must be {self.calls_a_round} or more, as many as the first round can take with the other "
                f"settings; got {self.calls}."
            )

    @property
    def calls_a_round(self) -> int:
        """The most calls that the first round takes, if no role is asked again."""
        return 1

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """A model that writes, where it speaks."""
        speaks = any(getattr(self, name) == "model" for name in self.players)
        return frozenset({Capability.GENERATE}) if speaks else frozenset()

    @property
    def named_models(self) -> dict[str, tuple[str, ...]]:
        """The models that play roles, but for the one that answers."""
        own = dict(self._cast)
        told = {name: getattr(self, name) for name in self.players if name not in own}
        return {name: (who,) for name, who in told.items() if who not in ("model", "person")}

    def played_by(self, **cast: Role) -> Self:
        """Return the loop with roles of one's own, such as `kshot.methods.roles.Scripted`."""
        return replace(self, _cast=(*self._cast, *cast.items()))

    @abstractmethod
    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield after each round what is best so far, from the past alone.

        Args:
            examples: What is known of the task.
            talk: Asks the roles, and counts what is scored.
            model: The language model that answers, on this task.
            rng: For every random choice.
        """

    def run(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Artefact:
        """Return what is best when the loop ends, from the past alone.

        Raises:
            UserError: The ledger does not hold one round.
        """
        best, why, n = Artefact(), "it was done", 0
        talk = self._talk(examples, model, rng)
        try:
            for found in self.rounds(examples, talk, model=model, rng=rng):
                best, n = found, n + 1
        except SpentError as error:
            if not n:
                raise UserError(self._too_small(error)) from None
            why = str(error)
        except OverError as error:
            why = str(error)
            model.progress.say(f"{self._name}: {why}; what there is after {n} rounds is kept")
        about = {"loop": self._name, "trace": self._trace_name(talk), "rounds": n, "ended": why}
        model.note({**about, "calls": talk.calls, "spoken_tokens": talk.tokens, "notes": "\n".join(best.notes)})
        return best

    @property
    def _name(self) -> str:
        return str(self.record()["name"])

    def _talk(self, examples: Sequence[Example], model: TaskModel, rng: np.random.Generator) -> Talk:
        own: dict[str, Role] = dict(self._cast)
        if model.traces.rehearses:
            own = dict.fromkeys(own, STAND_IN)
        cast = {name: own.get(name) or self._role(name, model) for name in self.players}
        state = str(rng.bit_generator.state)  # of the run's seed; nothing is drawn from it here
        heard = [e.id for e in examples], [role.identity for role in cast.values()], state
        told = model.model.fingerprint, dict(model.layout.record), model.task.fingerprint
        key = digest(self.record(), *told, *heard)
        trace = model.traces.of(f"{self._name}-{len(examples)}-{key[:8]}")
        return Talk(cast, self.calls, self.tokens, trace, model.progress.say, int(digest(state)[:7], 16))

    def _role(self, name: str, model: TaskModel) -> Role:
        return role_of(getattr(self, name), model, setting=f"{self._name}:{name}")

    @staticmethod
    def _trace_name(talk: Talk) -> str | None:
        return talk.trace.file.stem if talk.trace.file else None

    def _too_small(self, spent: SpentError) -> str:
        name, most, needed = (
            ("calls", self.calls, spent.calls) if spent.calls > self.calls else ("tokens", self.tokens, spent.tokens)
        )
        return (
            f"{self._name}:{name} must hold one round, of at least {needed} {name} with these examples; got {most}. "
            "Raise it."
        )
