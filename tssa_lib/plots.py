"""Every figure of the lessons: pure functions from arrays to a matplotlib Figure, and nothing else.

Each takes `ax` to draw into one panel of a `row`, and returns the Figure. Colours are Okabe and Ito's, maps
are perceptually uniform: both can be read by colour-blind people. Figures are objects: pyplot keeps none of them. As a
cell's last line one shows itself, with `digest` as its alternative text; lessons show theirs with `kit.show`.

>>> left, right = row(2)
>>> fig = lines([0, 1], {"gate": [1, 0.5]}, title="D", xlabel="s", ylabel="D(s)", ax=left)
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d import Axes3D

COLORS = ["#0072B2", "#E69F00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
DASHES = ["-", "--", "-.", ":"]
MARKERS = "osD^vPX*"  # the second cue of a curve, beside its dashes


def color_of(k: int) -> str:
    """The colour of group or curve k; from the ninth on they come again."""
    return COLORS[k % len(COLORS)]


def _np(a: Any) -> np.ndarray:
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


def _axes(ax: Axes | None, title: str, xlabel: str = "", ylabel: str = "") -> Axes:
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
    ax = _axes(ax, title, xlabel, ylabel)
    for i, (label, y) in enumerate(series.items()):
        xs, ys = y if isinstance(y, tuple) else (x, y)
        marker = MARKERS[i % len(MARKERS)] if markers else None
        ax.plot(_np(xs), _np(ys), DASHES[i % 4], color=color_of(i), label=label, marker=marker, markersize=4)
    _marks(ax.axhline, hlines)
    _marks(ax.axvline, vlines)
    ax.set(xscale=xscale, yscale=yscale)
    ax.grid(alpha=0.25)
    if len(series) + len(hlines) + len(vlines) > 1:
        ax.legend(fontsize=10)
    return figure_of(ax)


def _marks(draw: Callable[..., Any], marks: Mapping[str, float]) -> None:
    """Named values as lines across a panel."""
    for i, (label, at) in enumerate(marks.items()):
        draw(at, color="0.35", linestyle=["--", ":", "-."][i % 3], linewidth=1.2, label=label)


def points(
    xy: Any,
    groups: Any = None,
    *,
    title: str,
    xlabel: str = "coordinate 1",
    ylabel: str = "coordinate 2",
    directions: Any = None,
    ellipses: Mapping[str, Any] = {},
    names: Sequence[str] = (),
    equal: bool = True,
    arrows: Any = None,
    discs: tuple[Any, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Tokens (N, 2) in the plane, coloured by group; `directions` (K, 2) as lines through the origin,
    `ellipses` as the one-sigma curve of a 2 × 2 second moment each, `names` written beside the tokens,
    `arrows` (N, 2) from each token, `discs` as (centres (M, 2), radius)."""
    ax, xy = _axes(ax, title, xlabel, ylabel), _np(xy)
    groups = np.zeros(len(xy), int) if groups is None else _np(groups)
    for k in np.unique(groups):
        x, y = xy[groups == k].T
        label = f"group {k + 1}" if len(np.unique(groups)) > 1 else "tokens"
        ax.scatter(x, y, s=36, color=color_of(k), edgecolor="white", zorder=3, label=label)
    reach = 1.15 * np.abs(xy).max()
    for k, u in enumerate(_np(directions) if directions is not None else []):
        ax.plot(*np.outer(u / np.linalg.norm(u), [-reach, reach]), color=color_of(k), alpha=0.5)
    circle = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 200)), np.sin(t)])
    for i, (label, S) in enumerate(ellipses.items()):
        lam, V = np.linalg.eigh(_np(S))
        x, y = V @ (np.sqrt(lam.clip(0))[:, None] * circle)
        ax.plot(x, y, DASHES[i % 4], color=COLORS[[3, 6, 4, 2][i % 4]], label=label, zorder=4)
    if arrows is not None:
        ax.quiver(*xy.T, *_np(arrows).T, angles="xy", scale_units="xy", scale=1, width=0.006, color="0.3", zorder=2)
        ax.update_datalim(xy + 1.1 * _np(arrows))
    if discs is not None:
        centres, radius = _np(discs[0]), discs[1]
        style: dict[str, Any] = {"offset_transform": ax.transData, "facecolor": "#56B4E933", "edgecolor": COLORS[5]}
        ax.add_collection(EllipseCollection(2 * radius, 2 * radius, 0, units="xy", offsets=centres, **style))
        ax.update_datalim(np.vstack([centres + radius, centres - radius]))
    for name, (px, py) in zip(names, xy):  # on the side away from the origin, where fewer tokens are
        off = np.copysign(8, px), np.copysign(8, py)
        ax.annotate(name, (px, py), off, textcoords="offset points", fontsize=9, ha="center", va="center")
    ax.axhline(0, color="0.8", zorder=0)
    ax.axvline(0, color="0.8", zorder=0)
    if equal:
        ax.set_aspect("equal", "datalim")
    ax.legend(fontsize=10)
    return figure_of(ax)


def sphere(x: Any, groups: Any, *, title: str, ax: Axes3D | None = None) -> Figure:
    """Unit tokens (N, 3) on the sphere, coloured by group; `ax` is a three-dimensional panel."""
    ax, x, groups = ax or cast(Axes3D, row(1, three_d=[0])[0]), _np(x), _np(groups)
    u, v = np.mgrid[0 : 2 * np.pi : 25j, 0 : np.pi : 13j]
    ax.plot_wireframe(np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v), color="0.85", linewidth=0.4)
    for k in np.unique(groups):
        z1, z2, z3 = x[groups == k].T
        ax.scatter(z1, z2, z3, s=14, color=color_of(k), label=f"group {k + 1}", depthshade=False)
    ax.set(title=title, xlabel="z₁", ylabel="z₂", zlabel="z₃", xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[-1, 0, 1])
    ax.set_box_aspect((1, 1, 1), zoom=0.85)
    ax.legend(fontsize=8, loc="upper left")
    return figure_of(ax)


def heat(
    matrix: Any,
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    unit: str = "",
    vmin: float | None = None,
    vmax: float | None = None,
    numbers: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """A matrix as a picture with a colour bar in `unit`; `numbers` writes the values in (small matrices)."""
    ax, m = _axes(ax, title, xlabel, ylabel), _np(matrix)
    im = ax.imshow(m, cmap="cividis", vmin=vmin, vmax=vmax, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(im, ax=ax, label=unit, shrink=0.85)
    if numbers:
        dark = np.less(im.norm(m), 0.5)
        for (i, j), v in np.ndenumerate(m):
            ax.text(j, i, f"{v:.2f}", ha="center", va="center", fontsize=8, color="white" if dark[i, j] else "black")
    if max(m.shape) <= 12:
        ax.set(xticks=range(m.shape[1]), yticks=range(m.shape[0]))
    return figure_of(ax)


def bars(
    names: Sequence[str],
    series: Mapping[str, Any],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str,
    hlines: Mapping[str, float] = {},
    errors: Mapping[str, Any] = {},
    yscale: str = "linear",
    ax: Axes | None = None,
) -> Figure:
    """Grouped bars: one group a name, one bar a series; a series with `errors` is drawn as points with whiskers."""
    ax, width = _axes(ax, title, xlabel, ylabel), 0.8 / len(series)
    for i, (label, y) in enumerate(series.items()):
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        if label in errors:
            whiskers: dict[str, Any] = {"fmt": MARKERS[i % len(MARKERS)], "capsize": 3}
            ax.errorbar(at, _np(y), errors[label], color=color_of(i), label=label, **whiskers)
        else:
            ax.bar(at, _np(y), width * 0.92, color=color_of(i), label=label)
    _marks(ax.axhline, hlines)
    long = max(map(len, names)) > 8 and len(names) > 3
    ax.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center", fontsize=9)
    ax.set_yscale(yscale)
    ax.grid(axis="y", alpha=0.25)
    if len(series) + len(hlines) > 1:
        ax.legend(fontsize=10)
    return figure_of(ax)


def pictures(
    images: Sequence[Any],
    titles: Sequence[str],
    *,
    columns: int = 4,
    size: float = 2.6,
    unit: str = "",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """Images (H, W, 3) as they are and maps (H, W) on one shared scale, with a title each."""
    columns = min(columns, len(images))
    tall = max(_np(m).shape[0] / _np(m).shape[1] for m in images)
    axes = row(columns, size, size * tall + 0.3, rows=-(-len(images) // columns))
    maps = [_np(m) for m in images if _np(m).ndim == 2]
    lo = vmin if vmin is not None else min((m.min() for m in maps), default=0)
    hi = vmax if vmax is not None else max((m.max() for m in maps), default=1)
    shown = [ax.imshow(_np(m), cmap="cividis", vmin=lo, vmax=hi) for ax, m in zip(axes, images)]
    for ax, title in zip(axes, titles):
        ax.set_title(title, fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    if maps:
        scale = next(im for im, m in zip(shown, images) if _np(m).ndim == 2)
        axes[0].figure.colorbar(scale, ax=axes, label=unit, shrink=0.7)
    return figure_of(axes[0])


def detections(
    images: Sequence[Any],
    boxes: Sequence[Any],
    labels: Sequence[Sequence[str]],
    titles: Sequence[str],
    columns: int = 4,
    size: float = 2.0,
) -> Figure:
    """Images (H, W, 3) with their boxes (n, 4), x0 y0 x1 y1 in pixels, and a label at each box."""
    figure = pictures(images, titles, columns=columns, size=size)
    for ax, corners, words in zip(figure.axes, boxes, labels):
        for (x0, y0, x1, y1), word in zip(_np(corners), words):
            ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#F0E442", linewidth=1.5))
            ax.text(x0, y0 - 2, word, color="black", fontsize=8, va="bottom", bbox={"pad": 0.8, "color": "#F0E442"})
    return figure


def group_map(labels: Any) -> np.ndarray:
    """Group numbers (H, W) as an RGB picture in the groups' colours, for `pictures`."""
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS], np.uint8)
    return palette[_np(labels) % len(COLORS)]


def simplex(Pi: Any, groups: Any = None, *, title: str, names: Sequence[str] = (), ax: Axes | None = None) -> Figure:
    """Memberships Pi (K, N) of K = 2 or 3 groups as points on the simplex: a segment or a triangle."""
    ax, Pi = ax or row(1)[0], _np(Pi)
    corners = np.array([[0, 0], [1, 0], [0.5, 0.87]])[: len(Pi)]
    ax.plot(*np.vstack([corners, corners[:1]]).T, color="0.5", linewidth=1)
    for k, c in enumerate(corners):
        above = (0, 12 if c[1] > 0 else -16)
        ax.annotate(f"group {k + 1}", c, xytext=above, textcoords="offset points", ha="center", fontsize=9)
    groups, xy = np.zeros(Pi.shape[1], int) if groups is None else _np(groups), Pi.T @ corners
    ax.scatter(xy[:, 0], xy[:, 1], color=[color_of(g) for g in groups], s=36, edgecolor="white", zorder=3)
    for name, at in zip(names, xy):
        ax.annotate(name, at, xytext=(4, 5), textcoords="offset points", fontsize=9)
    ax.set(title=title, xlim=(-0.2, 1.2), ylim=(-0.25, 1.1 if len(Pi) > 2 else 0.5))
    ax.set_axis_off()
    return figure_of(ax)


# ---- maps of tokens over a picture --------------------------------------------------------------------
def faded(picture: Any) -> np.ndarray:
    """A picture (H, W, 3) in [0, 1] or uint8 in pale grey, so that colour laid over it is what one sees."""
    p = _np(picture).astype(float)
    grey = (p / 255 if p.max() > 1 else p) @ [0.299, 0.587, 0.114]
    return np.repeat(0.4 + 0.55 * grey[..., None], 3, axis=2)


def overlay(picture: Any, alpha: Any, color: str, *, title: str, boxes: Any = (), ax: Axes | None = None) -> Figure:
    """One colour over a picture (H, W, 3) that has been faded; `alpha` (rows, columns) in [0, 1] says how much of it.

    `boxes` (n, >= 4): x0, y0, x1, y1 in pixels of the picture.
    """
    ax = ax or row(1)[0]
    picture, alpha = _np(picture), _np(alpha).astype(float).clip(0, 1)
    ax.imshow(faded(picture))
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    layer = np.concatenate([np.broadcast_to(rgb, (*alpha.shape, 3)), alpha[..., None]], axis=2)
    ax.imshow(layer, extent=_frame(picture), interpolation="nearest")
    return _framed(ax, picture, boxes, title)


def shaded(picture: Any, values: Any, *, title: str, unit: str, boxes: Any = (), ax: Axes | None = None) -> Figure:
    """A map of values (rows, columns) from 0 up, in the proportions of a picture, with its colour bar."""
    ax, picture = ax or row(1)[0], _np(picture)
    values = _np(values).astype(float)
    top, frame = max(values.max(), 1e-12), _frame(picture)
    im = ax.imshow(values, cmap="cividis", vmin=0, vmax=top, extent=frame, interpolation="nearest")
    ax.figure.colorbar(im, ax=ax, label=unit, shrink=0.7)
    return _framed(ax, picture, boxes, title)


def outlined(
    picture: Any, values: Any, level: float, color: str, *, title: str, boxes: Any = (), ax: Axes | None = None
) -> Figure:
    """A picture as it is, its boxes, and the line around the tokens whose value (rows, columns) is above `level`."""
    ax, picture, values = ax or row(1)[0], _np(picture), _np(values).astype(float)
    ax.imshow(picture)
    (H, W), (rows, columns) = picture.shape[:2], values.shape
    x, y = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in ((columns, W), (rows, H)))  # the tokens' centres
    if min(rows, columns) > 1 and values.min() < level < values.max():
        for stroke, width in (("white", 3.2), (color, 1.8)):
            ax.contour(x, y, values, [level], colors=stroke, linewidths=width)
    return _framed(ax, picture, boxes, title)


def gate_bars(D: Any, *, title: str, ax: Axes | None = None) -> Figure:
    """Gates D (K, p) of the K heads side by side, each head's sorted, in its colour, with its mean."""
    ax, D = ax or row(1, 9, 2.6)[0], -np.sort(-_np(D).astype(float), axis=1)
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
