"""Exercises of lesson 7: the softmax's axis, float16, the first causal token, resolution."""

import torch

from kit import Exercise

_seeded = torch.Generator().manual_seed(7)
W = torch.randn(3, 5, 2, generator=_seeded, dtype=torch.float64)


def share(w, axis=1):
    return w**2 / (w**2).sum(axis, keepdim=True)


EXERCISES = [
    Exercise(
        id="7.1",
        hint="divide the squares by their sum over the tokens, sum over the coordinates, then a softmax: who competes for a token?",
        inputs=[(W, 1.0), (3 * W[:2], 4.0)],
        right=lambda w, theta: (theta * share(w).sum(-1)).softmax(0),
        wrong={
            "the rows of Π must sum to 1 over the heads; yours sum to 1 over the tokens: wrong axis in the softmax.": lambda w, theta: (
                (theta * share(w).sum(-1)).softmax(1)
            ),
            "you took the theory's energies: the published layer first divides each squared coordinate by its sum over the tokens.": lambda w, theta: (
                (theta * (w**2).sum(-1)).softmax(0)
            ),
            "you divided the squares over the heads; the layer divides them over the tokens.": lambda w, theta: (
                theta * share(w, 0).sum(-1)
            ).softmax(0),
        },
    ),
    Exercise(
        id="7.2",
        hint="the largest float16 is 65504. Which float16 numbers have squares beyond it? Try torch.tensor(…).half() ** 2.",
        right=256.0,
        wrong={
            "that is the largest float16 number itself; its square overflows, but much smaller ones do too.": 65504.0,
            "that is the root of 65504; it is no float16 number: near 256 they are 1/8 apart below and 1/4 above.": 65504
            ** 0.5,
            "its square, 65472.8, rounds to a finite float16: take the next number.": 255.875,
        },
    ),
    Exercise(
        id="7.3",
        hint="with one token seen, what are its share of every coordinate, its memberships and the running second moment?",
        inputs=[(W[:, 0],), (W[:2, 1],)],
        right=lambda w: -w / (len(w) * (1 + w**2)),
        wrong={
            "you forgot Π: with K heads and equal logits each head gets 1/K of the token.": lambda w: -w / (1 + w**2),
            "the sign: the layer subtracts.": lambda w: w / (len(w) * (1 + w**2)),
            "the running second moment is an average with weights Π over n_k: the 1/K cancels in s.": lambda w: (
                -w / (len(w) * (1 + w**2 / len(w)))
            ),
        },
    ),
    Exercise(
        id="7.4",
        hint="what happens to the sum over the tokens in the denominator of a logit?",
        right=4.0,
        wrong={
            "the side of the image doubles, but the number of tokens grows by four.": 2.0,
            "the logits become smaller, so θ must grow.": 0.25,
            "the theory's memberships don't change with resolution; the published layer's do, because it divides by sums over tokens.": 1.0,
        },
    ),
]
