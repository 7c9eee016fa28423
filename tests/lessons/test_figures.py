"""How a lesson shows a figure: once, with alternative text that arrives, its line beneath it."""

import re

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from kit import show
from tssa_lib import plots


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
