"""How a program of the library ends: its exit code, and what it says then.

0 done; 1 failed; 2 wrong usage, which would be wrong again; 75 interrupted with the
state saved. Schedulers start a job again after 1 and 75, not after 2.
"""

import dis
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import jax

from jaxrobust import hosts
from jaxrobust.keeping import InUseError, describe_failure
from jaxrobust.references import MODULES
from jaxrobust.training import CheckpointError, Interrupted, NonFiniteLossError
from jaxrobust.training.course.signals import AtOnce, interrupt_on_signals

__all__ = ["FAILED", "INTERRUPTED", "WRONG_USAGE", "execute"]

FAILED, WRONG_USAGE = 1, 2

INTERRUPTED = 75
"""Exit code of EX_TEMPFAIL (sysexits.h): try again."""

OURS = {"jaxrobust", "experiments", "launch", MODULES}
"""Packages whose refusals are about what the user asked for; files of the user's own
are in the last one."""

FAILURES = (CheckpointError, NonFiniteLossError, InUseError, hosts.HostLostError)

BUG = (
    "Unless this is about a file of your own, it is a fault in jaxrobust or in what "
    "that is made of; please report it with all of these lines."
)


def execute(name: str, command: Callable[[], int]) -> int:
    """The exit code of a command; what users can mend is said in one line.

    Args:
        name: of the program, which its messages begin with.
        command: does the work, and returns an exit code.

    Raises:
        Exception: what nobody foresaw, for Python to print with its traceback and to
            end with 1.
    """
    try:
        with hosts.lost_hosts_as_errors(), interrupt_on_signals():
            return command()
    except Interrupted as error:
        code, text = INTERRUPTED, str(error)
    except KeyboardInterrupt as error:
        code, text = FAILED, "interrupted"
        if isinstance(error, AtOnce) and error.number != signal.SIGINT:
            # By a scheduler, which asks whether to start the command again.
            code, text = INTERRUPTED, "interrupted; give the same command again"
    except Exception as error:
        told = _told(error)
        if told is None:
            error.add_note(BUG)
            raise
        code, text = told
    print(f"{name}: {text}", file=sys.stderr)
    return code


def _told(error: Exception) -> tuple[int, str] | None:
    """Exit code and message of an error; None if it is a fault in the program."""
    if isinstance(error, FAILURES):
        return FAILED, str(error)
    if isinstance(error, OSError):
        return FAILED, describe_failure(error)
    if isinstance(error, MemoryError):
        return FAILED, _out_of_memory(str(error))
    if isinstance(error, jax.errors.JaxRuntimeError):
        text = str(error)
        is_memory = "RESOURCE_EXHAUSTED" in text or "ut of memory" in text
        return (FAILED, _out_of_memory(text)) if is_memory else None
    if _is_refusal(error):
        return WRONG_USAGE, str(error)
    if any(_is_backend_choice(frame) for frame in _frames(error)):
        return FAILED, _no_backend(error)
    return None


def _frames(error: Exception) -> list[FrameType]:
    """The frames that an error went through, outermost first."""
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def _is_refusal(error: Exception) -> bool:
    """Whether the library itself refused what it was asked for.

    A refusal is raised by a `raise` of ours. The same kinds of errors come from
    anywhere: from a full disk under a library, say, or from a mistake of ours that
    numpy notices.
    """
    if not isinstance(error, ValueError | TypeError | ImportError):
        return False
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals
    package = module.get("__package__") or module.get("__name__") or ""
    if package.partition(".")[0] not in OURS:
        return False
    if isinstance(error, ImportError):
        # A package that is an extra, and not installed.
        return True
    code = trace.tb_frame.f_code.co_code
    return code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _out_of_memory(text: str) -> str:
    line = text.strip().partition("\n")[0][:200]
    return (
        f"out of memory{': ' + line if line else ''}; take smaller batches, fewer "
        "examples, or a device with more."
    )


def _is_backend_choice(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return name == "jax._src.xla_bridge" and frame.f_code.co_name == "backends"


def _no_backend(error: Exception) -> str:
    """Said in place of jax, which stops at an assertion for some of them."""
    line = str(error).partition("\n")[0]
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"`JAX_PLATFORMS` must name a platform that jax finds here, got "
        f"{wanted!r}{' (' + line + ')' if line else ''}; unset it, or install jax for "
        "that platform."
    )
