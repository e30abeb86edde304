"""Turnaround figures per site, priority and day."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.turnaround import turnaround_kpis

DAY = date(2024, 3, 4)
SCHEMA = {"event_date": pl.Date, "facility_id": pl.String, "priority": pl.String}
SCHEMA |= dict.fromkeys(("turnaround_time_hours", "pre_analytical_hours", "in_lab_hours"), pl.Float64)


def test_medians_percentiles_flags_and_the_whole_laboratory():
    rows = [(DAY, "F1", "STAT", float(h), h / 4, None) for h in range(1, 12)]
    rows += [(DAY, "F2", "STAT", -1.0, 1.0, 2.0), (DAY, None, None, None, None, 3.0), (DAY, "F2", "STAT", 21.0, -5.0, 4.0)]
    out = turnaround_kpis(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    TABLES["turnaround_kpis"].schema.validate(out)
    assert dict(out.schema) == TABLES["turnaround_kpis"].dtypes
    at = {(r["facility_id"], r["priority"]): r for r in out.iter_rows(named=True)}
    assert set(at) == {("F1", "STAT"), ("F2", "STAT"), ("UNKNOWN", "UNKNOWN"), ("ALL", "STAT"), ("ALL", "UNKNOWN")}
    first = at["F1", "STAT"]
    assert (first["results"], first["flagged"], first["total_median_hours"], first["total_p90_hours"]) == (11, 0, 6, 10)
    assert first["in_lab_median_hours"] is None
    second = at["F2", "STAT"]
    assert (second["results"], second["flagged"]) == (1, 1)
    assert second["pre_analytical_median_hours"] == 1.0  # the negative one is left out
    assert at["ALL", "STAT"]["total_median_hours"] == pytest.approx(6.5)
    assert at["ALL", "UNKNOWN"]["results"] == 0 and at["ALL", "UNKNOWN"]["total_median_hours"] is None
