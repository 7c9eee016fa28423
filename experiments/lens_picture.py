"""The README's picture of the lens: `python -m experiments.lens_picture` writes data/lens.png.

It is a screenshot of the page that `python -m tssa_lib lens` writes, of the ready detector.
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from tssa_lib.lens import Lens, example
from tssa_lib.paths import data_dir

SIZE = {"width": 1100, "height": 950}  # at a README's width of some 830 pixels its smallest text is 7.5 pixels high


def main() -> None:
    from playwright.sync_api import sync_playwright

    picture, other = example()
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        page_file = Lens("blood_cells", picture, other).save(Path(folder) / "lens.html")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.25, color_scheme="light")
        page.goto(page_file.as_uri())
        shot = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    shot.convert("RGB").save(data_dir() / "lens.png", optimize=True)
    print(f"wrote {data_dir() / 'lens.png'}")


if __name__ == "__main__":
    main()
