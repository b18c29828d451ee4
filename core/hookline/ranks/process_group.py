"""``ProcessGroup``: the ranks of a run over a process group of torch.distributed."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import distributed_c10d as c10d

from hookline.engine import Member, Observer
from hookline.engine.errors import PeerError, TrainingError, error_text
from hookline.engine.ranks import Ranks
from hookline.ranks.messages import from_bytes, to_bytes

_FRAME = 1024
"""Bytes that ranks exchange in one go; longer messages need a second."""
_COST = 0.01
"""Share of the time that meetings may take."""
_WAIT_S = 1.0
"""Seconds to the next meeting, at most."""
_ANSWER_S = 3.0
"""Seconds in which the other ranks notice that one is gone."""


class ProcessGroup(Ranks):
    """The ranks of a run over the process group of torch.distributed that this process is in.

    Messages go over gloo, whatever carries the gradients.

    Args:
        store: Store through which a rank that fails tells the others; None: that of the process group.

    Raises:
        ValueError: When there is no process group: call ``torch.distributed.init_process_group`` first.

    Example:
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ProcessGroup().gather({"loss": 0.5})
        [{'loss': 0.5}]
        >>> dist.destroy_process_group()
    """

    def __init__(self, store: Any = None) -> None:
        super().__init__()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else dist.group.WORLD
        found = store or c10d._get_default_store()  # noqa: SLF001 - torch has no public function for it
        self._store = c10d.PrefixStore("hookline", found)
        self._next = 0
        self._met = time.perf_counter(), 0
        self._cost_s = 0.0
        self._alone = _Watch()
        self.observers = (self._alone,)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order: tensors, on the CPU, and plain values of any nesting."""
        return [from_bytes(data) for data in self._gathered(to_bytes(value))]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of some numbers over all ranks, computed in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        with self.noticing():
            dist.all_reduce(total, group=self._group)
        return total.tolist()

    def meet(self, step: int, *, is_due: bool = False) -> None:
        """Meet the other ranks, so often that it takes 1 % of the time and nobody waits more than a second."""
        self.agreed = {}
        if not is_due and step < self._next:
            return
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
        return max(min(int(self._cost_s / _COST / step_s) + 1, int(_WAIT_S / step_s)), 1)

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Raise ``PeerError`` where torch.distributed reports that another rank is gone or does not answer.

        Raises:
            TrainingError: In a hook that only rank 0 calls, which would wait for the others in vain.
        """
        self._alone.check()
        try:
            yield
        except RuntimeError as error:
            if not _is_of_peer(error):
                raise
            raise self._peer_error(error) from error

    def tell(self, error: BaseException) -> bool:
        """Tell the other ranks that this one ends with an error; return whether it is the first to do so."""
        told = {"rank": self.rank, "host": platform.node(), "message": error_text(error)[:1000]}
        self._store.set(f"failed/{self.rank}", json.dumps(told))
        return bool(self._store.add("num_failed", 1) == 1)

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
        self._store.set(f"noticed/{self.rank}", "")
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        end = time.monotonic() + _ANSWER_S
        silent = others
        while silent and time.monotonic() < end:
            for rank in others:
                if self._store.check([f"failed/{rank}"]):
                    told = json.loads(self._store.get(f"failed/{rank}"))
                    if not told["message"].startswith(PeerError.__name__):
                        return PeerError(f"rank {rank} on {told['host']} failed: {told['message']}")
            silent = [rank for rank in others if not self._store.check([f"noticed/{rank}"])]
            time.sleep(0.05)
        names = ", ".join(map(str, silent or others))
        message = f"rank {names} of {self.world_size} was killed, or does not answer: {str(error).splitlines()[0]}"
        return PeerError(message, hint="resume the run; look for a lack of memory on the machine of that rank")


class _Watch(Observer):
    """Remembers the hook that runs on rank 0 alone, and adapts metrics to several ranks."""

    def __init__(self) -> None:
        self._hook = ""

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - all are passed
        """Call a hook."""
        if self._hook or getattr(member.instance, "ranks", "all") != "zero":
            return run()
        self._hook = f"{hook!r} of {member.plugin}"
        try:
            return run()
        finally:
            self._hook = ""

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:  # noqa: ARG002 - all are passed
        """Keep metrics of torchmetrics from adding up what all ranks have: each rank measures all predictions."""
        for metric in result.values() if hook == "build_metrics" and isinstance(result, Mapping) else ():
            for part in metric.modules() if isinstance(metric, nn.Module) else ():
                if hasattr(part, "distributed_available_fn"):
                    part.distributed_available_fn = bool  # False
        return result

    def check(self) -> None:
        """Check that no such hook runs.

        Raises:
            TrainingError: When one does.
        """
        if self._hook:
            message = f"{self._hook} asks all ranks for something, but only rank 0 has this plugin (ranks = 'zero')"
            hint = "state_dict, evaluate and gather need every rank: remove ranks = 'zero' from its class"
            raise TrainingError(message, hint=hint)


def _is_of_peer(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(sign in text for sign in ("gloo", "NCCL", "onnection closed"))
