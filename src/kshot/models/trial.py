"""What a model shows when it is first run: that it can be, gives numbers, and does not look ahead."""

import numpy as np
import torch

from kshot.core.errors import UserError, in_short
from kshot.models.hf import Backbone

_LENGTH, _CHANGED = 8, 3
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the spread of its logits


def check_trial(backbone: Backbone) -> None:
    """Run two short rows that differ in their last tokens; what stands before must have the same logits.

    A model that attends in both directions, as BERT does, would see the answer that it is asked for.

    Raises:
        UserError: It cannot be run, its outputs are not numbers, or they depend on what comes later.
    """
    name, length = backbone.name, min(_LENGTH, backbone.max_tokens)
    least = min([length, *(window for window in backbone.windows or [] if window is not None)])
    if least < 1:
        raise UserError(
            f"'{name}' must see at least one token; its config has a context or a window of {least}. Correct it."
        )
    words = min(250, backbone.n_words)
    row = np.random.default_rng(0).integers(0, words, size=length)
    n_same = max(1, length - _CHANGED)
    other = np.where(np.arange(length) < n_same, row, (row + 1) % words)
    try:
        logits, changed = backbone.plain_logits([row.tolist(), other.tolist()])
    except Exception as error:  # whatever a damaged config makes of other people's code
        raise UserError(
            f"'{name}' must run on a text of {length} tokens; it says: {in_short(error)} ({type(error).__name__}). "
            "Correct its config, or give another --dtype or --device."
        ) from error
    logits, changed = logits[:n_same], changed[:n_same]  # [n_same, vocab]
    possible = logits.isfinite() & changed.isfinite()
    if not torch.logsumexp(torch.cat([logits, changed]), dim=-1).isfinite().all():  # a single word may have -inf
        raise UserError(
            f"The outputs of '{name}' must be numbers; on a text of {length} tokens they are NaN or infinite in "
            f"{str(backbone.dtype).removeprefix('torch.')}. Give another --dtype, or another model."
        )
    gap, spread = (logits - changed)[possible].abs().max(), logits[possible].std()
    if gap > _TOLERANCE.get(backbone.dtype, 1e-2) * spread:
        raise UserError(
            f"--model must name a causal language model, which sees what stands before a token alone; the outputs of "
            f"'{name}' change with what comes after, so it would see the answer that it is asked for. Give another "
            "model."
        )
