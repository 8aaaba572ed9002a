"""Sums that do not depend on the order of what is summed, nor on the machine: means, spreads and covariances."""

from fractions import Fraction
from math import frexp, fsum, sqrt

import numpy as np
import torch
from numpy.typing import NDArray


def mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean per column of ``values`` (n, columns), float64, each sum rounded once (Shewchuk 1997).

    >>> mean(torch.tensor([[1e16], [1.0], [-1e16], [1.0]], dtype=torch.float64)).tolist()
    [0.5]
    """
    return torch.tensor([fsum(column) / len(column) for column in values.T.tolist()], dtype=torch.float64)


def std(values: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation per column of ``values`` (n, columns), float64: divided by n.

    >>> std(torch.tensor([[1.0], [3.0]], dtype=torch.float64)).tolist()
    [1.0]
    """
    return mean((values - mean(values)) ** 2).sqrt()


def covariance(values: torch.Tensor) -> torch.Tensor:
    """Return the covariance of the columns of ``values`` (n, columns), float64: divided by n.

    >>> covariance(torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64)).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    away = values - mean(values)
    return torch.stack([mean(away * away[:, [column]]) for column in range(values.shape[1])])


def exact_sum(values: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> Fraction:
    """Return the sum of finite ``values``, each taken ``counts`` times, with no rounding at all.

    The values are cut into digits of so many bits that whole numbers of 64 bits hold the sum of each digit (the
    pre-rounding of Demmel & Nguyen 2013); one or two digits hold most volumes whole. Sums of parts may be added in
    any order.

    >>> exact_sum(np.array([1e16, 1.0, -1e16, 1e-3])) == 1 + Fraction(1e-3)
    True
    """
    total, rest = Fraction(0), values
    n = len(values) if counts is None else int(counts.sum())
    n_bits = min(52, 62 - n.bit_length())
    while largest := float(np.abs(rest).max(initial=0.0)):
        exponent = frexp(largest)[1] - n_bits
        digit = np.rint(np.ldexp(rest, -exponent))
        whole = digit.astype(np.int64)
        total += int(whole.sum() if counts is None else whole @ counts) * Fraction(2) ** exponent
        rest = rest - np.ldexp(digit, exponent)
    return total


def exact_squares(values: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> Fraction:
    """Return the sum of the squares of ``values`` (1e-146 to 1e146, or 0), each taken ``counts`` times: not rounded.

    Each value is cut into two of 26 bits, whose products are exact (Veltkamp 1968, Dekker 1971).

    >>> exact_squares(np.array([1 + 2.0**-40])) == (1 + Fraction(2) ** -40) ** 2
    True
    """
    scaled = values * (2.0**27 + 1)
    high = scaled - (scaled - values)
    low = values - high
    return sum((exact_sum(product, counts) for product in (high * high, 2 * high * low, low * low)), Fraction(0))


def mean_and_std(n: int, total: Fraction, squares: Fraction) -> tuple[float, float]:
    """Return the mean and the standard deviation (divided by n) of ``n`` values from their sums: rounded at the end.

    >>> mean_and_std(2, Fraction(4), Fraction(10))
    (2.0, 1.0)
    """
    return float(total / n), sqrt(float(max(n * squares - total**2, Fraction(0)) / n**2))
