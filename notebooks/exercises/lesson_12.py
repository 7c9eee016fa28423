"""Exercises of lesson 12: the right answers, typical wrong ones with their diagnosis, and hints."""

import torch

from kit import Exercise


def _label(x0, y0, x1, y1, side):
    return torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / side


def _tokens(height, width):
    return (height // 32) * (width // 32)


def _w(B, K, N, p):
    return torch.randn(B, K, N, p, generator=torch.Generator().manual_seed(N), dtype=torch.float64)


def _theta(K):
    return torch.linspace(0.5, 3, K, dtype=torch.float64)[:, None]


def _update(w, temp, axis=1, divided=True, weighted=True):
    w2 = w**2
    share = w2 / w2.sum(2, keepdim=True) if divided else w2
    Pi = (share.sum(3) * temp).softmax(axis)  # (B, K, N)
    s = (Pi[..., None] * w2).sum(2)  # (B, K, p)
    s = s / Pi.sum(2, keepdim=True) if weighted else s / w.shape[2]
    return -Pi[..., None] * w / (1 + s[:, :, None])


EXERCISES = [
    Exercise(
        id="12a",
        hint="the centre is the mean of the two corners; divide all four numbers by the side.",
        inputs=[(10.0, 20.0, 40.0, 70.0, 128.0), (5.0, 3.0, 25.0, 33.0, 100.0)],
        right=_label,
        wrong={
            "these are pixels; YOLO wants shares of the picture: divide by the side.": lambda x0, y0, x1, y1, side: (
                _label(x0, y0, x1, y1, side) * side
            ),
            "the first two numbers are the upper left corner; YOLO wants the centre.": lambda x0, y0, x1, y1, side: (
                torch.tensor([x0, y0, x1 - x0, y1 - y0]) / side
            ),
            "the last two numbers are a corner; YOLO wants width and height.": lambda x0, y0, x1, y1, side: (
                torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1, y1]) / side
            ),
            "x and y are swapped.": lambda x0, y0, x1, y1, side: _label(y0, x0, y1, x1, side),
        },
    ),
    Exercise(
        id="12b",
        hint="intersection (1 − m) · 1; the union is both areas less the intersection.",
        inputs=[(0.25,), (0.6,)],
        right=lambda m: (1 - m) / (1 + m),
        wrong={
            "that is the intersection; divide by the union.": lambda m: 1 - m,
            "you divided by both areas together; the intersection is in there twice.": lambda m: (1 - m) / 2,
            "that is the share that does not overlap: 1 − IoU.": lambda m: 2 * m / (1 + m),
        },
    ),
    Exercise(
        id="12c",
        hint="one token for each 32 × 32 pixels; the matrix has one number for each pair of tokens.",
        inputs=[(640, 640), (320, 96)],
        right=lambda height, width: torch.tensor([_tokens(height, width), _tokens(height, width) ** 2]),
        wrong={
            "those are tokens at stride 16; layer 10 works at stride 32.": lambda height, width: torch.tensor(
                [4 * _tokens(height, width), (4 * _tokens(height, width)) ** 2]
            ),
            "the second number is again the tokens; a similarity matrix holds every pair.": lambda height, width: (
                torch.tensor([_tokens(height, width)] * 2)
            ),
            "those are pixels; 32 × 32 of them make one token.": lambda height, width: torch.tensor(
                [height * width, (height * width) ** 2]
            ),
        },
    ),
    Exercise(
        id="12d",
        hint="write each digit on thin paper and look at it from behind.",
        right={0, 1, 8},
        wrong={
            "3 survives being turned upside down (top to bottom), not left to right.": {0, 1, 3, 8},
            "1 is, in most hands, little more than a stroke: it survives, too.": {0, 8},
            "6 and 9 turn into each other when rotated by half a turn, not when mirrored.": {0, 1, 6, 8, 9},
        },
    ),
    Exercise(
        id="12e",
        hint="five lines: w², each coordinate over its sum of the tokens' squares, Π by a softmax over the heads, s, −Π D w.",
        inputs=[(_w(2, 3, 7, 4), _theta(3)), (_w(1, 2, 5, 3), _theta(2))],
        right=_update,
        wrong={
            "Π is a softmax over the heads (axis 1); this one is over the tokens.": lambda w, temp: _update(
                w, temp, axis=2
            ),
            "the temperatures are missing in the logits.": lambda w, temp: _update(w, 1 + 0 * temp),
            "the logits are sums of squares that were divided by their sum over all tokens; these were not divided.": (
                lambda w, temp: _update(w, temp, divided=False)
            ),
            "the moments are means weighted by Π: divide by n_k, the sum of π over the tokens.": lambda w, temp: (
                _update(w, temp, weighted=False)
            ),
            "the sign: the update goes against the gradient, so it is −Π D w.": lambda w, temp: -_update(w, temp),
        },
    ),
]
