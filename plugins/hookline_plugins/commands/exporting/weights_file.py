"""Format ``safetensors``: the weights."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hookline.runs import state_from_safetensors, state_to_safetensors
from hookline.trained import call_model, model_metadata, subject_of

if TYPE_CHECKING:
    from hookline.trained import Comparison, Trained


@dataclass(frozen=True)
class SafeTensors:
    """The weights, as a file for any program that reads safetensors.

    It is read back, and its model compared bit by bit.
    """

    suffix: ClassVar[str] = ".safetensors"

    def export(self, trained: Trained, target: Path) -> Comparison:
        """Write the weights, and compare the outputs of a copy of the model that has them."""
        target.write_bytes(state_to_safetensors(trained.model.state_dict(), model_metadata(trained)))
        again = copy.deepcopy(trained.model)
        again.load_state_dict(state_from_safetensors(target.read_bytes()))
        return subject_of(trained, bare=True).compared(functools.partial(call_model, again))
