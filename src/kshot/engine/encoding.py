"""From requests to token ids, segment by segment, with what must hold for the model to take them."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

from kshot.core.errors import ModelError, SameTokensError, UserError
from kshot.core.lessons import TrainingText
from kshot.core.steering import SPANS
from kshot.core.types import EncodedPrompt, GenerateRequest, Prompt, ScoreRequest, Segment
from kshot.engine.generation import Decoding
from kshot.engine.training_rows import TrainingRow
from kshot.engine.trie import flagged
from kshot.models.hf import Backbone

Encoded = tuple[tuple[int, ...], list[tuple[int, ...]]]  # prompt ids, which may have flags; ids of each continuation
Asked = tuple[tuple[int, ...], Decoding]  # prompt ids, which may have flags; how to answer
Piece = tuple[str, tuple[int, ...]]  # what it is in a prompt, and its ids


class Encoder:
    """Encodes for a backbone.

    Args:
        backbone: Its tokenizer is used.
        spans: Of prompts that are asked, tokens outside these get a flag each (`kshot.core.steering.SPANS`).
    """

    def __init__(self, backbone: Backbone, spans: Sequence[str] = ()):
        self._backbone = backbone
        self._spans = spans

    def weighing(self, spans: Sequence[str]) -> Self:
        """Return the same encoder with flags for the tokens of prompts outside these spans."""
        other = copy(self)
        other._spans = spans
        return other

    def prompt(self, prompt: Prompt) -> EncodedPrompt:
        """Turn a prompt into token ids with the spans of its answers, segment by segment."""
        if not isinstance(prompt, Prompt):
            raise UserError(
                f"A request's prompt must be a Prompt, as Prompt((Segment('query', text),)); got {prompt!r}."
            )
        ids = [] if prompt.spells_first_token else list(self._backbone.first_ids)
        answers, reasons, asked_at = [], [], None
        for role, own in self._pieces(prompt):
            start = len(ids)
            ids.extend(own)
            if role == "answer":
                answers.append((start, len(ids)))
            elif role == "reason":
                reasons.append((start, len(ids)))
            elif role == "query" and asked_at is None:
                asked_at = start
        return EncodedPrompt(tuple(ids), tuple(answers), tuple(reasons), len(ids) if asked_at is None else asked_at)

    def _flagged(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the ids of a prompt that is asked; a token outside a span has the flag of the span's place in `SPANS`.

        A prompt without such a span has no flags, nor has a reason that the model has begun to answer with.
        """
        encoded = self.prompt(prompt)
        if not self._spans:
            return encoded.ids
        flags = [0] * len(encoded.ids)
        begun = [span for span in encoded.reason_spans if span[0] >= encoded.asked_at]
        for number, name in enumerate(SPANS):
            inside = self._inside(prompt, SPANS[name], len(encoded.ids)) if name in self._spans else []
            kept = {at for start, end in (*inside, *begun) for at in range(start, end)}
            flags = [f | (bool(inside) and at not in kept) << number for at, f in enumerate(flags)]
        return tuple(map(flagged, encoded.ids, flags))

    def _inside(self, prompt: Prompt, names: Sequence[str], end: int) -> list[tuple[int, int]]:
        """Return where in a prompt's tokens its spans of these names stand, end exclusive.

        A token that reaches over a border is inside. Places are counted from the prompt's end, as what stands before
        may be other tokens than the segments' (`_pieces`).
        """
        found, pieces = list[tuple[int, int]](), self._pieces(prompt)
        for segment, piece in zip(reversed(prompt.segments), reversed(pieces), strict=False):
            start = end - len(piece[1])
            for name, begins, stops in segment.spans:
                if name in names and begins < stops:
                    found.append(self._place(segment, piece, start, begins, stops))
            end = start
        return found

    def _place(self, segment: Segment, piece: Piece, start: int, begins: int, stops: int) -> tuple[int, int]:
        """Return the first token of a part of a segment's text, and the one after it.

        Args:
            segment: Of a prompt.
            piece: What the segment's role and ids are there.
            start: The place of its first token.
            begins: Where the part begins, in characters.
            stops: Where it ends.
        """
        text, ids = segment.text, self._backbone.tokenise(segment.text)
        if (piece[0], len(piece[1])) != (segment.role, len(ids)):
            raise ModelError(
                "It can be told where words stand, and attention be weighed there, where what is asked is said in its "
                "own tokens; here other tokens stand for it. Use another tuner or composer."
            )
        n_before = _n_common(ids, self._backbone.tokenise(text[:begins]))
        n_after = _n_common(ids[::-1], self._backbone.tokenise(text[stops:])[::-1])
        return start + n_before, start + len(ids) - n_after

    def tokens_at(self, prompt: Prompt, places: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
        """Return the first token of each place of a prompt, and the one after it.

        Args:
            prompt: The prompt.
            places: A segment, and where in its text something begins and ends. A token that reaches over a border is
                counted.
        """
        pieces, end = self._pieces(prompt), len(self.prompt(prompt).ids)
        starts, aligned = dict[int, int](), dict[int, Piece]()
        numbers = range(len(prompt.segments) - 1, -1, -1)
        for number, piece in zip(numbers, reversed(pieces), strict=False):
            end -= len(piece[1])
            starts[number], aligned[number] = end, piece
        none: Piece = ("", ())
        return [self._place(prompt.segments[i], aligned.get(i, none), starts.get(i, 0), a, b) for i, a, b in places]

    def place_of(self, prompt: Prompt, passage: str) -> tuple[int, int]:
        """Return the first token of a passage in a prompt, and the one after it: where it stands last.

        Raises:
            UserError: The prompt does not say the passage.
        """
        text, segments = passage.strip(), prompt.segments
        says = (i for i, s in reversed(list(enumerate(segments))) if s.role != "answer" and text and text in s.text)
        at = min(says, key=lambda i: segments[i].role != "context", default=None)  # the last, not in another's words
        if at is None:
            raise UserError(
                f"To find a passage in a prompt, the prompt must say it as it is; {passage[:40]!r} does not stand "
                "there. Use another composer, or an example with a context."
            )
        start = segments[at].text.rindex(text)
        span = ("context", start, start + len(text))
        alone = tuple(replace(s, spans=(span,) if i == at else ()) for i, s in enumerate(segments))
        (found,) = self._inside(replace(prompt, segments=alone), ("context",), len(self.prompt(prompt).ids))
        return found

    def _pieces(self, prompt: Prompt) -> list[Piece]:
        """Return the ids of each segment, with its role."""
        return [(segment.role, self._backbone.tokenise(segment.text)) for segment in prompt.segments]

    def beginning(self, prompt: Prompt) -> int:
        """Return how many token ids of a prompt stand before its question, which other prompts may have too."""
        roles = [segment.role for segment in prompt.segments]
        at = question_at(roles)
        is_asked = "query" in roles and at
        return len(self.prompt(replace(prompt, segments=prompt.segments[:at])).ids) if is_asked else 0

    def training_row(self, text: TrainingText, *, marked: bool = False, first_token: bool = False) -> TrainingRow:
        """Turn a text to be learnt, with what its teacher reads and what is rejected, into rows.

        Args:
            text: The text.
            marked: Mark the token before the last answer.
            first_token: Only the first token of each answer is learnt; where there are answers to choose from, the
                first by which they differ.

        Raises:
            UserError: It is too long for the model, or has no answer, or one that is not among those to choose from.
        """
        reasons = 0.0 if first_token else text.reason_weight
        how: Any = {"marked": marked, "first_token": first_token, "among": text.among, "reason_weight": reasons}
        how["likely"] = text.likely
        row = self._row(text.prompt, text.learnt, passage=text.passage, **how)
        teacher = self._row(text.teacher, "last") if text.teacher else None
        rejected = self._row(text.rejected, text.learnt) if text.rejected else None
        return replace(row, weight=text.weight, teacher=teacher, rejected=rejected, advantage=text.advantage)

    def _row(
        self,
        prompt: Prompt,
        learnt: str,
        *,
        marked: bool = False,
        first_token: bool = False,
        among: Sequence[str] = (),
        likely: Sequence[float] = (),
        reason_weight: float = 0.0,
        passage: str = "",
    ) -> TrainingRow:
        encoded = self.prompt(prompt)
        if len(encoded.ids) > self._backbone.max_tokens:
            raise UserError(
                f"A text to be learnt must fit the model's {self._backbone.max_tokens} tokens; got "
                f"{len(encoded.ids)}. Use fewer demonstrations (k) or shorter examples."
            )
        spans = _learnt_spans(encoded, learnt)
        is_whole = learnt == "text"  # position -> the tokens to choose from:
        supervised = dict.fromkeys(range(1, len(encoded.ids)), ()) if is_whole and spans else {}
        if learnt == "passage" and not first_token:
            supervised |= {at: () for at in range(*self.place_of(prompt, passage)) if at > 0}
        for start, end in spans:
            own = {at: () for at in range(max(start, 1), end)}
            if among and not likely:
                own = self._choices(encoded.ids[start:end], among, start)
            supervised |= dict(list(own.items())[:1]) if first_token else own
        if not supervised:
            raise UserError("A text to be learnt must have an answer of at least one token; got none.")
        marks = (max(spans[-1][0], 1) - 1,) if marked else ()
        first, weights = 0 if learnt == "answers" else encoded.asked_at, ()
        reasons = [at for start, end in encoded.reason_spans if start >= first for at in range(max(start, 1), end)]
        if reason_weight and reasons and not is_whole:
            of_answers, of_reason = dict.fromkeys(supervised, 1.0), reason_weight * len(supervised) / len(reasons)
            supervised = dict(sorted((supervised | dict.fromkeys(reasons, ())).items()))
            weights = tuple(of_answers.get(at, of_reason) for at in supervised)
        choices, shares = tuple(supervised.values()) if among and not likely else (), ()
        if likely:
            start, end = spans[-1]
            answer, options = (
                encoded.ids[start:end],
                dict(zip(map(self._backbone.tokenise, among), likely, strict=True)),
            )
            shares = tuple(_shares(answer, at - start, options) if start <= at < end else () for at in supervised)
        how: Any = {"marked": marks, "token_weights": weights}
        return TrainingRow(encoded.ids, tuple(supervised), among=choices, shares=shares, **how)

    def _choices(self, answer: tuple[int, ...], among: Sequence[str], start: int) -> dict[int, tuple[int, ...]]:
        """Return the positions of an answer at which there is a choice, with the tokens by which others go on there.

        Where there is none, as there is one answer only, it is the first position, whose loss is 0.

        Args:
            answer: Its tokens.
            among: The answers that there are to choose from.
            start: The position of its first token.
        """
        options = [self._backbone.tokenise(text) for text in among]
        if not any(answer and option[: len(answer)] == answer for option in options):
            raise UserError(
                f"An answer that is learnt among others must be one of them; got one that is none of {len(among)}, "
                f"such as {among[0]!r}. Give the lesson its target's answer too."
            )
        choices = {
            start + i: tuple(sorted({o[i] for o in options if o[:i] == answer[:i] and len(o) > i}))
            for i in range(len(answer))
            if start + i > 0
        }
        return {at: choice for at, choice in choices.items() if len(choice) > 1} or dict(list(choices.items())[:1])

    def score(self, request: ScoreRequest) -> Encoded:
        """Turn a request for scores into token ids.

        Raises:
            UserError: An empty text, or a prompt too long for the model.
        """
        prompt = self._flagged(request.prompt)
        answers = [self._backbone.tokenise(text) for text in request.continuations]
        if not prompt or not all(answers):
            raise UserError("A prompt and each of its continuations must have at least one token; got an empty text.")
        _check_differ(request.continuations, answers)
        longest = len(prompt) + max(map(len, answers))
        if longest > self._backbone.max_tokens:
            raise UserError(
                f"A prompt with its answer must fit the model's {self._backbone.max_tokens} tokens; got {longest}. "
                "Use fewer demonstrations (--shots) or shorter inputs."
            )
        return prompt, answers

    def generation(self, request: GenerateRequest) -> Asked:
        """Turn a request for an answer into token ids.

        Raises:
            UserError: A prompt too long for the model, or settings that make no sense.
        """
        if request.temperature < 0 or isinstance(request.stop, str) or not all(request.stop):
            raise UserError(
                f"An answer's temperature must be 0 or more, and its stops a tuple of texts that are not empty; got "
                f"{request.temperature} and {request.stop!r}."
            )
        prompt = self._flagged(request.prompt)
        texts = tuple(dict.fromkeys(request.allowed))
        allowed = tuple(self._backbone.tokenise(text) for text in texts)
        if not all(allowed):
            raise UserError("Each allowed answer must have at least one token; got an empty text.")
        _check_differ(texts, allowed)
        room = self._backbone.max_tokens - len(prompt)
        longest = max(map(len, allowed), default=1)
        if not prompt or room < longest or request.max_tokens < 1:
            raise UserError(
                f"A prompt must have between 1 and {self._backbone.max_tokens - longest} tokens, so that an answer "
                f"fits after it, and an answer at least 1; got {len(prompt)} and {request.max_tokens}. Use fewer "
                "demonstrations (--shots) or shorter inputs."
            )
        most = longest if allowed else min(request.max_tokens, room)
        return prompt, Decoding(most, request.stop, request.temperature, request.seed, allowed)


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return with how many equal ids both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shares(
    answer: tuple[int, ...], at: int, options: Mapping[tuple[int, ...], float]
) -> tuple[tuple[int, float], ...]:
    """Return the tokens that may stand at a place of an answer, each with how probable it is to become there.

    It is the share of the answers that go on with it, of those that have begun in the same way; empty where that is 0.

    Args:
        answer: Its tokens.
        at: The place.
        options: The tokens of each answer that there is to choose from, and how probable it is to become.
    """
    totals: dict[int, float] = {}
    for option, p in options.items():
        if option[:at] == answer[:at] and len(option) > at:
            totals[option[at]] = totals.get(option[at], 0.0) + p
    whole = sum(totals.values())
    return tuple((token, p / whole) for token, p in sorted(totals.items())) if whole else ()


def question_at(roles: Sequence[str]) -> int:
    """Return the number of the segment with which the question that is asked begins, its context included.

    Where nothing is asked it is the number of segments.
    """
    at = roles.index("query") if "query" in roles else len(roles)  # after a reason it goes on
    while 0 < at < len(roles) and roles[at - 1] in ("query", "context"):
        at -= 1
    return at


def _learnt_spans(encoded: EncodedPrompt, learnt: str) -> tuple[tuple[int, int], ...]:
    """Return where the answers stand that are learnt (`Lesson.learnt`)."""
    spans = encoded.answer_spans
    if learnt == "later":
        return spans[1:] or spans
    return {"last": spans[-1:], "passage": spans[-1:], "first": spans[:1]}.get(learnt, spans)


def _check_differ(texts: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
    """Raise SameTokensError where a model sees no difference between two answers to choose from."""
    if len(set(ids)) < len(ids):
        i, j = next((ids.index(found), j) for j, found in enumerate(ids) if ids.index(found) < j)
        raise SameTokensError(texts[i], texts[j])
