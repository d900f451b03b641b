"""A norm of a user's own: evaluated, attacked, recorded, refused where it must be."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, auto_pgd, square
from jaxrobust.cli import main
from jaxrobust.data import load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.threat import norm_name, threat_of
from jaxrobust.training import TrainConfig, adversarial, train
from tests.open.own_norm import Uneven, weights
from tests.open.sockets import ATTACK, RULE, put_into

WEIGHTS = jax.random.normal(jax.random.key(0), (64, 10))


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


@pytest.fixture
def place(tmp_path, monkeypatch):
    put_into(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_ball_follows_from_norm_and_projection():
    threat = Uneven(0.3)
    center = jnp.full((2, 4, 4, 1), 0.5)
    moved = threat.project(
        center + jnp.asarray([1.0, -1.0])[:, None, None, None], center
    )
    assert np.all(np.asarray(threat.norm(moved - center)) <= 0.3)
    expected = np.where(np.arange(4) < 2, 0.3, 0.15)
    np.testing.assert_allclose(moved[0, :, 0, 0] - 0.5, expected, rtol=1e-4)
    assert Uneven.diameter((4, 4, 1)) == 2
    assert (Uneven.name, Uneven.symbol) == ("Uneven", "uneven l∞")


def test_an_attack_finds_the_optimum_of_a_linear_model():
    slope = WEIGHTS[:, 1] - WEIGHTS[:, 0]
    images = jnp.full((3, 8, 8, 1), 0.5)

    def two(images):
        score = images.reshape(len(images), -1) @ slope
        return jnp.stack([-score, jnp.zeros_like(score)], axis=1)

    attack = auto_pgd(Uneven(0.2), num_steps=20)
    found = attack(jax.random.key(0), two, images, jnp.zeros(3, jnp.int32))
    gained = (found.images - images).reshape(3, -1) @ slope
    reach = 0.2 / np.broadcast_to(np.asarray(weights(images)), (1, 8, 8, 1)).ravel()
    most = float(np.sum(reach * np.abs(np.asarray(slope))))
    np.testing.assert_allclose(gained, most, rtol=1e-3)


def test_an_evaluation_is_the_same_by_class_and_by_name(place):
    data = subset(load_arrays("digits", "test"), 40)
    attack, epsilons = PGD(step_size=0.02, num_steps=5), (0.02, 0.1)
    by_class, by_name, usual = (
        evaluate(linear, data, attack, epsilons, norm=norm).is_robust
        for norm in (Uneven, "own_norm.py:Uneven", "linf")
    )
    np.testing.assert_array_equal(by_class, by_name)
    # Smaller than the ball of the same radius whose pixels count once.
    assert np.all(by_class.sum(axis=1) >= usual.sum(axis=1))


def test_commands_train_evaluate_and_extend_in_it(place, capsys):
    config = TrainConfig(
        train_size=96,
        batch_size=32,
        phases=(adversarial(0.05, 1, norm=Uneven, attack=ATTACK, optimizer=RULE),),
    )
    train(config, "python", network="linear")
    assert norm_name(Uneven) in (place / "python" / "config.json").read_text()
    flags = ["--num-images", "20", "--epsilon", "0.05"]
    flags += ["--set", "num_steps", "2", "--output", "found.json"]
    assert main(["evaluate", "python", "--norm", "own_norm.py:Uneven", *flags]) == 0
    found = json.loads((place / "found.json").read_text())
    assert found["settings"]["norm"] == "own_norm.py:Uneven"
    # What only the run names is not run.
    capsys.readouterr()
    assert main(["extend", "python", "--epsilon", "0.1", "--epochs", "1"]) != 0
    said = capsys.readouterr().err
    assert "`run` must have norm of jaxrobust" in said and "--trust-code" in said


def test_wrong_uses_are_refused(place):
    with pytest.raises(TypeError, match=r"`threat` must be a LinfBall .* got Uneven"):
        square(Uneven(0.1))
    with pytest.raises(
        ValueError, match=r"`epsilon` must be in \[0, 2\] in Uneven for"
    ):
        threat_of("own_norm.py:Uneven").require_epsilon(8, (8, 8, 1))
    with pytest.raises(
        TypeError, match=r"subclass of ThreatModel, got 'own_norm.py:we"
    ):
        threat_of("own_norm.py:weights")
    with pytest.raises(ValueError, match="`norm` must name something that own_norm"):
        threat_of("own_norm.py:Evn")


@pytest.mark.slow
def test_a_report_in_it_is_written_and_read_again(place, capsys):
    config = TrainConfig(
        train_size=96,
        batch_size=32,
        phases=(adversarial(0.05, 1, attack=ATTACK, optimizer=RULE),),
    )
    train(config, "run", network="linear")
    command = ["report", "run", "--norm", "own_norm.py:Uneven", "--epsilon", "0.05"]
    command += ["--num-images", "20", "--num-steps", "2", "--num-strength-images", "5"]
    command += ["--attack", "pgd", "--set", "num_steps", "2"]
    command += ["--set", "num_restarts", "1"]
    assert main([*command, "--output", "report"]) == 2
    said = capsys.readouterr().err
    assert "`parts` must be without checklist (ZOO, Square and corners) in own" in said
    assert not (place / "report").exists()
    command += ["--parts", "accuracy", "training", "--output", "report"]
    assert main(command) == 0
    page = (place / "report/report.html").read_bytes()
    record = json.loads((place / "report/report.json").read_text())
    assert record["runs"][0]["norm"] == "own_norm.py:Uneven"
    assert [row["name"] for row in record["runs"][0]["strength"]["attacks"]] == [
        *("pgd", "pgd-of-the-curve")
    ]
    assert "(uneven" in page.decode()
    capsys.readouterr()
    # By the command that it tells.
    words = shlex.split(record["command"])
    assert main([*words[1:], "--output", "report"]) == 0
    assert capsys.readouterr().out.count(", kept\n") == 3
    assert (place / "report/report.html").read_bytes() == page
