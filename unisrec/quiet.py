"""Progress bars of transformers, hidden where they would be dozens."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_bars() -> Iterator[None]:
    """Hides the progress bars that transformers shows for every weight file that is read or written."""
    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_shown:
            logging.enable_progress_bar()


__all__ = ["without_bars"]
