"""``Ranks``: the processes of a run; this one is alone, unless a program passes others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    Reader = Callable[[int, int], Iterator[Any]]


class Share(Protocol):
    """The part of the batches that a rank reads, and its part in their losses.

    Attributes:
        weight: Weight of the current part in the mean loss.
    """

    weight: int | Tensor

    def readers(self, stream: Any, batch_size: int) -> list[int]:
        """Return for each rank the number of the part of a stream that it reads; ``[0]``: each reads the whole."""

    def part(self) -> tuple[int, int]:
        """Return the number of the part that this rank reads, and the number of parts."""

    def rows(self, number: int, size: int) -> slice | None:
        """Return the rows of batch ``number`` (from 0) of ``size`` examples to read; None: it is another's turn."""

    def parts(self, batches: Iterator[Any], start: int = 0) -> Iterator[Any]:
        """Yield the part of each batch to read; the first batch has the number ``start``."""

    def backward(self, backward: Callable[[Tensor], None], divisor: int, policy: str) -> Callable[[Tensor], None]:
        """Return a function that computes the gradients of this rank's part of the loss of a batch."""

    def counting(self, reader: Reader, weigh: Callable[[Any], int | Tensor], first: Callable[[], Any]) -> Reader:
        """Return a reader that says of each batch which weight it has among those of all ranks.

        Args:
            reader: Reader of batches; of a stream that is shared out, it yields None when its part has ended.
            weigh: Returns the weight of a batch.
            first: Returns the first batch of the whole stream.
        """


class Ranks:
    """The processes of a run, and what they tell one another. This class is one process alone.

    All ranks call these methods in the same order, each with its own values, and wait for one another there.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        asked: What this rank has asked for since they last met, with the reason.
        agreed: What any rank had asked for when they last met.
        observers: Observers of the hooks of a run.
        readers: For each rank the number of the part of the data that it reads, from 0; empty: each reads its own.

    Example:
        >>> ranks = Ranks()
        >>> ranks.rank, ranks.world_size, ranks.gather("here")
        (0, 1, ['here'])
    """

    def __init__(self) -> None:
        self.rank = 0
        self.world_size = 1
        self.asked: dict[str, str] = {}
        self.agreed: Mapping[str, str] = {}
        self.observers: Sequence[Any] = ()
        self.readers: Sequence[int] = ()

    @property
    def is_zero(self) -> bool:
        """Whether this is rank 0, which writes and prints for all."""
        return self.rank == 0

    @property
    def first_readers(self) -> Sequence[int]:
        """For each part of the data the first rank that reads it."""
        readers = self.readers or range(self.world_size)
        return [readers.index(part) for part in range(max(readers) + 1)]

    def part_of(self, rank: int) -> int:
        """Return the number of the part of the data that a rank reads."""
        return self.readers[rank] if self.readers else rank

    def share(self, *, in_turns: bool = False) -> Share | None:  # noqa: ARG002 - several ranks need it
        """Return the part of the batches that this rank reads, or the batches it reads in turns; None: it reads all."""
        return None

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order: tensors and plain values of any nesting."""
        return [value]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of some numbers over all ranks, computed in float64."""
        return list(values)

    def all(self, is_true: Tensor) -> Tensor:
        """Return whether a boolean tensor is true on all ranks, without waiting for its device."""
        return is_true

    def whole(self, state: Any) -> Any:
        """Return a state of any nesting in which each tensor that is shared out is gathered from all ranks.

        To save a run, there is no need to: ``hookline.runs.begin_save`` lets each rank write its part.
        """
        return state

    def sharded(self, state: Any, like: Any) -> Any:  # noqa: ARG002 - several ranks need it
        """Return a state with its tensors shared out as those of ``like``.

        A plugin passes the weights that it gets in ``load_state_dict`` through it first: those of a checkpoint that
        several ranks have written are read here, as far as this rank needs them.

        Args:
            state: The state, the same on each rank.
            like: A tensor, for all tensors of its shape, or a mapping with some of the keys of the state.
        """
        return state

    def ask(self, name: str, reason: str = "") -> None:
        """Ask for something of which all ranks will know in the same step, in ``agreed``."""
        self.asked.setdefault(name, reason)  # in one go: a signal handler may call it

    def meet(self, step: int, *, is_due: bool = False) -> None:
        """Meet the other ranks to learn what they ask for, if that is due after ``step``."""

    def fail(self, error: BaseException) -> BaseException:
        """Tell the other ranks that this one ends with an error; return the error to raise, which may be of another."""
        return error


class Parallel(NamedTuple):
    """A model that several ranks train together.

    Attributes:
        model: The module to train with; its gradients become the sums over all ranks in the backward pass.
        accumulating: Returns a context for the forward and backward pass of a part of a batch after which others
            follow: its gradients stay on this rank until the last one.
        synchronize: Gives every rank the same buffers, before they are evaluated or saved.
        forwards_together: Whether all ranks must pass something through the model at the same time.
        readers: For each rank the number of the part of the data that it reads, from 0: the same for ranks that compute
            one forward pass together; empty: each reads its own.
        divisor: What the backward pass divides the sums by: the number of ranks if it computes means. The loss is
            multiplied by it before, which for a power of 2 changes no bit of the result.
    """

    model: nn.Module
    accumulating: Callable[[], AbstractContextManager[Any]] = nullcontext
    synchronize: Callable[[], object] = lambda: None
    forwards_together: bool = False
    readers: Sequence[int] = ()
    divisor: int = 1
