"""Loading models from folders, their tokenizers, and what is said where that fails."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import kshot
from kshot.core.errors import UserError
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.engine.load_model import load_model, portable_name
from kshot.models.checkpoint import load_backbone
from kshot.models.hf import Backbone
from kshot.models.tiny import tiny_backbone

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<s>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def llama2_like_tokenizer() -> PreTrainedTokenizerFast:
    """One that writes a space before every text, as SentencePiece does."""
    vocab = {c: i for i, c in enumerate(["<unk>", "▁", "\n", ":", *"abcdelx", "▁a", "▁b"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tokenizer = byte_tokenizer()
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_folder_of_transformers_is_loaded_and_scores(folder):
    model = kshot.load_model(str(folder))
    (scores,) = model.score([ScoreRequest(Prompt((Segment("query", "Text: x\nLabel:"),)), (" a\n", " b\n"))])
    assert scores.shape == (2,)
    assert model.max_tokens == 128
    assert load_model(str(folder)).fingerprint == model.fingerprint
    assert load_model(str(folder), dtype="bfloat16").fingerprint != model.fingerprint
    assert load_model(str(folder), dtype="bfloat16").origin == {"dtype": "bfloat16"}


def test_no_space_is_put_before_segments():
    tokenizer = llama2_like_tokenizer()
    assert tokenizer.encode("a", add_special_tokens=False) == tokenizer.convert_tokens_to_ids(["▁a"])
    backbone = Backbone(tiny_backbone().model, tokenizer, "spaces")
    assert tokenizer.convert_ids_to_tokens(backbone.tokenise(" a\n")) == ["▁a", "\n"]
    assert tokenizer.convert_ids_to_tokens(backbone.tokenise("label:")) == ["l", "a", "b", "e", "l", ":"]


def test_byte_level_tokenizers_are_taken_as_they_are():
    tokenizer = byte_tokenizer()
    backbone = Backbone(tiny_backbone().model, tokenizer, "bytes")
    assert list(backbone.tokenise(" é\n")) == tokenizer.encode(" é\n", add_special_tokens=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "--model must be a hub id, or a folder, .* got 'tinny' .* Did you mean 'tiny'"),
        ("gguf:nowhere.gguf", "there is no file .*nowhere.gguf"),
        ("scripted:nowhere.json", "scripted:FILE must name a JSON file with an object"),
    ],
)
def test_unknown_models_say_what_must_hold(name, message, monkeypatch):
    monkeypatch.setattr("kshot.models.checkpoint.only_local", lambda source: True)
    with pytest.raises(UserError, match=message):
        load_model(name)


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "x.gguf").write_text("no")
    with pytest.raises(UserError, match=r"must name a GGUF file; .*x.gguf. is something else"):
        load_model(f"gguf:{tmp_path / 'x.gguf'}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match=r"which continues a text; .* is an encoder with a decoder \(t5\)"):
        load_model(str(tmp_path))
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(UserError, match=r"must hold an object of texts"):
        load_model(f"scripted:{tmp_path / 'x.json'}")
    with pytest.raises(UserError, match="--dtype must be auto, float32, bfloat16 or float16; got 'int3'"):
        load_backbone(tmp_path, name="x", dtype="int3")


def test_devices_and_precisions_that_do_not_exist_are_refused(folder):
    with pytest.raises(UserError, match="--device must be one that torch has here, such as cpu; got 'bogus'"):
        load_model(str(folder), device="bogus")
    with pytest.raises(UserError, match="must be left out for 'tiny'"):
        load_model("tiny", dtype="bfloat16")


def test_local_names_are_recorded_with_their_whole_path(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert portable_name("model") == str(tmp_path / "model")
    assert portable_name("gguf:a.gguf") == f"gguf:{tmp_path / 'a.gguf'}"
    assert portable_name("google/gemma-3-270m") == "google/gemma-3-270m"
    (tmp_path / "demo").mkdir()
    assert portable_name("demo") == "demo"


@pytest.mark.slow
def test_the_packaged_model_predicts_text():
    model = load_model("demo")
    prompt = Prompt((Segment("query", "The capital of France is"),))
    (scores,) = model.score([ScoreRequest(prompt, (" Paris", " Rome", " banana"))])
    assert scores.argmax() == 0
    assert scores[0] > -3
    assert torch.get_default_dtype() == torch.float32
