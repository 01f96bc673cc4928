"""Latent skills: found where they were planted, told when they have collapsed, and saved with the model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kshot
from api_server import ApiServer, served
from encoders import make_tiny_encoder
from kshot.core.errors import UserError
from kshot.core.models import Capability
from kshot.core.progress import Silence
from kshot.core.types import Example, Question, Task
from kshot.encoders.latent_skills import LatentSkills, SkillSettings, learn_skills
from kshot.engine.load_model import load_model
from kshot.methods.selectors import lars as lars_file
from kshot.methods.selectors.lars import Lars
from kshot.models.scripted import ScriptedModel
from kshot.prompts.fitting import prompt_tokens
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

N_SKILLS, N_TOPICS, DIM = 8, 12, 64
HOW = SkillSettings(size=32, weight=100.0, steps=200, lr=1e-3, batch=64)
Bank = tuple[np.ndarray, np.ndarray, np.ndarray]  # the skill, the question's vector and the reason's of each item


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def planted(seed: int, n: int, *, signal: float) -> tuple[Bank, Bank]:
    """Return a bank and 200 queries; questions are mostly their topic and a little of their skill."""
    rng = np.random.default_rng(seed)
    skills, topics = unit(rng.normal(size=(N_SKILLS, DIM))), unit(rng.normal(size=(N_TOPICS, DIM)))

    def items(n: int) -> Bank:
        skill, topic = rng.integers(N_SKILLS, size=n), rng.integers(N_TOPICS, size=n)
        questions = unit(topics[topic] + 2 * signal * skills[skill] + 0.1 * rng.normal(size=(n, DIM)))
        reasons = unit(skills[skill] + 0.3 * topics[topic] + 0.1 * rng.normal(size=(n, DIM)))
        return skill, questions.astype(np.float32), reasons.astype(np.float32)

    return items(n), items(200)


def matches(bank: np.ndarray, queries: np.ndarray, skills: np.ndarray, wanted: np.ndarray) -> float:
    """Return how many of the four nearest have the query's skill, on average."""
    nearest = np.argsort(-unit(queries) @ unit(bank).T, axis=1)[:, :4]
    return float((skills[nearest] == wanted[:, None]).mean())


def by_question_and_skill(n: int, how: SkillSettings, *, seeds: int = 1) -> tuple[float, float, float]:
    """Return the matches by the questions' cosine and by skills, and the divergence."""
    rows = []
    for seed in range(seeds):
        (skill, questions, reasons), (wanted, asked, _) = planted(seed, n, signal=0.15)
        skills, kl = learn_skills(questions, reasons, how, rng=np.random.default_rng(seed))
        found = matches(skills.of_examples(questions, reasons), skills.of_questions(asked), skill, wanted)
        rows.append((matches(questions, asked, skill, wanted), found, kl))
    return tuple(np.mean(rows, axis=0).tolist())


def test_planted_skills_are_matched_better_than_by_the_questions():
    """8 skills, 12 topics, 1,200 items, signal 0.15; chance is 0.125."""
    cosine, latent, kl = by_question_and_skill(1200, HOW)
    assert cosine == pytest.approx(0.4, abs=0.05)  # as hard as where it was checked first
    assert latent >= cosine + 0.1
    assert kl > 0.5


@pytest.mark.slow
def test_planted_skills_are_matched_better_with_three_seeds_and_the_defaults():
    cosine, latent, kl = by_question_and_skill(1200, replace(HOW, size=64), seeds=3)
    assert latent >= cosine + 0.2
    assert kl > 0.5


def test_with_few_examples_they_still_are():
    cosine, latent, _ = by_question_and_skill(100, replace(HOW, steps=100), seeds=2)
    assert latent >= cosine + 0.1


def test_they_collapse_where_the_reconstruction_counts_too_little():
    cosine, latent, kl = by_question_and_skill(400, replace(HOW, weight=1.0, steps=100))
    assert kl < lars_file.COLLAPSED
    assert latent < cosine


def test_learning_draws_from_its_own_chance_and_threads_do_not_matter():
    (_, questions, reasons), (_, asked, _) = planted(0, 60, signal=0.15)
    how, threads, found = replace(HOW, steps=20), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            state = torch.random.get_rng_state()
            skills, kl = learn_skills(questions, reasons, how, rng=np.random.default_rng(5))
            found.append((skills.of_questions(asked), kl))
            assert torch.get_num_threads() == n
            assert (torch.random.get_rng_state() == state).all()
            with torch.inference_mode():  # whatever the caller has switched off
                again, _ = learn_skills(questions, reasons, how, rng=np.random.default_rng(5))
            assert (again.of_questions(asked) == found[-1][0]).all()
    finally:
        torch.set_num_threads(threads)
    assert (found[0][0] == found[1][0]).all()
    assert found[0][1] == found[1][1]
    assert (skills.of_questions(asked)[7] == skills.of_questions(asked[7:8])[0]).all()


def test_the_divergence_is_that_of_two_normal_distributions():
    """Against torch's own, with networks that say the same for every question."""
    (_, questions, reasons), _ = planted(0, 40, signal=0.15)
    skills, kl = learn_skills(questions, reasons, replace(HOW, steps=5), rng=np.random.default_rng(0))
    x, r = torch.tensor(questions), torch.tensor(reasons)
    normals = []
    for network, inputs in ((skills.posterior, torch.cat([x, r], dim=1)), (skills.policy, x)):
        mean, log_variance = network(inputs).chunk(2, dim=1)
        normals.append(torch.distributions.Normal(mean, torch.exp(0.5 * log_variance)))
    exact = torch.distributions.kl_divergence(*normals).sum(dim=1).mean()
    assert kl == pytest.approx(float(exact), rel=1e-5)


LABELS = ("number", "place")
ROWS = tuple(Example(f"the {i} of {('how', 'where')[i % 2]}", LABELS[i % 2], f"r{i}") for i in range(48))
TASK = Task("ways", "classification", ROWS[:40], ROWS[40:], labels=LABELS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return make_tiny_encoder(tmp_path_factory.mktemp("lars"), ("the", "of", "how", "where", "count", "look", "because"))


class Telling(Silence):
    """Keeps what is said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def model_of(model: Any, task: Task = TASK) -> tuple[TaskModel, list[Any], Telling]:
    notes, telling = list[Any](), Telling()
    return replace(TaskModel.for_task(task, model), notes=notes.append, progress=telling), notes, telling


class Writer(ScriptedModel):
    """Writes why, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []

    def _text(self, request: Any) -> Any:
        self.asked.append(request.prompt.text)
        return replace(super()._text(request), text=" count it" if "how" in request.prompt.text else "")


def explained(rows: Sequence[Example]) -> list[Example]:
    return [replace(e, explanation=f"because {e.output}") for e in rows]


def quick(encoder: str, **settings: Any) -> Lars:
    return Lars(encoder=encoder, steps=10, size=8, **settings)


def test_reasons_are_written_from_examples_of_the_pool_once(encoder):
    writer = Writer()
    model, notes, _ = model_of(writer)
    selector = quick(encoder).learnt(ROWS[:32], model=model, rng=np.random.default_rng(0))
    assert notes == [{"selector": "lars", "n_learnt": 32, "kl_nats": notes[0]["kl_nats"], "written": 32}]
    assert writer.asked[0] == "Text: the 0 of how\nLabel: number\nReason: The answer is number because"
    for n in (33, 36, 36):
        fit = selector.fit(ROWS[:n], model=model, rng=np.random.default_rng(0))
    assert len(writer.asked) == 36
    chosen = fit.select(ROWS[41].question, 5, rng=np.random.default_rng(0))
    assert chosen == fit.select(Question(ROWS[41].input, "other"), 5, rng=np.random.default_rng(9))
    assert len(set(chosen)) == 5
    assert set(chosen) <= set(range(36))
    assert len(writer.asked) == 36  # a query needs no reason


def test_the_answer_stands_for_a_reason_for_which_there_is_no_room(encoder):
    class Strict(Writer):
        def _text(self, request: Any) -> Any:
            assert prompt_tokens(request.prompt, self) + request.max_tokens <= self.max_tokens
            return super()._text(request)

    writer = Strict()
    writer.max_tokens = 100
    model, notes, telling = model_of(writer)
    rows = (replace(ROWS[0], input=ROWS[0].input + " on" * 70), *ROWS[1:32])
    learnt = quick(encoder).learnt(rows, model=model, rng=np.random.default_rng(0))
    assert len(writer.asked) == 31
    assert notes[0] == {"selector": "lars", "no_room": 1}
    said = "lars: 1 of 32 examples leave no room for a reason of 32 tokens; their answers stand for it"
    assert telling.said[0] == said
    learnt.fit(rows, model=model, rng=np.random.default_rng(0))
    assert (len(writer.asked), telling.said.count(said)) == (31, 1)


def test_given_reasons_are_used_as_they_are(encoder):
    writer = Writer()
    model, _, _ = model_of(writer)
    some = (*explained(ROWS[:20]), *ROWS[20:36])
    quick(encoder, rationales="given").fit(some, model=model, rng=np.random.default_rng(0))
    assert writer.asked == []
    quick(encoder).fit(some, model=model, rng=np.random.default_rng(0))
    assert len(writer.asked) == 16
    quick(encoder, rationales="written").fit(some, model=model, rng=np.random.default_rng(0))
    assert len(writer.asked) == 16 + 36
    assert Lars(rationales="given").needs == frozenset()
    assert Lars().needs == {Capability.GENERATE}


def test_a_task_without_reasons_is_told_by_the_name_of_the_field():
    assert Lars(rationales="given").missing_field(TASK) == "explanation"
    assert Lars(rationales="given").missing_field(replace(TASK, train=tuple(explained(ROWS[:3])))) is None
    assert Lars().missing_field(TASK) is None


def test_with_few_examples_questions_are_compared_and_nothing_is_written(encoder):
    writer = Writer()
    model, notes, _ = model_of(writer)
    fit = quick(encoder).fit(ROWS[:31], model=model, rng=np.random.default_rng(0))
    assert fit.select(ROWS[4].question, 1, rng=np.random.default_rng(0)) == [4]
    assert writer.asked == notes == []


def test_a_rehearsal_asks_all_and_learns_nothing(encoder):
    writer = Writer()
    model, notes, _ = model_of(writer)
    selector = quick(encoder).rehearsing().learnt(ROWS[:32], model=model, rng=np.random.default_rng(0))
    assert len(writer.asked) == 32
    assert notes == []
    assert selector.fit(ROWS[:32], model=model, rng=np.random.default_rng(0)).select(
        ROWS[4].question, 1, rng=np.random.default_rng(0)
    ) == [4]


def test_a_collapse_is_said(encoder):
    model, notes, telling = model_of(Writer())
    how: Any = {"steps": 100, "weight": 1e-3}
    replace(quick(encoder), **how).learnt(ROWS[:32], model=model, rng=np.random.default_rng(0))
    assert notes[0]["kl_nats"] < 0.3
    (said,) = telling.said
    assert said.startswith("lars: the skills have collapsed (KL 0.")
    assert said.endswith("raise weight, or give more examples")


def test_what_was_learnt_is_saved_and_chooses_the_same(encoder, tmp_path):
    writer = Writer()
    model, _, _ = model_of(writer)
    fit = quick(encoder).fit(ROWS[:36], model=model, rng=np.random.default_rng(0))
    fit.save(tmp_path)
    settings = {name: getattr(fit, name) for name in ("encoder", "steps", "size")}
    read = Lars.rebuilt(settings, tmp_path)
    assert read.has_learnt
    assert read == fit
    n = len(writer.asked)
    again = read.fit(ROWS[:36], model=model, rng=np.random.default_rng(3))
    for e in ROWS[36:]:
        assert again.select(e.question, 4, rng=np.random.default_rng(0)) == fit.select(
            e.question, 4, rng=np.random.default_rng(0)
        )
    assert len(writer.asked) == n
    (tmp_path / lars_file.FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"skills.safetensors must hold skills as lars wrote them; .*\. Adapt again\."):
        Lars.rebuilt(settings, tmp_path)


def test_networks_of_another_shape_are_refused(tmp_path):
    LatentSkills(4, 2, np.random.default_rng(0)).save(tmp_path / "skills", {})
    skills, about = LatentSkills.read(tmp_path / "skills")
    assert (skills.dim, skills.size) == (4, 2) == (about["dim"], about["size"])
    skills.size = 3
    skills.save(tmp_path / "skills", {})
    with pytest.raises(UserError, match="must hold skills as lars wrote them"):
        LatentSkills.read(tmp_path / "skills")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("lars:rationales=none", "lars:rationales must be one of auto, given, written; got 'none'."),
        ("lars:weight=0", "lars:weight must be greater than 0; got 0"),
        ("lars:size=0", "lars:size must be 1 or more; got 0."),
    ],
)
def test_settings_are_checked(recipe, said):
    with pytest.raises(UserError, match=said):
        parse_recipe(recipe, shots=2)


def test_it_is_raced_saved_and_read_again(encoder, tmp_path):
    run = kshot.adapt(TASK, load_model("tiny"), recipes=f"lars:steps=5,size=8,tokens=4,encoder={encoder}", shots=2,
                      out=tmp_path / "run")  # fmt: skip
    inputs = [e.input for e in TASK.test]
    before = run.best.predict_proba(inputs)
    assert list((tmp_path / "run" / "best").rglob("skills.safetensors"))
    assert (kshot.load(tmp_path / "run").predict_proba(inputs) == before).all()


def test_a_model_behind_an_api_writes_the_reasons(encoder):
    with served(ApiServer()) as server:
        model, notes, _ = model_of(load_model(server.name))
        quick(encoder, tokens=4).learnt(ROWS[:32], model=model, rng=np.random.default_rng(0))
        assert notes[0]["written"] == 32
        asked = [body["messages"][-1]["content"] for path, body in server.asked if "chat" in path]
    assert sum(text.endswith("because") for text in asked) == 32
