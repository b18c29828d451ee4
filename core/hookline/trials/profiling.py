"""Profile of a run: the time of each part of the loop, and of each operation of torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.profiler import ProfilerActivity

from hookline.config.layers import Source
from hookline.config.loading import as_config
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ConfigError
from hookline.engine.loop.run import Run
from hookline.engine.plugin.observer import Observer
from hookline.engine.result import Step
from hookline.engine.view import Row

if TYPE_CHECKING:
    from hookline.engine.plugin.member import Member


_WARMUP_STEPS = 5
"""Number of steps before anything is measured: the first ones allocate memory and choose kernels."""
_DATA, _STEP, _OPTIMIZER, _CALLBACKS, _REST = _PARTS = (
    "data",
    "forward and backward",
    "optimizer",
    "callbacks",
    "evaluation and the loop",
)


@dataclass(frozen=True)
class Profile:
    """Time of some steps, by part of the loop and by operation.

    Attributes:
        num_steps: Number of steps, the same for the parts and for the operations.
        seconds: Time of the steps without the profiler.
        parts: A row for each part of the loop: ``part``, ``seconds``, ``us_per_step``, and ``percent`` of the time.
        operations: A row for each operation of torch, the most expensive first: ``operation``, ``calls``, and
            ``self_cpu_us``, ``self_device_us``, total microseconds without the operations that it called.
    """

    num_steps: int
    seconds: float
    parts: Sequence[Row]
    operations: Sequence[Row]


def profile(
    config: RunConfig | Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    num_steps: int = 20,
    trace_path: str | os.PathLike[str] | None = None,
) -> Profile:
    """Take some steps of a run, and return a profile of their time.

    After 5 steps the parts are timed for ``num_steps`` steps. ``torch.profiler`` slows each operation down, so it
    measures as many steps after those. The run fires all its events, and is stopped then.

    Args:
        config: A TOML file's path, a mapping of the same form, a ``RunConfig``, or None for the defaults.
        overrides: Values by dotted key that win over the config's; not with a ``RunConfig``.
        plugins: Objects instead of named plugins, by table; not with a ``RunConfig``.
        num_steps: Number of steps to measure, at least 1.
        trace_path: A file to write a trace to, for https://ui.perfetto.dev or ``chrome://tracing``.

    Raises:
        ConfigError: When the run has too few steps, or the trace cannot be written.
        HooklineError: When anything else is wrong with the run.

    Example:
        >>> found = profile(num_steps=10)
        >>> [row["part"] for row in found.parts][:3]
        ['data', 'forward and backward', 'optimizer']
    """
    if num_steps < 1:
        raise ValueError("a profile needs at least 1 step")
    stopwatch = _Stopwatch()
    run = Run(as_config(config, overrides, plugins=plugins), observers=[stopwatch])
    stopwatch.attach(run)
    if batching := [str(member.plugin) for member, _ in run.hook_order("build_reader")]:
        message = f"a profile measures single steps, but {', '.join(batching)} takes several at once"
        raise ConfigError(message, hint="switch it off for the profile")
    num_needed = _WARMUP_STEPS + 2 * num_steps
    if run.num_steps is not None and run.num_steps < num_needed:
        raise _too_short(run.num_steps, num_needed)
    if trace_path is not None:
        _check_writable(Path(trace_path))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])]
    with closing(cast(Generator[Step], run.steps())) as steps:
        _take(steps, _WARMUP_STEPS, run, num_needed)
        stopwatch.start()
        _take(steps, num_steps, run, num_needed)
        seconds = stopwatch.stop()
        with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            _take(steps, num_steps, run, num_needed)
    if trace_path is not None:
        profiler.export_chrome_trace(os.fspath(trace_path))
    return Profile(num_steps, sum(seconds.values()), _part_rows(seconds, num_steps), _operation_rows(profiler))


class _Stopwatch(Observer):
    """Measures the time of each part of the loop, without that of other parts that it calls."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(_PARTS, 0.0)
        self._part = _REST
        self._since = 0.0
        self._wait: Callable[[], object] = lambda: None

    def attach(self, run: Run) -> None:
        """Measure the optimizer of a run, and wait for its device wherever a part begins or ends."""
        if run.device.type != "cpu":
            self._wait = torch.accelerator.synchronize
        outer: list[str] = []
        run.optimizer.register_step_pre_hook(lambda *_: outer.append(self._switch_to(_OPTIMIZER)))
        run.optimizer.register_step_post_hook(lambda *_: self._return_to(outer.pop()))

    def start(self) -> None:
        """Start to count."""
        self._switch_to(_REST)
        self._seconds = dict.fromkeys(_PARTS, 0.0)

    def stop(self) -> dict[str, float]:
        """Return the seconds of each part since the start."""
        self._switch_to(_REST)
        return dict(self._seconds)

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - the arguments do not affect the cost
        """Call a hook, and count its time as the callbacks'."""
        with self._at(_CALLBACKS):
            return run()

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:  # noqa: ARG002 - the plugin makes no difference
        """Return a step with a clock around it; that of a wrapper counts as the callbacks'."""
        if hook != "build_step" or result is None:
            return result

        def step(batch: Any) -> Any:
            with self._at(_CALLBACKS if is_wrapper else _STEP):
                return result(batch)

        return step

    def reading(self, split: str, batches: Iterator[Any]) -> Iterator[Any]:  # noqa: ARG002 - all splits count
        """Yield batches, and count the time to read them as the data's."""
        is_over = object()
        while True:
            with self._at(_DATA):
                batch = next(batches, is_over)
            if batch is is_over:
                return
            yield batch

    @contextmanager
    def _at(self, part: str) -> Iterator[None]:
        outer = self._switch_to(part)
        try:
            yield
        finally:
            self._return_to(outer)

    def _switch_to(self, part: str) -> str:
        """Count the time from here on for a part, and return the previous one."""
        self._wait()
        now = time.perf_counter()
        self._seconds[self._part] += now - self._since
        outer, self._part, self._since = self._part, part, now
        return outer

    def _return_to(self, part: str) -> None:
        self._switch_to(part)


def _take(steps: Iterator[Step], num_steps: int, run: Run, num_needed: int) -> None:
    for _ in range(num_steps):
        if next(steps, None) is None:
            raise _too_short(run.step, num_needed)


def _too_short(num_steps: int, num_needed: int) -> ConfigError:
    half = (num_needed - _WARMUP_STEPS) // 2
    message = f"the run has {num_steps} steps, but the profile needs {num_needed}"
    return ConfigError(
        f"{message}: {_WARMUP_STEPS} to warm up, {half} to time and {half} to profile",
        hint="raise train.epochs or lower the number of steps to profile",
    )


def _check_writable(path: Path) -> None:
    """Raise if a file cannot be written; torch would only log it and continue."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint="choose another name") from error


def _part_rows(seconds: Mapping[str, float], num_steps: int) -> list[Row]:
    whole = sum(seconds.values())
    return [
        {"part": part, "seconds": value, "us_per_step": value / num_steps * 1e6, "percent": value / whole * 100}
        for part, value in seconds.items()
    ]


def _operation_rows(profiler: torch.profiler.profile) -> list[Row]:
    # Annotations for readers of a trace, such as "Optimizer.step#SGD.step", are not operations.
    operations = [event for event in profiler.key_averages() if not event.is_user_annotation]
    rows: list[Row] = [
        {
            "operation": event.key,
            "calls": event.count,
            "self_cpu_us": event.self_cpu_time_total,
            "self_device_us": event.self_device_time_total,
        }
        for event in operations
    ]
    return sorted(rows, key=_cost, reverse=True)


def _cost(row: Row) -> tuple[float, float]:
    """Return the cost of an operation: its time on the device, if any, then that on the CPU."""
    return float(row["self_device_us"] or 0), float(row["self_cpu_us"] or 0)
