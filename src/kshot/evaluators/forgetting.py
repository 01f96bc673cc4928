"""Does training on one task make a model worse at everything else? The perplexity of general text says."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from math import exp, isfinite

from kshot.core.errors import NotFiniteError
from kshot.core.ledger import Cost, Ledger
from kshot.core.models import ScoringModel
from kshot.core.types import Prompt, ScoreRequest, Segment

_BEFORE: dict[str, tuple[float, Cost]] = {}  # what models have by their fingerprints, and what finding it took


def perplexity(model: ScoringModel, *, ledger: Ledger | None = None) -> float:
    """Return exp of the mean negative log-probability per token of five passages of plain English, written for this.

    The first sentence of each passage is given, the rest is scored.
    """
    requests, n_tokens = [], 0
    for passage in files("kshot.evaluators").joinpath("general.txt").read_text("utf-8").strip().split("\n\n"):
        first, rest = passage.split(". ", 1)
        requests.append(ScoreRequest(Prompt((Segment("query", f"{first}."),)), (f" {rest}",)))
        n_tokens += model.count_tokens(f" {rest}")
    nats = -sum(float(values[0]) for values in model.score(requests, ledger=ledger))
    if not isfinite(nats):
        raise NotFiniteError(
            f"Log-probabilities of general text must be finite numbers; those of '{model.name}' are not. Train with a "
            "smaller lr, use --dtype float32, or another --model."
        )
    return exp(min(700.0, nats / n_tokens))  # of more there is no float


def forgetting(before: ScoringModel, after: ScoringModel, *, ledger: Ledger | None = None) -> Mapping[str, float]:
    """Return the perplexity of general text before and after training.

    A process asks a model before training once; later its requests are counted as reused, with what they took.
    """
    ledger = ledger or Ledger()
    if known := _BEFORE.get(before.fingerprint):
        value, took = known
        ledger.add(replace(took, scored=0, reused=took.scored + took.reused))
    else:
        asked = ledger.part()
        value = perplexity(before, ledger=asked)
        _BEFORE[before.fingerprint] = value, asked.cost
    return {"perplexity_before": value, "perplexity_after": perplexity(after, ledger=ledger)}
