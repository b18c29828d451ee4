"""Collect the sections that the plugins of a saved run add to its report."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import HooklineError, error_text
from hookline.engine.loop.building import Site
from hookline.engine.plugin.member import Member
from hookline.engine.reading.batch import on_cpu
from hookline.engine.rng import preserved_rng
from hookline.engine.view import Evaluated, RunView
from hookline.runs.folder import saved_config
from hookline.runs.overview.search import find_run
from hookline.runs.redaction import Redaction
from hookline.sections import MAX_SECTIONS, Section, Text, bounded
from hookline.trained.evaluating import USUAL_SPLITS, load_evaluated

_MAX_NUMBERS = 2**24
"""Number of predicted values that are kept: 64 MiB in float32."""
_HOOK = "build_report"


def collect_sections(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
) -> list[Section]:
    """Evaluate a split of a run, and return the sections that its plugins add by their hooks ``build_report``.

    The split is ``validation``, else ``test``, else ``train``. A plugin that fails has a section that says so, and
    every section is within the bounds and without the secrets of the config. Nothing is written.

    Args:
        run: Folder, number or name of the run.
        overrides: Values by dotted key that win over those of its config.
        plugins: Objects by table, if it was trained with objects: ``{"data": data}``.
        checkpoint: ``latest`` or the folder of a checkpoint, instead of the final weights of the run.
        parent: Folder to search for runs by number or name.
        catalog: The plugins that may be used; default: the installed ones.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        HooklineError: As ``Run`` raises it.
    """
    path = find_run(run, parent)
    switches = {"report": {"train.evaluate": list(USUAL_SPLITS)}}
    config = load_config(saved_config(path), overrides, plugins=plugins, switches=switches, catalog=catalog)
    found = load_evaluated(path, config, checkpoint)
    split = next((name for name in USUAL_SPLITS if name in found.site.parts.evaluation_batches), "train")
    evaluated = evaluated_split(found.site, split)
    redaction = Redaction.of(config)
    sections = [_redacted(one, redaction) for one in sections_of_plugins(found.site, split, evaluated)]
    if found.warnings:
        title = "Warnings about the weights and the data of the evaluation"
        sections.append(bounded(Text(title=title, topic="warnings", paragraphs=redaction.messages(found.warnings))))
    return sections


def sections_of_plugins(site: Site, split: str, evaluated: Evaluated | None) -> Iterator[Section]:
    """Yield the sections of each plugin of a built run; of one that fails, a section that says so."""
    given = {"run": site.run, "split": split, "evaluated": evaluated}
    for member, _ in site.host.order(_HOOK):
        try:
            with preserved_rng(), torch.no_grad():
                yield from _sections_of(member, given)
        except Exception as error:  # noqa: BLE001 - the report is made without it
            text = error.message if isinstance(error, HooklineError) else error_text(error)
            yield bounded(Text(title=f"No sections of {member.plugin}", topic="warnings", paragraphs=[text]))


def _sections_of(member: Member, given: Mapping[str, Any]) -> list[Section]:
    hook = getattr(member.instance, _HOOK)
    arguments = {name: given[name] for name in inspect.signature(hook).parameters}
    return [bounded(section) for section in itertools.islice(hook(**arguments) or (), MAX_SECTIONS)]


def evaluated_split(site: Site, split: str, max_numbers: float = _MAX_NUMBERS) -> Evaluated | None:
    """Evaluate a split; return the result with the predictions and targets of its examples as one batch.

    These are None if they have more than ``max_numbers`` numbers, or are no tensors. The result is None if the model
    predicts nothing that is measured, or the split is not evaluated.
    """
    parts, run = site.parts, site.run
    if split not in parts.evaluation_batches:
        return None
    kept = _Kept(max_numbers)
    parts.evaluation_batches = {split: parts.evaluation_batches[split]}
    measured = parts.metrics
    parts.metrics = {**measured, "report/kept": kept}
    try:
        numbers = _evaluate(run)
    finally:
        parts.metrics = measured
    numbers = {name.removeprefix(f"{split}/"): number for name, number in numbers.items()}
    numbers.pop("report/kept")
    prediction, target = kept.joined()
    return Evaluated(torch.tensor(numbers["loss"]), None, prediction, target, numbers)


def _evaluate(run: RunView) -> dict[str, float]:
    evaluable: Any = run
    return dict(evaluable.evaluate())


class _Kept:
    """A metric that keeps predictions and targets, as long as there is room."""

    def __init__(self, max_numbers: float) -> None:
        self._max_numbers = max_numbers
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._batches: list[tuple[Any, Any]] = []
        self._room = self._max_numbers

    def update(self, prediction: Any, target: Any) -> None:
        """Keep a batch on the CPU, if it and its predecessors have only tensors and there is room."""
        if not (isinstance(prediction, Tensor) and isinstance(target, Tensor)):
            self._room = -1
        self._room -= prediction.numel() if self._room > 0 else 0
        if self._room >= 0:
            self._batches.append((on_cpu(prediction), on_cpu(target)))

    def compute(self) -> float:
        """Return a number, which nobody reads."""
        return 0.0

    def joined(self) -> tuple[Any, Any]:
        """Return predictions and targets, each as one tensor; None if there are none, or they cannot be joined."""
        if not self._batches:
            return None, None
        try:
            return tuple(torch.cat(list(each)) for each in zip(*self._batches, strict=True))  # type: ignore[return-value] # a pair
        except RuntimeError:  # batches of texts of several lengths
            return None, None


def _redacted(section: Section, redaction: Redaction) -> Section:
    plain = redaction.plain(msgspec.to_builtins(section, builtin_types=(bytes,)))
    return msgspec.convert(plain, type(section))
