"""Types of options of the data source ``images``."""

from __future__ import annotations

from typing import Literal

Mode = Literal["grey", "rgb", "grey16"]
Resize = Literal["crop", "pad", "stretch"]
