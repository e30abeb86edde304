"""The services of deploy/ for real: MLflow, code server, webserver, daemon, HL7 listener, over a real PostgreSQL.

A laboratory whose LIMS is a PostgreSQL database, in LIMS_ENVIRONMENT=production with a key of its own.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import live_rows
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import simulate
from lims_platform.simulator.writer import write
from lims_platform_tests.servers import free_port, postgres_execute, postgres_server  # noqa: F401
from lims_platform_tests.system import proxy, services
from lims_platform_tests.system.asking import ended, eventually, graphql, launch, listeners, query, runs, said
from lims_platform_tests.system.services import Services

pytestmark = pytest.mark.slow

DAYS = 8
#: 127.0.0.1 in /proc/net/tcp, and the same address in IPv6's clothes in /proc/net/tcp6.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
PORTS = ("LIMS_UI_PORT", "LIMS_CODE_PORT", "LIMS_MLFLOW_PORT", "LIMS_HL7_PORT")
HL7 = "lims-hl7.service"
CLOCKS = """query Clocks($where: RepositorySelector!) {
  schedulesOrError(repositorySelector: $where) { ... on Schedules { results { name scheduleState { status } } } }
  sensorsOrError(repositorySelector: $where) { ... on Sensors { results { name sensorState { status } } } } }"""


@dataclass(frozen=True)
class Databases:
    """Addresses of three databases of one server, each with an owner and a password of its own."""

    dagster: str
    mlflow: str
    lims: str
    lims_password: str


@pytest.fixture(scope="module")
def databases(postgres_server: str) -> Iterator[Databases]:  # noqa: F811
    """Three databases that are dropped afterwards, the third a LIMS of a few days."""
    place, tag = postgres_server.split("@")[1], uuid.uuid4().hex[:8]
    admin = f"{postgres_server}/postgres"
    names = {kind: f"lims_{kind}_{tag}" for kind in ("dagster", "mlflow", "source")}
    passwords = {kind: secrets.token_hex(16) for kind in names}
    for kind, name in names.items():
        statements = f"CREATE ROLE {name} LOGIN PASSWORD '{passwords[kind]}'", f"CREATE DATABASE {name} OWNER {name}"
        postgres_execute(admin, *statements)
    addresses = {kind: f"postgresql://{name}:{passwords[kind]}@{place}/{name}" for kind, name in names.items()}
    try:
        yield Databases(addresses["dagster"], addresses["mlflow"], addresses["source"], passwords["source"])
    finally:
        for name in names.values():
            postgres_execute(admin, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


@pytest.fixture(scope="module")
def laboratory(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The machine as docs/production.md prepares it, nothing started."""
    folder = tmp_path_factory.mktemp("production")
    state, etc = folder / "var", folder / "etc"
    (etc / "secrets").mkdir(parents=True, mode=0o700)
    (state / "dagster").mkdir(parents=True)
    (state / "dagster" / "dagster.yaml").symlink_to(services.ROOT / "deploy" / "dagster.production.yaml")
    shutil.copytree(services.ROOT / "data" / "reference", etc / "reference")
    key = etc / "secrets" / "pseudonym.key"
    with os.fdopen(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    write(
        simulate(LabConfig(seed=3, end=date.today(), days=DAYS, devices=6, results_per_day=150)),
        databases.lims,
        folder / "truth",
    )
    tables: dict[str, dict[str, str]] = {
        name: {"table": name} for name in ("lab_results", "device_logs", "quality_control", "batch_results", "devices")
    }
    tables["lab_results"]["change_cursor"] = "updated_at"
    source = {
        "uri": databases.lims.replace(databases.lims_password, "${LIMS_DB_PASSWORD}"),
        "timezone": "Europe/Berlin",
        "identifier_patterns": {"patient": r"\bP\d{7}\b", "technician": r"\bT\d{4}\b"},
        "tables": tables,
    }
    (etc / "sources.yaml").write_text(yaml.safe_dump({"sources": {"main_lims": source}}))
    ports = {name: str(free_port()) for name in PORTS}
    settings = ports | {
        "LIMS_START_DATE": (date.today() - timedelta(days=DAYS - 1)).isoformat(),
        "LIMS_DAGSTER_DATABASE": databases.dagster.replace("postgresql", "postgresql+psycopg2"),
        "MLFLOW_BACKEND_STORE_URI": databases.mlflow.replace("postgresql", "postgresql+psycopg2"),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['LIMS_MLFLOW_PORT']}",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{ports['LIMS_MLFLOW_PORT']},mlflow.lims.example",
        "LIMS_DB_PASSWORD": databases.lims_password,
        "POLARS_MAX_THREADS": "2",
    }
    return Services(folder, services.here(state, etc), settings)


@pytest.fixture(scope="module")
def platform(laboratory: Services) -> Iterator[Services]:
    """Everything lims.target starts, and the HL7 listener."""
    try:
        for name in [*services.start_order(), HL7]:
            laboratory.start(name)
        for port in PORTS:
            eventually(lambda port=port: listeners(int(laboratory.settings[port])), 240, f"nobody listens on {port}")
        yield laboratory
    finally:
        laboratory.kill_all()


def test_only_loopback_is_listened_on(platform: Services) -> None:
    for port in PORTS:
        found = set(listeners(int(platform.settings[port])))
        assert found and found <= LOOPBACK, port


def test_everything_starts_by_itself(platform: Services) -> None:
    where = {"repositoryLocationName": "lims_platform", "repositoryName": "__repository__"}
    told = graphql(platform, CLOCKS, where=where)
    schedules = {one["name"]: one["scheduleState"]["status"] for one in told["schedulesOrError"]["results"]}
    sensors = {one["name"]: one["sensorState"]["status"] for one in told["sensorsOrError"]["results"]}
    assert {"alerts_schedule", "maintenance_weekly_schedule", "reconcile_nightly_schedule"} <= schedules.keys()
    assert {"data_starts", "alert_on_run_failure", "repaired_days_sensor"} <= sensors.keys()
    assert set((schedules | sensors).values()) == {"RUNNING"}, schedules | sensors


def test_a_run_goes_through_queue_daemon_and_code_server_into_lake_and_postgresql(
    platform: Services, databases: Databases
) -> None:
    run = launch(platform)
    status = eventually(lambda: ended(platform, run), 300, platform.last_words("lims-daemon.service"))
    assert status == "SUCCESS", platform.last_words("lims-code.service")
    lake = Lake(Path(platform.environment()["LIMS_DATA_DIR"]) / "lake")
    live = live_rows(lake.scan(TABLES["lab_results_raw"])).collect()
    assert (
        live["result_id"].n_unique()
        == query(databases.lims, "SELECT count(DISTINCT result_id) AS n FROM lab_results")["n"][0]
    )
    kinds = query(databases.dagster, f"SELECT dagster_event_type AS kind FROM event_logs WHERE run_id = '{run}'")["kind"]
    assert {"PIPELINE_ENQUEUED", "PIPELINE_STARTING", "PIPELINE_SUCCESS"} <= set(kinds)
    made = query(
        databases.dagster,
        f"SELECT DISTINCT partition FROM event_logs WHERE run_id = '{run}' AND asset_key LIKE '%lab_results_raw%'"
        " AND dagster_event_type = 'ASSET_MATERIALIZATION'",
    )
    assert made.height == DAYS
    tags = query(databases.dagster, f"SELECT value FROM run_tags WHERE run_id = '{run}' AND key = '.dagster/grpc_info'")
    assert json.loads(tags["value"][0]) == {"host": "127.0.0.1", "port": int(platform.settings["LIMS_CODE_PORT"])}
    assert not list(Path(platform.here("/var/lib/lims")).rglob("*.db")), "nothing is kept in SQLite"


def test_a_login_stands_before_both_interfaces(platform: Services, tmp_path: Path) -> None:
    upstreams = {3000: int(platform.settings["LIMS_UI_PORT"]), 5000: int(platform.settings["LIMS_MLFLOW_PORT"])}
    login = "Basic " + base64.b64encode(b"alice:swordfish-17").decode()
    dagster, mlflow = "dagster.lims.example", "mlflow.lims.example"
    search, wanted = "/api/2.0/mlflow/experiments/search", '{"max_results": 5}'
    with proxy.nginx(tmp_path / "nginx", upstreams, "alice", "swordfish-17") as port:
        for host, path in ((dagster, "/server_info"), (mlflow, "/health"), (dagster, "/graphql"), (mlflow, search)):
            assert proxy.ask(port, host, path)[0] == 401, (host, path)
        status, text = proxy.ask(port, dagster, "/server_info", Authorization=login)
        assert status == 200 and "dagster_version" in text
        follow = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
        follow |= {"Sec_WebSocket_Key": base64.b64encode(b"0" * 16).decode(), "Sec_WebSocket_Protocol": "graphql-ws"}
        assert proxy.ask(port, dagster, "/graphql", Authorization=login, **follow)[0] == 101
        sent = {"Authorization": login, "Content_Type": "application/json"}
        status, text = proxy.ask(port, mlflow, search, wanted, Origin=f"https://{mlflow}", **sent)
        assert status == 200 and "experiments" in text, text
        assert proxy.ask(port, mlflow, search, wanted, Origin="https://elsewhere.example", **sent)[0] == 403


def test_a_model_goes_over_mlflows_server_into_its_database_and_the_backup(
    platform: Services, databases: Databases, tmp_path: Path
) -> None:
    from lims_platform.learning.onnx_model import export
    from lims_platform.learning.registry import MODEL_NAME, Registry
    from lims_platform_tests.unit.test_learning_registry import log_example
    from lims_platform_tests.unit.test_learning_training import trained

    uri = platform.settings["MLFLOW_TRACKING_URI"]
    run = log_example(uri)
    registry = Registry(uri)
    version, _ = registry.register(export(trained()), run, trained().digest)
    assert registry.alias(MODEL_NAME, "champion") is None
    loaded = registry.load(MODEL_NAME, version)
    assert (loaded.run_id, loaded.training_digest) == (run, trained().digest)
    stored = query(databases.mlflow, "SELECT r.run_uuid AS run, e.name FROM runs r JOIN experiments e USING (experiment_id)")
    assert (run, "device_failure") in stored.rows()
    artifacts = Path(platform.here("/var/lib/lims/data/mlflow/artifacts"))
    assert len(list(artifacts.rglob("training_frame.parquet"))) == 1
    archive = said(platform, "backup", str(tmp_path / "archive"))
    assert "Dagster's database on its server" in archive and "MLflow's database on its server" in archive
    assert len(list((tmp_path / "archive").rglob("training_frame.parquet"))) == 1


def test_a_run_whose_code_server_dies_is_ended_and_run_again(platform: Services) -> None:
    lost = launch(platform)
    eventually(lambda: runs(platform)[lost]["status"] == "STARTED", 120, "the run did not start")
    platform.kill("lims-code.service")
    platform.start("lims-code.service")
    status = eventually(lambda: ended(platform, lost), 240, platform.last_words("lims-daemon.service"))
    assert status == "FAILURE", "the run whose process is gone was noticed"

    def rerun() -> list[str]:
        return [run for run, told in runs(platform).items() if told["parentRunId"] == lost and ended(platform, run)]

    again = eventually(rerun, 300, platform.last_words("lims-daemon.service"))
    assert ended(platform, again[0]) == "SUCCESS", platform.last_words("lims-code.service")


def test_upkeep_and_leak_scan_reach_the_databases(platform: Services, databases: Databases) -> None:
    assert "runs that went: 0" in said(platform, "maintain")
    leaks = said(platform, "leak-scan")
    assert "hits: 0" in leaks and "identifiers looked for: 0" not in leaks and "LIMS_DAGSTER_DATABASE: " in leaks
    patient = query(databases.lims, "SELECT min(patient_id) AS patient FROM lab_results")["patient"][0]
    postgres_execute(databases.dagster, "CREATE TABLE note (body bytea)")
    postgres_execute(databases.dagster, f"INSERT INTO note VALUES ('\\x{zlib.compress(patient.encode()).hex()}')")
    try:
        assert "LIMS_DAGSTER_DATABASE public.note.parquet" in said(platform, "leak-scan", status=1)
    finally:
        postgres_execute(databases.dagster, "DROP TABLE note")


def test_every_service_stops_when_asked(platform: Services) -> None:
    order = [HL7, *reversed(services.start_order())]
    status = {name: platform.stop(name) for name in order}
    assert {name: code for name, code in status.items() if code not in (0, -15)} == {}
    assert [port for port in PORTS if listeners(int(platform.settings[port]))] == []
    again = subprocess.run(
        platform.command(services.read_unit(services.UNITS / "lims-code.service")["ExecStartPre"][0]),
        env=platform.environment(), cwd=services.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0 and "storage is ready" in again.stdout, again.stderr


def test_dagsters_storage_in_sqlite_is_refused(laboratory: Services, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((services.ROOT / "dagster.yaml").read_text())
    stores = {f"LIMS_DAGSTER_{store}": str(tmp_path / store) for store in ("RUNS", "EVENTS", "SCHEDULES")}
    line = laboratory.command(services.read_unit(services.UNITS / "lims-code.service")["ExecStartPre"][0])
    elsewhere = laboratory.environment() | stores | {"DAGSTER_HOME": str(tmp_path)}
    refused = subprocess.run(line, env=elsewhere, cwd=services.ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and "see deploy/dagster.production.yaml" in refused.stderr


def test_the_example_settings_as_they_are_start_nothing(laboratory: Services) -> None:
    example = services.read_environment(services.ROOT / "deploy" / "lims.env.example")
    known = laboratory.environment() | {
        name: example[name] for name in ("LIMS_DAGSTER_DATABASE", "MLFLOW_BACKEND_STORE_URI")
    }
    for unit in ("lims-mlflow.service", "lims-code.service"):
        line = laboratory.command(services.read_unit(services.UNITS / unit)["ExecStartPre"][0])
        refused = subprocess.run(line, env=known, cwd=services.ROOT, capture_output=True, text=True)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert "_DATABASE" in refused.stderr or "_STORE_URI" in refused.stderr
        assert "change-me" not in refused.stderr
