"""Exercises of lesson 5: right answers, typical wrong ones, and what went wrong in them."""

import torch

from kit import Exercise
from tssa_lib import rates


def _t(*values):
    return torch.tensor(values, dtype=torch.float64)


_x = torch.tensor(
    [[2.0, 0.1, 0.3], [-1.5, 0.2, 0.1], [1.0, -0.1, 0.6], [0.1, 1.5, 0.2], [-0.2, -1.0, 0.5], [0.1, -0.8, 0.4]],
    dtype=torch.float64,
)
_Pi = torch.tensor([[0.9, 0.8, 0.9, 0.3, 0.1, 0.2], [0.1, 0.2, 0.1, 0.7, 0.9, 0.8]], dtype=torch.float64)
_U = torch.tensor([[[1, 0], [0, 0], [0, 1]], [[0, 0], [1, 0], [0, 1]]], dtype=torch.float64)
_full = torch.stack([torch.eye(3), torch.eye(3).roll(1, 0)]).double()
_mixed = _x * _t(1.0, 4.0, 1.0)
_soft, _gates = _Pi[:, :4], torch.tensor([[0.5, 0.2], [0.9, 0.8]], dtype=torch.float64)
_sure, _uneven = _t([0.6, 1.0], [0.4, 0.0]), torch.tensor([[0.5, 0.9], [0.95, 0.1]], dtype=torch.float64)


EXERCISES = [
    Exercise(
        id="5.1",
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
        id="5.2",
        hint="in the heads' common basis A_j is diagonal; what stands on the diagonal?",
        inputs=[(_soft, _gates), (_sure, _uneven)],
        right=lambda Pi, D: 2 / (Pi.amax(1) * D.amax(1)).max(),
        wrong={
            "2/max D is safe, but not the longest: the memberships make A_j smaller.": lambda Pi, D: 2 / D.max(),
            "1/max ‖A_j‖ is where the bound is lowest; the step stays safe for twice as long.": lambda Pi, D: (
                1 / (Pi.amax(1) * D.amax(1)).max()
            ),
            "heads orthogonal to each other don't add up: the norm of A_j is the largest entry, not the sum over the heads.": lambda Pi, D: (
                2 / (Pi * D.amax(1)[:, None]).sum(0).max()
            ),
        },
    ),
    Exercise(
        id="5.3",
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
        id="5.4",
        hint="(5.27): the rate is at most a sum of π_jk T_jk; make that sum small.",
        inputs=[(_x, _Pi, _full, 0.5), (_mixed, _Pi, _U, 0.5)],
        right=lambda x, Pi, U, eps2: rates.code_lengths(x, Pi, U, eps2).argmin(0),
        wrong={
            "you took the dearest group: T is a price, the smallest is wanted.": lambda x, Pi, U, eps2: (
                rates.code_lengths(x, Pi, U, eps2).argmax(0)
            ),
            "energy is not the price: with p = d all groups see the same energy, with p < d the group that sees most of a token pays for it.": lambda x, Pi, U, eps2: (
                ((x @ U) ** 2).sum(-1).argmax(0)
            ),
            "these are the groups the tokens have now; the price T says where they should go.": lambda x, Pi, U, eps2: (
                Pi.argmax(0)
            ),
            "argmin over the tokens: the choice is over the groups, axis 0 of T.": lambda x, Pi, U, eps2: (
                rates.code_lengths(x, Pi, U, eps2).argmin(1)
            ),
        },
    ),
]
