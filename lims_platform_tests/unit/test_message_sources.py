"""Folders of messages as sources: versions, repeats, windows, refusals; HL7 v2 and FHIR alike."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lims_platform.contracts.extract import DayWindow, Extract, SourceError
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.privacy.pseudonyms import Pseudonymiser
from lims_platform.sources.config import SourceConfigError, parse_sources
from lims_platform.sources.hl7.spool import SpoolWriter
from lims_platform.sources.reader import Sources, open_sources
from lims_platform_tests.hl7_messages import oru

FIRST, LAST = date(2024, 3, 25), date(2024, 4, 5)
KEY = Pseudonymiser(bytes(range(32)))


def folder(path: Path, engine: str = "hl7", files: str = "*") -> Sources:
    source = {
        "engine": engine,
        "folder": str(path),
        "timezone": "Europe/Berlin",
        "tables": {"lab_results": {"files": files}},
    }
    return open_sources(parse_sources({"sources": {"door": source}}, base=path), "Europe/Berlin", KEY.sealer)


def extract(sources: Sources, first: date = FIRST, last: date = LAST, strays: bool = True) -> Extract:
    return sources.fetch(LAB_RESULTS, DayWindow(first, last, FIRST, LAST, strays, LAST))[0]


def glucose(control: str, value: str, status: str, made: str, resulted: str = "20240401100000") -> bytes:
    return oru(control, [f"OBX|1|NM|GLU^Glucose^L||{value}|mg/dL|||||{status}||||||||{resulted}"], made=made)


def test_corrections_are_versions_in_the_order_they_were_made_not_received(tmp_path: Path) -> None:
    p = glucose("1", "90", "P", "20240401101500+0200", "20240331230000")
    f, c = glucose("2", "95", "F", "20240401103000+0200"), glucose("3", "59", "C", "20240402080000+0200")
    (tmp_path / "a.hl7").write_bytes(c + p)
    (tmp_path / "b.hl7").write_bytes(f)
    found = extract(folder(tmp_path))
    assert found.frame.select("result_value", "result_status").rows() == [("59", "C")]
    assert found.source_rows == 1
    assert found.superseded is not None
    assert found.superseded.select("result_value", "result_status", "event_date").rows() == [
        ("90", "P", date(2024, 3, 31)),
        ("95", "F", date(2024, 4, 1)),
    ]
    assert extract(folder(tmp_path), FIRST, date(2024, 3, 31)).frame.is_empty()  # the result has moved to its new day


def test_a_repeated_message_counts_once_and_a_reused_control_id_is_flagged(tmp_path: Path) -> None:
    first, other = glucose("1", "90", "F", "20240401101500"), oru("1", order="F200")
    (tmp_path / "a.hl7").write_bytes(first + first + other)
    found = extract(folder(tmp_path))
    assert found.frame.height == 2 and found.superseded is not None and found.superseded.is_empty()
    assert found.frame["time_flag"].to_list() == ["control_id_reused"] * 2


def test_an_old_message_sent_again_does_not_undo_its_correction(tmp_path: Path) -> None:
    wrong, right = glucose("1", "90", "F", "20240401101500"), glucose("2", "59", "C", "20240401101500")
    (tmp_path / "a.hl7").write_bytes(wrong + right + wrong)
    assert extract(folder(tmp_path)).frame["result_value"].to_list() == ["59"]


def test_a_clock_that_runs_years_ahead_does_not_win_for_ever(tmp_path: Path) -> None:
    wild, right = glucose("1", "90", "F", "29990101000000"), glucose("2", "59", "C", "20240401101500")
    (tmp_path / "a.hl7").write_bytes(wild)
    (tmp_path / "b.hl7").write_bytes(right)
    for name, written in (("a.hl7", 1_711_900_000), ("b.hl7", 1_712_000_000)):
        os.utime(tmp_path / name, (written, written))
    assert extract(folder(tmp_path)).frame["result_value"].to_list() == ["59"]


def test_status_u_keeps_the_value_it_makes_final_and_x_is_a_version(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(glucose("1", "90", "P", "20240401101500") + glucose("2", "", "U", "20240401102000"))
    frame = extract(folder(tmp_path)).frame
    assert frame.select("result_value", "result_unit", "result_status").rows() == [("90", "mg/dL", "F")]
    (tmp_path / "b.hl7").write_bytes(glucose("3", "", "X", "20240401103000"))
    assert extract(folder(tmp_path)).frame.select("result_value", "result_status").rows() == [(None, "X")]


def test_the_spool_and_plain_files_say_the_same(tmp_path: Path) -> None:
    messages = [glucose(str(i), str(90 + i), "F", "20240401101500").replace(b"F100", b"F%d" % i) for i in range(5)]
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.mkdir()
    (plain / "a.hl7").write_bytes(b"".join(messages))
    SpoolWriter(sealed, KEY.sealer(), 1 << 20).store(messages)
    assert extract(folder(plain)).frame.equals(extract(folder(sealed)).frame)
    with pytest.raises(SourceError, match="no key"):
        open_sources(parse_sources(_yaml(sealed), base=sealed), "UTC").fetch(LAB_RESULTS, None)


def _yaml(path: Path, **changes: Any) -> dict[str, Any]:
    entry = {"engine": "hl7", "folder": str(path), "timezone": "UTC", "tables": {"lab_results": {"files": "*"}}}
    return {"sources": {"door": entry | changes}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tables": {"devices": {"files": "*"}}}, "holds the table lab_results"),
        ({"engine": "sql"}, "needs a uri"),
        ({"engine": "hl8"}, "engine"),
        ({"tables": {"lab_results": {"files": "*", "columns": {"test_code": "code"}}}}, "takes neither columns"),
    ],
)
def test_what_sources_yaml_cannot_mean_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceConfigError, match=says):
        parse_sources(_yaml(tmp_path, **changes), base=tmp_path)


def test_naive_times_take_the_messages_offset_and_wild_ones_are_strays(tmp_path: Path) -> None:
    lines = [
        "OBX|1|NM|A^A^L||1|U|||||F||||||||20240401003000",
        "OBX|2|NM|B^B^L||1|U|||||F||||||||20240401003000-0500",
        "OBX|3|NM|C^C^L||1|U|||||F||||||||22000101",
        "OBX|4|NM|D^D^L||1|U|||||F||||||||00010101",
        "OBX|5|NM|E^E^L||1|U|||||F||||||||2024",
    ]
    (tmp_path / "a.hl7").write_bytes(oru("1", lines, made="20240401101500+0400"))
    frame = extract(folder(tmp_path)).frame.sort("test_code")
    assert frame["event_date"].to_list() == [date(2024, 3, 31), date(2024, 4, 1), LAST, LAST, LAST]
    assert frame["date_source"].to_list() == ["event", "event", "outside", "outside", "no_time"]
    assert frame["time_flag"].to_list()[4] == "unparseable_resulted_timestamp"


def test_what_cannot_be_read_is_a_row_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    adt = oru("9").replace(b"ORU^R01^ORU_R01", b"ADT^A01")
    broken = oru("8").replace(b"JANE", b"\xff\xfe")
    (tmp_path / "P0000001.hl7").write_bytes(b"rubbish of P0000001\r" + oru("1") + adt + broken)
    (tmp_path / "huge.hl7").write_bytes(oru("2", [f"OBX|1|ST|T^T^L||{'9' * 10_000_000}|U|||||F"], order="F2"))
    (tmp_path / "noise.hl7").write_bytes(os.urandom(20_000))
    frame = extract(folder(tmp_path)).frame
    refused = frame.filter(pl.col("result_id").str.starts_with("refused"))
    reasons = " ".join(refused["result_value"].to_list())
    assert {"95"} <= set(frame["result_value"].to_list())
    assert all(word in reasons for word in ("does not begin with MSH", "ADT^A01", "not utf-8"))
    assert "P0000001" not in reasons and refused["date_source"].unique().to_list() == ["no_time"]
    assert frame.filter(pl.col("test_code") == "T")["result_value"].item().startswith("[too long for a result")


def observation(number: str, **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": number,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2345-7", "display": "Glucose"}]},
        "subject": {"reference": "Patient/7"},
        "effectiveDateTime": "2024-04-01T08:30:00+02:00",
        "issued": "2024-04-01T10:00:00+02:00",
        "valueQuantity": {"value": 95, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
    } | changes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"valueQuantity": {"value": 4.10, "comparator": "<", "unit": "million", "code": "10*6/uL", '
         '"system": "http://unitsofmeasure.org"}', ("<4.10", "10*6/uL")),
        ('"valueQuantity": {"value": 1e999, "unit": "U"}', ("1e999", "U")),
        ('"valueQuantity": {"value": 100000000000000000000000, "unit": "U"}', ("100000000000000000000000", "U")),
        ('"valueCodeableConcept": {"coding": [{"code": "260415000", "display": "Not detected"}]}', ("Not detected", None)),
        ('"valueCodeableConcept": {"text": "NEG"}', ("NEG", None)),
        ('"valueString": "1:80"', ("1:80", None)),
        ('"valueRange": {"low": {"value": 2, "unit": "/HPF"}, "high": {"value": 5}}', ("2-5", "/HPF")),
        ('"valueRange": {"high": {"value": 5, "unit": "/HPF"}}', ("<=5", "/HPF")),
        ('"valueRatio": {"numerator": {"value": 1}, "denominator": {"value": 128}}', ("1:128", None)),
        ('"valueRatio": {"numerator": {"value": 5, "unit": "mg"}, "denominator": {"value": 1, "unit": "L"}}', ("5", "mg/L")),
        ('"dataAbsentReason": {"coding": [{"code": "negative-infinity"}]}', ("[no value: negative-infinity]", None)),
        ('"valueString": "half \\ud800 pair"', ("half \ufffd pair", None)),
        ('"valueQuantity": ["nonsense"]', (None, None)),
    ],
)  # fmt: skip
def test_fhir_values(tmp_path: Path, value: str, expected: tuple[str | None, str | None]) -> None:
    bare = {k: v for k, v in observation("1").items() if k != "valueQuantity"}
    (tmp_path / "a.json").write_text(json.dumps(bare)[:-1] + ", " + value + "}")
    assert extract(folder(tmp_path, "fhir")).frame.select("result_value", "result_unit").rows() == [expected]


def test_fhir_bundle_with_everything_a_row_can_say(tmp_path: Path) -> None:
    resources = [
        {"resourceType": "Patient", "id": "7", "gender": "female", "birthDate": "1970-01-15", "identifier": [
            {"value": "X9"}, {"value": "P0000001", "type": {"coding": [{"code": "MR"}]}}]},
        {"resourceType": "Specimen", "id": "s", "accessionIdentifier": {"value": "S1"},
         "type": {"coding": [{"code": "SER"}]}, "receivedTime": "2024-04-01T09:00:00+02:00"},
        {"resourceType": "Device", "id": "d", "identifier": [{"value": "AU5800"}]},
        {"resourceType": "ServiceRequest", "id": "o", "priority": "stat"},
        observation("1", specimen={"reference": "Specimen/s"}, device={"reference": "Device/d"},
                    performer=[{"reference": "Organization/1"}, {"reference": "Practitioner/77"}], issued=None),
        {"resourceType": "DiagnosticReport", "id": "r", "status": "final", "issued": "2024-04-01T11:00:00+02:00",
         "basedOn": [{"reference": "ServiceRequest/o"}], "result": [{"reference": "Observation/1"}, {"reference": "#c"}],
         "subject": {"reference": "Patient/7"}, "contained": [observation("c", valueQuantity={"value": 1, "unit": "U"})]},
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "collection", "timestamp": "2024-04-01T11:05:00+02:00"}
    (tmp_path / "a.json").write_text(json.dumps(bundle | {"entry": [{"resource": r} for r in resources]}))
    frame = extract(folder(tmp_path, "fhir")).frame.sort("result_id")
    assert frame["result_id"].to_list() == ["DiagnosticReport/r#Observation/c", "Observation/1"]
    assert frame["patient_id"].to_list() == ["P0000001"] * 2
    wanted = ("specimen_id", "specimen_type", "device_id", "technician_id", "priority", "sex", "age_band", "loinc_code")
    assert (
        frame.row(1, named=True).items()
        >= dict(zip(wanted, ("S1", "SER", "AU5800", "77", "STAT", "F", "45-64", "2345-7"), strict=True)).items()
    )
    assert str(frame["resulted_timestamp"][1]) == "2024-04-01 09:00:00+00:00"


def test_fhir_components_versions_and_withdrawals(tmp_path: Path) -> None:
    part = {"code": {"coding": [{"code": "8480-6", "system": "http://loinc.org"}]}, "valueQuantity": {"value": 120}}
    panel = {k: v for k, v in observation("bp").items() if k != "valueQuantity"} | {
        "component": [part, part | {"code": {"coding": [{"code": "8462-4"}]}, "valueQuantity": {"value": 80}}]
    }
    lines = [
        observation("1", meta={"versionId": "10", "lastUpdated": "2024-04-01T12:00:00Z"}, status="corrected"),
        observation("1", meta={"versionId": "9", "lastUpdated": "2024-04-01T12:00:00Z"}),
        observation("2", status="entered-in-error"),
        panel,
    ]
    (tmp_path / "a.ndjson").write_text("\n".join(map(json.dumps, lines)) + '\n{"resourceType": \n[1]\n')
    found = extract(folder(tmp_path, "fhir"))
    status = dict(found.frame.select("result_id", "result_status").rows())
    assert (status["Observation/1"], status["Observation/2"]) == ("C", "X")
    assert found.superseded is not None and found.superseded["result_status"].to_list() == ["F"]
    assert {"Observation/bp|8480-6", "Observation/bp|8462-4"} <= set(status)
    refused = found.frame.filter(pl.col("result_id").str.starts_with("refused"))["result_value"].to_list()
    assert len(refused) == 2 and "not JSON" in "".join(refused) and "resourceType" in "".join(refused)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("http://loinc.org"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["value", "code", "coding", "unit", "system", "reference", "identifier", "low", "start", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from([*list(observation("1"))[1:], "component", "specimen", "device", "meta", "performer"]), _JSON
    ),
    noise=st.binary(max_size=60),
)
def test_any_json_is_a_row_or_a_reason(tmp_path: Path, changes: dict[str, Any], noise: bytes) -> None:
    (tmp_path / "a.ndjson").write_bytes(json.dumps(observation("1") | changes).encode() + b"\n" + noise)
    frame = extract(folder(tmp_path, "fhir")).frame
    assert frame.height >= 1 and frame["result_id"].null_count() == 0


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    assert "nested too deeply" in extract(folder(tmp_path, "fhir")).frame["result_value"].item()


def test_a_look_finds_the_days_of_a_late_or_changed_file_however_old(tmp_path: Path) -> None:
    sources, first = folder(tmp_path), date(2024, 1, 1)
    window = DayWindow(date(2024, 3, 22), LAST, first, LAST)
    (tmp_path / "b.hl7").write_bytes(glucose("1", "90", "F", "20240401101500+0200"))
    (tmp_path / "c.hl7").write_bytes(glucose("2", "91", "F", "20240401101500+0200", "20240402100000").replace(b"GLU", b"NA"))
    marks, days = sources.look(LAB_RESULTS, window, {})
    assert days == {date.fromordinal(window.first.toordinal() + n) for n in range(15)}
    late = glucose("3", "92", "F", "20240404101500+0200", "20240222100000").replace(b"GLU", b"K")
    (tmp_path / "a.hl7").write_bytes(late)
    marks, days = sources.look(LAB_RESULTS, window, marks)
    assert days == {date(2024, 2, 22)}, "put before the others, it touches no other day"
    (tmp_path / "d.hl7").write_bytes(late.replace(b"|F|", b"|C|").replace(b"||92|", b"||29|").replace(b"|3|P", b"|4|P"))
    marks, days = sources.look(LAB_RESULTS, window, marks)
    assert days == {date(2024, 2, 22)}, "a correction"
    (tmp_path / "a.hl7").unlink()
    (tmp_path / "d.hl7").unlink()
    marks, days = sources.look(LAB_RESULTS, window, marks)
    assert days == {date(2024, 2, 22)}, "taken away again"
    assert sources.look(LAB_RESULTS, window, marks) == (marks, set())
