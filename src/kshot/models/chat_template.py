"""The chat template that comes with a tokenizer of transformers."""

import hashlib
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError

from kshot.core.errors import ModelError
from kshot.core.models import Messages
from kshot.core.types import Prompt

# What some templates ask for. A fixed date, as prompts would change overnight; no thinking before an answer, as the
# demonstrations have none.
_DATE = "26 Jul 2024"
_VARIABLES = {"date_string": _DATE, "enable_thinking": False}
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
        self.fingerprint = hashlib.sha256((template or self._names).encode()).hexdigest()
        if template and "strftime_now" in template:
            self._template = _STOPPED_CLOCK + template

    def render(self, messages: Messages, *, open_answer: bool) -> str:
        """Return the conversation as text, ending where an answer begins if `open_answer`.

        Raises:
            ModelError: The template refuses these messages, or none of several is the default one.
        """
        return self._apply(messages, open_answer, tokenize=False)

    def agrees(self, prompt: Prompt, messages: Messages) -> bool:
        """Return whether the prompt's token ids are those of the rendered conversation, which awaits an answer.

        Raises:
            ModelError: As `render`.
        """
        ours = [token for segment in prompt.segments for token in self._tokenise(segment.text)]
        return ours == self._apply(messages, True, tokenize=True, return_dict=False)

    def _apply(self, messages: Messages, open_answer: bool, **how: Any) -> Any:
        if self._template is None:
            raise ModelError(f"it is one of several ({self._names}), of which none is the default")
        how |= {"chat_template": self._template, "add_generation_prompt": open_answer}
        try:
            return self._tokenizer.apply_chat_template([dict(m) for m in messages], **how, **self._variables)
        except TemplateError as error:
            raise ModelError(f"it says '{error}'") from error
