"""The settings of a run: declared once, and all that derives from them says and does the same."""

import inspect
import json
import shlex

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import kshot
from conftest import labelled_rows, write_task
from encoders import make_tiny_encoder
from kshot.core.errors import UserError
from kshot.core.settings import RunSettings, flag_of, settings_of_a_run
from kshot.core.types import Task
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.estimator import FewShotClassifier
from kshot.recipes.names import known_recipes
from kshot.store.run_folder import RESULTS
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare
from test_models import SHAPE, byte_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small language model in a folder, which has a precision and a place."""
    path, tokenizer = tmp_path_factory.mktemp("llama") / "model", byte_tokenizer()
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), **SHAPE | {"max_position_embeddings": 1024})
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def repeat_of(folder):
    return json.loads((folder / RESULTS).read_text("utf-8"))["repeat"]


# Declared once


def test_every_setting_is_a_flag(run_cli):
    text = run_cli("adapt", "--help").out
    for setting in settings_of_a_run():
        assert f"{flag_of(setting.name)} " in text


def test_python_has_the_same_settings_and_defaults():
    arguments = inspect.signature(kshot.adapt).parameters
    for setting in settings_of_a_run():
        if setting.name not in ("model", "track"):
            assert arguments[setting.name].default == setting.default
    assert inspect.signature(FewShotClassifier).parameters["limit"].default == RunSettings.limit


def test_every_setting_can_stand_in_a_file(run_cli, words_task, tmp_path):
    known = [s.name for s in settings_of_a_run()]
    values = {"model": "scripted", "recipes": ["majority", "random"], "shots": 3, "out": str(tmp_path / "run")}
    lines = [f"{name}: {json.dumps(values.get(name, getattr(RunSettings, name)))}\n" for name in known]
    (tmp_path / "run.yaml").write_text("".join(line for line in lines if "null" not in line))
    done = run_cli("adapt", words_task, "--config", tmp_path / "run.yaml", "--json").json
    assert {row["recipe"] for row in done["leaderboard"]} == {"majority", "random"}
    (tmp_path / "run.yaml").write_text("task: words\n")
    refused = run_cli("adapt", words_task, "--config", tmp_path / "run.yaml")
    assert f"there is no setting 'task'. Did you mean 'track'? Known: {', '.join(sorted(known))}." in refused.err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit": 0}, "--limit must be 1 or more; got 0."),
        ({"choose_by": "luck"}, "--choose-by must be metric or bits; got 'luck'."),
        ({"prefer": "cheap"}, "--prefer must be cheap-queries or cheap-fit; got 'cheap'."),
        ({"dtype": "int8"}, "--dtype must be auto, float32, bfloat16 or float16; got 'int8'."),
        ({"columns": "question"}, "--columns must look like input=question,output=answer; got 'question'."),
        ({"budget": "soon"}, "--budget must be a time such as 90s"),
        ({"model": None}, "--model must be given: a hub id or folder"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_read(wrong, message):
    with pytest.raises(UserError) as error:
        RunSettings(**{"task": "no-such-task", "model": "no-such-model"} | wrong)
    assert message in str(error.value)


# The repeat command


@pytest.mark.parametrize(
    "flags",
    [
        ("--model", "scripted", "--recipes", "random,bm25:k=2", "--shots", "3", "--seed", "4"),
        ("--model", "scripted", "--limit", "9"),  # all recipes: those that the model cannot run are left out again
        ("--model", "tiny", "--recipes", "zero-shot,majority", "--no-race", "--choose-by", "bits", "--budget", "10m"),
    ],
)
def test_the_repeat_command_of_a_folder_runs_as_it_stands(run_cli, words_task, recorded, tmp_path, flags):
    first = run_cli("adapt", words_task, *flags, "--out", tmp_path / "first", "--json").json
    repeat = shlex.split(repeat_of(tmp_path / "first"))
    assert repeat[:3] == ["kshot", "adapt", str(words_task)]
    again = run_cli(*repeat[1:], "--out", tmp_path / "again", "--json").json
    assert (again["chosen"], again["work"]) == (first["chosen"], first["work"])
    assert recorded(tmp_path / "again") == recorded(tmp_path / "first")


def test_the_repeat_command_names_columns_models_and_the_source(run_cli, llama, recorded, tmp_path):
    rows = [f"what is {i},{'odd' if i % 2 else 'even'}" for i in range(8)]
    (tmp_path / "parity.csv").write_text("\n".join(["question,answer", *rows]))
    other = write_task(tmp_path / "other words", labelled_rows(6))
    flags = {
        "--model": llama,
        "--recipes": "fine-tune:lr=1e-3,steps=1",
        "--columns": "input=question,output=answer",
        "--layout": "plain",
        "--selector-model": llama,
        "--source": other,
        "--device": "cpu",
        "--dtype": "bfloat16",
    }
    args = [str(part) for pair in flags.items() for part in pair]
    assert run_cli("adapt", tmp_path / "parity.csv", *args, "--out", tmp_path / "first").code == 0
    repeat = shlex.split(repeat_of(tmp_path / "first"))
    assert repeat == ["kshot", "adapt", str(tmp_path / "parity.csv"), *args]
    assert run_cli(*repeat[1:], "--out", tmp_path / "again").code == 0
    assert recorded(tmp_path / "again") == recorded(tmp_path / "first")


def test_what_python_was_given_is_told_as_a_call(words_task, recorded, tmp_path):
    task, model = Task.load(words_task), load_model("scripted")
    how = {"recipes": ["majority", "random"], "shots": 3, "race": False}
    run = kshot.adapt(task, model, **how, out=tmp_path / "first")
    call = "kshot.adapt(task, model, recipes='majority,random', shots=3, race=False)"
    assert repeat_of(run.folder) == f"# Given in Python, not by name: task and model. Again: {call}"
    eval(call[:-1] + f", out={str(tmp_path / 'again')!r})", {"kshot": kshot, "task": task, "model": model})
    assert recorded(tmp_path / "again") == recorded(tmp_path / "first")


def test_columns_are_given_to_python_as_a_mapping(tmp_path):
    rows = [f"what is {i},{'odd' if i % 2 else 'even'}" for i in range(8)]
    (tmp_path / "parity.csv").write_text("\n".join(["question,answer", *rows]))
    columns = {"input": "question", "output": "answer"}
    run = kshot.adapt(tmp_path / "parity.csv", "scripted", recipes="majority", columns=columns, out=tmp_path / "run")
    assert "--columns input=question,output=answer" in repeat_of(run.folder)
    model = load_model("scripted")
    run = kshot.adapt(tmp_path / "parity.csv", model, recipes="majority", columns=columns, out=tmp_path / "run")
    assert f"columns={columns}" in repeat_of(run.folder)


# Device, precision and revision


def test_they_hold_for_every_model_of_a_run(run_cli, words_task, llama, tmp_path):
    args = ("adapt", words_task, "--model", llama, "--recipes", "random", "--out", tmp_path / "run")
    refused = run_cli(*args, "--selector-model", "tiny", "--device", "cpu")
    assert (refused.code, refused.out) == (2, "")
    assert (
        "--device, --dtype, --revision and --trust-remote-code must be left out for 'tiny', which has none of them."
        in refused.err
    )
    refused = run_cli(*args, "--revision", "main")
    assert (refused.code, refused.out) == (2, "")
    assert f"--revision must be left out for '{llama}', which is on no hub." in " ".join(refused.err.split())


def test_an_adapted_model_is_loaded_as_it_was_adapted(run_cli, words_task, llama, tmp_path):
    run = tmp_path / "run"
    args = ("--model", llama, "--dtype", "bfloat16", "--recipes", "fine-tune:lr=1e-3,steps=1", "--limit", "4")
    assert run_cli("adapt", words_task, *args, "--out", run).code == 0
    assert kshot.load(run, device="cpu").model.origin == {"dtype": "bfloat16"}
    cpu = ("--device", "cpu")
    asked = [
        (("predict", run), {"input": "the cat\n"}),
        (("evaluate", run, words_task), {}),
        (("merge", run, "--out", tmp_path / "merged"), {}),
    ]
    for command, more in asked:
        refused = run_cli(*command, "--dtype", "float32", **more)
        assert (refused.code, refused.out) == (2, "")
        assert "Load them with --dtype bfloat16, or take that with --allow-other-dtype" in refused.err
        assert run_cli(*command, *cpu, **more).code == 0
    with pytest.raises(UserError, match="--device must be one that torch has here, such as cpu; got 'bogus'"):
        kshot.load(run, device="bogus")


def test_a_model_that_was_adapted_by_itself_keeps_the_precision_that_it_had(words_task, llama, tmp_path):
    """So a model that was adapted on one device is the same on another, where "auto" means something else."""
    run = kshot.adapt(words_task, llama, recipes="zero-shot", out=tmp_path / "run")
    about = json.loads((run.folder / "best" / "kshot.json").read_text("utf-8"))
    assert about["model"]["origin"] == {"dtype": "float32"}


def test_other_verbs_take_them_too(run_cli, words_task, llama, tmp_path):
    model = ("--model", llama, "--device", "bogus")
    run = tmp_path / "retriever"
    assert (
        run_cli("retriever", "candidates", words_task, "--out", run, "--settings", "queries=6,candidates=4").code == 0
    )
    for command in (
        ("select", words_task, "--selector", "random", "-k", 2),
        ("validate", words_task),
        ("retriever", "score", run),
        ("retriever", "train", words_task, "--out", run, "--settings", "queries=6,candidates=4"),
        ("retriever", "evaluate", run),
    ):
        refused = run_cli(*command, *model)
        assert (refused.code, refused.out) == (2, "")
        assert "--device must be one that torch has here, such as cpu; got 'bogus'" in " ".join(refused.err.split())
    for command in (("select", words_task, "--selector", "random", "-k", 2), ("validate", words_task)):
        refused = run_cli(*command, "--dtype", "float32")
        assert (
            "--device, --dtype, --revision, --trust-remote-code and --api say how a model is loaded; give --model too."
            in refused.err
        )
    refused = run_cli("validate", words_task, "--layout", "plain")
    assert refused.code == 2
    assert "give --model too, or leave --layout out" in " ".join(refused.err.split())
    with pytest.raises(UserError, match="--device must be one that torch has here, such as cpu; got 'bogus'"):
        kshot.select(str(words_task), "random", 2, model=llama, device="bogus")
    with pytest.raises(UserError, match="--dtype must be auto, float32, bfloat16 or float16; got 'int8'"):
        kshot.steer(str(words_task), "icv", model=llama, dtype="int8")


# The dry run


def test_a_dry_run_of_every_recipe_trains_nothing(no_training, tmp_path):
    task = Task.load(write_task(tmp_path / "task", labelled_rows(18)))
    small = make_tiny_encoder(tmp_path)
    (tmp_path / "texts").write_text("".join(f"text {i}\n" for i in range(6)))
    supportive = f"supportive:corpus={tmp_path / 'texts'},n=3,rounds=2"
    llm_r = f"llm-r:encoder={small},iterations=2,queries=4,candidates=4"
    by_name = {"supportive": supportive, "llm-r": llm_r, "dense": f"dense:encoder={small}"}
    names = [by_name.get(name, name) for name in known_recipes() if name not in ("embedding-lr", "decisions")]
    names += [f"embedding-lr:encoder={small}", "fine-tune:steerer=icv,selector=bm25,k=2"]
    rows = {row["recipe"]: row for row in plan(prepare(RunSettings(task, "tiny", recipes=names, shots=3)))}
    assert list(rows) == names
    assert no_training == []
    told = rows[by_name["llm-r"]]
    assert told["left_out"] == "the training of its selector"
    assert told["forward_tokens"] > rows["bm25"]["forward_tokens"]  # it asks for scores to learn from
    assert [name for name, row in rows.items() if "left_out" in row] == [by_name["llm-r"], "lars"]


def test_a_dry_run_counts_what_a_retriever_asks(no_training, tmp_path):
    task = Task.load(write_task(tmp_path / "task", labelled_rows(34)))
    name = f"llm-r:encoder={make_tiny_encoder(tmp_path)},queries=4,candidates=4,iterations="

    def tokens(iterations):
        (row,) = plan(prepare(RunSettings(task, "tiny", recipes=f"{name}{iterations}", shots=3)))
        return row["forward_tokens"]

    assert tokens(1) < tokens(2) < tokens(3)


def test_a_dry_run_says_what_it_leaves_out(run_cli, no_training, tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(34))
    name = f"llm-r:encoder={make_tiny_encoder(tmp_path)},queries=4,candidates=4"
    found = run_cli("adapt", task, "--model", "tiny", "--recipes", name, "--shots", 3, "--dry-run")
    assert " s without the training of its selector" in found.out.replace("\n", " ")


@pytest.fixture
def no_training(monkeypatch):
    """The calls of whatever trains an encoder or a language model."""
    calls = []

    def note(name):
        return lambda *args, **kwargs: calls.append(name)

    for name in ("train_retriever", "train_reward_model"):
        monkeypatch.setattr(f"kshot.encoders.encoder_training.{name}", note(name))
    trainable = Engine.trainable

    def made(engine, how, **more):  # what encodes prompts is made, and not trained
        return trainable(engine, how, **more) if how.encodes_anew else calls.append("trainable")

    monkeypatch.setattr("kshot.engine.training.Trainer.step", note("step"))
    monkeypatch.setattr(Engine, "trainable", made)
    return calls
