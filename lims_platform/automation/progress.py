"""Progress on the console: which asset of how many, its rows, the time so far.

Here: a logger that listens to Dagster's own events. Not here: the summary at the end (``reporting.summary``).
"""

import logging
import sys
import time
from typing import Any

import dagster as dg

from lims_platform.lakehouse.io_manager import ROWS_OF_RUN


class ProgressHandler(logging.Handler):
    """Prints one line per finished asset or failed step, and passes warnings and errors on. ``assets``: of how many."""

    def __init__(self, assets: int) -> None:
        super().__init__(logging.DEBUG)
        self._assets = assets
        self._started = time.monotonic()
        self._done = 0
        self._rows: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Turn a Dagster event into at most one line."""
        event = getattr(record, "dagster_event", None)
        if event is None:
            if record.levelno >= logging.WARNING:
                self._print(f"  {record.levelname.lower()}: {getattr(record, 'orig_message', record.getMessage())}")
            return
        kind = event.event_type_value
        if kind == "ASSET_MATERIALIZATION":
            self._note_rows(event)
        elif kind == "ASSET_CHECK_EVALUATION":
            evaluation = event.event_specific_data
            if not evaluation.passed:
                self._print(
                    f"  check failed: {evaluation.asset_key.path[-1]}.{evaluation.check_name} ({evaluation.severity.value})"
                )
        elif kind == "STEP_SUCCESS" and event.step_key in self._rows:
            self._done += 1
            seconds = event.event_specific_data.duration_ms / 1000
            count = f"{self._done:3d} of {self._assets}"
            self._print(f"{count}  {event.step_key:<42} {self._rows[event.step_key]:>14}  {seconds:6.1f} s")
        elif kind == "STEP_FAILURE":
            self._print(f"  failed: {event.step_key}: {_cause(event.event_specific_data.error)}")
        elif kind == "RUN_FAILURE":
            self._print(f"  failed: {event.message or ''}")

    def _note_rows(self, event: Any) -> None:
        metadata = event.event_specific_data.materialization.metadata
        rows = metadata.get(ROWS_OF_RUN, metadata.get("dagster/row_count"))
        self._rows[event.step_key] = f"{rows.value:,} rows" if rows is not None else "done"

    def _print(self, line: str) -> None:
        elapsed = time.monotonic() - self._started
        print(f"[{int(elapsed) // 60:2d}:{int(elapsed) % 60:02d}] {line}", file=sys.stderr, flush=True)


def _cause(error: Any) -> str:
    """What the step itself raised, below Dagster's wrapping, in one line: what a person can act on."""
    if error is None:
        return "no error was recorded"
    return " ".join((error.cause or error).message.split())


@dg.logger(config_schema={}, description="One line per asset: how many are done, rows, seconds.")
def progress_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The console logger of a run started from the command line."""
    logger = logging.Logger("lims_platform.progress", logging.DEBUG)
    layer = context.job_def.asset_layer if context.job_def is not None else None
    logger.addHandler(ProgressHandler(len(layer.selected_asset_keys) if layer is not None else 0))
    return logger
