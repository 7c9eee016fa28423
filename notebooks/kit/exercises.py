"""Exercises whose checks diagnose the mistake: the right answer, typical wrong ones, a hint."""

import importlib.util
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from kit.checks import short
from kit.places import EXERCISES


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
    return (
        f"values starting {short(torch.as_tensor(v))} of shape {tuple(v.shape)}"
        if isinstance(v, torch.Tensor)
        else repr(v)
    )


@cache
def exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of a lesson ("01", "02", …), from notebooks/exercises/lesson_NN.py."""
    path = EXERCISES / f"lesson_{lesson}.py"
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
