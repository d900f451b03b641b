"""An evaluation that is stopped anywhere, any way, ends as if it had not been."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import AttackResult, with_restarts
from jaxrobust.data import Dataset
from jaxrobust.evaluation import JournalError
from jaxrobust.evaluation.engine.journal import Journal
from jaxrobust.evaluation.engine.plan import Plan, Stage
from jaxrobust.evaluation.engine.run import run_plan
from jaxrobust.keeping import InUseError
from jaxrobust.threat import L2Ball, LinfBall

ONE, TWO = {"scale": np.float32(1)}, {"scale": np.float32(2)}


def apply_scaled(weights):
    def logits_fn(images):
        score = weights["scale"] * images[:, 0, 0, 0]
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    return logits_fn


def by_chance(threat):
    """Breaks at random, and meets a bad gradient at random."""

    def attack(key, logits_fn, images, labels):
        del labels
        draw, other = jax.random.uniform(key, (2, 1))
        score = jnp.abs(logits_fn(images)[:, 0])
        return AttackResult(images, score, draw < threat.epsilon * score, other < 0.7)

    return attack


def data_of(size=11, seed=0):
    rng = np.random.default_rng(seed)
    return Dataset(
        name="scaled",
        title="scaled",
        images=rng.uniform(size=(size, 1, 1, 1)).astype(np.float32),
        labels=np.zeros(size, np.int32),
        num_classes=2,
    )


DATA = data_of()
PLAN = Plan(
    (
        Stage("first", with_restarts(by_chance, 2)),
        Stage("second", with_restarts(by_chance, 3)),
    ),
    (0.2, 0.4),
    LinfBall,
    num_classes=2,
    seed=3,
    batch_size=4,
    is_shared=True,
)


SECOND_AGAIN = Stage("second", with_restarts(by_chance, 4))


def run(journal=None, *, plan=PLAN, data=DATA, models=(ONE, TWO), **settings):
    return run_plan(apply_scaled, list(models), data, plan, journal=journal, **settings)


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for name, value in left._asdict().items():
            np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)


@pytest.fixture(scope="module")
def undisturbed():
    buckets = []
    found = run(progress=buckets.append)
    assert {0, 1} <= {each.model for each in buckets} and len(buckets) > 20
    # Some fall in each stage, some stand.
    steps = found[0].num_robust.sum(axis=1)
    assert steps[0] > steps[1] > steps[2] > 0 < found[0].num_bad.min()
    return found, len(buckets)


@settings(max_examples=15)
@given(period=st.integers(1, 30))
def test_interrupted_after_every_few_buckets(period, undisturbed, tmp_path_factory):
    expected, num_buckets = undisturbed
    journal = tmp_path_factory.mktemp("journal") / "deep" / "progress.npz"
    done, found = 0, None
    while found is None:
        seen = []

        def stop(progress, seen=seen):
            seen.append(progress)
            if len(seen) == period:
                raise KeyboardInterrupt

        try:
            found = run(journal, progress=stop)
        except KeyboardInterrupt:
            assert len(seen) == period
        done += len(seen)
    assert_same(found, expected)
    # None is lost and none is done twice.
    assert done == num_buckets
    # Finished, it is only read.
    assert_same(run(journal, progress=lambda _: pytest.fail("attacked again")), found)
    assert [path.name for path in journal.parent.iterdir()] == ["progress.npz"]


def test_what_is_told_again_is_what_is_known(tmp_path):
    once, again = [], []
    run(tmp_path / "a.npz", report=once.append)
    run(tmp_path / "a.npz", report=again.append)
    assert once == again and len(once) == 8


def test_a_model_without_weights_is_known_by_its_answers(tmp_path):
    path = tmp_path / "journal"
    plan = PLAN._replace(is_shared=False)
    for _ in range(2):
        run_plan(lambda _: apply_scaled(ONE), [()], DATA, plan, journal=path)
    with pytest.raises(JournalError, match=r"models\[0\]: '\w+', now '\w+'"):
        run_plan(lambda _: apply_scaled(TWO), [()], DATA, plan, journal=path)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"models": (ONE, ONE)}, r"models\[1\]: '\w+', now '\w+'"),
        ({"models": (ONE,)}, "models: 2 entries, now 1"),
        ({"data": data_of(seed=1)}, r"data: '\w+', now '\w+'"),
        ({"plan": PLAN._replace(seed=4)}, "seed: 3, now 4"),
        ({"plan": PLAN._replace(threat=L2Ball)}, "norm: 'linf', now 'l2'"),
        (
            {"plan": PLAN._replace(epsilons=(0.2, 0.3))},
            r"epsilons\[1\]: 0\.4, now 0\.3",
        ),
        ({"plan": PLAN._replace(batch_size=5)}, r"attacks\[0\]\.bucket: 4, now 5"),
        ({"plan": PLAN._replace(stages=PLAN.stages[:1])}, "attacks: 2 entries, now 1"),
        ({"plan": PLAN._replace(search="bisect")}, "search: 'every', now 'bisect'"),
        ({"plan": PLAN._replace(keeps_images=True)}, "keeps_images: False, now True"),
        (
            {"plan": PLAN._replace(stages=(PLAN.stages[0], SECOND_AGAIN))},
            r"attacks\[1\]\.settings\.num_restarts: 3, now 4",
        ),
    ],
)
def test_the_journal_of_another_evaluation_is_refused(changes, place, tmp_path):
    path = tmp_path / "journal.npz"
    run(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=f"which differs in {place}(;|$)"):
        run(path, **changes)
    assert path.read_bytes() == before


def test_another_version_is_refused(tmp_path, monkeypatch):
    run(tmp_path / "a.npz")
    monkeypatch.setattr("jaxrobust.__version__", "99.0")
    with pytest.raises(JournalError, match=r"versions\.jaxrobust: '.*', now '99\.0'"):
        run(tmp_path / "a.npz")


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY"])
def test_a_damaged_journal_is_refused(text, tmp_path):
    path = tmp_path / "journal.npz"
    path.write_bytes(text)
    with pytest.raises(JournalError, match=rf"`journal`: '{path}' is damaged: .* anew"):
        run(path)
    assert path.read_bytes() == text


def test_a_journal_with_another_number_in_it_is_refused(tmp_path):
    path = tmp_path / "journal.npz"
    run(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["0.num_robust"][1, 0] += 1
    np.savez(path, **arrays)
    with pytest.raises(JournalError, match="the checksum of its arrays does not fit"):
        run(path)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "journal.npz"
    found = run(path)
    content = path.read_bytes()
    places = np.random.default_rng(0).choice(len(content), 40, replace=False)
    num_refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << (int(place) % 8)
        path.write_bytes(damaged)
        try:
            assert_same(run(path), found)
        except JournalError:
            num_refused += 1
    assert num_refused > 20


HOLDING = """
import sys, time
sys.path.insert(0, {directory!r})
import test_journal as tests
tests.run({path!r}, progress=lambda _: (print("going", flush=True), time.sleep(60)))
"""


def test_two_processes_cannot_use_one_journal(tmp_path, undisturbed):
    path = tmp_path / "journal.npz"
    script = HOLDING.format(directory=str(Path(__file__).parent), path=str(path))
    command = [sys.executable, "-c", script]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "going\n"
        holder = f"process {other.pid} on {os.uname().nodename} .* since"
        with pytest.raises(InUseError, match=f"`journal` must not be in use.*{holder}"):
            run(path)
        # Another journal is none of its business.
        run(tmp_path / "other.npz")
    finally:
        other.kill()
        other.communicate()
    assert_same(run(path), undisturbed[0])
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["journal.npz", "other.npz"]


def test_it_is_not_written_more_often_than_asked(tmp_path):
    journal = Journal(tmp_path / "a.npz", {}, every=1000.0)
    offered = []

    def arrays():
        offered.append(1)
        return {"a": np.arange(3)}

    for _ in range(5):
        journal.offer(arrays)
    assert len(offered) == 1
    np.testing.assert_array_equal(journal.read()["a"], np.arange(3))
    journal.every = 0.0
    journal.offer(arrays)
    assert len(offered) == 2


def test_only_one_process_of_a_job_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    Journal(tmp_path / "a.npz", {}).write({})
    assert list(tmp_path.iterdir()) == []
