"""Combinations that know how their members have done: their formulas, honest along a stream, saved, lazy, refused."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

import kshot
from kshot.core.errors import ModelError, UserError
from kshot.core.ledger import BudgetSpentError, Ledger
from kshot.core.seeding import generator
from kshot.core.settings import RunSettings
from kshot.core.types import Example, Prediction, Task
from kshot.learners.build import make_learner
from kshot.learners.combining import Combining, combined
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.measures.calibration import UNCALIBRATED, calibrated
from kshot.measures.probabilities import code_length_bits
from kshot.measures.samples import sample_row
from kshot.methods.combiners.cascade import ALWAYS, LEAST, Cascade
from kshot.methods.combiners.mix import Mix
from kshot.methods.combiners.new_labels import NewLabels
from kshot.methods.contracts import Answered
from kshot.race.entrant import Entrant
from kshot.race.mixture import Mixture
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.prepare import prepare

LABELS = ("one", "two", "three")
ROWS = tuple(Example(f"text {i} {LABELS[i % 3]}", LABELS[i % 3], f"e{i}") for i in range(24))
TASK = Task("t", "classification", ROWS, labels=LABELS)
OPEN = replace(TASK, kind="generation", labels=(), metrics=("exact_match",))
CHOICES = replace(
    TASK,
    kind="multiple_choice",
    labels=(),
    train=tuple(replace(e, output="(A)" if i % 2 else "(B)", choices=("yes", "no")) for i, e in enumerate(ROWS)),
)
MEMBERS = "majority, zero-shot, bm25:k=2"
NAMES = (f"mix({MEMBERS})", f"mix({MEMBERS}):by=stack", f"mix({MEMBERS}):by=share", "cascade(majority, zero-shot)",
         "new-labels(bm25:k=2, zero-shot)")  # fmt: skip


def setup(task: Task = TASK, model: str = "scripted") -> Setup:
    return Setup(task, TaskModel.for_task(task, kshot.load_model(model)), 0)


def says(logits, *, tokens: int = 10, labels=LABELS) -> Prediction:
    """Return a prediction with these logits."""
    logs = np.array(logits, dtype=float)
    logs -= np.logaddexp.reduce(logs)
    probs = tuple(np.exp(logs).tolist())
    return Prediction("x", labels, tuple(logs.tolist()), probs, labels[int(np.argmax(logs))], prompt_tokens=tokens)


def past_of(skills, n: int, seed: int = 0, tokens=None) -> list[Answered]:
    """Return members' predictions of made-up rows: the logit of the right answer is higher by a member's skill."""
    rng, found = generator(seed, "past"), []
    for i in range(n):
        example = Example(f"row {i}", LABELS[rng.integers(3)], f"row-{i}")
        right = np.array([label == example.output for label in LABELS])
        said = [
            says(rng.normal(size=3) + skill * right, tokens=tokens[m] if tokens else 10)
            for m, skill in enumerate(skills)
        ]
        found.append(Answered(example, tuple(said), tuple(code_length_bits(TASK, example.output, p) for p in said)))
    return found


def test_share_is_that_of_herbster_and_warmuth():
    past, alpha = past_of((0.0, 1.0, 2.0), 30), 0.05
    weights = [1 / 3] * 3
    for row in past:
        losses = [w * 2**-bits for w, bits in zip(weights, row.bits, strict=True)]
        pool = sum(alpha * loss for loss in losses)
        weights = [(1 - alpha) * loss + pool / 3 for loss in losses]
        weights = [w / sum(weights) for w in weights]
    found = Mix(by="share", alpha=alpha).fit(TASK, past)
    assert found._weights == pytest.approx(weights)
    expected = np.array(weights) @ [p.probs for p in past[0].said]
    assert found.combine(TASK, past[0].said).probs == pytest.approx(expected)


@pytest.mark.parametrize("by", ["stack", "log-stack"])
def test_stacking_has_the_fewest_bits_of_the_past_with_its_shrinkage(by):
    past, shrink = past_of((0.8, 1.0, 1.2), 40), 4.0
    probs = np.array([[p.probs for p in row.said] for row in past])  # [n, n_members, n_labels]
    right = [LABELS.index(row.example.output) for row in past]

    def loss(w):
        if by == "stack":
            mixed = np.einsum("m,nmk->nk", w, probs)
            return -np.log(mixed[range(40), right]).sum() - shrink / 3 * np.log(w).sum()
        scores = np.einsum("m,nmk->nk", w, np.log(probs))
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return -scores[range(40), right].sum() + shrink * ((w - 1 / 3) ** 2).sum()

    one = [{"type": "eq", "fun": lambda w: w.sum() - 1}] if by == "stack" else []
    least = minimize(loss, np.full(3, 1 / 3), bounds=[(1e-9, 9)] * 3, constraints=one, method="SLSQP", tol=1e-12)
    found = np.array(Mix(by=by, shrink=shrink).fit(TASK, past)._weights)
    assert found == pytest.approx(least.x, abs=2e-3)
    assert loss(found) == pytest.approx(least.fun, abs=1e-4)


@pytest.mark.parametrize("by", ["share", "stack", "log-stack"])
def test_few_members_that_ask_are_kept_and_classifiers_are_free(by):
    past = past_of((1.0, 1.2, 1.4, 1.6, 1.1), 60, tokens=(10, 10, 10, 10, 0))
    found = Mix(by=by, most=2, alpha=0.9, shrink=1000).fit(TASK, past)
    kept, inside = found.kept(5)
    assert len(inside) == 3
    assert 4 in inside
    of_kept = kept.combine(TASK, [past[0].said[i] for i in inside])
    assert of_kept.probs == pytest.approx(found.combine(TASK, past[0].said).probs, rel=1e-12)
    assert combined("mix", TASK, found, past[0].said).prompt_tokens == 20


def test_a_member_that_asks_the_model_now_and_then_is_one_that_asks():
    *past, last = past_of((1.0, 1.1, 1.2), 30)
    past.append(replace(last, said=tuple(replace(p, prompt_tokens=0) for p in last.said)))  # as a cascade's can be
    assert len(Mix(most=1).fit(TASK, past).kept(3)[1]) == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_shares_are_numbers_however_far_members_lie_apart(alpha):
    row = past_of((1.0, 1.0), 1)[0]
    past = [replace(row, bits=bits) for bits in ((100.0, 1601.0), (1600.0, 100.0))]
    expected = (2 / 3, 1 / 3) if alpha == 0 else (0.5, 0.5)
    assert Mix(by="share", alpha=alpha).fit(TASK, past)._weights == pytest.approx(expected)


def test_a_mixture_of_texts_has_the_probabilities_mixed_and_the_heaviest_members_text():
    def writes(text, log_prob):
        return Prediction("1", ("x",), (log_prob,), (float(np.exp(log_prob)),), text, prompt_tokens=5)

    said = (writes("p", -900.0), writes("q", -901.0))
    past = [Answered(Example("a", "x", "1"), said, (900 / np.log(2), 901 / np.log(2)))] * 5
    mix = Mix().fit(OPEN, past)  # the product is for candidates
    found, weights = mix.combine(OPEN, said), np.array(mix._weights)
    assert found.answer == "p"
    assert found.log_probs[0] == pytest.approx(np.logaddexp.reduce(np.log(weights) + [-900.0, -901.0]))


def test_a_cascade_asks_no_more_than_its_price_and_nothing_where_the_first_is_as_good():
    past = past_of((1.0, 2.0), 200, tokens=(10, 100))
    for price in (0.3, 0.6):
        found = Cascade(price=price).fit(TASK, past)
        spent = [combined("c", TASK, found, row.said).prompt_tokens for row in past]
        assert np.mean(spent) / 100 == pytest.approx(price, abs=0.01)
    assert Cascade().fit(TASK, past[: LEAST - 1])._threshold == ALWAYS
    better = Cascade().fit(TASK, past_of((3.0, 0.0), 60))
    assert not any(better.asks(TASK, row.said[:1]) for row in past_of((3.0, 0.0), 60))


def test_a_cascade_parts_no_rows_that_are_as_sure_but_for_rounding():
    rows = past_of((0.0, 0.0), 20)
    right, wrong = (replace(says((2.0, 0.0, 0.0)), answer=answer) for answer in ("one", "two"))
    rows = [replace(row, example=replace(row.example, output="one"), said=(right, right)) for row in rows]
    missed = [replace(row, said=(wrong, right)) for row in rows[:5]]
    for quality, asks in ((20.0, True), (25.0, False)):  # of 20 rows, 5 are lost with the first alone
        found = Cascade(quality=quality).fit(TASK, [*rows[5:], *missed])
        for noise in (-1e-12, 0.0, 1e-12):
            again = replace(right, probs=tuple(p + noise for p in right.probs))
            assert found.asks(TASK, (again,)) == asks


@pytest.mark.parametrize("n", [pytest.param(30, id="30"), pytest.param(100, id="100", marks=pytest.mark.slow)])
def test_few_rows_do_not_decide_by_luck_what_a_cascade_loses(n):
    lost, asked = [], []
    for seed in range(40 if n == 30 else 400):
        found, new = Cascade().fit(TASK, past_of((2.0, 2.5), n, seed)), past_of((2.0, 2.5), 60, seed + 10_000)
        for row in new:
            answer = combined("c", TASK, found, row.said).answer
            lost.append((row.said[1].answer == row.example.output) - (answer == row.example.output))
            asked.append(found.asks(TASK, row.said[:1]))
    assert np.mean(lost) < 0.02
    assert np.mean(asked) < 0.8


def test_new_labels_have_the_chance_of_good_and_turing_and_each_part_its_own_model():
    known = [Example("a", label, str(i)) for i, label in enumerate(("one", "one", "one", "two"))]
    found = NewLabels(trust=2.0).knowing(TASK, known)
    # of the later half one label was new, and (0 / 3, 0 / 4) were expected; "two" came once among four
    assert found._new == pytest.approx(1 / 5 * (2 + 1) / (2 + 0))
    tuned, base = says((2.0, 1.0, 9.0)), says((9.0, 0.0, 1.0))
    whole = found.combine(TASK, (tuned, base))
    ratio = np.exp(1.0)
    expected = np.array([0.7 * ratio / (1 + ratio), 0.7 / (1 + ratio), 0.3])
    assert whole.probs == pytest.approx(0.99 * expected + 0.01 / 3)
    everything = NewLabels().knowing(TASK, ROWS)
    assert everything._new == 0.0
    assert everything.combine(TASK, (tuned, base)).answer == "three"
    assert NewLabels().knowing(TASK, ()).combine(TASK, (tuned, base)).answer == "one"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_later_examples_is_in_a_combined_prediction(name):
    queries = make_stream(TASK, limit=24, seed=0).queries()
    changed = [replace(q.example, output="two") if i >= 18 else q.example for i, q in enumerate(queries)]
    others = [replace(q, example=e, past=tuple(changed[: len(q.past)])) for q, e in zip(queries, changed, strict=True)]
    recipe = parse_recipe(name, shots=2)
    first = make_learner(recipe, setup()).predict(queries)
    second = make_learner(recipe, setup()).predict(others)
    assert [p.probs for p in first[:18]] == [p.probs for p in second[:18]]
    learner = make_learner(recipe, setup())  # in parts, as a race asks it
    parts = [*learner.predict(queries[:7]), *learner.predict(queries[7:])]
    assert [p.probs for p in parts] == [p.probs for p in first]


def test_members_are_calibrated_by_their_own_past():
    queries = make_stream(TASK, limit=24, seed=0).queries()
    recipe = parse_recipe(f"mix({MEMBERS}):by=share", shots=2)
    found = make_learner(recipe, setup()).predict(queries)
    examples = [q.example for q in queries]
    raw = [make_learner(m, setup()).predict(queries) for m in recipe.members]
    assert [member.calibrated_on(TASK) for member in recipe.members] == ["none", "batch", "batch"]
    along = [raw[0], *(calibrated(own, examples, label_prior=True)[0] for own in raw[1:])]
    combining = Combining("mix", TASK, recipe.part("combiner"))
    again = [combining.answer(q, said) for q, *said in zip(queries, *along, strict=True)]
    assert [p.probs for p in again] == [p.probs for p in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_combination_is_fitted_saved_and_read_to_the_same_predictions(name, tmp_path):
    adapted = kshot.AdaptedModel.fit(parse_recipe(name, shots=2), ROWS, setup(), choice={})
    adapted.save(tmp_path / "model")
    asked = ["text 1 one", "another text"]
    probabilities = adapted.predict_proba(asked)
    read = kshot.load(tmp_path / "model")
    assert (read.predict_proba(asked) == probabilities).all()
    assert (copy.deepcopy(read).predict_proba(asked) == probabilities).all()
    kept = json.loads((tmp_path / "model" / "combiner.json").read_text())
    assert len(kept["_calibrations"]) == len(read.recipe.members)


def test_without_a_race_a_combination_goes_through_the_examples_first():
    recipe = parse_recipe(NAMES[0], shots=2)
    alone = make_learner(recipe, setup()).fit(ROWS)
    learner = make_learner(recipe, setup())
    learner.predict([q for q in make_stream(replace(TASK, train=ROWS), limit=24, seed=0).queries()])
    assert alone.recipe.part("combiner").has_learnt
    assert alone.recipe.part("combiner")._weights != ()
    assert learner.settled is not None


def test_the_labels_beyond_the_limit_are_known_when_it_is_deployed():
    task = replace(TASK, labels=(*LABELS, "four"))
    learner = make_learner(parse_recipe("new-labels(majority, zero-shot)", shots=2), setup(task))
    learner.predict(make_stream(task, limit=2, seed=0).queries())
    settled = learner.settled
    assert settled is not None
    assert make_learner(settled, setup(task)).fit(ROWS).recipe.part("combiner")._seen == LABELS


def test_once_all_labels_have_an_example_the_second_recipe_is_not_needed(tmp_path):
    recipe = parse_recipe("new-labels(majority, zero-shot)", shots=2)
    asked = [
        p.prompt_tokens for p in make_learner(recipe, setup()).predict(make_stream(TASK, limit=24, seed=0).queries())
    ]
    assert asked[0] > 0
    assert asked[-1] == 0
    adapted = kshot.AdaptedModel.fit(recipe, ROWS, setup(), choice={})
    adapted.save(tmp_path / "model")
    read = kshot.load(tmp_path / "model")
    assert [m.name for m in read.recipe.members] == ["majority"]
    assert (read.predict_proba(["a text"]) == adapted.predict_proba(["a text"])).all()
    assert read.predictions(["a text"])[0].prompt_tokens == 0
    # no label came once, so that none is expected to be new; one has no example all the same
    known = NewLabels().knowing(replace(TASK, labels=(*LABELS, "four")), ROWS)
    assert known._new == 0
    assert known.kept(2)[1] == (0, 1)


@dataclass(frozen=True)
class Sure(kshot.Classifier):
    """Is sure of texts with an even number."""

    def fit(self, task, examples, *, rng):
        return self

    def probabilities(self, questions):
        return [np.array([0.9, 0.05, 0.05] if int(q.input.split()[1]) % 2 == 0 else [1 / 3] * 3) for q in questions]


def test_a_cascade_asks_the_second_only_where_it_has_to_when_deployed(monkeypatch):
    asked, predict = [], PromptLearner.predict

    def counted(self, queries, **more):
        asked.append(len(queries))
        return predict(self, queries, **more)

    whole = parse_recipe("cascade(majority, bm25:k=2)", shots=2)
    combiner = replace(whole.part("combiner"), _threshold=0.5).with_calibrations([{"temperature": 1.0}] * 2)
    ready = whole.combining(combiner, [Recipe("sure", {"classifier": Sure()}), whole.members[1]])
    adapted = kshot.AdaptedModel.fit(ready, ROWS, setup(), choice={})
    monkeypatch.setattr(PromptLearner, "predict", counted)
    found = adapted.predictions([e.input for e in ROWS[:5]])
    assert asked == [2]  # together
    assert [p.prompt_tokens > 0 for p in found] == [False, True, False, True, False]


@pytest.mark.slow
def test_a_member_that_races_too_is_asked_and_trained_once(tmp_path):
    members = "fine-tune:lr=1e-2,steps=1", "bm25:k=2"
    names = [*members, f"mix({', '.join(members)}):by=share,alpha=0.9"]
    run = kshot.adapt(TASK, "tiny", recipes=names, shots=2, race=False, out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    alone = sum(row["tokens"] + row["fit_tokens"] for row in rows if row["recipe"] in members)
    assert run.work.reused == 2 * 24
    assert 2 * 24 <= run.work.scored < 3 * 24  # what is chosen may be looked at once more
    assert alone <= run.work.tokens < 1.5 * alone  # nor does the budget pay twice


def test_the_mixture_of_a_race_asks_nothing_and_is_judged_like_any_recipe(tmp_path):
    run = kshot.adapt(TASK, "scripted", recipes="mix,majority,zero-shot,bm25:k=2", shots=2, out=tmp_path / "b")
    assert run.work.scored == 47  # of 2 * 24, and the first example has no demonstrations
    board = {row["recipe"]: row for row in run.leaderboard}
    assert board["mix"]["n"] == 24
    assert board["mix"]["deployed"] is not None
    rows = [json.loads(line) for line in (tmp_path / "b" / "samples.jsonl").read_text().splitlines()]
    mixed = [row for row in rows if row["recipe"] == "mix"]
    asked = {name: [r["prompt_tokens"] for r in rows if r["recipe"] == name] for name in ("zero-shot", "bm25:k=2")}
    for i, row in enumerate(mixed):
        sums = {0, asked["zero-shot"][i], asked["bm25:k=2"][i], asked["zero-shot"][i] + asked["bm25:k=2"][i]}
        assert row["prompt_tokens"] in sums


def test_the_mixture_of_a_race_has_no_members_that_combine_others(tmp_path):
    alone, mix = ["majority", "bm25:k=2"], "mix:by=share,alpha=1"
    names = [*alone, "cascade(majority, bm25:k=2)", "average(bm25:k=2, zero-shot)", mix]
    kshot.adapt(TASK, "scripted", recipes=names, shots=2, limit=12, race=False, out=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "results.json").read_text())["configurations"][mix]
    assert [row["recipe"] for row in kept] == alone


def test_who_is_dropped_later_has_its_part_in_what_the_mixture_has_predicted_before():
    stream, recipe = make_stream(TASK, limit=24, seed=0), parse_recipe("mix:by=share,most=9", shots=2)
    queries, names = stream.queries(), ("majority", "zero-shot", "bm25:k=2")

    def others(n: int) -> list[Entrant]:
        found = []
        for one in (parse_recipe(name, shots=2) for name in names):
            said = make_learner(one, setup()).predict(queries[:n])
            rows = [
                sample_row(TASK, one.name, i, q.example, p) for i, (q, p) in enumerate(zip(queries, said, strict=False))
            ]
            found.append(Entrant(one, predictions=said, rows=rows))
        return found

    first, whole = others(16), others(24)
    at_once = Mixture(recipe, setup(), first, lambda entrant: (0.0, 0.0), Ledger()).predict(queries[:16])
    whole[1] = first[1]
    whole[1].stop("dropped")
    after = Mixture(recipe, setup(), whole, lambda entrant: (0.0, 0.0), Ledger())  # as with a budget and training
    assert [p.probs for p in after.predict(queries[:16])] == [p.probs for p in at_once]
    after.predict(queries[16:])
    assert "zero-shot" not in [row["recipe"] for row in after.configurations()]


def test_the_mixture_goes_as_far_as_a_member_that_the_budget_has_stopped_before():
    queries, ledger = make_stream(TASK, limit=24, seed=0).queries(), Ledger()
    others = []
    for name, n in (("majority", 24), ("zero-shot", 16)):
        one = parse_recipe(name, shots=2)
        said = make_learner(one, setup()).predict(queries[:n])
        rows = [sample_row(TASK, name, i, q.example, p) for i, (q, p) in enumerate(zip(queries, said, strict=False))]
        others.append(Entrant(one, predictions=said, rows=rows))
    others[1].stop("stopped")  # in its second slice: it can be chosen
    mixture = Mixture(parse_recipe("mix:by=share", shots=2), setup(), others, lambda entrant: (0.0, 0.0), ledger)
    assert len(mixture.predict(queries[:16])) == 16
    assert [row["recipe"] for row in mixture.configurations()] == ["majority", "zero-shot"]
    with pytest.raises(BudgetSpentError):
        mixture.predict(queries[16:])


def test_what_is_handed_over_is_fitted_on_second_looks():
    stream = make_stream(TASK, limit=24, seed=0)

    def row(name: str, at: int, right: float) -> dict:
        example = stream.asked[at]
        probs = tuple(right if label == example.output else (1 - right) / 2 for label in TASK.labels)
        said = Prediction(example.id, TASK.labels, tuple(np.log(probs)), probs, example.output, prompt_tokens=10)
        return sample_row(TASK, name, at, example, said)

    others = []
    for name, along, then in (("zero-shot", 0.5, None), ("random:k=2", 0.45, 0.55)):
        rows = [row(name, at, along) for at in range(24)]
        again = [row(name, at, then) for at in range(20)] if then else []
        others.append(Entrant(parse_recipe(name, shots=2), rows=rows, again=again))
    known, others[1].again = others[1].again, []
    recipe = parse_recipe("mix:by=share,alpha=0", shots=2)
    mixture = Mixture(recipe, setup(), others, lambda entrant: (0.0, 0.0), Ledger())
    mixture.predict(stream.queries())
    before = mixture.settled
    others[1].again = known
    after = mixture.settled
    assert [r["recipe"] for r in mixture.configurations()] == ["zero-shot", "random:k=2"]
    weights = [recipe.part("combiner")._weights for recipe in (before, after)]
    odds = [weight[1] / weight[0] for weight in weights]
    assert odds == pytest.approx([0.9**24, 1.1**20 * 0.9**4])
    told = [p.probs[LABELS.index(e.output)] for e, p in zip(stream.asked, mixture.as_handed_over(), strict=True)]
    for at, n_late in ((0, 3), (19, 4)):  # by four fifths of the examples, of which so many were not asked again
        odds = 1.1**16 * 0.9**n_late
        assert told[at] == pytest.approx((0.5 + 0.55 * odds) / (1 + odds))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (700, {"majority": 16, "zero-shot": 16, "bm25:k=2": 0, "mix": 16}),  # bm25 is out of the race
        (1500, {"majority": 24, "zero-shot": 24, "bm25:k=2": 16, "mix": 16}),  # it can be chosen for what it has
    ],
    ids=["first slice", "second slice"],
)
def test_the_mixture_of_a_race_has_what_its_members_have_when_the_budget_is_spent(budget, expected, tmp_path):
    names, out = list(expected), tmp_path / "run"
    run = kshot.adapt(TASK, "tiny", recipes=names, shots=2, budget=f"{budget}-tokens", race=False, out=out)
    assert {row["recipe"]: row["n"] for row in run.leaderboard} == expected


KNOWS = """
from dataclasses import dataclass

import numpy as np

import kshot


@dataclass(frozen=True)
class Knows(kshot.Classifier):
    part: int = 0

    def fit(self, task, examples, *, rng):
        return self

    def probabilities(self, questions):
        found = []
        for question in questions:
            _, number, label = question.input.split()
            row = np.full(3, 1 / 3)
            if int(number) % 2 == self.part:
                row = np.where(np.array(["one", "two", "three"]) == label, 0.8, 0.1)
            found.append(row)
        return found
"""


def test_a_mixture_that_is_chosen_is_handed_over_with_its_members_and_weights(tmp_path):
    file = tmp_path / "knows.py"
    file.write_text(KNOWS)
    names = [f"{file}:Knows:part={part}" for part in (0, 1)]
    run = kshot.adapt(TASK, "scripted", recipes=[*names, "mix"], shots=2, choose_by="bits", out=tmp_path / "run")
    assert run.chosen == "mix"
    assert run.best.recipe.name == f"mix({', '.join(names)})"
    assert min(run.best.recipe.part("combiner").weights) > 0.2
    first = run.leaderboard[0]  # what is expected of it rests on what is handed over too
    assert first["deployed_bits_high"] < 0.32 < first["bits_per_example"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    along = [max(row["probs"]) for row in rows if row["recipe"] == "mix"]
    least = min(run.best.past.confidences)  # the promise rests on what is handed over, not on the first weights
    assert len(run.best.past.confidences) == 24
    assert least > 0.1 + along[0]
    read = kshot.load(tmp_path / "run", allow_code=True)
    assert read.predict(["text 4 three", "text 5 two"]) == ["three", "two"]
    kept = json.loads((tmp_path / "run" / "results.json").read_text())["configurations"]["mix"]
    assert [row["recipe"] for row in kept] == names
    assert [row["weight"] for row in kept] == list(run.best.recipe.part("combiner").weights)


FIRST_IS_HIDDEN = """import kshot

FIRST = []
"""


def test_a_mixture_does_without_members_that_fail_in_their_second_look(tmp_path):
    file = tmp_path / "late.py"
    fails = """if len(examples) == 1 and not FIRST:
            FIRST.append(examples[0].id)
        if self.part and FIRST and len(examples) and FIRST[0] not in {e.id for e in examples}:
            raise RuntimeError("it is lost")
        return self"""
    file.write_text(KNOWS.replace("import kshot\n", FIRST_IS_HIDDEN, 1).replace("return self", fails, 1))
    names = [f"{file}:Knows:part={part}" for part in (0, 1)]
    run = kshot.adapt(TASK, "scripted", recipes=[*names, "mix"], shots=2, choose_by="bits", out=tmp_path / "run")
    board = {row["recipe"]: row for row in run.leaderboard}
    assert [board[name]["status"] for name in (*names, "mix")] == ["done", "failed", "not-applicable"]
    assert board["mix"]["reason"] == f"it keeps {names[0]} alone, which stands for it"
    assert run.chosen == names[0]
    (kept,) = json.loads((run.folder / "results.json").read_text())["configurations"]["mix"]
    assert kept["recipe"] == names[0]
    assert board["mix"]["bits_per_example"] == pytest.approx(board[names[0]]["bits_per_example"])


def late(file: Path) -> str:
    """Write a classifier that is wrong until it has 20 examples, and return its recipe."""
    knows = KNOWS.replace("return self", "return Knows(int(len(examples) < 20))").replace(
        "int(number) % 2 == self.part", "True"
    )
    file.write_text(knows.replace("0.8, 0.1", "*((0.1, 0.45) if self.part else (0.8, 0.1))"))
    return f"{file}:Knows"


@pytest.mark.parametrize("beside", [[], ["{late}"]])
def test_a_cascade_asks_a_second_recipe_that_is_better_in_the_end(beside, tmp_path):
    name = late(tmp_path / "late.py")
    recipes = [*(recipe.format(late=name) for recipe in beside), f"cascade(majority, {name})", f"mix(majority, {name})"]
    run = kshot.adapt(TASK, "scripted", recipes=recipes, shots=2, race=False, out=tmp_path / "run")
    board = {row["recipe"]: row for row in run.leaderboard}
    cascade, mix = (board[recipe] for recipe in recipes[-2:])
    assert cascade["metric"] < 0.6
    assert (cascade["deployed"], mix["deployed"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert cascade["deployed_bits"] < 0.5 < cascade["bits_per_example"]
    assert run.best.predict(["text 4 three", "text 5 two"]) == ["three", "two"]


def test_a_member_that_knows_more_in_the_end_is_weighed_by_what_it_knows_then(tmp_path):
    names = [late(tmp_path / "late.py"), "majority"]
    run = kshot.adapt(
        TASK, "scripted", recipes=[*names, "zero-shot", "mix:by=share,alpha=0"], shots=2, out=tmp_path / "run"
    )
    board = {row["recipe"]: row for row in run.leaderboard}
    assert board[names[0]]["bits_per_example"] > board["majority"]["bits_per_example"] + 0.5
    (kept,) = json.loads((run.folder / "results.json").read_text())["configurations"]["mix:by=share,alpha=0"]
    assert kept["recipe"] == names[0]


@pytest.mark.slow
def test_an_interrupted_run_with_a_mixture_ends_as_if_it_had_not_been(tmp_path):
    names = "majority,zero-shot,bm25:k=2,mix,cascade(zero-shot, bm25:k=2)"
    whole = kshot.adapt(TASK, "tiny", recipes=names, shots=2, out=tmp_path / "a")
    part = kshot.adapt(TASK, "tiny", recipes=names, shots=2, budget="1500-tokens", out=tmp_path / "b")
    assert any(row["status"] != "done" for row in part.leaderboard)
    again = kshot.adapt(TASK, "tiny", recipes=names, shots=2, out=tmp_path / "b")
    times = {"fit_seconds": 0, "query_ms": 0}
    assert [row | times for row in again.leaderboard] == [row | times for row in whole.leaderboard]


REFUSED = {
    "mix(bm25)": "'mix' combines recipes and must be given two or more, such as mix(bm25, zero-shot); got 1.",
    "cascade": "'cascade' combines recipes and must be given two or more, such as cascade(bm25, zero-shot); got 0.",
    "cascade(bm25,zero-shot,majority)": "'cascade' combines 2 recipes at most; got 3. Name fewer, or mix them",
    "new-labels(bm25,zero-shot,majority)": "'new-labels' combines 2 recipes at most; got 3.",
    "mix(bm25,zero-shot):alpha=2": "mix:alpha must be in 0.0..1.0; got 2.0.",
    "mix(bm25,zero-shot):by=luck": "mix:by must be one of share, stack, log-stack; got 'luck'.",
    "mix(bm25,zero-shot):weight=1": "'mix' has no setting 'weight'.",
    "cascade(bm25,zero-shot):price=2": "cascade:price must be in 0.0..1.0; got 2.0.",
    "average(mix,bm25)": "'average' must be given recipes that are whole; 'mix' names none of its own. Name them: mix(",
    "mix:by=share/stack": "'mix:by=share/stack' must have one value for each setting, as nothing races here; got by=",
}


@pytest.mark.parametrize(("name", "said"), REFUSED.items(), ids=list(REFUSED))
def test_combinations_that_cannot_be_are_refused(name, said):
    with pytest.raises(UserError) as refused:
        parse_recipe(name, shots=2)
    assert said in str(refused.value)


UNSUITED = {
    (
        "random,mix(tfidf-lr,zero-shot)",
        "open",
    ): "must combine recipes for tasks of kind generation; 'tfidf-lr' is for others.",
    ("mix(tfidf-lr,zero-shot)", "open"): "kind generation; 'tfidf-lr' is for others. Leave it out.",
    ("new-labels(bm25,zero-shot)", "open"): "must be for tasks of kind generation, and its way to combine is for",
    (
        "random,new-labels(bm25,zero-shot)",
        "open",
    ): "must be for tasks of kind generation, and its way to combine is for others",
    (
        "random,new-labels(bm25,zero-shot)",
        "choices",
    ): "must be for tasks of kind multiple_choice, and its way to combine is",
    (
        "random,cascade(bm25,zero-shot)",
        "open",
    ): "must be for tasks of kind generation, and its way to combine is for others.",
    (
        "mix",
        "closed",
    ): "combines the recipes of the run that combine nothing themselves, and must have two or more for tasks of "
    "kind classification; it has 0. Name more --recipes, or recipes of its own: mix(bm25, zero-shot).",
    ("mix,bm25", "closed"): "it has 1. Name more --recipes",
    ("mix,bm25,cascade(tfidf-lr,bm25)", "closed"): "it has 1. Name more --recipes",
    ("mix,bm25,tfidf-lr", "open"): "must have two or more for tasks of kind generation; it has 1.",
}


@pytest.mark.parametrize(("names", "kind"), UNSUITED, ids=[f"{a} {b}" for a, b in UNSUITED])
def test_combinations_that_do_not_suit_a_task_are_refused_before_any_work(names, kind):
    task = {"open": OPEN, "choices": CHOICES, "closed": TASK}[kind]
    with pytest.raises(UserError) as refused:
        prepare(RunSettings(task, "scripted", recipes=names, shots=2))
    assert UNSUITED[names, kind] in str(refused.value)


def test_a_combination_says_which_member_failed_and_the_others_go_on(tmp_path, monkeypatch):
    from kshot.learners.classifier import ClassifierLearner

    def broken(self, queries, *, progress=None):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(ClassifierLearner, "predict", broken)
    names = "zero-shot,bm25:k=2,tfidf-lr,mix,cascade(zero-shot, tfidf-lr)"
    run = kshot.adapt(TASK, "scripted", recipes=names, shots=2, limit=10, out=tmp_path / "run")
    board = {row["recipe"]: row for row in run.leaderboard}
    assert board["cascade(zero-shot, tfidf-lr)"]["status"] == "failed"
    reason = board["cascade(zero-shot, tfidf-lr)"]["reason"]
    assert reason == "ModelError: each member must answer; 'tfidf-lr' failed: RuntimeError: out of paper"
    assert board["mix"]["status"] == board["zero-shot"]["status"] == "done"
    with pytest.raises(ModelError, match=r"each member must answer; 'tfidf-lr' failed: RuntimeError: out of paper"):
        make_learner(parse_recipe("mix(zero-shot, tfidf-lr)", shots=2), setup()).predict(
            make_stream(TASK, limit=4, seed=0).queries()
        )


def test_a_recipe_of_the_run_cannot_be_put_to_work_alone():
    with pytest.raises(UserError, match=r"'mix' combines the recipes of a run, and there is no run here; give it"):
        make_learner(parse_recipe("mix", shots=2), setup())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_weights": [0.5]}, "must have what a combiner has learnt of its members; it is otherwise with 'mix("),
        ({"_weights": [0.5, -0.1, 0.6]}, "must have what a combiner has learnt of its members"),
        ({"_weights": "much"}, "combiner.json must be as kshot wrote it; _weights: input should be a valid list."),
        (
            {"_calibrations": [{"temperature": 0.0, "strength": 0.0, "prior": []}] * 3},
            "combiner.json must be as kshot wrote it; temperature: input",
        ),
        ({"_calibrations": []}, "must have what a combiner has learnt of its members"),
        (
            {"_calibrations": [{"temperature": 1.0, "strength": 0.5, "prior": [0.5]}] * 3},
            "combiner.json must have a label prior with a number for each of its 3 labels where its strength is above",
        ),
    ],
    ids=["few", "negative", "text", "cold", "none", "prior"],
)
def test_what_a_combiner_remembers_is_checked_when_it_is_read(change, said, tmp_path):
    from kshot.adapted.seal import write_seal

    recipe = parse_recipe(NAMES[2] + ",alpha=0.9", shots=2)  # that all are kept
    folder = tmp_path / "model"
    kshot.AdaptedModel.fit(recipe, ROWS, setup(), choice={}).save(folder)
    file = folder / "combiner.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (folder / "checksums.json").unlink()
    write_seal(folder)
    with pytest.raises(UserError) as refused:
        kshot.load(folder)
    assert said in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mix", "mix:by=stack", "mix:by=share", "cascade", "new-labels"])
def test_a_thousand_examples_take_a_few_seconds(name):
    import time

    base, _, settings = name.partition(":")
    recipe = parse_recipe(f"{base}(bm25,zero-shot)" + (f":{settings}" if settings else ""), shots=2)
    past = past_of((0.5,) * 2 if "mix" not in name else (0.5,) * 10, 1000)
    combining, began = Combining(name, TASK, recipe.part("combiner")), time.process_time()
    for i, row in enumerate(past):
        query = kshot.core.types.Query(row.example, tuple(r.example for r in past[:i]))
        combining.answer(query, row.said)
    assert time.process_time() - began < 20
    assert combining.fitted([UNCALIBRATED] * len(past[0].said))
