"""Digit scenes: a small, real detection data set that needs no network.

Real 8x8 handwritten digits (scikit-learn's copy of the UCI set, 1,797 of them) are drawn large
over crops of real photographs. The fair trial trains on them; `data/README.md` gives sources and
licences. Everything is integer arithmetic on frozen random streams, written as BMP (no
compressor), so a specification makes the same bytes on every machine.

Order of this file: photographs and digits, one scene, the data set.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tssa_lib.paths import data_dir

SPLITS = ("train", "val")
PHOTOS = ("china", "flower", "bus", "zidane")
TRAIN_SHARE = 0.6  # of each photograph, along its longer side; the rest is for validation
TRAIN_DIGITS = 1258  # the first 70 % of the 1,797 digits; the rest is for validation
VISIBLE = 64  # of 255: ink at least this opaque counts as part of the digit's box
TRIES = 100  # placements to try before giving up


# --- photographs and digits -------------------------------------------------------------------


@functools.cache
def _photo(name: str) -> np.ndarray:
    """A photograph, (H, W, 3) uint8, from the reduced lossless copy in `tssa_lib/pictures`."""
    with Image.open(Path(__file__).with_name("pictures") / f"{name}.png") as image:
        return np.asarray(image.convert("RGB"))


def _region(name: str, split: str) -> np.ndarray:
    """The part of a photograph that belongs to one split: the two parts share no pixel."""
    photo = _photo(name)
    axis = int(photo.shape[1] > photo.shape[0])
    cut = int(photo.shape[axis] * TRAIN_SHARE)
    return np.split(photo, [cut], axis=axis)[SPLITS.index(split)]


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 digits: ink (1797, 8, 8) with values 0..16, and labels (1797,)."""
    from sklearn.datasets import load_digits  # heavy to import, so only when it is needed

    digits = load_digits()
    return digits.images.astype(np.int64), digits.target.astype(np.int64)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize in fixed-point integers (floats may round differently elsewhere)."""
    out = image.astype(np.int64)
    for axis, size in enumerate((height, width)):
        last = out.shape[axis] - 1
        at = (2 * np.arange(size) + 1) * (last + 1) * 128 // size - 128  # source position x 256
        at = at.clip(0, last * 256)
        low, part = at >> 8, (at & 255).reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        high = np.minimum(low + 1, last)
        out = out.take(low, axis) * (256 - part) + out.take(high, axis) * part
    return (out + (1 << 15)) >> 16


# --- one scene --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SceneSpec:
    """What a set of digit scenes looks like; the same specification makes the same bytes.

    Ranges are inclusive pairs (low, high). `ValueError` for a range or size that can't be drawn.

    >>> SceneSpec(size=96, digits=(1, 2)).size
    96
    """

    train: int = 400  # scenes for training
    val: int = 150  # scenes for validation
    size: int = 128  # side of the square scene, pixels
    digits: tuple[int, int] = (2, 5)  # digits in a scene
    side: tuple[int, int] = (20, 44)  # longer side of a digit, pixels
    contrast: tuple[int, int] = (110, 200)  # grey levels between the ink and its surroundings
    tint: int = 30  # most grey levels by which one colour channel of the ink departs from the rest
    gap: int = 2  # pixels kept free between two boxes and at the border
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("digits", "side", "contrast"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list from JSON will do
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"expected {name}=(low, high) with 1 <= low <= high, got {(low, high)}")
        if self.side[0] < 8 or self.side[1] + 2 * self.gap > self.size:
            raise ValueError(
                f"expected digits of at least 8 px that fit a scene of {self.size} px with a gap of "
                f"{self.gap} px, got side={self.side}"
            )
        if self.contrast[1] > 255 or self.tint < 0 or self.gap < 0:
            raise ValueError(
                f"expected contrast up to 255 and tint, gap >= 0, got contrast={self.contrast}, "
                f"tint={self.tint}, gap={self.gap}"
            )
        if min(self.train, self.val) < 1:
            raise ValueError(f"expected at least 1 scene a split, got train={self.train}, val={self.val}")


class Scene(NamedTuple):
    """A picture and what is in it."""

    image: np.ndarray  # (size, size, 3) uint8, RGB
    labels: np.ndarray  # (n,) the digits, 0..9
    boxes: np.ndarray  # (n, 4) x0, y0, x1, y1 in pixels; the far edges are exclusive
    sources: np.ndarray  # (n,) which of the 1,797 digits each one is


def scene(spec: SceneSpec, split: str, index: int) -> Scene:
    """Draw scene number `index` of a split, without writing anything.

    Raises `ValueError` for an unknown split, or when the digits can't be placed without overlap.

    >>> drawn = scene(SceneSpec(), "val", 0)
    >>> drawn.image.shape, len(drawn.labels) == len(drawn.boxes)
    ((128, 128, 3), True)
    """
    if split not in SPLITS:
        raise ValueError(f"expected split to be one of {SPLITS}, got {split!r}")
    rng = np.random.RandomState([spec.seed, SPLITS.index(split), index])  # its streams are frozen

    def draw(low: int, high: int) -> int:
        return int(rng.randint(low, high + 1, dtype=np.int64))

    region = _region(PHOTOS[draw(0, len(PHOTOS) - 1)], split)
    most = min(region.shape[:2])
    crop = draw(most // 2, most)
    top, left = draw(0, region.shape[0] - crop), draw(0, region.shape[1] - crop)
    image = region[top : top + crop, left : left + crop]
    if draw(0, 1):
        image = image[:, ::-1]  # the photograph may be mirrored, the digits never
    image = _resize(image, spec.size, spec.size)

    ink, labels = _digits()
    pool = (0, TRAIN_DIGITS - 1) if split == "train" else (TRAIN_DIGITS, len(labels) - 1)
    for _ in range(TRIES):  # a crowded layout is dropped and begun again
        wanted = draw(*spec.digits)
        boxes = np.zeros((0, 4), np.int64)
        glyphs: list[np.ndarray] = []
        sources: list[int] = []
        while len(glyphs) < wanted:
            source = draw(*pool)
            alpha = _glyph(ink[source], draw(*spec.side))
            box = _place(alpha.shape, boxes, spec, draw)
            if box is None:
                break
            glyphs.append(alpha)
            boxes = np.vstack([boxes, box])
            sources.append(source)
        if len(glyphs) == wanted:
            break
    else:
        raise ValueError(
            f"expected room for {spec.digits[0]} to {spec.digits[1]} digits of {spec.side} px, "
            f"got a scene of {spec.size} px that is too small for them"
        )

    for alpha, (x0, y0, x1, y1) in zip(glyphs, boxes):
        patch = image[y0:y1, x0:x1]
        image[y0:y1, x0:x1] = _ink_over(patch, alpha, spec, draw)
    return Scene(image.astype(np.uint8), labels[sources], boxes, np.array(sources))


def _glyph(ink: np.ndarray, side: int) -> np.ndarray:
    """One digit as opacity 0..255, cut to its visible ink, longer side close to `side` pixels."""
    rows, cols = ink.any(1).nonzero()[0], ink.any(0).nonzero()[0]
    ink = np.pad(ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1], 1)  # the rim fades out
    scale = max(ink.shape) - 2  # the cells that hold ink
    alpha = _resize(ink * 255 // 16, ink.shape[0] * side // scale, ink.shape[1] * side // scale)
    alpha = (2 * alpha - 112).clip(0, 255)  # crisp strokes: a cell says how much of it the pen covered
    rows, cols = ((alpha >= VISIBLE).any(a).nonzero()[0] for a in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1][:side, :side]


def _place(shape: tuple[int, ...], boxes: np.ndarray, spec: SceneSpec, draw) -> np.ndarray | None:
    """A free place for a digit: its box, or None when `TRIES` places were all taken."""
    height, width = shape
    for _ in range(TRIES):
        x = draw(spec.gap, spec.size - spec.gap - width)
        y = draw(spec.gap, spec.size - spec.gap - height)
        box = np.array([x, y, x + width, y + height])
        apart = (box[:2] >= boxes[:, 2:] + spec.gap) | (boxes[:, :2] >= box[2:] + spec.gap)
        if apart.any(1).all():  # apart from each box along at least one axis
            return box
    return None


def _ink_over(patch: np.ndarray, alpha: np.ndarray, spec: SceneSpec, draw) -> np.ndarray:
    """The patch with ink over it, lighter or darker than its mean by the drawn contrast."""
    mean = int(patch.sum()) // patch.size
    contrast = draw(*spec.contrast)
    lighter = draw(0, 1)
    if not 0 <= mean + (contrast if lighter else -contrast) <= 255:
        lighter = int(mean < 128)  # the side with more room
    tints = np.array([draw(-spec.tint, spec.tint) for _ in range(3)])
    colour = (mean + (contrast if lighter else -contrast) + tints).clip(0, 255)
    opacity = alpha[..., None]
    return (patch * (255 - opacity) + colour * opacity + 127) // 255


# --- the data set -----------------------------------------------------------------------------


def make_scenes(spec: SceneSpec = SceneSpec(), root: str | Path | None = None, progress: bool | None = None) -> Path:
    """Write the scenes in YOLO layout, once, and return the path of their `data.yaml`.

    A complete set with the same specification is used again after its bytes are checked; a
    damaged or half-written one is made anew. The set is built under a temporary name and renamed
    at the end, so an interrupted run leaves nothing that could be taken for a complete set.

    spec: what to draw; root: folder for data sets (default `data_dir()/scenes`); progress: show
    a bar (default: only on a terminal). Raises `OSError` if `root` can't be written.

    >>> data = make_scenes(SceneSpec(train=2, val=1))
    >>> data.name, sorted(p.name for p in data.parent.iterdir())
    ('data.yaml', ['data.yaml', 'images', 'labels', 'manifest.json'])
    """
    root = Path(root).expanduser().resolve() if root else data_dir() / "scenes"
    key = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:8]
    folder = root / f"digits{spec.size}-{key}"
    if _complete(folder):
        return folder / "data.yaml"

    root.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    try:
        _write(made, spec, sys.stderr.isatty() if progress is None else progress)
        if folder.exists() and not _complete(folder):
            shutil.rmtree(folder)
        try:
            made.replace(folder)
        except OSError:
            if not _complete(folder):  # else another process was first with the same bytes
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / "data.yaml"


def _write(folder: Path, spec: SceneSpec, progress: bool) -> None:
    """Write every file of a set; the manifest, which makes it complete, comes last."""
    from tqdm.auto import tqdm

    folder.chmod(0o755)  # mkdtemp's is for its owner only
    todo = [(split, i) for split in SPLITS for i in range(getattr(spec, split))]
    for kind in ("images", "labels"):
        for split in SPLITS:
            (folder / kind / split).mkdir(parents=True)
    for split, i in tqdm(todo, desc="drawing digit scenes", unit="scene", disable=not progress):
        drawn = scene(spec, split, i)
        Image.fromarray(drawn.image).save(folder / "images" / split / f"{i:05d}.bmp")
        corners = drawn.boxes / spec.size  # YOLO wants centre and size as shares of the picture
        centre, extent = (corners[:, 2:] + corners[:, :2]) / 2, corners[:, 2:] - corners[:, :2]
        rows = np.hstack([centre, extent])
        text = "".join(f"{label} " + " ".join(f"{v:.6f}" for v in row) + "\n" for label, row in zip(drawn.labels, rows))
        (folder / "labels" / split / f"{i:05d}.txt").write_bytes(text.encode())

    names = "".join(f"  {n}: '{n}'\n" for n in range(10))
    # no `path:`: Ultralytics then reads the folders beside the YAML, wherever it lies
    (folder / "data.yaml").write_bytes(f"train: images/train\nval: images/val\nnames:\n{names}".encode())
    manifest = {"spec": asdict(spec), "sha256": digest(folder)}
    (folder / "manifest.json").write_bytes((json.dumps(manifest, indent=1) + "\n").encode())


def digest(folder: str | Path) -> str:
    """SHA-256 over the names and bytes of a set's pictures, labels and `data.yaml`."""
    folder = Path(folder)
    files = [*folder.glob("images/*/*.bmp"), *folder.glob("labels/*/*.txt"), folder / "data.yaml"]
    total = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def _complete(folder: Path) -> bool:
    """Whether a folder holds a whole, undamaged set."""
    try:
        return json.loads((folder / "manifest.json").read_bytes())["sha256"] == digest(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
