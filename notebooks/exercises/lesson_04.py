"""Exercises of lesson 4: second moments, the variational rate, its gates, bits lost, the energy that no head sees."""

import math

import torch

from kit import Exercise

MADE = torch.Generator().manual_seed(4)
W = torch.randn(2, 5, 3, generator=MADE, dtype=torch.float64)  # (K, N, p)
PI = torch.rand(2, 5, generator=MADE, dtype=torch.float64)
PI = PI / PI.sum(0)  # (K, N), groups of different mass
BATCH = torch.rand(4, 2, 5, generator=MADE, dtype=torch.float64).softmax(1)  # (B, K, N)
TOKENS = torch.randn(5, 4, generator=MADE, dtype=torch.float64)  # (N, d)
U = torch.linalg.qr(torch.randn(2, 4, 3, generator=MADE, dtype=torch.float64))[0]  # (K, d, p), p < d


def moments(w, Pi):
    return (Pi[..., None] * w**2).sum(-2) / Pi.sum(-1, keepdim=True)


def rate(x, Pi, U, eps2, half=0.5, c=None, share=None, inside=True):
    w = torch.einsum("nd,kdp->knp", x, U)
    c = x.shape[-1] / eps2 if c is None else c
    share = Pi.sum(-1) / len(x) if share is None else share
    s = moments(w, Pi)
    return half * (share * (torch.log1p(c * s).sum(-1) if inside else torch.log1p(c * s.sum(-1)))).sum(-1)


def _corr(C):
    sd = C.diagonal().sqrt()
    return C / sd[:, None] / sd[None, :]


def _logdet(A):
    return torch.linalg.slogdet(A)[1]


def _lost(x, U):
    return (x**2).sum() - ((x @ U) ** 2).sum()


_C = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.5]], dtype=torch.float64)
_X = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, 1.0, -2.0, 0.3], [2.0, -1.0, 1.0, 1.5]], dtype=torch.float64)
_U = torch.tensor([[0.6], [0.8], [0.0], [0.0]], dtype=torch.float64)
_U3 = torch.eye(4, dtype=torch.float64)[:, :3]

EXERCISES = [
    Exercise(
        id="4a",
        hint="square the coordinates, weigh them by the memberships, sum over the tokens, divide by the group's mass",
        inputs=[(W, PI), (W, BATCH)],
        right=moments,
        wrong={
            "divide by the group's mass n_k, the sum of its memberships, not by the number of tokens": lambda w, Pi: (
                Pi[..., None] * w**2
            ).mean(-2),
            "the division by the group's mass n_k is missing": lambda w, Pi: (Pi[..., None] * w**2).sum(-2),
            "this is the squared mean of the coordinates; the mean of their squares is asked for": lambda w, Pi: (
                ((Pi[..., None] * w).sum(-2) / Pi.sum(-1, keepdim=True)) ** 2
            ),
            "a second moment subtracts no mean; this is the variance": lambda w, Pi: (
                moments(w, Pi) - ((Pi[..., None] * w).sum(-2) / Pi.sum(-1, keepdim=True)) ** 2
            ),
            "the memberships are not squared in (4.3)": lambda w, Pi: (
                ((Pi[..., None] * w) ** 2).sum(-2) / Pi.sum(-1, keepdim=True)
            ),
        },
        forbidden={"second_moments": "it is the function to be written"},
    ),
    Exercise(
        id="4b",
        hint="project, second moments as in 4a, f with c = d/ε² of each, sum over coordinates, weigh the groups by n_k/n, half",
        inputs=[(TOKENS, PI, U, 0.1), (TOKENS, BATCH, U, 0.5)],
        right=rate,
        wrong={
            "the factor ½ is missing": lambda x, Pi, U, eps2: rate(x, Pi, U, eps2, half=1.0),
            "c is d/ε², with the width d of the tokens, not the p directions of a head": lambda x, Pi, U, eps2: rate(
                x, Pi, U, eps2, c=U.shape[-1] / eps2
            ),
            "c is d/ε²; the d is missing": lambda x, Pi, U, eps2: rate(x, Pi, U, eps2, c=1 / eps2),
            "each group counts with its share n_k/n of the tokens": lambda x, Pi, U, eps2: rate(
                x, Pi, U, eps2, share=torch.ones(Pi.shape[:-1], dtype=Pi.dtype)
            ),
            "each group counts with its share n_k/n of the tokens, not with 1/K": lambda x, Pi, U, eps2: rate(
                x, Pi, U, eps2, share=torch.full(Pi.shape[:-1], 1 / len(U), dtype=Pi.dtype)
            ),
            "this is f of the sum; each coordinate has an f of its own": lambda x, Pi, U, eps2: rate(
                x, Pi, U, eps2, inside=False
            ),
        },
        forbidden={"variational_rate": "it is the function to be written"},
    ),
    Exercise(
        id="4c",
        hint="the derivative in y is x + 1/c − 1/y; where is it zero?",
        inputs=[(torch.tensor([0.2, 0.7], dtype=torch.float64), 10.0), (torch.tensor(1.5, dtype=torch.float64), 4.0)],
        right=lambda x, c: c / (1 + c * x),
        wrong={
            "that is y/c: the slope of ln(1 + cx) has a factor c on top": lambda x, c: 1 / (1 + c * x),
            "that is the smallest value of the bracket; asked is the y that reaches it": lambda x, c: torch.log1p(
                c * x
            ),
            "you lost the term y/c: the derivative is x + 1/c − 1/y, not x − 1/y": lambda x, c: 1 / x,
            "the signs of x and 1/c are the same: 1/y = x + 1/c": lambda x, c: c / (1 - c * x),
        },
        forbidden={"gates": "it is the function to be written"},
    ),
    Exercise(
        id="4d",
        hint="divide rows and columns of C by the standard deviations, then take −½ log₂ of the determinant",
        inputs=[(_C,), (_C[:2, :2],)],
        right=lambda C: -0.5 * _logdet(_corr(C)) / math.log(2),
        wrong={
            "that is the right number in nats; divide by ln 2 for bits": lambda C: -0.5 * _logdet(_corr(C)),
            "that is twice too much: −½ ln det, the half is missing": lambda C: -_logdet(_corr(C)) / math.log(2),
            "the sign: separate codes cost more, so the waste is positive": lambda C: (
                0.5 * _logdet(_corr(C)) / math.log(2)
            ),
            "you used the covariance; scale it to a correlation matrix first, or the units of the coordinates count": lambda C: (
                -0.5 * _logdet(C) / math.log(2)
            ),
        },
    ),
    Exercise(
        id="4e",
        hint="what the projection loses of the squared lengths, shared among tokens and unseen directions",
        inputs=[(_X, _U), (_X, _U3)],
        right=lambda x, U: _lost(x, U) / len(x) / (x.shape[1] - U.shape[1]),
        wrong={
            "the lost energy is shared by the d − p unseen directions only, not by all d": lambda x, U: (
                _lost(x, U) / len(x) / x.shape[1]
            ),
            "that is the whole energy off the span; ρ is its mean over the d − p unseen directions": lambda x, U: (
                _lost(x, U) / len(x)
            ),
            "ρ is a mean over the tokens, too; this is their sum": lambda x, U: _lost(x, U) / (x.shape[1] - U.shape[1]),
            "you forgot to take away what the projection keeps: ‖z‖² − ‖Uᵀz‖²": lambda x, U: (
                (x**2).sum() / len(x) / (x.shape[1] - U.shape[1])
            ),
        },
    ),
]
