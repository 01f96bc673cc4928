"""Prompts that fit a model's context: whole demonstrations are left out, never parts of one."""

from collections.abc import Callable, Sequence

from kshot.core.errors import TooLongError
from kshot.core.models import LanguageModel, ReadingModel
from kshot.core.types import Example, Prompt


def prompt_tokens(prompt: Prompt, model: LanguageModel) -> int:
    """Return how many tokens a prompt has, with the model's first one."""
    return sum(model.count_tokens(s.text) for s in prompt.segments) + (not prompt.spells_first_token)


def run_tokens(prompt: Prompt, model: LanguageModel) -> int:
    """Return how many tokens a model runs of a prompt: all of them, unless it says otherwise."""
    return model.run_tokens(prompt) if isinstance(model, ReadingModel) else prompt_tokens(prompt, model)


def write_to_fit(
    write: Callable[[Sequence[Example]], Prompt],
    demonstrations: Sequence[Example],
    model: LanguageModel,
    *,
    answer_tokens: int,
    asked: str,
) -> tuple[Prompt, int]:
    """Write a prompt, leaving out whole demonstrations from the front until it fits the model's context.

    The number left out is rounded up to a sixteenth of the demonstrations, so that neighbours in a stream still
    share their beginning.

    Args:
        write: Returns the prompt with these demonstrations.
        demonstrations: In the order of the prompt.
        model: Counts tokens, and says how many it can read.
        answer_tokens: Room to keep for the answer.
        asked: The id of what is asked, for the message.

    Returns:
        The prompt, and how many demonstrations were left out.

    Raises:
        TooLongError: The question does not fit even without demonstrations.
    """
    room = model.max_tokens - answer_tokens
    prompt = write(demonstrations)
    excess = prompt_tokens(prompt, model) - room
    if excess <= 0:
        return prompt, 0
    alone = prompt_tokens(write(()), model)
    if alone > room:
        raise TooLongError(asked, alone + answer_tokens, model.max_tokens)
    drop = 0
    while excess > 0:
        excess -= prompt_tokens(write(demonstrations[drop : drop + 1]), model) - alone
        drop += 1
    step = max(1, len(demonstrations) // 16)
    drop = min(len(demonstrations), -(-drop // step) * step)
    return write(demonstrations[drop:]), drop
