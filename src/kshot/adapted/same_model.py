"""Whether a language model is the one that an adapted model was made with, in another precision perhaps."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.steering import Steering


def model_record(model: LanguageModel, fingerprint: str) -> dict[str, Any]:
    """Return how a language model is loaded again, and what tells it from others.

    Args:
        model: The language model.
        fingerprint: What it was before training.
    """
    return {
        "name": model.name,
        "fingerprint": fingerprint,
        "weights": model.weights_id,
        "origin": dict(model.origin),
    }


def check_same(
    folder: Path,
    saved: Mapping[str, Any],
    model: LanguageModel,
    given: Mapping[str, str],
    *,
    allow_other_dtype: bool = False,
) -> None:
    """Raise UserError unless a language model is the one that was saved.

    Args:
        folder: The adapted model's, for the message.
        saved: Its record; of format 3 and before without `weights`, and with the fingerprint of that time.
        model: The one that is there now, before training and steering.
        given: What was said of how it is loaded, by the names of `load_model`.
        allow_other_dtype: Whether the same weights may run in another precision; then a note says so.
    """
    if saved["fingerprint"] in (model.fingerprint, *([] if "weights" in saved else [model.old_fingerprint])):
        return
    before, now = saved["origin"].get("dtype"), model.origin.get("dtype")
    if model.weights_id == saved.get("weights") and before != now:
        _check_allowed(allow_other_dtype, folder, f"'{model.name}'", before, now)
        return
    if model.is_remote and model.weights_id == saved.get("weights"):
        print(f"note: {folder} was adapted with {saved['name']} and asks {model.name} now", file=sys.stderr)
        return
    other = [f"--{name}" for name, value in given.items() if value != saved["origin"].get(name)]
    remedy = f"leave {' and '.join(other)} out, or adapt again" if other else "adapt again"
    raise UserError(
        f"{folder} was adapted with other weights, config or tokenizer than those of '{model.name}' (fingerprint "
        f"{saved['fingerprint'][:12]}, now {model.fingerprint[:12]}); {remedy}."
    )


def _check_allowed(allowed: bool, folder: Path, name: str, before: str | None, now: str | None) -> None:
    if not allowed:
        raise UserError(
            f"{folder} was adapted with the weights of {name} in {before}, and they run in {now} now, which gives "
            f"other probabilities. Load them with --dtype {before}, or take that with --allow-other-dtype (in Python "
            "allow_other_dtype=True)."
        )
    said = f"{folder} was adapted in {before} and is asked in {now}: what was measured may not hold"
    print(f"note: {said}", file=sys.stderr)


def at_home_in(steering: Steering, before: str, model: LanguageModel) -> Steering:
    """Return a steering that was fitted on a model of a fingerprint as one of the same model as it is called now."""
    return replace(steering, model=model.fingerprint) if steering.model == before else steering
