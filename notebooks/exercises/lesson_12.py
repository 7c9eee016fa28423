"""Exercises of lesson 12: the right answers, typical wrong ones with their diagnosis, and hints."""

import torch

from kit import Exercise


def _label(x0, y0, x1, y1, width, height):
    return torch.tensor([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height])


def _average_precision(right, m, later=True, of=None):
    precision = right.double().cumsum(0) / torch.arange(1, len(right) + 1)
    best = precision.flip(0).cummax(0).values.flip(0) if later else precision
    return (right * best).sum() / (m if of is None else of(right))


def _list(*right):
    return torch.tensor(right, dtype=torch.bool)


def _numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-2]), dtype=torch.float64)


def _theta(K):
    return torch.linspace(0.5, 3, K, dtype=torch.float64)[:, None]


def _update(w, temp, axis=1, total=torch.mean, weighted=True):
    w2 = w**2
    Pi = (total(w2 / total(w2, 2, keepdim=True), 3) * temp).softmax(axis)  # (B, K, N)
    s = (Pi[..., None] * w2).sum(2)  # (B, K, p)
    s = s / Pi.sum(2, keepdim=True) if weighted else s / w.shape[2]
    return -Pi[..., None] * w / (1 + s[:, :, None])


EXERCISES = [
    Exercise(
        id="12a",
        hint="the centre is the mean of two corners; what runs along x is divided by the width, along y by the height.",
        inputs=[(10.0, 20.0, 40.0, 70.0, 128.0, 96.0), (5.0, 3.0, 25.0, 33.0, 100.0, 50.0)],
        right=_label,
        wrong={
            "these are pixels; YOLO wants shares of the picture.": lambda x0, y0, x1, y1, width, height: _label(
                x0, y0, x1, y1, 1, 1
            ),
            "the first two numbers are the upper left corner; YOLO wants the centre.": (
                lambda x0, y0, x1, y1, width, height: (
                    _label(x0, y0, x1, y1, width, height)
                    - torch.tensor([(x1 - x0) / 2 / width, (y1 - y0) / 2 / height, 0, 0])
                )
            ),
            "the last two numbers are a corner; YOLO wants width and height.": (
                lambda x0, y0, x1, y1, width, height: (
                    _label(x0, y0, x1, y1, width, height) + torch.tensor([0, 0, x0 / width, y0 / height])
                )
            ),
            "all four are divided by the width; what runs along y is a share of the height.": (
                lambda x0, y0, x1, y1, width, height: _label(x0, y0, x1, y1, width, width)
            ),
            "x and y are swapped.": lambda x0, y0, x1, y1, width, height: _label(y0, x0, y1, x1, height, width),
        },
    ),
    Exercise(
        id="12b",
        hint="precision is a cumulative sum over 1, 2, 3, …; the best of what comes later is a running maximum from the end.",
        inputs=[(_list(1, 0, 1, 1, 0, 0, 1), 5), (_list(0, 1, 1, 0, 1), 4)],
        right=_average_precision,
        wrong={
            "that is the precision at each right guess; (12.1) takes the best from there on.": lambda right, m: (
                _average_precision(right, m, later=False)
            ),
            "you averaged over the true boxes that were found; those never found count 0: divide by m.": (
                lambda right, m: _average_precision(right, m, of=lambda right: right.sum())
            ),
            "you averaged over the guesses; divide by m, the number of true boxes.": lambda right, m: (
                _average_precision(right, m, of=len)
            ),
            "that is the recall at the end of the list; precision has no part in it.": lambda right, m: (
                right.sum().double() / m
            ),
        },
    ),
    Exercise(
        id="12c",
        hint="five lines: w², each coordinate over its mean of the tokens' squares, Π by a softmax over the heads, s, −Π D w.",
        inputs=[(_numbers(2, 3, 7, 4), _theta(3)), (_numbers(1, 2, 5, 3), _theta(2))],
        right=_update,
        wrong={
            "Π is a softmax over the heads (axis 1); this one is over the tokens.": lambda w, temp: _update(
                w, temp, axis=2
            ),
            "the temperatures are missing in the logits.": lambda w, temp: _update(w, 1 + 0 * temp),
            "this is the published form, with sums; `rms` has means in their place.": lambda w, temp: _update(
                w, temp, total=torch.sum
            ),
            "the moments are means weighted by Π: divide by n_k, the sum of π over the tokens.": lambda w, temp: (
                _update(w, temp, weighted=False)
            ),
            "the sign: the update goes against the gradient, so it is −Π D w.": lambda w, temp: -_update(w, temp),
        },
    ),
    Exercise(
        id="12d",
        hint="the pictures are axis 0; torch.roll moves along an axis and takes in at the front what falls off at the end.",
        inputs=[(_numbers(3, 2, 4),), (_numbers(4, 3, 2),)],
        right=lambda D: D.roll(1, 0),
        wrong={
            "these are the picture's own gates, with the heads moved; pictures are axis 0.": lambda D: D.roll(1, 1),
            "these are the picture's own gates, with the coordinates moved; pictures are axis 0.": (
                lambda D: D.roll(1, 2)
            ),
            "each picture has the gates of the one after it, not before.": lambda D: D.roll(-1, 0),
            "every picture has the gates of the first.": lambda D: D[:1].expand_as(D),
            "every picture has its own gates still.": lambda D: D.clone(),
        },
    ),
]
