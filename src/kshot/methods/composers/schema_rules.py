"""What rules tell of the kind of a problem: numbers, units, operators, the question's word, and verbs.

Every word of such a schema comes from the tables here, so that nothing of what the problem is about is left in it.
"""

import re
from collections.abc import Mapping

from kshot.methods.composers.problem_schema import ProblemSchema

_NUMBER = re.compile(
    r"(?<![\w.])\d+(?:[.,]\d+)*|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred)\b", re.I
)
_OPERATION = re.compile(r"\d\s*[-+*/×÷^]\s*[-(]?\d|\b(?:True|False)\b.*\b(?:and|or|not)\b")
_OPTION = re.compile(r"^\s*(?:\([A-Z]\)|[A-Z][.)]|-)\s", re.MULTILINE)
_ASKED = re.compile(r"\b(how many|how much|how long|how old|how far|how|what|which|who|whose|when|where|why)\b", re.I)
_OF_AMOUNTS = frozenset(("how many", "how much", "how long", "how old", "how far", "what", "which", ""))
_YES_NO = re.compile(r"^(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had)\b", re.I)
_UNITS = {
    "money": r"\$|€|£|\b(?:dollars?|cents?|euros?|pounds?|quarters?|dimes?|nickels?|price|cost|costs)\b",
    "time": r"\b(?:seconds|minutes?|hours?|days?|weeks?|months?|years?|\d+ ?[ap]m)\b",
    "length": r"\b(?:inch(?:es)?|feet|foot|yards?|miles?|meters?|metres?|km|cm|kilomet(?:er|re)s?)\b",
    "weight or volume": r"\b(?:kg|grams?|kilograms?|ounces?|tons?|lit(?:er|re)s?|gallons?|cups?|pints?)\b",
    "share": r"%|\b(?:percent(?:age)?|fraction|half|halves|third|quarter|ratio|\d+/\d+)\b",
}
_OF_NUMBERS = {
    "take away": r"gave|gives?|given|lost|loses?|spent|spends?|ate|eats?|eaten|sold|sells?|used|uses|removed?|"
    r"poured out|cut down|handed out|broke|threw|thrown|donated|took|withdrew|died|leaves|flew away|left over|"
    r"deleted|melted|paid",
    "add": r"bought|buys?|got|gets?|found|finds?|received?|earned?|earns|picked|collect(?:s|ed)?|joined|added|adds|"
    r"more|altogether|in all|in total|total|combined|won|wins?|planted|scored|made|together|both",
    "multiply": r"each|every|per|times|twice|double|triple|rows of|at a rate of|apiece",
    "divide": r"split|shared?|divided?|equally|evenly|half|average|same number|(?:in|into) (?:\w+ )?(?:groups?|piles?|"
    r"boxes|bags|teams|rows|packs|pieces)|holds?|contain|could (?:he|she|they|it) (?:make|fill|buy)",
    "count the members of a kind": r"i have (?:an?|two|three|four|five)",
    "compare": r"than|as many as|difference|fewer|less",
}
_OTHERS = {
    "follow each move": r"turn|take \w+ steps?|steps? (?:forward|backward|left|right)",
    "follow each change": r"flips?|switch(?:es)?|swaps?|trades?|exchanges?",
    "put in order": r"(?:to|on) the (?:left|right) of|above|below|finished (?:first|second|last)|oldest|newest|older|"
    r"newer|taller|cheap\w*|expensive|leftmost|rightmost",
    "rule out times": r"from \w+ to \w+|woke up|closed after",
    "conclude from premises": r"premises?|necessary|sufficient|necessarily|valid|argument|whoever|therefore",
}
_RELATIONS = {
    "for each one": r"each|every|per|apiece",
    "more or less than": r"than|as many as|fewer",
    "not": r"not|no|never|neither|nor",
    "if": r"if|unless|whoever|whenever",
    "one after the other": r"then|after|before|later|next|first|finally|now|when",
    "all, some or none": r"all|some|none|any|every",
    "one beside the other": r"left of|right of|above|below|between|next to",
}
_GOALS = {
    "what is left": r"left|remain(?:s|ing)?|still|leftover",
    "the difference": r"how (?:many|much) (?:more|less|fewer|longer|older|taller)|difference",
    "the total": r"total|altogether|in all|combined|together|sum",
    "the part of each": r"(?:will|would|does|did|can|should) each|each .+ (?:get|have|cost|hold)|per|apiece",
    "the number of groups": r"how many (?:boxes|bags|groups|piles|teams|rows|packs|trips|tables|packages|pages|weeks|"
    r"days|hours|buses|shelves|pies)",
    "an amount of money": r"how much (?:money|does|did|will|would)|cost|price|pay|paid|earn|spend",
}


def told_by_rules(problem: str) -> ProblemSchema:
    """Return the schema that rules tell of a problem."""
    body = re.split(r"\n\s*options\s*:", problem, flags=re.IGNORECASE)[0].strip()
    n_options = len(_OPTION.findall(problem[len(body) :]))
    asking = re.split(r"(?<=[.!?])\s+", body)[-1]
    words = _ASKED.search(asking) or _ASKED.search(body)
    numbers = _NUMBER.findall(body)
    is_yes_no = bool(_YES_NO.match(asking)) or "- Yes" in problem
    refinement = words[1].lower() if words else ""
    if is_yes_no:
        refinement = "yes or no"
    if _OPERATION.search(body) and not words:
        category, refinement = "expression", refinement or "value"
    elif len(numbers) > 1 and not n_options and not is_yes_no and refinement in _OF_AMOUNTS:
        category = "word problem with numbers"
    else:
        category = "choice among options" if n_options else "question"
    units = [unit for unit, cues in _UNITS.items() if re.search(cues, body, re.IGNORECASE)]
    scope = [f"{len(numbers)} numbers"] * bool(numbers) + units + [f"{n_options} options"] * bool(n_options)
    goal = "true or false" if is_yes_no else "the right option" if n_options else "an answer"
    steps = _OTHERS
    if category == "word problem with numbers":
        goal, steps = next((goal for goal, cues in _GOALS.items() if _has(asking, cues)), goal), _OF_NUMBERS
    relations = tuple(name for name, cues in _RELATIONS.items() if _has(body, cues))
    return ProblemSchema(
        category, refinement or "to be completed", ", ".join(scope), goal, _told(body, steps), relations
    )


def _has(text: str, cues: str) -> bool:
    return bool(re.search(rf"\b(?:{cues})\b", text, re.IGNORECASE))


def _told(text: str, steps: Mapping[str, str]) -> tuple[str, ...]:
    """Return the steps that a text tells, in the order of the first words that do."""
    found = [(re.search(rf"\b(?:{cues})\b", text, re.IGNORECASE), step) for step, cues in steps.items()]
    return tuple(step for _, step in sorted((match.start(), step) for match, step in found if match))
