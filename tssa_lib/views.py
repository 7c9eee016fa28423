"""From a model and a picture to figures of its Π and D: what the lens shows, standing still.

Each takes a model and a picture, or several pictures, as in `observe.Observer`, or what `observe.look` returned;
`layer` is a number (in the order in which the layers run) or a name, by default the layer that shows most. A uniform Π
looks blank, and the title says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tssa_lib import plots
from tssa_lib.observe import Look, Observation, Observer

UNIFORM = 0.98  # evenness from which a map is called uniform
FEW = 4  # tokens that a box must hold to tell something of a head


class Telling(NamedTuple):
    """Where to look first: the layer, head and token whose map is most concentrated, the box, and a sentence."""

    layer: int
    head: int
    token: int
    box: int | None
    sentence: str


def telling(look: Look, layer: int | None = None) -> Telling:
    """The head that stands out most: it holds more of a box's tokens than of all, by the widest margin.

    Without boxes: the head whose memberships vary most from token to token. Of all layers, or of one.
    """
    found: list[tuple[float, int, int, int | None, float]] = []  # margin, layer, head, box, share of the box
    numbers = range(len(look.layers)) if layer is None else [layer]
    for i in numbers:
        o = look.layers[i]
        if o.Pi.shape[1] == 1 or o.grid is None:
            continue
        Pi = o.Pi[0].double().cpu().numpy()
        for b, box in enumerate(look.boxes):
            inside = within(o.grid, look.picture.shape[:2], box)
            if FEW <= inside.sum() <= inside.size / 2:
                held = Pi[:, inside].mean(1)
                k = int((held - Pi.mean(1)).argmax())
                found.append((held[k] - Pi[k].mean(), i, k, b, held[k]))
        if not len(look.boxes):
            k = int(Pi.std(1).argmax())
            found.append((Pi[k].std(), i, k, None, 0.0))
    if not found:
        return _one_head(look, numbers[0])
    _, i, k, at, share = max(found, key=lambda row: row[0])
    o = look.layers[i]
    pi = grids(o, o.Pi[0])[k]  # (rows, columns)
    inside = np.ones(pi.size, bool) if at is None else within(pi.shape, look.picture.shape[:2], look.boxes[at])
    clear = np.argwhere((pi >= pi.ravel()[inside].max() - 0.02) & inside.reshape(pi.shape))  # (n, 2)
    middle = clear[((clear - clear.mean(0)) ** 2).sum(1).argmin()]  # of the clearest tokens
    return Telling(i, k, int(np.ravel_multi_index(middle, pi.shape)), at, _sentence(look, o, k, at, share))


def _one_head(look: Look, i: int) -> Telling:
    o = look.layers[i]
    rows, columns = o.grid or (1, 1)
    sentence = (
        "One head has every token to itself: Π = 1, there are no memberships to see. "
        f"What the layer at {place(o)} has to say is in its gates D."
    )
    return Telling(i, 0, rows // 2 * columns + columns // 2, None, sentence)


def _sentence(look: Look, o: Observation, k: int, b: int | None, held: float) -> str:
    mass, means = o.mass[0, k].item(), o.gates[0].mean(-1)
    gate, others = means[k].item(), ((means.sum() - means[k]) / (len(means) - 1)).item()
    if o.entropy.item() > UNIFORM:
        return (
            f"The memberships at {place(o)} are nearly uniform (evenness {o.entropy.item():.2f} of 1): "
            "no head holds anything in particular."
        )
    if b is None:
        says = f"Head {k + 1} at {place(o)} is the most selective: it has {mass:.0%} of all, of some tokens far more"
    else:
        name = look.names.get(int(look.boxes[b, 5]), "object")
        says = f"Head {k + 1} at {place(o)} holds {mass:.0%} of all tokens and {held:.0%} of this {name}"
    if gate < 0.85 * others:
        says += f"; its gates are low ({gate:.2f} against {others:.2f}): this is what the layer keeps."
    elif gate > others / 0.85:
        says += f"; its gates are high ({gate:.2f} against {others:.2f}): this is what the layer takes away most."
    else:
        says += f"; its gates ({gate:.2f}) are like the others' ({others:.2f})."
    return says.replace("%", " %")


def within(grid: Sequence[int], size: Sequence[int], box: Sequence[float]) -> np.ndarray:
    """Which tokens (N,) have their centre in a box; size (H, W) of the picture that the box is in."""
    y, x = ((np.arange(n) + 0.5) * pixels / n for n, pixels in zip(grid, size))
    return ((y >= box[1]) & (y <= box[3]))[:, None].__and__((x >= box[0]) & (x <= box[2])).ravel()


def place(o: Observation) -> str:
    """Where a layer stands, for people."""
    return f"stride {o.stride}" if o.stride and o.stride > 1 else o.name


def alphas(o: Observation) -> np.ndarray:
    """How far each membership stands above equal shares, (K, rows, columns): (π − 1/K)/(1 − 1/K), 0 below 1/K."""
    K = o.Pi.shape[1]
    Pi = grids(o, o.Pi[0])
    return ((Pi - 1 / K) / (1 - 1 / K)).clip(0) if K > 1 else np.zeros_like(Pi)


def taken(o: Observation) -> np.ndarray:
    """‖π_k D_k w_k‖, how much each head takes from each token, (K, rows, columns)."""
    return grids(o, o.update[0].norm(dim=-1))


def grid_of(o: Observation) -> tuple[int, int]:
    """Rows and columns of a layer's tokens; ValueError where they don't come from a map."""
    if o.grid is None:
        raise ValueError(f"expected tokens that come from a map, got {o.Pi.shape[-1]} tokens of {o.name} that do not")
    return o.grid


def grids(o: Observation, values: Any) -> np.ndarray:
    """Values (K, N) on the tokens' grid, (K, rows, columns)."""
    return values.double().cpu().numpy().reshape(-1, *grid_of(o))


# ---- figures ------------------------------------------------------------------------------------------
def memberships(model: Any, image: Any = None, layer: int | str | None = None, *, imgsz: Any = None) -> Figure:
    """Each head's memberships in its colour over the photo, and the photo with its boxes; one row a picture."""
    looks = _looks(model, image, imgsz)
    chosen = [_chosen(look, layer) for look in looks]
    heads = [o.Pi.shape[1] for o, _ in chosen]
    columns = min(1 + max(heads), 5)
    rows = [-(-(1 + K) // columns) for K in heads]
    H, W = looks[0].picture.shape[:2]
    axes = plots.row(columns, 2.5, 2.5 * H / W + 0.45, rows=sum(rows))
    for ax in axes:
        ax.set_axis_off()  # also where nothing is drawn
    for look, (o, seen), first in zip(looks, chosen, np.cumsum([0, *rows]) * columns):
        _outline(look, o, seen.head, axes[first])
        _heads(look, o, axes[first + 1 :])
    figure = plots.figure_of(axes[0])
    figure.suptitle(_says(chosen[0][0]), fontsize=11)
    return figure


def gates(model: Any, image: Any = None, layer: int | str | None = None, *, imgsz: Any = None) -> Figure:
    """The gates D of each head, sorted, in its colour; one panel a picture."""
    looks = _looks(model, image, imgsz)
    for look, ax in zip(looks, axes := plots.row(1, 9, 2.6, rows=len(looks))):
        o, _ = _chosen(look, layer)
        plots.gate_bars(o.gates[0], title=f"Gates at {place(o)}", ax=ax)
    return plots.figure_of(axes[0])


def taken_away(model: Any, image: Any = None, layer: int | str | None = None, *, imgsz: Any = None) -> Figure:
    """What the layer takes away from each token, ‖Π D w‖ over all heads, and by each head; one row a picture."""
    looks = _looks(model, image, imgsz)
    columns = 1 + max(min(4, _chosen(look, layer)[0].Pi.shape[1]) for look in looks)
    H, W = looks[0].picture.shape[:2]
    axes = plots.row(columns, 2.9, 2.5 * H / W + 0.45, rows=len(looks))
    for look, n in zip(looks, range(0, len(axes), columns)):
        o, _ = _chosen(look, layer)
        maps = taken(o)
        largest = np.argsort(-(maps**2).sum((1, 2)))[: columns - 1]  # the heads that take most
        every = np.sqrt((maps**2).sum(0))
        title = f"taken away at {place(o)}"
        plots.shaded(look.picture, every, title=title, unit="‖Π D w‖", boxes=look.boxes, ax=axes[n])
        for k, ax in zip(sorted(largest), axes[n + 1 :]):
            plots.shaded(look.picture, maps[k], title=f"by head {k + 1}", unit="‖π D w‖", ax=ax)
    return plots.figure_of(axes[0])


def overview(model: Any, image: Any = None, layer: int | str | None = None, *, imgsz: Any = None) -> Figure:
    """One picture for all: the photo with boxes, memberships of up to four heads, what is taken away, sorted gates."""
    look = _looks(model, image, imgsz)[0]
    o, seen = _chosen(look, layer)
    H, W = look.picture.shape[:2]
    tall = 6.2 * H / W
    fig = plots.figure_of(plots.row(1, 12, tall + 2.6)[0])
    fig.clear()
    spec = fig.add_gridspec(3, 4, height_ratios=[tall / 2, tall / 2, 2.0])
    _outline(look, o, seen.head, fig.add_subplot(spec[:2, :2]))
    K = o.Pi.shape[1]
    order = sorted([seen.head, *[k for k in np.argsort(-alphas(o).std((1, 2))) if k != seen.head]][: min(K, 3)])
    panels = [fig.add_subplot(spec[n // 2, 2 + n % 2]) for n in range(4)]
    _heads(look, o, panels, order)
    for ax in panels[len(order) : 3]:
        ax.set_axis_off()
    every = np.sqrt((taken(o) ** 2).sum(0))
    plots.shaded(look.picture, every, title="what the layer takes away", unit="‖Π D w‖", ax=panels[3])
    plots.gate_bars(o.gates[0], title="", ax=fig.add_subplot(spec[2, :]))
    fig.suptitle(seen.sentence if layer is None else _says(o), fontsize=11)
    return fig


def _outline(look: Look, o: Observation, k: int, ax: Axes) -> None:
    K = o.Pi.shape[1]
    title = "the photo and its detections" if len(look.boxes) else "the photo"
    title += f"; outlined: more than half head {k + 1}'s" if K > 1 and o.entropy.item() <= UNIFORM else ""
    level = 0.5 if K > 1 else 2.0
    plots.outlined(look.picture, grids(o, o.Pi[0])[k], level, plots.color_of(k), title=title, boxes=look.boxes, ax=ax)


def _heads(look: Look, o: Observation, axes: Sequence[Axes], heads: Sequence[int] | None = None) -> None:
    heads = range(o.Pi.shape[1]) if heads is None else heads
    for k, ax in zip(heads, axes):
        title = f"Π of head {k + 1}: {o.mass[0, k].item():.0%} of all".replace("%", " %")
        title = "one head: Π = 1 everywhere" if o.Pi.shape[1] == 1 else title
        plots.overlay(look.picture, alphas(o)[k], plots.color_of(k), title=title, ax=ax)


def _says(o: Observation) -> str:
    K, even = o.Pi.shape[1], o.entropy.item()
    rows, columns = grid_of(o)
    where = f"{o.name}, {place(o)}, {rows} × {columns} tokens"
    if K == 1:
        return f"{where}: one head, which has no memberships to share out"
    if even > UNIFORM:
        return f"{where}: memberships are nearly uniform, evenness {even:.3f} of 1; blank is 1/{K}"
    return f"{where}: evenness of Π {even:.2f} (0 hard, 1 uniform); blank is 1/{K} or less"


def _looks(model: Any, image: Any, imgsz: Any) -> list[Look]:
    if image is not None:
        return Observer(model, imgsz)(image)
    looks = [model] if isinstance(model, Look) else model
    if not isinstance(looks, (list, tuple)) or not looks or not all(isinstance(one, Look) for one in looks):
        raise ValueError(f"expected a model and a picture, or Looks, got {type(model).__name__} alone")
    return list(looks)


def _chosen(look: Look, layer: int | str | None) -> tuple[Observation, Telling]:
    """The layer that is asked for, or the one that shows most, and its most telling head."""
    names = [o.name for o in look.layers]
    if isinstance(layer, str):
        if layer not in names:
            raise ValueError(f"expected a layer of {', '.join(names)}, got {layer!r}")
        layer = names.index(layer)
    if layer is not None and not -len(names) <= layer < len(names):
        raise ValueError(f"expected a layer from 0 to {len(names) - 1}, got {layer}")
    seen = telling(look, None if layer is None else layer % len(names))
    return look.layers[seen.layer], seen
