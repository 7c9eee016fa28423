"""What TSSA costs, measured: the layer against its published form and its floor, and against every rival.

Lesson 9 reads what `python -m tssa_lib.bench` writes, data/results/linear_time.json, and explains the terms:
"published" is the published order of operations one by one (Wu et al. 2024, the vision layer of ToST), "floor"
the layer's two linear maps alone, "overhead" what a layer takes above the floor. Times are wall-clock medians of
interleaved repeats; counts (operations, bytes) are exact and the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear, normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tssa_lib.attention import MSSA, XCA, Attention, Chunked, Linformer, Nystrom, RateGradient, SlidingWindow, WrittenOut
from tssa_lib.manifest import manifest
from tssa_lib.scenes import data_dir
from tssa_lib.tssa import MASS, TSSA

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results" / "linear_time.json"
TOKENS = (400, 1600, 6400, 25600, 65536)
HEAD_WIDTH = 32
RIVALS: dict[str, Callable[[int, int, int], nn.Module]] = {  # (dim, num_heads, tokens) → layer
    "softmax (SDPA)": lambda dim, heads, N: Attention(dim, heads),
    "softmax, written out": lambda dim, heads, N: WrittenOut(dim, heads),
    "CRATE's MSSA": lambda dim, heads, N: MSSA(dim, heads),
    "chunked, 64": lambda dim, heads, N: Chunked(dim, heads, chunk=64),
    "sliding window, 65": lambda dim, heads, N: SlidingWindow(dim, heads, window=65),
    "Linformer, 64": lambda dim, heads, N: Linformer(dim, heads, rank=64, tokens=N),
    "Nyström, 64": lambda dim, heads, N: Nystrom(dim, heads, landmarks=64),
    "XCA": lambda dim, heads, N: XCA(dim, heads),
    "rate gradient, p × p": lambda dim, heads, N: RateGradient(dim, heads),
    "TSSA": lambda dim, heads, N: TSSA(dim, heads),
}
QUADRATIC = {"softmax (SDPA)": 25600, "CRATE's MSSA": 25600, "softmax, written out": 6400}  # largest N that is run


# ---- the two references -----------------------------------------------------------------------------
def published(layer: TSSA, x: Tensor) -> Tensor:
    """The published vision layer with this layer's parameters, its operations one by one in their order."""
    w = linear(x, layer.qkv.weight, layer.qkv.bias).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)  # (B, K, N, p)
    normed = normalize(w, dim=-2)                                               # over the tokens
    Pi = ((normed ** 2).sum(-1) * layer.temp).softmax(1)                        # (B, K, N), over the K heads
    share = Pi / (Pi.sum(-1, keepdim=True) + MASS)
    moments = share.unsqueeze(-2) @ w ** 2                                      # (B, K, 1, p)
    y = -(w * Pi.unsqueeze(-1)) * (1 / (1 + moments))                           # (B, K, N, p)
    return layer.to_out(y.transpose(1, 2).flatten(2))                           # (B, N, C)


def floor(layer: TSSA, x: Tensor) -> Tensor:
    """The layer's two linear maps and nothing else: what no TSSA can be faster than, pass by pass."""
    return layer.to_out(layer.qkv(x))


# ---- counting ---------------------------------------------------------------------------------------
class Moved(TorchDispatchMode):
    """Counts bytes: `moved`, what every operation reads and writes, views left out; `largest`, of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        y = func(*args, **(kwargs or {}))
        if not func.is_view and "view" not in func.__name__:
            made = [t for t in tree_leaves(y) if isinstance(t, Tensor)]
            read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            self.moved += 0 if "empty" in func.__name__ else sum(t.nbytes for t in [*read.values(), *made])
            self.largest = max([self.largest, *(t.nbytes for t in made)])
        return y


def operations(layer: nn.Module, N: int, dim: int) -> int:
    """Multiply–adds of all matrix products in one forward pass over (1, N, dim), by PyTorch's counter on shapes alone.

    >>> operations(TSSA(8, 2), 100, 8) == 2 * 100 * 8 ** 2 + 100 * 8
    True
    """
    layer = layer.to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.empty(1, N, dim, device="meta"))
    return counter.get_total_flops() // 2


def kept_bytes(layer: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters left out, each storage once."""
    owned = {p.untyped_storage().data_ptr() for p in layer.parameters()} if isinstance(layer, nn.Module) else set()
    kept: dict[int, tuple[int, Any]] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes(), storage                # held, so that no address comes twice
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(n for n, _ in kept.values())


# ---- timing -----------------------------------------------------------------------------------------
def interleaved(calls: dict[str, Callable[[], Any]], budget: float, most: int = 60, least: int = 3) -> dict[str, dict]:
    """Wall-clock seconds of each call: median and quartiles of repeats in turns, so that all see the same machine.

    One round warms up; rounds go on until `budget` seconds are spent or `most` are done, `least` in any case.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    for turn in range(most + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                took[name].append(time.perf_counter() - start)
        if turn >= least and time.perf_counter() > end:
            break
    return {name: {"median": statistics.median(t), "low": statistics.quantiles(t, n=4)[0],
                   "high": statistics.quantiles(t, n=4)[2], "repeats": len(t)} for name, t in took.items()}


def forward(f: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            f(x)
    return call


def forward_backward(f: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> Callable[[], None]:
    x, target = x.clone().requires_grad_(), torch.randn_like(x)
    variables = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(f(x), variables, target, allow_unused=True)


def compiled(layer: TSSA) -> Callable[[Tensor], Tensor]:
    torch._dynamo.reset()
    return torch.compile(layer, fullgraph=True, dynamic=False)


# ---- the sections of the benchmark --------------------------------------------------------------------
def layer_cell(dim: int, N: int, train: bool, budget: float, compile: bool) -> dict:
    """One TSSA layer at one size: published, floor, fast and compiled, and softmax attention of the same width."""
    torch.manual_seed(0)
    layer, x = TSSA(dim, dim // HEAD_WIDTH), torch.randn(1, N, dim)
    softmax = Attention(dim, dim // HEAD_WIDTH)
    forms: dict[str, Callable] = {"published": lambda x: published(layer, x), "floor": lambda x: floor(layer, x), "fast": layer}
    if compile:
        forms["compiled"] = compiled(layer)
    calls = {n: forward_backward(f, layer, x) if train else forward(f, x) for n, f in forms.items()}
    took = interleaved(calls, budget)
    if not train and N <= QUADRATIC["softmax (SDPA)"]:
        took |= interleaved({"softmax (SDPA)": forward(softmax, x)}, budget / 4, most=20)
    return {"dim": dim, "N": N, "pass": "forward + backward" if train else "forward", "seconds": took}


def rivals_cell(N: int, budget: float, dim: int = 128) -> dict:
    """Every rival at one size: seconds, counted operations, bytes that its operations move and that it keeps."""
    torch.manual_seed(0)
    x, heads = torch.randn(1, N, dim), dim // HEAD_WIDTH
    layers = {name: make(dim, heads, N) for name, make in RIVALS.items() if N <= QUADRATIC.get(name, N)}
    quick = {n: forward(f, x) for n, f in layers.items() if n not in QUADRATIC}
    took = interleaved(quick, budget)
    for name in QUADRATIC.keys() & layers.keys():
        took |= interleaved({name: forward(layers[name], x)}, budget / 6, most=20)
    counts = {}
    for name, layer in layers.items():
        with torch.no_grad(), Moved() as bytes_:
            layer(x)
        macs = operations(RIVALS[name](dim, heads, N), N, dim)
        small = N <= 6400 and (name != "softmax, written out" or N <= 1600)
        counts[name] = {"macs": macs, "moved": bytes_.moved, "largest": bytes_.largest,
                        "kept": kept_bytes(layer, x.clone().requires_grad_()) if small else None}
    return {"dim": dim, "N": N, "seconds": took, "counts": counts}


def machine_limits(budget: float) -> dict:
    """What this machine can do: multiply–adds a second in one large product, bytes a second in one large copy."""
    a, b, y = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    source, target = torch.randn(2 ** 26), torch.empty(2 ** 26)                  # 256 MiB each, more than any cache
    took = interleaved({"product": lambda: torch.mm(a, b, out=y), "copy": lambda: target.copy_(source)}, budget)
    return {"macs_per_second": 1024 ** 3 / took["product"]["median"], "bytes_per_second": 2 * source.nbytes / took["copy"]["median"],
            "seconds": took}


def run(quick: bool = False, command: str = "python -m tssa_lib.bench") -> dict:
    """The whole benchmark as one dictionary, with a progress bar; about eight minutes, two if `quick`."""
    from tqdm import tqdm

    dims, sizes, share = ((128,), TOKENS[:3], 0.5) if quick else ((128, 256), TOKENS, 1.0)
    start, about = time.perf_counter(), manifest(command)
    cells = [(dim, N, train) for dim in dims for N in sizes for train in (False, True)]
    rival_sizes = sizes if quick else TOKENS[:4]
    bar = tqdm(total=len(cells) + len(rival_sizes) + 1, unit="cell", disable=None)
    result: dict[str, Any] = {**about, "quick": quick, "layer": [], "rivals": []}
    for dim, N, train in cells:
        bar.set_description(f"TSSA {dim} × {N}{', backward' if train else ''}")
        compile = N == 1600 or not quick                                        # each takes some ten seconds
        result["layer"].append(layer_cell(dim, N, train, share * (8 if train else 5), compile))
        bar.update()
    for N in rival_sizes:
        bar.set_description(f"rivals at {N}")
        result["rivals"].append(rivals_cell(N, share * 6))
        bar.update()
    bar.set_description("the machine's limits")
    result["limits"] = machine_limits(share * 4)
    layer, x = TSSA(128, 4), torch.randn(1, 6400, 128).requires_grad_()
    literal = _Literal(layer)
    result["kept"] = {"N": 6400, "dim": 128, "fast": kept_bytes(layer, x), "published": kept_bytes(literal, x)}
    bar.update(), bar.close()
    return result | {"load_end": manifest(command)["load"], "wall_seconds": round(time.perf_counter() - start)}


class _Literal(nn.Module):
    """`published` as a module, for counting."""

    def __init__(self, layer: TSSA):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return published(self.layer, x)


# ---- reading the result ---------------------------------------------------------------------------------
def load(path: Path = RESULTS) -> dict:
    """The committed run; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"expected the results of `python -m tssa_lib.bench` in {path.name}, found no such file")
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
        rows.append({**{k: cell[k] for k in ("dim", "N", "pass")}, "milliseconds": {k: 1e3 * v for k, v in t.items()},
                     "overhead": {k: (t[k] - t["floor"]) / above for k in ("fast", "compiled") if k in t},
                     "over_floor": {k: t[k] / t["floor"] for k in ("published", "fast", "compiled") if k in t},
                     "softmax_over_fast": t["softmax (SDPA)"] / t["fast"] if "softmax (SDPA)" in t else None})
    return rows


def targets(result: dict) -> list[dict]:
    """The goals set before measuring, what was measured, and whether it was met."""
    rows = overheads(result)
    forward_, backward = ([r for r in rows if r["pass"] == p] for p in ("forward", "forward + backward"))
    best = lambda ratios: min(ratios.get(k, math.inf) for k in ("fast", "compiled"))  # noqa: E731
    softmax = [r["softmax_over_fast"] for r in forward_ if r["softmax_over_fast"]]
    narrow = sorted((r["N"], r["milliseconds"]["fast"]) for r in forward_ if r["dim"] == 128)
    far = [pair for pair in narrow if pair[0] >= 6400] if len(narrow) > 3 else narrow
    worst = lambda rows, ratio: max(ratio(r["overhead"]) for r in rows)  # noqa: E731
    eager = lambda ratios: ratios["fast"]  # noqa: E731
    far_, near = ([r for r in forward_ if (r["N"] >= 6400) == large] for large in (True, False))
    found = [
        ("forward overhead over the published, N ≥ 6,400, eager", 0.4, worst(far_, eager), "<="),
        ("the same, eager or compiled", 0.4, worst(far_, best), "<="),
        ("forward overhead over the published, N = 400 and 1,600, eager", 0.8, worst(near, eager), "<="),
        ("the same, eager or compiled", 0.8, worst(near, best), "<="),
        ("forward over the floor, N ≥ 1,600, eager or compiled", 1.25, max(best(r["over_floor"]) for r in forward_ if r["N"] >= 1600), "<="),
        ("forward + backward overhead over the published, eager", 0.4, worst(backward, eager), "<="),
        ("the same, eager or compiled", 0.4, worst(backward, best), "<="),
        ("activations kept for backward over the published", 0.5, result["kept"]["fast"] / result["kept"]["published"], "<="),
        ("softmax attention (SDPA) over TSSA, forward, N ≥ 400", 1.0, min(softmax), ">="),
    ]
    table = [{"goal": name, "limit": limit, "measured": value, "met": value <= limit if sign == "<=" else value >= limit, "sign": sign}
             for name, limit, value, sign in found]
    return table + [{"goal": f"growth of the measured time from N = {far[0][0]:,} to {far[-1][0]:,}: exponent", "limit": None,
                     "measured": exponent(*zip(*far)), "met": None, "sign": ""}]


def markdown(result: dict) -> str:
    """The result as two Markdown tables: the goals, and milliseconds at each size. Lesson 9 shows it."""
    mark = {True: "met", False: "not met", None: "reported"}
    lines = ["| goal | limit | measured, worst cell | |", "|---|---|---|---|"]
    lines += [f"| {t['goal']} | {t['sign'].replace('<=', '≤').replace('>=', '≥')} {t['limit'] or ''} | {t['measured']:.2f} | {mark[t['met']]} |"
              for t in targets(result)]
    lines += ["", "| dim | N | pass | published | floor | fast | compiled | softmax (SDPA) | overhead, fast | overhead, compiled |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in overheads(result):
        times = [f"{r['milliseconds'][k]:,.2f}" if k in r["milliseconds"] else "" for k in ("published", "floor", "fast", "compiled", "softmax (SDPA)")]
        lines.append(f"| {r['dim']} | {r['N']:,} | {r['pass']} | {' | '.join(times)} | {r['overhead']['fast']:.2f} | "
                     + (f"{r['overhead']['compiled']:.2f} |" if "compiled" in r["overhead"] else "|"))
    return "\n".join(lines + ["", f"Milliseconds, medians of interleaved repeats in float32 with {result['threads']} threads on {result['cores']} cores of an "
                              f"{result['cpu']}, PyTorch {result['torch']}; load {result['load']:.1f} at the start, "
                              f"{result['load_end']:.1f} at the end."])


ORDER = ["TSSA", *(name for name in RIVALS if name != "TSSA")]  # of the curves


def roofline(result: dict, N: int = 6400):
    """Multiply–adds a second over multiply–adds a byte for every rival at N tokens, under the machine's two limits."""
    from tssa_lib import plots

    cell = next(c for c in result["rivals"] if c["N"] == N)
    peak, bandwidth = result["limits"]["macs_per_second"] / 1e9, result["limits"]["bytes_per_second"] / 1e9
    grid = [10 ** (i / 50) for i in range(-25, 151)]
    ax = plots.row(1, 7.5, 4.8)[0]
    figure = plots.lines(grid, {"the machine's limits": [min(peak, bandwidth * x) for x in grid]}, xscale="log", yscale="log", ax=ax,
                         title=f"Roofline at {N:,} tokens of width {cell['dim']}", xlabel="multiply–adds for each byte moved",
                         ylabel="billion multiply–adds per second")
    for i, name in enumerate(n for n in ORDER if n in cell["counts"]):
        count, seconds = cell["counts"][name], cell["seconds"][name]["median"]
        ax.plot(count["macs"] / count["moved"], count["macs"] / seconds / 1e9, "osD^v<>PX*"[i % 10], markersize=8, linestyle="none",
                color=plots.COLORS[i % len(plots.COLORS)], label=name)
    ax.legend(fontsize=8, loc="lower right")
    return figure


def curves(result: dict):
    """The two pictures of a run: seconds over N for every rival, and overhead of the fast layer."""
    from tssa_lib import plots

    left, right = plots.row(2, 5.6, 4.6)
    series: dict[str, tuple[list, list]] = {}
    for cell in result["rivals"]:
        for name, s in cell["seconds"].items():
            series.setdefault(name, ([], []))[0].append(cell["N"])
            series[name][1].append(1e3 * s["median"])
    plots.lines(None, {n: series[n] for n in ORDER if n in series}, xscale="log", yscale="log", markers=True, ax=left,
                title="Forward pass of width 128", xlabel="tokens N", ylabel="milliseconds")
    cells: dict[str, tuple[list, list]] = {}
    for r in overheads(result):
        x, y = cells.setdefault(f"width {r['dim']}, {r['pass']}", ([], []))
        x.append(r["N"]), y.append(r["overhead"]["fast"])
    return plots.lines(None, cells, xscale="log", markers=True, ax=right, hlines={"published": 1.0, "goal for N ≥ 6,400": 0.4},
                       title="Time above the two linear maps", xlabel="tokens N", ylabel="share of the published layer's")


def main(argv: list[str] | None = None) -> None:
    """Measure TSSA and its rivals on this machine: writes a JSON and a picture beside it, prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tssa_lib.bench", description=main.__doc__, epilog=(
        "The whole run takes about eight minutes on two idle cores, --quick about two. Run it on an idle machine: the load at start "
        "and end is recorded. Lesson 9 and the README show the committed file; after a new run, build the lesson again."))
    parser.add_argument("--quick", action="store_true", help="width 128 and N up to 6,400 only")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="PyTorch's threads (default: %(default)s)")
    parser.add_argument("--out", type=Path,
                        help="JSON to write; the picture goes beside it (default: data/results/linear_time.json, quick: data/runs/bench.json)")
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"expected --threads >= 1, got {args.threads}")
    torch.set_num_threads(args.threads)
    command = " ".join(["python -m tssa_lib.bench", *(sys.argv[1:] if argv is None else argv)])
    result = json.loads(json.dumps(run(args.quick, command)), parse_float=lambda v: float(f"{float(v):.5g}"))
    out = args.out or (data_dir() / "runs" / "bench.json" if args.quick else RESULTS)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    curves(result).savefig(out.with_suffix(".png"), dpi=100, bbox_inches="tight", metadata={"Software": None})
    print(markdown(result))


if __name__ == "__main__":
    main()
