"""Whatever can be wrong with a model that a user brings: it is refused in a sentence, or answers as it should."""

import json
import os
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, LlamaForCausalLM, LlamaModel

import kshot
from broken_models import (
    ANSWERS,
    CONFIG,
    INDEX,
    POINTER,
    WEIGHTS,
    break_one_thing,
    byte_tokenizer,
    edit_json,
    edit_weights,
    own_scores,
    refusal,
    write_model,
)
from conftest import labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.adapted.seal import write_seal
from kshot.core.errors import UserError
from kshot.core.gradient_settings import GradientSettings
from kshot.core.lessons import Batch, Training, TrainingText
from kshot.core.settings import RunSettings
from kshot.core.types import Example, Prompt, ScoreRequest, Segment, Task
from kshot.learners.learner import Setup
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

PROMPT = Prompt((Segment("query", "Text: the cat\nLabel:"),))
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with nothing wrong."""
    return write_model(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it, to be broken."""
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def refused(monkeypatch):
    """Load a model that must be refused, in one line that names it, and return what is said."""
    monkeypatch.setattr("kshot.models.checkpoint.only_local", lambda source: True)

    def refused(name, **how):
        with pytest.raises(UserError) as error:
            kshot.load_model(str(name), **how)
        text = str(error.value)
        assert "\n" not in text
        assert str(name).removeprefix("gguf:") in text
        return text

    return refused


def adapted(model, recipe="zero-shot"):
    """Return a model that has learnt six rows, without a race."""
    rows = [Example(row["input"], row["output"], f"row-{i}") for i, row in enumerate(labelled_rows(6))]
    task = Task("words", "classification", tuple(rows), labels=("animal", "food", "tool"))
    setup = Setup(task, TaskModel.for_task(task, model), 0)
    return AdaptedModel.fit(parse_recipe(recipe, shots=1, raced=False), rows, setup, choice={})


def scores_of(model):
    return model.score([ScoreRequest(PROMPT, ANSWERS)])[0]


# Code that comes with a model

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({marker!r}).write_text("run")
class MadeConfig(LlamaConfig):
    model_type = "made"
class Made(LlamaForCausalLM):
    config_class = MadeConfig
class MadeTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def nobody_is_asked(monkeypatch, tmp_path):
    """Whoever reads from the terminal fails; code that is trusted is copied nowhere but here."""

    def read(*_):
        raise AssertionError("something asks on the terminal")

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def coded(folder, nobody_is_asked):
    """A model that brings the code of its config, network and tokenizer, and the file that they write."""
    marker = folder.parent / "marker"
    (folder / "made.py").write_text(CODE.format(marker=str(marker)))
    auto = {"AutoConfig": "made.MadeConfig", "AutoModelForCausalLM": "made.Made"}
    edit_json(folder / CONFIG, lambda c: c.update(model_type="made", architectures=["Made"], auto_map=auto))
    return folder, marker


def test_code_of_a_model_is_not_run(coded, refused, run_cli, words_task):
    folder, marker = coded
    text = refused(folder)
    assert text.endswith("Read it, and if you trust it give --trust-remote-code.")
    found = run_cli("validate", words_task, "--model", folder, input="y\n" * 9)
    assert (found.code, found.out) == (2, "")
    assert "brings Python code of its own" in found.err
    assert not marker.exists()


def test_code_that_is_trusted_is_run_recorded_and_asked_for_again(coded, run_cli, words_task, tmp_path):
    folder, marker = coded
    assert run_cli("validate", words_task, "--model", folder, "--trust-remote-code").code == 0
    assert marker.exists()
    adapted(kshot.load_model(folder, trust_remote_code=True)).save(tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "kshot.json").read_text())
    assert saved["model"]["origin"] == {"dtype": "float32", "trust_remote_code": True}
    settings = RunSettings("task", str(folder), trust_remote_code=True)
    assert settings.placing(folder)["trust_remote_code"]
    assert settings.repeat == f"kshot adapt task --model {folder} --trust-remote-code"
    marker.unlink()
    found = run_cli("predict", tmp_path / "run", input="y\n")
    assert found.code == 2
    assert "give --trust-remote-code (in Python trust_remote_code=True)." in found.err
    assert not marker.exists()
    assert run_cli("predict", tmp_path / "run", "--trust-remote-code", input="a cat\n").code == 0
    suite = ("--suite", "letter-case", "--limit", "1", "--trust-remote-code")
    done = run_cli("evaluate", tmp_path / "run", words_task, *suite, "--against", tmp_path / "run")
    assert (done.code, "; against " in done.out) == (0, True)
    for verb in ("unlearn", "saliency"):
        assert "--trust-remote-code" in run_cli(verb, "--help").out


def test_code_of_a_tokenizer_or_beside_a_known_architecture_is_not_run(folder, nobody_is_asked):
    marker = folder.parent / "marker"
    (folder / "made.py").write_text(CODE.format(marker=str(marker)))
    auto = {"AutoConfig": "made.MadeConfig", "AutoModelForCausalLM": "made.Made"}
    edit_json(folder / CONFIG, lambda c: c.update(auto_map=auto))
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": ["made.X", "made.X"]}))
    assert kshot.load_model(folder).origin == {"dtype": "float32"}
    assert kshot.load_model(folder, trust_remote_code=False).backbone.vocab_size > 200
    assert not marker.exists()


@pytest.mark.slow
def test_code_of_an_encoder_is_not_run(coded):
    from kshot.encoders.encoder import load_encoder

    folder, marker = coded
    auto = {"AutoConfig": "made.MadeConfig", "AutoModel": "made.Made"}
    edit_json(folder / CONFIG, lambda c: c.update(auto_map=auto))
    with pytest.raises(
        UserError, match="brings Python code of its own, which kshot does not run. Give another encoder"
    ):
        load_encoder(str(folder))
    assert not marker.exists()


# Weights


def test_a_missing_head_is_refused(folder, refused):
    model = LlamaForCausalLM.from_pretrained(folder)
    LlamaModel.from_pretrained(folder).save_pretrained(folder)
    text = refused(folder)
    assert "must hold all weights of a causal language model; 'lm_head.weight' would be random (saved as Llama" in text
    edit_json(folder / CONFIG, lambda c: c.update(tie_word_embeddings=True))
    assert kshot.load_model(folder).backbone.model.lm_head.weight.shape == model.lm_head.weight.shape


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop(UP), f"'{UP}' would be random (saved as LlamaForCausalLM, loaded as LlamaForCausalLM)"),
        (lambda w: w.update(more=torch.ones(2)), "must hold no weights but its own; there is no place for 'more'"),
        (lambda w: w.update({UP: torch.ones(3, 16)}), f"The weight '{UP}' of '.*' must have the shape [24, 16]; its"),
        (lambda w: w[UP].__setitem__((5, 7), float("nan")), f"must be finite numbers; '{UP}' holds NaN or infinity."),
        (
            lambda w: w.update({UP: w[UP].to(torch.int8)}),
            f"as floating-point numbers; '{UP}' is of type I8, and config",
        ),
        (
            lambda w: w.update({UP: w[UP].to(torch.float8_e5m2)}),
            f"'{UP}' is of type F8_E5M2, and config.json tells of no",
        ),
    ],
    ids=["missing", "left over", "reshaped", "nan", "integers", "eight bits"],
)
def test_weights_that_are_not_the_models_are_named(folder, refused, edit, message):
    edit_weights(folder / WEIGHTS, edit)
    before, _, after = message.partition(".*")
    text = refused(folder)
    assert before in text
    assert after in text


def test_large_numbers_are_no_infinity(folder):
    edit_weights(folder / WEIGHTS, lambda w: w["model.embed_tokens.weight"].__setitem__(slice(250, None), 1e38))
    assert np.isfinite(scores_of(kshot.load_model(folder))).all()


def test_a_models_eyes_are_no_weights_too_many(tmp_path):
    text = {"vocab_size": 259, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    eyes |= {"image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=1)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert kshot.load_model(tmp_path).backbone.config.num_hidden_layers == 1


def test_loading_leaves_everything_of_the_process_as_it_was(folder, capfd):
    transformers.logging.set_verbosity_warning()
    drawn = torch.get_rng_state()
    bars = transformers.logging.is_progress_bar_enabled()
    kshot.load_model(folder)
    edit_weights(folder / WEIGHTS, lambda w: w.pop(UP))
    with pytest.raises(UserError):
        kshot.load_model(folder)
    assert transformers.logging.get_verbosity() == transformers.logging.WARNING
    assert transformers.logging.is_progress_bar_enabled() == bars
    assert torch.equal(torch.get_rng_state(), drawn)
    assert capfd.readouterr() == ("", "")


def test_what_transformers_prints_is_set_in_one_place():
    source = Path(kshot.__file__).parent
    setting = ("set_verbosity", "disable_progress_bar")
    users = {f.name for f in source.rglob("*.py") if any(word in f.read_text("utf-8") for word in setting)}
    assert users == {"quiet.py", "hub_dataset.py", "wilcoxon_pruner.py"}  # the others for `datasets` and `optuna`


@pytest.mark.slow
def test_importing_kshot_leaves_transformers_as_it_is(run_process):
    code = "import transformers as t; t.logging.set_verbosity_info(); import kshot; kshot.load_model('tiny'); "
    code += "import kshot.encoders.encoder; print(t.logging.get_verbosity(), t.logging.is_progress_bar_enabled())"
    assert run_process("-c", code).out == "20 True\n"


# Models of another kind


def test_a_model_that_looks_ahead_is_refused(tmp_path, refused):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = byte_tokenizer()
    for name, is_decoder in (("bert", False), ("causal", True)):
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, is_decoder=is_decoder, **shape)
        BertLMHeadModel(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    text = refused(tmp_path / "bert")
    assert "change with what comes after, so it would see the answer that it is asked for. Give another model." in text
    assert kshot.load_model(tmp_path / "causal").obstacle is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "is an encoder with a decoder (t5, T5ForConditionalGeneration). Give another model."),
        ({"model_type": "clip"}, "is none (clip, T5ForConditionalGeneration). Give another model."),
        ({"model_type": "nonesuch"}, "model type `nonesuch` but Transformers does not recognize this architecture"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "a package that is not installed"),
        ({"quantization_config": {"quant_method": "nonesuch"}}, "by a method that transformers does not know here."),
        ({"hidden_size": "x"}, "'hidden_size': TypeError: Field 'hidden_size' expected int, got str"),
        ({"eos_token_id": 10**6}, "among the 259 that its network knows; got the id 1000000. Correct config.json"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:40],
)
def test_configs_that_say_something_else(folder, refused, config, message):
    (folder / "generation_config.json").unlink()
    made_as = ["LlamaForCausalLM"] if "model_type" not in config else ["T5ForConditionalGeneration"]
    edit_json(folder / CONFIG, lambda c: c.update(config, architectures=made_as))
    assert message in refused(folder)


def test_a_classifier_is_named(folder, refused):
    edit_json(folder / CONFIG, lambda c: c.update(architectures=["LlamaForSequenceClassification"]))
    edit_weights(folder / WEIGHTS, lambda w: w.update({"score.weight": w.pop("lm_head.weight")[:2]}))
    assert "(saved as LlamaForSequenceClassification, loaded as LlamaForCausalLM)" in refused(folder)


# Files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (WEIGHTS, POINTER, "it is a pointer of Git LFS, which stands for it. Run `git lfs pull`"),
        ("tokenizer.json", POINTER, "it is a pointer of Git LFS, which stands for it. Run `git lfs pull`"),
        (CONFIG, POINTER, "it is a pointer of Git LFS, which stands for it. Run `git lfs pull`"),
        (WEIGHTS, b"", "it is empty. Download it again."),
        (CONFIG, b"", "it is empty. Download it again."),
        (WEIGHTS, None, "must hold weights in model.safetensors; it has none. Download them too."),
        (CONFIG, None, "has no config.json. Copy the whole folder that save_pretrained wrote."),
        (CONFIG, b"{", "config.json must hold a JSON object; Expecting property name"),
        (CONFIG, b"[1]", "config.json must hold a JSON object; it holds something else. Download it again."),
        (CONFIG, b"\xff\xfe", "config.json must hold a JSON object; 'utf-8' codec can't decode"),
        ("generation_config.json", b"{", "generation_config.json must hold a JSON object"),
        ("tokenizer.json", b"{}", "must be a causal language model that transformers can read; it says: "),
        (WEIGHTS, b"\x00" * 7, "must hold weights as safetensors; it is cut off or damaged ("),
    ],
)
def test_files_that_are_not_what_they_should_be(folder, refused, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert message in refused(folder)


def test_weights_that_are_cut_off(folder, refused):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])
    assert "model.safetensors must hold weights as safetensors; it is cut off or damaged (" in refused(folder)


def test_a_folder_without_tokenizer(folder, refused):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "must hold a tokenizer beside the weights; it has none of tokenizer.json, tokenizer.model" in refused(folder)


def test_pickles_are_not_loaded(folder, refused):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    text = refused(folder)
    assert "it has pytorch_model.bin. Convert it where you trust it: AutoModelForCausalLM.from_pretrained" in text


def test_a_missing_shard_is_named(tmp_path, refused):
    folder = write_model(tmp_path / "model", sharded=True)
    assert kshot.load_model(folder).backbone.vocab_size > 200
    (folder / "model-00002-of-00004.safetensors").unlink()
    assert f"every file that {INDEX} names; model-00002-of-00004.safetensors is missing." in refused(folder)


def test_other_folders_and_files_say_what_to_write(tmp_path, refused, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert refused("x.gguf").endswith("Write gguf:x.gguf")
    assert refused("elsewhere/y.gguf").endswith("Write gguf:elsewhere/y.gguf")
    assert f"write gguf:{tmp_path / 'x.gguf'}" in refused(tmp_path)
    assert "is a file. Name its folder." in refused(whole / CONFIG)
    assert "there is no folder './nowhere'" in refused("./nowhere")
    assert "there is no folder ''" in refused("")
    adapted(kshot.load_model("scripted")).save(tmp_path / "run" / "best")
    assert "is what kshot has made of one. Ask it with `kshot predict" in refused(tmp_path / "run")
    assert "is what kshot has made of one." in refused(tmp_path / "run" / "best")


def test_gguf_files_that_cannot_be_read(tmp_path, refused, monkeypatch):
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "x.gguf"
    assert "there is no file" in refused(f"gguf:{file}")
    for content, message in [
        (POINTER, "is a pointer of Git LFS"),
        (b"", "it is empty"),
        (b"PK\x03\x04", "is something else. Give another file."),
        (b"GGUF", "must be a causal language model in a GGUF file that transformers can read; it says:"),
        (b"GGUF\x03\x00\x00\x00" + bytes(range(200)), "must be a causal language model in a GGUF file"),
    ]:
        file.write_bytes(content)
        assert message in refused(f"gguf:{file}")
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(file, "nonesuch")
    writer.add_context_length(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "nonesuch" in refused(f"gguf:{file}")
    assert not list((tmp_path / "cache").iterdir())


# Tokenizers


def test_a_tokenizer_with_more_words_than_the_network(folder, refused):
    def add(value):
        value["model"]["vocab"] |= {"word": 259, "other": 260}

    edit_json(folder / "tokenizer.json", add)
    assert "has 2 words beyond the 259 that the network knows, the first is 'word' (259). Copy" in refused(folder)


def test_a_special_token_without_a_vector_is_refused_where_it_is_written(folder):
    added = {"id": 259, "content": "<image>", "special": True}
    edit_json(
        folder / "tokenizer.json", lambda t: t["added_tokens"].append(t["added_tokens"][0] | added)
    )  # as in Gemma 3
    model = kshot.load_model(folder)
    assert np.isfinite(scores_of(model)).all()
    with pytest.raises(UserError, match="'<image>' has none, though its tokenizer knows it. Leave it out of the text."):
        model.count_tokens("an <image> here")


def test_a_tokenizer_that_drops_letters(folder, refused):
    edit_json(folder / "tokenizer.json", lambda t: t["model"]["vocab"].pop("q"))
    assert "must turn every text into tokens; it drops 'q'." in refused(folder)


# Adapters


@pytest.fixture(scope="module")
def adapter(whole, tmp_path_factory):
    """A LoRA adapter of the whole model that changes its answers, without a tokenizer."""
    path = tmp_path_factory.mktemp("adapters") / "adapter"
    model = AutoModelForCausalLM.from_pretrained(whole)
    with warnings.catch_warnings():  # of peft's own
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.5, generator=drawn)
    model.save_pretrained(path)
    ids = torch.tensor([[5, 6, 7, 8]])
    return path, ids, model(input_ids=ids).logits.detach()


@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 8]}},
    ],
)
def test_an_adapter_of_words_that_share_their_weights_with_the_output(tmp_path, how):
    base, path = write_model(tmp_path / "base", tie_word_embeddings=True), tmp_path / "adapter"
    with warnings.catch_warnings():  # of peft's own
        warnings.simplefilter("ignore")
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, task_type="CAUSAL_LM", **how)
        )
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in (p for p in model.parameters() if p.requires_grad):
                weight.add_(torch.randn(weight.shape, generator=drawn) * 0.3)
        model.eval().save_pretrained(path)
    expected = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.detach()
    (found,) = kshot.load_model(path).backbone.plain_logits([[5, 6, 7, 8]])
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)


def test_an_adapter_is_a_model(adapter, whole):
    path, ids, logits = adapter
    model = kshot.load_model(path)
    (found,) = model.backbone.plain_logits(ids.tolist())
    torch.testing.assert_close(found, logits[0], rtol=1e-4, atol=1e-4)
    assert model.fingerprint != kshot.load_model(whole).fingerprint
    assert model.obstacle is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: edit_json(p / "adapter_config.json", lambda c: c.pop("base_model_name_or_path")), "got none. Write"),
        (lambda p: edit_json(p / "adapter_config.json", lambda c: c.update(base_model_name_or_path="no/such")),
         "but 'no/such' is not (a relative path is looked up from the current folder): "),
        (lambda p: edit_json(p / "adapter_config.json", lambda c: c.update(peft_type="NONE")), "peft says: "),
        (lambda p: edit_json(p / "adapter_config.json", lambda c: c.update(r=3)), "peft says: "),
        (lambda p: (p / "adapter_config.json").write_text("{"), "adapter_config.json must hold a JSON object"),
        (lambda p: (p / "adapter_model.safetensors").write_bytes(POINTER), "is a pointer of Git LFS"),
        (lambda p: (p / "adapter_model.safetensors").unlink(), "must hold its weights in adapter_model.safetensors"),
        (lambda p: edit_weights(p / "adapter_model.safetensors", lambda w: w.pop(sorted(w)[0])), "is missing. Save it"),
        (lambda p: edit_weights(p / "adapter_model.safetensors", lambda w: w.update(x=torch.ones(1))), "has no place."),
        (lambda p: edit_weights(p / "adapter_model.safetensors", lambda w: w[sorted(w)[0]].fill_(torch.inf)),
         "holds NaN or infinity"),
        (lambda p: (p / CONFIG).write_text("{}"), "has both config.json and adapter_config.json. Move the adapter's"),
    ],
    ids=["no base", "unknown base", "type", "rank", "json", "pointer", "no file", "missing", "more", "nan", "both"],
)  # fmt: skip
def test_adapters_that_do_not_fit(adapter, tmp_path, refused, edit, message):
    path = shutil.copytree(adapter[0], tmp_path / "adapter")
    edit(path)
    assert message in refused(path)


def test_an_adapter_of_a_base_of_another_shape(adapter, tmp_path, refused):
    other = write_model(tmp_path / "other", intermediate_size=20)
    path = shutil.copytree(adapter[0], tmp_path / "adapter")
    edit_json(path / "adapter_config.json", lambda c: c.update(base_model_name_or_path=str(other)))
    assert "must be an adapter of the base that its adapter_config.json names; peft says: Error(s)" in refused(path)


# What was learnt


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, whole):
    """A folder of an adapted model with a LoRA adapter, and one with a steering."""
    folder = tmp_path_factory.mktemp("learnt")
    model = kshot.load_model(whole)
    for name, settings in (("fine-tune", "lr=1e-2,steps=1"), ("icv", "strength=0.1")):
        adapted(model, f"{name}:{settings}").save(folder / name)
    return folder


def test_learnt_weights_that_are_not_numbers_are_refused(learnt, tmp_path):
    folder = shutil.copytree(learnt / "fine-tune", tmp_path / "best")
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[3]
    weights[name][0, 0] = float("nan")
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    save_file(weights, file, metadata=about)
    write_seal(folder)
    with pytest.raises(UserError, match=rf"must be finite numbers; '{name}' holds NaN or infinity. Adapt again."):
        kshot.load(folder)


def test_a_merge_that_fails_leaves_nothing(learnt, tmp_path, run_cli, monkeypatch):
    out = tmp_path / "merged"

    def fail(model, folder, **_):
        folder.mkdir(exist_ok=True)
        (folder / WEIGHTS).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", fail)
        found = run_cli("merge", learnt / "fine-tune", "--out", out)
    assert (found.code, found.out) == (3, "")
    assert "must be writable; the system says: No space left on device." in found.err
    assert os.listdir(tmp_path) == []
    assert run_cli("merge", learnt / "fine-tune", "--out", out).code == 0
    model = kshot.load_model(out)
    np.testing.assert_allclose(scores_of(model), own_scores(model, out, PROMPT), rtol=1e-4, atol=1e-4)
    inside = run_cli("merge", learnt / "fine-tune", "--out", learnt / "fine-tune" / "merged")
    assert inside.code == 2
    assert "merged must be outside of the adapted model " in inside.err
    again = run_cli("merge", learnt / "fine-tune", "--out", out)
    assert again.code == 2
    assert "must be new or empty, for the merged model; it holds something. Name another folder." in again.err
    (tmp_path / "file").write_text("")
    assert run_cli("merge", learnt / "fine-tune", "--out", tmp_path / "file").code == 2


# Devices


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "meta", "bogus", "", "CPU", "xpu", "hpu"])
def test_devices_that_are_not_there(whole, device):
    said = []

    def load():
        try:
            kshot.load_model(whole, device=device)
        except Exception as error:
            said.append(error)

    before = torch.get_default_device()
    for thread in [threading.Thread(target=load) for _ in range(2)]:
        thread.start()
        thread.join()
    load()
    assert [type(error) for error in said] == [UserError] * 3
    assert len({str(error) for error in said}) == 1
    assert str(said[0]).startswith("--device must be one that ")
    assert str(said[0]).endswith("Leave it out, or write cpu.")
    assert "\n" not in str(said[0])
    assert torch.get_default_device() == before


# Where models are


def test_a_relative_name_is_found_from_anywhere(folder, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(folder.parent)
    model = kshot.load_model("model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    adapted(model).save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "kshot.json").read_text())["model"]["name"] == str(folder)
    assert run_cli("predict", tmp_path / "run", input="a cat\n").code == 0
    folder.rename(tmp_path / "moved")
    found = run_cli("predict", tmp_path / "run", input="a cat\n")
    assert found.code == 2
    assert f"{folder}, which is not there any more. Put it back, or say where it is with --model (in" in found.err
    assert run_cli("predict", tmp_path / "run", "--model", "../moved", input="a cat\n").code == 0
    assert kshot.load(tmp_path / "run", model="../moved").model.name == str(tmp_path / "moved")
    other = write_model(tmp_path / "other", intermediate_size=20)
    found = run_cli("predict", tmp_path / "run", "--model", other, input="a cat\n")
    assert f"was adapted with other weights, config or tokenizer than those of '{other}'" in found.err


def test_an_encoders_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    from kshot.recipes.grammar import parse_recipe

    monkeypatch.chdir(tmp_path)
    for name in ("encoder", "minilm"):
        (tmp_path / name).mkdir()
    for recipe in ("dense", "diverse", "embedding-lr", "llm-r"):
        (part,) = parse_recipe(f"{recipe}:encoder=encoder", shots=1).record()["parts"].values()
        assert part["settings"]["encoder"] == str(tmp_path / "encoder")
        (part,) = parse_recipe(recipe, shots=1).record()["parts"].values()
        assert part["settings"]["encoder"] == "minilm"
    (part,) = parse_recipe("dense:encoder=org/encoder", shots=1).record()["parts"].values()
    assert part["settings"]["encoder"] == "org/encoder"


# Modes of torch


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_training_does_not_mind_what_the_caller_has_switched_off(whole, kind, off):
    lesson = TrainingText(Prompt((Segment("query", "Text: the cat\nLabel:"), Segment("answer", " animal\n"))))

    def learnt():
        engine = kshot.load_model(whole)
        if kind == "prefix":
            return engine.gradients([lesson], GradientSettings(of="prefix", tokens=2), seed=0)
        model = engine.trainable(Training(weights=kind, lr=1e-2), seed=0)
        losses = [model.learn(Batch((lesson,))).loss_nats for _ in range(2)]
        return [*losses, *scores_of(model)]

    usual = learnt()
    with off():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        np.testing.assert_array_equal(learnt(), usual)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fine-tune", "soft-injection", "icl+ft:align=gate", "llm-r"])
def test_recipes_do_not_mind_what_the_caller_has_switched_off(recipe, words_task, tmp_path):
    more = {"source": words_task} if "align" in recipe else {}

    def answered(name):
        how = {"limit": 2, "shots": 1, "out": tmp_path / name, **more}
        run = kshot.adapt(words_task, "tiny", recipes=recipe, **how)
        return run.best.predict_proba(["the cat"]), kshot.load(tmp_path / name).predict_proba(["the cat"])

    usual = answered("usual")
    with torch.no_grad():
        np.testing.assert_array_equal(answered("no-grad"), usual)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        np.testing.assert_array_equal(answered("inference"), usual)
        assert torch.is_inference_mode_enabled()


def test_the_default_precision_of_torch_is_not_that_of_tiny():
    usual = tiny_backbone().fingerprint
    torch.set_default_dtype(torch.float64)
    try:
        assert tiny_backbone().fingerprint == usual
    finally:
        torch.set_default_dtype(torch.float32)


# Anything


def check_broken(seeds, tmp_path, *, predict):
    """Break one thing for each seed; return what was refused and what was not, as texts."""
    refusals, taken = [], []
    for seed in seeds:
        folder = tmp_path / str(seed)
        what = break_one_thing(folder, seed)
        said = refusal(folder, predict=predict)
        (taken if said is None else refusals).append(f"{what}: {said}")
        assert said is None or ("\n" not in said and len(said) < 700 and said.rstrip("`)")[-1] in ".F")
        shutil.rmtree(folder)
    return refusals, taken


def test_folders_with_one_thing_wrong(tmp_path):
    refusals, _ = check_broken(range(7, 19), tmp_path, predict=False)
    assert len(refusals) >= 8


@pytest.mark.slow
def test_many_folders_with_one_thing_wrong(tmp_path):
    refusals, taken = check_broken(range(200), tmp_path, predict=True)
    assert len(refusals) >= 120
    assert not [text for text in taken if " without model." in text or "nan in" in text or "inf in" in text]
