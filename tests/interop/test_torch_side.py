"""What is said when PyTorch is missing, whether or not it is."""

import sys

import pytest

from jaxrobust.interop import from_torch, to_torch


def test_a_missing_torch_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for build in (lambda: to_torch(None), lambda: from_torch(None, num_classes=3)):
        with pytest.raises(ImportError, match=r'pip install "jaxrobust\[interop\]"'):
            build()


def test_layouts_are_checked_before():
    for build in (
        lambda: to_torch(None, layout="CHW"),
        lambda: from_torch(None, num_classes=3, layout="CHW"),
    ):
        with pytest.raises(ValueError, match="`layout` must be one of NCHW, NHWC"):
            build()


@pytest.mark.parametrize("count", [0, -3])
def test_sizes_are_checked_before(count):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        to_torch(None, batch_size=count)
    with pytest.raises(ValueError, match="`num_classes` must be at least 2"):
        from_torch(None, num_classes=count)
