"""A recipe: methods in slots, and what follows from them together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kshot.core.call import parse_call
from kshot.core.errors import UserError, did_you_mean
from kshot.core.models import Capability
from kshot.core.part import Part
from kshot.core.plugins import OwnFiles
from kshot.core.seeding import digest
from kshot.core.types import Task
from kshot.measures.averages import ARITHMETIC, MEANS
from kshot.methods.orders import AS_SELECTED, check_order
from kshot.recipes.names import SLOTS

CALIBRATIONS = ("auto", "batch", "temperature", "contextual", "none")
MOST_CONTEXTS = 256
_MOST = 2**31
_MOST_NESTED = 8


class RecipeRecord(TypedDict):
    """A recipe as `Recipe.record` writes it; its methods are looked at by their rooms (`Room.rebuild`)."""

    name: str
    k: int
    order: str
    calibration: str
    contexts: int
    mean: str
    parts: dict[str, Any]
    members: "list[RecipeRecord]"
    alternatives: "list[RecipeRecord]"


@dataclass(frozen=True)
class Recipe:
    """One way of adapting: a mapping from slots to methods, and how demonstrations are shown.

    Attributes:
        name: As written, "random:k=8": it names the settings that differ from the defaults.
        parts: Slot to method; the slots are those of `kshot.recipes.names.SLOTS`.
        k: The most demonstrations shown.
        order: How the chosen ones are put in order (`kshot.methods.orders`).
        calibration: "temperature" divides log-probabilities by a temperature fitted on the past; "batch" also takes out
            the label prior, as far as that saves bits on the past (`kshot.measures.calibration`); "contextual" divides
            probabilities by those of inputs without content (Zhao et al. 2021, https://arxiv.org/abs/2102.09690);
            "none" leaves them; "auto" is "batch" for tasks with a list of labels, else "temperature".
        contexts: How many sets of demonstrations are shown, each in a prompt of its own; the answers are averaged.
        mean: How (`kshot.measures.averages`).
        members: The recipes whose answers a combiner makes one of, or the one that a teacher passes on.
        alternatives: The configurations that are raced, each with one value for every setting; empty where the
            settings leave no choice.
    """

    name: str
    parts: Mapping[str, Part] = field(default_factory=dict, hash=False)
    k: int = 0
    order: str = AS_SELECTED
    calibration: str = "none"
    contexts: int = 1
    mean: str = ARITHMETIC
    members: "tuple[Recipe, ...]" = ()
    alternatives: "tuple[Recipe, ...]" = ()

    def part(self, slot: str) -> Any:
        """Return the method in a slot, or None; for the learners that put it to work."""
        assert slot in SLOTS, slot
        return self.parts.get(slot)

    def without(self, *slots: str) -> "Recipe":
        """Return the recipe with these slots empty."""
        return replace(self, parts={slot: part for slot, part in self.parts.items() if slot not in slots})

    def having(self, **parts: Part) -> "Recipe":
        """Return the recipe with these methods in their slots."""
        return replace(self, parts={**self.parts, **parts})

    def combining(self, combiner: Part, members: "Sequence[Recipe]") -> "Recipe":
        """Return the combination of these members, named after them."""
        call, name = parse_call(self.name), self.name
        if [m.name for m in members] != [m.name for m in self.members]:
            settings = ",".join(f"{key}={value}" for key, value in call.settings.items())
            name = f"{call.name}({', '.join(m.name for m in members)})" + (f":{settings}" if settings else "")
        return replace(self, name=name, parts={"combiner": combiner}, members=tuple(members))

    @property
    def combines_run(self) -> bool:
        """Whether it combines what is in its run and combines nothing: a combiner without members of its own."""
        return "combiner" in self.parts and not self.members

    @property
    def all_parts(self) -> Iterator[Part]:
        """Its methods, and those of its members and alternatives."""
        yield from self.parts.values()
        for other in (*self.members, *self.alternatives):
            yield from other.all_parts

    @property
    def other_models(self) -> tuple[str, ...]:
        """The names of the further language models that its methods ask, once each."""
        named = (names for part in self.all_parts for names in part.named_models.values())
        return tuple(dict.fromkeys(name for names in named for name in names))

    @property
    def all_recipes(self) -> "Iterator[Recipe]":
        """Itself, its members and its alternatives."""
        yield self
        for other in (*self.members, *self.alternatives):
            yield from other.all_recipes

    def most_contexts(self, n_pool: int) -> int:
        """Return how many different contexts its selector can choose from so many examples."""
        selector = self.part("selector")
        return selector.most_contexts(n_pool, self.k) if selector else 1

    @property
    def variants(self) -> "tuple[Recipe, ...]":
        """The configurations that are raced; the recipe itself where its settings leave no choice."""
        return self.alternatives or (self,)

    def record(self) -> dict[str, Any]:
        """Return all of it as JSON; a recipe is rebuilt from that."""
        return {
            "name": self.name,
            "k": self.k,
            "order": self.order,
            "calibration": self.calibration,
            "contexts": self.contexts,
            "mean": self.mean,
            "parts": {slot: part.record() for slot, part in self.parts.items()},
            "members": [member.record() for member in self.members],
            "alternatives": [one.record() for one in self.alternatives],
        }

    @classmethod
    def rebuilt(cls, record: RecipeRecord, folder: Path, own: OwnFiles, *, depth: int = 0) -> "Recipe":
        """Return the recipe of a record.

        Args:
            record: What `record` has returned; of a recipe without alternatives.
            folder: Where its methods have written what they have learnt (`save`); members have folders of their own.
            own: The users' own files that came with it (`kshot.core.plugins.Room.rebuild`).
            depth: How many recipes it is inside of.

        Raises:
            UserError: A method is not there now or is of another version, or the record is not one of a recipe.
        """
        _check_record(record, depth)
        parts = {slot: SLOTS[slot].rebuild(part, folder, own) for slot, part in record["parts"].items()}
        members = tuple(
            cls.rebuilt(member, folder / "members" / str(i), own, depth=depth + 1)
            for i, member in enumerate(record["members"])
        )
        plain: Any = {key: record[key] for key in ("name", "k", "order", "calibration", "contexts", "mean")}
        return cls(**plain, parts=parts, members=members)

    def save(self, folder: Path) -> None:
        """Write what its methods have learnt."""
        for part in self.parts.values():
            part.save(folder)

    @cached_property
    def fingerprint(self) -> str:
        """Identify methods with their versions and settings, and those that do not come with kshot by their code."""
        return digest(_identity(self.record()), *(code for part in self.all_parts for code in part.own_code))

    @property
    def asks_model(self) -> bool:
        """Whether a language model is asked: a combination of what is in its run takes what others have said."""
        if "combiner" in self.parts:
            return any(member.asks_model for member in self.members)
        return "classifier" not in self.parts or "generator" in self.parts

    @property
    def needs(self) -> frozenset[Capability]:
        """What the model that answers must be able to do, beside answering."""
        own = (part.needs for slot, part in self.parts.items() if slot != "selector")
        return frozenset().union(*own, *(member.needs for member in self.members))

    @property
    def selector_needs(self) -> frozenset[Capability]:
        """What the model that its selector asks must be able to do."""
        own = (part.needs for slot, part in self.parts.items() if slot == "selector")
        return frozenset().union(*own, *(member.selector_needs for member in self.members))

    @property
    def missing_package(self) -> str | None:
        """A package that has to be installed before the recipe can run."""
        return next((missing for part in self.all_parts if (missing := part.missing_package)), None)

    def obstacle(self, task: Task) -> str | None:
        """Return in words why one of its methods cannot be used on the task's examples; None: all can."""
        return next((obstacle for part in self.all_parts if (obstacle := part.obstacle(task))), None)

    @property
    def least(self) -> int:
        """The fewest examples with which all its methods do something."""
        return max((part.least for part in self.all_parts), default=0)

    @property
    def learns(self) -> bool:
        """Whether its answers depend on examples."""
        combiner = self.part("combiner")
        if combiner:
            return combiner.learns or any(member.learns for member in self.members)
        composer = self.part("composer")
        return bool(self.parts.keys() - {"composer"}) or bool(composer and composer.learns)

    @property
    def changes_model(self) -> bool:
        """Whether weights or activations are changed."""
        return any(part.changes_model for part in self.all_parts)

    @property
    def trains(self) -> bool:
        """Whether weights are trained."""
        return any(Capability.GRADIENTS in one.needs for one in self.variants)

    @property
    def can_be_asked_again(self) -> bool:
        """Whether it can be asked cheaply, as it will be handed over, about examples that it does not know.

        What is trained, steered, or made from all examples knows them all; what is chosen for each query would cost as
        much again as the stream.
        """
        selector = self.part("selector")
        is_cheap = not self.per_query or bool(selector and selector.sees_all)
        composer = self.part("composer")
        knows_all = bool({"generator", "loop", "combiner"} & self.parts.keys()) or bool(composer and composer.learns)
        return self.learns and not self.changes_model and is_cheap and not knows_all

    @property
    def is_looked_at_whole(self) -> bool:
        """Whether second looks tell all of a combination: each member has one, or learns nothing."""
        return bool(self.members) and all(m.can_be_asked_again or not m.learns for m in self.members)

    @property
    def keeps_learning(self) -> bool:
        """Whether each example changes it, not only those at which the past has doubled."""
        own = self.trains or self.per_query or "classifier" in self.parts
        return own or any(member.keeps_learning for member in self.members)

    @property
    def per_query(self) -> bool:
        """Whether demonstrations are chosen for each query."""
        selector = self.part("selector")
        return bool(selector and selector.per_query)

    @property
    def considers(self) -> bool:
        """Whether something is found out about each question before it is asked."""
        composer = self.part("composer")
        return bool(composer and composer.considers)

    @property
    def rewrites(self) -> bool:
        """Whether questions are said in a form of their own, so that no prompt has a place for any."""
        composer = self.part("composer")
        return bool(composer and composer.rewrites)

    @property
    def shows_one_set(self) -> bool:
        """Whether one set of demonstrations is chosen for all queries."""
        return "selector" in self.parts and not self.per_query

    @property
    def averages_contexts(self) -> bool:
        """Whether it answers by the average over several sets of demonstrations."""
        return any(one.contexts > 1 for one in self.variants)

    @property
    def combines(self) -> bool:
        """Whether it makes one answer of those of other recipes."""
        return "combiner" in self.parts and bool(self.members)

    @property
    def chooses_alone(self) -> bool:
        """Whether it is a selector and nothing else."""
        return self.parts.keys() == {"selector"} and not self.alternatives

    @property
    def steers_alone(self) -> bool:
        """Whether it is a steerer and nothing else."""
        return self.parts.keys() == {"steerer"} and not self.alternatives

    @property
    def draws(self) -> bool:
        """Whether chance decides what is shown."""
        selector = self.part("selector")
        return bool(selector and selector.draws)

    def suits(self, task: Task) -> bool:
        """Return whether it can answer the task's kind."""
        if (task.is_open and self.calibration == "contextual") or (not task.labels and self.calibration == "batch"):
            return False
        if task.is_multi_label and not all(part.multi_label for part in self.all_parts):
            return False
        if self.calibration == "contextual" and (task.is_multi_label or self.considers):  # nothing is found out of none
            return False
        return all(part.suits(task) for part in self.all_parts) and all(member.suits(task) for member in self.members)

    def calibrated_on(self, task: Task) -> str:
        """Return how its probabilities are calibrated on a task: "auto" is settled, and texts are left as they are.

        Of sets of labels it is "labels", or "thresholds" alone where probabilities stay as they are.
        """
        if task.is_open:
            return "none"
        if task.is_multi_label:
            return "thresholds" if self.calibration == "none" else "labels"
        return ("batch" if task.labels else "temperature") if self.calibration == "auto" else self.calibration

    @property
    def is_taught_by_another(self) -> bool:
        """Whether a teacher puts the recipe that it passes on to another model than the one that is trained."""
        teacher = self.part("teacher")
        return bool(self.members and teacher and teacher.hears_selecting)

    def known(self, task: Task) -> frozenset[str]:
        """Return the ids of a task's training examples that its selectors have learnt from before."""
        own = (one.part("selector") for one in (self, *self.alternatives))
        found = (selector.known(task) for selector in own if selector)
        return frozenset().union(*found, *(member.known(task) for member in self.members))

    @property
    def uses_unlabelled(self) -> bool:
        """Whether one of its methods learns from unlabelled inputs."""
        return any(part.uses_unlabelled for part in self.all_parts)

    def asks_unlabelled(self, task: Task) -> bool:
        """Whether it may be asked about a task's unlabelled inputs for its label prior.

        That of one prompt for all queries can be measured on other inputs than those of the stream. What is said to
        each query is chosen for it would cost as much as the stream.
        """
        return self.shows_one_set and self.calibrated_on(task) in ("batch", "labels")

    def aligned(self) -> "Recipe":
        """Return the recipe aligned with a source task where it trains and does not say how; its members too."""
        parts: dict[str, Any] = dict(self.parts)
        if "tuner" in parts:
            parts["tuner"] = parts["tuner"].aligned()
        members, alternatives = (tuple(r.aligned() for r in some) for some in (self.members, self.alternatives))
        return replace(self, parts=parts, members=members, alternatives=alternatives)

    def rehearsing(self) -> "Recipe":
        """Return the recipe with selectors that ask all they would ask in order to learn, but train nothing.

        Its classifiers ask no service, and its teachers' lessons are as long as they may become.
        """
        parts = {
            slot: self.part(slot).rehearsing() for slot in ("selector", "classifier", "teacher") if slot in self.parts
        }
        recipe = self.having(**parts) if parts else self
        members, alternatives = (tuple(r.rehearsing() for r in some) for some in (self.members, self.alternatives))
        return replace(recipe, members=members, alternatives=alternatives)

    @property
    def trains_selector(self) -> bool:
        """Whether its selector trains a model of its own along the stream."""
        own = (one.part("selector") for one in (self, *self.members, *self.alternatives))
        return any(selector is not None and not selector.has_learnt for selector in own)

    @property
    def asks_service(self) -> bool:
        """Whether a classifier of it asks a service, instead of learning."""
        own = (one.part("classifier") for one in self.all_recipes)
        return any(classifier is not None and not classifier.learns for classifier in own)

    @property
    def aligns(self) -> bool:
        """Whether it needs a source task."""
        return any(getattr(part, "align", "none") != "none" for part in self.all_parts)


def _check_record(record: RecipeRecord, depth: int) -> None:
    """Refuse a record that no recipe has."""
    name, slots = record["name"], record["parts"].keys()
    check_order(record["order"], name)
    if odd := sorted(slots - SLOTS.keys()):
        raise UserError(f"{name}: there is no slot '{odd[0]}'.{did_you_mean(odd[0], SLOTS)}")
    if record["calibration"] not in CALIBRATIONS:
        raise UserError(
            f"{name}: calibration must be one of {', '.join(CALIBRATIONS)}; got '{record['calibration']}'. Adapt again."
        )
    rules = {
        "k must be 1 or more with a selector, and 0 without one": (record["k"] > 0) == ("selector" in slots)
        or bool(record["members"]),
        "k must be a small whole number, 0 or more": 0 <= record["k"] < _MOST,
        f"contexts must be in 1..{MOST_CONTEXTS}, and 1 where nothing is shown": 1
        <= record["contexts"]
        <= MOST_CONTEXTS
        and (record["contexts"] == 1 or "selector" in slots),
        f"mean must be one of {', '.join(MEANS)}": record["mean"] in MEANS,
        "a combiner must have members, and members a combiner": ("combiner" in slots) == bool(record["members"]),
        "a combiner or a classifier must stand alone": not {"combiner", "classifier"} & slots
        or slots <= {"combiner"}
        or slots <= {"classifier", "generator"},
        "it must be one recipe, without alternatives": not record["alternatives"],
        f"recipes must be inside each other at most {_MOST_NESTED} times": depth <= _MOST_NESTED,
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise UserError(f"The record of the recipe '{name}' must be one that kshot writes: {broken[0]}. Adapt again.")


def _identity(value: Any) -> Any:
    """Return a record without what does not change its results: a name beside what it stands for, places of files."""
    if isinstance(value, Mapping):
        is_recipe = "parts" in value
        return {k: _identity(v) for k, v in value.items() if k != "file" and not (is_recipe and k == "name")}
    return [_identity(item) for item in value] if isinstance(value, list) else value
