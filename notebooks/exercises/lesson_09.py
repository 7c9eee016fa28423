"""Exercises of lesson 9: where the cost of softmax attention takes off, and statistics in pieces."""

import torch

from kit import Exercise


def _moments(seed: int) -> torch.Tensor:
    return torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EXERCISES = [
    Exercise(
        id="9a",
        hint="solve 2 + n/d = t for n.",
        inputs=[(128, 10), (64, 3), (256, 5.5)],
        right=lambda d, t: d * (t - 2),
        wrong={
            "the 2 of the linear maps is missing: the factor is 2 + n/d, not n/d.": lambda d, t: d * t,
            "upside down: more width makes the factor smaller, so more tokens are needed.": lambda d, t: (t - 2) / d,
            "softmax attention has four linear maps and TSSA two: the factor starts at 2, not at 4.": lambda d, t: (
                d * (t - 4)
            ),
        },
    ),
    Exercise(
        id="9b",
        hint="set 2n²d equal to 4nd².",
        inputs=[(128,), (64,), (7,)],
        right=lambda d: 2 * d,
        wrong={
            "that is the point where one product of tokens with tokens costs as much as one linear map; there are two and four.": lambda d: (
                d
            ),
            "tokens are compared once and values averaged once: the quadratic part is 2n²d, not n²d.": lambda d: 4 * d,
            "one power of d too many: divide 4nd² by 2nd.": lambda d: 2 * d * d,
        },
    ),
    Exercise(
        id="9c",
        hint="undo the division by the mass, add, divide by the mass of both.",
        inputs=[(3.0, _moments(0), 1.0, _moments(1)), (0.5, _moments(2), 8.0, _moments(3))],
        right=lambda n_a, s_a, n_b, s_b: (n_a * s_a + n_b * s_b) / (n_a + n_b),
        wrong={
            "a plain mean forgets that one piece may hold more tokens than the other: weight by mass.": lambda n_a, s_a, n_b, s_b: (
                (s_a + s_b) / 2
            ),
            "second moments are means, not sums: adding them counts every token twice.": lambda n_a, s_a, n_b, s_b: (
                s_a + s_b
            ),
            "these are sums of squares; a second moment is a mean: divide by the mass of both.": lambda n_a, s_a, n_b, s_b: (
                n_a * s_a + n_b * s_b
            ),
            "weighted by the other piece's mass.": lambda n_a, s_a, n_b, s_b: (n_b * s_a + n_a * s_b) / (n_a + n_b),
        },
    ),
]
