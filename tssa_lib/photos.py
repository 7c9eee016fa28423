"""Photographs to tokens, and the groups that Π finds in them.

Lesson 0 shows the result, lesson 6 derives it. The objective is the corrected variational rate (lesson 4;
Wu et al. 2024 for the variational rate), the alternation this series' own; k-means gives it its start.

Data walks one way: file → image (H, W, 3) → patches (N, size·size·3) → tokens x (N, d) → groups.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tssa_lib import rates

SAMPLES = {"china": "sklearn/datasets/images/china.jpg", "flower": "sklearn/datasets/images/flower.jpg",
           "bus": "ultralytics/assets/bus.jpg", "zidane": "ultralytics/assets/zidane.jpg"}
KINDS = "an image file, a PIL image or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


# ---- file → image -----------------------------------------------------------------------------------
def sample(name: str, longest: int | None = None) -> np.ndarray:
    """A photograph that comes with a dependency: "china", "flower" (scikit-learn), "bus", "zidane" (Ultralytics).

    >>> sample("china").shape
    (427, 640, 3)
    """
    if name not in SAMPLES:
        raise ValueError(f"expected one of {sorted(SAMPLES)}, got {name!r}")
    package, _, rest = SAMPLES[name].partition("/")
    return load_image(Path(find_spec(package).origin).parent / rest, longest)


def load_image(source: Any, longest: int | None = None) -> np.ndarray:
    """Any picture as RGB (H, W, 3) uint8, the right way up, shrunk to at most `longest` pixels a side.

    `source` is a path, a PIL image, or an array: uint8, uint16, bool, or floats in [0, 1]. EXIF rotation is
    applied, transparency laid on white, 16 bits reduced to 8. ValueError for everything else.

    >>> load_image(np.zeros((4, 6), np.uint16)).shape
    (4, 6, 3)
    """
    if longest is not None and longest < 1:
        raise ValueError(f"expected longest >= 1 pixel, got {longest}")
    try:
        image = Image.open(source) if isinstance(source, (str, Path)) else source
        if not isinstance(image, Image.Image):
            image = Image.fromarray(_eight_bit(np.asarray(image)))
        elif image.mode[0] in "IF":                        # 16 or 32 bits a pixel: PIL would clip, not scale
            turned = ImageOps.exif_transpose(image)
            image = Image.fromarray(_eight_bit(np.asarray(turned, np.uint16 if turned.mode[0] == "I" else None)))
        else:
            if longest:
                image.draft("RGB", (longest, longest))     # a large JPEG is decoded at a fraction of its size
            image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    # missing, no image, cut short, too large to be true; Ultralytics' patched Image.open asks for a plugin instead
    except (OSError, Image.DecompressionBombError, ModuleNotFoundError) as e:
        raise ValueError(f"expected {KINDS}, got {str(source)[:200]!r}: {e}") from e
    if longest and max(image.size) > longest:
        image = ImageOps.contain(image.convert("RGB"), (longest, longest), Image.Resampling.BOX)
    return np.array(image.convert("RGB"))


def _eight_bit(a: np.ndarray) -> np.ndarray:
    """An array of an allowed shape, dtype and range as uint8; ValueError otherwise."""
    if a.ndim == 3 and a.shape[2] == 1:
        a = a[..., 0]
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] not in (3, 4)) or a.size == 0:
        raise ValueError(f"expected {KINDS}, got an array {a.shape}")
    if a.dtype.kind == "f" and not (a.min() >= 0 and a.max() <= 1):   # `not` also catches NaN
        raise ValueError(f"expected floats in [0, 1], got values from {a.min()} to {a.max()}")
    scale = {"f": 255.0, "b": 255.0, "u": 255 / 65535 if a.dtype == np.uint16 else 1}.get(a.dtype.kind)
    if scale is None or a.dtype.itemsize > 2 and a.dtype.kind == "u":
        raise ValueError(f"expected uint8, uint16, bool or floats in [0, 1], got {a.dtype}")
    return (a * scale + 0.5).astype(np.uint8)


# ---- image → tokens ---------------------------------------------------------------------------------
def lab(image: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of an RGB image: lightness 0…100 and two colour axes, in which distance is what eyes see."""
    import cv2

    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def patches(image: np.ndarray, size: int = 8, stride: int = 4) -> tuple[Tensor, tuple[int, int]]:
    """Square patches (N, size·size·C) of an image (H, W, C), row by row, and their grid (rows, columns).

    >>> patches(np.zeros((16, 24, 3)))[0].shape, patches(np.zeros((16, 24, 3)))[1]
    (torch.Size([15, 192]), (3, 5))
    """
    if image.ndim != 3 or min(image.shape[:2]) < size or size < 1 or stride < 1:
        raise ValueError(f"expected an image (H >= {size}, W >= {size}, C), size and stride >= 1, got {image.shape}, {size}, {stride}")
    x = torch.as_tensor(image, dtype=torch.float64).unfold(0, size, stride).unfold(1, size, stride)
    return x.permute(0, 1, 3, 4, 2).flatten(2).flatten(0, 1), tuple(x.shape[:2])


def principal(x: Tensor, d: int) -> Tensor:
    """The d strongest principal coordinates (N, d) of centred tokens, scaled to a mean square norm of one."""
    if x.ndim != 2 or not 1 <= d <= x.shape[1] or len(x) < 2:
        raise ValueError(f"expected tokens (N >= 2, D >= d = {d}), got {tuple(x.shape)}")
    x = x - x.mean(0)
    x = x @ torch.linalg.eigh(x.T @ x)[1][:, -d:].flip(1)                       # (N, d)
    return x / (x ** 2).sum(1).mean().sqrt().clamp_min(1e-12)


def tokens(source: Any, d: int = 16, longest: int = 480, size: int = 8, stride: int = 4) -> tuple[Tensor, tuple[int, int]]:
    """From an image to tokens x (N, d) and their grid: load, L*a*b*, patches, principal coordinates."""
    x, grid = patches(lab(load_image(source, longest)), size, stride)
    return principal(x, d), grid
