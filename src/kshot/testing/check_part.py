"""Does a method keep the contract of its room? The checks that kshot's own methods pass, for anybody's."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from kshot.core.intents import MEMORY_FIELD
from kshot.core.json_text import from_json, to_json
from kshot.core.lessons import Lesson
from kshot.core.models import Capability, LanguageModel, TunableModel
from kshot.core.part import Part
from kshot.core.plugins import OwnFiles, origin_of, own_sources
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.core.types import Example, Prediction, Task
from kshot.engine.load_model import load_model
from kshot.evaluators import EVALUATORS
from kshot.evaluators.evaluator import Evaluator
from kshot.measures.measured import told
from kshot.measures.probabilities import code_length_bits
from kshot.methods.contracts import (
    Answered,
    Classifier,
    Combiner,
    Composer,
    Generator,
    Loop,
    Selector,
    Steerer,
    Teacher,
    Tuner,
)
from kshot.methods.gates import GATES, Gate
from kshot.methods.judges import JUDGES, Judge
from kshot.methods.knowledge import Knowledge
from kshot.recipes.names import SLOTS
from kshot.store.files import write_folder
from kshot.store.traces import Traces
from kshot.studies import EXPERIMENTS, STUDIES
from kshot.studies.experiment import Experiment
from kshot.studies.task_family import Study
from kshot.taskmodel.taskmodel import TaskModel

ROOMS = (*SLOTS.values(), GATES, JUDGES, EVALUATORS, STUDIES, EXPERIMENTS)
SECRET = "the answer that nobody may see"
N, K = 12, 3


class ContractError(AssertionError):
    """A method does not keep its room's contract; the text says which rule and what was found."""


def check_part(part: Part, *, model: LanguageModel | None = None) -> None:
    """Check that a method keeps the contract of its room, on a small made-up task.

    What every method must hold: it is frozen, its record is JSON that rebuilds an equal one, `fit` leaves it as it is,
    and the same seed gives the same result. Then what its room asks for.

    Args:
        part: The method, with any settings.
        model: What it may ask; by default "tiny", a random network that can do everything, for methods that need more
            than scores, and else "scripted".

    Raises:
        ContractError: It does not keep the contract; the text says where.
    """
    room = next((r for r in ROOMS if isinstance(part, r.contract)), None)
    _must(room is not None, part, "must inherit from a contract such as kshot.Selector")
    assert room is not None
    room.check(type(part), origin_of(type(part)).name)
    _check_record(part, room.rebuild)
    task = _task(part)
    name = "tiny" if part.needs - {Capability.SCORE, Capability.GENERATE} else "scripted"
    asked = TaskModel.for_task(task, model or load_model(name))
    before = part.record()
    check = next(check for contract, check in _CHECKS.items() if isinstance(part, contract))
    check(part, task, asked)
    _must(part.record() == before, part, "must stay as it is; its record has changed")


def _must(holds: bool, part: object, what: str) -> None:
    if not holds:
        raise ContractError(f"{type(part).__name__} {what}.")


def _rng() -> np.random.Generator:
    return generator(0, "check")


def _task(part: Part) -> Task:
    """Return a task that the part suits: three labels, each with words of its own."""
    words = {"animal": ("cat", "dog", "horse", "cow"), "food": ("bread", "cheese", "apple", "soup"),
             "tool": ("hammer", "saw", "drill", "axe")}  # fmt: skip
    labels = tuple(words)
    train = tuple(
        Example(f"the {words[labels[i % 3]][i // 3]} of number {i}", labels[i % 3], f"row-{i}") for i in range(N)
    )
    test = tuple(Example(f"one more {words[label][0]}", label, f"test-{label}") for label in labels)
    task = Task("check", "classification", train, test, labels=labels, instruction="Name the kind.")
    of_sets = dataclasses.replace(task, kind="multi_label", metrics=("micro_f1",))  # of one label each
    if not part.suits(task) and part.multi_label and part.suits(of_sets):
        task = of_sets
    if not part.suits(task):
        train, test = (tuple(_numbers(e, i) for i, e in enumerate(rows)) for rows in (train, test))
        task = Task("check", "generation", train, test, metrics=("exact_match",), instruction="Go on.")
    _must(part.suits(task), part, "must suit tasks of some kind")
    if part.missing_field(task):
        train, test = (tuple(_grounded(e, task) for e in rows) for rows in (task.train, task.test))
        task = dataclasses.replace(task, train=train, test=test)
    if part.missing_field(task):  # the same words in another context
        others = (
            _grounded(dataclasses.replace(e, output=e.meta[MEMORY_FIELD], id=f"{e.id}-other"), task) for e in task.test
        )
        task = dataclasses.replace(task, test=(*task.test, *others))
    return task


def _grounded(example: Example, task: Task) -> Example:
    """Return an example with a context, and another answer from memory."""
    answers = task.labels or tuple(dict.fromkeys(e.output for e in task.train))
    memory = answers[(answers.index(example.output) + 1) % len(answers)]
    context = f"It is said to be {example.output}. Others do not know it."
    return dataclasses.replace(example, context=context, meta={**example.meta, MEMORY_FIELD: memory})


def _numbers(example: Example, i: int) -> Example:
    return dataclasses.replace(example, input=f"{i}, {2 * i + 1}, {i + 3}", output=f"{i % 3}")


def _check_record(part: Part, rebuild: Callable[[Any, Path, OwnFiles], Part]) -> None:
    record = part.record()
    try:
        to_json(record)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{type(part).__name__} must have a record that is JSON: {error}.") from error
    with TemporaryDirectory() as folder:
        part_again = _rebuilt(part, Path(folder), rebuild) if not _has_files(part) else part
    _must(part_again == part, part, "must be rebuilt from its record as an equal one")


def _rebuilt(part: Any, folder: Path, rebuild: Callable[[Any, Path, OwnFiles], Any]) -> Any:
    """Return what is read of a method's record and of what it has saved into a folder."""
    record = part.record()
    own = OwnFiles(folder / "own", may_run=True)
    write_folder(own.folder, {f"{sha256}.py": source for sha256, source in own_sources(record).items()})
    return rebuild(from_json(to_json(record)), folder, own)


def _has_files(part: Part) -> bool:
    """Return whether it is rebuilt from files that only a fitted one writes."""
    without = (Part.rebuilt.__func__, Composer.rebuilt.__func__)  # pyright: ignore
    return type(part).rebuilt.__func__ not in without  # pyright: ignore


def _hidden(examples: Sequence[Example]) -> list[Any]:
    """Return the questions of examples; they have no output that could be seen."""
    return [example.question for example in examples]


def _check_selector(part: Selector, task: Task, model: TaskModel) -> None:
    pool, questions = task.train, _hidden(task.test)
    asked = questions if part.per_query else [None]
    fitted = part.fit(pool, model=model, rng=_rng())
    _must(isinstance(fitted, type(part)), part, "must return a selector of its own kind from fit")
    for question in asked:
        found = [fitted.select(question, K, rng=_rng()) for _ in range(2)]
        _must(all(isinstance(some, list) for some in found), part, "must return a list of indices")
        _must(found[0] == found[1], part, "must choose the same with the same rng")
        again = part.fit(pool, model=model, rng=_rng()).select(question, K, rng=_rng())
        _must(again == found[0], part, "must choose the same when it is fitted again with the same rng")
        indices = found[0]
        _must(all(type(i) is int and 0 <= i < len(pool) for i in indices), part, "must return indices into the pool")
        _must(len(set(indices)) == len(indices), part, "must return different indices")
        _must(len(indices) <= K or part.sees_all, part, f"must return at most k = {K} indices")
    if part.per_query:
        one_by_one = [fitted.select(q, K, rng=generator(0, i)) for i, q in enumerate(questions)]
        together = fitted.select_all(questions, K, rngs=[generator(0, i) for i in range(len(questions))])
        _must(together == one_by_one, part, "must choose the same for many questions at once as for each")
    for n in (1, 2):
        few = part.fit(pool[:n], model=model, rng=_rng()).select(asked[0], K, rng=_rng())
        _must(set(few) <= set(range(n)), part, f"must be able to choose from a pool of {n}")


def _check_composer(part: Composer, task: Task, model: TaskModel) -> None:
    question = task.test[0].question
    fitted = part.fit(task.train, model=model, rng=_rng())
    for shown in ((), task.train[:2]):
        script = fitted.compose(task, shown, question)
        _must(script == fitted.compose(task, shown, question), part, "must say the same twice")
        said = " ".join(piece.text for piece in script.pieces)
        _must(question.input in said or fitted.rewrites, part, "must say the question")
        _must(script.pieces[-1].role != "answer", part, "must end where the answer begins")
        answers = [fitted.said(task, e.output, e.question) for e in shown]
        _must(all(text in said for text in answers), part, "must show the demonstrations' answers")
        model.layout.write(script)
    with TemporaryDirectory() as folder:
        fitted.save(Path(folder))
        again = _rebuilt(fitted, Path(folder), SLOTS["composer"].rebuild)
    same = again.compose(task, task.train[:1], question) == fitted.compose(task, task.train[:1], question)
    _must(same, part, "must say the same when what it remembers was saved and read again")
    told = {text: fitted.said(task, text, question) for text in task.labels or {e.output for e in task.train}}
    _must(len(set(told.values())) == len(told), part, "must tell answers apart")
    heard = all(fitted.heard(task, said, question) == text for text, said in told.items())
    _must(heard, part, "must hear from what it says of an answer that it is that one")
    if part.considers:
        _check_considering(fitted, task, model)
    other = fitted.compose(task, (), task.test[1].question)
    _must(other != fitted.compose(task, (), question), part, "must say different questions in different words")
    marked = dataclasses.replace(question, meta={"gold": SECRET})
    same = fitted.compose(task, task.train[:1], marked) == fitted.compose(task, task.train[:1], question)
    _must(same, part, "must not say what stands in a question's meta")


def _check_considering(fitted: Composer, task: Task, model: TaskModel) -> None:
    model = dataclasses.replace(model, composer=fitted)
    asked = [((), question) for question in _hidden(task.test)]
    together = fitted.consider(asked, model=model, seed=0)
    alone = [found for one in asked for found in fitted.consider([one], model=model, seed=0)]
    _must(together == alone, fitted, "must find out the same about questions that are asked together as about each")
    for (shown, question), found in zip(asked, together, strict=True):
        try:
            read = from_json(to_json(found))
        except (TypeError, ValueError) as error:
            raise ContractError(f"{type(fitted).__name__} must find out what is JSON: {error}.") from error
        said = fitted.knowing(found).compose(task, shown, question)
        _must(said == fitted.knowing(read).compose(task, shown, question), fitted, "must say the same of what was read")
        _must(question.input in " ".join(piece.text for piece in said.pieces), fitted, "must say the question")


def _check_generator(part: Generator, task: Task, model: TaskModel) -> None:
    made, again = (part.generate(task.train, model=model, rng=_rng()) for _ in range(2))
    _must(made == again, part, "must make the same with the same rng")
    known = {e.id for e in task.train}
    ids = [e.id for e in made.examples]
    _must(len(set(ids)) == len(ids) and not known & set(ids), part, "must give its examples ids of their own")
    _must(all(e.is_made for e in made.examples), part, 'must mark its examples with meta["made"]')
    labels_hold = task.is_open or all(e.output in task.labels for e in made.examples)
    _must(labels_hold, part, "must make examples with outputs of the task")


def _check_loop(part: Loop, task: Task, model: TaskModel) -> None:
    asked = (dataclasses.replace(model, traces=Traces()) for _ in range(2))
    found, again = (part.run(task.train, model=one, rng=_rng()) for one in asked)
    _must(found == again, part, "must leave the same with the same rng")
    are_texts = isinstance(found.notes, tuple) and all(isinstance(note, str) and note for note in found.notes)
    _must(are_texts, part, "must leave notes as a tuple of texts")


def _check_tuner(part: Tuner, task: Task, model: TaskModel) -> None:
    seen, parts = task.train[:6], [part] * 2
    if part.passes:
        training = cast(TunableModel, model.model).trainable(part.training, seed=0)
        model = dataclasses.replace(model, model=training)
        parts = [part.choosing(seen, model=model, number=0, rng=_rng()) for _ in range(2)]
        part = parts[0]
        _must(part.steps > 0, part, "must have steps in a pass")
    for step in range(part.steps):
        made = [one.lessons(seen, lambda: seen[:2], step=step, rng=_rng()) for one in parts]
        _must(made[0] == made[1], part, "must teach the same with the same rng")
        _must(bool(made[0]), part, "must teach something in each step")
        for lesson in made[0]:
            is_seen = lesson.target.is_made if lesson.is_apart else lesson.target in seen
            is_seen |= bool(lesson.asked) and lesson.target.question in _hidden(seen)  # another answer is asked for
            _must(is_seen, part, 'must teach examples that it has seen, or made ones with meta["made"]')
            _must(lesson.target not in lesson.demonstrations, part, "must not show a lesson's own target")
            _must(len(lesson.demonstrations) <= max(part.k, 2), part, "must show at most k demonstrations")
            model.training_text(lesson)
    _must(bool(part.lessons(seen[:1], lambda: (), step=0, rng=_rng())), part, "must teach from one example")


def _check_teacher(part: Teacher, task: Task, model: TaskModel) -> None:
    seen = task.train[:6]
    given = [Lesson((), seen[0]), Lesson((seen[1],), seen[2])]
    found, again = (part.lessons(given, seen, step=0, rng=_rng()) for _ in range(2))
    _must(found == again, part, "must teach the same with the same rng")
    for lesson in found:
        _must(lesson.target not in (lesson.teacher or ()), part, "must not show the teacher a lesson's own target")
        model.training_text(lesson)
    _must(hasattr(part.objective, "reads"), part, "must have an objective of kshot.core.objective_settings")
    how: Any = {"student": model, "before": model, "selecting": model, "shown": tuple}
    looked, same = (part.compare(seen, **how, rng=_rng()) for _ in range(2))
    _must(looked == same, part, "must find out the same with the same rng")
    _must(looked is None or part.sees_mistakes, part, "must see mistakes where it compares")
    found = {} if looked is None else {seen[-1].id: from_json(to_json(looked))}
    asked, again = (part.ask(seen, model=model, rng=_rng()) for _ in range(2))
    _must(asked == again, part, "must ask the same with the same rng")
    knowledge = Knowledge(frozenset(e.id for e in seen), found, asked=lambda: asked)
    for lesson in part.lessons([Lesson((), seen[-1])], seen, step=0, rng=_rng(), knowledge=knowledge):
        model.training_text(lesson)


def _check_steerer(part: Steerer, task: Task, model: TaskModel) -> None:
    known = task.train[: max(6, part.least)]
    found, again = (part.fit(known, model=model, rng=_rng()) for _ in range(2))
    _must(found.fingerprint == again.fingerprint, part, "must find the same with the same rng")
    _must(bool(np.isfinite(model.bits_under([found], known)).all()), part, "must leave outputs that are numbers")


def _check_classifier(part: Classifier, task: Task, model: TaskModel) -> None:
    questions = _hidden(task.test)
    for past in ((), task.train[:1], task.train):
        if part.writes:
            _check_written(part, task, past)
            continue
        found, again = (part.fit(task, past, rng=_rng()).probabilities(questions) for _ in range(2))
        for question, row, same in zip(questions, found, again, strict=True):
            _must(bool((row == same).all()), part, "must say the same with the same rng")
            _must(row.shape == (len(task.candidates(question)),), part, "must give one probability per candidate")
            _must(bool((row >= 0).all()) and abs(row.sum() - 1) < 1e-6, part, "must give probabilities that sum to 1")


def _check_written(part: Classifier, task: Task, past: Sequence[Example]) -> None:
    found, again = (part.fit(task, past, rng=_rng()) for _ in range(2))
    for example in task.test:
        texts = [fitted.written(example.question) for fitted in (found, again)]
        _must(bool(texts[0]) and texts[0] == texts[1], part, "must write the same with the same rng")
        log = found.log_prob(example.question, example.output)
        _must(bool(np.isfinite(log)) and log <= 0, part, "must give a log-probability of an answer, 0 at most")


def _check_combiner(part: Combiner, task: Task, model: TaskModel) -> None:
    rows = ((0.7, 0.2, 0.1), (0.2, 0.5, 0.3))
    members = [_says(task, row) for row in rows]
    _check_combined(part, task, members)
    alone = part.combine(task, members[:1])
    _must(np.allclose(alone.probs, members[0].probs), part, "must say of one member what that says")
    past = [_answered(task, example) for example in (*task.train, *task.train)]
    fitted, again = (part.fit(task, past).knowing(task, task.train) for _ in range(2))
    _must(isinstance(fitted, type(part)), part, "must return a combiner of its own kind from fit")
    _must(fitted.combine(task, members) == again.combine(task, members), part, "must learn the same from the same past")
    _check_combined(fitted, task, members)
    kept, indices = fitted.kept(len(members))
    in_order = list(indices) == sorted(set(indices)) and set(indices) <= set(range(len(members)))
    _must(bool(indices) and in_order, part, "must keep some of its members, in their order")
    inside = [members[i] for i in indices]
    same = np.allclose(kept.combine(task, inside).probs, fitted.combine(task, members).probs)
    _must(same, part, "must say the same without the members that it does not keep")
    _must(isinstance(kept.asks(task, members[:1]), bool), part, "must say whether the next member is asked")
    ready = kept.with_calibrations([{"temperature": 1.0}] * len(indices)) if part.learns else kept
    _must(ready.has_learnt and ready.holds(task, len(indices)), part, "must hold after it was fitted")
    with TemporaryDirectory() as folder:
        ready.save(Path(folder))
        read = type(part).rebuilt(part.record()["settings"], Path(folder))
    same = read.combine(task, inside) == ready.combine(task, inside) and read.has_learnt
    _must(same, part, "must say the same when what it remembers was saved and read again")


def _says(task: Task, row: Sequence[float]) -> Prediction:
    """Return a prediction with these probabilities, of a recipe that asks a model."""
    answer = task.labels[int(np.argmax(row))]
    return Prediction("x", task.labels, tuple(np.log(row).tolist()), tuple(row), answer, prompt_tokens=10)


def _answered(task: Task, example: Example) -> Answered:
    """Return what two members have said of an example, the first more sure of the truth than the second."""
    said = []
    for right in (0.6, 0.4):
        row = np.full(len(task.labels), (1 - right) / (len(task.labels) - 1))
        row[task.labels.index(example.output)] = right
        said.append(_says(task, row.tolist()))
    return Answered(example, tuple(said), tuple(code_length_bits(task, example.output, p) for p in said))


def _check_combined(part: Combiner, task: Task, members: Sequence[Prediction]) -> None:
    found, again = (part.combine(task, members) for _ in range(2))
    _must(isinstance(found, Prediction), part, "must return a prediction")
    _must(found == again, part, "must say the same twice")
    _must(abs(sum(found.probs) - 1) < 1e-6 and min(found.probs) >= 0, part, "must give probabilities that sum to 1")
    best = found.candidates[int(np.argmax(found.probs))]
    _must(found.answer == best, part, "must answer what it finds most probable")


def _check_gate(part: Gate, task: Task, model: TaskModel) -> None:
    attempt = {"reason": "It is one.\nSo it is.", "step_scores": [0.9, 0.6]}
    rows = ((0.7, 0.2, 0.1), (0.4, 0.35, 0.25))
    said = [dataclasses.replace(_says(task, row), found=(attempt,), disagreement=0.5) for row in rows]
    doubts, again = ([part.doubt(task, one) for one in said] for _ in range(2))
    _must(doubts == again, part, "must doubt the same answer as much each time")
    _must(all(np.isfinite(doubt) and doubt >= 0 for doubt in doubts), part, "must say a doubt of 0 or more")
    for past in ([], doubts):
        most = part.most(past)
        _must(most is None or bool(np.isfinite(most)), part, "must say the doubt up to which it asks nobody, or None")
        _must(most == part.most(past), part, "must say the same limit for the same past")


def _check_judge(part: Judge, task: Task, model: TaskModel) -> None:
    reasons = [(question, ("It is one.", "So it is.")[: i + 1]) for i, question in enumerate(_hidden(task.test[:2]))]
    found, again = (part.scores(reasons, model=model) for _ in range(2))
    _must(found == again, part, "must give the same scores each time")
    _must(len(found) == len(reasons), part, "must return scores for each reason")
    for (_, steps), scores in zip(reasons, found, strict=True):
        _must(len(scores) in (0, len(steps)), part, "must give a score for each step of a reason, or none")
        _must(all(0 <= score <= 1 for score in scores), part, "must give scores in 0..1")


def _check_evaluator(part: Evaluator, task: Task, model: TaskModel) -> None:
    other = {e.output: task.test[i - 1].output for i, e in enumerate(task.test)}
    known = tuple(dataclasses.replace(e, meta={"memory_answer": other[e.output]}) for e in task.test)
    task = dataclasses.replace(task, test=known)
    cases, again = (part.cases(task, rng=_rng()) for _ in range(2))
    _must(cases == again, part, "must ask the same with the same rng")
    _must(bool(cases) or part.asks_model, part, "must ask something")
    rows = [Prediction(c.example.id, task.labels, (0.0,) * 3, (1 / 3,) * 3, task.labels[0]) for c in cases]
    try:
        to_json(told(part.report(task, cases, rows), rng=_rng()))
        beside = [told(part.beside(task, model, rng=_rng()), rng=_rng()) for _ in range(2)]
        _must(to_json(beside[0]) == to_json(beside[1]), part, "must measure the same with the same rng")
    except (TypeError, ValueError) as error:
        raise ContractError(f"{type(part).__name__} must report JSON: {error}.") from error


def _check_study(part: Study, task: Task, model: TaskModel) -> None:
    made, again = (part.sample(8, rng=_rng()) for _ in range(2))
    _must(made.fingerprint == again.fingerprint, part, "must make the same task with the same rng")
    _must(len({e.input for e in made.train}) == 8, part, "must make as many different inputs as it is asked for")
    _must(len({e.output for e in made.train}) > 1, part, "must make tasks with two outputs or more")
    for n in (0, 4):
        question = made.train[n].question
        row = part.best(made, made.train[:n], question)
        _must(abs(row.sum() - 1) < 1e-6, part, "must know a best answer whose probabilities sum to 1")


def _check_experiment(part: Experiment, task: Task, model: TaskModel) -> None:
    cells, tiny = part.cells(), 1e-9  # of the usual steps: one is taken
    _must(bool(cells), part, "must have cells")
    _must(len({cell.name for cell in cells}) == len(cells), part, "must have cells with names of their own")
    rows = []
    try:
        for i, cell in enumerate(cells):
            found = [
                to_json(part.run(cell, rng=generator(0, cell.name), progress=Silence(), scale=tiny))
                for _ in range(1 if i else 2)
            ]
            _must(found[0] == found[-1], part, "must measure the same with the same rng")
            rows += [{**cell.settings, **row, "cell": cell.name} for row in from_json(found[0])]
        out = part.findings(rows)
        to_json(out.to_json())
    except (TypeError, ValueError) as error:
        raise ContractError(f"{type(part).__name__} must return JSON: {error}.") from error
    _must(bool(out.plots and out.table and out.claims), part, "must find figures, a table and claims")
    for plot in out.plots:
        _must(all(len(c.x) == len(c.y) > 0 for c in plot.curves), part, "must draw curves with an x for each y")


_CHECKS: dict[type, Callable[..., None]] = {
    Selector: _check_selector,
    Composer: _check_composer,
    Generator: _check_generator,
    Loop: _check_loop,
    Tuner: _check_tuner,
    Teacher: _check_teacher,
    Steerer: _check_steerer,
    Classifier: _check_classifier,
    Combiner: _check_combiner,
    Gate: _check_gate,
    Judge: _check_judge,
    Evaluator: _check_evaluator,
    Study: _check_study,
    Experiment: _check_experiment,
}
