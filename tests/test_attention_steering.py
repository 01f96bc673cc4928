"""Attention that is weighed: packed rows against transformers' own pass, spans of prompts, and the steerer."""

import json
import re
import sys
from dataclasses import replace
from functools import cache
from math import log

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import kshot
from kshot.core.errors import ModelError, UserError
from kshot.core.lessons import Training, TrainingText
from kshot.core.script import Piece, Script, usual
from kshot.core.seeding import digest, generator
from kshot.core.steering import SPANS, Edit, Steering, averaged
from kshot.core.types import Example, GenerateRequest, Prompt, Query, ScoreRequest, Segment, Task
from kshot.engine.attention import TreeAttention
from kshot.engine.language_model import Engine
from kshot.engine.trie import build_tree, flagged
from kshot.engine.whole_text import WholeText
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.steerers.random_direction import randomised
from kshot.methods.steerers.weighed_attention import Attention
from kshot.models.gradient_mode import learning
from kshot.models.hf import Backbone
from kshot.models.tiny import tiny_backbone
from kshot.prompts.chat import Chat
from kshot.prompts.plain import Plain
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES as TEMPLATES
from test_chat import chat_engine, chat_tokenizer
from variants import mostly_slow

SHAPES = {
    "llama": {},
    "gemma3_text": {"head_dim": 16, "sliding_window": 12},
    "mistral": {"sliding_window": 10},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 4096},
    "gpt_neox": {"num_key_value_heads": 4},
}
ROWS = tuple(
    Example(f"What is {i}?", ("yes", "no")[i % 2], str(i), context=(f"It is {i}.", "As ever.", None)[i % 3])
    for i in range(9)
)
TASK = Task("passages", "qa", ROWS[:6], ROWS[6:], instruction="Say it.")
LABELLED = Task("labelled", "classification", ROWS[:6], ROWS[6:], labels=("yes", "no"))


@cache
def engine(architecture: str = "llama") -> Engine:
    return Engine(tiny_backbone(architecture, settings=SHAPES[architecture]), pack_tokens=16)


def asker(model: Engine) -> TaskModel:
    return TaskModel.for_task(TASK, model)


def prompts(model: Engine) -> list[Prompt]:
    """With and without demonstrations and passages; what is a demonstration's passage in one is asked in another."""
    shown = [(), ROWS[:1], ROWS[:2], ROWS[:1]]
    asked = [ROWS[0], ROWS[1], ROWS[3], ROWS[0].__class__("Or so?", "no", "x", context=ROWS[1].context)]
    found = [asker(model).compose(some, e) for some, e in zip(shown, asked, strict=True)]
    return [*found, asker(model).compose((), ROWS[2]), asker(model).compose(ROWS[:1], ROWS[2])]


def weights(model: Engine, *spans: str, seed: int = 0) -> Steering:
    """Weights drawn at random: other ones in each head, some of them 0."""
    shape, drawn = model.activations.shape, np.random.default_rng(seed)
    return Steering(
        tuple(
            Edit(layer, "attention", "weigh", False, np.ones((shape.n_heads, 1), dtype="f4"),
                 (drawn.normal(size=shape.n_heads) * 3 * (np.arange(shape.n_heads) != layer)).astype("f4"), span)
            for layer in range(shape.n_layers)
            for span in spans or ("context",)
        )
    )  # fmt: skip


def one_weight(model: Engine, alpha: float, span: str = "context") -> Steering:
    return Attention(alpha=alpha, span=span).fit(ROWS[:2], model=asker(model), rng=generator(0, "x"))


def outside(model: Engine, prompt: Prompt, span: str) -> list[bool]:
    """Which tokens of a prompt are outside a span, by the segments' own words: each byte is a token."""
    names = [[name for name, *_ in s.spans] for s in prompt.segments]
    if not any(name in SPANS[span] for some in names for name in some):
        return [False] * len(model.encode(prompt).ids)
    found = [True]
    for segment, own in zip(prompt.segments, names, strict=True):
        found += [not any(name in SPANS[span] for name in own)] * len(segment.text.encode())
    return found


class Reference:
    """transformers' own eager pass over whole texts, to whose mask the weights are added."""

    def __init__(self, model: Engine, steering: Steering, monkeypatch):
        self.model, self.steering, self.flags = model, steering, {}
        self.module = sys.modules[type(model.backbone.model).__module__]
        self.monkeypatch = monkeypatch

    def logits(self, prompt: Prompt, answer: list[int]) -> torch.Tensor:
        ids = [*self.model.encode(prompt).ids, *answer]
        flags = {name: torch.zeros(len(ids)) for name in SPANS}
        for name in SPANS:
            own = outside(self.model, prompt, name)
            flags[name][: len(own)] = torch.tensor(own).float()
        usual_pass = self.module.eager_attention_forward

        def weighed(module, query, key, value, attention_mask, *args, **kwargs):
            n = query.shape[2]
            mask = torch.zeros(1, 1, n, n) if attention_mask is None else attention_mask
            mask = mask.expand(1, query.shape[1], n, n).clone()
            for edit in self.steering.edits:
                if edit.layer == module.layer_idx:
                    mask += torch.from_numpy(edit.weights)[None, :, None, None] * flags[edit.span]
            return usual_pass(module, query, key, value, mask, *args, **kwargs)

        backbone = self.model.backbone.model
        with self.monkeypatch.context() as patch, torch.inference_mode():
            patch.setattr(self.module, "eager_attention_forward", weighed)
            before = backbone.config._attn_implementation
            backbone.set_attn_implementation("eager")
            try:
                return backbone(torch.tensor([ids])).logits[0]
            finally:
                backbone.set_attn_implementation(before)

    def score(self, request: ScoreRequest) -> np.ndarray:
        found, n = [], len(self.model.encode(request.prompt).ids)
        for text in request.continuations:
            answer = list(self.model.backbone.tokenise(text))
            said = self.logits(request.prompt, answer[:-1]).log_softmax(-1)
            found.append(sum(float(said[n - 1 + i, token]) for i, token in enumerate(answer)))
        return np.array(found)

    def written(self, prompt: Prompt, n: int) -> list[int]:
        answer: list[int] = []
        for _ in range(n):
            answer.append(int(self.logits(prompt, answer)[-1].argmax()))
        return answer


def close(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=0)


# The engine


@pytest.mark.parametrize("architecture", mostly_slow(SHAPES, "llama", "gemma3_text", "gpt2"))
def test_packed_equals_a_plain_pass_with_the_same_weights(architecture, monkeypatch):
    model = engine(architecture)
    steering = weights(model, "context", "asked")
    changed, reference = model.steered(steering), Reference(model, steering, monkeypatch)
    requests = [ScoreRequest(prompt, (" yes\n\n", " no")) for prompt in prompts(model)]
    expected = [reference.score(request) for request in requests]
    close(changed.score(requests), expected)
    warm = changed.remembering()
    for _ in range(3):
        close(warm.score(requests), expected)
    for request, row in zip(requests, expected, strict=True):
        close(warm.score([request]), [row])
    assert np.abs(np.concatenate(model.score(requests)) - np.concatenate(expected)).max() > 0.1


def test_what_is_written_is_that_of_a_plain_pass(monkeypatch):
    model = engine("mistral")
    steering = weights(model)
    changed, reference = model.steered(steering), Reference(model, steering, monkeypatch)
    asked = [GenerateRequest(prompt, 6) for prompt in prompts(model)]
    expected = [model.backbone.detokenise(reference.written(request.prompt, 6)) for request in asked]
    assert [answer.text for answer in changed.generate(asked)] == expected
    warm = changed.remembering()
    for _ in range(3):
        assert [answer.text for answer in warm.generate(asked)] == expected
    assert [answer.text for answer in model.generate(asked)] != expected


@pytest.mark.parametrize("span", SPANS)
def test_alpha_1_is_the_model_itself_to_the_bit(span):
    model = engine()
    changed = model.steered(one_weight(model, 1.0, span))
    requests = [ScoreRequest(prompt, (" yes", " no")) for prompt in prompts(model)]
    assert changed.steering is None
    assert changed.fingerprint == model.fingerprint
    assert all((a == b).all() for a, b in zip(changed.score(requests), model.score(requests), strict=True))
    weak = model.steered(one_weight(model, 0.5, span).scaled(0.0))
    assert all((a == b).all() for a, b in zip(weak.score(requests), model.score(requests), strict=True))


def test_a_prompt_without_the_span_is_as_without_the_steering():
    model = engine()
    changed = model.steered(one_weight(model, 0.1))
    bare = [ScoreRequest(p, (" yes",)) for p in (asker(model).compose((), ROWS[2]), Prompt((Segment("query", "a"),)))]
    assert all((a == b).all() for a, b in zip(changed.score(bare), model.score(bare), strict=True))
    requests = [*bare, ScoreRequest(asker(model).compose((), ROWS[0]), (" yes",))]
    close(changed.score(requests)[:2], model.score(bare))


def test_weights_on_the_span_rise_as_alpha_falls():
    """In the first layer, whose scores do not depend on alpha, a head's share m becomes m / (m + alpha (1 - m))."""
    model = engine()
    prompt = asker(model).compose(ROWS[:1], ROWS[3])
    is_inside = ~torch.tensor(outside(model, prompt, "context"))

    def shares(alpha: float) -> np.ndarray:
        changed, found = model.steered(one_weight(model, alpha)), []
        ids = changed._encoder.score(ScoreRequest(prompt, ("a",)))[0]
        with changed.active():
            tree = build_tree([ids], [[(0,)]])
            attend, shown = TreeAttention(tree, model.backbone), TreeAttention(tree, model.backbone)
            shown.open(torch.arange(len(ids)))

            def look(layer, query, key, value, scale, window):
                inside = is_inside.to(value.dtype)[None, :, None].expand_as(value).contiguous()
                found.append(shown(layer, query, key, inside, scale, window)[:, -1, 0])
                return attend(layer, query, key, value, scale, window)

            attend.open(torch.arange(len(ids)))
            everything = torch.arange(len(ids))
            model.backbone.packed_logits(torch.from_numpy(tree.tokens), everything, look, everything)
        return torch.stack(found).numpy()  # [n_layers, n_heads]

    alphas = (1.0, 0.95, 0.9, 0.5, 0.1, 0.01)
    found = [shares(alpha) for alpha in alphas]
    base = found[0][0]
    assert (base > 0).all()
    for lower, higher in zip(found, found[1:], strict=False):
        assert (lower[0] < higher[0]).all()
        assert lower.mean() < higher.mean()
    for alpha, row in zip(alphas, found, strict=True):
        np.testing.assert_allclose(row[0], base / (base + alpha * (1 - base)), atol=1e-5)


def test_the_same_tokens_inside_and_outside_are_not_shared():
    out = tuple(flagged(i, 1) for i in (1, 2))
    tree = build_tree([(1, 2, 3), (*out, 3), (out[0], 2)], [[(0,)]] * 3)
    assert len(tree.tokens) == 3 + 3 + 1
    assert sorted(zip(tree.tokens.tolist(), tree.flags.tolist(), strict=True)) == [
        (1, 0), (1, 1), (2, 0), (2, 0), (2, 1), (3, 0), (3, 0),
    ]  # fmt: skip
    assert not tree.marks.any()


# Which tokens are meant


def flagged_text(model: Engine, prompt: Prompt, span: str) -> str:
    """What of a prompt is inside a span, by its tokens."""
    edits = tuple(e for e in weights(model, span).edits)
    ids = model.steered(Steering(edits))._encoder.score(ScoreRequest(prompt, ("a",)))[0]
    flag, plain = 61 + list(SPANS).index(span), model.encode(prompt).ids
    return model.backbone.detokenise([i for i, whole in zip(plain, ids, strict=True) if not (whole >> flag) & 1])


def test_spans_of_plain_prompts():
    model = engine()
    task, shown, row = TASK, ROWS[:1], ROWS[3]
    script = usual(task, shown, row.question)
    assert flagged_text(model, Plain().write(script), "context") == "Context: It is 3.\n"
    asked = "Context: It is 3.\nQuestion: What is 3?\nAnswer:"
    assert flagged_text(model, Plain().write(script), "asked") == asked
    more = script.beside_question(["Another."])
    assert flagged_text(model, Plain().write(more), "context") == "Context: Another.\nContext: It is 3.\n"
    told = Script((Piece("schema", "A schema."), *more.pieces[-3:]), more.given, more.wanted)
    assert flagged_text(model, Plain().write(told), "context") == "Context: Another.\nContext: It is 3.\n"


def test_other_questions_on_a_passage_leave_it_what_is_asked_about():
    pieces = (Piece("context", "Long ago.", "x"), Piece("question", "When?"), Piece("answer", "Ago."))
    script = Script((*pieces, Piece("question", "How long?", "x")))
    assert flagged_text(engine(), Plain().write(script), "context") == "Context: Long ago.\n"


def test_what_the_model_has_written_itself_is_not_weighed():
    row = ROWS[3].question
    script = usual(TASK, (), row)
    script = Script((*script.pieces, Piece("reason", "As it is so.")), script.given, script.wanted)
    text = flagged_text(engine(), Plain().write(script), "context")
    assert text == "Context: It is 3.\nReason: As it is so.\n"


@pytest.mark.parametrize("in_block", [False, True])
def test_spans_inside_messages(in_block):
    """Tokens may reach over a border there, and are then inside; the template's own words are not."""
    model = chat_engine(chat_tokenizer(*TEMPLATES["qwen2.5"][:4]))
    layout = Chat(model.chat, model.name, in_block)
    script = usual(TASK, ROWS[:1], ROWS[3].question)
    prompt = layout.write(script)
    assert prompt.segments[-1].spans
    for name, words in (("context", "It is 3."), ("asked", "What is 3?")):
        spans = [s.text[a:b] for s in prompt.segments for span, a, b in s.spans if span in SPANS[name]]
        assert words in "".join(spans)
        found = flagged_text(model, prompt, name)
        assert words in found
        assert len(found) <= len("".join(spans)) + 8
        assert "assistant" not in found
        assert "It is 0." not in found


# The steering as data


def test_a_steering_of_attention_is_saved_and_other_files_are_as_before(tmp_path):
    model = engine()
    found = one_weight(model, 0.5, "asked")
    found.save(tmp_path / "new")
    (row, *_) = json.loads((tmp_path / "new" / "steering.json").read_text())["edits"]
    assert row == {"layer": 0, "site": "attention", "operation": "weigh", "last_only": False,
                   "scale": pytest.approx([log(0.5)] * 4), "span": "asked"}  # fmt: skip
    loaded = Steering.load(tmp_path / "new")
    assert loaded.fingerprint == found.fingerprint != one_weight(model, 0.5).fingerprint
    assert loaded.spans == ("asked",)
    old = Edit(0, "mlp", "add", True, np.ones((1, 2), dtype="f4"), np.ones(1, dtype="f4"))
    Steering((old,)).save(tmp_path / "old")
    assert "span" not in (tmp_path / "old" / "steering.json").read_text()
    hexed = old.vectors.tobytes().hex()
    assert Steering.load(tmp_path / "old").fingerprint == digest([(0, "mlp", "add", True, [1.0], hexed)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"span": "all"}, "what is weighed must have a span, context or asked"),
        ({"last_only": True}, "attention can be weighed, at every token, and nothing else can"),
        ({"operation": "add"}, "attention can be weighed"),
        ({"site": "heads"}, "attention can be weighed"),
    ],
)
def test_weights_that_cannot_be(change, message):
    how = {"layer": 0, "site": "attention", "operation": "weigh", "last_only": False, "span": "context"} | change
    with pytest.raises(UserError, match=message):
        Edit(vectors=np.ones((4, 1), dtype="f4"), weights=np.ones(4, dtype="f4"), **how)


def test_weights_are_no_directions():
    found = one_weight(engine(), 0.5)
    for act in (lambda: -found, lambda: found + found, lambda: averaged([found, found])):
        with pytest.raises(UserError, match=r"Only directions can be .*; this steering weighs attention\."):
            act()
    twice, both = engine().steered(found).steered(found), engine().steered(one_weight(engine(), 0.25))
    requests = [ScoreRequest(prompt, (" yes",)) for prompt in prompts(engine())]
    close(twice.score(requests), both.score(requests))
    assert {tuple(np.abs(e.weights)) for e in randomised(found, generator(0, "x")).edits} == {
        tuple(np.abs(e.weights)) for e in found.edits
    }


# What cannot be


def test_attention_that_cannot_be_weighed_is_named():
    model = Engine(tiny_backbone("gemma2", settings={"sliding_window": 16}))
    message = r"Attention of 'tiny' \(gemma2\) cannot be weighed: .*as Llama, Gemma 3.*without the steerer 'attention'"
    with pytest.raises(ModelError, match=message):
        Attention().fit(ROWS[:4], model=asker(model), rng=generator(0, "x"))
    with pytest.raises(ModelError, match=message):
        model.steered(one_weight(model, 0.5))
    model.steered(one_weight(model, 1.0))  # changes nothing


def test_what_does_not_know_of_weights_refuses_them():
    model = engine()
    changed = model.steered(one_weight(model, 0.5))
    with pytest.raises(ModelError, match="Attention of 'tiny' is weighed where it is asked in packed rows alone"):
        WholeText.of(changed).log_probs("a text", [" yes"])
    with pytest.raises(ModelError, match=r"'tiny' is steered, and training would not know of it; train first"):
        changed.trainable(Training(lr=0.1), seed=0)
    shape = model.activations.shape
    gated = changed.activations.gated(np.ones((2, shape.n_heads, shape.head_dim), dtype="f4"), Training(lr=0.1))
    text = TrainingText(Prompt((Segment("query", "abcdef"), Segment("answer", " yes"))), "last")
    with pytest.raises(ModelError, match=r"attention as it is, and that of 'tiny' is weighed by a steering\. Train"):
        gated.learn([text], first_token=False)
    assert not model.backbone.log_weights
    assert not model.backbone.model._forward_pre_hooks


def test_a_task_without_passages_is_told_which_field_it_lacks(words_task, run_cli, tmp_path):
    done = run_cli("adapt", words_task, "--model", "tiny", "--recipes", "attention", "--out", tmp_path / "run")
    assert done.code == 2
    assert "of attention, its examples must have context" in " ".join(done.err.split())
    with pytest.raises(
        UserError, match="'attention' cannot use the examples of .* its examples must have context, and none has"
    ):
        kshot.steer(words_task, "attention", model="tiny")
    assert parse_recipe("attention:span=asked", shots=1).obstacle(kshot.Task.load(words_task)) is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("attention:alpha=2", "alpha must be in 0..1; got 2.0"),
        ("attention:heads=some", "heads must be one of all, best; got 'some'"),
        ("attention:span=question", "span must be one of context, asked; got 'question'"),
        ("attention:n=0", "n must be 1 or more; got 0"),
    ],
)
def test_settings_that_make_no_sense(recipe, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_recipe(recipe, shots=1)


# The steerer at work


@pytest.mark.parametrize("name", ["attention", "attention:heads=best,n=2", "attention:selector=bm25,k=2,alpha=0.3"])
def test_a_prediction_knows_nothing_of_what_comes_later(name):
    setup = Setup(LABELLED, TaskModel.for_task(LABELLED, Engine(engine().backbone)), 0)
    other = (*ROWS[:4], *(replace(e, output="yes") for e in ROWS[4:]))
    found, again = (
        make_learner(parse_recipe(name, shots=2), setup).predict([Query(e, rows[:i]) for i, e in enumerate(rows)])
        for rows in (ROWS, other)
    )
    assert [p.log_probs for p in again[:5]] == [p.log_probs for p in found[:5]]
    if "selector" in name:  # what is shown are other answers
        assert [p.log_probs for p in again[6:]] != [p.log_probs for p in found[6:]]


@pytest.mark.parametrize("recipe", ["attention:alpha=0.2", "fine-tune:steerer=attention(alpha=0.2),lr=1e-3,steps=1"])
def test_an_adapted_model_is_saved_loaded_and_asked_with_its_weights(recipe, tmp_path):
    model = Engine(engine().backbone)
    run = kshot.adapt(LABELLED, model, recipes=recipe, limit=6, out=tmp_path / "run")
    rows = [{"input": e.input, "context": e.context} for e in ROWS[6:8]]
    expected = run.best.predict_proba(rows)
    loaded = kshot.load(tmp_path / "run" / "best", model=model)
    assert loaded.predict_proba(rows).tobytes() == expected.tobytes()
    assert loaded.fitted.steering.spans == ("context",)
    bare = replace(loaded.fitted, recipe=loaded.recipe.without("steerer"), steering=None)
    assert not np.allclose(kshot.AdaptedModel(bare, choice={}).predict_proba(rows)[0], expected[0], atol=1e-4)
    served = loaded.warm()
    for _ in range(3):
        np.testing.assert_allclose(served.predict_proba(rows), expected, atol=1e-4)


# A network that half copies

THINGS, COLOURS = ([f"{name}{i}" for i in range(12)] for name in ("thing", "colour"))


class Words:
    """A token for each word."""

    bos_token_id, eos_token_id, chat_template = 0, 1, None
    words = ("<bos>", "<eos>", "Context", ":", "Question", "Answer", "\n", " ", "is", "it", *THINGS, *COLOURS)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [
            self.words.index(w) if w in self.words else 2 for w in re.findall(r"\w+|\W", text)
        ]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(self.words[i] for i in token_ids if i > 1)


def copying(seed: int) -> Engine:
    """A network that says, each half of the time, the colour in the passage, and that which a thing always has."""
    tokenizer, rng = Words(), np.random.default_rng(seed)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(Words.words), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
        pad_token_id=None,
    )  # fmt: skip
    with learning(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(180):
            rows = []
            for thing, colour, is_copied in zip(*rng.integers(12, size=(2, 48)), rng.random(48) < 0.5, strict=True):
                text = f"Context: it is {COLOURS[colour]}\nQuestion: {THINGS[thing]}\nAnswer:"
                rows.append(tokenizer.encode(f"{text} {COLOURS[colour if is_copied else thing]}\n\n"))
            ids = torch.tensor(rows)
            logits = model(input_ids=ids).logits[:, -5:-1]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -4:].flatten()).backward()
            optimizer.step()
    return Engine(Backbone(model, tokenizer, "copies"))


@pytest.fixture(scope="module", params=mostly_slow(["0", "1", "2"], "0"))
def copier(request) -> TaskModel:
    seed = int(request.param)
    pairs = generator(seed, "pairs").permutation([(t, c) for t in range(12) for c in range(12) if t != c]).tolist()
    rows = [Example(THINGS[t], COLOURS[c], f"{t}-{c}", context=f"it is {COLOURS[c]}") for t, c in pairs[:40]]
    return TaskModel.for_task(Task("colours", "qa", tuple(rows[:20]), tuple(rows[20:])), copying(seed))


def from_passage(model: TaskModel, steering: Steering) -> float:
    """The share of the passage's answer beside that of memory, on average over test rows."""
    asked = [ScoreRequest(model.prompt((), e)[0],
                          tuple(f" {word}\n\n" for word in (e.output, COLOURS[THINGS.index(e.input)])))
             for e in model.task.test]  # fmt: skip
    found = np.exp(model.steered(steering).model.score(asked))  # [n, 2]
    return float((found[:, 0] / found.sum(axis=1)).mean())


def test_steering_raises_the_share_of_answers_from_the_passage(copier):
    train = copier.task.train
    before = from_passage(copier, Steering(()))
    assert 0.25 < before < 0.75

    def fitted(**how) -> Steering:
        return Attention(**how).fit(train, model=copier, rng=generator(0, "steer"))

    shares = [from_passage(copier, fitted(alpha=alpha)) for alpha in (1.0, 0.95, 0.7, 0.4, 0.1)]
    assert shares == sorted(shares)
    assert shares[0] == before
    chosen, best = fitted(), fitted(heads="best", n=3)
    assert chosen.about["alpha"] < 1
    assert from_passage(copier, chosen) > before + 0.15
    assert best.about["alpha"] < 1
    assert 1 <= len(best.about["heads"]) <= 3
    assert from_passage(copier, best) > before + 0.15


def test_where_memory_is_right_nothing_is_weighed(copier):
    wrong = [Example(e.input, COLOURS[THINGS.index(e.input)], e.id, context=e.context) for e in copier.task.train]
    found = Attention().fit(wrong, model=copier, rng=generator(0, "steer"))
    assert found.about["alpha"] == 1
    assert copier.steered(found).model.steering is None
