"""Find a run by number, name, path, ``last`` or ``best``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hookline.config.packed import check_bundle, is_bundle
from hookline.engine.errors import ConfigError
from hookline.engine.words import nearest
from hookline.runs.folder import CONFIG
from hookline.runs.names import BEST, LAST, label_of, newest_run, number_of, run_names
from hookline.runs.record import RECORD, read_best, read_record

_MAX_COMPARED = 200
"""Number of the newest runs to search for a name similar to an unknown one."""


def find_run(name: str | os.PathLike[str], parent: str | os.PathLike[str] = "runs") -> Path:
    """Return the folder of a run.

    Args:
        name: A number, a name, a full name with its number, a path, ``last`` or ``best``. The path may be that of a
            bundle: it is checked, and read like a run folder, but nothing can be written to it.
        parent: The folder of the runs.

    Raises:
        ConfigError: When there is no such run, or several have that name.
        CheckpointError: When a bundle is damaged.
    """
    name, parent = os.fspath(name), Path(parent)
    if "/" in name or os.sep in name or name in (".", "..") or _is_run_folder(name) or is_bundle(name):
        return _checked(Path(name))
    names = run_names(parent)
    if name in (LAST, BEST) and names:
        return parent / (newest_run(parent, names) or names[-1]) if name == LAST else _best(parent, names)
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else None
    found = [whole for whole in names if name == whole or label_of(whole) == name or number_of(whole) == number]
    if len(found) > 1:
        listed = ", ".join(found[-5:])
        hint = "use the full name" if number is not None else "use its number or its full name"
        raise ConfigError(f"{len(found)} runs are called {name!r}: {listed}", hint=hint)
    if found:
        return parent / found[0]
    if not names:
        raise ConfigError(f"there is no run in {parent}", hint="hookline train makes one")
    raise ConfigError(f"there is no run {name!r} in {parent}", hint=_meant(name, names))


def run_of_job(job: str, parent: Path) -> Path | None:
    """Return the newest run that a job of torchrun has begun; None without one that can be resumed."""
    if not job or not parent.is_dir():
        return None
    for name in reversed(run_names(parent)):
        with contextlib.suppress(ConfigError):  # a folder of another program
            attempts = read_record(parent / name).attempts
            if attempts and attempts[-1].job == job and (parent / name / CONFIG).exists():
                return parent / name
    return None


def _is_run_folder(name: str) -> bool:
    # pathlib raises for a name that is too long.
    return bool(name) and os.path.isfile(os.path.join(name, RECORD))  # noqa: PTH113, PTH118 - see above


def _meant(name: str, names: list[str]) -> str:
    """Return a hint for an unknown name. There may be thousands of runs, so they are not listed."""
    if not name.isdigit():
        newest = names[-_MAX_COMPARED:]
        if match := nearest(name, [*newest, *map(label_of, newest)]):
            return f"did you mean {match!r}?"
    return f"the newest is {names[-1]}; list all with: hookline runs"


def _checked(path: Path) -> Path:
    if path.name in (RECORD, CONFIG) and os.path.isfile(path):  # noqa: PTH113 - see _is_run_folder
        path = path.parent
    if is_bundle(path):
        check_bundle(path)
    read_record(path)
    return path.resolve()


def _best(parent: Path, names: list[str]) -> Path:
    """Return the run whose observed metric is best, among those that observe the same metric as the newest."""
    found: list[tuple[float, Path]] = []
    observed: tuple[str, str] | None = None
    for name in reversed(names):
        path = parent / name
        try:
            best = read_best(path)
        except ConfigError:
            continue
        if best and (observed is None or observed == (best.metric, best.mode)):
            observed = best.metric, best.mode
            found.append((best.value if best.mode == "min" else -best.value, path))
    if not found:
        raise ConfigError("no run has a best value")
    return min(found)[1]
