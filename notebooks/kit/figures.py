"""Figures of a lesson: a picture with alt text and the line of its digest."""

import io
from typing import Any


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
