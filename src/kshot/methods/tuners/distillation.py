"""Distillation: learn to say without demonstrations what a recipe says with them."""

from dataclasses import dataclass

from kshot.core.fields import setting
from kshot.methods.tuners.fine_tune import FineTune


@dataclass(frozen=True)
class Distil(FineTune):
    """Put a prompted recipe into the weights, as in `distil(random:k=16)`, so that a query costs no demonstrations.

    Lessons are those of `fine-tune`, with what the recipe says of them instead of the known answers alone (teacher
    `prompt`); unlabelled inputs (`--inputs`) are learnt from as well. With `by=selector-model` the recipe is put to the
    model of `--selector-model`, so that a large one, or one behind an API, teaches a small one.

    Source: Hinton et al. (2015), https://arxiv.org/abs/1503.02531; of a prompt: Askell et al. (2021), section 2,
    https://arxiv.org/abs/2112.00861, and Snell et al. (2022), https://arxiv.org/abs/2209.15189.
    Differs: the teacher is any recipe that shows or combines prompts, its probabilities calibrated on the past; the
    student learns along the stream, and is judged as every recipe is.
    """

    batch: int = setting(8, least=1, most=1000)

    usual_teacher = "prompt"
    usual_recipe = "random:contexts=8"
