# %% [markdown]
# # Lesson 7 · The layer that people run
#
# [◀ previous](06_memberships.ipynb) · [contents](00_start_here.ipynb) · [next ▶](08_tost.ipynb)
#
# Lesson 5 ended with a formula, lesson 6 with its memberships. The layer that people train departs from both in a dozen places. **Is the published layer still the theory, and if not, which switch brings the theory back?**
#
# **After this you can**
#
# - write the practical layer and its tied step yourself, and name every place where they leave the formula
# - switch each departure off, one at a time, and predict what changes
# - say which guarantees of lesson 5 survive in the layer and which don't
# - list what the layer can and cannot do whatever its weights are
# - keep it alive in half precision, with a single token or padding, and make it causal ([Going deeper](#Going-deeper))
#
# **You should be able to answer:** Which one switch makes the layer a gradient step again, and why is the untied layer none? Why do the published memberships grow flat as an image grows? How much can one half of the tokens tell the other half?
#
# **Before this:** lessons 5 and 6. PyTorch modules and automatic differentiation.
#
# **Time:** about 37 minutes to read, 20 seconds to run on two CPU cores; with Going deeper about 44 minutes more.

# %% tags=["hide-input"]
# imports
import copy
import math
from itertools import product

import torch
from torch import nn
from torch.func import jacrev, vjp

from tssa_lib import rates, tssa
from kit import DIFFERENCES, check, check_below, exercise, mine, plots, show
from kit.tost import Block, CausalTSSA
from tssa_lib.tssa import TSSA

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## 7.1 The layer in three formulas
#
# The layer takes token rows and multiplies them by one matrix, whose slices are the heads' $U_k^\top$. It squares the result, makes memberships of the squares, averages them into second moments and turns those into gates. The gated tokens go through an output matrix with slices $O_k$, which the layer learns freely. Token $j$ receives
#
# $$
# \mathrm{TSSA}(Z)_j = -\sum_{k=1}^{K} \pi_{jk}\, O_k D_k U_k^\top z_j \tag{7.1}
# $$
#
# *(7.1) Checked. The published layer, without biases: shared out, gated, mapped back — Wu et al. 2024, published code · `tssa.TSSA`*
#
# $$
# \pi_{jk} = \frac{e^{\theta_k E_{jk}}}{\sum_{m} e^{\theta_m E_{jm}}}, \qquad
# E_{jk} = \sum_{i=1}^{p} \frac{(u_{ki}^\top z_j)^2}{\sum_{l=1}^{n} (u_{ki}^\top z_l)^2} \tag{7.2}
# $$
#
# *(7.2) Checked. Its memberships: each squared coordinate is first divided by its sum over all tokens — Wu et al. 2024, published code · `tssa.memberships`*
#
# $$
# s_{ki} = \frac{\sum_j \pi_{jk} (u_{ki}^\top z_j)^2}{n_k + 10^{-8}}, \qquad D_k = \mathrm{Diag}\Big(\frac{1}{1 + s_{ki}}\Big) \tag{7.3}
# $$
#
# *(7.3) Checked. Its gates come from the squares as they are, not divided — Wu et al. 2024, published code · `tssa.second_moments`*
#
# **Exercise 7a. The layer.** Write its forward pass from these three lines, for one set of tokens. The matrix `W` holds $U_1^\top, U_2^\top, \dots$ one below the other; `O` holds $O_1, O_2, \dots$ side by side. Neglect the $10^{-8}$.

# %%
def my_layer(x, W, theta, O):                                              # x (N, d), W (C, d), theta (K, 1), O (d, C) → (N, d)
    return ...  # your turn: first w (K, N, p), then Pi (K, N), s and D (K, p)

# %% tags=["hide-input"]
# the library's layer as a function with the same arguments, and the verdict
def library_layer(x, W, theta, O):
    w = tssa.split_heads(x[None] @ W.T, len(theta))                        # (1, K, N, p)
    return (tssa.join_heads(tssa.token_update(w, theta)) @ O.T)[0]


tssa_of = mine("7a", my_layer, library_layer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_layer(x, W, theta, O):
#     w = (x @ W.T).reshape(len(x), len(theta), -1).transpose(0, 1)          # (K, N, p)
#     share = w ** 2 / (w ** 2).sum(1, keepdim=True)                         # over the tokens
#     Pi = (theta * share.sum(-1)).softmax(0)                                # (K, N), over the heads
#     s = (Pi[..., None] * w ** 2).sum(1) / Pi.sum(1, keepdim=True)          # (K, p)
#     y = -Pi[..., None] / (1 + s[:, None]) * w                              # (K, N, p)
#     return y.transpose(0, 1).reshape(len(x), -1) @ O.T
# ```
#
# The squares are divided over the tokens (axis 1), the softmax runs over the heads (axis 0): each token shares itself out. A port with the wrong axis in the softmax trains without complaint.
#
# </details>
#
# The six tokens again, one head for each axis, $U_k$ and $O_k$ the axes themselves, $\theta = 1$. Beside them the operator of lesson 5 at the price $\varepsilon^2 = 0.1$, with lesson 6's memberships at $\eta = \frac12$ and the step $t = 1/c$. **Predict:** tokens a, b, c lie on the first axis, which their group wants to keep. Which of the two leaves them where they are?

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
axes = torch.eye(2)                                                        # W and O
by_layer = tssa_of(six, axes, torch.ones(2, 1), axes)

# %% tags=["hide-input"]
# figure: what the layer and the operator do to the six tokens
w6 = six.T[..., None]                                                      # (K, N, p) = (2, 6, 1)
Pi_layer, Pi_theory = tssa.memberships(w6), tssa.memberships(w6, normalize="none")
by_theory = tssa.tssa_update(six, Pi_theory, axes[:, :, None], 0.1, t=0.05)
left, right = plots.row(2)
for ax, arrows, title in ((left, by_layer, "The layer"), (right, by_theory, "The operator of lesson 5, t = 1/c")):
    fig = plots.points(six, [0, 0, 0, 1, 1, 1], names="abcdef", arrows=arrows, title=title, ax=ax)
    ax.set(xlim=(-2.5, 2.5), ylim=(-2.2, 2.2), adjustable="box")
show(fig, alt="Six tokens on two axes with arrows: the layer pulls all of them towards the origin along their axes, the operator hardly moves them.",
     digest=f"token a moves by {by_layer[0].norm():.2f} in the layer and by {by_theory[0].norm():.2f} in the operator; "
            f"its membership of head 1 is {Pi_layer[0, 0]:.2f} and {Pi_theory[0, 0]:.2f}")

# %% [markdown]
# The operator leaves a, b, c: strong coordinates are kept. The layer pulls everything inwards. Two departures make the difference: at $c = 1$ instead of $c = 20$ the gate of a strong coordinate is far from closed, and head 1 gets token a with little more than one half.
#
# The library's layer must be the three formulas and nothing else. We hold it against loops written from them, coordinate by coordinate, on 20 tokens of 24 numbers and three heads of eight.

# %%
d, K, n = 24, 3, 20                                                        # so p = 8: no two sizes are equal
x = torch.randn(1, n, d)


def random_layer(**switches):
    torch.manual_seed(1)
    layer = TSSA(d, K, **switches).requires_grad_(False)
    if not layer.tied:
        nn.init.zeros_(layer.to_out[0].bias)
    return layer

# %% tags=["hide-input"]
# checks of (7.1) to (7.3): loops over tokens, heads and coordinates, with three different temperatures
layer = random_layer()
layer.temp.copy_(torch.tensor([[0.5], [2.0], [5.0]]))
loops = tssa.tssa_literal(x[0], layer.qkv.weight, layer.temp, layer.to_out[0].weight)
check("7.1", layer(x)[0], loops, "the layer against loops over tokens, heads and coordinates")
assert torch.allclose(tssa_of(x[0], layer.qkv.weight, layer.temp, layer.to_out[0].weight), loops, atol=1e-7)
w, theta = layer.project(x[:, :5])[0], layer.temp                          # (K, 5, p)


def logit(j, k):
    return theta[k, 0] * sum(w[k, j, i] ** 2 / sum(w[k, l, i] ** 2 for l in range(5)) for i in range(8))


by_hand = torch.stack([torch.stack([logit(j, k) for k in range(K)]).softmax(0) for j in range(5)])  # (N, K)
check("7.2", tssa.memberships(w, theta), by_hand.T, "memberships of five tokens, one logit at a time")
s_by_hand = torch.stack([torch.stack([sum(by_hand[j, k] * w[k, j, i] ** 2 for j in range(5)) / (by_hand[:, k].sum() + 1e-8)
                                      for i in range(8)]) for k in range(K)])
check("7.3", tssa.gates(tssa.second_moments(w, by_hand.T)), 1 / (1 + s_by_hand), "gates of three heads, one sum at a time")

# %% [markdown]
# ## 7.2 The theory, with all switches set
#
# `TSSA` has a switch for each departure. With all of them set it is the operator of lesson 5:
#
# $$
# \mathrm{TSSA}(Z) = -\frac{\tau}{n} \sum_{k=1}^{K} U_k D_k U_k^\top Z\, \mathrm{Diag}(\pi_k), \qquad
# D_k = \mathrm{Diag}\Big(\frac{c}{1 + c\, s_{ki}}\Big) \tag{7.4}
# $$
#
# *(7.4) Checked. The operator of the theory, which the layer with all switches set must equal — Wu et al. 2024 · `tssa.tssa_update`*
#
# From here on $t = \tau/n = 1$, and the residual is added outside. Our random tokens are about $\sqrt{24}$ long; for them we take $\varepsilon^2 = 0.5$ and $\eta = 0.8$, at which neither gates nor memberships are all or nothing.

# %%
eps2, eta = 0.5, 0.8
THEORY = dict(tied=True, orthonormal=True, normalize="none", temp=1 / (2 * eta), c=d / eps2, mass=0.0,
              detach_memberships=True)


def theory_but(**released):
    """The layer with all switches set to the theory, except those named."""
    return random_layer(**{**THEORY, **released})

# %% tags=["hide-input"]
# the operator token by token, with its own memberships; check of (7.4); the test that every card runs
def heads(layer):
    """U (K, d, p): the projection in use, cut into heads."""
    return layer.U.detach()


def operator(x, U):
    energy = torch.stack([((x @ U_k) ** 2).sum(-1) for U_k in U])          # (K, N)
    Pi = (energy / (2 * eta)).exp() / (energy / (2 * eta)).exp().sum(0)
    out = torch.zeros_like(x)
    for U_k, pi in zip(U, Pi):
        D = 1 / (eps2 / d + pi @ (x @ U_k) ** 2 / pi.sum())                # c/(1 + cs)
        out -= pi[:, None] * ((x @ U_k * D) @ U_k.T)
    return out


def card(switch, released, restored=None, target=None):
    """How far the layer goes with the switch released; with the switch set the theory must come back to 1e-9."""
    restored = theory_but()(x)[0] if restored is None else restored
    target = operator(x[0], heads(theory_but())) if target is None else target
    gone, left = ((v - target).norm() / target.norm() for v in (released, restored))
    assert left < 1e-9 and left < gone / 10, (gone.item(), left.item())
    off = f"{gone:.0%}" if gone > 0.01 else f"{gone:.0e} of its size"
    print(f"✓ {switch}: the theory is back to 1e-9 (released, it is off by {off})")


layer = theory_but()
check("7.4", layer(x)[0], operator(x[0], heads(layer)), "all switches set: the layer is the operator")

# %% [markdown]
# Each card releases one switch and leaves the rest in place. Its test prints how far the layer then is from the operator, and stops the lesson unless the theory comes back when the switch is set again.
#
# | Card | Theory | Layer | Switch back |
# |---|---|---|---|
# | **1** | output map $U_k$ | free $O_k$ | `tied=True` |
# | **2** | orthonormal $U_k$ | any matrix | `orthonormal=True` |
# | [3](#Card-3.-The-constants-are-gone) | $c = d/\varepsilon^2$ and a step $t$ | 1 and 1 | `c=d/eps2` |
# | **4** | Π from energies | Π from divided squares | `normalize="none"` |
# | [5](#Card-5.-Memberships-and-gates-look-at-different-tokens) | Π and $s$ from the same squares | from different ones | `normalize="none"` |
# | [6](#Card-6.-One-temperature-becomes-K-learned-ones) | one temperature | $K$ learned ones | `temp=1/(2*eta)` |
# | [7](#Card-7.-A-hundred-millionth-in-the-denominator) | $n_k$ | $n_k + 10^{-8}$ | `mass=0.0` |
# | [8](#Card-8.-The-projections-may-have-biases) | $U_k^\top z$ | $U_k^\top z + b_k$ | `qkv_bias=False` |
# | [9](#Card-9.-Dropout-on-the-gates) | no dropout | drops gates | `attn_drop=0` |
# | [10](#Card-10.-Memberships-are-differentiated) | Π held in the gradient | differentiated | `detach_memberships=True` |
# | **11** | a step on $Z$ | a step from $\mathrm{LN}(Z)$ | `norm1 = nn.Identity()` |
# | [12](#Card-12.-The-causal-layer) | all tokens | the past only | `temp = 0` |
#
# Guess for each row: cosmetic, useful, or dangerous to what lesson 5 promised?
#
# <details><summary>Answer</summary>
#
# Cosmetic: 3 and 8, and 7 as long as nobody computes in float16. Useful in training, and the forward pass stays what it was: 9 and 10. Useful at a price: 6, whose temperatures may turn negative, and 12, whose old tokens keep the memberships of their time. The promise itself is touched by the four in bold; 5 follows from 4.
#
# </details>
#
# The four in bold change what is guaranteed and follow now. Some departures change no number at all: the leading minus is multiplied by a free matrix, positions are added once before the first block, and the step that CRATE derived from sparsity is an ordinary MLP.
#
# ## 7.3 Card 1. The output map is free
#
# - **Theory** sends each head's result back with the same $U_k$ that fetched it.
# - **Layer** learns a matrix $O = [O_1, \dots, O_K]$ of its own, with a bias.
# - **Why:** twice the parameters and a free sign; the network may do more than compress.
# - **Switch:** `tied=True`.
#
# $$
# O_k = U_k \;\Rightarrow\; \mathrm{TSSA}(Z) = -n\, \nabla_Z R_c^{\mathrm{var}}(Z, \Pi \mid U) \tag{7.5}
# $$
#
# *(7.5) Checked. Tied, the layer is a gradient step, for any bases, with Π held fixed — lesson 5 · `rates.variational_rate_grad`*

# %% tags=["hide-input"]
# check of (7.5): differentiation knows the objective only, the layer its own lines only; the bases are free
def gradient_step(layer, x):
    """−n∇R_c^var by automatic differentiation, Π held fixed; c = layer.c."""
    Pi, U = layer.statistics(x).Pi.detach(), heads(layer)
    z = x.clone().requires_grad_()
    R = rates.variational_rate(z, Pi, U, layer.dim / layer.c).sum()
    return -x.shape[-2] * torch.autograd.grad(R, z)[0]


tied = theory_but(orthonormal=False)
check("7.5", tied(x), gradient_step(tied, x), "tied=True: the layer against autograd of R_c^var, free bases")
card("tied=True", theory_but(tied=False)(x)[0])

# %% [markdown]
# **Exercise 7b. The tied step.** Write one residual step $Z + \gamma\,\mathrm{TSSA}(Z)$ of the tied layer, with the memberships (7.2) and gates (7.3). You may use `tssa.memberships`, `tssa.second_moments` and `tssa.gates`. What is `O` now, in terms of `W`?

# %%
def my_tied_step(x, W, theta, gamma):                                      # x (N, d), W (C, d), theta (K, 1) → (N, d)
    return ...  # your turn

# %% tags=["hide-input"]
# the library's tied step, and the verdict
def library_step(x, W, theta, gamma):
    return x + gamma * library_layer(x, W, theta, W.T)


tied_step = mine("7b", my_tied_step, library_step)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_tied_step(x, W, theta, gamma):
#     w = (x @ W.T).reshape(len(x), len(theta), -1).transpose(0, 1)          # (K, N, p)
#     Pi = tssa.memberships(w, theta)                                        # (K, N)
#     D = tssa.gates(tssa.second_moments(w, Pi))                             # (K, p)
#     y = -(Pi[..., None] * D[:, None] * w).transpose(0, 1).reshape(len(x), -1)
#     return x + gamma * y @ W
# ```
#
# Tied means `O = W.T`, so multiplying by `O.T` is multiplying by `W`.
#
# </details>
#
# Now 12 layers with random weights, once tied and once with the output map they were born with. We lengthen the step $\gamma$ and watch the objective. **Predict:** how many of the 12 untied curves go down?

# %%
def step_untied(x, layer, gamma):
    return x + gamma * tssa_of(x, layer.qkv.weight, layer.temp, layer.to_out[0].weight)


def step_tied(x, layer, gamma):
    return tied_step(x, layer.qkv.weight, layer.temp, gamma)

# %% tags=["hide-input"]
# figure: the objective of 12 layers against the step size, tied and untied
def drawn(seed, **switches):
    torch.manual_seed(seed)
    return TSSA(d, K, **switches).requires_grad_(False)


steps, falls = torch.linspace(0, 2, 21), {}
for ax, name, step in zip(plots.row(2), ("tied", "untied"), (step_tied, step_untied)):
    curves = {}
    for i in range(12):
        layer = drawn(i)
        Pi = layer.statistics(x).Pi[0]
        rate = torch.stack([rates.variational_rate(step(x[0], layer, g), Pi, heads(layer), d) for g in steps])
        curves[f"{name} {i + 1}"] = rate / rate[0]
    falls[name] = sum(bool(c[2] < 1) for c in curves.values())             # at γ = 0.2
    fig = plots.lines(steps, curves, title=f"12 {name} layers", xlabel="step size γ", ylabel="R_c^var after / before", ax=ax,
                      hlines={"unchanged": 1.0})
    ax.set_ylim(0.4, 1.2), ax.get_legend().remove()
assert falls["tied"] == 12
show(fig, alt="Objective against step size for twelve tied and twelve untied layers: all tied curves fall, the untied ones fan out around one",
     digest=f"{falls['tied']} of 12 tied and {falls['untied']} of 12 untied layers lower R_c^var at γ = 0.2")

# %% [markdown]
# All tied layers lower the objective, as (7.5) says they must for small steps. Of the untied ones only those that happen to point downhill do. Nothing in the untied layer asks it to compress. What training makes of this freedom is measured in lesson 8.
#
# ## 7.4 Card 2. The bases are not orthonormal
#
# - **Theory** wants orthonormal columns in each $U_k$: then $\lVert U_k^\top z \rVert$ is a length.
# - **Layer** has an ordinary linear map; its slices may stretch and overlap.
# - **Why:** no constraint to keep, and the scale of a row can absorb the precision ([card 3](#Card-3.-The-constants-are-gone)).
# - **Switch:** `orthonormal=True` (a QR factorisation of each slice).
#
# What is lost is the promise on the step. Lesson 5 allows any $\gamma < 2/\max_j \lVert A_j \rVert$ with the curvature $A_j = \sum_k \pi_{jk} U_k D_k U_k^\top$. Orthonormal bases make that a number one can know beforehand, because $A_j$ is then an average, with weights $\pi_{jk}$, of matrices whose norms are their largest gates:
#
# $$
# \lVert A_j \rVert_2 \le \max_{k,i} D_{ki} \le c \tag{7.6}
# $$
#
# *(7.6) Checked. With orthonormal bases no token's curvature exceeds the largest gate — lesson 5 · `tssa.largest_safe_gamma`*

# %% tags=["hide-input"]
# check of (7.6): twenty inputs from small to large; equality with a single head
def curvature(layer, x):
    """max_j ‖A_j‖ by the largest singular value of each A_j."""
    Pi, _, D = layer.statistics(x)
    A = torch.einsum("kn,kdp,kp,kep->nde", Pi[0], heads(layer), D[0], heads(layer))
    return torch.linalg.svdvals(A).max()


one_head = TSSA(d, 1, **THEORY).requires_grad_(False)
check_below("7.6", curvature, lambda layer, x: layer.statistics(x).gates.max(), "‖A_j‖ against the largest gate, orthonormal=True",
            draws=[(theory_but(), scale * torch.randn(1, n, d)) for scale in (0.03, 0.1, 0.3, 0.5) for _ in range(5)],
            equal=(one_head, x))
card("orthonormal=True", theory_but(orthonormal=False)(x)[0])

# %% [markdown]
# **Predict:** multiply all weights of a tied layer by ten. What happens to its largest safe step?

# %% tags=["hide-input"]
# figure: the largest safe step against the scale of the weights
factors = torch.logspace(-0.5, 1, 13)
safe = {"free": [], "orthonormal=True": []}
for f, name in product(factors, safe):
    layer = drawn(3, tied=True, orthonormal=name != "free")
    layer.qkv.weight.mul_(f)
    Pi, _, D = layer.statistics(0.1 * x)
    safe[name].append(tssa.largest_safe_gamma(Pi[0], heads(layer), D[0]).item())
fig = plots.lines(factors, safe, title="Largest safe step of the tied layer (c = 1)", xlabel="factor on the weights",
                  ylabel="largest safe γ", xscale="log", yscale="log", hlines={"γ = 2, the theory's promise": 2.0})
show(fig, alt="Largest safe step size against the scale of the weights: free weights vary over orders, orthonormal stay constant above two",
     digest=f"free {safe['free'][0]:.1f} … {safe['free'][-1]:.2f}, orthonormal {safe['orthonormal=True'][0]:.2f} throughout")

# %% [markdown]
# The free layer's safe step shrinks as its weights grow. The switch makes it independent of them.
#
# ## 7.5 Card 4. Memberships from divided squares
#
# - **Theory** compares energies: $\pi_{jk} \propto \exp(\lVert U_k^\top z_j\rVert^2 / 2\eta)$.
# - **Layer** first divides each squared coordinate by its sum over the tokens, (7.2).
# - **Why:** no head can win by large weights, and logits cannot explode.
# - **Switch:** `normalize="none"`.
#
# The price: each coordinate hands out one unit, to be shared by all tokens. Say that $p_k$ of head $k$'s coordinates are alive, that is, not zero on every token. A dead coordinate hands out nothing (the layer sets its 0/0 to 0). Then
#
# $$
# \sum_{j=1}^{n} \theta_k E_{jk} = \theta_k\, p_k, \quad p_k \le p, \qquad \text{so the mean logit is } \theta_k\, p_k / n \tag{7.8}
# $$
#
# *(7.8) Checked. More tokens, smaller logits, flatter memberships; dead coordinates don't count — this series · `tssa.memberships`*

# %% tags=["hide-input"]
# check of (7.8), with two dead coordinates in the third head: the logits' sum is read back from Π alone
layer = random_layer()
layer.temp.copy_(torch.tensor([[0.5], [2.0], [5.0]]))
layer.qkv.weight[-2:] = 0
Pi, alive = layer.statistics(x).Pi[0], torch.tensor([8.0, 8.0, 6.0])
sums = layer.temp[:, 0] * alive
check("7.8", (Pi / Pi[:1]).log().sum(-1), sums - sums[0], "sum over tokens of ln(π_k/π_1) against θ_k p_k − θ_1 p_1")
card('normalize="none"', theory_but(normalize="tokens")(x)[0])

# %% [markdown]
# For the six tokens this is the difference between "a belongs to group 1" and "who knows". `normalize="rms"` multiplies the logits by $n/p$ and takes the number of tokens out again.

# %%
RULES = {"theory": "none", "published": "tokens", "rms": "rms"}


@torch.no_grad()
def decided(N, kind):
    """How far the largest membership lies above 1/K, mean over N random tokens: 0 is uniform."""
    torch.manual_seed(4)
    Pi = TSSA(128, 4, normalize=kind).statistics(torch.randn(1, N, 128)).Pi
    return (Pi.amax(1).mean() - 1 / 4).item()

# %% tags=["hide-input"]
# figure: the six tokens under the theory's rule and the published one; how decided many tokens are
sizes = [25, 50, 100, 200, 400, 800, 1600]
lean = {name: [decided(N, kind) for N in sizes] for name, kind in RULES.items()}
left, right = plots.row(2)
plots.bars(list("abcdef"), {name: tssa.memberships(w6, normalize=RULES[name])[0] for name in ("theory", "published")},
           title="How much head 1 gets of six tokens", xlabel="token", ylabel="membership of head 1", hlines={"undecided": 0.5}, ax=left)
left.set_ylim(0, 1.25)
fig = plots.lines(sizes, lean, title="How decided tokens are, four heads", xlabel="number of tokens", ylabel="largest membership − 1/4",
                  xscale="log", yscale="log", markers=True, vlines={"400: a feature map": 400}, ax=right)
show(fig, alt="Left: under the theory's rule tokens a to c go to head 1 and d to f do not; under the published rule all stay near one half. Right: how decided tokens are against their number: flat for theory and rms, a falling line for the published rule.",
     digest=f"published: {lean['published'][0]:.3f} above 1/4 at 25 tokens, {lean['published'][4]:.4f} at 400; rms: {lean['rms'][0]:.2f} and {lean['rms'][4]:.2f}")

# %% [markdown]
# At the start of training, on a YOLO feature map, the published memberships are uniform for every practical purpose. Lesson 6 shows the same on photos.
#
# ## 7.6 Card 11. Residual, pre-norm and LayerScale
#
# - **Theory** steps on the tokens: $Z \leftarrow Z + \gamma\,\mathrm{TSSA}(Z)$.
# - **Layer** sits in a block: $Z \leftarrow Z + \gamma_1 \odot \mathrm{TSSA}(\mathrm{LN}(Z))$, where LN (LayerNorm) centres
#   and rescales each token and $\gamma_1$ (LayerScale) is a learned number a channel, starting at 1 (or
#   $10^{-5}$ in deep models).
# - **Why:** deep networks train better so.
# - **Switch:** `block.norm1 = nn.Identity()` and one positive number in `gamma1`.
#
# Without the norm, and tied, lesson 5's theorem holds for the block's first half $Z^+ = Z + \gamma\, \mathrm{TSSA}(Z)$
# as it stands (Π held while one looks), with a decrease of at least
#
# $$
# R_c^{\mathrm{var}}(Z) - R_c^{\mathrm{var}}(Z^+) \ge \frac{\gamma}{n} \Big(1 - \frac{\gamma}{2} \max_j \lVert A_j \rVert\Big) \sum_j \lVert A_j z_j \rVert^2 \tag{7.16}
# $$
#
# *(7.16) Checked. The block's first half compresses by a known amount while γ is below 2/max‖A_j‖ — lesson 5 · `tost.Block`*

# %%
def half_block(gamma, c=1.0, K=K, norm=False):
    """A block whose MLP is silent, with or without its norm."""
    torch.manual_seed(6)
    block = Block(d, K, **{**THEORY, "c": c}).requires_grad_(False)
    block.gamma1.fill_(gamma), block.gamma2.zero_()
    block.norm1 = nn.LayerNorm(d) if norm else nn.Identity()
    return block

# %% tags=["hide-input"]
# check of (7.16), both sides over the rate before: 30 steps up to nearly the longest; tiny tokens and one head keep the promise exactly
def rate_of(block, v, u):
    """R_c^var of u with bases and memberships from v."""
    return rates.variational_rate(u, block.attn.statistics(v).Pi, heads(block.attn), d / block.attn.c).squeeze()


def promised(gamma, c, K, v):
    block = half_block(gamma, c, K)
    step = gamma / v.shape[1] * (1 - gamma / 2 * curvature(block.attn, v)) * block.attn(v).square().sum()
    return step / rate_of(block, v, v)


def gained(gamma, c, K, v):
    block = half_block(gamma, c, K)                                        # the block's own forward makes the step
    return 1 - rate_of(block, v, block(v)) / rate_of(block, v, v)


check_below("7.16", promised, gained, "promised against measured decrease, norm1 off",
            draws=[(g / c, c, K, 0.3 * torch.randn(1, n, d)) for g in (0.2, 1.0, 1.9) for c in (1.0, 2.5) for _ in range(5)],
            equal=(0.3, 2.5, 1, 1e-6 * torch.randn(1, n, d)))
normed, plain = half_block(1.0, norm=True), half_block(1.0)
card("norm1=nn.Identity(), γ = 1", normed(x)[0], restored=plain(x)[0], target=(x + gradient_step(plain.attn, x))[0])

# %% [markdown]
# With the norm the step is computed at one point and applied at another. **Predict:** how much of the promise is left? We draw 200 sets of tokens and measure $R_c^{\mathrm{var}}$ of the *normalised* tokens before and after.

# %% tags=["hide-input"]
# figure: a step with and without pre-norm, eight step sizes up to twice the bound
def ratios(gamma):
    """R_c^var after/before for 200 inputs: of LN(x) across the block, and of z across z + γ·TSSA(z)."""
    block = half_block(gamma, norm=True)
    torch.manual_seed(7)
    v = torch.randn(200, n, d) * torch.rand(200, 1, d)
    z = block.norm1(v)
    before, pre, plain = (rate_of(block, z, u) for u in (z, block.norm1(block(v)), z + gamma * block.attn(z)))
    return pre / before, plain / before


gammas = [0.1, 0.5, 1.0, 1.5, 1.9, 2.5, 3.0, 4.0]
pre, plain = (torch.stack(v) for v in zip(*(ratios(g) for g in gammas)))   # (8, 200)
share = (pre < 1).double().mean(1)
fig = plots.lines(gammas, {"pre-norm, LN(x)": pre.mean(1), "without norm": plain.mean(1)}, title="A step with and without pre-norm",
                  xlabel="step size γ", ylabel="R_c^var after / before, mean", markers=True, hlines={"unchanged": 1.0}, vlines={"γ = 2": 2.0})
fig.axes[0].set_ylim(0, 1.8)
show(fig, alt="Ratio of the objective after and before a step against step size: without norm it stays below one; with pre-norm it has a minimum and rises for long steps",
     digest=f"pre-norm: {share[:5].min():.2f} of the inputs fall at every γ below 2, {share[-1]:.2f} at γ = 4; "
            f"without norm {(plain < 1).double().mean():.2f} everywhere")

# %% [markdown]
# For these inputs nearly every step below γ = 2 still compresses, though no theorem says so any more. Beyond, the norm turns against us: a step that shrinks a token past the origin is blown up again to full length.
#
# ## 7.7 What the layer can and cannot do
#
# Whatever its weights are: tokens meet only in sums. So the layer cannot know their order. For every permutation matrix $Q$,
#
# $$
# \mathrm{TSSA}(Z Q) = \mathrm{TSSA}(Z)\, Q \tag{7.20}
# $$
#
# *(7.20) Checked. Shuffled tokens give the same outputs, shuffled — standard property · `tssa.TSSA`*
#
# How thin is the channel between tokens? A token hears of the others through $Kp$ sums of squares in Π and $Kp$ second moments, and through nothing else. So if $\mathcal{A}$ and $\mathcal{B}$ are disjoint sets of tokens,
#
# $$
# \mathrm{rank}\, \frac{\partial\, \mathrm{TSSA}(Z)_{\mathcal{A}}}{\partial Z_{\mathcal{B}}} \le 2 K p \tag{7.22}
# $$
#
# *(7.22) Checked. All that one set of tokens learns from another fits into 2Kp numbers — this series*
#
# **Predict:** 40 tokens of 8 numbers, so $Kp = 8$. The derivative of one half's output by the other half's input is a 160 × 160 matrix. What rank does it have with one head, whose Π is constant? With two?

# %% tags=["hide-input"]
# checks of (7.20) and (7.22), and the figure: singular values of the derivative between two halves
layer, order = random_layer(temp=5.0), torch.randperm(n)
check("7.20", layer(x[:, order]), layer(x)[:, order], "shuffled input against shuffled output")


def cross(seed, K):
    """Singular values of the derivative of tokens 1 to 20 by tokens 21 to 40."""
    torch.manual_seed(seed)
    layer, v = TSSA(8, K, temp=8.0), torch.randn(40, 8)
    J = jacrev(lambda b: layer(torch.cat([v[:20], b])[None])[0, :20])(v[20:])  # (20, 8, 20, 8)
    return torch.linalg.svdvals(J.detach().reshape(160, 160))


def rank(seed, K):
    return (cross(seed, K) > 1e-9 * cross(seed, K)[0]).sum()


check_below("7.22", rank, lambda seed, K: torch.tensor(2 * 8), "ranks of the 160 × 160 derivative between two halves of 40 tokens",
            draws=[(0, 2), (1, 2), (9, 1), (9, 4)], equal=(2, 2))
spectra = {f"K = {K_}, p = {8 // K_}": cross(9, K_) for K_ in (1, 2, 4)}
fig = plots.lines(range(1, 33), {k: (sv[:32] / sv[0]).clamp_min(1e-18) for k, sv in spectra.items()}, title="What half the tokens tell the others",
                  xlabel="number of the singular value", ylabel="singular value / largest", yscale="log", vlines={"2Kp = 16": 16})
show(fig, alt="Singular values of the cross-token derivative drop to rounding after sixteen, with one head after eight",
     digest=f"ranks {[rank(9, K_).item() for K_ in (1, 2, 4)]} for K = 1, 2, 4")

# %% [markdown]
# One head has rank 8: its memberships are constant, and only the $p = 8$ second moments speak. More heads reach $2Kp = 16$, of 160. There is no retrieval by content here, as a key–value lookup has it: tokens meet through $2Kp$ numbers, the same for whoever asks. [With one head the layer is one matrix](#One-head-is-one-matrix), and [no weights can make its gated tokens large](#A-bound-for-any-input).
#
# **Exercise 7c. What can one half hear?** Two halves of `n` tokens each, width `d`, `K` heads, the published memberships. How many numbers at most does one half hear of the other, that is, which rank can (7.22)'s derivative not exceed? Think of one head, and of very few tokens.

# %%
def numbers_heard(n, d, K):
    return ...  # your turn: a number


exercise("7c", numbers_heard)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def numbers_heard(n, d, K):
#     return min(n * d, 2 * d if K > 1 else d)
# ```
#
# $Kp = d$ sums of squares and as many second moments; with one head Π is 1 whatever the sums are; and $n$ tokens have only $nd$ numbers to tell.
#
# </details>
#
# ## Takeaways
#
# - The published layer is the theory with its constants absorbed, its bases and its output map freed, its memberships
#   made from divided squares, and its step moved into a pre-norm block.
# - Only the tied layer is a gradient step; only with bounded weights is its step size known to be safe.
# - Divided squares make Π independent of the scale of the weights and dependent on the number of tokens.
# - Tokens meet through $2Kp$ numbers. The layer gates channels; it does not look things up.
# - In practice: [compute statistics in float32](#Half-precision), [keep padding out](#One-token,-and-padding), and know that [the causal layer](#Card-12.-The-causal-layer) lets old tokens keep their old memberships.

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself.
#
# ### Card 3. The constants are gone
#
# - **Theory** has the precision $c = d/\varepsilon^2$ in the gates and the step $t = \tau/n$ in front.
# - **Layer** writes $1/(1+s)$ and no step.
# - **Why:** free weights can hold both. This is the one departure that loses nothing.
# - **Switch:** `c=d/eps2`; the step is the caller's $\gamma$.
#
# Write $\mathrm{TSSA}_{c}(Z; U, O)$ for the layer with constant $c$, projections $U$ and output map $O$. Then
#
# $$
# t\, \mathrm{TSSA}_{c}(Z; U, O) = \mathrm{TSSA}_{1}(Z; \sqrt{c}\, U,\, t \sqrt{c}\, O) \tag{7.7}
# $$
#
# *(7.7) Checked. Precision and step size can be moved into the weights, exactly — this series · `tssa.gates`*

# %%
c, t = d / eps2, 0.3
with_constants, absorbed = random_layer(c=c, mass=0.0), random_layer(mass=0.0)
absorbed.qkv.weight.mul_(math.sqrt(c))
absorbed.to_out[0].weight.mul_(t * math.sqrt(c))
check("7.7", absorbed(x), t * with_constants(x), "c and t in the weights against c and t in the formula")
card("c=d/eps2", theory_but(c=1.0)(x)[0])

# %% [markdown]
# Equal, so nothing is lost; forgetting the constant *without* absorbing it is another operator. The memberships didn't notice the factor $\sqrt{c}$: division by a coordinate's size over the tokens removes it (card 4). With the theory's memberships $\theta = 1/2\eta$ would have to be divided by $c$ as well.

# %% tags=["hide-input"]
# figure: the share of a direction that survives, for three precisions
s_axis = torch.logspace(-4, 2, 61)
curves = {f"c = {c:g}": s_axis * tssa.gates(s_axis, c) for c in (1.0, 48.0, 1000.0)}
fig = plots.lines(s_axis, curves, title="What a gate leaves at t = 1/c and π = 1", xlabel="second moment s",
                  ylabel="share kept, cs/(1 + cs)", xscale="log")
show(fig, alt="Share of a direction that survives a step against its second moment, for three precisions: S-curves shifted left as c grows",
     digest="half is kept at s = " + ", ".join(f"{1 / c:.2g}" for c in (1.0, 48.0, 1000.0)))

# %% [markdown]
# ### Card 5. Memberships and gates look at different tokens
#
# - **Theory** uses one set of projected tokens $U_k^\top z_j$ for Π and for $s$.
# - **Layer** makes Π from divided squares and $s$ from the squares as they are.
# - **Why:** it has to. With divided squares in both places the gates would know nothing.
# - **Switch:** `normalize="none"` puts both on the same tokens again.
#
# If the divided squares $v_{jki} = (u_{ki}^\top z_j)^2 / \sum_l (u_{ki}^\top z_l)^2$ of living coordinates were averaged as well,
#
# $$
# \frac{1}{n_k} \sum_{j=1}^{n} \pi_{jk}\, v_{jki} \le \frac{1}{n_k} \tag{7.9}
# $$
#
# *(7.9) Checked. Second moments of divided tokens vanish as tokens are added, however large the tokens — this series*
#
# so every gate would lie between $n_k/(n_k+1)$ and 1. That the switch works can be read off Π itself: the
# derivative of $\ln \pi$ by $\theta$ is the square that Π was made from, less its mean over the heads.
#
# $$
# \frac{\partial \ln \pi_{jk}}{\partial \theta} = \lVert U_k^\top z_j \rVert^2 - \sum_{m=1}^{K} \pi_{jm} \lVert U_m^\top z_j \rVert^2 \tag{7.10}
# $$
#
# *(7.10) Checked. With one temperature, Π answers to the very squares that the gates average — this series · `tssa.memberships`*

# %% tags=["hide-input"]
# checks of (7.9), tight for one head, and (7.10); released, the squares inside Π are the divided ones
def divided_moments(w, Pi):
    v = w ** 2 / (w ** 2).sum(-2, keepdim=True)
    return (Pi[..., None] * v).sum(-2) / Pi.sum(-1, keepdim=True)          # (K, p)


projected = [theory_but().project(scale * torch.randn(1, N, d))[0] for N in (5, 50) for scale in (0.1, 10.0)]
check_below("7.9", divided_moments, lambda w, Pi: (1 / Pi.sum(-1, keepdim=True)).expand(-1, w.shape[-1]), "moments of divided tokens",
            draws=[(w, tssa.memberships(w)) for w in projected], equal=(projected[0][:1], torch.ones(1, 5)))
layer = theory_but()
w, theta = layer.project(x)[0], layer.temp[0, 0]                           # (K, N, p), one temperature
slope = jacrev(lambda th: tssa.memberships(w, th, "none").log())(theta)    # (K, N)
Pi, energy = tssa.memberships(w, theta, "none"), (w ** 2).sum(-1)          # (K, N)
check("7.10", slope, energy - (Pi * energy).sum(0), 'normalize="none": the squares inside Π are those of the gates')
inside = jacrev(lambda th: tssa.memberships(w, th, "tokens").log())(theta)
card('normalize="none", the squares inside Π', inside, restored=slope, target=energy - (Pi * energy).sum(0))

# %% [markdown]
# What gates would the divided squares give? **Predict** it: there are 20 tokens, and the shares of a coordinate add up to one, so their average is 1/20.

# %% tags=["hide-input"]
# figure: the gates of one layer from raw and from divided squares
w = random_layer().project(x * torch.logspace(-1, 1, d))[0]
Pi = tssa.memberships(w)
gates_raw, gates_divided = (tssa.gates(m).flatten() for m in (tssa.second_moments(w, Pi), divided_moments(w, Pi)))
fig = plots.bars([str(i) if i % 8 == 0 else "" for i in range(d)], {"from raw squares": gates_raw, "from divided squares": gates_divided},
                 title="The gates of one layer, 3 heads × 8 coordinates", xlabel="coordinate of the heads", ylabel="gate D")
fig.axes[0].set_ylim(0, 1.4)
show(fig, alt="Twenty-four gates: those from raw squares differ, those from divided squares are all close to one",
     digest=f"raw {gates_raw.min():.2f} … {gates_raw.max():.2f}, divided {gates_divided.min():.2f} … {gates_divided.max():.2f}")

# %% [markdown]
# ### Card 6. One temperature becomes K learned ones
#
# - **Theory** has one $\eta$, and lesson 6 says which: $\eta = \sigma^2(\lambda+\sigma^2)/\lambda$ makes Π the exact posterior.
# - **Layer** has a parameter $\theta_k$ a head in the place of $1/2\eta$, starting at 1, of any sign.
# - **Why:** learned sharpness. One trap: `temp` has two axes, so recipes that spare only one-axis parameters from
#   weight decay will decay it.
# - **Switch:** `temp=1/(2*eta)` with `normalize="none"`, one value in all heads.
#
# $$
# \pi_{jk} = \frac{\mathcal{N}(z_j;\, 0,\, \lambda U_k U_k^\top + \sigma^2 I)}{\sum_m \mathcal{N}(z_j;\, 0,\, \lambda U_m U_m^\top + \sigma^2 I)}
# \quad \text{at} \quad \theta = \frac{\lambda}{2 \sigma^2 (\lambda + \sigma^2)} \tag{7.11}
# $$
#
# *(7.11) Checked. With the switch set the layer's Π is Bayes' rule again — lesson 6 · `tssa.memberships`*

# %% tags=["hide-input"]
# check of (7.11); with three different temperatures, one of them negative, the layer leaves Bayes' rule
lam, sigma2 = 1.3, 0.6
layer = theory_but(temp=lam / (2 * sigma2 * (lam + sigma2)))
log_density = torch.stack([torch.distributions.MultivariateNormal(
    torch.zeros(d), lam * U_k @ U_k.T + sigma2 * torch.eye(d)).log_prob(x[0]) for U_k in heads(layer)])
check("7.11", layer.statistics(x).Pi[0], log_density.softmax(0), "the layer's Π against Bayes' rule with Gaussian densities")
apart = theory_but()
apart.temp.copy_(torch.tensor([[0.5], [2.0], [-1.0]]))
card("temp=1/(2*eta)", apart(x)[0])

# %% tags=["hide-input"]
# figure: the six tokens' memberships against the temperature
temps = torch.linspace(-2, 2, 41)
path = torch.stack([tssa.memberships(w6, t, "none")[0] for t in temps])    # (41, N)
fig = plots.lines(temps, {f"token {name}": path[:, j] for j, name in enumerate("abcdef")},
                  title="Membership of head 1 against θ", xlabel="θ", ylabel="membership of head 1", vlines={"θ = 0": 0})
fig.axes[0].set_ylim(-0.05, 1.6), fig.axes[0].legend(fontsize=9, ncols=2, loc="upper left")
show(fig, alt="Memberships of six tokens against the temperature: all one half at zero, tokens a b c rise to one for positive and fall to zero for negative values",
     digest=f"token a: {path[0, 0]:.2f} at θ = −2, {path[20, 0]:.2f} at 0, {path[-1, 0]:.2f} at 2")

# %% [markdown]
# A negative $\theta$ sends each token to the head that sees least of it. Nothing forbids it.
#
# ### Card 7. A hundred-millionth in the denominator
#
# - **Theory** divides by $n_k$.
# - **Layer** divides by $n_k + 10^{-8}$.
# - **Why:** a head without members would give 0/0.
# - **Switch:** `mass=0.0`.
#
# $$
# s_{ki}(a) = \frac{n_k}{n_k + a}\, s_{ki}(0) \tag{7.12}
# $$
#
# *(7.12) Checked. A guard a shrinks a head's moments by the share a/(n_k + a) — this series · `tssa.second_moments`*

# %% tags=["hide-input"]
# check of (7.12) with a large guard
exact, guarded = (theory_but(mass=m).statistics(x) for m in (0.0, 0.5))
mass = exact.Pi.sum(-1, keepdim=True)
check("7.12", guarded.second_moments, mass / (mass + 0.5) * exact.second_moments, "mass=0.5 against mass=0.0")
card("mass=0.0", theory_but(mass=1e-8)(x)[0])

# %% [markdown]
# **Predict:** at what mass does the guard halve a head's second moments, and how far is that from a living head?

# %% tags=["hide-input"]
# figure: what the guard leaves of s, and where heads live
masses = torch.logspace(-11, 3, 141)
fig = plots.lines(masses, {"kept of s, guard 1e-8": masses / (masses + 1e-8)}, title="Only a head without tokens notices the guard",
                  xlabel="mass n_k of the head (tokens)", ylabel="second moment with / without guard", xscale="log",
                  vlines={"half, at n_k = 1e-8": 1e-8})
ax = fig.axes[0]
ax.axvspan(1, 1000, color="#009E73", alpha=0.25, label="heads that hold 1 to 1000 tokens")
ax.set_ylim(0, 1.75), ax.legend(fontsize=9, loc="upper left")
show(fig, alt="An S-curve: below a mass of 1e-8 the second moment vanishes, above 1e-6 it is untouched; heads that hold one to a thousand tokens are far to the right",
     digest=f"at n_k = 1 the guard takes {1e-8:.0e} of s, at n_k = 1e-8 a half")

# %% [markdown]
# Harmless in float64 and float32. In float16 the number $10^{-8}$ *is* zero: see [half precision](#Half-precision).
#
# ### Card 8. The projections may have biases
#
# - **Theory** projects: $U_k^\top z$.
# - **Layer** has `qkv_bias=True` in the vision models: $U_k^\top z + b_k$.
# - **Why:** habit, and harmless. The moments become those of affine functions, and the tied layer is still
#   a gradient, of the same sum with $f(s) = \ln(1 + cs)$.
# - **Switch:** `qkv_bias=False`, the default here.
#
# $$
# \nabla_{z_j} \frac{1}{2} \sum_{k} \frac{n_k}{n} \sum_{i} f(s_{ki})
# = \frac{1}{n} \sum_{k} \pi_{jk}\, U_k D_k (U_k^\top z_j + b_k), \qquad
# s_{ki} = \frac{1}{n_k} \sum_j \pi_{jk} (u_{ki}^\top z_j + b_{ki})^2 \tag{7.13}
# $$
#
# *(7.13) Checked. With biases the tied layer is the gradient of the same objective of affine moments — this series · `tssa.TSSA`*

# %% tags=["hide-input"]
# check of (7.13): differentiation does the other side, as in card 1; only the moments are affine now
biased = theory_but(qkv_bias=True)
Pi = biased.statistics(x).Pi[0]


def affine_rate(z):
    w = biased.project(z)[0]
    s = (Pi[..., None] * w ** 2).sum(1) / Pi.sum(1, keepdim=True)
    return 0.5 * (Pi.mean(1)[:, None] * torch.log1p(biased.c * s)).sum()


z = x.clone().requires_grad_()
check("7.13", biased(x), -n * torch.autograd.grad(affine_rate(z), z)[0], "tied layer with biases against autograd")
card("qkv_bias=False", biased(x)[0])

# %% [markdown]
# This affine objective is the one that the library's `observe` and lesson 8's `tost.compression` report for a layer with biases. What a bias does change is the meaning of a gate. A large bias makes a second moment large even if the data never move in that direction, so the gate closes on a constant. If the gate measured movement only, both curves would be flat.

# %% tags=["hide-input"]
# figure: a gate and the bias of its coordinate
offsets = torch.linspace(-3, 3, 61)
small, wide = (scale * torch.randn(2000) for scale in (0.1, 1.0))
curves = {f"standard deviation {name}": torch.stack([1 / (1 + ((v + b) ** 2).mean()) for b in offsets])
          for name, v in (("0.1", small), ("1", wide))}
fig = plots.lines(offsets, curves, title="A gate and the bias of its coordinate", xlabel="bias b", ylabel="gate 1/(1 + s)")
fig.axes[0].set_ylim(0, 1.35)
show(fig, alt="Gate against bias for narrow and wide data: both fall to one tenth at a bias of three; they differ only near zero bias",
     digest=f"at b = 0: {curves['standard deviation 0.1'][30]:.2f} and {curves['standard deviation 1'][30]:.2f}; "
            f"at b = 3: {curves['standard deviation 0.1'][-1]:.2f} and {curves['standard deviation 1'][-1]:.2f}")

# %% [markdown]
# ### Card 9. Dropout on the gates
#
# - **Theory** has none.
# - **Layer** drops gates in training with rate $r$: whole coordinates of a head, for all tokens at once.
# - **Why:** it stands where softmax attention has its dropout. Survivors are divided by $1 - r$, so a
#   gate may exceed 1.
# - **Switch:** `attn_drop=0`, or `.eval()`.
#
# The output is linear in the gates, so on average nothing changes. Write $m$ for a mask of kept gates and $q_m$ for
# its probability:
#
# $$
# \sum_{m} q_m\, \mathrm{TSSA}(Z \mid D \odot m / (1 - r)) = \mathrm{TSSA}(Z) \tag{7.14}
# $$
#
# *(7.14) Checked. Averaged over all masks, dropout leaves the layer unchanged — this series · `tssa.TSSA`*

# %% tags=["hide-input"]
# check of (7.14): with four gates there are 16 masks, few enough to visit them all
class Mask(nn.Dropout):
    """Dropout with a mask of our choosing."""

    def __init__(self, mask, rate):
        super().__init__(rate)
        self.factor = torch.tensor(mask, dtype=torch.float64).reshape(2, 2) / (1 - rate)

    def forward(self, D):
        return D * self.factor


drop, small = 0.25, TSSA(4, 2, tied=True).requires_grad_(False)
tokens, mean = torch.randn(1, 9, 4), 0
plain = small(tokens)
for mask in product((0, 1), repeat=4):
    small.attn_drop = Mask(mask, drop)
    mean = mean + math.prod(1 - drop if kept else drop for kept in mask) * small(tokens)
check("7.14", mean, plain, "all 16 masks, weighted by their probability, against no dropout")

# %% tags=["hide-input"]
# figure: one draw, gate by gate; the line marks the largest gate of the published layer without dropout
torch.manual_seed(5)
dropping = theory_but(attn_drop=0.25, c=1.0)                              # c = 1 as published
D = dropping.statistics(x).gates
with_mask = dropping.attn_drop(D)[0].flatten()
trained = theory_but(attn_drop=0.25)
card("attn_drop=0, or eval()", trained(x)[0], restored=trained.eval()(x)[0])
fig = plots.bars([str(i) if i % 8 == 0 else "" for i in range(d)], {"without": D.flatten(), "one draw, rate 0.25": with_mask}, title="Dropout on D",
                 xlabel="coordinate of the heads", ylabel="gate D", hlines={"D = 1": 1.0})
fig.axes[0].set_ylim(0, 1.5)
show(fig, alt="Twenty-four gates with and without dropout: some bars vanish, the others grow by a third",
     digest=f"without: {D.min():.2f} … {D.max():.2f}; each survivor grows by the factor {1 / 0.75:.2f}")

# %% [markdown]
# ### Card 10. Memberships are differentiated
#
# - **Theory** holds Π fixed when it takes the gradient; lesson 5 measures what that drops.
# - **Layer** computes the same forward, but in training the loss flows back through Π as well.
# - **Why:** that is how $\theta$ and the projections learn what Π should be.
# - **Switch:** `detach_memberships=True`.
#
# The forward pass is not changed. For a loss with gradient $g_j$ at the output of token $j$, the switch
# gives the backward pass of an operator whose Π is a constant:
#
# $$
# \frac{\partial}{\partial v} \sum_j g_j^\top\, \mathrm{TSSA}(Z + v\, [y_1 \dots y_n] \mid \Pi)_j \Big|_{v=0}
# = \sum_j y_j^\top h_j \tag{7.15}
# $$
#
# *(7.15) Checked. h, what the layer sends back with the switch set, is the slope of the operator with constant Π along any directions y — this series · `tssa.TSSA`*

# %% tags=["hide-input"]
# check of (7.15); with the switch released, the backward pass has one more part, the one through Π
held, g, Y = theory_but(), torch.randn(1, n, d), torch.randn(1, n, d)
Pi, U, h = held.statistics(x).Pi[0], heads(held), vjp(held, x)[1](g)[0]


def constant(v):
    return (g[0] * tssa.tssa_update(x[0] + v * Y[0], Pi, U, eps2)).sum()


central = (constant(1e-5) - constant(-1e-5)) / 2e-5
check("7.15", (h * Y).sum(), central, "detach_memberships=True against central differences, Π constant", DIFFERENCES)
through = vjp(theory_but(detach_memberships=False), x)[1](g)[0]
target = vjp(lambda z: tssa.tssa_update(z, Pi, U, eps2), x[0])[1](g[0])[0]
card("detach_memberships=True, the backward pass", through[0], restored=h[0], target=target)

# %% [markdown]
# For $\theta \to 0$ the memberships are constant, and the part through Π must vanish.

# %% tags=["hide-input"]
# figure: the size of the gradient's part through Π against the temperature
temps, dropped = torch.logspace(-2, 1, 13), []
for temp in temps:
    through, held = (theory_but(temp=temp.item(), detach_memberships=v) for v in (False, True))
    a, b = (vjp(layer, x)[1](g)[0] for layer in (through, held))
    dropped.append(((a - b).norm() / b.norm()).item())
fig = plots.lines(temps, {"size of the part through Π": dropped}, title="What the backward pass gains through Π",
                  xlabel="θ", ylabel="‖difference‖ / ‖gradient with Π held‖", xscale="log", markers=True)
show(fig, alt="Relative size of the gradient part that flows through the memberships, against the temperature: it grows from nearly zero",
     digest=f"{dropped[0]:.2f} of the gradient at θ = 0.01, {dropped[8]:.2f} at θ = 1")

# %% [markdown]
# ### Card 12. The causal layer
#
# - **Theory** lets every token see the statistics of all tokens.
# - **Layer**, in language models: token $t$ sees sums over tokens $1 \dots t$ only, in Π and in $s$, and a learned
#   $b_{k,t}$ is added to each of the $p$ divided squares, so it weighs $p\,\theta_k$.
# - **Why:** a model that predicts the next word must not see it.
# - **Switch:** `temp = 0`, which makes Π uniform; then the causal layer at $t$ *is* the layer on the first $t$ tokens.
#
# $$
# E_{tk} = \sum_{i=1}^{p} \frac{(u_{ki}^\top z_t)^2}{\sum_{l \le t} (u_{ki}^\top z_l)^2} + p\, b_{k,t}, \qquad
# \pi_{tk} = \frac{e^{\theta_k E_{tk}}}{\sum_m e^{\theta_m E_{tm}}} \tag{7.17}
# $$
#
# *(7.17) Checked. Causal memberships: a token is compared with its past and itself — Wu et al. 2024, published code · `tost.CausalTSSA`*
#
# $$
# s_{ki}^{(t)} = \frac{\sum_{l \le t} \pi_{lk} (u_{ki}^\top z_l)^2}{\sum_{l \le t} \pi_{lk} + 10^{-8}} \tag{7.18}
# $$
#
# *(7.18) Checked. Causal second moments: running averages, where old tokens keep the Π of their own time — Wu et al. 2024, published code · `tost.CausalTSSA`*
#
# The layer returns only the product $-\pi w/(1 + s)$. How can Π and $s$ be read off it separately? Feed it the tokens
# once as they are and once doubled. Π doesn't notice, for its squares are divided; $s$ grows by four. So
# $r_a = (1 + a^2 s)/\pi$ is known for $a = 1, 2$, and two equations give two unknowns.

# %%
torch.manual_seed(8)
causal = CausalTSSA(8, 2, block_size=32).requires_grad_(False)
causal.temp.copy_(torch.tensor([[1.0], [3.0]])), causal.denom_bias.normal_(std=0.3)
causal.c_proj.weight.copy_(torch.eye(8))                                   # so that its gates can be read off
words = torch.randn(1, 20, 8)
w = causal.c_attn(words)[0].reshape(20, 2, 4)                              # (N, K, p)
r1, r2 = (-a * w / causal(a * words)[0].reshape(20, 2, 4) for a in (1, 2))  # (1 + a²s)/π, (N, K, p)

# %% tags=["hide-input"]
# checks of (7.17) and (7.18): loops that take one token at a time and look only at what came before it
def pi_at(t):
    return torch.stack([causal.temp[k, 0] * (sum(w[t, k, i] ** 2 / (w[:t + 1, k, i] ** 2).sum() for i in range(4))
                                             + 4 * causal.denom_bias[k, t, 0]) for k in range(2)]).softmax(0)


def s_at(t):
    past = torch.stack([pi_at(l) for l in range(t + 1)])                   # (t, K)
    return (past[..., None] * w[:t + 1] ** 2).sum(0) / (past.sum(0)[:, None] + 1e-8)  # (K, p)


s_loop, Pi_loop = (torch.stack([f(t) for t in range(20)]) for f in (s_at, pi_at))
check("7.17", 3 / (4 * r1 - r2), Pi_loop[..., None].expand_as(w), "Π inside the causal layer against a per-token loop")
check("7.18", (r2 - r1) / (4 * r1 - r2), s_loop, "s inside the causal layer against a per-token loop")

# %% [markdown]
# And does it look ahead? Change the second half of the sentence and see what the first half says.

# %%
changed = words.clone()
changed[:, 10:] += 1.0
print("tokens 1 to 10 after a change of tokens 11 to 20, largest difference:",
      (causal(changed) - causal(words))[:, :10].abs().max().item())

# %% [markdown]
# The difference is exactly zero: no look ahead. And with the switch set,
#
# $$
# \theta = 0: \qquad \mathrm{CausalTSSA}(Z)_t = \mathrm{TSSA}([z_1 \dots z_t])_t \tag{7.19}
# $$
#
# *(7.19) Checked. With uniform memberships each prefix is treated as the full layer treats it — this series · `tost.CausalTSSA`*

# %% tags=["hide-input"]
# check of (7.19) on all 20 prefixes
full = TSSA(8, 2, temp=0.0, tied=False).requires_grad_(False)
full.qkv.weight.copy_(causal.c_attn.weight), full.to_out[0].weight.copy_(torch.eye(8)), full.to_out[0].bias.zero_()
uniform = copy.deepcopy(causal)
uniform.temp.zero_()
prefixes = torch.stack([full(words[:, :t + 1])[0, -1] for t in range(20)])
check("7.19", uniform(words)[0], prefixes, "θ = 0: the causal layer against the full layer on all 20 prefixes")
card("temp=0, the causal layer", causal(words)[0], restored=uniform(words)[0], target=prefixes)

# %% [markdown]
# At any other temperature an old token keeps the membership that it got when it was new. Follow the second and the third token of a text at $\theta = 3$ while the text grows. **Predict:** what does the full layer, which compares them anew each time, do to their memberships?

# %% tags=["hide-input"]
# figure: memberships of old tokens in a growing text, causal and full; logits of the newest token, mean of 500 texts
texts = torch.randn(500, 32, 8)
causal.denom_bias.zero_(), full.temp.fill_(3.0)                            # equal weights and temperatures from here on
grown = {t: full.statistics(texts[:1, :t]).Pi[0, 0] for t in range(1, 33)}  # head 1, of each token
w2 = full.project(texts) ** 2                                              # (B, K, N, p)
logits = (w2 / w2.cumsum(2)).sum(-1).mean((0, 1))                          # (N,)
left, right = plots.row(2)
for j, color in zip((1, 2), plots.COLORS):
    seen = range(j + 1, 33)
    left.plot(seen, [grown[t][j] for t in seen], color=color, label=f"token {j + 1}, full")
    left.plot(seen, [grown[j + 1][j]] * len(seen), "--", color=color, label=f"token {j + 1}, causal")
left.set(title="An old token's membership as the text grows", xlabel="tokens seen t", ylabel="membership of head 1", ylim=(-0.05, 1.05))
left.legend(fontsize=9, ncols=2, loc="center", bbox_to_anchor=(0.55, 0.7)), left.grid(alpha=0.25)
fig = plots.lines(range(1, 33), {"newest token, mean of 500 texts": logits, "p / t": 4 / torch.arange(1, 33)}, title="The newest token's logit / θ",
                  xlabel="tokens seen t", ylabel="logit / θ", xscale="log", yscale="log", ax=right)
show(fig, alt="Left: in the causal layer an old token's membership is a horizontal line; in the full layer it moves towards one half as the text grows. Right: the newest token's logit falls like p over t on two logarithmic axes.",
     digest=f"token 2: causal {grown[2][1]:.2f} throughout, full {grown[32][1]:.2f} after 32 tokens; logit/θ {logits[0]:.2f} at t = 1, {logits[-1]:.2f} at t = 32, p/t = {4 / 32:.2f}")

# %% [markdown]
# The full layer forgets its early decisions; the causal layer cannot. On the right is (7.8) with $t$ in the place of $n$. $b_{k,t}$ can lift the mean logit again, and prefer a head at a position. But it is the same whatever the token says, so the differences between tokens still fade. It also ties the model to the length that it was trained for.
#
# **Exercise 7d. First word.** What does a causal layer with zero `denom_bias` and equal temperatures give for its first token,
# before the output map? Write it as a function of the projected token `w (K, p)` (neglect the $10^{-8}$).

# %%
def answer_7d(w):
    return ...  # your turn: y (K, p)


exercise("7d", answer_7d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_7d(w):
#     return -w / (len(w) * (1 + w ** 2))
# ```
#
# With one token seen, each share is 1, Π is 1/K, and the running second moment is the token's own square: (7.24) below.
#
# </details>
#
# ### One head is one matrix
#
# With a single head Π is 1, and what is left is one matrix for all tokens:
#
# $$
# K = 1: \qquad \mathrm{TSSA}(Z) = -(O D U^\top)\, Z \tag{7.21}
# $$
#
# *(7.21) Checked. One head gives data-dependent channel gating: every token is multiplied by the same matrix — this series · `tssa.TSSA`*

# %%
single = TSSA(d, 1, mass=0.0).requires_grad_(False)
single.to_out[0].bias.zero_()
M = -single.to_out[0].weight @ torch.diag(single.statistics(x).gates[0, 0]) @ single.qkv.weight
check("7.21", single(x)[0], x[0] @ M.T, "K = 1: the layer against one matrix")

# %% [markdown]
# With $K$ heads two tokens are treated differently only through their $K$ memberships.
#
# ### A bound for any input
#
# No weights can make the gated tokens large. The mean square of gated coordinate $i$ of head $k$ is at most
# a quarter of the head's share of tokens (at $c = 1$, as published):
#
# $$
# \frac{1}{n} \sum_{j=1}^{n} \big( \pi_{jk} D_{ki}\, u_{ki}^\top z_j \big)^2 \le \frac{1}{4}\, \frac{n_k}{n} \tag{7.23}
# $$
#
# *(7.23) Checked. The layer's gated coordinates are bounded, for any weights and any input — this series · `tssa.gates`*
#
# *Proof.* $\pi_{jk}^2 \le \pi_{jk}$, so the left side is at most $(n_k/n)\, s/(1+s)^2$, and $s/(1+s)^2 \le 1/4$,
# with equality at $s = 1$.

# %% tags=["hide-input"]
# check of (7.23): tokens from tiny to huge; tight where one head holds half of the tokens, all of them with squares of one
def mean_square(w, Pi):
    y = Pi[..., None] * w * tssa.gates(tssa.second_moments(w, Pi, 0.0))[:, None]
    return (y ** 2).mean(1)


signs, hard = torch.ones(2, 50, 3), torch.arange(50).expand(2, 50) % 2 == torch.tensor([[0], [1]])
check_below("7.23", mean_square, lambda w, Pi: (Pi.mean(1, keepdim=True) / 4).expand(-1, w.shape[-1]), "mean square of gated coordinates",
            draws=[(w, tssa.memberships(w, 3.0)) for w in (s * torch.randn(4, 50, 3) for s in (0.01, 1.0, 2.0, 1e4))], equal=(signs, hard.double()))
scales = torch.logspace(-2, 4, 25)
size = [mean_square(v * signs[:1], torch.ones(1, 50)).mean().sqrt() for v in scales]
fig = plots.lines(scales, {"RMS of π D w": size}, title="Bounded for any input", xlabel="size of |w|", ylabel="RMS over tokens",
                  xscale="log", hlines={"bound ½": 0.5})
show(fig, alt="The gated size peaks at one half for tokens of size one and falls on both sides", digest=f"peak RMS {max(size):.2f}")

# %% [markdown]
# ### Half precision
#
# float16 holds numbers up to 65504, so squares overflow from a certain $|w|$ on. Computed as (7.2) is written, such a token
# has the share $\infty/\infty$, and the NaN spreads through $s$ to every token. The published code divides $w$ by its norm before squaring;
# there the forward pass shows nothing ($s = \infty$ gives a gate of 0), and only the gradient is NaN. A dead channel (zero on all tokens)
# is as bad: the guard
# $10^{-12}$ of a division is zero in float16, and 0/0 is NaN. Our layer computes squares, Π, $s$ and $D$ in float32
# and only the product with $w$ in the input's type. The test tokens reach 10,000, and one coordinate is dead.

# %%
def naive(w):
    """The formulas in the input's own type."""
    Pi = (w ** 2 / (w ** 2).sum(-2, keepdim=True).clamp_min(1e-12)).sum(-1).softmax(0)
    s = (Pi[..., None] * w ** 2).sum(-2) / (Pi.sum(-1, keepdim=True) + 1e-8)
    return -w * Pi[..., None] / (1 + s[:, None])


def ours(w):
    Pi = tssa.memberships(w)
    return -w * (Pi[..., None] * tssa.gates(tssa.second_moments(w, Pi))[:, None]).to(w.dtype)

# %% tags=["hide-input"]
# both types, both versions: are output and gradient finite, and how far is the output from float32?
wide = torch.randn(4, 64, 4) * torch.logspace(-1, 3, 4)
wide = (wide / wide.abs().max() * 1e4).float()
wide[1, :, 2] = 0                                                          # a dead channel
for dtype in (torch.float16, torch.bfloat16):
    for f in (naive, ours):
        v = wide.to(dtype).requires_grad_()
        out = f(v)
        out.sum().backward()
        error = (out.float() - ours(wide)).abs().max() / ours(wide).abs().max()
        print(f"{str(dtype)[6:]:9} {f.__name__:5} output finite: {bool(out.isfinite().all())!s:5} "
              f"gradient finite: {bool(v.grad.isfinite().all())!s:5} error below 1e-2: {bool(error < 1e-2)}")

# %% [markdown]
# **Exercise 7e. The number that breaks float16.** What is the smallest positive float16 number whose square is infinite in float16?

# %%
answer_7e = ...  # your turn: a number
exercise("7e", answer_7e)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_7e = 256.0
# ```
#
# The largest float16 is 65504; $256^2 = 65536$ is beyond it, and the float16 just below 256 is 255.875, whose square still fits.
#
# </details>
#
# ### One token, and padding
#
# A 32-pixel image at stride 32 has a single token. Every living coordinate's share is then 1, Π is uniform if
# the temperatures are equal, and the layer is a fixed curve:
#
# $$
# n = 1: \qquad y_{ki} = -\frac{1}{K}\, \frac{w_{ki}}{1 + w_{ki}^2}, \qquad w_{ki} = u_{ki}^\top z_1 \tag{7.24}
# $$
#
# *(7.24) Checked. With one token the layer acts on each coordinate alone, before the output map — this series · `tssa.TSSA`*
#
# Zero tokens, as padding makes them, join every $n_k$. If a head's coordinate has second moment $s$ and Π is uniform, then
# appending $m$ zero tokens makes it
#
# $$
# s' = \frac{n}{n + m}\, s \tag{7.25}
# $$
#
# *(7.25) Checked. Padding dilutes the statistics and opens the gates — this series · `tssa.second_moments`*

# %% tags=["hide-input"]
# checks of (7.24), with K = 3 and p = 8, and of (7.25) at θ = 0, where Π is uniform
layer = random_layer(mass=0.0)
layer.to_out[0].weight.copy_(torch.eye(d))
w1 = x[:, :1] @ layer.qkv.weight.T
check("7.24", layer(x[:, :1]), -w1 / (K * (1 + w1 ** 2)), "one token")
layer.temp.zero_()
padded = torch.cat([x, torch.zeros(1, 7, d)], 1)
check("7.25", layer.statistics(padded).second_moments, n / (n + 7) * layer.statistics(x).second_moments, "20 tokens and 7 zero tokens")

# %% tags=["hide-input"]
# figure: both hazards, the curve of (7.24) and the output of the real tokens as zeros are appended
layer.temp.fill_(1.0)
appended, rows = [0, 5, 10, 20, 40, 80], []
for zeros in appended:
    out = layer(torch.cat([2 * x, torch.zeros(1, zeros, d)], 1))[:, :n]
    rows.append(((out - layer(2 * x)).norm() / layer(2 * x).norm()).item())
curve = torch.linspace(-6, 6, 121)
left, right = plots.row(2)
plots.lines(curve, {"y, K = 3": -curve / (3 * (1 + curve ** 2))}, title="The layer on a single token", xlabel="coordinate w",
            ylabel="gated coordinate y", ax=left)
fig = plots.lines(appended, {"20 real tokens": rows}, title="What padding changes", xlabel="zero tokens appended",
                  ylabel="relative change of the output", markers=True, ax=right)
show(fig, alt="Left: the curve of the layer on one token, an S that returns to zero. Right: the output of real tokens changes the more zero tokens are appended",
     digest=f"{rows[3]:.0%} change when as many zero tokens are appended as there are real ones")

# %% [markdown]
# No guard inside the layer can tell padding from data: cut it off before the layer, or use images of one shape. The grey
# borders with which YOLO fills up an image ("letterbox") are tokens like any others, and join every $n_k$. For different resolutions use `normalize="rms"` (card 4).
#
# ## Sources
#
# - Wu et al. 2024, *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction*, and the authors'
#   published code (vision and language layers), read for the forward pass and the parameter names.
# - Yu et al. 2023, *White-Box Transformers via Sparse Rate Reduction* (CRATE), for the block that ToST simplifies.
# - The cards' checks, (7.6) to (7.16), (7.19) and the bounds (7.22), (7.23) are this series' own.
#
# [◀ previous](06_memberships.ipynb) · [contents](00_start_here.ipynb) · [next ▶](08_tost.ipynb)
