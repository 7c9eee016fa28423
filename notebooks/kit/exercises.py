"""Exercises whose checks diagnose the mistake: the right answer, typical wrong ones, a hint.

An exercise is numbered by its lesson and a letter ("5c"), so that it is never taken for an equation. `exercise` judges
an answer; `mine` also hands back what the lesson goes on with: the reader's own function where it is right, the
library's where it isn't yet.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any

import torch

from kit.places import EXERCISES


@dataclass(frozen=True)
class Exercise:
    """One exercise: the right answer, typical wrong ones with their diagnosis, and a hint.

    `right` and the values of `wrong` are functions of the same arguments, or plain values when `inputs` is
    empty. `wrong` maps a diagnosis to the answer that it explains. `forbidden` maps a name that the answer may not
    use (a function, method or module) to the reason. `judge_by`, where given, replaces the comparison with `right`:
    it takes the answer and returns None, what is wrong with it, or ... for a stub; for answers that are many, such as
    a class.

    A message names the input that failed and what came; it never shows the right answer.
    """

    id: str
    hint: str
    right: Any
    wrong: dict[str, Any]
    inputs: list[tuple] = field(default_factory=list)  # argument tuples that tell the answers apart
    tol: float = 1e-6
    forbidden: dict[str, str] = field(default_factory=dict)
    judge_by: Callable[[Any], str | None] | None = None

    def judge(self, answer: Any) -> tuple[str, str]:
        """("open" | "right" | "wrong", message for the reader)."""
        if answer is None or answer is ...:
            return self._open()
        used = _names(answer) & self.forbidden.keys()
        if used:
            name = sorted(used)[0]
            return "wrong", f"✗ {self.id}: not with `{name}`: {self.forbidden[name]}"
        if self.judge_by is not None:
            return self._judged(answer, self.judge_by)
        got = []
        for given in self.inputs if self.inputs and callable(answer) else [()]:
            try:
                got.append(answer(*_fresh(given)) if given else answer)
            except Exception as e:  # a reader's code may raise anything: say so instead of breaking the lesson
                return "wrong", f"✗ {self.id}: {_at(given)}your answer raised {type(e).__name__}: {e}"
            if got[-1] is None or got[-1] is ...:
                return self._open()
        want = self._values(self.right)
        failed = [i for i, (g, w) in enumerate(zip(got, want)) if not _close(g, w, self.tol)]
        if len(got) == len(want) and not failed:
            return "right", f"✓ {self.id} is right."
        for diagnosis, other in self.wrong.items():
            if self._same(got, self._values(other)):
                return "wrong", f"✗ {self.id}: {diagnosis}"
        given = self.inputs[failed[0]] if self.inputs and failed else ()
        came = got[failed[0]] if failed else got[0]
        return "wrong", f"✗ {self.id}: {_at(given)}{_came(came, want[failed[0] if failed else 0])}. Hint: {self.hint}"

    def _open(self) -> tuple[str, str]:
        return "open", f"○ {self.id} is not solved yet; a try gets a diagnosis or a hint."  # which would spoil it here

    def _judged(self, answer: Any, judge_by: Callable[[Any], str | None]) -> tuple[str, str]:
        try:
            fault = judge_by(answer)
        except Exception as e:  # as above
            return "wrong", f"✗ {self.id}: your answer raised {type(e).__name__}: {e}"
        if fault is ...:
            return self._open()
        return ("wrong", f"✗ {self.id}: {fault}") if fault else ("right", f"✓ {self.id} is right.")

    def _values(self, answer: Any) -> list:
        return [answer(*_fresh(a)) for a in self.inputs] if self.inputs and callable(answer) else [answer]

    def _same(self, got: list, want: list) -> bool:
        return len(got) == len(want) and all(_close(g, w, self.tol) for g, w in zip(got, want))


def _fresh(given: tuple) -> tuple:
    """The arguments, tensors copied: an answer that writes into them spoils nothing."""
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in given)


def _names(answer: Any) -> set[str]:
    """Every name that a function, or a class's methods, looks up, inner functions included."""

    def inside(code: CodeType) -> set[str]:
        return set(code.co_names).union(*(inside(c) for c in code.co_consts if isinstance(c, CodeType)))

    members = vars(answer).values() if isinstance(answer, type) else [answer]
    return set().union(*(inside(m.__code__) for m in members if hasattr(m, "__code__")))


def _close(g: Any, w: Any, tol: float) -> bool:
    try:
        g, w = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (g, w))
        if g.shape != w.shape:
            return False
        near = (g - w).abs() <= tol * w.abs().clamp_min(1)
        return bool((near | (g.isnan() & w.isnan())).all())  # a typical wrong answer may be NaN
    except (TypeError, ValueError, RuntimeError):
        return g == w


def _at(given: tuple) -> str:
    return f"for {', '.join(map(_brief, given))}: " if given else ""


def _came(got: Any, want: Any) -> str:
    """What came, and of the right answer its shape alone."""
    if isinstance(want, torch.Tensor) and tuple(getattr(got, "shape", ())) != tuple(want.shape):
        return f"expected shape {tuple(want.shape)}, got {_brief(got)}"
    return f"{_brief(got)} is not it"


def _brief(v: Any) -> str:
    if isinstance(v, torch.Tensor):
        first = ", ".join(f"{number:.3g}" for number in v.flatten()[:6].tolist())
        return f"{v.item():.4g}" if v.ndim == 0 else f"a tensor {tuple(v.shape)} starting [{first}]"
    return repr(float(f"{v:.6g}") if isinstance(v, float) else v)


@cache
def exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of a lesson ("01", "02", …), from notebooks/exercises/lesson_NN.py."""
    path = EXERCISES / f"lesson_{lesson}.py"
    if not path.is_file():
        raise ValueError(f"expected exercises in notebooks/exercises/lesson_{lesson}.py, found no such file")
    spec = importlib.util.spec_from_file_location(f"lesson_{lesson}_exercises", path)
    assert spec is not None and spec.loader is not None  # a file that is there, and ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {e.id: e for e in module.EXERCISES}


def _find(id: str) -> Exercise:
    number = id.rstrip("abcdefghijklmnopqrstuvwxyz").split(".")[0]
    known = exercises(f"{int(number):02d}") if number.isdigit() else {}
    if id not in known:
        raise ValueError(f"expected one of the exercises {sorted(known)}, got {id!r}")
    return known[id]


def exercise(id: str, answer: Any) -> None:
    """Judge an answer to exercise `id` ("3b" is lesson 3's second): not solved yet, right, or what went wrong."""
    print(_find(id).judge(answer)[1])


def mine(id: str, answer: Callable, library: Callable) -> Callable:
    """Judge what the reader built, and return what the lesson goes on with.

    Right: the reader's own function. Not solved yet, or wrong: the library's, and a line that says so. Later cells
    call what comes back, so that a reader who solves the exercise sees their own code run.
    """
    verdict, message = _find(id).judge(answer)
    print(message)
    if verdict == "right":
        print(f"  From here on the lesson runs on your {answer.__name__}.")
        return answer
    print(f"  Until it is right, the lesson goes on with the library's {library.__name__}.")
    return library
