"""The command `jaxrobust data describe`: tables, files, refusals."""

import json

import numpy as np
import pytest

from jaxrobust.cli import main
from jaxrobust.data import apply_variant, inter_class_distance, load_arrays, log2_volume


def own(directory, name, images, labels):
    np.savez(directory / f"{name}.npz", image=images, label=labels)
    return str(directory / f"{name}.npz")


def test_variants_stand_beside_each_other_and_are_written(tmp_path, capsys):
    variants = ["original", "saturate(4)"]
    radii = ["--epsilon", "0.3", "8/255"]
    output = ["--output", str(tmp_path / "out")]
    command = ["data", "describe", "digits", "--variant", *variants, *radii, *output]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "digits (8x8), 360 test images of 10 classes" in said
    assert "-111.17 to -47.17" in said  # 64 log2(.3) and 64 log2(.6)
    assert "| 3 | 37 |" in said and "| distance, saturate(4) |" in said
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    dataset = load_arrays("digits", "test")
    for row, variant in zip(found["rows"], variants, strict=True):
        changed = apply_variant(dataset, variant)
        distance = inter_class_distance(changed)
        assert row["inter_class_distance"] == pytest.approx(distance.value, rel=1e-9)
        np.testing.assert_allclose(row["per_class"], distance.per_class, rtol=1e-9)
        assert f"| {variant} | 8x8x1 | 0 to 1 | 49.0 % | 8.9 % |" in said
        assert f" {distance.value:.3f} |" in said
        for volume, epsilon in zip(row["volumes"], (0.3, 8 / 255), strict=True):
            expected = log2_volume(changed, epsilon)
            assert volume["epsilon"] == epsilon
            assert volume["log2_volume"] == pytest.approx(expected)
            assert f"| {expected:.2f} |" in said
        assert sum(row["histogram"]) == dataset.images.size
    assert [each["images"] for each in found["classes"]] == np.bincount(
        dataset.labels
    ).tolist()
    for name in ("histogram", "images"):
        assert (tmp_path / "out" / f"{name}.svg").read_text().startswith("<?xml")
    # Nothing is written over.
    assert main(command) == 2
    assert "must be a directory without" in capsys.readouterr().err


def test_own_data_of_a_file_is_described_and_nothing_is_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((6, 2, 2, 2), np.uint8)
    images[3:] = 255
    path = own(tmp_path, "own", images, [0, 0, 0, 1, 1, 1])
    before = sorted(tmp_path.iterdir())
    assert main(["data", "describe", path, "--split", "train"]) == 0
    said = capsys.readouterr().out
    # Eight pixels from black to white: the root of 8; 8 log2(.3).
    assert "| 2x2x2 | 0 to 1 | 50.0 % | 50.0 % | 2.828 | -13.90 |" in said
    assert sorted(tmp_path.iterdir()) == before
    # Of images that are neither gray nor in color the histogram is drawn.
    assert main(["data", "describe", path, "--output", "out"]) == 0
    assert "no images are drawn of 2 or 4 channels" in capsys.readouterr().out
    assert (tmp_path / "out" / "histogram.svg").exists()
    assert not (tmp_path / "out" / "images.svg").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilon", "0"], "`--epsilon` must be in (0, inf), got 0.0"),
        (["--epsilon", "0.3", "-1/255"], "`--epsilon` must be in (0, inf), got -0.0"),
        (["--epsilon", "nan"], "`--epsilon` must be in (0, inf), got nan"),
        (["--variant", "original", "fog"], "`variant` must be one of original"),
        (["--variant", "saturate(0)"], "`p` must be in (0, inf], got 0"),
        (["--variant"], "`--variant` must be one or more"),
        (["--variant", "original", "own.py:broken"], "must be in [0, 1]"),
        (["--split", "validation"], "--split"),
        (["--data-dir", "gs://bucket"], "data_dir"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_computed(
    flags, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def broken(images):\n    return images + 2.0\n")
    monkeypatch.setattr(
        "jaxrobust.data.distances.Space.block",
        lambda *_: pytest.fail("computed before everything was checked"),
    )
    output = ["--output", str(tmp_path / "out")]
    try:
        assert main(["data", "describe", "digits", *flags, *output]) == 2
    except SystemExit as refused:  # by the parser of flags
        assert refused.code == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_described_are_refused(tmp_path, capsys):
    images = np.full((4, 2, 2), 0.5, np.float32)
    broken = images.copy()
    broken[1, 0, 1] = np.nan
    for data, message in (
        ("nothing", "`name` must be one of digits"),
        (own(tmp_path, "one", images, [0, 0, 0, 0]), "at least two classes"),
        (own(tmp_path, "nan", broken, [0, 1, 0, 1]), "in [0, 1]"),
    ):
        assert main(["data", "describe", data]) == 2
        assert message in capsys.readouterr().err


def test_a_missing_data_set_is_refused_with_what_prepares_it(tmp_path, capsys):
    assert main(["data", "describe", "kmnist", "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"jaxrobust data prepare kmnist --data-dir {tmp_path}" in said
