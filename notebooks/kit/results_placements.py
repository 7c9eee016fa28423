"""Attention at P5, P4 and P3: which models are compared, and the committed measurement."""

from kit.places import result

SIZES = (640, 1280, 1920)  # sides of the picture, in pixels
PLACES = ("p5", "p4p5", "p3p4p5")
MODELS = [f"yolo11n-{block}-{places}.yaml" for places in PLACES for block in ("psa", "tssa")]


def load(name: str = "placements") -> dict:
    """A committed result by name: "placements" or "stock_vs_tssa"."""
    return result(name)
