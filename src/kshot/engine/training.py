"""The one training loop: a step of gradient descent on what an objective says about a batch of texts.

Texts of a batch share rows (`kshot.engine.training_rows`); gradients of parts of a batch add up to that of the whole.

Source: the loss of Bornschein et al. (2025), section 3, https://arxiv.org/abs/2512.19879. Differs: the mean over the
supervised tokens of a step, so that a learning rate means the same for any number of demonstrations.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from kshot.core.errors import DamagedError, ModelError, UserError
from kshot.core.lessons import Averaging, DivergedError, StepLog, Training
from kshot.core.objective_settings import Answers, ObjectiveSettings, step_tokens
from kshot.core.seeding import digest
from kshot.engine.guidance import Gradient, Guide, cosine, norm
from kshot.engine.objectives import Objective, Said, objective_of
from kshot.engine.running_average import RunningAverage
from kshot.engine.training_rows import TrainingRow, answer_logits, parts
from kshot.models.gates import Gates
from kshot.models.hf import Backbone
from kshot.models.interchange import Interchange
from kshot.models.made_tokens import MadeTokens
from kshot.models.prefix import Prefix
from kshot.models.products import fast_products
from kshot.models.training_state import read_state, write_state
from kshot.models.weights import TrainedWeights

_OPTIMISERS = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}
_MICRO_TOKENS = {"cpu": 1024}
_MICRO_TOKENS_ELSEWHERE = 8192
_ANSWERS = Answers()
_SINGLE = 32  # bits of a weight in single precision
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class LossGradient:
    """A gradient, with the loss in nats and the number of tokens that were run for it."""

    gradient: Gradient
    loss_nats: float
    tokens: int


class Trainer:
    """Weights, their optimiser, and steps.

    Args:
        backbone: The network.
        weights: What is trained.
        how: Settings.
        fingerprint: Identifies the weights before training; `self.fingerprint` follows everything learnt, in its order.
        can_pack: Whether texts may share a row.
        average: How the weights are averaged, for whoever asks the average; None: they are not.
        micro_tokens: Most tokens of a forward and backward pass, if a single text is not longer; by default 1,024 on
            the CPU, 8,192 elsewhere.
        before: The weights before training, where these are not the backbone's own; nobody trains them any more.
    """

    def __init__(
        self,
        backbone: Backbone,
        weights: TrainedWeights | MadeTokens | Prefix | Gates | Interchange,
        how: Training,
        *,
        fingerprint: str,
        can_pack: bool,
        average: Averaging | None = None,
        micro_tokens: int | None = None,
        before: TrainedWeights | None = None,
    ):
        self._backbone = backbone
        self._weights, self._before = weights, before
        self._how = how
        self._can_pack = can_pack
        self._micro_tokens = micro_tokens or _MICRO_TOKENS.get(backbone.device.type, _MICRO_TOKENS_ELSEWHERE)
        self._was_halved = False
        self._parameters = list(weights.parameters.values())
        rough = [p.dtype for p in self._parameters if torch.finfo(p.dtype).bits < _SINGLE]
        if how.displaces and rough:
            raise UserError(
                "backend=fd must have weights in float32, as it displaces them by very little; these are "
                f"{str(rough[0]).removeprefix('torch.')}. Use --dtype float32, weights=lora, or backend=exact."
            )
        # Steps are small against the weights: below single precision they would be rounded away
        self._masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self._parameters]
        self.average = RunningAverage(average, self._parameters, self._masters) if average else None
        optimiser = _OPTIMISERS[how.optimiser]
        self._optimiser = optimiser(self._masters, lr=how.lr, weight_decay=0.0)
        self._guide = Guide(how) if how.is_guided else None
        self._objectives: dict[ObjectiveSettings, Objective] = {}
        self._last: Gradient | None = None
        self.n_steps = 0
        self._began = self.fingerprint = fingerprint

    def step(
        self,
        rows: Sequence[TrainingRow],
        support: Sequence[TrainingRow] = (),
        source: Sequence[TrainingRow] = (),
        objective: ObjectiveSettings = _ANSWERS,
    ) -> StepLog:
        """Take one step on the loss of `rows`.

        Args:
            rows: What is learnt; none is no step, and nothing changes.
            support: The gradient of its answers is the anchor of guidance.
            source: Of another task, whose answers are for alignment.
            objective: What is made small over `rows`.

        Raises:
            UserError: A text lacks what the objective reads.
            DivergedError: Loss or gradient is not finite; the weights are as they were.
            ModelError: No memory for even a small part of the batch, or the objective asks an average that is not kept.
        """
        asked = self._asked(objective)
        if not rows:  # an optimiser with a memory would go on without a gradient
            return StepLog(0.0, 0, 0, 0.0)
        with ExitStack() as teacher:
            for weights in asked:
                teacher.enter_context(weights.active())
            self.objective(objective).prepare(rows)
        n_tokens = step_tokens(objective.reads, [_lengths(row) for row in rows])
        with self._weights.active():
            found = self.gradient(rows, objective)

            def passed(
                rows: Sequence[TrainingRow], objective: ObjectiveSettings = _ANSWERS, with_graph: bool = False
            ) -> Gradient:
                nonlocal n_tokens
                more = self.gradient(rows, objective, with_graph=with_graph)
                n_tokens += more.tokens
                return more.gradient

            size = self._checked(found, found.gradient)
            gradient, log = found.gradient, {}
            if self._guide:
                gradient, log = self._guide.guided(
                    gradient,
                    self._parameters,
                    again=lambda with_graph: passed(rows, objective, with_graph),
                    anchor=(lambda: passed(support)) if support else None,
                    source=passed(source) if source else None,
                )
                self._checked(found, gradient)
            to_last = cosine(found.gradient, self._last) if self._last is not None else None
            self._last = found.gradient
            self._apply(gradient)
        self.n_steps += 1
        if self.average:
            self.average.follow(self.n_steps)
        learnt = [[row.record for row in some] for some in (rows, support, source)]
        by = [repr(one.how) for one in asked if isinstance(one, RunningAverage)]
        self.fingerprint = digest(self.fingerprint, repr(objective), learnt, *by)
        n_supervised = sum(len(row.supervised) for row in rows)
        return StepLog(found.loss_nats, n_tokens, n_supervised, size, cosine_to_last=to_last, **log)

    def _asked(self, objective: ObjectiveSettings) -> list[Any]:
        """Return what the network computes with while an objective asks its teacher; nothing: its own weights."""
        if objective.asks == "average":
            if self.average is None:
                raise ModelError(
                    "An objective that asks the running average of the weights must have one; none is kept. Name it "
                    "where the model is made trainable."
                )
            return [self.average, self._weights]
        return [self._before] if self._before else []

    def set_lr(self, lr: float) -> None:
        """Take the steps to come at another learning rate."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr

    def _checked(self, found: LossGradient, gradient: Gradient) -> float:
        """Return the gradient's norm, or raise DivergedError."""
        size = norm(gradient)
        if not (isfinite(found.loss_nats) and isfinite(size)):
            raise DivergedError(
                f"training left the finite numbers at step {self.n_steps + 1} (loss {found.loss_nats}, gradient norm "
                f"{size}): the learning rate {self._how.lr:g} is too large; use a smaller one"
            )
        return size

    def _apply(self, gradient: Gradient) -> None:
        scale = 1.0
        if self._how.clip:
            scale = min(1.0, self._how.clip / max(norm(gradient), 1e-12))
        for master, g in zip(self._masters, gradient, strict=True):
            master.grad = g.to(master.dtype) * scale if scale < 1 else g.to(master.dtype)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for p, master in zip(self._parameters, self._masters, strict=True):
                if p is not master:
                    p.copy_(master)

    @fast_products()
    def gradient(
        self, rows: Sequence[TrainingRow], objective: ObjectiveSettings = _ANSWERS, *, with_graph: bool = False
    ) -> LossGradient:
        """Return gradient and loss of texts, while the weights are active; the objective is prepared for them.

        Where memory is short, it tries smaller parts, once.
        """
        try:
            return self._gradient_in_parts(rows, self.objective(objective), with_graph)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY)):
                raise
            longest = max(len(row.ids) for row in self.objective(objective).runs(rows))
            if self._was_halved or self._micro_tokens <= longest:
                raise ModelError(
                    f"A step of training must fit the memory; a text of {longest} tokens does not. Use fewer "
                    "demonstrations (k), shorter examples, weights=lora, or --dtype bfloat16."
                ) from error
        self._was_halved = True
        self._micro_tokens //= 2
        return self.gradient(rows, objective, with_graph=with_graph)

    def _gradient_in_parts(self, rows: Sequence[TrainingRow], objective: Objective, with_graph: bool) -> LossGradient:
        def size(row: TrainingRow) -> int:
            return sum(len(run.ids) for run in objective.runs([row]))

        total: Gradient = [torch.zeros_like(p) for p in self._parameters]
        loss_nats = 0.0
        for part in parts(rows, can_pack=self._can_pack, max_tokens=self._micro_tokens, size=size):
            if with_graph:  # fused attention has no second derivative
                with sdpa_kernel(SDPBackend.MATH):
                    loss = objective.loss(part, self._said(part, objective), rows)
                    found = torch.autograd.grad(loss, self._parameters, create_graph=True, materialize_grads=True)
            else:
                loss = objective.loss(part, self._said(part, objective), rows)
                found = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
            total = [t + g for t, g in zip(total, found, strict=True)]
            loss_nats += float(loss.detach())
        return LossGradient(total, loss_nats, sum(map(size, rows)))

    def _said(self, part: Sequence[TrainingRow], objective: Objective) -> Said:
        """Run the texts, and what the objective reads beside them, at once where they can share a row."""
        soft, runs = self._weights.soft, objective.runs(part)
        packs = [runs] if self._can_pack else [[run] for run in runs]
        found = [
            answer_logits(self._backbone, pack, soft if soft is None else soft.expand(len(pack), -1, -1))
            for pack in packs
        ]
        logits, tokens = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
        n = sum(len(row.supervised) for row in part)
        own = logits if n == len(tokens) else logits[:n]  # the gradient of a slice is a copy of all logits
        return Said(own, tokens[:n], logits[n:], tokens[n:])

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """Return the objective, with what it remembers."""
        if settings not in self._objectives:
            self._objectives[settings] = objective_of(settings, self._backbone)
        return self._objectives[settings]

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return AdamW's running means of gradients and of their squares, flat, `[n_parameters]` each."""
        states = [self._optimiser.state[master] for master in self._masters]
        return tuple(torch.cat([s[name].flatten() for s in states]) for name in ("exp_avg", "exp_avg_sq"))  # type: ignore

    def save(self, file: Path, about: Mapping[str, Any]) -> None:
        """Write weights, optimiser and guidance, so that training goes on as if it had never stopped.

        Args:
            file: A safetensors file; replaced whole.
            about: What else belongs to the state, as JSON.
        """
        tensors = {f"weights.{name}": t for name, t in self._weights.tensors().items()}
        for i, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value for key, value in state.items()}
        tensors |= {f"master.{i}": m for i, m in enumerate(self._masters) if m is not self._parameters[i]}
        tensors |= {f"average.{i}": t for i, t in (self.average.tensors() if self.average else {}).items()}
        tensors |= {f"last.{i}": g for i, g in enumerate(self._last or ())}
        guide_tensors, guide_values = self._guide.state() if self._guide else ({}, {})
        tensors |= {f"guide.{name}": t for name, t in guide_tensors.items()}
        kept = {"began": self._began, "n_steps": self.n_steps, "fingerprint": self.fingerprint, "guide": guide_values}
        write_state(file, tensors, {**kept, "about": dict(about)})

    def load(self, file: Path) -> dict[str, Any]:
        """Read what `save` wrote and return its `about`.

        Raises:
            DamagedError: It is not as it was written, or of other weights; nothing has changed.
        """
        tensors, kept = read_state(file)
        if kept["began"] != self._began:
            raise DamagedError(
                f"{file} must be a state of the same training; it began with other weights. Delete it: training then "
                "begins again."
            )

        def named(prefix: str) -> dict[str, torch.Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        if self.average:
            self.average.load_tensors(named("average."))
        self._weights.load_tensors(named("weights."))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in named("optimiser.").items():
            i, _, key = name.partition(".")
            state.setdefault(int(i), {})[key] = tensor
        whole = self._optimiser.state_dict() | {"state": state}
        self._optimiser.load_state_dict(whole)
        with torch.no_grad():
            for i, master in named("master.").items():
                self._masters[int(i)].copy_(master)
        last = named("last.")
        self._last = [last[str(i)].to(self._backbone.device) for i in range(len(last))] if last else None
        if self._guide:
            self._guide.load_state(named("guide."), kept["guide"])
        self.n_steps, self.fingerprint = kept["n_steps"], kept["fingerprint"]
        return kept["about"]


def _lengths(row: TrainingRow) -> tuple[int, int, int]:
    """Return the tokens of a text, of its teacher's prompt and of what is rejected."""
    teacher, rejected = (len(other.ids) if other else 0 for other in (row.teacher, row.rejected))
    return len(row.ids), teacher, rejected
