"""What a method of each room must be. One contract a room; a method inherits from it and is one file.

Every method is a `Part`: a frozen dataclass whose public fields are its settings. `fit` returns a new object and leaves
the one it is called on as it is; all randomness comes from `rng`. `model` is the language model on the task
(`kshot.taskmodel.taskmodel.TaskModel`): it scores, writes, has gradients and activations, as far as the model can.

Long: a contract for each room, which are read side by side.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial, perm
from typing import Any, ClassVar, Self

import numpy as np

from kshot.core.fields import setting, setting_names, state
from kshot.core.ledger import Ledger
from kshot.core.lessons import Averaging, Lesson, Training
from kshot.core.models import Capability, Store
from kshot.core.objective_settings import Answers, ObjectiveSettings
from kshot.core.part import Part
from kshot.core.script import Script, answered
from kshot.core.steering import Steering
from kshot.core.types import Example, FloatArray, Prediction, Question, Task
from kshot.methods.hands import dealt, different, reordered
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.remembering import Remembering
from kshot.taskmodel.taskmodel import TaskModel

COMPOSER, COMBINER = "composer.json", "combiner.json"
OVER = ("auto", "all", "seen")


@dataclass(frozen=True)
class Selector(Part):
    """Chooses and orders demonstrations, for a whole task or for each query.

    Its `needs` are those of the model that selectors ask (`--selector-model`).

    Attributes:
        per_query: The choice is for each query, and the selector is fitted on all the past at every step of a stream;
            otherwise it is for the task, and is made again whenever the past has doubled.
        draws: The choice depends on chance: with another seed it is another one.
        sees_all: It shows every example that it knows, so there is nothing to ask it about.
    """

    traits: ClassVar[tuple[str, ...]] = ("per_query",)
    per_query: ClassVar[bool]
    draws: ClassVar[bool] = False
    sees_all: ClassVar[bool] = False

    @abstractmethod
    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a selector that knows `pool`.

        Args:
            pool: The examples to choose from.
            model: The language model that selectors ask, on this task.
            rng: For every random choice.
        """

    @abstractmethod
    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return at most `k` indices into the pool; the last one stands next to the question.

        `question` is None where the choice is for the whole task.
        """

    def select_all(
        self, questions: Sequence[Question], k: int, *, rngs: Sequence[np.random.Generator]
    ) -> list[list[int]]:
        """Return `select` for each of many questions; a selector that is faster with all at once says so here."""
        return [self.select(question, k, rng=rng) for question, rng in zip(questions, rngs, strict=True)]

    def contexts(
        self, questions: Sequence[Question | None], k: int, n: int, *, rngs: Sequence[Sequence[np.random.Generator]]
    ) -> list[list[list[int]]]:
        """Return for each question `n` choices, each as `select` returns one; the first of one is that of `select`.

        A selector that draws draws so many times. One that chooses for each query has other orders of its choice, as
        examples that are less like the query harm, and one that shows all has orders of what was known when the past
        had last doubled, so that prompts along a stream continue each other. Any other makes a longer list, which is
        dealt in turn (`kshot.methods.hands`).

        Args:
            questions: None is the whole task.
            k: The most examples in each choice.
            n: How many choices.
            rngs: For each question a generator for each choice.
        """
        if n == 1:
            return [[hand] for hand in self._each(questions, k, [some[0] for some in rngs])]
        if self.draws:
            by_draw = [self._each(questions, k, [some[i] for some in rngs]) for i in range(n)]
            hands = zip(*by_draw, strict=True)
        elif self.sees_all:
            found = self._each(questions, k, [some[0] for some in rngs])
            hands = [[one, *(reordered(one, rng) for rng in some[1:])] for one, some in zip(found, rngs, strict=True)]
        elif self.per_query:
            hands = [[one] * n for one in self._each(questions, k, [some[0] for some in rngs])]
        else:
            found = self._each(questions, k * n, [some[0] for some in rngs])
            hands = [dealt(one, k, n) for one in found]
        return [different(some, own) for some, own in zip(hands, rngs, strict=True)]

    def _each(
        self, questions: Sequence[Question | None], k: int, rngs: Sequence[np.random.Generator]
    ) -> list[list[int]]:
        known = [question for question in questions if question is not None]
        if len(known) == len(questions):
            return self.select_all(known, k, rngs=rngs)
        return [self.select(question, k, rng=rng) for question, rng in zip(questions, rngs, strict=True)]

    def most_contexts(self, n_pool: int, k: int) -> int:
        """Return how many different choices a pool allows; no more are counted than differ in 8 places."""
        shown = min(k, n_pool, 8)
        return factorial(shown) if self.per_query and not self.draws else perm(n_pool, shown)

    @property
    def has_learnt(self) -> bool:
        """Whether `learnt` has nothing to train."""
        return True

    def learnt(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a selector that has trained a model of its own on `pool`: again whenever the past has doubled."""
        return self

    def rehearsing(self) -> Self:
        """Return a selector whose `learnt` asks the model all that it would ask, and trains nothing: for a dry run."""
        return self

    def known(self, task: Task) -> frozenset[str]:
        """Return the ids of a task's training examples that it has learnt from before this run."""
        return frozenset()

    def wording(self, composer: "Composer", k: int, *, rng: np.random.Generator) -> "Composer":
        """Return what says its choice for the whole task, for a selector that chooses that too.

        Args:
            composer: The recipe's, one of whose `alternatives` it may be; it was that of the model in `fit`, too.
            k: As in `select`.
            rng: As in `select`.
        """
        return composer


@dataclass(frozen=True)
class Composer(Remembering):
    """Says what is said: instruction, notes, demonstrations and the question, as a script.

    Attributes:
        learns: What it says depends on the examples that it was fitted on, beside those that are shown.
        considers: It finds out something about each question, with the model that answers, before that is asked
            (`consider`), such as a reason, or which of its notes are about it.
        rewrites: It says a question in a form of its own, so that no prompt has a place for any question.
        asks_each: Where outputs are sets of labels the model says yes or no to each label; otherwise it names those
            that are right.
    """

    remembered_in: ClassVar[str] = COMPOSER
    learns: ClassVar[bool] = False
    considers: ClassVar[bool] = False
    rewrites: ClassVar[bool] = False
    asks_each: ClassVar[bool] = False

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a composer that knows the past; again whenever it has doubled."""
        return self

    @abstractmethod
    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with all demonstrations in the order given, the last one next to the question.

        Where it considers questions, and knows nothing of this one, it says what there is without that.
        """

    def said(self, task: Task, answer: str, question: Question) -> str:
        """Return how one of the answers to a question is said in its scripts; different answers in different words."""
        return answer

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return which answer to a question a text is that the model has written: the other way round than `said`.

        A text that says no answer stays as it is.
        """
        return text

    def stated(self, text: str) -> float | None:
        """Return how sure a text that the model has written says that it is, 0 to 1; None: it does not say."""
        return None

    def unsaid(self, task: Task, answer: str, question: Question) -> float:
        """Return the nats of an answer beyond its words, where these stand for several answers, such as 3 for 2.9."""
        return 0.0

    @property
    def reason_weight(self) -> float:
        """How much the reasons of a text that is learnt count beside its answers; 0: they are read, not learnt."""
        return 0.0

    def taught(self, task: Task, shown: Sequence[Example], target: Example) -> Script:
        """Return what is learnt: what is said of the target's question, with its answer.

        A composer that says reasons says the target's, which is its explanation, before the answer or after it.
        """
        said = self.said(task, target.output, target.question)
        return answered(self.compose(task, shown, target.question), said, target.id)

    @property
    def alternatives(self) -> "tuple[Composer, ...]":
        """What a selector that chooses a wording too can choose from; itself alone where there is no choice."""
        return (self,)

    @property
    def shorter(self) -> "Composer | None":
        """What says a question that does not fit the model with all that this says beside it; None: it says no less."""
        return None

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Return what it finds out about each question, as JSON: it is stored and shown with the prediction.

        What is found depends on the question, on what is shown and on what `fit` has learnt alone, not on what else
        is asked beside it; all are given at once so that the model is asked together (`TaskModel.write_each`).

        Args:
            asked: What is shown to a question, and the question.
            model: The model that answers, trained and steered as it is, with this composer.
            seed: Of the run; a draw depends on it and on the question's id.
        """
        return [{} for _ in asked]

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return a composer of one question about which that was found; lists may stand for tuples in it."""
        return self

    def remark(self, found: Sequence[Mapping[str, Any]]) -> str:
        """Return what a user should know of all that was found out in a run; empty: nothing."""
        return ""

    @property
    def notes(self) -> tuple[str, ...] | None:
        """The notes that it keeps, which a user may add to and remove; None for composers that keep none."""
        return None

    def noting(self, notes: Sequence[str]) -> Self:
        """Return a composer that keeps these notes in place of its own, if it keeps some."""
        return self


@dataclass(frozen=True)
class Made:
    """What a generator has made.

    Attributes:
        examples: Each with `meta["made"]`, the generator's name; they are shown and learnt, never scored.
        rejected: (input, reason) of what was made and not taken; the same fault has the same reason.
    """

    examples: tuple[Example, ...]
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason was one to reject something, the most frequent first."""
        return dict(Counter(reason for _, reason in self.rejected).most_common())


@dataclass(frozen=True)
class Generator(Part):
    """Makes more examples of those that are known; again whenever the past has doubled.

    Attributes:
        n: How many it is to make, at most.
        repeats: What it makes asks what known examples ask, and answers otherwise.
    """

    n: int = setting(16, least=1, most=100_000)

    version = 2
    repeats: ClassVar[bool] = False

    @abstractmethod
    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return more examples, made from the past alone: `kshot.methods.generators.intake` has the usual checks."""


@dataclass(frozen=True)
class Artefact:
    """What a loop leaves: how it joins a recipe.

    Attributes:
        notes: Shown after the instruction.
        demonstrations: Shown or learnt beside the examples.
    """

    notes: tuple[str, ...] = ()
    demonstrations: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Loop(Part):
    """Works on the task for some rounds, such as writing notes and trying them; again whenever the past has doubled."""

    @abstractmethod
    def run(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Artefact:
        """Return what came out, from the past alone."""


@dataclass(frozen=True)
class Tuner(Training, Part):
    """Says what is learnt when an example arrives; how weights are trained are settings that all tuners have.

    Attributes:
        over: What an answer is learnt to be chosen from: "all" texts, which makes labels without an example less
            probable with every step, or the labels "seen" so far, by the tokens in which they differ, for tasks with a
            list of labels; "auto" is "seen" as long as some label has no example, and "all" from there on, in other
            tasks and with a teacher (docs/results/new-labels.md).
        objective: What is made small over the lessons, unless a teacher says otherwise.
        usual_teacher: The teacher of a recipe that names none; empty: it has none.
        usual_recipe: What that teacher passes on where no recipe is named in brackets.
        one_set: Where a recipe names no selector, one set of demonstrations is drawn for the task, not one a query.
        cuts_contexts: Its model is told a part of each context (`told`), but where it is asked "whole".
        ties: The question of a lesson, its answer and how it is asked belong together, so that no teacher can put
            another one in the place of one of them.
        grids: What is raced where a recipe does not say, by `weights`: setting -> alternatives.
    """

    over: str = setting("auto", choices=OVER)

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    changes_model: ClassVar[bool] = True
    objective: ClassVar[ObjectiveSettings] = Answers()
    usual_teacher: ClassVar[str] = ""
    usual_recipe: ClassVar[str] = ""
    one_set: ClassVar[bool] = False
    cuts_contexts: ClassVar[bool] = False
    ties: ClassVar[bool] = False
    grids: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "lora": {"lr": "1e-4/3e-4/1e-3", "steps": "1/3"},
        "full": {"lr": "1e-5/3e-5/1e-4", "steps": "1/3"},
    }

    def suits(self, task: Task) -> bool:
        """Return whether the task has the labels that answers are learnt over."""
        return self.over != "seen" or task.kind == "classification"

    def learns_over(self, task: Task, seen: Sequence[Example]) -> tuple[str, ...]:
        """Return the answers that a lesson's right one is to be chosen from; none: all texts."""
        labels = tuple(dict.fromkeys(e.output for e in seen))
        if task.is_multi_label:
            return ()
        is_over_seen = self.over == "seen" or (self.over == "auto" and len(labels) < len(task.labels))
        return labels if is_over_seen else ()

    @property
    def k(self) -> int:
        """The most demonstrations in a lesson; a field of tuners that show some."""
        return 0

    @property
    def steps(self) -> int:
        """Steps of training for each new example, or of a pass."""
        return 1

    @property
    def passes(self) -> int:
        """How often the weights begin anew whenever the past has doubled, each time for `steps` steps.

        The last of these passes counts. 0: they never begin anew, and each example is learnt as it comes.
        """
        return 0

    @property
    def fixed(self) -> bool:
        """Whether demonstrations are the first `k` of the stream, in lessons as in prompts."""
        return False

    @property
    def makes(self) -> bool:
        """Whether some lessons are of made-up examples (`Lesson.is_apart`), about which no teacher can be asked."""
        return False

    @property
    def left_behind(self) -> str:
        """What other software that is handed the weights does not do with its prompts, a sentence; empty: nothing."""
        return ""

    @property
    def training(self) -> Training:
        """How weights are trained, without what is the tuner's own."""
        return Training(**{name: getattr(self, name) for name in setting_names(Training)})

    @abstractmethod
    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return what one step learns.

        Args:
            seen: All examples so far, the new one last.
            shown: Returns the demonstrations after which the new one was predicted.
            step: Which of the steps for the new example it is, from 0.
            rng: For every random choice; every step has its own.
        """

    def knowing(self, seen: Sequence[Example], *, model: TaskModel) -> Self:
        """Return a tuner that knows what the model before training says of examples, before they are learnt.

        Args:
            seen: All examples so far; of most it was told before.
            model: The model before training, on the task.

        Raises:
            UserError: A setting is none for this model.
            ModelError: The model cannot be asked that.
        """
        return self

    def choosing(self, seen: Sequence[Example], *, model: TaskModel, number: int, rng: np.random.Generator) -> Self:
        """Return a tuner that has chosen what its next pass learns.

        Args:
            seen: All examples so far.
            model: The model in training, as the pass before has left it; at first as it is before training.
            number: Which of the passes it is, from 0: then what was chosen before the past had doubled does not count.
            rng: For every random choice; the same for the same number, however many examples there are.
        """
        return self

    def aligned(self) -> Self:
        """Return the tuner aligned with a source task, where it does not say how and can be."""
        return replace(self, align="gate") if self.align == "none" else self

    def told(self, script: Script, *, asked: str, model: TaskModel) -> Script:
        """Return what the model that it trains is told, in lessons and when it answers, in place of what is said.

        Nobody else is told it: neither the model before training nor the one that selectors ask.

        Args:
            script: What the composer says.
            asked: How the question is asked: that of the lesson (`Lesson.asked`), else empty.
            model: The model on its task, for what its tokenizer and layout are.
        """
        return script


@dataclass(frozen=True)
class Teacher(Part):
    """Changes what a tuner learns: whom the model should answer like, or which answers it should avoid.

    What it has to know it looks up in `Knowledge`. What must be found out before an example is learnt is said here.

    Attributes:
        objective: What is made small over the lessons.
        only_chooses: It says which lessons there are or how much they count; what is made small over them stays the
            tuner's objective.
        sees_mistakes: It is told which of the examples the model got wrong before it learnt them, about which it can
            find out more then (`compare`).
        sees_average: It is told what the running average of the weights (`averaging`) said of each example before that
            was learnt.
        passes_on: It passes on what a recipe says, which is named in brackets: distil(random:k=16).
        does_without: One that passes on does something where no recipe is named, too.
        reads_all: It reads contexts whole, where the tuner's model is told a part (`Tuner.cuts_contexts`).
        replaces: It puts other examples or answers in the place of those of lessons.
        usual_composer: What says what is said where a recipe does not name it; empty: as usual.
    """

    traits: ClassVar[tuple[str, ...]] = ("objective",)
    only_chooses: ClassVar[bool] = False
    sees_mistakes: ClassVar[bool] = False
    sees_average: ClassVar[bool] = False
    passes_on: ClassVar[bool] = False
    does_without: ClassVar[bool] = False
    reads_all: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    usual_composer: ClassVar[str] = ""

    @property
    def hears_selecting(self) -> bool:
        """Whether the recipe that it passes on is put to the model that selectors ask."""
        return False

    @property
    @abstractmethod
    def objective(self) -> ObjectiveSettings:
        """What is made small over the lessons."""

    @abstractmethod
    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return a tuner's lessons with what the teacher adds.

        Args:
            lessons: The tuner's.
            seen: All examples so far, the new one last.
            step: Which of the steps for the new example it is, from 0.
            rng: For every random choice; every step has its own.
            knowledge: Whatever else it may know.
        """

    @property
    def averaging(self) -> Averaging | None:
        """How the running average of the trained weights is kept that it or its objective asks; None: none is."""
        return None

    def check(self, model: TaskModel, selecting: TaskModel) -> None:  # noqa: B027 - most can do with any
        """Raise a UserError unless it can do with the model before training and the one that selectors ask."""

    def ask(self, seen: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Any:
        """Return what the model before training says about the past, for `Knowledge.asked`.

        Args:
            seen: All examples up to the last refit point.
            model: The model before training, on the task.
            rng: For every random choice.
        """
        return None

    def compare(
        self,
        seen: Sequence[Example],
        *,
        student: TaskModel,
        before: TaskModel,
        selecting: TaskModel,
        shown: Callable[[], Sequence[Example]],
        rng: np.random.Generator,
    ) -> Any:
        """Return what it finds out about a new example that the model got wrong, before that is learnt; None: nothing.

        Args:
            seen: All examples so far, the new one last.
            student: The model as it is, on the task.
            before: The model before training.
            selecting: The model that selectors ask.
            shown: Returns the demonstrations after which the student was asked.
            rng: For every random choice.

        Returns:
            JSON, which is kept with the state of training.
        """
        return None

    def rehearsing(self) -> Self:
        """Return a teacher whose lessons are as long as they may become: for a dry run."""
        return self


@dataclass(frozen=True)
class Steerer(Part):
    """Finds the steering of a task: changes of activations in place of examples in the prompt."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.ACTIVATIONS})
    changes_model: ClassVar[bool] = True
    least: ClassVar[int] = 1

    @abstractmethod
    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering.

        Args:
            examples: What is known of the task, at least `least`.
            model: The language model on this task.
            rng: For every random choice.

        Raises:
            UserError: Too few examples, or settings that the model does not allow.
            ModelError: The architecture's activations cannot be changed.
        """


@dataclass(frozen=True)
class Classifier(Part):
    """Classifies without a language model, in the same race.

    Attributes:
        learns: What it says depends on the examples that it was fitted on; otherwise many questions are asked at once,
            whatever their pasts are.
        writes: It answers open tasks with texts (`written`, `log_prob`) instead of choosing a candidate.
    """

    learns: ClassVar[bool] = True
    writes: ClassVar[bool] = False

    def asking(self, store: Store | None, ledger: Ledger) -> Self:
        """Return one that keeps what it asks of a service in `store`, and counts it in `ledger`; most ask none."""
        return self

    def rehearsing(self) -> Self:
        """Return one that asks no service: for a dry run."""
        return self

    @property
    def remark(self) -> str | None:
        """What a user should know of the service that was asked."""
        return None

    @abstractmethod
    def fit(self, task: Task, examples: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Return a classifier that has learnt `examples`, which may be none or have one label only."""

    @abstractmethod
    def probabilities(self, questions: Sequence[Question]) -> list[FloatArray]:
        """Return for each question one probability per candidate (`Task.candidates`), summing to 1."""

    def written(self, question: Question) -> str:
        """Return the answer to a question of an open task."""
        raise NotImplementedError

    def log_prob(self, question: Question, text: str) -> float:
        """Return the log-probability in nats of an answer to a question of an open task."""
        raise NotImplementedError


@dataclass(frozen=True)
class Answered:
    """An example whose answer is known, and what the members of a combination have said of it before.

    Attributes:
        example: The example.
        said: The members' predictions, in their order, each calibrated by the member's own past.
        bits: What the right answer costs by each of them.
    """

    example: Example
    said: tuple[Prediction, ...]
    bits: tuple[float, ...]

    @cached_property
    def logs(self) -> FloatArray:
        """Log-probabilities of the candidates, in nats, by each member: `[n_candidates, n_members]`."""
        return np.log([p.probs for p in self.said]).T


@dataclass(frozen=True)
class Combiner(Remembering):
    """Makes one answer of those of several recipes.

    Attributes:
        learns: How it combines depends on how its members have done (`fit`), or on what they know (`knowing`). Then
            each member's probabilities are calibrated by its own past before they are combined.
        lazy: A member is asked only where what those before it have said does not suffice (`asks`).
        takes_all: Without members it combines the recipes of its run that combine nothing themselves.
        weighs: It is fitted on how all members have done, of each example: in second looks, where they have some.
        by_first: What a lazy one learns is how the first member has done: along a stream, too, the others are asked
            where they are needed alone.
        most_members: How many it can combine.
        usual: Its members where none are named, as text; empty where they must be.
        reads_text: In open tasks it reads the first members' texts, so these are written for each question.
        reads_sureness: There it reads how sure the model is of them, too (`Prediction.sureness`).
        examines: It asks the model about what its members say of each question (`examining`).
    """

    remembered_in: ClassVar[str] = COMBINER
    learns: ClassVar[bool] = False
    lazy: ClassVar[bool] = False
    takes_all: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    by_first: ClassVar[bool] = False
    most_members: ClassVar[int] = 100
    usual: ClassVar[tuple[str, ...]] = ()
    reads_text: ClassVar[bool] = False
    reads_sureness: ClassVar[bool] = False
    examines: ClassVar[bool] = False
    _calibrations: tuple[Mapping[str, Any], ...] = state(())

    def check(self, members: Sequence[Any]) -> None:  # noqa: B027 - most take any recipes
        """Raise a UserError unless its members are recipes that it can combine; before a model is loaded."""

    def fit(self, task: Task, past: Sequence[Answered]) -> Self:
        """Return a combiner that knows how its members have done on the past of a stream, in its order."""
        return self

    def knowing(self, task: Task, known: Sequence[Example]) -> Self:
        """Return a combiner whose members have learnt `known`, in this order; not all of it was predicted."""
        return self

    def kept(self, n: int) -> tuple[Self, tuple[int, ...]]:
        """Return the combiner for those of its `n` members that it needs, and which these are, in their order."""
        return self, tuple(range(n))

    def asks(self, task: Task, said: Sequence[Prediction]) -> bool:
        """Return whether the next member is to be asked a question, after what those before it have said of it."""
        return True

    def tells(
        self, questions: Sequence[Question], said: Sequence[Sequence[Prediction]], *, model: TaskModel
    ) -> list[Mapping[str, Any]]:
        """Return for each question what goes into its meta before the next member of a lazy one is asked.

        Args:
            questions: Those that the next member is asked.
            said: What the members before it have said of each.
            model: The language model that answers, on this task.
        """
        return [{} for _ in questions]

    def examining(self, question: Question, said: Sequence[Prediction], *, model: TaskModel) -> Self:
        """Return a combiner of one question that has asked the model about what its members say of it.

        Args:
            question: What was asked.
            said: What the members say, in their order.
            model: The language model that answers, on this task, as it is before training.
        """
        return self

    @abstractmethod
    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return the combined prediction of one question, from those of the members that were asked, in their order."""

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each member counts, where that is the same for all questions; else empty."""
        return ()

    @property
    def calibrations(self) -> tuple[Mapping[str, Any], ...]:
        """How the members' probabilities are calibrated, each as JSON; empty before it has learnt."""
        return self._calibrations

    def with_calibrations(self, calibrations: Sequence[Mapping[str, Any]]) -> Self:
        """Return it as it is handed over, fitted on all there is."""
        return replace(self, _calibrations=tuple(calibrations))

    @property
    def has_learnt(self) -> bool:
        """Whether it has been fitted on all there is."""
        return not self.learns or bool(self._calibrations)

    def holds(self, task: Task, n: int) -> bool:
        """Return whether what it remembers can be of a task and so many members: it was read from a file."""
        return len(self._calibrations) == (n if self.learns else 0)
