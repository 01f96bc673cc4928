"""Choose demonstrations: for a prompt of one's own, or for another model's API."""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.asking import Asker
from kshot.core.errors import UserError
from kshot.core.protocols import Judge, LanguageModel
from kshot.core.types import Example, FloatArray, Task
from kshot.engine.load import load_model
from kshot.evaluation.prequential import make_stream
from kshot.learning.prompted import chosen, fitted, shown
from kshot.recipe import parse_recipe


@dataclass(frozen=True)
class _NoJudge:
    """Stands where a language model would have to be asked, but none was given."""

    selector: str

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        raise UserError(f"The selector '{self.selector}' asks a language model; give --model.")


def select(
    task: Task | str,
    selector: str,
    k: int,
    *,
    model: LanguageModel | str | None = None,
    layout: str = "auto",
    query: Example | str | None = None,
    seed: int = 0,
) -> list[Example]:
    """Choose demonstrations from the training examples.

    Args:
        task: Where the examples come from, or where to load it from; repeated rows are left out.
        selector: A selector's name with settings, as "random:balanced=true".
        k: How many, at most as many as there are.
        model: The language model, or its name, that the selector asks, if it asks one.
        layout: How that model is prompted, as for `adapt`.
        query: The input to choose for, where the selector chooses for each query.
        seed: As for `adapt`: the same seed gives the demonstrations of the adapted model.

    Returns:
        The demonstrations in the order of the prompt; the last one stands next to the query.

    Raises:
        UserError: An unknown selector, `k` out of range, or a per-query selector without a query.
    """
    if not isinstance(task, Task):
        task = Task.load(task)
    if isinstance(query, str):
        query = Example(query, "", "query")
    if isinstance(model, str):
        model = load_model(model)
    recipe = parse_recipe(selector, shots=k)
    stream = make_stream(task, limit=len(task.train), seed=seed)
    pool = stream.examples
    if recipe.selector is None:
        raise UserError(f"--selector must name a selector; '{selector}' shows no demonstrations.")
    if not 1 <= k <= len(pool):
        raise UserError(f"-k must be in 1..{len(pool)}, the size of the pool; got {k}.")
    if recipe.k != k:
        raise UserError(f"-k says how many; leave k out of '{selector}', which says {recipe.k} and -k {k}.")
    judge: Judge = Asker.for_task(task, model, layout) if model else _NoJudge(selector)
    selector_at_work = fitted(recipe.selector, pool, judge=judge, seed=seed)
    indices = chosen(selector_at_work, pool, k, query if recipe.selector.per_query else None, seed=seed)
    if len(indices) > k:
        raise UserError(f"-k must be heeded by the selector; '{selector}' shows {len(indices)} whatever -k is.")
    return list(shown(recipe, [pool[i] for i in indices], query, seed=seed))


def check_fits(task: Task, chosen: Sequence[Example], model: LanguageModel, *, layout: str = "auto") -> int:
    """Return how many tokens the demonstrations have in a prompt.

    Raises:
        UserError: They leave no room for the task's longest input.
    """
    longest = max(task.train, key=lambda e: model.count_tokens(e.input) + model.count_tokens(e.context or ""))
    prompt, dropped = Asker.for_task(task, model, layout).prompt(chosen, longest)
    if dropped:
        raise UserError(
            f"The demonstrations and an input must fit the model's {model.max_tokens} tokens; {dropped} of "
            f"{len(chosen)} are too many. Use a smaller -k."
        )
    return sum(model.count_tokens(s.text) for s in prompt.segments[:-1])
