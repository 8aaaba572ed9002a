"""Sums that do not depend on the order of what is summed, nor on the machine: means, spreads and covariances."""

from math import fsum

import torch


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
