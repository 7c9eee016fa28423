"""Exercises of lesson 8: a certificate for the step, membership entropy, a fair average."""

import math

import torch

from kit import Exercise

_seeded = torch.Generator().manual_seed(8)
W = torch.randn(6, 6, generator=_seeded, dtype=torch.float64)
Pi = torch.rand(3, 7, generator=_seeded, dtype=torch.float64).softmax(0)

EXERCISES = [
    Exercise(
        id="8.1",
        hint="combine (8.3) and (8.4); which norm of a matrix is its largest singular value?",
        inputs=[(W, 0.9), (0.5 * W[:4], 0.3)],
        right=lambda W, pi_max: 2 / (torch.linalg.matrix_norm(W, 2) ** 2 * pi_max),
        wrong={
            "the norm enters squared: A_j holds the projections twice.": lambda W, pi_max: (
                2 / (torch.linalg.matrix_norm(W, 2) * pi_max)
            ),
            "that is the Frobenius norm: safe, but smaller than need be; (8.4) has the largest singular value.": lambda W, pi_max: (
                2 / (torch.linalg.matrix_norm(W) ** 2 * pi_max)
            ),
            "the step may be 2 over the bound, not 1 over it: at 1 the decrease is largest, at 2 it ends.": lambda W, pi_max: (
                1 / (torch.linalg.matrix_norm(W, 2) ** 2 * pi_max)
            ),
        },
    ),
    Exercise(
        id="8.2",
        hint="−Σ_k π ln π for each token, then the mean over the tokens, then over ln K.",
        inputs=[(Pi,), (Pi[:2] / Pi[:2].sum(0),)],
        right=lambda Pi: torch.special.entr(Pi).sum(0).mean() / math.log(len(Pi)),
        wrong={
            "you forgot to divide by ln K.": lambda Pi: torch.special.entr(Pi).sum(0).mean(),
            "you took the mean over the groups too: sum over the groups, mean over the tokens.": lambda Pi: (
                torch.special.entr(Pi).mean() / math.log(len(Pi))
            ),
            "the largest entropy is that of K groups, not of N tokens.": lambda Pi: (
                torch.special.entr(Pi).sum(0).mean() / math.log(Pi.shape[1])
            ),
        },
    ),
    Exercise(
        id="8.3",
        hint="six times the mean is the sum; take the 50 out, then divide by what is left.",
        inputs=[(54.17,), (50.46,)],
        right=lambda m: (6 * m - 50) / 5,
        wrong={
            "that is the way from five tasks to six; you are asked for the other.": lambda m: (5 * m + 50) / 6,
            "after taking one task out, five are left to divide by.": lambda m: (6 * m - 50) / 6,
        },
    ),
]
