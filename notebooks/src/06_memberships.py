# %% [markdown]
# # Lesson 6 · Memberships
#
# [◀ previous](05_tssa_update.ipynb) · [contents](00_start_here.ipynb) · [next ▶](07_the_layer.ipynb)
#
# Lesson 5 took the memberships $\Pi$ as given. Where does the table come from that says how much each token belongs to each group?
#
# **After this you can**
#
# - derive $\Pi$ as the posterior of a mixture of subspaces, and name the temperature that makes it exact;
# - say why memberships want narrow frames ($p < d$), and why the truncated objective gets their sign wrong;
# - predict the memberships of the published layer at its start (blank), and what the image size does to them;
# - group the patches of any photograph in seconds, and say what these groups are not.
#
# **You should be able to answer:** For which data is the softmax of energies the right answer, and at which temperature? Where does the objective of lesson 5 send a token, and what mends that? Why are the maps of a fresh layer blank?
#
# **Before this:** lessons 1, 4 and 5. Bayes' rule and the multivariate normal density.
#
# **Time:** about 36 minutes to read, 25 seconds to run on two CPU cores; with Going deeper about 23 minutes more.

# %%
import math

import torch

from tssa_lib import rates, tssa
from kit.explorer import Explorer
from kit import REACHED, agree, check, check_below, exercise, live, mine, photos, plots, show

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## 6.1 A softmax over groups
#
# Take the six tokens again, and three groups, each with a frame of one direction ($p = 1$): the two axes and the diagonal between them. How much does a token belong to each? The obvious evidence is its *energy* in the frame, the square of its shadow there, and a softmax turns energies into shares:
#
# $$
# \pi_{jk} = \frac{\exp\left(\lVert U_k^\top z_j \rVert^2 / 2\eta\right)}{\sum_{l=1}^{K} \exp\left(\lVert U_l^\top z_j \rVert^2 / 2\eta\right)} \tag{6.1}
# $$
#
# *(6.1) Definition. Memberships: a softmax of the energies over the groups, with temperature η — Wu et al. 2024 · `tssa.memberships`*
#
# The softmax runs over $k$, the groups, not over tokens as in most attention layers: no token is compared with another.

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])              # d, e, f
angles = torch.tensor([0.0, 90.0, 45.0]).deg2rad()
U3 = torch.stack([angles.cos(), angles.sin()], -1)[..., None]            # (K, d, p) = (3, 2, 1)


def project(x, U):
    return torch.einsum("nd,kdp->knp", x, U)                             # (K, N, p)

# %% [markdown]
# **Exercise 6a. Memberships.** Write (6.1) from the projected tokens.

# %%
def my_memberships(w, eta):                                              # w (K, N, p) → (K, N)
    return ...  # your turn


def energy_softmax(w, eta):                                              # the library takes θ = 1/(2η), as the layer does
    return tssa.memberships(w, 1 / (2 * eta), "none")


memberships = mine("6a", my_memberships, energy_softmax)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_memberships(w, eta):
#     energy = (w ** 2).sum(-1)                                            # (K, N)
#     return (energy / (2 * eta)).softmax(0)                               # over the K groups
# ```
#
# The sum runs over the coordinates of a frame, the softmax over the groups, axis 0.
#
# </details>
#
# Three memberships that sum to one are a point in a triangle (the *simplex*): a corner means full membership, the middle means that the token is shared equally.
#
# **Predict:** token a is $(2, 0.1)$. At a high temperature, does it sit nearer to the corner of group 2 (the other axis) or of group 3 (the diagonal)?
#
# <details><summary>Answer</summary>
#
# Nearer to group 3. Its shadow on the diagonal is $2.1/\sqrt 2 \approx 1.48$, on the second axis only 0.1. Energy is not a distance between groups: a diagonal frame gets a share of both clouds.
#
# </details>

# %% tags=["hide-input"]
# figure: the six tokens in the triangle of three groups
warm, cold = (memberships(project(six, U3), eta) for eta in (2.0, 0.2))
left, right = plots.row(2)
plots.simplex(warm, [0, 0, 0, 1, 1, 1], title="η = 2: soft", names="abcdef", ax=left)
fig = plots.simplex(cold, [0, 0, 0, 1, 1, 1], title="η = 0.2: nearly hard", names="abcdef", ax=right)
own = ["  ".join(f"{v:.2f}" for v in (*Pi[0, :3], *Pi[1, 3:])) for Pi in (warm, cold)]
show(fig, alt="Two triangles with the six tokens as points: on the left near the middle, on the right a, b and d "
              "near the corners of groups 1 and 2", digest=f"own memberships of a…f: {own[0]} (soft), {own[1]} (hard)")

# %% [markdown]
# Long tokens (a, b, d) reach their corners first, because energy grows with the square of the length. That is sensible if noise has the same size everywhere, as in the model of the next section.
#
# ## 6.2 The model behind the softmax
#
# Suppose each token was made like this. A group $k$ is drawn, all $K$ with equal probability. Inside the subspace spanned by the frame $U_k$ ($p$ orthonormal columns) the token is normal with variance $\lambda$ in each direction, and noise of variance $\sigma^2$ is added everywhere. So the tokens of group $k$ are normal with mean zero and
#
# $$
# \Sigma_k = \lambda\, U_k U_k^\top + \sigma^2 I . \tag{6.2}
# $$
#
# *(6.2) Definition. Covariance of a group: a subspace and noise around it — Tipping and Bishop 1999, mixtures of principal component analysers*
#
# Now Bayes' rule. Group $k$ has posterior probability proportional to $\exp(-\frac12 z_j^\top \Sigma_k^{-1} z_j)$: equal priors cancel. Each $\Sigma_k$ has the eigenvalues $\lambda + \sigma^2$ inside the frame and $\sigma^2$ outside, so the determinants are equal and cancel, too ([inverse and determinant](#Inverse-and-determinant)). The exponent is $-\lVert z_j \rVert^2/2\sigma^2$, the same for all groups, plus $\lambda/2\sigma^2(\lambda + \sigma^2)$ times the energy $\lVert U_k^\top z_j \rVert^2$. What remains is (6.1):
#
# $$
# \Pr\left(k \mid z_j\right) = \frac{\mathcal{N}(z_j;\, 0, \Sigma_k)}{\sum_{l} \mathcal{N}(z_j;\, 0, \Sigma_l)} = \pi_{jk}
# \quad \text{with} \quad \eta = \frac{\sigma^2 (\lambda + \sigma^2)}{\lambda} \tag{6.4}
# $$
#
# *(6.4) Checked. The softmax of energies is the exact posterior of this mixture, at one temperature — this series*
#
# So $\Pi$ is what a statistician would compute, if the groups are equally likely, equally wide, and round inside. The paper calls $\eta$ a noise level; it is one only when the signal is strong ([how wrong it is otherwise](#The-noise-level-is-not-the-temperature)).

# %% tags=["hide-input"]
# check of (6.4) on 300 tokens drawn from the mixture
K, d, p, lam, sigma2 = 3, 8, 2, 2.0, 0.1
U = torch.linalg.qr(torch.randn(K, d, p))[0]                             # (K, d, p)
Sigma = lam * U @ U.mT + sigma2 * torch.eye(d)                           # (K, d, d)
eta = sigma2 * (lam + sigma2) / lam                                      # 0.105


def draw(n, U, lam, sigma2):
    K, d, p = U.shape
    truth = torch.arange(n) % K                                          # (N,)
    signal = torch.einsum("ndp,np->nd", U[truth], lam ** 0.5 * torch.randn(n, p))
    return signal + sigma2 ** 0.5 * torch.randn(n, d), truth             # (N, d)


x, truth = draw(300, U, lam, sigma2)
density = torch.distributions.MultivariateNormal(torch.zeros(d), Sigma)  # a batch of K
posterior = density.log_prob(x[:, None]).softmax(1).T                    # (K, N), over the groups
check("6.4", posterior, memberships(project(x, U), eta), "Bayes' rule against the softmax of energies")

# %% [markdown]
# ## 6.3 Hard and soft
#
# At $\eta \to 0$ each token goes to its strongest group, and $\Pi$ becomes *hard*: zeros and ones. At $\eta \to \infty$ all shares become $1/K$. One number says where between the two a token is, the *normalised entropy*: the entropy $H(\pi_j) = -\sum_k \pi_{jk} \ln \pi_{jk}$ of its memberships over the entropy $\ln K$ of equal shares, 0 if hard and 1 if uniform ([the six tokens on their way](#From-hard-to-soft)).
#
# **Predict:** lesson 4 bounds the rate when each frame is complete, $p = d$. What are the memberships (6.1) for three complete orthonormal frames?
#
# <details><summary>Answer</summary>
#
# All equal. A complete orthonormal frame keeps the length, so each group sees the same energy $\lVert z_j \rVert^2$.
#
# </details>
#
# $$
# p = d: \qquad \lVert U_k^\top z_j \rVert^2 = \lVert z_j \rVert^2 \text{ for every } k, \quad \pi_{jk} = \frac{1}{K} \tag{6.7}
# $$
#
# *(6.7) Checked. Complete frames cannot tell groups apart by energy — this series*
#
# **The bound wants $p = d$, memberships want $p < d$:** the two halves of the derivation do not meet in the same layer.

# %% tags=["hide-input"]
# the normalised entropy, and the check of (6.7)
def entropy(Pi):
    return torch.special.entr(Pi).sum(0) / math.log(len(Pi))             # (N,), 0 hard … 1 uniform


complete = torch.linalg.qr(torch.randn(K, d, d))[0]                      # (K, d, d)
check("6.7", memberships(project(x, complete), eta), torch.full((K, len(x)), 1 / K), "complete frames")

# %% [markdown]
# ## 6.4 What would the objective say?
#
# Another way to find memberships: ask the objective. If one more grain of token $j$ is put into group $k$, by how much does the rate rise? Lesson 5 named the derivative [the *code length* $T_{jk}$](05_tssa_update.ipynb#What-is-dropped-when-Π-depends-on-Z): twice the nats that one more token like $j$ costs in group $k$. For the corrected bound of lesson 4, which also pays for the $d - p$ directions off the frame, with residual energy $r_{jk} = \lVert z_j \rVert^2 - \lVert U_k^\top z_j \rVert^2$ and mean residual variance $\rho_k$,
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
# The first line alone is the code length of the *truncated* objective $R_c^{\mathrm{var}}$, which forgets what lies off the frame.

# %% tags=["hide-input"]
# the two lines of (6.8), and its check
def inside(w2, s, c):                                                    # w2 (K, N, p), s (K, p) → (K, N)
    f, slope = torch.log1p(c * s), c / (1 + c * s)
    return (f[:, None] + slope[:, None] * (w2 - s[:, None])).sum(-1)


def outside(r, rho, q, c):                                               # r (K, N), rho (K,) → (K, N)
    f, slope = torch.log1p(c * rho), c / (1 + c * rho)
    return q * f[:, None] + slope[:, None] * (r - q * rho[:, None])


def corrected_lengths(x, Pi, U, eps2):
    d, p, c = x.shape[1], U.shape[2], x.shape[1] / eps2
    w2, share = project(x, U) ** 2, Pi / Pi.sum(1, keepdim=True)         # (K, N, p), (K, N)
    r = (x ** 2).sum(1) - w2.sum(-1)                                     # (K, N), energy off the frame
    s, rho = (share[..., None] * w2).sum(1), (share * r).sum(1) / (d - p)  # (K, p), (K,)
    return inside(w2, s, c) + outside(r, rho, d - p, c)


eps2, soft = 0.5, torch.randn(K, len(x)).softmax(0)                      # over the groups
leaf = soft.clone().requires_grad_()
rates.variational_rate(x, leaf, U, eps2, corrected=True).backward()
check("6.8", corrected_lengths(x, soft, U, eps2), 2 * len(x) * leaf.grad, "the formula against autograd")
agree(corrected_lengths, rates.code_lengths, x, soft, U, eps2, corrected=True)

# %% [markdown]
# A code length is minus the logarithm of a probability: a token that costs one nat more in a group is $e$ times less likely there. So the objective proposes $\pi_j = \mathrm{softmax}_k(-T_{jk}/2)$. Is that the energy rule? When all groups have the same statistics, $s_{ki} = s$ and $\rho_k = \rho$, all of (6.8) that does not depend on $k$ cancels in the softmax. What is left is the energy, at a temperature that the objective chooses itself:
#
# $$
# \mathrm{softmax}_k\left(-\tfrac12 T_{jk}^{\mathrm{corr}}\right) = \mathrm{softmax}_k\left( \frac{\lVert U_k^\top z_j \rVert^2}{2 \eta_{\mathrm{eff}}} \right), \qquad
# \frac{1}{\eta_{\mathrm{eff}}} = \frac{1}{\rho + \varepsilon^2/d} - \frac{1}{s + \varepsilon^2/d} \tag{6.9}
# $$
#
# *(6.9) Checked. With equal statistics, the corrected code length is the energy rule — this series*
#
# It is even [Bayes' own temperature](#One-temperature-found-twice). Statistics and coding arrive at one formula. Now leave out the second line of (6.8).
#
# **Predict:** with equal statistics, the truncated code length is $f'(s)$ times the energy plus a constant. Where does the truncated objective send a token with much energy in frame $k$?
#
# <details><summary>Answer</summary>
#
# Away from group $k$. In this objective energy inside a frame costs, and energy outside is free, since nobody pays for the directions off the frame. The cheapest group for a token is the one that does not see it.
#
# </details>
#
# $$
# \mathrm{softmax}_k\left(-\tfrac12 T_{jk}\right) = \mathrm{softmax}_k\left( -\tfrac12 f'(s)\, \lVert U_k^\top z_j \rVert^2 \right) \tag{6.11}
# $$
#
# *(6.11) Checked. The truncated code length is the energy rule with the wrong sign — this series*

# %% tags=["hide-input"]
# check of (6.9) and (6.11): equal statistics s = 0.9, ρ = 0.06
c, w2 = d / eps2, project(x, U) ** 2
s, rho = torch.full((K, p), 0.9), torch.full((K,), 0.06)
T = inside(w2, s, c) + outside((x ** 2).sum(1) - w2.sum(-1), rho, d - p, c)
eta_eff = 1 / (1 / (0.06 + eps2 / d) - 1 / (0.9 + eps2 / d))
check("6.9", (-T / 2).softmax(0), memberships(project(x, U), eta_eff), "code lengths against energies")
slope = c / (1 + c * 0.9)                                                # f'(s)
check("6.11", (-inside(w2, s, c) / 2).softmax(0), (-slope * w2.sum(-1) / 2).softmax(0), "truncated code lengths against minus the energies")

# %% [markdown]
# Equal statistics were an assumption. See the same on tokens drawn from a mixture, with statistics measured from almost right memberships (0.9 for the true group). Each dot is a pair of a token and a group, both numbers taken against the token's mean over the groups.

# %% tags=["hide-input"]
# data: 900 tokens from a mixture, their energies, and both code lengths
K, d, p, sigma2 = 3, 12, 4, 0.15
U = torch.linalg.qr(torch.randn(K, d, p))[0]
x, truth = draw(900, U, 1.0, sigma2)
known = torch.full((K, len(x)), 0.05).scatter(0, truth[None], 0.9)       # (K, N)
E = (project(x, U) ** 2).sum(-1)                                         # energies (K, N)
T_cut, T_corr = (rates.code_lengths(x, known, U, eps2, corrected=corrected) for corrected in (False, True))

# %% tags=["hide-input"]
# figure: code length against energy; and how often each rule finds the true group
def right(choice):
    return (choice == truth).double().mean().item()


def correlation(a, b):
    a, b = (v - v.mean(0) for v in (a, b))                               # against each token's mean over the groups
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


print(f"true group found by most energy {right(E.argmax(0)):.2f}, by chance {1 / K:.2f}, by least corrected length "
      f"{right(T_corr.argmin(0)):.2f}, by least truncated length {right(T_cut.argmin(0)):.2f}")
panels, pairs = plots.row(2), [(v - v.mean(0))[:, :150].flatten() for v in (E, T_cut, T_corr)]
which = torch.arange(K)[:, None].expand(K, 150).flatten()
labels = dict(groups=which, equal=False, xlabel="energy in the frame, above the token's mean",
              ylabel="code length T above the mean (2 × nats)")
plots.points(torch.stack(pairs[:2], 1), title="truncated: energy costs", ax=panels[0], **labels)
fig = plots.points(torch.stack(pairs[::2], 1), title="corrected: energy saves", ax=panels[1], **labels)
show(fig, alt="Code length against energy, twice: on the left the dots lie on a rising line, on the right on a falling one",
     digest=f"correlation within a token: truncated {correlation(E, T_cut):+.3f}, corrected {correlation(E, T_corr):+.3f}")

# %% [markdown]
# So the pair that the paper combines, the update of the truncated objective and the softmax of energies, does not descend *that* objective in both halves: the energy rule sends nearly every token to where $R_c^{\mathrm{var}}$ is dearest. For the corrected bound it is the right rule for groups with equal statistics.
#
# ## 6.5 What the published layer does instead
#
# The published code first divides each coordinate of the projected tokens by its norm *over the tokens*. With $w_{kij} = u_{ki}^\top z_j$ and a learned factor $\theta_k$ for each head:
#
# $$
# a_{jk} = \theta_k \sum_{i=1}^{p} \frac{w_{kij}^2}{\sum_{l=1}^{n} w_{kil}^2}, \qquad \pi_j = \mathrm{softmax}_k\left(a_{jk}\right) \tag{6.12}
# $$
#
# *(6.12) Checked. Logits of the published layer: squares normalised over the tokens — code of Wu et al. 2024 · `tssa.memberships`*
#
# Any difference in energy between heads drops out. Heads compete on another question: how *unusual* is this token for me? (Statisticians call the number [leverage](#Published-logits-are-leverages).) Each of the $p$ fractions sums to one over the tokens, so the logits of a head have a fixed mean that falls with the number of tokens:
#
# $$
# \frac{1}{n} \sum_{j=1}^{n} a_{jk} = \theta_k\, \frac{p}{n} \tag{6.13}
# $$
#
# *(6.13) Checked. The mean logit is θp/n, whatever the data, as long as no coordinate of the head is zero for all tokens — this series*
#
# A *dead* coordinate, zero for every token, has nothing to share: the layer then adds nothing for it, and $p$ counts the living ones.
#
# **Exercise 6b. The published rule.** Write $\Pi$ by (6.12).

# %%
def my_published(w, theta):                                              # w (K, N, p), theta (K, 1) or a number → (K, N)
    return ...  # your turn


published = mine("6b", my_published, tssa.memberships)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_published(w, theta):
#     share = w ** 2 / (w ** 2).sum(1, keepdim=True)                       # (K, N, p), sums to one over the tokens
#     return (theta * share.sum(-1)).softmax(0)                            # over the K heads
# ```
#
# Two different axes: the squares are normalised over the tokens (axis 1), the softmax runs over the heads (axis 0).
#
# </details>

# %% tags=["hide-input"]
# check of (6.12), with logits written as loops, and of (6.13); then a dead coordinate
def published_logits(w, theta):
    return theta * (w ** 2 / (w ** 2).sum(1, keepdim=True)).sum(-1)      # (K, N)


w, theta = project(x[:40], U), torch.tensor([[1.0], [2.0], [0.5]])       # (K, N, p), (K, 1)
loops = torch.tensor([[sum(theta[k, 0] * w[k, j, i] ** 2 / sum(w[k, l, i] ** 2 for l in range(40)) for i in range(p))
                       for j in range(40)] for k in range(K)])
both = torch.stack([loops, published(w, theta)])
check("6.12", both, torch.stack([published_logits(w, theta), loops.softmax(0)]), "logits and memberships against loops")
check("6.13", published_logits(w, theta).mean(1), theta[:, 0] * p / 40, "mean over the tokens")
dead = torch.cat([torch.zeros(K, 40, 1), w[..., 1:]], 2)                 # coordinate 1 is zero for all tokens
sums = tssa.memberships(dead, theta).log()                               # its logits, up to a constant a token
same = torch.allclose(sums - sums.mean(0), published_logits(w[..., 1:], theta) - published_logits(w[..., 1:], theta).mean(0))
print(f"with one of {p} coordinates dead the layer's memberships are those of the {p - 1} living ones: {same}")

# %% [markdown]
# **Predict:** attention inside YOLO11 sees $n = 400$ tokens of width 128 (lesson 10). Share them among four heads of width $p = 32$, with $\theta = 1$ at the start: the mean logit is 0.08. What do the membership maps look like?
#
# <details><summary>Answer</summary>
#
# Blank. The logits lie around 0.08 with a spread of about 0.02, and [close to uniform](#Close-to-uniform) the memberships leave $1/K$ by about that share.
#
# </details>

# %% tags=["hide-input"]
# logits and entropy at the start, for three numbers of tokens
for n, width in ((196, 48), (400, 32), (1600, 32)):
    w_n = torch.randn(4, n, width)                                       # what a head sees at the start
    spread, Pi_n = published_logits(w_n, 1.0).std(), published(w_n, 1.0)
    print(f"n = {n:4d}, p = {width}: spread of the logits {spread:.3f}, entropy {entropy(Pi_n).mean():.4f}, "
          f"a spread of one needs θ ≈ {1 / spread:.0f}")

# %% [markdown]
# At its initial temperature the layer mixes all groups nearly equally, unless a few tokens hold most of a head's energy. It can learn $\theta$, but an optimiser that moves a parameter by a thousandth at a step needs tens to hundreds of thousands of steps to reach the values in the last column. Lesson 8 trains one and looks.
#
# **The size of the image.** Copy each token $m$ times, as a larger picture of the same scene does: each square is divided by an $m$ times larger sum, and the maps fade. The formula (6.1) has no such effect. A factor $n/p$ in the logits cures it, and makes the mean logit $\theta$ itself; the library calls this variant "rms", since each coordinate is divided by its root mean square ([both as equations, and on a photograph](#Memberships-fade-with-the-number-of-tokens)).
#
# ## 6.6 Groups in a photograph
#
# Now let $\Pi$ and the frames find each other. Tokens are patches of 8 × 8 pixels in the CIE L\*a\*b\* colour space, a step of 4 pixels apart, centred, and reduced to their $d = 16$ strongest principal coordinates, of mean squared length one. The price is finer than before, $\varepsilon^2 = 0.002$, because the differences between patches are small. The objective is the corrected rate minus an entropy that rewards doubt, lowered in turns:
#
# - **Memberships.** The rate lies below its tangent in $\Pi$, whose slopes are the code lengths. With the entropy added, the best answer to given code lengths is a softmax, token by token:
#
# $$
# -\ln \sum_{k} e^{-T_{jk}/2} \;\le\; \sum_{k} \tfrac12 \pi_{jk} T_{jk} - H(\pi_j), \qquad \text{with equality at } \pi_j = \mathrm{softmax}_k\left(-\tfrac12 T_{jk}\right) \tag{6.18}
# $$
#
# *(6.18) Checked. The softmax of minus half the code lengths is the best answer to them — Gibbs' inequality · `photos.group`*
#
# - **Frames.** Each group takes the $p$ strongest eigenvectors of its second moment.
#
# Why each turn lowers the objective, and when the second may not: [Going deeper](#Why-the-recipe-goes-down). The recipe starts from k-means (0.9 for the cluster that a token is in):

# %%
def alternate(x, Pi, eps2=0.002, p=4, steps=50):
    for _ in range(steps):
        U = torch.linalg.eigh(rates.second_moment(x, Pi))[1][..., -p:]   # (K, d, p), the strongest directions
        Pi = (-rates.code_lengths(x, Pi, U, eps2, corrected=True) / 2).softmax(0)  # over the groups
    return Pi

# %% tags=["hide-input"]
# data: two photographs as tokens, their k-means clusters and their groups
flower, china = photos.sample("flower"), photos.sample("china")
(x, grid), (x_china, grid_china) = photos.tokens(flower), photos.tokens(china)  # (9401, 16), (79, 119) and the like
begin, begin_china = photos.start(x, K=4), photos.start(x_china, K=4)    # (4, N), from k-means
found, found_china = photos.group(x, Pi=begin), photos.group(x_china, Pi=begin_china)  # Pi (4, N), U (4, 16, 4)
off = (alternate(x, begin, steps=5) - photos.group(x, Pi=begin, steps=5).Pi).abs().max()
print(f"five turns of alternate are five of photos.group: {bool(off < 1e-8)}")

# %% tags=["hide-input"]
# check of (6.18); figure: k-means and the groups of two photographs, same colour where they share most patches
from scipy.optimize import linear_sum_assignment


def matched(Pi, labels):                                                 # the groups of Pi in the order of the labels that they share most tokens with
    table = torch.zeros(len(Pi), len(Pi)).index_put((labels, Pi.argmax(0)), torch.tensor(1.0), accumulate=True)
    return Pi[torch.as_tensor(linear_sum_assignment(-table)[1])]


def strongest(Pi, grid):
    return plots.group_map(Pi.argmax(0).view(grid))                      # a picture, one colour a group


y, here, other = x[:200], torch.randn(4, 200).softmax(0), torch.randn(50, 4, 200).mul(2).softmax(1)  # 50 tables
T = rates.code_lengths(y, here, found.U, 0.002, corrected=True)
check_below("6.18", lambda Pi: -(-T / 2).logsumexp(0), lambda Pi: (T / 2 * Pi).sum(0) - torch.special.entr(Pi).sum(0),
            "50 tables against the softmax", draws=list(other), equal=((-T / 2).softmax(0),))

panels = [flower, strongest(matched(begin, found.Pi.argmax(0)), grid), strongest(found.Pi, grid), *found.Pi.unflatten(1, grid)]
panels += [china, strongest(matched(begin_china, found_china.Pi.argmax(0)), grid_china), strongest(found_china.Pi, grid_china),
           *found_china.Pi.unflatten(1, grid_china)]
names = ["blue", "orange", "green", "black"]
titles = ["photograph", "k-means", "strongest Π"] + [f"Π of {name}" for name in names]
show(plots.pictures(panels, 2 * titles, columns=7, size=2.1, unit="membership π", vmin=0, vmax=1),
     alt="A blossom and a pagoda, their k-means clusters, their strongest groups and four maps each: one map is the "
         "blossom, one its rim; one is the sky, one the tower with its roofs, one the foliage",
     digest="; ".join(f"{name}: shares of the groups " + ", ".join(f"{100 * v:.0f} %" for v in r.Pi.mean(1).sort().values)
                      for name, r in (("flower", found), ("china", found_china))))

# %% [markdown]
# k-means cuts the blossom into a centre and a ring, because it compares patches with a mean patch. The rate compares them with a *subspace*: all patches of the blossom, light or dark, are the same kind of pattern. The two dark groups differ in what they are made of: one smooth, one textured.
#
# Now ask single patches. **Try:** move over the blossom, its rim and the leaves, and watch which numbers change. **Predict:** how many numbers about the rest of the picture does a patch need in TSSA, and how many in softmax attention?

# %% tags=["hide-input", "nbval-ignore-output"]
# view: what a patch of the photo hears from the others
x_l, grid_l = photos.tokens(flower, longest=320, stride=8)               # patches that don't overlap
live.patch(flower, x_l, grid_l, *photos.group(x_l)[:2])

# %% [markdown]
# What you saw: the $K\cdot p$ second moments stay the same wherever you point, and only the memberships change. Attention compares each patch anew with all $n$.
#
# ## 6.7 Where it fails
#
# The objective has many local minima, and the groups need not be things. First a mosaic of four textures, for which we know the right answer and can count.
#
# **Predict:** which comes nearest to the known answer: the recipe, the recipe from random memberships, or the recipe with the truncated code lengths?
#
# <details><summary>Answer</summary>
#
# The recipe from k-means, hardly better than k-means itself. Random starts get stuck in worse minima. The truncated lengths have the wrong sign and lose part of what the start knew.
#
# </details>

# %% tags=["hide-input"]
# a mosaic of sky, trees, blossom and leaves, and six ways to group its 3969 patches
import numpy as np

mosaic = np.vstack([np.hstack([china[:128, 380:508], china[-128:, :128]]), np.hstack([flower[150:278, 210:338], flower[20:148, 20:148]])])
x_m, grid_m = photos.tokens(mosaic)
rows, columns = torch.meshgrid(*(4 * torch.arange(g) + 4 >= 128 for g in grid_m), indexing="ij")
truth = (2 * rows + columns).flatten()                                   # (N,), by the centre of the patch


def accuracy(Pi):
    return (matched(Pi, truth).argmax(0) == truth).double().mean().item()  # under the best naming of the groups


def random_start(seed):
    labels = torch.randint(4, (1, len(x_m)), generator=torch.Generator().manual_seed(seed))
    return torch.full((4, len(x_m)), 0.1 / 3).scatter(0, labels, 0.9)


kmeans = photos.start(x_m, 4)
good = photos.group(x_m, Pi=kmeans)
w_m = project(x_m, good.U)                                               # the recipe's own frames
ways = {"k-means": kmeans, "recipe": good.Pi, "random start": photos.group(x_m, Pi=random_start(0), steps=40).Pi,
        "truncated": photos.group(x_m, Pi=kmeans, corrected=False).Pi, "energy": memberships(w_m, 1.0), "published": published(w_m, 1.0)}
again = [accuracy(photos.group(x_m, Pi=random_start(seed), steps=40).Pi) for seed in (1, 2)]  # two more random starts

# %% tags=["hide-input"]
# figure: the mosaic's groups, in the colours of the truth; then two pictures full of people
panels = [mosaic, strongest(torch.nn.functional.one_hot(truth).T, grid_m), *(strongest(matched(Pi, truth), grid_m) for Pi in ways.values())]
titles = ["mosaic", "the truth"] + [f"{name}: {100 * accuracy(Pi):.0f} % right" for name, Pi in ways.items()]
show(plots.pictures(panels, titles, size=2.4),
     alt="A mosaic of sky, trees, blossom and leaves, its four squares as the truth, and six group maps in the same colours: "
         "k-means and the recipe show the four squares, the others mix them",
     digest=f"{len(x_m)} tokens, chance 25 %; right: " + ", ".join(f"{name} {100 * accuracy(Pi):.0f} %" for name, Pi in ways.items())
            + "; two more random starts " + " and ".join(f"{100 * a:.0f} %" for a in again))
crowd, shares = [], []
for name in ("bus", "zidane"):
    x_c, grid_c = photos.tokens(photos.sample(name), longest=320)
    Pi_c = photos.group(x_c).Pi
    crowd += [photos.sample(name, 320), strongest(Pi_c, grid_c)]
    shares.append(", ".join(f"{100 * v:.0f} %" for v in Pi_c.mean(1).sort().values))
show(plots.pictures(crowd, ["street", "its groups", "two men", "their groups"], size=2.4),
     alt="A street and two men, whose groups are edges and flat areas, not people", digest=f"shares of the groups: street {shares[0]}; two men {shares[1]}")

# %% [markdown]
# The corrected rule keeps what a good start knows and tidies it up; it does not discover it. The energy rule and the published logits, *with the very same frames*, are worse: the energy rule because (6.4) assumes equally wide groups, and these are not; the published logits because they divide the energy out. And on a street there are no people among the groups: raw patches know edges, flatness and colour. A network that learns its tokens may do better; $\Pi$ alone does not segment an image into things.
#
# Last, choose the rule, the number of groups and the temperature yourself, and watch map and objective change.

# %% tags=["nbval-ignore-output"]
x_e, grid_e = photos.tokens(flower, d=8, longest=240)
groups = {K: photos.group(x_e, K=K)[:2] for K in (2, 3, 4, 5)}
Explorer(photos.load_image(flower, 400) / 255, x_e, grid_e, groups, eps2=0.002, eta=0.02)

# %% [markdown]
# ## Takeaways
#
# - The softmax of energies over the groups is the exact posterior of a mixture of subspaces, at $\eta = \sigma^2(\lambda + \sigma^2)/\lambda$.
# - Complete frames see equal energy everywhere: memberships need $p < d$, the bound of lesson 4 needs $p = d$. The corrected bound reconciles them: for groups with equal statistics it asks for the same softmax.
# - The truncated objective asks for the opposite: it sends tokens to the group that does not see them.
# - The published layer normalises over tokens. Its logits have the mean $\theta p/n$: blank maps at the start, and maps that change with the image size. Root mean squares cure the second.
# - On photographs, frames and memberships in turns lower one objective and find textures. They need a good start and find no objects.

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself.
#
# ### Inverse and determinant
#
# The covariance (6.2) has only two eigenvalues: $\lambda + \sigma^2$ ($p$ times, inside) and $\sigma^2$ ($d - p$ times, outside). Invert each, multiply them all:
#
# $$
# \Sigma_k^{-1} = \frac{1}{\sigma^2} \left( I - \frac{\lambda}{\lambda + \sigma^2}\, U_k U_k^\top \right), \qquad
# \ln \det \Sigma_k = p \ln(\lambda + \sigma^2) + (d - p) \ln \sigma^2 \tag{6.3}
# $$
#
# *(6.3) Checked. Inverse and determinant of such a covariance — textbook linear algebra*
#
# So all groups have the same determinant, and $-\frac12 z_j^\top \Sigma_k^{-1} z_j$ holds the energy times $\lambda/2\sigma^2(\lambda + \sigma^2)$, as (6.4) needs.

# %% tags=["hide-input"]
# check of (6.3), and new numbers for the items below
K, d, p, lam, sigma2 = 3, 8, 2, 2.0, 0.1
U = torch.linalg.qr(torch.randn(K, d, p))[0]                             # (K, d, p)
Sigma = lam * U @ U.mT + sigma2 * torch.eye(d)                           # (K, d, d)
inverse = (torch.eye(d) - lam / (lam + sigma2) * U @ U.mT) / sigma2
logdet = torch.full((K,), p * math.log(lam + sigma2) + (d - p) * math.log(sigma2))
check("6.3", torch.cat([inverse.flatten(), logdet]), torch.cat([Sigma.inverse().flatten(), Sigma.logdet()]), "closed forms against LAPACK")

# %% [markdown]
# ### The noise level is not the temperature
#
# By (6.4), $\eta = \sigma^2(1 + \sigma^2/\lambda)$: the noise level itself only for a strong signal. And what if the signal is not round inside, but has a different variance in each direction, the same in all groups? Then no temperature is exact.

# %% tags=["hide-input"]
# the largest error of Π with η = σ², and with the best of 40 temperatures where the signal is not round
for ratio in (1, 10, 100):
    x_r, _ = draw(300, U, 1.0, 1 / ratio)
    exact, rough = (memberships(project(x_r, U), e) for e in ((1 + 1 / ratio) / ratio, 1 / ratio))
    print(f"λ/σ² = {ratio:3d}: largest error of Π with η = σ² is {(exact - rough).abs().max():.3f}")
spectrum = torch.tensor([2.0, 0.02])                                     # λ₁, λ₂ in every group, σ² = 0.1
wide = torch.distributions.MultivariateNormal(torch.zeros(d), U * spectrum @ U.mT + sigma2 * torch.eye(d))
x_w = wide.sample((100,)).flatten(0, 1)                                  # (N, d)
best = wide.log_prob(x_w[:, None]).softmax(1).T
off = [(memberships(project(x_w, U), float(e)) - best).abs().max() for e in torch.logspace(-2, 0, 40)]
print(f"variances 2 and 0.02: the best of 40 temperatures still errs by {min(off):.2f} at its worst token")

# %% [markdown]
# **Exercise 6c. The exact posterior.** Write the function that gives one token's posterior from frames, $\lambda$ and $\sigma^2$. Try it on two lines in the plane, at 0° and 60°, $\lambda = 1$, $\sigma^2 = 0.1$, and $z = (2, \tfrac12)$.

# %%
def posterior_of(z, U, lam, sigma2):                                     # z (d,), U (K, d, p) → (K,)
    return ...  # your turn


exercise("6c", posterior_of)

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
# ### From hard to soft
#
# How decided a token is, as one number:
#
# $$
# \frac{H(\pi_j)}{\ln K} = -\frac{1}{\ln K} \sum_{k} \pi_{jk} \ln \pi_{jk} \;\in\; [0, 1] \tag{6.5}
# $$
#
# *(6.5) Checked. Normalised entropy of a token's memberships: 0 is hard, 1 is uniform, and nothing lies outside — Shannon 1948*
#
# Here it is for the six tokens, over four powers of ten of the temperature. Long tokens stay decided for longer.

# %% tags=["hide-input"]
# check of (6.5): both ends are reached; figure: entropy of the six tokens over the temperature
ends = torch.tensor([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])  # a hard token and a uniform one
tables = [(temp * torch.randn(groups, 9)).softmax(0) for groups in (2, 3, 7) for temp in (0.1, 1.0, 10.0)]
check_below("6.5", lambda Pi: torch.stack([-entropy(Pi).min(), entropy(Pi).max()]), lambda Pi: torch.tensor([0.0, 1.0]),
            "least (sign turned) and largest entropy of a table", draws=tables, equal=(ends,))
etas = torch.logspace(-2, 2, 81)
curves = torch.stack([entropy(memberships(project(six, U3), float(e))) for e in etas])  # (81, N)
fig = plots.lines(etas, dict(zip("abcdef", curves.T)), title="From hard to soft: six tokens, three groups", xscale="log",
                  xlabel="temperature η (squared length of a token)", ylabel="normalised entropy of Π")
show(fig, alt="Six rising curves from 0 to 1; the long tokens a, b and d rise later than the short ones",
     digest="half way at η = " + ", ".join(f"{etas[(c > 0.5).nonzero()[0, 0]]:.2f} ({name})" for name, c in zip("abcdef", curves.T)))

# %% [markdown]
# ### Close to uniform
#
# Expand the exponential for large $\eta$, with the energies $E_{jk} = \lVert U_k^\top z_j \rVert^2$:
#
# $$
# K \pi_{jk} - 1 = \frac{1}{2\eta} \left( E_{jk} - \frac{1}{K} \sum_{l} E_{jl} \right) + O(\eta^{-2}) \tag{6.6}
# $$
#
# *(6.6) Checked. Warm memberships tell only how far an energy is from the mean over groups — this series*
#
# So when the spread of the logits over the groups is small, the maps are blank up to that spread.

# %% tags=["hide-input"]
# check of (6.6), at a temperature so high that the rest is a millionth
x, _ = draw(300, U, 1.0, sigma2)
E, hot = (project(x, U) ** 2).sum(-1), 1e7                               # (K, N)
check("6.6", 2 * hot * (K * memberships(project(x, U), hot) - 1), E - E.mean(0), "expansion at η = 10⁷", REACHED)

# %% [markdown]
# ### One temperature found twice
#
# The temperature of (6.9) is a posterior's: that of the tokens as the code sees them. The rate adds noise of variance $\varepsilon^2/d$ to each coordinate, so $\sigma^2$ has to include this noise: $\rho + \varepsilon^2/d$ stands for $\sigma^2$, and $s + \varepsilon^2/d$ for $\lambda + \sigma^2$. (If the tokens themselves are drawn from (6.2), $\rho = \sigma^2$; then $\eta_{\mathrm{eff}}$ is larger than $\eta$ and tends to it as $\varepsilon \to 0$.)
#
# $$
# \rho + \frac{\varepsilon^2}{d} = \sigma^2, \quad s + \frac{\varepsilon^2}{d} = \lambda + \sigma^2 \quad \Longrightarrow \quad
# \eta_{\mathrm{eff}} = \frac{\sigma^2(\lambda + \sigma^2)}{\lambda} = \eta \tag{6.10}
# $$
#
# *(6.10) Checked. Bayes' rule and the corrected objective agree, temperature included — this series*

# %% tags=["hide-input"]
# check of (6.10): code lengths with the true statistics, ε²/d = coded being part of the noise σ²
def lengths_of_the_mixture(coded):
    w2 = project(x, U) ** 2                                              # (K, N, p)
    off = (x ** 2).sum(1) - w2.sum(-1)                                   # (K, N), energy off the frame
    s, rho = torch.full((K, p), 1.0 + sigma2 - coded), torch.full((K,), sigma2 - coded)
    return inside(w2, s, 1 / coded) + outside(off, rho, d - p, 1 / coded)


density = torch.distributions.MultivariateNormal(torch.zeros(d), U @ U.mT + sigma2 * torch.eye(d))
posterior = density.log_prob(x[:, None]).softmax(1).T                    # (K, N), over the groups
bayes = torch.stack([(-lengths_of_the_mixture(coded) / 2).softmax(0) for coded in (0.01, 0.05, 0.09)])
check("6.10", bayes, posterior.expand(3, -1, -1), "corrected code lengths against Bayes' rule, three precisions")

# %% [markdown]
# **Exercise 6d. The objective's temperature.** Groups have mean second moment `s` inside their frames and residual variance `rho` outside, and the rate codes to precision `eps2` in `d` dimensions. At which temperature is the energy rule the one that the corrected objective wants?

# %%
def effective_eta(s, rho, eps2, d):
    return ...  # your turn


exercise("6d", effective_eta)

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
#
# ### Published logits are leverages
#
# If the coordinates of a head are uncorrelated over the tokens, $a_{jk}/\theta_k$ is the *leverage* of token $j$: the diagonal of the matrix that projects onto the head's coordinates, a number between 0 and 1 that is large for tokens far from the crowd.
#
# $$
# \frac{a_{jk}}{\theta_k} = \left[ w_k^\top \left( w_k w_k^\top \right)^{-1} w_k \right]_{jj} \quad \text{if } w_k w_k^\top \text{ is diagonal} \tag{6.14}
# $$
#
# *(6.14) Checked. Published logits are leverages — this series*

# %% tags=["hide-input"]
# check of (6.14)
apart = torch.linalg.qr(w)[0] * torch.tensor([3.0, 2.0, 1.0, 0.5])       # uncorrelated over tokens, any lengths
projector = apart @ torch.linalg.pinv(apart)                             # (K, N, N)
check("6.14", published_logits(apart, theta) / theta, torch.diagonal(projector, 0, 1, 2), "diagonal of the projector")

# %% [markdown]
# ### Memberships fade with the number of tokens
#
# The published logits have a fixed sum. With $m$ copies of every token each square is divided by an $m$ times larger sum:
#
# $$
# a_{jk}\left([Z, \dots, Z]\right) = \frac{1}{m}\, a_{jk}(Z) \tag{6.15}
# $$
#
# *(6.15) Checked. With m copies of every token the published logits shrink m-fold, so θ has to grow m-fold — this series*
#
# Multiplied by $n/p$, they stay:
#
# $$
# a_{jk}^{\mathrm{rms}} = \frac{n}{p}\, a_{jk}, \qquad a_{jk}^{\mathrm{rms}}\left([Z, \dots, Z]\right) = a_{jk}^{\mathrm{rms}}(Z) \tag{6.16}
# $$
#
# *(6.16) Checked. Normalised by root mean squares, memberships do not depend on resolution — this series · `tssa.memberships`*

# %% tags=["hide-input"]
# check of (6.15) and (6.16): four copies of each token
copies = w.repeat(1, 4, 1)                                               # twice the height and width
check("6.15", published_logits(copies, theta)[:, :40], published_logits(w, theta) / 4, "four copies of each token")
rms = (40 / w.shape[2] * published_logits(w, theta)).softmax(0)
check("6.16", tssa.memberships(copies, theta, "rms")[:, :40], rms, "four copies, rms logits")
change = published(copies, 20.0)[:, :40] - published(w, 20.0)
print(f"at θ = 20 the four copies change the published Π by up to {change.abs().max():.2f}")

# %% [markdown]
# **Exercise 6e. A larger picture.** The published layer was trained on images of a given size with `temp` $\theta$. Now each side of the image is `factor` times as long. Which $\theta$ keeps the memberships?

# %%
def new_theta(theta, factor):
    return ...  # your turn


exercise("6e", new_theta)

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
# The patches of the blossom, more and more of them, in the four frames that the recipe found: how far are the memberships from uniform?

# %% tags=["hide-input"]
# figure: mean |KΠ − 1| over the number of tokens
x, counts = photos.tokens(flower)[0], (256, 64, 16, 4, 1)
rules = {"published, θ = 1": (1.0, "tokens"), "published, θ = 50": (50.0, "tokens"), "rms, θ = 1": (1.0, "rms")}
away = {name: [(4 * tssa.memberships(project(x[::m], found.U), *rule) - 1).abs().mean() for m in counts] for name, rule in rules.items()}
fig = plots.lines([len(x[::m]) for m in counts], away, title="Memberships fade with the number of tokens", xlabel="tokens n", xscale="log",
                  yscale="log", ylabel="mean |KΠ − 1|", markers=True)
show(fig, alt="Log–log plot: both published curves fall with the number of tokens, the one for θ = 50 fifty times "
              "higher at the end; the rms curve is flat",
     digest="mean |KΠ − 1| at 9401 tokens: " + ", ".join(f"{name}: {v[-1]:.1g}" for name, v in away.items()))

# %% [markdown]
# ### Why the recipe goes down
#
# **Memberships.** Multiply the tangent of $f$ at $s_{ki}$ with the new mass of group $k$, as lesson 5 did for (5.27), and the same at $\rho_k$: the corrected rate lies below its tangent in $\Pi$, whose slope is $T$ by (6.8).
#
# $$
# R_c^{\mathrm{corr}}(\Pi^{+}) \;\le\; R_c^{\mathrm{corr}}(\Pi) + \frac{1}{2n} \sum_{j,k} T_{jk}^{\mathrm{corr}} \left( \pi_{jk}^{+} - \pi_{jk} \right) \tag{6.17}
# $$
#
# *(6.17) Checked. The corrected rate lies below its tangent in Π — this series*
#
# Together with (6.18): $\Pi \leftarrow \mathrm{softmax}_k(-T/2)$ never raises $R_c^{\mathrm{corr}} - \frac1n \sum_j H(\pi_j)$.
#
# **Frames.** With $\Pi$ fixed, each group wants the frame that makes its own code cheapest. Compare two frames by their lists of variances, $(s_1, \dots, s_p, \rho, \dots, \rho)$. If every $s_i \ge \rho$, the list of the $p$ strongest eigenvectors majorises the other one: its sums of the largest entries are at least as large, the total is the same. A sum of concave functions is then smaller: that is Karamata's inequality, lesson 4's averaging step in general form. (To majorise is meant here for lists of numbers; it is not the majoriser of lesson 5.)
#
# $$
# \sum_{i=1}^{p} f(\lambda_i) + (d - p) f\left(\rho^{+}\right) \;\le\; \sum_{i=1}^{p} f(s_i) + (d - p) f(\rho)
# \quad \text{if every } s_i \ge \rho \tag{6.19}
# $$
#
# *(6.19) Checked. The p strongest eigenvectors (eigenvalues λ₁ ≥ λ₂ ≥ …, mean of the rest ρ⁺) beat every frame whose directions are stronger than the rest — this series · `photos.group`*

# %% tags=["hide-input"]
# check of (6.17): tight where all tokens have the same squares, so that only the groups' sizes count
def corrected_rate(x, U, Pi):
    return rates.variational_rate(x, Pi, U, 0.002, corrected=True)


def tangent(x, U, old, new):
    T = rates.code_lengths(x, old, U, 0.002, corrected=True)             # (K, N)
    return corrected_rate(x, U, old) + (T * (new - old)).sum() / (2 * len(x))


near = [(here.log() + 0.05 * torch.randn(4, 200)).softmax(0) for _ in range(20)]  # over the groups
mirrored = 0.8 ** torch.arange(16.0) * torch.randn(200, 16).sign()       # one token, mirrored along the axes
axes = torch.stack([torch.eye(16)[:, k:k + 4] for k in (0, 3, 7, 12)])   # (K, d, p), frames of different energy
check_below("6.17", lambda x, U, old, new: corrected_rate(x, U, new), tangent, "70 tables against the tangent",
            draws=[(y, found.U, here, P) for P in (*other, *near)], equal=(mirrored, axes, here, other[0]))

# %% tags=["hide-input"]
# check of (6.19) on a falling spectrum, like a photograph's
S, c = torch.diag(0.7 ** torch.arange(16.0)), 16 / 0.002


def frame_variances(U):                                                  # U (d, p) → s (p,), ρ
    s = torch.einsum("dp,de,ep->p", U, S, U)
    return s, (S.trace() - s.sum()) / (16 - U.shape[1])


def frame_cost(U):
    s, rho = frame_variances(U)
    return torch.log1p(c * s).sum() + (16 - U.shape[1]) * torch.log1p(c * rho)


def least_cost(U):
    eigenvalues = torch.linalg.eigvalsh(S).flip(0)                       # falling
    inside, rest = eigenvalues[:U.shape[1]], eigenvalues[U.shape[1]:]
    return torch.log1p(c * inside).sum() + len(rest) * torch.log1p(c * rest.mean())


mixes = torch.logspace(-3, 1, 400)[:, None, None] * torch.eye(16) + S    # from strong directions to any
frames = [(U,) for U in torch.linalg.qr(mixes @ torch.randn(400, 16, 4))[0]]
allowed = [(U,) for (U,) in frames if frame_variances(U)[0].min() >= frame_variances(U)[1]]  # every direction stronger than the rest
check_below("6.19", least_cost, frame_cost, "random frames", draws=allowed, equal=(torch.eye(16)[:, :4],))

# %% [markdown]
# The condition is needed. If the two strongest variances are equal, a group may do better to leave *them* to the mean, which costs nothing, and to keep a weak direction that differs from the rest:

# %%
def price(*variances):
    return torch.log1p(320 * torch.tensor(variances)).sum()


print("variances 1, 1, 0.1, 0.001 and a frame of two: "
      f"keep the strongest {price(1, 1, 0.0505, 0.0505):.2f}, keep the weakest {price(0.1, 0.001, 1, 1):.2f}")

# %% [markdown]
# On photographs the spectra fall steeply, and the strongest directions are the ones to keep. The figure counts how often the objective rises.

# %% tags=["hide-input"]
# figure: the objective over the turns
falls = {name: torch.tensor(r.objective) for name, r in (("flower", found), ("china", found_china))}
fig = plots.lines(range(1, 40), {name: v[:39] - v[-1] for name, v in falls.items()}, yscale="log",
                  title="The objective falls at every turn", xlabel="turn", ylabel="nats a token above the last value")
rises = {name: int((v.diff() > 1e-9).sum()) for name, v in falls.items()}
show(fig, alt="Two curves on a logarithmic scale that fall at every turn, from about two nats to less than a thousandth",
     digest=", ".join(f"{name} from {v[0]:.2f} to {v[-1]:.2f} nats, {rises[name]} rises" for name, v in falls.items()))

# %% [markdown]
# ### Precision as a knob
#
# At coarse precision tokens cannot be told apart: when $\varepsilon^2$ approaches the size of the tokens themselves, the groups merge and all maps turn blank. Below, the map of the group that holds the middle of the blossom, at four precisions (the tokens have mean squared length one).

# %% tags=["hide-input"]
# figure: the blossom's group at four precisions
x_small, grid_small = photos.tokens(flower, longest=320)
tries = {e: photos.group(x_small, eps2=e) for e in (0.0005, 0.002, 0.05, 2.0)}
doubt = {e: entropy(r.Pi).mean().item() for e, r in tries.items()}
middle = grid_small[0] // 2 * grid_small[1] + grid_small[1] // 2         # a token of the blossom
maps = [r.Pi[r.Pi[:, middle].argmax()].view(grid_small) for r in tries.values()]
titles = [f"ε² = {e}, entropy {h:.2f}" for e, h in doubt.items()]
show(plots.pictures(maps, titles, size=2.6, unit="membership π", vmin=0, vmax=1),
     alt="Four maps of the group that holds the middle of the blossom: crisp at the first two precisions, softer and "
         "smaller at the third, an even grey at the last",
     digest=", ".join(f"ε² = {e}: entropy {h:.2f}" for e, h in doubt.items()))

# %% [markdown]
# ## Sources
#
# - Z. Wu et al., *Token Statistics Transformer*, 2024, arXiv 2412.17810 (its Eq. 10 is our (6.1)), and its published code
# - M. Tipping, C. Bishop, *Mixtures of probabilistic principal component analysers*, Neural Computation 11, 1999
# - D. Hoaglin, R. Welsch, *The hat matrix in regression and ANOVA*, The American Statistician 32, 1978 (leverage)
# - The sign of the truncated code length, (6.9) to (6.11), (6.15), (6.16) and (6.19) are this series' own
# - Photographs: `flower.jpg` (vultilion) and `china.jpg` (danielbuechele), Flickr, CC BY 2.0; `bus.jpg` and `zidane.jpg` from Ultralytics
#
# [◀ previous](05_tssa_update.ipynb) · [contents](00_start_here.ipynb) · [next ▶](07_the_layer.ipynb)
