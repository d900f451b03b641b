"""Clean and robust accuracy over every example, for any models, attacks and radii.

An example is robust at a radius if the model is right on the clean image and no attack
changes that, at this radius or at a smaller one of the list.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.attacks import AttackBuilder
from jaxrobust.attacks.builders import builder_name, require_builder
from jaxrobust.data import Dataset, as_float
from jaxrobust.evaluation.engine.plan import Plan, Search, Stage
from jaxrobust.evaluation.engine.run import run_plan
from jaxrobust.evaluation.engine.tally import Tally
from jaxrobust.evaluation.engine.telling import Progress
from jaxrobust.evaluation.images import check_adversarial
from jaxrobust.evaluation.norms import require_norm_of
from jaxrobust.evaluation.outcome import CLEAN_WRONG, ROBUST, Evaluation
from jaxrobust.precision import MatmulPrecision, require_precision
from jaxrobust.threat import ThreatModel, threat_of
from jaxrobust.types import LogitsFn, Params

__all__ = ["Attacks", "evaluate", "evaluate_models", "named_attacks"]

Attacks = AttackBuilder | Sequence[AttackBuilder] | Mapping[str, AttackBuilder]
"""What judges a model: one builder, a list, or builders by name."""


def named_attacks(attacks: Attacks) -> dict[str, AttackBuilder]:
    """Builders by their names, which decide what their attacks draw.

    Raises:
        ValueError: if there is none, or for what is no builder.
    """
    remedy = "give builders such as `PGD(num_steps=100)` or `partial(auto_pgd)`"
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    else:
        builds = attacks if isinstance(attacks, Sequence) else [attacks]
        named = {}
        for build in builds:
            name, number = builder_name(build), 2
            while name in named:
                name, number = f"{builder_name(build)}-{number}", number + 1
            named[name] = build
    require(bool(named), "attacks", "one builder or more", attacks, remedy)
    for build in named.values():
        require_builder(build)
    return named


def check_same_shapes(weights: Sequence[Params]) -> None:
    """Refuse a list that one program cannot serve."""
    remedy = "give a list of pytrees of arrays"
    require(bool(weights), "weights", "one model or more", weights, remedy)

    def shapes(tree: Params) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(
                path
            ): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
            for path, leaf in leaves
        }

    first = shapes(weights[0])
    for index, tree in enumerate(weights[1:], start=1):
        now = shapes(tree)
        for name in dict.fromkeys([*first, *now]):
            one, other = (side.get(name, "nothing") for side in (first, now))
            if one != other:
                raise ValueError(
                    f"`weights` must all have the shapes of the first, got {other} "
                    f"against {one} at {name} of number {index}; evaluate networks "
                    "of different shapes one after another."
                )
        if jax.tree.structure(tree) != jax.tree.structure(weights[0]):
            raise ValueError(
                "`weights` must all have the structure of the first, got "
                f"{jax.tree.structure(tree)} as number {index}; "
                "give all models the same containers."
            )


def is_function_of_weights(weights: Sequence[Params]) -> bool:
    """Whether what a model answers follows from its weights, as far as can be seen.

    A model that is given without any may close over weights that change between two
    calls; its programs are not kept.
    """
    return bool(jax.tree.leaves(list(weights)))


def _evaluation(
    tally: Tally, plan: Plan, epsilons: Sequence[float], clean: np.ndarray
) -> Evaluation:
    """What a finished tally says of the radii in the order asked for."""
    # Before the first attack, and after each: `(radii, attacks + 1, examples)`.
    places = np.array([plan.epsilons.index(radius) for radius in epsilons])
    stands = tally.num_robust[None] > places[:, None, None]
    is_robust = stands[:, -1]
    broken_by = np.where(is_robust, ROBUST, np.argmin(stands, axis=1) - 1)
    kept: dict[str, np.ndarray] = {}
    if plan.keeps_images:
        turns = [plan.num_turns(number) for number in range(len(plan.stages))]
        is_broken = tally.image_stage >= 0
        # Every radius that was withstood is smaller.
        radius = tally.image_place // np.array(turns)[tally.image_stage]
        smallest = np.where(is_broken, np.array(plan.epsilons)[radius], np.inf)
        by = np.where(is_broken, tally.image_stage, ROBUST)
        spread = is_broken.reshape(-1, *(1,) * (clean.ndim - 1))
        kept = {
            "images": np.where(spread, tally.images, clean),
            "image_epsilon": np.where(tally.is_correct, smallest, 0.0),
            "image_attack": np.where(tally.is_correct, by, CLEAN_WRONG),
        }
    counts = [int(count) for count in tally.num_attacks]
    passes = [plan.num_passes(number) for number in range(len(plan.stages))]
    return Evaluation(
        epsilons=tuple(epsilons),
        is_clean_correct=tally.is_correct,
        is_robust=is_robust,
        attacks=tuple(stage.name for stage in plan.stages),
        broken_by=np.where(tally.is_correct, broken_by, CLEAN_WRONG),
        num_attacks=tuple(counts),
        num_passes=tuple(
            count * cost for count, cost in zip(counts, passes, strict=True)
        ),
        num_bad_gradients=tuple(int(count) for count in tally.num_bad),
        matmul_precision=plan.matmul_precision,
        num_unconfirmed=tuple(int(count) for count in tally.num_unconfirmed),
        **kept,
    )


def evaluate_models(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    attacks: Attacks,
    epsilons: Sequence[float],
    *,
    norm: str | type[ThreatModel] = "linf",
    search: Search = "every",
    matmul_precision: MatmulPrecision = "default",
    batch_size: int | None = None,
    seed: int = 0,
    journal: Path | str | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    compact: bool = True,
    keep_images: bool = False,
) -> list[Evaluation]:
    """Attack every example of a data set, for each of several models.

    One program for each attack is compiled for all models, radii, restarts and targets.
    An attack only sees the examples that those before it left, at the radii at which
    they did. Radii are taken in ascending order, and an example broken at one radius
    counts as broken at every larger one of the list, where it is not attacked: the
    perturbation found lies in the larger ball too. So accuracy never rises with the
    radius, and the answer at a radius may depend on the smaller ones in the list.
    Outcomes are otherwise independent of each other, of the order of the attacks, of
    `batch_size` and of how attacks are packed, up to the rounding of the device's
    matrix products.

    Several local devices share each bucket, without talking to each other.

    Args:
        apply: from the weights of one model to the model in evaluation mode, which
            takes images in [0, 1] to logits. A pure function: a later call with the
            same one uses the programs compiled for it.
        weights: pytrees of arrays of the same shapes, such as `(params, state)`.
        dataset: examples; each counts exactly once.
        attacks: a builder such as `with_restarts(PGD(num_steps=200), 5)`, a list of
            them, which are run in this order and named after what they are, or builders
            by name, as `standard_ensemble()` gives. What an attack draws depends on its
            name. It sees batches of one image, mapped.
        epsilons: radii, in units of [0, 1] pixels.
        norm: of the ball: one of `THREATS`, or one of your own (path.py:NAME, or the
            class).
        search: "every" attacks each radius in ascending order, up to the first that
            breaks an example. "bisect" attacks the middle of the radii in question,
            about log2 as many; both neighbors of the answer are attacked, but what
            withstands a radius is taken to withstand the smaller ones, which a model
            with masked gradients may not.
        matmul_precision: of the matrix products of attacks: "default" (the fastest:
            TF32 on a GPU, bfloat16 on a TPU), "high" or "highest" (float32); the same
            on a CPU. Clean images, and those that attacks found, are judged at
            "highest" whatever it is.
        batch_size: images attacked at once, rounded up to a multiple of the local
            devices; None for as many as keep the device busy for some seconds.
        seed: of everything random.
        journal: file in which progress is kept, so that the same call goes on after
            it was killed, with the same answer; None to keep none. It tells another
            model, data set, radius or setting, but not other code of an attack.
        report: told each finished radius of each attack, in ascending order.
        progress: told how far the evaluation is, after each bucket.
        compact: whether attacks that cannot change the answer are left out; False
            makes every attack of every example, for the same answer.
        keep_images: whether to return the image that broke each example at the smallest
            radius. Each is judged once more; they lie in memory and in the journal.

    Returns:
        Flags for each example, one result for each model.

    Raises:
        ValueError: for an attack that the norm does not have; for a radius, norm or
            number out of range; if `compact` is False for a bisection; if `weights` is
            empty, or if the models differ in the structure, shapes or types of their
            weights; if a radius is in another unit than the images, a model has another
            number of classes than the data, or answers clean images with something not
            finite, or by the other images of the batch; if an attack succeeds outside
            the ball or the pixel range; if the journal is damaged or that of another
            evaluation.
        InUseError: if another process uses the journal.

    Warns:
        AdversarialImagesWarning: if an image that is kept does not break the model when
            it is asked again.
    """
    weights, epsilons = list(weights), tuple(map(float, epsilons))
    check_same_shapes(weights)
    threat = threat_of(norm)
    require(bool(epsilons), "epsilons", "one radius or more", epsilons, "give [0.3]")
    for epsilon in epsilons:
        threat.require_epsilon(epsilon)
    named = named_attacks(attacks)
    require_norm_of(named, threat)
    require_choice("search", search, get_args(Search))
    require_precision(matmul_precision)
    if batch_size is not None:
        require_count("batch_size", batch_size, "None chooses one")
    require(
        search != "bisect" or compact,
        "compact",
        "True for a bisection",
        compact,
        "`search` must be 'every' to make every attack",
    )
    plan = Plan(
        stages=tuple(Stage(name, build) for name, build in named.items()),
        epsilons=tuple(sorted(set(epsilons))),
        threat=threat,
        num_classes=dataset.num_classes,
        seed=seed,
        batch_size=batch_size,
        is_compact=compact,
        search=search,
        keeps_images=keep_images,
        is_shared=is_function_of_weights(weights),
        matmul_precision=matmul_precision,
    )
    tallies = run_plan(
        apply,
        weights,
        dataset,
        plan,
        journal=journal,
        report=report,
        progress=progress,
    )
    clean = np.asarray(as_float(jnp.asarray(dataset.images))) if keep_images else None
    results = [
        _evaluation(tally, plan, epsilons, np.zeros(0) if clean is None else clean)
        for tally in tallies
    ]
    for tree, result in zip(weights, results, strict=True):
        if result.images is not None and result.image_epsilon is not None:
            kept = (result.images, result.image_epsilon)
            check_adversarial(apply, tree, dataset, *kept)
    return results


def evaluate(
    logits_fn: LogitsFn,
    dataset: Dataset,
    attacks: Attacks,
    epsilons: Sequence[float],
    *,
    norm: str | type[ThreatModel] = "linf",
    search: Search = "every",
    matmul_precision: MatmulPrecision = "default",
    batch_size: int | None = None,
    seed: int = 0,
    journal: Path | str | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    compact: bool = True,
    keep_images: bool = False,
) -> Evaluation:
    """Attack every example of a data set; `evaluate_models` for one model.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        attacks: one builder, a list, or builders by name; see `evaluate_models`, as for
            all that follows.
        epsilons: radii, in units of [0, 1] pixels.
        norm: of the ball: one of `THREATS`, or one of your own (path.py:NAME, or the
            class).
        search: "every" radius, or "bisect".
        matmul_precision: of the attacks; what they found is judged at "highest".
        batch_size: images attacked at once; None chooses.
        seed: of everything random.
        journal: file in which progress is kept; the model is known again by its
            answers.
        report: told each finished radius of each attack.
        progress: told how far the evaluation is, after each bucket.
        compact: whether attacks that cannot change the answer are left out.
        keep_images: whether to return the image that broke each example.

    Returns:
        Flags for each example, and which attack broke it. An example broken at one
        radius counts as broken at every larger one of the list.
    """
    (evaluation,) = evaluate_models(
        lambda _: logits_fn,
        [()],
        dataset,
        attacks,
        epsilons,
        norm=norm,
        search=search,
        matmul_precision=matmul_precision,
        batch_size=batch_size,
        seed=seed,
        journal=journal,
        report=report,
        progress=progress,
        compact=compact,
        keep_images=keep_images,
    )
    return evaluation
