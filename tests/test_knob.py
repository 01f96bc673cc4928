"""The knob: what its edit does, what it finds in a network that knows facts and is told otherwise, what is refused.

The network is trained here on invented facts, on contexts that contradict them, and on both intents. Its first layer
sees too few tokens for the last one to read more than the intent, so that it decides before it looks for an answer.
"""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import kshot
from kshot.core.errors import UserError
from kshot.core.intents import (
    CONTEXT,
    INTENTS,
    MEMORY,
    answer_under,
    conflicting,
    lacking,
    memory_answer,
    opposite,
    told,
)
from kshot.core.lessons import Lesson, Training
from kshot.core.seeding import generator
from kshot.core.settings import RunSettings
from kshot.core.steering import Edit, Steering, averaged
from kshot.core.types import Example, GenerateRequest, Query, Task
from kshot.engine.language_model import Engine
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.steerers.knob import Asked, Knob, chosen_layer, separation, set_to, unit
from kshot.methods.steerers.random_direction import RandomDirection, randomised
from kshot.models.gradient_mode import learning
from kshot.models.hf import build_backbone
from kshot.models.hooks import component_set
from kshot.models.tiny import tiny_backbone
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare
from test_steering import SHAPES, close, engine, injection, requests, same

NAMES, PLACES = ([f"{letter}{i}" for i in range(16)] for letter in "np")
TEMPLATE = "{} is in {}, as the old and very long book says to all."
KNOWN = dict(zip(NAMES, np.random.default_rng(0).choice(PLACES, len(NAMES)).tolist(), strict=True))


def row(rng: np.random.Generator, i: int, names: list[str] = NAMES) -> Example:
    """A question about a name, whose context says another place than the network knows."""
    name = names[rng.integers(len(names))]
    place = [p for p in PLACES if p != KNOWN[name]][rng.integers(len(PLACES) - 1)]
    return Example("Where?", place, f"row-{i}", TEMPLATE.format(name, place), meta={"memory_answer": KNOWN[name]})


def rows(n: int, seed: int, names: list[str] = NAMES) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(row(rng, i + 1000 * seed, names) for i in range(n))


TASK = Task("facts", "qa", rows(48, 1), rows(60, 2), metrics=("exact_match",))


class Words:
    """A tokenizer of whole words."""

    bos_token_id, eos_token_id, chat_template = 0, 1, None
    parts = re.compile(r"\n\n|\n| ?\w+| ?[^\w\s]| ")

    def __init__(self, texts: list[str]):
        found = dict.fromkeys(word for text in texts for word in self.parts.findall(text))
        self.words = ["<s>", "</s>", "<unknown>", *found]
        self.ids = {word: i for i, word in enumerate(self.words)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [self.ids.get(word, 2) for word in self.parts.findall(text)]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids if i > 2)


def lesson(subject: TaskModel, example: Example) -> list[int]:
    return list(subject.model.training_row(subject.training_text(Lesson((), example))).ids)


def trained(seed: int) -> Engine:
    """About ten seconds of one core."""
    said = [TEMPLATE.format(name, place) for name in NAMES for place in PLACES]
    words = Words([*(f"Context: {text}\n" for text in said), CONTEXT, MEMORY, "Question: Where?\nAnswer: ", "\n\n",
                   *(f" {place}" for place in PLACES)])  # fmt: skip
    shape = {
        "vocab_size": len(words.words), "hidden_size": 48, "intermediate_size": 4, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 1, "tie_word_embeddings": False, "use_sliding_window": True,
        "sliding_window": 11, "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    backbone = build_backbone("qwen2", shape, words, name="facts", seed=seed)
    subject, rng = TaskModel.for_task(TASK, Engine(backbone)), np.random.default_rng(seed)
    texts: dict[tuple[str | None, str], list[int]] = {}

    def drawn(i: int) -> list[int]:
        """A third of the texts tells no intent, and has either answer."""
        example, intent = row(rng, i), INTENTS[rng.integers(2)]
        bare = replace(example, output=answer_under(example, intent))
        asked = told(example, intent) if rng.random() > 1 / 3 else bare
        return texts.setdefault((asked.context, asked.output), lesson(subject, asked))

    steps = 320
    with learning():
        weights = list(backbone.model.parameters())
        for weight in weights:
            weight.requires_grad_(True)
            if weight.ndim > 1:
                weight.data.mul_(0.3)
        optimiser = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        for _ in range(steps):
            batch = [drawn(i) for i in range(48)]
            ids, labels = torch.full((48, max(map(len, batch))), 1), torch.full((48, max(map(len, batch))), -100)
            for i, one in enumerate(batch):
                ids[i, : len(one)] = torch.tensor(one)
                labels[i, len(one) - 2 : len(one)] = torch.tensor(one[-2:])
            optimiser.zero_grad()
            backbone.model(input_ids=ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
        for weight in weights:
            weight.requires_grad_(False)
    return Engine(backbone)


@pytest.fixture(scope="module")
def network() -> Engine:
    return trained(0)


@pytest.fixture(scope="module")
def subject(network) -> TaskModel:
    return TaskModel.for_task(TASK, network)


@pytest.fixture(scope="module")
def knobs(subject) -> dict[str, Steering]:
    """Both ends of the knob."""
    return {ask: Knob(ask=ask, shots=0).fit(TASK.train, model=subject, rng=generator(0, "x")) for ask in INTENTS}


def share(subject: TaskModel, intent: str, examples=TASK.test, tell=lambda e: e) -> float:
    """How often the answer that is right with an intent is written."""
    written = subject.generate([subject.prompt((), tell(e))[0] for e in examples])
    return float(np.mean([w.text.strip() == answer_under(e, intent) for w, e in zip(written, examples, strict=True)]))


# The edit


@given(
    arrays(np.float32, (4, 8), elements=st.floats(-50, 50, width=32)),
    arrays(np.float32, (8,), elements=st.floats(-10, 10, width=32)),
    st.floats(-50, 50),
)
def test_the_component_is_the_constant_and_nothing_else_changes(h, direction, constant):
    (u,) = unit(np.where(np.abs(direction) < 1e-3, 0, direction)[None].astype("f4"))
    edit = set_to(0, u, constant)
    h, vectors, weights = (torch.from_numpy(x) for x in (h, edit.vectors, edit.weights))
    once = component_set(h, vectors, weights)
    u = torch.from_numpy(u)
    assert torch.allclose(once @ u, torch.full((4,), constant), atol=2e-4)
    assert torch.allclose(component_set(once, vectors, weights), once, atol=2e-4)
    off = torch.eye(8) - torch.outer(u, u)
    assert torch.allclose(once @ off, h @ off, atol=2e-4)
    own = set_to(0, u.numpy(), float(h[0] @ u))  # source = target
    assert torch.allclose(component_set(h[0], torch.from_numpy(own.vectors), weights), h[0], atol=2e-4)
    assert torch.equal(component_set(h, vectors, 0 * weights), h)


def turned(model: Engine, *, last_only: bool = True, constant: float = 9.0) -> Steering:
    (u,) = unit(np.random.default_rng(3).normal(size=(1, model.activations.shape.width)).astype("f4"))
    return Steering((replace(set_to(0, u, constant), last_only=last_only),))


@pytest.mark.parametrize("last_only", [True, False])
@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in ("llama", "gpt2") else pytest.mark.slow) for name in SHAPES]
)
def test_packed_equals_a_plain_pass(architecture, last_only):
    model = engine(architecture)
    steering = turned(model, last_only=last_only)
    changed, plain = (model.steered(steering) for _ in range(2))
    plain.__dict__["obstacle"] = "for the test"
    packed = changed.score(requests())
    assert max(np.abs(a - b).max() for a, b in zip(packed, model.score(requests()), strict=True)) > 1e-3
    close(packed, plain.score(requests()))
    asked = [GenerateRequest(r.prompt, 5) for r in requests()]
    assert changed.generate(asked) == plain.generate(asked)
    tried = [turned(model, constant=-3.0), Steering(()), steering, injection(model)]
    for i, rows in enumerate(zip(*model.activations.score_under(requests(), tried), strict=True)):
        close(rows, model.steered(tried[i]).score(requests()))


def test_the_last_token_alone_has_the_constant():
    model = engine()
    prompts = [r.prompt for r in requests()]
    steering = turned(model)
    u = steering.edits[0].vectors[0] / np.linalg.norm(steering.edits[0].vectors[0])
    read = model.steered(steering).activations.read(prompts, "block")[:, 0]
    before = model.activations.read(prompts, "block")[:, 0]
    close(read @ u, np.full(len(prompts), 9.0))
    close(read - (read @ u)[:, None] * u, before - (before @ u)[:, None] * u)


def test_what_is_set_is_saved_scaled_and_not_added(tmp_path):
    model = engine()
    steering = turned(model)
    steering.save(tmp_path)
    loaded = Steering.load(tmp_path)
    assert loaded.fingerprint == steering.fingerprint != turned(model, constant=8.0).fingerprint
    assert same(model.steered(loaded).score(requests()), model.steered(steering).score(requests()))
    assert model.steered(steering.scaled(0)).fingerprint == model.fingerprint
    for change in (lambda: -steering, lambda: steering + steering, lambda: averaged([steering, steering])):
        with pytest.raises(UserError, match="Only directions can be .*; this steering sets a component to a number"):
            change()
    message = "a component is set along one vector that is not 0, elsewhere than at heads"
    for site, shape in (("block", (1, 4)), ("block", (2, 4)), ("heads", (1, 4))):
        vectors = np.full(shape, 0 if shape == (1, 4) and site == "block" else 1, dtype="f4")
        with pytest.raises(UserError, match=message):
            Edit(0, site, "set", True, vectors, np.ones(len(vectors), dtype="f4"))
    Steering(()).save(tmp_path / "none")
    assert Steering.load(tmp_path / "none").edits == ()


# Training the direction


def test_a_direction_learns_the_same_whether_prompts_are_run_once_or_again():
    """Not of a random gemma3_text, whose states do not tell the two intents apart: rounding would be learnt."""
    task = replace(TASK, train=TASK.train[:6])
    found, losses = [], []
    for obstacle, most_bytes in ((None, 2**30), (None, 0), ("for the test", 0)):
        asker = TaskModel.for_task(task, Engine(engine("llama").backbone))
        asker.model.__dict__["obstacle"] = obstacle
        asked = Asked.of(task.train, [], asker)
        (first, _) = unit(asked.gap)
        trained = asker.activations.interchange(0, first, Training(lr=0.01, clip=0.0))
        trained.most_bytes = most_bytes
        queries, sources = asked.crossed(0)
        logs = [asker.learn(trained, queries[i : i + 3], loss="all", sources=sources[i : i + 3]) for i in range(4)]
        losses.append([log.loss_nats for log in logs])
        found.append(trained.steering().edits[0].vectors)
        assert np.linalg.norm(found[-1]) == pytest.approx(1, abs=1e-5)
        assert np.abs(found[-1] - first).max() > 1e-3
    close(found[0], found[2])
    close(found[1], found[2])
    # The first loss is that of the engine's own edits, each prompt's component set to the other's
    edits = [Steering((set_to(0, first, float(s @ first)),)) for s in sources[:3]]
    bits = [asker.bits_under([edit], [q])[0, 0] for edit, q in zip(edits, queries[:3], strict=True)]
    n_tokens = sum(asker.model.count_tokens(asker.layout.answer(q.output)) for q in queries[:3])
    assert losses[0][0] == pytest.approx(sum(bits) * np.log(2) / n_tokens, abs=1e-4)


# In a network that was trained for both intents


@pytest.mark.slow
def test_the_network_obeys_both_intents_and_decides_for_neither_without(subject):
    for intent in INTENTS:
        assert share(subject, intent, tell=lambda e, intent=intent: told(e, intent)) >= 0.95
        assert 0.3 <= share(subject, intent) <= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("ask", INTENTS)
def test_the_knob_flips_answers_without_the_intents_text(subject, knobs, ask):
    steering = knobs[ask]
    turned = share(subject.steered(steering), ask)
    control = [share(subject.steered(randomised(steering, generator(i, "random"))), ask) for i in range(5)]
    assert turned >= 0.8
    assert turned >= share(subject, ask) + 0.25
    assert turned >= np.mean(control) + 0.25
    assert turned >= max(control) + 0.1
    (edit,) = steering.edits
    assert (edit.layer, edit.site, edit.operation, edit.last_only) == (0, "block", "set", True)


@pytest.mark.slow
def test_what_was_found_is_said(knobs):
    about = knobs["memory"].about
    assert about["pair_accuracy"] <= min(about["accuracy"])
    assert about["pair_accuracy"] >= 0.9
    assert about["means"]["context"] > about["means"]["memory"]
    assert about["separability"] >= 0.95
    assert "note" not in about
    # Whole states carry the intent after the first layer already; after the last they are the answer, which no
    # direction is
    assert about["layer"] == 0
    assert min(about["patched"]) > 0.8
    assert about["moved"][0] > about["moved"][1] + 0.2


@pytest.mark.slow
def test_where_states_are_separable_the_knob_steers_and_elsewhere_it_does_not(subject):
    found = []
    for layer in (0, 1):
        ends = [Knob(ask, "mean", layer, shots=0) for ask in INTENTS]
        both = [end.fit(TASK.train, model=subject, rng=generator(0, "x")) for end in ends]
        right = [share(subject.steered(one), ask) for one, ask in zip(both, INTENTS, strict=True)]
        found.append((both[0].about["separability"], np.mean(right)))
    (first, steers), (last, does_not) = found
    assert first > last + 0.05
    assert steers > does_not + 0.2


@pytest.mark.slow
def test_a_knob_found_on_one_task_is_used_on_another(network, tmp_path):
    first, others = NAMES[:8], NAMES[8:]
    found = kshot.steer(replace(TASK, train=rows(40, 5, first)), "knob:ask=memory,shots=0", model=network)
    found.save(tmp_path / "knob")
    # Another task, about other names, that knows nothing of memory
    asked = rows(40, 6, others)
    bare = tuple(replace(e, meta={}) for e in asked)
    task = Task("others", "qa", bare[:8], bare[8:], metrics=("exact_match",))
    assert Knob().missing_field(task) == "meta.memory_answer"
    right = {}
    for model in (network, network.steered(Steering.load(tmp_path / "knob"))):
        run = kshot.adapt(task, model, recipes="zero-shot", out=tmp_path / f"run-{len(right)}", limit=4)
        said = run.best.predict([{"input": e.input, "context": e.context or ""} for e in bare])
        right[len(right)] = np.mean([s == memory_answer(e) for s, e in zip(said, asked, strict=True)])
    assert right[1] >= right[0] + 0.25
    assert right[1] >= 0.75


# Data


def test_an_intent_is_said_between_context_and_question():
    subject, example = asker(), TASK.train[0]
    for intent, sentence in zip(INTENTS, (CONTEXT, MEMORY), strict=True):
        text = subject.prompt((), told(example, intent))[0].text
        assert text == f"Context: {example.context}\n{sentence}\nQuestion: Where?\nAnswer:"
        assert told(example, intent).output == answer_under(example, intent)
        assert told(example, opposite(intent)).output != answer_under(example, intent)


def test_examples_count_whose_answers_differ():
    plain = Example("q", "Paris", "1", "It is Paris.", meta={"memory_answer": "Rome"})
    others = [
        replace(plain, context=None),
        replace(plain, meta={}),
        replace(plain, meta={"memory_answer": " paris "}),
        replace(plain, meta={"memory_answer": ["Rome"]}),
        replace(plain, meta={"memory_answer": " "}),
        replace(plain, references=("Paris", "Rome")),
    ]
    task = Task("t", "qa", (plain,))
    assert conflicting([*others, plain], task) == [plain]
    chosen = replace(task, kind="classification", labels=("Paris", "Oslo"))
    assert conflicting([plain], chosen) == []
    assert conflicting([plain], replace(chosen, labels=("Paris", "Rome"))) == [plain]
    missing = [lacking(replace(task, train=(e,))) for e in (plain, others[0], others[1], others[2])]
    assert missing[:3] == [None, "context", "meta.memory_answer"]
    assert missing[3] == "a meta.memory_answer that is another of the possible answers than the output"


def test_a_files_column_is_the_memory_answer(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"input": "q", "context": "c", "output": "a", "memory_answer": "b"}\n'
        '{"input": "r", "context": "c", "output": "b", "memory_answer": "b"}\n'
    )
    task = Task.load(tmp_path / "t.jsonl", kind="qa")
    assert [memory_answer(e) for e in task.train] == ["b", "b"]
    assert [e.input for e in conflicting(task.train, task)] == ["q"]


# Along a stream, and what is refused

TINY = {"shots": 2, "steps": 4}
NAME = "knob:shots=2,steps=4"


@cache
def tiny() -> Engine:
    return Engine(tiny_backbone())


def asker(examples=TASK.train) -> TaskModel:
    return TaskModel.for_task(replace(TASK, train=tuple(examples)), tiny())


def changed(found, others) -> list[bool]:
    return [not np.allclose(p.log_probs, q.log_probs, atol=1e-4) for p, q in zip(found, others, strict=True)]


def test_along_a_stream_it_knows_the_past_alone():
    examples = TASK.train[:8]
    queries = [Query(e, examples[:i]) for i, e in enumerate(examples)]
    found = make_learner(parse_recipe(NAME, shots=2), Setup(TASK, asker(examples), 0)).predict(queries)
    bare = make_learner(parse_recipe("zero-shot", shots=2), Setup(TASK, asker(examples), 0)).predict(queries)
    assert changed(found, bare) == [False] * 4 + [True] * 4
    later = [*examples[:5], *[replace(e, output="p99", meta={"memory_answer": "p98"}) for e in examples[5:]]]
    queries = [Query(e, tuple(later[:i])) for i, e in enumerate(later)]
    again = make_learner(parse_recipe(NAME, shots=2), Setup(TASK, asker(examples), 0)).predict(queries)
    assert [p.log_probs for p in again[:5]] == [p.log_probs for p in found[:5]]


def test_beside_a_tuner_it_is_found_in_the_trained_weights():
    examples = TASK.train[:6]
    queries = [Query(e, examples[:i]) for i, e in enumerate(examples)]
    said = []
    for steerer in (f"steerer={NAME.replace(':', '(')}),", ""):
        recipe = parse_recipe(f"fine-tune:{steerer}lr=1e-3,steps=1", shots=1)
        said.append(make_learner(recipe, Setup(TASK, asker(examples), 0)).predict(queries))
    assert changed(*said) == [False] * 4 + [True] * 2


def test_too_few_that_differ_steer_nothing_and_too_few_that_are_right_are_said():
    few = (*TASK.train[:3], *(replace(e, meta={}) for e in TASK.train[3:9]))
    subject = asker(few)
    heard: list[str] = []
    subject.progress.say = heard.append
    found = Knob(**TINY).fit(few, model=subject, rng=generator(0, "x"))
    assert found.edits == ()
    assert heard == [
        "knob: 3 of 9 examples have another answer in meta.memory_answer than from their context, and it takes 4; "
        "nothing is steered"
    ]
    found = Knob(**TINY).fit(TASK.train[:9], model=subject, rng=generator(0, "x"))
    assert found.edits
    assert heard[1:] == ["knob: the direction is of all examples, as too few are right with both intents"]
    assert found.about["note"] == "the direction is of all examples, as too few are right with both intents"


@pytest.mark.parametrize(
    ("change", "missing"),
    [({"context": None}, "context"), ({"meta": {}}, r"meta\.memory_answer")],
)
def test_a_task_without_context_or_memory_answers(change, missing, tmp_path):
    task = replace(TASK, train=tuple(replace(e, **change) for e in TASK.train[:8]))
    with pytest.raises(UserError, match=f"of knob, its examples must have {missing}, and none has"):
        kshot.adapt(task, tiny(), recipes="knob", out=tmp_path / "run")
    run = kshot.adapt(task, tiny(), recipes="zero-shot,knob", out=tmp_path / "run")
    (row,) = [row for row in run.leaderboard if row["recipe"] == "knob"]
    said = f"its examples must have {missing}, and none has"
    assert (row["status"], row["reason"]) == ("not-applicable", said.replace("\\", ""))
    assert RandomDirection(Knob()).missing_field(task) == missing.replace("\\", "")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("knob:ask=both", "ask must be one of context, memory; got 'both'"),
        ("knob:direction=pca", "direction must be one of trained, mean; got 'pca'"),
        ("knob:factor=-1", "factor must be a number, 0 or more; got -1.0"),
        ("knob:steps=0", "steps must be 1 or more; got 0"),
        ("knob:layer=-2", "layer must be -1 or more; got -2"),
    ],
)
def test_settings_that_make_no_sense(recipe, message):
    with pytest.raises(UserError, match=message):
        parse_recipe(recipe, shots=2)
    with pytest.raises(UserError, match=r"layer must be in 0\.\.1, the model's layers, or -1; got 2"):
        Knob(layer=2).fit(TASK.train, model=asker(), rng=generator(0, "x"))


def test_settings_are_kept():
    found = Knob(ask="memory", direction="mean", layer=1, factor=2.0, shots=2)
    steering = found.fit(TASK.train, model=asker(), rng=generator(0, "x"))
    assert (steering.edits[0].layer, steering.about["factor"]) == (1, 2.0)
    assert "patched" not in steering.about
    means = steering.about["means"]
    middle = (means["context"] + means["memory"]) / 2
    constant = middle + 2 * (means["memory"] - middle)
    assert np.linalg.norm(steering.edits[0].vectors) == pytest.approx(abs(constant), abs=1e-3)


def test_the_layer_is_the_best_direction_from_where_states_decide():
    assert chosen_layer(np.array([0.1, 0.2, 0.6, 0.95, 1.0]), np.array([0.9, 0.1, 0.4, 0.5, 0.0])) == 3
    assert chosen_layer(np.array([0.9, 0.9, 1.0]), np.array([0.3, 0.1, 0.0])) == 0
    assert separation(np.array([[1, 0], [3, 2]], dtype="f4")) == 0.75


def test_a_dry_run_counts_what_a_run_runs(tmp_path):
    task, model = replace(TASK, train=TASK.train[:12]), tiny()
    (planned,) = plan(prepare(RunSettings(task, model, recipes=NAME, shots=2)))
    asked = TaskModel.for_task(task, model)
    make_learner(parse_recipe(NAME, shots=2), Setup(task, asked, 0)).predict(
        make_stream(task, limit=300, seed=0).queries()
    )
    assert planned["forward_tokens"] == pytest.approx(asked.ledger.cost.tokens, rel=0.25)
