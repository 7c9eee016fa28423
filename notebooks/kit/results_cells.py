"""A trial of detectors on somebody's data, read: paired differences, what is used, and the sentence at the end."""

from __future__ import annotations

from typing import Any

from kit import plots
from kit.places import result
from kit.results_trial import LEARNED, difference

UNTOUCHED = None  # the intervention of a detector as trained, in `use.json`


def load(name: str = "blood_cells") -> dict[str, Any]:
    """A committed trial by name."""
    return result(name)


def last_split(found: dict[str, Any]) -> str:
    """The split that decides: "test" when the data has one and it was measured, else "val"."""
    return "test" if all("test" in row for row in found["rows"]) else "val"


def values(found: dict[str, Any], arm: str, metric: str = "mAP50", split: str | None = None) -> dict[int, float]:
    """What an arm reached, by seed; metric: one of the totals, or a class's name for its average precision."""
    split = split or last_split(found)
    by_seed = {row["seed"]: row[split] for row in found["rows"] if row["arm"] == arm}
    return {seed: at[metric] if metric in at else at["per_class"].get(metric, 0.0) for seed, at in by_seed.items()}


def control(found: dict[str, Any], arm: str) -> str | None:
    """The arm without attention to hold an arm against: at the same places if there is one, else the first."""
    without = [name for name, at in found["arms"].items() if at["block"] == "none" and name != arm]
    alike = [name for name in without if found["arms"][name]["places"] == found["arms"][arm]["places"]]
    return next(iter(alike + without), None)


def against(
    found: dict[str, Any], arm: str, other: str, metric: str = "mAP50", split: str | None = None
) -> dict | None:
    """Arm minus other over the seeds that both have, with its 95 % interval; None for fewer than two."""
    ours, theirs = (values(found, name, metric, split) for name in (arm, other))
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    level = sum(theirs[s] for s in seeds) / len(seeds)
    apart = difference([ours[s] for s in seeds], [theirs[s] for s in seeds])
    return {"arm": arm, "against": other, "metric": metric, "seeds": len(seeds), "level": level, **apart}


def differences(found: dict[str, Any], metric: str = "mAP50", split: str | None = None) -> list[dict[str, Any]]:
    """Every arm with attention minus its control."""
    pairs = [(arm, control(found, arm)) for arm, at in found["arms"].items() if at["block"] != "none"]
    rows = [against(found, arm, other, metric, split) for arm, other in pairs if other]
    return [row for row in rows if row]


def use_differences(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What each detector loses on the validation pictures when its attention is changed: changed minus untouched."""
    rows = []
    for arm in found["arms"]:
        by_name: dict[str, list[tuple[float, float]]] = {}  # (changed, untouched) of each seed
        for row in found["rows"]:
            for use in row["use"] if row["arm"] == arm else ():
                by_name.setdefault(use["intervention"], []).append((use["mAP50"], row["val"]["mAP50"]))
        for name, both in by_name.items():
            left, whole = zip(*both)
            if len(both) > 1:
                row = {"arm": arm, "intervention": name, "seeds": len(both), "level": sum(whole) / len(whole)}
                rows.append({**row, **difference(left, whole)})
    return rows


def use_rows(found: dict[str, Any], detector: str, task: str) -> list[dict[str, Any]]:
    """The raw rows of use, each detector untouched and changed, as `use.json` has them."""
    rows = []
    for row in found["rows"]:
        same = {"detector": detector, "task": task, "block": row["arm"], "seed": row["seed"]}
        whole = {"intervention": UNTOUCHED, **{k: row["val"][k] for k in ("mAP50", "per_class")}}
        rows += [{**same, **use} for use in (whole, *row["use"])] if row["use"] else []
    return rows


def interval(d: dict[str, float]) -> str:
    """A difference with its 95 % interval.

    >>> interval({"mean": 0.0123, "low": -0.01, "high": 0.0346})
    '+0.012 [-0.010, +0.035]'
    """
    return f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"


def table(found: dict[str, Any]) -> str:
    """mAP50 of every arm, and its difference from the control with the 95 % interval."""
    split = last_split(found)
    lines = [f"mAP50 on the {split} pictures, mean over seeds, and paired difference from the control [95 % interval]"]
    rows = {d["arm"]: d for d in differences(found)}
    for arm in found["arms"]:
        reached = values(found, arm).values()
        if not reached:
            continue
        told = f"{interval(rows[arm])} against {rows[arm]['against']}" if arm in rows else ""
        lines.append(f"  {arm:28} {sum(reached) / len(reached):.3f}  {told}".rstrip())
    return "\n".join(lines)


def use_table(found: dict[str, Any]) -> str:
    """What is lost when a detector's attention is changed."""
    lines = ["Used? mAP50 on the validation pictures after a change, minus untouched [95 % interval]"]
    lines += [f"  {d['arm']:28} {d['intervention']:10} {interval(d)}" for d in use_differences(found)]
    return "\n".join(lines)


def verdict(found: dict[str, Any]) -> str:
    """One sentence: TSSA, softmax or nothing, with the intervals that say so."""
    tried = differences(found)
    if not tried:
        return "Nothing can be said: it takes a block without attention, another with it, and two seeds of each."
    if max(d["level"] + max(d["mean"], 0) for d in tried) < LEARNED:
        return f"Nothing can be said: no detector has learned anything yet (mAP50 below {LEARNED})."
    where = f"on the {last_split(found)} pictures"
    better = [d for d in tried if d["low"] > 0]
    if not better:
        told = ", ".join(f"{d['arm']} {interval(d)}" for d in tried)
        return f"Nothing: {where} no attention is better than none: {told}; what lies within, this trial can't see."
    kinds = {kind: [d for d in better if d["arm"].startswith(kind)] for kind in ("TSSA", "softmax")}
    best = {kind: max(rows, key=lambda d: d["mean"]) for kind, rows in kinds.items() if rows}
    if len(best) == 2:
        between = against(found, best["softmax"]["arm"], best["TSSA"]["arm"])
        choice = "softmax" if between["low"] > 0 else "TSSA"
        rest = f"; softmax minus TSSA {interval(between)}"
    else:
        (choice,), rest = best, ""
        others = [d for d in tried if not d["arm"].startswith(choice)]
        rest = "".join(f"; {d['arm']} {interval(d)}" for d in others)
    d = best[choice]
    silenced = [u for u in use_differences(found) if (u["arm"], u["intervention"]) == (d["arm"], "silenced")]
    asked = "".join(
        f"; silenced it loses {interval(u)}"
        + ("" if u["high"] < 0 else ", so what helps may not be what its tokens tell each other")
        for u in silenced
    )
    name = "TSSA" if choice == "TSSA" else "Softmax"
    return f"{name}: {where} {d['arm']} is better than none by {interval(d)}{rest}{asked}."


# --- pictures -----------------------------------------------------------------------------------


def figure(found: dict[str, Any]):
    """Every arm minus its control in mAP50 on the deciding split: a point, and its 95 % interval as a line."""
    rows = differences(found)
    ax = plots.row(1, 6.5, 0.9 + 0.55 * len(rows))[0]
    for at, d in enumerate(rows):
        ax.plot([d["low"], d["high"]], [at, at], color=plots.COLORS[0], linewidth=2)
        ax.plot(d["mean"], at, "o", color=plots.COLORS[0])
    ax.axvline(0, color="0.35", linestyle="--", linewidth=1.2)
    ax.set_yticks(range(len(rows)), [d["arm"] for d in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"mAP50 minus that of no attention, {last_split(found)} pictures")
    ax.set_title(f"What attention buys: {rows[0]['seeds']} seeds, 95 % intervals", fontsize=10)
    ax.grid(axis="x", alpha=0.25)
    return ax.figure


def figure_classes(found: dict[str, Any]):
    """Average precision of each class for every arm, mean over seeds, and the scatter between seeds."""
    import statistics

    mean, spread = {}, {}
    for arm in found["arms"]:
        reached = {name: list(values(found, arm, name).values()) for name in found["names"]}
        mean[arm] = [statistics.fmean(v) for v in reached.values()]
        spread[arm] = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in reached.values()]
    figure = plots.bars(
        found["names"],
        mean,
        errors=spread,
        ylabel="average precision at IoU 0.5",
        title=f"By class on the {last_split(found)} pictures: mean and standard deviation over seeds",
        ax=plots.row(1, 7.5, 4)[0],
    )
    figure.axes[0].set_ylim(0, 1.3)  # room for the legend
    return figure
