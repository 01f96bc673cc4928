"""What a model answers in a chat of one's own."""

from collections.abc import Sequence

from kshot.core.script import Script
from kshot.taskmodel.taskmodel import TaskModel


def replies(
    model: TaskModel, scripts: Sequence[Script], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """Return the answer to each script, which ends where its turn does, or where the model would begin the next one.

    A model that has learnt no turns goes on with another question, or says "Answer:" once more.

    Args:
        model: It writes.
        scripts: Each ends with a question.
        max_tokens: The most tokens of an answer.
        temperature: As in `GenerateRequest`.
        seed: For the draws.
    """
    ends = dict.fromkeys(end for script in scripts for end in model.layout.reason_ends(script))
    stop = (*ends, *([model.layout.terminator] if model.layout.terminator else []))
    prompts = [model.written(script) for script in scripts]
    found = model.write_each(prompts, max_tokens=max_tokens, stop=stop, temperature=temperature, seed=seed)
    return [one.text.strip() for one in found]
