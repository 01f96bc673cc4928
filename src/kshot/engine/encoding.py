"""From requests to token ids, segment by segment, with what must hold for the model to take them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kshot.core.errors import SameTokensError, UserError
from kshot.core.lessons import TrainingText
from kshot.core.types import EncodedPrompt, GenerateRequest, Prompt, ScoreRequest
from kshot.engine.generation import Decoding
from kshot.engine.training_rows import TrainingRow
from kshot.models.hf import Backbone

Encoded = tuple[tuple[int, ...], list[tuple[int, ...]]]  # prompt ids, ids of each continuation
Asked = tuple[tuple[int, ...], Decoding]  # prompt ids, how to answer


class Encoder:
    """Encodes for a backbone."""

    def __init__(self, backbone: Backbone):
        self._backbone = backbone

    def prompt(self, prompt: Prompt) -> EncodedPrompt:
        """Turn a prompt into token ids with the spans of its answers, segment by segment."""
        if not isinstance(prompt, Prompt):
            raise UserError(
                f"A request's prompt must be a Prompt, as Prompt((Segment('query', text),)); got {prompt!r}."
            )
        ids = [] if prompt.spells_first_token else list(self._backbone.first_ids)
        answers, reasons, asked_at = [], [], None
        for segment in prompt.segments:
            start = len(ids)
            ids.extend(self._backbone.tokenise(segment.text))
            if segment.role == "answer":
                answers.append((start, len(ids)))
            elif segment.role == "reason":
                reasons.append((start, len(ids)))
            elif segment.role == "query" and asked_at is None:
                asked_at = start
        return EncodedPrompt(tuple(ids), tuple(answers), tuple(reasons), len(ids) if asked_at is None else asked_at)

    def beginning(self, prompt: Prompt) -> int:
        """Return how many token ids of a prompt stand before its question, which other prompts may have too."""
        roles = [segment.role for segment in prompt.segments]
        if "query" not in roles:
            return 0
        at = roles.index("query")  # after a reason it goes on
        while at and roles[at - 1] in ("query", "context"):
            at -= 1
        return len(self.prompt(replace(prompt, segments=prompt.segments[:at])).ids) if at else 0

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
        row = self._row(text.prompt, text.learnt, **how)
        teacher = self._row(text.teacher, "last") if text.teacher else None
        rejected = self._row(text.rejected, text.learnt) if text.rejected else None
        return replace(row, weight=text.weight, teacher=teacher, rejected=rejected)

    def _row(
        self,
        prompt: Prompt,
        learnt: str,
        *,
        marked: bool = False,
        first_token: bool = False,
        among: Sequence[str] = (),
        reason_weight: float = 0.0,
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
        for start, end in spans:
            own = {at: () for at in range(max(start, 1), end)}
            if among:
                own = self._choices(encoded.ids[start:end], among, start)
            supervised |= dict(list(own.items())[:1]) if first_token else own
        if not supervised:
            raise UserError("A text to be learnt must have an answer of at least one token; got none.")
        marks = (max(spans[-1][0], 1) - 1,) if marked else ()
        first, weights = encoded.asked_at if learnt == "last" else 0, ()
        reasons = [at for start, end in encoded.reason_spans if start >= first for at in range(max(start, 1), end)]
        if reason_weight and reasons and not is_whole:
            of_answers, of_reason = dict.fromkeys(supervised, 1.0), reason_weight * len(supervised) / len(reasons)
            supervised = dict(sorted((supervised | dict.fromkeys(reasons, ())).items()))
            weights = tuple(of_answers.get(at, of_reason) for at in supervised)
        choices = tuple(supervised.values()) if among else ()
        return TrainingRow(encoded.ids, tuple(supervised), marked=marks, among=choices, token_weights=weights)

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
        prompt = self.prompt(request.prompt).ids
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
        prompt = self.prompt(request.prompt).ids
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


def _learnt_spans(encoded: EncodedPrompt, learnt: str) -> tuple[tuple[int, int], ...]:
    """Return where the answers stand that are learnt (`Lesson.learnt`)."""
    spans = encoded.answer_spans
    if learnt == "later":
        return spans[1:] or spans
    return {"last": spans[-1:], "first": spans[:1]}.get(learnt, spans)


def _check_differ(texts: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
    """Raise SameTokensError where a model sees no difference between two answers to choose from."""
    if len(set(ids)) < len(ids):
        i, j = next((ids.index(found), j) for j, found in enumerate(ids) if ids.index(found) < j)
        raise SameTokensError(texts[i], texts[j])
