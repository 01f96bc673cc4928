"""The loop `skills-from-context`: routing, probes, and the version that replay keeps."""

import re
from collections import Counter

import pytest

import planted_talk as planted
from kshot.methods.loops.skills_from_context import Played, Probe, SkillsFromContext, chosen
from kshot.methods.roles import Scripted

SOLVED = {  # by the reasoner's version: which tasks it solves; the third is the best of those that come
    0: {"easy"}, 1: {"easy", "a"}, 2: {"easy", "a", "b"}, 3: {"a", "b", "c"}, 4: {"c"}
}  # fmt: skip
TASKS = ("easy", "a", "b", "c", "d")


class World:
    """Four scripted roles; the reasoner's skills are numbered by the editor: "skill 2" stands for version 2."""

    def __init__(self, checks=2):
        self.asked, self.n_written, self.n_skills, self.checks = [], 0, 0, checks

    def version(self, request: str) -> int:
        return max([0, *map(int, re.findall(r"skill (\d)", request))])

    def challenger(self, request: str) -> str:
        task = TASKS[self.n_written % len(TASKS)]
        self.n_written += 1
        return f"Task: {task}.\n" + "Check: one\n" * (1 if task == "easy" else self.checks)

    def reasoner(self, request: str) -> str:
        task = request.split("Task: ")[-1].split(".")[0]
        return "right" if task in SOLVED[self.version(request)] else "wrong"

    def judge(self, request: str) -> str:
        n = request.count("- one")
        return ", ".join(["yes"] * n if "Answer: right" in request else ["yes"] * (n - 1) + ["no"])

    def editor(self, request: str) -> str:
        if request.startswith("Write the skill 'reason"):
            self.n_skills += 1
            return f"skill {self.n_skills}"
        if request.startswith("Write the skill"):
            return "ask for more"
        self.asked.append(request)
        return "add reason: it failed" if "were failed" in request else "add harder: too easy"

    def cast(self) -> dict[str, Scripted]:
        return {name: Scripted(getattr(self, name)) for name in ("challenger", "reasoner", "judge", "editor")}


def played(iterations=4, world=None, **how):
    world = world or World()
    loop = SkillsFromContext(iterations=iterations, calls=2000, **how).played_by(**world.cast())
    made = planted.model()
    artefact = loop.run(planted.TASK.train, model=made[0], rng=planted.np.random.default_rng(0))
    (trace,) = made[0].traces._open.values()
    return artefact, made[1], trace.messages, world


def test_replay_keeps_the_best_version_and_not_the_last():
    artefact, notes, _, _ = played()
    replay = notes[0]["replay"]
    assert artefact.notes == ("reason: skill 2",)
    assert len(replay) == 4
    assert replay.index(max(replay, key=lambda pair: (pair[0] + 1) * (pair[1] + 1))) == 1  # version 2 of 4


def test_the_reasoner_and_the_judge_are_asked_as_often_as_is_said():
    _, notes, trace, _ = played(iterations=3, tasks=4)
    counts = Counter(m["role"] for m in trace)
    n_probes = 3 + 3  # each iteration has a hardest failed task and an easiest solved one
    assert counts["reasoner"] == counts["judge"] == 3 * 4 + 3 * n_probes
    assert counts["challenger"] == 12
    assert counts["editor"] == 3 * 2 * 2
    assert notes[-1]["calls"] == sum(counts.values())


def test_failed_tasks_go_to_the_reasoner_and_solved_ones_to_the_challenger():
    _, _, _, world = played(iterations=1)
    reasoning, challenging = world.asked
    assert "solve tasks" in reasoning
    assert re.findall(r"Task: (\w+)", reasoning) == ["a", "b", "c", "d"]
    assert "write tasks" in challenging
    assert re.findall(r"Task: (\w+)", challenging) == ["easy"]


def test_the_product_leaves_out_what_is_perfect_on_easy_probes_alone():
    assert chosen([(0, 5), (2, 3)], 5, 5) == 1
    assert chosen([(5, 0), (2, 3)], 5, 5) == 1
    assert chosen([(1, 1), (1, 1)], 2, 2) == 0
    assert chosen([(0, 0)], 0, 0) == 0


@pytest.mark.parametrize(("passed", "is_solved"), [((True, True), True), ((True, False), False), ((False,), False)])
def test_a_task_is_solved_only_where_all_checks_are_passed(passed, is_solved):
    assert Played(Probe("t", ("c",) * len(passed)), "", passed).is_solved is is_solved


def test_it_is_the_same_again():
    first, second = played(), played()
    assert first[:3] == second[:3]


def test_a_ledger_that_ends_before_the_replay_leaves_the_newest_skills():
    calls = 2 * (5 * 3 + 4) + 1
    loop = SkillsFromContext(iterations=4, calls=calls).played_by(**World().cast())
    artefact, about, trace = planted.played(loop)
    assert artefact.notes == ("reason: skill 2",)
    assert about["ended"] == f"the ledger of {calls} calls is spent"
    assert len(trace) == calls


def test_a_judge_that_says_something_else_is_asked_again_and_then_ends_it():
    world = World()
    cast = {**world.cast(), "judge": Scripted(lambda request: "perhaps")}
    _, about, _ = planted.played(SkillsFromContext().played_by(**cast))
    assert about["ended"] == "judge must answer with yes or no for each of 1 checks; it has not, 3 times: 'perhaps'"
    assert about["rounds"] == 0
