"""Triton's kernels are the update: values, gradients, every mode, layout and dtype, what they read, and who takes them.

Without a GPU their arithmetic is run by Triton's interpreter, on CPU tensors, and their code is compiled for GPUs that
aren't there. The interpreter must be chosen before Triton is imported, so these tests run in a process of their own.
"""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from kit import cost
from tssa_lib import forms, tssa
from tssa_lib.core import TINY, join_heads, split_heads, token_update, tssa_literal
from tssa_lib.tssa import TSSA

pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")

from tssa_lib import fused
from tssa_lib.fused import fused_update

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter, in a process of its own")
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
EXACT = {"rtol": 1e-12, "atol": 1e-12}
LAYOUTS = ("tokens first", "channels first", "heads first")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def small(monkeypatch):
    """Tiles of a few tokens, several to a program and several programs to a picture, as a GPU has them."""
    monkeypatch.setattr(fused, "TILE", 128)
    monkeypatch.setattr(fused, "PROGRAMS", 4)


def projected(B, K, N, p, layout=LAYOUTS[0], dtype=torch.float64, device="cpu") -> torch.Tensor:
    """Projected tokens (B, K, N, p) that lie in memory as `layout` says, a leaf."""
    w = {
        "tokens first": lambda: split_heads(torch.randn(B, N, K * p, dtype=dtype, device=device), K),
        "channels first": lambda: torch.randn(B, K * p, N, dtype=dtype, device=device).unflatten(1, (K, p)).mT,
        "heads first": lambda: torch.randn(B, K, N, p, dtype=dtype, device=device),
    }[layout]()
    return w.detach().requires_grad_()


def temperature(K, dtype=torch.float64, device="cpu") -> torch.Tensor:
    return torch.linspace(-3, 20, K, dtype=dtype, device=device)[:, None].requires_grad_()


def same(w, temp, close=EXACT, **switches) -> None:
    """The kernels = the straightforward form: the update, and the gradients of w and of the temperature."""
    y, want = fused_update(w, temp, **switches), token_update(w.double(), temp.double(), **switches)
    assert y.dtype == w.dtype and y.shape == w.shape
    torch.testing.assert_close(y.double(), want, **close)
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, (w, temp), g, allow_unused=True)
    for a, b in zip(got, torch.autograd.grad(want, (w, temp), g.double(), allow_unused=True)):
        assert (a is None) == (b is None)
        if a is not None:
            scale = {"rtol": close["rtol"], "atol": close["atol"] * (1 + b.double().abs().max().item())}
            torch.testing.assert_close(a, b, **scale)


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).name]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 25, done.stdout[-2000:]


# ---- by the interpreter: values and gradients -------------------------------------------------------
@interpreted
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("normalize", ["tokens", "none", "rms"])
def test_values_and_gradients(normalize, layout, small):
    w = projected(2, 3, 11, 5, layout)
    same(w, temperature(3), normalize=normalize, c=3.0, mass=0.5)
    assert fused_update(w, temperature(3)).stride() == w.stride(), "no layout is changed"


@interpreted
def test_memberships_held(small):
    same(projected(2, 3, 11, 5), temperature(3), detach_memberships=True)


@interpreted
@pytest.mark.parametrize("B, K, N, p", [(1, 1, 1, 1), (2, 3, 1, 4), (3, 1, 6, 2), (1, 5, 40, 1)])
def test_sizes(B, K, N, p):
    same(projected(B, K, N, p), temperature(K))


@interpreted
def test_what_no_kernel_takes_is_computed_all_the_same(monkeypatch):
    assert fused_update(torch.empty(0, 2, 5, 3), torch.ones(2, 1)).shape == (0, 2, 5, 3)
    monkeypatch.setattr(fused, "TILE", 4)
    same(projected(1, 3, 4, 5), temperature(3))


@interpreted
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_the_layer_is_the_literal_form(dtype, close, small):
    """In every dtype against loops over the formula in float64, from the same rounded tokens."""
    K, p, N = 3, 5, 9
    x, W, O = (torch.randn(*shape).to(dtype) for shape in ((N, K * p), (K * p, K * p), (K * p, K * p)))
    temp, want = temperature(K).detach(), {}
    for normalize in ("tokens", "none", "rms"):
        theta = temp / 100 if normalize == "none" else temp
        w = linear(x.double(), W.double()).to(dtype)  # rounded, as the kernels meet it
        eye = torch.eye(K * p, dtype=torch.float64)
        want = tssa_literal(w.double(), eye, theta, O.double(), normalize)
        y = fused_update(split_heads(w[None], K), theta.float(), normalize=normalize)
        got = linear(join_heads(y)[0].double(), O.double())
        assert (got - want).abs().max() <= close * want.abs().max()


@interpreted
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
@pytest.mark.parametrize("normalize", ["tokens", "rms"])
def test_large_numbers_and_dead_channels(dtype, close, normalize):
    """|w| to 1e4, whose squares no half precision holds, and channels that are zero everywhere."""
    w = projected(2, 2, 7, 3).detach()
    w = (w * 1e4 / w.abs().max()).to(dtype)
    w[:, 0, :, 1] = 0
    w[1, 1] = 0
    w.requires_grad_()
    temp = torch.ones(2, 1, requires_grad=True)
    y, want = fused_update(w, temp, normalize=normalize), token_update(w.double(), temp, normalize=normalize)
    g = torch.randn(y.shape, dtype=torch.float64).to(dtype) * 1000  # else gradients are less than float16 holds
    got = torch.autograd.grad(y, (w, temp), g)
    for a, b in zip((y, *got), (want, *torch.autograd.grad(want, (w, temp), g.double()))):
        assert a.isfinite().all() and (a.double() - b).abs().max() <= close * (b.abs().max() + 1e-3)


@interpreted
def test_gradcheck():
    f = lambda w, temp: fused_update(w, temp, normalize="rms", c=3.0)
    assert torch.autograd.gradcheck(f, (projected(1, 2, 2, 3), temperature(2)))


@interpreted
def test_second_derivatives():
    f = lambda w, temp: fused_update(w, temp)
    assert torch.autograd.gradgradcheck(f, (projected(1, 2, 3, 2)[:, :, ::2].detach().requires_grad_(), temperature(2)))


@interpreted
def test_gaps_and_repeated_gradients():
    """A view with gaps, and the gradient of a sum, one number for all."""
    w, temp = projected(2, 3, 8, 4), temperature(3)
    for view in (lambda w: w[:, :, ::2, 1:], lambda w: w[:, :1].expand(2, 3, 8, 4)):
        got = torch.autograd.grad(fused_update(view(w), temp).sum(), (w, temp))
        for a, b in zip(got, torch.autograd.grad(token_update(view(w), temp).sum(), (w, temp))):
            torch.testing.assert_close(a, b, **EXACT)


# ---- by the interpreter: memory ---------------------------------------------------------------------
@interpreted
@pytest.mark.parametrize("normalize, reads", [("tokens", 3), ("rms", 3), ("none", 2)])
def test_tokens_are_read_three_times_and_written_once(normalize, reads, small, monkeypatch):
    """Counted as the kernels load and store: numbers of the tokens, and what the sums take besides."""
    from triton.runtime.interpreter import interpreter_builder as builder

    moved = {"read": 0, "written": 0}
    load, store = builder.create_masked_load, builder.create_masked_store

    def counting_load(pointers, mask, *rest):
        moved["read"] += int(mask.data.sum())
        return load(pointers, mask, *rest)

    def counting_store(pointers, value, mask, *rest):
        moved["written"] += int(mask.data.sum())
        return store(pointers, value, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counting_load)
    monkeypatch.setattr(builder, "create_masked_store", counting_store)
    w, temp = projected(2, 3, 40, 5), temperature(3)
    y, n, programs = fused_update(w, temp, normalize=normalize), w.numel(), 2 * fused._plan(w).programs
    sums = programs * 15  # K p numbers for each program
    assert moved["read"] == reads * n + 3 * sums, "weights of the squares twice, gates once"
    assert moved["written"] == n + sums + programs * 3 + (sums if reads == 3 else 0)
    moved.update(read=0, written=0)
    torch.autograd.grad(y, (w, temp), torch.ones_like(y))
    assert 6 * n <= moved["read"] < 8 * n and n <= moved["written"] < 2 * n


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_projected_tokens_alone_are_kept(dtype):
    w, temp = projected(1, 4, 500, 8, dtype=dtype), temperature(4, torch.float32)
    assert cost.kept_bytes(lambda w: fused_update(w, temp), w) <= w.nbytes + 4 * (3 * 4 * 8 + 3 * 4)


# ---- by the interpreter: the layers -----------------------------------------------------------------
@pytest.fixture
def as_on_a_gpu(monkeypatch):
    from tssa_lib import blocks

    for module in (forms, tssa, blocks):
        monkeypatch.setattr(module, "kernels_run", lambda device: True)


def layers():
    from tssa_lib.blocks import TSSAttention

    yield TSSA(12, 3, normalize="rms", qkv_bias=True), torch.randn(2, 9, 12)
    yield TSSA(12, 3, tied=True), torch.randn(2, 9, 12)
    yield TSSAttention(12, 3).eval(), torch.randn(2, 12, 3, 5)
    yield TSSAttention(12, 3).eval(), torch.randn(2, 12, 3, 5).to(memory_format=torch.channels_last)


@interpreted
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_layers_take_the_kernels(autocast, as_on_a_gpu, monkeypatch):
    """In full and in half precision, where they keep half-precision tensors for the backward pass."""
    seen, launch = [], fused._launch
    monkeypatch.setattr(
        fused, "_launch", lambda kernel, w, *rest, **k: seen.append(w.dtype) or launch(kernel, w, *rest, **k)
    )
    for made, x in layers():
        seen.clear()
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            y, want = made(x), made.straightforward(x)
        assert set(seen) == {autocast or torch.float32} and len(seen) == 3
        torch.testing.assert_close(y, want, **(dict(rtol=3e-2, atol=3e-2) if autocast else dict(rtol=1e-4, atol=1e-5)))
        variables, target = [made.temp, *(p for p in made.parameters() if p is not made.temp)], torch.randn_like(want)
        grads = (torch.autograd.grad(out, variables, target, allow_unused=True) for out in (y, want))
        for a, b in zip(*grads):
            assert a.dtype == torch.float32 and (a - b).norm() <= (0.1 if autocast else 1e-4) * (b.norm() + 0.1)


@interpreted
def test_layers_that_drop_gates_or_are_told_not_to_do_without(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(fused, "_launch", lambda *_: pytest.fail("a kernel ran"))
    x = torch.randn(1, 5, 6)
    TSSA(6, 3, attn_drop=0.5)(x)
    TSSA(6, 3, normalize="code")(x)
    plain = TSSA(6, 3)
    plain.fast = False
    plain(x)
    torch.func.vmap(TSSA(6, 3))(x[None])
    with torch.autograd.forward_ad.dual_level():
        TSSA(6, 3)(torch.autograd.forward_ad.make_dual(x, x))


# ---- in any process ---------------------------------------------------------------------------------
@compiled
@pytest.mark.parametrize(
    "card, layout, dtype",
    [(90, LAYOUTS[0], "bf16"), (90, LAYOUTS[1], "bf16"), (90, LAYOUTS[0], "fp32"), (80, LAYOUTS[1], "fp32")],
)
def test_kernels_compile_for_cards_that_are_not_there(card, layout, dtype):
    """The interpreter takes what a compiler refuses. Tokens come in pieces of 16 bytes, in both layouts."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    one = {"tokens first": "i_stride", "channels first": "n_stride"}[layout]
    sizes = {"K": 8, "p": 32, "TOKENS": 32, "HEADS": 8, "WIDTH": 32, "HELD": False, one: 1}
    tokens = ("w_ptr", "g_ptr", "y_ptr", "dw_ptr")
    for kernel in (fused._sizes, fused._moments, fused._gated, fused._gate_sums, fused._weight_sums, fused._gradient):
        kind = lambda name: f"*{dtype}" if name in tokens else "*fp32" if name.endswith("_ptr") else "i32"
        names = kernel.arg_names
        source = ASTSource(
            kernel,
            {name: "constexpr" if name in sizes else kind(name) for name in names},
            {(names.index(name),): value for name, value in sizes.items() if name in names},
            {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in sizes},
        )
        code = compile(source, target=GPUTarget("cuda", card, 32), options={"num_warps": fused.WARPS}).asm["ptx"]
        assert re.search(r"ld\.global\S*\.v4", code), f"{kernel.__name__} reads number by number"
        assert kernel not in (fused._gated, fused._gradient) or re.search(r"st\.global\S*\.v4", code)


def test_nothing_is_imported_and_nothing_said_on_a_cpu():
    code = (
        "import sys, torch; from tssa_lib.tssa import TSSA; TSSA(6, 3)(torch.ones(1, 5, 6)).sum().backward(); "
        "TSSA(6, 3).bfloat16()(torch.ones(1, 5, 6).bfloat16()); print('tssa_lib.fused' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and done.stderr == ""


def test_kernels_that_do_not_run_are_left_alone_with_one_warning(monkeypatch):
    asked = forms.kernels_run.__wrapped__
    monkeypatch.setattr(fused, "fused_update", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="Triton's kernels don't run here, so TSSA takes PyTorch's operations: "):
        assert not asked(torch.device("cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(forms, "find_spec", lambda name: None)
        assert not asked(torch.device("cuda")) and not asked(torch.device("cpu"))


@compiled
def test_a_compiled_layer_is_not_compiled_anew_for_each_size():
    """One graph for the first N, one for all others, however many come: no fall back to eager at the eighth."""
    torch._dynamo.reset()
    graphs, made = [], TSSA(12, 3).eval()

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    layer = torch.compile(made, fullgraph=True, backend=counting)
    with torch.no_grad():
        for N in range(4, 24):
            x = torch.randn(2, N, 12)
            torch.testing.assert_close(layer(x), made(x))
    assert len(graphs) == 2


# ---- where there is a GPU ---------------------------------------------------------------------------
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 6e-3}


@on_gpu
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("normalize", ["tokens", "none", "rms"])
@pytest.mark.parametrize("B, K, N, p", [(2, 8, 6400, 32), (3, 3, 1001, 5), (1, 2, 400, 64), (1, 1, 1, 1)])
def test_on_a_gpu(dtype, layout, normalize, B, K, N, p):
    close = ROUNDING[dtype]
    temp = temperature(K, torch.float32 if dtype != torch.float64 else dtype, "cuda") / (
        1 if normalize != "none" else 100
    )
    w = projected(B, K, N, p, layout, dtype, "cuda")
    y, want = fused_update(w, temp, normalize=normalize), token_update(w.double(), temp.double(), normalize=normalize)
    g = torch.randn_like(y)
    got = (y, *torch.autograd.grad(y, (w, temp), g))
    for a, b in zip(got, (want, *torch.autograd.grad(want, (w, temp), g.double()))):
        assert (a.double() - b).norm() <= close * (b.double().norm() + 1e-3)
    again = fused_update(w, temp, normalize=normalize)
    assert torch.equal(y, again), "to the last bit"
    assert all(torch.equal(a, b) for a, b in zip(got[1:], torch.autograd.grad(again, (w, temp), g)))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_numbers_on_a_gpu(dtype):
    w = projected(2, 4, 1600, 32, dtype=torch.float32, device="cuda").detach()
    w = (w * 1e4 / w.abs().max()).to(dtype)
    w[:, 0, :, 1] = 0
    w[1, 1] = 0
    w.requires_grad_()
    temp = torch.ones(4, 1, device="cuda", requires_grad=True)
    y = fused_update(w, temp)
    assert y.isfinite().all() and all(t.isfinite().all() for t in torch.autograd.grad(y.float().sum(), (w, temp)))


@on_gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_layers_on_a_gpu(dtype, monkeypatch):
    for made, x in layers():
        made, x, seen = made.cuda(), x.cuda(), []
        reference = made.straightforward(x)
        launch = fused._launch
        with monkeypatch.context() as patch:
            patch.setattr(
                fused, "_launch", lambda kernel, w, *r, **k: seen.append(w.dtype) or launch(kernel, w, *r, **k)
            )
            with torch.autocast("cuda", dtype or torch.float16, enabled=dtype is not None):
                y = made(x)
            y.float().square().sum().backward()
        assert set(seen) == {dtype or torch.float32} and len(seen) == 6
        assert (y.float() - reference).norm() <= ROUNDING[dtype or torch.float32] * 3 * reference.norm()
        assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)


@on_gpu
def test_memory_on_a_gpu():
    """In bfloat16 the layer keeps its tokens, its projected tokens and its update, and 0.6 of the published at most."""
    made = TSSA(256, 8).cuda().bfloat16()
    x, peaks = torch.randn(4, 6400, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True), []
    g = torch.randn_like(x)
    for f in (made, lambda x: cost.published(made, x)):
        torch.autograd.grad(f(x), [x, *made.parameters()], g)  # buffers of libraries
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(f(x), [x, *made.parameters()], g)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] <= 0.6 * peaks[1]


def test_tiny_is_what_the_fast_path_divides_by():
    """A dead channel's squares are divided by this, not by 0, in float32, too."""
    assert torch.tensor(TINY, dtype=torch.float32) > 0
