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
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.places import LIVE
from tssa_lib.photos import load_image

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


# ---- lesson 1 ---------------------------------------------------------------------------------------
def balls(
    tokens: Tensor, *, eps2: float = 0.1, groups: Sequence[int] = (), names: str = NAMES, picture: Any = None
) -> View:
    """Balls and bits: tokens (N, 2) to drag, the ellipse where they live full of balls of precision ε, the coding rate.

    Exactly e^R balls are drawn, the last one as faint as its share. `groups` (N) only colours the tokens.

    Try: halve ε (ε² to a quarter) and read the bits; press the tokens onto a line and do it again.
    Predict: how many more bits does half the ε cost in the plane, and how many on a line?
    You saw: nearly two bits more in the plane and nearly one on a line, so at fine precision the rate counts the
    dimensions that the tokens fill.

    >>> balls(torch.eye(2))
    View(name='balls')
    """
    x = _tokens(tokens)
    groups = [int(k) for k in groups] or [0] * len(x)
    if len(groups) != len(x):
        raise ValueError(f"expected a group for each of {len(x)} tokens, got {len(groups)}")
    data = {
        "title": "How many balls fit where the tokens live?",
        "hint": "Drag the tokens (or focus one and use the arrow keys) and slide the precision ε².",
        "names": _names(names, len(x)),
        "groups": groups,
        "reach": _reach(x),
        "state": {"tokens": _rows(x), "eps2": _precision(eps2, 0.02, 8)},
    }
    says = (
        "An interactive view: tokens in the plane, the ellipse where they live filled with balls of precision ε, and "
        "the coding rate in bits. The more balls fit, the more yes/no questions it takes to name one."
    )
    return View("balls", data, says, picture)


# ---- lesson 2 ---------------------------------------------------------------------------------------
def climb(
    tokens: Tensor | None = None,
    groups: Sequence[int] = (0, 0, 0, 1, 1, 1),
    *,
    eps2: float = 0.1,
    factor: float = 4.0,
    steps: int = 40,
    names: str = NAMES,
    picture: Any = None,
) -> View:
    """The climb on ΔR with unit tokens (N, 2) in two groups: converges for short steps, a 2-cycle for long ones.

    One step is `factor` times the safe step 8n/(9c) along the gradient, then back to the circle. Tokens are scaled to
    unit length; without any, six stand mixed up on the circle.

    Try: press "climb" at 1 ×, then slide the step up to 4 × and climb again.
    Predict: the curve of ΔR settles in both cases; have the tokens come to rest?
    You saw: up to twice the safe step (the theorem promises one) the groups come to rest at right angles; from about
    2.5 × on the curve settles below its maximum while every token jumps to and fro between two places for ever.

    >>> climb()
    View(name='climb')
    """
    if tokens is None:
        angles = torch.tensor([350.0, 60.0, 20.0, 40.0, 130.0, 95.0], dtype=torch.float64).deg2rad()
        tokens = torch.stack([angles.cos(), angles.sin()], 1)
    x, groups = _tokens(tokens), [int(k) for k in groups]
    if len(groups) != len(x) or sorted(set(groups)) != [0, 1]:
        raise ValueError(f"expected groups 0 and 1, one for each of {len(x)} tokens, got {groups}")
    if (x.norm(dim=1) == 0).any():
        raise ValueError("expected tokens that can be scaled to unit length, got one at the origin")
    if not 0.25 <= factor <= 16:
        raise ValueError(f"expected a factor from 0.25 to 16, where the slider goes, got {factor}")
    least = 0.02
    data = {
        "title": "Climb the rate reduction: does it arrive?",
        "hint": "Slide the step and press climb; drag where the tokens start, or step through the iterations.",
        "names": _names(names, len(x)),
        "groups": groups,
        "steps": int(steps),
        "least": least,
        "state": {
            "tokens": _rows(torch.nn.functional.normalize(x, dim=1)),
            "eps2": _precision(eps2, least, 1),
            "factor": float(factor),
            "at": int(steps),
        },
    }
    says = (
        "An interactive view: two groups of tokens climb the rate reduction on the circle. Short steps end with the "
        "groups at right angles, long ones in a 2-cycle in which every token jumps to and fro."
    )
    return View("climb", data, says, picture)


# ---- lesson 3 ---------------------------------------------------------------------------------------
def sign(
    tokens: Tensor,
    U: Tensor | None = None,
    *,
    eps2: float = 0.5,
    stage: str = "difference",
    groups: Sequence[int] = (),
    names: str = NAMES,
    picture: Any = None,
) -> View:
    """From the exact step of compression to MSSA: tokens (N, 2), arrows by stage, and the cosine against ε².

    U (K, 2, p) orthonormal frames, the two axes if not given. `stage` is "difference" (I − βG, eq. 3.5), "softmax"
    (MSSA − Z, eq. 3.13) or "built" (MSSA alone); the arrows are in units of β, as in the lesson.

    Try: slide ε² from coarse to fine with the difference, then switch to the softmax and slide again.
    Predict: at which x = βσ² does an arrow turn around, and does the softmax turn, too?
    You saw: the difference stretches a direction as soon as its x passes 1 and then points uphill; the softmax, which
    knows no ε, keeps the direction of the step, and the layer as built points uphill at every precision.

    >>> sign(torch.eye(2))
    View(name='sign')
    """
    x = _tokens(tokens)
    U = torch.eye(2).reshape(2, 2, 1) if U is None else U
    groups = [int(k) for k in groups] or [0] * len(x)
    if U.ndim != 3 or U.shape[1] != 2 or len(groups) != len(x):
        raise ValueError(f"expected U (K, 2, p) and {len(x)} groups, got {tuple(U.shape)} and {len(groups)} groups")
    if stage not in ("difference", "softmax", "built"):
        raise ValueError(f'expected stage "difference", "softmax" or "built", got {stage!r}')
    span = [0.05, 100.0]
    data = {
        "title": "From the exact step to attention: where does the sign flip?",
        "hint": "Slide the precision ε², choose a stage, drag the tokens (or focus one and use the arrow keys).",
        "names": _names(names, len(x)),
        "groups": groups,
        "U": _rows(U),
        "reach": round(1.3 * _reach(x), 2),
        "span": span,
        "state": {"tokens": _rows(x), "eps2": _precision(eps2, *span), "stage": stage},
    }
    says = (
        "An interactive view: the exact compression step on tokens in the plane and the stages that turn it into "
        "attention. The first approximation points uphill at fine precision, the softmax mends it."
    )
    return View("sign", data, says, picture)


# ---- lesson 4 ---------------------------------------------------------------------------------------
def basis(
    tokens: Tensor,
    *,
    turn: float = 30.0,
    eps2: float = 0.1,
    angle: float = -20.0,
    head: str = "both",
    picture: Any = None,
) -> View:
    """Turn a basis over a tilted ellipse of tokens (N, 2): the box of the code, its gates, the bits that it loses.

    The tokens are first turned by `turn` degrees, so that no axis is right by accident. `angle` is that of u₁, in
    degrees; `head` is "both" (p = d), "one" (p = 1, the plain bound) or "corrected" (p = 1 with (4.27)'s term).

    Try: turn u₁ until no bit is lost, then let the head code one direction only and turn again.
    Predict: at which angle does the box fit, and can the code of one direction cost less than the truth?
    You saw: in the eigenbasis the box hugs the ellipse and no bit is lost; with p = 1 the plain value falls below the
    true rate at every angle, because the ellipse sticks out of the box, and the corrected one never does.

    >>> basis(torch.eye(2))
    View(name='basis')
    """
    x, a = _tokens(tokens), math.radians(turn)
    x = x @ x.new_tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])  # rows turned by a
    if head not in ("both", "one", "corrected"):
        raise ValueError(f'expected head "both", "one" or "corrected", got {head!r}')
    least = 0.02
    lam = torch.linalg.eigvalsh(x.T @ x / len(x)).clamp_min(0)  # (2,), smallest first
    noisy = 1 + 2 / least * lam
    top = torch.log2(noisy.mean() / noisy.prod().sqrt()).item()  # bits lost at 45°
    data = {
        "title": "Code each coordinate alone: which basis?",
        "hint": "Drag u₁ around (or focus it and use the arrow keys), then choose what the head codes.",
        "names": [],
        "tokens": _rows(x),
        "reach": _reach(x),
        "least": least,
        "span": [round(-1.1 * torch.log2(noisy.max()).item() / 2, 2), round(max(1.25 * top, 0.5), 2)],
        "state": {"angle": float(angle), "eps2": _precision(eps2, least, 2), "head": head},
    }
    says = (
        "An interactive view: an ellipse of tokens and the box that a code of single coordinates reserves for it, in a "
        "basis that turns. In the eigenbasis no bit is lost; a head of one direction falls below the true rate."
    )
    return View("basis", data, says, picture)


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


# ---- lesson 6 ---------------------------------------------------------------------------------------
def patch(
    image: Any,
    tokens: Tensor,
    grid: tuple[int, int],
    Pi: Tensor,
    U: Tensor,
    *,
    eps2: float = 0.002,
    at: tuple[float, float] = (0.5, 0.5),
    picture: Any = None,
) -> View:
    """Point at a patch of a photo: its K memberships and the K·p numbers that it hears, beside n comparisons.

    `image` as `photos.load_image` reads it, tokens (N, d) on a grid of rows × columns, Pi (K, N) and U (K, d, p) from
    `photos.group`. Memberships are softmax(−T/2) with the corrected code lengths T (lesson 6). Softmax attention is
    that of the same frames, q = k = v = U_kᵀz with the scale 1/√p on tokens of mean square d, as a LayerNorm gives.
    The tokens are rounded to 16 bits. `at` is the patch to begin with, as shares of height and width.

        x, grid = photos.tokens(flower, longest=320, stride=8)          # patches that don't overlap
        live.patch(flower, x, grid, *photos.group(x)[:2])

    Try: move over the blossom, its rim and the leaves, and watch which numbers change.
    Predict: how many numbers about the rest of the picture does a patch need in TSSA, and how many in attention?
    You saw: the K·p second moments stay the same wherever you point and only the memberships change, while attention
    compares each patch anew with all n.
    """
    from PIL import Image

    x, Pi, U = torch.as_tensor(tokens).detach().double(), Pi.detach().double(), U.detach().double()
    rows, cols = grid
    if x.ndim != 2 or len(x) != rows * cols:
        raise ValueError(f"expected as many tokens as places in the grid {tuple(grid)}, got {tuple(x.shape)}")
    if U.ndim != 3 or U.shape[1] != x.shape[1] or Pi.shape != (len(U), len(x)):
        raise ValueError(
            f"expected Pi (K, {len(x)}) and U (K, {x.shape[1]}, p), got {tuple(Pi.shape)} and {tuple(U.shape)}"
        )
    unit = x.abs().max().clamp_min(1e-12).item() / 32767
    whole = (x / unit).round().to(torch.int16)
    x = whole.double() * unit  # what the browser sees
    (K, d, p), n_k = U.shape, Pi.sum(1, keepdim=True)
    w2 = torch.einsum("nd,kdp->knp", x, U) ** 2  # (K, N, p)
    s = (Pi[..., None] * w2).sum(1) / n_k  # (K, p)
    rest = x.square().sum(1) - w2.sum(-1)  # (K, N)
    rho = (Pi * rest.clamp_min(0)).sum(1) / n_k[:, 0] / max(d - p, 1)  # (K,)
    shown = Image.fromarray(load_image(image))
    shown = shown.resize((400, max(1, round(400 * shown.height / shown.width))))
    shown.save(buffer := io.BytesIO(), format="JPEG", quality=80)
    row, column = (min(int(share * size), size - 1) for share, size in zip(at, grid))
    data = {
        "title": "What does one patch hear of the others?",
        "hint": "Point at a patch in either picture, or focus one and use the arrow keys.",
        "names": [],
        "photo": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "grid": [rows, cols],
        **{"K": K, "p": p, "d": d, "c": d / eps2, "unit": unit},
        "tokens": base64.b64encode(whole.contiguous().numpy().astype("<i2").tobytes()).decode(),
        "U": _rows(U),
        "s": _rows(s),
        "rho": _rows(rho),
        "state": {"token": row * cols + column},
    }
    says = (
        f"An interactive view: a photo in {len(x)} patches. In TSSA a patch hears {K * p} second moments, the same for "
        f"every patch; in softmax attention each patch is compared with all {len(x)}."
    )
    return View("patch", data, says, picture)


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
        picture.savefig(buffer := io.BytesIO(), format="png", metadata={"Software": None})
        picture = buffer.getvalue()
    png = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"expected a PNG picture, got bytes that begin with {png[:8]!r}")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
