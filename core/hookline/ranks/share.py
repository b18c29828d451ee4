"""``ShareOfRank``: the part of the batches that a rank reads, and its part in their losses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hookline.engine.ranks import Ranks, Share
from hookline.engine.reading.batch import count_examples, part_of, rows_of
from hookline.engine.reading.streams import shard_of

if TYPE_CHECKING:
    from hookline.engine.ranks import Reader


class ShareOfRank(Share):
    """The part of the batches that a rank reads: some examples of each, or some batches as a whole.

    Of the ``n`` examples of a batch, rank ``r`` of ``W`` takes those from ``n * r // W`` to ``n * (r + 1) // W``. Where
    these are none, it takes the first, without weight, so that all ranks take part in each step. Ranks that read the
    same part count as one.

    A stream that is shared out gives each rank batches of its own, and None when they are over. The rank then computes
    a part of the first batch of the whole stream, without weight, until those of all ranks are over.

    Args:
        ranks: The ranks.
        in_turns: Whether the ranks read whole batches by turns.

    Attributes:
        weight: Weight of the current part in the mean loss.
        fraction: That weight in relation to that of the whole batch.

    Example:
        >>> import torch
        >>> second = Ranks()
        >>> second.rank, second.world_size = 1, 2
        >>> [part.tolist() for part in ShareOfRank(second).parts(iter([torch.arange(5)]))]
        [[2, 3, 4]]
        >>> list(ShareOfRank(second, in_turns=True).parts(iter("abcd")))
        ['b', 'd']
    """

    def __init__(self, ranks: Ranks, *, in_turns: bool = False) -> None:
        self._ranks = ranks
        self._in_turns = in_turns
        self._sizes: deque[tuple[int, float]] = deque()
        self._spare: Any = None
        self.weight: int | Tensor = 0
        self.fraction: float | Tensor = 0.0

    def readers(self, stream: Any, batch_size: int) -> list[int]:
        """Return for each rank the number of the part of a stream that it reads; ``[0]``: each reads the whole."""
        readers = list(self._ranks.readers or range(self._ranks.world_size))
        return readers if shard_of(stream) and 0 < max(readers) < batch_size else [0]

    def part(self) -> tuple[int, int]:
        """Return the number of the part that this rank reads, and the number of parts."""
        readers = self._ranks.readers
        return self._ranks.part_of(self._ranks.rank), max(readers) + 1 if readers else self._ranks.world_size

    def rows(self, number: int, size: int) -> slice | None:
        """Return the rows of batch ``number`` (from 0) of ``size`` examples to read; None: it is another's turn."""
        rank, world_size = self.part()
        if self._in_turns:
            return slice(0, size) if number % world_size == rank else None
        rows = rows_of(rank, world_size, size)
        self._sizes.append((rows.stop - rows.start, size))
        return rows if rows.stop > rows.start else slice(0, 1)

    def parts(self, batches: Iterator[Any], start: int = 0) -> Generator[Any]:
        """Yield the part of each batch to read; the first batch has the number ``start``."""
        for number, batch in enumerate(batches, start):
            if rows := self.rows(number, count_examples(batch)):
                yield part_of(batch, rows.start, rows.stop)

    def backward(self, backward: Callable[[Tensor], None], divisor: int, policy: str) -> Callable[[Tensor], None]:
        """Return a function that computes the gradients of this rank's part of the loss of a batch.

        The gradients of all ranks, divided by the divisor, add up to those of the whole batch. Unless the policy is
        to ignore it, a loss that is not finite makes all NaN, so that all ranks refuse them.
        """

        def backward_in_ranks(loss: Tensor) -> None:
            is_quick = loss.device.type == "cpu"  # reading a number does not stall it
            number: Any = 0 if policy == "ignore" else loss.item() if is_quick else loss.detach()
            scale = self.fraction * divisor + 0 * number
            backward(loss if is_quick and scale == 1 else loss * scale)

        return backward_in_ranks

    def counting(self, reader: Reader, weigh: Callable[[Any], int | Tensor], first: Callable[[], Any]) -> Reader:
        """Return a reader that says of each batch which weight it has among those of all ranks.

        Args:
            reader: Reader of batches; of a stream that is shared out, it yields None when its part has ended.
            weigh: Returns the weight of a batch.
            first: Returns the first batch of the whole stream.
        """

        def read(epoch: int, start: int) -> Iterator[Any]:
            for batch in reader(epoch, start):
                self.weight, total = self._sizes.popleft() if self._sizes else (int(batch is not None), None)
                is_counted = bool(self.weight)
                if total is None or weigh is not count_examples:
                    total, num_reading = self._sums(weigh(batch) if is_counted else 0, is_reading=batch is not None)
                    if not num_reading:
                        return
                    batch = self._spare_of(first) if batch is None else batch  # noqa: PLW2901 - it takes its place
                    self.weight = weigh(batch) * is_counted
                self.fraction = self.weight / total if total else 0.0
                yield batch

        return read

    def _sums(self, weight: int | Tensor, *, is_reading: bool) -> list[float]:
        """Return the sums of a weight and of a flag over the parts; ranks that read the same part count as one."""
        is_first = self._ranks.rank in self._ranks.first_readers
        return self._ranks.sum([float(weight), float(is_reading)] if is_first else [0.0, 0.0])

    def _spare_of(self, first: Callable[[], Any]) -> Any:
        if self._spare is None:  # always the same, so that what the model draws is the same after a resume
            self._spare = next(self.parts(iter([first()])))
            self._sizes.clear()
        return self._spare
