"""Labeled images: where they come from, variants of them, and augmentation."""

from jaxrobust.data.arrays import (
    DataError,
    Dataset,
    Pixels,
    Split,
    as_float,
    of_classes,
    require_learnable,
    subset,
)
from jaxrobust.data.augmentation import pad_crop_flip
from jaxrobust.data.preparation import DatasetStatus, prepare, status
from jaxrobust.data.sources import DATASETS, load_arrays
from jaxrobust.data.variants import VARIANTS, apply_variant, binarize

__all__ = [
    "DATASETS",
    "VARIANTS",
    "DataError",
    "Dataset",
    "DatasetStatus",
    "Pixels",
    "Split",
    "apply_variant",
    "as_float",
    "binarize",
    "load_arrays",
    "of_classes",
    "pad_crop_flip",
    "prepare",
    "require_learnable",
    "status",
    "subset",
]
