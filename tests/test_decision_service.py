"""The entrant that asks a decision service as it is."""

import numpy as np
import pytest
from starlette.responses import JSONResponse

import kshot
from api_server import served
from conftest import write_task
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import ModelError, UserError
from kshot.core.ledger import Ledger
from kshot.core.progress import Silence
from kshot.core.types import Example, Question, Task
from kshot.learners.learner import Setup
from kshot.methods.classifiers.decision_service import DecisionService
from kshot.recipes.grammar import parse_recipe, parse_recipes
from kshot.serve.listening import served as served_by_kshot
from shaped_server import decision_server
from test_serve import running

RNG = np.random.default_rng(0)
LABELS = ("animal", "tool", "plant")
ROWS = [(f"{i}: the {LABELS[i % 3]} is named here", LABELS[i % 3]) for i in range(30)]
TASK = Task("named", "classification", tuple(Example(t, o, id=str(i)) for i, (t, o) in enumerate(ROWS)),
            labels=LABELS, instruction="What is named?")  # fmt: skip


pytestmark = pytest.mark.usefixtures("services_alone")


@pytest.fixture
def server():
    with served(decision_server()) as running:
        yield running


class Heard(Silence):
    def __init__(self):
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


def adapt(server, out, **settings):
    return kshot.adapt(
        TASK, "scripted", recipes=f"majority,decisions:service={server.name}", limit=20, out=out, **settings
    )


def test_it_asks_with_the_tasks_instruction_and_labels_and_shows_nothing(server):
    fitted = DecisionService(service=server.name).fit(TASK, TASK.train, rng=RNG)
    rows = fitted.probabilities([TASK.train[0].question, TASK.train[1].question])
    np.testing.assert_allclose(rows, [[0.96, 0.02, 0.02], [0.02, 0.96, 0.02]])
    assert sorted(server.questions) == [(TASK.train[i].input, "What is named?") for i in (0, 1)]
    (question,) = server.asked[-1][1]["questions"]
    assert [choice["value"] for choice in question["choices"]] == list(LABELS)


def test_it_is_raced_saved_and_loaded_and_a_finished_run_asks_nothing_again(server, tmp_path):
    run = adapt(server, tmp_path / "run")
    assert run.best.recipe.name.startswith("decisions")
    assert len(server.questions) == len(set(server.questions)) == 20
    assert run.paid["calls"] == server.counts["/v1/decisions"] == 22  # with those that look whether it can be trusted
    assert run.paid["input_tokens"] == 22 * 9
    n = len(server.asked)
    again = adapt(server, tmp_path / "run")
    assert again.leaderboard == run.leaderboard
    assert len(server.asked) == n
    assert kshot.load(tmp_path / "run").predict(["the tool is named"]) == ["tool"]


def test_a_run_that_failed_goes_on_and_asks_nothing_twice(server, tmp_path):
    def failing(path, body, answer):
        is_question = path == "/v1/decisions" and not body["input"].startswith("Say the word")
        return (
            JSONResponse({"error": {"message": "gone"}}, 400) if is_question and len(server.questions) > 12 else answer
        )

    server.change = failing
    failed = adapt(server, tmp_path / "run")
    assert failed.chosen == "majority"
    (row,) = (row for row in failed.leaderboard if row["recipe"].startswith("decisions"))
    assert row["status"] == "failed"
    assert "gone" in row["reason"]
    n_answered = 12
    server.change = lambda path, body, answer: answer
    server.asked.clear()
    assert adapt(server, tmp_path / "run").chosen.startswith("decisions")
    assert len(server.questions) == 20 - n_answered


@pytest.mark.parametrize(("path", "status"), [("/v1/decisions", 404), ("/v1/models", 401)])
def test_a_service_that_refuses_is_out_of_the_race_and_the_others_go_on(server, tmp_path, path, status):
    server.change = lambda where, body, answer: (
        JSONResponse({"error": {"message": "not for you"}}, status) if where == path else answer
    )
    run = adapt(server, tmp_path / "run")
    assert run.chosen == "majority"
    assert ("failed", True) in [(row["status"], "not for you" in str(row["reason"])) for row in run.leaderboard]


def test_a_service_that_is_not_there_is_out_of_the_race_and_alone_ends_it(tmp_path):
    recipe = "decisions:service=openai:http://127.0.0.1:9/v1#gone"
    run = kshot.adapt(TASK, "scripted", recipes=f"majority,{recipe}", limit=20, out=tmp_path / "run")
    assert run.chosen == "majority"
    assert "it was not reached" in str(run.leaderboard[1]["reason"])
    with pytest.raises(ModelError, match="has failed.*it was not reached"):
        kshot.adapt(TASK, "scripted", recipes=recipe, limit=20, out=tmp_path / "alone")


@pytest.mark.parametrize("route", ["decisions", "systemone"])
def test_a_model_that_kshot_serves_is_an_entrant_and_no_model(tmp_path, route):
    """It answers the one question that it has learnt, and refuses those of the probe."""
    adapted = AdaptedModel.fit(parse_recipe("majority", shots=1), TASK.train, Setup(TASK, None, 0), choice={})
    with running(served_by_kshot(adapted.warm(), "m")) as client:
        name, progress = f"openai:{client.base_url}/v1#m", Heard()
        recipes = f"majority,decisions:service={name},route={route}"
        run = kshot.adapt(TASK, "scripted", recipes=recipes, limit=20, out=tmp_path / "run", progress=progress)
        assert [row["status"] for row in run.leaderboard] == ["done", "done"]
        assert any(
            "is taken as it is" in text and "refuses questions that it has not learnt" in text for text in progress.told
        )
        fitted = DecisionService(service=name, route=route).fit(TASK, (), rng=RNG)
        (said,) = fitted.probabilities([TASK.train[0].question])
        np.testing.assert_allclose(said, adapted.predict_proba([TASK.train[0].input])[0], atol=1e-5)
        with pytest.raises(UserError, match=rf"{route}: the server refuses questions that it has not learnt, and says"):
            kshot.load_model(name, api=f"route={route}")


def test_what_it_takes_is_counted_and_its_answers_are_kept(server, tmp_path):
    from kshot.store.scores import SqliteStore

    store, ledger = SqliteStore(tmp_path / "store.sqlite"), Ledger()
    asking = DecisionService(service=server.name).asking(store, ledger).fit(TASK, (), rng=RNG)
    first = asking.probabilities([TASK.train[0].question])
    assert ledger.cost.calls == server.counts["/v1/decisions"] == 3  # two of them look whether it can be trusted
    assert asking.probabilities([TASK.train[0].question])[0].tolist() == first[0].tolist()
    assert ledger.cost.calls == 3
    assert len(server.questions) == 1
    store.close()


def test_a_dry_run_asks_no_question(server, run_cli, tmp_path):
    task = write_task(tmp_path / "task", [{"input": t, "output": o} for t, o in ROWS])
    recipes = f"mix(decisions:service={server.name}, zero-shot)"
    found = run_cli("adapt", task, "--model", "scripted", "--recipes", recipes, "--shots", 2, "--dry-run")
    assert found.code == 0, found.err
    assert "what its service is asked" in found.out.replace("\n", " ")
    assert server.questions == []


def test_system_one_is_asked_by_its_own_name(server):
    fitted = DecisionService(service=server.name, route="systemone").fit(TASK, (), rng=RNG)
    np.testing.assert_allclose(fitted.probabilities([TASK.train[2].question]), [[0.02, 0.02, 0.96]])
    assert server.counts["/v1/systemone"] > 0
    assert server.counts["/v1/decisions"] == 0


def test_it_is_run_only_where_it_is_named():
    assert "decisions" not in [recipe.name for recipe in parse_recipes("all", shots=2)]


def test_without_a_service_it_says_how_to_name_one():
    with pytest.raises(UserError, match=r"service must name a decision service; got none\. Write decisions:service="):
        DecisionService().fit(TASK, (), rng=RNG)
    with pytest.raises(UserError, match="service must name a decision service; got none"):
        kshot.adapt(TASK, "scripted", recipes="majority,decisions", limit=20)


def test_a_key_in_its_url_is_refused_and_not_repeated(tmp_path):
    recipes = "decisions:service=openai:http://user:secret@host/v1#m"
    with pytest.raises(UserError, match="must hold no password, key or query") as caught:
        kshot.adapt(TASK, "scripted", recipes=recipes, limit=20, out=tmp_path / "run")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_three_hundred_labels_are_refused_before_anything_is_asked(server):
    many = Task("many", "classification", TASK.train, labels=tuple(f"label {i}" for i in range(300)))
    with pytest.raises(UserError, match=r"chooses among 2 to 255 labels; this task has 300\. Leave the recipe"):
        DecisionService(service=server.name).fit(many, (), rng=RNG)
    assert server.asked == []


def test_a_server_without_decisions_is_told(server):
    gone = JSONResponse({"error": {"message": "File Not Found"}}, 404)
    server.change = lambda path, body, answer: gone if path == "/v1/decisions" else answer
    with pytest.raises(ModelError, match=r"decisions: the server refuses it \(404\): File Not Found"):
        DecisionService(service=server.name).fit(TASK, (), rng=RNG)


def test_a_service_that_refuses_to_answer_is_read_as_the_uniform(server):
    fitted = DecisionService(service=server.name).fit(TASK, (), rng=RNG)
    server.change = lambda path, body, answer: {**answer, "answers": [{"type": "refusal", "name": "answer"}]}
    np.testing.assert_allclose(fitted.probabilities([Question("x", "1")]), [[1 / 3] * 3])
