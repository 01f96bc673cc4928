"""Edits of facts, each with what must follow from it and what must not: made up here, or read from a user's file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kshot.core.errors import UserError, in_short
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json
from kshot.core.paths import path_of
from kshot.retrieval.note_memory import clean_note

EDITED, PARAPHRASE, NEIGHBOUR, RELATION = "edited", "paraphrase", "neighbour", "other_relation"
FOLLOWS, UNRELATED = (EDITED, PARAPHRASE), (NEIGHBOUR, RELATION)  # kinds of questions


@dataclass(frozen=True)
class Asked:
    """A question about an edit.

    Attributes:
        kind: One of `FOLLOWS`, or of `UNRELATED`.
        answer: The new one, of those that follow from the edit; empty for others.
        before: The answer before the edit, where it is known.
    """

    kind: str
    question: str
    answer: str = ""
    before: str | None = None


@dataclass(frozen=True)
class Edit:
    """A fact that is to be another from now on.

    Attributes:
        note: What is said of it, a sentence.
        asked: Questions that follow from it, and such that have nothing to do with it.
    """

    note: str
    asked: tuple[Asked, ...]


# country: capital, currency, a language that is spoken, continent; a model that has read knows many of them
_COUNTRIES = {
    "Norway": ("Oslo", "krone", "Norwegian", "Europe"),
    "Poland": ("Warsaw", "zloty", "Polish", "Europe"),
    "Japan": ("Tokyo", "yen", "Japanese", "Asia"),
    "Kenya": ("Nairobi", "shilling", "Swahili", "Africa"),
    "Peru": ("Lima", "sol", "Spanish", "South America"),
    "Hungary": ("Budapest", "forint", "Hungarian", "Europe"),
    "Thailand": ("Bangkok", "baht", "Thai", "Asia"),
    "Sweden": ("Stockholm", "krona", "Swedish", "Europe"),
    "Vietnam": ("Hanoi", "dong", "Vietnamese", "Asia"),
    "Iceland": ("Reykjavik", "krona", "Icelandic", "Europe"),
    "Mongolia": ("Ulaanbaatar", "tugrik", "Mongolian", "Asia"),
    "Nigeria": ("Abuja", "naira", "English", "Africa"),
    "Bulgaria": ("Sofia", "lev", "Bulgarian", "Europe"),
    "Chile": ("Santiago", "peso", "Spanish", "South America"),
    "Egypt": ("Cairo", "pound", "Arabic", "Africa"),
    "Denmark": ("Copenhagen", "krone", "Danish", "Europe"),
    "Italy": ("Rome", "euro", "Italian", "Europe"),
    "Ethiopia": ("Addis Ababa", "birr", "Amharic", "Africa"),
    "India": ("New Delhi", "rupee", "Hindi", "Asia"),
    "Brazil": ("Brasilia", "real", "Portuguese", "South America"),
    "Nepal": ("Kathmandu", "rupee", "Nepali", "Asia"),
    "Romania": ("Bucharest", "leu", "Romanian", "Europe"),
    "Iran": ("Tehran", "rial", "Persian", "Asia"),
    "Cambodia": ("Phnom Penh", "riel", "Khmer", "Asia"),
}
_GIVEN = ("Alma", "Boris", "Clara", "Dario", "Edda", "Felix", "Greta", "Hugo", "Irma", "Jonas", "Karin", "Leo")
_FAMILY = ("Anders", "Brandt", "Castell", "Dorn", "Eklund", "Farrow", "Grieg", "Holm", "Ivers", "Jansen", "Kron",
           "Lund")  # fmt: skip
_LIVES = {  # of people who never were
    "job": ("baker", "pilot", "judge", "tailor", "surgeon", "farmer", "painter", "plumber"),
    "birthplace": ("Leeds", "Porto", "Riga", "Ghent", "Turin", "Malmo", "Cork", "Bergen"),
    "instrument": ("violin", "trumpet", "harp", "drums", "flute", "cello", "organ", "banjo"),
}
# relation: note, question, two paraphrases; of `s`, with the answer `a`
_SAID = {
    "capital": ("The capital of {s} is {a}.", "What is the capital of {s}?", "Which city is {s}'s capital?",
                "What is the name of the city that is the capital of {s}?"),
    "currency": ("People in {s} pay with the {a}.", "What is the currency of {s}?", "What money is used in {s}?",
                 "With which currency do people pay in {s}?"),
    "language": ("The people of {s} speak {a}.", "What language do people speak in {s}?",
                 "Which language is spoken by the people of {s}?", "What is the main language of {s}?"),
    "continent": ("{s} is a country in {a}.", "On which continent is {s}?", "Which continent is {s} in?",
                  "What is the name of the continent that {s} belongs to?"),
    "job": ("{s} works as a {a}.", "What is the job of {s}?", "What does {s} work as?", "Which job does {s} have?"),
    "birthplace": ("{s} was born in {a}.", "Where was {s} born?", "In which city was {s} born?",
                   "What is the birthplace of {s}?"),
    "instrument": ("{s} plays the {a}.", "What instrument does {s} play?", "Which instrument is played by {s}?",
                   "What does {s} play in the orchestra?"),
}  # fmt: skip
_OF_COUNTRIES = ("capital", "currency", "language", "continent")
_THINGS = ("a lamp", "two maps", "a kettle", "old coins", "a rope", "six cups", "a drum", "blue paint", "a saw", "wool")
_PLACES = ("harbour hall", "town archive", "railway shed", "school cellar", "mill loft", "boat house")


MOST_EDITS = len(_COUNTRIES) // 2 + len(_GIVEN) // 2 * len(_FAMILY)


def made_edits(n: int, *, rng: np.random.Generator) -> list[Edit]:
    """Return edits of facts, in turn of countries, which models know, and of people who never were.

    Each has its question, two paraphrases, the same question of a neighbour (another country, or somebody of the same
    family), whom no edit is about, and a question on another relation of the same subject, which no edit is about
    either.

    Args:
        n: How many, `MOST_EDITS` at most; there are 12 of countries.
        rng: For every random choice.
    """
    names = [list(_COUNTRIES)[i] for i in rng.permutation(len(_COUNTRIES))]
    countries = list(zip(names[::2], names[1::2], strict=True))
    people = list[tuple[str, str]]()
    for family in _FAMILY:
        given = [f"{_GIVEN[i]} {family}" for i in rng.permutation(len(_GIVEN))]
        people += zip(given[::2], given[1::2], strict=True)
    people = [people[i] for i in rng.permutation(len(people))]
    edits = []
    for i in range(n):
        of_country = bool(countries) and (i % 2 == 0 or not people)
        subject, other = (countries if of_country else people).pop()
        relations = _OF_COUNTRIES if of_country else tuple(_LIVES)
        turn = int(rng.integers(len(relations)))
        relation, beside = relations[turn], relations[(turn + 1) % len(relations)]
        known: dict[str, str] = dict(zip(_OF_COUNTRIES, _COUNTRIES[subject], strict=True)) if of_country else {}
        before = known.get(relation)
        new = str(rng.choice([one for one in _answers(relation) if one != before]))
        note, *asked = (text.format(s=subject, a=new) for text in _SAID[relation])
        follow = [Asked(kind, text, new, before) for kind, text in zip((EDITED, *[PARAPHRASE] * 2), asked, strict=True)]
        neighbour = Asked(NEIGHBOUR, _SAID[relation][1].format(s=other))
        edits.append(Edit(note, (*follow, neighbour, Asked(RELATION, _SAID[beside][1].format(s=subject)))))
    return edits


def _answers(relation: str) -> tuple[str, ...]:
    """Return what can be said of a relation."""
    if relation in _LIVES:
        return _LIVES[relation]
    at = _OF_COUNTRIES.index(relation)
    return tuple(dict.fromkeys(facts[at] for facts in _COUNTRIES.values()))


def unrelated_notes(n: int) -> list[str]:
    """Return notes, all different, that no question of `made_edits` has to do with."""
    places, things = len(_PLACES), len(_THINGS)
    return [f"Shelf {i // places + 1} of the {_PLACES[i % places]} holds {_THINGS[i * 7 % things]}." for i in range(n)]


def edits_of(file: str) -> list[Edit]:
    """Read edits from a file: JSON lines or a JSON list, each entry in one of three forms.

    Ours: `note`, `question`, `answer`, and where there are some the lists `paraphrases`, `neighbours` and
    `other_relations`. CounterFact's, as it is published: `requested_rewrite`, `paraphrase_prompts` and
    `neighborhood_prompts`, whose questions are beginnings of sentences. Or a row of a task, as of EREN's hard set:
    `context`, which is the note, `input`, `output` and `context_relevant`, true or false.

    Raises:
        UserError: It cannot be read, an entry has none of the forms, or no question follows from an edit, or all do.

    Source: of CounterFact: Meng et al. (2022), Locating and Editing Factual Associations in GPT, section 3.3,
    https://arxiv.org/abs/2202.05262. Differs: read, not shipped.
    """
    place = path_of(file)
    try:
        text = text_of(place)
        is_list = text.lstrip().startswith("[")
        entries = from_json(text) if is_list else [from_json(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{place} must hold edits, as JSON lines or a JSON list; {in_short(error)}. Correct it, or name another."
        ) from None
    edits = [_edit(entry, f"{place}, entry {i}") for i, entry in enumerate(entries, 1)]
    kinds = {asked.kind for edit in edits for asked in edit.asked}
    if not (kinds & set(FOLLOWS) and kinds & set(UNRELATED)):
        raise UserError(
            f"{place} must ask questions that follow from edits, and others that do not; it has only one of the two. "
            "Add the other."
        )
    return edits


def _edit(entry: Any, where: str) -> Edit:
    try:
        if "requested_rewrite" in entry:
            return _of_counterfact(entry, where)
        if "context_relevant" in entry:
            if not isinstance(bears := entry["context_relevant"], bool):
                raise TypeError
            about = ("", None) if not bears else (entry["output"], entry.get("memory_answer"))
            asked = _asked([(EDITED if bears else NEIGHBOUR, entry["input"])], *about)
            return Edit(clean_note(entry["context"], f"{where}: context"), asked)
        answer, before = entry["answer"], entry.get("before")
        lists = {PARAPHRASE: "paraphrases", NEIGHBOUR: "neighbours", RELATION: "other_relations"}
        asked = [(EDITED, entry["question"]), *((k, text) for k, name in lists.items() for text in entry.get(name, ()))]
        return Edit(clean_note(entry["note"], f"{where}: note"), _asked(asked, answer, before))
    except (LookupError, TypeError, AttributeError):
        raise UserError(
            f"{where} must have note, question and answer, or requested_rewrite as CounterFact has it, or context, "
            "context_relevant (true or false), input and output, all of them texts. Correct it, or leave it out."
        ) from None


def _of_counterfact(entry: Mapping[str, Any], where: str) -> Edit:
    rewrite = entry["requested_rewrite"]
    begun, new = rewrite["prompt"].replace("{}", rewrite["subject"]), rewrite["target_new"]["str"]
    asked = [(EDITED, begun), *((PARAPHRASE, text) for text in entry.get("paraphrase_prompts", ()))]
    asked += [(NEIGHBOUR, text) for text in entry.get("neighborhood_prompts", ())]
    note = clean_note(f"{begun} {new}.", f"{where}: requested_rewrite")
    return Edit(note, _asked(asked, new, rewrite.get("target_true", {}).get("str")))


def _asked(asked: Sequence[tuple[str, str]], answer: str, before: str | None) -> tuple[Asked, ...]:
    texts = [text for _, text in asked] + [answer] * any(kind in FOLLOWS for kind, _ in asked)
    if not all(isinstance(text, str) and text.strip() for text in texts) or not isinstance(before, str | None):
        raise TypeError
    return tuple(Asked(k, text, answer, before) if k in FOLLOWS else Asked(k, text) for k, text in asked)
