"""What a checklist measures: attacks run on demand, each compiled once for all radii.

Every question of a checklist is a predicate on `Evidence`. It holds the images and
models, runs an attack when a question first needs it, and remembers the outcome, so
questions share what they have alike. A PGD is one program whatever its start, radius,
step and number of steps: FGSM is its single step from the clean image.

No attack is believed: its images are judged again by the model.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require
from jaxrobust.attacks import PGD, AttackBuilder, judge
from jaxrobust.attacks.builders import settled
from jaxrobust.attacks.combinators import restarts_of
from jaxrobust.attacks.settings import in_proportion
from jaxrobust.data import Dataset, as_float, subset
from jaxrobust.data.parts import subset_rows
from jaxrobust.evaluation.certificates import Certification
from jaxrobust.evaluation.checklist_config import ChecklistConfig
from jaxrobust.evaluation.engine.builders import put_together, taken_apart
from jaxrobust.evaluation.preflight import among_strangers, require_independent
from jaxrobust.keys import seeded
from jaxrobust.losses import LOSSES, LossName
from jaxrobust.precision import JUDGED, MatmulPrecision, at_precision
from jaxrobust.threat import ThreatModel, norm_name, threat_of
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey

__all__ = ["BASE", "CHECKED", "Evidence", "Outcome"]

CHECKED, BASE = "checked", "base"

NUM_STEPS, TRAVEL = 100, 2.5
"""Of the PGD beside an attack that is none: its steps, and their length together in
radii, as in Shaeiri et al., 2020."""


class Outcome(NamedTuple):
    """What an attack did to all images, as judged by the model itself.

    Attributes:
        images: `(examples, ...)`, as the attack returned them.
        is_broken: the model is right on the clean image and wrong on this one.
        is_claimed: what the attack said of itself.
        loss: that the reference climbs, at the true label.
        model: that judged them.
        epsilon: radius of the ball that they were sought in.
    """

    images: np.ndarray
    is_broken: np.ndarray
    is_claimed: np.ndarray
    loss: np.ndarray
    model: str
    epsilon: float


class _Programs(NamedTuple):
    """The compiled functions of one model."""

    logits: Callable
    gradient: Callable
    climb: Callable


def _compile(
    logits_fn: LogitsFn, loss: LossName, precision: MatmulPrecision
) -> _Programs:
    loss_fn = LOSSES[loss]

    def gradient(images: Images, labels: Labels) -> Images:
        return jax.grad(lambda x: jnp.sum(loss_fn(logits_fn(x), labels)))(images)

    def climb(
        attack: PGD, threat: ThreatModel, start: Images, images: Images, labels: Labels
    ) -> Images:
        search = attack(threat, start=start)
        return search(seeded(0), logits_fn, images, labels).images

    return _Programs(
        jax.jit(at_precision(JUDGED, logits_fn)),
        jax.jit(at_precision(precision, gradient)),
        jax.jit(at_precision(precision, climb)),
    )


@jax.jit
def _sample(key: PRNGKey, threat: ThreatModel, images: Images) -> Images:
    return threat.sample(key, images)


def _reference(attack: AttackBuilder, config: ChecklistConfig) -> PGD:
    """The PGD that other questions use, at the configured radius."""
    if config.reference is not None:
        return config.reference.at(config.epsilon)
    if isinstance(attack, PGD):
        return attack
    return PGD(step_size=TRAVEL * config.epsilon / NUM_STEPS, num_steps=NUM_STEPS)


class Evidence:
    """Images, models and what attacks did to them, measured when first asked for.

    Args:
        logits_fn: the model that is checked, in evaluation mode.
        dataset: where the images are from.
        config: the attack to be judged, and budgets.
        base_fn: the model of a smaller radius that its weights started from.
        source_fns: other models to make transferred images on, by name.
        certification: of the checked model, on all examples of the data set.
        report: told what is being computed.

    Attributes:
        attack: builds the attack that is judged, for one run of it.
        num_restarts: how often it is run.
        reference: the PGD that other questions use.
        is_certified: which images are certified at the configured radius; None if that
            was not given.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        dataset: Dataset,
        config: ChecklistConfig,
        *,
        base_fn: LogitsFn | None = None,
        source_fns: Mapping[str, LogitsFn] | None = None,
        certification: Certification | None = None,
        report: Callable[[str], None] | None = None,
    ):
        self.config = config
        self.attack, self.num_restarts = restarts_of(config.attack)
        if isinstance(self.attack, PGD):
            self.attack = self.attack.at(config.epsilon)
        self.reference = _reference(self.attack, config)
        self.num_classes = dataset.num_classes
        size = min(config.num_images, len(dataset))
        chosen = subset(dataset, size)
        self.is_certified: np.ndarray | None = None
        if certification is not None:
            proven = certification.proves(config.epsilon, norm_name(config.norm))
            remedy = "certify the examples that are checked"
            rule = f"of the {len(dataset)} examples"
            count = len(proven)
            require(count == len(dataset), "certification", rule, count, remedy)
            self.is_certified = proven[subset_rows(dataset, size)]
        self.images = np.asarray(as_float(chosen.images))
        self.labels = np.asarray(chosen.labels)
        self.models: dict[str, LogitsFn] = {CHECKED: logits_fn}
        if base_fn is not None:
            self.models[BASE] = base_fn
        self.sources = dict(source_fns or {})
        self.models |= {f"source {name}": fn for name, fn in self.sources.items()}
        self._report = report
        self._key = seeded(config.seed)
        self._programs: dict[str, _Programs] = {}
        self._attacks: dict[tuple, Callable] = {}
        self._memory: dict[tuple, Outcome] = {}
        self._is_right: dict[str, np.ndarray] = {}

    def require_independent(self) -> None:
        """Refuse models whose answer to an image depends on the others of its batch.

        Raises:
            ValueError: naming the checked or the base model.
        """
        size = max(min(self.config.batch_size, self.num_images), 2)
        first = jnp.asarray(np.resize(self.images, (size, *self.images.shape[1:])))
        for model in (CHECKED, BASE):
            if model not in self.models:
                continue
            answer = self.programs(model).logits
            require_independent(
                lambda mask, answer=answer: answer(
                    among_strangers(first, mask, first[0])
                ),
                size,
                f"the {model} model",
            )

    # Sizes and thresholds.

    @property
    def logits_fn(self) -> LogitsFn:
        """The model that is checked."""
        return self.models[CHECKED]

    @property
    def num_images(self) -> int:
        """Number of images, rightly classified or not."""
        return len(self.labels)

    @property
    def is_right(self) -> np.ndarray:
        """Which clean images the checked model classifies rightly."""
        return self.is_right_of(CHECKED)

    def is_right_of(self, model: str) -> np.ndarray:
        """Which clean images a model classifies rightly."""
        if model not in self._is_right:
            self._is_right[model] = ~self.is_wrong(self.images, model)
        return self._is_right[model]

    @property
    def few(self) -> int:
        """Images that may fall to a weaker attack alone."""
        return max(1, math.ceil(self.config.tolerance * self.num_images))

    @property
    def little(self) -> int:
        """Images by which an attack that "changes little" may differ."""
        return max(2, math.ceil(self.config.change * self.num_images))

    @property
    def widest(self) -> float:
        """A radius whose ball holds the whole pixel range."""
        return threat_of(self.config.norm).diameter(self.images.shape[1:])

    def threat(self, epsilon: float) -> ThreatModel:
        """The ball at a radius, which compiled programs take as an argument."""
        return threat_of(self.config.norm)(jnp.float32(epsilon))

    def at_radius(self, build: AttackBuilder, epsilon: float) -> AttackBuilder:
        """A builder at a radius: steps of PGD grow in proportion to it."""
        made_for = self.config.epsilon
        return settled(
            in_proportion(build, epsilon=epsilon, made_for=made_for), epsilon
        )

    # The model, without an attack.

    def programs(self, model: str = CHECKED) -> _Programs:
        """The compiled functions of a model."""
        if model not in self._programs:
            settings = self.reference.loss, self.config.matmul_precision
            self._programs[model] = _compile(self.models[model], *settings)
        return self._programs[model]

    def _batches(self, function: Callable, *arrays: np.ndarray) -> list[np.ndarray]:
        """A function of batches of one size, over all examples."""
        count = len(arrays[0])
        size = min(self.config.batch_size, self.num_images)
        parts = []
        for start in range(0, count, size):
            chosen = np.resize(np.arange(start, min(start + size, count)), size)
            found = function(start, *(array[chosen] for array in arrays))
            used = min(size, count - start)
            parts.append([np.asarray(leaf)[:used] for leaf in jax.tree.leaves(found)])
        return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]

    def logits(self, images: np.ndarray, model: str = CHECKED) -> np.ndarray:
        """Logits, `(examples, classes)`."""
        program = self.programs(model).logits
        return self._batches(lambda _, x: program(x), images)[0]

    def is_wrong(self, images: np.ndarray, model: str = CHECKED) -> np.ndarray:
        """Which images a model does not give their label."""
        return np.asarray(
            judge(jnp.asarray(self.logits(images, model)), jnp.asarray(self.labels))
        )

    def loss(self, images: np.ndarray) -> np.ndarray:
        """The loss that the reference climbs, at the true labels."""
        loss_fn, logits = LOSSES[self.reference.loss], jnp.asarray(self.logits(images))
        return np.asarray(loss_fn(logits, jnp.asarray(self.labels)))

    def gradients(self, images: np.ndarray) -> np.ndarray:
        """Gradient of the loss, of each image."""
        program = self.programs().gradient
        return self._batches(lambda _, x, y: program(x, y), images, self.labels)[0]

    def random_images(self, epsilon: float, number: int) -> np.ndarray:
        """Images uniform in the ball; another draw for every number."""
        key = jax.random.fold_in(self._key, number)
        return np.asarray(_sample(key, self.threat(epsilon), jnp.asarray(self.images)))

    # Attacks.

    def _judged(
        self,
        images: np.ndarray,
        claimed: np.ndarray | None,
        model: str,
        epsilon: float,
    ) -> Outcome:
        # Judged by the checked model unless the attack was on the base for itself.
        is_wrong = self.is_wrong(images, model)
        claimed = is_wrong if claimed is None else claimed
        is_broken = is_wrong & self.is_right_of(model)
        return Outcome(images, is_broken, claimed, self.loss(images), model, epsilon)

    def _remember(
        self, name: tuple, compute: Callable[[], Outcome], *, of: Hashable = None
    ) -> Outcome:
        """An outcome by its name, and by the settings that the name does not tell."""
        if (name, of) not in self._memory:
            if self._report is not None:
                self._report(" ".join(str(part) for part in name if part is not None))
            self._memory[name, of] = compute()
        return self._memory[name, of]

    def pgd(
        self,
        attack: PGD | None = None,
        *,
        epsilon: float | None = None,
        restart: int = 0,
        model: str = CHECKED,
        judge_by: str | None = None,
        **changes: Any,
    ) -> Outcome:
        """A PGD on a model, judged by it or by another one.

        Args:
            attack: its settings at the configured radius; None for the reference.
            epsilon: radius, to which the step is in proportion; by default the
                configured one.
            restart: number of the random start.
            model: that the images are made on.
            judge_by: model that judges them; by default the same.
            **changes: settings that are others, such as `num_steps`; a `step_size` as
                it is at the radius.
        """
        epsilon = self.config.epsilon if epsilon is None else epsilon
        attack = self.reference if attack is None else attack
        step_size = attack.step_size * epsilon / self.config.epsilon
        changes = {"step_size": step_size} | changes
        attack = dataclasses.replace(attack, **changes)

        def images() -> np.ndarray:
            first = self.images
            if attack.random_start:
                first = self.random_images(epsilon, restart)
            return self.climb(first, attack, epsilon=epsilon, model=model)

        start = "random" if attack.random_start else "center"
        made = ("PGD", model, epsilon, start, restart)
        made += (attack.num_steps, attack.step_size)
        made_on = self._remember(
            made, lambda: self._judged(images(), None, model, epsilon), of=attack
        )
        if judge_by in (None, model):
            return made_on
        return self._remember(
            (*made, "judged by", judge_by),
            lambda: self._judged(made_on.images, None, judge_by, epsilon),
            of=attack,
        )

    def climb(
        self,
        start: np.ndarray,
        attack: PGD,
        *,
        epsilon: float,
        model: str = CHECKED,
    ) -> np.ndarray:
        """Images that PGD reaches from given ones, in the ball of the clean ones."""
        program, threat = self.programs(model).climb, self.threat(epsilon)
        # Where it starts is given, and no reason for another program.
        attack = dataclasses.replace(attack, random_start=False)
        return self._batches(
            lambda _, first, x, y: program(attack, threat, first, x, y),
            *(start, self.images, self.labels),
        )[0]

    def run(
        self,
        name: str,
        build: AttackBuilder,
        *,
        epsilon: float | None = None,
        restart: int = 0,
        model: str = CHECKED,
    ) -> Outcome:
        """Any attack on a model, compiled once for all radii at which it is alike.

        Args:
            name: under which its outcome is remembered.
            build: the attack, its settings as they are at the configured radius.
            epsilon: radius; by default the configured one.
            restart: number of the run, which decides what it draws.
            model: that it attacks, and that judges.
        """
        epsilon = self.config.epsilon if epsilon is None else epsilon
        structure, functions, numbers = taken_apart(self.at_radius(build, epsilon))
        slot = (model, structure, *map(id, functions))
        if slot not in self._attacks:
            logits_fn = self.models[model]

            def attack(numbers, key: PRNGKey, threat: ThreatModel, images, labels):
                made = put_together(structure, functions, numbers)(threat)
                found = made(key, logits_fn, images, labels)
                return found.images, found.is_adversarial

            precision = self.config.matmul_precision
            self._attacks[slot] = jax.jit(at_precision(precision, attack))
        program, threat = self._attacks[slot], self.threat(epsilon)
        key = jax.random.fold_in(jax.random.fold_in(self._key, 1), restart)

        def compute() -> Outcome:
            images, claimed = self._batches(
                lambda batch, x, y: program(
                    numbers, jax.random.fold_in(key, batch), threat, x, y
                ),
                *(self.images, self.labels),
            )
            return self._judged(images, claimed, model, epsilon)

        return self._remember((name, model, epsilon, restart), compute)

    def white_box(
        self,
        *,
        epsilon: float | None = None,
        restart: int = 0,
        model: str = CHECKED,
    ) -> Outcome:
        """One run of the attack that is judged."""
        if isinstance(self.attack, PGD):
            attack, where = self.attack, {"epsilon": epsilon, "model": model}
            return self.pgd(attack, restart=restart, **where)
        return self.run(
            "the attack", self.attack, epsilon=epsilon, restart=restart, model=model
        )

    def is_broken(
        self,
        *,
        epsilon: float | None = None,
        num_restarts: int | None = None,
        model: str = CHECKED,
    ) -> np.ndarray:
        """What the attack that is judged breaks in some start."""
        count = self.num_restarts if num_restarts is None else num_restarts
        runs = [
            self.white_box(epsilon=epsilon, restart=index, model=model).is_broken
            for index in range(count)
        ]
        return np.any(runs, axis=0)

    def is_broken_by_any(self) -> tuple[np.ndarray, int]:
        """What any attack broke that was run within the radius, and how many were."""
        within = [
            each.is_broken
            for each in self._memory.values()
            if each.model == CHECKED and each.epsilon <= self.config.epsilon
        ]
        nothing = np.zeros(self.num_images, bool)
        return np.any([nothing, *within], axis=0), len(within)

    def fgsm(self, fraction: float = 1.0) -> Outcome:
        """The single step from the clean image, or a fraction of it."""
        step = fraction * self.config.epsilon
        return self.pgd(
            random_start=False,
            num_steps=1,
            step_size=step,
            direction="steepest",
            keep="last",
        )

    def accuracy(self, is_broken: np.ndarray, model: str = CHECKED) -> float:
        """Share of all images that a model is right on and that do not break."""
        return float(np.mean(self.is_right_of(model) & ~is_broken))
