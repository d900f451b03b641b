"""Neighbors are those of brute force, whatever the blocks and interruptions."""

import os
import shutil
import signal
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from jaxrobust.concentration import kth_neighbor_distances, neighbor_lists, storage
from jaxrobust.concentration.storage import Store, rows_in
from jaxrobust.data.distances import Space
from jaxrobust.keeping import InUseError, read_json, write_json

METRICS = {"l1": "cityblock", "l2": "euclidean"}


def brute_force(points, norm):
    values = points.reshape(len(points), -1).astype(np.float64)
    scale = 255 if points.dtype == np.uint8 else 1
    return cdist(values, values, METRICS[norm]) / scale


def sorted_lists(distances, k):
    """Nearest first, equally near ones by number."""
    places = np.arange(distances.shape[1])
    order = np.stack([np.lexsort((places, row))[:k] for row in distances])
    return np.take_along_axis(distances, order, 1), order


def points_of(kind, size, dimensions, seed):
    rng = np.random.default_rng(seed)
    if kind == "bytes":
        return rng.integers(0, 256, (size, dimensions)).astype(np.uint8)
    if kind == "ties":  # few values, so many points are equally far, or the same
        return rng.integers(0, 3, (size, dimensions)).astype(np.uint8) * 100
    if kind == "extremes":  # nothing cancels and nothing is exact by luck
        return rng.choice([0, 255], (size, dimensions)).astype(np.uint8)
    if kind == "floats":
        return rng.random((size, dimensions)).astype(np.float32)
    # Close together, far from each other: what float32 cannot subtract as squares.
    near = rng.normal(size=(size, dimensions), scale=0.01)
    far = rng.choice([-1000, 1000], (size, 1))
    return (far + near).astype(np.float32)


KINDS = ("bytes", "ties", "extremes", "floats", "far")


@settings(max_examples=30)
@given(
    kind=st.sampled_from(KINDS),
    norm=st.sampled_from(["l1", "l2"]),
    # Few shapes, since each is compiled.
    shape=st.sampled_from([(1, 1), (7, 5), (23, 40)]),
    block_size=st.sampled_from([4, None]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_neighbors_are_those_of_brute_force(kind, norm, shape, block_size, seed, data):
    points = points_of(kind, *shape, seed)
    k = data.draw(st.sampled_from([1, shape[0], (shape[0] + 1) // 2]))
    expected = brute_force(points, norm)
    found = kth_neighbor_distances(points, k, norm=norm, block_size=block_size)
    kth = np.sort(expected, axis=1)[:, k - 1]
    np.testing.assert_allclose(found, kth, rtol=1e-12, atol=1e-12)
    assert k > 1 or not found.any()
    lists = neighbor_lists(points, k, norm=norm, block_size=block_size)
    # Equally near ones come by number, so the order is the only one there is. In
    # double precision brute force may see ties that are none, and the reverse.
    distances, order = sorted_lists(np.round(expected, 10), k)
    np.testing.assert_allclose(lists.distances, distances, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(lists.indices, order)
    assert lists.indices.dtype == np.int32 and lists.distances.dtype == np.float32


@pytest.mark.exact
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("kind", ["bytes", "extremes", "floats"])
def test_sizes_of_images(kind, norm):
    # More dimensions than are summed exactly at once, more points than one tile.
    points = points_of(kind, 2100, 2500, 1)
    points[7] = points[9]
    queries = np.array([0, 7, 2099])
    lists = neighbor_lists(points, 3, norm=norm, queries=queries)
    values = points.astype(np.float64)
    expected = cdist(values[queries], values, METRICS[norm])
    expected /= 255 if kind == "bytes" or kind == "extremes" else 1
    if kind != "floats":
        # To the last unit, which no relative tolerance would see.
        metric = "cityblock" if norm == "l1" else "sqeuclidean"
        whole = cdist(values[queries], values, metric)
        np.testing.assert_array_equal(Space(points, norm).block(queries), whole)
    distances, order = sorted_lists(expected, 3)
    np.testing.assert_allclose(lists.distances, distances, rtol=1e-6)
    np.testing.assert_array_equal(lists.indices, order)
    assert lists.indices[1, 0] == 7 and lists.indices[1, 1] == 9
    assert lists.distances[1, 1] == 0


def test_images_of_any_shape_and_their_floats_are_the_same():
    points = points_of("bytes", 20, 12, 3)
    expected = kth_neighbor_distances(points, 4)
    for images in (points.reshape(20, 2, 2, 3), points / np.float32(255), points / 255):
        np.testing.assert_array_equal(kth_neighbor_distances(images, 4), expected)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_rows_of_distances_are_those_of_the_lists(kind, norm):
    # Balls compare them with each other, so to the last bit.
    space = Space(points_of(kind, 50, 30, 2), norm)
    lists = neighbor_lists(space, 50)
    rows = space.distances(np.array([3, 11]))
    for row, one in zip(rows, (3, 11), strict=True):
        np.testing.assert_array_equal(row[lists.indices[one]], lists.distances[one])


POINTS = points_of("ties", 41, 9, 5)
SEARCHES = {
    "kth": lambda points=POINTS, k=5, **options: {
        "distances": kth_neighbor_distances(points, k, **options)
    },
    "lists": lambda points=POINTS, k=5, **options: neighbor_lists(
        points, k, **options
    )._asdict(),
}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("period", [1, 2, 5])
def test_interrupted_again_and_again_it_ends_with_the_same(kind, period, tmp_path):
    search = SEARCHES[kind]
    expected = search()
    counts, found, num_stops = [], None, 0
    while found is None:
        seen = []

        def stop(done, total, seen=seen):
            assert total == 41
            seen.append(done)
            if len(seen) == period and done < total:
                raise KeyboardInterrupt

        try:
            # Another block size on going on changes nothing.
            found = search(cache=tmp_path, block_size=3 + num_stops % 2, progress=stop)
        except KeyboardInterrupt:
            num_stops += 1
        counts += seen
    assert_same(found, expected)
    # Nothing is done twice.
    assert num_stops > 1 and counts == sorted(set(counts)) and counts[-1] == 41
    # Finished, it is only read, and of the lock nothing is left.
    again = search(cache=tmp_path, progress=lambda *_: pytest.fail("searched again"))
    assert_same(again, expected)
    (directory,) = tmp_path.iterdir()
    assert not list(directory.glob("*.part"))


KILLED = """
import sys, time
sys.path.insert(0, {directory!r})
import test_neighbors as tests
from jaxrobust.concentration.storage import Store

put = Store.put

def put_and_keep(self, start, values):
    # After every block, so that it is killed while it writes.
    put(self, start, values)
    self.keep()

def tell(done, total):
    print(done, flush=True)
    time.sleep(.02)

Store.put = put_and_keep
tests.SEARCHES["lists"](cache={cache!r}, block_size=2, progress=tell)
print("end", flush=True)
"""


def test_killed_it_goes_on(tmp_path):
    script = KILLED.format(directory=str(Path(__file__).parent), cache=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(5)]
    os.kill(process.pid, signal.SIGKILL)
    seen += process.communicate()[0].splitlines()
    assert seen[4].strip() == "10" and "end" not in seen
    done = []
    found = SEARCHES["lists"](
        cache=tmp_path, block_size=2, progress=lambda count, _: done.append(count)
    )
    # What was told is done; at most one more block is.
    assert int(seen[-1]) + 2 <= done[0] <= int(seen[-1]) + 4
    assert_same(found, SEARCHES["lists"]())


HOLDING = """
import sys
sys.path.insert(0, {directory!r})
import test_neighbors as tests

def tell(done, total):
    print(done, flush=True)
    sys.stdin.readline()

tests.SEARCHES["lists"](cache={cache!r}, block_size=2, progress=tell)
"""


def test_a_cache_that_another_process_fills_is_refused(tmp_path):
    script = HOLDING.format(directory=str(Path(__file__).parent), cache=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    search = SEARCHES["lists"]
    try:
        assert process.stdout.readline() == "2\n"
        message = rf"`cache` must not be in use .*l2-lists-5.*process {process.pid} on"
        with pytest.raises(InUseError, match=message):
            search(cache=tmp_path)
        # Another search is none of its business.
        search(k=4, cache=tmp_path)
    finally:
        process.kill()
        process.communicate()
    # Whoever is killed holds nothing.
    assert_same(search(cache=tmp_path), search())


SETTINGS = {"kind": "test"}
SHAPES = {"numbers": ((4,), np.int64)}


def test_only_one_store_fills_a_directory(tmp_path):
    with Store(tmp_path, "one", SETTINGS, SHAPES) as first:
        first.put(0, {"numbers": np.arange(2)})
        for _ in range(2):
            with pytest.raises(InUseError, match="wait for it to end"):
                Store(tmp_path, "one", SETTINGS, SHAPES)
        first.keep()
    with (
        pytest.raises(KeyboardInterrupt),
        Store(tmp_path, "one", SETTINGS, SHAPES) as second,
    ):
        assert second.done == 2
        second.put(2, {"numbers": np.arange(2, 4)})
        second.keep()
        raise KeyboardInterrupt
    # Finished, any number may read it, also beside each other.
    stores = [Store(tmp_path, "one", SETTINGS, SHAPES) for _ in range(3)]
    for store in (first, second, *stores):
        np.testing.assert_array_equal(store.arrays["numbers"], np.arange(4))
    (directory,) = tmp_path.iterdir()
    names = {path.name for path in directory.iterdir()}
    assert names == {"done.json", "header.json", "numbers.npy"}


def test_a_refused_store_lets_go_and_old_parts_are_removed(tmp_path):
    Store(tmp_path, "one", SETTINGS, SHAPES).close()
    (directory,) = tmp_path.iterdir()
    (directory / "done.json.0123.part").write_text("")
    write_json(directory / "done.json", {"rows": 5, "checksums": {"numbers": 0}})
    for _ in range(2):
        with pytest.raises(ValueError, match="5 done; remove that directory"):
            Store(tmp_path, "one", SETTINGS, SHAPES)
    # Of eight bytes of zeros.
    done = {"rows": 1, "checksums": {"numbers": zlib.crc32(bytes(8))}}
    write_json(directory / "done.json", done)
    with Store(tmp_path, "one", SETTINGS, SHAPES) as store:
        assert store.done == 1 and not list(directory.glob("*.part"))


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("num_done", [20, 41])
def test_a_cache_of_which_a_byte_was_changed_is_refused(name, num_done, tmp_path):
    search = SEARCHES[name]

    def stop(done, total):
        if num_done <= done < total:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        search(cache=tmp_path, block_size=4, progress=stop)
    (directory,) = tmp_path.iterdir()
    assert rows_in(tmp_path) == num_done
    rng = np.random.default_rng(0)
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        length = len(content)
        if path.suffix == ".npy":
            # What is not done is written anew, and the first 128 bytes say the shape.
            length = 128 + (length - 128) * num_done // 41
        first = 128 if path.suffix == ".npy" else 0
        for place in rng.integers(first, length, 5):
            damaged = bytearray(content)
            damaged[place] ^= 1 << (int(place) % 8)
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"got '{directory}', which .*; rem"):
                search(cache=tmp_path)
        path.write_bytes(content)
    assert_same(search(cache=tmp_path), search())


@pytest.mark.parametrize(
    "changes",
    [
        {"points": points_of("ties", 41, 9, 6)},
        {"points": POINTS / 255 * 0.9},
        {"k": 6},
        {"norm": "l1"},
        {"queries": np.arange(3)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_data_or_settings_have_another_name(changes, tmp_path):
    search = SEARCHES["lists"]
    search(cache=tmp_path)
    expected = search(**changes)
    found = search(cache=tmp_path, **changes)
    assert_same(found, expected)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_of_something_else_is_refused(tmp_path):
    search = SEARCHES["kth"]
    other = points_of("ties", 41, 9, 6)
    search(cache=tmp_path / "a")
    search(other, cache=tmp_path / "b")
    (own,), (others,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    shutil.rmtree(own)
    shutil.copytree(others, own)
    with pytest.raises(
        ValueError, match=r"which differs in data: '\w+', now '\w+'; re"
    ):
        search(cache=tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("header.json", b"{"),
        ("done.json", b""),
        ("done.json", b"42"),
        ("distances.npy", b"\x93NUMPY"),
    ],
)
def test_a_damaged_cache_is_refused(name, content, tmp_path):
    search = SEARCHES["kth"]
    search(cache=tmp_path)
    (directory,) = tmp_path.iterdir()
    (directory / name).write_bytes(content)
    with pytest.raises(ValueError, match="`cache` must hold what this call wrote"):
        search(cache=tmp_path)


def test_a_directory_that_was_being_made_is_made_anew(tmp_path):
    search = SEARCHES["kth"]
    search(cache=tmp_path)
    (directory,) = tmp_path.iterdir()
    (directory / "header.json").unlink()
    np.save(directory / "distances.npy", np.zeros(41))
    assert_same(search(cache=tmp_path), search())
    assert read_json(directory / "done.json")["rows"] == rows_in(tmp_path) == 41


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 42}, r"`k` must be in \[1, 41\], got 42"),
        ({"k": 0}, "got 0"),
        ({"norm": "linf"}, "`norm` must be one of l1, l2, got 'linf'"),
        ({"block_size": 0}, "`block_size` must be at least 1, got 0"),
        ({"points": np.zeros((0, 3), np.uint8)}, "must be of at least one image"),
        ({"points": np.zeros((4, 3), int)}, "must be uint8 or floats, got 'int64'"),
        ({"points": np.array([[0.0], [np.nan]])}, r"must be in \(-inf, inf\), got nan"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, message):
    for search in SEARCHES.values():
        with pytest.raises(ValueError, match=message):
            search(**{"k": 1} | arguments)


def test_queries_that_are_no_points_are_refused():
    for queries, rule in (([41], "in"), ([-1], "in"), ([], "one point or more")):
        with pytest.raises(ValueError, match=f"`queries` must be {rule}"):
            neighbor_lists(POINTS, 2, queries=np.array(queries, int))


def test_blocks_fit_the_memory_there_is(monkeypatch):
    from jaxrobust.data import distances

    monkeypatch.setattr(distances.os, "cpu_count", lambda: 2)
    # At most half a gigabyte, 28 bytes for each pair of points in work.
    size = distances.block_size_for(60_000)
    assert 100 < size and size * 2 * 60_000 * 28 <= distances.MEMORY
    monkeypatch.setattr(distances, "free_memory", lambda: 8 * 10**8)
    assert distances.block_size_for(60_000) == 29
    monkeypatch.setattr(distances, "free_memory", lambda: 0)
    assert distances.block_size_for(60_000) == 1
    assert distances.block_size_for(10) == 1
    # Not every system says.
    monkeypatch.setattr(distances, "free_memory", lambda: None)
    assert distances.block_size_for(60_000) == size


def test_lists_without_room_are_refused_before_the_search(tmp_path, monkeypatch):
    lists = SEARCHES["lists"]
    never = {"progress": lambda *_: pytest.fail("searched first")}
    lists(k=4, cache=tmp_path / "finished")

    def disk(free):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    # 41 lists of 5 neighbors, 8 bytes each.
    disk(1639)
    monkeypatch.setattr(storage, "free_memory", lambda: 1639)
    with pytest.raises(
        OSError, match=r"No space .* for 1.64e-06 GB .* with 1.64e-06 GB free"
    ):
        lists(cache=tmp_path / "new", **never)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"got None, and they take .*`max_centers` or"):
        lists(**never)
    monkeypatch.setattr(storage, "free_memory", lambda: 1640)
    lists()
    monkeypatch.setattr(storage, "free_memory", lambda: None)
    lists()
    disk(1640)

    def stop(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lists(cache=tmp_path / "new", block_size=4, progress=stop)
    # Only what is missing needs room.
    disk(21 * 5 * 8 - 1)
    with pytest.raises(OSError, match=r"No space left .* for 8\.4e-07 GB"):
        lists(cache=tmp_path / "new", **never)
    disk(21 * 5 * 8)
    assert_same(lists(cache=tmp_path / "new"), lists())
    disk(0)
    lists(k=4, cache=tmp_path / "finished", **never)
