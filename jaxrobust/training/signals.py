"""Turning Ctrl-C and the like into a question that training asks between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["StopRequest", "interrupt_on_signals", "stop_on_signals"]


class StopRequest:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


_requests: list[StopRequest] = []


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT, SIGTERM, SIGUSR1 instead of dying of them; the second one kills.

    SIGUSR1 is what schedulers send ahead of the end of an allocation.

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

    def handle(number: int, frame: object) -> None:
        del frame
        request.signal_name = signal.Signals(number).name
        for each, previous in before.items():
            signal.signal(each, previous)

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {each: signal.getsignal(each) for each in handled}
    for each in handled:
        signal.signal(each, handle)
    _requests.append(request)
    try:
        yield request
    finally:
        _requests.remove(request)
        for each, previous in before.items():
            signal.signal(each, previous)


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 do what Ctrl-C does: raise `KeyboardInterrupt`.

    For work that keeps its results as it goes, and can be stopped anywhere.
    """

    def handle(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    handled = (signal.SIGTERM, signal.SIGUSR1)
    before = {each: signal.getsignal(each) for each in handled}
    if threading.current_thread() is threading.main_thread():
        for each in handled:
            signal.signal(each, handle)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for each, previous in before.items():
                signal.signal(each, previous)
