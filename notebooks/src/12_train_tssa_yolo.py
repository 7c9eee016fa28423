# %% [markdown]
# # Lesson 12 · Train YOLO with TSSA
#
# [◀ previous](11_does_a_detector_need_it.ipynb) · [contents](00_start_here.ipynb)
#
# What does it take to get from a folder of pictures to a detector with Token Statistics Self-Attention in it? Some two
# hundred pictures, five minutes of a laptop's processor, and a few commands. The pictures are blood under a microscope: red
# cells that crowd and overlap, a white cell or two, and small platelets, which a laboratory wants counted. We train,
# measure, look inside, switch off, export, and then do it with pictures of your own.
#
# **After this you can**
#
# - train a TSSA-YOLO in minutes, and read its losses and its mAP
# - compute that mAP yourself, from boxes
# - look at Π and D of a detector that you trained, and test whether it needs them
# - export it, and get the same boxes without PyTorch
# - go from a labelling tool's export to a trained detector
# - write the layer yourself, and have YOLO11 learn with it
#
# **Before this:** [lesson 7](07_the_layer.ipynb) (the layer). [Lesson 10](10_inside_yolo11.ipynb) explains the places in YOLO11
# that the layer goes into; you can read it afterwards.
#
# **Time:** about 37 minutes to read, 300 seconds to run on two idle CPU cores, most of them one training; with Going deeper about 12 minutes more.

# %% [markdown]
# ## 12.1 Set up
#
# `tssa_lib.yolo` teaches Ultralytics our block. `tssa_lib.train` calls Ultralytics' own trainer, losses and metrics. (With the environment
# variable `TSSA_LESSON` set to `short`, as in `make test`, the lesson trains for a moment only, and looks at the detector that comes with the
# project instead. What is stored here is the full form.)

# %% tags=["hide-input"]
# imports
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from tssa_lib import observe, paths, views, weights, yolo
from tssa_lib.core import memberships, token_update
from tssa_lib.dataset import describe, report
from tssa_lib.lens import Lens, example
from tssa_lib.silence import intervene, tssa_layers
from tssa_lib.train import CELLS, LiveCurve, export, predict, silenced, train, validate
from kit import check, exercise, mine, plots, show
from kit.own_layer import in_yolo

# %% tags=["hide-input"]
# the short form, and the goal
SHORT = os.environ.get("TSSA_LESSON") == "short"
SMALLER = {"epochs": 1, "fraction": 0.1, "imgsz": 96} if SHORT else {}
GOAL = 0.0 if SHORT else 0.70                                              # mAP50 that the training must reach


# %% [markdown]
# ## 12.2 A picture typed by hand
#
# Before the real ones, a picture that is small enough to follow every number: 40 pixels wide, 32 high, with three
# cells. Beside its true boxes stand five guesses of some detector, the surest first.

# %%
truth = torch.tensor([[4., 4, 14, 14], [12, 10, 22, 20], [26, 6, 32, 12]])  # x0, y0, x1, y1 in pixels
guesses = torch.tensor([[5., 4, 15, 14], [26, 6, 31, 12], [2, 20, 8, 26], [13, 12, 23, 22], [4, 5, 14, 15]])
sure = [0.9, 0.8, 0.7, 0.6, 0.5]                                           # its confidence

# %% tags=["hide-input"]
# figure: the typed picture twice, with its three true boxes and with the five guesses
paper = [np.full((32, 40, 3), 90, np.uint8)] * 2
show(plots.detections(paper, [truth, guesses], ["abc", map(str, sure)], ["three true boxes", "five guesses, how sure"], size=4),
     alt="A blank picture of 40 by 32 pixels, left with three true boxes a, b and c, right with five guesses and their confidence",
     digest=f"{len(truth)} true boxes, {len(guesses)} guesses, confidence {sure[0]} to {sure[-1]}")

# %% [markdown]
# In YOLO's label files a line stands for an object: its class, then the centre and the size of its box. All four
# are shares, of the picture's width where they run along x and of its height where they run along y, so that a picture may be scaled
# without touching its labels.
#
# **Exercise 12a.** Write the function that makes these four numbers: from a box $x_0, y_0, x_1, y_1$ in pixels and the picture's
# width and height to (centre x, centre y, width, height) as shares.

# %%
def answer_12a(x0, y0, x1, y1, width, height):
    return None


exercise("12a", answer_12a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_12a(x0, y0, x1, y1, width, height):
#     return torch.tensor([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height])
# ```
#
# </details>

# %% [markdown]
# ## 12.3 How a detector is measured
#
# A guess is right if it overlaps a true box enough. *Intersection over union* says how much.
#
# $$
# \operatorname{IoU}(a, b) = \frac{\operatorname{area}(a \cap b)}{\operatorname{area}(a \cup b)} \tag{11.2}
# $$
#
# *(11.2) Checked. Overlap of two boxes, from 0 (apart) to 1 (equal) — textbook, as in PASCAL VOC*

# %%
def area(box):                                                             # (…, 4) → (…)
    return (box[..., 2:] - box[..., :2]).clamp(0).prod(-1)


def my_iou(a, b):
    both = area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    return both / (area(a) + area(b) - both)


print(my_iou(guesses[:, None], truth).numpy().round(2))                    # five guesses, three true boxes

# %% tags=["hide-input"]
# check of (11.2): twenty pairs of boxes, by hand and by Ultralytics
from ultralytics.utils.metrics import box_iou, compute_ap

draws = torch.rand(20, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
pairs = draws.sort(-1).values                                              # (20, 2, 4): x0, y0, x1, y1
theirs = torch.stack([box_iou(a[None], b[None])[0, 0] for a, b in pairs])
check("11.2", my_iou(pairs[:, 0], pairs[:, 1]), theirs, "20 pairs of boxes, by hand and by Ultralytics", tol=1e-6)

# %% [markdown]
# One half is enough for the customary *mAP50*. Each true box can be found once: walk down the list, the surest first, and a second guess at
# the same cell is wrong.
#
# **Predict.** Which of the five guesses are right?
#
# <details><summary>Answer</summary>
#
# The first, second and fourth. The third overlaps nothing, and the fifth is well placed, but its cell is taken.
#
# </details>

# %%
def right_ones(guesses, truth):                                            # (n, 4) by confidence, (m, 4) → (n,) true or false
    free, right = torch.ones(len(truth)), []
    for box in guesses:
        overlap = my_iou(box, truth) * free                                # (m,)
        right.append(bool((overlap >= 0.5).any()))
        free[overlap.argmax() if right[-1] else []] = 0
    return torch.tensor(right, dtype=torch.bool)


right = right_ones(guesses, truth)
print(right.tolist())

# %% [markdown]
# Stop after $j$ guesses: *precision* is the share of them that are right, *recall* the share of all $m$ true boxes that
# are found. Both change as one walks on. The *average precision* sums this up: for each right guess, with $y_i = 1$, take the best
# precision there is from here on, and average over the true boxes. One that is never found counts 0.
#
# $$
# \mathrm{AP} = \frac{1}{m} \sum_{i} y_i \max_{j \ge i} \frac{y_1 + \dots + y_j}{j} \tag{12.1}
# $$
#
# *(12.1) Checked. Average precision: the area under precision over recall, each precision replaced by the best that comes later — PASCAL VOC 2010*

# %% tags=["hide-input"]
# check of (12.1): against the area, by a comb of 1,000 recalls, in 20 lists of 30 guesses for 20 true boxes
lists = (torch.rand(20, 30, generator=torch.Generator().manual_seed(1)) < 0.5).double().cumsum(1).clamp(max=20)
y, precision, recall = lists.diff(dim=1, prepend=torch.zeros(20, 1)), lists / torch.arange(1, 31), lists / 20
best_later = torch.stack([precision[:, i:].amax(1) for i in range(30)], 1)
comb = (torch.arange(1000) + 0.5) / 1000
height = torch.where(recall[:, None] >= comb[:, None], precision[:, None], 0.0).amax(2)      # (20, 1000)
check("12.1", (y * best_later).sum(1) / 20, height.mean(1), "20 lists, by steps and by a comb of recalls")

# %% [markdown]
# Each class has its average precision, and their mean over the classes is **mAP50**. **mAP50-95** is the mean over ten thresholds of the IoU,
# 0.50 to 0.95: it also asks for tight boxes.
#
# **Exercise 12b.** Write (12.1). `right` (n,) says which guesses are right, the surest first; `m` is the number of true boxes. In what
# follows *your* function measures the detector.

# %%
def my_average_precision(right, m):
    return None


def by_ultralytics(right, m):                                              # the same area, read at 101 recalls
    found = right.double().cumsum(0)
    return torch.tensor(compute_ap((found / m).numpy(), (found / torch.arange(1, len(found) + 1)).numpy())[0])


average_precision = mine("12b", my_average_precision, by_ultralytics)

# %%
print(f"the typed picture: AP {average_precision(right, len(truth)):.2f}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_average_precision(right, m):
#     precision = right.double().cumsum(0) / torch.arange(1, len(right) + 1)
#     best_later = precision.flip(0).cummax(0).values.flip(0)
#     return (right * best_later).sum() / m
# ```
#
# By hand: $\tfrac{1}{3}(1 + 1 + \tfrac{3}{4}) = 0.92$. Ultralytics reads the area at 101 recalls, and says 0.91.
#
# </details>

# %% [markdown]
# ## 12.4 Look at the data
#
# The pictures come with the project ([data/README.md](../data/README.md)). Before training on anything, count it.

# %%
data = paths.shipped("blood_cells/data.yaml")
print(data.read_text(), report(describe(data, progress=False)), sep="\n")

# %% [markdown]
# RBC are red cells, WBC white cells. Two things will matter. The classes are far from even: eleven red cells to one platelet.
# And sizes differ: the median box is a red cell, the smallest boxes are platelets. At our training size (256 pixels) half of these
# are no wider than 16 pixels: two tokens at stride 8. Expect the platelets to come last.

# %% tags=["hide-input"]
# the true boxes of the validation pictures, from their label files
files = sorted((data.parent / "images/val").iterdir())                     # 87 pictures for validation


def true_boxes(file):                                                      # classes (m,), corners (m, 4) in pixels
    rows = np.loadtxt(data.parent / f"labels/val/{file.stem}.txt", ndmin=2)
    rows = torch.tensor(rows * [1, 320, 240, 320, 240]).float()
    cls, centre, size = rows.split([1, 2, 2], 1)
    return cls[:, 0], torch.cat([centre - size / 2, centre + size / 2], 1)


truths = [true_boxes(file) for file in files]

# %% tags=["hide-input"]
# figure: Four pictures of blood with their true boxes, each with its class
from tssa_lib.photos import load_image

FEW, LETTERS = [files[i] for i in (14, 19, 27, 61)], "RWP"
pictures = [load_image(file) for file in FEW]
known = [true_boxes(file) for file in FEW]
show(plots.detections(pictures, [b for _, b in known], [[LETTERS[int(c)] for c in cls] for cls, _ in known],
                      [file.stem for file in FEW], columns=2, size=4.6),
     alt="Four pictures of stained blood under a microscope with boxes around red cells (R), white cells (W) and platelets (P)",
     digest=", ".join(f"{sum((cls == i).sum().item() for cls, _ in known)} {word}"
                      for i, word in enumerate(("red cells", "white cells", "platelets"))))

# %% [markdown]
# ## 12.5 The detector
#
# YOLO11 has its one attention at stride 32 (P5), where tokens are few. TSSA is linear in the tokens, so it can also stand at strides 16
# and 8 (P4 and P3), where a token is a fraction of a cell. Its form is the one that lesson 6 suggests: memberships that don't depend on
# the resolution (`rms`), a temperature of 4, heads of 16 channels.

# %%
detector = yolo.YOLO("yolo11n-tssa-improved-p3p4p5.yaml")
for name, layer in tssa_layers(detector).items():
    print(f"{name}: {layer.num_heads} heads of {layer.dim // layer.num_heads} channels, {layer.normalize}, θ = {layer.temp.max():.0f}")

# %% [markdown]
# ## 12.6 Train
#
# From random weights. The recipe is made for some hundred pictures and a CPU: batches of four, since steps are what few pictures are short of;
# cells have no upright, so pictures are mirrored both ways (`fliplr`, `flipud`); pictures aren't combined (`mosaic`), for want of time.

# %%
print(CELLS)

# %% [markdown]
# Two settings more come from what we have just counted. All pictures are 320 by 240, so `rect` trains on that shape instead of padding it to a
# square, which saves a quarter of the work. And `cls_pw` gives rare classes more weight, by a power of their number, here $n^{-1/4}$. All of these are ordinary
# settings of Ultralytics.

# %%
recipe = {**CELLS, "rect": True, "cls_pw": 0.25, **SMALLER}

# %% [markdown]
# **Predict.** Two hundred pictures, eight hundred steps, random weights. How far will mAP50 get: about 0.2, 0.5 or 0.8? The curve draws itself while the detector learns: on the left the loss (boxes, classes and
# box edges, summed), on the right both mAPs after each epoch, and the goal.

# %% tags=["nbval-ignore-output"]
curve = LiveCurve("TSSA-YOLO11n on blood cells", goal=None if SHORT else GOAL)
folder = tempfile.mkdtemp() if SHORT else None                             # None: a new one under data/runs
run = train(data, detector, folder=folder, watch=curve, quiet=True, **recipe)
print(run)

# %%
print("mAP50 reached its goal:", run.metrics["mAP50"] >= GOAL)

# %% [markdown]
# (The seconds are those of the machine that stored the lesson, which was busy with much else.) mAP50 is near zero after the first epoch: boxes and classes must both be right
# before anything counts, and the weights that are measured are a running mean of the trained ones, which comes behind. Then the loss falls slowly, and mAP50 rises all the same.
#
# ## 12.7 Measure it
#
# The trainer kept the weights of its best epoch in `best.pt`. We open that file, as one would tomorrow, and measure it
# again on the 87 validation pictures, class by class. (These pictures chose the epoch, which flatters a little. A figure to publish is measured on the test pictures, once.)

# %%
trained = weights.ready() if SHORT else yolo.YOLO(str(run.best))
metrics, per_class = validate(trained, data)
print("better on white cells than on platelets:", per_class["WBC"] > per_class["Platelets"])

# %% [markdown]
# The same by hand: every guess in every picture, judged by `right_ones`, sorted by confidence, summed up by
# `average_precision`. Nothing is new since the typed picture, only more of it.

# %%
found = predict(trained, [str(file) for file in files], conf=0.001)        # Results, a picture each


def by_hand(c):                                                            # average precision of class c
    ours = [f.boxes[f.boxes.cls == c] for f in found]
    theirs = [boxes[cls == c] for cls, boxes in truths]
    right = torch.cat([right_ones(o.xyxy, t) for o, t in zip(ours, theirs)])
    order = torch.cat([o.conf for o in ours]).argsort(descending=True)
    return average_precision(right[order], sum(map(len, theirs))).item()


own = {name: by_hand(c) for c, name in trained.names.items()}
print("each class within 0.03 of Ultralytics' figure:", max(abs(own[name] - per_class[name]) for name in own) < 0.03)

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: bars of the average precision of each class, by Ultralytics and by hand
print({name: round(value, 3) for name, value in metrics.items()})
show(plots.bars(list(own), {"Ultralytics": list(per_class.values()), "by hand": list(own.values())},
                title="Each class, on the validation pictures", xlabel="class", ylabel="average precision at IoU 0.5"),
     alt="Bars of the average precision of red cells, white cells and platelets, by Ultralytics and by hand",
     digest=", ".join(f"{name} {per_class[name]:.3f} and {own[name]:.3f}" for name in own))

# %% [markdown]
# What is left between the two is the border around each picture, which is not the same in validation and in prediction, and the recalls at which the
# area is read.
#
# ## 12.8 Look at its detections
#
# Numbers don't show *how* a detector fails. The four pictures from above, with what it found and how sure it was.

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: the four pictures with the boxes that the detector found
seen = predict(trained, [str(file) for file in FEW], conf=0.4)
words = [[f"{LETTERS[int(c)]} {p:.1f}" for c, p in zip(f.boxes.cls, f.boxes.conf)] for f in seen]
counts = [" ".join(f"{(cls == i).sum()}{LETTERS[i]}" for i in range(3)) for cls, _ in known]
show(plots.detections(pictures, [f.boxes.xyxy for f in seen], words, [f"truth: {c}" for c in counts], columns=2, size=4.6),
     alt="The four pictures of blood with the detected boxes, each with its class and confidence; the true counts in the title",
     digest=f"{sum(map(len, words))} detections with a confidence of 0.4 or more for {sum(len(cls) for cls, _ in known)} true boxes")

# %% [markdown]
# Look for cells at the border and in clumps. Some that it finds there have no box in the truth: the source left them out, which
# bounds the precision that any detector can reach.
#
# ## 12.9 Look inside: Π and D
#
# The lens shows what each TSSA layer computes in a picture that the detector was not trained on: the memberships $\Pi$ of every token, and the gates
# $D_k$ of every head. Move the pointer over the picture; choose layer and head.
#
# **Predict.** Four heads at stride 8 share out red cells, a white cell and the ground. Which of these will have a head to itself?

# %% tags=["nbval-ignore-output"]
Lens(trained, *example(), progress=False)

# %% [markdown]
# In the run stored here one head holds most of the white cell, and its gates are the lowest: the layer keeps what that head holds and damps the rest. That is the derivation at work: a
# large second moment is what compression keeps. (In your run it may be another head's number.) One picture proves little, so we asked [all validation pictures](#The-head-of-the-white-cells), too.
#
# ## 12.10 Does the detector need it?
#
# Maps show what a layer computes, not whether anyone listens. So we silence it: the same detector, every gate 0.
#
# **Predict.** How much of its mAP50 does the detector lose: nothing, a tenth, nearly all?

# %%
table = silenced(trained, data)
whole = table["as it is"]["mAP50"]
print("silencing all of TSSA moves mAP50 by less than 0.03:", abs(table["silenced, all"]["mAP50"] - whole) < 0.03)

# %% tags=["nbval-ignore-output", "hide-input"]
# what is left of mAP50
for name, found_so in table.items():
    print(f"{name:32} mAP50 {found_so['mAP50']:.3f}")

# %% [markdown]
# It hardly notices. So Π and D of these cells, readable as they are, don't
# matter for this detector's boxes: **a map of an attention layer is no
# evidence that the layer matters.** YOLO11's convolutions see a whole cell and its neighbours by themselves. There are tasks where they can't, and there
# the same layer decides nearly everything: [lesson 11](11_does_a_detector_need_it.ipynb). (A sharper test than silence is [another picture's gates](#The-gates-of-another-picture).)
#
# And this was one training with one seed. Another gives other figures (try `seed=1` in the recipe). So they say that *this* detector works, not that TSSA is better or worse than softmax
# attention or than nothing. Who compares needs several seeds each, a control without attention, and pictures on which a difference could show at all. Lesson 11 does that for these pictures, too (`data/results/blood_cells.json`).
#
# ## 12.11 Export
#
# A detector is used elsewhere than where it was trained. ONNX is the common format; `onnxruntime` runs it without
# PyTorch. TSSA is made of plain operations (matrix products, a softmax, sums), so it exports to every format with float32 (ONNX,
# TorchScript, OpenVINO). Formats for integer processors alone are refused, because eight bits can't hold its squares.

# %%
opened = weights.ready() if SHORT else yolo.YOLO(str(run.best))
size = opened.overrides.get("imgsz") or recipe["imgsz"]
file = export(opened, "onnx", imgsz=size)
elsewhere_too = yolo.YOLO(str(file), task="detect")

# %%
square = dict(imgsz=size, conf=0.25, rect=False)
here, there = (predict(model, [str(f) for f in FEW], **square) for model in (trained, elsewhere_too))
same = [len(a.boxes) == len(b.boxes) and torch.equal(a.boxes.cls, b.boxes.cls) for a, b in zip(here, there)]
off = max((a.boxes.xyxy - b.boxes.xyxy).abs().max().item() for a, b, s in zip(here, there, same) if s)
print(f"the same cells in {sum(same)} of {len(same)} pictures; no box moves by a tenth of a pixel: {off < 0.1}")

# %% [markdown]
# ## 12.12 Your own data
#
# You have a folder of pictures. Draw boxes with a labelling tool (Label Studio, CVAT, labelImg) and export them as "YOLO": a folder `images`, a folder
# `labels` with a text file for each picture, and a list of classes. To show it, we make such an export of twenty pictures.

# %% tags=["hide-input"]
# twenty pictures and their labels, as a labelling tool exports them
export_folder, ENDING = Path(tempfile.mkdtemp()), {"images": ".jpg", "labels": ".txt"}
for part in ENDING:
    (export_folder / part).mkdir()
    for file in files[:20]:
        shutil.copy(data.parent / part / "val" / (file.stem + ENDING[part]), export_folder / part)

# %% [markdown]
# **Set some aside.** What a detector is measured on, it must not have seen. A fifth is customary. Pictures that
# belong together (a patient, a film, a slide) stay together.

# %%
names = sorted(file.stem for file in (export_folder / "images").iterdir())
aside = set(np.random.default_rng(0).permutation(names)[: len(names) // 5])
for part, ending in ENDING.items():
    for name in names:
        place = export_folder / part / ("val" if name in aside else "train")
        place.mkdir(exist_ok=True)
        shutil.move(export_folder / part / (name + ending), place)

# %% [markdown]
# **Describe it** in a data YAML, and **check it**. (Here we break one label first, to see what the check says.)

# %%
mine_yaml = export_folder / "mine.yaml"
_ = mine_yaml.write_text("train: images/train\nval: images/val\nnames: [RBC, WBC, Platelets]\n")
broken = next(name for name in names if name not in aside)
_ = (export_folder / f"labels/train/{broken}.txt").write_text("7 0.5 0.5 0.2 0.2\n")        # there is no class 7
print(report(describe(mine_yaml, progress=False)))

# %% [markdown]
# From a shell, the same and the rest of the way, where `mine` is the folder:
#
# ```
# tssa check   --data mine/mine.yaml          # the table above
# tssa train   --data mine/mine.yaml --model yolo11n-tssa-improved-p3p4p5.yaml
# tssa resume  runs/train1                    # after Ctrl-C, a power cut or a full disk
# tssa val     --model runs/train1/weights/best.pt --data mine/mine.yaml
# tssa silence --model runs/train1/weights/best.pt --data mine/mine.yaml
# tssa lens    --model runs/train1/weights/best.pt --source photo.jpg
# tssa predict --model runs/train1/weights/best.pt --source folder/
# tssa export  --model runs/train1/weights/best.pt
# ```
#
# `tssa` is installed with the package; `python -m tssa_lib` is the same. (In the project's checkout runs are written to `data/runs`.) `train` looks at the
# data and the machine, chooses a recipe, and says which and why; words such as `imgsz=320 epochs=40 rect=True` override it. Other recipes, other label formats, and what to do when mAP50 stays near zero:
# [Going deeper](#More-ways-to-train-on-your-own-data).
#
# ## 12.13 Your own layer, at work
#
# Twelve lessons for five lines. Write the update of the layer that you have just trained, and then watch *your*
# layer learn in YOLO11.
#
# **Exercise 12c.** `w` (B, K, N, p) holds the projected tokens, `temp` (K, 1) the temperatures. Return
# $-\pi_{jk}\, D_k\, w_{kj}$, of the shape of `w`. In the form `rms`: squares divided by their *mean* over the tokens, their *mean* over a head's coordinates times
# the temperature, memberships by a softmax over the heads, second moments, gates $1/(1+s)$ (lesson 7). Without the library's functions for it.

# %%
def my_update(w, temp):
    return ...                                                             # (B, K, N, p)


def improved_update(w, temp):
    return token_update(w, temp, normalize="rms")


update = mine("12c", my_update, improved_update)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_update(w, temp):
#     w2 = w**2                                                            # (B, K, N, p)
#     logits = (w2 / w2.mean(2, keepdim=True)).mean(3) * temp              # (B, K, N)
#     Pi = logits.softmax(1)                                               # over the K heads
#     s = (Pi[..., None] * w2).sum(2) / Pi.sum(2, keepdim=True)            # (B, K, p)
#     return -Pi[..., None] * w / (1 + s[:, :, None])
# ```
#
# </details>
#
# One call lets every TSSA block of YOLO run on it, in models that exist and in those that `train` builds anew. First the
# trained detector: the same boxes as with the library's layer?

# %%
x = torch.from_numpy(np.stack(pictures)[:, 8:232]).permute(0, 3, 1, 2).float() / 255       # (B, 3, 224, 320)
network = trained.model.eval()
with torch.no_grad():
    theirs = network(x)[0]
    with in_yolo(update):
        ours = network(x)[0]
print("the same boxes and scores, up to rounding:", (ours - theirs).abs().max().item() < 1e-2)

# %% [markdown]
# And it trains: three epochs of a third of the pictures, far too few to be good, enough to see the loss fall through
# your own lines, gradients and all.

# %% tags=["nbval-ignore-output"]
quick = {**recipe, "epochs": 3, "fraction": 0.3, "imgsz": 96 if SHORT else 160}
with in_yolo(update):
    own_run = train(data, "yolo11n-tssa-improved-p3p4p5.yaml", folder=tempfile.mkdtemp(), quiet=True, **quick)
print(f"{update.__name__}: class loss", " → ".join(f"{row['cls_loss']:.2f}" for row in own_run.history))

# %% tags=["hide-input"]
# did it learn?
print("the loss fell:", own_run.history[-1]["cls_loss"] < own_run.history[0]["cls_loss"])

# %% [markdown]
# ## Takeaways
#
# - A TSSA-YOLO trains like any YOLO: same data, same calls, same exports, formats for integers alone excepted. Nothing in the installed
#   package is touched.
# - Two hundred pictures and minutes of two cores are enough for a useful detector of blood cells. White cells are nearly all found; small and rare
#   things come last.
# - Average precision is a short sum over a sorted list. A detector's boxes are worth a look before its figures are.
# - Π and D can be looked at, picture by picture. Whether they matter is another question, and silencing answers it: here they hardly do.
# - One run with one seed compares nothing.
# - From a labelling tool's export to a trained detector it is: set some aside, a YAML of three lines, `check`, `train`.
#
# ## Going deeper
#
# Each item stands by itself.
#
# ### The head of the white cells
#
# Section 12.9 looked at one picture. Now all validation pictures: for each head at stride 8, how much does it hold of the tokens inside white
# cells, how much elsewhere, and how open are its gates?

# %%
looks = observe.Observer(trained)([str(file) for file in files])
fine = [look.layers[0] for look in looks]                                  # at stride 8
gates = torch.cat([o.gates for o in fine]).mean((0, 2))                    # (K,) mean gate of each head


def held(look, o, cls, boxes):                                             # Π inside white cells and elsewhere, (2, K)
    x0, y0, x1, y1 = look.inner
    corners = boxes[cls == 1] * (x1 - x0) / 320 + torch.tensor([x0, y0, x0, y0])
    white = np.any([views.within(o.grid, look.picture.shape[:2], c) for c in corners.numpy()], 0)
    return torch.stack([o.Pi[0][:, white].mean(1), o.Pi[0][:, ~white].mean(1)])


with_white = [(look, o, *t) for look, o, t in zip(looks, fine, truths) if (t[0] == 1).any()]
inside, elsewhere = torch.stack([held(*each) for each in with_white]).nanmean(0)

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: for each head, its membership inside white cells and elsewhere, and its mean gate
left, right_ax = plots.row(2, 5.0, 3.4)
heads = [f"head {k + 1}" for k in range(len(gates))]
plots.bars(heads, {"inside white cells": inside, "elsewhere": elsewhere}, title="Memberships at stride 8", ylabel="mean of Π", ax=left)
show(plots.bars(heads, {"D": gates}, title="Gates at stride 8", ylabel="mean of D", ax=right_ax),
     alt="Bars for each head at stride 8: its mean membership inside white cells and elsewhere, and its mean gate",
     digest=f"{len(with_white)} pictures; inside white cells " + ", ".join(f"{v:.2f}" for v in inside)
            + "; elsewhere " + ", ".join(f"{v:.2f}" for v in elsewhere) + "; gates " + ", ".join(f"{v:.2f}" for v in gates))

# %% [markdown]
# In the run stored here one head holds most of what is inside white cells, and its gates are the lowest: means over the pictures that have one. (In your run it may be another head's number.)
#
# ### The gates of another picture
#
# **Exercise 12d.** A sharper test than silence, as in lesson 11: all numbers keep their usual size, but each picture has the gates of *another* one. `D` (B, K, p) holds the gates of a batch. Return gates of the same shape in which picture $b$ has those of picture $b - 1$, and the first those of
# the last.

# %%
def my_swap(D):
    return ...                                                             # (B, K, p)


def swap(D):
    return D.roll(1, 0)


swapped = mine("12d", my_swap, swap)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_swap(D):
#     return torch.cat([D[-1:], D[:-1]])                                   # D.roll(1, 0) does the same
# ```
#
# </details>

# %%
with intervene(trained, lambda layer, w, own: own._replace(gates=swapped(own.gates))):
    strange, _ = validate(trained, data)
print("with the gates of other pictures mAP50 moves by less than 0.03:", abs(strange["mAP50"] - whole) < 0.03)

# %% [markdown]
# ### More ways to train on your own data
#
# `--recipe small` is the recipe of this lesson, `--recipe full` the customary 300 epochs at 640 pixels on GPUs. `--weights stock` downloads `yolo11n.pt` and carries over what has a place:
# learned weights help most where pictures are few.
#
# Setting pictures aside and writing the YAML are optional: `--data` also takes the bare folder, with YOLO labels, a COCO JSON or Pascal VOC XML in it. Where nothing says which
# pictures are for validation, a fifth of them is, always the same. Do it by hand where pictures belong together. In Python the calls are those that you
# have seen, and `auto` in `tssa_lib.train` is the recipe that looks.
#
# If mAP50 stays near zero: too few steps (small data want a smaller batch or more epochs), objects below some eight pixels at this `imgsz`, or labels that
# belong to other pictures. Look at a few with their boxes before you suspect the model.
#
# ### What the swap saves
#
# TSSA needs the values only: its weights between tokens come from statistics, not from query times key. In the one place where YOLO11 itself has
# attention, what does taking TSSA in place of softmax attention save? In YOLO11 queries and keys are half as wide as values, so together they have as many rows as
# there are channels $d$. A row has $d$ weights, and two numbers for its batch norm. TSSA adds one temperature for each of its $K$ heads.
#
# $$
# \text{parameters saved} = d\,(d + 2) - K \tag{11.1}
# $$
#
# *(11.1) Checked. What the query and key rows cost, batch norm included, less one temperature a head — this lesson*

# %%
ours, stock = yolo.YOLO("yolo11n-tssa.yaml"), yolo.YOLO("yolo11n.yaml")
slot = ours.model.model[10].m[0].attn
saved = sum(p.numel() for p in stock.model.parameters()) - sum(p.numel() for p in ours.model.parameters())
check("11.1", float(saved), float(slot.dim * (slot.dim + 2) - slot.num_heads), f"{saved:,} parameters, counted")

# %% [markdown]
# Well under one percent of the model. Whoever swaps attention at P5 to have a lighter YOLO is disappointed; what TSSA gives is the way to P4 and P3.
#
# ### Larger pictures
#
# Lesson 6 found that the published memberships depend on the number of tokens: squares are divided by a *sum* over them, so the same
# picture at twice the side has logits of a quarter, and the memberships go to equal shares. Means don't. Here both rules read the same projected
# tokens of our detector at stride 8, for one picture at four sizes. *Evenness* is the memberships' entropy over its largest value: 1 is equal shares.

# %%
sides, even = [160, 224, 320, 448], {"rms (means)": [], "published (sums)": []}
for side in sides:
    o = observe.look(trained, str(FEW[0]), imgsz=side).layers[0]
    for rule, name in zip(("rms", "tokens"), even):
        Pi = memberships(o.w, o.layer.temp, rule)
        even[name].append((torch.special.entr(Pi).sum(1).mean() / np.log(Pi.shape[1])).item())

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: evenness of the memberships over the size of the picture, by both rules
show(plots.lines(sides, even, title="The same picture, enlarged", xlabel="longer side of the picture in pixels",
                 ylabel="evenness, 1 = equal shares", markers=True),
     alt="Two curves over the size of the picture: the evenness of the memberships by means, and by sums, which is near one throughout",
     digest="; ".join(f"{name} {values[0]:.3f} to {values[-1]:.3f}" for name, values in even.items()))

# %% [markdown]
# The published rule would leave this layer with equal shares at all of these sizes. A detector is often run at another size than it was trained
# at; with `rms` the layer that runs there is nearly the layer that was trained.
#
# ## Sources
#
# - Z. Wu et al.: *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction* (2024): TSSA.
# - G. Jocher, J. Qiu: *Ultralytics YOLO11* (2024), AGPL-3.0: the detector, its trainer, losses and metrics.
# - M. Everingham et al.: *The PASCAL Visual Object Classes (VOC) Challenge* (2010): IoU and average precision.
# - BCCD, *Blood Cell Count and Detection*, by Shenggan, cosmicad and akshaylamba, MIT licence: the pictures;
#   see [data/README.md](../data/README.md).
#
# [◀ previous](11_does_a_detector_need_it.ipynb) · [contents](00_start_here.ipynb)
