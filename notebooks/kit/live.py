"""Views that move: plain HTML and JavaScript in the output of a cell, with no kernel, no library and no network.

    from kit import live
    live.step(six, Pi)                       # drag the tokens of lesson 5, slide γ and ε²
    live.step(six, Pi).save("step.html")     # the same as a page of its own

The browser does the mathematics itself; the tests hold it against `tssa_lib`. Each function's docstring says what a
lesson should put around the view: what to try, what to predict, what one saw. Where scripts don't run (an untrusted
notebook, a code host's preview) a sentence stays, and the `picture` if one was given.

The pages stand in notebooks/live: live.css and live.js are shared by all views, NAME.js is a view's own.
"""

import base64
import hashlib
import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.places import LIVE

NAMES = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class View:
    """A view by the name of its script, the data that it starts from, and what stays where scripts don't run.

    A notebook shows it as it is. `picture` is a PNG: its path, its bytes, or a matplotlib figure.
    """

    name: str
    data: dict[str, Any] = field(repr=False)
    says: str = field(repr=False)
    picture: Any = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The element's id, from a hash of what is shown: the same data give the same page."""
        return f"live-{self.name}-{hashlib.sha1(self._json().encode()).hexdigest()[:10]}"

    def _json(self) -> str:
        text = json.dumps({"name": self.name, **self.data}, allow_nan=False)
        return text.replace("<", "\\u003c")  # nothing in the data may end the script

    def _repr_html_(self) -> str:
        parts = {
            "__TITLE__": html.escape(self.data["title"]),
            "__SAYS__": html.escape(self.says),
            "__PICTURE__": _image(self.picture, self.says),
            "__CSS__": (LIVE / "live.css").read_text(encoding="utf-8"),
            "__SHARED__": (LIVE / "live.js").read_text(encoding="utf-8"),
            "__VIEW__": (LIVE / f"{self.name}.js").read_text(encoding="utf-8"),
            "__ID__": self.id,
            "__DATA__": self._json(),  # last: nothing in it is filled in
        }
        page = (LIVE / "view.html").read_text(encoding="utf-8")
        for mark, value in parts.items():
            page = page.replace(mark, value)
        return page

    def save(self, path: str | Path) -> Path:
        """Write the view as one page that needs nothing else."""
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        head += f"<title>{html.escape(self.data['title'])}</title>"
        style = "<style>body{margin:12px;background:light-dark(#fff,#101216);color-scheme:light dark}</style>"
        path = Path(path)
        path.write_text(
            f'<!doctype html><html lang="en"><head>{head}{style}</head><body>{self._repr_html_()}</body></html>\n',
            encoding="utf-8",
        )
        return path


# ---- lesson 5 ---------------------------------------------------------------------------------------
def step(
    tokens: Tensor,
    Pi: Tensor,
    U: Tensor | None = None,
    *,
    eps2: float = 0.1,
    gamma: float = 2.0,
    names: str = NAMES,
    picture: Any = None,
) -> View:
    """One TSSA step on tokens (N, 2): arrows, the rate, its majoriser (5.8) and the promise (5.13), γ from 0 to 4.

    Pi (K, N) is held fixed; U (K, 2, p) orthonormal, the axes if not given. The step is t = γ/c, c = 2/ε².

    Try: slide γ from 0 to 4, then ε² to its largest value, then drag a token.
    Predict: where do the arrows end at γ = 2 if the tokens are small against the ball of precision ε?
    You saw: up to γ = 2 the rate lies below its start whatever the tokens are; there the promise is back where it
    began, and for tokens smaller than ε the arrows end at the mirror image, so that rate and bound are back, too.

    >>> step(torch.eye(2), torch.eye(2))
    View(name='step')
    """
    x, Pi = _tokens(tokens), torch.as_tensor(Pi)
    U = torch.eye(2).repeat(len(Pi), 1, 1) if U is None else U
    if Pi.shape != (len(Pi), len(x)) or U.ndim != 3 or U.shape[:2] != (len(Pi), 2):
        raise ValueError(f"expected Pi (K, {len(x)}) and U (K, 2, p), got {tuple(Pi.shape)} and {tuple(U.shape)}")
    data = {
        "title": "One TSSA step: how long may it be?",
        "hint": "Drag the tokens (or focus one and use the arrow keys), slide the step γ and the precision ε².",
        "names": _names(names, len(x)),
        "Pi": _rows(Pi),
        "U": _rows(U),
        "reach": _reach(x),
        "state": {"tokens": _rows(x), "gamma": float(gamma), "eps2": _precision(eps2, 0.02, 50)},
    }
    says = (
        "An interactive view: six tokens with the arrows of one TSSA step, and the rate after the step against γ. "
        "The rate stays below its start for every γ below 2, where the promise of the step-size theorem ends."
    )
    return View("step", data, says, picture)


# ---- what the functions above share -----------------------------------------------------------------
def _tokens(tokens: Tensor, d: int = 2) -> Tensor:
    x = torch.as_tensor(tokens).detach()
    if x.ndim != 2 or x.shape[1] != d or not 2 <= len(x) <= len(NAMES):
        raise ValueError(f"expected 2 to {len(NAMES)} tokens (N, {d}), got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("expected finite tokens, got NaN or infinity")
    return x.double()


def _names(names: str, n: int) -> list[str]:
    if len(names) < n:
        raise ValueError(f"expected a name for each of {n} tokens, got {len(names)}")
    return list(names[:n])


def _precision(eps2: float, least: float, most: float) -> float:
    if not least <= eps2 <= most:
        raise ValueError(f"expected eps2 from {least} to {most}, where the slider goes, got {eps2}")
    return float(eps2)


def _rows(t: Tensor) -> list:
    """Numbers as they are, so that the browser computes with the same ones."""
    return t.detach().double().tolist()


def _reach(x: Tensor) -> float:
    """Half the side of the square that is shown: all tokens, and room to drag them."""
    return round(max(1.0, 1.3 * x.abs().max().item()), 2)


def _image(picture: Any, alt: str) -> str:
    if picture is None:
        return ""
    if hasattr(picture, "savefig"):
        import io

        picture.savefig(buffer := io.BytesIO(), format="png", metadata={"Software": None})
        picture = buffer.getvalue()
    png = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"expected a PNG picture, got bytes that begin with {png[:8]!r}")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
