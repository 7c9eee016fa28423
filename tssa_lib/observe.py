"""Look inside any model that holds a TSSA: tokens, Π, second moments, gates and the rates around each layer.

    with observe(model) as seen:                 # any module, any input, in training or not
        model(x)
    seen[0].Pi

    eye = look("best.pt", "photo.jpg")           # a detector and a picture, prepared as `predict` prepares it
    eye.picture, eye.layers[0].gates, eye.boxes

Used by the views and by lessons 6, 8, 10 and 11. A model stays as it is: hooks read each layer's input and output and
compute its statistics anew, and `look` runs the copy that Ultralytics' predictor makes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tssa_lib.photos import load_image
from tssa_lib.tssa import TSSA, Statistics, TokenStatistics, entropy, moments_rate, second_moments  # noqa: F401  (TSSA: examples)


class Observation(NamedTuple):
    """What one TSSA did in one forward pass; `name` is its place in the model."""

    name: str
    grid: tuple[int, int] | None  # rows and columns of the N tokens, where they come from a map
    stride: int | None  # pixels of the model's input from one token to the next, where it has pixels
    w: Tensor  # (B, K, N, p) projected tokens
    Pi: Tensor  # (B, K, N) memberships
    second_moments: Tensor  # (B, K, p)
    gates: Tensor  # (B, K, p)
    rate_before: Tensor  # (B,) variational rate of the layer's input, in nats, c absorbed
    rate_after: Tensor  # (B,) of input plus output, Π held fixed
    layer: TokenStatistics  # the layer itself

    @property
    def entropy(self) -> Tensor:
        """Evenness: the mean entropy of the memberships over ln K, (B,): 0 is hard, 1 uniform; 1 for one head."""
        K = self.Pi.shape[1]
        return entropy(self.Pi) / math.log(K) if K > 1 else torch.ones_like(self.Pi[:, 0, 0])

    @property
    def mass(self) -> Tensor:
        """The share n_k/N of all tokens that each head holds, (B, K)."""
        return self.Pi.mean(-1)

    @property
    def update(self) -> Tensor:
        """−π_k D_k w_k, (B, K, N, p): what each head takes from each token, before the output map."""
        return -self.Pi[..., None] * self.gates[..., None, :] * self.w

    def only(self, b: int) -> Observation:
        """The observation of picture b of the batch alone, B = 1."""
        return self.each(lambda values: values[b : b + 1])

    def each(self, change: Callable[[Tensor], Tensor]) -> Observation:
        """The observation with every tensor changed."""
        changed: dict[str, Any] = {k: change(v) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**changed)


@contextmanager
def observe(model: nn.Module) -> Iterator[list[Observation]]:
    """Collect an Observation a TSSA layer and forward pass, in the order in which they ran.

    Statistics are those of evaluation, also while training: a projection with batch norm would else count the pass
    twice. ValueError for a model without a TSSA.

    >>> model = nn.Sequential(TSSA(8, 2))
    >>> with observe(model) as seen: _ = model(torch.ones(1, 5, 8))
    >>> seen[0].Pi.shape
    torch.Size([1, 2, 5])
    """
    seen: list[Observation] = []
    side = getattr(model, "side", 0)  # a classifier of square pictures says it
    rows = [0]  # of the pixels that came in last

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if inputs else None
        rows[0] = x.shape[-2] if isinstance(x, Tensor) and (x.ndim == 4 or side) else 0

    def note(name: str, layer: TokenStatistics, x: Tensor, output: Tensor) -> None:
        w, (Pi, s, D) = layer.project(x), layer.statistics(x)
        square = (side, side) if side and side**2 == Pi.shape[-1] else None
        grid = (x.shape[-2], x.shape[-1]) if x.ndim == 4 else square
        stride = round(rows[0] / grid[0]) if grid and rows[0] else None
        after = second_moments(layer.project(x + output), Pi, layer.mass)
        before, after = (moments_rate(m, Pi, layer.c) for m in (s, after))  # (B,)
        seen.append(Observation(name, grid, stride, w, Pi, s, D, before, after, layer))

    handle = model.register_forward_pre_hook(enter)
    try:
        with _each_call(model, note):
            yield seen
    finally:
        handle.remove()


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, list[Statistics]]]:
    """Record the statistics of every TSSA in `model` by module name, one entry a call; `observe` without the rates.

    >>> layer = nn.Sequential(TSSA(8, 2))
    >>> with record(layer) as tape: _ = layer(torch.ones(1, 5, 8))
    >>> tape["0"][0].Pi.shape
    torch.Size([1, 2, 5])
    """
    tape: dict[str, list[Statistics]] = {name: [] for name in layers_of(model)}
    with _each_call(model, lambda name, layer, x, output: tape[name].append(layer.statistics(x))):
        yield tape


@contextmanager
def _each_call(model: nn.Module, note: Callable[[str, TokenStatistics, Tensor, Tensor], None]) -> Iterator[None]:
    """Call note(name, layer, x, output) after each pass through a TSSA, without gradients, the layer in evaluation."""

    def hook(name: str) -> Callable[..., None]:
        @torch.no_grad()
        def call(layer: TokenStatistics, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            modes = {m: m.training for m in layer.modules()}
            layer.eval()
            try:
                note(name, layer, inputs[0], output)
            finally:
                for m, training in modes.items():
                    m.training = training

        return call

    handles = [m.register_forward_hook(hook(name)) for name, m in layers_of(model).items()]
    try:
        yield
    finally:
        for h in handles:
            h.remove()


def tssa_layers(model: Any) -> dict[str, TokenStatistics]:
    """The TSSA layers of a module, or of a YOLO's network, by their names and in the model's order.

    >>> list(tssa_layers(nn.Sequential(TSSA(8, 2))))
    ['0']
    """
    module = model.model if hasattr(model, "predictor") else model  # a YOLO wraps its network
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a model that is open, as tssa_lib.load gives it, got {model!r}")
    return {name: m for name, m in module.named_modules() if isinstance(m, TokenStatistics)}


def layers_of(model: Any) -> dict[str, TokenStatistics]:
    """`tssa_layers`, and ValueError for a model without one."""
    if layers := tssa_layers(model):
        return layers
    raise ValueError(f"expected a model that holds a TSSA layer, got {type(model).__name__} without one")


# ---- a model and a picture ----------------------------------------------------------------------------
class Look(NamedTuple):
    """One picture as a model saw it, and what its TSSA layers did."""

    picture: np.ndarray  # (H, W, 3) RGB in [0, 1], the model's input: scaled and padded
    photo: np.ndarray  # (h, w, 3) RGB uint8, as it came
    layers: list[Observation]  # in the order in which they ran, B = 1
    boxes: np.ndarray  # (n, 6) detections: x0, y0, x1, y1 in pixels of `picture`, confidence, class
    names: dict[int, str]  # of the classes
    scores: np.ndarray | None  # (classes,) probabilities, of a classifier

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """Where the photo lies in the padded picture: x0, y0, x1, y1 in pixels of `picture`, as LetterBox puts it."""
        (H, W), (h, w) = self.picture.shape[:2], self.photo.shape[:2]
        gain = min(H / h, W / w)
        tall, wide = max(round(h * gain), 1), max(round(w * gain), 1)
        left, top = round((W - wide) / 2 - 0.1), round((H - tall) / 2 - 0.1)
        return left, top, left + wide, top + tall


class Observer:
    """A model made ready to look at pictures as Ultralytics' `predict` would; `look` is the short form.

    model: a YOLO, its network, what `weights.load` opens, any module that takes (B, 3, H, W) in [0, 1], or a classifier
    of grey squares (B, side, side) that has a `side`. `imgsz`: the longest side in pixels, or (H, W); by default the
    size that the model was trained at. `conf`: boxes from this confidence up. `network` is the copy that runs and may
    be altered; the model is never touched. ValueError for a model without a TSSA, TypeError for what is no model.
    """

    def __init__(self, model: Any, imgsz: int | tuple[int, int] | None = None, conf: float = 0.25):
        if isinstance(model, (str, Path)):
            from tssa_lib.weights import load

            model = load(model)
        wrapped = hasattr(model, "predictor")  # a YOLO wraps its network, which has a .model as well
        module = model.model if wrapped else model
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a YOLO, a module or a checkpoint's path, got {type(model).__name__}")
        layers_of(module)
        self.side = getattr(module, "side", 0)
        if self.side:
            self.network = copy.deepcopy(module).eval()
            return
        from tssa_lib.yolo import tasks  # makes Ultralytics quiet before anything else of it is imported

        from ultralytics.models.yolo.detect import DetectionPredictor

        class Bare(DetectionPredictor):
            """For a module that is no detector: prepares the picture, leaves the output alone."""

            def postprocess(self, preds: Any, img: Tensor, orig_imgs: list[np.ndarray], **kwargs: Any) -> list[Any]:
                return self.construct_results([torch.zeros(0, 6)] * len(orig_imgs), img, orig_imgs)

        kind = DetectionPredictor if isinstance(module, tasks.BaseModel) else Bare
        trained = getattr(module, "args", {})
        trained = trained if isinstance(trained, dict) else vars(trained)
        settings = dict(conf=conf, batch=1, save=False, verbose=False, mode="predict", rect=True)
        size = {"imgsz": imgsz or trained.get("imgsz") or 640}
        self.predictor = (model._smart_load("predictor") if wrapped else kind)(overrides=size | settings)
        self.predictor.setup_model(module, verbose=False)  # copies and fuses
        self.predictor.done_warmup = True  # else a GPU would see the first picture more than once
        self.network = self.predictor.model.model

    def __call__(self, images: Any, layers: bool = True) -> list[Look]:
        """A Look a picture: a path, folder, URL, PIL image, BGR array (H, W, 3), Results, or a list of these.

        Without `layers` only what the model finds.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        see = self._squares if self.side else self._pictures
        return [look for image in images for look in see(getattr(image, "orig_img", image), layers)]

    def _watched(self, layers: bool) -> AbstractContextManager[list[Observation]]:
        return observe(self.network) if layers else nullcontext([])

    def _pictures(self, image: Any, layers: bool) -> list[Look]:
        from tssa_lib.dataset import check_readable

        check_readable(image)
        if isinstance(image, np.ndarray) and image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected an array of uint8 in BGR order, as OpenCV reads it, got {image.dtype}")
        batches: list[tuple[Tensor, Any, list[Observation]]] = []

        def passed(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            batches.append((inputs[0], output, seen[:]))
            seen.clear()

        with self._watched(layers) as seen:
            handle = self.network.register_forward_hook(passed)
            try:
                results = iter(self.predictor(str(image) if isinstance(image, Path) else image))
            finally:
                handle.remove()
        looks = []
        for x, output, observations in batches:
            flat = isinstance(output, Tensor) and output.ndim == 2  # a classifier's logits
            for b, (pixels, result) in enumerate(zip(x.float().cpu().permute(0, 2, 3, 1).numpy(), results)):
                photo = np.ascontiguousarray(result.orig_img[..., ::-1])
                probs = output[b].float().softmax(-1) if flat else getattr(result.probs, "data", None)
                scores = None if probs is None else probs.cpu().numpy()
                own = [_free(o, b) for o in observations]
                look = Look(pixels, photo, own, np.zeros((0, 6)), dict(result.names), scores)
                looks.append(look._replace(boxes=_placed(result, look)))
        return looks

    def _squares(self, image: Any, layers: bool) -> list[Look]:
        photo = load_image(image)
        x = torch.tensor(photo).permute(2, 0, 1)[None].float() / 255
        x = nn.functional.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        weight = next(self.network.parameters())
        with torch.no_grad(), self._watched(layers) as seen:
            output = self.network(x.mean(1).to(weight))
        scores = output[0].float().softmax(-1).cpu().numpy()
        picture = x[0].permute(1, 2, 0).numpy().clip(0, 1)
        return [Look(picture, photo, [o.only(0) for o in seen], np.zeros((0, 6)), {}, scores)]


def look(model: Any, image: Any, imgsz: int | tuple[int, int] | None = None) -> Look | list[Look]:
    """Run a model on a picture, prepared as `predict` prepares it, and observe it; on a list, a list of Looks.

    model and image as in `Observer`; `imgsz` by default the size that the model was trained at.
    """
    looks = Observer(model, imgsz)(image)
    return looks[0] if len(looks) == 1 and not isinstance(image, (list, tuple)) else looks


def _free(o: Observation, b: int) -> Observation:
    """Picture b of the batch, as tensors that autograd may use: the predictor's are inference tensors."""
    with torch.inference_mode(False):
        return o.only(b).each(Tensor.clone)


def _placed(result: Any, look: Look) -> np.ndarray:
    """The boxes of a result, from pixels of the photo to pixels of the model's picture."""
    if result.boxes is None or not len(result.boxes):
        return np.zeros((0, 6))
    boxes = result.boxes.data[:, [0, 1, 2, 3, -2, -1]].cpu().double().numpy()
    x0, y0, x1, y1 = look.inner
    h, w = look.photo.shape[:2]
    gain = np.array([(x1 - x0) / w, (y1 - y0) / h] * 2)
    boxes[:, :4] = boxes[:, :4] * gain + [x0, y0, x0, y0]
    return boxes
