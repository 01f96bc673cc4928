"""A small world of facts, and a network that knows them and reads passages, trained in seconds: for tests.

Things have a colour each. Passages say of a thing that it has another one, and the network, as it comes from its first
training, believes them half the time.
"""

import re
from functools import cache

import numpy as np
import torch

from kshot.core.types import Example, Task
from kshot.models.gradient_mode import learning
from kshot.models.hf import Backbone, build_backbone

N_KNOWN = 40
THINGS = tuple(f"thing{i}" for i in range(64))  # the network knows the colours of the first
COLOURS = ("red", "green", "blue", "black", "white", "brown", "pink", "grey")
FACTS = {thing: COLOURS[(7 * i * i + 3 * i) % 8] for i, thing in enumerate(THINGS)}
_OTHERS = "Context : Question ? Answer is . [ IND ] the from context Ignore and answer what you know"
_WORDS = ("\n", "<unused0>", *_OTHERS.split(), *THINGS, *COLOURS)
_IDS = {word: i + 3 for i, word in enumerate(dict.fromkeys(_WORDS))}
TASK = Task("colours", "qa", (), metrics=("exact_match",))


class WordTokenizer:
    """Words, marks and ends of lines as ids; other words are the id 2."""

    bos_token_id, eos_token_id, chat_template = 0, 1, None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`, after the first token if asked."""
        return [0] * add_special_tokens + [_IDS.get(word, 2) for word in re.findall(r"<unused0>|\w+|\n|[^\w\s]", text)]

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of ids."""
        words = [next((w for w, i in _IDS.items() if i == one), "?") for one in token_ids if one > 1]
        return re.sub(r" ?\n ?", "\n", " ".join(words))


def text_of(thing: str, said: str | None, answer: str, *, after: bool = False) -> str:
    """A text of the first training."""
    passage = f"Context: {said}\n" if said else ""
    asked = f"Question: {thing}?\n"
    return (asked + passage if after else passage + asked) + f"Answer: {answer}\n\n"


def row(i: int, said: str | None = None, *, memory: bool = True) -> Example:
    """A question about a thing; `said` is what its passage says, which is right then."""
    thing = THINGS[i]
    meta = {"memory_answer": FACTS[thing]} if memory else {}
    context = f"{thing} is {said}" if said else None
    return Example(f"{thing}?", said or FACTS[thing], f"{thing}-{said}", context, meta=meta)


def other_colour(i: int, rng: np.random.Generator) -> str:
    """A colour that the thing has not."""
    return str(rng.choice([c for c in COLOURS if c != FACTS[THINGS[i]]]))


@cache
@learning()
def reader(steps: int = 450, seed: int = 0, trust: float = 0.5) -> Backbone:
    """The network after its first training."""
    shape = {
        "vocab_size": len(_IDS) + 3, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 512,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False,
    }  # fmt: skip
    backbone = build_backbone("llama", shape, WordTokenizer(), name="reader", seed=seed)
    model, rng, tokenizer = backbone.model, np.random.default_rng(seed), WordTokenizer()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train().requires_grad_(True)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        batch = []
        for _ in range(40):
            i = int(rng.integers(len(THINGS)))
            thing, said, answer = THINGS[i], None, FACTS[THINGS[i]]
            about, kind = thing, rng.random() if i < N_KNOWN else 1.0
            if kind > 0.25:
                said = str(rng.choice(COLOURS))
                about = thing if kind > 0.45 else str(rng.choice(THINGS))  # of another thing, it is of no use
                answer = said if about == thing and (rng.random() < trust or i >= N_KNOWN) else answer
            passage = f"{about} is {said}" if said else None
            batch.append(tokenizer.encode(text_of(thing, passage, answer, after=bool(rng.random() < 0.5))))
        width = max(map(len, batch))
        ids = torch.tensor([one + [0] * (width - len(one)) for one in batch])
        labels = torch.tensor([one + [-100] * (width - len(one)) for one in batch])
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    return backbone
