# %% [markdown]
# # Lesson 10 · Inside YOLO11: where attention lives, and how TSSA takes its place
#
# [◀ previous](09_linear_time.ipynb) · [contents](00_start_here.ipynb) · [next ▶](11_does_a_detector_need_it.ipynb)
#
# YOLO11 is a detector made of convolutions, with one exception: a single block of softmax attention, at the coarsest
# of its maps. This lesson walks through the network by the shapes of its tensors, opens that block, and puts Token
# Statistics Self-Attention into it. Then it goes where softmax attention gets expensive: to the finer maps,
# where the small objects are.
#
# **After this you can**
# - say which maps YOLO11 makes of a picture, how many tokens each has, and where its attention sits
# - write its block C2PSA and its attention as a few equations, and TSSA in the same place
# - explain the `KeyError` that custom blocks run into, and register a block without editing an installed package
# - say which pretrained weights have a place in TSSA, and what is lost
# - count what attention costs at strides 32, 16 and 8 for any picture size, and compare with what was measured
# - say what one head means for memberships
#
# **You should be able to answer:** Why does a wrapper around one function register a block for every verb? What is lost when softmax attention
# becomes TSSA, and what is kept? What does softmax attention at stride 8 cost, and which part of that is only the way of writing it?
#
# **Before this:** [lesson 7](07_the_layer.ipynb) (the layer), [lesson 9](09_linear_time.ipynb) (its cost). Convolutions.
#
# **Time:** about 38 minutes to read, 60 seconds to run on two CPU cores; with Going deeper about 15 minutes more.

# %% tags=["hide-input"]
# imports
import copy
import math

import torch

from tssa_lib import rates, tssa, yolo
from kit import check, cost, exercise, photos, plots, results_placements as placements, show
from ultralytics.nn import tasks

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
yolo.LOGGER.setLevel("ERROR")                                              # Ultralytics' own reports, off

# %% [markdown]
# ## 10.1 A tour by shapes
#
# A detector halves its map again and again: each halving is a *level*, and P3, P4, P5 are the maps after three, four
# and five of them. A cell of P3 stands for 8 × 8 pixels, of P4 for 16 × 16, of P5 for 32 × 32: these numbers are the
# *strides*. We build stock YOLO11 at its smallest scale, n, with random weights (nothing is downloaded), and note the
# shape that leaves every row of its plan.

# %%
def build(name):
    torch.manual_seed(0)
    return yolo.YOLO(name).model.double().eval()

stock = build("yolo11n.yaml")
picture = torch.tensor(photos.sample("bus", 640) / 255).permute(2, 0, 1)[None]          # (1, 3, 640, 480)
picture = torch.nn.functional.pad(picture, (80, 80), value=0.447)                       # YOLO's grey, to a square

# %% tags=["hide-input"]
# the shape of what leaves every row
def shapes(model, x):
    """(row, block, shape of what leaves it) for every row but the last."""
    seen = []
    hooks = [m.register_forward_hook(lambda m, _, y: seen.append((m.i, type(m).__name__, tuple(y.shape[1:]))))
             for m in model.model[:-1]]
    with torch.no_grad():
        model(x)
    [h.remove() for h in hooks]
    return seen

for row, name, (channels, height, width) in shapes(stock, picture):
    print(f"row {row:2}  {name:9} {channels:4} channels  {height:3} × {width:3}  stride {640 // height:2}")

# %% [markdown]
# Rows 0 to 10 are the *backbone*: from pixels to meaning, ever coarser. Rows 11 to 22 are the *neck*, which carries
# what P5 knows back up to P4 and P3, and down again. The last row, `Detect`, reads rows 16, 19 and 22 and predicts
# boxes and classes at each cell. **Row 10, C2PSA, is the only attention**, at stride 32. For a picture of $a \times b$
# pixels and stride $m$, the number of tokens there is
#
# $$
# n = \frac{a}{m} \cdot \frac{b}{m} \tag{10.1}
# $$
#
# *(10.1) Checked. Twice the side, four times the tokens — textbook*
#
# Both sides are multiples of 32; YOLO pads the picture until they are.

# %% tags=["hide-input"]
# check of (10.1): cells of three maps at three sizes
at = {"P3": 4, "P4": 6, "P5": 10}                                          # the last row of each level
found, formula = [], []
for a, b in [(64, 64), (96, 160), (320, 256)]:
    left = {row: height * width for row, _, (_, height, width) in shapes(stock, torch.zeros(1, 3, a, b))}
    found += [left[row] for row in at.values()]
    formula += [a * b / m ** 2 for m in (8, 16, 32)]
check("10.1", torch.tensor(found), torch.tensor(formula), "cells of three maps at three sizes, against the formula")

# %% tags=["hide-input"]
# tokens of each level at three sizes
for side in (640, 1280, 1920):
    print(f"{side:4} px:", ", ".join(f"{level} {(side // m) ** 2:6,} tokens" for level, m in zip(at, (8, 16, 32))))

# %% [markdown]
# **Exercise 10a.** A photograph is `height` × `width` pixels. YOLO shrinks it (never enlarges it here) until its longer
# side is `size`, rounds both sides to whole pixels, and pads each up to a multiple of 32. How many tokens does the attention at P5 see?

# %%
def answer_10a(height, width, size):
    return ...  # your turn

exercise("10a", answer_10a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_10a(height, width, size):
#     scale = min(1, size / max(height, width))
#     rows, columns = (math.ceil(round(side * scale) / 32) for side in (height, width))
#     return rows * columns
# ```
#
# Padding to a multiple of 32 and dividing by 32 is rounding up.
#
# </details>

# %% [markdown]
# ## 10.2 C2PSA, opened
#
# The block has two habits. It lets only half of its channels through the expensive part (that is the "C2": cross-stage
# partial, two convolutions), and around everything it puts residual sums, as a Transformer does. With $x$ the map,
# $[\,\cdot\,; \cdot\,]$ for putting channels together, and $f_1$, $f_2$ for 1 × 1 convolutions with batch norm and SiLU:
#
# $$
# \begin{aligned}
# [\,a\,;\, b\,] &= f_1(x) \\
# b^{+} &= b + \operatorname{Attn}(b) \\
# y &= f_2\left([\,a\,;\; b^{+} + \operatorname{FFN}(b^{+})\,]\right)
# \end{aligned} \tag{10.2}
# $$
#
# *(10.2) Checked. Half of the channels pass through attention and a feed-forward part — Ultralytics YOLO11*
#
# FFN is two 1 × 1 convolutions, to twice the width and back. We catch the map that enters row 10 for the bus, and
# write the block down again. A fresh network's batch norms have seen no data yet; a first pass over two photographs sets their
# statistics, so that the numbers below are of the size that they have in use. **The weights are random all the same**: what
# follows shows what is computed, not what a trained detector looks at. Lesson 12 trains one and looks.

# %% tags=["hide-input"]
# batch norms that have seen the pictures
def settle(model, *pictures):
    """Batch norms that know the mean and variance of these pictures; no weight is changed."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None                                               # the plain mean over all that it sees
        norm.reset_running_stats()
    with torch.no_grad():
        [model.train()(p) for p in pictures]
    return model.eval()

# %% tags=["hide-input"]
# catch the map that enters row 10
china = torch.tensor(photos.sample("china", 640)[:416] / 255).permute(2, 0, 1)[None]    # (1, 3, 416, 640)
settle(stock, picture, china)
with torch.no_grad():
    x = picture
    for layer in stock.model[:10]:                                         # these rows read only the one before
        x = layer(x)
c2psa = stock.model[10]
print("row 10 reads", tuple(x.shape), "and holds", c2psa.np, "parameters")

# %%
with torch.no_grad():
    a, b = c2psa.cv1(x).chunk(2, dim=1)                                    # (1, 128, 20, 20) each
    for block in c2psa.m:                                                  # one at scales n, s, m, two at l, x
        b = b + block.attn(b)
        b = b + block.ffn(b)
    y = c2psa.cv2(torch.cat([a, b], 1))                                    # (1, 256, 20, 20)
    check("10.2", y, c2psa(x), "the three lines, against Ultralytics' block")

# %% [markdown]
# ## 10.3 The attention in it
#
# `attn` is softmax attention with three details of its own: queries and keys are half as wide as values, projections
# are 1 × 1 convolutions with batch norm, and a 3 × 3 convolution of the values, `pe`, adds a sense of place. For one
# head, with $q_j$, $k_j$ the query and key of token $j$ (each $p/2$ numbers) and $v_j$ its value ($p$ numbers):
#
# $$
# y_j = \sum_{i=1}^{n} a_{ij}\, v_i, \qquad a_{ij} = \frac{e^{q_j^\top k_i / \sqrt{p/2}}}{\sum_{l=1}^{n} e^{q_j^\top k_l / \sqrt{p/2}}} \tag{10.3}
# $$
#
# *(10.3) Checked. Each token takes a weighted mean of all values; n × n weights a head — Vaswani et al. 2017*
#
# Then the heads are put side by side, `pe` of the values is added, and `proj`, a last 1 × 1 convolution, mixes channels.

# %%
with torch.no_grad():
    b = c2psa.cv1(x).chunk(2, dim=1)[1]
attn = c2psa.m[0].attn
K, p, half = attn.num_heads, attn.head_dim, attn.key_dim
with torch.no_grad():
    heads = attn.qkv(b).flatten(2).unflatten(1, (K, 2 * half + p))         # (1, K, p/2 + p/2 + p, n)
    q, k, v = heads[0].split([half, half, p], dim=1)
    weights = (q.mT @ k / half ** 0.5).softmax(-1)                         # (K, n, n), over the tokens looked at
print(f"{K} heads, {p} wide; queries and keys {half}; weights", tuple(weights.shape))

# %% tags=["hide-input"]
# check of (10.3): the formula, against Ultralytics' layer
with torch.no_grad():
    mixed = (weights @ v.mT).mT.reshape(b.shape)                           # (1, 128, 20, 20)
    check("10.3", attn.proj(mixed + attn.pe(v.reshape(b.shape))), attn(b), "the formula, against Ultralytics' Attention")

# %% [markdown]
# TSSA in the same place keeps `proj`, `pe` and the batch norms, and has one projection, `qkv`, where there were
# three; its rows are the values, $w_k = U_k^\top Z$ of lesson 5. For head $k$ and token $j$, with the memberships and gates of lesson 7:
#
# $$
# y_{kj} = -\pi_{jk}\, D_k\, w_{kj}, \qquad D_k = \operatorname{Diag}\left(\frac{1}{1 + s_k}\right), \qquad s_k = \frac{1}{n_k} \sum_{j=1}^{n} \pi_{jk}\, w_{kj}^2 \tag{10.4}
# $$
#
# *(10.4) Checked. Each token is gated by statistics of all: K·p numbers in place of K·n² — Wu et al. 2024 · `yolo.TSSAttention`*
#
# (The square is taken number by number.) We build the TSSA twin; the same seed gives it the same start in all that both have.

# %%
ours = settle(build("yolo11n-tssa.yaml"), picture, china)
layer = ours.model[10].m[0].attn

def memberships(layer):
    w = layer.project(b)[0]                                                # (K, n, p)
    energy = w ** 2 / (w ** 2).sum(1, keepdim=True)                        # as published: divided by the sum over tokens
    return w, (layer.temp * energy.sum(-1)).softmax(0)                     # (K, n), over the heads

with torch.no_grad():
    w, Pi = memberships(layer)

# %% tags=["hide-input"]
# check of (10.4): loops over tokens and heads, at two temperatures that differ, against the layer; then the moments at θ = 1
def moments(w, Pi):
    return torch.stack([sum(Pi[k, j] * w[k, j] ** 2 for j in range(400)) / Pi[k].sum() for k in range(K)])  # (K, p)

with torch.no_grad():
    sharp = copy.deepcopy(layer)
    sharp.temp.copy_(torch.tensor([[20.0], [90.0]]))
    v, chosen = memberships(sharp)
    y = -chosen[..., None] * v / (1 + moments(v, chosen)[:, None])         # (K, n, p)
    together = y.mT.reshape(b.shape) + sharp.pe(v.mT.reshape(b.shape))
    check("10.4", sharp.proj(together), sharp(b), "loops over tokens and heads, against the layer of the library", tol=1e-6)
    s = moments(w, Pi)

# %% [markdown]
# The tolerance is wider than elsewhere because the layer adds $10^{-8}$ to $n_k$, as published.
#
# ## 10.4 n × n weights against K × p statistics, on a photograph
#
# Both layers just ran on the same map of the bus: 400 tokens. What did each hold in its hands to mix them?
#
# **Predict.** How many numbers are in the weights of softmax attention, and how many in the second moments of TSSA?
#
# <details><summary>Answer</summary>
#
# $K n^2 = 2 \cdot 400^2 = 320{,}000$ weights, and $K p = 2 \cdot 64 = 128$ moments, plus $K n = 800$ memberships. At
# 1,280 px the weights are 16 times as many; the moments are still 128.
#
# </details>

# %% tags=["hide-input"]
# figure: the weights of two tokens, and the memberships of both heads
places = {"a": (10, 7), "b": (3, 14)}                                      # row and column in the 20 × 20 map: on the bus, on the wall
shown = picture[0].permute(1, 2, 0).clone()                                # (640, 640, 3)
for row, column in places.values():
    rows, columns = slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32)
    shown[rows, columns] = shown[rows, columns] * 0.3 + torch.tensor([0.7, 0.25, 0.0])
maps = [400 * weights[0, 20 * row + column].reshape(20, 20) for row, column in places.values()]
fig = plots.pictures([shown.numpy(), *maps, *(K * Pi.reshape(K, 20, 20))], unit="times uniform", columns=5, size=2.4, vmin=0, vmax=4,
                     titles=["what YOLO sees, tokens a, b", "softmax: weights of a", "softmax: weights of b", "TSSA: Π of head 1", "TSSA: Π of head 2"])
show(fig, alt="A bus with two tokens marked. The weights of softmax attention are a map for each token, spread irregularly, and differ between the "
              "two tokens. The membership maps of the two TSSA heads are one plain colour",
     digest=f"weights {weights.numel():,} in all; Π of both heads within {100 * (Pi * K - 1).abs().max():.0f} % of uniform")

# %% tags=["hide-input"]
# figure: all that mixes the tokens, in both layers
left, right = plots.row(2, 5.2, 4.2)
plots.heat(400 * weights[0], title=f"softmax, head 1: {weights[0].numel():,} weights", xlabel="token looked at", ylabel="token that looks",
           unit="times uniform", vmin=0, vmax=4, ax=left)
D = 1 / (1 + s).sort(-1).values                                            # (K, p), falling
fig = plots.lines(range(1, p + 1), {f"head {k + 1}": D[k] for k in range(K)}, title=f"TSSA, all heads: {D.numel()} gates",
                  xlabel="coordinate of the head, by size", ylabel="gate D", ax=right)
right.set_ylim(0, 1)
show(fig, alt="Left a 400 by 400 matrix of weights with a fine texture. Right two falling curves of 64 gates each, between zero and one",
     digest=f"{weights[0].numel():,} numbers against {D.numel()}; gates from {D.min():.2f} to {D.max():.2f}")

# %% [markdown]
# Two remarks. With random weights neither picture means anything about buses. And the membership map is
# almost flat *not* because of the random weights: lesson 6 showed that the published logits have mean
# $\theta p / n$, here $64/400$, so Π starts uniform and must be trained away from it. Without selective
# memberships TSSA can turn channels up and down for the whole picture, and looks nothing up. Lessons 11 and 12 look
# at trained ones.
#
# ## 10.5 The failure first
#
# Write `C2TSSA` into a model YAML, hand it to plain Ultralytics, and this happens (the stock parser is still there, under
# `__wrapped__`):

# %% tags=["raises-exception"]
plan = tasks.yaml_model_load("yolo11n-tssa.yaml")
print("row 10:", plan["backbone"][10])
stock_parser = tasks.parse_model.__wrapped__
stock_parser(copy.deepcopy(plan), 3, False)

# %% [markdown]
# Ultralytics' `parse_model` looks a block's name up among the names of its own file. The usual advice is to edit the
# installed package; the next upgrade undoes it. A smaller step is to put the class among those names from outside. It gets
# one error further:

# %%
tasks.C2TSSA = yolo.C2TSSA
try:
    stock_parser(copy.deepcopy(plan), 3, False)
except ValueError as error:
    print("ValueError:", error)
del tasks.C2TSSA

# %% [markdown]
# The parser decides by two sets *inside* the function which blocks get the number of input channels, the channels scaled by the model's
# width, and the repeats. A class that is in neither gets the YAML's arguments as they stand: here the number
# of *output* channels arrives as input, unscaled. So the parser must be made to treat our class as a block that it knows.
#
# And the third trap is silent. Swap the block in a model that is built already, and then train: the trainer builds the model anew
# from its plan, and the swap is gone. Here is what the trainer does, in one line:

# %%
swapped = build("yolo11n.yaml")
swapped.model[10] = ours.model[10]
again = tasks.DetectionModel(swapped.yaml, verbose=False)
print("swapped by hand:", type(swapped.model[10]).__name__, "· rebuilt from the plan:", type(again.model[10]).__name__)

# %% [markdown]
# ## 10.6 Registration, line by line
#
# Everything that builds a model (`YOLO("….yaml")`, `train`, `resume`, loading a checkpoint) goes through one name, `tasks.parse_model`. So
# we wrap that function. Ours needs five steps: (1) note our rows, (2) show the stock parser its own block, `C2PSA`, whose
# signature is the same, (3) let it work out channels, width and repeats, (4) read those off the block that it built, and
# (5) put ours in its place.

# %%
def parse_with_ours(plan, channels, verbose=False):
    rows = plan["backbone"]
    mine = {i: args[1:] for i, (_, _, name, args) in enumerate(rows) if name == "C2TSSA"}           # 1
    known = [[f, n, "C2PSA", args[:1]] if i in mine else [f, n, name, args]
             for i, (f, n, name, args) in enumerate(rows)]                                          # 2
    layers, save = stock_parser(copy.deepcopy({**plan, "backbone": known}), channels, verbose)      # 3
    for i, switches in mine.items():
        twin = layers[i]
        width = twin.cv2.conv.out_channels                                                          # 4
        layers[i] = yolo.C2TSSA(width, width, len(twin.m), *switches)
        layers[i].i, layers[i].f, layers[i].type = twin.i, twin.f, "C2TSSA"                          # 5
    return layers, save

# %% [markdown]
# `i` and `f` are the row's number and where it reads from; the model's forward pass needs both. Does it build what the library builds,
# at every scale?

# %% tags=["hide-input"]
# parameters of every row, at five scales, against the library
def sizes(parser, scale):
    layers, _ = parser({**copy.deepcopy(plan), "scale": scale}, 3, False)
    return [sum(q.numel() for q in layer.parameters()) for layer in layers]

for scale in "nsmlx":
    same = sizes(parse_with_ours, scale) == sizes(tasks.parse_model, scale)
    print(f"scale {scale}: {sum(sizes(tasks.parse_model, scale)):,} parameters, every row as in the library: {same}")

# %% [markdown]
# The library's version is `yolo.register`; importing `tssa_lib.yolo` calls it. What it adds for daily use, from random generators to several GPUs: [Going
# deeper](#What-the-library's-registration-adds).

# %% [markdown]
# ## 10.7 What it costs, by scale
#
# Parameters first. The plan has five scales. Counting needs no weights: `cost.count` runs the model on PyTorch's *meta* device, where
# tensors have a shape and no content. One MAC is one multiply–add; two FLOPs.

# %% tags=["hide-input"]
# parameters and multiply–adds, by scale
rows = {}
for scale in "nsm":
    for kind, name in (("softmax", f"yolo11{scale}.yaml"), ("TSSA", f"yolo11{scale}-tssa.yaml")):
        model = yolo.YOLO(name).model
        rows[scale, kind] = sum(q.numel() for q in model.parameters()), cost.count(model, 640)

for (scale, kind), (parameters, need) in rows.items():
    print(f"{scale}  {kind:8} {parameters / 1e6:6.2f} M parameters  {need.macs / 1e9:5.1f} GMACs at 640 px, "
          f"{100 * need.attention_macs / need.macs:.1f} % of them in the attention")

# %% [markdown]
# (Seconds at 320 px, on this machine: [Going deeper](#Seconds-by-scale).) At 640 px the attention is 1.6 % of the work at scale n and 0.4 % at m, so the swap can't change much: about one percent of the operations
# at scale n, less at the larger scales, and
# less than one percent of the parameters. Whoever promises a much lighter YOLO11 from this swap alone has not counted. For one attention, with $n$ tokens and
# $d$ channels, Ultralytics' layer needs
#
# $$
# \text{MACs of softmax attention} = 3\, n\, d^2 + 9\, n\, d + \tfrac{3}{2}\, n^2 d \tag{10.5}
# $$
#
# *(10.5) Checked. Projections, the 3 × 3 convolution, and two products of n × n: half a width for the weights, one for the sums — this series*
#
# and the convolutions of TSSA, which are nearly all of it (the statistics are a few operations a number, $n\, d$ in all, and most
# are not matrix products):
#
# $$
# \text{MACs of TSSA's convolutions} = 2\, n\, d^2 + 9\, n\, d \tag{10.6}
# $$
#
# *(10.6) Checked. One projection, the output map, the 3 × 3 convolution: linear in n — this series*

# %% tags=["hide-input"]
# multiply–adds of one module, by PyTorch's counter
from torch.utils.flop_counter import FlopCounterMode

def macs(module, n, d, convolutions_only=False):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.empty(1, d, n, 1, device="meta"))
    counts = counter.get_flop_counts()["Global"]
    return sum(f for op, f in counts.items() if "conv" in str(op) or not convolutions_only) / 2

# %% tags=["hide-input"]
# checks of (10.5) and (10.6)
tried = [(16, 64), (400, 128), (1600, 128), (400, 256)]                    # n, d; heads 64 wide
kinds = type(attn), yolo.TSSAttention
psa, ts = ([kind(d, num_heads=d // 64).to("meta").eval() for _, d in tried] for kind in kinds)
check("10.5", torch.tensor([macs(m, *nd) for m, nd in zip(psa, tried)]),
      torch.tensor([3 * n * d * d + 9 * n * d + 1.5 * n * n * d for n, d in tried]), "PyTorch's counter, four sizes")
check("10.6", torch.tensor([macs(m, *nd, convolutions_only=True) for m, nd in zip(ts, tried)]),
      torch.tensor([2.0 * n * d * d + 9 * n * d for n, d in tried]), "PyTorch's counter, four sizes")

# %% [markdown]
# **Exercise 10b.** From how many tokens on is the part of softmax attention that grows with $n^2$ larger than *all* convolutions of TSSA?
# A function of $d$.

# %%
def answer_10b(d):
    return ...  # your turn

exercise("10b", answer_10b)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_10b(d):
#     return (2 * d + 9) * 2 / 3
# ```
#
# $\frac32 n^2 d = 2nd^2 + 9nd$; divide by $nd$. At $d = 128$ that is 177 tokens, a picture of 416 px. Counting is not timing, though: matrix products run at
# high speed, and small elementwise steps wait for memory. Section 10.9 has seconds.
#
# </details>

# %% [markdown]
# ## 10.8 Which pretrained weights have a place
#
# A detector trained on COCO has cost days of GPU time. What of it can be kept? For each head, `qkv` of softmax attention has $p/2$ rows of
# queries, $p/2$ of keys and $p$ of values, one after the other. The value rows fit TSSA's projection. `proj`, `pe`, the feed-forward part and everything
# outside the attention keep their names and shapes. Lost are queries and keys:
#
# $$
# \text{parameters without a place} = d\,(d + 2) \tag{10.7}
# $$
#
# *(10.7) Checked. d rows of the projection, each with d weights, and a scale and a shift of its batch norm — this series*

# %%
fresh = yolo.YOLO("yolo11n-tssa.yaml")
carried = yolo.load(fresh, stock)
print(carried)
print("without a counterpart:", *carried.fresh)
check("10.7", carried.parameters_of - carried.parameters, layer.dim * (layer.dim + 2), "what `yolo.load` counts, against the formula")

# %% [markdown]
# The value rows have to be picked out head by head ([exercise 10d](#Which-rows-are-the-values)). And having a place is not the same as working there: what arrives at `proj` is now another function, of another size ([Going
# deeper](#What-the-carried-block-computes)). The carried model is a starting point. It must be trained on.

# %% [markdown]
# ## 10.9 At P4 and P3
#
# Why does YOLO11 use attention only at P5? Count the weights. At P3 a 640 px picture has 6,400 tokens, so one head's weights are 41 million numbers; at
# 1,280 px 655 million. TSSA has no such table. `yolo.with_attention` writes plans with a block of attention behind the last row of a level; by name,
# `yolo11n-tssa-p4p5.yaml` or, with softmax attention, `yolo11n-psa-p3p4p5.yaml`. The rows that follow move by one, and so do the references to them.
#
# How many heads are there? With **one head** the softmax over heads is of a single number. Then $\Pi = 1$ for every token, the temperature has no gradient,
# and TSSA is a gate for each channel, the same for all tokens. The narrow maps P4 and P3 of scale n have 64 channels in the block, one head of the usual
# width. So the plans that go by name take the widest heads of which there are at least **two** at every place:

# %%
for places in (("P5",), ("P4", "P5"), ("P3", "P4", "P5")):
    found = [i for i, row in enumerate(yolo.with_attention(places)["backbone"]) if row[2] == "C2TSSA"]
    blocks = [m for m in yolo.YOLO(f"yolo11n-tssa-{''.join(places).lower()}.yaml").model.modules() if isinstance(m, yolo.TSSAttention)]
    print(f"{'+'.join(places):9} attention in rows {found}; heads × width", ", ".join(f"{m.num_heads} × {m.dim // m.num_heads}" for m in blocks))

# %% [markdown]
# **Exercise 10c.** How many MiB does the table of softmax weights take in float32, for a square picture of `side` pixels, at `stride`, with `heads` heads?

# %%
def answer_10c(side, stride, heads):
    return ...  # your turn

exercise("10c", answer_10c)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_10c(side, stride, heads):
#     n = (side // stride) ** 2
#     return heads * n ** 2 * 4 / 2 ** 20
# ```
#
# At 1,920 px, stride 8 and one head: 12,656 MiB, and Ultralytics' layer holds two of them for a moment, before and after the softmax.
#
# </details>

# %% [markdown]
# But is that table needed? Only where (10.3) is *written out*, as Ultralytics does it: all weights, then the softmax, then the sums.
# `scaled_dot_product_attention` (SDPA) gives the same output, and in pieces where the shapes allow it:

# %%
class Fused(type(attn)):
    """Ultralytics' Attention by scaled_dot_product_attention."""
    def forward(self, x):
        heads = self.qkv(x).flatten(2).unflatten(1, (self.num_heads, -1)).mT                   # (B, K, n, 2p)
        q, k, v = heads.split([self.key_dim, self.key_dim, self.head_dim], dim=-1)
        q, k = (torch.nn.functional.pad(t, (0, self.head_dim - self.key_dim)) for t in (q, k))  # as wide as v
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v.contiguous(), scale=self.scale)
        image = lambda w: w.mT.reshape(x.shape)                                                # (B, K, n, p) to (B, C, H, W)
        return self.proj(image(y) + self.pe(image(v)))

fused = copy.deepcopy(attn)
fused.__class__ = Fused
with torch.no_grad():
    torch.testing.assert_close(fused(b), attn(b), rtol=0, atol=1e-10)
print("the same output, to rounding")

# %% [markdown]
# This is the rival to measure against. One attention at each level of a 640 px picture, live, one thread, float32: processor time, and the largest tensor on the way.
#
# **Predict:** what does SDPA save, time or memory? And TSSA against SDPA?

# %% tags=["hide-input"]
# one attention at P5, P4 and P3 of a 640 px picture: written out, by SDPA, and TSSA
def kinds(d):
    stock_way, ours_way = type(attn)(d, num_heads=max(d // 64, 1)), yolo.TSSAttention(d, 2)
    by_sdpa = copy.deepcopy(stock_way)
    by_sdpa.__class__ = Fused
    return {"softmax, written out": stock_way, "softmax, SDPA": by_sdpa, "TSSA": ours_way}

torch.set_default_dtype(torch.float32)
threads = torch.get_num_threads()
torch.set_num_threads(1)
milliseconds, largest = {}, {}
with torch.no_grad():
    for side, d in ((20, 128), (40, 64), (80, 64)):                        # cells a side, channels in the block at scale n
        x_level, blocks = torch.randn(1, d, side, side), {name: m.float().eval() for name, m in kinds(d).items()}
        took = cost.interleaved({name: cost.forward(m, x_level) for name, m in blocks.items()}, budget=2.0, most=20)
        for name, m in blocks.items():
            with cost.Moved() as moved:
                m(x_level)
            milliseconds.setdefault(name, []).append(1e3 * took[name]["median"])
            largest.setdefault(name, []).append(moved.largest / 2 ** 20)
torch.set_num_threads(threads)
torch.set_default_dtype(torch.float64)
for name, times in milliseconds.items():
    print(f"{name:21}" + ", ".join(f"{level} {t:7.2f} ms" for level, t in zip(("P5", "P4", "P3"), times)))

# %% tags=["hide-input"]
# figure: time and largest tensor of one attention, by level
left, right = plots.row(2, 5.2, 3.8)
levels = ["P5, 400 tokens", "P4, 1,600", "P3, 6,400"]
plots.bars(levels, milliseconds, title="Time of one attention (this machine)", ylabel="milliseconds", yscale="log", ax=left)
fig = plots.bars(levels, largest, title="Its largest tensor (counted)", ylabel="MiB", yscale="log", ax=right)
show(fig, alt="Two groups of bars on logarithmic axes. Time: the three are close at P5; at P3 both forms of softmax attention take many times as long as TSSA. "
              "Largest tensor: only softmax attention written out rises steeply; SDPA and TSSA are alike",
     digest="largest tensor at P3: " + ", ".join(f"{name} {sizes[-1]:.1f} MiB" for name, sizes in largest.items())
            + f"; TSSA is the fastest at P3: {milliseconds['TSSA'][-1] == min(times[-1] for times in milliseconds.values())}")

# %% [markdown]
# SDPA saves the table: at P3 its largest tensor is a small multiple of TSSA's, and it is faster than the written-out form. (In this block queries are half as wide as
# values; without the zeros that fill them up, PyTorch's CPU version writes the table out after all.) So "attention at stride 8 needs gigabytes" is true of writing it out,
# not of softmax.
# **The time stays:** SDPA does the multiplications of (10.5), and the term in $n^2$ stays. So TSSA's advantage at P4 and P3 is operations, and with them time. Count them
# for whole detectors; SDPA and the written-out form do the same number.

# %% tags=["hide-input"]
# count multiply–adds and the largest tensor of whole detectors (stock block: written out)
counted = {}
for name in placements.MODELS:
    model = yolo.YOLO(name).model
    for size in placements.SIZES:
        counted[name, size] = cost.count(model, size)

for (name, size), need in counted.items():
    if size != 1280:
        print(f"{name[8:-5]:10} {size:4} px  {need.macs / 1e9:6.1f} GMACs, largest tensor {need.largest / 2**20:9,.0f} MiB")

# %% tags=["hide-input"]
# figure: multiply–adds of the whole detector
names = [f"{places.upper().replace('P', '+P')[1:]}, {size:,} px" for size in placements.SIZES for places in placements.PLACES]
series = {kind: [counted[f"yolo11n-{block}-{places}.yaml", size].macs / 1e9 for size in placements.SIZES for places in placements.PLACES]
          for kind, block in (("softmax", "psa"), ("TSSA", "tssa"))}
fig = plots.bars(names, series, title="Multiply–adds of the whole detector", ylabel="10⁹ MACs", yscale="log", ax=plots.row(1, 8, 3.8)[0])
top = [v[-1] for v in series.values()]
timed = {b: placements.find(placements.load()["rows"], b, "p3p4p5", 1920)["wall_ms"] / 1e3 for b in ("sdpa", "tssa", "plain")}
show(fig, alt="Pairs of bars on a logarithmic axis: nearly equal at P5; with P3 and P4 the softmax bars rise to ten times the TSSA bars",
     digest=f"P3+P4+P5 at 1,920 px: {top[0]:.0f} against {top[1]:.0f} GMACs; on the machine of data/results/placements.json "
            f"{timed['sdpa']:.1f} s by SDPA, {timed['tssa']:.1f} s with TSSA, {timed['plain']:.1f} s without attention")

# %% [markdown]
# TSSA at all three levels costs little more than TSSA at P5 alone. Softmax attention at all three costs eleven times as much as that at 1,920 px. At P5 alone, the YOLO11
# that people use, the two are close. Whole detectors were timed, too, with softmax attention written out, by SDPA, and with no attention at all: the line beneath the figure has one of these times, [Going deeper](#Whole-detectors,-timed) all.
#
# That TSSA *can* go to P3 says nothing yet about whether it helps there, or anywhere: this is a question about accuracy, and it takes trained detectors to answer. [Lesson 11](11_does_a_detector_need_it.ipynb) asks it where the answer can be yes.

# %% [markdown]
# ## Takeaways
#
# - YOLO11 has one block of attention, C2PSA in row 10, at stride 32; half of its channels pass through it.
# - Softmax attention mixes tokens by $K n^2$ weights; TSSA gates channels by $K p$ statistics, and starts with uniform memberships.
# - Ultralytics looks names up in its own file; a wrapper around `parse_model` that shows it the stock twin registers a block for every verb, without an edited package.
# - All weights but queries and keys have a place; the result must be fine-tuned.
# - At P5 the swap saves under one percent of parameters, and little time at 640 px. At P4 and P3 TSSA saves time: softmax
#   attention does many times its multiply–adds there. Memory is a matter of writing: only a form that is written out needs the table of $n \times n$.
# - With one head Π is 1 and TSSA is a channel gate. The plans by name have at least two heads everywhere.

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself.
#
# ### What the library's registration adds
#
# The library's version (`yolo.register`, which importing `tssa_lib.yolo` calls) adds what daily use asks for. It builds our block
# under a *forked* random generator, so that all other layers start with the same numbers as stock YOLO11 from the same seed. It adds
# a callback that does nothing: with several GPUs Ultralytics starts worker processes and pickles its callbacks for them. A function of a
# module is pickled as a name, so each worker has to import our file, and is registered. It puts our classes on PyTorch's list of classes
# that a checkpoint may hold. And it
# answers a name that nobody knows with the names that are known:

# %%
typo = copy.deepcopy(plan)
typo["backbone"][10][2] = "C2TSA"
try:
    tasks.DetectionModel(typo, verbose=False)
except ValueError as error:
    print(str(error)[:150], "…")

# %% [markdown]
# ### Seconds by scale
#
# Processor time of whole detectors, in turns, at 320 px, the least of five runs, which depends least on what else the machine does (your figures will differ):

# %%
for scale in "nsm":
    pair = {name: yolo.YOLO(name).model.float().eval().fuse(verbose=False) for name in (f"yolo11{scale}.yaml", f"yolo11{scale}-tssa.yaml")}
    took = cost.seconds(pair, 320, budget=2, most=5)
    least = [min(processor for _, processor in runs) for runs in took.values()]
    print(f"{scale}  softmax {1e3 * least[0]:.0f} ms, TSSA {1e3 * least[1]:.0f} ms")

# %% [markdown]
# ### Which rows are the values
#
# **Exercise 10d.** Return the numbers of the *value* rows in the projection of a softmax attention with `heads` heads that are
# `p` wide (queries and keys half as wide), as a list. Head 1 comes first with its queries, keys and values, then head 2.

# %%
def answer_10d(heads, p):
    return ...  # your turn: [first value row, …]

exercise("10d", answer_10d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_10d(heads, p):
#     return [head * 2 * p + p + i for head in range(heads) for i in range(p)]
# ```
#
# Each head has $2p$ rows: $p/2$ queries, $p/2$ keys, and then $p$ values. Taking the *last* $d$ rows of the whole projection would mix heads up, and
# no shape would complain.
#
# </details>

# %% [markdown]
# ### What the carried block computes
#
# Having a place is not the same as working there. The attention in front of `proj` is now another function, of another size; `proj`'s batch norm still subtracts the
# mean and divides by the deviation of the old one. We carry the weights over and compare what arrives at `proj`, and what leaves the block:

# %%
kept = fresh.model.double().eval().model[10]
arrives = {}
for name, block in (("softmax", c2psa), ("TSSA", kept)):
    a = block.m[0].attn
    hook = a.proj.register_forward_hook(lambda m, i, o, name=name, a=a: arrives.update({name: i[0]}))
    with torch.no_grad():
        out = block(x)
    hook.remove()
    arrives[name + " out"] = out

ratio = (arrives["TSSA"].std() / arrives["softmax"].std()).item()
change = ((arrives["TSSA out"] - arrives["softmax out"]).norm() / arrives["softmax out"].norm()).item()
print(f"deviation of what arrives at proj: {ratio:.2f} of the old one; the block's output changed by {100 * change:.0f} %")

# %% [markdown]
# The carried model is therefore a starting point, not a finished detector: it must be trained on. (These figures are of random weights; a trained checkpoint has
# others, and the reason is the same.) `yolo.load` also works when the two plans have attention at different levels: rows are matched by their order, and attention that the
# checkpoint doesn't have starts fresh.

# %%
three = yolo.YOLO("yolo11n-tssa-p3p4p5.yaml")
carried = yolo.load(three, stock)
print(f"{carried.parameters:,} of {carried.parameters_of:,} parameters found a place; {len(carried.fresh)} tensors start fresh")

# %% [markdown]
# ### Whole detectors, timed
#
# `python -m experiments.placements` measures whole detectors on your machine. What is committed is one measurement on one machine. Softmax attention comes twice: the stock
# block, **written out**, and the same block by **SDPA** (section 10.9), its rival in earnest. *No attention* is the same block with the identity in attention's place: what is
# above it is what attention costs.

# %%
measured = placements.load()
rows = measured["rows"]
print(f"{measured['command']} · {measured['threads']} thread(s), torch {measured['torch']}, {measured['what']}")
for r in rows:
    if r["model"].endswith(("-p5.yaml", "-p3p4p5.yaml")):
        print(f"{r['model'][8:-5]:12} {r['size']:4} px ", r.get("not_run") or f"{r['wall_ms'] / 1e3:7.2f} s, {r['peak_mib']:7,.0f} MiB")

# %% tags=["hide-input"]
# figure: the committed measurement
def drawn(what, scale):
    return {kind: [placements.find(rows, block, places, size).get(what, float("nan")) / scale for size in placements.SIZES
                   for places in placements.PLACES] for block, kind in placements.BLOCKS.items()}

top, bottom = plots.row(1, 8, 3.6, rows=2)
plots.bars(names, drawn("wall_ms", 1e3), title="Time of one picture", ylabel="seconds", yscale="log", ax=top)
fig = plots.bars(names, drawn("peak_mib", 1), title="Memory that one picture adds", ylabel="MiB", yscale="log", ax=bottom)
missing = [r["model"][8:-5] + f" at {r['size']:,} px" for r in rows if "not_run" in r]
show(fig, alt="Two bar charts on logarithmic axes, four bars a group: no attention, softmax written out, softmax by SDPA, TSSA. All are close at P5. "
              "With P3 both softmax bars of time rise far above TSSA's, which stays near no attention's. Of memory, the written-out form alone rises",
     digest=f"measured {len(rows) - len(missing)} of {len(rows)}; not run for want of memory: {', '.join(missing) or 'none'}")

# %%
for size in placements.SIZES:                                              # all three levels: what attention costs
    none, sdpa, ours = (placements.find(rows, block, "p3p4p5", size) for block in ("plain", "sdpa", "tssa"))
    print(f"P3+P4+P5, {size:4} px: SDPA takes {sdpa['wall_ms'] / ours['wall_ms']:4.1f} times TSSA's time and {sdpa['peak_mib'] / ours['peak_mib']:.2f} of its memory; "
          f"TSSA takes {ours['wall_ms'] / none['wall_ms']:.2f} of the time of no attention")

# %% [markdown]
# Read the P5 bars first: they are the fair comparison with the YOLO11 that people use. Both were measured once more, alone, with more
# repetitions and on two threads (into a file of its own).

# %%
beside = placements.load("stock_vs_tssa")
print(f"{beside['command'].split(' --out')[0]} · {beside['threads']} threads on {beside['cores']} cores, load {beside['load']}")
alone = beside["rows"]
for size in placements.SIZES:
    none, sdpa, ours = (placements.find(alone, block, "p5", size) for block in ("plain", "sdpa", "tssa"))
    print(f"P5 only, {size:4} px, {ours['runs']} runs: TSSA takes {ours['wall_ms'] / sdpa['wall_ms']:.2f} of SDPA's time and {ours['peak_mib'] / sdpa['peak_mib']:.2f} of its memory, "
          f"{ours['wall_ms'] / none['wall_ms']:.2f} of the time of no attention")

# %% [markdown]
# At P5 the attention is a small part of the network, so at 640 px the detectors take about the same time, whatever their attention costs; the differences of a few percent there
# are those of the clock. At three levels SDPA's term in $n^2$ shows in the time of the whole detector, and grows with the picture, while TSSA stays within about a tenth of no attention.
# In memory SDPA and TSSA are alike: the largest moment is in the second convolution, long before any attention, and what differs is how the allocator happened to lay things
# out. The gigabytes belong to the written-out table alone.

# %% [markdown]
# ### Tied and code, behind batch norm
#
# Two switches of the block come from the derivation: *tied* (the output map is the projection's transpose, so the update is the gradient again and has a safe step, lessons 5 and 7) and
# *code* (memberships by corrected code lengths, the assignment that the rate itself asks for, lesson 6).
#
# Both meet the batch norm of YOLO's convolutions. *Tied* must transpose what the projection computes as a whole: a convolution with weights
# $(\text{conv})$, then channel by channel a scale $g$ that batch norm learned over a standard deviation $\sigma$. (While training these are the running ones.)
#
# $$
# w = U^\top Z + b, \quad U^\top = \operatorname{Diag}(g/\sigma)\,(\text{conv}), \quad O = U \quad \Longrightarrow \quad -\sum_{k=1}^{K} O_k D_k\, w_k \operatorname{Diag}(\pi_k) = -n\, \nabla_Z R_c^{\mathrm{var}} \tag{10.9}
# $$
#
# *(10.9) Checked. With the transpose of projection and batch norm as output map, the block's attention is minus n times the gradient of the variational rate, Π held fixed — this series · `yolo.TSSAttention`*

# %%
tied = yolo.TSSAttention(32, 4, tied=True).eval()                          # double precision, as all here
for tensor in (tied.qkv.bn.weight, tied.qkv.bn.bias, tied.qkv.bn.running_mean):
    torch.nn.init.normal_(tensor)
tied.qkv.bn.running_var.uniform_(0.5, 2.0)
Z = torch.randn(1, 32, 4, 6, requires_grad=True)                           # n = 24 tokens
Pi = tied.statistics(Z).Pi.detach()                                        # (1, K, n), held fixed

# %%
def variational_rate(Z):
    """R_c^var of the projected tokens with c = 1: half the logarithms of 1 + s, weighted by group size."""
    s = tssa.second_moments(tied.project(Z), Pi)                           # (1, K, p)
    return (Pi.sum(-1) / 24 * (1 + s).log().sum(-1)).sum() / 2

gradient, = torch.autograd.grad(variational_rate(Z), Z)
tied.pe = torch.nn.Identity()
tied.pe.forward, tied.proj = torch.zeros_like, torch.nn.Identity()         # the attention alone
check("10.9", tied(Z), -24 * gradient, "tied attention of the block against autograd", tol=1e-8)          # 1e-8 is added to n_k

# %% [markdown]
# *Code* meets it worse. Batch norm gives all channels the same second moment. But a code length asks *which* directions are the large ones, and if none are, then every
# head codes every token at the same length:
#
# $$
# s_{ki} = \rho_k = 1 \ \text{for all } k, i \quad \Longrightarrow \quad T_{jk} = d\,(\ln 2 - \tfrac12) + \tfrac12 \lVert z_j \rVert^2, \qquad \pi_{jk} = \tfrac1K \tag{10.10}
# $$
#
# *(10.10) Checked. Between channels of equal second moments (c = 1) the corrected code lengths do not depend on the head, so memberships are uniform — this series · `tssa.memberships`*

# %%
z = torch.randn(60, 32)
z = z / z.square().mean(0).sqrt()                                          # (n, d), every channel with second moment 1
heads = torch.eye(32).unflatten(1, (4, 8)).transpose(0, 1)                 # (K, d, p): eight channels a head
T = rates.code_lengths(z, torch.full((4, 60), 0.25), heads, eps2=32.0, corrected=True)
check("10.10", T, (32 * (math.log(2) - 0.5) + (z ** 2).sum(1) / 2).expand(4, 60), "code lengths after batch norm")

w = z.T.unflatten(0, (4, 8)).mT                                            # (K, n, p)
Pi = tssa.memberships(w, 1.0, "code")
print(f"the block's memberships in four heads: {Pi.min():.3f} to {Pi.max():.3f}")

# %% [markdown]
# In a network there is a little more to read: batch norm evens out the moments over a whole batch, not in each picture, and it learns scales. What the switches do to accuracy: [lesson 11](11_does_a_detector_need_it.ipynb).

# %% [markdown]
# ## Sources
#
# - Ultralytics YOLO11, package `ultralytics` (AGPL-3.0): the network, `C2PSA`, `Attention`, the parser.
# - Z. Wu, T. Ding, Y. Lu, D. Pai, J. Zhang, W. Wang, Y. Yu, Y. Ma, B. Haeffele, *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction*, 2024.
# - A. Vaswani et al., *Attention Is All You Need*, NeurIPS 2017.
# - C.-Y. Wang et al., *CSPNet: A New Backbone that can Enhance Learning Capability of CNN*, CVPR Workshops 2020 (half of the channels bypass the expensive part).
#
# [◀ previous](09_linear_time.ipynb) · [contents](00_start_here.ipynb) · [next ▶](11_does_a_detector_need_it.ipynb)
