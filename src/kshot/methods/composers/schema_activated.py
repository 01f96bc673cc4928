"""What kind of problem a question is, said before it, with a solved problem of the same kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.fields import setting, state
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.encoders.encoder import load_encoder
from kshot.methods.composers.asking import can_be_said, written
from kshot.methods.composers.problem_schema import ADAPTED, ASKED, ProblemSchema, read
from kshot.methods.composers.schema_rules import told_by_rules
from kshot.methods.contracts import Composer
from kshot.methods.embeds import Embeds
from kshot.taskmodel.taskmodel import TaskModel

SCHEMA_TOKENS, STOP, PROBED = 120, "\nProblem:", 8


@dataclass(frozen=True)
class SchemaActivated(Embeds, Composer):
    """Say before the question what kind of problem it is, after the examples whose problems are most of that kind.

    A schema is a category, a refinement of it, a scope, a goal, steps and relations (`ProblemSchema`). In five stages:
    the schema S of the question is written; the schemas of the past that are nearest to it are looked up, by the cosine
    of their texts; of examples with equal schemas those come first whose own text is nearer; S is adapted to the
    nearest one and its example; and what came of that is said before the question, after the examples. So a problem
    that is solved in the same way is found though it is about other things.

    Cost: a schema of 100 tokens is written for each example that is remembered, once in a run, and one or two for each
    question; nothing is written with `extractor=rules`.

    Attributes:
        encoder: "minilm", or a sentence-transformers hub id or folder.
        extractor: Who says what kind of problem it is: the "model", whose text is dropped where it is no schema;
            "rules", which know words of arithmetic and of logic and little else; "auto" is the model, and the rules
            where its text is dropped. Where of the first 8 examples it has described less than half, or there is none,
            it is the rules for all, as schemas in the same words are found by each other.
        by: What examples are looked up by: their "schema", or the "text" of the question.
        examples: How many of them are shown, beside what the recipe's selector shows; 0 shows none.
        activate: Whether the schema is adapted to that of the nearest example: the model writes it again, and rules say
            both together. Otherwise it is said as it is.
        schema: Whether it is said.
        memory: The most examples that are remembered, the latest.

    Source: Chen et al. (2025), Schema for In-Context Learning (SA-ICL), https://arxiv.org/abs/2510.13905.
    Differs: associations have no weights that decay; the rules, the six fields and what is said of them are ours; one
    adaptation; what is looked up is only what the stream has answered before.
    """

    extractor: str = setting("auto", choices=("auto", "model", "rules"))
    by: str = setting("schema", choices=("schema", "text"))
    examples: int = setting(1, least=0, most=100)
    activate: bool = True
    schema: bool = True
    memory: int = setting(256, least=1, most=10_000)
    _by_model: bool = state(False)  # whether "auto" is the model
    _known: tuple[Mapping[str, Any], ...] = state(())
    _said: ProblemSchema | None = state()
    _near: tuple[str, ...] = state(())

    learns = True
    considers = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Write down what kind of problem each of the latest examples is."""
        latest = pool[-self.memory :]
        questions = [example.question for example in latest]
        if self.extractor == "auto":
            tried = self._extracted(questions[:PROBED], model, by_model=True)
            by_model = 2 * sum(by == "model" for _, by in tried) >= max(1, len(tried))
        else:
            by_model = self.extractor == "model"
        schemas = self._extracted(questions, model, by_model=by_model)
        known = tuple(
            {"id": e.id, "input": e.input, "output": e.output, "context": e.context, "schema": schema.record}
            for e, (schema, _) in zip(latest, schemas, strict=True)
        )
        return replace(self, _known=known, _by_model=by_model)

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, the schema right before the question and its context."""
        usual = UsualWording().compose(task, (*shown, *self._added(shown)), question)
        if not (self.schema and self._said):
            return usual
        n_asked = 2 if question.context else 1
        said = Piece("schema", self._said.text, question.id)
        return replace(usual, pieces=(*usual.pieces[:-n_asked], said, *usual.pieces[-n_asked:]))

    def _added(self, shown: Sequence[Example]) -> list[Example]:
        """Return the examples that were looked up and are not shown anyway."""
        known, ids = {one["id"]: one for one in self._known}, {example.id for example in shown}
        return [_example(known[i]) for i in self._near if i in known and i not in ids]

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return it with the schema that is said and the examples that were looked up."""
        said = found["said"]
        return replace(self, _said=said and ProblemSchema.of_record(said), _near=tuple(found["near"]))

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Find each question's schema, and the examples of that kind.

        Returns:
            For each question its "schema", "by" whom, the schema that is "said" (None: none) and the ids of the
            examples that are shown beside, the "near" ones, the nearest last.
        """
        questions = [question for _, question in asked]
        schemas = self._extracted(questions, model, by_model=self._by_model)
        near = [self._nearest(q, schema) for q, (schema, _) in zip(questions, schemas, strict=True)]
        said = [schema for schema, _ in schemas]
        if self.activate and self.schema:
            said = self._activated(questions, said, near, model)
        found = []
        for question, (schema, by), some, activated in zip(questions, schemas, near, said, strict=True):
            ids = [self._known[i]["id"] for i in some[len(some) - self.examples :]] if self.examples else []
            about = {"schema": schema.record, "by": by}
            found.append(about | self._that_fits(activated.record if activated.text else None, ids, question, model))
        return found

    def _that_fits(
        self, said: Mapping[str, Any] | None, ids: Sequence[str], question: Question, model: TaskModel
    ) -> dict[str, Any]:
        """Return what is said with the nearest examples that fit the model; where none does, with no schema either."""
        for n in range(len(ids), -1, -1):
            found = {"said": said, "near": list(ids[len(ids) - n :])}
            if can_be_said(replace(model, composer=self.knowing(found)), question):
                return found
        return {"said": None, "near": []}

    def _extracted(
        self, questions: Sequence[Question], model: TaskModel, *, by_model: bool
    ) -> list[tuple[ProblemSchema, str]]:
        """Return each question's schema, and who has told it; an empty one where nobody could."""
        texts: dict[str, str] = {}
        prompts = {question.input: ASKED.format(problem=question.input.strip()) for question in questions}
        if by_model:
            texts = written(model, prompts.values(), max_tokens=SCHEMA_TOKENS, stop=(STOP,))
        found = []
        for question in questions:
            schema = read(texts.get(prompts[question.input], ""))
            if schema is None and self.extractor != "model":
                found.append((told_by_rules(question.input), "rules"))
            else:
                found.append((schema or ProblemSchema(), "model"))
        return found

    def _nearest(self, question: Question, schema: ProblemSchema) -> list[int]:
        """Return the places of the nearest examples, the nearest last: as many as are shown, one at least."""
        others = [i for i, one in enumerate(self._known) if one["id"] != question.id]
        n = min(max(1, self.examples), len(others))
        if n and self.by == "schema" and schema.text:
            texts = [ProblemSchema.of_record(self._known[i]["schema"]).text for i in others]
            cosines = self._cosines(schema.text, texts)
        else:
            cosines = np.zeros(len(others))
        least = np.sort(cosines)[-n] if n else 0.0
        some = [(cosine, i) for cosine, i in zip(cosines.tolist(), others, strict=True) if cosine >= least]
        if len(some) > n:  # equal schemas, or none: their texts tell
            close = self._cosines(question.text, [_example(self._known[i]).text for _, i in some])
            some = [(cosine, text, i) for (cosine, i), text in zip(some, close.tolist(), strict=True)]
        return [one[-1] for one in sorted(some)[len(some) - n :]]

    def _cosines(self, text: str, others: Sequence[str]) -> NDArray[np.float64]:
        encoder = load_encoder(self.encoder)
        vector = encoder.embed([text])[0].astype(np.float64)
        return np.round(encoder.embed(others).astype(np.float64) @ vector, 9)  # equal texts tie, as in `dense`

    def _activated(
        self,
        questions: Sequence[Question],
        schemas: Sequence[ProblemSchema],
        near: Sequence[Sequence[int]],
        model: TaskModel,
    ) -> list[ProblemSchema]:
        """Return each schema adapted to that of the nearest example; as it is where there is none."""
        prompts, texts = dict[int, str](), dict[str, str]()
        for i, (question, schema, some) in enumerate(zip(questions, schemas, near, strict=True)):
            if some and schema.text:
                one = self._known[some[-1]]
                known = ProblemSchema.of_record(one["schema"]).text
                prompts[i] = ADAPTED.format(
                    example=one["input"].strip(),
                    known=known,
                    answer=one["output"],
                    problem=question.input.strip(),
                    schema=schema.text,
                )
        if self._by_model:
            texts = written(model, prompts.values(), max_tokens=SCHEMA_TOKENS, stop=(STOP,))
        found = list(schemas)
        for i, prompt in prompts.items():
            other = ProblemSchema.of_record(self._known[near[i][-1]]["schema"])
            found[i] = read(texts.get(prompt, "")) or schemas[i].united(other)
        return found


def _example(one: Mapping[str, Any]) -> Example:
    """Return an example that was remembered."""
    return Example(one["input"], one["output"], one["id"], context=one["context"])
