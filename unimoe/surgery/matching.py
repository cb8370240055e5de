"""Matching: which channels of one expert are those of another.

The inner channels of a gated feed-forward have no order: it computes the same with the rows of gate and up projection
and the columns of the down projection in another one. I channels, F features of each.
"""

import numpy as np
import torch
from torch import Tensor


def match_channels(reference: Tensor, other: Tensor) -> Tensor:
    """Find the order of an expert's channels in which they are nearest to those of another expert.

    Args:
        reference: Channels of the expert whose order stays, (I, F).
        other: Channels of the other expert, (I, F).

    Returns:
        Channel of `other` for each of `reference`, a permutation (I,), with the least sum of squared distances: for
        the same channels in another order, that order.
    """
    one, two = reference.double(), other.double()
    squares = one.square().sum(dim=-1)[:, None] + two.square().sum(dim=-1)
    return torch.from_numpy(least_cost_matching((squares - 2 * one @ two.T).cpu().numpy())).to(reference.device)


def least_cost_matching(cost: np.ndarray) -> np.ndarray:
    """Give each row a column of its own, so that the sum of their costs is the least (the assignment problem).

    Shortest augmenting paths with potentials (Jonker and Volgenant 1987; Crouse 2016), one row after the other: O(I^3)
    at worst, O(I^2) where the cheapest columns of all rows differ. No dependency of this package has it.

    Args:
        cost: (I, I), finite.

    Returns:
        Column of each row, (I,).
    """
    size = len(cost)
    of_row, of_column = np.full(size, -1), np.full(size, -1)  # each other's partners
    rows, columns = np.zeros(size), np.zeros(size)  # potentials: no cost is below their sum, and matched ones equal it
    for start in range(size):
        distance, before, reached = np.full(size, np.inf), np.full(size, -1), np.zeros(size, dtype=bool)
        row, length = start, 0.0
        while True:
            path = length + cost[row] - rows[row] - columns
            shorter = ~reached & (path < distance)
            distance[shorter], before[shorter] = path[shorter], row
            column = int(np.where(reached, np.inf, distance).argmin())
            length, reached[column] = distance[column], True
            if of_column[column] < 0:
                break
            row = of_column[column]
        gain = length - distance[reached]
        owners = of_column[reached]
        rows[owners[owners >= 0]] += gain[owners >= 0]
        rows[start] += length
        columns[reached] -= gain
        while True:  # along the path, each row takes the column by which it was left
            row = before[column]
            of_column[column] = row
            of_row[row], column = column, of_row[row]
            if row == start:
                break
    return of_row


__all__ = ["least_cost_matching", "match_channels"]
