"""Routes to services: what they send, what they read, and when they are not trusted."""

import asyncio
import contextlib
import json
from functools import partial

import numpy as np
import pytest

import route_servers as servers
from kshot.core.errors import ModelError, SameTokensError, UserError
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.models.remote.decision_question import decision_request
from kshot.models.remote.decisions import Decisions
from kshot.models.remote.label_tree import LabelTree, tree_of
from kshot.models.remote.llama_cpp import LlamaCpp
from kshot.models.remote.sglang_score import SglangScore
from kshot.models.remote.systemone import SystemOne
from kshot.models.remote.token_ids import TokenIds
from test_answers_of_any_shape import WRONG, changed, places

EXACT = {
    "token-ids": (TokenIds, servers.vllm),
    "score": (SglangScore, servers.sglang),
    "llama.cpp": (LlamaCpp, servers.llama_cpp),
}
# The first two share their first token, two split in the middle of a word, one is the beginning of another
LABELS = tuple(f" {label}\n\n" for label in ("location", "locale", "description", "no", "no sir", "ünïcode label"))
PROMPT = Prompt(
    (
        Segment("instruction", "What is asked for?\n\n"),
        Segment("demonstration", "Text: Where is Rome?\nLabel:"),
        Segment("answer", " location\n\n"),
        Segment("query", "Text: Where is Oslo?\nLabel:"),
    )
)


def read(route, service, request):
    return asyncio.run(route.read(service, request))


def probe(route, service):
    return asyncio.run(route.probe(service))


@pytest.fixture(params=EXACT)
def exact(request):
    made, server = EXACT[request.param]
    return made(), server()


def test_exact_routes_read_the_log_probabilities_of_the_labels_own_tokens(exact):
    route, service = exact
    found = read(route, service, ScoreRequest(PROMPT, LABELS))
    ids = [servers.BOS, *(i for s in PROMPT.segments for i in service.toy.tokenise(s.text))]
    np.testing.assert_allclose(found.log_probs, [service.toy.exact(ids, label) for label in LABELS], rtol=1e-12)
    assert found.mass is None
    assert route.trust == "exact"
    assert route.most is None


def test_exact_routes_are_trusted_by_requests_with_a_known_answer(exact):
    route, service = exact
    assert probe(route, service) is None


def test_a_prompt_that_spells_its_first_token_is_sent_without_another(exact):
    route, service = exact
    request = ScoreRequest(Prompt(PROMPT.segments, spells_first_token=True), LABELS)
    ids = [i for s in PROMPT.segments for i in service.toy.tokenise(s.text)]
    found = read(route, service, request)
    np.testing.assert_allclose(found.log_probs, [service.toy.exact(ids, label) for label in LABELS], rtol=1e-12)


def test_three_hundred_labels_are_asked_in_parts_of_128_tokens():
    labels = tuple(f" {name}" for name in (f"l{i:03d}" for i in range(300)))
    service = servers.vllm()
    found = read(TokenIds(), service, ScoreRequest(PROMPT, labels))
    ids = [servers.BOS, *(i for s in PROMPT.segments for i in service.toy.tokenise(s.text))]
    np.testing.assert_allclose(found.log_probs, [service.toy.exact(ids, label) for label in labels], rtol=1e-12)
    sizes = [len(body["logprob_token_ids"]) for body in service.bodies("completions")]
    assert sizes == [128, 128, 44]


def test_labels_of_few_tokens_take_one_request():
    for route, service, path in (
        (TokenIds(), servers.vllm(), "completions"),
        (SglangScore(), servers.sglang(), "score"),
    ):
        read(route, service, ScoreRequest(PROMPT, LABELS))
        assert len(service.bodies(path)) == 1


@pytest.mark.parametrize("labels", [LABELS, tuple(f" l{i:03d} l{i % 7}" for i in range(300))], ids=["few", "300"])
def test_what_a_request_takes_is_known_before(exact, labels):
    route, service = exact
    takes = asyncio.run(route.takes(service, labels))
    assert {path for path, _ in service.asked} == {"../tokenize"}
    read(route, service, ScoreRequest(PROMPT, labels))
    bodies = [body for path, body in service.asked if path != "../tokenize"]
    if route.name == "llama.cpp":  # one call more for what is not among the most probable tokens
        assert takes.calls == takes.prompts == len({tuple(body["prompt"]) for body in bodies}) <= len(bodies)
    else:
        sent = sum(len(body.get("items") or body["prompt"]) for body in bodies)
        assert (takes.calls, takes.prompts) == (len(bodies), sent)


def test_a_tree_asks_each_beginning_once_and_for_each_token_of_it():
    tree = LabelTree((1, 2), ((5, 6, 9), (5, 7, 9), (8, 9)))
    assert tree.nodes == [((), (5, 8)), ((5,), (6, 7)), ((5, 6), (9,)), ((5, 7), (9,)), ((8,), (9,))]
    (part,) = tree.calls(most_tokens=8, most_nodes=9)
    assert part == tree.nodes
    for part in tree.calls(most_tokens=2, most_nodes=2):
        assert len(part) <= 2
        assert len({token for _, tokens in part for token in tokens}) <= 2
    parts = [node for part in tree.calls(most_tokens=1, most_nodes=1) for node in part]
    assert parts[:2] == [((), (5,)), ((), (8,))]


def test_continuations_that_are_the_same_tokens_are_refused(exact):
    route, service = exact
    service.toy.tokenise = lambda text: [5] if text in (" a", " A") else servers.ToyModel.tokenise(service.toy, text)
    with pytest.raises(SameTokensError, match=r"must differ for the model; ' a' and ' A' are the same tokens\. Rename"):
        read(route, service, ScoreRequest(PROMPT, (" a", " b", " A")))


def test_an_empty_continuation_is_refused(exact):
    route, service = exact
    with pytest.raises(UserError, match="must have at least one token; got an empty text"):
        read(route, service, ScoreRequest(PROMPT, (" a", "")))


def test_a_server_without_a_tokenizer_is_told(exact):
    route, service = exact
    del service.handlers["../tokenize"]
    with pytest.raises(ModelError, match=r"must tokenise texts where token ids are asked for; it has no /tokenize\."):
        read(route, service, ScoreRequest(PROMPT, LABELS))
    assert "it has no /tokenize" in probe(route, service)


def test_an_old_vllm_that_ignores_the_token_ids_is_found_out():
    service = servers.vllm(completions=partial(servers.vllm_completions, ignores_ids=True))
    assert "must say the log-probability of each token in logprob_token_ids" in probe(TokenIds(), service)


def test_a_server_that_answers_fewer_prompts_is_found_out():
    def one(toy, body):
        answer = servers.vllm_completions(toy, body)
        return {**answer, "choices": answer["choices"][:1]}

    with pytest.raises(ModelError, match=r"must answer each of \d+ prompts; it answers 1"):
        read(TokenIds(), servers.vllm(completions=one), ScoreRequest(PROMPT, LABELS))


@pytest.mark.parametrize("gone", [None, {}, {"top_logprobs": None}, {"top_logprobs": [None]}])
def test_log_probabilities_that_vanish_are_told(gone):
    def without(toy, body):
        answer = servers.vllm_completions(toy, body)
        return {**answer, "choices": [{**choice, "logprobs": gone} for choice in answer["choices"]]}

    with pytest.raises(ModelError, match="it says none of token"):
        read(TokenIds(), servers.vllm(completions=without), ScoreRequest(PROMPT, LABELS))


def test_a_delimiter_between_query_and_item_is_found_out():
    service = servers.sglang(score=partial(servers.sglang_score, delimiter=True))
    assert "where the query ends changes what it says" in probe(SglangScore(), service)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:1], "must give 1[0-9] rows of"),
        (lambda rows: [[0.5] * len(row) for row in rows], "must score with probabilities over all tokens"),
        (lambda rows: [[-1.0] * len(row) for row in rows], "must score with probabilities over all tokens"),
        (lambda rows: [[None] * len(row) for row in rows], "must score with probabilities over all tokens"),
        (lambda rows: None, r"it gives rows of \[\]"),
    ],
)
def test_scores_that_are_no_probabilities_are_told(change, said):
    def changed(toy, body):
        return {"scores": change(servers.sglang_score(toy, body)["scores"])}

    with pytest.raises(ModelError, match=said):
        read(SglangScore(), servers.sglang(score=changed), ScoreRequest(PROMPT, LABELS))


def test_a_probability_of_nothing_is_a_finite_number():
    def none(toy, body):
        return {"scores": [[0.0] * len(body["label_token_ids"]) for _ in body["items"]]}

    found = read(SglangScore(), servers.sglang(score=none), ScoreRequest(PROMPT, LABELS))
    assert np.isfinite(found.log_probs).all()


def test_a_server_that_does_not_write_what_it_is_made_to_is_found_out():
    service = servers.llama_cpp(completions=partial(servers.llama_completions, ignores_bias=True))
    assert "and say how likely it was, as llama.cpp does" in probe(LlamaCpp(), service)


def test_llama_cpp_is_asked_for_by_name_only_for_what_it_does_not_show():
    """After each beginning of a label one request at least, and one for each token that is not among the first 256."""
    service = servers.llama_cpp()
    read(LlamaCpp(), service, ScoreRequest(PROMPT, LABELS))
    tree = asyncio.run(tree_of(service, ScoreRequest(PROMPT, LABELS)))
    nodes = {prefix: tokens for prefix, tokens in tree.nodes}
    bodies = service.bodies("completions")
    assert len(nodes) <= len(bodies) <= sum(map(len, nodes.values()))
    for body in bodies:
        tokens = nodes[tuple(body["prompt"][len(tree.prompt) :])]
        assert body["logit_bias"][0][0] in tokens
        assert len(tokens) > 1 or body["logprobs"] == 1


def test_a_token_that_ends_within_a_character_is_looked_for(monkeypatch):
    service = servers.llama_cpp()
    half = service.toy.tokenise(LABELS[-1])[0]
    monkeypatch.setattr(servers, "HALF", {half})
    found = read(LlamaCpp(), service, ScoreRequest(PROMPT, LABELS))
    ids = [servers.BOS, *(i for s in PROMPT.segments for i in service.toy.tokenise(s.text))]
    np.testing.assert_allclose(found.log_probs, [service.toy.exact(ids, label) for label in LABELS], rtol=1e-12)


def test_a_server_that_tells_of_no_token_is_told():
    service = servers.llama_cpp(completions=lambda toy, body: {"choices": [{"text": "?", "logprobs": None}]})
    with pytest.raises(ModelError, match=r"must say how likely each token of a label is; it does not of token \d+\."):
        read(LlamaCpp(), service, ScoreRequest(PROMPT, LABELS))


def test_another_server_at_the_same_path_is_no_llama_cpp():
    """vLLM and others answer in another shape."""
    old = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [0]}
    service = servers.llama_cpp(completions=lambda toy, body: {"choices": [{"logprobs": old}]})
    assert "says that of None" in probe(LlamaCpp(), service)


def test_a_refusal_of_the_server_is_told_in_its_words():
    service = servers.llama_cpp(completions=servers.refused(400, "request exceeds the available context size"))
    assert probe(LlamaCpp(), service) == "the server refuses it (400): request exceeds the available context size"


# Decisions
TYPED = {"decisions": (Decisions, servers.decisions), "systemone": (SystemOne, servers.systemone)}
CHAT = Prompt(
    (
        Segment("instruction", "What is asked for?"),
        Segment("demonstration", "Where is Rome?"),
        Segment("answer", "location"),
        Segment("query", "Who wrote it, a human?"),
    ),
    spells_first_token=True,
)


@pytest.fixture(params=TYPED)
def typed(request):
    made, handler = TYPED[request.param]
    return made(), servers.FakeService({request.param: handler})


def sent(service):
    """Return the one question that was sent, and its text."""
    ((path, body),) = service.asked
    question = body["questions"][0] if path == "decisions" else body["questions"]["answer"]
    return question, body["input"] if path == "decisions" else body["state"]


def test_decision_routes_are_trusted_by_requests_with_a_known_answer(typed):
    def named(toy, body):
        """Believe in the word that the instruction or the text names."""
        return (servers.decisions if "input" in body else servers.systemone)(toy, body)

    route, service = typed
    service.handlers = dict.fromkeys(service.handlers, named)
    assert probe(route, service) is None
    assert route.trust == "labels"
    assert route.in_messages


def test_a_choice_is_asked_with_the_tasks_own_instruction_and_text(typed):
    route, service = typed
    found = read(route, service, decision_request("What is asked for?", "Is it a human?", ("location", "human", "no")))
    question, text = sent(service)
    assert (question["type"], question["instructions"], text) == ("choice", "What is asked for?", "Is it a human?")
    np.testing.assert_allclose(np.exp(found.log_probs), [0.02, 0.96, 0.02])


def test_demonstrations_stand_before_the_text_with_their_answers(typed):
    route, service = typed
    read(route, service, ScoreRequest(CHAT, ("location", "human")))
    question, text = sent(service)
    assert text == "Input: Where is Rome?\nAnswer: location\n\nInput: Who wrote it, a human?\nAnswer:"
    assert question["instructions"].startswith("What is asked for?\n\nThe input shows examples")


@pytest.mark.parametrize(("options", "yes"), [(("no", "yes"), 1), (("True", "False"), 0)])
def test_yes_or_no_is_a_predicate(typed, options, yes):
    route, service = typed
    found = read(route, service, decision_request("Is it good?", "I liked it.", options))
    question, _ = sent(service)
    assert question["type"] in ("predicate", "noul")
    assert np.exp(found.log_probs[yes]) == pytest.approx(0.75)
    assert np.exp(found.log_probs[1 - yes]) == pytest.approx(0.25)


def test_consecutive_numbers_are_a_score_in_their_order(typed):
    route, service = typed
    found = read(route, service, decision_request("How many stars?", "Fine.", ("3", "1", "2")))
    question, _ = sent(service)
    assert question["type"] == "score"
    assert question.get("levels", question.get("criteria")) in (["1", "2", "3"], [{"label": n} for n in "123"])
    np.testing.assert_allclose(np.exp(found.log_probs), [3 / 6, 1 / 6, 2 / 6])


@pytest.mark.parametrize("options", [("1", "3", "5"), ("1", "2"), tuple(str(i) for i in range(11)), ("1", "2", "x")])
def test_other_numbers_are_a_choice(typed, options):
    route, service = typed
    read(route, service, decision_request("How many?", "One.", options))
    assert sent(service)[0]["type"] == "choice"


@pytest.mark.parametrize("n", [1, 256, 300])
def test_too_many_labels_and_too_few_are_refused_before_asking(typed, n):
    route, service = typed
    options = tuple(f"label {i}" for i in range(n))
    with pytest.raises(UserError, match=rf"chooses among 2 to 255 answers; got {n}\. Use fewer labels, or another"):
        read(route, service, decision_request("Which?", "x", options))
    assert service.asked == []
    assert route.most == 255


def test_255_labels_are_one_choice(typed):
    route, service = typed
    options = tuple(f"label {i}" for i in range(255))
    rows = dict.fromkeys(options, 1 / 255)
    listed = [{"value": option, "probability": p} for option, p in rows.items()]
    service.handlers = {
        "decisions": lambda toy, body: {"answers": [{"type": "choice", "probabilities": listed}]},
        "systemone": lambda toy, body: {"answers": {"answer": {"type": "choice", "probabilities": rows}}},
    }
    assert len(read(route, service, decision_request("Which?", "x", options)).log_probs) == 255


def test_vllms_mass_is_told_and_others_is_not_known():
    request = decision_request("Which?", "a human", ("location", "human"))
    one = servers.FakeService({"systemone": servers.systemone})
    two = servers.FakeService({"decisions": servers.decisions})
    assert read(SystemOne(), one, request).mass == 0.5
    assert read(Decisions(), two, request).mass is None


def test_a_refusal_says_nothing_of_any_label(typed):
    route, service = typed
    service.handlers = {
        "decisions": lambda toy, body: {"answers": [{"type": "refusal", "name": "answer"}]},
        "systemone": lambda toy, body: {"answers": {"answer": {"type": "refusal"}}},
    }
    found = read(route, service, decision_request("Which?", "x", ("a", "b", "c", "d")))
    np.testing.assert_allclose(np.exp(found.log_probs), 0.25)
    assert found.mass == 0.0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"location": 0.5}, "must give each answer a probability; it gives none to 'human'"),
        ({"location": 0.5, "human": None}, "must give each answer a probability; it gives none to 'human'"),
        ({"location": 0.2, "human": 0.2}, "must sum to 1; they sum to 0.4"),
        ({"location": -0.5, "human": 1.5}, "must sum to 1"),
        (None, "must answer the question that it is asked; it answers with 'NoneType'"),
    ],
)
def test_what_is_no_distribution_is_told(typed, rows, said):
    route, service = typed
    listed = rows and [{"value": value, "probability": p} for value, p in rows.items()]
    service.handlers = {
        "decisions": lambda toy, body: {"answers": [{"type": "choice", "probabilities": listed}]},
        "systemone": lambda toy, body: {"answers": {"answer": {"type": "choice", "probabilities": rows}}},
    }
    with pytest.raises(ModelError, match=said):
        read(route, service, decision_request("Which?", "x", ("location", "human")))


@pytest.mark.parametrize("answer", [{}, {"answers": []}, {"answers": {}}, [], {"answers": [{"type": "score"}]},
                                    {"answers": {"answer": {"type": "score"}}}])  # fmt: skip
def test_an_answer_to_something_else_is_told(typed, answer):
    route, service = typed
    service.handlers = dict.fromkeys(("decisions", "systemone"), lambda toy, body: answer)
    with pytest.raises(ModelError, match=r"must answer the question that it is asked; .*Take another --api route=NAME"):
        read(route, service, decision_request("Which?", "x", ("location", "human")))


def test_llama_cpp_refuses_ordinary_models_in_its_words():
    """As llama.cpp answers; measured with xllamacpp 2026.10."""
    service = servers.FakeService({"systemone": servers.refused(501, "This model is not a decision model")})
    assert probe(SystemOne(), service) == "the server refuses it (501): This model is not a decision model"


def test_a_decision_model_on_llama_cpp_is_asked_as_one():
    assert "better asked by the route systemone" in probe(LlamaCpp(), servers.llama_cpp(systemone=servers.systemone))
    ordinary = servers.llama_cpp(systemone=servers.refused(501, "This model is not a decision model"))
    assert probe(LlamaCpp(), ordinary) is None


# Answers of any shape
YES = decision_request("Is it?", "Yes.", ("yes", "no"))
STARS = decision_request("How many?", "Fine.", ("1", "2", "3"))
CHOICE = decision_request("Which?", "a human", ("location", "human"))
ANY = {
    "token-ids": (TokenIds, servers.vllm, ScoreRequest(PROMPT, LABELS[:2])),
    "score": (SglangScore, servers.sglang, ScoreRequest(PROMPT, LABELS[:2])),
    "llama.cpp": (LlamaCpp, servers.llama_cpp, ScoreRequest(PROMPT, (" a", " b"))),
    **{
        f"{name} {kind}": (made, partial(servers.FakeService, {name: handler}), request)
        for name, (made, handler) in TYPED.items()
        for kind, request in (("predicate", YES), ("score", STARS), ("choice", CHOICE))
    },
}


@pytest.mark.parametrize("way", ANY)
def test_an_answer_of_any_shape_is_read_or_is_an_error_of_the_server(way):
    made, server, request = ANY[way]
    route, service = made(), server()
    right = read(route, service, request)
    path = service.asked[-1][0]
    handler, n_refused = service.handlers[path], 0
    answer = json.loads(json.dumps(handler(service.toy, service.asked[-1][1])))
    for place in places(answer):
        if {"usage", "bytes", "text", "finish_reason", "text_offset", "object", "created"} & set(place):
            continue
        for wrong in WRONG:

            def other(toy, body, place=place, wrong=wrong):
                found = json.loads(json.dumps(handler(toy, body)))
                with contextlib.suppress(LookupError, TypeError):  # of a request that has less of them
                    found = changed(found, place, wrong)
                return found

            service.handlers[path] = other
            try:
                got = read(route, service, request)
            except ModelError:
                n_refused += 1
                continue
            assert got.log_probs.shape == right.log_probs.shape
            assert np.isfinite(got.log_probs).all()
            assert (got.log_probs <= 1e-2).all()
            assert got.mass is None or 0 <= got.mass <= 1
    assert n_refused > 20
