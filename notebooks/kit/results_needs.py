"""When a detector needs its attention, read: the drawn tasks, the ladder of context, the capacity of sets, and use.

Everything is computed from the stored rows; the files are made by `experiments.relations` and `experiments.capacity`.
A figure takes rows and returns a matplotlib Figure; a table is Markdown.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

from kit import plots
from kit.drawn import HARD
from kit.places import result
from kit.results_trial import difference

LOOKS = {  # colour-blind safe, with a second cue: colour, dash, marker
    "none": ("#000000", ":", "o"),
    "SE": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1)), "v"),
    "XCA": ("#56B4E9", (0, (1, 1)), "P"),
    "softmax": ("#E69F00", "--", "s"),
    "TSSA published": ("#009E73", "-.", "^"),
    "TSSA improved": ("#0072B2", "-", "D"),
}
INTERVENTIONS = ("silenced", "uniform", "swapped", "constant")


def load(name: str = "needs") -> dict[str, Any]:
    """A committed result by name: "needs", "capacity" or "use"."""
    return result(name)


# --- numbers ------------------------------------------------------------------------------------


def hard_precision(row: dict[str, Any]) -> float:
    """Average precision of a task's hard class, in a row or one of its interventions (give it the task's row then).

    >>> hard_precision({"task": "rare", "per_class": {"common": 0.9, "rare": 0.4}})
    0.4
    """
    return row["per_class"].get(HARD[row["task"]], 0.0)


def value(row: dict[str, Any], metric: str = "mAP50") -> float:
    """A row's "mAP50", "AP" or, as "hard", the average precision of its hard class."""
    return hard_precision(row) if metric == "hard" else row[metric]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; half a width of nan for a single value.

    >>> [round(v, 3) for v in interval([0.4, 0.5, 0.6])]
    [0.5, 0.248]
    """
    from scipy.stats import t

    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return mean, math.nan
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def by_block(rows: Iterable[dict[str, Any]], metric: str = "mAP50", **only: Any) -> dict[str, dict[int, float]]:
    """Values by block and seed, of the rows whose entries are as `only` says.

    >>> by_block([{"block": "none", "seed": 0, "mAP50": 0.5, "task": "own"}], task="own")
    {'none': {0: 0.5}}
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if all(row.get(key) == wanted for key, wanted in only.items()):
            found.setdefault(row["block"], {})[row["seed"]] = value(row, metric)
    return {block: found[block] for block in (*LOOKS, *(set(found) - set(LOOKS))) if block in found}


def paired(
    rows: Iterable[dict[str, Any]], block: str, against: str, metric: str = "mAP50", **only: Any
) -> dict[str, Any]:
    """`block` minus `against` over the seeds that both have: mean, low, high, p and seeds (see `difference`).

    `ValueError` with fewer than two seeds.
    """
    found = by_block(rows, metric, **only)
    seeds = sorted(found.get(block, {}).keys() & found.get(against, {}).keys())
    ours, theirs = ([found[b][s] for s in seeds] for b in (block, against))
    return {"seeds": len(seeds), **difference(ours, theirs)}


def left(
    rows: Iterable[dict[str, Any]], block: str, intervention: str, metric: str = "mAP50", **only: Any
) -> list[float]:
    """What is left under an intervention, one value a seed, from rows of `needs.json`."""
    return [
        value({**row["interventions"][intervention], "task": row["task"]}, metric)
        for row in rows
        if row["block"] == block
        and intervention in row["interventions"]
        and all(row.get(k) == v for k, v in only.items())
    ]


# --- figures ------------------------------------------------------------------------------------


def tasks_figure(results: dict[str, Any], network: str = "local") -> Figure:
    """mAP50 of every block on every task: a dot a training, the mean with its 95 % interval, and chance."""
    rows = [r for r in results["rows"] if r["network"] == network]
    tasks = [task for task in HARD if any(r["task"] == task for r in rows)]
    axes = plots.row(len(tasks), 7.6 / max(len(tasks), 2), 3.9)
    titles = {
        "own": "own: colour tells",
        "rare": "rare: the minority",
        "cue": "cue: like the square",
        "twin": "twin: of its colour",
    }
    blocks = list(by_block(rows))
    for ax, task in zip(axes, tasks):
        for i, block in enumerate(blocks):
            found = list(by_block(rows, task=task).get(block, {}).values())
            if not found:
                continue
            colour, _, marker = LOOKS[block]
            mean, half = interval(found)
            ax.plot([i] * len(found), found, marker, color=colour, alpha=0.35, markersize=5)
            ax.errorbar(i, mean, None if math.isnan(half) else half, fmt=marker, color=colour, capsize=4, markersize=8)
        blind = sum(results["chance"][task].values()) / len(results["chance"][task])
        if len(results["scenes"][task]) and task != "cue":
            ax.axhline(blind, color="0.4", linestyle=":", linewidth=1.2)
            ax.text(
                len(blocks) - 0.55,
                blind - 0.012,
                "finds discs, not their class",
                ha="right",
                va="top",
                fontsize=8,
                color="0.3",
            )
        ax.set_xticks(range(len(blocks)), blocks, rotation=40, ha="right", fontsize=9)
        ax.set(title=titles[task], ylim=(0, 1.04), xlim=(-0.6, len(blocks) - 0.4))
        ax.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel(f"mAP50 of the {network} detector")
    return axes[0].figure


def ladder_figure(results: dict[str, Any], task: str = "rare") -> Figure:
    """Average precision of the hard class against the receptive field of the network: a line a block, one silenced."""
    rows = [r for r in results["rows"] if r["task"] == task]
    fields = dict(sorted(((r["network"], r["receptive_field"]) for r in rows), key=lambda x: x[1]))
    ax = plots.row(1, 7.6, 4.2)[0]
    blocks = [b for b in LOOKS if len({r["network"] for r in rows if r["block"] == b}) > 1]
    asked = [(block, False) for block in blocks] + [(b, True) for b in blocks if b.startswith("TSSA")]
    for i, (block, silenced) in enumerate(asked):
        colour, dash, marker = LOOKS[block]
        dash, face = ((0, (1, 2)), "white") if silenced else (dash, colour)
        shift = 1.018 ** (i - (len(asked) - 1) / 2)  # side by side, else the intervals hide each other
        points = []
        for network, field in fields.items():
            found = list(by_block(rows, "hard", network=network).get(block, {}).values())
            if silenced:
                found = left(rows, block, "silenced", "hard", network=network)
            if found:
                mean, half = interval(found)
                points.append((field * shift, mean, 0 if math.isnan(half) else half))
                ax.plot([field * shift] * len(found), found, marker, color=colour, alpha=0.3, markersize=4)
        x, y, half = zip(*points)
        name = f"{block}, then silenced" if silenced else block
        ax.errorbar(
            x, y, half, color=colour, linestyle=dash, marker=marker, markerfacecolor=face, capsize=3, label=name
        )
    side = results["scenes"][task]["size"]
    ax.axhline(results["chance"][task][HARD[task]], color="0.4", linestyle=":", linewidth=1.2, label="chance")
    ax.axvline(2 * side - 1, color="0.6", linewidth=1)
    said = "from here on every\nplace sees the whole scene"
    ax.annotate(said, (2 * side - 1, 0.01), xytext=(5, 0), textcoords="offset points", fontsize=8, color="0.3")
    ax.set_xscale("log")
    names, before = [], 0.0
    for name, field in fields.items():  # neighbours that stand close have their names on two levels
        names.append(("\n\n" if field < 1.35 * before else "") + f"{name}\n{field} px")
        before = 0.0 if names[-1].startswith("\n") else field
    ax.set_xticks(list(fields.values()), names, fontsize=9)
    ax.minorticks_off()
    ax.set(
        title="The ladder of context: what the block adds to what the convolutions see",
        xlabel="network, and its receptive field without the block",
        ylabel=f"average precision of “{HARD[task]}”",
        ylim=(0, 1.04),
    )
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return ax.figure


def capacity_figure(results: dict[str, Any]) -> Figure:
    """Average precision of every block on the sets of tokens, a group a task and cell, mean and 95 % interval."""
    rows = results["rows"]
    cells = list(dict.fromkeys((r["task"], r["width"], r["colours"]) for r in rows))
    disturbed = {(r["task"], r["width"], r["colours"]): r["crosstalk"] for r in rows if r["crosstalk"] is not None}
    cells.sort(key=lambda c: (c[0], disturbed.get(c, 0.0), c[1]))
    ax = plots.row(1, 7.8, 4.2)[0]
    blocks = [b for b in LOOKS if any(r["block"] == b for r in rows)]
    for i, block in enumerate(blocks):
        colour, _, marker = LOOKS[block]
        for place, (task, width, colours) in enumerate(cells):
            found = list(by_block(rows, "AP", task=task, width=width, colours=colours).get(block, {}).values())
            if not found:
                continue
            at = place + (i - (len(blocks) - 1) / 2) * 0.12
            mean, half = interval(found)
            ax.plot([at] * len(found), found, marker, color=colour, alpha=0.3, markersize=4)
            ax.errorbar(
                at, mean, None if math.isnan(half) else half, fmt=marker, color=colour, capsize=3, markersize=6,
                label=block if place == 0 else None,
            )  # fmt: skip
    for place in range(1, len(cells)):
        ax.axvline(place - 0.5, color="0.85", linewidth=1)
    names = [
        f"{task}\n{width} numbers, {colours} colours"
        + (
            f"\ncrosstalk {disturbed[task, width, colours]:.2f}"
            if task == "twin" and (task, width, colours) in disturbed
            else ""
        )
        for task, width, colours in cells
    ]
    ax.axhline(0.2, color="0.4", linestyle=":", linewidth=1.2, label="chance")
    ax.set_xticks(range(len(cells)), names, fontsize=8)
    ax.set(
        title="What token statistics can tell of a set of ten",
        xlabel="task; numbers that a TSSA layer carries (K·p), colours",
        ylabel="average precision",
        ylim=(0, 1.04),
        xlim=(-0.5, len(cells) - 0.5),
    )
    ax.grid(axis="y", alpha=0.25)
    ax.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return ax.figure


# --- tables -------------------------------------------------------------------------------------


def use_table(rows: Iterable[dict[str, Any]], metric: str = "mAP50") -> str:
    """Rows of `use.json` as Markdown: a line a detector, task and block, means over the seeds.

    >>> row = {"detector": "local", "task": "rare", "block": "TSSA improved", "seed": 0, "mAP50": 0.9, "per_class": {}}
    >>> print(use_table([{**row, "intervention": None}, {**row, "intervention": "silenced", "mAP50": 0.4}]))
    | detector | task | block | seeds | as trained | silenced |
    | --- | --- | --- | ---: | ---: | ---: |
    | local | rare | TSSA improved | 1 | 0.90 | 0.40 |
    """
    rows = list(rows)
    names = {None: "as trained", "silenced": "silenced", "uniform": "Π uniform", "swapped": "another's gates",
             "constant": "constant gates"}  # fmt: skip
    shown = [what for what in names if any(r["intervention"] == what for r in rows)]
    lines = [["detector", "task", "block", "seeds", *(names[what] for what in shown)]]
    lines.append([*["---"] * 3, *["---:"] * (1 + len(shown))])
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["detector"], row["task"], row["block"]), []).append(row)
    for key, group in groups.items():
        cells = []
        for what in shown:
            found = [value(r, metric) for r in group if r["intervention"] == what]
            cells.append(f"{sum(found) / len(found):.2f}" if found else "–")
        lines.append([*key, str(len({r["seed"] for r in group})), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- the answers in one figure ------------------------------------------------------------------


def answers_figure(asked: dict[str, Any], capacity: dict[str, Any], speed: dict[str, Any]) -> Figure:
    """When a detector needs attention, what token statistics can't tell, and what they cost: three panels.

    asked, capacity: of `load`; speed: data/results/linear_time.json.
    """
    axes = plots.row(3, 4.1, 4.0)
    rows = asked["rows"]
    bars: dict[str, tuple[str, list[float]]] = {}
    for network, where in (("local", "sees a part"), ("yolo11n", "YOLO11n")):
        for block in ("none", "softmax", "TSSA improved"):
            found = list(by_block(rows, "hard", task="rare", network=network).get(block, {}).values())
            if found:
                bars[f"{where}\n{block}"] = (block, found)
        if network == "local":
            bars[f"{where}\nTSSA silenced"] = (
                "TSSA improved",
                left(rows, "TSSA improved", "silenced", "hard", task="rare", network=network),
            )
    _dots(axes[0], bars, asked["chance"]["rare"]["rare"])
    axes[0].set(title="Needed where the detector sees too little", ylabel="average precision of what is rare")
    cell = {"task": "twin", "width": 16, "colours": 48}
    found = {b: (b, list(v.values())) for b, v in by_block(capacity["rows"], "AP", **cell).items()}
    _dots(axes[1], found, 0.2)
    axes[1].set(title="Sums, not pairs: find a twin of 48 colours", ylabel="average precision, sets of ten tokens")
    cells = sorted((r for r in speed["layer"] if r["dim"] == 128 and r["pass"] == "forward"), key=lambda r: r["N"])
    for name, block in (("softmax (SDPA)", "softmax"), ("fast", "TSSA improved")):
        colour, dash, marker = LOOKS[block]
        points = [(r["N"], 1e3 * r["seconds"][name]["median"]) for r in cells if name in r["seconds"]]
        axes[2].loglog(*zip(*points), color=colour, linestyle=dash, marker=marker, label=block.split()[0])
    axes[2].set(title="Linear time", xlabel="tokens", ylabel=f"milliseconds, width 128, {speed['threads']} CPU threads")
    axes[2].grid(alpha=0.25)
    axes[2].legend(fontsize=9)
    return axes[0].figure


def _dots(ax: Any, bars: dict[str, tuple[str, list[float]]], level: float) -> None:
    """A dot a training and the mean of each group, in its block's colour and marker; a dotted line at chance."""
    for at, (block, found) in enumerate(bars.values()):
        colour, _, marker = LOOKS[block]
        ax.plot([at] * len(found), found, marker, color=colour, alpha=0.4, markersize=5)
        ax.plot([at - 0.3, at + 0.3], [sum(found) / len(found)] * 2, color=colour, linewidth=3)
    ax.axhline(level, color="0.4", linestyle=":", linewidth=1.2)
    ax.text(len(bars) - 0.45, level + 0.01, "chance", ha="right", va="bottom", fontsize=8, color="0.3")
    ax.set_xticks(range(len(bars)), list(bars), rotation=45, ha="right", fontsize=8)
    ax.set(ylim=(0, 1.04), xlim=(-0.6, len(bars) - 0.4))
    ax.grid(axis="y", alpha=0.25)
