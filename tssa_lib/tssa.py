"""The layer that people run: TSSA, its switches, and what it computed on its way.

`core` has the operator on projected tokens, `fast` the same in few passes; lesson 7 derives the layer. Source: Wu et
al. 2024, "Token Statistics Transformer" (ToST), and its published layer, whose parameter names are kept here.
"""

from math import isfinite
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from tssa_lib.core import (  # noqa: F401  (all of the operator can be had from here)
    MASS,
    TINY,
    Statistics,
    check_heads,
    check_normalize,
    check_tokens,
    entropy,
    gated,
    gates,
    join_heads,
    largest_safe_gamma,
    memberships,
    moments_rate,
    second_moments,
    split_heads,
    token_statistics,
    token_update,
    tssa_literal,
    tssa_update,
)
from tssa_lib.fast import Switches, fast_tssa
from tssa_lib.forms import is_plain, kernels_run, supports_fast_path


class TokenStatistics(nn.Module):
    """What layers of TSSA share: the temperature, the switches, statistics, and the straightforward form (eq. 7.1).

    A layer says how it projects (`project`, `bases`) and how it maps out (`output`), and may know a fast path.
    Switches back to the theory, one a deviation (lesson 7): `tied` takes the projection's transpose as output map,
    which makes the layer −n·∇R_c^var; `c` is d/ε²; `mass` is added to n_k; `detach_memberships` holds Π fixed in the
    backward pass. `normalize` as in `memberships`; `temp` is θ's initial value. Set `fast` to False and a layer never
    leaves the straightforward form.
    """

    fast = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        normalize: str = "tokens",
        temp: float = 1.0,
        tied: bool = False,
        c: float = 1.0,
        mass: float = MASS,
        detach_memberships: bool = False,
    ):
        super().__init__()
        check_heads(dim, num_heads)
        check_normalize(normalize)
        if not (isfinite(temp) and isfinite(c) and c > 0 and isfinite(mass) and mass >= 0):
            raise ValueError(f"expected finite temp, c > 0 and mass >= 0, got temp={temp}, c={c}, mass={mass}")
        self.dim, self.num_heads, self.normalize, self.tied = dim, num_heads, normalize, tied
        self.c, self.mass, self.detach_memberships = c, mass, detach_memberships
        self.temp = nn.Parameter(torch.full((num_heads, 1), float(temp)))

    def project(self, x: Tensor) -> Tensor:
        """The projected tokens w (B, K, N, p), a view of the projection's output."""
        raise NotImplementedError

    def bases(self) -> Tensor:
        """The projection [U_1ᵀ; …; U_Kᵀ] (C, d) in use."""
        raise NotImplementedError

    def output(self, y: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """What the layer answers with, from the update y and the projected tokens w (B, K, N, p) of its input x."""
        raise NotImplementedError

    @property
    def U(self) -> Tensor:
        """The heads' bases U_k, (K, d, p): w_k = U_kᵀ Z."""
        return self.bases().unflatten(0, (self.num_heads, -1)).transpose(-2, -1)

    @property
    def switches(self) -> dict:
        """The keywords of `token_statistics`, `token_update` and `fast_tssa`."""
        return {name: getattr(self, name) for name in Switches._fields}

    def statistics(self, x: Tensor) -> Statistics:
        """Memberships, second moments and gates for the layer's input x."""
        return self._statistics(self.project(x))

    def _statistics(self, w: Tensor) -> Statistics:
        return token_statistics(w, self.temp, **self.switches)

    def drop_gates(self, D: Tensor) -> Tensor:
        return D

    def straightforward(self, x: Tensor) -> Tensor:
        """The layer term by term: what compiled and exported layers run, and half precision without a GPU.

        A compiled layer takes new sizes N without being compiled again for each, unless `dynamic=False` forbids it.
        """
        w = self.project(x)  # (B, K, N, p)
        Pi, _, D = self._statistics(w)  # (B, K, N), (B, K, p)
        return self.output(gated(w, Pi, self.drop_gates(D)), w, x)

    def in_kernels(self, x: Tensor) -> Tensor:
        """The layer with Triton's kernels for its update: what runs on a GPU, under autocast, too."""
        from tssa_lib.fused import fused_update

        w = self.project(x)  # (B, K, N, p)
        return self.output(fused_update(w, self.temp, **self.switches), w, x)

    def fast_path_applies(self, x: Tensor) -> bool:
        """Whether `in_kernels` on a GPU, else `fast_tssa`, computes the same for x as `straightforward`."""
        return supports_fast_path(x) and self.fast and self.normalize != "code"

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, normalize={self.normalize!r}, tied={self.tied}"


class TSSA(TokenStatistics):
    """Token Statistics Self-Attention, (B, N, dim) → (B, N, dim), linear in N (lesson 7, eq. 7.1).

    y = to_out(concat_k(−π_k · D_k · w_k)): one projection, memberships by a softmax over the heads, gates
    1/(1 + s), an output map. Residual, normalisation and positions are the caller's.

    num_heads must divide dim. `orthonormal` makes each head's projection an orthonormal basis; all other switches are
    those of `TokenStatistics`.

    >>> TSSA(8, 2)(torch.ones(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        orthonormal: bool = False,
        **switches,
    ):
        super().__init__(dim, num_heads, **switches)
        self.orthonormal = orthonormal
        self.qkv = nn.Linear(dim, dim, bias=qkv_bias)  # the published name; there is no q, k or v
        self.attn_drop = nn.Dropout(attn_drop)  # drops whole gates, for all tokens at once
        self.to_out = nn.Sequential(nn.Identity() if self.tied else nn.Linear(dim, dim), nn.Dropout(proj_drop))

    def bases(self) -> Tensor:
        W = _tensor(self.qkv.weight)
        if not self.orthonormal:
            return W
        return torch.linalg.qr(W.unflatten(0, (self.num_heads, -1)).transpose(-2, -1)).Q.transpose(-2, -1).flatten(0, 1)

    def project(self, x: Tensor) -> Tensor:
        check_tokens(x, self.dim)
        w = nn.functional.linear(x, self.bases(), _tensor(self.qkv.bias)) if self.orthonormal else self.qkv(x)
        return split_heads(w, self.num_heads)

    def drop_gates(self, D: Tensor) -> Tensor:
        return self.attn_drop(D)

    def output(self, y: Tensor, w: Tensor, x: Tensor) -> Tensor:
        y = join_heads(y)  # (B, N, C)
        return self.to_out(y @ self.bases().to(y.dtype) if self.tied else y)

    def fast_path_applies(self, x: Tensor) -> bool:
        """Also: every module of the layer is its own, which nobody replaced or hooked, and no gate is dropped."""
        if not super().fast_path_applies(x):  # first: a compiler would guard all that follows
            return False
        drop, out = self.attn_drop, self.to_out
        whole = is_plain(self.qkv) and is_plain(drop, nn.Dropout) and is_plain(out, nn.Sequential) and len(out) == 2
        return (
            whole and is_plain(out[0], nn.Identity if self.tied else nn.Linear) and not (self.training and drop.p > 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.fast_path_applies(x):
            return self.straightforward(x)
        if kernels_run(x.device):
            return self.in_kernels(x)
        check_tokens(x, self.dim)
        W = self.bases()
        out, drop = cast(tuple[nn.Linear, nn.Dropout], self.to_out)  # the identity if tied
        V, bias = (W.mT, None) if self.tied else (out.weight, out.bias)
        return drop(fast_tssa(x, self.temp, W, self.qkv.bias, V, bias, **self.switches))

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


def _tensor(parameter: Any) -> Any:
    """A projection's weight or bias: a method, once `quantize_dynamic` has replaced the projection."""
    value = parameter() if callable(parameter) else parameter
    return value.dequantize() if isinstance(value, Tensor) and value.is_quantized else value


Layer = TypeVar("Layer", bound=nn.Module)


def load_exactly(module: Layer, state: dict[str, Tensor]) -> Layer:
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
