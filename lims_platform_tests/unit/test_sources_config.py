"""sources.yaml: every mistake is one line that says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lims_platform.contracts.extract import SourceError
from lims_platform.sources.config import SourceConfigError, load_sources, parse_sources, redacted

GOOD = """
sources:
  main:
    uri: postgresql://u:${PASSWORD}@host/db
    timezone: Europe/Berlin
    tables:
      lab_results:
        query: SELECT 1
        constants: {facility_id: 7}
"""


def parse(**changes: Any) -> Any:
    source = {"uri": "sqlite:///x.db", "timezone": "UTC", "tables": {"devices": {"table": "d"}}} | changes
    return parse_sources({"sources": {"main": {k: v for k, v in source.items() if v is not None}}}, base=Path())


def test_a_file_is_read_with_its_environment(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(GOOD)
    config = load_sources(path, {"PASSWORD": "a@b"})
    main = config.sources["main"]
    assert main.uri is not None and main.uri.get_secret_value() == "postgresql://u:a%40b@host/db"
    assert "a%40b" not in repr(config) and config.base == tmp_path
    assert main.tables["lab_results"].constants == {"facility_id": "7"} and main.decimal == "point"


def test_a_missing_variable_names_file_source_and_variable(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(GOOD)
    with pytest.raises(SourceConfigError, match=r"sources.yaml: sources.main.uri: environment variable PASSWORD is not"):
        load_sources(path, {})


@pytest.mark.parametrize("content", ["[", "a: 1", "sources: []", "sources: {}"])
def test_other_content_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(content)
    with pytest.raises(SourceConfigError) as error:
        load_sources(path, {})
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    with pytest.raises(SourceConfigError, match="cannot be read"):
        load_sources(tmp_path / "absent.yaml", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timezone": "Mars/Base"}, "sources.main.timezone: 'Mars/Base' is no IANA time zone"),
        ({"timezone": None}, "sources.main.timezone: Field required"),
        ({"decimal": "dot"}, "sources.main.decimal"),
        ({"surprise": 1}, "sources.main.surprise: Extra inputs"),
        ({"uri": None}, "sources.main: give exactly one of uri, folder"),
        ({"uri": "oracle://x"}, "sources.main: uri must begin with one of"),
        ({"identifier_patterns": {"patient": "("}}, "sources.main.identifier_patterns: patient: '\\('"),
        ({"identifier_patterns": {"patient": r"(?<=x)P\d"}}, "no look-around"),
        ({"identifier_patterns": {"patient": "x*"}}, "matches the empty text"),
        ({"tables": {"lab": {"table": "x"}}}, "sources.main: tables.lab: no such table"),
        ({"tables": {"devices": {"table": "x", "query": "y"}}}, "tables.devices: give exactly one of query, table, files"),
        ({"tables": {"devices": {"files": "x"}}}, "tables.devices: files belong to a folder"),
        ({"tables": {"devices": {"table": "x", "columns": {"devize": "d"}}}}, "devices.columns.devize: devices has no col"),
        ({"tables": {"devices": {"table": "x", "event_time": "updated_at"}}}, "devices is a register"),
        ({"tables": {"lab_results": {"table": "x", "event_time": "sex"}}}, "lab_results.event_time: sex is not a time"),
        ({"tables": {"lab_results": {"table": "x", "retention_days": 0}}}, "lab_results.retention_days"),
    ],
)
def test_each_mistake_names_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message) as error:
        parse(**changes)
    assert "\n" not in str(error.value)


def test_messages_lose_their_identifiers() -> None:
    assert redacted("bad value P1234567 in row", {"patient": r"\bP\d{7}\b"}) == "bad value <patient> in row"
