"""TSSA inside Ultralytics YOLO11: the block, its registration, and weights carried over.

Lesson 10 opens the slot where YOLO11 has softmax attention (`C2PSA`, at stride 32); `C2TSSA` is the
same block with Token Statistics Self-Attention in it (Wu et al. 2024; lesson 7). Importing this
module registers it, so that `YOLO("yolo11n-tssa.yaml")` and every verb after it work; nothing of the
installed package is edited or copied. Ultralytics is AGPL-3.0, hence so is this project.

It also makes Ultralytics quiet: its settings go to `YOLO_CONFIG_DIR` (in a checkout `.cache/ultralytics`), and there is no
telemetry, version check, package installation or font download. Environment variables that are
already set win (`YOLO_CONFIG_DIR`, `YOLO_OFFLINE`, `YOLO_AUTOINSTALL`). Data sets and weights asked
for by name are still downloaded.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch  # before ultralytics, which else holds torch to one thread
from torch import Tensor, nn

from tssa_lib.fast import eager, fast_tssa
from tssa_lib.paths import data_dir
from tssa_lib.tssa import TSSA

SCALES = "nsmlx"
NAMES = {"tssa": "C2TSSA", "psa": "C2PSA", "plain": "C2Plain"}  # in yolo11n-tssa.yaml, of the block
AFTER = {"P3": 4, "P4": 6, "P5": 10}  # last row of each level in YOLO11's backbone; row 10 is the attention
SWITCHES = ("e", "head_width", "normalize", "temp", "tied")  # of C2TSSA in a model YAML, in this order


def _make_quiet() -> bool:
    """Settings and a font for Ultralytics, in a folder of ours, before it is first imported.

    True when they are new: the first import then fills the settings in, and would say so.
    """
    os.environ.setdefault("YOLO_OFFLINE", "True")  # no telemetry, no version check
    os.environ.setdefault("YOLO_AUTOINSTALL", "False")  # no pip behind one's back
    home = Path(os.environ.setdefault("YOLO_CONFIG_DIR", str(data_dir() / "ultralytics")))
    folder = home.expanduser() / "Ultralytics"
    settings = folder / "settings.json"
    fonts = [folder / name for name in ("Arial.ttf", "Arial.Unicode.ttf")]  # it would download these
    if all(file.exists() for file in (settings, *fonts)):
        return False
    from matplotlib import get_data_path

    folder.mkdir(parents=True, exist_ok=True)
    for font in fonts:
        if not font.exists():
            shutil.copy(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), font)
    if not settings.exists():
        places = {f"{kind}_dir": str(data_dir() / kind) for kind in ("datasets", "weights", "runs")}
        partial = folder / f"settings.{os.getpid()}.tmp"
        partial.write_text(json.dumps({"settings_version": "0.0.8", **places, "sync": False}))
        partial.replace(settings)
    return True


if _make_quiet():
    logging.disable(logging.WARNING)

import ultralytics.engine.model as engine  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.nn import tasks  # noqa: E402
from ultralytics.nn.modules import C2PSA, Conv  # noqa: E402
from ultralytics.utils import LOGGER, YAML  # noqa: E402
from ultralytics.utils.callbacks.base import default_callbacks  # noqa: E402

logging.disable(logging.NOTSET)


# --- the block --------------------------------------------------------------------------------


class TSSAttention(TSSA):
    """TSSA over a feature map, (B, C, H, W) to the same: the twin of Ultralytics' `Attention`.

    The tokens are the N = H·W places of the map. As in `Attention`, the projections are 1x1
    convolutions with batch norm, and a depthwise 3x3 convolution of the projected map, `pe`, adds
    position; one projection `qkv` (the values) takes the place of queries, keys and values.
    `tied` takes the projection's transpose as output map, batch norm's scales included (while training:
    of its running statistics), and leaves of `proj` the batch norm.

    `ValueError` when num_heads doesn't divide dim, or normalize is unknown.

    >>> TSSAttention(32, num_heads=2).eval()(torch.zeros(1, 32, 4, 6)).shape
    torch.Size([1, 32, 4, 6])
    """

    def __init__(self, dim: int, num_heads: int = 8, normalize: str = "tokens", temp: float = 1.0, tied: bool = False):
        super().__init__(dim, num_heads, normalize=normalize, temp=temp, tied=tied)
        del self.to_out, self.attn_drop  # `proj`, under its name in YOLO11, takes their place
        self.qkv = Conv(dim, dim, 1, act=False)
        self.proj = nn.BatchNorm2d(dim) if tied else Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 3, 1, g=dim, act=False)

    def project(self, x: Tensor) -> Tensor:
        """The projected tokens w (B, K, N, p), a view of the projected map."""
        return self._tokens(self.qkv(x))

    def _tokens(self, v: Tensor) -> Tensor:
        return v.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(-2, -1)  # (B, K, N, p)

    def bases(self) -> Tensor:
        """The projection [U_1ᵀ; …; U_Kᵀ] (C, C) in use, batch norm's scales included."""
        W, norm = self.qkv.conv.weight[..., 0, 0], getattr(self.qkv, "bn", None)  # `fuse` takes the norm away
        return W if norm is None else W * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]

    def _output(self, y: Tensor) -> Tensor:
        return self.proj(nn.functional.conv2d(y, self.bases().mT[..., None, None]) if self.tied else y)

    def forward(self, x: Tensor) -> Tensor:
        v = self.qkv(x)  # (B, C, H, W)
        if self.fast and eager(v):  # the same, in fewer passes
            y = fast_tssa(v.flatten(2), self.temp, normalize=self.normalize)  # (B, C, N)
            return self._output(y.view(v.shape) + self.pe(v))
        w = self._tokens(v)  # (B, K, N, p)
        Pi, _, D = self._statistics(w)  # (B, K, N), (B, K, p)
        y = -w * (Pi[..., None] * D[..., None, :]).to(w.dtype)  # (B, K, N, p)
        return self._output(y.transpose(-2, -1).reshape(v.shape) + self.pe(v))  # (B, C, H, W)


class C2TSSA(C2PSA):
    """`C2PSA` with TSSA in place of softmax attention; half of the channels pass through it.

    c1 = c2 channels, n blocks, e the share of channels c that the blocks see, head_width about the width
    of a head: max(c // head_width, 1) heads share c; normalize, temp and tied as in `TSSA`.
    `ValueError` for channels that don't agree, or that so many heads don't divide.

    >>> C2TSSA(256, 256).eval()(torch.zeros(1, 256, 4, 4)).shape
    torch.Size([1, 256, 4, 4])
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        e: float = 0.5,
        head_width: int = 64,
        normalize: str = "tokens",
        temp: float = 1.0,
        tied: bool = False,
    ):
        if c1 != c2:
            raise ValueError(f"expected as many output as input channels, got c1={c1}, c2={c2}")
        if head_width < 1:
            raise ValueError(f"expected head_width >= 1, got {head_width}")
        super().__init__(c1, c2, n, e)
        for block in self.m:
            block.attn = TSSAttention(self.c, max(self.c // head_width, 1), normalize, temp, tied)


class Values(nn.Module):
    """What is left of `Attention` and `TSSAttention` without attention: y = proj(v + pe(v)), v the values."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = Conv(dim, dim, 1, act=False)
        self.proj = Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 3, 1, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        v = self.qkv(x)  # (B, C, H, W)
        return self.proj(v + self.pe(v))  # (B, C, H, W)


class C2Plain(C2PSA):
    """`C2TSSA` with the identity in place of attention: the control of a fair trial, all else being equal.

    >>> C2Plain(256, 256).eval()(torch.zeros(1, 256, 4, 4)).shape
    torch.Size([1, 256, 4, 4])
    """

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, e)
        for block in self.m:
            block.attn = Values(self.c)


BLOCKS = {"C2TSSA": C2TSSA, "C2Plain": C2Plain}  # what a row of a model YAML may name, besides Ultralytics' own


# --- registration -----------------------------------------------------------------------------


def _with_c2tssa(parse):
    """Ultralytics' `parse_model`, taught one more block name.

    The stock parser sees the rows of `C2TSSA` as `C2PSA`, whose first two arguments are the same,
    and so gives them their channels, width and repeats; then the built blocks are swapped. It is a
    wrapper because `train`, `resume` and loading rebuild the model through the same function.
    """

    @functools.wraps(parse)
    def parse_model(d, ch, verbose=True):
        rows = [*d["backbone"], *d["head"]]
        for i, (_, _, name, _) in enumerate(rows):
            if name not in BLOCKS and not name.startswith(("nn.", "torchvision.ops.")) and not hasattr(tasks, name):
                raise ValueError(
                    f"expected a block that Ultralytics or this package knows in row {i} of the model "
                    f"YAML, got {name!r}; known are {', '.join(_known())}"
                )
        ours = {i: (name, args) for i, (_, _, name, args) in enumerate(rows) if name in BLOCKS}
        if not ours:
            return parse(d, ch, verbose)
        rows = [
            [f, n, "C2PSA", args[:2]] if i in ours else [f, n, name, args] for i, (f, n, name, args) in enumerate(rows)
        ]
        cut = len(d["backbone"])
        layers, save = parse({**d, "backbone": rows[:cut], "head": rows[cut:]}, ch, verbose)
        for i, (name, args) in ours.items():
            twin = layers[i]
            channels = twin.cv2.conv.out_channels
            with torch.random.fork_rng(devices=[]):  # nobody else's random draws shift
                block = BLOCKS[name](channels, channels, len(twin.m), *args[1:])
            _carry(block, twin)  # the same seed gives the same start as in the stock model
            block.i, block.f, block.type = twin.i, twin.f, f"{C2TSSA.__module__}.{name}"
            block.np = sum(p.numel() for p in block.parameters())
            layers[i] = block
            if verbose:
                LOGGER.info(f"row {i} is {block.type}{[channels, *args[1:]]}, {block.np:,} parameters")
        return layers, save

    return parse_model


def _known() -> list[str]:
    """The names that a row of a model YAML may hold, besides torch.nn's and torchvision's."""
    modules = {n: v for n, v in vars(tasks).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    return sorted(
        BLOCKS.keys() | {n for n, v in modules.items() if not issubclass(v, (tasks.BaseModel, tasks.Ensemble))}
    )


def _with_our_yaml(load):
    """Ultralytics' `yaml_model_load`, taught `yolo11n-tssa.yaml`, its scales and its placements."""

    @functools.wraps(load)
    def yaml_model_load(path):
        name = re.fullmatch(r"yolo11([a-z]?)-(tssa|psa|plain)(?:-((?:p[345])+))?\.ya?ml", str(path))
        if not name or Path(path).exists():
            return load(path)
        scale, block, places = name.groups()
        if scale not in SCALES:  # "" stands for n
            raise ValueError(f"expected a scale of {', '.join(SCALES)} after yolo11, got {scale!r} in {path}")
        d = with_attention(re.findall("P.", (places or "p5").upper()), NAMES[block])
        return {**d, "scale": scale or SCALES[0], "yaml_file": str(path)}

    return yaml_model_load


def with_attention(places: Sequence[str] = ("P5",), block: str = "C2TSSA", **switches: Any) -> dict[str, Any]:
    """The rows of a YOLO11 with attention at the end of several levels of its backbone, as a model dictionary.

    places: "P5" (stride 32, where YOLO11 has it), and "P4" (16) and "P3" (8) if wanted; block: "C2TSSA",
    stock "C2PSA" or "C2Plain"; switches: `e`, `head_width`, `normalize`, `temp` and `tied` of C2TSSA. By name the same is
    `YOLO("yolo11n-tssa-p4p5.yaml")`, `YOLO("yolo11n-psa-p3p4p5.yaml")`. With switches: add the key
    `scale`, or write the dictionary to a file like `yolo11n-mine.yaml`. `ValueError` for other places,
    blocks and switches.

    >>> [row[2] for row in with_attention(("P4", "P5"))["backbone"]].index("C2TSSA")
    7
    """
    d = YAML.load(Path(__file__).with_name("yolo11-tssa.yaml"))
    rows, cut = d["backbone"] + d["head"], len(d["backbone"])
    if "P5" not in places or not set(places) <= AFTER.keys():
        raise ValueError(f"expected places P5 and perhaps P4 and P3, got {', '.join(places) or 'none'}")
    if block not in NAMES.values():
        raise ValueError(f"expected the block {' or '.join(NAMES.values())}, got {block!r}")
    given = dict(zip(SWITCHES, rows[AFTER["P5"]][3][1:]))
    if not switches.keys() <= given.keys() or (switches and block != "C2TSSA"):
        raise ValueError(f"expected switches of C2TSSA ({', '.join(given)}), got {', '.join(switches)} for {block}")
    args = [*{**given, **switches}.values()] if block == "C2TSSA" else []
    rows[AFTER["P5"]] = [-1, 2, block, [1024, *args]]
    for place in ("P4", "P3"):  # later rows first, so that the numbers of the earlier ones still hold
        if place in places:
            at, cut = AFTER[place], cut + 1
            moved = [[_shift(f, at), *rest] for f, *rest in rows]
            rows = [*moved[: at + 1], [-1, 2, block, [512, *args]], *moved[at + 1 :]]
    return {**d, "backbone": rows[:cut], "head": rows[cut:]}


def _shift(f: int | list[int], at: int) -> int | list[int]:
    """Where a row reads from, once a row is put in behind row `at` and takes its place as a source."""
    return [_shift(g, at) for g in f] if isinstance(f, list) else f + (f >= at)


def _import_us(trainer) -> None:
    """Nothing. Ultralytics ships callbacks to its multi-GPU workers by name, which imports this file."""


def register() -> None:
    """Make Ultralytics know `C2TSSA` and `yolo11[nsmlx]-tssa.yaml`; importing does it, twice is fine."""
    if getattr(tasks.parse_model, "knows_c2tssa", False):
        return
    tasks.parse_model = _with_c2tssa(tasks.parse_model)
    tasks.parse_model.knows_c2tssa = True
    tasks.yaml_model_load = engine.yaml_model_load = _with_our_yaml(tasks.yaml_model_load)
    default_callbacks["on_pretrain_routine_start"].append(_import_us)
    torch.serialization.add_safe_globals([TSSAttention, Values, *BLOCKS.values()])


register()


# --- weights carried over ---------------------------------------------------------------------


class Carried(NamedTuple):
    """What `load` found a place for: counts of the checkpoint's tensors (whole or in part) and parameters.

    `fresh` names the parameters of our model that kept their initial values.
    """

    tensors: int
    tensors_of: int
    parameters: int
    parameters_of: int
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.tensors} of {self.tensors_of} tensors and {self.parameters:,} of {self.parameters_of:,} "
            f"parameters of the checkpoint found a place; {len(self.fresh)} of the model's stay fresh"
        )


def load(model: YOLO, weights: str | Path | YOLO | nn.Module) -> Carried:
    """Carry over every weight that has a place in `model`, and say how many found one.

    From a stock YOLO11, `C2PSA` gives its value rows to our single projection, and its output map,
    positional convolution, feed-forward part and outer convolutions to their namesakes; queries and
    keys have no place. `train` then goes on from these weights (it rebuilds the model, and would
    drop weights set by hand). A detector so made is a starting point, not a finished one: the
    attention's output is another function, so train it.

    weights: a checkpoint's path, a YOLO or its network. `ValueError` for a checkpoint of another architecture
    or scale (less than half of its parameters would fit) and for a file that isn't `.pt`, `TypeError`
    for a `.pt` without a model.

    >>> stock, ours = YOLO("yolo11n.yaml"), YOLO("yolo11n-tssa.yaml")
    >>> load(ours, stock.model).fresh
    ('model.10.m.0.attn.temp',)
    """
    weights = weights.model if isinstance(weights, YOLO) else weights
    if not isinstance(weights, nn.Module) and Path(weights).suffix != ".pt":
        raise ValueError(f"expected a checkpoint (.pt) or a model, got {weights}")
    source = weights if isinstance(weights, nn.Module) else tasks.load_checkpoint(weights)[0]
    target = model.model
    if not isinstance(target, tasks.BaseModel) or not isinstance(source, tasks.BaseModel):
        raise ValueError(f"expected two Ultralytics models, got {type(target).__name__} and {type(source).__name__}")
    fitted = copy.deepcopy(source).float()
    fitted.model = _aligned(target.model, fitted.model)
    for i, (ours, theirs) in enumerate(zip(target.model, fitted.model)):
        if isinstance(ours, tuple(BLOCKS.values())) and type(theirs) is C2PSA:
            block = copy.deepcopy(ours)
            if _carry(block, theirs):
                for inner in block.m if isinstance(ours, C2TSSA) else ():
                    del inner.attn.temp  # it has no counterpart: not counted, stays as it is in ours
                    if inner.attn.tied:
                        inner.attn.proj = nn.Identity()
                fitted.model[i] = block

    own = target.state_dict()
    fits = {k: v for k, v in fitted.state_dict().items() if k in own and v.shape == own[k].shape}
    learned = {k for k, _ in target.named_parameters()}
    total = sum(p.numel() for p in source.parameters())
    found = Carried(
        len(fits),
        len(source.state_dict()),
        sum(v.numel() for k, v in fits.items() if k in learned),
        total,
        tuple(sorted(learned - fits.keys())),
    )
    if found.parameters < total / 2:
        raise ValueError(
            f"expected a YOLO11 checkpoint of scale {target.yaml.get('scale')!r}, got {_name(source, weights)}: "
            f"only {found.parameters:,} of its {total:,} parameters have a place"
        )
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)  # it would count, too, but against the swapped copy
    try:
        model.load(fitted)
    finally:
        LOGGER.setLevel(level)
    return found


def _aligned(ours: nn.Sequential, theirs: nn.Sequential) -> nn.Sequential:
    """Their layers at our numbers: attention that only one of the two has would shift all that follow."""
    left, layers = list(theirs), []
    for layer in ours:
        while left and isinstance(left[0], C2PSA) and not isinstance(layer, C2PSA):
            left.pop(0)
        alone = not left or (isinstance(layer, C2PSA) and not isinstance(left[0], C2PSA))
        layers.append(nn.Identity() if alone else left.pop(0))
    return nn.Sequential(*layers)


def _carry(ours: C2PSA, theirs: C2PSA) -> bool:
    """Put the weights of a stock block into ours, all but `temp`; False when sizes differ."""
    state, own = theirs.state_dict(), ours.state_dict()
    for j, stock in enumerate(inner.attn for inner in theirs.m):
        width = 2 * stock.key_dim + stock.head_dim  # rows of one head: query, key, value
        rows = torch.arange(stock.num_heads * width).view(stock.num_heads, width)
        values = rows[:, 2 * stock.key_dim :].flatten()  # (C,), the value rows, head by head
        for name in [n for n in state if n.startswith(f"m.{j}.attn.qkv.") and state[n].ndim]:
            state[name] = state[name][values]
    alone = tuple(f"m.{j}.attn.proj." for j, inner in enumerate(ours.m) if getattr(inner.attn, "tied", False))
    state, own = ({k: v for k, v in d.items() if not k.startswith(alone)} for d in (state, own))
    fits = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in own.items() if ".temp" not in k}
    if fits:
        ours.load_state_dict(state, strict=False)
    return fits


def _name(source: nn.Module, weights: str | Path | nn.Module) -> str:
    named = Path(source.yaml["yaml_file"]).stem if source.yaml.get("yaml_file") else type(source).__name__
    return named if isinstance(weights, nn.Module) else f"{named} from {Path(weights).name}"
