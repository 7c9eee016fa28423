"""Exercises of lesson 10: tokens of a padded picture, where softmax overtakes, the value rows, a table's memory."""

import math

from kit import Exercise


def tokens(height, width, size, scale=None, rounding=math.ceil):
    scale = min(1, size / max(height, width)) if scale is None else scale
    return math.prod(rounding(round(side * scale) / 32) for side in (height, width))


def table(side, stride, heads, each=4, power=2):
    return heads * (side // stride) ** (2 * power) * each / 2**20


EXERCISES = [
    Exercise(
        id="10a",
        hint="scale both sides by size / max(height, width), at most 1; pad up to multiples of 32; divide by 32",
        inputs=[(1080, 810, 640), (720, 1280, 640), (200, 300, 640)],
        right=tokens,
        wrong={
            "padding rounds up to a multiple of 32, and you round down: the last rows of pixels get no token": lambda h, w, size: (
                tokens(h, w, size, rounding=math.floor)
            ),
            "only the longer side becomes `size`; the other keeps the proportion": lambda h, w, size: (size // 32) ** 2,
            "a picture that is smaller than `size` is not enlarged here": lambda h, w, size: tokens(
                h, w, size, size / max(h, w)
            ),
        },
    ),
    Exercise(
        id="10b",
        hint="set the last term of (10.5) equal to (10.6) and divide by n·d",
        inputs=[(128,), (256,)],
        right=lambda d: (2 * d + 9) * 2 / 3,
        wrong={
            "the 3 × 3 convolution of TSSA costs 9nd; you left it out": lambda d: 4 * d / 3,
            "the quadratic part has the factor 3/2: half a width for the weights, a whole one for the sums": lambda d: (
                2 * d + 9
            ),
            "this is where both parts of softmax attention cost the same; compare with TSSA's convolutions": lambda d: (
                (3 * d + 9) * 2 / 3
            ),
        },
    ),
    Exercise(
        id="10c",
        hint="n tokens make n × n weights a head, 4 bytes each; a MiB is 2**20 bytes",
        inputs=[(640, 32, 2), (1920, 8, 1)],
        right=table,
        wrong={
            "float32 takes 4 bytes; you counted numbers, not bytes": lambda *a: table(*a, each=1),
            "a MiB is 2**20 bytes, not 10**6": lambda *a: table(*a) * 2**20 / 1e6,
            "a table has n × n entries, and n is already the square of side/stride": lambda *a: table(*a, power=1),
            "each head has a table of its own": lambda side, stride, heads: table(side, stride, 1),
        },
    ),
    Exercise(
        id="10d",
        hint="one head has p/2 + p/2 + p rows; its values are the last p of them",
        inputs=[(2, 4), (1, 6)],
        right=lambda heads, p: [head * 2 * p + p + i for head in range(heads) for i in range(p)],
        wrong={
            "these are the last rows of the whole projection; but each head keeps its values behind its own keys": lambda heads, p: (
                list(range(heads * p, 2 * heads * p))
            ),
            "these are the queries and keys": lambda heads, p: [
                head * 2 * p + i for head in range(heads) for i in range(p)
            ],
            "queries and keys are half as wide as values, so a head has 2p rows, not 3p": lambda heads, p: [
                head * 3 * p + 2 * p + i for head in range(heads) for i in range(p)
            ],
        },
    ),
]
