"""Several contexts: each is chosen as promised, answers are averaged, and what is saved shows the same ones."""

import copy
import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
from kshot.adapted.seal import write_seal
from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Example, Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.samples import sample_row
from kshot.methods.hands import dealt, different, ranked, reordered
from kshot.race.second_look import other_draws, second_look
from kshot.race.stream import Stream
from kshot.recipes.grammar import parse_recipe, parse_recipes
from kshot.reports.saved_record import read_record
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("one", "two")
TRAIN = tuple(Example(f"row {i} of words {i % 5}", LABELS[i % 2], f"e{i}") for i in range(24))
TASK = Task("t", "classification", TRAIN, labels=LABELS)
NEW = Example("row 7 of other words", "one", "new")


def setup(model="scripted", task=TASK) -> Setup:
    return Setup(task, TaskModel.for_task(task, load_model(model)), 0)


def predicted(recipe: str, n: int = len(TRAIN), *, shots: int = 3, model: str = "scripted"):
    return make_learner(parse_recipe(recipe, shots=shots), setup(model)).predict([Query(NEW, TRAIN[:n])])[0]


def rngs(n: int) -> list[np.random.Generator]:
    return [generator(0, "hand", i) for i in range(n)]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6))
def test_hands_are_dealt_fairly(n_cards, k, n):
    hands = dealt(list(range(n_cards)), k, n)
    assert all(len(set(hand)) == len(hand) == min(k, n_cards) for hand in hands)
    times = [sum(card in hand for hand in hands) for card in range(n_cards)]
    assert max(times) - min(times) <= 2
    assert all(hand == sorted(hand) for hand in hands)  # the nearest, dealt first, stands last
    if n_cards >= k * n:
        assert [hand[-1] for hand in hands] == list(range(n_cards - 1, n_cards - 1 - n, -1))


def test_equal_hands_get_orders_of_their_own_as_far_as_there_are_some():
    found = different([[1, 2, 3]] * 6, rngs(6))
    assert found[0] == [1, 2, 3]
    assert len({tuple(hand) for hand in found}) == 6
    assert different([[1], [1]], rngs(2)) == [[1], [1]]


def test_the_best_of_each_set_comes_before_its_other_orders():
    hands = [[1, 2], [2, 1], [3, 4]]
    assert ranked(hands, np.array([2.0, 1.0, 3.0])) == [[2, 1], [3, 4], [1, 2]]


def test_an_order_grows_at_its_end_until_its_length_has_doubled():
    grown = [reordered(list(range(n)), generator(0, "order")) for n in range(16, 32)]
    assert all(later[: len(earlier)] == earlier for earlier, later in zip(grown, grown[1:], strict=False))
    assert sorted(grown[0]) == list(range(16)) != grown[0]


@pytest.mark.parametrize(
    "name", ["random", "random:fresh=true", "random:balanced=true", "bm25", "all-past:limit=6", "bm25-major"]
)
def test_contexts_differ_and_the_first_of_what_is_drawn_is_that_of_one(name):
    alone, several = predicted(name), predicted(f"{name}{',' if ':' in name else ':'}contexts=4")
    assert len(set(several.contexts)) == 4
    assert several.demonstrations == several.contexts[0]
    if name != "bm25-major":  # whose contexts are dealt from a longer list
        assert several.demonstrations == alone.demonstrations
        assert predicted(name + (",contexts=1" if ":" in name else ":contexts=1")) == replace(
            alone, seconds=pytest.approx(alone.seconds, abs=10), fit_seconds=pytest.approx(alone.fit_seconds, abs=10)
        )
    assert (alone.contexts, alone.disagreement) == ((), None)


def test_a_retriever_has_orders_of_the_nearest():
    nearest = predicted("bm25:k=3").demonstrations
    assert {*predicted("bm25:k=3,contexts=6").contexts} == {*permutations(nearest)}


def test_one_list_for_all_queries_is_dealt_in_turn():
    ranked = predicted("bm25-major:k=6").demonstrations[::-1]
    found = predicted("bm25-major:k=2,contexts=3").contexts
    assert found == tuple((ranked[i + 3], ranked[i]) for i in range(3))


def test_orders_of_all_the_past_continue_each_other_until_it_has_doubled():
    by_n = [predicted("all-past:contexts=3", n).contexts for n in range(8, 16)]
    for context in range(3):
        orders = [contexts[context] for contexts in by_n]
        assert all(later[: len(earlier)] == earlier for earlier, later in zip(orders, orders[1:], strict=False))
    assert by_n[0][0] == tuple(e.id for e in TRAIN[:8])


def test_a_small_past_gives_as_many_contexts_as_differ():
    found = [predicted("random:contexts=4", n) for n in (0, 1, 2, 4)]
    assert [len(p.contexts) for p in found] == [0, 0, 2, 4]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_prediction_is_the_mean_of_what_is_said_after_each_context(mean):
    recipe = parse_recipe(f"random:contexts=5,mean={mean},calibration=contextual", shots=3)
    learner = make_learner(recipe, setup("tiny"))
    queries = [Query(e, TRAIN[:20]) for e in TRAIN[20:]]
    for whole, own in zip(learner.predict(queries), learner.anew().of_each_context(queries), strict=True):
        rows = np.array([p.probs for p in own])
        expected = rows.mean(axis=0) if mean == "arithmetic" else np.exp(np.log(rows).mean(axis=0))
        assert whole.probs == pytest.approx(expected / expected.sum(), rel=1e-9)
        assert whole.answer == LABELS[int(np.argmax(whole.probs))]
        assert whole.disagreement == np.mean([p.answer != whole.answer for p in own])
        assert whole.contexts == tuple(p.demonstrations for p in own)
        assert whole.prompt_tokens == sum(p.prompt_tokens for p in own)
        assert sample_row(TASK, "", 0, NEW, whole)["disagreement"] == whole.disagreement


def test_contexts_are_scored_in_one_call_and_share_what_they_begin_with():
    tokens = {}
    for n in (1, 8):
        model = setup("tiny")
        learner = make_learner(parse_recipe(f"random:contexts={n}", shots=3), model)
        learner.predict([Query(replace(NEW, id=f"q{i}"), TRAIN) for i in range(6)])
        tokens[n] = model.model.ledger.cost.tokens
    alone = predicted("random", model="tiny")
    assert tokens[8] < 8 * 6 * alone.prompt_tokens / 2  # each context is read once for all queries


def test_the_text_of_an_open_task_is_the_most_frequent_one():
    train = tuple(replace(e, output=f"answer {i % 3}") for i, e in enumerate(TRAIN))
    task = Task("o", "generation", train, metrics=("exact_match",))
    learner = make_learner(parse_recipe("random:contexts=3", shots=2), setup(task=task))
    queries = [Query(e, train[:12], wants_text=i % 2 == 0) for i, e in enumerate(train[12:20])]
    told = []
    for whole, own in zip(
        learner.predict(queries, progress=told.append), learner.of_each_context(queries), strict=True
    ):
        texts = [p.answer for p in own]
        assert whole.answer == max(texts, key=texts.count)
        assert (whole.disagreement is None) == (whole.answer is None)
        assert whole.log_probs[0] == pytest.approx(np.logaddexp.reduce([p.log_probs[0] for p in own]) - np.log(3))
    assert sum(told) == len(queries)


@pytest.mark.parametrize("name", ["best-of-n:n=6,queries=4", "gradient-matching:candidates=6,queries=4"])
def test_selectors_that_try_several_sets_show_the_best_of_them(name):
    model = "tiny" if name.startswith("gradient") else "scripted"
    alone, several = (predicted(f"{name}{more}", 16, model=model) for more in ("", ",contexts=4"))
    assert several.contexts[0] == alone.demonstrations
    assert len(set(several.contexts)) == 4
    assert predicted(f"{name},contexts=4", 3, model=model).contexts  # where there is nothing to choose: orders


def test_a_recipe_that_trains_does_so_once():
    fitted = [
        make_learner(parse_recipe(f"icl+ft:k=2,lr=1e-3,steps=1,contexts={n}", shots=2), setup("tiny")).fit(TRAIN[:2])
        for n in (1, 3)
    ]
    assert fitted[0].trained.fingerprint == fitted[1].trained.fingerprint
    adapted = kshot.AdaptedModel(fitted[1], choice={})
    assert len(adapted.predictions([NEW.input])[0].contexts) == 2


@pytest.mark.parametrize("name", ["random:contexts=3", "bm25:contexts=2", "icv:k=2,contexts=2,strength=0.1"])
def test_what_is_saved_shows_the_same_contexts(name, tmp_path):
    model = "tiny" if name.startswith("icv") else "scripted"
    adapted = kshot.AdaptedModel.fit(parse_recipe(name, shots=2), TRAIN, setup(model), choice={})
    before = adapted.predictions([NEW.input])[0]
    adapted.save(tmp_path / "model")
    about = json.loads((tmp_path / "model/kshot.json").read_text("utf-8"))
    shared = name != "bm25:contexts=2"
    assert about["contexts"] == ([list(ids) for ids in before.contexts] if shared else [])
    assert len(adapted.pool) == (len({i for ids in before.contexts for i in ids}) if shared else len(TRAIN))
    for other in (kshot.load(tmp_path / "model"), copy.deepcopy(adapted)):
        after = other.predictions([NEW.input])[0]
        assert (after.contexts, after.probs, after.disagreement) == (
            before.contexts,
            pytest.approx(before.probs),
            before.disagreement,
        )


@pytest.mark.parametrize(
    ("contexts", "said"),
    [
        ([["e1", "nobody"]], "must have contexts only with a recipe that shows several to all queries"),
        (lambda own: [*own[:-1], ["nobody"]], "must have contexts of all the examples that are saved with it"),
        (lambda own: own[:-1], "must have contexts of all the examples that are saved with it, and of no others"),
        (lambda own: [own[0] * 2, *own[1:]], "must have no example twice in a context"),
        (lambda own: own * 100, "should have at most 256 items"),
    ],
)
def test_contexts_that_cannot_have_been_chosen_are_refused(contexts, said, tmp_path):
    adapted = kshot.AdaptedModel.fit(parse_recipe("random:contexts=3", shots=2), TRAIN, setup(), choice={})
    adapted.save(tmp_path / "model")
    file = tmp_path / "model/kshot.json"
    about = json.loads(file.read_text("utf-8"))
    about["contexts"] = contexts(about["contexts"]) if callable(contexts) else contexts
    file.write_text(json.dumps(about), "utf-8")
    write_seal(file.parent)
    with pytest.raises(UserError, match=said):
        kshot.load(file.parent)


def test_a_second_look_leaves_out_contexts_that_show_the_answer():
    recipe = parse_recipe("random:contexts=4", shots=6)
    learner, queries = second_look(recipe, setup(), Stream(TRAIN, tuple(range(24))))
    by_id = {q.example.id: p for q, p in zip(queries, learner.predict(queries), strict=True)}
    adapted = kshot.AdaptedModel.fit(recipe, TRAIN, setup(), choice={})
    contexts = adapted.fitted.contexts
    for e in TRAIN:
        honest = tuple(ids for ids in contexts if e.id not in ids)
        assert (e.id in by_id) == (len(honest) >= 2)
        if e.id in by_id:
            assert by_id[e.id].contexts == (honest if len(honest) > 1 else ())
    prompts = other_draws(parse_recipe("random:contexts=4", shots=2), setup(), Stream(TRAIN, tuple(range(24))))
    assert len(prompts) == 8
    for learner, queries in prompts:
        assert all(q.example.id not in ids for q, p in zip(queries, learner.predict(queries), strict=True)
                   for ids in p.contexts)  # fmt: skip


def test_all_holds_an_average_over_contexts_and_it_can_be_named_beside():
    for text in ("all", "all,random:contexts=8", "random:contexts=8,all"):
        names = [recipe.name for recipe in parse_recipes(text, shots=4)]
        assert names.count("random:contexts=8") == 1


@pytest.mark.parametrize(
    ("recipes", "said"),
    [
        ("random:k=1,contexts=25", "random:k=1,contexts=25: contexts must be in 1..24, as its selector has no more "
         "different choices among 24 examples; got 25. Name fewer contexts."),
        ("bm25:k=2,contexts=3", "contexts must be in 1..2, as its selector has no more different choices"),
        ("all-past:limit=3,contexts=7", "contexts must be in 1..6, as its selector has no more different choices"),
        ("best-of-n:n=4,contexts=5", "contexts must be in 1..4, as its selector has no more different choices"),
        ("gradient-matching:candidates=6,contexts=4/8", "contexts must be in 1..6, as its selector has no more"),
        ("average(random:k=1,contexts=25,zero-shot)", "contexts must be in 1..24, as its selector has no more"),
        ("random:contexts=0", "random:contexts=0: contexts must be a whole number, 1 or more; got '0'."),
        ("random:contexts=257", "contexts must be a whole number, 256 or less; got '257'."),
        ("random:contexts=two", "contexts must be a whole number, 1 or more; got 'two'."),
        ("random:contexts=2,mean=median", "mean must be one of arithmetic, geometric; got 'median'."),
        ("zero-shot:contexts=2", "zero-shot:contexts=2: contexts are sets of demonstrations, and this recipe sh"),
        ("fine-tune:lr=1e-3,contexts=2", "contexts are sets of demonstrations, and this recipe shows none."),
        ("icv:contexts=2", "contexts are sets of demonstrations, and this recipe shows none. Give it k"),
        ("majority:contexts=2", "'majority' has no setting 'contexts'."),
    ],
)  # fmt: skip
def test_contexts_that_cannot_be_are_refused_before_a_model_is_loaded(recipes, said, tmp_path):
    with pytest.raises(UserError) as error:
        kshot.adapt(TASK, "no-such-model", recipes=recipes, shots=4, out=tmp_path / "run")
    assert said in str(error.value)


def test_a_choice_for_one_prompt_has_one_context():
    with pytest.raises(UserError, match="--selector must choose for one prompt; got contexts=2"):
        kshot.select(TASK, "random:contexts=2", 3)


def test_a_run_tells_of_its_contexts(tmp_path, run_cli):
    kshot.adapt(TASK, "scripted", recipes="random:contexts=3", shots=3, out=tmp_path / "run")
    record = read_record(tmp_path / "run")
    rows, prompts = record["rows"]["random:contexts=3"], record["prompts"]
    before: dict[int, list[int]] = {}
    model, by_id = setup().model, {e.id: e for e in TRAIN}
    for row, first, others in zip(rows, prompts["rows"][row_name(rows)], prompts["more"][row_name(rows)], strict=True):
        for n, ((same, *new), ids) in enumerate(
            zip([first, *others], row["contexts"] or [row["demonstrations"]], strict=True)
        ):
            before[n] = [*before.get(n, [])[:same], *new]
            sent = model.prompt([by_id[i] for i in ids], by_id[row["example_id"]])[0]
            assert [tuple(prompts["segments"][i]) for i in before[n]] == [(s.role, s.text) for s in sent.segments]
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "It has 3 contexts" in page
    assert "Context 3</h3>" in page
    assert "of them answer otherwise than all together" in page
    (tmp_path / "inputs.txt").write_text("a row of words\n", "utf-8")
    (answer,) = run_cli("predict", tmp_path / "run", tmp_path / "inputs.txt", "--json").json["predictions"]
    assert 0 <= answer["disagreement"] < 1


def row_name(rows):
    return rows[0]["recipe"]
