"""The fair trial, read: paired differences with 95 % intervals, computed from the stored rows."""

from collections.abc import Sequence
from typing import Any

from kit import plots
from kit.places import result

LEARNED = 0.05  # mAP50 below which a comparison says nothing


def load(name: str = "trial") -> dict[str, Any]:
    """A committed trial by name: "trial", "again" (easy, new seeds) or "switches" (one change at a time)."""
    return result(name)


def at_size(pixels: int) -> str:
    """The name of a metric: mAP50 on pictures of another size than the trained."""
    return f"mAP50 at {pixels} px"


def difference(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Mean of a − b over the seeds, with the 95 % interval of Student's t for paired samples.

    >>> {k: round(v, 3) for k, v in difference([0.5, 0.7], [0.4, 0.5]).items()}
    {'mean': 0.15, 'low': -0.485, 'high': 0.785, 'p': 0.205}
    """
    from scipy.stats import ttest_rel

    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"expected two results or more, in pairs, got {len(a)} and {len(b)}")
    test = ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    mean = sum(x - y for x, y in zip(a, b)) / len(a)
    same = all(x - y == a[0] - b[0] for x, y in zip(a, b))  # no scatter at all: the test has nothing to divide by
    return {"mean": mean, "low": float(low), "high": float(high), "p": None if same else float(test.pvalue)}


def verdict(d: dict[str, float]) -> str:
    """What a difference's interval says: above zero, below zero, or not settled where it holds zero.

    >>> [verdict({"low": low, "high": low + 0.2}) for low in (0.1, -0.3, -0.1)]
    ['above zero', 'below zero', 'not settled']
    """
    return "above zero" if d["low"] > 0 else "below zero" if d["high"] < 0 else "not settled"


def compare(rows: list[dict[str, Any]], metric: str = "mAP50", against: str = "none") -> list[dict[str, Any]]:
    """Every block minus `against`, difficulty by difficulty, over the seeds that both have."""
    by = {(r["asked"]["difficulty"], r["asked"]["block"], r["asked"]["seed"]): r[metric] for r in rows}
    found = []
    for difficulty in dict.fromkeys(d for d, _, _ in by):
        for block in dict.fromkeys(b for d, b, _ in by if d == difficulty and b != against):
            seeds = sorted(s for d, b, s in by if (d, b) == (difficulty, block) and (d, against, s) in by)
            if len(seeds) > 1:
                ours, theirs = ([by[difficulty, b, s] for s in seeds] for b in (block, against))
                found.append(
                    {
                        "difficulty": difficulty,
                        "block": block,
                        "against": against,
                        "metric": metric,
                        "seeds": len(seeds),
                        "level": sum(theirs) / len(seeds),
                        **difference(ours, theirs),
                    }
                )
    return found


def figure(results: dict[str, Any], against: str = "none"):
    """Paired differences in mAP50 with 95 % intervals, a group a difficulty; with many blocks, a group a block."""
    found = {
        (r["difficulty"], r["block"]): r
        for r in results["differences"]
        if (r["against"], r["metric"]) == (against, "mAP50")
    }
    groups, series = (list(dict.fromkeys(names)) for names in zip(*found))
    turned = len(series) > 4
    if turned:
        groups, series, found = series, groups, {(b, d): r for (d, b), r in found.items()}
    mean = {s: [found[g, s]["mean"] for g in groups] for s in series}
    half = {s: [(found[g, s]["high"] - found[g, s]["low"]) / 2 for g in groups] for s in series}
    seeds = next(iter(found.values()))["seeds"]
    title = "What attention buys" if against == "none" else f"Each block minus {against}"
    return plots.bars(
        groups,
        mean,
        errors=half,
        ylabel="difference in mAP50",
        xlabel="" if turned else "difficulty",
        hlines={"no difference": 0.0},
        title=f"{title}, {seeds} seeds, 95 % intervals",
        ax=plots.row(1, 7.5 if turned else 6.5, 4)[0],
    )


def table(results: dict[str, Any]) -> str:
    """What the trial says, a line a comparison of mAP50 with the control."""
    lines = []
    for r in results["differences"]:
        if r["metric"] == "mAP50" and r["against"] == "none":
            verdict = "no difference within the interval" if r["low"] <= 0 <= r["high"] else "a difference"
            verdict = "nothing learned yet" if max(r["level"], r["level"] + r["mean"]) < LEARNED else verdict
            lines.append(
                f"{r['difficulty']:8} {r['block']:14} {r['mean']:+.3f}  [{r['low']:+.3f}, {r['high']:+.3f}]  {verdict}"
            )
    return "\n".join(lines)
