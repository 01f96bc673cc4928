"""Gradient matching and LESS as selectors: from gradients to demonstrations, in Python and in the shell."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.gradient_settings import GradientSettings
from kshot.core.models import Capability
from kshot.core.types import Example, Task
from kshot.methods.selectors.gradient_matching import PAPER, GradientMatching
from kshot.methods.selectors.less import Less, influences
from kshot.methods.selectors.matching import match
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

POOL = tuple(Example(f"the {w} number {i}", label, f"e{i}") for i, (w, label) in enumerate(
    (w, label) for w, label in zip(["cat", "axe", "dog", "saw", "cow", "file"] * 2, ["animal", "tool"] * 6, strict=True)
))  # fmt: skip
TASK = Task("words", "classification", POOL, labels=("animal", "tool"))


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def chosen(selector, model, k: int = 4, pool=POOL) -> tuple[list[int], list]:
    notes = []
    asked = replace(TaskModel.for_task(TASK, model), notes=notes.append)
    return selector.fit(pool, model=asked, rng=rng()).select(None, k, rng=rng()), notes


def test_the_choice_is_that_of_the_search_over_the_models_gradients(tiny):
    selector = GradientMatching(of="prefix", epochs=1, snapshots=2, candidates=1)
    indices, (note,) = chosen(selector, tiny)
    seed = int(rng().integers(2**32))
    how = GradientSettings(epochs=1, snapshots=2)
    rows = TaskModel.for_task(TASK, tiny).gradients(POOL, how, seed=seed)
    found = match(rows, 4, n_blocks=2)
    assert indices == list(found.indices)
    assert {k: note[k] for k in ("selector", "k", "n_pool")} == {"selector": "gradient-matching", "k": 4, "n_pool": 12}
    assert note["error"] == found.error < note["random_error"] == found.random_error
    assert 0 <= note["norm_percentile"] <= 100
    json.dumps(note)


def test_settings_change_the_choice_and_quotas_hold(tiny):
    found = {}
    for text in (
        "normalize=none,candidates=1",
        "normalize=row,candidates=1",
        "of=prefix,normalize=snapshot",
        "of=prefix",
        "of=lora",
        "balanced=true",
    ):
        recipe = parse_recipe(f"gradient-matching:epochs=1,snapshots=2,{text}", shots=4)
        indices, _ = chosen(recipe.part("selector"), tiny)
        assert len(set(indices)) == 4
        found[text] = tuple(indices)
    assert len(set(found.values())) > 2
    labels = [POOL[i].output for i in found["balanced=true"]]
    assert labels.count("animal") == labels.count("tool") == 2


def test_restarts_never_choose_worse(tiny):
    errors = [chosen(GradientMatching(candidates=1, restarts=n), tiny, 5)[1][0]["error"] for n in (0, 10)]
    assert errors[1] <= errors[0]


class Preferring:
    """A model with given gradients, which pays fewer bits the more of `liked` is shown."""

    def __init__(self, liked: set[str]):
        self.liked, self.asked, self.notes = liked, [], []

    def gradients(self, examples, how, *, seed):
        return rng(7).normal(size=(len(examples), 5 * 3)).astype(np.float32)

    def code_lengths(self, shown, queries):
        self.asked += zip(shown, queries, strict=True)
        return np.array([10.0 - sum(e.id in self.liked for e in demos) for demos in shown])

    def note(self, values):
        self.notes.append(values)


def test_of_several_candidates_the_model_takes_the_one_it_reads_best():
    model = Preferring({"e1", "e4", "e7"})
    selector = GradientMatching(candidates=6, queries=4).fit(POOL, model=model, rng=rng())  # type: ignore[arg-type]
    indices = selector.select(None, 3, rng=rng())
    assert len(model.asked) == 6 * 4
    sets, held_out = {demos for demos, _ in model.asked}, {query.id for _, query in model.asked}
    assert len(held_out) == 4
    assert not held_out & {e.id for demos in sets for e in demos}
    best = max(sum(e.id in model.liked for e in demos) for demos in sets)
    assert sum(POOL[i].id in model.liked for i in indices) == best
    assert tuple(POOL[i] for i in indices) in sets
    (note,) = model.notes
    assert len(note["candidate_bits"]) == 6
    assert min(note["candidate_bits"]) == pytest.approx(10 - best)
    again = GradientMatching(candidates=6, queries=4).fit(POOL, model=model, rng=rng())  # type: ignore[arg-type]
    assert again.select(None, 3, rng=rng()) == indices


def test_where_nothing_can_be_held_out_the_nearest_set_is_taken():
    model = Preferring(set())
    for candidates in (1, 5):
        selector = GradientMatching(candidates=candidates).fit(POOL, model=model, rng=rng())  # type: ignore[arg-type]
        found = selector.select(None, 12, rng=rng()), selector.select(None, 11, rng=rng())
        assert sorted(found[0]) == list(range(12))
        assert len(set(found[1])) == 11
    assert len(model.asked) == 5  # one held-out example for five sets of 11


def test_all_of_a_small_pool_is_shown_without_a_gradient():
    class Mute:
        """Cannot be asked."""

    for selector in (GradientMatching(), Less()):
        fitted = selector.fit(POOL, model=Mute(), rng=rng())  # type: ignore[arg-type]
        assert fitted.select(None, 12, rng=rng()) == fitted.select(None, 40, rng=rng()) == list(range(12))
        assert fitted.select(None, 0, rng=rng()) == []
        one = selector.fit(POOL[:1], model=Mute(), rng=rng())  # type: ignore[arg-type]
        assert one.select(None, 1, rng=rng()) == [0]


def test_examples_that_are_all_alike(tiny):
    pool = tuple(Example("the cat", "animal", f"e{i}") for i in range(6))
    indices, (note,) = chosen(GradientMatching(candidates=1), tiny, 3, pool)
    assert sorted(indices) == indices == [0, 1, 2]
    assert note["error"] < 1e-3
    assert sorted(chosen(Less(epochs=1), tiny, 3, pool)[0]) == [0, 1, 2]


def test_the_papers_settings():
    paper = GradientMatching(paper=True)
    assert {name: getattr(paper, name) for name in PAPER} == PAPER
    assert (paper.tokens, paper.of, paper.loss) == (4, "prefix", "sum")
    assert GradientMatching(paper=True, epochs=10).epochs == 10
    own = ("normalize", "candidates")
    assert paper.settings == GradientSettings(**{k: v for k, v in PAPER.items() if k not in own})
    with pytest.raises(UserError, match="gradient-matching: paper=true sets epochs to 10; leave epochs out"):
        GradientMatching(paper=True, epochs=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normalize=rows", "gradient-matching:normalize must be one of none, row, snapshot; got 'rows'"),
        ("restarts=-1", "gradient-matching:restarts must be 0 or more; got -1"),
        ("candidates=0", "gradient-matching:candidates must be 1 or more; got 0"),
        ("queries=0", "gradient-matching:queries must be 1 or more; got 0"),
        ("restarts=2", "gradient-matching:restarts must be 0 unless candidates=1, .* got 2 and candidates=16. Add"),
        ("of=weights", "of must be one of prefix, lora, last-block; got 'weights'"),
        ("normalise=row", "'gradient-matching' has no setting 'normalise'. Did you mean 'normalize'"),
        ("epochs=x", "gradient-matching:epochs must be a whole number; got 'x'"),
    ],
)
def test_settings_out_of_range(text, message):
    with pytest.raises(UserError, match=message):
        parse_recipe(f"gradient-matching:{text}", shots=4)


def test_influences_against_their_definition():
    steps, gradients = (rng(s).normal(size=(7, 12)).astype(np.float32) for s in (0, 1))
    expected = []
    for i in range(7):
        total = 0.0
        for c in range(3):
            block = slice(4 * c, 4 * c + 4)
            cosines = [
                steps[i, block] @ gradients[j, block] / np.linalg.norm(steps[i, block]) / np.linalg.norm(g[block])
                for j, g in enumerate(gradients)
                if j != i
            ]
            total += float(np.mean(cosines))
        expected.append(total)
    assert influences(steps, gradients, 3) == pytest.approx(expected, abs=1e-6)
    assert np.isfinite(influences(np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32), 1)).all()


@pytest.mark.slow
def test_less_takes_those_with_the_most_influence_the_best_last(tiny):
    for of in ("lora", "prefix", "last-block"):
        selector = Less(of=of, epochs=1, snapshots=1)
        indices, _ = chosen(selector, tiny, 3)
        model = TaskModel.for_task(TASK, tiny)
        seed = int(rng().integers(2**32))
        how = selector.settings
        gradients = model.gradients(POOL, how, seed=seed)
        steps = gradients
        if of != "last-block":
            steps = model.gradients(POOL, replace(how, adam=True), seed=seed)
        scores = influences(steps, gradients, 1)
        assert indices == np.argsort(scores, kind="stable")[-3:].tolist()


def test_what_selectors_need_of_which_model(words_task, tmp_path):
    recipe = parse_recipe("gradient-matching", shots=4)
    assert recipe.selector_needs == {Capability.GRADIENTS}
    assert recipe.needs == set()  # the model that answers need only answer
    with pytest.raises(UserError, match="be trained; give another --model or --selector-model"):
        kshot.adapt(words_task, "scripted", recipes="gradient-matching", shots=4, out=tmp_path / "a")
    run = kshot.adapt(
        words_task,
        "scripted",
        recipes="gradient-matching:epochs=1",
        shots=4,
        selector_model="tiny",
        out=tmp_path / "b",
    )
    assert {row["status"] for row in run.leaderboard} == {"done"}
    noted = json.loads((tmp_path / "b" / "results.json").read_text())["selections"]
    assert [note["n_pool"] for note in noted["gradient-matching:epochs=1"]] == [8, 16]
    assert run.best.choice["selection"]["n_pool"] == 24
    kept = sorted(f.name.rpartition("-")[2] for f in (tmp_path / "b" / "gradients").iterdir())
    assert kept == ["n16.safetensors", "n24.safetensors", "n8.safetensors"]


@pytest.mark.slow
def test_the_adapted_model_shows_the_set_that_select_gives(words_task, tmp_path, tiny):
    name = "gradient-matching:epochs=1"
    run = kshot.adapt(words_task, tiny, recipes=name, shots=4, out=tmp_path / "run")
    task = kshot.Task.load(words_task)
    assert list(run.best.pool) == kshot.select(task, name, 4, model=tiny)
    assert kshot.load(tmp_path / "run").predict(["the dog"]) == run.best.predict(["the dog"])


@pytest.fixture
def select(run_cli, words_task):
    def select(*more, task=words_task, model="tiny", k=4):
        return run_cli(
            "select", task, "--selector", "gradient-matching:epochs=1", "-k", k, "--model", model, *more
        )  # fmt: skip

    return select


def test_in_the_shell(select, tmp_path):
    first = select("--gradients", tmp_path / "g")
    assert first.code == 0, first.err
    assert len(first.out.splitlines()) == 4
    assert "selector gradient-matching, k 4, n_pool 24, error " in first.err
    assert ", random_error " in first.err
    assert "gradients: 24/24, 0 s left" in first.err
    assert select("--gradients", tmp_path / "g").out == first.out == select().out
    more = select("--gradients", tmp_path / "g", k=8)
    assert len(more.out.splitlines()) == 8
    assert len(list((tmp_path / "g").iterdir())) == 1  # taken once for both


@pytest.mark.slow
def test_a_stale_store_in_the_shell(select, tmp_path):
    rows = labelled_rows(24)
    task = write_task(tmp_path / "words", rows)
    assert select("--gradients", tmp_path / "g", task=task).code == 0
    other = write_task(tmp_path / "other" / "words", [*rows[:-1], {"input": "new", "output": rows[-1]["output"]}])
    refused = select("--gradients", tmp_path / "g", task=other)
    assert refused.code == 2
    assert "what differs is: examples. Rebuild it with --rebuild" in refused.err
    rebuilt = select("--gradients", tmp_path / "g", "--rebuild", task=other)
    assert rebuilt.code == 0
    assert rebuilt.out == select(task=other).out


def test_bad_input_in_the_shell(select):
    assert "-k must be in 1..24, the size of the pool; got 25" in select(k=25).err
    without = select(model="scripted")
    assert without.code == 2
    assert "'scripted' has none. Name one with --selector-model (`kshot select`: --model)" in without.err


def test_a_finished_run_tells_the_same_of_its_choices(words_task, tmp_path, tiny, recorded):
    how = {"recipes": "gradient-matching:epochs=1", "shots": 4, "out": tmp_path / "run"}
    kshot.adapt(words_task, tiny, **how)
    first = recorded(tmp_path / "run")
    assert len(first["results.json"][0]["selections"]["gradient-matching:epochs=1"]) == 2
    kshot.adapt(words_task, tiny, **how)
    assert recorded(tmp_path / "run") == first


@pytest.mark.slow
def test_gradients_of_the_real_model_keep_their_bars(run_cli):
    found = run_cli("bench", "gradients", "--json").json
    assert found["speedup_vs_loop"] >= 2.5
    assert found["max_rel_diff"] < 1e-4


@pytest.mark.slow
def test_a_choice_from_a_large_pool_keeps_its_bars(run_cli):
    found = run_cli("bench", "large-pool", "--json").json
    assert found["seconds"] < 180
    assert found["peak_rss_gb"] < 3
    assert found["growth_exponent"] < 1.2  # at most linear; three short times vary


def test_a_selector_of_ones_own_may_note_anything(run_cli, words_task, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass, replace\n\nimport kshot\n\n\n"
        "@dataclass(frozen=True)\nclass First(kshot.Selector):\n"
        "    _model: object = None\n    per_query = False\n\n"
        "    def fit(self, pool, *, model, rng):\n        return replace(self, _model=model)\n\n"
        "    def select(self, question, k, *, rng):\n        self._model.note({'why': 'first', 'half': 0.5})\n"
        "        return list(range(k))\n"
    )
    told = run_cli("select", words_task, "--selector", f"{file}:First", "-k", 2, "--model", "tiny")
    assert told.code == 0
    assert "why first, half 0.5" in told.err
