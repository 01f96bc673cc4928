"""Modules beside a model that stays as it is: made tokens in packed rows and plain passes, kept, counted, refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import kshot
import kshot.learners.trained
from conftest import labelled_rows
from kshot.core.errors import ModelError, UserError
from kshot.core.ledger import Ledger
from kshot.core.lessons import Batch, Lesson, Pooling, Resampling, TrainingText
from kshot.core.objective_settings import Preference
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example, GenerateRequest, Prompt, Query, ScoreRequest, Segment, Task
from kshot.engine.frozen_model import FrozenEngine
from kshot.engine.language_model import Engine
from kshot.export.targets import target_of, write_export
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.models.made_tokens import FIRST_MADE
from kshot.models.tiny import tiny_backbone
from kshot.race.rehearsal import rehearsed
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES, chat_engine, chat_tokenizer

STREAM = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(8)))
QUERIES = [Query(e, STREAM[:i]) for i, e in enumerate(STREAM)]
TASK = Task("words", "classification", STREAM, labels=("animal", "food", "tool"), instruction="Say the kind.")
INPUTS = [row["input"] for row in labelled_rows(3, start=30)]
ADAPTER, POOLED = "context-adapter:k=2,lr=1e-2,steps=1,batch=2", "pooled:k=2,lr=1e-2,steps=1,batch=2"
ANSWERS = (" a\n\n", " b\n\n", " bc\n\n")
PASSAGE = Segment("context", "Context: it is so\n")


def shown(*numbers: int) -> tuple[Segment, ...]:
    found = list[Segment]()
    for i in numbers:
        found += [Segment("demonstration", f"Text: no {i}\nLabel:"), Segment("answer", f" {'ab'[i % 2]}\n\n")]
    return tuple(found)


def prompt(text: str, before: tuple[Segment, ...] = ()) -> Prompt:
    return Prompt((Segment("instruction", "Say it.\n\n"), *before, Segment("query", f"Text: {text}\nLabel:")))


def asked(text: str, before: tuple[Segment, ...] = ()) -> ScoreRequest:
    return ScoreRequest(prompt(text, before), ANSWERS)


REQUESTS = [
    asked("one", shown(1, 2)),
    asked("a longer one", shown(1, 2)),
    asked("one", (*shown(3), PASSAGE)),
    asked("one", (PASSAGE,)),
    asked("one"),
]


def trained(engine: Engine, how: Resampling | Pooling, *, steps: int = 3) -> FrozenEngine:
    model = engine.trainable(how, seed=0)
    assert isinstance(model, FrozenEngine)
    texts = [
        TrainingText(Prompt((*r.prompt.segments, Segment("answer", ANSWERS[i % 3])))) for i, r in enumerate(REQUESTS)
    ]
    for _ in range(steps):
        model.learn(Batch(texts))
    return model


HOWS = [Resampling(lr=1e-2, latents=4), Pooling(lr=3e-2, rank=4)]
KINDS = ["resampler", "segment-map"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_backbone())


@pytest.fixture(scope="module")
def asker(engine) -> TaskModel:
    return TaskModel.for_task(TASK, engine)


def vectors_of(model: FrozenEngine, ids: tuple[int, ...]) -> torch.Tensor:
    """The vectors of tokens, made and others, `[n, width]`."""
    words = model._weights.embed([0 if i >= FIRST_MADE else i for i in ids])
    for at, i in enumerate(ids):
        if i >= FIRST_MADE:
            words[at] = model._weights.make(model._weights.made_of([i]))[0]
    return words


@torch.no_grad()
def plainly(model: FrozenEngine, request: ScoreRequest) -> np.ndarray:
    """Log-probabilities by transformers' own pass over the vectors."""
    ids, answers = model._encoder.score(request)
    found = []
    for answer in answers:
        vectors = vectors_of(model, (*ids, *answer[:-1]))[None]
        logits = model.backbone.model(inputs_embeds=vectors, use_cache=False).logits[0, -len(answer) :].log_softmax(-1)
        found.append(sum(float(logits[i, token]) for i, token in enumerate(answer)))
    return np.array(found)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("how", HOWS, ids=KINDS)
def test_packed_rows_equal_a_plain_pass_over_the_vectors(how, architecture, monkeypatch):
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4} if architecture == "gpt2" else {}
    engine = Engine(tiny_backbone(architecture, settings=settings), pack_tokens=16)
    model = trained(engine, how)
    assert engine.obstacle is None
    expected = [plainly(model, request) for request in REQUESTS]
    for packed, plain, bare in zip(model.score(REQUESTS), expected, engine.score(REQUESTS), strict=True):
        assert packed == pytest.approx(plain, abs=1e-3)
        assert bare.shape == plain.shape
    changed = [np.abs(one - bare).max() > 1e-3 for one, bare in zip(expected, engine.score(REQUESTS), strict=True)]
    assert changed == ([True, True, True, False, False] if how is HOWS[0] else [True] * 5)
    monkeypatch.setitem(model.__dict__, "obstacle", "as if")
    for one, plain in zip(model.score(REQUESTS), expected, strict=True):
        assert one == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("how", HOWS, ids=KINDS)
def test_answers_are_written_after_made_tokens(engine, how, monkeypatch):
    model = trained(engine, how)
    requests = [GenerateRequest(request.prompt, 5) for request in REQUESTS]
    packed = model.generate(requests)
    monkeypatch.setitem(model.__dict__, "obstacle", "as if")
    assert [a.text for a in model.generate(requests)] == [a.text for a in packed]


@pytest.mark.parametrize("how", HOWS, ids=KINDS)
def test_the_model_itself_stays_as_it_is(engine, how):
    before, weights = engine.score(REQUESTS), {n: p.clone() for n, p in engine.backbone.model.named_parameters()}
    model = trained(engine, how)
    model.score(REQUESTS)
    assert all(torch.equal(p, weights[n]) for n, p in engine.backbone.model.named_parameters())
    assert all((a == b).all() for a, b in zip(engine.score(REQUESTS), before, strict=True))
    assert model.fingerprint != engine.fingerprint == model.base_fingerprint


# The context adapter


def test_a_set_of_demonstrations_is_a_few_tokens_in_their_place(engine):
    model = trained(engine, HOWS[0], steps=0)
    told, own = len("Say it.\n\n") + 1, len("Text: one\nLabel:")
    ids = model.encode(prompt("one", shown(1, 2, 3))).ids
    assert [i >= FIRST_MADE for i in ids] == [False] * told + [True] * 4 + [False] * own
    assert model.run_tokens(prompt("one", shown(1, 2, 3))) == told + 4 + own  # type: ignore - of this kind of model
    assert model.run_tokens(prompt("one")) == told + own  # type: ignore
    assert model.encode(prompt("one")).ids == engine.encode(prompt("one")).ids
    assert model.encode(prompt("two", shown(1, 2, 3))).ids[: told + 4] == ids[: told + 4]
    assert model.encode(prompt("one", shown(1, 2))).ids[told : told + 4] != ids[told : told + 4]
    again = engine.trainable(HOWS[0], seed=0)
    assert again.encode(prompt("one", shown(1, 2, 3))).ids == ids  # type: ignore - and in another process


@pytest.mark.parametrize("how", HOWS, ids=KINDS)
def test_a_steered_model_reads_what_it_has_read_before(engine, how):
    model, width = trained(engine, how), engine.activations.shape.width
    vectors, weights = np.ones((1, width), np.float32), np.array([0.1], np.float32)
    steered = model.steered(Steering((Edit(0, "block", "add", False, vectors, weights),), model.fingerprint))
    for request in REQUESTS:
        assert steered.encode(request.prompt).ids == model.encode(request.prompt).ids
    assert np.abs(steered.score(REQUESTS[:1])[0] - model.score(REQUESTS[:1])[0]).max() > 1e-4


def test_the_order_of_demonstrations_does_not_matter(engine):
    model = trained(engine, HOWS[0])
    orders = [asked("one", shown(*order)) for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1))]
    first, *others = model.score(orders)
    assert all((one == first).all() for one in others)
    base = engine.score(orders)
    assert all(np.abs(one - base[0]).max() > 1e-3 for one in base[1:])  # as it does for the model itself
    answers_swapped = asked("one", (shown(1)[0], shown(2)[1], shown(2)[0], shown(1)[1]))
    assert np.abs(model.score([answers_swapped])[0] - model.score([asked("one", shown(1, 2))])[0]).max() > 1e-3


def test_a_query_costs_its_own_tokens(engine):
    model = trained(engine, Resampling(lr=1e-2, latents=4, rank=4))
    share = model._weights.share  # type: ignore - of the resampler
    texts, context = ("one", "other", "next"), shown(1, 2, 3, 4)
    requests = [ScoreRequest(prompt(text, context), ANSWERS[:2]) for text in texts]
    n_read = sum(len(segment.text) for segment in context)

    def taken(asker, some) -> float:
        ledger = Ledger()
        asker.score(some, ledger=ledger)
        return ledger.cost.tokens

    own = [engine.forward_tokens([ScoreRequest(prompt(text), ANSWERS[:2])]) for text in texts]
    told = len("Say it.\n\n") + 1
    assert taken(model, requests[:1]) == own[0] + 4 + int(np.ceil(share * n_read))
    assert taken(model, requests) <= told + 4 + int(np.ceil(share * n_read)) + sum(n - told for n in own)
    assert taken(model, requests) == model.forward_tokens(requests)
    warm = model.remembering()
    taken(warm, requests[:2])
    assert [taken(warm, [r]) for r in requests] == [n - told for n in own]  # neither prefix nor demonstrations
    log = model.learn(Batch([TrainingText(Prompt((*requests[0].prompt.segments, Segment("answer", ANSWERS[0]))))]))
    n_answer = len(ANSWERS[0])
    assert log.tokens == told + 4 + len("Text: one\nLabel:") + n_answer + int(np.ceil(share * n_read))


def test_remembered_beginnings_say_the_same(engine):
    model = trained(engine, HOWS[0])
    warm, expected = model.remembering(), model.score(REQUESTS)
    for _ in range(3):
        for one, other in zip(warm.score(REQUESTS), expected, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_old_contexts_are_forgotten_and_known_again(engine, monkeypatch):
    model = trained(engine, HOWS[0])
    monkeypatch.setattr("kshot.models.made_tokens._MOST_ASKED", 2)
    requests = [asked("one", shown(i)) for i in range(6)]
    whole = model.score(requests)  # more at once than are kept
    assert len(model._weights._asked) >= 6
    for request, expected in zip(requests, whole, strict=True):
        assert model.score([request])[0] == pytest.approx(expected, abs=1e-4)
    assert len(model._weights._asked) <= 3
    assert len(model._weights._known) == 4 * len(model._weights._asked)


def test_the_module_is_small_or_an_error(engine):
    model = engine.trainable(Resampling(), seed=0)
    share = model._weights.share  # type: ignore
    n_host = sum(p.numel() for p in engine.backbone.model.parameters())
    assert share == sum(p.numel() for p in model._weights.parameters.values()) / n_host < 0.05  # type: ignore
    message = (
        r"must have less than 5% of the model's parameters; 'tiny' has 35,\d+, and with rank=64 and latents=16 it has "
        r"\d+,\d+\. Use fewer latents or a smaller rank"
    )
    with pytest.raises(UserError, match=message):
        engine.trainable(Resampling(rank=64), seed=0)
    small = Engine(tiny_backbone(settings={"vocab_size": 300, "hidden_size": 8, "head_dim": 2, "intermediate_size": 8}))
    with pytest.raises(UserError, match="with rank=4 and latents=256 it has"):
        small.trainable(Resampling(latents=256), seed=0)


def test_in_a_chat_the_first_token_stays():
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    asker = TaskModel.for_task(TASK, engine)
    model = engine.trainable(Resampling(latents=1, rank=4), seed=0)
    whole = asker.prompt(STREAM[:2], STREAM[3])[0]
    ids, bare = model.encode(whole).ids, engine.encode(whole).ids  # type: ignore
    assert ids[0] == bare[0]
    assert [i >= FIRST_MADE for i in ids[:3]] == [False, True, False]
    assert ids[2:] == bare[-len(ids[2:]) :]


def test_messages_that_hold_all_demonstrations_are_refused(tmp_path):
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    with pytest.raises(UserError, match=r"'block' has them in one message.*Use --layout turns"):
        kshot.adapt(TASK, engine, recipes=f"{ADAPTER},latents=1", layout="block", out=tmp_path / "run")


def run(text: str, asker: TaskModel, queries=QUERIES, *, keep: Kept | None = None):
    learner = TrainedLearner(parse_recipe(text, shots=3), Setup(TASK, asker, 0, kept=keep))
    return learner, [replace(p, seconds=0, fit_seconds=0) for q in queries for p in learner.predict([q])]


def in_bytes(one: TrainedLearner) -> list[bytes]:
    return [t.numpy().tobytes() for t in one.model._weights.tensors().values()]  # type: ignore - a `FrozenEngine`


@pytest.mark.parametrize("name", [ADAPTER, pytest.param(POOLED, marks=pytest.mark.slow)])
def test_a_new_process_goes_on_to_the_bit(asker, name, tmp_path, monkeypatch):
    monkeypatch.setattr(kshot.learners.trained, "SECONDS_BETWEEN_STATES", 0.0)
    whole, expected = run(name, asker)
    whole.learn(STREAM)
    keep = Kept(SqliteStore(tmp_path / "store.sqlite"), tmp_path / "training", "key")
    assert run(name, asker, QUERIES[:5], keep=keep)[1] == expected[:5]
    second, again = run(name, asker, keep=keep)
    second.learn(STREAM)
    assert (again, in_bytes(second), second.log) == (expected, in_bytes(whole), whole.log)
    assert whole.log[-1]["loss_nats"] != whole.log[0]["loss_nats"]
    keep.memory.close()


@pytest.mark.parametrize("name", [ADAPTER, pytest.param(POOLED, marks=pytest.mark.slow)])
def test_a_prediction_is_made_before_its_example_is_learnt(asker, name):
    one, predictions = run(name, asker)
    wrong = [Query(replace(e, output="tool"), STREAM[:i]) for i, e in enumerate(STREAM)]
    assert run(name, asker, [*QUERIES[:5], wrong[5]])[1][5].log_probs == predictions[5].log_probs
    assert predictions[0].log_probs == pytest.approx(run("fine-tune:lr=0,steps=1", asker)[1][0].log_probs, abs=1e-4)


def test_one_set_is_shown_unless_a_selector_chooses(asker):
    _, predictions = run(ADAPTER, asker, QUERIES[:6])
    assert predictions[4].demonstrations == predictions[5].demonstrations != ()  # until the past has doubled
    _, own = run(f"{ADAPTER},selector=bm25", asker, QUERIES[:6])
    assert len({p.demonstrations for p in own[4:]}) > 1
    _, several = run(f"{ADAPTER},contexts=2", asker, QUERIES[:6])
    assert len(several[5].contexts) == 2
    assert several[5].prompt_tokens == 2 * predictions[5].prompt_tokens  # each set is as many tokens
    told = len(TASK.instruction) + 2 + 1
    assert predictions[5].prompt_tokens == told + 16 + len(f"Text: {STREAM[5].input}\nLabel:")


@pytest.mark.parametrize("recipe", [ADAPTER, pytest.param(f"{POOLED},selector=random", marks=pytest.mark.slow)])
def test_the_adapted_model_is_saved_and_loaded_to_the_bit(asker, recipe, tmp_path):
    best = kshot.adapt(TASK, asker.model, recipes=recipe, out=tmp_path / "run").best
    expected = best.predict_proba(INPUTS)
    best.save(tmp_path / "copy")
    loaded = kshot.load(tmp_path / "copy", model=Engine(tiny_backbone()))
    assert loaded.predict_proba(INPUTS).tobytes() == expected.tobytes()
    assert loaded.model is not None
    assert loaded.model.fingerprint == best.model.fingerprint != asker.model.fingerprint
    file = next((tmp_path / "copy" / "adapter").iterdir())
    assert file.name == ("segment_map.safetensors" if recipe != ADAPTER else "resampler.safetensors")
    with pytest.raises(UserError, match="adapted with other weights, .* than those of 'tiny'.*adapt again"):
        kshot.load(tmp_path / "copy", model=Engine(tiny_backbone(seed=1)))
    with pytest.raises(UserError, match="Only weights of the model itself can be worked into it.*Use `kshot serve`"):
        best.save_merged(tmp_path / "merged")
    with pytest.raises(UserError, match=r"has trained a module beside the model \(.*\), which kshot alone can run"):
        write_export(best, target_of("peft"), tmp_path / "peft")


@pytest.mark.parametrize("how", HOWS, ids=KINDS)
def test_weights_of_other_settings_are_refused(engine, how, tmp_path):
    model = trained(engine, how)
    model.save_weights(tmp_path)
    again = engine.trainable(how, seed=1)
    again.load_weights(tmp_path, model.fingerprint)
    assert all((a == b).all() for a, b in zip(again.score(REQUESTS), model.score(REQUESTS), strict=True))
    other = engine.trainable(replace(how, rank=2), seed=0)
    with pytest.raises(UserError, match=r"must be those for 'tiny' with the same settings; '.*' is .* Adapt again"):
        other.load_weights(tmp_path, model.fingerprint)


@pytest.mark.parametrize("how", HOWS, ids=KINDS)
def test_a_teacher_reads_what_is_written_and_nobody_rejects(engine, how):
    model = engine.trainable(how, seed=0)
    asker = TaskModel.for_task(TASK, model)
    lesson = Lesson(STREAM[:2], STREAM[3], "last", teacher=STREAM[:3])
    row = model.training_row(asker.training_text(lesson))  # type: ignore - a `FrozenEngine`
    assert any(i >= FIRST_MADE for i in row.ids)
    assert row.teacher is not None
    assert max(row.teacher.ids) < FIRST_MADE
    _, predictions = run(f"{ADAPTER},teacher=demonstrations", TaskModel.for_task(TASK, engine), QUERIES[:4])
    assert np.isfinite(predictions[-1].log_probs).all()
    rejecting = asker.training_text(Lesson(STREAM[:2], STREAM[3], "last", rejected="food"))
    with pytest.raises(UserError, match=r"got a teacher that rejects answers, and weights=.*Leave the teacher out"):
        model.learn(Batch([rejecting], objective=Preference()))


def test_what_is_trained_cannot_be_another(asker):
    with pytest.raises(UserError, match="weights must be one of resampler; got 'full'"):
        parse_recipe("context-adapter:weights=full", shots=3)
    with pytest.raises((UserError, ModelError), match="latents must be"):
        parse_recipe("context-adapter:latents=0", shots=3)


@pytest.mark.parametrize("recipe", [ADAPTER, POOLED])
def test_a_dry_run_counts_what_a_run_runs(recipe):
    found, run = parse_recipe(recipe, shots=2), TaskModel.for_task(TASK, Engine(tiny_backbone()))
    planned = rehearsed(found, Setup(TASK, run, 0), [QUERIES])
    make_learner(found, Setup(TASK, run, 0)).predict(QUERIES)
    assert planned.tokens == pytest.approx(run.ledger.cost.tokens, rel=0.02)
    assert planned.training_steps == len(STREAM) - 1


# The pooled vectors


def test_while_gates_are_0_the_model_is_as_it_was_to_the_bit(engine):
    model = trained(engine, HOWS[1], steps=0)
    for one, bare in zip(model.score(REQUESTS), engine.score(REQUESTS), strict=True):
        assert (one == bare).all()
    for request in REQUESTS:  # nor would it be another if tokens were made, as in training
        text = TrainingText(Prompt((*request.prompt.segments, Segment("answer", " a"))))
        ids, bare = model.training_row(text).ids, engine.training_row(text).ids
        assert max(ids) >= FIRST_MADE
        assert torch.equal(vectors_of(model, ids), model._weights.embed(bare))


def test_training_opens_the_gates_and_moves_the_loss(engine):
    model = engine.trainable(HOWS[1], seed=0)
    assert isinstance(model, FrozenEngine)
    texts = [
        TrainingText(Prompt((*r.prompt.segments, Segment("answer", ANSWERS[i % 3]))), "last")
        for i, r in enumerate(REQUESTS)
    ]
    losses = [model.learn(Batch(texts)).loss_nats for _ in range(12)]
    assert losses[-1] < losses[0] - 0.05
    assert (model._weights.tensors()["gates"].abs() > 1e-3).all()  # each role is there


def test_only_first_tokens_of_questions_are_changed(engine):
    model = trained(engine, HOWS[1])
    before = (*shown(1), PASSAGE, *shown(2))
    whole = Prompt((*prompt("one", (*before, PASSAGE)).segments, Segment("answer", " a")))
    encoded, bare = model.encode(whole), engine.encode(whole)
    differ = [i for i, (a, b) in enumerate(zip(encoded.ids, bare.ids, strict=True)) if a != b]
    starts, at = [], 1
    for segment in whole.segments:
        starts.append(at)
        at += len(segment.text)
    assert differ == [starts[4], starts[7]]  # the second demonstration, after its passage, and the question
    (demonstration,), (question,) = (model._weights.made_of([encoded.ids[i]]) for i in differ)
    context, demonstrations, told = (tuple(t.encode()) for t in (PASSAGE.text, "", ""))
    assert demonstration.content == (ord("T"), (context, demonstrations, told))
    text = "".join(s.text for s in whole.segments[1:6])
    assert question.content == (ord("T"), (context, tuple(text.encode()), tuple(b"Say it.\n\n")))
    assert encoded.answer_spans == bare.answer_spans
