"""Asking a language model about one task: prompts that fit, scores of answers, generated answers.

Long: one noun, in facets by what a model can do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kshot.core.control_tokens import Speller
from kshot.core.errors import NotFiniteError, SameTokensError, TooLongError, UserError
from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.label_sets import (
    indicator,
    odds_of_names,
    odds_of_verdicts,
    shown_by_name,
    shown_by_verdict,
    verdicts,
)
from kshot.core.ledger import Ledger
from kshot.core.lessons import Lesson, StepLog, TrainingText
from kshot.core.models import (
    Activations,
    Capability,
    DifferentiableModel,
    Gated,
    LanguageModel,
    ScoringModel,
    SteerableModel,
    WritingModel,
)
from kshot.core.progress import Progress, Silence
from kshot.core.salient_words import CONTEXT, INPUT, Word, words_in
from kshot.core.script import Script, UsualWording
from kshot.core.steering import Steering
from kshot.core.types import (
    Example,
    FloatArray,
    GenerateRequest,
    Generation,
    Prompt,
    Question,
    ScoreRequest,
    Segment,
    Task,
)
from kshot.measures.probabilities import each_by_itself, normalised
from kshot.prompts.fitting import fits, prompt_tokens, write_to_fit
from kshot.prompts.layout import Layout, layout_for
from kshot.prompts.whereabouts import places_of
from kshot.store.run_folder import alone_in
from kshot.store.traces import Traces

LEAST_ANSWER_TOKENS, MOST_ANSWER_TOKENS = 16, 1024
ROUNDING = 1e-2  # by which a log-probability in low precision may be above 0
WRITTEN = 0.9  # the probability of what a model writes that tells no probabilities


class Composer(Protocol):
    """Says what is said to a model."""

    def compose(self, task: Task, shown: Sequence[Example], question: Question, /) -> Script:
        """Return the script, with all demonstrations in the order given, the last one next to the question."""
        ...

    def said(self, task: Task, answer: str, question: Question, /) -> str:
        """Return how one of the answers to a question is said in its scripts."""
        ...

    def heard(self, task: Task, text: str, question: Question, /) -> str:
        """Return which answer to a question a text is that the model has written: the other way round than `said`."""
        ...

    def stated(self, text: str, /) -> float | None:
        """Return how sure a text that the model has written says that it is; None: it does not say."""
        ...

    def unsaid(self, task: Task, answer: str, question: Question, /) -> float:
        """Return the nats of an answer beyond its words."""
        ...

    @property
    def reason_weight(self) -> float:
        """How much the reasons of a text that is learnt count beside its answers; 0: they are read, not learnt."""
        ...

    def taught(self, task: Task, shown: Sequence[Example], target: Example, /) -> Script:
        """Return what is learnt: what is said of the target's question, with its answer and perhaps its reason."""
        ...

    @property
    def alternatives(self) -> "tuple[Composer, ...]":
        """What a selector that chooses a wording too can choose from."""
        ...

    @property
    def asks_each(self) -> bool:
        """Whether a set of labels is asked for by yes or no to each label; otherwise those that are right are named."""
        ...

    @property
    def shorter(self) -> "Composer | None":
        """What says a question that does not fit the model with all that this says beside it; None: it says no less."""
        ...


class Telling(Protocol):
    """Says what a model that a tuner trains is told in place of what the composer says (`Tuner.told`)."""

    def __call__(self, script: Script, *, asked: str, model: "TaskModel") -> Script:
        """Return the script that is written for the model."""
        ...


@dataclass(frozen=True)
class TaskModel:
    """A language model, and what a task says to it and how.

    Attributes:
        layout: How scripts are written for the model.
        answer_tokens: The most tokens of a generated answer; open tasks keep room for so many.
        composer: What is said.
        progress: Told of the work that selectors ask for.
        ledger: What the model does for it is added to; `replace(model, ledger=model.ledger.part())` counts a part.
        gradient_store: Where gradients are kept.
        traces: Where what is said in loops is kept.
        notes: Where what methods note of their work goes.
        task_notes: Notes on the task that are said after the instruction.
        told: How a model that is trained is told what the composer says; None: as the composer says it.
        asked: How questions are asked, of which `told` knows, such as "memory"; empty: as its settings say.
    """

    task: Task
    model: LanguageModel
    layout: Layout
    answer_tokens: int
    composer: Composer = UsualWording()
    progress: Progress = field(default_factory=Silence)
    ledger: Ledger = field(default_factory=Ledger, repr=False, compare=False)
    gradient_store: GradientStore = GradientStore()
    traces: Traces = field(default_factory=Traces, repr=False, compare=False)
    notes: Callable[[Mapping[str, Any]], None] | None = None
    task_notes: tuple[str, ...] = ()
    told: Telling | None = None
    asked: str = ""

    @classmethod
    def for_task(cls, task: Task, model: LanguageModel, layout: str = "auto") -> "TaskModel":
        """Return it in a layout (`layout_for`).

        The most tokens that a generated answer may have are 8 and a quarter more than those of the longest output of
        train, within 16..1024: known in advance, as labels are, and the same for every recipe and all along the stream.
        """
        return cls(task, model, layout_for(model, layout), 1).with_room_for(UsualWording())

    def on(self, task: Task, *, answer_tokens: int | None = None) -> "TaskModel":
        """Return the same model, trained and steered as it is, asked about another task in the usual words.

        Args:
            task: What is asked about; notes on the own one are not said.
            answer_tokens: The most tokens of a generated answer; None: as for the own task.
        """
        own: Any = {"composer": UsualWording(), "task_notes": (), "answer_tokens": answer_tokens or self.answer_tokens}
        return replace(self, task=task, **own)

    def with_room_for(self, composer: Composer) -> "TaskModel":
        """Return it with answers that may be as long as a composer says them, and no shorter than they were."""
        said = (composer.said(self.task, e.output, e.question) for e in self.task.train)
        longest = max((self.model.count_tokens(self.layout.answer(text)) for text in said), default=0)
        most = max(longest + longest // 4 + 8, LEAST_ANSWER_TOKENS, self.answer_tokens)
        return replace(self, answer_tokens=min(most, MOST_ANSWER_TOKENS, max(1, self.model.max_tokens // 2)))

    def compose(self, shown: Sequence[Example], question: Question | Example) -> Prompt:
        """Return the prompt with all demonstrations in the order given, whether it fits or not.

        Of an example the question alone is said.
        """
        return self.written(self.script(shown, question))

    def script(self, shown: Sequence[Example], question: Question | Example) -> Script:
        """Return what is said, by the first `shorter` composer with which the question alone fits."""
        question = question.question if isinstance(question, Example) else question
        room = self.answer_room(question) if self.composer.shorter else 0
        saying = self._fullest(lambda one: one.compose(self.task, (), question), room)
        return saying.compose(self.task, self._as_shown(shown), question)

    def _as_shown(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return demonstrations as they are said, where their outputs are sets of labels."""
        if not self.task.is_multi_label:
            return examples
        return (shown_by_verdict if self.composer.asks_each else shown_by_name)(examples, self.task.labels)

    def label_log_odds(self, row: FloatArray) -> FloatArray:
        """Return by how many nats each label is rather right than wrong, given what `score` says of `answers`."""
        return (odds_of_verdicts if self.composer.asks_each else odds_of_names)(row)

    def _fullest(self, bare: Callable[[Composer], Script], answer_tokens: int) -> Composer:
        """Return the first of the composer and its shorter ones whose script without demonstrations fits, or the last.

        Which it is does not depend on demonstrations, so that it is the same for all prompts of a question.
        """
        composer = self.composer
        while shorter := composer.shorter:
            if fits(self.written(bare(composer)), self.model, answer_tokens=answer_tokens):
                break
            composer = shorter
        return composer

    def written(self, script: Script) -> Prompt:
        """Return a script, with the notes on the task, as a prompt."""
        return self.layout.write(self.final(script))

    def final(self, script: Script) -> Script:
        """Return a script as it is written: with the notes on the task, and as the model was trained to be told."""
        script = script.noted(self.task_notes) if self.task_notes else script
        return self.told(script, asked=self.asked, model=self) if self.told else script

    def spelled(self, text: str) -> str:
        """Return a user's text as it stands in prompts: with control tokens spelled out."""
        return Speller(self.model.control_tokens)(text)

    def _bare(self, text: str) -> Prompt:
        return Prompt((Segment("query", self.spelled(text)),))

    def noted(self, notes: Sequence[str]) -> "TaskModel":
        """Return the task model with notes that are said after the instruction, beside those that it says already."""
        return replace(self, task_notes=(*self.task_notes, *notes)) if notes else self

    def write(self, text: str, *, max_tokens: int, stop: tuple[str, ...] = (), seed: int = 0) -> Generation:
        """Return what the model writes after a text of one's own, drawn at temperature 1."""
        self.progress.begin("writing", 1)
        how: Any = {"stop": stop, "temperature": 1.0, "seed": seed, "progress": self.progress.advance}
        (found,) = self.write_each([self.layout.request(text)], max_tokens=max_tokens, **how)
        return found

    def write_each(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        stop: tuple[str, ...] = (),
        temperature: float = 0.0,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Return what the model writes after each prompt, a text of its own: no answer to the task.

        Prompts go together, as they may share their beginning. `layout.request` makes one of a text.

        Args:
            prompts: As a layout has written them.
            max_tokens: The most tokens of each text.
            stop: A text ends before the first of these.
            temperature: As in `GenerateRequest`.
            seed: For the draws; each one's depend on the seed and its prompt alone.
            progress: Called with the number of texts finished since the last call.

        Raises:
            UserError: The model cannot write.
        """
        requests = [GenerateRequest(p, max_tokens, stop, temperature=temperature, seed=seed) for p in prompts]
        if not requests:
            return []
        found = self._writing.generate(requests, progress=progress, ledger=self.ledger)
        return [replace(text, text=self.layout.reply(text.text)) for text in found]

    def said(self, answers: Sequence[str], question: Question | Example) -> tuple[str, ...]:
        """Return how answers to a question are said to the model: what is scored, and what is learnt."""
        question = question.question if isinstance(question, Example) else question
        return tuple(self.composer.said(self.task, answer, question) for answer in answers)

    def heard(self, text: str, question: Question | Example) -> str:
        """Return which answer to a question a text is that the model has written."""
        question = question.question if isinstance(question, Example) else question
        return self.composer.heard(self.task, text, question)

    def unsaid(self, answers: Sequence[str], question: Question | Example) -> FloatArray:
        """Return the nats of answers beyond how they are said."""
        question = question.question if isinstance(question, Example) else question
        return np.array([self.composer.unsaid(self.task, answer, question) for answer in answers])

    def prompt(self, shown: Sequence[Example], question: Question | Example) -> tuple[Prompt, int]:
        """Return the prompt for a question, and how many demonstrations had to be left out of it.

        Of an example the question alone is said; its output is scored after the prompt, so there has to be room for it.

        Raises:
            UserError: The question does not fit the model even without demonstrations.
        """
        room = self.answer_room(question)
        return write_to_fit(
            lambda some: self.compose(some, question), shown, self.model, answer_tokens=room, asked=question.id
        )

    def answer_room(self, question: Question | Example) -> int:
        """Return the most tokens that an answer to a question can take."""
        lengths = [self.model.count_tokens(self.layout.answer(c)) for c in self.said(self.answers(question), question)]
        return max([*lengths, self.answer_tokens if self.task.is_open else 0])

    def training_text(self, lesson: Lesson) -> TrainingText:
        """Return a lesson in words; demonstrations that do not fit are left out, whole.

        Reasons are learnt where answers alone are: a teacher, and an answer that is rejected, are about the answer.

        Raises:
            UserError: The target does not fit the model, or the layout does not say where the answers stand.
        """
        if lesson.is_bare:
            return TrainingText(Prompt((Segment("answer", self.spelled(lesson.target.output)),)), "last", lesson.weight)
        if lesson.asked or lesson.instruction is not None or lesson.is_apart:
            own = replace(lesson, asked="", instruction=None, is_apart=False)
            return self.asking(lesson).training_text(own)
        target = lesson.target
        _, n_dropped = self.prompt(lesson.demonstrations, target)
        text, n_shown = self._taught(lesson.demonstrations[n_dropped:], target)
        n_answers = sum(s.role == "answer" for s in text.segments)
        if lesson.learnt not in ("last", "text") and n_answers <= n_shown:
            raise UserError(
                "To learn the answers of demonstrations, each must be a part of its own in the prompt; the layout "
                f"'{self.layout.record['layout']}' has them in one message. Use --layout turns, or loss=last."
            )
        teacher = rejected = None
        if lesson.teacher is not None:
            teaching = replace(self, asked=lesson.teacher_asked or self.asked)
            teaching = teaching.noted((lesson.note,)) if lesson.note else teaching
            n_less = teaching.prompt(lesson.teacher, target)[1]
            teacher, _ = teaching._taught(lesson.teacher[n_less:], target)
        if lesson.rejected is not None:
            wrong = replace(target, output=lesson.rejected)
            rejected, _ = self._taught(lesson.demonstrations[n_dropped:], wrong)
        among = tuple(map(self.layout.answer, self.said(lesson.among, target)))
        reason_weight = 0.0 if teacher or rejected else self.composer.reason_weight
        learnt, passage = lesson.learnt, self.spelled(target.context or "")
        if learnt == "told":
            opening = self.composer.compose(self.task, (), target.question).opening
            learnt = "answers" if opening or self.task_notes else "later"
        how: Any = {"reason_weight": reason_weight, "passage": passage, "likely": lesson.likely}
        how["advantage"] = lesson.advantage
        return TrainingText(text, learnt, lesson.weight, teacher, rejected, among, **how)

    def asking(self, lesson: Lesson) -> "TaskModel":
        """Return what asks a lesson's question: as its tuner asks it, with its own instruction.

        What is made up is said in the usual words.
        """
        if lesson.asked:
            return replace(self, asked=lesson.asked).asking(replace(lesson, asked=""))
        if lesson.instruction is None and not lesson.is_apart:
            return self
        instruction = self.task.instruction if lesson.instruction is None else lesson.instruction
        notes = self.task_notes if lesson.instruction is None else ()
        composer = UsualWording() if lesson.is_apart else self.composer
        return replace(self, task=replace(self.task, instruction=instruction), task_notes=notes, composer=composer)

    def _taught(self, shown: Sequence[Example], target: Example) -> tuple[Prompt, int]:
        """Return what is learnt, and how many demonstrations are in it; without a reason that does not fit."""
        if self.task.is_multi_label and not self.composer.asks_each:
            (target,) = shown_by_name([target], self.task.labels)
        plain = replace(target, explanation=None)
        composer = self._fullest(lambda one: one.taught(self.task, (), plain), 0)

        def write(some: Sequence[Example]) -> Prompt:
            return self.written(composer.taught(self.task, self._as_shown(some), target))

        try:
            text, n_dropped = write_to_fit(write, shown, self.model, answer_tokens=0, asked=target.id)
        except TooLongError:
            if not target.explanation:
                raise
            return self._taught(shown, plain)
        return text, len(shown) - n_dropped

    def answers(self, question: Question | Example) -> tuple[str, ...]:
        """Return the answers that are scored: the row's candidates; in open tasks an example's output, if known.

        Of a multi-label task they are the labels, each of which may be named next; or, where each is asked for, no and
        yes to each (`verdicts`).
        """
        if self.task.is_multi_label and self.composer.asks_each:
            return verdicts(self.task.labels)
        if self.task.is_open:
            return (question.output,) if isinstance(question, Example) and question.output else ()
        return self.task.candidates(question)

    def score(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[str]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[FloatArray]:
        """Return log-probabilities in nats of each prompt's answers, as they are said (`said`), with their terminator.

        A model that only writes is asked to write: a candidate, where there are several, else a text of its own. What
        it writes has the probability `WRITTEN`, and the other candidates share the rest. So is, in open tasks, one that
        is asked in messages, as it scores no text that is given.

        Raises:
            NotFiniteError: What the model says are no log-probabilities.
            UserError: Two of the answers to choose from are the same tokens.
        """
        if self._takes_each_label(answers):
            return self._by_label(prompts, answers, progress)
        if not self._scores:
            return self._written(prompts, answers, progress)
        model = cast(ScoringModel, self.model)
        with self._naming(answers):
            rows = model.score(self._to_score(prompts, answers), progress=progress, ledger=self.ledger)
        for row, texts in zip(rows, answers, strict=True):
            self._check(row, texts)
        return rows

    def _takes_each_label(self, answers: Sequence[Sequence[str]]) -> bool:
        """Return whether a set of labels takes a request a label.

        What chooses one of several texts is given no and yes alone.
        A model in this process reads all of them after the same prompt.
        """
        are_verdicts = self.task.is_multi_label and any(len(row) == 2 * len(self.task.labels) for row in answers)
        return are_verdicts and (self.model.is_remote or not self._scores)

    def _by_label(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[str]],
        progress: Callable[[int], None] | None,
    ) -> list[FloatArray]:
        """Return what `score` does, by a request for each label."""
        n = len(self.task.labels)
        pairs = [row[2 * i : 2 * i + 2] for row in answers for i in range(n)]
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            assert progress is not None
            progress((done + more) // n - done // n)
            done += more

        each = replace(self, task=replace(self.task, kind="classification"))  # of which one answer is chosen
        rows = each.score([p for p in prompts for _ in range(n)], pairs, progress=progress and advance)
        return [np.concatenate(rows[i : i + n]) for i in range(0, len(rows), n)]

    @property
    def _scores(self) -> bool:
        is_told = not (self.task.is_open and self.model.in_messages)
        return is_told and Capability.SCORE in self.model.capabilities

    def _check(self, row: FloatArray, texts: Sequence[str]) -> None:
        """Raise NotFiniteError unless a model has said a log-probability of each answer."""
        if np.shape(row) == (len(texts),) and np.isfinite(row).all() and (row <= ROUNDING).all():
            return
        raise NotFiniteError(
            f"Log-probabilities must be finite numbers, 0 at most, one for each answer; '{self.model.name}' says "
            f"{_shortened(row)} of {_shortened(texts)}. Use --dtype float32, or another --model."
        )

    def _check_read(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(values).all():
            raise NotFiniteError(
                f"Activations must be finite numbers; those of '{self.model.name}' are not. Use --dtype float32, or "
                "another --model."
            )
        return values

    def forward_tokens(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> int:
        """Return how many tokens have to be run to score answers, without running any."""
        if not self._scores:
            return sum(prompt_tokens(prompt, self.model) for prompt in prompts)
        with self._naming(answers):
            return cast(ScoringModel, self.model).forward_tokens(self._to_score(prompts, answers))

    @contextmanager
    def _naming(self, answers: Sequence[Sequence[str]]) -> Iterator[None]:
        """Say which answers they are where two of them are the same text to the model."""
        try:
            yield
        except SameTokensError as error:
            names = {self._continuation(text): text for texts in answers for text in texts}
            labels = dict(zip(self.said(self.task.labels, Question("", "")), self.task.labels, strict=True))
            shown = [(names.get(text, text), labels.get(names.get(text, text))) for text in error.texts]
            first, second = (f"'{a}'" + f" (which says '{b}')" * (b not in (a, None)) for a, b in shown)
            raise SameTokensError(
                *error.texts,
                f"The answers to choose from must differ for the model; {first} and {second} are the same tokens "
                f"for '{self.model.name}', as its tokenizer or the layout drops what differs. Rename one of them.",
            ) from None

    def _to_score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> list[ScoreRequest]:
        return [
            ScoreRequest(prompt, tuple(map(self._continuation, texts)))
            for prompt, texts in zip(prompts, answers, strict=True)
        ]

    def _continuation(self, answer: str) -> str:
        """Return what stands for an answer where it is scored.

        In multi-label tasks it has no terminator: other labels can follow one that is named, and of no and yes neither
        begins the other.
        """
        text = self.layout.answer(answer)
        return text.removesuffix(self.layout.terminator) if self.task.is_multi_label else text

    def _written(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], progress: Callable[[int], None] | None
    ) -> list[FloatArray]:
        stop = (self.layout.terminator,) if self.layout.terminator else ()
        requests = [
            GenerateRequest(prompt, self.answer_tokens, stop)
            if self.task.is_open
            else GenerateRequest(prompt, self.answer_tokens, allowed=tuple(map(self.layout.answer, texts)))
            for prompt, texts in zip(prompts, answers, strict=True)
        ]
        found = self._writing.generate(requests, progress=progress, ledger=self.ledger)
        pairs = zip(found, answers, strict=True)
        return [written_log_probs(a.text.strip(), [text.strip() for text in texts]) for a, texts in pairs]

    @property
    def _writing(self) -> WritingModel:
        if Capability.GENERATE not in self.model.capabilities:
            raise UserError(
                f"Answers that are texts need a model that can write; '{self.model.name}' only scores. Give another "
                "--model."
            )
        return cast(WritingModel, self.model)

    def generate(self, prompts: Sequence[Prompt], *, progress: Callable[[int], None] | None = None) -> list[Generation]:
        """Return a greedy answer to each prompt, up to the terminator."""
        stop = (self.layout.terminator,) if self.layout.terminator else ()
        requests = [GenerateRequest(p, self.answer_tokens, stop) for p in prompts]
        if not requests:
            return []
        found = self._writing.generate(requests, progress=progress, ledger=self.ledger)
        return [replace(answer, text=self.layout.reply(answer.text)) for answer in found]

    def sampled(self, prompts: Sequence[Prompt], n: int, *, seed: int) -> list[list[Generation]]:
        """Return `n` answers to each prompt, drawn at temperature 1; each depends on the seed and its prompt alone."""
        stop = (self.layout.terminator,) if self.layout.terminator else ()
        requests = [
            GenerateRequest(p, self.answer_tokens, stop, temperature=1.0, seed=seed + i)
            for p in prompts
            for i in range(n)
        ]
        if not requests:
            return []
        found = self._writing.generate(requests, ledger=self.ledger)
        texts = [replace(answer, text=self.layout.reply(answer.text)) for answer in found]
        return [texts[i : i + n] for i in range(0, len(texts), n)]

    def drawn(
        self, prompts: Sequence[Prompt], questions: Sequence[Example], *, seed: int
    ) -> list[tuple[Generation, bool]]:
        """Return an answer to each prompt, drawn at temperature 1: of the question's candidates, where it has some.

        The draws of each depend on the seed, its place and its prompt alone.

        Returns:
            What was written, and whether a lesson with this answer ends with the same text: it came to its end, and the
            composer and the layout say it so.

        Raises:
            UserError: The model cannot write.
        """
        stop = (self.layout.terminator,) if self.layout.terminator else ()
        requests = [
            GenerateRequest(p, self.answer_tokens, stop, temperature=1.0, seed=seed + i, allowed=self._allowed(e))
            for i, (p, e) in enumerate(zip(prompts, questions, strict=True))
        ]
        if not requests:
            return []
        found = list[tuple[Generation, bool]]()
        for e, own in zip(questions, self._writing.generate(requests, ledger=self.ledger), strict=True):
            text = self.layout.reply(own.text)
            (said,) = self.said((self.heard(text.strip(), e),), e)
            is_same = own.text.removesuffix(self.layout.terminator) == self._unended(said)
            found.append((replace(own, text=text), own.finished and is_same))
        return found

    def _allowed(self, question: Example) -> tuple[str, ...]:
        """Return the candidates that a question has as they may be written; none in open tasks."""
        return tuple(map(self.layout.answer, self.said(self.task.candidates(question), question)))

    def _unended(self, said: str) -> str:
        return self.layout.answer(said).removesuffix(self.layout.terminator)

    def begun(self, prompt: Prompt, text: str) -> Prompt:
        """Return a prompt after which an answer has begun already."""
        return replace(prompt, segments=(*prompt.segments, Segment("answer", self._unended(text))))

    def sureness(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        """Return how sure the model is of each text that it has written after its prompt: a token on average.

        It is exp of the mean log-probability of the tokens, the terminator's among them; None of a model that tells
        no probabilities of texts.
        """
        if not self._scores:
            return [None] * len(texts)
        model, answers = cast(ScoringModel, self.model), [(text,) for text in texts]
        rows = model.score(self._to_score(prompts, answers), ledger=self.ledger)
        for row, some in zip(rows, answers, strict=True):
            self._check(row, some)
        lengths = [max(1, model.count_tokens(self.layout.answer(text))) for text in texts]
        return [exp(min(0.0, float(row[0])) / n) for row, n in zip(rows, lengths, strict=True)]

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """Return the bits of each query's output after its demonstrations, `[n_queries]`."""
        prompts = [self.prompt(demos, query)[0] for demos, query in zip(shown, queries, strict=True)]
        self.progress.begin("asking for the selector", len(prompts))
        return self.bits_after(prompts, queries)

    def bits_after(self, prompts: Sequence[Prompt], queries: Sequence[Example]) -> FloatArray:
        """Return the bits of each query's output after a prompt of its own, `[n_queries]`."""
        answers = [self.said(self.answers(query), query) for query in queries]
        scores = self.score(prompts, answers, progress=self.progress.advance)
        return np.array([self._bits(query, row) for query, row in zip(queries, scores, strict=True)])

    def _requests(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> list[ScoreRequest]:
        return [
            ScoreRequest(
                self.prompt(demos, query)[0], tuple(map(self._continuation, self.said(self.answers(query), query)))
            )
            for demos, query in zip(shown, queries, strict=True)
        ]

    def _bits(self, query: Example, row: FloatArray) -> float:
        """Return the bits of a query's output, given the log-probabilities of its answers."""
        if self.task.is_multi_label:
            holds, probs = indicator([query.output], self.task.labels)[0], each_by_itself(self.label_log_odds(row))
            return float(-np.log2(np.where(holds, probs, 1 - probs)).sum())
        at = self.answers(query).index(query.output)
        return -(row[at] if self.task.is_open else log(normalised(row)[at])) / log(2)

    def answer_log_probs(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """Return the log-probability in nats of each query's output, a token on average, `[n_queries]`.

        The tokens are those of the answer with its terminator, as they are
        scored; a demonstration that does not fit is left out, whole, and the answer is always there.
        """
        prompts = [self.prompt(demos, query)[0] for demos, query in zip(shown, queries, strict=True)]
        self.progress.begin("asking for the retriever", len(prompts))
        answers = [self.said((query.output,), query) for query in queries]
        scores = self.score(prompts, answers, progress=self.progress.advance)
        lengths = [self.model.count_tokens(self.layout.answer(text)) for (text,) in answers]
        return np.array([row[0] for row in scores]) / np.array(lengths)

    def gradients(self, examples: Sequence[Example], how: GradientSettings, *, seed: int) -> NDArray[np.float32]:
        """Return each example's gradients without demonstrations.

        Raises:
            UserError: The model has no gradients.
        """
        if Capability.GRADIENTS not in self.model.capabilities:
            raise UserError(
                f"Gradients need a model with weights; '{self.model.name}' has none. Name one with --selector-model "
                "(`kshot select`: --model)."
            )
        return self.lesson_gradients([Lesson((), example) for example in examples], how, seed=seed)

    def lesson_gradients(
        self, lessons: Sequence[Lesson], how: GradientSettings, *, seed: int, is_kept: bool = True
    ) -> NDArray[np.float32]:
        """Return each lesson's gradients; of a model in training those with its weights as they are now.

        Args:
            lessons: What would be learnt.
            how: With respect to what, and where on the way of learning it.
            seed: For every random choice.
            is_kept: Whether they are kept, to be taken once.
        """
        texts = [replace(self.training_text(lesson), reason_weight=0.0) for lesson in lessons]
        self.progress.begin("gradients", how.n_runs(len(texts)))
        store = self.gradient_store if is_kept else GradientStore()
        also: Any = {"store": store, "progress": self.progress.advance, "ledger": self.ledger}
        folder = store.folder
        with alone_in(folder, self.progress.say) if folder else nullcontext():
            return cast(DifferentiableModel, self.model).gradients(texts, how, seed=seed, **also)

    @property
    def _steerable(self) -> SteerableModel:
        if Capability.ACTIVATIONS not in self.model.capabilities:
            raise UserError(f"Steering needs a model with weights; '{self.model.name}' has none. Give another --model.")
        return cast(SteerableModel, self.model)

    @property
    def activations(self) -> Activations:
        """The model's activations."""
        return self._steerable.activations

    @property
    def unsteered(self) -> str:
        """The fingerprint of the model without a steering."""
        return self._steerable.unsteered

    def steered(self, steering: Steering) -> "TaskModel":
        """Return the task model of the same model with changed activations."""
        return replace(self, model=self._steerable.steered(steering))

    def texts_at_end(self, texts: Sequence[str], site: str) -> NDArray[np.float32]:
        """Return the activations at the last token of each bare text, `[n_texts, n_layers, …]`."""
        self.progress.begin("reading activations", len(texts))
        prompts = [self._bare(text) for text in texts]
        also: Any = {"progress": self.progress.advance, "ledger": self.ledger}
        return self._check_read(self.activations.read(prompts, site, **also))

    def prompts_at_end(
        self, shown: Sequence[Sequence[Example]], queries: Sequence[Example], site: str
    ) -> NDArray[np.float32]:
        """Return the activations where each query's answer begins, `[n_queries, n_layers, …]`."""
        self.progress.begin("reading activations", len(queries))
        prompts = [self.prompt(demos, query)[0] for demos, query in zip(shown, queries, strict=True)]
        also: Any = {"progress": self.progress.advance, "ledger": self.ledger}
        return self._check_read(self.activations.read(prompts, site, **also))

    def context_mass(self, examples: Sequence[Example], layer: int) -> list[float]:
        """Return how much of the attention is on each example's context while its output is said, from 0 to 1.

        Args:
            examples: Asked without demonstrations; one without a context has 0.
            layer: Where attention is read, from 0.

        Raises:
            ModelError: The model's attention cannot be read.
        """
        texts = []
        for e in examples:
            (said,) = self.said((e.output,), e)
            answer = self.layout.answer(said)
            passage = self.spelled(e.context or "")
            texts.append((self.prompt((), e)[0], answer.removesuffix(self.layout.terminator), passage))
        self.progress.begin("reading attention", len(texts))
        return self.activations.context_mass(texts, layer, progress=self.progress.advance, ledger=self.ledger)

    def saliency(self, shown: Sequence[Sequence[Example]], examples: Sequence[Example]) -> list[tuple[Word, ...]]:
        """Return for each example the words of its input and context, and how strongly its output follows them.

        What is asked is the prompt with its demonstrations, as far as they fit. A text that the prompt does not say as
        it is has no words.

        Raises:
            UserError: The model has no gradients.
            ModelError: They are not finite, or other tokens than its own stand for what is asked.
        """
        if Capability.ACTIVATIONS not in self.model.capabilities:
            raise UserError(
                f"What an answer rests on is told by gradients, which need a model with weights; '{self.model.name}' "
                "has none. Give another --model."
            )
        texts, words = [], list[list[Word]]()
        for demos, e in zip(shown, examples, strict=True):
            prompt, n_dropped = self.prompt(demos, e)
            script = self.final(self.script(demos[n_dropped:], e))
            asked = {"context": e.context or "", "question": e.input}
            places, own = places_of(script, prompt, asked, self.layout), list[Word]()
            at = list[tuple[int, int, int]]()
            for name, field_ in (("context", CONTEXT), ("question", INPUT)):
                for start, stop in words_in(asked[name]) if name in places else ():
                    (segment, first), (_, last) = places[name][start], places[name][stop - 1]
                    at.append((segment, first, last + 1))
                    own.append(Word(field_, start, stop, 0.0))
            (said,) = self.said((e.output,), e)
            texts.append((prompt, self.layout.answer(said), at))
            words.append(own)
        self.progress.begin("looking at words", len(texts))
        also: Any = {"progress": self.progress.advance, "ledger": self.ledger}
        found = self._steerable.activations.saliency(texts, **also)
        return [
            tuple(replace(word, value=float(value)) for word, value in zip(own, values, strict=True))
            for own, values in zip(words, found, strict=True)
        ]

    def bits_under(
        self, steerings: Sequence[Steering], queries: Sequence[Example], shown: Sequence[Sequence[Example]] = ()
    ) -> FloatArray:
        """Return the bits of each query's output under each steering, `[n_steerings, n_queries]`.

        NaN where the model's outputs are not numbers under a steering.

        Raises:
            NotFiniteError: They are not numbers under one that changes nothing.
        """
        requests = self._requests(shown or [()] * len(queries), queries)
        self.progress.begin("trying steerings", len(requests))
        also: Any = {"progress": self.progress.advance, "ledger": self.ledger}
        scores = self.activations.score_under(requests, steerings, **also)
        for query, rows in zip(queries, scores, strict=True):
            for steering, row in zip(steerings, rows, strict=True):
                if not steering.edits:  # then it is the model's own fault
                    self._check(row, self.answers(query))
        with np.errstate(invalid="ignore"):
            by_query = [[self._bits(q, row) for row in rows] for q, rows in zip(queries, scores, strict=True)]
        return np.array(by_query).T

    def odds_under(
        self,
        steerings: Sequence[Sequence[Steering]],
        queries: Sequence[Example],
        others: Sequence[str],
        shown: Sequence[Sequence[Example]],
    ) -> FloatArray:
        """Return by how many nats each query's output is more probable than another answer, `[n_steerings, n_queries]`.

        Args:
            steerings: Those of each query, as many for each.
            queries: What is asked, with the outputs.
            others: The other answer to each.
            shown: The demonstrations of each.
        """
        self.progress.begin("trying steerings", len(queries))
        found = []
        for own, query, other, demos in zip(steerings, queries, others, shown, strict=True):
            answers = map(self.layout.answer, self.said((query.output, other), query))
            request = ScoreRequest(self.prompt(demos, query)[0], tuple(answers))
            with self._naming([(query.output, other)]):
                (rows,) = self.activations.score_under([request], own, ledger=self.ledger)
            found.append(rows[:, 0] - rows[:, 1])
            self.progress.advance(1)
        return np.array(found).T

    def learn(
        self,
        gated: Gated,
        examples: Sequence[Example],
        *,
        loss: str,
        shown: Sequence[Sequence[Example]] = (),
        sources: NDArray[np.float32] | None = None,
    ) -> StepLog:
        """Take one step of training what acts at the last token of a prompt.

        Args:
            gated: What is trained.
            examples: What is learnt.
            loss: "all" tokens of the answers, the "first", or the "choice" of an answer.
            shown: The demonstrations of each.
            sources: As in `Gated.learn`.
        """
        lessons = [
            Lesson(tuple(demos), example, learnt="last", among=self.answers(example) if loss == "choice" else ())
            for demos, example in zip(shown or [()] * len(examples), examples, strict=True)
        ]
        texts = [self.training_text(lesson) for lesson in lessons]
        self.progress.advance(0)
        return gated.learn(texts, first_token=loss != "all", sources=sources, ledger=self.ledger)

    def note(self, values: Mapping[str, Any]) -> None:
        """Hand over what a selector wants to be known."""
        if self.notes:
            self.notes(values)


def _shortened(values: Sequence[Any] | FloatArray) -> str:
    """Return the first of some values for a message."""
    first = ", ".join(f"'{v}'" if isinstance(v, str) else f"{v}" for v in list(np.ravel(np.array(values, object)))[:4])
    return first + (", …" if len(values) > 4 else "")


def written_log_probs(text: str, answers: Sequence[str]) -> FloatArray:
    """Return log-probabilities in nats of answers after a text was written, `[n_answers]`.

    The written one has `WRITTEN`, the others share the rest; a single answer that was not written has the rest. Where
    none of several was written, all are alike.
    """
    if len(answers) > 1 and text not in answers:
        return np.full(len(answers), -log(len(answers)))
    rest = (1 - WRITTEN) / max(1, len(answers) - 1)
    return np.log([WRITTEN if answer == text else rest for answer in answers])
