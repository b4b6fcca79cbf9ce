"""What the command line prints: one line per error on stderr, results on stdout."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from vaelens.errors import VaelensError
from vaelens.output import to_json
from vaelens.training.interrupt import SIGNALS, called

_OF_TORCH = "no current CUDA context"  # said once of each thread that takes gradients on a GPU, and of no consequence


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; NaN and infinity, which JSON has not, as null."""
    print(to_json(value))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: in colour and with lines on a terminal, else plain."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def say(message: str) -> None:
    """A line for the person on stderr, so that stdout holds results alone; lost where nobody takes it."""
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def notice(line: str) -> None:
    """The same, under the program's name."""
    say(f"vaelens: {line}")


@contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; a line at the end of each tenth where stderr is no terminal; nothing when quiet."""
    if quiet:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        said = [0]

        def tell(done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > said[0]:
                said[0] = tenth
                say(f"{what}: {done} of {total}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def downloading(name: str, done: int, total: int | None) -> None:
    """Show a download as it goes, where stderr is a terminal."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:.1f}" if total else ""
        print(f"\r{name}: {done / 1e6:.1f}{share} MB", end="" if done != total else "\n", file=sys.stderr, flush=True)


def run_command(command: Callable[[], Any], options: Callable[[], Mapping[str, str]] = dict) -> int:
    """Run a command line to its exit code: 0, 1 for a failure, 2 for misuse, 130 for Ctrl-C. Never a traceback.

    With VAELENS_DEBUG set, errors that are not foreseen are raised as they are.

    Args:
        command: to run.
        options: what arguments that messages name are called on the command line, such as `--held-out` for "held_out".
    """
    warnings.showwarning = _show_warning
    with _stoppable():
        return _exit_code(command, options)


def _exit_code(command: Callable[[], Any], options: Callable[[], Mapping[str, str]]) -> int:
    try:
        result = command()
        sys.stdout.flush()
    except VaelensError as error:
        say(f"vaelens: error: {_with_options(_one_line(str(error)), options())}")
        return error.exit_code
    except KeyboardInterrupt:
        return _stopped(Stopped(signal.SIGINT))
    except Stopped as error:
        return _stopped(error)
    except BrokenPipeError:
        # What reads our output has gone; nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _unforeseen(error)
    return result if isinstance(result, int) else 0


def _with_options(message: str, options: Mapping[str, str]) -> str:
    """A message with arguments by the names that they have on the command line; a part of a path or a quotation stays."""
    for name, option in options.items():
        message = re.sub(rf"(?<![\w/.'\"-]){name}(?![\w/.'\"-])", option, message)
    return message


class Stopped(BaseException):
    """Ctrl-C or another signal that asks the process to end; what is under way is undone on the way out.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {called(number)}")
        self.number = number


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have signals that would end the process, at once or as KeyboardInterrupt, raise `Stopped`: the first of them.

    Those that follow are ignored, since they would cut off what it undoes on its way out.
    """
    stop = _Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


class _Stop:
    """A handler that raises `Stopped` once."""

    def __init__(self) -> None:
        self._spent = False

    def spend(self) -> None:
        """From now on signals are ignored: the process is on its way out."""
        self._spent = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._spent:
            return
        if _importing(frame):
            # Raised in the middle of an import it may be lost, or leave a library half there: once more in a moment.
            later = threading.Timer(0.05, signal.raise_signal, (number,))
            later.daemon = True
            later.start()
            return
        self._spent = True
        raise Stopped(number)


def ignore_signals() -> None:
    """For the very end: by a function first, which takes what is on its way; on exit Python undoes functions alone."""
    for ignored in (lambda *_: None, signal.SIG_IGN):
        for number in SIGNALS:
            signal.signal(number, ignored)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _stopped(error: Stopped) -> int:
    say(f"vaelens: {error}; nothing half-written is left")
    return 128 + error.number


_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """A warning is for the person where it is ours; a library's, about its own ways, only when debugging."""
    ours = category is UserWarning and _OF_TORCH not in str(message)
    if ours or os.environ.get("VAELENS_DEBUG"):
        say(f"vaelens: warning: {_one_line(str(message))}")


def _unforeseen(error: Exception) -> int:
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a click or typer usage error
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context is not None else ""
        say(f"vaelens: error: {_one_line(error.format_message()).rstrip('.')}{hint}")
        return int(error.exit_code)
    if type(error).__name__ == "Abort":  # click's KeyboardInterrupt
        return _stopped(Stopped(signal.SIGINT))
    if os.environ.get("VAELENS_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        say(f"vaelens: error: the disk is full{f': could not write {error.filename}' if error.filename else ''}")
    elif isinstance(error, OSError) and error.filename:
        say(f"vaelens: error: {_one_line(str(error.filename))}: {error.strerror}")
    elif isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        say("vaelens: error: not enough memory; use smaller batches or fewer images")
    else:
        say(f"vaelens: error: {type(error).__name__}: {_one_line(str(error))[:300]} (VAELENS_DEBUG=1 shows where)")
    return 1


def _one_line(text: str) -> str:
    """Without line breaks, and without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def mend_streams() -> None:
    """Have stdout and stderr take whatever is written: closed, they lead nowhere; what they have no code for is spelt out."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
