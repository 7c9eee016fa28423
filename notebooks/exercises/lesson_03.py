"""Exercises of lesson 3: one more term of the series, MSSA itself, where it climbs, one token, what K heads cost."""

import torch

from kit import Exercise

MADE = torch.Generator().manual_seed(3)
LINE = torch.ones(1, 1, 1, dtype=torch.float64)
ANGLE = torch.tensor([[[0.8], [0.6]], [[-0.6], [0.8]]], dtype=torch.float64)  # (K, d, p) = (2, 2, 1)
FRAMES = torch.linalg.qr(torch.randn(3, 6, 2, generator=MADE, dtype=torch.float64))[0]
BATCH = torch.randn(2, 5, 6, generator=MADE, dtype=torch.float64)
FEW = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 0.3]], dtype=torch.float64)


def _mssa(x, U, axis=-1, scale=1.0, values=True):
    y = 0
    for basis in U:
        w = x @ basis
        weights = (scale * w @ w.mT).softmax(axis)
        y = y + (weights @ w if values else weights @ w.sum(-2, keepdim=True).expand_as(w)) @ basis.T
    return y


def bare(x, U):
    return sum((x @ basis) @ (x @ basis).mT @ (x @ basis) @ basis.T for basis in U)


def rates(z, factors, eps2, half=0.5):
    return half * torch.log1p((z * torch.tensor(factors, dtype=torch.float64)) ** 2 / eps2)


SHORT = (
    "these tokens are so short that the softmax hardly tells them apart, and both move to their mean; try longer ones"
)
OPPOSITE = "tokens on opposite sides of the origin don't look at each other; what does a short token do beside a long one on its side?"
EQUAL = "two tokens alike: each is the mean of both, and nothing moves"


def climbs(tokens):
    """None if the derived update raises the rate of two tokens on a line, else why it doesn't."""
    x = torch.as_tensor(tokens, dtype=torch.float64)
    if tuple(x.shape) != (2, 1):
        return f"expected a tensor of shape (2, 1), got {tuple(x.shape)}"
    before, after = (y.square().sum().item() for y in (x, (x + _mssa(x, LINE)) / 2))
    if after > before * (1 + 1e-6):
        return None
    a, b = x.flatten().tolist()
    if abs(a - b) < 1e-6 * max(abs(a), 1):
        return EQUAL
    return OPPOSITE if a * b < 0 else SHORT


EXERCISES = [
    Exercise(
        id="3a",
        hint="multiply numerator and denominator by 1 + x",
        inputs=[(0.3,), (2.0,)],
        right=lambda x: -(x**3),
        wrong={
            "this is the absolute error; divide it by the exact factor 1/(1 + x)": lambda x: -(x**3) / (1 + x),
            "the sign is turned around: exact minus approximate, divided by exact": lambda x: x**3,
            "this is (3.6), the error of two terms; here there are three": lambda x: x**2,
        },
    ),
    Exercise(
        id="3b",
        hint="for each basis: project, similarities, a softmax that lets each token's weights sum to one, a weighted sum, lift",
        inputs=[(FEW, ANGLE), (BATCH, FRAMES)],
        right=_mssa,
        wrong={
            "the weights of one token must sum to 1 over the tokens it looks at (the last axis); yours sum to 1 over "
            "the tokens that look: wrong axis?": lambda x, U: _mssa(x, U, axis=-2),
            "(3.12) has no 1/√p; that scale belongs to the published layer": lambda x, U: _mssa(
                x, U, scale=U.shape[-1] ** -0.5
            ),
            "these are bare similarities; (3.12) puts a softmax over them": bare,
            "(3.12) adds the heads up; this is their mean": lambda x, U: _mssa(x, U) / len(U),
            "this is the step −Z + MSSA(Z) of the derived update; MSSA alone is asked for": lambda x, U: (
                _mssa(x, U) - x
            ),
            "the similarities are those of the tokens in the whole space; each head compares what it sees": lambda x, U: (
                sum((x @ x.mT).softmax(-1) @ (x @ basis) @ basis.T for basis in U)
            ),
        },
        forbidden=dict.fromkeys(("mssa", "MSSA"), "it is the function to be written"),
    ),
    Exercise(
        id="3c",
        hint="on a line the rate only knows the sum of squares: which token moves outward, and which one stays?",
        right=torch.tensor([[1.0], [3.0]]),
        judge_by=climbs,
        wrong={
            OPPOSITE: torch.tensor([[1.0], [-3.0]]),
            EQUAL: torch.tensor([[2.0], [2.0]]),
            SHORT: torch.tensor([[0.1], [0.3]]),
        },
    ),
    Exercise(
        id="3d",
        hint="a head projects n tokens from d to p and lifts them back; between, two products with p × p results or factors",
        inputs=[(10, 9, 3, 4), (7, 6, 2, 5)],
        right=lambda n, d, K, p: 2 * n * K * d * p + 2 * n * K * p**2,
        wrong={
            "this is (3.22), where Kp = d; here K and p are free": lambda n, d, K, p: 2 * n * d**2 + 2 * n * d * p,
            "the lift back is missing: projection and lift cost n·d·p a head, each": lambda n, d, K, p: (
                n * K * d * p + 2 * n * K * p**2
            ),
            "that is one head; there are K": lambda n, d, K, p: 2 * n * d * p + 2 * n * p**2,
            "the two products in the head are missing": lambda n, d, K, p: 2 * n * K * d * p,
        },
    ),
    Exercise(
        id="3e",
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
]
