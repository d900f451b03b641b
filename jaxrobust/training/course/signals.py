"""Ctrl-C and the like as a question that training asks, before and between steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax

from jaxrobust.hosts.together import agree

__all__ = [
    "AtOnce",
    "Interrupted",
    "StopRequest",
    "interrupt_on_signals",
    "stop_on_signals",
]


class Interrupted(RuntimeError):
    """A signal stopped the work, of which nothing is lost."""


class AtOnce(KeyboardInterrupt):
    """Raised by a signal; like Ctrl-C, nothing takes it for an error of its own.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


AGAIN = 0.05
"""Seconds after which a signal that could not be raised is sent again."""

COMPILER = "jax._src.compiler"
"""The module of jax that waits for XLA."""


def _is_compiling(frame: FrameType | None) -> bool:
    """Whether a frame, or what called it, waits for XLA to compile.

    XLA does so in threads that nothing stops, and Python ending under them crashes. So
    nothing is raised before they are done.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == COMPILER:
            return True
        frame = frame.f_back
    return False


@contextmanager
def _unraised(deal: Callable[[int], None]) -> Iterator[None]:
    """Deal with the number of a signal that came while a destructor ran.

    Nothing can be raised from there: Python would print a traceback and go on as if
    there had been no signal.
    """
    before = sys.unraisablehook

    def hook(details: Any) -> None:
        if isinstance(details.exc_value, AtOnce):
            deal(details.exc_value.number)
        else:
            before(details)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:  # or somebody's, who calls this one
            sys.unraisablehook = before


class StopRequest:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._is_at_once = False

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Take note of a signal, which came while a frame was running."""
        self.signal_name = signal.Signals(number).name
        if self._is_at_once and not _is_compiling(frame):
            raise AtOnce(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Have a signal end the block there and then; ask afterwards whether one did.

        For work of which nothing is kept, such as reading data. A block that is
        compiling goes on to its end.
        """
        try:
            self._is_at_once = True
            try:
                yield
            finally:
                self._is_at_once = False
        except AtOnce:
            pass


_requests: list[StopRequest] = []


def _stopping() -> Sequence[signal.Signals]:
    """The signals by which a process is asked to stop.

    SIGUSR1 is what schedulers send ahead of the end of an allocation, SIGHUP comes when
    a terminal is closed. A process that was started by nohup ignores that, and goes on
    doing so.
    """
    chosen = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        chosen.append(signal.SIGHUP)
    return chosen


class _Handling:
    """Has signals do something else until it is undone; a context manager."""

    def __init__(
        self,
        signals: Sequence[signal.Signals],
        handle: Callable[[int, FrameType | None], None],
    ):
        self.handle = handle
        self.before = {number: signal.getsignal(number) for number in signals}

    def undo(self) -> None:
        """Have the signals do what they did before."""
        for number, previous in self.before.items():
            signal.signal(number, previous)

    def __enter__(self) -> None:
        for number in self.before:
            signal.signal(number, self.handle)

    def __exit__(self, *_: object) -> None:
        self.undo()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT, SIGTERM, SIGUSR1, SIGHUP instead of dying; the second one kills.

    Inside another such context the request is that one's, so that none is lost between
    two groups of a sweep. Outside the main thread signals cannot be handled, and none
    are.
    """
    if _requests:
        yield _requests[-1]
        return
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        handling.undo()
        request.receive(number, frame)

    handling = _Handling(_stopping(), handle)
    # The request has taken note of it, and is asked after the block.
    with handling, _unraised(lambda _: None):
        _requests.append(request)
        try:
            yield request
        finally:
            _requests.remove(request)


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM, SIGUSR1, SIGHUP raise `AtOnce`, a `KeyboardInterrupt`.

    For work that keeps its results as it goes, and can be stopped anywhere; while XLA
    compiles, as soon as that is done.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_compiling(frame):
            send_again(number)
        else:
            raise AtOnce(number)

    is_over = threading.Event()

    def again(number: int) -> None:
        if not is_over.wait(AGAIN):
            os.kill(os.getpid(), number)

    def send_again(number: int) -> None:
        threading.Thread(target=again, args=(number,), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [
        each for each in _stopping() if signal.getsignal(each) is not signal.SIG_IGN
    ]
    with _Handling(signals, handle), _unraised(send_again):
        try:
            yield
        finally:
            is_over.set()


@contextlib.contextmanager
def starting(stop: StopRequest) -> Iterator[None]:
    """Work before training, of which nothing is kept: a signal ends it there and then.

    In a job of several processes all of them end after the block, since those that go
    on would wait for one that does not.

    Raises:
        Interrupted: if there was a signal, in all processes.
    """
    _check(stop)
    at_once = jax.process_count() == 1
    with stop.at_once() if at_once else contextlib.nullcontext():
        yield
    _check(stop)


def _check(stop: StopRequest) -> None:
    if agree(float(bool(stop)))[0]:
        raise Interrupted(
            f"stopped by {stop.signal_name or 'a signal'} before training, so that "
            "nothing is lost; run the same command with --resume to go on, or the same "
            "call with resume=True"
        )
