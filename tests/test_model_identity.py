"""A language model is told from every other one by its whole files, which are read once."""

import json
import os
import shutil
import time
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import kshot
from broken_models import edit_json, edit_weights, write_model
from conftest import labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.learners.learner import Setup
from kshot.models.hf import Backbone
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.store import file_hashes
from kshot.store.file_hashes import KEPT, sha256_of
from kshot.taskmodel.taskmodel import TaskModel

INPUTS = ["a cat", "the soup", "my saw"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("identity") / "whole")


@pytest.fixture(scope="module")
def model(whole):
    return kshot.load_model(whole)


def adapted(model, recipe):
    rows = [Example(row["input"], row["output"], f"row-{i}") for i, row in enumerate(labelled_rows(6))]
    task = Task("words", "classification", tuple(rows), labels=("animal", "food", "tool"))
    setup = Setup(task, TaskModel.for_task(task, model), 0)
    return AdaptedModel.fit(parse_recipe(recipe, shots=1, raced=False), rows, setup, choice={})


# What tells models from each other


def edit_head(weights):
    weights["lm_head.weight"][-1, -1] += 1e-3


CHANGES = {
    "head": lambda f: edit_weights(f / "model.safetensors", edit_head),
    "rope": lambda f: edit_json(f / "config.json", lambda c: c["rope_parameters"].update(rope_theta=20000.0)),
    "activation": lambda f: edit_json(f / "config.json", lambda c: c.update(hidden_act="relu")),
    "last tokens": lambda f: edit_json(f / "generation_config.json", lambda c: c.update(eos_token_id=[3, 4])),
    "vocabulary": lambda f: edit_json(f / "tokenizer.json", lambda t: swap(t["model"]["vocab"], "Q", "Z")),
    "template": lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"),
}


def swap(vocab, one, other):
    vocab[one], vocab[other] = vocab[other], vocab[one]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_models_files_is_another_model(whole, model, tmp_path, change):
    folder = shutil.copytree(whole, tmp_path / "model")
    CHANGES[change](folder)
    other = kshot.load_model(folder)
    assert other.fingerprint != model.fingerprint
    assert other.weights_id != model.weights_id


def test_the_same_files_are_the_same_model_wherever_they_are(whole, model, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "elsewhere")
    (folder / "README.md").write_text("hello")
    edit_json(
        folder / "config.json", lambda c: c.update(_name_or_path="x", transformers_version="5.0", dtype="float16")
    )
    assert kshot.load_model(folder).fingerprint == model.fingerprint


def test_another_precision_is_another_fingerprint_of_the_same_weights(whole, model):
    other = kshot.load_model(whole, dtype="bfloat16")
    assert other.fingerprint != model.fingerprint
    assert other.weights_id == model.weights_id


def test_a_model_in_memory_is_told_by_all_its_values(whole, model):
    def loaded():
        return AutoModelForCausalLM.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)

    first, second = (Backbone(*loaded(), "mine") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    network, tokenizer = loaded()
    with torch.no_grad():
        edit_head({"lm_head.weight": network.lm_head.weight})
    other = Backbone(network, tokenizer, "mine")
    assert other.fingerprint != first.fingerprint
    network, tokenizer = loaded()
    tokenizer.add_tokens(["Quux"])
    assert Backbone(network, tokenizer, "mine").fingerprint != first.fingerprint
    assert tiny_backbone(settings={"rms_norm_eps": 1e-5}).fingerprint != tiny_backbone().fingerprint


def test_an_adapter_counts_with_its_base_wherever_that_is(whole, model, tmp_path):
    base = shutil.copytree(whole, tmp_path / "base")
    network = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():  # of peft's own
        warnings.simplefilter("ignore", FutureWarning)
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        get_peft_model(network, config).save_pretrained(tmp_path / "adapter")
    first = kshot.load_model(tmp_path / "adapter")
    assert first.fingerprint != model.fingerprint
    base.rename(tmp_path / "moved")
    file = tmp_path / "adapter" / "adapter_config.json"
    edit_json(file, lambda c: c.update(base_model_name_or_path=str(tmp_path / "moved")))
    assert kshot.load_model(tmp_path / "adapter").fingerprint == first.fingerprint
    edit_json(file, lambda c: c.update(lora_alpha=99))
    assert kshot.load_model(tmp_path / "adapter").fingerprint != first.fingerprint
    edit_json(file, lambda c: c.update(lora_alpha=8))
    edit_weights(tmp_path / "moved" / "model.safetensors", edit_head)
    assert kshot.load_model(tmp_path / "adapter").fingerprint != first.fingerprint


# What was read once is known


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The files that were read, of which all count as large; the cache folder is a new one."""
    found = []
    read = file_hashes.sum_of_file
    monkeypatch.setattr(file_hashes, "sum_of_file", lambda path: (found.append(path), read(path))[1])
    monkeypatch.setattr(file_hashes, "WORTH_KEEPING_BYTES", 1)
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def file(tmp_path):
    """A file that changed a minute ago, as far as its content's time tells."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def later(monkeypatch):
    """Let a minute pass."""
    now = time.time()
    monkeypatch.setattr(file_hashes.time, "time", lambda: now + 60)


def test_a_file_is_read_once_and_again_when_it_changes(reads, file, later):
    (first,) = sha256_of([file])
    link = file.with_name("link")
    link.symlink_to(file)
    assert sha256_of([link, file]) == [first, first]
    assert len(reads) == 1
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its inode's own time tells
    assert sha256_of([file]) != [first]
    assert len(reads) == 2


def test_a_file_that_has_just_changed_is_not_remembered(reads, file):
    assert sha256_of([file]) == sha256_of([file])
    assert len(reads) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}}', '{"files": 3, "sha256": "0"}', "flip"])
def test_kept_hashes_that_are_damaged_are_made_anew(reads, file, later, tmp_path, content):
    expected = sha256_of([file])
    kept = tmp_path / "cache" / KEPT
    kept.write_text(kept.read_text().replace(expected[0][:4], "beef") if content == "flip" else content)
    assert sha256_of([file]) == expected
    assert len(reads) == 2
    assert sha256_of([file]) == expected
    assert len(reads) == 2


def test_what_cannot_be_kept_is_read_again(reads, file, later, tmp_path, monkeypatch):
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "no folder"))
    assert sha256_of([file]) == sha256_of([file])
    assert len(reads) == 2


def test_files_that_are_gone_are_forgotten(reads, file, later, tmp_path):
    sha256_of([file])
    file.rename(tmp_path / "other")
    sha256_of([tmp_path / "other"])
    assert list(json.loads((tmp_path / "cache" / KEPT).read_text())["files"]) == [str(tmp_path / "other")]


def test_a_model_is_loaded_again_without_reading_its_files(reads, whole, later):
    first = kshot.load_model(whole).fingerprint
    n = len(reads)
    assert n >= 3
    assert kshot.load_model(whole).fingerprint == first
    assert len(reads) == n


@pytest.mark.slow
def test_the_packaged_model_is_read_once_and_then_takes_nothing(run_cli):
    found = run_cli("bench", "loading", "--json").json
    assert found["gigabytes"] > 1
    assert found["once"] < 0.25  # of loading it: 0.07 measured
    assert found["then"] < 0.01


def test_a_model_without_files_cannot_be_timed(run_cli):
    found = run_cli("bench", "loading", "--model", "tiny")
    assert found.code == 2
    assert "needs a model in files; got 'tiny'. Name demo, or a folder." in found.err.replace("\n", " ")


# Another precision


@pytest.mark.parametrize("recipe", ["icv", pytest.param("fine-tune:steerer=icv", marks=pytest.mark.slow)])
def test_another_precision_is_refused_and_taken_with_the_flag(whole, model, tmp_path, run_cli, recipe):
    ours = adapted(model, recipe)
    ours.save(tmp_path / "best")
    expected = ours.predict_proba(INPUTS)
    asked = ["predict", tmp_path / "best", "--dtype", "bfloat16"]
    found = run_cli(*asked, input="a cat\n")
    assert found.code == 2
    assert f"was adapted with the weights of '{whole}' in float32, and they run in bfloat16 now" in found.err
    assert "Load them with --dtype float32, or take that with --allow-other-dtype" in found.err.replace("\n", " ")
    found = run_cli(*asked, "--allow-other-dtype", input="a cat\n")
    assert found.code == 0
    assert "was adapted in float32 and is asked in bfloat16: what was measured may not hold" in found.err
    loaded = kshot.load(tmp_path / "best", dtype="bfloat16", allow_other_dtype=True)
    assert abs(loaded.predict_proba(INPUTS) - expected).max() < 0.1
    loaded.save(tmp_path / "again")  # it is one of bfloat16 now
    again = kshot.load(tmp_path / "again")
    assert (again.predict_proba(INPUTS) == loaded.predict_proba(INPUTS)).all()
    assert kshot.load(tmp_path / "best").predict_proba(INPUTS).tobytes() == expected.tobytes()


def test_other_weights_are_refused_with_the_flag_too(model, tmp_path):
    adapted(model, "bm25").save(tmp_path)
    with pytest.raises(UserError, match="was adapted with other weights, config or tokenizer than those of 'tiny'"):
        kshot.load(tmp_path, model=Engine(tiny_backbone()), allow_other_dtype=True)


def test_what_was_saved_before_is_known_by_its_sample(model, tmp_path):
    ours = adapted(model, "icv")
    ours.save(tmp_path)

    def of_before(about):
        del about["model"]["weights"]
        about["model"]["fingerprint"] = model.old_fingerprint
        about["format"] = 3

    edit_json(tmp_path / "kshot.json", of_before)
    (tmp_path / "checksums.json").unlink()
    edit_json(tmp_path / "steering.json", lambda about: about.update(model=model.old_fingerprint))
    loaded = kshot.load(tmp_path, model=model)
    assert loaded.predict_proba(INPUTS).tobytes() == ours.predict_proba(INPUTS).tobytes()
    steering = kshot.Steering.load(tmp_path)
    assert steering.model == model.old_fingerprint
    assert model.steered(steering).fingerprint == model.steered(ours.steering).fingerprint
