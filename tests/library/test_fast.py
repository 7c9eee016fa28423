"""The fast TSSA is the straightforward one: values and gradients, every switch, shape, layout and transformation."""

import copy
import io

import pytest
import torch
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from kit import cost
from tssa_lib import core
from tssa_lib.core import token_update
from tssa_lib.fast import fast_tssa
from tssa_lib.tssa import TSSA

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SWITCHES = [
    {},
    {"normalize": "none"},
    {"normalize": "rms"},
    {"qkv_bias": True},
    {"tied": True},
    {"tied": True, "orthonormal": True},
    {"c": 7.0, "mass": 0.0},
    {"detach_memberships": True},
    {"normalize": "rms", "qkv_bias": True, "tied": True, "c": 3.0},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def layer(dim=6, num_heads=3, **switches) -> TSSA:
    made = TSSA(dim, num_heads, **switches).double()
    with torch.no_grad():
        made.temp.copy_(torch.linspace(-3, 20, num_heads)[:, None])
    return made


def backend() -> str:
    """PyTorch's own compiler, where it finds one for C++; else the one graph that it would compile, run as it is."""
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
        return "inductor"
    except Exception:
        return "aot_eager"


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def same(made: TSSA, x: torch.Tensor) -> None:
    """fast = straightforward at x: values with and without a graph, all gradients; and the fast path was taken."""
    x = x.detach().requires_grad_()
    fast, slow, variables = made(x), made.straightforward(x), [x, *made.parameters()]
    assert "FastTSSA" in names_of(fast.grad_fn), "the fast path ran"
    torch.testing.assert_close(fast, slow, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(made(x), slow, **EXACT)
    target = torch.randn_like(slow)
    for a, b in zip(*(torch.autograd.grad((y * target).sum(), variables, allow_unused=True) for y in (fast, slow))):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **EXACT)


def names_of(node, depth=4) -> str:
    """The names of a graph's last nodes."""
    return (
        ""
        if node is None or not depth
        else node.name() + "".join(names_of(n, depth - 1) for n, _ in node.next_functions)
    )


@pytest.mark.parametrize("B, N", [(1, 300), (2, 11), (9, 4)])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch(switches, B, N):
    same(layer(**switches), tokens(B, N, 6))


@pytest.mark.parametrize(
    "B, N, dim, heads",
    [(0, 5, 6, 3), (1, 1, 6, 3), (3, 1, 6, 1), (1, 5, 7, 7), (2, 3, 15, 3), (1, 257, 5, 1), (2, 5, 1, 1)],
)
def test_sizes(B, N, dim, heads):
    same(layer(dim, heads), tokens(B, N, dim))


def test_layouts():
    base = tokens(2, 12, 10)
    for x in (
        tokens(2, 6, 12).mT,
        base[:, ::2, 2:8],
        tokens(12, 2, 6).transpose(0, 1),
        tokens(1, 1, 6).expand(2, 4, 6),
    ):
        assert not x.is_contiguous()
        same(layer(), x)


@pytest.mark.parametrize("normalize", ["tokens", "rms", "none"])
def test_channels_first(normalize):
    """The update alone on a map (B, C, N), as the YOLO block calls it, in any memory order."""
    made = layer(normalize=normalize)
    for w in (tokens(2, 6, 7), tokens(2, 7, 6).mT, tokens(0, 6, 7), tokens(1, 6, 1)):
        w = w.detach().requires_grad_()
        heads = w.unflatten(1, (3, 2)).mT  # (B, K, N, p)
        Pi, _, D = made._statistics(heads)
        slow = -(heads * Pi[..., None] * D[..., None, :]).mT.flatten(1, 2)  # (B, C, N)
        fast, target = fast_tssa(w, made.temp, normalize=normalize), torch.randn_like(slow)
        torch.testing.assert_close(fast, slow, **EXACT)
        for a, b in zip(*(torch.autograd.grad((y * target).sum(), [w, made.temp]) for y in (fast, slow))):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("switches", SWITCHES[:4] + SWITCHES[6:7], ids=str)
def test_gradcheck(switches):
    made = layer(4, 2, **switches)
    names, values = zip(*made.named_parameters())

    def f(x, *values):
        state = dict(zip(names, values))
        return fast_tssa(
            x,
            state["temp"],
            state["qkv.weight"],
            state.get("qkv.bias"),
            state["to_out.0.weight"],
            state["to_out.0.bias"],
            normalize=made.normalize,
            c=made.c,
            mass=made.mass,
        )

    assert torch.autograd.gradcheck(f, (tokens(2, 3, 4).requires_grad_(), *values))
    assert torch.autograd.gradcheck(
        lambda w, temp: fast_tssa(w, temp, normalize=made.normalize), (tokens(2, 4, 3).requires_grad_(), made.temp)
    )


def test_dead_channels_and_zero_tokens():
    made, x = TSSA(6, 3), torch.randn(1, 5, 6, requires_grad=True)
    with torch.no_grad():
        made.qkv.weight[2] = 0  # a channel that is always zero
    for z in (x, 0 * x, 1e-14 * x, 1e14 * x):
        made.zero_grad()
        y = made(z)
        y.sum().backward()
        assert y.isfinite().all() and all(p.grad.isfinite().all() for p in [x, *made.parameters()])
        torch.testing.assert_close(y, made.straightforward(z))


@pytest.mark.parametrize("switches", [s for s in SWITCHES if "detach_memberships" not in s], ids=str)
def test_second_derivatives(switches):
    """The gradient of the fast path is itself differentiated, in x and in every parameter."""
    made, x = layer(4, 2, **switches), tokens(2, 3, 4).requires_grad_()
    names, values = zip(*made.named_parameters())

    def f(x, *values):
        y = torch.func.functional_call(made, dict(zip(names, values)), (x,))
        assert "FastTSSA" in names_of(y.grad_fn), "the fast path ran"
        return y

    assert torch.autograd.gradgradcheck(f, (x, *values))


def test_second_derivatives_of_the_update_alone():
    f = lambda w, temp: fast_tssa(w, temp, normalize="rms")
    assert torch.autograd.gradgradcheck(f, (tokens(2, 4, 3).requires_grad_(), layer(4, 2).temp))


@pytest.mark.parametrize("switches", [{}, {"tied": True, "normalize": "rms"}], ids=str)
def test_products_with_derivatives_agree_with_the_straightforward_form(switches):
    made, x, v = layer(**switches), tokens(1, 5, 6), tokens(1, 5, 6)
    scalar = lambda x: made(x).square().sum()
    right = lambda x: made.straightforward(x).square().sum()
    for product in (torch.autograd.functional.hvp, torch.autograd.functional.vhp):
        got, want = product(scalar, x, v)[1], product(right, x, v)[1]
        assert want.abs().max() > 0.1
        torch.testing.assert_close(got, want, **EXACT)
    got, want = (torch.autograd.functional.jvp(f, x, v)[1] for f in (made, made.straightforward))
    assert want.abs().max() > 0.1
    torch.testing.assert_close(got, want, **EXACT)
    got, want = (torch.autograd.functional.hessian(f, x) for f in (scalar, right))
    torch.testing.assert_close(got, want, **EXACT)
    penalties = []
    for f in (made, made.straightforward):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), list(made.parameters()), allow_unused=True))
    for got, want in zip(*penalties):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, **EXACT)


def test_dual_numbers_take_the_straightforward_form():
    made, x, v = layer(), tokens(1, 5, 6), tokens(1, 5, 6)
    with torch.autograd.forward_ad.dual_level():
        y = made(torch.autograd.forward_ad.make_dual(x, v))
        slope = torch.autograd.forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(slope, torch.func.jvp(made, (x,), (v,))[1], **EXACT)
    step = 1e-6
    torch.testing.assert_close(slope, (made(x + step * v) - made(x - step * v)) / (2 * step), rtol=1e-6, atol=1e-8)


# ---- transformations: the straightforward layer takes over, by itself -------------------------------------------
@pytest.mark.parametrize("switches", [s for s in SWITCHES if "orthonormal" not in s], ids=str)
def test_the_straightforward_update_is_the_formula(switches):
    """Each term beside the sums that a compiler fuses: memberships divided by their mass first, as published."""
    made, x = layer(**switches), tokens(2, 9, 6)
    w = made.project(x).detach().requires_grad_()
    y = token_update(w, made.temp, **made.switches)
    size = {"none": lambda w: torch.ones(()), "tokens": lambda w: w.norm(dim=2, keepdim=True)}
    size["rms"] = lambda w: w.norm(dim=2, keepdim=True) / (w.shape[2] / w.shape[3]) ** 0.5
    Pi = ((w / size[made.normalize](w)).square().sum(-1) * made.temp).softmax(1)  # over the heads
    Pi = Pi.detach() if made.detach_memberships else Pi
    s = ((Pi / (Pi.sum(-1, keepdim=True) + made.mass))[..., None] * w**2).sum(2)
    slow, target = -w * Pi[..., None] * (made.c / (1 + made.c * s))[:, :, None], tokens(2, 3, 9, 2)
    torch.testing.assert_close(y, slow, **EXACT)
    for a, b in zip(*(torch.autograd.grad((f * target).sum(), [w, made.temp], allow_unused=True) for f in (y, slow))):
        assert (a is None) == (b is None) == (made.detach_memberships and b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **EXACT)
    half = token_update(w.detach().bfloat16(), made.temp.float())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def agrees_compiled(made: TSSA, x: torch.Tensor, backend: str) -> None:
    """Values and gradients under torch.compile, in one graph; None stays None."""
    torch._dynamo.reset()  # every layer here is a new one to the compiler, which gives up after eight
    compiled = torch.compile(made, fullgraph=True, backend=backend)
    variables, target = [x, *made.parameters()], torch.randn_like(x)
    eager = made(x)
    torch.testing.assert_close(compiled(x), eager, **EXACT)
    grads = (torch.autograd.grad((y * target).sum(), variables, allow_unused=True) for y in (compiled(x), eager))
    for a, b in zip(*grads):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **EXACT)


def test_compiled_by_pytorchs_own_compiler():
    agrees_compiled(layer(12, 3, normalize="rms", tied=True, c=3.0), tokens(2, 9, 12).requires_grad_(), backend())


@pytest.mark.parametrize("switches", [*SWITCHES, {"orthonormal": True, "qkv_bias": True}, {"mass": 0.5}], ids=str)
def test_every_switch_counts_when_compiled(switches):
    made = layer(**switches)
    agrees_compiled(made, tokens(2, 9, 6).requires_grad_(), "aot_eager")


def test_dropped_gates_stay_dropped_when_compiled():
    made, x = layer(attn_drop=0.5).requires_grad_(False), tokens(8, 5, 6)
    made.to_out = torch.nn.Identity()
    y = torch.compile(made, fullgraph=True, backend="aot_eager")(x)
    dead = y == 0
    assert (dead.any(1) == dead.all(1)).all() and 0.2 < dead.double().mean() < 0.8
    kept = y / torch.where(dead, y, made.eval()(x))
    torch.testing.assert_close(kept[~dead], torch.full_like(kept[~dead], 2.0), **EXACT)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_code_lengths_are_not_compiled_on_cuda(on_gpu, monkeypatch):
    """No GPU is needed: what is asked is what the compiler is given."""
    assert core._miscompiles(type("OnGpu", (), {"is_cuda": True})()) and not core._miscompiles(torch.ones(1))
    monkeypatch.setattr(core, "_miscompiles", lambda w: on_gpu)
    graphs = []

    def backend(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph

    torch._dynamo.reset()
    made, x = layer(normalize="code"), tokens(2, 9, 6)
    torch.testing.assert_close(torch.compile(made, backend=backend)(x), made(x), **EXACT)
    assert (len(graphs) > 1) == on_gpu
    assert any("softmax" in graph for graph in graphs) != on_gpu, "memberships"
    assert any("log1p" in name for graph in graphs for name in graph) != on_gpu, "code lengths"
    if on_gpu:
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(made, backend=backend, fullgraph=True)(x)


def test_vmap_and_grad_of_torch_func():
    made, x = layer(), tokens(4, 2, 5, 6)
    torch.testing.assert_close(torch.func.vmap(made)(x), torch.stack([made(v) for v in x]), **EXACT)
    state = dict(made.named_parameters())
    loss = lambda state, v: torch.func.functional_call(made, state, (v,)).square().sum()
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(state, x)
    for i, v in enumerate(x):
        for name, g in zip(state, torch.autograd.grad(loss(state, v), list(state.values()))):
            torch.testing.assert_close(each[name][i], g, **EXACT)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_autocast(scale):
    """Statistics stay in float32: at |w| near 1e3 squares would overflow in float16."""
    made, x = TSSA(12, 3), scale * torch.randn(2, 50, 12)
    for dtype, close in ((torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
        xs = [x.clone().requires_grad_() for _ in range(2)]
        with torch.autocast("cpu", dtype):
            y = made(xs[0])
            moments = made.statistics(x).second_moments
        want = made(xs[1])
        (scale * y.float()).sum().backward(), (scale * want).sum().backward()  # else gradients underflow
        assert y.dtype == dtype and moments.dtype == torch.float32
        torch.testing.assert_close(moments, made.statistics(x).second_moments, rtol=2e-2, atol=0)
        for a, b in ((y, want), (xs[0].grad, xs[1].grad)):
            assert a.isfinite().all() and (a - b).abs().max() <= close * b.abs().max()


def test_traced_exported_and_pickled():
    import onnxruntime

    made, x = TSSA(12, 3).eval(), torch.randn(1, 9, 12)
    want = made(x).detach()
    torch.testing.assert_close(torch.jit.trace(made, x)(x), want)
    torch.testing.assert_close(torch.export.export(made, (x,)).module()(x), want)
    file = io.BytesIO()
    torch.onnx.export(made, (x,), file, dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(file.getvalue())
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(copy.deepcopy(made)(x), want)


# ---- what must not be bypassed -------------------------------------------------------------------------------------
def test_hooks_parametrisations_and_replaced_maps_are_respected():
    x, seen = tokens(1, 5, 6), []
    hooked = layer()
    handle = hooked.qkv.register_forward_hook(lambda m, i, y: seen.append(y))
    hooked(x)
    handle.remove()
    hooked(x)
    assert len(seen) == 1
    for change in (
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
    ):
        for name in ("qkv", "to_out.0"):
            made = layer()
            change(made.get_submodule(name))
            torch.testing.assert_close(made(x), made.straightforward(x), **EXACT)
            with torch.no_grad():
                [p.mul_(2) for p in made.get_submodule(name).parameters()]
            torch.testing.assert_close(made(x), made.straightforward(x), **EXACT)
    for name in ("attn_drop", "to_out", "to_out.1"):
        made = layer().eval()
        plain = made(x)
        made.get_submodule(name).register_forward_hook(lambda m, i, y: 2 * y)
        torch.testing.assert_close(made(x), made.straightforward(x), **EXACT)
        assert not torch.allclose(made(x), plain), f"a hook on {name} counts"
    for change, close in (
        (lambda m: setattr(m, "to_out", torch.nn.Identity()), dict(rtol=0, atol=0)),
        (lambda m: m.to_out.append(torch.nn.LayerNorm(6).double()), dict(rtol=0, atol=0)),
        (lambda m: setattr(m, "attn_drop", torch.nn.Tanh()), dict(rtol=0, atol=0)),
        (lambda m: m.to_out.__setitem__(1, torch.nn.GELU()), EXACT),
    ):  # the fast path, then this
        made = layer()
        change(made)
        torch.testing.assert_close(made(x), made.straightforward(x), **close)


def test_dropout():
    made, x = TSSA(6, 3, attn_drop=0.5, proj_drop=0.5), torch.randn(1, 5, 6)
    for part in (lambda: made.attn_drop, lambda: made.to_out[1]):
        other = copy.deepcopy(made)
        part().p = 0.0
        torch.manual_seed(1)
        y = made(x)
        torch.manual_seed(1)
        torch.testing.assert_close(y, made.straightforward(x))
        assert not torch.equal(y, made(x)), "drawn anew"
        made = other
    assert torch.equal(made.eval()(x), made(x))


# ---- cost, deterministically -----------------------------------------------------------------------------------------
def test_few_activations_are_kept():
    made, x = TSSA(128, 4), torch.randn(1, 1000, 128, requires_grad=True)
    ours, unit = cost.kept_bytes(made, x), x.untyped_storage().nbytes()
    literal = cost.kept_bytes(lambda x: cost.published(made, x), x)
    assert 2 * unit <= ours < 2.2 * unit, "x, w and Π"
    assert ours <= 0.5 * literal


def test_operations_by_hand_and_by_counter():
    for B, N, dim, heads in ((1, 400, 128, 4), (3, 50, 24, 3)):
        made, x = TSSA(dim, heads), torch.randn(B, N, dim, requires_grad=True)
        with FlopCounterMode(display=False) as forward:
            y = made(x)
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
        assert forward.get_total_flops() / 2 == B * N * (2 * dim**2 + 2 * dim)
        assert backward.get_total_flops() / 2 == B * N * (4 * dim**2 + 2 * dim)
