"""What composers ask a model beside the question itself: texts of their own, and whether a prompt still fits."""

from collections.abc import Iterable

from kshot.core.errors import UserError
from kshot.core.models import Capability
from kshot.core.types import Question
from kshot.prompts.fitting import fits
from kshot.taskmodel.taskmodel import TaskModel


def can_write(model: TaskModel) -> bool:
    """Return whether the model writes texts."""
    return Capability.GENERATE in model.model.capabilities


def written(model: TaskModel, texts: Iterable[str], *, max_tokens: int, stop: tuple[str, ...]) -> dict[str, str]:
    """Return what the model writes after each of some texts, the most probable words.

    What it writes after one does not depend on the others. One that does not fit the model has no entry.
    """
    if not can_write(model):
        return {}
    prompts = {text: model.layout.request(text) for text in texts}
    room = {"answer_tokens": max_tokens}
    fitting = {text: prompt for text, prompt in prompts.items() if fits(prompt, model.model, **room)}
    found = model.write_each(list(fitting.values()), max_tokens=max_tokens, stop=stop)
    return dict(zip(fitting, (one.text for one in found), strict=True))


def can_be_said(model: TaskModel, question: Question) -> bool:
    """Return whether what the model's composer says to a question fits the model, without what is shown beside.

    A layout can also refuse a text that a composer has made, as a chat template would change it.
    """
    try:
        model.prompt((), question)
    except UserError:
        return False
    return True
