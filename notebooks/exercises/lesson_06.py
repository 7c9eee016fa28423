"""Exercises of lesson 6: memberships and the published rule, the exact posterior, the objective's temperature, resolution."""

import torch

from kit import Exercise


def _lines(*degrees: float) -> torch.Tensor:
    a = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([a.cos(), a.sin()], -1)[..., None]


def _posterior(z, U, lam, sigma2, power=2, half=2.0, eta=None):
    eta = sigma2 * (lam + sigma2) / lam if eta is None else eta
    energy = torch.einsum("d,kdp->kp", z, U).square().sum(-1) ** (power / 2)
    return (energy / (half * eta)).softmax(0)


def _w(K: int, N: int, p: int) -> torch.Tensor:
    return torch.randn(K, N, p, generator=torch.Generator().manual_seed(10 * K + p), dtype=torch.float64)


def _memberships(w, eta, *, power=2, half=2.0, axis=0, sign=1):
    return (sign * (w**2).sum(-1) ** (power / 2) / (half * eta)).softmax(axis)


def _published(w, theta, *, norm=1, axis=0, root=False, mean=False):
    size = (w**2).sum(norm, keepdim=True)
    share = w**2 / (size.sqrt() if root else size)
    return ((share.mean(-1) if mean else share.sum(-1)) * theta).softmax(axis)


_theta = torch.tensor([[1.0], [20.0], [5.0]], dtype=torch.float64)

EXERCISES = [
    Exercise(
        id="6a",
        hint="squares, summed over the coordinates of a frame; over 2η; one softmax over the groups.",
        inputs=[(_w(3, 5, 2), 0.7), (_w(2, 4, 3), 2.0)],
        right=_memberships,
        wrong={
            "your softmax runs over the tokens: each token shares itself out over the groups, axis 0.": lambda w, eta: (
                _memberships(w, eta, axis=1)
            ),
            "the exponent is energy over 2η: the factor ½ is missing.": lambda w, eta: _memberships(w, eta, half=1.0),
            "you took the length of the shadow; the energy is its square.": lambda w, eta: _memberships(
                w, eta, power=1
            ),
            "a mean over the coordinates: the energy is the sum of their squares.": lambda w, eta: _memberships(
                w, eta * w.shape[-1]
            ),
            "η is squared: it stands in (6.1) as it is, like a variance.": lambda w, eta: _memberships(w, eta**2),
            "the temperature is missing: divide the energy by 2η.": lambda w, eta: _memberships(w, 0.5),
            "you multiplied by 2η; a higher temperature makes memberships softer.": lambda w, eta: _memberships(
                w, 1 / (4 * eta)
            ),
            "the sign: more energy in a frame means more membership.": lambda w, eta: _memberships(w, eta, sign=-1),
            "these are shares of the energy, not a softmax: exponentials are missing.": lambda w, eta: (
                (w**2).sum(-1) / (w**2).sum((0, 2))
            ),
        },
    ),
    Exercise(
        id="6b",
        hint="divide the squares by their sum over the tokens (axis 1), sum over the coordinates, times θ, softmax over the heads.",
        inputs=[(_w(3, 6, 2), _theta), (_w(2, 5, 4), 30.0)],
        right=_published,
        wrong={
            "your softmax runs over the tokens; it belongs over the heads, axis 0.": lambda w, theta: _published(
                w, theta, axis=1
            ),
            "you normalised over the coordinates: then all logits are θ. The sum of squares runs over the tokens, axis 1.": lambda w, theta: (
                _published(w, theta, norm=2)
            ),
            "you normalised over the heads; each coordinate is measured against its own sum over the tokens, axis 1.": lambda w, theta: (
                _published(w, theta, norm=0)
            ),
            "you divided the squares by the norm; divide by the norm's square, so that the shares sum to one.": lambda w, theta: (
                _published(w, theta, root=True)
            ),
            "θ is missing.": lambda w, theta: _published(w, 1.0),
            "you divided by a mean over the tokens; (6.12) divides by the sum, so your logits are n times too large.": (
                lambda w, theta: (w**2 / (w**2).mean(1, keepdim=True)).sum(-1).mul(theta).softmax(0)
            ),
            "a mean over the coordinates: (6.12) sums them.": lambda w, theta: _published(w, theta, mean=True),
            "the normaliser is missing: these are the energies of (6.1) times θ.": lambda w, theta: (
                theta * (w**2).sum(-1)
            ).softmax(0),
        },
    ),
    Exercise(
        id="6c",
        hint="compute η from λ and σ² first, then the squared shadows on each frame, then one softmax over the groups.",
        inputs=[
            (torch.tensor([0.6, 0.5], dtype=torch.float64), _lines(0, 60), 1.0, 0.1),
            (torch.tensor([0.3, 0.4], dtype=torch.float64), _lines(0, 60, 100), 0.5, 0.2),
            (torch.tensor([2.0, 0.5], dtype=torch.float64), _lines(0, 60), 1.0, 0.1),
        ],
        right=_posterior,
        wrong={
            "you used η = σ²; that is exact only for a signal much stronger than the noise: η = σ²(λ + σ²)/λ.": lambda z, U, lam, sigma2: (
                _posterior(z, U, lam, sigma2, eta=sigma2)
            ),
            "the exponent is energy over 2η: the factor ½ of the normal density is missing.": lambda z, U, lam, sigma2: (
                _posterior(z, U, lam, sigma2, half=1.0)
            ),
            "you took the length of the shadow; the energy is its square.": lambda z, U, lam, sigma2: _posterior(
                z, U, lam, sigma2, power=1
            ),
        },
    ),
    Exercise(
        id="6d",
        hint="the rate adds noise of variance ε²/d to every coordinate; compare 1/variance outside and inside the frame.",
        inputs=[(1.0, 0.1, 0.5, 8), (0.4, 0.02, 0.1, 16), (2.0, 0.5, 1.0, 4)],
        right=lambda s, rho, eps2, d: 1 / (1 / (rho + eps2 / d) - 1 / (s + eps2 / d)),
        wrong={
            "the noise ε²/d of the code is missing in both variances.": lambda s, rho, eps2, d: 1 / (1 / rho - 1 / s),
            "a negative temperature: that is the truncated objective's wish; outside comes first.": lambda s, rho, eps2, d: (
                1 / (1 / (s + eps2 / d) - 1 / (rho + eps2 / d))
            ),
            "ε² is the noise of all coordinates together; one coordinate has ε²/d.": lambda s, rho, eps2, d: (
                1 / (1 / (rho + eps2) - 1 / (s + eps2))
            ),
            "that is 1/η; invert it.": lambda s, rho, eps2, d: 1 / (rho + eps2 / d) - 1 / (s + eps2 / d),
        },
    ),
    Exercise(
        id="6e",
        hint="how many times more tokens are there when each side is `factor` times as long?",
        inputs=[(1.0, 2), (20.0, 1.5), (5.0, 3)],
        right=lambda theta, factor: theta * factor**2,
        wrong={
            "the tokens grow with the area, not with the side: square the factor.": lambda theta, factor: (
                theta * factor
            ),
            "the other way round: more tokens shrink the logits, so θ must grow.": lambda theta, factor: (
                theta / factor**2
            ),
            "the memberships do change: with more tokens each share of the sum of squares is smaller.": lambda theta, factor: (
                theta
            ),
        },
    ),
]
