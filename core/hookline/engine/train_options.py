"""The options of the loop: the table ``[train]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta


@dataclass(frozen=True)
class TrainOptions:
    """The options of the loop: the table ``[train]``.

    The defaults of ``epochs`` and ``batch_size`` are those of the linear regression in Zhang et al., *Dive into Deep
    Learning*, section 3.5.
    """

    epochs: Annotated[int, Meta(ge=0, description="number of passes over the training data")] = 3
    batch_size: (
        Annotated[int, Meta(ge=1, description="examples per step; 'all' puts all of them into one step")]
        | Literal["all"]
    ) = 10
    drop_last: Annotated[
        bool, Meta(description="whether to leave out the last batch of an epoch if it is smaller than the others")
    ] = False
    shuffle: Annotated[bool, Meta(description="whether to shuffle the training data in each epoch")] = True
    seed: Annotated[int, Meta(ge=0, description="seed for all random numbers of the run")] = 0
    dtype: Annotated[
        Literal["float32", "float64"], Meta(description="type of the weights and of all floating-point data")
    ] = "float32"
    evaluate: (
        Annotated[tuple[str, ...], Meta(description="splits to evaluate after each epoch; 'all': those of the data")]
        | Literal["all"]
    ) = ("train", "validation")
    evaluate_every: Annotated[
        dict[str, Annotated[int, Meta(ge=1)]],
        Meta(description="evaluations from one of a split to its next, by split; 1 for those not named"),
    ] = field(default_factory=dict)
    evaluate_every_epochs: Annotated[
        int, Meta(ge=0, description="epochs between evaluations; the last epoch is always evaluated; 0: never")
    ] = 1
    evaluate_every_steps: Annotated[
        int, Meta(ge=0, description="steps between evaluations, in addition to those after epochs; 0: never")
    ] = 0
    log_every_steps: Annotated[
        int, Meta(ge=1, description="steps over which the values that plugins log are reduced to one")
    ] = 50
    eval_batch_size: Annotated[
        int, Meta(ge=1, description="examples per batch of an evaluation; limits its memory")
    ] = 1024
    max_steps: Annotated[
        int, Meta(ge=0, description="number of steps after which the run is complete; 0: no limit")
    ] = 0
    max_time_s: Annotated[
        float, Meta(ge=0, description="time in seconds after which the run is stopped; 0: no limit")
    ] = 0.0
    micro_batch_size: Annotated[
        int,
        Meta(
            ge=0,
            description="examples that pass through the model at once; their gradients are summed for the step; 0: all",
        ),
    ] = 0
    non_finite: Annotated[
        Literal["fail", "skip", "ignore"], Meta(description="what to do when a loss or gradient is NaN or infinite")
    ] = "fail"
    device: Annotated[
        str,
        Meta(description="device of the model: 'cpu', 'cuda', 'cuda:N' or 'mps'; 'auto' chooses an available one"),
    ] = "auto"
    num_workers: Annotated[
        int, Meta(ge=0, description="processes that read the examples of a dataset that is not in memory")
    ] = 0
    worker_timeout_s: Annotated[
        float, Meta(ge=0, description="time in seconds to wait for a batch from those processes; 0: no limit")
    ] = 0.0
