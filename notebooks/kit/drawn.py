"""Drawn scenes whose discs can, or can't, be told apart without the rest of the scene.

Discs of colour on a noisy grey ground, and four questions about them:

    own   warm or cool: the disc's colour tells its class, nobody needs context
    rare  two colours a scene, drawn anew; the one with more discs is "common", the other "rare"
    cue   two colours a scene, drawn anew; is the disc's colour that of the scene's one square, "same", or "other"
    twin  all colours of a scene differ but for one pair: "twin" or "single"

In all but *own* the colours are drawn anew for every scene, so a disc by itself says nothing about its class.
Everything is integer arithmetic on frozen random streams, written as BMP: a specification makes the same bytes on
every machine.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tssa_lib.paths import data_dir
from tssa_lib.scenes import SPLITS, digest

CLASSES = {
    "own": ("warm", "cool"),
    "rare": ("common", "rare"),
    "cue": ("other", "same", "square"),
    "twin": ("single", "twin"),
}
HARD = {"own": "warm", "rare": "rare", "cue": "same", "twin": "twin"}  # the class whose precision is looked at
CIRCLE = 1536  # steps around the circle of hues, from red over green and blue
QUARTER = CIRCLE // 4  # hues of two colours in a scene are at least so far apart
DARK, LIGHT = 40, 230  # of a colour's channels
TRIES = 200


@dataclass(frozen=True)
class DrawnSpec:
    """What a set of drawn scenes looks like. Ranges are inclusive pairs (low, high); lengths are in pixels.

    `ValueError` for a task that nobody knows.

    >>> DrawnSpec("rare").size
    96
    """

    task: str
    train: int = 400  # scenes
    val: int = 160
    size: int = 96
    discs: tuple[int, int] = (5, 7)
    few: tuple[int, int] = (1, 2)  # of them in the colour of the minority, in *rare*
    radius: tuple[int, int] = (7, 10)
    palette: int = 4  # colours that two are drawn from in *rare* and *cue*, evenly around the circle
    gap: int = 3
    noise: int = 24  # most grey levels by which a pixel departs from its colour
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in CLASSES:
            raise ValueError(f"expected a task of {', '.join(CLASSES)}, got {self.task!r}")
        for name in ("discs", "few", "radius"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list from JSON will do


class Drawn(NamedTuple):
    """A scene and what is in it."""

    image: np.ndarray  # (size, size, 3) uint8, RGB
    labels: np.ndarray  # (n,) the class of each shape, a place in `CLASSES[task]`
    boxes: np.ndarray  # (n, 4) x0, y0, x1, y1 in pixels; the far edges are exclusive
    hues: np.ndarray  # (n,) 0 to CIRCLE − 1


def colour(hue: int) -> np.ndarray:
    """RGB (3,) of a place on the circle of hues, all equally saturated.

    >>> colour(0), colour(512)
    (array([230,  40,  40]), array([ 40, 230,  40]))
    """
    away = np.abs((hue - np.array([0, CIRCLE // 3, 2 * CIRCLE // 3]) + CIRCLE // 2) % CIRCLE - CIRCLE // 2)
    full = (512 - away).clip(0, 256)  # of 256
    return DARK + (LIGHT - DARK) * full // 256


def draw(spec: DrawnSpec, split: str, index: int) -> Drawn:
    """Draw scene number `index` of a split, without writing anything.

    Raises `ValueError` for an unknown split, or when the discs find no room.

    >>> drawn = draw(DrawnSpec("rare"), "val", 0)
    >>> drawn.image.shape, len(drawn.labels) == len(drawn.boxes)
    ((96, 96, 3), True)
    """
    if split not in SPLITS:
        raise ValueError(f"expected split to be one of {SPLITS}, got {split!r}")
    rng = np.random.RandomState([spec.seed, SPLITS.index(split), index])  # its streams are frozen

    def integer(low: int, high: int) -> int:
        return int(rng.randint(low, high + 1, dtype=np.int64))

    wanted = integer(*spec.discs)
    hues, labels = {"own": _own, "rare": _rare, "cue": _cue, "twin": _twin}[spec.task](spec, wanted, integer, rng)
    for _ in range(TRIES):  # a crowded layout is dropped and begun again
        boxes = _layout(spec, len(hues), integer)
        if boxes is not None:
            break
    else:
        raise ValueError(f"expected room for {len(hues)} shapes, got a scene of {spec.size} px that is too small")

    image = np.full((spec.size, spec.size, 3), integer(100, 150), np.int64)
    for hue, label, (x0, y0, x1, y1) in zip(hues, labels, boxes):
        at = 2 * np.arange(x1 - x0) + 1 - (x1 - x0)  # twice the distance from the middle
        square = spec.task == "cue" and label == 2
        inside = np.full((x1 - x0, x1 - x0), True) if square else at[:, None] ** 2 + at**2 <= (x1 - x0) ** 2
        image[y0:y1, x0:x1][inside] = colour(hue)
    half = spec.noise // 2  # two draws: small departures are the more frequent
    noise = rng.randint(-half, half + 1, (2, *image.shape), dtype=np.int64).sum(0)
    return Drawn((image + noise).clip(0, 255).astype(np.uint8), np.array(labels), boxes, np.array(hues))


def _own(spec: DrawnSpec, n: int, integer, rng) -> tuple[list[int], list[int]]:
    labels = [integer(0, 1) for _ in range(n)]
    middle = (0, CIRCLE // 2)  # red and cyan
    return [(middle[label] + integer(-QUARTER // 2, QUARTER // 2)) % CIRCLE for label in labels], labels


def _two_hues(spec: DrawnSpec, integer) -> list[int]:
    first = integer(0, spec.palette - 1)
    near = -(-spec.palette // 4)  # steps of the palette that make a quarter of the circle
    second = (first + integer(near, spec.palette - near)) % spec.palette
    return [CIRCLE * place // spec.palette for place in (first, second)]


def _rare(spec: DrawnSpec, n: int, integer, rng) -> tuple[list[int], list[int]]:
    few = min(integer(*spec.few), (n - 1) // 2)
    labels = rng.permutation([1] * few + [0] * (n - few)).tolist()
    hues = _two_hues(spec, integer)
    return [hues[label] for label in labels], labels


def _cue(spec: DrawnSpec, n: int, integer, rng) -> tuple[list[int], list[int]]:
    labels = rng.permutation([0, 1, *(integer(0, 1) for _ in range(n - 3))]).tolist()
    hues = _two_hues(spec, integer)
    return [*(hues[label] for label in labels), hues[1]], [*labels, 2]  # the square comes last


def _twin(spec: DrawnSpec, n: int, integer, rng) -> tuple[list[int], list[int]]:
    start, palette = integer(0, CIRCLE - 1), 12
    drawn = rng.permutation(palette)[: n - 1].tolist()
    hues = [(start + CIRCLE // palette * place) % CIRCLE for place in [drawn[0], *drawn]]
    order = rng.permutation(n)
    return [hues[i] for i in order], [int(i < 2) for i in order]


def _layout(spec: DrawnSpec, n: int, integer) -> np.ndarray | None:
    """Boxes (n, 4) that keep their distance, or None when there was no room."""
    boxes = np.zeros((0, 4), np.int64)
    for _ in range(n):
        side = 2 * integer(*spec.radius)
        for _ in range(TRIES):
            x, y = integer(spec.gap, spec.size - spec.gap - side), integer(spec.gap, spec.size - spec.gap - side)
            box = np.array([x, y, x + side, y + side])
            apart = (box[:2] >= boxes[:, 2:] + spec.gap) | (boxes[:, :2] >= box[2:] + spec.gap)
            if apart.any(1).all():  # apart from each along at least one axis
                boxes = np.vstack([boxes, box])
                break
        else:
            return None
    return boxes


def make_drawn(spec: DrawnSpec, root: str | Path | None = None) -> Path:
    """Write the scenes in YOLO layout, once, and return the path of their `data.yaml`.

    Built under a temporary name and renamed at the end, so that what is there is whole.

    >>> make_drawn(DrawnSpec("own", train=2, val=1)).name
    'data.yaml'
    """
    root = Path(root).expanduser().resolve() if root else data_dir() / "scenes"
    key = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:8]
    folder = root / f"{spec.task}{spec.size}-{key}"
    if (folder / "manifest.json").is_file() and (folder / "data.yaml").is_file():
        return folder / "data.yaml"
    root.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    try:
        made.chmod(0o755)  # mkdtemp's is for its owner only
        for split in SPLITS:
            for kind in ("images", "labels"):
                (made / kind / split).mkdir(parents=True)
            for i in range(getattr(spec, split)):
                drawn = draw(spec, split, i)
                Image.fromarray(drawn.image).save(made / "images" / split / f"{i:05d}.bmp")
                (made / "labels" / split / f"{i:05d}.txt").write_text(_lines(drawn, spec.size))
        names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES[spec.task]))
        (made / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
        manifest = {"spec": asdict(spec), "sha256": digest(made)}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        try:
            made.replace(folder)
        except OSError:
            if not (folder / "data.yaml").is_file():  # else another process was first with the same bytes
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / "data.yaml"


def _lines(drawn: Drawn, size: int) -> str:
    """YOLO label lines: class, then centre and size as shares of the picture."""
    corners = drawn.boxes / size
    centre, extent = (corners[:, 2:] + corners[:, :2]) / 2, corners[:, 2:] - corners[:, :2]
    rows = np.hstack([centre, extent])
    return "".join(f"{c} " + " ".join(f"{v:.6f}" for v in row) + "\n" for c, row in zip(drawn.labels, rows))


def chance(spec: DrawnSpec, split: str = "val") -> dict[str, float]:
    """The share of each class among the discs: the average precision of one who sees discs but not their class.

    >>> round(sum(chance(DrawnSpec("rare", val=20)).values()), 6)
    1.0
    """
    found = np.concatenate([draw(spec, split, i).labels for i in range(getattr(spec, split))])
    found = found[found < 2]  # the square of *cue* tells itself
    return {name: float((found == i).mean()) for i, name in enumerate(CLASSES[spec.task][:2])}
