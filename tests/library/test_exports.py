"""Every switch that changes what is traced, in every format, at the size of the export and at others.

The block stands alone (256 channels, 8 heads): what surrounds it in a detector is Ultralytics' own. A whole detector
follows at the end, by our verbs and in plain onnxruntime. A model exported at a fixed size is asked at that size alone.
"""

import io
import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from tssa_lib import paths, weights
from tssa_lib.blocks import C2TSSA
from tssa_lib.train import export, predict
from tssa_lib.tssa import TSSA

pytestmark = pytest.mark.filterwarnings("ignore")  # of tracing, and of formats that torch means to retire

EXPORTED, OTHERS = (8, 8), [(5, 5), (4, 9)]  # rows and columns of the map: another size, and a rectangle
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SWITCHES = list(itertools.product(("tokens", "rms", "none"), (False, True)))


def block(normalize: str, tied: bool) -> C2TSSA:
    torch.manual_seed(0)
    made = C2TSSA(64, 64, head_width=8, normalize=normalize, temp=4.0, tied=tied)
    for m in made.modules():
        if isinstance(m, torch.nn.BatchNorm2d):  # as if trained
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.bias, std=0.2)
            m.running_var.uniform_(0.5, 2.0)
    return made.eval().requires_grad_(False)


def picture(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(1, 64, *size, generator=torch.Generator().manual_seed(sum(size)))


def onnx(made: torch.nn.Module, x: torch.Tensor, dynamic: dict[int, str] | None, opset: int = 17):
    file = io.BytesIO()
    axes = {"dynamic_axes": {"x": dynamic, "y": dynamic}} if dynamic else {}
    torch.onnx.export(
        made, (x,), file, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"], **axes
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    return lambda x: torch.from_numpy(session.run(None, {"x": np.asarray(x)})[0])


def agree(exported, made: torch.nn.Module, sizes: list[tuple[int, int]]) -> None:
    for size in sizes:
        torch.testing.assert_close(exported(picture(size)), made(picture(size)), **CLOSE)


@pytest.mark.parametrize("normalize, tied", SWITCHES)
def test_onnx_of_one_size(normalize, tied):
    made = block(normalize, tied)
    agree(onnx(made, picture(EXPORTED), None), made, [EXPORTED])


@pytest.mark.parametrize("normalize, tied", SWITCHES)
def test_onnx_of_any_size(normalize, tied):
    made = block(normalize, tied)
    agree(onnx(made, picture(EXPORTED), {0: "batch", 2: "height", 3: "width"}), made, [EXPORTED, *OTHERS])


@pytest.mark.parametrize("normalize, tied", SWITCHES)
def test_torchscript(normalize, tied):
    made = block(normalize, tied)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(made, picture(EXPORTED)), file)
    file.seek(0)
    agree(torch.jit.load(file), made, [EXPORTED, *OTHERS])


@pytest.mark.parametrize("normalize, tied", SWITCHES)
def test_the_layer_of_any_number_of_tokens(normalize, tied):
    torch.manual_seed(0)
    made = TSSA(16, 4, normalize=normalize, tied=tied, temp=4.0, qkv_bias=True).eval().requires_grad_(False)
    exported = onnx(made, torch.randn(1, 20, 16), {0: "batch", 1: "tokens"})
    for x in (torch.randn(1, 20, 16), torch.randn(3, 7, 16)):
        torch.testing.assert_close(exported(x), made(x), **CLOSE)


def test_no_operator_that_exporters_lack():
    """pnnx (for NCNN) knows neither clamp_min nor mT; ONNX does not know mT."""
    for normalize, tied in SWITCHES:
        traced = torch.jit.trace(block(normalize, tied), picture(EXPORTED)).inlined_graph
        kinds = {node.kind() for node in traced.nodes()}
        assert not kinds & {"aten::clamp_min", "aten::mT"} and "aten::softmax" in kinds


@pytest.mark.parametrize("switches", [{}, {"tied": True}, {"tied": True, "orthonormal": True}], ids=str)
def test_eight_bit_weights(switches):
    torch.manual_seed(0)
    made, x = TSSA(16, 4, **switches).eval().requires_grad_(False), torch.randn(2, 9, 16)
    small = torch.ao.quantization.quantize_dynamic(made, {torch.nn.Linear}, dtype=torch.qint8)
    want = made(x)
    assert 0 < (small(x) - want).norm() < 0.05 * want.norm()
    assert (small.U - made.U).abs().max() < 0.05, "a tied layer's output map is the projection that was rounded"


# ---- a whole detector ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The detector that comes trained, as a checkpoint and as the ONNX file that our verb writes of it."""
    file = tmp_path_factory.mktemp("exported") / "cells.pt"
    file.write_bytes(paths.shipped("detectors/blood_cells.pt").read_bytes())
    return file, export(file)


PICTURES = sorted(paths.shipped("blood_cells/images/val").iterdir())[:3]  # 320 × 240 pixels


@pytest.mark.parametrize("imgsz", [None, 320, (160, 320)], ids=["as trained", "another size", "a rectangle"])
def test_the_exported_detector_finds_what_the_checkpoint_finds(cells, imgsz):
    settings = {"imgsz": imgsz} if imgsz else {}
    ours, theirs = (predict(file, PICTURES, **settings) for file in cells)
    for a, b in zip(ours, theirs):
        assert len(a.boxes) > 5 and a.names == b.names
        torch.testing.assert_close(b.boxes.data, a.boxes.data, atol=2e-2, rtol=1e-3)  # pixels of the picture


@pytest.mark.parametrize("size", [(224, 224), (160, 320), (320, 320)], ids=str)
def test_the_exported_detector_in_plain_onnxruntime(cells, size):
    """Without Ultralytics: a picture, squeezed, as RGB from 0 to 1, in; all candidates out."""
    session = onnxruntime.InferenceSession(str(cells[1]), providers=["CPUExecutionProvider"])
    model = weights.load(cells[0]).model
    with Image.open(PICTURES[0]) as photo:
        x = np.asarray(photo.convert("RGB").resize(size[::-1]), dtype=np.float32).transpose(2, 0, 1)[None] / 255
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    with torch.no_grad():
        want = model(torch.from_numpy(x))[0].numpy()  # (1, 4 + classes, candidates)
    assert want[:, 4:].max() > 0.2, "something is found"
    np.testing.assert_allclose(found[:, :4], want[:, :4], atol=2e-2, rtol=1e-3)
    np.testing.assert_allclose(found[:, 4:], want[:, 4:], atol=1e-3)
