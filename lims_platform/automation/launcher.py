"""Dagster's default run launcher, able to say whether a run still has a process; deploy/dagster.production.yaml names it.

Here: asking the code server that launched a run. Not here: what follows: the daemon's run monitoring marks a run without a
process as failed and run_retries runs it once more.

The code server notices the death of a run's process, but nobody that of the code server: a power cut, a kill -9, a stop that
could not wait. Such a run would count as running, and keep its place in the queue, until max_runtime_seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData, deserialize_value


class WatchfulRunLauncher(DefaultRunLauncher):
    """DefaultRunLauncher with run worker health, for code servers that keep their address when they start again."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> WatchfulRunLauncher:
        """Build from dagster.yaml."""
        return cls(inst_data=inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: the daemon's run monitoring asks."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED where the code server answers and does not hold the run; RUNNING where it does or does not answer.

        While the server is down nothing is decided: a run can be run again only by a server that is there. A run started by
        hand has no code server and counts as running.
        """
        client = self._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not started by a code server")
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
        except DagsterUserCodeUnreachableError:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its code server does not answer")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its code server was restarted, and its process is gone")
