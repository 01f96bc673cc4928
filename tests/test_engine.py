"""The packed engine against a plain forward pass, on every kind of attention, and its store."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.engine.language_model import Engine
from kshot.engine.trie import build_tree, cut, packs_for
from kshot.models.hf import Backbone
from kshot.models.tiny import tiny_backbone
from kshot.store.scores import SqliteStore

GEMMA3 = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
    "query_pre_attn_scalar": 8,
}
PACKABLE = {
    "llama": ("llama", {}),
    "grouped-query": ("llama", {"num_key_value_heads": 1}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3-window-of-one": ("gemma3_text", {**GEMMA3, "sliding_window": 1}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}),
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
LONG |= {"original_max_position_embeddings": 32}
PLAIN = {
    "gemma2": ("gemma2", {"sliding_window": 16}, "soft-capped"),
    "bloom": ("bloom", {}, "cannot be exchanged"),
    "mamba": ("mamba", {}, "linear_attention"),
    "longrope": ("llama", {"rope_parameters": LONG, "max_position_embeddings": 512}, "longrope"),
    "phimoe": ("phimoe", {"num_local_experts": 4, "sliding_window": 16}, "a sliding window that only its mask knows"),
}
LABELS = (" yes\n", " no\n", " yes sir\n")


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone()


def test_the_weights_of_a_tiny_model_depend_on_its_seed_alone():
    first, second, other = (dict(tiny_backbone("mamba", seed=seed).model.named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert not torch.equal(*(some["backbone.layers.0.mixer.dt_proj.bias"] for some in (first, other)))


def words(n: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join("".join(chr(97 + c) for c in rng.integers(26, size=4)) for _ in range(n))


def requests(n: int = 6) -> list[ScoreRequest]:
    """A shared prefix with several queries, a growing stream, a request by itself, and a repeated one."""
    shared = Segment("demonstration", words(12, 0))
    rows = [ScoreRequest(Prompt((shared, Segment("query", words(4, i)))), LABELS) for i in range(n)]
    text = ""
    for i in range(n):
        text += words(5, 100 + i) + ":"
        rows.append(ScoreRequest(Prompt((Segment("query", text),)), LABELS))
        text += " no\n"
    rows.append(ScoreRequest(Prompt((Segment("query", words(30, 500)),)), (" alone\n",)))
    return [*rows, rows[0]]


@torch.no_grad()
def plain_scores(backbone: Backbone, engine: Engine, request: ScoreRequest) -> list[float]:
    """Independent of the engine: one ordinary forward pass per continuation, all logits."""
    prompt = list(engine.encode(request.prompt).ids)
    result = []
    for text in request.continuations:
        answer = list(backbone.tokenise(text))
        logits = backbone.model(torch.tensor([prompt + answer])).logits[0].double()
        log_probs = torch.log_softmax(logits, -1)
        result.append(sum(float(log_probs[len(prompt) - 1 + j, t]) for j, t in enumerate(answer)))
    return result


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("pack_tokens", [pytest.param(7, marks=pytest.mark.slow), 64, 4096])
def test_packed_scores_equal_a_plain_forward_pass(name, pack_tokens):
    backbone = tiny_backbone(PACKABLE[name][0], settings=PACKABLE[name][1])
    engine = Engine(backbone, pack_tokens=pack_tokens)
    assert engine.obstacle is None
    asked = requests()
    scores = engine.score(asked)
    expected = [plain_scores(backbone, engine, r) for r in asked]
    assert max(np.abs(s - e).max() for s, e in zip(scores, expected, strict=True)) <= 1e-4


@pytest.mark.parametrize("name", PLAIN)
def test_architectures_that_cannot_be_packed_are_scored_in_plain_batches(name):
    kind, shape, reason = PLAIN[name]
    backbone = tiny_backbone(kind, settings=shape)
    engine = Engine(backbone)
    assert reason in str(engine.obstacle)
    assert "many times slower" in str(engine.remark)
    asked = requests(2)
    expected = [plain_scores(backbone, engine, r) for r in asked]
    assert max(np.abs(s - e).max() for s, e in zip(engine.score(asked), expected, strict=True)) <= 1e-4


def test_a_network_that_disagrees_with_its_packs_is_not_packed(monkeypatch, llama):
    backbone = tiny_backbone()
    plain = backbone.plain_logits
    monkeypatch.setattr(
        backbone, "plain_logits", lambda rows, _: [x + torch.arange(x.shape[1]) * 0.1 for x in plain(rows)]
    )
    assert "differ from a plain pass" in str(Engine(backbone).obstacle)


def test_each_shared_token_is_run_once(llama, monkeypatch):
    run = []
    forward = llama.packed_logits
    monkeypatch.setattr(llama, "packed_logits", lambda ids, *rest: run.extend(ids.tolist()) or forward(ids, *rest))
    engine = Engine(llama)
    assert engine.obstacle is None
    run.clear()
    asked = requests()
    engine.score(asked)
    prefixes = set()
    for request in asked:
        prompt = engine.encode(request.prompt).ids
        for text in request.continuations:
            ids = prompt + llama.tokenise(text)[:-1]
            prefixes |= {ids[:i] for i in range(1, len(ids) + 1)}
    assert len(run) == len(prefixes) == engine.forward_tokens(asked)


def test_logits_are_computed_only_where_something_is_predicted(llama, monkeypatch):
    kept = []
    forward = llama.packed_logits
    monkeypatch.setattr(
        llama,
        "packed_logits",
        lambda ids, at, attend, keep, _: kept.append(len(keep)) or forward(ids, at, attend, keep),
    )
    engine = Engine(llama)
    assert engine.obstacle is None
    kept.clear()
    engine.score([ScoreRequest(Prompt((Segment("query", "abc"),)), (" a\n", " b\n"))])
    # after "abc", after " ", after " a" and after " b"
    assert sum(kept) == 4


def test_few_positions_with_logits_fit_a_small_memory_limit(llama, monkeypatch):
    kept = []
    forward = llama.packed_logits
    monkeypatch.setattr(
        llama,
        "packed_logits",
        lambda ids, at, attend, keep, _: kept.append(len(keep)) or forward(ids, at, attend, keep),
    )
    wide = Engine(llama).score(requests())
    engine = Engine(llama, memory_limit_bytes=8 * llama.vocab_size * 12)
    assert engine.obstacle is None
    kept.clear()
    narrow = engine.score(requests())
    assert max(kept) <= 12
    np.testing.assert_allclose(np.concatenate(narrow), np.concatenate(wide), atol=1e-4)


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=3)), min_size=1, max_size=8), st.data())
def test_the_tree_holds_every_sequence_once_and_packs_cover_it(rows, data):
    prompts, answers = [p for p, _ in rows], [a for _, a in rows]
    tree = build_tree(prompts, answers)
    sequences = [tuple(p + a[:-1]) for p, alternatives in rows for a in alternatives]
    prefixes = {s[:i] for s in sequences for i in range(1, len(s) + 1)}
    paths = [
        tuple(tree.tokens[[a for a in range(u + 1) if a <= u < tree.ends[a]]].tolist()) for u in range(len(tree.tokens))
    ]
    assert sorted(paths) == sorted(prefixes)
    assert [len(p) - 1 for p in paths] == tree.depths.tolist()
    slot, expected = 0, set()
    for prompt, alternatives in rows:
        for answer in alternatives:
            for j, token in enumerate(answer):
                expected.add((tuple(prompt + answer[:j]), token, slot))
            slot += 1
    found = zip(tree.positions.tolist(), tree.targets.tolist(), tree.slots.tolist(), strict=True)
    assert {(paths[p], t, s) for p, t, s in found} == expected
    max_tokens = data.draw(st.integers(1, 12))
    packs = cut(tree, max_tokens=max_tokens, max_scored=data.draw(st.integers(1, 5)))
    assert [p for start, stop in packs for p in range(start, stop)] == list(range(len(tree.tokens)))
    assert all(stop - start <= max_tokens for start, stop in packs)
    wanted = data.draw(st.lists(st.integers(0, slot - 1), min_size=1))
    run = packs_for(tree, packs, np.array(wanted))
    present = {u for number in run for u in range(*packs[number])}
    ancestors = {a for u in present for a in range(u) if tree.ends[a] > u}
    assert ancestors <= present
    assert set(tree.positions[np.isin(tree.slots, wanted)].tolist()) <= present


def test_scores_do_not_depend_on_what_is_stored(tmp_path, llama):
    """A run that is killed after any pack resumes to the very same bits, and scores no committed request again."""
    asked = requests()
    undisturbed = np.concatenate(Engine(llama, pack_tokens=40).score(asked))

    class Killed(BaseException):
        pass

    for n_packs in range(1, 6):
        store = SqliteStore(tmp_path / f"{n_packs}.sqlite")
        first, left = Engine(llama, pack_tokens=40).with_store(store), n_packs

        def tell(n):
            nonlocal left
            left -= n > 0
            if not left:
                raise Killed

        ledgers = [Ledger() for _ in range(3)]
        with pytest.raises(Killed):
            first.score(asked, progress=tell, ledger=ledgers[0])
        kept = store.count()
        assert ledgers[0].cost.scored == kept > 0
        second = Engine(llama, pack_tokens=40).with_store(store)
        assert np.array_equal(np.concatenate(second.score(asked, ledger=ledgers[1])), undisturbed)
        assert ledgers[1].cost.reused == kept
        third = Engine(llama, pack_tokens=40).with_store(store)
        assert np.array_equal(np.concatenate(third.score(asked, ledger=ledgers[2])), undisturbed)
        assert ledgers[2].cost.scored == 0
        store.close()


def test_answer_spans_are_exact(llama):
    prompt = Prompt(
        (
            Segment("instruction", "Do.\n\n"),
            Segment("demonstration", "Text: é\nLabel:"),
            Segment("answer", " a\n\n"),
            Segment("query", "Text: y\nLabel:"),
        )
    )
    encoded = Engine(llama).encode(prompt)
    assert encoded.ids[0] == 256
    assert bytes(encoded.ids[1:]).decode() == prompt.text
    assert [bytes(encoded.ids[a:b]).decode() for a, b in encoded.answer_spans] == [" a\n\n"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ScoreRequest(Prompt((Segment("query", "x"),)), ("",)), "at least one token"),
        (ScoreRequest(Prompt((Segment("query", "x" * 5000),)), (" a",)), "must fit the model's 4096 tokens; got 5003"),
    ],
)
def test_bad_requests_say_what_must_hold(llama, request_, message):
    with pytest.raises(UserError, match=message):
        Engine(llama).score([request_])


def test_equal_weights_have_equal_fingerprints_and_others_not():
    assert tiny_backbone().fingerprint == tiny_backbone().fingerprint
    assert tiny_backbone().fingerprint != tiny_backbone(seed=1).fingerprint
    assert tiny_backbone().fingerprint != tiny_backbone("qwen3").fingerprint


@pytest.mark.slow
def test_the_real_model_agrees_with_a_plain_pass_and_costs_little():
    from kshot.bench.packed_scoring import run

    found = run("demo")
    print(json.dumps(found))
    assert found["max_abs_diff_nats"] <= 1e-3
    assert found["speedup_vs_naive"] >= 70
    assert found["stream_cost_ratio"] <= 1.5
