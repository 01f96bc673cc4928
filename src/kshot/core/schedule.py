"""When choices that rest on the past are made again: at 1, 2, 4, 8, … examples."""


def refit_point(n_past: int) -> int:
    """Return how many of the first examples a task-level choice rests on: the last power of two in `n_past`."""
    return 1 << (n_past.bit_length() - 1) if n_past else 0
