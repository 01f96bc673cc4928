"""The scripts behind the numbers in docs/results keep up with the package."""

import json
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from conftest import write_task
from kshot.core.types import Example

FOLDER = Path(__file__).parent.parent / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py"))
LABELS = ("up", "down")


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script of `benchmarks/`."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for name in NAMES:  # what a test imports is not there for the next one
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    return import_module


@pytest.fixture
def data(tmp_path, monkeypatch) -> str:
    """Return a folder with one small task; what scripts write goes to another folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "classification" / "sst2"
    folder.mkdir(parents=True)
    about = {"name": "sst2", "kind": "classification", "labels": LABELS, "metrics": ["accuracy"]}
    (folder / "task.json").write_text(json.dumps(about), "utf-8")
    for part, n in (("train", 24), ("test", 4)):
        rows = [{"id": f"{part}-{i}", "input": f"row {i} of {part}", "output": LABELS[i % 2]} for i in range(n)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(tmp_path / "data")


@pytest.mark.parametrize("name", NAMES)
def test_script_imports(script, monkeypatch, name):
    for wanted, what in (("lm_eval.api.instance", "Instance"), ("lm_eval.models.huggingface", "HFLM")):
        absent = ModuleType(wanted)  # it is in an environment of its own
        setattr(absent, what, object)
        monkeypatch.setitem(sys.modules, wanted, absent)
    assert script(name).__doc__


def test_results_do_not_say_where_files_are():
    for file in (FOLDER.parent / "docs" / "results").glob("*.[jm][sd]*"):
        assert "site-packages" not in file.read_text("utf-8"), file


def test_an_interrupt_ends_the_units_that_run(script, tmp_path):
    rows, python = script("rows"), [sys.executable, "-c"]
    quick, slow = tmp_path / "quick", tmp_path / "slow"
    mark = "import pathlib, sys, time; time.sleep(float(sys.argv[2])); pathlib.Path(sys.argv[1]).touch()"

    def interrupted():
        raise KeyboardInterrupt

    commands = [(file, [*python, mark, str(file), seconds]) for file, seconds in ((quick, "0"), (slow, "60"))]
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        rows.run_units(commands, budget_s=100, done=interrupted, workers=2)
    assert time.monotonic() - began < 30
    assert quick.exists()
    assert not slow.exists()


@pytest.mark.parametrize(
    "name",
    ["weights", "selection", "choice", "compose", "spectrum", "optimum", "suites", "distil", "generate", "loops"],
)
def test_page_is_as_committed(script, name):
    results = FOLDER.parent / "docs" / "results"
    found = json.loads((results / f"{name}.json").read_text("utf-8"))
    assert script(f"{name}_page").page(found) == (results / f"{name}.md").read_text("utf-8")


def test_weights_measures_training(script, data, monkeypatch):
    weights = script("weights")
    monkeypatch.setattr(weights, "RETRIEVERS", ("bm25",))
    trained = "icl+ft:lr=1e-4,steps=1"
    unit = weights.Unit("1-first", "classification/sst2", "icl+ft", (trained,), 0, 6)
    rows = weights.measure(unit, data, "tiny")
    assert [row["recipe"] for row in rows] == [trained, f"{trained},selector=bm25"]
    assert all(row["n_test"] == 4 and len(row["scores"]) == 4 for row in rows)
    assert rows[0]["supervised_tokens"] > 0


def test_spectrum_measures_processes_and_tasks_that_were_not_trained_on(script, data, monkeypatch):
    spectrum, page = script("spectrum"), script("spectrum_page")
    for name, value in (("STEPS", 1), ("N_URNS", 2), ("N_PEOPLE", 1), ("N_DRAWN", 3), ("SHOWN", 2)):
        monkeypatch.setattr(spectrum, name, value)
    for name in ("SOURCES", "TASKS"):
        monkeypatch.setattr(spectrum, name, ("classification/sst2",))
    units = [spectrum.Unit(layer, method, 0) for layer, method in UNITS]
    rows = [{"layer": u.layer, **row} for u in units for row in spectrum.measure(u, data, "tiny")]
    assert [row.get("k") for row in rows] == [None, None, 0, 2, 0, 2]
    found = page.summary(rows)
    assert found["urns"]["base"]["uniform_bits"] == found["urns"]["outputs"]["uniform_bits"]
    assert found["urns"]["base"]["divergence_bits"] != found["urns"]["outputs"]["divergence_bits"]
    assert set(found["linked"]["k=2"]["tasks"]) == {"classification/sst2"}
    said = page.page({"summary": found, "done": 4, "planned": 9})
    assert "- linked - base: " in said
    assert "of the divergence (the bar is 0.50)" in said


def test_generate_measures_what_was_made_against_none_and_real_ones(script, data, monkeypatch, tmp_path):
    generate, page = script("generate"), script("generate_page")
    for name, value in {"TASKS": ("classification/sst2",), "MAKERS": ("word-edits",), "RECIPES": RECIPES}.items():
        monkeypatch.setattr(generate, name, value)
    monkeypatch.chdir(tmp_path)
    unit = generate.planned()[0]
    rows = [{"layer": unit.layer, "unit": unit.name, **row} for row in generate.measure(unit, data, "scripted")]
    assert [(row["layer"], row["maker"], row["n_known"]) for row in rows] == [
        (f"10-{name}", maker, n) for name in RECIPES for maker, n in (("word-edits", 10), ("none", 10), ("real", 20))
    ]
    assert rows[0]["made"] + rows[0]["rejected"] > 0
    found = {(row["layer"], row["maker"]): row for row in page.summary(rows)}
    assert found["10-prompt", "none"]["gap"] is None
    made = found["10-prompt", "word-edits"]
    assert made["added"] == [int(rows[0]["chosen"]), 1]
    better = rows[0]["metric"] - rows[1]["metric"]
    assert made["right"] == ([int(rows[0]["chosen"] == (better > 0)), 1] if better else [0, 0])
    said = page.page({"summary": list(found.values()), "done": 1, "planned": 9})
    assert "## 10 examples, prompt" in said
    assert "| word-edits | 1 | 1 |" in said


def test_loops_are_measured_beside_none(script, data, monkeypatch):
    loops, page = script("loops"), script("loops_page")
    for name, value in {"TASKS": ("classification/sst2",), "LOOPS": ("refine(calls=100)",), "N": 12}.items():
        monkeypatch.setattr(loops, name, value)
    units = [unit for unit in loops.planned() if unit.seed == 0]
    rows = [{"layer": unit.layer, **row} for unit in units for row in loops.measure(unit, data, "scripted")]
    assert [(row["base"], row["loop"]) for row in rows] == [
        (base, loop) for loop in ("none", "refine(calls=100)") for base in ("zero-shot", "all-past")
    ]
    found = page.summary(rows)
    assert [row["gap"] is None for row in found] == [True, True, False, False]
    said = page.page({"summary": found, "done": 2, "planned": 9})
    assert "## classification/sst2, zero-shot" in said
    assert "- `refine(calls=100)`: rounds: " in said


RECIPES = {"prompt": "all-past", "looked up": "bm25:k=4"}
UNITS = (("urns", "base"), ("urns", "outputs"), ("linked", "base"), ("linked", "linked"))


def test_optimum_measures_regret_and_says_what_does_not_suit(script, monkeypatch):
    optimum, page = script("optimum"), script("optimum_page")
    monkeypatch.setattr(optimum, "CLASSES", ("boolean(of=parity,d=4)", "prism(of=sign,d=3)"))
    monkeypatch.setattr(optimum, "N", 12)
    monkeypatch.setattr(optimum, "FEWER", dict.fromkeys(optimum.FEWER, ("random", 1, 1)))
    names = [unit.name for unit in optimum.planned()]
    assert len(names) == len(optimum.SELECTORS) + 1 + len(optimum.ASKED)
    units = [optimum.Unit("choice", name, 2, 2) for name in (page.BEST, "random", "all-past", "bm25", "skills")]
    rows = [{"layer": u.layer, **row} for u in units for row in optimum.measure(u, "", "scripted")]
    found = {row["selector"]: row for row in page.summary(rows)}
    assert found[page.BEST]["regret_bits"] == found["all-past"]["regret_bits"] == 0
    assert found[page.BEST]["found"] == 1
    assert found["random"]["regret_bits"] > 0
    assert found["random"]["n_shown"] == found["random"]["k"]
    assert found["all-past"]["n_shown"] == 12
    assert "must have meta.skills" in found["skills"]["why"]
    said = page.page({"summary": list(found.values()), "done": 5, "planned": 9})
    assert "- `skills`: its examples must have" in said
    assert "| `random` | 2 |" in said


def test_a_benchmark_that_makes_its_own_tasks_takes_no_data(run_cli, tmp_path):
    failed = run_cli("bench", "optimum", "--data", tmp_path)
    assert failed.code == 2
    assert "--data must be left out for the benchmark 'optimum', which makes its own tasks; got" in failed.err
    failed = run_cli("bench", "distil")
    assert "--data must be a folder with tasks; got None" in failed.err
    for flag, value in (("--data", tmp_path), ("--budget", "1m")):
        failed = run_cli("bench", "scoring", flag, value)
        assert (failed.code, failed.out) == (2, "")
        assert f"{flag} must be left out for the benchmark 'scoring', which" in failed.err


def test_choice_measures_stream_folds_and_test_rows(script, data, monkeypatch):
    choice = script("choice")
    monkeypatch.setitem(choice.RECIPES, "cheap", ("majority", "random"))
    unit = choice.Unit("1-first", "classification/sst2", "cheap", 0)
    classifier, prompt = choice.measure(unit, data, "tiny")
    assert len(prompt["stream"]["scores"]) == prompt["n"] == 24
    assert [len(fold["scores"]) for fold in prompt["folds"]] == [4, 5, 5, 5, 5]
    assert len(classifier["test"]["bits"]) == len(prompt["test"]["bits"]) == 4


def test_one_recording_serves_two_ways_to_choose_what_is_predicted(script, data, monkeypatch):
    choice, page, rules = script("choice"), script("choice_page"), script("choice_rules")
    monkeypatch.setitem(choice.RECIPES, "cheap", ("majority", "all-past", "zero-shot"))
    monkeypatch.setitem(choice.LAYERS, "4-spread-400", choice.Layer(0, ("cheap",), n=20, limit=6))
    rows = choice.measure(choice.Unit("4-spread-400", "classification/sst2", "cheap", 0), data, "tiny")
    assert rows[0]["positions"] == (0, 1, 2, 3, 4, 5, 8, 12, 15, 19)
    first, spread = (rules.at_places({r["recipe"]: r for r in rows}, at) for at in (range(6), choice.spread(20, 6)))
    assert first["all-past"]["positions"] == [0, 1, 2, 3, 4, 5]
    assert spread["all-past"]["positions"] == [2, 5, 8, 12, 15, 19]
    assert len(spread["all-past"]["stream"]["log_probs"]) == len(spread["all-past"]["tokens"]) == 6
    monkeypatch.setattr(page, "NEEDED", ("all-past",))
    assert page.streams(rows, ("all-past",)).keys() == {("20", "classification/sst2", 0)}


def recorded(rules, name, right, *, tokens=10, n=40):
    """Return the row of a recipe that is right on a share of the rows, and as sure when it is wrong."""
    ends = [[0.0, -2.0] if i / n < right else [-2.0, 0.0] for i in range(n)]
    ends = [ends[(7 * i) % n] for i in range(n)]
    some = {
        "scores": [float(row[0] > row[1]) for row in ends],
        "bits": [0.2 if row[0] > row[1] else 3.0 for row in ends],
        "gold": [0] * n,
        "log_probs": ends,
    }
    folds = [
        {"start": i, "stop": i + 8, "tokens": 8, **{k: v[i : i + 8] for k, v in some.items()}} for i in range(0, n, 8)
    ]
    about = {"task": "t", "kind": "classification", "seed": 0, "n": n, "recipe": name, "query_tokens": [tokens, tokens]}
    return {**about, "stream": some, "test": some, "rest": some, "tokens": [tokens] * n, "folds": folds, "again": None}


def test_rules_of_choice_are_replayed(script):
    rules, page = script("choice_rules"), script("choice_page")
    rights = {"random": 0.8, "bm25": 0.6, "zero-shot": 0.4, "all-past": 0.5, "majority": 0.1}
    rows = {name: recorded(rules, name, right) for name, right in rights.items()}
    assert {rule(rows).name for rule in rules.RULES.values()} == {"random"}
    assert page.regret(rows, rules.RULES["kshot"](rows).scores) == 0
    assert page.regret(rows, np.array(rows["bm25"]["test"]["scores"])) > 10
    assert [rules.kind_of(name) for name in rows] == ["drawn", "retrieval", "no examples", "all-past", "classifier"]
    assert rules.look(rows["all-past"])["positions"] == list(range(40))  # its folds are one
    assert rules.look(rows["bm25"]) is None
    raced = rules.race(rows)
    assert "majority" not in raced.racing
    assert raced.tokens < rules.whole_cost(rows) == rules.to_the_end(rows).tokens


def test_rules_of_choice_see_recipes_as_they_are_calibrated(script):
    rules = script("choice_rules")
    logs = [[-0.1, -2.4] if i % 2 else [-0.6, -0.8] for i in range(40)]  # likes the first label, whatever it reads
    some = {"scores": [float(i % 2) for i in range(40)], "bits": [1.0] * 40}
    some |= {"gold": [1 - i % 2 for i in range(40)], "log_probs": logs}
    row = recorded(rules, "random", 0.5) | {"stream": some, "test": some, "rest": None, "folds": []}
    found = rules.calibrated_row(row)
    assert np.mean(found["test"]["scores"]) == 1 > np.mean(some["scores"])
    assert np.mean(found["stream"]["scores"][30:]) == 1
    plain = row | {"recipe": "majority"}
    assert rules.calibrated_row(plain) is plain
    choices = row | {"kind": "multiple_choice"}  # whose places are no labels
    assert rules.calibrated_row(choices)["test"]["scores"] == some["scores"]


def test_what_a_recipe_learns_before_its_fold_is_paid_for(script):
    rules = script("choice_rules")
    name = "fine-tune:batch=8,lr=3e-4,steps=1"
    row = recorded(rules, name, 0.8) | {"tokens": [101] * 40}
    row["folds"] = row["folds"][-1:]
    outcome = rules.RULES["80/20 split"]({name: row})
    assert outcome.tokens == 33 * (101 - 1) + 8


def test_a_mixture_is_replayed_as_in_a_race(script):
    rules, mixtures = script("choice_rules"), script("mixtures")
    rows = {name: recorded(rules, name, right) for name, right in (("random", 0.8), ("bm25", 0.6), ("dense", 0.1))}
    found = rules.mixture(rows, [(16, list(rows)), (40, ["random", "bm25"])])
    whole = rules.mixture(rows, [(40, list(rows))])
    pair = rules.mixture({name: rows[name] for name in ("random", "bm25")}, [(40, ["random", "bm25"])])
    assert found.stream[:16] == whole.stream[:16] != pair.stream[:16]
    assert (found.stream[16:], found.test) == (pair.stream[16:], pair.test)
    assert found.query_tokens == 20
    assert rules.mixture(rows, [(16, list(rows)), (40, ["random"])]) is None
    assert mixtures.replayed([rows["bm25"], rows["random"]], "cascade:price=0.9").query_tokens < 20


def test_what_mixtures_and_cascades_gain_is_told(script):
    rules, page = script("choice_rules"), script("choice_page")
    rights = {"random": 0.8, "bm25": 0.79, "zero-shot": 0.75}
    known = {("40", "t", 0): {name: recorded(rules, name, right) for name, right in rights.items()}}
    (one,) = page._mixed(known)["streams"].values()
    assert one["chosen"] == "random"
    assert one["mix"] - 0.8 == pytest.approx(one["points"][0] / 100)
    (other,) = page._cascades(known).values()
    assert (other["cheap"], other["dear"]) == ("zero-shot", "random")


def test_halving_is_held_against_the_ends_of_streams(script):
    rules, halving = script("choice_rules"), script("halving")
    rights = {"random": 0.8, "bm25": 0.6, "fine-tune": 0.1}
    known = {("40", "t", 0): {name: recorded(rules, name, right) for name, right in rights.items()}}
    assert halving.misses(known).keys() == {(kind, n) for kind in ("drawn", "retrieval", "trained") for n in (16, 32)}
    (before, cost), (after, more) = halving.spared(known, 0), halving.spared(known, 32)
    assert before == after == 0
    assert cost < more < 1


def test_few_tasks_give_no_interval(script):
    page = script("choice_page")
    assert page.with_interval({"a": [1.0, 2.0], "b": [2.5]}) == [2.0, None, None]
    value, low, high = page.with_interval({"a": [1.0], "b": [2.0], "c": [3.0]})
    assert low < value == 2.0 < high


def test_guidance_measures_gradients(script, data, monkeypatch):
    guidance = script("guidance")
    monkeypatch.setattr(guidance, "STEPS", 2)
    row = guidance.measure("classification/sst2", 2, 0, "guided", data, "tiny")
    assert row["n"] == 4
    assert -1 <= row["held_out_alignment"] <= 1


def test_steering_measures_a_task_beside_its_controls(script, data, monkeypatch):
    steering = script("steering")
    monkeypatch.setattr(steering, "PROMPTED", ("zero-shot",))
    monkeypatch.setattr(steering, "STEERERS", ("icv",))
    rows = steering.measure(steering.Unit("1-first", "classification/sst2"), data, "tiny")
    assert [row["recipe"] for row in rows] == ["zero-shot", "random-direction:of=icv", "icv"]


def test_selection_measures_sets_and_choices_for_each_query(script, data, monkeypatch):
    selection = script("selection")
    tiny = selection.load_model("tiny")
    monkeypatch.setattr(selection, "load_model", lambda name: tiny)
    (unit,) = (u for u in selection.planned() if u.name == "1-first-k8-classification-agnews-bm25-demo-demo")
    unit = replace(unit, task="classification/sst2", names=("draw-0", "diverse", "bm25"), ks=(2,))
    rows = selection.measure(unit, data)
    assert [len(row["demonstrations"]) for row in rows] == [2, 2, 2]


def test_contexts_averages_what_each_context_says(script, data, monkeypatch):
    contexts, page = script("contexts"), script("contexts_page")
    monkeypatch.setattr(contexts, "K", 2)
    rows = [
        row
        for group in ("shared", "matching", "bm25")
        for row in contexts.measure(contexts.Unit("1", "classification/sst2", group, 0), data, "tiny")
    ]
    numbers = [(r["recipe"].partition(":")[0], r["contexts"]) for r in rows if r["mean"] == "arithmetic"]
    expected = [(name, m) for name in ("random", "all-past", "gradient-matching", "bm25") for m in (1, 2, 4, 8)]
    assert numbers == [("zero-shot", 1), *expected]
    assert all(r["n_test"] == len(r["bits"]) == 4 for r in rows)
    single, *_, eight = (r for r in rows if r["recipe"] == "random" and r["mean"] == "arithmetic")
    assert eight["bits_per_example"] <= single["bits_per_example"]  # Jensen: the mean of probabilities
    assert eight["prompt_tokens"] == pytest.approx(8 * single["prompt_tokens"])
    told = page.page({"done": 1, "planned": 1, "summary": page.summary(rows), "rows": rows})
    assert "| random | 8 | 1 |" in told


def test_new_labels_measures_seen_and_unseen_apart(script, data, monkeypatch):
    new_labels = script("new_labels")
    monkeypatch.setattr(new_labels, "TASK", "classification/sst2")
    (row,) = new_labels.measure(new_labels.Unit("1-first", "zero-shot", 0), data, "tiny")
    assert (len(row["stream"]["gold"]), len(row["test"]["log_probs"])) == (24, 4)
    one_seen = row["stream"] | {"gold": [0] * 24}
    rows = [{**row, "stream": one_seen}, {**row, "stream": one_seen, "recipe": "fine-tune"}]
    found = {r["way"]: r for r in new_labels.summary(rows)}
    assert list(found) == [
        "zero-shot",
        "zero-shot, batch",
        "fine-tune",
        "fine-tune, batch",
        "fine-tune new-labels",
        "fine-tune new-labels, batch",
    ]
    assert all(r["all"] == pytest.approx((r["seen"] + r["unseen"]) / 2) for r in found.values())
    assert "| fine-tune new-labels | 1 |" in new_labels.page(
        {"done": 1, "planned": 2, "n_test": 4, "summary": list(found.values())}
    )


def test_label_prior_compares_ways_of_calibrating(script):
    label_prior = script("label_prior")
    liked = {"gold": [0, 1] * 20, "log_probs": [[-0.2, -1.7] if i % 2 else [-0.02, -4.0] for i in range(40)]}
    row = {"kind": "classification", "stream": liked, "rest": liked, "again": liked}
    found = {way: label_prior.compared(row, way) for way in ("none", "temperature", "batch")}
    assert found["none"][0] == found["temperature"][0] == 0.5
    assert found["batch"][2] == 1
    assert label_prior.calibration.STRENGTHS == (0.0, 0.5, 1.0)


def test_answers_are_told_by_where_they_come_from(script, tmp_path):
    bench, page = script("context_use"), script("context_use_page")
    rows = [
        {"input": f"Where is {i}?", "output": "Rome", "context": f"{i} is in Rome.", "memory_answer": f"town {i % 2}"}
        for i in range(6)
    ]
    rows[0]["output"] = "Bonn"
    write_task(tmp_path / "grounding" / "counterfact_hard", rows, rows[:3], card={"kind": "qa"})
    units = [unit for unit in bench.planned() if unit.recipe.startswith(("fine-tune", "cings:lr"))][:2]
    found = [row for unit in units for row in bench.measure(unit, str(tmp_path), "tiny")]
    plain, ours = page.summary(found)
    assert (plain["n_test"], plain["draws"], plain["gap"]) == (3, 1, None)
    assert ours["pair"] <= min(ours["from_passage"], 1.0)
    said = page.page({"planned": 2, "done": 2, "summary": [plain, ours], "rows": found})
    assert "| `cings:lr=3e-4,steps=1` | tiny | 1 | 3 |" in said
    proverb = bench._PASSAGES["grounding/memotrap_proverb_ending"](
        Example('Write a quote that ends in "him": Old habits', "him", "1")
    )
    assert (proverb.context, proverb.input) == ('Write a quote that ends in "him"', "Old habits")


def test_methods_are_measured_beside_their_controls(script, data, monkeypatch):
    compose, page, comparisons = script("compose"), script("compose_page"), script("comparisons")
    pair = comparisons.Comparison(
        "wording", "random:composer=wording(labels=true)", "random", ("classification/sst2",), "Why?"
    )
    for module in (compose, page):
        monkeypatch.setattr(module, "COMPARISONS", (pair,))
    units = [replace(unit, model="tiny") for unit in compose.planned()[:2]]
    rows = [row for unit in units for row in compose.measure(unit, data, "tiny")]
    (found,) = page.summary(rows)
    assert (found["draws"], found["n_test"]) == (1, 4)
    assert found["difference"] == pytest.approx(found["metric"] - found["control"])
    assert found["own_run_tokens"] > 0
    said = page.page({"planned": 2, "done": 2, "summary": [found], "rows": rows})
    assert "| classification/sst2 | tiny | 1 | 4 | accuracy |" in said


def test_suites_are_asked_of_each_system_and_refusals_are_told(script, data, monkeypatch):
    suites, page = script("suites"), script("suites_page")
    monkeypatch.setattr(suites, "OF_TASK", {"classification/sst2": ("letter-case", "context-use", "distribution")})
    monkeypatch.setattr(suites, "OF_MODEL", ())
    units = [u for u in suites.planned() if u.recipe in ("zero-shot", "random:k=8") and not u.model]
    rows = [row for u in units for row in suites.measure(u, data, "scripted")]
    assert [row["suite"] for row in rows] == ["letter-case", "context-use", "distribution"] * 2
    said = page.page({"summary": page.summary(rows), "done": 2, "planned": 9})
    assert "## letter-case, classification/sst2" in said
    assert said.count("its examples must have a memory_answer that is another than the output") == 2
