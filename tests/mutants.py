"""Thirty-two small lies, told to the library one at a time: do the tests notice? Not a part of the test run.

    python tests/mutants.py             every mutant: some ten minutes on two idle cores
    python tests/mutants.py 3 17        these alone

Each mutant is a file, a piece of text that stands in it once, what replaces it, and the tests that ought to fail. It is
made in a copy of the checkout; the checkout stays as it is. "lived" is a hole in the tests, or an equivalent mutant.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
L, K = "tests/library/", "tests/lessons/"
TSSA = f"{L}test_tssa.py"
MUTANTS = [
    # the mathematics
    ("tssa_lib/core.py", "total(w2 * scale, -1).softmax(-2)", "total(w2 * scale, -1).softmax(-1)", TSSA),
    ("tssa_lib/core.py", "return total / (n_k + mass)", "return total / (n_k + 0)", TSSA),
    ("tssa_lib/core.py", "return c / (1 + c * s)", "return 1 / (1 + c * s)", TSSA),
    ("tssa_lib/core.py", "torch.special.entr(Pi).sum(-2).mean(-1)", "torch.special.entr(Pi).sum(-2).amax(-1)", TSSA),
    ("tssa_lib/core.py", "Pi = Pi.detach() if detach_memberships else Pi", "Pi = Pi", TSSA),
    ("tssa_lib/core.py", "return 2 / torch.linalg", "return 1 / torch.linalg", TSSA),
    ("tssa_lib/fast.py", "return (temp / shape[2] if", "return (temp / shape[1] if", f"{L}test_fast.py"),
    ("tssa_lib/forms.py", "type(m) is kind and not hooks", "type(m) is kind", f"{L}test_fast.py"),
    ("tssa_lib/fused.py", "return tl.where(j < N, e /", "return tl.where(j < N + 1, e /", f"{L}test_fused.py"),
    ("tssa_lib/fused.py", "dPi - tl.sum(Pi * dPi, 1)", "dPi - tl.sum(dPi, 1)", f"{L}test_fused.py"),
    ("tssa_lib/rates.py", "return 8 * N * eps2 / (9 * d)", "return 8 * N * eps2 / (8 * d)", f"{L}test_rates.py"),
    ("tssa_lib/rates.py", "torch.log1p(c * s) - D * s", "torch.log1p(c * s)", f"{L}test_variational.py"),
    ("tssa_lib/rates.py", "- math.log1p(K / eps2) / K)", "- math.log1p(K / eps2))", f"{L}test_rates.py"),
    # the detector
    ("tssa_lib/registry.py", "f + (f >= at)", "f + (f > at)", f"{L}test_verbs.py"),
    ("tssa_lib/silence.py", "found.gates.roll(1, 0)", "found.gates.roll(0, 0)", f"{L}test_silence.py"),
    (
        "tssa_lib/silence.py",
        "gates=torch.zeros_like(found.gates)",
        "gates=torch.ones_like(found.gates)",
        f"{L}test_silence.py",
    ),
    (
        "tssa_lib/silence.py",
        "found.gates.mean((0, 2), keepdim=True)",
        "found.gates.mean(0, keepdim=True)",
        f"{L}test_silence.py",
    ),
    # looking
    (
        "tssa_lib/observe.py",
        "return -self.Pi[..., None]",
        "return self.Pi[..., None]",
        f"{L}test_observe.py {L}test_views.py",
    ),
    (
        "tssa_lib/observe.py",
        "(x.shape[-2], x.shape[-1]) if x.ndim == 4",
        "(x.shape[-1], x.shape[-2]) if x.ndim == 4",
        f"{L}test_observe.py",
    ),
    ("tssa_lib/observe.py", "result.orig_img[..., ::-1]", "result.orig_img", f"{L}test_observe.py"),
    (
        "tssa_lib/observe.py",
        "boxes[:, :4] * gain + [x0, y0, x0, y0]",
        "boxes[:, :4] * gain + [y0, x0, y0, x0]",
        f"{L}test_observe.py",
    ),
    (
        "tssa_lib/views.py",
        "((Pi - 1 / K) / (1 - 1 / K)).clip(0)",
        "((Pi - 1 / K) / (1 + 1 / K)).clip(0)",
        f"{L}test_views.py",
    ),
    ("tssa_lib/views.py", "o.update[0].norm(dim=-1)", "o.w[0].norm(dim=-1)", f"{L}test_views.py"),
    (
        "tssa_lib/plots.py",
        "ax.imshow(layer, extent=_frame(picture), interpolation=",
        "ax.imshow(layer[::-1], extent=_frame(picture), interpolation=",
        f"{L}test_plots.py",
    ),
    # data and training
    ("tssa_lib/convert.py", 'not path.name.startswith(".")', "True", f"{L}test_dataset.py"),
    (
        "tssa_lib/dataset.py",
        '"load_dataset_cache_file", none)',
        '"load_dataset_cache_file", ultralytics_dataset.load_dataset_cache_file)',
        f"{L}test_dataset.py",
    ),
    (
        "tssa_lib/train.py",
        "_flushed(partial).replace(place)",
        "place.write_bytes(partial.read_bytes())",
        f"{L}test_stopped.py",
    ),
    ("tssa_lib/train.py", 'if row["epoch"] <= done]', 'if row["epoch"] < done]', f"{L}test_stopped.py"),
    ("tssa_lib/train.py", "save_dir=str(folder))", "save_dir=None)", f"{L}test_stopped.py"),
    (
        "tssa_lib/train.py",
        "name[1]: float(totals[key])",
        'name[1]: float(totals[key.replace("precision", "recall")])',
        f"{L}test_train.py",
    ),
    # the kit
    (
        "notebooks/kit/checks.py",
        "error = (left - right).abs().max().item() / scale",
        "error = (left - right).abs().mean().item() / scale",
        f"{K}test_lessons.py",
    ),
    (
        "notebooks/kit/checks.py",
        "worst = (left - right).max().item() / scale",
        "worst = (left - right).mean().item() / scale",
        f"{K}test_lessons.py",
    ),
]


def judge(number: int, place: Path) -> tuple[str, float]:
    """("killed by TEST" | "lived" | …, seconds) of one mutant, made in the copy at `place` and undone there."""
    file, old, new, tests = MUTANTS[number]
    path = place / file
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        return "no such text", 0.0
    path.write_text(text.replace(old, new), encoding="utf-8")
    start = time.perf_counter()
    try:
        killer = failing(tests.split(), place)
        others = sorted(users(path, place) - set(tests.split()))
        if not killer and others:  # not by the tests that ought to: by any that uses the file?
            killer = failing(others, place)
    finally:
        path.write_text(text, encoding="utf-8")
    if killer and failing([killer], place):
        return f"told nothing by {killer}, which fails without it", time.perf_counter() - start
    return f"killed by {killer}" if killer else "lived", time.perf_counter() - start


def users(path: Path, place: Path) -> set[str]:
    """The test files that name this file's module."""
    folder = place / (K if "kit" in path.parts else L)
    named = [test for test in folder.glob("test_*.py") if re.search(rf"\b{path.stem}\b", test.read_text("utf-8"))]
    return {test.relative_to(place).as_posix() for test in named}


def failing(tests: list[str], place: Path) -> str:
    """The first of these tests that fails in the copy, "" when all pass; an error when none was found to run."""
    command = [sys.executable, "-m", "pytest", *tests, "-x", "-q", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(place / "notebooks")])}
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=1800)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"expected {' '.join(tests)} to run, got {done.returncode}:\n{done.stdout[-2000:]}")
    named = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    return named[0] if done.returncode else ""


def main() -> None:
    chosen = [int(word) for word in sys.argv[1:]] or range(len(MUTANTS))
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "copy"
        leave = shutil.ignore_patterns(".venv", ".git", ".cache", "runs", "scenes", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, place, ignore=leave)
        for number in chosen:
            verdict, seconds = judge(number, place)
            kind = verdict.split(" by ")[0]
            counts[kind] = counts.get(kind, 0) + 1
            print(f"{number:2}  {MUTANTS[number][0]}: {MUTANTS[number][1]}  {verdict}  ({seconds:.0f} s)", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))


if __name__ == "__main__":
    main()
