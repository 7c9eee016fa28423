# %% [markdown]
# # Lesson 5 · The TSSA update
# [◀ previous](04_variational_bound.ipynb) · [contents](00_start_here.ipynb) · [next ▶](06_memberships.ipynb)
#
# Lesson 4 replaced the log-determinants of the compression rate by sums over coordinates. Here we take the gradient of that simpler rate, walk one step downhill, and find Token Statistics Self-Attention in our hands. Then we ask what the papers leave open: how long may the step be? The answer is a theorem with a sharp constant, and a list of what it does not cover.
#
# **After this you can**
#
# - derive the gradient of $R_c^{\mathrm{var}}$ and recognise TSSA in it;
# - prove that a tied TSSA step lowers its objective for every step $\gamma\in(0,2)$, and show why 2 cannot be improved;
# - say where that guarantee ends: memberships that move, pre-norm, a free output map, collapse;
# - read the update as denoising, and tell which directions a head cleans and which it leaves alone;
# - write down what is dropped when the memberships are treated as constants.
#
# **Before this:** [lesson 2](02_rate_reduction.ipynb) (memberships, $R_c$) and [lesson 4](04_variational_bound.ipynb) (the variational bound).
#
# **Time:** about 60 minutes to read, 15 seconds to run on two CPU cores.

# %%
import math
import torch
from tssa_lib import attention, plots, rates, tssa
from kit import DIFFERENCES, REACHED, agree, check, check_below, exercise, show

torch.set_default_dtype(torch.float64)
_ = torch.manual_seed(0)

# %% [markdown]
# ## 1 · The objective
#
# Six tokens in the plane, $a$ to $f$, as in every lesson. Tokens are columns $z_j$ of $Z$ in the mathematics and rows of `x` in the code. The first three lie near coordinate 1, the last three near coordinate 2. Each group gets a complete basis, here simply both coordinates, $U_1=U_2=I$, so that lesson 4's bound holds ($p=d$). The memberships are soft: 0.9 to the own group, 0.1 to the other.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])
U = torch.eye(2).repeat(2, 1, 1)                                      # (K, d, p) = (2, 2, 2)
Pi = torch.tensor([[.9, .9, .9, .1, .1, .1], [.1, .1, .1, .9, .9, .9]])  # (K, N)
eps2 = 0.5                                                            # ε², so c = d/ε² = 4

# %% [markdown]
# Lesson 4 ended with a rate that needs no determinant. In group $k$, each coordinate of $U_k^{\top}Z$ is coded by itself, and all that the code has to know about the coordinate is its second moment.
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

# %% [markdown]
# Written with loops, so that every sum of the formula is a line of the program. The library does the same without loops; `agree` compares the two, here on the six tokens.

# %%
def my_moments(x, Pi, U):
    s = torch.zeros(U.shape[0], U.shape[2])                           # (K, p)
    for k, U_k in enumerate(U):
        for z_j, pi_jk in zip(x, Pi[k]):
            s[k] = s[k] + pi_jk * (U_k.T @ z_j) ** 2 / Pi[k].sum()
    return s

# %%
def my_rate(x, Pi, U, eps2):
    c, n_k = x.shape[1] / eps2, Pi.sum(1)
    return 0.5 * (n_k / len(x) * torch.log(1 + c * my_moments(x, Pi, U)).sum(1)).sum()


agree(my_rate, rates.variational_rate, six, Pi, U, eps2)
print("s_1, s_2 =", [[round(v, 3) for v in s_k] for s_k in my_moments(six, Pi, U).tolist()])

# %% [markdown]
# Can you get the first number by hand? Group 1 has $n_1=0.9\cdot3+0.1\cdot3=3$ members. In coordinate 1 its sum is $0.9\,(4+2.25+1)+0.1\,(0.01+0.04+0.01)=6.531$, a third of which is 2.177. Group 1 is strong in coordinate 1 and weak in coordinate 2, group 2 the other way round.
#
# ## 2 · The gradient
#
# We want to move the tokens so that the rate falls. During the move **we hold $\Pi$ fixed**: it is a number, not a function of $Z$. That is a decision, made by the published operator too; section 8 says what it drops.
#
# With $\Pi$ fixed only $s_{ki}$ depends on $z_j$, and $\partial s_{ki}/\partial z_j=\frac{2}{n_k}\pi_{jk}(u_{ki}^{\top}z_j)\,u_{ki}$. The chain rule multiplies this with $\frac12\frac{n_k}{n}f'(s_{ki})$. The factors $n_k$ cancel, the 2 cancels, and $1/n$ stays.
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

# %% [markdown]
# The whole dependence of token $j$ on the other tokens sits in $D_k$: $K\cdot p$ numbers. Nobody compares token with token, so the cost is linear in $n$. Before we trust the formula, write it as one line a token.

# %%
def my_grad(x, Pi, U, eps2):
    c, g = x.shape[1] / eps2, torch.zeros_like(x)                     # (N, d)
    for k, s_k in enumerate(my_moments(x, Pi, U)):
        D_k = torch.diag(c / (1 + c * s_k))                           # (p, p)
        for j in range(len(x)):
            g[j] += Pi[k, j] * U[k] @ D_k @ U[k].T @ x[j] / len(x)
    return g


agree(my_grad, rates.variational_rate_grad, six, Pi, U, eps2)

# %% [markdown]
# Two judges that know nothing of our algebra: automatic differentiation of (5.1), and central differences, which only evaluate the rate. We let them judge on random tokens for three kinds of bases: complete ones ($p=d$), the heads' blocks of one orthogonal matrix ($p=d/K$), and arbitrary matrices, because the derivation never used orthogonality.

# %%
def autograd(f, x):
    return torch.autograd.functional.jacobian(f, x)


def central(f, x, h=1e-5):
    g = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros(x.numel()).index_fill(0, torch.tensor(i), h).view_as(x)
        g.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return g

# %%
def bases(kind, K=3, d=6):
    Q = torch.linalg.qr(torch.randn(K, d, d))[0]                      # (K, d, d)
    return {"complete": Q, "blocks": Q[0].mT.unflatten(0, (K, -1)).mT, "arbitrary": torch.randn(K, d, 4)}[kind]

# %%
draws = [(torch.randn(9, 6), torch.randn(3, 9).softmax(0), bases(kind))  # softmax over the groups
         for kind in ("complete", "blocks", "arbitrary")]
ours = torch.stack([rates.variational_rate_grad(*draw, 0.5) for draw in draws])
judges = [torch.stack([judge(lambda x: my_rate(x, Pi_, U_, 0.5), x_) for x_, Pi_, U_ in draws])
          for judge in (autograd, central)]
check("5.3", torch.stack([ours, ours]), torch.stack(judges), "gradient = autograd = differences", DIFFERENCES)

# %%
s = torch.rand(50) * 10
check("5.4", tssa.gates(s, 4.0), autograd(lambda s: torch.log1p(4 * s).sum(), s), "gate = slope of ln(1 + 4s)")

# %% [markdown]
# What does a gate do? Its value $c/(1+cs)$ falls as the second moment grows. A coordinate in which the group is strong is left almost alone; one in which it is weak gets the full pull towards zero.
#
# *Predict:* a token that belongs wholly to the group takes the step $-tD_k$ with $t=1/c$. By which factor is a coordinate multiplied if its
# second moment is $s=0$? If $s=1/c$? If $s\gg1/c$?
#
# <details><summary>Answer</summary>
#
# The factor is $1-\frac1c\frac{c}{1+cs}=\frac{cs}{1+cs}$: zero at $s=0$, one half at $s=1/c$, almost one for large $s$. Weak coordinates are erased, strong ones kept.
#
# </details>

# %%
s = torch.linspace(0, 3, 121)
left, right = plots.row(2)
plots.lines(s, {f"c = {c}": tssa.gates(s, c) / c for c in (1, 4, 16)}, ax=left,
            title="The gate, in units of its largest value c", xlabel="second moment s", ylabel="D/c")
fig = plots.lines(s, {f"c = {c}": 1 - tssa.gates(s, c) / c for c in (1, 4, 16)}, ax=right,
                  title="What the step t = 1/c leaves of a coordinate", xlabel="second moment s", ylabel="factor cs/(1 + cs)")
show(fig, alt="Two panels over the second moment: the gate falls from one towards zero, the factor rises from zero towards one, both faster for larger c.",
     digest=f"c = 4: at s = 1/c the gate is {tssa.gates(s[10], 4) / 4:.2f} of c; at s = {s[-1]:.0f} the factor is {1 - tssa.gates(s[-1], 4) / 4:.3f}")

# %% [markdown]
# ## 3 · The operator
#
# Walk against the gradient with step $\tau$ and collect all tokens in one matrix. This is the Token Statistics Self-Attention operator.
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
# The step comes as $\tau/n$, so we name it: **$t=\tau/n$**. Section 4 shows that a safe $t$ does not depend on the number of tokens, while a safe $\tau$ would.

# %%
def my_update(x, Pi, U, eps2, t):
    Z, c, update = x.T, x.shape[1] / eps2, 0                          # Z (d, n): tokens are columns
    for U_k, pi_k, s_k in zip(U, Pi, my_moments(x, Pi, U)):
        update = update - t * U_k @ torch.diag(c / (1 + c * s_k)) @ U_k.T @ Z @ torch.diag(pi_k)  # (d, n)
    return update.T

# %%
agree(my_update, tssa.tssa_update, six, Pi, U, eps2, 0.25)
x, P, V = draws[2]
check("5.5", tssa.tssa_update(x, P, V, 0.5, 0.1), -0.1 * len(x) * autograd(lambda x: my_rate(x, P, V, 0.5), x),
      "TSSA = −τ · autograd of the rate")

# %% [markdown]
# Let the six tokens take two steps with $t=1/c$. Each token keeps most of the coordinate in which its group is strong and loses the other one: two clouds become two lines. Everything also moves towards the origin; section 5 follows that to its end.

# %%
after = six
for _ in range(2):
    after = after + tssa.tssa_update(after, Pi, U, eps2, t=0.25)

# %%
before_rate, after_rate = (float(rates.variational_rate(x, Pi, U, eps2)) for x in (six, after))
left, right = plots.row(2)
who = [0, 0, 0, 1, 1, 1]
plots.points(six, who, names="abcdef", directions=torch.eye(2), title="Six tokens", ax=left)
fig = plots.points(after, who, names="abcdef", directions=torch.eye(2), title="After two TSSA steps", ax=right)
for ax in (left, right):
    ax.set(xlim=(-2.5, 2.5), ylim=(-2.2, 2.2), adjustable="box")
show(fig, alt="Six tokens near two axes before and after two steps: afterwards each group lies on its axis, nearer to the origin.",
     digest=f"rate {before_rate:.3f} nats before, {after_rate:.3f} after; token a from (2.00, 0.10) to ({after[0, 0]:.2f}, {after[0, 1]:.2f})")

# %% [markdown]
# ## 4 · How long may the step be?
#
# A gradient step lowers a function only if it is short enough. The papers fix $\tau$ by absorbing it into learned weights and give no bound. We can do better, because $R_c^{\mathrm{var}}$ has a special shape: a *concave* function $f$ of a quantity $s$ that is *quadratic* in the tokens.
#
# A concave function lies below each of its tangents:
#
# $$
# f(y)\le f(x)+f'(x)\,(y-x) \tag{5.6}
# $$
#
# *(5.6) Checked. A concave function lies below its tangent — calculus*
#
# Replace $f$ by its tangent at the present second moments and what remains is quadratic in the new tokens. A bound from above that touches at the present point is called a **majoriser**; minimising it instead of the function itself is the *majorisation–minimisation* (MM) idea. Going down on the bound takes the function down too, since the function lies below.

# %%
s, s_new = torch.rand(1000) * 5, torch.rand(1000) * 5
f, slope = torch.log1p(4 * s), tssa.gates(s, 4.0)
check_below("5.6", torch.log1p(4 * s_new), f + slope * (s_new - s), "ln(1 + 4y) below its tangents",
            equal=(torch.log1p(4 * s), f + slope * (s - s)))

# %% [markdown]
# The quadratic needs a name. For each token, the gates of all groups combine into one symmetric positive semidefinite matrix, the **curvature** of the majoriser:
#
# $$
# A_j(Z)=\sum_{k=1}^{K}\pi_{jk}\,U_k\operatorname{Diag}\bigl(f'(s_k(Z))\bigr)U_k^{\top}\succeq0 \tag{5.7}
# $$
#
# *(5.7) Definition. Curvature of the majoriser at token j — this series*
#
# The gradient (5.3) is $\frac1nA_jz_j$ and the update (5.5) is $z_j^{+}=z_j-tA_jz_j$: the same matrix in both. `curvature` below builds it by the formula.

# %%
def curvature(x, Pi, U, c):
    D = tssa.gates(my_moments(x, Pi, U), c)                           # (K, p)
    return torch.einsum("kn,kdp,kp,kep->nde", Pi, U, D, U)            # (N, d, d)

# %%
A = curvature(six, Pi, U, 4.0)
step = -0.25 * (A @ six[:, :, None])[:, :, 0]                         # −t A_j z_j, (N, d)
print("same step as (5.5):", torch.allclose(step, tssa.tssa_update(six, Pi, U, eps2, 0.25)))
print("A_a =", [[round(v, 3) for v in r] for r in A[0].tolist()])

# %% [markdown]
# **Theorem (one TSSA step is an MM step).** *Let $f$ be concave, non-decreasing and differentiable, $\Pi\ge0$ fixed, the $U_k$ arbitrary matrices, $A_j=A_j(Z)$.*
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
# *(5.9) Checked. The step lowers the rate by at least this much — this series*
#
# Here $\lVert A_j\rVert$ is the largest eigenvalue. The sum that is subtracted is never negative, so the rate cannot rise. "Separates over
# the tokens" is the reason why linear time suffices: once the $K\cdot p$ gates are known, every token has a little quadratic problem of its
# own.

# %% [markdown]
# **Proof of (i).** Take (5.6) at $x=s_{ki}(Z)$ and $y=s_{ki}(Z')$, multiply by $\frac{n_k}{2n}\ge0$ and sum over $k$ and $i$. On the right appears $\frac{1}{2n}\sum_{k,i}n_kf'(s_{ki})\,s_{ki}(Z')$. By (5.2), $n_ks_{ki}(Z')=\sum_j\pi_{jk}(u_{ki}^{\top}z_j')^2$; sorted by tokens the sum is $\frac{1}{2n}\sum_jz_j'^{\top}A_jz_j'$. The same with $Z$ gives the subtracted term. At $Z'=Z$ both sides agree, and the gradient of the right side there is $\frac1nA_jz_j$, which is (5.3). ∎
#
# **Proof of (ii).** Put $z_j'=z_j-tA_jz_j$ into one bracket and expand. All matrices are powers of one symmetric $A$, so they commute:
#
# $$
# (z-tAz)^{\top}A(z-tAz)-z^{\top}Az\le-t\,(2-t\lVert A\rVert)\,\lVert Az\rVert^2 \tag{5.10}
# $$
#
# *(5.10) Checked. What the step does to the quadratic of one token — this series*
#
# Indeed the left side is $-2t\,z^{\top}A^2z+t^2z^{\top}A^3z$. The first term is $-2t\lVert Az\rVert^2$, and the second is at most $t^2\lVert A\rVert\,\lVert Az\rVert^2$. Insert (5.10) into (5.8). ∎
#
# Where did each assumption work? Concavity gave the tangent; $f'\ge0$ made $A_j$ positive semidefinite; orthogonality of $U_k$ was never used.

# %%
left_side, right_side = [], []
for kind in ("complete", "blocks", "arbitrary") * 50:
    x, P, V = torch.randn(9, 6) * 3 ** torch.randn(1), torch.randn(3, 9).softmax(0), bases(kind)  # over the groups
    new = x + torch.randn(9, 6) * 3 ** torch.randn(1)
    A = curvature(x, P, V, 12.0)                                      # c = 6/0.5
    quadratic = lambda z: torch.einsum("nd,nde,ne->", z, A, z) / (2 * len(z))
    left_side.append(my_rate(new, P, V, 0.5))
    right_side.append(my_rate(x, P, V, 0.5) + quadratic(new) - quadratic(x))

# %% [markdown]
# When is the bound tight? Mirror some coordinates of some tokens, with bases along the axes: every square stays, so every $s_{ki}$ stays, and so do both sides. The same cell compares the gradients at $Z'=Z$: automatic differentiation of the rate against that of the quadratic.

# %%
signs = torch.randn(9, 6).sign()                                      # mirrored coordinates: all s_ki stay
x, P, V = torch.randn(9, 6), torch.randn(3, 9).softmax(0), torch.eye(6).repeat(3, 1, 1)  # over the groups
A, level = curvature(x, P, V, 12.0), my_rate(x, P, V, 0.5)
slopes = [autograd(g, x).flatten() for g in (lambda z: my_rate(z, P, V, 0.5), quadratic)]
mirror = [my_rate(x * signs, P, V, 0.5), level + quadratic(x * signs) - quadratic(x)]
check_below("5.8", torch.stack(left_side), torch.stack(right_side), "rate below majoriser, 3 kinds of bases",
            equal=[torch.cat([value[None], slope]) for value, slope in zip(mirror, slopes)])

# %% [markdown]
# For the descent, each token draws its own step between zero and its own limit $2/\lVert A_j\rVert$. The case of equality is one group on one axis with $t=2/\lVert A\rVert$: the step then mirrors every token at the origin, and nothing changes.

# %%
def quadratic_step(A, x, t):                                          # both sides of (5.10), one number a token
    size, Az = torch.linalg.eigvalsh(A)[:, -1], (A @ x[:, :, None])[:, :, 0]
    form = lambda z: torch.einsum("nd,nde,ne->n", z, A, z)
    return form(x - t[:, None] * Az) - form(x), -t * (2 - t * size) * (Az ** 2).sum(1)

# %%
before, after, promised, quad, quad_bound = [], [], [], [], []
for kind in ("complete", "blocks", "arbitrary") * 50:
    x, P, V = torch.randn(9, 6) * 3 ** torch.randn(1), torch.randn(3, 9).softmax(0), bases(kind)  # over the groups
    A = curvature(x, P, V, 12.0)                                      # (N, d, d)
    size, Az = torch.linalg.eigvalsh(A)[:, -1], (A @ x[:, :, None])[:, :, 0]
    t = 2 / size * torch.rand(9)                                      # (N,)
    new = x - t[:, None] * Az
    before.append(my_rate(x, P, V, 0.5)), after.append(my_rate(new, P, V, 0.5))
    promised.append((t * (1 - t * size / 2) * (Az ** 2).sum(1)).mean())
    change, limit = quadratic_step(A, x, t)
    quad.append(change), quad_bound.append(limit)

# %%
top = torch.linalg.eigh(A)[1][:, :, -1]                               # each token its own top eigenvector
check_below("5.10", torch.cat(quad), torch.cat(quad_bound), "one token's quadratic", equal=quadratic_step(A, top, t))

# %%
line, one, axis = torch.randn(9, 1), torch.ones(1, 9), torch.ones(1, 1, 1)
D = tssa.gates(my_moments(line, one, axis), 2.0)                      # d = 1, ε² = 0.5, so c = 2
mirrored = line + tssa.tssa_update(line, one, axis, 0.5, t=2 / D.item())
check_below("5.9", torch.stack(after), torch.stack(before) - torch.stack(promised), "rate after the step",
            equal=(my_rate(mirrored, one, axis, 0.5), my_rate(line, one, axis, 0.5)))

# %% [markdown]
# The picture shows the argument at work on the six tokens, moved together by one step $t$: the rate, its majoriser (5.8) and the promise (5.9). All three touch at $t=0$ with the same slope.
#
# *Predict:* at $t=2/\max_j\lVert A_j\rVert$ the promise is spent for at least one token. Will the true rate be back at its starting value there?
#
# <details><summary>Answer</summary>
#
# No, it is far below. The promise counts every direction as if it were the steepest one of its token; the majoriser knows the other directions, and the rate lies below the majoriser. The theorem says which steps are safe, not that longer ones fail.
#
# </details>

# %%
A, start = curvature(six, Pi, U, 4.0), my_rate(six, Pi, U, eps2)
Az, size = (A @ six[:, :, None])[:, :, 0], torch.linalg.eigvalsh(A)[:, -1]
limit = float(tssa.largest_safe_gamma(Pi, U, tssa.gates(my_moments(six, Pi, U), 4.0)))
energy = lambda z: torch.einsum("nd,nde,ne->", z, A, z) / 12          # 1/(2n), n = 6
ts = torch.linspace(0, 2.2, 89)

# %%
true = torch.stack([my_rate(six - t * Az, Pi, U, eps2) for t in ts])
bound = torch.stack([start + energy(six - t * Az) - energy(six) for t in ts])
promise = torch.stack([start - (t * (1 - t * size / 2) * (Az ** 2).sum(1)).mean() for t in ts])

# %%
fig = plots.lines(ts, {"rate": true, "majoriser (5.8)": bound, "promise (5.9)": promise}, title="One step on the six tokens",
                  xlabel="step t", ylabel="nats", vlines={"2/c": 0.5, "2/max ‖A‖": limit})
show(fig, alt="Three curves that fall from the same point with the same slope: the promise turns up first, then the majoriser, then the rate, which is the lowest everywhere.",
     digest=f"start {float(start):.3f}, 2/c = 0.5, 2/max ‖A‖ = {limit:.3f}; lowest promise {float(promise.min()):.3f}, majoriser {float(bound.min()):.3f}, rate {float(true.min()):.3f} nats")

# %% [markdown]
# ### A step that is safe for all data
#
# The limit depends on the data through $A_j$. For orthonormal $U_k$ and memberships that sum to one, $A_j$ is an average of matrices whose eigenvalues are gates, and no gate exceeds $f'(0)=c$. So there is a step that is always safe, whatever the tokens and however many:
#
# $$
# \frac2c\le\frac{2}{\max_j\lVert A_j\rVert} \tag{5.11}
# $$
#
# *(5.11) Checked. With orthonormal bases, t = 2ε²/d is safe for all data — this series · `tssa.largest_safe_gamma`*
#
# This is the promised reason for calling $t=\tau/n$, not $\tau$, the step: its bound knows nothing of $n$.

# %%
limits = []
for kind in ("complete", "blocks") * 100:
    x, P, V = torch.randn(9, 6) * 3 ** torch.randn(1), torch.randn(3, 9).softmax(0), bases(kind)  # over the groups
    limits.append(2 / torch.linalg.matrix_norm(curvature(x, P, V, 12.0), 2).max())

# %% [markdown]
# The bound is reached by data that leave some direction empty: there $s=0$ and the gate is exactly $c$. On random data the local limit is much longer; the last line prints by how much.

# %%
silent = torch.tensor([[1.0, 0.0], [2.0, 0.0]])                       # no token moves along e₂: s = 0 there
D = tssa.gates(my_moments(silent, torch.ones(1, 2), torch.eye(2)[None]), 12.0)
check_below("5.11", torch.full((200,), 2 / 12), torch.stack(limits), "2/c against the local limit",
            equal=(2 / 12, tssa.largest_safe_gamma(torch.ones(1, 2), torch.eye(2)[None], D)))
print(f"local limit over 2/c: median {float(torch.stack(limits).median()) * 6:.2f}")

# %% [markdown]
# ### The headline: every γ between 0 and 2
#
# Now to the layer that people run. It has $c=1$, gates $1/(1+s)$, and no step size at all: $t=1$. With **tied** weights, where the output map is the transpose of the projection, it is exactly the operator above.
#
# $$
# \mathrm{TSSA}(Z)_j=-\sum_{k=1}^{K}\pi_{jk}\,U_kD_kU_k^{\top}z_j=-n\,\nabla_{z_j}R_c^{\mathrm{var}}\qquad(c=1,\ t=1) \tag{5.12}
# $$
#
# *(5.12) Checked. The tied layer is −n times the gradient — this series; the layer of Wu et al. 2024 · `tssa.TSSA`*
#
# The same code, now on a feature map of realistic size: 400 tokens of width 128 in four heads. The layer computes its own memberships; the gradient holds them fixed. (The layer adds $10^{-8}$ to $n_k$; with 100 members a head, the check cannot see it.)

# %%
layer = tssa.TSSA(128, 4, tied=True).requires_grad_(False)
torch.nn.init.orthogonal_(layer.qkv.weight)
heads = layer.qkv.weight.unflatten(0, (4, -1)).mT                     # U (K, d, p) = (4, 128, 32)

# %%
x = torch.randn(1, 400, 128)
Pi_x = layer.statistics(x).Pi                                         # (1, K, N)
rate = lambda z: rates.variational_rate(z, Pi_x[0], heads, eps2=128.0)  # ε² = d makes c = 1
check("5.12", layer(x)[0], -400 * autograd(rate, x[0]), "tied layer = −n · autograd, (1, 400, 128)")

# %% [markdown]
# Put $c=1$ and $\lVert A_j\rVert\le1$ into (5.9) and the theorem becomes a sentence about the residual update `x + γ·layer(x)`, where $\gamma$ is what implementations call LayerScale:
#
# $$
# \frac{R_c^{\mathrm{var}}(Z+\gamma\,\mathrm{TSSA}(Z))}{R_c^{\mathrm{var}}(Z)}\le1-\frac{\gamma\,(1-\gamma/2)\,\sum_j\lVert\mathrm{TSSA}(Z)_j\rVert^2}{n\,R_c^{\mathrm{var}}(Z)}<1\qquad\text{for all }0<\gamma<2 \tag{5.13}
# $$
#
# *(5.13) Checked. With tied orthonormal weights, x + γ·TSSA(x) lowers the rate for every γ in (0, 2) — this series*
#
# (Strictly, as long as some update is not zero.) Is 2 the end, or only the end of our proof? One group and one direction can be solved completely: the token shrinks by $1-tD$, so its second moment shrinks by the square.
#
# $$
# s^{+}=s\,(1-tD)^2,\qquad D=\frac{c}{1+cs}\qquad(K=p=1) \tag{5.14}
# $$
#
# *(5.14) Checked. One group, one direction: break-even exactly at t = 2/D — this series*
#
# For tiny tokens the gate is $D\to c$ and the rate is proportional to $s$. With $t=\gamma/c$:
#
# $$
# \lim_{s\to0}\frac{R_c^{\mathrm{var}}(Z^{+})}{R_c^{\mathrm{var}}(Z)}=(1-\gamma)^2 \tag{5.15}
# $$
#
# *(5.15) Checked. Sharpness: beyond γ = 2 tiny tokens make the rate rise — this series*
#
# For $\gamma>2$ the right side exceeds 1: **2 is sharp**.

# %%
small = tssa.TSSA(8, 2, tied=True, temp=5.0).requires_grad_(False)
torch.nn.init.orthogonal_(small.qkv.weight)
images, gammas = torch.randn(300, 9, 8) * 3 ** torch.randn(300, 1, 1), 2 * torch.rand(300, 1, 1)
W, P, y = small.qkv.weight.unflatten(0, (2, -1)).mT, small.statistics(images).Pi, small(images)
start = rates.variational_rate(images, P, W, 8.0)                     # ε² = d, c = 1
ratio = rates.variational_rate(images + gammas * y, P, W, 8.0) / start
bound = 1 - (gammas * (1 - gammas / 2) * y ** 2).sum((1, 2)) / (9 * start)

# %% [markdown]
# Equality is found in the limit of tiny tokens at $\gamma=2$: four equal tokens on a line with $s=10^{-12}$. `line_ratio` returns how their rate changes; we need it again for the sharpness.

# %%
def line_ratio(gamma, s):                                             # one group on one axis, c = 1
    z = torch.full((4, 1), math.sqrt(s))
    new = z + gamma * tssa.tssa_update(z, torch.ones(1, 4), torch.ones(1, 1, 1), 1.0)
    return torch.log1p((new ** 2).mean()) / torch.log1p((z ** 2).mean())


check_below("5.13", torch.stack([ratio, bound]), torch.stack([bound, torch.ones(300)]), "300 images, γ uniform in (0, 2)", equal=(line_ratio(2.0, 1e-12), 1.0))

# %%
s, t = torch.rand(200) * 5, torch.rand(200) * 3
moments = [(z + tssa.tssa_update(z, torch.ones(1, 4), torch.ones(1, 1, 1), 0.5, t=float(t_))).square().mean()
           for z, t_ in zip(s.sqrt()[:, None, None].expand(-1, 4, 1), t)]
check("5.14", torch.stack(moments), s * (1 - t * tssa.gates(s, 2.0)) ** 2, "moment after the step, c = 2")

# %%
gammas = torch.linspace(0, 4, 41)
check("5.15", torch.stack([line_ratio(g, 1e-6) for g in gammas]), (1 - gammas) ** 2, "ratio at s = 1e-6, γ from 0 to 4", REACHED)

# %% [markdown]
# ### The sweep
#
# Theory done; now look. We take 300 random images of 32 tokens whose brightness spans four powers of ten, and let tied layers with one head and with four sharp heads update them with $\gamma$ from 0 to 4. For each $\gamma$ we draw the *worst* image.
#
# *Predict:* where does the worst curve cross 1? And for which layer do fewer images get worse just beyond?
#
# <details><summary>Answer</summary>
#
# Never before 2. Up to there the worst image is a bright one: its gates are almost zero, so its rate hardly falls. Beyond 2, with one head,
# it is a dark one and follows (5.15) closely. With four heads many images hold out longer, because memberships below one make the curvature
# smaller: the limit is $2/\max_j\lVert A_j\rVert$, and $\lVert A_j\rVert\le\max_k\pi_{jk}$ when the heads are orthogonal to each other.
#
# </details>

# %%
images = torch.randn(300, 32, 16) * 10 ** (4 * torch.rand(300, 1, 1) - 3)
gammas = torch.linspace(0, 4, 41)

def sweep(num_heads, temp):
    layer = tssa.TSSA(16, num_heads, tied=True, temp=temp).requires_grad_(False)
    torch.nn.init.orthogonal_(layer.qkv.weight)
    W, P, y = layer.qkv.weight.unflatten(0, (num_heads, -1)).mT, layer.statistics(images).Pi, layer(images)
    ratio = torch.stack([rates.variational_rate(images + g * y, P, W, 16.0) for g in gammas])
    return ratio / rates.variational_rate(images, P, W, 16.0)         # (γ, image)

# %%
ratios = {"1 head": sweep(1, 1.0), "4 heads": sweep(4, 100.0)}
worst = {name: r.amax(1) for name, r in ratios.items()}
rising = {name: 100 * (r > 1 + 1e-6).double().mean(1) for name, r in ratios.items()}

# %%
left, right = plots.row(2)
plots.lines(gammas, {**worst, "(1 − γ)²": (gammas[10:], (1 - gammas[10:]) ** 2)}, hlines={"no change": 1.0}, vlines={"γ = 2": 2.0},
            title="Worst of 300 images", xlabel="γ", ylabel="rate after / rate before", ax=left)
fig = plots.lines(gammas, rising, vlines={"γ = 2": 2.0}, title="Images whose rate rises", xlabel="γ", ylabel="% of 300 images", ax=right)
digest = "; ".join(f"{name}: {float(r[:21].max()):.0f} % of the images rise for γ ≤ 2, {float(r[21]):.0f} % at 2.1, {float(r[30]):.0f} % at 3"
                   for name, r in rising.items())
show(fig, alt="Left: the worst ratio stays below one up to γ = 2 and then climbs along (1 − γ)². Right: the share of images whose rate rises is zero up to γ = 2, then jumps up.",
     digest=digest)

# %% [markdown]
# Not one image rises up to $\gamma=2$, and the line at 2 is where trouble starts.
#
# If the weights are tied but not orthonormal, $\lVert A_j\rVert$ can exceed 1 and the limit shrinks. `tssa.largest_safe_gamma` computes it from the memberships and gates of a real layer, so it can be watched during training.
#
# ### Many steps, and what a textbook would have said
#
# Two consequences, both for orthonormal $U_k$, memberships that sum to one and stay fixed, and $t=1/c$, where the promise (5.9) is at least $\frac{n}{2c}\lVert\nabla R_c^{\mathrm{var}}\rVert_F^2$ in each step. Add up $q$ steps. The rate cannot fall below zero, so the promises together are at most the rate at the start, and the smallest of the $q$ gradients is at most their mean:
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
# A function whose second derivative is at most $c/n$ falls for every step $\tau<2n/c$, that is $t<2/c$: the same worst case. What the MM argument adds is the local limit $2/\lVert A_j\rVert$, the guaranteed amount (5.9), and a step of its own for each token.

# %%
def shrink(x, P, V, q):                                               # (5.16), left over right, ε² = 0.5
    c, n, norms = 2 * x.shape[1], len(x), []
    start = rates.variational_rate(x, P, V, 0.5)
    for _ in range(q):
        norms.append(rates.variational_rate_grad(x, P, V, 0.5).square().sum())
        x = x + tssa.tssa_update(x, P, V, 0.5, t=1 / c)
    return torch.stack(norms).min() * n * q / (2 * c * start)

# %% [markdown]
# The first bound is reached by one step on tiny tokens, where rate and gradient are both as steep as they can be. The ends of the interval are reached by tokens with $cs=3$ on a line, and by tokens at the origin.

# %%
many = [shrink(torch.randn(9, 6) * 3 ** torch.randn(1), torch.randn(3, 9).softmax(0), bases(kind), q)  # over the groups
        for kind in ("complete", "blocks") for q in (1, 3, 10, 30) for _ in range(10)]
tiny = shrink(torch.full((4, 1), 1e-6), torch.ones(1, 4), axis, 1)
check_below("5.16", torch.stack(many), torch.ones(80), "smallest gradient of q steps, in units of the bound", equal=(tiny, 1.0))

# %%
def curvatures(x, P, V):                                              # least (sign turned) and largest, in c/n; ε² = 0.5
    flat = lambda z: rates.variational_rate(z.view_as(x), P, V, 0.5)
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(flat, x.flatten())) * len(x) / (2 * x.shape[1])
    return torch.stack([-values[0], values[-1]])

# %%
some = [curvatures(torch.randn(9, 6) * 3 ** torch.randn(1), torch.randn(3, 9).softmax(0), bases(kind))  # over the groups
        for kind in ("complete", "blocks") * 10]
ends = [curvatures(torch.full((4, 1), v), torch.ones(1, 4), axis) for v in (math.sqrt(3 / 2), 0.0)]   # c = 2
check_below("5.17", torch.stack(some), torch.tensor([1 / 8, 1.0]).expand(20, 2), "second derivatives, in units of c/n",
            equal=(torch.stack([ends[0][0], ends[1][1]]), torch.tensor([1 / 8, 1.0])))

# %% [markdown]
# ## 5 · What the theorem does not cover
#
# The theorem has three conditions that practice breaks: $\Pi$ stays, the step starts at the very tokens that were measured, and the output map is $U_k$. We break them one at a time.
#
# **Memberships recomputed.** A layer's next rate is measured with *new* memberships. Nothing above speaks about that. We count how often the rate rises when $\Pi$ is recomputed after the step, with $\Pi=\operatorname{softmax}_k(\lVert U_k^{\top}z\rVert^2/2\eta)$: for sets of 200 tokens, and for an adversary's choice, two tokens and a very sharp softmax.

# %%
def rise_when_recomputed(n, eta, draws, seed=0):
    g = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(2, 4, 4, generator=g))[0][:, :, :2]   # two planes in four dimensions
    Pi_of = lambda x: tssa.memberships(torch.einsum("bnd,kdp->bknp", x, V), 1 / (2 * eta), "none")
    x = torch.randn(draws, n, 4, generator=g)
    new = x + tssa.tssa_update(x, Pi_of(x), V, 0.3, t=0.3 / 4)        # t = 1/c, half the safe step
    start = rates.variational_rate(x, Pi_of(x), V, 0.3)
    return [rates.variational_rate(new, P, V, 0.3) / start - 1 for P in (Pi_of(x), Pi_of(new))]

# %%
for n, eta, sets in ((200, 0.5, 500), (2, 0.02, 4000)):
    held, moved = rise_when_recomputed(n, eta, sets)
    print(f"n = {n:3}, η = {eta:4}: rises with Π held in {int((held > 1e-6).sum())}, recomputed in {int((moved > 1e-6).sum())} "
          f"of {sets}; worst change {100 * float(moved.max()):+.0f} %")

# %% [markdown]
# On ordinary data the rate still falls every time. But a counter-example is a counter-example: with two tokens and a sharp softmax, some hundred draws of 4000 rise, the worst by tens of per cent. A token that switches groups changes both groups' moments at once, and the tangent argument knows nothing of it.
#
# **Pre-norm.** Real blocks compute `x + γ·TSSA(LN(x))`: the update is measured at the normalised tokens but added to the raw ones. We ask whether the rate of the *normalised* tokens falls.

# %%
def layer_norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def falls_after_norm(scale, gamma):
    x = scale * shapes                                                # (300, 32, 16)
    P, y = prenorm.statistics(layer_norm(x)).Pi, prenorm(layer_norm(x))
    start, end = (rates.variational_rate(layer_norm(z), P, W, 16.0) for z in (x, x + gamma * y))
    return 100 * float((end < start).double().mean())

# %%
shapes = torch.randn(300, 32, 16) * torch.exp(torch.randn(300, 1, 16))
prenorm = tssa.TSSA(16, 4, tied=True).requires_grad_(False)
torch.nn.init.orthogonal_(prenorm.qkv.weight)
W = prenorm.qkv.weight.unflatten(0, (4, -1)).mT
for scale in (1.0, 0.1, 0.03):
    print(f"tokens × {scale}: the rate of LN(x) falls for", ", ".join(
        f"{falls_after_norm(scale, gamma):.0f} % (γ = {gamma})" for gamma in (0.1, 1.0, 1.9)), "of 300 images")

# %% [markdown]
# At the usual scale it works for every image, and yet it is no theorem. The scale of $x$ against its normalised copy acts as a hidden step size: make the tokens thirty times smaller and $\gamma=1$ is far too long.
#
# **A free output map.** The published layer does not tie: `to_out` is a matrix of its own. Then the update is not minus a gradient of anything we have defined. We initialise 200 layers of each kind as PyTorch does, and count how often one step lowers the layer's own rate (its own projection as $U$, $\Pi$ held fixed).

# %%
def lowers_its_rate(tied, seed):
    torch.manual_seed(seed)
    layer, x = tssa.TSSA(16, 4, tied=tied).requires_grad_(False), torch.randn(1, 32, 16)
    W, P = layer.qkv.weight.unflatten(0, (4, -1)).mT, layer.statistics(x).Pi
    return bool(rates.variational_rate(x + layer(x), P, W, 16.0) < rates.variational_rate(x, P, W, 16.0))


for name, tied in (("tied", True), ("free output map", False)):
    print(f"{name}: {sum(lowers_its_rate(tied, seed) for seed in range(200))} of 200 layers lower their own rate")

# %% [markdown]
# All tied layers compress, and only about one in five free ones does. So "each layer compresses" is a property of tied weights of moderate
# size ($\lVert A_j\rVert<2$ for every token; tied weights that are too large overshoot as well), or of what training makes of free ones; it
# does not come with the architecture.
#
# **Compression alone collapses.** Rate reduction was $R-R_c$. We have dropped $R$, the term that spreads the tokens. The cheapest set of
# tokens is the one with nothing in it. Fixing the length of each token (with complete bases and hard memberships) only changes the end:
# unless it starts in perfect balance, every group falls onto one line, one of its own basis directions. Then $s_k=(1,0,\dots,0)$ up to
# order, and
#
# $$
# R_c^{\mathrm{var}}=\frac12\sum_{k=1}^{K}\frac{n_k}{n}\ln(1+c)=\frac12\ln(1+c) \tag{5.18}
# $$
#
# *(5.18) Checked. Where compression of unit tokens with hard memberships ends: rank one in each group — this series*

# %%
def compress(x, Pi, U, eps2, steps, unit):
    history = [float(rates.variational_rate(x, Pi, U, eps2))]
    for _ in range(steps):
        x = x + tssa.tssa_update(x, Pi, U, eps2, t=1.9 * eps2 / x.shape[1])
        x = x / x.norm(dim=-1, keepdim=True) if unit else x
        history.append(float(rates.variational_rate(x, Pi, U, eps2)))
    return x, history

# %%
torch.manual_seed(1)
labels = torch.arange(60) % 2
full = torch.linalg.qr(torch.randn(2, 4, 4))[0]
x = torch.einsum("nde,ne->nd", full[labels], torch.randn(60, 4) * torch.tensor([1.0, 0.7, 0.4, 0.2]))
x = x / x.norm(dim=-1, keepdim=True)
hard = torch.nn.functional.one_hot(labels).T.double()                 # (K, N)

# %%
gone, falling = compress(x, hard, full, 0.1, 60, unit=False)
lines, ending = compress(x, hard, full, 0.1, 400, unit=True)
check("5.18", ending[-1], 0.5 * math.log(1 + 4 / 0.1), "rate of unit tokens after 400 steps", REACHED)

# %%
spectra = torch.stack([torch.linalg.svdvals(z[hard[0] > 0]) / math.sqrt(30) for z in (x, lines)])

# %%
left, right = plots.row(2)
plots.lines(range(61), {"as it is": falling, "unit tokens": ending[:61]}, hlines={"½ ln(1 + c)": 0.5 * math.log(41)},
            title="Compression alone", xlabel="step", ylabel="nats", ax=left)
fig = plots.bars(["σ₁", "σ₂", "σ₃", "σ₄"], {"before": spectra[0], "after, unit tokens": spectra[1]}, title="Group 1", ylabel="singular value / √n₁", ax=right)
show(fig, alt="Left: without normalisation the rate falls to zero, with unit tokens to half the logarithm of 1 + c. Right: of four singular values only the first remains.",
     digest=f"after 60 steps {falling[-1]:.3f} nats as it is, {ending[60]:.3f} for unit tokens; singular values after: {[round(v, 3) for v in spectra[1].tolist()]}")

# %% [markdown]
# Neither end is useful. In a trained network other parts must push back: the MLP, the normalisation, the loss. Keep this in mind when a
# layer is praised for compressing: a layer that sends every token to zero compresses best.
#
# ## 6 · The same step, read as denoising
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

# %%
x, P, V = torch.randn(9, 6), torch.randn(3, 9).softmax(0), bases("complete")  # over the groups
s = my_moments(x, P, V)
gain = torch.diag_embed(s / (s + 0.5 / 6))                            # (K, p, p)
wiener = sum(P[k][:, None] * (x @ V[k] @ gain[k] @ V[k].T) for k in range(3))
check("5.19", x + tssa.tssa_update(x, P, V, 0.5, t=0.5 / 6), wiener, "step at t = ε²/d against Wiener gains")

# %% [markdown]
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
# This is *Tweedie's formula*, the one behind diffusion models; the gradient $\nabla\ln q$ is called the *score*.

# %%
variances = torch.tensor([[3.0, 0.05], [2.0, 0.1]])                   # v_k
turn = torch.tensor([[math.cos(1.1), -math.sin(1.1)], [math.sin(1.1), math.cos(1.1)]])
frames, noise = torch.stack([torch.eye(2), turn]), 0.25               # U_k, and ε²/d

def gauss(y, k, extra):                                               # N(y; 0, U_k Diag(v_k) U_kᵀ + extra·I)
    v = variances[k] + extra                                          # (p,)
    return torch.exp(-((y @ frames[k]) ** 2 / v).sum(-1) / 2) / (2 * math.pi * v.prod().sqrt())


def density(y):                                                       # q(y)
    return (gauss(y, 0, noise) + gauss(y, 1, noise)) / 2

# %%
posterior = torch.stack([gauss(six, k, noise) for k in (0, 1)])
posterior = posterior / posterior.sum(0)                              # (K, N), Bayes
guess = sum(posterior[k][:, None] * (six @ frames[k] * variances[k] / (variances[k] + noise) @ frames[k].T) for k in (0, 1))

# %% [markdown]
# Formula (5.20) is checked against the definition of the posterior mean, an integral over all clean tokens $x$, done on a fine grid. Formula (5.21) is checked by differentiating $\ln q$ automatically.

# %%
ticks = torch.arange(-9, 9.01, 0.1)
grid = torch.cartesian_prod(ticks, ticks)                             # every clean token x, (M, 2)
prior = (gauss(grid, 0, 0.0) + gauss(grid, 1, 0.0)) / 2
weight = prior * torch.exp(-torch.cdist(six, grid) ** 2 / (2 * noise))  # (N, M)
check("5.20", guess, weight @ grid / weight.sum(1, keepdim=True), "gains against the integral over all x")
check("5.21", six + noise * autograd(lambda y: density(y).log().sum(), six), guess, "Tweedie by autograd against gains")

# %% [markdown]
# One caveat keeps us honest: the second moments of *noisy* tokens are $v+\varepsilon^2/d$, not $v$. So TSSA on noisy tokens uses gains that are a little too large; exact would be $1-\frac{\varepsilon^2/d}{s}$. What happens when the step is repeated?
#
# *Predict:* start from coordinates with root mean square 1, 0.3 and 0.1, at $\varepsilon^2/d=0.02$ (standard deviation 0.14). Which survive five steps?
#
# <details><summary>Answer</summary>
#
# The large one loses a tenth. The small one is below the noise level: its gain is $s/(s+\varepsilon^2/d)\approx s\,d/\varepsilon^2$, so its amplitude is cubed (up to a factor) in each step, and it vanishes. The middle one holds out for a while, sinks below the noise, and follows. One step is a soft projection onto the strong directions; many steps are the collapse of section 5.
#
# </details>

# %%
amplitude = torch.tensor([1.0, 0.3, 0.1])
trace = [amplitude]
for _ in range(5):
    s = trace[-1] ** 2
    trace.append(trace[-1] * s / (s + 0.02))
trace = torch.stack(trace)                                            # (6, 3)
visible = trace.where(trace > 1e-8, torch.nan)                        # below that, off the picture

# %%
left, right = plots.row(2)
s = torch.logspace(-4, 1, 101)
plots.lines(s, {"TSSA, t = ε²/d": s / (s + 0.02), "exact: 1 − (ε²/d)/s": (1 - 0.02 / s).clamp_min(0)}, vlines={"ε²/d": 0.02},
            xscale="log", title="Gain of a coordinate", xlabel="second moment s of the noisy tokens", ylabel="gain", ax=left)
fig = plots.lines(range(6), {f"starts at {a:.1f}": visible[:, i] for i, a in enumerate(amplitude.tolist())}, yscale="log", markers=True,
                  hlines={"noise": math.sqrt(0.02)}, title="Repeated steps", xlabel="step", ylabel="root mean square", ax=right)
show(fig, alt="Left: both gains rise from zero to one around the noise variance. Right: the large coordinate stays, the one below the noise falls ever faster and leaves the picture.",
     digest="after five steps 1.0 → {:.3f}, 0.3 → {:.3f}, 0.1 → {:.0e}".format(*trace[-1].tolist()))

# %% [markdown]
# ## 7 · Eight operators on one noisy mixture
#
# Denoising can be measured. We draw 400 tokens of width 16 from four groups; each group lives in its own four dimensions with variance 1, and noise of variance 0.2 is added in all sixteen. The **signal-to-noise ratio** compares the energy inside the own subspace with the energy outside:
#
# $$
# \mathrm{SNR}(Z)=\frac{\sum_k\sum_{j\in k}\lVert U_kU_k^{\top}z_j\rVert^2}{\sum_k\sum_{j\in k}\lVert(I-U_kU_k^{\top})z_j\rVert^2} \tag{5.22}
# $$
#
# *(5.22) Definition. Energy in the own subspace over energy outside it — this series*
#
# ("Inside" also holds a little noise, so this ratio is kind to all operators alike.)

# %%
def mixture(seed, d=16, K=4, p=4, n=400, noise=0.2):
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    own = Q.mT.unflatten(0, (K, p)).mT                                # U_k (K, d, p): blocks of one basis
    group = torch.arange(n) % K
    clean = torch.einsum("ndp,np->nd", own[group], torch.randn(n, p, generator=g))
    return clean + math.sqrt(noise) * torch.randn(n, d, generator=g), own, group

# %%
def snr(x, own, group):
    inside = torch.einsum("nd,ndp->np", x, own[group]).square().sum()
    return float(inside / (x.square().sum() - inside))


tokens, own, group = mixture(seed=0)
print(f"signal-to-noise ratio at the start: {snr(tokens, own, group):.2f}")

# %% [markdown]
# In practice each head owns only $p=d/K$ directions: the *head-split* operator. What does one step do to a token that surely belongs to group $k$? Everything that the head can see is shrunk, and everything that it cannot see stays:
#
# $$
# (I-U_kU_k^{\top})\,z_j^{+}=(I-U_kU_k^{\top})\,z_j\qquad(\pi_{jk}=1) \tag{5.23}
# $$
#
# *(5.23) Checked. A head leaves the directions off its own subspace as they are — this series*
#
# *Predict:* so will six steps of the head-split operator raise or lower the signal-to-noise ratio?
#
# <details><summary>Answer</summary>
#
# Lower it. A little of the signal inside is lost in each step and none of the noise outside. This is lesson 4's warning about $p<d$ again:
# the truncated rate (lesson 4's short sum) does not charge for what lies off the subspace, so descending on it does not clean there.
#
# </details>

# %%
surely = torch.nn.functional.one_hot(group).T.double()                # true memberships (K, N)
stepped = tokens + tssa.tssa_update(tokens, surely, own, eps2=0.32, t=0.02)
off = torch.eye(16) - (own @ own.mT)[group]                           # (N, d, d)
check("5.23", off @ stepped[:, :, None], off @ tokens[:, :, None], "component off the own subspace, before and after")

# %% [markdown]
# Now eight operators, six steps each. TSSA in five versions: head-split or with complete bases (each group's block first, then the other blocks), true or soft memberships, and the gradient of lesson 4's **corrected** bound, which charges for the directions off $U_k$ with one extra number $\rho_k$ for each group. From lesson 3: the exact gradient of CRATE's rate, and softmax attention in the subspaces (MSSA) in the derived form $\frac12Z+\frac12\mathrm{MSSA}$ and in the form used in practice, $Z+\frac12\mathrm{MSSA}$. Where an $\varepsilon$ occurs it is $\varepsilon^2/d=0.02$, a tenth of the true noise.

# %%
def operators(own, group, level=0.02, noise=0.2):
    K, d, p = own.shape
    eps2, eta, surely = d * level, noise * (1 + noise), torch.nn.functional.one_hot(group).T.double()
    full = torch.stack([torch.cat([own[k], *own[:k], *own[k + 1:]], 1) for k in range(K)])  # (K, d, d)
    soft = lambda x: tssa.memberships(torch.einsum("nd,kdp->knp", x, own), 1 / (2 * eta), "none")  # the exact posterior
    return {
        "head-split, true Π": lambda x: x + tssa.tssa_update(x, surely, own, eps2, level),
        "head-split, soft Π": lambda x: x + tssa.tssa_update(x, soft(x), own, eps2, level),
        "complete, true Π": lambda x: x + tssa.tssa_update(x, surely, full, eps2, level),
        "complete, soft Π": lambda x: x + tssa.tssa_update(x, soft(x), full, eps2, level),
        "corrected, soft Π": lambda x: x - level * len(x) * rates.variational_rate_grad(x, soft(x), own, eps2, corrected=True),
        "CRATE gradient": lambda x: x - len(x) * eps2 / p * rates.subspace_rate_grad(x, own, eps2),
        "½Z + ½MSSA": lambda x: x / 2 + attention.mssa(x, own) / 2,
        "Z + ½MSSA": lambda x: x + attention.mssa(x, own) / 2,
    }

# %%
def trajectory(step, x, own, group, steps=6):
    ratios = [snr(x, own, group)]
    for _ in range(steps):
        x = step(x)
        ratios.append(snr(x, own, group))
    return ratios

# %%
runs = {name: trajectory(step, tokens, own, group) for name, step in operators(own, group).items()}
ax = plots.row(1, width=7.5, height=4.2)[0]
fig = plots.lines(range(7), runs, yscale="log", markers=True, title="Signal-to-noise ratio of one noisy mixture", xlabel="step", ylabel="energy inside / outside", ax=ax)
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
show(fig, alt="Eight curves over six steps: complete bases and the corrected bound rise steadily, head-split TSSA falls slowly, MSSA first rises and then falls.",
     digest="; ".join(f"{name} {r[0]:.2f} → {r[6]:.2f} (best {max(r):.2f})" for name, r in runs.items()))

# %% [markdown]
# What this run says, plainly:
#
# - **Head-split TSSA does not denoise.** The ratio falls, with true memberships too. Equation (5.23) is the reason, not a bad $\Pi$.
# - **Complete bases do what (5.19) promises**, and the **corrected bound does practically as well** from head-split bases at the price of $K$ more numbers: the missing piece was the complement.
# - CRATE's exact gradient gains slowly here; $\frac12Z+\frac12\mathrm{MSSA}$ is the best of all for three steps, then it mixes groups; $Z+\frac12\mathrm{MSSA}$ gains once and then spoils everything.
#
# One mixture and one $\varepsilon$ prove little. Does the order depend on them?

# %%
picked = ("head-split, soft Π", "complete, soft Π", "corrected, soft Π")
final = {name: [] for name in picked}
for seed in range(5):
    for level in (0.01, 0.02, 0.04):
        data = mixture(seed)
        steps = operators(*data[1:], level=level)
        for name in picked:
            final[name].append(trajectory(steps[name], *data)[-1] / snr(*data))
for name, gains in final.items():
    print(f"{name:18}: signal-to-noise × {min(gains):.2f} to × {max(gains):.2f} over 5 mixtures × 3 values of ε²")

# %% [markdown]
# The factors depend strongly on $\varepsilon$, the directions do not. So does ToST not work? It does: in the trained network the output map is free, and it may learn to subtract what a head cannot see. But then the network has learned something that the gradient of the truncated rate did not tell it.
#
# ## 8 · What is dropped when Π depends on Z
#
# In the layer $\Pi$ is computed from the tokens, so the true gradient of the rate has a second part, through $\Pi$. To see it we need the derivative with respect to a membership.
#
# $$
# \frac{\partial R_c^{\mathrm{var}}}{\partial\pi_{jk}}=\frac{T_{jk}}{2n},\qquad T_{jk}=\sum_{i=1}^{p}\Bigl[f(s_{ki})+f'(s_{ki})\bigl((u_{ki}^{\top}z_j)^2-s_{ki}\bigr)\Bigr] \tag{5.24}
# $$
#
# *(5.24) Checked. The price of giving token j to group k — this series · `rates.code_lengths`*
#
# The bracket is the tangent of $f$ at $s_{ki}$, evaluated at the token's own square. The letter $T$ hides a nice meaning. Add to the token some noise $e\sim\mathcal N(0,\frac1cI)$, the noise that we believe in, and code it with the Gaussian of group $k$:
#
# $$
# \frac{T_{jk}}{2}=\mathbb E_e\Bigl[-\ln\mathcal N\bigl(U_k^{\top}z_j+e;\,0,\operatorname{Diag}(s_k)+\tfrac1cI\bigr)+\ln\mathcal N\bigl(e;\,0,\tfrac1cI\bigr)\Bigr] \tag{5.25}
# $$
#
# *(5.25) Checked. Half of T is the code length of the noisy token beyond that of the noise alone, in nats — this series*
#
# So $T_{jk}/2$ is what it costs to describe token $j$ in the language of group $k$.

# %%
x, P, V = draws[1]                                                    # blocks of one basis: K = 3, d = 6, p = 2
c, n = 6 / 0.5, len(x)
T = rates.code_lengths(x, P, V, 0.5)                                  # (K, N)
judges = [judge(lambda Pi: my_rate(x, Pi, V, 0.5), P) for judge in (autograd, central)]
check("5.24", torch.stack([T, T]) / (2 * n), torch.stack(judges), "T/2n = autograd = differences", DIFFERENCES)

# %% [markdown]
# For (5.25) the expectation is computed by Gauss–Hermite quadrature: twenty nodes integrate polynomials up to degree 39 exactly, and the logarithm of a Gaussian is a polynomial of degree two.

# %%
import numpy as np

nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
weights, e = weights / weights.sum(), nodes / math.sqrt(c)            # noise of variance 1/c
log_normal = lambda y, var: -0.5 * (y ** 2 / var + torch.log(2 * math.pi * var))
w = torch.einsum("nd,kdp->knp", x, V)[..., None]                      # (K, N, p, 1)
s = my_moments(x, P, V)[:, None, :, None]                             # (K, 1, p, 1)
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
def kept_and_dropped(x, V, eta, eps2=0.5):
    w = torch.einsum("nd,kdp->knp", x, V)                             # (K, N, p)
    P = tssa.memberships(w, 1 / (2 * eta), "none")                    # (K, N)
    T = rates.code_lengths(x, P, V, eps2)                             # (K, N)
    price = P * (T - (P * T).sum(0))                                  # (K, N)
    dropped = torch.einsum("kn,knp,kdp->nd", price, w, V) / (2 * len(x) * eta)
    return rates.variational_rate_grad(x, P, V, eps2), dropped

# %%
def total(x):
    return my_rate(x, tssa.memberships(torch.einsum("nd,kdp->knp", x, V), 1.0, "none"), V, 0.5)  # η = ½


ours = sum(kept_and_dropped(x, V, 0.5))
check("5.26", torch.stack([ours, ours]), torch.stack([judge(total, x) for judge in (autograd, central)]),
      "kept + dropped = autograd = differences, η = ½", DIFFERENCES)

# %% [markdown]
# How large is the part that TSSA drops? Measured on the noisy mixture of section 7, for three temperatures.

# %%
for eta in (0.2, 1.0, 5.0):
    kept, dropped = kept_and_dropped(tokens, own, eta, eps2=0.32)
    cosine = torch.nn.functional.cosine_similarity((kept + dropped).flatten(), kept.flatten(), dim=0)
    print(f"η = {eta}: |dropped| / |kept| = {float(dropped.norm() / kept.norm()):.2f}, cosine of total and kept = {float(cosine):.3f}")

# %% [markdown]
# Not negligible, but the direction that is kept stays close to the whole.
#
# ### A loop that never rises
#
# The memberships need not be differentiated at all. $R_c^{\mathrm{var}}$ is concave in $\Pi$, for the same reason as $R_c$ in lesson 2, so its tangent is again a bound from above. And since doubling all memberships of a group doubles its cost, the tangent has no constant term:
#
# $$
# R_c^{\mathrm{var}}(Z,\Pi')\le\frac{1}{2n}\sum_{j=1}^{n}\sum_{k=1}^{K}\pi_{jk}'\,T_{jk},\qquad\text{with equality at }\Pi'=\Pi \tag{5.27}
# $$
#
# *(5.27) Checked. The rate as a function of Π lies below a linear one: majorisation again — this series*
#
# A linear function is least when every token goes wholly to its cheapest group, $\arg\min_kT_{jk}$. That never raises the rate. Nor does turning $U_k$ to the eigenvectors of its group (lesson 4, $p=d$), nor a TSSA step. Three blocks, one falling curve.

# %%
others = torch.cat([torch.randn(400, 3, 9), P.log() + 0.05 * torch.randn(100, 3, 9)]).softmax(1)  # over the groups; the last 100 near Π
new_rates = torch.stack([my_rate(x, other, V, 0.5) for other in others])
check_below("5.27", new_rates, (others * T).sum((1, 2)) / (2 * n), "500 other memberships",
            equal=(my_rate(x, P, V, 0.5), (P * T).sum() / (2 * n)))

# %%
def three_blocks(z, P, V, rounds, curve):
    note = lambda: curve.append(float(rates.variational_rate(z, P, V, 0.32)))
    for _ in range(rounds):
        z = z + tssa.tssa_update(z, P, V, 0.32, t=0.002)              # tokens: a short TSSA step
        note()
        cheapest = rates.code_lengths(z, P, V, 0.32).argmin(0)        # memberships: the cheapest group
        P = torch.nn.functional.one_hot(cheapest, len(P)).T.double()
        note()
        V = torch.linalg.eigh(rates.second_moment(z, P))[1]           # bases: each group's eigenvectors
        note()
    return P

# %%
torch.manual_seed(3)
start = torch.randn(4, 400).softmax(0)                                # over the groups
curve = []
P = three_blocks(tokens, start, torch.eye(16).repeat(4, 1, 1), 12, curve)
rises = sum(b > a + 1e-9 for a, b in zip(curve, curve[1:]))
purity = float((P @ surely.T).amax(1).sum() / 400)                    # share of tokens in their group's majority
print(f"{curve[0]:.2f} → {curve[-1]:.2f} nats, {rises} rises in {len(curve) - 1} steps; purity of the groups {purity:.2f}")

# %% [markdown]
# The rate never rises, as promised; but *never rising* is not *finding the truth*. From random memberships the loop stops in a local minimum: the purity (the share of tokens that belong to the majority of their group) is far from 1. Lesson 6 looks for better memberships.

# %% [markdown]
# ## Exercises
#
# **5.1 One coordinate.** One group, one direction, second moment $s$. By which factor does the step $t$ multiply the tokens? Write it as a function of `s`, `c` and `t`.

# %%
def answer_5_1(s, c, t):
    return ...  # your turn


exercise("5.1", answer_5_1)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_5_1(s, c, t):
#     return 1 - t * c / (1 + c * s)
# ```
#
# $A=D=c/(1+cs)$ is a number here, and $z^{+}=z-tAz$. At $t=1/c$ this is the gain $cs/(1+cs)$.
#
# </details>

# %% [markdown]
# **5.2 The longest safe step.** The heads are orthonormal and also orthogonal to each other, as the blocks of one orthogonal matrix. Given memberships `Pi` (K, N) and gates `D` (K, p), return the longest step that the theorem allows for all tokens together, $2/\max_j\lVert A_j\rVert$, without building any $A_j$.

# %%
def answer_5_2(Pi, D):
    return ...  # your turn


exercise("5.2", answer_5_2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_5_2(Pi, D):
#     return 2 / (Pi.amax(1) * D.amax(1)).max()
# ```
#
# In the common basis $A_j$ is diagonal with the entries $\pi_{jk}D_{ki}$, so its norm is the largest of them.
#
# </details>

# %% [markdown]
# **5.3 Noisy moments.** The tokens that we measure contain the noise already: $s=v+\varepsilon^2/d$, where $v$ is the variance of the signal. Write the exact Wiener gain from the measured `s`. It must never be negative, also when a small sample gives $s<\varepsilon^2/d$.

# %%
def answer_5_3(s, eps2, d):
    return ...  # your turn


exercise("5.3", answer_5_3)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_5_3(s, eps2, d):
#     return (1 - eps2 / d / s).clamp_min(0)
# ```
#
# The gain is $v/(v+\varepsilon^2/d)=(s-\varepsilon^2/d)/s$, and a variance below zero is taken as zero.
#
# </details>

# %% [markdown]
# **5.4 Who belongs where?** Return for each token the number of the group (0 to K − 1) to which it should be given so that $R_c^{\mathrm{var}}$ does not rise. (`rates.code_lengths` is allowed.)

# %%
def answer_5_4(x, Pi, U, eps2):
    return ...  # your turn


exercise("5.4", answer_5_4)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_5_4(x, Pi, U, eps2):
#     return rates.code_lengths(x, Pi, U, eps2).argmin(0)
# ```
#
# By (5.27) the rate lies below a function that is linear in the memberships, and a linear function on a simplex is least in a corner: the cheapest group. The group with the most energy $\lVert U_k^{\top}z\rVert^2$ is another one: lesson 6 tells why.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - With $\Pi$ held fixed, the gradient of $R_c^{\mathrm{var}}$ needs $K\cdot p$ second moments and nothing else; a step along it is TSSA, linear in the number of tokens.
# - The step is a majorisation–minimisation step: with tied orthonormal weights `x + γ·TSSA(x)` lowers the rate for every $\gamma\in(0,2)$, whatever the data, and 2 is sharp; after $q$ steps some squared gradient is at most a constant over $q$.
# - The guarantee ends where $\Pi$ moves, where the step starts at other tokens than those measured, and where the output map is free. Compression without expansion collapses.
# - With complete bases and $t=\varepsilon^2/d$ the step is a posterior mean: a denoiser. With $p<d$ it does not clean the directions off $U_k$; the corrected bound does.
# - What is dropped by holding $\Pi$ fixed is known in closed form: code lengths relative to their average.
#
# ## Sources
#
# - Z. Wu et al. 2024, *Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction* (arXiv 2412.17810): $R_c^{\mathrm{var}}$, its gradient, the TSSA operator and the layer.
# - Y. Yu et al. 2023, *White-Box Transformers via Sparse Rate Reduction* (CRATE, arXiv 2306.01129): MSSA and the rate in subspaces.
# - D. Hunter and K. Lange 2004, *A Tutorial on MM Algorithms*: majorisation–minimisation in general.
# - H. Robbins 1956, *An Empirical Bayes Approach to Statistics*; B. Efron 2011, *Tweedie's Formula and Selection Bias*.
# - "This series" marks what we derived here and did not find in these sources: the step-size theorem and its sharp constant, the denoising reading, the code-length form of $T$, and the gradient through $\Pi$.
#
# [◀ previous](04_variational_bound.ipynb) · [contents](00_start_here.ipynb) · [next ▶](06_memberships.ipynb)
