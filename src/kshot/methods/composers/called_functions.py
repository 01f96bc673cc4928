"""Python functions that are asked about, after summaries of what they call: an analogue of a plug-in of an editor."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

from kshot.core.fields import setting, state
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.composers.asking import can_be_said, can_write, written
from kshot.methods.composers.call_graph import CallGraph, call_graph, n_functions, python_in
from kshot.methods.contracts import Composer
from kshot.taskmodel.taskmodel import TaskModel

SUMMARY_TOKENS = 40
MOST_FUNCTIONS = 1000  # of one source, as what each of them reaches is kept
ASKED = '''{known}{source}

"""What `{name}` does, in one sentence:'''


@dataclass(frozen=True)
class Calls(Composer):
    """An analogue of SmartDoc: say in a sentence what each function does that the asked one calls, before its text.

    SmartDoc writes comments for Java methods inside an editor; here a question's input or context is Python source. The
    calls are read from its syntax tree. From the function that is asked about they are followed depth first, and what
    is called is summarised before what calls it: by the first line of its docstring, or in a sentence that the model
    writes of its text and of the summaries of what that calls in turn. Functions that call each other in a circle are
    summarised without each other. A summary is kept by a hash of the function's text and of all texts that it
    reaches, so that none is written twice, and an edit makes those anew that reach it. Cost: 40 tokens for
    each function, once.

    The function that is asked about is the one that the input holds (of several, each that no other one calls), or
    whose name the input says where the context holds the source. Where there is no Python that parses, or no function
    in it, the prompt is the usual one, and what was found out says why.

    Attributes:
        summary: Where summaries come from: the "docstring", or the function's first line where it has none; the
            "model"; "auto" is the docstring, and the model where there is none.
        most: The most summaries that are said: those of the functions that are called most directly.

    Source: SmartDoc (2025), A Context-Aware Agentic Method Comment Generation Plugin, sections on the call graph and
    its memory; no public text at hand, known from its description.
    Differs: an analogue: Python and its `ast` in place of Java in an editor; nobody edits the summaries; several
    functions that call each other share no summaries.
    """

    summary: str = setting("auto", choices=("auto", "docstring", "model"))
    most: int = setting(16, least=1, most=1000)
    _summaries: tuple[tuple[str, str], ...] = state(())
    _memory: dict[tuple[str, str], str] = field(default_factory=dict, repr=False, compare=False)  # of this process

    considers = True
    version = 2

    def missing_field(self, task: Task) -> str | None:
        """Return "Python functions" where no row of the task has one."""
        rows = (*task.train, *task.test)
        return None if any(isinstance(_read(row.question), _Read) for row in rows) else "Python functions"

    def save(self, folder: Path) -> None:
        """Write nothing: summaries are written again."""

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, the summaries before the question and its context."""
        usual = UsualWording().compose(task, shown, question)
        if not self._summaries:
            return usual
        n_asked = 2 if question.context else 1
        lines = (f"{name}: {summary}" for name, summary in self._summaries)
        said = Piece("note", "\n".join(("What is called:", *lines)), question.id)
        return replace(usual, pieces=(*usual.pieces[:-n_asked], said, *usual.pieces[-n_asked:]))

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return it with the summaries that are said."""
        return replace(self, _summaries=tuple((name, text) for name, text in found["summaries"]))

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Summarise what each question's function calls.

        Returns:
            For each question the names "about" which it is, and the "summaries" that are said, (name, text) of each,
            called ones before those that call them; "left_out", how many are not said, as they are too many or too
            long; and "why" there are none.
        """
        read = [_read(question) for _, question in asked]
        known = self._summarised([one for one in read if isinstance(one, _Read)], model)
        found = []
        for (_, question), one in zip(asked, read, strict=True):
            about: dict[str, Any] = {"about": [], "summaries": [], "left_out": 0, "why": one}
            if isinstance(one, _Read):
                summaries = self._that_fit(one, known, question, model)
                left_out = len(one.called) - len(summaries)
                why = "" if summaries else "summaries are too long" if left_out else "it calls nothing"
                about = {"about": list(one.names), "summaries": summaries, "left_out": left_out, "why": why}
            found.append(about)
        return found

    def _summarised(self, read: Sequence["_Read"], model: TaskModel) -> dict[str, str]:
        """Return a summary for the key of each function that is called, called ones before those that call them."""
        writer = model.model.fingerprint if self.summary != "docstring" and can_write(model) else ""
        found: dict[str, str] = {}
        left = {one.graph.keys[name]: (one.graph, name) for one in read for name in one.called}
        while left:
            ready, prompts = [], {}
            for key, (graph, name) in left.items():
                below = [other for other in graph.below(name) if graph.keys[other] in found]
                if len(below) < len(graph.below(name)):
                    continue
                ready.append(key)
                own = graph.functions[name]
                if (self.summary != "model" and own.docstring) or not writer:
                    found[key] = own.docstring or own.source.strip().split("\n")[0]
                elif (writer, key) in self._memory:
                    found[key] = self._memory[writer, key]
                else:
                    known = "".join(f"# {other}: {found[graph.keys[other]]}\n" for other in below)
                    prompts[key] = ASKED.format(known=known, source=own.source, name=name)
            texts = written(model, prompts.values(), max_tokens=SUMMARY_TOKENS, stop=("\n",))
            for key, prompt in prompts.items():
                graph, name = left[key]
                text = texts.get(prompt, "").strip(' "`')
                found[key] = self._memory[writer, key] = text or graph.functions[name].source.strip().split("\n")[0]
            for key in ready:
                del left[key]
        return found

    def _that_fit(
        self, one: "_Read", known: Mapping[str, str], question: Question, model: TaskModel
    ) -> list[list[str]]:
        """Return the summaries that fit the model, called functions first; the farthest are left out."""
        for n in range(min(self.most, len(one.called)), 0, -1):
            near = set(one.by_distance[:n])
            found = [[name, known[one.graph.keys[name]]] for name in one.called if name in near]
            if can_be_said(replace(model, composer=self.knowing({"summaries": found})), question):
                return found
        return []


@dataclass(frozen=True)
class _Read:
    """What a question's Python is about.

    Attributes:
        names: The functions that are asked about.
        called: What these call, called ones before those that call them.
    """

    graph: CallGraph
    names: tuple[str, ...]
    called: tuple[str, ...]

    @cached_property
    def by_distance(self) -> tuple[str, ...]:
        """What is called, most directly first: breadth first, in the order of the calls."""
        order, seen, called = list(self.names), set(self.names), set(self.called)
        for name in order:  # it grows on the way
            for other in self.graph.functions[name].calls:
                if other not in seen:
                    seen.add(other)
                    order.append(other)
        return tuple(name for name in order if name in called)


def _read(question: Question) -> _Read | str:
    return _read_text(question.input, question.context or "")


@lru_cache(maxsize=256)
def _read_text(asked: str, context: str) -> _Read | str:
    """Return what an input's Python is about, with that of its context, or why it is about none."""
    inside, around = python_in(asked), python_in(context)
    is_own = bool(inside and n_functions(inside))
    if not is_own and not around:
        return "no Python that can be parsed"
    source = "\n\n".join(some for some in (around, inside if is_own else None) if some)
    if n_functions(source) > MOST_FUNCTIONS:  # before their calls are followed
        return f"more than {MOST_FUNCTIONS} functions"
    graph = call_graph(source)
    own = graph if source == inside else call_graph(inside) if is_own and inside else CallGraph({})
    names = own.roots or tuple(own.functions)[:1]
    if not is_own:
        words = set(re.findall(r"[\w.]*\w", asked))
        names = tuple(name for name in graph.functions if {name, name.rpartition(".")[2]} & words)
    if not names:
        return "the input names no function of the source"
    return _Read(graph, names, graph.reached(*names))
