"""The generator `lessons`: clumsy trajectories cleaned, and the memory in which they are looked up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
import planted_talk as planted
from kshot.core.types import Example, Generation, Task
from kshot.methods.generators.trajectory_lessons import Lessons, fault_of, steps_of
from kshot.methods.kitchen import PLACES, Kitchen, clumsy, drawn_kitchen, edit_distance, example_of
from kshot.methods.trajectory_memory import TrajectoryMemory, remembered


def world(seed: int, n: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    kitchens = [drawn_kitchen(rng) for _ in range(n)]
    return [example_of(kitchen, clumsy(kitchen, rng), f"e{seed}-{i}") for i, kitchen in enumerate(kitchens)]


class Cleaner(planted.ScriptedModel):
    """Cleans what it is asked to; `spoils` says how, at first."""

    def __init__(self, spoils=None):
        super().__init__()
        self.spoils, self.asked = spoils, []

    def with_store(self, store):
        return self

    def _text(self, request):
        text = request.prompt.text
        self.asked.append(text)
        kitchen = Kitchen.of(text[text.rindex("Somebody did this") :])
        clean = "\n".join(kitchen.best) + "\nLesson: go where the thing is, and then where it belongs."
        if self.spoils is not None and "An attempt was wrong" not in text:
            return Generation(self.spoils, True)
        return Generation(clean, True)


def made_of(examples, language_model=None, **how):
    task = Task("kitchen", "generation", tuple(examples))
    model, _ = planted.model(task, language_model=language_model or Cleaner())
    return Lessons(**how).generate(task.train, model=model, rng=np.random.default_rng(0))


@given(st.integers(0, 10_000))
def test_the_world(seed):
    rng = np.random.default_rng(seed)
    kitchen = drawn_kitchen(rng)
    assert Kitchen.of(kitchen.text) == kitchen
    assert kitchen.fault(kitchen.best) is None
    steps = clumsy(kitchen, rng)
    assert kitchen.fault(steps) is None
    assert edit_distance(steps, kitchen.best) == len(steps) - len(kitchen.best) == 4
    assert kitchen.fault(kitchen.best[:-1]) == "it does not reach the goal"
    assert "cannot be made" in kitchen.fault(("fly to the moon", *kitchen.best))


def test_clumsy_trajectories_are_cleaned_and_have_a_lesson():
    seeds = world(0, 12)
    found = made_of(seeds)
    assert len(found.examples) == 12
    for seed, made in zip(seeds, found.examples, strict=True):
        assert steps_of(made.output) == Kitchen.of(seed.input).best
        assert made.explanation.startswith("go where the thing is")
        assert made.meta == {"made": "lessons", "from": [made.id.removesuffix("~lesson")]}


@pytest.mark.parametrize(
    ("spoils", "reason"),
    [
        ("go to the moon\nLesson: x", "it has steps that were not there"),
        ("go to the table\nLesson: x", "it "),
        ("", "it has no step"),
    ],
)
def test_what_is_wrong_is_told_and_then_rejected(spoils, reason):
    seeds, model = world(1, 6), Cleaner(spoils)
    assert len(made_of(seeds, model).examples) == 6  # the second attempt is right
    assert f"An attempt was wrong: {reason}" in "\n".join(model.asked)
    found = made_of(seeds, Cleaner(spoils), turns=1)
    assert not found.examples
    assert all(reason in why for _, why in found.rejected)


def test_a_list_without_a_lesson_or_of_one_step_is_rejected():
    seeds = [Example("Do it.", "a\nb\nc", "1"), Example("Do it.", "a", "2")]

    class Silent(Cleaner):
        def _text(self, request):
            return Generation("a\nc", True)

    found = made_of(seeds, Silent())
    assert [why for _, why in found.rejected] == ["it says no lesson", "it has less than two steps"]
    assert fault_of(seeds[0], ("a", "b"), ("a", "b")) == "nothing was left out"


def acted(kitchen: Kitchen, shown: Example, rng: np.random.Generator) -> tuple[str, ...]:
    """A scripted agent: it knows the way, and adds as many steps of no use as it was shown; it stops after 7."""
    n_extra = len(steps_of(shown.output)) - len(Kitchen.of(shown.input).best)
    steps = list(kitchen.best)
    for _ in range(max(0, n_extra)):
        steps.insert(int(rng.integers(len(steps) + 1)), f"go to the {rng.choice(PLACES)}")
    return tuple(steps[:7])


@pytest.mark.parametrize("seed", range(5))
def test_an_agent_does_better_after_cleaned_examples(seed):
    raw = world(seed, 12)
    clean = made_of(raw).examples
    success, distance = {}, {}
    for name, examples in (("raw", raw), ("clean", clean)):
        rng = np.random.default_rng(100 + seed)
        memory = TrajectoryMemory([remembered(e) for e in examples])
        kitchens = [drawn_kitchen(rng) for _ in range(40)]
        shown = [memory.looked_up(*k.text.split(". ", 1), k=1)[0] for k in kitchens]
        tries = [acted(k, e, rng) for k, e in zip(kitchens, shown, strict=True)]
        success[name] = np.mean([k.fault(steps) is None for k, steps in zip(kitchens, tries, strict=True)])
        distance[name] = np.mean([edit_distance(t, k.best) for k, t in zip(kitchens, tries, strict=True)])
    assert success["clean"] == 1.0
    assert success["clean"] > success["raw"] + 0.2
    assert distance["clean"] == 0 < distance["raw"]


def test_the_same_task_is_found_first():
    rows = [remembered(e) for e in world(3, 30)]
    memory = TrajectoryMemory(rows)
    for row in rows:
        found = memory.looked_up(row.task, row.state, row.actions)
        assert found[0].text == row.example.text
        assert len(found) == 3
    assert memory.likeness(rows[0].task, rows[0].state, rows[0].actions)[0] == pytest.approx(1.0)


def test_weights_say_what_counts():
    a = remembered(Example("Wash the mug. It is cold.", "scrub", "a"))
    b = remembered(Example("Cut the bread. It is warm.", "saw", "b"))
    asked = ("Wash the mug", "It is warm.", "")
    assert TrajectoryMemory([a, b], (1, 0, 0)).looked_up(*asked, k=1) == [a.example]
    assert TrajectoryMemory([a, b], (0, 1, 0)).looked_up(*asked, k=1) == [b.example]


def test_cleaned_examples_join_a_recipe(tmp_path):
    task = Task("kitchen", "generation", tuple(world(5, 6)), metrics=("exact_match",))
    run = kshot.adapt(task, "scripted", recipes="all-past:generator=lessons", out=tmp_path / "run")
    assert run.best is not None


def test_cleaned_examples_are_written_though_they_ask_what_is_known(tmp_path):
    seeds, out = world(6, 5), tmp_path / "cleaned.jsonl"
    task = Task("kitchen", "generation", tuple(seeds), test=(Example(seeds[4].input, seeds[4].output, "q"),))
    done = kshot.generate(task, Cleaner(), method="lessons", out=out)
    assert [e.meta["from"] for e in done.examples] == [[e.id] for e in seeds[:4]]
    assert done.reasons == {"it asks what a row of test asks": 1}
    assert [e.output for e in kshot.Task.load(out).train] == ["\n".join(Kitchen.of(e.input).best) for e in seeds[:4]]
