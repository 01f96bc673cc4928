"""adapt-mi: its gates, easy questions as they were, and skills where they help and nowhere else."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import kshot
from api_server import ApiServer, served
from kshot.core.errors import UserError
from kshot.core.script import Script, UsualWording
from kshot.core.seeding import digest
from kshot.core.types import Example, GenerateRequest, Generation, Prediction, Query, Question, ScoreRequest, Task
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.combiners.adapt_mi import AdaptMi, named_skills
from kshot.methods.gates import GATES, Gate
from kshot.methods.gates.disagreement import Disagreement
from kshot.methods.gates.log_prob import LEAST, LogProb
from kshot.methods.gates.step_scores import StepScores
from kshot.models.scripted import ScriptedModel
from kshot.prompts.fitting import prompt_tokens
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES, chat_engine, chat_tokenizer

SKILLS = ("adding", "sorting", "spelling", "timing")
LABELS = ("north", "east", "south", "west")


def _chance(*what: object) -> float:
    return int(digest(*what)[:8], 16) / 2**32


def rows_of(n: int) -> tuple[Example, ...]:
    kinds = ["hard" if _chance("hard", i) < 0.4 else "easy" for i in range(n)]
    return tuple(
        Example(f"{kind} {SKILLS[i % 4]} {i}", LABELS[i * 7 // 4 % 4], f"e{i}", meta={"skills": [SKILLS[i % 4]]})
        for i, kind in enumerate(kinds)
    )


ROWS = rows_of(240)
TASK = Task("four skills", "classification", ROWS, labels=LABELS)
OPEN = replace(TASK, kind="generation", labels=(), metrics=("exact_match",))
GOLD = {e.input: e.output for e in ROWS}


class Moody(ScriptedModel):
    """Skills in the prompt help it with hard questions and hurt with easy ones; it is unsure where it is bad."""

    def __init__(self, asked: list[str] | None = None):
        super().__init__()
        self.asked = [] if asked is None else asked

    fingerprint = weights_id = old_fingerprint = "moody"

    def with_store(self, store):
        return self

    def _right(self, text: str) -> float:
        """Return the chance to be right after a prompt."""
        question = text.strip().splitlines()[-2].removeprefix("Text: ").removeprefix("Input: ")
        skill = question.split()[1]
        has_skills = text.count(skill) - 1 >= 4
        return {("easy", False): 0.97, ("easy", True): 0.7, ("hard", False): 0.3, ("hard", True): 0.8}[
            question.split()[0], has_skills
        ]

    def _believed_of(self, text: str) -> str:
        self.asked.append(text)
        question = text.strip().splitlines()[-2].partition(": ")[2]
        if _chance("draw", question, self._right(text)) < self._right(text):
            return GOLD[question]
        return LABELS[(LABELS.index(GOLD[question]) + 1) % 4]

    def _answer(self, request: ScoreRequest):
        believed, sure = self._believed_of(request.prompt.text), 0.9 * self._right(request.prompt.text)
        names = [text.strip() for text in request.continuations]
        if len(names) == 1:
            return np.log([sure if names[0] == believed else 0.05])
        return np.log([sure if name == believed else (1 - sure) / 3 for name in names])

    def _text(self, request: GenerateRequest) -> Generation:
        if "Which of these skills" in request.prompt.text:
            self.asked.append(request.prompt.text)
            return Generation("TIMING, and perhaps cooking", True)
        return Generation(self._believed_of(request.prompt.text), True)


def setup(task: Task = TASK, model: Any = None, **more: Any) -> Setup:
    return Setup(task, TaskModel.for_task(task, model or Moody()), 0, **more)


def along(name: str, task: Task = TASK, n: int = 240, model: Any = None) -> list[Prediction]:
    return make_learner(parse_recipe(name, shots=5), setup(task, model)).predict(queries(task, n))


def queries(task: Task = TASK, n: int = 240) -> list[Query]:
    return make_stream(task, limit=len(task.train), seed=0).queries()[:n]


def said(probs=(0.7, 0.1, 0.1, 0.1), **more: Any) -> Prediction:
    return Prediction("x", LABELS, tuple(np.log(probs).tolist()), tuple(probs), LABELS[int(np.argmax(probs))], **more)


# Gates


@pytest.mark.parametrize(
    ("scores", "is_difficult"),
    [
        ((0.95, 0.95, 0.95), False),
        ((0.95, 0.95, 0.9), True),  # the last one: <= tau1
        ((0.95, 0.95, 0.91), False),
        ((0.75, 0.95, 0.99), True),  # the mean, 0.897
        ((0.80, 0.95, 0.99), False),  # 0.913
        ((0.69, 0.99, 0.99, 0.99, 0.99), False),  # the first one may be low
        ((0.99, 0.7, 0.99, 0.99, 0.99, 0.99), True),  # another one may not: <= tau2
        ((0.99, 0.71, 0.99, 0.99, 0.99, 0.99), False),
        ((0.91,), False),
        ((0.9,), True),
        ((), True),
    ],
)
def test_the_truth_table_of_step_scores(scores, is_difficult):
    gate = StepScores()
    found = ({"step_scores": list(scores)},)
    assert gate.is_difficult(scores) == is_difficult
    assert (gate.doubt(TASK, said(found=found)) > gate.most(())) == is_difficult
    assert AdaptMi(gate=gate).fit(TASK, ()).asks(TASK, [said(found=found)]) == is_difficult
    both = (*found, {"step_scores": [0.1, 0.2]})  # the attempt with the highest mean counts
    assert gate.doubt(TASK, said(found=both)) == (float(is_difficult) if scores else 1.0)


def test_thresholds_are_settings_and_scores_must_be_there():
    assert not StepScores(tau1=0.5, tau2=0.1).is_difficult((0.6, 0.2, 0.9))
    with pytest.raises(UserError, match="must be told 'step_scores'.*it has told none.*or use gate=log-prob"):
        StepScores().doubt(TASK, said(found=({"reason": "x", "step_scores": []},)))
    with pytest.raises(UserError, match=r"tau1 must be a number, in 0\.0\.\.1\.0|tau1 must be in 0\.0\.\.1\.0; got 2"):
        StepScores(tau1=2.0)
    with pytest.raises(UserError, match="gate=steps must have a first recipe whose composer scores"):
        parse_recipe("adapt-mi:gate=steps", shots=2)


def test_an_answer_is_doubtful_below_a_quantile_of_those_before_it():
    gate = LogProb(quantile=0.25)
    doubts = [gate.doubt(TASK, said((p, *((1 - p) / 3,) * 3))) for p in np.linspace(0.3, 0.99, 40)]
    most = gate.most(doubts)
    assert sum(doubt > most for doubt in doubts) == 10
    assert gate.most(doubts[: LEAST - 1]) is None
    assert not AdaptMi(gate=gate).asks(TASK, [said()])  # nothing is known
    assert LogProb(quantile=0.0).most(doubts) == max(doubts)
    with pytest.raises(UserError, match="needs a model that tells how probable a text is.*Use gate=disagreement"):
        gate.doubt(OPEN, said())


def test_answers_on_which_contexts_disagree_are_doubtful():
    gate = Disagreement()
    assert [gate.doubt(TASK, said(disagreement=d)) > gate.most(()) for d in (None, 0.0, 0.25)] == [False, False, True]
    assert not Disagreement(share=0.25).doubt(TASK, said(disagreement=0.25)) > Disagreement(share=0.25).most(())
    with pytest.raises(UserError, match="a first recipe with several contexts; 'random:k=5' has one. Give it some"):
        parse_recipe("adapt-mi:gate=disagreement", shots=2)


@pytest.mark.parametrize("name", GATES)
def test_every_gate_says_where_it_comes_from_and_is_rebuilt_from_its_record(name, tmp_path):
    gate = GATES.build(name)
    assert isinstance(gate, Gate)
    assert "Source:" in (type(gate).__doc__ or "")
    assert AdaptMi.rebuilt({"gate": gate, "plus": True}, tmp_path) == AdaptMi(gate=gate, plus=True)
    assert AdaptMi(gate=gate).record()["settings"]["gate"] == gate.record()


# Names


def test_alone_it_has_its_usual_members_and_settings_race():
    recipe = parse_recipe("adapt-mi", shots=2)
    assert [(m.name, m.k) for m in recipe.members] == [("random:k=5", 5), ("skills:k=5", 5)]
    raced = parse_recipe("adapt-mi:gate=log-prob(quantile=0.3/0.6),plus=false/true", shots=2)
    assert len(raced.alternatives) == 4
    full = parse_recipe("adapt-mi(random:k=3, skills:k=3):gate=log-prob(quantile=0.3)", shots=2)
    assert full.part("combiner").gate == LogProb(0.3)
    with pytest.raises(UserError, match="combines 2 recipes at most"):
        parse_recipe("adapt-mi(random, skills, bm25)", shots=2)


# Along a stream


def test_easy_questions_have_the_prompt_and_the_prediction_of_the_fixed_recipe():
    asked, alone = [], []
    fixed = along("random:k=5", model=Moody(alone))
    learner = make_learner(parse_recipe("adapt-mi", shots=5), setup(model=Moody(asked)))
    found = learner.predict(queries())
    calibrated = learner._calibrated(0)[0]
    easy = [i for i, p in enumerate(found) if p.setting == "random:k=5"]
    assert 60 < len(easy) < 220
    for i in easy:
        what = {"seconds": 0, "fit_seconds": 0, "setting": ""}
        assert replace(found[i], **what) == replace(calibrated[i], **what)
        assert found[i].demonstrations == fixed[i].demonstrations
    assert Counter(alone) <= Counter(asked)  # every prompt of the fixed recipe, byte for byte


def test_it_is_as_good_as_the_better_of_both_with_fewer_skill_prompts():
    right = {}
    for name in ("random:k=5", "skills:k=5", "adapt-mi:gate=log-prob(quantile=0.4)"):
        found = along(name)
        right[name] = np.mean([p.answer == GOLD_OF[p.example_id] for p in found[40:]])
    fixed, always, adaptive = right.values()
    assert adaptive >= max(fixed, always) - 0.03
    assert adaptive > max(fixed, always) + 0.05  # it is better by construction: 0.90 against 0.70 and 0.74
    shown = [p.setting == "skills:k=5" for p in found]
    assert 0.2 < np.mean(shown[40:]) < 0.6
    hard = [ROW_OF[p.example_id].input.startswith("hard") for p in found[40:]]
    assert np.mean([s for s, h in zip(shown[40:], hard, strict=True) if h]) > 0.7


ROW_OF = {e.id: e for e in ROWS}
GOLD_OF = {e.id: e.output for e in ROWS}


def test_the_second_recipe_is_asked_for_doubtful_questions_alone():
    asked = []
    found = along("adapt-mi", n=100, model=Moody(asked))
    n_second = sum(p.setting == "skills:k=5" for p in found)
    assert len(asked) == 100 + n_second
    assert 10 < n_second < 70


NAMES = ("adapt-mi", "adapt-mi:plus=true", "adapt-mi(random:k=5,contexts=4, skills:k=5):gate=disagreement")


@pytest.mark.parametrize("task", [TASK, OPEN], ids=["labels", "texts"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_later_examples_is_in_a_prediction(name, task):
    some = queries(task, 48)
    turned = {"north": "south", "south": "north", "east": "west", "west": "east"}
    changed = [
        replace(q.example, output=turned[q.example.output]) if i >= 30 else q.example for i, q in enumerate(some)
    ]
    others = [replace(q, example=e, past=tuple(changed[: len(q.past)])) for q, e in zip(some, changed, strict=True)]
    first, second = (make_learner(parse_recipe(name, shots=5), setup(task)).predict(qs) for qs in (some, others))
    assert [p.probs for p in first[:30]] == [p.probs for p in second[:30]]
    learner = make_learner(parse_recipe(name, shots=5), setup(task))
    parts = [*learner.predict(some[:13]), *learner.predict(some[13:])]  # as a race asks it
    assert [p.probs for p in parts] == [p.probs for p in first]


def test_in_open_tasks_whether_an_answer_is_doubtful_does_not_depend_on_the_known_one():
    some = queries(OPEN, 40)
    learner = make_learner(parse_recipe("adapt-mi", shots=5), setup(OPEN))
    before = [p.setting for p in learner.predict(some)]
    last = replace(some[-1], example=replace(some[-1].example, output="something else"))
    learner = make_learner(parse_recipe("adapt-mi", shots=5), setup(OPEN))
    assert [p.setting for p in learner.predict([*some[:-1], last])] == before
    assert len(set(before[LEAST:])) == 2


def test_texts_are_told_of_questions_of_which_they_are_wanted_alone():
    found = along("adapt-mi", OPEN, n=48)
    assert [p.answer is not None for p in found] == [q.wants_text for q in queries(OPEN, 48)]


def test_a_stop_between_the_members_leaves_the_stream_as_it_was():
    class Stops(Moody):
        left = 120

        def _believed_of(self, text):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super()._believed_of(text)

    learner = make_learner(parse_recipe("adapt-mi", shots=5), setup(model=Stops()))
    learner.predict(queries(n=30))
    with pytest.raises(KeyboardInterrupt):
        learner.predict(queries(n=110)[30:])
    again = learner.predict(queries(n=110)[30:])
    assert [p.probs for p in again] == [p.probs for p in along("adapt-mi", n=110)[30:]]


# AdaptMI+


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" adding, TIMING.", ("adding", "timing")),
        ("It lacked time-adding", ("adding",)),
        ("adding adding", ("adding",)),
        ("additions", ()),
        ("", ()),
        ("spelling bees and spelling", ("spelling bees", "spelling")),
    ],
)
def test_skills_of_the_list_alone_count(text, found):
    assert named_skills(text, ("spelling", "spelling bees", "adding", "timing")) == found


def test_the_model_says_which_skills_the_attempt_lacked_and_their_examples_are_shown():
    asked, notes = [], []
    task_model = replace(TaskModel.for_task(TASK, Moody(asked)), notes=notes.append)
    recipe = parse_recipe("adapt-mi:plus=true", shots=5)
    found = make_learner(recipe, Setup(TASK, task_model, 0)).predict(queries(n=120))
    doubtful = [p for p in found if p.setting == "skills:k=5"]
    listed = [text for text in asked if "Which of these skills" in text]
    assert len(listed) == len(doubtful) > 10
    assert "Skills: " in listed[-1]
    assert all(skill in listed[-1] for skill in SKILLS)
    assert "Attempt: " in listed[-1]
    late = [p for p in doubtful if p.example_id not in {q.example.id for q in queries(n=60)}]
    assert {ROW_OF[i].meta["skills"][0] for p in late for i in p.demonstrations} == {"timing"}
    assert not notes


def test_where_it_names_no_known_skill_the_questions_own_stay_and_that_is_said():
    class Vague(Moody):
        def _text(self, request):
            if "Which of these skills" in request.prompt.text:
                return Generation("all of them", True)
            return super()._text(request)

    notes = []
    task_model = replace(TaskModel.for_task(TASK, Vague()), notes=notes.append)
    found = make_learner(parse_recipe("adapt-mi:plus=true", shots=5), Setup(TASK, task_model, 0)).predict(queries(n=80))
    plain = along("adapt-mi", n=80)
    assert [p.demonstrations for p in found] == [p.demonstrations for p in plain]
    assert {note["said"] for note in notes} == {"no known skill was named; its own skills stay"}
    bare = replace(TASK, train=tuple(replace(e, meta={}, explanation="because") for e in ROWS[:9]))
    with_skills = parse_recipe("adapt-mi:plus=true", shots=5)
    assert with_skills.obstacle(bare) == "its examples must have meta.skills, and none has"
    assert parse_recipe("adapt-mi", shots=5).obstacle(bare) is None


def test_what_asks_for_skills_gives_up_the_reason_or_is_not_asked():
    class Strict(Moody):
        def _text(self, request):
            assert prompt_tokens(request.prompt, self) + request.max_tokens <= self.max_tokens
            return super()._text(request)

    notes, asked = [], []
    model = Strict(asked)
    model.max_tokens = 120
    task_model = replace(TaskModel.for_task(TASK, model), notes=notes.append)
    combiner = AdaptMi(plus=True).knowing(TASK, ROWS[:9])
    questions = [Question(f"hard adding{' on' * n}", f"q{n}") for n in (1, 20, 60)]
    members = [[said(found=({"reason": "it is so " * 8},))] for _ in questions]
    told = combiner.tells(questions, members, model=task_model)
    assert [bool(one) for one in told] == [True, True, False]
    assert ["it is so" in text for text in asked] == [True, False]
    assert notes == [{"adapt-mi": "q60", "said": "it leaves no room to ask for skills; its own skills stay"}]


# Saved, served, shown


@pytest.mark.parametrize("task", [TASK, OPEN], ids=["labels", "texts"])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_adapted_is_saved_and_asks_as_it_did(name, task, tmp_path):
    adapted = kshot.AdaptedModel.fit(parse_recipe(name, shots=5), ROWS[:48], setup(task), choice={})
    adapted.save(tmp_path / "model")
    asked = [{"input": e.input} for e in ROWS[48:60]]
    read = kshot.load(tmp_path / "model", model=Moody())
    before, after = adapted.predictions(asked), read.predictions(asked)
    assert [(p.answer, p.probs, p.demonstrations) for p in before] == [
        (p.answer, p.probs, p.demonstrations) for p in after
    ]
    assert len({p.demonstrations for p in after}) > 1 or "disagreement" in name
    assert all(p.answer in LABELS for p in after)


def test_a_run_tells_each_prompt_that_was_sent(tmp_path):
    task = replace(TASK, train=ROWS[:40])
    names = ["adapt-mi", "random:k=5"]
    run = kshot.adapt(task, "scripted", recipes=names, shots=5, limit=40, race=False, out=tmp_path / "run")
    assert {row["recipe"]: row["status"] for row in run.leaderboard} == dict.fromkeys(names, "done")
    again = kshot.adapt(task, "scripted", recipes=names, shots=5, limit=40, race=False, out=tmp_path / "run")
    assert again.work.scored == 0
    assert (tmp_path / "run" / "report.html").exists()


@dataclass(frozen=True)
class Judged(kshot.Composer):
    """Says the usual, and finds scores of steps: those of a hard question are low."""

    considers = True

    def compose(self, task, shown, question) -> Script:
        return UsualWording().compose(task, shown, question)

    def consider(self, asked, *, model, seed):
        return [{"step_scores": [0.9, 0.5 if question.input.startswith("hard") else 0.95]} for _, question in asked]


def test_scores_of_steps_are_those_of_the_first_recipes_composer():
    fixed, skills = (parse_recipe(name, shots=5) for name in ("random:k=5", "skills:k=5"))
    recipe = parse_recipe("adapt-mi", shots=5)
    recipe = recipe.combining(AdaptMi(gate=StepScores()), [fixed.having(composer=Judged()), skills])
    found = make_learner(recipe, setup()).predict(queries(n=60))
    hard = [q.example.input.startswith("hard") for q in queries(n=60)]
    assert [p.setting == "skills:k=5" for p in found] == hard


def test_reasons_that_a_model_judges_are_a_gate():
    rows = tuple(replace(e, explanation=f"First {e.input}. So it is {e.output}.") for e in ROWS[:16])
    task = replace(TASK, train=rows)
    name = "adapt-mi(random:k=2,composer=reason-first(judge={judge},max_tokens=16), skills:k=2):gate=steps"
    model = kshot.load_model("tiny")
    found = make_learner(parse_recipe(name.format(judge="plus-minus"), shots=2), setup(task, model)).predict(
        make_stream(task, limit=16, seed=0).queries()[:8]
    )
    assert {p.setting for p in found} <= {
        m.name for m in parse_recipe(name.format(judge="plus-minus"), shots=2).members
    }
    with pytest.raises(UserError, match="gate=steps must be told 'step_scores'"):
        make_learner(parse_recipe(name.format(judge="none"), shots=2), setup(task, model)).predict(
            make_stream(task, limit=16, seed=0).queries()[:8]
        )


# Models of other kinds


def test_a_chat_model_is_asked_in_its_own_words():
    tokenizer = chat_tokenizer(*SHAPES["qwen2.5"][:4])
    model = TaskModel.for_task(TASK, chat_engine(tokenizer), "turns")
    learner = make_learner(parse_recipe("adapt-mi:plus=true", shots=2), Setup(TASK, model, 0))
    found = learner.predict(queries(n=14))
    assert {p.setting for p in found} == {"random:k=5", "skills:k=5"}


@pytest.mark.usefixtures("services_alone")
def test_a_model_behind_an_api_needs_no_gradients(tmp_path):
    task = replace(TASK, train=ROWS[:14])
    with served(ApiServer()) as server:
        names = ["adapt-mi:plus=true", "adapt-mi(random:k=2,contexts=2, skills:k=2):gate=disagreement", "skills:k=2",
                 "missing-skills:k=2"]  # fmt: skip
        run = kshot.adapt(task, server.name, recipes=names, race=False, out=tmp_path / "run")
        assert {row["status"] for row in run.leaderboard} == {"done"}
        text = kshot.adapt(replace(OPEN, train=ROWS[:14]), server.name, recipes=names[1:2], race=False,
                           out=tmp_path / "open")  # fmt: skip
        assert {row["status"] for row in text.leaderboard} == {"done"}
