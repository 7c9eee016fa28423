# %% [markdown]
# # Lesson 7 · The layer that people run
#
# [◀ previous](06_memberships.ipynb) · [contents](00_start_here.ipynb) · [next ▶](08_tost.ipynb)
#
# Lesson 5 ended with a formula, lesson 6 with its memberships. The layer that people train is neither: it was
# written by engineers who wanted it to learn, and it departs from the formula in a dozen places. Each departure
# is small, most are sensible, and none is written on the label. Readers of the published code have asked whether
# the code *is* the theory. This lesson answers with one card for each departure: what the theory says, what the
# layer does, why, the switch that undoes it, a check that with the switch set the theory comes back, and a
# figure of what the departure changes.
#
# **After this you can**
# - write the practical layer in five lines and name every place where it leaves the formula
# - switch each departure off, one at a time, and predict what changes
# - say which guarantees of lesson 5 survive in the layer and which don't
# - list what the layer can and cannot do whatever its weights are: equivariance, rank, bounded output
# - keep it alive in half precision, with dead channels, a single token, or padding
# - turn it into a causal layer for language, and prove that it doesn't look ahead
#
# **Before this:** lessons 5 and 6. PyTorch modules and automatic differentiation.
#
# **Time:** about 45 minutes to read, 15 seconds to run on two CPU cores.

# %%
import copy
import math
from itertools import product

import torch
from torch import nn
from torch.func import jacrev, vjp

from tssa_lib import plots, rates, tssa
from kit import DIFFERENCES, check, check_below, exercise, show
from tssa_lib.tost import Block, CausalTSSA
from tssa_lib.tssa import TSSA

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## 7.1 The layer in five lines
#
# The six tokens again, with one head for each axis. The layer takes a batch of token rows and multiplies them by
# one matrix, whose slices are the heads' $U_k^\top$. It squares the result, makes memberships, averages the
# squares into second moments, turns those into gates, and multiplies the gated tokens by an output matrix with
# slices $O_k$, which the layer learns freely.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
K, n = 2, len(six)
W, O = torch.eye(2), torch.eye(2)                                          # [U_1ᵀ; U_2ᵀ] and [O_1, O_2]

# %% [markdown]
# One matrix product gives the coordinates of all tokens in all heads. The next five lines are the layer.

# %%
w = (six @ W.T).reshape(n, K, -1).transpose(0, 1)                          # (K, N, p)
Pi = (w ** 2 / (w ** 2).sum(1, keepdim=True)).sum(-1).softmax(0)           # (K, N), over the heads
s = (Pi[..., None] * w ** 2).sum(1) / Pi.sum(1, keepdim=True)              # (K, p)
D = 1 / (1 + s)                                                            # (K, p)
y = -(Pi[..., None] * D[:, None] * w).transpose(0, 1).reshape(n, -1) @ O.T  # (N, d)

# %% [markdown]
# Which tokens does head 1 get, and how far is each gate open?

# %%
print("Π of head 1:", *(f"{v:.2f}" for v in Pi[0]))
print("gates      :", *(f"{v:.2f}" for v in D.flatten()))

# %% [markdown]
# Tokens a, b, c lie on the first axis, and still head 1 gets them with little more than one half. Keep that in
# mind; it is what card 4 is about. In symbols, token $j$ receives
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
# *(7.2) Checked. Its memberships: each coordinate is first divided by its size over all tokens — Wu et al. 2024, published code · `tssa.memberships`*
#
# $$
# s_{ki} = \frac{\sum_j \pi_{jk} (u_{ki}^\top z_j)^2}{n_k + 10^{-8}}, \qquad D_k = \mathrm{Diag}\Big(\frac{1}{1 + s_{ki}}\Big) \tag{7.3}
# $$
#
# *(7.3) Checked. Its gates come from the squares as they are, not divided — Wu et al. 2024, published code · `tssa.second_moments`*
#
# The library's layer must be these three lines and nothing else. We hold it against loops that were written
# from the formulas, coordinate by coordinate, and against the five lines above.

# %%
def random_layer(**switches):
    torch.manual_seed(1)
    layer = TSSA(16, 4, **switches).requires_grad_(False)                  # d = 16, K = 4, p = 4
    if not layer.tied:
        nn.init.zeros_(layer.to_out[0].bias)
    return layer

# %% [markdown]
# Now 24 random tokens of 16 numbers and a layer of four heads, beside the loops. The five lines left out the
# $10^{-8}$ of (7.3), so they agree with the loops to about that.

# %%
x = torch.randn(1, 24, 16)
layer = random_layer(temp=5.0)
loops = tssa.tssa_literal(x[0], layer.qkv.weight, layer.temp, layer.to_out[0].weight)
check("7.1", layer(x)[0], loops, "the layer against loops over tokens, heads and coordinates")
assert torch.allclose(y, tssa.tssa_literal(six, W, torch.ones(2, 1), O), atol=1e-7)  # the five lines

# %% [markdown]
# Memberships and gates of the six tokens, too, each number by its own sum: first the logits, token by token, then the
# second moments, head by head.

# %%
def logit(j, k):
    return sum(w[k, j, i] ** 2 / sum(w[k, l, i] ** 2 for l in range(n)) for i in range(w.shape[-1]))


by_hand = torch.stack([torch.stack([logit(j, k) for k in range(K)]).softmax(0) for j in range(n)])  # (N, K)
check("7.2", tssa.memberships(w), by_hand.T, "memberships of the six tokens, one at a time")
s_by_hand = [[sum(Pi[k, j] * w[k, j, 0] ** 2 for j in range(n)) / (sum(Pi[k]) + 1e-8)] for k in range(K)]
check("7.3", tssa.gates(tssa.second_moments(w, Pi)), 1 / (1 + torch.tensor(s_by_hand)), "gates of the six tokens")

# %% [markdown]
# ## 7.2 The theory, with all switches set
#
# Our `TSSA` has a switch for each departure. With all of them set it is the operator of lesson 5, with one
# orthonormal basis a head, one temperature $\eta$, the precision in $c = d/\varepsilon^2$, and the memberships
# held fixed in the backward pass. Here, and in all cards, $t = \tau/n = 1$ and the residual is added outside.
#
# $$
# \mathrm{TSSA}(Z) = -\frac{\tau}{n} \sum_{k=1}^{K} U_k D_k U_k^\top Z\, \mathrm{Diag}(\pi_k), \qquad
# D_k = \mathrm{Diag}\Big(\frac{c}{1 + c\, s_{ki}}\Big) \tag{7.4}
# $$
#
# *(7.4) Checked. The operator of the theory, which the layer with all switches set must equal — Wu et al. 2024 · `tssa.tssa_update`*

# %%
d, eps2, eta = 16, 0.5, 0.5
THEORY = dict(tied=True, orthonormal=True, normalize="none", temp=1 / (2 * eta), c=d / eps2, mass=0.0,
              detach_memberships=True)

# %% [markdown]
# Two helpers: the layer with all switches set but the named ones, and the bases $U_k$ that a layer has in use.

# %%
def theory_but(**released):
    """The layer with all switches set to the theory, except those named."""
    return random_layer(**{**THEORY, **released})


def heads(layer):
    """U (K, d, p): the projection in use, cut into heads."""
    return layer.U.detach()


# %%
def operator(x, U):
    """(7.4) token by token, with its own memberships (lesson 6)."""
    energy = torch.stack([((x @ U_k) ** 2).sum(-1) for U_k in U])          # (K, N)
    Pi = (energy / (2 * eta)).exp() / (energy / (2 * eta)).exp().sum(0)
    out = torch.zeros_like(x)
    for U_k, pi in zip(U, Pi):
        D = 1 / (eps2 / d + pi @ (x @ U_k) ** 2 / pi.sum())                # c/(1 + cs)
        out -= pi[:, None] * ((x @ U_k * D) @ U_k.T)
    return out

# %% [markdown]
# The layer knows nothing of this loop; with all switches set the two must agree.

# %%
layer = theory_but()
check("7.4", layer(x)[0], operator(x[0], heads(layer)), "all switches set: the layer is the operator")

# %% [markdown]
# From here on each card releases one switch and leaves the rest in place. It says how far the layer then is from the
# operator, and that it comes back when the switch is set again: an executed test, which stops the lesson if it fails.
# Before you read a card, guess from its title whether the departure is cosmetic, useful or dangerous.

# %%
def card(switch, released, restored=None, target=None):
    """How far the layer goes with the switch released; with the switch set the theory must come back to 1e-9."""
    restored = theory_but()(x)[0] if restored is None else restored
    target = operator(x[0], heads(theory_but())) if target is None else target
    gone, left = ((v - target).norm() / target.norm() for v in (released, restored))
    assert left < 1e-9 and left < gone / 10, (gone.item(), left.item())
    off = f"{gone:.0%}" if gone > 0.01 else f"{gone:.0e} of its size"
    print(f"✓ {switch}: the theory is back to 1e-9 (released, it is off by {off})")


# %% [markdown]
#
# ## 7.3 The cards
#
# ### Card 1 · The output map is free
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

# %%
def gradient_step(layer, x):
    """−n∇R_c^var by automatic differentiation, Π held fixed; c = layer.c."""
    Pi, U = layer.statistics(x).Pi.detach(), heads(layer)
    z = x.clone().requires_grad_()
    R = rates.variational_rate(z, Pi, U, layer.dim / layer.c).sum()
    return -x.shape[-2] * torch.autograd.grad(R, z)[0]

# %% [markdown]
# Differentiation knows the objective only and the layer knows its five lines only. The bases here are free, not
# orthonormal.

# %%
tied = theory_but(orthonormal=False)
check("7.5", tied(x), gradient_step(tied, x), "tied=True: the layer against autograd of R_c^var, free bases")
card("tied=True", theory_but(tied=False)(x)[0])

# %% [markdown]
# Untied, the layer's output points anywhere. We draw 12 untied layers, take steps of growing size $\gamma$, and
# watch the objective. **Predict:** how many of the 12 curves go down?

# %%
@torch.no_grad()
def rate_after(layer, x, gamma):
    Pi = layer.statistics(x).Pi
    return rates.variational_rate(x + gamma * layer(x), Pi, heads(layer), layer.dim / layer.c).mean()


def drawn(seed, **switches):
    torch.manual_seed(seed)
    return TSSA(16, 4, **switches)

# %% [markdown]
# The counts below say how many of the 12 curves have fallen at the third step size, $\gamma = 0.2$.

# %%
steps = torch.linspace(0, 2, 21)
curves = {f"{name} {i + 1}": torch.stack([rate_after(drawn(i, tied=name == "tied"), x, g) for g in steps])
          for name in ("tied", "untied") for i in range(12)}
falls = {name: sum(bool(c[2] < c[0]) for label, c in curves.items() if label.startswith(name)) for name in ("tied", "untied")}
assert falls["tied"] == 12
print(falls)

# %% [markdown]
# <details><summary>Answer</summary>
#
# All 12 tied layers lower the objective, as (7.5) says they must for small steps. Of the untied ones only those
# that happen to point downhill do, and these gain little. Nothing in the untied layer asks it to compress. What
# training makes of this freedom is measured in lesson 8.
#
# </details>

# %%
left, right = plots.row(2)
for ax, name in ((left, "tied"), (right, "untied")):
    fig = plots.lines(steps, {k: c / c[0] for k, c in curves.items() if k.startswith(name + " ")}, title=f"12 {name} layers",
                      xlabel="step size γ", ylabel="R_c^var after / before", ax=ax)
    ax.set_ylim(0.5, 1.5), ax.get_legend().remove()
show(fig, alt="Objective against step size for twelve tied and twelve untied layers: all tied curves fall, most untied rise",
     digest=f"{falls['tied']} of 12 tied and {falls['untied']} of 12 untied layers lower R_c^var at γ = 0.2")

# %% [markdown]
# ### Card 2 · The bases are not orthonormal
#
# - **Theory** wants orthonormal columns in each $U_k$: then $\lVert U_k^\top z \rVert$ is a length.
# - **Layer** has an ordinary linear map; its slices may stretch and overlap.
# - **Why:** gradient descent has no constraint to keep, and the scale of a row can absorb the precision (card 3).
# - **Switch:** `orthonormal=True` (a QR factorisation of each slice).
#
# What is lost is the promise on the step. Lesson 5 allows any $\gamma < 2/\max_j \lVert A_j \rVert$ with
# $A_j = \sum_k \pi_{jk} U_k D_k U_k^\top$, and orthonormal bases make that a number one can know beforehand:
#
# $$
# \lVert A_j \rVert_2 \le \max_{k,i} D_{ki} \le c \tag{7.6}
# $$
#
# *(7.6) Checked. With orthonormal bases no token's curvature exceeds the largest gate — lesson 5 · `tssa.largest_safe_gamma`*
#
# The reason is one line: $A_j$ is an average, with the weights $\pi_{jk}$, of the matrices $U_k D_k U_k^\top$, and with
# orthonormal columns the norm of each is its largest gate.

# %%
def curvature(layer, x):
    """max_j ‖A_j‖ by the largest singular value of each A_j."""
    Pi, _, D = layer.statistics(x)
    U = heads(layer)
    A = torch.stack([sum(pi * (U_k * D_k) @ U_k.T for pi, U_k, D_k in zip(Pi[0, :, j], U, D[0])) for j in range(x.shape[1])])
    return torch.linalg.svdvals(A).max()

# %% [markdown]
# Twenty inputs from small to large, so that the gates range from nearly $c$ down to a fraction of it. Equality needs
# a single head.

# %%
inputs = [scale * torch.randn(1, 24, 16) for scale in (0.03, 0.1, 0.3, 0.5) for _ in range(5)]
layer, one_head = theory_but(), TSSA(16, 1, **THEORY).requires_grad_(False)
check_below("7.6", [curvature(layer, v) for v in inputs], [layer.statistics(v).gates.max() for v in inputs],
            "‖A_j‖ against the largest gate, 20 inputs, orthonormal=True",
            equal=(curvature(one_head, x), one_head.statistics(x).gates.max()))
card("orthonormal=True", theory_but(orthonormal=False)(x)[0])

# %% [markdown]
# In the equality case the one head has every token, and its largest gate is the whole curvature. Now the same
# layer at $c = 1$ with its weights multiplied by a factor, once as they are and once through the switch, on tokens
# of size 0.1. The safe step of the free layer depends on the scale of its weights; the switch makes it independent
# of them.

# %%
factors = torch.logspace(-0.5, 1, 13)
safe = {"free": [], "orthonormal=True": []}
for f in factors:
    for name in safe:
        layer = drawn(3, tied=True, orthonormal=name != "free").requires_grad_(False)
        layer.qkv.weight.mul_(f)
        Pi, _, D = layer.statistics(0.1 * x)
        safe[name].append(tssa.largest_safe_gamma(Pi[0], heads(layer), D[0]).item())

# %% [markdown]
# Both axes are logarithmic, so a power law is a straight line.

# %%
fig = plots.lines(factors, safe, title="Largest safe step of the tied layer (c = 1)", xlabel="factor on the weights",
                  ylabel="largest safe γ", xscale="log", yscale="log", hlines={"γ = 2, the theory's promise": 2.0})
show(fig, alt="Largest safe step size against the scale of the weights: free weights vary over orders, orthonormal stay constant above two",
     digest=f"free {safe['free'][0]:.1f} … {safe['free'][-1]:.2f}, orthonormal {safe['orthonormal=True'][0]:.2f} throughout")

# %% [markdown]
# ### Card 3 · The constants are gone
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
with_constants = random_layer(c=c, mass=0.0)
absorbed = random_layer(mass=0.0)
absorbed.qkv.weight.mul_(math.sqrt(c))
absorbed.to_out[0].weight.mul_(t * math.sqrt(c))
check("7.7", absorbed(x), t * with_constants(x), "c and t in the weights against c and t in the formula")

# %% [markdown]
# Equal, so nothing is lost. Forgetting the constant *without* absorbing it, on the other hand, is another operator:

# %%
card("c=d/eps2", theory_but(c=1.0)(x)[0])

# %% [markdown]
# The memberships didn't notice the factor $\sqrt{c}$: division by a coordinate's size over the tokens removes it
# (card 4). With the theory's memberships $\theta = 1/2\eta$ would have to be divided by $c$ as well.

# %%
s_axis = torch.logspace(-4, 2, 61)
curves = {f"c = {c:g}": s_axis * tssa.gates(s_axis, c) for c in (1.0, 32.0, 1000.0)}
fig = plots.lines(s_axis, curves, title="What a gate leaves at t = 1/c and π = 1", xlabel="second moment s",
                  ylabel="share kept, cs/(1 + cs)", xscale="log")
show(fig, alt="Share of a direction that survives a step against its second moment, for three precisions: S-curves shifted left as c grows",
     digest="half is kept at s = " + ", ".join(f"{1 / c:g}" for c in (1.0, 32.0, 1000.0)))

# %% [markdown]
# ### Card 4 · Memberships from divided squares
#
# - **Theory** compares energies: $\pi_{jk} \propto \exp(\lVert U_k^\top z_j\rVert^2 / 2\eta)$.
# - **Layer** first divides each squared coordinate by its sum over the tokens, (7.2).
# - **Why:** no head can win by large weights, and logits cannot explode.
# - **Switch:** `normalize="none"`.
#
# The price: each coordinate now hands out exactly one unit, to be shared by all tokens, and with the $E_{jk}$ of (7.2)
#
# $$
# \sum_{j=1}^{n} \theta_k E_{jk} = \theta_k\, p, \qquad \text{so the mean logit is } \theta_k\, p / n \tag{7.8}
# $$
#
# *(7.8) Checked. More tokens, smaller logits, flatter memberships — this series · `tssa.memberships`*

# %%
layer = random_layer()
layer.temp.copy_(torch.tensor([[0.5], [1.0], [2.0], [4.0]]))
Pi = layer.statistics(x).Pi[0]                                             # (K, N)
# read the logits' sum back from Π alone: ln(π_k/π_1) summed over tokens is p(θ_k − θ_1)
sums = (Pi / Pi[:1]).log().sum(-1)
check("7.8", sums, 4 * (layer.temp - layer.temp[0])[:, 0], "sum over tokens of ln(π_k/π_1) against p(θ_k − θ_1)")

# %%
card('normalize="none"', theory_but(normalize="tokens")(x)[0])

# %% [markdown]
# For the six tokens the switch makes the difference between "a belongs to group 1" and "who knows". And the
# flatness grows with the number of tokens: at the size of a YOLO feature map (400 tokens of 128 numbers) the
# initial memberships are uniform to within a few per cent. Lesson 6 looks at this on photos. `normalize="rms"`
# multiplies the logits by $n/p$ and takes the number of tokens out again.

# %%
def flatness(N, kind):
    torch.manual_seed(4)
    Pi = TSSA(128, 4, normalize=kind).statistics(torch.randn(1, N, 128)).Pi
    return (torch.special.entr(Pi).sum(1).mean() / math.log(4)).item()

# %% [markdown]
# `flatness` is the mean entropy of the tokens' memberships over its largest value $\ln K$: 1 means that every token
# is shared out evenly, 0 that each has one head.

# %%
with torch.no_grad():
    sizes = [25, 100, 400, 1600]
    flat = {kind: [flatness(N, kind) for N in sizes] for kind in ("none", "tokens", "rms")}

# %% [markdown]
# The three rules side by side, on the six tokens and on larger and larger sets of random ones.

# %%
left, right = plots.row(2)
plots.bars(list("abcdef"), {kind: tssa.memberships(six.T[..., None], normalize=kind)[0] for kind in flat},
           title="Π of head 1, six tokens", xlabel="token", ylabel="membership of head 1", ax=left)
fig = plots.lines(sizes, flat, title="θ = 1 at the start, d = 128, K = 4", xlabel="tokens N", ylabel="entropy of Π / ln K",
                  xscale="log", markers=True, ax=right)
show(fig, alt="Left: membership of six tokens under three rules. Right: entropy of memberships against the number of tokens; the published rule tends to one",
     digest="; ".join(f"{kind}: {v[0]:.2f} at 25 tokens, {v[-1]:.2f} at 1600" for kind, v in flat.items()))

# %% [markdown]
# ### Card 5 · Memberships and gates look at different tokens
#
# - **Theory** uses one set of projected tokens $U_k^\top z_j$ for Π and for $s$.
# - **Layer** makes Π from divided squares and $s$ from the squares as they are.
# - **Why:** it has to. With divided squares in both places the gates would know nothing.
# - **Switch:** `normalize="none"` puts both on the same tokens again.
#
# If the divided squares $v_{jki} = (u_{ki}^\top z_j)^2 / \sum_l (u_{ki}^\top z_l)^2$ were averaged as well,
#
# $$
# \frac{1}{n_k} \sum_{j=1}^{n} \pi_{jk}\, v_{jki} \le \frac{1}{n_k} \tag{7.9}
# $$
#
# *(7.9) Checked. Second moments of divided tokens vanish as tokens are added, whatever the data — this series*
#
# so every gate would lie between $n_k/(n_k+1)$ and 1. That the switch works can be read off Π itself: the
# derivative of $\ln \pi$ by $\theta$ is the square that Π was made from, less its mean over the heads.
#
# $$
# \frac{\partial \ln \pi_{jk}}{\partial \theta} = \lVert U_k^\top z_j \rVert^2 - \sum_{m=1}^{K} \pi_{jm} \lVert U_m^\top z_j \rVert^2 \tag{7.10}
# $$
#
# *(7.10) Checked. With one temperature, Π answers to the very squares that the gates average — this series · `tssa.memberships`*

# %%
def divided_moments(w, Pi):
    v = w ** 2 / (w ** 2).sum(-2, keepdim=True)
    return (Pi[..., None] * v).sum(-2) / Pi.sum(-1, keepdim=True)          # (K, p)

# %% [markdown]
# Few tokens and many, tiny ones and huge ones. Equality needs one head with every token.

# %%
draws = [theory_but().project(scale * torch.randn(1, N, 16))[0] for N in (5, 50) for scale in (0.1, 10.0)]
lhs = torch.stack([divided_moments(w, tssa.memberships(w)) for w in draws])
bound = torch.stack([(1 / tssa.memberships(w).sum(-1, keepdim=True)).expand(4, 4) for w in draws])
alone = draws[0][:1]                                                       # one head: Π = 1
check_below("7.9", lhs, bound, "moments of divided tokens", equal=(divided_moments(alone, torch.ones(1, 5)), 1 / 5))

# %%
layer = theory_but()
w, theta = layer.project(x)[0], layer.temp[0, 0]                           # (K, N, p), one temperature
slope = jacrev(lambda th: tssa.memberships(w, th, "none").log())(theta)    # (K, N)
Pi, energy = tssa.memberships(w, theta, "none"), (w ** 2).sum(-1)          # (K, N)
check("7.10", slope, energy - (Pi * energy).sum(0), 'normalize="none": the squares inside Π are those of the gates')

# %% [markdown]
# Released, the squares inside Π are the divided ones, and the slope by the temperature shows it:

# %%
inside = jacrev(lambda th: tssa.memberships(w, th, "tokens").log())(theta)
card('normalize="none", the squares inside Π', inside, restored=slope, target=energy - (Pi * energy).sum(0))

# %%
w = random_layer().project(x * torch.logspace(-1, 1, 16))[0]
Pi = tssa.memberships(w)
gates_raw, gates_divided = (tssa.gates(m).flatten() for m in (tssa.second_moments(w, Pi), divided_moments(w, Pi)))

# %% [markdown]
# What gates would the divided squares give? **Predict** it: there are 24 tokens, and the shares of a coordinate add up
# to one, so their average is about 1/24.

# %%
fig = plots.bars([str(i) for i in range(16)], {"from raw squares": gates_raw, "from divided squares": gates_divided},
                 title="The gates of one layer, 4 heads × 4 coordinates", xlabel="coordinate of the heads", ylabel="gate D")
fig.axes[0].set_ylim(0, 1.3)
show(fig, alt="Sixteen gates: those from raw squares differ, those from divided squares are all close to one",
     digest=f"raw {gates_raw.min():.2f} … {gates_raw.max():.2f}, divided {gates_divided.min():.2f} … {gates_divided.max():.2f}")

# %% [markdown]
# ### Card 6 · One temperature becomes K learned ones
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

# %%
lam, sigma2 = 1.0, 0.3
layer = theory_but(temp=lam / (2 * sigma2 * (lam + sigma2)))
log_density = torch.stack([torch.distributions.MultivariateNormal(
    torch.zeros(16), lam * U_k @ U_k.T + sigma2 * torch.eye(16)).log_prob(x[0]) for U_k in heads(layer)])
check("7.11", layer.statistics(x).Pi[0], log_density.softmax(0), "the layer's Π against Bayes' rule with Gaussian densities")

# %% [markdown]
# With four different temperatures, one of them negative, the layer leaves Bayes' rule:

# %%
apart = theory_but()
apart.temp.copy_(torch.tensor([[0.5], [1.0], [2.0], [-1.0]]))
card("temp=1/(2*eta)", apart(x)[0])

# %%
temps = torch.linspace(-2, 2, 41)
path = torch.stack([tssa.memberships(six.T[..., None], t, "none")[0] for t in temps])  # (41, N)
fig = plots.lines(temps, {f"token {name}": path[:, j] for j, name in enumerate("abcdef")},
                  title="Membership of head 1 against θ", xlabel="θ", ylabel="membership of head 1", vlines={"θ = 0": 0})
show(fig, alt="Memberships of six tokens against the temperature: all one half at zero, tokens a b c rise to one for positive and fall to zero for negative values",
     digest=f"token a: {path[0, 0]:.2f} at θ = −2, {path[20, 0]:.2f} at 0, {path[-1, 0]:.2f} at 2")

# %% [markdown]
# A negative $\theta$ sends each token to the head that sees least of it. Nothing forbids it.
#
# ### Card 7 · A hundred-millionth in the denominator
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

# %%
exact, guarded = (theory_but(mass=m).statistics(x) for m in (0.0, 0.5))
mass = exact.Pi.sum(-1, keepdim=True)
check("7.12", guarded.second_moments, mass / (mass + 0.5) * exact.second_moments, "mass=0.5 against mass=0.0")
card("mass=0.0", theory_but(mass=1e-8)(x)[0])

# %% [markdown]
# The guard matters only to a head that has next to no tokens.

# %%
deltas = torch.logspace(-6, 3, 46)
fig = plots.lines(deltas, {f"guard {m:g}": m / (deltas + m) for m in (1e-8, 1e-6)}, title="What the guard changes",
                  xlabel="mass n_k of the head (tokens)", ylabel="relative change of s", xscale="log", yscale="log",
                  vlines={"400 tokens, 4 heads": 100})
show(fig, alt="Relative change of the second moments against the mass of a head, on two logarithmic axes: straight lines that fall",
     digest=f"a guard of 1e-8 changes s by {1e-8 / 100:.0e} at n_k = 100, by {1e-8 / (1e-6 + 1e-8):.0e} at n_k = 1e-6")

# %% [markdown]
# Harmless in float64 and float32. In float16 the number $10^{-8}$ *is* zero: section 7.5.
#
# ### Card 8 · The projections may have biases
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

# %%
biased = theory_but(qkv_bias=True)
Pi = biased.statistics(x).Pi[0]


def affine_rate(z):
    w = biased.project(z)[0]
    s = (Pi[..., None] * w ** 2).sum(1) / Pi.sum(1, keepdim=True)
    return 0.5 * (Pi.mean(1)[:, None] * torch.log1p(biased.c * s)).sum()

# %% [markdown]
# As in card 1, differentiation does the other side; only the moments are affine now.

# %%
z = x.clone().requires_grad_()
check("7.13", biased(x), -24 * torch.autograd.grad(affine_rate(z), z)[0], "tied layer with biases against autograd")
card("qkv_bias=False", biased(x)[0])

# %% [markdown]
# What a bias does change is the meaning of a gate. A large bias makes a second moment large even if the data
# never move in that direction, so the gate closes on a constant.

# %%
offsets = torch.linspace(-3, 3, 61)
small, wide = (scale * torch.randn(2000) for scale in (0.1, 1.0))
curves = {f"standard deviation {name}": torch.stack([1 / (1 + ((v + b) ** 2).mean()) for b in offsets])
          for name, v in (("0.1", small), ("1", wide))}

# %% [markdown]
# If the gate measured movement only, both curves would be flat.

# %%
fig = plots.lines(offsets, curves, title="A gate and the bias of its coordinate", xlabel="bias b", ylabel="gate 1/(1 + s)")
show(fig, alt="Gate against bias for narrow and wide data: both fall to one tenth at a bias of three; they differ only near zero bias",
     digest=f"at b = 0: {curves['standard deviation 0.1'][30]:.2f} and {curves['standard deviation 1'][30]:.2f}; "
            f"at b = 3: {curves['standard deviation 0.1'][-1]:.2f} and {curves['standard deviation 1'][-1]:.2f}")

# %% [markdown]
# ### Card 9 · Dropout on the gates
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

# %%
class Mask(nn.Dropout):
    """Dropout with a mask of our choosing."""

    def __init__(self, mask, rate):
        super().__init__(rate)
        self.factor = torch.tensor(mask, dtype=torch.float64).reshape(2, 2) / (1 - rate)

    def forward(self, D):
        return D * self.factor

# %% [markdown]
# With four gates there are 16 masks: few enough to visit them all instead of drawing.

# %%
rate, small = 0.25, TSSA(4, 2, tied=True).requires_grad_(False)               # 4 gates: 16 masks
tokens, mean = torch.randn(1, 9, 4), 0
plain = small(tokens)
for mask in product((0, 1), repeat=4):
    small.attn_drop = Mask(mask, rate)
    mean = mean + math.prod(1 - rate if kept else rate for kept in mask) * small(tokens)
check("7.14", mean, plain, "all 16 masks, weighted by their probability, against no dropout")

# %%
torch.manual_seed(5)
dropping = theory_but(attn_drop=0.25, c=1.0)                              # c = 1 as published
D = dropping.statistics(x).gates
with_mask = dropping.attn_drop(D)[0].flatten()
trained = theory_but(attn_drop=0.25)
card("attn_drop=0, or eval()", trained(x)[0], restored=trained.eval()(x)[0])

# %% [markdown]
# One draw, gate by gate; the line marks the largest value that a gate of the published layer has without dropout.

# %%
fig = plots.bars([str(i) for i in range(16)], {"without": D.flatten(), "one draw, rate 0.25": with_mask}, title="Dropout on D",
                 xlabel="coordinate of the heads", ylabel="gate D", hlines={"D = 1": 1.0})
fig.axes[0].set_ylim(0, 1.5)
show(fig, alt="Sixteen gates with and without dropout: some bars vanish, the others grow by a third",
     digest=f"without: {D.min():.2f} … {D.max():.2f}; each survivor grows by the factor {1 / 0.75:.2f}")

# %% [markdown]
# ### Card 10 · Memberships are differentiated
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

# %%
held, g, Y = theory_but(), torch.randn(1, 24, 16), torch.randn(1, 24, 16)
Pi, U, h = held.statistics(x).Pi[0], heads(held), vjp(held, x)[1](g)[0]


def constant(v):
    return (g[0] * tssa.tssa_update(x[0] + v * Y[0], Pi, U, eps2)).sum()


central = (constant(1e-5) - constant(-1e-5)) / 2e-5
check("7.15", (h * Y).sum(), central, "detach_memberships=True against central differences, Π constant", DIFFERENCES)

# %% [markdown]
# With the switch released, the backward pass has one more part, the one through Π:

# %%
through = vjp(theory_but(detach_memberships=False), x)[1](g)[0]
target = vjp(lambda z: tssa.tssa_update(z, Pi, U, eps2), x[0])[1](g[0])[0]
card("detach_memberships=True, the backward pass", through[0], restored=h[0], target=target)

# %%
temps, dropped = torch.logspace(-2, 1, 13), []
for temp in temps:
    through, held = (theory_but(temp=temp.item(), detach_memberships=v) for v in (False, True))
    a, b = (vjp(layer, x)[1](g)[0] for layer in (through, held))
    dropped.append(((a - b).norm() / b.norm()).item())

# %% [markdown]
# For $\theta \to 0$ the memberships are constant, and the part through Π must vanish.

# %%
fig = plots.lines(temps, {"size of the part through Π": dropped}, title="What the backward pass gains through Π",
                  xlabel="θ", ylabel="‖difference‖ / ‖gradient with Π held‖", xscale="log", markers=True)
show(fig, alt="Relative size of the gradient part that flows through the memberships, against the temperature: it grows from nearly zero",
     digest=f"{dropped[0]:.2f} of the gradient at θ = 0.01, {dropped[8]:.2f} at θ = 1")

# %% [markdown]
# ### Card 11 · Residual, pre-norm and LayerScale
#
# - **Theory** steps on the tokens: $Z \leftarrow Z + \mathrm{TSSA}(Z)$ with a step size.
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
def half_block(gamma, norm):
    torch.manual_seed(6)
    block = Block(16, 4, **{**THEORY, "c": 1.0}).requires_grad_(False)
    block.gamma1.fill_(gamma), block.gamma2.zero_()                        # the MLP is silent
    block.norm1 = nn.LayerNorm(16) if norm else nn.Identity()
    return block


def promise(gamma, layer, v):
    """The right side of (7.16)."""
    return gamma / v.shape[1] * (1 - gamma / 2 * curvature(layer, v)) * layer(v).norm() ** 2


# %% [markdown]
# Thirty steps of the block, from short to nearly the longest, each beside its promise. The block's own forward makes
# the step; the objective is computed before and after.

# %%
promised, got = [], []
for gamma, v in product((0.2, 1.0, 1.9), [0.3 * torch.randn(1, 24, 16) for _ in range(10)]):
    block = half_block(gamma, norm=False)
    U, Pi = heads(block.attn), block.attn.statistics(v).Pi
    before, after = (rates.variational_rate(u, Pi, U, 16.0).item() for u in (v, block(v)))
    promised.append(promise(gamma, block.attn, v)), got.append(before - after)

# %% [markdown]
# When is the promise kept exactly? Take a single head on a perfectly round set of tokens and the longest step,
# $\gamma = 2/\lVert A \rVert$. It mirrors every token at the origin: much is moved, and exactly nothing is gained.

# %%
round_tokens = torch.tensor([[[1.0, 0], [-1, 0], [0, 1], [0, -1]]])
sharp = TSSA(2, 1, **{**THEORY, "c": 1.0}).requires_grad_(False)
longest = 2 / curvature(sharp, round_tokens)
gained = rate_after(sharp, round_tokens, 0) - rate_after(sharp, round_tokens, longest)
check_below("7.16", promised, got, "promised against measured decrease, norm1 off",
            equal=(promise(longest, sharp, round_tokens), gained))

# %% [markdown]
# With the norm back in its place the block is not that step any more:

# %%
normed, plain = half_block(1.0, norm=True), half_block(1.0, norm=False)
card("norm1=nn.Identity(), γ = 1", normed(x)[0], restored=plain(x)[0], target=(x + gradient_step(plain.attn, x))[0])

# %% [markdown]
# With the norm the step is computed from one point and applied at another. **Predict:** how much of the promise is
# left? We draw 200 sets of tokens and measure $R_c^{\mathrm{var}}$ of the *normalised* tokens before and after.

# %%
def ratios(gamma):
    """R_c^var after/before for 200 inputs: of LN(x) across the block, and of z across z + γ·TSSA(z)."""
    block = half_block(gamma, norm=True)
    torch.manual_seed(7)
    v = torch.randn(200, 24, 16) * torch.rand(200, 1, 16)
    z = block.norm1(v)
    Pi, U = block.attn.statistics(z).Pi, heads(block.attn)
    before, pre, plain = (rates.variational_rate(u, Pi, U, 16.0) for u in (z, block.norm1(block(v)), z + gamma * block.attn(z)))
    return pre / before, plain / before

# %% [markdown]
# Eight step sizes, from short ones to twice the bound of lesson 5.

# %%
gammas = [0.1, 0.5, 1.0, 1.5, 1.9, 2.5, 3.0, 4.0]
pre, plain = (torch.stack(v) for v in zip(*(ratios(g) for g in gammas)))   # (8, 200)
share = (pre < 1).double().mean(1)

# %% [markdown]
# Below the horizontal line the step has compressed.

# %%
fig = plots.lines(gammas, {"pre-norm, LN(x)": pre.mean(1), "without norm": plain.mean(1)}, title="A step with and without pre-norm",
                  xlabel="step size γ", ylabel="R_c^var after / before, mean", markers=True, hlines={"unchanged": 1.0}, vlines={"γ = 2": 2.0})
fig.axes[0].set_ylim(0, 1.8)
show(fig, alt="Ratio of the objective after and before a step against step size: without norm it stays below one, with pre-norm it has a minimum near one and a half and rises above one at four",
     digest=f"pre-norm: {share[:5].min():.2f} of the inputs fall at every γ below 2, {share[-1]:.2f} at γ = 4; "
            f"without norm {(plain < 1).double().mean():.2f} everywhere")

# %% [markdown]
# <details><summary>Answer</summary>
#
# For these inputs nearly every step below γ = 2 still compresses, though no theorem says so any more. Beyond, the norm turns against us:
# a step that shrinks a token past the origin is blown up again to full length.
#
# </details>
#
# ### Card 12 · The causal layer
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

# %%
torch.manual_seed(8)
causal = CausalTSSA(8, 2, block_size=32).requires_grad_(False)
causal.temp.copy_(torch.tensor([[1.0], [3.0]])), causal.denom_bias.normal_(std=0.3)
causal.c_proj.weight.copy_(torch.eye(8))                                   # so that its gates can be read off
words = torch.randn(1, 20, 8)
w = causal.c_attn(words)[0].reshape(20, 2, 4)                              # (N, K, p)

# %% [markdown]
# The loops take one token at a time and look only at what came before it.

# %%
def pi_at(t):
    return torch.stack([causal.temp[k, 0] * (sum(w[t, k, i] ** 2 / (w[:t + 1, k, i] ** 2).sum() for i in range(4))
                                             + 4 * causal.denom_bias[k, t, 0]) for k in range(2)]).softmax(0)


def s_at(t):
    past = torch.stack([pi_at(l) for l in range(t + 1)])                   # (t, K)
    return (past[..., None] * w[:t + 1] ** 2).sum(0) / (past.sum(0)[:, None] + 1e-8)  # (K, p)


# %% [markdown]
# The layer returns only the product $-\pi w/(1 + s)$. How can Π and $s$ be read off it separately? Feed it the tokens
# once as they are and once doubled. Π doesn't notice, for its squares are divided; $s$ grows by four. So
# $r_a = (1 + a^2 s)/\pi$ is known for $a = 1, 2$, and two equations give two unknowns.

# %%
s_loop, Pi_loop = (torch.stack([f(t) for t in range(20)]) for f in (s_at, pi_at))
r1, r2 = (-a * w / causal(a * words)[0].reshape(20, 2, 4) for a in (1, 2))  # (1 + a²s)/π, (N, K, p)
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
#
# At any other temperature an old token keeps the membership that it got when it was new, so even the last token,
# which sees everything, does not get what the full layer would give it.

# %%
full = TSSA(8, 2, temp=0.0, tied=False).requires_grad_(False)
full.qkv.weight.copy_(causal.c_attn.weight), full.to_out[0].weight.copy_(torch.eye(8)), full.to_out[0].bias.zero_()
uniform = copy.deepcopy(causal)
uniform.temp.zero_()
prefixes = torch.stack([full(words[:, :t + 1])[0, -1] for t in range(20)])
check("7.19", uniform(words)[0], prefixes, "θ = 0: the causal layer against the full layer on all 20 prefixes")
card("temp=0, the causal layer", causal(words)[0], restored=uniform(words)[0], target=prefixes)

# %%
many = torch.randn(1, 32, 8)
causal.denom_bias.zero_(), causal.temp.fill_(3.0), full.temp.fill_(3.0)
gap = [((causal(many[:, :t]) - full(many[:, :t]))[0, -1].norm() / full(many[:, :t])[0, -1].norm()).item() for t in range(1, 33)]
w2 = (causal.c_attn(many)[0].reshape(32, 2, 4)) ** 2
logits = (w2 / w2.cumsum(0)).sum(-1).mean(1)                               # mean over the heads

# %% [markdown]
# On the left (7.8) with $t$ in the place of $n$: the newest of $t$ tokens has a logit of about $\theta p/t$ on average. On the right the
# last token of ever longer texts, by either layer.

# %%
left, right = plots.row(2)
plots.lines(range(1, 33), {"mean logit / θ": logits, "p / t": 4 / torch.arange(1, 33)}, title="Logits fade with time",
            xlabel="position t", ylabel="logit / θ", ax=left)
fig = plots.lines(range(1, 33), {"last token": gap}, title="Causal against full layer, θ = 3", xlabel="tokens seen t",
                  ylabel="relative difference", ax=right)
show(fig, alt="Left: the causal logits fall like p over t. Right: relative difference between causal and full layer at the last token, zero at the first token, near a fifth at the second, then a few per cent",
     digest=f"logit/θ is {logits[0]:.2f} at t = 1 and below {logits[16:].max() + 0.05:.1f} after t = 16; largest difference {max(gap):.2f}")

# %% [markdown]
# $b_{k,t}$ can lift the mean logit again, and prefer a head at a position. But it is the same whatever the token says, so the differences
# between tokens still fade. It also ties the model to the length that it was
# trained for.
#
# ### Departures that change no number of the layer
#
# The leading minus stays in the code and is then multiplied by a free matrix. Positions are added once before
# the first block, for the layer itself has none. A class token appears only in two last blocks of softmax
# attention with a single query, whose cost is linear in the number of tokens too. And the step that CRATE derived from sparsity is an
# ordinary MLP here.
#
# ## 7.4 What the layer can and cannot do, whatever its weights
#
# Tokens meet only in sums. So the layer cannot know their order: for every permutation matrix $Q$,
#
# $$
# \mathrm{TSSA}(Z Q) = \mathrm{TSSA}(Z)\, Q \tag{7.20}
# $$
#
# *(7.20) Checked. Shuffled tokens give the same outputs, shuffled — standard property · `tssa.TSSA`*
#
# With a single head Π is 1, and what is left is one matrix for all tokens:
#
# $$
# K = 1: \qquad \mathrm{TSSA}(Z) = -(O D U^\top)\, Z \tag{7.21}
# $$
#
# *(7.21) Checked. One head gives data-dependent channel gating: every token is multiplied by the same matrix — this series · `tssa.TSSA`*

# %%
layer = random_layer(temp=5.0)
order = torch.randperm(24)
check("7.20", layer(x[:, order]), layer(x)[:, order], "shuffled input against shuffled output")

# %% [markdown]
# For one head we write the matrix down and multiply every token by it.

# %%
single = TSSA(16, 1, mass=0.0).requires_grad_(False)
single.to_out[0].bias.zero_()
M = -single.to_out[0].weight @ torch.diag(single.statistics(x).gates[0, 0]) @ single.qkv.weight
check("7.21", single(x)[0], x[0] @ M.T, "K = 1: the layer against one matrix")

# %% [markdown]
# With $K$ heads the layer treats two tokens differently only through their $K$ memberships. There is no retrieval by content, as a key–value
# lookup has it. How thin the channel between tokens is can be counted. A token hears of the others through $Kp$
# sums of squares in Π and $Kp$ second moments, so if $\mathcal{A}$ and $\mathcal{B}$ are disjoint sets of tokens,
#
# $$
# \mathrm{rank}\, \frac{\partial\, \mathrm{TSSA}(Z)_{\mathcal{A}}}{\partial Z_{\mathcal{B}}} \le 2 K p \tag{7.22}
# $$
#
# *(7.22) Checked. All that one set of tokens learns from another fits into 2Kp numbers — this series*
#
# And no weights can make the gated tokens large. The mean square of gated coordinate $i$ of head $k$ is at most
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

# %%
def cross(seed, K):
    torch.manual_seed(seed)
    layer, v = TSSA(8, K, temp=8.0), torch.randn(40, 8)
    J = jacrev(lambda b: layer(torch.cat([v[:20], b])[None])[0, :20])(v[20:])  # (20, 8, 20, 8)
    return torch.linalg.svdvals(J.detach().reshape(160, 160))

# %% [markdown]
# The rank is the number of singular values above rounding. With $K p = 8$ the bound is 16, and it is reached.

# %%
spectra = {f"K = {K}, p = {8 // K}": cross(9, K) for K in (1, 2, 4)}
ranks = [(sv > 1e-9 * sv[0]).sum().item() for sv in [*(cross(s, 2) for s in range(3)), *spectra.values()]]
check_below("7.22", ranks, [16] * len(ranks), "ranks of the 160 × 160 Jacobian between two halves of 40 tokens",
            equal=(ranks[0], 16))

# %%
def gated_mean_square(w):
    Pi = tssa.memberships(w, 3.0)
    y = Pi[..., None] * w * tssa.gates(tssa.second_moments(w, Pi, 0.0))[:, None]
    return (y ** 2).mean(1), (Pi.mean(1, keepdim=True) / 4).expand(len(w), w.shape[-1])

# %% [markdown]
# Tokens from tiny to huge, and for equality one head whose coordinates are all $\pm 1$ (here 1), so that $s = 1$.

# %%
pairs = [gated_mean_square(scale * torch.randn(4, 50, 4)) for scale in (0.01, 1.0, 2.0, 1e4)]
signs = torch.ones(1, 50, 3)                                               # one head, s = 1
check_below("7.23", torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]), "mean square of gated coordinates",
            equal=gated_mean_square(signs))

# %%
left, right = plots.row(2)
plots.lines(range(1, 33), {k: (sv[:32] / sv[0]).clamp_min(1e-18) for k, sv in spectra.items()}, title="What half the tokens tell the others",
            xlabel="number of the singular value", ylabel="singular value / largest", yscale="log", vlines={"2Kp = 16": 16}, ax=left)
scales = torch.logspace(-2, 4, 25)
size = [gated_mean_square(v * signs)[0].mean().sqrt() for v in scales]
fig = plots.lines(scales, {"RMS of π D w": size}, title="Bounded for any input", xlabel="size of |w|", ylabel="RMS over tokens",
                  xscale="log", hlines={"bound ½": 0.5}, ax=right)
show(fig, alt="Left: singular values of the cross-token Jacobian drop to rounding after sixteen. Right: the gated size peaks at one half for tokens of size one and falls on both sides",
     digest=f"ranks {ranks[3:]} for K = 1, 2, 4; peak RMS {max(size):.2f}")

# %% [markdown]
# With one head the memberships are constant and only $p = 8$ statistics remain.
#
# ## 7.5 Hazards
#
# **Half precision.** float16 holds numbers up to 65504, so squares overflow from $|w| = 256$ on. Computed as (7.2) is written, such a token
# has the share $\infty/\infty$, and the NaN spreads through $s$ to every token. The published code divides $w$ by its norm before squaring;
# there the forward pass shows nothing ($s = \infty$ gives a gate of 0), and only the gradient is NaN. A dead channel (zero on all tokens)
# is as bad: the guard
# $10^{-12}$ of a division is zero in float16, and 0/0 is NaN. Our layer computes squares, Π, $s$ and $D$ in float32
# and only the product with $w$ in the input's type.

# %%
def naive(w):
    """The formulas in the input's own type."""
    Pi = (w ** 2 / (w ** 2).sum(-2, keepdim=True).clamp_min(1e-12)).sum(-1).softmax(0)
    s = (Pi[..., None] * w ** 2).sum(-2) / (Pi.sum(-1, keepdim=True) + 1e-8)
    return -w * Pi[..., None] / (1 + s[:, None])


def ours(w):
    Pi = tssa.memberships(w)
    return -w * (Pi[..., None] * tssa.gates(tssa.second_moments(w, Pi))[:, None]).to(w.dtype)

# %% [markdown]
# The test tokens reach 10,000, and one coordinate is dead.

# %%
wide = torch.randn(4, 64, 4) * torch.logspace(-1, 3, 4)
wide = (wide / wide.abs().max() * 1e4).float()
wide[1, :, 2] = 0                                                          # a dead channel

# %% [markdown]
# Both types, both versions: are output and gradient finite, and how far is the output from float32?

# %%
for dtype in (torch.float16, torch.bfloat16):
    for f in (naive, ours):
        v = wide.to(dtype).requires_grad_()
        out = f(v)
        out.sum().backward()
        error = (out.float() - ours(wide)).abs().max() / ours(wide).abs().max()
        print(f"{str(dtype)[6:]:9} {f.__name__:5} output finite: {bool(out.isfinite().all())!s:5} "
              f"gradient finite: {bool(v.grad.isfinite().all())!s:5} error below 1e-2: {bool(error < 1e-2)}")

# %% [markdown]
# **One token.** A 32-pixel image at stride 32 has a single token. Every coordinate's share is then 1, Π is uniform if
# the temperatures are equal, and the layer is a fixed curve:
#
# $$
# n = 1: \qquad y_{ki} = -\frac{1}{K}\, \frac{w_{ki}}{1 + w_{ki}^2}, \qquad w_{ki} = u_{ki}^\top z_1 \tag{7.24}
# $$
#
# *(7.24) Checked. With one token the layer acts on each coordinate alone, before the output map — this series · `tssa.TSSA`*
#
# **Padding.** Zero tokens join every $n_k$. If a head's coordinate has second moment $s$ and Π is uniform, then
# appending $m$ zero tokens makes it
#
# $$
# s' = \frac{n}{n + m}\, s \tag{7.25}
# $$
#
# *(7.25) Checked. Padding dilutes the statistics and opens the gates — this series · `tssa.second_moments`*

# %%
layer = random_layer(mass=0.0)
layer.to_out[0].weight.copy_(torch.eye(16))
w1 = x[:, :1] @ layer.qkv.weight.T
check("7.24", layer(x[:, :1]), -w1 / (4 * (1 + w1 ** 2)), "one token")

# %% [markdown]
# Then padding: at $\theta = 0$ Π is uniform, and at $\theta = 0$, where Π is uniform, 8 zero tokens beside 24 must leave three quarters of
# every second moment.

# %%
layer.temp.zero_()
padded = torch.cat([x, torch.zeros(1, 8, 16)], 1)
check("7.25", layer.statistics(padded).second_moments, 24 / (24 + 8) * layer.statistics(x).second_moments, "24 tokens and 8 zero tokens")

# %%
layer.temp.fill_(1.0)
rows = []
for zeros in (0, 6, 12, 24, 48, 96):
    out = layer(torch.cat([2 * x, torch.zeros(1, zeros, 16)], 1))[:, :24]
    rows.append(((out - layer(2 * x)).norm() / layer(2 * x).norm()).item())

# %% [markdown]
# The picture of both hazards: the curve of (7.24), and the output of the real tokens as zeros are appended.

# %%
curve = torch.linspace(-6, 6, 121)
left, right = plots.row(2)
plots.lines(curve, {"y, K = 4": -curve / (4 * (1 + curve ** 2))}, title="The layer on a single token", xlabel="coordinate w",
            ylabel="gated coordinate y", ax=left)
fig = plots.lines([0, 6, 12, 24, 48, 96], {"24 real tokens": rows}, title="What padding changes", xlabel="zero tokens appended",
                  ylabel="relative change of the output", markers=True, ax=right)
show(fig, alt="Left: the curve of the layer on one token, an S that returns to zero. Right: the output of real tokens changes the more zero tokens are appended",
     digest=f"{rows[3]:.0%} change when as many zero tokens are appended as there are real ones")

# %% [markdown]
# No guard inside the layer can tell padding from data: cut it off before the layer, or use images of one shape. The grey
# borders with which YOLO fills up an image ("letterbox") are tokens like any others, and join every $n_k$. For different resolutions use `normalize="rms"` (card 4).
#
# ## 7.6 Exercises
#
# **7.1 Bug hunt.** A port of the layer takes the softmax over the wrong axis and trains without complaint. Write the
# memberships of projected tokens `w (K, N, p)` at temperature `theta`, as (7.2) has them, with the right axis.

# %%
def answer_7_1(w, theta):
    return ...  # your turn: Pi (K, N)


exercise("7.1", answer_7_1)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_7_1(w, theta):
#     share = w ** 2 / (w ** 2).sum(1, keepdim=True)
#     return (theta * share.sum(-1)).softmax(0)
# ```
#
# The squares are divided over the tokens (axis 1), the softmax runs over the heads (axis 0): each token shares itself out.
#
# </details>
#
# **7.2 The number that breaks float16.** What is the smallest positive float16 number whose square is infinite in float16?

# %%
answer_7_2 = ...  # your turn: a number
exercise("7.2", answer_7_2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_7_2 = 256.0
# ```
#
# The largest float16 is 65504; $256^2 = 65536$ is beyond it, and the float16 just below 256 is 255.875, whose square still fits.
#
# </details>
#
# **7.3 First word.** What does a causal layer with zero `denom_bias` and equal temperatures give for its first token,
# before the output map? Write it as a function of the projected token `w (K, p)` (neglect the $10^{-8}$).

# %%
def answer_7_3(w):
    return ...  # your turn: y (K, p)


exercise("7.3", answer_7_3)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_7_3(w):
#     return -w / (len(w) * (1 + w ** 2))
# ```
#
# With one token seen, each share is 1, Π is 1/K, and the running second moment is the token's own square: (7.24) again.
#
# </details>
#
# **7.4 A larger picture.** An image is enlarged so that each token appears four times. By what factor must $\theta$ be
# multiplied to leave the published layer's memberships as they were?

# %%
answer_7_4 = ...  # your turn: a number
exercise("7.4", answer_7_4)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_7_4 = 4.0
# ```
#
# Each sum over the tokens grows by four, so each logit shrinks by four; see (7.8).
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
# - Compute statistics in float32, and keep padding out.
# - The causal layer is the same with running sums, except that old tokens keep their old memberships.
#
# ## Sources
#
# - Wu et al. 2024, *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction*, and the authors'
#   published code (vision and language layers), read for the forward pass and the parameter names.
# - Yu et al. 2023, *White-Box Transformers via Sparse Rate Reduction* (CRATE), for the block that ToST simplifies.
# - The cards' checks, (7.6) to (7.16), (7.19) and the bounds (7.22), (7.23) are this series' own.
#
# [◀ previous](06_memberships.ipynb) · [contents](00_start_here.ipynb) · [next ▶](08_tost.ipynb)
