"""llama.cpp's own server (the package xllamacpp), asked as a model behind an API; on the same weights as in-process."""

import numpy as np
import pytest

from kshot.bench.llama_server import llama_server
from kshot.core.api_settings import ApiSettings, parse_address
from kshot.core.errors import RefusedError
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.engine.language_model import Engine
from kshot.models.remote.calls import wait_for
from kshot.models.remote.decision_question import decision_request
from kshot.models.remote.echo import Echo
from kshot.models.remote.llama_cpp import LlamaCpp
from kshot.models.remote.service import HttpService
from kshot.models.remote.systemone import SystemOne
from kshot.models.remote.tokenizing import tokenizer_of
from kshot.models.tiny import tiny_backbone
from tiny_gguf import write_gguf

pytest.importorskip("xllamacpp")

LABELS = tuple(f" {label}\n\n" for label in ("location", "locale", "no", "no sir", "ünïcode"))
PROMPT = Prompt(
    (
        Segment("instruction", "What is asked for?\n\n"),
        Segment("demonstration", "Text: Where is Rome?\nLabel:"),
        Segment("answer", " location\n\n"),
        Segment("query", "Text: Where is Łódź?\nLabel:"),
    )
)


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_backbone())


@pytest.fixture(scope="module")
def service(engine, tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(engine.backbone, file)
    with llama_server(file, threads=1) as url:
        yield HttpService(parse_address(f"openai:{url}#tiny.gguf"), ApiSettings())


def test_it_tokenises_segments_as_models_in_process_do(service, engine):
    tokenizer = wait_for(tokenizer_of(service))
    assert tokenizer is not None
    assert tuple(wait_for(tokenizer.prompt_ids(PROMPT))) == engine.encode(PROMPT).ids


def test_labels_have_the_scores_of_the_same_weights_in_process(service, engine):
    before = service.usage.calls
    found = wait_for(LlamaCpp().read(service, request := ScoreRequest(PROMPT, LABELS)))
    (here,) = engine.score([request])
    np.testing.assert_allclose(found.log_probs, here, atol=2e-2)  # its cache is in 16 bits: 3e-3 of sums of 50
    assert np.argsort(found.log_probs).tolist() == np.argsort(here).tolist()
    assert service.usage.calls - before >= len(LABELS)
    assert service.usage.input > 0


def test_weights_that_know_nothing_are_not_trusted(service):
    assert "of a word that is known it says" in (wait_for(LlamaCpp().probe(service)) or "")


def test_its_missing_echo_is_found_out(service):
    """https://github.com/ggml-org/llama.cpp/issues/27174"""
    assert "To an echoed completion" in (wait_for(Echo().probe(service)) or "")


def test_it_refuses_decisions_of_an_ordinary_model(service):
    with pytest.raises(RefusedError, match="This model is not a decision model"):
        wait_for(SystemOne().read(service, decision_request("Which?", "x", ("a", "b"))))


@pytest.mark.slow
def test_the_demos_label_scores_agree_with_those_in_process(run_cli):
    found = run_cli("bench", "api", "--json").json
    assert found["queries"] == 50
    assert found["rank_correlation"] > 0.95
    assert found["rank_correlation_within_queries"] > 0.95
    assert found["same_answer"] > 0.9
    assert found["max_abs_diff_nats"] < 1.0
