"""Where in a prompt the words of what is asked stand, character by character."""

from collections.abc import Mapping
from dataclasses import replace

from kshot.core.control_tokens import MARK, without_marks
from kshot.core.script import Script
from kshot.core.types import Prompt
from kshot.prompts.layout import Layout


def places_of(
    script: Script, prompt: Prompt, texts: Mapping[str, str], layout: Layout
) -> dict[str, list[tuple[int, int]]]:
    """Return for each character of texts that are asked where in the prompt it stands: (segment, character in it).

    The script is written again with a mark on each side of a text; what stands between them in the prompt is the text.
    One that is not said as it is, or not at all, is left out.

    Args:
        script: As it is written, ending with what is asked.
        prompt: What the layout has written of it.
        texts: "question" and "context" with what they are in the row.
        layout: Writes.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for i, name in script.asked_pieces.items():
        whole, text = script.pieces[i].text, texts.get(name, "").strip()
        at = whole.find(text)
        if text and at >= 0 and (places := _places(script, i, at, text, prompt, layout)):
            before = len(texts[name]) - len(texts[name].lstrip())
            found[name] = [(-1, -1)] * before + places
    return found


def _places(script: Script, i: int, at: int, text: str, prompt: Prompt, layout: Layout) -> list[tuple[int, int]]:
    """Return the places of the characters of a text that stands in one of the script's pieces."""
    whole, written = script.pieces[i].text, "".join(piece.text for piece in script.pieces)
    mark = next(chr(c) for c in range(0xE100, 0xF800) if chr(c) not in written)
    marked = f"{whole[:at]}{mark}{text}{mark}{whole[at + len(text) :]}"
    pieces = tuple(replace(piece, text=marked) if j == i else piece for j, piece in enumerate(script.pieces))
    for number, (one, real) in enumerate(
        zip(layout.write(replace(script, pieces=pieces)).segments, prompt.segments, strict=False)
    ):
        before, *rest = one.text.split(mark)
        if len(rest) != 2:
            continue
        said = real.text[len(before) : len(before) + len(rest[0])]
        if said == rest[0] and without_marks(said) == text:
            return [(number, len(before) + j) for j, sign in enumerate(said) if sign != MARK]
    return []
