"""What both directions need to know of PyTorch: the module, and its order of axes."""

from typing import Any, Literal

__all__ = ["Layout", "require_torch"]

Layout = Literal["NCHW", "NHWC"]
"""Axes of an image batch on the PyTorch side; on ours it is NHWC."""


def require_torch() -> Any:
    """The module torch.

    Raises:
        ImportError: if it is not installed, saying how to install it.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "`torch` must be installed to exchange models with PyTorch; "
            'install it with `pip install "jaxrobust[interop]"`.'
        ) from error
    return torch
