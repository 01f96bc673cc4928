"""Function classes that are listed: what is known after examples, what teaches a function, and regret."""

from itertools import combinations

import numpy as np
import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Question
from kshot.studies import STUDIES
from kshot.studies.regret import best_set, regret
from kshot.tasks.boolean_functions import (
    BOOLEAN_CLASSES,
    boolean_class,
    conjunction_teaching,
    cube,
    dnf_teaching,
    place,
    satisfied,
)
from kshot.tasks.function_classes import completed
from kshot.tasks.integer_functions import INTEGER_CLASSES, integer_class, mean_weights

TAUGHT = ("conjunction", "monotone-conjunction", "disjunction", "sparse-disjunction", "dnf", "parity",
          "nearest-neighbour")  # fmt: skip


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def literals_of(d: int, signs: tuple[int, ...]) -> np.ndarray:
    return np.array([row for row in np.array(np.meshgrid(*[signs] * d)).reshape(d, -1).T if row.any()], dtype=np.int8)


# Teaching


@pytest.mark.parametrize(("monotone", "n"), [(True, 63), (False, 728)])
def test_teaching_points_single_out_every_conjunction_of_six_variables(monotone, n):
    literals = literals_of(6, (0, 1) if monotone else (0, 1, -1))
    tables = satisfied(literals, 6)
    assert len(literals) == n
    for row, table in zip(literals, tables, strict=True):
        points = list(conjunction_teaching(row, monotone=monotone))
        k = int(np.abs(row).sum())
        assert len(points) == k + (1 if monotone or k == 6 else 2)
        assert (tables[:, points] == table[points]).all(axis=1).sum() == 1


@pytest.mark.parametrize("monotone", [True, False])
def test_no_fewer_points_single_out_a_conjunction_of_three_variables(monotone):
    literals = literals_of(3, (0, 1) if monotone else (0, 1, -1))
    tables = satisfied(literals, 3)

    def teaches(points: tuple[int, ...], table: np.ndarray) -> bool:
        return (tables[:, points] == table[list(points)]).all(axis=1).sum() == 1

    for row, table in zip(literals, tables, strict=True):
        sizes = (n for n in range(9) if any(teaches(c, table) for c in combinations(range(8), n)))
        k, n = int(np.abs(row).sum()), len(conjunction_teaching(row, monotone=monotone))
        spare = k == 1 or (monotone and k == 3)  # no conjunction is empty, and nothing can be added to one of all
        assert next(sizes) == n - spare


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize("d", [5, 6])
def test_teaching_points_leave_one_function(name, d):
    functions = boolean_class(name, d)
    some = rng(d).permutation(len(functions.prior))[:60]
    for i in map(int, some):
        points = functions.teaching(i)
        assert functions.possible(points, functions.tables[i, list(points)]).nonzero()[0].tolist() == [i]


@pytest.mark.parametrize("name", INTEGER_CLASSES)
@pytest.mark.parametrize("d", [2, 3])
def test_points_that_teach_linear_functions_are_the_fewest(name, d):
    functions = integer_class(name, d)
    for i, row in enumerate(functions.tables):
        points = functions.teaching(i)
        assert len(points) <= d
        assert functions.possible(points, row[list(points)]).sum() == 1
        fewer = combinations(range(len(row)), len(points) - 1)
        if i % 5 == 0:
            assert all(functions.possible(c, row[list(c)]).sum() > 1 for c in fewer)


def test_each_term_of_a_dnf_is_taught_where_it_alone_holds():
    terms = np.array([[1, 1, 0, 0, 0, 0], [0, 0, -1, 1, 0, 0], [0, 0, 0, 0, 1, -1]], dtype=np.int8)
    holds = satisfied(terms, 6)
    points = list(dnf_teaching(terms, 6))
    assert len(points) <= 3 * 4
    assert (holds.sum(axis=0)[points] <= 1).all()
    assert all((own[points] == 1).sum() >= 2 for own in holds)


def test_points_are_completed_by_those_that_rule_out_most_and_not_beyond_a_number():
    tables = boolean_class("parity", 4).tables
    found = list(completed(tables, 3, ()))
    assert (tables[:, found] == tables[3, found]).all(axis=1).sum() == 1
    assert len(found) in (3, 4)  # each point rules out half of the sixteen, of which the empty one is out
    assert completed(tables, 3, (), most=2) is None


# What is known


@pytest.mark.parametrize("name", BOOLEAN_CLASSES)
def test_a_posterior_is_the_share_of_the_functions_still_possible(name):
    functions = boolean_class(name, 4 if name != "sparse-disjunction" else 5)
    assert functions.prior.sum() == pytest.approx(1)
    assert len(np.unique(functions.tables, axis=0)) == len(functions.tables)
    truth, points = rng(1).integers(len(functions.prior)), [0, 3, 5]
    outputs = functions.tables[truth, points].tolist()
    found = functions.predictive(functions.posterior(points, outputs), range(len(functions.inputs)))
    live = [i for i, row in enumerate(functions.tables) if all(row[p] == o for p, o in zip(points, outputs))]  # noqa: B905
    weight = functions.prior[live].sum()
    by_hand = [sum(functions.prior[i] for i in live if functions.tables[i, x]) / weight for x in range(len(found))]
    assert found[:, 1] == pytest.approx(by_hand, abs=1e-12)
    assert found[points, outputs] == pytest.approx(1)


def test_classes_say_what_their_names_say():
    on = lambda name, d, text, point: boolean_class(name, d).tables[:, place(point)]  # noqa: E731
    assert boolean_class("conjunction", 6).tables.shape == (728, 64)
    assert boolean_class("monotone-conjunction", 6).tables.shape == (63, 64)
    assert (boolean_class("monotone-conjunction", 4).tables[:, -1] == 1).all()
    assert (boolean_class("disjunction", 4).tables.mean(axis=1) >= 0.5).all()
    assert boolean_class("parity", 5).tables.shape == (31, 32)
    assert (boolean_class("parity", 5).tables.mean(axis=1) == 0.5).all()
    assert boolean_class("sparse-parity", 5).tables.shape == (10, 32)
    assert (on("majority", 5, "", [1] * 5) == 1).all()
    assert not on("majority", 5, "", [0] * 5).any()
    halfspaces = boolean_class("halfspace", 3)
    first = np.array([p[0] for p in cube(3).tolist()], dtype=np.int8)
    assert (halfspaces.tables == first).all(axis=1).any()  # weights 1, 0, 0
    assert not (halfspaces.tables == boolean_class("parity", 3).tables[-1]).all(axis=1).any()
    n_true = boolean_class("sparse-threshold", 3).tables.sum(axis=1)
    assert set(n_true.tolist()) == {1, 4, 7}  # all of three, two of three, one of three


def test_a_mixture_is_told_apart_by_one_number():
    functions = integer_class("mixture", 4)
    point = functions.places["1 0 0 0"]
    value = functions.labels.index("4")
    weights = functions.posterior([point], [value])
    assert mean_weights(functions, weights)[point] == pytest.approx(4)
    assert mean_weights(functions, functions.prior)[point] == pytest.approx(0)
    assert weights.astype(bool).sum() == 27


# Tasks


@pytest.mark.parametrize("name", ["boolean(of=dnf,d=5)", "boolean(of=parity)", "boolean(d=8)", "prism(of=dense)",
                                  "boolean(of=monotone-conjunction)", "prism"])  # fmt: skip
def test_the_best_demonstrations_of_a_task_are_known_and_leave_no_doubt(name):
    family = STUDIES.build(name)
    for seed in range(4):
        task = family.sample(24, rng=rng(seed))
        rows = [*task.train, *task.test]
        assert len({e.input for e in rows}) == len(rows) == len(family.functions.inputs)
        best = best_set(family, task)
        assert set(best) <= set(task.train)
        assert all(family.best(task, best, e.question).max() > 1 - 1e-9 for e in task.test[:8])
        found = regret(family, task, [best])
        assert (found.bits, found.accuracy, found.found) == (0, 0, 1)
        drawn = [task.train[i] for i in rng(seed, 1).permutation(24)[: len(best)]]
        worse = regret(family, task, [drawn])
        assert worse.bits > 0 or set(drawn) == set(best) or worse.accuracy == 0
        nothing = regret(family, task, [()])
        assert nothing.bits >= worse.bits - 0.5
        assert nothing.n_shown == 0


def test_random_demonstrations_cost_bits_and_accuracy():
    family = STUDIES.build("boolean(of=conjunction)")
    found = []
    for seed in range(12):
        task = family.sample(32, rng=rng(seed))
        k = len(best_set(family, task))
        found.append(regret(family, task, [[task.train[i] for i in rng(seed, 1).permutation(32)[:k]]]))
    assert np.mean([r.bits for r in found]) > 0.1
    assert np.mean([r.accuracy for r in found]) > 0.02


def test_regret_of_a_choice_for_each_question_is_the_mean_over_them():
    family = STUDIES.build("boolean(of=parity,d=4)")
    task = family.sample(12, rng=rng(0))
    best = best_set(family, task)
    each = [best if i % 2 else () for i in range(len(task.test))]
    found = regret(family, task, each)
    assert found.n_shown == pytest.approx(2)
    assert found.bits == pytest.approx(
        regret(family, task, [()]).bits * np.mean([not i % 2 for i in range(4)]), rel=0.1
    )


def test_a_built_in_task_is_the_first_of_its_study():
    task = kshot.Task.load("builtin:boolean(of=disjunction,d=5,n=20,seed=3)")
    assert (
        task.fingerprint
        == STUDIES.build("boolean(of=disjunction,d=5)").sample(20, rng=generator(3, "study", 0)).fingerprint
    )
    assert (len(task.train), len(task.test)) == (20, 12)
    assert set(task.train[0].input) <= set("01 ")
    mixed = kshot.Task.load("builtin:prism")
    assert {"3", "-3"} <= set(mixed.labels)


def test_recipes_are_held_against_the_posterior(run_cli):
    rows = run_cli("study", "boolean(of=parity,d=5)", "--model", "scripted", "--recipes", "majority", "-n", 24,
                   "--tasks", 2, "--json").json["rows"]  # fmt: skip
    assert rows[0]["recipe"] == "best possible"
    assert rows[0]["late_bits"] < 0.1 < 0.8 < rows[1]["late_bits"]


def test_made_up_tasks_are_adapted_to_and_selected_from(run_cli, tmp_path):
    run_cli("adapt", "builtin:boolean(d=5,n=16)", "--model", "scripted", "--recipes", "random", "--shots", 2, "--out",
            tmp_path / "run")  # fmt: skip
    found = run_cli("evaluate", tmp_path / "run", "builtin:boolean(d=5,n=16)", "--json").json
    assert found["n"] == 16


# What cannot be asked


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("boolean(of=xor)", "builtin:boolean:of must be one of conjunction, .*; got 'xor'"),
        ("boolean(d=9)", r"d must be in 3\.\.8 for conjunction, whose functions are listed; got 9\. Take another d"),
        ("boolean(of=halfspace,d=7)", r"d must be in 3\.\.6 for halfspace"),
        ("boolean(of=sparse-disjunction,d=4)", r"d must be in 5\.\.8 for sparse-disjunction"),
        ("boolean(d=4,n=17)", r"n must be in 2\.\.16, the number of different inputs of conjunction of 4 .*; got 17"),
        ("boolean(n=1)", r"n must be in 2\.\.64, .*; got 1\. Ask for fewer examples, or take a larger d"),
        ("boolean(k=3)", "'builtin:boolean' has no setting 'k'"),
        ("boolean(parity)", r"there is no builtin task 'boolean\(parity\)'"),
        ("prism(of=fourier)", "builtin:prism:of must be one of dense, sparse, sign, mixture; got 'fourier'"),
        ("prism(d=5)", r"d must be in 2\.\.4 for mixture, whose functions are listed; got 5"),
    ],
)
def test_a_task_that_cannot_be_made_says_what_must_hold(source, message):
    with pytest.raises(UserError, match=message):
        kshot.Task.load(f"builtin:{source}")


def test_a_study_that_cannot_be_made_says_so_before_a_model_is_loaded(run_cli):
    with pytest.raises(UserError, match="boolean:of must be one of"):
        STUDIES.build("boolean(of=xor)")
    with pytest.raises(UserError, match=r"d must be in 3\.\.6 for halfspace"):
        STUDIES.build("boolean(of=halfspace,d=8)")
    with pytest.raises(UserError, match=r"boolean:d must be 3 or more; got 2"):
        STUDIES.build("boolean(d=2)")


def test_regret_needs_a_known_best_set():
    for name in ("boolean(of=majority)", "label-frequencies", "boolean(of=parity)"):
        family = STUDIES.build(name)
        task = family.sample(8, rng=rng(0))  # too few rows for the six points that teach a parity
        with pytest.raises(UserError, match="best demonstrations must be known to measure regret; they are not for"):
            regret(family, task, [task.train[:2]])


def test_examples_of_no_function_of_the_class_are_refused():
    functions = boolean_class("monotone-conjunction", 4)
    with pytest.raises(UserError, match="Examples must be those of a function of the class monotone-conjunction of 4"):
        functions.posterior([place([1, 1, 1, 1])], [0])
    examples = [kshot.Example("1 1 1 1", "no", "a")]
    with pytest.raises(UserError, match="none says them all"):
        functions.told(examples, [Question("0 0 0 0", "b")])
