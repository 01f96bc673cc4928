"""`kshot export`: each target is asked again, and says what was measured; what it cannot express is refused."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import kshot
from api_server import ApiServer, served
from broken_models import byte_tokenizer, write_model
from conftest import labelled_rows, write_task
from gguf_models import write_gguf
from kshot.adapted.model import AdaptedModel
from kshot.adapted.model_card import card_of
from kshot.core.errors import UserError
from kshot.core.types import Example, Question, Task
from kshot.export import for_gguf_lora
from kshot.export.for_dspy import signature
from kshot.export.for_langchain import ForLangchain
from kshot.export.handover import handover
from kshot.export.target import filled
from kshot.export.targets import TARGETS
from kshot.learners.learner import Setup
from kshot.measures.calibration import Calibration
from kshot.models.scripted import ScriptedModel
from kshot.prompts.messages import ApiMessages
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.export import export
from variants import mostly_slow

LABELS = ("animal", "food", "tool")
ROWS = tuple(Example(r["input"], r["output"], f"r{i}") for i, r in enumerate(labelled_rows(12)))
TASK = Task("words", "classification", ROWS[:8], ROWS[8:], labels=LABELS, instruction="Name the {kind} {of} thing.")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRAINED = "fine-tune:lr=1e-2,steps=1"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def model(base):
    return kshot.load_model(base)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("models") / "chat")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return kshot.load_model(folder)


def adapted_to(recipe: str, model, task: Task = TASK, **how) -> AdaptedModel:
    setup = Setup(task, TaskModel.for_task(task, model), 0)
    found = parse_recipe(recipe, shots=2, raced=False)
    return AdaptedModel.fit(found, task.train, setup, choice={}, **how)


@pytest.fixture(scope="module")
def trained(model):
    return adapted_to(TRAINED, model)


def read(folder: Path) -> dict:
    return json.loads((folder / "export.json").read_text("utf-8"))


@pytest.mark.parametrize("recipe", ["zero-shot", "all-past", "random:composer=wording(labels=true)"])
def test_all_that_is_said_is_in_the_prompt(recipe, tmp_path):
    found = export(adapted_to(recipe, kshot.load_model("scripted")), "prompt", tmp_path / "out", check=TASK)
    assert found.record["difference"]["same_prompts"] == 4
    assert len(found.record["demonstrations"]) == {"zero-shot": 0, "all-past": 8}.get(recipe, 2)


def test_a_prompt_is_read_as_it_was_measured(model, tmp_path):
    adapted = adapted_to("random:k=3", model)
    done = export(adapted, "prompt", tmp_path / "out", check=TASK)
    found = done.record["difference"]
    assert found["read_by"].startswith("transformers 5")
    assert (found["n"], found["same_prompts"], found["same_answers"], found["as_answered"]) == (4, 4, 4, 4)
    assert 0 < found["largest_nats"] < 1e-4
    assert read(tmp_path / "out") == done.record
    assert done.record["answers"] == {label: f" {label}\n\n" for label in LABELS}
    asked = filled((tmp_path / "out" / "prompt.txt").read_text("utf-8"), Question("a {b} \\1", "q"))
    assert asked.startswith("Name the {kind} {of} thing.\n\nText: ")
    assert asked.endswith("Text: a {b} \\1\nLabel:")
    assert "log-probabilities differ by" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_line_breaks_of_other_systems_stay(tmp_path):
    rows = tuple(replace(e, input=e.input.replace(" ", "\r\n", 1)) for e in TASK.train)
    task = replace(TASK, train=rows, test=rows[:4])
    adapted = adapted_to("random:k=3", kshot.load_model("scripted"), task)
    done = export(adapted, "prompt", tmp_path / "out", check=task)
    assert done.record["difference"]["same_prompts"] == 4
    assert b"\r\n" in (tmp_path / "out" / "prompt.txt").read_bytes()
    assert "without changing its line breaks" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_another_text_is_another_prompt_and_the_difference_is_told(model, tmp_path, monkeypatch):
    """What is compared is what the files say: a changed file is another model."""
    target = TARGETS["prompt"]()
    write = type(target).write

    def changed(self, given, folder):
        write(self, given, folder)
        file = folder / "prompt.txt"
        file.write_text(file.read_text("utf-8").replace("Label:", "Kind:"), "utf-8")

    monkeypatch.setattr(type(target), "write", changed)
    found = export(adapted_to("random:k=3", model), "prompt", tmp_path / "out", check=TASK).record["difference"]
    assert found["same_prompts"] == 0
    assert found["largest_nats"] > 1e-3


def test_messages_are_read_by_the_template(chat_model, tmp_path):
    adapted = adapted_to("random:k=2", chat_model)
    found = export(adapted, "messages", tmp_path / "out", check=TASK).record["difference"]
    assert (found["same_prompts"], found["same_answers"]) == (4, 4)
    assert 0 < found["largest_nats"] < 1e-4
    messages = json.loads((tmp_path / "out" / "messages.json").read_text("utf-8"))
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages[-1]["content"] == "{input}"
    text = export(adapted, "prompt", tmp_path / "text", check=TASK).record["difference"]
    assert (text["same_prompts"], text["same_answers"]) == (4, 4)
    assert text["largest_nats"] < 1e-4


def test_a_prompt_that_has_its_first_token_says_that_no_other_is_added(chat_model, model, tmp_path):
    for target in ("prompt", "vllm", "gguf-lora"):
        recipe = "random:k=2" if target == "prompt" else TRAINED
        export(adapted_to(recipe, chat_model), target, tmp_path / target, limit=0)
        assert (tmp_path / target / "prompt.txt").read_text("utf-8").startswith("<s><|system|>")
        assert '`"add_special_tokens": false`' in (tmp_path / target / "README.md").read_text("utf-8")
    export(adapted_to("random:k=2", model), "prompt", tmp_path / "plain", limit=0)
    assert "add_special_tokens" not in (tmp_path / "plain" / "README.md").read_text("utf-8")


def test_messages_without_a_template_are_written_and_not_scored(model, tmp_path):
    done = export(adapted_to("random", model), "messages", tmp_path / "out", check=TASK)
    assert "has no chat template, so it cannot read messages" in done.record["difference"]["not_scored"]
    assert done.in_words[0].startswith("What was written for messages could not be compared: the model '")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "It answers with one of these labels:\n\n- `animal`\n- `food`\n- `tool`\n" in text
    assert (tmp_path / "out" / "messages.json").exists()


def test_a_model_without_weights_reads_its_own_prompt(tmp_path):
    """Scripted, as one behind an API: no torch, no transformers."""
    script = kshot.load_model("scripted")
    found = export(adapted_to("zero-shot", script), "prompt", tmp_path / "out", check=TASK).record["difference"]
    assert found["read_by"] == "the model 'scripted' itself"
    assert (found["largest_nats"], found["same_prompts"]) == (0.0, 4)


def test_demonstrations_that_do_not_fit_are_left_out_as_when_it_was_measured(tmp_path):
    long = (*TASK.test, Example("the cat " + "and so on " * 20, "animal", "long"))
    adapted = adapted_to("random:k=8", ScriptedModel(max_tokens=130))
    said = adapted.predictions([e.input for e in long])
    assert (said[0].dropped, said[-1].dropped) == (2, 6)
    found = export(adapted, "prompt", tmp_path / "out", check=long)
    assert found.record["demonstrations"] == [e.id for e in adapted.pool[6:]]
    assert "6 of 8 demonstrations are left out, as the model's 130 tokens" in found.in_words[1]
    assert found.record["difference"]["same_prompts"] == 1


def test_a_service_that_is_asked_in_messages_gets_these_messages(tmp_path):
    adapted = adapted_to("random", kshot.load_model("scripted"))
    asked = replace(adapted.fitted, model=replace(adapted.fitted.model, layout=ApiMessages()))
    served = AdaptedModel(asked, choice={})
    found = export(served, "messages", tmp_path / "out", check=TASK).record["difference"]
    assert (found["largest_nats"], found["same_prompts"], found["same_answers"]) == (0.0, 4, 4)
    with pytest.raises(UserError, match="--to prompt writes a text; 'scripted' was asked in the messages of a chat."):
        export(served, "prompt", tmp_path / "text", check=TASK)


def test_a_model_behind_an_api_reads_its_own_prompt_and_messages(tmp_path, monkeypatch):
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    with served(ApiServer()) as server:
        for lacks, to in (({"chat"}, "prompt"), (set(), "messages")):
            server.lacks, server.model = {"tokenize", *lacks}, f"of-{to}"
            adapted = adapted_to("random", kshot.load_model(server.name))
            found = export(adapted, to, tmp_path / to, check=TASK, limit=2).record["difference"]
            assert (found["read_by"], found["largest_nats"]) == (f"the model '{server.name}' itself", 0.0)
            assert (found["same_prompts"], found["same_answers"]) == (2, 2)
            assert adapted.paid["calls"] >= 4  # two inputs, asked by both
        assert "| language model | of-messages, behind an API |" in card_of(adapted, "me/words", None)


def test_peft_reads_adapter_and_prompt(trained, base, tmp_path):
    done = export(trained, "peft", tmp_path / "out", check=TASK)
    found = done.record["difference"]
    assert found["read_by"].startswith("peft 0.")
    assert (found["same_prompts"], found["same_answers"]) == (4, 4)
    assert found["largest_nats"] < 1e-4
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == str(base)
    plain = adapted_to("zero-shot", trained.fitted.untrained)
    gaps = np.array([p.log_probs for p in plain.predictions(TASK.test)])
    assert np.abs(gaps - np.array([p.log_probs for p in trained.predictions(TASK.test)])).max() > 0.5  # it has learnt


@pytest.mark.parametrize(("rank", "served"), [(3, 8), (16, 16), (20, 32)])
def test_a_rank_is_made_one_of_vllm_without_changing_an_answer(model, tmp_path, rank, served):
    adapted = adapted_to(f"{TRAINED},rank={rank}", model)
    found = export(adapted, "vllm", tmp_path / "out", check=TASK, limit=2).record["difference"]
    assert found["largest_nats"] < 1e-4
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (served, 2 * served, None)
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    for name, values in load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors").items():
        assert values.shape[0 if "lora_A" in name else 1] == served
    usage = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"--dtype float32 --enable-lora --max-lora-rank {served} --lora-modules kshot=./adapter" in usage


def test_a_rank_that_vllm_has_no_room_for_is_refused(model, tmp_path):
    with pytest.raises(UserError, match=r"needs an adapter of rank 64 or less; 'fine-tune:.*' has rank 80\. Use"):
        export(adapted_to(f"{TRAINED},rank=80", model), "vllm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", mostly_slow(["llama", "qwen3", "gemma3_text"], "gemma3_text"))
def test_llama_cpp_reads_the_adapter(kind, tmp_path, monkeypatch):
    """Through its own tokenizer, with keys and values in half precision, which is most of the difference."""
    pytest.importorskip("xllamacpp")
    more = {"sliding_window": 64, "query_pre_attn_scalar": 8} if kind == "gemma3_text" else {}
    folder = write_model(tmp_path / "base", kind, **more)
    gguf = write_gguf(folder, tmp_path / "base.gguf")
    adapted = adapted_to(TRAINED, kshot.load_model(folder))
    done = export(adapted, "gguf-lora", tmp_path / "out", check=TASK, limit=2, gguf=gguf)
    found = done.record["difference"]
    assert found["read_by"].startswith("llama.cpp (xllamacpp ")
    assert found["same_answers"] == 2
    assert found["largest_nats"] < 5e-3
    assert "llama-server --model base.gguf --lora adapter.gguf" in (tmp_path / "out" / "README.md").read_text("utf-8")
    monkeypatch.setattr(for_gguf_lora, "_loaded", lambda place: {k: 0 * v for k, v in load_file(_file(place)).items()})
    without = export(adapted, "gguf-lora", tmp_path / "no", check=TASK, limit=2, gguf=gguf).record["difference"]
    assert without["largest_nats"] > 20 * found["largest_nats"]  # it is the adapter that is read


def _file(place: Path) -> Path:
    return place / "adapter_model.safetensors"


def test_without_the_base_as_gguf_the_adapter_is_written_and_not_scored(trained, tmp_path):
    found = export(trained, "gguf-lora", tmp_path / "out", check=TASK).record["difference"]
    assert "none is known. Give it with --gguf FILE." in found["not_scored"]
    assert (tmp_path / "out" / "adapter.gguf").read_bytes()[:4] == b"GGUF"


def test_what_is_lost_is_told(model, tmp_path):
    calibration = Calibration(temperature=2.0, strength=1.0, prior=(0.9, 0.05, 0.05))
    adapted = adapted_to("random:k=2,contexts=3", model, calibration=calibration)
    done = export(adapted, "prompt", tmp_path / "out", check=TASK, context=2)
    assert done.record["lost"] == [
        "One context of 3 is written (number 2); kshot averages over all of them.",
        "kshot calibrates: it divides log-probabilities by 2 after taking out its liking for some labels; the "
        "target's are as the model says them.",
    ]
    assert done.record["demonstrations"] == list(adapted.fitted.contexts[1])
    assert done.record["difference"]["largest_nats"] > 1e-3  # one is not the average
    contextual = replace(adapted.recipe, calibration="contextual")
    other = AdaptedModel(replace(adapted.fitted, recipe=contextual), choice={})
    given = handover(other, "prompt", context=1)
    assert "kshot divides probabilities by those of inputs without content; the target does not." in given.lost
    stars = replace(adapted.fitted, task=replace(adapted.task, ordered=True, answer="median"))
    given = handover(AdaptedModel(stars, choice={}), "prompt", context=1)
    assert "kshot answers with the median of the ordered labels; the target with the most probable one." in given.lost


@pytest.mark.parametrize(
    ("recipe", "to", "message"),
    [
        ("bm25", "prompt", "--to prompt needs one set of demonstrations; 'bm25' chooses others for each query."),
        ("random:contexts=2", "messages", "--to messages writes one prompt; 'random:contexts=2' averages the answers"),
        ("average(zero-shot,random)", "prompt", "--to prompt needs one recipe; 'average.*' combines the answers of 2"),
        ("majority", "prompt", "--to prompt needs a recipe that asks a language model; 'majority' is a classifier"),
        ("icv:strength=0.1", "prompt", "--to prompt cannot say what is changed in the model's activations"),
        (TRAINED, "messages", "--to messages writes a prompt alone, and 'fine-tune.*' has trained weights"),
        ("random", "peft", "--to peft writes trained weights; 'random' trains none. Use --to prompt"),
        (f"{TRAINED},weights=full", "vllm", "--to vllm writes a LoRA adapter; .* trained all weights.* `kshot merge`"),
    ],
)
def test_what_a_target_cannot_express_is_refused(recipe, to, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(adapted_to(recipe, kshot.load_model("tiny")), to, tmp_path / "out", check=TASK)
    assert not (tmp_path / "out").exists()


def test_a_base_without_files_and_an_unknown_architecture_are_refused(tmp_path):
    with pytest.raises(UserError, match="The base of an adapter must be a model with files of its own; 'tiny' has"):
        export(adapted_to(TRAINED, kshot.load_model("tiny")), "peft", tmp_path / "out")
    folder = write_model(tmp_path / "phi", "phi3", pad_token_id=2)
    with pytest.raises(UserError, match="--to gguf-lora knows the architectures llama, .* is a phi3. Use --to peft"):
        export(adapted_to(TRAINED, kshot.load_model(folder)), "gguf-lora", tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"to": "dspi"}, r"--to must name a target; got 'dspi'\. Did you mean 'dspy'\?"),
        ({"to": "prompt", "gguf": "x"}, "--gguf is the base that an adapter is scored with.*leave it out"),
        ({"to": "gguf-lora", "gguf": "nowhere.gguf"}, "--gguf must be a GGUF file; there is no file 'nowhere.gguf'"),
        ({"to": "prompt", "limit": -1}, "--limit must be 0 or more; got -1"),
        ({"to": "prompt", "context": 2}, r"--context must be in 1\.\.1; got 2"),
    ],
)
def test_bad_settings_are_named(how, message, tmp_path):
    adapted = adapted_to("random", kshot.load_model("scripted"))
    with pytest.raises(UserError, match=message):
        export(adapted, how.pop("to"), tmp_path / "out", **how)


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(UserError, match="--out must be new or empty; .* holds something. Name another folder."):
        export(adapted_to("random", kshot.load_model("scripted")), "prompt", tmp_path / "out")


def test_open_tasks_compare_the_known_outputs(tmp_path, model):
    rows = [Example(f"what is {i}?", str(i), f"q{i}", context=f"It is {i}.") for i in range(6)]
    task = Task("qa", "qa", tuple(rows[:4]), tuple(rows[4:]), metrics=("exact_match",))
    done = export(adapted_to("random", model, task), "prompt", tmp_path / "out", check=rows[4:])
    found = done.record["difference"]
    assert (found["n"], found["same_prompts"], found["same_answers"]) == (2, 2, None)
    assert found["largest_nats"] < 1e-4
    assert (
        (tmp_path / "out" / "prompt.txt").read_text("utf-8").endswith("Context: {context}\nQuestion: {input}\nAnswer:")
    )


def test_a_passage_has_its_place_though_nothing_is_asked(tmp_path):
    rows = tuple(Example(f"what is {i}?", str(i), f"q{i}", context=f"It is {i}.") for i in range(6))
    adapted = adapted_to("zero-shot", kshot.load_model("scripted"), Task("numbers", "qa", rows, metrics=("squad_f1",)))
    done = export(adapted, "prompt", tmp_path / "known", check=rows, limit=0)
    assert (tmp_path / "known" / "prompt.txt").read_text("utf-8") == "Context: {context}\nQuestion: {input}\nAnswer:"
    assert done.record["lost"] == []
    done = export(adapted, "prompt", tmp_path / "unknown")
    assert (tmp_path / "unknown" / "prompt.txt").read_text("utf-8") == "Question: {input}\nAnswer:"
    assert done.record["lost"] == [
        "No example is here to say whether questions have a passage, and the prompt has no place for one. Where they "
        "have one, give such rows with --check TASK."
    ]


def test_the_signature_of_dspy_has_one_arrow_whatever_labels_say():
    labels = ("a->b", 'it\'s -> "c"')
    rows = tuple(Example(f"text {i}", labels[i % 2], f"e{i}") for i in range(4))
    task = Task("arrows", "classification", rows, labels=labels)
    written = signature(handover(adapted_to("random:k=2", ScriptedModel({}), task), "dspy"))
    before, _, listed = written.partition(" -> output: Literal")
    assert (before, written.count("->"), ast.literal_eval(listed)) == ("input", 1, list(labels))


def test_langchain_has_one_form_for_all_demonstrations(tmp_path):
    rows = (Example("who?", "me", "1", context="I am."), Example("why?", "so", "2"))
    task = Task("qa", "qa", rows, metrics=("exact_match",))
    adapted = adapted_to("all-past", kshot.load_model("scripted"), task)
    with pytest.raises(UserError, match="--to langchain needs demonstrations that all have the same parts"):
        ForLangchain().write(handover(adapted, "langchain"), tmp_path)


def test_the_command_line(run_cli, tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(9), labelled_rows(3, start=24))
    assert run_cli("adapt", task, "--model", "scripted", "--recipes", "random:k=2", "--out", tmp_path / "run").code == 0
    found = run_cli("export", tmp_path / "run", "--to", "prompt", "--out", tmp_path / "a", "--json").json
    assert found["difference"]["n"] == 9  # those of the run
    told = (tmp_path / "a" / "README.md").read_text("utf-8")
    assert re.search(r" is kshot's before calibration for \d of 9 inputs, and kshot's final one for \d of 9\.", told)
    again = run_cli("export", tmp_path / "run", "--to", "messages", "--out", tmp_path / "b", "--check", task)
    assert again.code == 0
    assert "What was written for messages could not be compared: the model 'scripted', with which" in again.out
    assert again.out.endswith(f"export: {tmp_path / 'b'}\n")
    none = run_cli("export", tmp_path / "run", "--to", "prompt", "--out", tmp_path / "c", "--limit", 0)
    assert "What was written for prompt could not be compared: there was nothing to ask. Give inputs with" in none.out
    asked = ("--check", task, "--kind", "qa")
    odd = run_cli("export", tmp_path / "run", "--to", "prompt", "--out", tmp_path / "c", *asked)
    assert (odd.code, "--kind must be classification, as the model's is; got qa; leave" in odd.err) == (2, True)
    wrong = run_cli("export", tmp_path / "nowhere", "--to", "onx", "--out", tmp_path / "d")
    assert (wrong.code, "--to must name a target; got 'onx'." in wrong.err) == (2, True)


@pytest.mark.slow
def test_llama_cpp_reads_an_adapter_of_the_real_model(tmp_path):
    """Four bits a weight, activations in eight: what is served is near what was measured, and how near is told."""
    pytest.importorskip("xllamacpp")
    task = replace(TASK, train=TASK.train[:3])
    adapted = adapted_to("fine-tune:lr=3e-4,steps=1,rank=12", kshot.load_model("demo"), task)
    found = export(adapted, "gguf-lora", tmp_path / "out", check=TASK, limit=2).record["difference"]
    assert found["read_by"].startswith("llama.cpp")
    assert 1e-3 < found["largest_nats"] < 2
    peft = export(adapted, "vllm", tmp_path / "vllm", check=TASK, limit=2).record["difference"]
    assert peft["largest_nats"] < 1e-3
