"""What an evaluation does, apart from models and data."""

import zlib
from typing import Literal, NamedTuple

from jaxrobust.attacks import AttackBuilder
from jaxrobust.attacks.builders import num_passes, num_turns, settled
from jaxrobust.precision import JUDGED, MatmulPrecision
from jaxrobust.threat import ThreatModel

__all__ = ["Plan", "Search", "Stage"]

Search = Literal["every", "bisect"]

_STREAMS = {
    **{"pgd": 0, "apgd-ce": 1, "apgd-t": 2, "fab-t": 3, "square": 4},
    **{"apgd-dlr": 5, "fab": 6},
}
"""Numbers of the names that had one before every name made its own."""


class Stage(NamedTuple):
    """One kind of attack, run on what the stages before it left.

    Attributes:
        name: for reports, such as "apgd-t". It decides what the stage draws: the place
            in the list plays no part, so adding a stage changes no other one.
        build: the attack, whose turns are taken one by one. It sees batches of one
            image, mapped.
    """

    name: str
    build: AttackBuilder

    @property
    def stream(self) -> int:
        """What is folded into the seed; 0 takes the seed as it is."""
        return _STREAMS.get(self.name, zlib.crc32(self.name.encode()))


class Plan(NamedTuple):
    """What an evaluation does, apart from models and data.

    Attributes:
        stages: in the order in which they are run.
        epsilons: radii in ascending order, each once, in units of [0, 1] pixels.
        threat: whose ball it is, of which the radius is one of these.
        num_classes: of the data.
        seed: of everything random.
        batch_size: images attacked at once, rounded up to a multiple of the local
            devices; None for as many as keep the device busy for some seconds.
        is_compact: whether attacks that cannot change the answer are left out.
        search: "every" radius in ascending order, up to the first that breaks the
            example; or "bisect", from the middle of the radii in question, where what
            withstands one radius counts as withstanding the smaller ones.
        keeps_images: whether the image that broke each example is kept.
        is_shared: whether a later call with the same functions may use the compiled
            programs of this one; only if the model is a function of its weights.
        matmul_precision: of the attacks. Whether an image is classified rightly is
            asked at `JUDGED`, see `is_judged_again`.
    """

    stages: tuple[Stage, ...]
    epsilons: tuple[float, ...]
    threat: type[ThreatModel]
    num_classes: int
    seed: int = 0
    batch_size: int | None = None
    is_compact: bool = True
    search: Search = "every"
    keeps_images: bool = False
    is_shared: bool = False
    matmul_precision: MatmulPrecision = "default"

    def num_turns(self, stage: int) -> int:
        """Attacks on each example at each radius in a stage, by its number."""
        return num_turns(self.stages[stage].build, self.num_classes)

    def builds(self, stage: int) -> list[AttackBuilder]:
        """The builder of a stage as it is at each radius."""
        build = self.stages[stage].build
        return [settled(build, epsilon) for epsilon in self.epsilons]

    def num_passes(self, stage: int) -> int:
        """Forward passes that one attack of a stage takes, about; 0 if unknown."""
        return max(num_passes(build, self.num_classes) for build in self.builds(stage))

    def is_judged_again(self, platform: str) -> bool:
        """Whether what an attack says of its image was computed at another precision.

        The image is then judged by one more forward pass. An attack at `JUDGED` has
        judged by it already, and so has one on a CPU, where all precisions are the same
        numbers.
        """
        return platform != "cpu" and self.matmul_precision != JUDGED
