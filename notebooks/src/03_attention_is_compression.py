# %% [markdown]
# # Lesson 3 · A step of compression is attention
#
# [◀ previous](02_rate_reduction.ipynb) · [contents](00_start_here.ipynb) · [next ▶](04_variational_bound.ipynb)
#
# Lesson 2 moved tokens uphill on the rate reduction, and nearly all of the gain came from one half of it: from
# compressing each group. This lesson takes one gradient step of compression and changes it, by four
# approximations, into the self-attention layer of a Transformer. That is the argument of CRATE, a "white-box"
# Transformer, and the ancestor of the layer that this series is about. We measure what every approximation costs.
# One of them reverses the direction of the step, the next one happens to repair it, and the last one changes
# the sign of what is left. It is better to know.
#
# **After this you can**
# - write the compression rate in the frames of $K$ subspaces, with its exact gradient in two forms
# - derive multi-head subspace self-attention (MSSA) from it, and name the four approximations on the way
# - say when each approximation is accurate, and when it turns the step around
# - turn an MSSA layer into a textbook attention layer and back
# - say what the published layer does to the rate, which is not what its derivation promised
# - count the operations of both forms, and say where the square of the number of tokens comes from
#
# **Before this:** lessons 1 and 2 (coding rate, its gradient, rate reduction). Softmax. No Transformer needed.
#
# **Time:** about 50 minutes to read, 20 seconds to run on two CPU cores.

# %%
import math

import torch

from tssa_lib import attention, photos, plots, rates
from kit import DIFFERENCES, agree, check, check_below, exercise, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])  # a … f

# %% [markdown]
# ## 3.1 Subspaces instead of memberships
#
# In lesson 2 a table $\Pi$ said which token belongs to which group. A layer of a network has no such table: it
# sees new tokens in each image. CRATE replaces the table by something that can be *learned once*: $K$ subspaces,
# each with an orthonormal basis, the columns of $U_k$ ($d \times p$). What token $z$ looks like from
# subspace $k$ is the short vector $U_k^\top z$ with $p$ coordinates. Write $w_k = U_k^\top Z$ for all tokens
# at once, a $p \times n$ matrix. The compression term codes what every subspace sees, each with a code of its own:
#
# $$
# R^c(Z) = \sum_{k=1}^{K} R(U_k^\top Z) = \frac12 \sum_{k=1}^{K} \log\det\left(I + \beta\, w_k w_k^\top\right), \qquad w_k = U_k^\top Z, \quad \beta = \frac{p}{n\varepsilon^2} \tag{3.1}
# $$
#
# *(3.1) Checked. The rate of all tokens in the frames of K subspaces — Yu et al. 2023 · `rates.subspace_rate`*
#
# Two things to notice. The constant is $\beta$ and not lesson 1's $\alpha$: inside a subspace a token has $p$
# coordinates, so $p$ stands where $d$ stood. And $R^c$ (index above) is not $R_c$ (index below): *every*
# token is coded in *every* subspace. A token that fits subspace 1 costs little in the others, because they
# hardly see it.

# %%
axes = torch.eye(2).reshape(2, 2, 1)                                       # (K, d, p): coordinate 1, coordinate 2

def project(x, U):
    return torch.einsum("nd,kdp->knp", x, U)                               # w, tokens as rows

def frames(K, d, p):
    """K orthonormal bases of width p, mutually orthogonal: slices of one random rotation."""
    return torch.linalg.qr(torch.randn(d, d))[0][:, :K * p].reshape(d, K, p).permute(1, 0, 2)

# %% [markdown]
# For the six tokens the two subspaces are the two axes, so $p = 1$ and $w_k$ is just coordinate $k$ of the six
# tokens. Beside them we keep nine random tokens in six dimensions with three planes, so that no formula passes
# by the accident of $p = 1$.

# %%
nine, planes = torch.randn(9, 6), frames(3, 6, 2)

def rate_literally(x, U, eps2):
    n, p = len(x), U.shape[-1]
    gram = project(x, U) @ project(x, U).mT                                # (K, n, n), the larger determinant
    return 0.5 * torch.logdet(torch.eye(n) + p / (n * eps2) * gram).sum()

# %% [markdown]
# The library uses the smaller determinant, $p \times p$. Both examples, at two precisions:

# %%
pairs = [(six, axes), (nine, planes)]
check("3.1", torch.stack([rate_literally(x, U, e) for x, U in pairs for e in (0.1, 1.0)]),
      torch.stack([rates.subspace_rate(x, U, e) for x, U in pairs for e in (0.1, 1.0)]), "n × n determinants, against p × p")
print(f"six tokens at ε² = 1: {rates.subspace_rate(six, axes, 1.0):.3f} nats")

# %% [markdown]
# ## 3.2 The exact gradient, twice
#
# Lesson 1 gave the gradient of $R$; the chain rule puts $U_k$ in front. With the small $p \times p$ matrix:
#
# $$
# \nabla R^c(Z) = \beta \sum_{k=1}^{K} U_k \left(I + \beta\, w_k w_k^\top\right)^{-1} w_k \tag{3.2}
# $$
#
# *(3.2) Checked. Each head multiplies its projected tokens by one matrix — Yu et al. 2023 · `rates.subspace_rate_grad`*
#
# Read it from right to left: project the tokens, multiply all of them *by the same matrix*, lift them back. A
# descent step $Z - \tau \nabla R^c$ therefore treats all tokens alike. For mutually orthogonal subspaces, along a direction in which the tokens of
# head $k$ have singular value $\sigma$, it multiplies by $1 - \tau\beta/(1 + \beta\sigma^2)$: thin directions
# shrink by almost $\tau\beta$, thick ones hardly at all. That is compression: what is little becomes less.

# %%
def numerically(f, x, h=1e-5):
    """Central differences of f at x (N, d), one coordinate after the other."""
    steps = h * torch.eye(x.numel()).reshape(-1, *x.shape)
    return torch.stack([(f(x + s) - f(x - s)) / (2 * h) for s in steps]).reshape(x.shape)

# %% [markdown]
# That function knows nothing of (3.2); it only needs values of the rate. PyTorch's automatic derivative is the second witness.

# %%
rate = lambda x: rates.subspace_rate(x, planes, 0.3)
auto = torch.func.grad(rate)(nine)
check("3.2", torch.stack([auto, numerically(rate, nine)]), rates.subspace_rate_grad(nine, planes, 0.3).expand(2, -1, -1),
      "autograd and central differences, against the formula", tol=DIFFERENCES)

# %% [markdown]
# The same numbers come out if the inverse stands on the other side, where it is $n \times n$. This is the
# identity $(I + AB)^{-1}A = A(I + BA)^{-1}$, which you get by multiplying out. Write $G_k = w_k^\top w_k$ for
# the *Gram matrix*: its entry $(i, j)$ is the inner product of tokens $i$ and $j$ as subspace $k$ sees them,
# their *similarity*.
#
# $$
# \nabla R^c(Z) = \beta \sum_{k=1}^{K} U_k\, w_k \left(I + \beta\, G_k\right)^{-1}, \qquad G_k = w_k^\top w_k \tag{3.3}
# $$
#
# *(3.3) Checked. The same gradient with an n × n inverse on the right: now tokens mix with tokens — Yu et al. 2023*
#
# Nobody would compute it this way. But a matrix on the *right* of $w_k$ forms combinations of tokens, and
# this is what attention does. Here is where the road to attention starts, and with it the $n \times n$ bill.

# %%
def beta_of(x, U, eps2):
    return U.shape[-1] / (len(x) * eps2)                                   # p / (n ε²)

def lift(y, U):
    return torch.einsum("knp,kdp->nd", y, U)                               # Σ_k U_k y_k, tokens as rows

# %% [markdown]
# Two helpers, one for the constant and one for the way back from the heads to the tokens. With them:

# %%
def gradient_by_tokens(x, U, eps2):
    w, beta = project(x, U), beta_of(x, U, eps2)
    return beta * lift(torch.linalg.inv(torch.eye(len(x)) + beta * w @ w.mT) @ w, U)

check("3.3", torch.cat([gradient_by_tokens(x, U, 0.3).flatten() for x, U in pairs]),
      torch.cat([rates.subspace_rate_grad(x, U, 0.3).flatten() for x, U in pairs]), "n × n inverse, against p × p")

# %% [markdown]
# What does the matrix on the right mean? Try to *predict* each token from all tokens, by a weighted sum with
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

# %%
w, beta = project(nine, planes), beta_of(nine, planes, 0.3)                # (3, 9, 2), a number
left = torch.cat([w.mT, (torch.eye(9) / math.sqrt(beta)).expand(3, 9, 9)], 1)   # rows: fit the token, pay for b
right = torch.cat([w.mT, torch.zeros(3, 9, 9)], 1)
b = torch.linalg.lstsq(left, right).solution                               # (3, 9, 9), column j holds b_j
check("3.4", torch.linalg.inv(torch.eye(9) + beta * w @ w.mT) @ w, (w.mT - w.mT @ b).mT, "inverse, against least squares")

# %% [markdown]
# ## 3.3 First approximation: the inverse becomes a difference
#
# An $n \times n$ inverse in each head of each layer is out of the question. The first idea is the first two
# terms of the geometric (Neumann) series, $(I + \beta G)^{-1} \approx I - \beta G$. How wrong is that? Exactly
# so much:
#
# $$
# w_k \left(I - \beta\, G_k\right) = w_k \left(I + \beta\, G_k\right)^{-1} \left(I - (\beta\, G_k)^2\right) \tag{3.5}
# $$
#
# *(3.5) Checked. The approximation is the exact term times a matrix — this series*
#
# Along a singular direction, where $w_k$ has singular value $\sigma$, matrices become numbers. With
# $x = \beta\sigma^2$ the exact factor is $1/(1+x)$, the approximate one $1 - x$, and
#
# $$
# \frac{\frac{1}{1+x} - (1 - x)}{\frac{1}{1+x}} = x^2, \qquad x = \beta\, \sigma^2 \tag{3.6}
# $$
#
# *(3.6) Checked. The relative error of the first approximation is x² in every singular direction — this series*
#
# So it is very good for $x \ll 1$ and useless at $x = 1$, where the approximate step does nothing. Beyond,
# $1 - x$ is *negative*: the step stretches the directions that it should compress.

# %%
eye, G = torch.eye(9), w @ w.mT                                            # G (3, 9, 9)
exact, approx = torch.linalg.inv(eye + beta * G) @ w, (eye - beta * G) @ w
check("3.5", approx, (eye - beta ** 2 * G @ G) @ exact, "difference, against exact term times I − (βG)²")
L, sigma, R = torch.linalg.svd(w, full_matrices=False)
along = lambda y: torch.einsum("kni,knp,kip->ki", L, y, R)                 # part along each singular direction
check("3.6", along(exact - approx) / along(exact), (beta * sigma ** 2) ** 2, "six singular directions of three heads")

# %% [markdown]
# **Predict:** for our six tokens and $\varepsilon^2 = 1$, subspace 1 (which sees the long tokens a, b, c) has
# $x = 1.22$ and subspace 2 has $x = 0.66$. What does a descent step with $I - \beta G$ do to the two coordinates?
#
# <details><summary>Answer</summary>
#
# Coordinate 1 has $1 - x = -0.22$: it is stretched, against all intentions. Coordinate 2 has $1 - x = 0.34$ and
# shrinks, a little more than half as fast as the exact $1/(1+x) = 0.60$ asks for. One gradient, two directions, one of them wrong.
#
# </details>

# %%
beta1 = beta_of(six, axes, 1.0)
x12 = beta1 * project(six, axes).square().sum((1, 2))                      # (K,), x of each subspace
x = torch.linspace(0, 2.5, 100)
ax = plots.row(1, width=6)[0]
fig = plots.lines(x, {"exact 1/(1 + x)": 1 / (1 + x), "first approximation 1 − x": 1 - x},
                  xlabel="x = βσ²", ylabel="factor on the direction", title="Where 1 − x turns the step around", ax=ax,
                  vlines={"six tokens, subspace 1": x12[0].item(), "six tokens, subspace 2": x12[1].item()})
show(fig, alt="A convex falling curve that stays positive and a straight falling line that touches it at zero and crosses "
              "zero at x = 1; one of the two marked subspaces lies beyond the crossing",
     digest=f"x = {x12[0]:.2f} and {x12[1]:.2f}, approximate factors {1 - x12[0]:+.2f} and {1 - x12[1]:+.2f}")

# %% [markdown]
# How large is $x$ in practice? It is $\frac{p}{\varepsilon^2}$ times the mean square of the tokens along the direction.
# It is small only if the precision is coarser than the tokens themselves, and then there is nothing to
# compress. Exercise 3.1 asks you to redo the small computation behind (3.6).
#
# **Exercise 3.1.** Write a function that returns the *relative* error of $1 - x$ as a stand-in for $1/(1+x)$:
# exact minus approximate, divided by exact, simplified as far as it goes.

# %%
def answer_3_1(x):
    return ...  # your turn

exercise("3.1", answer_3_1)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3_1(x):
#     return x ** 2
# ```
#
# Multiply numerator and denominator by $1 + x$: $1 - (1 - x)(1 + x) = x^2$.
#
# </details>

# %% [markdown]
# ## 3.4 Second approximation: similarities become a softmax
#
# In $w_k(I - \beta G_k)$ each token gives away a combination of the others, weighted by similarity. The second
# idea is to turn the similarities of token $j$ into *weights*: positive numbers that add up to one (over tokens, not over groups as in $\Pi$). The
# softmax does that, column by column.
#
# $$
# \operatorname{softmax}(G)_{ij} = \frac{e^{G_{ij}}}{\sum_{l=1}^{n} e^{G_{lj}}} \tag{3.7}
# $$
#
# *(3.7) Definition. Column j holds the weights with which token j looks at all tokens i — textbook*
#
# So $\beta G_k$ is replaced by $\operatorname{softmax}(G_k)$, and $\beta$ disappears. This is no approximation
# with an error bound; it is a decision, and it should be looked at with open eyes.

# %%
G1 = project(six, axes)[0] @ project(six, axes)[0].T                       # (6, 6), what subspace 1 sees
soft = G1.softmax(0)                                                       # over i: each column sums to one
left, right = plots.row(2)
for ax, title, m in ((left, "βG in subspace 1", (beta1 * G1).round(decimals=2) + 0), (right, "softmax(G) in subspace 1", soft)):
    fig = plots.heat(m, title=title, xlabel="token j", ylabel="token i", unit="weight", numbers=True, ax=ax)
    ax.set(xticklabels="abcdef", yticklabels="abcdef")
show(fig, alt="Two six by six matrices. Left: large entries of both signs among a, b, c and almost zero elsewhere. "
              "Right: only positive entries, and columns d, e, f are nearly uniform",
     digest=f"token b looks at a with weight {beta1 * G1[0, 1]:+.2f} before and {soft[0, 1]:+.3f} after")

# %% [markdown]
# Three things changed. **Sign:** a and b lie on opposite sides of the origin. For a code they say the same (they
# span one line), and $\beta G$ has $-0.5$ there; for the softmax they are strangers. **Scale:** columns sum to
# one, whether a token is long or short; d, e, f, which subspace 1 hardly sees, now take the mean of everybody.
# **Range:** the result is a weighted mean of tokens, so no output is longer than the longest token:
#
# $$
# \max_j \left\|w_k \operatorname{softmax}(G_k)\, e_j\right\| \le \max_j \left\|w_k\, e_j\right\| \tag{3.8}
# $$
#
# *(3.8) Checked. A head's output stays within the hull of its tokens; equality when all are equal — textbook*
#
# The last one is a blessing. $\beta G$ grows with the tokens without limit, which is what broke the first
# approximation; the softmax can't.

# %%
def head(w):
    """One head on projected tokens (…, n, p): every token becomes a weighted mean of tokens."""
    return (w @ w.mT).softmax(-1) @ w                                      # softmax over the tokens looked at

# %% [markdown]
# In code the tokens are rows, so the same softmax runs over the last axis: $G$ is symmetric, and a column of
# the formula is a row of the code.

# %%
draws, same = torch.randn(200, 9, 2) * torch.logspace(-1, 1, 200)[:, None, None], torch.randn(1, 2).expand(9, 2)
longest = lambda y: y.norm(dim=-1).amax(-1)
check_below("3.8", longest(head(draws)), longest(draws), "200 heads, small to large tokens",
            equal=(longest(head(same)), longest(same)))

# %% [markdown]
# Is the replacement ever *right*? Yes, in one corner. For small similarities the softmax is nearly uniform, and
# its first-order term can be computed: multiply the similarities by $t$ and differentiate at $t = 0$. With
# $m_k$ the mean of head $k$'s tokens and $S_k = \frac1n w_k w_k^\top$ their second moment,
#
# $$
# \left.\frac{d}{dt}\ w_k \operatorname{softmax}(t\, G_k)\right|_{t=0} = \left(S_k - m_k m_k^\top\right) w_k \tag{3.9}
# $$
#
# *(3.9) Checked. For small similarities attention multiplies by the covariance — this series*

# %%
zero, one = torch.tensor(0.0), torch.tensor(1.0)
weigh = lambda t: (t * G).softmax(-1) @ w                                  # softmax over the tokens looked at
slope = torch.autograd.functional.jvp(weigh, zero, one)[1]                 # (3, 9, 2)
m = w.mean(1, keepdim=True)                                                # (3, 1, 2)
check("3.9", slope, w @ (w.mT @ w / 9 - m.mT @ m), "automatic derivative, against the covariance")

# %% [markdown]
# Compare with the term that the softmax replaces: $\beta w_k G_k = \frac{p}{\varepsilon^2} S_k w_k$. If
# tokens are centred ($m_k = 0$) and the softmax gets its scale back, $t = p/\varepsilon^2$, both
# agree to first order. So the second approximation is good exactly where the first one is, at coarse precision:

# %%
centred = project(nine - nine.mean(0), planes)
for eps2 in (1000.0, 100.0, 10.0, 1.0):
    t = 2 / eps2                                                           # p / ε²
    before = t / 9 * centred @ (centred.mT @ centred)                      # β w G
    after = (t * centred @ centred.mT).softmax(-1) @ centred               # softmax over the tokens looked at
    print(f"ε² = {eps2:6.0f}: relative error of softmax({t:.3f} G) for βG  {(after - before).norm() / before.norm():.3f}")

# %% [markdown]
# CRATE's published layer uses the scale $1/\sqrt p$, as all Transformers do. By this reading it works at
# $\varepsilon^2 = p\sqrt p$, for heads of width 32 a mean square error of 181: very coarse for tokens of unit
# length, and coarse even after a LayerNorm, which leaves about $p = 32$ of mean square to a head. Without a scale (the formula) it is $\varepsilon^2 = p$.

# %% [markdown]
# ## 3.5 Third approximation: the subspaces fill the space
#
# The first term of $\sum_k U_k w_k(I - \dots)$ is $\sum_k U_kU_k^\top Z$: project on every subspace and add up.
# If the subspaces were mutually orthogonal and filled the space, this would be $Z$ itself. How far it is from
# that can be said in closed form:
#
# $$
# \left\|\sum_{k=1}^{K} U_k U_k^\top - I\right\|_F^2 = d - Kp + \sum_{k \ne l} \left\|U_k^\top U_l\right\|_F^2 \tag{3.10}
# $$
#
# *(3.10) Checked. The third approximation is exact if and only if Kp = d and the subspaces are orthogonal — this series*
#
# Why "only if": an exact sum has trace $Kp = d$, and then every $U_k^\top U_l$ must vanish. A trained layer has no such
# constraint. CRATE sets $p = d/K$ and *hopes* for orthogonality ("incoherent" subspaces).

# %%
def free_frames(K, d, p):
    """K orthonormal bases that know nothing of each other."""
    return torch.linalg.qr(torch.randn(K, d, p))[0]

# %% [markdown]
# Six sets of frames: mutually orthogonal or not, too few, too many, small and large.

# %%
cases = [frames(3, 6, 2), frames(4, 128, 32), free_frames(3, 6, 2), free_frames(2, 6, 2),
         free_frames(4, 6, 3), free_frames(4, 128, 32)]
gap = torch.stack([(sum(u @ u.T for u in U) - torch.eye(U.shape[1])).square().sum() for U in cases])
cross = [sum((U[k].T @ U[l]).square().sum() for k in range(len(U)) for l in range(len(U)) if k != l) for U in cases]
check("3.10", gap, torch.stack([U.shape[1] - len(U) * U.shape[2] + c for U, c in zip(cases, cross)]), "six sets of frames")
print(f"4 random frames of width 32 in 128 dimensions: relative error {(gap[-1] / 128).sqrt():.2f}")

# %% [markdown]
# Frames that know nothing of each other are far off: the error is nearly as large as the identity itself. In this lesson we keep
# them mutually orthogonal, with $Kp = d$, unless we say otherwise. Then the first and third approximations together give, with $\gamma = \tau\beta$
# for the step size,
#
# $$
# Z - \gamma \sum_{k=1}^{K} U_k\, w_k \left(I - \beta\, G_k\right) = (1 - \gamma)\, Z + \gamma \sum_{k=1}^{K} U_k\, w_k\, \beta\, G_k \tag{3.11}
# $$
#
# *(3.11) Checked. The step is a mixture of the token itself and a similarity-weighted sum — Yu et al. 2023*

# %%
gamma = 0.5
step = nine - gamma * lift((torch.eye(9) - beta * G) @ w, planes)
check("3.11", step, (1 - gamma) * nine + gamma * lift(beta * G @ w, planes), "nine tokens, three orthogonal planes")

# %% [markdown]
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
# Z^{+} = (1 - \gamma)\, Z + \gamma \operatorname{MSSA}(Z) \tag{3.13}
# $$
#
# *(3.13) Definition. The derived update: an approximate descent step on the compression rate, 0 < γ < 1 — Yu et al. 2023*
#
# Every head lets each token collect a mean of the tokens that are similar *in that head's subspace*, and the
# heads' answers are lifted back and added. In code, one loop over heads:

# %%
def my_mssa(x, U):
    y = torch.zeros_like(x)                                                # (n, d)
    for basis in U:                                                        # (d, p)
        y = y + head(x @ basis) @ basis.T                                  # (n, p) back to (n, d)
    return y

agree(my_mssa, attention.mssa, six, axes)
agree(my_mssa, attention.mssa, nine, planes)

# %% [markdown]
# The **fourth approximation** is what happens between (3.13) and a layer that people run: the factor
# $1 - \gamma$ in front of $Z$ and the $\gamma$ in front of MSSA are dropped, $Z + \operatorname{MSSA}(Z)$; the
# lifts $U_k$ become a free matrix with a bias; and the tokens are normalised on the way in (LayerNorm). Let us
# see all stages on six tokens, for $\varepsilon^2 = 1$.

# %%
def stages(x, U, eps2):
    """Where one step moves the tokens, by stage: the exact descent direction, then one approximation after the other."""
    w, beta = project(x, U), beta_of(x, U, eps2)
    mssa = attention.mssa(x, U)
    return {"exact": -rates.subspace_rate_grad(x, U, eps2) / beta,
            "1 difference": -lift(w - beta * w @ (w.mT @ w), U),
            "2 softmax": mssa - lift(w, U),
            "3 filled space": mssa - x,
            "4 as built": mssa}

# %%
panels = plots.row(2, 4.6, 3.4, rows=2)
moves = stages(six, axes, 1.0)
for ax, name in zip(panels, ("exact", "1 difference", "3 filled space", "4 as built")):
    fig = plots.points(six, arrows=moves[name], names="abcdef", title=name, equal=False, ax=ax)
    ax.set(xlim=(-4, 4), ylim=(-2.8, 2.8), aspect="equal"), ax.get_legend().remove()
sideways = {name: (move * six)[:, 0].sum().item() for name, move in moves.items()}
show(fig, alt="Four panels with the six tokens and an arrow from each. Exact: all arrows point towards the origin. Difference: "
              "arrows of a, b, c point outward. Filled space: all but c come closer to the origin again. As built: away from it",
     digest="push along coordinate 1, outward positive: " + ", ".join(f"{v:+.1f} ({k})" for k, v in sideways.items()))

# %% [markdown]
# The exact step pulls everything in. The difference pushes a, b, c *outward*, as
# predicted. The softmax repairs it on the whole, because its weighted mean is bounded by (3.8); only c, whose likes lie farther out, still
# moves outward. (Stage 2 is not drawn: these two frames fill the plane, so it equals stage 3.) And the layer as built,
# which adds the mean instead of moving towards it, pushes everything outward. We come back to that in 3.8.
#
# **Exercise 3.2.** Write one head of (3.12) without looking up: tokens of the head as rows, `w` of shape (n, p),
# and the result of the same shape. Mind the axis of the softmax.

# %%
def answer_3_2(w):
    return ...  # your turn

exercise("3.2", answer_3_2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3_2(w):
#     return (w @ w.T).softmax(-1) @ w
# ```
#
# Row $j$ of the code is column $j$ of the formula: its weights must sum to one over the tokens looked at, the last axis.
#
# </details>

# %% [markdown]
# ### The same on a real photo
#
# Six tokens in two dimensions may be special. So take 400 patches of a photo (16 × 16 pixels, in a colour space
# in which distance is what eyes see) and their 128 principal coordinates, strongest first. The coordinates are dealt out
# to four heads in turn, 32 to each. All tokens are scaled to unit length. The code does not change.

# %%
photo = photos.sample("china", 480)[:, 80:400]                             # (320, 320, 3)
tokens, grid = photos.tokens(photo, d=128, size=16, stride=16)             # (400, 128), a 20 × 20 grid
tokens = torch.nn.functional.normalize(tokens, dim=-1)
dealt = torch.eye(128).reshape(128, 32, 4).permute(2, 0, 1)                # (K, d, p) = (4, 128, 32)
unrelated = free_frames(4, 128, 32)

def cosine(a, b):
    return ((a * b).sum() / (a.norm() * b.norm())).item()

# %% [markdown]
# Each row below is a precision, each column a stage, and each number the cosine between the stage's step and the
# exact descent direction: 1 is perfect, 0 is worthless, negative is uphill. The last column is the honest
# comparison: a step that only shrinks every token, $-Z$, and knows nothing of any similarity.

# %%
def ledger(x, U):
    for eps2 in (100.0, 10.0, 1.0, 0.1):
        moves = stages(x, U, eps2) | {"shrink": -x}
        exact = moves.pop("exact")
        print(f"ε² = {eps2:5.1f}  " + "  ".join(f"{k} {cosine(v, exact):+.2f}" for k, v in moves.items()))

# %% [markdown]
# **Predict:** from which stage on will the cosine be negative, and at which precision?
#
# <details><summary>Answer</summary>
#
# The strongest direction flips once its $x = \beta\sigma^2$ passes one; the cosine of the whole step follows somewhat later,
# when that direction outweighs the others. The softmax stage keeps its direction. The layer as built is negative everywhere.
#
# </details>

# %%
print("four orthogonal subspaces")
ledger(tokens, dealt)
print("four subspaces that know nothing of each other")
ledger(tokens, unrelated)

# %% [markdown]
# Read the first block. At $\varepsilon^2 = 100$ the difference is accurate, but so is plain shrinking: there is nothing to
# attend to, and the softmax, which knows no $\varepsilon$, does slightly worse than both. At $\varepsilon^2 = 1$ the difference alone points nowhere (it is dominated by the few
# directions with large $x$, which it stretches), while the softmax step reaches 0.85 where shrinking has 0.58:
# here attention does know something. The layer as built points uphill throughout. The second block shows
# what the third approximation costs when the subspaces overlap.

# %%
sweep = torch.logspace(-2, 2, 25)
rows = [stages(tokens, dealt, float(e)) | {"shrink": -tokens} for e in sweep]
curves = {k: [cosine(r[k], r["exact"]) for r in rows] for k in ("1 difference", "3 filled space", "4 as built", "shrink")}
fig = plots.lines(sweep, curves, xscale="log", xlabel="precision ε²", ylabel="cosine with the exact step",
                  ax=plots.row(1, width=6)[0], title="What each stage keeps of the direction (400 photo patches)",
                  hlines={"at right angles": 0})
flip = max(e.item() for e, c in zip(sweep, curves["1 difference"]) if c < 0)
best = max(range(25), key=lambda i: curves["3 filled space"][i] - curves["shrink"][i])
show(fig, alt="Cosine against precision: the difference falls from one to below zero as precision gets finer, the softmax stage "
              "stays above plain shrinking except at the coarse end, and the layer as built stays below zero",
     digest=f"the difference points uphill from ε² ≈ {flip:.0f} down; the softmax step beats shrinking by up to "
            f"{curves['3 filled space'][best] - curves['shrink'][best]:.2f}")

# %% [markdown]
# ## 3.7 What textbook attention has to do with it
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

# %%
sdpa = torch.nn.functional.scaled_dot_product_attention
textbook = torch.nn.MultiheadAttention(6, 3, bias=False, batch_first=True)
W = planes.mT.reshape(6, 6)                                                # rows: U_1ᵀ, U_2ᵀ, U_3ᵀ
textbook.in_proj_weight.data, textbook.out_proj.weight.data = torch.cat([W, W, W]), W.T
by_hand = lift((G / math.sqrt(2)).softmax(-1) @ w, planes)                 # softmax over the keys
whole = textbook(nine[None], nine[None], nine[None])[0][0]                  # (9, 6)
check("3.15", by_hand.expand(2, 9, 6), torch.stack([lift(sdpa(w, w, w), planes), whole]),
      "formula, against PyTorch's head and layer")

# %% [markdown]
# The library holds MSSA as a layer too, with CRATE's free output matrix or, `tied=True`, with the transposed
# projection that the derivation asks for. It takes a batch of token sets, here $(1, 400, 128)$, and has fewer
# parameters than textbook attention, because one matrix does the work of three.

# %%
layer, tied = attention.MSSA(128, 4), attention.MSSA(128, 4, tied=True)
tied.qkv.weight.data = dealt.mT.reshape(128, 128)

def scaled_mssa(x):
    return attention.mssa(x, dealt, 1 / math.sqrt(32))

agree(scaled_mssa, tied.forward, tokens[None])

# %% [markdown]
# The number of parameters, beside the textbook layer of the same width:

# %%
size = lambda module: sum(q.numel() for q in module.parameters())
print("output", tuple(layer(tokens[None]).shape), "· parameters: MSSA", size(layer), "tied", size(tied),
      "textbook", size(torch.nn.MultiheadAttention(128, 4)))

# %% [markdown]
# What is lost by using one matrix? The similarity is symmetric ($i$ looks at $j$ as strongly as $j$ at
# $i$, before normalisation), and the largest similarity of a long token is usually that with itself. A textbook head can
# learn "look one to the left"; this one can only learn "look at your like". The picture shows it: for the marked
# patch, the weights of the four heads, on tokens that went through a LayerNorm as in CRATE. Nothing is trained here:
# the heads are principal coordinates. Even so, head 1 has decided that the patch belongs to the dark things and not to
# the sky.

# %%
normed = torch.nn.functional.layer_norm(tokens, (128,))
at = 12 * 20 + 8                                                           # row 12, column 8 of the grid
weights = (project(normed, dealt) @ project(normed, dealt).mT / math.sqrt(32)).softmax(-1)[:, at]   # (4, 400)
marked = photo.copy()
marked[192:208, 128:144] = [230, 0, 0]

# %% [markdown]
# The maps show the logarithm of the weight, with 0 for the plain mean $1/n$: yellow patches are looked at, blue ones ignored.

# %%
maps = [(400 * a).clamp_min(1e-9).log10().reshape(grid) for a in weights]  # 0 = the plain mean
fig = plots.pictures([marked, *maps], ["photo, patch in red", *(f"head {k + 1}" for k in range(4))], columns=5,
                     unit="log₁₀(weight · n)", vmin=-1.5, vmax=1.5)
dark = photo.mean(-1).reshape(20, 16, 20, 16).mean((1, 3)).flatten() < 128
show(fig, alt="A photo of a Chinese temple with a red patch, and four coarse maps: head 1 gives weight to temple and trees and "
              "none to the sky, head 2 to the horizontal bands of the roofs, heads 3 and 4 are nearly uniform",
     digest="share of the weight on dark patches by head: " + ", ".join(f"{a[dark].sum():.2f}" for a in weights)
            + f"; dark patches are {dark.mean():.2f} of all")

# %% [markdown]
# ## 3.8 The honest surprise: the sign
#
# The derived update (3.13) pointed downhill in all that we measured. The layer that people run adds MSSA *without* shrinking: $Z +
# \operatorname{MSSA}(Z)$. **Predict:** does that lower the compression rate?
#
# <details><summary>Answer</summary>
#
# No. MSSA alone points uphill; the descent in (3.13) comes from the $-\gamma Z$ that the layer drops. Two
# facts explain it, (3.16) and (3.17) below.
#
# </details>
#
# First, scale. Growing all tokens raises the rate, always; along $Z$ the slope is a sum over all singular directions:
#
# $$
# \left\langle \nabla R^c(Z),\, Z \right\rangle = \sum_{k=1}^{K} \sum_{i=1}^{p} \frac{x_{ki}}{1 + x_{ki}} \ge 0, \qquad x_{ki} = \beta\, \sigma_{ki}^2 \tag{3.16}
# $$
#
# *(3.16) Checked. Making all tokens longer raises the rate, so plain shrinking is a descent direction — this series*

# %%
slopes, sums = [], []
for X, U in pairs:
    for eps2 in (0.1, 1.0, 10.0):
        x = beta_of(X, U, eps2) * torch.linalg.svdvals(project(X, U)) ** 2
        slopes.append(torch.func.grad(lambda t: rates.subspace_rate(t * X, U, eps2))(one))
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

# %%
draws = (torch.randn(200, 9, 6) + torch.randn(200, 1, 6)) * torch.logspace(-1, 1, 200)[:, None, None]
outward = lambda x: (x * attention.mssa(x, planes)).sum((-2, -1))
means = lambda x: x.shape[-2] * torch.einsum("...nd,kdp->...knp", x, planes).mean(-2).square().sum((-2, -1))
equal_tokens = nine[:1].expand(9, 6)
check_below("3.17", means(draws), outward(draws), "200 sets of tokens", equal=(means(equal_tokens), outward(equal_tokens)))

# %% [markdown]
# For mutually orthogonal heads of width one this is a proof that MSSA is an ascent direction of $R^c$, since there the exact
# gradient is a positive multiple of each $w_k$, and the proof of (3.17) goes head by head. For wider heads it is what one sees. Count:

# %%
unit = torch.nn.functional.normalize
crowd, U = unit(torch.randn(200, 40, 12), dim=-1), frames(3, 12, 4)
rate = lambda x: rates.subspace_rate(x, U, 0.3)
y, start = attention.mssa(crowd, U), rate(crowd)
uphill = (rates.subspace_rate_grad(crowd, U, 0.3) * y).sum((1, 2)) > 0
print(f"MSSA alone is an ascent direction in {uphill.sum()} of 200 draws")
for name, x in {"½Z + ½MSSA": (crowd + y) / 2, "Z + ½MSSA": crowd + y / 2,
                "Z + ½MSSA, then unit length": unit(crowd + y / 2, dim=-1)}.items():
    print(f"{name:29} lowers the rate in {(rate(x) < start).sum():3} of 200; mean rate {start.mean():.3f} → {rate(x).mean():.3f}")

# %% [markdown]
# "What one sees" is not "always". The gradient stresses thin directions, and in a thin direction the softmax can turn the sign:
# of two near neighbours the longer one attracts both. Sixteen such pairs on a circle, each with a thin direction of its own,
# tokens of length 30 and one head on the whole space, outvote the circle:

# %%
turn, own = torch.arange(16) * 2 * math.pi / 16, torch.eye(16)
around = torch.stack([turn.cos(), turn.sin()], 1)                          # (16, 2)
twins = torch.cat([torch.cat([30.0 * around, -0.2 * own], 1), torch.cat([29.8 * around, 0.5 * own], 1)])   # (32, 18)
one_head = torch.eye(18)[None]                                             # (1, 18, 18)
along_mssa = (rates.subspace_rate_grad(twins, one_head, 0.01) * attention.mssa(twins, one_head)).sum()
print(f"slope of the rate along MSSA for sixteen pairs: {along_mssa:+.1f}")

# %% [markdown]
# So neither "MSSA descends" nor "MSSA ascends" is a theorem; outward it points always, on the whole, by (3.17), and uphill in all random
# draws. The third line of the count is the way out that the layer itself takes. Before each layer stands a LayerNorm, which sets the
# length of all tokens anew. If length is taken out of the comparison, the layer as built does compress, by a little on
# random tokens and by a good deal on those of a photo:

# %%
gammas = torch.linspace(0, 1.2, 25)
mssa, exact = attention.mssa(tokens, dealt), stages(tokens, dealt, 1.0)["exact"]
paths = {"exact gradient step": lambda g: tokens + g * exact,
         "derived (1 − γ)Z + γ MSSA": lambda g: tokens + g * (mssa - tokens),
         "as built Z + γ MSSA": lambda g: tokens + g * mssa,
         "as built, then unit length": lambda g: unit(tokens + g * mssa, dim=-1)}
curves = {name: torch.stack([rates.subspace_rate(path(g), dealt, 1.0) for g in gammas]) for name, path in paths.items()}
fig = plots.lines(gammas, curves, xlabel="step γ", ylabel="Rᶜ in nats", ax=plots.row(1, width=6)[0],
                  title="One step of each kind (400 photo patches, ε² = 1)")
show(fig, alt="Rate against step size: the exact and the derived step fall, the layer as built rises, and the "
              "same with tokens set back to unit length falls",
     digest=f"at γ = {gammas[10]:.1f}, from {curves['exact gradient step'][0]:.2f} nats to "
            + ", ".join(f"{c[10]:.2f} ({name.split(' (')[0]})" for name, c in curves.items()))

# %% [markdown]
# So here is what may be said. "MSSA is a descent step on the compression rate" holds for the form (3.13), or up to the length
# of the tokens. It does not hold for $Z + \operatorname{MSSA}(Z)$ as it stands, and in the layer with a *free* output
# matrix nothing fixes even the sign: training decides. Hu et al. 2024 study such deviations in trained models. Lesson 5 will meet
# the same question again, with a better answer: TSSA keeps its minus sign, and as long as its output map is tied and $\Pi$ is held fixed, a
# step size can be proved. (With a free output map its sign is free too: lesson 7.)
#
# **Exercise 3.3.** One token and one head of width one ($n = p = d = K = 1$, $U = 1$, token $z$). Return a tensor with two
# numbers: the rate $R^c$ after the derived update (3.13) with $\gamma = \frac12$, and after $z + \frac12 \operatorname{MSSA}(z)$.

# %%
def answer_3_3(z, eps2):
    return ...  # your turn: torch.tensor([derived, as built]), in nats

exercise("3.3", answer_3_3)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3_3(z, eps2):
#     after = torch.tensor([z, 1.5 * z], dtype=torch.float64)
#     return 0.5 * torch.log1p(after ** 2 / eps2)
# ```
#
# The softmax of a single number is 1, so MSSA$(z) = z$: the derived update does nothing, although the rate could be
# lowered by shrinking. The softmax has thrown the information about scale away.
#
# </details>

# %% [markdown]
# ## 3.9 The other half of the block: ISTA
#
# CRATE maximises the *sparse* rate reduction: $R(Z) - R^c(Z)$ minus a price $\lambda$ on the number of non-zero
# coordinates. Attention does the $R^c$ part. The other two aims, a large $R(Z)$ and few non-zero coordinates, are left to a second step,
# which replaces the MLP of
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

# %%
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
# The bowl lies above the square as long as it is steep enough, and then the jump can't raise the objective
# ($\|Q\|$ is the largest singular value):
#
# $$
# h\left(\operatorname{ReLU}(Z + t\, Q^\top (Z - QZ) - t\lambda)\right) \le h(Z) \qquad \text{for } Z \ge 0,\ 0 < t \le \frac{1}{\|Q\|^2} \tag{3.20}
# $$
#
# *(3.20) Checked. A step of this length never raises the objective; equality at a fixed point — Beck & Teboulle 2009*
#
# The condition $Z \ge 0$ matters, because only then is the starting point allowed. Tokens that come
# out of attention have both signs, so in the block the guarantee does not cover the step as such.

# %%
def h(A, Z, Q, lam=0.1):
    return lam * A.abs().sum((-2, -1)) + 0.5 * (Z - A @ Q.mT).square().sum((-2, -1))

# %% [markdown]
# A hundred random dictionaries, far from orthogonal, each with the longest step that the bound allows:

# %%
Qs, Zs = torch.randn(100, 6, 6), torch.rand(100, 9, 6)
lengths = 1 / torch.linalg.matrix_norm(Qs, 2) ** 2                          # (100,), the longest safe steps
after = torch.stack([attention.ista_step(z, q, t.item(), 0.1) for z, q, t in zip(Zs, Qs, lengths)])
still, half = torch.full((9, 6), 0.4), torch.eye(6) / 2                    # ½(z − z/2) = λ at z = 0.4
check_below("3.20", h(after, Zs, Qs), h(Zs, Zs, Qs), "100 dictionaries",
            equal=(h(attention.ista_step(still, half, 4.0), still, half), h(still, still, half)))

# %% [markdown]
# Three times that length, and the guarantee is gone. And how sparse does one step make the tokens? CRATE fixes
# $t = \lambda = 0.1$. On the photo's tokens, normalised as in the layer and with a random orthogonal dictionary:

# %%
ones = torch.ones(9, 6)
print(f"Q = I/2, step 3/‖Q‖²: objective {h(ones, ones, half):.1f} → {h(attention.ista_step(ones, half, 12.0), ones, half):.1f}")
rotation = torch.linalg.qr(torch.randn(128, 128))[0]
share = lambda A: 100 * (A == 0).double().mean().item()
print(f"zeros after a plain ReLU {share(normed.relu()):.0f} %, after the ISTA step {share(attention.ista_step(normed, rotation)):.0f} %")

# %% [markdown]
# All the zeros are the ReLU's work. With an untrained dictionary the step itself does not make the tokens sparser, here even
# a little less sparse, because a random rotation mixes the coordinates. Sparsity is what the dictionary has to *learn*; the
# formula only leaves room for it.

# %% [markdown]
# ## 3.10 The bill
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
# And the exact gradient in its $p \times p$ form (3.2), which approximates nothing? Projection and lift as before; the
# second moment and the product with the inverse are $n p^2$ a head, $n\, d\, p$ in total, each:
#
# $$
# \text{MACs of the exact step} = 2\, n\, d^2 + 2\, n\, d\, p \tag{3.22}
# $$
#
# *(3.22) Checked. Linear in the number of tokens; the K inverses of p × p are not counted — this series*
#
# PyTorch's counter does not know the fused attention kernel for CPUs (it would report zero for it), so we ask for the
# plain one, which forms the same products.

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

def exact_step(x, U, eps2):
    w, beta = torch.einsum("nd,kdp->knp", x, U), beta_of(x, U, eps2)       # n d²
    S = w.mT @ w                                                           # n d p
    inverse = torch.linalg.inv(torch.eye(S.shape[-1]) + beta * S)          # (K, p, p)
    return beta * torch.einsum("knp,kdp->nd", w @ inverse, U)              # n d p, n d²

agree(exact_step, rates.subspace_rate_grad, tokens, dealt, 1.0)

# %%
def macs(f, *inputs):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        f(*inputs)
    return counter.get_total_flops() / 2

# %% [markdown]
# From one token to a thousand, three widths, two to eight heads:

# %%
sizes = [(1, 8, 2), (49, 64, 4), (400, 128, 4), (1000, 96, 8)]             # n, d, K
quadratic = [macs(attention.MSSA(d, K), torch.randn(1, n, d)) for n, d, K in sizes]
check("3.21", quadratic, [2 * n * d * d + 2 * n * n * d for n, d, K in sizes], "PyTorch's counter, four sizes")
linear = [macs(exact_step, torch.randn(n, d), frames(K, d, d // K), 1.0) for n, d, K in sizes]
check("3.22", linear, [2 * n * d * d + 2 * n * d * (d // K) for n, d, K in sizes], "PyTorch's counter, four sizes")

# %%
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
# A remarkable situation. The *exact* step is linear in the number of tokens; the quadratic cost came in with the $n \times n$
# form and the softmax, as the price of an approximation. So the often-heard "attention is quadratic by nature" does not
# follow from this derivation: it is not compression that is quadratic, it is the softmax.
#
# What then is left to improve? The exact step needs a $p \times p$ inverse for each head and each image, which wants full precision
# and does not export well to the formats that detectors are shipped in, and $p^2$ statistics a head. The next lesson
# finds a bound of the rate that needs only $p$ numbers a head and no inverse at all. Its gradient step is TSSA.
#
# **Exercise 3.4.** At how many tokens does MSSA cost exactly twice as much as the exact step? A function of the model
# width `d` and the head width `p`.

# %%
def answer_3_4(d, p):
    return ...  # your turn

exercise("3.4", answer_3_4)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3_4(d, p):
#     return d + 2 * p
# ```
#
# $2nd^2 + 2n^2d = 2\,(2nd^2 + 2ndp)$; divide by $2nd$: $d + n = 2d + 2p$. For $d = 128$, $p = 32$ that is 192 tokens.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - Learned subspaces take the place of memberships: $R^c(Z) = \sum_k R(U_k^\top Z)$. Its exact gradient multiplies the tokens of
#   each head by one small matrix, at a cost linear in $n$.
# - In the $n \times n$ form the gradient is what ridge regression on all tokens can't explain; this is the form that
#   turns into attention.
# - Four approximations lead to MSSA. The truncated series has relative error $x^2$ and flips its sign at $x > 1$; the softmax has no
#   error bound (it is right to first order for small similarities of centred tokens), but it is bounded and repairs the flip; the third needs orthogonal subspaces
#   that fill the space; the fourth drops the shrinking.
# - MSSA is textbook attention with one matrix for queries, keys, values and (transposed) output.
# - MSSA alone points outward, always (over all tokens together), and uphill on the rate in every random draw (a constructed exception
#   exists); $(1-\gamma)Z + \gamma\operatorname{MSSA}(Z)$
#   lowers the rate in all of them, and the layer as built in nearly all, once the length of tokens is taken out.
# - The quadratic bill belongs to the softmax, not to compression.
#
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
