"""The chat template that comes with a tokenizer of transformers."""

import hashlib
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from kshot.core.control_tokens import MARK
from kshot.core.errors import ModelError
from kshot.core.models import Messages
from kshot.core.types import Prompt

# What some templates ask for. A fixed date, as prompts would change overnight; no thinking before an answer, as the
# demonstrations have none.
_DATE = "26 Jul 2024"
_VARIABLES = {"date_string": _DATE, "enable_thinking": False, "thinking": False}
# An answer that would begin inside a block of thoughts, as "<think>" of DeepSeek-R1 and its kin, which has no variable
_THOUGHTS = re.compile(r"(<|\[)([^<>\[\]/]*(?:think|thought|reason)[^<>\[\]]*)[>\]]\s*$", re.IGNORECASE)
# Put before a template that asks for the clock itself; the empty expression keeps a newline that may follow.
_STOPPED_CLOCK = "{%- macro strftime_now(format) %}" + _DATE + "{%- endmacro %}{{ '' }}"


class HfChat:
    """Write conversations with a tokenizer's template; implements `kshot.core.models.ChatFormat`.

    Args:
        tokenizer: One of transformers that has a template, or several with names.
        tokenise: How the segments of a prompt are turned into ids.
    """

    def __init__(self, tokenizer: Any, tokenise: Callable[[str], tuple[int, ...]]):
        self._tokenizer = tokenizer
        self._tokenise = tokenise
        given = tokenizer.chat_template
        named = given if isinstance(given, dict) else {"default": given}
        self._names = ", ".join(sorted(named))
        self._template = template = named.get("default")
        self._variables = {name: value for name, value in _VARIABLES.items() if name in (template or "")}
        self._source = template or self._names
        if template and "strftime_now" in template:
            self._template = _STOPPED_CLOCK + template

    @property
    def fingerprint(self) -> str:
        """The sha256 of the template, and of what closes the thoughts that it opens."""
        return hashlib.sha256((self._source + self._closing).encode()).hexdigest()

    @cached_property
    def _closing(self) -> str:
        try:
            return _end_of_thoughts(self._apply([{"role": "user", "content": "a"}], True))
        except ModelError:  # it refuses these messages, and perhaps others too: whoever writes a prompt is told
            return ""

    def render(self, messages: Messages, *, open_answer: bool) -> str:
        """Return the conversation as text, ending where an answer begins if `open_answer`.

        A block of thoughts that the template opens there is closed again, empty.

        Raises:
            ModelError: The template refuses these messages, opens a block of thoughts in a way that is not known, or
                none of several is the default one.
        """
        text = self._apply(messages, open_answer)
        return text + _end_of_thoughts(text) if open_answer else text

    def agrees(self, prompt: Prompt, messages: Messages) -> bool:
        """Return whether the prompt's token ids are those of the rendered conversation, which awaits an answer.

        Raises:
            ModelError: As `render`.
        """
        ours = [token for segment in prompt.segments for token in self._tokenise(segment.text)]
        whole = self.render(messages, open_answer=True)
        if MARK in whole:  # only we read what is spelled out
            return ours == list(self._tokenise(whole))
        return ours == self._tokenizer.encode(whole, add_special_tokens=False)

    def _apply(self, messages: Messages, open_answer: bool) -> str:
        if self._template is None:
            raise ModelError(f"it is one of several ({self._names}), of which none is the default")
        how: Any = {"chat_template": self._template, "add_generation_prompt": open_answer, **self._variables}
        try:
            return self._tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **how)
        except TemplateError as error:
            raise ModelError(f"it says '{error}'") from error


def _end_of_thoughts(text: str) -> str:
    """Return what closes a block of thoughts that a prompt ends in; "" where it ends in none.

    Raises:
        ModelError: What closes it is not known.
    """
    found = _THOUGHTS.search(text)
    if not found:
        return ""
    bracket, name = found.groups()
    if not name.strip().isalpha():  # as "<|START_THINKING|>"
        raise ModelError(f"it begins answers with {found[0].strip()}, a block of thoughts that kshot cannot close")
    return f"\n</{name}>\n\n" if bracket == "<" else f"\n[/{name}]\n\n"
