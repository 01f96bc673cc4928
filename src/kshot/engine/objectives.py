"""What a step of training makes small: the one place where a loss is computed.

An objective asks the model before training what it has to, or the running average of the weights, and then makes a loss
of each part of a step from the logits at the supervised tokens. Losses of the parts add up to that of the step, as each
is divided by what the whole step weighs. `kshot.core.objective_settings` has the formulas and their sources.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid

from kshot.core.errors import UserError
from kshot.core.objective_settings import (
    Answers,
    Bidirectional,
    Distil,
    Mixture,
    ObjectiveSettings,
    Policy,
    Preference,
)
from kshot.engine.training_rows import TrainingRow, answer_logits
from kshot.models.hf import Backbone

_MOST_BYTES = 2**28  # of what is remembered
_SMALLEST = 1e-6  # probability of all tokens together that are not among the most probable
_ROUNDINGS = 32  # of a logit in float32, by which those of one text differ in rows that are packed in other ways


@dataclass(frozen=True)
class Said:
    """What the model being trained says about some texts, at their supervised tokens in order.

    Attributes:
        logits: Of the texts, `[n_supervised, vocab]`.
        tokens: Which were right, `[n_supervised]`.
        rejected_logits: Of the texts with their rejected answers, if the objective reads them; likewise.
        rejected_tokens: Likewise.
    """

    logits: torch.Tensor
    tokens: torch.Tensor
    rejected_logits: torch.Tensor
    rejected_tokens: torch.Tensor


class Objective(ABC):
    """A loss over texts.

    Args:
        reads: What it reads of a text beside the text itself: "teacher", "rejected".
    """

    def __init__(self, reads: frozenset[str]):
        self.reads = reads

    def runs(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """Return what is run forward and backward for texts: themselves, then what is rejected."""
        rejected = [row.rejected for row in rows if row.rejected] if "rejected" in self.reads else []
        return [*rows, *rejected]

    def is_about(self, row: TrainingRow) -> bool:
        """Return whether a text has what the objective reads; in a mixture others are left to its other parts."""
        return all(getattr(row, what) is not None for what in self.reads)

    def prepare(self, rows: Sequence[TrainingRow]) -> None:  # noqa: B027 - most need nothing
        """Ask about the texts of a step, while those weights are active that the objective asks.

        Raises:
            UserError: A text lacks what the objective reads.
        """

    @abstractmethod
    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return what a part adds to the loss of a step.

        Args:
            part: Some of the step's texts.
            said: What the model says about them.
            whole: All of the step's texts.
        """


class AnswerObjective(Objective):
    """`Answers`."""

    def __init__(self, settings: Answers, backbone: Backbone):
        super().__init__(settings.reads)

    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return the part's share of the weighted mean negative log-probability."""
        losses = _towards_shares(cross_entropy(said.logits, said.tokens, reduction="none"), said.logits, part)
        return _token_mean(losses, [1.0] * len(part), part, whole)


class PolicyObjective(Objective):
    """`Policy`."""

    def __init__(self, settings: Policy, backbone: Backbone):
        super().__init__(settings.reads)

    def prepare(self, rows: Sequence[TrainingRow]) -> None:
        """Refuse texts of which it is not known how good they are."""
        if any(row.advantage is None for row in rows):
            raise UserError(
                "To follow a policy gradient, each text must have an advantage; got one without. Give each lesson one, "
                "or learn answers."
            )

    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return the part's share of the weighted mean of -advantage x log p over the supervised tokens."""
        losses = cross_entropy(said.logits, said.tokens, reduction="none")
        return _token_mean(losses, [row.advantage or 0.0 for row in part], part, whole)


class DistilObjective(Objective):
    """`Distil`."""

    def __init__(self, settings: Distil, backbone: Backbone):
        super().__init__(settings.reads)
        self._settings = settings
        self._taught = _Remembered(self._asked, backbone)

    def _asked(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return log_softmax(logits / self._settings.temperature, dim=-1)  # [n_answer, vocab]

    def prepare(self, rows: Sequence[TrainingRow]) -> None:
        """Let the teacher read its prompts."""
        _check_taught(rows)
        if self._settings.asks == "average":
            self._taught.forget()  # it has moved
        self._taught.prepare(_teachers(rows))

    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return the part's share of the weighted mean divergence at the tokens of the targets' answers."""
        logits = _at_answers(part, said) / self._settings.temperature
        student, teacher = log_softmax(logits, dim=-1), torch.cat([self._taught[row] for row in _teachers(part)])
        one, other = (teacher, student) if self._settings.direction == "forward" else (student, teacher)
        divergences = (one.exp() * (one - other)).sum(dim=-1)  # [n_answers]
        if _are_equal(student, teacher, logits):
            divergences = 0 * divergences
        return self._settings.temperature**2 * _share(divergences, part, whole, self._settings.skip)


class BidirectionalObjective(Objective):
    """`Bidirectional`."""

    def __init__(self, settings: Bidirectional, backbone: Backbone):
        super().__init__(settings.reads)
        self._settings = settings
        self._taught, self._before = _Remembered(self._most, backbone), _Remembered(self._most, backbone)

    def _most(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the most probable tokens and their log-probabilities, `[2, n_answer, top]`; float32 has all ids."""
        found = log_softmax(logits.float(), dim=-1).topk(min(self._settings.top, logits.shape[-1]))
        return torch.stack([found.indices.float(), found.values])

    def prepare(self, rows: Sequence[TrainingRow]) -> None:
        """Let the model before training read the teachers' prompts, and the students'."""
        _check_taught(rows)
        self._taught.prepare(_teachers(rows))
        self._before.prepare(rows)

    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return the part's share of the weighted mean at the tokens of the targets' answers."""
        student = log_softmax(_at_answers(part, said).float(), dim=-1)  # [n, vocab]
        ids, teacher = torch.cat([self._taught[row] for row in _teachers(part)], dim=1)  # [n, top]
        ids = ids.long()
        before = torch.cat([self._before[row][0, -len(t.supervised) :] for row, t in _with_teachers(part)]).long()
        own = student.gather(1, ids)
        rests = [(1 - values.exp().sum(dim=-1)).clamp_min(_SMALLEST).log() for values in (teacher, own)]
        towards = (teacher.exp() * (teacher - own)).sum(dim=-1) + rests[0].exp() * (rests[0] - rests[1])
        is_over = ~(before[:, :, None] == ids[:, None, :]).any(dim=-1)  # [n, top]: not said any more
        away = -(_log_others(student).gather(1, before) * is_over).sum(dim=-1) / is_over.sum(dim=-1).clamp_min(1)
        return _share(towards + self._settings.weight * away, part, whole)


class PreferenceObjective(Objective):
    """`Preference`."""

    def __init__(self, settings: Preference, backbone: Backbone):
        super().__init__(settings.reads)
        self._beta = settings.beta
        self._before = _Remembered(lambda logits, tokens: -cross_entropy(logits, tokens, reduction="sum"), backbone)

    def prepare(self, rows: Sequence[TrainingRow]) -> None:
        """Let the model before training score chosen and rejected answers."""
        if any(row.rejected is None for row in rows):
            raise UserError(
                "To learn preferences, each text must have a rejected answer; got one without. Give each lesson one, "
                "or learn answers."
            )
        self._before.prepare(self.runs(rows))

    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return the part's share of the weighted mean over pairs."""
        rejected = [row.rejected for row in part if row.rejected]
        gains = [
            _log_probs(logits, tokens, rows) - torch.stack([self._before[row] for row in rows])
            for logits, tokens, rows in (
                (said.logits, said.tokens, part),
                (said.rejected_logits, said.rejected_tokens, rejected),
            )
        ]
        losses = -logsigmoid(self._beta * (gains[0] - gains[1]))  # [n_rows]
        return (losses * _weights(part, [1] * len(part), losses)).sum() / sum(row.weight for row in whole)


class MixedObjective(Objective):
    """`Mixture`."""

    def __init__(self, settings: Mixture, backbone: Backbone):
        super().__init__(settings.reads)
        self._parts = [objective_of(one, backbone) for one in settings.objectives]
        self._weights = settings.weights

    def is_about(self, row: TrainingRow) -> bool:
        """Return whether a text has what one of the parts reads."""
        return any(one.is_about(row) for one in self._parts)

    def prepare(self, rows: Sequence[TrainingRow]) -> None:
        """Prepare all parts, each for the texts that it is about; the first for those that none is about."""
        for i, one in enumerate(self._parts):
            one.prepare([row for row in rows if one.is_about(row) or not (i or self.is_about(row))])

    def loss(self, part: Sequence[TrainingRow], said: Said, whole: Sequence[TrainingRow]) -> torch.Tensor:
        """Return the part's share of the weighted sum, each objective over the texts that it is about."""
        losses = []
        for weight, one in zip(self._weights, self._parts, strict=True):
            own = [row for row in part if one.is_about(row)]
            if own:
                of_own = said if len(own) == len(part) else self._only(one, part, said)
                losses.append(weight * one.loss(own, of_own, [row for row in whole if one.is_about(row)]))
        return torch.stack(losses).sum()

    def _only(self, one: Objective, part: Sequence[TrainingRow], said: Said) -> Said:
        """Return what is said of those texts that an objective is about."""
        runs = [(one.is_about(row), row) for row in part]
        rejected = [(is_kept, row.rejected) for is_kept, row in runs if row.rejected and "rejected" in self.reads]
        own, others = (
            torch.tensor([is_kept for is_kept, row in some for _ in row.supervised], dtype=torch.bool)
            for some in (runs, rejected)
        )
        own, others = own.to(said.logits.device), others.to(said.logits.device)
        return Said(said.logits[own], said.tokens[own], said.rejected_logits[others], said.rejected_tokens[others])


def objective_of(settings: ObjectiveSettings, backbone: Backbone) -> Objective:
    """Return the objective with its settings, for a network."""
    match settings:
        case Answers():
            return AnswerObjective(settings, backbone)
        case Distil():
            return DistilObjective(settings, backbone)
        case Bidirectional():
            return BidirectionalObjective(settings, backbone)
        case Preference():
            return PreferenceObjective(settings, backbone)
        case Policy():
            return PolicyObjective(settings, backbone)
        case Mixture():
            return MixedObjective(settings, backbone)


class _Remembered:
    """What whom an objective asks says about texts: of the present step, and the latest before that find room.

    Texts are run one by one, so that what is said does not depend on what was remembered.

    Args:
        make: What is kept of a text, from its logits and tokens.
        backbone: The network.
    """

    def __init__(self, make: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], backbone: Backbone):
        self._make, self._backbone = make, backbone
        self._kept: dict[tuple[tuple[int, ...], tuple[int, ...]], torch.Tensor] = {}

    @torch.no_grad()
    def prepare(self, rows: Sequence[TrainingRow]) -> None:
        texts = {(row.ids, row.supervised): row for row in rows}
        for key, row in texts.items():
            known = self._kept.pop(key, None)  # put in again as the latest
            self._kept[key] = self._make(*answer_logits(self._backbone, [row])) if known is None else known
        n_bytes = sum(t.nbytes for t in self._kept.values())
        for key in list(self._kept)[: len(self._kept) - len(texts)]:
            if n_bytes <= _MOST_BYTES:
                break
            n_bytes -= self._kept.pop(key).nbytes

    def forget(self) -> None:
        self._kept.clear()

    def __getitem__(self, row: TrainingRow) -> torch.Tensor:
        return self._kept[row.ids, row.supervised]


def _token_mean(
    losses: torch.Tensor, times: Sequence[float], part: Sequence[TrainingRow], whole: Sequence[TrainingRow]
) -> torch.Tensor:
    """Return the part's share of the weighted mean of losses at all supervised tokens `[n_supervised]`.

    Args:
        losses: Of the part.
        times: What the losses of each of its texts are multiplied by; it does not count as a weight.
        part: Some of the step's texts.
        whole: All of them.
    """
    total = sum(row.weight * row.n_weighed for row in whole)
    weights = [
        row.weight * w * time
        for row, time in zip(part, times, strict=True)
        for w in row.token_weights or [1.0] * len(row.supervised)
    ]
    return (losses * torch.tensor(weights, dtype=losses.dtype, device=losses.device)).sum() / total


def _towards_shares(losses: torch.Tensor, logits: torch.Tensor, rows: Sequence[TrainingRow]) -> torch.Tensor:
    """Return losses `[n_supervised]`, with the cross-entropy from its shares where a position has some."""
    if not any(row.shares for row in rows):
        return losses
    each = list(losses)
    for i, share in enumerate(share for row in rows for share in row.shares or [()] * len(row.supervised)):
        if share:
            tokens, shares = zip(*share, strict=True)
            log_probs = log_softmax(logits[i], dim=-1)[list(tokens)]
            each[i] = -(torch.tensor(shares, dtype=log_probs.dtype, device=log_probs.device) * log_probs).sum()
    return torch.stack(each)


def _check_taught(rows: Sequence[TrainingRow]) -> None:
    """Refuse texts without a teacher's prompt, or with one that ends with another answer."""
    for row in rows:
        if row.teacher is None:
            raise UserError(
                "To be distilled, each text must have a teacher's prompt; got one without. Give each lesson a "
                "teacher, or learn answers."
            )
        if _answer(row.teacher) != _answer(row)[-len(row.teacher.supervised) :]:
            raise UserError(
                "A teacher's prompt must end with the same answer as the text; got another one. Make both of one "
                "lesson."
            )


@torch.no_grad()
def _are_equal(one: torch.Tensor, other: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether all of two sets of log-probabilities `[n, vocab]` are equal but for how float32 rounds logits.

    The gradient of their divergence is rounding alone then, and an optimiser that divides by its size, as Adam does,
    would walk away with it.
    """
    apart = (one.exp() - other.exp()).abs().sum(dim=-1)
    rounding = _ROUNDINGS * torch.finfo(torch.float32).eps * logits.abs().amax(dim=-1)
    return bool((apart <= rounding).all())


def _at_answers(part: Sequence[TrainingRow], said: Said) -> torch.Tensor:
    """Return the logits at the tokens of the targets' answers, `[n, vocab]`."""
    pairs = zip(said.logits.split(_lengths(part)), _teachers(part), strict=True)
    return torch.cat([logits[-len(teacher.supervised) :] for logits, teacher in pairs])


def _share(
    losses: torch.Tensor, part: Sequence[TrainingRow], whole: Sequence[TrainingRow], skip: int = 0
) -> torch.Tensor:
    """Return the part's share of the weighted mean of losses at the tokens of the targets' answers, `[n]`.

    Of each answer the first `skip` tokens do not count, but the last always does.
    """

    def weights(rows: Sequence[TrainingRow]) -> list[float]:
        pairs = [(row.weight, len(teacher.supervised)) for row, teacher in _with_teachers(rows)]
        return [w * (i >= min(skip, n - 1)) for w, n in pairs for i in range(n)]

    own = torch.tensor(weights(part), dtype=losses.dtype, device=losses.device)
    return (losses * own).sum() / sum(weights(whole))


def _log_others(log_probs: torch.Tensor) -> torch.Tensor:
    """Return log(1 - p) for each of log-probabilities `[n, vocab]`, also where p is 1 up to rounding."""
    most = log_probs.argmax(dim=-1, keepdim=True)
    others = log_probs.scatter(1, most, -torch.inf).logsumexp(dim=-1, keepdim=True)
    rest = torch.log1p(-log_probs.scatter(1, most, -torch.inf).exp())
    return rest.scatter(1, most, others)


def _answer(row: TrainingRow) -> list[int]:
    return [row.ids[at] for at in row.supervised]


def _teachers(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    return [row.teacher for row in rows if row.teacher]


def _with_teachers(rows: Sequence[TrainingRow]) -> list[tuple[TrainingRow, TrainingRow]]:
    return [(row, row.teacher) for row in rows if row.teacher]


def _lengths(rows: Sequence[TrainingRow]) -> list[int]:
    return [len(row.supervised) for row in rows]


def _weights(rows: Sequence[TrainingRow], times: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return each text's weight so many times."""
    weights = [row.weight for row, n in zip(rows, times, strict=True) for _ in range(n)]
    return torch.tensor(weights, dtype=like.dtype, device=like.device)


def _log_probs(logits: torch.Tensor, tokens: torch.Tensor, rows: Sequence[TrainingRow]) -> torch.Tensor:
    """Return each text's log-probability in nats of all its supervised tokens, `[n_rows]`."""
    losses = cross_entropy(logits, tokens, reduction="none")
    return torch.stack([-each.sum() for each in losses.split(_lengths(rows))])
