"""Learning a retriever: candidates, the model's scores, groups, losses, training, and what is refused."""

from collections import Counter
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch

from encoders import make_tiny_encoder
from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.encoders.losses import RetrieverLoss, contrastive_loss, distillation_loss, reward_loss
from kshot.engine.load_model import load_model
from kshot.retrieval.candidates import Candidates, by_words, draw
from kshot.retrieval.corpus import Item, option_texts, read_pool, read_pools, training_queries
from kshot.retrieval.feedback import PENALTY, one_shot, standardised, with_rules
from kshot.retrieval.groups import groups, usable
from kshot.retrieval.learn import Stages, find_candidates, reward_scores
from kshot.retrieval.retriever_settings import RetrieverSettings
from kshot.taskmodel.taskmodel import TaskModel

SMALL = RetrieverSettings(queries=100, candidates=8, depth=20, label_rule=True)


def task(n: int = 24, name: str = "t", kind: str = "classification") -> Task:
    rows = [Example(f"{name} text {i} about {'cats' if i % 2 else 'dogs'}", "ab"[i % 2], str(i)) for i in range(n)]
    labels = ("a", "b") if kind == "classification" else ()
    return Task(name, kind, tuple(rows), labels=labels)


def ranked(n: int, *, labels: str = "ab", scores=None) -> Candidates:
    """A query with `n` candidates, whose scores fall with their numbers."""
    t = Task("t", "classification", (), labels=tuple("ab"))
    items = tuple(Item(t, Example(f"text {i}", labels[i % len(labels)], str(i))) for i in range(n))
    return Candidates(Item(t, Example("query", "a", "q")), items, scores or tuple(-float(i) for i in range(n)))


# Candidates


def test_a_query_is_never_its_own_candidate_nor_is_what_begins_as_it():
    pool = read_pool(task())
    longer = Item(pool[0].task, replace(pool[3].example, id="copy", input=pool[3].example.input + " and more"))
    pool = [*pool, longer]
    found = draw(pool, pool[:6], by_words(pool), SMALL, seed=0)
    for row in found:
        assert row.query.key not in {d.key for d in row.documents}
        assert not any(d.query.startswith(row.query.query) for d in row.documents)
    assert "t/copy" not in {d.key for d in found[3].documents}


def test_candidates_are_drawn_from_the_best_and_depend_on_seed_and_query_alone():
    pool = read_pool(task(40))
    settings = replace(SMALL, depth=10)
    scores = generator(0, "scores").normal(size=40)
    found = draw(pool, pool, lambda query: scores, settings, seed=1)
    order = [pool[i].key for i in np.argsort(-scores)]
    for row in found:
        best = [key for key in order if key != row.query.key][:10]
        assert {d.key for d in row.documents} <= set(best)
        assert len({d.key for d in row.documents}) == 8
    alone = draw(pool, pool[7:8], lambda query: scores, settings, seed=1)
    assert alone == found[7:8]
    assert draw(pool, pool[7:8], lambda query: scores, settings, seed=2) != alone


def test_caps_are_equal_for_all_tasks_and_mixed_pools_hold_all():
    pools = read_pools([task(30, "one"), task(60, "two")])
    found = find_candidates(pools, replace(SMALL, queries=20), seed=0)
    assert Counter(row.query.task.name for row in found) == {"one": 20, "two": 20}
    assert all(d.task.name == row.query.task.name for row in found for d in row.documents)
    mixed = find_candidates(pools, replace(SMALL, queries=20, mixed=True, depth=80), seed=0)
    assert {d.task.name for row in mixed for d in row.documents} == {"one", "two"}


def test_options_leave_the_input_and_their_text_is_the_answer():
    rows = (
        Example("Why?\nOptions:\n(A) so\n(B) thus", "(B)", "1", choices=("so", "thus")),
        Example("How? (A) so\n(B) thus", "(A)", "2", choices=("so", "thus")),
    )
    quiz = Task("q", "multiple_choice", rows)
    assert Item(quiz, rows[0]).answer == "thus"
    plain = option_texts(quiz)
    assert [(e.input, e.output) for e in plain.train] == [("Why?", "thus"), ("How?", "so")]
    assert plain.candidates(plain.train[0]) == ("so", "thus")
    assert option_texts(plain) is plain


# The model's scores


def test_scores_equal_a_plain_pass_a_token_on_average():
    t = task(8)
    model = load_model("tiny")
    asker = TaskModel.for_task(t, model)
    pool = read_pool(t)
    rows = [Candidates(pool[i], tuple(pool[j] for j in range(8) if j != i)) for i in range(3)]
    found = one_shot(rows, {"t": asker})
    assert [row.query for row in found] == [row.query for row in rows]
    for row in found:
        for document, score in zip(row.documents, row.scores, strict=True):
            prompt = asker.compose([document.example], row.query.example)
            ids = list(model.encode(prompt).ids)
            answer = model.backbone.tokenise(asker.layout.answer(row.query.example.output))
            with torch.inference_mode():
                logits = model.backbone.model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].log_softmax(-1)
            expected = np.mean([float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(answer)])
            assert score == pytest.approx(expected, abs=1e-4)


def test_a_candidate_is_read_once_for_all_queries_that_drew_it():
    t = task(9)
    model = load_model("tiny")
    pool = read_pool(t)
    rows = [Candidates(pool[i], (pool[8],)) for i in range(8)]
    asked = TaskModel.for_task(t, model)
    one_shot(rows, {"t": asked})
    shared = model.count_tokens(f"Text: {pool[8].query}\nLabel: a\n\n")
    alone = TaskModel.for_task(t, load_model("tiny"))
    for row in rows:
        one_shot([row], {"t": alone})
    assert alone.ledger.cost.tokens - asked.ledger.cost.tokens >= 7 * shared


def test_a_demonstration_that_does_not_fit_is_left_out_and_the_answer_stays():
    long = Example("long " * 2000, "a", "long")
    t = Task("t", "classification", (long, Example("short", "b", "short")), labels=("a", "b"))
    asker = TaskModel.for_task(t, load_model("tiny"))
    behind, alone = asker.answer_log_probs([(long,), ()], [t.train[1]] * 2)
    assert behind == alone
    assert behind < 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SMALL, [0, -PENALTY, -2 * PENALTY]),
        (replace(SMALL, label_rule=False), [0, 0, -PENALTY]),
        (replace(SMALL, other_task_rule=False), [0, -PENALTY, -PENALTY]),
        (replace(SMALL, label_rule=False, other_task_rule=False), [0, 0, 0]),
    ],
)
def test_rules_mark_down_other_labels_and_other_tasks(settings, expected):
    row = ranked(2)
    stranger = Item(task(2, "other"), Example("text", "a or b", "s"))
    row = replace(row, documents=(*row.documents, stranger), scores=(-1.0, -1.0, -1.0))
    (found,) = with_rules([row], settings)
    assert [score + 1 for score in found.scores] == expected


def test_standardised_scores_have_the_same_spread_for_all_queries():
    row = replace(ranked(4), scores=(-1.0, -2.0, -6.0, -PENALTY - 2))
    found = standardised(row, 2.0).scores
    assert np.mean(found[:3]) == pytest.approx(0)
    assert np.std(found[:3]) == pytest.approx(2)
    assert found[3] == row.scores[3]
    wider = replace(row, scores=(-10.0, -20.0, -60.0, -PENALTY - 2))
    assert standardised(wider, 2.0).scores == pytest.approx(found)
    equal = replace(row, scores=(-3.0,) * 4)
    assert standardised(equal, 2.0).scores == (0, 0, 0, 0)
    assert standardised(nothing := replace(row, scores=(-PENALTY,) * 4), 2.0) == nothing


def test_documents_of_other_tasks_never_outrank_those_of_the_own():
    row = ranked(6, labels="a")
    other = Task("other", "generation", ())
    mixed = tuple(replace(d, task=other) if i < 3 else d for i, d in enumerate(row.documents))
    (found,) = with_rules([replace(row, documents=mixed)], SMALL)
    assert min(found.scores[3:]) > max(found.scores[:3])


# Groups


def test_queries_without_three_good_candidates_are_not_learnt_from():
    few, bad = ranked(3), replace(ranked(5), scores=(-1.0, -2.0, -PENALTY, -PENALTY - 1, -PENALTY))
    assert usable([few, bad, ranked(4)]) == [ranked(4)]


def test_what_breaks_a_rule_is_never_a_positive():
    rows = [standardised(row, 2.0) for row in with_rules([ranked(8)], SMALL)]  # half have the query's label
    for epoch in range(6):
        (group,) = groups(rows, replace(SMALL, positives=6), [], n_negatives=3, epoch=epoch, seed=0)
        assert group.documents[0].answer == group.query.answer


def test_positives_are_of_the_best_and_negatives_of_the_worst_in_turn():
    row, settings = ranked(24), replace(SMALL, negatives=16)
    seen: Counter[str] = Counter()
    for epoch in range(16):
        (group,) = groups([row], settings, [], n_negatives=7, epoch=epoch, seed=4)
        assert group.documents[0].example.id == str((epoch + 4) % 3)
        numbers = [int(d.example.id) for d in group.documents[1:]]
        assert len(set(numbers)) == 7
        assert min(numbers) >= 8  # the worst 16 of 24
        seen.update(d.example.id for d in group.documents[1:])
        assert [-float(d.example.id) for d in group.documents] == list(group.scores)
    assert set(seen.values()) == {7}  # 16 epochs of 7 go 7 times round 16 negatives


def test_groups_are_the_same_for_the_same_seed_and_others_for_another():
    rows = [replace(ranked(24), query=Item(ranked(1).query.task, Example(f"q{i}", "a", f"q{i}"))) for i in range(6)]
    how = {"n_negatives": 7, "epoch": 1}
    assert groups(rows, SMALL, [], seed=0, **how) == groups(rows, SMALL, [], seed=0, **how)
    assert groups(rows, SMALL, [], seed=0, **how) != groups(rows, SMALL, [], seed=3, **how)


def test_short_groups_are_filled_from_the_pool_and_marked_down():
    row, pool = ranked(5), read_pool(task(30, "pool"))
    (group,) = groups([row], SMALL, pool, n_negatives=7, epoch=0, seed=0)
    assert len({d.key for d in group.documents}) == 8
    assert group.scores[3:] == (-PENALTY,) * 5
    (alone,) = groups([row], SMALL, [], n_negatives=7, epoch=0, seed=0)  # nothing to fill with: they repeat
    assert len(alone.documents) == 8


def test_the_worst_candidate_is_never_a_positive():
    many = replace(SMALL, positives=1000)
    (group,) = groups([ranked(5)], many, [], n_negatives=3, epoch=0, seed=0)
    assert group.scores[:2] == (0.0, -4.0)


def test_negatives_of_the_querys_own_label_can_be_kept_out():
    (group,) = groups([ranked(16)], SMALL, [], n_negatives=3, epoch=0, seed=0, same_label=False)
    assert {d.answer for d in group.documents[1:]} == {"b"}


# Losses


def different(*shape: int) -> torch.Tensor:
    """Numbers of texts of which none comes twice."""
    return torch.arange(np.prod(shape)).view(shape)


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_losses_at_equal_scores_and_equal_embeddings():
    assert float(reward_loss(torch.zeros(5, 8))) == pytest.approx(log(8))
    same = torch.nn.functional.normalize(torch.ones(2, 6), dim=-1)
    loss = contrastive_loss(same, same[:, None].expand(2, 2, 6), different(2, 3), 0.01)
    assert float(loss) == pytest.approx(log(2 * 2 + 3 * 2 - 3))


def test_contrastive_loss_equals_the_sum_written_out():
    drawn = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(2, 5, generator=drawn), dim=-1)
    documents = torch.nn.functional.normalize(torch.randn(2, 2, 5, generator=drawn), dim=-1)
    losses = []
    for i, j in ((0, 1), (1, 0)):
        q, p = queries[i], documents[i, 0]
        cosines = [q @ documents[a, b] for a in (0, 1) for b in (0, 1)]
        cosines += [p @ queries[j], q @ queries[j], p @ documents[j, 0]]  # the own column of each block is left out
        total = sum(exp(float(c) / 0.1) for c in cosines)
        losses.append(-log(exp(float(q @ p) / 0.1) / total))
    assert float(contrastive_loss(queries, documents, different(2, 3), 0.1)) == pytest.approx(np.mean(losses), rel=1e-5)


def official_loss(queries: torch.Tensor, documents: torch.Tensor, temperature: float) -> torch.Tensor:
    """The official formula, which knows no texts."""
    (n, per_group, _), positives = documents.shape, documents[:, 0]
    blocks = [queries @ documents.flatten(0, 1).T]
    blocks += [
        (a @ b.T).masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf)
        for a, b in ((positives, queries), (queries, queries), (positives, positives))
    ]
    logits = torch.cat(blocks, dim=1) / temperature
    return torch.nn.functional.cross_entropy(logits, torch.arange(n) * per_group)


def test_contrastive_loss_without_repeated_texts_is_the_official_one():
    queries, documents = units(16, 8), units(16, 4, 8, seed=1)
    found, official = [], []
    for loss, kept in (
        (lambda q, d: contrastive_loss(q, d, different(16, 5), 0.01), found),
        (lambda q, d: official_loss(q, d, 0.01), official),
    ):
        leaves = [queries.clone().requires_grad_(), documents.clone().requires_grad_()]
        value = loss(*leaves)
        kept += [value.detach(), *torch.autograd.grad(value, leaves)]
    assert all(map(torch.equal, found, official))


@pytest.mark.parametrize(
    ("texts", "left_out"),  # of queries q and documents d, one row a group: what is no wrong answer, by column
    [
        (  # the first query comes again
            [[0, 10, 11], [1, 12, 13], [0, 14, 15]],
            {0: ["p-q 2", "q-q 2"], 2: ["p-q 0", "q-q 0"]},
        ),
        (  # the first positive is the last one too
            [[0, 10, 11], [1, 12, 13], [2, 10, 15]],
            {0: ["q-d 2 0", "p-p 2"], 2: ["q-d 0 0", "p-p 0"]},
        ),
        (  # the first positive is a negative of the second group
            [[0, 10, 11], [1, 12, 10], [2, 14, 15]],
            {0: ["q-d 1 1"]},
        ),
        (  # and of its own
            [[0, 10, 10], [1, 12, 13], [2, 14, 15]],
            {0: ["q-d 0 1"]},
        ),
        (  # a negative that comes again is a negative twice
            [[0, 10, 11], [1, 12, 11], [2, 14, 15]],
            {},
        ),
    ],
)
def test_texts_that_come_again_are_not_told_from_themselves(texts, left_out):
    queries, documents = units(3, 5), units(3, 2, 5, seed=1)  # vectors of equal texts differ, as dropout has it
    losses = []
    for i in range(3):
        q, p, others = queries[i], documents[i, 0], [j for j in range(3) if j != i]
        cosines = {f"q-d {a} {b}": q @ documents[a, b] for a in range(3) for b in range(2)}
        cosines |= {f"p-q {j}": p @ queries[j] for j in others}
        cosines |= {f"q-q {j}": q @ queries[j] for j in others}
        cosines |= {f"p-p {j}": p @ documents[j, 0] for j in others}
        for name in left_out.get(i, []):
            del cosines[name]
        total = sum(exp(float(c) / 0.1) for c in cosines.values())
        losses.append(-log(exp(float(q @ p) / 0.1) / total))
    loss = contrastive_loss(queries, documents, torch.tensor(texts), 0.1)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_distillation_is_the_divergence_from_the_teacher_in_this_direction():
    teacher, scores = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    p, q = torch.softmax(teacher, -1)[0].tolist(), torch.softmax(scores, -1)[0].tolist()
    forward = sum(a * log(a / b) for a, b in zip(p, q, strict=True))
    backward = sum(b * log(b / a) for a, b in zip(p, q, strict=True))
    loss = distillation_loss(teacher, scores)
    assert float(loss.detach()) == pytest.approx(forward, rel=1e-5)
    assert forward != pytest.approx(backward, rel=1e-2)
    loss.backward()
    np.testing.assert_allclose(scores.grad[0], np.array(q) - np.array(p), atol=1e-6)


def test_distillation_is_zero_up_to_a_constant_and_reaches_it():
    teacher = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert float(distillation_loss(teacher.detach(), teacher.detach() + 7)) == pytest.approx(0, abs=1e-6)
    free = torch.zeros(3, 4, requires_grad=True)
    with torch.no_grad():
        assert float(distillation_loss(teacher, free)) == pytest.approx(float(distillation_loss(teacher + 5, free)))
    for _ in range(400):
        (slope,) = torch.autograd.grad(distillation_loss(teacher, free), free)
        free = (free - 5 * slope).detach().requires_grad_()
    loss = distillation_loss(teacher, free)
    loss.backward()
    assert float(loss.detach()) < 1e-4
    assert teacher.grad is None  # nothing flows into the teacher


class Fixed(torch.nn.Module):
    """An encoder whose embeddings are given as its features."""

    def forward(self, features):
        return {"sentence_embedding": features["x"]}


def column(vectors: torch.Tensor, texts: list[list[int]], width: int) -> dict[str, torch.Tensor]:
    """A column of a batch as an encoder gets it, padded on the right to its own width."""
    rows = [torch.tensor(ids + [0] * (width - len(ids))) for ids in texts]
    mask = [torch.tensor([1] * len(ids) + [0] * (width - len(ids))) for ids in texts]
    return {"x": vectors, "input_ids": torch.stack(rows), "attention_mask": torch.stack(mask)}


def test_the_parts_of_the_retrievers_loss_can_be_had_alone():
    queries, documents, numbers = units(3, 6), units(3, 3, 6, seed=1), different(3, 4)
    columns = [queries, *documents.unbind(1)]
    features = [column(v, [[n] for n in numbers[:, i].tolist()], 2) for i, v in enumerate(columns)]
    labels = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    contrastive = contrastive_loss(queries, documents, numbers, 0.05)
    distillation = distillation_loss(labels, (queries[:, None] * documents).sum(-1) / 0.05)

    def loss(alpha: float, *, distil: bool = True) -> float:
        return float(RetrieverLoss(Fixed(), alpha, 0.05, distil=distil)(features, labels))

    assert loss(0) == pytest.approx(float(distillation))
    assert loss(0.2) == pytest.approx(float(0.2 * contrastive + distillation))
    assert loss(0.2, distil=False) == pytest.approx(float(contrastive))


def test_texts_are_told_apart_by_their_tokens_without_padding():
    queries, documents = units(3, 6), units(3, 2, 6, seed=1)
    features = [
        column(queries, [[7], [7, 0], [7]], 3),  # 0 is a token as well as what fills
        column(documents[:, 0], [[1, 2], [3, 4], [5]], 2),
        column(documents[:, 1], [[5, 6], [1, 2], [6]], 5),
    ]
    texts = torch.tensor([[0, 2, 5], [1, 3, 2], [0, 4, 6]])
    loss = RetrieverLoss(Fixed(), 1.0, 1.0, distil=False)(features, torch.zeros(3, 2))
    assert torch.equal(loss, contrastive_loss(queries, documents, texts, 1.0))
    assert not torch.equal(loss, contrastive_loss(queries, documents, different(3, 3), 1.0))


# Learning

RULES = {"red": ("rose", "blood", "ruby", "brick"), "blue": ("sky", "ocean", "jeans", "ink")}


class RuleJudge:
    """Finds an answer probable behind a demonstration of the same hidden rule."""

    def __init__(self, task: Task):
        self.task, self.progress = task, Silence()

    def answer_log_probs(self, shown, queries):
        return np.array([-0.1 if s[0].meta["rule"] == q.meta["rule"] else -3.0 for s, q in zip(shown, queries)])  # noqa: B905


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    words = tuple(w for some in RULES.values() for w in some)
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"), words)


def planted(n: int) -> Task:
    """Texts whose rule shows in one of four words alone; their outputs tell nothing."""
    lots, rows = generator(0, "planted"), []
    for i in range(n):
        rule = ("red", "blue")[i % 2]
        rows.append(Example(f"{lots.choice(RULES[rule])} {i}", f"{i}", str(i), meta={"rule": rule}))
    return Task("planted", "generation", tuple(rows))


@pytest.mark.slow
def test_a_retriever_finds_hidden_rules_that_words_do_not_show(tiny_encoder):
    t = planted(90)
    known = replace(t, train=t.train[:60])
    settings = RetrieverSettings(
        encoder=tiny_encoder, target="llm", queries=60, candidates=12, depth=60, lr=5e-3, epochs=10
    )
    encoder = Stages(read_pools([known]), settings, seed=0, progress=Silence()).learn(
        {"planted": RuleJudge(t)}, iterations=1
    )
    pool, new = read_pool(known), read_pool(replace(t, train=t.train[60:]))

    def word(item: Item) -> str:
        return item.query.split()[0]

    def right(scores) -> float:
        pairs = []
        for q in new:  # among those that do not share its word
            others = [word(d) != word(q) for d in pool]
            pairs.append((q, pool[int(np.argmax(np.where(others, scores(q), -np.inf)))]))
        return float(np.mean([q.example.meta["rule"] == d.example.meta["rule"] for q, d in pairs]))

    embeddings = encoder.embed([d.document for d in pool])
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(len(pool)), abs=1e-5)
    assert right(lambda q: embeddings @ encoder.embed([q.query])[0]) > 0.8
    assert right(by_words(pool)) < 0.7


class RoseJudge(RuleJudge):
    """Finds every answer probable behind a demonstration with a rose in it."""

    def answer_log_probs(self, shown, queries):
        return np.array([-0.1 if "rose" in some[0].input else -3.0 for some in shown])


@pytest.mark.slow
def test_a_reward_model_ranks_what_it_has_not_seen(tiny_encoder):
    t = planted(120)
    settings = RetrieverSettings(
        reward_encoder=tiny_encoder, queries=60, candidates=12, depth=80, reward_lr=1e-2, reward_epochs=4
    )
    pools, judges = read_pools([t]), {"planted": RoseJudge(t)}
    scored = one_shot(find_candidates(pools, settings, seed=0), judges)
    told: list[str] = []

    class Told(Silence):
        def say(self, text: str) -> None:
            told.append(text)

    rewarded = reward_scores(scored, pools, settings, seed=0, progress=Told())
    assert [row.query for row in rewarded] == [row.query for row in scored]
    can = [row for row in rewarded if any("rose" in d.query for d in row.documents)]
    assert 20 < len(can) < 60
    firsts = [row.documents[int(np.argmax(row.scores))] for row in can]
    assert np.mean(["rose" in d.query for d in firsts]) > 0.9
    again = reward_scores(scored, pools, settings, seed=0, progress=Silence())
    assert again == rewarded
    assert not told


def test_texts_that_an_encoder_cuts_are_counted(tiny_encoder):
    t = planted(40)
    long = replace(t, train=(replace(t.train[0], input="rose " * 99), *t.train[1:]))
    settings = RetrieverSettings(encoder=tiny_encoder, target="llm", queries=20, candidates=8, depth=20, epochs=1)
    told: list[str] = []

    class Told(Silence):
        def say(self, text: str) -> None:
            told.append(text)

    Stages(read_pools([long]), settings, seed=0, progress=Told()).learn({"planted": RuleJudge(long)}, iterations=1)
    assert told == [f"1 of 40 documents are longer than what '{tiny_encoder}' reads, and are cut"]


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RetrieverSettings(candidates=3), "candidates must be 4 or more; got 3"),
        (
            lambda: RetrieverSettings(candidates=32, depth=20),
            "depth must be 32 or more, .* drawn from it; got 20",
        ),
        (lambda: RetrieverSettings(lr=float("nan")), "lr must be a number, 0 or more"),
        (lambda: RetrieverSettings(temperature=0), "temperature must be greater than 0; got 0"),
        (lambda: RetrieverSettings(target="rewards"), "target must be one of reward, llm, none; got 'rewards'"),
        (lambda: read_pools([task(), task()]), "Tasks must have different names; 't' comes 2 times"),
        (
            lambda: read_pool(replace(task(), train=task().train[::2])),
            "examples of two labels or more to learn a retriever; all of 't' are 'a'",
        ),
        (
            lambda: find_candidates(read_pools([task(6)]), SMALL, seed=0),
            "more examples than candidates; 't' has 6 different ones, and candidates=8. Use candidates=5",
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_repeated_examples_are_neither_queries_nor_documents():
    t = task(10)
    doubled = replace(t, train=(*t.train, *(replace(e, id=f"again-{e.id}") for e in t.train)))
    assert [item.example.id for item in read_pool(doubled)] == [e.id for e in t.train]
    assert len(training_queries(read_pool(doubled), 99, seed=0)) == 10
    assert training_queries([], 99, seed=0) == []
