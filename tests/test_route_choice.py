"""Which route a model behind an API is asked by: servers in the shapes of the real ones, over HTTP."""

import numpy as np
import pytest

import kshot
import route_servers as servers
from api_server import served
from kshot.core.errors import UserError
from kshot.core.settings import RunSettings
from kshot.core.types import Prompt, ScoreRequest, Segment, Task
from kshot.engine.load_model import load_model
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare
from shaped_server import ShapedServer, decision_server

VLLM = {
    "../tokenize": servers.vllm_tokenize,
    "completions": servers.vllm_completions,
    "decisions": servers.decisions,
    "systemone": servers.systemone,
}
SGLANG = {"../tokenize": servers.vllm_tokenize, "score": servers.sglang_score}
ORDINARY = servers.refused(501, "This model is not a decision model")
LLAMA_CPP = {"../tokenize": servers.llama_tokenize, "completions": servers.llama_completions, "systemone": ORDINARY}


pytestmark = pytest.mark.usefixtures("services_alone")


@pytest.mark.parametrize(
    ("handlers", "route", "tokenizer"),
    [(VLLM, "token-ids", "vllm"), (SGLANG, "score", "vllm"), (LLAMA_CPP, "llama.cpp", "llama.cpp")],
)
def test_a_server_is_asked_by_its_exact_route(handlers, route, tokenizer):
    with served(ShapedServer(handlers)) as server:
        model = load_model(server.name)
        assert model.found.routes == (route,)
        assert model.found.tokenizer == tokenizer
        prompt = Prompt((Segment("demonstration", "Text: a\nLabel:"), Segment("answer", " yes\n\n")))
        request = ScoreRequest(prompt, (" yes\n\n", " yesterday\n\n", " no\n\n"))
        (row,) = model.score([request])
        ids = [servers.BOS, *(i for s in prompt.segments for i in server.toy.tokenise(s.text))]
        np.testing.assert_allclose(row, [server.toy.exact(ids, text) for text in request.continuations], rtol=1e-9)
        assert f"is asked by the route '{route}' (exact)" in model.remark


def test_a_decision_model_is_asked_for_decisions_and_why_no_better_route_is_in_the_record():
    with served(decision_server()) as server:
        model = load_model(server.name)
        assert model.found.routes[0] == "decisions"
        assert set(model.found.why_not) == {"token-ids", "score", "llama.cpp"}
        assert "has no /tokenize" in model.found.why_not["token-ids"]


def test_a_decision_model_of_llama_cpp_is_asked_by_systemone():
    with served(ShapedServer({**LLAMA_CPP, "systemone": servers.systemone})) as server:
        model = load_model(server.name)
        assert model.found.routes[0] == "systemone"
        assert "better asked by the route systemone" in model.found.why_not["llama.cpp"]


def test_a_route_can_be_named_and_is_refused_where_it_is_not():
    with served(ShapedServer(VLLM)) as server:
        assert load_model(server.name, api="route=systemone").found.routes == ("systemone",)
        with pytest.raises(UserError, match=r"score: the server refuses it \(404\): .*Take another server or model"):
            load_model(server.name, api="route=score")


def test_a_plan_tells_each_call_of_llama_cpp_and_the_prompt_in_each(words_task, tmp_path, run_cli):
    with served(ShapedServer(LLAMA_CPP)) as server:
        settings = RunSettings(Task.load(words_task), server.name, recipes="zero-shot", limit=8, prices="in=1,out=1")
        (row,) = plan(prepare(settings))
        model = load_model(server.name)
        labels = tuple(f" {label}\n\n" for label in Task.load(words_task).labels)
        ids = [server.toy.tokenise(label) for label in labels]
        n_beginnings = len({tuple(label[:at]) for label in ids for at in range(len(label))})
        assert row["calls"] == 8 * n_beginnings > 16
        one = ScoreRequest(Prompt((Segment("query", "Text: a\nLabel:"),)), labels)
        before = server.counts["/v1/completions"]
        n_prompt = model.count_tokens("Text: a\nLabel:") + 1
        assert (model.expected_calls([one]), model.forward_tokens([one])) == (n_beginnings, n_beginnings * n_prompt)
        assert server.counts["/v1/completions"] == before  # nothing paid is asked
        assert row["usd"] == pytest.approx(row["forward_tokens"] / 1e6)
        found = run_cli(
            "adapt", words_task, "--model", server.name, "--recipes", "zero-shot", "--limit", 8, "--dry-run"
        )
        assert f"forward tokens, {8 * n_beginnings} calls" in found.out.replace("\n", " ")


def test_a_run_goes_end_to_end_and_again_for_nothing(words_task, tmp_path):
    with served(ShapedServer(VLLM)) as server:
        task, recipes = Task.load(words_task), "majority,zero-shot,bm25"
        run = kshot.adapt(task, server.name, recipes=recipes, shots=2, limit=8, out=tmp_path / "run")
        assert {row["recipe"] for row in run.leaderboard} == {"majority", "zero-shot", "bm25"}
        n = server.counts["/v1/completions"]
        again = kshot.adapt(task, server.name, recipes=recipes, shots=2, limit=8, out=tmp_path / "run")
        assert again.leaderboard == run.leaderboard
        assert server.counts["/v1/completions"] == n == run.paid["calls"]
