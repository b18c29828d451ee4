"""Transforms of the numbers of a column, and their inverses: logarithms, and quantiles of the training split.

Imported only when a table was read, because it needs torch. Shapes: ``N`` numbers, ``Q`` quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hookline_plugins.data.tables.ways import Transform

_MAX_QUANTILES = 1000
"""Quantiles of a column, as in scikit-learn's ``QuantileTransformer``."""
_EDGE = 1e-7
"""Distance from 0 and 1 at which shares are cut before they become normal: as in scikit-learn."""

_CENTER = (
    (2509.0809287301227, 5226.4952788528546),
    (33430.575583588128, 28729.085735721943),
    (67265.770927008701, 39307.895800092711),
    (45921.953931549871, 21213.794301586596),
    (13731.693765509461, 5394.1960214247511),
    (1971.5909503065514, 687.18700749205790),
    (133.14166789178438, 42.313330701600911),
    (3.3871328727963666, 1.0),
)
_TAIL = (
    (7.7454501427834141e-4, 1.0507500716444168e-9),
    (0.022723844989269185, 5.4759380849953445e-4),
    (0.24178072517745061, 0.015198666563616457),
    (1.2704582524523684, 0.14810397642748007),
    (3.6478483247632046, 0.68976733498510000),
    (5.7694972214606914, 1.6763848301838038),
    (4.6303378461565453, 2.0531916266377588),
    (1.4234371107496836, 1.0),
)
"""Coefficients of numerators and denominators, the highest power first.

Source: Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", Applied Statistics 37 (1988).
"""
_CUMULATIVE = (
    (0.0, 0.0883883476483184),
    (0.0352624965998911, 1.75566716318264),
    (0.700383064443688, 16.064177579207),
    (6.37396220353165, 86.7807322029461),
    (33.912866078383, 296.564248779674),
    (112.079291497871, 637.333633378831),
    (221.213596169931, 793.826512519948),
    (220.206867912376, 440.413735824752),
)
"""The same. Source: Hart's algorithm 5666, in West, "Better approximations to cumulative normal functions" (2005)."""


class Log(nn.Module):
    """The natural logarithm of the numbers plus ``shift``."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, numbers: Tensor) -> Tensor:
        """Return ``log(shift + numbers)``."""
        return numbers.log1p() if self.shift else numbers.log()

    def inverse(self, values: Tensor) -> Tensor:
        """Return ``exp(values) - shift``."""
        return values.expm1() if self.shift else values.exp()


class Quantiles(nn.Module):
    """The share of the training rows below a number, from 0 to 1; or the normal quantile of this share.

    Between two quantiles it is interpolated; a number that occurs more than once gets the middle of its shares. The
    smallest and largest number of the training rows bound the result, also that of the inverse. This is scikit-learn's
    ``QuantileTransformer``, which takes the quantiles from a sample of a large table, though.

    Args:
        quantiles: The quantiles of the training rows at equal distances, float64 ``[Q]``.
        is_normal: Whether the result is normal, cut at -5.2 and 5.2.
    """

    quantiles: Tensor

    def __init__(self, quantiles: Tensor, *, is_normal: bool) -> None:
        super().__init__()
        self.register_buffer("quantiles", quantiles)
        self.is_normal = is_normal

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the shares, or their normal quantiles."""
        known, last = self.quantiles.to(numbers), len(self.quantiles) - 1
        below = self._num_below(numbers, known, or_equal=False)
        up_to = self._num_below(numbers, known, or_equal=True)
        places = [_place(numbers, known, (count - 1).clamp(0, last - 1)) for count in (below, up_to)]
        shares = (places[0] + places[1]) / (2 * last)
        shares = shares.masked_fill(numbers >= known[-1], 1).masked_fill(numbers <= known[0], 0)
        return normal_quantile(shares) if self.is_normal else shares

    def inverse(self, values: Tensor) -> Tensor:
        """Return the numbers that have these shares, or normal quantiles."""
        known, last = self.quantiles, len(self.quantiles) - 1
        shares = normal_share(values.double()) if self.is_normal else values.double()
        if self.is_normal:  # so that the smallest and the largest number are exact, also from float32
            shares = shares.masked_fill(shares < 1.001 * _EDGE, 0).masked_fill(1 - shares < 1.001 * _EDGE, 1)
        places = shares.clamp(0, 1) * last
        lower = places.floor().clamp(0, last - 1).long()
        return torch.lerp(known[lower], known[lower + 1], places - lower).to(values)

    def _num_below(self, numbers: Tensor, known: Tensor, *, or_equal: bool) -> Tensor:
        """Return the number of quantiles below each number, or equal to it, by bisection, which can be exported."""
        count, step = torch.zeros_like(numbers, dtype=torch.int64), 1 << (len(known).bit_length() - 1)
        while step:
            more = (count + step).clamp(max=len(known))
            found = known[more - 1]
            is_below = ((found <= numbers) if or_equal else (found < numbers)) & (count + step <= len(known))
            count = torch.where(is_below, more, count)
            step //= 2
        return count


def normal_quantile(shares: Tensor) -> Tensor:
    """Return the normal quantiles of shares, cut at 1e-7 and 1 - 1e-7, float64, with a relative error of 1e-15.

    ``torch.special.ndtri`` does the same, but cannot be exported to ONNX. An export has constants in float32, in which
    1 - 1e-7 would be another number.
    """
    offset = shares - 0.5
    outside = torch.minimum(shares, 1 - shares).clamp(min=_EDGE)
    center = offset * _ratio(_CENTER, 0.180625 - offset * offset)
    tail = _ratio(_TAIL, (-outside.log()).sqrt() - 1.6)
    return center.where(offset.abs() <= 0.425, offset.sign() * tail)


def normal_share(quantiles: Tensor) -> Tensor:
    """Return the shares of normal numbers below quantiles from -7 to 7, float64, with an error of 3e-16.

    ``torch.special.ndtr`` does the same, but ONNX Runtime computes it in float32 only.
    """
    size = quantiles.abs()
    outside = (-size * size / 2).exp() * _ratio(_CUMULATIVE, size)
    return outside.where(quantiles < 0, 1 - outside)


def _ratio(coefficients: Sequence[tuple[float, float]], values: Tensor) -> Tensor:
    """Return the ratio of two polynomials."""
    above, below = torch.zeros_like(values), torch.zeros_like(values)
    for upper, lower in coefficients:
        above, below = above * values + upper, below * values + lower
    return above / below


def _place(numbers: Tensor, known: Tensor, lower: Tensor) -> Tensor:
    """Return the place of numbers among quantiles, which are at 0, 1 and so on; it lies after ``lower``."""
    start, end = known[lower], known[lower + 1]
    share = ((numbers - start) / (end - start)).where(end > start, (numbers > start).to(numbers))
    return lower + share.clamp(0, 1)


def fitted(use: Transform, numbers: Tensor) -> nn.Module:
    """Return the transform of a column whose numbers in the training split are ``numbers``, float64 ``[N]``."""
    if use in ("log", "log1p"):
        return Log(float(use == "log1p"))
    ordered = numbers.sort().values
    places = torch.linspace(0, len(ordered) - 1, max(min(_MAX_QUANTILES, len(ordered)), 2), dtype=torch.float64)
    lower = places.floor().long().clamp(max=max(len(ordered) - 2, 0))
    upper = (lower + 1).clamp(max=len(ordered) - 1)
    return Quantiles(torch.lerp(ordered[lower], ordered[upper], places - lower), is_normal=use == "normal")


def restored(use: Transform, quantiles: Sequence[float]) -> nn.Module:
    """Return the transform with quantiles that were kept."""
    if use in ("log", "log1p"):
        return Log(float(use == "log1p"))
    return Quantiles(torch.tensor(quantiles, dtype=torch.float64), is_normal=use == "normal")
