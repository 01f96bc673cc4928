"""Times as people write them."""

from kshot.core.errors import UserError


def parse_seconds(text: str | None) -> float | None:
    """Read a duration such as "90s", "10m" or "2h" as seconds.

    Raises:
        UserError: Something else.
    """
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    factor = {"s": 1, "m": 60, "h": 3600}.get(unit)
    try:
        value = float(number) * (factor or 0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--budget must be a time such as 90s, 10m or 2h; got '{text}'.")
    return value
