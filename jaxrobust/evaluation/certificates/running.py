"""Certified accuracy over every example, for any models, methods and radii."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require, require_count
from jaxrobust.data import Dataset
from jaxrobust.evaluation.certificates.methods import (
    DEFAULT,
    Method,
    Methods,
    description,
    named_methods,
)
from jaxrobust.evaluation.certificates.outcome import Certification
from jaxrobust.evaluation.certificates.programs import bounding_program, costing_program
from jaxrobust.evaluation.certificates.tally import Tally, after_bucket, next_bucket
from jaxrobust.evaluation.engine.clean import clean_flags, weights_or_answers
from jaxrobust.evaluation.engine.journal import Journal
from jaxrobust.evaluation.engine.programs import (
    Data,
    Placement,
    clean_program,
    placement,
)
from jaxrobust.evaluation.engine.sharing import shared_program
from jaxrobust.evaluation.engine.sizes import bucket_size, most_memory
from jaxrobust.evaluation.robustness import check_same_shapes, is_function_of_weights
from jaxrobust.threat import ThreatModel, norm_name, require_images, threat_of
from jaxrobust.types import LogitsFn, Params

__all__ = ["CertificationProgress", "certify", "certify_models"]


PADDING = 16
"""By how much a bucket is smaller than one of attacks: what is left for an expensive
method after cheaper ones is often less than a bucket, and the rest would be padding."""


class CertificationProgress(NamedTuple):
    """What can be told after a bucket.

    Attributes:
        model: number of the model, from 0.
        method: name of the one that bounded it.
        num_done: images that it bounded by now, at one radius each.
        epsilons: radii in ascending order.
        certified_accuracy: at each of them, as far as is known: it can only rise.
    """

    model: int
    method: str
    num_done: int
    epsilons: tuple[float, ...]
    certified_accuracy: tuple[float, ...]


class _Programs(NamedTuple):
    """The compiled functions, and how many images each is given."""

    clean: Callable[..., Any]
    clean_size: int
    bounds: tuple[Callable[..., jax.Array], ...]
    sizes: tuple[int, ...]
    placement: Placement


def _programs(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    methods: dict[str, Method],
    threat: type[ThreatModel],
    batch_size: int | None,
) -> _Programs:
    where, devices = placement(), tuple(jax.local_devices())
    shared = partial(shared_program, is_shared=is_function_of_weights(weights))

    def whole(size: int) -> int:
        size = min(size, len(dataset))
        return size + -size % where.num_devices

    bounds, sizes = [], []
    for name, method in methods.items():
        costing = shared(costing_program, apply, method, threat=threat)
        cost = partial(costing, name, weights[0], dataset.images)
        operations = cost(1).operations
        size = batch_size
        if size is None:
            size = bucket_size(PADDING, operations, where.platform, where.kind)
            # A method may take less memory for an image where there are more of them.
            while (memory := cost(size).memory) > most_memory(where.platform):
                if size == 1:
                    break
                size //= 1 << max(int(np.log2(memory / most_memory(where.platform))), 1)
                size = max(size, 1)
            size *= where.num_devices
        sizes.append(whole(size))
        bounds.append(
            shared(bounding_program, apply, method, threat=threat, devices=devices)
        )
    clean = shared(
        clean_program, apply, num_classes=dataset.num_classes, devices=devices
    )
    # Each device sees two images at least, so that one can be beside another.
    clean_size = max(*sizes, 2 * where.num_devices)
    return _Programs(clean, clean_size, tuple(bounds), tuple(sizes), where)


def _buckets(
    programs: _Programs,
    weights: Params,
    data: Data,
    epsilons: tuple[float, ...],
    tally: Tally,
) -> Iterator[tuple[int, Tally]]:
    """The method and the tally after each bucket; what is given is never changed."""
    while (bucket := next_bucket(tally, programs.sizes)) is not None:
        begun = time.perf_counter()
        size = programs.sizes[bucket.method]
        answer = programs.bounds[bucket.method](
            weights,
            data,
            np.float32(epsilons[bucket.place]),
            np.resize(bucket.examples, size),
        )
        is_proven = np.asarray(answer)[: len(bucket.examples)]
        seconds = time.perf_counter() - begun
        tally = after_bucket(tally, bucket, is_proven, seconds)
        yield bucket.method, tally


def certify_models(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    epsilons: Sequence[float],
    *,
    norm: str | type[ThreatModel] = "linf",
    methods: Methods = DEFAULT,
    batch_size: int | None = None,
    journal: Path | str | None = None,
    progress: Callable[[CertificationProgress], None] | None = None,
) -> list[Certification]:
    """Certify every example of a data set, for each of several models.

    An example is certified at a radius if the model is right on the clean image, and
    bounds prove that it is on every image of the ball. Methods follow each other, each
    on what those before it left, from the largest radius in question to the smallest: a
    proof at a radius is one at every smaller radius. Images that the model is wrong on
    are not bounded.

    One program for each method is compiled for all models and radii. Products are
    computed at the precision of judgements; the methods of the library round outwards,
    so that their proofs hold for the model as it is computed in float32. Several local
    devices share each bucket.

    Args:
        apply: from the weights of one model to the model in evaluation mode, which
            takes images in [0, 1] to logits. A pure function: a later call with the
            same one uses the programs compiled for it.
        weights: pytrees of arrays of the same shapes, such as `(params, state)`.
        dataset: examples; each counts exactly once.
        epsilons: radii, in units of [0, 1] pixels.
        norm: of the ball: one that all methods bound, "linf", "l2" or "l1" for those of
            the library.
        methods: names of `METHODS`, path/to/file.py:NAME, or functions `(logits_fn,
            threat, images, labels) -> margins`, in the order in which they are asked,
            the cheapest first. See `Method`.
        batch_size: images bounded at once, rounded up to a multiple of the local
            devices; None for as many as fit and take some seconds.
        journal: file in which progress is kept, so that the same call goes on after
            it was killed, with the same proofs; None to keep none. It tells another
            model, data set, radius or setting, but not other code of a method.
        progress: told how far the certification is, after each bucket.

    Returns:
        Flags for each example, one result for each model.

    Raises:
        ValueError: for a radius, norm, number or method out of range; for a method that
            cannot bound the model; if `weights` is empty, or if the models differ in
            the structure, shapes or types of their weights; if a model has another
            number of classes than the data, or answers clean images with something not
            finite, or by the other images of the batch; if the journal is damaged or
            that of something else.
        InUseError: if another process uses the journal.
    """
    weights, epsilons = list(weights), tuple(map(float, epsilons))
    check_same_shapes(weights)
    threat = threat_of(norm)
    require(bool(epsilons), "epsilons", "one radius or more", epsilons, "give [0.3]")
    for epsilon in epsilons:
        threat.require_epsilon(epsilon, dataset.images.shape[1:])
    named = named_methods(methods)
    if batch_size is not None:
        require_count("batch_size", batch_size, "None chooses one")
    require_images(dataset.images, (0.0, 1.0))
    programs = _programs(apply, weights, dataset, named, threat, batch_size)
    examples = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    data = programs.placement.place(examples)
    ascending = tuple(sorted(set(epsilons)))
    book = None
    if journal is not None:
        header = {
            "certifies": True,
            "epsilons": list(ascending),
            "norm": norm_name(threat),
            "methods": [
                {"name": name, "settings": description(method), "bucket": size}
                for (name, method), size in zip(
                    named.items(), programs.sizes, strict=True
                )
            ],
            "data": dataset.fingerprint,
            "models": [weights_or_answers(apply, tree, dataset) for tree in weights],
        }
        book = Journal(journal, header)
    with book or nullcontext():
        tallies = [] if book is None else _unpacked(book.read())
        try:
            for index, tree in enumerate(weights):
                placed = programs.placement.place(tree)
                for method in _finished(
                    programs, placed, data, ascending, tallies, index, len(weights)
                ):
                    if progress is not None:
                        name = list(named)[method]
                        done = int(tallies[index].num_bounds[method])
                        shares = _shares(tallies[index], len(ascending))
                        told = CertificationProgress(
                            index, name, done, ascending, shares
                        )
                        progress(told)
                    if book is not None:
                        book.offer(partial(_packed, tallies))
        finally:
            # Also after Ctrl-C: a tally is replaced as a whole, never half done.
            if book is not None and tallies:
                book.write(_packed(tallies))
    return [
        _certification(tally, ascending, epsilons, norm_name(threat), tuple(named))
        for tally in tallies
    ]


def _finished(
    programs: _Programs,
    weights: Params,
    data: Data,
    epsilons: tuple[float, ...],
    tallies: list[Tally],
    index: int,
    num_models: int,
) -> Iterator[int]:
    """Finish the tally of a model in place; gives the method after each bucket."""
    if index == len(tallies):
        model = f"model {index + 1} of {num_models}, " if num_models > 1 else ""
        size = programs.clean_size
        is_correct = clean_flags(programs.clean, size, weights, data, model)
        num_methods = len(programs.bounds)
        tallies.append(Tally.begun(is_correct, num_methods, len(epsilons)))
    for method, tally in _buckets(programs, weights, data, epsilons, tallies[index]):
        tallies[index] = tally
        yield method


def _shares(tally: Tally, num_epsilons: int) -> tuple[float, ...]:
    proven = tally.num_certified.max(axis=0)
    return tuple(float(np.mean(proven > place)) for place in range(num_epsilons))


def _certification(
    tally: Tally,
    ascending: tuple[float, ...],
    epsilons: tuple[float, ...],
    norm: str,
    methods: tuple[str, ...],
) -> Certification:
    radii = np.array([-np.inf, *ascending])
    return Certification(
        epsilons=epsilons,
        norm=norm,
        is_clean_correct=tally.is_correct,
        methods=methods,
        proven_epsilon=radii[tally.num_certified],
        num_bounds=tuple(map(int, tally.num_bounds)),
        seconds=tuple(map(float, tally.seconds)),
    )


def _packed(tallies: Sequence[Tally]) -> dict[str, np.ndarray]:
    return {
        f"{index}.{name}": value
        for index, tally in enumerate(tallies)
        for name, value in tally._asdict().items()
    }


def _unpacked(arrays: dict[str, np.ndarray] | None) -> list[Tally]:
    arrays = arrays or {}
    count = len({name.split(".")[0] for name in arrays})
    return [
        Tally(**{name: arrays[f"{index}.{name}"] for name in Tally._fields})
        for index in range(count)
    ]


def certify(
    logits_fn: LogitsFn,
    dataset: Dataset,
    epsilons: Sequence[float],
    *,
    norm: str | type[ThreatModel] = "linf",
    methods: Methods = DEFAULT,
    batch_size: int | None = None,
    journal: Path | str | None = None,
    progress: Callable[[CertificationProgress], None] | None = None,
) -> Certification:
    """Certify every example of a data set; `certify_models` for one model.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        epsilons: radii, in units of [0, 1] pixels; see `certify_models`, as for all
            that follows.
        norm: of the ball.
        methods: what proves, the cheapest first.
        batch_size: images bounded at once; None chooses.
        journal: file in which progress is kept; the model is known again by its
            answers.
        progress: told how far the certification is, after each bucket.

    Returns:
        Which examples are certified at each radius, and which method proved it.
    """
    (certification,) = certify_models(
        lambda _: logits_fn,
        [()],
        dataset,
        epsilons,
        norm=norm,
        methods=methods,
        batch_size=batch_size,
        journal=journal,
        progress=progress,
    )
    return certification
