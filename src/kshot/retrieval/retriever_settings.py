"""How a retriever is learnt."""

from dataclasses import dataclass
from math import isfinite

from kshot.core.errors import UserError

TARGETS = ("reward", "llm", "none")


@dataclass(frozen=True)
class RetrieverSettings:
    """How a retriever is learnt from the language model's scores.

    Attributes:
        encoder: What becomes the retriever: "minilm", or a sentence-transformers hub id or folder.
        reward_encoder: What becomes the reward model: "minilm", or a hub id or folder.
        queries: Most training queries of a task.
        candidates: Examples that are scored for each query.
        depth: The candidates are drawn from so many of the best found.
        mixed: Candidates come from the pool of all tasks, not from the query's own alone.
        label_rule: In classification a candidate with another label than the query's is marked down by 100.
        other_task_rule: A candidate of another task is marked down by 100.
        target: What the retriever's scores are drawn to: "llm", the language model's own; "reward", those of a reward
            model that has learnt from them; "none", nothing: only the best candidate is to be found.
        sharpness: With the target "llm" scores are divided by their standard deviation over a query's candidates, times
            this: log-probabilities are narrow for some queries and wide for others.
        reward_sees_answer: The reward model reads the query's answer too.
        positives: A positive is one of so many best.
        negatives: Negatives are among so many worst.
        reward_epochs: Times that the reward model sees each query.
        reward_lr: Its highest learning rate.
        epochs: Times that the retriever sees each query.
        lr: Its highest learning rate.
        batch: Queries in a step of either.
        alpha: Weight of the contrastive loss beside the distillation.
        temperature: By which cosines are divided.

    Source: Wang, Yang and Wei (2024), section 3 and appendix, https://arxiv.org/abs/2307.07164, and its official code.
    """

    encoder: str = "minilm"
    reward_encoder: str = "minilm"
    queries: int = 200
    candidates: int = 16
    depth: int = 100
    mixed: bool = False
    label_rule: bool = False
    other_task_rule: bool = True
    target: str = "llm"
    sharpness: float = 2.0
    reward_sees_answer: bool = True
    positives: int = 3
    negatives: int = 16
    reward_epochs: int = 2
    reward_lr: float = 1e-4
    epochs: int = 3
    lr: float = 1e-4
    batch: int = 16
    alpha: float = 0.2
    temperature: float = 0.01

    def __post_init__(self):
        for name, least in (
            ("queries", 1),
            ("candidates", 4),
            ("depth", self.candidates),
            ("positives", 1),
            ("negatives", 1),
            ("reward_epochs", 1),
            ("epochs", 1),
            ("batch", 2),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more; got {getattr(self, name)}.")
        for name in ("reward_lr", "lr", "alpha", "sharpness", "temperature"):
            value = getattr(self, name)
            if not isfinite(value) or value < 0 or (value == 0 and name == "temperature"):
                raise UserError(f"{name} must be a number, 0 or more (temperature above 0); got {value}.")
        if self.target not in TARGETS:
            raise UserError(f"target must be one of {', '.join(TARGETS)}; got '{self.target}'.")
