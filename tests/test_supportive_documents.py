"""Documents that support answering after demonstrations: what the world is, what is measured, and what is chosen."""

import json
from itertools import product

import numpy as np
import pytest
import torch

import kshot
from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.studies import EXPERIMENTS, networks, supportive_documents
from kshot.studies.document_statistics import frontier, nearest_centres, zipf
from kshot.studies.made_documents import (
    HOLLOW,
    KEPT,
    LABELS,
    LISTED,
    LISTS,
    MIXED,
    N_TOKENS,
    N_WORDS,
    SHARES,
    START,
    TEXT,
    WORDS,
    documents,
    prompts,
    usual,
)
from kshot.studies.networks import Decoder, made, train
from kshot.studies.supportive_documents import LONG, SHOTS, agreement, directions, gains, gradient, losses

SMALL = "supportive(worlds=2,corpus=48,pool=24,n=4,rounds=2,draws=1,width=8,heads=2,batch=8)"
MINUTES = 0.0375  # ten steps a network


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def drawn():
    return documents(1500, 64, rng=rng())


def network(seed=0):
    return made(lambda: Decoder(2 * N_TOKENS, N_TOKENS, width=8, layers=2, heads=2, length=64), rng(seed))


# The world


def labels_of(row):
    """Return word -> the labels after it, of a document."""
    found = {}
    for word, label in zip(row, row[1:], strict=False):
        if word < N_WORDS <= label < START:
            found.setdefault(int(word), []).append(int(label) - N_WORDS)
    return found


def test_lists_have_mappings_of_their_own_and_hollow_ones_have_none(drawn):
    one_label = {kind: [] for kind in SHARES}
    as_usual = {kind: [] for kind in SHARES}
    for row, kind in zip(drawn.tokens, drawn.kinds, strict=True):
        for word, labels in labels_of(row).items():
            one_label[kind].append(len(set(labels)) == 1) if len(labels) > 1 else None
            as_usual[kind] += [label == usual(np.array(word)) for label in labels]
    share = {kind: np.mean(found) for kind, found in one_label.items()}
    assert share[TEXT] == share[LISTS] == 1
    assert share[HOLLOW] < 0.1
    assert share[LISTS] > share[MIXED] > share[HOLLOW]
    kept = {kind: np.mean(found) for kind, found in as_usual.items()}
    assert kept[TEXT] == 1
    assert kept[LISTS] == pytest.approx(KEPT, abs=0.05)
    assert kept[HOLLOW] == pytest.approx(1 / LABELS, abs=0.02)
    structure = {kind: drawn.structure[drawn.kinds == kind] for kind in SHARES}
    assert (structure[LISTS] == 1).all()
    assert not structure[TEXT].any()
    assert not structure[HOLLOW].any()
    assert ((structure[MIXED] > 0) & (structure[MIXED] < 1)).all()


def test_documents_are_of_one_domain_each_and_of_the_kinds_in_their_shares(drawn):
    for row, domain in zip(drawn.tokens, drawn.domains, strict=True):
        assert {int(token) // WORDS for token in row if token < N_WORDS} == {int(domain)}
    assert (drawn.tokens[:, 0] == START).all()
    assert (drawn.tokens[:, 1:] < START).all()
    for kind, share in SHARES.items():
        assert (drawn.kinds == kind).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 1500))


def test_structure_frequencies_reach_and_domain_tell_nothing_of_each_other(drawn):
    about = [drawn.structure, drawn.zipf, drawn.recency, drawn.domains == 0, drawn.kinds == HOLLOW]
    of = np.corrcoef(np.array(about, dtype=float)) - np.eye(5)
    of[0, 4] = of[4, 0] = 0  # a hollow list has no structure, as it is said
    assert np.abs(of).max() < 0.25, of.round(2)
    assert drawn.zipf.std() > 0.07
    means = [drawn.zipf[drawn.kinds == kind].mean() for kind in SHARES]
    assert max(means) - min(means) < 0.03


def test_a_word_comes_again_sooner_where_recency_is_high(drawn):
    def again(row):
        words = [int(t) for t in row if t < N_WORDS]
        return np.mean([word in words[max(0, i - 3) : i] for i, word in enumerate(words) if i >= 8])

    near = np.array([again(row) for row in drawn.tokens[:500]])
    assert np.corrcoef(near, drawn.recency[:500])[0, 1] > 0.8


def test_the_best_answer_is_that_of_the_posterior():
    """Over all mappings of two words, by their probabilities: the shown label, else the usual one."""
    words = np.array([3, 7])
    chance = {label: KEPT if label == 0 else (1 - KEPT) / (LABELS - 1) for label in range(LABELS)}  # beyond the usual
    for shown in ((), (0,), (1,), (1, 1)):
        told = {w: 5 for w in shown}
        weights = np.zeros(LABELS)
        for a, b in product(range(LABELS), repeat=2):
            labels = (usual(words) + (a, b)) % LABELS
            if all(labels[w] == label for w, label in told.items()):
                weights[labels[1]] += chance[a] * chance[b]
        assert weights.argmax() == (5 if 1 in told else usual(words)[1])


def test_prompts_say_what_is_best():
    for k in (0, 2, 8):
        found = prompts(400, k, rng=rng(), domain=1)
        assert found.tokens.shape == (400, 2 * k + 2)
        for row, answer, best, unusual in zip(found.tokens, found.answers, found.best, found.unusual, strict=True):
            shown, asked = dict(zip(row[1:-1:2].tolist(), row[2:-1:2].tolist(), strict=True)), int(row[-1])
            said = shown.get(asked, N_WORDS + int(usual(np.array(asked))))
            assert best == (said == N_WORDS + answer)
            assert unusual == (usual(np.array(asked)) != answer)
            assert len({*shown, asked}) <= LISTED
            assert asked // WORDS == 1
    assert prompts(4000, 0, rng=rng()).best.mean() == pytest.approx(KEPT, abs=0.04)
    assert prompts(4000, 12, rng=rng()).best.mean() > 0.97


def test_the_same_seed_gives_the_same_documents():
    first, again, other = (documents(50, 64, rng=rng(seed)) for seed in (1, 1, 2))
    assert (first.tokens == again.tokens).all()
    assert not (first.tokens == other.tokens).all()


# What is measured


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_coefficient_is_that_of_the_frequencies(exponent):
    counts = (360_000 * np.arange(1.0, 7.0) ** -exponent).round().astype(int) // 100
    rows = np.repeat(rng().permutation(6), counts)
    assert zipf(rows[None]) == pytest.approx([exponent], abs=0.01)


def test_the_coefficient_is_that_of_a_fitted_line(drawn):
    rows = np.concatenate([drawn.tokens[:20], np.full((1, 64), 5)])
    fitted = []
    for row in rows[:20]:
        counts = np.sort(np.unique(row, return_counts=True)[1])[::-1]
        fitted.append(-np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0])
    assert zipf(rows) == pytest.approx([*fitted, 0.0])


def test_the_frontier_is_1_for_the_same_and_0_for_what_shares_nothing():
    p, q = np.array([4.0, 3, 2, 1, 0, 0]), np.array([0.0, 0, 0, 0, 5, 5])
    assert frontier(p, 10 * p) == pytest.approx(1)
    between = [frontier(p, (1 - share) * p + share * q) for share in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert between == sorted(between, reverse=True)
    assert between[-1] < 0.05
    assert frontier(p, q) == pytest.approx(frontier(q, p))


def test_clusters_are_those_that_are_there():
    centres = np.array([[0.0, 0], [9, 0], [0, 9]])
    points = np.concatenate([centre + 0.1 * rng(1).standard_normal((20, 2)) for centre in centres])
    found = min((nearest_centres(points, 3, rng(seed)) for seed in range(5)), key=lambda b: np.bincount(b).max())
    assert all(len(set(found[i : i + 20])) == 1 for i in (0, 20, 40))
    assert len(set(found)) == 3


def test_the_gain_is_what_long_context_saves():
    """Of a network that says, with a logit of 5, the token after START: long context begins with the right one."""

    def first(x):
        said = torch.zeros(len(x), x.shape[1], N_TOKENS)
        said[:, -1] = 5 * x[:, 1, :N_TOKENS]
        return said

    row = np.concatenate([[START], np.tile(np.arange(LONG), 2)])[None, :60]  # each token is LONG before itself
    found = gains(first, row)
    assert found == pytest.approx([5.0], abs=1e-5)
    assert gains(first, np.full((1, 60), 3)) == pytest.approx([0.0])


# What is chosen


def test_a_gradient_is_the_slope_of_the_loss(drawn):
    net = network().double()
    vectors = supportive_documents.vectors

    def loss(net):
        x = torch.from_numpy(drawn.tokens[:3])
        said = net(vectors(drawn.tokens[:3]).double())[:, :-1].transpose(1, 2)
        return torch.nn.functional.cross_entropy(said, x[:, 1:])

    found = gradient(net, loss)
    assert losses(network(), drawn.tokens[:3]).mean().item() == pytest.approx(loss(net).item(), abs=1e-5)
    way = torch.from_numpy(rng().standard_normal(len(found)))
    ends = []
    for step in (1e-5, -1e-5):
        moved = network().double()
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(net.parameters()).detach() + step * way, moved.parameters()
        )
        ends.append(loss(moved).item())
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(found @ way), rel=1e-4)


def test_agreement_does_not_depend_on_the_scale_of_losses(drawn, monkeypatch):
    net, tokens = network(), drawn.tokens[:12]
    aim = gradient(net, lambda net: losses(net, drawn.tokens[12:40]).mean())
    ways = directions(net, tokens)
    found = agreement(ways, aim)
    assert np.abs(found).max() < 1
    assert len(set(found.round(6))) == 12
    assert agreement(ways, 1000 * aim) == pytest.approx(found, abs=1e-5)
    assert agreement(ways, -aim) == pytest.approx(-found, abs=1e-6)
    monkeypatch.setattr(supportive_documents, "losses", lambda net, tokens: 50 * losses(net, tokens))
    assert agreement(directions(net, tokens), aim) == pytest.approx(found, abs=1e-5)
    own = gradient(net, lambda net: losses(net, tokens[4:5]).mean())
    assert agreement(ways, own)[4] == pytest.approx(1, abs=1e-5)
    assert float(ways[4] @ aim / aim.norm()) == pytest.approx(found[4], abs=1e-6)


# Runs


class StopsAfter(Silence):
    """Progress that stops the work after a number of steps."""

    def __init__(self, n):
        self.left = n

    def advance(self, n):
        self.left -= n
        if self.left <= 0:
            raise KeyboardInterrupt


def test_training_ends_where_it_has_come_far_enough(tmp_path, monkeypatch):
    """The steps that are not taken count as done, and an interrupted training ends at the same point."""
    monkeypatch.setattr(networks, "STEPS_BETWEEN_STATES", 5)

    def rows(progress, state=None):
        net, source = network(), rng()
        docs = documents(64, 64, rng=rng(1)).tokens
        return train(
            net, lambda rng: losses(net, docs[rng.integers(64, size=4)]).mean(), lambda: {"weight": n_moved(net)},
            steps=40, rng=source, progress=progress, measured=10, state=state, until=lambda row: row["step"] >= 12,
        )  # fmt: skip

    def n_moved(net):
        return float(sum(p.sum() for p in net.parameters()))

    whole = StopsAfter(1000)
    first = rows(whole)
    assert [row["step"] for row in first] == [0, 4, 8, 12]
    assert whole.left == 960
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        rows(StopsAfter(8), state)
    assert state.exists()
    resumed = StopsAfter(1000)
    assert rows(resumed, state) == first
    assert resumed.left == 960


def test_a_small_study_goes_on_to_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "STEPS_BETWEEN_STATES", 3)
    for name, value in {"TESTED": 50, "ASKED": 32}.items():
        monkeypatch.setattr(supportive_documents, name, value)
    whole = kshot.experiment(SMALL, out=tmp_path / "whole", minutes=MINUTES)
    with pytest.raises(KeyboardInterrupt):
        kshot.experiment(SMALL, out=tmp_path / "broken", minutes=MINUTES, progress=StopsAfter(16))
    assert [*(tmp_path / "broken" / "cells").glob("*.safetensors")]
    again = kshot.experiment(SMALL, out=tmp_path / "broken", minutes=MINUTES)
    assert again.to_json()["table"] == whole.to_json()["table"]
    kept = [json.loads((tmp_path / name / "study.json").read_text("utf-8"))["rows"] for name in ("whole", "broken")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2 * (1 + 2 + 2)
    assert all(len(row["accuracy"]) == len(SHOTS) for row in kept[0])
    assert all(len(line) == 6 for line in whole.findings.table)
    assert len(whole.findings.plots) == 4
    for line in whole.findings.table:
        assert line[4] == pytest.approx(line[2] - line[3])


REFUSED = {
    "supportive(heads=5)": "supportive:heads must divide width=48; got 5.",
    "supportive(pool=100)": "supportive:pool must hold at least 144 documents, as n=48 are taken in each of 3 rounds; "
    "got 100.",
    "supportive(corpus=500)": "supportive:pool must be at most corpus=500; got 1024.",
    "supportive(worlds=1)": "supportive:worlds must be 2 or more; got 1.",
}


@pytest.mark.parametrize("text", REFUSED)
def test_sizes_that_do_not_fit_are_refused(text):
    with pytest.raises(UserError) as refused:
        EXPERIMENTS.build(text)
    assert REFUSED[text] in str(refused.value)


@pytest.mark.slow
def test_supportive_documents_have_structure_and_bring_answers_from_context(tmp_path):
    """Row 27: more than twice the structure, more right answers than after random documents, as many without any."""
    found = kshot.experiment("supportive", out=tmp_path).findings
    richer, more, unusual, zero = found.claims[:4]
    assert richer.measured > 2
    assert more.holds, more
    assert unusual.holds, unusual
    assert zero.measured < 0.02
    lines = {line[0]: line for line in found.table}
    _, start, supportive, random, *_ = lines["right after 12 demonstrations"]
    assert supportive > random + 0.03
    assert supportive > start + 0.03
