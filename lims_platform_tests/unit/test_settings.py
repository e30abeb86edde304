"""Settings: each is documented, and a wrong one is one line that names the variable."""

from __future__ import annotations

import pytest

from lims_platform.settings import REPOSITORY, Settings, SettingsError, load_settings


def test_every_setting_is_in_the_table_of_settings():
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    names = {"MLFLOW_TRACKING_URI" if n == "mlflow_tracking_uri" else f"LIMS_{n.upper()}" for n in Settings.model_fields}
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


def test_rules_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIMS_WESTGARD_RULES", "1-3s, 8x")
    assert load_settings().westgard_rules == ("1-3s", "8x")
