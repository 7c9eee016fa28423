"""Token Statistics Self-Attention: the operator on projected tokens, and the layer that people run.

Lesson 5 derives the update, lesson 6 the memberships, lesson 7 the layer. Source: Wu et al. 2024,
"Token Statistics Transformer" (ToST), and its published layer, whose parameter names are kept here.

Axes: B batch, N tokens, K heads (groups), p head width, C = K·p model width.
    w   (B, K, N, p)   projected tokens, head k holds U_kᵀZ as rows
    Pi  (B, K, N)      memberships, sum to 1 over K
    s   (B, K, p)      second moments, D = 1/(1 + s) the gates
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tssa_lib.fast import MASS, TINY, bare, eager, fast_tssa, fused_tssa
from tssa_lib.rates import tangent


# ---- the functional core ----------------------------------------------------------------------------
def memberships(w: Tensor, temp: Tensor | float = 1.0, normalize: str = "tokens", c: float = 1.0) -> Tensor:
    """Memberships Π: how much each token belongs to each head.

    Π_k = softmax_k(θ_k ‖U_kᵀz‖²) (lesson 6, eq. 6.1), with `normalize` saying which squares are summed:
    "none" the formula's own, θ = 1/(2η); "tokens" each coordinate divided by its sum of squares over the
    tokens, as in the published layer; "rms" that times N/p, which does not depend on resolution. "code" takes
    minus half the corrected code length in place of the energies (eq. 6.8), where the heads' frames together
    span the space; its moments are those of equal memberships, and c is d/ε².
    w (…, K, N, p), temp θ: (K, 1) or a number → Pi (…, K, N), in float32 at least.

    >>> memberships(torch.ones(1, 2, 3, 4)).sum(1)
    tensor([[1., 1., 1.]])
    """
    _known(normalize)
    w2 = _wide(w) ** 2  # (…, K, N, p)
    if normalize == "code":
        return (-_code_lengths(w2, c) / 2 * temp).softmax(-2)
    if normalize != "none":
        w2 = w2 / w2.sum(-2, keepdim=True).clamp_min(TINY)  # over the tokens
    logits = w2.sum(-1) * temp  # (…, K, N)
    if normalize == "rms":
        logits = logits * (w.shape[-2] / w.shape[-1])
    return logits.softmax(-2)  # over the K heads: each token shares itself out


def _code_lengths(w2: Tensor, c: float) -> Tensor:
    """`rates.code_lengths`, corrected, from the squares in all frames alone. w2 (…, K, N, p) → (…, K, N)."""
    s, own = w2.mean(-2), w2.sum(-1)  # (…, K, p), (…, K, N)
    rest, q = own.sum(-2, keepdim=True) - own, (w2.shape[-3] - 1) * w2.shape[-1]  # off the frame, in q directions
    (D, within), (D_off, off) = tangent(s, c), tangent(rest.mean(-1) / max(q, 1), c)
    return (w2 @ D[..., None])[..., 0] + D_off[..., None] * rest + (within.sum(-1) + q * off)[..., None]


def _known(normalize: str) -> None:
    if normalize not in ("none", "tokens", "rms", "code"):
        raise ValueError(f'expected normalize "none", "tokens", "rms" or "code", got {normalize!r}')


def second_moments(w: Tensor, Pi: Tensor, mass: float = MASS) -> Tensor:
    """s_k = Σ_j π_jk (U_kᵀz_j)² / (n_k + mass), coordinate by coordinate (lesson 5, eq. 5.2).

    w (…, K, N, p), Pi (…, K, N) → (…, K, p).

    >>> second_moments(torch.ones(1, 3, 2), torch.ones(1, 3))
    tensor([[1., 1.]])
    """
    share = Pi / (Pi.sum(-1, keepdim=True) + mass)  # (…, K, N)
    w2 = _wide(w) ** 2  # (…, K, N, p)
    if w2.dtype != w.dtype:  # @ would go back to half
        return (share[..., None] * w2).sum(-2)
    return (share[..., None, :] @ w2)[..., 0, :]  # (…, K, p)


def entropy(Pi: Tensor) -> Tensor:
    """H(Π)/n, a token's mean entropy in nats: 0 if hard, ln K if uniform (lesson 6, eq. 6.5). (…, K, N) → (…).

    >>> entropy(torch.full((2, 5), 0.5)) / torch.tensor(2.0).log()
    tensor(1.)
    """
    return torch.special.entr(Pi).sum(-2).mean(-1)


def gates(s: Tensor, c: float = 1.0) -> Tensor:
    """D = c/(1 + c s): large moments are kept by the update, small ones are cut (lesson 5, eq. 5.4)."""
    return c / (1 + c * s)


def tssa_update(x: Tensor, Pi: Tensor, U: Tensor, eps2: float, t: float = 1.0) -> Tensor:
    """TSSA(Z) = −t Σ_k U_k D_k U_kᵀ Z Diag(π_k), the paper's operator (lesson 5, eq. 5.5).

    Equals −t·n·∇R_c^var with Π held fixed. x (…, N, d), Pi (…, K, N), U (K, d, p); t = τ/n does not depend
    on the number of tokens. Any t in (0, 2ε²/d) lowers R_c^var where the update is not zero, if the U_k are
    orthonormal, Π is held and its shares, none negative, sum to at most one for each token (lesson 5, eq. 5.9).
    """
    w = torch.einsum("...nd,kdp->...knp", x, U)  # (…, K, N, p)
    D = gates(second_moments(w, Pi, torch.finfo(w.dtype).tiny), x.shape[-1] / eps2)  # (…, K, p)
    return -t * torch.einsum("kdp,...kp,...knp,...kn->...nd", U, D, w, Pi)


def largest_safe_gamma(Pi: Tensor, U: Tensor, D: Tensor) -> Tensor:
    """2/max_j ‖A_j‖, A_j = Σ_k π_jk U_k D_k U_kᵀ: any γ in (0, this) in z + γ·TSSA(z) lowers R_c^var.

    That holds for a tied output map, with Π held, and where the update is not zero: the step-size theorem (lesson 5,
    eq. 5.9). For another output map or for new memberships it says nothing. Pi (…, K, N), U (K, d, p), D (…, K, p) → (…).

    >>> largest_safe_gamma(torch.ones(1, 5), torch.eye(2)[None], torch.ones(1, 2))
    tensor(2.)
    """
    A = torch.einsum("...kn,kdp,...kp,kep->...nde", Pi, U, D, U)  # (…, N, d, d)
    return 2 / torch.linalg.eigvalsh(A)[..., -1].amax(-1)


def tssa_literal(x: Tensor, weight: Tensor, temp: Tensor, out: Tensor, normalize: str = "tokens") -> Tensor:
    """The layer written out with loops, one term of the formula at a time: for readers and tests only.

    x (N, C), weight (C, C) the projection, temp (K, 1), out (C, C) the output map, no biases → (N, C).
    """
    N, C = x.shape
    K, p = len(temp), C // len(temp)
    U = [weight[k * p : (k + 1) * p].T for k in range(K)]  # U_k (C, p)
    size = [[sum((U[k][:, i] @ x[j]) ** 2 for j in range(N)) for i in range(p)] for k in range(K)]
    rows = []
    for j in range(N):
        logits = []
        for k in range(K):
            squares = [(U[k][:, i] @ x[j]) ** 2 for i in range(p)]
            if normalize != "none":
                squares = [q / size[k][i].clamp_min(TINY) for i, q in enumerate(squares)]
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


def _wide(w: Tensor) -> Tensor:
    """Half precision to float32: squares of |w| >= 256 overflow in float16, silently (lesson 7)."""
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


# ---- the layer --------------------------------------------------------------------------------------
class Statistics(NamedTuple):
    """What one TSSA layer computed: Pi (B, K, N), second moments and gates (B, K, p)."""

    Pi: Tensor
    second_moments: Tensor
    gates: Tensor


class TSSA(nn.Module):
    """Token Statistics Self-Attention, (B, N, dim) → (B, N, dim), linear in N (lesson 7, eq. 7.1).

    y = to_out(concat_k(−π_k · D_k · w_k)): one projection, memberships by a softmax over the heads, gates
    1/(1 + s), an output map. Residual, normalisation and positions are the caller's.

    num_heads must divide dim. `normalize` as in `memberships`; `temp` is θ's initial value. Switches back to
    the theory, one a deviation (lesson 7): `tied` takes the projection's transpose as output map, which makes
    the layer −n·∇R_c^var; `orthonormal` makes each head's projection an orthonormal basis; `c` is d/ε²;
    `mass` is added to n_k; `detach_memberships` holds Π fixed in the backward pass.

    >>> TSSA(8, 2)(torch.ones(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    fast = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        normalize: str = "tokens",
        temp: float = 1.0,
        tied: bool = False,
        orthonormal: bool = False,
        c: float = 1.0,
        mass: float = MASS,
        detach_memberships: bool = False,
    ):
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(f"expected num_heads that divides dim, got dim={dim}, num_heads={num_heads}")
        _known(normalize)
        self.fast = self.fast and normalize != "code"  # `fast_tssa` makes Π from energies alone
        self.dim, self.num_heads, self.normalize, self.tied = dim, num_heads, normalize, tied
        self.orthonormal, self.c, self.mass, self.detach_memberships = orthonormal, c, mass, detach_memberships
        self.qkv = nn.Linear(dim, dim, bias=qkv_bias)  # the published name; there is no q, k or v
        self.temp = nn.Parameter(torch.full((num_heads, 1), float(temp)))
        self.attn_drop = nn.Dropout(attn_drop)  # drops whole gates, for all tokens at once
        self.to_out = nn.Sequential(nn.Identity() if tied else nn.Linear(dim, dim), nn.Dropout(proj_drop))

    def bases(self) -> Tensor:
        """The projection [U_1ᵀ; …; U_Kᵀ] (C, C) in use."""
        W = self.qkv.weight
        return torch.linalg.qr(W.unflatten(0, (self.num_heads, -1)).mT).Q.mT.flatten(0, 1) if self.orthonormal else W

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.dim or x.shape[1] == 0 or not x.is_floating_point():
            raise ValueError(f"expected x (B, N >= 1, {self.dim}) of a floating dtype, got {tuple(x.shape)} {x.dtype}")
        return x

    def project(self, x: Tensor) -> Tensor:
        """w (B, K, N, p), a view of the projection's output."""
        x = self._checked(x)
        w = nn.functional.linear(x, self.bases(), self.qkv.bias) if self.orthonormal else self.qkv(x)
        return w.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`straightforward(x)`, computed by `fast_tssa` where that is possible."""
        if torch.compiler.is_compiling() or not (self.fast and eager(x)):  # first: it guards all that it sees
            return self.straightforward(x)
        qkv, out, drop = self.qkv, self.to_out, self.attn_drop
        whole = bare(qkv) and bare(drop, nn.Dropout) and bare(out, nn.Sequential) and len(out) == 2
        whole = whole and bare(out[0], nn.Identity if self.tied else nn.Linear) and not (self.training and drop.p > 0)
        if not whole:
            return self.straightforward(x)
        x, W = self._checked(x), self.bases()
        V, bias = (W.mT, None) if self.tied else (out[0].weight, out[0].bias)
        return out[1](
            fast_tssa(
                x,
                self.temp,
                W,
                qkv.bias,
                V,
                bias,
                normalize=self.normalize,
                c=self.c,
                mass=self.mass,
                frozen=self.detach_memberships,
            )
        )

    def straightforward(self, x: Tensor) -> Tensor:
        w = self.project(x)  # (B, K, N, p)
        if torch.compiler.is_compiling() and self.normalize != "code":
            y = fused_tssa(
                w.transpose(1, 2),
                self.temp,
                normalize=self.normalize,
                c=self.c,
                mass=self.mass,
                frozen=self.detach_memberships,
                drop=self.attn_drop,
            ).flatten(2)  # (B, N, C)
        else:
            Pi, _, D = self._statistics(w)
            y = -(w * (Pi[..., None] * self.attn_drop(D)[..., None, :])).to(w.dtype)  # (B, K, N, p)
            y = y.transpose(1, 2).flatten(2)  # (B, N, C), no copy
        return self.to_out(y @ self.bases().to(y.dtype) if self.tied else y)

    def statistics(self, x: Tensor) -> Statistics:
        """Memberships, second moments and gates for the input x (B, N, dim)."""
        return self._statistics(self.project(x))

    def _statistics(self, w: Tensor) -> Statistics:
        Pi = memberships(w, self.temp, self.normalize, self.c)  # (B, K, N)
        Pi = Pi.detach() if self.detach_memberships else Pi
        s = second_moments(w, Pi, self.mass)  # (B, K, p)
        return Statistics(Pi, s, gates(s, self.c))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, normalize={self.normalize!r}, tied={self.tied}"

    @classmethod
    def from_tost_state_dict(cls, state: dict[str, Tensor], num_heads: int) -> "TSSA":
        """The layer with the published layer's parameters, in their dtype.

        `state` holds `qkv.weight`, `temp` (heads, 1), `to_out.0.weight`, `to_out.0.bias` and may hold
        `qkv.bias`. ValueError names every entry that is missing, unknown or of another shape.
        """
        if "qkv.weight" not in state:
            missing = [k for k in ("qkv.weight", "temp", "to_out.0.weight", "to_out.0.bias") if k not in state]
            raise ValueError(f"this state dict does not fit TSSA: missing {', '.join(missing)}; got {sorted(state)}")
        layer = cls(state["qkv.weight"].shape[-1], num_heads, qkv_bias="qkv.bias" in state)
        return load_exactly(layer.to(state["qkv.weight"].dtype), state)


def load_exactly(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load a state dict, or raise a ValueError that names all missing, unknown and wrongly shaped entries."""
    own = module.state_dict()
    wrong = [f"missing {k} {tuple(own[k].shape)}" for k in own if k not in state]
    wrong += [f"unknown {k} {tuple(state[k].shape)}" for k in state if k not in own]
    wrong += [
        f"{k}: expected {tuple(own[k].shape)}, got {tuple(state[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    if wrong:
        raise ValueError(f"this state dict does not fit {type(module).__name__}: " + "; ".join(wrong))
    module.load_state_dict(state)
    return module


@contextmanager
def on_each_call(model: nn.Module, note: Callable[[str, TSSA, Tensor, Tensor], None]) -> Iterator[None]:
    """Call note(name, layer, x, output) after each pass through a TSSA of `model`; outputs stay as they are.

    It runs without gradients and with the layer in evaluation mode: a projection with batch norm would else
    count the pass twice. ValueError for a model without a TSSA.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, TSSA)}
    if not layers:
        raise ValueError(f"expected a model that holds a TSSA layer, got {type(model).__name__} without one")

    def hook(name: str):
        @torch.no_grad()
        def call(layer: TSSA, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            modes = {m: m.training for m in layer.modules()}
            layer.eval()
            try:
                note(name, layer, inputs[0], output)
            finally:
                for m, training in modes.items():
                    m.training = training

        return call

    handles = [m.register_forward_hook(hook(name)) for name, m in layers.items()]
    try:
        yield
    finally:
        for h in handles:
            h.remove()


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, list[Statistics]]]:
    """Record what every TSSA in `model` computes, by module name, one entry a call; outputs stay as they are.

    `observe.observe` records the rates and the grid of the tokens as well.

    >>> layer = nn.Sequential(TSSA(8, 2))
    >>> with record(layer) as tape: _ = layer(torch.ones(1, 5, 8))
    >>> tape["0"][0].Pi.shape
    torch.Size([1, 2, 5])
    """
    tape: dict[str, list[Statistics]] = {name: [] for name, m in model.named_modules() if isinstance(m, TSSA)}
    with on_each_call(model, lambda name, layer, x, output: tape[name].append(layer.statistics(x))):
        yield tape
