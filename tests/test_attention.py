"""CRATE's attention and ISTA step against their formulas, written out token by token."""

import math

import pytest
import torch
from torch import nn

from tssa_lib import attention, rates
from tssa_lib.attention import MSSA, ista_step, mssa

TIGHT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def orthonormal(K: int, d: int, p: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d))[0][:, :K * p].reshape(d, K, p).permute(1, 0, 2)


def mssa_by_tokens(x: torch.Tensor, U: torch.Tensor, scale: float) -> torch.Tensor:
    y = torch.zeros_like(x)
    for basis in U:
        w = [basis.T @ z for z in x]
        for j in range(len(x)):
            weights = [math.exp(scale * float(w_i @ w[j])) for w_i in w]
            y[j] += basis @ sum(a * w_i for a, w_i in zip(weights, w)) / sum(weights)
    return y


# ---- the formula -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("N, d, K, p, scale", [(1, 1, 1, 1, 1.0), (7, 6, 3, 2, 1.0), (5, 6, 2, 2, 0.5), (4, 3, 4, 3, 2.0)])
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
    torch.testing.assert_close(layer(x), mssa(x, U, 2 ** -0.5) + (0 if tied else 0.25), **TIGHT)


def test_the_layer_is_textbook_attention_with_one_matrix_for_all():
    layer, textbook, x = MSSA(8, 2, tied=True), nn.MultiheadAttention(8, 2, bias=False, batch_first=True), torch.randn(3, 7, 8)
    with torch.no_grad():
        textbook.in_proj_weight.copy_(layer.qkv.weight.repeat(3, 1))
        textbook.out_proj.weight.copy_(layer.qkv.weight.T)
    torch.testing.assert_close(layer(x), textbook(x, x, x, need_weights=False)[0], **TIGHT)


def test_parameters_are_counted_as_published():
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
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


# ---- bad input -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call, message", [
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
])
def test_bad_input_says_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=f"expected.*{message}|expected.*got.*{message}"):
        call()


def test_examples_in_the_docstrings():
    import doctest
    torch.set_default_dtype(torch.float32)
    assert doctest.testmod(attention).failed == 0
