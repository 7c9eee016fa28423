"""The membership explorer: point at a token and see its Π, move η, temperature and K and see the map follow.

One page of plain HTML and JavaScript over the tokens and bases of a picture; the browser itself computes Π
(lesson 6, eq. 6.1) and the corrected variational rate (lesson 4), so the view needs no kernel and no network.
It lives in a notebook, and `save` writes it as a self-contained page. Used by lesson 6.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from kit.places import LIVE
from tssa_lib.photos import load_image
from tssa_lib.plots import COLORS
from tssa_lib.rates import code_lengths

WIDTH = 400  # pixels of the picture in the view
TEMPLATE = LIVE / "explorer.html"


@dataclass(frozen=True)
class Explorer:
    """What the view shows: a picture, as `photos.load_image` reads it, its tokens (N, d) on a grid of rows × columns, and
    for each K memberships (K, N) and bases (K, d, p), all of one p. A notebook shows it as it is.

    `eps2` is the precision of the objective, `eta` the knob's middle position. ValueError where shapes differ.
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
        for K, (Pi, U) in self.groups.items():
            if Pi.shape != (K, N) or U.ndim != 3 or U.shape[:2] != (K, d):
                raise ValueError(f"expected Pi ({K}, {N}) and U ({K}, {d}, p), got {tuple(Pi.shape)}, {tuple(U.shape)}")
        if len(widths := {U.shape[2] for _, U in self.groups.values()}) != 1:
            raise ValueError(f"expected bases of one width p, got {sorted(widths)}")

    def _repr_html_(self) -> str:
        picture = Image.fromarray(load_image(self.image))
        picture = picture.resize((WIDTH, max(1, round(WIDTH * picture.height / picture.width))))
        picture.save(buffer := io.BytesIO(), format="JPEG", quality=80)
        K = sorted(self.groups)[len(self.groups) // 2]
        data = {
            "size": picture.size,
            "grid": self.grid,
            "d": self.tokens.shape[1],
            "p": self.groups[K][1].shape[2],
            "c": self.tokens.shape[1] / self.eps2,
            "eta": self.eta,
            "K": K,
            "tokens": _floats(self.tokens),
            "views": {
                k: {"U": _floats(U), "T": _floats(code_lengths(self.tokens, Pi, U, self.eps2, corrected=True))}
                for k, (Pi, U) in sorted(self.groups.items())
            },
            "colors": COLORS,
            "map": ["#%02x%02x%02x" % tuple(int(255 * v) for v in rgb) for rgb in colormaps["cividis"].colors],
        }
        text = json.dumps(data)
        fill = {
            "__ID__": "explorer-" + hashlib.sha1(text.encode()).hexdigest()[:10],
            "__TITLE__": html.escape(self.title),
            "__ALT__": f"Picture with the memberships of its {self.grid[0]} by {self.grid[1]} tokens",
            "__PICTURE__": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
            "__DATA__": text,
        }
        page = TEMPLATE.read_text(encoding="utf-8")
        for mark, value in fill.items():
            page = page.replace(mark, value)
        return page

    def save(self, path: str | Path) -> Path:
        """Write the view as one page that needs no kernel, no library and no network."""
        path = Path(path)
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.title)}</title><body>{self._repr_html_()}</body></html>'
        path.write_text(page, encoding="utf-8")
        return path


def _floats(t: Tensor) -> str:
    return base64.b64encode(t.detach().to(torch.float32).contiguous().numpy().tobytes()).decode()
