"""Networks that learn functions from their context: what they are held against, and what came out of training some."""

import numpy as np
import pytest
import torch

from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.studies import EXPERIMENTS
from kshot.studies.boolean_networks import draw, learnt, tokens
from kshot.studies.interleaved import interleaved
from kshot.studies.prism_networks import PrismNetworks
from kshot.studies.regression_families import FAMILIES, Normal, along, family
from kshot.tasks.boolean_functions import boolean_class, cube
from kshot.verbs.train_networks import experiment

NOISE = 0.5


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# Sequences of Boolean functions


def test_points_are_all_different_and_those_that_teach_come_first():
    functions = boolean_class("conjunction", 5)
    for teach in (False, True):
        found = draw(functions, 64, 12, teach=teach, rng=rng(0))
        assert all(len(set(row)) == 12 for row in found.points.tolist())
        assert (found.outputs == functions.tables[found.functions[:, None], found.points]).all()
        assert (found.taught > 0).all() == teach
    for function, points, n in zip(found.functions, found.points, found.taught, strict=True):
        assert tuple(points[:n]) == functions.teaching(int(function))


def test_more_positive_points_are_drawn_than_there_are():
    functions = boolean_class("conjunction", 6)
    found = draw(functions, 400, 16, teach=False, rng=rng(0))
    there = functions.tables[found.functions].mean()
    assert there + 0.1 < found.outputs.mean() < there + 0.4


def test_an_output_stands_after_its_input_in_a_place_apart():
    found = draw(boolean_class("parity", 3), 2, 4, teach=False, rng=rng(0))
    x = tokens(found, 3).numpy()
    assert x.shape == (2, 8, 4)
    assert (x[:, 0::2, :3] == 2 * cube(3)[found.points] - 1).all()
    assert (x[:, 1::2, 3] == 2 * found.outputs - 1).all()
    assert not x[:, 0::2, 3].any()
    assert not x[:, 1::2, :3].any()
    assert interleaved(np.ones((1, 2, 3)), np.ones((1, 2))).dtype == torch.float32


def test_simple_learners_are_as_their_formulas_say():
    functions = boolean_class("conjunction", 5)
    found = draw(functions, 200, 16, teach=False, rng=rng(1))
    right = {name: np.array(values) for name, values in learnt(functions, found, 5).items()}
    assert right["always no"] == pytest.approx(1 - found.outputs.mean(axis=0))
    best = right["elimination learner"]
    for name, values in right.items():
        assert best.mean() >= values.mean(), name
    assert best[12:].mean() > 0.93
    x, y = 2.0 * cube(5)[found.points] - 1, 2.0 * found.outputs - 1
    near = np.einsum("nd,ntd->nt", x[:, 9], x[:, :9])
    said = [row[score == score.max()].mean() for row, score in zip(y[:, :9], near, strict=True)]
    expected = np.where(np.abs(said) < 1e-9, 0.5, np.sign(said) == y[:, 9]).mean()
    assert right["nearest neighbour"][9] == pytest.approx(expected)


def test_points_that_teach_leave_the_elimination_learner_no_doubt():
    functions = boolean_class("conjunction", 5)
    found = draw(functions, 100, 12, teach=True, rng=rng(0))
    right = np.array(learnt(functions, found, 5)["elimination learner"])
    assert right[found.taught.max() :] == pytest.approx(1)
    taught_parity = draw(boolean_class("parity", 5), 100, 12, teach=True, rng=rng(0))
    parities = learnt(boolean_class("parity", 5), taught_parity, 5)
    assert parities["elimination learner"][5:] == [1.0] * 7
    assert np.mean(parities["nearest neighbour"][5:]) < 0.75


# Families of functions of numbers


def test_ridge_is_the_formula():
    d, prior = 4, Normal(np.zeros(4), np.ones(4), NOISE)
    x, y, asked = rng(0).standard_normal((3, 6, d)), rng(1).standard_normal((3, 6)), rng(2).standard_normal((3, d))
    found = prior.told(x, y, asked)
    for i in range(3):
        w = np.linalg.solve(x[i].T @ x[i] + NOISE**2 * np.eye(d), x[i].T @ y[i])
        assert found[i] == pytest.approx(asked[i] @ w)
    assert prior.told(x[:, :0], y[:, :0], asked) == pytest.approx(0)


def _by_sampling(name: str, d: int, x, y, asked) -> float:
    """Return the posterior mean from many functions of the family, weighed by how probable each makes the points."""
    functions = family(name, d, NOISE)
    w = functions.prior.weights(400_000, rng=rng(9))
    logs = -((w @ functions.features(x).T - y) ** 2).sum(axis=1) / (2 * NOISE**2)
    weights = np.exp(logs - logs.max())
    return float(weights @ (w @ functions.features(asked)) / weights.sum())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_posterior_is_what_sampling_gives(name):
    functions = family(name, 3 if name != "fourier" else 1, NOISE)
    x, y, _ = functions.draw(1, 4, rng=rng(3))
    for n in (0, 1, 3):
        found = functions.predictors()["posterior"](x[:, :n], y[:, :n], x[:, 3])[0]
        d = 1 if name == "fourier" else 3
        assert found == pytest.approx(_by_sampling(name, d, x[0, :n], y[0, :n], x[0, 3]), abs=0.06)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_other_predictor_is_better_than_the_posterior(name):
    functions = family(name, 4, NOISE)
    x, y, clean = functions.draw(2000, 8, rng=rng(0))
    errors = {who: ((along(x, y, p) - clean) ** 2).mean(axis=0) for who, p in functions.predictors().items()}
    for who, values in errors.items():
        assert (errors["posterior"] <= values * 1.05 + 1e-9).all(), who
    assert errors["posterior"][7] < 0.75 * errors["posterior"][0]


def test_one_point_says_which_component_it_was():
    functions = family("mixture", 5, NOISE)
    x, y = np.array([[[2.0, 0, 0, 0, 0]]]), np.array([[6.0]])
    asked = np.array([[1.0, 0, 0, 0, 0]])
    told = {who: float(p(x, y, asked)[0]) for who, p in functions.predictors().items()}
    assert told["posterior"] == pytest.approx(told["first component"], abs=1e-3)
    assert told["first component"] == pytest.approx(3.0, abs=0.1)
    assert abs(told["second component"] - 3) > 0.1
    assert functions.predictors()["posterior"](x[:, :0], y[:, :0], asked)[0] == pytest.approx(0)


# Training


SMALL = "width=16,layers=1,heads=2,batch=8"


def test_the_study_boolean_trains_and_tells_what_came_out(tmp_path):
    done = experiment(f"boolean(d=4,length=8,{SMALL})", out=tmp_path / "study", minutes=0.003)
    assert [plot.title for plot in done.findings.plots][2] == "Parities"
    names = {row[1] for row in done.findings.table}
    assert {"decoder", "lstm", "elimination learner", "least squares"} <= names
    assert len(done.findings.claims) == 7
    held = {claim.sentence: claim for claim in done.findings.claims}
    assert not held["After the points that teach, the next point is right"].holds  # nothing is learnt in a few steps
    again = experiment(f"boolean(d=4,length=8,{SMALL})", out=tmp_path / "study", minutes=0.003)
    assert again.findings == done.findings
    assert (tmp_path / "study" / "study.html").stat().st_size > 1000


def test_the_study_prism_trains_and_tells_what_came_out(tmp_path):
    name = f"prism(families=dense/mixture/fourier,d=2,length=6,{SMALL})"
    done = experiment(name, out=tmp_path / "study", minutes=0.003)
    assert len(done.findings.plots) == 3
    posterior = {row[0]: row for row in done.findings.table if row[1] == "posterior"}
    assert posterior["dense"][2] > posterior["dense"][4] > posterior["dense"][5]
    assert sum("component" in claim.sentence for claim in done.findings.claims) == 4


def test_a_cell_is_the_same_with_the_same_seed():
    made = PrismNetworks(d=2, length=6, width=16, layers=1, heads=2, batch=8)
    (cell, *_) = made.cells()
    rows = [made.run(cell, rng=generator(3, "a"), progress=Silence(), scale=5 / cell.steps) for _ in range(2)]
    assert rows[0] == rows[1]


def test_names_of_both_kinds_are_tasks_where_a_model_is_asked(run_cli):
    out = run_cli("study", "prism(of=sign,d=3)", "--model", "scripted", "--recipes", "majority", "-n", 12, "--tasks", 1)
    assert "above the best" in out.out
    failed = run_cli("study", "boolean", "--recipes", "majority")
    assert "--model must be given" in failed.err


def test_short_sequences_hold_the_points_that_teach_some_functions(tmp_path):
    found = experiment(f"boolean(d=4,length=5,{SMALL})", out=tmp_path / "study", minutes=0.003).findings
    assert "After the points that teach, the next point is right" in [claim.sentence for claim in found.claims]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boolean(easy=xor)", "boolean:easy must be one of conjunction"),
        ("boolean(easy=majority)", "boolean:easy must be a class whose teaching points are known; of 'majority'"),
        ("boolean(d=2)", "boolean:d must be 3 or more; got 2"),
        ("boolean(easy=sparse-disjunction,d=4)", r"d must be in 5\.\.8 for sparse-disjunction"),
        ("boolean(d=3,length=9)", "boolean:length must be at most 8, the number of different inputs; got 9"),
        ("boolean(length=4)", "boolean:length must be 5 or more; got 4"),
        ("boolean(heads=5)", "boolean:heads must divide width=64; got 5"),
        ("prism(families=dense/haar)", "prism:families must be of dense, sparse, sign, mixture, fourier; got 'haar'"),
        ("prism(families=dense/dense)", "prism:families must name each once; got 'dense/dense'"),
        ("prism(length=10)", "prism:length must be more than 2 d = 10, as errors are compared there; got 10"),
        ("prism(noise=0)", "prism:noise must be greater than 0"),
        ("prism(d=13)", "prism:d must be in 2..12"),
    ],
)
def test_settings_that_cannot_be_say_what_must_hold(text, message):
    with pytest.raises(UserError, match=message):
        EXPERIMENTS.build(text)


@pytest.mark.slow
def test_conjunctions_are_learnt_parities_are_not_and_points_that_teach_suffice(tmp_path):
    done = experiment("boolean", out=tmp_path / "study", workers=2)
    assert [claim.sentence for claim in done.findings.claims if not claim.holds] == []


@pytest.mark.slow
def test_networks_come_near_ridge_and_the_posterior_of_a_mixture(tmp_path):
    done = experiment("prism", out=tmp_path / "study", workers=2)
    assert [claim.sentence for claim in done.findings.claims if not claim.holds] == []
