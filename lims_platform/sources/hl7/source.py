"""A folder of HL7 v2: dropped files in plain text and the listener's sealed spool, as a source of lab_results.

Here: files and segments to versions of rows, repeated messages told apart. Not here: which version is current
(``sources.versioned``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from lims_platform.contracts.extract import SourceError
from lims_platform.contracts.source import UTC, SourceTable
from lims_platform.sources.config import SourceConfig
from lims_platform.sources.hl7 import spool
from lims_platform.sources.hl7.message import Hl7Error, parse, split_messages
from lims_platform.sources.hl7.results import COLUMNS, result_rows
from lims_platform.sources.hl7.times import age_band, iso_text, offset_of
from lims_platform.sources.times import to_utc
from lims_platform.sources.versioned import VersionedSource, file_place, file_time, refusal, version_frame

#: Set where another message had the same control id and other content; both were taken.
REUSED_CONTROL_ID = "control_id_reused"
#: MSH-7 may lie so much after the receipt; a sender's zone may be off, its year may not.
_CLOCK_SLACK = "1d"
_TIMES = ("collected_timestamp", "resulted_timestamp", "received_timestamp")
_META = ("_made", "_sender_control", "_message")


class Hl7Source(VersionedSource):
    """lab_results of one folder; ``*.spool`` are opened with the platform's key, every other file is plain HL7."""

    def __init__(
        self, name: str, settings: SourceConfig, base: Path, calendar: str, sealer: Callable[[], spool.Sealer] | None = None
    ) -> None:
        super().__init__(name, settings, base, calendar)
        self._sealer = sealer

    def _messages(self, files: Sequence[Path], place: str) -> Iterator[tuple[datetime, bytes | None, str]]:
        """Receipt time, bytes (None where a spooled message cannot be opened) and place of each, in the order received."""
        for path in files:
            try:
                if path.suffix == spool.SUFFIX:
                    if self._sealer is None:
                        raise SourceError(f"{place}: {path.name} is sealed, and no key is at hand")
                    for one in spool.read_segment(path, self._sealer()):
                        yield one.received or file_time(path), one.data, f"record {one.number} of {path.name}"
                else:
                    written, whole = file_time(path), path.read_bytes()
                    for number, data in enumerate(split_messages(whole), 1):
                        yield written, data, file_place(whole, number)
            except OSError as error:
                raise SourceError(f"{place}, a file of the folder: {error.strerror}", transient=True) from None

    def _read(self, table: SourceTable, files: Sequence[Path]) -> pl.DataFrame:
        entry, place = self.settings.tables[table.name], f"source {self.name}, table {table.name}"
        names = (*COLUMNS, *_META)
        rows: list[tuple[str | None, ...]] = []
        received: list[datetime] = []
        seen: set[str] = set()
        for moment, data, where in self._messages(files, place):
            new = self._rows(data, where, entry.encoding, seen)
            rows += new
            received += [moment] * len(new)
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        raw = pl.DataFrame(
            [pl.Series(n, c, dtype=pl.String) for n, c in zip(names, columns, strict=True)]
            + [pl.Series("_received", received, dtype=UTC)]
        )
        return version_frame(self._versioned(raw), table)

    def _rows(self, data: bytes | None, place: str, charset: str, seen: set[str]) -> list[tuple[str | None, ...]]:
        """Rows of one message, extended by _META; nothing for a message whose very content was seen before."""
        content = data if data is not None else place.encode()
        try:
            if data is None:
                raise Hl7Error("a record of the spool is damaged and cannot be opened")
            message = parse(data, charset)
            fingerprint = message.digest
            rows = result_rows(message, self.settings.patient_identifier_type)
            control = "^".join((message.head(3), message.head(4), message.head(10)))
            meta = (message.head(7), control, fingerprint)
        except Hl7Error as error:
            fingerprint = hashlib.sha256(content).hexdigest()
            told = refusal(content, place, str(error))
            rows, meta = [tuple(told.get(c) for c in COLUMNS)], ("", "", fingerprint)
        if fingerprint in seen:
            return []
        seen.add(fingerprint)
        return [(*row, *meta) for row in rows]

    def _versioned(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Times to ISO, ages, version times, status U filled from the version before, reused control ids flagged."""
        offset = offset_of(pl.col("_made"))
        reused = (pl.col("_sender_control") != "") & (pl.col("_message").n_unique().over("_sender_control") > 1)
        rows = raw.with_columns(
            *[iso_text(pl.col(name), offset).alias(name) for name in _TIMES], _made=iso_text(pl.col("_made"))
        ).with_columns(
            age_band=age_band(pl.col("birth"), pl.coalesce("collected_timestamp", "resulted_timestamp")),
            _order=pl.int_range(pl.len()),
            _flag=pl.when(reused).then(pl.lit(REUSED_CONTROL_ID)),
        )
        made = to_utc(rows["_made"].alias("made"), self.settings.timezone).values
        # a clock that runs years ahead must not win over every later correction
        believed = made <= rows["_received"].dt.offset_by(_CLOCK_SLACK)
        rows = rows.with_columns(_at=pl.when(believed).then(made).otherwise("_received"))
        rows = rows.with_columns(updated_at=pl.col("_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
        # U says "now final" without sending the value again
        final = (pl.col("status_letter") == "U") & pl.col("result_value").is_null()
        last = [
            pl.col(c).forward_fill().over("result_id", order_by=["_at", "_order"]) for c in ("result_value", "result_unit")
        ]
        filled = [pl.when(final).then(e).otherwise(pl.col(e.meta.output_name())).alias(e.meta.output_name()) for e in last]
        return rows.with_columns(filled)
