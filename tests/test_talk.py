"""What holds of every loop in which roles speak: the ledger to the last call, and going on where it was killed."""

import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import api_server
import kshot
import planted_talk as planted
from kshot.core.errors import UserError
from kshot.core.seeding import digest
from kshot.core.settings import RunSettings
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.methods import roles
from kshot.methods.generators.ensemble import Ensemble
from kshot.methods.loops import LOOPS
from kshot.methods.loops.refine import Refine
from kshot.methods.loops.talking import Talking
from kshot.methods.roles import Person, Scripted, Speaker, role_of
from kshot.methods.talk import Talk
from kshot.models.scripted import ScriptedModel
from kshot.race.rehearsal import rehearsed
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.store.traces import Trace
from kshot.verbs import prepare as prepared_run
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare

TALKING = [name for name in LOOPS if issubclass(LOOPS.find(name), Talking)]
SAID = (
    "Task: a\nCheck: b\nCheck: c", "yes, no", "no", "yes", "add care: it lacks", "Input: x\nOutput: one", "one", "two",
    "worth 3", "worth 1", "good", "",
)  # fmt: skip


class KilledError(BaseException):
    """The process ends."""


class Chaos:
    """Answers in any form that some role has, by the request: most are in a wrong one, so that roles are asked again.

    Args:
        killed_at: The call at which the process ends, from 0.
    """

    def __init__(self, loop: str, killed_at: int = -1):
        self.loop, self.killed_at, self.asked = loop, killed_at, []

    def say(self, name: str, request: str) -> str:
        if len(self.asked) == self.killed_at:
            self.killed_at = -1
            raise KilledError
        self.asked.append((name, request))
        n = int(digest(name, request)[:8], 16)
        forms = {"challenger": SAID[:1], "judge": SAID[1:4], "editor": SAID[4:5], "reasoner": SAID[6:9]}
        forms["teacher"] = SAID[5:6] if self.loop == "teaching" else SAID[6:10]
        some = forms.get(name, SAID[6:11])
        return "" if n % 11 == 0 else some[n % len(some)]

    def cast(self, loop: Talking) -> Talking:
        def role(name):
            return Scripted(lambda request: self.say(name, request), name)

        return loop.played_by(**{name: role(name) for name in loop.players})


def run(loop, folder=None):
    model, notes = planted.model(folder=folder)
    artefact = loop.run(planted.TASK.train, model=model, rng=np.random.default_rng(0))
    return artefact, notes, model.model.n_scored


@pytest.mark.parametrize("name", TALKING)
@settings(max_examples=25)
@given(calls=st.integers(1, 120), tokens=st.integers(1, 6000))
def test_the_ledger_of_every_loop_is_kept_to_the_last_call(name, calls, tokens):
    chaos = Chaos(name)
    small = {"refine": "asked=4", "rewrite": "asked=4,batch=2", "teaching": "asked=4", "skills-from-context": "tasks=2"}
    small["mental-models"] = "considered=4,asked=4,seen=2"
    try:
        loop = chaos.cast(LOOPS.build(f"{name}(calls={calls},tokens={tokens},{small.get(name, 'turns=3')})"))
        _, notes, n_scored = run(loop)
    except UserError as error:
        assert f"{name}:" in str(error)  # noqa: PT017 - either is right
        assert "must hold one round" in str(error) or "the first round can take" in str(error)  # noqa: PT017
        assert len(chaos.asked) <= calls
        return
    assert notes[-1]["calls"] == len(chaos.asked) + n_scored <= calls
    assert notes[-1]["spoken_tokens"] <= tokens


@pytest.mark.parametrize(
    ("loop", "n"),
    [
        ("tutoring(calls=12)", lambda note: note["lessons"]),
        ("hints(calls=6,turns=2)", lambda note: note["episodes"]),
        ("skills-from-context(tasks=1,calls=17)", lambda note: len(note["skills"])),
    ],
)
def test_what_there_is_is_told_where_the_ledger_ends_a_loop(loop, n):
    def say(name: str, request: str) -> str:
        wrong = {"challenger": "Task: a\nCheck: b", "judge": "no", "editor": "add care: it lacks"}
        return wrong.get(name, "wrong")

    made = LOOPS.build(loop)
    cast = {name: Scripted(lambda request, name=name: say(name, request), name) for name in made.players}
    _, (told, about), _ = run(made.played_by(**cast))
    assert about["ended"].startswith("the ledger of ")
    assert told["loop"] == about["loop"]
    assert 0 < n(told) <= about["rounds"]
    if "solved_by_turn" in told:
        assert told == {"loop": "hints", "episodes": about["rounds"], "solved_by_turn": [0.0, 0.0]}


@pytest.mark.parametrize("name", TALKING)
@settings(max_examples=4)
@given(at=st.integers(0, 30))
def test_every_loop_that_is_killed_goes_on_and_asks_nothing_twice(name, at):
    whole, chaos = Chaos(name), Chaos(name, at)
    expected = run(whole.cast(LOOPS.build(name)))
    with TemporaryDirectory() as folder:
        with suppress(KilledError):
            run(chaos.cast(LOOPS.build(name)), Path(folder))
        found = run(chaos.cast(LOOPS.build(name)), Path(folder))
    assert found[0] == expected[0]
    assert chaos.asked == whole.asked
    same = ("ended", "calls", "spoken_tokens", "rounds")
    assert [found[1][-1][key] for key in same] == [expected[1][-1][key] for key in same]


@pytest.mark.parametrize("name", TALKING)
def test_every_role_can_be_a_person_or_another_model(name, tmp_path):
    loop = LOOPS.find(name)()
    table = tmp_path / "table.json"
    table.write_text("{}")
    model, _ = planted.model()
    for player in loop.players:
        assert getattr(loop, player) == "model"
        assert isinstance(role_of("person", model), Person)
        other = role_of(f"scripted:{table}", model)
        assert isinstance(other, Speaker)
        assert isinstance(other.model.model, ScriptedModel)
        assert role_of(f"scripted:{table}", model).model.model is other.model.model  # loaded once a run


def test_a_role_that_is_no_model_is_refused():
    model, _ = planted.model()
    with pytest.raises(UserError, match="scripted:FILE must name a JSON file"):
        role_of("scripted:nowhere.json", model)
    with pytest.raises(UserError, match="^refine:coach must name a model, as --model does. scripted:FILE must name"):
        Refine(coach="scripted:nowhere.json").run(planted.TASK.train, model=model, rng=np.random.default_rng(0))
    with pytest.raises(UserError, match="^ensemble:models must name a model"):
        Ensemble(models="scripted:nowhere.json").generate(planted.TASK.train, model=model, rng=np.random.default_rng(0))


def refuses(*_, **__):
    raise AssertionError("must not be asked")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("zero-shot:loop=refine(coach=scripted:nowhere.json)", "^refine:coach must name a model, as --model does."),
        ("random:generator=ensemble(models=scripted:nowhere.json)", "^ensemble:models must name a model"),
        ("average(bm25, zero-shot:loop=refine(coach=scripted:nowhere.json))", "^refine:coach must name a model"),
    ],
)
def test_a_model_that_a_recipe_names_is_looked_for_before_anything_is_computed(recipe, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ScriptedModel, "score", refuses)
    with pytest.raises(UserError, match=message):
        kshot.adapt(planted.TASK, "scripted", recipes=f"zero-shot,{recipe}", shots=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_a_recipe_names_is_loaded_once_and_keeps_its_texts_in_the_run(tmp_path, monkeypatch):
    loaded, kept = list[str](), list[object]()

    class Coach(ScriptedModel):
        def with_store(self, store):
            kept.append(store)
            return self

    monkeypatch.setattr(roles, "load_model", lambda name: loaded.append(name) or Coach())
    recipes = "zero-shot:loop=refine(coach=one,turns=1,asked=4),random:loop=refine(coach=one,turns=2,asked=4)"
    kshot.adapt(planted.TASK, "scripted", recipes=recipes, shots=2, out=tmp_path / "run")
    assert loaded == ["one"]
    assert kept[0] is None
    assert kept[-1] is not None


@pytest.mark.parametrize("recipe", ["zero-shot:loop=refine(coach=one,turns=2,asked=4)", "average(bm25,{})"])
def test_what_was_predicted_with_another_model_of_the_same_name_is_predicted_again(recipe, tmp_path, monkeypatch):
    recipes = f"zero-shot,{recipe.format('zero-shot:loop=refine(coach=one,turns=2,asked=4)')}"

    def taken(n: int) -> int:
        """Return how many predictions a run takes from the store, with the n-th model of that name."""

        class Coach(ScriptedModel):
            fingerprint = f"coach {n}"

            def with_store(self, store):
                return self

        monkeypatch.setattr(roles, "load_model", lambda name: Coach())
        found.clear()
        kshot.adapt(planted.TASK, "scripted", recipes=recipes, shots=2, limit=4, out=tmp_path / "run")
        return sum(found)

    found, known = list[int](), Kept.known
    monkeypatch.setattr(Kept, "known", lambda *given: found.append(len(known(*given) or ())) or known(*given))
    assert taken(1) == 0
    of_all = taken(1)
    assert 0 < taken(2) < of_all
    assert taken(1) == of_all


@pytest.mark.parametrize("recipe", ["zero-shot:loop=refine(coach={})", "random:generator=ensemble(models={})"])
def test_a_model_that_a_recipe_names_is_loaded_as_those_of_the_run_but_for_their_revision(recipe, monkeypatch):
    told = dict[str, dict]()
    monkeypatch.setattr(roles, "load_model", lambda name, **how: told.update({name: how}) or ScriptedModel())
    monkeypatch.setattr(prepared_run, "load_model", lambda name, **how: ScriptedModel())
    service = "openai:http://localhost:1/v1#nobody"
    recipes = ",".join(["zero-shot", *(recipe.format(name) for name in ("one", service, "scripted"))])
    how = {"device": "cpu", "dtype": "bfloat16", "revision": "main", "trust_remote_code": True, "api": "retries=0"}
    settings = RunSettings(planted.TASK, "org/own", recipes=recipes, shots=2, **how)
    traces = prepare(settings).load_models().model.traces
    here = {"device": "cpu", "dtype": "bfloat16", "trust_remote_code": True}
    assert told == {"one": here, service: {"api": "retries=0"}, "scripted": {}}
    assert traces.kept_in(Path("run"), None).placing == traces.placing


@pytest.mark.parametrize(
    ("model", "coach", "given", "message"),
    [
        ("tiny", "openai:m", {"api": "retries=0"}, ""),
        ("openai:m", "demo", {"device": "cpu"}, ""),
        ("openai:m", "scripted", {"device": "cpu"}, "--device must be left out for 'openai:m'"),
        ("openai:m", "org/name", {"revision": "v2"}, "--revision must be left out for 'openai:m'"),
        ("tiny", "demo", {"api": "retries=0"}, "--api is for models behind an API"),
    ],
)
def test_what_is_said_of_models_can_be_said_of_one_that_a_recipe_names(model, coach, given, message):
    recipes = f"zero-shot:loop=refine(coach={coach})"
    with pytest.raises(UserError, match=message) if message else nullcontext():
        prepare(RunSettings(planted.TASK, model, recipes=recipes, shots=2, **given))


@pytest.mark.parametrize("player", ["person", "scripted:nowhere.json"])
def test_a_dry_run_asks_nobody_and_loads_nobody(player, monkeypatch):
    monkeypatch.setattr(roles, "load_model", refuses)
    monkeypatch.setattr(Person, "speak", refuses)
    recipes = f"zero-shot:loop=refine(coach={player},turns=2,asked=4),random:generator=ensemble(models=nobody)"
    settings = RunSettings(planted.TASK, "scripted", recipes=recipes, shots=2)
    rows = plan(prepare(settings))
    told = "what the other models that it names are asked"
    assert [row.get("left_out") for row in rows] == [None if player == "person" else told, told]


def test_what_is_rehearsed_asks_no_role_and_leaves_no_trace(tmp_path, monkeypatch):
    setup, said = Setup(planted.TASK, planted.model(folder=tmp_path, say=refuses)[0], 0), list[str]()
    queries = make_stream(planted.TASK, limit=12, seed=0).queries()
    recipe = parse_recipe("zero-shot:loop=refine(turns=2,asked=4)", shots=2)
    own = Refine(turns=2, asked=4).played_by(coach=Scripted(lambda request: said.append(request) or "Why?"))
    for one in (recipe, recipe.having(loop=own)):
        assert rehearsed(one, setup, [queries]).tokens > 0
    assert not said
    assert not list(tmp_path.iterdir())
    assert not setup.model.traces._open


@pytest.mark.parametrize(
    ("settings", "message"), [("calls=0", "refine:calls must be 1"), ("tokens=0", "refine:tokens must be 1")]
)
def test_a_ledger_without_a_call_is_refused_before_a_model_is_loaded(settings, message):
    with pytest.raises(UserError, match=message):
        parse_recipe(f"zero-shot:loop=refine({settings})", shots=2)


def test_a_role_can_be_a_model_behind_an_api_which_is_counted_and_asked_once(tmp_path):
    with api_server.served(api_server.ApiServer()) as server:
        server.lacks |= {"completions", "echo"}
        recipe = f"zero-shot:loop=refine(coach={server.name},turns=2,asked=4)"
        run = kshot.adapt(planted.TASK, "scripted", recipes=f"zero-shot,{recipe}", out=tmp_path / "run")
        said = [body["messages"][-1]["content"] for path, body in server.asked if path.endswith("chat/completions")]
        coached = [text for text in said if "ask the writer one question" in text]
        assert coached
        assert run.paid["calls"] >= len(coached)
        n = len(said)
        again = kshot.adapt(planted.TASK, "scripted", recipes=f"zero-shot,{recipe}", out=tmp_path / "run")
        assert len([path for path, _ in server.asked if path.endswith("chat/completions")]) == n
        assert again.paid == run.paid
        server.asked.clear()
        shutil.rmtree(tmp_path / "run/traces")  # what an API has said is in the store, too
        (tmp_path / "run/results.json").unlink()
        kshot.adapt(planted.TASK, "scripted", recipes=f"zero-shot,{recipe}", out=tmp_path / "run")
        assert not [text for path, body in server.asked if path.endswith("chat/completions")
                    for text in [body["messages"][-1]["content"]] if "ask the writer" in text]  # fmt: skip


@pytest.mark.parametrize("loop", ["refine(asked=1)", "notes(rounds=1)"])
def test_what_is_longer_than_a_model_reads_does_not_end_the_run(loop):
    rows = [{"input": f"{i} " + "many words " * 200, "output": ["animal", "tool"][i % 2]} for i in range(8)]
    done = kshot.adapt(rows, "tiny", recipes=f"majority,zero-shot:loop={loop}", shots=1, limit=8)
    assert {row["status"] for row in done.leaderboard} == {"done"}


def test_what_roles_draw_follows_the_seed_of_the_run():
    class Heard(Scripted):
        def speak(self, request, *, most, seed):
            seeds.append(seed)
            return super().speak(request, most=most, seed=seed)

    found = []
    for seed in (0, 0, 1):
        seeds: list[int] = []
        loop = LOOPS.build("refine(asked=4,turns=3)").played_by(**{name: Heard(str) for name in ("writer", "coach")})
        loop.run(planted.TASK.train, model=planted.model()[0], rng=np.random.default_rng(seed))
        found.append(seeds)
    assert found[0] == found[1]
    assert len({*found[0], *found[2]}) == 2 * len(found[0]) > 2


def test_what_a_role_says_reaches_nobody_with_characters_that_no_input_may_hold():
    heard = []
    roles_of = {
        "one": Scripted(lambda request: "\0 Why\0 so\ufdd0? \ud800"),
        "other": Scripted(lambda request: heard.append(request) or "x"),
    }
    talk = Talk(roles_of, 10, 10_000, Trace(), print)
    said = talk.ask("one", "Speak.")
    talk.ask("other", said)
    assert heard == [said] == ["Why so? ?"]
