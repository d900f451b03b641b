"""What an objective is: a loss of a model on a batch, with the attack that it wants."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrobust.attacks import PGD, judge
from jaxrobust.pytrees import Pytree, static
from jaxrobust.training.recipe.model import Model
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey

__all__ = [
    "Objective",
    "Seen",
    "Unresolved",
    "as_pytree",
    "attack_numbers",
    "attacked",
    "require_objective",
    "seen",
    "settled",
    "unresolved",
    "with_attack",
]

Objective = Callable[..., Any]
"""`(key, model, threat, images, labels) -> (loss, Seen)`.

It sees the whole batch, however many devices share it: images
`(batch, height, width, channels)` of pixels in [0, 1], labels `(batch,)`. The loss is a
mean over the batch, in nats, and is differentiated in the parameters of the model. The
threat model is the ball at the radius of the step. Everything random comes from the
key. Frozen dataclasses that are a `Pytree` have numbers that can be swept; with a
method `at_radius(epsilon, end)` these follow the radius to the last one of a phase.
"""


class Seen(NamedTuple):
    """What a step has seen of its batch.

    Attributes:
        state: of the network, after the step.
        is_correct: whether the images trained on are classified rightly, `(batch,)`.
        is_gradient_finite: whether the attack met finite gradients only, `(batch,)`.
        logits: whose cross-entropy is in the loss, with weight 1, `(batch, classes)`,
            for transforms of it; None if there are none.
    """

    state: Any
    is_correct: Bool[Array, " batch"]
    is_gradient_finite: Bool[Array, " batch"]
    logits: Float[Array, "batch classes"] | None = None


def seen(
    model: Model,
    logits: Float[Array, "batch classes"],
    labels: Labels,
    is_gradient_finite: Bool[Array, " batch"] | None = None,
    *,
    in_loss: Float[Array, "batch classes"] | None = None,
) -> Seen:
    """What a step has seen.

    Args:
        model: after the step.
        logits: of the images trained on.
        labels: of the batch.
        is_gradient_finite: of the attack; by default there was none.
        in_loss: logits whose cross-entropy is in the loss; by default the same.
    """
    if is_gradient_finite is None:
        is_gradient_finite = jnp.ones(labels.shape, bool)
    is_correct = ~judge(logits, labels)
    in_loss = logits if in_loss is None else in_loss
    return Seen(model.state, is_correct, is_gradient_finite, in_loss)


@dataclasses.dataclass(frozen=True)
class _Function(Pytree):
    """An objective without numbers of its own."""

    function: Objective = static()

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


@dataclasses.dataclass(frozen=True)
class Unresolved:
    """An objective of a user's own that a run names; nothing of it was imported.

    Attributes:
        name: of a class or function, as it was given.
        settings: its fields, as in JSON.
    """

    name: str
    settings: dict[str, Any]


def unresolved(objective: Any) -> Unresolved | None:
    """What of an objective, or of those that it transforms, a run only names."""
    if objective is None or isinstance(objective, Unresolved):
        return objective
    return unresolved(getattr(objective, "objective", None))


def as_pytree(objective: Objective) -> Pytree:
    """The objective, whose structure says which one it is, its leaves the numbers."""
    missing = unresolved(objective)
    if missing is not None:
        raise ValueError(
            f"`objective` must be there, got {missing.name!r}, which a run names; "
            "call `resolved_objective`, which runs the code, or give another one."
        )
    if not _takes_five(objective):
        shown = repr(objective)
        if inspect.isfunction(objective):
            shown = f"{objective.__name__}{inspect.signature(objective)}"
        raise TypeError(
            "`objective` must be a function (key, model, threat, images, labels) -> "
            f"(loss, Seen), got {shown}; see jaxrobust.training.Objective."
        )
    return objective if isinstance(objective, Pytree) else _Function(objective)


def _takes_five(objective: Any) -> bool:
    if not callable(objective):
        return False
    try:
        inspect.signature(objective).bind(*range(5))
    except TypeError:
        return False
    except ValueError:  # what is not written in Python tells no signature
        return True
    return True


def require_objective(objective: Objective, arguments: Sequence[Any]) -> None:
    """Refuse an objective that breaks the contract, before anything is computed.

    Args:
        objective: to be traced.
        arguments: of the objective; arrays may be shapes.

    Raises:
        TypeError: for another result than a loss and `Seen`.
        ValueError: for a loss that is no scalar, or flags of another shape.
    """
    outcome = jax.eval_shape(objective, *arguments)
    if not (
        isinstance(outcome, tuple)
        and len(outcome) == 2
        and isinstance(outcome[1], Seen)
    ):
        raise TypeError(
            f"`objective` must give (loss, Seen), got {type(outcome).__name__}; end it "
            "by `return loss, seen(model, logits, labels)`."
        )
    loss, seen = outcome
    flags, labels = (seen.is_correct, seen.is_gradient_finite), arguments[-1]
    if loss.shape != () or any(flag.shape != labels.shape for flag in flags):
        shapes = [loss.shape, *(flag.shape for flag in flags)]
        raise ValueError(
            "`objective` must give a loss of shape (), and is_correct and "
            f"is_gradient_finite of {labels.shape}, got {shapes}; take the mean over "
            "the batch."
        )


def settled(objective: Any, epsilon: float, end: float | None = None) -> Any:
    """The objective at a radius that is known to Python.

    Attacks in its fields, and in theirs, settle their number of steps; an objective
    with a method `at_radius(epsilon, end)` says itself what it is at a radius.

    Args:
        objective: the one.
        epsilon: radius of a step.
        end: the radius that the phase comes to; by default it has come there.
    """
    if isinstance(objective, PGD):
        return objective.at(epsilon)
    if not isinstance(objective, Pytree):
        return objective
    follow = getattr(objective, "at_radius", None)
    if follow is not None:
        objective = follow(epsilon, epsilon if end is None else end)
    fields = {
        field.name: getattr(objective, field.name)
        for field in dataclasses.fields(objective)  # type: ignore
    }
    if "objective" in fields:  # a transform, perhaps of a function
        fields["objective"] = as_pytree(fields["objective"])
    changes = {name: settled(value, epsilon, end) for name, value in fields.items()}
    return dataclasses.replace(objective, **changes)  # type: ignore


def attack_numbers(objective: Any, epsilon: float) -> dict[str, float]:
    """Step size and number of steps of an objective's attack; nothing if not known.

    An objective whose attack is no `PGD` can tell them itself, by a method of this name
    that is given the radius.
    """
    if hasattr(objective, "attack_numbers"):
        return objective.attack_numbers(epsilon)
    attack = getattr(objective, "attack", None)
    if isinstance(attack, PGD):
        steps = attack.num_steps_at(epsilon)
        return {"step_size": attack.step_size, "num_steps": steps}
    inner = getattr(objective, "objective", None)
    return {} if inner is None else attack_numbers(inner, epsilon)


def with_attack(objective: Any, change: Callable[[PGD], PGD]) -> Any:
    """The objective with its PGD, or that of the one that it transforms, changed."""
    for name in ("attack", "objective"):
        inner = getattr(objective, name, None)
        if isinstance(inner, PGD):
            return dataclasses.replace(objective, **{name: change(inner)})
        if name == "objective" and inner is not None:
            changed = with_attack(inner, change)
            return dataclasses.replace(objective, **{name: changed})
    return objective


def attacked(model: Model, mode: str, key: PRNGKey) -> LogitsFn:
    """The model as attacks inside training see it; no gradient reaches its parameters.

    Args:
        model: that is trained.
        mode: "eval", or "train", as Madry et al. and Shaeiri et al. do on CIFAR-10:
            batch normalization by the statistics of the attacked batch.
        key: of the network in training mode.
    """
    frozen = model.frozen()
    if mode == "eval":
        return frozen.logits

    def logits_fn(images: Images) -> jax.Array:
        return frozen.train(key, images)[0]

    return logits_fn
