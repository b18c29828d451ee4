"""Several processes of one command: the ranks that torchrun or ``--nproc`` started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from hookline.cli.output import Output
from hookline.engine.errors import ConfigError, Fault

if TYPE_CHECKING:
    from hookline.engine.plugin.catalog import Catalog
    from hookline.engine.plugin.run_config import RunConfig
    from hookline.engine.ranks import Ranks

nproc_option = click.option(
    "--nproc", type=click.IntRange(min=1), default=1, metavar="N", help="Train with N processes on this machine."
)
"""The option of commands that train, for several processes."""

_TIMEOUT_S = 120.0
"""Seconds after which a rank that does not answer is given up, unless the config says otherwise."""


def world_size() -> int:
    """Return the number of ranks that this process is one of, from the variables that torchrun sets; 1: none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_zero() -> bool:
    """Return whether this process is rank 0, or alone."""
    return world_size() == 1 or os.environ["RANK"] == "0"


def parallel_of_command(catalog: Catalog, num_ranks: int) -> dict[str, Any]:
    """Return the table of the default strategy for several ranks; none for one."""
    return catalog.default("ranks") if max(num_ranks, world_size()) > 1 else {}


def launch_ranks(num_ranks: int) -> None:
    """Start the ranks of this command, and exit with their exit code; do nothing for one, or in one of them."""
    if num_ranks > 1 and world_size() == 1:
        from hookline.ranks.launching import launch

        click.get_current_context().exit(launch(num_ranks, sys.argv[1:]))


@contextmanager
def joined(output: Output, wanted: RunConfig | Sequence[str]) -> Iterator[Ranks | None]:
    """Join the other ranks of this command, which must want the same; yield None if there are none.

    A rank that fails tells the others, which end in silence.

    Raises:
        ConfigError: When their configs differ.
    """
    if world_size() == 1:
        yield None
        return
    from hookline.ranks.process_group import ProcessGroup

    with _process_group():
        ranks = ProcessGroup()
        try:
            _check_same(ranks, wanted)
            yield ranks
        except BaseException as error:
            is_first = ranks.tell(error)
            output.is_silent = not is_first
            raise


@contextmanager
def _process_group() -> Iterator[None]:
    import torch
    import torch.distributed as dist

    from hookline.ranks.launching import STORE

    rank, num_ranks = int(os.environ["RANK"]), world_size()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    place: dict[str, Any] = {"rank": rank, "world_size": num_ranks, "timeout": timedelta(seconds=_TIMEOUT_S)}
    if path := os.environ.get(STORE):
        store: Any = torch.distributed
        place["store"] = store.FileStore(path, num_ranks)
    dist.init_process_group(backend, **place)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _check_same(ranks: Ranks, wanted: RunConfig | Sequence[str]) -> None:
    """Check that all ranks have the same config and plugins, or the same words.

    Raises:
        ConfigError: When they differ.
    """
    if isinstance(wanted, Sequence):
        own = {f"word {number}": word for number, word in enumerate(wanted, 1)}
    else:
        own = {key: repr(setting.value) for key, setting in wanted.settings.items()}
        own |= {f"{choice.table} (plugin)": str(choice.plugin) for choice in wanted.plugins}
    first, *others = ranks.gather(own)
    faults = [
        Fault(f"{key!r} is {first.get(key, 'not set')} on rank 0, but {other.get(key, 'not set')} on rank {rank}")
        for rank, other in enumerate(others, 1)
        for key in sorted(first.keys() | other.keys())
        if first.get(key) != other.get(key)
    ]
    if faults:
        raise ConfigError("the ranks have different configs", faults=faults, hint="give all ranks the same files")
