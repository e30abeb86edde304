"""The quality control page: red levels first, a chart for each, and a page that needs no network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.qc_performance import qc_performance
from lims_platform.laboratory.qc_targets import judged, qc_runs
from lims_platform.laboratory.westgard import violations
from lims_platform.reporting.charts import png
from lims_platform.reporting.qc_page import level_charts, qc_page, red_levels, trends

T0 = datetime(2024, 1, 1, 6, tzinfo=UTC)
SCHEMA = TABLES["quality_control_standardized"].dtypes
SIGMA = pl.DataFrame({"sigma_from": [0.0], "rules": ["1-3s"], "controls_per_run": [2], "run_size": [45]})
ANALYTES = pl.DataFrame({"loinc_code": ["1", "2"], "tea_percent": [8.0, None], "tea_absolute": [None, None]})


def laboratory(last: float) -> pl.DataFrame:
    rows = [
        {
            "qc_id": f"{code}{i}", "device_id": "A<1>", "loinc_code": code, "analyte": f"Analyte {code}", "qc_level": "L1",
            "run_at": T0 + timedelta(days=i), "event_date": (T0 + timedelta(days=i)).date(), "control_lot": f"C{i > 5}",
            "measured_value": 100.0 + (last if i == 29 and code == "1" else (-1.0) ** i),
            "expected_value": 100.0, "expected_sd": 2.0,
        }
        for code in ("1", "2") for i in range(30)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def page(controls: pl.DataFrame) -> tuple[str, pl.DataFrame, int]:
    day, found = controls["event_date"].max(), violations(qc_runs(controls))
    pictures = level_charts(judged(controls), found, day)
    figures = qc_performance(controls, ANALYTES, SIGMA, day, day)
    return qc_page(pictures, trends(found, day), found, figures, day), red_levels(found, day), len(pictures)


def test_a_rejected_level_is_named_and_drawn():
    html, red, pictures = page(laboratory(7.0))
    assert red.select("loinc_code", "rules").rows() == [("1", "1-3s")] and pictures == 1
    assert "Levels rejected: 1." in html and "A&lt;1&gt;" in html and "A<1>" not in html
    assert html.index("Analyte 1") < html.index("Trends") and "no allowable error" in html
    assert "http" not in html.split("<body")[0].replace("http-equiv", "")


def test_a_quiet_day_says_so():
    html, red, pictures = page(laboratory(1.0))
    assert red.is_empty() and pictures == 0 and "No rejection." in html


def test_a_chart_renders_with_its_violations():
    controls = laboratory(7.0)
    (chart,) = level_charts(judged(controls), violations(qc_runs(controls)), controls["event_date"].max())
    assert png(chart).startswith(b"\x89PNG")
