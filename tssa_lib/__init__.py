"""Token Statistics Self-Attention, from the derivation to object detection.

The companion library of the lessons in `notebooks/`; every file names the lesson that derives it.
"""

__version__ = "0.1.0"
