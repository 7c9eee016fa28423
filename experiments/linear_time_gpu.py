"""What TSSA costs on a GPU: its update by Triton's kernels, the layer, whole detectors; time, memory, bandwidth.

    python -m experiments.linear_time_gpu              at most five minutes on one NVIDIA GPU that nobody else uses
    python -m experiments.linear_time_gpu --rehearse   a minute on a CPU: the same steps at tiny sizes, no result

Writes data/results/linear_time_gpu.json, raw rows; a rehearsal writes into data/runs. Times are medians of repeats in
turns, several calls between two synchronisations. Peak memory is what one call adds to what it was given. Run
`python -m pytest tests/library/test_fused.py` on the same card first: it checks that what is timed here is right.
Rebuild after a new run: lesson 9 (`make notebooks ARGS=09`).
"""

from __future__ import annotations

import os
import sys

if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments import record
from experiments.detector_trial import fused_softmax
from kit import cost
from kit.attention import Attention
from kit.results_linear_time_gpu import DETECTORS
from tssa_lib.core import split_heads, token_update
from tssa_lib.paths import data_dir
from tssa_lib.tssa import TSSA
from tssa_lib.yolo import YOLO

RESULT = record.RESULTS / "linear_time_gpu.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FULL: dict[str, Any] = {
    "device": "cuda",
    "budget": 0.25,  # seconds for one form at one size
    "least": 3,  # repeats
    "copy": 2**28,  # numbers of float32: 1 GiB, more than any cache
    "product": 8192,
    "updates": [(16, 25600, 256, 8), (16, 6400, 128, 2), (1, 1600, 128, 2)],  # pictures, tokens, width, heads
    "layers": [(16, 25600, 256, 8), (16, 6400, 256, 8), (16, 400, 256, 8)],
    "tiles": [(4096, 4), (4096, 8), (8192, 8), (16384, 16)],  # numbers, warps
    "softmax": {"float32": 6400, "bfloat16": 25600, "autocast": 25600},  # tokens at most
    "pictures": (2, (640, 1280, 1920)),
    "backend": "inductor",
}
TINY: dict[str, Any] = {
    "device": "cpu",
    "budget": 0.0,
    "least": 2,
    "copy": 2**10,
    "product": 32,
    "updates": [(1, 9, 6, 2)],
    "layers": [(1, 9, 6, 2)],
    "tiles": [(32, 8)],
    "softmax": {"float32": 9, "bfloat16": 9, "autocast": 9},
    "pictures": (1, (64,)),
    "backend": "eager",
}


# ---- measuring --------------------------------------------------------------------------------------
class Machine:
    """The device under test: its clock, its memory, and what does not fit into it."""

    def __init__(self, plan: dict[str, Any]):
        self.plan, self.device = plan, torch.device(plan["device"])
        self.on_gpu = self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def measure(self, calls: dict[str, Callable[[], Any]]) -> dict[str, dict]:
        """Seconds and bytes of each call by name; what finds no memory, or no kernel of PyTorch's, says "not_run"."""
        found: dict[str, dict] = {}
        bursts: dict[str, tuple[Callable[[], None], int]] = {}
        for name, call in calls.items():
            excused = RuntimeError if name.startswith("softmax") else torch.OutOfMemoryError
            try:
                call()  # compiles
                peak = self._peak(call)
                start = time.perf_counter()
                call(), self.wait()
                times = max(1, min(20, int(0.01 / (time.perf_counter() - start)))) if self.on_gpu else 1
            except excused as error:
                found[name] = {"not_run": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
                continue
            found[name] = {"peak_bytes": peak}
            bursts[name] = self._burst(call, times), times
        budget, least = self.plan["budget"] * len(bursts), self.plan["least"]
        took = cost.interleaved({n: burst for n, (burst, _) in bursts.items()}, budget, least=least)
        for name, t in took.items():
            times = bursts[name][1]
            found[name] |= {**{k: t[k] / times for k in ("median", "low", "high")}, "repeats": t["repeats"] * times}
        return found

    def _burst(self, call: Callable[[], Any], times: int) -> Callable[[], None]:
        def burst() -> None:
            for _ in range(times):
                call()
            self.wait()

        return burst

    def _peak(self, call: Callable[[], Any]) -> int | None:
        if not self.on_gpu:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.wait()
        return torch.cuda.max_memory_allocated() - before


def limits(machine: Machine) -> dict:
    """Bytes a second of a large copy, multiply–adds a second of a large product in float32 and in bfloat16."""
    n, device = machine.plan["product"], machine.device
    source = torch.randn(machine.plan["copy"], device=device)
    target = torch.empty_like(source)
    calls: dict[str, Callable] = {"copy": lambda: target.copy_(source)}
    for name in ("float32", "bfloat16"):
        a = torch.randn(n, n, device=device, dtype=DTYPES[name])
        calls[name] = lambda a=a: a @ a
    took = machine.measure(calls)
    return {
        "bytes_per_second": 2 * source.nbytes / took["copy"]["median"],
        "macs_per_second": {name: n**3 / took[name]["median"] for name in ("float32", "bfloat16")},
    }


def projected(B: int, N: int, dim: int, K: int, layout: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Projected tokens (B, K, N, p), a leaf that lies in memory tokens first or channels first."""
    if layout == "tokens first":
        w = split_heads(torch.randn(B, N, dim, dtype=dtype, device=device), K)
    else:
        w = torch.randn(B, dim, N, dtype=dtype, device=device).unflatten(1, (K, -1)).mT
    return w.detach().requires_grad_()


def passes(f: Callable[[Tensor], Tensor], x: Tensor, variables: list[Tensor], train: bool, out: torch.dtype):
    """One forward pass, or one with its backward pass from a gradient of f(x), which has the shape of x."""
    g = torch.randn(x.shape, device=x.device, dtype=out)
    return (lambda: torch.autograd.grad(f(x), variables, g, allow_unused=True)) if train else cost.forward(f, x)


def update_cell(machine: Machine, size: tuple[int, int, int, int], layout: str, name: str, train: bool) -> dict:
    """The update alone: by kernels, term by term, compiled; and the bytes of tokens that the kernels must move."""
    from tssa_lib.fused import fused_update

    B, N, dim, K = size
    w = projected(B, N, dim, K, layout, DTYPES[name], machine.device)
    temp = torch.ones(K, 1, device=machine.device, requires_grad=True)
    forms: dict[str, Callable] = {"kernels": fused_update, "term by term": token_update}
    if size == machine.plan["updates"][0] and name != "float16" and layout == "tokens first":
        torch._dynamo.reset()
        forms["compiled"] = torch.compile(token_update, dynamic=False, backend=machine.plan["backend"])
    calls = {n: passes(lambda w, f=f: f(w, temp), w, [w, temp], train, w.dtype) for n, f in forms.items()}
    moved = (4 + (7 if train else 0)) * w.nbytes  # 3 reads and 1 write, and 6 reads and 1 write in the backward pass
    return {**_size(size), "layout": layout, **_row(name, train), "bytes": moved, "forms": machine.measure(calls)}


def tiles_cell(machine: Machine, tile: tuple[int, int], layout: str, name: str) -> dict:
    """The update with other tiles than `fused` has: which are the fastest on this card?"""
    from tssa_lib import fused

    B, N, dim, K = machine.plan["updates"][0]
    w = projected(B, N, dim, K, layout, DTYPES[name], machine.device)
    temp = torch.ones(K, 1, device=machine.device, requires_grad=True)
    before = fused.TILE, fused.WARPS
    fused.TILE, fused.WARPS = tile
    try:
        update = lambda w: fused.fused_update(w, temp)
        calls = {_pass(train): passes(update, w, [w, temp], train, w.dtype) for train in (False, True)}
        return {"tile": tile[0], "warps": tile[1], "layout": layout, "dtype": name, "forms": machine.measure(calls)}
    finally:
        fused.TILE, fused.WARPS = before


def layer_cell(machine: Machine, size: tuple[int, int, int, int], name: str, train: bool) -> dict:
    """The layer against its floor, its published order (one by one, and compiled), and softmax attention by SDPA."""
    B, N, dim, K = size
    dtype = DTYPES.get(name, torch.float32)  # under autocast all tensors are float32
    torch.manual_seed(0)
    layer = TSSA(dim, K).to(machine.device, dtype)
    softmax = Attention(dim, K).to(machine.device, dtype)
    x = torch.randn(B, N, dim, device=machine.device, dtype=dtype, requires_grad=True)
    forms: dict[str, tuple[Callable, nn.Module]] = {
        "TSSA": (layer if machine.on_gpu else layer.in_kernels, layer),
        "term by term": (layer.straightforward, layer),
        "published": (lambda x: cost.published(layer, x), layer),
        "floor": (lambda x: cost.floor(layer, x), layer),
    }
    if size == machine.plan["layers"][0] and name != "autocast":
        torch._dynamo.reset()
        as_published = torch.compile(lambda x: cost.published(layer, x), dynamic=False, backend=machine.plan["backend"])
        forms["published, compiled"] = as_published, layer
    if N <= machine.plan["softmax"][name]:
        forms["softmax (SDPA)"] = softmax, softmax
    calls = {}
    for form, (f, owner) in forms.items():
        out = torch.bfloat16 if name == "autocast" else dtype
        calls[form] = passes(_as_asked(f, name, machine), x, [x, *owner.parameters()], train, out)
    return {**_size(size), **_row(name, train), "forms": machine.measure(calls)}


def _as_asked(f: Callable, name: str, machine: Machine) -> Callable:
    """f under autocast, if the row says so; softmax attention in half precision is flash attention or an error."""

    def g(x: Tensor) -> Tensor:
        half = name != "float32" and machine.on_gpu
        with contextlib.ExitStack() as stack:
            if name == "autocast":
                stack.enter_context(torch.autocast(machine.device.type, torch.bfloat16))
            if half and isinstance(f, Attention):
                stack.enter_context(sdpa_kernel(SDPBackend.FLASH_ATTENTION))
            return f(x)

    return g


def detector_cell(machine: Machine, block: str, pixels: int, name: str) -> dict:
    """A whole YOLO11n with one kind of attention at P3, P4 and P5: one forward pass of random weights."""
    batch = machine.plan["pictures"][0]
    model = YOLO(DETECTORS[block]).model.eval().fuse(verbose=False).to(machine.device, DTYPES[name])
    x = torch.rand(batch, 3, pixels, pixels, device=machine.device, dtype=DTYPES[name])
    with fused_softmax() if block == "softmax, SDPA" else contextlib.nullcontext():
        found = machine.measure({block: cost.forward(model, x)})[block]
    return {"block": block, "pixels": pixels, "batch": batch, "dtype": name, **found}


def equality_cell(machine: Machine, layout: str, name: str, normalize: str) -> dict:
    """How far the kernels are from the formula in float64, the same rounded tokens given; and from a second run."""
    from tssa_lib.fused import fused_update

    B, N, dim, K = machine.plan["updates"][-1]
    w = projected(B, N, dim, K, layout, DTYPES[name], machine.device)
    temp = torch.full((K, 1), 0.1 if normalize == "none" else 3.0, device=machine.device, requires_grad=True)
    g, runs = torch.randn(w.shape, device=machine.device, dtype=w.dtype), []
    for f, (a, t, h) in ((fused_update, (w, temp, g)),) * 2 + (
        (token_update, (w.double(), temp.double(), g.double())),
    ):
        y = f(a, t, normalize=normalize)
        runs.append((y, *torch.autograd.grad(y, (w, temp), h)))
    off = [((a.double() - b).norm() / b.double().norm()).item() for a, b in zip(runs[0], runs[2])]
    same = all(torch.equal(a, b) for a, b in zip(*runs[:2]))
    what = dict(zip(("update", "gradient of w", "gradient of temp"), off))
    return {"layout": layout, "dtype": name, "normalize": normalize, "relative error": what, "repeatable": same}


def _size(size: tuple[int, int, int, int]) -> dict:
    return dict(zip(("B", "N", "dim", "K"), size))


def _row(name: str, train: bool) -> dict:
    return {"dtype": name, "pass": _pass(train)}


def _pass(train: bool) -> str:
    return "forward + backward" if train else "forward"


# ---- the whole run ----------------------------------------------------------------------------------
def cells(plan: dict[str, Any]) -> Iterator[tuple[str, Callable, tuple]]:
    """Each cell of the benchmark: its section, and what measures it."""
    layouts = ("tokens first", "channels first")
    for layout in layouts:
        for name in DTYPES:
            for normalize in ("tokens", "none"):
                yield "equality", equality_cell, (layout, name, normalize)
    for train in (False, True):
        for size in plan["layers"]:
            for name in ("float32", "bfloat16", "autocast"):
                yield "layer", layer_cell, (size, name, train)
        for size in plan["updates"]:
            for layout in layouts:
                for name in DTYPES:
                    yield "update", update_cell, (size, layout, name, train)
    for name in ("float32", "float16"):
        for pixels in plan["pictures"][1]:
            for block in DETECTORS:
                yield "detectors", detector_cell, (block, pixels, name)
    for tile in plan["tiles"]:
        for layout in layouts:
            for name in ("float32", "bfloat16"):
                yield "tiles", tiles_cell, (tile, layout, name)


def run(plan: dict[str, Any], command: str) -> dict:
    """The whole benchmark as one dictionary, with a progress bar."""
    from tqdm import tqdm

    start, machine = time.perf_counter(), Machine(plan)
    result: dict[str, Any] = {**record.manifest(command), **card(machine), "limits": limits(machine)}
    for section, cell, given in tqdm(list(cells(plan)), unit="cell", disable=None):
        result.setdefault(section, []).append(cell(machine, *given))
        if machine.on_gpu:
            torch.cuda.empty_cache()
    return result | {"wall_seconds": round(time.perf_counter() - start)}


def card(machine: Machine) -> dict:
    """What was measured on; a rehearsal names no card."""
    found = {"rehearsal": not machine.on_gpu, "triton": version("triton"), "cuda": torch.version.cuda}
    if machine.on_gpu:
        about = torch.cuda.get_device_properties(machine.device)
        found |= {"card": about.name, "memory": about.total_memory, "processors": about.multi_processor_count}
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure TSSA on this machine's GPU: the update by Triton's kernels, the layer, whole detectors. Writes a JSON."""
    parser = argparse.ArgumentParser(prog="python -m experiments.linear_time_gpu", description=main.__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, kernels interpreted: no result")
    parser.add_argument(
        "--out", type=record.place, help="JSON to write (default: data/results, a rehearsal: data/runs)"
    )
    args = parser.parse_args(argv)
    if not (args.rehearse or torch.cuda.is_available()):
        parser.error("expected an NVIDIA GPU, found none; --rehearse runs the same steps at tiny sizes without one")
    command = " ".join(["python -m experiments.linear_time_gpu", *(sys.argv[1:] if argv is None else argv)])
    result = run(TINY if args.rehearse else FULL, command)
    result = json.loads(json.dumps(result), parse_float=lambda v: float(f"{float(v):.5g}"))
    out = args.out or (data_dir() / "runs" / "linear_time_gpu.json" if args.rehearse else RESULT)
    record.write(out, result)
    print(f"{out.name}: {sum(len(v) for v in result.values() if isinstance(v, list))} rows, {result['wall_seconds']} s")
    if not args.rehearse:
        from kit.results_linear_time_gpu import markdown

        print(markdown(result))


if __name__ == "__main__":
    main()
