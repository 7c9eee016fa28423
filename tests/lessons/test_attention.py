"""Every operator against its formula: CRATE's token by token, the rivals against softmax attention and loops."""

import math

import pytest
import torch
from torch import nn

from kit import attention
from kit.attention import (
    MSSA,
    XCA,
    Attention,
    Chunked,
    Linformer,
    Nystrom,
    RateGradient,
    SlidingWindow,
    WrittenOut,
    ista_step,
    mssa,
)
from tssa_lib import rates
from tssa_lib.tssa import TSSA

TIGHT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def orthonormal(K: int, d: int, p: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d))[0][:, : K * p].reshape(d, K, p).permute(1, 0, 2)


def mssa_by_tokens(x: torch.Tensor, U: torch.Tensor, scale: float) -> torch.Tensor:
    y = torch.zeros_like(x)
    for basis in U:
        w = [basis.T @ z for z in x]
        for j in range(len(x)):
            weights = [math.exp(scale * float(w_i @ w[j])) for w_i in w]
            y[j] += basis @ sum(a * w_i for a, w_i in zip(weights, w)) / sum(weights)
    return y


# ---- the formula -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "N, d, K, p, scale", [(1, 1, 1, 1, 1.0), (7, 6, 3, 2, 1.0), (5, 6, 2, 2, 0.5), (4, 3, 4, 3, 2.0)]
)
def test_mssa_is_its_formula(N, d, K, p, scale):
    x, U = torch.randn(N, d), torch.randn(K, d, p)
    torch.testing.assert_close(mssa(x, U, scale), mssa_by_tokens(x, U, scale), **TIGHT)


def test_mssa_takes_batches():
    x, U = torch.randn(2, 3, 5, 6), orthonormal(3, 6, 2)
    torch.testing.assert_close(mssa(x, U)[1, 2], mssa(x[1, 2], U), **TIGHT)


@pytest.mark.parametrize("tied", [True, False])
def test_the_layer_is_the_formula(tied):
    layer, x, U = MSSA(6, 3, tied=tied), torch.randn(2, 5, 6), orthonormal(3, 6, 2)
    with torch.no_grad():
        layer.qkv.weight.copy_(U.mT.reshape(6, 6))
        if not tied:
            layer.to_out.weight.copy_(layer.qkv.weight.T)
            layer.to_out.bias.fill_(0.25)
    torch.testing.assert_close(layer(x), mssa(x, U, 2**-0.5) + (0 if tied else 0.25), **TIGHT)


def test_the_layer_is_textbook_attention_with_one_matrix_for_all():
    layer, textbook, x = (
        MSSA(8, 2, tied=True),
        nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
        torch.randn(3, 7, 8),
    )
    with torch.no_grad():
        textbook.in_proj_weight.copy_(layer.qkv.weight.repeat(3, 1))
        textbook.out_proj.weight.copy_(layer.qkv.weight.T)
    torch.testing.assert_close(layer(x), textbook(x, x, x, need_weights=False)[0], **TIGHT)


def test_parameters_are_counted_as_published():
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert count(MSSA(8, 2)) == 2 * 8 * 8 + 8 and count(MSSA(8, 2, tied=True)) == 8 * 8


def test_gradients_of_the_layer():
    layer = MSSA(4, 2)
    assert torch.autograd.gradcheck(layer, (torch.randn(1, 3, 4, requires_grad=True),))


def test_the_derived_update_compresses_and_the_published_one_does_not():
    x, U = torch.nn.functional.normalize(torch.randn(200, 40, 12), dim=-1), orthonormal(3, 12, 4)
    before, y = rates.subspace_rate(x, U, 0.3), mssa(x, U)
    assert (rates.subspace_rate((x + y) / 2, U, 0.3) < before).all()
    assert (rates.subspace_rate(x + y / 2, U, 0.3) > before).all()


# ---- ISTA ------------------------------------------------------------------------------------------------
def lasso(x, A, Q, lam):
    return lam * A.abs().sum() + ((x - A @ Q.T) ** 2).sum() / 2


def test_ista_step_is_the_minimum_of_its_majoriser():
    x, Q, t, lam = torch.rand(9, 5), torch.randn(5, 5), 0.07, 0.1
    A = ista_step(x, Q, t, lam)
    gradient = (A - x) / t + (x @ Q.T - x) @ Q + lam  # of the quadratic majoriser at the new point
    assert (A >= 0).all() and (A == 0).any() and (A > 0).any()
    assert gradient[A > 0].abs().max() < 1e-11 and (gradient[A == 0] > 0).all()


def test_ista_step_lowers_the_lasso_up_to_its_step():
    for _ in range(100):
        x, Q = torch.rand(9, 5), torch.randn(5, 5)
        t = 1 / torch.linalg.matrix_norm(Q, 2) ** 2
        assert lasso(x, ista_step(x, Q, t, 0.1), Q, 0.1) <= lasso(x, x, Q, 0.1) + 1e-12


def test_a_step_three_times_too_long_raises_the_lasso():
    x, Q = torch.rand(9, 5) + 1, torch.eye(5) / 2  # ‖Q‖² = 1/4
    assert lasso(x, ista_step(x, Q, 12.0, 0.1), Q, 0.1) > lasso(x, x, Q, 0.1)


# ---- the rivals ------------------------------------------------------------------------------------------
def layer(kind, dim=12, num_heads=3, **options):
    """A rival, seeded so that its projections are those of every other one."""
    torch.manual_seed(7)
    return kind(dim, num_heads, **options)


def softmax(x):
    return layer(Attention)(x)


def by_tokens(rival, x, seen):
    """Softmax attention with loops over tokens: token i sees the tokens j for which seen(i, j)."""
    q, k, v = rival.qkv(x).unflatten(-1, (3, rival.num_heads, -1)).permute(2, 0, 3, 1, 4)
    y = torch.zeros_like(q)
    for i in range(x.shape[1]):
        js = [j for j in range(x.shape[1]) if seen(i, j)]
        A = (q[:, :, i, None] @ k[:, :, js].mT / q.shape[-1] ** 0.5).softmax(-1)  # over the tokens that are seen
        y[:, :, i] = (A @ v[:, :, js])[:, :, 0]
    return rival.to_out(y.transpose(1, 2).flatten(2))


def test_softmax_attention_is_the_textbooks():
    rival, x, textbook = layer(Attention), torch.randn(2, 7, 12), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        textbook.in_proj_weight.copy_(rival.qkv.weight), textbook.in_proj_bias.zero_()
        textbook.out_proj.weight.copy_(rival.to_out.weight), textbook.out_proj.bias.copy_(rival.to_out.bias)
    torch.testing.assert_close(rival(x), textbook(x, x, x, need_weights=False)[0], **TIGHT)
    torch.testing.assert_close(layer(WrittenOut)(x), rival(x), **TIGHT)
    torch.testing.assert_close(by_tokens(rival, x, lambda i, j: True), rival(x), **TIGHT)


@pytest.mark.parametrize("N, chunk", [(7, 3), (8, 4), (5, 1), (3, 10), (1, 4)])
def test_chunked_attention_sees_its_own_chunk(N, chunk):
    rival, x = layer(Chunked, chunk=chunk), torch.randn(2, N, 12)
    torch.testing.assert_close(rival(x), by_tokens(rival, x, lambda i, j: i // chunk == j // chunk), **TIGHT)
    torch.testing.assert_close(layer(Chunked, chunk=N)(x), softmax(x), **TIGHT)


@pytest.mark.parametrize("N, window", [(7, 3), (8, 5), (9, 1), (3, 5), (3, 99), (1, 3), (13, 7)])
def test_a_sliding_window_sees_its_window(N, window):
    rival, x = layer(SlidingWindow, window=window), torch.randn(2, N, 12)
    torch.testing.assert_close(rival(x), by_tokens(rival, x, lambda i, j: abs(i - j) <= window // 2), **TIGHT)
    torch.testing.assert_close(layer(SlidingWindow, window=2 * N - 1)(x), softmax(x), **TIGHT)


def test_linformer_with_identity_projections_is_softmax_attention():
    rival, x = layer(Linformer, rank=9, tokens=9), torch.randn(2, 9, 12)
    assert (rival(x) - softmax(x)).abs().max() > 1e-3
    with torch.no_grad():
        rival.E.copy_(torch.eye(9)), rival.F.copy_(torch.eye(9))
    torch.testing.assert_close(rival(x), softmax(x), **TIGHT)
    q, k, v = rival.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    low = layer(Linformer, rank=2, tokens=9)
    y = (q @ (low.E @ k).mT / 2).softmax(-1) @ (low.F @ v)  # over the rank
    torch.testing.assert_close(low(x), low.to_out(y.transpose(1, 2).flatten(2)), **TIGHT)


def test_nystrom_with_all_landmarks_is_softmax_attention():
    x = 3 * torch.randn(2, 6, 12)
    errors = [(layer(Nystrom, landmarks=6, steps=steps)(x) - softmax(x)).abs().max().item() for steps in (2, 6, 60)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-10
    few = layer(Nystrom, landmarks=2, steps=60)  # two landmarks: the means of three tokens each
    q, k, v = few.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    qm, km = (t.unflatten(2, (2, 3)).mean(3) for t in (q, k))
    A, B, C = ((a @ b.mT / 2).softmax(-1) for a, b in ((q, km), (qm, km), (qm, k)))  # over the landmarks, the keys
    torch.testing.assert_close(
        few(x), few.to_out((A @ torch.linalg.pinv(B) @ C @ v).transpose(1, 2).flatten(2)), **TIGHT
    )


def test_cross_covariance_attention_is_its_formula():
    rival, x = layer(XCA), torch.randn(2, 7, 12)
    with torch.no_grad():
        rival.temp.copy_(torch.tensor([0.5, 1.0, 4.0]).view(3, 1, 1))
    q, k, v = rival.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    y = torch.zeros_like(v)
    for b in range(2):
        for h in range(3):
            for i in range(4):
                cosine = [q[b, h, :, i] @ k[b, h, :, j] / q[b, h, :, i].norm() / k[b, h, :, j].norm() for j in range(4)]
                A = (rival.temp[h, 0, 0] * torch.stack(cosine)).softmax(0)  # over the keys' channels
                y[b, h, :, i] = sum(A[j] * v[b, h, :, j] for j in range(4))
    torch.testing.assert_close(rival(x), rival.to_out(y.transpose(1, 2).flatten(2)), **TIGHT)


def test_the_rate_gradient_is_the_closed_form():
    rival, x, U = layer(RateGradient, eps2=0.3), torch.randn(2, 7, 12), orthonormal(3, 12, 4)
    with torch.no_grad():
        rival.qkv.weight.copy_(U.mT.reshape(12, 12))
        rival.to_out.weight.copy_(rival.qkv.weight.T), rival.to_out.bias.zero_()
    alpha = 4 / (7 * 0.3)
    torch.testing.assert_close(alpha * rival(x), rates.subspace_rate_grad(x, U, 0.3), **TIGHT)


RIVALS = {
    Attention: {},
    WrittenOut: {},
    Chunked: {"chunk": 3},
    SlidingWindow: {"window": 3},
    Linformer: {"rank": 2, "tokens": 5},
    Nystrom: {"landmarks": 2},
    XCA: {},
    RateGradient: {},
    MSSA: {},
    TSSA: {},
}


@pytest.mark.parametrize("kind", RIVALS)
def test_one_signature_and_gradients_for_all(kind):
    rival = kind(6, 2, **RIVALS[kind])
    for shape in ((2, 5, 6), (1, 1, 6), (3, 4, 6)):
        y = rival(torch.randn(shape))
        assert y.shape == shape and y.isfinite().all()
    assert torch.autograd.gradcheck(rival, (torch.randn(1, 5, 6, requires_grad=True),))
    images = torch.randn(3, 5, 6)
    torch.testing.assert_close(rival(images)[1:2], rival(images[1:2]), **TIGHT)  # images do not meet
    rival(images).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in rival.parameters())


@pytest.mark.parametrize("kind", RIVALS)
def test_every_rival_says_what_it_expects(kind):
    with pytest.raises(ValueError, match="expected num_heads that divides dim, got dim=6, num_heads=4"):
        kind(6, 4, **RIVALS[kind])
    rival = kind(6, 2, **RIVALS[kind])
    for x in (torch.ones(5, 6), torch.ones(1, 5, 7), torch.ones(1, 0, 6), torch.ones(1, 5, 6, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"expected x \(B, N >= 1, 6\) of a floating dtype, got ") as e:
            rival(x)
        assert str(tuple(x.shape)) in str(e.value) and str(x.dtype) in str(e.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Chunked(6, 2, chunk=0), "chunk >= 1, got 0"),
        (lambda: SlidingWindow(6, 2, window=4), "odd window >= 1, got 4"),
        (lambda: Linformer(6, 2, rank=0), "rank >= 1, got 0"),
        (lambda: Nystrom(6, 2, landmarks=0), "landmarks >= 1, got 0"),
        (
            lambda: Linformer(6, 2, tokens=4)(torch.ones(1, 5, 6)),
            "at most 4 tokens, for which E and F were made, got 5",
        ),
    ],
)
def test_the_rivals_own_parameters_are_checked(call, message):
    with pytest.raises(ValueError, match=f"expected.*{message}"):
        call()


# ---- bad input -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mssa(torch.ones(3), torch.ones(1, 3, 2)), r"x \(…, N, d\)"),
        (lambda: mssa(torch.ones(3, 4), torch.ones(1, 3, 2)), r"got \(3, 4\) and \(1, 3, 2\)"),
        (lambda: mssa(torch.ones(3, 4), torch.ones(4, 2)), r"U \(K, d, p\)"),
        (lambda: ista_step(torch.ones(3, 4), torch.ones(3, 3)), r"got \(3, 4\) and \(3, 3\)"),
        (lambda: ista_step(torch.ones(3, 4), torch.ones(4, 3)), r"Q \(d, d\)"),
        (lambda: MSSA(6, 4), "dim=6, num_heads=4"),
        (lambda: MSSA(6, 0), "num_heads=0"),
        (lambda: MSSA(6, 2)(torch.ones(5, 6)), r"got \(5, 6\)"),
        (lambda: MSSA(6, 2)(torch.ones(1, 5, 4)), r"N >= 1, 6"),
        (lambda: MSSA(6, 2)(torch.ones(1, 0, 6)), r"got \(1, 0, 6\)"),
        (lambda: MSSA(6, 2)(torch.ones(1, 5, 6, dtype=torch.int64)), "int64"),
    ],
)
def test_bad_input_says_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=f"expected.*{message}|expected.*got.*{message}"):
        call()


def test_examples_in_the_docstrings():
    import doctest

    torch.set_default_dtype(torch.float32)
    assert doctest.testmod(attention).failed == 0
