"""The leak scan finds an identifier planted in every kind of file, and nothing where there is none."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.privacy import leakscan, openers, search
from lims_platform.privacy.leakscan import scan
from lims_platform.privacy.search import Search

ID = "P7654321"
NOISE = np.random.default_rng(7)


def sqlite(path: Path, value: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=512")
    connection.execute("CREATE TABLE t (a, b)")
    # the padding pushes the identifier across a page boundary, where the plain bytes are cut
    connection.executemany("INSERT INTO t VALUES (?, ?)", [("x" * (450 + i), value) for i in range(60)])
    connection.commit()
    connection.close()


def duck(path: Path, text: str) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT 'filler ' || i AS a, {'b': [$1 || ' ' || i % 3]} AS s FROM range(5000) r(i)", [text]
        )


def xlsx(path: Path, text: str) -> None:
    book = xlsxwriter.Workbook(str(path))
    book.add_worksheet("Devices").write(0, 0, text)
    book.close()


def archive(text: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/b.txt", text * 50)
    return data.getvalue()


def parquet(text: str, compression: str = "zstd") -> bytes:
    data = io.BytesIO()
    values = [f"row {i} {text if i == 777 else ''}" for i in range(2000)]
    frame = pl.DataFrame({"x": values, "n": range(2000)})
    frame.write_parquet(data, compression=compression, row_group_size=500)  # type: ignore[arg-type]
    return data.getvalue()


def arrow(text: str) -> bytes:
    data = io.BytesIO()
    table = pa.table({"nested": [[{"k": text}], []] * 50})
    with pa.ipc.new_file(data, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return data.getvalue()


SENTENCE = f"result of {ID}."
FILES: dict[str, Callable[[Path], object]] = {
    "plain.txt": lambda p: p.write_text(f"sample of patient {ID} clotted"),
    "lower.log": lambda p: p.write_text(ID.lower()),
    "json.json": lambda p: p.write_text(json.dumps({"a": [ID]})),
    "utf16le.txt": lambda p: p.write_bytes(SENTENCE.encode("utf-16-le")),
    "utf16be.txt": lambda p: p.write_bytes(SENTENCE.encode("utf-16-be")),
    "binary.pkl": lambda p: p.write_bytes(NOISE.bytes(5000) + b"\x00" + ID.encode() + b"\x94" + NOISE.bytes(5000)),
    "text.csv.gz": lambda p: p.write_bytes(gzip.compress(SENTENCE.encode())),
    "text.bz2": lambda p: p.write_bytes(bz2.compress(SENTENCE.encode())),
    "text.xz": lambda p: p.write_bytes(lzma.compress(SENTENCE.encode())),
    "text.zlib": lambda p: p.write_bytes(zlib.compress(SENTENCE.encode())),
    "text.zst": lambda p: p.write_bytes(pa.Codec("zstd").compress(SENTENCE.encode(), asbytes=True)),
    "archive.zip": lambda p: p.write_bytes(archive(SENTENCE)),
    "archive.in.gz": lambda p: p.write_bytes(gzip.compress(archive(SENTENCE))),
    "book.xlsx": lambda p: xlsx(p, SENTENCE),
    "table.parquet": lambda p: p.write_bytes(parquet(ID)),
    "snappy.parquet": lambda p: p.write_bytes(parquet(ID, "snappy")),
    "table.parquet.gz": lambda p: p.write_bytes(gzip.compress(parquet(ID))),
    "statistics.parquet": lambda p: p.write_bytes(parquet(ID)),
    "nested.arrow": lambda p: p.write_bytes(arrow(ID)),
    "text.db": lambda p: sqlite(p, SENTENCE),
    "blob.db": lambda p: sqlite(p, zlib.compress(SENTENCE.encode())),
    "catalog.duckdb": lambda p: duck(p, ID),
    f"named {ID}.txt": lambda p: p.write_text("nothing"),
}


@pytest.mark.parametrize("name", FILES)
def test_it_finds_an_identifier_in(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    report = scan(tmp_path, {"patient": [ID, "P0000000"], "technician": ["T0042"]})
    assert report.unreadable == () and report.files == 1 and not report.clean
    assert set(report.hits["domain"]) == {"patient"} and set(report.hits["path"]) == {name}
    assert ID not in report.hits.drop("path").write_json()
    assert report.hits["count"].min() >= 1  # type: ignore[operator]
    assert report.identifiers == 3 and report.bytes_read >= 7


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("named")])
def test_the_same_file_without_it_is_clean(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    others = ["P7654320", "P76543210", "P765432", "7654321", "XP7654321"]
    report = scan(tmp_path, {"patient": others, "technician": ["T0042"]})
    assert report.clean, report


@pytest.mark.parametrize(
    ("identifier", "text", "count"),
    [
        ("10006", "patient 10006, again 10006.", 2),
        ("10006", '{"subject_id": "10006"}', 1),
        ("10006", "2100067 10006.5 0.10006 x10006 10006x 100060", 0),
        ("P1234567", "P1234567P1234567 xP1234567 P12345678 _P1234567_", 1),
        ("AB-12", "AB-12 AB-123 CAB-12 ab-12", 2),
        ("Zoë-Ω7", "of Zoë-Ω7.", 1),
        ("1234567", "1234567 1.1234567 1234567.", 2),
    ],
)
def test_whole_words_only(identifier: str, text: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    pl.DataFrame({"t": [text]}).write_parquet(tmp_path / "a.parquet", compression="zstd", statistics=False)
    hits = scan(tmp_path, {"patient": [identifier]}).hits
    for name, where in (("a.txt", "bytes"), ("a.parquet", "column t")):
        found = hits.filter((pl.col("path") == name) & (pl.col("where") == where))["count"].sum()
        assert found == count, (name, hits)


def test_short_identifiers_are_not_looked_for_in_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(NOISE.bytes(100) + b"\x00 10006 T0042 \x00" + NOISE.bytes(100))
    pl.DataFrame({"n": [10006], "x": [10006.0]}).write_parquet(tmp_path / "numbers.parquet")
    assert scan(tmp_path, {"patient": ["10006"], "technician": ["T0042"]}).clean
    pl.DataFrame({"n": [7654321]}).write_parquet(tmp_path / "id.parquet")
    report = scan(tmp_path, {"patient": ["7654321"]})
    assert report.hits.select("path", "where").rows() == [("id.parquet", "column n")]


def test_too_short_ones_are_counted_not_searched(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("7 abc 2024")
    report = scan(tmp_path, {"patient": ["7", "abc", "2024", " ", ""]})
    assert report.clean and report.identifiers == 0 and report.unsearchable == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]), st.booleans())
def test_nothing_is_lost_or_doubled_where_blocks_meet(offset: int, encoding: str, control: bool) -> None:
    data = ("." * offset + f" {ID} " + "." * 300 + f"{ID}").encode(encoding) + (b"\x01" if control else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openers, "_BLOCK", 130)
        patch.setattr(search, "_PIECE", 50)
        found = search.Search({"patient": [ID, "P765432", "LONGER-IDENTIFIER-1"]})
        read = openers.search_stream(found, "f", "bytes", io.BytesIO(data))
    assert read == len(data) and found.hits()["count"].sum() == 2


def test_what_cannot_be_opened_is_reported_and_its_bytes_still_searched(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(archive("x")[:60] + ID.encode())
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + b"junk PAR1")
    report = scan(tmp_path, {"patient": [ID]})
    assert {u.split(":")[0] for u in report.unreadable} == {"broken.zip", "broken.parquet"}
    assert not report.clean


def test_what_may_not_be_read_is_reported_and_does_not_end_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusals are made here."""
    for name in ("a/secret.txt", "b/closed.txt", "c/seen.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(ID)
    really_open, really_list = Path.open, os.scandir

    def opened(path: Path, *given: Any) -> Any:
        if path.name == "closed.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really_open(path, *given)

    def listed(folder: Any) -> Any:
        if Path(folder).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return really_list(folder)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "scandir", listed)
    report = scan(tmp_path, {"patient": [ID]})
    assert sorted(report.unreadable) == [f"{name}: PermissionError: Permission denied" for name in ("a", "b/closed.txt")]
    assert report.hits["path"].to_list() == ["c/seen.txt"]


def test_a_file_that_a_run_takes_away_meanwhile_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "going.parquet").write_text("x")

    def gone(_: Search, __: str, path: Path) -> None:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(leakscan, "search_database", gone)
    assert scan(tmp_path, {"patient": [ID]}).clean


def test_excluded_places_are_left_out(tmp_path: Path) -> None:
    for name in ("lims.db", "sub/a.txt", "kept.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ID)
    report = scan(tmp_path, {"patient": [ID]}, exclude=[tmp_path / "lims.db", tmp_path / "sub"])
    assert report.hits["path"].to_list() == ["kept.txt"] and report.files == 1
    assert scan(tmp_path / "lims.db", {"patient": [ID]}).hits["path"].to_list() == ["lims.db"]
    with pytest.raises(FileNotFoundError, match="nothing to scan"):
        scan(tmp_path / "absent", {})
