"""Several processes of one command: the ranks that torchrun or ``--nproc`` started."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hookline.cli.output import Output
from hookline.cli.signals import leaving_by_signals
from hookline.engine.errors import ConfigError, Fault, PluginError
from hookline.ranks.agreed import LAUNCHER, STORE
from hookline.runs.overview.search import run_of_job
from hookline.runs.redaction import Redaction

if TYPE_CHECKING:
    from hookline.config.plugins.catalog import Catalog
    from hookline.config.run_config import RunConfig
    from hookline.engine.loop.run import Run
    from hookline.engine.ranks import Ranks

nproc_option = click.option(
    "--nproc", type=click.IntRange(min=1), default=1, metavar="N", help="Use N processes on this machine."
)
"""The option of commands that train or evaluate, for several processes."""

_START_S = 1800.0
"""Seconds for which the ranks wait for one another until the first step has been taken: torch's own for gloo."""
_TIMEOUT_S = 600.0
"""Seconds for which they wait afterwards, unless the config says otherwise: torch's own for NCCL."""
_REFUSED = "hookline-refused"
_REFUSALS = (ConfigError.exit_code, PluginError.exit_code)
"""Exit codes after which another attempt would end in the same way."""
_RANKED = ("train", "resume", "eval")
"""The commands that all ranks carry out."""


def world_size() -> int:
    """Return the number of ranks that this process is one of, from the variables that torchrun sets; 1: none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank_of_command() -> int:
    """Return the number of this process among the ranks; 0: it is alone."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def leave_to_zero(command: str | None) -> None:
    """End this process, unless it is rank 0 or the ranks carry out ``command`` together."""
    if rank_of_command() and command not in _RANKED:
        click.get_current_context().exit()


def job() -> str:
    """Return the name of the job of torchrun that this process belongs to, the same for all its attempts."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    folder = _folder_of_launcher()
    return folder.name if name == "none" and folder else name  # torchrun's name for a job without one


def earlier_attempt(ranks: Ranks, parent: Path | None) -> Path | None:
    """Return the folder of the run that an earlier attempt of this job of torchrun has begun in ``parent``, if any."""
    found = run_of_job(job(), parent) if parent and ranks.is_zero else None
    attempts, [path, *_] = zip(*ranks.gather((_attempt(), str(found) if found else None)), strict=True)
    return Path(path) if path and any(attempts) else None


def _attempt() -> int:
    """Return how often torchrun has started the ranks anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _folder_of_launcher() -> Path | None:
    """Return the folder that what started the ranks made for them alone, and removes; None without one."""
    if store := os.environ.get(STORE):
        return Path(store).parent
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(error_file).parents[2] if error_file else None  # FOLDER/attempt_0/0/error.json


def check_not_refused() -> None:
    """Exit at once where torchrun starts ranks again whose command was refused.

    The first attempt has said why.
    """
    folder = _folder_of_launcher()
    if _attempt() and folder and (folder / _REFUSED).exists():
        sys.exit(int((folder / _REFUSED).read_text()))


def is_said_elsewhere(output: Output, code: int) -> bool:
    """Return whether another rank says why this command ends; leave a note for the next attempt if it is refused."""
    if output.is_first is False:
        return True
    folder = _folder_of_launcher()
    if world_size() > 1 and folder and code in _REFUSALS:
        try:
            with (folder / _REFUSED).open("x") as file:
                file.write(str(code))
        except FileExistsError:
            return output.is_first is None
        except OSError:
            return False
    return False


def leave(code: int) -> NoReturn:
    """End this process."""
    if code and world_size() > 1:
        os._exit(code)  # torch would wait for ranks that are gone
    sys.exit(code)


def parallel_of_command(catalog: Catalog, num_ranks: int) -> dict[str, Any]:
    """Return the table of the default strategy for several ranks; none for one."""
    return catalog.default("ranks") if max(num_ranks, world_size()) > 1 else {}


def launch_ranks(num_ranks: int) -> None:
    """Start the ranks of this command, and exit with their exit code; do nothing for one, or in one of them.

    Raises:
        ConfigError: When torchrun has started the ranks already.
    """
    if num_ranks == 1 or STORE in os.environ:
        return
    if world_size() > 1:
        message = f"--nproc {num_ranks} cannot be combined with the {world_size()} ranks that were started"
        raise ConfigError(message, hint="leave out --nproc, and give their number to torchrun: --nproc-per-node")
    from hookline.ranks.launching import launch

    click.get_current_context().exit(launch(num_ranks, sys.argv[1:]))


def ranks_of_proof(num_ranks: int) -> int:
    """Return the number of ranks of a proof, which rank 0 starts: that of ``--nproc``, or as many as torchrun started.

    Raises:
        ConfigError: When torchrun has started ranks on several machines.
    """
    if num_ranks == 1 and world_size() != int(os.environ.get("LOCAL_WORLD_SIZE", world_size())):
        message = "a run is proven on one machine, but torchrun has started ranks on several"
        raise ConfigError(message, hint="run it without torchrun: hookline prove-resume --nproc N")
    return world_size() if num_ranks == 1 else num_ranks


@contextlib.contextmanager
def joined(output: Output, config: RunConfig | None) -> Iterator[Ranks | None]:
    """Join the other ranks of this command, which must have the same config; yield None if there are none.

    A rank that fails tells the others, which end in silence.

    Args:
        output: Printer of the command.
        config: The config; None is for one process.

    Raises:
        ConfigError: When their configs differ.
    """
    if world_size() == 1 or config is None:
        yield None
        return
    from hookline.ranks.process_group import ProcessGroup
    from hookline.ranks.watch import code_at_work, watching

    setting = config.settings.get("parallel.timeout_s")
    _join()
    ranks = ProcessGroup(float(setting.value) if setting else _TIMEOUT_S, code_at_work)
    launcher = os.environ.get(LAUNCHER) or ("TORCHELASTIC_RUN_ID" in os.environ and os.getppid())
    with watching(ranks.tell_place, int(launcher) if launcher else None), leaving_by_signals(ranks.fail):
        try:
            _check_same(ranks, _values_of(config), "configs", "give all ranks the same files and the same command")
            yield ranks
        except BaseException as raised:
            error = ranks.fail(raised)
            output.is_first = ranks.is_first
            if error is raised:
                raise
            raise error from raised
    import torch.distributed as dist

    dist.destroy_process_group()  # not after an error: it can wait for a rank that is gone


def check_same_data(run: Run) -> None:
    """Check that all ranks have the same data and the same versions, and let them tell how far the run is.

    Raises:
        ConfigError: When they differ.
    """
    if run.ranks.world_size == 1:
        return
    from hookline.ranks.watch import code_at_work
    from hookline.runs.identity import identity_of

    run.ranks.place = lambda error: f"epoch {run.epoch} after {run.step} steps, {code_at_work(error)}"  # type: ignore[attr-defined] # a ProcessGroup
    identity = identity_of(run)
    own = {
        f"{part}.{name}": repr(value)
        for part in ("versions", "plugins", "code", "data")
        for name, value in identity[part].items()
    }
    _check_same(run.ranks, own, "versions or data", "give all ranks the same data and the same environment")


def _join() -> None:
    """Make the process group of the ranks."""
    import torch
    import torch.distributed as dist

    from hookline.ranks.fresh_store import fresh_store

    rank, num_ranks = rank_of_command(), world_size()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    place: dict[str, Any] = {"rank": rank, "world_size": num_ranks, "timeout": timedelta(seconds=_START_S)}
    if path := os.environ.get(STORE):
        names: Any = dist
        place["store"] = names.FileStore(path, num_ranks)
    else:
        from torch.distributed.rendezvous import rendezvous

        store, *_ = next(rendezvous("env://", rank, num_ranks, timeout=timedelta(seconds=_START_S)))
        place["store"] = fresh_store(store, rank, num_ranks, _START_S)
    dist.init_process_group(backend, **place)


def _values_of(config: RunConfig) -> dict[str, str]:
    redaction = Redaction.of(config)  # a message may show the values of another rank
    values = {key: redaction.known(repr(setting.value)) for key, setting in config.settings.items()}
    return values | {f"{choice.table} (plugin)": str(choice.plugin) for choice in config.plugins}


def _check_same(ranks: Ranks, own: Mapping[str, str], what: str, hint: str) -> None:
    """Check that all ranks have the same values.

    Raises:
        ConfigError: When they differ.
    """
    first, *others = ranks.gather(own)
    faults = [
        Fault(f"{key!r} is {first.get(key, 'not set')} on rank 0, but {other.get(key, 'not set')} on rank {rank}")
        for rank, other in enumerate(others, 1)
        for key in sorted(first.keys() | other.keys())
        if first.get(key) != other.get(key)
    ]
    if faults:
        raise ConfigError(f"the ranks have different {what}", faults=faults, hint=hint)
