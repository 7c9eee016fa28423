"""The fast TSSA: the same layer as `tssa.TSSA`'s straightforward form, in few passes over the tokens.

Lesson 9 measures it and says where the time goes; the formulas are lesson 7's (eq. 7.1; Wu et al. 2024). It stands
below `tssa.py` and knows nothing of layers; tests hold it equal to the straightforward and the literal form.
"""

from functools import reduce

import torch
from torch import Tensor, nn

MASS = 1e-8   # added to n_k, as in the published layer: a head without members gets s = 0
TINY = 1e-24  # floor of a coordinate's token norm squared: a dead channel gives logit 0, not 0/0

BLOCK = 2 ** 18  # numbers a step works on: 1 MiB in float32, what stays in a core's cache between two passes


def fast_tssa(x: Tensor, temp: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, out: Tensor | None = None,
              out_bias: Tensor | None = None, *, normalize: str = "tokens", c: float = 1.0, mass: float = MASS,
              frozen: bool = False) -> Tensor:
    """The whole layer in few passes over the tokens, equal to the straightforward `TSSA.forward` (lesson 9).

    Squares are formed once, and the logits and second moments are matrix products with them; the gates scale the
    output map, C × C numbers, instead of the tokens; tokens are the last axis, which is the one that all loops
    run over; and a step works on `BLOCK` numbers, so that a pass finds them in the cache. The backward pass is
    written by hand and keeps only x, w and Π. There are no second derivatives: use the straightforward layer.

    x (B, N, C), weight (C, C), out (O, C) → (B, N, O). With weight = out = None the update alone on a projected
    map, x = w (B, C, N) → (B, C, N). float32 or float64; `frozen` holds Π fixed in the backward pass.

    >>> w = torch.ones(1, 4, 9)                             # one head: Π = 1, s = 1, D = 1/2
    >>> torch.equal(fast_tssa(w, torch.ones(1, 1)), -w / 2)
    True
    """
    inputs = x if weight is not None else x.contiguous(), temp, weight, bias, out, out_bias
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _FastTSSA.apply(*inputs, normalize, c, mass, frozen)
    return _fast_forward(*inputs, normalize, c, mass, keep=False)[0]


def eager(x: Tensor) -> bool:
    """Whether `fast_tssa` can take x: not compiled, exported, traced or transformed by torch.func, no half precision."""
    special = (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
               or torch._C._are_functorch_transforms_active())
    return (not special and x.dtype in (torch.float32, torch.float64) and x.device.type in ("cpu", "cuda")
            and not torch.is_autocast_enabled(x.device.type))


def bare(m: nn.Module | None) -> bool:
    """Whether m is a linear layer that nobody replaced, parametrised or hooked."""
    return type(m) is nn.Linear and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)


def _sizes(x: Tensor, K: int, weight: Tensor | None) -> tuple[int, int, int, int, int, int]:
    """B, N, C, K, p, and the tokens of a step: all of a map, and all on a device that is not the CPU."""
    B, N, C = x.shape if weight is not None else x.mT.shape
    return B, N, C, K, C // K, N if weight is None or x.device.type != "cpu" else max(256, BLOCK // max(B * C, 1))


def _add(parts: list[Tensor]) -> Tensor:
    return reduce(Tensor.add, parts)


def _over_images(t: Tensor) -> Tensor:
    return t[0] if len(t) == 1 else t.sum(0)


def _fast_forward(x, temp, weight, bias, out, out_bias, normalize, c, mass, keep=True):
    B, N, C, K, p, step = _sizes(x, len(temp), weight)
    xs, ws = (x,) if N <= step else x.split(step, 1), [x]
    if weight is not None:
        W = weight.expand(B, C, C)
        ws = [torch.bmm(W, x.mT) if bias is None else torch.baddbmm(bias[:, None], W, x.mT) for x in xs]  # (B, C, n)
    w2, m, a, Pis, masses, moments = ws[0] * ws[0], None, temp.expand(B, K, p), [], [], []
    if normalize != "none":
        m = w2.sum(-1) if len(ws) == 1 else _add([torch.linalg.vector_norm(w, dim=-1).square() for w in ws])
        a = (temp if normalize == "tokens" else temp * (N / p)) / m.view(B, K, p).clamp_min(TINY)
    a = a.reshape(B * K, 1, p)
    for w in ws:
        w2 = (w2 if len(ws) == 1 else w * w).view(B * K, p, w.shape[-1])        # the squares, once
        Pi = torch.bmm(a, w2).view(B, K, w.shape[-1]).softmax(1)                # (B, K, n), over the K heads
        moments.append(torch.bmm(Pi.view(B * K, 1, w.shape[-1]), w2.mT))        # (B·K, 1, p), n_k s_k
        masses.append(Pi.sum(-1, keepdim=True))                                 # (B, K, 1)
        Pis.append(Pi)
    s, n_k = _add(moments).view(B, K, p), _add(masses) + mass
    D = n_k / n_k.add(s, alpha=c)                                               # (B, K, p), the gates without their c
    if weight is None:
        y = (x.view(B, K, p, N) * Pi.unsqueeze(2)).mul_(-c * D.unsqueeze(3)).view(B, C, N)
        return y, ws, Pis, m, s, n_k, D
    V = (out * D.view(B, 1, C)).mT                                              # (B, C, O), gates in the output map
    y, out_bias = x.new_empty(B, N, len(out)), x.new_zeros(()) if out_bias is None else out_bias
    for w, Pi, part in zip(ws, Pis, (y,) if N <= step else y.split(step, 1)):
        heads = w.view(B, K, p, w.shape[-1])
        u = torch.mul(heads, Pi.unsqueeze(2), out=None if keep else heads)      # w is needed no more: in its place
        torch.baddbmm(out_bias, u.view(w.shape).mT, V, alpha=-c, out=part)
    return y, ws, Pis, m, s, n_k, D


class _FastTSSA(torch.autograd.Function):
    """`_fast_forward` and its gradient: gates, softmax and normalisation differentiated by hand (lesson 9)."""

    @staticmethod
    def forward(ctx, x, temp, weight, bias, out, out_bias, normalize, c, mass, frozen):
        y, ws, Pis, *rest = _fast_forward(x, temp, weight, bias, out, out_bias, normalize, c, mass)
        ctx.save_for_backward(x, temp, weight, out, *rest, *Pis, *(ws if weight is not None else ()))
        ctx.switches = normalize, c, frozen
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, temp, weight, out, m, s, n_k, D, *kept = ctx.saved_tensors
        normalize, c, frozen = ctx.switches
        B, N, C, K, p, step = _sizes(x, len(temp), weight)
        Pis, ws = (kept, [x]) if weight is None else (kept[:len(kept) // 2], kept[len(kept) // 2:])
        heads = [w.view(B, K, p, w.shape[-1]) for w in ws]                      # (B, K, p, n) each
        xs, gs = ((x,), (g,)) if N <= step else (x.split(step, 1), g.split(step, 1))
        # dys: of w·Π, through the output map; dD: of the gates
        if weight is None:
            dys, dout = [g.reshape(B, K, p, N) * (-c * D.unsqueeze(3))], None
            dD = (heads[0] * Pis[0].unsqueeze(2)).mul_(g.reshape(B, K, p, N)).sum(-1)
        else:
            minus_D = -c * D.view(B, 1, C)
            V = (out * minus_D).mT                                              # (B, C, O)
            G = _add([torch.bmm(g.mT, (w * Pi.unsqueeze(2)).view(B, C, g.shape[1]).mT)
                      for w, Pi, g in zip(heads, Pis, gs)])                     # (B, O, C)
            dys = [torch.bmm(V, g.mT).view(B, K, p, g.shape[1]) for g in gs]
            dD, dout = (G * out).sum(1).view(B, K, p), _over_images(G * minus_D)
        # ds, dn: through c D = c n/(n + c s); dls: of the logits, through the softmax; da: of their weights a
        dD = dD * D * D / n_k                                                   # dD here is of −c D
        ds, dn, das, dls = c * c * dD, -c * c * (dD * s).sum(-1, keepdim=True) / n_k, [], []
        for w, Pi, dy in zip(heads, Pis, dys):
            if frozen:
                dls.append(torch.zeros_like(Pi))
                continue
            dPi = torch.addcmul(dy, w, ds.unsqueeze(3)).mul_(w).sum(2).add_(dn)  # (B, K, n)
            dls.append(dPi.sub_((dPi * Pi).sum(1, keepdim=True)).mul_(Pi))
            das.append(torch.bmm(dls[-1].view(B * K, 1, w.shape[-1]), (w * w).view(B * K, p, w.shape[-1]).mT))
        da = torch.zeros_like(s) if frozen else _add(das).view(B, K, p)
        # a = temp / m, m the sums of squares; then dw = 2w(Π ds + dl a + dm) + dy Π, and the projection
        a, dtemp, dm = temp.expand(B, K, p), da, torch.zeros_like(s)
        if normalize != "none":
            m, scale = m.view(B, K, p), 1 if normalize == "tokens" else N / p
            a, dtemp = scale * temp / m.clamp_min(TINY), scale * da / m.clamp_min(TINY)
            dm = (dtemp * a).div_(-scale).masked_fill_(m <= TINY, 0)
        dtemp = None if frozen else dtemp.sum((0, 2)).unsqueeze(1)
        three, ones = 2 * torch.stack([ds, a, dm], -1).view(B * K, p, 3), torch.ones_like(Pis[0])
        dx, dweights, dbias = torch.empty_like(x), [], []
        for i, (w, Pi, dy, dl, x) in enumerate(zip(heads, Pis, dys, dls, xs)):
            n = w.shape[-1]
            dw = torch.bmm(three, torch.stack([Pi, dl, ones[..., :n]], 2).view(B * K, 3, n)).view(B, K, p, n)
            dw = dw.mul_(w).addcmul_(dy, Pi.unsqueeze(2)).view(B, C, n)
            if weight is None:
                return dw, dtemp, *[None] * 8
            dweights.append(torch.bmm(dw, x))                                   # (B, C, C)
            dbias.append(dw.sum((0, 2)) if ctx.needs_input_grad[3] else None)
            torch.bmm(dw.mT, weight.expand(B, C, C), out=dx[:, i * step:i * step + n])
        return (dx, dtemp, _over_images(_add(dweights)), _add(dbias) if ctx.needs_input_grad[3] else None, dout,
                g.sum((0, 1)) if ctx.needs_input_grad[5] else None, *[None] * 4)
