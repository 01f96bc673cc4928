"""What of an adapted model can be handed to other software: one prompt, one model, and what is left behind."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from kshot.adapted.model import AdaptedModel
from kshot.core.control_tokens import MARK, without_marks
from kshot.core.errors import TooLongError, UserError
from kshot.core.models import LanguageModel
from kshot.core.script import Script
from kshot.core.types import Example, Query, Question, Task
from kshot.learners.answering import answering
from kshot.learners.fitted import Fitted
from kshot.learners.prompted import PromptLearner
from kshot.measures.calibration import UNCALIBRATED
from kshot.prompts.chat import Chat
from kshot.prompts.messages import conversation
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Handover:
    """An adapted model that other software can do, with or without losses.

    Attributes:
        adapted: The adapted model.
        shown: The demonstrations in the order of the prompt.
        lost: What the target does not do, a sentence each.
        has_context: Whether questions have a passage.
        chosen: All that kshot shows where there is room, `shown` at their end.
    """

    adapted: AdaptedModel
    shown: tuple[Example, ...]
    lost: tuple[str, ...]
    has_context: bool = False
    chosen: tuple[Example, ...] = ()

    @property
    def fitted(self) -> Fitted:
        """What has learnt."""
        return self.adapted.fitted

    @property
    def task(self) -> Task:
        """What is answered."""
        return self.fitted.task

    @property
    def task_model(self) -> TaskModel:
        """The language model on the task, with the notes that loops have written."""
        assert self.fitted.model is not None
        return self.fitted.model.noted(self.fitted.notes)

    @property
    def model(self) -> LanguageModel:
        """The language model before training."""
        found = self.fitted.untrained
        assert found is not None
        return found

    @cached_property
    def for_any(self) -> Script:
        """What is said, with a question that stands for any: "{input}", after "{context}" where there are contexts."""
        context = "{context}" if self.has_context else None
        return self.script(Question("{input}", "query", context=context))

    def script(self, question: Question) -> Script:
        """Return what is said before an answer to a question."""
        asked = self.task_model
        return asked.final(asked.script(self.shown, question))

    def text(self, script: Script) -> str:
        """Return a script as the text that the model is asked, in its layout."""
        return without_marks(self.task_model.layout.write(script).text)

    def messages(self, script: Script) -> list[dict[str, str]]:
        """Return a script as the messages of a chat: those of the model's layout, if it writes some."""
        layout = self.task_model.layout
        found = layout.messages(script) if isinstance(layout, Chat) else conversation(script)
        return [{**message, "content": without_marks(message["content"])} for message in found]

    def measured(self, question: Question, *, as_text: bool) -> str | list[dict[str, str]] | None:
        """Return what the model was asked when it was measured; None where it was not asked in a text, or messages."""
        layout, asked = self.task_model.layout, self.task_model
        n_left_out = asked.prompt(self.chosen, question)[1]
        script = asked.final(asked.script(self.chosen[n_left_out:], question))
        if as_text:
            return self.text(script) if layout.record["layout"] != "messages" else None
        return self.messages(script) if layout.record["layout"] != "plain" else None

    def answer(self, text: str) -> str:
        """Return how an answer stands after the prompt, with what ends it."""
        return without_marks(self.task_model.layout.answer(self.said(text)))

    def said(self, answer: str) -> str:
        """Return how an answer is said in the prompt: labels can have other words."""
        return self.task_model.said((answer,), Question("{input}", "query"))[0]

    def answers(self, example: Example) -> tuple[str, ...]:
        """Return the answers to an example that are scored: its candidates, or its output where they are open."""
        return self.task_model.answers(example)

    def record(self) -> dict[str, Any]:
        """Return what a user of the target may want to know, as JSON."""
        fitted, layout = self.fitted, self.task_model.layout
        return {
            "recipe": fitted.recipe.name,
            "task": self.task.name,
            "kind": self.task.kind,
            "labels": list(self.task.labels),
            "layout": layout.record["layout"],
            "answers": {label: self.answer(label) for label in self.task.labels},
            "stop": layout.terminator,
            "demonstrations": [e.id for e in self.shown],
            "model": {"name": self.model.name, **self.model.origin},
            "lost": list(self.lost),
        }


def handover(
    adapted: AdaptedModel,
    target: str,
    *,
    weights: bool = False,
    context: int | None = None,
    asked: Sequence[Example] = (),
) -> Handover:
    """Return what a target is handed.

    Args:
        adapted: The adapted model.
        target: The target's name, for messages.
        weights: Whether the target takes trained weights; others take a prompt alone.
        context: Which of several contexts is written, from 1; None where there is one.
        asked: Examples of what will be asked.

    Raises:
        UserError: The adapted model is something that the target cannot express.
    """
    fitted, flag = adapted.fitted, f"--to {target}"
    recipe = fitted.recipe
    if fitted.members:
        raise UserError(
            f"{flag} needs one recipe; '{recipe.name}' combines the answers of {len(fitted.members)}. "
            "Use `kshot serve`, which answers with all of it."
        )
    if fitted.model is None:
        raise UserError(
            f"{flag} needs a recipe that asks a language model; '{recipe.name}' is a classifier without one. "
            "Load it with kshot.load, or serve it with `kshot serve`."
        )
    if fitted.steering and fitted.steering.acting:
        raise UserError(
            f"{flag} cannot say what is changed in the model's activations, as '{recipe.name}' does. "
            "Use `kshot serve`, which answers with all of it."
        )
    if recipe.considers:
        raise UserError(
            f"{flag} needs a prompt that is known before; '{recipe.name}' asks the model about each question first. "
            "Use `kshot serve`, which answers with all of it."
        )
    if recipe.rewrites:
        raise UserError(
            f"{flag} needs a prompt with a place for any question; '{recipe.name}' says each in a form of its own. "
            "Use `kshot serve`, which answers with all of it."
        )
    if recipe.per_query and not _shows_all(fitted):
        raise UserError(
            f"{flag} needs one set of demonstrations; '{recipe.name}' chooses others for each query. "
            "Use `kshot serve`, which answers with all of it, or adapt with one set, as by selector=random."
        )
    _check_weights(fitted, flag, weights)
    chosen = _shown(fitted, flag, context) if "selector" in recipe.parts else ()
    model = fitted.model.noted(fitted.notes)
    shown = chosen[_most_left_out(model, chosen, asked or chosen) :]
    has_context = any(e.context for e in (*shown, *asked))
    lost = _lost(adapted, shown, context)
    if n := len(chosen) - len(shown):
        lost.append(
            f"{n} of {len(chosen)} demonstrations are left out, as the model's {model.model.max_tokens} tokens have no "
            "room for them beside the longest input; kshot shows them before shorter ones."
        )
    if not shown and not asked:
        lost.append(
            "No example is here to say whether questions have a passage, and the prompt has no place for one. Where "
            "they have one, give such rows with --check TASK."
        )
    return Handover(adapted, shown, tuple(lost), has_context, chosen)


def _most_left_out(model: TaskModel, chosen: Sequence[Example], asked: Sequence[Example]) -> int:
    """Return how many demonstrations kshot leaves out before the longest question that fits at all."""
    count = model.model.count_tokens
    for example in sorted(asked, key=lambda e: -count(e.input) - count(e.context or "")):
        with suppress(TooLongError):
            return model.prompt(chosen, example)[1]
    return 0


def _shows_all(fitted: Fitted) -> bool:
    """Whether every query is shown the same, as it is shown all that there is, in one order."""
    selector = fitted.recipe.part("selector")
    return selector is not None and selector.sees_all and fitted.recipe.contexts == 1


def _check_weights(fitted: Fitted, flag: str, weights: bool) -> None:
    name, tuner = fitted.recipe.name, fitted.recipe.part("tuner")
    if fitted.trained and tuner.weights not in ("lora", "full"):
        written = "a LoRA adapter" if weights else "a prompt alone"
        raise UserError(
            f"{flag} writes {written}; '{name}' has trained a module beside the model ({tuner.weights}), which kshot "
            "alone can run. Use `kshot serve`."
        )
    if not weights and fitted.trained:
        raise UserError(
            f"{flag} writes a prompt alone, and '{name}' has trained weights, without which it is another model. "
            "Use --to peft, vllm or gguf-lora."
        )
    if weights and not fitted.trained:
        raise UserError(f"{flag} writes trained weights; '{name}' trains none. Use --to prompt or --to messages.")
    if weights and tuner.weights != "lora":
        raise UserError(
            f"{flag} writes a LoRA adapter; '{name}' has trained all weights. Write the whole model with `kshot merge`."
        )


def _shown(fitted: Fitted, flag: str, context: int | None) -> tuple[Example, ...]:
    contexts = fitted.shown
    if _shows_all(fitted):
        asked = cast(PromptLearner, answering(fitted))
        contexts = (asked.demonstrations(Query(fitted.pool[0], fitted.pool)),) if fitted.pool else ((),)
    if len(contexts) > 1 and context is None:
        raise UserError(
            f"{flag} writes one prompt; '{fitted.recipe.name}' averages the answers after {len(contexts)} of them. "
            "Choose one with --context 1, whose difference is then told, or adapt with contexts=1."
        )
    if context is not None and not 1 <= context <= len(contexts):
        raise UserError(f"--context must be in 1..{len(contexts)}; got {context}.")
    return contexts[(context or 1) - 1]


def _lost(adapted: AdaptedModel, shown: Sequence[Example], context: int | None) -> list[str]:
    fitted, found = adapted.fitted, []
    if len(fitted.shown) > 1:
        found.append(
            f"One context of {len(fitted.shown)} is written (number {context}); kshot averages over all of them."
        )
    if fitted.recipe.calibration == "contextual":
        found.append("kshot divides probabilities by those of inputs without content; the target does not.")
    if fitted.calibration != UNCALIBRATED:
        prior = " after taking out its liking for some labels" if fitted.calibration.strength else ""
        found.append(
            f"kshot calibrates: it divides log-probabilities by {fitted.calibration.temperature:.3g}{prior}; the "
            "target's are as the model says them."
        )
    if fitted.task.answer == "median":
        found.append("kshot answers with the median of the ordered labels; the target with the most probable one.")
    if adapted.abstention:
        found.append("kshot is unsure where it cannot promise an answer; the target always answers.")
    if (tuner := fitted.recipe.part("tuner")) and tuner.left_behind:
        found.append(tuner.left_behind)
    model = fitted.model
    assert model is not None
    if MARK in model.compose(shown, Question("{input}", "query")).text:
        found.append(
            "Demonstrations spell control tokens of the model, which kshot keeps from being read as such; the target "
            "may read them."
        )
    return found
