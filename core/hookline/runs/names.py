"""Names and numbers of run folders, and the link to the newest."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hookline.config.files import reason
from hookline.engine.errors import ConfigError
from hookline.runs.disk.durable_files import replace_link
from hookline.runs.record import RECORD

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NUMBERED = re.compile(r"([0-9]{4,9})-(.+)")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
LAST, BEST = "last", "best"


def check_name(name: str) -> None:
    """Check that a name is a valid run name.

    Raises:
        ConfigError: When it is not.
    """
    if not _NAME.fullmatch(name) or _DEVICES.fullmatch(name) or name in (LAST, BEST):
        hint = "use 1 to 100 letters a-z and A-Z, digits, '.', '_' and '-', starting with a letter or digit"
        raise ConfigError(f"{name!r} is not a valid run name", hint=hint)


def run_names(parent: Path) -> list[str]:
    """Return the names of the run folders in ``parent``, the oldest first.

    Raises:
        ConfigError: When ``parent`` is not a folder, or cannot be read.
    """
    return sorted(_numbered(parent), key=lambda name: (number_of(name), name))


def run_paths(parent: Path) -> list[Path]:
    """Return the run folders in ``parent``, the oldest first.

    Raises:
        ConfigError: As for ``run_names``.
    """
    return [parent / name for name in run_names(parent)]


def _numbered(parent: Path) -> Iterator[str]:
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if NUMBERED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except FileNotFoundError:
        return
    except OSError as error:
        hint = "choose another folder for the runs"
        raise ConfigError(f"cannot read the folder of runs {parent}: {reason(error)}", hint=hint) from error
    except ValueError as error:
        raise ConfigError(f"{str(parent)!r} is not a valid path: {error}") from error


def next_number(parent: Path) -> int:
    """Return the next number after that of the newest run; folders without a record count only as taken."""
    names = run_names(parent)
    newest = newest_run(parent, names)
    taken = set(map(number_of, names))
    return next(number for number in itertools.count(number_of(newest) + 1 if newest else 1) if number not in taken)


def newest_run(parent: Path, names: Sequence[str]) -> str | None:
    """Return the last of some names, the oldest first, whose folder has a record; None if there is none."""
    return next((name for name in reversed(names) if os.path.lexists(parent / name / RECORD)), None)


def number_of(whole: str) -> int:
    """Return the number in the name of a run folder."""
    return int(whole.partition("-")[0])


def label_of(whole: str) -> str:
    """Return the name of a run folder without its number."""
    return whole.partition("-")[2]


def point_to(path: Path) -> None:
    """Point the link to the newest run folder at ``path``."""
    with contextlib.suppress(OSError):  # the link is a convenience, and not every file system has links
        replace_link(path.parent / LAST, path.name)


def point_to_newest(parent: Path) -> None:
    """Repair the link to the newest run folder after a removal."""
    link = parent / LAST
    if not link.is_symlink() or link.exists():
        return
    if newest := newest_run(parent, run_names(parent)):
        point_to(parent / newest)
    else:
        with contextlib.suppress(OSError):
            link.unlink()
