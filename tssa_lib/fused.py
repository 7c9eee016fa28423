"""The update on a GPU, by Triton: six small kernels that read the tokens from memory as seldom as the formula allows.

Memory is the limit there (lesson 9): the update takes a dozen operations for each number that it fetches, where a GPU
could do hundreds. So nothing is written that can be computed again. A program takes tiles of tokens, (TOKENS, WIDTH,
HEADS) numbers, widens them to float32, forms squares and memberships in registers and leaves sums over its own tokens
alone. Between two kernels these partial sums are added up in one order, so that a run can be repeated to the last bit.

    forward   _sizes     Σ_j w²               1 read  (not for normalize="none")
              _moments   Σ_j π w², Σ_j π      1 read
              _gated     −π D w               1 read, 1 write
    backward  _gate_sums, _weight_sums, _gradient: 2 reads each, of w and of the gradient, and 1 write

For the backward pass w alone is kept, in its own dtype, and K·p sums. Tiles are padded to powers of two, as Triton
wants them, and masked. A kernel is compiled once for each dtype, K and p, and a few times more, for whether N and the
strides are multiples of 16 and for N that fill no tile: never for each N. Import this file where Triton is there;
`forms.kernels_run` asks. The formulas are those of `core` (Wu et al. 2024), the derivatives those of `fast`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tssa_lib.core import token_update
from tssa_lib.fast import Switches, differentiable, square_weights, through_gates, through_weights

TILE, WARPS = 8192, 8  # numbers of a tile, 32 for each thread
LARGEST_GRID = 65535  # pictures at once: the second size of a grid
PROGRAMS = 2048  # about so many at most, each with several tiles: no processor idles, and partial sums are few


def fused_update(w: Tensor, temp: Tensor, **switches: Any) -> Tensor:
    """`core.token_update` by kernels: w (B, K, N, p) → (B, K, N, p), in the dtype and the memory layout of w.

    float16, bfloat16 and float32 are summed in float32, float64 in float64. w may lie in memory in any order, tokens
    first or channels first; only one with gaps is copied. Second derivatives are those of `token_update`; switches as
    in `fast.Switches`.
    """
    chosen = Switches(**switches)
    if _has_gaps(w):
        w = w.contiguous()
    far = sum((n - 1) * step for n, step in zip(w.shape[1:], w.stride()[1:]))  # a picture's last number
    too_large = len(w) > LARGEST_GRID or far >= 2**31  # for a grid, for int32
    if w.numel() == 0 or too_large or _plan(w).heads * _plan(w).width > 2 * TILE:  # or for the registers
        return token_update(w, temp, **chosen._asdict())
    return _FusedUpdate.apply(w, temp, chosen)


# ---- what the kernels share -------------------------------------------------------------------------
@triton.jit
def _share(REVERSED: tl.constexpr):
    """The picture of this program, and its first tile. Every second pass goes through the pictures from the last one
    to the first: what the pass before it read last is still in the cache."""
    b = tl.program_id(1)
    if REVERSED:
        b = tl.num_programs(1) - 1 - b
    return b.to(tl.int64), tl.program_id(0)


@triton.jit
def _coordinates(K: tl.constexpr, p: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """Where a picture's K·p statistics lie, and which are there. (1, WIDTH, HEADS)."""
    k, i = tl.arange(0, HEADS)[None, None, :], tl.arange(0, WIDTH)[None, :, None]
    return k * p + i, (k < K) & (i < p)


@triton.jit
def _places(tile, N, n_stride, k_stride, i_stride, K: tl.constexpr,
            p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Where a tile's numbers lie, and which are there. (TOKENS, WIDTH, HEADS)."""
    j = tile * TOKENS + tl.arange(0, TOKENS)[:, None, None]
    k, i = tl.arange(0, HEADS)[None, None, :], tl.arange(0, WIDTH)[None, :, None]
    return j * n_stride + k * k_stride + i * i_stride, (j < N) & (k < K) & (i < p)


@triton.jit
def _memberships(w2, a, tile, N, K: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr):
    """Π (TOKENS, HEADS), a softmax over the heads of the logits Σ_i a_ki w_kij²; 0 for what is not there."""
    j, k = tile * TOKENS + tl.arange(0, TOKENS)[:, None], tl.arange(0, HEADS)[None, :]
    logits = tl.where(k < K, tl.sum(a * w2, 1), float("-inf"))
    e = tl.exp(logits - tl.max(logits, 1)[:, None])
    return tl.where(j < N, e / tl.sum(e, 1)[:, None], 0.0)


# ---- the forward pass -------------------------------------------------------------------------------
@triton.jit
def _sizes(w_ptr, size_ptr, N, b_stride, n_stride, k_stride, i_stride, K: tl.constexpr,
           p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Σ_j w_kij² over the tokens of each program."""
    b, first = _share(True)
    size = tl.zeros((TOKENS, WIDTH, HEADS), size_ptr.dtype.element_ty)
    for tile in tl.range(first, tl.cdiv(N, TOKENS), tl.num_programs(0)):
        at, there = _places(tile, N, n_stride, k_stride, i_stride, K, p, TOKENS, HEADS, WIDTH)
        w = tl.load(w_ptr + b * b_stride + at, there, 0.0).to(size.dtype)
        size += w * w
    own, present = _coordinates(K, p, HEADS, WIDTH)
    tl.store(size_ptr + (b * tl.num_programs(0) + first) * K * p + own, tl.sum(size, 0)[None], present)


@triton.jit
def _moments(w_ptr, a_ptr, total_ptr, n_ptr, N, b_stride, n_stride, k_stride, i_stride, K: tl.constexpr,
             p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Σ_j π_jk w_kij² and Σ_j π_jk over the tokens of each program."""
    b, first = _share(False)
    own, present = _coordinates(K, p, HEADS, WIDTH)
    a = tl.load(a_ptr + b * K * p + own, present, 0.0)
    total = tl.zeros((TOKENS, WIDTH, HEADS), a.dtype)
    n = tl.zeros((TOKENS, HEADS), a.dtype)
    for tile in tl.range(first, tl.cdiv(N, TOKENS), tl.num_programs(0)):
        at, there = _places(tile, N, n_stride, k_stride, i_stride, K, p, TOKENS, HEADS, WIDTH)
        w = tl.load(w_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        Pi = _memberships(w * w, a, tile, N, K, TOKENS, HEADS)
        total += Pi[:, None, :] * (w * w)
        n += Pi
    own, present = _coordinates(K, p, HEADS, WIDTH)
    share = b * tl.num_programs(0) + first
    tl.store(total_ptr + share * K * p + own, tl.sum(total, 0)[None], present)
    k = tl.arange(0, HEADS)
    tl.store(n_ptr + share * K + k, tl.sum(n, 0), k < K)


@triton.jit
def _gated(w_ptr, y_ptr, a_ptr, gate_ptr, N, b_stride, n_stride, k_stride, i_stride, K: tl.constexpr,
           p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """The update π_jk gate_ki w_kij, written."""
    b, first = _share(True)
    own, present = _coordinates(K, p, HEADS, WIDTH)
    a = tl.load(a_ptr + b * K * p + own, present, 0.0)
    gate = tl.load(gate_ptr + b * K * p + own, present, 0.0)
    for tile in tl.range(first, tl.cdiv(N, TOKENS), tl.num_programs(0)):
        at, there = _places(tile, N, n_stride, k_stride, i_stride, K, p, TOKENS, HEADS, WIDTH)
        w = tl.load(w_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        Pi = _memberships(w * w, a, tile, N, K, TOKENS, HEADS)
        y = Pi[:, None, :] * gate * w
        tl.store(y_ptr + b * b_stride + at, y.to(y_ptr.dtype.element_ty), there)


# ---- the backward pass ------------------------------------------------------------------------------
@triton.jit
def _gate_sums(w_ptr, g_ptr, a_ptr, dgate_ptr, N, b_stride, n_stride, k_stride, i_stride, K: tl.constexpr,
               p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """The gradient of the gates, Σ_j π_jk w_kij g_kij, over the tokens of each program."""
    b, first = _share(True)
    own, present = _coordinates(K, p, HEADS, WIDTH)
    a = tl.load(a_ptr + b * K * p + own, present, 0.0)
    dgate = tl.zeros((TOKENS, WIDTH, HEADS), a.dtype)
    for tile in tl.range(first, tl.cdiv(N, TOKENS), tl.num_programs(0)):
        at, there = _places(tile, N, n_stride, k_stride, i_stride, K, p, TOKENS, HEADS, WIDTH)
        w = tl.load(w_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        g = tl.load(g_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        dgate += _memberships(w * w, a, tile, N, K, TOKENS, HEADS)[:, None, :] * w * g
    own, present = _coordinates(K, p, HEADS, WIDTH)
    tl.store(dgate_ptr + (b * tl.num_programs(0) + first) * K * p + own, tl.sum(dgate, 0)[None], present)


@triton.jit
def _through_softmax(w, du, Pi, dtotal, dn):
    """The gradient of the logits (TOKENS, HEADS), from du of u = π w and those of the sums Σ π w² and Σ π."""
    dPi = tl.sum((du + dtotal * w) * w, 1) + dn
    return Pi * (dPi - tl.sum(Pi * dPi, 1)[:, None])


@triton.jit
def _weight_sums(w_ptr, g_ptr, a_ptr, gate_ptr, dtotal_ptr, dn_ptr, da_ptr, N,
                 b_stride, n_stride, k_stride, i_stride, K: tl.constexpr,
                 p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """The gradient of a, Σ_j dlogits_jk w_kij², over the tokens of each program."""
    b, first = _share(False)
    own, present = _coordinates(K, p, HEADS, WIDTH)
    a = tl.load(a_ptr + b * K * p + own, present, 0.0)
    gate = tl.load(gate_ptr + b * K * p + own, present, 0.0)
    dtotal = tl.load(dtotal_ptr + b * K * p + own, present, 0.0)
    k = tl.arange(0, HEADS)[None, :]
    dn = tl.load(dn_ptr + b * K + k, k < K, 0.0)
    da = tl.zeros((TOKENS, WIDTH, HEADS), a.dtype)
    for tile in tl.range(first, tl.cdiv(N, TOKENS), tl.num_programs(0)):
        at, there = _places(tile, N, n_stride, k_stride, i_stride, K, p, TOKENS, HEADS, WIDTH)
        w = tl.load(w_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        g = tl.load(g_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        Pi = _memberships(w * w, a, tile, N, K, TOKENS, HEADS)
        da += _through_softmax(w, g * gate, Pi, dtotal, dn)[:, None, :] * (w * w)
    own, present = _coordinates(K, p, HEADS, WIDTH)
    tl.store(da_ptr + (b * tl.num_programs(0) + first) * K * p + own, tl.sum(da, 0)[None], present)


@triton.jit
def _gradient(w_ptr, g_ptr, dw_ptr, a_ptr, gate_ptr, dtotal_ptr, dn_ptr, dsize_ptr, N,
              b_stride, n_stride, k_stride, i_stride, HELD: tl.constexpr, K: tl.constexpr,
              p: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """dw = du π + 2w(π dtotal + dlogits a + dsize), written; HELD: memberships have no gradient."""
    b, first = _share(True)
    own, present = _coordinates(K, p, HEADS, WIDTH)
    a = tl.load(a_ptr + b * K * p + own, present, 0.0)
    gate = tl.load(gate_ptr + b * K * p + own, present, 0.0)
    dtotal = tl.load(dtotal_ptr + b * K * p + own, present, 0.0)
    dsize = tl.load(dsize_ptr + b * K * p + own, present, 0.0)
    k = tl.arange(0, HEADS)[None, :]
    dn = tl.load(dn_ptr + b * K + k, k < K, 0.0)
    for tile in tl.range(first, tl.cdiv(N, TOKENS), tl.num_programs(0)):
        at, there = _places(tile, N, n_stride, k_stride, i_stride, K, p, TOKENS, HEADS, WIDTH)
        w = tl.load(w_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        du = gate * tl.load(g_ptr + b * b_stride + at, there, 0.0).to(a.dtype)
        Pi = _memberships(w * w, a, tile, N, K, TOKENS, HEADS)
        dw2 = Pi[:, None, :] * dtotal + dsize
        if not HELD:
            dw2 += _through_softmax(w, du, Pi, dtotal, dn)[:, None, :] * a
        dw = du * Pi[:, None, :] + 2 * w * dw2
        tl.store(dw_ptr + b * b_stride + at, dw.to(dw_ptr.dtype.element_ty), there)


# ---- the kernels called -----------------------------------------------------------------------------
class _FusedUpdate(torch.autograd.Function):
    """The update by kernels and its gradient, which keeps w, the temperature and sums."""

    @staticmethod
    def forward(ctx, w, temp, switches):
        theta, size = temp.to(_statistics_dtype(w)), None
        if switches.normalize != "none":
            (size,) = _sums(_sizes, w, [w], [w.shape[1::2]])  # (B, K, p)
            size = size / w.shape[2] if switches.normalize == "rms" else size
        a = square_weights(theta, size, switches, w[:, :, 0].shape)  # (B, K, p)
        total, n_k = _sums(_moments, w, [w, a], [w.shape[1::2], w.shape[1:2]])  # (B, K, p), (B, K)
        n_k = n_k[..., None] + switches.mass
        D = n_k / n_k.add(total, alpha=switches.c)  # (B, K, p), the gates over c
        y = torch.empty_like(w)
        _launch(_gated, w, w, y, a, -switches.c * D)
        ctx.save_for_backward(w, temp, size, total, n_k, D)
        ctx.switches = switches
        return y

    @staticmethod
    def backward(ctx, g):
        w, temp, size, total, n_k, D = ctx.saved_tensors
        switches = ctx.switches
        if torch.is_grad_enabled():  # the gradient is to be differentiated: `create_graph`
            update = lambda own: token_update(*own, **switches._asdict())
            return *differentiable(ctx, g, (w, temp), update), None
        g = g if g.stride() == w.stride() else torch.empty_like(w).copy_(g)
        a, gate = square_weights(temp.to(D.dtype), size, switches, D.shape), -switches.c * D
        (dgate,) = _sums(_gate_sums, w, [w, g, a], [D.shape[1:]])
        dtotal, dn = through_gates(dgate, total, n_k, D, switches.c)
        dtemp, dsize = None, torch.zeros_like(D)
        if not switches.detach_memberships:
            (da,) = _sums(_weight_sums, w, [w, g, a, gate, dtotal, dn], [D.shape[1:]])
            dtemp, dsize = through_weights(da, a, temp.to(D.dtype), size, switches, w.shape[2])
            dtemp = dtemp.to(temp.dtype)
        dw = torch.empty_like(w)
        _launch(_gradient, w, w, g, dw, a, gate, dtotal, dn, dsize, HELD=switches.detach_memberships)
        return dw, dtemp, None


def _statistics_dtype(w: Tensor) -> torch.dtype:
    """What sums over the tokens are formed in."""
    return torch.float64 if w.dtype == torch.float64 else torch.float32


class Plan(NamedTuple):
    """How a picture's tokens are shared out: programs, and the tokens, heads and width of a tile."""

    programs: int
    tokens: int
    heads: int
    width: int


def _plan(w: Tensor) -> Plan:
    return _planned(w.shape, TILE, PROGRAMS)


@lru_cache(maxsize=1024)  # on small maps a launch takes longer than the kernel
def _planned(shape: torch.Size, tile: int, programs: int) -> Plan:
    B, K, N, p = shape
    heads, width = triton.next_power_of_2(K), triton.next_power_of_2(p)
    tokens = max(1, min(tile // (heads * width), triton.next_power_of_2(N)))
    tiles = triton.cdiv(N, tokens)
    return Plan(triton.cdiv(tiles, triton.cdiv(B * tiles, programs)), tokens, heads, width)


def _has_gaps(w: Tensor) -> bool:
    """Whether w takes more, or less, room in memory than its numbers."""
    dense = 1
    for step, n in sorted(zip(w.stride(), w.shape)):
        if n > 1 and step != dense:
            return True
        dense *= n
    return False


def _sums(kernel: Any, w: Tensor, tensors: list[Tensor], shapes: list[torch.Size]) -> list[Tensor]:
    """What a kernel sums up over the tokens, (B, *shape) each: one partial sum for each program, then one for all."""
    partial = [w.new_empty(len(w), _plan(w).programs, *shape, dtype=_statistics_dtype(w)) for shape in shapes]
    _launch(kernel, w, *tensors, *partial)
    return [t.sum(1) for t in partial]


def _launch(kernel: Any, w: Tensor, *tensors: Tensor, **flags: bool) -> None:
    """Run a kernel over all tokens; whatever has as many numbers as w lies in memory as w does."""
    (B, K, N, p), (b_stride, k_stride, n_stride, i_stride) = w.shape, w.stride()
    programs, tokens, heads, width = _plan(w)
    sizes = dict(K=K, p=p, TOKENS=tokens, HEADS=heads, WIDTH=width)
    with torch.cuda.device_of(w):
        kernel[programs, B](*tensors, N, b_stride, n_stride, k_stride, i_stride, **flags, **sizes, num_warps=WARPS)
