"""A PostgreSQL server that refuses connections and then takes them, and one that lost a column: bronze over both."""

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest

from lims_platform import failures
from lims_platform.assets.bronze import bronze_asset
from lims_platform.assets.door import Door
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import Settings, settings
from lims_platform_tests.servers import (
    mariadb_database,
    mariadb_server,
    postgres_database,
    postgres_execute,
    postgres_server,
)

__all__ = ["mariadb_database", "mariadb_server", "postgres_database", "postgres_server"]


class Gate:
    """A port in front of a server: closed (the system refuses connections) until it is opened."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server = (parts.hostname or "", parts.port or 0)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._opened = False

    def open(self) -> None:
        """Take connections from now on."""
        if not self._opened:
            self._opened = True
            self._socket.listen()
            threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


YESTERDAY = settings().today - timedelta(days=1)


@pytest.fixture
def gate(postgres_database: str) -> Iterator[Gate]:
    """A LIMS with three results of yesterday behind a closed gate."""
    postgres_execute(
        postgres_database,
        "CREATE TABLE lab_results (result_id text, patient_id text, test_code text, result_value text, result_unit text, "
        "device_id text, collected_timestamp timestamp, resulted_timestamp timestamp, technician_id text)",
        *(
            f"INSERT INTO lab_results VALUES ('R{n}', 'P1', 'GLU', '95', 'mg/dL', 'D1', '{YESTERDAY} 09:00', "
            f"'{YESTERDAY} 10:00', 'T1')"
            for n in range(3)
        ),
    )
    made = Gate(postgres_database)
    yield made
    made.close()


def read(gate: Gate, database: str, folder: Path) -> dg.ExecuteInProcessResult:
    """Bronze of yesterday through the gate."""
    sources = folder / "sources.yaml"
    uri = f"postgresql://postgres@127.0.0.1:{gate.port}{urlsplit(database).path}"
    sources.write_text(
        f"sources:\n  lims:\n    uri: {uri}\n    timezone: {settings().timezone}\n"
        "    tables: {lab_results: {table: lab_results}}\n"
    )
    lake = Lake(folder / "lake")
    door = Door(Settings(data_dir=folder, sources=sources), lake)
    return dg.materialize(
        [bronze_asset(LAB_RESULTS)], partition_key=YESTERDAY.isoformat(), resources={"door": door}, raise_on_error=False
    )


def kinds(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.event_type_value for event in result.all_events]


def test_a_server_that_refuses_at_first_costs_a_retry_and_no_row(
    gate: Gate, postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened_during_the_pause(tried: int, given: Settings) -> float:
        gate.open()
        return 0.01

    monkeypatch.setattr(failures, "pause_seconds", opened_during_the_pause)
    result = read(gate, postgres_database, tmp_path)
    assert result.success
    assert kinds(result).count("STEP_UP_FOR_RETRY") == 1
    written = result.asset_materializations_for_node("bronze__lab_results_raw")
    assert written[0].metadata["dagster/row_count"].value == 3


def test_a_server_that_keeps_refusing_fails_in_the_end_and_names_its_address(
    gate: Gate, postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "pause_seconds", lambda tried, given: 0.01)
    result = read(gate, postgres_database, tmp_path)
    assert not result.success
    assert kinds(result).count("STEP_UP_FOR_RETRY") == settings().transient_retries
    assert f"cannot connect to 127.0.0.1:{gate.port}" in failed(result)


def test_a_lost_column_fails_once_and_is_named(gate: Gate, postgres_database: str, tmp_path: Path) -> None:
    gate.open()
    postgres_execute(postgres_database, "ALTER TABLE lab_results DROP COLUMN result_value")
    result = read(gate, postgres_database, tmp_path)
    assert not result.success and "STEP_UP_FOR_RETRY" not in kinds(result)
    words = failed(result)
    assert "lab_results" in words and "result_value" in words and "sources.yaml" in words


def failed(result: dg.ExecuteInProcessResult) -> str:
    """The failure's own words, which Dagster's run page shows."""
    event = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return data.description or ""
