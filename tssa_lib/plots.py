"""Every figure of the lessons: pure functions from arrays to a matplotlib Figure, and nothing else.

Each takes `ax` to draw into one panel of a `row`, and returns the Figure. Colours are Okabe and Ito's, maps
are perceptually uniform: both can be read by colour-blind people. Show a figure with `lessons.show`.

>>> left, right = row(2)
>>> fig = lines([0, 1], {"gate": [1, 0.5]}, title="D", xlabel="s", ylabel="D(s)", ax=left)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
DASHES = ["-", "--", "-.", ":"]


def _np(a: Any) -> np.ndarray:
    return np.asarray(a.detach().cpu() if hasattr(a, "detach") else a)


def row(
    columns: int, width: float = 4.2, height: float = 3.4, *, rows: int = 1, three_d: Sequence[int] = ()
) -> list[Axes]:
    """Panels side by side (and in `rows`); the panels listed in `three_d` are three-dimensional."""
    fig = plt.figure(figsize=(width * columns, height * rows), layout="constrained")
    return [
        fig.add_subplot(rows, columns, i + 1, projection="3d" if i in three_d else None) for i in range(rows * columns)
    ]


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
        ax.plot(
            _np(xs),
            _np(ys),
            DASHES[i // len(COLORS) % 4],
            color=COLORS[i % len(COLORS)],
            label=label,
            marker="o" if markers else None,
            markersize=4,
        )
    for draw, marks in ((ax.axhline, hlines), (ax.axvline, vlines)):
        for i, (label, at) in enumerate(marks.items()):
            draw(at, color="0.35", linestyle=["--", ":", "-."][i % 3], linewidth=1.2, label=label)
    ax.set(xscale=xscale, yscale=yscale)
    ax.grid(alpha=0.25)
    if len(series) + len(hlines) + len(vlines) > 1:
        ax.legend(fontsize=8)
    return ax.figure


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
        ax.scatter(
            *xy[groups == k].T,
            s=36,
            color=COLORS[k % len(COLORS)],
            edgecolor="white",
            zorder=3,
            label=f"group {k + 1}" if len(np.unique(groups)) > 1 else "tokens",
        )
    reach = 1.15 * np.abs(xy).max()
    for k, u in enumerate(_np(directions) if directions is not None else []):
        ax.plot(*np.outer(u / np.linalg.norm(u), [-reach, reach]), color=COLORS[k % len(COLORS)], alpha=0.5)
    circle = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 200)), np.sin(t)])
    for i, (label, S) in enumerate(ellipses.items()):
        lam, V = np.linalg.eigh(_np(S))
        ax.plot(
            *(V @ (np.sqrt(lam.clip(0))[:, None] * circle)),
            DASHES[i % 4],
            color=COLORS[[-1, 5, 3, 2][i % 4]],
            label=label,
            zorder=4,
        )
    if arrows is not None:
        ax.quiver(*xy.T, *_np(arrows).T, angles="xy", scale_units="xy", scale=1, width=0.006, color="0.3", zorder=2)
        ax.update_datalim(xy + 1.1 * _np(arrows))
    if discs is not None:
        ax.add_collection(
            EllipseCollection(
                *[2 * discs[1]] * 2,
                0,
                units="xy",
                offsets=_np(discs[0]),
                transOffset=ax.transData,
                facecolor="#56B4E933",
                edgecolor=COLORS[4],
            )
        )
        ax.update_datalim(np.vstack([_np(discs[0]) + discs[1], _np(discs[0]) - discs[1]]))
    for name, (px, py) in zip(names, xy):
        ax.annotate(name, (px, py), xytext=(5, 4), textcoords="offset points", fontsize=9)
    ax.axhline(0, color="0.8", zorder=0), ax.axvline(0, color="0.8", zorder=0)
    if equal:
        ax.set_aspect("equal", "datalim")
    ax.legend(fontsize=8)
    return ax.figure


def sphere(x: Any, groups: Any, *, title: str, ax: Axes | None = None) -> Figure:
    """Unit tokens (N, 3) on the sphere, coloured by group."""
    ax, x, groups = ax or row(1, three_d=[0])[0], _np(x), _np(groups)
    u, v = np.mgrid[0 : 2 * np.pi : 25j, 0 : np.pi : 13j]
    ax.plot_wireframe(np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v), color="0.85", linewidth=0.4)
    for k in np.unique(groups):
        ax.scatter(*x[groups == k].T, s=14, color=COLORS[k % len(COLORS)], label=f"group {k + 1}", depthshade=False)
    ax.set(title=title, xlabel="z₁", ylabel="z₂", zlabel="z₃", xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[-1, 0, 1])
    ax.set_box_aspect((1, 1, 1), zoom=0.85)
    ax.legend(fontsize=8, loc="upper left")
    return ax.figure


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
        for (i, j), v in np.ndenumerate(m):
            ax.text(
                j, i, f"{v:.2f}", ha="center", va="center", fontsize=8, color="white" if im.norm(v) < 0.5 else "black"
            )
    if max(m.shape) <= 12:
        ax.set(xticks=range(m.shape[1]), yticks=range(m.shape[0]))
    return ax.figure


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
    """Grouped bars: one group a name, one bar a series, with optional error bars by series."""
    ax, width = _axes(ax, title, xlabel, ylabel), 0.8 / len(series)
    for i, (label, y) in enumerate(series.items()):
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        ax.bar(
            at,
            _np(y),
            width * 0.92,
            color=COLORS[i % len(COLORS)],
            label=label,
            yerr=errors.get(label),
            capsize=3,
            error_kw={"elinewidth": 1},
        )
    for i, (label, at) in enumerate(hlines.items()):
        ax.axhline(at, color="0.35", linestyle=["--", ":", "-."][i % 3], linewidth=1.2, label=label)
    long = max(map(len, names)) > 8 and len(names) > 3
    ax.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center", fontsize=8)
    ax.set_yscale(yscale)
    ax.grid(axis="y", alpha=0.25)
    if len(series) + len(hlines) > 1:
        ax.legend(fontsize=8)
    return ax.figure


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
    return axes[0].figure


def detections(
    images: Sequence[Any],
    boxes: Sequence[Any],
    labels: Sequence[Sequence[str]],
    titles: Sequence[str],
    *,
    columns: int = 4,
    size: float = 2.0,
) -> Figure:
    """Images (H, W, 3) with their boxes (n, 4), x0 y0 x1 y1 in pixels, and a label at each box."""
    figure = pictures(images, titles, columns=columns, size=size)
    for ax, corners, words in zip(figure.axes, boxes, labels):
        for (x0, y0, x1, y1), word in zip(_np(corners), words):
            ax.add_patch(
                plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#F0E442", linewidth=1.5)
            )
            ax.text(
                x0,
                y0 - 2,
                word,
                color="black",
                backgroundcolor="#F0E442",
                fontsize=6,
                va="bottom",
                bbox={"pad": 0.8, "color": "#F0E442"},
            )
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
        ax.annotate(
            f"group {k + 1}",
            c,
            xytext=(0, 12 if c[1] > 0 else -16),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    groups, xy = np.zeros(Pi.shape[1], int) if groups is None else _np(groups), Pi.T @ corners
    ax.scatter(*xy.T, color=[COLORS[g % len(COLORS)] for g in groups], s=36, edgecolor="white", zorder=3)
    for name, at in zip(names, xy):
        ax.annotate(name, at, xytext=(4, 5), textcoords="offset points", fontsize=9)
    ax.set(title=title, xlim=(-0.2, 1.2), ylim=(-0.25, 1.1 if len(Pi) > 2 else 0.5))
    ax.set_axis_off()
    return ax.figure


# ---- one call from a picture: what a model's TSSA sees in it ----------------------------------------------
def memberships(model: Any, image: Any, *, layer: int = -1, size: int | tuple[int, int] = 320) -> Figure:
    """The K membership maps of a model's TSSA over a picture, on one scale, and each token's most likely group.

    `model` and `image` as in `observe.look`; `layer` counts the TSSA layers in the order in which they run.
    """
    from tssa_lib.observe import look

    picture, seen = look(model, image, size)
    o = seen[layer]
    if o.grid is None:
        raise ValueError(f"expected tokens that come from a map, got {o.Pi.shape[-1]} tokens of {o.name} that fit none")
    maps = _np(o.Pi[0].float()).reshape(-1, *o.grid)
    titles = ["picture", "most likely head"] + [f"head {k + 1}" for k in range(len(maps))]
    fig = pictures(
        [picture, group_map(maps.argmax(0)), *maps], titles, columns=min(len(titles), 6), unit="membership Π"
    )
    for ax in fig.axes[1 : len(titles)]:  # the maps in the picture's proportions, whatever the grid's
        ax.set_aspect(picture.shape[0] / picture.shape[1] * o.grid[1] / o.grid[0])
    fig.suptitle(
        f"{o.name}: {o.grid[0]}×{o.grid[1]} tokens, entropy of Π {o.entropy.item():.3f} (0 hard, 1 uniform)",
        fontsize=10,
    )
    return fig


def gate_maps(model: Any, image: Any, *, size: int | tuple[int, int] = 320) -> Figure:
    """The gates D = 1/(1 + s) of every TSSA in a model for one picture: a row a layer and head, a column a coordinate."""
    from tssa_lib.observe import look

    _, seen = look(model, image, size)
    axes = row(1, 6.4, 0.5 + 0.22 * sum(o.gates.shape[1] for o in seen) + 1)
    D = np.concatenate(
        [
            np.pad(
                _np(o.gates[0].float()),
                ((0, 0), (0, max(s.gates.shape[2] for s in seen) - o.gates.shape[2])),
                constant_values=np.nan,
            )
            for o in seen
        ]
    )
    fig = heat(
        D,
        title="Gates D by layer and head",
        xlabel="coordinate of the head",
        ylabel="layer.head",
        unit="D",
        vmin=0,
        vmax=1,
        ax=axes[0],
    )
    names = [f"{i + 1}.{k + 1}" for i, o in enumerate(seen) for k in range(o.gates.shape[1])]
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    return fig
