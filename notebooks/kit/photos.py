"""Photographs to tokens, and the groups that Π finds in them.

Lesson 0 shows the groups, lesson 6 derives them. The objective is the corrected variational rate (lesson 4;
after Wu et al. 2024), the alternation this series' own; k-means gives it its start. Data walks one way:
file → image (H, W, 3) → patches (N, size·size·3) → tokens x (N, d) → memberships Pi (K, N). Files are read by the
package's `load_image`, which can be had from here, too.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tssa_lib import rates, tssa
from tssa_lib.photos import load_image

SAMPLES = {
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "bus": "ultralytics/assets/bus.jpg",
    "zidane": "ultralytics/assets/zidane.jpg",
}


# ---- a photograph ------------------------------------------------------------------------------------
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
