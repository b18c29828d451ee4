"""The model card of a saved run: Markdown with a header in YAML, in which no text of users can be markup."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hookline import HooklineError
from hookline.engine import encodable, printable
from hookline.runs import read_record, row_of
from hookline.trained import evaluate_run

if TYPE_CHECKING:
    from hookline.runs import RunRecord
    from hookline.trained import Trained

_MODEL = "model.safetensors"
_MAX_NAMES = 40
"""Number of columns or classes that are listed."""

_PIPELINES: dict[str, dict[str | None, str]] = {
    "csv": {"regression": "tabular-regression", "classification": "tabular-classification"},
    "images": {"classification": "image-classification"},
    "texts": {"classification": "text-classification"},
    "corpus": {None: "text-generation"},
}
"""Tasks of the Hub (https://huggingface.co/tasks), by data source and task."""

_ENTITIES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "<>&|~$@"})
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!])")


def card_of(trained: Trained, folder: Path, *, title: str, license_name: str, tags: Sequence[str]) -> str:
    """Return the card of a trained model.

    Args:
        trained: The model.
        folder: The folder of the card, with the record.
        title: Its title; empty for the name of the run.
        license_name: The license; empty for none.
        tags: Tags besides those of the run.
    """
    record, title = read_record(folder), title or _label(trained)
    metrics, origin = _metrics(trained, record)
    every = dict.fromkeys(("hookline", *tags, *row_of(trained.path).tags))
    header = _header(trained, record, title, metrics, [*every], license_name)
    parts = [
        f"---\n{header}---",
        f"# {_plain(title)}",
        f"A model of PyTorch, trained with Hookline: run {_plain(trained.path.name)}, {trained.step} steps.",
        _usage(trained, record),
        "## Data\n\n" + _data(trained, record),
        "## Evaluation\n\n" + origin + _metric_table(metrics),
        "## Training\n\n" + _training(record),
        "## Versions\n\n" + _table(("package", "version"), record.identity.get("versions", {}).items()),
    ]
    return "\n\n".join(parts) + "\n"


# ---- header ----------------------------------------------------------------------------------------------------------


def _header(
    trained: Trained,
    record: RunRecord,
    title: str,
    metrics: Mapping[str, float],
    tags: Sequence[str],
    license_name: str,
) -> str:
    source = _source(record)
    pipeline = _PIPELINES.get(source.replace("parquet", "csv"), {}).get(_task(trained))
    values: dict[str, Any] = {"library_name": "hookline"}
    if license_name:
        values["license"] = license_name
    if pipeline:
        values["pipeline_tag"] = pipeline
    values["tags"] = list(tags)
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    if pipeline and finite:
        result = {
            "task": {"type": pipeline},
            "dataset": {"type": source, "name": _dataset(record)},
            "metrics": [
                {"type": name.partition("/")[2], "name": name, "value": value} for name, value in finite.items()
            ],
        }
        values["model-index"] = [{"name": title, "results": [result]}]
    return "".join(f"{key}: {_yaml(value)}\n" for key, value in values.items())


def _yaml(value: Any) -> str:
    """Return a value in flow style, which YAML shares with JSON, for readers of YAML 1.1 as well."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float):
        digits, e, exponent = repr(value).partition("e")
        return f"{digits}{'' if '.' in digits else '.0'}{e}{exponent}"
    text = _one_line(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


# ---- sections --------------------------------------------------------------------------------------------------------


def _usage(trained: Trained, record: RunRecord) -> str:
    needed = {"torch": record.identity["versions"]["torch"].partition("+")[0]}
    needed |= {name: found["version"] for name, found in record.identity.get("code", {}).items()}
    packages = " and ".join(f"{_plain(name)} {_plain(version)}" for name, version in needed.items())
    return f"""## Use it

Install {packages}. In this folder, or with its path instead of the dot:

```python
{_snippet(trained, record)}
```

The folder holds no code and nothing pickled: `{_MODEL}` has the weights, `config.toml` the options of the plugins,
`data.json` what the inputs need, and `run.json` the record with the checksums of the others."""


def _snippet(trained: Trained, record: RunRecord) -> str:
    load = 'trained = hookline.trained.load_trained(".")'
    try:
        _ = trained.predictor
    except HooklineError:
        return f"import hookline\nimport torch\n\n{load}\n{_use_of_tensors(trained)}"
    suffix = ".npz" if _source(record) == "from-arrays" else Path(_dataset(record)).suffix
    name = f"new{suffix}" if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else "new"
    return f'import hookline\n\n{load}\nfor columns in trained.predictions("{name}"):\n    print(columns)'


def _use_of_tensors(trained: Trained) -> str:
    import torch

    try:
        inputs = trained.data.train[0][0]
    except (HooklineError, LookupError, TypeError):
        inputs = None
    if not isinstance(inputs, torch.Tensor):
        return "print(trained.model)"
    batch = f"torch.zeros({', '.join(map(str, (1, *inputs.shape)))}, dtype={inputs.dtype})"
    return f"inputs = {batch}  # as in training: scaled, for instance\nprint(trained.output(inputs))"


def _data(trained: Trained, record: RunRecord) -> str:
    data = trained.data
    names = {"columns": data.feature_names, "targets": data.target_names, "classes": data.class_names}
    rows = [
        ("source", f"{_source(record)}: {_dataset(record)}"),
        ("task", _task(trained) or ""),
        *((what, _listed(given)) for what, given in names.items() if given),
    ]
    splits = [
        (name, split.get("num_examples") or "", split.get("content") or "")
        for name, split in record.identity.get("data", {}).items()
    ]
    return _table(("property", "value"), rows) + "\n\n" + _table(("split", "examples", "fingerprint"), splits)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{len(names)}: {', '.join(names[:_MAX_NAMES])}{more}"


def _metrics(trained: Trained, record: RunRecord) -> tuple[dict[str, float], str]:
    """Return the metrics of the exported weights by split and name, and their origin."""
    checkpoint = None if trained.weights == _MODEL else trained.weights
    try:
        found = evaluate_run(trained.path, checkpoint=checkpoint)
    except HooklineError:
        metrics = {name: value for name, value in record.metrics.items() if value is not None}
        return metrics, "The last numbers of the training; the data were not there for another evaluation.\n\n"
    return dict(found.metrics), "Measured when this folder was made.\n\n"


def _metric_table(metrics: Mapping[str, float]) -> str:
    return _table(("metric", "value"), [(name, f"{value:.6g}") for name, value in metrics.items()])


def _training(record: RunRecord) -> str:
    plugins = [
        (table, one["name"], f"{one['distribution']} {one['version']}")
        for table, one in record.identity.get("plugins", {}).items()
    ]
    settings = {
        key: msgspec.json.encode(value).decode()
        for key, value in record.identity.get("settings", {}).items()
        if not key.startswith(("data.", "plugins.")) and not key.endswith(".use")
    }
    facts = [
        ("seed", record.seed),
        ("epochs", record.epochs),
        ("steps", record.step),
        ("seconds", f"{record.time_s:.3g}"),
    ]
    return "\n\n".join(
        [
            _table(("property", "value"), facts),
            _table(("part", "plugin", "distribution"), plugins),
            "<details><summary>Options</summary>",
            _table(("option", "value"), settings.items()),
            "</details>",
        ]
    )


# ---- texts -----------------------------------------------------------------------------------------------------------


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """Return a text that Markdown shows as it is, as CommonMark (0.31.2, sections 2.4 and 2.5) and its relatives do."""
    return _MARKUP.sub(r"\\\1", _one_line(value)).translate(_ENTITIES)


def _one_line(value: Any) -> str:
    return printable(encodable(str(value)))


def _label(trained: Trained) -> str:
    return re.sub(r"^\d+-|\.zip$", "", trained.path.name)


def _source(record: RunRecord) -> str:
    return str(record.identity.get("plugins", {}).get("data", {}).get("name", ""))


def _dataset(record: RunRecord) -> str:
    return str(record.identity.get("settings", {}).get("data.path") or _source(record))


def _task(trained: Trained) -> str | None:
    return "classification" if trained.data.task == "binary" else trained.data.task
