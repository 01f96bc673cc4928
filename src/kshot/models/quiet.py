"""transformers and sentence-transformers without their bars and reports, for as long as something is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from threading import Lock


class _Users:
    """Who wants quiet at the moment: the settings are the whole process's, and the last one puts them back."""

    lock = Lock()
    n = 0
    had_bars = True
    level = 0
    level_of_encoders = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and sentence-transformers from printing bars and reports; then both are as they were."""
    from transformers.utils import logging

    encoders = getLogger("sentence_transformers")
    with _Users.lock:
        if _Users.n == 0:
            _Users.had_bars, _Users.level = logging.is_progress_bar_enabled(), logging.get_verbosity()
            _Users.level_of_encoders = encoders.level
            logging.disable_progress_bar()
            logging.set_verbosity_error()
            encoders.setLevel(ERROR)
        _Users.n += 1
    try:
        yield
    finally:
        with _Users.lock:
            _Users.n -= 1
            if _Users.n == 0:
                encoders.setLevel(_Users.level_of_encoders)
                logging.set_verbosity(_Users.level)
                if _Users.had_bars:
                    logging.enable_progress_bar()
