"""Exercises of lesson 3: the truncated series, one head, one token, the bill."""

import torch

from kit import Exercise

TOKENS = [[1.0, 0.0], [0.5, 2.0], [-1.0, 0.3]]


def head(w, axis=-1, scale=1.0):
    return (scale * w @ w.T).softmax(axis) @ w


def rates(z, factors, eps2, half=0.5):
    return half * torch.log1p((z * torch.tensor(factors, dtype=torch.float64)) ** 2 / eps2)


EXERCISES = [
    Exercise(
        id="3.1",
        hint="multiply numerator and denominator by 1 + x",
        inputs=[(0.3,), (2.0,)],
        right=lambda x: x**2,
        wrong={
            "this is the absolute error; divide it by the exact factor 1/(1 + x)": lambda x: x**2 / (1 + x),
            "the sign is turned around: exact minus approximate, divided by exact": lambda x: -(x**2),
            "this is the error of keeping the first term alone, 1 in place of 1 − x": lambda x: -x,
        },
    ),
    Exercise(
        id="3.2",
        hint="similarities w @ w.T, then a softmax that lets each token's weights sum to one, then a weighted sum of rows",
        inputs=[(torch.tensor(TOKENS, dtype=torch.float64),)],
        right=head,
        wrong={
            "the weights of one token must sum to 1 over the tokens it looks at (the last axis); yours sum to 1 over "
            "the tokens that look: wrong axis?": lambda w: head(w, axis=0),
            "(3.12) has no 1/√p; that scale belongs to the published layer": lambda w: head(
                w, scale=w.shape[1] ** -0.5
            ),
            "these are bare similarities; (3.12) puts a softmax over them": lambda w: w @ w.T @ w,
        },
    ),
    Exercise(
        id="3.3",
        hint="the softmax of a single number is 1, so what is MSSA(z)?",
        inputs=[(1.0, 0.5), (2.0, 0.1)],
        right=lambda z, eps2: rates(z, [1.0, 1.5], eps2),
        wrong={
            "½z + ½MSSA(z) is z again, because MSSA(z) = z; you took MSSA(z) = 0": lambda z, eps2: rates(
                z, [0.5, 1.0], eps2
            ),
            "the rate has a factor ½ in front of the logarithm": lambda z, eps2: rates(z, [1.0, 1.5], eps2, half=1.0),
            "the two numbers are in the wrong order: derived update first": lambda z, eps2: rates(z, [1.5, 1.0], eps2),
        },
    ),
    Exercise(
        id="3.4",
        hint="set (3.21) equal to twice (3.22) and divide by 2nd",
        inputs=[(128, 32), (64, 8)],
        right=lambda d, p: d + 2 * p,
        wrong={
            "twice the exact step is meant, and the factor two multiplies its second term too": lambda d, p: d + p,
            "here both cost the same; twice is asked for": lambda d, p: p,
            "here MSSA costs twice the two projections; the exact step has a second term": lambda d, p: d,
        },
    ),
]
