import io

import pytest
from rich.console import Console

from jaxrobust.training import LineReporter, TerminalReporter, reporter_for

RECORD = {
    "phase": "extended",
    "epoch": 3,
    "num_epochs": 12,
    "epsilon": 0.4,
    "loss": 1.25,
    "adversarial_accuracy": 0.625,
    "images_per_second": 1234.5,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines():
    assert isinstance(reporter_for(Terminal()), TerminalReporter)
    assert isinstance(reporter_for(io.StringIO()), LineReporter)


def test_a_line_has_everything_of_its_epoch(monkeypatch):
    stream, clock = io.StringIO(), iter([100.0, 120.0])
    monkeypatch.setattr("jaxrobust.training.progress.time.time", lambda: next(clock))
    reporter = LineReporter(stream)
    reporter.start(num_batches=50, num_done=10)
    reporter.update(10, RECORD)
    reporter._num_done = 20
    reporter.epoch(RECORD)
    # 10 batches took 20 seconds, 30 are left.
    assert stream.getvalue() == (
        "epoch   3  extended    eps 0.400  loss 1.2500  adv acc 62.50%  "
        "1,234 images/s  1:00 left\n"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_fits_and_has_everything(width):
    stream = Terminal()
    reporter = TerminalReporter(Console(file=stream, width=width, force_terminal=True))
    reporter.start(num_batches=100, num_done=0)
    reporter.update(50, RECORD)
    reporter.message("told once")
    reporter.stop()
    shown = stream.getvalue()
    for part in ("3/12", "eps 0.400", "loss 1.250", "adv acc 62.5%", "1,234 images/s"):
        assert part in shown
    assert "50%" in shown and "told once" in shown
