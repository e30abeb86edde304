"""Settings: each is documented, and a wrong one is one line that names the variable."""

from __future__ import annotations

import pytest

from lims_platform.settings import REPOSITORY, Settings, SettingsError, load_settings


def test_every_setting_is_in_the_table_of_settings():
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    names = {n.upper() if n.startswith("mlflow_") else f"LIMS_{n.upper()}" for n in Settings.model_fields}
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert set(rows) - {"variable"} == names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMS_TIMEZONE", "Berlin"),
        ("LIMS_CHUNK_ROWS", "many"),
        ("LIMS_VANISHED_SHARE", "0"),
        ("LIMS_ENVIRONMENT", "test"),
        ("LIMS_START_DATE", "2024-13-01"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert name in str(error.value) and "\n" not in str(error.value)


def test_production_refuses_to_guess(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIMS_ENVIRONMENT", "production")
    monkeypatch.delenv("LIMS_SOURCES", raising=False)
    with pytest.raises(SettingsError, match="LIMS_SOURCES"):
        load_settings()


OWN_KEY = "postgresql+psycopg2://lims_dagster:5f0c-tulip@db.lab.example/dagster"


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("MLFLOW_TRACKING_URI", None, "needs MLFLOW_TRACKING_URI"),
        ("MLFLOW_TRACKING_URI", "sqlite:////srv/mlflow.db", "needs MLFLOW_TRACKING_URI"),
        ("MLFLOW_TRACKING_URI", "/srv/mlruns", "needs MLFLOW_TRACKING_URI"),
        ("MLFLOW_TRACKING_URI", "http://admin:password1234@mlflow.lab.example", "a default one"),
        ("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg2://mlflow:Mlflow@127.0.0.1/mlflow", "the user's name"),
        ("LIMS_DAGSTER_DATABASE", "postgresql+psycopg2://postgres:postgres@127.0.0.1/dagster", "the user's name"),
        ("LIMS_DAGSTER_DATABASE", "postgresql+psycopg2://dagster:change-me@127.0.0.1/dagster", "a default one"),
        ("LIMS_DAGSTER_DATABASE", "postgresql+psycopg2://dagster@127.0.0.1/dagster", "no password"),
    ],
)
def test_production_refuses_what_others_could_guess(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, why: str
):
    production = {
        "LIMS_ENVIRONMENT": "production",
        "LIMS_SOURCES": "sources.yaml",
        "LIMS_START_DATE": "2025-01-01",
        "LIMS_PSEUDONYM_KEY_FILE": "pseudonym.key",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "LIMS_DAGSTER_DATABASE": OWN_KEY,
    }
    for name, given in production.items():
        monkeypatch.setenv(name, given)
    assert load_settings().environment == "production"
    monkeypatch.setenv(variable, value) if value is not None else monkeypatch.delenv(variable)
    with pytest.raises(SettingsError, match=why) as error:
        load_settings()
    assert (
        variable in str(error.value)
        and "\n" not in str(error.value)
        and "://" not in str(error.value).replace("http://…", "")
    )
    monkeypatch.setenv("LIMS_ENVIRONMENT", "demo")
    assert load_settings().environment == "demo", "the demo may have what it likes"


def test_rules_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIMS_WESTGARD_RULES", "1-3s, 8x")
    assert load_settings().westgard_rules == ("1-3s", "8x")
