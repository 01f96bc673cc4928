"""Temperature, label prior and contextual calibration: what they compute, that they see the past alone, their runs."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.model import AdaptedModel
from kshot.core.progress import Silence
from kshot.core.types import Example, Prediction, Prompt, Query, ScoreRequest, Segment, Task
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures import calibration
from kshot.measures.calibration import TEMPERATURES, Calibration
from kshot.measures.probabilities import UNIFORM_SHARE
from kshot.models.scripted import ScriptedModel
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import CALIBRATIONS
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("animal", "food", "tool")
EXAMPLES = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(30)))
TASK = Task("words", "classification", EXAMPLES, labels=LABELS)
CONTENT_FREE = ("N/A", "[MASK]", "")  # those of Zhao et al. (2021), section 5


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


def calibrated(predictions, examples):
    return calibration.calibrated(predictions, examples)[0]


def temperature_of(predictions, examples):
    return calibration.calibrated(predictions, examples)[1].temperature


def p_at(log_probs, temperature):
    """Return probabilities over candidates at a temperature, mixed, from the formula."""
    weights = np.exp((np.array(log_probs) - max(log_probs)) / temperature)
    return (1 - UNIFORM_SHARE) * weights / weights.sum() + UNIFORM_SHARE / len(weights)


def searched(rows, right):
    """Return the temperature that fits best, from the formula, tried one by one; the last row counts most."""
    costs = {}
    for quarter in range(-12, 13):
        temperature = 2 ** (quarter / 4)
        bits = [-np.log2(p_at(row, temperature)[i]) for row, i in zip(rows, right, strict=True)]
        costs[temperature] = sum(b * 0.95**age for age, b in enumerate(bits[::-1])) + 2 * np.log(temperature) ** 2
    return min(costs, key=costs.__getitem__)


def fitted(rows, right):
    """Return the temperature that is fitted on rows of log-probabilities and the indices of the right candidates."""
    made = [Prediction("x", tuple(range(len(row))), tuple(row), (), "") for row in rows]
    return temperature_of(made, [Example("x", i, "x") for i in right])


def stream(n, *, sharpness, seed=0, n_labels=3):
    """Return predictions whose log-probabilities are `sharpness` times too large, and the examples they are for."""
    rng = np.random.default_rng(seed)
    labels = tuple("abcdef"[:n_labels])
    predictions, examples = [], []
    for i in range(n):
        true = np.log(rng.dirichlet(np.full(n_labels, 0.6)) + 1e-3)
        true -= np.logaddexp.reduce(true)
        output = labels[rng.choice(n_labels, p=np.exp(true))]
        row = true * sharpness
        answer = labels[int(np.argmax(row))]
        predictions.append(Prediction(f"s{i}", labels, tuple(row.tolist()), tuple(p_at(row, 1).tolist()), answer))
        examples.append(Example(f"x{i}", output, f"s{i}"))
    return predictions, examples


def bits(predictions, examples):
    pairs = zip(predictions, examples, strict=True)
    return sum(-np.log2(p.probs[p.candidates.index(e.output)]) for p, e in pairs)


# The temperature


@pytest.mark.parametrize("n", [8, 9, 100])
@pytest.mark.parametrize("sharpness", [0.2, 1, 2.5, 30])
def test_the_fit_is_that_of_a_search(n, sharpness):
    for seed in range(2):
        predictions, examples = stream(n, sharpness=sharpness, seed=seed, n_labels=2 + seed)
        right = [p.candidates.index(e.output) for p, e in zip(predictions, examples, strict=True)]
        rows = [np.array(p.log_probs) for p in predictions]
        assert temperature_of(predictions, examples) == pytest.approx(searched(rows, right))


def test_the_temperature_undoes_what_was_too_sharp_or_too_flat():
    for sharpness, least, most in ((4, 2, 6), (1, 0.7, 1.5), (0.25, 0.17, 0.5), (20, 4, 8)):
        assert least <= temperature_of(*stream(400, sharpness=sharpness)) <= most


def test_the_prior_weighs_against_little_evidence():
    """Wrong once in 8 at 99 %: the best fit is far from 1, the prior of two bits holds it back."""
    rows, right = [np.log([0.99, 0.01])] * 8, [0] * 7 + [1]
    free = [sum(-np.log2(p_at(r, t)[i]) for r, i in zip(rows, right, strict=True)) for t in TEMPERATURES]
    assert 1 < fitted(rows, right) < TEMPERATURES[int(np.argmin(free))]


def test_candidates_may_be_others_in_each_row():
    """As in multiple choice: then there is no label prior."""
    rows = [np.log([0.999] + [0.001 / n] * n) for n in (1, 2, 3, 4)] * 4
    assert fitted(rows, [1] * 16) == pytest.approx(searched(rows, [1] * 16))


def test_it_is_one_without_evidence():
    assert fitted([], []) == 1
    assert fitted([np.log([0.999, 0.001])] * 7, [1] * 7) == 1  # all wrong, but fewer than 8
    assert fitted([np.log([0.999, 0.001])] * 8, [1] * 8) > 6
    assert fitted([np.log([0.5, 0.5])] * 20, [0, 1] * 10) == 1  # no temperature changes these


def test_it_is_one_where_the_probabilities_are_right_already():
    rows, right = [np.log([0.8, 0.15, 0.05])] * 200, ([0] * 8 + [1] + [0] * 8 + [2] + [1, 0]) * 10
    assert fitted(rows, right) == 1


def test_bits_fall_on_an_over_confident_stream_and_stay_on_a_calibrated_one():
    predictions, examples = stream(300, sharpness=5)
    assert bits(calibrated(predictions, examples), examples) < 0.8 * bits(predictions, examples)
    predictions, examples = stream(300, sharpness=1)
    assert bits(calibrated(predictions, examples), examples) < 1.03 * bits(predictions, examples)


def test_each_is_at_the_temperature_of_its_past():
    predictions, examples = stream(70, sharpness=5)
    found = calibrated(predictions, examples)
    for i, (before, after) in enumerate(zip(predictions, found, strict=True)):
        n = i if i >= 8 else 0
        past = [(p.log_probs, p.candidates.index(e.output)) for p, e in zip(predictions[:n], examples, strict=False)]
        temperature = searched(*zip(*past, strict=True)) if n else 1
        assert after.probs == pytest.approx(p_at(before.log_probs, temperature))
    assert found[7].probs == pytest.approx(predictions[7].probs)
    assert found[8].probs != pytest.approx(predictions[8].probs)


def test_the_future_does_not_count():
    predictions, examples = stream(40, sharpness=5)
    whole = calibrated(predictions, examples)
    for cut in (0, 7, 8, 15, 16, 31, 32, 39):
        turned = [replace(e, output="abc"["bca".index(e.output)]) for e in examples[cut:]]
        assert calibrated(predictions, [*examples[:cut], *turned])[: cut + 1] == whole[: cut + 1]
        assert calibrated(predictions[: cut + 1], examples[: cut + 1]) == whole[: cut + 1]
    turned = [replace(e, output="abc"["bca".index(e.output)]) for e in examples[:8]]
    assert calibrated(predictions, [*turned, *examples[8:]])[8] != whole[8]


def test_the_answer_stays():
    predictions, examples = stream(200, sharpness=3, n_labels=6)
    near = replace(predictions[0], log_probs=(-1.0, -1.0 + 1e-12, -9.0, -9.0, -9.0, -9.0), answer="b")
    for temperature in set(TEMPERATURES) - {1}:
        for before in (*predictions, near):
            after = Calibration(temperature).of(before)
            assert replace(after, probs=before.probs) == before
            assert sum(after.probs) == pytest.approx(1)
            assert after.probs[after.candidates.index(after.answer)] == max(after.probs)
    assert [p.answer for p in calibrated(predictions, examples)] == [p.answer for p in predictions]


# The label prior


def batch_calibrated(predictions, examples):
    """Return a stream's probabilities, and the last temperature, strength and label prior: spelled out, no arrays."""

    def without(row, prior, strength):
        return [value - strength * np.log(m) for value, m in zip(row, prior, strict=True)]

    rows = [p.log_probs for p in predictions]
    right = [p.candidates.index(e.output) for p, e in zip(predictions, examples, strict=True)]
    priors = []
    for i in range(len(rows)):
        shares = [[(0.98 ** (i - j)) * p for p in p_at(rows[j], 1)] for j in range(i + 1)]
        n, n_labels = sum(0.98 ** (i - j) for j in range(i + 1)), len(rows[0])
        priors.append([(sum(column) + 4 / n_labels) / (n + 4) for column in zip(*shares, strict=True)])
    found, best = [], (1.0, 0.0)
    for i in range(len(rows) + 1):
        costs = {}
        for strength in (0.0, 0.5, 1.0) if i >= 8 else ():
            for quarter in range(-12, 13):
                t = 2 ** (quarter / 4)
                lengths = [-np.log2(p_at(without(rows[j], priors[j], strength), t)[right[j]]) for j in range(i)]
                past = sum(length * 0.95 ** (i - 1 - j) for j, length in enumerate(lengths))
                costs[t, strength] = past + 2 * np.log(t) ** 2 + 0.5 * strength**2
        best = min(costs, key=costs.__getitem__) if costs else best
        if i < len(rows):
            found.append(p_at(without(rows[i], priors[i], best[1]), best[0]))
    return found, (*best, tuple(priors[-1]) if best[1] else ())


def biased_stream(n, bias, *, seed=0):
    """Return predictions that are right about the odds of labels but for a liking for some, and their examples."""
    predictions, examples = stream(n, sharpness=1, seed=seed, n_labels=len(bias))
    liked = []
    for p in predictions:
        row = np.array(p.log_probs) + bias
        answer = p.candidates[int(np.argmax(row))]
        liked.append(replace(p, log_probs=tuple(row.tolist()), probs=tuple(p_at(row, 1).tolist()), answer=answer))
    return liked, examples


def test_the_label_prior_is_that_of_the_formula():
    predictions, examples = biased_stream(24, (2.0, 0.0, -2.0))
    found, last = calibration.calibrated(predictions, examples, label_prior=True)
    expected, (temperature, strength, prior) = batch_calibrated(predictions, examples)
    for after, probs in zip(found, expected, strict=True):
        assert after.probs == pytest.approx(probs)
        assert after.answer == after.candidates[int(np.argmax(after.probs))]
    assert (last.temperature, last.strength) == (pytest.approx(temperature), strength)
    assert last.prior == pytest.approx(prior)
    assert last.strength > 0


def test_the_label_prior_takes_a_liking_for_a_label_out_and_leaves_what_is_right():
    liking = (3.0, 0.0, -1.0)
    predictions, examples = biased_stream(200, liking)
    found, last = calibration.calibrated(predictions, examples, label_prior=True)
    cooled, _ = calibration.calibrated(predictions, examples)
    right = [[p.answer == e.output for p, e in zip(some, examples, strict=True)] for some in (predictions, found)]
    assert np.mean(right[1]) > np.mean(right[0]) + 0.1
    assert bits(found, examples) < 0.9 * bits(cooled, examples)
    assert last.strength == 1
    fair = stream(200, sharpness=1)
    assert bits(calibration.calibrated(*fair, label_prior=True)[0], fair[1]) < 1.02 * bits(*fair)


def test_labels_that_are_frequent_keep_their_share():
    """A recipe that knows that one label is frequent says so on the mean: the past tells that from a liking."""
    rng = np.random.default_rng(0)
    examples = [Example("x", "abc"[i], f"s{n}") for n, i in enumerate(rng.choice(3, size=200, p=[0.9, 0.05, 0.05]))]
    row = np.log([0.9, 0.05, 0.05])
    predictions = [Prediction(e.id, tuple("abc"), tuple(row), tuple(p_at(row, 1)), "a") for e in examples]
    found, last = calibration.calibrated(predictions, examples, label_prior=True)
    assert last.strength == 0
    assert {p.answer for p in found[20:]} == {"a"}


def test_no_answer_of_later_examples_nor_of_its_own_changes_a_prediction():
    predictions, examples = biased_stream(40, (2.0, 0.0, -2.0))

    def found(some, known):
        return calibration.calibrated(some, known, label_prior=True)[0]

    whole = found(predictions, examples)
    for cut in (0, 8, 17, 39):
        turned = [replace(e, output="abc"["bca".index(e.output)]) for e in examples[cut:]]
        assert found(predictions, [*examples[:cut], *turned])[: cut + 1] == whole[: cut + 1]
        assert found(predictions[: cut + 1], examples[: cut + 1]) == whole[: cut + 1]
    assert whole[9].probs != pytest.approx(predictions[9].probs)


def test_a_fixed_label_prior_does_not_depend_on_what_else_is_asked():
    predictions, _ = biased_stream(12, (2.0, 0.0, -2.0))
    fixed = Calibration(2.0, 0.5, (0.7, 0.2, 0.1))
    for before in predictions:
        after = fixed.of(before)
        odds = np.array(before.log_probs) - 0.5 * np.log([0.7, 0.2, 0.1])
        assert after.log_probs == pytest.approx(odds)
        assert after.probs == pytest.approx(p_at(odds, 2))
        assert after.answer == "abc"[int(np.argmax(odds))]
    total = np.sum([p_at(p.log_probs, 1) for p in predictions], axis=0)
    assert fixed.asked(predictions).prior == pytest.approx((total + 4 / 3) / 16)
    assert fixed.asked([]) == fixed
    assert Calibration(2.0).asked(predictions) == Calibration(2.0)


# Runs with it


class Boastful(ScriptedModel):
    """A reader who is far too sure."""

    def __init__(self):
        super().__init__(confidence=1 - 1e-6, name="scripted")


@pytest.fixture(scope="module")
def boasts(tmp_path_factory):
    """A run of the same recipe in three calibrations, one with a temperature alone, and sample rows by recipe."""
    folder = tmp_path_factory.mktemp("runs") / "boasts"
    # Every third label is drawn by lot: the reader is right about the other two thirds
    lots = np.random.default_rng(0).choice(LABELS, size=len(EXAMPLES))
    train = tuple(replace(e, output=str(lots[i])) if i % 3 == 0 else e for i, e in enumerate(EXAMPLES))
    names = ("bm25:calibration=temperature", "bm25:calibration=none", "bm25:calibration=contextual", "majority")
    task = replace(TASK, train=train)
    run = kshot.adapt(task, Boastful(), recipes=names, shots=3, out=folder)
    alone = kshot.adapt(task, Boastful(), recipes=names[0], shots=3, out=folder / "alone")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return run, alone, {name: [row for row in samples if row["recipe"] == name] for name in names}


def test_a_temperature_lowers_the_bits_of_a_run(boasts):
    run, _, rows = boasts
    board = {row["recipe"]: row for row in run.leaderboard}
    plain, cooled = board["bm25:calibration=none"], board["bm25:calibration=temperature"]
    assert cooled["bits_per_example"] < 0.7 * plain["bits_per_example"]
    assert cooled["metric"] == plain["metric"]
    for before, after in zip(rows["bm25:calibration=none"], rows["bm25:calibration=temperature"], strict=True):
        assert before["log_probs"] == after["log_probs"]
        assert before["answer"] == after["answer"]
        assert before["probs"] == pytest.approx(p_at(before["log_probs"], 1))
        n = after["position"] if after["position"] >= 8 else 0
        past = [(r["log_probs"], r["candidates"].index(r["gold"])) for r in rows["bm25:calibration=temperature"][:n]]
        temperature = searched(*zip(*past, strict=True)) if n else 1
        assert after["probs"] == pytest.approx(p_at(after["log_probs"], temperature))
        assert after["bits"] == pytest.approx(-np.log2(after["probs"][LABELS.index(after["gold"])]))


def test_the_adapted_model_answers_at_the_temperature_of_the_whole_stream(boasts):
    _, run, rows = boasts
    whole = [(row["log_probs"], row["candidates"].index(row["gold"])) for row in rows["bm25:calibration=temperature"]]
    temperature = searched(*zip(*whole, strict=True))
    assert temperature > 1
    about = json.loads((run.folder / "best" / "kshot.json").read_text())
    assert about["calibration"]["temperature"] == pytest.approx(temperature)
    inputs = [e.input for e in EXAMPLES[:5]]
    for prediction, probs in zip(run.best.predictions(inputs), run.best.predict_proba(inputs), strict=True):
        assert probs == pytest.approx(p_at(prediction.log_probs, temperature))
    assert (
        kshot.load(run.folder, model=Boastful()).predict_proba(inputs).tolist()
        == run.best.predict_proba(inputs).tolist()
    )


@pytest.mark.parametrize("name", ["bm25:calibration=none", "bm25:calibration=contextual", "majority"])
def test_without_a_temperature_it_is_one(boasts, tmp_path, name):
    *_, rows = boasts
    assert all(row["probs"] == pytest.approx(p_at(row["log_probs"], 1)) for row in rows[name] if name != "majority")
    kshot.adapt(TASK, Boastful(), recipes=name, shots=3, limit=12, out=tmp_path)
    assert json.loads((tmp_path / "best" / "kshot.json").read_text())["calibration"] == {
        "temperature": 1,
        "strength": 0,
        "prior": [],
    }


def test_a_run_is_calibrated_on_its_past_alone(tmp_path):
    """Turn the labels of the last third of the stream: the rows before it keep their probabilities to the bit."""
    model, kept = Boastful(), {}
    order = [e.id for e in make_stream(TASK, limit=300, seed=0).examples]
    late = set(order[20:])
    turned = tuple(replace(e, output=LABELS[LABELS.index(e.output) - 1]) if e.id in late else e for e in EXAMPLES)
    for name, train in (("a", EXAMPLES), ("b", turned)):
        folder = tmp_path / name
        kshot.adapt(replace(TASK, train=train), model, recipes="bm25", shots=3, out=folder)
        kept[name] = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["example_id"] for row in kept["a"]] == order
    early = [[(r["probs"], r["bits"], r["answer"]) for r in kept[name][:20]] for name in "ab"]
    assert early[0] == early[1]
    assert kept["a"][20]["probs"] == kept["b"][20]["probs"]
    assert kept["a"][20]["bits"] != kept["b"][20]["bits"]


# Contextual


def rows_of(name, model, task, queries):
    """Return what a recipe predicts for queries, and how far its progress came."""
    told = []
    learner = make_learner(parse_recipe(name, shots=3), Setup(task, TaskModel.for_task(task, model), 0))
    predictions = learner.predict(queries, progress=told.append)
    return predictions, told


def spelled(text, demonstrations):
    """Return the prompt of a word task as one text, spelled out here."""
    shown = "".join(f"Text: {e.input}\nLabel: {e.output}\n\n" for e in demonstrations)
    return Prompt((Segment("query", f"{shown}Text: {text}\nLabel:"),))


def by_hand(model, task, example, demonstrations):
    """Return contextual log-probabilities, from the formula and single calls of the model."""
    answers = tuple(f" {label}\n\n" for label in task.labels)

    def scores(text):
        return model.score([ScoreRequest(spelled(text, demonstrations), answers)])[0]

    empty = np.mean([np.exp(s) / np.exp(s).sum() for s in map(scores, CONTENT_FREE)], axis=0)
    return scores(example.input) - np.log(empty)


@pytest.mark.parametrize("name", ["zero-shot", "random", "all-past", "bm25"])
def test_contextual_divides_by_the_answers_to_inputs_without_content(tiny, name):
    queries = [Query(e, EXAMPLES[:i]) for i, e in enumerate(EXAMPLES[:6])]
    found, _ = rows_of(f"{name}:calibration=contextual", tiny, TASK, queries)
    plain, _ = rows_of(f"{name}:calibration=none", tiny, TASK, queries)
    known = {e.id: e for e in EXAMPLES}
    for query, after, before in zip(queries, found, plain, strict=True):
        shown = [known[i] for i in after.demonstrations]
        expected = by_hand(tiny, TASK, query.example, shown)
        assert after.log_probs == pytest.approx(expected, abs=1e-4)
        assert after.probs == pytest.approx(p_at(expected, 1), abs=1e-4)
        assert after.answer == LABELS[int(np.argmax(expected))]
        assert after.demonstrations == before.demonstrations
        assert after.log_probs != pytest.approx(before.log_probs, abs=1e-2)


@pytest.mark.parametrize("name", ["fine-tune:lr=1e-2,steps=1", "icv:strength=2,k=2"])
def test_contextual_divides_by_what_the_trained_or_steered_model_says(tiny, name):
    queries = [Query(EXAMPLES[4], EXAMPLES[:4])]
    learner = make_learner(
        parse_recipe(f"{name},calibration=contextual", shots=2), Setup(TASK, TaskModel.for_task(TASK, tiny), 0)
    )
    (found,) = learner.predict(queries)
    fitted = learner.fit(EXAMPLES[:4])
    changed = fitted.model.model.steered(fitted.steering) if fitted.steering else fitted.model.model
    known = {e.id: e for e in EXAMPLES}
    expected = by_hand(changed, TASK, EXAMPLES[4], [known[i] for i in found.demonstrations])
    assert found.log_probs == pytest.approx(expected, abs=1e-3)
    assert found.log_probs != pytest.approx(by_hand(tiny, TASK, EXAMPLES[4], []), abs=1e-2)


def test_contextual_leaves_the_context_out_too(tiny):
    example = Example("the cat", "animal", "q", context="long and full of words")
    found, _ = rows_of("zero-shot:calibration=contextual", tiny, TASK, [Query(example, ())])
    answers = tuple(f" {label}\n\n" for label in LABELS)
    full = Prompt((Segment("query", f"Context: {example.context}\nText: the cat\nLabel:"),))
    texts = [full, *(spelled(text, ()) for text in CONTENT_FREE)]
    scores, *empty = tiny.score([ScoreRequest(prompt, answers) for prompt in texts])
    expected = scores - np.log(np.mean([np.exp(s) / np.exp(s).sum() for s in empty], axis=0))
    assert found[0].log_probs == pytest.approx(expected, abs=1e-4)


class Biased(ScriptedModel):
    """Has a weakness for one label, whatever is asked."""

    bias = np.array([-4.0, 0.0, -5.0])

    def _answer(self, request):
        return super()._answer(request) + self.bias

    def with_store(self, store):
        return self


def test_a_run_takes_a_weakness_for_a_label_out_and_hands_over_the_prior_of_its_last_prompt(tmp_path):
    """The prior is the mean over the second look at the prompt that is handed over; a temperature changes nothing."""
    model = Biased({e.input: e.output for e in EXAMPLES}, name="biased")
    run = kshot.adapt(TASK, model, recipes="random,random:calibration=temperature", shots=3, out=tmp_path / "run")
    board = {row["recipe"]: row for row in run.leaderboard}
    assert board["random"]["metric"] > board["random:calibration=temperature"]["metric"] + 0.2
    assert run.chosen == "random"
    kept = json.loads((run.folder / "best" / "kshot.json").read_text("utf-8"))["calibration"]
    assert kept["strength"] > 0
    shown = {e.id for e in run.best.pool}
    learner = make_learner(parse_recipe("random", shots=3), Setup(TASK, TaskModel.for_task(TASK, model), 0))
    raw = [p for e in EXAMPLES if e.id not in shown for p in learner.predict([Query(e, EXAMPLES)])]
    total = np.sum([p_at(p.log_probs, 1) for p in raw], axis=0)
    assert kept["prior"] == pytest.approx((total + 4 / 3) / (len(raw) + 4), abs=1e-6)
    inputs = [e.input for e in EXAMPLES[:9]]
    together, alone = run.best.predictions(inputs), [p for text in inputs for p in run.best.predictions([text])]
    assert [p.probs for p in together] == [p.probs for p in alone]
    assert np.mean([p.answer == e.output for p, e in zip(together, EXAMPLES, strict=False)]) > 0.8


def test_contextual_removes_a_constant_weakness_for_a_label():
    table = {e.input: e.output for e in EXAMPLES}
    queries = [Query(e, ()) for e in EXAMPLES]
    fair, _ = rows_of("zero-shot:calibration=none", ScriptedModel(table), TASK, queries)
    biased, _ = rows_of("zero-shot:calibration=none", Biased(table), TASK, queries)
    corrected, _ = rows_of("zero-shot:calibration=contextual", Biased(table), TASK, queries)
    assert {p.answer for p in biased} == {"food"}
    assert [p.answer for p in corrected] == [p.answer for p in fair] == [e.output for e in EXAMPLES]
    for after, before in zip(corrected, fair, strict=True):
        assert after.probs == pytest.approx(before.probs)


def test_contextual_fits_where_the_context_is_full(tiny):
    """A query shorter than "[MASK]" behind as many demonstrations as fit."""
    pool = [Example(f"{'word ' * 20}{i}", LABELS[i % 3], f"p{i}") for i in range(40)]
    task, query = replace(TASK, train=tuple(pool)), Example("w", "tool", "q")

    def dropped(calibration):
        (found,), _ = rows_of(f"all-past:calibration={calibration}", tiny, task, [Query(query, tuple(pool))])
        left = tiny.max_tokens - found.prompt_tokens - len(" animal\n\n")
        assert left >= 0
        assert len(found.demonstrations) == len(pool) - found.dropped
        return found.dropped, left

    before, left = dropped("none")
    pool[-1] = replace(pool[-1], input=pool[-1].input + "x" * (left - 2))
    assert dropped("none") == (before, 2)
    assert dropped("contextual")[0] > before  # the query itself would fit, "[MASK]" in its place does not


# Progress, and what does not apply


@pytest.mark.parametrize("calibration", ["auto", "contextual", "none"])
@pytest.mark.parametrize("name", ["zero-shot", "random", "all-past"])
@pytest.mark.parametrize("model", ["scripted", "tiny"])
def test_progress_comes_to_the_number_of_predictions(tiny, model, name, calibration):
    queries = [Query(e, EXAMPLES[:i]) for i, e in enumerate(EXAMPLES[:10])]
    asked = tiny if model == "tiny" else ScriptedModel()
    _, told = rows_of(f"{name}:calibration={calibration}", asked, TASK, queries)
    assert sum(told) == 10
    assert min(told) >= 0


class Told(Silence):
    """Remembers how far each recipe came."""

    def __init__(self):
        self.done = {}

    def begin(self, recipe, total):
        self.recipe, self.done[recipe] = recipe, [total, 0]

    def advance(self, n):
        self.done[self.recipe][1] += n


def test_progress_of_runs_whole_and_resumed(tiny, tmp_path):
    recipes = "zero-shot:calibration=contextual,random:calibration=contextual,bm25,majority"
    for _ in range(2):
        progress = Told()
        kshot.adapt(TASK, tiny, recipes=recipes, shots=3, limit=12, out=tmp_path, progress=progress)
        assert progress.done == {name: [12, 12] for name in recipes.split(",")}


@pytest.mark.parametrize("kind", ["generation", "qa", "math", "parsing"])
def test_contextual_does_not_apply_to_open_tasks(tmp_path, run_cli, kind):
    rows = [{"input": f"say {i}", "output": f"number {i}"} for i in range(9)]
    task = write_task(tmp_path / "task", rows, card={"kind": kind})
    args = ("adapt", task, "--model", "scripted", "--shots", 2, "--out", tmp_path / "run", "--json")
    board = run_cli(*args, "--recipes", "zero-shot,random:calibration=contextual").json["leaderboard"]
    assert [(row["recipe"], row["status"]) for row in board] == [
        ("zero-shot", "done"),
        ("random:calibration=contextual", "not-applicable"),
    ]
    alone = run_cli(*args, "--recipes", "random:calibration=contextual")
    assert (alone.code, alone.out) == (2, "")
    assert f"must name one for tasks of kind {kind}; got 'random:calibration=contextual'" in alone.err


def test_open_tasks_have_no_temperature(tmp_path):
    examples = tuple(Example(f"say {i}", f"number {i}", f"o{i}") for i in range(20))
    task = Task("numbers", "generation", examples, metrics=("exact_match",))
    run = kshot.adapt(task, Boastful(), recipes="zero-shot:calibration=temperature,zero-shot:calibration=none",
                      shots=2, out=tmp_path)  # fmt: skip
    first, second = run.leaderboard
    assert first["bits_per_example"] == second["bits_per_example"]
    assert run.best.fitted.calibration.temperature == 1
    for line in (tmp_path / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["probs"] == pytest.approx([np.exp(row["log_probs"][0])])


def test_best_of_n_is_judged_without_temperature(tiny):
    """The choice of demonstrations is that of the raw scores: a temperature comes later, and changes no choice."""
    pool = EXAMPLES[:16]
    queries = [Query(EXAMPLES[20], pool)]
    shown = {rows_of(f"best-of-n:calibration={c}", tiny, TASK, queries)[0][0].demonstrations for c in CALIBRATIONS}
    assert len(shown) == 1


@pytest.mark.parametrize("calibration", [Calibration(4.0), Calibration(4.0, 0.5, (0.6, 0.3, 0.1))])
def test_a_saved_calibration_is_not_the_recipes_to_change(tmp_path, calibration):
    """An adapted model saved with a calibration keeps it, and so do copies of it."""
    setup = Setup(TASK, TaskModel.for_task(TASK, Boastful()), 0)
    recipe = parse_recipe("random", shots=3)
    adapted = AdaptedModel.fit(recipe, EXAMPLES, setup, choice={}, calibration=calibration)
    adapted.save(tmp_path / "a")
    again = kshot.load(tmp_path / "a", model=Boastful())
    again.save(tmp_path / "b")
    inputs = [e.input for e in EXAMPLES[:4]]
    expected = adapted.predict_proba(inputs).tolist()
    assert expected == [pytest.approx(p_at(p.log_probs, 4)) for p in adapted.predictions(inputs)]
    for model in (again, adapted.with_model(Boastful()), kshot.load(tmp_path / "b", model=Boastful())):
        assert model.predict_proba(inputs).tolist() == expected
