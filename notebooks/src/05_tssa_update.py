# %% [markdown]
# # Lesson 5 · The TSSA update
#
# [◀ previous](04_variational_bound.ipynb) · [contents](00_start_here.ipynb) · [next ▶](06_memberships.ipynb)
#
# Lesson 4 ended with a rate that needs no determinants. What happens to the tokens if we walk one step down this rate, and how long may the step be?
#
# **After this you can**
#
# - derive the gradient of $R_c^{\mathrm{var}}$, recognise Token Statistics Self-Attention (TSSA) in it, and write it yourself;
# - prove that a tied TSSA step lowers its objective for every $\gamma\in(0,2)$, and show why 2 cannot be improved;
# - say where that guarantee ends.
#
# **You should be able to answer:**
# - What does a token have to know about all the others before it can move?
# - Why is every $\gamma$ between 0 and 2 safe, whatever the data, and why no longer one?
# - Which conditions of that theorem does a trained layer break?
#
# **Before this:** [lesson 2](02_rate_reduction.ipynb) (memberships, $R_c$) and [lesson 4](04_variational_bound.ipynb) (the variational bound).
#
# **Time:** about 39 minutes to read, 20 seconds to run on two CPU cores; with Going deeper about 43 minutes more.

# %%
import math

import torch

from tssa_lib import rates, tssa
from kit import DIFFERENCES, REACHED, agree, attention, check, check_below, exercise, live, mine, plots, show

torch.set_default_dtype(torch.float64)
_ = torch.manual_seed(0)

# %% [markdown]
# ## 5.1 The objective
#
# The six tokens $a$ to $f$ again, at the price $\varepsilon^2=0.1$. Tokens are columns $z_j$ of $Z$ in the mathematics and rows of `x` in the code. Each group gets a complete basis, here simply both coordinates, $U_1=U_2=I$, so that lesson 4's bound holds ($p=d$). The memberships are soft: 0.9 to the own group (a, b, c or d, e, f), 0.1 to the other.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])
U = torch.eye(2).repeat(2, 1, 1)                                         # (K, d, p) = (2, 2, 2)
Pi = torch.tensor([[.9, .9, .9, .1, .1, .1], [.1, .1, .1, .9, .9, .9]])  # (K, N)
eps2 = 0.1                                                               # ε², so c = d/ε² = 20

# %% [markdown]
# In group $k$ each coordinate of $U_k^{\top}Z$ is coded by itself, and all that the code has to know about a coordinate is its second moment:
#
# $$
# R_c^{\mathrm{var}}(Z,\Pi\mid U)=\frac12\sum_{k=1}^{K}\frac{n_k}{n}\sum_{i=1}^{p}f(s_{ki}),\qquad f(x)=\ln(1+cx),\quad c=\frac{d}{\varepsilon^2} \tag{5.1}
# $$
#
# *(5.1) Definition. The variational compression rate, in nats — Wu et al. 2024 · `rates.variational_rate`*
#
# $$
# s_{ki}=\frac{1}{n_k}\sum_{j=1}^{n}\pi_{jk}\,(u_{ki}^{\top}z_j)^2,\qquad n_k=\sum_{j=1}^{n}\pi_{jk} \tag{5.2}
# $$
#
# *(5.2) Definition. Second moment of coordinate i in group k, weighted by membership — Wu et al. 2024 · `tssa.second_moments`*
#
# Do the first number by hand. Group 1 has $n_1=0.9\cdot3+0.1\cdot3=3$ members. In coordinate 1 its sum is $0.9\,(4+2.25+1)+0.1\,(0.01+0.04+0.01)=6.531$, a third of which is 2.177.
#
# **Exercise 5a. The statistics.** The projected tokens `w` hold $w_{kji}=u_{ki}^{\top}z_j$. Write (5.2). (It is 4a: paste yours, or write it anew.)

# %%
def my_moments(w, Pi):                                                   # w (K, N, p), Pi (K, N) → (K, p)
    return ...  # your turn


def second_moments(w, Pi):                                               # the layer adds 1e-8 to n_k, the formula does not
    return tssa.second_moments(w, Pi, mass=0.0)


moments = mine("5a", my_moments, second_moments)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_moments(w, Pi):
#     return (Pi[..., None] * w ** 2).sum(1) / Pi.sum(1)[:, None]
# ```
#
# The sum runs over the tokens, axis 1 of `w`; each group is divided by its own mass $n_k$.
#
# </details>

# %% tags=["hide-input"]
# the rate (5.1) with your moments, and the moments of the six tokens
def project(x, U):
    return torch.einsum("nd,kdp->knp", x, U)                             # (K, N, p)


def rate(x, Pi, U, eps2):                                                # (5.1)
    s, c = moments(project(x, U), Pi), x.shape[1] / eps2
    return 0.5 * (Pi.sum(1) / len(x) * torch.log1p(c * s).sum(1)).sum()


agree(rate, rates.variational_rate, six, Pi, U, eps2)
print("s_1, s_2 =", [[round(v, 3) for v in s_k] for s_k in moments(project(six, U), Pi).tolist()])

# %% [markdown]
# Group 1 is strong in coordinate 1 and weak in coordinate 2, group 2 the other way round.
#
# ## 5.2 The gradient
#
# We move the tokens so that the rate falls. Meanwhile **we hold $\Pi$ fixed**: a table of numbers, not a function of $Z$. The published operator makes the same choice ([what it drops](#What-is-dropped-when-Π-depends-on-Z)).
#
# Then only $s_{ki}$ depends on $z_j$, and $\partial s_{ki}/\partial z_j=\frac{2}{n_k}\pi_{jk}(u_{ki}^{\top}z_j)\,u_{ki}$. The chain rule multiplies this with $\frac12\frac{n_k}{n}f'(s_{ki})$. The factors $n_k$ cancel, the 2 cancels, and $1/n$ stays:
#
# $$
# \nabla_{z_j}R_c^{\mathrm{var}}=\frac1n\sum_{k=1}^{K}\pi_{jk}\,U_kD_kU_k^{\top}z_j \tag{5.3}
# $$
#
# *(5.3) Checked. Gradient with memberships held fixed — Wu et al. 2024 · `rates.variational_rate_grad`*
#
# $$
# D_k=\operatorname{Diag}\bigl(f'(s_{k1}),\dots,f'(s_{kp})\bigr),\qquad f'(x)=\frac{c}{1+cx} \tag{5.4}
# $$
#
# *(5.4) Checked. The gates: the slope of f at each second moment — Wu et al. 2024 · `tssa.gates`*
#
# All that token $j$ has to know about the other tokens sits in $D_k$: $K\cdot p$ numbers. Nobody compares token with token, so the cost is linear in $n$.
#
# The check asks automatic differentiation and central differences, for complete bases, for heads of $p=d/K$ directions, and for arbitrary matrices: the derivation never used orthogonality.

# %% tags=["hide-input"]
# two judges and three kinds of bases; check of (5.3) and (5.4)
def autograd(f, x):
    return torch.autograd.functional.jacobian(f, x)


def central(f, x, h=1e-5):
    g = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros(x.numel()).index_fill(0, torch.tensor(i), h).view_as(x)
        g.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return g


def bases(kind, K=3, d=6):
    Q = torch.linalg.qr(torch.randn(K, d, d))[0]                         # (K, d, d)
    return {"complete": Q, "blocks": Q[0].mT.unflatten(0, (K, -1)).mT, "arbitrary": torch.randn(K, d, 4)}[kind]


KINDS = ("complete", "blocks", "arbitrary")
draws = [(torch.randn(9, 6), torch.randn(3, 9).softmax(0), bases(kind)) for kind in KINDS]  # softmax over the groups
ours = torch.stack([rates.variational_rate_grad(*draw, 0.5) for draw in draws])
judges = [torch.stack([judge(lambda x: rates.variational_rate(x, Pi_, U_, 0.5), x_) for x_, Pi_, U_ in draws])
          for judge in (autograd, central)]
check("5.3", torch.stack([ours, ours]), torch.stack(judges), "gradient = autograd = differences", DIFFERENCES)
s = torch.rand(50) * 10
check("5.4", tssa.gates(s, 4.0), autograd(lambda s: torch.log1p(4 * s).sum(), s), "gate = slope of ln(1 + 4s)")

# %% [markdown]
# A gate $c/(1+cs)$ falls as the second moment grows. A coordinate in which the group is strong is left almost alone; one in which it is weak gets the full pull towards zero.
#
# **Predict:** a token that belongs wholly to the group takes the step $-tD_k$ times its coordinates, $t=1/c$. By which factor is a coordinate multiplied if its
# second moment is $s=0$? If $s=1/c$? If $s\gg1/c$?
#
# <details><summary>Answer</summary>
#
# The factor is $1-\frac1c\frac{c}{1+cs}=\frac{cs}{1+cs}$: zero at $s=0$, one half at $s=1/c$, almost one for large $s$. Weak coordinates are erased, strong ones kept.
#
# </details>

# %% tags=["hide-input"]
# figure: the gate, and what a step leaves of a coordinate
s = torch.linspace(0, 1, 121)
left, right = plots.row(2)
plots.lines(s, {f"c = {c}": tssa.gates(s, c) / c for c in (1, 4, 20)}, ax=left,
            title="The gate, in units of its largest value c", xlabel="second moment s", ylabel="D/c")
fig = plots.lines(s, {f"c = {c}": 1 - tssa.gates(s, c) / c for c in (1, 4, 20)}, ax=right,
                  title="What the step t = 1/c leaves of a coordinate", xlabel="second moment s", ylabel="factor cs/(1 + cs)")
for ax in (left, right):
    ax.plot([1, 1 / 4, 1 / 20], [0.5] * 3, "o", color="black", zorder=3)
    ax.annotate("half at s = 1/c", (1 / 4, 0.5), xytext=(8, 8), textcoords="offset points", fontsize=9)
show(fig, alt="Two panels over the second moment: the gate falls from one towards zero, the factor rises from zero towards one, both faster for larger c; half is passed at s = 1/c.",
     digest=f"c = 20: at s = 1/c the gate is {tssa.gates(s[6], 20) / 20:.2f} of c; at s = {s[-1]:.0f} the factor is {1 - tssa.gates(s[-1], 20) / 20:.3f}")

# %% [markdown]
# ## 5.3 The operator
#
# Walk against the gradient with step $\tau$ and collect all tokens in one matrix. This is the TSSA operator:
#
# $$
# \begin{aligned}
# \mathrm{TSSA}(Z)&=-\tau\,\nabla R_c^{\mathrm{var}}=-\frac{\tau}{n}\sum_{k=1}^{K}U_kD_kU_k^{\top}Z\operatorname{Diag}(\pi_k)\\
# Z^{+}&=Z+\mathrm{TSSA}(Z)
# \end{aligned} \tag{5.5}
# $$
#
# *(5.5) Checked. The TSSA operator is a gradient step on the variational rate — Wu et al. 2024 · `tssa.tssa_update`*
#
# The step comes as $\tau/n$, so we name it: **$t=\tau/n$**. A safe $t$ will not depend on the number of tokens, while a safe $\tau$ would.
#
# **Exercise 5b. TSSA.** Project, take the second moments, turn them into gates, weight with the memberships, project back. Write the update (5.5) without loops over tokens.

# %%
def my_update(x, Pi, U, eps2, t):                                        # x (N, d), Pi (K, N), U (K, d, p) → (N, d)
    return ...  # your turn


update = mine("5b", my_update, tssa.tssa_update)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_update(x, Pi, U, eps2, t):
#     w, c = torch.einsum("nd,kdp->knp", x, U), x.shape[1] / eps2          # (K, N, p)
#     s = (Pi[..., None] * w ** 2).sum(1) / Pi.sum(1)[:, None]             # (K, p)
#     D = c / (1 + c * s)                                                  # (K, p)
#     return -t * torch.einsum("kdp,kp,knp,kn->nd", U, D, w, Pi)
# ```
#
# Four lines are the whole operator. `knp` is projected, `kp` are the gates, `kn` the memberships; the einsum sums over heads and coordinates.
#
# </details>

# %% tags=["hide-input"]
# check of (5.5) with different K, d, p and arbitrary bases
x, P, V = draws[2]
check("5.5", update(x, P, V, 0.5, 0.1), -0.1 * len(x) * autograd(lambda x: rates.variational_rate(x, P, V, 0.5), x),
      "TSSA = −τ · autograd of the rate")

# %% [markdown]
# Let the six tokens take six steps with $t=1/c$. **Predict:** what becomes of the two clouds?

# %%
after = six
for _ in range(6):
    after = after + update(after, Pi, U, eps2, t=eps2 / 2)

# %% tags=["hide-input"]
# figure: the six tokens before and after
before_rate, after_rate = (float(rates.variational_rate(x, Pi, U, eps2)) for x in (six, after))
left, right = plots.row(2)
who = [0, 0, 0, 1, 1, 1]
plots.points(six, who, names="abcdef", directions=torch.eye(2), arrows=after - six, title="Six tokens, and where six steps take them", ax=left)
fig = plots.points(after, who, names="abcdef", directions=torch.eye(2), title="After six TSSA steps", ax=right)
for ax in (left, right):
    ax.set(xlim=(-2.5, 2.5), ylim=(-2.2, 2.2), adjustable="box")
show(fig, alt="Six tokens near two axes with arrows, and where they end: each group lies on its axis, nearer to the origin.",
     digest=f"rate {before_rate:.3f} nats before, {after_rate:.3f} after; token a from (2.00, 0.10) to ({after[0, 0]:.2f}, {after[0, 1]:.2f})")

# %% [markdown]
# Each token loses most of the coordinate in which its group is weak: two clouds become two lines. Everything also moves towards the origin. Keep that in mind until section 5.6.
#
# ## 5.4 How long may the step be?
#
# A gradient step lowers a function only if it is short enough, and the papers give no bound. $R_c^{\mathrm{var}}$ has a special shape: a *concave* function $f$ of a quantity $s$ that is *quadratic* in the tokens. A concave function lies below each of its tangents:
#
# $$
# f(y)\le f(x)+f'(x)\,(y-x) \tag{5.6}
# $$
#
# *(5.6) Checked. A concave function lies below its tangent — calculus*
#
# Replace $f$ by its tangent at the present second moments, and what remains is quadratic in the new tokens. Such a bound from above that touches at the present point is a **majoriser**; going down on it takes the function down too (*majorisation–minimisation*, MM). For each token the gates of all groups combine into one symmetric matrix, the **curvature** of the majoriser:
#
# $$
# A_j(Z)=\sum_{k=1}^{K}\pi_{jk}\,U_k\operatorname{Diag}\bigl(f'(s_k(Z))\bigr)U_k^{\top}\succeq0 \tag{5.7}
# $$
#
# *(5.7) Checked. Curvature of the majoriser at token j: no eigenvalue is negative — this series*
#
# No eigenvalue is negative because $v^{\top}A_jv$ is a sum of squares with weights $\pi_{jk}f'(s_{ki})\ge0$. The gradient (5.3) is $\frac1nA_jz_j$, and the update (5.5) is $z_j^{+}=z_j-tA_jz_j$.

# %%
def curvature(x, Pi, U, eps2):
    D = tssa.gates(moments(project(x, U), Pi), x.shape[1] / eps2)        # (K, p)
    return torch.einsum("kn,kdp,kp,kep->nde", Pi, U, D, U)               # (N, d, d)


A = curvature(six, Pi, U, eps2)
print("same step as (5.5):", torch.allclose(-0.05 * (A @ six[:, :, None])[:, :, 0], update(six, Pi, U, eps2, 0.05)))
print("A_a =", [[round(v, 3) for v in r] for r in A[0].tolist()])

# %% tags=["hide-input"]
# check of (5.6), and of (5.7): equality where one head does not see all directions
check_below("5.6", lambda x, y: torch.log1p(4 * y), lambda x, y: torch.log1p(4 * x) + tssa.gates(x, 4.0) * (y - x),
            "ln(1 + 4y) below its tangents", draws=[(torch.rand(1000) * 5, torch.rand(1000) * 5)], equal=(torch.tensor(0.7),) * 2)
check_below("5.7", lambda x, Pi, U: -torch.linalg.eigvalsh(curvature(x, Pi, U, 0.5))[:, 0], lambda x, Pi, U: torch.zeros(len(x)),
            "minus the least eigenvalue of 9 tokens each", equal=(draws[1][0], torch.ones(1, 9), draws[1][2][:1]),
            draws=[(torch.randn(9, 6), torch.randn(3, 9).softmax(0), bases(kind)) for kind in KINDS * 20])

# %% [markdown]
# **Theorem (one TSSA step is an MM step).** *Let $f$ be concave, non-decreasing and differentiable, $\Pi\ge0$ fixed, the $U_k$ arbitrary matrices, $A_j=A_j(Z)$, and $\lVert A_j\rVert$ its largest eigenvalue.*
#
# *(i) Majoriser. For all $Z'$, with equality and equal gradient at $Z'=Z$,*
#
# $$
# R_c^{\mathrm{var}}(Z')\le R_c^{\mathrm{var}}(Z)+\frac{1}{2n}\sum_{j=1}^{n}\bigl[z_j'^{\top}A_jz_j'-z_j^{\top}A_jz_j\bigr] \tag{5.8}
# $$
#
# *(5.8) Checked. A quadratic bound that separates over the tokens — this series*
#
# *(ii) Descent. For steps $t_j\in[0,\,2/\lVert A_j\rVert]$, one for each token or one for all, the tokens $z_j^{+}=z_j-t_jA_jz_j$ satisfy*
#
# $$
# R_c^{\mathrm{var}}(Z^{+})\le R_c^{\mathrm{var}}(Z)-\frac1n\sum_{j=1}^{n}t_j\Bigl(1-\frac{t_j\lVert A_j\rVert}{2}\Bigr)\lVert A_jz_j\rVert^2 \tag{5.9}
# $$
#
# *(5.9) Checked. The step lowers the rate by at least this much, the promise — this series*
#
# The promise is never negative, so the rate cannot rise. And once the $K\cdot p$ gates are known, every token has a little quadratic problem of its own: that is why linear time suffices.
#
# **Proof of (i).** Take (5.6) at $x=s_{ki}(Z)$ and $y=s_{ki}(Z')$, multiply by $\frac{n_k}{2n}\ge0$ and sum over $k$ and $i$. On the right appears $\frac{1}{2n}\sum_{k,i}n_kf'(s_{ki})\,s_{ki}(Z')$. By (5.2), $n_ks_{ki}(Z')=\sum_j\pi_{jk}(u_{ki}^{\top}z_j')^2$; sorted by tokens the sum is $\frac{1}{2n}\sum_jz_j'^{\top}A_jz_j'$. The same with $Z$ gives the subtracted term. At $Z'=Z$ both sides agree, and the gradient of the right side there is $\frac1nA_jz_j$, which is (5.3). ∎
#
# **Proof of (ii).** Put $z_j'=z_j-tA_jz_j$ into one bracket of (5.8). All matrices are powers of one symmetric $A$, so it becomes $-2t\,z^{\top}A^2z+t^2z^{\top}A^3z$. The first term is $-2t\lVert Az\rVert^2$, the second at most $t^2\lVert A\rVert\,\lVert Az\rVert^2$. Add up the tokens ([one token alone](#The-step-of-one-token)). ∎
#
# Concavity gave the tangent; $f'\ge0$ made $A_j$ positive semidefinite; orthogonality of $U_k$ was never used. And the promise is no idle one: with complete bases, and in the limit of tokens that are tiny against $\varepsilon$, it is kept exactly, for any step.

# %% tags=["hide-input"]
# check of (5.8), both sides over the rate at the start: tight as the tokens shrink, wherever they go
def relative(x, new, Pi, U):
    return rates.variational_rate(new, Pi, U, 0.5) / rates.variational_rate(x, Pi, U, 0.5)


def bound(x, new, Pi, U):
    A = curvature(x, Pi, U, 0.5)
    quadratic = torch.einsum("nd,nde,ne->", new, A, new) - torch.einsum("nd,nde,ne->", x, A, x)
    return 1 + quadratic / (2 * len(x)) / rates.variational_rate(x, Pi, U, 0.5)


def random_case(kind):
    return torch.randn(9, 6) * 3 ** torch.randn(1), torch.randn(3, 9).softmax(0), bases(kind)  # softmax over the groups


cases = [random_case(kind) for kind in KINDS * 20]
x, P, axes = torch.randn(9, 6), torch.randn(3, 9).softmax(0), torch.eye(6).repeat(3, 1, 1)
check_below("5.8", relative, bound, "rate below majoriser, 3 kinds of bases",
            draws=[(x, x + torch.randn(9, 6) * 3 ** torch.randn(1), P, V) for x, P, V in cases],
            equal=(1e-7 * x, 1.5e-7 * torch.randn(9, 6), P, bases("arbitrary")))
slopes = [autograd(lambda z: side(x, z, P, axes), x) for side in (relative, bound)]
print("equal gradients at Z' = Z:", torch.allclose(*slopes))

# %% tags=["hide-input"]
# check of (5.9): each token draws its own share of its longest step; tight as tokens shrink
def form(A, z):
    return torch.einsum("nd,nde,ne->n", z, A, z)


def moved(A, z, share):                                                  # A_j z_j (N, d), ‖A_j‖ (N,), t_j (N,)
    Az, size = (A @ z[:, :, None])[:, :, 0], torch.linalg.eigvalsh(A)[:, -1]
    return Az, size, share * 2 / size


def promised(x, Pi, U, share):                                           # as a share of the rate at the start
    Az, size, t = moved(curvature(x, Pi, U, 0.5), x, share)
    return (t * (1 - t * size / 2) * (Az ** 2).sum(1)).mean() / rate(x, Pi, U, 0.5)


def fallen(x, Pi, U, share):
    Az, _, t = moved(curvature(x, Pi, U, 0.5), x, share)
    return 1 - rate(x - t[:, None] * Az, Pi, U, 0.5) / rate(x, Pi, U, 0.5)


shares = [torch.rand(9) for _ in cases]
check_below("5.9", promised, fallen, "promise below what the rate falls", equal=(1e-7 * torch.randn(9, 6), torch.rand(3, 9), bases("complete"), shares[1]),
            draws=[(*case, share) for case, share in zip(cases, shares)])

# %% [markdown]
# **Exercise 5c. The longest safe step.** From memberships, bases and gates, return the longest step that (ii) allows for all tokens together. (`torch.linalg.eigvalsh` sorts eigenvalues in rising order.)

# %%
def my_limit(Pi, U, D):                                                  # Pi (K, N), U (K, d, p), D (K, p) → a number
    return ...  # your turn


safe_step = mine("5c", my_limit, tssa.largest_safe_gamma)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_limit(Pi, U, D):
#     A = torch.einsum("kn,kdp,kp,kep->nde", Pi, U, D, U)                  # (N, d, d)
#     return 2 / torch.linalg.eigvalsh(A)[:, -1].max()
# ```
#
# The token with the largest curvature decides for all.
#
# </details>
#
# See it at work on the six tokens, moved together by one step $t$: the rate, its majoriser (5.8) and the promise (5.9) touch at $t=0$ with the same slope.
#
# **Predict:** at $t=2/\max_j\lVert A_j\rVert$ the promise is spent for at least one token. Will the true rate be back at its starting value there?
#
# <details><summary>Answer</summary>
#
# No, it is far below. The promise counts every direction as if it were the steepest one of its token; the majoriser knows the other directions, and the rate lies below the majoriser. The theorem says which steps are safe, not that longer ones fail.
#
# </details>

# %% tags=["hide-input"]
# one step of all six tokens, and the longest that is safe
A, start = curvature(six, Pi, U, eps2), rates.variational_rate(six, Pi, U, eps2)
Az, size, _ = moved(A, six, torch.ones(6))
limit = float(safe_step(Pi, U, tssa.gates(moments(project(six, U), Pi), 2 / eps2)))
print(f"longest safe step: {limit:.3f}; 2/c = {eps2:.3f}")

# %% tags=["hide-input"]
# figure: one step of length t on the six tokens
ts = torch.linspace(0, 0.5, 101)
true = torch.stack([rates.variational_rate(six - t * Az, Pi, U, eps2) for t in ts])
above = torch.stack([start + (form(A, six - t * Az) - form(A, six)).sum() / 12 for t in ts])
promise = torch.stack([start - (t * (1 - t * size / 2) * (Az ** 2).sum(1)).mean() for t in ts])
fig = plots.lines(ts, {"rate": true, "majoriser (5.8)": above, "promise (5.9)": promise}, title="One step on the six tokens",
                  xlabel="step t", ylabel="nats", vlines={"2/c": eps2, "2/max ‖A‖": limit})
show(fig, alt="Three curves that fall from the same point with the same slope: the promise turns up first, then the majoriser, then the rate, which is the lowest everywhere.",
     digest=f"start {float(start):.3f}, 2/c = {eps2}, 2/max ‖A‖ = {limit:.3f}; lowest promise {float(promise.min()):.3f}, majoriser {float(above.min()):.3f}, rate {float(true.min()):.3f} nats")

# %% [markdown]
# Now move it yourself; $\gamma=t\,c$ is the step in units of $1/c$. **Try:** slide $\gamma$ from 0 to 4, then $\varepsilon^2$ to its largest value, then drag a token. **Predict:** where do the arrows end at $\gamma=2$ if the tokens are small against the ball of precision $\varepsilon$?

# %% tags=["hide-input"]
# view: one step of length γ/c, its rate and its majoriser
live.step(six, Pi, U, eps2=eps2)

# %% [markdown]
# What you saw: up to $\gamma=2$ the rate lies below its start, whatever the tokens are. At $\gamma=2$ the view's promise, (5.9) with the largest curvature $c$ that any data can have, is back where it began. For tokens smaller than $\varepsilon$ the arrows end at the mirror image, so rate and bound are back, too. The next section proves both.
#
# ## 5.5 Every γ between 0 and 2
#
# The limit depends on the data through $A_j$. For orthonormal $U_k$ and memberships that sum to one, $A_j$ is an average of matrices whose eigenvalues are gates or zero, and no gate exceeds $f'(0)=c$. So there is a step that is always safe, whatever the tokens and however many:
#
# $$
# \frac2c\le\frac{2}{\max_j\lVert A_j\rVert} \tag{5.11}
# $$
#
# *(5.11) Checked. With orthonormal bases, t = 2ε²/d is safe for all data — this series · `tssa.largest_safe_gamma`*
#
# Tokens with nothing along a basis direction that all groups share reach it: there $s=0$ and the gate is exactly $c$.

# %% tags=["hide-input"]
# check of (5.11): equality for tokens that leave a direction empty, in all groups
def local_limit(x, Pi, U, eps2):
    return safe_step(Pi, U, tssa.gates(moments(project(x, U), Pi), x.shape[1] / eps2))


flat = torch.randn(9, 6) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 0.0])  # nothing in coordinate 6
orthonormal = [(*random_case(kind), e) for kind in ("complete", "blocks") * 50 for e in (0.5, 2.0)]
check_below("5.11", lambda x, Pi, U, eps2: 2 * eps2 / x.shape[1], local_limit, "2/c against the local limit",
            draws=orthonormal, equal=(flat, torch.randn(3, 9).softmax(0), axes, 0.7))
ratio = torch.stack([local_limit(*case) * 6 / (2 * case[3]) for case in orthonormal])
print(f"local limit over 2/c on random data: median {float(ratio.median()):.2f}")

# %% [markdown]
# The layer that people run has no $\varepsilon$: tokens and $\varepsilon$ scaled together leave the rate as it is, so the learned weights can choose the scale, and the layer fixes $\varepsilon^2=d$. Then **$c=1$**, no gate exceeds 1, and its step is $t=1$. With **tied** weights, where the output map is the transpose of the projection, the layer is exactly our operator:
#
# $$
# \mathrm{TSSA}(Z)_j=-\sum_{k=1}^{K}\pi_{jk}\,U_kD_kU_k^{\top}z_j=-n\,\nabla_{z_j}R_c^{\mathrm{var}}\qquad(c=1,\ t=1) \tag{5.12}
# $$
#
# *(5.12) Checked. The tied layer is −n times the gradient — this series; the layer of Wu et al. 2024 · `tssa.TSSA`*

# %% tags=["hide-input"]
# check of (5.12): four heads of width 32
layer = tssa.TSSA(128, 4, tied=True, mass=0.0).requires_grad_(False)
torch.nn.init.orthogonal_(layer.qkv.weight)
heads = layer.qkv.weight.unflatten(0, (4, -1)).mT                        # U (K, d, p) = (4, 128, 32)
x = torch.randn(1, 400, 128)
Pi_x = layer.statistics(x).Pi[0]                                         # (K, N)
check("5.12", layer(x)[0], -400 * autograd(lambda z: rates.variational_rate(z, Pi_x, heads, 128.0), x[0]),
      "tied layer = −n · autograd, 400 tokens of width 128")

# %% [markdown]
# Put $c=1$ and $\lVert A_j\rVert\le1$ into (5.9), and the theorem becomes a sentence about the residual update `x + γ·layer(x)`, where $\gamma$ is what implementations call LayerScale:
#
# $$
# \frac{R_c^{\mathrm{var}}(Z+\gamma\,\mathrm{TSSA}(Z))}{R_c^{\mathrm{var}}(Z)}\le1-\frac{\gamma\,(1-\gamma/2)\,\sum_j\lVert\mathrm{TSSA}(Z)_j\rVert^2}{n\,R_c^{\mathrm{var}}(Z)}<1\qquad\text{for all }0<\gamma<2 \tag{5.13}
# $$
#
# *(5.13) Checked. With tied orthonormal weights and Π held, x + γ·TSSA(x) lowers the rate for every γ in (0, 2) — this series*
#
# (Strictly, as long as some update is not zero.) Is 2 the end, or only the end of our proof? Take tiny tokens on one axis, one group. The gate is $c$ there and the rate proportional to $s$. A step $t=\gamma/c$ multiplies each token by $1-\gamma$, so the rate by $(1-\gamma)^2$, which exceeds 1 for $\gamma>2$: **2 is sharp** ([one coordinate solved completely](#One-coordinate-solved-completely)).

# %% tags=["hide-input"]
# check of (5.13): tight for tiny tokens in one head, for any γ
def tied(dim, num_heads, **options):
    layer = tssa.TSSA(dim, num_heads, tied=True, mass=0.0, **options).requires_grad_(False)
    torch.nn.init.orthogonal_(layer.qkv.weight)
    return layer, layer.qkv.weight.unflatten(0, (num_heads, -1)).mT


def ratio_of(x, model, gamma):                                           # left side, ε² = d
    (layer, W), P = model, model[0].statistics(x).Pi
    d = float(x.shape[-1])
    return rates.variational_rate(x + gamma * layer(x), P, W, d) / rates.variational_rate(x, P, W, d)


def ratio_bound(x, model, gamma):                                        # the middle of (5.13)
    (layer, W), P = model, model[0].statistics(x).Pi
    start = rates.variational_rate(x, P, W, float(x.shape[-1]))
    return 1 - gamma * (1 - gamma / 2) * layer(x).square().sum((1, 2)) / (x.shape[1] * start)


two, one = tied(8, 2, temp=5.0), tied(8, 1)
images = [(torch.randn(1, 9, 8) * 3 ** torch.randn(1), two, 2 * float(torch.rand(1))) for _ in range(300)]
check_below("5.13", ratio_of, ratio_bound, "300 images, γ uniform in (0, 2)", draws=images, equal=(1e-7 * torch.randn(1, 9, 8), one, 0.7))
print("the bound stays below 1:", all(bool(ratio_bound(*case) < 1) for case in images))

# %% [markdown]
# Theory done; now look. Tied layers with one head and with four sharp heads update 300 random images of 32 tokens, whose brightness spans four powers of ten. For each $\gamma$ we draw the *worst* image.
#
# **Predict:** where does the worst curve cross 1? And for which layer do fewer images get worse just beyond?
#
# <details><summary>Answer</summary>
#
# Never before 2. Up to there the worst image is a bright one: its gates are almost zero, so its rate hardly falls. Beyond 2, with one head,
# it is a dark one and follows $(1-\gamma)^2$ closely. With four heads many images hold out longer, because memberships below one make the curvature
# smaller: the limit is $2/\max_j\lVert A_j\rVert$, and $\lVert A_j\rVert\le\max_k\pi_{jk}$ when the heads are orthogonal to each other.
#
# </details>

# %% tags=["hide-input"]
# figure: the worst image and the share of images that rise, over γ
gammas = torch.linspace(0, 4, 41)
images = torch.randn(300, 32, 16) * 10 ** (4 * torch.rand(300, 1, 1) - 3)


def sweep(num_heads, temp):
    layer, W = tied(16, num_heads, temp=temp)
    P, y = layer.statistics(images).Pi, layer(images)
    ratio = torch.stack([rates.variational_rate(images + g * y, P, W, 16.0) for g in gammas])
    return ratio / rates.variational_rate(images, P, W, 16.0)            # (γ, image)


ratios = {"1 head": sweep(1, 1.0), "4 heads": sweep(4, 100.0)}
worst = {name: r.amax(1) for name, r in ratios.items()}
rising = {name: 100 * (r > 1 + 1e-6).double().mean(1) for name, r in ratios.items()}
left, right = plots.row(2)
left.plot(gammas[10:], (1 - gammas[10:]) ** 2, color="0.8", linewidth=9, zorder=0, label="(1 − γ)²")
plots.lines(gammas, worst, hlines={"no change": 1.0}, vlines={"γ = 2": 2.0}, title="Worst of 300 images",
            xlabel="γ", ylabel="rate after / rate before", ax=left)
fig = plots.lines(gammas, rising, vlines={"γ = 2": 2.0}, title="Images whose rate rises", xlabel="γ", ylabel="% of 300 images", ax=right)
digest = "; ".join(f"{name}: {float(r[:21].max()):.0f} % of the images rise for γ ≤ 2, {float(r[21]):.0f} % at 2.1, {float(r[30]):.0f} % at 3"
                   for name, r in rising.items())
show(fig, alt="Left: the worst ratio stays below one up to γ = 2 and then climbs; with one head it follows the band (1 − γ)². Right: the share of images whose rate rises is zero up to γ = 2, then jumps up.",
     digest=digest)

# %% [markdown]
# Not one image rises up to $\gamma=2$. If the weights are tied but not orthonormal, $\lVert A_j\rVert$ can exceed 1 and the limit shrinks: your function of exercise 5c computes it for a real layer, so it can be watched during training. How far many such steps get, and what a textbook would have said: [Going deeper](#Many-steps-against-the-textbook).
#
# ## 5.6 What the theorem does not cover
#
# The theorem has three conditions that practice breaks: $\Pi$ stays, the step starts at the very tokens that were measured, and the output map is $U_k$. We break them one at a time.
#
# **Memberships recomputed.** How often does the rate rise when $\Pi=\operatorname{softmax}_k(\lVert U_k^{\top}z\rVert^2/2\eta)$ is recomputed after the step? We count for sets of 200 tokens, and for an adversary's choice: two tokens and a very sharp softmax (small $\eta$).

# %% tags=["hide-input"]
# the rate after a step, with memberships held and recomputed
def rise_when_recomputed(n, eta, draws, seed=0):
    g = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(2, 4, 4, generator=g))[0][:, :, :2]  # two planes in four dimensions
    Pi_of = lambda x: tssa.memberships(torch.einsum("bnd,kdp->bknp", x, V), 1 / (2 * eta), "none")
    x = torch.randn(draws, n, 4, generator=g)
    new = x + tssa.tssa_update(x, Pi_of(x), V, 0.3, t=0.3 / 4)           # t = 1/c, half the safe step
    start = rates.variational_rate(x, Pi_of(x), V, 0.3)
    return [rates.variational_rate(new, P, V, 0.3) / start - 1 for P in (Pi_of(x), Pi_of(new))]


for n, eta, sets in ((200, 0.5, 500), (2, 0.02, 4000)):
    held, fresh = rise_when_recomputed(n, eta, sets)
    print(f"n = {n:3}, η = {eta:4}: rises with Π held in {int((held > 1e-6).sum())}, recomputed in {int((fresh > 1e-6).sum())} "
          f"of {sets}; worst change {100 * float(fresh.max()):+.0f} %")

# %% [markdown]
# On ordinary data the rate still falls every time. But a token that switches groups changes both groups' moments at once, and the tangent argument knows nothing of it.
#
# **Pre-norm.** Real blocks compute `x + γ·TSSA(LN(x))`: the update is measured at the normalised tokens but added to the raw ones. Does the rate of the *normalised* tokens fall?

# %% tags=["hide-input"]
# pre-norm: the share of 300 images whose normalised tokens get cheaper
shapes = torch.randn(300, 32, 16) * torch.exp(torch.randn(300, 1, 16))
prenorm, W = tied(16, 4)


def layer_norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def falls_after_norm(scale, gamma):
    x = scale * shapes                                                   # (300, 32, 16)
    P, y = prenorm.statistics(layer_norm(x)).Pi, prenorm(layer_norm(x))
    start, end = (rates.variational_rate(layer_norm(z), P, W, 16.0) for z in (x, x + gamma * y))
    return 100 * float((end < start).double().mean())


for scale in (1.0, 0.1, 0.03):
    print(f"tokens × {scale}: the rate of LN(x) falls for", ", ".join(
        f"{falls_after_norm(scale, gamma):.0f} % (γ = {gamma})" for gamma in (0.1, 1.0, 1.9)), "of 300 images")

# %% [markdown]
# At the usual scale it works for every image, and yet it is no theorem. The scale of $x$ against its normalised copy acts as a hidden step size.
#
# **A free output map.** In the published layer `to_out` is a matrix of its own. Then the update is not minus a gradient of anything we have defined. Of 200 layers of each kind, initialised as PyTorch does, how many lower their own rate by one step (their own projection as $U$, $\Pi$ held)?

# %% tags=["hide-input"]
# tied and free output maps: how many of 200 fresh layers compress
def lowers_its_rate(tied, seed):
    torch.manual_seed(seed)
    layer, x = tssa.TSSA(16, 4, tied=tied).requires_grad_(False), torch.randn(1, 32, 16)
    W, P = layer.qkv.weight.unflatten(0, (4, -1)).mT, layer.statistics(x).Pi
    return bool(rates.variational_rate(x + layer(x), P, W, 16.0) < rates.variational_rate(x, P, W, 16.0))


for name, is_tied in (("tied", True), ("free output map", False)):
    print(f"{name}: {sum(lowers_its_rate(is_tied, seed) for seed in range(200))} of 200 layers lower their own rate")

# %% [markdown]
# All tied layers compress, and only about one in five free ones does: what guarantees that "each layer compresses" is tied weights of moderate size ($\lVert A_j\rVert<2$ for every token), not the architecture. A free map would have to learn it.
#
# **And compression alone collapses.** Rate reduction was $R-R_c$, and we have dropped $R$, the term that spreads the tokens. A layer that sends every token to zero compresses best; in a trained network the MLP, the normalisation and the loss must push back. [Where compression ends](#Where-compression-of-unit-tokens-ends), [what it cleans on its way](#The-same-step-as-denoising) and [what holding Π fixed drops](#What-is-dropped-when-Π-depends-on-Z) stand below; lesson 6 uses the last of them.

# %% [markdown]
# ## Takeaways
#
# - With $\Pi$ held fixed, the gradient of $R_c^{\mathrm{var}}$ needs $K\cdot p$ second moments and nothing else of the other tokens; a step along it is TSSA, linear in their number.
# - The step is a majorisation–minimisation step. The rate falls by at least the promise (5.9), which is kept exactly in the limit of tiny tokens with complete bases.
# - With tied orthonormal weights and $\Pi$ held, `x + γ·TSSA(x)` lowers the rate for every $\gamma\in(0,2)$, whatever the data, and 2 is sharp.
# - The guarantee ends where $\Pi$ moves, where the step starts at other tokens than those measured, and where the output map is free. Compression without expansion collapses.

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself; the last two take their tokens from *Eight operators on one noisy mixture*.
#
# ### The step of one token
#
# The proof of (ii) looked at one bracket of (5.8), the quadratic of one token. For symmetric $A$ without negative eigenvalues and any $t\ge0$:
#
# $$
# (z-tAz)^{\top}A(z-tAz)-z^{\top}Az\le-t\,(2-t\lVert A\rVert)\,\lVert Az\rVert^2 \tag{5.10}
# $$
#
# *(5.10) Checked. What the step does to the quadratic of one token — this series*
#
# It is an equality where $z$ is an eigenvector of the largest eigenvalue: then the whole token moves in the steepest direction.

# %% tags=["hide-input"]
# check of (5.10): equality at the leading eigenvectors
def bracket(A, z, share):
    Az, _, t = moved(A, z, share)
    return form(A, z - t[:, None] * Az) - form(A, z)


def bracket_bound(A, z, share):
    Az, size, t = moved(A, z, share)
    return -t * (2 - t * size) * (Az ** 2).sum(1)


A = curvature(*cases[1], 0.5)
check_below("5.10", bracket, bracket_bound, "one token's quadratic", equal=(A, torch.linalg.eigh(A)[1][:, :, -1], shares[0]),
            draws=[(curvature(x, P, V, 0.5), x, share) for (x, P, V), share in zip(cases, shares)])

# %% [markdown]
# ### One coordinate solved completely
#
# One group and one direction: the tokens shrink by $1-tD$, so their second moment shrinks by the square.
#
# $$
# s^{+}=s\,(1-tD)^2,\qquad D=\frac{c}{1+cs}\qquad(K=p=1) \tag{5.14}
# $$
#
# *(5.14) Checked. One group, one direction: break-even exactly at t = 2/D — this series*
#
# So the local limit $2/D=2/c+2s$ grows with the tokens' energy, and only for $s\to0$ is it $2/c$. There $t=\gamma/c$, $D\to c$, and the rate is proportional to $s$:
#
# $$
# \lim_{s\to0}\frac{R_c^{\mathrm{var}}(Z^{+})}{R_c^{\mathrm{var}}(Z)}=(1-\gamma)^2 \tag{5.15}
# $$
#
# *(5.15) Checked. Sharpness: beyond γ = 2 tiny tokens make the rate rise — this series*

# %% tags=["hide-input"]
# check of (5.14) and (5.15)
axis, whole = torch.ones(1, 1, 1), torch.ones(1, 4)                      # one direction, one group of four tokens
z = torch.full((4, 1), 1e-3)
line = torch.stack([rates.variational_rate(z + g * update(z, whole, axis, 1.0, 1.0), whole, axis, 1.0) for g in gammas])
check("5.15", line / rates.variational_rate(z, whole, axis, 1.0), (1 - gammas) ** 2, "ratio at s = 1e-6, γ from 0 to 4", REACHED)

s, t = torch.rand(200) * 5, torch.rand(200) * 3
after_step = [(z + update(z, whole, axis, 0.5, float(t_))).square().mean() for z, t_ in zip(s.sqrt()[:, None, None].expand(-1, 4, 1), t)]
check("5.14", torch.stack(after_step), s * (1 - t * tssa.gates(s, 2.0)) ** 2, "moment after the step, c = 2")

# %% [markdown]
# **Exercise 5d. One coordinate.** One group, one direction, second moment $s$. By which factor does the step $t$ multiply the *tokens*?

# %%
def token_factor(s, c, t):                                               # numbers → a number
    return ...  # your turn


exercise("5d", token_factor)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def token_factor(s, c, t):
#     return 1 - t * c / (1 + c * s)
# ```
#
# $A=D=c/(1+cs)$ is a number here, and $z^{+}=z-tAz$. At $t=1/c$ this is the gain $cs/(1+cs)$.
#
# </details>
#
# ### Many steps against the textbook
#
# Both results are for orthonormal $U_k$ and memberships that sum to one and stay fixed. With $t=1/c$ the promise (5.9) is at least $\frac{n}{2c}\lVert\nabla R_c^{\mathrm{var}}\rVert_F^2$ in each step. Add up $q$ steps. The rate cannot fall below zero, so the promises together are at most the rate at the start, and the smallest of the $q$ gradients is at most their mean:
#
# $$
# \min_{0\le l<q}\bigl\lVert\nabla R_c^{\mathrm{var}}(Z^{(l)})\bigr\rVert_F^2\le\frac{2c}{n\,q}\,R_c^{\mathrm{var}}(Z^{(0)}) \tag{5.16}
# $$
#
# *(5.16) Checked. After q steps some squared gradient is at most a constant over q, whatever the tokens — this series*
#
# No tuning, and no constant that one would have to guess. An honest remark: the textbook gets as far with the largest second derivative.
# Move each token $j$ by $\delta_j$ along one coordinate of one group. The second derivative of that coordinate's term lies between
# $\frac1n\bigl(f'+2s\,f''\bigr)$ and $\frac1nf'$, both times $\sum_j\pi_{jk}\delta_j^2$ (differentiate twice, then Cauchy–Schwarz for the
# lower end). With $x=cs$ the two factors are $\frac cn\frac{1-x}{(1+x)^2}$, least at $x=3$, and $\frac cn\frac1{1+x}$, largest at $x=0$.
# The memberships of a token sum to one, so all eigenvalues of the matrix of second derivatives lie in one interval:
#
# $$
# -\frac{c}{8n}\,I\preceq\nabla^2R_c^{\mathrm{var}}\preceq\frac cn\,I \tag{5.17}
# $$
#
# *(5.17) Checked. The rate is a little concave and nowhere curved by more than c/n; both ends are reached — this series*
#
# A function whose second derivative is at most $c/n$ falls for every step $\tau<2n/c$, that is $t<2/c$: the same worst case. What the MM argument adds is the local limit $2/\lVert A_j\rVert$, the promised amount (5.9), and a step of its own for each token.
#
# The bound (5.16) is reached by one step on tiny tokens. Both ends of the interval are reached at once by tokens with $cs=3$ along coordinate 1 and nothing in coordinate 2.

# %% tags=["hide-input"]
# check of (5.16), both sides over the rate at the start, and of (5.17): least eigenvalue (sign turned) and largest
def least_gradient(x, Pi, U, eps2, q):
    start, norms = rates.variational_rate(x, Pi, U, eps2), []
    for _ in range(q):
        norms.append(rates.variational_rate_grad(x, Pi, U, eps2).square().sum())
        x = x + update(x, Pi, U, eps2, eps2 / x.shape[1])
    return torch.stack(norms).min() / start


def ends(x, Pi, U, eps2):
    flat = lambda z: rates.variational_rate(z.view_as(x), Pi, U, eps2)
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(flat, x.flatten()))
    return torch.stack([-values[0], values[-1]])


tiny = (1e-7 * torch.randn(9, 6), torch.randn(3, 9).softmax(0), bases("complete"), 0.5, 1)
check_below("5.16", least_gradient, lambda x, Pi, U, eps2, q: torch.tensor(2 * x.shape[1] / eps2 / (len(x) * q)),
            "smallest gradient of q steps", equal=tiny,
            draws=[(*random_case(kind), 0.5, q) for kind in ("complete", "blocks") for q in (1, 3, 10, 30) for _ in range(10)])
even = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]) * math.sqrt(3 * 0.7 / 2)  # c s = 3 in coordinate 1
check_below("5.17", ends, lambda x, Pi, U, eps2: x.shape[1] / eps2 / len(x) * torch.tensor([1 / 8, 1.0]), "second derivatives",
            equal=(even, torch.ones(1, 3), torch.eye(2)[None], 0.7),
            draws=[(*random_case(kind), e) for kind in ("complete", "blocks") * 5 for e in (0.5, 2.0)])

# %% [markdown]
# ### Where compression of unit tokens ends
#
# Compression alone sends tokens to zero. Forbid that: after each step give every token length one again. Where does it end then?
#
# Take complete bases, hard memberships and $t\le1/c$. In each group let one coordinate, say the first, hold more than half of the energy, $s_{k1}>\frac12$, and let no token be entirely without it. Then every token ends at $\pm u_{k1}$, each group on one line:
#
# $$
# R_c^{\mathrm{var}}\to\frac12\sum_{k=1}^{K}\frac{n_k}{n}\ln(1+c)=\frac12\ln(1+c) \tag{5.18}
# $$
#
# *(5.18) Checked. Where compression of unit tokens ends under these conditions: rank one in each group — this series*
#
# **Proof.** A step multiplies coordinate $i$ by $g_i=1-tc/(1+cs_{ki})\ge0$, which grows with $s_{ki}$. The new length multiplies all of a token's coordinates by one number. So in every token the first coordinate gains on each other one, $s_{k1}$ never falls, and the others stay below $1-s_{k1}<\frac12$. In each step the ratio of coordinate $i$ to the first shrinks by $g_i/g_1$, and this factor stays away from 1, as $s_{k1}$ and $s_{ki}$ stay apart. ∎
#
# The conditions are sufficient, not necessary. But each of them can matter:

# %%
def compress(x, Pi, U, c, gamma, steps, unit=True):
    history, d = [rates.variational_rate(x, Pi, U, x.shape[1] / c)], x.shape[1]
    for _ in range(steps):
        x = x + update(x, Pi, U, d / c, gamma / c)
        x = x / x.norm(dim=-1, keepdim=True) if unit else x
        history.append(rates.variational_rate(x, Pi, U, d / c))
    return torch.stack(history)


def unit_tokens(spectrum):                                               # two groups of 30 in four dimensions
    torch.manual_seed(1)
    full = torch.linalg.qr(torch.randn(2, 4, 4))[0]
    x = torch.einsum("nde,ne->nd", full[torch.arange(60) % 2], torch.randn(60, 4) * torch.tensor(spectrum))
    return x / x.norm(dim=-1, keepdim=True), torch.nn.functional.one_hot(torch.arange(60) % 2).T.double(), full

# %% tags=["hide-input"]
# check of (5.18) at three precisions, and three counter-examples
steep = unit_tokens([1.0, 0.3, 0.2, 0.1])
print("largest share of energy in each group:", [round(v, 2) for v in moments(project(steep[0], steep[2]), steep[1]).amax(1).tolist()])
cs = torch.tensor([1.0, 4.0, 40.0])
check("5.18", torch.stack([compress(*steep, float(c), 1.0, 400)[-1] for c in cs]), 0.5 * torch.log1p(cs), "c = 1, 4, 40, t = 1/c", REACHED)

one_group, plane = torch.ones(1, 3), torch.eye(2)[None]
missing = compress(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), one_group, plane, 20.0, 1.0, 400)
print(f"a token without the strong coordinate (e1, e1, e2; c = 20): {missing[0]:.3f} → {missing[-1]:.3f}, not {0.5 * math.log(21):.3f}")
tie = compress(torch.tensor([[1.0, 1], [1, -1], [-1, 1]]) / math.sqrt(2), one_group, plane, 20.0, 1.0, 400)
print(f"a tie, half of the energy in each coordinate (c = 20): {tie[0]:.3f} → {tie[-1]:.3f}, not {0.5 * math.log(21):.3f}")
gentle = unit_tokens([1.0, 0.7, 0.4, 0.2])
for c in (1.0, 4.0):
    long = compress(*gentle, c, 1.9, 400)
    print(f"a longer step, t = 1.9/c (c = {c:.0f}): {long[0]:.3f} → {long[-1]:.3f}, not {0.5 * math.log(1 + c):.3f}")

# %% [markdown]
# The last two are a surprise: $\gamma=1.9$ is safe for the step, yet with the renormalisation the rate may rise. The right panel shows why. A step longer than $1/c$ does not erase a weak coordinate, it mirrors it, and a coordinate with $s$ near zero comes back almost at full length, while the strong one has lost half. The weak coordinate wins, until it is strong.

# %% tags=["hide-input"]
# figure: compression with and without unit length, and the factor that decides
left, right = plots.row(2)
curves = {"unit tokens, t = 1/c": compress(*gentle, 4.0, 1.0, 40), "unit tokens, t = 1.9/c": compress(*gentle, 4.0, 1.9, 40),
          "as it is, t = 1/c": compress(*gentle, 4.0, 1.0, 40, unit=False)}
plots.lines(range(41), curves, hlines={"½ ln(1 + c)": 0.5 * math.log(5)}, title="Compression alone, c = 4", xlabel="step", ylabel="nats", ax=left)
left.legend(fontsize=9, loc=(0.42, 0.14))
s = torch.linspace(0, 1, 101)
fig = plots.lines(s, {f"t = {g}/c": (1 - g / (1 + 4 * s)).abs() for g in (1.0, 1.9)}, title="Factor of a coordinate, c = 4",
                  xlabel="second moment s", ylabel="|1 − tD|", ax=right)
show(fig, alt="Left: unit tokens fall to the promised rate with the short step and stay above it with the long one; without normalisation the rate falls to zero. Right: the factor grows with s for the short step; for the long one it falls from 0.9 to zero and rises again.",
     digest="after 40 steps " + ", ".join(f"{name}: {float(v[-1]):.3f}" for name, v in curves.items()))

# %% [markdown]
# ### The same step as denoising
#
# Take complete orthonormal bases and $t=1/c=\varepsilon^2/d$. For memberships that sum to one, $z_j=\sum_k\pi_{jk}U_kU_k^{\top}z_j$, and so the identity merges with the update:
#
# $$
# z_j^{+}=\sum_{k=1}^{K}\pi_{jk}\,U_k\operatorname{Diag}\Bigl(\frac{s_{k1}}{s_{k1}+\varepsilon^2/d},\dots,\frac{s_{kp}}{s_{kp}+\varepsilon^2/d}\Bigr)U_k^{\top}z_j\qquad(p=d) \tag{5.19}
# $$
#
# *(5.19) Checked. A TSSA step with t = ε²/d multiplies each coordinate by a Wiener gain — this series*
#
# The fraction *signal/(signal + noise)* is the **Wiener gain**: the best linear estimate of a signal of variance $s$ seen in independent noise of variance $\varepsilon^2/d$. So the precision $\varepsilon^2$, a free choice until now, gets a meaning: it is the noise that we believe in.
#
# The reading goes further. Suppose each clean token $x$ comes from one of $K$ Gaussians, $x\sim\frac1K\sum_k\mathcal N(0,U_k\operatorname{Diag}(v_k)U_k^{\top})$ with known variances $v_k$, and we see $y=x+{}$noise of variance $\varepsilon^2/d$. The best guess of $x$ in mean square is its posterior mean:
#
# $$
# \mathbb E[x\mid y]=\sum_{k=1}^{K}\pi_k(y)\,U_k\operatorname{Diag}\Bigl(\frac{v_{ki}}{v_{ki}+\varepsilon^2/d}\Bigr)_{i}U_k^{\top}y \tag{5.20}
# $$
#
# *(5.20) Checked. Posterior mean of a mixture of Gaussians seen in noise — Bayes; the reading of TSSA: this series*
#
# Here $\pi_k(y)$ is the probability that $y$ came from group $k$. Compare with (5.19): **if the memberships are these probabilities and the moments these variances, one TSSA step replaces each token by its best guess.** For any prior this guess can also be written with the density $q(y)$ of what is seen:
#
# $$
# \mathbb E[x\mid y]=y+\frac{\varepsilon^2}{d}\,\nabla\ln q(y) \tag{5.21}
# $$
#
# *(5.21) Checked. One denoising step along the score — Tweedie; Robbins 1956*
#
# This is *Tweedie's formula*, the one behind diffusion models; the gradient $\nabla\ln q$ is called the *score*. The check of (5.20) goes back to the definition of the posterior mean, an integral over all clean tokens, done on a fine grid; (5.21) differentiates $\ln q$ automatically.

# %% tags=["hide-input"]
# check of (5.19), (5.20) and (5.21)
x, P, V = torch.randn(9, 6), torch.randn(3, 9).softmax(0), bases("complete")  # softmax over the groups
s = moments(project(x, V), P)
gain = torch.diag_embed(s / (s + 0.5 / 6))                               # (K, p, p)
wiener = sum(P[k][:, None] * (x @ V[k] @ gain[k] @ V[k].T) for k in range(3))
check("5.19", x + update(x, P, V, 0.5, 0.5 / 6), wiener, "step at t = ε²/d against Wiener gains")

variances = torch.tensor([[3.0, 0.05], [2.0, 0.1]])                      # v_k
turn = torch.tensor([[math.cos(1.1), -math.sin(1.1)], [math.sin(1.1), math.cos(1.1)]])
frames, noise = torch.stack([torch.eye(2), turn]), 0.25                  # U_k, and ε²/d


def gauss(y, k, extra):                                                  # N(y; 0, U_k Diag(v_k) U_kᵀ + extra·I)
    v = variances[k] + extra                                             # (p,)
    return torch.exp(-((y @ frames[k]) ** 2 / v).sum(-1) / 2) / (2 * math.pi * v.prod().sqrt())


def density(y):                                                          # q(y)
    return (gauss(y, 0, noise) + gauss(y, 1, noise)) / 2


posterior = torch.stack([gauss(six, k, noise) for k in (0, 1)])
posterior = posterior / posterior.sum(0)                                 # (K, N), Bayes
guess = sum(posterior[k][:, None] * (six @ frames[k] * variances[k] / (variances[k] + noise) @ frames[k].T) for k in (0, 1))
ticks = torch.arange(-9, 9.01, 0.1)
grid = torch.cartesian_prod(ticks, ticks)                                # every clean token x, (M, 2)
prior = (gauss(grid, 0, 0.0) + gauss(grid, 1, 0.0)) / 2
weight = prior * torch.exp(-torch.cdist(six, grid) ** 2 / (2 * noise))   # (N, M)
check("5.20", guess, weight @ grid / weight.sum(1, keepdim=True), "gains against the integral over all x")
check("5.21", six + noise * autograd(lambda y: density(y).log().sum(), six), guess, "Tweedie by autograd against gains")

# %% [markdown]
# One caveat keeps us honest: the second moments of *noisy* tokens are $v+\varepsilon^2/d$, not $v$. So TSSA on noisy tokens uses gains that are a little too large.
#
# **Exercise 5e. Noisy moments.** The measured moment is $s=v+\varepsilon^2/d$, where $v$ is the variance of the signal. Write the exact Wiener gain from the measured `s`. It must never be negative, also when a small sample gives $s<\varepsilon^2/d$.

# %%
def exact_gain(s, eps2, d):                                              # s (p,) → (p,)
    return ...  # your turn


exercise("5e", exact_gain)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def exact_gain(s, eps2, d):
#     return (1 - eps2 / d / s).clamp_min(0)
# ```
#
# The gain is $v/(v+\varepsilon^2/d)=(s-\varepsilon^2/d)/s$, and a variance below zero is taken as zero.
#
# </details>
#
# What happens when the step is repeated? **Predict:** start from coordinates with root mean square 1, 0.3 and 0.1, at $\varepsilon^2/d=0.02$ (standard deviation 0.14). Which survive five steps?
#
# <details><summary>Answer</summary>
#
# The large one loses a tenth. The small one is below the noise level: its gain is $s/(s+\varepsilon^2/d)\approx s\,d/\varepsilon^2$, so its amplitude is cubed (up to a factor) in each step, and it vanishes. The middle one holds out for a while, sinks below the noise, and follows. One step is a soft projection onto the strong directions; many steps are the collapse.
#
# </details>

# %% tags=["hide-input"]
# figure: the gain, and repeated steps
amplitude = torch.tensor([1.0, 0.3, 0.1])
trace = [amplitude]
for _ in range(5):
    s = trace[-1] ** 2
    trace.append(trace[-1] * s / (s + 0.02))
trace = torch.stack(trace)                                               # (6, 3)
visible = trace.where(trace > 1e-8, torch.nan)                           # below that, off the picture
left, right = plots.row(2)
s = torch.logspace(-4, 1, 101)
plots.lines(s, {"TSSA, t = ε²/d": s / (s + 0.02), "exact: 1 − (ε²/d)/s": (1 - 0.02 / s).clamp_min(0)}, vlines={"ε²/d": 0.02},
            xscale="log", title="Gain of a coordinate", xlabel="second moment s of the noisy tokens", ylabel="gain", ax=left)
fig = plots.lines(range(6), {f"starts at {a:.1f}": visible[:, i] for i, a in enumerate(amplitude.tolist())}, yscale="log", markers=True,
                  hlines={"noise": math.sqrt(0.02)}, title="Repeated steps", xlabel="step", ylabel="root mean square", ax=right)
show(fig, alt="Left: both gains rise from zero to one around the noise variance. Right: the large coordinate stays, the one below the noise falls ever faster and leaves the picture.",
     digest="after five steps 1.0 → {:.3f}, 0.3 → {:.3f}, 0.1 → {:.0e}".format(*trace[-1].tolist()))

# %% [markdown]
# ### Eight operators on one noisy mixture
#
# Denoising can be measured. We draw 400 clean tokens $x_j$ of width 16 from four groups; each group lives in its own four dimensions with variance 1. We see $y_j$, with noise of variance 0.2 in all sixteen. An operator turns $y_j$ into $z_j$. What counts is how far that is from the truth, against how far the input was:
#
# $$
# \mathrm{err}(Z)=\frac{\sum_{j}\lVert z_j-x_j\rVert^2}{\sum_{j}\lVert y_j-x_j\rVert^2} \tag{5.28}
# $$
#
# *(5.28) Definition. Mean square error of the denoised tokens, over that of the noisy ones — textbook statistics*
#
# A tempting measure needs no truth, the energy inside the own subspace over the energy outside:
#
# $$
# \mathrm{SNR}(Z)=\frac{\sum_k\sum_{j\in k}\lVert U_kU_k^{\top}z_j\rVert^2}{\sum_k\sum_{j\in k}\lVert(I-U_kU_k^{\top})z_j\rVert^2} \tag{5.22}
# $$
#
# *(5.22) Definition. Energy in the own subspace over energy outside it — this series*
#
# It is blind to lost signal: shrink everything inside to a thousandth, everything outside to nothing, and it is infinite.

# %%
def mixture(seed, d=16, K=4, p=4, n=400, noise=0.2):
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    own = Q.mT.unflatten(0, (K, p)).mT                                   # U_k (K, d, p): blocks of one basis
    group = torch.arange(n) % K
    clean = torch.einsum("ndp,np->nd", own[group], torch.randn(n, p, generator=g))
    return clean + math.sqrt(noise) * torch.randn(n, d, generator=g), clean, own, group


def snr(x, own, group):
    inside = torch.einsum("nd,ndp->np", x, own[group]).square().sum()
    return float(inside / (x.square().sum() - inside).clamp_min(1e-300))

# %% [markdown]
# In practice each head owns only $p=d/K$ directions: the *head-split* operator. What does one step do to a token that surely belongs to group $k$? Everything that the head can see is shrunk, and everything that it cannot see stays:
#
# $$
# (I-U_kU_k^{\top})\,z_j^{+}=(I-U_kU_k^{\top})\,z_j\qquad(\pi_{jk}=1) \tag{5.23}
# $$
#
# *(5.23) Checked. A head leaves the directions off its own subspace as they are — this series*
#
# **Predict:** three quarters of the noise lies off the own subspace. How much of the error can the head-split operator remove?
#
# <details><summary>Answer</summary>
#
# A few per cent. Inside, it removes a little noise and a little signal; outside, where most of the noise is, nothing. This is lesson 4's warning about $p<d$ again: the truncated rate does not charge for what lies off the subspace, so descending on it does not clean there.
#
# </details>

# %% tags=["hide-input"]
# check of (5.23)
tokens, clean, own, group = mixture(seed=0)
surely = torch.nn.functional.one_hot(group).T.double()                   # true memberships (K, N)
stepped = tokens + update(tokens, surely, own, 0.32, 0.02)
off = torch.eye(16) - (own @ own.mT)[group]                              # (N, d, d)
check("5.23", off @ stepped[:, :, None], off @ tokens[:, :, None], "component off the own subspace, before and after")

# %% [markdown]
# Eight operators, six steps each. TSSA in five versions: head-split or with complete bases (each group's block first, then the other blocks), true or soft memberships, and the gradient of lesson 4's **corrected** bound, which charges for the directions off $U_k$ with one extra number $\rho_k$ for each group. From lesson 3: the exact gradient of CRATE's rate, and softmax attention in the subspaces (MSSA) in the derived form $\frac12Z+\frac12\mathrm{MSSA}$ and in the form used in practice, $Z+\frac12\mathrm{MSSA}$.
#
# Where an $\varepsilon$ occurs it is $\varepsilon^2/d=0.02$, a tenth of the true noise. Why not the true 0.2? Because a step at the true noise is meant to be taken once: its gain already halves a coordinate that holds noise alone. Six of them would go on to erase the signal. Ten times smaller steps let us watch the way.

# %%
def operators(own, group, level=0.02, noise=0.2):
    K, d, p = own.shape
    eps2, eta, surely = d * level, noise * (1 + noise), torch.nn.functional.one_hot(group).T.double()
    full = torch.stack([torch.cat([own[k], *own[:k], *own[k + 1:]], 1) for k in range(K)])  # (K, d, d)
    soft = lambda x: tssa.memberships(project(x, own), 1 / (2 * eta), "none")  # the exact posterior at the start
    return {
        "head-split, true Π": lambda x: x + update(x, surely, own, eps2, level),
        "head-split, soft Π": lambda x: x + update(x, soft(x), own, eps2, level),
        "complete, true Π": lambda x: x + update(x, surely, full, eps2, level),
        "complete, soft Π": lambda x: x + update(x, soft(x), full, eps2, level),
        "corrected, soft Π": lambda x: x - level * len(x) * rates.variational_rate_grad(x, soft(x), own, eps2, corrected=True),
        "CRATE gradient": lambda x: x - len(x) * eps2 / p * rates.subspace_rate_grad(x, own, eps2),
        "½Z + ½MSSA": lambda x: x / 2 + attention.mssa(x, own) / 2,
        "Z + ½MSSA": lambda x: x + attention.mssa(x, own) / 2,
    }

# %%
def errors(name, level, steps=6):                                        # mean over five mixtures, (steps + 1,)
    rows = []
    for seed in range(5):
        noisy, clean, own, group = mixture(seed)
        x, step, row = noisy, operators(own, group, level)[name], [1.0]
        for _ in range(steps):
            x = step(x)
            row.append(float((x - clean).square().sum() / (noisy - clean).square().sum()))
        rows.append(row)
    return torch.tensor(rows).mean(0)


found = {name: errors(name, 0.02) for name in operators(own, group)}
for name, e in found.items():
    print(f"{name:18}: error after 1, 3, 6 steps × {e[1]:.2f}, {e[3]:.2f}, {e[6]:.2f}")

# %% tags=["hide-input"]
# figure: error over the steps, for five operators and for four levels of ε²/d
best = 4 * (0.2 / 1.2) / (16 * 0.2)                                      # true Π and variances: noise v/(v + noise) in 4 of 16 directions
levels = {f"ε²/d = {level}": errors("complete, soft Π", level) for level in (0.02, 0.05, 0.1, 0.2)}
left, right = plots.row(2, width=4.6, height=3.8)
picked = ("head-split, soft Π", "complete, soft Π", "corrected, soft Π", "CRATE gradient", "½Z + ½MSSA")
plots.lines(range(7), {name: found[name] for name in picked}, markers=True, hlines={"best possible": best},
            title="Five operators, ε²/d = 0.02", xlabel="step", ylabel="error, in units of the input's", ax=left)
left.legend(fontsize=10, loc="upper left")
fig = plots.lines(range(7), levels, markers=True, hlines={"best possible": best}, title="Complete bases, soft Π, four levels",
                  xlabel="step", ylabel="error, in units of the input's", ax=right)
right.legend(fontsize=10, loc="upper left")
for ax in (left, right):
    ax.set(ylim=(0, 2.1))
show(fig, alt="Left: over six steps the error of complete bases and of the corrected bound falls steadily to a third, head-split TSSA stays near one, CRATE's gradient and MSSA fall and rise again. Right: the larger ε² is, the earlier the error turns up again; at the true noise it ends above the input's.",
     digest=f"best possible {best:.2f}; complete, soft Π, after two and six steps: " + "; ".join(f"{name}: {float(e[2]):.2f}, {float(e[6]):.2f}" for name, e in levels.items()))

# %%
last = mixture(0)[0]
for _ in range(6):
    last = operators(own, group, level=0.2)["complete, true Π"](last)
print(f"at ε²/d = 0.2 after six steps, true Π: signal-to-noise ratio above 1e12, {snr(last, own, group) > 1e12} (it was {snr(tokens, own, group):.1f}); "
      f"error × {float((last - clean).square().sum() / (tokens - clean).square().sum()):.2f}")

# %% [markdown]
# What these runs say, plainly:
#
# - **Head-split TSSA hardly denoises.** A few per cent of the error go, with true memberships too. Equation (5.23) is the reason, not a bad $\Pi$.
# - **Complete bases do what (5.19) promises**, and the **corrected bound does practically as well** from head-split bases at the price of $K$ more numbers: the missing piece was the complement.
# - CRATE's gradient and $\frac12Z+\frac12\mathrm{MSSA}$ are faster for two or three steps, then lose the signal; $Z+\frac12\mathrm{MSSA}$ never helps.
# - **Every operator here must be stopped.** At the true noise two steps come near the best possible, and six destroy more than the noise did. The ratio (5.22) calls the same run a triumph.
#
# So does ToST not work? It does: in the trained network the output map is free, and it may learn to subtract what a head cannot see. But then the network has learned something that the gradient of the truncated rate did not tell it.
#
# ### What is dropped when Π depends on Z
#
# In the layer $\Pi$ is computed from the tokens, so the true gradient of the rate has a second part, through $\Pi$. To see it we need the derivative with respect to a membership.
#
# $$
# \frac{\partial R_c^{\mathrm{var}}}{\partial\pi_{jk}}=\frac{T_{jk}}{2n},\qquad T_{jk}=\sum_{i=1}^{p}\Bigl[f(s_{ki})+f'(s_{ki})\bigl((u_{ki}^{\top}z_j)^2-s_{ki}\bigr)\Bigr] \tag{5.24}
# $$
#
# *(5.24) Checked. The price of giving token j to group k — this series · `rates.code_lengths`*
#
# The bracket is the tangent of $f$ at $s_{ki}$, evaluated at the token's own square.
#
# **Exercise 5f. The price of a token.** Write the table $T$, without asking the library for it.

# %%
def my_prices(x, Pi, U, eps2):                                           # x (N, d), Pi (K, N), U (K, d, p) → (K, N)
    return ...  # your turn


prices = mine("5f", my_prices, rates.code_lengths)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_prices(x, Pi, U, eps2):
#     w2, c = torch.einsum("nd,kdp->knp", x, U) ** 2, x.shape[1] / eps2    # (K, N, p)
#     s = (Pi[..., None] * w2).sum(1, keepdim=True) / Pi.sum(1)[:, None, None]  # (K, 1, p)
#     return (torch.log1p(c * s) + c / (1 + c * s) * (w2 - s)).sum(-1)
# ```
#
# A group that is already strong in a direction has a small gate there, so a token that is strong there, too, is cheap.
#
# </details>
#
# The letter $T$ hides a nice meaning. Add to the token some noise $e\sim\mathcal N(0,\frac1cI)$, the noise that we believe in, and code it with the Gaussian of group $k$:
#
# $$
# \frac{T_{jk}}{2}=\mathbb E_e\Bigl[-\ln\mathcal N\bigl(U_k^{\top}z_j+e;\,0,\operatorname{Diag}(s_k)+\tfrac1cI\bigr)+\ln\mathcal N\bigl(e;\,0,\tfrac1cI\bigr)\Bigr] \tag{5.25}
# $$
#
# *(5.25) Checked. Half of T is the code length of the noisy token beyond that of the noise alone, in nats — this series*
#
# So $T_{jk}/2$ is what it costs to describe token $j$ in the language of group $k$. (The check computes the expectation by Gauss–Hermite quadrature: twenty nodes integrate polynomials up to degree 39 exactly, and the logarithm of a Gaussian is a polynomial of degree two.)

# %% tags=["hide-input"]
# check of (5.24) and (5.25): K = 3, d = 6, p = 2
import numpy as np

x, P, V = draws[1]
c, n = 6 / 0.5, len(x)
T = prices(x, P, V, 0.5)                                                 # (K, N)
judges = [judge(lambda Pi: rates.variational_rate(x, Pi, V, 0.5), P) for judge in (autograd, central)]
check("5.24", torch.stack([T, T]) / (2 * n), torch.stack(judges), "T/2n = autograd = differences", DIFFERENCES)

nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
weights, e = weights / weights.sum(), nodes / math.sqrt(c)               # noise of variance 1/c
log_normal = lambda y, var: -0.5 * (y ** 2 / var + torch.log(2 * math.pi * var))
w, s = project(x, V)[..., None], moments(project(x, V), P)[:, None, :, None]  # (K, N, p, 1), (K, 1, p, 1)
extra = -log_normal(w + e, s + 1 / c) + log_normal(e, torch.tensor(1 / c))
check("5.25", T / 2, (extra * weights).sum((-1, -2)), "T/2 against 20-point quadrature")

# %% [markdown]
# Now the full gradient. Take $\Pi=\operatorname{softmax}_k(\lVert U_k^{\top}z\rVert^2/2\eta)$ and write $\bar T_j=\sum_k\pi_{jk}T_{jk}$ for the average price of token $j$. The derivative of a softmax brings in the difference to the average:
#
# $$
# \nabla_{z_j}R_c^{\mathrm{var}}(Z,\Pi(Z))=\frac1n\sum_{k=1}^{K}\pi_{jk}U_kD_kU_k^{\top}z_j+\frac{1}{2n\eta}\sum_{k=1}^{K}\pi_{jk}\,(T_{jk}-\bar T_j)\,U_kU_k^{\top}z_j \tag{5.26}
# $$
#
# *(5.26) Checked. The total gradient: the part TSSA keeps, and the part it drops — this series*
#
# The dropped part is linear in $n$ as well. It would let a token drift towards the groups in which it is cheap to code.

# %%
def kept_and_dropped(x, V, eta, eps2):
    w = project(x, V)                                                    # (K, N, p)
    P = tssa.memberships(w, 1 / (2 * eta), "none")                       # (K, N)
    T = prices(x, P, V, eps2)                                            # (K, N)
    above = P * (T - (P * T).sum(0))                                     # (K, N)
    dropped = torch.einsum("kn,knp,kdp->nd", above, w, V) / (2 * len(x) * eta)
    return rates.variational_rate_grad(x, P, V, eps2), dropped

# %% tags=["hide-input"]
# check of (5.26) at η = 0.3, and the size of the dropped part on the noisy mixture
def total(x):
    return rates.variational_rate(x, tssa.memberships(project(x, V), 1 / 0.6, "none"), V, 0.5)


ours = sum(kept_and_dropped(x, V, 0.3, 0.5))
check("5.26", torch.stack([ours, ours]), torch.stack([judge(total, x) for judge in (autograd, central)]),
      "kept + dropped = autograd = differences, η = 0.3", DIFFERENCES)
for eta in (0.2, 1.0, 5.0):
    kept, dropped = kept_and_dropped(tokens, own, eta, eps2=0.32)
    cosine = torch.nn.functional.cosine_similarity((kept + dropped).flatten(), kept.flatten(), dim=0)
    print(f"η = {eta}: |dropped| / |kept| = {float(dropped.norm() / kept.norm()):.2f}, cosine of total and kept = {float(cosine):.3f}")

# %% [markdown]
# Not negligible, but the direction that is kept stays close to the whole.
#
# ### A loop that never rises
#
# The memberships need not be differentiated at all. Take the tangent (5.6) once more, at $x=s_{ki}$ and $y=s'_{ki}$, the moments under other memberships $\Pi'$, and multiply it by $n'_k$, the new mass. On the right stand $n'_k\,[f(s_{ki})-f'(s_{ki})\,s_{ki}]$ and $f'(s_{ki})\,n'_ks'_{ki}$. Both are sums over the tokens with weights $\pi'_{jk}$, since $n'_k=\sum_j\pi'_{jk}$ and $n'_ks'_{ki}=\sum_j\pi'_{jk}(u_{ki}^{\top}z_j)^2$. Together they are $\sum_j\pi'_{jk}$ times the bracket of (5.24). Sum over $i$ and $k$:
#
# $$
# R_c^{\mathrm{var}}(Z,\Pi')\le\frac{1}{2n}\sum_{j=1}^{n}\sum_{k=1}^{K}\pi_{jk}'\,T_{jk},\qquad\text{with equality at }\Pi'=\Pi \tag{5.27}
# $$
#
# *(5.27) Checked. The rate as a function of Π lies below a linear one: majorisation again — this series*
#
# A linear function is least when every token goes wholly to its cheapest group, $\arg\min_kT_{jk}$. That never raises the rate. Nor does turning $U_k$ to the eigenvectors of its group (lesson 4, $p=d$), nor a TSSA step. Three blocks, one falling curve.

# %% tags=["hide-input"]
# check of (5.27): 500 other memberships, the last 100 near Π
others = torch.cat([torch.randn(400, 3, 9), P.log() + 0.05 * torch.randn(100, 3, 9)]).softmax(1)  # over the groups
check_below("5.27", lambda other: rates.variational_rate(x, other, V, 0.5), lambda other: (other * prices(x, P, V, 0.5)).sum() / (2 * len(x)),
            "500 other memberships", draws=list(others), equal=(P,))

# %%
def three_blocks(z, P, V, rounds, curve):
    note = lambda: curve.append(float(rates.variational_rate(z, P, V, 0.32)))
    for _ in range(rounds):
        z = z + update(z, P, V, 0.32, 0.002)                             # tokens: a short TSSA step
        note()
        cheapest = prices(z, P, V, 0.32).argmin(0)                       # memberships: the cheapest group
        P = torch.nn.functional.one_hot(cheapest, len(P)).T.double()
        note()
        V = torch.linalg.eigh(rates.second_moment(z, P))[1]              # bases: each group's eigenvectors
        note()
    return P

# %%
torch.manual_seed(3)
start = torch.randn(4, 400).softmax(0)                                   # over the groups
curve = []
P = three_blocks(tokens, start, torch.eye(16).repeat(4, 1, 1), 12, curve)
rises = sum(b > a + 1e-9 for a, b in zip(curve, curve[1:]))
purity = float((P @ surely.T).amax(1).sum() / 400)                       # share of tokens in their group's majority
print(f"{curve[0]:.2f} → {curve[-1]:.2f} nats, {rises} rises in {len(curve) - 1} steps; purity of the groups {purity:.2f}")

# %% [markdown]
# The rate never rises, as promised; but *never rising* is not *finding the truth*. From random memberships the loop stops in a local minimum: the purity (the share of tokens that belong to the majority of their group) is far from 1. Lesson 6 looks for better memberships.
#
# ## Sources
#
# - Z. Wu et al. 2024, *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction* (arXiv 2412.17810): $R_c^{\mathrm{var}}$, its gradient, the TSSA operator and the layer.
# - Y. Yu et al. 2023, *White-Box Transformers via Sparse Rate Reduction* (CRATE, arXiv 2306.01129): MSSA and the rate in subspaces.
# - D. Hunter and K. Lange 2004, *A Tutorial on MM Algorithms*: majorisation–minimisation in general.
# - H. Robbins 1956, *An Empirical Bayes Approach to Statistics*; B. Efron 2011, *Tweedie's Formula and Selection Bias*.
# - "This series" marks what we derived here and did not find in these sources: the step-size theorem and its sharp constant, where compression ends, the denoising reading, the code-length form of $T$, and the gradient through $\Pi$.
#
# [◀ previous](04_variational_bound.ipynb) · [contents](00_start_here.ipynb) · [next ▶](06_memberships.ipynb)
