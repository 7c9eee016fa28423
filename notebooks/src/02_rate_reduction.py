# %% [markdown]
# # Lesson 2 · Rate reduction (MCR²)
#
# [◀ previous](01_coding_rate.ipynb) · [contents](00_start_here.ipynb) · [next ▶](03_attention_is_compression.ipynb)
#
# Lesson 1 gave tokens a price, and hinted at a bargain: tokens of two kinds are cheaper to describe with two codes than with
# one. The bargain itself is now made the objective. Tokens whose groups are each compact, while the whole fills the space,
# gain the most. This is the *principle of maximal coding rate reduction*, MCR² for short. The lesson shows what its best
# arrangements look like, proves a step size with which gradient ascent cannot overshoot, and watches random
# points on a sphere fall into three perpendicular lines.
#
# **After this you can**
# - compute the rate of grouped tokens, R_c, with hard or soft memberships, and the rate reduction ΔR
# - say why ΔR is never negative, and why soft memberships can never beat the best hard ones
# - say why the tokens' length must be held fixed, with an example of what happens otherwise
# - derive the best arrangement and its ΔR in closed form, and reach it by gradient ascent with a proven step
# - train a small network on handwritten digits with ΔR as its only objective, and judge the result
#
# **Before this:** lesson 1 (the coding rate R, the second moment S, the constant c = d/ε²).
#
# **Time:** about 45 minutes to read, 16 seconds to run on two CPU cores.

# %%
import math

import torch
from torch.nn.functional import normalize

from tssa_lib import plots, rates
from kit import DIFFERENCES, LIMIT, agree, check, check_below, exercise, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
LN2 = math.log(2)

# %% [markdown]
# ## 2.1 The price of grouped tokens
#
# Our six tokens again: a, b, c near the first axis, d, e, f near the second. Suppose we know who belongs to whom. The
# knowledge is written as a matrix of *memberships* $\Pi$ with one row for each token and one column for each group; the entry
# $\pi_{jk}$ says which share of token $j$ belongs to group $k$, and each row sums to one. If every share is 0 or 1 the
# memberships are *hard*, otherwise *soft*. In code it is `Pi` of shape (K, N): one row a group, columns sum to one.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
NAMES = "abcdef"
Pi = torch.tensor([[1.0, 1, 1, 0, 0, 0],
                   [0.0, 0, 0, 1, 1, 1]])                                  # (K, N)

# %% [markdown]
# Each group gets what lesson 1 gave to all tokens together: a size and a second moment. With soft memberships a token counts in
# each group with its share.
#
# $$
# n_k = \sum_{j=1}^{n} \pi_{jk}, \qquad S_k = \frac{1}{n_k} \sum_{j=1}^{n} \pi_{jk}\, z_j z_j^\top = \frac{1}{n_k} Z \operatorname{Diag}(\pi_k) Z^\top \tag{2.1}
# $$
#
# *(2.1) Definition. Size and second moment of group k — Yu et al. 2020 · `rates.second_moment`*
#
# Now code each group with a code made for it. A token of group $k$ costs $\frac12\log\det(I + cS_k)$ nats, and a share
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

# %%
def my_rate(x, eps2):
    n, d = x.shape
    return 0.5 * torch.logdet(torch.eye(d) + d / (n * eps2) * x.T @ x)     # ()

def my_compression_rate(x, Pi, eps2):
    n, d = x.shape
    total = 0.0
    for share in Pi:                                                       # (N,), one group at a time
        S_k = (share * x.T) @ x / share.sum()                              # (d, d)
        total = total + 0.5 * share.sum() / n * torch.logdet(torch.eye(d) + d / eps2 * S_k)
    return total

# %%
def my_reduction(x, Pi, eps2):
    return my_rate(x, eps2) - my_compression_rate(x, Pi, eps2)

soft = torch.rand(3, 40).softmax(0)                                        # (K, N), softmax over the groups
agree(my_compression_rate, rates.compression_rate, torch.randn(40, 5), soft, 0.1)
agree(my_reduction, rates.rate_reduction, torch.randn(40, 5), soft, 0.1)
R, R_c = my_rate(six, 0.1), my_compression_rate(six, Pi, 0.1)
print(f"R = {R:.3f}, R_c = {R_c:.3f}, ΔR = {R - R_c:.3f} nats = {(R - R_c) / LN2:.2f} bits a token")

# %%
S_k = rates.second_moment(six, Pi)                                         # (K, d, d)
area = S_k.det().sqrt() / rates.second_moment(six).det().sqrt()
show(plots.points(six, Pi.argmax(0), names=NAMES, title="One code, or one for each group",
                  ellipses={"S, all six": rates.second_moment(six), "S₁": S_k[0], "S₂": S_k[1]}),
     alt="The six labelled tokens with three ellipses around the origin: a round one for all six, a flat horizontal one for "
         "a, b, c and a narrow vertical one for d, e, f",
     digest=f"area of the group ellipses {area[0]:.2f} and {area[1]:.2f} of the area of the ellipse of all six")

# %% [markdown]
# What if a group has no members? Then $n_k = 0$ and it costs nothing: its term tends to zero with $n_k$. The library returns
# that limit. What it refuses is memberships whose shares don't sum to one, because then (2.2) prices tokens that are not there.

# %%
with_empty = torch.cat([Pi, torch.zeros(1, 6)])                            # a third group without members
print("unchanged by an empty group:", torch.equal(rates.compression_rate(six, with_empty, 0.1), rates.compression_rate(six, Pi, 0.1)))
try:
    rates.compression_rate(six, Pi / 2, 0.1)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## 2.2 Knowing the groups never hurts
#
# Every token is shared out completely, so the group moments, weighted by size, add up to the moment of the whole:
#
# $$
# S = \sum_{k=1}^{K} \frac{n_k}{n}\, S_k \tag{2.4}
# $$
#
# *(2.4) Checked. The whole is the mixture of its groups — textbook statistics*
#
# And the log-determinant is concave (1.15): the price of a mixture is at least the mixture of the prices. Put the two together and
# the saving can't be negative, for any tokens and any memberships.
#
# $$
# R_c(Z, \Pi) \le R(Z) \tag{2.5}
# $$
#
# *(2.5) Checked. ΔR ≥ 0; equality if all groups have the same second moment — Yu et al. 2020*

# %%
x = torch.randn(40, 5)
share = soft.sum(1) / 40                                                   # (K,), n_k/n
check("2.4", torch.einsum("k,kde->de", share, rates.second_moment(x, soft)), x.T @ x / 40, "three soft groups, against all")

# %%
draws = [(torch.randn(12, 3), (3 * torch.randn(4, 12)).softmax(0)) for _ in range(300)]    # softmax over the groups
uniform = torch.full((3, 6), 1 / 3)                                        # everybody a third everywhere
check_below("2.5", torch.stack([rates.compression_rate(z, P, 0.1) for z, P in draws]),
            torch.stack([my_rate(z, 0.1) for z, _ in draws]), "R_c ≤ R, random tokens and memberships",
            equal=(rates.compression_rate(six, uniform, 0.1), my_rate(six, 0.1)))

# %% [markdown]
# ## 2.3 Soft memberships are never needed
#
# Networks work with soft memberships because they have gradients. Do they also give a better objective? No. For fixed tokens
# $R_c$ is a concave function of $\Pi$: mixing two memberships never lowers the price.
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
x = torch.randn(10, 3)
P, P2 = ((2 * torch.randn(200, 3, 10)).softmax(-2) for _ in range(2))      # softmax over the groups
t = torch.rand(200)
rate_in = lambda Pi, x: rates.compression_rate(x.expand(len(Pi), -1, -1), Pi, 0.1)
mixture = t[:, None, None] * P + (1 - t)[:, None, None] * P2
apart, mixed = (lambda x: t * rate_in(P, x) + (1 - t) * rate_in(P2, x)), (lambda x: rate_in(mixture, x))
check_below("2.6", apart(x), mixed(x), "mixed memberships, 200 pairs; equality for ten copies of one token",
            equal=(apart(x[:1].expand(10, 3)), mixed(x[:1].expand(10, 3))))

# %% [markdown]
# **Exercise 2.1.** Find the lowest $R_c$ that any **hard** membership in two groups can give, by trying all $2^n$ of them
# (64 for six tokens). `Pi` must have shape (2, N).

# %%
def answer_2_1(x, eps2):
    return ...  # your turn: a number, the lowest compression rate


exercise("2.1", answer_2_1)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_2_1(x, eps2):
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

# %% [markdown]
# ## 2.4 The gradient
#
# To improve an arrangement of tokens we need the gradient of both terms with respect to $Z$, the memberships held fixed. That of
# $R$ is (1.16). For group $k$ the same computation gives $(n_k/n) \cdot (c/n_k) (I + cS_k)^{-1} Z \operatorname{Diag}(\pi_k)$,
# and the size of the group cancels: every token has the same weight, $1/n$, in a large group or a small one.
#
# $$
# \nabla R_c(Z) = \frac{c}{n} \sum_{k=1}^{K} \left(I + c\,S_k\right)^{-1} Z \operatorname{Diag}(\pi_k) \tag{2.7}
# $$
#
# *(2.7) Checked. Each token is multiplied by the matrices of its groups — Yu et al. 2020 · `rates.compression_rate_grad`*
#
# $$
# \nabla \Delta R(Z) = \frac{c}{n} \left[ \left(I + c\,S\right)^{-1} Z - \sum_{k=1}^{K} \left(I + c\,S_k\right)^{-1} Z \operatorname{Diag}(\pi_k) \right] \tag{2.8}
# $$
#
# *(2.8) Checked. Expand the whole, compress each group — Yu et al. 2020 · `rates.rate_reduction_grad`*

# %%
def differences(f, x, h=1e-5):
    """∂f/∂x, entry by entry, from values of f alone."""
    nudges = h * torch.eye(x.numel()).view(-1, *x.shape)                   # (x.numel(), N, d)
    return torch.stack([(f(x + e) - f(x - e)) / (2 * h) for e in nudges]).view_as(x)

# %%
def slope(f):
    """The gradient of f as a function, by automatic differentiation; slope(slope(f)) is the second derivative."""
    def gradient(x):
        x = x if x.requires_grad else x.clone().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
    return gradient

# %%
x, P = torch.randn(7, 4), torch.randn(3, 7).softmax(0)                     # softmax over the groups
def witnesses(f):
    value = lambda x: f(x, P, 0.1)
    return torch.stack([slope(value)(x), differences(value, x)])           # (2, N, d)

compress, reduce = rates.compression_rate_grad(x, P, 0.1), rates.rate_reduction_grad(x, P, 0.1)
check("2.7", torch.stack([compress] * 2), witnesses(my_compression_rate), "autograd and differences", tol=DIFFERENCES)
check("2.8", torch.stack([reduce] * 2), witnesses(my_reduction), "autograd and differences", tol=DIFFERENCES)

# %% [markdown]
# Read (2.8) as two forces on a token. The first is the same matrix for everybody and pushes outward, most in the directions
# where *all* tokens are thin. The second pulls inward, most in the directions in which the token's *own group* is thin. Across its group's
# main axis the pull wins clearly. Along the axis both are weak and the push is the stronger one, if the groups are orthogonal by a factor
# of about $n/n_k$: the token grows along it. Section 2.5 has to deal with that.
#
# **Exercise 2.2.** Write $\nabla R_c$ as a loop over the groups. Watch the constant in front.

# %%
def answer_2_2(x, Pi, eps2):
    return ...  # your turn: x is (N, d), Pi is (K, N), the gradient is (N, d)


exercise("2.2", answer_2_2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_2_2(x, Pi, eps2):
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

# %% [markdown]
# ## 2.5 Why the length of the tokens must be fixed
#
# Can we simply maximise ΔR? Scale all tokens by $t$. By (1.13) longer tokens are tokens seen more finely, so by (1.10) each rate grows like
# its rank times $\ln t$, and
#
# $$
# \lim_{t \to \infty} \frac{\Delta R(tZ)}{\ln t} = \operatorname{rank} Z - \sum_{k=1}^{K} \frac{n_k}{n} \operatorname{rank} Z_k \tag{2.9}
# $$
#
# *(2.9) Checked. Growth of the rate reduction when tokens are scaled up, hard groups — this series*
#
# where $Z_k$ holds the tokens of group $k$. Groups that each span all that the tokens span together have slope zero: ΔR *saturates*. As
# soon as one group spans less, the slope is positive: ΔR *diverges*. Once groups are flat in different directions, making tokens longer is
# a cheap way to score without arranging anything better.

# %%
Pi3 = torch.eye(3).repeat_interleave(20, 1)                                # (3, 60), hard, 20 tokens a group
filling = torch.randn(60, 3) * torch.cat([torch.rand(3, 1, 3) + 0.2] * 20, 1).flatten(0, 1)    # groups of rank 3
axes = normalize(torch.randn(3, 3), dim=1)                                 # three lines in general position
lying = torch.randn(60, 1) * axes.repeat_interleave(20, 0)                 # groups of rank 1

# %%
def growth(x):
    return (rates.rate_reduction(1e6 * x, Pi3, 0.1) - rates.rate_reduction(1e5 * x, Pi3, 0.1)) / math.log(10)

ranks = [torch.linalg.matrix_rank(x) - torch.stack([torch.linalg.matrix_rank(x[i:i + 20]) for i in (0, 20, 40)]).sum() / 3
         for x in (filling, lying)]
check("2.9", torch.stack([growth(filling), growth(lying)]), torch.stack(ranks), "slope from t = 1e5 to 1e6, against ranks", tol=LIMIT)

# %% [markdown]
# **Predict:** in the left picture, a growing share of token c (or f) is moved to the other group; in the right picture all tokens
# are scaled up. What shape do the curves have?
#
# <details><summary>Answer</summary>
#
# Left: by (2.6) they are convex, so their maximum is at an end: the right group. Right: by (2.9) one curve levels off and the
# other rises by the same amount, $2 \ln 10 = 4.6$ nats, in every decade.
#
# </details>

# %%
def moved(token, share):
    return Pi + share * torch.stack([1 - 2 * Pi[0], 1 - 2 * Pi[1]]) * torch.nn.functional.one_hot(torch.tensor(token), 6)

shares, t = torch.linspace(0, 1, 41), torch.logspace(-1, 4, 40)
left, right = plots.row(2)
curves = {f"token {NAMES[j]}": torch.stack([rates.rate_reduction(six, moved(j, s), 0.1) for s in shares]) for j in (2, 5)}
plots.lines(shares, curves, title="Convex in the memberships", xlabel="share moved to the other group", ylabel="ΔR in nats", ax=left)
scaled = {name: torch.stack([rates.rate_reduction(a * x, Pi3, 0.1) for a in t]) for name, x in
          {"groups fill the space": filling, "groups are lines": lying}.items()}
fig = plots.lines(t, scaled, xscale="log", title="Longer tokens, more reduction?", xlabel="scale t", ylabel="ΔR in nats", ax=right)
show(fig, alt="Left: two falling convex curves, highest at share zero. Right: over a logarithmic axis one curve levels off "
              "below half a nat, the other rises in a straight line",
     digest=f"at scale 10000: {scaled['groups fill the space'][-1]:.2f} and {scaled['groups are lines'][-1]:.1f} nats")

# %% [markdown]
# The usual cure is to put every token on the unit sphere. (Papers also use the weaker $\|Z_k\|_F^2 = n_k$; normalisation layers
# have a similar effect inside networks.) From here on:
#
# $$
# \|z_j\| = 1 \quad \text{for all } j, \qquad \text{so that} \quad \operatorname{tr} S = \operatorname{tr} S_k = 1 \tag{2.10}
# $$
#
# *(2.10) Definition. The constraint: unit tokens — Yu et al. 2020*

# %% [markdown]
# ## 2.6 The best arrangement
#
# How large can ΔR become on the sphere? Two short arguments bound the two terms. The trace of $S$ is 1, and for a given trace a
# sum of concave logarithms is largest if all eigenvalues are equal, $1/d$. For $S_k$, whose trace is 1 as well, it is smallest if
# one eigenvalue has everything, because $\prod_i (1 + c\lambda_i) \ge 1 + c\sum_i \lambda_i$.
#
# $$
# R(Z) \le \frac{d}{2} \ln\left(1 + \frac{1}{\varepsilon^2}\right), \qquad R_c(Z, \Pi) \ge \frac12 \ln\left(1 + \frac{d}{\varepsilon^2}\right) \tag{2.11}
# $$
#
# *(2.11) Checked. The whole as round as possible, each group a line: no unit tokens do better — this series*
#
# With as many groups as dimensions, all of one size, both sides can be had at once: put each group on an axis of its own.

# %%
def ends(x, Pi, eps2=0.1):
    d = x.shape[1]
    pairs = [(my_rate(x, eps2), d / 2 * math.log(1 + 1 / eps2)), (0.5 * math.log(1 + d / eps2), my_compression_rate(x, Pi, eps2))]
    return torch.tensor(pairs).T                                           # (2, 2): smaller sides, larger sides

# %%
draws = [ends(normalize(torch.randn(12, 3), dim=1), (3 * torch.randn(4, 12)).softmax(0)) for _ in range(300)]    # softmax over groups
smaller, larger = torch.stack(draws, 1)
on_axes = torch.eye(3).repeat_interleave(4, 0)                             # (12, 3), four tokens on each axis
check_below("2.11", smaller, larger, "both bounds, random unit tokens", equal=tuple(ends(on_axes, on_axes.T)))

# %% [markdown]
# With fewer groups than dimensions, groups may be planes or larger, and it is not obvious how wide each should be. First, groups
# should be *orthogonal* to each other: for given groups the whole is dearest then, while $R_c$ doesn't notice.
#
# $$
# R([Z_1 \dots Z_K]) \le \sum_{k=1}^{K} \frac12 \log\det\left(I + \alpha Z_k Z_k^\top\right) \tag{2.12}
# $$
#
# *(2.12) Checked. Same α on both sides; equality if tokens of different groups are orthogonal — Yu et al. 2020*

# %%
def apart(x, alpha):
    return sum(0.5 * torch.logdet(torch.eye(x.shape[1]) + alpha * g.T @ g) for g in x.split(20))

# %%
draws = [normalize(torch.randn(60, 6), dim=1) for _ in range(200)]
blocks = torch.block_diag(*[normalize(torch.randn(20, 2), dim=1) for _ in range(3)])    # (60, 6), three orthogonal planes
check_below("2.12", torch.stack([my_rate(x, 0.1) for x in draws]), torch.stack([apart(x, 6 / (60 * 0.1)) for x in draws]),
            "three groups in six dimensions", equal=(my_rate(blocks, 0.1), apart(blocks, 6 / (60 * 0.1))))

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
sizes, eps2 = torch.tensor([10.0, 20.0, 30.0]), 0.1                        # three groups of different size, d = 6
n, d = 60, 6
alpha, alpha_k = d / (n * eps2), d / (sizes * eps2)                        # (), (K,)

def h(x, k):
    return torch.log1p(alpha * x) - sizes[k] / n * torch.log1p(alpha_k[k] * x)

# %%
groups = [normalize(torch.randn(int(m), 2), dim=1) for m in sizes]
x, P = torch.block_diag(*groups), torch.block_diag(*[torch.ones(1, int(m)) for m in sizes])
split = 0.5 * sum(h(torch.linalg.svdvals(g) ** 2, k).sum() for k, g in enumerate(groups))
check("2.13", split, my_reduction(x, P, eps2), "sum of h over singular values, three orthogonal groups")

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
# part, no small shift of energy from one direction to another pays (Jensen again): a *round* $d_k$-dimensional group is a local
# maximum. If it lies in the convex part, every such shift pays, and some directions had better be left empty. Which one it is
# depends on the precision:
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
found = torch.stack([bending_point(k) for k in range(3)])
check("2.15", eps2 / d * (n * sizes).sqrt(), found, "formula, against bisection on h''")
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

# %%
def h20(x, eps2):
    """h of a group of 20 among 60 tokens in six dimensions, at any precision."""
    return torch.log1p(d / (n * eps2) * x) - torch.log1p(d / (20 * eps2) * x) / 3

# %%
left, right = plots.row(2)
xs = torch.linspace(0, 20, 201)
plots.lines(xs, {"h": h20(xs, 1.0)}, vlines={"bending point (2.15)": math.sqrt(n * 20) / d, "equal share": 10.0}, ax=left,
            title="Reduction from one direction, ε² = 1", xlabel="energy x = σ²", ylabel="h(x) in nats")
share = torch.linspace(0, 1, 101)                                          # (2.16) asks for ε² below √(1/3)·6/2 = 1.73
gain = {f"ε² = {e2:g}": (h20(20 * share, e2) + h20(20 - 20 * share, e2)) / (2 * h20(torch.tensor(10.0), e2)) for e2 in (0.1, 1.0, 1.5, 4.0)}
fig = plots.lines(share, gain, title="Sharing energy between two", xlabel="share of the first direction",
                  ylabel="ΔR relative to equal shares", ax=right)
best = [share[(g - g.max()).abs().argmin()].item() for g in gain.values()]
show(fig, alt="Left: a curve that starts flat, bends up and then down, with the equal share to the right of the bending "
              "point. Right: for fine precision the curve peaks in the middle, for coarse precision at both ends; at 1.5 the "
              "middle is a small peak lower than the ends",
     digest="a best share " + ", ".join(f"{min(b, 1 - b):.1f} at {name}" for b, name in zip(best, gain)))

# %% [markdown]
# So (2.16) is what makes round groups stable; for them to be the best of all, the precision must be somewhat finer. (It can be:
# $h_k$ depends on $x/\varepsilon^2$ only, so at fine precision the equal share lies far out in the concave part.)
#
# That is the theorem of Yu et al. (2020): for fine enough precision and groups of at most $d_k$ dimensions with
# $\sum_k d_k \le d$, the groups of the best arrangement are mutually orthogonal, each uses $d_k$ dimensions, and the energy is
# spread evenly over them. (The theorem lets the last singular value of a group be smaller. Blame $h_k'(0) = 0$: near zero a direction
# gains nothing.) In the balanced case, $K$ equal groups of $d/K$ dimensions each, all of this can be put into one formula:
#
# $$
# \Delta R_{\max} = \frac{d}{2} \left[ \ln\left(1 + \frac{1}{\varepsilon^2}\right) - \frac{1}{K} \ln\left(1 + \frac{K}{\varepsilon^2}\right) \right] \tag{2.17}
# $$
#
# *(2.17) Checked. The largest rate reduction of K balanced groups of unit tokens, at fine precision (at any for K = d) — this series, from Yu et al. 2020 · `rates.max_rate_reduction`*

# %%
def best_arrangement(d, K, repeats=2):
    """Unit tokens on the coordinate axes, d/K axes for each group, and their memberships."""
    x = torch.eye(d).repeat_interleave(repeats, 0)                         # (N, d)
    return x, torch.eye(K).repeat_interleave(repeats * d // K, 1)          # (K, N)

def my_maximum(d, K, eps2):
    return d / 2 * (math.log(1 + 1 / eps2) - math.log(1 + K / eps2) / K)

# %%
cases = [(3, 3), (6, 3), (6, 2), (12, 4)]
reached = torch.stack([my_reduction(*best_arrangement(d, K), 0.1) for d, K in cases])
closed = torch.tensor([my_maximum(d, K, 0.1) for d, K in cases])
others = [my_reduction(normalize(torch.randn(2 * d, d), dim=1), best_arrangement(d, K)[1], 0.1) for d, K in cases for _ in range(50)]
check_below("2.17", torch.stack(others), closed.repeat_interleave(50), "random unit tokens; equality for orthogonal round groups",
            equal=(reached, closed))
agree(my_maximum, rates.max_rate_reduction, 6, 3, 0.1)

# %% [markdown]
# **Exercise 2.3.** Three balanced groups of unit tokens in six dimensions, $\varepsilon^2 = 0.1$. What is the largest rate
# reduction in nats, and what do the groups look like? Enter the number.

# %%
answer_2_3 = ...  # your turn: a number, in nats
exercise("2.3", answer_2_3)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_2_3 = 3 * (math.log(11) - math.log(31) / 3)
# ```
#
# $d/2 = 3$, $1/\varepsilon^2 = 10$ and $K/\varepsilon^2 = 30$: $3\,[\ln 11 - \frac13 \ln 31] = 3.7597$ nats. Each group is
# spread evenly over a plane, and the three planes are perpendicular to each other.
#
# </details>

# %% [markdown]
# ## 2.7 A step that cannot overshoot
#
# To get there we climb: take a step along $\nabla\Delta R$, put the tokens back on the sphere, repeat. How long may the step be?
# Long steps are safe if the gradient changes slowly, and how fast it changes is a matter of *curvature*, the eigenvalues of the Hessian
# (second derivatives with respect to all entries of $Z$). For the coding rate they can be bounded for every $Z$ at once:
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
def curvatures(f, x):
    m = x.numel()
    H = torch.autograd.functional.hessian(f, x)                            # (*x.shape, *x.shape)
    return torch.linalg.eigvalsh(H.reshape(m, m))                          # (m,), smallest first

# %%
draws = [torch.randn(5, 2) * 2.0 ** i for i in range(-4, 3) for _ in range(4)]
ends = torch.stack([curvatures(lambda x: my_rate(x, 0.5), x)[[0, -1]] for x in draws])     # (28, 2)
alpha = 2 / (5 * 0.5)
valley, inflated = torch.tensor([[0.0]]), torch.tensor([[math.sqrt(3.0)]])  # one token, d = 1, ε² = 1: α = 1
check_below("2.18", torch.stack([-ends[:, 0], ends[:, 1]]), torch.tensor([[alpha / 8], [alpha]]).expand(2, 28), "both ends, 28 Hessians",
            equal=(torch.stack([-curvatures(lambda x: my_rate(x, 1.0), inflated)[0], curvatures(lambda x: my_rate(x, 1.0), valley)[0]]),
                   torch.tensor([1 / 8, 1.0])))

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
# check looks at it with $d = 1$ and $n = 10^{12}$, in units of $c/n$.

# %%
shares = [torch.randn(2, 5).softmax(0) for _ in draws]                     # softmax over the groups
ends = torch.stack([curvatures(lambda x: my_reduction(x, P, 0.5), x)[[0, -1]] for x, P in zip(draws, shares)])
many = 1e12                                                                # tokens; d = 1, ε² = 1, so c = 1
lonely = lambda z: 0.5 * (torch.log1p(z ** 2 / many) - torch.log1p(z ** 2) / many)
curvature = slope(slope(lonely))(torch.tensor(math.sqrt(3.0)))
check_below("2.19", (ends / (2 / 0.5 / 5)).abs(), torch.full_like(ends, 9 / 8), "28 Hessians of ΔR, in units of c/n",
            equal=(curvature * many, 9 / 8))

# %% [markdown]
# Now the step. With curvature at least $-\frac{9c}{8n}$, the function lies above the parabola
# $\Delta R(Z) + \langle \nabla\Delta R, Y - Z\rangle - \frac{1}{2\tau}\|Y - Z\|^2$ for every $Y$, if $\tau \le \frac{8n}{9c}$. On the set of unit tokens
# the parabola is largest at the point nearest to $Z + \tau\nabla\Delta R$, and that is just the normalised step. Since $Z$ itself
# is a unit point, the parabola's maximum is at least its value at $Z$, which is $\Delta R(Z)$. So the step never goes down, although the sphere is not a
# convex set.
#
# $$
# \Delta R(Z) \le \Delta R(Z^+), \qquad z_j^+ = \frac{y_j}{\|y_j\|}, \quad [y_1 \dots y_n] = Z + \tau\,\nabla\Delta R(Z), \quad \tau = \frac{8n}{9c} \tag{2.20}
# $$
#
# *(2.20) Checked. Step along the gradient, renormalise: the rate reduction never falls — this series · `rates.safe_ascent_step`*
#
# The argument (find a simple function below the true one, climb that) is called *minorisation–maximisation*. Lesson 5 uses its mirror
# image to prove a step size for TSSA.

# %%
def my_step(N, d, eps2):
    return 1 / (9 * (d / eps2) / (8 * N))                                  # one over the curvature (2.19)

agree(my_step, rates.safe_ascent_step, 180, 3, 0.1)

# %%
def climb(x, Pi, eps2, steps=1, factor=1.0):
    """Ascent on the sphere. Returns the tokens and the history of R and R_c, (steps + 1, 2)."""
    step, history = factor * rates.safe_ascent_step(*x.shape, eps2), []
    for _ in range(steps):
        history.append((rates.coding_rate(x, eps2), rates.compression_rate(x, Pi, eps2)))
        x = normalize(x + step * rates.rate_reduction_grad(x, Pi, eps2), dim=1)            # (N, d)
    history.append((rates.coding_rate(x, eps2), rates.compression_rate(x, Pi, eps2)))
    return x, torch.tensor(history)

# %%
draws = []
for e2 in (0.01, 0.1, 1.0, 10.0) * 30:
    x, P = normalize(torch.randn(12, 3), dim=1), (3 * torch.randn(3, 12)).softmax(0)       # softmax over the groups
    draws.append(torch.stack([my_reduction(x, P, e2), my_reduction(climb(x, P, e2)[0], P, e2)]))
before, after = torch.stack(draws, 1)
x, P = best_arrangement(6, 3)
check_below("2.20", before, after, "one safe step, 120 random starts and precisions",
            equal=(my_reduction(x, P, 0.1), my_reduction(climb(x, P, 0.1)[0], P, 0.1)))

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
K, d, m, eps2 = 3, 3, 60, 0.1
labels = torch.arange(K).repeat_interleave(m)                              # (N,)
P = torch.eye(K).repeat_interleave(m, 1)                                   # (K, N)
start = normalize(torch.randn(K * m, d), dim=1)                            # (N, d)
end, history = climb(start, P, eps2, steps=400)
reduction, best = history[:, 0] - history[:, 1], rates.max_rate_reduction(d, K, eps2)
print(f"ΔR from {reduction[0]:.4f} to {reduction[-1]:.6f}, closed-form maximum {best:.6f}")
print(f"step {rates.safe_ascent_step(K * m, d, eps2):.2f}, never down: {bool((reduction.diff() > -1e-12).all())}")

# %%
left, right = plots.row(2, three_d=[0, 1])
plots.sphere(start, labels, title="Before", ax=left)
fig = plots.sphere(end, labels, title="After 400 steps", ax=right)
spots = len(torch.unique((end * 1000).round(), dim=0))
show(fig, alt="Two spheres. Before: points of three colours scattered all over. After: only six spots are left, two opposite "
              "ones of each colour, along three perpendicular lines",
     digest=f"180 tokens stand on {spots} spots")

# %% [markdown]
# The curves show who did the work. And what does a step that is too long do? The bound (2.20) leaves some room: twice the
# safe step still climbs. Four times does not.

# %%
left, right = plots.row(2, width=5)
iteration = torch.arange(1, 402)
plots.lines(iteration, {"R": history[:, 0], "R_c": history[:, 1], "ΔR": reduction}, hlines={"maximum of ΔR": best}, xscale="log",
            title="Climbing with the safe step", xlabel="iteration", ylabel="nats", ax=left)
runs = {f"{f} × safe": (lambda h: h[:, 0] - h[:, 1])(climb(start, P, eps2, steps=200, factor=f)[1]) for f in (1, 2, 4, 8, 16)}
fig = plots.lines(iteration[:201], runs, hlines={"maximum": best}, xscale="log", title="Longer steps", xlabel="iteration",
                  ylabel="ΔR in nats", ax=right)
show(fig, alt="Left: R stays nearly flat, R_c falls, and their difference rises to the dashed line of the maximum. Right: the "
              "curves for one and two safe steps reach the line, those for four, eight and sixteen jump up and down below it",
     digest="after 200 steps " + ", ".join(f"{name}: {r[-1] / best:.0%}" for name, r in list(runs.items())[:2])
            + " of the maximum; longer steps reach it: " + str([bool(r[-1] > 0.95 * best) for r in list(runs.values())[2:]]))

# %%
print(f"99.9 % of the maximum after {int((reduction > 0.999 * best).nonzero()[0])} safe steps")
print(f"share of the gain due to compression: {(history[0, 1] - history[-1, 1]) / (reduction[-1] - reduction[0]):.0%}")

# %% [markdown]
# A third way to look at it: the matrix of cosines between all pairs of tokens. Zero means perpendicular, one means the same
# line. Sorted by group, it goes from noise to a block diagonal.

# %%
left, right = plots.row(2)
plots.heat((start @ start.T).abs(), title="Before", xlabel="token", ylabel="token", unit="|cosine|", vmin=0, vmax=1, ax=left)
fig = plots.heat((end @ end.T).abs(), title="After", xlabel="token", ylabel="token", unit="|cosine|", vmin=0, vmax=1, ax=right)
same = P.T @ P > 0                                                         # (N, N), pairs of one group
show(fig, alt="Two matrices of absolute cosines: unstructured before, and after three bright squares along the diagonal on a "
              "dark ground",
     digest=f"within groups at least {(end @ end.T).abs()[same].min():.3f}, across groups at most {(end @ end.T).abs()[~same].max():.3f}")

# %% [markdown]
# With more dimensions than groups the theorem promises planes, evenly filled. The same climb in six dimensions, three groups:
# every second moment should end with the eigenvalues ½, ½ and four zeros.

# %%
planes, trace = climb(normalize(torch.randn(K * m, 6), dim=1), P, eps2, steps=400)
spectra = torch.linalg.eigvalsh(rates.second_moment(planes, P)).flip(1)    # (K, d), largest first
print(f"ΔR = {trace[-1, 0] - trace[-1, 1]:.6f}, closed-form maximum {rates.max_rate_reduction(6, K, eps2):.6f}")
print("eigenvalues of S₁, S₂, S₃:", [[abs(round(v, 2)) for v in row] for row in spectra.tolist()])

# %% [markdown]
# One honest limit. "Never down" is not "always to the top". If all groups start from *the same* tokens, their second moments
# are equal, ΔR is zero, and so is its gradient: the climb never leaves. A grain of noise is enough to escape.

# %%
clones = start[:m].repeat(3, 1)                                            # three copies of the first group
stuck = climb(clones, P, eps2, steps=200)[1][-1]
freed = climb(normalize(clones + 1e-3 * torch.randn_like(clones), dim=1), P, eps2, steps=200)[1][-1]
print(f"identical groups: ΔR = {(stuck[0] - stuck[1]).abs():.3f} after 200 steps; with a grain of noise: {freed[0] - freed[1]:.3f}")

# %% [markdown]
# ## 2.9 The same objective on handwritten digits
#
# Now 1,797 real tokens: scikit-learn's handwritten digits, each an 8 × 8 image, a vector of 64 grey values. The groups are the
# ten digits. First without any learning: what does knowing the label save, compared with a label drawn from a hat?

# %%
from sklearn.datasets import load_digits

digits = load_digits()
order = torch.randperm(1797)
images, label = torch.tensor(digits.data)[order] / 16, torch.tensor(digits.target)[order]
train, test = slice(0, 1200), slice(1200, None)
member = torch.nn.functional.one_hot(label, 10).T.double()                 # (K, N)
pixels = normalize(images, dim=1)                                          # (N, 64), unit tokens

# %%
hat = member[:, torch.randperm(1797)]                                      # the labels, shuffled
for name, P in (("true labels", member), ("shuffled labels", hat)):
    print(f"raw pixels, {name}: ΔR = {rates.rate_reduction(pixels, P, 0.5):.2f} nats of R = {rates.coding_rate(pixels, 0.5):.2f}")

# %% [markdown]
# The true groups save a lot, random groups of the same size almost nothing: digits do lie in pieces of lower dimension. Now let a small
# network move them. It maps each image to a unit vector in ten dimensions, and its only objective is to maximise ΔR of the training
# digits, with the labels as hard memberships. No cross-entropy, no classifier. We use Adam (the tokens are no longer free, so the safe step
# doesn't apply), and $\varepsilon^2 = 0.5$, as in the published code of MCR². Beware of lesson 1's trap: the features have $d = 10$ and $c
# = 20$, the pixels $d = 64$ and $c = 128$. So the numbers below must not be compared with those above, but with the raw pixels at the same
# $c = 20$, which the first line gives.

# %%
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
adam = torch.optim.Adam(net.parameters(), lr=1e-2)
features = lambda images: normalize(net(images), dim=1)
before = features(images).detach()                                         # (N, 10)
for _ in range(100):
    loss = -rates.rate_reduction(features(images[train]), member[:, train], 0.5)
    adam.zero_grad(), loss.backward(), adam.step()
after = features(images).detach()                                          # (N, 10)

# %%
ceiling = rates.max_rate_reduction(10, 10, 0.5)
print(f"raw pixels at c = 20: ΔR = {rates.rate_reduction(pixels, member, 64 / 20):.2f} nats")
for name, part in (("training", train), ("test", test)):
    then, now = (rates.rate_reduction(z[part], member[:, part], 0.5) for z in (before, after))
    print(f"{name} digits: ΔR from {then:.1f} to {now:.1f} nats, closed-form maximum {ceiling:.1f}")

# %%
by_label = label[test].argsort()                                           # test digits, sorted for the picture
left, right = plots.row(2)
for ax, z, title in ((left, before, "Test digits, untrained"), (right, after, "Test digits, after 100 steps")):
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
                       ("learned features, a line a class", after, 1)):
    print(f"{name}: {nearest_subspace(z, width):.0%} of the test digits right")

# %% [markdown]
# Judge for yourself. With one line for each class the learned features beat raw pixels clearly; with ten dimensions a class raw pixels do a
# little better still. MCR² compressed 64 dimensions to ten with one direction for each digit, as its optimum asks, and the training digits follow it more closely than the test
# digits do. It is a principle for arranging tokens, not a trick for accuracy. What it has for us is a gradient: if the *depth* of a network is
# a sequence of gradient steps on such an objective, then the layers can be read off from (2.8). The next lesson does that, and finds attention.

# %% [markdown]
# ## Takeaways
#
# - $R_c$ prices each group with its own code; $\Delta R = R - R_c \ge 0$ is what knowing the groups saves.
# - $R_c$ is concave in $\Pi$, so hard memberships are never beaten; soft ones are there to have gradients.
# - In the gradient the group sizes cancel: expand the whole, compress each group, every token with weight $1/n$.
# - Tokens must have a fixed length. Otherwise ΔR saturates, or grows without bound once a group spans less than the whole.
# - The best arrangement: orthogonal groups, each evenly spread over its dimensions; its ΔR is known in closed form.
# - A step of $8n/(9c)$ followed by renormalisation never lowers ΔR. From random tokens on the sphere it reached the maximum here; from
#   identical groups it never moves.
#
# ## Sources
#
# - Y. Yu, K. H. R. Chan, C. You, C. Song, Y. Ma: *Learning Diverse and Discriminative Representations via the Principle of Maximal
#   Coding Rate Reduction*, NeurIPS 2020: MCR², its gradient and the theorem on its optimum.
# - Y. Ma, H. Derksen, W. Hong, J. Wright: *Segmentation of multivariate mixed data via lossy data coding and compression*,
#   IEEE TPAMI 29(9), 2007: one code against several.
# - E. Alpaydin, C. Kaynak: *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998: the digits.
#
# [◀ previous](01_coding_rate.ipynb) · [contents](00_start_here.ipynb) · [next ▶](03_attention_is_compression.ipynb)
