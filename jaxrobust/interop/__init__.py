"""Our models for other libraries' attacks, their models for ours, models as files.

PyTorch is imported when it is first needed (extra: interop).
"""

from jaxrobust.interop.exported import ExportError, load_exported, read_header
from jaxrobust.interop.exporting import TrainedModel, export_model
from jaxrobust.interop.incoming import from_torch
from jaxrobust.interop.outgoing import to_torch
from jaxrobust.interop.torch_side import Layout

__all__ = [
    "ExportError",
    "Layout",
    "TrainedModel",
    "export_model",
    "from_torch",
    "load_exported",
    "read_header",
    "to_torch",
]
