"""What encoders minimise when they learn from ranked documents."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

_AT_ONCE = 32  # pairs that are padded to one length


def reward_loss(scores: Tensor) -> Tensor:
    """Return -log softmax of the first column of `[n_groups, n_documents]`, the mean over groups, in nats."""
    return cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def distillation_loss(teacher: Tensor, scores: Tensor) -> Tensor:
    """Return KL(softmax(teacher) | softmax(scores)) of each row `[n_groups, n_documents]`, the mean, in nats.

    No gradient flows into the teacher's scores.
    """
    p, log_p, log_q = teacher.detach().softmax(-1), log_softmax(teacher.detach(), -1), log_softmax(scores, -1)
    return (p * (log_p - log_q)).sum(-1).mean()


def contrastive_loss(queries: Tensor, documents: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Return how hard it is to tell a query's positive from all else in the batch, the mean, in nats.

    The positive stands among: all documents of the batch against the query; all queries against the positive; all
    queries against the query; all positives against the positive. In the last three a query's own column is left out.

    Args:
        queries: Unit vectors `[n_groups, dim]`.
        documents: Unit vectors `[n_groups, n_documents, dim]`, the positive first.
        texts: Numbers that are equal where texts are, `[n_groups, 1 + n_documents]`: of the query, of its documents.
        temperature: By which cosines are divided.

    Source: the official code of Wang, Yang and Wei (2024), https://arxiv.org/abs/2307.07164.
    Differs: a query that comes again in the batch, and a positive that comes again, are left out where the query itself
    and the positive itself are; in the official code they count as wrong answers.
    """
    n, per_group, _ = documents.shape
    positives, everything = documents[:, 0], documents.flatten(0, 1)  # [n, dim], [n * per_group, dim]
    own = torch.arange(n, device=queries.device) * per_group  # the positive's column
    query, positive = texts[:, :1], texts[:, 1:2]  # [n, 1]
    again = (positive == texts[:, 1:].flatten()).scatter(1, own[:, None], False)  # [n, n * per_group]
    blocks = [(queries @ everything.T).masked_fill(again, -torch.inf)]
    blocks += [(a @ b.T).masked_fill(left_out, -torch.inf) for a, b, left_out in
               ((positives, queries, query == query.T), (queries, queries, query == query.T),
                (positives, positives, positive == positive.T))]  # fmt: skip
    logits = torch.cat(blocks, dim=1) / temperature  # [n, n * per_group + 3 n]
    return cross_entropy(logits, own)


class RewardLoss(nn.Module):
    """`reward_loss` of a cross-encoder on columns query, positive, negatives.

    Args:
        model: A `CrossEncoder` with one score.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, inputs: list[list[str]], labels: Tensor | None = None, **_: Any) -> Tensor:
        """Return the loss of a batch of groups."""
        queries, *documents = inputs
        pairs = [(query, text) for column in documents for query, text in zip(queries, column, strict=True)]
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))  # little is padded among equals
        parts = []
        for start in range(0, len(order), _AT_ONCE):
            features = self.model.preprocess([pairs[i] for i in order[start : start + _AT_ONCE]])
            on_device = {k: v.to(self.model.device) for k, v in features.items() if isinstance(v, Tensor)}
            parts.append(self.model(on_device)["scores"].flatten())
        places = torch.argsort(torch.tensor(order, device=self.model.device))
        scores = torch.cat(parts)[places].view(len(documents), len(queries))
        return reward_loss(scores.T)


class RetrieverLoss(nn.Module):
    """`alpha` times the contrastive loss, and the distillation where there is a teacher, on columns query, documents.

    Args:
        model: A `SentenceTransformer` whose embeddings are unit vectors.
        alpha: Weight of the contrastive loss.
        temperature: By which cosines are divided.
        distil: Whether the labels are a teacher's scores; otherwise the contrastive loss counts alone, as it is.
    """

    def __init__(self, model: Any, alpha: float, temperature: float, *, distil: bool):
        super().__init__()
        self.model, self.alpha, self.temperature, self.distil = model, alpha, temperature, distil

    def forward(self, sentence_features: list[Mapping[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the loss of a batch; `labels` are the teacher's scores `[n_groups, n_documents]`."""
        queries, *columns = [self.model(dict(f))["sentence_embedding"] for f in sentence_features]
        documents = torch.stack(columns, dim=1)  # [n_groups, n_documents, dim]
        texts = _numbers(sentence_features).to(documents.device)
        contrastive = contrastive_loss(queries, documents, texts, self.temperature)
        if not self.distil:
            return contrastive
        scores = (queries[:, None] * documents).sum(-1) / self.temperature
        return self.alpha * contrastive + distillation_loss(labels, scores)


def _numbers(columns: list[Mapping[str, Tensor]]) -> Tensor:
    """Return a number for each text, the same for the same tokens, `[n_groups, n_columns]`; padding does not count."""
    known: dict[tuple[int, ...], int] = {}
    rows = [zip(column["input_ids"], column["attention_mask"].bool(), strict=True) for column in columns]
    return torch.tensor([[known.setdefault(tuple(ids[read].tolist()), len(known)) for ids, read in r] for r in rows]).T
