# %% [markdown]
# # Lesson 11 · Does a detector need it?
#
# [◀ previous](10_inside_yolo11.ipynb) · [contents](00_start_here.ipynb) · [next ▶](12_train_tssa_yolo.ipynb)
#
# Put another attention block into YOLO11, train, compare. What must such a trial have shown before its answer means anything? And **when does a detector need its attention at all, how much,
# and up to where can token statistics stand in for it?** We begin with a trial of our own, build a task on which the answer *can* be yes, train two small detectors on it while you watch, take
# the attention away again, and then read the other trials in that light.
#
# **After this you can**
#
# - say what a comparison needs before its "no difference" means anything
# - compute from two gates which of two colours is rare, and say why a pair among many colours is harder for gates to find
# - silence a layer, give it another picture's gates, and read what is lost
# - say when attention pays in a detector, by how much, and what was not measured
#
# **You should be able to answer:** What is a positive control? Why is a map of an attention layer no evidence that the layer matters? What can $K p$ second moments not tell?
#
# **Before this:** [lesson 7](07_the_layer.ipynb) (the layer), [lesson 10](10_inside_yolo11.ipynb) (where it sits in YOLO11).
#
# **Time:** about 39 minutes to read, 160 seconds to run on two CPU cores, most of them two trainings; with Going deeper about 28 minutes more.

# %% tags=["hide-input"]
# imports
import os
import tempfile
from pathlib import Path

import torch

from tssa_lib import tssa, views, yolo
from tssa_lib.lens import Lens
from tssa_lib.silence import INTERVENTIONS, intervene
from tssa_lib.train import SCENES, LiveCurve, predict, train, validate
from kit import check, check_below, exercise, mine, plots, results_cells as cells, results_needs as needs, results_trial as trial, show
from kit.drawn import CLASSES, DrawnSpec, draw, make_drawn

torch.manual_seed(0)                                                       # single precision, as detectors have it; checks ask for double
yolo.LOGGER.setLevel("ERROR")                                              # Ultralytics' own reports, off
SHORT = os.environ.get("TSSA_LESSON") == "short"                           # as `make test` runs it: every cell works, nothing is learned

# %% [markdown]
# ## 11.1 A fair trial
#
# Four blocks took turns in row 10 of YOLO11n: **none** (`C2Plain`: a token hears of its eight neighbours only), **softmax** (stock), **TSSA** as published, **TSSA improved** (heads of 16,
# mean-square logits, θ = 4: lesson 6). All else was equal: the scenes of digits, their order, the recipe, the seeds.
#
# The score is **mAP50**. Each class has its *average precision*, from 0 to 1: how far up a list of detections, surest first, the right ones stand; right are those that
# overlap a true box by half. mAP50 is the mean over the classes; lesson 12 computes it by hand. Another seed moves it by hundredths, so scores are compared within a seed: a point below is the
# mean of five differences, a line its 95 % interval ([the trial in full](#The-trial)).
#
# **Predict:** which differences from "none" will the trial see? That of softmax attention among them?

# %% tags=["hide-input"]
# figure: the committed trial, each block minus the one without attention
tried = trial.load("trial")
form = tried["form"]
found = [r for r in tried["differences"] if r["metric"] == "mAP50" and r["against"] == "none"]
seen = [f"{r['block']} in {r['difficulty']}" for r in found if r["low"] > 0 or r["high"] < 0]
show(trial.figure(tried),
     alt="Groups of three points for three difficulties, softmax, TSSA and improved TSSA, each the mean difference in mAP50 from the block without "
         "attention, with intervals",
     digest=f"{len(tried['rows'])} trainings, {form['epochs']} epochs at {form['size']} px; {len(seen)} of {len(found)} intervals exclude zero: {', '.join(seen) or 'none'}")

# %% [markdown]
# None: every interval holds zero (`data/results/trial.json`). One would like to write "attention makes no difference". But look at softmax attention: it can't be told from nothing either, and nobody doubts that it *can* mix tokens. So the
# trial has not shown that it could see a difference if there were one. Medicine has a word for what is missing, **assay sensitivity**: a trial must first tell a treatment that works from
# none, before its "no difference" counts for another. What shows it is a **positive control**: a case where the answer is known to be yes.
#
# Why may the trial lack it? A digit is told by its own pixels. And where something else in the picture would help, YOLO11n's convolutions and its pooling may have seen it already (11.7 measures that).
# So we need two things: a question that no object answers by itself, and a detector whose convolutions don't answer it.
#
# ## 11.2 The question, by hand
#
# Five discs, four of one colour and one of another. Each is a token: its colour, written as one of two directions. *Which colour is rare?* No disc can say so by itself. One head of
# TSSA takes all five (so $\Pi = 1$):

# %%
w = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0], [1, 0]])               # five tokens (n, p): the third has the rare colour
s = tssa.second_moments(w[None], torch.ones(1, 5))                         # (K, p), mean squares
D = tssa.gates(s)                                                          # (K, p)
print("second moments", [round(v, 3) for v in s[0].tolist()], "gates", [round(v, 3) for v in D[0].tolist()])

# %% [markdown]
# A mean square over one-hot tokens is a *share*: how many of the tokens have that colour. The gate falls with it. So the update $-D\,w$ of a token is long where its colour is rare, and with two
# colours a bound in the middle tells which:
#
# $$
# D_i = \frac{1}{1 + n_i/n}, \qquad D_i > \tfrac23 \iff \frac{n_i}{n} < \tfrac12 \tag{11.3}
# $$
#
# *(11.3) Checked. For one-hot tokens, n_i of n in direction i, one head and c = 1, the gate tells the share — this series · `tssa.gates`*

# %% tags=["hide-input"]
# check of (11.3): gates of twelve sets against shares counted, and their order around the bound
counts = [(a, 11 - a) for a in range(12)]
sets = [torch.eye(2, dtype=torch.float64)[[0] * a + [1] * b] for a, b in counts]
got = torch.stack([tssa.gates(tssa.second_moments(t[None], torch.ones(1, 11, dtype=torch.float64)))[0] for t in sets])
shares = torch.tensor(counts, dtype=torch.float64) / 11
check("11.3", got, 1 / (1 + shares), "gates of twelve sets of eleven", tol=1e-8)                 # 1e-8 is added to n_k
assert ((got > 2 / 3) == (shares < 0.5)).all()

# %% [markdown]
# So one number a colour, the same for all tokens, answers the question, however many discs there are. Softmax attention can answer it too, by comparing each disc
# with each other. So can a global mean: *rare* asks only that the block hears the rest of the picture at all. A harder question comes in 11.8. (In a picture most tokens are ground, not disc. Memberships can leave the ground to another head.)
#
# **Exercise 11a. The read-out.** Write the function that says of each token whether its colour is rare: here, whether fewer than a *quarter* of the tokens have it. It gets tokens `w` (n, p), one-hot in any number of colours, and may ask only what the
# layer knows: the token itself and the gates of all.

# %%
def my_rare(w):                                                            # w (n, p) → (n,) True where the token's colour is rare
    return ...  # your turn

# %% tags=["hide-input"]
# the library's way with the same argument, and the verdict
def library_rare(w):
    D = tssa.gates(tssa.second_moments(w[None], torch.ones(1, len(w))))[0]     # (p,)
    return w @ D > 0.8


rare_of = mine("11a", my_rare, library_rare)
print("rare:", rare_of(w).tolist())

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_rare(w):
#     D = tssa.gates(tssa.second_moments(w[None], torch.ones(1, len(w))))[0]     # (p,)
#     return w @ D > 1 / (1 + 1 / 4)
# ```
#
# The length of the update of a one-hot token is the gate of its own colour.
#
# </details>
#
# ## 11.3 The same question in pictures
#
# Drawn scenes, 96 pixels square: five to seven discs on a noisy grey ground, in two colours that are drawn anew for every scene. The colour with more discs is called *common*, the other *rare*. Beside it
# two more tasks: in *own* the colour itself tells the class (warm or cool), in *twin* all colours differ but for one pair.
#
# **Predict:** cover all but one disc with your hand. In which task do you still know its class?

# %% tags=["hide-input"]
# figure: two scenes of each task with their boxes and classes
tasks = ("own", "rare", "twin")
drawn = [(task, draw(DrawnSpec(task), "val", i)) for task in tasks for i in (0, 3)]
show(plots.detections([d.image for _, d in drawn], [d.boxes for _, d in drawn], [[CLASSES[t][c] for c in d.labels] for t, d in drawn],
                      [t for t, _ in drawn], columns=6),
     alt="Six drawn scenes of coloured discs: two of own with warm and cool discs, two of rare with a majority and a minority colour, two of twin with one pair of equal colour",
     digest="; ".join(f"{t}: " + ", ".join(CLASSES[t][c] for c in d.labels) for t, d in drawn[::2]))

# %% [markdown]
# Only in *own*. In *rare* and *twin* a classifier of single discs is at chance (a test holds that: `tests/experiments/test_relations.py`).
#
# ## 11.4 A detector that sees little
#
# Three strided convolutions, the block, and YOLO's detection head at stride 8. The two detectors differ in the block alone: in `C2Plain` a token hears of its neighbours only, in `C2TSSA` it hears the statistics of all.

# %%
def plan(block, *switches):
    convs = [[-1, 1, "Conv", [width, 3, 2]] for width in (16, 32, 64)]     # to stride 8
    backbone = [*convs, [-1, 2, block, [64, 1.0, *switches]]]              # twice, with all 64 channels
    return {"nc": 2, "scales": {"n": [1.0, 1.0, 1024]}, "scale": "n", "backbone": backbone, "head": [[[3], 1, "Detect", ["nc"]]]}


plans = {"none": plan("C2Plain"), "TSSA": plan("C2TSSA", 16, "rms", 4.0)}  # heads of 16, mean-square logits, θ = 4
work = Path(tempfile.mkdtemp())


def build(name):
    file = work / f"local-n-{name}.yaml"
    yolo.YAML.save(file, plans[name])
    return yolo.YOLO(str(file))

# %% [markdown]
# How far does a class score see, if the block mixes nothing? Over 79 of the scene's 96 pixels, counted from sizes and strides ([how](#How-far-a-score-sees)): well beyond its own disc, though not over the whole scene.
# What it *learns* to use there is another matter, and "none" will tell: it has the same convolutions.
#
# ## 11.5 Train both
#
# 400 scenes, 24 epochs from random weights, the same recipe, seed and order. Colours are the question, so none is changed by augmentation.
#
# **Predict:** about a quarter of the discs are rare. What will "none" reach in average precision of *common* and of *rare*, if it finds every disc but can't know its class?

# %% tags=["nbval-ignore-output"]
spec = DrawnSpec("rare", train=400, val=100, seed=1)
data = make_drawn(spec)
recipe = {**SCENES, **dict(imgsz=spec.size, epochs=24, lr0=0.01, cls=1.0, warmup_bias_lr=0.0, fliplr=0.5, flipud=0.5),
          **dict(hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, scale=0.0, translate=0.0, erasing=0.0)}
recipe |= {"epochs": 2, "fraction": 0.2} if SHORT else {}
runs = {}
runs["none"] = train(data, build("none"), folder=work / "none", watch=LiveCurve("Without attention"), quiet=True, **recipe)

# %% tags=["nbval-ignore-output"]
runs["TSSA"] = train(data, build("TSSA"), folder=work / "TSSA", watch=LiveCurve("With TSSA"), quiet=True, **recipe)

# %% [markdown]
# We measure the weights of the last epoch of each: choosing the best epoch by the scenes that it is then judged by would flatter.

# %%
def measure(name, change=None):
    model = yolo.YOLO(str(runs[name].last))
    if change is None:
        return validate(model, data, imgsz=spec.size, rect=False, batch=16)
    with intervene(model, change):
        return validate(model, data, imgsz=spec.size, rect=False, batch=16)


reached = {name: measure(name) for name in runs}                           # ({mAP50, …}, {class: average precision})

# %% tags=["hide-input", "nbval-ignore-output"]
# figure: average precision of both classes, without attention and with TSSA
asked = needs.load()                                                       # the trial with three seeds, below
fig = plots.bars(["common", "rare"], {name: [per[c] for c in ("common", "rare")] for name, (_, per) in reached.items()},
                 title="One training each, one seed", ylabel="average precision at IoU 0.5",
                 hlines={f"share of {c}, {v:.2f}": v for c, v in asked["chance"]["rare"].items()})
fig.axes[0].set_ylim(0, 1.6)                                               # room for the legend
show(fig, alt="Two pairs of bars, common and rare, and a line at the share of each class: without attention the rare bar is low, with TSSA both are near one",
     digest=", ".join(f"{name}: " + ", ".join(f"{c} {v:.2f}" for c, v in per.items()) for name, (_, per) in reached.items()))

# %% tags=["hide-input"]
# is TSSA ahead?
gain = reached["TSSA"][1]["rare"] - reached["none"][1]["rare"]
print("TSSA is ahead on what is rare, by 0.2 or more:", SHORT or gain > 0.2)

# %% [markdown]
# Who names classes blindly is right as often as the class occurs: that is where the dotted lines are. With TSSA the detector is far above them. Without, it finds the discs and knows of what is rare
# little or nothing; how much it makes of its 79 pixels differs from training to training. One training is one training, so the same was done with three seeds, recipe and scenes as here:

# %%
rows = asked["rows"]
d = needs.paired(rows, "TSSA improved", "none", task="rare", network="local")
print(f"data/results/needs.json: TSSA minus none, mAP50 {cells.interval(d)}, {d['seeds']} seeds: {trial.verdict(d)}")

# %% [markdown]
# **This is the positive control**: here the answer is yes, so a trial can say yes. Look at the errors, not only at the numbers:

# %% tags=["hide-input", "nbval-ignore-output"]
# figure: four scenes as both detectors see them; then, of all, those where every disc has one name, the right one
from ultralytics.utils.metrics import box_iou

files = sorted((data.parent / "images" / "val").iterdir())
every = [draw(spec, "val", i) for i in range(spec.val)]
hits = {name: predict(yolo.YOLO(str(runs[name].last)), [str(f) for f in files], imgsz=spec.size, conf=0.3) for name in runs}


def all_right(hit, d):
    named = (box_iou(torch.tensor(d.boxes).float(), hit.boxes.xyxy) > 0.5) & (hit.boxes.cls == torch.tensor(d.labels)[:, None])
    return len(hit.boxes) == len(d.labels) and bool(named.any(1).all())


right = {name: sum(map(all_right, found, every)) for name, found in hits.items()}
shown = [("truth", [d.boxes for d in every[:4]], [d.labels for d in every[:4]])]
shown += [(name, [h.boxes.xyxy for h in found[:4]], [h.boxes.cls for h in found[:4]]) for name, found in hits.items()]
show(plots.detections([d.image for d in every[:4]] * 3, [b for _, boxes, _ in shown for b in boxes],
                      [[CLASSES["rare"][int(c)] for c in labels] for _, _, classes in shown for labels in classes],
                      [name for name, *_ in shown for _ in range(4)]),
     alt="Four scenes three times: the true classes, what the detector without attention says, and what the one with TSSA says",
     digest=f"of {len(every)} scenes, every disc with its one right name: " + ", ".join(f"{name} {n}" for name, n in right.items()))

# %% [markdown]
# A disc with two names is one of which the detector isn't sure. The line beneath is a stricter count than average precision: scenes without a single error.
#
# ## 11.6 Take it away again
#
# A gain might come from more parameters. So ask the trained detector itself, with the changes of `tssa_lib.silence`: all gates zero (*silenced*), memberships uniform, one gate for all coordinates and scenes (*constant*), and the gates of **another scene**.
# The last is the sharpest: all weights stay, all numbers are of the usual size; they only belong to the wrong picture.
#
# **Exercise 11b. The swap.** A change is a function of the layer, its projected tokens `w` and what it found: `found.gates` are the gates (B, K, p) of a batch of B pictures. Return what was found with
# every picture given the gates of the picture before it in the batch (the first those of the last).

# %%
def my_swap(layer, w, found):
    return ...  # your turn: found._replace(gates=…)

# %% tags=["hide-input"]
# the library's swap, and the verdict
swap = mine("11b", my_swap, INTERVENTIONS["swapped"])

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_swap(layer, w, found):
#     return found._replace(gates=found.gates.roll(1, 0))
# ```
#
# </details>
#
# **Predict:** with another scene's gates, will it be as good as "none", better or worse?

# %% tags=["nbval-ignore-output"]
changes = {"as trained": None, "silenced": "silenced", "Π uniform": "uniform", "another scene's gates": swap, "constant gates": "constant"}
left = {words: measure("TSSA", change) for words, change in changes.items()}
for words, (metrics, per) in left.items():
    print(f"{words:22} mAP50 {metrics['mAP50']:.2f}   " + "  ".join(f"{c} {v:.2f}" for c, v in per.items()))

# %%
rare = {words: per["rare"] for words, (_, per) in left.items()}
print("silenced or with another scene's gates, 0.2 or more of what is rare is lost:", SHORT or max(rare["silenced"], rare["another scene's gates"]) < rare["as trained"] - 0.2)

# %% [markdown]
# So the layer is used, and what is used is what it says about *this* scene: another scene's gates are wrong answers. They take most of it away, though every parameter is still there. Now the same by hand. Below is the lens on one validation scene; `other` is one in which the same two colours have changed parts. Point at discs, then press
# the last button, *gates of* that scene: in the run stored here every disc is found where it was, and every one changes its name. (The lens counts a box of another class as gone, and as new. Gates of a scene in two other colours may change little: they say nothing of these. By hand the rare colour had the higher gate. Is that what the trained layer does? [Where the answer is written](#Where-the-answer-is-written).)

# %% tags=["nbval-ignore-output"]
colours = lambda d: [set(d.hues[d.labels == c].tolist()) for c in (0, 1)]  # of what is common, of what is rare
turned = next(file for file, d in zip(files, every) if colours(d) == colours(every[1])[::-1])
Lens(yolo.YOLO(str(runs["TSSA"].last)), str(files[1]), other=str(turned), imgsz=spec.size, progress=False)

# %% [markdown]
# ## 11.7 The ladder of context
#
# Is the block needed once the rest of the network sees more? From here on the trials were run once and are read from their files (`python -m experiments.relations` makes this one). The local detector is given, step by step, what YOLO11n has: another stage
# of convolutions (*deeper*), pooling over wide windows (*SPPF*), two coarser stages and a way back up (*neck*), and at last YOLO11n itself, with the block in row 10.
#
# **Predict:** at which step does "none" learn what is rare?

# %% tags=["hide-input"]
# figure: average precision of the rare class against the receptive field, one line a block
mean = lambda **only: {b: sum(v.values()) / len(v) for b, v in needs.by_block(rows, "hard", **only).items()}
show(needs.ladder_figure(asked), alt="Average precision of the rare class against the receptive field of five networks, a line each for no attention, softmax, TSSA, and TSSA silenced after training",
     digest="; ".join(f"{n}: " + ", ".join(f"{b} {v:.2f}" for b, v in mean(task="rare", network=n).items() if b in ("none", "softmax", "TSSA improved"))
                      for n in dict.fromkeys(r["network"] for r in rows if r["task"] == "rare")))

# %%
print(f"data/results/needs.json · {asked['date']} · {asked['form']['epochs']} epochs of {asked['form']['train']} scenes")
for network in ("local", "yolo11n"):
    for block in ("softmax", "TSSA improved"):
        d = needs.paired(rows, block, "none", task="rare", network=network)
        print(f"{network:8} {block:14} minus none: mAP50 {cells.interval(d)}, {d['seeds']} seeds: {trial.verdict(d)}")

# %% tags=["hide-input"]
# what is left when the trained TSSA is silenced, network by network
for network in dict.fromkeys(r["network"] for r in rows if r["task"] == "rare"):
    trained = list(needs.by_block(rows, "hard", task="rare", network=network)["TSSA improved"].values())
    left_over = needs.left(rows, "TSSA improved", "silenced", "hard", task="rare", network=network)
    print(f"{network:8} rare, as trained: {', '.join(f'{v:.2f}' for v in trained)}   silenced: {', '.join(f'{v:.2f}' for v in left_over)}")

# %% [markdown]
# The two ends are clear, the middle is not. **On the left** the local detector needs the block: without it, it stays near chance with every seed, and there it is again when the trained TSSA is silenced. **On the right**, look at the open diamonds.
# With *neck* and with YOLO11n, silencing changes nothing: the convolutions hold the answer, and what the layer says is not used. **In between** trainings scatter from chance to nearly all, whatever the block, and softmax attention still does in YOLO11n:
# whether 24 epochs find the answer is a matter of the seed, and three seeds can't put the blocks in order. With *deeper*, silencing takes away what was learned, though "none" learns as much in some seeds: what is *used* was not always *needed*. (*SPPF* sees the
# whole scene through wide maxima, and "none" does little better for it: to see far is not to count.)
#
# So the answer has a shape. **Attention pays where the rest of the detector can't see what is asked. In YOLO11n, on these scenes, the rest can.** On your data the question is the same: not "is attention good?", but "what do the convolutions of *this* detector not see?".
# Silencing answers half of it in a minute (`tssa silence`): where nothing is lost, nothing was used. Where something is lost, a training without the block tells the rest.
#
# ## 11.8 Where statistics end: twins
#
# *Rare* asks for a sum over the scene, and a sum is what token statistics are. *Twin* asks for a comparison of pairs: has any other disc *my* colour? Softmax attention can look for that directly. TSSA has $K p$ sums for all colours together, and with more colours
# than sums one can't read off each colour without hearing others ([how much of them](#A-bound-for-reading-along-a-line)). So *twin* was asked on bare sets of ten tokens, where the block is all there is (`python -m experiments.capacity`), with few colours and with many:
#
# **Predict:** the blocks from worst to best on *twin* with 48 colours and 16 numbers. What will more numbers change?

# %% tags=["hide-input"]
# figure: average precision of each block on sets of ten tokens
capacity = needs.load("capacity")
show(needs.capacity_figure(capacity), alt="Average precision of six blocks on sets of tokens, in groups by task, number of colours and numbers carried, with intervals",
     digest="; ".join(f"{task} with {colours} colours, {width} numbers: " + ", ".join(f"{b} {sum(v.values()) / len(v):.2f}" for b, v in
                      needs.by_block(capacity["rows"], "AP", task=task, width=width, colours=colours).items())
                      for task, width, colours in dict.fromkeys((r["task"], r["width"], r["colours"]) for r in capacity["rows"])))

# %%
print("data/results/capacity.json, twin: average precision from worst to best, and what softmax attention has ahead of TSSA")
for width, colours in sorted({(r["width"], r["colours"]) for r in capacity["rows"] if r["task"] == "twin"}):
    of = {"metric": "AP", "task": "twin", "width": width, "colours": colours}
    means = {b: sum(v.values()) / len(v) for b, v in needs.by_block(capacity["rows"], **of).items()}
    print(f"{width} numbers, {colours} colours:", ", ".join(f"{b} {means[b]:.2f}" for b in sorted(means, key=means.get)))
    for block in ("TSSA published", "TSSA improved"):
        d = needs.paired(capacity["rows"], "softmax", block, **of)
        print(f"    softmax minus {block:14} {cells.interval(d)}, {d['seeds']} seeds: {trial.verdict(d)}")

# %% [markdown]
# What a layer tells its tokens suggests an order: means of channels (SE), products of channels (XCA), second moments weighted by memberships (TSSA), all pairs (softmax). The lines say how far these trainings bear it out. "Not settled" does not mean
# equal: the interval holds zero, and its ends say how large a difference may still be.
#
# And in detectors? *Twin* was asked there as well, beside *own* and *rare*: [three tasks, six blocks](#Three-tasks,-six-blocks).
#
# ## 11.9 Do our other detectors use theirs?
#
# The same changes, for every detector that was trained in this series and has TSSA (`data/results/use.json`): means over the seeds, and beneath what silencing takes away.

# %% tags=["hide-input"]
# the table of use
from IPython.display import Markdown, display

use = needs.load("use")["rows"]
display(Markdown(needs.use_table(use)))
for detector, task, block in dict.fromkeys((r["detector"], r["task"], r["block"]) for r in use):
    by = {what: {r["seed"]: r["mAP50"] for r in use if (r["detector"], r["task"], r["block"], r["intervention"]) == (detector, task, block, what)}
          for what in (None, "silenced")}
    if len(by[None]) > 1:
        d = trial.difference([by["silenced"][s] for s in by[None]], list(by[None].values()))
        print(f"{detector:12} {task:12} {block:26} silenced minus trained {cells.interval(d)}, {len(by[None])} seeds")

# %% [markdown]
# Compare *local* and *yolo11n* on *rare*: where the convolutions see little, silencing takes most of what was learned; in YOLO11n, on drawn scenes, digits and blood cells alike, it takes nothing that these seeds could show. It is the same layer; the place decides.
#
# ## 11.10 Real pictures
#
# Blood cells, photographs through a microscope (`python -m experiments.blood_cells trial`): each block has its control at the same places, and the test pictures were not looked at before every training was done.
#
# **Predict:** a red cell, a white cell, a platelet: does any of them need the rest of the picture to be told?

# %% tags=["hide-input"]
# figure: every block minus its control on the blood cells
blood = cells.load("blood_cells")
show(cells.figure(blood), alt="A point and a 95 % interval for each block on blood cells, its mAP50 minus that of its control without attention",
     digest="; ".join(f"{d['arm']} {cells.interval(d)}" for d in cells.differences(blood)))

# %%
print(f"data/results/blood_cells.json · {blood['epochs']} epochs at {blood['imgsz']} px, {len(blood['seeds'])} seeds")
print(cells.table(blood))

# %% [markdown]
# One would guess: none, each is told by its own pixels. And yet one interval of the three excludes zero: published TSSA stands about a hundredth above its control, with every seed. One would like to lead with that. The control question is the one of 11.6: what is lost when the trained layer is silenced?

# %%
for d in cells.use_differences(blood):
    if d["intervention"] in ("silenced", "swapped"):
        print(f"{d['arm']:28} {d['intervention']:9} {cells.interval(d)}")

# %% [markdown]
# Of published TSSA nothing, not even in the third decimal. Whatever set these five pairs of trainings apart, it is not what the trained layer says. So this is the fair trial of 11.1 over again, on real pictures, and read with the control it says more than before: the block *can* help a detector, and this one does not use it.
# (The third interval is wide because one training of five stayed behind in each of its arms. And after so few epochs no detector finds the small platelets yet; the comparison is of red and white cells. Lesson 12 trains longer, on larger pictures.)
#
# **Exercise 11c. The sentence at the end.** Somebody tried your block. They give two paired differences with 95 % intervals, each a pair (low, high): `control` of the positive control minus none, `block` of the block minus none, both in mAP50, and
# `margin`, the smallest difference that would matter to them. Return "helps", "harms", "no difference that matters", or "can't tell".

# %%
def my_verdict(control, block, margin):
    return ...  # your turn

# %% tags=["hide-input"]
# the verdict on yours
exercise("11c", my_verdict)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_verdict(control, block, margin):
#     if block[0] > 0:
#         return "helps"
#     if block[1] < 0:
#         return "harms"
#     if control[0] <= 0:                                                  # the trial has not shown that it can see anything
#         return "can't tell"
#     return "no difference that matters" if -margin < block[0] and block[1] < margin else "can't tell"
# ```
#
# A wide interval around zero is not "no difference"; neither is a narrow one in a trial that could see nothing.
#
# </details>
#
# For your own data the whole trial is one command: `python -m experiments.detector_trial --data my.yaml --imgsz 640 --epochs 100 --seeds 5`. It ends with such a sentence.
#
# ## Takeaways
#
# - "No difference" means something only in a trial that has told something from nothing: it needs a positive control.
# - Gates are shares: one number a direction, the same for all tokens, tells what is rare in a scene. No token has to compare itself with another.
# - Where the convolutions don't see what is asked, TSSA takes a detector from chance to nearly all, as softmax attention does; silenced, it is back at chance, and with another scene's gates most is lost (`needs.json`; intervals in 11.5 and 11.7).
# - Where they do see it, as in YOLO11n on these scenes, on digits and on blood cells, silencing the trained layer changes nothing that these seeds could show (`use.json`, 11.9). What small differences there are between trainings don't come from what the layer says.
# - A pair of equals among many is what sums are least made for, and what softmax attention compares, at its quadratic price. What the difference comes to, and how sure it is, stands in 11.8 (`capacity.json`).
# - A map of memberships shows what a layer computes. Whether anybody listens, only taking it away can show.
#
# ## Going deeper
#
# Each item stands by itself.
#
# ### How far a score sees
#
# How far does a score at one place see, if the block mixes nothing? A convolution of size $k$ whose input has stride $t$ widens the *receptive field* by $(k - 1)\,t$ pixels:
#
# $$
# r = 1 + \sum_l (k_l - 1)\, t_l \tag{11.4}
# $$
#
# *(11.4) Checked. Side of the square of pixels that a score can depend on, over all convolutions between them; 1 × 1 ones widen nothing — e.g. Araujo, Norris, Sim 2019*
#
# The local detector has three convolutions of size 3 at strides 1, 2, 4; one in each of the block's two repeats and two in the head, at stride 8.

# %%
strides = [1, 2, 4, 8, 8, 8, 8]
r = 1 + sum((3 - 1) * t for t in strides)
print(f"a class score sees {r} × {r} pixels of {DrawnSpec('rare').size} × {DrawnSpec('rare').size}")

# %% tags=["hide-input"]
# check of (11.4): which pixels the gradient of one score reaches, in the network itself
net = build("none").model.double().train()
for m in net.modules():
    if isinstance(m, torch.nn.Conv2d):
        torch.nn.init.constant_(m.weight, 1 / m.weight[0].numel())
    for part in ("act", "bn"):
        if isinstance(getattr(m, part, None), torch.nn.Module):
            setattr(m, part, torch.nn.Identity())
scores = []
net.model[-1].cv3[0].register_forward_hook(lambda m, x, y: scores.append(y))
x = torch.ones(1, 3, 64, 256, dtype=torch.float64, requires_grad=True)
net(x)
scores[0][0, :, :, 16].sum().backward()
reached = x.grad[0].abs().sum((0, 1)).nonzero()
check("11.4", float(reached.max() - reached.min() + 1), float(1 + sum((3 - 1) * t for t in strides)), "pixels that the gradient reaches")

# %% [markdown]
# ### Where the answer is written
#
# By hand, the rare colour had the higher gate. Is the trained layer doing this? For each of the 100 scenes we note all gates of the last TSSA layer ($K p = 64$ numbers), and hold each against one thing: the share of red discs among the
# discs of the scene, in the scenes that have red.

# %% tags=["hide-input", "nbval-ignore-output"]
# figure: one gate against the share of red, and how many of the 64 gates follow it
from tssa_lib.observe import observe

model = yolo.YOLO(str(runs["TSSA"].last)).model.eval()
batch = torch.stack([torch.tensor(d.image).permute(2, 0, 1) / 255 for d in every]).float()
with torch.no_grad(), observe(model.float()) as looks:
    model(batch)
gates = looks[-1].gates.flatten(1).double()                                # (100, K p)
share = torch.tensor([(d.hues == 0).mean() for d in every])
has = share > 0
r = torch.corrcoef(torch.cat([share[has][None], gates[has].T]))[0, 1:]     # (K p,)
best = r.nan_to_num().abs().argmax()
G = torch.nn.functional.normalize(gates[has] - gates[has].mean(0), dim=0)
y = share[has] - share[has].mean()
hat = G @ torch.linalg.solve(G.T @ G + 0.1 * torch.eye(G.shape[1], dtype=G.dtype), G.T) + 1 / len(y)
told = y - (y - hat @ y) / (1 - hat.diagonal())                            # each scene by a ridge regression on the others
axes = plots.row(2, 5.2, 3.6)
axes[0].plot(share[has], gates[has, best], "o")
axes[0].set(title=f"Gate {best % 16 + 1} of head {best // 16 + 1}, a point a scene", xlabel="share of red among the scene's discs", ylabel="gate D")
axes[1].hist(r.nan_to_num().numpy(), bins=20, color=plots.COLORS[0])
axes[1].set(title="All 64 gates", xlabel="correlation with the share of red", ylabel="gates")
show(axes[0].figure, alt="Left: a gate against the share of red discs in the scene, a falling or rising cloud. Right: histogram of the correlations of all 64 gates with that share",
     digest=f"strongest correlation {r[best]:+.2f}; {int((r.abs() > 0.5).sum())} of {len(r)} beyond ±0.5, in {int(has.sum())} scenes with red; "
            f"all gates together, each scene told from the others: {torch.corrcoef(torch.stack([told, y]))[0, 1]:+.2f}")

# %% [markdown]
# By hand it was one gate a colour. The trained layer is less tidy: no single gate is the share of red, some follow it loosely, up or down. The last number says how well a straight line through all 64 tells the share, for scenes that it was not fitted to. And gates are not all: with uniform
# $\Pi$ much of the answer was lost in 11.6, too. No map and no gate would have told us that the layer matters. Taking it away did.

# %% [markdown]
# ### Three tasks, six blocks
#
# The local detector of 11.4 with each block in turn, on all three tasks (`data/results/needs.json`):

# %% tags=["hide-input"]
# figure: mAP50 of six blocks in the local detector on three tasks
show(needs.tasks_figure(asked), alt="Panels for the tasks own, rare and twin: mAP50 of six blocks in the local detector, a dot a training, with the level of one who finds discs and not their class",
     digest="; ".join(f"{task}: " + ", ".join(f"{b} {sum(v.values()) / len(v):.2f}" for b, v in needs.by_block(rows, task=task, network="local").items())
                      for task in tasks if any(r["task"] == task and r["network"] == "local" for r in rows)))

# %% tags=["hide-input"]
# twin in the local detector: each block minus none
for block in needs.by_block(rows, task="twin", network="local"):
    if block != "none":
        d = needs.paired(rows, block, "none", task="twin", network="local")
        print(f"twin, {block:14} minus none: mAP50 {cells.interval(d)}, {d['seeds']} seeds: {trial.verdict(d)}")

# %% [markdown]
# *Own* needs nobody, and TSSA adds nothing: the second control, where the answer is known to be no. *Rare* is answered by anything that hears the scene, a channel gate by the mean (SE) included: it shows that a block hears, not that it is clever.
# For *twin* read the lines. A block that is not above "none" has not learned the task in these few epochs; where none has, softmax attention included, the detectors decide nothing between the blocks, and only the sets do.
#
# ### A bound for reading along a line
#
# TSSA's tokens hear $m = K p$ second moments. Write column $c$ of a matrix $M$ for what one token of colour $c$ adds to them, unit long. To ask about one of $C$ colours one reads along its column, and hears of the others by their inner products. As soon as
# $C > m$, these can't all be zero:
#
# $$
# \frac{1}{C(C-1)} \sum_{c \neq c'} \langle M_c, M_{c'} \rangle^2 \;\ge\; \frac{C - m}{m\,(C - 1)} \tag{11.5}
# $$
#
# *(11.5) Checked. C unit vectors in m dimensions have at least this mean square of inner products — Welch 1974*

# %% tags=["hide-input"]
# check of (11.5): random unit vectors above the bound; five evenly around the plane on it
def overlap(M):
    """Mean square of the inner products of different columns."""
    G = (M.T @ M) ** 2
    return (G.sum() - G.diagonal().sum()) / (len(G) * (len(G) - 1))


def welch(M):
    m, C = M.shape
    return torch.tensor((C - m) / (m * (C - 1)), dtype=torch.float64)


turns = torch.arange(5, dtype=torch.float64) * torch.pi * 2 / 5
equal = torch.stack([turns.cos(), turns.sin()])                            # five in the plane: C − m = 3, m = 2, C − 1 = 4
check_below("11.5", welch, overlap, "five vectors evenly around the plane", equal=(equal,),
            draws=[(torch.nn.functional.normalize(torch.randn(m, C, dtype=torch.float64), dim=0),) for m, C in ((2, 5), (3, 7), (16, 48))])

# %% [markdown]
# This bounds one way of reading, along a line, in one layer. It proves nothing of a trained network; it says where to look.
#
# ### The trial
#
# Section 11.1 in full. Does the attention at P5 help, and does it matter which? Four blocks take the same place in row 10:
#
# - **none**: no attention; a token sees its eight neighbours through `pe`, a 3 × 3 convolution that all four blocks have, and nothing else
#   (`C2Plain`)
# - **softmax**: stock YOLO11 (`C2PSA`)
# - **TSSA**: as published, with heads of 64 coordinates (`C2TSSA`)
# - **TSSA improved**: what the derivation suggests against memberships that are uniform at the start and depend on the resolution (lesson 6):
#   heads of 16, logits by mean squares, a temperature at which Π is selective from the first step on
#
# Everything else is equal: the numbers that a block starts from, the scenes and their order, the recipe. There are three difficulties. In *hard*
# the digits are small and pale. In *context* the class depends on the rest of the picture: a zero or a one is a *cue*, and any
# other digit is called "with a cue" if there is one somewhere, else "without a cue". Nobody can tell these two classes from the digit alone.
#
# Training is noisy: another seed moves mAP by hundredths. So nothing is compared between seeds, only within: $\Delta_i$ is the score of a block minus
# that of the block without attention, for seed $i$ of $m$. Their mean $\bar\Delta$ has the 95 % interval
#
# $$
# \bar\Delta \pm t_{0.975,\, m-1} \sqrt{\frac{1}{m (m-1)} \sum_{i=1}^{m} (\Delta_i - \bar\Delta)^2} \tag{10.8}
# $$
#
# *(10.8) Checked. Student's t for paired samples, with t the 97.5 % point for m − 1 degrees of freedom — Student 1908 · `results_trial.difference`*

# %%
draws = torch.randn(40, 2, 5, dtype=torch.float64)                                              # forty pairs of five scores
t = 2.7764451052                                                           # 97.5 % point, four degrees of freedom
delta = draws[:, 0] - draws[:, 1]
low = delta.mean(-1) - t * delta.std(-1) / 5 ** 0.5                        # std divides by m − 1
check("10.8", torch.tensor([trial.difference(*pair)["low"] for pair in draws.tolist()], dtype=torch.float64), low, "lower ends, forty pairs of five")

# %% [markdown]
# The trial is one command, `python -m experiments.trial`, and goes on where it was stopped. Its full form is sized for one GPU. What is committed here, and
# shown below, is named in the first line (by the name that the module had then).

# %%
print(f"{tried['command']} · {tried['date']} · torch {tried['torch']}, ultralytics {tried['ultralytics']}, {tried['cores']} cores, GPU: {tried['gpu']}")
print(f"{len(tried['rows'])} trainings from scratch: seeds {tried['seeds']}, {form['epochs']} epochs of {form['train']} scenes at {form['size']} px")

# %%
def average(block, difficulty, metric):
    found = [r[metric] for r in tried["rows"] if (r["asked"]["block"], r["asked"]["difficulty"]) == (block, difficulty)]
    return sum(found) / len(found)

for difficulty in form["difficulties"]:
    for block in tried["blocks"]:
        values = [average(block, difficulty, m) for m in ("mAP50", "mAP50-95", "processor seconds")]
        print(f"{difficulty:8} {block:14} mAP50 {values[0]:.3f}, mAP50-95 {values[1]:.3f}, {values[2]:.0f} processor seconds")

# %%
print(trial.table(tried))

# %% [markdown]
# And against each other, which is what somebody asks who must choose one:

# %%
for r in tried["differences"]:
    if r["metric"] == "mAP50" and r["against"] in ("softmax", "tssa") and r["block"].startswith("tssa") and r["block"] != r["against"]:
        print(f"{r['difficulty']:8} {r['block']:14} minus {r['against']:8} {r['mean']:+.3f}  [{r['low']:+.3f}, {r['high']:+.3f}]")

# %% [markdown]
# How to read it. A point whose interval holds zero is "no difference within the interval", which is not "no difference": it says how large one could
# still be. With nine intervals at 95 %, one that excludes zero by chance is no surprise.
#
# Now other resolutions: the same weights, validated on the same scenes enlarged. The published membership divides by sums over tokens, so it flattens when
# there are more of them; the improved one should not mind.

# %% tags=["hide-input"]
# figure: the same weights at other sizes, each block minus the one without attention
sizes = [form["size"], *form["other_sizes"]]
metrics = ["mAP50", *(trial.at_size(s) for s in form["other_sizes"])]
by = {(r["difficulty"], r["block"], r["metric"]): r for r in tried["differences"] if r["against"] == "none"}
blocks = [block for block in tried["blocks"] if block != "none"]
for difficulty, ax in zip(("easy", "context"), plots.row(2, 5.4, 3.8)):
    of = {block: [by[difficulty, block, m] for m in metrics] for block in blocks}
    fig = plots.bars([f"{s} px" for s in sizes], {b: [r["mean"] for r in rs] for b, rs in of.items()}, title=f"{difficulty}, trained at {form['size']} px",
                     errors={b: [(r["high"] - r["low"]) / 2 for r in rs] for b, rs in of.items()}, hlines={"none": 0.0},
                     xlabel="validated at", ylabel="difference in mAP50", ax=ax)
    ax.set_ylim(-0.15, 0.15)
at_sizes = lambda block, d: [average(block, d, m) for m in metrics]
show(fig, alt="Two panels, easy and context: points of three blocks at four sizes, each the difference from no attention with a 95 % interval; most intervals hold zero",
     digest="mAP50 in easy at " + ", ".join(f"{s} px {min(v):.2f} to {max(v):.2f}" for s, v in
                                   zip(sizes, zip(*(at_sizes(block, "easy") for block in tried["blocks"])))))

# %%
other = [r for r in tried["differences"] if r["metric"] in map(trial.at_size, form["other_sizes"])]
for against in ("none", "tssa"):
    pairs = [r for r in other if r["against"] == against and (against == "none" or r["block"] == "tssa improved")]
    print(f"against {against}: {sum(r['low'] > 0 or r['high'] < 0 for r in pairs)} of {len(pairs)} intervals exclude zero")
    for r in pairs:
        if r["low"] > 0 or r["high"] < 0:
            print(f"    {r['metric']}, {r['difficulty']}: {r['block']} {r['mean']:+.3f}  [{r['low']:+.3f}, {r['high']:+.3f}] at a level of {r['level']:.3f}")

# %% [markdown]
# What does the trial support?
#
# - **At the trained size, nothing:** every interval holds zero, softmax attention's as well as TSSA's. On scenes this small, attention
#   at stride 32 has nine tokens to mix, and whether it mixes them, and how, is lost in the scatter between seeds. The intervals say how much could be hidden, most of all in
#   *context*. That is no evidence that the blocks are equal.
# - **Nor is the improved form seen to help:** heads of 16, mean-square logits and θ = 4 together differ from the published form by less
#   than the intervals. The published form stays the default of `C2TSSA`, and the improvements stay switches.
# - **At other sizes** all blocks fall together, because digits of twice the size are strange to the convolutions, too. A few of the many
#   intervals exclude zero, most at a low level and not at the next size: what chance would give, and no more.
# - *Context* did not show what it was made for. The pooling before row 10 already sees the whole of a map of nine places, so even "none" could find the cue.
#
# ### One switch at a time
#
# The improved form turned three switches at once. Two of them might help and one do harm. So each suggestion of the derivation gets a training of its own,
# beside the published form and the block without attention:
#
# | switch | what changes | why it might help |
# |---|---|---|
# | rms | logits are means of squares, not shares of a sum | memberships no longer depend on the number of tokens (lesson 6) |
# | rms temp | θ = 4 at the start, with rms | Π is selective from the first step on, and so has a gradient worth following |
# | heads 32, heads 16 | 4 or 8 heads of 32 or 16 coordinates, not 2 of 64 | the logits of a narrow head spread more: fewer squares are averaged |
# | code | memberships by corrected code lengths | the assignment that the rate itself asks for (lesson 6) |
# | tied | the output map is the projection's transpose | the update is the gradient again, and has a safe step (lessons 5 and 7) |
#
# **Predict:** which switch, if any, will the trial see?

# %%
switches = trial.load("switches")
print(f"{switches['command']} · {switches['date']} · {len(switches['rows'])} trainings, seeds {switches['seeds']}")
found = [r for r in switches["differences"] if r["metric"] == "mAP50" and r["against"] == "tssa" and r["block"] != "none"]
for r in found:
    print(f"{r['block']:14} minus published {r['mean']:+.3f}  [{r['low']:+.3f}, {r['high']:+.3f}]  published {r['level']:.3f}")

# %% tags=["hide-input"]
# figure: each switch minus the published form
seen = [r["block"] for r in found if r["low"] > 0 or r["high"] < 0]
show(trial.figure(switches, against="tssa"),
     alt="A point for each switch and for no attention, the mean difference in mAP50 from the published TSSA: all at or below zero, all intervals hold zero",
     digest=f"{len(seen)} of {len(found)} intervals exclude zero: {', '.join(seen) or 'none'}; means from {min(r['mean'] for r in found):+.3f} "
            f"to {max(r['mean'] for r in found):+.3f}")

# %% [markdown]
# No switch helped, as far as this trial can see, in *easy* at the trained size: seven intervals, all with zero in them. So nothing supports another default. Look at
# the means as well, and at the trap in them. All seven lie at or below zero, as if the published form were better than every change of it. But the seven
# comparisons share one control, and the five trainings of the control are noisy like all others: if these five were lucky, all seven differences fall together. They are not seven witnesses.
#
# ### The same question, new seeds
#
# Was the published form lucky? In *easy* it stood highest of all, with an interval that only just holds zero. One may not now add
# seeds until zero is out: who looks after every seed and stops at the right moment finds a difference between any two blocks, sooner or later. What one may do is to ask
# again. Before any result was seen it was fixed: *easy*, the same four blocks, seeds 5 to 9 alone, once.
#
# **Predict:** will the difference between published TSSA and no attention be larger or smaller than the first time?

# %%
again = trial.load("again")
print(f"{again['command']} · {again['date']} · seeds {again['seeds']}")
print(trial.table(again))

# %%
both = trial.compare([r for r in tried["rows"] if r["asked"]["difficulty"] == "easy"] + again["rows"])
for r in both:
    print(f"all {r['seeds']} seeds, {r['block']:14} minus none {r['mean']:+.3f}  [{r['low']:+.3f}, {r['high']:+.3f}]")

# %% [markdown]
# Smaller, with zero well inside the interval. So the question that was fixed beforehand is answered with "no difference within the interval". That a
# large first difference shrinks when one asks again is the rule, not an accident; it was looked at *because* it was large.
#
# All ten seeds together give an interval for published TSSA that excludes zero, barely. It would be wrong to lead with that: half of these seeds are the reason why we
# asked, and it is one of three comparisons in one of three difficulties. A careful reader keeps this much: *if* TSSA helps there, it is by no more than another seed does. And 11.7 says why one need not be surprised: in YOLO11n the convolutions see it all.

# %% [markdown]
# ## Sources
#
# - International Conference on Harmonisation, *E10: Choice of Control Group in Clinical Trials*, 2000 (assay sensitivity, positive controls).
# - S. Arora, S. Eyuboglu, A. Timalsina, I. Johnson, M. Poli, J. Zou, A. Rudra, C. Ré, *Zoology: Measuring and Improving Recall in Efficient Language Models*, 2023 (small tasks that isolate one ability, as a function of width).
# - L. Welch, *Lower Bounds on the Maximum Cross Correlation of Signals*, IEEE Transactions on Information Theory 20(3), 1974.
# - A. Araujo, W. Norris, J. Sim, *Computing Receptive Fields of Convolutional Neural Networks*, Distill, 2019.
# - J. Hu, L. Shen, G. Sun, *Squeeze-and-Excitation Networks*, CVPR 2018; A. El-Nouby et al., *XCiT: Cross-Covariance Image Transformers*, NeurIPS 2021.
# - S. Jain, B. Wallace, *Attention is not Explanation*, NAACL 2019 (a map of attention is no evidence that it is used).
# - Student, *The Probable Error of a Mean*, Biometrika 6(1), 1908.
#
# [◀ previous](10_inside_yolo11.ipynb) · [contents](00_start_here.ipynb) · [next ▶](12_train_tssa_yolo.ipynb)
