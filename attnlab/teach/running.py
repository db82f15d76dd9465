"""Runs a learner's function so that nothing it does ends, floods or stalls the notebook."""

from __future__ import annotations

import contextvars
import ctypes
import io
import linecache
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from attnlab.errors import AttnlabError

LIMIT_S = 10.0
AGAIN_S = 0.05  # the alarm rings until it is heard: a bare "except" may swallow it
SPARE_BYTES = 4 * 2**30  # of memory for one call; exercises need megabytes
MOST_PRINTED = 600  # characters of what a function printed
MOST_SAID = 200  # characters of another's message
PACKAGE = str(Path(__file__).parents[1])


class CheckFailed(AttnlabError):
    """An exercise is not solved yet; the message is the diagnosis in one sentence."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone in a notebook: the stack would be ours, not the learner's."""
        return [f"CheckFailed: {self}"]


class TooLong(BaseException):
    """Raised inside a function that runs longer than it may; ``except Exception`` misses it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a value, or the sentence that says why there is none."""

    value: Any = None
    error: BaseException | None = None
    sentence: str = ""
    printed: str = ""
    warned: str = ""


class _Ear(io.TextIOBase):
    """Keep the beginning of what is written."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        if len(self.text) < MOST_PRINTED:
            self.text = (self.text + text)[:MOST_PRINTED]
        return len(text)


def run(function: Callable[..., Any], args: Sequence[Any], *, limit_s: float = LIMIT_S) -> Outcome:
    """Call a function that may do anything, and say what came of it.

    Every exception is caught, an endless loop stopped, memory kept, and what is printed or
    warned of kept back.

    Args:
        limit_s: Seconds after which the call is stopped.
    """
    ear, value, error = _Ear(), None, None
    with (
        warnings.catch_warnings(record=True) as caught,
        np.errstate(all="warn"),
        redirect_stdout(ear),
        redirect_stderr(ear),
        _memory_kept(),
        _gradients_kept(),
    ):
        warnings.simplefilter("default")
        try:
            value = (_by_alarm if _has_alarm() else _by_thread)(function, args, limit_s)
        except BaseException as problem:  # also sys.exit() and the like: the notebook goes on
            error = problem
    sentence = _sentence(error, limit_s) if error is not None else ""
    warned = f"{caught[0].category.__name__}: {_first_line(caught[0].message)}" if caught else ""
    return Outcome(value, error, sentence, ear.text, warned)


def _has_alarm() -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    return hasattr(signal, "setitimer") and is_main


def _by_alarm(function: Callable[..., Any], args: Sequence[Any], limit_s: float) -> Any:
    def ring(_: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code is not _by_alarm.__code__:  # else it has just ended
            raise TooLong

    def called() -> Any:  # a frame of its own: below, no alarm is heard
        return function(*args)

    before, started = signal.signal(signal.SIGALRM, ring), time.monotonic()
    left, every = signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
    try:
        return called()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if left:  # somebody else's alarm goes on
            rest = max(left - (time.monotonic() - started), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, every)


def _by_thread(function: Callable[..., Any], args: Sequence[Any], limit_s: float) -> Any:
    """Call where there is no alarm: on Windows, or outside the main thread."""
    came: list[Any] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            came.append((context.run(function, *args), None))
        except BaseException as problem:
            came.append((None, problem))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    for _ in range(20):  # a call that sleeps does not hear it, and is left behind
        if not thread.is_alive():
            break
        identity = ctypes.c_ulong(thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(TooLong))
        thread.join(AGAIN_S)
    value, problem = came[0] if came else (None, TooLong())
    if problem is not None:
        raise problem
    return value


@contextmanager
def _memory_kept() -> Iterator[None]:
    """Let a call have ``SPARE_BYTES`` more than there is in use; on Linux alone."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + SPARE_BYTES
    most = min([most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _gradients_kept() -> Iterator[None]:
    """Leave torch's gradients on or off as they were: a call may be stopped inside ``no_grad``."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(before)


def _sentence(error: BaseException, limit_s: float) -> str:
    if isinstance(error, CheckFailed):
        return str(error)
    told = (
        (TooLong, f"it was stopped after {limit_s:g} seconds: look for a loop that never ends."),
        (RecursionError, "it calls itself without end: which case stops it?"),
        (MemoryError, "it asks for more memory than there is: write each shape beside its line."),
        (SystemExit, "it ends the program (exit, quit or sys.exit): return a value instead."),
        (KeyboardInterrupt, "it was interrupted."),
    )
    known = next((sentence for kind, sentence in told if isinstance(error, kind)), None)
    return known or f"it raised {type(error).__name__}: {_first_line(error)}{_place(error)}"


def _first_line(thing: Any) -> str:
    try:
        lines = str(thing).strip().splitlines()
    except Exception:  # a message that cannot be written
        return "(a message that cannot be printed)"
    return lines[0][:MOST_SAID] if lines else "(no message)"


def _place(error: BaseException) -> str:
    """Return the last line of the learner's own code that the error passed."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_own = not frame.filename.startswith((PACKAGE, "<")) and (
            "site-packages" not in frame.filename
        )
        line = linecache.getline(frame.filename, frame.lineno or 0).strip()
        if is_own and line:
            return f" (line {frame.lineno}: {line[:80]})"
    return ""
