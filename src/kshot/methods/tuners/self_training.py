"""Self-training: learn unlabelled inputs as a running average of the own weights labels them."""

from dataclasses import dataclass

from kshot.core.fields import setting
from kshot.methods.tuners.fine_tune import FineTune


@dataclass(frozen=True)
class SelfTraining(FineTune):
    """Learn from unlabelled inputs (`--inputs`) what the model's own running average is sure of.

    Lessons are those of `fine-tune`; the teacher `self-training` makes some of them about unlabelled inputs. A recipe
    in brackets is a second labeller, as in `self-training(random:k=16)`.

    Source: an analogue in text of Grounded Teacher (2025), Context Aware Grounded Teacher for Source Free Object
    Detection, which finds objects in images; the average: Tarvainen and Valpola (2017), https://arxiv.org/abs/1703.01780.
    Differs: see the teacher.
    """

    batch: int = setting(8, least=1, most=1000)

    usual_teacher = "self-training"
