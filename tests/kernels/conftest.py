"""Instructions that the native library is tested at, and where Triton's kernels run."""

import os
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from bitwright.kernels import library

# Triton decides when it is first imported whether kernels run on a GPU or in its interpreter, on NumPy arrays
if find_spec("triton") is not None:
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        import_module("bitwright.kernels.gpu")
        import_module("triton.experimental.gluon")  # else imported by the first launch, where it asks again


@pytest.fixture(params=library.LOOPS)
def instructions(request):
    """The native library at each level of instructions; skips those that this machine lacks."""
    if library.library() is None:
        pytest.skip("installed without the native library")
    with library.level(request.param) as used:
        if used != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield used
