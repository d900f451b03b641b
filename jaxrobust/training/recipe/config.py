"""Everything that decides the numbers of a run."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import jax

from jaxrobust.arguments import require, require_choice
from jaxrobust.data import (
    VARIANTS,
    Augmentation,
    augmentation_of,
    levels_of,
    variant_of,
)
from jaxrobust.data.naming import spelled
from jaxrobust.networks import ModelConfig
from jaxrobust.precision import MatmulPrecision, require_precision
from jaxrobust.references import is_reference
from jaxrobust.threat import norm_name
from jaxrobust.training.recipe.model import Precision
from jaxrobust.training.recipe.named_numbers import as_arrays
from jaxrobust.training.recipe.phases import Phase, Settings
from jaxrobust.training.recipe.validation import Validation

__all__ = ["TrainConfig", "differ_in_level", "settings_of", "trained_norm"]


def _require_name(field: str, value: object, remedy: str) -> None:
    """Refuse what no run directory could name."""
    if not isinstance(value, str):
        raise TypeError(f"`{field}` must be a name, got {value!r}; {remedy}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the numbers of a run.

    Raises:
        ValueError: for an unknown name or a number out of range.
        TypeError: for data or a variant that are no names.
    """

    dataset: str = "digits"
    """Name of a data set, a directory of arrays, or a function of your own that makes
    one, path.py:NAME or package.module:NAME."""
    variant: str = "original"
    """Transform of the data set, such as "binary", or one of your own, path.py:NAME, or
    path.py:NAME(0.3) with its level; or several, joined by "+"."""
    train_size: int | None = None
    """Use only that many training examples; None for all."""
    model: ModelConfig = ModelConfig(name="lenet-small")
    """Network."""
    phases: tuple[Phase, ...] = (Phase(name="adversarial", epochs=1),)
    """What is done, in order."""
    batch_size: int = 128
    """Images per step; the remainder of an epoch's shuffle is dropped."""
    micro_batches: int = 1
    """Parts of each batch whose gradients are computed one after another and averaged,
    which saves memory; batch normalization and the like see one part at a time."""
    validation: Validation | None = None
    """A part of the training set that is held out, to choose a checkpoint by; None to
    train on all of it."""
    augmentation: str | Augmentation | None = None
    """Random changes of the pixels, anew in each step: by name, such as "crop-flip" or
    "rotate(15)+crop-flip", or a function `(key, pixels) -> pixels`; None for none."""
    precision: Precision = "float32"
    """Of the forward pass and the gradients through it; bfloat16 keeps parameters,
    optimizer and projection in float32."""
    matmul_precision: MatmulPrecision = "default"
    """Of the matrix products of steps, their attacks, and looks at what is held out:
    default (the fastest: TF32 on a GPU, bfloat16 on a TPU), high or highest (float32).
    The same numbers on a CPU."""
    seed: int = 0
    """Of initial weights, shuffling, augmentation and random starts; below 2**32, as
    JAX takes no more bits of it."""

    def __post_init__(self):
        _require_name("dataset", self.dataset, "hand it over: train(..., dataset=...)")
        remedy = "name it, or hand over dataset=apply_variant(dataset, variant)"
        _require_name("variant", self.variant, remedy)
        object.__setattr__(self, "variant", spelled(self.variant, VARIANTS))
        require(
            self.batch_size >= 1, "batch_size", "at least 1", self.batch_size, "try 128"
        )
        require(
            self.micro_batches >= 1 and self.batch_size % self.micro_batches == 0,
            "micro_batches",
            f"a divisor of the batch size ({self.batch_size})",
            self.micro_batches,
            "1 computes a batch at once",
        )
        require(
            len(self.phases) > 0, "phases", "a non-empty list", self.phases, "add one"
        )
        require_choice("precision", self.precision, get_args(Precision))
        require_precision(self.matmul_precision)
        if isinstance(self.augmentation, str) and ":" not in self.augmentation:
            # Names of ours; nothing of a user's own is imported here.
            augmentation_of(self.augmentation)
        # Beyond, numbers become other ones without a word, or a bare OverflowError.
        require(
            isinstance(self.seed, int) and -(2**31) <= self.seed < 2**32,
            "seed",
            "a whole number in [-2**31, 2**32)",
            self.seed,
            "choose a smaller one",
        )
        later = [phase.start_from for phase in self.phases[1:] if phase.start_from]
        require(
            not later,
            "start_from",
            "given for the first phase only",
            later,
            "split the run in two",
        )


def differ_in_level(configs: Sequence[TrainConfig]) -> bool:
    """Whether runs have variants of the data that are one but for its numbers.

    Raises:
        ValueError: if they have other ones.
    """
    texts = list(dict.fromkeys(config.variant for config in configs))
    if len(texts) == 1:
        return False
    kinds = {jax.tree.structure(variant_of(text)) for text in texts}
    require(
        len(kinds) == 1 and all(map(levels_of, texts)),
        "variant",
        "one that differs in its numbers only, for runs that share a program",
        ", ".join(texts),
        "make a sweep for each",
    )
    return True


def settings_of(
    config: TrainConfig,
    phase: int,
    epoch: int,
    num_batches: int,
    *,
    has_variant: bool = False,
) -> Settings:
    """What the steps of an epoch do, see `Phase.at`.

    Args:
        config: of the run.
        phase: index of its phase.
        epoch: of the phase, counted from 1.
        num_batches: in an epoch.
        has_variant: whether steps make the variant; else examples are of it already.
    """
    settings = config.phases[phase].at(epoch, num_batches)
    if not has_variant:
        return settings
    variant = as_arrays(variant_of(config.variant), num_batches)
    return settings._replace(variant=variant)


def trained_norm(configs: Sequence[TrainConfig], *, trust_code: bool = False) -> str:
    """The norm in which runs were attacked last; l_inf if none of them was.

    Args:
        configs: of runs.
        trust_code: whether their norm may be code outside jaxrobust.

    Raises:
        ValueError: if they were attacked in several norms, or in one that is code.
    """
    phases = [config.phases[-1] for config in configs]
    names = dict.fromkeys(
        norm_name(phase.norm) for phase in phases if phase.epsilon.end > 0
    )
    require(
        len(names) <= 1,
        "norm",
        f"given for runs trained in {' and in '.join(names)}",
        None,
        "give --norm and --epsilon, or judge them apart",
    )
    norm = next(iter(names), "linf")
    require(
        trust_code or not is_reference(norm),
        "norm",
        f"named for runs trained in {norm!r}, which is code outside jaxrobust",
        None,
        "name it (--norm), or say that what the runs name may be run "
        "(trust_code=True, or --trust-code)",
    )
    return norm
