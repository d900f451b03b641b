import contextlib
import io
import sys
import types

import pytest
from rich.console import Console

from jaxrobust.training import (
    LineReporter,
    NotebookReporter,
    TerminalReporter,
    reporter_for,
)

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


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the reporter sees, one for each time it looks."""
    times = []
    monkeypatch.setattr(
        "jaxrobust.training.course.reporters.time.time", lambda: times.pop(0) + 100.0
    )
    return times


def test_a_line_has_everything_of_its_epoch(clock):
    stream = io.StringIO()
    clock += [0.0, 20.0]
    reporter = LineReporter(stream)
    reporter.start(num_batches=50, num_done=10)
    reporter.update(10, RECORD)
    reporter._num_done = 20
    reporter.epoch(RECORD)
    # 10 batches took 20 seconds, 30 are left.
    assert stream.getvalue() == (
        "compiling; 40 batches to go\n"
        "epoch   3  extended    eps 0.400  loss 1.2500  adv acc 62.50%  "
        "1,234 images/s  1:00 left\n"
    )


def test_a_log_is_never_silent_for_minutes(clock):
    stream = io.StringIO()
    clock += [0.0, 30.0, 59.0, 61.0, 100.0, 122.0]
    reporter = LineReporter(stream)
    reporter.start(num_batches=200, num_done=0)
    for done in range(0, 120, 20):
        reporter.update(done, RECORD)
    lines = stream.getvalue().splitlines()[1:]
    # After 61 and 122 seconds.
    assert [line.split("%")[0].strip() for line in lines] == ["30.0", "50.0"]
    assert all("loss 1.2500" in line for line in lines)


class Buffered(io.TextIOWrapper):
    """A file that keeps what it is given until it is told to write."""

    def __init__(self):
        self.raw_bytes = io.BytesIO()
        super().__init__(io.BufferedWriter(self.raw_bytes, 1 << 16))


def test_every_line_is_written_at_once():
    stream = Buffered()
    reporter = LineReporter(stream)
    reporter.start(num_batches=50, num_done=10)
    assert b"40 batches" in stream.raw_bytes.getvalue()
    reporter.message("told once")
    assert b"told once" in stream.raw_bytes.getvalue()


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


class Notebook:
    """What a notebook shows: outputs in order, some of which are updated."""

    def __init__(self, monkeypatch):
        self.outputs = []
        self.shell = types.SimpleNamespace(kernel=object())
        ipython = types.ModuleType("IPython")
        ipython.get_ipython = lambda: self.shell
        ipython.display = types.ModuleType("IPython.display")
        ipython.display.display = self.display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)

    def isatty(self):
        return False

    def flush(self):
        pass

    def write(self, text):
        self.outputs += [text] if text.strip() else []

    def display(self, data, *, raw, display_id):
        assert raw and display_id is True
        self.outputs.append(data["text/plain"])
        return self.Handle(self.outputs, len(self.outputs) - 1)

    class Handle:
        def __init__(self, outputs, place):
            self.outputs, self.place = outputs, place

        def update(self, data, *, raw):
            assert raw
            self.outputs[self.place] = data["text/plain"]


@pytest.fixture
def notebook(monkeypatch):
    return Notebook(monkeypatch)


def reporter_of(notebook):
    with contextlib.redirect_stdout(notebook):
        return reporter_for()


def test_a_notebook_gets_a_line_that_is_updated(notebook, clock):
    reporter = reporter_of(notebook)
    assert isinstance(reporter, NotebookReporter)
    # Updates that show something look twice.
    clock += [0.0, 0.1, 1.0, 1.0, 2.0, 2.0, 2.5, 2.6, 2.7]
    reporter.start(num_batches=40, num_done=0)
    reporter.update(4, RECORD)
    reporter.update(5, RECORD)  # too soon
    assert len(notebook.outputs) == 1
    reporter.update(8, RECORD)
    line = notebook.outputs[1]
    for part in ("20.0%", "epoch 3/12", "eps 0.400", "loss 1.2500", "adv acc 62.50%"):
        assert part in line
    # 4 batches took a second, 32 are left.
    assert line.endswith("1,234 images/s  0:08 left")
    reporter.update(12, RECORD | {"loss": 1.0})
    reporter.epoch(RECORD)
    first, line, last = notebook.outputs
    assert first == "compiling; 40 batches to go" and "loss 1.0000" in line
    assert last.startswith("epoch   3  extended")
    # It is left as training left it.
    reporter.update(40, RECORD | {"epoch": 12})
    reporter.stop()
    assert len(notebook.outputs) == 3
    assert notebook.outputs[1].startswith("100.0%  epoch 12/12")


def test_a_run_that_is_complete_shows_nothing_in_a_notebook(notebook):
    reporter = reporter_of(notebook)
    reporter.message("told once")
    reporter.stop()
    assert notebook.outputs == ["told once"]


def test_only_a_kernel_is_a_notebook(notebook):
    assert isinstance(reporter_for(io.StringIO()), LineReporter)  # as asked for
    assert not isinstance(reporter_for(io.StringIO()), NotebookReporter)
    notebook.shell = types.SimpleNamespace()  # IPython in a terminal
    assert not isinstance(reporter_for(), NotebookReporter)
    notebook.shell = None  # IPython that was only imported
    assert not isinstance(reporter_for(), NotebookReporter)
