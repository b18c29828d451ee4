"""``ProcessGroup``: the ranks of a run over a process group of torch.distributed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from hookline.engine.errors import PeerError, error_text
from hookline.engine.ranks import Ranks
from hookline.engine.reading.batch import with_parts
from hookline.ranks.agreed import told_key
from hookline.ranks.hook_watch import HookWatch, Untolerated
from hookline.ranks.messages import from_bytes, to_bytes
from hookline.ranks.share import ShareOfRank
from hookline.runs.disk.encoding import is_shared_out
from hookline.runs.disk.shards import StoredTensor, box_of, read_whole

_FRAME = 1024
"""Bytes that ranks exchange in one go; longer messages need a second."""
_COST = 0.004
"""Share of the time that meetings may take."""
_WAIT_S = 0.5
"""Seconds to the next meeting, at most, if the steps keep their pace; those that become slow make it late."""
_ANSWER_S = 2.0
"""Seconds in which the other ranks notice that one is gone."""
_SIGNS = ("gloo", "NCCL", "onnection closed", "Application timeout")
_CLOSING_S = 0.2
"""Seconds in which a rank that ends can tell why, after the first of its connections is closed."""


class ProcessGroup(Ranks):
    """The ranks of a run over the process group of torch.distributed that this process is in.

    Messages go over gloo, whatever carries the gradients.

    Args:
        timeout_s: Seconds for which a rank waits for another after the first step; None: as long as before it.
        place: Returns the place of this process in the run, or that of an error, for messages.

    Attributes:
        is_first: Whether this rank was the first to fail, so that it should say why.

    Raises:
        ValueError: When there is no process group: call ``torch.distributed.init_process_group`` first.

    Example:
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ProcessGroup().gather({"loss": 0.5})
        [{'loss': 0.5}]
        >>> dist.destroy_process_group()
    """

    def __init__(
        self, timeout_s: float | None = None, place: Callable[[BaseException | None], str] = lambda _: ""
    ) -> None:
        super().__init__()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else dist.group.WORLD
        self._store = c10d.PrefixStore("hookline", c10d._get_default_store())  # noqa: SLF001 - torch has no public function for it
        self._timeout_s, self.place = timeout_s, place
        self._next = 0
        self._met = time.perf_counter(), 0
        self._cost_s = self._pace_s = 0.0
        self._has_failed = self.is_first = False
        self._watch = HookWatch(self.world_size, self.sum)
        self.observers = (self._watch,)
        self._seen = self._told_place = ""

    @classmethod
    def by_file(cls, path: str | os.PathLike[str], rank: int, num_ranks: int, timeout_s: float) -> ProcessGroup:
        """Make the process group of ranks on this machine, which meet in a file that does not exist yet; on the CPU."""
        store: Any = torch.distributed  # torch exports its stores without a declaration
        place = {"store": store.FileStore(os.fspath(path), num_ranks), "timeout": timedelta(seconds=timeout_s)}
        dist.init_process_group("gloo", rank=rank, world_size=num_ranks, **place)
        return cls()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order: tensors, on the CPU, and plain values of any nesting."""
        return [from_bytes(data) for data in self._gathered(to_bytes(value))]

    def share(self, *, in_turns: bool = False) -> ShareOfRank | None:
        """Return the part of the batches that this rank reads, or the batches it reads in turns; None: it reads all."""
        return ShareOfRank(self, in_turns=in_turns) if self.world_size > 1 else None

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of some numbers over all ranks, computed in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        self._add_up(total, self._group)
        return total.tolist()

    def all(self, is_true: torch.Tensor) -> torch.Tensor:
        """Return whether a boolean tensor is true on all ranks, without waiting for its device."""
        num_false = (~is_true).float()
        self._add_up(num_false, dist.group.WORLD)
        return num_false == 0

    def whole(self, state: Any) -> Any:
        """Return a state of any nesting in which each tensor that is shared out, a DTensor, is whole and on the CPU."""
        if not isinstance(state, torch.Tensor):
            return with_parts(state, self.whole)
        if not is_shared_out(state):
            return state
        with self.noticing():
            return state.full_tensor().cpu()  # type: ignore[attr-defined] # a DTensor has it

    def sharded(self, state: Any, like: Any) -> Any:
        """Return a state with its tensors shared out as those of ``like`` that are DTensors.

        Of a tensor of a checkpoint in parts, this rank reads what it needs.
        """
        if isinstance(like, Mapping):
            return {key: self.sharded(value, like.get(key)) for key, value in state.items()}
        if not isinstance(state, torch.Tensor | StoredTensor):
            return with_parts(state, lambda part: self.sharded(part, like))
        if is_shared_out(state):
            return state
        if is_shared_out(like) and state.shape == like.shape:
            return _shared_out(state, like)
        return read_whole(state)

    def meet(self, step: int, *, is_due: bool = False) -> None:
        """Meet the other ranks, so often that it takes 0.4 % of the time, and half a second pass at most."""
        self.agreed = {}
        if not is_due and step < self._next:
            return
        if self._timeout_s and step:
            for group in {dist.group.WORLD, self._group}:
                c10d._set_pg_timeout(timedelta(seconds=self._timeout_s), group)  # noqa: SLF001 - torch has no public one
            self._timeout_s = None
        begun = time.perf_counter()
        asked = dict(self.asked)
        num_asked, num_steps = self.sum([len(asked), self._steps_to_next(begun, step) if self.is_zero else 0])
        if num_asked:
            for one in self.gather(asked):  # the reason of the first rank is that of all
                self.agreed = {**self.agreed, **one, **self.agreed}
            for name in asked:
                del self.asked[name]
        self._next = step + int(num_steps)
        self._cost_s = time.perf_counter() - begun
        self._met = time.perf_counter(), step

    def _steps_to_next(self, now: float, step: int) -> int:
        before, step_before = self._met
        step_s = (now - before) / max(step - step_before, 1)
        # On a busy machine, steps that were slow may be so again.
        self._pace_s = max(step_s, self._pace_s / 2)
        return max(min(int(self._cost_s / _COST / step_s) + 1, int(_WAIT_S / self._pace_s)), 1)

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Raise ``PeerError`` where torch.distributed reports that another rank is gone or does not answer.

        Raises:
            TrainingError: In a hook that only rank 0 calls.
            PeerError: Also when this rank has told the others that it ends.
        """
        self._watch.check()
        if self._has_failed:
            raise PeerError("this rank has failed, and no longer talks to the others")
        try:
            yield
        except RuntimeError as error:
            if not _is_of_peer(error):
                raise
            raise self._peer_error(error) from error

    def fail(self, error: BaseException) -> BaseException:
        """Tell the other ranks that this one ends with an error; return the error to raise, which may be of another."""
        if self._has_failed:
            return error
        if isinstance(error, Untolerated):
            error = error.error
        elif isinstance(error, RuntimeError) and _is_of_peer(error):
            error = self._peer_error(error)
        self._has_failed = True
        told = {"rank": self.rank, "host": platform.node(), "message": error_text(error)[:1000]}
        self.is_first = True
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it the ranks that could read
            self._store.set(told_key(self.rank), json.dumps(told))
            self.is_first = bool(self._store.add("num_failed", 1) == 1)
        return error

    def tell_place(self) -> None:
        """Tell the other ranks where this one stands, if it has stood there before; meant to be called every second."""
        before, self._seen = self._seen, self.place(None)
        still = self._seen if self._seen == before else ""
        if still != self._told_place:
            self._told_place = still
            self._store.set(f"place/{self.rank}", still)

    def _add_up(self, numbers: torch.Tensor, group: Any) -> None:
        """Replace numbers by their sums over all ranks: ``dist.all_reduce`` without the Python around it."""
        with self.noticing():
            group.allreduce([numbers]).wait()

    def _gathered(self, data: bytes) -> list[bytes]:
        """Return the bytes of all ranks."""
        head = len(data).to_bytes(8, "little")
        frames = self._exchanged(head + data, _FRAME)
        sizes = [int.from_bytes(frame[:8], "little") for frame in frames]
        if (longest := max(sizes)) > _FRAME - 8:
            return [frame[:size] for frame, size in zip(self._exchanged(data, longest), sizes, strict=True)]
        return [frame[8 : 8 + size] for frame, size in zip(frames, sizes, strict=True)]

    def _exchanged(self, data: bytes, size: int) -> list[bytes]:
        own = torch.frombuffer(bytearray(data[:size].ljust(size, b"\0")), dtype=torch.uint8)
        of_all = [torch.empty_like(own) for _ in range(self.world_size)]
        with self.noticing():
            dist.all_gather(of_all, own, group=self._group)
        return [of_one.numpy().tobytes() for of_one in of_all]

    def _peer_error(self, error: Exception) -> PeerError:
        """Return the error to raise, with the rank at fault: one that told, or one that does not answer."""
        place = self.place(error)
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        try:
            self._store.set(f"noticed/{self.rank}", "")
            silent = self._silent(others)
            if isinstance(silent, PeerError):
                return silent
            told = [f"rank {rank} in {found}" for rank in silent if (found := self._told(f"place/{rank}"))]
        except RuntimeError as lost:
            silent, told, reason = others, [], f"{reason}; the store is gone: {str(lost).splitlines()[0]}"
        names = ", ".join(map(str, silent or others))
        where = f" in {place}" if place else ""
        seen = f" (standing still: {'; '.join(told)})" if told else ""
        message = f"rank {names} of {self.world_size} was killed, or does not answer{where}{seen}: {reason}"
        is_slow = "imed out" in reason or "timeout" in reason
        advice = "if it only needs longer, raise parallel.timeout_s" if is_slow else "look for a lack of memory there"
        return PeerError(message, hint=f"resume the run; {advice}")

    def _silent(self, others: Sequence[int]) -> list[int] | PeerError:
        """Return the ranks that do not notice a failure in time, or the error that one of them told."""
        end = time.monotonic() + _ANSWER_S
        grace = time.monotonic() + _CLOSING_S
        silent = list(others)
        while time.monotonic() < (end if silent else min(end, grace)):
            for rank in others:
                if text := self._told(told_key(rank)):
                    told = json.loads(text)
                    if not told["message"].startswith(PeerError.__name__):
                        return PeerError(f"rank {rank} on {told['host']} failed: {told['message']}")
            silent = [rank for rank in others if not self._store.check([f"noticed/{rank}"])]
            time.sleep(0.05)
        return silent

    def _told(self, key: str) -> str:
        return self._store.get(key).decode() if self._store.check([key]) else ""


def _shared_out(tensor: torch.Tensor | StoredTensor, like: Any) -> torch.Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = like.device_mesh, like.placements
    if isinstance(tensor, StoredTensor):
        part = tensor.read(*box_of(like)).to(like.device)
        return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)  # each rank has it


def _is_of_peer(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS)
