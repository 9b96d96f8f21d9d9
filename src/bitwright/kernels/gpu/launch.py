"""What all kernels share: which tensors they take, and options under which a GPU rounds as the reference does.

Every operation is IEEE's in round-to-nearest: products and sums are not fused (`OPTIONS`), a division is `tl.div_rn`
(a bare `/` is an approximation on NVIDIA's processors), and numbers below float32's normal range are kept, which rules
out `tl.floor` and `tl.ceil`: on those processors they come from a library that flushes such numbers to zero.
"""

import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from bitwright.kernels.rounding import Unsupported

OPTIONS = {"enable_fp_fusion": False}
"""Given with every launch."""


INTERPRETED = not isinstance(tl.zeros, JITFunction)
"""Whether Triton was told, before it was first imported, to run kernels in NumPy (`TRITON_INTERPRET=1`)."""


def takes(x: Tensor) -> bool:
    """Whether kernels run on this tensor's device: a GPU, or in the interpreter any memory of this machine."""
    return x.device.type == ("cpu" if INTERPRETED else "cuda")


def refuse(x: Tensor) -> None:
    """Raises `Unsupported` for tensors that kernels here do not take."""
    if not takes(x):
        raise Unsupported(f"a tensor on {x.device.type}")
    if not x.numel():
        raise Unsupported("an empty matrix")
