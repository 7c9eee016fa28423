# %% [markdown]
# # Lesson 6 · Memberships
#
# [◀ previous](05_tssa_update.ipynb) · [contents](00_start_here.ipynb) · [next ▶](07_the_layer.ipynb)
#
# Lesson 5 took the memberships $\Pi$ as given: some table that says how much each token belongs to each group.
# This lesson asks where the table comes from. The answer of the ToST paper is a softmax over the groups; we find
# the statistical model of which this softmax is the exact answer, ask the objective itself for its opinion, and get
# a surprise: the objective of lesson 5, taken at its word, wants the opposite. Then we look at what the published
# layer computes instead, and at the end let the rule that works find the blossom and the pagoda in two photographs.
#
# **After this you can**
# - derive $\Pi$ as the posterior of a mixture of subspaces, and name the temperature that makes it exact
# - say why memberships want narrow frames ($p < d$), and why the truncated objective gets their sign wrong
# - predict the memberships of the published layer at its start (blank), and what the image size does to them
# - group the patches of any photograph in seconds, with an objective that falls at every step
# - say what these groups are not
#
# **Before this:** lessons 1, 4 and 5. Bayes' rule and the multivariate normal density.
#
# **Time:** about 50 minutes to read, 20 seconds to run on two CPU cores.

# %%
import math

import torch

from tssa_lib import photos, plots, rates, tssa
from kit.explorer import Explorer
from kit import LIMIT, agree, check, check_below, exercise, show

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## 6.1 A softmax over groups
#
# Take the six tokens again, and three groups, each with a frame of one direction ($p = 1$): the two axes and the
# diagonal between them. How much does a token belong to each? The obvious evidence is its *energy* in the frame,
# the square of its shadow there. Each token has one unit of membership to share out, and a softmax turns any three
# numbers into such shares:
#
# $$
# \pi_{jk} = \frac{\exp\left(\lVert U_k^\top z_j \rVert^2 / 2\eta\right)}{\sum_{l=1}^{K} \exp\left(\lVert U_l^\top z_j \rVert^2 / 2\eta\right)} \tag{6.1}
# $$
#
# *(6.1) Definition. Memberships: a softmax of the energies over the groups, with temperature η — Wu et al. 2024 · `tssa.memberships`*
#
# The softmax runs over $k$, the groups. In most attention layers it runs over tokens; here each token decides for
# itself, and no token is compared with another.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
angles = torch.tensor([0.0, 90.0, 45.0]).deg2rad()
U3 = torch.stack([angles.cos(), angles.sin()], -1)[..., None]              # (K, d, p) = (3, 2, 1)

# %%
def project(x, U):
    return torch.einsum("nd,kdp->knp", x, U)                               # (K, N, p)

def energy_softmax(w, theta):
    energy = (w ** 2).sum(-1)                                              # (K, N)
    return (theta * energy).softmax(0)                                     # over the K groups

agree(energy_softmax, tssa.memberships, torch.randn(3, 50, 4), 0.7, normalize="none")

# %% [markdown]
# The library takes $\theta = 1/(2\eta)$, as the layer does. Three memberships that sum to one are a point in a
# triangle (the *simplex*): a corner means full membership, the middle means that the token is shared equally.
#
# **Predict.** Token a is $(2, 0.1)$. At a high temperature, does it sit nearer to the corner of group 2 (the other
# axis) or of group 3 (the diagonal)?
#
# <details><summary>Answer</summary>
#
# Nearer to group 3. Its shadow on the diagonal is $2.1/\sqrt 2 \approx 1.48$, on the second axis only 0.1. Energy
# is not a distance between groups: a diagonal frame gets a share of both clouds.
#
# </details>

# %%
warm, cold = (energy_softmax(project(six, U3), 1 / (2 * eta)) for eta in (2.0, 0.2))
left, right = plots.row(2)
plots.simplex(warm, [0, 0, 0, 1, 1, 1], title="η = 2: soft", names="abcdef", ax=left)
fig = plots.simplex(cold, [0, 0, 0, 1, 1, 1], title="η = 0.2: nearly hard", names="abcdef", ax=right)
own = ["  ".join(f"{v:.2f}" for v in (*Pi[0, :3], *Pi[1, 3:])) for Pi in (warm, cold)]
show(fig, alt="Two triangles with the six tokens as points: on the left near the middle, on the right a, b and d "
              "near the corners of groups 1 and 2", digest=f"own memberships of a…f: {own[0]} (soft), {own[1]} (hard)")

# %% [markdown]
# Long tokens (a, b, d) reach their corners first, because energy grows with the square of the length. A short token
# such as f stays undecided for longer. That is sensible if noise has the same size everywhere, which is the model
# of the next section.
#
# ## 6.2 The model behind the softmax
#
# Suppose each token was made like this. A group $k$ is drawn, all $K$ with equal probability. Inside the subspace
# spanned by the frame $U_k$ ($p$ orthonormal columns) the token is normal with variance $\lambda$ in each direction, and
# noise of variance $\sigma^2$ is added everywhere. So the tokens of group $k$ are normal with mean zero and
#
# $$
# \Sigma_k = \lambda\, U_k U_k^\top + \sigma^2 I . \tag{6.2}
# $$
#
# *(6.2) Definition. Covariance of a group: a subspace and noise around it — Tipping and Bishop 1999, mixtures of principal component analysers*
#
# To ask for the probability of a group given a token we need inverse and determinant. Both are easy, because
# $\Sigma_k$ has only two eigenvalues: $\lambda + \sigma^2$ ($p$ times, inside) and $\sigma^2$ ($d - p$ times, outside).
#
# $$
# \Sigma_k^{-1} = \frac{1}{\sigma^2} \left( I - \frac{\lambda}{\lambda + \sigma^2}\, U_k U_k^\top \right), \qquad
# \ln \det \Sigma_k = p \ln(\lambda + \sigma^2) + (d - p) \ln \sigma^2 \tag{6.3}
# $$
#
# *(6.3) Checked. Inverse and determinant of such a covariance — textbook linear algebra*
#
# The determinant is the same for all groups. That will make the answer simple.

# %%
K, d, p, lam, sigma2 = 3, 8, 2, 1.0, 0.1
U = torch.linalg.qr(torch.randn(K, d, p))[0]                               # (K, d, p)
Sigma = lam * U @ U.mT + sigma2 * torch.eye(d)                             # (K, d, d)
inverse = (torch.eye(d) - lam / (lam + sigma2) * U @ U.mT) / sigma2
logdet = torch.full((K,), p * math.log(lam + sigma2) + (d - p) * math.log(sigma2))
check("6.3", torch.cat([inverse.flatten(), logdet]), torch.cat([Sigma.inverse().flatten(), Sigma.logdet()]),
      "closed forms against LAPACK")

# %% [markdown]
# Now Bayes' rule. Group $k$ has posterior probability proportional to $\exp(-\frac12 z_j^\top \Sigma_k^{-1} z_j)$: equal
# priors cancel, and so do the equal determinants. By (6.3) the exponent is $-\lVert z_j \rVert^2/2\sigma^2$, the same for
# all groups, plus a multiple of the energy $\lVert U_k^\top z_j \rVert^2$. What remains is (6.1):
#
# $$
# \Pr\left(k \mid z_j\right) = \frac{\mathcal{N}(z_j;\, 0, \Sigma_k)}{\sum_{l} \mathcal{N}(z_j;\, 0, \Sigma_l)} = \pi_{jk}
# \quad \text{with} \quad \eta = \frac{\sigma^2 (\lambda + \sigma^2)}{\lambda} \tag{6.4}
# $$
#
# *(6.4) Checked. The softmax of energies is the exact posterior of this mixture, at one temperature — this series*
#
# So $\Pi$ is not a heuristic: it is what a statistician would compute, if the groups are equally likely, equally wide,
# and round inside.

# %%
def draw(n, U, lam, sigma2):
    K, d, p = U.shape
    truth = torch.arange(n) % K                                            # (N,)
    signal = torch.einsum("ndp,np->nd", U[truth], lam ** 0.5 * torch.randn(n, p))
    return signal + sigma2 ** 0.5 * torch.randn(n, d), truth               # (N, d)

x, truth = draw(300, U, lam, sigma2)
eta = sigma2 * (lam + sigma2) / lam
density = torch.distributions.MultivariateNormal(torch.zeros(d), Sigma)    # a batch of K
posterior = density.log_prob(x[:, None]).softmax(1).T                      # (K, N), over the groups
check("6.4", posterior, tssa.memberships(project(x, U), 1 / (2 * eta), "none"), "Bayes' rule against the softmax of energies")

# %% [markdown]
# The paper calls $\eta$ a noise level. It is one only when the signal is strong: $\eta = \sigma^2(1 + \sigma^2/\lambda)$. How
# wrong are the memberships when $\eta = \sigma^2$ is used? And what if the signal is not round inside, but has a different
# variance in each direction, the same in all groups? Then no temperature is exact.

# %%
for ratio in (1, 10, 100):
    x_r, _ = draw(300, U, 1.0, 1 / ratio)
    exact, rough = (tssa.memberships(project(x_r, U), 1 / (2 * e), "none") for e in ((1 + 1 / ratio) / ratio, 1 / ratio))
    print(f"λ/σ² = {ratio:3d}: largest error of Π with η = σ² is {(exact - rough).abs().max():.3f}")

# %%
spectrum = torch.tensor([2.0, 0.02])                                       # λ₁, λ₂ in every group, σ² = 0.1
wide = torch.distributions.MultivariateNormal(torch.zeros(d), U * spectrum @ U.mT + sigma2 * torch.eye(d))
x_w = wide.sample((100,)).flatten(0, 1)                                    # (N, d)
best = wide.log_prob(x_w[:, None]).softmax(1).T
off = [(tssa.memberships(project(x_w, U), 1 / (2 * e), "none") - best).abs().max() for e in torch.logspace(-2, 0, 40)]
print(f"variances 2 and 0.02: the best of 40 temperatures still errs by {min(off):.2f} at its worst token")

# %% [markdown]
# ## 6.3 Hard and soft
#
# At $\eta \to 0$ each token goes to its strongest group, and $\Pi$ becomes *hard*: zeros and ones. At $\eta \to \infty$
# all shares become $1/K$. One number says where between the two a token is, the entropy of its memberships, divided
# by the entropy $\ln K$ of equal shares:
#
# $$
# \frac{H(\pi_j)}{\ln K} = -\frac{1}{\ln K} \sum_{k} \pi_{jk} \ln \pi_{jk} \;\in\; [0, 1] \tag{6.5}
# $$
#
# *(6.5) Definition. Normalised entropy of a token's memberships: 0 is hard, 1 is uniform — Shannon 1948*

# %%
def entropy(Pi):
    return torch.special.entr(Pi).sum(0) / math.log(len(Pi))               # (N,), 0 hard … 1 uniform

etas = torch.logspace(-2, 2, 81)
curves = torch.stack([entropy(energy_softmax(project(six, U3), 1 / (2 * e))) for e in etas])  # (81, N)
fig = plots.lines(etas, dict(zip("abcdef", curves.T)), title="From hard to soft: six tokens, three groups", xscale="log",
                  xlabel="temperature η (squared length of a token)", ylabel="normalised entropy of Π")
show(fig, alt="Six rising curves from 0 to 1; the long tokens a, b and d rise later than the short ones",
     digest="half way at η = " + ", ".join(f"{etas[(c > 0.5).nonzero()[0, 0]]:.2f} ({name})" for name, c in zip("abcdef", curves.T)))

# %% [markdown]
# Close to uniform, the softmax is linear. Expand the exponential for large $\eta$, with the energies
# $E_{jk} = \lVert U_k^\top z_j \rVert^2$:
#
# $$
# K \pi_{jk} - 1 = \frac{1}{2\eta} \left( E_{jk} - \frac{1}{K} \sum_{l} E_{jl} \right) + O(\eta^{-2}) \tag{6.6}
# $$
#
# *(6.6) Checked. Warm memberships tell only how far an energy is from the mean over groups — this series*
#
# Keep this in mind for section 6.5: when the spread of the logits over the groups is small, the maps are blank up to
# that spread.

# %%
E = (project(x, U) ** 2).sum(-1)                                           # (K, N)
hot = 5000.0
nearly = K * energy_softmax(project(x, U), 1 / (2 * hot)) - 1
check("6.6", 2 * hot * nearly, E - E.mean(0), "expansion at η = 5000", tol=LIMIT)

# %% [markdown]
# **Predict.** Theorem 1 of lesson 4 bounds the rate when each frame is complete, $p = d$. What are the memberships (6.1)
# for three complete orthonormal frames?
#
# <details><summary>Answer</summary>
#
# All equal. A complete orthonormal frame keeps the length, so each group sees the same energy $\lVert z_j \rVert^2$.
# The bound wants $p = d$, memberships want $p < d$: the two halves of the derivation do not meet in the same layer.
#
# </details>
#
# $$
# p = d: \qquad \lVert U_k^\top z_j \rVert^2 = \lVert z_j \rVert^2 \text{ for every } k, \quad \pi_{jk} = \frac{1}{K} \tag{6.7}
# $$
#
# *(6.7) Checked. Complete frames cannot tell groups apart by energy — this series*

# %%
complete = torch.linalg.qr(torch.randn(K, d, d))[0]                        # (K, d, d)
blank = tssa.memberships(project(x, complete), 1 / (2 * eta), "none")
check("6.7", blank, torch.full((K, len(x)), 1 / K), "complete frames")

# %% [markdown]
# ## 6.4 What would the objective say?
#
# There is another way to find memberships: ask the objective. If one more grain of token $j$ is put into group $k$,
# by how much does the rate rise? Lesson 5 gave the derivative a name, the *code length* $T_{jk}$: it is twice the
# nats that one more token like $j$ costs in group $k$. For the corrected bound of lesson 4, which also pays for the
# $d - p$ directions off the frame, with residual energy $r_{jk} = \lVert z_j \rVert^2 - \lVert U_k^\top z_j \rVert^2$ and mean
# residual variance $\rho_k$,
#
# $$
# \begin{aligned}
# T_{jk}^{\mathrm{corr}} = 2n\, \frac{\partial R_c^{\mathrm{corr}}}{\partial \pi_{jk}}
# &= \sum_{i=1}^{p} \left[ f(s_{ki}) + f'(s_{ki}) \left( (u_{ki}^\top z_j)^2 - s_{ki} \right) \right] \\
# &\quad + (d - p) f(\rho_k) + f'(\rho_k) \left( r_{jk} - (d - p) \rho_k \right) .
# \end{aligned} \tag{6.8}
# $$
#
# *(6.8) Checked. Code length of a token in a group, with the directions off the frame — this series · `rates.code_lengths`*
#
# The first line alone is the code length of the *truncated* objective $R_c^{\mathrm{var}}$, which forgets what lies off
# the frame.

# %%
def inside(w2, s, c):                                                      # w2 (K, N, p), s (K, p) → (K, N)
    f, slope = torch.log1p(c * s), c / (1 + c * s)
    return (f[:, None] + slope[:, None] * (w2 - s[:, None])).sum(-1)

def outside(r, rho, q, c):                                                 # r (K, N), rho (K,) → (K, N)
    f, slope = torch.log1p(c * rho), c / (1 + c * rho)
    return q * f[:, None] + slope[:, None] * (r - q * rho[:, None])

# %%
def corrected_lengths(x, Pi, U, eps2):
    d, p, c = x.shape[1], U.shape[2], x.shape[1] / eps2
    w2, share = project(x, U) ** 2, Pi / Pi.sum(1, keepdim=True)           # (K, N, p), (K, N)
    r = (x ** 2).sum(1) - w2.sum(-1)                                       # (K, N), energy off the frame
    s, rho = (share[..., None] * w2).sum(1), (share * r).sum(1) / (d - p)  # (K, p), (K,)
    return inside(w2, s, c) + outside(r, rho, d - p, c)

eps2, soft = 0.5, torch.randn(K, len(x)).softmax(0)
leaf = soft.clone().requires_grad_()
rates.variational_rate(x, leaf, U, eps2, corrected=True).backward()
check("6.8", corrected_lengths(x, soft, U, eps2), 2 * len(x) * leaf.grad, "the formula against autograd")
agree(corrected_lengths, rates.code_lengths, x, soft, U, eps2, corrected=True)

# %% [markdown]
# A probability falls exponentially with a code length: a token that costs one nat more in a group is $e$ times less
# likely there. So the objective proposes $\pi_j = \mathrm{softmax}_k(-T_{jk}/2)$. Is that the energy rule? When all groups
# have the same statistics, $s_{ki} = s$ and $\rho_k = \rho$, everything in (6.8) that does not depend on $k$ cancels in the
# softmax, and what is left is the energy, at a temperature that the objective chooses itself:
#
# $$
# \mathrm{softmax}_k\left(-\tfrac12 T_{jk}^{\mathrm{corr}}\right) = \mathrm{softmax}_k\left( \frac{\lVert U_k^\top z_j \rVert^2}{2 \eta_{\mathrm{eff}}} \right), \qquad
# \frac{1}{\eta_{\mathrm{eff}}} = \frac{1}{\rho + \varepsilon^2/d} - \frac{1}{s + \varepsilon^2/d} \tag{6.9}
# $$
#
# *(6.9) Checked. With equal statistics, the corrected code length is the energy rule — this series*

# %%
c, w2 = d / eps2, project(x, U) ** 2
s, rho = torch.full((K, p), 0.9), torch.full((K,), 0.06)
T = inside(w2, s, c) + outside((x ** 2).sum(1) - w2.sum(-1), rho, d - p, c)
eta_eff = 1 / (1 / (0.06 + eps2 / d) - 1 / (0.9 + eps2 / d))
check("6.9", (-T / 2).softmax(0), tssa.memberships(project(x, U), 1 / (2 * eta_eff), "none"), "code lengths against energies")

# %% [markdown]
# And it is a posterior's temperature: that of the tokens as the code sees them. The rate adds noise of variance $\varepsilon^2/d$ to each
# coordinate, so $\sigma^2$ has to include this noise: $\rho + \varepsilon^2/d$ stands for $\sigma^2$, and $s + \varepsilon^2/d$ for
# $\lambda + \sigma^2$. (If the tokens themselves are drawn from (6.2), $\rho = \sigma^2$; then $\eta_{\mathrm{eff}}$ is larger than $\eta$
# and tends to it as $\varepsilon \to 0$.)
#
# $$
# \rho + \frac{\varepsilon^2}{d} = \sigma^2, \quad s + \frac{\varepsilon^2}{d} = \lambda + \sigma^2 \quad \Longrightarrow \quad
# \eta_{\mathrm{eff}} = \frac{\sigma^2(\lambda + \sigma^2)}{\lambda} = \eta \tag{6.10}
# $$
#
# *(6.10) Checked. Bayes' rule and the corrected objective agree, temperature included — this series*
#
# Statistics and coding arrive at one formula. Now watch what happens when the second line of (6.8) is left out.

# %%
def lengths_of_the_mixture(coded):
    """Corrected code lengths with the true statistics, ε²/d = coded being part of the noise σ². (K, N)."""
    w2 = project(x, U) ** 2                                                # (K, N, p)
    off = (x ** 2).sum(1) - w2.sum(-1)                                     # (K, N), energy off the frame
    s, rho = torch.full((K, p), lam + sigma2 - coded), torch.full((K,), sigma2 - coded)
    return inside(w2, s, 1 / coded) + outside(off, rho, d - p, 1 / coded)

bayes = torch.stack([(-lengths_of_the_mixture(coded) / 2).softmax(0) for coded in (0.01, 0.05, 0.09)])
check("6.10", bayes, posterior.expand(3, -1, -1), "corrected code lengths against Bayes' rule, three precisions")

# %% [markdown]
# **Predict.** With equal statistics, the truncated code length is $f'(s)$ times the energy plus a constant. Where does
# the truncated objective send a token with much energy in frame $k$?
#
# <details><summary>Answer</summary>
#
# Away from group $k$. In this objective energy inside a frame costs, and energy outside is free, since nobody
# pays for the directions off the frame. The cheapest group for a token is the one that does not see it.
#
# </details>
#
# $$
# \mathrm{softmax}_k\left(-\tfrac12 T_{jk}\right) = \mathrm{softmax}_k\left( -\tfrac12 f'(s)\, \lVert U_k^\top z_j \rVert^2 \right) \tag{6.11}
# $$
#
# *(6.11) Checked. The truncated code length is the energy rule with the wrong sign — this series*

# %%
T_cut = inside(w2, s, c)
slope = c / (1 + c * 0.9)                                                  # f'(s)
check("6.11", (-T_cut / 2).softmax(0), (-slope * E / 2).softmax(0), "truncated code lengths against minus the energies")

# %% [markdown]
# Equal statistics were an assumption. Let us see the same on tokens drawn from a mixture, with statistics measured
# from almost right memberships (0.9 for the true group). Each dot in the figure is a pair of a token and a group, and both
# numbers are taken against the token's mean over the groups, since only differences count in a softmax.

# %%
K, d, p, sigma2 = 3, 12, 4, 0.15
U = torch.linalg.qr(torch.randn(K, d, p))[0]
x, truth = draw(900, U, 1.0, sigma2)
known = torch.full((K, len(x)), 0.05).scatter(0, truth[None], 0.9)         # (K, N)
E = (project(x, U) ** 2).sum(-1)
T_cut, T_corr = (rates.code_lengths(x, known, U, eps2, corrected=corrected) for corrected in (False, True))

# %%
def right(choice):
    return (choice == truth).double().mean().item()

def correlation(a, b):
    a, b = (v - v.mean(0) for v in (a, b))                                 # against each token's mean over the groups
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()

print(f"true group found by most energy {right(E.argmax(0)):.2f}, by chance {1 / K:.2f}, by least corrected length "
      f"{right(T_corr.argmin(0)):.2f}, by least truncated length {right(T_cut.argmin(0)):.2f}")

# %%
panels, pairs = plots.row(2), [(v - v.mean(0))[:, :150].flatten() for v in (E, T_cut, T_corr)]
which = torch.arange(K)[:, None].expand(K, 150).flatten()
labels = dict(groups=which, equal=False, xlabel="energy in the frame, above the token's mean",
              ylabel="code length T above the mean (2 × nats)")
plots.points(torch.stack(pairs[:2], 1), title="truncated: energy costs", ax=panels[0], **labels)
fig = plots.points(torch.stack(pairs[::2], 1), title="corrected: energy saves", ax=panels[1], **labels)
show(fig, alt="Code length against energy, twice: on the left the dots lie on a rising line, on the right on a falling one",
     digest=f"correlation within a token: truncated {correlation(E, T_cut):+.3f}, corrected {correlation(E, T_corr):+.3f}")

# %% [markdown]
# Within a token, energy and truncated length go together almost perfectly, and energy and corrected length almost perfectly
# against each other. So the pair that the paper combines, the update of
# the truncated objective and the softmax of energies, does not descend *that* objective in both halves: the energy rule sends nearly every
# token to where $R_c^{\mathrm{var}}$ is dearest. For the corrected bound it is the right rule as long as the groups have equal statistics,
# as in (6.9).

# %% [markdown]
# ## 6.5 What the published layer does instead
#
# The code published with the paper does not take energies. It first divides each coordinate of the projected tokens by its
# norm *over the tokens*. With $w_{kij} = u_{ki}^\top z_j$ and a learned factor $\theta_k$ for each head:
#
# $$
# a_{jk} = \theta_k \sum_{i=1}^{p} \frac{w_{kij}^2}{\sum_{l=1}^{n} w_{kil}^2}, \qquad \pi_j = \mathrm{softmax}_k\left(a_{jk}\right) \tag{6.12}
# $$
#
# *(6.12) Checked. Logits of the published layer: squares normalised over the tokens — code of Wu et al. 2024 · `tssa.memberships`*
#
# Each coordinate is measured against its own mean square, so the length of a direction in the weights, and any
# difference in energy between heads, drop out. Heads compete on another question: how *unusual* is this token for me?

# %%
def published_logits(w, theta):
    return theta * (w ** 2 / (w ** 2).sum(1, keepdim=True)).sum(-1)        # (K, N)

w, theta = project(x[:40], U), torch.tensor([[1.0], [2.0], [0.5]])         # (K, N, p), (K, 1)
loops = torch.tensor([[sum(theta[k, 0] * w[k, j, i] ** 2 / sum(w[k, l, i] ** 2 for l in range(40)) for i in range(p))
                       for j in range(40)] for k in range(K)])
check("6.12", loops, published_logits(w, theta), "loops over tokens and coordinates")

def published_memberships(w, theta):
    return published_logits(w, theta).softmax(0)                           # over the K groups

agree(published_memberships, tssa.memberships, w, theta)

# %% [markdown]
# Each of the $p$ fractions sums to one over the tokens. So the logits of a head have a fixed sum, and a mean that falls
# with the number of tokens:
#
# $$
# \frac{1}{n} \sum_{j=1}^{n} a_{jk} = \theta_k\, \frac{p}{n} \tag{6.13}
# $$
#
# *(6.13) Checked. The mean logit is θp/n, whatever the data — this series*
#
# Statisticians know these numbers. If the coordinates of a head are uncorrelated over the tokens, $a_{jk}/\theta_k$ is the
# *leverage* of token $j$: the diagonal of the matrix that projects onto the head's coordinates, a number between 0 and 1
# that is large for tokens far from the crowd.
#
# $$
# \frac{a_{jk}}{\theta_k} = \left[ w_k^\top \left( w_k w_k^\top \right)^{-1} w_k \right]_{jj} \quad \text{if } w_k w_k^\top \text{ is diagonal} \tag{6.14}
# $$
#
# *(6.14) Checked. Published logits are leverages — this series*

# %%
check("6.13", published_logits(w, theta).mean(1), theta[:, 0] * p / 40, "mean over the tokens")
apart = torch.linalg.qr(w)[0] * torch.tensor([3.0, 2.0, 1.0, 0.5])         # uncorrelated over tokens, any lengths
projector = apart @ torch.linalg.pinv(apart)                               # (K, N, N)
check("6.14", published_logits(apart, 1.0), torch.diagonal(projector, 0, 1, 2), "diagonal of the projector")

# %% [markdown]
# **Predict.** Attention inside YOLO11 sees $n = 400$ tokens of width 128 (lesson 10). Share them among four heads of width $p = 32$, with
# $\theta = 1$ at the start: the mean logit is 0.08. What do the membership maps look like?
#
# <details><summary>Answer</summary>
#
# Blank. The logits lie around 0.08 with a spread of about 0.02, and by (6.6) the memberships leave $1/K$ by about that
# share. The measurement follows.
#
# </details>

# %%
for n, width in ((196, 48), (400, 32), (1600, 32)):
    w_n = torch.randn(4, n, width)                                         # what a head sees at the start
    spread, Pi_n = published_logits(w_n, 1.0).std(), tssa.memberships(w_n)
    print(f"n = {n:4d}, p = {width}: spread of the logits {spread:.3f}, entropy {entropy(Pi_n).mean():.4f}, "
          f"a spread of one needs θ ≈ {1 / spread:.0f}")

# %% [markdown]
# At its initial temperature the layer mixes all groups nearly equally, unless a few tokens hold most of a head's energy (one
# token a hundred times as long as the others would still stand out). It can learn $\theta$, but an optimiser that
# moves a parameter by a thousandth at a step needs tens of thousands of steps to reach the values in the last column.
# Lesson 8 trains one and looks.
#
# ## 6.6 The size of the image
#
# Since the logits have a fixed sum, they depend on how many tokens there are. Copy each token $m$ times, as a larger
# picture of the same scene does: each square is then divided by an $m$ times larger sum.
#
# $$
# a_{jk}\left([Z, \dots, Z]\right) = \frac{1}{m}\, a_{jk}(Z) \tag{6.15}
# $$
#
# *(6.15) Checked. With m copies of every token the published logits shrink m-fold, so θ has to grow m-fold — this series*
#
# The formula (6.1) has no such effect. A factor $n/p$ in the logits cures it, and makes the mean logit $\theta$ itself. The
# library calls this variant "rms", since each coordinate is divided by its root mean square:
#
# $$
# a_{jk}^{\mathrm{rms}} = \frac{n}{p}\, a_{jk}, \qquad a_{jk}^{\mathrm{rms}}\left([Z, \dots, Z]\right) = a_{jk}^{\mathrm{rms}}(Z) \tag{6.16}
# $$
#
# *(6.16) Checked. Normalised by root mean squares, memberships do not depend on resolution — this series · `tssa.memberships`*

# %%
copies = w.repeat(1, 4, 1)                                                 # twice the height and width
check("6.15", published_logits(copies, theta)[:, :40], published_logits(w, theta) / 4, "four copies of each token")
rms = (40 / p * published_logits(w, theta)).softmax(0)
check("6.16", tssa.memberships(copies, theta, "rms")[:, :40], rms, "four copies, rms logits")
change = tssa.memberships(copies, 20.0)[:, :40] - tssa.memberships(w, 20.0)
print(f"at θ = 20 the four copies change the published Π by up to {change.abs().max():.2f}")

# %% [markdown]
# On real tokens: the patches of a photograph, more and more of them, in four frames found by the recipe of the next section.
# We plot how far the memberships are from uniform.

# %%
flower = photos.sample("flower")
x, grid = photos.tokens(flower)                                            # (9401, 16), (79, 119)
found = photos.group(x)                                                    # Pi (4, N), U (4, 16, 4)
rules = {"published, θ = 1": (1.0, "tokens"), "published, θ = 50": (50.0, "tokens"), "rms, θ = 1": (1.0, "rms")}
counts = [len(x[::m]) for m in (1, 4, 16, 64, 256)]
away = {name: [(4 * tssa.memberships(project(x[::m], found.U), *rule) - 1).abs().mean() for m in (1, 4, 16, 64, 256)]
        for name, rule in rules.items()}

# %%
fig = plots.lines(counts, away, title="Memberships fade with the number of tokens", xlabel="tokens n", xscale="log",
                  yscale="log", ylabel="mean |KΠ − 1|", markers=True)
show(fig, alt="Log–log plot: both published curves fall with the number of tokens, the one for θ = 50 fifty times "
              "higher at the end; the rms curve is flat",
     digest="mean |KΠ − 1| at 9401 tokens: " + ", ".join(f"{name}: {v[0]:.1g}" for name, v in away.items()))

# %% [markdown]
# ## 6.7 Groups in a photograph
#
# Now let $\Pi$ and the frames find each other. Tokens are patches of 8 × 8 pixels in the CIE L\*a\*b\* colour space (in which
# distances are close to those that eyes see), a step of 4 pixels apart, centred, and reduced to their $d = 16$ strongest
# principal coordinates, of mean squared length one. The objective is the corrected rate minus an entropy that rewards
# doubt, and we lower it in turns.
#
# **First turn, memberships.** The corrected rate is concave in $\Pi$ (it is made of terms $n_k f(\cdot/n_k)$), so it lies below its
# tangent at the current $\Pi$, whose slope is $T$ by (6.8):
#
# $$
# R_c^{\mathrm{corr}}(\Pi^{+}) \;\le\; R_c^{\mathrm{corr}}(\Pi) + \frac{1}{2n} \sum_{j,k} T_{jk}^{\mathrm{corr}} \left( \pi_{jk}^{+} - \pi_{jk} \right) \tag{6.17}
# $$
#
# *(6.17) Checked. The corrected rate lies below its tangent in Π — this series*
#
# (At $\Pi^{+} = \Pi$ the check has something to tell as well: the rate doubles with $\Pi$, so it *is* the mean code length,
# $\frac{1}{2n}\sum_{j,k} T_{jk} \pi_{jk}$, and the check computes the equality case that way.)
#
# With the entropy added, the right-hand side is least at a softmax, token by token:
#
# $$
# -\ln \sum_{k} e^{-T_{jk}/2} \;\le\; \sum_{k} \tfrac12 \pi_{jk} T_{jk} - H(\pi_j), \qquad \text{with equality at } \pi_j = \mathrm{softmax}_k\left(-\tfrac12 T_{jk}\right) \tag{6.18}
# $$
#
# *(6.18) Checked. The softmax of minus half the code lengths is the best answer to them — Gibbs' inequality · `photos.group`*
#
# Together: $\Pi \leftarrow \mathrm{softmax}_k(-T/2)$ never raises $R_c^{\mathrm{corr}} - \frac1n \sum_j H(\pi_j)$.

# %%
y, other = x[:200], torch.randn(50, 4, 200).mul(2).softmax(1)              # 50 tables of memberships
U, here = found.U, torch.randn(4, 200).softmax(0)
T = rates.code_lengths(y, here, U, 0.002, corrected=True)
rate = torch.stack([rates.variational_rate(y, P, U, 0.002, corrected=True) for P in (here, *other)])
tangent = rate[0] + (T * (other - here)).sum((1, 2)) / 400
check_below("6.17", rate[1:], tangent, "50 tables against the tangent", equal=(rate[0], (T * here).sum() / 400))
cost = (T / 2 * other).sum(1) - torch.special.entr(other).sum(1)           # (50, N)
best = (-T / 2).softmax(0)
check_below("6.18", -(-T / 2).logsumexp(0).expand(50, 200), cost, "50 tables against the softmax",
            equal=(-(-T / 2).logsumexp(0), (T / 2 * best).sum(0) - torch.special.entr(best).sum(0)))

# %% [markdown]
# **Second turn, frames.** With $\Pi$ fixed, each group wants the frame that makes its own code cheapest. Compare two
# frames by their lists of variances, $(s_1, \dots, s_p, \rho, \dots, \rho)$. If every $s_i \ge \rho$, the list of the $p$ strongest
# eigenvectors majorises the other one: its sums of the largest entries are at least as large, the total is the same. A sum of
# concave functions is then smaller: that is Karamata's inequality, lesson 4's averaging step in general form. (To majorise is meant here
# for lists of numbers; it is not the majoriser of lesson 5.)
#
# $$
# \sum_{i=1}^{p} f(\lambda_i) + (d - p) f\left(\rho^{+}\right) \;\le\; \sum_{i=1}^{p} f(s_i) + (d - p) f(\rho)
# \quad \text{if every } s_i \ge \rho \tag{6.19}
# $$
#
# *(6.19) Checked. The p strongest eigenvectors (eigenvalues λ₁ ≥ λ₂ ≥ …, mean of the rest ρ⁺) beat every frame whose directions are stronger than the rest — this series · `photos.group`*

# %%
S, c = torch.diag(0.7 ** torch.arange(16.0)), 16 / 0.002                  # a falling spectrum, like a photograph's
def frame_cost(U):                                                         # U (…, d, p) → cost, weakest s − ρ
    s = torch.einsum("...dp,de,...ep->...p", U, S, U)
    rho = (S.trace() - s.sum(-1)) / (16 - U.shape[-1])
    return torch.log1p(c * s).sum(-1) + (16 - U.shape[-1]) * torch.log1p(c * rho), s.amin(-1) - rho

mix = torch.logspace(-3, 1, 400)[:, None, None] * torch.eye(16) + S        # from strong directions to any
costs, margin = frame_cost(torch.linalg.qr(mix @ torch.randn(400, 16, 4))[0])
allowed = costs[margin >= 0]                                               # every direction stronger than the rest
least = torch.log1p(c * S.diag()[:4]).sum() + 12 * torch.log1p(c * S.diag()[4:].mean())
check_below("6.19", least.expand(len(allowed)), allowed, "random frames", equal=(least, frame_cost(torch.eye(16)[:, :4])[0]))

# %% [markdown]
# The condition is needed. If the two strongest variances are equal, a group may do better to leave *them* to the mean,
# which costs nothing, and to keep a weak direction that differs from the rest:

# %%
def price(*variances):
    return torch.log1p(320 * torch.tensor(variances)).sum()

print("variances 1, 1, 0.1, 0.001 and a frame of two: "
      f"keep the strongest {price(1, 1, 0.0505, 0.0505):.2f}, keep the weakest {price(0.1, 0.001, 1, 1):.2f}")

# %% [markdown]
# On photographs the spectra fall steeply, and the strongest directions are the ones to keep; the figure after next counts how often
# the objective rises. The whole recipe, started from k-means (0.9 for the cluster that a token is in), is three lines:

# %%
def alternate(x, Pi, eps2=0.002, p=4, steps=50):
    for _ in range(steps):
        U = torch.linalg.eigh(rates.second_moment(x, Pi))[1][..., -p:]      # (K, d, p), the strongest directions
        Pi = (-rates.code_lengths(x, Pi, U, eps2, corrected=True) / 2).softmax(0)  # over the groups
    return Pi

begin = photos.start(x, K=4)                                               # (4, N), from k-means
off = (alternate(x, begin, steps=5) - photos.group(x, Pi=begin, steps=5).Pi).abs().max()
print(f"five turns of alternate are five of tssa_lib.photos.group: {bool(off < 1e-8)}")

# %%
china = photos.sample("china")
x_china, grid_china = photos.tokens(china)
found_china = photos.group(x_china)

def strongest(Pi, grid):
    return plots.group_map(Pi.argmax(0).view(grid))                        # a picture, one colour a group

panels = [flower, strongest(begin, grid), strongest(found.Pi, grid), *found.Pi.unflatten(1, grid)]
panels += [china, strongest(photos.start(x_china, 4), grid), strongest(found_china.Pi, grid), *found_china.Pi.unflatten(1, grid)]

# %%
titles = ["photograph", "k-means", "strongest Π"] + [f"Π of group {k}" for k in (1, 2, 3, 4)]
show(plots.pictures(panels, 2 * titles, columns=7, size=2.1, unit="membership π", vmin=0, vmax=1),
     alt="A blossom and a pagoda, their k-means clusters, their strongest groups and four maps each: one map is the "
         "blossom, one its rim; one is the sky, one the tower with its roofs, one the foliage",
     digest="; ".join(f"{name}: shares of the groups " + ", ".join(f"{100 * v:.0f} %" for v in r.Pi.mean(1).sort().values)
                      for name, r in (("flower", found), ("china", found_china))))

# %% [markdown]
# k-means cuts the blossom into a centre and a ring, because it compares patches with a mean patch. The
# rate compares them with a *subspace*: all patches of the blossom, light or dark, are the same kind of pattern, and one code
# serves them all. The two dark groups differ in what they are made of: one smooth, one textured.

# %%
falls = {name: torch.tensor(r.objective) for name, r in (("flower", found), ("china", found_china))}
fig = plots.lines(range(1, 40), {name: v[:39] - v[-1] for name, v in falls.items()}, yscale="log",
                  title="The objective falls at every turn", xlabel="turn", ylabel="nats a token above the last value")
rises = {name: int((v.diff() > 1e-9).sum()) for name, v in falls.items()}
show(fig, alt="Two curves on a logarithmic scale that fall at every turn, from about two nats to less than a thousandth",
     digest=", ".join(f"{name} from {v[0]:.2f} to {v[-1]:.2f} nats, {rises[name]} rises" for name, v in falls.items()))

# %% [markdown]
# ## 6.8 Where it fails
#
# First knob: the precision. At coarse precision tokens cannot be told apart: when $\varepsilon^2$ approaches the size of the tokens themselves,
# the groups merge and all maps turn blank. Below, the map of the group that holds the middle of the blossom, at four precisions
# (the tokens have mean squared length one).

# %%
x_small, grid_small = photos.tokens(flower, longest=320)
tries = {e: photos.group(x_small, eps2=e) for e in (0.0005, 0.002, 0.05, 2.0)}
doubt = {e: entropy(r.Pi).mean().item() for e, r in tries.items()}
middle = grid_small[0] // 2 * grid_small[1] + grid_small[1] // 2           # a token of the blossom
maps = [r.Pi[r.Pi[:, middle].argmax()].view(grid_small) for r in tries.values()]
titles = [f"ε² = {e}, entropy {h:.2f}" for e, h in doubt.items()]
show(plots.pictures(maps, titles, size=2.6, unit="membership π", vmin=0, vmax=1),
     alt="Four maps of the group that holds the middle of the blossom: crisp at the first two precisions, softer and "
         "smaller at the third, an even grey at the last",
     digest=", ".join(f"ε² = {e}: entropy {h:.2f}" for e, h in doubt.items()))

# %% [markdown]
# Second, the start. The objective has many local minima. And third, the scene: two photographs full of people, and a mosaic
# of four textures, for which we know the right answer and can count.
#
# **Predict.** Which will come nearest to the known answer in the mosaic: the recipe, the recipe from random memberships, or the
# recipe with the truncated code lengths?
#
# <details><summary>Answer</summary>
#
# The recipe from k-means, hardly better than k-means itself. Random starts get stuck in worse minima. The truncated lengths
# have the wrong sign and lose what the start knew.
#
# </details>

# %%
import numpy as np
from scipy.optimize import linear_sum_assignment

mosaic = np.vstack([np.hstack([china[:128, 380:508], china[-128:, :128]]),
                    np.hstack([flower[150:278, 210:338], flower[20:148, 20:148]])])  # sky, trees, blossom, leaves
x_m, grid_m = photos.tokens(mosaic)
rows, columns = torch.meshgrid(*(4 * torch.arange(g) + 4 >= 128 for g in grid_m), indexing="ij")
truth = (2 * rows + columns).flatten()                                     # (N,), by the centre of the patch

# %%
def accuracy(Pi):
    table = torch.zeros(4, 4).index_put((Pi.argmax(0), truth), torch.tensor(1.0), accumulate=True)
    return table[linear_sum_assignment(-table)].sum().item() / len(truth)  # under the best naming of the groups

def random_start(seed):
    labels = torch.randint(4, (1, len(x_m)), generator=torch.Generator().manual_seed(seed))
    return torch.full((4, len(x_m)), 0.1 / 3).scatter(0, labels, 0.9)

kmeans = photos.start(x_m, 4)
good = photos.group(x_m, Pi=kmeans)
lost = [photos.group(x_m, Pi=random_start(seed), steps=40) for seed in range(3)]
cut = photos.group(x_m, Pi=kmeans, corrected=False)

# %%
w_m = project(x_m, good.U)                                                 # the recipe's own frames
scores = {"k-means": accuracy(kmeans), "recipe": accuracy(good.Pi), "random start": sum(accuracy(r.Pi) for r in lost) / 3,
          "truncated": accuracy(cut.Pi), "energy": accuracy((w_m ** 2).sum(-1)), "published": accuracy(tssa.memberships(w_m))}
fig = plots.bars(list(scores), {"tokens in the right group": list(scores.values())}, hlines={"chance": 0.25},
                 title="A mosaic of four known textures", ylabel="share of tokens in the right group")
show(fig, alt="Bars: k-means and the recipe near 0.9; random starts, truncated lengths, energies and published logits "
              "clearly below, all above chance",
     digest=", ".join(f"{name} {v:.2f}" for name, v in scores.items()))

# %%
crowd = []
for name in ("bus", "zidane"):
    x_c, grid_c = photos.tokens(photos.sample(name), longest=320)
    crowd += [photos.sample(name, 320), strongest(photos.group(x_c).Pi, grid_c)]

# %%
panels = [mosaic, *(strongest(r.Pi, grid_m) for r in (good, lost[0], cut)), *crowd]
titles = ["mosaic", "recipe", "random start", "truncated lengths", "street", "its groups", "two men", "their groups"]
show(plots.pictures(panels, titles, size=2.4),
     alt="A mosaic of sky, trees, blossom and leaves with three group maps, only the first of which shows the four "
         "squares; a street and two men, whose groups are edges and flat areas, not people",
     digest=f"{len(x_m)} tokens; recipe {scores['recipe']:.2f} right, this random start {accuracy(lost[0].Pi):.2f}")

# %% [markdown]
# What to take from this. The corrected rule keeps what a good start knows and tidies it up; it does not discover it. The energy
# rule and the published logits, *with the very same frames*, are worse: the energy rule because (6.4) assumes equally wide groups, and
# these are not; the published logits because they divide the energy out and only ask how unusual a token is for a head. And on a street
# there are no people among the groups: raw patches know edges, flatness and colour. A
# network that learns its tokens may do better; $\Pi$ alone does not segment an image into things.
#
# ## 6.9 Point at it
#
# The view below lets you ask single tokens. Hover over the picture, or move with the arrow keys, and read the
# memberships of the token under the pointer; choose the rule, the number of groups and the temperature, and watch map and
# objective change. It runs in the browser, without a kernel; where scripts are
# not shown, the figures of section 6.7 stand for it.

# %% tags=["nbval-ignore-output"]
x_e, grid_e = photos.tokens(flower, d=8, longest=240)
groups = {K: photos.group(x_e, K=K)[:2] for K in (2, 3, 4, 5)}
Explorer(photos.load_image(flower, 400) / 255, x_e, grid_e, groups, eps2=0.002, eta=0.02)

# %% [markdown]
# ## 6.10 Your turn
#
# **Exercise 6.1.** Two lines in the plane, at 0° and 60°, $\lambda = 1$, $\sigma^2 = 0.1$, and a token $z = (2, \tfrac12)$. Write the
# function that gives the exact posterior of the groups, for any frames.

# %%
def posterior_of(z, U, lam, sigma2):                                       # z (d,), U (K, d, p) → (K,)
    return ...  # your turn

exercise("6.1", posterior_of)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def posterior_of(z, U, lam, sigma2):
#     eta = sigma2 * (lam + sigma2) / lam
#     energy = torch.einsum("d,kdp->kp", z, U).square().sum(-1)
#     return (energy / (2 * eta)).softmax(0)
# ```
#
# By (6.4) the posterior is the softmax of energies at $\eta = 0.11$; the first line gets 0.99986.
#
# </details>
#
# **Exercise 6.2.** How sharp is a table of memberships? Write the mean over the tokens of the normalised entropy (6.5).

# %%
def mean_entropy(Pi):                                                      # Pi (K, N) → a number in [0, 1]
    return ...  # your turn

exercise("6.2", mean_entropy)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mean_entropy(Pi):
#     H = torch.special.entr(Pi).sum(0)          # −π ln π, and 0 for π = 0
#     return H.mean() / math.log(Pi.shape[0])
# ```
#
# The entropy is a sum over the groups (axis 0), a hard membership has none ($0 \ln 0 = 0$), and $\ln K$ is its largest value.
#
# </details>
#
# **Exercise 6.3.** The published layer was trained on images of a given size with `temp` $\theta$. Now each side of the image is
# `factor` times as long. Which $\theta$ keeps the memberships?

# %%
def new_theta(theta, factor):
    return ...  # your turn

exercise("6.3", new_theta)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def new_theta(theta, factor):
#     return theta * factor ** 2
# ```
#
# The number of tokens grows with the area, and by (6.15) the logits shrink with the number of tokens.
#
# </details>
#
# **Exercise 6.4.** Groups have mean second moment `s` inside their frames and residual variance `rho` outside, and the rate codes
# to precision `eps2` in `d` dimensions. At which temperature is the energy rule the one that the corrected objective wants?

# %%
def effective_eta(s, rho, eps2, d):
    return ...  # your turn

exercise("6.4", effective_eta)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def effective_eta(s, rho, eps2, d):
#     noise = eps2 / d
#     return 1 / (1 / (rho + noise) - 1 / (s + noise))
# ```
#
# This is (6.9). For $s \gg \rho$ it is $\rho + \varepsilon^2/d$, the noise that the code sees.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - The softmax of energies over the groups is the exact posterior of a mixture of subspaces, at $\eta = \sigma^2(\lambda + \sigma^2)/\lambda$.
# - Complete frames see equal energy everywhere: memberships need $p < d$, the bound of lesson 4 needs $p = d$. The corrected bound
#   reconciles them: for groups with equal statistics it asks for the same softmax, with $\varepsilon^2/d$ counted as part of the noise.
# - The truncated objective asks for the opposite: it sends tokens to the group that does not see them.
# - The published layer normalises over tokens. Its logits are leverages of mean $\theta p/n$: blank maps at the start, and maps that
#   change with the image size. Root mean squares cure the second.
# - On photographs, frames and memberships in turns lower one objective and find textures. They need a good start and find no objects.
#
# ## Sources
#
# - Z. Wu et al., *Token Statistics Transformer*, 2024, arXiv 2412.17810 (its Eq. 10 is our (6.1)), and its published code
# - M. Tipping, C. Bishop, *Mixtures of probabilistic principal component analysers*, Neural Computation 11, 1999
# - D. Hoaglin, R. Welsch, *The hat matrix in regression and ANOVA*, The American Statistician 32, 1978 (leverage)
# - The sign of the truncated code length, (6.9) to (6.11), (6.15), (6.16) and (6.19) are this series' own
# - Photographs: `flower.jpg` (vultilion) and `china.jpg` (danielbuechele), Flickr, CC BY 2.0; `bus.jpg` and `zidane.jpg` from Ultralytics
#
# [◀ previous](05_tssa_update.ipynb) · [contents](00_start_here.ipynb) · [next ▶](07_the_layer.ipynb)
