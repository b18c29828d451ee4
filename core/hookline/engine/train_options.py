"""Options of the loop: the table ``[train]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class TrainOptions:
    """The loop's own options: the table ``[train]``.

    The defaults of ``epochs`` and ``batch_size`` are those of the linear regression in Zhang et al., *Dive into Deep
    Learning*, section 3.5.
    """

    epochs: Annotated[int, Meta(ge=0, description="how often the training data are gone through")] = 3
    batch_size: (
        Annotated[int, Meta(ge=1, description="examples in a step; 'all' puts all into one")] | Literal["all"]
    ) = 10
    shuffle: Annotated[bool, Meta(description="whether each epoch has an order of its own")] = True
    seed: Annotated[int, Meta(ge=0, description="where all random numbers of the run come from")] = 0
    dtype: Annotated[
        Literal["float32", "float64"], Meta(description="type of the weights and of all floating-point data")
    ] = "float32"
    evaluate: Annotated[
        tuple[Split, ...],
        Meta(description="splits to evaluate after each epoch; those that the data lack are left out"),
    ] = ("train", "validation")
    evaluate_every_epochs: Annotated[
        int,
        Meta(ge=0, description="epochs from one evaluation to the next; the last epoch is always evaluated; 0: none"),
    ] = 1
    evaluate_every_steps: Annotated[
        int, Meta(ge=0, description="steps from one evaluation to the next, beside those of the epochs; 0: none")
    ] = 0
    eval_batch_size: Annotated[
        int, Meta(ge=1, description="examples in a batch of an evaluation; bounds the memory that it takes")
    ] = 1024
    max_steps: Annotated[int, Meta(ge=0, description="steps after which the run is complete; 0: no limit")] = 0
    max_time_s: Annotated[float, Meta(ge=0, description="seconds after which the run is stopped; 0: no limit")] = 0.0
    micro_batch_size: Annotated[
        int,
        Meta(
            ge=0, description="examples that go through the model at once; gradients are summed to the step's; 0: all"
        ),
    ] = 0
    non_finite: Annotated[
        Literal["fail", "skip", "ignore"],
        Meta(description="what a loss or gradient that is NaN or infinite does, before the weights are touched"),
    ] = "fail"
    device: Annotated[
        str, Meta(description="where the model is: 'cpu', 'cuda', 'cuda:N' or 'mps'; 'auto' takes what there is")
    ] = "auto"
    num_workers: Annotated[
        int, Meta(ge=0, description="processes that read the examples of a dataset that is not in memory")
    ] = 0
    worker_timeout_s: Annotated[
        float, Meta(ge=0, description="seconds after which a batch that those processes owe is a fault; 0: no limit")
    ] = 0.0
