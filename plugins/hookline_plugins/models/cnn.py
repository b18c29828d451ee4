"""Model ``cnn``: a residual network of convolutions for images of any size.

Shapes: ``B`` images in a batch, ``C`` channels, ``H`` rows, ``W`` columns, ``O`` values predicted for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ContractError, DataSource, hookimpl
from hookline_plugins.data.columns import each

if TYPE_CHECKING:
    from torch import nn


_Width = Annotated[int, Meta(ge=1)]
_Norm = Literal["batch", "group", "none"]


@dataclass
class CNN:
    """A residual network: a convolution, stages of residual blocks, the mean over all places, and a linear layer.

    Inputs are ``[B, C, H, W]`` of any size; the output is ``[B, O]``, for classes and for numbers alike. Each block has
    two 3 x 3 convolutions, each with a normalization, and a ReLU after the first one and after the sum. From one stage
    to the next the image is halved.

    It is the network for small images of He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2,
    whose widths are the default, with one block in a stage instead of three to eighteen. Weights are initialized as in
    He et al., "Delving Deep into Rectifiers" (2015). The groups are those of Wu and He, "Group Normalization" (2018).
    """

    widths: Annotated[tuple[_Width, ...], Meta(min_length=1, description="number of channels of each stage")] = (
        16,
        32,
        64,
    )
    blocks: Annotated[int, Meta(ge=1, description="residual blocks in each stage")] = 1
    norm: Annotated[
        _Norm, Meta(description="normalize over the batch, over groups of channels of an image, or not")
    ] = "batch"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="probability of zeroing a value before the last layer")] = (
        0.0
    )

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        """Build the layers."""
        from torch import nn

        from hookline_plugins.models.residual import Block, convolution

        width, stages = self.widths[0], list[nn.Module]()
        for number, wanted in enumerate(self.widths):
            for block in range(self.blocks):
                stages.append(Block(width, wanted, self.norm, stride=2 if number and not block else 1))
                width = wanted
        head = [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(
            *convolution(_channels(data), self.widths[0], self.norm),
            nn.ReLU(),
            *stages,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *head,
            nn.Linear(width, _outputs(data)),
        )


def _channels(data: DataSource) -> int:
    """Return the number of channels of an image.

    Raises:
        ContractError: If an example is no image.
    """
    shape = each(data.train, _shape, 1)[0].tolist()
    if len(shape) != 3:
        raise ContractError(f"the model cnn needs images [C, H, W], but an input is {shape}", hint="set data=images")
    return int(shape[0])


def _shape(example: Any) -> list[int]:
    return list(example[0].shape)


def _outputs(data: DataSource) -> int:
    if data.out_features is None:
        hint = "set it in the DataSource that build_data returns"
        raise ContractError("the model needs out_features, which the data source does not give", hint=hint)
    return data.out_features
