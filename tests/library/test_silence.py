"""Interventions on trained layers: each does what its name says, and leaves no trace."""

import pytest
import torch
from torch import nn

from tssa_lib.silence import INTERVENTIONS, intervene, tssa_layers
from tssa_lib.tssa import TSSA
from tssa_lib.yolo import C2TSSA, YOLO, TSSAttention


def tokens(batch=3, n=12, dim=16):
    return torch.randn(batch, n, dim, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def layer():
    torch.manual_seed(1)
    return TSSA(16, 4, normalize="rms", temp=4.0).eval()


@pytest.fixture
def block():
    torch.manual_seed(2)
    return C2TSSA(64, 64, 2, 0.5, 8, "rms", 4.0).eval()


def test_silenced_is_a_zero_update(layer):
    x = tokens()
    with intervene(layer, "silenced"):
        silenced = layer(x)
    assert torch.equal(silenced, layer.to_out(torch.zeros_like(x)))
    assert not torch.allclose(silenced, layer(x))


def test_silenced_leaves_the_convolution_beside_the_update():
    attention = TSSAttention(16, num_heads=2).eval()
    x = torch.randn(2, 16, 3, 5)
    with intervene(attention, "silenced"):
        silenced = attention(x)
    assert torch.allclose(silenced, attention.proj(attention.pe(attention.qkv(x))), atol=1e-6)


def test_uniform_memberships_are_one_over_k(layer):
    x = tokens()
    with intervene(layer, "uniform"):
        seen, answer = layer.statistics(x), layer(x)
    assert torch.equal(seen.Pi, torch.full_like(seen.Pi, 0.25))
    w = layer.project(x)
    s = (w**2).mean(-2)
    by_hand = -(w * 0.25 / (1 + s)[..., None, :]).transpose(1, 2).flatten(2)
    assert torch.allclose(answer, layer.to_out(by_hand), atol=1e-5)


def test_uniform_changes_nothing_with_one_head():
    layer, x = TSSA(16, 1).eval(), tokens()
    with intervene(layer, "uniform"):
        uniform = layer(x)
    assert torch.allclose(uniform, layer(x), atol=1e-6)


def test_swapped_gives_each_picture_the_gates_of_the_one_before(layer):
    x = tokens()
    own = layer.statistics(x)
    with intervene(layer, "swapped"):
        seen, answer = layer.statistics(x), layer(x)
    assert torch.equal(seen.gates, own.gates[[2, 0, 1]])
    assert torch.equal(seen.Pi, own.Pi)
    y = -(layer.project(x) * own.Pi[..., None] * own.gates[[2, 0, 1]][..., None, :]).transpose(1, 2).flatten(2)
    assert torch.allclose(answer, layer.to_out(y), atol=1e-5)


def test_equal_pictures_have_nothing_to_swap(layer):
    x = tokens(1).expand(3, -1, -1)
    with intervene(layer, "swapped"):
        swapped = layer(x)
    assert torch.allclose(swapped, layer(x), atol=1e-6)


def test_swapping_needs_two_pictures(layer):
    with intervene(layer, "swapped"), pytest.raises(ValueError, match="batch of two"):
        layer(tokens(1))


def test_constant_gates_keep_their_mean_and_no_picture_has_its_own(layer):
    x = tokens()
    own = layer.statistics(x)
    with intervene(layer, "constant"):
        seen = layer.statistics(x)
    assert torch.allclose(seen.gates.mean((0, 2)), own.gates.mean((0, 2)), atol=1e-6)
    assert seen.gates.std((0, 2)).max() < 1e-6 < own.gates.std((0, 2)).min()


@pytest.mark.parametrize("what", INTERVENTIONS)
def test_afterwards_the_model_is_what_it_was_bit_for_bit(block, what):
    x = torch.randn(2, 64, 4, 4)
    before, state = block(x), {k: v.clone() for k, v in block.state_dict().items()}
    kept = [dict(layer.__dict__) for layer in tssa_layers(block).values()]
    with intervene(block, what):
        assert not torch.allclose(block(x), before, atol=1e-6)
    assert torch.equal(block(x), before)
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
    assert all(layer.__dict__.keys() == own.keys() for layer, own in zip(tssa_layers(block).values(), kept))


def test_an_error_inside_restores_as_well(block):
    x = torch.randn(2, 64, 4, 4)
    before = block(x)
    with pytest.raises(RuntimeError, match="stop"), intervene(block, "silenced"):
        raise RuntimeError("stop")
    assert torch.equal(block(x), before)


def test_interventions_nest(layer):
    x = tokens()
    with intervene(layer, "swapped"):
        swapped = layer(x)
        with intervene(layer, "silenced"):
            silenced = layer(x)
        assert torch.equal(layer(x), swapped)
    assert torch.equal(silenced, layer.to_out(torch.zeros_like(x)))


def test_one_layer_alone_is_changed(block):
    names = list(tssa_layers(block))
    assert len(names) == 2
    x, seen = torch.randn(2, 64, 4, 4), {}
    hooks = [
        m.register_forward_hook(lambda m, x, y, name=name: seen.update({name: (x[0], y)}))
        for name, m in tssa_layers(block).items()
    ]
    with intervene(block, "silenced", names[1:]) as changed:
        block(x)
    for hook in hooks:
        hook.remove()
    kept, silenced = tssa_layers(block).values()
    assert changed == names[1:]
    assert torch.allclose(kept(seen[names[0]][0]), seen[names[0]][1], atol=1e-6)
    assert not torch.allclose(silenced(seen[names[1]][0]), seen[names[1]][1], atol=1e-4)


def test_a_yolo_is_reached_through_its_network():
    model = YOLO("yolo11n-tssa.yaml")
    with intervene(model, "silenced") as names:
        assert names == [f"model.10.m.{i}.attn" for i in range(len(names))] and names


def test_errors_say_what_was_expected(layer):
    with (
        pytest.raises(ValueError, match="silenced, uniform, swapped, constant, got 'louder'"),
        intervene(layer, "louder"),
    ):
        pass
    with pytest.raises(ValueError, match="without one"), intervene(nn.Linear(2, 2), "silenced"):
        pass
    with pytest.raises(ValueError, match="got 'nowhere'"), intervene(layer, "silenced", ["nowhere"]):
        pass
