"""Prompts that fit a model's context: whole demonstrations are left out, never parts of one."""

from collections.abc import Callable, Iterable, Sequence

from kshot.core.errors import TooLongError
from kshot.core.models import LanguageModel, ReadingModel
from kshot.core.types import Example, Prompt


def prompt_tokens(prompt: Prompt, model: LanguageModel) -> int:
    """Return how many tokens a prompt has, with the model's first one."""
    return sum(model.count_tokens(s.text) for s in prompt.segments) + (not prompt.spells_first_token)


def run_tokens(prompt: Prompt, model: LanguageModel) -> int:
    """Return how many tokens a model runs of a prompt: all of them, unless it says otherwise."""
    return model.run_tokens(prompt) if isinstance(model, ReadingModel) else prompt_tokens(prompt, model)


def fits(prompt: Prompt, model: LanguageModel, *, answer_tokens: int) -> bool:
    """Return whether a model can read a prompt and has so many tokens left."""
    return prompt_tokens(prompt, model) + answer_tokens <= model.max_tokens


def first_to_fit(prompts: Iterable[Prompt], model: LanguageModel, *, answer_tokens: int) -> Prompt | None:
    """Return the first prompt that leaves a model so many tokens; None where none does."""
    return next((prompt for prompt in prompts if fits(prompt, model, answer_tokens=answer_tokens)), None)


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
    share their beginning. How many that are is found by halves: where fewer demonstrations can make a longer prompt, as
    others are shown in their place, the prompt fits, too, but more may be left out than have to be.

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
    prompt, n = write(demonstrations), len(demonstrations)
    if fits(prompt, model, answer_tokens=answer_tokens):
        return prompt, 0
    last = write(())
    if not fits(last, model, answer_tokens=answer_tokens):
        raise TooLongError(asked, prompt_tokens(last, model) + answer_tokens, model.max_tokens)
    step = max(1, n // 16)
    drops = [*range(step, n, step), n]
    fewest, most = 0, len(drops) - 1  # the last one fits
    while fewest < most:
        middle = (fewest + most) // 2
        prompt = write(demonstrations[drops[middle] :])
        if fits(prompt, model, answer_tokens=answer_tokens):
            last, most = prompt, middle
        else:
            fewest = middle + 1
    return last, drops[most]
