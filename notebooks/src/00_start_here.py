# %% [markdown]
# # Lesson 0 · Start here
#
# [contents](00_start_here.ipynb) · [next ▶](01_coding_rate.ipynb)
#
# A layer of a neural network moves tokens. Token Statistics Self-Attention (TSSA) is a layer whose movement
# is not guessed and then trained, but derived: write down what a good arrangement of tokens costs to
# describe, bound that cost by something simple, take one step downhill. What comes out needs no matrix of
# token against token, and its time grows with the number of tokens, not with its square. This series derives
# the layer line by line, has the computer check every line, and then trains it inside YOLO11.
#
# **After this you can**
# - say in seven sentences how TSSA comes about, and run the four that have a formula (1, 2, 4 and 5) on six tokens
# - point at a picture and read what a trained layer does with it
# - tell what the groups are that it finds in a picture, and what they are not
# - translate between the formulas (tokens are columns) and the code (tokens are rows)
# - look up any symbol of the series, and choose where to start reading
#
# **Before this:** linear algebra (eigenvalues, orthonormal bases) and gradients. No information theory.
#
# **Time:** about 26 minutes to read, 30 seconds to run on two CPU cores; with Going deeper about 9 minutes more.

# %% [markdown]
# Is this machine ready? The next cell tests every requirement of the lessons. If something is missing, it says what it is and how to fix
# it; `python go.py doctor` says the same in a shell.

# %% tags=["nbval-ignore-output"]
from kit import doctor

doctor.report()

# %% [markdown]
# ## 0.1 Look first
#
# This is a detector of blood cells that comes with the project, with TSSA at three levels of YOLO11, and a picture that it was not trained on. Point at the picture: the lens shows to which
# **head** each token (a cell of the layer's map: 8 × 8 pixels at *stride* 8) belongs. That share is its **membership** $\pi$. The bars are the **gates** $D$ of that head: which share of each coordinate the layer takes away.
#
# **Try:** choose head 3 at stride 8 and point at the large violet cell. **Predict**, before you press "off": how many of the 15 boxes will stay when that layer is silent?

# %%
from tssa_lib import Lens, ready, views
from tssa_lib.lens import example

picture, another = example()
lens = Lens(ready("blood_cells"), picture, other=another, progress=False)
lens

# %% [markdown]
# The same without a pointer: one layer, its heads and its gates.

# %% tags=["hide-input"]
# figure: the layer that the lens opens on, as a picture
from kit import show

silent = next(run["says"] for run in lens.data["runs"] if run["key"] == "all")
show(views.overview(lens.look), alt=lens.data["alt"], digest=silent)

# %% [markdown]
# Two things are true at once. One head holds the white blood cell, learned from boxes alone, and its gates are low: what it holds is kept. (A gate is a share. The map of what is taken away shows
# amounts, and isn't dark on the cell, because its tokens are long.) And with every TSSA layer silent the boxes stay, as the line under the figure counts:
# this detector's convolutions do not need it here. **A map that looks right is no evidence.** The series measures both, and asks when attention is needed.

# %% [markdown]
# ## 0.2 Groups without any training
#
# Where do such groups come from? The cell below takes a photograph, cuts it into small overlapping squares (the *tokens*: 8 × 8 pixels, a
# step of 4), and sorts these into four groups. Nobody tells it what a flower is and nothing is trained: a
# group is a set of tokens that is cheap to describe together.

# %%
import torch

from tssa_lib import rates, tssa
from kit import EXACT, check, check_below, photos, plots

torch.set_default_dtype(torch.float64)
panels, shares = [], []
for name in ("flower", "china"):
    photo = photos.sample(name)
    x, grid = photos.tokens(photo)                                         # (N, 16): the 16 strongest of 192 coordinates
    maps = photos.group(x, K=4).Pi.unflatten(1, grid)                      # (4, rows, columns)
    panels += [photo, plots.group_map(maps.argmax(0)), *maps]
    shares += [f"{name}: {len(x)} tokens, largest group {100 * maps.mean((1, 2)).max():.0f} %"]

# %% tags=["hide-input"]
# figure: two photographs and their groups
titles = ["photograph", "strongest group"] + [f"Π of group {k}" for k in (1, 2, 3, 4)]
show(plots.pictures(panels, 2 * titles, columns=6, size=2.2, unit="membership π", vmin=0, vmax=1),
     alt="Two photographs, a blossom and a pagoda, each with its strongest group by colour and four membership maps: "
         "of the blossom, one map lights up all its petals and one its rim; of the pagoda, one the sky, one the tower, one the foliage",
     digest="; ".join(shares))

# %% [markdown]
# A bright pixel in a map says that the token there belongs to that group. These maps are the **memberships**,
# called $\Pi$ all through the series: one number for each token and group, and for each token they sum to
# one. One map holds the blossom, another only its rim; in the second photograph the sky, the tower and the
# foliage part ways.
#
# Two warnings at once. These are groups of *texture and colour*, not of things: on a crowded street the same
# recipe finds edges and flat areas (lesson 6 shows it fail). And the layer inside a network uses another rule
# for $\Pi$, whose maps start almost blank (lesson 6 measures it).

# %% [markdown]
# ## 0.3 The whole argument, in seven steps
#
# Six tokens in the plane, typed by hand, come along through all lessons. The first three lie near the first
# axis, the last three near the second: two groups, readable by eye.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c: group 1
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f: group 2
Pi = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])              # (K, N)
eps2, (n, d) = 0.1, six.shape

# %% [markdown]
# **Step 1 (lesson 1). Tokens have a price.** To describe a cloud of tokens up to a precision $\varepsilon$
# costs a number of bits that can be counted: how many small balls fill the region where the tokens lie?
# With the second moment $S = ZZ^\top/n$ and $c = d/\varepsilon^2$ the *coding rate* of one token is
#
# $$
# R(Z) = \tfrac{1}{2} \log\det \left( I + c\, S \right) . \tag{0.1}
# $$
#
# *(0.1) Definition. The coding rate: what a token of this cloud costs — Ma et al. 2007 · `rates.coding_rate`*
#
# **Step 2 (lesson 2). Groups are cheaper.** Group $k$ holds $n_k = \sum_j \pi_{jk}$ of the $n$ tokens. Give it a code of its own, made for
# its own second moment $S_k$. What is saved, $\Delta R = R - R_c$, is large when each group is flat and the groups point in different
# directions. That is a good arrangement of tokens, and no label was needed to say so.
#
# $$
# R_c(Z, \Pi) = \tfrac{1}{2} \sum_{k=1}^{K} \frac{n_k}{n} \log\det \left( I + c\, S_k \right) \tag{0.2}
# $$
#
# *(0.2) Definition. The rate when each group has its own code — Yu et al. 2020 · `rates.compression_rate`*

# %%
R, R_c = rates.coding_rate(six, eps2), rates.compression_rate(six, Pi, eps2)
print(f"one code for all R = {R:.3f} nats, a code a group R_c = {R_c:.3f} nats, saved ΔR = {R - R_c:.3f} nats")

# %% [markdown]
# **Step 3 (lesson 3). Lowering the price is attention.** One gradient step on such a rate, with a few
# approximations, turns into multi-head self-attention: each token moves by a mixture of tokens like it. The
# approximations cost something, and the result still compares every token with every other: $n^2$ pairs.
#
# **Step 4 (lesson 4). Bound the price by single coordinates.** In a determinant all coordinates are
# entangled. Look along fixed orthonormal directions $u_{k1}, u_{k2}, \dots$ instead, code each coordinate
# alone, and the price can only rise; it stays the same exactly when the directions are the principal ones.
#
# $$
# R_c \;\le\; R_c^{\mathrm{var}} = \tfrac{1}{2} \sum_{k} \frac{n_k}{n} \sum_{i} \ln\left(1 + c\, s_{ki}\right), \qquad
# s_{ki} = \frac{1}{n_k} \sum_{j} \pi_{jk} \left(u_{ki}^\top z_j\right)^2 \tag{0.3}
# $$
#
# *(0.3) Checked. Coding each coordinate alone costs at least as much (complete orthonormal frames) — Wu et al. 2024 · `rates.variational_rate`*

# %% tags=["hide-input"]
# check of (0.3): the bound in 200 random frames, reached in the principal ones
draw = torch.Generator().manual_seed(0)
frames = torch.linalg.qr(torch.randn(200, 2, d, d, generator=draw))[0]     # (200, K, d, d), any directions
principal = torch.linalg.eigh(rates.second_moment(six, Pi))[1]             # (K, d, d), each group's own
bound = torch.stack([rates.variational_rate(six, Pi, U, eps2) for U in frames])
check_below("0.3", R_c.expand(200), bound, "R_c against the bound in 200 random frames",
            equal=(R_c, rates.variational_rate(six, Pi, principal, eps2)))

# %% [markdown]
# **Step 5 (lesson 5). The gradient of the bound is the layer.** The tokens enter the bound only through the statistics $s_{ki}$:
# second moments of the tokens, one for each group and direction. A step of length $t$ against its gradient, with $\Pi$ held fixed, is TSSA:
#
# $$
# Z^{+} = Z - t \sum_{k=1}^{K} U_k D_k U_k^\top Z\, \mathrm{Diag}(\pi_k), \qquad D_k = \mathrm{Diag}\left(\frac{c}{1 + c\, s_{ki}}\right)_{i} \tag{0.4}
# $$
#
# *(0.4) Checked. The TSSA update is a step against the gradient of the bound — Wu et al. 2024 · `tssa.tssa_update`*
#
# Read it from the right: share the tokens out to the groups, look at them along the group's directions, keep the
# directions with a large second moment (their gate $D$ is small: little is taken away), shrink those with a small
# one. No token looks at another; they meet only in $s$. That is why the cost is linear in the number of tokens.

# %% tags=["hide-input"]
# check of (0.4): the update in turned frames, against autograd
V, t, Z = frames[0].flip(-1), eps2 / d, six.clone().requires_grad_()      # V: turned frames, so that U_k and its transpose count
rates.variational_rate(Z, Pi, V, eps2).backward()
check("0.4", six + tssa.tssa_update(six, Pi, V, eps2, t), six - t * n * Z.grad, "TSSA in turned frames against autograd", tol=EXACT)

# %% [markdown]
# How long may a step be? Lesson 5 proves that every $t$ between 0 and $2\varepsilon^2/d$ lowers the bound, for any tokens, as long as $\Pi$
# is held fixed and the frames are orthonormal, and that 2 is the best constant. In the layer's own units, $\gamma = ct$, with the output map tied to
# the frames: `x + γ·TSSA(x)` goes downhill for $0 < \gamma < 2$. Lessons 5 and 7 show what is left without these conditions.

# %%
U, t = torch.eye(2).expand(2, 2, 2), eps2 / d                              # both groups look along the two axes; γ = 1
price = [rates.variational_rate(six, Pi, U, eps2)]
moved = six
for _ in range(6):
    moved = moved + tssa.tssa_update(moved, Pi, U, eps2, t)
    price.append(rates.variational_rate(moved, Pi, U, eps2))

# %% tags=["hide-input"]
# figure: the tokens before and after
before, after = plots.row(2)
look = dict(directions=torch.eye(2), names="abcdef")
plots.points(six, [0, 0, 0, 1, 1, 1], arrows=moved - six, title="six tokens, and where they go", ax=before, **look)
fig = plots.points(moved, [0, 0, 0, 1, 1, 1], title="after six TSSA steps (γ = 1)", ax=after, **look)
for ax in (before, after):
    ax.set(xlim=(-2.5, 2.5), ylim=(-2.2, 2.2), adjustable="box")
show(fig, alt="Left, six tokens scattered around two axes; right, the same tokens after six steps, pressed onto their axes",
     digest="bound in nats at the start and after each step: " + ", ".join(f"{r:.2f}" for r in price))

# %% [markdown]
# The tokens were pressed onto the two axes: what stuck out of a group's direction was taken for noise and is gone, what
# lay along it is kept for the most part.
#
# **Step 6 (lesson 6). Who belongs where.** Until here $\Pi$ was given. If tokens come from a mixture of
# subspaces, the probability that token $j$ came from subspace $k$ grows with its energy there,
# $\lVert U_k^\top z_j \rVert^2$: a softmax over the *groups*. That is the attention map of this layer.
#
# **Step 7 (lessons 7 to 12). From the formula to a detector.** The layer that people run departs from the formula
# in a dozen places; each gets its switch and its test (lesson 7). A small classifier is trained with it
# (lesson 8), its cost is counted against its rivals (lesson 9), and it takes the place of the softmax attention
# in YOLO11 (lessons 10 and 12).

# %% [markdown]
# Tokens are columns in the formulas and rows in the code. How the two meet, signs and units, and every symbol: [Going deeper](#Columns-in-formulas,-rows-in-code).

# %% [markdown]
# ## 0.4 The map
#
# The lessons build on each other, and each states what it needs. If you only want the layer, read 5, 6 and 7; if
# you want YOLO, read 7, 10 and 12 and come back when a formula surprises you.
#
# | Lesson | What it holds | To read | To run |
# |---|---|---|---|
# | [1 · The coding rate](01_coding_rate.ipynb) | the price of a cloud of tokens | 35 min | 12 s |
# | [2 · Rate reduction](02_rate_reduction.ipynb) | groups are cheaper; the best arrangement | 35 min | 20 s |
# | [3 · A step of compression is attention](03_attention_is_compression.ipynb) | a detour: CRATE's attention and its four approximations | 37 min | 20 s |
# | [4 · The variational bound](04_variational_bound.ipynb) | one coordinate at a time, and what that costs | 37 min | 25 s |
# | [5 · The TSSA update](05_tssa_update.ipynb) | the gradient step, and how far it may go | 39 min | 20 s |
# | [6 · Memberships](06_memberships.ipynb) | who belongs where, on photographs | 36 min | 25 s |
# | [7 · The layer that people run](07_the_layer.ipynb) | a card for each departure from the formula | 37 min | 20 s |
# | [8 · ToST, trained](08_tost.ipynb) | a classifier of digits, layer by layer | 30 min | 60 s |
# | [9 · Linear time](09_linear_time.ipynb) | cost against nine rivals, counted and measured | 33 min | 60 s |
# | [10 · Inside YOLO11](10_inside_yolo11.ipynb) | where attention lives, C2TSSA in its place | 38 min | 60 s |
# | [11 · Does a detector need it?](11_does_a_detector_need_it.ipynb) | a positive control, the ladder of context, use | 39 min | 160 s |
# | [12 · Train YOLO with TSSA](12_train_tssa_yolo.ipynb) | blood cells: train, look, measure, export; your own data | 37 min | 300 s |
#
# How the lessons keep themselves honest: each displayed equation is either a definition or **checked** by a cell
# that prints a line with a tick, the largest error and what was allowed; a check that would not notice one side moved by 2 % counts as
# failed. All of them stand in [EQUATIONS.md](EQUATIONS.md). In lessons 1 to 12 exercises wait for you: the cell says
# whether you are right, and if not, what you probably mixed up.

# %% [markdown]
# ## Takeaways
#
# - A coding rate prices a set of tokens; groups with codes of their own are cheaper.
# - Coding each coordinate alone bounds that price from above, and a step against the gradient of the bound is TSSA.
# - Tokens meet only in second moments, $K \cdot p$ numbers: the cost is linear in their number.
# - The memberships $\Pi$ are a softmax over groups. They show texture and colour, not objects.
# - Tokens are columns in formulas and rows in code; rates are in nats; updates carry their minus sign.

# %% [markdown]
# ## Going deeper
#
# ### Columns in formulas, rows in code
#
# In formulas the tokens are the columns of $Z$, a $d \times n$ matrix, because a matrix then acts on all tokens from the left, $U_k^\top
# Z$. Libraries put tokens into rows: `x` has shape `(…, N, d)` and is $Z^\top$. The bridge between
# them is shown here once, and the lessons cross it without a word:
#
# $$
# w_k^\top = \left(U_k^\top Z\right)^\top = Z^\top U_k, \qquad k = 1, \dots, K \tag{0.5}
# $$
#
# *(0.5) Checked. Projected tokens: columns of the formula are rows of the code — convention of this series*
#
# The group is a leading axis in the code: `w` is `(K, N, p)`, the memberships `Pi` are `(K, N)`, so
# `Pi[k, j]` is $\pi_{jk}$ and `Pi.sum(0)` is all ones. A linear layer that holds all frames stacks their
# transposes, $[U_1^\top; \dots; U_K^\top]$: group $k$ owns $p$ consecutive rows of `qkv.weight`.

# %% tags=["hide-input"]
# check of (0.5): rows of the layer, columns of the formula
U, Z = torch.linalg.qr(torch.randn(2, 2, 2, generator=draw))[0].flip(-1), six.T     # (K, d, p), (d, n)
weight = torch.cat([U_k.T for U_k in U])                                   # (K·p, d), what `qkv.weight` holds
w = (six @ weight.T).unflatten(-1, (2, 2)).transpose(0, 1)                 # (K, N, p), as the layer computes it
check("0.5", w, torch.stack([(U_k.T @ Z).T for U_k in U]), "rows of the layer, columns of the formula")

# %% [markdown]
# ### Signs, units and names
#
# - **Down is good for a compression term.** $R_c$ and its bound are to be *lowered*, so an update is minus a
#   gradient and carries its own minus sign: $Z^{+} = Z + \mathrm{TSSA}(Z)$. $\Delta R$ is to be *raised*.
# - **$\varepsilon^2$, not $\varepsilon$**, is what every function takes (`eps2`): a mean squared error, in the
#   square of the token's unit.
# - **Second moments, not covariances.** $S = ZZ^\top/n$ has no mean subtracted.
# - **$t$ and $\tau$.** The gradient carries $1/n$; the step $\tau$ of the papers grows with $n$, and $t = \tau/n$ does not.
#   All code uses $t$.
# - **Temperature.** $\eta$ divides, the layer's `temp` $\theta$ multiplies: $\theta = 1/(2\eta)$.
# - **Nats and bits.** Logarithms are natural and rates come in nats; a bit is $\ln 2 = 0.693$ nats:
#
# $$
# R_{\mathrm{bits}} = \frac{R}{\ln 2} = \tfrac{1}{2} \log_2 \det \left( I + c\, S \right) \tag{0.6}
# $$
#
# *(0.6) Checked. From nats to bits — textbook information theory*

# %% tags=["hide-input"]
# check of (0.6): the rate in bits
S = rates.second_moment(six)
check("0.6", R / torch.tensor(2.0).log(), 0.5 * torch.log2(torch.linalg.det(torch.eye(2) + d / eps2 * S)), "R in bits")
print(f"R of the six tokens: {R:.3f} nats = {R / torch.tensor(2.0).log():.3f} bits a token")

# %% [markdown]
# ### Notation
#
# Every symbol of every displayed equation. Some sources use the same letters otherwise, so beware: inside the
# published layer `d` is the head width, our $p$; `eta` in its blocks is the start value of LayerScale, not the
# temperature; `eps` in the code of MCR² is $\varepsilon^2$.
#
# | Symbol | Shape | Meaning | Python name |
# |---|---|---|---|
# | $d$, $n$, $K$, $p$ | – | model width, number of tokens, of groups (heads), width of a head | `dim`, `N`, `K` or `num_heads`, `p` |
# | $Z$, $z_j$ | d × n, d | tokens as columns; $Z^{+}$ after an update | `x` (…, N, d), transposed |
# | $S$, $S_k$ | d × d | second moment of all tokens, of group k | `rates.second_moment` |
# | $\varepsilon^2$, $c$ | – | squared precision; $c = d/\varepsilon^2$, inverse noise of a coordinate | `eps2`, `c` |
# | $\alpha$, $\alpha_k$, $\beta$ | – | $d/(n\varepsilon^2)$, $d/(n_k\varepsilon^2)$, $p/(n\varepsilon^2)$: constants of $R$, $R_c$, of the rate in subspaces | `alpha`, `beta` |
# | $R$, $R_c$, $\Delta R$ | – | coding rate, rate of groups, their difference, in nats | `rates.coding_rate`, `.compression_rate`, `.rate_reduction` |
# | $R_c^{\mathrm{var}}$, $R_c^{\mathrm{corr}}$ | – | variational rate; corrected for the directions off the frames | `rates.variational_rate` |
# | $R^c$ | – | lesson 3 (compared in lesson 2): the rate of *all* tokens in every frame (index above), not $R_c$ | `rates.subspace_rate` |
# | $F$, $f$ | – | spectral sum $F(M) = \sum_i f(\lambda_i(M))$; $f(x) = \ln(1 + cx)$ | – |
# | $U$, $U_k$, $u_{ki}$ | d × p, d | frame (orthonormal columns) of group k and its directions | `U` (K, d, p), `qkv.weight` |
# | $w$, $w_k$ | p × n | projected tokens $U_k^\top Z$ | `w` (…, K, N, p) |
# | $G$, $G_k$ | n × n | similarities of the tokens as group k sees them, $w_k^\top w_k$ | `w @ w.mT` |
# | $\Pi$, $\pi_k$, $\pi_{jk}$ | n × K, n, – | memberships, of group k, of token j in group k | `Pi` (…, K, N) |
# | $n_k$ | – | mass of group k, $\sum_j \pi_{jk}$ | `Pi.sum(-1)` |
# | $s_k$, $s_{ki}$ | p, – | second moments of group k along its directions | `s`, `tssa.second_moments` |
# | $D$, $D_k$ | p × p, diagonal | gates $f'(s_k)$ | `D`, `tssa.gates` |
# | $O$, $O_k$ | d × d, d × p | output map of the layer that people run, free or equal to $U_k$ (lesson 7) | `to_out[0].weight` |
# | $\tau$, $t$ | – | step; step that does not depend on n, $t = \tau/n$ | `t` |
# | $\gamma$ | – | step in the layer's units, where $c = 1$ | `gamma1` |
# | $A$, $A_j$ | d × d | curvature of the majoriser at token j | `tssa.largest_safe_gamma` |
# | $\eta$, $\theta$, $\theta_k$ | – | temperature of the memberships; learned inverse temperature | `eta`, `temp` |
# | $\rho$, $\rho_k$ | – | mean residual variance of a direction off $U_k$ | `rho` |
# | $T$, $T_{jk}$ | n × K | twice the nats that one more token like j costs in group k | `rates.code_lengths` |
# | $H$ | – | entropy in nats | – |
# | $E$, $E_{jk}$ | n × K | energy of token j in frame k; also an expectation | – |
# | $\mathcal{N}$ | – | normal distribution | `torch.distributions` |
# | $\lambda$, $\lambda_i$ | – | signal variance in a subspace; eigenvalue | `lam` |
# | $\sigma$, $\sigma_i$ | – | standard deviation of noise; singular value | `sigma2` is $\sigma^2$ |
# | $\Sigma$, $\Sigma_k$ | d × d | covariance matrix of group k (as a large operator: a sum) | `Sigma` |
# | $M$, $Q$, $B$ | d × d | a positive semidefinite matrix, an orthogonal and a doubly stochastic one | – |
# | $I$, $I_d$ | d × d | identity matrix | `torch.eye` |
# | $L$ | – | a bound on curvature or norm | – |
# | $C$ | – | number of colours (lesson 11) | – |
# | $b$, $b_k$ | p | bias of the projection | `qkv.bias` |
# | $\mathbb{R}$ | – | real numbers | – |
# | $g$, $h$, $i$, $j$, $k$, $l$, $m$, $q$, $r$, $t$, $u$, $v$, $x$, $y$, $a$, $b$, $e$ | – | indices, counts and numbers that only one formula uses | – |

# %% [markdown]
# ## Sources
#
# - Y. Ma, H. Derksen, W. Hong, J. Wright, *Segmentation of multivariate mixed data via lossy data coding and compression*, 2007
# - Y. Yu, K. H. R. Chan, C. You, C. Song, Y. Ma, *Learning diverse and discriminative representations via the principle of maximal coding rate reduction*, 2020
# - Y. Yu et al., *White-box Transformers via sparse rate reduction* (CRATE), 2023
# - Z. Wu et al., *Token Statistics Transformer: linear-time attention via variational rate reduction* (ToST), 2024, arXiv 2412.17810
# - Photographs: `flower.jpg` (vultilion) and `china.jpg` (danielbuechele), Flickr, CC BY 2.0, from scikit-learn
#
# [contents](00_start_here.ipynb) · [next ▶](01_coding_rate.ipynb)
