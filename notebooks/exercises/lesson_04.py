"""Exercises of lesson 4: the right answers, typical wrong ones with their diagnosis, and hints."""

import math

import torch

from kit import Exercise


def _gap(lam1, lam2, m12, c):
    return math.log(1 + c**2 * m12**2 / ((1 + c * lam1) * (1 + c * lam2)))


def _half(lam1, lam2):
    return 0.5 * (lam1 - lam2)


def _corr(C):
    sd = C.diagonal().sqrt()
    return C / sd[:, None] / sd[None, :]


def _logdet(A):
    return torch.linalg.slogdet(A)[1]


def _lost(x, U):
    return ((x**2).sum() - ((x @ U) ** 2).sum()) / len(x)


_C = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.5]], dtype=torch.float64)
_X = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, 1.0, -2.0, 0.3], [2.0, -1.0, 1.0, 1.5]], dtype=torch.float64)
_U = torch.tensor([[0.6], [0.8], [0.0], [0.0]], dtype=torch.float64)
_U3 = torch.eye(4, dtype=torch.float64)[:, :3]

EXERCISES = [
    Exercise(
        id="4.1",
        hint="put m₁₂ = ½(λ₁ − λ₂) sin 2a into ln(1 + c² m₁₂²/det(I + cM)).",
        inputs=[(3.0, 1.0, 0.4, 10.0), (2.0, 0.5, 1.0, 4.0)],
        right=lambda lam1, lam2, angle, c: _gap(lam1, lam2, _half(lam1, lam2) * math.sin(2 * angle), c),
        wrong={
            "you took the sine of the angle; the off-diagonal entry follows the sine of twice the angle.": lambda lam1, lam2, angle, c: (
                _gap(lam1, lam2, _half(lam1, lam2) * math.sin(angle), c)
            ),
            "m₁₂ is half the difference of the eigenvalues times sin 2a; the half is missing.": lambda lam1, lam2, angle, c: (
                _gap(lam1, lam2, (lam1 - lam2) * math.sin(2 * angle), c)
            ),
            "that is half the gap, the total correlation; the gap itself was asked for.": lambda lam1, lam2, angle, c: (
                0.5 * _gap(lam1, lam2, _half(lam1, lam2) * math.sin(2 * angle), c)
            ),
        },
    ),
    Exercise(
        id="4.2",
        hint="divide rows and columns of C by the standard deviations, then take −½ log₂ of the determinant.",
        inputs=[(_C,), (_C[:2, :2],)],
        right=lambda C: -0.5 * _logdet(_corr(C)) / math.log(2),
        wrong={
            "that is the right number in nats; divide by ln 2 for bits.": lambda C: -0.5 * _logdet(_corr(C)),
            "that is twice too much: −½ ln det, the half is missing.": lambda C: -_logdet(_corr(C)) / math.log(2),
            "you used the covariance; scale it to a correlation matrix first, or the units of the coordinates count.": lambda C: (
                -0.5 * _logdet(C) / math.log(2)
            ),
        },
    ),
    Exercise(
        id="4.3",
        hint="the derivative in y is x + 1/c − 1/y; where is it zero?",
        inputs=[(0.2, 10.0), (1.5, 4.0)],
        right=lambda x, c: c / (1 + c * x),
        wrong={
            "that is y/c: the slope of ln(1 + cx) has a factor c on top.": lambda x, c: 1 / (1 + c * x),
            "that is the smallest value of the bracket; asked is the y that reaches it.": lambda x, c: math.log(
                1 + c * x
            ),
            "you lost the term y/c: the derivative is x + 1/c − 1/y, not x − 1/y.": lambda x, c: 1 / x,
        },
    ),
    Exercise(
        id="4.4",
        hint="(squared length of the tokens − squared length of their projections) / N / (d − p).",
        inputs=[(_X, _U), (_X, _U3)],
        right=lambda x, U: _lost(x, U) / (x.shape[1] - U.shape[1]),
        wrong={
            "the lost energy is shared by the d − p unseen directions only, not by all d.": lambda x, U: (
                _lost(x, U) / x.shape[1]
            ),
            "that is the whole energy off the span; ρ is its mean over the d − p unseen directions.": lambda x, U: (
                _lost(x, U)
            ),
            "you forgot to take away what the projection keeps: ‖z‖² − ‖Uᵀz‖².": lambda x, U: (
                (x**2).sum() / len(x) / (x.shape[1] - U.shape[1])
            ),
        },
    ),
]
