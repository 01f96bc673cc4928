"""What an answer rests on: its gradient with respect to the vectors of a prompt's tokens."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from kshot.core.errors import ModelError
from kshot.core.gradient_settings import FORWARD_AND_BACKWARD
from kshot.core.ledger import Cost, Ledger
from kshot.core.types import FloatArray, Prompt
from kshot.engine.session import Session
from kshot.engine.training_rows import TrainingRow, answer_losses, parts
from kshot.models.gradient_mode import learning
from kshot.models.products import fast_products

Place = tuple[int, int, int]  # a segment of a prompt, and where in its text something begins and ends

_MOST_TOKENS, _MOST_TOKENS_ELSEWHERE = 1024, 8192


@learning()
@fast_products()
def saliency(
    session: Session,
    texts: Sequence[tuple[Prompt, str, Sequence[Place]]],
    *,
    progress: Callable[[int], None] | None = None,
    ledger: Ledger | None = None,
) -> list[FloatArray]:
    """Return for each text how strongly its answer follows each place: the largest g_j of the tokens j there.

    g_j = || dL / de_j ||_2, where e_j is the vector of token j as the first layer gets it and L the mean negative
    log-probability in nats of the answer's tokens.

    Args:
        session: Whose gradients are taken, trained and steered as it is.
        texts: Prompt, answer as it follows, and the places; a token that reaches over a border is in the place.
        progress: Called with the number of texts run since the last call.
        ledger: What it takes is added to.

    Returns:
        `[n_places]` for each text.

    Raises:
        UserError: A text too long for the model.
        ModelError: A gradient is not finite, or other tokens stand for what is asked.

    Source: Simonyan et al. (2014), https://arxiv.org/abs/1312.6034, of words as in Li et al. (2016), section 5,
    https://arxiv.org/abs/1506.01066.
    """
    rows, spans = list[TrainingRow](), list[list[tuple[int, int]]]()
    for prompt, answer, places in texts:
        asked, said = session.encode(prompt).ids, session.backbone.tokenise(answer)
        spans.append(session._encoder.tokens_at(prompt, places))
        soft = tuple(sorted({at for span in spans[-1] for at in range(*span)}))
        rows.append(TrainingRow((*asked, *said), tuple(range(len(asked), len(asked) + len(said))), soft))
    can_pack, found = session.obstacle is None, list[FloatArray]()
    most = _MOST_TOKENS if session.backbone.device.type == "cpu" else _MOST_TOKENS_ELSEWHERE
    with session.active():
        for part in parts(rows, can_pack=can_pack, max_tokens=most) if rows else ():
            norms = _norms(session, part)
            for row, own in zip(part, norms, strict=True):
                by_token = dict(zip(row.soft, own.tolist(), strict=True))
                places = spans[len(found)]
                found.append(np.array([max((by_token[at] for at in range(*span)), default=0.0) for span in places]))
            (ledger or Ledger()).add(Cost(tokens=FORWARD_AND_BACKWARD * sum(len(row.ids) for row in part)))
            if progress:
                progress(len(part))
    if not all(np.isfinite(values).all() for values in found):
        raise ModelError(
            f"Gradients must be finite numbers; those of '{session.name}' are not. Use --dtype float32, or another "
            "--model."
        )
    return found


def _norms(session: Session, part: Sequence[TrainingRow]) -> list[torch.Tensor]:
    """Return the norms of the gradients at each text's soft positions."""
    ids = torch.tensor([row.ids[at] for row in part for at in row.soft], device=session.backbone.device)
    vectors = session.backbone.embed(ids).detach().requires_grad_()  # [n_soft, width]
    losses = answer_losses(session.backbone, part, vectors)
    counts = torch.tensor([len(row.supervised) for row in part], device=losses.device)
    (gradient,) = torch.autograd.grad((losses / counts.repeat_interleave(counts)).sum(), vectors)
    return list(gradient.float().norm(dim=-1).cpu().split([len(row.soft) for row in part]))
