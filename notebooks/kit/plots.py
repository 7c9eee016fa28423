"""Figures of the lessons: the package's own (`tssa_lib.plots`) and those that only lessons draw, by one name.

    from kit import plots

Tokens in the plane, on the sphere and on the simplex, matrices, bars, pictures. Each takes arrays and returns the
Figure; those that draw one panel take `ax`, to draw into one of a `row`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d import Axes3D

from tssa_lib.plots import (  # noqa: F401  (the package's own, for lessons)
    COLORS,
    DASHES,
    MARKERS,
    Drawing,
    as_array,
    color_of,
    data_url,
    digest,
    faded,
    figure_of,
    gate_bars,
    img,
    lines,
    mark,
    outlined,
    overlay,
    row,
    shaded,
    titled,
)


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
    ax, xy = titled(ax, title, xlabel, ylabel), as_array(xy)
    groups = np.zeros(len(xy), int) if groups is None else as_array(groups)
    for k in np.unique(groups):
        x, y = xy[groups == k].T
        label = f"group {k + 1}" if len(np.unique(groups)) > 1 else "tokens"
        ax.scatter(x, y, s=36, color=color_of(k), edgecolor="white", zorder=3, label=label)
    reach = 1.15 * np.abs(xy).max()
    for k, u in enumerate(as_array(directions) if directions is not None else []):
        ax.plot(*np.outer(u / np.linalg.norm(u), [-reach, reach]), color=color_of(k), alpha=0.5)
    circle = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 200)), np.sin(t)])
    for i, (label, S) in enumerate(ellipses.items()):
        lam, V = np.linalg.eigh(as_array(S))
        x, y = V @ (np.sqrt(lam.clip(0))[:, None] * circle)
        ax.plot(x, y, DASHES[i % 4], color=COLORS[[3, 6, 4, 2][i % 4]], label=label, zorder=4)
    if arrows is not None:
        steps = as_array(arrows)
        ax.quiver(*xy.T, *steps.T, angles="xy", scale_units="xy", scale=1, width=0.006, color="0.3", zorder=2)
        ax.update_datalim(xy + 1.1 * steps)
    if discs is not None:
        centres, radius = as_array(discs[0]), discs[1]
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
    ax, x, groups = ax or cast(Axes3D, row(1, three_d=[0])[0]), as_array(x), as_array(groups)
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
    ax, m = titled(ax, title, xlabel, ylabel), as_array(matrix)
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
    ax, width = titled(ax, title, xlabel, ylabel), 0.8 / len(series)
    for i, (label, y) in enumerate(series.items()):
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        if label in errors:
            whiskers: dict[str, Any] = {"fmt": MARKERS[i % len(MARKERS)], "capsize": 3}
            ax.errorbar(at, as_array(y), errors[label], color=color_of(i), label=label, **whiskers)
        else:
            ax.bar(at, as_array(y), width * 0.92, color=color_of(i), label=label)
    mark(ax.axhline, hlines)
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
    tall = max(as_array(m).shape[0] / as_array(m).shape[1] for m in images)
    axes = row(columns, size, size * tall + 0.3, rows=-(-len(images) // columns))
    maps = [as_array(m) for m in images if as_array(m).ndim == 2]
    lo = vmin if vmin is not None else min((m.min() for m in maps), default=0)
    hi = vmax if vmax is not None else max((m.max() for m in maps), default=1)
    shown = [ax.imshow(as_array(m), cmap="cividis", vmin=lo, vmax=hi) for ax, m in zip(axes, images)]
    for ax, title in zip(axes, titles):
        ax.set_title(title, fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    if maps:
        scale = next(im for im, m in zip(shown, images) if as_array(m).ndim == 2)
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
        for (x0, y0, x1, y1), word in zip(as_array(corners), words):
            ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#F0E442", linewidth=1.5))
            ax.text(x0, y0 - 2, word, color="black", fontsize=8, va="bottom", bbox={"pad": 0.8, "color": "#F0E442"})
    return figure


def group_map(labels: Any) -> np.ndarray:
    """Group numbers (H, W) as an RGB picture in the groups' colours, for `pictures`."""
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS], np.uint8)
    return palette[as_array(labels) % len(COLORS)]


def simplex(Pi: Any, groups: Any = None, *, title: str, names: Sequence[str] = (), ax: Axes | None = None) -> Figure:
    """Memberships Pi (K, N) of K = 2 or 3 groups as points on the simplex: a segment or a triangle."""
    ax, Pi = ax or row(1)[0], as_array(Pi)
    corners = np.array([[0, 0], [1, 0], [0.5, 0.87]])[: len(Pi)]
    ax.plot(*np.vstack([corners, corners[:1]]).T, color="0.5", linewidth=1)
    for k, c in enumerate(corners):
        above = (0, 12 if c[1] > 0 else -16)
        ax.annotate(f"group {k + 1}", c, xytext=above, textcoords="offset points", ha="center", fontsize=9)
    groups, xy = np.zeros(Pi.shape[1], int) if groups is None else as_array(groups), Pi.T @ corners
    ax.scatter(xy[:, 0], xy[:, 1], color=[color_of(g) for g in groups], s=36, edgecolor="white", zorder=3)
    for name, at in zip(names, xy):
        ax.annotate(name, at, xytext=(4, 5), textcoords="offset points", fontsize=9)
    ax.set(title=title, xlim=(-0.2, 1.2), ylim=(-0.25, 1.1 if len(Pi) > 2 else 0.5))
    ax.set_axis_off()
    return figure_of(ax)
