"""Attacks that only look at logits: random search, estimated gradients, plain noise.

They find what gradients hide. A model that withstands PGD and falls to one of these has
masked its gradients; it is not robust. All of them climb the margin loss, count a
success by `judge`, and never take a derivative of the model.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxrobust.arguments import (
    require_choice,
    require_count,
    require_in,
    require_shape,
)
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    better,
    checked,
    judge,
    nothing_found,
)
from jaxrobust.losses import margin
from jaxrobust.threat import L2Ball, LinfBall, ThreatModel, l2_normalize
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = [
    "NoiseKind",
    "brute_force",
    "noise",
    "spsa",
    "square",
    "square_bump",
    "square_sides",
    "zoo",
]

NoiseKind = Literal["uniform", "gaussian"]

# Turns taken, the best so far, and what is to be tried next.
_Search = tuple[jax.Array, AttackResult, jax.Array]

# The same, with the number of each example's next query after the turns.
_Squaring = tuple[jax.Array, jax.Array, AttackResult, jax.Array]

# Of 10,000 queries; after each of them the area of the squares halves.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def is_linf(name: str, threat: ThreatModel) -> bool:
    """Whether a threat is the l_inf rather than the l_2 ball.

    Raises:
        TypeError: for any other threat model.
    """
    if isinstance(threat, LinfBall):
        return True
    if isinstance(threat, L2Ball):
        return False
    raise TypeError(
        f"`threat` must be a LinfBall or an L2Ball for {name}, got "
        f"{type(threat).__name__}; {name} is only defined for these two norms."
    )


def evaluated(logits_fn: LogitsFn, images: Images, labels: Labels) -> AttackResult:
    """What an attack without gradients reports of its images: margin and judgement."""
    logits = logits_fn(images)
    is_finite = jnp.ones(images.shape[:1], bool)
    is_adversarial = judge(logits, labels)
    return AttackResult(images, margin(logits, labels), is_adversarial, is_finite)


def evaluated_many(
    logits_fn: LogitsFn, images: jax.Array, labels: Labels
) -> tuple[jax.Array, jax.Array]:
    """Margin and judgement of several images per example, both `(batch, several)`."""
    batch, count = images.shape[:2]
    found = evaluated(
        logits_fn,
        images.reshape(batch * count, *images.shape[2:]),
        jnp.repeat(labels, count),
    )
    shape = (batch, count)
    return found.loss.reshape(shape), found.is_adversarial.reshape(shape)


def per_example(values: jax.Array, images: jax.Array) -> jax.Array:
    """Numbers of shape `(batch,)`, to be combined with images of any shape."""
    return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


def _replaced(
    is_replaced: jax.Array, new: AttackResult, old: AttackResult
) -> AttackResult:
    """Per example the new result or the old one."""

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(per_example(is_replaced, one), one, other)

    return jax.tree.map(choose, new, old)


def _corners(threat: ThreatModel, center: Images) -> tuple[Images, Images]:
    """The lowest and the highest value that an l_inf ball allows in each pixel."""
    reach = 2 * threat.radius(center)
    wide = widened(center)
    lower, upper = (wide - reach).astype(center.dtype), wide + reach
    return (
        threat.project(lower, center),
        threat.project(upper.astype(center.dtype), center),
    )


# --- Square attack -------------------------------------------------------------------


def square_sides(
    height: int, width: int, *, initial_share: float = 0.8, is_odd: bool = False
) -> np.ndarray:
    """Sides of the squares in the ten stages of `square`, in pixels.

    The share of the image that a square covers starts at `initial_share` and halves
    from stage to stage.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        initial_share: in (0, 1].
        is_odd: the rule of the l2 attack: odd sides of at least 3, where they fit.
    """
    shares = initial_share / 2.0 ** np.arange(len(_HALVINGS) + 1)
    sides = np.maximum(np.round(np.sqrt(shares * height * width)).astype(np.int32), 1)
    if is_odd:
        sides = np.maximum(sides, 3)
        sides += 1 - sides % 2
    return np.minimum(sides, min(height, width))


def _square_stage(index: jax.Array, num_queries: Scalar) -> jax.Array:
    """How often the area of the squares has halved at query `index`, from 0 on.

    The paper's schedule is for 10,000 queries, and query `index` stands for
    `floor(index / num_queries * 10000)` of these; past `limit` means at least
    `ceil((limit + 1) * num_queries / 10000)`, here in 32-bit integers.
    """
    whole, rest = jnp.divmod(jnp.asarray(num_queries, jnp.int32), 10_000)
    first = jnp.asarray(_HALVINGS, jnp.int32) + 1
    starts = first * whole - (-first * rest) // 10_000
    return jnp.searchsorted(starts, index, side="right", method="compare_all")


def _draw_below(word: jax.Array, limit: jax.Array) -> jax.Array:
    """A number, uniform below `limit`, from the lower half of each word.

    A multiplication in place of a division; the bias is below limit / 2^16.
    """
    return (((word & 0xFFFF) * limit.astype(jnp.uint32)) >> 16).astype(jnp.int32)


def _bits(words: jax.Array, count: int) -> jax.Array:
    """The first `count` bits of words, `(..., words)` to booleans `(..., count)`."""
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * words.ndim + (32,))
    bits = (words[..., None] >> shifts) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :count].astype(bool)


def _packed(flags: jax.Array) -> jax.Array:
    """Booleans as bits of words, the inverse of `_bits`."""
    count = flags.shape[-1]
    empty = [(0, 0)] * (flags.ndim - 1) + [(0, 32 * _num_words(count) - count)]
    flags = jnp.pad(flags, empty).astype(jnp.uint32)
    flags = flags.reshape(*flags.shape[:-1], -1, 32)
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * (flags.ndim - 1) + (32,))
    return jnp.sum(flags << shifts, axis=-1, dtype=jnp.uint32)


def _bits_between(first: jax.Array, end: jax.Array, count: int) -> jax.Array:
    """Words of `count` bits, of which those from `first` to before `end` are set."""
    offsets = 32 * jnp.arange(_num_words(count))
    offsets = offsets.reshape((1,) * first.ndim + (-1,))

    def below(limit: jax.Array) -> jax.Array:
        limit = jnp.clip(limit[..., None] - offsets, 0, 32)
        some = (jnp.uint32(1) << jnp.minimum(limit, 31).astype(jnp.uint32)) - 1
        return jnp.where(limit == 32, jnp.uint32(0xFFFFFFFF), some)

    return below(end) & ~below(first)


def _num_words(count: int) -> int:
    return -(-count // 32)


class _Window(NamedTuple):
    """A square window in each image.

    Attributes:
        top: `(batch,)`, its first row.
        left: `(batch,)`, its first column.
        is_inside: `(batch, height, width, 1)`.
    """

    top: jax.Array
    left: jax.Array
    is_inside: jax.Array


def _place(
    words: jax.Array, side: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """First rows and first columns of squares at random places, one for each word."""
    top = _draw_below(words >> 16, height - side + 1)
    return top, _draw_below(words, width - side + 1)


def _window(words: jax.Array, side: jax.Array, height: int, width: int) -> _Window:
    """Windows at random places, made of comparisons: mapped, slices are gathers."""
    top, left = _place(words, side, height, width)
    rows = jnp.arange(height)[None, :, None, None] - top[:, None, None, None]
    columns = jnp.arange(width)[None, None, :, None] - left[:, None, None, None]
    side = side[:, None, None, None]
    is_inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return _Window(top, left, is_inside)


def _unit(values: jax.Array, axes: tuple[int, ...] = (1, 2)) -> jax.Array:
    """Values divided by their length over some axes; zeros stay 0."""
    square = jnp.sum(jnp.square(values), axis=axes, keepdims=True)
    return values * lax.rsqrt(jnp.where(square > 0, square, 1.0))


def square_bump(side: int) -> np.ndarray:
    """What the l2 attack adds in a window: two heaps of opposite sign, of length 1.

    Each of the two halves, one above the other, has its middle, and a pixel at
    distance n from it (the larger of rows and columns) gets the sum of 1 / k^2 for k
    from n + 1 to side // 2 + 1: equation 2 of the paper. Both halves weigh the same.

    Args:
        side: of the window, in pixels, at least 1.

    Returns:
        Array `(side, side)`, its upper half positive.
    """
    terms = 1 / np.arange(1.0, side // 2 + 2) ** 2
    heights = np.append(np.cumsum(terms[::-1])[::-1], 0.0)
    halves = []
    for sign, rows in ((1, side // 2), (-1, side - side // 2)):
        away = np.abs(np.arange(rows) - rows // 2)[:, None]
        across = np.abs(np.arange(side) - side // 2)[None]
        half = heights[np.maximum(away, across)]
        halves.append(sign * half / max(np.linalg.norm(half), 1e-12))
    bump = np.concatenate(halves)
    return (bump / np.linalg.norm(bump)).astype(np.float32)


class _Squares(NamedTuple):
    """The random search of `square` under one norm.

    Attributes:
        num_words: random words each example needs for a proposal.
        start: `key -> images`.
        propose: `(words, stages, images) -> images`; for each example its words
            `(batch, num_words)` and stage `(batch,)`.
        num_ahead: proposals to draw at once, to find one that changes something.
        is_idle: `(words, stages, images) -> flags`, for words `(batch, num_ahead,
            num_words)` and stages `(batch, num_ahead)`: which change nothing.
    """

    num_words: int
    start: Callable[[PRNGKey], Images]
    propose: Callable[[jax.Array, jax.Array, Images], Images]
    num_ahead: int
    is_idle: Callable[[jax.Array, jax.Array, Images], jax.Array]


def _linf_squares(threat: ThreatModel, center: Images, share: float) -> _Squares:
    """Stripes first, then squares of one sign per channel; always corners."""
    batch, height, width, channels = center.shape
    sides = jnp.asarray(square_sides(height, width, initial_share=share))
    lower, upper = _corners(threat, center)

    def start(key: PRNGKey) -> Images:
        is_up = jax.random.bernoulli(key, shape=(batch, 1, width, channels))
        return jnp.where(is_up, upper, lower)

    def propose(words: jax.Array, stages: jax.Array, images: Images) -> Images:
        window = _window(words[:, 0], sides[stages], height, width)
        is_up = _bits(words[:, 1:], channels)[:, None, None]
        painted = jnp.where(is_up, upper, lower)
        return jnp.where(window.is_inside, painted, images)

    def is_idle(words: jax.Array, stages: jax.Array, images: Images) -> jax.Array:
        # Pixels that each of the two colors would change, row by row in bits: a square
        # costs a few operations a row then, not one or more a pixel.
        changed = jnp.stack([images != lower, images != upper], axis=1)
        changed = _packed(jnp.moveaxis(changed, -1, 2))[:, None]
        side = sides[stages]
        top, left = _place(words[..., 0], side, height, width)
        rows = jnp.arange(height)[None, None] - top[..., None]
        is_row = (rows >= 0) & (rows < side[..., None])
        columns = _bits_between(left, left + side, width)
        # (batch, ahead, color, channel, row, word)
        hit = (changed & columns[:, :, None, None, None]) != 0
        hit = jnp.any(hit & is_row[:, :, None, None, :, None], axis=(-2, -1))
        is_up = _bits(words[..., 1:], channels)
        return ~jnp.any(jnp.where(is_up, hit[:, :, 1], hit[:, :, 0]), axis=-1)

    # A small square often has the color that it would be painted in.
    num_words = 1 + _num_words(channels)
    return _Squares(num_words, start, propose, num_ahead=4, is_idle=is_idle)


def _l2_squares(threat: ThreatModel, center: Images, share: float) -> _Squares:
    """A grid of bumps first, then bumps paid for by clearing a second window."""
    batch, height, width, channels = center.shape
    sides = square_sides(height, width, initial_share=share, is_odd=True)
    # Each stage's bump, upright and turned, on a canvas from which a slice of the size
    # of the image shows it at any place.
    canvases = np.zeros((2, len(sides), 2 * height, 2 * width), np.float32)
    for stage, side in enumerate(sides):
        bump = square_bump(side)
        canvases[0, stage, height : height + side, width : width + side] = bump
        canvases[1, stage, height : height + side, width : width + side] = bump.T
    epsilon = threat.radius(center)

    def moved_by(perturbation: jax.Array) -> Images:
        moved = widened(center) + perturbation
        return threat.project(moved.astype(center.dtype), center)

    def start(key: PRNGKey) -> Images:
        # Five tiles along the shorter edge, as many as fit along the other.
        side = max(min(height, width) // 5, 1)
        grid = (batch, height // side, width // side)
        sign_key, turn_key = jax.random.split(key)
        signs = jax.random.rademacher(sign_key, (*grid, channels), jnp.float32)
        is_turned = jax.random.bernoulli(turn_key, shape=grid)
        bump = square_bump(side)
        upright, turned = (jnp.tile(tile[None], grid) for tile in (bump, bump.T))

        def spread(each: jax.Array) -> jax.Array:
            return jnp.repeat(jnp.repeat(each, side, axis=1), side, axis=2)

        tiles = jnp.where(spread(is_turned), turned, upright)[..., None] * spread(signs)
        edges = [
            ((rest := size - tiles.shape[axis]) // 2, rest - rest // 2)
            for axis, size in ((1, height), (2, width))
        ]
        tiles = jnp.pad(tiles, ((0, 0), *edges, (0, 0)))
        return moved_by(epsilon * _unit(tiles, (1, 2, 3)))

    def propose(words: jax.Array, stages: jax.Array, images: Images) -> Images:
        side = jnp.asarray(sides)[stages]
        here = _window(words[:, 0], side, height, width)
        there = _window(words[:, 1], side, height, width)
        coins = _bits(words[:, 2:], channels + 1)
        signs = jnp.where(coins[:, None, None, 1:], 1.0, -1.0)

        def show(
            is_turned: jax.Array, stage: jax.Array, top: jax.Array, left: jax.Array
        ) -> jax.Array:
            first = (is_turned.astype(jnp.int32), stage, height - top, width - left)
            shown = lax.dynamic_slice(
                jnp.asarray(canvases), first, (1, 1, height, width)
            )
            return shown[0, 0, :, :, None]

        bump = jax.vmap(show)(coins[:, 0], stages, here.top, here.left)
        old = widened(images) - widened(center)
        squares = jnp.square(old)
        unused = jnp.maximum(
            epsilon**2 - jnp.sum(squares, axis=(1, 2, 3), keepdims=True), 0.0
        )
        is_free = here.is_inside | there.is_inside
        freed = jnp.sum(jnp.where(is_free, squares, 0.0), axis=(1, 2), keepdims=True)
        # The two windows' length and what the ball has left: the sum has length epsilon
        # again, before it is clipped to the pixel range.
        new = bump * signs + _unit(jnp.where(here.is_inside, old, 0.0))
        new = jnp.sqrt(freed + unused / channels) * _unit(new)
        return moved_by(jnp.where(is_free, new, old))

    def is_idle(words: jax.Array, stages: jax.Array, images: Images) -> jax.Array:
        del words, images
        return jnp.zeros(stages.shape, bool)

    num_words = 2 + _num_words(channels + 1)
    return _Squares(num_words, start, propose, num_ahead=1, is_idle=is_idle)


def square(
    threat: ThreatModel, *, num_queries: Scalar = 5000, initial_share: float = 0.8
) -> Attack:
    """Square attack: random search by squares, with the settings of AutoAttack.

    Starts from vertical stripes at the corners of the ball (l_inf) or a grid of bumps
    (l2). Each query repaints one square at a random place, and the change is kept if it
    raises the margin loss or fools the model. The area of the squares starts at
    `initial_share` of the image and halves after 10, 50, 200, 500, 1000, 2000, 4000,
    6000 and 8000 of 10,000 queries, rescaled to `num_queries`. An example that fools
    the model is left alone, and the loop ends when all do. A square that would change
    nothing counts as a query, but the model is not asked what it has answered before;
    examples therefore need not be at the same query at the same time.

    Args:
        threat: an l_inf or l2 ball; the radius may be traced.
        num_queries: squares tried for each example, besides the start; at least 1 and
            may be traced.
        initial_share: of the image that the first squares cover, in (0, 1].

    Returns:
        An attack on images `(batch, height, width, channels)`; the loss is the margin.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range, or, when the attack is traced, for images
            of another rank.

    References:
        Andriushchenko et al., 2020, arXiv:1912.00049, Algorithms 1 to 3; Croce and
        Hein, 2020, arXiv:2003.01690.

    Differs from AutoAttack: squares may also touch the last row and column, which its
    draw of places leaves out; every example has its own squares; under l2 the budget
    of a channel is what the windows free in that channel, as in the paper.
    """
    squares_for = _linf_squares if is_linf("square", threat) else _l2_squares
    require_count("num_queries", num_queries, "AutoAttack uses 5000")
    remedy = "it is the share of the image that the first squares cover, such as 0.8"
    require_in("initial_share", initial_share, "(0, 1]", remedy)

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        require_shape(
            "images",
            images,
            ("batch", "height", "width", "channels"),
            "add the missing axes for square, such as a last one of length 1 for gray "
            "images",
        )
        start_key, query_key = jax.random.split(key)
        squares = squares_for(threat, images, initial_share)
        batch, ahead = images.shape[0], squares.num_ahead

        def next_query(
            turn: jax.Array, index: jax.Array, best: Images
        ) -> tuple[jax.Array, Images]:
            """Each example's first query from `index` on that changes something."""
            # One draw for everything that a query needs: draws cost more than masks.
            words = jax.random.bits(
                jax.random.fold_in(query_key, turn),
                (batch, ahead, squares.num_words),
                jnp.uint32,
            )
            indices = index[:, None] + jnp.arange(ahead, dtype=jnp.int32)[None]
            stages = _square_stage(indices, num_queries)
            is_idle = squares.is_idle(words, stages, best)
            # Of idle ones only, the last: it does no harm.
            chosen = jnp.argmin(is_idle.at[:, -1].set(False), axis=1)

            def pick(each: jax.Array) -> jax.Array:
                index = per_example(chosen[:, None], each)
                return jnp.take_along_axis(each, index, axis=1)[:, 0]

            return pick(indices), squares.propose(pick(words), pick(stages), best)

        def is_open(carry: _Squaring) -> jax.Array:
            _, index, best, _ = carry
            return jnp.any((index <= num_queries) & ~best.is_adversarial)

        def body(carry: _Squaring) -> _Squaring:
            # The loop carries the next query. XLA would fuse its making into the
            # model's first convolution, once for each window that holds a pixel.
            turn, index, best, images = carry
            tried = evaluated(logits_fn, images, labels)
            is_better = (tried.loss > best.loss) | tried.is_adversarial
            is_better &= ~best.is_adversarial & (index <= num_queries)
            best = _replaced(is_better, tried, best)
            index, images = next_query(turn, index + 1, best.images)
            return turn + 1, index, best, images

        # The start is better than nothing, so that it is query 0 of the loop.
        first = jnp.zeros(batch, jnp.int32)
        carry = (jnp.int32(0), first, nothing_found(images), squares.start(start_key))
        return lax.while_loop(is_open, body, carry)[2]

    return attack


# --- Estimated gradients -------------------------------------------------------------


class _Moments(NamedTuple):
    """Adam's averages, with a count for each pixel: pixels move at different times."""

    mean: jax.Array
    square: jax.Array
    count: jax.Array


def _adam(
    moments: _Moments, gradient: jax.Array, is_moved: jax.Array
) -> tuple[_Moments, jax.Array]:
    """One step of Adam in some of the pixels, of length about 1 in each."""
    count = moments.count + is_moved
    mean = jnp.where(is_moved, 0.9 * moments.mean + 0.1 * gradient, moments.mean)
    square = jnp.where(
        is_moved, 0.999 * moments.square + 0.001 * gradient**2, moments.square
    )
    number = jnp.maximum(count, 1.0)
    unbiased = jnp.sqrt(square / (1 - 0.999**number))
    step = mean / (1 - 0.9**number) / (unbiased + 1e-8)
    return _Moments(mean, square, count), jnp.where(is_moved, step, 0.0)


Query = Callable[[jax.Array], jax.Array]
"""From several images per example to their margins, `(batch, several)`."""
Estimate = Callable[[PRNGKey, Query, Images], tuple[jax.Array, jax.Array]]
"""`(key, query, images)` to a gradient and the pixels in which it is known."""


_Climb = tuple[jax.Array, AttackResult, AttackResult, _Moments]


def _climb(
    threat: ThreatModel,
    estimate: Estimate,
    *,
    num_steps: Scalar,
    learning_rate: Scalar,
) -> Attack:
    """Projected Adam along an estimated gradient, from the clean images.

    An example that fools the model is left alone, and the loop ends when all do, so no
    example's outcome depends on the others of its batch.
    """

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def query(points: jax.Array) -> jax.Array:
            return evaluated_many(logits_fn, points.astype(images.dtype), labels)[0]

        def is_open(carry: _Climb) -> jax.Array:
            index, _, best, _ = carry
            return (index < num_steps) & ~jnp.all(best.is_adversarial)

        def body(carry: _Climb) -> _Climb:
            index, now, best, moments = carry
            step_key = jax.random.fold_in(key, index)
            gradient, is_known = estimate(step_key, query, now.images)
            # A model may answer a query by NaN; such an estimate moves nothing.
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            moments, step = _adam(moments, gradient, is_known)
            moved = widened(now.images) + learning_rate * step
            moved = threat.project(moved.astype(images.dtype), images)
            moved = _replaced(
                ~best.is_adversarial, evaluated(logits_fn, moved, labels), now
            )
            return index + 1, moved, better(best, moved), moments

        first = evaluated(logits_fn, images, labels)
        zeros = jnp.zeros_like(widened(images))
        carry = (jnp.int32(0), first, first, _Moments(zeros, zeros, zeros))
        return lax.while_loop(is_open, body, carry)[2]

    return attack


def zoo(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 10,
    num_coordinates: int = 128,
    learning_rate: Scalar = 0.01,
    spacing: Scalar = 1e-4,
) -> Attack:
    """Zeroth-order optimization: finite differences in a few pixels at a time (LP-C10).

    A step draws `num_coordinates` pixels without repetition, asks for the margin at
    `+-spacing` in each of them (two queries a pixel), moves these pixels by Adam with
    a count of its own for each pixel, and projects on the ball.

    The defaults are those of `ZooAttack` of the adversarial-robustness-toolbox, which
    LP uses. They are weak: ten steps of 0.01 move a pixel by 0.1 at most.

    Args:
        threat: the set to stay in; the radius may be traced.
        num_steps: at least 1; may be traced.
        num_coordinates: pixels (and channels) of each step; at most all are taken.
        learning_rate: of Adam, in units of [0, 1] pixels; may be traced.
        spacing: of the finite differences, in the same unit. Images in half precision
            need a wider one: where rounding leaves no difference, nothing moves.

    Returns:
        An attack that starts at the clean images; the loss is the margin.

    Raises:
        ValueError: for a number out of range.

    References:
        Chen et al., 2017, arXiv:1708.03999, Algorithms 1 and 2.

    Differs from the paper and the toolbox: these add the squared length of the
    perturbation to the loss, with a constant found by bisection, and have no radius;
    here the ball is the constraint and the margin the whole objective. Queries stay in
    the pixel range, and pixels are drawn uniformly, without resizing of the image.
    """
    require_count("num_steps", num_steps, "the checklist uses 10")
    require_count("num_coordinates", num_coordinates, "the toolbox uses 128")
    require_in("learning_rate", learning_rate, "(0, inf)", "the toolbox uses 0.01")
    require_in("spacing", spacing, "(0, inf)", "the toolbox uses 1e-4")

    def estimate(
        key: PRNGKey, query: Query, images: Images
    ) -> tuple[jax.Array, jax.Array]:
        batch, size = images.shape[0], images[0].size
        count = min(num_coordinates, size)
        drawn = jax.random.uniform(key, (batch, size), jnp.float32)
        _, chosen = lax.top_k(drawn, count)
        is_chosen = chosen[:, :, None] == jnp.arange(size)[None, None]
        wide = widened(images).reshape(batch, 1, size)

        def moved(by: Scalar) -> jax.Array:
            points = threat.clip((wide + by).astype(images.dtype))
            return jnp.where(is_chosen, points, wide.astype(images.dtype))

        ahead, behind = moved(spacing), moved(-spacing)
        # What rounding and the pixel range leave of twice the spacing.
        apart = jnp.sum(widened(ahead - behind), axis=2)
        points = jnp.concatenate([ahead, behind], axis=1)
        losses = query(points.reshape(batch, 2 * count, *images.shape[1:]))
        rise = losses[:, :count] - losses[:, count:]
        slope = jnp.where(apart > 0, rise / jnp.where(apart > 0, apart, 1.0), 0.0)
        # A pixel is chosen once at most, so the sum copies.
        gradient = jnp.sum(jnp.where(is_chosen, slope[:, :, None], 0.0), axis=1)
        is_known = jnp.any(is_chosen, axis=1)
        return gradient.reshape(images.shape), is_known.reshape(images.shape)

    return _climb(threat, estimate, num_steps=num_steps, learning_rate=learning_rate)


def spsa(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 100,
    num_directions: Scalar = 128,
    learning_rate: Scalar = 0.01,
    spacing: Scalar = 0.01,
    batch_size: int = 128,
) -> Attack:
    r"""Simultaneous perturbation stochastic approximation, with Adam.

    The gradient of the margin `f` is estimated by the mean over random signs `v` of
    :math:`v (f(x + \delta v) - f(x - \delta v)) / 2 \delta`, two queries a direction.

    Args:
        threat: the set to stay in; the radius may be traced.
        num_steps: at least 1; may be traced.
        num_directions: for each gradient, at least 1; may be traced.
        learning_rate: of Adam, in units of [0, 1] pixels; may be traced.
        spacing: delta, in the same unit; queries may leave the pixel range by it.
        batch_size: directions tried at once for each image; sets the memory needed, of
            twice as many images.

    Returns:
        An attack that starts at the clean images; the loss is the margin.

    Raises:
        ValueError: for a number out of range.

    References:
        Uesato et al., 2018, arXiv:1802.05666, Section 3.3 and Algorithm 1 (8,192
        directions, 100 steps, delta 0.01, Adam 0.01).
    """
    require_count("num_steps", num_steps, "the paper uses 100")
    require_count("num_directions", num_directions, "the paper uses 8192")
    require_count("batch_size", batch_size, "128 is a good choice")
    require_in("learning_rate", learning_rate, "(0, inf)", "the paper uses 0.01")
    require_in("spacing", spacing, "(0, inf)", "the paper uses 0.01")

    def estimate(
        key: PRNGKey, query: Query, images: Images
    ) -> tuple[jax.Array, jax.Array]:
        batch, size = images.shape[0], images[0].size
        wide = widened(images)[:, None]

        def body(index: jax.Array, total: jax.Array) -> jax.Array:
            shape = (batch, batch_size, _num_words(size))
            words = jax.random.bits(jax.random.fold_in(key, index), shape, jnp.uint32)
            signs = jnp.where(_bits(words, size), 1.0, -1.0).astype(wide.dtype)
            signs = signs.reshape(batch, batch_size, *images.shape[1:])
            points = [wide + spacing * signs, wide - spacing * signs]
            losses = query(jnp.concatenate(points, axis=1))
            rise = losses[:, :batch_size] - losses[:, batch_size:]
            number = index * batch_size + jnp.arange(batch_size)
            rise = jnp.where((number < num_directions)[None], rise, 0.0)
            return total + jnp.sum(per_example(rise, signs) * signs, axis=1)

        num_turns = (num_directions + batch_size - 1) // batch_size
        zeros = jnp.zeros_like(widened(images))
        total = lax.fori_loop(0, num_turns, body, zeros)
        is_known = jnp.ones(images.shape, bool)
        return total / (2 * spacing * num_directions), is_known

    return _climb(threat, estimate, num_steps=num_steps, learning_rate=learning_rate)


# --- Noise ---------------------------------------------------------------------------


def brute_force(
    threat: ThreatModel, *, num_samples: Scalar, batch_size: int = 128
) -> Attack:
    """Random corners of the ball, as many as one can afford (LP-C8).

    Under l_inf every pixel moves by `+-epsilon`, by a fair coin, and is clipped to the
    pixel range; under l2 the direction is uniform on the sphere of radius `epsilon`.
    The first sample that fools the model is kept, or the one of highest margin. The
    loop ends when all examples are fooled. Samples are drawn, judged and forgotten, so
    memory does not grow with their number.

    Args:
        threat: an l_inf or l2 ball; the radius may be traced.
        num_samples: of each example, exactly; at least 1 (LP-C8: 1e8, which float32
            models on an accelerator reach in hours an image); may be traced.
        batch_size: samples of each image judged at once, which sets the memory needed.

    Returns:
        An attack; the loss is the margin.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range; the loop counts in 32 bits.
    """
    is_corner = is_linf("brute_force", threat)
    require_count("batch_size", batch_size, "the checklist uses 128", most=2**24)
    remedy = "the checklist uses 100_000_000"
    require_count("num_samples", num_samples, remedy, most=2**31 - 1 - batch_size)

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        batch, size = images.shape[0], images[0].size
        several = (batch, batch_size, *images.shape[1:])
        lower, upper = _corners(threat, images) if is_corner else (images, images)

        def draw(turn_key: PRNGKey) -> jax.Array:
            if is_corner:
                shape = (batch, batch_size, _num_words(size))
                words = jax.random.bits(turn_key, shape, jnp.uint32)
                is_up = _bits(words, size).reshape(several)
                return jnp.where(is_up, upper[:, None], lower[:, None])
            wide = widened(images)[:, None]
            directions = jax.random.normal(turn_key, several, wide.dtype)
            flat = directions.reshape(batch * batch_size, *images.shape[1:])
            directions = l2_normalize(flat).reshape(several)
            moved = wide + threat.radius(images) * directions
            project = jax.vmap(threat.project, in_axes=(1, None), out_axes=1)
            return project(moved.astype(images.dtype), images)

        def is_open(carry: _Search) -> jax.Array:
            turn, best, _ = carry
            return (turn * batch_size < num_samples) & ~jnp.all(best.is_adversarial)

        def body(carry: _Search) -> _Search:
            turn, best, samples = carry  # made ahead, as in `square`
            losses, is_adversarial = evaluated_many(logits_fn, samples, labels)
            number = turn * batch_size + jnp.arange(batch_size)
            is_wanted = (number < num_samples)[None]
            is_adversarial &= is_wanted
            losses = jnp.where(is_wanted & ~jnp.isnan(losses), losses, -jnp.inf)
            # `argmax` takes the first of the successes, else the highest margin.
            is_any = jnp.any(is_adversarial, axis=1)
            chosen = jnp.where(
                is_any, jnp.argmax(is_adversarial, axis=1), jnp.argmax(losses, axis=1)
            )

            def pick(each: jax.Array) -> jax.Array:
                index = per_example(chosen[:, None], each)
                return jnp.take_along_axis(each, index, axis=1)[:, 0]

            picked = AttackResult(
                pick(samples), pick(losses), is_any, best.is_gradient_finite
            )
            is_new = is_any | (picked.loss > best.loss)
            is_new &= ~best.is_adversarial
            ahead = draw(jax.random.fold_in(key, turn + 1))
            return turn + 1, _replaced(is_new, picked, best), ahead

        first = draw(jax.random.fold_in(key, 0))
        carry = (jnp.int32(0), nothing_found(images), first)
        best = lax.while_loop(is_open, body, carry)[1]
        # Once more alone: the margin is that of the returned images, whatever the batch
        # of samples did to its last digits.
        return evaluated(logits_fn, best.images, labels)

    return attack


def noise(
    threat: ThreatModel, *, kind: NoiseKind = "uniform", num_samples: Scalar = 1
) -> Attack:
    """Undirected noise: the weakest attack, and a floor for all others.

    Args:
        threat: the set to stay in; the radius may be traced.
        kind: "uniform" in the ball; or "gaussian", projected on it, with a standard
            deviation in each pixel of `epsilon` (l_inf) or `epsilon / sqrt(d)` (l2),
            where d counts pixels and channels.
        num_samples: of each example, at least 1, of which the strongest is kept: one
            that fools the model if there is any, then by the margin. May be traced.

    Returns:
        An attack; the loss is the margin.

    Raises:
        TypeError: for Gaussian noise and a threat model of another norm.
        ValueError: for an unknown kind or a number of samples below 1.
    """
    require_choice("kind", kind, get_args(NoiseKind))
    require_count("num_samples", num_samples, "1 draws once")
    is_per_pixel = kind == "gaussian" and is_linf("gaussian noise", threat)

    def draw(key: PRNGKey, images: Images) -> Images:
        if kind == "uniform":
            return threat.sample(key, images)
        deviation = threat.radius(images)
        if not is_per_pixel:
            deviation /= images[0].size ** 0.5
        wide = widened(images)
        moved = wide + deviation * jax.random.normal(key, images.shape, wide.dtype)
        return threat.project(moved.astype(images.dtype), images)

    @checked(threat, has_fixed_length=not isinstance(num_samples, Tracer))
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def body(index: jax.Array, best: AttackResult) -> AttackResult:
            drawn = draw(jax.random.fold_in(key, index), images)
            return better(best, evaluated(logits_fn, drawn, labels))

        return lax.fori_loop(0, num_samples, body, nothing_found(images))

    return attack
