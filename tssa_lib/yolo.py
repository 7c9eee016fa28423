"""TSSA inside Ultralytics YOLO11: what a user needs of both in one place, and the names of our models.

Lesson 10 opens the slot where YOLO11 has softmax attention (`C2PSA`, at stride 32); `blocks.C2TSSA` is the same block
with Token Statistics Self-Attention in it. Importing this module registers it, so that `YOLO("yolo11n-tssa.yaml")` and
every verb after it work (`registry.py`), and makes Ultralytics quiet (`quiet.py`). Ultralytics is AGPL-3.0, hence so is
this project.

By name there are, for each scale n, s, m, l, x:
    yolo11n-tssa.yaml                     TSSA at P5 (stride 32), as published
    yolo11n-tssa-p3p4p5.yaml              at P4 (16) and P3 (8) as well
    yolo11n-tssa-improved-p3p4p5.yaml     with the switches of `IMPROVED`; `yolo11n-tssa-improved.yaml` at P5
    yolo11n-psa-p3p4p5.yaml, yolo11n-plain.yaml    the same with stock softmax attention, and with none
    yolo11n-tssa-seg.yaml, -pose.yaml, -obb.yaml   for masks, key points and oriented boxes, after any of these names
    yolo26n-tssa.yaml                     the same in YOLO26, whose neck keeps a softmax attention of its own
"""

# ruff: noqa: F401  (names for others)
from tssa_lib import quiet

# isort: split
from tssa_lib.blocks import C2TSSA, C2Plain, TSSAttention, Values
from tssa_lib.registry import AFTER, BLOCKS, BODIES, IMPROVED, NAMES, SCALES, register, with_attention
from tssa_lib.weights import Carried
from tssa_lib.weights import carry_over as load

from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA
from ultralytics.utils import LOGGER, YAML
from ultralytics.utils.callbacks.base import default_callbacks
