"""Exercises of lesson 11: which colour is rare, another scene's gates, and the sentence at the end of a trial."""

import torch

from kit import Exercise
from tssa_lib.tssa import Statistics

_seeded = torch.Generator().manual_seed(11)
_layer = torch.nn.Identity()


def _one_hot(*counts):
    """Tokens (n, p) of p colours, so many of each."""
    return torch.eye(len(counts))[[c for c, n in enumerate(counts) for _ in range(n)]]


def _gates(w):
    return 1 / (1 + w.square().mean(0))  # (p,)


def _rare(w):
    return w @ _gates(w) > 1 / (1 + 1 / 4)


def _found(B=3, K=2, N=5, p=4):
    """What a layer found in B pictures."""
    Pi, s = (torch.rand(*shape, generator=_seeded, dtype=torch.float64) for shape in ((B, K, N), (B, K, p)))
    return Statistics(Pi / Pi.sum(1, keepdim=True), s, 1 / (1 + s))


_w, _what = torch.rand(3, 2, 5, 4, generator=_seeded, dtype=torch.float64), _found()
_wrong_swaps = {
    "that is the picture behind, not the one before: roll by +1 along the batch.": lambda found: found._replace(
        gates=found.gates.roll(-1, 0)
    ),
    "you moved the gates of one head to another: the pictures are the first axis.": lambda found: found._replace(
        gates=found.gates.roll(1, 1)
    ),
    "you moved coordinates within a head: the pictures are the first axis.": lambda found: found._replace(
        gates=found.gates.roll(1, -1)
    ),
    "the memberships moved, too: only the gates belong to another picture.": lambda found: found._replace(
        gates=found.gates.roll(1, 0), Pi=found.Pi.roll(1, 0)
    ),
    "nothing moved: these are every picture's own gates.": lambda found: found,
}


def _same(a, b):
    return all(x.shape == y.shape and torch.allclose(x, y) for x, y in zip(a, b))


def _judge_swap(answer):
    got = answer(_layer, _w.clone(), Statistics(*(t.clone() for t in _what)))
    if got is None or got is ...:
        return ...
    if not isinstance(got, Statistics):
        return f"expected what was found, with other gates (found._replace(gates=…)), got {type(got).__name__}"
    if _same(got, _what._replace(gates=_what.gates.roll(1, 0))):
        return None
    known = [said for said, other in _wrong_swaps.items() if _same(got, other(_what))]
    return known[0] if known else "these are not the gates of the picture before. Hint: torch.roll, along the batch."


def _verdict(control, block, margin, *, sees=True, wide=True, harms=True):
    if block[0] > 0:
        return "helps"
    if harms and block[1] < 0:
        return "harms"
    if sees and control[0] <= 0:
        return "can't tell"
    return "no difference that matters" if not wide or (-margin < block[0] and block[1] < margin) else "can't tell"


EXERCISES = [
    Exercise(
        id="11a",
        hint="gates of the set, then for each token the gate of its own colour: w @ D; what is the gate at a share of a quarter?",
        inputs=[(_one_hot(9, 2),), (_one_hot(5, 4, 1),), (_one_hot(3, 4),), (_one_hot(7, 1, 2),)],
        right=_rare,
        wrong={
            "that is the other side: where the gate is high, the colour is rare.": lambda w: ~_rare(w),
            "the bound is that of a half: at a share of a quarter the gate is 1/(1 + 1/4).": lambda w: (
                w @ _gates(w) > 2 / 3
            ),
            "you compare the share itself with a gate's bound: the gate is 1/(1 + share).": lambda w: (
                w @ w.mean(0) > 1 / (1 + 1 / 4)
            ),
            "the moments are means over the tokens, not sums.": lambda w: (
                w @ (1 / (1 + w.square().sum(0))) > 1 / (1 + 1 / 4)
            ),
            "you answered for the colours; one answer a token is asked.": lambda w: _gates(w) > 1 / (1 + 1 / 4),
        },
    ),
    Exercise(
        id="11b",
        hint="found._replace(gates=…) with the gates rolled by one along the batch",
        right=lambda layer, w, found: found._replace(gates=found.gates.roll(1, 0)),
        wrong={said: lambda layer, w, found, other=other: other(found) for said, other in _wrong_swaps.items()},
        judge_by=_judge_swap,
    ),
    Exercise(
        id="11c",
        hint="first the block's own interval; only if it holds zero, ask whether the trial could see anything, and how wide the interval is",
        inputs=[
            ((0.2, 0.4), (0.01, 0.05), 0.02),
            ((-0.1, 0.3), (0.01, 0.05), 0.02),
            ((0.2, 0.4), (-0.01, 0.01), 0.02),
            ((-0.1, 0.3), (-0.01, 0.01), 0.02),
            ((0.2, 0.4), (-0.09, 0.01), 0.02),
            ((0.2, 0.4), (-0.01, 0.09), 0.02),
            ((0.2, 0.4), (-0.09, -0.03), 0.02),
        ],
        right=_verdict,
        wrong={
            "a trial that can't tell its positive control from none has not shown that it can see anything: can't tell.": lambda *a: (
                _verdict(*a, sees=False)
            ),
            "an interval that holds zero but reaches beyond the margin is no evidence that nothing matters: can't tell.": lambda *a: (
                _verdict(*a, wide=False)
            ),
            "an interval that lies below zero as a whole says that the block harms.": lambda *a: _verdict(
                *a, harms=False
            ),
        },
    ),
]
