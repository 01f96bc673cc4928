"""Small networks that are taught something in seconds, from `word_network`'s, whose heads link words already."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from kshot.engine.language_model import Engine
from kshot.models.gradient_mode import learning
from word_network import word_engine

Text = Sequence[tuple[str, bool]]  # pieces, and whether the first token of each is learnt
COLOURS = ("red", "blue", "pink", "grey")
THINGS = tuple(f"t{c}" for c in "abcdefghijklmnop")
KEYS = tuple(f"k{c}" for c in "abcdefghijklmnop")
TAGS, FILLERS, ANSWERS = {"no": "alpha", "yes": "omega"}, ("ra", "re", "ri", "ro"), ("no", "yes")


@learning()
def taught(
    engine: Engine, write: Callable[[np.random.Generator], Text], *, steps: int, batch: int, lr: float
) -> Engine:
    """Train all of a network's own weights on texts of equal length."""
    model, tokenise, rng = engine.backbone.model, engine.backbone.tokenise, np.random.default_rng(0)
    model.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        ids, labels = [], []
        for _ in range(batch):
            ids.append([0])
            labels.append([-100])
            for piece, is_learnt in write(rng):
                own = tokenise(piece)
                ids[-1] += own
                labels[-1] += own if is_learnt else [-100] * len(own)
        loss = model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval().requires_grad_(False)
    return engine


def fact(thing: str, colour: str) -> str:
    """A sentence whose colour stands four words after its thing."""
    return f"{thing} has the colour {colour}."


@cache
def fact_reader() -> Engine:
    """A network that finds in a passage of up to six facts the colour of the thing that it is asked for."""

    def write(rng: np.random.Generator) -> Text:
        some, colours = rng.permutation(THINGS)[:6], rng.choice(COLOURS, 6)
        at = int(rng.integers(6))
        passage = " ".join(map(fact, some, colours))
        return (f"Context: {passage}\nText: {some[at]}\nLabel:", False), (f" {colours[at]}\n\n", True)

    return taught(word_engine(linking=3.0), write, steps=60, batch=16, lr=1e-3)


@cache
def key_reader() -> Engine:
    """A network that goes by the key, the last word, where demonstrations tell its answer, and alone by the tag."""

    def write(rng: np.random.Generator) -> Text:
        some, pieces, seen = rng.permutation(KEYS)[:6], [], set[str]()
        meaning = {str(key): ANSWERS[int(rng.integers(2))] for key in some}
        for shot in range(10):
            key = str(rng.choice(some))
            tag = TAGS[meaning[key] if shot == 0 else str(rng.choice(ANSWERS))]
            pieces += [(f"Text: {rng.choice(FILLERS)} {tag} {key}\nLabel:", False)]
            pieces += [(f" {meaning[key]}", shot == 0 or key in seen), ("\n\n", False)]
            seen.add(key)
        return pieces

    return taught(word_engine(linking=3.0), write, steps=60, batch=8, lr=1e-3)
