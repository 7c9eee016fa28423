"""The operator and the layer: literal = fast, tied = gradient, published = ours, and what bad input is told."""

import doctest
import itertools
import math

import pytest
import torch

from tssa_lib import core, observe, rates, tssa
from tssa_lib.tssa import TSSA

NORMALIZE = ["tokens", "rms", "none"]
K, p, N = 3, 2, 5
C = K * p


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def float64_layer(**kwargs) -> TSSA:
    return TSSA(C, K, **kwargs).double()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def problem(K=3, d=6, p=4, N=7):
    """x (N, d), Pi (K, N), U (K, d, p) with orthonormal columns."""
    U = torch.linalg.qr(tokens(K, d, p))[0]
    return tokens(N, d), tokens(K, N).softmax(0), U  # over the groups


# ---- the functional core, term by term --------------------------------------------------------------------
def test_memberships_are_the_softmax_over_heads_of_energies():
    w, temp = tokens(K, N, p), torch.tensor([[0.5], [2.0], [30.0]], dtype=torch.float64)
    for normalize in NORMALIZE:
        logits = torch.zeros(K, N, dtype=torch.float64)
        for k, j, i in itertools.product(range(K), range(N), range(p)):
            size = sum(w[k, m, i] ** 2 for m in range(N))
            share = {"none": w[k, j, i] ** 2, "tokens": w[k, j, i] ** 2 / size, "rms": w[k, j, i] ** 2 / size * N / p}
            logits[k, j] += temp[k, 0] * share[normalize]
        Pi = logits.exp() / logits.exp().sum(0)
        torch.testing.assert_close(tssa.memberships(w, temp, normalize), Pi, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            tssa.memberships(w[None], temp, normalize).sum(1), torch.ones(1, N, dtype=torch.float64)
        )


def test_code_memberships_are_the_softmax_of_minus_half_the_code_lengths():
    """Against lesson 5's code lengths, with equal memberships; the heads' frames span the space."""
    d, c = K * p, 24.0
    U = torch.linalg.qr(tokens(d, d))[0].unflatten(1, (K, p)).transpose(0, 1)  # (K, d, p)
    x, equal = (
        tokens(N, d) * torch.linspace(0.2, 2.0, d, dtype=torch.float64),
        torch.full((K, N), 1 / K, dtype=torch.float64),
    )
    lengths = rates.code_lengths(x, equal, U, d / c, corrected=True)
    w = torch.einsum("nd,kdp->knp", x, U)
    Pi = tssa.memberships(w, 0.7, "code", c)
    torch.testing.assert_close(Pi, (-0.7 * lengths / 2).softmax(0), rtol=1e-12, atol=1e-12)  # over the heads
    assert Pi.std() > 0.05 and torch.equal(tssa.memberships(w[:1], 1.0, "code"), torch.ones(1, N, dtype=torch.float64))
    torch.testing.assert_close(tssa.memberships(w.repeat(1, 4, 1), 0.7, "code", c)[:, :N], Pi)  # four times the tokens
    layer = float64_layer(normalize="code", c=c)
    x = tokens(2, 20, C).requires_grad_()
    assert torch.equal(layer(x), layer.straightforward(x)) and layer.statistics(x).Pi.std() > 0.01
    compiled = torch.compile(layer, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(layer, x)


def test_rms_memberships_do_not_depend_on_resolution():
    w = tokens(K, N, p)
    fine = w.repeat(1, 4, 1)  # every token four times: the same picture at twice the side
    torch.testing.assert_close(tssa.memberships(fine, 20.0, "rms")[:, :N], tssa.memberships(w, 20.0, "rms"))
    assert (tssa.memberships(fine, 20.0, "tokens")[:, :N] - tssa.memberships(w, 20.0, "tokens")).abs().max() > 0.05


def test_second_moments_and_gates():
    w, Pi = tokens(2, K, N, p), tokens(2, K, N).softmax(1)  # over the heads
    s = torch.stack(
        [
            torch.stack([(Pi[b, k, :, None] * w[b, k] ** 2).sum(0) / (Pi[b, k].sum() + 1e-8) for k in range(K)])
            for b in range(2)
        ]
    )
    torch.testing.assert_close(tssa.second_moments(w, Pi), s, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tssa.gates(s, 4.0), 4 / (1 + 4 * s))
    assert tssa.second_moments(w, torch.zeros_like(Pi)).abs().max() == 0  # a head without members


def test_entropy_is_the_mean_over_the_tokens():
    Pi = torch.tensor([[[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    mixed = math.log(2) + math.log(4) / 4 + 0.75 * math.log(4 / 3)  # of the first batch's three tokens
    torch.testing.assert_close(tssa.entropy(Pi), torch.tensor([mixed / 3, 0.0], dtype=torch.float64))


def test_update_is_the_formula_and_the_gradient():
    x, Pi, U = problem()
    c, literal = 6 / 0.3, torch.zeros(6, 7, dtype=torch.float64)  # tokens are columns in the formula
    for k in range(3):
        s = torch.stack([sum(Pi[k, j] * (U[k, :, i] @ x[j]) ** 2 for j in range(7)) / Pi[k].sum() for i in range(4)])
        literal = literal - 0.2 * U[k] @ torch.diag(c / (1 + c * s)) @ U[k].T @ x.T @ torch.diag(Pi[k])
    update = tssa.tssa_update(x, Pi, U, 0.3, t=0.2)
    torch.testing.assert_close(update, literal.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(update, -0.2 * 7 * rates.variational_rate_grad(x, Pi, U, 0.3), rtol=1e-12, atol=1e-12)


def test_largest_safe_gamma_is_the_norm_of_the_largest_curvature():
    x, Pi, U = problem()
    D = torch.rand(3, 4, dtype=torch.float64)
    norms = [
        torch.linalg.matrix_norm(sum(Pi[k, j] * U[k] @ torch.diag(D[k]) @ U[k].T for k in range(3)), 2)
        for j in range(7)
    ]
    torch.testing.assert_close(tssa.largest_safe_gamma(Pi, U, D), 2 / torch.stack(norms).max())


def test_steps_up_to_the_safe_one_never_raise_the_rate_and_longer_ones_do():
    rises = {1.0: 0, 1.999: 0, 3.0: 0}
    for _ in range(60):
        x, Pi, U = problem(N=3)
        x = x * 10 ** (2 * torch.rand(1, dtype=torch.float64) - 2)
        D = tssa.gates(tssa.second_moments(torch.einsum("nd,kdp->knp", x, U), Pi, 0.0), 6 / 0.3)
        limit = float(tssa.largest_safe_gamma(Pi, U, D))
        start = rates.variational_rate(x, Pi, U, 0.3)
        for share in rises:
            after = rates.variational_rate(x + tssa.tssa_update(x, Pi, U, 0.3, t=share * limit / 2), Pi, U, 0.3)
            rises[share] += bool(after > start * (1 + 1e-9))
    assert rises[1.0] == rises[1.999] == 0 and rises[3.0] > 0


# ---- the layer ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_literal_is_fast_with_gradients(normalize):
    layer = float64_layer(normalize=normalize)
    with torch.no_grad():
        layer.temp.copy_(torch.tensor([[1.0], [20.0], [-3.0]]))
        layer.to_out[0].bias.zero_()
    x, target = tokens(1, N, C).requires_grad_(), tokens(N, C)
    variables = [x, layer.qkv.weight, layer.temp, layer.to_out[0].weight]
    fast = layer(x)[0]
    slow = tssa.tssa_literal(x[0], layer.qkv.weight, layer.temp, layer.to_out[0].weight, normalize)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad((y * target).sum(), variables) for y in (fast, slow))):
        assert a.abs().max() > 1e-6
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("orthonormal", [True, False])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_tied_layer_is_minus_n_times_the_gradient(normalize, orthonormal):
    layer = float64_layer(normalize=normalize, temp=3.0, tied=True).requires_grad_(False)
    if orthonormal:
        torch.nn.init.orthogonal_(layer.qkv.weight)
    x = tokens(1, 40, C).requires_grad_()
    Pi, U = layer.statistics(x).Pi[0].detach(), layer.qkv.weight.unflatten(0, (K, p)).mT
    rate = rates.variational_rate(x[0], Pi, U, eps2=float(C))  # ε² = d makes c = 1
    (gradient,) = torch.autograd.grad(rate, x)
    torch.testing.assert_close(layer(x), -40 * gradient, rtol=1e-8, atol=1e-8)


def test_each_switch_back_to_the_theory():
    """tied, orthonormal, c, mass = 0 and Π detached: the layer is −n·∇R_c^var to round-off, Π held fixed."""
    layer = float64_layer(tied=True, orthonormal=True, c=7.0, mass=0.0, temp=5.0, detach_memberships=True)
    x = tokens(1, 40, C)
    U = layer.U.detach()
    torch.testing.assert_close(U.mT @ U, torch.eye(p, dtype=torch.float64).expand(K, p, p), rtol=1e-12, atol=1e-12)
    Pi = layer.statistics(x).Pi[0]
    torch.testing.assert_close(
        layer(x)[0], -40 * rates.variational_rate_grad(x[0], Pi, U, C / 7.0), rtol=1e-12, atol=1e-12
    )
    layer(x).sum().backward()
    assert layer.temp.grad is None and layer.qkv.weight.grad.abs().max() > 0
    moving = float64_layer(tied=True)
    moving(x).sum().backward()
    assert moving.temp.grad.abs().max() > 0


def published(x, state, num_heads):
    """The published vision layer as lesson 7 describes it, with a loop over images, heads and tokens."""
    B, N, dim = x.shape
    width, images = dim // num_heads, []
    for image in x:
        projected = image @ state["qkv.weight"].T + state.get("qkv.bias", torch.zeros(dim, dtype=x.dtype))
        heads = [projected[:, h * width : (h + 1) * width] for h in range(num_heads)]  # the head index is the slow one
        logits = []
        for h, w in enumerate(heads):
            norm = torch.sqrt((w**2).sum(0)).clamp_min(1e-12)  # over the tokens
            logits.append(state["temp"][h, 0] * ((w / norm) ** 2).sum(1))
        share = torch.stack(logits).exp()
        share = share / share.sum(0)  # sums to 1 over the heads
        rows = torch.zeros(N, dim, dtype=x.dtype)
        for h, w in enumerate(heads):
            weights = share[h] / (share[h].sum() + 1e-8)
            moments = sum(weights[j] * w[j] ** 2 for j in range(N))
            gated = torch.stack([-(w[j] * share[h, j]) * (1 / (1 + moments)) for j in range(N)])
            rows = rows + torch.nn.functional.pad(gated, (h * width, dim - (h + 1) * width))
        images.append(rows @ state["to_out.0.weight"].T + state["to_out.0.bias"])
    return torch.stack(images)


def tost_state(bias: bool) -> dict[str, torch.Tensor]:
    state = {
        "temp": 1 + 5 * torch.rand(K, 1, dtype=torch.float64),
        "qkv.weight": tokens(C, C),
        "to_out.0.weight": tokens(C, C),
        "to_out.0.bias": tokens(C),
    }
    return state | ({"qkv.bias": tokens(C)} if bias else {})


@pytest.mark.parametrize("bias", [True, False])
def test_published_layer_is_ours(bias):
    state, x, target = tost_state(bias), tokens(2, N, C).requires_grad_(), tokens(2, N, C)
    layer = TSSA.from_tost_state_dict(state, K)
    assert layer.qkv.weight.dtype == torch.float64 and layer.num_heads == K and (layer.qkv.bias is not None) == bias
    leaves = {k: v.clone().requires_grad_() for k, v in state.items()}
    ours, theirs = layer(x), published(x, leaves, K)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    names = sorted(state)
    got = torch.autograd.grad((ours * target).sum(), [x] + [dict(layer.named_parameters())[k] for k in names])
    want = torch.autograd.grad((theirs * target).sum(), [x] + [leaves[k] for k in names])
    for name, a, b in zip(["x", *names], got, want):
        assert b.abs().max() > 1e-6, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m: f"{name}: {m}")


def test_the_published_layer_needs_its_own_axis():
    """A softmax over the tokens instead of the heads, as in some ports, is not what we compute."""
    state, x = tost_state(False), tokens(1, N, C)
    layer = TSSA.from_tost_state_dict(state, K).requires_grad_(False)
    w, y = layer.project(x), layer(x)
    logits = ((w / w.norm(dim=-2, keepdim=True)) ** 2).sum(-1) * layer.temp
    Pi = logits.softmax(-1)  # over the tokens: the mistake
    wrong = layer.to_out(
        (-w * Pi[..., None] * tssa.gates(tssa.second_moments(w, Pi))[..., None, :]).transpose(1, 2).flatten(2)
    )
    assert (wrong - y).abs().max() > 0.1


def test_state_dict_that_does_not_fit_names_everything():
    state = tost_state(True)
    del state["temp"], state["to_out.0.bias"]
    state |= {"to_out.0.weight": tokens(C, 4), "head_scale": tokens(2)}
    with pytest.raises(ValueError) as e:
        TSSA.from_tost_state_dict(state, K)
    for part in (
        f"missing temp ({K}, 1)",
        f"missing to_out.0.bias ({C},)",
        "unknown head_scale (2,)",
        f"to_out.0.weight: expected ({C}, {C}), got ({C}, 4)",
    ):
        assert part in str(e.value)
    assert "qkv" not in str(e.value)
    with pytest.raises(ValueError, match="qkv.weight"):
        TSSA.from_tost_state_dict({"temp": state["head_scale"]}, K)
    with pytest.raises(ValueError, match="num_heads=4"):
        TSSA.from_tost_state_dict(tost_state(False), 4)
    with pytest.raises(ValueError, match=r"temp: expected \(2, 1\), got \(3, 1\)"):
        TSSA.from_tost_state_dict(tost_state(False), 2)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_permuting_tokens_permutes_the_output(normalize):
    layer, x, order = float64_layer(normalize=normalize, temp=10.0, qkv_bias=True), tokens(2, 20, C), torch.randperm(20)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-12, atol=1e-12)


def test_images_of_a_batch_do_not_meet():
    layer, x = float64_layer(temp=10.0), tokens(4, 20, C)
    together = layer(x)
    torch.testing.assert_close(together, torch.cat([layer(image[None]) for image in x]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(torch.cat([x[:1], 100 * x[1:]]))[0], together[0], rtol=1e-12, atol=1e-12)


def test_one_head_is_one_linear_map_for_all_tokens():
    layer, x = TSSA(C, 1).double().requires_grad_(False), tokens(1, 50, C)
    D = layer.statistics(x).gates[0, 0]
    matrix = -layer.to_out[0].weight @ torch.diag(D) @ layer.qkv.weight
    torch.testing.assert_close(layer(x), x @ matrix.T + layer.to_out[0].bias, rtol=1e-12, atol=1e-12)


def test_one_token():
    layer = float64_layer(tied=True).requires_grad_(False)
    x = tokens(3, 1, C)
    w = layer.project(x)  # alone, each token is shared equally
    torch.testing.assert_close(layer.statistics(x).Pi, torch.full((3, K, 1), 1 / K, dtype=torch.float64))
    y = (-w / (K * (1 + w**2))).transpose(1, 2).flatten(2) @ layer.qkv.weight
    torch.testing.assert_close(layer(x), y, rtol=1e-7, atol=1e-7)


def test_gated_coordinates_are_bounded_whatever_the_weights():
    for scale in (1e-2, 1.0, 1e2):
        layer, x = float64_layer(temp=10.0).requires_grad_(False), scale * tokens(1, 50, C)
        Pi, _, D = layer.statistics(x)
        gated = layer.project(x) * Pi[..., None] * D[..., None, :]
        rms, bound = gated.square().mean(-2).sqrt(), 0.5 * Pi.mean(-1).sqrt()[..., None]
        assert (rms <= bound * (1 + 1e-9)).all()


def test_dropout_drops_gates_for_all_tokens_at_once():
    layer = float64_layer(attn_drop=0.5).requires_grad_(False)
    layer.to_out = torch.nn.Identity()
    y = layer(tokens(8, N, C))
    dead = y == 0
    assert (dead.any(1) == dead.all(1)).all() and 0.2 < dead.double().mean() < 0.8
    assert not (layer.eval()(tokens(8, N, C)) == 0).any()


# ---- record -----------------------------------------------------------------------------------------------------
def test_record_leaves_outputs_and_gradients_as_they_are():
    model, x = torch.nn.Sequential(float64_layer(), torch.nn.GELU(), float64_layer(temp=9.0)), tokens(2, N, C)
    plain = model(x)
    grads = torch.autograd.grad(plain.square().sum(), model.parameters())
    with observe.record(model) as tape:
        seen = model(x)
        model(x[:1])
    assert torch.equal(seen, plain)
    assert all(torch.equal(a, b) for a, b in zip(grads, torch.autograd.grad(seen.square().sum(), model.parameters())))
    assert set(tape) == {"0", "2"} and [s.Pi.shape for s in tape["0"]] == [(2, K, N), (1, K, N)]
    first = tape["2"][0]
    assert first.second_moments.shape == first.gates.shape == (2, K, p) and not first.Pi.requires_grad
    torch.testing.assert_close(first.Pi, model[2].statistics(model[1](model[0](x))).Pi)
    torch.testing.assert_close(first.gates, 1 / (1 + first.second_moments))
    model(x)
    assert len(tape["0"]) == 2  # nothing is recorded after the block


def test_record_wants_a_tssa_and_cleans_up_after_an_error():
    with pytest.raises(ValueError, match="holds a TSSA layer, got Linear"):
        with observe.record(torch.nn.Linear(2, 2)):
            pass
    layer = float64_layer()
    with pytest.raises(ZeroDivisionError):
        with observe.record(layer):
            raise ZeroDivisionError
    assert not layer._forward_hooks


# ---- numerics -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype, close", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("largest", [1.0, 300.0, 1e4])
def test_half_precision_is_finite_and_close_with_a_dead_channel(dtype, close, largest):
    wide = TSSA(C, K)
    with torch.no_grad():
        wide.qkv.weight.copy_(torch.eye(C))
        wide.to_out[0].weight.copy_(torch.eye(C))
        wide.to_out[0].bias.zero_()
    half = TSSA(C, K)
    half.load_state_dict(wide.state_dict())
    half.to(dtype)
    x = largest * (2 * torch.rand(2, 50, C) - 1)
    x[0, 0, 0], x[..., 3] = largest, 0  # w reaches `largest`; channel 3 is dead
    x_half = x.to(dtype).requires_grad_()
    x_wide = x_half.detach().float().requires_grad_()
    y, want = half(x_half), wide(x_wide)
    y.sum().backward()
    want.sum().backward()
    assert y.dtype == dtype and half.project(x_half).abs().max() >= 0.99 * largest
    for got, right in ((y, want), (x_half.grad, x_wide.grad)):
        assert torch.isfinite(got).all()
        assert (got - right).abs().max() <= close * right.abs().max()
    assert all(torch.isfinite(s).all() for s in half.statistics(x_half))


def test_dead_head_and_zero_tokens_give_zeros_not_nan():
    layer = TSSA(C, K).requires_grad_(False)
    x = torch.zeros(1, N, C, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, layer.to_out[0].bias.expand_as(y)) and torch.isfinite(x.grad).all()


# ---- bad input ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dim, num_heads", [(6, 4), (6, 0), (0, 1), (6, 12)])
def test_heads_must_divide_the_width(dim, num_heads):
    with pytest.raises(ValueError, match=rf"num_heads that divides dim, got dim={dim}, num_heads={num_heads}"):
        TSSA(dim, num_heads)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(N, C),
        torch.zeros(1, 1, N, C),
        torch.zeros(1, N, C + 1),
        torch.zeros(2, 0, C),
        torch.zeros(1, N, C, dtype=torch.long),
    ],
    ids=["rank 2", "rank 4", "width", "no tokens", "integers"],
)
def test_bad_tokens_are_named(x):
    with pytest.raises(ValueError, match=rf"expected x \(B, N >= 1, {C}\) of a floating dtype, got ") as e:
        TSSA(C, K)(x)
    assert str(tuple(x.shape)) in str(e.value) and str(x.dtype) in str(e.value)


def test_unknown_normalisation_is_named():
    for call in (lambda: TSSA(C, K, normalize="heads"), lambda: tssa.memberships(tokens(K, N, p), normalize="heads")):
        with pytest.raises(ValueError, match="expected normalize .* got 'heads'"):
            call()


def test_doctests():
    for module, least in ((core, 5), (tssa, 1)):
        result = doctest.testmod(module)
        assert result.failed == 0 and result.attempted >= least
