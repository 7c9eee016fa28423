"""Which form of the layer takes an input: the straightforward one, the fast one (`fast`) or Triton's kernels (`fused`).

A layer asks before every pass (`TokenStatistics.fast_path_applies`); all forms compute the same.
"""

import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def supports_fast_path(x: Tensor) -> bool:
    """Whether a layer can compute x by `fast_tssa`, or by Triton's kernels where these run.

    That is eagerly, by nothing that would need to see inside, and in full precision where there are no kernels.
    """
    return not (
        torch.compiler.is_compiling()  # first: a compiler guards all that it sees
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()  # torch.func
        or forward_ad._current_level >= 0  # dual numbers
        or type(x) not in (Tensor, nn.Parameter)  # tensors without numbers, tensors on several machines
        or x.device.type not in ("cpu", "cuda")
    ) and (
        kernels_run(x.device)
        or (x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type))
    )


@cache
def kernels_run(device: torch.device) -> bool:
    """Whether Triton's kernels (`fused`) run on this device: asked once, where Triton is there, by a try."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        from tssa_lib.fused import fused_update

        with torch.inference_mode(False), torch.enable_grad():
            w = torch.ones(1, 1, 1, 1, device=device, requires_grad=True)
            fused_update(w, torch.ones(1, 1, device=device)).sum().backward()
    except Exception as error:  # no C compiler, a card too old: the layer works without
        warnings.warn(f"Triton's kernels don't run here, so TSSA takes PyTorch's operations: {error}", stacklevel=2)
        return False
    return True


def is_plain(m: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether m is the layer's own module of this kind, which nobody replaced, parametrised or hooked."""
    hooks = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return type(m) is kind and not hooks
