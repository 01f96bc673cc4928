"""Yes or no to each label: how a set of labels is asked for where the model is to judge labels one by one.

The prompt is the same for all labels, instruction, demonstrations and input first; what is read after it is "joy? yes"
against "joy? no" for each label, so all labels share all of the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kshot.core.script import Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.contracts import Composer

WANTED = "Label"


@dataclass(frozen=True)
class YesNo(Composer):
    """Ask for yes or no to each label of a task in which any number of labels can be right.

    Demonstrations have a line for each label that is right and for some that are wrong, in a mixed order
    (`kshot.core.label_sets.shown_by_verdict`). Recipes that train weights use it where they name no composer: they
    learn what yes means. A small model that is not trained tells more by how likely it names a label
    (docs/design/answers.md).

    Source: Brown et al. (2020), https://arxiv.org/abs/2005.14165, whose tasks with several right answers (MultiRC,
    section 3.7) are asked one answer at a time. Differs: all labels are read after one prompt.

    Example:
        >>> task = Task("t", "multi_label", (), labels=("joy", "love"))
        >>> script = YesNo().compose(task, [Example("I won!", "joy? yes", "x")], Question("Kiss me", "y"))
        >>> [piece.text for piece in script.pieces], script.wanted
        (['I won!', 'joy? yes', 'Kiss me'], 'Label')
    """

    multi_label = True
    asks_each = True

    def suits(self, task: Task) -> bool:
        """Return whether outputs are sets of labels."""
        return task.is_multi_label

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with all demonstrations in the order given, the last one next to the question."""
        return replace(UsualWording().compose(task, shown, question), wanted=WANTED)
