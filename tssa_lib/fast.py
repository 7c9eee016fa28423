"""The fast TSSA: the same layer as the straightforward form, in few passes over the tokens, with its gradient by hand.

Lesson 9 measures it and says where the time goes; the formulas are lesson 7's (eq. 7.1; Wu et al. 2024). It knows
nothing of layers; tests hold it equal to the straightforward and the literal form.

Three things make it fast. Squares are formed once, and the logits and second moments are matrix products with them. The
gates scale the output map, C × C numbers, instead of the tokens. No layout is copied: heads are strided views, and the
largest buffers are written over once their content is used up (each such place says so).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from tssa_lib.core import MASS, TINY, join_heads, split_heads, token_update


class Switches(NamedTuple):
    """What a layer's switches mean for its update: names and defaults are those of `core.token_statistics`."""

    normalize: str = "tokens"  # or "rms" or "none"; memberships by code length have no fast form
    c: float = 1.0
    mass: float = MASS
    detach_memberships: bool = False  # holds Π fixed in the backward pass


class Terms(NamedTuple):
    """The terms of one forward pass, kept for the backward pass. p coordinates in each of K heads."""

    Pi: Tensor  # (B, K, N), memberships
    size: Tensor | None  # (B, K, p), what each coordinate's squares are divided by; None for "none"
    total: Tensor  # (B, K, p), Σ_j π_jk w_kj² = n_k s_k
    n_k: Tensor  # (B, K, 1), Σ_j π_jk + mass
    D: Tensor  # (B, K, p), the gates over c: n_k/(n_k + c·total) = 1/(1 + c s_k)


def fast_tssa(
    x: Tensor,
    temp: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    out_bias: Tensor | None = None,
    **switches: Any,
) -> Tensor:
    """The whole layer in few passes over the tokens, equal to the straightforward one (lesson 9, eq. 9.8).

    The backward pass keeps only x, w and Π. Where it is to be differentiated itself (`create_graph=True`) it
    differentiates the straightforward form, which is right to any order, at that form's cost.

    x (B, N, C), weight (C, C), out (O, C) → (B, N, O). With weight = out = None the update alone on a projected
    map, x = w (B, C, N) → (B, C, N). float32 or float64; switches as in `Switches`.

    >>> w = torch.ones(1, 4, 9)                             # one head: Π = 1, s = 1, D = 1/2
    >>> torch.equal(fast_tssa(w, torch.ones(1, 1)), -w / 2)
    True
    """
    chosen = Switches(**switches)
    inputs = x if weight is not None else x.contiguous(), temp, weight, bias, out, out_bias
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _FastTSSA.apply(*inputs, chosen)
    return _forward(*inputs, chosen, keep=False)[0]


# ---- the forward pass -------------------------------------------------------------------------------
def _forward(x, temp, weight, bias, out, out_bias, switches: Switches, keep: bool = True):
    """The answer y, the projected tokens w and the terms; with `keep=False` w may be written over."""
    on_map = weight is None  # x is a projected map (B, C, N), and y its update
    w = x if on_map else linear(x, weight, bias)  # (B, C, N) or (B, N, C)
    heads = _heads(w, len(temp), on_map)  # (B, K, p, N)
    terms = _terms(heads, temp, switches)
    target = None if keep or on_map else heads  # u takes w's place if nobody needs w: one buffer less to fill
    u = torch.mul(heads, terms.Pi.unsqueeze(2), out=target)  # (B, K, p, N), the tokens times their memberships
    if on_map:
        return u.mul_(-switches.c * terms.D.unsqueeze(3)).view(w.shape), w, terms
    V = (out * _minus_gates(terms, switches)).mT  # (B, C, O), the gates in the output map
    u = w if target is not None else u.flatten(1, 2).mT  # (B, N, C)
    return torch.bmm(u, V) if out_bias is None else torch.baddbmm(out_bias, u, V), w, terms


def _terms(heads: Tensor, temp: Tensor, switches: Switches) -> Terms:
    w2 = heads * heads  # (B, K, p, N), the squares, once
    size = None if switches.normalize == "none" else w2.mean(-1) if switches.normalize == "rms" else w2.sum(-1)
    Pi = _row_products(square_weights(temp, size, switches, w2.shape[:3]), w2).softmax(1)  # (B, K, N), over the heads
    total, n_k = _row_products(Pi, w2.mT), Pi.sum(-1, keepdim=True) + switches.mass  # (B, K, p), (B, K, 1)
    return Terms(Pi, size, total, n_k, n_k / n_k.add(total, alpha=switches.c))


def square_weights(temp: Tensor, size: Tensor | None, switches: Switches, shape: torch.Size) -> Tensor:
    """a (B, K, p): the logits are Σ_i a_ki w_kij²."""
    if size is None:
        return temp.expand(shape).contiguous()
    return (temp / shape[2] if switches.normalize == "rms" else temp) / size.clamp(min=TINY)


def _minus_gates(terms: Terms, switches: Switches) -> Tensor:
    """−D_k side by side, as columns of the output map meet them. (B, 1, C)."""
    B, K, p = terms.D.shape
    return -switches.c * terms.D.view(B, 1, K * p)


def _heads(w: Tensor, K: int, on_map: bool) -> Tensor:
    """The heads of w, (B, C, N) of a map, else (B, N, C), as a view (B, K, p, N)."""
    if on_map:
        B, C, N = w.shape
        return w.view(B, K, C // K, N)
    B, N, C = w.shape
    return w.view(B, N, K, C // K).permute(0, 2, 3, 1)


def _row_products(a: Tensor, b: Tensor) -> Tensor:
    """Each head's row times its matrix, (B, K, q), (B, K, q, n) → (B, K, n), where `torch.matmul` would copy b."""
    B, K, q, n = b.shape
    if B == 1 or b.stride(0) == K * b.stride(1):
        return torch.bmm(a.view(B * K, 1, q), b.view(B * K, q, n)).view(B, K, n)
    return torch.stack([torch.bmm(a[:, k, None], b[:, k])[:, 0] for k in range(K)], 1)


# ---- the backward pass ------------------------------------------------------------------------------
class _FastTSSA(torch.autograd.Function):
    """`_forward` and its gradient: gates, softmax and normalisation differentiated by hand (lesson 9)."""

    @staticmethod
    def forward(ctx, x, temp, weight, bias, out, out_bias, switches):
        y, w, terms = _forward(x, temp, weight, bias, out, out_bias, switches)
        ctx.save_for_backward(x, temp, weight, bias, out, out_bias, None if weight is None else w, *terms)
        ctx.switches = switches
        return y

    @staticmethod
    def backward(ctx, g):
        x, temp, weight, bias, out, out_bias, w, *terms = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated: `create_graph`
            own = x, temp, weight, bias, out, out_bias
            return *differentiable(ctx, g, own, lambda own: _straightforward(own, ctx.switches)), None
        if weight is None:
            dw, dtemp = _backward_of_map(g, x, temp, Terms(*terms), ctx.switches)
            return dw, dtemp, *[None] * 5
        dw, dtemp, dout = _backward_of_tokens(g, w, temp, out, Terms(*terms), ctx.switches)
        return (
            dw @ weight,
            dtemp,
            dw.flatten(0, 1).mT @ x.flatten(0, 1),
            dw.sum((0, 1)) if ctx.needs_input_grad[3] else None,
            dout,
            g.sum((0, 1)) if ctx.needs_input_grad[5] else None,
            None,
        )


def _backward_of_map(g, x, temp, terms: Terms, switches: Switches) -> tuple[Tensor, Tensor | None]:
    """From the gradient of the update alone, on a map x = w (B, C, N): of w and of the temperature."""
    heads = _heads(x, len(temp), True)  # (B, K, p, N)
    g = g.reshape(x.shape).view(heads.shape)
    u = heads * terms.Pi.unsqueeze(2)  # (B, K, p, N)
    du = g * (-switches.c * terms.D.unsqueeze(3))  # (B, K, p, N), y = −c D u
    dD = u.mul_(g).sum(-1)  # (B, K, p), of −c D
    dw, dtemp = _backward_of_update(du, dD, heads, temp, terms, switches, spare=u)
    return dw.view(x.shape), dtemp


def _backward_of_tokens(g, w, temp, out, terms: Terms, switches: Switches):
    """From the gradient of the layer: of w (B, N, C), of the temperature and of the output map."""
    heads, minus_D = _heads(w, len(temp), False), _minus_gates(terms, switches)  # (B, K, p, N), (B, 1, C)
    u = heads * terms.Pi.unsqueeze(2)  # (B, K, p, N)
    G = torch.bmm(g.mT, u.flatten(1, 2).mT)  # (B, O, C), y = u (out · minus_D)ᵀ
    du = _heads(torch.bmm(g, out * minus_D), len(temp), False)  # (B, K, p, N)
    dD, dout = (G * out).sum(1).view_as(terms.D), (G * minus_D).sum(0)  # (B, K, p), of −c D; (O, C)
    dw, dtemp = _backward_of_update(du, dD, heads, temp, terms, switches, spare=u)
    return dw.flatten(1, 2).mT, dtemp, dout


def _backward_of_update(du, dD, w, temp, terms: Terms, switches: Switches, spare: Tensor):
    """From du, of u = w·Π, and dD, of −c D: the gradients of w (B, K, p, N) and of the temperature.

    dw = du Π + 2w(Π dtotal + dlogits a + dsize). `du` and `spare`, a buffer as large as w whose content is used up, are
    written over: at these sizes a fresh buffer costs more than the arithmetic that fills it.
    """
    Pi, size, total, n_k, D = terms
    Pi_ = Pi.unsqueeze(2)  # (B, K, 1, N)
    dtotal, dn = through_gates(dD, total, n_k, D, switches.c)  # (B, K, p), (B, K, 1)
    dw = du * Pi_
    if switches.detach_memberships:
        return dw.addcmul_(torch.mul(Pi_, dtotal.unsqueeze(3), out=spare), w, value=2), None
    # through Π = softmax(logits)
    w2 = torch.mul(w, w, out=spare)
    dPi = du.mul_(w).sum(2).add_(_row_products(dtotal, w2)).add_(dn)  # (B, K, N)
    dlogits = dPi.sub_((dPi * Pi).sum(1, keepdim=True)).mul_(Pi)  # (B, K, N)
    # through logits = Σ_i a w²
    a = square_weights(temp, size, switches, dD.shape)  # (B, K, p)
    dtemp, dsize = through_weights(_row_products(dlogits, w2.mT), a, temp, size, switches, Pi.shape[-1])
    weight = torch.addcmul(dsize.unsqueeze(3), Pi_, dtotal.unsqueeze(3), out=spare)  # (B, K, p, N), w2 is used up
    weight.addcmul_(dlogits.unsqueeze(2), a.unsqueeze(3))
    return dw.addcmul_(weight, w, value=2), dtemp


def through_gates(dD: Tensor, total: Tensor, n_k: Tensor, D: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """From dD, of −c D = −c n/(n + c·total): the gradients of total (B, K, p) and of n (B, K, 1)."""
    slope = dD * D * D / n_k  # (B, K, p)
    return c * c * slope, -c * c * (slope * total).sum(-1, keepdim=True) / n_k


def through_weights(da, a, temp, size: Tensor | None, switches: Switches, N: int) -> tuple[Tensor, Tensor]:
    """From da, of a = θ/size (over p as well for "rms"): the gradients of the temperature and of Σ_j w²."""
    if size is None:
        dtemp, dsize = da, torch.zeros_like(da)
    else:
        dtemp = da * square_weights(torch.ones_like(temp), size, switches, da.shape)
        dsize = (-da * a / size.clamp(min=TINY)).masked_fill_(size <= TINY, 0)
        dsize = dsize / N if switches.normalize == "rms" else dsize  # a mean over the tokens
    return dtemp.sum((0, 2)).unsqueeze(1), dsize


# ---- derivatives of the backward pass ---------------------------------------------------------------
def differentiable(ctx, g: Tensor, inputs, straightforward: Callable[[list], Tensor]) -> list[Tensor | None]:
    """The gradients as functions of g and of all inputs, by way of the straightforward form of these inputs."""
    own = [None if t is None else t.view_as(t) for t in inputs]  # so that no input is reached through another one
    wanted = {i: t for i, t in enumerate(own) if t is not None and ctx.needs_input_grad[i]}
    y = straightforward(own)
    found = torch.autograd.grad(y, list(wanted.values()), g, create_graph=True, allow_unused=True)
    gradients = dict(zip(wanted, found))
    return [gradients.get(i) for i in range(len(own))]


def _straightforward(inputs, switches: Switches) -> Tensor:
    x, temp, weight, bias, out, out_bias = inputs
    if weight is None:
        w = x.unflatten(1, (len(temp), -1)).mT  # (B, K, N, p)
        return token_update(w, temp, **switches._asdict()).mT.flatten(1, 2)  # (B, C, N)
    w = split_heads(linear(x, weight, bias), len(temp))  # (B, K, N, p)
    return linear(join_heads(token_update(w, temp, **switches._asdict())), out, out_bias)  # (B, N, O)
