"""Without its native library the package does the same, and says so once."""

import ctypes
import warnings

import pytest
import torch

from bitwright import kernels
from bitwright.kernels import library
from bitwright.kernels.native.products import NativeProducts, products_library
from bitwright.schemes import nvfp4


@pytest.fixture
def without_library(monkeypatch):
    """As installed where there is no compiler."""
    monkeypatch.setattr(library, "library_path", lambda: None)
    library.library.cache_clear()
    yield
    library.library.cache_clear()


def test_its_absence_is_said_once_and_changes_no_value(without_library):
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first = kernels.fake_quantize(nvfp4().weight, x)
        kernels.fake_quantize(nvfp4().weight, x)
    assert [w.category for w in said] == [library.NoLibrary]
    with kernels.only("reference"):
        assert torch.equal(first, kernels.fake_quantize(nvfp4().weight, x))


def test_levels_of_an_absent_library_are_refused(without_library):
    with (
        pytest.warns(library.NoLibrary),
        pytest.raises(NotImplementedError, match="not installed"),
        library.level("AVX2"),
    ):
        pass


def test_a_library_of_other_sources_is_not_called(monkeypatch):
    if library.library() is None:
        pytest.skip("installed without the native library")
    library.library.cache_clear()
    monkeypatch.setattr(library.ctypes, "sizeof", lambda structure: 1)
    try:
        with pytest.warns(library.NoLibrary, match="other sources"):
            assert library.library() is None
    finally:
        library.library.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_too_little_memory_is_an_error_of_the_call_and_of_no_later_one(threads):
    if library.library() is None:
        pytest.skip("installed without the native library")
    more_than_there_is = NativeProducts(m=4, n=1 << 50, k=4, tile=2)
    with pytest.raises(MemoryError, match="bitwright_multiply"):
        products_library().bitwright_multiply(ctypes.byref(more_than_there_is), threads)
    assert products_library().bitwright_level() >= 0
