"""Exercises of lesson 7: the layer, its tied step, what half the tokens hear, the first causal token, float16."""

import torch

from kit import Exercise

_seeded = torch.Generator().manual_seed(7)


def _randn(*shape):
    return torch.randn(*shape, generator=_seeded, dtype=torch.float64)


_w = _randn(3, 5, 2)
_theta = torch.tensor([[0.5], [2.0], [5.0]], dtype=torch.float64)
_x, _W, _O = _randn(5, 6), _randn(6, 6), _randn(6, 6)
_layers = [(_x, _W, _theta, _O), (2 * _x[:4, :4], _W[:4, :4], _theta[:2], _O[:4, :4])]
_steps = [(_x, _W, _theta, 0.7), (2 * _x[:4, :4], _W[:4, :4], _theta[:2], 1.6)]


def _split(x, W, theta):
    return (x @ W.T).reshape(len(x), len(theta), -1).transpose(0, 1)  # (K, N, p)


def _cut_across(x, W, theta):
    return (x @ W.T).reshape(len(theta), len(x), -1)  # the right shape, with tokens and heads mixed up


def _parts(
    x, W, theta, *, over=1, axis=0, divided=True, mean=False, raw=True, use_theta=True, split=_split, sums=False
):
    """w, Pi and D of (7.1) to (7.3), with one piece at a time replaced."""
    w = split(x, W, theta)
    share = w**2 / (w**2).sum(over, keepdim=True)
    logits = (share if divided else w**2).sum(-1)
    Pi = ((theta if use_theta else 1.0) * logits).softmax(axis)  # (K, N)
    total = (Pi[..., None] * (w**2 if raw else share)).sum(1)
    return w, Pi, 1 / (1 + total / (1 if sums else len(x) if mean else Pi.sum(1, keepdim=True)))


def _join(y):
    return y.transpose(0, 1).reshape(y.shape[1], -1)


def _layer(x, W, theta, O, **change):
    w, Pi, D = _parts(x, W, theta, **change)
    return -_join(Pi[..., None] * D[:, None] * w) @ O.T


def _without_Pi(x, W, theta, O):
    w, _, D = _parts(x, W, theta)
    return -_join(D[:, None] * w) @ O.T


EXERCISES = [
    Exercise(
        id="7a",
        hint="w = x @ W.T cut into heads (K, N, p); shares over the tokens; softmax over the heads; s, D; −Π D w; join; @ O.T.",
        inputs=_layers,
        right=_layer,
        wrong={
            "the rows of Π must sum to 1 over the heads; yours sum to 1 over the tokens: wrong axis in the softmax.": lambda *a: (
                _layer(*a, axis=1)
            ),
            "you took the theory's energies: the published layer first divides each squared coordinate by its sum over the tokens.": lambda *a: (
                _layer(*a, divided=False)
            ),
            "you divided the squares over the heads; the layer divides them over the tokens.": lambda *a: _layer(
                *a, over=0
            ),
            "the temperature is missing in front of the logits.": lambda *a: _layer(*a, use_theta=False),
            "the sign: the layer subtracts.": lambda *a: -_layer(*a),
            "the gates were made of divided squares; (7.3) averages the squares as they are.": lambda *a: _layer(
                *a, raw=False
            ),
            "you divided the moments by the number of tokens; they are means over a head's members, n_k = Σ_j π_jk.": lambda *a: (
                _layer(*a, mean=True)
            ),
            "the moments are not divided by anything: they are means over a head's members, n_k = Σ_j π_jk.": lambda *a: (
                _layer(*a, sums=True)
            ),
            "heads and tokens are mixed up: reshape to (N, K, p) first, then bring the heads to the front.": lambda *a: (
                _layer(*a, split=_cut_across)
            ),
            "the projection is transposed: row tokens are multiplied by W.T.": lambda x, W, theta, O: _layer(
                x, W.T, theta, O
            ),
            "the memberships are missing in the output: each head moves a token by its share π_jk.": _without_Pi,
            "the output map is transposed: row tokens are multiplied by O.T.": lambda x, W, theta, O: _layer(
                x, W, theta, O.T
            ),
        },
    ),
    Exercise(
        id="7b",
        hint="tied means O_k = U_k. W holds the U_kᵀ one below the other, O holds the O_k side by side.",
        inputs=_steps,
        right=lambda x, W, theta, gamma: x + gamma * _layer(x, W, theta, W.T),
        wrong={
            "the output map is not U: with O = [U_1, U_2, …] = W.T the rows y are multiplied by O.T = W.": lambda x, W, theta, gamma: (
                x + gamma * _layer(x, W, theta, W)
            ),
            "this is the layer's output alone; the step keeps the tokens and adds it.": lambda x, W, theta, gamma: (
                gamma * _layer(x, W, theta, W.T)
            ),
            "the sign: the step goes down the objective.": lambda x, W, theta, gamma: (
                x - gamma * _layer(x, W, theta, W.T)
            ),
            "γ is missing.": lambda x, W, theta, gamma: x + _layer(x, W, theta, W.T),
            "the temperature is missing in the memberships.": lambda x, W, theta, gamma: (
                x + gamma * _layer(x, W, theta, W.T, use_theta=False)
            ),
            "the step has no 1/n: t = τ/n holds it already.": lambda x, W, theta, gamma: (
                x + gamma * _layer(x, W, theta, W.T) / len(x)
            ),
        },
    ),
    Exercise(
        id="7c",
        hint="Kp = d sums of squares reach Π, d second moments reach the gates; when does one of them, or a token, have less to say?",
        inputs=[(20, 8, 2), (20, 8, 1), (1, 8, 4), (400, 128, 4)],
        right=lambda n, d, K: min(n * d, 2 * d if K > 1 else d),
        wrong={
            "with one head Π is 1 whatever the sums are: only the second moments speak.": lambda n, d, K: min(
                n * d, 2 * d
            ),
            "n tokens cannot tell more than their n·d numbers.": lambda n, d, K: 2 * d if K > 1 else d,
            "two things to think of: Π of one head is constant, and n tokens have n·d numbers only.": lambda n, d, K: (
                2 * d
            ),
            "you counted the second moments; the sums of squares in the memberships speak as well.": lambda n, d, K: (
                min(n * d, d)
            ),
            "K heads of width p have Kp = d coordinates together, not K·d.": lambda n, d, K: 2 * K * d,
            "one number for each pair of tokens is what softmax attention compares; TSSA hears sums.": lambda n, d, K: (
                n * n
            ),
        },
    ),
    Exercise(
        id="7d",
        hint="with one token seen, what are its share of every coordinate, its memberships and the running second moment?",
        inputs=[(_w[:, 0],), (_w[:2, 1],)],
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
        id="7e",
        hint="which float16 numbers have squares beyond the largest float16? Try torch.tensor(…).half() ** 2.",
        right=256.0,
        wrong={
            "that is the largest float16 number itself; its square overflows, but much smaller ones do too.": 65504.0,
            "that is the root of 65504; it is no float16 number: near 256 they are 1/8 apart below and 1/4 above.": 65504
            ** 0.5,
            "its square, 65472.8, rounds to a finite float16: take the next number.": 255.875,
        },
    ),
]
