"""Model folders with one thing wrong each, drawn by a seed, and what must hold of whatever is loaded from them."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import kshot
from kshot.core.errors import UserError
from kshot.core.types import Prompt, ScoreRequest, Segment

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 268\n"
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
ANSWERS = (" cat\n", " tool\n", " c\n")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with three special tokens."""
    alphabet = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def write_model(folder: Path, model_type: str = "llama", *, sharded: bool = False, **settings: Any) -> Path:
    """Write a model of two layers with random weights, as transformers does."""
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(model_type, **{"vocab_size": len(tokenizer), **SHAPE, **settings})
    drawn = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=drawn)
    model.save_pretrained(folder, **({"max_shard_size": "8KB"} if sharded else {}))
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the object in a file."""
    value = json.loads(file.read_text("utf-8"))
    edit(value)
    file.write_text(json.dumps(value), "utf-8")


def edit_weights(file: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the weights in a file."""
    weights = load_file(file)
    edit(weights)
    save_file({name: values.contiguous() for name, values in weights.items()}, file, metadata={"format": "pt"})


# What can be wrong

ODD_VALUES = (0, -1, 1, 3, 7, 10**6, 1.5, "x", "", None, [], {}, True, [1, 2], "nan", 1e-30)
ODD_TYPES = ("bert", "t5", "gpt2", "mistral", "qwen2", "gemma2", "mamba", "clip", "roberta", "nonesuch", "bart", "opt")
OTHER_DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn)


def _pick(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _config_value(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(config: dict[str, Any]) -> None:
        nonlocal said
        key, value = _pick(rng, sorted(config)), _pick(rng, ODD_VALUES)
        config[key], said = value, f"config {key}={value!r}"

    edit_json(folder / CONFIG, edit)
    return said


def _config_number(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(config: dict[str, Any]) -> None:
        nonlocal said
        key = _pick(rng, sorted(k for k, v in config.items() if isinstance(v, int | float) and v))
        config[key] = _pick(rng, (config[key] * 2, config[key] + 1, config[key] - 1, str(config[key]), -config[key]))
        said = f"config {key}={config[key]!r}"

    edit_json(folder / CONFIG, edit)
    return said


def _config_removed(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(config: dict[str, Any]) -> None:
        nonlocal said
        key = _pick(rng, sorted(config))
        said = f"config without {key}, which was {config.pop(key)!r}"

    edit_json(folder / CONFIG, edit)
    return said


def _config_swapped(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(config: dict[str, Any]) -> None:
        nonlocal said
        one, other = rng.choice(sorted(config), size=2, replace=False).tolist()
        config[one], config[other] = config[other], config[one]
        said = f"config {one} and {other} swapped"

    edit_json(folder / CONFIG, edit)
    return said


def _config_type(folder: Path, rng: np.random.Generator) -> str:
    kind = _pick(rng, ODD_TYPES)
    edit_json(folder / CONFIG, lambda config: config.update(model_type=kind))
    return f"config model_type={kind}"


def _config_more(folder: Path, rng: np.random.Generator) -> str:
    more = _pick(
        rng,
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            {"quantization_config": {"quant_method": "nonesuch"}},
            {"quantization_config": {"quant_method": "fp8"}},
            {"quantization_config": 3},
            {"auto_map": {"AutoConfig": "made.Made", "AutoModelForCausalLM": "made.Made"}},
            {"auto_map": {"AutoTokenizer": ["made.Made", None]}},
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            {"rope_scaling": {"rope_type": "nonesuch"}},
            {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}},
            {"rope_parameters": {}},
            {"layer_types": ["full_attention"]},
            {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 2},
            {"is_encoder_decoder": True},
            {"use_bidirectional_attention": True},
            {"text_config": {"hidden_size": 4}},
            {"attention_bias": True},
            {"dtype": "float8"},
            {"dtype": "float16"},
            {"attn_implementation": "flash_attention_2"},
            {"transformers_weights": "../x.safetensors"},
            {"_name_or_path": "../../nowhere"},
        ),
    )
    edit_json(folder / CONFIG, lambda config: config.update(more))
    return f"config with {more}"


def _weight_removed(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        nonlocal said
        said = _pick(rng, sorted(weights))
        del weights[said]

    edit_weights(folder / WEIGHTS, edit)
    return f"weights without {said}"


def _weight_renamed(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        nonlocal said
        said = _pick(rng, sorted(weights))
        weights[_pick(rng, (f"{said}x", said.upper(), f"base_model.{said}", "x"))] = weights.pop(said)

    edit_weights(folder / WEIGHTS, edit)
    return f"weight {said} renamed"


def _weight_added(folder: Path, rng: np.random.Generator) -> str:
    name = _pick(rng, ("extra.weight", "model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias"))
    edit_weights(folder / WEIGHTS, lambda weights: weights.update({name: torch.ones(16)}))
    return f"weights with {name}"


def _weight_reshaped(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        nonlocal said
        name = _pick(rng, sorted(weights))
        values = weights[name]
        shapes = (values[1:], torch.cat([values, values[:1]]), values.flatten(), values[None], values[:0], values[0])
        weights[name] = _pick(rng, [v for v in shapes if v.shape != values.shape]).clone()
        said = f"{name} of shape {list(weights[name].shape)} instead of {list(values.shape)}"

    edit_weights(folder / WEIGHTS, edit)
    return said


def _weight_not_a_number(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        nonlocal said
        name, value = _pick(rng, sorted(weights)), _pick(rng, (float("nan"), float("inf"), -float("inf")))
        flat = weights[name].flatten()
        flat[int(rng.integers(len(flat)))] = value
        weights[name], said = flat.reshape(weights[name].shape), f"{value} in {name}"

    edit_weights(folder / WEIGHTS, edit)
    return said


def _weight_huge(folder: Path, rng: np.random.Generator) -> str:
    def edit(weights: dict[str, torch.Tensor]) -> None:
        weights[sorted(weights)[0]][0] = 3e38

    edit_weights(folder / WEIGHTS, edit)
    return "weights of 3e38"


def _weight_dtype(folder: Path, rng: np.random.Generator) -> str:
    said = ""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        nonlocal said
        name, dtype = _pick(rng, sorted(weights)), _pick(rng, OTHER_DTYPES)
        weights[name], said = weights[name].to(dtype), f"{name} as {dtype}"

    edit_weights(folder / WEIGHTS, edit)
    return said


def _weights_swapped(folder: Path, rng: np.random.Generator) -> str:
    def edit(weights: dict[str, torch.Tensor]) -> None:
        one, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
        weights[one], weights[other] = weights[other], weights[one]

    edit_weights(folder / WEIGHTS, edit)
    return "two weights of one shape swapped"


def _weights_in_shards(folder: Path, rng: np.random.Generator) -> str:
    shutil.rmtree(folder)
    shutil.copytree(_whole("llama", True), folder)
    shards = sorted(folder.glob("model-*.safetensors"))
    what = _pick(rng, ("missing", "empty", "other", "no map", "odd map", "pointer"))
    if what == "missing":
        _pick(rng, shards).unlink()
    elif what in ("empty", "pointer"):
        _pick(rng, shards).write_bytes(POINTER if what == "pointer" else b"")
    elif what == "other":
        shutil.copy(shards[0], shards[1])
    else:
        edit_json(
            folder / INDEX, lambda index: index.update(weight_map={"x": 1}) if what == "odd map" else index.clear()
        )
    return f"shards: {what}"


def _file_damaged(folder: Path, rng: np.random.Generator) -> str:
    file = _pick(rng, sorted(folder.iterdir()))
    data, what = file.read_bytes(), _pick(rng, ("cut", "flip", "empty", "gone", "pointer", "list", "binary", "folder"))
    changed = {
        "cut": data[: int(rng.integers(1, len(data)))],
        "empty": b"",
        "pointer": POINTER,
        "list": b"[1, 2]",
        "binary": b"\x80\x04\xff\x00" * 40,
    }
    if what == "flip":
        at = int(rng.integers(len(data)))
        file.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
    elif what in ("gone", "folder"):
        file.unlink()
        if what == "folder":
            file.mkdir()
    else:
        file.write_bytes(changed[what])
    return f"{file.name}: {what}"


def _tokenizer_value(folder: Path, rng: np.random.Generator) -> str:
    name, said = _pick(rng, ("tokenizer.json", "tokenizer_config.json", "generation_config.json")), ""

    def edit(value: dict[str, Any]) -> None:
        nonlocal said
        at, path = value, []
        while isinstance(at, dict) and at and (not path or rng.random() < 0.6):
            path.append(_pick(rng, sorted(at)))
            last, at = at, at[path[-1]]
        if rng.random() < 0.3:
            del last[path[-1]]
            said = f"without {'.'.join(path)}"
        else:
            last[path[-1]] = _pick(rng, ODD_VALUES)
            said = f"{'.'.join(path)}={last[path[-1]]!r}"

    edit_json(folder / name, edit)
    return f"{name} {said}"


def _tokenizer_words(folder: Path, rng: np.random.Generator) -> str:
    what = _pick(rng, ("more", "special", "far", "fewer", "same"))

    def edit(value: dict[str, Any]) -> None:
        vocab = value["model"]["vocab"]
        if what == "more":
            vocab |= {f"word{i}": len(vocab) + i for i in range(3)}
        elif what == "special":
            value["added_tokens"].append(value["added_tokens"][0] | {"id": len(vocab), "content": "<image>"})
        elif what == "far":
            vocab["a"] = 10**6
        elif what == "fewer":
            for letter in "abc":
                del vocab[letter]
        else:
            vocab["b"] = vocab["a"]

    edit_json(folder / "tokenizer.json", edit)
    return f"tokenizer's words: {what}"


FAULTS = (
    _config_value,
    _config_value,
    _config_value,
    _config_number,
    _config_number,
    _config_removed,
    _config_swapped,
    _config_type,
    _config_more,
    _config_more,
    _weight_removed,
    _weight_renamed,
    _weight_added,
    _weight_reshaped,
    _weight_not_a_number,
    _weight_huge,
    _weight_dtype,
    _weights_swapped,
    _weights_in_shards,
    _file_damaged,
    _file_damaged,
    _file_damaged,
    _tokenizer_value,
    _tokenizer_value,
    _tokenizer_words,
)


@cache
def _whole(model_type: str, sharded: bool) -> Path:
    """Return a folder with nothing wrong, to be copied."""
    return write_model(Path(mkdtemp(prefix="kshot-")) / "model", model_type, sharded=sharded)


def break_one_thing(folder: Path, seed: int) -> str:
    """Write a model with one thing wrong into a new folder, and return what it is."""
    rng = np.random.default_rng(seed)
    shutil.copytree(_whole("gemma3_text" if rng.random() < 0.25 else "llama", False), folder)
    return FAULTS[seed % len(FAULTS)](folder, rng)


# What must hold


def refusal(folder: Path, *, predict: bool) -> str | None:
    """Load, score and, if asked, predict; return why that was refused, or None where it was right.

    Raises:
        AssertionError: It was loaded and something about it is wrong.
        Exception: Whatever is no error of kshot.
    """
    try:
        model = kshot.load_model(str(folder))
        prompt = Prompt((Segment("query", "Text: the cat\nLabel:"),))
        (scores,) = model.score([ScoreRequest(prompt, ANSWERS)])
    except UserError as error:
        return str(error)
    check_stored(model.backbone.model, folder)
    expected = own_scores(model, folder, prompt)
    np.testing.assert_array_equal(np.isfinite(scores), np.isfinite(expected))  # 3e38 can lead out of the numbers
    if not np.isfinite(expected).all():
        return None
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    if predict:
        classifier = kshot.FewShotClassifier(model=model, recipe="random", shots=2)
        answers = classifier.fit(["the cat", "a saw", "a dog"], ["cat", "tool", "cat"]).predict(["a cat"])
        assert answers[0] in ("cat", "tool")
    return None


def own_scores(model: Any, folder: Path, prompt: Prompt) -> list[float]:
    """Return the log-probabilities of the answers from transformers' own pass, one answer at a time."""
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    first = [int(i) for i in model.encode(prompt).ids]
    found = []
    for answer in ANSWERS:
        ids = list(model.backbone.tokenise(answer))
        with torch.no_grad():
            logits = reference(input_ids=torch.tensor([first + ids])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[len(first) - 1 + i, token]) for i, token in enumerate(ids)))
    return found


def check_stored(model: Any, folder: Path) -> None:
    """Check that every weight of a loaded model is one in its files, and a number."""
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    unseen = set(stored)
    for name, values in model.named_parameters():  # tied weights come once
        assert values.isfinite().all(), name
        assert name in stored, f"{name} is in no file"
        assert values.shape == stored[name].shape, name
        assert torch.equal(values, stored[name].to(values.dtype)), name
        unseen.remove(name)
    embedded = stored["model.embed_tokens.weight"]
    assert all(torch.equal(stored[name], embedded) for name in unseen), unseen  # a tied head may be stored too
