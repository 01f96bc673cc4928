"""Prompts that fit a model's context: whole demonstrations are left out, never parts of one."""

from collections.abc import Sequence

from kshot.core.errors import UserError
from kshot.core.methods import Composer
from kshot.core.models import LanguageModel
from kshot.core.types import Example, Prompt, Task


def prompt_tokens(prompt: Prompt, model: LanguageModel) -> int:
    """Return how many tokens a prompt has, with the model's first one."""
    return sum(model.count_tokens(s.text) for s in prompt.segments) + (not prompt.spells_first_token)


def compose_to_fit(
    composer: Composer,
    task: Task,
    demonstrations: Sequence[Example],
    query: Example,
    model: LanguageModel,
    *,
    answer_tokens: int,
) -> tuple[Prompt, int]:
    """Compose, leaving out whole demonstrations from the front until the prompt fits the model's context.

    The number left out is rounded up to a sixteenth of the demonstrations, so that neighbours in a stream still
    share their beginning.

    Args:
        composer: Writes the prompt.
        task: Whose examples these are.
        demonstrations: In the order of the prompt.
        query: What is asked.
        model: Counts tokens, and says how many it can read.
        answer_tokens: Room to keep for the answer.

    Returns:
        The prompt, and how many demonstrations were left out.

    Raises:
        UserError: The query does not fit even without demonstrations.
    """
    room = model.max_tokens - answer_tokens
    prompt = composer.compose(task, demonstrations, query)
    excess = prompt_tokens(prompt, model) - room
    if excess <= 0:
        return prompt, 0
    alone = prompt_tokens(composer.compose(task, (), query), model)
    if alone > room:
        raise UserError(
            f"Each example must fit the model's context of {model.max_tokens} tokens; example '{query.id}' needs "
            f"{alone + answer_tokens} with the instruction. Shorten it, remove it, or use another --model."
        )
    drop = 0
    while excess > 0:
        excess -= prompt_tokens(composer.compose(task, demonstrations[drop : drop + 1], query), model) - alone
        drop += 1
    step = max(1, len(demonstrations) // 16)
    drop = min(len(demonstrations), -(-drop // step) * step)
    return composer.compose(task, demonstrations[drop:], query), drop
