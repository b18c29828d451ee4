"""The option that all strategies share."""

from typing import Annotated

from msgspec import Meta

Timeout = Annotated[
    float,
    Meta(gt=0, description="seconds after which a rank that does not answer is given up, from the second step on"),
]
"""Type of an option ``timeout_s``, which the command line reads."""
TIMEOUT_S = 600.0
"""Its default: that of torch for NCCL."""
