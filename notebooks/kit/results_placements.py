"""Attention at P5, P4 and P3: which models are compared, and the committed measurement."""

from kit.places import result

SIZES = (640, 1280, 1920)  # sides of the picture, in pixels
PLACES = ("p5", "p4p5", "p3p4p5")
BLOCKS = {  # of a model's name, and what a figure calls them
    "plain": "no attention",
    "psa": "softmax, written out",
    "sdpa": "softmax (SDPA)",
    "tssa": "TSSA",
}
ARMS = [f"yolo11n-{block}-{places}.yaml" for places in PLACES for block in BLOCKS]  # what is measured
MODELS = [name for name in ARMS if "-sdpa-" not in name]  # what `YOLO` builds by name; SDPA is not a plan of its own


def find(rows: list[dict], block: str, places: str, size: int) -> dict:
    """The row of one block of `BLOCKS` at these places and this size."""
    return next(r for r in rows if (r["model"], r["size"]) == (f"yolo11n-{block}-{places}.yaml", size))


def load(name: str = "placements") -> dict:
    """A committed result by name: "placements" or "stock_vs_tssa"."""
    return result(name)
