"""What lies inside a file: Parquet, Arrow, archives, compressed streams, SQLite and DuckDB, and every file's own bytes.

Here: reading formats for the leak scan. Not here: looking for anything (``search``).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lims_platform.privacy.search import Search

#: Bytes read at a time.
_BLOCK = 8 * 1024 * 1024
#: Archives inside archives are opened this deep.
_DEPTH = 4
#: Rows of a database table fetched at a time.
_ROWS = 50_000


def is_text(head: bytes) -> bool:
    """Whether the beginning of a file reads as text (UTF-8, or one byte a character): no control characters but blanks."""
    return not any(b < 9 or 13 < b < 32 for b in head)


def _fill(stream: IO[bytes]) -> bytes:
    """A full block, unless the stream ends: decompressors hand out less than asked for."""
    parts, wanted = [], _BLOCK
    while wanted > 0 and (part := stream.read(wanted)):
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


def search_stream(search: Search, path: str, where: str, stream: IO[bytes], depth: int = 0) -> int:
    """Search a stream's bytes and, where it is a format that hides them, what it holds. Returns the bytes read.

    Raises:
        Exception: whatever a damaged format raises, after its plain bytes have been searched.
    """
    head = _fill(stream)
    texty = is_text(head[:65536])
    opener = _opener(head) if depth < _DEPTH else None
    whole = io.BytesIO() if opener is not None and depth else None
    read, carry, block = 0, b"", head
    while block:
        read += len(block)
        if whole is not None:
            whole.write(block)
        following = _fill(stream)
        keep = search.block(path, where, carry + block, lead=len(carry), last=not following, texty=texty)
        carry = (carry + block)[-keep:] if keep else b""
        block = following
    if opener is not None:
        inside = whole if whole is not None else stream
        inside.seek(0)
        read += opener(search, path, where, inside, depth + 1)
    return read


def _opener(head: bytes) -> Any:
    """The reader of a format that plain bytes do not show, by its first bytes."""
    if head[:4] == b"PAR1":
        return _parquet
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip
    if head[:6] == b"ARROW1":
        return _arrow
    for magic, opened in _STREAMS.items():
        if head.startswith(magic):
            return opened
    # zlib has no magic, only a checked two-byte header
    if len(head) > 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0:
        return _zlib
    return None


def _below(where: str, part: str) -> str:
    return part if where == "bytes" else f"{where} > {part}"


def _columns(search: Search, path: str, where: str, table: pa.Table) -> None:
    """Every text, binary and integer of an Arrow table, nested ones too."""
    frame = pl.DataFrame(pl.from_arrow(table))
    for column in frame.get_columns():
        _series(search, path, _below(where, f"column {column.name}"), column)


def _series(search: Search, path: str, where: str, column: pl.Series) -> None:
    dtype = column.dtype
    if isinstance(dtype, pl.List | pl.Array):
        _series(search, path, where, column.explode().alias(column.name))
    elif isinstance(dtype, pl.Struct):
        for inner in column.struct.unnest().get_columns():
            _series(search, path, f"{where}.{inner.name}", inner)
    elif dtype == pl.Binary:
        for value in column.drop_nulls().unique().to_list():
            search_stream(search, path, where, io.BytesIO(value), depth=1)
    elif dtype.is_integer():
        search.texts(path, where, search.number_cells(column))
    elif dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum):
        search.texts(path, where, column.cast(pl.String))


def _parquet(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    with pq.ParquetFile(stream) as file:
        kinds = (pa.types.is_floating, pa.types.is_temporal, pa.types.is_boolean, pa.types.is_decimal)
        holding = [f.name for f in file.schema_arrow if not any(k(f.type) for k in kinds)]
        for group in range(file.num_row_groups):
            _columns(search, path, where, file.read_row_group(group, columns=holding))
        # statistics and key-value metadata lie uncompressed in the footer, which the plain bytes have shown
        return sum(file.metadata.row_group(g).total_byte_size for g in range(file.num_row_groups))


def _arrow(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    table = pa.ipc.open_file(stream).read_all()
    _columns(search, path, where, table)
    return int(table.nbytes)


def _zip(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    read = 0
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as member:
                    read += search_stream(search, path, _below(where, f"member {info.filename}"), member, depth)
    return read


def _gzip(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    with gzip.GzipFile(fileobj=stream) as inside:
        return search_stream(search, path, _below(where, "decompressed"), inside, depth)  # type: ignore[arg-type]


def _bz2(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    with bz2.BZ2File(stream) as inside:
        return search_stream(search, path, _below(where, "decompressed"), inside, depth)


def _xz(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    with lzma.LZMAFile(stream) as inside:
        return search_stream(search, path, _below(where, "decompressed"), inside, depth)


def _zstd(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    inside: Any = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    return search_stream(search, path, _below(where, "decompressed"), inside, depth)


def _zlib(search: Search, path: str, where: str, stream: IO[bytes], depth: int) -> int:
    try:
        data = zlib.decompress(stream.read())
    except zlib.error:
        return 0  # two ordinary bytes that look like the header
    return search_stream(search, path, _below(where, "decompressed"), io.BytesIO(data), depth)


_STREAMS = {b"\x1f\x8b": _gzip, b"BZh": _bz2, b"\xfd7zXZ\x00": _xz, b"\x28\xb5\x2f\xfd": _zstd}


def search_database(search: Search, path: str, file: Path) -> None:
    """Texts, blobs and integers of an SQLite or DuckDB file, read through its engine: pages cut or compress them."""
    with file.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"SQLite format 3\0"):
        for where, values in _sqlite_cells(file):
            _mixed(search, path, where, values)
    elif head[8:12] == b"DUCK":
        for where, table in _duckdb_cells(file):
            _columns(search, path, where, table)


def _mixed(search: Search, path: str, where: str, values: list[Any]) -> None:
    """Values of one SQLite column, which may be of several types."""
    search.texts(path, where, pl.Series([v for v in values if isinstance(v, str)], dtype=pl.String))
    numbers = pl.Series([v for v in values if isinstance(v, int)], dtype=pl.Int64)
    search.texts(path, where, search.number_cells(numbers))
    for value in values:
        if isinstance(value, bytes):
            search_stream(search, path, where, io.BytesIO(value), depth=1)


def _sqlite_cells(file: Path) -> Iterator[tuple[str, list[Any]]]:
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            quoted = '"' + table.replace('"', '""') + '"'
            cursor = connection.execute(f"SELECT * FROM {quoted}")
            names = [d[0] for d in cursor.description]
            while rows := cursor.fetchmany(_ROWS):
                for name, values in zip(names, zip(*rows, strict=True), strict=True):
                    yield f"table {table}, column {name}", [v for v in values if v is not None]
    finally:
        connection.close()


def _duckdb_cells(file: Path) -> Iterator[tuple[str, pa.Table]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        tables: list[tuple[str, str]] = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
        ).fetchall()
        for schema, table in tables:
            quoted = ".".join('"' + n.replace('"', '""') + '"' for n in (schema, table))
            reader: Any = connection.sql(f"SELECT * FROM {quoted}").to_arrow_reader(_ROWS)
            for batch in reader:
                yield f"table {schema}.{table}", pa.Table.from_batches([batch])
        # a view's text is stored too
        views = connection.execute("SELECT sql FROM duckdb_views() WHERE NOT internal").fetchall()
        yield "views", pa.table({"sql": pa.array([v[0] for v in views], pa.string())})
