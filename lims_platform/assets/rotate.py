"""Rotation of the pseudonym key over the whole lake: every stored pseudonym under the next key, days at a time.

Here: the order of tables and what depends on a pseudonym (digests, row keys). Not here: keys and texts
(``privacy.rotation``), who may do it (the command).

A bronze row's digest covers its pseudonyms, so it is computed anew from the row, as the door would: the next ingestion finds
the digest it computes itself and sees no change. Within a chunk of days bronze is written last: until then it still knows
the old digest of every row, by which silver finds the new one. A chunk done twice changes nothing, so a rotation that was
killed is finished by starting it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

import polars as pl

from lims_platform.contracts.base import Table
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.source import SOURCE_TABLES, SourceTable
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.digest import DIGEST_LENGTH, row_digests
from lims_platform.lakehouse.lake import Lake, retry_on_conflict
from lims_platform.lakehouse.versions import digest_columns
from lims_platform.privacy import rotation
from lims_platform.privacy.pseudonyms import Pseudonymiser
from lims_platform.settings import Settings

_NO_DIGESTS = {"old_digest": pl.String(), "new_digest": pl.String()}
Span = tuple[date | None, date | None]


@dataclass(frozen=True)
class Rotation:
    """``key_id`` is in force now; ``pseudonyms`` were mapped; ``rows`` of ``tables`` were rewritten."""

    key_id: str
    pseudonyms: int
    rows: int
    tables: int


class RotationError(RuntimeError):
    """Old pseudonyms were still found after every table was rotated: something wrote meanwhile; run it again."""


def rotate_key(settings: Settings, lake: Lake, log: Callable[[str], None]) -> Rotation:
    """Begin or finish a rotation. While it is under way no pseudonymiser can be loaded: the door is shut.

    Raises KeyFileError for a key file that cannot be used and RotationError if a writer that had the old key interfered;
    in both cases the old key stays in force and a rerun is safe.
    """
    pseudonymiser = rotation.begin(settings.key_path, settings.environment)
    before = pseudonymiser.key_ids[-2]
    tables = lake.existing(TABLES.values())
    log(f"{before} to {pseudonymiser.key_id}: {len(tables)} tables")
    spans = list(_spans(lake, tables, settings.chunk_rows))
    old = [_pseudonyms(lake, table, span, before) for span in spans for table in tables if _is_cut(table) == _is_days(span)]
    pairs = rotation.mapping(pl.concat(old).unique(), pseudonymiser) if old else pl.DataFrame()
    if pairs.height:
        rotation.remember(settings.key_path, pairs, pseudonymiser.key_id)
    rows: dict[str, int] = {}
    for span in spans:
        for name, count in _rotate_span(lake, tables, span, pseudonymiser).items():
            rows[name] = rows.get(name, 0) + count
        log(f"{span[0] or 'registers'} to {span[1] or 'reports'}: done")
    left = [table.path for span in spans for table in tables if not _pseudonyms(lake, table, span, before).is_empty()]
    if left:
        raise RotationError(f"pseudonyms of {before} in {', '.join(sorted(set(left)))}: end every run and start again")
    rotation.finish(settings.key_path)
    return Rotation(pseudonymiser.key_id, pairs.height, sum(rows.values()), sum(1 for n in rows.values() if n))


def _is_cut(table: Table) -> bool:
    return table.partition is not None


def _is_days(span: Span) -> bool:
    return span[0] is not None


def _spans(lake: Lake, tables: list[Table], chunk_rows: int) -> Iterator[Span]:
    """The unpartitioned tables as one span without days; then spans of days of about ``chunk_rows`` rows over all tables."""
    yield None, None
    counts = [
        lake.scan(table).group_by(day=pl.col(table.partition)).agg(rows=pl.len()).collect()
        for table in tables
        if table.partition
    ]
    if not counts:
        return
    days = pl.concat(counts).group_by("day").agg(pl.col("rows").sum()).sort("day")
    chunk = (days["rows"].cum_sum() - 1) // chunk_rows
    for part in days.with_columns(chunk=chunk).partition_by("chunk", maintain_order=True):
        yield part["day"][0], part["day"][-1]


def _read(lake: Lake, table: Table, span: Span) -> pl.DataFrame:
    return pl.DataFrame(lake.scan(table, *span).collect())


def _pseudonyms(lake: Lake, table: Table, span: Span, key_id: str) -> pl.Series:
    """Distinct pseudonyms of one key in a table's span; none where the span is not the table's kind."""
    if _is_cut(table) != _is_days(span):
        return pl.Series("old", [], dtype=pl.String)
    texts = [name for name, dtype in table.dtypes.items() if dtype == pl.String]
    return rotation.pseudonyms_in(pl.DataFrame(lake.scan(table, *span).select(texts).collect()), key_id)


def _rotate_span(lake: Lake, tables: list[Table], span: Span, pseudonymiser: Pseudonymiser) -> dict[str, int]:
    """Rewrite one span of every table that holds an old pseudonym or digest; returns rows rewritten by table."""
    mine = [table for table in tables if _is_cut(table) == _is_days(span)]
    bronze = {source: table for source, table in BRONZE_TABLES.items() if table in mine}
    digests = pl.concat(
        [
            pl.DataFrame(schema=_NO_DIGESTS),
            *(
                _digest_map(_read(lake, table, span), SOURCE_TABLES[source], pseudonymiser)
                for source, table in bronze.items()
            ),
        ]
    )
    rows = {}
    for table in [table for table in mine if table.layer != "bronze"]:
        rows[table.path] = _rewrite(lake, table, span, lambda frame: _derived(frame, digests, pseudonymiser))
    for source, table in bronze.items():
        contract = SOURCE_TABLES[source]
        rows[table.path] = _rewrite(lake, table, span, lambda frame, c=contract: _bronze(frame, c, pseudonymiser))  # type: ignore[misc]
    return rows


def _rewrite(lake: Lake, table: Table, span: Span, change: Callable[[pl.DataFrame], pl.DataFrame]) -> int:
    """Replace a span of a table by its changed rows; nothing is written where nothing changes. Returns the rows."""

    def attempt() -> int:
        before = _read(lake, table, span)
        after = change(before) if before.height else before
        if after.equals(before):
            return 0
        lake.replace(table, after.lazy(), *span)
        return before.height

    return retry_on_conflict(attempt)


def _bronze(frame: pl.DataFrame, source: SourceTable, pseudonymiser: Pseudonymiser) -> pl.DataFrame:
    """Bronze rows under the new key, digests computed anew, row keys that end with a digest with them.

    Rows without an old pseudonym keep the digest they have.
    """
    changed = rotation.rotated(frame, pseudonymiser)
    columns = digest_columns(source)
    fresh = row_digests(changed, columns).alias("new_digest")
    is_touched = pl.any_horizontal(pl.lit(False), *[pl.col(c).ne_missing(frame[c]) for c in columns if c in frame.columns])
    return (
        changed.with_columns(fresh)
        .with_columns(new_digest=pl.when(is_touched).then("new_digest").otherwise("row_digest"))
        .with_columns(row_key=_rekeyed(), row_digest=pl.col("new_digest"))
        .drop("new_digest")
    )


def _rekeyed() -> pl.Expr:
    """A row key that carries its row's digest (a conflicting duplicate, a row without a key) carries the new one."""
    carries = pl.col("row_key").str.ends_with(pl.col("row_digest"))
    return pl.when(carries).then(pl.col("row_key").str.head(-DIGEST_LENGTH) + pl.col("new_digest")).otherwise("row_key")


def _digest_map(frame: pl.DataFrame, source: SourceTable, pseudonymiser: Pseudonymiser) -> pl.DataFrame:
    """Columns old_digest, new_digest of the rows of a bronze span whose digest changes."""
    if frame.is_empty():
        return pl.DataFrame(schema=_NO_DIGESTS)
    after = _bronze(frame, source, pseudonymiser)["row_digest"]
    both = pl.DataFrame({"old_digest": frame["row_digest"], "new_digest": after}).unique()
    return both.filter(pl.col("old_digest") != pl.col("new_digest"))


def _derived(frame: pl.DataFrame, digests: pl.DataFrame, pseudonymiser: Pseudonymiser) -> pl.DataFrame:
    """Rows of silver or gold under the new key; the digest of the bronze row they were made of follows bronze's."""
    changed = rotation.rotated(frame, pseudonymiser)
    if "row_digest" not in changed.columns or digests.is_empty():
        return changed
    joined = changed.join(digests, left_on="row_digest", right_on="old_digest", how="left", maintain_order="left")
    joined = joined.with_columns(pl.col("new_digest").fill_null(pl.col("row_digest")))
    return joined.with_columns(row_key=_rekeyed(), row_digest=pl.col("new_digest")).drop("new_digest")
