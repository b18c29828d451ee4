"""The building of the components of a run: by its plugins, in order, each checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from hookline.engine.errors import ConfigError, ContractError
from hookline.engine.loop.components import Components
from hookline.engine.loop.evaluated_weights import EvaluatedWeights
from hookline.engine.loop.evaluation import try_evaluation
from hookline.engine.loop.metrics import build_metrics
from hookline.engine.loop.position import Position
from hookline.engine.loop.results import check_step_for_ranks
from hookline.engine.loop.splits import SplitReader, evaluated_splits
from hookline.engine.loop.weighted_mean import weight_of
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.observer import Observer
from hookline.engine.reading.batch import Forward, count_examples, placed_module
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.examples import with_sizes
from hookline.engine.reading.workers import Workers
from hookline.engine.rng import RandomState
from hookline.engine.view import Evaluation, Guard, RunView, Trial


class Site(NamedTuple):
    """A run under construction.

    Attributes:
        parts: Its components.
        host: Its plugins.
        run: The view that hooks receive.
        position: Its position.
        observers: Its observers.
    """

    parts: Components
    host: Host
    run: RunView
    position: Position
    observers: Sequence[Observer]


def build_all(site: Site) -> None:
    """Build all components in order."""
    build_for_evaluation(site, build_parallel, build_optimizer, build_step)


def build_for_evaluation(site: Site, *more: Callable[[Site], None]) -> None:
    """Build the components of an evaluation in order, and let plugins try them; then build ``more``.

    Without optimizer and step, no plugin checks what only a training needs.
    """
    build_data(site)
    build_batches(site)
    with RandomState(site.run.config.train.seed, "model").active():
        for build in (build_model, build_loss, try_components, *more):
            build(site)


def build_data(site: Site) -> None:
    """Build the data source."""
    site.parts.data = with_sizes(build_component(site.host, "data", run=site.run))


def build_batches(site: Site) -> None:
    """Build the batches of the training split, and those of each split that is evaluated."""
    parts, options, owner = site.parts, site.run.config.train, str(site.host.owner("data"))
    order = site.host.first_result("build_order", run=site.run, data=parts.data)
    reading = parts.dtype, parts.device, options.num_workers, options.worker_timeout_s
    workers = parts.workers = Workers(*reading, parts.data.collate, options.seed)
    size = None if options.batch_size == "all" else options.batch_size
    splits = parts.data.splits()
    name, drop_last = f"train split of {owner}", options.drop_last
    parts.share = share = site.run.ranks.share()
    how: dict[str, Any] = {"seed": options.seed if options.shuffle else None, "order": order, "share": share}
    parts.batches = Batches(parts.data.train, size, workers, name=name, drop_last=drop_last, **how)
    parts.evaluation_batches = {
        split: Batches(splits[split], options.eval_batch_size, workers, seed=None, name=f"{split} split of {owner}")
        for split in evaluated_splits(options, splits)
        if not (split == "train" and parts.batches.num_batches is None)
    }
    parts.read = SplitReader(site.host, site.position, site.observers)
    site.position.batches = parts.batches


def build_model(site: Site) -> None:
    """Build the model, and move it to the run's device and dtype."""
    parts = site.parts
    model: nn.Module = build_component(site.host, "model", run=site.run, data=parts.data)
    parts.unwrapped_model = site.host.makers.first["build_model"]
    parts.model = placed_module(model, parts.device, parts.dtype)
    parts.ensure_training_mode()


def build_loss(site: Site) -> None:
    """Build the loss, the metrics and the evaluation of a batch."""
    parts = site.parts
    parts.loss = build_component(site.host, "loss", run=site.run, data=parts.data)
    if isinstance(parts.loss, nn.Module):
        placed_module(parts.loss, parts.device, parts.dtype)
    # The batches of a step that a plugin implements may have any form.
    weigh = None if site.host.is_implemented("build_step") else weight_of(parts.loss)
    parts.forward = forward = Forward(parts.model, parts.loss, parts.data.target, parts.unwrapped_model, site.run)
    parts.weigh = (lambda batch: weigh(forward.pair(batch)[1]).to(parts.dtype)) if weigh else count_examples
    parts.metrics = build_metrics(site.host, run=site.run, data=parts.data)
    parts.evaluation = site.host.first_result("build_evaluation", run=site.run)


def try_components(site: Site) -> None:
    """Let plugins try model, loss and metrics with the first batch of each split."""
    parts, host = site.parts, site.host
    splits = dict(parts.evaluation_batches)
    if not host.is_implemented("build_step"):  # the batches of such a step may have any form
        splits["train"] = parts.batches

    def first(split: str) -> Any:
        return parts.read.first(split, splits[split])

    def measure(split: str, batch: Any, evaluation: Evaluation) -> None:
        names = try_evaluation(split, batch, evaluation, (parts.model, parts.loss), parts.metrics, host.makers)
        parts.numbers = list(dict.fromkeys([*parts.numbers, *names[1:]]))

    sizes, makers = {split: batches.num_examples for split, batches in splits.items()}, host.makers
    trial = Trial(sizes, first, parts.forward, parts.evaluation, parts.metrics, measure, makers.of, makers.attributing)
    host.notify("on_model_built", run=site.run, trial=trial)


def build_parallel(site: Site) -> None:
    """Let a plugin make the model one that all ranks train together, if there are several.

    Raises:
        ConfigError: When the run has no such plugin, or a step that knows nothing of other ranks.
    """
    parts, host, ranks = site.parts, site.host, site.run.ranks
    if ranks.world_size == 1:
        return
    check_step_for_ranks(host.order("build_step"), ranks.world_size)
    parallel = host.first_result("build_parallel", run=site.run, model=parts.model)
    if parallel is None:
        message = f"a run of {ranks.world_size} ranks needs a plugin that implements build_parallel"
        raise ConfigError(message, hint="name one: parallel=ddp")
    parts.parallel, parts.model, ranks.readers = parallel, parallel.model, parallel.readers


def build_optimizer(site: Site) -> None:
    """Build the optimizer, and the guard of its gradients."""
    parts = site.parts
    parts.optimizer = build_component(site.host, "optimizer", run=site.run, model=parts.model)
    parts.finite_guard = site.host.first_result("build_guard", run=site.run) or Guard()


def build_step(site: Site) -> None:
    """Build the step with its parts, the reader of its batches, and the sources of weights to evaluate."""
    parts, host, run = site.parts, site.host, site.run
    parts.backward = host.first_result("build_backward", run=run)
    if parts.share:
        parts.backward = parts.share.backward(parts.backward, parts.parallel.divisor, run.config.train.non_finite)
    parts.update = host.first_result("build_update", run=run)
    parts.step = host.first_result("build_step", run=run)
    parts.reader = host.first_result("build_reader", run=run)
    parts.evaluated_weights = EvaluatedWeights(host.results("build_evaluated_weights", run=run))


def build_component(host: Host, kind: str, **arguments: Any) -> Any:
    """Return the result of the build hook of a kind.

    Raises:
        ContractError: When it is None.
    """
    built = host.first_result(f"build_{kind}", **arguments)
    if built is None:
        hint = "does the hook end without a return?"
        raise ContractError(f"build_{kind} of {host.owner(kind)} returned nothing", hint=hint)
    return built
