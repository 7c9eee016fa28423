"""C2TSSA inside YOLO11: built at every scale, registered without side effects, weights carried over."""

import copy
import glob
from pathlib import Path

import pytest
import torch

from harness import fresh_process
from tssa_lib import observe, tssa, yolo
from tssa_lib.yolo import C2TSSA, TSSAttention

from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA
from ultralytics.nn.modules.block import Attention
from ultralytics.utils import checks

# eval outputs reach about 500 pixels; float32 keeps 7 digits, and fusing batch norm costs about two
FUSED = 1e-3
HALF = {torch.float16: 2e-2, torch.bfloat16: 1e-1}  # relative error of one block


@pytest.fixture(scope="module")
def ours() -> YOLO:
    torch.manual_seed(0)
    return YOLO("yolo11n-tssa.yaml")


def image(height=64, width=64, n=2):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def outputs(model, x):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)[0]


@pytest.mark.parametrize("scale", yolo.SCALES)
def test_every_scale_builds_and_differs_from_stock_in_one_layer(scale):
    ours, stock = YOLO(f"yolo11{scale}-tssa.yaml").model, YOLO(f"yolo11{scale}.yaml").model
    kinds = [(type(a), type(b)) for a, b in zip(ours.model, stock.model)]
    assert [i for i, (a, b) in enumerate(kinds) if a is not b] == [10] and kinds[10] == (C2TSSA, C2PSA)
    assert [(m.i, m.f) for m in ours.model] == [(m.i, m.f) for m in stock.model] and ours.save == stock.save
    assert ours.model[10].np == sum(p.numel() for p in ours.model[10].parameters())
    assert ours.model[10].type == "tssa_lib.blocks.C2TSSA"
    assert len(ours.model[10].m) == len(stock.model[10].m)
    assert not any(isinstance(m, Attention) for m in ours.modules())
    params = [sum(p.numel() for p in m.parameters()) for m in (ours, stock)]
    assert params[0] < params[1] and ours.yaml["scale"] == scale


def test_parameters_and_flops_at_scale_n(ours):
    _, parameters, _, gflops = ours.info()
    assert parameters == sum(p.numel() for p in ours.model.parameters()) == 2_607_442
    assert parameters <= 2.61e6 and 6.0 < gflops <= 6.6


def test_the_yaml_is_yolo11s_own_but_for_the_one_row():
    d, stock = tasks.yaml_model_load("yolo11n-tssa.yaml"), tasks.yaml_model_load("yolo11n.yaml")
    rows, theirs = d["backbone"] + d["head"], stock["backbone"] + stock["head"]
    assert [i for i, (a, b) in enumerate(zip(rows, theirs)) if a != b] == [10] and len(rows) == len(theirs)
    assert rows[10][:3] == [-1, 2, "C2TSSA"] and d["scales"] == stock["scales"] and d["nc"] == 80
    assert d["yaml_file"] == "yolo11n-tssa.yaml", "a checkpoint keeps this, so no path of this machine"


def test_one_seed_gives_stock_and_ours_the_same_start():
    models = []
    for name in ("yolo11n.yaml", "yolo11n-tssa.yaml", "yolo11n.yaml"):
        torch.manual_seed(3)
        models.append(YOLO(name).model.state_dict())
        models[-1]["next draw"] = torch.rand(4)
    stock, ours, again = models
    assert set(ours) - set(stock) == {"model.10.m.0.attn.temp"}
    differ = {k for k in stock if stock[k].shape != ours[k].shape or not torch.equal(stock[k], ours[k])}
    assert differ and all(".attn.qkv." in k for k in differ)
    assert all(torch.equal(stock[k], again[k]) for k in stock), "stock models are untouched by the registration"


def test_registering_twice_is_once_and_leaves_stock_yamls_alone():
    before = tasks.parse_model, tasks.yaml_model_load, len(yolo.default_callbacks["on_pretrain_routine_start"])
    yolo.register()
    assert before == (
        tasks.parse_model,
        tasks.yaml_model_load,
        len(yolo.default_callbacks["on_pretrain_routine_start"]),
    )
    d = tasks.yaml_model_load("yolo11n-tssa.yaml")
    row = copy.deepcopy(d["backbone"][10])
    tasks.parse_model(d, ch=3, verbose=False)
    assert d["backbone"][10] == row and row[2] == "C2TSSA"


def test_the_block_is_tssa_plus_positions(ours):
    """Against the layer of lesson 7: same projection, same output map, and `pe` beside it."""
    attn = copy.deepcopy(ours.model.model[10].m[0].attn).eval().double()
    torch.nn.init.normal_(attn.qkv.bn.weight)  # a batch norm that does something
    x = torch.randn(2, attn.dim, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer = tssa.TSSA(attn.dim, attn.num_heads).double()
    layer.qkv, layer.to_out = torch.nn.Identity(), torch.nn.Identity()
    v = attn.qkv(x)
    y = layer(v.flatten(2).mT).mT.reshape(v.shape)
    assert (attn(x) - attn.proj(y + attn.pe(v))).abs().max() < 1e-12
    with observe.record(ours.model) as tape, torch.no_grad():
        out = ours.model.eval()(image())
    assert torch.equal(out[0], outputs(ours.model, image())), "recording changes nothing"
    (seen,) = tape["model.10.m.0.attn"]
    assert seen.Pi.shape == (2, 2, 4) and seen.gates.shape == seen.second_moments.shape == (2, 2, 64)
    assert (seen.Pi.sum(1) - 1).abs().max() < 1e-6
    assert ((0 < seen.gates) & (seen.gates <= 1)).all()


@pytest.mark.parametrize("width, normalize", [(16, "tokens"), (64, "rms"), (32, "tokens")])
def test_the_switches_of_the_block_reach_the_layer(width, normalize):
    block = C2TSSA(128, 128, 2, 0.5, width, normalize, 5.0)
    heads = {b.attn.num_heads for b in block.m}
    assert heads == {64 // width} and len(block.m) == 2
    assert all(b.attn.normalize == normalize and (b.attn.temp == 5).all() for b in block.m)
    assert block(torch.rand(2, 128, 4, 4)).isfinite().all()


def test_the_yaml_hands_the_switches_on():
    d = tasks.yaml_model_load("yolo11n-tssa.yaml")
    d["backbone"][10][3] = [1024, 0.5, 16, "rms", 3.0]
    attn = tasks.DetectionModel(d, verbose=False).model[10].m[0].attn
    assert (attn.num_heads, attn.normalize, attn.temp.mean().item()) == (8, "rms", 3.0)


@pytest.mark.parametrize("normalize", ["tokens", "rms", "none"])
def test_the_fast_block_is_the_block_written_out(normalize):
    torch.manual_seed(0)
    attn, x = TSSAttention(32, 4, normalize, temp=9.0).double().eval(), torch.randn(2, 32, 3, 5, dtype=torch.float64)
    fast = attn(x)
    attn.fast = False
    torch.testing.assert_close(fast, attn(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_the_tied_block_is_minus_n_times_the_gradient(fused):
    """Projection, batch norm's scales and shifts included, gates, and the transpose of it all as output map."""
    torch.manual_seed(0)
    attn = TSSAttention(32, 4, tied=True).double()
    for norm in (attn.qkv.bn, attn.proj):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    attn.qkv.bn.running_var.uniform_(0.5, 2)
    attn.eval().requires_grad_(False)
    if fused:
        whole = yolo.YOLO("yolo11n-tssa.yaml").model
        whole.model[10].m[0].attn = attn
        attn = whole.fuse(verbose=False).model[10].m[0].attn
        assert not hasattr(attn.qkv, "bn")
    attn.proj, attn.pe = torch.nn.Identity(), torch.nn.Module()
    attn.pe.forward = torch.zeros_like
    x = torch.randn(1, 32, 4, 6, dtype=torch.float64).requires_grad_()
    Pi = attn.statistics(x).Pi.detach()
    n_k = Pi.sum(-1)
    s = tssa.second_moments(attn.project(x), Pi)
    rate = (n_k / 24 * torch.log1p(s).sum(-1)).sum() / 2  # lesson 5's variational rate, c = 1, n = 24
    torch.testing.assert_close(attn(x), -24 * torch.autograd.grad(rate, x)[0], rtol=1e-7, atol=1e-7)


def test_code_lengths_after_batch_norm_say_nothing():
    """Equal moments everywhere: every head codes every token at the same length (lesson 10)."""
    v = torch.randn(4, 32, 10, 10)
    v = torch.nn.functional.batch_norm(v, None, None, training=True)
    attn = TSSAttention(32, 4, normalize="code")
    attn.qkv = torch.nn.Identity()
    whole = v.transpose(0, 1).flatten(1)[None, :, None]  # the batch as one map, as batch norm saw it
    assert (attn.statistics(whole).Pi - 0.25).abs().max() < 1e-4
    scaled = whole * torch.linspace(0.3, 3, 32)[:, None, None]
    assert attn.statistics(scaled).Pi.std() > 0.1, "scales that batch norm learns bring them back"


@pytest.mark.parametrize("switches", [{"tied": True}, {"normalize": "code"}], ids=str)
def test_every_switch_builds_carries_weights_and_fuses(switches):
    torch.manual_seed(0)
    stock = YOLO("yolo11n.yaml")
    torch.manual_seed(0)
    ours = YOLO("yolo11n-tssa.yaml")
    ours.model = tasks.DetectionModel({**yolo.with_attention(("P5",), **switches), "scale": "n"}, verbose=False)
    found, tied = yolo.load(ours, stock), switches.get("tied", False)
    assert set(found.fresh) == {
        f"model.10.m.0.attn.{name}" for name in ("temp", *(("proj.weight", "proj.bias") if tied else ()))
    }
    assert found.parameters == sum(p.numel() for p in ours.model.parameters()) - 2 - 256 * tied
    attn = ours.model.model[10].m[0].attn
    assert attn.tied == tied and attn.normalize == switches.get("normalize", "tokens")
    want = outputs(ours.model, image())
    fused = copy.deepcopy(ours.model).eval().fuse(verbose=False)
    assert (outputs(fused, image()) - want).abs().max() < FUSED * want.abs().max()
    half = copy.deepcopy(attn).eval().to(torch.bfloat16)(torch.rand(1, 128, 4, 4).to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    attn.train()(torch.rand(2, 128, 4, 4)).square().sum().backward()
    assert [n for n, p in attn.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_no_convolution_is_left_without_a_gradient(ours):
    block = copy.deepcopy(ours.model.model[10]).train()
    block(torch.rand(2, 256, 4, 4)).square().sum().backward()
    assert [n for n, p in block.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_fuse_and_deepcopy_keep_the_outputs(ours):
    x, want = image(), outputs(ours.model, image())
    assert torch.equal(outputs(copy.deepcopy(ours.model), x), want)
    fused = copy.deepcopy(ours.model).eval().fuse(verbose=False)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    assert (outputs(fused, x) - want).abs().max() < FUSED * want.abs().max()


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision(dtype):
    torch.manual_seed(0)
    block = C2TSSA(256, 256).eval()
    x = 300 * torch.randn(1, 256, 4, 4)  # squares of such tokens overflow in float16
    with torch.no_grad():
        want, got = block(x), copy.deepcopy(block).to(dtype)(x.to(dtype)).float()
    assert got.isfinite().all() and (got - want).norm() < HALF[dtype] * want.norm()


def test_other_sizes_than_square(ours):
    assert outputs(ours.model, image(96, 160, 1)).shape == (1, 84, (12 * 20 + 6 * 10 + 3 * 5))


# --- weights carried over ---------------------------------------------------------------------


def test_load_carries_every_weight_that_has_a_place():
    torch.manual_seed(5)
    stock, ours = YOLO("yolo11n.yaml"), YOLO("yolo11n-tssa.yaml")
    for p in [*stock.model.parameters(), *(b for b in stock.model.buffers() if b.is_floating_point())]:
        p.data.add_(torch.rand_like(p) * 0.1)  # as if trained: batch norms and their statistics included
    before = stock.model.state_dict()
    temp = ours.model.model[10].m[0].attn.temp.clone()
    carried = yolo.load(ours, stock.model)
    ours_now = ours.model.state_dict()
    for k, v in before.items():
        if ".attn.qkv." not in k:
            assert torch.equal(ours_now[k], v), k
    attn, kept = stock.model.model[10].m[0].attn, ours.model.model[10].m[0].attn
    x = torch.rand(1, 128, 4, 4)
    attn.eval(), kept.eval()
    parts = attn.qkv(x).view(1, attn.num_heads, -1, 16).split([attn.key_dim, attn.key_dim, attn.head_dim], 2)
    assert torch.allclose(parts[2], kept.project(x).mT, atol=1e-6), "the values of each head, in order"
    assert torch.equal(kept.temp, temp)
    queries_and_keys = 2 * attn.key_dim * attn.num_heads * (128 + 2)  # rows of the map, scale and shift of its norm
    assert carried.parameters == carried.parameters_of - queries_and_keys == 2_624_080 - 16_640
    assert carried.tensors == carried.tensors_of == len(before)
    assert carried.fresh == ("model.10.m.0.attn.temp",)
    assert "2,607,440 of 2,624,080 parameters" in str(carried)


def test_load_of_our_own_weights_is_whole():
    torch.manual_seed(6)
    a, b = YOLO("yolo11n-tssa.yaml"), YOLO("yolo11n-tssa.yaml")
    assert yolo.load(b, a.model)[:4] == (500, 500, 2_607_442, 2_607_442)
    assert all(torch.equal(v, b.model.state_dict()[k]) for k, v in a.model.state_dict().items())


@pytest.mark.parametrize("other", ["yolov8n.yaml", "yolo11s.yaml"])
def test_a_checkpoint_of_another_model_is_named(other):
    ours = YOLO("yolo11n-tssa.yaml")
    before = copy.deepcopy(ours.model.state_dict())
    with pytest.raises(ValueError, match=f"this architecture, of scale 'n', got {other[:-5]}: only"):
        yolo.load(ours, YOLO(other).model)
    assert all(torch.equal(v, before[k]) for k, v in ours.model.state_dict().items())


def test_what_is_no_checkpoint_is_named(tmp_path):
    ours = YOLO("yolo11n-tssa.yaml")
    with pytest.raises(ValueError, match="expected two Ultralytics models, got DetectionModel and Linear"):
        yolo.load(ours, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"expected a checkpoint \(.pt\) or a model, got .*notes.txt"):
        yolo.load(ours, tmp_path / "notes.txt")
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="expected a YOLO checkpoint, got .*notes.pt: not a file of torch.save"):
        yolo.load(ours, tmp_path / "notes.pt")
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="expected a YOLO checkpoint, got .*state.pt: TypeError: .*types outside"):
        yolo.load(ours, tmp_path / "state.pt")
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found no file .*nowhere.pt"):
        yolo.load(ours, tmp_path / "nowhere.pt")


# --- bad input --------------------------------------------------------------------------------


def test_an_unknown_scale_is_named():
    with pytest.raises(
        ValueError, match="expected a scale of n, s, m, l, x after yolo11, got 'q' in yolo11q-tssa.yaml"
    ):
        YOLO("yolo11q-tssa.yaml")


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="dim=128, num_heads=3"):
        TSSAttention(128, num_heads=3)
    for width in (20, 1000, 0, -16, 2.5):
        with pytest.raises(
            ValueError, match=f"expected a head_width that divides the 64 channels of the blocks, got {width}"
        ):
            C2TSSA(128, 128, head_width=width)
    with pytest.raises(ValueError, match="c1=64, c2=128"):
        C2TSSA(64, 128)
    with pytest.raises(ValueError, match="got 'token'"):
        C2TSSA(128, 128, normalize="token")


# --- other processes --------------------------------------------------------------------------


def python(code: str, cwd: Path) -> str:
    done = fresh_process("-c", code, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_multi_gpu_worker_comes_to_know_the_block(tmp_path, ours, monkeypatch):
    """The file that Ultralytics writes for its workers, run as far as it needs no GPU."""
    from types import SimpleNamespace

    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import dist
    from ultralytics.utils.callbacks import get_default_callbacks

    monkeypatch.setattr(dist, "USER_CONFIG_DIR", tmp_path)
    trainer = DetectionTrainer.__new__(DetectionTrainer)
    trainer.args, trainer.model = SimpleNamespace(model="yolo11n-tssa.yaml"), "yolo11n-tssa.yaml"
    trainer.callbacks, trainer.hub_session = get_default_callbacks(), None  # older versions ask for a session
    worker = Path(dist.generate_ddp_file(trainer)).read_text()
    loading = worker.split("cfg = DEFAULT")[0].rstrip() + "\n"
    places = [line for line in loading.splitlines() if "sys.path" in line]  # may hold any name, ours included
    assert "tssa" not in "".join(set(loading.splitlines()) - set(places)) and "torch_load" in loading
    seen = python(
        loading + "    import sys; print('tssa_lib.blocks' in sys.modules)\n"
        "    from ultralytics.nn.tasks import DetectionModel\n"
        "    print(type(DetectionModel(state['model'], verbose=False).model[10]).__name__)",
        tmp_path,
    )
    assert seen.split()[-2:] == ["True", "C2TSSA"]


def test_what_we_rest_on_in_ultralytics_is_there():
    """The bounds of pyproject.toml: Ultralytics promises these names and shapes for no other minor version."""
    import inspect
    import re

    import ultralytics

    text = Path(yolo.__file__).parents[1].joinpath("pyproject.toml").read_text()
    low, high = re.search(r'"ultralytics>=([\d.]+),<([\d.]+)"', text).groups()
    number = lambda version: [int(part) for part in version.split(".")[:3]]
    assert number(low) <= number(ultralytics.__version__) < number(high), "outside of what was tested"
    assert number(high) == [number(ultralytics.__version__)[0], number(ultralytics.__version__)[1] + 1], (
        "the next minor version"
    )
    parse = inspect.unwrap(tasks.parse_model)
    assert list(inspect.signature(parse).parameters) == ["d", "ch", "verbose"] and "ultralytics" in parse.__module__
    assert list(inspect.signature(C2PSA.__init__).parameters)[1:] == ["c1", "c2", "n", "e"]
    block = C2PSA(256, 256)
    assert {"cv1", "cv2", "m"} <= dict(block.named_children()).keys() and block.c == 128
    assert {name for name, _ in block.m[0].attn.named_children()} == {"qkv", "proj", "pe"}
    stock = block.m[0].attn
    assert stock.qkv.conv.out_channels == stock.num_heads * (2 * stock.key_dim + stock.head_dim)
    assert "on_pretrain_routine_start" in yolo.default_callbacks


def test_ultralytics_own_files_are_found_in_a_folder_with_brackets(tmp_path, monkeypatch):
    """Its pattern begins with where it is installed: with the plain glob, brackets there are not a name."""
    installed = tmp_path / "my tssa [lessons] é" / "ultralytics"
    (installed / "cfg").mkdir(parents=True)
    (installed / "cfg" / "own.yaml").write_text("nc: 1")
    monkeypatch.setattr(checks, "ROOT", installed)
    assert checks.check_yaml("own.yaml") == str(installed / "cfg" / "own.yaml")
    monkeypatch.setattr(checks, "glob", glob)
    with pytest.raises(FileNotFoundError, match="own.yaml"):
        checks.check_yaml("own.yaml")
