"""Memory for results: of any size and type, and its own."""

import pytest
import torch

from bitwright.kernels.native.memory import HUGE, fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("size", [0, 1, HUGE // 4 - 1, HUGE // 4, HUGE + 3])
def test_all_of_it_can_be_written(dtype, size):
    made = fresh((size,), dtype)
    assert (made.shape, made.dtype, made.is_contiguous()) == ((size,), dtype, True)
    made.fill_(7)
    assert int(made.sum(dtype=torch.float64)) == 7 * size
