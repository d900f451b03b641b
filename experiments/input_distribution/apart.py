"""How far apart the classes of a data set are, measured once for each variant."""

from experiments.input_distribution.variants import titled
from experiments.workspace import Workspace
from jaxrobust.data import apply_variant, load_arrays
from jaxrobust.data.statistics import inter_class_distance

__all__ = ["distance"]


def distance(dataset: str, variant: str, workspace: Workspace) -> float:
    """Between the classes of the test images, in l_2 and units of [0, 1] pixels."""

    def compute() -> float:
        workspace.say(f"--- distance of {dataset}, {titled(variant)}")
        test = load_arrays(dataset, "test", data_dir=workspace.data_dir)
        return inter_class_distance(apply_variant(test, variant)).value

    return workspace.cached("distance", [dataset, variant], compute)
