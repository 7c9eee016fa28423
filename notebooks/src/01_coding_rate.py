# %% [markdown]
# # Lesson 1 · The coding rate
#
# [◀ previous](00_start_here.ipynb) · [contents](00_start_here.ipynb) · [next ▶](02_rate_reduction.ipynb)
#
# **What does it cost to say where a token is?** A Transformer layer moves tokens. This series says towards what: towards a cheaper
# description. The price of a description is the *coding rate*, the number of bits it takes to say where a token is, up to a
# chosen precision. Attention, the TSSA layer and its step size are all statements about this one number.
#
# **After this you can**
# - derive the coding rate by counting balls, and read it in nats, in bits and as a number of places
# - write it in five lines of PyTorch, and run the rest of the lesson on your own function
# - say why one code for two kinds of tokens costs at least as much as two codes
# - say what its gradient does to tokens in thin and in wide directions
#
# **You should be able to answer:**
# - The six tokens cost 2.94 nats each. What has been counted, and what happens to the count if $\varepsilon$ is halved?
# - Why does one code for everything never beat a code for each kind, and what does that comparison leave out?
# - In which directions does a step down the gradient shrink the tokens most, and why is no token compared with another?
#
# **Before this:** matrices, eigenvalues, determinants, gradients. The main line needs no information theory; the last item of
# "Going deeper" uses the entropy of a Gaussian.
#
# **Time:** about 35 minutes to read, 12 seconds to run on two CPU cores. Going deeper takes 37 minutes more.

# %%
import math

import torch

from tssa_lib import rates
from kit import DIFFERENCES, agree, check, check_below, exercise, live, mine, photos, plots, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
LN2 = math.log(2)

# %% [markdown]
# ## 1.1 Six tokens and their second moment
#
# A *token* is a vector: a patch of an image, a piece of a word, a cell of a feature map. Our running example is six tokens in
# the plane. Tokens a, b, c lie near the first axis, d, e, f near the second. In formulas the tokens are the columns of
# $Z = [z_1 \dots z_n]$ with $d$ rows; in code they are rows, as in every deep learning library. Here $n = 6$ and $d = 2$.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
n, d = six.shape
NAMES = "abcdef"

# %% [markdown]
# How much room do they take? Take a unit vector $v$, look at the shadows $v^\top z_j$ of the tokens on it, and average their
# squares. One small matrix stores this average for every direction: the *second moment*.
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
agree(my_second_moment, rates.second_moment, six)

# %% tags=["hide-input"]
# check of (1.2): fifty random directions
v = torch.nn.functional.normalize(torch.randn(50, d), dim=1)               # (50, d)
check("1.2", torch.einsum("ad,de,ae->a", v, S, v), (six @ v.T).square().mean(0), "fifty directions, six tokens")

# %% [markdown]
# No mean is subtracted, so $S$ is not the covariance matrix. Distances are measured from the origin on purpose: the structures
# that we look for are lines and planes *through the origin*, and a group on a line should look flat even if all its tokens
# sit on one side.
#
# The picture draws $S$ as its *one-sigma ellipse* $\{x : x^\top S^{-1} x \le 1\}$. Its half axes are the square roots of the
# eigenvalues of $S$, along the eigenvectors.

# %% tags=["hide-input"]
# figure: the six tokens and the ellipse of S
half_axes = torch.linalg.eigvalsh(S).sqrt()                                # (d,), smallest first
fig = plots.points(six, [0, 0, 0, 1, 1, 1], names=NAMES, ellipses={"one-sigma ellipse of S": S}, title="Six tokens and their second moment")
fig.axes[0].legend(loc="upper right", fontsize=8)                          # where no token stands
show(fig, alt="Six labelled points: a, b, c along the horizontal axis, d, e, f along the vertical axis, and an "
         "ellipse around the origin that is wider than it is high",
     digest=f"half axes of the ellipse {half_axes[1]:.3f} and {half_axes[0]:.3f}")

# %% [markdown]
# ## 1.2 Counting balls
#
# To describe a token exactly would take infinitely many digits, so we allow an error. The received token may be off by a random
# amount with mean square $\varepsilon^2$ in total, which is $\varepsilon^2/d$ in each coordinate. Two places closer than that
# count as one place. Each place is the one-sigma ball of the error, of radius $\varepsilon/\sqrt{d}$. "How many bits does a
# token cost?" becomes "how many balls fill the region where tokens live?"
#
# That region is an ellipsoid. A received token is token plus error, the two independent, so its second moment is $S + \frac{\varepsilon^2}{d} I$.
# The volume of an ellipsoid is that of the unit ball times the square root of its determinant
# ([why: Going deeper](#The-volume-of-an-ellipsoid)). Divide the one volume by the other:
#
# $$
# \text{number of balls} \approx \frac{\sqrt{\det\left(S + \frac{\varepsilon^2}{d} I\right)}}{\sqrt{\det\left(\frac{\varepsilon^2}{d} I\right)}} = \sqrt{\det\left(I + c\,S\right)}, \qquad c = \frac{d}{\varepsilon^2} \tag{1.4}
# $$
#
# *(1.4) Checked. Volume of the region divided by the volume of one ball — Ma et al. 2007*
#
# (Many tokens lie outside a one-sigma ellipsoid, as many errors lie outside the ball. With two sigmas both volumes grow by the factor $2^d$, and
# the number stays.)
#
# The factor $c = d/\varepsilon^2$ is one over the error variance of a coordinate. It stays with us through the whole series.

# %%
def room(S, eps2):
    """How many balls of precision ε² fill the ellipsoid of tokens with second moment S (d, d)."""
    d = len(S)
    return (torch.eye(d) + d / eps2 * S).det().sqrt()

# %% tags=["hide-input"]
# check of (1.4): areas by the shoelace formula in the plane, products of half axes in five dimensions
def polygon_area(corners):
    """Area inside a closed polygon (M, 2): the shoelace formula, corner by corner."""
    x, y = corners.T
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().abs()

def ellipse(S, corners=100_000):
    """Points (M, 2) with xᵀS⁻¹x = 1."""
    angle = torch.linspace(0, 2 * math.pi, corners + 1)[:-1]
    lam, V = torch.linalg.eigh(S)
    return (torch.stack([angle.cos(), angle.sin()], 1) * lam.sqrt()) @ V.T

S5 = rates.second_moment(torch.randn(7, 5))
plane = [polygon_area(ellipse(S + e / 2 * torch.eye(2))) / polygon_area(ellipse(e / 2 * torch.eye(2))) for e in (0.01, 0.1, 1.0, 10.0)]
five = [(torch.linalg.eigvalsh(S5) + e / 5).sqrt().prod() / (e / 5) ** 2.5 for e in (0.1, 1.0)]
check("1.4", torch.stack(plane + five), torch.stack([room(S, e) for e in (0.01, 0.1, 1.0, 10.0)] + [room(S5, e) for e in (0.1, 1.0)]),
      "measured volumes divided, two and five dimensions")

# %% [markdown]
# Volumes are one thing, counting is another. Lay a honeycomb whose cells have exactly the area of one ball, and count
# the cells whose centre falls inside the ellipse. The approximation sign is the rim: a ball there is in or out.
#
# **Predict:** in two dimensions, if $\varepsilon$ is halved, how does the number of balls change?
#
# <details><summary>Answer</summary>
#
# Each ball has a quarter of the area, so about four times as many fit. From $\varepsilon^2 = 0.1$ to $0.025$ the room grows from
# 19.0 to 72.7 balls. The factor is 3.8 and not 4, because the ellipse of the received tokens shrinks a little as well.
#
# </details>

# %% tags=["hide-input"]
# figure: a honeycomb of balls in the ellipse of the received tokens, at two precisions
def count_balls(S, eps2):
    """Centres (M, 2) of the cells, each of the area of one ball, that lie in the ellipse of S + (ε²/d) I."""
    noisy = S + eps2 / 2 * torch.eye(2)                                    # (2, 2)
    height = math.sqrt(math.sqrt(3) / 2)                                   # rows of a honeycomb with cells of area 1
    ticks = torch.arange(-math.ceil(3 / eps2 ** 0.5), math.ceil(3 / eps2 ** 0.5) + 1.0)
    grid = torch.cartesian_prod(ticks, ticks) @ torch.tensor([[1 / height, 0], [0.5 / height, height]])
    grid = grid * math.sqrt(math.pi * eps2 / 2)                            # (M, 2), area of a cell π (ε/√2)²
    return grid[torch.einsum("md,de,me->m", grid, noisy.inverse(), grid) <= 1]

panels, counts = plots.row(2), {}
for ax, eps2 in zip(panels, (0.1, 0.025)):
    balls = count_balls(S, eps2)
    counts[eps2] = f"{len(balls)} counted, room for {room(S, eps2):.1f}"
    fig = plots.points(six, ellipses={"received tokens": S + eps2 / 2 * torch.eye(2)}, discs=(balls, math.sqrt(eps2 / 2)), ax=ax,
                       title=f"ε² = {eps2}: {counts[eps2]}")
show(fig, alt="Two panels with the six tokens and their ellipse; on the left discs of medium size fill the ellipse, on "
              "the right about four times as many small discs do",
     digest="; ".join(f"ε² = {e}: {text}" for e, text in counts.items())
            + f"; ε² = 1e-05: {len(count_balls(S, 1e-5)) / room(S, 1e-5):.4f} balls counted for each ball of room")

# %% [markdown]
# ## 1.3 The coding rate
#
# To name one of $M$ places takes $\ln M$ *nats*, or $\log_2 M$ *bits*. Nats keep formulas clean, so they are our unit; divide by
# $\ln 2 \approx 0.693$ for bits, the number of yes/no questions. The coding rate is the logarithm of the number of balls.
#
# $$
# R(Z) = \frac12 \log\det\left(I + c\,S\right) = \frac12 \log\det\left(I + \alpha Z Z^\top\right), \qquad \alpha = \frac{d}{n\varepsilon^2} \tag{1.5}
# $$
#
# *(1.5) Definition. The coding rate of the tokens in nats, for precision ε — Ma et al. 2007 · `rates.coding_rate`*
#
# **Exercise 1a.** By hand first: two tokens are the columns of $Z = I_2$, and $\varepsilon^2 = \frac12$. What is the rate in **bits**?

# %%
answer_1a = ...  # your turn: a number, in bits
exercise("1a", answer_1a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_1a = 0.5 * math.log(9) / math.log(2)
# ```
#
# With $d = n = 2$ we have $\alpha = 2/(2 \cdot \frac12) = 2$, so $I + \alpha ZZ^\top = 3I$, its determinant is 9,
# and $R = \frac12 \ln 9 = \ln 3$ nats $= 1.585$ bits: room for three balls.
#
# </details>
#
# **Exercise 1b.** Now write the coding rate. The rest of the lesson runs on *your* function as soon as it is right; until then on
# the library's.

# %%
def my_coding_rate(x, eps2):
    """Coding rate (1.5) in nats. Tokens are rows: x is (N, d). Returns a scalar tensor."""
    return ...  # your turn


coding_rate = mine("1b", my_coding_rate, rates.coding_rate)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_coding_rate(x, eps2):
#     n, d = x.shape
#     alpha = d / (n * eps2)
#     return 0.5 * torch.logdet(torch.eye(d) + alpha * x.T @ x)
# ```
#
# Tokens are rows in code, so $ZZ^\top$ is `x.T @ x`, a $d \times d$ matrix. `logdet` never forms the determinant itself, which
# would overflow for wide tokens.
#
# </details>

# %%
R = coding_rate(six, 0.1)
print(f"six tokens at ε² = 0.1: {R:.3f} nats = {R / LN2:.3f} bits = {R.exp():.1f} balls")

# %% [markdown]
# At this precision one of our tokens costs a little more than four bits: four yes/no questions tell 16 places apart, and
# there are 19. It is the price of *one* token, on average; $n$ tokens cost $n$ times as much.
#
# $$
# 2^{R / \ln 2} = e^{R} = \sqrt{\det\left(I + c\,S\right)} \tag{1.6}
# $$
#
# *(1.6) Checked. R nats are R/ln 2 bits, and both name the same number of balls — this series*
#
# The precision is our choice, like the resolution of a microscope. It decides which spread counts as structure and which as noise.
# One value is kept throughout a comparison: for the six tokens $\varepsilon^2 = 0.1$, in this lesson and the next.

# %% tags=["hide-input"]
# check of (1.6): two to the number of bits, against the room
check("1.6", 2 ** (R / LN2), room(S, 0.1), "2 to the bits, against the volume ratio")

# %% [markdown]
# Now move them yourself: drag the tokens, slide $\varepsilon^2$. Halve $\varepsilon$ ($\varepsilon^2$ to a quarter) and read the bits. Then press the
# tokens onto a line and do it again.
#
# **Predict:** how many more bits does half the $\varepsilon$ cost in the plane, and how many on a line?

# %%
live.balls(six, groups=[0, 0, 0, 1, 1, 1])

# %% [markdown]
# What you saw: nearly two bits more in the plane, nearly one on a line. At fine precision the rate counts the dimensions that the tokens fill.

# %% [markdown]
# ## 1.4 Only the spread along each axis counts
#
# A determinant is a product of eigenvalues, so its logarithm is a sum. Let $\sigma_i$ be the singular values of $Z$;
# then $\sigma_i^2/n = \lambda_i$ are the eigenvalues of $S$, and $\alpha\sigma_i^2 = c\lambda_i$.
#
# $$
# R(Z) = \frac12 \sum_{i} \ln\left(1 + \alpha \sigma_i^2\right) \tag{1.7}
# $$
#
# *(1.7) Checked. The rate is a sum over the singular values of Z — Ma et al. 2007*
#
# Each axis of the ellipse pays for itself. One that is far wider than the error costs about $\ln(\sqrt{\lambda_i}\,\sqrt{d}/\varepsilon)$;
# one that is far thinner costs nothing. Three consequences, each with its proof in Going deeper:
#
# - Rotations, permutations and copies of the tokens change nothing ([what the rate ignores](#What-the-rate-ignores)).
# - The $d \times d$ matrix $ZZ^\top$ may be replaced by the $n \times n$ matrix $Z^\top Z$ ([two determinants](#Two-determinants)).
# - At fine precision the rate counts dimensions, at coarse precision energy ([finer and coarser](#Finer-and-coarser-precision)).

# %% tags=["hide-input"]
# check of (1.7): four shapes, more and fewer tokens than dimensions
shapes = [torch.randn(n, d) for n, d in ((6, 2), (3, 7), (40, 5), (5, 5))]
spectrum = [0.5 * torch.log1p(x.shape[1] / (len(x) * 0.1) * torch.linalg.svdvals(x) ** 2).sum() for x in shapes]
check("1.7", torch.stack(spectrum), torch.stack([coding_rate(x, 0.1) for x in shapes]), "singular values, against the determinant")

# %% [markdown]
# ## 1.5 Mixing never saves
#
# Take tokens of two kinds, with second moments $S_1$ and $S_2$, a share $t$ of the first kind. Together they have the second moment
# $t S_1 + (1-t) S_2$. The log-determinant is a *concave* function of the matrix, so
#
# $$
# t\,\frac12 \log\det(I + c S_1) + (1-t)\,\frac12 \log\det(I + c S_2) \le \frac12 \log\det\left(I + c\,(t S_1 + (1-t) S_2)\right) \tag{1.15}
# $$
#
# *(1.15) Checked. The rate is concave in the second moment; equality for equal moments — textbook matrix analysis*
#
# On the left, two codes, each made for its kind. On the right, one code for all. One code for everything is never better.
# The difference is what lesson 2 calls the *rate reduction*. One thing the comparison leaves out: with two codes the receiver must be told
# which one was used for each token. Lesson 2 prices that, too.

# %%
def rate_of(S, c=20.0):
    return 0.5 * torch.logdet(torch.eye(S.shape[-1]) + c * S)              # (…)

# %% tags=["hide-input"]
# check of (1.15): two hundred random pairs; equality for equal moments, and where one kind is missing
two_codes = lambda A, B, t: t * rate_of(A) + (1 - t) * rate_of(B)
one_code = lambda A, B, t: rate_of(t[..., None, None] * A + (1 - t)[..., None, None] * B)
A, B = (torch.stack([rates.second_moment(torch.randn(4, 3)) for _ in range(200)]) for _ in range(2))
same = (A[:3], torch.stack([A[0], B[1], B[2]]), torch.tensor([0.3, 0.0, 1.0]))
check_below("1.15", two_codes, one_code, "two codes, against one for all", draws=list(zip(A, B, torch.rand(200))), equal=same)

# %% tags=["hide-input"]
# figure: the price of a mixture of the two groups, with one code and with two
A1, B1 = rates.second_moment(six[:3]), rates.second_moment(six[3:])
share = torch.linspace(0, 1, 41)
curves = {"one code for the mixture": one_code(A1, B1, share), "two codes": two_codes(A1, B1, share)}
saved = curves["one code for the mixture"] - curves["two codes"]
show(plots.lines(share, curves, title="What one code costs more than two", xlabel="share of a, b, c among the tokens", ylabel="nats a token"),
     alt="An arch above a straight chord between the rates of the two groups; in the middle the arch is one nat higher",
     digest=f"half and half: one code {curves['one code for the mixture'][20]:.3f} nats, two codes {curves['two codes'][20]:.3f}, "
            f"difference {saved[20]:.3f}")

# %% [markdown]
# ## 1.6 The gradient
#
# If a layer is to lower the rate, it needs the direction in which the rate changes fastest. Write $X = I + \alpha ZZ^\top$ and use
# $\mathrm{d}\log\det X = \operatorname{tr}(X^{-1}\,\mathrm{d}X)$ with $\mathrm{d}X = \alpha\,(\mathrm{d}Z\,Z^\top + Z\,\mathrm{d}Z^\top)$. The two
# halves have the same trace, since $X$ is symmetric. So $\mathrm{d}R = \alpha \operatorname{tr}(Z^\top X^{-1}\,\mathrm{d}Z)$, the inner product
# of $\alpha X^{-1} Z$ with $\mathrm{d}Z$, and the factor is the gradient:
#
# $$
# \nabla R(Z) = \alpha \left(I + \alpha Z Z^\top\right)^{-1} Z = \frac{c}{n} \left(I + c\,S\right)^{-1} Z \tag{1.16}
# $$
#
# *(1.16) Checked. The gradient of the coding rate — Ma et al. 2007 · `rates.coding_rate_grad`*

# %%
def my_gradient(x, eps2):
    n, d = x.shape
    c, S = d / eps2, x.T @ x / n
    return c / n * x @ torch.linalg.inv(torch.eye(d) + c * S)              # rows: (I + cS)⁻¹ z_j

# %% tags=["hide-input"]
# check of (1.16): automatic differentiation of the coding rate, and central differences, which use its values only
def differences(f, x, h=1e-5):
    """∂f/∂x, entry by entry, from values of f alone."""
    nudges = h * torch.eye(x.numel()).view(-1, *x.shape)                   # (x.numel(), N, d)
    return torch.stack([(f(x + e) - f(x - e)) / (2 * h) for e in nudges]).view_as(x)

x = torch.randn(7, 4)
z = x.clone().requires_grad_()
(automatic,) = torch.autograd.grad(coding_rate(z, 0.1), z)
numeric = differences(lambda x: coding_rate(x, 0.1), x)
check("1.16", torch.stack([automatic, numeric]), torch.stack([my_gradient(x, 0.1)] * 2), "autograd and differences", tol=DIFFERENCES)
agree(my_gradient, rates.coding_rate_grad, x, 0.1)

# %% [markdown]
# **Predict:** a step along $+\nabla R$ makes the six tokens more expensive. In proportion to its length, which token grows faster:
# a (far out, along the wide direction) or f (nearer, along the thin one)?
#
# <details><summary>Answer</summary>
#
# Token f. The matrix $(I + cS)^{-1}$ is the same for all tokens. Along an eigenvector of $S$ with eigenvalue $\lambda_i$ it multiplies
# by $1/(1 + c\lambda_i)$: a small factor in wide directions, a large one in thin directions. Raising the rate inflates thin
# directions first. Lowering it flattens them first.
#
# </details>

# %% tags=["hide-input"]
# figure: the gradient at each token, and the growth that it means in proportion to the token's length
G = my_gradient(six, 0.1)
growth = (G * six).sum(1) / (six ** 2).sum(1)                              # (N,), relative growth per unit of step
left, right = plots.row(2)
plots.points(six, [0, 0, 0, 1, 1, 1], names=NAMES, arrows=1.5 * G, ellipses={"S": S}, title="Uphill: 1.5 ∇R at each token", ax=left)
fig = plots.bars(NAMES, {"growth": 100 * growth}, title="Growth in one unit of step", xlabel="token", ylabel="% of the token's length", ax=right)
show(fig, alt="Left: the six tokens with arrows that all point away from the origin. Right: bars of relative growth; those of d, e, f "
              "are about twice as high as those of a, b, c",
     digest=f"relative growth of a {growth[0]:.3f}, of f {growth[5]:.3f} per unit of step")

# %% [markdown]
# This holds a preview of the whole series. The gradient multiplies every token by one matrix made of *statistics* of the tokens,
# the inverse of $I + cS$; no pair of tokens is ever compared. TSSA in lesson 5 does the same with a diagonal matrix, one for each
# group. (How fast the rate grows with the scale of the tokens, and why the gradient never explodes:
# [Going deeper](#Effective-dimensions).)
#
# A warning: concave in $S$ does not mean concave in $Z$. For a single number, $d = n = 1$, the rate is
# $\frac12\ln(1 + z^2/\varepsilon^2)$: a bowl near zero that flattens outside. Steps on the tokens need care with their length; lesson 2
# gives one that is safe.

# %% [markdown]
# ## 1.7 The same number on a photo
#
# Now real tokens: a photograph, cut into cells of 32 × 32 pixels, and each cell into 64 patches of 4 × 4 pixels. A patch is a token of
# $4 \cdot 4 \cdot 3 = 48$ numbers between 0 and 1; the tokens of a cell get one rate. These tokens have another unit, so they need their own
# price: an error of 0.02 in each number (about five grey levels of 256), which is $c = 1/0.02^2$ and $\varepsilon^2 = 48/c$.

# %%
photo = photos.sample("china")[:416] / 255                                 # (416, 640, 3)
patches, (high, wide) = photos.patches(photo, size=4, stride=4)            # (16640, 48), a grid of 104 × 160
cells = patches.view(13, 8, 20, 8, 48).transpose(1, 2).reshape(260, 64, 48)
eps2 = 48 * 0.02 ** 2
cell_bits = torch.stack([coding_rate(cell, eps2) for cell in cells]) / LN2 # (260,)

# %% [markdown]
# **Predict:** a tower above a lake. What is cheap and what is dear: the sky, the roofs, the trees?
#
# <details><summary>Answer</summary>
#
# The sky costs least: its patches are nearly one colour, close to a single line in the 48-dimensional space. The
# dear cells are those full of small contrasts in all directions: foliage, and the ornaments under the eaves.
#
# </details>

# %% tags=["hide-input"]
# figure: the photo and the rate of each cell
map_bits = cell_bits.view(13, 20)
show(plots.pictures([photo, map_bits], ["the photo", "coding rate of each 32 × 32 cell"], size=4.2, unit="bits a patch"),
     alt="A photo of a Chinese tower among trees, beside a coarse map of it: dark (cheap) in the sky, bright (dear) in the "
         "foliage and along the ornate roofs",
     digest=f"cheapest cell {map_bits.min():.0f} bits a patch, dearest {map_bits.max():.0f}, top row on average {map_bits[0].mean():.0f}")

# %%
print(f"all cells, each coded by itself: {cell_bits.mean():.0f} bits a patch")
print(f"the whole photo with one code:   {coding_rate(patches, eps2) / LN2:.0f} bits a patch")

# %% [markdown]
# The map knows nothing of edges or colours; it only measures how much space the patches of a cell fill. And (1.15) at work: a code for
# each cell is cheaper than one for the photo. Data is low-dimensional *in pieces*, each piece in its own directions. The next
# lesson builds on that.
#
# ## Takeaways
#
# - The coding rate $R(Z) = \frac12\log\det(I + cS)$ is the logarithm of the number of $\varepsilon$-balls that fill the
#   ellipsoid of the tokens: nats, or bits after division by $\ln 2$.
# - It depends on the tokens only through the second moment $S = ZZ^\top/n$, axis by axis. Keep $c = d/\varepsilon^2$ fixed in a comparison.
# - It is concave in $S$: one code for everything costs at least as much as a code for each part.
# - Its gradient multiplies all tokens by one matrix, $\frac{c}{n}(I + cS)^{-1}$, which is largest in thin directions.
#
# **Next:** [lesson 2](02_rate_reduction.ipynb) makes the saving of (1.15) the goal.

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself. Lessons 2 and 4 come back to the scale (1.13) and the precision (1.10); the rest is for your own curiosity.
#
# ### The volume of an ellipsoid
#
# $$
# \frac{\operatorname{vol}\{x : x^\top S^{-1} x \le 1\}}{\operatorname{vol}\{x : x^\top x \le 1\}} = \sqrt{\det S} \tag{1.3}
# $$
#
# *(1.3) Checked. An ellipsoid has the volume of the unit ball times the root of a determinant — textbook geometry*
#
# The matrix $S^{1/2}$ maps the unit ball onto the ellipsoid, and a linear map multiplies volumes by its determinant. The check
# measures the area of a fine polygon in the ellipse and divides by the area π of the unit disc.

# %%
S_tilted = torch.tensor([[2.0, 0.7], [0.7, 0.5]])
check("1.3", torch.stack([polygon_area(ellipse(M)) for M in (S, S_tilted)]) / math.pi, torch.stack([S.det(), S_tilted.det()]).sqrt(),
      "areas of the six tokens' ellipse and of a tilted one", tol=DIFFERENCES)

# %% [markdown]
# ### Two determinants
#
# $ZZ^\top$ is $d \times d$, $Z^\top Z$ is $n \times n$; both have the same non-zero eigenvalues $\sigma_i^2$. Eigenvalues that are
# zero contribute $\ln 1 = 0$, so either matrix will do.
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

check("1.8", torch.stack([other_coding_rate(x, 0.1) for x in shapes]), torch.stack([rates.coding_rate(x, 0.1) for x in shapes]),
      "n × n against the smaller of the two, four shapes")

# %% [markdown]
# Same number, different bill. Forming the matrix takes $n d^2$ multiplications one way and $n^2 d$ the other; the determinant that follows
# takes about $d^3/3$ or $n^3/3$. With the 400 tokens of width 128 that lesson 10 meets inside YOLO11 the choice is plain. PyTorch's own
# counter says the same; it counts a multiplication and an addition as two.
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
# The library takes the smaller matrix by itself, and uses its eigenvalues with `log1p`, which stays accurate when $1 + \alpha\sigma_i^2$ is
# hardly more than one. It also takes batches, with the tokens in the last two axes.

# %%
print("one rate for each image of a batch:", tuple(rates.coding_rate(torch.randn(3, 400, 128), 0.1).shape))

# %% [markdown]
# ### Finer and coarser precision
#
# What happens when the balls become very small? Every direction in which the tokens spread at all contributes $\ln(1/\varepsilon)$, so
# the rate grows like the *rank* (the number of directions used) times $\ln(1/\varepsilon)$. Write $m = \operatorname{rank} Z$:
#
# $$
# \lim_{\varepsilon \to 0} \left[ R(Z) - m \ln\frac{1}{\varepsilon} \right] = \frac12 \sum_{i=1}^{m} \ln\frac{d\,\sigma_i^2}{n} \tag{1.10}
# $$
#
# *(1.10) Checked. At fine precision the rate counts dimensions — this series*
#
# At the other end the balls are larger than everything, $\ln(1+x) \approx x$, and the rate becomes the energy
# $\|Z\|_F^2 = \sum_j \|z_j\|^2$ with a factor. Since $\ln(1+x) \le x$ always, the same expression is a bound for every precision:
#
# $$
# R(Z) \le \frac{\alpha}{2} \|Z\|_F^2 = \frac{d}{2 n \varepsilon^2} \|Z\|_F^2 \tag{1.11}
# $$
#
# *(1.11) Checked. At coarse precision the rate only sees energy; the ratio of the sides tends to one as ε grows — this series*

# %%
flat = six * torch.tensor([1.0, 0.0])                                      # every token pressed onto the first axis
tiny, huge = 1e-8, 1e12
def left_over(x, m):
    return rates.coding_rate(x, tiny) + m / 2 * math.log(tiny)             # ln(1/ε) = −½ ln ε²

def limit(x, m):
    n, d = x.shape
    return 0.5 * (d * torch.linalg.svdvals(x)[:m] ** 2 / n).log().sum()

# %%
check("1.10", torch.stack([left_over(six, 2), left_over(flat, 1)]), torch.stack([limit(six, 2), limit(flat, 1)]),
      "rank two and rank one at ε² = 1e-8", tol=DIFFERENCES)
energy_side = lambda x, eps2: x.shape[1] / (2 * len(x) * eps2) * (x ** 2).sum()
check_below("1.11", lambda x, eps2: eps2 * rates.coding_rate(x, eps2), lambda x, eps2: eps2 * energy_side(x, eps2),
            "R ≤ α‖Z‖²/2, both times ε², seven scales", draws=[(torch.randn(9, 4) * 2 ** i, 0.1) for i in range(-3, 4)], equal=(six, huge))

# %% [markdown]
# **Predict:** the rate of the six tokens against $\varepsilon$, and that of the same tokens pressed onto the first axis. Which curve is
# steeper towards the left, and by what factor?
#
# <details><summary>Answer</summary>
#
# The six tokens span the plane (rank 2), the pressed ones a line (rank 1): the slope of the first curve is
# twice that of the second. Per decade of $\varepsilon$ it gains $2 \ln 10 = 4.6$ nats against $2.3$.
#
# </details>

# %% tags=["hide-input"]
# figure: rate against precision
eps = torch.logspace(-4, 1.5, 60)
curves = {name: torch.stack([rates.coding_rate(x, float(e) ** 2) for e in eps]) for name, x in
          {"six tokens (rank 2)": six, "pressed onto a line (rank 1)": flat}.items()}
bound = torch.stack([energy_side(six, float(e) ** 2) for e in eps])
seen = bound < 10
fig = plots.lines(eps, curves | {"bound (1.11) of the six": (eps[seen], bound[seen])}, xscale="log", ylabel="R in nats",
                  xlabel="precision ε", title="Rate against precision", vlines={"ε² = 0.1": math.sqrt(0.1)})
decade = [(rates.coding_rate(x, 1e-8) - rates.coding_rate(x, 1e-6)) / math.log(10) for x in (six, flat)]
show(fig, alt="Two curves fall from left to right over a logarithmic axis: the rank-two tokens twice as steeply as the "
              "rank-one tokens; both end near zero, where the energy bound meets the upper one",
     digest=f"slope per factor e of 1/ε: {decade[0]:.2f} and {decade[1]:.2f}")

# %% [markdown]
# ### What the rate ignores
#
# A good measure should not depend on how we happen to write the tokens down. Rotating all tokens ($Q$ orthogonal, from the left) leaves
# the singular values alone, and so does reordering or any other orthogonal mixing of the tokens ($Q'$ orthogonal, from the right).
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
#
# The rate is a mean, so writing every token twice changes nothing. Appending $n$ zero tokens, however, halves the second moment, which
# is the same as a coarser precision.
#
# $$
# R([Z, Z];\, \varepsilon) = R(Z;\, \varepsilon), \qquad R([Z, 0];\, \varepsilon) = R(Z;\, \sqrt2\, \varepsilon) \tag{1.14}
# $$
#
# *(1.14) Checked. Copies are free; as many zero tokens again double ε² — this series*

# %%
Q = torch.linalg.qr(torch.randn(2, 2))[0]
P = torch.eye(6)[torch.randperm(6)]                                        # a permutation
P2 = torch.linalg.qr(torch.randn(6, 6))[0]                                 # any orthogonal mixing
check("1.12", torch.stack([rates.coding_rate(p @ six @ Q.T, 0.1) for p in (P, P2)]), R, "rotated, permuted, mixed")

# %%
t = torch.tensor([0.1, 0.7, 3.0, 50.0])
check("1.13", torch.stack([rates.coding_rate(a * six, 0.1) for a in t]),
      torch.stack([rates.coding_rate(six, 0.1 / float(a) ** 2) for a in t]), "four scales")
twice, padded = torch.cat([six, six]), torch.cat([six, torch.zeros_like(six)])
check("1.14", torch.stack([rates.coding_rate(twice, 0.1), rates.coding_rate(padded, 0.1)]),
      torch.stack([R, rates.coding_rate(six, 0.2)]), "six tokens copied, and padded with zero tokens")

# %% [markdown]
# **A trap.** Zero *tokens* are harmless once you know (1.14). Zero *coordinates* are not: $c = d/\varepsilon^2$ contains the dimension, so
# the same six points written as vectors of length three get another rate, because the permitted error is now spread over three
# coordinates. Papers differ here (some use the width of a head in place of $d$). Fix $c$ in a comparison, and say which.

# %%
longer = torch.nn.functional.pad(six, (0, 1))                              # (6, 3), third coordinate zero
print(f"d = 2: {rates.coding_rate(six, 0.1):.3f} nats")
print(f"d = 3, same ε²: {rates.coding_rate(longer, 0.1):.3f} nats")
print(f"d = 3, same c:  {rates.coding_rate(longer, 0.15):.3f} nats")

# %% [markdown]
# **Exercise 1c.** A set of $n$ tokens is padded with $m$ zero tokens, as batches of sentences are. Write the $\varepsilon^2$ at which the
# *unpadded* set has the rate that the padded set has at `eps2`.

# %%
def answer_1c(n, m, eps2):
    return ...  # your turn


exercise("1c", answer_1c)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_1c(n, m, eps2):
#     return eps2 * (n + m) / n
# ```
#
# Zero tokens add nothing to $ZZ^\top$ but raise the count from $n$ to $n + m$, so
# $\alpha = d/((n+m)\varepsilon^2)$; the same $\alpha$ comes from $n$ tokens at $\varepsilon^2 (n+m)/n$.
#
# </details>
#
# ### Effective dimensions
#
# How fast does the rate grow when all tokens are scaled up together? By a number between 0 and the rank, which statisticians know as the
# *effective degrees of freedom* of ridge regression. A direction counts fully if its spread is far above the noise, and not at all if it
# is far below.
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
def effective_dimensions(x, eps2):
    return (rates.coding_rate_grad(x, eps2) * x).sum((-2, -1))             # ⟨∇R, Z⟩

scale = torch.tensor(1.0, requires_grad=True)
rates.coding_rate(scale * six, 0.1).backward()
a2 = 2 / (6 * 0.1) * torch.linalg.svdvals(six) ** 2                        # ασ², α = d/(nε²)
check("1.17", torch.stack([effective_dimensions(six, 0.1), scale.grad]), (a2 / (1 + a2)).sum(), "inner product and d/dt, against the sum")

# %%
norm = lambda x, eps2: torch.linalg.matrix_norm(rates.coding_rate_grad(x, eps2), 2)
half_root = lambda x, eps2: math.sqrt(x.shape[1] / (len(x) * eps2)) / 2
frame = torch.linalg.qr(torch.randn(8, 3))[0] / math.sqrt(3 / (8 * 0.1))   # all σ² = 1/α
check_below("1.18", norm, half_root, "‖∇R‖₂ ≤ √α/2, thirteen scales",
            draws=[(torch.randn(8, 3) * 2.0 ** i, e) for i in range(-6, 7) for e in (0.1, 2.0)], equal=(frame, 0.1))

# %% [markdown]
# On the photo of section 1.7 the effective dimensions tell the same story as the map, in other units.

# %%
used, (cheap, dear) = effective_dimensions(cells, 48 * 0.02 ** 2), (cell_bits.argmin(), cell_bits.argmax())
print(f"six tokens: {scale.grad:.2f} of 2 dimensions in use")
print(f"cheapest cell of the photo: {used[cheap]:.1f} of 48, dearest: {used[dear]:.1f}")

# %% [markdown]
# **Exercise 1d.** Write the derivative of $R(tZ)$ at $t = 1$ in closed form, for tokens in rows, without automatic differentiation.

# %%
def answer_1d(x, eps2):
    return ...  # your turn: x is (N, d)


exercise("1d", answer_1d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_1d(x, eps2):
#     n, d = x.shape
#     a = d / (n * eps2) * torch.linalg.svdvals(x) ** 2
#     return (a / (1 + a)).sum()
# ```
#
# $R(tZ) = \frac12\sum_i\ln(1 + \alpha t^2\sigma_i^2)$; the derivative of the $i$-th term at $t = 1$ is
# $\frac12 \cdot 2\alpha\sigma_i^2/(1 + \alpha\sigma_i^2)$.
#
# </details>
#
# ### Is this the rate that information theory means
#
# Information theory has its own answer to "how many nats for a token up to mean square error $\varepsilon^2$?": the
# *rate–distortion function*, the least that any code could need. Papers sometimes say that $R(Z)$ *is* that function for Gaussian
# tokens. It is not quite. It is the *mutual information* between a Gaussian token and its noisy copy. Let $z$ be Gaussian with second
# moment $S$, and let $e$ be independent Gaussian noise of variance $\varepsilon^2/d$ in each coordinate. With $H$ the (differential) entropy,
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
# Adding noise of the same size to every coordinate is *a* code with mean square error $\varepsilon^2$, not the best one. The best code wastes
# nothing on directions with less variance than the error it may make. A code that makes the error $a_i \le \lambda_i$ in direction $i$
# costs $\frac12\ln(\lambda_i/a_i)$ there, and the errors must add up to $\varepsilon^2$. Shannon's theorem says that no code does better
# than the cheapest such distribution of the error. It is *reverse water-filling*: choose a level $a$; directions below it are not
# sent at all (error $\lambda_i$), the others are sent with error $a$.
#
# $$
# R_{\text{Shannon}}(\varepsilon^2) = \frac12 \sum_{\lambda_i > 0} \ln \frac{\lambda_i}{\min(a, \lambda_i)} \le \frac12 \sum_{\lambda_i > 0} \ln \frac{\lambda_i}{a_i}, \qquad \sum_{i=1}^{d} \min(a, \lambda_i) = \sum_{i=1}^{d} a_i = \varepsilon^2 \tag{1.20}
# $$
#
# *(1.20) Checked. Water-filling is the cheapest distribution of the error; zero if ε² exceeds the total variance — Cover and Thomas 2006 (and that no code beats it)*
#
# Note the condition $\lambda_i > 0$: a direction without variance costs nothing, but the formula would divide zero by zero there. The
# tokens `flat`, pressed onto a line, are such a case.

# %%
def water_level(lam, eps2):
    """The level a (…, 1) at which the errors min(a, λ_i) add up to ε², by bisection."""
    low, high = torch.zeros_like(lam[..., :1]), lam.amax(-1, keepdim=True)
    for _ in range(100):
        a = (low + high) / 2
        too_much = torch.minimum(a, lam).sum(-1, keepdim=True) > eps2
        low, high = torch.where(too_much, low, a), torch.where(too_much, a, high)
    return high

# %%
def nats_for(lam, errors):
    """½ Σ ln(λ_i/a_i) over the directions that have variance."""
    return 0.5 * torch.where(lam > 0, lam / errors, 1).log().sum(-1)

def shannon_rate(lam, eps2):
    return nats_for(lam, torch.minimum(water_level(lam, eps2), lam))       # (…)

# %%
lam_flat = torch.tensor([0.0, rates.second_moment(flat)[0, 0]])
without_condition = 0.5 * (lam_flat / torch.minimum(water_level(lam_flat, 0.1), lam_flat)).log().sum()
print(f"tokens on a line: {without_condition:.3f} nats without the condition λ > 0, {shannon_rate(lam_flat, 0.1):.3f} with it")
lam = torch.linalg.eigvalsh(S)
print(f"six tokens: best code {shannon_rate(lam, 0.1):.3f} nats, coding rate {R:.3f} nats")

# %% tags=["hide-input"]
# check of (1.20): two hundred other distributions of the error; equality where the errors are a water level
draws = [(lam := torch.exp(2 * torch.randn(5)), lam * torch.rand(5)) for _ in range(200)]
level = torch.tensor([0.3, 0.3, 0.1, 0.0])                                 # level 0.3 for the variances 2, 0.7, 0.1, 0
check_below("1.20", lambda lam, errors: shannon_rate(lam, errors.sum()), nats_for, "water-filling, against random errors",
            draws=draws, equal=(torch.tensor([2.0, 0.7, 0.1, 0.0]), level))

# %% [markdown]
# So $R$ pays something on top. How much, at worst? Half a bit for each dimension, whatever the tokens and the precision:
#
# $$
# R_{\text{Shannon}}(\varepsilon^2) \le R(Z) \le R_{\text{Shannon}}(\varepsilon^2) + \frac{d}{2} \ln 2 \tag{1.21}
# $$
#
# *(1.21) Checked. The coding rate is within half a bit a dimension of the best possible — this series*
#
# *Why.* The left side: no code beats the best. The right side: let $a_i = \min(a, \lambda_i)$ be the water-filling errors; they add up to
# $\varepsilon^2$, or to less if nothing need be sent. The gap is a sum over the $m$ directions with $\lambda_i > 0$ of
# $\frac12 \ln\left(\frac{a_i}{\lambda_i} + \frac{a_i d}{\varepsilon^2}\right)$. The first fraction is at most 1 and the second adds up to at most
# $d$, so the bracket has mean at most $1 + d/m$. The logarithm is concave, so the mean of the logarithms is at most the logarithm of the
# mean (this is *Jensen's inequality*): the gap is at most $\frac{m}{2}\ln(1 + \frac{d}{m})$, which grows with $m$ and is $\frac{d}{2}\ln 2$ at $m = d$.
#
# The left side is tight for $\varepsilon \to 0$, the right side when every $\lambda_i = \varepsilon^2/d$: then nothing need be sent at all.

# %%
def gaussian_rate(lam, eps2):
    return 0.5 * torch.log1p(lam.shape[-1] / eps2 * lam).sum(-1)           # (1.5) from the eigenvalues of S

def smaller(lam, eps2):
    return torch.stack([shannon_rate(lam, eps2), gaussian_rate(lam, eps2)], -1)

def larger(lam, eps2):
    return torch.stack([gaussian_rate(lam, eps2), shannon_rate(lam, eps2) + lam.shape[-1] / 2 * LN2], -1)

# %% tags=["hide-input"]
# check of (1.21): 500 spectra over several powers of ten, a fifth of them with empty directions; each side tight in a case of its own
spectra = torch.exp(3 * torch.randn(500, 5))
spectra[::5, :2] = 0
tight = lambda side: lambda lam, eps2: torch.stack([side(lam, 1e-14)[..., 0], side(torch.full((5,), eps2 / 5), eps2)[..., 1]])
sides = [lambda lam, eps2, at, f=f: tight(f)(lam, eps2) if at else f(lam, eps2) for f in (smaller, larger)]
check_below("1.21", *sides, "both sides, 500 spectra", draws=[(s, 0.1, False) for s in spectra], equal=(spectra[1], 0.1, True))

# %% [markdown]
# The gap matters where $\varepsilon^2$ is of the size of the variances, and vanishes for fine precision. Nothing later in the series
# depends on $R$ being optimal; what is used is that it is a smooth price with a closed form. But the sentence "R is the rate–distortion
# function" is true only in the limit $\varepsilon \to 0$.

# %% tags=["hide-input"]
# figure: the coding rate and the best code against precision
eps, lam = torch.logspace(-3, 1, 80), torch.linalg.eigvalsh(S)
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
