"""Written answers: greedy ones against transformers' own `generate`, drawing, stops, allowed answers, and resuming."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.types import GenerateRequest, Generation, Prompt, Segment
from kshot.engine import session
from kshot.engine.generation import Answer, groups_of, needed_groups
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.engine.trie import build_tree, cut
from kshot.models.hf import Backbone
from kshot.models.tiny import ByteTokenizer, tiny_backbone
from kshot.store.scores import SqliteStore
from variants import mostly_slow

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
    "mistral": ("mistral", {"sliding_window": 16}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}),
}
PLAIN = {
    "gemma2": ("gemma2", {"sliding_window": 16}),
    "bloom": ("bloom", {}),
    "mamba": ("mamba", {}),
}
N = 12  # tokens of an answer
SHARED = "one two three four "
TEXTS = (
    SHARED + "five",
    SHARED + "six",
    SHARED + "six seven eight nine ten eleven",  # its beginning is the prompt before it
    SHARED,
    "alone",
    SHARED + "six",  # equal prompts
    "one two",
    SHARED + "five, and so on",
    "a",
)


class IdTokenizer(ByteTokenizer):
    """Writes every id, so that texts tell exactly which tokens were chosen."""

    def decode(self, token_ids: list[int]) -> str:
        return "".join(f"<{i}>" for i in token_ids)


def id_backbone(kind: str, shape: dict) -> Backbone:
    return Backbone(tiny_backbone(kind, settings=shape).model, IdTokenizer(), "ids")


def ids_of(text: str) -> list[int]:
    return [int(i) for i in re.findall(r"<(\d+)>", text)]


def request(text: str, **how) -> GenerateRequest:
    return GenerateRequest(Prompt((Segment("query", text),)), **{"max_tokens": N, **how})


def reference(backbone: Backbone, text: str, n: int = N, last: tuple[int, ...] = (257,)) -> Generation:
    """What transformers itself writes, one prompt at a time."""
    ids = torch.tensor([[256, *text.encode()]])
    written = backbone.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n, eos_token_id=list(last)
    )[0, ids.shape[1] :].tolist()
    finished = written[-1] in last
    return Generation("".join(f"<{i}>" for i in (written[:-1] if finished else written)), finished)


@cache
def models(name: str) -> tuple[Backbone, dict[str, Generation]]:
    """A tiny model, and what transformers writes with it."""
    backbone = id_backbone(*(PACKABLE | PLAIN)[name])
    return backbone, {text: reference(backbone, text) for text in TEXTS}


@torch.no_grad()
def next_logits(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    """Independent of the engine: an ordinary forward pass."""
    return backbone.model(torch.tensor([ids])).logits[0, -1].double()


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return models("llama")[0]


@pytest.fixture(scope="module")
def letters() -> Backbone:
    """The same weights with the byte tokenizer."""
    return tiny_backbone()


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(session, "_GROUP_ROWS", 25)
    monkeypatch.setattr(session, "_GROUP_ANSWERS", 3)


# Greedy answers


@pytest.mark.parametrize("name", mostly_slow(PACKABLE, "gemma3", "gpt2"))
def test_greedy_answers_are_those_of_transformers(name, monkeypatch):
    backbone, expected = models(name)
    for pack_tokens, n_rows, n_answers in ((4096, 8192, 32), (6, 25, 3), (11, 1, 1)):
        monkeypatch.setattr(session, "_GROUP_ROWS", n_rows)
        monkeypatch.setattr(session, "_GROUP_ANSWERS", n_answers)
        engine = Engine(backbone, pack_tokens=pack_tokens)
        assert engine.obstacle is None
        assert engine.generate([request(t) for t in TEXTS]) == [expected[t] for t in TEXTS]


@pytest.mark.parametrize("name", mostly_slow([*PACKABLE, *PLAIN], "gemma3", "gpt2", "bloom"))
def test_an_answer_ends_at_any_of_the_models_last_tokens(name, monkeypatch):
    known, free = models(name)
    # Tokens that come in the middle of two answers become last ones; one is named by the config, one by the tokenizer
    middle = [ids_of(free[t].text)[i] for t, i in ((TEXTS[0], 4), (TEXTS[4], 2))]
    backbone = Backbone(known.model, IdTokenizer(), "ends early")
    monkeypatch.setattr(known.model.generation_config, "eos_token_id", [middle[0], 257])
    backbone._tokenizer.eos_token_id = middle[1]
    expected = {t: reference(backbone, t, last=(*middle, 257)) for t in TEXTS}
    assert len({g.text.count("<") for g in expected.values() if g.finished}) > 1
    found = Engine(backbone, pack_tokens=9).generate([request(t) for t in TEXTS])
    assert found == [expected[t] for t in TEXTS]


@pytest.mark.parametrize("name", mostly_slow(PLAIN, "bloom", "mamba"))
def test_architectures_that_cannot_be_packed_write_the_plain_way(name):
    backbone, expected = models(name)
    engine = Engine(backbone)
    assert engine.obstacle is not None
    assert engine.generate([request(t) for t in TEXTS]) == [expected[t] for t in TEXTS]


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_windows_are_shorter_than_what_is_written(name, monkeypatch):
    """Without the window the sliding models would write something else: the comparison above means something."""
    backbone, expected = models(name)
    monkeypatch.setitem(backbone.__dict__, "windows", [None] * 2)
    monkeypatch.setattr(Engine, "obstacle", None)
    assert Engine(backbone).generate([request(t) for t in TEXTS]) != [expected[t] for t in TEXTS]


def test_each_token_is_run_once(llama, monkeypatch, small_groups):
    run: list[int] = []
    forward = llama.packed_logits
    monkeypatch.setattr(llama, "packed_logits", lambda ids, *rest: run.extend(ids.tolist()) or forward(ids, *rest))
    engine = Engine(llama, pack_tokens=8)
    assert engine.obstacle is None
    run.clear()
    unique = sorted(set(TEXTS))
    found = engine.generate([request(t) for t in TEXTS])
    prefixes = {(256, *t.encode())[:i] for t in unique for i in range(1, len(t) + 2)}
    written = {t: len(ids_of(g.text)) - (not g.finished) for t, g in zip(TEXTS, found, strict=True)}
    assert len(run) == len(prefixes) + sum(written.values())


def test_no_requests_give_no_answers(llama):
    assert Engine(llama).generate([]) == []


# Groups


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)


@settings(max_examples=80, deadline=None)
@given(st.lists(tokens, min_size=1, max_size=10), st.data())
def test_groups_cover_the_packs_and_those_needed_hold_all_that_is_seen(prompts, data):
    tree = build_tree(prompts, [[(0,)]] * len(prompts))
    packs = cut(tree, max_tokens=data.draw(st.integers(1, 8)), max_scored=3)
    max_rows, max_answers = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    groups = groups_of(tree, packs, max_rows=max_rows, max_answers=max_answers)
    assert [p for first, behind in groups for p in range(first, behind)] == list(range(len(packs)))
    ranges = [range(packs[first][0], packs[behind - 1][1]) for first, behind in groups]
    n_answers = [sum(p in tokens for p in tree.positions.tolist()) for tokens in ranges]
    assert all(n_answers)  # a group without an answer would be remembered for nothing
    for (first, behind), tokens in zip(groups[:-1], ranges[:-1], strict=True):
        assert (
            int(tree.depths[tokens.start]) + len(tokens) >= max_rows
            or sum(packs[first][0] <= p < packs[behind - 1][1] for p in tree.positions) >= max_answers
        )
    wanted = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, unique=True))
    todo = needed_groups(tree, packs, groups, np.array(wanted))
    assert [number for number, _ in todo] == sorted({number for number, _ in todo})
    holds = {i: number for number, tokens in enumerate(ranges) for i in tokens}
    places = {holds[p] for p, s in zip(tree.positions.tolist(), tree.slots.tolist(), strict=True) if s in wanted}
    assert {number for number, answered in todo if answered} == places
    # A group that is run needs the ancestors of its first token, and nothing else is run
    needed = set(places)
    for number in range(len(groups) - 1, -1, -1):
        if number in needed:
            start = ranges[number].start
            needed |= {holds[a] for a in range(start) if tree.ends[a] > start}
    assert {number for number, _ in todo} == needed


# Drawing


def test_a_draw_depends_on_seed_and_prompt_alone(llama, small_groups):
    engine = Engine(llama, pack_tokens=8)
    asked = [request(t, temperature=1.0, seed=s) for t in sorted(set(TEXTS)) for s in (0, 1)]
    together = engine.generate(asked)
    assert [engine.generate([r])[0] for r in asked] == together
    assert engine.generate(asked[::-1]) == together[::-1]
    assert len({g.text for g in together}) == len(asked)


def test_draws_follow_the_softmax(llama):
    n, temperature = 3000, 1.5
    found = Engine(llama).generate([request("x", max_tokens=1, temperature=temperature, seed=s) for s in range(n)])
    drawn = np.bincount([257 if g.finished else ids_of(g.text)[0] for g in found], minlength=260)
    expected = torch.softmax(next_logits(llama, [256, *b"x"]) / temperature, -1).numpy()
    spread = np.sqrt(n * expected * (1 - expected)) + 1
    assert np.abs(drawn - n * expected).max() <= 4.5 * spread.max()
    assert (np.abs(drawn - n * expected) <= 4.5 * spread).all()
    # The test would see another temperature
    other = torch.softmax(next_logits(llama, [256, *b"x"]), -1).numpy()
    assert (np.abs(drawn - n * other) > 4.5 * spread).any()


def test_a_second_token_is_drawn_anew(llama):
    """With logits that are equal, tokens of one answer differ from each other: not one draw is used for all."""
    engine = Engine(llama)
    found = engine.generate([request("x", temperature=1e6, max_tokens=50, seed=s) for s in range(4)])
    ids = [i for g in found for i in ids_of(g.text)]
    assert len(set(ids)) > 80
    one, other = engine.generate([request(t, temperature=1e6, max_tokens=20) for t in "xy"])
    assert one != other  # nor one for all prompts of a seed


def test_a_low_temperature_is_greedy(llama):
    greedy = Engine(llama).generate([request(t) for t in TEXTS])
    assert Engine(llama).generate([request(t, temperature=0.0, seed=5) for t in TEXTS]) == greedy
    assert Engine(llama).generate([request(t, temperature=1e-5, seed=5) for t in TEXTS]) == greedy


# Ends


def test_an_answer_ends_before_its_stop(llama):
    (free,) = Engine(llama).generate([request("alone")])
    assert not free.finished
    a, b, c, d = ids_of(free.text)[:4]
    joint = f"{c}><{str(d)[0]}"  # spans two tokens, from inside one into the next
    cases = {
        (f"<{c}>",): f"<{a}><{b}>",
        (joint,): f"<{a}><{b}><",
        # The earliest, whatever their order; both are complete with the same token, or with different ones
        (f"{c}>", f"<{c}"): f"<{a}><{b}>",
        (f"<{d}>", f"<{b}>"): f"<{a}>",
        (f"<{b}>", f"<{d}>"): f"<{a}>",
        (f"<{a}>",): "",
        ("never", f"><{c}"): f"<{a}><{b}",
    }
    found = Engine(llama).generate([request("alone", stop=stop) for stop in cases])
    assert found == [Generation(text, True) for text in cases.values()]


def test_a_stop_in_the_prompt_does_not_count(letters):
    (free,) = Engine(letters).generate([request("one##two")])
    assert Engine(letters).generate([request("one##two", stop=("##", "tw"))]) == [free]


def test_a_stop_that_is_not_written_to_its_end_does_not_count(llama):
    (free,) = Engine(llama).generate([request("alone")])
    assert Engine(llama).generate([request("alone", stop=(free.text + "<",))]) == [free]


def test_what_never_stops_is_cut_and_says_so(llama):
    (free,) = Engine(llama).generate([request("alone")])
    ids = ids_of(free.text)
    assert len(ids) == N
    for n in (1, 2, 5):
        (cut_off,) = Engine(llama).generate([request("alone", max_tokens=n, stop=("never",))])
        assert cut_off == Generation("".join(f"<{i}>" for i in ids[:n]), False)
    (just,) = Engine(llama).generate([request("alone", max_tokens=3, stop=(f"<{ids[2]}>",))])
    assert just == Generation(f"<{ids[0]}><{ids[1]}>", True)


@pytest.mark.parametrize(("kind", "room"), [("llama", "max_position_embeddings"), ("gpt2", "n_positions")])
def test_an_answer_is_cut_where_the_model_reads_no_further(kind, room):
    shape = {**PACKABLE[kind][1], room: 24, "max_position_embeddings": 24}
    backbone = id_backbone(kind, shape)
    assert backbone.max_tokens == 24
    found = Engine(backbone).generate([request("a" * 15, max_tokens=100), request("a" * 22, max_tokens=100)])
    assert [(len(ids_of(g.text)), g.finished) for g in found] == [(8, False), (1, False)]
    assert found[0] == reference(backbone, "a" * 15, 8)


def test_answers_may_be_written_in_different_ways_at_once(llama):
    """Same prompt, other settings: each answer is what it is alone."""
    ways = [{}, {"max_tokens": 3}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 3}, {"stop": ("><",)}]
    asked = [request(t, **way) for t in (SHARED, "a") for way in ways]
    assert Engine(llama).generate(asked) == [Engine(llama).generate([r])[0] for r in asked]


# Allowed answers


ALLOWED = (" yes\n", " no\n", " yes sir\n", " no way\n", " nobody\n", " yes, no\n", " yes\n")


def walk(backbone: Backbone, text: str, allowed: tuple[str, ...]) -> str:
    """Brute force: at each step the best of the tokens by which any allowed answer goes on."""
    prompt, answers = [256, *text.encode()], [list(a.encode()) for a in allowed]
    ids: list[int] = []
    while ids not in answers:
        logits = next_logits(backbone, prompt + ids)
        ids.append(max({a[len(ids)] for a in answers if a[: len(ids)] == ids}, key=lambda i: float(logits[i])))
    return bytes(ids).decode()


def test_only_allowed_answers_are_given(letters, small_groups):
    texts = [f"{SHARED}{i}" for i in range(24)] + ["q" * i for i in range(1, 12)]
    # One token is too few for any of them: an allowed answer is always written to its end
    found = Engine(letters, pack_tokens=16).generate([request(t, allowed=ALLOWED, max_tokens=1) for t in texts])
    assert [g.text for g in found] == [walk(letters, t, ALLOWED) for t in texts]
    assert all(g.finished for g in found)
    assert len({g.text for g in found}) >= 3
    assert {" no\n", " no way\n"} <= {g.text for g in found}


def test_allowed_answers_without_packs():
    backbone = tiny_backbone("gemma2", settings=PLAIN["gemma2"][1])
    texts = ["one", "two", "three"]
    found = Engine(backbone).generate([request(t, allowed=ALLOWED) for t in texts])
    assert [g.text for g in found] == [walk(backbone, t, ALLOWED) for t in texts]


def test_a_single_allowed_answer_is_given(letters):
    asked = [request("x", allowed=(text,)) for text in (" é\n", " b", "c")]
    assert [g.text for g in Engine(letters).generate(asked)] == [" é\n", " b", "c"]


def test_allowed_answers_are_drawn_by_their_probability(letters):
    n, allowed = 1500, ("a\n", "b\n", "c\n")
    found = Engine(letters).generate([request("x", allowed=allowed, temperature=2.0, seed=s) for s in range(n)])
    drawn = np.array([sum(g.text == text for g in found) for text in allowed])
    expected = torch.softmax(next_logits(letters, [256, *b"x"])[list(b"abc")] / 2.0, -1).numpy() * n
    assert drawn.sum() == n
    assert np.abs(drawn - expected).max() <= 4 * np.sqrt(n) / 2
    assert expected.max() - expected.min() > 4 * np.sqrt(n)


# Store


class Killed(BaseException):
    pass


class DyingStore(SqliteStore):
    """Fails when it should commit once more than `n` times, before anything of it is written."""

    left = 10**9

    def put_texts(self, rows):
        if not self.left:
            raise Killed
        self.left -= 1
        super().put_texts(rows)


@pytest.mark.parametrize("way", [pytest.param({}, marks=pytest.mark.slow), {"temperature": 1.0, "seed": 7}])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, llama, monkeypatch, small_groups, way):
    asked = [request(f"{SHARED}{i % 3}{'abc'[i % 2] * i}", **way) for i in range(10)]
    seen: dict[tuple, torch.Tensor] = {}
    write = Answer.write

    def record(answer, logits, backbone):
        at = (*answer.prompt, *answer.ids)
        # Bit for bit what any run before has seen at this place
        assert torch.equal(seen.setdefault(at, logits.clone()), logits)
        write(answer, logits, backbone)

    monkeypatch.setattr(Answer, "write", record)
    engine = Engine(llama, pack_tokens=7)
    assert engine.obstacle is None
    counter = engine.with_store(DyingStore(tmp_path / "all.sqlite"))
    ledger = Ledger()
    undisturbed = counter.generate(asked, ledger=ledger)
    n_commits = 10**9 - counter._store.left
    assert n_commits >= 4
    assert (ledger.cost.scored, ledger.cost.reused) == (10, 0)
    forward, run = llama.packed_logits, []
    monkeypatch.setattr(llama, "packed_logits", lambda ids, *rest: run.extend(ids.tolist()) or forward(ids, *rest))
    costs = []
    for n in range(n_commits):
        store = DyingStore(tmp_path / f"{n}.sqlite")
        store.left = n
        first, told, ledger = engine.with_store(store), [], Ledger()
        with pytest.raises(Killed):
            first.generate(asked, progress=told.append, ledger=ledger)
        kept = ledger.cost.scored
        assert sum(told) == kept
        store.close()
        store, told = SqliteStore(tmp_path / f"{n}.sqlite"), []
        second, again = engine.with_store(store), Ledger()
        run.clear()
        assert second.generate(asked, progress=told.append, ledger=again) == undisturbed
        costs.append(len(run))
        assert (again.cost.reused, again.cost.scored) == (kept, 10 - kept)
        assert sum(told) == 10
        run.clear()
        third, last = engine.with_store(store), Ledger()
        assert third.generate(asked, ledger=last) == undisturbed
        assert (last.cost.reused, last.cost.scored, len(run)) == (10, 0, 0)
        assert last.cost.seconds == pytest.approx(again.cost.seconds)
        store.close()
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
    counter._store.close()


def test_equal_requests_are_answered_once_and_others_are_kept_apart(tmp_path, llama):
    store = SqliteStore(tmp_path / "texts.sqlite")
    engine, ledger = Engine(llama).with_store(store), Ledger()
    one, *_ = engine.generate([request("x")] * 3, ledger=ledger)
    assert (ledger.cost.scored, ledger.cost.reused) == (1, 0)
    others = [
        request("x", max_tokens=2),
        request("x", stop=("><",)),
        request("x", temperature=1.0),
        request("x", temperature=1.0, seed=1),
        request("x", allowed=("a",)),
    ]
    found = engine.generate([request("x"), *others], ledger=ledger)
    assert found[0] == one
    assert (ledger.cost.scored, ledger.cost.reused) == (6, 1)
    assert len({g.text for g in found}) == 6
    store.close()


def test_without_packs_every_answer_is_committed(tmp_path):
    backbone, expected = models("bloom")
    store = DyingStore(tmp_path / "texts.sqlite")
    store.left = 2
    engine = Engine(backbone).with_store(store)
    with pytest.raises(Killed):
        engine.generate([request(t) for t in TEXTS])
    store.left = 10**9
    engine, ledger = engine.with_store(store), Ledger()
    assert engine.generate([request(t) for t in TEXTS], ledger=ledger) == [expected[t] for t in TEXTS]
    assert (ledger.cost.reused, ledger.cost.scored) == (2, len(set(TEXTS)) - 2)
    store.close()


# Messages


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request("x" * 5000), r"between 1 and 4095 tokens, .*; got 5001 and 12\. .*\(--shots\)"),
        (request("x" * 4095), "between 1 and 4095 tokens, .*; got 4096 and 12"),
        (request("x", max_tokens=0), "an answer at least 1; got 2 and 0"),
        (GenerateRequest(Prompt((), spells_first_token=True), 4), "between 1 and 4095 tokens, .* got 0 and 4"),
        (request("x" * 4090, allowed=("a" * 8,)), "between 1 and 4088 tokens, so that an answer fits after it"),
        (request("x", temperature=-1.0), r"temperature must be 0 or more, .* got -1.0"),
        (request("x", stop=("a", "")), r"a tuple of texts that are not empty; got .*'a', ''"),
        (request("x", stop="ab"), "a tuple of texts that are not empty; got 0.0 and 'ab'"),
        (GenerateRequest("x", 4), r"prompt must be a Prompt, as Prompt\(\(Segment\('query', text\),\)\); got 'x'"),
        (request("x", allowed=(" a", "")), "Each allowed answer must have at least one token; got an empty text"),
    ],
)
def test_bad_requests_say_what_must_hold(llama, asked, message):
    engine, ledger = Engine(llama), Ledger()
    with pytest.raises(UserError, match=message):
        engine.generate([request("fine"), asked], ledger=ledger)
    assert ledger.cost.scored == 0


# The real model


@pytest.mark.slow
def test_the_real_model_writes_what_transformers_writes(monkeypatch):
    monkeypatch.setattr(session, "_GROUP_ANSWERS", 5)
    engine = load_model("demo")
    shown = "".join(f"Q: What is {a} plus {b}?\nA: {a + b}\n\n" for a, b in ((1, 2), (5, 4), (7, 7), (10, 3)))
    questions = ["Who wrote Faust?", "Name a river.", "3 plus 3?", "Why is the sky blue?", "What is a cat?"]
    questions += ["Name three colours.", "Is water wet?", "Translate 'good day' into French."]
    backbone, n = engine.backbone, 24
    engine = Engine(backbone, pack_tokens=40)
    asked = [request(f"{shown}Q: {q}\nA:", max_tokens=n) for q in questions]
    for r, found in zip(asked, engine.generate(asked), strict=True):
        ids = torch.tensor([engine.encode(r.prompt).ids])
        written = backbone.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n, top_k=None, top_p=None
        )[0, ids.shape[1] :].tolist()
        finished = written[-1] in backbone.last_ids
        assert found == Generation(backbone.detokenise(written[: len(written) - finished]), finished)
