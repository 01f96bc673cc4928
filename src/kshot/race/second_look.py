"""A second look: a recipe as it will be handed over, asked about examples that it does not know.

Along a stream a recipe is measured with less to learn from than it has in the end, and with other demonstrations: two
draws of the same recipe can lie far apart. Where it is cheap and honest, the final one is asked again: a prompt about
all examples that are not in it; several contexts about those that at least half of them do not show; a prompt that
shows all examples, and a classifier, about examples while these, and some beside, are hidden. What is chosen for each
query knows nearly as much along the stream, and would cost as much again; a recipe that trains knows all examples, and
one that chose its demonstrations by asking the model about the others has fitted them: for these the stream is all
there is. What a prompt says of unlabelled inputs does not tell how good it is, but which labels it likes: they are
asked too where a label prior has few other inputs.
"""

from collections.abc import Sequence

from kshot.core.types import Example, Query, Task
from kshot.learners.build import make_learner
from kshot.learners.demonstrations import Contexts, giving, pool_of, selected
from kshot.learners.learner import Learner, Setup
from kshot.race.stream import Stream
from kshot.recipes.recipe import Recipe

LEAST = 16
PARTS, FREE_PARTS = 4, 10  # that are hidden in turn, of recipes that ask a model and of others
N_DRAWS, MOST_ASKED = 4, 32
ENOUGH_ASKED = 64  # inputs for a label prior: where there are fewer, unlabelled ones are asked too


def second_look(recipe: Recipe, setup: Setup, stream: Stream) -> tuple[Learner, list[Query]] | None:
    """Return a learner and what to ask it; None where there is nothing honest to ask, or nothing new.

    Args:
        recipe: One whose selector has not asked the model.
        setup: That of the run.
        stream: What it has predicted is asked again.
    """
    if not recipe.can_be_asked_again:
        return None
    if recipe.shows_one_set:
        assert setup.model is not None
        contexts = selected(recipe, stream.examples, None, model=setup.model, seed=setup.seed)
        shown = pool_of(contexts)
        queries = [Query(e, shown) for e in stream.asked if can_ask(contexts, e)]
        recipe = giving(recipe, contexts, others_only=True)
    else:
        queries = []
        for hidden in _parts(setup.task, stream.asked, PARTS if recipe.asks_model else FREE_PARTS):
            ids = {e.id for e in hidden}
            past = tuple(e for e in stream.examples if e.id not in ids and ids.isdisjoint(e.sources))
            queries += [Query(e, past) for e in hidden]
    if len(queries) < LEAST:
        return None
    return make_learner(recipe, setup), queries


def _parts(task: Task, asked: Sequence[Example], n: int) -> list[list[Example]]:
    """Return the parts that are hidden together: each holds every answer about as often as the whole does.

    Otherwise what is left would have the fewer of an answer the more of it is hidden, and who answers by how often it
    has seen an answer would be wrong more often than on new inputs.
    """
    open_or_set = task.is_open or task.is_multi_label
    place = [0 if open_or_set else task.candidates(e).index(e.output) for e in asked]
    order = sorted(range(len(asked)), key=lambda i: place[i])
    return [[asked[i] for i in sorted(order[start::n])] for start in range(n)]


def other_draws(recipe: Recipe, setup: Setup, stream: Stream) -> list[tuple[Learner, list[Query]]]:
    """Return prompts with other demonstrations, each also in the opposite order, and what to ask all of them.

    What is asked are examples that none of the prompts shows, or of several contexts half at most; where they are too
    few, or nothing is drawn, there is no prompt. Arguments as `second_look`.

    Returns:
        `N_DRAWS` pairs of prompts.
    """
    if not (recipe.can_be_asked_again and recipe.shows_one_set):
        return []
    assert setup.model is not None
    drawn = [selected(recipe, stream.examples, None, model=setup.model, seed=setup.seed + i) for i in range(N_DRAWS)]
    asked = [e for e in stream.asked if all(can_ask(contexts, e) for contexts in drawn)][:MOST_ASKED]
    if len(asked) < LEAST or len(set(drawn)) == 1:
        return []
    found = []
    for contexts in drawn:
        for orders in (contexts, tuple(shown[::-1] for shown in contexts)):
            learner = make_learner(giving(recipe, orders, others_only=True), setup)
            shown = pool_of(orders)
            found.append((learner, [Query(e, shown) for e in asked]))
    return found


def can_ask(contexts: Contexts, example: Example) -> bool:
    """Return whether at least half of the contexts do not show an example, and none shows what was made from it.

    It is asked with those that do not.
    """
    if any(example.id in e.sources for shown in contexts for e in shown):
        return False
    n = sum(example not in shown for shown in contexts)
    return n > 0 and 2 * n >= len(contexts)
