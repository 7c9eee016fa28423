"""Attention at P5, P4 and P3 of YOLO11, TSSA against softmax and none: operations counted, seconds and memory measured.

Softmax comes twice: as Ultralytics writes it out ("psa"), and by `scaled_dot_product_attention` ("sdpa"), the same
attention with the same parameters and output. "plain" is the same block in which no token hears of another. Lesson 10
reads what `python -m experiments.placements` writes, data/results/placements.json. Counting runs the model on PyTorch's
"meta" device, which knows shapes only: exact, the same on every machine, and no size is too large.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments import record
from experiments.slot import FusedSoftmax
from kit.cost import count, seconds
from kit.results_placements import ARMS, PLACES, SIZES
from tssa_lib.yolo import YOLO

from ultralytics.nn.modules.block import Attention

RESULT = record.RESULTS / "placements.json"


def named(name: str) -> YOLO:
    """The detector of an arm as `YOLO` builds it by name; SDPA has the plan of the written-out form."""
    return YOLO(name.replace("-sdpa-", "-psa-"))


def network(name: str) -> nn.Module:
    """The network of an arm of `kit.results_placements.ARMS`, batch norm fused, ready to be timed."""
    model = named(name).model.float().eval().fuse(verbose=False)
    if "-sdpa-" in name:
        for attention in [m for m in model.modules() if isinstance(m, Attention)]:
            attention.__class__ = FusedSoftmax  # a subclass with the same parameters and another forward
    return model


def peak(name: str, size: int) -> float:
    """MiB that one forward pass adds to the memory of a fresh process, at its peak (Linux)."""
    code = f"import experiments.placements as p; p._peak_here({name!r}, {size})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _peak_here(name: str, size: int) -> None:
    kilobytes = lambda kind: int(re.search(rf"{kind}:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    model = network(name)
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64))
        before = kilobytes("VmRSS")
        model(torch.rand(1, 3, size, size))
    print(f"{(kilobytes('VmHWM') - before) / 1024:.1f}")


def measure(
    sizes: Sequence[int],
    places: Sequence[str] = PLACES,
    path: Path = RESULT,
    share: float = 0.6,
    command: str = "python -m experiments.placements",
) -> dict[str, Any]:
    """Measure all arms in these placements at every size and write the results; others there stay.

    SDPA multiplies what the written-out form does, so its counts are those. peak_mib is the median of three fresh
    processes. A model whose attention maps alone need more than `share` of the free memory is not run, and says so.
    """
    import psutil

    found = json.loads(path.read_text()) if path.is_file() else {}
    models = [name for name in ARMS if name[:-5].split("-")[-1] in places]
    rows = [row for row in found.get("rows", []) if row["size"] not in sizes or row["model"] not in models]
    for size in sizes:
        costs = {name: count(named(name).model, size) for name in models}
        needs = {name: 0 if "-sdpa-" in name else 2 * cost.largest for name, cost in costs.items()}  # map and softmax
        runs = [name for name in models if needs[name] < share * psutil.virtual_memory().available]
        took = seconds({name: network(name) for name in runs}, size)
        for name in models:
            row = {"model": name, "size": size, **costs[name]._asdict()}
            if "-sdpa-" in name:
                del row["largest"]  # it never writes the map
            if name in took:
                wall, processor = (round(1e3 * statistics.median(t), 1) for t in zip(*took[name]))
                row |= {
                    "wall_ms": wall,
                    "processor_ms": processor,
                    "runs": len(took[name]),
                    "peak_mib": statistics.median(peak(name, size) for _ in range(3)),
                }
            else:
                row |= {"not_run": f"needs {needs[name] / 2**30:.0f} GiB for two maps"}
            rows.append(row)
            print(row, flush=True)
        found = {
            **record.manifest(command),
            "what": "one picture, float32, batch norm fused, random weights; medians of interleaved runs on the CPU; "
            "milliseconds on the wall and of the processor; peak_mib is what a forward pass adds in a fresh process",
            "rows": sorted(rows, key=lambda r: (r["size"], ARMS.index(r["model"]))),
        }
        record.write(path, found)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.placements", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(SIZES), help="sides in pixels (default: 640 1280 1920)"
    )
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES), help="default: all three")
    parser.add_argument(
        "--out", type=record.place, default=RESULT, help="the JSON file; sizes that it holds already are kept"
    )
    parser.add_argument("--threads", type=int, default=1, help="1 is robust on a machine that does other things")
    words = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(words)
    if min(*given.sizes, given.threads * 32) < 32:
        parser.error(f"expected --sizes of 32 pixels or more and --threads >= 1, got {given.sizes} and {given.threads}")
    torch.set_num_threads(given.threads)
    measure(
        given.sizes, given.places, given.out, command=shlex.join(["python", "-m", "experiments.placements", *words])
    )


if __name__ == "__main__":
    main()
