"""The variational rate: which bounds hold for which width p, tight where they should be, and what bad input is told."""

import math

import pytest
import torch

from tssa_lib import rates

D, N, K, EPS2 = 6, 30, 3, 0.4
FUNCTIONS = [rates.variational_rate, rates.variational_rate_grad, rates.code_lengths]
WIDTHS = [1, 2, 3, 5, 6]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(4)


def bases(p: int, count: int = K) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(count, D, p, dtype=torch.float64)).Q


def tokens(rank: int = D) -> torch.Tensor:
    return torch.randn(N, rank, dtype=torch.float64) @ torch.randn(rank, D, dtype=torch.float64)


def memberships(sharpness: float = 3.0) -> torch.Tensor:
    return (sharpness * torch.randn(K, N, dtype=torch.float64)).softmax(0)  # over the groups


def projected_rate(x, Pi, U):
    """½ Σ_k (n_k/n) logdet(I + c U_kᵀS_kU_k), from determinants."""
    S = U.mT @ rates.second_moment(x, Pi) @ U
    eye = torch.eye(U.shape[-1], dtype=x.dtype)
    return 0.5 * (Pi.sum(-1) / N * torch.logdet(eye + D / EPS2 * S)).sum()


# ---- the claims of lesson 4 --------------------------------------------------------------------------
@pytest.mark.parametrize("p", WIDTHS)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_claims_for_every_width(p, rank):
    for _ in range(20):
        x, Pi, U = tokens(rank), memberships(), bases(p)
        short = rates.variational_rate(x, Pi, U, EPS2)
        corrected = rates.variational_rate(x, Pi, U, EPS2, corrected=True)
        projected, full = projected_rate(x, Pi, U), rates.compression_rate(x, Pi, EPS2)
        assert projected <= short + 1e-10  # (a)
        assert projected <= full + 1e-10  # (b)
        assert full <= corrected + 1e-10  # (d), the corrected bound
        assert short <= corrected + 1e-10
        if p == D:
            assert torch.isclose(short, corrected)


def test_the_short_sum_bounds_the_full_rate_only_inside_the_span():
    x, Pi = tokens(), memberships()
    for _ in range(20):  # (c) with its condition: all tokens in the span of one U
        U = bases(3, 1).expand(K, D, 3)
        inside = x @ U[0] @ U[0].T
        assert rates.compression_rate(inside, Pi, EPS2) <= rates.variational_rate(inside, Pi, U, EPS2) + 1e-10
    eye, one = torch.eye(D, dtype=torch.float64), torch.ones(1, N, dtype=torch.float64)
    line = torch.randn(N, 1, dtype=torch.float64) * eye[0]
    askew = torch.stack([eye[0] + eye[1], eye[0] - eye[1]], 1)[None] / math.sqrt(2)
    full = rates.compression_rate(line, one, EPS2)
    assert rates.variational_rate(line, one, eye[None, :, 3:], EPS2) == 0 < full  # looks away: too small
    assert rates.variational_rate(line, one, askew, EPS2) > full + 0.1  # askew: too large


def test_equality_in_the_eigenbasis_and_excess_is_total_correlation():
    x, Pi = tokens(), memberships()
    S = rates.second_moment(x, Pi)
    own, full = torch.linalg.eigh(S)[1], rates.compression_rate(x, Pi, EPS2)
    assert torch.isclose(rates.variational_rate(x, Pi, own, EPS2), full, rtol=1e-12)
    U = bases(D)
    C = torch.eye(D, dtype=x.dtype) + D / EPS2 * U.mT @ S @ U
    sd = C.diagonal(dim1=-2, dim2=-1).sqrt()
    TC = -0.5 * torch.logdet(C / sd[..., None] / sd[..., None, :])
    excess = rates.variational_rate(x, Pi, U, EPS2) - full
    assert excess > 0.1 and torch.isclose(excess, (Pi.sum(-1) / N * TC).sum(), rtol=1e-10)


def test_corrected_bound_is_tight_when_the_rest_is_even():
    p, one = 2, torch.ones(1, D, dtype=torch.float64)
    x = math.sqrt(D) * torch.diag(torch.tensor([2.0, 1.0, 0.3, 0.3, 0.3, 0.3], dtype=torch.float64))
    U = torch.eye(D, dtype=torch.float64)[None, :, :p]
    full = rates.compression_rate(x, one, EPS2)
    assert torch.isclose(rates.variational_rate(x, one, U, EPS2, corrected=True), full, rtol=1e-12)
    x[5, 5] = 0  # no longer even
    assert rates.variational_rate(x, one, U, EPS2, corrected=True) > rates.compression_rate(x, one, EPS2) + 0.01


def test_more_directions_of_one_basis_never_loosen_the_corrected_bound():
    x, Pi, U = tokens(), memberships(), bases(D)
    values = torch.stack([rates.variational_rate(x, Pi, U[..., :p], EPS2, corrected=True) for p in range(1, D + 1)])
    assert (values.diff() <= 1e-12).all() and values[0] > values[-1] + 0.1


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("p", WIDTHS)
def test_gradients_against_autograd(p, corrected):
    x, Pi, U = tokens().requires_grad_(), memberships(), bases(p)
    (auto,) = torch.autograd.grad(rates.variational_rate(x, Pi, U, EPS2, corrected=corrected), x)
    torch.testing.assert_close(rates.variational_rate_grad(x.detach(), Pi, U, EPS2, corrected=corrected), auto)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("p", [2, 6])
def test_code_lengths_are_the_slope_in_the_memberships(p, corrected):
    x, U, logits = tokens(), bases(p), torch.randn(K, N, dtype=torch.float64, requires_grad=True)
    Pi = logits.softmax(0)  # over the groups
    (auto,) = torch.autograd.grad(rates.variational_rate(x, Pi, U, EPS2, corrected=corrected), logits)
    T = rates.code_lengths(x, Pi.detach(), U, EPS2, corrected=corrected) / (2 * N)
    slope = Pi.detach() * (T - (Pi.detach() * T).sum(0))  # through the softmax
    torch.testing.assert_close(slope, auto)


def test_the_short_sum_rewards_having_no_groups():
    d, k, eps2 = 16, 4, 0.1
    blocks = torch.eye(d, dtype=torch.float64).view(d, k, -1).transpose(0, 1)
    x = torch.eye(d, dtype=torch.float64)
    even, hard = torch.full((k, d), 1 / k, dtype=x.dtype), torch.eye(k, dtype=x.dtype).repeat_interleave(d // k, 1)
    score = lambda Pi, c: (rates.coding_rate(x, eps2) - rates.variational_rate(x, Pi, blocks, eps2, corrected=c)).item()
    assert score(even, False) == pytest.approx(6 * math.log(11)) and score(even, False) > score(hard, False) + 2
    assert score(even, True) == pytest.approx(0, abs=1e-12) and score(hard, True) == pytest.approx(score(hard, False))


# ---- limits: documented values instead of NaN ------------------------------------------------------------
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("p", [2, 6])
def test_an_empty_group_costs_nothing(p, corrected):
    x, U = tokens(), bases(p)
    Pi = torch.cat([torch.randn(2, N, dtype=x.dtype).softmax(0), torch.zeros(1, N, dtype=x.dtype)])  # over the groups
    with_empty = rates.variational_rate(x, Pi, U, EPS2, corrected=corrected)
    assert torch.isclose(with_empty, rates.variational_rate(x, Pi[:2], U[:2], EPS2, corrected=corrected))
    for function in FUNCTIONS:
        assert torch.isfinite(function(x, Pi, U, EPS2, corrected=corrected)).all()


@pytest.mark.parametrize("corrected", [False, True])
def test_one_token_and_zero_tokens_have_finite_rates(corrected):
    U = bases(2)
    for x in (tokens()[:1], torch.zeros(4, D, dtype=torch.float64)):
        Pi = torch.full((K, len(x)), 1 / K, dtype=x.dtype)
        for function in FUNCTIONS:
            assert torch.isfinite(function(x, Pi, U, EPS2, corrected=corrected)).all()
    assert rates.variational_rate(x, Pi, U, EPS2, corrected=corrected) == 0


def test_batches_are_independent():
    x, U = torch.stack([tokens(), tokens(2)]), bases(2)
    Pi = torch.stack([memberships(), memberships()])
    for function in FUNCTIONS:
        both = function(x, Pi, U, EPS2, corrected=True)
        torch.testing.assert_close(both, torch.stack([function(a, P, U, EPS2, corrected=True) for a, P in zip(x, Pi)]))


# ---- bad input --------------------------------------------------------------------------------------------
def spoilt(what):
    """Arguments (x, Pi, U, eps2) with one of them spoilt."""
    x, Pi, U, eps2 = tokens(), memberships(), bases(2), EPS2
    if what == "NaN":
        x[0, 0] = math.nan
    elif what == "infinite":
        x[0, 0] = math.inf
    elif what == "integers":
        x = torch.ones(N, D, dtype=torch.long)
    elif what == "no tokens":
        x, Pi = x[:0], Pi[:, :0]
    elif what == "one axis":
        x = x[0]
    elif what == "sum over the tokens":
        Pi = Pi.softmax(-1)  # over the tokens: the wrong axis
    elif what == "negative":
        Pi = torch.stack([Pi[0] + 1, Pi[1] - 1, Pi[2]])
    elif what == "NaN memberships":
        Pi = Pi * math.nan
    elif what == "tokens of Pi":
        Pi = Pi[:, :-1]
    elif what == "basis of another width":
        U = U[:, :-1]
    elif what == "basis without groups":
        U = U[0]
    elif what == "groups":
        U = U[:2]
    else:
        eps2 = what
    return x, Pi, U, eps2


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "what, message",
    [
        ("NaN", "finite tokens"),
        ("infinite", "finite tokens"),
        ("integers", r"float32 or float64, got \(30, 6\) torch.int64"),
        ("no tokens", r"at least one token.*got x \(0, 6\)"),
        ("one axis", r"tokens x .*got \(6,\)"),
        ("sum over the tokens", "sum to 1 over the K groups"),
        ("negative", "memberships >= 0.*minimum of -"),
        ("NaN memberships", "sum to 1 over the K groups"),
        ("tokens of Pi", r"N=30\), got \(3, 29\)"),
        ("basis of another width", r"d=6, p >= 1\), got \(3, 5, 2\)"),
        ("basis without groups", r"bases U .*got \(6, 2\)"),
        ("groups", "Pi has K=3, U has K=2"),
        (0.0, "eps2 > 0, got 0.0"),
        (-1.0, "eps2 > 0, got -1.0"),
        (math.nan, "eps2 > 0, got nan"),
        (math.inf, "eps2 > 0, got inf"),
    ],
)
def test_bad_input_is_told_what_was_expected(function, what, message):
    with pytest.raises(ValueError, match=message):
        function(*spoilt(what))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "U", [torch.randn(K, D, D + 1), 1.1 * torch.eye(D)[:, :2].expand(K, D, 2)], ids=["p > d", "long columns"]
)
def test_only_the_corrected_rate_needs_orthonormal_columns(function, U):
    x, Pi = tokens(), memberships()
    with pytest.raises(ValueError, match=r"orthonormal columns in U \(so p <= d\), got UᵀU up to"):
        function(x, Pi, U.double(), EPS2, corrected=True)
    assert torch.isfinite(function(x, Pi, U.double(), EPS2)).all()
