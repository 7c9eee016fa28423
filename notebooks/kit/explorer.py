"""The membership explorer: point at a token and see its Π, move η, temperature and K and see the map follow.

One page of plain HTML and JavaScript over the tokens and bases of a picture; the browser itself computes Π
(lesson 6, eq. 6.1) and the corrected variational rate (lesson 4), so the view needs no kernel and no network.
It lives in a notebook, and `save` writes it as a self-contained page. Used by lesson 6.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from kit.places import LIVE
from tssa_lib import plots
from tssa_lib.lens import fill, jpeg, text, write
from tssa_lib.photos import load_image
from tssa_lib.rates import code_lengths

WIDTH = 400  # pixels of the picture in the view


@dataclass(frozen=True)
class Explorer:
    """What the view shows: a picture, as `photos.load_image` reads it, its tokens (N, d) on a grid of rows × columns,
    and for each K memberships (K, N) and bases (K, d, p), all of one p. A notebook shows it as it is.

    `eps2` is the precision of the objective, `eta` the knob's middle position. ValueError where shapes differ, for
    fewer than two groups, and for an eps2 or eta that is not positive.
    """

    image: Any
    tokens: Tensor
    grid: tuple[int, int]
    groups: Mapping[int, tuple[Tensor, Tensor]]
    eps2: float
    eta: float
    title: str = "Which group does each token belong to?"

    def __post_init__(self) -> None:
        N, d = self.tokens.shape
        if N != self.grid[0] * self.grid[1]:
            raise ValueError(f"expected as many tokens as places in the grid {self.grid}, got {N}")
        for name in ("eps2", "eta"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"expected {name} > 0 and finite, got {getattr(self, name)}")
        if not self.groups or min(self.groups) < 2:
            raise ValueError(f"expected two groups or more, got {sorted(self.groups)}")
        for K, (Pi, U) in self.groups.items():
            if Pi.shape != (K, N) or U.ndim != 3 or U.shape[:2] != (K, d):
                raise ValueError(f"expected Pi ({K}, {N}) and U ({K}, {d}, p), got {tuple(Pi.shape)}, {tuple(U.shape)}")
        if len(widths := {U.shape[2] for _, U in self.groups.values()}) != 1:
            raise ValueError(f"expected bases of one width p, got {sorted(widths)}")

    @property
    def K(self) -> int:
        """The number of groups that the view opens with: the middle one."""
        return sorted(self.groups)[len(self.groups) // 2]

    @property
    def token(self) -> int:
        """The token that the view opens on: the surest one of the smallest group."""
        Pi = self._lengths(self.K).neg().div(2).softmax(0)  # as the view begins, over the groups
        own = Pi.argmax(0)
        sizes = [int((own == k).sum()) or len(own) + 1 for k in range(self.K)]
        k = sizes.index(min(sizes))
        return int((Pi[k] * (own == k)).argmax())

    def _lengths(self, K: int) -> Tensor:
        Pi, U = self.groups[K]
        return code_lengths(self.tokens, Pi, U, self.eps2, corrected=True)

    def _repr_html_(self) -> str:
        return self._page

    @cached_property
    def _page(self) -> str:
        photo = Image.fromarray(load_image(self.image))
        photo = np.asarray(photo.resize((WIDTH, max(1, round(WIDTH * photo.height / photo.width)))))
        K, (rows, columns) = self.K, self.grid
        alt = f"A picture and the memberships of its {rows} by {columns} tokens in {K} groups"
        data = {
            "title": self.title,
            "alt": alt,
            "photo": jpeg(photo),
            "grid": self.grid,
            "d": self.tokens.shape[1],
            "p": self.groups[K][1].shape[2],
            "c": self.tokens.shape[1] / self.eps2,
            "eta": self.eta,
            "K": K,
            "token": self.token,
            "tokens": _floats(self.tokens),
            "views": {
                k: {"U": _floats(U), "T": _floats(self._lengths(k))} for k, (_, U) in sorted(self.groups.items())
            },
            "colors": plots.COLORS,
        }
        says = (
            "Here the groups move with the pointer and the sliders, where scripts run: trust this notebook to see it."
        )
        return fill(LIVE / "explorer.html", data, self._standing(photo), alt, __SAYS__=says)

    def _standing(self, photo: np.ndarray) -> Any:
        """The view as it opens, for where no script runs."""
        Pi = self._lengths(self.K).neg().div(2).softmax(0).unflatten(1, self.grid)
        alpha = ((Pi - 1 / self.K) / (1 - 1 / self.K)).clamp_min(0)
        shown = min(self.K, 8)
        axes = plots.row(min(shown, 4), 2.4, 2.4 * len(photo) / WIDTH + 0.3, rows=-(-shown // 4))
        for k, ax in zip(range(shown), axes):
            plots.overlay(photo, alpha[k], plots.COLORS[k], title=f"group {k + 1}", ax=ax)
        for ax in axes[shown:]:
            ax.set_axis_off()
        return axes[0].figure

    def save(self, path: str | Path) -> Path:
        """Write the view as one page that needs no kernel, no library and no network."""
        return write(path, self.title, self._page)


def _floats(t: Tensor) -> str:
    return text(t.detach().float().numpy())
