"""Any picture as an array, the right way up: from a file, a PIL image or another array."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

KINDS = "an image file, a PIL image or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def load_image(source: Any, longest: int | None = None) -> np.ndarray:
    """Any picture as RGB (H, W, 3) uint8, the right way up, shrunk to at most `longest` pixels a side.

    `source` is a path, a PIL image, or an array: uint8, uint16, bool, or floats in [0, 1]. EXIF rotation is
    applied, transparency laid on white, 16 bits become 8. ValueError for everything else.

    >>> load_image(np.zeros((4, 6), np.uint16)).shape
    (4, 6, 3)
    """
    if longest is not None and longest < 1:
        raise ValueError(f"expected longest >= 1 pixel, got {longest}")
    if isinstance(source, (str, Path)) and Path(source).is_file() and not Path(source).stat().st_size:
        raise ValueError(f"expected {KINDS}, got {str(source)[:200]!r}, an empty file")
    try:
        image = Image.open(source) if isinstance(source, (str, Path)) else source
        if not isinstance(image, Image.Image):
            image = Image.fromarray(_eight_bit(np.asarray(image)))
        if longest:
            image.draft("RGB", (longest, longest))  # a large JPEG is decoded at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":  # 16 or 32 bits a pixel: PIL would clip, not scale
            image = Image.fromarray(_eight_bit(np.asarray(image)))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    # missing, no image, cut short, too large to be true; or Ultralytics' patched Image.open asking for a plugin
    except (OSError, Image.DecompressionBombError, ModuleNotFoundError) as e:
        foreign = isinstance(e, ModuleNotFoundError) and Path(str(source)).suffix.lower() not in (".heic", ".heif")
        reason = "not a picture that PIL can read" if foreign else e
        raise ValueError(f"expected {KINDS}, got {str(source)[:200]!r}: {reason}") from e
    if longest and max(image.size) > longest:
        shrink = longest / max(image.size)
        sides = [max(1, round(side * shrink)) for side in image.size]  # however narrow, a pixel stays
        image = image.convert("RGB").resize(sides, Image.Resampling.BOX)
    return np.array(image.convert("RGB"))


def _eight_bit(a: np.ndarray) -> np.ndarray:
    """An array of an allowed shape, dtype and range as uint8; ValueError otherwise."""
    a = a[..., 0] if a.ndim == 3 and a.shape[2] == 1 else a
    if a.size == 0 or not (a.ndim == 2 or a.ndim == 3 and a.shape[2] in (3, 4)):
        raise ValueError(f"expected {KINDS}, got an array {a.shape}")
    if a.dtype.kind == "f" and not (a.min() >= 0 and a.max() <= 1):  # `not` also catches NaN
        raise ValueError(f"expected floats in [0, 1], got values from {a.min()} to {a.max()}")
    scale = {"f8": 255, "f4": 255, "f2": 255, "b1": 255, "u1": 1, "u2": 255 / 65535}.get(a.dtype.str[1:])
    if scale is None:
        raise ValueError(f"expected uint8, uint16, bool or floats in [0, 1], got {a.dtype}")
    return (a * np.float64(scale) + 0.5).astype(np.uint8)
