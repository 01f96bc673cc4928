"""transformers and sentence-transformers without their bars and reports, for as long as something is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger

from kshot.core.locks import LOADING


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and sentence-transformers from printing bars and reports; then both are as they were.

    One thread at a time: these settings are the whole process's, and so is the dtype that transformers changes.
    """
    from transformers.utils import logging

    encoders = getLogger("sentence_transformers")
    with LOADING:
        had_bars, level, level_of_encoders = logging.is_progress_bar_enabled(), logging.get_verbosity(), encoders.level
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        encoders.setLevel(ERROR)
        try:
            yield
        finally:
            encoders.setLevel(level_of_encoders)
            logging.set_verbosity(level)
            if had_bars:
                logging.enable_progress_bar()
