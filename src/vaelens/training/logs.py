"""The record of a run, one row per epoch: `metrics.csv` always, TensorBoard's event files on request."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaelens.errors import RunError

Row = dict[str, float]


class EpochLogs:
    """Writes the rows of a run.

    The CSV is written whole each time and moved into place: a killed run leaves a complete file, and a run that resumes
    takes its rows from the checkpoint, so that none is lost and none stands twice.

    Args:
        folder: where to write; made if need be.
        tensorboard: write event files, in `folder/tensorboard`, too.
        epochs_done: epochs that a resumed run has behind it; TensorBoard then hides what it had logged beyond them.

    Raises:
        RunError: the folder cannot be written.
    """

    def __init__(self, folder: Path, tensorboard: bool = False, epochs_done: int = 0) -> None:
        self.path = folder / "metrics.csv"
        self._writer: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if tensorboard:
                from tensorboardX import SummaryWriter

                # Files are named by the second: without more a run resumed within it would write over its own record.
                suffix = f".{time.time_ns():020d}"
                place = str(folder / "tensorboard")
                self._writer = SummaryWriter(place, purge_step=epochs_done + 1, filename_suffix=suffix)
        except OSError as error:
            raise cannot_write(folder, error) from error

    def write(self, history: Sequence[Row], new: bool = True) -> None:
        """Write all rows to the CSV, and the last one, if it is `new`, to TensorBoard.

        Raises:
            RunError: the file cannot be written.
        """
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(history[0]) if history else ["epoch"], lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            partial.write_text(text.getvalue())
            partial.replace(self.path)
            if self._writer is not None and new and history:
                row = history[-1]
                for name, value in row.items():
                    if name != "epoch":
                        self._writer.add_scalar(name, value, int(row["epoch"]))
                self._writer.flush()
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()


def cannot_write(path: Path, error: Exception) -> RunError:
    """The error for a file or folder that cannot be written: a full disk, a missing right, a file in the way."""
    # torch wraps the error of a file that it writes to, and says nothing of the cause itself.
    cause = error if isinstance(error, OSError) else error.__context__
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else "the write failed"
    return RunError(f"cannot write {path} ({reason}): free space there, or choose another output folder")
