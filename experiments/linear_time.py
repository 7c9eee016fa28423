"""What TSSA costs, measured: the layer against its published form and its floor, and against every rival.

    python -m experiments.linear_time            about eight minutes on two idle cores
    python -m experiments.linear_time --quick    about two, into data/runs

Writes data/results/linear_time.json and a picture beside it. Times are wall-clock medians of interleaved repeats.
Rebuild after a new run: lesson 9 (`make notebooks ARGS=09`) and the README (`python -m experiments.readme`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments import record
from kit.attention import Attention
from kit.cost import (
    HEAD_WIDTH,
    RIVALS,
    Moved,
    floor,
    forward,
    interleaved,
    kept_bytes,
    operations,
    published,
)
from kit.results_linear_time import curves, markdown
from tssa_lib.paths import data_dir
from tssa_lib.tssa import TSSA

RESULT = record.RESULTS / "linear_time.json"
TOKENS = (400, 1600, 6400, 25600, 65536)
QUADRATIC = {"softmax (SDPA)": 25600, "CRATE's MSSA": 25600, "softmax, written out": 6400}  # largest N that is run


# ---- the sections of the benchmark --------------------------------------------------------------------
def forward_backward(f: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> Callable[[], Any]:
    x, target = x.clone().requires_grad_(), torch.randn_like(x)
    variables = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(f(x), variables, target, allow_unused=True)


def layer_cell(dim: int, N: int, train: bool, budget: float, compile: bool) -> dict:
    """One TSSA layer at one size: published, floor, fast and compiled, and softmax attention of the same width."""
    torch.manual_seed(0)
    layer, x = TSSA(dim, dim // HEAD_WIDTH), torch.randn(1, N, dim)
    softmax = Attention(dim, dim // HEAD_WIDTH)
    forms: dict[str, Callable] = {
        "published": lambda x: published(layer, x),
        "floor": lambda x: floor(layer, x),
        "fast": layer,
    }
    if compile:
        torch._dynamo.reset()  # each size its own compilation, none falls back to eager
        forms["compiled"] = torch.compile(layer, fullgraph=True, dynamic=False)
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
        counts[name] = {
            "macs": macs,
            "moved": bytes_.moved,
            "largest": bytes_.largest,
            "kept": kept_bytes(layer, x.clone().requires_grad_()) if small else None,
        }
    return {"dim": dim, "N": N, "seconds": took, "counts": counts}


def machine_limits(budget: float) -> dict:
    """What this machine can do: multiply–adds a second in one large product, bytes a second in one large copy."""
    a, b, y = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    source, target = torch.randn(2**26), torch.empty(2**26)  # 256 MiB each, more than any cache
    took = interleaved({"product": lambda: torch.mm(a, b, out=y), "copy": lambda: target.copy_(source)}, budget)
    return {
        "macs_per_second": 1024**3 / took["product"]["median"],
        "bytes_per_second": 2 * source.nbytes / took["copy"]["median"],
        "seconds": took,
    }


def run(quick: bool = False, command: str = "python -m experiments.linear_time") -> dict:
    """The whole benchmark as one dictionary, with a progress bar; about eight minutes, two if `quick`."""
    from tqdm import tqdm

    dims, sizes, share = ((128,), TOKENS[:3], 0.5) if quick else ((128, 256), TOKENS, 1.0)
    start, about = time.perf_counter(), record.manifest(command)
    cells = [(dim, N, train) for dim in dims for N in sizes for train in (False, True)]
    rival_sizes = sizes if quick else TOKENS[:4]
    bar = tqdm(total=len(cells) + len(rival_sizes) + 1, unit="cell", disable=None)
    result: dict[str, Any] = {**about, "quick": quick, "layer": [], "rivals": []}
    for dim, N, train in cells:
        bar.set_description(f"TSSA {dim} × {N}{', backward' if train else ''}")
        compile = N == 1600 or not quick  # each takes some ten seconds
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
    bar.update()
    bar.close()
    return result | {"load_end": record.manifest(command)["load"], "wall_seconds": round(time.perf_counter() - start)}


class _Literal(nn.Module):
    """`published` as a module, for counting."""

    def __init__(self, layer: TSSA):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return published(self.layer, x)


# ---- reading the result ---------------------------------------------------------------------------------
def main(argv: list[str] | None = None) -> None:
    """Measure TSSA and its rivals on this machine: writes a JSON and a picture beside it, prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.linear_time",
        description=main.__doc__,
        epilog=(
            "The whole run takes about eight minutes on two idle cores, --quick about two. Run it on an idle machine: "
            "the load at start and end is recorded. Lesson 9 and the README show the committed file; after a new run, "
            "build the lesson again."
        ),
    )
    parser.add_argument("--quick", action="store_true", help="width 128 and N up to 6,400 only")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="PyTorch's threads (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=record.place,
        help="JSON to write; the picture goes beside it (default: data/results/linear_time.json; quick: data/runs)",
    )
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"expected --threads >= 1, got {args.threads}")
    torch.set_num_threads(args.threads)
    command = " ".join(["python -m experiments.linear_time", *(sys.argv[1:] if argv is None else argv)])
    result = json.loads(json.dumps(run(args.quick, command)), parse_float=lambda v: float(f"{float(v):.5g}"))
    out = args.out or (data_dir() / "runs" / "bench.json" if args.quick else RESULT)
    record.write(out, result)
    curves(result).savefig(out.with_suffix(".png"), dpi=100, bbox_inches="tight", metadata={"Software": None})
    print(markdown(result))


if __name__ == "__main__":
    main()
