"""What rests on an encoder does not survive another one under the same name."""

import shutil
from pathlib import Path

import pytest

import kshot
from broken_models import edit_json, edit_weights
from conftest import labelled_rows
from encoders import make_tiny_encoder
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.encoders.encoder import load_encoder
from kshot.encoders.encoder_identity import encoder_id
from kshot.learners.learner import Setup
from kshot.models.scripted import ScriptedModel
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

RECIPES = ("dense", "diverse", "embedding-lr", "llm-r")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def encoder(made, tmp_path):
    """A copy of an encoder, to be changed."""
    return shutil.copytree(made, tmp_path / "encoder")


def retrained(folder):
    edit_weights(folder / "model.safetensors", lambda w: w["embeddings.word_embeddings.weight"].neg_())


CHANGES = {
    "weights": retrained,
    "pooling": lambda f: edit_json(f / "1_Pooling" / "config.json", lambda c: c.update(pooling_mode="cls")),
    "words": lambda f: edit_json(f / "tokenizer.json", lambda t: t["model"]["vocab"].update(q=10**4)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_an_encoders_files_is_another_encoder_and_recipe(encoder, change):
    names = [f"{name}:encoder={encoder}" for name in RECIPES]
    before = encoder_id(str(encoder)), [parse_recipe(name, shots=1).fingerprint for name in names]
    (encoder / "README.md").write_text("hello")
    assert (encoder_id(str(encoder)), [parse_recipe(name, shots=1).fingerprint for name in names]) == before
    CHANGES[change](encoder)
    assert encoder_id(str(encoder)) != before[0]
    assert not {parse_recipe(name, shots=1).fingerprint for name in names} & set(before[1])


def test_an_encoder_that_changes_is_loaded_again_in_the_same_process(encoder):
    before = load_encoder(str(encoder))
    assert load_encoder(str(encoder)) is before
    retrained(encoder)
    assert (load_encoder(str(encoder)).embed(["a cat"]) != before.embed(["a cat"])).any()


@pytest.mark.parametrize("recipe", ["dense", "embedding-lr"])
def test_a_saved_model_is_refused_with_another_encoder(encoder, tmp_path, recipe):
    rows = [Example(row["input"], row["output"], f"row-{i}") for i, row in enumerate(labelled_rows(6))]
    task = Task("words", "classification", tuple(rows), labels=("animal", "food", "tool"))
    model = ScriptedModel()
    chosen = parse_recipe(f"{recipe}:encoder={encoder}", shots=1, raced=False)
    AdaptedModel.fit(chosen, rows, Setup(task, TaskModel.for_task(task, model), 0), choice={}).save(tmp_path / "best")
    assert kshot.load(tmp_path / "best", model=model).predict(["a cat"])
    retrained(encoder)
    with pytest.raises(UserError, match=f"The encoder '{encoder}' must be the one with which .*Put them back, or"):
        kshot.load(tmp_path / "best", model=model)


def test_a_run_whose_encoder_has_changed_predicts_anew(encoder, words_task, run_cli, tmp_path):
    command = ("adapt", words_task, "--model", "scripted", "--shots", 2, "--limit", 6, "--out", tmp_path / "run")
    command += ("--recipes", f"embedding-lr:encoder={encoder}", "--json")
    first = run_cli(*command)
    retrained(encoder)
    again = run_cli(*command)
    assert first.json["leaderboard"][0]["bits_per_example"] != again.json["leaderboard"][0]["bits_per_example"]


def test_a_run_of_a_retriever_is_refused_with_another_encoder(encoder, words_task, tmp_path):
    from kshot.retrieval.retriever_settings import RetrieverSettings
    from kshot.verbs.retriever import RetrieverRun

    settings = RetrieverSettings(encoder=str(encoder), candidates=4)
    RetrieverRun.start(tmp_path / "run", [str(words_task)], settings=settings)
    RetrieverRun.open(tmp_path / "run")
    retrained(Path(encoder))
    with pytest.raises(UserError, match="holds a run with another encoder files"):
        RetrieverRun.open(tmp_path / "run")
