"""The fast TSSA: the same layer as `tssa.TSSA`'s straightforward form, in few passes over the tokens.

Lesson 9 measures it and says where the time goes; the formulas are lesson 7's (eq. 7.1; Wu et al. 2024). It stands
below `tssa.py` and knows nothing of layers; tests hold it equal to the straightforward and the literal form.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

MASS = 1e-8  # added to n_k, as in the published layer: a head without members gets s = 0
TINY = 1e-24  # floor of a coordinate's token norm squared: a dead channel gives logit 0, not 0/0


def fast_tssa(
    x: Tensor,
    temp: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    out_bias: Tensor | None = None,
    *,
    normalize: str = "tokens",
    c: float = 1.0,
    mass: float = MASS,
    frozen: bool = False,
) -> Tensor:
    """The whole layer in few passes over the tokens, equal to the straightforward `TSSA.forward` (lesson 9).

    Squares are formed once, and the logits and second moments are matrix products with them; the gates scale the
    output map, C × C numbers, instead of the tokens; no layout is copied, heads are strided views. The backward pass
    is written by hand and keeps only x, w and Π. There are no second derivatives: use the straightforward layer.

    x (B, N, C), weight (C, C), out (O, C) → (B, N, O). With weight = out = None the update alone on a projected
    map, x = w (B, C, N) → (B, C, N). float32 or float64; `frozen` holds Π fixed in the backward pass.

    >>> w = torch.ones(1, 4, 9)                             # one head: Π = 1, s = 1, D = 1/2
    >>> torch.equal(fast_tssa(w, torch.ones(1, 1)), -w / 2)
    True
    """
    inputs = x if weight is not None else x.contiguous(), temp, weight, bias, out, out_bias
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _FastTSSA.apply(*inputs, normalize, c, mass, frozen)
    return _forward(*inputs, normalize, c, mass, keep=False)[0]


def fused_tssa(
    w: Tensor,
    temp: Tensor,
    *,
    normalize: str = "tokens",
    c: float = 1.0,
    mass: float = MASS,
    frozen: bool = False,
    drop: Callable[[Tensor], Tensor] = lambda D: D,
) -> Tensor:
    """The update on w (B, N, K, p), in the sums that `torch.compile` fuses best: four loops over the tokens (lesson 9).

    Every sum keeps its axis, Π lies beside its token, and the moments are divided by n_k after their sum, so that
    both take one loop. `drop` is applied to the gates; half precision is widened to float32. (B, N, K, p).

    >>> fused_tssa(torch.ones(1, 9, 1, 4), torch.ones(1, 1))[0, 0]
    tensor([[-0.5000, -0.5000, -0.5000, -0.5000]])
    """
    v = w if w.dtype in (torch.float32, torch.float64) else w.float()
    w2, a = v * v, temp
    if normalize != "none":
        a = temp / w2.sum(1, keepdim=True).clamp_min(TINY) * (1 if normalize == "tokens" else w.shape[1] / w.shape[3])
    Pi = (w2 * a).sum(3, keepdim=True).softmax(2)  # (B, N, K, 1), over the K heads
    Pi = Pi.detach() if frozen else Pi
    n_k = Pi.sum(1, keepdim=True) + mass  # (B, 1, K, 1)
    D = c * n_k / (n_k + c * (Pi * w2).sum(1, keepdim=True))  # (B, 1, K, p)
    return (-v * Pi * drop(D)).to(w.dtype)


def eager(x: Tensor) -> bool:
    """Whether `fast_tssa` can take x: not compiled, exported, traced or transformed by torch.func, no half precision."""
    special = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return (
        not special
        and x.dtype in (torch.float32, torch.float64)
        and x.device.type in ("cpu", "cuda")
        and not torch.is_autocast_enabled(x.device.type)
    )


def bare(m: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether m is the layer's own module of this kind, which nobody replaced, parametrised or hooked."""
    return type(m) is kind and not (
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    )


def _heads(w: Tensor, K: int, tokens_first: bool) -> Tensor:
    """w (B, N, C) or (B, C, N) as a view (B, K, p, N)."""
    B, n, m = w.shape
    return w.view(B, n, K, m // K).permute(0, 2, 3, 1) if tokens_first else w.view(B, K, n // K, m)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """(B, K, q), (B, K, q, n) → (B, K, n): products that `torch.matmul` makes by copying a strided b."""
    B, K, q, n = b.shape
    if B == 1 or b.stride(0) == K * b.stride(1):
        return torch.bmm(a.view(B * K, 1, q), b.view(B * K, q, n)).view(B, K, n)
    return torch.stack([torch.bmm(a[:, k, None], b[:, k])[:, 0] for k in range(K)], 1)


def _forward(x, temp, weight, bias, out, out_bias, normalize, c, mass, keep=True):
    w = x if weight is None else linear(x, weight, bias)  # (B, C, N) or (B, N, C)
    heads = _heads(w, len(temp), weight is not None)  # (B, K, p, N)
    B, K, p, N = heads.shape
    w2 = heads * heads  # the squares, once
    m = w2.sum(-1) if normalize != "none" else None  # (B, K, p)
    a = (
        temp.expand(B, K, p).contiguous()
        if m is None
        else (temp if normalize == "tokens" else temp * (N / p)) / m.clamp_min(TINY)
    )
    Pi = _products(a, w2).softmax(1)  # (B, K, N), over the K heads
    s, n_k = _products(Pi, w2.mT), Pi.sum(-1, keepdim=True) + mass  # (B, K, p), n_k s_k; (B, K, 1)
    D = n_k / n_k.add(s, alpha=c)  # (B, K, p), the gates without their c
    u = torch.mul(heads, Pi.unsqueeze(2), out=None if keep or weight is None else heads)  # in w's place if it can go
    if weight is None:
        y = u.mul_(-c * D.unsqueeze(3)).view(w.shape)
    else:
        V = (out * (-c * D.view(B, 1, K * p))).mT  # (B, C, O), gates in the output map
        u = u.flatten(1, 2).mT if keep else w  # (B, N, C)
        y = torch.bmm(u, V) if out_bias is None else torch.baddbmm(out_bias, u, V)
    return y, w, Pi, m, s, n_k, D


class _FastTSSA(torch.autograd.Function):
    """`_forward` and its gradient: gates, softmax and normalisation differentiated by hand (lesson 9)."""

    @staticmethod
    def forward(ctx, x, temp, weight, bias, out, out_bias, normalize, c, mass, frozen):
        y, w, *rest = _forward(x, temp, weight, bias, out, out_bias, normalize, c, mass)
        ctx.save_for_backward(x, temp, weight, out, None if weight is None else w, *rest)
        ctx.switches = normalize, c, frozen
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, temp, weight, out, w, Pi, m, s, n_k, D = ctx.saved_tensors
        normalize, c, frozen = ctx.switches
        heads = _heads(x if weight is None else w, len(temp), weight is not None)
        (B, K, p, N), Pi_ = heads.shape, Pi.unsqueeze(2)  # Pi_ (B, K, 1, N)
        dout, u = None, heads * Pi_
        # dy: of w·Π, through the output map; dD: of the gates
        if weight is None:
            g = g.reshape(x.shape).view(B, K, p, N)
            dy, dD = g * (-c * D.unsqueeze(3)), u.mul_(g).sum(-1)
        else:
            minus_D = -c * D.view(B, 1, K * p)
            G = torch.bmm(g.mT, u.flatten(1, 2).mT)  # (B, O, C)
            dy = _heads(torch.bmm(g, out * minus_D), K, True)
            dD, dout = (G * out).sum(1).view(B, K, p), (G * minus_D).sum(0)
        # ds, dn: through c D = c n/(n + c s); dl: of the logits, through the softmax; da: of their weights a
        dD = dD * D * D / n_k  # dD here is of −c D
        ds, dw = c * c * dD, dy * Pi_
        # a = temp / m, m the sums of squares; then dw = 2w(Π ds + dl a + dm) + dy Π, and the projection
        a, dm, dtemp = temp.expand(B, K, p), torch.zeros_like(s), None
        if not frozen:
            w2, dn = torch.mul(heads, heads, out=u), -c * c * (dD * s).sum(-1, keepdim=True) / n_k
            dPi = dy.mul_(heads).sum(2).add_(_products(ds, w2)).add_(dn)  # (B, K, N)
            dl = dPi.sub_((dPi * Pi).sum(1, keepdim=True)).mul_(Pi)
            da = dtemp = _products(dl, w2.mT)  # (B, K, p)
            if normalize != "none":
                scale = 1 if normalize == "tokens" else N / p
                a, dtemp = scale * temp / m.clamp_min(TINY), scale * da / m.clamp_min(TINY)
                dm = (dtemp * a).mul_(-1 / scale).masked_fill_(m <= TINY, 0)
            dtemp = dtemp.sum((0, 2)).unsqueeze(1)
        t = torch.addcmul(dm.unsqueeze(3), Pi_, ds.unsqueeze(3), out=u)
        if not frozen:
            t.addcmul_(dl.unsqueeze(2), a.unsqueeze(3))
        dw = dw.addcmul_(t, heads, value=2).flatten(1, 2)  # (B, C, N)
        if weight is None:
            return dw.reshape(x.shape), dtemp, *[None] * 8
        dw = dw.mT  # (B, N, C)
        return (
            dw @ weight,
            dtemp,
            dw.flatten(0, 1).mT @ x.flatten(0, 1),
            dw.sum((0, 1)) if ctx.needs_input_grad[3] else None,
            dout,
            g.sum((0, 1)) if ctx.needs_input_grad[5] else None,
            *[None] * 4,
        )
