"""Images in folders by class, written by Pillow and read back."""

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import DataError, load_arrays

SHAPE = (5, 4, 3)


@pytest.fixture
def root(tmp_path):
    """Two classes, three training and one test image each, and their pixels."""
    rng = np.random.default_rng(0)
    pixels = {}
    for split, count in (("train", 3), ("test", 1)):
        for name in ("dog", "cat"):
            for number in range(count):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 256, SHAPE, np.uint8)
                Image.fromarray(image).save(path)
                pixels[split, name, number] = image
    return tmp_path, pixels


def put(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)


def test_pixels_come_back_and_classes_are_sorted_names(root):
    path, pixels = root
    (path / "train" / "cat" / ".DS_Store").write_text("hidden")
    train, test = load_arrays(str(path), "train"), load_arrays(str(path), "test")
    names = ["cat", "dog"]
    expected = [pixels["train", name, n] for name in names for n in range(3)]
    np.testing.assert_array_equal(train.images, expected)
    np.testing.assert_array_equal(train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(test.images, [pixels["test", n, 0] for n in names])
    assert train.classes == test.classes == ("cat", "dog")
    assert train.num_classes == test.num_classes == 2
    parts = [load_arrays(str(path), "train", share=(n, 4)) for n in range(4)]
    found = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "suffix, mode, channels, shown",
    [
        ("png", "L", 1, lambda gray: gray[..., None]),
        ("pgm", "L", 1, lambda gray: gray[..., None]),
        ("png", "1", 1, lambda gray: 255 * (gray[..., None] >= 128)),
        ("bmp", "RGB", 3, lambda gray: np.repeat(gray[..., None], 3, -1)),
        ("png", "P", 3, lambda gray: np.repeat(gray[..., None], 3, -1)),
        ("PNG", "RGBA", 4, None),
    ],
)
def test_lossless_kinds_keep_their_pixels(tmp_path, suffix, mode, channels, shown):
    gray = np.random.default_rng(0).choice([0, 255], (2, 6, 7)).astype(np.uint8)
    for split in ("train", "test"):
        for place, name in enumerate("ab"):
            image = Image.fromarray(gray[place])
            image = image.convert(mode, dither=Image.Dither.NONE)
            path = tmp_path / split / name / f"one.{suffix}"
            path.parent.mkdir(parents=True)
            image.save(path)
    found = load_arrays(str(tmp_path), "train").images
    assert found.shape == (2, 6, 7, channels)
    if shown is None:
        shown = lambda gray: np.stack([gray] * 3 + [np.full_like(gray, 255)], -1)  # noqa: E731
    np.testing.assert_array_equal(found, shown(gray))


def test_jpeg_is_what_pillow_decodes(root):
    path, _ = root
    file = path / "test" / "cat" / "0.png"
    file.unlink()
    smooth = np.full(SHAPE, 100, np.uint8)
    put(file.with_suffix(".jpg"), smooth, quality=90)
    found = load_arrays(str(path), "test").images[0]
    np.testing.assert_array_equal(
        found, np.asarray(Image.open(file.with_suffix(".jpg")))
    )
    assert np.abs(found.astype(int) - 100).max() < 5


def test_sizes_that_differ_are_named_with_what_to_do(root):
    path, _ = root
    put(path / "train" / "dog" / "1.png", np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(
        DataError,
        match=r"dog/1\.png` must be like .*cat/0\.png.*\(5, 4, 3\), got \(5, 6",
    ) as error:
        load_arrays(str(path), "train")
    error.match("ImageOps.fit")


def test_splits_of_different_kinds_are_refused_whichever_is_asked_for(root):
    path, _ = root
    for name in ("cat", "dog"):
        put(path / "test" / name / "0.png", np.zeros((5, 4), np.uint8))
    for split in ("train", "test"):
        with pytest.raises(
            DataError, match=r"must hold images like those of .*got uint8"
        ):
            load_arrays(str(path), split)


def test_classes_without_training_images_are_refused(root):
    path, _ = root
    put(path / "test" / "gnu" / "0.png", np.zeros(SHAPE, np.uint8))
    for split in ("train", "test"):
        with pytest.raises(
            DataError, match=r"folders of the classes of .* got gnu, too"
        ):
            load_arrays(str(path), split)


def test_a_class_that_is_not_tested_keeps_its_number(root):
    path, _ = root
    (path / "test" / "cat" / "0.png").unlink()
    (path / "test" / "cat").rmdir()
    test = load_arrays(str(path), "test")
    np.testing.assert_array_equal(test.labels, [1])
    assert test.num_classes == 2


def damage(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda at: damage(at / "1.png"), r"dog/1\.png` must be a whole image file"),
        (
            lambda at: damage(at.parent / "cat" / "0.png"),
            r"cat/0\.png` must be a whole",
        ),
        (
            lambda at: (at / "notes.txt").write_text(""),
            r"images only .* got notes\.txt",
        ),
        (lambda at: (at / "sub").mkdir(), r"images only .* got sub/"),
        (lambda at: (at.parent / "eel").mkdir(), "eel` must hold images .* got none"),
        (
            lambda at: Image.fromarray(np.zeros((5, 4), np.uint16)).save(at / "0.png"),
            r"one image of 8 bits in gray or RGB, got mode I;16",
        ),
    ],
)
def test_files_that_are_no_such_images_are_named(root, change, message):
    path, _ = root
    change(path / "train" / "dog")
    with pytest.raises(DataError, match=message):
        load_arrays(str(path), "train")


def test_one_class_and_a_missing_split_and_two_forms_are_refused(root):
    path, _ = root
    (path / "test").rename(path / "kept")
    with pytest.raises(DataError, match="test` must hold a folder of images for each"):
        load_arrays(str(path), "test")
    assert len(load_arrays(str(path), "train")) == 6
    np.savez(path / "train.npz", image=np.zeros((2, 2, 2)), label=np.arange(2))
    with pytest.raises(DataError, match=r"got train\.npz and train/; remove"):
        load_arrays(str(path), "train")
    (path / "train.npz").unlink()
    (path / "train" / "dog").rename(path / "away")
    with pytest.raises(DataError, match="at least two classes, got only 0"):
        load_arrays(str(path), "train")


def test_a_directory_of_nothing_known_is_refused_with_what_it_should_hold(tmp_path):
    with pytest.raises(
        DataError, match=r"holds train\.npz, train_image\.npy or images as"
    ):
        load_arrays(str(tmp_path), "train")
