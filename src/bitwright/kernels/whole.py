"""Float32 products of whole numbers are exact only where a library multiplies the factors it is given."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


def whole_products(x: Tensor) -> AbstractContextManager[None]:
    """Inside, products on a GPU are float32's: no TF32, and no cuDNN, which may go by fractions (Winograd)."""
    return _on_a_gpu() if x.is_cuda else nullcontext()


@contextmanager
def _on_a_gpu() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
