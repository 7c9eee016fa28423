"""The ToST block, the causal layer and the classifier against forms written out in full."""

import copy

import pytest
import torch

from kit import tost
from kit.tost import Block, CausalTSSA, ToST
from tssa_lib.observe import observe
from tssa_lib.tssa import TSSA

EXACT = 1e-12


def causal(dim=12, heads=3, size=9, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    layer = CausalTSSA(dim, heads, size).to(dtype)
    with torch.no_grad():
        layer.temp.uniform_(-1, 3)
        layer.denom_bias.normal_()
    return layer


def per_token(layer, x):
    """The causal layer as it is said: token by token, coordinate by coordinate, each looking back only."""
    K, p = layer.num_heads, layer.dim // layer.num_heads
    w = (x @ layer.c_attn.weight.T).reshape(len(x), K, p)
    Pi, out = [], []
    for t in range(len(x)):
        logits = [
            layer.temp[k, 0]
            * sum(
                w[t, k, i] ** 2 / max((w[: t + 1, k, i] ** 2).sum(), 1e-12) + layer.denom_bias[k, t, 0]
                for i in range(p)
            )
            for k in range(K)
        ]
        Pi.append(torch.stack(logits).softmax(0))
        y = torch.zeros(K, p, dtype=x.dtype)
        for k in range(K):
            mass = sum(Pi[l][k] for l in range(t + 1)) + 1e-8
            for i in range(p):
                s = sum(Pi[l][k] * w[l, k, i] ** 2 for l in range(t + 1)) / mass
                y[k, i] = -Pi[t][k] * w[t, k, i] / (1 + s)
        out.append(layer.c_proj.weight @ y.flatten())
    return torch.stack(out)


# ---- the causal layer -------------------------------------------------------------------------------
@pytest.mark.parametrize("N", [1, 2, 9])
def test_causal_is_the_per_token_loop(N):
    layer, x = causal(), torch.randn(2, N, 12, dtype=torch.float64)
    for b in range(2):
        assert (layer(x)[b] - per_token(layer, x[b])).abs().max() < EXACT


def test_causal_gradients_are_those_of_the_loop():
    layer, x = causal(), torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    a, b = (
        torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()]) for y in (layer(x[None])[0], per_token(layer, x))
    )
    assert all((g - h).abs().max() < EXACT for g, h in zip(a, b))


def test_causal_does_not_see_the_future_and_does_see_the_past():
    layer, x = causal(), torch.randn(1, 9, 12, dtype=torch.float64)
    later, earlier = x.clone(), x.clone()
    later[:, 5:] += 1
    earlier[:, 0] += 1
    assert torch.equal(layer(x)[:, :5], layer(later)[:, :5])
    assert (layer(x) - layer(earlier))[:, 1:].abs().amax(-1).min() > 1e-3


def test_causal_first_token_is_gated_by_itself():
    layer = CausalTSSA(12, 3, 9).double()
    x = torch.randn(1, 1, 12, dtype=torch.float64)
    w = layer.c_attn(x)
    assert torch.allclose(layer(x), layer.c_proj(-w / (3 * (1 + w**2))), atol=1e-8)


def test_causal_state_dict_round_trip_and_published_names():
    layer, x = causal(), torch.randn(1, 9, 12, dtype=torch.float64)
    state = layer.state_dict()
    assert set(state) == {"c_attn.weight", "c_proj.weight", "temp", "denom_bias"}
    assert torch.equal(CausalTSSA.from_tost_state_dict(state, 3)(x), layer(x))


def test_causal_errors_name_everything():
    state = causal().state_dict()
    del state["temp"]
    state |= {"c_proj.weight": torch.zeros(12, 5), "c_attn.bias": torch.zeros(12)}
    with pytest.raises(ValueError) as e:
        CausalTSSA.from_tost_state_dict(state, 3)
    assert all(
        word in str(e.value)
        for word in (
            "missing temp (3, 1)",
            "unknown c_attn.bias (12,)",
            "c_proj.weight: expected (12, 12), got (12, 5)",
        )
    )
    with pytest.raises(ValueError, match=r"expected x \(B, 1 <= N <= 9, 12\), got \(1, 10, 12\)"):
        causal()(torch.zeros(1, 10, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match="dim=12, num_heads=5"):
        CausalTSSA(12, 5, 9)


# ---- the block --------------------------------------------------------------------------------------
def published_state(dim=12, heads=3, hidden=30, bias=True):
    torch.manual_seed(1)
    shapes = {
        "norm1.weight": (dim,),
        "norm1.bias": (dim,),
        "attn.qkv.weight": (dim, dim),
        "attn.temp": (heads, 1),
        "attn.to_out.0.weight": (dim, dim),
        "attn.to_out.0.bias": (dim,),
        "gamma1": (dim,),
        "norm2.weight": (dim,),
        "norm2.bias": (dim,),
        "mlp.fc1.weight": (hidden, dim),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (dim, hidden),
        "mlp.fc2.bias": (dim,),
        "gamma2": (dim,),
    }
    shapes |= {"attn.qkv.bias": (dim,)} if bias else {}
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


def literal_block(s, x, heads, eps=1e-5):
    """The block from its state dict, with nothing of the library's but arithmetic."""

    def norm(v, name):
        v = v - v.mean(-1, keepdim=True)
        return v / (v.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]

    w = norm(x, "norm1") @ s["attn.qkv.weight"].T + s.get("attn.qkv.bias", 0)
    w = w.reshape(len(x), heads, -1)  # (N, K, p)
    share = w**2 / (w**2).sum(0)
    logits = share.sum(-1) * s["attn.temp"][:, 0]  # (N, K)
    Pi = (logits - logits.logsumexp(1, keepdim=True)).exp()
    moments = (Pi[..., None] * w**2).sum(0) / (Pi.sum(0)[:, None] + 1e-8)
    y = (-w * Pi[..., None] / (1 + moments)).reshape(len(x), -1)
    x = x + s["gamma1"] * (y @ s["attn.to_out.0.weight"].T + s["attn.to_out.0.bias"])
    h = norm(x, "norm2") @ s["mlp.fc1.weight"].T + s["mlp.fc1.bias"]
    h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
    return x + s["gamma2"] * (h @ s["mlp.fc2.weight"].T + s["mlp.fc2.bias"])


@pytest.mark.parametrize("bias", [True, False])
def test_block_from_published_state_is_the_literal_block(bias):
    state, x = published_state(bias=bias), torch.randn(7, 12, dtype=torch.float64)
    block = Block.from_tost_state_dict(state, 3)
    assert (block(x[None])[0] - literal_block(state, x, 3)).abs().max() < 1e-10
    assert set(block.state_dict()) == set(state)
    other = Block.from_tost_state_dict(state, 3, eps=1e-1)
    assert (other(x[None])[0] - literal_block(state, x, 3, eps=1e-1)).abs().max() < 1e-10
    assert (other(x[None]) - block(x[None])).abs().max() > 1e-3


@pytest.mark.parametrize("gone", ["attn.qkv.weight", "mlp.fc1.weight", "gamma1"])
def test_block_errors_name_everything(gone):
    state = published_state()
    shape = tuple(state.pop(gone).shape)
    state |= {"norm2.weight": torch.zeros(5), "attn.qkv_norm": torch.zeros(3)}
    with pytest.raises(ValueError) as e:
        Block.from_tost_state_dict(state, 3)
    message = str(e.value)
    assert f"missing {gone} {shape}" in message and "unknown attn.qkv_norm (3,)" in message
    assert "norm2.weight: expected (12,), got (5,)" in message and message.count(";") == 2


# ---- half precision ---------------------------------------------------------------------------------
def wide_input(dim=16, N=40):
    """Inputs that project to |w| up to 1e4, and one channel that is zero on every token."""
    torch.manual_seed(2)
    x = torch.randn(2, N, dim)
    return x / x.abs().amax((0, 1)) * torch.logspace(-2, 4, dim)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["vision", "tied", "causal"])
def test_half_precision_is_finite_and_near(dtype, kind):
    torch.manual_seed(3)
    layer = CausalTSSA(16, 4, 64) if kind == "causal" else TSSA(16, 4, tied=kind == "tied")
    project = layer.c_attn if kind == "causal" else layer.qkv
    with torch.no_grad():
        project.weight.copy_(torch.eye(16))
        project.weight[5] = 0  # a dead channel
    x, half = wide_input().to(dtype), copy.deepcopy(layer).to(dtype)
    full = copy.deepcopy(half).float()
    results = []
    for model, v in ((half, x), (full, x.float())):
        v = v.clone().requires_grad_()
        y = model(v)
        y.float().square().sum().backward()  # as loss scaling does, out of underflow
        results.append([y, v.grad, *(q.grad for q in model.parameters())])
    assert 9e3 < wide_input().abs().max() <= 1e4 + 1
    for i, (a, b) in enumerate(zip(*results)):  # the output, then the gradients
        assert torch.isfinite(a).all() and a.dtype == dtype
        tol = 5e-2 if i and dtype is torch.bfloat16 else 1e-2  # bfloat16 keeps 8 bits: 0.4 % a rounding
        error = ((a.float() - b).abs().max() / b.abs().max()).item()
        assert b.abs().max() > 1e-5 and error <= tol, (i, error)


def test_half_precision_squares_alone_would_fail():
    w = wide_input().half()
    assert torch.isinf(w**2).any()  # what the layers must survive


# ---- the classifier and its result file --------------------------------------------------------------
def test_classifier_tokens_are_neighbourhoods():
    model = ToST(dim=9, num_heads=3, depth=1)
    with torch.no_grad():
        model.embed.weight.copy_(torch.eye(9)), model.embed.bias.zero_(), model.positions.zero_()
    image = torch.arange(64.0).reshape(1, 8, 8)
    tokens = model.tokens(image)
    assert tokens.shape == (1, 64, 9)
    assert torch.equal(tokens[0, 9 * 3], image[0, 2:5, 2:5].flatten())  # pixel (3, 3)
    assert tokens[0, 0, :4].abs().sum() == 0  # zero beyond the border
    with pytest.raises(ValueError, match=r"expected images \(B, 8, 8\), got \(1, 9, 8\)"):
        model(torch.zeros(1, 9, 8))


def test_digits_are_split_without_overlap():
    (x, y), (held, answers) = tost.digits()
    assert len(x) == len(y) == 1297 and len(held) == len(answers) == 500 and x.max() == 1

    def seen(v):
        return {tuple(i.flatten().tolist()) for i in v}

    assert not seen(x) & seen(held) and answers.bincount().min() >= 45


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    (x, y), _ = tost.digits()
    losses = list(tost.fit(ToST(dim=16, num_heads=2, depth=1), x[:512], y[:512], epochs=4, lr=1e-2))
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.1


def test_compression_is_the_rate_around_the_step():
    torch.manual_seed(0)
    model, images = ToST(depth=2, tied=True), tost.digits()[1][0][:8]
    rows = tost.compression(model, images)
    assert len(rows) == 2 and all(r["after"] < r["before"] and r["bound"] < 2 for r in rows)
    block, z = model.blocks[0], model.blocks[0].norm1(model.tokens(images))
    Pi, s, D = block.attn.statistics(z)
    want = 0.5 * (Pi.mean(-1) * torch.log1p(s).sum(-1)).sum(-1).mean()
    assert abs(rows[0]["before"] - want.item()) < 1e-5
    assert rows[0]["bound"] == pytest.approx(
        (torch.linalg.svdvals(block.attn.qkv.weight)[0] ** 2 * Pi.max()).item(), rel=1e-4
    )
    assert rows[0]["entropy"] == pytest.approx(
        (-(Pi * Pi.log()).sum(1).mean() / torch.log(torch.tensor(4.0))).item(), rel=1e-4
    )
    assert rows[0]["gate"] == pytest.approx([D.flatten().quantile(q).item() for q in (0.05, 0.5, 0.95)])
    with torch.no_grad():
        block.gamma1.fill_(40.0)  # far beyond the safe step
    far = tost.compression(model, images)[0]
    assert far["bound"] > 2 and far["after"] > far["before"]


def test_compression_promises_nothing_for_a_step_that_is_not_positive():
    torch.manual_seed(0)
    model, images = ToST(depth=1, tied=True), tost.digits()[1][0][:8]
    with torch.no_grad():
        model.blocks[0].gamma1.fill_(0.5)[:12] = -1.5
    row = tost.compression(model, images)[0]
    assert row["bound"] == float("inf") and row["after"] > row["before"]


def test_compression_and_observe_report_one_rate_also_with_a_bias():
    torch.manual_seed(0)
    model, images = ToST(depth=1, qkv_bias=True), tost.digits()[1][0][:8]
    with torch.no_grad():
        model.blocks[0].attn.qkv.bias.fill_(0.7)
        row = tost.compression(model, images)[0]
        with observe(model) as seen:
            model(images)
    assert row["before"] == pytest.approx(seen[0].rate_before.mean().item(), rel=1e-5)
    assert row["after"] == pytest.approx(seen[0].rate_after.mean().item(), rel=1e-5)  # γ₁ is one at the start
