"""Talks in roles, and the loop `refine`: ledger, trace, people, and the best so far."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
import planted_talk as planted
from kshot.core.errors import DamagedError, SettingError, UserError
from kshot.methods.loops.refine import Refine
from kshot.methods.roles import Person, Scripted
from kshot.recipes.grammar import parse_recipe
from kshot.reports.html import write_report
from kshot.store.traces import Trace, Traces


def coach(*answers: str) -> Scripted:
    left = iter(answers)
    return Scripted(lambda request: next(left))


def refine(notes, answers=(), **how):
    return Refine(**{"asked": 4, **how}).played_by(writer=coach(*notes), coach=coach(*answers))


def test_the_best_turn_is_kept_and_not_the_last():
    loop = refine(["worth 1", "worth 2", "worth 5", "worth 3", "worth 1", "worth 0"], ["Why?"] * 6)
    artefact, about, _ = planted.played(loop)
    assert artefact.notes == ("worth 5",)  # turn 3 of 6
    assert about["rounds"] == 6


def test_the_signal_ends_it_and_no_turn_comes_after_the_last():
    artefact, about, talk = planted.played(refine(["worth 1", "worth 2"], ["More?", " Good. "]))
    assert (artefact.notes, about["rounds"]) == (("worth 2",), 2)
    artefact, about, trace = planted.played(refine(["worth 1"] * 3, ["More?"] * 3, turns=3))
    assert sum(m["role"] == "writer" for m in trace) == 3


def test_where_no_note_saves_bits_none_is_kept():
    assert planted.played(refine(["worth 0", "worth -2"], ["More?"] * 2, turns=2))[0].notes == ()


@given(calls=st.integers(9, 60), tokens=st.integers(500, 4000))
def test_the_ledger_is_kept_to_the_last_call(calls, tokens):
    spoken = []

    def say(request):
        spoken.append(request)
        return f"worth {len(spoken)}"

    loop = Refine(asked=4, calls=calls, tokens=tokens, turns=1000).played_by(writer=Scripted(say), coach=Scripted(say))
    model, notes = planted.model()
    with suppress(UserError):  # one round is too much
        loop.run(planted.TASK.train, model=model, rng=np.random.default_rng(0))
    assert model.model.n_scored + len(spoken) <= calls
    if not notes:
        assert len(spoken) <= 1
        return
    assert notes[-1]["calls"] == model.model.n_scored + len(spoken)
    assert notes[-1]["spoken_tokens"] <= tokens
    assert notes[-1]["ended"] in (f"the ledger of {calls} calls is spent", f"the ledger of {tokens} tokens is spent")
    if "calls" in notes[-1]["ended"]:
        assert calls - notes[-1]["calls"] < 4  # what comes next is an answer, or the scores of four examples


def test_a_ledger_too_small_for_one_round_says_what_must_hold():
    with pytest.raises(SettingError, match=r"^calls must be 9 or more, as many as the first round can take .* got 8\."):
        refine(["worth 1"], calls=8)
    with pytest.raises(UserError, match=r"^refine:calls must be 33 or more"):
        parse_recipe("zero-shot:loop=refine(calls=32)", shots=2)
    with pytest.raises(UserError, match=r"^refine:calls must hold one round, of at least 10 calls .* got 9\. Raise it"):
        planted.played(refine(["...", "worth 1"], calls=9))  # the writer is asked again
    with pytest.raises(UserError, match=r"^refine:tokens must hold one round, of at least \d+ tokens .* got 50\."):
        planted.played(refine(["worth 1"], tokens=50))


def test_a_form_that_is_broken_three_times_ends_it_with_what_there_is():
    loop = refine(["worth 1", "worth 3", "...", "", "-"], ["Why?"] * 5)
    artefact, about, trace = planted.played(loop)
    assert artefact.notes == ("worth 3",)
    assert about["ended"] == "writer must answer with one sentence; it has not, 3 times: '-'"
    assert [m["text"] for m in trace][-3:] == ["...", "", "-"]
    assert "(Your answer must be one sentence.)" in trace[-1]["request"]


def test_a_person_who_leaves_ends_it_and_what_was_said_is_kept(tmp_path):
    shown, lines = [], iter(["worth 4\n", "worth 2\n", ""])
    loop = refine([], ["Why?"] * 3).played_by(writer=Person(shown.append, lambda: next(lines)))
    said = []
    artefact, about, trace = planted.played(loop, folder=tmp_path, say=said.append)
    assert artefact.notes == ("worth 4",)
    assert about["ended"] == "writer has left"
    assert said == ["refine: writer has left; what there is after 2 rounds is kept"]
    assert [m["text"] for m in Trace(next(tmp_path.glob("*.jsonl"))).messages] == ["worth 4", "Why?", "worth 2", "Why?"]
    assert "Ctrl-D leaves" in shown[0]


def test_a_person_is_shown_what_a_terminal_can_show():
    shown = []
    Person(shown.append, lambda: "yes\n").speak("a\x1b[2Jb", most=1, seed=0)
    assert shown == ["\na\\x1b[2Jb\n(one line; Ctrl-D leaves)"]


class KilledError(BaseException):
    """The process ends."""


@pytest.mark.parametrize("last", [0, 1, 3, 6])
def test_a_killed_loop_goes_on_and_asks_nothing_twice(tmp_path, last):
    asked = []

    def say(name, words):
        def answer(request):
            if len(asked) == last and not killed:
                killed.append(True)
                raise KilledError
            asked.append((name, request))
            return words[sum(who == name for who, _ in asked) - 1]

        return Scripted(answer)

    words = ["worth 1", "worth 3", "worth 2", "worth 1"], ["Why?", "How?", "When?", "Good"]
    killed = [True]
    whole = planted.played(Refine(asked=4).played_by(writer=say("w", words[0]), coach=say("c", words[1])))
    asked, killed = [], []
    loop = Refine(asked=4).played_by(writer=say("w", words[0]), coach=say("c", words[1]))
    with pytest.raises(KilledError):
        planted.played(loop, folder=tmp_path)
    for file in tmp_path.glob("*.jsonl"):
        with file.open("a") as opened:
            opened.write('{"role": "wri')  # what was being written
    artefact, about, trace = planted.played(loop, folder=tmp_path)
    assert (artefact, about["calls"], trace) == (whole[0], whole[1]["calls"], whole[2])
    assert len(asked) == len(trace) == 8
    nobody = Refine(asked=4).played_by(writer=coach(), coach=coach())
    assert planted.played(nobody, folder=tmp_path)[0] == artefact  # replayed: nobody is asked


def test_a_trace_that_was_changed_is_refused(tmp_path):
    loop = refine(["worth 1", "worth 2"], ["Why?", "Good"])
    planted.played(loop, folder=tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_text(file.read_text().replace("worth 2", "worth 9"))
    with pytest.raises(DamagedError, match=r"jsonl must be as kshot wrote it; line 3 is not\. Delete it"):
        Trace(file)


def test_another_request_leaves_the_rest_of_a_trace_out(tmp_path):
    planted.played(refine(["worth 1", "worth 2"], ["Why?", "Good"]), folder=tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    trace = Trace(file)
    changed = [{**m, "asked": "other"} if i == 2 else m for i, m in enumerate(trace.messages)]
    file.unlink()
    for message in changed:
        (fresh := Trace(file)).add(message)
    said = []
    artefact, _, _ = planted.played(refine(["worth 7"], ["Good"]), folder=tmp_path, say=said.append)
    assert said == ["writer was asked something else when this was begun; what was said from there on is left out"]
    assert artefact.notes == ("worth 7",)
    assert len(Trace(file).messages) == len(fresh.messages) == 4


def test_a_trace_is_read_as_it_was_written(tmp_path):
    trace = Traces(tmp_path).of("a")
    trace.add({"text": "é\u2028\nx"})
    assert Trace(tmp_path / "a.jsonl").messages == trace.messages
    assert replace(Traces(tmp_path)).of("a").messages == trace.messages


def test_what_was_said_is_in_the_report_and_a_run_that_is_repeated_asks_nobody(tmp_path, monkeypatch):
    recipes = "zero-shot,zero-shot:loop=refine(coach=person,turns=2)"
    lines, n = iter(["Why <b>so</b>?\n"] * 6), []

    def read(*_):
        n.append(1)
        return next(lines)

    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"readline": read})())
    kshot.adapt(planted.TASK, "scripted", recipes=recipes, out=tmp_path / "run")
    assert len(n) == 6  # two turns at 4, 8 and 12 examples
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "Why &lt;b&gt;so&lt;/b&gt;?" in page
    assert "<b>coach</b>" in page
    assert "zero-shot:loop=refine(coach=person,turns=2), with 8 examples: 4 messages; 2 rounds" in page
    kshot.adapt(planted.TASK, "scripted", recipes=recipes, out=tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    kshot.adapt(planted.TASK, "scripted", recipes=recipes, out=tmp_path / "run")
    assert len(n) == 6
    assert write_report(tmp_path / "run").read_text("utf-8") == page
