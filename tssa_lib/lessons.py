"""What makes a lesson honest: executed checks of its equations, figures with a digest, exercises that diagnose.

Used by every lesson; knows nothing of the rest of the library. A failed check raises, so a lesson that
states something false does not run.
"""

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

# The tolerances, justified once. All lessons compute in float64 (unit round-off 1.1e-16).
EXACT = 1e-10         # the same number by two routes: round-off of a few hundred operations
DIFFERENCES = 1e-6    # against central differences: step 1e-5 leaves 1e-10, cancellation about 1e-9
REACHED = 1e-4        # what an iteration should have reached
LIMIT = 1e-2          # a statement about a limit, looked at near the limit
NUDGE = 0.02          # every check must notice its right-hand side move by this fraction
REPO = Path(__file__).resolve().parents[1]


class CheckFailed(AssertionError):
    """An equation of a lesson did not hold, or its check could not have failed."""


# ---- the equation ledger ----------------------------------------------------------------------------
def check(label: str, lhs: Any, rhs: Any, what: str, tol: float = EXACT) -> None:
    """Check the equation `label`: lhs = rhs, element by element, up to tol · max(1, largest |rhs|).

    Prints one line with the label, what was compared, the largest error and the tolerance. Raises
    CheckFailed when the sides differ, are not finite or empty, are one and the same tensor, or when
    moving the right-hand side by NUDGE would go unnoticed.

    >>> check("0.1", 0.1 + 0.2, 0.3, "two sums")
    ✓ (0.1) two sums · largest error 6e-17 ≤ 1e-10
    """
    left, right = _pair(label, lhs, rhs)
    scale = max(1.0, right.abs().max().item())
    error = (left - right).abs().max().item() / scale
    if error > tol:
        raise CheckFailed(f"({label}) {what}: the sides differ by {error:.2e}, allowed {tol:.0e}\n"
                          f"left  {_short(left)}\nright {_short(right)}")
    nudged = right + NUDGE * scale
    if (left - nudged).abs().max().item() / scale <= tol:
        raise CheckFailed(f"({label}) {what}: this check cannot fail, tolerance {tol:.0e} hides a change of {NUDGE}")
    print(f"✓ ({label}) {what} · largest error {error:.0e} ≤ {tol:.0e}")


def check_below(label: str, lhs: Any, rhs: Any, what: str, *, equal: tuple[Any, Any], tol: float = EXACT) -> None:
    """Check the inequality `label`: lhs <= rhs in every draw, and equality at the case `equal = (lhs, rhs)`.

    The equality case is what lets the check fail: a right-hand side made smaller by NUDGE must break it.

    >>> check_below("0.2", [1.0, 2.0], [2.0, 5.0], "2x ≤ 1 + x²", equal=(2.0, 2.0))
    ✓ (0.2) 2x ≤ 1 + x² · 2 draws, tightest gap 1, largest error 0e+00 ≤ 1e-10 at equality
    """
    left, right = _pair(label, lhs, rhs)
    at, bound = _pair(label, *equal)
    scale = max(1.0, right.abs().max().item())
    worst = (left - right).max().item() / scale
    if worst > tol:
        raise CheckFailed(f"({label}) {what}: violated by {worst:.2e}, allowed {tol:.0e}")
    error = (at - bound).abs().max().item() / max(1.0, bound.abs().max().item())
    if error > tol:
        raise CheckFailed(f"({label}) {what}: the equality case is off by {error:.2e}, allowed {tol:.0e}: "
                          f"{_short(at)} against {_short(bound)}")
    if (at - (bound - NUDGE * bound.abs().clamp_min(1))).max().item() <= tol * max(1.0, bound.abs().max().item()):
        raise CheckFailed(f"({label}) {what}: this check cannot fail, tolerance {tol:.0e} hides a change of {NUDGE}")
    print(f"✓ ({label}) {what} · {left.numel()} draws, tightest gap {(right - left).min().item():.2g}, "
          f"largest error {error:.0e} ≤ {tol:.0e} at equality")


def agree(mine: Callable, library: Callable, *inputs: Any, tol: float = EXACT, **options: Any) -> None:
    """Show that what the lesson built and what the library holds (called with `options`) agree on `inputs`."""
    left, right = _pair(library.__name__, mine(*inputs), library(*inputs, **options))
    error = (left - right).abs().max().item() / max(1.0, right.abs().max().item())
    if error > tol:
        raise CheckFailed(f"this lesson's {mine.__name__} and {library.__module__}.{library.__name__} differ by {error:.2e}")
    print(f"✓ {mine.__name__} is {library.__module__}.{library.__name__} · largest error {error:.0e} ≤ {tol:.0e}")


def _pair(label: str, lhs: Any, rhs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if lhs is rhs and isinstance(lhs, torch.Tensor):
        raise CheckFailed(f"({label}) compares an object with itself")
    left, right = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (lhs, rhs))
    if left.shape != right.shape and right.ndim:
        raise CheckFailed(f"({label}) expected sides of one shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    if not left.numel() or not (torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise CheckFailed(f"({label}) expected finite, non-empty sides, got {_short(left)} and {_short(right)}")
    return left, right.expand_as(left)


def _short(t: torch.Tensor) -> str:
    return str(t.flatten()[:6].tolist())


# ---- figures ----------------------------------------------------------------------------------------
def show(fig: Any, alt: str, digest: str) -> None:
    """Show a matplotlib figure as a picture with alt text, and print its digest: the line a test compares.

    The digest is computed from what is drawn, rounded so that it is the same on every machine.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Image, display

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    display(Image(data=buffer.getvalue(), format="png", alt=alt))
    print(f"In the figure: {digest}")


# ---- exercises --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Exercise:
    """One exercise: the right answer, typical wrong ones with their diagnosis, and a hint.

    `right` and the values of `wrong` are functions of the same arguments, or plain values when `inputs` is
    empty. `wrong` maps a diagnosis to the answer that it explains.
    """

    id: str
    hint: str
    right: Any
    wrong: dict[str, Any]
    inputs: list[tuple] = field(default_factory=list)  # argument tuples that tell the answers apart
    tol: float = 1e-6

    def judge(self, answer: Any) -> tuple[str, str]:
        """("open" | "right" | "wrong", message for the reader)."""
        try:
            got = self._values(answer)
        except Exception as e:  # a reader's code may raise anything: say so instead of breaking the lesson
            return "wrong", f"✗ {self.id}: your answer raised {type(e).__name__}: {e}"
        if any(g is None or g is ... for g in got):
            return "open", f"○ {self.id} is not solved yet. Hint: {self.hint}"
        want = self._values(self.right)
        if self._same(got, want):
            return "right", f"✓ {self.id} is right."
        for diagnosis, other in self.wrong.items():
            if self._same(got, self._values(other)):
                return "wrong", f"✗ {self.id}: {diagnosis}"
        return "wrong", f"✗ {self.id}: expected {_brief(want[0])}, got {_brief(got[0])}. Hint: {self.hint}"

    def _values(self, answer: Any) -> list:
        return [answer(*a) for a in self.inputs] if self.inputs and callable(answer) else [answer]

    def _same(self, got: list, want: list) -> bool:
        return len(got) == len(want) and all(_close(g, w, self.tol) for g, w in zip(got, want))


def _close(g: Any, w: Any, tol: float) -> bool:
    try:
        g, w = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (g, w))
        if g.shape != w.shape:
            return False
        near = (g - w).abs() <= tol * w.abs().clamp_min(1)
        return bool((near | (g.isnan() & w.isnan())).all())  # a typical wrong answer may be NaN
    except (TypeError, ValueError, RuntimeError):
        return g == w


def _brief(v: Any) -> str:
    return f"values starting {_short(torch.as_tensor(v))} of shape {tuple(v.shape)}" if isinstance(v, torch.Tensor) else repr(v)


@cache
def exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of a lesson ("01", "02", …), from notebooks/exercises/lesson_NN.py."""
    path = REPO / "notebooks" / "exercises" / f"lesson_{lesson}.py"
    if not path.is_file():
        raise ValueError(f"expected exercises in notebooks/exercises/lesson_{lesson}.py, found no such file")
    spec = importlib.util.spec_from_file_location(f"lesson_{lesson}_exercises", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {e.id: e for e in module.EXERCISES}


def exercise(id: str, answer: Any) -> None:
    """Judge an answer to exercise `id` ("3.2" is lesson 3's second): not solved yet, right, or what went wrong."""
    known = exercises(f"{int(id.split('.')[0]):02d}")
    if id not in known:
        raise ValueError(f"expected one of the exercises {sorted(known)}, got {id!r}")
    print(known[id].judge(answer)[1])
