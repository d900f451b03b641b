"""What a person sees while a run trains: in a terminal, in a notebook, elsewhere."""

import sys
import time
from typing import Any, Protocol, TextIO, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrobust.training.course.selection import CLEAN, ROBUST

__all__ = [
    "LineReporter",
    "NotebookReporter",
    "NullReporter",
    "Reporter",
    "TerminalReporter",
    "reporter_for",
]


@runtime_checkable
class Reporter(Protocol):
    """Receives what a run has to tell; never influences it."""

    def message(self, text: str) -> None:
        """Something to tell once."""
        ...

    def start(self, num_batches: int, num_done: int) -> None:
        """Training begins: batches of the whole run, and those already done."""
        ...

    def update(self, num_done: int, values: dict[str, Any]) -> None:
        """Batches done so far in the whole run, and the sums of the epoch so far."""
        ...

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is complete; the record is the line of `metrics.jsonl`.

        In a sweep it also has `member`, the name of the run.
        """
        ...

    def stop(self) -> None:
        """Training ended, in whatever way."""
        ...


class NullReporter:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def start(self, num_batches: int, num_done: int) -> None:
        """Say nothing."""

    def update(self, num_done: int, values: dict[str, Any]) -> None:
        """Say nothing."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""


def _describe(values: dict[str, Any]) -> str:
    # Members of a sweep say who they are.
    name = f"{values['member']}  " if "member" in values else ""
    told = name + (
        f"{values['phase']:<11} eps {values['epsilon']:.3f}  "
        f"loss {values['loss']:.4f}  adv acc {values['adversarial_accuracy']:6.2%}"
    )
    if ROBUST not in values:
        return told
    return f"{told}  held out {values[CLEAN]:.2%} clean, {values[ROBUST]:.2%} robust"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


QUIET_SECONDS = 60.0
"""How long a log goes without a line, once training has begun."""

NOTEBOOK_SECONDS = 0.5
"""How long the line of a notebook stays as it is."""


class LineReporter(NullReporter):
    """One line an epoch, and one a minute in longer ones, for logs and pipes."""

    _quiet_seconds = QUIET_SECONDS

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout

    def message(self, text: str) -> None:
        """Print the text."""
        print(text, file=self._stream, flush=True)

    def start(self, num_batches: int, num_done: int) -> None:
        """Say that training begins, since compiling may take minutes."""
        self._num_batches = num_batches
        self._num_done = num_done
        self._first: int | None = None
        self.message(f"compiling; {num_batches - num_done:,} batches to go")

    def update(self, num_done: int, values: dict[str, Any]) -> None:
        """Remember how far training is; the clock starts once it is compiled."""
        now = time.time()
        if self._first is None:
            self._first, self._began, self._told = num_done, now, now
        self._num_done = num_done
        if now - self._told >= self._quiet_seconds:
            self._told = now
            self._show(values)

    def _show(self, values: dict[str, Any]) -> None:
        share = self._num_done / max(self._num_batches, 1)
        self.message(f"{share:6.1%} of all  {_describe(values)}")

    def _pace(self, values: dict[str, Any], now: float) -> str:
        """How fast it goes, and what is left."""
        first = self._num_done if self._first is None else self._first
        began = now if self._first is None else self._began
        rate = (now - began) / max(self._num_done - first, 1)
        left = rate * (self._num_batches - self._num_done)
        return f"{values['images_per_second']:,.0f} images/s  {_duration(left)} left"

    def epoch(self, record: dict[str, Any]) -> None:
        """Print one line."""
        self._told = now = time.time()
        pace = self._pace(record, now)
        self.message(f"epoch {record['epoch']:>3}  {_describe(record)}  {pace}")


class TerminalReporter(NullReporter):
    """A live bar with loss, adversarial accuracy, epsilon, images/s and time left."""

    def __init__(self, console: Console | None = None):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("compiling", total=None)

    def message(self, text: str) -> None:
        """Print above the bar."""
        self._progress.console.print(text, highlight=False)

    def start(self, num_batches: int, num_done: int) -> None:
        """Show the bar."""
        self._progress.update(self._task, total=num_batches, completed=num_done)
        self._progress.start()

    def update(self, num_done: int, values: dict[str, Any]) -> None:
        """Move the bar."""
        # Short enough for a terminal of 80 columns.
        name = f"{values['member']} " if "member" in values else ""
        text = name + (
            f"{values['epoch']}/{values['num_epochs']} eps {values['epsilon']:.3f} "
            f"loss {values['loss']:.3f} adv acc {values['adversarial_accuracy']:.1%} "
            f"{values['images_per_second']:,.0f} images/s"
        )
        self._progress.update(self._task, completed=num_done, description=text)

    def stop(self) -> None:
        """Leave the last state of the bar on the screen."""
        self._progress.stop()


class NotebookReporter(LineReporter):
    """A line that is updated, and below it one line an epoch, in a Jupyter notebook.

    It needs no widgets: IPython, which every notebook has, updates what it displayed.
    """

    _quiet_seconds = NOTEBOOK_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._displayed: Any = None
        self._values: dict[str, Any] = {}

    def start(self, num_batches: int, num_done: int) -> None:
        """Say that training begins, since compiling may take minutes."""
        super().start(num_batches, num_done)
        self._displayed = None  # each group of a sweep has a line of its own

    def update(self, num_done: int, values: dict[str, Any]) -> None:
        """Update the line, if it has not been for a moment."""
        self._values = values
        super().update(num_done, values)

    def _show(self, values: dict[str, Any]) -> None:
        from IPython.display import display  # type: ignore

        share = self._num_done / max(self._num_batches, 1)
        text = (
            f"{share:6.1%}  epoch {values['epoch']}/{values['num_epochs']}  "
            f"{_describe(values)}  {self._pace(values, time.time())}"
        )
        if self._displayed is None:
            self._displayed = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._displayed.update({"text/plain": text}, raw=True)

    def stop(self) -> None:
        """Leave the last state of the line."""
        if self._displayed is not None:
            self._show(self._values)


def _is_notebook() -> bool:
    """Whether this is a kernel of Jupyter or of something like it."""
    ipython = sys.modules.get("IPython")  # imported there before anything else
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def reporter_for(stream: TextIO | None = None) -> Reporter:
    """What suits where progress is shown.

    Args:
        stream: None for standard output, or what a notebook displays.

    Returns:
        A `TerminalReporter` for a terminal, a `NotebookReporter` in a notebook, a
        `LineReporter` for all else.
    """
    if stream is None and _is_notebook():
        return NotebookReporter()
    out = stream or sys.stdout
    if out.isatty():
        return TerminalReporter(Console(file=out))
    return LineReporter(out)
