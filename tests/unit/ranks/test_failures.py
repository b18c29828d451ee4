"""An error on one rank, in every hook and in what the hooks build: one rank tells it, and no other waits."""

from __future__ import annotations

import gc
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import default_collate

from hookline import DataSource, RunView, from_arrays, hookimpl
from hookline.config.plugins.hook_checks import WRAPPABLE
from hookline.engine import Ranks
from hookline.engine.plugin.hook_names import HOOKS
from hookline.ranks import ProcessGroup
from rank_runs import Items, Stream, data, run_of
from several import in_ranks

WRAPPED = {*WRAPPABLE} - {"build_order"}
"""The hooks that have a result in each run, so that a callback can wrap them."""


REPLACED = ("build_evaluation", "build_backward", "build_update", "build_step", "build_reader")
"""Those that build functions, which a callback can replace."""


def strike(place: str, error: type[Exception] = ValueError) -> None:
    """Fail on rank 1."""
    if dist.get_rank() == 1:
        raise error(f"struck in {place}")


def striking(hook: str, error: type[Exception]) -> Any:
    """Return a callback that fails on rank 1 in a hook, with the arguments of its specification."""
    names = ", ".join(("self", *HOOKS[hook]))
    body = "strike(); return {} if hook == 'build_metrics' else None"
    if hook in WRAPPED:
        body = "result = yield; strike(); return result"
    found = {"hook": hook, "strike": partial(strike, hook, error)}
    exec(f"def {hook}({names}): {body}", found)
    method: Any = found[hook]
    return type("Strikes", (), {hook: hookimpl(wrapper=hook in WRAPPED)(method)})()


class Busy:
    """Logs, warns, saves, announces, and fails on request, so that a run has each event."""

    fails = False

    @hookimpl
    def on_step_end(self, run: RunView) -> None:
        run.log("counted", run.step)
        if run.step == 2:
            run.warn("a warning")
        if run.step == 3 and self.fails:
            raise ValueError("on both ranks")

    @hookimpl
    def on_save_point(self, run: RunView) -> None:
        run.state_dict()
        run.announce_checkpoint("nowhere")


def ends(cases: Mapping[str, Callable[[Ranks], Any]]) -> dict[str, list[Any]]:
    """Return for each case the name and the text of the error with which it ends on two ranks, and who tells it.

    The cases have process groups of their own in the same two processes, which a rank that fails leaves at once.
    """
    with tempfile.TemporaryDirectory() as folder:

        def ended(name: str, rank: int) -> Any:
            ranks = ProcessGroup.by_file(Path(folder, name), rank, 2, 20.0)
            try:
                cases[name](ranks)
            except Exception as raised:  # noqa: BLE001 - it is the result
                error = ranks.fail(raised)
                return type(error).__name__, str(error), ranks.is_first
            return "completed"

        def all_ended(first: Ranks) -> list[Any]:
            gc.freeze()  # what was there before need not be looked at
            found = []
            for name in cases:
                dist.destroy_process_group()
                found.append(ended(name, first.rank))
                gc.collect()  # the run has the group as well
            return found

        return dict(zip(cases, map(list, zip(*in_ranks(2, all_ended), strict=True)), strict=True))


def run_with(ranks: Ranks, callback: Any = None, *, fails: bool = False, **tables: Any) -> None:
    """Do everything with a run that a program may do."""
    busy = Busy()
    busy.fails = fails
    inputs = torch.arange(24.0).view(12, 2)
    plugins = {"data": from_arrays(inputs.numpy(), inputs.sum(1).numpy()), "callbacks.busy": busy}
    plugins |= {"callbacks.strikes": callback or Busy(), **tables.pop("plugins", {})}
    train = {"epochs": 1, "batch_size": 3, "log_every_steps": 2, "evaluate_every_steps": 2}
    run = run_of(ranks, train=train, callbacks={"busy": {}, "strikes": {}}, plugins=plugins, **tables)
    run.fit().predict(inputs.numpy())
    ranks.gather("the end")


def check(found: Mapping[str, list[Any]]) -> None:
    """Check that rank 1 ends with its own error, rank 0 names it, and one of them tells it."""
    for place, ((other, text, is_told), (_, own, is_own_told)) in found.items():
        assert f"struck in {place}" in own, (place, own)
        assert other == "PeerError", (place, other, text)
        assert text.startswith("rank 1 on "), (place, text)
        assert f"struck in {place}" in text, (place, text)
        assert (is_told, is_own_told) == (False, True), place


def test_an_error_in_any_hook_of_one_rank_ends_all_and_is_told_once() -> None:
    errors = itertools.cycle((ValueError, MemoryError))
    callbacks = {hook: striking(hook, next(errors)) for hook in HOOKS}
    found = ends({hook: partial(run_with, callback=callback) for hook, callback in callbacks.items()})
    for unused in ("on_run_error", "build_report"):
        assert found.pop(unused) == ["completed"] * 2, unused
    check(found)


def test_an_error_on_one_rank_about_an_error_of_all_is_a_note() -> None:
    callback = partial(striking, "on_run_error", ValueError)
    [found] = ends({"both": lambda ranks: run_with(ranks, callback(), fails=True)}).values()
    assert [text for _, text, _ in found] == ["on both ranks"] * 2
    assert sorted(is_told for *_, is_told in found) == [False, True]


class Fails(Items):
    """Examples, the last of which rank 1 cannot read."""

    def __getitem__(self, index: int) -> Any:
        if index == len(self) - 1:
            strike("data")
        return super().__getitem__(index)


def fails_in(place: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that fails on rank 1, and does otherwise on the other."""

    def function(*given: Any) -> Any:
        strike(place)
        return otherwise(*given)

    return function


def wrapping(hook: str) -> Any:
    """Return a callback that replaces what a hook builds by a function that fails on rank 1."""

    def method(self: Any) -> Any:
        built = yield
        return fails_in(hook, built)

    return type("Wraps", (), {hook: hookimpl(wrapper=True)(method)})()


class Struck(nn.Linear):
    """A model that fails."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        strike("forward")
        return super().forward(inputs)


def struck_loss(prediction: Tensor, target: Tensor) -> Tensor:
    strike("loss")
    return nn.functional.mse_loss(prediction, target)


class Measures:
    """A metric that fails."""

    def __init__(self, place: str) -> None:
        self.place = place

    @hookimpl
    def build_metrics(self) -> Any:
        methods = {name: lambda self, *_: 1.0 for name in ("reset", "update", "compute")}
        return {"m": type("M", (), methods | {self.place: fails_in(self.place, methods[self.place])})()}


class Weighs:
    """A plugin whose weights to evaluate cannot be given."""

    @hookimpl
    def build_evaluated_weights(self) -> Any:
        return fails_in("weights", tuple)


class Kept(Busy):
    """A callback whose state cannot be taken or loaded."""

    def __init__(self, place: str) -> None:
        self.place = place

    def state_dict(self) -> dict[str, Any]:
        if self.place == "state_dict":
            strike("state_dict")
        return {}

    def load_state_dict(self, _: Any) -> None:
        strike("load_state_dict")


def resumed(ranks: Ranks) -> None:
    options: dict[str, Any] = {"callbacks": {"kept": {}}, "plugins": {"callbacks.kept": Kept("load_state_dict")}}
    state = run_of(ranks, **options).state_dict()
    run = run_of(ranks, **options)
    run.load_state_dict(state)
    run.fit()


def of_data(items: Any, **options: Any) -> Callable[[Ranks], object]:
    source = DataSource(items, items, in_features=5, out_features=1, **options)
    return lambda ranks: run_of(ranks, plugins={"data": source}).fit()


def test_an_error_on_one_rank_in_what_the_hooks_build_ends_all_and_is_told_once() -> None:
    plain = Items(data(12).train)
    cases: dict[str, Callable[[Ranks], Any]] = {
        "data": of_data(Fails(plain)),
        "collate": of_data(plain, collate=fails_in("collate", default_collate)),
        "forward": partial(run_with, model={}, plugins={"model": Struck()}),
        "loss": partial(run_with, loss={}, plugins={"loss": struck_loss}),
        **{place: partial(run_with, callback=Measures(place)) for place in ("reset", "update", "compute")},
        **{hook: partial(run_with, callback=wrapping(hook)) for hook in REPLACED},
        "weights": partial(run_with, callback=Weighs()),
        "state_dict": partial(run_with, callback=Kept("state_dict")),
    }
    check(ends(cases))
    [(other, struck)] = ends({"load_state_dict": resumed}).values()
    assert "cannot load its state: ValueError: struck in load_state_dict" in struck[1]
    assert [other[0], other[2], struck[2]] == ["PeerError", False, True]
    assert "struck in load_state_dict" in other[1]


class Uneven(Stream):
    """A stream with fewer examples on rank 1."""

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(super().__iter__(), 7 if dist.get_rank() else 12)


def test_a_stream_that_ends_on_one_rank_alone_is_an_error_on_all() -> None:
    source = DataSource(Uneven(data(12).train), in_features=5, out_features=1)
    tables: dict[str, Any] = {"train": {"batch_size": 3}, "plugins": {"data": source}}
    [(first, second)] = ends({"stream": lambda ranks: run_of(ranks, **tables).fit()}).values()
    assert [first[0], second[0]] == ["DataError"] * 2
    assert "the stream of training examples goes on here in epoch 1, but not on all ranks" in first[1]
    assert "the stream of training examples has ended here in epoch 1, but not on all ranks" in second[1]
    assert sorted([first[2], second[2]]) == [False, True]
