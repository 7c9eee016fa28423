"""The objective: coding rates of token sets, in nats, with their closed-form gradients.

Derived in lessons 1 (coding rate), 2 (rate reduction), 3 (rate in subspaces), 4 and 5 (variational
rate). Sources: Ma et al. 2007 (coding rate), Yu et al. 2020 (MCR²), Yu et al. 2023 (CRATE),
Wu et al. 2024 (ToST). The corrected rate is this project's own (lesson 4).

Tokens are rows here: `x (…, N, d)`; the lessons' Z is its transpose. Memberships `Pi (…, K, N)` sum to
one over the K groups. Bases `U (K, d, p)` have orthonormal columns. `eps2` is ε², the squared precision,
and `c = d/eps2` the inverse noise of one coordinate. Divide by ln 2 for bits.
"""

import math

import torch
from torch import Tensor

MEMBERSHIP_TOL = 1e-4  # rows of Pi come from float32 softmaxes too
ORTHONORMAL_TOL = 1e-3  # of UᵀU, where the residual ‖z‖² − ‖U_kᵀz‖² is needed


# ---- what every function expects ------------------------------------------------------------------
def _check(
    x: Tensor, eps2: float, Pi: Tensor | None = None, U: Tensor | None = None, orthonormal: bool = False
) -> None:
    """Raise ValueError that says what was expected and what came."""
    check_tokens(x)
    _check_numbers(eps2)
    if x.shape[-1] / eps2 > torch.finfo(x.dtype).max:
        raise ValueError(f"expected an eps2 with d/eps2 within {x.dtype}, got {eps2}")
    if Pi is not None:
        check_memberships(Pi, x)
    if U is not None:
        check_bases(U, x, Pi, orthonormal)


def check_tokens(x: Tensor) -> None:
    """`ValueError` unless x (…, N, d) holds finite tokens in float32 or float64, whose squares can be summed."""
    if x.ndim < 2 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected tokens x (…, N, d) in float32 or float64, got {tuple(x.shape)} {x.dtype}")
    if x.numel() == 0:
        raise ValueError(f"expected at least one token and one dimension, and no empty batch, got x {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("expected finite tokens, got NaN or infinity in x")
    longest = x.abs().max().item()
    if longest * longest * x.shape[-2] * x.shape[-1] > torch.finfo(x.dtype).max:
        raise ValueError(f"expected tokens whose squares can be summed in {x.dtype}, got entries up to {longest:.3g}")


def check_memberships(Pi: Tensor, x: Tensor) -> None:
    """`ValueError` unless Pi (…, K, N) fits the tokens x (…, N, d), is not negative and sums to one over the groups."""
    N, batches = x.shape[-2], zip(reversed(x.shape[:-2]), reversed(Pi.shape[:-2]))
    if Pi.ndim < 2 or Pi.shape[-1] != N or any(a != b and 1 not in (a, b) for a, b in batches):
        raise ValueError(f"expected memberships Pi (…, K, N={N}), got {tuple(Pi.shape)} with x {tuple(x.shape)}")
    if Pi.numel() == 0:
        raise ValueError(f"expected K >= 1 groups in memberships Pi (…, K, N={N}), got {tuple(Pi.shape)}")
    if Pi.dtype != x.dtype:
        raise ValueError(f"expected memberships of the tokens' dtype {x.dtype}, got {Pi.dtype}")
    off = (Pi.sum(-2) - 1).abs().max().item()
    if not off <= MEMBERSHIP_TOL or Pi.min() < 0:  # `not <=` also catches NaN
        raise ValueError(
            f"expected memberships >= 0 that sum to 1 over the K groups (axis -2), got sums up to "
            f"{off:.3g} off and a minimum of {Pi.min().item():.3g}"
        )


def check_bases(U: Tensor, x: Tensor, Pi: Tensor | None = None, orthonormal: bool = False) -> None:
    """`ValueError` unless U (K, d, p) are finite bases for tokens x (…, N, d) and, if given, memberships (…, K, N)."""
    d = x.shape[-1]
    if U.ndim != 3 or U.shape[1] != d or U.numel() == 0:
        raise ValueError(f"expected bases U (K >= 1, d={d}, p >= 1), got {tuple(U.shape)}")
    if U.dtype != x.dtype:
        raise ValueError(f"expected bases of the tokens' dtype {x.dtype}, got {U.dtype}")
    if not torch.isfinite(U).all():
        raise ValueError("expected finite bases, got NaN or infinity in U")
    if Pi is not None and Pi.shape[-2] != U.shape[0]:
        raise ValueError(f"expected one basis a group: Pi has K={Pi.shape[-2]}, U has K={U.shape[0]}")
    if orthonormal:
        off = (U.mT @ U - torch.eye(U.shape[2]).to(U)).abs().max().item()
        if off > ORTHONORMAL_TOL:
            raise ValueError(f"expected orthonormal columns in U (so p <= d), got UᵀU up to {off:.3g} off the identity")


def _check_numbers(eps2: float, **counts: int) -> None:
    if not (math.isfinite(eps2) and eps2 > 0):
        raise ValueError(f"expected a finite eps2 > 0, got {eps2}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"expected {name} >= 1, got {count}")


def _logdet(S: Tensor, c: float | Tensor) -> Tensor:
    """logdet(I + c S) of positive semidefinite S (…, m, m); rounding below zero is clipped."""
    return torch.log1p(c * torch.linalg.eigvalsh(S).clamp_min(0)).sum(-1)


def _group_size(Pi: Tensor) -> Tensor:
    """n_k (…, K), kept above zero: an empty group then has second moment 0 and rate 0, its limit."""
    return Pi.sum(-1).clamp_min(torch.finfo(Pi.dtype).tiny)


def second_moment(x: Tensor, Pi: Tensor | None = None) -> Tensor:
    """Second moment of the tokens (no centring), or of each group when memberships are given.

    S = ZZᵀ/n, or S_k = Z Diag(π_k) Zᵀ/n_k (lesson 1, eq. 1.1; lesson 2, eq. 2.1).
    Returns (…, d, d), or (…, K, d, d); zero for an empty group. ValueError as in `coding_rate`.

    >>> second_moment(torch.eye(2))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    _check(x, 1.0, Pi)
    if Pi is None:
        return x.mT @ x / x.shape[-2]  # (…, d, d)
    return torch.einsum("...kn,...nd,...ne->...kde", Pi / _group_size(Pi)[..., None], x, x)


# ---- lesson 1: the coding rate ----------------------------------------------------------------------
def coding_rate(x: Tensor, eps2: float) -> Tensor:
    """Coding rate R(Z) in nats: the rate of a Gaussian code for the tokens up to precision ε².

    R = ½ logdet(I + c ZZᵀ/n), c = d/ε² (lesson 1, eq. 1.5; Ma et al. 2007). Uses the smaller of the
    d × d and the N × N form; a single token costs ½ ln(1 + c‖z‖²). x (…, N, d) → (…).
    ValueError on NaN, no tokens, tokens too large for their dtype, or eps2 <= 0.

    >>> round(coding_rate(torch.eye(2), 0.5).item(), 4)     # = ln 3
    1.0986
    """
    _check(x, eps2)
    N, d = x.shape[-2:]
    S = x.mT @ x / N if d <= N else x @ x.mT / N  # (…, m, m), m = min(d, N)
    return 0.5 * _logdet(S, d / eps2)


def coding_rate_grad(x: Tensor, eps2: float) -> Tensor:
    """Gradient of the coding rate: α (I + α ZZᵀ)⁻¹ Z, α = d/(nε²) (lesson 1, eq. 1.16). (…, N, d).

    >>> coding_rate_grad(torch.eye(2), 0.5)                 # α = 2, I + αZZᵀ = 3I
    tensor([[0.6667, 0.0000],
            [0.0000, 0.6667]])
    """
    _check(x, eps2)
    N, d = x.shape[-2:]
    alpha, eye = d / (N * eps2), torch.eye(d, dtype=x.dtype, device=x.device)
    return alpha * torch.linalg.solve(eye + alpha * x.mT @ x, x.mT).mT


# ---- lesson 2: rate reduction -----------------------------------------------------------------------
def compression_rate(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    """R_c(Z, Π) in nats: what it costs to code each group with a code of its own.

    R_c = ½ Σ_k (n_k/n) logdet(I + c S_k) (lesson 2, eq. 2.2; Yu et al. 2020). An empty group costs nothing.

    >>> compression_rate(torch.eye(2), torch.eye(2), 1.0)   # two groups of one token each: ½ ln 3
    tensor(0.5493)
    """
    _check(x, eps2, Pi)
    N, d = x.shape[-2:]
    return 0.5 * (Pi.sum(-1) / N * _logdet(second_moment(x, Pi), d / eps2)).sum(-1)


def rate_reduction(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    """Rate reduction ΔR = R − R_c >= 0, in nats (lesson 2, eq. 2.3; Yu et al. 2020).

    >>> rate_reduction(torch.eye(2), torch.ones(1, 2), 1.0)  # one group: nothing is saved
    tensor(0.)
    """
    return coding_rate(x, eps2) - compression_rate(x, Pi, eps2)


def compression_rate_grad(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    """Gradient of R_c with Π held fixed: (c/n) Σ_k (I + c S_k)⁻¹ Z Diag(π_k) (lesson 2, eq. 2.7). (…, N, d).

    >>> compression_rate_grad(torch.eye(2), torch.eye(2), 1.0).diag()
    tensor([0.3333, 0.3333])
    """
    _check(x, eps2, Pi)
    N, d = x.shape[-2:]
    c, eye = d / eps2, torch.eye(d, dtype=x.dtype, device=x.device)
    inverse = torch.linalg.inv(eye + c * second_moment(x, Pi))  # (…, K, d, d)
    return c / N * torch.einsum("...kn,...kde,...ne->...nd", Pi, inverse, x)


def rate_reduction_grad(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    """Gradient of ΔR with Π held fixed (lesson 2, eq. 2.8). (…, N, d).

    >>> rate_reduction_grad(torch.eye(2), torch.eye(2), 1.0).diag()
    tensor([0.1667, 0.1667])
    """
    return coding_rate_grad(x, eps2) - compression_rate_grad(x, Pi, eps2)


def max_rate_reduction(d: int, K: int, eps2: float) -> float:
    """Largest ΔR of K balanced groups of unit tokens that share d dimensions equally, in nats.

    (d/2)[ln(1 + 1/ε²) − (1/K) ln(1 + K/ε²)] (lesson 2, eq. 2.17). For K < d this is the maximum at fine
    precision only: at coarse ε² groups of fewer dimensions do better. ValueError unless K divides d.

    >>> round(max_rate_reduction(3, 3, 0.1), 6)
    1.879849
    """
    _check_numbers(eps2, d=d, K=K)
    if d % K:
        raise ValueError(f"expected K groups that share d dimensions equally, got d={d}, K={K}")
    return d / 2 * (math.log1p(1 / eps2) - math.log1p(K / eps2) / K)


def safe_ascent_step(N: int, d: int, eps2: float) -> float:
    """Step 8n/(9c) with which gradient ascent on ΔR cannot overshoot (lesson 2, eq. 2.20).

    >>> round(safe_ascent_step(180, 3, 0.1), 2)
    5.33
    """
    _check_numbers(eps2, N=N, d=d)
    return 8 * N * eps2 / (9 * d)


def ascent_step(x: Tensor, Pi: Tensor, eps2: float, step: float | None = None) -> Tensor:
    """Unit tokens (…, N, d) after one step of gradient ascent on ΔR, scaled back to length one (lesson 2, eq. 2.20).

    `step` multiplies the gradient; None takes `safe_ascent_step`, with which ΔR of unit tokens never falls.

    >>> ascent_step(torch.eye(2), torch.eye(2), 0.1)        # the best arrangement stays where it is
    tensor([[1., 0.],
            [0., 1.]])
    """
    step = safe_ascent_step(x.shape[-2], x.shape[-1], eps2) if step is None else step
    y = x + step * rate_reduction_grad(x, Pi, eps2)
    return y / y.norm(dim=-1, keepdim=True)


# ---- lesson 3: the rate in subspaces ----------------------------------------------------------------
def subspace_rate(x: Tensor, U: Tensor, eps2: float) -> Tensor:
    """R^c(Z; U) = Σ_k R(U_kᵀZ) in nats, every token coded in every subspace (lesson 3, eq. 3.1; CRATE)."""
    _check(x, eps2, U=U)
    return coding_rate(torch.einsum("...nd,kdp->...knp", x, U), eps2).sum(-1)


def subspace_rate_grad(x: Tensor, U: Tensor, eps2: float) -> Tensor:
    """Gradient of R^c(Z; U): Σ_k U_k ∇R(U_kᵀZ), in the p × p form, linear in N (lesson 3, eq. 3.2)."""
    _check(x, eps2, U=U)
    g = coding_rate_grad(torch.einsum("...nd,kdp->...knp", x, U), eps2)  # (…, K, N, p)
    return torch.einsum("...knp,kdp->...nd", g, U)


# ---- lessons 4 and 5: the variational rate ----------------------------------------------------------
def _spectrum(x: Tensor, Pi: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared projections (…, K, N, p), second moments s (…, K, p), residual energy (…, K, N)."""
    w2 = torch.einsum("...nd,kdp->...knp", x, U) ** 2  # (…, K, N, p)
    s = torch.einsum("...kn,...knp->...kp", Pi / _group_size(Pi)[..., None], w2)
    rest = (x**2).sum(-1)[..., None, :] - w2.sum(-1)  # ‖z‖² − ‖U_kᵀz‖²
    return w2, s, rest.clamp_min(0)


def _residual(rest: Tensor, Pi: Tensor, q: int) -> Tensor:
    """ρ_k (…, K): mean residual variance of one of the q coordinates off U_k."""
    return (Pi * rest).sum(-1) / _group_size(Pi) / max(q, 1)


def variational_rate(x: Tensor, Pi: Tensor, U: Tensor, eps2: float, *, corrected: bool = False) -> Tensor:
    """R_c^var(Z, Π | U) in nats: each group coded coordinate by coordinate in its own basis.

    ½ Σ_k (n_k/n) Σ_i f(s_ki), f(x) = ln(1 + c x) (lesson 5, eq. 5.1; Wu et al. 2024). For p = d an upper
    bound of R_c; for p < d only of the projected rate. `corrected=True` adds (d − p) f(ρ_k) for the
    directions off U_k and bounds R_c for every p (lesson 4, eq. 4.27).
    x (…, N, d), Pi (…, K, N), U (K, d, p) → (…).

    >>> x, Pi, U = torch.eye(2), torch.ones(1, 2), torch.eye(2)[None]
    >>> variational_rate(x, Pi, U, 1.0) == coding_rate(x, 1.0)
    tensor(True)
    """
    _check(x, eps2, Pi, U, orthonormal=corrected)
    N, d = x.shape[-2:]
    c, q = d / eps2, d - U.shape[-1]
    _, s, rest = _spectrum(x, Pi, U)
    bits = torch.log1p(c * s).sum(-1)  # (…, K)
    if corrected:
        bits = bits + q * torch.log1p(c * _residual(rest, Pi, q))
    return 0.5 * (Pi.sum(-1) / N * bits).sum(-1)


def variational_rate_grad(x: Tensor, Pi: Tensor, U: Tensor, eps2: float, *, corrected: bool = False) -> Tensor:
    """Gradient of R_c^var with Π held fixed: (1/n) Σ_k U_k D_k U_kᵀ Z Diag(π_k) (lesson 5, eq. 5.3).

    D_k = Diag f'(s_k), f'(s) = c/(1 + c s). `corrected=True` adds f'(ρ_k)(I − U_kU_kᵀ)z (lesson 4, eq. 4.28).
    """
    _check(x, eps2, Pi, U, orthonormal=corrected)
    N, d = x.shape[-2:]
    c, q = d / eps2, d - U.shape[-1]
    _, s, rest = _spectrum(x, Pi, U)
    w = torch.einsum("...nd,kdp->...knp", x, U)
    D = c / (1 + c * s)  # (…, K, p)
    if not corrected:
        return torch.einsum("...kn,...kp,...knp,kdp->...nd", Pi, D, w, U) / N
    R = c / (1 + c * _residual(rest, Pi, q))  # (…, K)
    inside = torch.einsum("...kn,...kp,...knp,kdp->...nd", Pi, D - R[..., None], w, U)
    return (inside + torch.einsum("...kn,...k->...n", Pi, R)[..., None] * x) / N


def code_lengths(x: Tensor, Pi: Tensor, U: Tensor, eps2: float, *, corrected: bool = False) -> Tensor:
    """T (…, K, N): twice the nats that one more token like j costs in group k; ∂R_c^var/∂π_jk = T_jk/(2n).

    T_jk = Σ_i [f(s_ki) + f'(s_ki)((u_kiᵀz_j)² − s_ki)] (lesson 5, eq. 5.24), with the matching term for the
    directions off U_k when `corrected`.
    """
    _check(x, eps2, Pi, U, orthonormal=corrected)
    d = x.shape[-1]
    c, q = d / eps2, d - U.shape[-1]
    w2, s, rest = _spectrum(x, Pi, U)
    D, constant = tangent(s, c)
    T = torch.einsum("...kp,...knp->...kn", D, w2) + constant.sum(-1)[..., None]
    if corrected:
        D, constant = tangent(_residual(rest, Pi, q), c)
        T = T + D[..., None] * rest + (q * constant)[..., None]
    return T


def tangent(s: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Slope f'(s) and constant f(s) − s f'(s) of f(x) = ln(1 + cx): what a square costs (lesson 5, eq. 5.24).

    >>> [t.item() for t in tangent(torch.tensor(0.0), 3.0)]
    [3.0, 0.0]
    """
    D = c / (1 + c * s)
    return D, torch.log1p(c * s) - D * s
