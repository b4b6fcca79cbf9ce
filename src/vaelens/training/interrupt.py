"""Ctrl-C and termination as a wish that training grants between two batches, never in the middle of a write."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a process to end, as far as this system has them."""


def called(number: int) -> str:
    """What a person calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopRequests:
    """Context manager that notes SIGINT, SIGTERM and SIGHUP in place of what they did before, and puts that back on leaving.

    A second SIGINT raises KeyboardInterrupt at once. A signal that was ignored stays ignored (a job in the background),
    and outside the main thread, where Python allows no handlers, nothing is touched.

    Attributes:
        signal: the number of the signal that came, None before.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._insisted = False

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            if self.signal is not None and hasattr(before, "spend"):
                before.spend()  # what stops on the first signal has had it
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif number == signal.SIGINT and not self._insisted:
            self._insisted = True
            raise KeyboardInterrupt
