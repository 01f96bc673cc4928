"""How a retriever is learnt."""

from dataclasses import dataclass

from kshot.core.errors import SettingError
from kshot.core.fields import Checked, place, setting

TARGETS = ("reward", "llm", "none")


@dataclass(frozen=True)
class RetrieverSettings(Checked):
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

    encoder: str = place("minilm")
    reward_encoder: str = place("minilm")
    queries: int = setting(200, least=1, most=1_000_000)
    candidates: int = setting(16, least=4, most=1000)
    depth: int = setting(100, least=1, most=100_000)
    mixed: bool = False
    label_rule: bool = False
    other_task_rule: bool = True
    target: str = setting("llm", choices=TARGETS)
    sharpness: float = setting(2.0, least=0)
    reward_sees_answer: bool = True
    positives: int = setting(3, least=1, most=1000)
    negatives: int = setting(16, least=1, most=1000)
    reward_epochs: int = setting(2, least=1, most=1000)
    reward_lr: float = setting(1e-4, least=0)
    epochs: int = setting(3, least=1, most=1000)
    lr: float = setting(1e-4, least=0)
    batch: int = setting(16, least=2, most=10_000)
    alpha: float = setting(0.2, least=0)
    temperature: float = setting(0.01, above=0)

    def __post_init__(self):
        super().__post_init__()
        if self.depth < self.candidates:
            raise SettingError(
                f"depth must be {self.candidates} or more, the candidates drawn from it; got {self.depth}."
            )
