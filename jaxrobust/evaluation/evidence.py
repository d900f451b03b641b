"""What a checklist measures: attacks run on demand, each compiled once for all radii.

Every question of a checklist is a predicate on `Evidence`. It holds the images and
models, runs an attack when a question first needs it, and remembers the outcome, so
questions share what they have alike. The library's own PGD is one program whatever its
start, radius, step and number of steps: FGSM is its single step from the clean image.

No attack is believed: its images are judged again by the model.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.attacks import Attack, iterate, judge
from jaxrobust.attacks.base import AttackState
from jaxrobust.attacks.gradient import pgd_kernel
from jaxrobust.data import Dataset, as_float, subset
from jaxrobust.evaluation.preflight import among_strangers, require_independent
from jaxrobust.losses import LOSSES, LossName
from jaxrobust.threat import THREATS, ThreatModel
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar

__all__ = [
    "AttackBuilder",
    "Check",
    "ChecklistConfig",
    "Evidence",
    "Judgement",
    "Question",
    "Verdict",
]

Verdict = Literal["pass", "fail", "inconclusive"]
AttackBuilder = Callable[[ThreatModel], Attack]

CHECKED, BASE = "checked", "base"


class Check(NamedTuple):
    """One answered question.

    Attributes:
        name: of the question.
        source: where it is from, such as "LP-C8".
        question: what is asked, so that the answer "yes" is a pass.
        verdict: "pass", "fail", or "inconclusive" if it cannot be said.
        measured: the numbers the verdict rests on; counts are of images.
        threshold: what would fail.
        reason: why the threshold is there, or why nothing can be said.
        is_needed: whether an "inconclusive" leaves the whole in doubt; False where
            the caller gave nothing to ask about, such as no base model.
    """

    name: str
    source: str
    question: str
    verdict: Verdict
    measured: dict[str, float]
    threshold: str
    reason: str
    is_needed: bool = True


class Judgement(NamedTuple):
    """What a question's predicate answers: the last fields of a `Check`."""

    verdict: Verdict
    measured: dict[str, float]
    threshold: str
    reason: str
    is_needed: bool = True


class Question(NamedTuple):
    """A named predicate on the evidence."""

    name: str
    source: str
    text: str
    decide: Callable[["Evidence"], Judgement]

    def ask(self, evidence: "Evidence") -> Check:
        """The answer, with the question beside it."""
        return Check(self.name, self.source, self.text, *self.decide(evidence))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChecklistConfig:
    """The budgets of a checklist; the defaults suit a few minutes on MNIST.

    Raises:
        ValueError: for a radius, step size, share or count out of range.
    """

    epsilon: float = 0.3
    """Radius the model is checked at, in units of [0, 1] pixels."""
    norm: str = "linf"
    """Norm of the ball: linf or l2."""
    step_size: float = 0.01
    """Length of a step at that radius; grows in proportion at other radii."""
    num_steps: int = 100
    """Steps of PGD."""
    num_restarts: int = 1
    """Starts of the attack that is judged."""
    loss: LossName = "cross_entropy"
    """What PGD climbs."""
    num_images: int = 200
    """First images of every class, in proportion; fewer if there are fewer."""
    batch_size: int = 100
    """Images attacked at once."""
    many_restarts: int = 10
    """Starts in LP-C4."""
    long_steps: int = 2000
    """Steps in LP-C5."""
    num_radii: int = 5
    """Radii between 0 and the whole pixel range in LP-C6."""
    brute_force_samples: int = 10_000
    """Corners of the ball tried for each image in LP-C8; the paper's is 1e8."""
    zoo_steps: int = 40
    """Steps of ZOO in LP-C10; the default of the toolbox that LP uses is 10."""
    num_queries: int = 1000
    """Queries of the Square attack."""
    tolerance: float = 0.02
    """Share of the images (at least one) that a weaker attack may break alone."""
    change: float = 0.05
    """Share of the images (at least two) that "changes little" may mean."""
    seed: int = 0
    """Of everything random."""

    def __post_init__(self):
        counts = (
            *("num_steps", "num_restarts", "num_images", "batch_size"),
            *("many_restarts", "long_steps", "brute_force_samples"),
            *("zoo_steps", "num_queries"),
        )
        units = "radii and steps are in units of [0, 1] pixels, so 8/255 rather than 8"
        default = "leave it out for its default"
        radii = "(0, 1)" if self.norm == "linf" else "(0, inf)"
        require_choice("norm", self.norm, tuple(THREATS))
        require_in("epsilon", self.epsilon, radii, units)
        require_in("step_size", self.step_size, "(0, inf)", units)
        require_choice("loss", self.loss, tuple(LOSSES))
        for name in counts:
            require_count(name, getattr(self, name), default)
        require_count("num_radii", self.num_radii, default, least=2)
        require_in("tolerance", self.tolerance, "[0, 1)", default)
        require_in("change", self.change, "[0, 1)", default)


class Outcome(NamedTuple):
    """What an attack did to all images, as judged by the model itself.

    Attributes:
        images: `(examples, ...)`, as the attack returned them.
        is_broken: the model is right on the clean image and wrong on this one.
        is_claimed: what the attack said of itself.
        loss: of the configuration, at the true label.
    """

    images: np.ndarray
    is_broken: np.ndarray
    is_claimed: np.ndarray
    loss: np.ndarray


class _Programs(NamedTuple):
    """The compiled functions of one model."""

    logits: Callable
    gradient: Callable
    climb: Callable


def _compile(logits_fn: LogitsFn, config: ChecklistConfig) -> _Programs:
    loss_fn = LOSSES[config.loss]

    def gradient(images: Images, labels: Labels) -> Images:
        return jax.grad(lambda x: jnp.sum(loss_fn(logits_fn(x), labels)))(images)

    def climb(
        threat: ThreatModel,
        step_size: Scalar,
        num_steps: Scalar,
        start: Images,
        images: Images,
        labels: Labels,
    ) -> Images:
        kernel = pgd_kernel(threat, step_size=step_size, loss=config.loss)

        def init(
            key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
        ) -> AttackState:
            del key, logits_fn
            return AttackState(start, images, labels, jnp.ones(len(images), bool))

        search = iterate(kernel._replace(init=init), num_steps=num_steps)
        return search(jax.random.key(0), logits_fn, images, labels).images

    return _Programs(jax.jit(logits_fn), jax.jit(gradient), jax.jit(climb))


@jax.jit
def _sample(key: PRNGKey, threat: ThreatModel, images: Images) -> Images:
    return threat.sample(key, images)


class Evidence:
    """Images, models and what attacks did to them, measured when first asked for.

    Args:
        logits_fn: the model that is checked, in evaluation mode.
        dataset: where the images are from.
        config: budgets.
        base_fn: the model of a smaller radius that its weights started from.
        source_fns: other models to make transferred images on, by name.
        attack: the attack to be judged; None for the PGD of the configuration.
        report: told what is being computed.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        dataset: Dataset,
        config: ChecklistConfig,
        *,
        base_fn: LogitsFn | None = None,
        source_fns: Mapping[str, LogitsFn] | None = None,
        attack: AttackBuilder | None = None,
        report: Callable[[str], None] | None = None,
    ):
        self.config = config
        self.attack = attack
        self.num_classes = dataset.num_classes
        chosen = subset(dataset, min(config.num_images, len(dataset)))
        self.images = np.asarray(as_float(chosen.images))
        self.labels = np.asarray(chosen.labels)
        self.models: dict[str, LogitsFn] = {CHECKED: logits_fn}
        if base_fn is not None:
            self.models[BASE] = base_fn
        self.sources = dict(source_fns or {})
        self.models |= {f"source {name}": fn for name, fn in self.sources.items()}
        self._report = report
        self._key = jax.random.key(config.seed, impl="threefry2x32")
        self._programs: dict[str, _Programs] = {}
        self._attacks: dict[str, Callable] = {}
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
        size = float(self.images[0].size)
        return 1.0 if self.config.norm == "linf" else math.sqrt(size)

    def threat(self, epsilon: float) -> ThreatModel:
        """The ball at a radius, which compiled programs take as an argument."""
        return THREATS[self.config.norm](jnp.float32(epsilon))

    def step_size_at(self, epsilon: float) -> float:
        """The step in proportion to the radius."""
        return self.config.step_size * epsilon / self.config.epsilon

    # The model, without an attack.

    def programs(self, model: str = CHECKED) -> _Programs:
        """The compiled functions of a model."""
        if model not in self._programs:
            self._programs[model] = _compile(self.models[model], self.config)
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
        """The configured loss at the true labels."""
        logits = jnp.asarray(self.logits(images))
        return np.asarray(LOSSES[self.config.loss](logits, jnp.asarray(self.labels)))

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
        self, images: np.ndarray, claimed: np.ndarray | None, model: str
    ) -> Outcome:
        # Judged by the checked model unless the attack was on the base for itself.
        is_wrong = self.is_wrong(images, model)
        claimed = is_wrong if claimed is None else claimed
        is_broken = is_wrong & self.is_right_of(model)
        return Outcome(images, is_broken, claimed, self.loss(images))

    def _remember(self, name: tuple, compute: Callable[[], Outcome]) -> Outcome:
        if name not in self._memory:
            if self._report is not None:
                self._report(" ".join(str(part) for part in name if part is not None))
            self._memory[name] = compute()
        return self._memory[name]

    def pgd(
        self,
        *,
        epsilon: float | None = None,
        start: Literal["random", "center"] = "random",
        restart: int = 0,
        num_steps: int | None = None,
        step_size: float | None = None,
        model: str = CHECKED,
        judge_by: str | None = None,
    ) -> Outcome:
        """The library's PGD on a model, judged by it or by another one.

        Args:
            epsilon: radius; by default the configured one.
            start: uniform in the ball, or the clean image.
            restart: number of the random start.
            num_steps: by default the configured number.
            step_size: by default the configured one, in proportion to the radius.
            model: that the images are made on.
            judge_by: model that judges them; by default the same.
        """
        epsilon = self.config.epsilon if epsilon is None else epsilon
        num_steps = self.config.num_steps if num_steps is None else num_steps
        step = self.step_size_at(epsilon) if step_size is None else step_size

        def images() -> np.ndarray:
            first = self.images
            if start == "random":
                first = self.random_images(epsilon, restart)
            return self.climb(first, epsilon, num_steps, step, model)

        made = ("PGD", model, epsilon, start, restart, num_steps, step)
        made_on = self._remember(made, lambda: self._judged(images(), None, model))
        if judge_by in (None, model):
            return made_on
        return self._remember(
            (*made, "judged by", judge_by),
            lambda: self._judged(made_on.images, None, judge_by),
        )

    def climb(
        self,
        start: np.ndarray,
        epsilon: float,
        num_steps: int,
        step_size: float,
        model: str = CHECKED,
    ) -> np.ndarray:
        """Images that PGD reaches from given ones, in the ball of the clean ones."""
        program = self.programs(model).climb
        settings = jnp.float32(step_size), jnp.int32(num_steps)
        threat = self.threat(epsilon)
        return self._batches(
            lambda _, first, x, y: program(threat, *settings, first, x, y),
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
        """Any attack on a model, compiled once under its name for all radii."""
        epsilon = self.config.epsilon if epsilon is None else epsilon
        if (slot := f"{name} {model}") not in self._attacks:
            logits_fn = self.models[model]

            def attack(key: PRNGKey, threat: ThreatModel, images: Images, labels):
                found = build(threat)(key, logits_fn, images, labels)
                return found.images, found.is_adversarial

            self._attacks[slot] = jax.jit(attack)
        program, threat = self._attacks[slot], self.threat(epsilon)
        key = jax.random.fold_in(jax.random.fold_in(self._key, 1), restart)

        def compute() -> Outcome:
            images, claimed = self._batches(
                lambda batch, x, y: program(
                    jax.random.fold_in(key, batch), threat, x, y
                ),
                *(self.images, self.labels),
            )
            return self._judged(images, claimed, model)

        return self._remember((name, model, epsilon, restart), compute)

    def white_box(
        self,
        *,
        epsilon: float | None = None,
        restart: int = 0,
        model: str = CHECKED,
    ) -> Outcome:
        """One run of the attack that is judged."""
        if self.attack is None:
            return self.pgd(epsilon=epsilon, restart=restart, model=model)
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
        count = self.config.num_restarts if num_restarts is None else num_restarts
        runs = [
            self.white_box(epsilon=epsilon, restart=index, model=model).is_broken
            for index in range(count)
        ]
        return np.any(runs, axis=0)

    def fgsm(self, fraction: float = 1.0) -> Outcome:
        """The single step from the clean image, or a fraction of it."""
        step = fraction * self.config.epsilon
        return self.pgd(start="center", num_steps=1, step_size=step)

    def accuracy(self, is_broken: np.ndarray, model: str = CHECKED) -> float:
        """Share of all images that a model is right on and that do not break."""
        return float(np.mean(self.is_right_of(model) & ~is_broken))
