"""Triton decides when it is first imported whether kernels run on a GPU or in its interpreter, on NumPy arrays."""

import os
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is not None:
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        import_module("bitwright.kernels.gpu")
        import_module("triton.experimental.gluon")  # else imported by the first launch, where it asks again
