"""Folders as sources: CSV, JSON lines, JSON and Parquet."""

from __future__ import annotations

import gzip
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lims_platform.contracts.extract import DayWindow, SourceError
from lims_platform.contracts.source import LAB_RESULTS, QUALITY_CONTROL
from lims_platform.sources.config import parse_sources
from lims_platform.sources.reader import Sources, open_sources

FIRST, LAST = date(2024, 3, 25), date(2024, 4, 5)
HEADER = [c.name for c in LAB_RESULTS.columns if c.required]


def window(first: date = FIRST, last: date = LAST, strays: bool = False) -> DayWindow:
    return DayWindow(first, last, FIRST, LAST, with_strays=strays, stray_day=LAST if strays else None)


def folder(path: Path, pattern: str, table: str = "lab_results", **entry: Any) -> Sources:
    decimal = entry.pop("decimal", "point")
    source = {
        "folder": str(path),
        "timezone": "Europe/Berlin",
        "decimal": decimal,
        "tables": {table: {"files": pattern} | entry},
    }
    return open_sources(parse_sources({"sources": {"drop": source}}, base=path), calendar="Europe/Berlin")


def rows(count: int = 12) -> pl.DataFrame:
    moments = [datetime(2024, 3, 25, 10) + timedelta(hours=20 * i) for i in range(count)]
    fixed = {"test_code": "GLU", "result_unit": "mg/dL", "device_id": "D1", "technician_id": "T0001"}
    return pl.DataFrame(
        {
            "result_id": [f"R{i}" for i in range(count)],
            "patient_id": [f"P{i:07d}" for i in range(count)],
            "result_value": [f"{i}.50" for i in range(count)],
            "collected_timestamp": [m - timedelta(hours=1) for m in moments],
            "resulted_timestamp": moments,
        }
    ).with_columns(**{k: pl.lit(v) for k, v in fixed.items()})


def write(path: Path, frame: pl.DataFrame, kind: str) -> None:
    text = frame.with_columns(pl.col(pl.Datetime).dt.to_string("%Y-%m-%d %H:%M:%S"))
    if kind == "csv":
        text.write_csv(path / "a.csv")
    elif kind == "csv.gz":
        (path / "a.csv.gz").write_bytes(gzip.compress(text.write_csv().encode()))
    elif kind == "jsonl":
        text.write_ndjson(path / "a.jsonl")
    elif kind == "json":
        text.write_json(path / "a.json")
    else:
        frame.write_parquet(path / "a.parquet", row_group_size=4)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "json", "parquet"])
def test_every_kind_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    frame = rows()
    late = frame.with_columns(
        pl.lit(None, pl.Datetime("us")).alias("resulted_timestamp"), pl.col("result_id") + "-late"
    )  # falls back to the collection time
    write(tmp_path, pl.concat([frame, late]), kind)
    sources = folder(tmp_path, "*")
    parts = [sources.fetch(LAB_RESULTS, window(d, d))[0] for d in pl.date_range(FIRST, LAST, eager=True)]
    strays = sources.fetch(LAB_RESULTS, window(LAST, LAST, strays=True))[0].frame
    got = pl.concat([p.frame for p in parts]).sort("result_id")
    assert got["result_id"].to_list() == sorted([*frame["result_id"], *late["result_id"]])
    assert got.filter(date_source="fallback")["result_id"].str.ends_with("-late").all() and strays.is_empty()
    assert got["result_value"].to_list()[0] == "0.50" or kind == "jsonl"
    assert sources.count_by_day(LAB_RESULTS, window())["rows"].sum() == 24
    assert len(sources.identifiers(LAB_RESULTS)["patient"]) == 12
    found = sources.fetch_keys(LAB_RESULTS, pl.DataFrame({"result_id": ["R3", "R11-late"]}), window(FIRST, FIRST))[0]
    assert set(found.frame["result_id"]) == {"R3", "R11-late"}


def test_a_ragged_row_is_named_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(HEADER) + "\n" + "x," * 8 + "x\n1,P1234567,GLU\n")
    with pytest.raises(SourceError, match=r"a.csv: row 3 .* has 3 fields, not 9") as error:
        folder(tmp_path, "*.csv").fetch(LAB_RESULTS, window())
    assert "P1234567" not in str(error.value)


@pytest.mark.parametrize("tail", ['1,"P1234567,GLU,5', "1,P1234567,GLU,5"])
def test_a_truncated_file_is_an_error(tmp_path: Path, tail: str) -> None:
    (tmp_path / "a.csv").write_text(",".join(HEADER) + "\n" + "x," * 8 + "x\n" + tail)
    with pytest.raises(SourceError, match=r"a\.csv"):
        folder(tmp_path, "*.csv").fetch(LAB_RESULTS, window())
    (tmp_path / "b.jsonl").write_text(rows(2).select("result_id").write_ndjson()[:-5])
    with pytest.raises(SourceError, match=r"b\.jsonl"):
        folder(tmp_path, "*.jsonl").fetch(LAB_RESULTS, window())
    whole = rows(50).write_parquet
    whole(tmp_path / "c.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"c\.parquet"):
        folder(tmp_path, "*.parquet").fetch(LAB_RESULTS, window())


def test_encodings(tmp_path: Path) -> None:
    text = ",".join(HEADER) + "\nR1,P1,GLU,5,µmol/L,D,2024-03-28,2024-03-28,T1\n"
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"not utf-8; set encoding"):
        folder(tmp_path, "*.csv").fetch(LAB_RESULTS, window())
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        (tmp_path / "a.csv").write_bytes(text.encode(encoding))
        given = "utf-8" if encoding == "utf-8-sig" else encoding
        frame = folder(tmp_path, "*.csv", encoding=given).fetch(LAB_RESULTS, window())[0].frame
        assert frame["result_unit"].item() == "µmol/L" and frame["result_id"].item() == "R1"


def test_no_file_is_an_error_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"lab_results: no file matches \*.csv"):
        folder(tmp_path, "*.csv").fetch(LAB_RESULTS, window())
    extract = folder(tmp_path, "*.csv", allow_empty=True).fetch(LAB_RESULTS, window())[0]
    assert extract.frame.is_empty() and extract.source_rows == 0
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(SourceError, match="file is empty"):
        folder(tmp_path, "*.csv").fetch(LAB_RESULTS, window())
    (tmp_path / "a.csv").write_text("result_id\n")
    with pytest.raises(SourceError, match=r"file a.csv: column patient_id is missing; the source offers result_id"):
        folder(tmp_path, "*.csv").fetch(LAB_RESULTS, window())


def test_decimal_comma_and_other_delimiter(tmp_path: Path) -> None:
    (tmp_path / "qc.csv").write_text(
        "qc_id;device_id;test_code;qc_level;expected_value;measured_value;passed;timestamp\n"
        "1;D;GLU;L1;1.234,5;0,5;Y;2024-03-28 10:00\n2;D;GLU;L1;5;n/a;N;28.03.2024\n"
    )
    source = folder(tmp_path, "qc.csv", "quality_control", decimal="comma", delimiter=";", time_format="%d.%m.%Y %H:%M")
    frame = source.fetch(QUALITY_CONTROL, window(strays=True))[0].frame.sort("qc_id")
    assert frame["expected_value"].to_list() == [1234.5, 5.0] and frame["measured_value"].to_list() == [0.5, None]
    assert frame["time_flag"][1] == "uncastable_measured_value;unparseable_timestamp"


def test_parquet_reads_only_the_row_groups_of_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, rows(400), "parquet")
    sizes = []
    original = pl.LazyFrame.collect

    def spy(self: pl.LazyFrame, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        sizes.append(result.height)
        return result

    monkeypatch.setattr(pl.LazyFrame, "collect", spy)
    extract = folder(tmp_path, "*.parquet").fetch(LAB_RESULTS, window(FIRST, FIRST + timedelta(days=1)))[0]
    assert 0 < extract.frame.height < 4 and extract.frame.height in sizes
