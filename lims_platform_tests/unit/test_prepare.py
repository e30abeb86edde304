"""``prepare`` refuses in one line what production should not have. Not here: a database that answers (system tests)."""

from __future__ import annotations

from pathlib import Path

import pytest

from lims_platform.__main__ import main

DATABASE = "postgresql+psycopg2://lims_dagster:5f0c-tulip@127.0.0.1:1/dagster"
SOURCES = "sources: {main: {uri: 'postgresql://%s@127.0.0.1:1/lab', timezone: UTC, tables: {devices: {table: devices}}}}"


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A production laboratory that lacks nothing but its servers; the folder of its key and sources.yaml."""
    key, sources = tmp_path / "pseudonym.key", tmp_path / "sources.yaml"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    sources.write_text(SOURCES % "reader:tulip-5f0c-a")
    given = {
        "LIMS_ENVIRONMENT": "production",
        "LIMS_DATA_DIR": str(tmp_path / "data"),
        "LIMS_SOURCES": str(sources),
        "LIMS_START_DATE": "2025-01-01",
        "LIMS_PSEUDONYM_KEY_FILE": str(key),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "LIMS_DAGSTER_DATABASE": DATABASE,
        "DAGSTER_HOME": str(tmp_path),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], service: str, code: int) -> str:
    """The one line a refused service leaves."""
    assert main(["prepare", service]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_key_that_is_absent_readable_by_others_or_the_demos(
    production: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = production / "pseudonym.key"
    key.chmod(0o640)
    assert "mode 0640 lets others read it" in refusal(capsys, "dagster", 1)
    key.unlink()
    assert "absent" in refusal(capsys, "dagster", 1)
    monkeypatch.setenv("LIMS_ENVIRONMENT", "demo")
    from lims_platform.privacy.pseudonyms import load_pseudonymiser

    load_pseudonymiser(key, "demo")
    monkeypatch.setenv("LIMS_ENVIRONMENT", "production")
    assert "a demo key" in refusal(capsys, "dagster", 1)


def test_a_source_with_a_default_password(production: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (production / "sources.yaml").write_text(SOURCES % "lims:lims")
    assert "sources.main.uri: its password is the user's name" in refusal(capsys, "dagster", 1)


@pytest.mark.parametrize(
    ("service", "variable"), [("dagster", "LIMS_DAGSTER_DATABASE"), ("mlflow", "MLFLOW_BACKEND_STORE_URI")]
)
def test_a_database_that_is_not_named_or_not_by_its_driver(
    production: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, service: str, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert f"{variable} is not set" in refusal(capsys, service, 1)
    monkeypatch.setenv(variable, DATABASE.replace("+psycopg2", ""))
    said = refusal(capsys, service, 1)
    assert said.startswith(f"{variable} must begin with postgresql+psycopg2://") and "tulip" not in said


@pytest.mark.parametrize(
    ("service", "variable"), [("dagster", "LIMS_DAGSTER_DATABASE"), ("mlflow", "MLFLOW_BACKEND_STORE_URI")]
)
def test_a_database_that_does_not_answer(
    production: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, service: str, variable: str
) -> None:
    monkeypatch.setenv(variable, DATABASE)
    said = refusal(capsys, service, 1)
    assert said.startswith(f"{variable}: ") and "Connection refused" in said and "tulip" not in said
