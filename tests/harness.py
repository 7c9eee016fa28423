"""What tests of several kinds share: another process, a page in a browser with its troubles, the prose of a lesson."""

import os
import subprocess
import sys
from pathlib import Path

LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:")


def fresh_process(
    *arguments: str, cwd: Path, without: tuple[str, ...] = ("PYTEST",), timeout: float = 280, **environment: str
) -> subprocess.CompletedProcess:
    """Run Python with these arguments elsewhere, on one thread; `without`: how the variables begin that it doesn't see.

    Its output is text. The caller judges the return code.
    """
    keep = {k: v for k, v in os.environ.items() if not k.startswith(without)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**keep, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def trouble_of(page) -> list[str]:
    """A list that fills with the page's errors, what its console calls errors, and requests that leave the machine."""
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("console", lambda message: trouble.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith(LOCAL) else None)
    return trouble


def prose_of(lesson: Path) -> str:
    """The markdown of a stored lesson, its words one space apart, so that a sentence is found across lines."""
    import nbformat

    cells = nbformat.read(lesson, as_version=4).cells
    return " ".join(" ".join(c.source for c in cells if c.cell_type == "markdown").split())
