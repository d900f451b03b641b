"""Square: random search that repaints one square of the image at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require_count, require_in, require_shape
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    checked,
    nothing_found,
    per_example,
)
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.querying import evaluated, is_linf, replaced
from jaxrobust.attacks.random_bits import (
    bits,
    bits_between,
    draw_below,
    packed,
    words_for,
)
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = ["square", "square_bump", "square_sides"]

# The same, with the number of each example's next query after the turns.
_Squaring = tuple[jax.Array, jax.Array, AttackResult, jax.Array]

# Of 10,000 queries; after each of them the area of the squares halves.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


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
    top = draw_below(words >> 16, height - side + 1)
    return top, draw_below(words, width - side + 1)


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
    lower, upper = threat.corners(center)

    def start(key: PRNGKey) -> Images:
        is_up = jax.random.bernoulli(key, shape=(batch, 1, width, channels))
        return jnp.where(is_up, upper, lower)

    def propose(words: jax.Array, stages: jax.Array, images: Images) -> Images:
        window = _window(words[:, 0], sides[stages], height, width)
        is_up = bits(words[:, 1:], channels)[:, None, None]
        painted = jnp.where(is_up, upper, lower)
        return jnp.where(window.is_inside, painted, images)

    def is_idle(words: jax.Array, stages: jax.Array, images: Images) -> jax.Array:
        # Pixels that each of the two colors would change, row by row in bits: a square
        # costs a few operations a row then, not one or more a pixel.
        changed = jnp.stack([images != lower, images != upper], axis=1)
        changed = packed(jnp.moveaxis(changed, -1, 2))[:, None]
        side = sides[stages]
        top, left = _place(words[..., 0], side, height, width)
        rows = jnp.arange(height)[None, None] - top[..., None]
        is_row = (rows >= 0) & (rows < side[..., None])
        columns = bits_between(left, left + side, width)
        # (batch, ahead, color, channel, row, word)
        hit = (changed & columns[:, :, None, None, None]) != 0
        hit = jnp.any(hit & is_row[:, :, None, None, :, None], axis=(-2, -1))
        is_up = bits(words[..., 1:], channels)
        return ~jnp.any(jnp.where(is_up, hit[:, :, 1], hit[:, :, 0]), axis=-1)

    # A small square often has the color that it would be painted in.
    num_words = 1 + words_for(channels)
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

        def spread(values: jax.Array) -> jax.Array:
            return jnp.repeat(jnp.repeat(values, side, axis=1), side, axis=2)

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
        coins = bits(words[:, 2:], channels + 1)
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

    num_words = 2 + words_for(channels + 1)
    return _Squares(num_words, start, propose, num_ahead=1, is_idle=is_idle)


@costs(lambda num_queries, **_: num_queries)
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

            def pick(values: jax.Array) -> jax.Array:
                index = per_example(chosen[:, None], values)
                return jnp.take_along_axis(values, index, axis=1)[:, 0]

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
            best = replaced(is_better, tried, best)
            index, images = next_query(turn, index + 1, best.images)
            return turn + 1, index, best, images

        # The start is better than nothing, so that it is query 0 of the loop.
        first = jnp.zeros(batch, jnp.int32)
        carry = (jnp.int32(0), first, nothing_found(images), squares.start(start_key))
        return lax.while_loop(is_open, body, carry)[2]

    return attack
