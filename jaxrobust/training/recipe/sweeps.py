"""The members of a sweep: which runs there are, and which start from which."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from jaxrobust.arguments import require_choice, require_count
from jaxrobust.data import with_level
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.named_numbers import with_number
from jaxrobust.training.recipe.phases import Carry, Phase

__all__ = [
    "Member",
    "SweepConfig",
    "WarmStart",
    "linspace",
    "parse_part",
    "part_of",
    "waves",
]


def linspace(
    start: float | Fraction, stop: float | Fraction, count: int
) -> tuple[float, ...]:
    """`count` numbers from `start` to `stop`, evenly spaced, both ends included.

    Each is the float that is nearest to it: .1, .2, .3 rather than .30000000000000004,
    and 4/255 as Python has it between `Fraction(1, 255)` and `Fraction(8, 255)`.

    Raises:
        ValueError: if `count` is below 2.
    """
    require_count("count", count, "it includes both ends", least=2)
    # A float stands for the decimal that it is written as.
    first, last = Fraction(str(start)), Fraction(str(stop))
    width = (last - first) / (count - 1)
    return tuple(float(first + index * width) for index in range(count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Which members start from which: a chain is a definition, not a script.

    Members that differ in nothing but the radius belong together.
    """

    rule: Literal["none", "chain", "above"] = "none"
    """none: from random weights. chain: each from the next smaller radius. above: each
    radius above `threshold` from the member at `threshold`."""
    threshold: float = 0.3
    """For the rule above: a radius of the sweep."""
    epochs: int | None = None
    """Epochs of the members that start warm; None for as many as the others."""
    carry: Carry = "optimizer"
    """What they take over, see `Phase`."""

    def __post_init__(self):
        require_choice("rule", self.rule, ("none", "chain", "above"))
        if self.epochs is not None:
            remedy = "leave it out for as many as from random weights"
            require_count("epochs", self.epochs, remedy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a sweep."""

    name: str
    """Its directory below that of the sweep."""
    config: TrainConfig
    """What to do."""
    start_from: str | None = None
    """Name of the member that it starts from; it waits for it."""


VARIANT = "variant."
"""How the names of a variant's numbers begin."""


class _Values(NamedTuple):
    """What distinguishes a member; None where the base decides.

    Attributes:
        epsilon: radius of the last phase.
        seed: of everything random.
        start_from: a run.
        numbers: by name, in every phase.
    """

    epsilon: float | None = None
    seed: int | None = None
    start_from: str | None = None
    numbers: tuple[tuple[str, float], ...] = ()

    def apply(self, base: TrainConfig) -> TrainConfig:
        """The base with these values."""

        def changed(phase: Phase, is_first: bool, is_last: bool) -> Phase:
            for name, value in self.numbers:
                if not name.startswith(VARIANT):
                    phase = with_number(phase, name, value)
            if is_last and self.epsilon is not None:
                end = dataclasses.replace(phase.epsilon, end=self.epsilon)
                phase = dataclasses.replace(phase, epsilon=end)
            if is_first and self.start_from is not None:
                phase = dataclasses.replace(phase, start_from=self.start_from)
            return phase

        last = len(base.phases) - 1
        phases = tuple(
            changed(phase, index == 0, index == last)
            for index, phase in enumerate(base.phases)
        )
        variant = base.variant
        for name, value in self.numbers:
            if name.startswith(VARIANT):
                variant = with_level(variant, name.removeprefix(VARIANT), value)
        seed = base.seed if self.seed is None else self.seed
        return dataclasses.replace(base, phases=phases, seed=seed, variant=variant)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The members of a sweep, as lists of values over a common base.

    Raises:
        ValueError: for lists that do not go together, or members that are the same.
    """

    base: TrainConfig
    """What the members share; a list left empty keeps its value."""
    mode: Literal["grid", "list"] = "grid"
    """grid: every combination of the values. list: the first of each, the second of
    each and so on; lists of one value are repeated."""
    epsilon: tuple[float, ...] = ()
    """Radii of the last phase, in units of [0, 1] pixels."""
    seed: tuple[int, ...] = ()
    """Seeds of everything random."""
    over: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """Values of any numbers of a phase, by name: `optimizer.learning_rate`,
    `objective.attack.step_size`, `objective.beta`; or of the variant of the data:
    `variant.p` of "saturate(2)", which steps make then."""
    start_from: tuple[str, ...] = ()
    """Directories of runs to start from."""
    warm_start: WarmStart = WarmStart()
    """Which members start from other members."""

    def __post_init__(self):
        require_choice("mode", self.mode, ("grid", "list"))
        self.members()

    def _columns(self) -> dict[str, Sequence[Any]]:
        """The lists that were given, by name."""
        own = {name: getattr(self, name) for name in ("epsilon", "seed", "start_from")}
        columns = {**own, **self.over}
        return {name: values for name, values in columns.items() if values}

    def _rows(self) -> list[_Values]:
        columns = self._columns()
        if self.mode == "grid":
            rows = itertools.product(*columns.values())
        else:
            longest = max((len(values) for values in columns.values()), default=1)
            for name, values in columns.items():
                if len(values) not in (1, longest):
                    raise ValueError(
                        f"`{name}` must have 1 or {longest} values, as the longest "
                        f"list has, got {len(values)}; or use the mode grid."
                    )
            wide = [
                tuple(values) * (longest // len(values)) for values in columns.values()
            ]
            rows = zip(*wide, strict=True) if wide else [()]
        return [self._values(dict(zip(columns, row, strict=True))) for row in rows]

    def _values(self, row: dict[str, Any]) -> _Values:
        numbers = tuple((name, row.pop(name)) for name in self.over if name in row)
        return _Values(**row, numbers=numbers)

    def _name(self, values: _Values) -> str:
        columns = self._columns()
        parts = []
        if values.epsilon is not None:
            parts.append(f"epsilon{values.epsilon:g}")
        if len(columns.get("seed", ())) > 1:
            parts.append(f"seed{values.seed}")
        lasts = [name.rpartition(".")[2] for name in self.over]
        for name, value in values.numbers:
            last = name.rpartition(".")[2]
            if len(columns[name]) > 1:
                # In short, unless two of them are then the same.
                parts.append(f"{last if lasts.count(last) == 1 else name}{value:g}")
        if len(self.start_from) > 1 and values.start_from is not None:
            parts.append(f"from{self.start_from.index(values.start_from)}")
        return "-".join(parts) or "member"

    def members(self) -> tuple[Member, ...]:
        """The runs, in the order of the lists."""
        rows = self._rows()
        names = [self._name(row) for row in rows]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(
                f"`members` must differ, got {', '.join(twice)} more than once; leave "
                "out the values that repeat."
            )
        sources = [self._source(rows, index) for index in range(len(rows))]
        return tuple(
            Member(
                name=name,
                config=self._warm(row.apply(self.base), source is not None),
                start_from=None if source is None else names[source],
            )
            for name, row, source in zip(names, rows, sources, strict=True)
        )

    def _source(self, rows: Sequence[_Values], index: int) -> int | None:
        """Index of the member that a member starts from."""
        rule, row = self.warm_start, rows[index]
        if rule.rule == "none":
            return None
        if not self.epsilon or self.start_from:
            raise ValueError(
                f"`warm_start` must be none without radii, or with other runs to start "
                f"from, got {rule.rule!r}; give `epsilon`, and no `start_from`."
            )
        epsilon = row.epsilon
        assert epsilon is not None
        family = [
            other
            for other, candidate in enumerate(rows)
            if candidate._replace(epsilon=None) == row._replace(epsilon=None)
        ]
        radii = {rows[other].epsilon: other for other in family}
        if rule.rule == "above":
            if rule.threshold not in radii:
                raise ValueError(
                    f"`threshold` must be one of the radii ({self.epsilon}), got "
                    f"{rule.threshold!r}; members above it start from the one there."
                )
            return radii[rule.threshold] if epsilon > rule.threshold else None
        smaller = [
            radius for radius in radii if radius is not None and radius < epsilon
        ]
        return radii[max(smaller)] if smaller else None

    def _warm(self, config: TrainConfig, is_warm: bool) -> TrainConfig:
        if not is_warm:
            return config
        phase = dataclasses.replace(
            config.phases[-1],
            name="extended",
            epochs=self.warm_start.epochs or config.phases[-1].epochs,
            carry=self.warm_start.carry,
        )
        return dataclasses.replace(config, phases=(phase,))


def waves(members: Sequence[Member]) -> list[list[Member]]:
    """Members by the order in which they can train: each after the one it starts from.

    Raises:
        ValueError: for a start from a member that does not exist, or from oneself.
    """
    known = {member.name: member for member in members}

    def depth(member: Member, behind: tuple[str, ...] = ()) -> int:
        if member.start_from is None:
            return 0
        if member.start_from not in known or member.start_from in behind:
            raise ValueError(
                f"`start_from` must name another member that does not wait for this "
                f"one, got {member.start_from!r} for {member.name}; known are "
                f"{', '.join(known)}."
            )
        return 1 + depth(known[member.start_from], (*behind, member.name))

    depths = [depth(member, (member.name,)) for member in members]
    return [
        [member for member, its in zip(members, depths, strict=True) if its == wave]
        for wave in range(max(depths, default=-1) + 1)
    ]


def parse_part(text: str) -> tuple[int, int]:
    """The index and the number of parts in a text such as 0/4.

    Raises:
        ValueError: unless 0 <= index < number.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(
            f"`part` must be an index and a number of parts, such as 0/4 for the first "
            f"of four, got {text!r}; indices count from 0."
        )
    return int(index), int(count)


def part_of(members: Sequence[Member], index: int, count: int) -> tuple[Member, ...]:
    """One of `count` parts of a sweep, for jobs that know nothing of each other.

    Members that start from each other stay together.

    Raises:
        ValueError: unless 0 <= `index` < `count`.
    """
    if not 0 <= index < count:
        raise ValueError(
            f"`part` must be from 0 to {count - 1}, got {index!r}; it counts from 0."
        )
    known = {member.name: member for member in members}

    def root(member: Member) -> str:
        while member.start_from is not None:
            member = known[member.start_from]
        return member.name

    roots = list(dict.fromkeys(root(member) for member in members))
    mine = set(roots[index::count])
    return tuple(member for member in members if root(member) in mine)
