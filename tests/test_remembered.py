"""What prompts begin with is kept, and what comes after it is answered as if nothing had been kept."""

import numpy as np
import pytest
import torch

import kshot
from kshot.adapted.model import AdaptedModel
from kshot.core.ledger import Ledger
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Segment, Task
from kshot.engine import session
from kshot.engine.language_model import Engine
from kshot.engine.remembered import Beginning, Memory, memory_of
from kshot.learners.learner import Setup
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

SHOWN = tuple(Segment("demonstration", f"Text: number {i}\nLabel: {'ab'[i % 2]}\n\n") for i in range(4))
ANSWERS = (" a\n\n", " b\n\n", " bc\n\n")


def asked(text: str, shown: tuple[Segment, ...] = SHOWN) -> ScoreRequest:
    return ScoreRequest(Prompt((*shown, Segment("query", f"Text: {text}\nLabel:"))), ANSWERS)


def run_tokens(engine: Engine, requests: list[ScoreRequest]) -> tuple[list[np.ndarray], float]:
    ledger = Ledger()
    return engine.score(requests, ledger=ledger), ledger.cost.tokens


@pytest.fixture
def engine() -> Engine:
    loaded = kshot.load_model("tiny")
    assert isinstance(loaded, Engine)
    return loaded


def test_the_second_time_only_what_is_new_is_run(engine):
    warm = engine.remembering()
    requests = [asked("one"), asked("a longer one"), asked("one", SHOWN[:2])]
    expected = engine.score(requests)
    tokens = []
    for request in (requests[0], requests[1], requests[1], requests[0]):
        (scores,), n = run_tokens(warm, [request])
        assert scores == pytest.approx(expected[requests.index(request)], abs=1e-4)
        tokens.append(n)
    first, second, third, fourth = tokens
    assert second > third  # the second time it is kept
    assert fourth < first / 3
    both, n = run_tokens(warm, requests)
    assert np.concatenate(both) == pytest.approx(np.concatenate(expected), abs=1e-4)
    assert n > third  # of the last one nothing is kept yet


def test_several_beginnings_are_gone_on_from_in_one_pass(engine, monkeypatch):
    """Where they share their first tokens, where one is the beginning of another, and up to a pack's size."""
    passes: list[int] = []
    run = session.score_joined
    monkeypatch.setattr(session, "score_joined", lambda *args: passes.append(len(args[2])) or run(*args))
    warm = engine.remembering()
    shown = [SHOWN, SHOWN[:2], SHOWN[::-1], (Segment("instruction", "Say a or b.\n\n"), *SHOWN[1:])]
    requests = [asked(text, own) for own in shown for text in ("one", "two and more")]
    expected = np.concatenate(engine.score(requests))
    for _ in range(2):
        assert np.concatenate(warm.score(requests)) == pytest.approx(expected, abs=1e-4)
    assert passes == [4, 4]
    assert np.concatenate(warm.score(requests[:4])) == pytest.approx(expected[:12], abs=1e-4)
    many = [asked(f"{i} " * 40, own) for own in shown for i in range(9)]
    assert np.concatenate(warm.score(many)) == pytest.approx(np.concatenate(engine.score(many)), abs=1e-4)
    assert passes == [4, 4, 2]
    inside = [asked("number 2"), asked("number 3", SHOWN[:2])]  # the question stands in another beginning
    kept = [asked(text, own) for text in ("x", "y") for own in (SHOWN[:2], SHOWN[:3])]
    warm.score(kept)
    both = [asked("number 2", SHOWN[:2]), asked("z", SHOWN[:3]), *inside]
    assert np.concatenate(warm.score(both)) == pytest.approx(np.concatenate(engine.score(both)), abs=1e-4)


def test_what_is_written_after_it_is_the_same(engine):
    warm = engine.remembering()
    requests = [GenerateRequest(asked(text).prompt, 6, ("\n",)) for text in ("one", "two", "one and two")]
    expected = engine.generate(requests)
    for _ in range(3):
        assert warm.generate(requests) == expected
    assert [warm.generate([request]) for request in requests] == [[answer] for answer in expected]


def test_windows_and_steerings_are_kept_apart():
    """A layer that sees only so far back sees so far across what is kept; other activations are other beginnings."""
    windows = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
    engine = Engine(tiny_backbone("gemma3_text", settings=windows))
    vector = np.ones((1, 32), dtype=np.float32)
    edit = Edit(0, "block", "turn", False, vector, np.ones(1, dtype=np.float32))
    steered = engine.steered(Steering((edit,)))
    for model in (engine, steered):
        warm = model.remembering()
        for _ in range(3):
            assert warm.score([asked("one")])[0] == pytest.approx(model.score([asked("one")])[0], abs=1e-4)
    assert not np.allclose(engine.score([asked("one")])[0], steered.score([asked("one")])[0], atol=1e-2)


def test_memory_forgets_what_was_not_used_for_longest():
    def beginning() -> Beginning:
        return Beginning(1, {0: (torch.zeros(1, 10, 10), torch.zeros(1, 10, 10))})  # 800 bytes

    memory = Memory(most_bytes=2000)
    for name in "abc":
        memory.put((name, (1,)), beginning())
        memory.get(("a", (1,)))
    assert [memory.get((name, (1,))) is not None for name in "abc"] == [True, False, True]
    tokens = tuple(range(20))
    assert [memory.is_worth(("a", tokens), 1) for _ in range(2)] == [False, True]
    assert memory.is_worth(("b", tokens), 2)
    assert not memory.is_worth(("a", (1, 2)), 5)


def test_what_is_held_stays_within_its_limit_whatever_comes_after_it(engine):
    warm = engine.remembering()
    memory = warm._memory
    memory._most_bytes = 256 * 1024
    most, n_kept = 0, set()
    for i in range(30):
        shown = (Segment("instruction", f"{i} is the number.\n\n"), *SHOWN)
        for text in ("one", "two", "and many words " * 40):
            found = warm.score([asked(text, shown)])
            assert found[0] == pytest.approx(engine.score([asked(text, shown)])[0], abs=1e-4)
            most = max(most, memory.n_bytes)
            n_kept.add(len(memory._known))
    assert 0 < most <= 256 * 1024
    assert max(n_kept) > 1
    assert all(isinstance(mark, int) for mark in memory._seen)  # no tokens
    memory._known.clear()
    memory._most_bytes = 1000
    for _ in range(3):  # one alone is too large
        warm.score([asked("one")])
    assert memory.n_bytes == 0


def test_all_models_on_a_backbone_share_one_memory_and_a_store_knows_nothing_of_it(engine):
    assert memory_of(engine.backbone) is memory_of(engine.remembering().backbone)
    assert engine._memory is None
    assert engine.remembering()._store is None


@pytest.mark.parametrize("recipe", ["random:k=3,contexts=3", "bm25:k=2", "random:k=2,calibration=contextual"])
def test_a_warm_model_says_the_same(recipe):
    examples = tuple(
        Example(f"the {word} number {i}", "ab"[i % 2], f"e{i}") for i, word in enumerate(["one", "two", "red"] * 3)
    )
    task = Task("ab", "classification", examples, labels=("a", "b"), instruction="Say a or b.")
    setup = Setup(task, TaskModel.for_task(task, kshot.load_model("tiny")), 0)
    cold = AdaptedModel.fit(parse_recipe(recipe, shots=3), examples, setup, choice={})
    warm, asked = cold.warm(), ["the red number 7", "the blue one"]
    for _ in range(3):
        assert warm.predict_proba(asked) == pytest.approx(cold.predict_proba(asked), abs=1e-5)
    assert sum(p.tokens for p in warm.predictions(asked)) <= sum(p.tokens for p in cold.predictions(asked))
