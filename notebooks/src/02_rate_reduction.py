# %% [markdown]
# # Lesson 2 · Rate reduction (MCR²)
#
# [◀ previous](01_coding_rate.ipynb) · [contents](00_start_here.ipynb) · [next ▶](03_attention_is_compression.ipynb)
#
# **What is a good arrangement of tokens?** Lesson 1 gave tokens a price, and found that tokens of two kinds are cheaper with two codes than
# with one. Now the saving is made the goal: it is largest when each group is compact while the whole fills the space. This is the
# *principle of maximal coding rate reduction*, MCR² for short. The lesson shows what its best arrangements look like, states a
# step with which gradient ascent cannot overshoot, and watches random points on a sphere fall into three perpendicular lines.
#
# **After this you can**
# - write the rate of grouped tokens, $R_c$, and one step of the climb, and run the lesson on them
# - say why knowing the groups never hurts, and what it costs to say which group a token is in
# - say why the tokens' length must be held fixed
# - name the best arrangement and its ΔR, and reach it by gradient ascent
#
# **You should be able to answer:**
# - $R_c$ never rises when a group is split. What does one more group cost, and who chooses $K$ in this series?
# - What would happen to ΔR if tokens could be as long as they like?
# - How long may a step of the climb be, and how do you notice that it was too long although the curve of ΔR looks settled?
#
# **Before this:** lesson 1 (the coding rate R, the second moment S, the constant c = d/ε²).
#
# **Time:** about 35 minutes to read, 20 seconds to run on two CPU cores. Going deeper takes 42 minutes more.

# %%
import math

import torch
from torch.nn.functional import normalize, one_hot

from tssa_lib import rates
from kit import DIFFERENCES, REACHED, agree, check, check_below, exercise, live, mine, plots, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
LN2 = math.log(2)

# %% [markdown]
# ## 2.1 The price of grouped tokens
#
# Our six tokens again: a, b, c near the first axis, d, e, f near the second, and again $\varepsilon^2 = 0.1$. Suppose we know who belongs
# to whom: a matrix of *memberships* $\Pi$, whose entry $\pi_{jk}$ says which share of token $j$ belongs to group $k$. The
# shares of a token sum to one. If every share is 0 or 1 the memberships are *hard*, otherwise *soft*. In code `Pi` is (K, N).

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
NAMES = "abcdef"
Pi = torch.tensor([[1.0, 1, 1, 0, 0, 0],
                   [0.0, 0, 0, 1, 1, 1]])                                  # (K, N)

# %% [markdown]
# Each group gets what lesson 1 gave to all tokens together: a size and a second moment. A token counts in each group with its share.
#
# $$
# n_k = \sum_{j=1}^{n} \pi_{jk}, \qquad S_k = \frac{1}{n_k} \sum_{j=1}^{n} \pi_{jk}\, z_j z_j^\top = \frac{1}{n_k} Z \operatorname{Diag}(\pi_k) Z^\top \tag{2.1}
# $$
#
# *(2.1) Definition. Size and second moment of group k — Yu et al. 2020 · `rates.second_moment`*
#
# Code each group with a code made for it. A token of group $k$ costs $\frac12\log\det(I + cS_k)$ nats, and a share
# $n_k/n$ of all tokens is in that group. The average price is the *compression rate* $R_c$.
#
# $$
# R_c(Z, \Pi) = \frac12 \sum_{k=1}^{K} \frac{n_k}{n} \log\det\left(I + c\,S_k\right) \tag{2.2}
# $$
#
# *(2.2) Definition. What a token costs on average if each group has a code of its own — Yu et al. 2020 · `rates.compression_rate`*
#
# $$
# \Delta R(Z, \Pi) = R(Z) - R_c(Z, \Pi) \tag{2.3}
# $$
#
# *(2.3) Definition. The rate reduction: nats saved by knowing the groups — Yu et al. 2020 · `rates.rate_reduction`*
#
# Lesson 3 meets a rate written $R^c$, with the index above. It is another quantity: there *every* token is coded in *every* group
# ([how the two relate](#Two-rates-with-similar-names)).
#
# **Exercise 2a.** Write $R_c$. The rest of the lesson runs on your function as soon as it is right.

# %%
def my_compression_rate(x, Pi, eps2):
    """R_c (2.2) in nats. Tokens are rows: x is (N, d); Pi is (K, N). Returns a scalar tensor."""
    return ...  # your turn: a loop over the rows of Pi is fine


compression_rate = mine("2a", my_compression_rate, rates.compression_rate)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_compression_rate(x, Pi, eps2):
#     n, d = x.shape
#     total = 0.0
#     for share in Pi:                                          # (N,), one group at a time
#         n_k = share.sum()
#         S_k = (share * x.T) @ x / n_k                         # (d, d)
#         total = total + 0.5 * n_k / n * torch.logdet(torch.eye(d) + d / eps2 * S_k)
#     return total
# ```
#
# Each second moment is divided by the size of *its* group, and the group's price is weighted by its share $n_k/n$ of the tokens.
#
# </details>

# %%
def reduction(x, Pi, eps2):
    return rates.coding_rate(x, eps2) - compression_rate(x, Pi, eps2)      # ΔR (2.3)

R, R_c = rates.coding_rate(six, 0.1), compression_rate(six, Pi, 0.1)
print(f"R = {R:.3f}, R_c = {R_c:.3f}, ΔR = {reduction(six, Pi, 0.1):.3f} nats = {(R - R_c) / LN2:.2f} bits a token")

# %% tags=["hide-input"]
# figure: one ellipse for all six tokens, and one for each group
S_k = rates.second_moment(six, Pi)                                         # (K, d, d)
area = S_k.det().sqrt() / rates.second_moment(six).det().sqrt()
show(plots.points(six, Pi.argmax(0), names=NAMES, title="One code, or one for each group",
                  ellipses={"S, all six": rates.second_moment(six), "S₁": S_k[0], "S₂": S_k[1]}),
     alt="The six labelled tokens with three ellipses around the origin: a round one for all six, a flat horizontal one for "
         "a, b, c and a narrow vertical one for d, e, f",
     digest=f"area of the group ellipses {area[0]:.2f} and {area[1]:.2f} of the area of the ellipse of all six")

# %% [markdown]
# ## 2.2 Knowing the groups never hurts
#
# Every token is shared out completely, so the whole is the mixture of its groups: $S = \sum_k \frac{n_k}{n} S_k$. The price of a mixture is at
# least the mixture of the prices, by (1.15). So the saving can't be negative, for any tokens and any memberships.
#
# $$
# R_c(Z, \Pi) \le R(Z) \tag{2.5}
# $$
#
# *(2.5) Checked. ΔR ≥ 0; equality if all groups have the same second moment — Yu et al. 2020*
#
# Networks use soft memberships because they have gradients, not because they are cheaper: some hard membership is always among
# the best ([why](#Soft-memberships-are-never-needed)).

# %% tags=["hide-input"]
# check of (2.5): three hundred random tokens and memberships; equality for groups of different size with one second moment
def random_memberships(K, N, sharp=1.0):
    return (sharp * torch.randn(K, N)).softmax(0)                          # softmax over the groups

alike, sizes_2_1 = torch.cat([six, -six, six]), torch.tensor([[1.0] * 12 + [0.0] * 6, [0.0] * 12 + [1.0] * 6])
check_below("2.5", compression_rate, lambda x, Pi, eps2: rates.coding_rate(x, eps2), "R_c ≤ R, random tokens and memberships",
            draws=[(torch.randn(12, 3), random_memberships(4, 12, 3.0), 0.1) for _ in range(300)], equal=(alike, sizes_2_1, 0.1))

# %% [markdown]
# ## 2.3 What a group costs, and how many there should be
#
# Apply (2.5) inside one group: to split it never raises $R_c$. So $R_c$ alone always asks for more groups, down to one for each token.
# It leaves something out. The receiver must be told which code was used, and naming one of $K$ groups is not free. If groups are used with
# the frequencies $n_k/n$, the best code for the names costs their *entropy*:
#
# $$
# -\sum_{k=1}^{K} \frac{n_k}{n} \ln \frac{n_k}{n} \le \ln K \tag{2.21}
# $$
#
# *(2.21) Checked. The price of saying which group, in nats a token; equality for groups of one size — Shannon 1948*
#
# **Predict:** for the six tokens, try every way to sort them into $K$ groups and keep the cheapest. How does the best $R_c$ fall
# with $K$? And where is the minimum once the names are paid for?
#
# <details><summary>Answer</summary>
#
# $R_c$ falls steeply from one group to two, 2.94 to 1.94 nats, and hardly after that: 1.74 for six groups of one token each. With the
# names the totals are 2.94, 2.63, 2.85, …, 3.53. The minimum is at two: the third group saves 0.10 nats in $R_c$ and its names cost
# 0.32 more.
#
# </details>

# %% tags=["hide-input"]
# the price of the names, and the check of (2.21): random memberships in up to nine groups; equality for equal groups
def price_of_names(Pi):
    share = Pi.sum(1) / Pi.shape[1]                                        # (K,), n_k/n
    return torch.special.entr(share).sum()                                 # −Σ share · ln share, 0 for an empty group

print(f"two groups: R_c + names = {R_c:.2f} + {price_of_names(Pi):.2f} nats, one group: {R:.2f}")
check_below("2.21", price_of_names, lambda Pi: torch.tensor(float(len(Pi))).log(), "entropy of the names, 100 memberships",
            draws=[(random_memberships(2 + i % 8, 12, 3.0),) for i in range(100)], equal=(torch.eye(3).repeat_interleave(4, 1),))

# %% tags=["hide-input"]
# figure: all 203 ways to sort six tokens into groups; the cheapest for each number of groups
def groupings(n, labels=()):
    """Every way to sort n tokens into groups, as a tuple of labels."""
    if len(labels) == n:
        yield labels
    else:
        for label in range(max(labels, default=-1) + 2):
            yield from groupings(n, labels + (label,))

found = {K: [] for K in range(1, 7)}
for labels in groupings(6):
    P = one_hot(torch.tensor(labels)).T.double()                           # (K, N)
    found[len(P)].append((compression_rate(six, P, 0.1).item(), price_of_names(P).item()))
K = torch.arange(1, 7)
cheapest = {"R_c": [min(r for r, _ in f) for f in found.values()], "R_c and names": [min(r + h for r, h in f) for f in found.values()]}
show(plots.lines(K, cheapest, title="The six tokens in K groups", xlabel="number of groups K", ylabel="nats a token", markers=True),
     alt="Two curves over the number of groups. The compression rate falls steeply from one group to two and is nearly flat after that. "
         "With the price of the names the curve has its minimum at two groups and rises after that",
     digest=f"{sum(map(len, found.values()))} groupings; " + "; ".join(f"{name} " + ", ".join(f"{v:.2f}" for v in c) for name, c in cheapest.items()))

# %% [markdown]
# ΔR does not contain the names, and nothing in it punishes a $K$ that is too large. So $K$ is not found by this objective: it is given. In
# MCR² it is the number of classes; in TSSA it is the number of heads, a setting of the layer. The most that is left out is $\ln K$, 2.1 nats
# a token for eight heads.
#
# ## 2.4 The gradient
#
# To improve an arrangement we need the gradient with respect to $Z$, the memberships held fixed. That of $R$ is (1.16). For group $k$ the
# same computation gives $\frac{n_k}{n} \cdot \frac{c}{n_k} (I + cS_k)^{-1} Z \operatorname{Diag}(\pi_k)$, and the size of the group cancels:
# a token has the same weight, $1/n$, in a large group or a small one.
#
# $$
# \nabla \Delta R(Z) = \frac{c}{n} \left[ \left(I + c\,S\right)^{-1} Z - \sum_{k=1}^{K} \left(I + c\,S_k\right)^{-1} Z \operatorname{Diag}(\pi_k) \right] \tag{2.8}
# $$
#
# *(2.8) Checked. Expand the whole, compress each group — Yu et al. 2020 · `rates.rate_reduction_grad`*
#
# Read it as two forces on a token. The first is the same matrix for everybody and pushes outward, most in the directions
# where *all* tokens are thin. The second pulls inward, most where the token's *own group* is thin. Across its group's
# main axis the pull wins clearly. Along the axis both are weak and the push is the stronger one, so the token grows. Section 2.5 has to deal
# with that.

# %% tags=["hide-input"]
# check of (2.8): automatic differentiation of ΔR, and central differences, which use its values only
def differences(f, x, h=1e-5):
    """∂f/∂x, entry by entry, from values of f alone."""
    nudges = h * torch.eye(x.numel()).view(-1, *x.shape)                   # (x.numel(), N, d)
    return torch.stack([(f(x + e) - f(x - e)) / (2 * h) for e in nudges]).view_as(x)

def slope(f):
    """The gradient of f as a function, by automatic differentiation; slope(slope(f)) is the second derivative."""
    def gradient(x):
        x = x if x.requires_grad else x.clone().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
    return gradient

def witnesses(f, x):
    return torch.stack([slope(f)(x), differences(f, x)])                   # (2, N, d)

x7, P7 = torch.randn(7, 4), random_memberships(3, 7)
check("2.8", witnesses(lambda x: reduction(x, P7, 0.1), x7), torch.stack([rates.rate_reduction_grad(x7, P7, 0.1)] * 2),
      "autograd and differences, three soft groups", tol=DIFFERENCES)

# %% [markdown]
# ## 2.5 Why the length of the tokens must be fixed
#
# Can we simply maximise ΔR? **Predict:** scale all tokens by $t$. Once for three groups that each fill the space, once for three
# groups that are lines. What does ΔR do?
#
# <details><summary>Answer</summary>
#
# Longer tokens are tokens seen more finely. At fine precision each rate grows like its rank times $\ln t$. Groups that each span
# as much as the whole gain nothing, so ΔR levels off. If a group spans less, ΔR grows without end: by $2 \ln 10 = 4.6$ nats in every decade for three lines in
# three dimensions ([the exact slope](#How-fast-the-reduction-grows)).
#
# </details>

# %% tags=["hide-input"]
# figure: ΔR against the scale of the tokens
Pi3 = torch.eye(3).repeat_interleave(20, 1)                                # (3, 60), hard, 20 tokens a group
filling = torch.randn(60, 3) * (torch.rand(3, 3) + 0.2).repeat_interleave(20, 0)   # groups of rank 3
lying = torch.randn(60, 1) * normalize(torch.randn(3, 3), dim=1).repeat_interleave(20, 0)    # three lines
t = torch.logspace(-1, 4, 40)
scaled = {name: torch.stack([reduction(a * x, Pi3, 0.1) for a in t]) for name, x in
          {"groups fill the space": filling, "groups are lines": lying}.items()}
show(plots.lines(t, scaled, xscale="log", title="Longer tokens, more reduction?", xlabel="scale t", ylabel="ΔR in nats"),
     alt="Over a logarithmic axis one curve levels off below half a nat, the other rises in a straight line",
     digest=f"at scale 10000: {scaled['groups fill the space'][-1]:.2f} and {scaled['groups are lines'][-1]:.1f} nats")

# %% [markdown]
# Once groups are flat in different directions, longer tokens are a cheap way to score without arranging anything better. The usual cure is to
# put every token on the unit sphere. (Normalisation layers have a similar effect inside networks.) From here on tokens have length one,
# so every second moment, an average of $z_jz_j^\top$ with $\operatorname{tr} z_jz_j^\top = \|z_j\|^2 = 1$, has the trace one.
#
# ## 2.6 The best arrangement
#
# How large can ΔR become on the sphere? For a given trace a sum of logarithms $\sum_i \ln(1 + c\lambda_i)$ is largest if all eigenvalues are
# equal, $1/d$, because the logarithm is concave. It is smallest if one eigenvalue has everything, because
# $\prod_i (1 + c\lambda_i) \ge 1 + c\sum_i \lambda_i$.
#
# $$
# R(Z) \le \frac{d}{2} \ln\left(1 + \frac{1}{\varepsilon^2}\right), \qquad R_c(Z, \Pi) \ge \frac12 \ln\left(1 + \frac{d}{\varepsilon^2}\right) \tag{2.11}
# $$
#
# *(2.11) Checked. The whole as round as possible, each group a line: no unit tokens do better — this series*
#
# With as many groups as dimensions, all of one size, both can be had at once: put each group on an axis of its own. With fewer groups than
# dimensions and a fine precision, groups are still mutually orthogonal, and each spreads evenly over its $d/K$ dimensions. That is the theorem
# of Yu et al. ([its proof for one direction at a time, and how fine is fine](#Proof-of-the-best-arrangement)). Its ΔR is
#
# $$
# \Delta R_{\max} = \frac{d}{2} \left[ \ln\left(1 + \frac{1}{\varepsilon^2}\right) - \frac{1}{K} \ln\left(1 + \frac{K}{\varepsilon^2}\right) \right] \tag{2.17}
# $$
#
# *(2.17) Checked. The largest rate reduction of K balanced groups of unit tokens, at fine precision (at any for K = d) — this series, from Yu et al. 2020 · `rates.max_rate_reduction`*

# %% tags=["hide-input"]
# check of (2.11): random unit tokens in four soft groups; equality for three groups on three axes
def smaller_sides(x, Pi, eps2):
    return torch.stack([rates.coding_rate(x, eps2), torch.tensor(0.5 * math.log(1 + x.shape[1] / eps2))])

def larger_sides(x, Pi, eps2):
    return torch.stack([torch.tensor(x.shape[1] / 2 * math.log(1 + 1 / eps2)), compression_rate(x, Pi, eps2)])

on_axes = torch.eye(3).repeat_interleave(4, 0)                             # (12, 3), four tokens on each axis
check_below("2.11", smaller_sides, larger_sides, "both bounds, random unit tokens",
            draws=[(normalize(torch.randn(12, 3), dim=1), random_memberships(4, 12, 3.0), e) for e in (0.1, 1.0) * 150],
            equal=(on_axes, on_axes.T, 0.3))

# %% [markdown]
# **Exercise 2b.** Build it: return $2d$ unit tokens in $d$ dimensions, the first $2d/K$ of them group 1, the next group 2 and so on,
# that reach (2.17).

# %%
def answer_2b(d, K):
    return ...  # your turn: tokens (2 * d, d), each of length one


exercise("2b", answer_2b)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_2b(d, K):
#     return torch.eye(d).repeat_interleave(2, 0)
# ```
#
# Two tokens on every coordinate axis. Group $k$ then owns $d/K$ axes of its own, evenly filled, and axes of different groups are
# perpendicular. $K$ does not even occur: it only says where one group ends and the next begins. Any rotation of this is as good.
#
# </details>

# %% tags=["hide-input"]
# check of (2.17): random unit tokens stay below; equality for orthogonal, evenly filled groups
def best_arrangement(d, K, repeats=2):
    """Unit tokens on the coordinate axes, d/K axes for each group, and their memberships."""
    x = torch.eye(d).repeat_interleave(repeats, 0)                         # (N, d)
    return x, torch.eye(K).repeat_interleave(repeats * d // K, 1)          # (K, N)

def my_maximum(x, Pi, eps2):
    d, K = x.shape[1], len(Pi)
    return torch.tensor(d / 2 * (math.log(1 + 1 / eps2) - math.log(1 + K / eps2) / K))

random_tokens = [(normalize(torch.randn(2 * d, d), dim=1), best_arrangement(d, K)[1], 0.1)
                 for d, K in ((3, 3), (6, 3), (6, 2), (12, 4)) for _ in range(50)]
check_below("2.17", reduction, my_maximum, "random unit tokens in four kinds of groups", draws=random_tokens, equal=(*best_arrangement(12, 3), 0.05))
def maximum_of(d, K, eps2):
    return my_maximum(*best_arrangement(d, K), eps2)

agree(maximum_of, rates.max_rate_reduction, 6, 3, 0.1)

# %% [markdown]
# ## 2.7 A step that cannot overshoot
#
# To get there we climb: take a step along $\nabla\Delta R$, put the tokens back on the sphere, repeat. How long may the step be? A long step is
# safe if the gradient changes slowly. How fast it changes is a matter of *curvature*, the eigenvalues of the second derivatives. They lie
# between $-\frac{9c}{8n}$ and $\frac{9c}{8n}$, for all tokens and all memberships ([proof](#The-curvature)). One over that is the step:
#
# $$
# \Delta R(Z) \le \Delta R(Z^+), \qquad z_j^+ = \frac{y_j}{\|y_j\|}, \quad [y_1 \dots y_n] = Z + \tau\,\nabla\Delta R(Z), \quad \tau = \frac{8n}{9c} \tag{2.20}
# $$
#
# *(2.20) Checked. Step along the gradient, renormalise: the rate reduction never falls — this series · `rates.safe_ascent_step`*
#
# *Why.* With that curvature ΔR lies above a parabola that touches it at $Z$:
# $\Delta R(Z) + \langle \nabla\Delta R, Y - Z\rangle - \frac{1}{2\tau}\|Y - Z\|^2$. Among unit tokens $Y$ the parabola is largest at the
# point nearest to $Z + \tau\nabla\Delta R$, and that is just the normalised step. $Z$ itself is a unit point, so the parabola's maximum is
# at least its value at $Z$, which is $\Delta R(Z)$. The step never goes down, although the sphere is not a convex set.
#
# Lesson 5 uses the mirror image of this argument to prove a step size for TSSA.
#
# **Exercise 2c.** Write one step of the climb.

# %%
def my_climb_step(x, Pi, eps2, step):
    """Unit tokens (N, d) after one step of length `step` along the gradient (rates.rate_reduction_grad), (N, d)."""
    return ...  # your turn


climb_step = mine("2c", my_climb_step, rates.ascent_step)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_climb_step(x, Pi, eps2, step):
#     y = x + step * rates.rate_reduction_grad(x, Pi, eps2)
#     return y / y.norm(dim=1, keepdim=True)
# ```
#
# Up the hill, so plus. Then each *row* is divided by its own length: `dim=1` is the axis of coordinates.
#
# </details>

# %%
def climb(x, Pi, eps2, steps, factor=1.0):
    """Every position (steps + 1, N, d) of a climb with `factor` times the safe step."""
    step, path = factor * rates.safe_ascent_step(*x.shape, eps2), [x]
    for _ in range(steps):
        path.append(climb_step(path[-1], Pi, eps2, step))
    return torch.stack(path)

# %% tags=["hide-input"]
# check of (2.20): the step never goes down, and it is one over the largest curvature; equality at the top, and in the extreme case of (2.19)
def curvatures(f, x):
    """Eigenvalues of the second derivatives of f at x, smallest first."""
    H = torch.autograd.functional.hessian(f, x)                            # (*x.shape, *x.shape)
    return torch.linalg.eigvalsh(H.reshape(x.numel(), x.numel()))

def smooth_rate(S, c):
    """½ logdet(I + cS): unlike a sum over eigenvalues it has second derivatives where eigenvalues are equal."""
    return 0.5 * torch.logdet(torch.eye(S.shape[-1]) + c * S)              # (…)

def smooth_reduction(x, Pi, eps2):
    c, share = x.shape[1] / eps2, Pi.sum(1) / len(x)
    return smooth_rate(x.T @ x / len(x), c) - (share * smooth_rate(rates.second_moment(x, Pi), c)).sum()

def safe_step(N, d, eps2):
    return 8 * N / (9 * (d / eps2))                                        # 8n/(9c)

def before(x, Pi, eps2):
    bend = curvatures(lambda x: smooth_reduction(x, Pi, eps2), x).abs().max()
    return torch.stack([reduction(x, Pi, eps2), safe_step(*x.shape, eps2) * bend, smooth_reduction(x, Pi, eps2)])

def after(x, Pi, eps2):
    higher = reduction(climb_step(x, Pi, eps2, safe_step(*x.shape, eps2)), Pi, eps2)
    return torch.stack([higher, torch.tensor(1.0), reduction(x, Pi, eps2)])  # and ΔR is ΔR, however it is computed

MANY = 1e12                                                                # zero tokens beside one with z² = 3ε²; d = 1, ε² = 1
lonely = lambda z: 0.5 * (torch.log1p(z ** 2 / MANY) - torch.log1p(z ** 2) / MANY)    # its ΔR
extreme = slope(slope(lonely))(torch.tensor(3.0).sqrt()).detach()
top = (*best_arrangement(6, 3), 0.1)
draws = [(normalize(torch.randn(8, 3), dim=1), random_memberships(3, 8, 3.0), e) for e in (0.01, 0.1, 1.0, 10.0) * 15]
check_below("2.20", torch.stack([before(*c) for c in draws]), torch.stack([after(*c) for c in draws]),
            "one safe step, 60 random starts and precisions; step × curvature ≤ 1",
            equal=(torch.stack([reduction(*top), safe_step(MANY, 1, 1.0) * extreme, smooth_reduction(*top)]), after(*top)))
agree(safe_step, rates.safe_ascent_step, 180, 3, 0.1)

# %% [markdown]
# ## 2.8 Watch it happen
#
# Three groups of 60 tokens, thrown at random on the sphere in three dimensions, all mixed up. The only information that goes
# in is who belongs to whom. 400 safe steps.
#
# **Predict:** what will the tokens look like at the end, and which of the two terms will have done the work, $R$ or $R_c$?
#
# <details><summary>Answer</summary>
#
# Each group ends on a line of its own (two clusters at opposite points of the sphere: $z$ and $-z$ have the same second
# moment), and the three lines are perpendicular. Random tokens already fill the sphere, so $R$ starts almost at its
# maximum; nearly all the gain is compression, the fall of $R_c$.
#
# </details>

# %%
labels = torch.arange(3).repeat_interleave(60)                             # (N,)
P = one_hot(labels).T.double()                                             # (K, N)
start = normalize(torch.randn(180, 3), dim=1)                              # (N, d)
path = climb(start, P, 0.1, steps=400)                                     # (401, N, d)
print(f"ΔR from {reduction(start, P, 0.1):.4f} to {reduction(path[-1], P, 0.1):.6f}, maximum {rates.max_rate_reduction(3, 3, 0.1):.6f}")

# %% tags=["hide-input"]
# figure: the tokens on the sphere, before and after
left, right = plots.row(2, three_d=[0, 1])
plots.sphere(start, labels, title="Before", ax=left)
fig = plots.sphere(path[-1], labels, title="After 400 steps: three lines", ax=right)
for k in range(3):
    right.plot(*torch.stack([-path[-1, 60 * k], path[-1, 60 * k]], 1), color=plots.COLORS[k])   # through the origin
spots = len(torch.unique((path[-1] * 1000).round(), dim=0))
show(fig, alt="Two spheres. Before: points of three colours scattered all over. After: only six spots are left, two opposite "
              "ones of each colour, at the ends of three perpendicular lines",
     digest=f"180 tokens stand on {spots} spots")

# %% [markdown]
# And a step that is too long? The bound leaves some room: twice the safe step still climbs to the top here. **Predict:** four times the safe
# step; the curve of ΔR becomes flat at 1.55, below the maximum. Have the tokens come to rest?
#
# <details><summary>Answer</summary>
#
# No. Look at the right panel: they jump by 4.4 (the root of the sum of squares over all tokens) in every step, and the next step takes
# them back. It is a *2-cycle*, and ΔR is the same at both ends. A flat curve is no proof of arrival; look at how far the
# tokens move.
#
# </details>

# %% tags=["hide-input"]
# figure: who did the work, what longer steps do to ΔR, and how far the tokens move in a step
best, factors = rates.max_rate_reduction(3, 3, 0.1), (1, 2, 4, 8)
paths = {f"{f} × safe": climb(start, P, 0.1, 200, factor=f) for f in factors}
value = {name: torch.stack([rates.rate_reduction(x, P, 0.1) for x in way]) for name, way in paths.items()}
moved = {name: (way[1:] - way[:-1]).flatten(1).norm(dim=1) for name, way in paths.items()}
terms = {"R": rates.coding_rate(path, 0.1), "R_c": torch.stack([compression_rate(x, P, 0.1) for x in path])}
left, middle, right = plots.row(3, width=4)
plots.lines(torch.arange(1, 402), terms | {"ΔR": terms["R"] - terms["R_c"]}, xscale="log", hlines={"maximum of ΔR": best},
            title="Climbing with the safe step", xlabel="iteration", ylabel="nats", ax=left)
plots.lines(torch.arange(1, 202), value, xscale="log", hlines={"maximum": best}, title="Longer steps: ΔR", xlabel="iteration",
            ylabel="ΔR in nats", ax=middle)
fig = plots.lines(torch.arange(1, 201), moved, xscale="log", title="Longer steps: do they arrive?", xlabel="iteration",
                  ylabel="how far all tokens move in a step", ax=right)
right.legend(fontsize=9, loc=(0.6, 0.6))
there, back = paths["4 × safe"][-1] - paths["4 × safe"][-2], paths["4 × safe"][-1] - paths["4 × safe"][-3]
show(fig, alt="Left: R stays nearly flat, R_c falls, and their difference rises to the dashed line of the maximum. Middle: the "
              "curves for one and two safe steps reach the line, that for four becomes flat below it, that for eight still lower. Right: the "
              "movement goes to zero for one and two safe steps and stays large for four and eight",
     digest="after 200 steps " + ", ".join(f"{name}: ΔR {v[-1]:.2f}, movement {moved[name][-1]:.2f}" for name, v in value.items())
            + f"; 4 × safe, the last step {there.norm():.2f}, the last two together {back.norm():.2f}")
gain = (terms["R_c"][0] - terms["R_c"][-1]) / (reduction(path[-1], P, 0.1) - reduction(start, P, 0.1))
print(f"share of the gain that is compression: {gain:.0%}")

# %% [markdown]
# Try it on the circle, with six tokens and the step as a slider. Press "climb" at 1 ×, then slide the step up and climb
# again. **Predict:** somewhere between 2 × and 4 × the tokens no longer come to rest; does the curve of ΔR say where?

# %% tags=["hide-input"]
# view: six tokens on the circle, and the step as a slider
live.climb(factor=1)

# %% [markdown]
# What you saw: up to twice the safe step (the theorem promises one) the groups come to rest at right angles. From about 2.5 × on the curve settles
# below its maximum while every token jumps to and fro between two places for ever.
#
# "Never down" is not "always to the top". If all groups start from *the same* tokens, their second moments
# are equal, ΔR is zero, and so is its gradient: the climb never leaves. A grain of noise is enough to escape.

# %% tags=["hide-input"]
# three identical groups, and the same with a grain of noise
clones = start[:60].repeat(3, 1)                                           # three copies of the first group
stuck = climb(clones, P, 0.1, steps=200)[-1]
freed = climb(normalize(clones + 1e-3 * torch.randn_like(clones), dim=1), P, 0.1, steps=200)[-1]
print(f"identical groups: ΔR = {reduction(stuck, P, 0.1).abs():.3f}; with a grain of noise: {reduction(freed, P, 0.1):.3f}")

# %% [markdown]
# The climb used the labels, and it moved free points. A network has neither: its tokens come from data and its memberships from the tokens.
# (With labels, ΔR can train a small network on [handwritten digits](#Handwritten-digits).) What MCR² has for us is its gradient. If the *depth* of a
# network is a sequence of gradient steps on such an objective, its layers can be read off from (2.8). Lesson 3 does that, and finds attention.
#
# ## Takeaways
#
# - $R_c$ prices each group with its own code; $\Delta R = R - R_c \ge 0$ is what knowing the groups saves. To say which group costs up to
#   $\ln K$ nats more. ΔR leaves that out, so $K$ is given, not found.
# - In the gradient the group sizes cancel: expand the whole, compress each group, every token with weight $1/n$.
# - Tokens must have a fixed length. Otherwise ΔR saturates, or grows without bound once a group spans less than the whole.
# - The best arrangement: orthogonal groups, each evenly spread over its dimensions; its ΔR is known in closed form.
# - A step of $8n/(9c)$ followed by renormalisation never lowers ΔR. A longer one may end in a cycle that looks like rest. From random
#   tokens the climb reached the maximum here; from identical groups it never moves.
#
# **Next:** [lesson 3](03_attention_is_compression.ipynb) turns one step of compression into attention.

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself.
#
# ### Soft memberships are never needed
#
# $$
# S = \sum_{k=1}^{K} \frac{n_k}{n}\, S_k \tag{2.4}
# $$
#
# *(2.4) Checked. The whole is the mixture of its groups — textbook statistics*
#
# That is what (2.5) rests on. For fixed tokens $R_c$ is, moreover, a concave function of $\Pi$: mixing two memberships never lowers the price.
#
# $$
# t\, R_c(Z, \Pi) + (1 - t)\, R_c(Z, \Pi') \le R_c\left(Z,\; t\,\Pi + (1 - t)\,\Pi'\right) \tag{2.6}
# $$
#
# *(2.6) Checked. R_c is concave in the memberships, so ΔR is convex in them — textbook convex analysis*
#
# *Why.* $n_k$ and $n_k S_k$ are linear in $\pi_k$, and $n_k \log\det(I + c\,(n_k S_k)/n_k)$ is the *perspective* of a concave
# function, which is concave again. A concave function on a product of simplices has its minimum at a corner, and the corners
# are the hard memberships. So some hard membership is always among the best.

# %%
x, soft = torch.randn(40, 5), random_memberships(3, 40)
share = soft.sum(1) / 40                                                   # (K,), n_k/n
check("2.4", torch.einsum("k,kde->de", share, rates.second_moment(x, soft)), x.T @ x / 40, "three soft groups, against all")
apart = lambda x, P, Q, t: t * compression_rate(x, P, 0.1) + (1 - t) * compression_rate(x, Q, 0.1)
mixed = lambda x, P, Q, t: compression_rate(x, t * P + (1 - t) * Q, 0.1)
pairs = [(torch.randn(10, 3), random_memberships(3, 10, 2.0), random_memberships(3, 10, 2.0), t) for t in torch.rand(200)]
check_below("2.6", apart, mixed, "mixed memberships, 200 pairs; equality for ten copies of one token",
            draws=pairs, equal=(pairs[0][0][:1].expand(10, 3), *pairs[0][1:3], 0.3))

# %% tags=["hide-input"]
# figure: ΔR while a growing share of one token is moved to the other group
def moved_share(token, share):
    return Pi + share * (1 - 2 * Pi) * one_hot(torch.tensor(token), 6)

shares = torch.linspace(0, 1, 41)
curves = {f"token {NAMES[j]}": torch.stack([reduction(six, moved_share(j, s), 0.1) for s in shares]) for j in (2, 5)}
show(plots.lines(shares, curves, title="Convex in the memberships", xlabel="share moved to the other group", ylabel="ΔR in nats"),
     alt="Two falling convex curves, highest at share zero",
     digest="; ".join(f"{name}: from {c[0]:.2f} over {c[20]:.2f} to {c[-1]:.2f} nats" for name, c in curves.items()))

# %% [markdown]
# What if a group has no members? Then $n_k = 0$ and it costs nothing: its term tends to zero with $n_k$, and the library returns
# that limit. What it refuses is memberships whose shares don't sum to one, because then (2.2) prices tokens that are not there.

# %%
with_empty = torch.cat([Pi, torch.zeros(1, 6)])                            # a third group without members
print("unchanged by an empty group:", torch.equal(rates.compression_rate(six, with_empty, 0.1), rates.compression_rate(six, Pi, 0.1)))
try:
    rates.compression_rate(six, Pi / 2, 0.1)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# **Exercise 2d.** Find the lowest $R_c$ that any **hard** membership in two groups can give, by trying all $2^n$ of them
# (64 for six tokens). `Pi` must have shape (2, N).

# %%
def answer_2d(x, eps2):
    return ...  # your turn: a number, the lowest compression rate


exercise("2d", answer_2d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_2d(x, eps2):
#     n = len(x)
#     best = math.inf
#     for number in range(2 ** n):
#         first = torch.tensor([float(number >> j & 1) for j in range(n)], dtype=x.dtype)
#         best = min(best, float(rates.compression_rate(x, torch.stack([first, 1 - first]), eps2)))
#     return best
# ```
#
# The digits of a number in base two run through all hard memberships. By (2.6) no soft membership in two groups is lower.
#
# </details>
#
# ### Two rates with similar names
#
# Lesson 3 has no memberships. It has $K$ frames $U_k$ and codes *every* token in *every* frame: $R^c(Z) = \sum_k R(U_k^\top Z)$, index above.
# Inside a frame a token has $p$ coordinates, so $p$ stands where $d$ stood. To compare the two, take the case that both are made for: the
# frames are orthogonal and together fill the space, and every token of group $k$ lies in frame $k$. Let $M_k$ be the $p \times p$ second
# moment of group $k$ in its own frame. In the frames of the others its tokens are zero tokens, so by (1.14) they only thin out the
# moment there, to $\frac{n_k}{n} M_k$:
#
# $$
# R_c = \frac12 \sum_{k=1}^{K} \frac{n_k}{n} \log\det\left(I + \frac{d}{\varepsilon^2} M_k\right), \qquad R^c = \frac12 \sum_{k=1}^{K} \log\det\left(I + \frac{p}{\varepsilon^2}\, \frac{n_k}{n} M_k\right) \tag{2.22}
# $$
#
# *(2.22) Checked. The share of the group stands before the logarithm in one, inside of it in the other — this series*
#
# $R_c$ pays for one code a token; $R^c$ pays for all $K$. With one noise for each coordinate ($d/\varepsilon^2$ in both) the second is
# the coding rate $R(Z)$ of all tokens: it knows the directions of the groups, not the members. What the two share is what they do to a
# token that sticks out of its frame: both gradients shrink it.

# %%
def both_rates(x, Pi, U, eps2):
    """The two sums of (2.22), and the second with d in place of p."""
    (N, d), p, share = x.shape, U.shape[2], Pi.sum(1) / len(x)
    M = torch.einsum("kdp,kde,keq->kpq", U, rates.second_moment(x, Pi), U) # (K, p, p)
    price = lambda c: 0.5 * torch.logdet(torch.eye(p) + c[:, None, None] * M)              # (K,)
    return torch.stack([(share * price(d / eps2 * torch.ones(len(Pi)))).sum(), price(p / eps2 * share).sum(), price(d / eps2 * share).sum()])

# %%
pressed, axes = six * Pi.T, torch.eye(2)[..., None]                        # each token on its group's axis; axes (K, d, 1)
planes, P6 = torch.block_diag(*[torch.randn(m, 2) for m in (4, 7, 9)]), torch.block_diag(*[torch.ones(1, m) for m in (4, 7, 9)])
cases = [(pressed, Pi, axes, 0.1), (planes, P6, torch.eye(6).view(3, 2, 6).mT, 0.3)]
library = [torch.stack([rates.compression_rate(x, P_, e), rates.subspace_rate(x, U, e), rates.coding_rate(x, e)]) for x, P_, U, e in cases]
check("2.22", torch.stack(library), torch.stack([both_rates(*case) for case in cases]), "six tokens on their axes; three groups in planes of six dimensions")
print(f"six tokens pressed onto their axes: R_c = {library[0][0]:.2f}, R^c = {library[0][1]:.2f}, R = {library[0][2]:.2f} nats")

# %% [markdown]
# ### The gradient of the compression rate
#
# $$
# \nabla R_c(Z) = \frac{c}{n} \sum_{k=1}^{K} \left(I + c\,S_k\right)^{-1} Z \operatorname{Diag}(\pi_k) \tag{2.7}
# $$
#
# *(2.7) Checked. Each token is multiplied by the matrices of its groups — Yu et al. 2020 · `rates.compression_rate_grad`*
#
# It is the second half of (2.8), and the half that the rest of the series lives on.

# %%
check("2.7", witnesses(lambda x: compression_rate(x, P7, 0.1), x7), torch.stack([rates.compression_rate_grad(x7, P7, 0.1)] * 2),
      "autograd and differences, three soft groups", tol=DIFFERENCES)

# %% [markdown]
# **Exercise 2e.** Write $\nabla R_c$ as a loop over the groups, without automatic differentiation. Watch the constant in front.

# %%
def answer_2e(x, Pi, eps2):
    return ...  # your turn: x is (N, d), Pi is (K, N), the gradient is (N, d)


exercise("2e", answer_2e)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_2e(x, Pi, eps2):
#     n, d = x.shape
#     c, total = d / eps2, 0
#     for share in Pi:
#         S_k = (share * x.T) @ x / share.sum()
#         total = total + c / n * share[:, None] * (x @ torch.linalg.inv(torch.eye(d, dtype=x.dtype) + c * S_k))
#     return total
# ```
#
# The weight $n_k/n$ of the group times the $c/n_k$ of its gradient leaves $c/n$ for every token.
#
# </details>
#
# ### How fast the reduction grows
#
# By (1.13) longer tokens are tokens seen more finely, so by (1.10) each rate grows like its rank times $\ln t$. With $Z_k$ the tokens of group $k$,
#
# $$
# \lim_{t \to \infty} \frac{\Delta R(tZ)}{\ln t} = \operatorname{rank} Z - \sum_{k=1}^{K} \frac{n_k}{n} \operatorname{rank} Z_k \tag{2.9}
# $$
#
# *(2.9) Checked. Growth of the rate reduction when tokens are scaled up, hard groups — this series*
#
# Groups that each span all that the tokens span together have slope zero: ΔR *saturates*. As soon as one group spans less, the slope is
# positive: ΔR *diverges*. The check takes groups of different size and rank, so that the weights count.

# %%
ranks = [torch.randn(10 * q, q) @ torch.randn(q, 4) for q in (1, 2, 3)]    # 10, 20, 30 tokens of rank 1, 2, 3 in four dimensions
mixed_ranks, P60 = torch.cat(ranks), torch.block_diag(*[torch.ones(1, 10 * q) for q in (1, 2, 3)])

def growth(x, Pi):
    return (rates.rate_reduction(1e5 * x, Pi, 0.1) - rates.rate_reduction(1e4 * x, Pi, 0.1)) / math.log(10)

# %%
def rank_gap(x, Pi):
    rank = torch.linalg.matrix_rank
    return rank(x) - sum(P.sum() / len(x) * rank(x[P > 0]) for P in Pi)

cases = [(filling, Pi3), (lying, Pi3), (mixed_ranks, P60)]
check("2.9", torch.stack([growth(*case) for case in cases]), torch.stack([rank_gap(*case) for case in cases]),
      "slope from t = 1e4 to 1e5, against ranks", tol=REACHED)

# %% [markdown]
# ### Proof of the best arrangement
#
# Unit tokens fix the traces, since $\operatorname{tr} z_jz_j^\top = \|z_j\|^2$. (Papers also use the weaker $\|Z_k\|_F^2 = n_k$,
# with $Z_k$ the tokens of group $k$.)
#
# $$
# \|z_j\| = 1 \;\text{ for all } j \quad\Longrightarrow\quad \operatorname{tr} S = \operatorname{tr} S_k = 1 \tag{2.10}
# $$
#
# *(2.10) Checked. Unit tokens have second moments of trace one, in whatever groups — Yu et al. 2020*

# %% tags=["hide-input"]
# check of (2.10): unit tokens in three soft groups
x = normalize(torch.randn(40, 5), dim=1)
moments = torch.cat([rates.second_moment(x)[None], rates.second_moment(x, random_memberships(3, 40))])
check("2.10", moments.diagonal(dim1=-2, dim2=-1).sum(-1), 1.0, "traces of the whole and of three soft groups")

# %% [markdown]
# First, groups should be *orthogonal* to each other: for given groups the whole is dearest then, while $R_c$ doesn't notice.
# With lesson 1's $\alpha = c/n$,
#
# $$
# R([Z_1 \dots Z_K]) \le \sum_{k=1}^{K} \frac12 \log\det\left(I + \alpha Z_k Z_k^\top\right) \tag{2.12}
# $$
#
# *(2.12) Checked. Same α on both sides; equality if tokens of different groups are orthogonal — Yu et al. 2020*

# %%
SIZES = [10, 20, 30]                                                       # three groups of different size, and 1, 2, 3 dimensions
def group_by_group(x, eps2):
    alpha = x.shape[1] / (len(x) * eps2)
    return sum(0.5 * torch.logdet(torch.eye(x.shape[1]) + alpha * g.T @ g) for g in x.split(SIZES))

blocks = torch.block_diag(*[normalize(torch.randn(m, q), dim=1) for m, q in zip(SIZES, (1, 2, 3))])    # (60, 6), orthogonal groups
check_below("2.12", rates.coding_rate, group_by_group, "three groups in six dimensions",
            draws=[(normalize(torch.randn(60, 6), dim=1), e) for e in (0.1, 2.0) * 100], equal=(blocks, 0.2))

# %% [markdown]
# With orthogonal groups ΔR falls apart into one function of one number at a time. Let $\sigma_{ki}$ be the singular values of
# $Z_k$ and $\alpha_k = d/(n_k\varepsilon^2)$ the group's own constant:
#
# $$
# \Delta R = \frac12 \sum_{k=1}^{K} \sum_{i} h_k(\sigma_{ki}^2), \qquad h_k(x) = \ln(1 + \alpha x) - \frac{n_k}{n} \ln(1 + \alpha_k x) \tag{2.13}
# $$
#
# *(2.13) Checked. For orthogonal groups the rate reduction is a sum over singular values — this series*
#
# $$
# h_k'(x) = \alpha \left[ \frac{1}{1 + \alpha x} - \frac{1}{1 + \alpha_k x} \right] \ge 0, \qquad h_k'(0) = 0 \tag{2.14}
# $$
#
# *(2.14) Checked. More energy in a direction never hurts, but the first bit of it brings nothing — this series*

# %%
sizes, eps2, n, d = torch.tensor(SIZES).double(), 0.2, 60, 6               # α = 1/2: a factor of 1 would hide
alpha, alpha_k = d / (n * eps2), d / (sizes * eps2)                        # (), (K,)

def h(x, k):
    return torch.log1p(alpha * x) - sizes[k] / n * torch.log1p(alpha_k[k] * x)

# %%
split = 0.5 * sum(h(torch.linalg.svdvals(g) ** 2, k).sum() for k, g in enumerate(blocks.split(SIZES)))
check("2.13", split, reduction(blocks, P60, eps2), "sum of h over singular values, three orthogonal groups")

# %%
x = torch.linspace(0, 20, 50)
formula = torch.stack([alpha * (1 / (1 + alpha * x) - 1 / (1 + a * x)) for a in alpha_k])
automatic = torch.stack([slope(lambda x: h(x, k))(x) for k in range(3)])
numeric = torch.stack([(h(x + 1e-5, k) - h(x - 1e-5, k)) / 2e-5 for k in range(3)])
check("2.14", torch.stack([formula.clamp_min(0)] * 2), torch.stack([automatic, numeric]), "autograd and differences", tol=DIFFERENCES)
print("never negative:", bool((formula >= 0).all()), "· zero at x = 0:", bool((formula[:, 0] == 0).all()))

# %% [markdown]
# The slope starts at zero, rises and falls again: $h_k$ is first convex, then concave. It changes over where the second
# derivative vanishes,
#
# $$
# x^\ast = \frac{1}{\sqrt{\alpha\,\alpha_k}} = \frac{\varepsilon^2}{d} \sqrt{n\, n_k} \tag{2.15}
# $$
#
# *(2.15) Checked. Below this point energy wants to be concentrated, above it wants to be spread — this series*
#
# A group has the energy $\|Z_k\|_F^2 = n_k$ to give to its $d_k$ directions. If the equal share $n_k/d_k$ lies in the concave
# part, no small shift of energy from one direction to another pays: where a function is concave, two unequal shares bring less on average than
# two equal ones. A *round* $d_k$-dimensional group is then a local maximum. If the equal share lies in the convex part, every such shift pays,
# and some directions had better be left empty. Which one it is depends on the precision:
#
# $$
# \frac{n_k}{d_k} > x^\ast \quad\Longleftrightarrow\quad \varepsilon^4 < \frac{n_k}{n} \cdot \frac{d^2}{d_k^2} \tag{2.16}
# $$
#
# *(2.16) Checked. Fine precision makes equal shares a local maximum: the condition of the theorem — Yu et al. 2020, derived by this series*

# %%
def bending_point(k):
    """Where h'' changes sign, by bisection on autograd's second derivative."""
    second = slope(slope(lambda x: h(x, k)))
    low, high = torch.tensor(0.0), torch.tensor(100.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if second(middle) > 0 else (low, middle)
    return low

# %%
check("2.15", torch.stack([bending_point(k) for k in range(3)]), eps2 / d * (n * sizes).sqrt(), "bisection on h'', against the formula")
d_k = torch.tensor([1.0, 2.0, 3.0])
tries = [(m, q, e) for m, q in zip(sizes, d_k) for e in (0.1, 0.5, 1.3, 1.5, 1.7, 1.8, 2.4, 2.5, 5.0)]
bend = [slope(slope(lambda x: torch.log1p(d / (n * e) * x) - m / n * torch.log1p(d / (m * e) * x)))(m / q) for m, q, e in tries]
check("2.16", [float(b < 0) for b in bend], [float(e ** 2 < m / n * d ** 2 / q ** 2) for m, q, e in tries],
      "sign of autograd's h'' at the equal share, three groups at nine precisions")

# %% [markdown]
# **Predict:** a group of 20 tokens may use two directions, at fine and at coarse precision. It gives the first direction a share
# of its energy, the second the rest. Where on the curve of ΔR is the maximum, each time?
#
# <details><summary>Answer</summary>
#
# At fine precision in the middle: equal shares. At coarse precision, where (2.16) fails, at the ends: all energy in one
# direction. In between both are peaks, and the ends overtake the middle *before* the middle turns into a dip: at
# $\varepsilon^2 = 1.5$ (2.16) still holds, and yet one direction is better than two.
#
# </details>

# %% tags=["hide-input"]
# figure: the reduction from one direction, and the sharing of energy between two
def h20(x, eps2):
    """h of a group of 20 among 60 tokens in six dimensions, at any precision."""
    return torch.log1p(d / (n * eps2) * x) - torch.log1p(d / (20 * eps2) * x) / 3

left, right = plots.row(2)
xs = torch.linspace(0, 20, 201)
plots.lines(xs, {"h": h20(xs, 1.0)}, vlines={"bending point (2.15)": math.sqrt(n * 20) / d, "equal share": 10.0}, ax=left,
            title="Reduction from one direction, ε² = 1", xlabel="energy x = σ²", ylabel="h(x) in nats")
share = torch.linspace(0, 1, 101)                                          # (2.16) asks for ε² below √(1/3)·6/2 = 1.73
gain = {f"ε² = {e2:g}": (h20(20 * share, e2) + h20(20 - 20 * share, e2)) / (2 * h20(torch.tensor(10.0), e2)) for e2 in (0.1, 1.0, 1.5, 4.0)}
fig = plots.lines(share, gain, title="Sharing energy between two", xlabel="share of the first direction",
                  ylabel="ΔR relative to equal shares", ax=right)
top_share = [share[(g - g.max()).abs().argmin()].item() for g in gain.values()]
show(fig, alt="Left: a curve that starts flat, bends up and then down, with the equal share to the right of the bending "
              "point. Right: for fine precision the curve peaks in the middle, for coarse precision at both ends; at 1.5 the "
              "middle is a small peak lower than the ends",
     digest="a best share " + ", ".join(f"{min(b, 1 - b):.1f} at {name}" for b, name in zip(top_share, gain)))

# %% [markdown]
# So (2.16) is what makes round groups stable; for them to be the best of all, the precision must be somewhat finer. (It can be:
# $h_k$ depends on $x/\varepsilon^2$ only, so at fine precision the equal share lies far out in the concave part.) The theorem lets the last
# singular value of a group be smaller. Blame $h_k'(0) = 0$: near zero a direction gains nothing.
#
# The climb agrees. In six dimensions three groups should end in three perpendicular planes, every second moment with the eigenvalues
# ½, ½ and four zeros. In the matrix of cosines between all pairs of tokens, zero means perpendicular.

# %% tags=["hide-input"]
# figure: cosines of all pairs of tokens after the climb, on lines (three dimensions) and in planes (six)
flat_groups = climb(normalize(torch.randn(180, 6), dim=1), P, 0.1, steps=400)[-1]
spectra = torch.linalg.eigvalsh(rates.second_moment(flat_groups, P)).flip(1).clamp_min(0)            # (K, d), largest first
left, middle, right = plots.row(3, width=4)
for ax, z, title in ((left, start, "Before"), (middle, path[-1], "After, d = 3: lines"), (right, flat_groups, "After, d = 6: planes")):
    fig = plots.heat((z @ z.T).abs(), title=title, xlabel="token", ylabel="token", unit="|cosine|", vmin=0, vmax=1, ax=ax)
across = (flat_groups @ flat_groups.T).abs()[P.T @ P == 0].max()
show(fig, alt="Three matrices of absolute cosines: unstructured before; three bright squares on a dark ground for lines; three mottled squares "
              "on a dark ground for planes",
     digest=f"planes: ΔR {reduction(flat_groups, P, 0.1):.4f} of {rates.max_rate_reduction(6, 3, 0.1):.4f}, across groups at most {across:.3f}, "
            "eigenvalues of S₁ " + ", ".join(f"{v:.2f}" for v in spectra[0]))

# %% [markdown]
# ### The curvature
#
# For the coding rate the second derivatives with respect to all entries of $Z$ can be bounded for every $Z$ at once, with
# lesson 1's $\alpha = c/n$:
#
# $$
# -\frac{\alpha}{8} \le \text{eigenvalues of } \nabla^2 R(Z) \le \alpha \tag{2.18}
# $$
#
# *(2.18) Checked. Curvature of the coding rate; both ends are reached — this series*
#
# *Why.* In the basis of the singular vectors of $Z$ the Hessian falls into blocks of size one and two with the eigenvalues
# $\alpha\,(1 \pm a_i a_j)/((1 + a_i^2)(1 + a_j^2))$, $\alpha\,(1 - a_i^2)/(1 + a_i^2)^2$ and $\alpha/(1 + a_i^2)$, where
# $a_i = \sqrt\alpha\,\sigma_i$. None exceeds $\alpha$, and the smallest value, $-\alpha/8$, comes at $a_i^2 = 3$.

# %%
def both_ends(x, eps2):
    return curvatures(lambda x: smooth_rate(x.T @ x / len(x), x.shape[1] / eps2), x)[[0, -1]] * torch.tensor([-1.0, 1.0])

limits = lambda x, eps2: x.shape[1] / (len(x) * eps2) * torch.tensor([1 / 8, 1.0])
inflated = torch.diag(torch.tensor([math.sqrt(3 * 0.2), 0.0]))             # α = 1/ε² = 5: a² = 3 and 0, both ends at once
check_below("2.18", both_ends, limits, "both ends, 28 Hessians", draws=[(torch.randn(5, 2) * 2.0 ** i, 0.5) for i in range(-4, 3) for _ in range(4)],
            equal=(inflated, 0.2))

# %% [markdown]
# A group is a coding rate in the variables $Z\operatorname{Diag}(\pi_k)^{1/2}$, so the same bound applies to it with the factor $\pi_{jk}$;
# the shares of a token sum to one, and the group sizes cancel as they did in the gradient. So $\nabla^2 R_c$ lies between $-\frac{c}{8n}$ and
# $\frac{c}{n}$, like $\nabla^2 R$, and the eigenvalues of their difference are at most the largest of the one minus the smallest of the other.
#
# $$
# -\frac{9c}{8n} \le \text{eigenvalues of } \nabla^2 \Delta R(Z) \le \frac{9c}{8n} \tag{2.19}
# $$
#
# *(2.19) Checked. Curvature of the rate reduction, for all tokens and memberships; the upper end is approached as n grows — this series*
#
# Equality needs a corner case: one token with $\|z\|^2 = 3\varepsilon^2$ in a group of its own, and a huge number of zero tokens in another one. The
# check looks at it with $d = 1$ and $n = 10^{12}$, in units of $c/n$. Only the upper end is reached. The lower end is what limits the step,
# so a somewhat longer one may be safe as well; section 2.8 saw twice the step succeed, but this is not a proof.

# %%
cases = [(torch.randn(5, 2) * 2.0 ** i, random_memberships(2, 5)) for i in range(-4, 3) for _ in range(4)]
steepest = torch.stack([curvatures(lambda x: smooth_reduction(x, Q, 0.5), x).abs().max() for x, Q in cases])
check_below("2.19", steepest / (2 / 0.5 / 5), torch.full((28,), 9 / 8), "28 Hessians of ΔR, in units of c/n", equal=(extreme * MANY, 9 / 8))

# %% [markdown]
# ### Handwritten digits
#
# Now 1,797 real tokens: scikit-learn's handwritten digits, each an 8 × 8 image, a vector of 64 grey values. The groups are the
# ten digits. First without any learning: what does knowing the label save, compared with a label drawn from a hat?

# %%
from sklearn.datasets import load_digits

digits = load_digits()
order = torch.randperm(1797)
images, label = torch.tensor(digits.data)[order] / 16, torch.tensor(digits.target)[order]
train, test = slice(0, 1200), slice(1200, None)
member = one_hot(label, 10).T.double()                                     # (K, N)
pixels = normalize(images, dim=1)                                          # (N, 64), unit tokens

# %%
hat = member[:, torch.randperm(1797)]                                      # the labels, shuffled
for name, Q in (("true labels", member), ("shuffled labels", hat)):
    print(f"raw pixels, {name}: ΔR = {reduction(pixels, Q, 0.5):.2f} nats of R = {rates.coding_rate(pixels, 0.5):.2f}")

# %% [markdown]
# The true groups save a lot, random groups of the same size almost nothing: digits do lie in pieces of lower dimension. The names cost
# at most $\ln 10 = 2.3$ nats, so about two nats of the saving are left. Now let a small network move them. It maps each image to a unit vector in ten dimensions,
# and its only objective is to maximise ΔR of the training digits, with the labels as hard memberships. No cross-entropy, no classifier. We use Adam
# (the tokens are no longer free, so the safe step doesn't apply), and $\varepsilon^2 = 0.5$, as in the published code of MCR². Beware of lesson 1's
# trap: the features have $d = 10$ and $c = 20$, the pixels $d = 64$ and $c = 128$. So the numbers below must not be compared with those above, but
# with the raw pixels at the same $c = 20$, which the first line gives.

# %%
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
adam = torch.optim.Adam(net.parameters(), lr=1e-2)
features = lambda images: normalize(net(images), dim=1)
untrained = features(images).detach()                                      # (N, 10)

# %%
for _ in range(100):
    loss = -rates.rate_reduction(features(images[train]), member[:, train], 0.5)
    adam.zero_grad()
    loss.backward()
    adam.step()
trained = features(images).detach()                                        # (N, 10)

# %%
ceiling = rates.max_rate_reduction(10, 10, 0.5)
print(f"raw pixels at c = 20: ΔR = {reduction(pixels, member, 64 / 20):.2f} nats")
for name, part in (("training", train), ("test", test)):
    then, now = (reduction(z[part], member[:, part], 0.5) for z in (untrained, trained))
    print(f"{name} digits: ΔR from {then:.1f} to {now:.1f} nats, closed-form maximum {ceiling:.1f}")

# %% tags=["hide-input"]
# figure: cosines of all pairs of test digits, before and after training
by_label = label[test].argsort()                                           # test digits, sorted for the picture
left, right = plots.row(2)
for ax, z, title in ((left, untrained, "Test digits, untrained"), (right, trained, "Test digits, after 100 steps")):
    z = z[test][by_label]
    fig = plots.heat((z @ z.T).abs(), title=title, xlabel="digit, sorted 0 … 9", ylabel="digit", unit="|cosine|", vmin=0, vmax=1, ax=ax)
same = label[test][by_label][:, None] == label[test][by_label]             # z holds the trained features now
show(fig, alt="Two matrices of absolute cosines between test digits: bright nearly everywhere before, and after training ten "
              "bright squares on the diagonal with a few stray lines",
     digest=f"mean |cosine| within a class {(z @ z.T).abs()[same].mean():.2f}, across classes {(z @ z.T).abs()[~same].mean():.2f}")

# %% [markdown]
# On digits that the network has never seen, ten nearly perpendicular lines. To read off a class, fit a subspace to the training digits of each
# class (the leading eigenvectors of $S_k$), and give a test digit to the subspace that holds most of its energy. Is this a good
# classifier? Compare with the same rule on raw pixels.

# %%
def nearest_subspace(z, width):
    U = torch.linalg.eigh(rates.second_moment(z[train], member[:, train]))[1][..., -width:]    # (K, d, p)
    energy = torch.einsum("nd,kdp->knp", z[test], U).square().sum(-1)      # (K, N)
    return (energy.argmax(0) == label[test]).double().mean().item()

for name, z, width in (("raw pixels, a line a class", pixels, 1), ("raw pixels, ten dimensions a class", pixels, 10),
                       ("learned features, a line a class", trained, 1)):
    print(f"{name}: {nearest_subspace(z, width):.0%} of the test digits right")

# %% [markdown]
# Judge for yourself. With one line for each class the learned features beat raw pixels clearly; with ten dimensions a class raw pixels do
# as well. MCR² compressed 64 dimensions to ten with one direction for each digit, as its optimum asks, and the training digits follow
# it more closely than the test digits do. It is a principle for arranging tokens, not a trick for accuracy.
#
# ## Sources
#
# - Y. Yu, K. H. R. Chan, C. You, C. Song, Y. Ma: *Learning Diverse and Discriminative Representations via the Principle of Maximal
#   Coding Rate Reduction*, NeurIPS 2020: MCR², its gradient and the theorem on its optimum.
# - Y. Ma, H. Derksen, W. Hong, J. Wright: *Segmentation of multivariate mixed data via lossy data coding and compression*,
#   IEEE TPAMI 29(9), 2007: one code against several, and the price of naming the group.
# - C. E. Shannon: *A Mathematical Theory of Communication*, 1948: entropy as the price of a name.
# - E. Alpaydin, C. Kaynak: *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998: the digits.
#
# [◀ previous](01_coding_rate.ipynb) · [contents](00_start_here.ipynb) · [next ▶](03_attention_is_compression.ipynb)
