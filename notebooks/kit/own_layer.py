"""A reader's own TSSA at work in YOLO: every block runs on the reader's update while a context lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor

from tssa_lib.blocks import TSSAttention

Update = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def in_yolo(update: Update) -> Iterator[None]:
    """Let YOLO's TSSA blocks run on `update(w, temp)`, also those that are built meanwhile, as `train` does.

    update: projected tokens w (B, K, N, p) and temperatures (K, 1) → −π_jk D_k w_kj (B, K, N, p), differentiable. The
    blocks keep their projections, positions and output maps. Afterwards they are as before.

    >>> import torch
    >>> block = TSSAttention(8, 2).eval()
    >>> x = torch.rand(1, 8, 2, 3)
    >>> with in_yolo(lambda w, temp: 0 * w): silent = block(x)
    >>> torch.equal(silent, block.output(0 * block.project(x), block.project(x), x))
    True
    """

    def forward(self: TSSAttention, x: Tensor) -> Tensor:
        w = self.project(x)  # (B, K, N, p)
        y = update(w, self.temp)
        if not isinstance(y, Tensor) or y.shape != w.shape:
            came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"expected an update of the shape of w, {tuple(w.shape)}, got {came}")
        return self.output(y, w, x)

    with mock.patch.object(TSSAttention, "forward", forward):
        yield
