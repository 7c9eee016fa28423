"""The committed benchmark, read: goals, tables and curves. It computes from the stored rows and measures nothing."""

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

from kit.cost import RIVALS
from kit.places import RESULTS

RUN = RESULTS / "linear_time.json"


def load(path: Path = RUN) -> dict:
    """The committed run; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(
            f"expected the results of `python -m experiments.linear_time` in {path.name}, found no such file"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    """The power of the size with which values grow, by least squares in logarithms.

    >>> round(exponent([1, 10, 100], [3, 300, 30000]), 6)
    2.0
    """
    x, y = ([math.log(v) for v in values] for values in (sizes, values))
    return statistics.linear_regression(x, y).slope


def overheads(result: dict) -> list[dict]:
    """Each cell of the layer's section with its overheads: time above the floor, over the published time above it."""
    rows = []
    for cell in result["layer"]:
        t = {name: s["median"] for name, s in cell["seconds"].items()}
        above = t["published"] - t["floor"]
        rows.append(
            {
                **{k: cell[k] for k in ("dim", "N", "pass")},
                "milliseconds": {k: 1e3 * v for k, v in t.items()},
                "overhead": {k: (t[k] - t["floor"]) / above for k in ("fast", "compiled") if k in t},
                "over_floor": {k: t[k] / t["floor"] for k in ("published", "fast", "compiled") if k in t},
                "softmax_over_fast": t["softmax (SDPA)"] / t["fast"] if "softmax (SDPA)" in t else None,
            }
        )
    return rows


def targets(result: dict) -> list[dict]:
    """The goals set before measuring, what was measured (the worst cell), and whether it was met.

    Each is {"goal", "limit", "measured", "met", "sign"}; the last, an exponent, has no limit.
    """
    rows = overheads(result)
    forward = [r for r in rows if r["pass"] == "forward"]
    backward = [r for r in rows if r["pass"] == "forward + backward"]
    far = [r for r in forward if r["N"] >= 6400]
    near = [r for r in forward if r["N"] < 6400]

    def eager(cells: list[dict]) -> float:
        return max(r["overhead"]["fast"] for r in cells)

    def better_form(cells: list[dict], what: str = "overhead") -> float:
        return max(min(r[what][form] for form in ("fast", "compiled") if form in r[what]) for r in cells)

    large = [r for r in forward if r["N"] >= 1600]
    kept = result["kept"]["fast"] / result["kept"]["published"]
    softmax = min(r["softmax_over_fast"] for r in forward if r["softmax_over_fast"])
    return [
        _at_most(0.4, eager(far), "forward overhead over the published, N ≥ 6,400, eager"),
        _at_most(0.4, better_form(far), "the same, eager or compiled"),
        _at_most(0.8, eager(near), "forward overhead over the published, N = 400 and 1,600, eager"),
        _at_most(0.8, better_form(near), "the same, eager or compiled"),
        _at_most(1.25, better_form(large, "over_floor"), "forward over the floor, N ≥ 1,600, eager or compiled"),
        _at_most(0.4, eager(backward), "forward + backward overhead over the published, eager"),
        _at_most(0.4, better_form(backward), "the same, eager or compiled"),
        _at_most(0.5, kept, "activations kept for backward over the published"),
        _goal("softmax attention (SDPA) over TSSA, forward, N ≥ 400", 1.0, softmax, softmax >= 1.0, "≥"),
        _growth(forward),
    ]


def _goal(goal: str, limit: float | None, measured: float, met: bool | None, sign: str) -> dict:
    return {"goal": goal, "limit": limit, "measured": measured, "met": met, "sign": sign}


def _at_most(limit: float, measured: float, goal: str) -> dict:
    return _goal(goal, limit, measured, measured <= limit, "≤")


def _growth(forward: list[dict]) -> dict:
    """How the measured time grows with N at width 128; of N ≥ 6,400 alone where enough was measured."""
    times = sorted((r["N"], r["milliseconds"]["fast"]) for r in forward if r["dim"] == 128)
    if len(times) > 3:
        times = [pair for pair in times if pair[0] >= 6400]
    goal = f"growth of the measured time from N = {times[0][0]:,} to {times[-1][0]:,}: exponent"
    return _goal(goal, None, exponent(*zip(*times)), None, "")


COLUMNS = ("published", "floor", "fast", "compiled", "softmax (SDPA)")


def markdown(result: dict) -> str:
    """The result as two Markdown tables: the goals, and milliseconds at each size. Lesson 9 shows it."""
    mark = {True: "met", False: "not met", None: "reported"}
    lines = ["| goal | limit | measured, worst cell | |", "|---|---|---|---|"]
    for t in targets(result):
        limit = f"{t['sign']} {t['limit'] or ''}"
        lines.append(f"| {t['goal']} | {limit} | {t['measured']:.2f} | {mark[t['met']]} |")
    titles = ["dim", "N", "pass", *COLUMNS, "overhead, fast", "overhead, compiled"]
    lines += ["", "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for r in overheads(result):
        times = [f"{r['milliseconds'][k]:,.2f}" if k in r["milliseconds"] else "" for k in COLUMNS]
        shares = [f"{r['overhead'][k]:.2f}" if k in r["overhead"] else "" for k in ("fast", "compiled")]
        lines.append("| " + " | ".join([str(r["dim"]), f"{r['N']:,}", r["pass"], *times, *shares]) + " |")
    about = (
        f"Milliseconds, medians of interleaved repeats in float32 with {result['threads']} threads on "
        f"{result['cores']} cores of an {result['cpu']}, PyTorch {result['torch']}; load {result['load']:.1f} at the "
        f"start, {result['load_end']:.1f} at the end."
    )
    return "\n".join([*lines, "", about])


ORDER = ["TSSA", *(name for name in RIVALS if name != "TSSA")]  # of the curves


def roofline(result: dict, N: int = 6400):
    """Multiply–adds a second over multiply–adds a byte for every rival at N tokens, under the machine's two limits."""
    from kit import plots

    cell = next(c for c in result["rivals"] if c["N"] == N)
    peak, bandwidth = result["limits"]["macs_per_second"] / 1e9, result["limits"]["bytes_per_second"] / 1e9
    grid = [10 ** (i / 50) for i in range(-25, 151)]
    ax = plots.row(1, 7.5, 4.8)[0]
    figure = plots.lines(
        grid,
        {"the machine's limits": [min(peak, bandwidth * x) for x in grid]},
        xscale="log",
        yscale="log",
        ax=ax,
        title=f"Roofline at {N:,} tokens of width {cell['dim']}",
        xlabel="multiply–adds for each byte moved",
        ylabel="billion multiply–adds per second",
    )
    for i, name in enumerate(n for n in ORDER if n in cell["counts"]):
        count, seconds = cell["counts"][name], cell["seconds"][name]["median"]
        ax.plot(
            count["macs"] / count["moved"],
            count["macs"] / seconds / 1e9,
            "osD^v<>PX*"[i % 10],
            markersize=8,
            linestyle="none",
            color=plots.COLORS[i % len(plots.COLORS)],
            label=name,
        )
    ax.legend(fontsize=8, loc="lower right")
    return figure


LOOKS = {  # of the operators that a picture is about; all others are thin and grey
    "TSSA": ("#0072B2", "-", "o"),
    "softmax (SDPA)": ("#D55E00", "--", "s"),
    "softmax, written out": ("#E69F00", ":", "^"),
}


def memory(result: dict, N: int = 6400):
    """The largest tensor of every operator at N tokens, and what it keeps for the backward pass, as two bar charts."""
    from kit import plots

    counts = next(c for c in result["rivals"] if c["N"] == N)["counts"]
    names = [name for name in reversed(ORDER) if name in counts]
    axes = plots.row(2, 5.6, 4.0)
    for ax, what, title in zip(axes, ("largest", "kept"), ("Largest tensor on the way", "Kept for the backward pass")):
        sizes = [(counts[name][what] or 0) / 2**20 for name in names]
        ax.barh(names, sizes, color=[LOOKS.get(name, ("0.7",))[0] for name in names])
        ax.set_title(f"{title}, {N:,} tokens")
        ax.set_xlabel("MiB")
        ax.set_xlim(0, 1.2 * max(sizes))
        for i, size in enumerate(sizes):
            ax.text(size, i, f" {size:,.1f}" if size else " not measured", va="center", fontsize=8)
    axes[1].set_yticks(range(len(names)), [""] * len(names))
    return axes[0].figure


def _labelled(series: dict[str, tuple[list, list]], ax) -> None:
    """Each curve with its name at its end, moved apart where ends are close; the axes are logarithmic."""
    ends = sorted((ys[-1], xs[-1], name) for name, (xs, ys) in series.items())
    far, low = max(x for _, x, _ in ends), 0.0
    for y, x, name in ends:
        color = LOOKS.get(name, ("0.35",))[0]
        if x < far:  # it ends early: its name stands over its end, clear of the curves that go on
            ax.annotate(name, (x, y), (x, 1.3 * y), color=color, fontsize=8, ha="right")
            continue
        at = low = max(y, 1.45 * low)
        ax.annotate(name, (x, y), (1.25 * x, at), color=color, fontsize=8, va="center")


def curves(result: dict):
    """The two pictures of a run: seconds over N for every rival, and overhead of the fast layer."""
    from kit import plots

    left, right = plots.row(2, 6.2, 4.6)
    series: dict[str, tuple[list, list]] = {}
    for cell in result["rivals"]:
        for name, s in cell["seconds"].items():
            series.setdefault(name, ([], []))[0].append(cell["N"])
            series[name][1].append(1e3 * s["median"])
    for name in (n for n in ORDER if n in series):
        color, dash, marker = LOOKS.get(name, ("0.6", "-", ""))
        bold = 2.2 if name in LOOKS else 1.0
        left.plot(*series[name], color=color, linestyle=dash, marker=marker, linewidth=bold, markersize=5, label=name)
    left.set(xscale="log", yscale="log", xlabel="tokens N", ylabel="milliseconds", title="Forward pass of width 128")
    left.set_xlim(300, 300_000)
    left.set_ylim(0.25, 10_000)
    left.grid(alpha=0.25)
    _labelled({n: series[n] for n in ORDER if n in series}, left)
    cells: dict[str, tuple[list, list]] = {}
    for r in overheads(result):
        x, y = cells.setdefault(f"width {r['dim']}, {r['pass']}", ([], []))
        x.append(r["N"])
        y.append(r["overhead"]["fast"])
    figure = plots.lines(
        None,
        cells,
        xscale="log",
        markers=True,
        ax=right,
        hlines={"1: as slow as published": 1.0, "goal from 6,400 tokens on": 0.4},
        title="Overhead: what is left of the published one",
        xlabel="tokens N",
        ylabel="(fast − floor) / (published − floor)",
    )
    right.set_ylim(min(0.0, *(v for _, y in cells.values() for v in y)), 1.75)  # 0: nothing above the two linear maps
    return figure
