"""Coding rate and rate reduction: limits, invariances, gradients, and what bad input is told."""

import doctest
import math

import pytest
import torch

from tssa_lib import core, rates

N, D, K, EPS2 = 9, 4, 3, 0.3
F64 = {"dtype": torch.float64}
GROUPED = [rates.compression_rate, rates.rate_reduction, rates.compression_rate_grad, rates.rate_reduction_grad]
WHOLE = [rates.coding_rate, rates.coding_rate_grad]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def tokens(n: int = N, d: int = D) -> torch.Tensor:
    return torch.randn(n, d, **F64)


def memberships(k: int = K, n: int = N) -> torch.Tensor:
    return (2 * torch.randn(k, n, **F64)).softmax(0)  # over the groups


def orthogonal(m: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(m, m, **F64)).Q


def determinant(x: torch.Tensor, eps2: float = EPS2) -> torch.Tensor:
    """The definition, from a determinant: a second route to the coding rate."""
    n, d = x.shape
    return 0.5 * torch.logdet(torch.eye(d, **F64) + d / (n * eps2) * x.T @ x)


def close(a, b, tol=1e-12):
    torch.testing.assert_close(torch.as_tensor(a, **F64), torch.as_tensor(b, **F64), atol=tol, rtol=tol)


# ---- values -------------------------------------------------------------------------------------------
def test_doctests():
    result = doctest.testmod(rates)
    assert result.attempted >= 10 and result.failed == 0


@pytest.mark.parametrize("n, d", [(1, 1), (1, 5), (5, 1), (3, 8), (8, 3), (6, 6)])
def test_both_forms_are_the_determinant(n, d):
    x = tokens(n, d)
    close(rates.coding_rate(x, EPS2), determinant(x))


def test_rates_of_groups_by_hand():
    x, Pi = tokens(), torch.zeros(2, N, **F64)
    Pi[0, :4], Pi[1, 4:] = 1, 1  # hard groups: R_c is the mean of their own rates
    close(rates.compression_rate(x, Pi, EPS2), 4 / N * determinant(x[:4]) + 5 / N * determinant(x[4:]))
    soft = memberships()  # soft: a weighted token is the token times √π
    want = sum(p.sum() / N * determinant(p.sqrt()[:, None] * x * (N / p.sum()).sqrt()) for p in soft)
    close(rates.compression_rate(x, soft, EPS2), want)


def test_rate_reduction_is_never_negative_and_zero_for_equal_groups():
    for _ in range(100):
        assert rates.rate_reduction(tokens(), memberships(), EPS2) > 0
    close(rates.rate_reduction(tokens(), torch.full((K, N), 1 / K, **F64), EPS2), 0)


@pytest.mark.parametrize("d, k", [(3, 3), (6, 3), (6, 2), (12, 4), (5, 1)])
def test_closed_form_maximum_is_reached_by_orthogonal_groups_and_not_exceeded(d, k):
    x, Pi = torch.eye(d, **F64), torch.eye(k, **F64).repeat_interleave(d // k, 1)
    best = rates.max_rate_reduction(d, k, EPS2)
    close(rates.rate_reduction(x, Pi, EPS2), best)
    for scale in (0.1, 1.0):  # near the optimum and far from it
        near = torch.nn.functional.normalize(x + scale * torch.randn(d, d, **F64), dim=1)
        assert rates.rate_reduction(near, Pi, EPS2) <= best + 1e-12


@pytest.mark.parametrize("eps2", [0.01, 0.3, 10.0])
def test_the_safe_step_never_goes_down_and_a_long_one_does(eps2):
    def step(x, factor):
        move = factor * rates.safe_ascent_step(N, D, eps2) * rates.rate_reduction_grad(x, Pi, eps2)
        return torch.nn.functional.normalize(x + move, dim=1)

    Pi, x = memberships(), torch.nn.functional.normalize(tokens(), dim=1)
    for _ in range(30):
        new = step(x, 1)
        assert rates.rate_reduction(new, Pi, eps2) >= rates.rate_reduction(x, Pi, eps2) - 1e-13
        x = new


def test_a_step_that_is_too_long_goes_down():
    x, Pi = torch.nn.functional.normalize(tokens(60, 3), dim=1), torch.eye(3, **F64).repeat_interleave(20, 1)
    values = []
    for _ in range(60):
        values.append(rates.rate_reduction(x, Pi, 0.1).item())
        x = torch.nn.functional.normalize(
            x + 8 * rates.safe_ascent_step(60, 3, 0.1) * rates.rate_reduction_grad(x, Pi, 0.1), dim=1
        )
    assert min(b - a for a, b in zip(values, values[1:])) < -1e-3


# ---- invariances ---------------------------------------------------------------------------------------
def test_what_the_rates_ignore():
    x, Pi, Q, order = tokens(), memberships(), orthogonal(D), torch.randperm(N)
    R, R_c = rates.coding_rate(x, EPS2), rates.compression_rate(x, Pi, EPS2)
    close(rates.coding_rate(orthogonal(N) @ x @ Q, EPS2), R)  # rotated space, mixed tokens
    close(rates.compression_rate((x @ Q)[order], Pi[:, order], EPS2), R_c)  # rotated space, tokens reordered
    close(rates.compression_rate(x, Pi.flip(0), EPS2), R_c)  # groups renamed
    close(rates.coding_rate(torch.cat([x, x]), EPS2), R)  # copies
    close(rates.coding_rate(3 * x, EPS2), rates.coding_rate(x, EPS2 / 9))  # scale is precision
    close(rates.coding_rate(torch.cat([x, 0 * x]), EPS2), rates.coding_rate(x, 2 * EPS2))
    split = torch.cat([Pi[:1] * 0.3, Pi[:1] * 0.7, Pi[1:]])  # one group cut in two alike halves
    close(rates.compression_rate(x, split, EPS2), R_c)


def test_what_the_rates_notice():
    x, Pi = tokens(), memberships()
    R, R_c = rates.coding_rate(x, EPS2), rates.compression_rate(x, Pi, EPS2)
    assert (rates.coding_rate(x - x.mean(0), EPS2) - R).abs() > 1e-3  # no centring
    assert (rates.coding_rate(torch.nn.functional.pad(x, (0, 1)), EPS2) - R).abs() > 1e-3  # c holds the width d
    assert (rates.compression_rate(x, Pi[:, torch.randperm(N)], EPS2) - R_c).abs() > 1e-4  # who belongs where


@pytest.mark.parametrize("function", WHOLE + GROUPED)
def test_batches_are_independent(function):
    x, Pi = torch.randn(2, 3, N, D, **F64), torch.randn(2, 3, K, N, **F64).softmax(-2)  # over the groups
    more = (Pi,) if function in GROUPED else ()
    one = (Pi[1, 2],) if function in GROUPED else ()
    close(function(x, *more, EPS2)[1, 2], function(x[1, 2], *one, EPS2))
    if function in GROUPED:  # one Pi for the whole batch
        close(function(x, Pi[0, 0], EPS2)[1, 2], function(x[1, 2], Pi[0, 0], EPS2))


# ---- gradients -----------------------------------------------------------------------------------------
SPECIAL = {
    "generic": lambda: tokens(),
    "fewer tokens than dimensions": lambda: tokens(2),
    "one token": lambda: tokens(1),
    "rank one": lambda: tokens(N, 1) @ tokens(1, D),
    "equal tokens": lambda: tokens(1).repeat(N, 1),
    "zero tokens": lambda: torch.zeros(N, D, **F64),
    "orthonormal": lambda: torch.eye(D, **F64),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_gradients_against_autograd(name):
    x = SPECIAL[name]().requires_grad_()
    Pi = memberships(K, len(x))
    for rate, gradient, more in [
        (rates.coding_rate, rates.coding_rate_grad, ()),
        (rates.compression_rate, rates.compression_rate_grad, (Pi,)),
        (rates.rate_reduction, rates.rate_reduction_grad, (Pi,)),
    ]:
        (automatic,) = torch.autograd.grad(rate(x, *more, EPS2), x)
        close(gradient(x.detach(), *more, EPS2), automatic, tol=1e-11)


def test_gradients_against_central_differences():
    x, Pi, h = tokens(), memberships(), 1e-5
    for rate, gradient in [
        (rates.compression_rate, rates.compression_rate_grad),
        (rates.rate_reduction, rates.rate_reduction_grad),
    ]:
        nudges = h * torch.eye(N * D, **F64).view(-1, N, D)
        slopes = (rate(x + nudges, Pi, EPS2) - rate(x - nudges, Pi, EPS2)) / (2 * h)
        close(gradient(x, Pi, EPS2), slopes.view(N, D), tol=1e-8)


# ---- limits, documented ----------------------------------------------------------------------------------
def test_one_token():
    z = tokens(1)
    close(rates.coding_rate(z, EPS2), 0.5 * math.log1p(D / EPS2 * z.square().sum().item()))
    close(rates.rate_reduction(z, torch.tensor([[0.25], [0.75]], **F64), EPS2), 0)  # nothing to tell apart


def test_an_empty_group_costs_nothing_and_has_no_moment():
    x, Pi = tokens().requires_grad_(), memberships(2)
    empty = torch.cat([Pi, torch.zeros(1, N, **F64)]).requires_grad_()
    close(rates.compression_rate(x, empty, EPS2), rates.compression_rate(x, Pi, EPS2))
    close(rates.compression_rate_grad(x, empty, EPS2), rates.compression_rate_grad(x, Pi, EPS2))
    assert rates.second_moment(x, empty)[2].abs().max() == 0
    for gradient in torch.autograd.grad(rates.compression_rate(x, empty, EPS2), [x, empty]):
        assert gradient.isfinite().all()


def test_fine_and_coarse_precision():
    flat = tokens(N, 2) @ tokens(2, D)  # rank 2
    slope = (rates.coding_rate(flat, 1e-10) - rates.coding_rate(flat, 1e-8)) / math.log(10)
    close(slope, 2, tol=1e-4)  # counts dimensions
    close(1e9 * rates.coding_rate(flat, 1e9), D / (2 * N) * flat.square().sum(), tol=1e-6)  # sees energy
    assert rates.coding_rate(flat, 1e-300).isfinite() and rates.coding_rate(1e-200 * flat, EPS2) == 0


def test_single_precision_stays_finite_and_close():
    x, Pi = tokens(), memberships()
    for function in GROUPED:
        torch.testing.assert_close(
            function(x.float(), Pi.float(), EPS2).double(), function(x, Pi, EPS2), atol=1e-5, rtol=1e-4
        )


# ---- bad input -------------------------------------------------------------------------------------------
def spoilt(what) -> tuple:
    """Arguments (x, Pi, eps2) with one of them spoilt."""
    x, Pi, eps2 = tokens(), memberships(), EPS2
    if what == "NaN":
        x[0, 0] = math.nan
    elif what == "infinite":
        x[0, 0] = -math.inf
    elif what == "too large":
        x[0, 0] = 1e200
    elif what == "integers":
        x = x.long()
    elif what == "one axis":
        x = x[0]
    elif what == "no tokens":
        x, Pi = x[:0], Pi[:, :0]
    elif what == "no dimensions":
        x = x[:, :0]
    elif what == "wrong axis":
        Pi = Pi.softmax(-1)  # over the tokens: wrong
    elif what == "transposed":
        Pi = Pi.T
    elif what == "half":
        Pi = Pi / 2
    elif what == "negative":
        Pi = torch.stack([Pi[0] + 1, Pi[1] - 1, Pi[2]])
    elif what == "NaN memberships":
        Pi[0, 0] = math.nan
    elif what == "labels":
        Pi = torch.zeros(N, **F64)
    elif what == "one-hot integers":
        Pi = torch.nn.functional.one_hot(torch.arange(N) % K).T
    elif what == "another batch":
        x, Pi = x.expand(2, N, D), Pi.expand(5, K, N)
    else:
        eps2 = what
    return x, Pi, eps2


TOKENS = [
    ("NaN", "finite tokens, got NaN"),
    ("infinite", "finite tokens"),
    ("too large", "summed in torch.float64, got entries up to 1e.200"),
    ("integers", r"float32 or float64, got \(9, 4\) torch.int64"),
    ("one axis", r"x \(…, N, d\).*got \(4,\)"),
    ("no tokens", r"at least one token.*got x \(0, 4\)"),
    ("no dimensions", r"got x \(9, 0\)"),
    (0.0, "eps2 > 0, got 0.0"),
    (-0.1, "eps2 > 0, got -0.1"),
    (math.nan, "eps2 > 0, got nan"),
    (math.inf, "eps2 > 0, got inf"),
    (1e-310, "d/eps2 within torch.float64, got 1e-310"),
]
PI = [
    ("wrong axis", r"sum to 1 over the K groups \(axis -2\)"),
    ("transposed", r"N=9\), got \(9, 3\) with x \(9, 4\)"),
    ("half", "got sums up to 0.5 off"),
    ("negative", "memberships >= 0.*minimum of -"),
    ("NaN memberships", "sums up to nan off"),
    ("labels", r"Pi \(…, K, N=9\).*got \(9,\)"),
    ("one-hot integers", "tokens' dtype torch.float64, got torch.int64"),
    ("another batch", r"got \(5, 3, 9\) with x \(2, 9, 4\)"),
]


@pytest.mark.parametrize("function", GROUPED)
@pytest.mark.parametrize("what, message", TOKENS + PI)
def test_bad_input_to_grouped_rates(function, what, message):
    with pytest.raises(ValueError, match="expected .*" + message):
        function(*spoilt(what))


@pytest.mark.parametrize("function", WHOLE)
@pytest.mark.parametrize("what, message", TOKENS)
def test_bad_input_to_whole_rates(function, what, message):
    x, _, eps2 = spoilt(what)
    with pytest.raises(ValueError, match="expected .*" + message):
        function(x, eps2)


@pytest.mark.parametrize("what, message", TOKENS[:7] + PI)
def test_bad_input_to_second_moment(what, message):
    x, Pi, _ = spoilt(what)
    with pytest.raises(ValueError, match="expected .*" + message):
        rates.second_moment(x, Pi)


@pytest.mark.parametrize("function", [rates.subspace_rate, rates.subspace_rate_grad])
@pytest.mark.parametrize("what, message", TOKENS)
def test_bad_input_to_subspace_rates(function, what, message):
    x, _, eps2 = spoilt(what)
    with pytest.raises(ValueError, match="expected .*" + message):
        function(x, torch.eye(D, **F64)[None], eps2)


@pytest.mark.parametrize(
    "U, got", [(torch.eye(D, **F64), r"got \(4, 4\)"), (torch.zeros(2, 5, 1, **F64), r"d=4, p >= 1\), got \(2, 5, 1\)")]
)
def test_bases_of_another_shape(U, got):
    for function in (rates.subspace_rate, rates.subspace_rate_grad):
        with pytest.raises(ValueError, match="expected bases U .*" + got):
            function(tokens(), U, EPS2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rates.max_rate_reduction(3, 3, 0), "eps2 > 0, got 0"),
        (lambda: rates.max_rate_reduction(4, 3, 0.1), "got d=4, K=3"),
        (lambda: rates.max_rate_reduction(3, 0, 0.1), "K >= 1, got 0"),
        (lambda: rates.safe_ascent_step(0, 3, 0.1), "N >= 1, got 0"),
        (lambda: rates.safe_ascent_step(5, 3, -1.0), "eps2 > 0, got -1.0"),
        (lambda: rates.safe_ascent_step(5, 3, math.nan), "got nan"),
    ],
)
def test_bad_numbers(call, message):
    with pytest.raises(ValueError, match="expected .*" + message):
        call()


X, PI, U = torch.randn(6, 4), torch.full((2, 6), 0.5), torch.eye(4)[None, :, :2].repeat(2, 1, 1)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: rates.coding_rate(X.half(), 0.1), "in float32 or float64, got .* torch.float16"),
        (lambda: rates.coding_rate(X.bfloat16(), 0.1), "in float32 or float64"),
        (lambda: rates.coding_rate(torch.zeros(0, 6, 4), 0.1), "no empty batch"),
        (lambda: rates.compression_rate(X, PI[:0], 0.1), "expected K >= 1 groups"),
        (lambda: rates.variational_rate(X, PI, U.double(), 0.1), "expected bases of the tokens' dtype"),
        (lambda: rates.variational_rate(X, PI, U[..., :0], 0.1), r"p >= 1\), got \(2, 4, 0\)"),
        (lambda: rates.variational_rate(X, PI, U * math.nan, 0.1), "expected finite bases"),
        (lambda: core.tssa_update(X, PI, U, -0.1), "expected eps2 > 0, got -0.1"),
        (lambda: core.tssa_update(X, PI, U[:1], 0.1), r"that agree, got \(6, 4\), \(2, 6\), \(1, 4, 2\)"),
        (lambda: core.tssa_update(X, PI[:, :5], U, 0.1), "that agree"),
        (lambda: core.largest_safe_gamma(PI, U[:1], torch.ones(2, 2)), "that agree"),
        (lambda: core.largest_safe_gamma(PI, U, torch.ones(2, 3)), "that agree"),
        (lambda: core.largest_safe_gamma(PI, U * math.nan, torch.ones(2, 2)), "expected finite Pi, U and D"),
        (lambda: core.second_moments(X[None], PI), r"that agree, got \(1, 6, 4\), \(2, 6\)"),
        (lambda: core.second_moments(X[None], PI[:1, :5]), "that agree"),
    ],
)
def test_what_does_not_fit_is_told_what_was_expected(call, said):
    with pytest.raises(ValueError, match=said):
        call()
