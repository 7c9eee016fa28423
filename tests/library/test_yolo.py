"""C2TSSA inside YOLO11: built at every scale, registered without side effects, weights carried over."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tssa_lib import observe, tssa, yolo
from tssa_lib.yolo import C2TSSA, TSSAttention

from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA
from ultralytics.nn.modules.block import Attention

