"""What users see is what is recorded in golden.json: see golden.py, which also compares to the last bit."""

import json
import math

import pytest

from golden import CASES, GOLDEN, differences, run_case

# Those that take long, repeat others, or whose numbers jump with the last bits of a processor (icv, function-vector)
LONG = {
    *("raced", "trained-defaults", "steered-and-trained", "generation", "generation-trained", "dry-run"),
    *("retriever-stages", "retriever", "resumed", "resumed-training", "new-process", "selector-model"),
    *("trained-otherwise", "trained-and-shown", "trained-fully", "aligned", "guided-ema", "chat-plain"),
    *("select-by-model", "less", "gradient-matching-prefix", "budget", "random-direction", "calibration-alone"),
    *("icv", "function-vector", "steered-and-shown", "embedded", "icl+ft", "guided", "soft-injection"),
    *("best-of-n", "orders", "choose-by-bits", "prefer-cheap", "seed-and-limit", "from-a-file", "block", "letters"),
    *("parsing-scripted", "math-scripted", "calibration", "fine-tune", "gradient-matching"),
}
# Another processor rounds differently; `python tests/golden.py` compares to the last bit
RELATIVE, ABSOLUTE = 1e-3, 1e-4
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES]


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text("utf-8"))


def is_close(expected, found):
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (expected, found))
    return numbers and math.isclose(expected, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


@pytest.mark.parametrize("name", NAMES)
def test_users_see_the_same(name, golden, tmp_path):
    differing = [d for d in differences(golden[name], run_case(name, tmp_path)) if not is_close(*d[1:])]
    assert differing[:10] == []


def test_every_case_is_recorded(golden):
    assert list(golden) == list(CASES)
