"""Recipes as text: nested methods, raced settings, combinations, and what is wrong with them."""

import pytest

import kshot
from kshot.core.call import parse_call, split_list
from kshot.core.errors import UserError
from kshot.methods.selectors.bm25 import Bm25
from kshot.methods.steerers.icv import Icv
from kshot.methods.steerers.random_direction import RandomDirection
from kshot.recipes.grammar import parse_recipe, parse_recipes


def test_a_method_stands_in_a_slot_with_settings_of_its_own():
    recipe = parse_recipe("fine-tune:selector=bm25(k1=1.2,b=0.5),k=4,lr=1e-4,steps=1", shots=8)
    assert recipe.part("selector") == Bm25(k1=1.2, b=0.5)
    assert recipe.k == 4
    assert parse_recipe("random-direction:of=icv(strength=0.1)", shots=8).part("steerer") == RandomDirection(
        of=Icv(strength=0.1)
    )


def test_a_list_is_split_outside_of_brackets():
    text = "average(bm25:k=2,zero-shot),random:k=8,balanced=true,fine-tune:selector=bm25(k1=1,b=0),lr=1e-4"
    assert split_list(text) == [
        "average(bm25:k=2,zero-shot)",
        "random:k=8,balanced=true",
        "fine-tune:selector=bm25(k1=1,b=0),lr=1e-4",
    ]


def test_a_call_reads_back_as_itself():
    for text in (
        "bm25",
        "bm25(k1=1.2,b=0.5)",
        "random-direction(of=icv(strength=0.1))",
        "average(a,b,mean=x)",
    ):
        assert str(parse_call(text)) == text
    assert parse_call("bm25:k1=1,b=0") == parse_call("bm25(k1=1,b=0)")
    assert parse_call("./a/mine.py:Mine:size=3").settings == {"size": "3"}
    assert parse_call("./a/mine.py:Mine(size=3)").name == "./a/mine.py:Mine"


def test_settings_after_a_colon_belong_to_their_member_whatever_stands_in_its_brackets():
    member = "distil(random:k=4):lr=1e-4,steps=1,calibration=none"
    call = parse_call(f"mix({member}, zero-shot):calibration=batch")
    assert (call.members, call.settings) == ((member, "zero-shot"), {"calibration": "batch"})
    call = parse_call("mix(distil(random:k=4), bm25(k1=1), calibration=none)")
    assert (call.members, call.settings) == (("distil(random:k=4)", "bm25(k1=1)"), {"calibration": "none"})
    own = parse_call("mix(./mine.py:Mine:size=3,n=2, ./mine.py:Mine, calibration=none)")
    assert (own.members, own.settings) == (("./mine.py:Mine:size=3,n=2", "./mine.py:Mine"), {"calibration": "none"})


def test_settings_are_raced_wherever_they_stand():
    recipe = parse_recipe("random:composer=wording(labels=true/false),k=2/4", shots=8)
    assert [one.name for one in recipe.alternatives] == [
        f"random:composer=wording(labels={labels}),k={k}" for labels in ("true", "false") for k in (2, 4)
    ]
    assert {one.k for one in recipe.alternatives} == {2, 4}


def test_text_with_a_slash_is_no_race():
    assert parse_recipe("dense:encoder=some/encoder", shots=2).part("selector").encoder == "some/encoder"


def test_contexts_are_a_setting_of_every_recipe_that_shows_demonstrations():
    for name in ("random", "bm25", "icv:k=2", "icl+ft:lr=1e-3,steps=1", "fine-tune:lr=1e-3,steps=1,k=2"):
        recipe = parse_recipe(f"{name}{',' if ':' in name else ':'}contexts=3,mean=geometric", shots=4)
        assert (recipe.contexts, recipe.mean) == (3, "geometric")
    raced = parse_recipe("random:contexts=1/4,mean=arithmetic/geometric", shots=4).alternatives
    assert [(one.contexts, one.mean) for one in raced] == [(n, m) for n in (1, 4) for m in ("arithmetic", "geometric")]
    assert len({one.fingerprint for one in raced}) == 4


def test_a_fingerprint_is_what_a_recipe_is_not_how_it_is_written():
    one, same, other = (parse_recipe(t, shots=4) for t in ("bm25", "bm25:k=4,k1=1.5", "bm25:k1=1.4"))
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bm25:k1=(1", "'bm25:k1=(1' must have balanced brackets; the '(' at character 9 is never closed."),
        ("bm25:k1=1)", "must have balanced brackets; the ')' at character 10 closes none."),
        ("fine-tune:selector=bm25(k1=1]", "must have balanced brackets; the ']' at character 29 closes none."),
        ("bm25(k1=1)x", "must end with its brackets, or go on with a colon; got 'bm25(k1=1)x'."),
        ("bm25:tuner=fine-tune", "'bm25' has no setting 'tuner'."),
        ("bm25:selector=dense", "'bm25' has no setting 'selector'."),
        ("majority:k=3", "'majority' has no setting 'k'."),
        ("random:composer=wording(size=3)", "'wording' has no setting 'size'."),
        ("zero-shot:loop=notes(rounds=0)", "notes:rounds must be 1 or more; got 0."),
        (
            "random:loop=no-such-loop",
            "there is no loop 'no-such-loop'. Known: hints, mental-models, notes, refine, rewrite,",
        ),
        ("random:k=4,k=5", "each setting must be there once"),
        ("notes", "'notes' is a loop, which does nothing alone; put it into a recipe, as random:loop=notes."),
        ("bm25(zero-shot)", "'bm25' takes settings alone, such as bm25:key=value; got 'zero-shot'."),
        ("random:composer=wording(bm25)", "'wording' takes settings alone, such as name(key=value); got 'bm25'."),
        ("average(bm25)", "'average' combines recipes and must be given two or more"),
        ("", "--recipes must name at least one recipe, or all; got ''."),
        ("all,all", "--recipes must name each recipe once; got 'all' 2 times."),
        ("random:k=2/", "random:k=2/: k must have a value on each side of a slash; got '2/'."),
        ("demonstrations", "put it into a recipe, as fine-tune:teacher=demonstrations."),
        ("fine-tune:selector=bm25,k=0", "k must be 1 or more, as a selector is named; got 0. Leave the selector out."),
        ("average(bm25,bm25)", "'average' must be given different recipes; got 'bm25' 2 times."),
        ("bm25:k1=", "bm25:k1 must be a number; got ''."),
        ("zero-shot:contexts=2", "contexts are sets of demonstrations, and this recipe shows none."),
        ("random:contexts=0", "contexts must be a whole number, 1 or more; got '0'."),
        ("average(fine-tune:lr=1e-4/1e-3,bm25)", "must have one value for each setting, as nothing races here"),
        ("fine-tune:selector=./mine.py:Mine,k=4", "must name a Python file; ./mine.py does not exist."),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(UserError) as error:
        parse_recipes(text, shots=8)
    assert said in str(error.value)


def test_alternatives_where_nothing_races_are_refused(words_task):
    said = "must have one value for each setting, as nothing races here; got "
    with pytest.raises(UserError, match=f"{said}balanced=true/false."):
        kshot.select(str(words_task), "random:balanced=true/false", 4)
    with pytest.raises(UserError, match=f"{said}strength=0.1/0.2."):
        kshot.steer(str(words_task), "icv:strength=0.1/0.2", model="tiny")
