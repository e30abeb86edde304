"""A folder of FHIR R4 files, Bundles (``.json``) and NDJSON (``.ndjson``, ``.jsonl``), as a source of lab_results.

Here: files to versions of rows, damaged files and lines told by a row of their own. Not here: which version is current
(``sources.versioned``), what an element says (``results``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from lims_platform.contracts.extract import SourceError
from lims_platform.contracts.source import UTC, SourceTable
from lims_platform.sources.fhir.documents import Entry, FhirError, Index, entries, read_json, text
from lims_platform.sources.fhir.results import Row, key_of, listed_in, observation_rows, report_rows
from lims_platform.sources.hl7.times import age_band
from lims_platform.sources.times import to_utc
from lims_platform.sources.versioned import VersionedSource, file_place, file_time, refusal, version_frame

_LINES = (".ndjson", ".jsonl")


class FhirSource(VersionedSource):
    """lab_results of one folder; resources find one another across its files."""

    def _read(self, table: SourceTable, files: Sequence[Path]) -> pl.DataFrame:
        found: list[tuple[Entry, datetime]] = []
        rows: list[Row] = []
        received: list[datetime] = []
        for path in files:
            written = file_time(path)
            for content, place in self._documents(path, table):
                try:
                    found.extend((entry, written) for entry in entries(read_json(content)))
                except FhirError as error:
                    rows.append(dict(refusal(content, place, str(error))))
                    received.append(written)
        index = Index()
        for entry, _ in found:
            index.add(entry)
        kinds = [(entry, written, text(entry.resource.get("resourceType"))) for entry, written in found]
        owners = listed_in([entry for entry, _, kind in kinds if kind == "DiagnosticReport"], index)
        wanted = self.settings.patient_identifier_type
        for entry, written, kind in kinds:
            made: list[Row] = []
            if kind == "Observation":
                made = list(observation_rows(entry, index, owners.get(key_of(entry)), wanted))
            elif kind == "DiagnosticReport":
                made = list(report_rows(entry, index, wanted))
            rows.extend(made)
            received.extend([written] * len(made))
        return version_frame(self._versioned(rows, received, table), table)

    def _documents(self, path: Path, table: SourceTable) -> Iterator[tuple[bytes, str]]:
        """A JSON file whole, an NDJSON file line by line; each with its place."""
        place = f"source {self.name}, table {table.name}, a file of the folder"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(f"{place}: {error.strerror}", transient=True) from None
        if path.suffix.lower() in _LINES:
            lines = enumerate(data.splitlines(), 1)
            yield from ((line, file_place(data, number)) for number, line in lines if line.strip())
        else:
            yield data, file_place(data, 1)

    def _versioned(self, rows: list[Row], received: list[datetime], table: SourceTable) -> pl.DataFrame:
        names = [*(c.name for c in table.columns), "birth", "version"]
        frame = pl.DataFrame([pl.Series(n, [row.get(n) for row in rows], dtype=pl.String) for n in names])
        made = to_utc(frame["updated_at"], self.settings.timezone).values
        frame = frame.with_columns(
            made.alias("_made"),
            pl.Series("_received", received, dtype=UTC),
            age_band=age_band(pl.col("birth"), pl.coalesce("collected_timestamp", "resulted_timestamp")),
            _version=pl.col("version").cast(pl.Int64, strict=False),
            _flag=pl.lit(None, pl.String),
        )
        # versions of one moment keep the server's count, then the order of the files
        frame = frame.with_columns(_at=pl.coalesce("_made", "_received")).with_row_index("_row")
        ordered = frame.sort("_at", "_version", "_row", nulls_last=True).with_columns(_order=pl.int_range(pl.len()))
        return ordered.with_columns(updated_at=pl.col("_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
