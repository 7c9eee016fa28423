"""Every verb of Ultralytics on a TSSA-YOLO, done for real on the CPU at tiny size.

What test_yolo.py (building, fusing, loading) and test_train.py (training, resuming, ONNX) do is not done again here.
"""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import fresh_process
from tssa_lib import train as training
from tssa_lib import weights, yolo
from tssa_lib.core import memberships
from tssa_lib.scenes import SceneSpec, make_scenes, scene
from tssa_lib.train import NO_FLOAT32, SCENES, export, predict, train, validate

from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils.torch_utils import ModelEMA

TINY = SceneSpec(train=8, val=4, size=64, digits=(1, 2))
SHORT = {**SCENES, "imgsz": 64, "epochs": 1}
PIXELS, SCORES = 1e-2, 1e-4  # float32 with batch norm folded in, on boxes of up to 500 pixels and scores up to 1
HALF = {torch.float16: 5e-3, torch.bfloat16: 3e-2}  # relative error of a whole model
GATED = 1e-4


def picture(height=64, width=64, n=1):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def candidates(model: YOLO, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.model.eval()(x)[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_scenes(TINY, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def best(tiny, tmp_path_factory) -> Path:
    return train(tiny, folder=tmp_path_factory.mktemp("run"), quiet=True, **SHORT).best


# --- build --------------------------------------------------------------------------------------


def row_of(name: str) -> list[tuple[int, str]]:
    found = [m for m in YOLO(name).model.model if isinstance(m, yolo.C2TSSA)]
    return [(b.attn.num_heads, b.attn.normalize) for m in found for b in m.m]


def test_by_name_every_placement_has_two_heads_and_the_improved_form_its_switches():
    assert row_of("yolo11n-tssa-p3p4p5.yaml") == [(2, "tokens")] * 3
    assert row_of("yolo11s-tssa-p4p5.yaml") == [(2, "tokens"), (4, "tokens")]
    assert row_of("yolo11n-tssa-improved.yaml") == [(8, "rms")]
    assert row_of("yolo11n-tssa-improved-p3p4p5.yaml") == [(4, "rms"), (4, "rms"), (8, "rms")]
    named = tasks.yaml_model_load("yolo11n-tssa-improved-p4p5.yaml")
    written = yolo.with_attention(("P4", "P5"), **yolo.IMPROVED)
    assert named["backbone"] == written["backbone"] and named["head"] == written["head"]
    narrow = yolo.with_attention(("P5",), e=0.125)
    assert tasks.DetectionModel({**narrow, "scale": "n"}, verbose=False).model[10].m[0].attn.num_heads == 2


@pytest.mark.parametrize(
    "args, said",
    [
        ([], "got []"),
        ([7], "row 10 [7]"),
        ([512], "row 10 [512]"),
        (["x"], "got ['x']"),
        (None, "got None"),
        ([1024, "a"], "got [1024, 'a']"),
        ([1024, 0.0], "got [1024, 0.0]"),
        ([1024, 0.5, 16, "rms", "hot"], "'hot'] in row 10"),
        ([1024, 0.5, 16, "rms", 1.0, "yes"], "'yes'] in row 10"),
        ([1024, 0.5, 16, "rms", 1.0, True, 3], "True, 3] in row 10"),
    ],
)
def test_a_row_with_wrong_channels_is_answered_in_words(args, said):
    d = tasks.yaml_model_load("yolo11n-tssa.yaml")
    d["backbone"][10][3] = args
    with pytest.raises(ValueError, match="expected .*channels.*" + re.escape(said)):
        tasks.DetectionModel(d, verbose=False)


def test_the_table_of_a_model_names_our_blocks(caplog):
    yolo.LOGGER.propagate, before = True, yolo.LOGGER.propagate
    try:
        with caplog.at_level("INFO", logger=yolo.LOGGER.name):
            YOLO("yolo11n-tssa.yaml", verbose=True)
    finally:
        yolo.LOGGER.propagate = before
    (row,) = {line for line in caplog.messages if line.split()[:1] == ["10"]}
    assert "tssa_lib.blocks.C2TSSA" in row and "C2PSA" not in row
    assert str(sum(p.numel() for p in YOLO("yolo11n-tssa.yaml").model.model[10].parameters())) in row


def test_attention_at_p5_alone_is_the_model_of_the_yaml():
    a, b = tasks.yaml_model_load("yolo11n-tssa.yaml"), yolo.with_attention()
    assert a["backbone"] == b["backbone"] and a["head"] == b["head"]
    stock, psa = tasks.yaml_model_load("yolo11n.yaml"), tasks.yaml_model_load("yolo11n-psa.yaml")
    assert [r[2] for r in stock["backbone"]] == [r[2] for r in psa["backbone"]]
    assert YOLO("yolo11n-psa.yaml").model.state_dict().keys() == YOLO("yolo11n.yaml").model.state_dict().keys()


def test_attention_put_in_changes_nothing_but_what_it_adds():
    """With the new attention silenced, the model of three levels computes what stock YOLO11 computes."""
    torch.manual_seed(0)
    stock, three = YOLO("yolo11n.yaml"), YOLO("yolo11n-psa-p3p4p5.yaml")
    assert yolo.load(three, stock.model).parameters == sum(p.numel() for p in stock.model.parameters())
    for row in (5, 8):
        three.model.model[row].forward = lambda x: x
    assert torch.equal(candidates(three, picture()), candidates(stock, picture()))


def test_the_rows_of_three_levels_spelled_out():
    """The neck reads each level behind its attention, and `e` and the others reach the row."""
    d = yolo.with_attention(("P3", "P4", "P5"), e=0.25)
    rows = d["backbone"] + d["head"]
    places = {i: row for i, row in enumerate(rows) if row[2] == "C2TSSA"}
    assert {i: row[:2] for i, row in places.items()} == {5: [-1, 2], 8: [-1, 2], 12: [-1, 2]}
    assert [row[3] for row in places.values()] == [[c, 0.25, None, "tokens", 1.0, False] for c in (512, 512, 1024)]
    joined = {i: row[0] for i, row in enumerate(rows) if isinstance(row[0], list)}
    assert joined == {14: [-1, 8], 17: [-1, 5], 20: [-1, 15], 23: [-1, 12], 25: [18, 21, 24]}
    assert len(d["backbone"]) == 13 and all(row[0] == -1 for i, row in enumerate(rows) if i not in joined)
    two = yolo.with_attention(("P4", "P5"))
    joined = [row[0] for row in two["backbone"] + two["head"] if isinstance(row[0], list)]
    assert joined == [[-1, 7], [-1, 4], [-1, 14], [-1, 11], [17, 20, 23]]
    block = tasks.DetectionModel({**d, "scale": "n"}, verbose=False).model[12]
    assert block.c == 64 and block.m[0].attn.dim == 64, "a quarter of 256 channels"


def test_switches_and_wrong_placements():
    d = yolo.with_attention(("P4", "P5"), head_width=16, normalize="rms", temp=2.0)
    attn = tasks.DetectionModel({**d, "scale": "n"}, verbose=False).model[7].m[0].attn
    assert (attn.num_heads, attn.normalize, attn.temp.mean().item()) == (4, "rms", 2.0)
    for places, block, switches, said in [
        (("P4",), "C2TSSA", {}, "expected places P5 and perhaps P4 and P3, got P4"),
        (("P2", "P5"), "C2TSSA", {}, "got P2, P5"),
        (("P5",), "C3", {}, "expected the block C2TSSA or C2PSA or C2Plain, got 'C3'"),
        (("P5",), "C2PSA", {"temp": 1.0}, "got temp for C2PSA"),
        (("P5",), "C2TSSA", {"heads": 1}, "head_width, normalize, temp.*got heads"),
    ]:
        with pytest.raises(ValueError, match=said):
            yolo.with_attention(places, block, **switches)


def test_a_row_of_another_length_is_named():
    d = tasks.yaml_model_load("yolo11n-tssa.yaml")
    d["backbone"][3] = [-1, 1, "Conv"]
    with pytest.raises(ValueError, match=re.escape("expected [from, repeats, block, arguments] in row 3 of the model")):
        tasks.DetectionModel(d, verbose=False)


@pytest.mark.parametrize("where", ["backbone", "head"])
def test_an_unknown_block_is_answered_with_the_known(where):
    d = tasks.yaml_model_load("yolo11n-tssa.yaml")
    d[where][1 if where == "head" else 10][2] = "C2TSA"
    with pytest.raises(
        ValueError, match=r"in row 1[02] of the model YAML, got 'C2TSA'; known are .*C2PSA, .*C2TSSA,.*Detect"
    ):
        tasks.DetectionModel(d, verbose=False)


def test_the_control_without_mixing_is_equal_in_everything_else():
    """Same start, same parameters but the temperatures, and no token sees another but through the 3 x 3 convolution."""
    models = []
    for name in ("yolo11n-tssa.yaml", "yolo11n-plain.yaml"):
        torch.manual_seed(0)
        models.append(YOLO(name).model.state_dict())
    ours, plain = models
    assert set(ours) - set(plain) == {"model.10.m.0.attn.temp"} and not set(plain) - set(ours)
    assert all(torch.equal(plain[k], ours[k]) for k in plain)
    attn = YOLO("yolo11n-plain.yaml").model.model[10].m[0].attn.eval()
    x = torch.rand(1, 128, 7, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    attn(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, :2, :2].abs().min() > 0 and not x.grad[0, :, 2:].any() and not x.grad[0, :, :, 2:].any()
    stock = YOLO("yolo11n.yaml")
    assert yolo.load(YOLO("yolo11n-plain.yaml"), stock.model).fresh == ()


# --- precision and copies -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF)
def test_a_whole_model_in_half_precision(best, dtype):
    model = YOLO(str(best))
    want = candidates(model, picture())
    with torch.no_grad():
        got = copy.deepcopy(model.model).eval().to(dtype)(picture().to(dtype))[0].float()
    assert got.isfinite().all() and (got - want).norm() < HALF[dtype] * want.norm()


def test_averaged_weights_follow_the_model():
    torch.manual_seed(0)
    model = YOLO("yolo11n-tssa.yaml").model
    ema = ModelEMA(model, decay=0.5, tau=1e-9)
    before = {k: v.clone() for k, v in ema.ema.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    ema.update(model)
    temp = "model.10.m.0.attn.temp"
    assert torch.allclose(ema.ema.state_dict()[temp], before[temp] + 0.5, atol=1e-3), "half of the way"
    assert isinstance(ema.ema.model[10], yolo.C2TSSA)


# --- val, predict, track ------------------------------------------------------------------------


def test_val_at_another_size_than_the_trained_one(best, tiny):
    scores, per_class = validate(YOLO(str(best)), tiny, imgsz=96)
    assert set(scores) == {"precision", "recall", "mAP50", "mAP50-95"} and all(0 <= v <= 1 for v in scores.values())
    assert set(per_class) <= {str(n) for n in range(10)} | set(YOLO(str(best)).names.values())


def test_predict_on_a_file_a_folder_and_an_array_agree(best, tiny):
    model = YOLO(str(best))
    folder = tiny.parent / "images" / "val"
    files = sorted(folder.iterdir())
    settings = dict(imgsz=64, conf=1e-4, verbose=False, save=False)
    from_folder = model.predict(str(folder), **settings)
    from_file = model.predict(str(files[0]), **settings)
    from_array = model.predict(np.asarray(from_file[0].orig_img), **settings)
    assert len(from_folder) == len(files)
    for other in (from_folder[0], from_array[0]):
        assert len(other.boxes) and torch.allclose(other.boxes.data, from_file[0].boxes.data, atol=PIXELS)


def test_track_on_a_short_clip(best, tmp_path):
    """Eight frames of one scene that moves: boxes keep a number from frame to frame."""
    import cv2
    import lap  # noqa: F401  (what Ultralytics' trackers need, and would install themselves)

    from ultralytics.utils import ROOT, YAML

    frame = scene(TINY, "train", 0).image[..., ::-1]
    clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 8, (64, 64))
    for step in range(8):
        clip.write(np.ascontiguousarray(np.roll(frame, step, axis=1)))
    clip.release()
    rules = YAML.load(
        ROOT / "cfg" / "trackers" / "bytetrack.yaml"
    )  # its thresholds, for a detector that is barely trained
    YAML.save(
        tmp_path / "low.yaml",
        {
            **rules,
            "track_high_thresh": 1e-6,
            "track_low_thresh": 1e-7,
            "new_track_thresh": 1e-6,
            "match_thresh": 0.999,
            "fuse_score": False,
        },
    )
    results = YOLO(str(best)).track(
        str(tmp_path / "clip.avi"), tracker=str(tmp_path / "low.yaml"), imgsz=64, conf=1e-6, verbose=False, save=False
    )
    numbers = [set(r.boxes.id.int().tolist()) for r in results]
    assert len(numbers) == 8 and set.intersection(*numbers)


# --- export -------------------------------------------------------------------------------------


def test_openvino_gives_the_same_candidates(best):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e .[openvino]")
    folder = export(YOLO(str(best)), "openvino", imgsz=64, dynamic=True)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # its default on this processor may be bf16: a quarter of a pixel off
    compiled = openvino.Core().compile_model(str(next(folder.glob("*.xml"))), "CPU", exact)
    for shape in ((64, 64), (96, 160)):
        want = candidates(YOLO(str(best)), picture(*shape)).numpy()
        got = compiled(picture(*shape).numpy())[0]
        assert np.abs(got[:, :4] - want[:, :4]).max() < PIXELS and np.abs(got[:, 4:] - want[:, 4:]).max() < SCORES


@pytest.mark.parametrize("switches", [{}, {"normalize": "rms", "tied": True, "head_width": 16, "temp": 4.0}], ids=str)
def test_ncnn_gives_the_same_candidates(switches, tmp_path):
    """A file of one size, here a rectangle, computed in 32 bits; and `predict` asks it at that size."""
    ncnn = pytest.importorskip("ncnn", reason="NCNN is an extra: pip install -e .[ncnn]")
    pytest.importorskip("pnnx", reason="NCNN is an extra: pip install -e .[ncnn]")
    model = detector(**switches)
    folder = export(weights.load(weights.keep(model, tmp_path / "own.pt", 64)), "ncnn", imgsz=(64, 96))
    net = ncnn.Net()
    for narrow in ("fp16_storage", "fp16_packed", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{narrow}", False)
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))
    with net.create_extractor() as run:
        run.input(net.input_names()[0], ncnn.Mat(picture(64, 96)[0].numpy()))
        got = np.array(run.extract(net.output_names()[0])[1])[None]
    want = candidates(weights.load(tmp_path / "own.pt"), picture(64, 96)).numpy()
    assert np.abs(got[:, :4] - want[:, :4]).max() < PIXELS and np.abs(got[:, 4:] - want[:, 4:]).max() < SCORES
    assert want[:, 4:].std() > 10 * SCORES
    seen = predict(folder, np.zeros((48, 96, 3), np.uint8))
    assert len(seen) == 1 and training._exported_size(YOLO(str(folder))) == [64, 96]


def detector(**switches) -> YOLO:
    """As if trained: batch norms that do something, scores that differ."""
    torch.manual_seed(0)
    model = YOLO("yolo11n-tssa.yaml")
    model.model = tasks.DetectionModel({**yolo.with_attention(("P4", "P5"), **switches), "scale": "n"}, verbose=False)
    for m in model.model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.bias, std=0.2)
            m.running_var.uniform_(0.5, 2.0)
    for branch in model.model.model[-1].cv3:
        torch.nn.init.zeros_(branch[-1].bias)
    return model


def test_a_format_whose_package_is_missing_is_named(best, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(
        ModuleNotFoundError, match="expected the package ncnn, which the format ncnn needs: pip install"
    ):
        export(YOLO(str(best)), "ncnn", imgsz=64)


def test_torch_export_and_compile_see_one_graph(best):
    model = YOLO(str(best)).model.eval()
    block = model.model[10]
    x = torch.rand(2, 256, 2, 3, generator=torch.Generator().manual_seed(0))
    size = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
    program = torch.export.export(block, (x,), dynamic_shapes=(size,))
    other = torch.rand(2, 256, 5, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(program.module()(other), block(other), atol=GATED)
        assert torch._dynamo.explain(block)(x).graph_break_count == 0


def test_a_format_that_nobody_knows_is_named(best):
    with pytest.raises(ValueError, match="tensorrrt"):
        export(YOLO(str(best)), "tensorrrt")


@pytest.mark.parametrize("format", sorted(NO_FLOAT32))
def test_a_format_that_cannot_hold_the_squares_is_refused(best, format):
    with pytest.raises(
        ValueError, match=f"expected an export with float32.*got '{format}'; onnx, torchscript, openvino and ncnn"
    ):
        export(YOLO(str(best)), format, imgsz=64)


def test_eight_bits_cannot_hold_the_squares():
    """Why: one scale for the whole tensor, as integer processors have it, and the memberships are gone."""
    exporter = pytest.importorskip("ultralytics.engine.exporter")
    assert NO_FLOAT32 == getattr(exporter, "FP32_UNSUPPORTED_FORMATS", NO_FLOAT32), "Ultralytics' own list"
    w = (
        torch.randn(1, 8, 400, 16, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-1.5, 1.5, 8)[:, None, None]
    )
    step = (w**2).max() / 255  # (B, K, N, p)
    rounded = ((w**2 / step).round() * step).sqrt()
    exact, rounded = (memberships(t, 4.0, "rms").log() for t in (w, rounded))  # logits, but for a token's constant
    logits = [t - t[:, -1:] for t in (exact, rounded)]  # against the head of largest tokens
    off = (logits[0] - logits[1]).abs().mean((0, 2)) / logits[0].abs().mean((0, 2)).clamp(min=1e-9)
    assert off[-2] < 0.1 and off[0] > 0.5, "the head of large tokens survives, that of the smallest does not"


# --- other processes ----------------------------------------------------------------------------

RANK = """
import sys
import torch
from torch import distributed
from ultralytics.utils import DEFAULT_CFG
from tssa_lib.yolo import YOLO

def gradients(rank, wrap=lambda model: model):
    torch.manual_seed(rank)
    model = YOLO("yolo11n-tssa.yaml").model.train()
    model.args = DEFAULT_CFG
    model = wrap(model)
    draw = torch.Generator().manual_seed(10 + rank)
    batch = {"img": torch.rand(2, 3, 64, 64, generator=draw), "batch_idx": torch.tensor([0.0, 1.0]),
             "cls": torch.rand(2, 1, generator=draw).mul(80).floor(),
             "bboxes": 0.2 + 0.3 * torch.rand(2, 4, generator=draw)}
    model(batch)[0].sum().backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}

if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    wrap = lambda model: torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    torch.save(gradients(rank, wrap), f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
def test_two_ranks_share_their_gradients(tmp_path):
    """Two processes with a batch each, over gloo: both hold the mean of the two gradients, from rank 0's start.

    Ultralytics' own trainer can't be driven so: it asks for a CUDA device in every rank.
    """
    (tmp_path / "rank.py").write_text(RANK)
    both = [
        subprocess.Popen(
            [sys.executable, "rank.py", str(rank), str(tmp_path)],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"},
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0][-1500:] + said[1][-1500:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    space: dict = {"__name__": "alone"}
    exec(RANK.replace("torch.manual_seed(rank)", "torch.manual_seed(0)"), space)  # both batches from rank 0's start
    alone = [space["gradients"](rank) for rank in (0, 1)]
    temp = "model.10.m.0.attn.temp"
    assert first[temp].abs().max() > 0 and not torch.allclose(alone[0][temp], alone[1][temp], rtol=0.1)
    for name, found in first.items():
        want = sum(g.get(name, torch.zeros_like(found)) for g in alone) / 2
        assert (found - want).norm() <= 1e-3 * want.norm() + 1e-6, name


def test_without_this_package_the_error_names_it(best, tmp_path):
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tssa_lib":
            raise ModuleNotFoundError("No module named 'tssa_lib'", name="tssa_lib")
sys.meta_path.insert(0, Missing())
from ultralytics import YOLO
YOLO({str(best)!r})
"""
    done = fresh_process("-c", code, cwd=tmp_path, YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
    assert done.returncode != 0 and "tssa_lib" in done.stderr.splitlines()[-1] + done.stdout, done.stderr[-800:]
    assert "AttributeError" not in done.stderr.splitlines()[-1]


def test_a_checkpoint_of_other_classes_trains_on_with_a_fresh_head(best, tmp_path):
    """Ten classes in the checkpoint, three in the data: everything but the class outputs is kept."""
    data = make_scenes(TINY, tmp_path / "scenes")
    text = data.read_text()
    few = data.with_name("few.yaml")
    few.write_text(text[: text.index("names")] + "names: {0: a, 1: b, 2: c}\n")
    for labels in (data.parent / "labels").rglob("*.txt"):
        lines = [f"{int(line.split()[0]) % 3} {line.split(maxsplit=1)[1]}" for line in labels.read_text().splitlines()]
        labels.write_text("\n".join(lines) + "\n")
    run = train(few, str(best), folder=tmp_path / "run", quiet=True, **SHORT)
    model = YOLO(str(run.best))
    assert list(model.names.values()) == ["a", "b", "c"] and isinstance(model.model.model[10], yolo.C2TSSA)


def test_stored_data_of_more_classes_than_the_names_is_an_error(tiny, tmp_path):
    data = make_scenes(TINY, tmp_path / "scenes")
    text = data.read_text()
    few = data.with_name("few.yaml")
    few.write_text(text[: text.index("names")] + "names: {0: a}\n")
    with pytest.raises(
        ValueError, match="(?s)readable images with valid labels.*Label class . exceeds dataset class count 1"
    ):
        train(few, folder=tmp_path / "run", quiet=True, **SHORT)
