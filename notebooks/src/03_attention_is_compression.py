# %% [markdown]
# # Lesson 3 · A step of compression is attention
#
# [◀ previous](02_rate_reduction.ipynb) · [contents](00_start_here.ipynb) · [next ▶](04_variational_bound.ipynb)
#
# Can the attention of a Transformer be derived as one step of compression, and does the result still compress?
#
# **This lesson is a detour.** The derivation of TSSA goes from lesson 2 straight to lesson 4 and uses nothing from here. What the
# detour gives: softmax attention as one gradient step on a rate (the argument of CRATE, a "white-box" Transformer), what each
# approximation on that road costs, and where the square of the number of tokens comes from.
#
# **After this you can**
# - write the compression rate in $K$ subspaces, with its exact gradient in two forms
# - build multi-head subspace self-attention (MSSA) and name the four approximations that lead to it
# - say which of them turns the step around, and what the published layer does to the rate
# - count the operations of both forms of the gradient
#
# **You should be able to answer:**
# - How does the rate $R^c$ of this lesson differ from lesson 2's $R_c$?
# - Is MSSA a descent step on the compression rate?
# - Is attention quadratic in the number of tokens by nature?
#
# **Before this:** lessons 1 and 2 (coding rate, its gradient, rate reduction). Softmax. No Transformer needed.
#
# **Time:** about 37 minutes to read, 20 seconds to run on two CPU cores; with Going deeper 35 minutes more.

# %%
import math

import torch

from tssa_lib import rates
from kit import DIFFERENCES, agree, attention, check, check_below, exercise, live, mine, photos, plots, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])  # a … f
eps2 = 0.1                                                                 # the price of lessons 0 to 2

# %% [markdown]
# ## 3.1 Subspaces instead of memberships
#
# In lesson 2 a table $\Pi$ said which token belongs to which group. A layer has no such table: it
# sees new tokens in each image. CRATE replaces the table by what can be learned once: $K$ subspaces,
# each with an orthonormal basis (its *frame*), the columns of $U_k$ ($d \times p$); one subspace with its frame
# will be a *head*. From subspace $k$, token $z$ looks like the short vector $U_k^\top z$ with $p$ coordinates.
# Every subspace codes what it sees, with a code of its own:
#
# $$
# R^c(Z) = \sum_{k=1}^{K} R(U_k^\top Z) = \frac12 \sum_{k=1}^{K} \log\det\left(I + \beta\, w_k w_k^\top\right), \qquad w_k = U_k^\top Z, \quad \beta = \frac{p}{n\varepsilon^2} \tag{3.1}
# $$
#
# *(3.1) Checked. The rate of all tokens in the frames of K subspaces — Yu et al. 2023 · `rates.subspace_rate`*

# %% tags=["hide-input"]
# the subspaces of the six tokens, their projections, and β
axes = torch.eye(2).reshape(2, 2, 1)                                       # (K, d, p): coordinate 1, coordinate 2

def project(x, U):
    return torch.einsum("nd,kdp->knp", x, U)                               # w, tokens as rows

def beta_of(x, U, eps2):
    return U.shape[-1] / (len(x) * eps2)                                   # p / (n ε²)

# %% [markdown]
# For the six tokens the two subspaces are the two axes: $p = 1$, and $w_k$ is coordinate $k$ of the tokens.
# The checks add nine random tokens in six dimensions with three planes.

# %% tags=["hide-input"]
# check of (3.1): the n × n determinant against the library's p × p
def frames(K, d, p):
    """K orthonormal bases of width p, mutually orthogonal: slices of one random rotation."""
    return torch.linalg.qr(torch.randn(d, d))[0][:, :K * p].reshape(d, K, p).permute(1, 0, 2)

nine, planes = torch.randn(9, 6), frames(3, 6, 2)
pairs = [(six, axes), (nine, planes)]

def rate_literally(x, U, eps2):
    gram = project(x, U) @ project(x, U).mT                                # (K, n, n)
    return 0.5 * torch.logdet(torch.eye(len(x)) + beta_of(x, U, eps2) * gram).sum()

check("3.1", torch.stack([rate_literally(x, U, e) for x, U in pairs for e in (0.1, 1.0)]),
      torch.stack([rates.subspace_rate(x, U, e) for x, U in pairs for e in (0.1, 1.0)]), "n × n determinants, against p × p")

# %% [markdown]
# $R^c$ (index above) is not lesson 2's $R_c$ (index below). There, each token is coded once, by its own group. Here,
# *every* token is coded in *every* subspace; one that fits subspace 1 costs little in the others, because
# they hardly see it. Neither bounds the other: long tokens pay more under $R^c$, short ones under $R_c$
# ([both written out](#Both-rates-side-by-side)). What they share is what
# matters here: both fall when the tokens come closer to their subspaces.

# %% [markdown]
# ## 3.2 The exact gradient, twice
#
# Lesson 1 gave the gradient of $R$; the chain rule puts $U_k$ in front.
#
# $$
# \nabla R^c(Z) = \beta \sum_{k=1}^{K} U_k \left(I + \beta\, w_k w_k^\top\right)^{-1} w_k \tag{3.2}
# $$
#
# *(3.2) Checked. Each head multiplies its projected tokens by one matrix — Yu et al. 2023 · `rates.subspace_rate_grad`*
#
# Project the tokens, multiply all of them by the same $p \times p$ matrix, lift them back. For
# orthogonal subspaces, along a direction in which the tokens of head $k$ have singular value $\sigma$, a
# descent step $Z - \tau \nabla R^c$ multiplies by $1 - \tau\beta/(1 + \beta\sigma^2)$: thin directions
# shrink by almost $\tau\beta$, thick ones hardly at all. That is compression.

# %% tags=["hide-input"]
# check of (3.2): automatic derivative and central differences against the formula
def numerically(f, x, h=1e-5):
    """Central differences of f at x (N, d), one coordinate after the other."""
    steps = h * torch.eye(x.numel()).reshape(-1, *x.shape)
    return torch.stack([(f(x + s) - f(x - s)) / (2 * h) for s in steps]).reshape(x.shape)

rate = lambda x: rates.subspace_rate(x, planes, 0.3)
auto = torch.func.grad(rate)(nine)
check("3.2", torch.stack([auto, numerically(rate, nine)]), rates.subspace_rate_grad(nine, planes, 0.3).expand(2, -1, -1),
      "autograd and central differences, against the formula", tol=DIFFERENCES)

# %% [markdown]
# The same numbers come out if the inverse stands on the other side, where it is $n \times n$. This is the
# identity $(I + AB)^{-1}A = A(I + BA)^{-1}$, which you get by multiplying out. Write $G_k = w_k^\top w_k$: its
# entry $(i, j)$ is the inner product of tokens $i$ and $j$ as subspace $k$ sees them, their *similarity*.
#
# $$
# \nabla R^c(Z) = \beta \sum_{k=1}^{K} U_k\, w_k \left(I + \beta\, G_k\right)^{-1}, \qquad G_k = w_k^\top w_k \tag{3.3}
# $$
#
# *(3.3) Checked. The same gradient with an n × n inverse on the right: now tokens mix with tokens — Yu et al. 2023*
#
# A matrix on the *right* of $w_k$ forms combinations of tokens, and that is what attention does. Here the road to attention starts, and
# with it the $n \times n$ bill. (What this matrix means: [Ridge regression](#Ridge-regression).)

# %% tags=["hide-input"]
# check of (3.3): the n × n inverse against the p × p one
def lift(y, U):
    return torch.einsum("knp,kdp->nd", y, U)                               # Σ_k U_k y_k, tokens as rows

def gradient_by_tokens(x, U, eps2):
    w, beta = project(x, U), beta_of(x, U, eps2)
    return beta * lift(torch.linalg.inv(torch.eye(len(x)) + beta * w @ w.mT) @ w, U)

check("3.3", torch.cat([gradient_by_tokens(x, U, 0.3).flatten() for x, U in pairs]),
      torch.cat([rates.subspace_rate_grad(x, U, 0.3).flatten() for x, U in pairs]), "n × n inverse, against p × p")

# %% [markdown]
# ## 3.3 First approximation: the inverse becomes a difference
#
# An $n \times n$ inverse in each head of each layer is out of the question. (Why not the $p \times p$ one? Section 3.8 asks.) CRATE keeps the first two
# terms of the geometric series, $(I + \beta G)^{-1} \approx I - \beta G$. How wrong is that? Along a singular
# direction matrices become numbers: the exact factor is $1/(1+x)$, the approximate one $1 - x$, with $x = \beta\sigma^2$.
#
# $$
# \frac{\frac{1}{1+x} - (1 - x)}{\frac{1}{1+x}} = x^2, \qquad x = \beta\, \sigma^2 \tag{3.6}
# $$
#
# *(3.6) Checked. The relative error of the first approximation is x² in every singular direction — this series*
#
# Good for $x \ll 1$, useless at $x = 1$, where the approximate step does nothing. Beyond, $1 - x$ is
# *negative*: the step stretches the directions that it should compress.
#
# **Predict:** our six tokens at $\varepsilon^2 = 0.1$, the price they had in lessons 1 and 2. Is $x$ below or above one?
#
# <details><summary>Answer</summary>
#
# Far above: 12.2 in subspace 1 and 6.6 in subspace 2. The approximate factors are −11.2 and −5.6, where the exact ones are +0.08 and
# +0.13: both directions are stretched, and strongly.
#
# </details>

# %% tags=["hide-input"]
# check of (3.6) along the singular directions of three heads, and x of the six tokens
w, beta = project(nine, planes), beta_of(nine, planes, 0.3)                # (3, 9, 2), a number
eye, G = torch.eye(9), w @ w.mT                                            # G (3, 9, 9)
exact, approx = torch.linalg.inv(eye + beta * G) @ w, (eye - beta * G) @ w
L, sigma, R = torch.linalg.svd(w, full_matrices=False)
along = lambda y: torch.einsum("kni,knp,kip->ki", L, y, R)                 # part along each singular direction
check("3.6", along(exact - approx) / along(exact), (beta * sigma ** 2) ** 2, "six singular directions of three heads")
x12 = beta_of(six, axes, eps2) * project(six, axes).square().sum((1, 2))   # (K,), x of each subspace
print(f"six tokens at ε² = {eps2}: x = {x12[0]:.1f} and {x12[1]:.1f}")

# %% tags=["hide-input"]
# figure: exact and approximate factor against x
x = torch.linspace(0, 13, 200)
ax = plots.row(1, width=6)[0]
fig = plots.lines(x, {"exact 1/(1 + x)": 1 / (1 + x), "first approximation 1 − x": 1 - x},
                  xlabel="x = βσ²", ylabel="factor on the direction", title="Below zero the step stretches", ax=ax, hlines={"zero": 0.0},
                  vlines={"six tokens, subspace 1": x12[0].item(), "six tokens, subspace 2": x12[1].item()})
ax.set(ylim=(-12, 2))
show(fig, alt="A curve that falls from one towards zero and stays positive, and a straight line that crosses zero at x = 1 and falls "
              "to minus twelve; both marked subspaces lie far beyond the crossing",
     digest=f"x = {x12[0]:.1f} and {x12[1]:.1f}, approximate factors {1 - x12[0]:+.1f} and {1 - x12[1]:+.1f}, "
            f"exact ones {1 / (1 + x12[0]):+.2f} and {1 / (1 + x12[1]):+.2f}")

# %% [markdown]
# $x$ is $\frac{p}{\varepsilon^2}$ times the mean square of the tokens along the direction. It is small only if the
# precision is coarser than the tokens, and then there is nothing to compress.
#
# **Exercise 3a.** Would one more term help? Write the *relative* error of $1 - x + x^2$ as a stand-in for $1/(1+x)$:
# exact minus approximate, divided by exact, simplified as far as it goes. Then think of $x = 12$.

# %%
def answer_3a(x):
    return ...  # your turn

exercise("3a", answer_3a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3a(x):
#     return -(x ** 3)
# ```
#
# Multiply numerator and denominator by $1 + x$: $1 - (1 - x + x^2)(1 + x) = -x^3$. Beyond $x = 1$ a longer series is worse.
#
# </details>

# %% [markdown]
# ## 3.4 Second approximation: similarities become a softmax
#
# In $w_k(I - \beta G_k)$ each token gives away a combination of the others, weighted by similarity. The second
# idea is to turn the similarities of token $j$ into weights: positive numbers that add up to one, over tokens (not over
# groups, as in $\Pi$).
#
# $$
# \operatorname{softmax}(G)_{ij} = \frac{e^{G_{ij}}}{\sum_{l=1}^{n} e^{G_{lj}}} \tag{3.7}
# $$
#
# *(3.7) Definition. Column j holds the weights with which token j looks at all tokens i — textbook*
#
# So $\operatorname{softmax}(G_k)$ replaces $\beta G_k$; $\beta$ disappears, and with it the price $\varepsilon^2$. No error bound
# comes with this.

# %% tags=["hide-input"]
# figure: similarities and their softmax, on one colour scale
G1 = project(six, axes)[0] @ project(six, axes)[0].T                       # (6, 6), what subspace 1 sees
soft = G1.softmax(0)                                                       # over i: each column sums to one
left, right = plots.row(2)
for ax, title, unit, m in ((left, "similarity G / largest", "similarity / largest", (G1 / G1.max()).round(decimals=2) + 0),
                           (right, "softmax(G)", "weight", soft)):
    fig = plots.heat(m, title=title, xlabel="token j", ylabel="token i", unit=unit, numbers=True, vmin=-1, vmax=1, ax=ax)
    ax.set(xticklabels="abcdef", yticklabels="abcdef")
show(fig, alt="Two six by six matrices on one colour scale from minus one to one. Left: large entries of both signs among a, b, c and "
              "almost zero elsewhere. Right: only positive entries, and columns d, e, f are nearly uniform",
     digest=f"token b looks at a with similarity {G1[0, 1] / G1.max():+.2f} of the largest, and with weight {soft[0, 1]:.3f}")

# %% [markdown]
# Three things changed. **Sign:** a and b lie on opposite sides of the origin. For a code they say the same, they
# span one line; for the softmax they are strangers. **Scale:** columns sum to
# one, whether a token is long or short; d, e, f, which subspace 1 hardly sees, now take the mean of everybody.
# **Range:** the result is a weighted mean, so no output is longer than the longest token. This
# repairs what broke the first approximation: $\beta G$ grows with the tokens without limit, the softmax can't.
# (The bound, and the one corner in which the replacement is right: [What the softmax keeps](#What-the-softmax-keeps).)

# %% [markdown]
# ## 3.5 Third approximation: the subspaces fill the space
#
# The first term of $\sum_k U_k w_k(I - \dots)$ is $\sum_k U_kU_k^\top Z$: project on every subspace and add up. It is $Z$ itself
# if the subspaces are mutually orthogonal and fill the space, $Kp = d$. CRATE sets $p = d/K$ and hopes for
# orthogonality; four random frames of width 32 in 128 dimensions miss by nearly the whole identity
# ([how far](#How-far-subspaces-are-from-filling-the-space)). Where it holds, a step of length $\gamma = \tau\beta$ leads to
# $(1 - \gamma) Z + \gamma \sum_k U_k w_k \beta G_k$: a mixture of the token itself and a similarity-weighted sum.
#
# ## 3.6 Multi-head subspace self-attention
#
# Put the softmax where $\beta G_k$ was, and there it is:
#
# $$
# \operatorname{MSSA}(Z) = \sum_{k=1}^{K} U_k\, w_k \operatorname{softmax}\left(w_k^\top w_k\right), \qquad w_k = U_k^\top Z \tag{3.12}
# $$
#
# *(3.12) Definition. Multi-head subspace self-attention — Yu et al. 2023 · `attention.mssa`*
#
# $$
# Z^{+} = (1 - \gamma)\, Z + \gamma \operatorname{MSSA}(Z), \qquad 0 < \gamma < 1 \tag{3.13}
# $$
#
# *(3.13) Definition. The derived update: each token moves towards a mean of the tokens like it — Yu et al. 2023*
#
# Every head lets each token collect a mean of the tokens that are similar in *that head's* subspace; the answers are lifted back
# and added. (With a scale $1/\sqrt p$ this is textbook attention with one matrix for queries, keys, values and output:
# [Textbook attention](#Textbook-attention).)
#
# **Exercise 3b.** Build it. Tokens are rows here: a column of the formula's softmax is a row of the code. Leading
# axes of `x` are a batch. If yours is right, the rest of the lesson runs on it.

# %%
def my_mssa(x, U):
    """x (…, n, d), U (K, d, p) → (…, n, d): (3.12), without a scale."""
    return ...  # your turn

mssa = mine("3b", my_mssa, attention.mssa)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_mssa(x, U):
#     y = torch.zeros_like(x)                                              # (…, n, d)
#     for basis in U:                                                      # (d, p)
#         w = x @ basis                                                    # (…, n, p)
#         y = y + (w @ w.mT).softmax(-1) @ w @ basis.T                     # softmax over the tokens looked at
#     return y
# ```
#
# Row $j$ of the code is column $j$ of the formula: its weights sum to one over the tokens looked at, the last axis.
#
# </details>

# %% [markdown]
# The **fourth approximation** lies between (3.13) and the layer that people run. The factors $1 - \gamma$ and $\gamma$ are dropped,
# $Z + \operatorname{MSSA}(Z)$; the lifts become a free matrix with a bias; the tokens go through a LayerNorm on the
# way in. Here are all stages of one step:

# %%
def stages(x, U, eps2):
    """Where one step moves the tokens: the exact descent direction, then one approximation after the other."""
    w, beta, y = project(x, U), beta_of(x, U, eps2), mssa(x, U)
    return {"exact": -rates.subspace_rate_grad(x, U, eps2) / beta,
            "1 difference": -lift(w - beta * w @ (w.mT @ w), U),
            "2 softmax": y - lift(w, U),
            "3 filled space": y - x,
            "4 as built": y}

# %% tags=["hide-input"]
# figure: one step of each stage for the six tokens, arrows scaled to one longest length
panels = plots.row(2, 4.6, 3.4, rows=2)
moves = stages(six, axes, eps2)
for ax, name in zip(panels, ("exact", "1 difference", "3 filled space", "4 as built")):
    shrunk = 1.5 / moves[name].norm(dim=1).max()
    fig = plots.points(six, arrows=shrunk * moves[name], names="abcdef", title=f"{name} (arrows × {shrunk:.2g})", equal=False, ax=ax)
    ax.set(xlim=(-4, 4), ylim=(-2.8, 2.8), aspect="equal"), ax.get_legend().remove()
push = {name: ((move * six).sum() / six.square().sum()).item() for name, move in moves.items()}
show(fig, alt="Four panels with the six tokens and an arrow from each. Exact: all arrows point towards the origin. Difference: "
              "all point outward. Filled space: all but c come closer to the origin again. As built: away from it",
     digest="push along the tokens, outward positive: " + ", ".join(f"{v:+.2f} ({k})" for k, v in push.items()))

# %% [markdown]
# The exact step pulls everything in. The difference pushes everything *outward*, as predicted. The softmax repairs it on the whole, because
# its mean is bounded; only c, whose likes lie farther out, still moves outward. (Stage 2 equals stage 3 here: the
# two axes fill the plane.) The layer as built adds the mean instead of moving towards it, and pushes everything
# outward again.
#
# Now move it. Slide $\varepsilon^2$ from coarse (10) to fine with the difference, then switch to the softmax and slide again.
# **Predict:** at which $x$ does an arrow turn around, and does the softmax turn, too?

# %% tags=["hide-input"]
# view: one step by stage, with the precision as a slider
live.sign(six, axes, eps2=10, groups=[0, 0, 0, 1, 1, 1])

# %% [markdown]
# What you saw: the difference stretches a direction as soon as its $x$ passes one. The softmax knows no $\varepsilon$ and keeps its
# direction, and the layer as built points uphill at every precision.
#
# Six tokens may be special, so take 400 patches of a photo: 128 principal coordinates, dealt out
# to four heads in turn, all tokens of unit length.

# %% tags=["hide-input"]
# 400 patches of a photo as tokens, and four orthogonal heads
photo = photos.sample("china", 480)[:, 80:400]                             # (320, 320, 3)
tokens, grid = photos.tokens(photo, d=128, size=16, stride=16)             # (400, 128), a 20 × 20 grid
tokens = torch.nn.functional.normalize(tokens, dim=-1)
dealt = torch.eye(128).reshape(128, 32, 4).permute(2, 0, 1)                # (K, d, p) = (4, 128, 32)

# %% [markdown]
# How much of the exact direction does each stage keep? Take its cosine with the exact step; negative is uphill. The honest
# comparison is plain shrinking, $-Z$, which knows nothing of any similarity.
#
# **Predict:** which stages go below zero, and at which precision?
#
# <details><summary>Answer</summary>
#
# The strongest direction flips once its $x$ passes one; the cosine of the whole difference follows somewhat later,
# when that direction outweighs the others. The softmax stage keeps its direction. The layer as built is negative everywhere.
#
# </details>

# %% tags=["hide-input"]
# figure: cosine of each stage with the exact step, against the precision
def cosine(a, b):
    return ((a * b).sum() / (a.norm() * b.norm())).item()

sweep = torch.logspace(-2, 2, 25)
rows = [stages(tokens, dealt, float(e)) | {"shrink": -tokens} for e in sweep]
curves = {k: [cosine(r[k], r["exact"]) for r in rows] for k in ("1 difference", "3 filled space", "4 as built", "shrink")}
fig = plots.lines(sweep, curves, xscale="log", xlabel="precision ε²", ylabel="cosine with the exact step",
                  ax=plots.row(1, width=6)[0], title="What each stage keeps of the direction (400 photo patches)",
                  hlines={"at right angles": 0})
fig.axes[0].legend(fontsize=9, loc="lower left")
flip = max(e.item() for e, c in zip(sweep, curves["1 difference"]) if c < 0)
best = max(range(25), key=lambda i: curves["3 filled space"][i] - curves["shrink"][i])
show(fig, alt="Cosine against precision: the difference falls from one to below zero as precision gets finer, the softmax stage "
              "stays above plain shrinking except at the coarse end, and the layer as built stays below zero",
     digest=f"the difference points uphill from ε² ≈ {flip:.1f} down; the softmax step beats shrinking by up to "
            f"{curves['3 filled space'][best] - curves['shrink'][best]:.2f}")

# %% [markdown]
# At coarse precision the difference is accurate, but so is plain shrinking: there is nothing to attend to. At fine precision
# the difference points uphill, while the softmax step keeps clearly more than shrinking does.

# %% [markdown]
# ## 3.7 The honest surprise: the sign
#
# The layer that people run adds MSSA *without* shrinking. **Predict:** does $Z + \operatorname{MSSA}(Z)$ lower the
# compression rate?
#
# <details><summary>Answer</summary>
#
# No. Here MSSA alone points uphill; the descent in (3.13) comes from the $-\gamma Z$ that the layer drops.
#
# </details>

# %% tags=["hide-input"]
# 200 random sets of tokens: how often each form lowers the rate
unit = torch.nn.functional.normalize
crowd, U = unit(torch.randn(200, 40, 12), dim=-1), frames(3, 12, 4)
y, start = mssa(crowd, U), rates.subspace_rate(crowd, U, 0.3)
for name, x in {"½Z + ½MSSA": (crowd + y) / 2, "Z + ½MSSA": crowd + y / 2,
                "Z + ½MSSA, then unit length": unit(crowd + y / 2, dim=-1)}.items():
    lower = rates.subspace_rate(x, U, 0.3) < start
    print(f"{name:29} lowers the rate in {lower.sum():3} of 200 random sets")

# %% tags=["hide-input"]
# figure: the rate of the photo's patches along one step of each kind
gammas = torch.linspace(0, 1.2, 25)
y, exact = mssa(tokens, dealt), stages(tokens, dealt, 1.0)["exact"]
paths = {"exact gradient step": lambda g: tokens + g * exact,
         "derived (1 − γ)Z + γ MSSA": lambda g: tokens + g * (y - tokens),
         "as built Z + γ MSSA": lambda g: tokens + g * y,
         "as built, then unit length": lambda g: unit(tokens + g * y, dim=-1)}
curves = {name: torch.stack([rates.subspace_rate(path(g), dealt, 1.0) for g in gammas]) for name, path in paths.items()}
fig = plots.lines(gammas, curves, xlabel="step γ", ylabel="Rᶜ in nats", ax=plots.row(1, width=6)[0],
                  title="One step of each kind (400 photo patches, ε² = 1)")
show(fig, alt="Rate against step size: the exact and the derived step fall, the layer as built rises, and the "
              "same with tokens set back to unit length falls",
     digest=f"at γ = {gammas[10]:.1f}, from {curves['exact gradient step'][0]:.2f} nats to "
            + ", ".join(f"{c[10]:.2f} ({name.split(' (')[0]})" for name, c in curves.items()))

# %% [markdown]
# (At the same γ the derived step falls further than the exact one because it is longer: it shrinks thick directions, too.)
#
# Over all tokens together, MSSA never points inward ([the proof](#MSSA-points-outward)), and longer tokens cost more. The last curve is
# the way out that the layer takes: the LayerNorm of the next layer sets all lengths anew, and up to length it does compress.
#
# The derived update (3.13) went down in every draw. Is that a theorem? Find out yourself.
#
# **Exercise 3c.** One head of width one on a line ($d = p = K = 1$, $U = 1$, $\varepsilon^2 = 0.1$). Give two tokens, as a
# tensor of shape (2, 1), whose rate the derived update *raises*, with $\gamma = \frac12$.

# %%
answer_3c = ...  # your turn: torch.tensor([[…], […]])

exercise("3c", answer_3c)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_3c = torch.tensor([[1.0], [3.0]])
# ```
#
# On a line the rate only knows the sum of squares. The short token looks at the long one with almost all its weight and moves
# towards it; the long one looks at itself and stays. Any two different tokens on one side of the origin, not too short, will do.
#
# </details>

# %% [markdown]
# So neither form is a descent step for all tokens. What is proved: with orthogonal subspaces, (3.13) never raises the rate where each token
# is looked at as much as it looks ([when it descends](#When-the-derived-update-descends)). In a layer with a *free* output matrix training decides
# even the sign. Lesson 5 has a better answer for TSSA: with tied output and memberships held fixed, a step size is proved for every input.

# %% [markdown]
# ## 3.8 The bill
#
# Count multiply–add operations (MACs) of the matrix products for $n$ tokens of width $d = Kp$. Projection and output are
# $n d^2$ each; all similarities and all weighted sums are $n^2 p$ a head, $n^2 d$ in total, each.
#
# $$
# \text{MACs of MSSA} = 2\, n\, d^2 + 2\, n^2 d \tag{3.21}
# $$
#
# *(3.21) Checked. Quadratic in the number of tokens; a FLOP counter counts two for each — this series*
#
# And the *exact* gradient in its form (3.2)? Projection and lift as before; the
# second moment and the product with the inverse are $n p^2$ a head, $n\, d\, p$ in total, each:
#
# $$
# \text{MACs of the exact step} = 2\, n\, d^2 + 2\, n\, d\, p \tag{3.22}
# $$
#
# *(3.22) Checked. Linear in the number of tokens; the K inverses of p × p are not counted — this series*

# %% tags=["hide-input"]
# check of (3.21) and (3.22) by PyTorch's counter, four sizes
# (it does not know the fused attention kernel for CPUs, so it is given the plain one, which forms the same products)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

def exact_step(x, U, eps2):
    w, beta = torch.einsum("nd,kdp->knp", x, U), beta_of(x, U, eps2)       # n d²
    S = w.mT @ w                                                           # n d p
    inverse = torch.linalg.inv(torch.eye(S.shape[-1]) + beta * S)          # (K, p, p)
    return beta * torch.einsum("knp,kdp->nd", w @ inverse, U)              # n d p, n d²

def macs(f, *inputs):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        f(*inputs)
    return counter.get_total_flops() / 2

agree(exact_step, rates.subspace_rate_grad, tokens, dealt, 1.0)
sizes = [(1, 8, 2), (49, 64, 4), (400, 128, 4), (1000, 96, 8)]             # n, d, K
quadratic = [macs(attention.MSSA(d, K), torch.randn(1, n, d)) for n, d, K in sizes]
check("3.21", quadratic, [2 * n * d * d + 2 * n * n * d for n, d, K in sizes], "PyTorch's counter, four sizes")
linear = [macs(exact_step, torch.randn(n, d), frames(K, d, d // K), 1.0) for n, d, K in sizes]
check("3.22", linear, [2 * n * d * d + 2 * n * d * (d // K) for n, d, K in sizes], "PyTorch's counter, four sizes")

# %% tags=["hide-input"]
# figure: the bill against the number of tokens
n = torch.logspace(1.5, 5, 60)
ends = 2 * n * 128 ** 2
bill = {"MSSA": ends + 2 * n ** 2 * 128, "exact step, p × p": ends + 2 * n * 128 * 32, "the two projections": ends}
fig = plots.lines(n, {k: v / 1e9 for k, v in bill.items()}, xscale="log", yscale="log", xlabel="tokens n",
                  ylabel="10⁹ multiply–adds", ax=plots.row(1, width=6)[0], title="The bill for d = 128, K = 4",
                  vlines={"400 tokens": 400, "6,400 tokens": 6400})
ratio = lambda n: (128 + n) / (128 + 32)
show(fig, alt="Operations against the number of tokens on logarithmic axes: two parallel lines of slope one, and the curve "
              "of MSSA that leaves them at about a hundred tokens and rises with slope two",
     digest=f"MSSA costs {ratio(400):.1f} times the exact step at 400 tokens and {ratio(6400):.0f} times at 6,400")

# %% [markdown]
# The *exact* step is linear in the number of tokens; the square came in with the $n \times n$ form and the softmax, as the
# price of an approximation. It is not compression that is quadratic, it is the softmax.
#
# **Exercise 3d.** Both bills assume $d = Kp$. Write the MACs of the exact step for $K$ heads of any width $p$, inverses not
# counted. Then put $p = d$: what do $K$ complete bases cost?

# %%
def answer_3d(n, d, K, p):
    return ...  # your turn

exercise("3d", answer_3d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3d(n, d, K, p):
#     return 2 * n * K * d * p + 2 * n * K * p ** 2
# ```
#
# Projection and lift are $n\,d\,p$ a head, second moment and product $n\,p^2$ a head. At $p = d$ that is $4Knd^2$: with
# complete bases every group costs as much again. Lesson 4 will meet this price.
#
# </details>

# %% [markdown]
# What is left to improve? The exact step needs $p^2$ statistics and a $p \times p$ inverse for each head and image, which wants full
# precision and exports badly. The next lesson goes back to lesson 2's $R_c$ and bounds it by $p$ numbers a head, without
# an inverse. The gradient step on that bound is TSSA.

# %% [markdown]
# ## Takeaways
#
# - Learned subspaces take the place of memberships: $R^c(Z) = \sum_k R(U_k^\top Z)$ codes every token in every subspace. It is not $R_c$, and
#   neither bounds the other.
# - Its exact gradient multiplies the tokens of each head by one small matrix, at a cost linear in $n$.
# - Four approximations lead to MSSA. The truncated series has relative error $x^2$ and turns around at $x > 1$; the softmax has no
#   error bound, but it is bounded itself and repairs the turn; the third needs orthogonal subspaces
#   that fill the space; the fourth drops the shrinking, and the sign with it.
# - $(1-\gamma)Z + \gamma\operatorname{MSSA}(Z)$ lowered the rate in every random draw, but not for all tokens; the layer as
#   built raised it in every draw, and lowered it in nearly all once length is taken out.
# - The quadratic bill belongs to the softmax, not to compression.

# %% [markdown]
# ## Going deeper
#
# Each item is closed in itself; none is needed later.

# %% [markdown]
# ### Both rates side by side
#
# To compare $R^c$ with lesson 2's $R_c$, take the case that both want: hard groups, each inside its own subspace, the subspaces
# orthogonal with $Kp = d$. Then both are functions of the same $p \times p$ matrices $U_k^\top S_k U_k$, and they
# differ in where the share $n_k/n$ stands and in the constant:
#
# $$
# \begin{aligned}
# R^c(Z) &= \frac12 \sum_{k=1}^{K} \log\det\left(I + \frac{p}{\varepsilon^2}\, \frac{n_k}{n}\, U_k^\top S_k\, U_k\right), \\
# R_c(Z, \Pi) &= \frac12 \sum_{k=1}^{K} \frac{n_k}{n} \log\det\left(I + \frac{d}{\varepsilon^2}\, U_k^\top S_k\, U_k\right)
# \end{aligned} \tag{3.23}
# $$
#
# *(3.23) Checked. Both rates, for groups that lie in their own subspaces — this series*

# %% tags=["hide-input"]
# check of (3.23), and the two rates of the six tokens pressed onto their axes
def pressed_into(x, U, groups):
    """Each token's part in the subspace of its own group."""
    return torch.stack([U[k] @ U[k].T @ z for z, k in zip(x, groups)])

def both(x, U, groups, eps2):
    Pi = torch.nn.functional.one_hot(groups).T.double()                    # (K, N)
    inner = U.mT @ rates.second_moment(x, Pi) @ U                          # (K, p, p), U_kᵀ S_k U_k
    share, eye = Pi.mean(1), torch.eye(U.shape[-1])                        # (K,)
    d, p = U.shape[1:]
    return (torch.stack([rates.subspace_rate(x, U, eps2), rates.compression_rate(x, Pi, eps2)]),
            torch.stack([0.5 * torch.logdet(eye + p / eps2 * share[:, None, None] * inner).sum(),
                         0.5 * (share * torch.logdet(eye + d / eps2 * inner)).sum()]))

sizes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])                          # groups of four, three and two
six_on_axes = pressed_into(six, axes, torch.tensor([0, 0, 0, 1, 1, 1]))
left, right = zip(both(pressed_into(nine, planes, sizes), planes, sizes, 0.3),
                  both(six_on_axes, axes, torch.tensor([0, 0, 0, 1, 1, 1]), eps2))
check("3.23", torch.cat(left), torch.cat(right), "three planes with groups of 4, 3, 2, and six tokens on their axes")
print(f"six tokens pressed onto their axes: R^c = {left[1][0]:.2f}, R_c = {left[1][1]:.2f} nats")
tiny = both(six_on_axes / 10, axes, torch.tensor([0, 0, 0, 1, 1, 1]), eps2)[0]
print(f"the same at a tenth of the length:  R^c = {tiny[0]:.3f}, R_c = {tiny[1]:.3f} nats")

# %% [markdown]
# Long tokens pay more under $R^c$, short ones under $R_c$: neither bounds the other.

# %% [markdown]
# ### Ridge regression
#
# What does the matrix on the right in (3.3) mean? Try to *predict* each token from all tokens, by a weighted sum with
# coefficients $b$, and charge a price for large coefficients (ridge regression). What the prediction leaves over
# is, exactly, the column of $w_k(I + \beta G_k)^{-1}$:
#
# $$
# w_k \left(I + \beta\, G_k\right)^{-1} e_j = U_k^\top z_j - w_k\, b_j, \qquad b_j = \operatorname*{argmin}_{b}\ \left\|U_k^\top z_j - w_k\, b\right\|^2 + \tfrac{1}{\beta} \|b\|^2 \tag{3.4}
# $$
#
# *(3.4) Checked. The gradient is what ridge regression on all tokens can't explain — Yu et al. 2023*
#
# ($e_j$ is the $j$-th unit vector: it picks column $j$.) A descent step removes a bit of the part of each token
# that the crowd does not predict. The proof is one line: $b_j = \beta(I + \beta G_k)^{-1}G_k e_j$. The check
# solves the least-squares problem itself, by `lstsq`.

# %% tags=["hide-input"]
# check of (3.4): least squares by lstsq
left = torch.cat([w.mT, (torch.eye(9) / math.sqrt(beta)).expand(3, 9, 9)], 1)   # rows: fit the token, pay for b
right = torch.cat([w.mT, torch.zeros(3, 9, 9)], 1)
b = torch.linalg.lstsq(left, right).solution                               # (3, 9, 9), column j holds b_j
check("3.4", torch.linalg.inv(torch.eye(9) + beta * w @ w.mT) @ w, (w.mT - w.mT @ b).mT, "inverse, against least squares")

# %% [markdown]
# The first approximation, as matrices: the truncated step is the exact one times a matrix.
#
# $$
# w_k \left(I - \beta\, G_k\right) = w_k \left(I + \beta\, G_k\right)^{-1} \left(I - (\beta\, G_k)^2\right) \tag{3.5}
# $$
#
# *(3.5) Checked. The approximation is the exact term times a matrix — this series*

# %% tags=["hide-input"]
# check of (3.5)
exact, approx = torch.linalg.inv(eye + beta * G) @ w, (eye - beta * G) @ w
check("3.5", approx, (eye - beta ** 2 * G @ G) @ exact, "difference, against exact term times I − (βG)²")

# %% [markdown]
# ### What the softmax keeps
#
# A head's outputs are weighted means of its tokens, so none is longer than the longest:
#
# $$
# \max_j \left\|w_k \operatorname{softmax}(G_k)\, e_j\right\| \le \max_j \left\|w_k\, e_j\right\| \tag{3.8}
# $$
#
# *(3.8) Checked. A head's output stays within the hull of its tokens; equality when all are equal — textbook*

# %%
def head(w):
    """One head on projected tokens (…, n, p): every token becomes a weighted mean of tokens."""
    return (w @ w.mT).softmax(-1) @ w                                      # softmax over the tokens looked at

# %% tags=["hide-input"]
# check of (3.8): 200 heads, small to large tokens, and equal ones
longest = lambda y: y.norm(dim=-1).amax(-1)
draws, same = torch.randn(200, 9, 2) * torch.logspace(-1, 1, 200)[:, None, None], torch.randn(1, 2).expand(9, 2)
check_below("3.8", lambda w: longest(head(w)), longest, "200 heads, small to large tokens", draws=list(draws), equal=(same,))

# %% [markdown]
# Is the replacement of $\beta G_k$ ever *right*? Yes, in one corner. For small similarities the softmax is nearly uniform, and
# its first-order term can be computed: multiply the similarities by $t$ and differentiate at $t = 0$. With
# $m_k$ the mean of head $k$'s tokens and $S_k = \frac1n w_k w_k^\top$ their second moment,
#
# $$
# \left.\frac{d}{dt}\ w_k \operatorname{softmax}(t\, G_k)\right|_{t=0} = \left(S_k - m_k m_k^\top\right) w_k \tag{3.9}
# $$
#
# *(3.9) Checked. For small similarities attention multiplies by the covariance — this series*

# %% tags=["hide-input"]
# check of (3.9), and the relative error of the replacement at four precisions
zero, one = torch.tensor(0.0), torch.tensor(1.0)
weigh = lambda t: (t * G).softmax(-1) @ w                                  # softmax over the tokens looked at
slope = torch.autograd.functional.jvp(weigh, zero, one)[1]                 # (3, 9, 2)
m = w.mean(1, keepdim=True)                                                # (3, 1, 2)
check("3.9", slope, w @ (w.mT @ w / 9 - m.mT @ m), "automatic derivative, against the covariance")
centred = project(nine - nine.mean(0), planes)
for e in (1000.0, 100.0, 10.0, 1.0):
    t = 2 / e                                                              # p / ε²
    before = t / 9 * centred @ (centred.mT @ centred)                      # β w G
    after = (t * centred @ centred.mT).softmax(-1) @ centred
    print(f"ε² = {e:6.0f}: relative error of softmax({t:.3f} G) for βG  {(after - before).norm() / before.norm():.3f}")

# %% [markdown]
# Compare with the term that the softmax replaces: $\beta w_k G_k = \frac{p}{\varepsilon^2} S_k w_k$. If
# tokens are centred ($m_k = 0$) and the softmax gets its scale back, $t = p/\varepsilon^2$, both
# agree to first order: exactly where the first approximation is good, at coarse precision. CRATE's published layer uses the
# scale $1/\sqrt p$, as all Transformers do. By this reading it works at
# $\varepsilon^2 = p\sqrt p$, for heads of width 32 a mean square error of 181: very coarse for tokens of unit
# length, and coarse even after a LayerNorm, which leaves about $p = 32$ of mean square to a head.

# %% [markdown]
# ### How far subspaces are from filling the space
#
# $$
# \left\|\sum_{k=1}^{K} U_k U_k^\top - I\right\|_F^2 = d - Kp + \sum_{k \ne l} \left\|U_k^\top U_l\right\|_F^2 \tag{3.10}
# $$
#
# *(3.10) Checked. The third approximation is exact if and only if Kp = d and the subspaces are orthogonal — this series*
#
# Why "only if": an exact sum has trace $Kp = d$, and then every $U_k^\top U_l$ must vanish. A trained layer has no such
# constraint.

# %% tags=["hide-input"]
# check of (3.10): frames orthogonal or not, too few, too many, small and large
def free_frames(K, d, p):
    """K orthonormal bases that know nothing of each other."""
    return torch.linalg.qr(torch.randn(K, d, p))[0]

cases = [frames(3, 6, 2), frames(4, 128, 32), free_frames(3, 6, 2), free_frames(2, 6, 2),
         free_frames(4, 6, 3), free_frames(4, 128, 32)]
gap = torch.stack([(sum(u @ u.T for u in U) - torch.eye(U.shape[1])).square().sum() for U in cases])
cross = [sum((U[k].T @ U[l]).square().sum() for k in range(len(U)) for l in range(len(U)) if k != l) for U in cases]
check("3.10", gap, torch.stack([U.shape[1] - len(U) * U.shape[2] + c for U, c in zip(cases, cross)]), "six sets of frames")
print(f"4 random frames of width 32 in 128 dimensions: relative error {(gap[-1] / 128).sqrt():.2f}")

# %% [markdown]
# Where the subspaces do fill the space, the step is a mixture:
#
# $$
# Z - \gamma \sum_{k=1}^{K} U_k\, w_k \left(I - \beta\, G_k\right) = (1 - \gamma)\, Z + \gamma \sum_{k=1}^{K} U_k\, w_k\, \beta\, G_k \tag{3.11}
# $$
#
# *(3.11) Checked. The step is a mixture of the token itself and a similarity-weighted sum — Yu et al. 2023*

# %% tags=["hide-input"]
# check of (3.11): nine tokens, three orthogonal planes that fill the space
gamma = 0.4
check("3.11", nine - gamma * lift((torch.eye(9) - beta * G) @ w, planes),
      (1 - gamma) * nine + gamma * lift(beta * G @ w, planes), "nine tokens, three orthogonal planes")

# %% [markdown]
# What it costs on the photo that they don't: cosines with the exact step, for the orthogonal heads of the main line and for four
# frames that know nothing of each other.

# %%
def ledger(x, U):
    for e in (100.0, 10.0, 1.0, 0.1):
        moves = stages(x, U, e) | {"shrink": -x}
        exact = moves.pop("exact")
        print(f"ε² = {e:5.1f}  " + "  ".join(f"{k} {cosine(v, exact):+.2f}" for k, v in moves.items()))

# %%
print("four orthogonal subspaces")
ledger(tokens, dealt)
print("four subspaces that know nothing of each other")
ledger(tokens, free_frames(4, 128, 32))

# %% [markdown]
# ### Textbook attention
#
# A textbook head makes three things of each token by three learned matrices: a *query* (what am I looking for),
# a *key* (what do I offer), and a *value* (what do I hand over). Textbooks call them Q, K, V; these letters
# are taken here, so let $a$, $b$, $v$ hold the queries, keys and values of one head as columns ($p \times n$).
#
# $$
# \operatorname{attention}(a, b, v) = v\, \operatorname{softmax}\left(\frac{b^\top a}{\sqrt p}\right) \tag{3.14}
# $$
#
# *(3.14) Definition. Scaled dot-product attention of one head, tokens as columns — Vaswani et al. 2017*
#
# MSSA is the case in which all three are *the same*, and the output matrix is the projection transposed:
#
# $$
# \sum_{k=1}^{K} U_k\, w_k \operatorname{softmax}\left(\frac{w_k^\top w_k}{\sqrt p}\right) = \sum_{k=1}^{K} U_k \operatorname{attention}(w_k, w_k, w_k) \tag{3.15}
# $$
#
# *(3.15) Checked. MSSA is textbook attention with one matrix for queries, keys, values and output — Yu et al. 2023 · `attention.MSSA`*
#
# The check uses what people run: PyTorch's `scaled_dot_product_attention` for a head, and its whole
# `MultiheadAttention` layer, filled with our bases.

# %% tags=["hide-input"]
# check of (3.15): PyTorch's head, and its layer filled with our bases
sdpa = torch.nn.functional.scaled_dot_product_attention
textbook = torch.nn.MultiheadAttention(6, 3, bias=False, batch_first=True)
W = planes.mT.reshape(6, 6)                                                # rows: U_1ᵀ, U_2ᵀ, U_3ᵀ
textbook.in_proj_weight.data, textbook.out_proj.weight.data = torch.cat([W, W, W]), W.T
by_hand = lift((G / math.sqrt(2)).softmax(-1) @ w, planes)                 # softmax over the keys
whole = textbook(nine[None], nine[None], nine[None])[0][0]                  # (9, 6)
check("3.15", by_hand.expand(2, 9, 6), torch.stack([lift(sdpa(w, w, w), planes), whole]),
      "formula, against PyTorch's head and layer")

# %% [markdown]
# The kit of these lessons holds MSSA as a layer too, with CRATE's free output matrix or, `tied=True`, with the transposed
# projection that the derivation asks for. One matrix does the work of three:

# %%
layer, tied = attention.MSSA(128, 4), attention.MSSA(128, 4, tied=True)
tied.qkv.weight.data = dealt.mT.reshape(128, 128)

def scaled_mssa(x):
    return attention.mssa(x, dealt, 1 / math.sqrt(32))

agree(scaled_mssa, tied.forward, tokens[None])
size = lambda module: sum(q.numel() for q in module.parameters())
print("parameters: MSSA", size(layer), "tied", size(tied), "textbook", size(torch.nn.MultiheadAttention(128, 4)))

# %% [markdown]
# What is lost by using one matrix? The similarity is symmetric ($i$ looks at $j$ as strongly as $j$ at
# $i$, before normalisation), and the largest similarity of a long token is usually that with itself. A textbook head can
# learn "look one to the left"; this one can only learn "look at your like". The picture shows it: for the marked
# patch, the weights of the four heads, on tokens that went through a LayerNorm as in CRATE. Nothing is trained here:
# the heads are principal coordinates. Even so, head 1 has decided that the patch belongs to the dark things and not to
# the sky. The maps show the logarithm of the weight, with 0 for the plain mean $1/n$.

# %% tags=["hide-input"]
# figure: what four heads look at, from one patch of the photo
normed = torch.nn.functional.layer_norm(tokens, (128,))
at = 12 * 20 + 8                                                           # row 12, column 8 of the grid
weights = (project(normed, dealt) @ project(normed, dealt).mT / math.sqrt(32)).softmax(-1)[:, at]   # (4, 400)
marked = photo.copy()
marked[192:208, 128:144] = [230, 0, 0]
maps = [(400 * a).clamp_min(1e-9).log10().reshape(grid) for a in weights]  # 0 = the plain mean
fig = plots.pictures([marked, *maps], ["photo, patch in red", *(f"head {k + 1}" for k in range(4))], columns=5,
                     unit="log₁₀(weight · n)", vmin=-1.5, vmax=1.5)
dark = photo.mean(-1).reshape(20, 16, 20, 16).mean((1, 3)).flatten() < 128
show(fig, alt="A photo of a Chinese temple with a red patch, and four coarse maps: head 1 gives weight to temple and trees and "
              "none to the sky, head 2 to the horizontal bands of the roofs, heads 3 and 4 are nearly uniform",
     digest="share of the weight on dark patches by head: " + ", ".join(f"{a[dark].sum():.2f}" for a in weights)
            + f"; dark patches are {dark.mean():.2f} of all")

# %% [markdown]
# ### When the derived update descends
#
# In the solution of Exercise 3c the long token is looked at by both, 1.9 times in all, and so drags the other outward. Exclude
# that: let every token be looked at as much as it looks, so that the rows of the weights sum to one, like the columns. Such a matrix is
# called *doubly stochastic*. Then the derived update can't raise the rate:
#
# $$
# R^c\left((1 - \gamma) Z + \gamma \operatorname{MSSA}(Z)\right) \le R^c(Z) \qquad \text{for } 0 \le \gamma \le 1, \quad \sum_{j=1}^{n} \operatorname{softmax}(G_k)_{ij} = 1, \quad U_k^\top U_l = 0 \tag{3.24}
# $$
#
# *(3.24) Checked. The derived update never raises the rate where attention is doubly stochastic; equality when all tokens are equal — this series*
#
# *Proof.* With orthogonal subspaces each head acts alone: $w_k$ becomes $w_k B$ with $B = (1-\gamma) I + \gamma \operatorname{softmax}(G_k)$, which is doubly
# stochastic, too. Such a matrix has norm at most one ($\|B\|_2^2$ is at most the largest row sum times the largest column
# sum), so $w_k B B^\top w_k^\top$ is at most $w_k w_k^\top$, and the determinant can't grow. ∎
#
# The condition holds, for instance, for tokens evenly around a circle: all of them see the same picture. For the check, each of two heads
# sees two such circles, with radii, speeds and phases of their own.

# %% tags=["hide-input"]
# check of (3.24) on tokens around circles, and the two tokens of the exercise
around_frames = frames(2, 8, 4)

def circles(radii, speeds, phases, n=9):
    """n tokens (n, 8): each of four planes turns by whole rounds."""
    turn = 2 * math.pi * torch.arange(n)[:, None] / n * speeds + phases     # (n, 4)
    w = (radii * torch.stack([turn.cos(), turn.sin()])).permute(1, 2, 0)    # (n, 4, 2)
    return torch.einsum("nkp,kdp->nd", w.reshape(n, 2, 4), around_frames)

def derived(Z, gamma):
    return rates.subspace_rate((1 - gamma) * Z + gamma * mssa(Z, around_frames), around_frames, 0.3)

cases = [(circles(3 * torch.rand(4), torch.randint(0, 5, (4,)), torch.rand(4)), torch.rand(()).item()) for _ in range(200)]
check_below("3.24", derived, lambda Z, gamma: rates.subspace_rate(Z, around_frames, 0.3), "200 sets of circles",
            draws=cases, equal=(circles(torch.tensor([1.0, 2.0, 0.5, 1.5]), torch.zeros(4), torch.rand(4)), 0.7))
line, pair = torch.ones(1, 1, 1), torch.tensor([[1.0], [3.0]])
print(f"tokens 1 and 3 on a line: looked at {(pair @ pair.T).softmax(-1).sum(0).tolist()[0]:.2f} and "
      f"{(pair @ pair.T).softmax(-1).sum(0).tolist()[1]:.2f} times; rate {rates.subspace_rate(pair, line, eps2):.3f} → "
      f"{rates.subspace_rate((pair + mssa(pair, line)) / 2, line, eps2):.3f}")

# %% [markdown]
# **Exercise 3e.** One token and one head of width one ($n = p = d = K = 1$, $U = 1$, token $z$). Return a tensor with two
# numbers: the rate $R^c$ after the derived update (3.13) with $\gamma = \frac12$, and after $z + \frac12 \operatorname{MSSA}(z)$.

# %%
def answer_3e(z, eps2):
    return ...  # your turn: torch.tensor([derived, as built]), in nats

exercise("3e", answer_3e)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3e(z, eps2):
#     after = torch.tensor([z, 1.5 * z], dtype=torch.float64)
#     return 0.5 * torch.log1p(after ** 2 / eps2)
# ```
#
# The softmax of a single number is 1, so MSSA$(z) = z$: the derived update does nothing, although the rate could be
# lowered by shrinking. The softmax has thrown the information about scale away.
#
# </details>

# %% [markdown]
# ### MSSA points outward
#
# First, scale. Growing all tokens raises the rate, always; along $Z$ the slope is a sum over all singular directions:
#
# $$
# \left\langle \nabla R^c(Z),\, Z \right\rangle = \sum_{k=1}^{K} \sum_{i=1}^{p} \frac{x_{ki}}{1 + x_{ki}} \ge 0, \qquad x_{ki} = \beta\, \sigma_{ki}^2 \tag{3.16}
# $$
#
# *(3.16) Checked. Making all tokens longer raises the rate, so plain shrinking is a descent direction — this series*

# %% tags=["hide-input"]
# check of (3.16): derivative along Z, against singular values
slopes, sums = [], []
for X, U in pairs:
    for e in (0.1, 1.0, 10.0):
        x = beta_of(X, U, e) * torch.linalg.svdvals(project(X, U)) ** 2
        slopes.append(torch.func.grad(lambda t: rates.subspace_rate(t * X, U, e))(one))
        sums.append((x / (1 + x)).sum())
check("3.16", torch.stack(slopes), torch.stack(sums), "derivative along Z, against singular values")

# %% [markdown]
# Second, MSSA taken over all tokens together never points inward (a single token may). With $m_k$ the mean token of head $k$,
#
# $$
# \left\langle Z,\, \operatorname{MSSA}(Z) \right\rangle \ge n \sum_{k=1}^{K} \|m_k\|^2 \ge 0, \qquad m_k = \frac1n \sum_{j=1}^{n} U_k^\top z_j \tag{3.17}
# $$
#
# *(3.17) Checked. MSSA has a non-negative component along Z as a whole; equality when all tokens are equal — this series*
#
# *Proof.* For one head, the function $L(y) = \ln \sum_i \exp(y^\top U_k^\top z_i)$ is convex, and its gradient at
# $y = U_k^\top z_j$ is exactly the head's output for token $j$; at $y = 0$ it is the plain mean $m_k$. The
# gradient of a convex function is monotone: $(\nabla L(y) - \nabla L(0))^\top y \ge 0$, so output times
# token is at least $m_k^\top y$. Sum over all tokens and heads. ∎
#
# Hence $\|Z + \gamma \operatorname{MSSA}(Z)\|^2 \ge \|Z\|^2 + \gamma^2\|\operatorname{MSSA}(Z)\|^2$: for $\gamma > 0$ the layer without
# shrinking makes the sum of squared lengths grow, for every basis and every input, orthogonal subspaces or not.

# %% tags=["hide-input"]
# check of (3.17): 200 sets of tokens, and equal ones
means = lambda x: len(x) * torch.einsum("nd,kdp->knp", x, planes).mean(-2).square().sum()
outward = lambda x: (x * mssa(x, planes)).sum()
draws = (torch.randn(200, 9, 6) + torch.randn(200, 1, 6)) * torch.logspace(-1, 1, 200)[:, None, None]
check_below("3.17", means, outward, "200 sets of tokens", draws=list(draws), equal=(nine[:1].expand(9, 6),))

# %% [markdown]
# For mutually orthogonal heads of width one this proves that MSSA is an ascent direction of $R^c$, since there the exact
# gradient is a positive multiple of each $w_k$, and the proof of (3.17) goes head by head. For wider heads it is what one sees, but
# not always. The gradient stresses thin directions, and in a thin direction the softmax can turn the sign:
# of two near neighbours the longer one attracts both. Sixteen such pairs on a circle, each with a thin direction of its own,
# tokens of length 30 and one head on the whole space, outvote the circle:

# %%
wide = frames(3, 12, 4)
uphill = (rates.subspace_rate_grad(crowd, wide, 0.3) * mssa(crowd, wide)).sum((1, 2)) > 0
turn, own = torch.arange(16) * 2 * math.pi / 16, torch.eye(16)
around = torch.stack([turn.cos(), turn.sin()], 1)                          # (16, 2)
twins = torch.cat([torch.cat([30.0 * around, -0.2 * own], 1), torch.cat([29.8 * around, 0.5 * own], 1)])   # (32, 18)
one_head = torch.eye(18)[None]                                             # (1, 18, 18)
along_mssa = (rates.subspace_rate_grad(twins, one_head, 0.01) * mssa(twins, one_head)).sum()
print(f"MSSA alone is an ascent direction in {uphill.sum()} of 200 draws; slope for the sixteen pairs: {along_mssa:+.1f}")

# %% [markdown]
# So neither "MSSA descends" nor "MSSA ascends" is a theorem. Hu et al. 2024 study such deviations in trained models.

# %% [markdown]
# ### The other half of the block: ISTA
#
# CRATE maximises the *sparse* rate reduction: $R(Z) - R^c(Z)$ minus a price $\lambda$ on the number of non-zero
# coordinates. Attention does the $R^c$ part. The other two aims are left to a second step, which replaces the MLP of
# a Transformer. A rotation leaves $R$ unchanged (lesson 1), so look for sparse coordinates $A$ of the tokens in a
# rotated frame, a learned *dictionary* $Q$ ($d \times d$) that is nearly orthogonal:
#
# $$
# h(A) = \lambda \|A\|_1 + \frac12 \|Z - Q A\|_F^2, \qquad A \ge 0 \tag{3.18}
# $$
#
# *(3.18) Definition. Describe the tokens by few non-negative coordinates — non-negative LASSO (Tibshirani 1996; Yu et al. 2023)*
#
# ISTA (iterative shrinkage–thresholding) replaces the square by a simpler bowl that touches it at the current point,
# and jumps to the bowl's minimum. CRATE makes one such step, begun at $A = Z$:
#
# $$
# \operatorname*{argmin}_{A \ge 0}\ \lambda \|A\|_1 + \left\langle A,\, Q^\top (QZ - Z) \right\rangle + \frac{1}{2t} \|A - Z\|_F^2 = \operatorname{ReLU}\left(Z + t\, Q^\top (Z - QZ) - t\lambda\right) \tag{3.19}
# $$
#
# *(3.19) Checked. One proximal gradient step is two matrix products and a ReLU — Beck & Teboulle 2009; Yu et al. 2023 · `attention.ista_step`*
#
# The ReLU is not a choice; it is what the constraint $A \ge 0$ does to the minimum of a parabola. The check
# hands the left side to a general-purpose optimiser with bounds.

# %% tags=["hide-input"]
# check of (3.19): the minimum found by L-BFGS with bounds
from scipy.optimize import minimize

Q, t, lam = torch.linalg.qr(torch.randn(6, 6))[0] + 0.1 * torch.randn(6, 6), 0.1, 0.1
Zp = nine.abs()

def bowl(a):
    A = torch.tensor(a, requires_grad=True)
    value = lam * A.sum() + (A * ((Zp @ Q.T - Zp) @ Q).flatten()).sum() + (A - Zp.flatten()).square().sum() / (2 * t)
    return value.item(), torch.autograd.grad(value, A)[0].numpy()

found = minimize(bowl, Zp.flatten().numpy(), jac=True, bounds=[(0, None)] * 54, options={"ftol": 1e-15, "gtol": 1e-10})
check("3.19", attention.ista_step(Zp, Q, t, lam).flatten(), found.x, "one step, against L-BFGS with bounds", tol=DIFFERENCES)

# %% [markdown]
# How much does the jump $A = \operatorname{ReLU}(Z + t\, Q^\top (Z - QZ) - t\lambda)$ lower the objective? By at least this much
# ($\|Q\|$ is the largest singular value), so every step shorter than $2/\|Q\|^2$ goes down:
#
# $$
# h(A) \le h(Z) - \left(\frac1t - \frac{\|Q\|^2}{2}\right) \|A - Z\|_F^2 \qquad \text{for } Z \ge 0,\ t > 0 \tag{3.20}
# $$
#
# *(3.20) Checked. What one step promises; equality for a dictionary that stretches all directions alike, where nothing is clipped — Beck & Teboulle 2009*
#
# *Proof.* $A$ minimises the bowl of (3.19) over $A \ge 0$, and $Z$ is allowed, so along $\Delta = A - Z$ the linear part falls by at
# least $\|\Delta\|_F^2/t$. The square adds its curvature, $\frac12\|Q\Delta\|_F^2 \le \frac12\|Q\|^2\|\Delta\|_F^2$. ∎
#
# The condition $Z \ge 0$ matters, because only then is the starting point allowed. Tokens that come
# out of attention have both signs, so in the block the promise does not cover the step as such.

# %% tags=["hide-input"]
# check of (3.20): 100 random dictionaries far from orthogonal, steps up to three times 1/‖Q‖²
def h(A, Z, Q, lam=0.1):
    return lam * A.abs().sum() + 0.5 * (Z - A @ Q.mT).square().sum()

def promised(Z, Q, t):
    A = attention.ista_step(Z, Q, t, 0.1)
    return h(Z, Z, Q) - (1 / t - torch.linalg.matrix_norm(Q, 2) ** 2 / 2) * (A - Z).square().sum()

dictionaries = torch.randn(100, 6, 6)
cases = [(torch.rand(9, 6), q, (3 * torch.rand(()) / torch.linalg.matrix_norm(q, 2) ** 2).item()) for q in dictionaries]
even = 0.5 * torch.linalg.qr(torch.randn(6, 6))[0]
check_below("3.20", lambda Z, Q, t: h(attention.ista_step(Z, Q, t, 0.1), Z, Q), promised, "100 dictionaries",
            draws=cases, equal=(1 + torch.rand(9, 6), even, 0.2))

# %% [markdown]
# Three times $1/\|Q\|^2$ can raise it. And how sparse does one step make the tokens? CRATE fixes
# $t = \lambda = 0.1$. On the photo's tokens, normalised as in the layer and with a random orthogonal dictionary:

# %%
ones, half = torch.ones(9, 6), torch.eye(6) / 2
print(f"Q = I/2, step 3/‖Q‖²: objective {h(ones, ones, half):.1f} → {h(attention.ista_step(ones, half, 12.0), ones, half):.1f}")
rotation = torch.linalg.qr(torch.randn(128, 128))[0]
share = lambda A: 100 * (A == 0).double().mean().item()
print(f"zeros after a plain ReLU {share(normed.relu()):.0f} %, after the ISTA step {share(attention.ista_step(normed, rotation)):.0f} %")

# %% [markdown]
# All the zeros are the ReLU's work. With an untrained dictionary the step itself does not make the tokens sparser, here even
# a little less sparse, because a random rotation mixes the coordinates. Sparsity is what the dictionary has to *learn*; the
# formula only leaves room for it.

# %% [markdown]
# ## Sources
#
# - Y. Yu, S. Buchanan, D. Pai, T. Chu, Z. Wu, S. Tong, B. Haeffele, Y. Ma, *White-Box Transformers via Sparse Rate Reduction*, NeurIPS 2023 (CRATE:
#   the compression term, its gradient, the approximations, MSSA, the ISTA block).
# - A. Vaswani et al., *Attention Is All You Need*, NeurIPS 2017 (scaled dot-product attention).
# - A. Beck, M. Teboulle, *A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems*, SIAM J. Imaging Sciences 2009.
# - R. Tibshirani, *Regression Shrinkage and Selection via the Lasso*, J. Royal Statistical Society B 1996.
# - Y. Hu, D. Zou, D. Xu, *An In-depth Investigation of Sparse Rate Reduction in Transformer-like Models*, NeurIPS 2024.
#
# [◀ previous](02_rate_reduction.ipynb) · [contents](00_start_here.ipynb) · [next ▶](04_variational_bound.ipynb)
