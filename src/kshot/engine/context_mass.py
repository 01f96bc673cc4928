"""How much of a model's attention is on a passage while it says an answer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from kshot.core.errors import ModelError
from kshot.core.ledger import Cost, Ledger
from kshot.core.types import Prompt
from kshot.engine.session import Session


def context_mass(
    session: Session,
    texts: Sequence[tuple[Prompt, str, str]],
    layer: int,
    *,
    progress: Callable[[int], None] | None = None,
    ledger: Ledger | None = None,
) -> list[float]:
    """Return for each text s = mean over the answer's tokens i of max over heads h of sum over the passage's j of A.

    A_hij is the attention after its softmax, so s is from 0 to 1; a text without a passage has 0. The attention of a
    token is that by which it is predicted: of the token before it. Texts are run one by one.

    Args:
        session: Whose attention is read.
        texts: Prompt, answer as it follows without what ends it, and the passage as it stands in the prompt.
        layer: Where attention is read, from 0.
        progress: Called with the number of texts read since the last call.
        ledger: What it takes is added to.

    Raises:
        ModelError: The architecture's attention cannot be read.
        UserError: A prompt does not say its passage.

    Source: Wang et al. (2024), On the Loss of Context-awareness in General Instruction Fine-tuning, section 3,
    https://arxiv.org/abs/2411.02688. Differs: theirs is the attention of the answer's tokens themselves, which know it.
    """
    if session.obstacle is not None:
        raise ModelError(
            f"Attention can be read of models that run in packed rows, as Llama, Qwen and Gemma 3 do; of "
            f"'{session.name}' it cannot: {session.obstacle}. Give another --model."
        )
    found = []
    with session.active():
        for prompt, answer, passage in texts:
            asked, said = session.encode(prompt).ids, session.backbone.tokenise(answer)
            if passage:
                first, stop = session.place_of(prompt, passage)
                at = [len(asked) - 1 + i for i in range(len(said))]
                found.append(_mass(session, (*asked, *said), at, slice(first, stop), layer))
                (ledger or Ledger()).add(Cost(tokens=len(asked) + len(said)))
            else:
                found.append(0.0)
            if progress:
                progress(1)
    return found


@torch.inference_mode()
def _mass(session: Session, ids: Sequence[int], rows: Sequence[int], passage: slice, layer: int) -> float:
    """Return the mean over rows of the most that a head attends to a passage."""
    device = session.backbone.device
    positions = torch.arange(len(ids), device=device)
    distance = positions[:, None] - positions
    found = 0.0

    def attend(
        at: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, window: int | None
    ) -> torch.Tensor:
        """Attend; the signature is `kshot.models.hf.Attend`."""
        nonlocal found
        seen = (distance >= 0) & (distance < (window or len(ids)))
        keys, values = (t.repeat_interleave(query.shape[0] // t.shape[0], dim=0) for t in (key, value))
        if at == layer:
            scores = query[:, list(rows)].float() @ keys.float().transpose(1, 2)  # [heads, n_rows, n]
            scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
            weights = scores.masked_fill(~seen[list(rows)], -torch.inf).softmax(-1)
            found = float(weights[:, :, passage].sum(-1).amax(0).mean())
        how: Any = {"attn_mask": seen, "scale": scale}
        return scaled_dot_product_attention(query[None], keys[None], values[None], **how)[0]

    session.backbone.row_logits(torch.tensor(ids, device=device), positions, attend, positions[:0])
    return min(1.0, max(0.0, found))
