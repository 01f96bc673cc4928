"""What kind of problem a question is, without its names and things."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

_SAID = ("category", "refinement", "scope", "goal", "steps", "relations")
_LINE = re.compile(rf"\s*[-*]*\s*\**({'|'.join(_SAID)})\**\s*:\**\s*(.*)", re.IGNORECASE)
_LISTS = re.compile(r"\s*;\s*")
MOST_LISTED = 12


@dataclass(frozen=True)
class ProblemSchema:
    """The structure of a problem.

    Attributes:
        category: What kind of problem it is, broadly.
        refinement: What kind of it.
        scope: What it is made of, such as how many numbers.
        goal: What is wanted.
        steps: What has to be done, in order.
        relations: How its parts depend on each other.
    """

    category: str = ""
    refinement: str = ""
    scope: str = ""
    goal: str = ""
    steps: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A line for each field that says something."""
        said = [(f.name.capitalize(), getattr(self, f.name)) for f in fields(self)]
        return "\n".join(f"{name}: {v if isinstance(v, str) else '; '.join(v)}" for name, v in said if v)

    @property
    def record(self) -> dict[str, Any]:
        """Its fields, as JSON."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the schema of a record."""
        values: dict[str, Any] = {name: v if isinstance(v, str) else tuple(v) for name, v in record.items()}
        return cls(**values)

    def united(self, other: "ProblemSchema") -> "ProblemSchema":
        """Return it with what another one says where it is silent."""
        return ProblemSchema(
            self.category or other.category,
            self.refinement or other.refinement,
            self.scope or other.scope,
            self.goal or other.goal,
            self.steps or other.steps,
            self.relations or other.relations,
        )


WORKED = ProblemSchema(
    "word problem with numbers",
    "an amount that changes",
    "three numbers of one kind",
    "the amount in the end",
    ("start with an amount", "take away", "add"),
    ("one after the other",),
)
ASKED = f"""Describe what kind of problem it is, without its names and things.

Problem: Tom had 12 marbles. He gave 5 to a friend and then bought 3 more. How many marbles does he have now?
{WORKED.text}

Problem: {{problem}}
Category:"""
ADAPTED = """A solved problem, and what kind of problem it is:

Problem: {example}
{known}
Answer: {answer}

What kind of problem is the next one? Keep what holds for both, and correct what does not.

Problem: {problem}
{schema}

Corrected:
Category:"""


def read(text: str) -> ProblemSchema | None:
    """Return the schema that a model has written after "Category:"; None where that is all it says, or a copy.

    A copy has the steps and relations of the worked example (`WORKED`), as small models write for any problem. Each
    field is a line "Name: …", in any order; the first of a name counts, other lines are passed over, and what is
    missing is empty.
    """
    found: dict[str, str] = {}
    first, *lines = text.strip().split("\n")
    for line in (first if _LINE.match(first) else f"category: {first}", *lines):
        if match := _LINE.match(line):
            found.setdefault(match[1].lower(), match[2].strip(" *"))
    values: dict[str, Any] = {name: found.get(name, "") for name in _SAID[:4]}
    values |= {name: _listed(found.get(name, "")) for name in _SAID[4:]}
    is_copy = (values["steps"], values["relations"]) == (WORKED.steps, WORKED.relations)
    return (
        ProblemSchema(**values) if values["category"] and sum(map(bool, values.values())) > 1 and not is_copy else None
    )


def _listed(text: str) -> tuple[str, ...]:
    items = (item.strip(" .") for item in _LISTS.split(text))
    return tuple(dict.fromkeys(item for item in items if item))[:MOST_LISTED]
