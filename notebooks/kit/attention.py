"""The operators that the lessons compare, one signature for all: (dim, num_heads, …), (B, N, dim) → (B, N, dim).

Lesson 3 derives CRATE's attention and its ISTA step (Yu et al. 2023, "White-Box Transformers via Sparse Rate
Reduction"), lesson 9 measures all of them beside `tssa.TSSA`. Each is written from the formula of the paper
that it names.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize, pad, scaled_dot_product_attention

from tssa_lib.core import check_heads, check_tokens, join_heads, split_heads


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
        raise ValueError(
            f"expected tokens x (…, N, d) and bases U (K, d, p), got {tuple(x.shape)} and {tuple(U.shape)}"
        )
    w = torch.einsum("...nd,kdp->...knp", x, U)  # (…, K, N, p)
    y = scaled_dot_product_attention(w, w, w, scale=scale)  # (…, K, N, p), softmax over the keys
    return torch.einsum("...knp,kdp->...nd", y, U)


def ista_step(x: Tensor, Q: Tensor, t: float = 0.1, lam: float = 0.1) -> Tensor:
    """One proximal step towards a sparse non-negative code of the tokens in the dictionary Q, begun at the tokens.

    ReLU(Z + t Qᵀ(Z − QZ) − tλ) (lesson 3, eq. 3.19; Yu et al. 2023). Lowers λ‖A‖₁ + ½‖Z − QA‖² for every
    t <= 1/‖Q‖² when Z >= 0. x (…, N, d), Q (d, d) → (…, N, d). ValueError when the shapes do not fit.

    >>> ista_step(torch.tensor([[1.0, -1.0]]), torch.eye(2))
    tensor([[0.9900, 0.0000]])
    """
    if Q.ndim != 2 or Q.shape[0] != Q.shape[1] or x.shape[-1:] != Q.shape[:1]:
        raise ValueError(
            f"expected tokens x (…, N, d) and a dictionary Q (d, d), got {tuple(x.shape)} and {tuple(Q.shape)}"
        )
    residual = x - x @ Q.mT  # (…, N, d), Z − QZ
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
        check_heads(dim, num_heads)
        self.dim, self.num_heads, self.tied = dim, num_heads, tied
        self.qkv = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Identity() if tied else nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(x, self.dim)
        w = split_heads(self.qkv(x), self.num_heads)  # (B, K, N, p)
        y = scaled_dot_product_attention(w, w, w)  # (B, K, N, p), softmax over the keys
        y = join_heads(y)  # (B, N, C)
        return self.to_out(y @ self.qkv.weight if self.tied else y)


# ---- the rivals of lesson 9 -----------------------------------------------------------------------------
class Attention(nn.Module):
    """What the rivals share: a projection to `parts` (queries, keys, values), heads, and an output map.

    (B, N, dim) → (B, N, dim). A rival says in `mix` what becomes of q, k, v (B, K, N, p); without one it is
    softmax attention through `scaled_dot_product_attention`, as people run it (Vaswani et al. 2017).
    num_heads must divide dim; ValueError says what was expected and what came.

    >>> Attention(8, 2)(torch.ones(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    parts = 3

    def __init__(self, dim: int, num_heads: int = 8):
        super().__init__()
        check_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.qkv, self.to_out = nn.Linear(dim, self.parts * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(x, self.dim)
        qkv = self.qkv(x).unflatten(-1, (self.parts, self.num_heads, -1))  # (B, N, 3, K, p)
        y = self.mix(*qkv.permute(2, 0, 3, 1, 4))  # (B, K, N, p)
        return self.to_out(join_heads(y))  # (B, N, C)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v)  # softmax over the keys


class WrittenOut(Attention):
    """Softmax attention as people draw it: the N × N matrix of every head in memory."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        A = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)  # (B, K, N, N), over the keys
        return A @ v  # (B, K, N, p)


class Chunked(Attention):
    """Block-local attention: a token sees the tokens of its own chunk. Softmax attention at chunk >= N.

    The last chunk is filled up with tokens that nobody sees. ValueError for chunk < 1.
    """

    def __init__(self, dim: int, num_heads: int = 8, chunk: int = 64):
        super().__init__(dim, num_heads)
        self.chunk = _at_least_one("chunk", chunk)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        N, chunk = q.shape[-2], min(self.chunk, q.shape[-2])
        q, k, v = (pad(t, (0, 0, 0, -N % chunk)).unflatten(2, (-1, chunk)) for t in (q, k, v))  # (B, K, N/c, c, p)
        real = torch.arange(q.shape[2] * chunk, device=q.device).view(-1, 1, chunk) < N  # (N/c, 1, c)
        y = scaled_dot_product_attention(q, k, v, attn_mask=None if N % chunk == 0 else real)  # over the chunk's keys
        return y.flatten(2, 3)[:, :, :N]  # (B, K, N, p)


class SlidingWindow(Attention):
    """A token sees `window` (odd) tokens around its own place. Softmax attention at window >= 2N − 1.

    Beltagy et al. 2020 (Longformer). Computed in chunks that see their neighbours, so in memory linear in N.
    """

    def __init__(self, dim: int, num_heads: int = 8, window: int = 65):
        super().__init__(dim, num_heads)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"expected an odd window >= 1, got {window}")
        self.window = window

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        N, h = q.shape[-2], min(self.window // 2, q.shape[-2] - 1)  # h tokens on either side
        chunk = max(h, 1)
        q = pad(q, (0, 0, 0, -N % chunk)).unflatten(2, (-1, chunk))  # (B, K, N/c, c, p)
        k, v = (pad(t, (0, 0, h, h + -N % chunk)).unfold(2, chunk + 2 * h, chunk).mT for t in (k, v))  # (…, c + 2h, p)
        at = torch.arange(chunk * q.shape[2], device=q.device).view(-1, chunk, 1)  # of the query
        key = at[:, :1] - h + torch.arange(chunk + 2 * h, device=q.device)  # of the key
        seen = ((at - key).abs() <= h) & (key >= 0) & (key < N) | (at >= N)  # (N/c, c, c + 2h)
        y = scaled_dot_product_attention(q, k, v, attn_mask=seen)  # softmax over the window
        return y.flatten(2, 3)[:, :, :N]  # (B, K, N, p)


class Linformer(Attention):
    """Keys and values projected along the tokens to `rank` of them. Softmax attention at rank = N, E = F = I.

    Wang et al. 2020. E and F (rank, tokens) are learned for one number of tokens: ValueError for more.
    """

    def __init__(self, dim: int, num_heads: int = 8, rank: int = 64, tokens: int = 400):
        super().__init__(dim, num_heads)
        self.E, self.F = (nn.Parameter(torch.randn(_at_least_one("rank", rank), tokens) * tokens**-0.5) for _ in "EF")

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        N = q.shape[-2]
        if N > self.E.shape[-1]:
            raise ValueError(f"expected at most {self.E.shape[-1]} tokens, for which E and F were made, got {N}")
        return scaled_dot_product_attention(q, self.E[:, :N] @ k, self.F[:, :N] @ v)  # softmax over the rank


class Nystrom(Attention):
    """Softmax attention through `landmarks`, the means of as many segments: three thin softmaxes.

    softmax(qk̃ᵀ) softmax(q̃k̃ᵀ)⁺ softmax(q̃kᵀ) v; the pseudo-inverse by `steps` steps of the third-order iteration
    of Razavi et al. 2014. Xiong et al. 2021 (Nyströmformer). At landmarks = N it is softmax attention, up to
    the iteration's rest. Segments differ by at most one token in length.
    """

    def __init__(self, dim: int, num_heads: int = 8, landmarks: int = 64, steps: int = 6):
        super().__init__(dim, num_heads)
        self.landmarks, self.steps = _at_least_one("landmarks", landmarks), steps

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        N, m, scale = q.shape[-2], min(self.landmarks, q.shape[-2]), q.shape[-1] ** -0.5
        q_mean, k_mean = (adaptive_avg_pool2d(t, (m, t.shape[-1])) if N > m else t for t in (q, k))  # (B, K, m, p)
        left = (q @ k_mean.mT * scale).softmax(-1)  # (B, K, N, m), over the landmarks
        core = (q_mean @ k_mean.mT * scale).softmax(-1)  # (B, K, m, m), over the landmarks
        right = scaled_dot_product_attention(q_mean, k, v)  # (B, K, m, p), over the keys
        return left @ (self.inverse(core) @ right)  # (B, K, N, p)

    def inverse(self, A: Tensor) -> Tensor:
        Z, eye = A.mT / A.sum(-2, keepdim=True).amax(-1, keepdim=True), torch.eye(A.shape[-1]).to(A)
        for _ in range(self.steps):  # ‖A‖₁ ‖A‖∞ bounds the start, ‖A‖∞ = 1
            AZ = A @ Z
            Z = Z @ (13 * eye - AZ @ (15 * eye - AZ @ (7 * eye - AZ))) / 4
        return Z


class XCA(Attention):
    """Cross-covariance attention: channels attend to channels, p × p per head, linear in N.

    softmax(k̂ᵀq̂ · τ) with queries and keys normalised along the tokens and a learned τ a head (El-Nouby et al.
    2021, XCiT).
    """

    def __init__(self, dim: int, num_heads: int = 8):
        super().__init__(dim, num_heads)
        self.temp = nn.Parameter(torch.ones(num_heads, 1, 1))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (normalize(t, dim=-2) for t in (q, k))  # over the tokens
        A = (q.mT @ k * self.temp).softmax(-1)  # (B, K, p, p), over the keys' channels
        return v @ A.mT  # (B, K, N, p)


class RateGradient(Attention):
    """The exact gradient of Σ_k R(U_kᵀZ), (I + α w wᵀ)⁻¹ w, in p × p form: linear in N without the variational bound.

    `eps2` is ε², α = p/(N ε²) (lesson 3, eq. 3.2; `rates.coding_rate_grad` up to the factor α). One projection.
    """

    parts = 1

    def __init__(self, dim: int, num_heads: int = 8, eps2: float = 0.5):
        super().__init__(dim, num_heads)
        self.eps2 = eps2

    def mix(self, w: Tensor) -> Tensor:  # type: ignore[override]  # one part: `parts`
        N, p = w.shape[-2:]
        S = torch.eye(p).to(w) + p / (N * self.eps2) * (w.mT @ w)  # (B, K, p, p)
        return w @ torch.linalg.inv(S)  # (B, K, N, p), S is symmetric


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"expected {name} >= 1, got {value}")
    return value
