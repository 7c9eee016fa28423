"""Exercises of lesson 5: right answers, typical wrong ones, and what went wrong in them."""

import torch

from kit import Exercise


def _t(*values):
    return torch.tensor(values, dtype=torch.float64)


_x = torch.tensor(
    [[2.0, 0.1, 0.3], [-1.5, 0.2, 0.1], [1.0, -0.1, 0.6], [0.1, 1.5, 0.2], [-0.2, -1.0, 0.5], [0.1, -0.8, 0.4]],
    dtype=torch.float64,
)
_Pi = torch.tensor([[0.9, 0.8, 0.9, 0.3, 0.1, 0.2], [0.1, 0.2, 0.1, 0.7, 0.9, 0.8]], dtype=torch.float64)
_U = torch.tensor([[[1, 0], [0, 0], [0, 1]], [[0, 0], [1, 0], [0, 1]]], dtype=torch.float64)  # (K, d, p) = (2, 3, 2)
_full = torch.stack([torch.eye(3), torch.eye(3).roll(1, 0)]).double()
_tilted = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
_mixed = _x * _t(1.0, 4.0, 1.0)
_gates = torch.tensor([[0.5, 0.2], [0.9, 0.8]], dtype=torch.float64)
_uneven = torch.tensor([[0.5, 0.9, 0.3], [0.95, 0.1, 0.6]], dtype=torch.float64)


def _project(x, U):
    return torch.einsum("nd,kdp->knp", x, U)


_w, _w_mixed = _project(_x, _U), _project(_mixed, _tilted)


def _moments(w, Pi):
    return (Pi[..., None] * w**2).sum(1) / Pi.sum(1)[:, None]


def _update(x, Pi, U, eps2, t, *, c=None, moments=_moments, sign=-1, weight=None, gate=None):
    """(5.5), with one piece at a time replaced."""
    w, c = _project(x, U), x.shape[1] / eps2 if c is None else c
    s = moments(w, Pi)
    D = c / (1 + c * s) if gate is None else gate(s, c)
    return sign * t * torch.einsum("kdp,kp,knp,kn->nd", U, D, w, Pi if weight is None else weight(Pi))


def _curvature(Pi, U, D):
    return torch.linalg.eigvalsh(torch.einsum("kn,kdp,kp,kep->nde", Pi, U, D, U))[:, -1]


def _prices(x, Pi, U, eps2, *, c=None, tangent=True, slope=1):
    w2, c = _project(x, U) ** 2, x.shape[1] / eps2 if c is None else c
    s = _moments(w2.sqrt(), Pi)[:, None]
    f, D = torch.log1p(c * s), c / (1 + c * s)
    return (f + slope * D * (w2 - s) if tangent else f + D * w2).sum(-1)


EXERCISES = [
    Exercise(
        id="5a",
        hint="weight the squares with Pi, sum over the tokens (axis 1 of w), divide by each group's n_k.",
        inputs=[(_w, _Pi), (_w_mixed, _Pi), (_project(_mixed[:4], _U), _Pi[:, :4] / 2)],
        right=_moments,
        wrong={
            "you divided by the number of tokens; a group's moment is a mean over its members, n_k = Σ_j π_jk.": lambda w, Pi: (
                (Pi[..., None] * w**2).mean(1)
            ),
            "you left out the division by n_k: this is the sum, not the mean.": lambda w, Pi: (
                Pi[..., None] * w**2
            ).sum(1),
            "the memberships are missing: every token was counted in full in every group.": lambda w, Pi: (w**2).mean(
                1
            ),
            "Pi went inside the square: the weight of a token is π, not π².": lambda w, Pi: (
                (Pi[..., None] * w).square().sum(1) / Pi.sum(1)[:, None]
            ),
            "the square is missing: these are means, not second moments.": lambda w, Pi: (
                (Pi[..., None] * w).sum(1) / Pi.sum(1)[:, None]
            ),
            "the sum ran over the coordinates (axis 2 of w): it goes over the tokens, axis 1.": lambda w, Pi: (
                (Pi[..., None] * w**2).sum(2) / Pi.sum(1)[:, None]
            ),
        },
        forbidden={"second_moments": "it is the function to be written"},
    ),
    Exercise(
        id="5b",
        hint="project with U, moments as in 5a, D = c/(1 + cs) with c = d/eps2, then −t Σ_k U_k D_k U_kᵀ z_j π_jk.",
        inputs=[(_x, _Pi, _U, 0.5, 0.3), (_mixed, _Pi, _tilted, 0.2, 0.05)],
        right=_update,
        wrong={
            "the sign: the step goes against the gradient.": lambda *a: _update(*a, sign=1),
            "1/(1 + s) is the gate for c = 1; here c = d/ε².": lambda *a: _update(*a, c=1.0),
            "c is d/ε², with d the width of a token, not the width of a head.": lambda x, Pi, U, eps2, t: _update(
                x, Pi, U, eps2, t, c=U.shape[2] / eps2
            ),
            "the gate is the slope c/(1 + cs); you used 1/(1 + cs).": lambda *a: _update(
                *a, gate=lambda s, c: 1 / (1 + c * s)
            ),
            "the memberships are missing in the update: each head moves a token by its share π_jk.": lambda *a: _update(
                *a, weight=torch.ones_like
            ),
            "the moments lack their n_k: they are means over the members of a group.": lambda *a: _update(
                *a, moments=lambda w, Pi: (Pi[..., None] * w**2).mean(1)
            ),
            "the moments lack the memberships: group k counts token j with weight π_jk.": lambda *a: _update(
                *a, moments=lambda w, Pi: (w**2).mean(1)
            ),
            "you divided by n once more: t = τ/n holds the 1/n already.": lambda x, Pi, U, eps2, t: (
                _update(x, Pi, U, eps2, t) / len(x)
            ),
            "this is the new place of the tokens; the update is only the step.": lambda x, *a: x + _update(x, *a),
        },
        forbidden={
            "tssa_update": "it is the function to be written",
            "variational_rate_grad": "build the step from the gates",
        },
    ),
    Exercise(
        id="5c",
        hint="build every A_j by (5.7); which of their largest eigenvalues decides for all tokens together?",
        inputs=[(_Pi, _U, _gates), (_Pi[:, :4], _tilted, _uneven), (_Pi / 2, _full, _uneven * 20)],
        right=lambda Pi, U, D: 2 / _curvature(Pi, U, D).max(),
        wrong={
            "2/max D is safe, but not the longest: the memberships make A_j smaller.": lambda Pi, U, D: 2 / D.max(),
            "1/max ‖A_j‖ is where the promise is largest; the step stays safe for twice as long.": lambda Pi, U, D: (
                1 / _curvature(Pi, U, D).max()
            ),
            "you took the token with the smallest curvature: its step is too long for the others.": lambda Pi, U, D: (
                2 / _curvature(Pi, U, D).min()
            ),
            "one limit a token came back; all tokens together need the smallest.": lambda Pi, U, D: (
                2 / _curvature(Pi, U, D)
            ),
            "the memberships are missing in A_j.": lambda Pi, U, D: 2 / _curvature(torch.ones_like(Pi), U, D).max(),
        },
        forbidden={"largest_safe_gamma": "it is the function to be written"},
    ),
    Exercise(
        id="5d",
        hint="with one group and one direction, A in z⁺ = z − tAz is the number D = c/(1 + cs).",
        inputs=[(0.5, 4.0, 0.25), (2.0, 1.0, 1.0), (0.1, 3.0, 0.8)],
        right=lambda s, c, t: 1 - t * c / (1 + c * s),
        wrong={
            "this is the factor of the second moment; the tokens themselves are multiplied by its root, 1 − tD.": lambda s, c, t: (
                (1 - t * c / (1 + c * s)) ** 2
            ),
            "the sign: the step goes against the gradient, so the factor is below one.": lambda s, c, t: (
                1 + t * c / (1 + c * s)
            ),
            "this is the change, not the factor: the residual update keeps the token and adds the step.": lambda s, c, t: (
                -t * c / (1 + c * s)
            ),
            "1/(1 + s) is the gate for c = 1; in general it is c/(1 + cs).": lambda s, c, t: 1 - t / (1 + s),
        },
    ),
    Exercise(
        id="5e",
        hint="write the gain as signal/(signal + noise), with s = signal + noise.",
        inputs=[(_t(1.0, 0.3, 0.01), 0.5, 4), (_t(2.0, 0.05), 0.2, 2)],
        right=lambda s, eps2, d: (1 - eps2 / d / s).clamp_min(0),
        wrong={
            "this is TSSA's own gain: it takes s for the variance of the signal, but s contains the noise already.": lambda s, eps2, d: (
                s / (s + eps2 / d)
            ),
            "a small sample can give s < ε²/d, and then your gain is negative; the variance of a signal is not.": lambda s, eps2, d: (
                1 - eps2 / d / s
            ),
            "ε² is the noise of all coordinates together; one coordinate has ε²/d.": lambda s, eps2, d: (
                1 - eps2 / s
            ).clamp_min(0),
        },
    ),
    Exercise(
        id="5f",
        hint="moments s as in 5a, then f(s) + f'(s)(w² − s) for each coordinate, summed over the coordinates.",
        inputs=[(_x, _Pi, _full, 0.5), (_mixed, _Pi, _U, 0.2)],
        right=_prices,
        forbidden={"code_lengths": "write the sum yourself", "grad": "write the derivative yourself"},
        wrong={
            "the −f's is missing: the tangent starts at f(s) and counts the distance w² − s.": lambda *a: _prices(
                *a, tangent=False
            ),
            "c is d/ε², not 1.": lambda *a: _prices(*a, c=1.0),
            "c is d/ε², with d the width of a token, not the width of a head.": lambda x, Pi, U, eps2: _prices(
                x, Pi, U, eps2, c=U.shape[2] / eps2
            ),
            "the moments come from hardened memberships: T is taken at the soft Π itself.": lambda x, Pi, U, eps2: (
                _prices(x, torch.nn.functional.one_hot(Pi.argmax(0), len(Pi)).T.double(), U, eps2)
            ),
            "this is T/2, the price in nats; T itself is twice that.": lambda *a: _prices(*a) / 2,
            "the slope is missing: you summed f(s) alone, the same for all tokens.": lambda *a: _prices(*a, slope=0),
            "the sign of the tangent is turned: energy beyond s costs.": lambda *a: _prices(*a, slope=-1),
        },
    ),
]
