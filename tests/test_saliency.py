"""Which words an answer rests on: gradients as the network's own, at the characters where the words stand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kshot.core.control_tokens import MARK
from kshot.core.errors import ModelError, UserError
from kshot.core.ledger import Ledger
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.salient_words import words_in
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.models.tiny import tiny_backbone
from kshot.prompts.whereabouts import places_of
from kshot.taskmodel.taskmodel import TaskModel

SHOWN = Example("a dull film", "bad", "y", context="other")
ASKED = Example("a nice film, a film!", "good", "x", context="Some words here.")
TASK = Task("films", "classification", (ASKED, SHOWN), labels=("good", "bad"), instruction="A film, a label.")


@pytest.fixture(scope="module")
def model() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


def test_words_are_runs_of_letters_or_signs_and_characters_of_scripts_without_spaces():
    for text, words in (
        ("It's late - twenty-one, ok?!", ["It's", "late", "-", "twenty-one", ",", "ok", "?!"]),
        ("我喜欢 tea。", ["我", "喜", "欢", "tea", "。"]),
        ("  हिन्दी café\n", ["हिन्दी", "café"]),
        (" \n", []),
    ):
        assert [text[a:b] for a, b in words_in(text)] == words


@pytest.mark.parametrize(("kind", "settings"), [("llama", {}), ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
                                                ("mamba", {})])  # fmt: skip
def test_values_are_the_norms_of_the_networks_own_gradients(kind, settings):
    """By transformers' own forward pass from embeddings; the tokens of the tiny model are bytes."""
    engine = Engine(tiny_backbone(kind, settings=settings))
    model = TaskModel.for_task(TASK, engine)
    (words,) = model.saliency([(SHOWN,)], [ASKED])
    assert [w.text_in(ASKED) for w in words] == [
        "Some",
        "words",
        "here",
        ".",
        "a",
        "nice",
        "film",
        ",",
        "a",
        "film",
        "!",
    ]
    prompt, answer = model.prompt((SHOWN,), ASKED)[0], " good\n\n"
    ids = [*engine.encode(prompt).ids, *engine.backbone.tokenise(answer)]
    n = len(engine.backbone.tokenise(answer))
    with torch.enable_grad():
        vectors = engine.backbone.embed(torch.tensor(ids)).detach().requires_grad_()
        logits = engine.backbone.model(inputs_embeds=vectors[None]).logits[0, -n - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[-n:]))
        (gradient,) = torch.autograd.grad(loss, vectors)
    norms = gradient.norm(dim=-1).numpy()
    first = len(engine.backbone.first_ids)
    for word in words:
        text = ASKED.context if word.field == "context" else ASKED.input
        at = first + prompt.text.encode().rindex(text.encode()) + word.start
        assert word.value == pytest.approx(norms[at : at + word.stop - word.start].max(), rel=1e-3, abs=1e-6)


def test_texts_side_by_side_have_the_values_that_each_has_alone(model):
    rows = [ASKED, replace(SHOWN, context=None), replace(ASKED, input="film")]
    together = model.saliency([(), (ASKED,), (SHOWN,)], rows)
    for demos, e, words in zip([(), (ASKED,), (SHOWN,)], rows, together, strict=True):
        (alone,) = model.saliency([demos], [e])
        assert [w.value for w in words] == pytest.approx([w.value for w in alone], rel=1e-4)
    assert [w.field for w in together[1]] == ["input"] * 3


def test_what_it_takes_is_counted(model):
    counted = replace(model, ledger=Ledger())
    counted.saliency([()], [ASKED])
    n = len(model.model.encode(model.prompt((), ASKED)[0]).ids) + len(" good\n\n")
    assert counted.ledger.cost.tokens == 3 * n
    assert counted.saliency([], []) == []


def test_a_model_that_is_trained_has_values_of_its_own(model):
    trained = model.model.trainable(Training(lr=1e-2), seed=0)
    before = model.saliency([()], [ASKED])
    assert replace(model, model=trained).saliency([()], [ASKED])[0][0].value == pytest.approx(before[0][0].value)
    trained.learn(Batch([model.training_text(Lesson((), ASKED))]))
    after = replace(model, model=trained).saliency([()], [ASKED])
    assert after[0][0].value != pytest.approx(before[0][0].value)
    assert model.saliency([()], [ASKED]) == before


def test_each_character_is_found_where_it_stands_in_the_prompt(model):
    """The text's words are in the prompt many times; control tokens that it spells have marks between them."""
    layout = replace(model.layout, spell=lambda text: text.replace("<s>", f"<{MARK}s>"))
    e = Example(" el Label: <s> el ", "good", "z", context="el")
    script = replace(model, layout=layout).script((SHOWN,), e)
    prompt = layout.write(script)
    places = places_of(script, prompt, {"question": e.input, "context": e.context}, layout)
    for name, text in (("question", e.input.rstrip()), ("context", "el")):
        signs = "".join(prompt.segments[i].text[at] if i >= 0 else " " for i, at in places[name])
        assert signs == text
    assert places_of(script, prompt, {"question": "another"}, layout) == {}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["turns", "block"])
def test_a_chat_model_has_the_same_words(layout, smollm2):
    (words,) = TaskModel.for_task(TASK, smollm2, layout).saliency([(SHOWN,)], [ASKED])
    assert [w.text_in(ASKED) for w in words][:5] == ["Some", "words", "here", ".", "a"]
    assert all(w.value > 0 for w in words)


def test_models_without_gradients_are_refused_by_name():
    scripted = TaskModel.for_task(TASK, load_model("scripted"))
    with pytest.raises(
        UserError,
        match="What an answer rests on is told by gradients, which need a model with weights; 'scripted' has none",
    ):
        scripted.saliency([()], [ASKED])
    broken = Engine(tiny_backbone())
    with torch.no_grad():
        next(iter(broken.backbone.model.parameters()))[:] = np.nan
    with pytest.raises(ModelError, match="Gradients must be finite numbers; those of 'tiny' are not"):
        TaskModel.for_task(TASK, broken).saliency([()], [ASKED])
