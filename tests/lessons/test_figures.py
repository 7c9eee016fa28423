"""What the lessons' figures draw, and how a lesson shows one: once, with alternative text, its line beneath it."""

import re

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from kit import plots, show

PICTURE = np.zeros((30, 50, 3))
ALPHA = np.zeros((3, 5))
ALPHA[0, 4] = 0.75


@pytest.fixture(scope="module", autouse=True)
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def figure():
    return plots.lines([0, 1], {"gate": [1, 0.5]}, title="D", xlabel="s", ylabel="D(s)")


@pytest.mark.parametrize("digest, line", [(None, "D: 1 line, 0.5 to 1"), ("it falls < 1", "it falls &lt; 1")])
def test_one_output_with_alt_text_and_the_line_beneath(digest, line):
    with capture_output() as shown:
        print("before")
        show(figure(), 'A curve that "falls"', digest)
    (output,) = shown.outputs
    page = output.data["text/html"]
    assert re.match(r'<img alt="A curve that &quot;falls&quot;" src="data:image/png;base64,[^"]+"><div', page)
    assert page.endswith(f"In the figure: {line}</div>") and not {"image/png"} & set(output.data)
    assert shown.stdout == "before\n" and output.data["text/plain"].startswith("In the figure: ")


def test_pictures_share_one_scale():
    a, b = np.full((2, 3), 0.2), np.full((2, 3), 0.8)
    fig = plots.pictures([PICTURE, a, b], ["p", "a", "b"], unit="u")
    assert [ax.images[0].get_clim() for ax in fig.axes[1:3]] == [(0.2, 0.8)] * 2


def test_the_digest_says_what_is_drawn():
    left, right = plots.row(2)
    plots.points(np.array([[0, 1.0], [2, -3.0]]), title="tokens", ax=left)
    fig = plots.bars(["a", "b"], {"u": [1, 2], "v": [3, 4.26]}, title="", xlabel="which", ylabel="how many", ax=right)
    assert plots.digest(fig) == "tokens: 2 points, -3 to 1; which: 4 bars, 1 to 4.3"
    assert plots.digest(plots.pictures([PICTURE, ALPHA], ["photo", "map"])) == (
        "photo: picture 30 × 50; map: map 3 × 5, 0 to 0.75"
    )
    assert plots.digest(plots.heat(ALPHA.T, title="m")) == "m: map 5 × 3, 0 to 0.75"
