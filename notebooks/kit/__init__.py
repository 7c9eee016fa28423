"""The lessons' kit: checks of equations, exercises, figures, and what builds and measures the lessons.

    from kit import check, check_below, agree, exercise, show
    from kit import attention, cost, photos, plots, tost    # what lessons compute and draw with

A lesson's kernel starts in notebooks/, so that `kit` is found beside it. It is not part of the installed package.
"""

from kit.checks import DIFFERENCES, EXACT, LIMIT, NUDGE, REACHED, CheckFailed, agree, check, check_below
from kit.exercises import Exercise, exercise, exercises, mine
from kit.figures import show

__all__ = [
    "DIFFERENCES",
    "EXACT",
    "LIMIT",
    "NUDGE",
    "REACHED",
    "CheckFailed",
    "Exercise",
    "agree",
    "check",
    "check_below",
    "exercise",
    "exercises",
    "mine",
    "show",
]
