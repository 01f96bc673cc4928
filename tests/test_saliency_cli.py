"""`kshot saliency`: what a user is told of what answers rest on, and what the report shows of it."""

import shutil

import pytest

import kshot
from kshot.core.errors import DamagedError, UserError
from kshot.core.json_text import from_json
from kshot.reports.html import write_report
from kshot.reports.saliency_record import asked_first, read_saliency, weighed
from kshot.reports.saved_record import read_record


@pytest.fixture(scope="module")
def run(words_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    kshot.adapt(words_task, model="tiny", recipes="random:k=2,contexts=2", out=folder)
    return folder


@pytest.fixture
def own(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def embedded(page: str) -> dict:
    return from_json(page.partition('<script id="record" type="application/json">')[2].partition("</script>")[0])


def test_a_runs_examples_are_asked_wrong_ones_first_and_the_report_shows_their_words(own, run_cli):
    done = run_cli("saliency", own, "--limit", 4, "--json")
    found = done.json["saliency"]
    assert [row["id"] for row in found] == [e["id"] for e in asked_first(read_record(own), 4)]
    record = embedded((own / "report.html").read_text("utf-8"))
    assert len(record["saliency"]) == 4
    by_input = {e[0]: i for i, e in enumerate(record["examples"])}
    texts = {e["id"]: e["input"] for e in read_record(own)["prompts"]["examples"]}
    for row in found:
        answer, pieces, _ = record["saliency"][str(by_input[texts[row["id"]]])]
        assert answer == row["answer"]
        assert "".join(text for text, _ in pieces) == texts[row["id"]]
        assert max(value for _, value in pieces) == 1
    assert read_saliency(own) == found
    assert read_saliency(own, read_record(own)["results"]["chosen"]) == found
    assert read_saliency(own, "another") == []
    said = run_cli("saliency", own, "--limit", 1).out.splitlines()
    assert said[0] == texts[found[0]["id"]]
    assert said[1].startswith(f"  {found[0]['answer']}: ")
    assert " 1.00" in said[1]
    assert said[2] == f"report: {own / 'report.html'}"


def test_inputs_of_ones_own_leave_the_report_as_it_is(run, run_cli):
    before = (run / "report.html").read_bytes()
    found = run_cli("saliency", run, "-", "--json", input="the cat\na saw\n").json["saliency"]
    assert [[list(word.values())[:3] for word in row["words"]] for row in found] == [
        [["input", 0, 3], ["input", 4, 7]],
        [["input", 0, 1], ["input", 2, 5]],
    ]
    assert (run / "report.html").read_bytes() == before
    (one,) = kshot.load(run).rests_on(["the cat"])
    assert one.record["words"] == found[0]["words"]
    assert [text for text, _ in one.most(1)] in (["the"], ["cat"])


def test_a_report_without_it_is_as_it_was(own):
    before = (own / "report.html").read_bytes()
    assert write_report(own).read_bytes() == before


def test_texts_are_cut_at_their_words():
    words = [
        {"field": field, "start": a, "stop": b, "value": value}
        for field, a, b, value in (("input", 4, 7, 0.504), ("context", 0, 1, 1.0), ("input", 0, 3, 1.0))
    ]
    assert weighed("the cat!", "input", words) == [["the", 1.0], [" ", 0], ["cat", 0.5], ["!", 0]]
    assert weighed("", "context", []) == []


def test_a_file_that_has_changed_is_refused_by_name(own, run_cli):
    run_cli("saliency", own, "--limit", 1)
    file = own / "saliency.jsonl"
    file.write_text(file.read_text("utf-8").replace('"answer"', '"Answer"', 1), "utf-8")
    with pytest.raises(DamagedError, match=r"saliency\.jsonl must be as kshot wrote it"):
        write_report(own)


def test_what_has_no_words_is_refused(words_task, run, run_cli, tmp_path):
    for recipe, model, message in (
        ("majority", "tiny", "is asked of one language model; 'majority' asks none. Take a run"),
        ("mix(zero-shot,random:k=2)", "tiny", "'mix(zero-shot,random:k=2)' combines several. Take a run"),
        ("zero-shot", "scripted", "told by gradients, which need a model with weights; 'scripted' has none"),
    ):
        adapted = kshot.adapt(words_task, model=model, recipes=recipe, limit=6).best
        with pytest.raises(UserError) as error:
            adapted.rests_on(["the cat"])
        assert message in str(error.value)
    kshot.load(run).save(tmp_path / "alone")
    done = run_cli("saliency", tmp_path / "alone")
    assert done.code == 2
    assert "must be a run, whose examples are known; it is a model alone. Name a file of INPUTS." in done.err
