"""Photographs to tokens, and the groups that Π finds in them.

Lesson 0 shows the groups, lesson 6 derives them. The objective is the corrected variational rate (lesson 4;
after Wu et al. 2024), the alternation this series' own; k-means gives it its start. Data walks one way:
file → image (H, W, 3) → patches (N, size·size·3) → tokens x (N, d) → memberships Pi (K, N).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tssa_lib import rates, tssa

SAMPLES = {
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "bus": "ultralytics/assets/bus.jpg",
    "zidane": "ultralytics/assets/zidane.jpg",
}
KINDS = "an image file, a PIL image or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


# ---- file → image -----------------------------------------------------------------------------------
def sample(name: str, longest: int | None = None) -> np.ndarray:
    """A photograph that comes with a dependency: "china", "flower" (scikit-learn), "bus", "zidane" (Ultralytics).

    >>> sample("china").shape
    (427, 640, 3)
    """
    if name not in SAMPLES:
        raise ValueError(f"expected one of {sorted(SAMPLES)}, got {name!r}")
    package, _, file = SAMPLES[name].partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected the package {package!r}, which holds {name!r}, found none")
    return load_image(Path(spec.origin).parent / file, longest)


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


# ---- image → tokens ---------------------------------------------------------------------------------
def patches(image: np.ndarray, size: int = 8, stride: int = 4) -> tuple[Tensor, tuple[int, int]]:
    """Square patches (N, size·size·C) of an image (H, W, C), row by row, and their grid (rows, columns).

    >>> patches(np.zeros((16, 24, 3)))[1]
    (3, 5)
    """
    if image.ndim != 3 or size < 1 or stride < 1 or min(image.shape[:2]) < size:
        raise ValueError(
            f"expected an image (H, W, C) of at least {size} × {size} pixels, size and stride >= 1, "
            f"got {image.shape}, size {size}, stride {stride}"
        )
    x = torch.as_tensor(image, dtype=torch.float64).unfold(0, size, stride).unfold(1, size, stride)
    return x.permute(0, 1, 3, 4, 2).flatten(2).flatten(0, 1), (x.shape[0], x.shape[1])


def principal(x: Tensor, d: int) -> Tensor:
    """The d strongest principal coordinates (N, d) of centred tokens, scaled to a mean square norm of one."""
    if x.ndim != 2 or not 1 <= d <= x.shape[1]:
        raise ValueError(f"expected tokens (N, D) with D >= d = {d} >= 1, got {tuple(x.shape)}")
    x = x - x.mean(0)
    x = x @ torch.linalg.eigh(x.T @ x)[1][:, -d:].flip(1)  # (N, d)
    return x / (x**2).sum(1).mean().sqrt().clamp_min(1e-12)


def tokens(
    source: Any, d: int = 16, longest: int = 480, size: int = 8, stride: int = 4
) -> tuple[Tensor, tuple[int, int]]:
    """Tokens x (N, d) of any picture, and their grid: the principal coordinates of its patches in CIE L*a*b*."""
    import cv2

    lab = cv2.cvtColor(load_image(source, longest).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    x, grid = patches(lab, size, stride)
    return principal(x, d), grid


# ---- tokens → groups --------------------------------------------------------------------------------
class Groups(NamedTuple):
    """Memberships Pi (K, N), bases U (K, d, p), and the objective in nats after each step."""

    Pi: Tensor
    U: Tensor
    objective: list[float]


def start(x: Tensor, K: int, seed: int = 0) -> Tensor:
    """Memberships (K, N) to start from: 0.9 for the k-means group of a token, the rest shared equally."""
    from sklearn.cluster import KMeans

    if x.ndim != 2 or not 2 <= K <= len(x):
        raise ValueError(f"expected tokens (N, d) and 2 <= K <= N groups, got {tuple(x.shape)}, K={K}")
    labels = torch.as_tensor(KMeans(K, n_init=4, random_state=seed).fit_predict(x.numpy()), dtype=torch.long)
    return torch.full((K, len(x)), 0.1 / (K - 1), dtype=x.dtype).scatter(0, labels[None], 0.9)


def group(
    x: Tensor,
    K: int = 4,
    p: int = 4,
    eps2: float = 0.002,
    steps: int = 50,
    *,
    Pi: Tensor | None = None,
    corrected: bool = True,
    progress: bool = False,
) -> Groups:
    """Groups of tokens x (N, d): frames to memberships and back, `steps` times (lesson 6, eqs. 6.18, 6.19).

    U_k ← the p strongest eigenvectors of S_k; Π ← softmax(−T/2) over the groups. Each step lowers the
    objective R_c^var − H(Π)/n, T and R_c^var being the corrected ones. Starts from `Pi`, or from k-means.

    >>> group(torch.eye(4).double(), K=2, p=1, steps=3).Pi.shape
    torch.Size([2, 4])
    """
    from tqdm.auto import trange

    if Pi is not None and Pi.shape != (K, len(x)):
        raise ValueError(f"expected memberships Pi (K={K}, N={len(x)}) to start from, got {tuple(Pi.shape)}")
    Pi, objective = start(x, K) if Pi is None else Pi, []
    if steps < 1 or not 1 <= p <= x.shape[1]:
        raise ValueError(f"expected steps >= 1 and 1 <= p <= d = {x.shape[1]}, got steps={steps}, p={p}")
    for _ in trange(steps, desc="grouping", disable=not progress):
        U = torch.linalg.eigh(rates.second_moment(x, Pi))[1][..., -p:].flip(-1)  # (K, d, p)
        Pi = (-rates.code_lengths(x, Pi, U, eps2, corrected=corrected) / 2).softmax(0)  # over the groups
        objective.append((rates.variational_rate(x, Pi, U, eps2, corrected=corrected) - tssa.entropy(Pi)).item())
    return Groups(Pi, U, objective)
