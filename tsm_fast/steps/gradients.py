"""Decompositions, roots, norms and casts whose gradients are finite everywhere.

Their values are those of torch, and so are their gradients where singular values (or eigenvalues) are distinct and not
zero. A gap between two of them, or one of them, that is within `TIE` of the largest counts as 0, and so does every term
that would divide by it. What does not depend on the choice of vectors within a tie, such as the projector on all of
them, keeps its derivative. What is beyond the range of a dtype becomes a large number of that dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

# Singular values come with an error of some 1e-15 of the largest, up to 1e-14 in big matrices and after the products
# of HOOI: a quotient by a gap of 1e-12 has a digit or two left, one by a smaller gap has none.
TIE = 1e-12

# What a gradient may at most leave a step with: the next one multiplies it by no more than 1 / TIE and the numbers it
# sums, so that it stays far below the overflow at 2**1024.
_LARGEST = 2.0**800


def svd(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [..., M, K], S [..., K] and Vh [..., K, N] of [..., M, N], `K = min(M, N)`."""
    return _Svd.apply(m)


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., n], ascending, and eigenvectors [..., n, n]."""
    return _Eigh.apply(symmetric)


def root(x: Tensor, zero: Tensor | float = 0.0) -> Tensor:
    """The square root of numbers >= 0; those up to `zero` have no gradient."""
    positive = x > zero
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), x.detach().sqrt())


def row_norms(m: Tensor) -> Tensor:
    """The norms [..., K] of the rows of [..., K, N]; one that is zero next to the largest has no gradient."""
    constant = m.detach()
    norms = torch.linalg.vector_norm(constant, dim=-1)
    zero = norms <= TIE * norms.amax(-1, keepdim=True)
    return torch.linalg.vector_norm(torch.where(zero[..., None], constant, m), dim=-1)


def norm(x: Tensor) -> Tensor:  # [B] float64
    """The norm of each item."""
    # `vector_norm` adds one square after the other, and the error of an exact fit would be the rounding of that.
    return root(x.double().flatten(1).square().sum(1))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype; a gradient beyond the range of x's dtype comes back as the largest number there."""
    return _Cast.apply(x, dtype, torch.finfo(x.dtype).max)


def bounded(x: Tensor) -> Tensor:
    """x, whose gradient may have overflowed where the scale of an item was undone."""
    return _Cast.apply(x, x.dtype, _LARGEST)


def instead(x: Tensor, better: Tensor) -> Tensor:
    """The values of `better` with the gradient of x: the same numbers, computed in a way that kept more of them."""
    return _Instead.apply(x, better)


class _Svd(Function):
    """With `P = U^T dM V`, split in its symmetric part `Q` and its skew part `R`, and entry by entry

        U^T dU = Q / (s_j - s_i) + R / (s_i + s_j),    V^T dV = Q / (s_j - s_i) - R / (s_i + s_j),    dS = diag P;

    outside of the span of U, `dU = dM V / S`, and alike for V. A tie takes away the first quotient only, so that U and
    V still turn against each other.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(m, full_matrices=False)
        return u, s, vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        u, s, vh = ctx.saved_tensors
        grad_u, grad_s, grad_v = grads[0], grads[1], grads[2].mT
        by = _quotients(s)
        in_u, in_v = u.mT @ grad_u, vh @ grad_v
        inside = by.difference * _skew(in_u + in_v) + by.sum * _skew(in_u - in_v)
        left = _clamped((u @ (inside - in_u * by.value) + grad_u * by.value) / by.scale)
        right = _clamped((grad_v - vh.mT @ in_v) * by.value / by.scale)
        return (left + u * (by.nonzero * grad_s)[..., None, :]) @ vh + u @ right.mT

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = ctx.saved_tensors
        by = _quotients(s)
        left, right = tangents[0] @ vh.mT, tangents[0].mT @ u
        inside = u.mT @ left
        symmetric, skew = by.difference * (inside + inside.mT) / 2, by.sum * _skew(inside)
        u_turns = u @ (symmetric + skew) + (left - u @ inside) * by.value
        v_turns = vh.mT @ (symmetric - skew) + (right - vh.mT @ inside.mT) * by.value
        return u_turns / by.scale, by.nonzero * inside.diagonal(0, -2, -1), (v_turns / by.scale).mT


class _Eigh(Function):
    """`V^T dV = P / (l_j - l_i)` with `P = V^T dM V`, and `dL = diag P`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(symmetric: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(symmetric)
        return values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        by = _quotients(values)
        inside = by.difference * _skew(vectors.mT @ grads[1])
        turning = _clamped(vectors @ inside / by.scale)
        return (turning + vectors * grads[0][..., None, :]) @ vectors.mT

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = ctx.saved_tensors
        by = _quotients(values)
        inside = vectors.mT @ tangents[0] @ vectors
        return inside.diagonal(0, -2, -1), vectors @ (by.difference * inside) / by.scale


class _Cast(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype, limit: float) -> Tensor:
        return x.to(dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype, float], output: Tensor) -> None:
        x, ctx.to_dtype, ctx.limit = inputs
        ctx.from_dtype = x.dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        limit = min(ctx.limit, torch.finfo(grads[0].dtype).max)
        return grads[0].clamp(-limit, limit).to(ctx.from_dtype), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return tangents[0].to(ctx.to_dtype)


class _Instead(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, better: Tensor) -> Tensor:
        return better.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return tangents[0].clone()


class _Quotients(NamedTuple):
    """Reciprocals of values over the largest, 0 where there is none; to be divided by `scale`, the largest itself."""

    difference: Tensor  # [..., K, K]: 1 / (s_j - s_i)
    sum: Tensor  # [..., K, K]: 1 / (s_i + s_j)
    value: Tensor  # [..., 1, K]: 1 / s_j
    nonzero: Tensor  # [..., K]
    scale: Tensor  # [..., 1, 1]


def _quotients(values: Tensor) -> _Quotients:
    largest = values.detach().abs().amax(-1, keepdim=True)
    scale = torch.where(largest == 0, 1.0, largest)  # a constant to the second derivative: it cancels
    row = (values / scale)[..., None, :]
    column = row.mT
    value = _reciprocal(row)
    return _Quotients(
        _reciprocal(row - column), _reciprocal(row + column), value, (value != 0).squeeze(-2), scale[..., None]
    )


def _reciprocal(x: Tensor) -> Tensor:
    """Of numbers of size 1, 0 where x is 0 or cannot be told from it."""
    zero = x.abs() <= TIE
    return torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, x))


def _clamped(gradient: Tensor) -> Tensor:
    return gradient.clamp(-_LARGEST, _LARGEST)


def _skew(m: Tensor) -> Tensor:
    return (m - m.mT) / 2
