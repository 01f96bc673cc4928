"""Latent skills: what the reason for an answer tells beyond its question, foreseen from the question alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kshot.core.errors import DamagedError, UserError, in_short
from kshot.core.locks import ONE_THREAD
from kshot.encoders.encoder import one_thread
from kshot.models.gradient_mode import learning
from kshot.models.training_state import read_state, write_state

Floats = NDArray[np.float32]
WIDTH, SLOPE = 256, 0.2
LEAST_LOG, MOST_LOG = -8.0, 4.0  # of variances
CLIP = 10.0
LIKELIHOOD = 0.01  # what the posterior mean's likelihood counts under the question's distribution


@dataclass(frozen=True)
class SkillSettings:
    """How skills are learnt.

    Attributes:
        size: Numbers in a skill.
        weight: Of the reconstruction, for vectors of length 1.
        steps: Of Adam.
        lr: Its learning rate.
        batch: Most examples in a step.
    """

    size: int
    weight: float
    steps: int
    lr: float
    batch: int


class LatentSkills:
    """Three networks with two hidden layers each: q(z | question, reason), p(z | question), and the reason's vector.

    Attributes:
        dim: Of the vectors.
        size: Of a skill.
    """

    def __init__(self, dim: int, size: int, rng: np.random.Generator):
        self.dim, self.size = dim, size
        chance = torch.Generator().manual_seed(int(rng.integers(2**63)))
        with torch.inference_mode(False), torch.no_grad():
            self.posterior = _network(2 * dim, 2 * size, chance)
            self.policy = _network(dim, 2 * size, chance)
            self.decoder = _network(dim + size, dim, chance)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"posterior": self.posterior, "policy": self.policy, "decoder": self.decoder}

    def of_examples(self, questions: Floats, reasons: Floats) -> Floats:
        """Return the posterior means of examples, `[n, size]`, from vectors `[n, dim]`."""
        return _mean(self.posterior, np.concatenate([questions, reasons], axis=1), self.size)

    def of_questions(self, questions: Floats) -> Floats:
        """Return the means of what skills are foreseen, `[n, size]`, from vectors `[n, dim]`."""
        return _mean(self.policy, questions, self.size)

    def save(self, file: Path, about: Mapping[str, Any]) -> None:
        """Write the weights as safetensors, with what else is to be known as JSON."""
        found = {name: network.state_dict() for name, network in self.networks.items()}
        tensors = {f"{name}.{key}": value for name, own in found.items() for key, value in own.items()}
        write_state(file, tensors, {**about, "dim": self.dim, "size": self.size})

    @classmethod
    def read(cls, file: Path) -> "tuple[LatentSkills, dict[str, Any]]":
        """Return the networks and what else `save` wrote.

        Raises:
            UserError: There is something else in the file.
        """
        try:
            tensors, about = read_state(file)
            skills = cls(about["dim"], about["size"], np.random.default_rng(0))
            for name, network in skills.networks.items():
                network.load_state_dict(
                    {key.removeprefix(f"{name}."): tensors[f"{name}.{key}"] for key in network.state_dict()}
                )
        except (DamagedError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{file} must hold skills as lars wrote them; {in_short(error)}. Adapt again.") from error
        return skills, about


def learn_skills(
    questions: Floats,
    reasons: Floats,
    settings: SkillSettings,
    *,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
) -> tuple[LatentSkills, float]:
    """Learn skills from examples, and return them with the mean KL divergence in nats at the end.

    loss = weight |decoder(x, z) - r|^2 + KL(q(z | x, r) || p(z | x)) - 0.01 log p(mean of q | x), with x and r the
    vectors of question and reason, and z drawn from q: mean + exp(log variance / 2) times normal noise. Where the
    divergence is near 0, skills tell nothing that the question does not: they have collapsed.

    Args:
        questions: `[n, dim]`, vectors of length 1.
        reasons: `[n, dim]`.
        settings: How.
        rng: For every draw; torch's own chance is left alone, and the number of threads does not matter.
        progress: Told of each step.

    Source: Xu et al. (2023), LaRS, https://arxiv.org/abs/2312.04684.
    Differs: log variances are taken as such and kept within limits; the reconstruction is weighted, as on vectors of
    length 1 it collapses otherwise.
    """
    skills = LatentSkills(questions.shape[1], settings.size, rng)
    chance = torch.Generator().manual_seed(int(rng.integers(2**63)))
    with ONE_THREAD, one_thread(), learning():
        x, r = torch.tensor(questions), torch.tensor(reasons)
        weights = [w for network in skills.networks.values() for w in network.parameters()]
        for w in weights:
            w.requires_grad_(True)
        adam = torch.optim.Adam(weights, lr=settings.lr)
        order = torch.zeros(0, dtype=torch.long)
        for _ in range(settings.steps):
            order = order if len(order) else torch.randperm(len(x), generator=chance)
            at, order = order[: settings.batch], order[settings.batch :]
            loss, _ = _loss(skills, x[at], r[at], settings, chance)
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            adam.step()
            if progress:
                progress(1)
        for w in weights:
            w.requires_grad_(False)
        _, divergence = _loss(skills, x, r, settings, chance)
    return skills, float(divergence)


def _loss(
    skills: LatentSkills, x: Tensor, r: Tensor, settings: SkillSettings, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the loss and the divergence, both a mean over examples."""
    mean, log_variance = _normal(skills.posterior(torch.cat([x, r], dim=1)))  # [n, size]
    own_mean, own_log = _normal(skills.policy(x))
    noise = torch.randn(mean.shape, generator=chance)
    z = mean + torch.exp(0.5 * log_variance) * noise
    error = (skills.decoder(torch.cat([x, z], dim=1)) - r).square().sum(dim=1)
    apart = (mean - own_mean).square() / own_log.exp()
    divergence = 0.5 * (own_log - log_variance + (log_variance - own_log).exp() + apart - 1).sum(dim=1)
    unlikely = 0.5 * (apart + own_log).sum(dim=1)
    loss = settings.weight * error + divergence + LIKELIHOOD * unlikely
    return loss.mean(), divergence.mean()


def _normal(out: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = out.chunk(2, dim=1)
    return mean, log_variance.clamp(LEAST_LOG, MOST_LOG)


def _network(n_in: int, n_out: int, chance: torch.Generator) -> nn.Sequential:
    """Return a network whose weights are drawn as torch does, from `chance` alone."""
    layers: list[nn.Module] = []
    for a, b in ((n_in, WIDTH), (WIDTH, WIDTH), (WIDTH, n_out)):
        layer: Any = nn.utils.skip_init(nn.Linear, a, b)
        for values in (layer.weight, layer.bias):
            nn.init.uniform_(values.requires_grad_(False), -1 / sqrt(a), 1 / sqrt(a), generator=chance)
        layers += [layer, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


def _mean(network: nn.Module, rows: Floats, size: int) -> Floats:
    """Return the first half of what a network says of rows, one after the other: company does not change a number."""
    with ONE_THREAD, one_thread(), torch.inference_mode():
        found = [network(torch.tensor(row[None]))[0, :size] for row in rows]
    return torch.stack(found).numpy() if found else np.zeros((0, size), np.float32)
