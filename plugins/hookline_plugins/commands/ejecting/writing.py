"""Write a saved run as a script, with its data beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, Fault, Run, load_config
from hookline.runs import make_lock, read_record
from hookline_plugins.commands.ejecting.job import Job, job_faults, job_of
from hookline_plugins.commands.ejecting.parts import Parts, parts_of
from hookline_plugins.commands.ejecting.pasting import roots_of
from hookline_plugins.commands.ejecting.script import script_text
from hookline_plugins.commands.ejecting.text import bracketed

if TYPE_CHECKING:
    from hookline import RunConfig
    from hookline.runs import RunRecord


@dataclass(frozen=True)
class Ejected:
    """A run as a script.

    Attributes:
        text: The script.
        job: Its data.
        left_out: Tables of the plugins that are left out.
    """

    text: str
    job: Job
    left_out: tuple[str, ...]

    def write(self, path: Path, *, force: bool = False) -> None:
        """Write the script, and the data beside it.

        Raises:
            ConfigError: When one exists, without ``force``, or cannot be written.
        """
        from safetensors.torch import save

        files = {path.with_suffix(".safetensors"): save(dict(self.job.arrays)), path: self.text.encode()}
        if len(files) == 1:
            raise ConfigError(f"{path} is the name of the data", hint="give the script a name that ends in .py")
        if there := [str(file) for file in files if file.exists() and not force]:
            hint = "choose another name with -o, or overwrite with --force"
            raise ConfigError(f"{' and '.join(there)} already exist{'s' * (len(there) == 1)}", hint=hint)
        for file, data in files.items():
            try:
                file.write_bytes(data)
            except OSError as error:
                raise ConfigError(f"{file} cannot be written: {error.strerror}") from error


def saved_run_config(path: Path, catalog: Any = None, overrides: Any = ()) -> RunConfig:
    """Return the config of a run folder."""
    return load_config(path / "config.toml", overrides, catalog=catalog)


def eject(path: Path, catalog: Any = None) -> Ejected:
    """Return a finished run as a script.

    Raises:
        ConfigError: When it cannot be one; carries every reason.
        HooklineError: As ``Run`` raises it.
    """
    record = read_record(path)
    run = Run(saved_run_config(path, catalog))
    return script_of(run, path.name, [*_record_faults(record)], record.identity)


def script_of(run: Run, name: str, faults: list[Fault], identity: Mapping[str, Any]) -> Ejected:
    """Return a run that was built, but not started, as a script.

    Raises:
        ConfigError: When it cannot be one; carries every reason, ``faults`` among them.
    """
    parts = parts_of(run)
    faults = [*faults, *job_faults(run), *parts.faults]
    if faults:
        raise ConfigError(f"the run {name} cannot be written as a script", faults=tuple(dict.fromkeys(faults)))
    job = job_of(run, identity["machine"]["num_threads"])
    left_out = ", ".join(table.removeprefix("callbacks.") for table in parts.left_out)
    head = _header(run, parts, identity)
    return Ejected(script_text(run, name, parts.snippets, job, head, left_out), job, tuple(parts.left_out))


def _record_faults(record: RunRecord) -> Iterator[Fault]:
    if record.status not in ("completed", "stopped"):
        yield Fault(f"the run is not finished: it is {record.status}", hint="hookline resume")
    for number, attempt in enumerate(record.attempts, 1):
        for change in attempt.changes:
            yield Fault(f"attempt {number} went on with a change: {change}", hint="train it again in one piece")


def _header(run: Run, parts: Parts, identity: Mapping[str, Any]) -> str:
    """Return the inline metadata of the script (PEP 723), with the versions and hashes of what it imports."""
    versions = identity["versions"]
    python = versions["python"].rpartition(".")[0]
    pins = {name: _public(versions[name]) for name in ("numpy", "torch")} | {"safetensors": version("safetensors")}
    imported = [line for one in parts.snippets.values() for line in one.imports]
    imported += [one.definitions for one in parts.snippets.values()]
    if roots := [root for root in roots_of(imported) if root not in pins]:
        by_module = packages_distributions()  # it reads the metadata of all distributions
        names = [name for root in roots for name in by_module.get(root, ())[:1]]
        pins |= {_normalized(name): _public(version(name)) for name in names}
    needed = [f'"{name}=={number}"' for name, number in sorted(pins.items())]
    lines = [f'requires-python = ">={python}"', *bracketed("dependencies = [", needed, "]", indent=2).splitlines()]
    lines += _hashes(run, pins)
    return "\n".join(["# /// script", *(f"# {line}".rstrip() for line in lines), "# ///"])


def _hashes(run: Run, pins: Mapping[str, str]) -> list[str]:
    """Return the hashes of the files of the distributions whose plugins are imported."""
    entries = {choice.table: choice.plugin.entry for choice in run.config.plugins if choice.plugin.entry}
    used = {table: entry for table, entry in entries.items() if _normalized(entry.distribution) in pins}
    if not used:
        return []
    locked = make_lock(used).distributions
    return ["", "[tool.hookline.sha256]", *(f'"{_normalized(name)}" = "{one.sha256}"' for name, one in locked.items())]


def _public(number: str) -> str:
    return number.partition("+")[0]


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
