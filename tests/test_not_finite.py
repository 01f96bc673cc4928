"""Numbers that are none: a recipe, a saved model or a file with NaN in it is refused, and never the best."""

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kshot
from conftest import labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.adapted.seal import write_seal
from kshot.core.errors import ModelError, NotFiniteError, UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.models import Capability
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example, GenerateRequest, Prediction, Prompt, ScoreRequest, Segment, Task
from kshot.encoders.encoder import Encoder
from kshot.engine.language_model import Engine
from kshot.evaluators.forgetting import perplexity
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.learners.steered import fitted_steering
from kshot.measures.calibration import Calibration
from kshot.methods.combiners.average import Average
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel

SOURCE = Path(kshot.__file__).parent
ROWS = tuple(Example(r["input"], r["output"], f"r{i}") for i, r in enumerate(labelled_rows(12)))
TASK = Task("words", "classification", ROWS, labels=("animal", "food", "tool"))
OPEN = Task("open", "generation", ROWS)


class Says(ScriptedModel):
    """Says a row of its own of all answers."""

    def __init__(self, *values: float, shape: int | None = None):
        super().__init__(name="says")
        self.values, self.length = values, shape

    def with_store(self, store: Any) -> "Says":
        return self

    def score(self, requests: Any, **_: Any) -> list[np.ndarray]:
        n = [self.length or len(r.continuations) for r in requests]
        return [np.array([self.values[i % len(self.values)] for i in range(k)]) for k in n]


@pytest.fixture(scope="module")
def broken() -> Engine:
    """A network with one weight that is no number."""
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    return Engine(backbone)


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# Scores


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3.0])
def test_a_recipe_whose_numbers_are_none_fails_with_its_reason(value, tmp_path):
    """One of the answers is enough: its probability would be 0, or the whole row NaN."""
    said = []

    class Listens(kshot.core.progress.Silence):
        def say(self, text):
            said.append(text)

    with pytest.raises(ModelError) as refused:
        kshot.adapt(TASK, Says(-1.0, value), recipes="majority,zero-shot", out=tmp_path / "run", progress=Listens())
    reason = "Log-probabilities must be finite numbers, 0 at most, one for each answer; 'says' says -1.0, "
    assert reason in str(refused.value)
    assert "zero-shot has failed" in str(refused.value)
    assert "Use --dtype float32, or another --model" in str(refused.value)
    assert any(text.startswith("zero-shot failed: NotFiniteError") and "the others go on" in text for text in said)


def test_a_row_of_another_length_is_refused():
    model = TaskModel.for_task(TASK, Says(-1.0, shape=2))
    with pytest.raises(NotFiniteError, match="one for each answer; 'says' says -1.0, -1.0 of 'animal', 'food', 'tool'"):
        model.score([model.prompt((), ROWS[0])[0]], [TASK.labels])


def test_a_broken_network_never_wins(broken, tmp_path, run_cli):
    folder = tmp_path / "run"
    with pytest.raises(ModelError, match="zero-shot has failed, bm25 has failed"):
        kshot.adapt(TASK, broken, recipes="majority,zero-shot,bm25", shots=2, out=folder)
    rows = {r["recipe"]: r for r in strict((folder / "unfinished.json").read_text())["results"]["leaderboard"]}
    assert rows["majority"]["status"] in ("racing", "done")
    assert rows["zero-shot"]["status"] == "failed"
    assert rows["zero-shot"]["bits_per_example"] is None
    assert "'tiny' says nan" in rows["zero-shot"]["reason"]
    with closing(SqliteStore(folder / "store.sqlite")) as store:  # asked again when the fault is mended
        assert store.count() == 0


def test_the_others_go_on_where_one_recipe_has_no_numbers(tmp_path, monkeypatch):
    score = ScriptedModel.score

    def without_content(self: Any, requests: Any, **how: Any) -> Any:
        rows = score(self, requests, **how)
        return [row * np.nan if "N/A" in r.prompt.text else row for row, r in zip(rows, requests, strict=True)]

    monkeypatch.setattr(ScriptedModel, "score", without_content)
    odd = "zero-shot:calibration=contextual"
    run = kshot.adapt(TASK, "scripted", recipes=f"{odd},bm25", shots=2, out=tmp_path / "run")
    assert run.chosen == "bm25"
    assert {r["recipe"]: r["status"] for r in run.leaderboard} == {"bm25": "done", odd: "failed"}
    for file in ("results.json", "prompts.json", "best/kshot.json", "manifest.json"):
        strict((tmp_path / "run" / file).read_text("utf-8"))


@pytest.mark.parametrize(
    "recipe",
    [
        "fine-tune:lr=1e-3,steps=1",
        "icv:strength=0.1",
        "notes",
        pytest.param("function-vector:prompts=1,shots=1", marks=pytest.mark.slow),
        pytest.param("less", marks=pytest.mark.slow),
    ],
)
def test_every_way_of_asking_a_broken_network_fails(broken, recipe):
    if recipe == "notes":
        model = TaskModel.for_task(OPEN, broken)
        with pytest.raises(NotFiniteError, match="A token's logits must be finite numbers"):
            model.write("x", max_tokens=4)
        return
    setup = Setup(TASK, TaskModel.for_task(TASK, broken), 0)
    learner = make_learner(parse_recipe(recipe, shots=2), setup)
    with pytest.raises(ModelError, match="finite|not numbers"):
        learner.fit(ROWS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_text_is_written_from_numbers_that_are_none(broken, temperature):
    plain = Engine(broken.backbone)
    plain.__dict__["obstacle"] = "wanted"
    request = GenerateRequest(Prompt((Segment("query", "x"),)), 4, temperature=temperature)
    for engine in (broken, plain):
        with pytest.raises(NotFiniteError, match="after 0 tokens of an answer they are not. Use --dtype float32"):
            engine.generate([request])
        with pytest.raises(NotFiniteError, match="A token's logits must be finite"):
            engine.generate([GenerateRequest(request.prompt, 4, allowed=("a", "b"))])


def test_activations_and_perplexity_of_a_broken_network_are_refused(broken):
    model = TaskModel.for_task(TASK, broken)
    with pytest.raises(NotFiniteError, match="Activations must be finite numbers; those of 'tiny' are not"):
        model.texts_at_end(["x"], "block")
    with pytest.raises(NotFiniteError, match="Activations must be finite"):
        model.prompts_at_end([()], ROWS[:1], "block")
    with pytest.raises(NotFiniteError, match="of general text must be finite.*Train with a smaller lr"):
        perplexity(broken)


def test_what_a_store_keeps_is_finite(tmp_path):
    with closing(SqliteStore(tmp_path / "store.sqlite")) as store:
        store.put([("a", np.array([-1.0]), 0.0), ("b", np.array([-1.0, np.nan]), 0.0), ("c", np.array([-np.inf]), 0.0)])
        assert set(store.get(["a", "b", "c"])) == {"a"}


class NotANumber:
    """A sentence-transformers model with one odd text."""

    def get_sentence_embedding_dimension(self) -> int:
        return 2

    get_embedding_dimension = get_sentence_embedding_dimension

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.array([[np.nan if "odd" in text else 1.0, 0.0] for text in texts], dtype=np.float32)


def test_embeddings_that_are_none_are_refused():
    encoder = Encoder(NotANumber())
    assert encoder.embed(["a", "b"]).shape == (2, 2)
    with pytest.raises(NotFiniteError, match="the encoder's of 'an odd text' is not. Use another encoder"):
        encoder.embed(["c", "an odd text"])


# Probabilities


@pytest.mark.parametrize(
    "changes",
    [
        {"probs": (0.5, 0.5, 0.5)},
        {"probs": (1.5, -0.5, 0.0)},
        {"probs": (float("nan"), 0.5, 0.5)},
        {"log_probs": (float("-inf"), 0.0, 0.0)},
    ],
)
def test_combined_probabilities_must_sum_to_one(changes, monkeypatch):
    setup = Setup(TASK, TaskModel.for_task(TASK, ScriptedModel()), 0)
    recipe = parse_recipe("average(zero-shot,majority)", shots=2)
    monkeypatch.setattr(Average, "combine", lambda self, task, members: replace(members[0], **changes))
    learner = make_learner(recipe, setup)
    with pytest.raises(ModelError, match="finite log-probabilities and probabilities that sum to 1"):
        learner.predict([kshot.core.types.Query(ROWS[0], ROWS[1:])])


def test_the_average_of_long_texts_is_a_number():
    """Their probability underflows, their log-probability does not."""
    own = Prediction("r", ("long",), (-2000.0,), (0.0,), None)
    other = Prediction("r", ("long",), (-2001.0,), (0.0,), None)
    found = parse_recipe("average(zero-shot,all-past)", shots=2).part("combiner").combine(OPEN, [own, other])
    assert found.log_probs[0] == pytest.approx(np.logaddexp(-2000, -2001) - np.log(2))


def test_contextual_calibration_of_long_answers_is_a_number():
    """An answer 2,000 nats less probable than another without content had log(0) there."""
    recipe = parse_recipe("zero-shot:calibration=contextual", shots=2)
    learner = make_learner(recipe, Setup(TASK, TaskModel.for_task(TASK, Says(-1.0, -2001.0, -5.0)), 0))
    (found,) = learner.predict([kshot.core.types.Query(ROWS[0], ())])
    assert np.isfinite(found.log_probs).all()
    assert sum(found.probs) == pytest.approx(1)


# Saved models


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    tiny = kshot.load_model("tiny")
    setup = Setup(TASK, TaskModel.for_task(TASK, tiny), 0)
    recipe = parse_recipe("fine-tune:lr=1e-3,steps=1", shots=2)
    return AdaptedModel.fit(recipe, ROWS[:3], setup, choice={})


def test_trained_weights_that_are_none_are_neither_saved_nor_loaded(adapted, tmp_path):
    from safetensors.torch import load_file, safe_open, save_file

    adapted.save(tmp_path / "good")
    assert kshot.load(tmp_path / "good").predict(["the cat"])
    (file,) = (tmp_path / "good" / "adapter").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name][0, 0] = float("inf")
    save_file(tensors, file, metadata=about)
    write_seal(tmp_path / "good")
    with pytest.raises(UserError, match=r"must be finite numbers; '.*' holds NaN or infinity\. Adapt again"):
        kshot.load(tmp_path / "good")
    weights: Any = adapted.fitted.trained
    first = next(iter(weights._weights.parameters.values()))
    kept = first.detach().clone()
    with torch.no_grad():
        first[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="Train with a smaller lr, or use --dtype float32"):
        adapted.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    with torch.no_grad():
        first.copy_(kept)


def steering(*values: float, weight: float = 1.0) -> Steering:
    vectors = np.array([values], dtype=np.float32)
    return Steering((Edit(0, "block", "add", True, vectors, np.array([weight], dtype=np.float32)),))


def test_steerings_that_are_none_are_neither_found_saved_nor_loaded(tmp_path, monkeypatch):
    for bad in (steering(1.0, float("nan")), steering(1.0, 2.0, weight=float("inf"))):
        with pytest.raises(NotFiniteError, match="A steering must be of finite.*that of layer 0, block, is not"):
            bad.save(tmp_path / "bad")
    recipe = parse_recipe("icv:strength=0.1", shots=2)
    monkeypatch.setattr(type(recipe.part("steerer")), "fit", lambda *_, **__: steering(float("nan")))
    with pytest.raises(NotFiniteError, match="A steering must be"):
        fitted_steering(recipe, ROWS, TaskModel.for_task(TASK, kshot.load_model("tiny")), seed=0)
    steering(1.0, 2.0).save(tmp_path / "good")
    with monkeypatch.context() as patch:
        patch.setattr(Steering, "check_finite", lambda self: None)
        steering(1.0, float("nan")).save(tmp_path / "vectors")
    with pytest.raises(UserError, match="that of layer 0, block, is not.*Copy the whole folder, or fit it again"):
        Steering.load(tmp_path / "vectors")
    file = tmp_path / "good" / "steering.json"
    file.write_text(re.sub(r"1\.0", "NaN", file.read_text()))
    with pytest.raises(UserError, match="it holds NaN, which is no JSON"):
        Steering.load(tmp_path / "good")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "0", "-1.0", '"1"', "1e999"])
def test_a_temperature_that_is_none_is_neither_saved_nor_loaded(adapted, value, tmp_path):
    if value in ("NaN", "Infinity"):
        odd = AdaptedModel(replace(adapted.fitted, calibration=Calibration(float(value))), choice={})
        with pytest.raises(NotFiniteError, match=f"must be finite; calibration.temperature is {float(value)}"):
            odd.save(tmp_path / "odd")
        assert not (tmp_path / "odd").exists()
    adapted.save(tmp_path / "model")
    file = tmp_path / "model" / "kshot.json"
    file.write_text(re.sub(r'"temperature": 1.0', f'"temperature": {value}', file.read_text()))
    write_seal(tmp_path / "model")
    with pytest.raises(UserError, match=f"{value}, which is no JSON|temperature: input should be"):
        kshot.load(tmp_path / "model")


# JSON


def test_json_holds_no_numbers_that_are_none():
    assert from_json(to_json({"a": [1.5, None, "NaN"]})) == {"a": [1.5, None, "NaN"]}
    for value, place in (({"a": {"b": [0, float("nan")]}}, "a.b[1] is nan"), (float("inf"), "it is inf")):
        with pytest.raises(NotFiniteError, match=re.escape(f"Numbers that are written down must be finite; {place}.")):
            to_json(value)
    for text in ("NaN", '{"a": -Infinity}', "[Infinity]"):
        with pytest.raises(ValueError, match="which is no JSON"):
            from_json(text)


def test_all_json_goes_through_one_writer():
    """Files of users are read in `tasks`, which says what is wrong with a row; configs of models may hold infinity."""
    told = {
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if re.search(r"\bjson\.(dumps?|loads?)\(", file.read_text("utf-8"))
        and file.parent.name != "tasks"
        and file.name != "for_langchain.py"  # in the text of an example
    }
    assert told == {"core/json_text.py", "models/fingerprint.py"}


def test_meta_that_is_none_is_refused_before_a_run(tmp_path):
    rows = (*ROWS[:3], Example("x", "food", "odd", meta={"score": float("nan")}))
    with pytest.raises(
        UserError, match="train example 4: 'meta' must be a mapping of JSON .*a number in it is not finite"
    ):
        kshot.adapt(Task("t", "classification", rows, labels=TASK.labels), "scripted", out=tmp_path / "run")


def test_a_model_that_only_writes_needs_no_numbers():
    class Writes(ScriptedModel):
        capabilities = frozenset({Capability.GENERATE})

    model = TaskModel.for_task(TASK, Writes())
    (row,) = model.score([model.prompt(ROWS[:1], ROWS[1])[0]], [TASK.labels])
    assert np.isfinite(row).all()
    assert isinstance(ScoreRequest(model.prompt((), ROWS[0])[0], ("a",)), ScoreRequest)
