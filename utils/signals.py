"""Ending at a signal when it suits, not in the middle of a step."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time

IMPATIENCE = 5.0  # seconds; a launcher may pass on one signal several times


class StopRequest:
    """While entered, SIGINT (Ctrl-C) and SIGTERM only leave a note that the work should end.

    Another signal, five seconds after the first or later, ends the process as it would without this.

    Attributes:
        signum: the first signal that came, or None.
    """

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self) -> StopRequest:
        self._previous = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.signum is not None

    def _note(self, signum: int, _frame) -> None:
        if self.signum is None:
            self.signum, self._came = signum, time.monotonic()
            name = signal.Signals(signum).name
            # Not print: the signal may have come in the middle of one.
            sys.__stderr__.write(f"\n{name}: ending after this step; once more in {IMPATIENCE:.0f} seconds: at once\n")
        elif time.monotonic() - self._came >= IMPATIENCE:
            self.__exit__()
            signal.raise_signal(signum)


def ignore_signals(_worker_id: int = 0) -> None:
    """For processes that load data: a signal that reaches them too must not end them before the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_children() -> None:
    """Kill the processes that load data, which ignore the SIGTERM that would end them, and hold nothing to lose."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a dead child for an accident
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    signal.signal(signal.SIGCHLD, previous)
