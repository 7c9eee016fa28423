"""Token Statistics Self-Attention as functions of projected tokens: memberships, second moments, gates, update.

Lesson 5 derives the update, lesson 6 the memberships, lesson 7 how a layer computes them. Source: Wu et al. 2024,
"Token Statistics Transformer" (ToST). `tssa.TSSA` and the block of YOLO are layers around `token_update`; `fast.py`
computes the same in few passes, and tests hold both equal to `tssa_literal`, the formula in loops.

Axes: B batch, N tokens, K heads (groups), p head width, C = K·p model width.
    w   (B, K, N, p)   projected tokens, head k holds U_kᵀZ as rows
    Pi  (B, K, N)      memberships, sum to 1 over K
    s   (B, K, p)      second moments, D = c/(1 + c s) the gates
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssa_lib.rates import tangent

MASS = 1e-8  # added to n_k, as in the published layer: a head without members gets s = 0
TINY = 1e-24  # floor of what a coordinate's squares are divided by: a dead channel gives logit 0, not 0/0
NORMALIZE = ("none", "tokens", "rms", "code")


class Statistics(NamedTuple):
    """What one TSSA layer computed: Pi (B, K, N), second moments and gates (B, K, p)."""

    Pi: Tensor
    second_moments: Tensor
    gates: Tensor


# ---- the terms --------------------------------------------------------------------------------------
def memberships(w: Tensor, temp: Tensor | float = 1.0, normalize: str = "tokens", c: float = 1.0) -> Tensor:
    """Memberships Π: how much each token belongs to each head.

    Π_k = softmax_k(θ_k ‖U_kᵀz‖²) (lesson 6, eq. 6.1), with `normalize` saying which squares are summed:
    "none" the formula's own, θ = 1/(2η); "tokens" each coordinate divided by its sum of squares over the
    tokens, as in the published layer; "rms" means in place of both sums, that is times N/p, which does not depend
    on resolution. "code" takes minus half the corrected code length in place of the energies (eq. 6.8), where the
    heads' frames together span the space; its moments are those of equal memberships, and c is d/ε².
    w (…, K, N, p), temp θ: (K, 1) or a number → Pi (…, K, N), in float32 at least.

    >>> memberships(torch.ones(1, 2, 3, 4)).sum(1)
    tensor([[1., 1., 1.]])
    """
    check_normalize(normalize)
    w2 = wide(w) ** 2  # (…, K, N, p)
    if normalize == "code":
        return (-_code_lengths(w2, c) / 2 * temp).softmax(-2)  # over the K heads
    scale = temp[..., None] if isinstance(temp, Tensor) else temp  # of every square
    total = torch.mean if normalize == "rms" else torch.sum  # no size enters by name: an exported layer takes any N
    if normalize != "none":
        scale = scale / total(w2, -2, keepdim=True).clamp(min=TINY)  # (…, K, 1, p), over the tokens
    return total(w2 * scale, -1).softmax(-2)  # (…, K, N), over the K heads: each token shares itself out


def _code_lengths(w2: Tensor, c: float) -> Tensor:
    """`rates.code_lengths`, corrected, from the squares in all frames alone. w2 (…, K, N, p) → (…, K, N)."""
    s, own = w2.mean(-2), w2.sum(-1)  # (…, K, p), (…, K, N)
    rest, q = own.sum(-2, keepdim=True) - own, (w2.shape[-3] - 1) * w2.shape[-1]  # off the frame, in q directions
    (D, within), (D_off, off) = tangent(s, c), tangent(rest.mean(-1) / max(q, 1), c)
    return (w2 @ D[..., None])[..., 0] + D_off[..., None] * rest + (within.sum(-1) + q * off)[..., None]


def second_moments(w: Tensor, Pi: Tensor, mass: float = MASS) -> Tensor:
    """s_k = Σ_j π_jk (U_kᵀz_j)² / (n_k + mass), coordinate by coordinate (lesson 5, eq. 5.2).

    The division comes after the sum, so that a compiler needs one loop for sum and mass (lesson 9, eq. 9.7).
    w (…, K, N, p), Pi (…, K, N) → (…, K, p).

    >>> second_moments(torch.ones(1, 3, 2), torch.ones(1, 3))
    tensor([[1., 1.]])
    """
    if not torch.jit.is_tracing() and Pi.shape[-2:] != w.shape[-3:-1]:
        raise ValueError(
            f"expected w (…, K, N, p) and Pi (…, K, N) that agree, got {tuple(w.shape)}, {tuple(Pi.shape)}"
        )
    w2, n_k = wide(w) ** 2, Pi.sum(-1, keepdim=True)  # (…, K, N, p), (…, K, 1)
    if torch.compiler.is_compiling() or w2.dtype != w.dtype:  # a product would end the loop, or go back to half
        total = (Pi[..., None] * w2).sum(-2)  # (…, K, p)
    else:
        total = (Pi[..., None, :] @ w2)[..., 0, :]  # (…, K, p)
    return total / (n_k + mass)


def gates(s: Tensor, c: float = 1.0) -> Tensor:
    """D = c/(1 + c s): large moments are kept by the update, small ones are cut (lesson 5, eq. 5.4)."""
    return c / (1 + c * s)


def entropy(Pi: Tensor) -> Tensor:
    """H(Π)/n, a token's mean entropy in nats: 0 if hard, ln K if uniform (lesson 6, eq. 6.5). (…, K, N) → (…).

    >>> entropy(torch.full((2, 5), 0.5)) / torch.tensor(2.0).log()
    tensor(1.)
    """
    return torch.special.entr(Pi).sum(-2).mean(-1)


def moments_rate(s: Tensor, Pi: Tensor, c: float = 1.0) -> Tensor:
    """R_c^var in nats from second moments, ½ Σ_k (n_k/n) Σ_i ln(1 + c s_ki) (lesson 5, eq. 5.1).

    The moments say which projection counts: a layer's own, with its bias if it has one (lesson 7, eq. 7.13).
    s (…, K, p), Pi (…, K, N) → (…).

    >>> moments_rate(torch.ones(1, 2), torch.ones(1, 5)) == torch.tensor(2.0).log()
    tensor(True)
    """
    return 0.5 * (Pi.mean(-1) * torch.log1p(c * s).sum(-1)).sum(-1)


# ---- the update -------------------------------------------------------------------------------------
def token_statistics(
    w: Tensor,
    temp: Tensor,
    *,
    normalize: str = "tokens",
    c: float = 1.0,
    mass: float = MASS,
    detach_memberships: bool = False,
) -> Statistics:
    """Memberships, second moments and gates of projected tokens w (B, K, N, p) (lesson 7, eqs. 7.2 and 7.3).

    On CUDA, `normalize="code"` is left out of what `torch.compile` compiles: its compiled gradients were wrong there.
    """
    if normalize == "code" and _miscompiles(w) and torch.compiler.is_compiling():
        return _uncompiled(w, temp, normalize=normalize, c=c, mass=mass, detach_memberships=detach_memberships)
    Pi = memberships(w, temp, normalize, c)  # (B, K, N)
    Pi = Pi.detach() if detach_memberships else Pi
    s = second_moments(w, Pi, mass)  # (B, K, p)
    return Statistics(Pi, s, gates(s, c))


def _miscompiles(w: Tensor) -> bool:
    return w.is_cuda


_uncompiled = torch.compiler.disable(token_statistics)


def gated(w: Tensor, Pi: Tensor, D: Tensor) -> Tensor:
    """−π_jk D_k w_kj, the update of projected tokens (lesson 7, eq. 7.1). (B, K, N, p), in the dtype of w."""
    return (-w * Pi[..., None] * D[..., None, :]).to(w.dtype)


def token_update(w: Tensor, temp: Tensor, drop: Callable[[Tensor], Tensor] = lambda D: D, **switches) -> Tensor:
    """TSSA of projected tokens w (B, K, N, p), in its straightforward form (lesson 7, eq. 7.1): the same shape.

    `drop` is applied to the gates; switches as in `token_statistics`.

    >>> token_update(torch.ones(1, 1, 9, 4), torch.ones(1, 1))[0, 0, 0]      # one head: Π = 1, s = 1, D = 1/2
    tensor([-0.5000, -0.5000, -0.5000, -0.5000])
    """
    Pi, _, D = token_statistics(w, temp, **switches)
    return gated(w, Pi, drop(D))


def tssa_update(x: Tensor, Pi: Tensor, U: Tensor, eps2: float, t: float = 1.0) -> Tensor:
    """TSSA(Z) = −t Σ_k U_k D_k U_kᵀ Z Diag(π_k), the paper's operator (lesson 5, eq. 5.5).

    Equals −t·n·∇R_c^var with Π held fixed. x (…, N, d), Pi (…, K, N), U (K, d, p); t = τ/n does not depend
    on the number of tokens. Any t in (0, 2ε²/d) lowers R_c^var where the update is not zero, if the U_k are
    orthonormal, Π is held and its shares, none negative, sum to at most one for each token (lesson 5, eq. 5.9).
    """
    if Pi.shape[-2:] != (U.shape[0], x.shape[-2]) or U.ndim != 3 or U.shape[1] != x.shape[-1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, Pi, U))
        raise ValueError(f"expected x (…, N, d), Pi (…, K, N) and U (K, d, p) that agree, got {shapes}")
    if not eps2 > 0:
        raise ValueError(f"expected eps2 > 0, got {eps2}")
    w = torch.einsum("...nd,kdp->...knp", x, U)  # (…, K, N, p)
    D = gates(second_moments(w, Pi, torch.finfo(w.dtype).tiny), x.shape[-1] / eps2)  # (…, K, p)
    return -t * torch.einsum("kdp,...kp,...knp,...kn->...nd", U, D, w, Pi)


def largest_safe_gamma(Pi: Tensor, U: Tensor, D: Tensor) -> Tensor:
    """2/max_j ‖A_j‖, A_j = Σ_k π_jk U_k D_k U_kᵀ: any γ in (0, this) in z + γ·TSSA(z) lowers R_c^var.

    That holds for a tied output map, with Π held, and where the update is not zero: the step-size theorem (lesson 5,
    eq. 5.9). For another output map or for new memberships it says nothing.
    Pi (…, K, N), U (K, d, p), D (…, K, p) → (…).

    >>> largest_safe_gamma(torch.ones(1, 5), torch.eye(2)[None], torch.ones(1, 2))
    tensor(2.)
    """
    if U.ndim != 3 or Pi.shape[-2] != U.shape[0] or D.shape[-2:] != (U.shape[0], U.shape[2]):
        shapes = ", ".join(str(tuple(t.shape)) for t in (Pi, U, D))
        raise ValueError(f"expected Pi (…, K, N), U (K, d, p) and D (…, K, p) that agree, got {shapes}")
    if not all(torch.isfinite(t).all() for t in (Pi, U, D)):
        raise ValueError("expected finite Pi, U and D, got NaN or infinity")
    A = torch.einsum("...kn,kdp,...kp,kep->...nde", Pi, U, D, U)  # (…, N, d, d)
    return 2 / torch.linalg.eigvalsh(A)[..., -1].amax(-1)


def tssa_literal(x: Tensor, weight: Tensor, temp: Tensor, out: Tensor, normalize: str = "tokens") -> Tensor:
    """The layer written out with loops, one term of the formula at a time: for readers and tests only.

    x (N, C), weight (C, C) the projection, temp (K, 1), out (C, C) the output map, no biases → (N, C).
    """
    N, C = x.shape
    K, p = len(temp), C // len(temp)
    U = [weight[k * p : (k + 1) * p].T for k in range(K)]  # U_k (C, p)
    size: list[list[Any]] = [[sum((U[k][:, i] @ x[j]) ** 2 for j in range(N)) for i in range(p)] for k in range(K)]
    rows = []
    for j in range(N):
        logits = []
        for k in range(K):
            squares = [(U[k][:, i] @ x[j]) ** 2 for i in range(p)]
            if normalize != "none":
                squares = [q / size[k][i].clamp(min=TINY) for i, q in enumerate(squares)]
            logits.append(temp[k, 0] * sum(squares) * (N / p if normalize == "rms" else 1))
        rows.append(torch.stack(logits).softmax(0))  # over the heads
    Pi = torch.stack(rows)  # (N, K), the lessons' Π
    y = []
    for j in range(N):
        update = torch.zeros(C, dtype=x.dtype)
        for k in range(K):
            n_k = Pi[:, k].sum() + MASS
            for i in range(p):
                s_ki = sum(Pi[l, k] * (U[k][:, i] @ x[l]) ** 2 for l in range(N)) / n_k
                update = update - out[:, k * p + i] / (1 + s_ki) * (U[k][:, i] @ x[j]) * Pi[j, k]
        y.append(update)
    return torch.stack(y)


# ---- what layers share ------------------------------------------------------------------------------
def wide(w: Tensor) -> Tensor:
    """Half precision to float32: squares of |w| >= 256 overflow in float16, silently (lesson 7)."""
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def check_normalize(normalize: str) -> None:
    if normalize not in NORMALIZE:
        raise ValueError(f'expected normalize "none", "tokens", "rms" or "code", got {normalize!r}')


def check_heads(dim: int, num_heads: int) -> None:
    if dim < 1 or num_heads < 1 or dim % num_heads:
        raise ValueError(f"expected num_heads that divides dim, got dim={dim}, num_heads={num_heads}")


def check_tokens(x: Tensor, dim: int) -> None:
    if x.ndim != 3 or x.shape[-1] != dim or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(f"expected x (B, N >= 1, {dim}) of a floating dtype, got {tuple(x.shape)} {x.dtype}")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) → (B, K, N, p), a view: head k holds columns k·p to (k + 1)·p."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(y: Tensor) -> Tensor:
    """(B, K, N, p) → (B, N, C), `split_heads` undone: no copy where y lies in memory as the tokens do."""
    return y.transpose(1, 2).flatten(2)
