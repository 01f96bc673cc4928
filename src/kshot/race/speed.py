"""How fast this machine reads prompts."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from kshot.core.ledger import Ledger
from kshot.core.seeding import generator
from kshot.core.types import Example
from kshot.taskmodel.taskmodel import TaskModel


def tokens_per_second(model: TaskModel, examples: Sequence[Example], shots: int, *, seconds: float = 3.0) -> float:
    """Measure how fast this machine reads prompts of a task, for about so many seconds.

    Args:
        model: The language model, which keeps nothing of it, and the wording.
        examples: 2 or more of the task.
        shots: Demonstrations in the prompts, drawn at random.
        seconds: Nothing is started after this time.
    """
    tokens = 0
    model = replace(model, model=model.model.with_store(None), ledger=Ledger())
    began = time.perf_counter()
    for i in count():
        order = generator(0, "speed", i).permutation(len(examples))
        shown, asked = [examples[j] for j in order[1 : 1 + shots]], examples[order[0]]
        request = [model.prompt(shown, asked)[0]], [model.answers(asked)]
        tokens += model.forward_tokens(*request)
        model.score(*request)
        took = time.perf_counter() - began
        if took >= seconds:
            return tokens / took
    raise AssertionError
