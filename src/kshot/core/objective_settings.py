"""What a step of training makes small: the settings of objectives, and what each of them reads of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite

from kshot.core.errors import UserError
from kshot.core.fields import Checked, setting
from kshot.core.gradient_settings import FORWARD_AND_BACKWARD

DIRECTIONS = ("forward", "reverse")
ASKED = ("before", "average")


@dataclass(frozen=True)
class Answers:
    """The mean negative log-probability of the supervised tokens, weighted by the texts' weights."""

    reads = frozenset[str]()
    asks = "before"


@dataclass(frozen=True)
class Distil(Checked):
    """Stay close to what the teacher says at the target's answer when it reads its own prompt.

    Attributes:
        temperature: Logits of both are divided by it, and the loss is multiplied by its square, so that gradients
            keep their size.
        direction: "forward" is KL(teacher || student), "reverse" is KL(student || teacher).
        skip: The first so many tokens of an answer are left out, but never the last one.
        asks: Whom: "before" is the model before training, "average" the running average of the weights that are trained
            (`kshot.core.lessons.Averaging`), a teacher that follows its student.

    Source: Hinton et al. (2015), section 2, https://arxiv.org/abs/1503.02531; of a prompt: Askell et al. (2021),
    section 2, https://arxiv.org/abs/2112.00861, and Snell et al. (2022), https://arxiv.org/abs/2209.15189.
    Differs: over the whole vocabulary, at the tokens of the known answer instead of sampled ones.
    """

    temperature: float = setting(1.0, above=0)
    direction: str = setting("forward", choices=DIRECTIONS)
    skip: int = setting(0, least=0, most=1000)
    asks: str = setting("before", choices=ASKED)

    reads = frozenset({"teacher"})


@dataclass(frozen=True)
class Bidirectional(Checked):
    """Say what the teacher finds probable, and not what it does not say any more, at the target's answer.

    At each token of the answer, with the `top` most probable tokens T of the teacher t and those O of the student s as
    it was before training, the loss is

        KL(t || s) over the tokens of T and all others as one + weight x mean over O without T of -log(1 - s),

    where the second term is 0 if O without T is empty. It never falls below 0, in contrast to gradient ascent.

    Attributes:
        top: How many tokens are looked at.
        weight: How much the second term counts.

    Source: Zhong et al. (2026), bidirectional logit distillation, https://arxiv.org/abs/2604.15482.
    Differs: written from the idea: the formula, with one sum for all other tokens, and the numbers are ours.
    """

    top: int = setting(20, least=1, most=1000)
    weight: float = setting(0.5, least=0)

    reads = frozenset({"teacher", "before"})
    asks = "before"


@dataclass(frozen=True)
class Preference(Checked):
    """Prefer the text's answer to the rejected one by more than the model before training does.

    The loss of a text is -log sigmoid(beta ((log p(chosen) - log r(chosen)) - (log p(rejected) - log r(rejected)))),
    where r is the model before training.

    Attributes:
        beta: How strongly the trained model is kept near the one before training; larger keeps it nearer.

    Source: Rafailov et al. (2023), DPO, equation 7, https://arxiv.org/abs/2305.18290.
    """

    beta: float = setting(0.1, above=0)

    reads = frozenset({"rejected"})
    asks = "before"


@dataclass(frozen=True)
class Policy:
    """Make what the model has drawn more probable where it did better than expected, and less where it did worse.

    The loss is the mean over the supervised tokens of -advantage x log p, weighted by the texts' weights. Of texts that
    were drawn from the weights as they are, its gradient is that of the expected reward.

    Source: Williams (1992), REINFORCE; Shao et al. (2024), GRPO, https://arxiv.org/abs/2402.03300, equation 3.
    Differs: what was drawn is learnt in one step, so that the ratio of new to old probabilities is 1 and is not
    clipped; no KL; the mean is over all tokens of a step, as in Yu et al. (2025), DAPO,
    https://arxiv.org/abs/2503.14476, so that a token counts as much in a long answer as in a short one.
    """

    reads = frozenset({"advantage"})
    asks = "before"


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of objectives, each over those texts of a step that have what it reads.

    Attributes:
        objectives: One or more.
        weights: What each is multiplied by.
    """

    objectives: "tuple[ObjectiveSettings, ...]"
    weights: tuple[float, ...]

    def __post_init__(self):
        if not 0 < len(self.objectives) == len(self.weights):
            raise UserError(
                f"A mixture must have one or more objectives, and a weight for each; got {len(self.objectives)} "
                f"objectives and {len(self.weights)} weights."
            )
        if any(one.asks != "before" for one in self.objectives):
            raise UserError("The parts of a mixture must ask the model before training; got one with asks=average.")
        for weight in self.weights:
            if not (isfinite(weight) and weight > 0):
                raise UserError(f"A mixture's weights must be greater than 0; got {weight}.")

    @property
    def reads(self) -> frozenset[str]:
        """All that its parts read."""
        return frozenset().union(*(one.reads for one in self.objectives))

    @property
    def asks(self) -> str:
        """Whom its parts ask."""
        return "before"


ObjectiveSettings = Answers | Distil | Bidirectional | Preference | Policy | Mixture


def step_tokens(reads: frozenset[str], lengths: Sequence[tuple[int, int, int]]) -> int:
    """Return the tokens of a step: those run forward and backward, and a third of those run forward alone.

    What is remembered counts as if it were run, so that a resumed run counts what an undisturbed one does.

    Args:
        reads: What the objective reads.
        lengths: Of each text, its teacher's and its rejected prompt, 0 where there is none.
    """
    trained = forward = 0
    for own, teacher, rejected in lengths:
        trained += own + rejected * ("rejected" in reads)
        forward += teacher * ("teacher" in reads) + own * ("before" in reads)
        forward += (own + rejected) * ("rejected" in reads)
    return trained + ceil(forward / FORWARD_AND_BACKWARD)
