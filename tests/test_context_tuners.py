"""Tags and intents: what a model is told of how its answer is to come about, and that it obeys."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import write_task
from kshot.core.errors import ModelError, UserError
from kshot.core.intents import CONTEXT, MEMORY
from kshot.core.json_text import from_json
from kshot.core.script import Script, usual
from kshot.core.seeding import generator
from kshot.core.types import Example, Prediction
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.evaluators.both_intents import Pairs
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.answer_sources import SOURCES, came_from
from kshot.measures.measured import Measured
from kshot.methods.skill_profile import answers_after
from kshot.methods.tuners.cings import Cings
from kshot.methods.tuners.intent import Intent
from kshot.methods.tuners.tagged import Tagged
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.evaluate import evaluate
from passages import COLOURS, FACTS, N_KNOWN, TASK, THINGS, other_colour, reader, row

RNG = np.random.default_rng(1)
NEW = [row(i, other_colour(i, RNG)) for i in range(N_KNOWN, len(THINGS))]
WRONG = [row(i, other_colour(i, RNG)) for i in range(N_KNOWN)]
KNOWN = [row(i) for i in range(N_KNOWN)]


@pytest.fixture(scope="module")
def tiny() -> TaskModel:
    return TaskModel.for_task(replace(TASK, train=tuple(WRONG)), load_model("tiny"))


@pytest.fixture(scope="module")
def small() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(reader()))


def fitted(recipe: str, rows: Sequence[Example], model: TaskModel) -> TaskModel:
    task = replace(TASK, train=tuple(rows))
    found = make_learner(parse_recipe(recipe, shots=1), Setup(task, replace(model, task=task), 0)).fit(task.train)
    assert found.model is not None
    return found.model


def right(model: TaskModel, rows: Sequence[Example], answers: Sequence[str]) -> np.ndarray:
    """Whether the most probable colour is the answer, of each row."""
    scores = model.score([model.prompt((), e)[0] for e in rows], [COLOURS] * len(rows))
    return np.array([COLOURS[int(np.argmax(s))] == a for s, a in zip(scores, answers, strict=True)])


def outputs(rows: Sequence[Example]) -> list[str]:
    return [e.output for e in rows]


def memories(rows: Sequence[Example]) -> list[str]:
    return [e.meta["memory_answer"] for e in rows]


# How much attention is on the passage


@pytest.mark.parametrize(("kind", "settings"), [("llama", {}), ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4})])
def test_the_score_is_that_of_the_models_own_attention(kind, settings):
    engine = Engine(tiny_backbone(kind, settings=settings))
    model = TaskModel.for_task(TASK, engine)
    prompt, (first, stop) = model.prompt((), WRONG[0])[0], (0, 0)
    asked = engine.encode(prompt).ids
    ids = [*asked, *engine.backbone.tokenise(f" {WRONG[0].output}")]
    first, stop = engine.place_of(prompt, WRONG[0].context or "")
    own, before = engine.backbone.model, engine.backbone.model.config._attn_implementation
    own.set_attn_implementation("eager")
    attentions = own(torch.tensor([ids]), output_attentions=True).attentions
    own.set_attn_implementation(before)
    for layer in range(2):
        rows = attentions[layer][0][:, len(asked) - 1 : len(ids) - 1, first:stop]
        expected = float(rows.sum(-1).amax(0).mean())
        assert model.context_mass(WRONG[:1], layer) == [pytest.approx(expected, abs=1e-5)]


def test_scores_are_shares_and_nothing_without_a_passage(tiny):
    assert tiny.context_mass(KNOWN[:3], 1) == [0.0] * 3
    assert all(0 < s < 1 for s in tiny.context_mass(WRONG[:5], 1))


def test_a_model_whose_attention_cannot_be_reached_is_refused_by_name():
    model = TaskModel.for_task(TASK, Engine(tiny_backbone("mamba")))
    with pytest.raises(
        ModelError, match="Attention can be read of models that run in packed rows, as Llama.*'tiny' it"
    ):
        model.context_mass(WRONG[:1], 0)


PASSAGES = [
    ("Where was Anna Berg born?", "Anna Berg was born in {}.", "Lisbon"),
    ("What does Tom Hill play?", "Tom Hill plays the {}.", "violin"),
    ("Who owns the Rosen Mill?", "The Rosen Mill is owned by {}.", "Siemens"),
    ("Where is Lake Orra?", "Lake Orra is in {}.", "Norway"),
    ("What is Mia Sand's job?", "Mia Sand works as a {}.", "baker"),
    ("Where did Karl Voss die?", "Karl Voss died in {}.", "Madrid"),
    ("What language does Eva Lind speak?", "Eva Lind speaks {}.", "Finnish"),
    ("Who made the Zeta phone?", "The Zeta phone was made by {}.", "Nokia"),
]


@pytest.mark.slow
def test_a_copied_answer_has_a_higher_score_than_one_from_memory():
    model = TaskModel.for_task(TASK, load_model("demo"))
    copied = [Example(q, a, f"c{i}", p.format(a)) for i, (q, p, a) in enumerate(PASSAGES)]
    others = [*copied[3:], *copied[:3]]
    closed = [replace(e, context=other.context, id=f"{e.id}-") for e, other in zip(copied, others, strict=True)]
    a, b = (np.array(model.context_mass(rows, 12)) for rows in (copied, closed))
    assert float((a[:, None] > b).mean()) > 0.8


# Tags


def scored(tuner: Tagged, rows: Sequence[Example], score: float) -> Tagged:
    return replace(tuner, _scores={**(tuner._scores or {}), **{e.id: score for e in rows}})


def test_answers_above_the_threshold_have_the_tag_and_others_have_not():
    tuner = scored(scored(Tagged(batch=8), NEW[:2], 0.9), WRONG[:2], 0.3)
    lessons = tuner.lessons([*NEW[:2], *WRONG[:2]], lambda: (), step=0, rng=generator(0, "lesson"))
    assert {e.target.id: e.asked for e in lessons} == dict.fromkeys((e.id for e in NEW[:2]), "tagged") | dict.fromkeys(
        (e.id for e in WRONG[:2]), "plain"
    )
    bare = TaskModel.for_task(TASK, Engine(reader(0)))
    told = replace(bare, told=tuner.told)
    assert told.prompt((), NEW[0])[0].text.endswith(f"Question: {NEW[0].input} <unused0>\nAnswer:")
    for model, e in ((replace(told, asked="plain"), NEW[0]), (told, KNOWN[0]), (bare, NEW[0])):
        assert "<unused0>" not in model.prompt((), e)[0].text


@pytest.mark.slow
def test_the_tag_is_one_token_and_users_cannot_say_it(smollm2):
    model = replace(TaskModel.for_task(TASK, smollm2), told=Tagged(tag="<repo_name>").told)
    said = replace(WRONG[0], input="thing0? <repo_name>")
    with_tag, without = (
        smollm2.encode(m.prompt((), said)[0]).ids for m in (model, replace(model, asked="plain"))
    )  # fmt: skip
    tag = smollm2.backbone.tokenise("<repo_name>")
    assert len(tag) == 1
    assert (with_tag.count(tag[0]), without.count(tag[0])) == (1, 0)


def test_a_tag_that_the_tokenizer_splits_is_refused_unless_it_is_taken_as_it_is(tiny):
    with pytest.raises(
        UserError, match=r"tag must be one token for 'tiny'; got '\[IND\]', which is 5\. Name a word of "
    ):
        Tagged(tag="[IND]").knowing(WRONG[:1], model=tiny)
    with pytest.raises(
        UserError, match=r"it has none that is unused, and '\[IND\]' is 5.*or take it as it is with split"
    ):
        Tagged().knowing(WRONG[:1], model=tiny)
    assert set(Tagged(split=True).knowing(WRONG[:2], model=tiny)._scores) == {e.id for e in WRONG[:2]}
    with pytest.raises(UserError, match=r"layer must be in 0\.\.1, the model's layers, or -1; got 2"):
        Tagged(split=True, layer=2).knowing(WRONG[:1], model=tiny)


@pytest.mark.slow
def test_with_the_tag_passages_are_believed_and_without_it_what_is_known(small, monkeypatch):
    """Scores as they are told apart by larger models: rows of new things rest on their passage, others do not."""
    ids = {e.id for e in NEW}
    from_memory = [replace(e, output=FACTS[e.input[:-1]], id=f"{e.id}-m") for e in WRONG[:20]]
    monkeypatch.setattr(
        TaskModel, "context_mass", lambda self, rows, layer: [0.9 if e.id in ids else 0.1 for e in rows]
    )
    rows = [e for three in zip(NEW[:20], from_memory, KNOWN[:20], strict=True) for e in three]
    model = fitted("tagged:lr=1e-3,steps=2", rows, small)
    wrong, known = WRONG[20:], KNOWN[20:]
    share = {ask: right(replace(model, asked=ask), wrong, outputs(wrong)).mean() for ask in ("tagged", "plain")}
    assert share["tagged"] > share["plain"] + 0.1
    before = right(small, known, outputs(known)).mean()
    assert right(replace(model, asked="plain"), known, outputs(known)).mean() >= before - 0.05


def test_contexts_without_answers_are_told():
    rows = tuple(replace(e, context="nothing of it") for e in WRONG[:4])
    assert (Tagged().caution(replace(TASK, train=rows)) or "").startswith(
        "tagged learns to answer from contexts; none of the 4 contexts has its answer in it, such as"
    )
    assert Tagged().caution(replace(TASK, train=tuple(WRONG[:4]))) is None


# Intents


def test_the_two_lessons_of_an_example_stand_side_by_side():
    lessons = Intent(batch=2).lessons(WRONG[:2], lambda: (), step=0, rng=generator(0, "lesson"))
    assert [e.asked for e in lessons] == ["context", "memory"] * 2
    for first, second in (lessons[:2], lessons[2:]):
        assert first.target.id == second.target.id
        assert (first.target.output, second.target.output) == (first.target.output, first.target.meta["memory_answer"])
    (alone,) = Intent(batch=1).lessons(KNOWN[:1], lambda: (), step=0, rng=generator(0, "lesson"))
    assert (alone.asked, alone.target) == ("", KNOWN[0])


def test_an_intent_is_a_sentence_after_the_context_and_demonstrations_show_answers_of_theirs(tiny):
    def text(script: Script, **settings: str) -> str:
        told = Intent(**settings).told(script, asked="", model=tiny)
        return tiny.layout.write(told).text

    said = usual(TASK, WRONG[:1], WRONG[1].question)
    assert text(said, ask="memory") == (
        f"Context: thing0 is {WRONG[0].output}\n{CONTEXT}\nQuestion: thing0?\nAnswer: {WRONG[0].output}\n\n"
        f"Context: thing1 is {WRONG[1].output}\n{MEMORY}\nQuestion: thing1?\nAnswer:"
    )
    assert text(said, ask="plain") == tiny.layout.write(said).text
    again = Intent().told(Intent(ask="memory").told(said, asked="", model=tiny), asked="", model=tiny)
    assert tiny.layout.write(again).text == text(said, ask="memory")
    closed = usual(TASK, (), KNOWN[0].question)
    assert Intent().told(closed, asked="", model=tiny) == closed


def test_an_intent_that_no_example_has_is_refused(run_cli, tmp_path):
    rows = [{"input": e.input, "output": e.output, "context": e.context} for e in WRONG[:8]]
    folder = write_task(tmp_path / "task", rows, card={"kind": "qa"})
    done = run_cli("adapt", folder, "--model", "tiny", "--recipes", "intent:ask=memory", "--out", tmp_path / "run")
    assert done.code == 2
    assert "its examples must have meta.memory_answer, and none has" in done.err


@pytest.mark.slow
def test_an_intent_is_obeyed_after_training_on_other_things(small):
    told = replace(small, told=Intent().told)
    model = fitted("intent:lr=1e-3,steps=2", WRONG[:28], small)
    asked = WRONG[28:]

    def pairs(model: TaskModel) -> tuple[float, float]:
        """Share of both right, and the smaller of the two shares."""
        context = right(replace(model, asked="context"), asked, outputs(asked))
        memory = right(replace(model, asked="memory"), asked, memories(asked))
        return float((context & memory).mean()), float(min(context.mean(), memory.mean()))

    (before, _), (after, least) = pairs(told), pairs(model)
    assert after <= least
    assert after > before + 0.3
    task, suite = replace(TASK, test=tuple(asked)), Pairs()
    cases = suite.cases(task, rng=RNG)
    found = []
    for one in (told, model):
        answers = answers_after([()] * len(cases), [case.example for case in cases], model=one)
        said = [Prediction("", (), (), (), answer) for answer in answers]
        found.append({k: v.value for k, v in suite.report(task, cases, said).items() if isinstance(v, Measured)})
    assert found[1]["pair_accuracy"] > found[0]["pair_accuracy"] + 0.3
    assert found[1]["pair_accuracy"] == pytest.approx(after, abs=0.1)  # the same two questions, in another place


@pytest.mark.slow
def test_a_knob_decides_where_the_trained_model_is_asked_without_a_sentence(small):
    """Three draws of the network: from memory 0.67, 0.42 and 0.33 of the answers with it, 0.33, 0 and 0.08 without."""
    task, asked = replace(TASK, train=tuple(WRONG[:28])), WRONG[28:]
    recipe = parse_recipe("intent:ask=plain,lr=1e-3,steps=2,steerer=knob(ask=memory,shots=0)", shots=1)
    found = make_learner(recipe, Setup(task, replace(small, task=task), 0)).fit(task.train)
    assert found.model is not None
    assert found.steering is not None
    assert CONTEXT not in found.model.prompt((), asked[0])[0].text
    steered = found.model.steered(found.steering)
    assert steered.prompt((), asked[0])[0].text == found.model.prompt((), asked[0])[0].text
    assert right(steered, asked, memories(asked)).mean() > right(found.model, asked, memories(asked)).mean() + 0.1


# CINGS (the rest of it: test_cings.py): here, as its network is that of tags and intents


def passage_share(model: TaskModel, rows: Sequence[Example]) -> float:
    """The mean probability of what the passages say."""
    scores = model.score([model.prompt((), e)[0] for e in rows], [(e.output,) for e in rows])
    return float(np.exp([row[0] for row in scores]).mean())


@pytest.mark.slow
def test_passages_are_believed_more_and_what_is_known_stays_known(small):
    """Learnt from things that the network does not know, and asked of others, whose passages are wrong."""
    told = replace(small, told=Cings().told)
    grounded, plain = (fitted(f"cings:lr=3e-4,steps=2{mode}", NEW, small) for mode in ("", ",mode=no_context"))
    shares = {"base": passage_share(told, WRONG), "plain": passage_share(plain, WRONG)}
    assert passage_share(grounded, WRONG) > shares["plain"] + 0.1
    assert shares["plain"] > shares["base"]
    assert passage_share(grounded, KNOWN) > passage_share(told, KNOWN) - 0.05


# Where answers come from


def test_where_an_answer_comes_from_is_told_only_where_it_can_be():
    e = row(0, "red" if FACTS["thing0"] != "red" else "blue")
    assert [came_from(a, e) for a in (f"The {e.output}.", FACTS["thing0"].upper(), "violet", None)] == [
        "passage", "memory", "neither", None]  # fmt: skip
    assert came_from("red", replace(e, meta={})) is None
    assert came_from("red", replace(e, output=FACTS["thing0"])) is None


class Answering:
    """Says what it is asked for, or always the same."""

    fitted, steering = SimpleNamespace(model=None, notes=()), None

    def __init__(self, asked: str = "", *, obeys: bool = True):
        self.seed, self._asked, self._obeys = 0, asked, obeys

    def asking(self, asked: str) -> "Answering":
        return Answering(asked, obeys=self._obeys)

    def check_rows(self, task, limit=None):
        return task

    def tell_learnt(self, task, progress) -> int:
        return 0

    def predictions(self, examples, *, progress):
        from_memory = self._obeys and self._asked == "memory"
        said = [e.meta["memory_answer"] if from_memory or not e.context else e.output for e in examples]
        return [Prediction(e.id, (), (), (), answer) for e, answer in zip(examples, said, strict=True)]


def test_the_suite_asks_under_both_intents_and_closed_book():
    task = replace(TASK, test=tuple(WRONG[:5]))
    both, one = (evaluate(Answering(obeys=obeys), task, "context-use") for obeys in (True, False))
    told = {k: v["value"] if isinstance(v, dict) else v for k, v in both.items()}
    assert {k: v for k, v in told.items() if k not in ("answers", "suite", "n_learnt")} == {
        "n": 5, "from_passage": 1.0, "from_memory": 0.0, "from_neither": 0.0, "memory_when_asked": 1.0, "pair": 1.0,
        "closed_book": 1.0,
    }  # fmt: skip
    assert (one["pair"]["value"], one["memory_when_asked"]["value"]) == (0.0, 0.0)
    assert one["pair"]["low"] == 0.0 < one["pair"]["high"] < 0.6
    assert both["answers"][0] == {"id": WRONG[0].id, "answer": WRONG[0].output, "came_from": "passage"}
    with pytest.raises(UserError, match="cannot be used on this task: its examples must have a memory_answer that"):
        evaluate(Answering(), replace(TASK, test=tuple(KNOWN[:3])), "context-use")


def test_a_run_offers_the_recipes_and_tells_where_each_answer_came_from(run_cli, tmp_path):
    rows = [
        {"input": f"{e.input} {i}", "output": e.output, "context": e.context, **e.meta} for i, e in enumerate(WRONG[:8])
    ]
    folder = write_task(tmp_path / "task", rows, card={"kind": "qa"})
    run = tmp_path / "run"
    done = run_cli("adapt", folder, "--model", "scripted", "--recipes", "random:k=1,zero-shot", "--out", run)
    assert done.code == 0
    assert "8 of 8 examples have a context; recipes that make the model rest its answers on it" in done.err
    assert "cings, tagged, intent" in done.err
    samples = [from_json(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]
    told = [row.get("came_from") for row in samples if row["answer"] is not None]
    assert told
    assert set(told) <= {"passage", "memory", "neither"}
    assert all("came_from" not in row for row in samples if row["answer"] is None)
    assert run_cli("report", run).code == 0
    page = (run / "report.html").read_text("utf-8")
    (row,) = (line for line in page.splitlines() if '<th scope="row">zero-shot</th><td>' in line and "%</td>" in line)
    own = [row["came_from"] for row in samples if row["recipe"] == "zero-shot" and "came_from" in row]
    shares = [f"<td>{100 * own.count(source) / len(own):.0f}&nbsp;%</td>" for source in SOURCES]
    assert row.endswith(f"<td>{len(own)}</td>{''.join(shares)}</tr>")


@pytest.mark.parametrize("tuner", ["intent", "tagged", "cings:mode=no_context"])
@pytest.mark.parametrize(
    "teacher", ["missing-skills", "preferences", "calibrated", "prompt", "self-training", "missing-skills(by=draw)"]
)
def test_a_teacher_that_puts_other_answers_in_place_of_those_of_intents_is_refused(tuner, teacher):
    name = f"{tuner}{',' if ':' in tuner else ':'}teacher={teacher}"
    with pytest.raises(UserError, match="goes with its own example and answer.* Leave the teacher out"):
        parse_recipe(name, shots=1)


@pytest.mark.parametrize(
    "name",
    ["intent:teacher=demonstrations", "tagged:teacher=missing-skills(by=weight)", "cings:teacher=missing-skills"],
)
def test_a_teacher_that_keeps_them_stands_beside_a_tuner_of_contexts(name):
    assert parse_recipe(name, shots=1).part("teacher")
