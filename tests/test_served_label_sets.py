"""Sets of labels as they are asked elsewhere: by a server, from stdin, in chats; and what other programs are told."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from openai import OpenAI

import kshot
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.label_sets import having, read, written
from kshot.core.types import Example, Query, Task
from kshot.export.targets import TARGETS
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.composers.yes_no import YesNo
from kshot.prompts.layout import layout_for
from kshot.recipes.grammar import parse_recipe
from kshot.serve.listening import served
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.export import export
from test_chat import SHAPES, chat_engine, chat_tokenizer
from test_serve import choice, error_of, running

LABELS = ("animal", "food", "hand tool")
WORDS = ("cat", "bread", "saw")


def examples(n, seed):
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        holds = rng.random(3) < 0.5
        words = [word for word, h in zip(WORDS, holds, strict=True) if h] or ["nothing"]
        found.append(Example(f"{' and '.join(words)} {i}", having(holds, LABELS), f"{seed}-{i}"))
    return tuple(found)


TASK = Task("things", "multi_label", examples(30, 0), examples(6, 1), LABELS, ("micro_f1",), "Name what it speaks of.")
TEXTS = [e.input for e in TASK.test]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "run"
    return kshot.adapt(TASK, "tiny", recipes="random:k=3", shots=3, limit=12, out=folder)


@pytest.fixture(scope="module")
def client(run):
    with running(served(run.best.warm(), "things")) as client:
        yield client


# --- the server -----------------------------------------------------------------------------------------------------


def test_predict_answers_with_lists_and_a_probability_for_each_label(client, run):
    told = client.post("/predict", json={"inputs": TEXTS, "show": True}).json()["predictions"]
    assert [p["answer"] for p in told] == run.best.predict(TEXTS)
    assert all(list(p["probabilities"]) == list(LABELS) for p in told)
    probs = np.array([list(p["probabilities"].values()) for p in told])
    assert probs == pytest.approx(run.best.predict_proba(TEXTS), abs=1e-5)
    about = client.get("/about").json()
    assert (about["kind"], about["labels"]) == ("multi_label", list(LABELS))
    threshold = about["says_from"]
    assert threshold == run.best.fitted.calibration.threshold
    for p in told:
        assert p["answer"] == [label for label in LABELS if p["probabilities"][label] >= threshold]
        assert not p["unsure"]
        assert [len(shown) for shown in p["contexts"]] == [3]
        assert all(isinstance(e["output"], list) and set(e["output"]) <= set(LABELS) for e in p["contexts"][0])


def test_an_empty_set_is_an_empty_list(run):
    calibration = replace(run.best.fitted.calibration, threshold=0.999)
    never = AdaptedModel(replace(run.best.fitted, calibration=calibration), choice={})
    assert never.predict(TEXTS[:2]) == [[], []]
    with running(served(never.warm(), "things")) as client:
        told = client.post("/predict", json={"inputs": TEXTS[:2]}).json()["predictions"]
        message = {"model": "things", "messages": [{"role": "user", "content": TEXTS[0]}]}
        (said,) = client.post("/v1/chat/completions", json=message).json()["choices"]
    assert [p["answer"] for p in told] == [[], []]
    assert said["message"]["content"] == "(none)"


def test_a_predicate_named_as_a_label_is_asked_of_it(client, run):
    body = {"model": "things", "input": TEXTS[0], "questions": [
        *({"type": "predicate", "instructions": f"Is it about a {label}?", "name": label} for label in LABELS),
        {"type": "predicate", "instructions": "Name what it speaks of."},
        choice(LABELS, name="animal"),
    ]}  # fmt: skip
    *found, other, chosen = client.post("/v1/decisions", json=body).json()["answers"]
    assert [a["name"] for a in found] == list(LABELS)
    assert [a["probability"] for a in found] == pytest.approx(run.best.predict_proba(TEXTS[:1])[0], abs=1e-5)
    for refusal in (other, chosen):
        assert refusal["type"] == "refusal"
        assert "Ask a predicate for each, named as it: animal, food, hand tool. Or ask /predict" in refusal["reason"]
    body = {"state": TEXTS[0], "questions": {label: {"type": "noul"} for label in LABELS}}
    answers = client.post("/v1/systemone", json=body).json()["answers"]
    assert [answers[label]["noul"] for label in LABELS] == [a["probability"] for a in found]


def test_a_chat_gets_the_set_as_one_text(client, run):
    openai = OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    said = openai.chat.completions.create(model="things", messages=[{"role": "user", "content": TEXTS[0]}])
    assert list(read(said.choices[0].message.content)) == run.best.predict(TEXTS[:1])[0]
    texts = openai.completions.create(model="things", prompt=TEXTS).choices
    assert [list(read(one.text)) for one in texts] == run.best.predict(TEXTS)
    for path, asked in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "logprobs": True}),
        ("/v1/completions", {"prompt": "x", "logprobs": 1}),
    ):
        error = error_of(client.post(path, json={"model": "things", **asked}))
        assert error["status"] == 400
        assert "each with a probability of its own, which /predict tells. Leave them out." in error["message"]


# --- stdin ----------------------------------------------------------------------------------------------------------


def test_stdin_is_answered_with_lists(run, run_cli):
    lines = "\n".join(TEXTS) + "\n"
    expected = run.best.predict(TEXTS)
    told = run_cli("predict", run.folder, "--json", input=lines).json["predictions"]
    assert [p["answer"] for p in told] == expected
    assert [list(p["probs"]) for p in told] == [list(LABELS)] * len(TEXTS)
    out = run_cli("predict", run.folder, "-", input=lines).out.splitlines()
    assert [list(read(line)) for line in out] == expected
    packed = run_cli("predict", run.folder, "--json", input=gzip.compress(lines.encode())).json["predictions"]
    assert packed == told


def test_a_file_with_sets_is_answered_and_measured(run, run_cli, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"text": e.input, "labels": list(read(e.output))} for e in TASK.test]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run_cli("predict", run.folder, file, "--json").json["predictions"]
    assert [p["answer"] for p in told] == run.best.predict(TEXTS)
    measured = run_cli("evaluate", run.folder, file, "--json").json
    assert (measured["metric_name"], measured["n"]) == ("micro_f1", 6)


# --- chats ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen2.5", "llama3", "gemma3"])
def chatty(request):
    return chat_engine(chat_tokenizer(*SHAPES[request.param][:4]))


@pytest.mark.parametrize("layout", ["turns", "block"])
def test_a_chat_is_asked_for_labels(chatty, layout):
    asking = TaskModel.for_task(TASK, chatty, layout)
    shown = (Example("a cat, a saw", written(["animal", "hand tool"], LABELS), "a"), Example("hm", "(none)", "b"))
    prompt, _ = asking.prompt(shown, TASK.test[0])
    assert all(text in prompt.text for text in ("Name what it speaks of.", "animal, hand tool", "none", TEXTS[0]))
    assert "animal|hand tool" not in prompt.text
    assert "(none)" not in prompt.text
    answers = asking.answers(TASK.test[0])
    (row,) = asking.score([prompt], [answers])
    one_by_one = [asking.score([prompt], [[answer]])[0][0] for answer in answers]
    assert row == pytest.approx(one_by_one, abs=1e-4)
    assert layout_for(chatty, layout).record["layout"] == layout


@pytest.mark.parametrize("layout", ["turns", "block"])
@pytest.mark.parametrize("recipe", ["zero-shot", "random:k=2", "random:k=2,composer=yes-no"])
def test_a_chat_answers_with_sets(chatty, layout, recipe):
    asked = TaskModel.for_task(TASK, chatty, layout)
    learner = make_learner(parse_recipe(recipe, shots=2), Setup(TASK, asked, 0))
    for p in learner.predict([Query(e, TASK.train[:8]) for e in TASK.test[:2]]):
        assert p.candidates == LABELS
        assert p.answer == having(np.array(p.probs) > 0.5, LABELS)
        assert ((np.array(p.probs) > 0) & (np.array(p.probs) < 1)).all()
    if "yes-no" in recipe:
        prompt, _ = replace(asked, composer=YesNo()).prompt(TASK.train[:2], TASK.test[0])
        assert "? yes" in prompt.text
        assert "? no" in prompt.text


# --- exports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", TARGETS)
def test_every_export_says_what_to_do_instead(run, to, tmp_path, run_cli):
    with pytest.raises(UserError, match=r"Other programs ask for one answer; 'things' is multi_label.*`kshot serve`"):
        export(run.best, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if to == "prompt":
        done = run_cli("export", run.folder, "--to", to, "--out", tmp_path / "out")
        assert (done.code, "Serve it with `kshot serve`" in " ".join(done.err.split())) == (2, True)
