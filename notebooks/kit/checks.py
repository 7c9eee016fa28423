"""What makes a lesson honest: executed checks of its equations.

Used by every lesson; knows nothing of the library. A failed check raises, so a lesson that states something
false does not run.
"""

from collections.abc import Callable
from typing import Any

import torch

# The tolerances, justified once. All lessons compute in float64 (unit round-off 1.1e-16).
EXACT = 1e-10  # the same number by two routes: round-off of a few hundred operations
DIFFERENCES = 1e-6  # against central differences: step 1e-5 leaves 1e-10, cancellation about 1e-9
REACHED = 1e-4  # what an iteration should have reached
LIMIT = 1e-3  # a statement about a limit, looked at near the limit
NUDGE = 0.01  # every check must notice its right-hand side wrong by this fraction


class CheckFailed(AssertionError):
    """An equation of a lesson did not hold, or its check could not have failed."""


# ---- the equation ledger ----------------------------------------------------------------------------
def check(label: str, lhs: Any, rhs: Any, what: str, tol: float = EXACT) -> None:
    """Check the equation `label`: lhs = rhs, element by element, up to tol · max(1, largest |rhs|).

    Prints one line with the label, what was compared, the largest error and the tolerance. Raises
    CheckFailed when the sides differ, are not finite or empty, are one and the same tensor, or when a right-hand
    side that is wrong by the factor 1 + NUDGE would go unnoticed.

    >>> check("0.1", 0.1 + 0.2, 0.3, "two sums")
    ✓ (0.1) two sums · largest error 6e-17 ≤ 1e-10
    """
    left, right = _pair(label, lhs, rhs)
    scale = max(1.0, right.abs().max().item())
    error = (left - right).abs().max().item() / scale
    if error > tol:
        raise CheckFailed(
            f"({label}) {what}: the sides differ by {error:.2e}, allowed {tol:.0e}\n"
            f"left  {short(left)}\nright {short(right)}"
        )
    if (left - _wrong(right)).abs().max().item() / scale <= tol:
        raise CheckFailed(f"({label}) {what}: this check cannot fail, tolerance {tol:.0e} hides a change of {NUDGE}")
    print(f"✓ ({label}) {what} · largest error {error:.0e} ≤ {tol:.0e}")


def check_below(
    label: str, lhs: Any, rhs: Any, what: str, *, equal: tuple[Any, ...], draws: Any = None, tol: float = EXACT
) -> None:
    """Check the inequality `label`: lhs <= rhs in every draw, and equality at the case `equal`.

    Best given as two functions of a case: `draws` are then cases (tuples of arguments), `equal` is the case where the
    bound is tight, and one formula serves both. Or as values: lhs and rhs of the draws, and equal = (lhs, rhs).
    The equality case is what lets the check fail: a right-hand side made smaller by NUDGE must break it.

    >>> check_below("0.2", lambda x: 2 * x, lambda x: 1 + x**2, "2x ≤ 1 + x²", draws=[(0.5,), (2.0,)], equal=(1.0,))
    ✓ (0.2) 2x ≤ 1 + x² · 2 draws, tightest gap 0.25, largest error 0e+00 ≤ 1e-10 at equality
    """
    if callable(lhs):
        cases = [case if isinstance(case, tuple) else (case,) for case in draws]
        at, bound = _pair(label, lhs(*equal), rhs(*equal))
        lhs, rhs = (torch.stack([torch.as_tensor(side(*c)).detach().double() for c in cases]) for side in (lhs, rhs))
    else:
        at, bound = _pair(label, *equal)
    left, right = _pair(label, lhs, rhs)
    scale = max(1.0, right.abs().max().item())
    worst = (left - right).max().item() / scale
    if worst > tol:
        raise CheckFailed(f"({label}) {what}: violated by {worst:.2e}, allowed {tol:.0e}")
    error = (at - bound).abs().max().item() / max(1.0, bound.abs().max().item())
    if error > tol:
        raise CheckFailed(
            f"({label}) {what}: the equality case is off by {error:.2e}, allowed {tol:.0e}: "
            f"{short(at)} against {short(bound)}"
        )
    smaller = bound - (_wrong(bound) - bound).abs()
    if (at - smaller).max().item() <= tol * max(1.0, bound.abs().max().item()):
        raise CheckFailed(f"({label}) {what}: this check cannot fail, tolerance {tol:.0e} hides a change of {NUDGE}")
    print(
        f"✓ ({label}) {what} · {left.numel()} draws, tightest gap {(right - left).min().item():.2g}, "
        f"largest error {error:.0e} ≤ {tol:.0e} at equality"
    )


def _wrong(right: torch.Tensor) -> torch.Tensor:
    """A right-hand side that is wrong by a factor; where it is zero throughout, by a summand."""
    return right * (1 + NUDGE) if right.any() else right + NUDGE


def agree(mine: Callable, library: Callable, *inputs: Any, tol: float = EXACT, **options: Any) -> None:
    """Show that what the lesson built and what the library holds (called with `options`) agree on `inputs`."""
    left, right = _pair(library.__name__, mine(*inputs), library(*inputs, **options))
    error = (left - right).abs().max().item() / max(1.0, right.abs().max().item())
    if error > tol:
        raise CheckFailed(
            f"this lesson's {mine.__name__} and {library.__module__}.{library.__name__} differ by {error:.2e}"
        )
    print(f"✓ {mine.__name__} is {library.__module__}.{library.__name__} · largest error {error:.0e} ≤ {tol:.0e}")


def _pair(label: str, lhs: Any, rhs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if lhs is rhs and isinstance(lhs, torch.Tensor):
        raise CheckFailed(f"({label}) compares an object with itself")
    left, right = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (lhs, rhs))
    if left.shape != right.shape and right.ndim:
        raise CheckFailed(f"({label}) expected sides of one shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    if not left.numel() or not (torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise CheckFailed(f"({label}) expected finite, non-empty sides, got {short(left)} and {short(right)}")
    return left, right.expand_as(left)


def short(t: torch.Tensor) -> str:
    """The first six numbers of a tensor, for a message."""
    return str(t.flatten()[:6].tolist())
