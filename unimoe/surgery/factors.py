"""Latent experts out of gated ones: a space shared by a group of experts, from one decomposition of all of them.

MoLAE (Liu et al. 2025, arXiv 2503.23100), whose two steps one singular value decomposition makes: of a group, the gate
(or up) projections W_i below each other are nearest to A_i B of rank r with its first r right singular vectors as B,
and the down projections D_i beside each other to C F_i with its first r left ones as C. What is lost is the energy of
the other singular values. Where second moments of activations x are known, E[x x^T] = L L^T, W_i L is decomposed
instead, so that the error is that of W_i x. All in float64.
E experts in G groups of K neighbours, I expert width, D hidden size, r latent size.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UniMoEError

RIDGE = 1e-6
"""Added to second moments, times their mean, so that directions in which nothing was seen are kept too."""
_TINY = 1e-30


class LatentFactors(NamedTuple):
    """Gated experts as latent ones."""

    weights: dict[str, Tensor]
    """Parameters of `LatentExperts` by name, in the dtype of the experts."""
    lost: Tensor
    """Energy left out of gate, up and down projections by group, (3, G): squared Frobenius norm of the error of the
    weights, or of what they make of activations."""
    energy: Tensor
    """All energy, (3, G)."""
    parameters: tuple[int, int]
    """Of the experts of the layer before and after."""

    @property
    def relative_error(self) -> Tensor:
        """Share of the norm that was left out, (3, G)."""
        return (self.lost / self.energy.clamp(min=_TINY)).sqrt()


def space_similarity(gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Compare the spaces that experts read and write, for `similar_neighbours`.

    For each kind of projection the cosine of W_i^T W_i and W_j^T W_j, in the hidden space; the mean of the three.

    Args:
        gate: (E, I, D).
        up: (E, I, D).
        down: (E, D, I).

    Returns:
        (E, E), from 0 for spaces that are orthogonal to 1.
    """
    total = gate.new_zeros(len(gate), len(gate), dtype=torch.float64)
    for weights in (gate.double(), up.double(), down.double().transpose(1, 2)):
        products = torch.stack([(weights @ own.T).square().sum(dim=(1, 2)) for own in weights])
        norms = products.diagonal().clamp(min=_TINY).sqrt()
        total += products / torch.outer(norms, norms)
    return total / 3


def similar_neighbours(similarity: Tensor, num_groups: int) -> list[int]:
    """Find an order in which similar experts are neighbours: time and again the first one left, and those like it.

    Args:
        similarity: (E, E).
        num_groups: G; groups have K = E / G experts.

    Returns:
        Which expert comes to each place. The rows of the router, and all else that is by expert, go with them.

    Raises:
        UniMoEError: If G does not divide E.
    """
    size = _group_size(len(similarity), num_groups)
    order: list[int] = []
    for expert in range(len(similarity)):
        if expert not in order:
            ranked = similarity[expert].argsort(descending=True, stable=True).tolist()
            nearest = [other for other in ranked if other not in order and other != expert][: size - 1]
            order += sorted([expert, *nearest])
    return order


@torch.no_grad()
def latent_factors(
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    *,
    num_groups: int,
    rank: int | None = None,
    ratio: float | None = None,
    max_error: float | None = None,
    multiple_of: int = 1,
    input_moment: Tensor | None = None,
    inner_moments: Tensor | None = None,
) -> LatentFactors:
    """Find the latent experts that are nearest to gated ones, of which groups are neighbours.

    Args:
        gate: (E, I, D).
        up: (E, I, D).
        down: (E, D, I).
        num_groups: G.
        rank: r. One of this and the next two is given.
        ratio: For the largest r that leaves at most this share of the parameters.
        max_error: For the smallest r whose `relative_error` is nowhere larger.
        multiple_of: What r is a multiple of; kernels of grouped matrix products want rows of 16 bytes.
        input_moment: Mean of x x^T of the hidden states that come to the experts, (D, D). None: that of white noise.
        inner_moments: The same of what comes to each expert's down projection, (E, I, I).

    Raises:
        UniMoEError: If the latent experts would have no fewer parameters, with both numbers; if G does not divide E;
            or unless one of `rank`, `ratio` and `max_error` is given.
    """
    experts, width, hidden = gate.shape
    size = _group_size(experts, num_groups)
    root, inner_roots = _root(input_moment), _root(inner_moments)
    stacks = [weights.double() if root is None else weights.double() @ root for weights in (gate, up)]
    outputs = down.double() if inner_roots is None else down.double() @ inner_roots
    spaces = [_row_space(stack.reshape(num_groups, size * width, hidden)) for stack in (*stacks, outputs.mT)]
    energies = torch.stack([values.square() for values, _ in spaces])  # (3, G, min(K*I, D))
    rank = _choose_rank(energies, (experts, num_groups, width, hidden), multiple_of, rank, ratio, max_error)
    bases = [basis[..., :rank] for _, basis in spaces]  # (G, D, r) each
    weights = {"latent_out": bases[2]}
    for name, projection, basis in (("gate", gate, bases[0]), ("up", up, bases[1])):
        inwards = basis if root is None else torch.linalg.solve_triangular(root.T, basis, upper=True)
        weights[f"latent_{name}"] = inwards.mT
        outwards = basis if root is None else root @ basis
        weights[f"{name}_proj"] = projection.double() @ outwards.repeat_interleave(size, dim=0)
    weights["down_proj"] = bases[2].mT.repeat_interleave(size, dim=0) @ down.double()
    return LatentFactors(
        weights={name: value.to(gate.dtype).contiguous() for name, value in weights.items()},
        lost=energies[..., rank:].sum(dim=-1),
        energy=energies.sum(dim=-1),
        parameters=(gate.numel() + up.numel() + down.numel(), sum(value.numel() for value in weights.values())),
    )


def _group_size(experts: int, num_groups: int) -> int:
    if num_groups < 1 or experts % num_groups:
        raise UniMoEError(f"{experts} experts cannot stand in {num_groups} groups of one size. Choose a divisor.")
    return experts // num_groups


def _root(moments: Tensor | None) -> Tensor | None:
    """Find L of L L^T for second moments (..., n, n); of those that are 0, one next to nothing."""
    if moments is None:
        return None
    moments = moments.double()
    mean = moments.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp(min=_TINY)
    eye = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
    return torch.linalg.cholesky(moments + RIDGE * mean[..., None, None] * eye)


def _row_space(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Find singular values (G, n) and right singular vectors (G, D, n) of stacks of rows (G, K*I, D)."""
    triangle = torch.linalg.qr(stack, mode="r").R  # has both, and at most D rows
    _, values, rows = torch.linalg.svd(triangle, full_matrices=False)
    return values, rows.mT


def _choose_rank(
    energies: Tensor,
    sizes: tuple[int, int, int, int],
    multiple: int,
    rank: int | None,
    ratio: float | None,
    max_error: float | None,
) -> int:
    """Choose r from what was given, for energies (3, G, n) of singular values; refuse one that saves nothing."""
    experts, groups, width, hidden = sizes
    of_each, before = 3 * (groups * hidden + experts * width), 3 * experts * width * hidden
    if [rank, ratio, max_error].count(None) != 2:
        raise UniMoEError("Give one of rank, ratio and max_error.")
    if ratio is not None and not 0 < ratio < 1:
        raise UniMoEError("ratio", f"it is {ratio}, and lies between 0 and 1.", "Give the share that is left.")
    if max_error is not None and not 0 <= max_error <= 1:
        raise UniMoEError("max_error", f"it is {max_error}, and lies between 0 and 1.", "Give a share of the norm.")
    if ratio is not None:
        rank = math.floor(ratio * before / of_each) // multiple * multiple
    elif max_error is not None:
        left = energies.flip(-1).cumsum(dim=-1).flip(-1)  # by every r below n
        errors = (left / left[..., :1].clamp(min=_TINY)).sqrt().flatten(0, 1).amax(dim=0)
        rank = math.ceil(max(int((errors > max_error).sum()), 1) / multiple) * multiple
    assert rank is not None
    if rank % multiple:
        raise UniMoEError(f"A latent size of {rank} is no multiple of {multiple}, which kernels want. Choose one.")
    if not 1 <= rank * of_each < before:
        raise UniMoEError(
            f"Latent experts of size {rank} in {groups} group(s) have {rank * of_each:,} parameters, and the "
            f"{experts} experts of width {width} have {before:,}. "
            f"Choose a size from 1 to {(before - 1) // of_each}, or larger groups.",
        )
    return rank


__all__ = ["LatentFactors", "latent_factors", "similar_neighbours", "space_similarity"]
