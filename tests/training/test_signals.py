"""Signals, sent to this process and to others, in all that comes before training."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxrobust.training import load_run
from jaxrobust.training.course.signals import (
    StopRequest,
    interrupt_on_signals,
    stop_on_signals,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _handlers():
    before = {each: signal.getsignal(each) for each in SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_question_and_the_second_one_does_what_it_did(number):
    received = []
    signal.signal(number, lambda *_: received.append(number))
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop.signal_name == number.name and not received
        os.kill(os.getpid(), number)
        assert received == [number]
    os.kill(os.getpid(), number)
    assert received == [number, number]


@pytest.mark.parametrize("context", [stop_on_signals, interrupt_on_signals])
def test_what_nohup_ignores_stays_ignored(context):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with context() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruptible_work_ends_as_by_ctrl_c(number):
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        os.kill(os.getpid(), number)


COMPILE = """
import os, signal, sys, threading
import jax
from jaxrobust.training.course.signals import interrupt_on_signals, stop_on_signals

def several(x):  # takes XLA some seconds
    for seed in range(60):
        x = x @ jax.random.normal(jax.random.key(seed), (64, 64))
    return x

lowered = jax.jit(several).lower(jax.ShapeDtypeStruct((64, 64), "float32"))
number = signal.Signals[sys.argv[2]]

def compile():
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    lowered.compile()
    print("compiled", flush=True)

if sys.argv[1] == "interrupt":
    try:
        with interrupt_on_signals():
            compile()
            threading.Event().wait(60)
    except KeyboardInterrupt as error:
        print("by", signal.Signals(error.number).name)
else:
    with stop_on_signals() as stop:
        with stop.at_once():
            compile()
        print("by", stop.signal_name)
"""


@pytest.mark.parametrize("context", ["interrupt", "stop"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.slow
def test_a_signal_while_xla_compiles_waits_for_it(context, name):
    # Python crashes (-11) where it ends under XLA's threads.
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, context, name], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["compiled", "by", name]


class Dying:
    """Is sent a signal while its destructor runs, from which nothing can be raised."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)


def test_a_signal_in_a_destructor_ends_interruptible_work_a_moment_later(capsys):
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        Dying()
        time.sleep(60)
    assert capsys.readouterr().err == ""


def test_a_signal_in_a_destructor_is_asked_for_after_the_block(capsys):
    with stop_on_signals() as stop:
        with stop.at_once():
            Dying()
        assert stop.signal_name == "SIGTERM"
    assert capsys.readouterr().err == ""


def test_work_that_may_end_at_once_does_so_and_nothing_takes_it_for_an_error():
    steps = []
    with stop_on_signals() as stop:
        with stop.at_once():
            steps.append("before")
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                steps.append("after")
            except Exception:
                steps.append("swallowed")
        assert stop.signal_name == "SIGTERM"
    assert steps == ["before"]


def test_errors_of_work_that_may_end_at_once_pass():
    stop = StopRequest()
    with pytest.raises(ZeroDivisionError), stop.at_once():
        1 / 0  # noqa: B018
    stop.receive(signal.SIGTERM)  # outside of it, a question as before
    assert stop


RUN = """
import sys
from jaxrobust.networks import ModelConfig
from jaxrobust.attacks import PGD
from jaxrobust.training import (
    Interrupted, SweepConfig, TrainConfig, adversarial, sweep, train
)
from jaxrobust.training.course.signals import stop_on_signals
config = TrainConfig(
    train_size=1000, batch_size=50, model=ModelConfig(name="lenet-small"),
    phases=(adversarial(0.1, 200, attack=PGD(step_size=0.01)),),
)
with stop_on_signals():
    print("ready", flush=True)
    try:
        if sys.argv[1] == "train":
            train(config, sys.argv[2], resume=True)
        else:
            several = SweepConfig(base=config, epsilon=(0.1, 0.2))
            sweep(several, sys.argv[2], resume=True)
    except Interrupted as error:
        print(error)
        raise SystemExit(75)
"""


def start(operation, directory, *before):
    process = subprocess.Popen(
        [*before, sys.executable, "-c", RUN, operation, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["train", "sweep"])
def test_a_signal_during_the_start_ends_it_with_nothing_lost(operation, tmp_path):
    # Data, initial weights, the directory, the first save, compiling: one after the
    # other in the same directory, each time a little later.
    steps = []
    for delay in (0.0, 0.3, 1.0, 2.5):
        number = signal.SIGHUP if delay == 1.0 else signal.SIGTERM
        process = start(operation, tmp_path / "run")
        time.sleep(delay)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 75, err
        assert f"stopped by {number.name}" in out and "--resume" in out
        place = tmp_path / "run" / ("" if operation == "train" else "epsilon0.2")
        has_saved = list(place.glob("checkpoints/[0-9]*"))
        steps.append(int(load_run(place).state.step) if has_saved else -1)
    assert steps == sorted(steps)


def test_a_start_under_nohup_goes_on_when_the_terminal_is_closed(tmp_path):
    process = start("train", tmp_path / "run", "nohup")
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "stopped by SIGTERM" in out
