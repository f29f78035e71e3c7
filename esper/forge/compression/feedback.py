"""Second-order error feedback: what rounding one column loses, the columns after it make up for.

GPTQ (Frantar et al. 2022) in the form of LDLQ (QuIP: Chee et al. 2023). With H = (U + I) D (U + I)ᵀ, U strictly upper
triangular by blocks, and v_k = w_k + (W - Ŵ)[:, <k] U[<k, k] as what block k is to stand for, the error of all is
tr((W - Ŵ) H (W - Ŵ)ᵀ) = Σ_k (v_k - ŵ_k) D_k (v_k - ŵ_k)ᵀ: each block is chosen by its own D_k alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Nearest = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]

_BLOCKS_A_PASS = 32
DAMPING = 0.01  # share of the mean diagonal that is added to it: directions that calibration never saw count a little


@dataclass(frozen=True, slots=True)
class Factors:
    """upper: U [I, I], zero on and below the diagonal blocks. blocks: D [I / dim, dim, dim]."""

    upper: Tensor
    blocks: Tensor


def factorize(inputs: Tensor, dim: int = 1) -> Factors:
    """The factors of a damped matrix of second moments [I, I]; `dim` divides I."""
    size = inputs.shape[0]
    matrix = inputs.double()
    matrix = matrix + torch.eye(size, dtype=torch.float64) * (DAMPING * matrix.diagonal().mean() + 1e-12)
    root = torch.linalg.cholesky(matrix.flip(0, 1)).flip(0, 1)  # upper: matrix = root rootᵀ
    corners = torch.stack([root[at : at + dim, at : at + dim] for at in range(0, size, dim)])
    scaled = (root.view(size, -1, dim).transpose(0, 1) @ torch.linalg.inv(corners)).transpose(0, 1).reshape(size, size)
    below = torch.block_diag(*torch.ones(size // dim, dim, dim)).bool()
    return Factors(scaled.masked_fill(below, 0).float(), (corners @ corners.mT).float())


def round_with_feedback(weight: Tensor, factors: Factors, nearest: Nearest) -> None:
    """Choose block after block.

    Args:
        weight: [O, I].
        nearest: of a block's number and what it is to stand for [dim, O], the values chosen [dim, O]; it keeps what it
            wants to remember of them.
    """
    upper = factors.upper.numpy()
    dim = factors.blocks.shape[-1]
    wanted = weight.T.numpy()
    target, error = wanted.copy(), np.zeros_like(wanted)
    size, far = len(wanted), _BLOCKS_A_PASS * dim
    for begin in range(0, size, far):  # errors reach what is far away in one product
        end = min(begin + far, size)
        for start in range(begin, end, dim):
            rows = slice(start, start + dim)
            asked = target[rows] + upper[begin:start, rows].T @ error[begin:start]
            error[rows] = wanted[rows] - nearest(start // dim, asked)
        target[end:] += upper[begin:end, end:].T @ error[begin:end]
