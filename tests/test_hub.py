"""Adapted models on the model hub, against a stand-in for its HTTP: what is pushed is what is loaded."""

import json
import os
from pathlib import Path

import pytest
import yaml

import kshot
from broken_models import write_model
from hub_stand_in import TOKEN, Hub, hub_stand_in
from kshot.adapted.adapter_files import Base
from kshot.adapted.model import AdaptedModel
from kshot.adapted.model_card import card_of
from kshot.core.errors import UserError
from test_export import TASK, TRAINED, adapted_to

CHOICE = {
    "run": "/home/somebody/runs/words",
    "in_words": "random was chosen: 0.810 is expected of its accuracy.",
    "deployed": 0.81,
    "deployed_low": 0.7,
    "deployed_high": 0.9,
    "metric": 0.75,
    "metric_low": 0.6,
    "metric_high": 0.85,
    "metric_n": 12,
    "n_examples": 12,
}
ASKED = """
import json, sys
from contextlib import redirect_stderr
from io import StringIO

import kshot

def refused(ask, *args, **how):
    try:
        ask(*args, **how)
    except kshot.core.errors.UserError as error:
        return str(error).replace("\\n", " ")

pull, said = kshot.AdaptedModel.from_pretrained, StringIO()
names = (("me/nothing", None), ("me/words", "hf_wrong"), ("a/b/c", None), ("me/other", None))
found = {"refused": [refused(pull, name, token=token) for name, token in names]}
found["pushed"] = kshot.load(sys.argv[1]).push_to_hub("me/words")
with redirect_stderr(said):
    found["pulled"] = pull("me/words").predict(["the cat and the dog"])
found["said"] = said.getvalue()
found["no models"] = [refused(kshot.load_model, name) for name in ("me/gated", "me/nothing")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub():
    with hub_stand_in() as hub:
        yield hub


@pytest.fixture(scope="module")
def run(hub, run_process, tmp_path_factory):
    """Run Python with the stand-in as its hub."""

    def run(code: str, *args: object, token: str = TOKEN, url: str = ""):
        own = {
            "HF_ENDPOINT": url or hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path_factory.mktemp("hf")),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",  # the other way of large files, which is not HTTP alone
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return run_process("-c", code, *args, env={**os.environ, **own})

    return run


@pytest.fixture(scope="module")
def adapted():
    found = adapted_to("random", kshot.load_model("scripted"))
    return AdaptedModel(found.fitted, choice=CHOICE)


@pytest.fixture(scope="module")
def asked(hub: Hub, run, adapted, tmp_path_factory):
    """What one process is told that pushes a model, loads it, and asks for what it does not get."""
    hub.files["me/words"] = {"kshot/steering.json": b"{}", "adapter_config.json": b"{}", "notes.txt": b"mine"}
    hub.files["me/other"] = {"README.md": b"mine"}
    hub.gated.add("me/gated")
    folder = tmp_path_factory.mktemp("adapted") / "model"
    adapted.save(folder)
    return run(ASKED, folder)


def test_what_is_pushed_is_what_is_loaded(hub: Hub, asked, adapted):
    assert asked.json["pushed"].startswith(f"{hub.url}/me/words/commit/")
    files = hub.files["me/words"]
    assert sorted(files) == [
        "README.md",
        "kshot/checksums.json",
        "kshot/demonstrations.jsonl",
        "kshot/kshot.json",
        "kshot/learnt.txt",
        "notes.txt",
    ]
    assert hub.private["me/words"]
    assert files["kshot/demonstrations.jsonl"] in hub.large.values()  # by LFS
    assert hub.cards[-1:] == [files["README.md"].decode()]
    assert "run" not in json.loads(files["kshot/kshot.json"])["choice"]  # a place on this machine
    assert not any(part in data for data in files.values() for part in (TOKEN.encode(), b"/home/somebody"))
    assert (asked.json["pulled"], asked.json["said"]) == (adapted.predict(["the cat and the dog"]), "")


def test_what_the_hub_refuses_is_said_in_a_sentence(asked):
    nothing, wrong, name, other = asked.json["refused"]
    assert nothing.startswith("'me/nothing' must be a repository that you may read or write; the hub says: ")
    assert wrong.endswith("give a token that may, by HF_TOKEN.")
    assert name.startswith("A repository must be a folder, or USER/NAME on the hub; got 'a/b/c'")
    assert other.startswith("'me/other' must be an adapted model of kshot; it has no folder kshot/.")
    assert "hf_wrong" not in asked.out + asked.err


def test_models_that_are_gated_or_not_there_are_told_apart(asked):
    gated, nothing = asked.json["no models"]
    assert gated == (
        "--model must be one that you may read; 'me/gated' is gated. Ask for access on its page of the hub, then log "
        "in with `hf auth login` or set HF_TOKEN."
    )
    assert (
        "got 'me/nothing' (the hub has none of this name that you may read). For a private one log in with" in nothing
    )


def test_without_a_network_the_hub_is_not_there(tmp_path):
    with pytest.raises(UserError, match="'me/words' needs the hub, with HF_TOKEN where it is private or written"):
        AdaptedModel.from_pretrained("me/words")  # tests are offline
    with pytest.raises(
        UserError, match=r"got 'me/words' \(it is not here, and the hub cannot be reached\)\. Go online, "
    ):
        kshot.load_model("me/words")


def test_an_unreachable_hub_is_said_in_a_sentence(run, adapted, tmp_path):
    code = "import kshot, sys\ntry:\n    kshot.load(sys.argv[1]).push_to_hub('me/words')\n"
    code += "except kshot.core.errors.ModelError as error:\n    print(error)"
    adapted.save(tmp_path / "model")
    found = run(code, tmp_path / "model", url="http://127.0.0.1:1")
    assert found.out.startswith("The hub must be reachable; 'me/words': "), found.err
    assert found.out.endswith("Go online, and try again.\n")


def test_a_folder_is_a_repository_too(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "words")
    again = AdaptedModel.from_pretrained(tmp_path / "words")
    assert again.predict_proba(TASK.test).tolist() == adapted.predict_proba(TASK.test).tolist()
    with pytest.raises(UserError, match="must be new or empty, for the repository; it holds something."):
        adapted.save_pretrained(tmp_path / "words")


def test_what_has_forgotten_does_not_tell_where_its_run_was(adapted, tmp_path):
    forgetful = AdaptedModel(adapted.fitted, choice={"before": {"before": adapted.choice, "run": "/home/somebody/b"}})
    forgetful.save_pretrained(tmp_path / "words")
    assert "/home/somebody" not in (tmp_path / "words" / "kshot" / "kshot.json").read_text("utf-8")
    assert forgetful.choice["before"]["run"] == "/home/somebody/b"


def test_the_card_tells_number_interval_labels_and_choice(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "words")
    card = (tmp_path / "words" / "README.md").read_text("utf-8")
    assert 'kshot.AdaptedModel.from_pretrained("USER/NAME")' in card  # a folder's name is no repository
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "kshot",
        "pipeline_tag": "text-classification",
        "tags": ["kshot", "few-shot"],
    }
    for said in (
        "random was chosen: 0.810 is expected of its accuracy.",
        "| accuracy expected on new inputs | 0.810 (95 %: 0.700 to 0.900) |",
        "| accuracy while learning | 0.750 (95 %: 0.600 to 0.850), each of 12 predicted before its label was learnt |",
        "| labelled examples used | 12 |",
        "| labels | animal, food, tool |",
        "It holds 2 of the labelled examples as they are, which it shows to the model.",
    ):
        assert said in text


def test_the_card_of_an_adapter_tells_how_others_load_it():
    base = Base("google/gemma-3-270m", "9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1", on_hub=True)
    card = card_of(adapted_to(f"{TRAINED},rank=20", kshot.load_model("tiny")), "me/words", base)
    head = yaml.safe_load(card.split("---\n", 2)[1])
    assert (head["base_model"], head["base_model_relation"]) == ("google/gemma-3-270m", "adapter")
    for said in (
        "| language model | google/gemma-3-270m at 9b0cfec892e2 |",
        'PeftModel.from_pretrained(base, "me/words")',
        f"vllm serve google/gemma-3-270m --revision {base.revision} --enable-lora --max-lora-rank 32 "
        "--lora-modules kshot=me/words",
        "kshot export model/kshot --to gguf-lora --out gguf",
    ):
        assert said in card


def test_a_model_that_others_cannot_load_is_not_pushed(tmp_path):
    folder = write_model(tmp_path / "base")
    with pytest.raises(UserError, match=f"must name a language model that others can load; '{folder}' is a place on"):
        adapted_to("random", kshot.load_model(folder)).push_to_hub("me/words")


def test_an_adapter_stands_at_the_top_where_its_base_is_on_the_hub(tmp_path, monkeypatch):
    from kshot.adapted import hub_folder

    folder = write_model(tmp_path / "base")
    adapted = adapted_to(TRAINED, kshot.load_model(folder))
    adapted.save_pretrained(tmp_path / "local")
    assert not (tmp_path / "local" / "adapter_config.json").exists()
    monkeypatch.setattr(hub_folder, "base_of", lambda model: Base("me/base", "abc", on_hub=True))
    adapted.save_pretrained(tmp_path / "words")
    config = json.loads((tmp_path / "words" / "adapter_config.json").read_text("utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", "abc")
    assert (tmp_path / "words" / "adapter_model.safetensors").exists()
    again = AdaptedModel.from_pretrained(Path(tmp_path / "words"))
    assert again.predict(TASK.test) == adapted.predict(TASK.test)
