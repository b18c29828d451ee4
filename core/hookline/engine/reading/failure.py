"""``Failure``: a batch that cannot be read, in the words of an error; the names of its examples."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from torch.utils.data import get_worker_info

from hookline.engine.errors import DataError, HooklineError, NonFiniteError, error_text

_NAMED = 8
"""Maximum number of examples of a batch to name in a message."""


class _WorkerTraceback(Exception):  # noqa: N818 - it only carries text
    """The traceback of an error in a worker, as text, because not every error can be pickled."""


class Failure:
    """The result for a batch that could not be read.

    Attributes:
        cause: The error.
    """

    def __init__(self, subject: str, error: Exception, how: str = "") -> None:
        worker = get_worker_info()
        where = f" (worker {worker.id})" if worker else ""
        reported = error if isinstance(error, HooklineError) else HooklineError(error_text(error))
        self._words = subject, f"cannot be read{how}{where}: {reported.message}"
        self._hint, self._faults = reported.hint, reported.faults
        text = "".join(traceback.format_exception(error))
        self.cause = _WorkerTraceback(f"\n{text}") if worker else error

    def as_error(self, name: str) -> DataError:
        """Return the error to raise; ``name`` is the name of the dataset."""
        subject, problem = self._words
        return DataError(f"{subject} of the {name} {problem}", hint=self._hint, faults=self._faults)


def note_examples(error: Exception, indices: Sequence[int], where: str) -> None:
    """Add a note with the examples of a batch to an error, unless it names examples itself."""
    if indices and not isinstance(error, DataError | NonFiniteError):
        error.add_note(f"in {where} with {name_examples(indices)}")


def name_examples(indices: Sequence[int]) -> str:
    """Return text that names examples.

    >>> name_examples([3]), name_examples([3, 1]), name_examples(range(20))
    ('example 3', 'examples 3, 1', 'examples 0, 1, 2, 3, 4, 5, 6, 7 and 12 more')
    """
    shown = ", ".join(map(str, indices[:_NAMED]))
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    return f"example{'s' * (len(indices) != 1)} {shown}{more}"
