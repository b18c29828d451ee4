"""Sections of one run from its folder alone: no plugin of the run and no torch is needed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hookline import HooklineError
from hookline.runs import RunRecord, RunRow, read_of_folder, row_of
from hookline.sections import Bars, Image, Images, Section, Table, Text, bounded
from hookline_plugins.drawing.curves import curve_sections

_MAX_CONFIG_BYTES = 2**20
_LOG_BYTES = 2**14
_LOG_LINES = 100
_MAX_PICTURE_BYTES = 2**21
_PNG = b"\x89PNG\r\n\x1a\n"


def sections_of_run(path: Path) -> list[Section]:
    """Return the sections that the folder of a run has by itself."""
    return [*facts_of_run(path), *curve_sections({path.name: path}, splits=splits_of([path]))]


def facts_of_run(path: Path) -> list[Section]:
    """Return the same sections without the curves."""
    row = row_of(path)
    if row.record is None:
        title = "The record of this run cannot be read"
        return [bounded(Text(title=title, topic="run", paragraphs=[row.problem or "it is missing"]))]
    parts = (_about, _config, _reported, _pictures, _data, _warnings, _environment, _commands)
    return [bounded(section) for part in parts for section in part(row, row.record)]


def splits_of(paths: Sequence[Path]) -> list[str]:
    """Return the names of the splits of runs."""
    records = [record for path in paths if (record := row_of(path).record)]
    return list(dict.fromkeys(name for record in records for name in _part(record, "data")))


def origins_of(path: Path) -> dict[str, str]:
    """Return the origin of each value of the config of a run folder, by its key."""
    text = (read_of_folder(path, "config.toml", _MAX_CONFIG_BYTES) or b"").decode(errors="replace")
    origins, table = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]").replace('"', "")
        elif match := re.match(r"(?:# )?([A-Za-z0-9_-]+) = .*  # (.*)$", line):
            origins[f"{table}.{match[1]}"] = match[2]
    return origins


def words(value: Any) -> str | int | float | bool | None:
    """Return a plain value as a cell of a table."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return msgspec.json.encode(value).decode()


def duration(seconds: float) -> str:
    """Return a duration for people.

    >>> duration(3.21), duration(190)
    ('3.2 s', '3 min 10 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


# ---- the parts -------------------------------------------------------------------------------------------------------


def _about(row: RunRow, record: RunRecord) -> Iterator[Section]:
    best = record.best
    facts = {
        "status": row.status,
        "epochs": f"{record.epochs} of {record.num_epochs}",
        "steps": record.step,
        "time": duration(record.time_s),
        **({f"best {best.metric}": f"{best.value:.6g}, in epoch {best.epoch}"} if best else {}),
        **record.metrics,
    }
    yield _two_columns("Result", "run", facts, ("", "value"))
    attempts = [
        [
            f"{one.started:%Y-%m-%d %H:%M:%S} UTC",
            f"{one.from_step} to {one.step}",
            duration((one.ended - one.started).total_seconds()) if one.ended else None,
            one.outcome or row.status,
            one.error,
        ]
        for one in record.attempts
    ]
    if len(attempts) > 1 or any(one.error for one in record.attempts):
        yield Table(
            title="Attempts", topic="run", columns=["started", "steps", "took", "outcome", "error"], rows=attempts
        )


def _config(row: RunRow, record: RunRecord) -> Iterator[Section]:
    origins = origins_of(row.path)
    settings = [(key, words(value), origins.get(key, "")) for key, value in _part(record, "settings").items()]
    is_set = [not origin.startswith("default") for _, _, origin in settings]
    rows = sorted(range(len(settings)), key=lambda index: not is_set[index])  # those that were set come first
    if settings:
        yield Table(
            title="Config",
            topic="run",
            columns=["key", "value", "origin"],
            rows=[settings[index] for index in rows],
            marked=list(range(sum(is_set))),
            note="Values that were set come first.",
        )


def _reported(row: RunRow, record: RunRecord) -> Iterator[Section]:  # noqa: ARG001 - the same for all parts
    last = {re.sub(r"\d+", "", title): title for title in record.summary}
    for title in last.values():
        rows = record.summary[title]
        columns = list(dict.fromkeys(name for each in rows for name in each))
        cells = [[words(each.get(name)) for name in columns] for each in rows]
        if set(columns) == {"prompt", "text"}:
            texts = [f"{each.get('prompt', '')}{each.get('text', '')}" for each in rows]
            yield Text(title=title, paragraphs=texts, note="The prompt and what the model wrote.")
        else:
            yield Table(title=title, columns=columns, rows=cells)


def _pictures(row: RunRow, record: RunRecord) -> Iterator[Section]:  # noqa: ARG001 - see above
    folder = row.path / "artifacts"
    if folder.is_symlink():  # it may lead anywhere
        return
    try:
        names = sorted(each.name for each in folder.glob("*.png"))[:20]
    except OSError:
        return
    for name in names:
        data = read_of_folder(folder, name, _MAX_PICTURE_BYTES)
        if data and data.startswith(_PNG):
            yield Images(title=name.removesuffix(".png"), images=[Image(data=data, caption=f"artifacts/{name}")])


def _data(row: RunRow, record: RunRecord) -> Iterator[Section]:  # noqa: ARG001 - see above
    splits = {name: each for name, each in _part(record, "data").items() if isinstance(each, Mapping)}
    sizes = {name: each.get("num_examples") for name, each in splits.items()}
    if known := {name: size for name, size in sizes.items() if isinstance(size, int)}:
        yield Bars(
            title="Examples", topic="data", labels=list(known), values=list(known.values()), value_label="number"
        )


def _warnings(row: RunRow, record: RunRecord) -> Iterator[Section]:
    errors = [f"attempt {number}: {one.error}" for number, one in enumerate(record.attempts, 1) if one.error]
    changes = [f"attempt {number}: {text}" for number, one in enumerate(record.attempts, 1) for text in one.changes]
    if found := [*errors, *record.warnings, *changes]:
        yield Text(title="Warnings and errors", topic="warnings", paragraphs=found)
    log = (read_of_folder(row.path, "log.txt", _LOG_BYTES) or b"").decode(errors="replace").splitlines()
    if log:
        shown = "\n".join(log[-_LOG_LINES:])
        yield Text(title="End of the log", topic="warnings", paragraphs=[shown], is_preformatted=True)


def _environment(row: RunRow, record: RunRecord) -> Iterator[Section]:  # noqa: ARG001 - see above
    host = {"host": record.attempts[-1].host} if record.attempts else {}
    facts = {**_part(record, "versions"), **_part(record, "machine"), **host, "git commit": record.git or "none"}
    yield _two_columns("Versions and machine", "environment", facts, ("of", "value"))
    plugins = {name: each for name, each in _part(record, "plugins").items() if isinstance(each, Mapping)}
    rows = [
        [name, *(words(each.get(key)) for key in ("name", "distribution", "version"))] for name, each in plugins.items()
    ]
    yield Table(title="Plugins", topic="environment", columns=["table", "plugin", "distribution", "version"], rows=rows)
    code = {name: each.get("sha256") for name, each in _part(record, "code").items() if isinstance(each, Mapping)}
    yield _two_columns("Code", "environment", code, ("distribution", "SHA-256"))


def _commands(row: RunRow, record: RunRecord) -> Iterator[Section]:
    versions, folder = _part(record, "versions"), shlex.quote(str(row.path))
    wanted = [f"{name}=={versions[name]}" for name in ("hookline", "torch", "numpy") if name in versions]
    first = record.attempts[0].command if record.attempts else []
    lines = [
        *([f"pip install {' '.join(shlex.quote(word) for word in wanted)}"] if wanted else []),
        *([f"git checkout {shlex.quote(record.git)}"] if record.git else []),
        f"hookline train {folder}/config.toml",
    ]
    yield Text(title="Train it again", topic="repeat", paragraphs=["\n".join(lines)], is_preformatted=True)
    if first:
        yield Text(title="First command", topic="repeat", paragraphs=[shlex.join(first)], is_preformatted=True)
    uses = [f"hookline {verb} {folder}" for verb in ("eval", "runs show", "resume")]
    yield Text(title="Use it", topic="repeat", paragraphs=["\n".join(uses)], is_preformatted=True)


def _two_columns(title: str, topic: Any, facts: Mapping[str, Any], columns: Sequence[str]) -> Section:
    return Table(title=title, topic=topic, columns=columns, rows=[[key, words(value)] for key, value in facts.items()])


def _part(record: RunRecord, name: str) -> Mapping[str, Any]:
    part = record.identity.get(name)
    return part if isinstance(part, Mapping) else {}


def without_errors(path: Path) -> list[Section]:
    """Return the sections of a run; of one that cannot be read, a section that says so."""
    try:
        return sections_of_run(path)
    except HooklineError as error:
        return [bounded(Text(title="This run cannot be read", topic="run", paragraphs=[error.message]))]
