"""Choose demonstrations without running a model: for a prompt of one's own, or for another model's API."""

from collections.abc import Sequence

from kshot.core.errors import UserError
from kshot.core.types import Example, LanguageModel, Task
from kshot.evaluation.prequential import make_stream
from kshot.prompts.template import Template
from kshot.recipe import demonstrations, fitted, parse_recipe


def select(task: Task, selector: str, k: int, *, query: Example | None = None, seed: int = 0) -> list[Example]:
    """Choose demonstrations from the training examples.

    Args:
        task: Where the examples come from; repeated rows are left out.
        selector: A selector's name with settings, as "random:balanced=true".
        k: How many, at most as many as there are.
        query: The input to choose for, where the selector chooses for each query.
        seed: As for `adapt`: the same seed gives the demonstrations of the adapted model.

    Returns:
        The demonstrations in the order of the prompt; the last one stands next to the query.

    Raises:
        UserError: An unknown selector, `k` out of range, or a per-query selector without a query.
    """
    recipe = parse_recipe(selector, shots=k)
    stream = make_stream(task, limit=len(task.train), seed=seed)
    pool = stream.examples
    if recipe.selector is None:
        raise UserError(f"--selector must name a selector; '{selector}' shows no demonstrations.")
    if not 1 <= k <= len(pool):
        raise UserError(f"-k must be in 1..{len(pool)}, the size of the pool; got {k}.")
    if recipe.k != k:
        raise UserError(f"-k says how many; leave k out of '{selector}', which says {recipe.k} and -k {k}.")
    chosen = demonstrations(fitted(recipe.selector, pool, seed=seed), pool, recipe.k, query, seed=seed)
    if len(chosen) > k:
        raise UserError(f"-k must be heeded by the selector; '{selector}' shows {len(chosen)} whatever -k is.")
    return list(chosen)


def check_fits(task: Task, chosen: Sequence[Example], model: LanguageModel) -> int:
    """Return how many tokens the demonstrations have in a prompt.

    Raises:
        UserError: They leave no room for the task's longest input.
    """
    longest = max(task.train, key=lambda e: model.count_tokens(e.input) + model.count_tokens(e.context or ""))
    prompt, dropped = Template().compose_to_fit(task, chosen, longest, model)
    if dropped:
        raise UserError(
            f"The demonstrations and an input must fit the model's {model.max_tokens} tokens; {dropped} of "
            f"{len(chosen)} are too many. Use a smaller -k."
        )
    return sum(model.count_tokens(s.text) for s in prompt.segments[:-1])
