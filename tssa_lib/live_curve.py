"""Losses and mAP of a training, drawn while it runs: one notebook output, redrawn."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field


@dataclass
class History:
    """What a `watch` function sees while a training runs."""

    epochs: int  # that will be done
    batches: list[tuple[float, float]] = field(default_factory=list)  # (epochs done, summed loss of the batch)
    rows: list[dict[str, float]] = field(default_factory=list)  # one an epoch: epoch and the metrics


class LiveCurve:
    """Losses and mAP of a training, redrawn in one notebook output while it runs: a `watch` for `train`.

    The last picture stays in the stored notebook. title: of the figure; goal: a mAP50 to mark;
    every: seconds between two drawings.
    """

    def __init__(self, title: str, goal: float | None = None, every: float = 5.0):
        self.title, self.goal, self.every = title, goal, every
        self._handle, self._drawn = None, 0.0

    def __call__(self, history: History) -> None:
        from IPython.display import Image, display

        finished = len(history.rows) >= history.epochs
        if not history.batches or (not finished and time.monotonic() - self._drawn < self.every):
            return
        picture = Image(self._draw(history), format="png", alt=self.describe(history))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()

    def _draw(self, history: History) -> bytes:
        from tssa_lib import plots

        left, right = plots.row(2)
        at, loss = zip(*history.batches)
        smooth = running_mean(loss, max(len(loss) // 40, 1))  # else the batches' noise hides the course
        plots.lines(at, {"loss": smooth}, title=self.title, xlabel="epochs", ylabel="training loss", ax=left)
        epochs = [row["epoch"] for row in history.rows]
        curves = {name: [row[name] for row in history.rows] for name in ("mAP50", "mAP50-95")}
        goal = {} if self.goal is None else {f"goal {self.goal:g}": self.goal}
        title = "on the validation pictures"
        figure = plots.lines(
            epochs, curves, title=title, xlabel="epochs", ylabel="mAP", hlines=goal, markers=True, ax=right
        )
        left.set_xlim(0, history.epochs)
        right.set(xlim=(0, history.epochs), ylim=(0, 1))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
        return buffer.getvalue()

    def describe(self, history: History) -> str:
        """The alt text: where the loss and the mAP50 went."""
        first, last = history.batches[0][1], history.batches[-1][1]
        scores = ", ".join(f"{row['mAP50']:.2f}" for row in history.rows) or "not measured yet"
        return f"{self.title}: training loss from {first:.1f} to {last:.1f}; mAP50 by epoch {scores}"


def running_mean(values: tuple[float, ...] | list[float], width: int) -> list[float]:
    """Means of each value with up to `width` before it.

    >>> running_mean([1.0, 3.0, 8.0], 1)
    [1.0, 2.0, 5.5]
    """
    windows = [values[max(i - width, 0) : i + 1] for i in range(len(values))]
    return [sum(w) / len(w) for w in windows]
