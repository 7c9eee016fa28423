"""Train a detector once and keep what it gave: what the trials share.

A finished step is a file of its own that says what was asked, so a stopped trial goes on where it was, and a step
asked for otherwise is done anew.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from experiments import record
from kit import cost
from tssa_lib.train import train, validate
from tssa_lib.yolo import YAML, YOLO


def kept(file: Path, asked: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives for these settings, with them under "asked": made once, and read from `file` from then on.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "step.json")
    >>> kept(file, {"seed": 0}, lambda: {"value": 1}), kept(file, {"seed": 0}, lambda: 1 / 0)
    ({'asked': {'seed': 0}, 'value': 1}, {'asked': {'seed': 0}, 'value': 1})
    """
    asked = json.loads(json.dumps(asked))  # as it will be read: tuples are lists
    if file.is_file() and (found := json.loads(file.read_text()))["asked"] == asked:
        return found
    found = {"asked": asked, **make()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(file)
    return found


def trained(plan: dict[str, Any], data: Path, folder: Path, size: str = "n", weights: str | Path | None = None,
            **settings: Any) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Train a detector from the rows of a plan: the weights of its last epoch, and what the training took.

    The last epoch's, for all alike: choosing the best epoch would flatter. plan: of `yolo.with_attention`; weights:
    carried over before; settings: of Ultralytics, imgsz among them.
    """
    file = folder / f"yolo11{size}-trial.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    YAML.save(file, plan)
    model = YOLO(str(file))
    flops = 2 * cost.count(model.model, settings["imgsz"]).macs
    parameters = sum(p.numel() for p in model.model.parameters())
    processor = time.process_time()
    shutil.rmtree(folder / "run", ignore_errors=True)  # of a training that was stopped
    run = train(data, model, weights=weights, folder=folder / "run", quiet=True, **settings, val=False)
    took = {"seconds": round(run.seconds, 1), "processor seconds": round(time.process_time() - processor, 1)}
    return run.last, {**took, "parameters": parameters, "flops": flops}


def measured(model: YOLO, data: Path, imgsz: int, device: str = "cpu", **settings: Any) -> dict[str, Any]:
    """mAP50, mAP50-95, precision, recall, and the average precision of each class, on square pictures unless rect=True.

    Ultralytics else adds a border of half a stride: 16 tokens at stride 32 where 9 were trained with.
    """
    scores, per_class = validate(model, data, imgsz=imgsz, device=device, **{"rect": False, **settings})
    return {**scores, "per_class": per_class}


def add_use(rows: list[dict[str, Any]], command: str, detector: str) -> Path:
    """Put a detector's rows of use into data/results/use.json, in place of those it had there, and what made them."""
    file = record.RESULTS / "use.json"
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {**record.manifest(command), "rows": []}
    others = [row for row in there["rows"] if row["detector"] != detector]
    made_by = {**there.get("made_by", {}), detector: record.manifest(command)}
    return record.write(file, {**there, "made_by": made_by, "rows": [*others, *rows]})


def each(do: Callable[..., Any], todo: Sequence[tuple], workers: int = 1) -> Iterator[Any]:
    """`do(*what)` for all of `todo`, as each is finished, `workers` at a time, each with its share of the threads."""
    if workers == 1:
        yield from (do(*what) for what in todo)
        return
    threads = max(1, torch.get_num_threads() // workers)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, fresh, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        running = [pool.submit(do, *what) for what in todo]
        try:
            yield from (future.result() for future in as_completed(running))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
