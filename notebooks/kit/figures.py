"""Figures of a lesson: a picture with alternative text, and under it the line that says what was drawn."""

import html
from typing import Any

from IPython.display import display

from tssa_lib import plots


def show(fig: Any, alt: str, digest: str | None = None) -> None:
    """Show a figure with alternative text where browsers look for it, and under it what it shows.

    The line under the figure is `digest`, or is read from the artists drawn; `nbval` compares it. It is part of the
    same output: printed, it would move above the figure together with what the cell printed before.
    """
    line = f"In the figure: {digest or plots.digest(fig)}"
    picture = f'{plots.img(fig, alt)}<div style="font-size:90%">{html.escape(line)}</div>'
    display({"text/html": picture, "text/plain": line}, raw=True)
