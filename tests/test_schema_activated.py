"""The composer `schema`: what kind of problem a question is, and solved problems of that kind."""

import re
from dataclasses import replace

import numpy as np
import pytest

from encoders import make_tiny_encoder
from kshot.core.errors import SettingError
from kshot.core.script import UsualWording
from kshot.core.types import Example, GenerateRequest, Generation, Query, Question, Task
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.composers.problem_schema import WORKED, ProblemSchema, read
from kshot.methods.composers.schema_activated import SchemaActivated
from kshot.methods.composers.schema_rules import told_by_rules
from kshot.models.scripted import ScriptedModel
from kshot.prompts.layout import layout_for
from kshot.prompts.messages import ApiMessages
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.testing import check_part
from test_chat import SHAPES, chat_engine, chat_tokenizer

# Problems of one structure each, for things of whatever kind
STRUCTURES = (
    "{a} had {n} {x}. {a} gave {m} of the {x} to {b}. How many {x} are left?",
    "{a} has {n} {x} and {b} has {m} {x}. How many {x} do they have altogether?",
    "{a} fills {n} {y}. Each holds {m} {x}. How many {x} are there in total?",
    "{a} has {n} {x} and {b} has {m} {x}. How many more {x} does {a} have than {b}?",
    "{a} shares {n} {x} equally among {m} {y}. How many {x} does each get?",
)
SURFACES = (
    {"a": "Tom", "b": "Eva", "x": "marbles", "y": "bags"},
    {"a": "The baker", "b": "the miller", "x": "rolls", "y": "trays"},
    {"a": "A sailor", "b": "a pilot", "x": "ropes", "y": "lockers"},
    {"a": "Maria", "b": "Juan", "x": "stamps", "y": "albums"},
    {"a": "The farmer", "b": "his neighbour", "x": "goats", "y": "barns"},
)


def problem(structure: int, surface: int, n: int, m: int) -> str:
    return STRUCTURES[structure].format(**SURFACES[surface], n=n, m=m)


# The same structure with another surface, and the same surface, numbers included, with another structure
ASKED = [Question(problem(i, i, 12, 4), f"asked-{i}") for i in range(5)]
TWINS = tuple(Example(problem(i, (i + 2) % 5, 30, 5), str(i), f"twin-{i}") for i in range(5))
LURES = tuple(Example(problem((i + 1) % 5, i, 12, 4), str(i + 10), f"lure-{i}") for i in range(5))
POOL = (*LURES[:4], *TWINS)  # of which twin-0 alone has the structure of asked-0
STRUCTURE = {e.id: int(e.output) % 10 for e in TWINS} | {f"lure-{i}": (i + 1) % 5 for i in range(5)}
TASK = Task("problems", "math", POOL, instruction="Say the number.", metrics=("exact_match_number",))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    words = sorted(set(re.findall(r"[a-z]+", " ".join(q.input.lower() for q in ASKED))))
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"), tuple(words), max_tokens=256)


@pytest.fixture(params=["tiny", "minilm"])
def any_encoder(request, encoder) -> str:
    return encoder if request.param == "tiny" else "minilm"


def asking(part: SchemaActivated, model=None, task: Task = TASK) -> TaskModel:
    return replace(TaskModel.for_task(task, model or ScriptedModel()), composer=part)


def fitted(part: SchemaActivated, pool=POOL, model=None) -> SchemaActivated:
    return part.fit(pool, model=asking(part, model), rng=np.random.default_rng(0))


def found_by(part: SchemaActivated, questions=ASKED, model=None, task: Task = TASK):
    return part.consider([((), question) for question in questions], model=asking(part, model, task), seed=0)


def recall(part: SchemaActivated, model=None) -> float:
    found = found_by(fitted(part, (*LURES, *TWINS), model), model=model)
    return sum(STRUCTURE[about["near"][-1]] == i for i, about in enumerate(found)) / len(found)


def test_schemas_find_the_same_structure_where_texts_find_the_same_words(any_encoder):
    assert recall(SchemaActivated(any_encoder, extractor="rules")) == 1.0
    assert recall(SchemaActivated(any_encoder, extractor="rules", by="text")) <= 0.2


def test_rules_keep_nothing_of_what_a_problem_is_about():
    told = [{told_by_rules(problem(i, surface, 7, 3)) for surface in range(5)} for i in range(5)]
    assert all(len(schemas) == 1 for schemas in told)
    assert len(set.union(*told)) == 5
    words = set(re.findall(r"\w+", " ".join(schema.text for some in told for schema in some).lower()))
    assert not words & {word for surface in SURFACES for text in surface.values() for word in text.lower().split()[-1:]}


RULES = {
    "Tom had 12 marbles. He gave 5 to a friend and then bought 3 more. How many marbles are left?": ProblemSchema(
        "word problem with numbers", "how many", "3 numbers", "what is left", ("take away", "add"),
        ("one after the other",),
    ),
    "((1 * -1 + 5 * -4) + (-2 - 5 * 4 - 5)) =": ProblemSchema("expression", "value", "8 numbers", "an answer"),
    "Is it so that no cat is a dog?\nOptions:\n- Yes\n- No": ProblemSchema(
        "choice among options", "yes or no", "2 options", "true or false", (), ("not",)
    ),
    "On a shelf, the red book is to the left of the blue book.\nOptions:\n(A) Red is the first\n(B) Blue is":
        ProblemSchema(
            "choice among options", "to be completed", "2 options", "the right option", ("put in order",),
            ("one beside the other",),
        ),
    "": ProblemSchema("question", "to be completed", "", "an answer"),
}  # fmt: skip


@pytest.mark.parametrize("text", RULES)
def test_what_rules_tell(text):
    assert told_by_rules(text) == RULES[text]


FULL = ProblemSchema("word problem", "change", "three numbers", "the amount", ("start", "add"), ("in time",))
TEXTS = {
    f" {FULL.text.removeprefix('Category: ')}": FULL,
    FULL.text: FULL,
    "word problem\ngoal: the amount\nHere is more.\n\n**Steps:** start; add; start.": ProblemSchema(
        "word problem", goal="the amount", steps=("start", "add")
    ),
    "a\nSteps: x\nSteps: y\nColour: red": ProblemSchema("a", steps=("x",)),
    "a kind": None,  # nothing but a category
    "\nSteps: x": None,
    "": None,
    "Goal: the amount\nSteps: add": None,  # no category
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_model_has_written_is_read(text):
    assert read(text) == TEXTS[text]


def test_a_schema_is_said_line_by_line_recorded_and_united():
    assert FULL.text == (
        "Category: word problem\nRefinement: change\nScope: three numbers\nGoal: the amount\nSteps: start; add\n"
        "Relations: in time"
    )
    assert ProblemSchema().text == ""
    assert ProblemSchema.of_record(FULL.record) == FULL
    other = ProblemSchema("other", scope="two", steps=("add", "divide"))
    assert ProblemSchema("own", steps=("add",)).united(other) == ProblemSchema("own", scope="two", steps=("add",))
    assert ProblemSchema("own").united(other) == ProblemSchema("own", scope="two", steps=("add", "divide"))


class Describing(ScriptedModel):
    """Writes what rules tell of the last problem of a prompt, in words of its own; corrected ones have a step more."""

    def _text(self, request: GenerateRequest) -> Generation:
        told = told_by_rules(request.prompt.text.rpartition("Problem: ")[2].split("\nCategory:")[0])
        steps = (*told.steps, "check") if "Corrected:" in request.prompt.text else told.steps
        told = replace(told, category="a puzzle", steps=steps)
        return Generation(f" {told.text.removeprefix('Category: ')}\n", True)


def test_a_model_writes_schemas_and_adapts_them(encoder):
    part = fitted(SchemaActivated(encoder), model=Describing())
    found = found_by(part, model=Describing())
    for about in found:
        assert about["by"] == "model"
        assert about["schema"]["category"] == "a puzzle"
        assert about["said"] == about["schema"] | {"steps": (*about["schema"]["steps"], "check")}
    assert recall(SchemaActivated(encoder), Describing()) == 1.0


def test_rules_take_the_place_of_what_is_no_schema(encoder):
    auto, rules = (fitted(SchemaActivated(encoder, extractor=how)) for how in ("auto", "rules"))
    assert [about["said"] for about in found_by(auto)] == [about["said"] for about in found_by(rules)]
    assert found_by(auto)[0]["by"] == "rules"
    (alone,) = found_by(fitted(SchemaActivated(encoder, extractor="model")), ASKED[:1])
    assert alone["by"] == "model"
    assert alone["said"] is None
    assert len(alone["near"]) == 1  # by the texts


def test_a_copy_of_the_worked_example_is_no_schema(encoder):
    class Copying(ScriptedModel):
        def _text(self, request: GenerateRequest) -> Generation:
            written.append(request.prompt.text)
            return Generation(f" {WORKED.text.removeprefix('Category: ')}\n", True)

    written: list[str] = []
    part = fitted(SchemaActivated(encoder), model=Copying())
    assert len(written) == 8  # then it is the rules for all
    assert [about["by"] for about in found_by(part, model=Copying())] == ["rules"] * 5
    assert len(written) == 8
    assert read(replace(WORKED, steps=("add",)).text) == replace(WORKED, steps=("add",))


def pieces(part: SchemaActivated, question: Question, shown=(), task: Task = TASK):
    (found,) = found_by(part, [question], task=task)
    said = part.knowing(found).compose(task, shown, question)
    return [(piece.role, piece.text) for piece in said.pieces]


def test_the_schema_stands_right_before_the_question_in_every_layout(encoder):
    part = fitted(SchemaActivated(encoder, extractor="rules"))
    question = replace(ASKED[0], context="A page of a book.")
    (found,) = found_by(part, [question])
    script = part.knowing(found).compose(TASK, LURES[2:3], question)
    schema = ProblemSchema.of_record(found["said"]).text
    assert [piece.role for piece in script.pieces] == [
        "instruction", "question", "answer", "question", "answer", "schema", "context", "question"
    ]  # fmt: skip
    assert [piece.example for piece in script.pieces[1:4]] == ["lure-2", "lure-2", "twin-0"]
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    layouts = [*(layout_for(engine, name) for name in ("plain", "turns", "block")), ApiMessages()]
    for layout in layouts:
        text = layout.write(script).text
        before, said, after = text.partition(schema)
        assert said
        assert TWINS[0].input in before
        assert re.match(r"\n\n(Context: )?A page of a book\.\n{1,2}(Question: )?Tom had 12 marbles\.", after)


SWITCHES = {"schema=false": "schema", "examples=0": "example", "by=text": "example"}


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_stage_can_be_switched_off_and_changes_its_own_part_alone(switch, encoder):
    name, _, value = switch.partition("=")
    settings = {name: {"false": False, "0": 0, "text": "text"}[value]}
    usual = SchemaActivated(encoder, extractor="rules", activate=False)
    before = pieces(fitted(usual), ASKED[0])
    after = pieces(fitted(replace(usual, **settings)), ASKED[0])
    own = {
        "example": [("question", TWINS[0].input), ("answer", TWINS[0].output)],
        "schema": [("schema", told_by_rules(ASKED[0].input).text)],
    }
    opening, asked = [("instruction", TASK.instruction)], [("question", ASKED[0].input)]
    assert before == [*opening, *own["example"], *own["schema"], *asked]
    what = SWITCHES[switch]
    other = after[1:3] if switch == "by=text" else []
    assert other != own[what]
    assert [role for role, _ in other] in ([], ["question", "answer"])
    assert after == [*opening, *(piece for name in own for piece in (other if name == what else own[name])), *asked]


def test_without_activation_the_schema_is_said_as_it_is(encoder):
    on, off = (fitted(SchemaActivated(encoder, extractor="rules", by="text", activate=a)) for a in (True, False))
    changed = [(a, b) for a, b in zip(pieces(on, ASKED[0]), pieces(off, ASKED[0]), strict=True) if a != b]
    near = next(e for e in POOL if [e.id] == found_by(on, ASKED[:1])[0]["near"])
    own, other = (told_by_rules(text) for text in (ASKED[0].input, near.input))
    assert changed == [(("schema", own.united(other).text), ("schema", own.text))]


def test_the_nearest_stands_last_ties_go_by_the_text_and_nothing_is_shown_twice(encoder):
    again = Example(problem(0, 0, 13, 4), "9", "again")
    part = fitted(SchemaActivated(encoder, extractor="rules", examples=2), (*POOL, again))
    (found,) = found_by(part, ASKED[:1])
    assert found["near"] == ["twin-0", "again"]
    script = part.knowing(found).compose(TASK, (TWINS[0],), ASKED[0])
    assert [piece.example for piece in script.pieces if piece.role == "answer"] == ["twin-0", "again"]


def test_a_question_is_no_example_for_itself_and_the_latest_are_remembered(encoder):
    own = Example(ASKED[0].input, "8", ASKED[0].id)
    part = fitted(SchemaActivated(encoder, extractor="rules"), (*POOL, own))
    assert found_by(part, ASKED[:1])[0]["near"] == ["twin-0"]
    few = fitted(SchemaActivated(encoder, extractor="rules", memory=3))
    assert found_by(few, ASKED[:1])[0]["near"][0] in ("twin-2", "twin-3", "twin-4")
    nothing = fitted(SchemaActivated(encoder, extractor="rules"), ())
    (found,) = found_by(nothing, ASKED[:1])
    assert found["near"] == []
    assert found["said"] == told_by_rules(ASKED[0].input).record
    assert nothing.compose(TASK, (), ASKED[0]) == UsualWording().compose(TASK, (), ASKED[0])


def test_what_does_not_fit_is_left_out(encoder):
    part = fitted(SchemaActivated(encoder, extractor="rules", examples=2))
    seen = []
    for most in range(30, 240, 6):
        model = ScriptedModel(max_tokens=most)
        plain = asking(part, model).compose((), ASKED[0])
        if model.count_tokens(plain.text) + 16 >= most:
            continue
        (found,) = found_by(part, ASKED[:1], model)
        prompt, _ = asking(part.knowing(found), model).prompt((), ASKED[0])
        assert model.count_tokens(prompt.text) <= most
        seen.append((found["said"] is not None, len(found["near"])))
    assert sorted(set(seen)) == [(False, 0), (True, 0), (True, 1), (True, 2)]
    assert seen == sorted(seen)


def test_along_a_stream_what_is_found_rests_on_the_past_alone(encoder):
    recipe = parse_recipe("random:k=1", shots=4).having(composer=SchemaActivated(encoder, extractor="rules"))
    rows = tuple(Example(q.input, "1", q.id) for q in ASKED)

    def predictions(past, later):
        task = replace(TASK, train=(*past, *later))
        learner = PromptLearner(recipe, Setup(task, TaskModel.for_task(task, ScriptedModel()), 0))
        return learner.predict([Query(row, past) for row in rows])

    before, again = predictions(POOL[:8], POOL[8:]), predictions(POOL[:8], LURES[:1])
    assert [p.found for p in before] == [p.found for p in again]
    assert all(set(p.found[0]["near"]) <= {e.id for e in POOL[:8]} for p in before)


def test_a_fitted_one_keeps_the_contract(encoder):
    check_part(SchemaActivated(encoder))
    check_part(SchemaActivated(encoder, extractor="rules", examples=2, by="text"))


def test_settings_say_what_they_can_be():
    with pytest.raises(SettingError, match="extractor must be one of auto, model, rules; got 'llm'"):
        SchemaActivated(extractor="llm")
    with pytest.raises(SettingError, match="examples must be 0 or more; got -1"):
        SchemaActivated(examples=-1)
