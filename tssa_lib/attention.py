"""The operators that the lessons compare, one signature for all: (dim, num_heads, …), (B, N, dim) → (B, N, dim).

Lesson 3 derives CRATE's attention and its ISTA step. Source: Yu et al. 2023, "White-Box Transformers via
Sparse Rate Reduction" (CRATE).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def mssa(x: Tensor, U: Tensor, scale: float = 1.0) -> Tensor:
    """Multi-head subspace self-attention: each head mixes the projected tokens by their similarity, quadratic in N.

    MSSA(Z) = Σ_k U_k w_k softmax(w_kᵀw_k), w_k = U_kᵀZ (lesson 3, eq. 3.12; Yu et al. 2023). `scale`
    multiplies the similarities, 1 in the formula and 1/√p in CRATE's layer.
    x (…, N, d), U (K, d, p) → (…, N, d). ValueError when the shapes do not fit.

    >>> mssa(torch.ones(3, 2), torch.eye(2)[None])          # equal tokens: every mean is the token itself
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """
    if x.ndim < 2 or U.ndim != 3 or U.shape[1] != x.shape[-1]:
        raise ValueError(f"expected tokens x (…, N, d) and bases U (K, d, p), got {tuple(x.shape)} and {tuple(U.shape)}")
    w = torch.einsum("...nd,kdp->...knp", x, U)                                 # (…, K, N, p)
    y = scaled_dot_product_attention(w, w, w, scale=scale)                      # (…, K, N, p), softmax over the keys
    return torch.einsum("...knp,kdp->...nd", y, U)


def ista_step(x: Tensor, Q: Tensor, t: float = 0.1, lam: float = 0.1) -> Tensor:
    """One proximal step towards a sparse non-negative code of the tokens in the dictionary Q, begun at the tokens.

    ReLU(Z + t Qᵀ(Z − QZ) − tλ) (lesson 3, eq. 3.19; Yu et al. 2023). Lowers λ‖A‖₁ + ½‖Z − QA‖² for every
    t <= 1/‖Q‖² when Z >= 0. x (…, N, d), Q (d, d) → (…, N, d). ValueError when the shapes do not fit.

    >>> ista_step(torch.tensor([[1.0, -1.0]]), torch.eye(2))
    tensor([[0.9900, 0.0000]])
    """
    if Q.ndim != 2 or Q.shape[0] != Q.shape[1] or x.shape[-1:] != Q.shape[:1]:
        raise ValueError(f"expected tokens x (…, N, d) and a dictionary Q (d, d), got {tuple(x.shape)} and {tuple(Q.shape)}")
    residual = x - x @ Q.mT                                                     # (…, N, d), Z − QZ
    return torch.relu(x + t * residual @ Q - t * lam)


class MSSA(nn.Module):
    """CRATE's attention layer, (B, N, dim) → (B, N, dim), quadratic in N (lesson 3, eq. 3.15).

    One projection serves as queries, keys and values; similarities are scaled by 1/√p. The output map is free,
    with a bias, as published; `tied=True` uses the projection's transpose instead, as the derivation asks.
    num_heads must divide dim.

    >>> MSSA(8, 2)(torch.ones(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int = 8, *, tied: bool = False):
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(f"expected num_heads that divides dim, got dim={dim}, num_heads={num_heads}")
        self.dim, self.num_heads, self.tied = dim, num_heads, tied
        self.qkv = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Identity() if tied else nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.dim or x.shape[1] == 0 or not x.is_floating_point():
            raise ValueError(f"expected x (B, N >= 1, {self.dim}) of a floating dtype, got {tuple(x.shape)} {x.dtype}")
        w = self.qkv(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)     # (B, K, N, p)
        y = scaled_dot_product_attention(w, w, w)                               # (B, K, N, p), softmax over the keys
        y = y.transpose(1, 2).flatten(2)                                        # (B, N, C)
        return self.to_out(y @ self.qkv.weight if self.tied else y)
