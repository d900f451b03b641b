"""What figures of a report draw."""

from types import SimpleNamespace

import numpy as np

from jaxrobust.report.drawing import _curves


def assessed(name, certified):
    curve = {
        "epsilons": [0.0, 0.1, 0.2],
        "robust_accuracy": [1.0, 0.75, 0.5],
        "robust_interval": [[0.9, 1.0], [0.7, 0.8], [0.4, 0.6]],
        "num_steps": 5,
        "num_images": 40,
    }
    subject = SimpleNamespace(name=name, norm="linf")
    return SimpleNamespace(subject=subject, curve=curve, certified=certified)


def test_what_is_certified_is_drawn_below_what_attacks_left():
    proven = {"certified_accuracy": {"0.1": 0.5, "0.2": 0.25}}
    drawing, figure = _curves("digits", [assessed("base", proven)], "")
    attacked, certified = figure.axes[0].lines
    assert (attacked.get_label(), certified.get_label()) == ("base", "base, certified")
    np.testing.assert_allclose(certified.get_xydata(), [[0.1, 50], [0.2, 25]])
    assert "Certified: of the images of the table" in drawing.caption
    drawing, figure = _curves("digits", [assessed("base", None)], "")
    assert len(figure.axes[0].lines) == 1
    assert "ertified" not in drawing.caption
