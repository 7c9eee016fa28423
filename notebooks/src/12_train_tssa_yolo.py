# %% [markdown]
# # Lesson 12 · Train YOLO with TSSA
#
# [◀ previous](10_inside_yolo11.ipynb) · [contents](00_start_here.ipynb)
#
# Here the layer goes to work. We train a small detector, YOLO11 with Token Statistics Self-Attention in place of its
# softmax attention, from random weights on real handwritten digits over real photographs; watch it learn; measure it;
# look at its memberships and gates; put it beside stock YOLO11; and export it. Everything happens on two CPU cores,
# without a network.
#
# **After this you can**
#
# - train a TSSA-YOLO in minutes, and read its losses and its mAP
# - write the layer yourself, and have YOLO11 learn with it
# - look at the memberships and gates of a trained detector, and test whether it needs them
# - compare two detectors without claiming more than one run can show
# - export the detector, and run the same calls on your own data, on one GPU or on several
#
# **Before this:** [lesson 7](07_the_layer.ipynb) (the layer). [Lesson 10](10_inside_yolo11.ipynb) explains the slot
# in YOLO11 that the layer goes into; you can read it afterwards.
#
# **Time:** about 47 minutes to read, 330 seconds to run on two CPU cores, most of them two trainings; with Going deeper 10 minutes more.

# %% [markdown]
# ## 12.1 Set up
#
# Importing `tssa_lib.yolo` teaches Ultralytics our block and keeps Ultralytics off the network, except for weights and data sets that you
# ask for by name. This lesson has two
# forms. The full form trains for 15 epochs. If the environment variable `TSSA_LESSON` is `short`, it trains for 3
# epochs on a quarter of the scenes: enough for `make test` to see every cell work and the loss fall, and far too little
# for a good detector. What you see stored here is the full form.

# %%
import os
import tempfile

import numpy as np
import torch

from tssa_lib import observe, plots, scenes, yolo
from tssa_lib.silence import intervene
from kit import DIFFERENCES, check, exercise, mine, show
from kit.own_layer import in_yolo
from tssa_lib.core import token_update
from tssa_lib.train import FULL, SCENES, LiveCurve, export, predict, train, validate

# %%
SHORT = os.environ.get("TSSA_LESSON") == "short"
recipe = {**SCENES, **({"epochs": 3, "fraction": 0.25} if SHORT else {})}
GOAL = 0.0 if SHORT else 0.80                                              # mAP50 that the training must reach


def new_folder():
    return tempfile.mkdtemp() if SHORT else None                           # None: a new one under data/runs

# %% [markdown]
# ## 12.2 Look at the data
#
# Ten classes, the digits 0 to 9. Each *scene* is a crop of a photograph, 128 pixels square, with two to five digits in
# it. Both are real: the digits were written by hand on forms, the photographs ship with scikit-learn and
# Ultralytics. Only the pasting is ours. That gives exact boxes for free, computed from the ink. `make_scenes` writes
# 400 scenes for training and 150 for validation in YOLO's layout, once, and returns the path of the `data.yaml`.

# %%
spec = scenes.SceneSpec()
data = scenes.make_scenes(spec)
print(data.name, "in", data.parent.name)
print(data.read_text())

# %% tags=["hide-input"]
# figure: Eight scenes: crops of photographs with pale or dark handwritten digits over …
drawn = [scenes.scene(spec, "train", i) for i in range(8)]
boxes, words = [d.boxes for d in drawn], [[str(n) for n in d.labels] for d in drawn]
show(plots.detections([d.image for d in drawn], boxes, words, [f"scene {i}" for i in range(8)]),
     alt="Eight scenes: crops of photographs with pale or dark handwritten digits over them, a yellow box and the class at each",
     digest=f"{sum(map(len, boxes))} digits; longer sides {min((b[:, 2:] - b[:, :2]).max(1).min() for b in boxes)} "
            f"to {max((b[:, 2:] - b[:, :2]).max() for b in boxes)} pixels")

# %% [markdown]
# A detector may cheat by remembering. So the two parts share neither a digit nor a pixel of a photograph; the next
# cell looks at every scene.

# %%
used = {s: {n for i in range(getattr(spec, s)) for n in scenes.scene(spec, s, i).sources} for s in scenes.SPLITS}
print(f"different digits: {len(used['train'])} in training, {len(used['val'])} in validation, "
      f"{len(used['train'] & used['val'])} in both")

# %% [markdown]
# YOLO's label files hold one line for each object: the class, then the centre and the size of the box, as shares of
# the picture. Here is the first scene's.

# %%
print((data.parent / "labels" / "train" / "00000.txt").read_text(), end="")
print("in pixels:", *zip(drawn[0].labels.tolist(), drawn[0].boxes.tolist()))

# %% [markdown]
# **Exercise 12a.** Write the function that makes these four numbers: from a box $x_0, y_0, x_1, y_1$ in pixels and the side of the
# picture to (centre x, centre y, width, height) as shares of the side.

# %%
def answer_12a(x0, y0, x1, y1, side):
    return None


exercise("12a", answer_12a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_12a(x0, y0, x1, y1, side):
#     return torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / side
# ```
#
# </details>

# %% [markdown]
# ## 12.3 Where attention sits, and what C2TSSA changes
#
# YOLO11 is a stack of 24 layers. Its one attention is in layer 10, at the coarsest resolution, one token for each
# 32 × 32 pixels. We build both detectors at the smallest scale, n, and look for layers that differ.

# %%
ours, stock = yolo.YOLO("yolo11n-tssa.yaml"), yolo.YOLO("yolo11n.yaml")
for a, b in zip(ours.model.model, stock.model.model):
    if type(a) is not type(b):
        print(f"layer {a.i}: {type(b).__name__} with {b.np:,} parameters -> {type(a).__name__} with {a.np:,}")

# %%
softmax, token_statistics = stock.model.model[10].m[0].attn, ours.model.model[10].m[0].attn
print([name for name, _ in softmax.named_children()], "->", [name for name, _ in token_statistics.named_children()])
print("rows of the projection:", softmax.qkv.conv.out_channels, "->", token_statistics.qkv.conv.out_channels)

# %% [markdown]
# Softmax attention projects each token to queries, keys and values. TSSA needs the values only: its weights between
# tokens come from statistics, not from query times key. The output map `proj` stays, and so does `pe`, a small
# convolution over the values that tells tokens where they are (TSSA by itself doesn't know; lesson 7).
#
# **Predict.** The block is 128 channels wide, and in YOLO11 queries and keys are half as wide as values. A row of the
# projection holds one weight for each channel, and two more numbers for its batch norm. TSSA adds one temperature for
# each of its two heads. How many parameters does the swap save?
#
# <details><summary>Answer</summary>
#
# Queries and keys together have as many rows as there are channels, 128. Each row has 128 + 2 numbers. The
# temperatures cost 2. So 128 · 130 − 2 = 16,638: well under one percent of the model.
#
# </details>
#
# $$
# \text{parameters saved} = d\,(d + 2) - K \tag{11.1}
# $$
#
# *(11.1) Checked. What the query and key rows cost, batch norm included, less one temperature a head — this lesson*

# %%
d, K = token_statistics.dim, token_statistics.num_heads
saved = sum(p.numel() for p in stock.model.parameters()) - sum(p.numel() for p in ours.model.parameters())
check("11.1", float(saved), float(d * (d + 2) - K), f"{saved:,} parameters, counted")

# %%
_ = ours.info()

# %% [markdown]
# That is the size for 80 classes; `GFLOPs` counts the work for a picture of 640 × 640 pixels. One layer of 24 changes
# little there. It is at higher resolutions, and in layers with more tokens, that linear time begins to show (lessons 9
# and 10).
#
# ## 12.4 How a detector is measured
#
# A predicted box is right if it overlaps a true box of its class enough. *Intersection over union* says how much.
#
# $$
# \operatorname{IoU}(a, b) = \frac{\operatorname{area}(a \cap b)}{\operatorname{area}(a \cup b)} \tag{11.2}
# $$
#
# *(11.2) Checked. Overlap of two boxes, from 0 (apart) to 1 (equal) — textbook, as in PASCAL VOC*

# %%
def area(box):
    return (box[2] - box[0]).clamp(0) * (box[3] - box[1]).clamp(0)


def my_iou(a, b):
    both = area(torch.cat([torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])]))
    return both / (area(a) + area(b) - both)


# %%
from ultralytics.utils.metrics import box_iou

draws = torch.rand(20, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
pairs = draws.sort(-1).values                                              # (20, 2, 4): x0, y0, x1, y1
theirs = torch.stack([box_iou(a[None], b[None])[0, 0] for a, b in pairs])
check("11.2", torch.stack([my_iou(a, b) for a, b in pairs]), theirs, "20 pairs of boxes, by hand and by Ultralytics", tol=DIFFERENCES)

# %% [markdown]
# Sort all predictions of a class by confidence and walk down the list. *Precision* is the share of predictions so
# far that are right, *recall* the share of true objects found so far. Precision over recall is a curve; the area under
# it is the *average precision* of the class, and its mean over the classes is **mAP**. With IoU of at least 0.5
# counting as right it is called **mAP50**. **mAP50-95** is the mean over ten thresholds, 0.50 to 0.95: it also asks for
# tight boxes. Both run from 0 to 1.
#
# **Exercise 12b.** Two boxes are equal squares of side 1. One is moved to the right by a distance $m$ between 0 and 1. What is their IoU?

# %%
def answer_12b(m):
    return None


exercise("12b", answer_12b)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The overlap is $1 - m$ wide and 1 high; the union is $2 - (1 - m) = 1 + m$.
#
# ```python
# def answer_12b(m):
#     return (1 - m) / (1 + m)
# ```
#
# A digit of 20 pixels whose box is off by 7 has an IoU of 0.48: it counts as missed, even for mAP50.
#
# </details>

# %% [markdown]
# ## 12.5 Train
#
# The recipe is short. Digits must not be mirrored, so flips are off; the scenes are small, so pictures aren't combined
# (`mosaic`). The optimiser is chosen by hand, on purpose: left to itself (`optimizer="auto"`), Ultralytics would take
# AdamW with a learning rate of 0.002 · 5 / (4 + 10 classes), about 0.0007: meant for fine-tuning in at most 10,000 steps, and far too low
# for fifteen epochs from random weights.

# %%
print(SCENES)

# %% [markdown]
# **Predict.** The scenes at this size give layer 10 just 4 × 4 = 16 tokens. How far will mAP50 get in fifteen epochs
# from random weights: about 0.3, 0.6 or 0.9? The curve below draws itself while the detector learns. On the left the
# loss (boxes, classes and box edges, summed); on the right both mAPs after each epoch.

# %% tags=["nbval-ignore-output"]
curve = LiveCurve("TSSA-YOLO11n", goal=None if SHORT else GOAL)
run = train(data, "yolo11n-tssa.yaml", folder=new_folder(), watch=curve, quiet=True, **recipe)

# %% tags=["nbval-ignore-output"]
print(run)

# %%
first, last = run.history[0], run.history[-1]
print("the loss fell:", all(last[k] < first[k] for k in ("box_loss", "cls_loss", "dfl_loss")))
print("mAP50 reached its goal:", run.metrics["mAP50"] >= GOAL)

# %% [markdown]
# ## 12.6 Validate
#
# The trainer kept the weights of its best epoch in `best.pt`. We load that file, as one would tomorrow, and measure it
# again on the 150 validation scenes: digits and photographs that it has never seen.

# %%
detector = yolo.YOLO(str(run.best))
metrics, per_class = validate(detector, data, imgsz=128)
print("the same numbers as at the end of training:", abs(metrics["mAP50"] - run.metrics["mAP50"]) < 0.01)

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: Bars of the average precision of each of the ten digits …
print({name: round(value, 3) for name, value in metrics.items()})
worst, best = (pick(per_class, key=per_class.get) for pick in (min, max))
show(plots.bars(list(per_class), {"mAP50": list(per_class.values())}, title="Each digit, on the validation scenes",
                xlabel="class", ylabel="average precision at IoU 0.5"),
     alt="Bars of the average precision of each of the ten digits",
     digest=f"best digit {best} with {per_class[best]:.2f}, worst digit {worst} with {per_class[worst]:.2f}")

# %% [markdown]
# ## 12.7 Look at its detections
#
# Numbers don't show *how* a detector fails. Eight validation scenes, with what it found and how sure it was.

# %%
files = sorted((data.parent / "images" / "val").iterdir())[:8]
found = predict(detector, [str(f) for f in files], imgsz=128, conf=0.25)
pictures = [scenes.scene(spec, "val", i).image for i in range(8)]
print(len(found), "scenes,", found[0].boxes.data.shape[1], "numbers a detection: box, confidence, class")

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: Eight validation scenes with the detected boxes, each with its class and …
labels = [[f"{int(c)} {p:.2f}" for c, p in zip(f.boxes.cls, f.boxes.conf)] for f in found]
truth = [scenes.scene(spec, "val", i).labels for i in range(8)]
show(plots.detections(pictures, [f.boxes.xyxy for f in found], labels, ["truth: " + " ".join(map(str, t)) for t in truth]),
     alt="Eight validation scenes with the detected boxes, each with its class and confidence, and the true digits in the title",
     digest=f"{sum(map(len, labels))} detections for {sum(map(len, truth))} digits")

# %% [markdown]
# ## 12.8 Look inside: memberships and gates
#
# Now to what this series is about. `observe.record` notes what each TSSA layer computes, without changing it: the
# memberships $\Pi$ (for each of the 16 tokens, how much it belongs to each head) and the gates $D_k$ (for each head, one
# number for each of its 64 coordinates). We run the eight scenes through the detector.

# %%
def look(images):
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255   # (B, 3, H, W)
    with torch.no_grad(), observe.record(detector.model.eval()) as tape:
        detector.model(x)
    return tape["model.10.m.0.attn"][0]


seen = look(pictures)
print("Pi", tuple(seen.Pi.shape), "· gates", tuple(seen.gates.shape))

# %% [markdown]
# **Predict.** There are two heads. If the layer sorted the picture into digits and background, what would the map of
# head 1 look like over a scene? And if it sorted nothing?
#
# <details><summary>Answer</summary>
#
# Sorted: near 1 at the tokens with digits and near 0 elsewhere, or the other way round. Not sorted at all: 0.5
# everywhere.
#
# </details>

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: four scenes, each with the part of head 1 above an equal share in blue …
axes = plots.row(4, 2.4, 2.7)
for i, ax in enumerate(axes):
    above = ((seen.Pi[i, 0] - 0.5) / 0.5).clamp_min(0).unflatten(0, (4, 4))  # blank: an equal share, or less
    plots.overlay(pictures[i] / 255, above, plots.COLORS[0], title=f"scene {i}: Π of head 1", ax=ax)
show(axes[0].figure, alt="Four validation scenes with the membership of each of 16 tokens in head 1 laid over in blue; blank is an equal share",
     digest=f"memberships in head 1 from {seen.Pi[:4, 0].min():.2f} to {seen.Pi[:4, 0].max():.2f}; blank is 0.5 or less")

# %% [markdown]
# To say it in one number: the *entropy* of a token's memberships, divided by the largest possible, is 1 if the token
# is shared out evenly and 0 if it belongs to one head.

# %%
def evenness(Pi):
    return (-(Pi * Pi.clamp_min(1e-30).log()).sum(1) / np.log(Pi.shape[1])).mean().item()   # 1: even, 0: decided


print("between 0 and 1:", 0 <= evenness(seen.Pi) <= 1)

# %% tags=["nbval-ignore-output"]
temp = detector.model.model[10].m[0].attn.temp.flatten().tolist()
print(f"evenness of the memberships {evenness(seen.Pi):.3f}; temperatures {temp[0]:.2f} and {temp[1]:.2f}, started at 1")

# %% [markdown]
# And the gates. A gate $D = 1/(1 + s)$ near 1 passes its coordinate on, a gate near 0 closes it. Apart from the sums of squares in Π, the
# gates of a scene are what a token hears of the others by (lesson 7), so what matters is how much they *differ between scenes*.

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: sorted gates of both heads, and how far the scenes spread …
gates, axes = seen.gates, plots.row(2, 5.0, 3.4)                           # (8, 2, 64)
for k, ax in enumerate(axes):
    D = gates[:, k, gates[:, k].mean(0).argsort()]                         # coordinates sorted by their mean gate
    series = {"highest of eight scenes": D.amax(0), "mean": D.mean(0), "lowest": D.amin(0)}
    plots.lines(range(64), series, title=f"Gates of head {k + 1}", xlabel="coordinate, sorted", ylabel="gate D", ax=ax)
    ax.set_ylim(0, 1)
show(axes[0].figure, alt="For each head the 64 gates, sorted: their mean over eight scenes, and the highest and the lowest scene",
     digest=f"standard deviation over coordinates {gates.std(2).mean():.2f}, over scenes {gates.std(0).mean():.2f}")

# %% [markdown]
# The slope of the middle curve is a fixed scaling of channels, learned once. The gap between highest and lowest is what
# the picture's own statistics change. A second moment is a mean of squares, and a mean of squares is ruled by its
# largest members: one token with a very strong response is enough to close nearly every gate, for all tokens of that scene.
#
# ### Does the detector need all this?
#
# Maps and gates show what a layer computes, not whether anyone listens. So we silence it: the same detector, but every
# gate of layer 10 is zero. No memberships, no update; only neighbours still meet, in the 3 × 3 convolution beside it.

# %% [markdown]
# **Predict.** How much mAP50 does the silenced detector lose: nothing, a tenth, nearly all?

# %%
silent = yolo.YOLO(str(run.best))
with intervene(silent, "silenced"):
    without, _ = validate(silent, data, imgsz=128)
print("silenced, mAP50 moves by less than 0.02:", abs(without["mAP50"] - run.metrics["mAP50"]) < 0.02)

# %% tags=["nbval-ignore-output"]
print(f"mAP50 {run.metrics['mAP50']:.3f} with token statistics, {without['mAP50']:.3f} without")

# %% [markdown]
# It doesn't notice. On these scenes the rest of the network (convolutions that see most of a digit, and a path around the
# attention in the block itself) has learned to do without. That is no verdict on TSSA: softmax attention in the same slot has as
# little to do here, as you will see below. It is a warning about pictures like the ones above: **a map of an attention layer is no
# evidence that the layer matters.**
#
# What happens to the memberships when the same detector runs on larger pictures: [Going deeper](#the-memberships-depend-on-the-resolution).
#
# **Exercise 12c.** How many tokens does layer 10 see for a picture of a given height and width in pixels (multiples of 32)? And how many
# numbers would the similarity matrix of softmax attention hold there, for one head?

# %%
def answer_12c(height, width):
    return None  # a pair: tokens, numbers in the matrix


exercise("12c", answer_12c)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_12c(height, width):
#     tokens = (height // 32) * (width // 32)
#     return torch.tensor([tokens, tokens**2])
# ```
#
# At 1,920 × 1,920 pixels: 3,600 tokens, and almost 13 million numbers for each head. TSSA keeps $p = 64$ for each.
#
# </details>

# %% [markdown]
# ## 12.9 Maps that say something
#
# Four by four tokens at stride 32 are too few to see anything in. Where linear time lets TSSA go, at stride 8, its
# memberships have the grain of the picture. This detector comes with the project: YOLO11n with TSSA at strides 8, 16
# and 32, trained on [blood cells](../data/README.md) by `python -m experiments.blood_cells ready`.
#
# **Predict.** Four heads share out the tokens of a picture with red cells and one white cell. Which head is easy to
# name, and will its gates be high or low?

# %% tags=["nbval-ignore-output"]
from tssa_lib.lens import Lens, example
Lens("blood_cells", *example())

# %% [markdown]
# One head holds the white cell, and its gates are low: of what this head holds, little is taken away. Press the buttons
# under *Ask the detector*: the boxes stay, whatever is switched off. The map is beautiful, and it is no evidence.
#
# ## 12.10 Beside stock YOLO11n
#
# The same data, recipe, epochs and seed, with softmax attention in layer 10. The same seed also gives both detectors
# the same initial weights wherever they have the same layers. **Predict:** which one wins, and by how much?

# %% tags=["nbval-ignore-output"]
curve = LiveCurve("stock YOLO11n", goal=None if SHORT else GOAL)
other = train(data, "yolo11n.yaml", folder=new_folder(), watch=curve, quiet=True, **recipe)

# %% tags=["nbval-ignore-output"]
for name, result in {"TSSA ": run, "stock": other}.items():
    print(name, result)

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: Two pairs of bars: mAP50 and mAP50-95 of the detector with TSSA …
names = ["mAP50", "mAP50-95"]
show(plots.bars(names, {"TSSA-YOLO11n": [run.metrics[n] for n in names], "stock YOLO11n": [other.metrics[n] for n in names]},
                title="One run each, one seed", ylabel="on the validation scenes"),
     alt="Two pairs of bars: mAP50 and mAP50-95 of the detector with TSSA and of the stock detector",
     digest=f"mAP50 {run.metrics['mAP50']:.3f} with TSSA and {other.metrics['mAP50']:.3f} stock, "
            f"in {run.seconds:.0f} s and {other.seconds:.0f} s")

# %% [markdown]
# **This is one run each, not a result.** Another seed moves a mAP50 here by a few hundredths, as much as any
# difference between such bars (try `seed=1` in the recipe). And we have just seen that these data can't tell the blocks
# apart: a digit is told by its own pixels, without the rest of the picture. What the figure does show: a detector with
# TSSA learns this task with the same recipe in the same number of steps. A trial that can say more needs more seeds, a control without
# attention, and data where context matters: [lesson 10](10_inside_yolo11.ipynb) ends with one.
#
# ## 12.11 Export
#
# A detector is used elsewhere than where it was trained. ONNX is the common format; `onnxruntime` runs it without
# PyTorch. TSSA is made of plain operations (matrix products, a softmax, sums), so it exports to every format with float32 (ONNX,
# TorchScript, OpenVINO). Formats for integer processors alone are refused, because eight bits can't hold its squares.

# %%
file = export(detector, "onnx", imgsz=128)
elsewhere = yolo.YOLO(str(file), task="detect")
again = predict(elsewhere, [str(f) for f in files], imgsz=128, conf=0.25)
print(file.name, f"{file.stat().st_size / 1e6:.0f} MB")

# %%
same = [len(a.boxes) == len(b.boxes) and torch.equal(a.boxes.cls, b.boxes.cls) for a, b in zip(found, again)]
off = max([(a.boxes.xyxy - b.boxes.xyxy).abs().max().item() for a, b in zip(found, again) if len(a.boxes)], default=0.0)
print("the same digits in", sum(same), "of", len(same), "scenes; no box moves by a hundredth of a pixel:", off < 0.01)

# %% [markdown]
# ## 12.12 Your own data
#
# You need pictures, label files like the ones above, and a YAML that says where they are:
#
# ```yaml
# path: /data/cells            # a folder with images/ and labels/
# train: images/train
# val: images/val
# names: {0: round, 1: spindle}
# ```
#
# Then the customary full training is one call. It takes the weights of `yolo11n.pt` wherever they have a place, if the file lies in your
# folder (`weights="stock"` downloads it), runs on all GPUs of the machine, and uses mixed precision:
#
# ```python
# from tssa_lib.lens import Lens
# from tssa_lib.train import full_recipe, silenced
#
# run = full_recipe("cells.yaml")                                  # or "VOC.yaml", which downloads itself
# run = full_recipe("cells.yaml", size="s", batch=128, device=[0, 1])
# run = full_recipe("cells.yaml", model="yolo11n-tssa-p4p5.yaml")   # attention at stride 16, too (lesson 10)
#
# run = full_recipe("cells.yaml", model="yolo11n-tssa-improved-p3p4p5.yaml")   # the form that lesson 6 suggests
#
# trained = yolo.YOLO(str(run.best))
# validate(trained, "cells.yaml"), predict(trained, "photo.jpg")
# silenced(trained, "cells.yaml")                                  # the same metrics with TSSA switched off
# Lens(trained, "photo.jpg").save("lens.html")                     # what it sees, as a page
# ```
#
# From a shell: `python -m tssa_lib check --data cells.yaml`, then `train`, `resume`, `val`, `silence`, `lens`, `predict` or `export`; `python -m tssa_lib --help` has examples.
#
# Put it into a script, under `if __name__ == "__main__":`, when it runs on several GPUs. If the training is interrupted,
# `tssa_lib.train.resume(folder)` goes on from its last epoch. The settings are these, and any of Ultralytics' settings
# can be given in their place.

# %%
print(FULL)

# %% [markdown]
# **Exercise 12d.** A wrong setting that is easy to overlook. In the recipe, `fliplr` (the chance to mirror a training picture) is 0; Ultralytics'
# default is 0.5. Which digits still look like themselves, or nearly so, when mirrored left to right? Give them as a set.

# %%
answer_12d = None

exercise("12d", answer_12d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_12d = {0, 1, 8}
# ```
#
# All others become shapes that no one writes, and the detector would spend its capacity on them.
#
# </details>

# %% [markdown]
# ## 12.13 Your own layer, at work
#
# Twelve lessons for five lines. Write the update of the published layer for projected tokens, and then watch *your*
# layer learn in YOLO11.
#
# **Exercise 12e.** `w` (B, K, N, p) holds the projected tokens, `temp` (K, 1) the temperatures. Return
# $-\pi_{jk}\, D_k\, w_{kj}$, of the shape of `w`: squares divided by their sum over the tokens, memberships by a softmax
# over the heads, second moments, gates $1/(1+s)$ (lesson 7). Without the library's functions for it.

# %%
def my_update(w, temp):
    return ...                                                             # (B, K, N, p)


update = mine("12e", my_update, token_update)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_update(w, temp):
#     w2 = w**2                                                            # (B, K, N, p)
#     logits = (w2 / w2.sum(2, keepdim=True)).sum(3) * temp                # (B, K, N)
#     Pi = logits.softmax(1)                                               # over the K heads
#     s = (Pi[..., None] * w2).sum(2) / Pi.sum(2, keepdim=True)            # (B, K, p)
#     return -Pi[..., None] * w / (1 + s[:, :, None])
# ```
#
# </details>
#
# One call lets every TSSA block of YOLO run on it, in models that exist and in those that `train` builds anew. First the
# trained detector: are its maps the same as with the library's layer?

# %%
x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255     # (B, 3, H, W)
network = yolo.YOLO(str(run.best)).model.eval()
with torch.no_grad():
    theirs = network(x)[0]
    with in_yolo(update):
        ours = network(x)[0]
print("the same boxes and scores, up to rounding:", (ours - theirs).abs().max().item() < 1e-2)

# %% [markdown]
# And it trains: three epochs on a quarter of the scenes, far too few to be good, enough to see the loss fall through
# your own lines, gradients and all.

# %% tags=["nbval-ignore-output"]
with in_yolo(update):
    own = train(data, "yolo11n-tssa.yaml", folder=tempfile.mkdtemp(), quiet=True, **{**recipe, "epochs": 3, "fraction": 0.25})
print(f"{update.__name__}: class loss", " → ".join(f"{row['cls_loss']:.2f}" for row in own.history))

# %%
print("the loss fell:", own.history[-1]["cls_loss"] < own.history[0]["cls_loss"])

# %% [markdown]
# ## Takeaways
#
# - A TSSA-YOLO trains like any YOLO: same data, same calls, same exports, formats for integers alone excepted. Nothing in the installed
#   package is touched.
# - In minutes on two cores it learns to find and read handwritten digits in photographs that it has never seen.
# - TSSA needs the values only: 16,638 parameters less at scale n, and no matrix of token against token.
# - What it computes can be looked at: memberships and gates, picture by picture. Whether it matters is another question, and
#   silencing the layer answers it: on these scenes it doesn't.
# - The published memberships are nearly uniform, and more so at higher resolution.
# - On these data no block can win, and one run proves nothing.
#
# ## Going deeper
#
# ### The memberships depend on the resolution
#
# Lesson 6 found that the published rule divides by the number of tokens: the same picture at twice the side has four
# times as many tokens, and each logit shrinks to a quarter. Let us see it in a trained detector, with the same scenes
# enlarged.
#
# **Predict.** Will the evenness at 640 pixels (400 tokens) be higher or lower than at 128 (16 tokens)?

# %%
def enlarged(side):
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(x.float(), (side, side), mode="bilinear").permute(0, 2, 3, 1).numpy()


sides = [128, 256, 384, 512, 640]
at_side = [look(enlarged(side)).Pi for side in sides]
print([Pi.shape[-1] for Pi in at_side], "tokens; evenness rises:", evenness(at_side[0]) < evenness(at_side[-1]))

# %% tags=["nbval-ignore-output", "hide-input"]
# figure: Two curves over the side of the picture: the evenness of the …
left, right = plots.row(2)
plots.lines(sides, {"evenness": [evenness(Pi) for Pi in at_side]}, title="Memberships of the same scenes, enlarged",
            xlabel="side of the picture in pixels", ylabel="evenness, 1 = uniform", markers=True, ax=left)
show(plots.lines(sides, {"standard deviation": [Pi[:, 0].std().item() for Pi in at_side]}, title="Spread of head 1",
                 xlabel="side of the picture in pixels", ylabel="standard deviation of π", markers=True, ax=right),
     alt="Two curves over the side of the picture: the evenness of the memberships rises to 1, their spread falls to 0",
     digest=f"spread {at_side[0][:, 0].std():.3f} at 128 pixels, {at_side[-1][:, 0].std():.3f} at 640")

# %% [markdown]
# At 640 pixels the memberships are as good as uniform: the layer that runs there is not the layer that was trained.
# For a detector, which is often trained at one size and run at another, this is a defect of the published rule. The block has a switch for
# a rule that doesn't depend on the resolution, `normalize="rms"` (lesson 6 derives it); section 12.12 shows how to train with it, and
# lesson 10 what was seen of it.

# %% [markdown]
# ### A stock model's weights, carried over
#
# What has a place, of a stock model's weights? Everything but queries and keys. We carry over the stock detector that we have
# just trained.

# %%
carried = yolo.YOLO(str(run.best))                                         # ten classes, to be overwritten
print(yolo.load(carried, other.best))

# %% [markdown]
# **Predict.** The stock detector is trained, and nearly all of its weights are now in ours, which computes something else
# with them in layer 10. What is the mAP50 of the result, before any training: near 0, or near the stock detector's?

# %% tags=["nbval-ignore-output"]
moved, _ = validate(carried, data, imgsz=128)
print(f"stock {other.metrics['mAP50']:.3f}, its weights in TSSA-YOLO {moved['mAP50']:.3f}")

# %% [markdown]
# If the two are close, it is for the reason found above: nobody listens to layer 10 here, neither to softmax attention nor to
# TSSA. Don't expect that of a detector that uses its attention. There, carrying weights over is a start and not a
# conversion, and fine-tuning has to follow.
#
# ## Sources
#
# - Z. Wu et al.: *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction* (2024): TSSA.
# - G. Jocher, J. Qiu: *Ultralytics YOLO11* (2024), AGPL-3.0: the detector, its trainer, losses and metrics.
# - E. Alpaydin, C. Kaynak: *Optical Recognition of Handwritten Digits* (1998), UCI Machine Learning Repository: the digits.
# - M. Everingham et al.: *The PASCAL Visual Object Classes (VOC) Challenge* (2010): IoU and average precision.
# - Photographs: danielbuechele and vultilion (CC BY 2.0, by way of scikit-learn), and Ultralytics' sample pictures;
#   see [data/README.md](../data/README.md).
#
# [◀ previous](10_inside_yolo11.ipynb) · [contents](00_start_here.ipynb)
