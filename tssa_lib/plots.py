"""Figures of models, pictures and trainings: pure functions from arrays to a matplotlib Figure, and nothing else.

Each takes `ax` to draw into one panel of a `row`, and returns the Figure. Colours are Okabe and Ito's, maps
are perceptually uniform: both can be read by colour-blind people. Figures are objects: pyplot keeps none of them. As a
cell's last line one shows itself, with `digest` as its alternative text. Lessons have more of them, in `kit.plots`.

>>> left, right = row(2)
>>> fig = lines([0, 1], {"gate": [1, 0.5]}, title="D", xlabel="s", ylabel="D(s)", ax=left)
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLORS = ["#0072B2", "#E69F00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
DASHES = ["-", "--", "-.", ":"]
MARKERS = "osD^vPX*"  # the second cue of a curve, beside its dashes


def color_of(k: int) -> str:
    """The colour of group or curve k; from the ninth on they come again."""
    return COLORS[k % len(COLORS)]


def as_array(a: Any) -> np.ndarray:
    """A tensor, wherever it is, or anything else as an array."""
    return np.asarray(a.detach().cpu() if hasattr(a, "detach") else a)


LARGE = 300_000  # characters of a PNG from which a figure is stored as JPEG


class Drawing(Figure):
    """A figure that belongs to nobody but its holder, and that a notebook shows once."""

    def _repr_html_(self) -> str:
        return img(self, digest(self))


def img(fig: Figure, alt: str) -> str:
    """A figure as an HTML image with alternative text, the one place where browsers look for it."""
    url = data_url(fig)
    if len(url) > LARGE:  # photos: a notebook that shows many would not open on GitHub
        url = data_url(fig, kind="jpeg")
    return f'<img alt="{html.escape(alt)}" src="{url}">'


def data_url(fig: Figure, dpi: int = 100, kind: str = "png") -> str:
    """A figure as a picture in a data URL, "png" or, smaller where there are photos, "jpeg"."""
    buffer = io.BytesIO()
    settings = {"metadata": {"Software": None}} if kind == "png" else {"pil_kwargs": {"quality": 88}}
    fig.savefig(buffer, format=kind, dpi=dpi, bbox_inches="tight", **settings)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def digest(fig: Figure) -> str:
    """What is drawn, in a line, read from the artists: a panel's title, how many of what, and their values.

    >>> digest(lines([0, 1], {"gate": [1, 0.5]}, title="D", xlabel="s", ylabel="D(s)"))
    'D: 1 line, 0.5 to 1'
    """
    return "; ".join(filter(None, map(_panel, fig.axes)))


def _panel(ax: Axes) -> str:
    curves = [line.get_ydata() for line in ax.lines if line.get_transform() is ax.transData]
    maps = [m for im in ax.images if (m := im.get_array()) is not None]
    rgb, maps = [m for m in maps if m.ndim == 3], [m for m in maps if m.ndim == 2]
    dots: list[np.ndarray] = [np.ma.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]
    heights = [[bar.get_height() for bar in group] for group in ax.containers if hasattr(group, "patches")]
    found = [
        _kind("line", len(curves), curves),
        _kind("point", sum(map(len, dots)), [d[:, -1] for d in dots]),
        _kind("bar", sum(map(len, heights)), heights),
        *(f"map {m.shape[0]} × {m.shape[1]}, {_extent([m.ravel()])}" for m in maps),
        *(f"picture {m.shape[0]} × {m.shape[1]}" for m in rgb),
    ]
    found = [f for f in found if f]
    title = ax.get_title() or ax.get_xlabel()
    return f"{title}: {', '.join(found)}" if found and title else ", ".join(found) if title or not maps else ""


def _kind(name: str, count: int, values: Sequence[Any]) -> str:
    return f"{count} {name}{'s' * (count > 1)}, {_extent(values)}" if count else ""


def _extent(values: Sequence[Any]) -> str:
    """The smallest and the largest finite value drawn, to two digits: the same on every machine."""
    flat = np.concatenate([np.ma.filled(np.ma.asarray(v, float), np.nan).ravel() for v in values])
    flat = flat[np.isfinite(flat)]
    return f"{flat.min():.2g} to {flat.max():.2g}" if len(flat) else "no finite value"


def row(
    columns: int, width: float = 4.2, height: float = 3.4, *, rows: int = 1, three_d: Sequence[int] = ()
) -> list[Axes]:
    """Panels side by side (and in `rows`); the panels listed in `three_d` are three-dimensional."""
    fig = Drawing(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(fig)
    return [
        fig.add_subplot(rows, columns, i + 1, projection="3d" if i in three_d else None) for i in range(rows * columns)
    ]


def figure_of(ax: Axes) -> Figure:
    """The figure that a panel stands in."""
    return ax.figure.figure  # also where the panel stands in a subfigure


def titled(ax: Axes | None, title: str, xlabel: str = "", ylabel: str = "") -> Axes:
    """The given panel, or a new one, with its words."""
    ax = ax or row(1)[0]
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return ax


def lines(
    x: Any,
    series: Mapping[str, Any],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    xscale: str = "linear",
    yscale: str = "linear",
    hlines: Mapping[str, float] = {},
    vlines: Mapping[str, float] = {},
    markers: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Curves over x: each series a label and its values, or a pair (x, values) of its own."""
    ax = titled(ax, title, xlabel, ylabel)
    for i, (label, y) in enumerate(series.items()):
        xs, ys = y if isinstance(y, tuple) else (x, y)
        marker = MARKERS[i % len(MARKERS)] if markers else None
        ax.plot(as_array(xs), as_array(ys), DASHES[i % 4], color=color_of(i), label=label, marker=marker, markersize=4)
    mark(ax.axhline, hlines)
    mark(ax.axvline, vlines)
    ax.set(xscale=xscale, yscale=yscale)
    ax.grid(alpha=0.25)
    if len(series) + len(hlines) + len(vlines) > 1:
        ax.legend(fontsize=10)
    return figure_of(ax)


def mark(draw: Callable[..., Any], marks: Mapping[str, float]) -> None:
    """Named values as lines across a panel."""
    for i, (label, at) in enumerate(marks.items()):
        draw(at, color="0.35", linestyle=["--", ":", "-."][i % 3], linewidth=1.2, label=label)


# ---- maps of tokens over a picture --------------------------------------------------------------------
def faded(picture: Any) -> np.ndarray:
    """A picture (H, W, 3) in [0, 1] or uint8 in pale grey, so that colour laid over it is what one sees."""
    p = as_array(picture).astype(float)
    grey = (p / 255 if p.max() > 1 else p) @ [0.299, 0.587, 0.114]
    return np.repeat(0.4 + 0.55 * grey[..., None], 3, axis=2)


def overlay(picture: Any, alpha: Any, color: str, *, title: str, boxes: Any = (), ax: Axes | None = None) -> Figure:
    """One colour over a picture (H, W, 3) that has been faded; `alpha` (rows, columns) in [0, 1] says how much of it.

    `boxes` (n, >= 4): x0, y0, x1, y1 in pixels of the picture.
    """
    ax = ax or row(1)[0]
    picture, alpha = as_array(picture), as_array(alpha).astype(float).clip(0, 1)
    ax.imshow(faded(picture))
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    layer = np.concatenate([np.broadcast_to(rgb, (*alpha.shape, 3)), alpha[..., None]], axis=2)
    ax.imshow(layer, extent=_frame(picture), interpolation="nearest")
    return _framed(ax, picture, boxes, title)


def shaded(picture: Any, values: Any, *, title: str, unit: str, boxes: Any = (), ax: Axes | None = None) -> Figure:
    """A map of values (rows, columns) from 0 up, in the proportions of a picture, with its colour bar."""
    ax, picture = ax or row(1)[0], as_array(picture)
    values = as_array(values).astype(float)
    top, frame = max(values.max(), 1e-12), _frame(picture)
    im = ax.imshow(values, cmap="cividis", vmin=0, vmax=top, extent=frame, interpolation="nearest")
    ax.figure.colorbar(im, ax=ax, label=unit, shrink=0.7)
    return _framed(ax, picture, boxes, title)


def outlined(
    picture: Any, values: Any, level: float, color: str, *, title: str, boxes: Any = (), ax: Axes | None = None
) -> Figure:
    """A picture as it is, its boxes, and the line around the tokens whose value (rows, columns) is above `level`."""
    ax, picture, values = ax or row(1)[0], as_array(picture), as_array(values).astype(float)
    ax.imshow(picture)
    (H, W), (rows, columns) = picture.shape[:2], values.shape
    x, y = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in ((columns, W), (rows, H)))  # the tokens' centres
    if min(rows, columns) > 1 and values.min() < level < values.max():
        for stroke, width in (("white", 3.2), (color, 1.8)):
            ax.contour(x, y, values, [level], colors=stroke, linewidths=width)
    return _framed(ax, picture, boxes, title)


def gate_bars(D: Any, *, title: str, ax: Axes | None = None) -> Figure:
    """Gates D (K, p) of the K heads side by side, each head's sorted, in its colour, with its mean."""
    ax, D = ax or row(1, 9, 2.6)[0], -np.sort(-as_array(D).astype(float), axis=1)
    K, p = D.shape
    for k, gates in enumerate(D):
        at = k * (p + max(2, p // 6)) + np.arange(p)
        ax.bar(at, gates, 0.85, color=color_of(k), label=f"head {k + 1}")
        ax.text(at.mean(), 1.04 * max(1.0, D.max()), f"head {k + 1}: mean {gates.mean():.2f}", ha="center", fontsize=9)
    ax.set(title=title, ylabel="gate D", ylim=(0, 1.18 * max(1.0, D.max())), xticks=[])
    ax.set_xlabel("coordinates of each head, sorted: high is taken away, low is kept")
    return figure_of(ax)


def _frame(picture: np.ndarray) -> tuple[float, float, float, float]:
    return -0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5


def _framed(ax: Axes, picture: np.ndarray, boxes: Any, title: str) -> Figure:
    for x0, y0, x1, y1, *_ in boxes:
        for color, width in (("white", 2.2), ("0.15", 0.9)):
            ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color=color, linewidth=width))
    ax.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5), aspect="equal")
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
    return figure_of(ax)
