"""What Ultralytics is taught: the rows of our blocks in a model YAML, and our models by name.

Nothing of the installed package is edited or copied: two of its functions are wrapped, and `blocks` puts its classes
into `BLOCKS`. `yolo` says which names there are; lesson 10 opens the slot and shows what goes wrong without this.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tssa_lib import quiet  # noqa: F401  (before ultralytics)

# isort: split
import ultralytics.engine.model as engine
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA
from ultralytics.utils import LOGGER, ROOT, YAML

BLOCKS: dict[str, type[C2PSA]] = {}  # what a row of a model YAML may name, besides Ultralytics' own
SCALES = "nsmlx"
NAMES = {"tssa": "C2TSSA", "psa": "C2PSA", "plain": "C2Plain"}  # in yolo11n-tssa.yaml, of the block
BODIES = tuple(f"{body}{task}" for body in ("yolo11", "yolo26") for task in ("", "-seg", "-pose", "-obb"))
AFTER = {"P3": 4, "P4": 6, "P5": 10}  # last row of each level in YOLO11's backbone; row 10 is the attention
SWITCHES: dict[str, Any] = {  # of C2TSSA in a model YAML, in this order
    "e": (int, float),
    "head_width": (int, type(None)),
    "normalize": str,
    "temp": (int, float),
    "tied": bool,
}
IMPROVED = {"head_width": 16, "normalize": "rms", "temp": 4.0}  # memberships that say something at every resolution


# --- rows of a model YAML ---------------------------------------------------------------------


def _with_blocks(parse):
    """Ultralytics' `parse_model`, taught the names of `BLOCKS`.

    The stock parser sees their rows as `C2PSA`, whose first two arguments are the same,
    and so gives them their channels, width and repeats; then the built blocks are swapped. It is a
    wrapper because `train`, `resume` and loading rebuild the model through the same function.
    """

    @functools.wraps(parse)
    def parse_model(d, ch, verbose=True):
        rows = [*d["backbone"], *d["head"]]
        _check_rows(rows)
        ours = {i: (name, args) for i, (_, _, name, args) in enumerate(rows) if name in BLOCKS}
        if not ours:
            return parse(d, ch, verbose)
        rows = [
            [f, n, "C2PSA", args[:2]] if i in ours else [f, n, name, args] for i, (f, n, name, args) in enumerate(rows)
        ]
        cut = len(d["backbone"])
        table = _Held()
        LOGGER.addFilter(table)
        try:
            layers, save = parse({**d, "backbone": rows[:cut], "head": rows[cut:]}, ch, verbose)
        except AssertionError as e:
            raise ValueError(
                f"expected each row of {' and '.join({name for name, _ in ours.values()})} to name as many channels as "
                f"reach it, got {', '.join(f'row {i} {args}' for i, (_, args) in ours.items())}"
            ) from e
        finally:
            LOGGER.removeFilter(table)
        for i, (name, args) in ours.items():
            twin = layers[i]
            channels = twin.cv2.conv.out_channels
            with torch.random.fork_rng(devices=[]):  # nobody else's random draws shift
                block = BLOCKS[name](channels, channels, len(twin.m), *args[1:])
            carry(block, twin)  # the same seed gives the same start as in the stock model
            block.i, block.f, block.type = twin.i, twin.f, f"{BLOCKS[name].__module__}.{name}"
            block.np = sum(p.numel() for p in block.parameters())
            layers[i] = block
            table.rename(i, f"{block.np:10.0f}  {block.type:<45}{[channels, channels, len(twin.m), *args[1:]]!s:<30}")
        table.show()
        return layers, save

    return parse_model


def carry(ours: C2PSA, theirs: C2PSA) -> bool:
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


class _Held(logging.Filter):
    """Holds back the table that the stock parser reports, until its rows have the names of our blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False

    def rename(self, row: int, text: str) -> None:
        for record in self.records:  # a row is its number, where it reads from, its repeats, and what `text` replaces
            if match := re.match(rf"( *{row} +\S.*?) +\d+  ultralytics\.\S*C2PSA ", str(record.msg)):
                record.msg = match[1] + text

    def show(self) -> None:
        for record in self.records:
            LOGGER.handle(record)


def _check_rows(rows: list[list]) -> None:
    """Every row names a block that somebody knows, and one of ours names its channels."""
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) != 4:
            raise ValueError(f"expected [from, repeats, block, arguments] in row {i} of the model YAML, got {row}")
        *_, name, args = row
        if name not in BLOCKS and not name.startswith(("nn.", "torchvision.ops.")) and not hasattr(tasks, name):
            raise ValueError(
                f"expected a block that Ultralytics or this package knows in row {i} of the model "
                f"YAML, got {name!r}; known are {', '.join(_known())}"
            )
        if name in BLOCKS and not (args and isinstance(args[0], int) and _switches_fit(args[1:])):
            raise ValueError(
                f"expected [channels, {', '.join(SWITCHES)}] of {name}, the last ones as wanted: numbers, e above 0, "
                f"head_width whole or null, normalize a word, tied true or false; got {args} in row {i} of the YAML"
            )


def _switches_fit(given: list) -> bool:
    kinds = all(isinstance(value, kind) for value, kind in zip(given, SWITCHES.values()))
    return kinds and len(given) <= len(SWITCHES) and (not given or given[0] > 0)


def _known() -> list[str]:
    """The names that a row of a model YAML may hold, besides torch.nn's and torchvision's."""
    modules = {n: v for n, v in vars(tasks).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    return sorted(
        BLOCKS.keys() | {n for n, v in modules.items() if not issubclass(v, (tasks.BaseModel, tasks.Ensemble))}
    )


# --- models by name ---------------------------------------------------------------------------


def _with_our_yaml(load):
    """Ultralytics' `yaml_model_load`, taught `yolo11n-tssa.yaml`, its scales and its placements."""

    @functools.wraps(load)
    def yaml_model_load(path):
        name = re.fullmatch(
            r"(yolo\d+)([a-z]?)-(tssa(?:-improved)?|psa|plain)(?:-((?:p[345])+))?(-[a-z]+)?\.ya?ml", str(path)
        )
        if not name or Path(path).exists():
            return load(path)
        body, scale, block, places, task = name.groups()
        block, _, improved = block.partition("-")
        if scale not in SCALES:  # "" stands for n
            raise ValueError(f"expected a scale of {', '.join(SCALES)} after {body}, got {scale!r} in {path}")
        switches = IMPROVED if improved else {}
        places = re.findall("P.", (places or "p5").upper())
        d = with_attention(places, NAMES[block], body + (task or ""), **switches)
        return {**d, "scale": scale or SCALES[0], "yaml_file": str(path)}

    return yaml_model_load


def with_attention(
    places: Sequence[str] = ("P5",), block: str = "C2TSSA", body: str = "yolo11", **switches: Any
) -> dict[str, Any]:
    """The rows of a YOLO11 with attention at the end of several levels of its backbone, as a model dictionary.

    places: "P5" (stride 32, where YOLO11 has it), and "P4" (16) and "P3" (8) if wanted; block: "C2TSSA",
    stock "C2PSA" or "C2Plain"; body: one of `BODIES`; switches: `e`, `head_width`, `normalize`, `temp` and `tied` of
    C2TSSA, for every place alike. A head_width of None (the default) gives every place two heads at least
    (`blocks.widest_head`). By name the same is `YOLO("yolo11n-tssa-p4p5.yaml")`, `YOLO("yolo11n-psa-p3p4p5.yaml")`,
    and with the switches of `IMPROVED` `YOLO("yolo11n-tssa-improved-p4p5.yaml")`. With other switches: add the key
    `scale`, or write the dictionary to a file like `yolo11n-mine.yaml`. `ValueError` for other places, blocks, bodies
    and switches.

    >>> [row[2] for row in with_attention(("P4", "P5"))["backbone"]].index("C2TSSA")
    7
    """
    d = YAML.load(Path(__file__).with_name("yolo11-tssa.yaml"))
    ours = d["backbone"][AFTER["P5"]][3]
    if body not in BODIES:
        raise ValueError(
            f"expected a body of {', '.join(BODIES)}, which have attention in a row of its own, got {body!r}"
        )
    if body != "yolo11":
        d = YAML.load(ROOT / "cfg" / "models" / body[4:6] / f"{body}.yaml")
    rows, cut = d["backbone"] + d["head"], len(d["backbone"])
    if "P5" not in places or not set(places) <= AFTER.keys():
        raise ValueError(f"expected places P5 and perhaps P4 and P3, got {', '.join(places) or 'none'}")
    if block not in NAMES.values():
        raise ValueError(f"expected the block {' or '.join(NAMES.values())}, got {block!r}")
    given = dict(zip(SWITCHES, ours[1:]))
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


def _shift(f: Any, at: int) -> Any:
    """Where a row reads from, once a row is put in behind row `at` and takes its place as a source."""
    return [_shift(g, at) for g in f] if isinstance(f, list) else f + (f >= at)


def register() -> None:
    """Make Ultralytics know our blocks and `yolo11[nsmlx]-tssa.yaml`; importing does it, twice is fine.

    Checkpoints and model YAMLs then run no code when they are opened: Ultralytics' restricted mode, which it has off,
    takes classes of PyTorch, Ultralytics and this package alone. `ULTRALYTICS_SAFE_LOAD=False` in the environment
    opens all files again.
    """
    if getattr(tasks.parse_model, "knows_our_blocks", False):
        return
    tasks.SAFE_LOAD = tasks.SAFE_LOAD or "ULTRALYTICS_SAFE_LOAD" not in os.environ
    tasks.parse_model = _with_blocks(tasks.parse_model)
    tasks.parse_model.knows_our_blocks = True
    tasks.yaml_model_load = engine.yaml_model_load = _with_our_yaml(tasks.yaml_model_load)


register()
