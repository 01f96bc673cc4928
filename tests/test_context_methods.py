"""Methods that change how a model uses its prompt, from `kshot adapt` to other software and to a server."""

import json
from pathlib import Path

import numpy as np
import pytest

import kshot
from broken_models import write_model
from conftest import write_task
from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.serve.listening import served
from kshot.verbs.export import export
from test_serve import running
from variants import mostly_slow

COLOURS = ("red", "green", "blue")
TRAINED = "lr=1e-2,steps=1"
ROWS = [
    {
        "input": f"thing {i}?",
        "context": f"thing {i} is {COLOURS[i % 3]}",
        "output": COLOURS[i % 3],
        "memory_answer": COLOURS[(i + 1) % 3],
    }
    for i in range(10)
]
ASKED = [{key: row[key] for key in ("input", "context")} for row in ROWS[7:]]
EXPORTED = (
    f"cings:{TRAINED}",
    f"cings:passage=before,{TRAINED}",
    f"tagged:split=true,{TRAINED}",
    f"intent:{TRAINED}",
    f"spectrum:selector=random,k=2,{TRAINED}",
    f"linked:selector=random,k=2,{TRAINED}",
    "attention:alpha=1",
)
KEPT = {
    f"context-adapter:k=2,{TRAINED}": "has trained a module beside the model .*Use `kshot serve`",
    f"pooled:k=2,selector=random,{TRAINED}": "has trained a module beside the model .*Use `kshot serve`",
    f"spectrum:k=2,{TRAINED}": "chooses others for each query. Use `kshot serve`.*or adapt with one set, as by select",
    f"intent:ask=plain,{TRAINED},steerer=knob(shots=0,steps=2)": "changed in the model's activations.*`kshot serve`",
    "knob:steps=2": "changed in the model's activations.*`kshot serve`",
    "attention:alpha=0.2": "changed in the model's activations.*`kshot serve`",
}

ALWAYS = (EXPORTED[0], EXPORTED[-1], *[recipe for recipe in KEPT if "adapter" in recipe or recipe.startswith("intent")])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    card = {"kind": "classification", "labels": COLOURS, "instruction": "Say its colour."}
    return write_task(tmp_path_factory.mktemp("tasks") / "colours", ROWS[:7], ROWS[7:], card=card)


@pytest.mark.parametrize("recipe", mostly_slow([*EXPORTED, *KEPT], *ALWAYS))
def test_it_is_adapted_predicted_with_exported_or_refused_and_served(recipe, base, task, run_cli, tmp_path):
    run = tmp_path / "run"
    done = run_cli("adapt", task, "--model", base, "--recipes", recipe, "--out", run, "--limit", 6)
    assert done.code == 0, done.err
    best = kshot.load(run / "best")
    lines = "".join(json.dumps(row) + "\n" for row in ASKED)
    (tmp_path / "asked.jsonl").write_text(lines, "utf-8")
    said = run_cli("predict", run, tmp_path / "asked.jsonl")
    assert said.code == 0, said.err
    assert said.out.splitlines() == best.predict(ASKED)
    for to in ("peft", "vllm") if best.fitted.trained else ("prompt", "messages"):
        if recipe in KEPT:
            with pytest.raises(UserError, match=f"--to {to} .*{KEPT[recipe]}"):
                export(best, to, tmp_path / to, check=Task.load(task))
        elif to != "messages":  # the model has no chats
            found = export(best, to, tmp_path / to, check=Task.load(task)).record["difference"]
            assert (found["same_prompts"], found["same_answers"]) == (3, 3)
            assert found["largest_nats"] < 1e-4
    with running(served(best.warm(), "colours")) as client:
        answers = client.post("/predict", json={"inputs": ASKED}).json()["predictions"]
    probabilities = [[a["probabilities"][label] for label in COLOURS] for a in answers]
    np.testing.assert_allclose(probabilities, best.predict_proba(ASKED), atol=1e-4)
