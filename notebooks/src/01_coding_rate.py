# %% [markdown]
# # Lesson 1 · The coding rate
#
# [◀ previous](00_start_here.ipynb) · [contents](00_start_here.ipynb) · [next ▶](02_rate_reduction.ipynb)
#
# A Transformer layer moves tokens. Towards what? This series gives an answer that can be written down and
# differentiated: towards a cheaper description. The price of a description is the *coding rate*, the number
# of bits it takes to say where a token is, up to a chosen precision. Tokens that fill the space are expensive,
# tokens that stay near a line are cheap. Everything later in the series (attention, the TSSA layer, its step
# size) is a statement about this one number, so this lesson takes it apart.
#
# **After this you can**
# - derive the coding rate by counting balls, and read it in nats, in bits and as a number of distinguishable places
# - compute it by the cheaper of two determinants, and say what it does for ever finer or coarser precision
# - name the changes of the tokens that it ignores, and those that it notices
# - use its gradient, and say what the gradient does to tokens in thin and in wide directions
# - say how far the coding rate is from the rate–distortion function of information theory
#
# **Before this:** matrices, eigenvalues, determinants, gradients. No information theory.
#
# **Time:** about 40 minutes to read, 12 seconds to run on two CPU cores.

# %%
import math

import torch

from tssa_lib import photos, plots, rates
from kit import DIFFERENCES, LIMIT, agree, check, check_below, exercise, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
LN2 = math.log(2)

# %% [markdown]
# ## 1.1 Six tokens and their second moment
#
# A *token* is a vector: a patch of an image, a piece of a word, a cell of a feature map. Our running example
# is six tokens in the plane, small enough to check by eye. Tokens a, b, c lie near the first axis, tokens
# d, e, f near the second. In formulas the tokens are the columns of a matrix $Z = [z_1 \dots z_n]$ with
# $d$ rows; in code they are rows, as every deep learning library has them. Here $n = 6$ and $d = 2$.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
n, d = six.shape
NAMES = "abcdef"

# %% [markdown]
# How much room do they take? One number for each direction would do: take a unit vector $v$, look at the
# shadows $v^\top z_j$ of the tokens on it, and average their squares. All these averages are stored in one
# small matrix, the *second moment*.
#
# $$
# S = \frac{1}{n} \sum_{j=1}^{n} z_j z_j^\top = \frac{1}{n} Z Z^\top \tag{1.1}
# $$
#
# *(1.1) Definition. The second moment of the tokens, a d × d matrix — textbook statistics · `rates.second_moment`*
#
# $$
# v^\top S\, v = \frac{1}{n} \sum_{j=1}^{n} (v^\top z_j)^2 \tag{1.2}
# $$
#
# *(1.2) Checked. It holds the mean squared shadow of the tokens on every direction — textbook statistics*

# %%
def my_second_moment(x):
    return sum(torch.outer(z, z) for z in x) / len(x)                      # (d, d)

S = my_second_moment(six)
v = torch.nn.functional.normalize(torch.randn(50, d), dim=1)               # (50, d), fifty directions
check("1.2", torch.einsum("ad,de,ae->a", v, S, v), (six @ v.T).square().mean(0), "fifty directions, six tokens")
agree(my_second_moment, rates.second_moment, six)

# %% [markdown]
# Note what is *not* done: no mean is subtracted, so $S$ is not the covariance matrix. Distances are measured
# from the origin on purpose. The structures that this series looks for are subspaces (lines and planes
# through the origin), and a group of tokens on a line should look flat even if all sit on the same side of it.
#
# The picture draws $S$ as its *one-sigma ellipse* $\{x : x^\top S^{-1} x \le 1\}$: its half axes are the
# square roots of the eigenvalues of $S$, along the eigenvectors.

# %%
half_axes = torch.linalg.eigvalsh(S).sqrt()                                # (d,), smallest first
show(plots.points(six, [0, 0, 0, 1, 1, 1], names=NAMES, ellipses={"one-sigma ellipse of S": S},
                  title="Six tokens and their second moment"),
     alt="Six labelled points: a, b, c along the horizontal axis, d, e, f along the vertical axis, and an "
         "ellipse around the origin that is wider than it is high",
     digest=f"half axes of the ellipse {half_axes[1]:.3f} and {half_axes[0]:.3f}")

# %% [markdown]
# ## 1.2 Counting balls
#
# To describe a token exactly would take infinitely many digits, so we allow an error. Say that the received
# token may be off by a random amount with mean square $\varepsilon^2$ in total, $\varepsilon^2/d$ in each
# coordinate. Two places closer than that count as the same place: each place is the one-sigma
# ball of the error, of radius $\varepsilon/\sqrt{d}$. The question "how many bits does a token cost?" becomes "how many balls fit into the
# region where tokens live?". We need the volume of an ellipsoid for that.
#
# $$
# \frac{\operatorname{vol}\{x : x^\top S^{-1} x \le 1\}}{\operatorname{vol}\{x : x^\top x \le 1\}} = \sqrt{\det S} \tag{1.3}
# $$
#
# *(1.3) Checked. An ellipsoid has the volume of the unit ball times the root of a determinant — textbook geometry*
#
# The reason: the matrix $S^{1/2}$ maps the unit ball onto the ellipsoid, and a linear map multiplies volumes
# by its determinant. The check measures the area of a fine polygon in the ellipse and divides by the area π of the unit disc.

# %%
def polygon_area(corners):
    """Area inside a closed polygon (M, 2): the shoelace formula, corner by corner."""
    x, y = corners.T
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().abs()

# %%
angle = torch.linspace(0, 2 * math.pi, 100_001)[:-1]
circle = torch.stack([angle.cos(), angle.sin()], 1)                        # (M, 2)
lam, V = torch.linalg.eigh(S)
ellipse = (circle * lam.sqrt()) @ V.T                                      # points with xᵀS⁻¹x = 1
check("1.3", polygon_area(ellipse) / math.pi, S.det().sqrt(), "area of the six tokens' ellipse", tol=DIFFERENCES)

# %% [markdown]
# A received token is token plus error, so the ellipsoid of received tokens is slightly larger, that of $S + \frac{\varepsilon^2}{d} I$.
# Like the ball it is a one-sigma set: many tokens lie outside the ellipsoid, as many errors lie outside the ball. With two-sigma sets both
# volumes grow by the factor $2^d$, so their quotient is the same. Divide the volume of the ellipsoid by that of one ball. The factor that
# appears,
# $c = d/\varepsilon^2$, is the inverse of the error variance of one coordinate; it stays with us through
# the whole series.
#
# $$
# \text{number of balls} \approx \frac{\sqrt{\det\left(S + \frac{\varepsilon^2}{d} I\right)}}{\sqrt{\det\left(\frac{\varepsilon^2}{d} I\right)}} = \sqrt{\det\left(I + c\,S\right)}, \qquad c = \frac{d}{\varepsilon^2} \tag{1.4}
# $$
#
# *(1.4) Checked. Volume of the region divided by the volume of one ball — Ma et al. 2007*
#
# Volumes are one thing, counting is another. Let us count: lay a honeycomb whose cells have exactly the area of
# one ball, and count the cells whose centre falls inside the ellipse.

# %%
def count_balls(S, eps2):
    """Centres (M, 2) of the cells, each of the area of one ball, that lie in the ellipse of S + (ε²/d) I."""
    noisy = S + eps2 / 2 * torch.eye(2)                                    # (2, 2)
    height = math.sqrt(math.sqrt(3) / 2)                                   # rows of a honeycomb with cells of area 1
    ticks = torch.arange(-math.ceil(3 / eps2 ** 0.5), math.ceil(3 / eps2 ** 0.5) + 1.0)
    grid = torch.cartesian_prod(ticks, ticks) @ torch.tensor([[1 / height, 0], [0.5 / height, height]])
    grid = grid * math.sqrt(math.pi * eps2 / 2)                            # (M, 2), area of a cell π (ε/√2)²
    return grid[torch.einsum("md,de,me->m", grid, noisy.inverse(), grid) <= 1]

# %%
fine = torch.tensor([1e-3, 3e-4, 1e-4])
counted = torch.tensor([len(count_balls(S, e)) for e in fine.tolist()])
volume = torch.stack([(torch.eye(2) + 2 / e * S).det().sqrt() for e in fine])
quotient = torch.stack([((S + e / 2 * torch.eye(2)).det() / (e / 2 * torch.eye(2)).det()).sqrt() for e in (0.1, 1.0, 10.0)])
closed = torch.stack([(torch.eye(2) + 2 / e * S).det().sqrt() for e in (0.1, 1.0, 10.0)])     # the I matters at coarse precision
check("1.4", torch.cat([counted / volume, quotient / closed]), 1.0, "honeycomb cells counted and volumes divided", tol=LIMIT)

# %% [markdown]
# With coarse balls the count is rough (a ball is in or out); with fine ones it settles on the volume ratio.
# **Predict:** in two dimensions, if $\varepsilon$ is halved, how does the number of balls change?
#
# <details><summary>Answer</summary>
#
# Each ball has a quarter of the area, so about four times as many fit. In the picture $\varepsilon^2$ goes
# from 0.4 to 0.1, and the volume ratio from 5.5 to 19.0. The factor is 3.4 and not 4, because the ellipse of
# the received tokens shrinks a little as well.
#
# </details>

# %%
panels = plots.row(2)
for ax, eps2 in zip(panels, (0.4, 0.1)):
    noisy, balls = S + eps2 / 2 * torch.eye(2), (torch.eye(2) + 2 / eps2 * S).det().sqrt().item()
    fig = plots.points(six, ellipses={"received tokens": noisy}, discs=(count_balls(S, eps2), math.sqrt(eps2 / 2)), ax=ax,
                       title=f"ε² = {eps2}: room for {balls:.1f} balls")
ratios = [(torch.eye(2) + 2 / e * S).det().sqrt().item() for e in (0.4, 0.1)]
show(fig, alt="Two panels with the six tokens and their ellipse; on the left a few large discs fill the ellipse, on "
              "the right about three times as many small discs do",
     digest=f"volume ratios {ratios[0]:.2f} and {ratios[1]:.2f}")

# %% [markdown]
# ## 1.3 The coding rate
#
# To name one of $M$ places takes $\ln M$ *nats*, or $\log_2 M$ *bits*. Nats (natural logarithm) keep formulas
# clean, so they are our unit; dividing by $\ln 2 \approx 0.693$ gives bits, the number of yes/no questions.
# The logarithm of the number of balls is the coding rate.
#
# $$
# R(Z) = \frac12 \log\det\left(I + c\,S\right) = \frac12 \log\det\left(I + \alpha Z Z^\top\right), \qquad \alpha = \frac{d}{n\varepsilon^2} \tag{1.5}
# $$
#
# *(1.5) Definition. The coding rate of the tokens in nats, for precision ε — Ma et al. 2007 · `rates.coding_rate`*
#
# $$
# 2^{R / \ln 2} = e^{R} = \sqrt{\det\left(I + c\,S\right)} \tag{1.6}
# $$
#
# *(1.6) Checked. R nats are R/ln 2 bits, and both name the same number of balls — this series*

# %%
def my_coding_rate(x, eps2):
    n, d = x.shape
    alpha = d / (n * eps2)
    return 0.5 * torch.logdet(torch.eye(d) + alpha * x.T @ x)              # ()

R = my_coding_rate(six, 0.1)
check("1.6", 2 ** (R / LN2), (torch.eye(2) + 20 * S).det().sqrt(), "2 to the bits, against the volume ratio")
agree(my_coding_rate, rates.coding_rate, six, 0.1)
print(f"six tokens at ε² = 0.1: {R:.3f} nats = {R / LN2:.3f} bits = {math.exp(R):.1f} balls")

# %% [markdown]
# So at this precision one of our tokens costs a little more than four bits: four yes/no questions tell 16 places apart, and there are 19.
# It is the price of *one* token, on average; $n$ tokens cost $n$ times as much.
#
# The precision is our choice, like the resolution of a microscope. It decides which spread counts as structure
# and which as noise, and one value is kept throughout a comparison: here $\varepsilon^2 = 0.1$.
#
# **Exercise 1.1.** Two tokens are the columns of $Z = I_2$ and $\varepsilon^2 = \frac12$. What is the coding
# rate in **bits**? Work it out by hand first.

# %%
answer_1_1 = ...  # your turn: a number, in bits
exercise("1.1", answer_1_1)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_1_1 = 0.5 * math.log(9) / math.log(2)
# ```
#
# With $d = n = 2$ we have $\alpha = 2/(2 \cdot \frac12) = 2$, so $I + \alpha ZZ^\top = 3I$, its determinant is 9,
# and $R = \frac12 \ln 9 = \ln 3$ nats $= 1.585$ bits: room for three balls.
#
# </details>

# %% [markdown]
# ## 1.4 Two determinants, one number
#
# $ZZ^\top$ is $d \times d$, $Z^\top Z$ is $n \times n$; both have the same non-zero eigenvalues, the squared
# singular values $\sigma_i^2$ of $Z$. Eigenvalues that are zero contribute $\ln 1 = 0$. So the rate depends on
# the singular values only, and either matrix will do.
#
# $$
# R(Z) = \frac12 \sum_{i} \ln\left(1 + \alpha \sigma_i^2\right) \tag{1.7}
# $$
#
# *(1.7) Checked. The rate is a sum over the singular values of Z — Ma et al. 2007*
#
# $$
# \log\det\left(I_d + \alpha Z Z^\top\right) = \log\det\left(I_n + \alpha Z^\top Z\right) \tag{1.8}
# $$
#
# *(1.8) Checked. The d × d and the n × n determinant agree — Sylvester 1851*

# %%
def other_coding_rate(x, eps2):
    n, d = x.shape
    return 0.5 * torch.logdet(torch.eye(n) + d / (n * eps2) * x @ x.T)     # ()

draws = [torch.randn(n, d) for n, d in ((6, 2), (3, 7), (40, 5), (5, 5))]
alphas = [x.shape[1] / (len(x) * 0.1) for x in draws]
spectrum = [0.5 * torch.log1p(a * torch.linalg.svdvals(x) ** 2).sum() for a, x in zip(alphas, draws)]
small = torch.stack([my_coding_rate(x, 0.1) for x in draws])
check("1.7", torch.stack(spectrum), small, "singular values, against the determinant")
check("1.8", torch.stack([other_coding_rate(x, 0.1) for x in draws]), small, "n × n against d × d, four shapes")

# %% [markdown]
# Same number, different bill. Forming the matrix takes $n d^2$ multiplications one way and $n^2 d$ the other,
# and then comes a determinant of a $d \times d$ or an $n \times n$ matrix ($d^3/3$ against $n^3/3$). With the
# 400 tokens of width 128 that lesson 10 will meet inside a YOLO detector, the choice is plain. PyTorch's own
# counter of floating point operations says the same; it counts a multiplication and an addition as two.
#
# $$
# \frac{\text{cost of } Z^\top Z}{\text{cost of } Z Z^\top} = \frac{n^2 d}{n d^2} = \frac{n}{d} \tag{1.9}
# $$
#
# *(1.9) Checked. The d × d form is cheaper as soon as there are more tokens than dimensions — this series*

# %%
from torch.utils.flop_counter import FlopCounterMode

def cost(f, *inputs):
    with FlopCounterMode(display=False) as counter:
        f(*inputs)
    return counter.get_total_flops()

# %%
x = torch.randn(400, 128)
small, large = cost(lambda x: x.T @ x, x), cost(lambda x: x @ x.T, x)
check("1.9", large / small, 400 / 128, "operations counted by PyTorch, 400 tokens of width 128")
print(f"ZZᵀ {small / 2e6:.1f} million multiplications, ZᵀZ {large / 2e6:.1f} million")

# %% [markdown]
# The library takes the smaller matrix by itself and uses its eigenvalues with `log1p`, which stays accurate when
# $1 + \alpha\sigma_i^2$ is hardly more than one. It also takes batches: the same call that worked on six tokens works
# on a batch of feature maps, with the tokens in the last two axes.

# %%
batch = torch.randn(1, 400, 128)
print("one rate for each image of the batch:", tuple(rates.coding_rate(batch, 0.1).shape))
agree(my_coding_rate, rates.coding_rate, batch[0], 0.1)

# %% [markdown]
# ## 1.5 Finer and coarser precision
#
# What happens when the balls become very small? Every direction in which the tokens spread at all contributes
# $\ln(1/\varepsilon)$, so the rate grows like the *rank* (the number of directions used) times
# $\ln(1/\varepsilon)$. Write $m = \operatorname{rank} Z$:
#
# $$
# \lim_{\varepsilon \to 0} \left[ R(Z) - m \ln\frac{1}{\varepsilon} \right] = \frac12 \sum_{i=1}^{m} \ln\frac{d\,\sigma_i^2}{n} \tag{1.10}
# $$
#
# *(1.10) Checked. At fine precision the rate counts dimensions — this series*
#
# At the other end the balls are larger than everything, $\ln(1+x) \approx x$, and the rate becomes the energy
# $\|Z\|_F^2 = \sum_j \|z_j\|^2$ with a factor. Since $\ln(1+x) \le x$ always, the same expression is a bound
# for every precision:
#
# $$
# R(Z) \le \frac{\alpha}{2} \|Z\|_F^2 = \frac{d}{2 n \varepsilon^2} \|Z\|_F^2 \tag{1.11}
# $$
#
# *(1.11) Checked. At coarse precision the rate only sees energy; the ratio of the sides tends to one as ε grows — this series*

# %%
flat = six * torch.tensor([1.0, 0.0])                                      # every token moved onto the first axis
tiny, huge = 1e-8, 1e12
def left_over(x, m):
    return rates.coding_rate(x, tiny) + m / 2 * math.log(tiny)             # ln(1/ε) = −½ ln ε²

def limit(x, m):
    n, d = x.shape
    return 0.5 * (d * torch.linalg.svdvals(x)[:m] ** 2 / n).log().sum()

check("1.10", torch.stack([left_over(six, 2), left_over(flat, 1)]), torch.stack([limit(six, 2), limit(flat, 1)]),
      "rank two and rank one at ε² = 1e-8", tol=DIFFERENCES)

# %%
def energy_side(x, eps2):
    n, d = x.shape
    return d / (2 * n * eps2) * (x ** 2).sum()

draws = [torch.randn(9, 4) * 2 ** i for i in range(-3, 4)]
check_below("1.11", torch.stack([rates.coding_rate(x, 0.1) for x in draws]), torch.stack([energy_side(x, 0.1) for x in draws]),
            "R ≤ α‖Z‖²/2, seven scales", equal=(huge * rates.coding_rate(six, huge), huge * energy_side(six, huge)))

# %% [markdown]
# **Predict:** the picture shows the rate of our six tokens against $\varepsilon$, and that of the same tokens
# pressed onto the first axis. Which curve is steeper towards the left, and by what factor?
#
# <details><summary>Answer</summary>
#
# The six tokens span the plane (rank 2), the pressed ones a line (rank 1): the slope of the first curve is
# twice that of the second. Per decade of $\varepsilon$ it gains $2 \ln 10 = 4.6$ nats against $2.3$.
#
# </details>

# %%
eps = torch.logspace(-4, 1.5, 60)
curves = {name: torch.stack([rates.coding_rate(x, float(e) ** 2) for e in eps]) for name, x in
          {"six tokens (rank 2)": six, "pressed onto a line (rank 1)": flat}.items()}
bound = torch.stack([energy_side(six, float(e) ** 2) for e in eps])
seen = bound < 10
fig = plots.lines(eps, curves | {"bound (1.11) of the six": (eps[seen], bound[seen])}, xscale="log", ylabel="R in nats",
                  xlabel="precision ε", title="Rate against precision", vlines={"ε² = 0.1": math.sqrt(0.1)})
decade = [(rates.coding_rate(x, 1e-8) - rates.coding_rate(x, 1e-6)) / math.log(10) for x in (six, flat)]
show(fig, alt="Two curves fall from left to right over a logarithmic axis: the rank-two tokens twice as steeply as the "
              "rank-one tokens; both end near zero, where the dotted energy bound meets the upper one",
     digest=f"slope per factor e of 1/ε: {decade[0]:.2f} and {decade[1]:.2f}")

# %% [markdown]
# ## 1.6 What the rate ignores, and what it notices
#
# A good measure should not depend on how we happen to write the tokens down. Rotating all tokens ($Q$ orthogonal,
# from the left) leaves the singular values alone, and so does reordering or any other orthogonal mixing of the
# tokens ($Q'$ orthogonal, from the right).
#
# $$
# R(Q Z Q') = R(Z) \tag{1.12}
# $$
#
# *(1.12) Checked. Rotations of the space and permutations of the tokens change nothing — Ma et al. 2007*
#
# A change of units is a change of precision, nothing more:
#
# $$
# R(t Z;\, \varepsilon) = R\left(Z;\, \varepsilon / t\right) \tag{1.13}
# $$
#
# *(1.13) Checked. Tokens t times as long are tokens seen with t times finer precision — this series*

# %%
Q = torch.linalg.qr(torch.randn(2, 2))[0]
P = torch.eye(6)[torch.randperm(6)]                                        # a permutation
P2 = torch.linalg.qr(torch.randn(6, 6))[0]                                 # any orthogonal mixing
check("1.12", torch.stack([rates.coding_rate(p @ six @ Q.T, 0.1) for p in (P, P2)]), R, "rotated, permuted, mixed")

# %%
t = torch.tensor([0.1, 0.7, 3.0, 50.0])
check("1.13", torch.stack([rates.coding_rate(a * six, 0.1) for a in t]),
      torch.stack([rates.coding_rate(six, 0.1 / float(a) ** 2) for a in t]), "four scales")

# %% [markdown]
# The rate is a mean, so the number of tokens does not matter, only how they are distributed: writing every
# token twice changes nothing. Appending $n$ zero tokens, however, halves the second moment, which is the same
# as a coarser precision.
#
# $$
# R([Z, Z];\, \varepsilon) = R(Z;\, \varepsilon), \qquad R([Z, 0];\, \varepsilon) = R(Z;\, \sqrt2\, \varepsilon) \tag{1.14}
# $$
#
# *(1.14) Checked. Copies are free; as many zero tokens again double ε² — this series*

# %%
twice, padded = torch.cat([six, six]), torch.cat([six, torch.zeros_like(six)])
check("1.14", torch.stack([rates.coding_rate(twice, 0.1), rates.coding_rate(padded, 0.1)]),
      torch.stack([R, rates.coding_rate(six, 0.2)]), "six tokens copied, and padded with zero tokens")

# %% [markdown]
# **A trap.** Zero *tokens* are harmless once you know (1.14). Zero *coordinates* are not: $c = d/\varepsilon^2$
# contains the dimension, so the same six points written as vectors of length three get another rate, because the
# permitted error $\varepsilon^2$ is now spread over three coordinates. Papers differ here (some use the width of a
# head in place of $d$). Fix $c$ once in a comparison, and say which.

# %%
wide = torch.nn.functional.pad(six, (0, 1))                                # (6, 3), third coordinate zero
print(f"d = 2: {rates.coding_rate(six, 0.1):.3f} nats")
print(f"d = 3, same ε²: {rates.coding_rate(wide, 0.1):.3f} nats")
print(f"d = 3, same c:  {rates.coding_rate(wide, 0.15):.3f} nats")

# %% [markdown]
# **Exercise 1.2.** A set of $n$ tokens is padded with $m$ zero tokens (batches of sentences are). Write the
# $\varepsilon^2$ at which the *unpadded* set has the rate that the padded set has at `eps2`.

# %%
def answer_1_2(n, m, eps2):
    return ...  # your turn


exercise("1.2", answer_1_2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_1_2(n, m, eps2):
#     return eps2 * (n + m) / n
# ```
#
# Zero tokens add nothing to $ZZ^\top$ but raise the count from $n$ to $n + m$, so
# $\alpha = d/((n+m)\varepsilon^2)$; the same $\alpha$ comes from $n$ tokens at $\varepsilon^2 (n+m)/n$.
#
# </details>

# %% [markdown]
# ## 1.7 Mixing never saves
#
# Take two second moments $S_1$ and $S_2$ and mix them, a share $t$ of the first. The log-determinant is a *concave*
# function of the matrix: the rate of the mixture lies above the mixture of the rates.
#
# $$
# t\,\frac12 \log\det(I + c S_1) + (1-t)\,\frac12 \log\det(I + c S_2) \le \frac12 \log\det\left(I + c\,(t S_1 + (1-t) S_2)\right) \tag{1.15}
# $$
#
# *(1.15) Checked. The rate is concave in the second moment; equality for equal moments — textbook matrix analysis*
#
# Read it as a statement about codes. On the left, tokens of two kinds are coded by two codes, each made for its kind.
# On the right, one code serves all. One code for everything is never better, and the difference is what lesson 2
# calls the *rate reduction*.

# %%
def rate_of(S, c=20.0):
    return 0.5 * torch.logdet(torch.eye(S.shape[-1]) + c * S)              # (…)

A, B = (torch.stack([rates.second_moment(torch.randn(4, 3)) for _ in range(200)]) for _ in range(2))
t = torch.rand(200)
two_codes = lambda A, B: t * rate_of(A) + (1 - t) * rate_of(B)
one_code = lambda A, B: rate_of(t[:, None, None] * A + (1 - t)[:, None, None] * B)
check_below("1.15", two_codes(A, B), one_code(A, B), "two codes, against one for all",
            equal=(two_codes(A, A.clone()), one_code(A, A.clone())))

# %% [markdown]
# Concave in $S$ does not mean concave in $Z$. For a single number, $d = n = 1$, the rate is
# $\frac12\ln(1 + z^2/\varepsilon^2)$: a bowl near zero, flattening outside. Neither convex nor concave, so
# gradient steps on the tokens need care with their step size. Lesson 2 gives one that is safe.

# %%
left, right = plots.row(2)
A1, B1 = rates.second_moment(six[:3]), rates.second_moment(six[3:])
share = torch.linspace(0, 1, 41)
mixture = torch.stack([rate_of(t * A1 + (1 - t) * B1) for t in share])
plots.lines(share, {"one code for the mixture": mixture, "two codes": share * mixture[-1] + (1 - share) * mixture[0]},
            title="Concave in S", xlabel="share of a, b, c among the tokens", ylabel="nats", ax=left)
z = torch.linspace(-2, 2, 201)
one = 0.5 * torch.log1p(z ** 2 / 0.1)
fig = plots.lines(z, {"R": one}, title="Neither convex nor concave in Z", xlabel="the single token z", ylabel="R in nats", ax=right)
show(fig, alt="Left: an arch above a straight chord between the rates of the two groups. Right: a valley at zero whose "
              "sides bend outwards and flatten",
     digest=f"half and half: one code {mixture[20]:.3f} nats, two codes {(mixture[0] + mixture[-1]) / 2:.3f} nats")

# %% [markdown]
# ## 1.8 The gradient
#
# If a layer is to lower or raise the rate, it needs the direction in which the rate changes fastest. From
# $\mathrm{d} \log\det X = \operatorname{tr}(X^{-1} \mathrm{d}X)$ with $X = I + \alpha ZZ^\top$ one gets, after
# one line, the gradient with respect to all tokens at once:
#
# $$
# \nabla R(Z) = \alpha \left(I + \alpha Z Z^\top\right)^{-1} Z = \frac{c}{n} \left(I + c\,S\right)^{-1} Z \tag{1.16}
# $$
#
# *(1.16) Checked. The gradient of the coding rate — Ma et al. 2007 · `rates.coding_rate_grad`*
#
# An equation like this deserves two witnesses: automatic differentiation of (1.5), and central differences, which
# use values of $R$ only.

# %%
def my_gradient(x, eps2):
    n, d = x.shape
    c, S = d / eps2, x.T @ x / n
    return c / n * x @ torch.linalg.inv(torch.eye(d) + c * S)              # rows: (I + cS)⁻¹ z_j

def differences(f, x, h=1e-5):
    """∂f/∂x, entry by entry, from values of f alone."""
    nudges = h * torch.eye(x.numel()).view(-1, *x.shape)                   # (x.numel(), N, d)
    return torch.stack([(f(x + e) - f(x - e)) / (2 * h) for e in nudges]).view_as(x)

# %%
x = torch.randn(7, 4)
z = x.clone().requires_grad_()
(automatic,) = torch.autograd.grad(my_coding_rate(z, 0.1), z)
numeric = differences(lambda x: my_coding_rate(x, 0.1), x)
check("1.16", torch.stack([my_gradient(x, 0.1)] * 2), torch.stack([automatic, numeric]), "autograd and differences", tol=DIFFERENCES)
agree(my_gradient, rates.coding_rate_grad, x, 0.1)

# %% [markdown]
# **Predict:** a step along $+\nabla R$ makes the six tokens more expensive. Will it move token a (far out, along
# the wide direction) or token f (nearer, along the thin direction) more, in proportion to its length?
#
# <details><summary>Answer</summary>
#
# Token f. The matrix $(I + cS)^{-1}$ is the same for all tokens; along an eigenvector of $S$ with eigenvalue
# $\lambda_i$ it multiplies by $1/(1 + c\lambda_i)$. Wide directions (large $\lambda_i$) get a small factor, thin
# directions a large one. Raising the rate inflates thin directions first; lowering it flattens them first.
#
# </details>

# %%
G = my_gradient(six, 0.1)
fig = plots.points(six, [0, 0, 0, 1, 1, 1], names=NAMES, arrows=1.5 * G, ellipses={"S": S},
                   title="Uphill: 1.5 ∇R at each token")
growth = (G * six).sum(1) / (six ** 2).sum(1)                              # relative growth per unit step
show(fig, alt="The six tokens with arrows that all point away from the origin; the arrows on d, e, f are longer in "
              "proportion to the tokens' length than those on a, b, c",
     digest=f"relative growth of a {growth[0]:.3f}, of f {growth[5]:.3f} per unit of step")

# %% [markdown]
# This picture holds a preview of the whole series. The gradient multiplies every token by one matrix made of
# *statistics* of the tokens, the inverse of $I + cS$; no pair of tokens is ever compared. What TSSA does in lesson 5
# is the same with a diagonal matrix, one for each group.
#
# How fast does the rate grow when all tokens are scaled up together? By a number between 0 and the rank, which
# statisticians know as the *effective degrees of freedom* of ridge regression. Each direction counts fully if
# its spread is far above the noise, and not at all if it is far below.
#
# $$
# \frac{\partial}{\partial t} R(tZ)\Big|_{t=1} = \left\langle \nabla R(Z), Z \right\rangle = \sum_i \frac{\alpha\sigma_i^2}{1 + \alpha\sigma_i^2} \tag{1.17}
# $$
#
# *(1.17) Checked. Scaling up always costs: one unit for each direction above the noise — Hoerl and Kennard 1970 (the sum), this series (its reading)*
#
# $$
# \left\| \nabla R(Z) \right\|_2 \le \frac{\sqrt\alpha}{2} \tag{1.18}
# $$
#
# *(1.18) Checked. The gradient never explodes (largest singular value); equality where ασ² = 1 — this series*

# %%
scale = torch.tensor(1.0, requires_grad=True)
rates.coding_rate(scale * six, 0.1).backward()
a2 = 2 / (6 * 0.1) * torch.linalg.svdvals(six) ** 2                        # ασ², α = d/(nε²)
check("1.17", torch.stack([(G * six).sum(), scale.grad]), (a2 / (1 + a2)).sum(), "inner product and d/dt, against the sum")
print(f"effective dimensions of the six tokens at ε² = 0.1: {scale.grad:.2f} of 2")

# %%
draws = [torch.randn(8, 3) * 2.0 ** i for i in range(-6, 7)]
norms = torch.stack([torch.linalg.matrix_norm(rates.coding_rate_grad(x, 0.1), 2) for x in draws])
alpha = 3 / (8 * 0.1)
frame = torch.linalg.qr(torch.randn(8, 3))[0] / math.sqrt(alpha)           # all σ² = 1/α
check_below("1.18", norms, math.sqrt(alpha) / 2, "‖∇R‖₂ ≤ √α/2, thirteen scales",
            equal=(torch.linalg.matrix_norm(rates.coding_rate_grad(frame, 0.1), 2), math.sqrt(alpha) / 2))

# %% [markdown]
# **Exercise 1.3.** Write the derivative of $R(tZ)$ at $t = 1$ in closed form, for tokens in rows, without autograd.

# %%
def answer_1_3(x, eps2):
    return ...  # your turn: x is (N, d)


exercise("1.3", answer_1_3)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_1_3(x, eps2):
#     n, d = x.shape
#     a = d / (n * eps2) * torch.linalg.svdvals(x) ** 2
#     return (a / (1 + a)).sum()
# ```
#
# $R(tZ) = \frac12\sum_i\ln(1 + \alpha t^2\sigma_i^2)$; the derivative of the $i$-th term at $t = 1$ is
# $\frac12 \cdot 2\alpha\sigma_i^2/(1 + \alpha\sigma_i^2)$.
#
# </details>

# %% [markdown]
# ## 1.9 The rate–distortion reading, and its honest gap
#
# Information theory has its own answer to "how many nats for a token up to mean square error $\varepsilon^2$?": the
# *rate–distortion function*, the least that any code could need. Papers sometimes say that $R(Z)$ *is* that function
# for Gaussian tokens. It is not quite. What it is exactly: the *mutual information* between a Gaussian token and its noisy
# copy. Let $z$ be Gaussian with second moment $S$ and let $e$ be independent Gaussian noise of variance $\varepsilon^2/d$
# in each coordinate. With $H$ the (differential) entropy,
#
# $$
# R(Z) = H(z + e) - H(e) \tag{1.19}
# $$
#
# *(1.19) Checked. The rate is the information that a noisy copy carries about a Gaussian token — Cover and Thomas 2006*

# %%
from torch.distributions import MultivariateNormal

noise = 0.1 / 2 * torch.eye(2)
h_received = MultivariateNormal(torch.zeros(2), S + noise).entropy()
h_noise = MultivariateNormal(torch.zeros(2), noise).entropy()
check("1.19", h_received - h_noise, R, "entropies by torch.distributions, against R of the six tokens")

# %% [markdown]
# Adding noise of the same size to every coordinate is *a* code with mean square error $\varepsilon^2$, not the best one. The
# best code wastes nothing on directions with less variance than the error it may make. Shannon's recipe is called
# *reverse water-filling*: choose a level $a$; directions whose eigenvalue $\lambda_i$ is below it are not sent at all
# (error $\lambda_i$), the others are sent with error $a$; the level is such that the errors add up to $\varepsilon^2$.
#
# $$
# R_{\text{Shannon}}(\varepsilon^2) = \frac12 \sum_{i=1}^{d} \ln \frac{\lambda_i}{\min(a, \lambda_i)}, \qquad \sum_{i=1}^{d} \min(a, \lambda_i) = \varepsilon^2 \tag{1.20}
# $$
#
# *(1.20) Definition. The least rate of any code for Gaussian tokens; zero if ε² exceeds the total variance — Cover and Thomas 2006*

# %%
def shannon_rate(lam, eps2):
    """Reverse water-filling for eigenvalues lam (…, d): bisect the water level, then sum the rates."""
    low, high = torch.zeros_like(lam[..., :1]), lam.amax(-1, keepdim=True)
    for _ in range(100):
        a = (low + high) / 2                                               # (…, 1), the water level
        too_much = torch.minimum(a, lam).sum(-1, keepdim=True) > eps2
        low, high = torch.where(too_much, low, a), torch.where(too_much, a, high)
    return 0.5 * (lam / torch.minimum(high, lam)).log().sum(-1)

# %%
lam = torch.linalg.eigvalsh(S)
print(f"best code {shannon_rate(lam, 0.1):.3f} nats, coding rate {R:.3f} nats")

# %% [markdown]
# So $R$ pays something on top. How much, at worst? Half a bit for each dimension, whatever the tokens and the precision:
#
# $$
# R_{\text{Shannon}}(\varepsilon^2) \le R(Z) \le R_{\text{Shannon}}(\varepsilon^2) + \frac{d}{2} \ln 2 \tag{1.21}
# $$
#
# *(1.21) Checked. The coding rate is within half a bit a dimension of the best possible — this series*
#
# *Why.* The left side: no code beats the best. The right side: let $a_i = \min(a, \lambda_i)$ be the water-filling
# errors, with mean $\varepsilon^2/d$ (less if nothing need be sent). The gap is a sum over the dimensions of
# $\frac12 \ln\left(\frac{a_i}{\lambda_i} + \frac{a_i}{\varepsilon^2/d}\right)$. The first fraction is at most 1, the second
# has mean at most 1, so the bracket has mean at most 2; and because the logarithm is concave, the mean of the logarithms is at
# most the logarithm of the mean, $\ln 2$. The check takes 500 random spectra. The left side is tight for
# $\varepsilon \to 0$, the right side when every $\lambda_i = \varepsilon^2/d$: then nothing need be sent at all.

# %%
def gaussian_rate(lam, eps2):
    return 0.5 * torch.log1p(lam.shape[-1] / eps2 * lam).sum(-1)           # (1.5) from the eigenvalues of S

spectra = torch.exp(3 * torch.randn(500, 5))                               # over several powers of ten
best, ours, extra = shannon_rate(spectra, 0.1), gaussian_rate(spectra, 0.1), 5 / 2 * LN2
level = torch.full((5,), 0.1 / 5)                                          # every eigenvalue at the noise
check_below("1.21", torch.cat([best, ours]), torch.cat([ours, best + extra]), "both sides, 500 spectra",
            equal=(torch.stack([shannon_rate(spectra[0], 1e-14), gaussian_rate(level, 0.1)]),
                   torch.stack([gaussian_rate(spectra[0], 1e-14), shannon_rate(level, 0.1) + extra])))

# %% [markdown]
# The gap matters where $\varepsilon^2$ is of the size of the variances, and vanishes for fine precision. Nothing later in the
# series depends on $R$ being optimal; what is used is that it is a smooth, honest price with a closed form. But the
# sentence "R is the rate–distortion function" is true only in the limit $\varepsilon \to 0$.

# %%
eps = torch.logspace(-3, 1, 80)
bits = lambda f: torch.stack([f(lam, float(e) ** 2) for e in eps]) / LN2
gap = bits(gaussian_rate) - bits(shannon_rate)
left, right = plots.row(2)
plots.lines(eps, {"coding rate R": bits(gaussian_rate), "best code": bits(shannon_rate)}, xscale="log", ax=left,
            title="The price of one of the six tokens", xlabel="precision ε", ylabel="bits")
fig = plots.lines(eps, {"R − best code": gap / 2}, xscale="log", hlines={"half a bit": 0.5}, ax=right,
                  title="What R pays on top", xlabel="precision ε", ylabel="bits per dimension")
show(fig, alt="Left: two falling curves that coincide at fine precision and part near precision one, where the best code "
              "reaches zero first. Right: the difference rises from zero to a hump that stays below the line at half a bit",
     digest=f"largest gap {gap.max() / 2:.2f} bits a dimension, at ε = 0.001 {gap[0] / 2:.4f}")

# %% [markdown]
# ## 1.10 The same number on a photo
#
# Six tokens by hand, now real ones: a photograph, cut into cells of 32 × 32 pixels, and each cell into 64 patches of
# 4 × 4 pixels. A patch is a token of $4 \cdot 4 \cdot 3 = 48$ numbers between 0 and 1; the tokens of a cell get one rate.
# We allow an error of 0.02 in each number (about five grey levels of 256), so $c = 1/0.02^2 = 2500$ and
# $\varepsilon^2 = 48 / c$.

# %%
photo = photos.sample("china")[:416] / 255                                 # (416, 640, 3)
patches, (high, wide) = photos.patches(photo, size=4, stride=4)            # (16640, 48), a grid of 104 × 160
cells = patches.view(13, 8, 20, 8, 48).transpose(1, 2).reshape(260, 64, 48)
eps2 = 48 * 0.02 ** 2
cell_bits = rates.coding_rate(cells, eps2) / LN2                           # (260,)
print("tokens", tuple(cells.shape), "-> one rate a cell", tuple(cell_bits.shape))

# %% [markdown]
# **Predict:** in a photo of a Chinese tower above a lake, what is cheap and what is dear: the sky, the roofs, the trees?
#
# <details><summary>Answer</summary>
#
# The sky costs least: its patches are nearly one colour, they lie close to a single line in the 48-dimensional space. The
# dear cells are those full of small contrasts in all directions: foliage, and the ornaments under the eaves.
#
# </details>

# %%
map_bits = cell_bits.view(13, 20)
show(plots.pictures([photo, map_bits], ["the photo", "coding rate of each 32 × 32 cell"], size=4.2, unit="bits a patch"),
     alt="A photo of a Chinese tower among trees, beside a coarse map of it: dark (cheap) in the sky, bright (dear) in the "
         "foliage and along the ornate roofs",
     digest=f"cheapest cell {map_bits.min():.0f} bits a patch, dearest {map_bits.max():.0f}, top row on average {map_bits[0].mean():.0f}")

# %% [markdown]
# The map knows nothing of edges or colours; it only measures how much space the patches of a cell fill. The effective
# number of dimensions (1.17) tells the same story in other units: a cell of sky uses a few of the 48 directions above the
# permitted error, a cell of foliage most of them. That data is low-dimensional *in pieces*, each piece in its own
# directions, is the observation on which the next lesson builds.

# %%
def effective_dimensions(x, eps2):
    return (rates.coding_rate_grad(x, eps2) * x).sum((-2, -1))             # ⟨∇R, Z⟩, (1.17)

used = effective_dimensions(cells, eps2)
cheap, dear = cell_bits.argmin(), cell_bits.argmax()
print(f"cheapest cell: {used[cheap]:.1f} of 48 dimensions in use, dearest cell: {used[dear]:.1f}")
print(f"all cells, each coded by itself: {cell_bits.mean():.0f} bits a patch")
print(f"the whole photo with one code:   {rates.coding_rate(patches, eps2) / LN2:.0f} bits a patch")

# %% [markdown]
# ## Takeaways
#
# - The coding rate $R(Z) = \frac12\log\det(I + cS)$ is the logarithm of the number of $\varepsilon$-balls that fit into the
#   ellipsoid of the tokens: nats, or bits after division by $\ln 2$.
# - It depends on the tokens only through the second moment $S = ZZ^\top/n$: rotations, permutations and copies are free.
#   Keep $c = d/\varepsilon^2$ fixed in a comparison.
# - Two determinants give it; the smaller one is cheaper. At fine precision it counts dimensions, at coarse precision energy.
# - It is concave in $S$: one code for everything costs at least as much as a code for each part.
# - Its gradient multiplies all tokens by one matrix, $\frac{c}{n}(I + cS)^{-1}$, that is largest in thin directions.
# - It is an exact mutual information, and within half a bit a dimension of the best possible code; not the rate–distortion
#   function itself.
#
# ## Sources
#
# - Y. Ma, H. Derksen, W. Hong, J. Wright: *Segmentation of multivariate mixed data via lossy data coding and compression*,
#   IEEE TPAMI 29(9), 2007: the coding rate and its ball counting.
# - T. Cover, J. Thomas: *Elements of Information Theory*, 2nd edition, 2006: entropy of Gaussians, reverse water-filling.
# - A. Hoerl, R. Kennard: *Ridge regression*, Technometrics 12(1), 1970: the filter factors in (1.17).
# - S. Buchanan, D. Pai, P. Wang, Y. Ma: *Learning Deep Representations of Data Distributions*, 2025: the coding rate in
#   the book that also treats the rest of this series.
#
# [◀ previous](00_start_here.ipynb) · [contents](00_start_here.ipynb) · [next ▶](02_rate_reduction.ipynb)
