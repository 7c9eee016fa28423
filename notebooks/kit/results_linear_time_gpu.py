"""The benchmark on a GPU, read: goals and tables, computed from the stored rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from kit.places import RESULTS

RUN = RESULTS / "linear_time_gpu.json"
COMMAND = "python -m experiments.linear_time_gpu"
DETECTORS = {  # what stands at P3, P4 and P5 of YOLO11n
    "softmax, written out": "yolo11n-psa-p3p4p5.yaml",  # as Ultralytics has it
    "softmax, SDPA": "yolo11n-psa-p3p4p5.yaml",
    "TSSA": "yolo11n-tssa-p3p4p5.yaml",
}
LARGE = {"B": 16, "N": 25600, "dim": 256}  # the size that the goals are set for
GOALS = [  # dtype, pass, what is measured, at most this share of the published order's
    ("bfloat16", "forward", "median", 0.45),
    ("bfloat16", "forward + backward", "median", 0.5),
    ("bfloat16", "forward + backward", "peak_bytes", 0.6),
    ("float32", "forward", "median", 0.65),
    ("float32", "forward + backward", "median", 0.6),
    ("float32", "forward + backward", "peak_bytes", 0.75),
]
SHARE = 0.55  # of a copy's bandwidth, by the update alone, forward, counting its own reads and writes


def load(path: Path = RUN) -> dict | None:
    """The committed run, None where no card has been measured yet; ValueError for a rehearsal."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["rehearsal"]:
        raise ValueError(f"expected a run of `{COMMAND}` on a GPU in {path.name}, got a rehearsal without one")
    return result


def bandwidth_share(result: dict, cell: dict) -> float | None:
    """Bytes that the update must move, over its time, as a share of what a copy moves; None where it did not run."""
    seconds = cell["forms"]["kernels"].get("median")
    return seconds and cell["bytes"] / seconds / result["limits"]["bytes_per_second"]


def goals(result: dict) -> list[dict]:
    """The goals set before measuring, each {"goal", "limit", "measured", "met"}; nothing is measured: None."""
    names = {"median": "time", "peak_bytes": "peak memory"}
    rows = []
    for dtype, part, what, limit in GOALS:
        cell = _find(result["layer"], **LARGE, dtype=dtype, **{"pass": part})
        ours, theirs = (cell["forms"][form].get(what) if cell else None for form in ("TSSA", "published"))
        measured = ours / theirs if ours and theirs else None
        goal = f"layer, {dtype}, {part}: {names[what]}, of the published order's, at most"
        rows.append({"goal": goal, "limit": limit, "measured": measured, "met": measured and measured <= limit})
    for dtype in ("bfloat16", "float32"):
        cell = _find(result["update"], **LARGE, dtype=dtype, layout="tokens first", **{"pass": "forward"})
        share = bandwidth_share(result, cell) if cell else None
        goal = f"update, {dtype}, forward: bandwidth, of a copy's, at least"
        rows.append({"goal": goal, "limit": SHARE, "measured": share, "met": share and share >= SHARE})
    return rows


def _find(rows: list[dict], **wanted) -> dict | None:
    return next((row for row in rows if all(row[k] == v for k, v in wanted.items())), None)


def markdown(result: dict) -> str:
    """Four tables: the goals, the layer, the update, whole detectors."""
    mark = {True: "met", False: "not met", None: "not measured"}
    lines = _table(
        ["goal", "limit", "measured", ""],
        ([g["goal"], f"{g['limit']:.2f}", _number(g["measured"]), mark[g["met"]]] for g in goals(result)),
    )
    forms = ("floor", "TSSA", "published", "published, compiled", "term by term", "softmax (SDPA)")
    lines += _table(
        ["layer: B × N × width", "dtype", "pass", *forms],
        ([_size(c), c["dtype"], c["pass"], *(_time(c["forms"].get(f)) for f in forms)] for c in result["layer"]),
    )
    forms = ("kernels", "compiled", "term by term")
    lines += _table(
        ["update: B × N × width", "layout", "dtype", "pass", *forms, "of a copy's bandwidth"],
        (
            [_size(c), c["layout"], c["dtype"], c["pass"], *(_time(c["forms"].get(f)) for f in forms)]
            + [_number(bandwidth_share(result, c))]
            for c in result["update"]
        ),
    )
    lines += _table(
        ["detector, pixels", "dtype", *DETECTORS],
        (
            [f"{pixels:,}", dtype, *(_time(_find(result["detectors"], **at, block=block)) for block in DETECTORS)]
            for pixels, dtype in dict.fromkeys((c["pixels"], c["dtype"]) for c in result["detectors"])
            for at in [{"pixels": pixels, "dtype": dtype}]
        ),
    )
    about = (
        f"Milliseconds, medians of repeats in turns, and in brackets the GB that one call adds at its peak. "
        f"{result['card']}, PyTorch {result['torch']}, CUDA {result['cuda']}, Triton {result['triton']}, "
        f"{result['date']}; a copy moves {result['limits']['bytes_per_second'] / 1e9:,.0f} GB/s."
    )
    return "\n".join([*lines, about])


def _table(titles: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _size(cell: dict) -> str:
    return f"{cell['B']} × {cell['N']:,} × {cell['dim']}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _time(form: dict | None) -> str:
    if form is None:
        return ""
    return "not run" if "not_run" in form else f"{1e3 * form['median']:.2f} ({(form['peak_bytes'] or 0) / 1e9:.2f})"
