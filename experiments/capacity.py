"""How much of a set can token statistics tell? *rare* and *twin* on sets of tokens, where the block is all there is.

    python -m experiments.capacity --quick      about half a minute: one cell, two blocks, a rehearsal
    python -m experiments.capacity              all trainings that are not there yet, then the results
    python -m experiments.capacity --assemble   the results from the trainings that are there

A set has ten tokens, each a hue: one of C colours, evenly around the circle, with a little noise, given as (cos, sin).

    rare   two colours a set, drawn anew: is the token's colour the one with fewer tokens (1 to 3 of 10)?
    twin   all colours of a set differ but for one pair: has the token a twin?

The network embeds every token alone, then has two blocks [mixer, MLP], then a score a token; only the mixers differ,
and without one ("none") a token hears of nobody. Measured is the average precision over the tokens of fresh sets.

What is carried. In a layer TSSA's tokens hear K·p = d numbers of each other, the second moments, however many tokens
there are; squeeze-and-excitation d means; XCA K·p² products; softmax the keys and values of all tokens.

A bound, and what it is. Hold memberships fixed. Then the moments are linear in the set's histogram h over the colours:
s = M h / n, column c of M (m = K·p rows) being what one token of colour c adds. A token of colour c wants h_c, and a
linear read-out a·s of it also hears the other colours. With m >= C it can hear h_c alone. With m < C no M can give all
colours directions of their own: for unit columns the mean square of the inner products of different ones is at least
(C − m) / (m (C − 1)) (Welch 1974). So with n tokens, two of them the pair, the other n − 2 disturb the answer with a
root mean square of at least about √((n − 2)(C − m) / (m (C − 1))), in units of one token's own contribution, as if
their inner products had random signs. `crosstalk` is this number. It bounds linear read-outs of one layer. It proves
nothing of the trained network, whose read-out is not linear, which has two layers and moves its memberships: it says
where to look, and the measurement says what is so. (Second moments are squares, so M >= 0; the bound ignores that.)

`capacity.json` has a row a training: {task, block, width, colours, seed, AP, chance, numbers, crosstalk, seconds}.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from experiments import record
from kit.attention import XCA, WrittenOut
from tssa_lib.paths import data_dir
from tssa_lib.tssa import TSSA

TASKS = ("rare", "twin")
TOKENS = 10
HEADS = 4
NOISE = 0.1  # standard deviation of a token's hue, in steps between two neighbouring colours
BLOCKS = ("none", "SE", "XCA", "softmax", "TSSA published", "TSSA improved")
CELLS = {  # task and number of colours, by width: all that share a width are trained side by side
    16: (("twin", 12), ("twin", 48), ("rare", 48)),
    32: (("twin", 48),),
}
TRAINING = dict(steps=1000, batch=64, lr=5e-3, weight_decay=0.01)
TEST_SETS = 1000


# --- the sets -----------------------------------------------------------------------------------


def sets(task: str, count: int, colours: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` sets and the answers: x (count, 10, 2), on the circle, and y (count, 10), 1 for "rare" or "twin".

    `ValueError` for another task, or fewer colours than a set needs.

    >>> x, y = sets("twin", 5, 12, torch.Generator().manual_seed(0))
    >>> x.shape, y.sum(1).tolist()
    (torch.Size([5, 10, 2]), [2.0, 2.0, 2.0, 2.0, 2.0])
    """
    if task not in TASKS or colours < TOKENS - 1:
        raise ValueError(f"expected a task of {', '.join(TASKS)} and 9 colours or more, got {task!r} and {colours}")
    drawn = torch.rand(count, colours, generator=generator).argsort(1)  # all colours of a set, in random order
    if task == "twin":
        place = torch.tensor([0, *range(TOKENS - 1)])  # the first colour comes twice
        place, y = place.expand(count, -1), (place == 0).float().expand(count, -1)
    else:
        few = torch.randint(1, 4, (count, 1), generator=generator)
        y = (torch.arange(TOKENS) < few).float()
        place = y.long()
    order = torch.rand(count, TOKENS, generator=generator).argsort(1)
    colour, y = drawn.gather(1, place).gather(1, order), y.gather(1, order)
    hue = (colour + NOISE * torch.randn(count, TOKENS, generator=generator)) * (2 * math.pi / colours)
    return torch.stack([hue.cos(), hue.sin()], -1), y


def crosstalk(numbers: int, colours: int, tokens: int = TOKENS) -> float:
    """The least disturbance of a linear read-out of one colour's count from so many numbers (see above).

    >>> crosstalk(16, 12), round(crosstalk(16, 48), 2)
    (0.0, 0.58)
    """
    return math.sqrt((tokens - 2) * max(colours - numbers, 0) / (numbers * (colours - 1)))


# --- the network --------------------------------------------------------------------------------


class Nothing(nn.Module):
    """Adds nothing to a token."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class ChannelGate(nn.Module):
    """Squeeze-and-excitation over tokens (B, N, d): values times a gate made of their mean (Hu et al. 2018)."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv, self.to_out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.gate = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        v = self.qkv(x)  # (B, N, d)
        return self.to_out(v * self.gate(v.mean(1, keepdim=True)))


def mixer(block: str, width: int) -> nn.Module:
    """What lets tokens (B, N, width) hear of each other. `ValueError` for an unknown block."""
    makers = {
        "none": Nothing,
        "SE": lambda: ChannelGate(width),
        "XCA": lambda: XCA(width, HEADS),
        "softmax": lambda: WrittenOut(width, HEADS),
        "TSSA published": lambda: TSSA(width, HEADS),
        "TSSA improved": lambda: TSSA(width, HEADS, normalize="rms", temp=4.0),
    }
    if block not in makers:
        raise ValueError(f"expected a block of {', '.join(makers)}, got {block!r}")
    return makers[block]()


def numbers_carried(block: str, width: int) -> int:
    """How many numbers of a set a layer of this block tells each token.

    >>> [numbers_carried(b, 16) for b in BLOCKS]
    [0, 16, 64, 320, 16, 16]
    """
    return {"none": 0, "XCA": width * width // HEADS, "softmax": 2 * width * TOKENS}.get(block, width)


class Net(nn.Module):
    """Sets of hues x (B, N, 2) → a score a token (B, N)."""

    def __init__(self, block: str, width: int, depth: int = 2):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(2, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mixers = nn.ModuleList(mixer(block, width) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)  # (B, N, d)
        for i, (mix, mlp) in enumerate(zip(self.mixers, self.mlps)):
            x = x + mix(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.score(x)[..., 0]  # (B, N)


# --- trainings, side by side --------------------------------------------------------------------


def together(block: str, width: int, cells: Sequence[tuple[str, int]], seeds: Sequence[int], steps: int) -> list[float]:
    """Train a network for every cell (task, colours) and seed, each on sets of its own; the average precisions.

    The networks are one batch to the machine: parameters of all are stacked, the loss is the sum of theirs, and
    AdamW changes every number by its own gradients, so that none hears of another.

    >>> len(together("none", 8, [("twin", 12), ("rare", 12)], [0], steps=1))
    2
    """
    from sklearn.metrics import average_precision_score

    kinds = [(task, colours, seed) for task, colours in cells for seed in seeds]
    nets, generators = [], []
    for _, _, seed in kinds:
        torch.manual_seed(seed)
        nets.append(Net(block, width))
        generators.append(torch.Generator().manual_seed(1000 + seed))
    parameters, buffers = stack_module_state(nets)

    def scores(x: Tensor) -> Tensor:
        one = lambda p, b, x: functional_call(nets[0], (p, b), (x,))
        return vmap(one)(parameters, buffers, x)  # (kinds, B, N)

    optimizer = torch.optim.AdamW(parameters.values(), TRAINING["lr"], weight_decay=TRAINING["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TRAINING["lr"], total_steps=max(steps, 2), pct_start=0.1)
    for _ in range(steps):
        drawn = [sets(task, TRAINING["batch"], colours, g) for (task, colours, _), g in zip(kinds, generators)]
        x, y = (torch.stack(t) for t in zip(*drawn))  # (kinds, B, N, 2), (kinds, B, N)
        loss = binary_cross_entropy_with_logits(scores(x), y, reduction="none").mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tests = [sets(task, TEST_SETS, colours, torch.Generator().manual_seed(10**6)) for task, colours, _ in kinds]
    with torch.no_grad():
        found = scores(torch.stack([x for x, _ in tests]))
    return [float(average_precision_score(y.flatten().numpy(), s.flatten().numpy())) for (_, y), s in zip(tests, found)]


def some(block: str, width: int, seeds: int, steps: int, folder: Path, cells: Sequence[tuple[str, int]]) -> list[dict]:
    """The rows of one block and width; they are kept in `folder`, and read from there the next time."""
    kept = folder / f"{width}-{block.replace(' ', '-')}.json"
    asked = {**TRAINING, "steps": steps, "noise": NOISE, "heads": HEADS, "test_sets": TEST_SETS, "seeds": seeds}
    asked = json.loads(json.dumps({**asked, "cells": cells}))
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["asked"] == asked:
        return found["rows"]
    started, processor = time.perf_counter(), time.process_time()
    precisions = together(block, width, cells, range(seeds), steps)
    spent = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    rows = [
        {
            "task": task,
            "block": block,
            "width": width,
            "colours": colours,
            "seed": seed,
            "AP": precisions[i * seeds + seed],
            "chance": float(sets(task, TEST_SETS, colours, torch.Generator().manual_seed(10**6))[1].mean()),
            "numbers": numbers_carried(block, width),
            "crosstalk": crosstalk(width, colours) if block.startswith("TSSA") else None,
            **{name: round(value / len(precisions), 2) for name, value in spent.items()},  # a share of what all took
        }
        for i, (task, colours) in enumerate(cells)
        for seed in range(seeds)
    ]
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps({"asked": asked, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    partial.replace(kept)
    return rows


def assemble(folder: Path, steps: int, out: Path, command: str) -> Path:
    """Write `capacity.json` from the trainings that `folder` holds. `ValueError` when there is none."""
    kept = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]
    rows = [r for k in kept if k["asked"]["steps"] == steps for r in k["rows"]]
    rows.sort(key=lambda r: (r["task"], r["width"], r["colours"], BLOCKS.index(r["block"]), r["seed"]))
    result = {
        **record.manifest(command),
        "minutes": round(sum(r["seconds"] for r in rows) / 60, 1),
        "processor_minutes": round(sum(r["processor_seconds"] for r in rows) / 60, 1),
        "seeds": sorted({r["seed"] for r in rows}),
        "tokens": TOKENS,
        "heads": HEADS,
        "noise": NOISE,
        "training": {**TRAINING, "steps": steps},
        "rows": rows,
    }
    return record.write(out, result)


def main(words: list[str] | None = None) -> None:
    from tqdm.auto import tqdm

    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m experiments.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one cell, none and TSSA improved, few steps: a rehearsal")
    parser.add_argument("--assemble", action="store_true", help="train nothing, write the results from what is there")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (default: 3)")
    parser.add_argument("--widths", type=int, nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--folder", type=Path, help="where finished trainings are kept (default: data/runs/capacity)")
    parser.add_argument("--out", type=record.place, help="the JSON (default: data/results/capacity.json)")
    given = parser.parse_args(words)
    if given.seeds < 1:
        parser.error(f"expected --seeds >= 1, got {given.seeds}")
    folder = given.folder or data_dir() / "runs" / ("capacity-quick" if given.quick else "capacity")
    out = given.out or (folder / "out" / "capacity.json" if given.quick else record.RESULTS / "capacity.json")
    steps = 100 if given.quick else TRAINING["steps"]
    todo = [(block, width, given.seeds, CELLS[width]) for width in given.widths for block in BLOCKS]
    if given.quick:
        todo = [(block, 16, 1, CELLS[16][:1]) for block in ("none", "TSSA improved")]
    folder.mkdir(parents=True, exist_ok=True)
    for block, width, seeds, cells in tqdm([] if given.assemble else todo, desc="capacity", unit="training"):
        some(block, width, seeds, steps, folder, cells)
    assemble(folder, steps, out, shlex.join(["python", "-m", "experiments.capacity", *words]))
    print(f"wrote {out}" + (" (a rehearsal: too small to decide anything)" if given.quick else ""))


if __name__ == "__main__":
    main()
