"""Weights on the command line: racing with prompts, merging, a source task, benchmarks, and what is refused."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.seal import write_seal
from kshot.core.ledger import Ledger
from kshot.engine.language_model import Engine
from kshot.evaluators.forgetting import forgetting, perplexity
from kshot.models.tiny import tiny_backbone

RECIPES = "zero-shot,icl+ft:k=2,lr=1e-3,steps=1,direction=0.1,reference=ema,over=all"


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return write_task(tmp_path_factory.mktemp("task") / "words", labelled_rows(10), labelled_rows(3, start=24))


@pytest.fixture(scope="module")
def run(task, run_cli, tmp_path_factory) -> Path:
    """A run whose only recipe trains, so that it is the chosen one."""
    out = tmp_path_factory.mktemp("run") / "run"
    found = run_cli(
        "adapt", task, "--model", "tiny", "--recipes", RECIPES.partition(",")[2], "--out", out, "--json"
    ).json
    assert found["chosen"] == RECIPES.partition(",")[2]
    return out


def test_the_adapted_model_says_what_training_did(run):
    about = json.loads((run / "best" / "kshot.json").read_text("utf-8"))
    assert set(about["choice"]["forgetting"]) == {"perplexity_before", "perplexity_after"}
    assert set(p.name for p in (run / "best" / "adapter").iterdir()) == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    (log,) = (run / "training").glob("*.jsonl")
    steps = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [s["n"] for s in steps] == [*range(1, 10)]  # of ten examples the last one is learnt when the model is made
    assert all(s["norm"] > 0 and s["cosine_to_reference"] is not None for s in steps[1:])


def test_merged_weights_are_base_and_adapter(run, run_cli, tmp_path):
    out = tmp_path / "whole"
    done = run_cli("merge", run, "--out", out)
    assert done.code == 0
    assert "note: the model has no tokenizer of its own to write, without which none loads it" in done.err
    merged, base = load_file(out / "model.safetensors"), tiny_backbone().model.state_dict()
    adapter = load_file(run / "best" / "adapter" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    assert (merged[f"{name}.weight"] - base[f"{name}.weight"] - 2 * b @ a).abs().max() < 1e-6
    assert b.abs().max() > 0
    again = run_cli("merge", run, "--out", out)
    assert again.code == 2
    assert "must be new or empty, for the merged model; it holds something" in again.err


def test_a_model_without_trained_weights_is_not_merged(task, run_cli, tmp_path):
    assert run_cli("adapt", task, "--model", "tiny", "--recipes", "zero-shot", "--out", tmp_path / "run").code == 0
    found = run_cli("merge", tmp_path / "run", "--out", tmp_path / "whole")
    assert found.code == 2
    assert "Only a model whose weights were trained can be merged; 'zero-shot' trains none." in found.err


def test_an_adapter_that_is_gone_is_named(run, task, run_cli, tmp_path):
    kshot.load(run).save(tmp_path / "model")
    (tmp_path / "model" / "adapter" / "adapter_model.safetensors").write_bytes(b"half")
    write_seal(tmp_path / "model")
    found = run_cli("predict", tmp_path / "model", input="the cat\n")
    assert found.code == 2
    assert "adapter_model.safetensors must hold the trained weights" in found.err
    assert "Copy the whole folder, or adapt again." in found.err


def test_an_adapter_of_another_run_is_refused(run, task, run_cli, tmp_path):
    args = ("--recipes", "icl+ft:k=2,lr=1e-2,steps=1", "--out", tmp_path / "other")
    assert run_cli("adapt", task, "--model", "tiny", *args).code == 0
    kshot.load(run).save(tmp_path / "model")
    file = "adapter/adapter_model.safetensors"
    (tmp_path / "model" / file).write_bytes((tmp_path / "other" / "best" / file).read_bytes())
    write_seal(tmp_path / "model")
    found = run_cli("predict", tmp_path / "model", input="the cat\n")
    assert found.code == 2
    assert "must hold the weights that kshot.json beside it tells of; it holds others." in found.err


def test_where_all_diverge_the_reason_is_said(task, run_cli, tmp_path):
    found = run_cli(
        "adapt", task, "--model", "tiny", "--recipes", "fine-tune:lr=1e30,steps=1", "--out", tmp_path / "run"
    )
    assert found.code == 2
    assert "has diverged. Give a smaller lr, or other --recipes." in found.err


def test_a_source_task_guides(task, run_cli, tmp_path):
    """The log has cosines to the source's gradients; another source gives another run."""
    other = write_task(tmp_path / "other", [r | {"input": r["input"].upper()} for r in labelled_rows(8)])
    args = (
        "adapt",
        task,
        "--model",
        "tiny",
        "--recipes",
        "fine-tune:lr=1e-3,steps=1,over=all",
        "--out",
        tmp_path / "run",
    )
    assert run_cli(*args, "--source", other).code == 0
    (log,) = (tmp_path / "run" / "training").glob("*.jsonl")
    steps = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert all(-1 <= s["cosine_to_source"] <= 1 and s["source_weight"] >= 0 for s in steps)
    again = run_cli(*args)
    assert again.code == 2
    assert "holds a run with another source" in again.err
    unused = run_cli("adapt", task, "--model", "tiny", "--recipes", "random", "--source", other)
    assert unused.code == 2
    assert "--source is for recipes that train weights; name one, as --recipes icl+ft." in unused.err


def test_a_plan_counts_steps(task, run_cli):
    plan = run_cli("adapt", task, "--model", "tiny", "--recipes", RECIPES, "--dry-run", "--json").json["plan"]
    assert [row["training_steps"] for row in plan] == [0, 9]
    assert plan[1]["forward_tokens"] > plan[0]["forward_tokens"] > 0
    text = run_cli("adapt", task, "--model", "tiny", "--recipes", RECIPES, "--dry-run")
    assert "forward tokens, 9 steps of training" in text.out


def test_all_leaves_out_what_a_model_cannot_do(task, run_cli, tmp_path):
    board = run_cli("adapt", task, "--model", "scripted", "--out", tmp_path / "run", "--json").json["leaderboard"]
    status = {row["recipe"]: (row["status"], row["reason"]) for row in board}
    assert status["fine-tune"] == status["icl+ft"] == ("not-supported", "it needs a model that can be trained")
    assert status["icv"] == ("not-supported", "it needs a model that can be steered")
    assert status["random"] == ("done", None)


def test_perplexity_is_that_of_the_scored_tokens():
    """Against the cross-entropy of a plain pass over each passage, of which the first sentence is given."""
    model = kshot.load_model("tiny")
    nats, n = 0.0, 0
    for passage in files("kshot.evaluators").joinpath("general.txt").read_text("utf-8").strip().split("\n\n"):
        given = len(passage.split(". ")[0].encode()) + 2  # its full stop, and the first token
        ids = torch.tensor([[256, *passage.encode()]])
        with torch.inference_mode():
            logits = model.backbone.model(input_ids=ids).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[given - 1 : -1], ids[0, given:], reduction="none")
        nats, n = nats + float(losses.double().sum()), n + len(losses)
    assert perplexity(model) == pytest.approx(torch.tensor(nats / n).exp().item(), rel=1e-4)
    assert forgetting(model, model)["perplexity_after"] == perplexity(model)


def test_a_model_before_training_is_asked_for_general_text_once():
    model = Engine(tiny_backbone(seed=7))
    first, second = Ledger(), Ledger()
    assert forgetting(model, model, ledger=first) == forgetting(model, model, ledger=second)
    assert [(spent.cost.scored, spent.cost.reused) for spent in (first, second)] == [(10, 0), (5, 5)]
    assert first.cost.tokens == second.cost.tokens > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("steps",),
            "there is no benchmark 'steps'. Did you mean 'step'? Known: abstain, api, choice, compose, context-use, ",
        ),
        (("weights",), "--data must be a folder with tasks; got None."),
        (("weights", "--data", "nowhere"), "--data must be a folder with tasks; got nowhere."),
        (
            ("guidance", "--data", "."),
            "'guidance' must be run in kshot's repository; there is no benchmarks/guidance.py",
        ),
    ],
)
def test_benchmarks_that_cannot_run(args, message, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_cli("bench", *args)
    assert found.code == 2
    assert message in found.err.replace("\n", " ")


def test_the_step_benchmark_compares_equal_things(run_cli):
    found = run_cli("bench", "step", "--model", "tiny", "--json").json
    assert set(found) == {"speedup_vs_plain", "loss_diff", "grad_rel_diff", "fraction_of_ceiling"}
    assert found["loss_diff"] < 1e-4
    assert found["grad_rel_diff"] < 1e-3


@pytest.mark.slow
def test_a_training_step_of_the_real_model_keeps_its_bars(run_cli):
    found = run_cli("bench", "step", "--json").json
    assert found["speedup_vs_plain"] >= 2
    assert found["loss_diff"] < 1e-4
    assert found["grad_rel_diff"] < 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # transformers warns of what peft asks
def test_the_real_model_learns_and_plain_peft_reads_what_it_has_learnt(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from kshot.models.white_box import _converted, demo_gguf

    headlines = kshot.Task.load("builtin:bbc-headlines")
    task = replace(headlines, train=headlines.train[:16])  # all of them are learnt in the end
    run = kshot.adapt(task, "demo", recipes="fine-tune:lr=1e-4,steps=2", out=tmp_path / "run")
    text = "Text: Shares fall as oil price climbs\nLabel: business\n\n"
    base = AutoModelForCausalLM.from_pretrained(_converted(demo_gguf()))
    model = PeftModel.from_pretrained(base, tmp_path / "run" / "best" / "adapter").eval()
    engine = run.best.model
    ids = engine.backbone.first_ids + engine.backbone.tokenise(text)
    with torch.inference_mode(), engine._weights.active():
        ours = engine.backbone.plain_logits([ids])[0]
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([ids])).logits[0]
    assert (ours - theirs).abs().max() < 1e-3
    assert (ours - engine.backbone.plain_logits([ids])[0]).abs().max() > 0.1
    assert run.best.choice["forgetting"]["perplexity_after"] < 2 * run.best.choice["forgetting"]["perplexity_before"]
