"""Loading what somebody else wrote runs no code: no method that a saved model names, no config, no encoder."""

import copy
import hashlib
import json
import os
import py_compile
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kshot
from broken_models import write_model
from changed_models import OWN, TASK, make, model_of, said
from encoders import make_tiny_encoder
from kshot.adapted.seal import write_seal
from kshot.cli.config import read_settings
from kshot.core.errors import UserError
from kshot.encoders.encoder import fresh_model
from kshot.methods.selectors.llm_r import LlmR

MARK = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Evil: pass\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of each of two kinds, which is copied before it is changed."""
    place = tmp_path_factory.mktemp("saved")
    return {kind: make(kind, place / kind, model=model_of(kind)) for kind in ("shown", "own")}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that leaves a mark when it is run: importable, and in the folder one stands in."""
    place, mark = tmp_path / "evil", tmp_path / "mark"
    place.mkdir()
    (place / "evil.py").write_text(MARK.format(mark=str(mark)))
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(place)
    yield SimpleNamespace(file=place / "evil.py", mark=mark)
    sys.modules.pop("evil", None)


def with_record(folder: Path, record: dict) -> Path:
    """Let the selector of a saved model be another, as somebody would who makes the list of files anew."""
    file = folder / "kshot.json"
    about = json.loads(file.read_text("utf-8"))
    about["recipe"]["parts"]["selector"] |= record
    file.write_text(json.dumps(about))
    write_seal(folder)
    return folder


# Records of methods

RECORDS = {
    "path": {"name": "{file}:Evil"},
    "relative path": {"name": "./evil.py:Evil"},
    "module": {"name": "evil:Evil"},
    "module of the library": {"name": "os:system"},
    "file": {"name": "Evil", "file": "{file}", "sha256": "{sha256}"},
    "file without a hash": {"name": "Evil", "file": "{file}"},
    "up": {"name": "Evil", "file": "evil.py", "sha256": "../../evil/evil"},
    "nested": {"settings": {"k1": {"name": "{file}:Evil", "version": 1, "settings": {}}}},
    "no method": {"name": "../../evil"},
    "odd": {"name": "a.py:b.py:{file}"},
    "null": {"name": "\0.py:x"},
    "entry point of another room": {"name": "tfidf-lr"},
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_runs_nothing(record, saved, evil, tmp_path):
    sha256 = hashlib.sha256(evil.file.read_bytes()).hexdigest()
    text = json.dumps(record).replace("{file}", str(evil.file)).replace("{sha256}", sha256)
    folder = with_record(shutil.copytree(saved["shown"], tmp_path / "model"), json.loads(text))
    with pytest.raises(UserError):
        kshot.load(folder)
    assert not evil.mark.exists()
    with pytest.raises(UserError):  # allowed is what the folder brings along, and a class that fulfils its contract
        kshot.load(folder, allow_code=True)
    assert evil.mark.exists() == (record["name"] == "evil:Evil" if "name" in record else False)


def test_what_would_be_run_is_said_and_can_be_allowed(saved, run_cli, evil, tmp_path):
    folder = shutil.copytree(saved["own"], tmp_path / "model")
    (own,) = (folder / "own").glob("*.py")
    (evil.file.parent / "own.py").write_text(MARK.format(mark=str(evil.mark)))  # by the name that the record has
    for verb in (("predict", folder), ("merge", folder, "--out", tmp_path / "out")):
        refused = run_cli(*verb, input="the cat\n")
        assert refused.code == 2
        assert f"kshot.json: 'Longest' is a user's own method, and the Python file {own} would be run." in refused.err
        assert "if you trust it give --allow-code (in Python allow_code=True)." in refused.err
    assert run_cli("predict", folder, "--allow-code", input="the cat\n").code == 0
    assert said(kshot.load(folder, allow_code=True), "own") == said(kshot.load(saved["own"], allow_code=True), "own")
    assert not evil.mark.exists()


def test_evaluate_asks_too(saved, run_cli, words_task):
    refused = run_cli("evaluate", saved["own"], words_task)
    assert (refused.code, "give --allow-code" in refused.err) == (2, True)
    assert run_cli("evaluate", saved["own"], words_task, "--allow-code", "--json").json["n"] == 6


def test_an_own_file_is_the_one_that_was_used(saved, tmp_path):
    """Neither another text under its name, nor what Python has compiled of another one before."""
    folder, marked = shutil.copytree(saved["own"], tmp_path / "model"), tmp_path / "mark"
    (own,) = (folder / "own").glob("*.py")
    own.write_text(own.read_text("utf-8") + MARK.format(mark=str(marked)))
    write_seal(folder)
    with pytest.raises(UserError, match="must be the file with which 'Longest' was used; it has changed. Adapt again"):
        kshot.load(folder, allow_code=True)
    own.unlink()
    write_seal(folder)
    with pytest.raises(UserError, match=r"must name a Python file; .*\.py does not exist"):
        kshot.load(folder, allow_code=True)
    assert not marked.exists()


def test_a_file_is_run_as_it_stands_and_nothing_is_written_beside_it(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("kshot.core.plugins._MODULES", {})  # as in a process that has not run the same text before
    folder, marked = shutil.copytree(saved["own"], tmp_path / "model"), tmp_path / "mark"
    (own,) = (folder / "own").glob("*.py")
    other = tmp_path / "other.py"
    text = MARK.format(mark=str(marked))
    other.write_text(text + "#" * (own.stat().st_size - len(text)))
    assert other.stat().st_size == own.stat().st_size
    os.utime(other, ns=(own.stat().st_atime_ns, own.stat().st_mtime_ns))
    cached = own.parent / "__pycache__" / f"{own.stem}.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(other), cfile=str(cached), dfile=str(own))
    write_seal(folder)
    before = sorted(folder.rglob("*"))
    assert kshot.load(folder, allow_code=True).predict(["the cat"])
    assert not marked.exists()
    assert sorted(folder.rglob("*")) == before


def test_copies_within_python_bring_their_own_methods(saved):
    adapted = kshot.load(saved["own"], allow_code=True)
    assert said(copy.deepcopy(adapted), "own") == said(adapted, "own")


def test_the_record_of_trust_in_a_language_model_allows_nothing(saved, tmp_path):
    folder = shutil.copytree(saved["shown"], tmp_path / "model")
    file = folder / "kshot.json"
    about = json.loads(file.read_text("utf-8"))
    about["model"] |= {"name": str(tmp_path), "origin": {"trust_remote_code": True}}
    file.write_text(json.dumps(about))
    write_seal(folder)
    with pytest.raises(UserError, match="brings Python code of its own. Read it, and if you trust it give --trust-rem"):
        kshot.load(folder)


# Settings of a run

CONFIGS = {
    "recipes": ("recipes: '{file}:Evil'", "recipes name a file of Python, which would be run"),
    "a list": ("recipes: ['bm25', 'random:composer={file}:Evil']", "recipes name a file of Python, which would be run"),
    "trust": ("trust_remote_code: true", "trust_remote_code lets Python that comes with a model run"),
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_file_of_settings_runs_nothing(text, message, evil, words_task, run_cli, tmp_path):
    (tmp_path / "run.yaml").write_text(text.format(file=evil.file))
    args = ("adapt", words_task, "--model", "scripted", "--config", tmp_path / "run.yaml", "--out", tmp_path / "run")
    for more in ((), ("--dry-run",)):
        refused = run_cli(*args, *more)
        assert refused.code == 2
        assert f"run.yaml: {message}" in refused.err
    assert not evil.mark.exists()


def test_code_of_a_file_of_settings_is_allowed_by_what_is_typed(words_task, run_cli, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "run.yaml").write_text(f"recipes: '{tmp_path}/mine.py:Longest:k=2'\nlimit: 4")
    typed = {"model": "scripted"}
    assert "mine.py:Longest" in read_settings("t", tmp_path / "run.yaml", typed, allow_code=True).recipe_names
    typed["recipes"] = f"{tmp_path}/mine.py:Longest"
    assert read_settings("t", tmp_path / "run.yaml", typed).recipe_names == typed["recipes"]
    (tmp_path / "run.yaml").write_text(f"recipes: '{tmp_path}/mine.py:Nobody'")
    args = ("adapt", words_task, "--model", "scripted", "--config", tmp_path / "run.yaml", "--allow-code")
    assert "mine.py must define 'Nobody'; it defines no such class." in run_cli(*args).err  # so it was run


# Encoders and language models


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def edited(file: Path, change) -> None:
    about = json.loads(file.read_text("utf-8"))
    change(about)
    file.write_text(json.dumps(about))


ENCODERS = {
    "a module": ("modules.json", lambda m: m[1].update(type="evil.Evil")),
    "what a module imports": ("modules.json", lambda m: m[1].update(type="sentence_transformers.base.model.torch")),
    "no class": ("modules.json", lambda m: m[1].update(type="sentence_transformers.util.import_from_string")),
    "no name": ("modules.json", lambda m: m[1].update(type=None)),
    "a router": ("1_Pooling/config.json", lambda c: c.update(types={"x": "evil.Evil"})),
    "a tokenizer": ("1_Pooling/config.json", lambda c: c.update(tokenizer_class="evil.Evil")),
    "an activation": ("1_Pooling/config.json", lambda c: c.update(activation_function="torch.hub.load")),
    "a reranker's": ("config.json", lambda c: c.update(sentence_transformers={"activation_fn": "evil.Evil"})),
    "a kernel": ("sentence_bert_config.json", lambda c: c.update(model_kwargs={"attn_implementation": "evil/kernel"})),
}


@pytest.mark.parametrize(("name", "change"), ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_names_nothing_that_would_be_run(name, change, encoder, evil, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    edited(folder / name, change)
    with pytest.raises(UserError, match=r"must name classes of (sentence_transformers|torch.nn) alone, as"):
        fresh_model(str(folder))
    assert not evil.mark.exists()


def test_an_encoder_is_not_read_from_pickles(encoder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "mark",))

    folder = shutil.copytree(encoder, tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="must be safetensors, as loading a pickle can run anything; it has .*Save it"):
        fresh_model(str(folder))
    assert not (tmp_path / "mark").exists()


def test_a_retriever_in_a_saved_model_names_nothing_either(encoder, evil, tmp_path):
    folder = make("retriever", tmp_path / "model", model=model_of("retriever"), encoder=encoder)
    edited(folder / "retriever" / "modules.json", lambda m: m[1].update(type="evil.Evil"))
    write_seal(folder)
    with pytest.raises(UserError, match=r"retriever/modules.json must name classes of sentence_transformers alone"):
        kshot.load(folder)
    with pytest.raises(UserError, match="must name classes of sentence_transformers alone"):
        LlmR(retriever=str(folder / "retriever")).fit(TASK.train, model=None, rng=None)
    assert not evil.mark.exists()


def test_a_language_model_loads_nothing_that_lies_about(evil, tmp_path):
    """A folder that brings modules by every name that transformers looks for, in a folder full of them."""
    folder, text = write_model(tmp_path / "model"), evil.file.read_text("utf-8")
    names = ("modeling_llama", "configuration_llama", "tokenization_llama", "generation_utils", "sitecustomize", "evil")
    for place in (folder, evil.file.parent):
        for name in names:
            (place / f"{name}.py").write_text(text)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(text)
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    edited(folder / "config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "evil.Evil"}))
    edited(folder / "generation_config.json", lambda c: c.update(custom_generate="evil"))
    assert kshot.load_model(folder).count_tokens("the cat") == 7
    assert not evil.mark.exists()


def test_a_language_model_brings_no_kernel_of_the_hub(tmp_path):
    folder = write_model(tmp_path / "model")
    edited(folder / "config.json", lambda c: c.update(attn_implementation="evil/kernel"))
    with pytest.raises(UserError, match="names 'evil/kernel' of the hub, which would be run. Take attn_implementation"):
        kshot.load_model(folder)
