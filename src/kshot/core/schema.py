"""What is read from outside has the shape that it must have, or is refused in a sentence that names the place.

A shape is a type; that of a JSON object is a `TypedDict` of `typing_extensions`, whose keys are all there and are the
only ones. No number is taken from a text, and none is infinite.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from typing_extensions import is_typeddict

from kshot.core.errors import UserError

T = TypeVar("T")


def shaped(shape: type[T], value: Any, place: Path | str, remedy: str) -> T:
    """Return a value that has a shape.

    Args:
        shape: The type that it must have; keys beyond those of a `TypedDict` are refused.
        value: As it was read.
        place: Where it was read, for the message.
        remedy: What to do where it has another shape, a sentence.

    Raises:
        UserError: It has another shape; the text says where.
    """
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_python(value)
    except (ValidationError, RecursionError) as error:
        raise UserError(f"{place} must be as kshot wrote it; {_first(error)}. {remedy}") from None


def _first(error: Exception) -> str:
    """Return the first thing that is wrong, in words."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return "it is nested too deeply"
    first = error.errors()[0]
    at = ".".join(map(str, first["loc"]))
    return f"{at or 'it'}: {first['msg'][:1].lower()}{first['msg'][1:]}"


@cache
def _adapter(shape: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    for one in _objects(shape):
        one.__pydantic_config__ = config
    return TypeAdapter(shape) if is_typeddict(shape) else TypeAdapter(shape, config=config)


def _objects(shape: Any, seen: frozenset[Any] = frozenset()) -> Iterator[Any]:
    """Return the `TypedDict`s that a shape is made of; one may have itself inside."""
    if shape in seen:
        return
    if is_typeddict(shape):
        yield shape
        seen |= {shape}
    inside = get_type_hints(shape).values() if is_typeddict(shape) else get_args(shape)
    for other in inside:
        yield from _objects(other, seen)
