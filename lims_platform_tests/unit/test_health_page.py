"""The health page: stale, never written and failing things are red and first; an empty history is no good health."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from lims_platform.contracts.alerts import ALERTS
from lims_platform.reporting import health_figures as figures
from lims_platform.reporting.charts import deflated, png
from lims_platform.reporting.health_page import Health, health_charts, health_page, write_health

NOW = datetime(2026, 3, 20, 9, 0, tzinfo=UTC)
TODAY = date(2026, 3, 20)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def table(name: str, written: datetime | None, deadline: str | None = "soon", late: str | None = None) -> dict[str, Any]:
    return {"table": name, "group": "g", "written_at": written, "deadline": deadline, "late": late, "newest_day": TODAY}


def run(run_id: str, job: str, status: str, ended: datetime | None, minutes: float = 2.0) -> dict[str, Any]:
    started = (ended or NOW) - timedelta(minutes=minutes)
    return {"run_id": run_id, "job": job, "status": status, "started_at": started, "ended_at": ended}


def rows(name: str, counts: dict[int, int]) -> list[dict[str, Any]]:
    """Rows of a table by how many days ago."""
    return [{"table": name, "day": TODAY - timedelta(days=back), "rows": n} for back, n in counts.items()]


def frame(found: list[dict[str, Any]], schema: figures.Schema) -> pl.DataFrame:
    return pl.DataFrame(found, schema=schema)


def health(**given: Any) -> Health:
    """A platform nothing is known of, but for what is given."""
    known: dict[str, Any] = {
        "now": NOW,
        "zone": ZoneInfo("Europe/Berlin"),
        "tables": frame([], figures.TABLES_SCHEMA),
        "runs": frame([], figures.RUNS_SCHEMA),
        "jobs": [],
        "failures": frame([], figures.FAILURES_SCHEMA),
        "checks": frame([], figures.CHECKS_SCHEMA),
        "alerts": ALERTS.empty(),
        "clocks": frame([], figures.CLOCKS_SCHEMA),
        "rows": frame([], figures.ROWS_SCHEMA),
        "row_tables": [],
        "run_address": "http://127.0.0.1:3000/runs/",
    }
    return Health(**known | given)


def test_a_table_never_written_is_never_fresh_whatever_its_deadline() -> None:
    found = [
        table("gold/fresh", ago(hours=1)),
        table("gold/never", None),
        table("gold/never_asked", None, deadline=None),
        table("gold/free", ago(days=90), deadline=None),
        table("gold/late", ago(hours=30), late="yesterday is missing"),
        table("gold/later", ago(hours=50), late="yesterday is missing"),
    ]
    states = figures.table_states(frame(found, figures.TABLES_SCHEMA), NOW, TODAY)
    assert states.select("table", "state").rows() == [
        ("gold/later", "late"),
        ("gold/late", "late"),
        ("gold/never", "never"),
        ("gold/never_asked", "never"),
        ("gold/free", "no deadline"),
        ("gold/fresh", "fresh"),
    ]
    assert states["hours_old"].to_list()[:3] == [50.0, 30.0, None] and states["days_old"][0] == 0


def test_jobs_count_their_own_spans_and_the_last_finished_run_decides() -> None:
    runs = [
        run("a1", "ingest", "FAILURE", ago(days=20)),
        run("a2", "ingest", "SUCCESS", ago(days=2), minutes=10),
        run("a3", "ingest", "FAILURE", ago(days=1), minutes=4),
        run("a4", "ingest", "CANCELED", ago(hours=2)),
        run("a5", "ingest", "STARTED", None, minutes=90),
        run("b1", "scoring", "FAILURE", ago(days=3)),
        run("b2", "scoring", "SUCCESS", ago(days=2)),
        run("c1", "drift", "FAILURE", ago(days=40)),
        run("c2", "drift", "SUCCESS", ago(days=2)),
    ]
    states = figures.job_states(frame(runs, figures.RUNS_SCHEMA), ["drift", "ingest", "scoring", "training"], NOW)
    assert states.select("job", "state").rows() == [
        ("ingest", "failing"),
        ("scoring", "failed lately"),
        ("drift", "good"),
        ("training", "no run"),
    ]
    ingest, _, drift, training = states.to_dicts()
    assert (ingest["runs_7d"], ingest["success_7d"], ingest["runs_30d"]) == (2, 0.5, 3)
    assert ingest["success_30d"] == pytest.approx(1 / 3) and ingest["failed_run"] == "a3" and ingest["under_way"] == 1
    assert ingest["longest_hours"] == 1.5 and training["longest_hours"] is None
    assert (ingest["median_minutes"], ingest["longest_minutes"]) == (4.0, 10.0)
    assert drift["failed_run"] is None and drift["runs_30d"] == 1
    assert training["runs_30d"] == 0 and training["success_30d"] is None, "no run is no success"


def test_a_day_without_rows_is_a_zero_and_today_is_not_over() -> None:
    counts = {0: 3, **dict.fromkeys(range(2, 30), 100)}
    stored = frame(rows("bronze/a", counts) + rows("bronze/old", {100: 5}), figures.ROWS_SCHEMA)
    calendar = figures.rows_calendar(stored, TODAY).filter(pl.col("table") == "bronze/a")
    assert calendar.height == 29 and calendar["day"].max() == date(2026, 3, 19) and calendar["rows"][-1] == 0
    states = figures.row_states(stored, ["bronze/a", "bronze/none", "bronze/old"], TODAY)
    assert states.select("table", "state", "today_so_far", "yesterday", "usual").rows() == [
        ("bronze/a", "empty yesterday", 3, 0, 100.0),
        ("bronze/none", "no rows", None, None, None),
        ("bronze/old", "no rows", None, 0, 0.0),
    ]


def test_the_quarantine_share_is_of_all_results_of_the_day() -> None:
    stored = rows(figures.VALID, {0: 50, 1: 97, 2: 100}) + rows(figures.HELD, {1: 3})
    shares = figures.quarantine_share(frame(stored, figures.ROWS_SCHEMA), TODAY)
    assert shares.rows() == [(date(2026, 3, 18), 100, 0.0), (date(2026, 3, 19), 100, 0.03)]


def test_what_is_wrong_comes_first_with_its_reason_and_a_link_to_its_run() -> None:
    check = {"table": "silver/s", "check": "contract", "outcome": "failed", "severity": "ERROR", "at": ago(hours=1)}
    checks = [
        check | {"run_id": "c-run", "words": None},
        check | {"check": "not reached", "outcome": "passed", "missed_run": "d-run"},
        check | {"check": "red before", "missed_run": "d-run"},
        check | {"check": "share", "severity": "WARN"},
        check | {"check": "fine", "outcome": "passed"},
    ]
    ill = health(
        tables=frame([table("gold/late", ago(hours=30), late="<b>gone</b>"), table("gold/n", None)], figures.TABLES_SCHEMA),
        runs=frame([run("f-run", "ingest", "FAILURE", ago(hours=1))], figures.RUNS_SCHEMA),
        failures=frame([{"run_id": "f-run", "kind": "permanent", "words": "column gone"}], figures.FAILURES_SCHEMA),
        checks=frame(checks, figures.CHECKS_SCHEMA),
        clocks=frame(
            [{"name": "hourly", "status": "running", "tick": "FAILURE", "error": "no code"}], figures.CLOCKS_SCHEMA
        ),
    )
    assert ill.counts() == {
        "tables late": 1,
        "tables never written": 1,
        "jobs failing": 1,
        "checks failing": 2,
        "checks warning": 1,
        "checks missed": 2,
        "clocks failing": 1,
        "alerts unresolved": 0,
    }
    html = health_page(ill, [])
    wrong, rest = html.split("<h2>Rows a day</h2>")
    for words in (
        "permanent",
        "column gone",
        'href="http://127.0.0.1:3000/runs/f-run"',
        "c-run",
        "no code",
        "d-run",
        "red before",
    ):
        assert words in wrong
    assert "&lt;b&gt;gone" in wrong and "<b>gone" not in html
    assert "fine" not in html and "gold/late" in rest


def test_an_empty_history_says_so_and_draws_nothing() -> None:
    bare = health(jobs=["ingest"], row_tables=["bronze/a"], tables=frame([table("bronze/a", None)], figures.TABLES_SCHEMA))
    assert health_charts(bare) == [] and bare.counts()["tables never written"] == 1
    html = health_page(bare, [])
    assert "no run" in html and "no rows" in html and "fresh" not in html


def test_the_page_is_whole_and_knows_when_it_is_old(tmp_path: Path) -> None:
    runs = frame([run("a", "ingest", "SUCCESS", ago(hours=1))], figures.RUNS_SCHEMA)
    stored = frame(rows(figures.VALID, {1: 97, 2: 100}), figures.ROWS_SCHEMA)
    well = health(runs=runs, rows=stored, jobs=["ingest"])
    pictures = health_charts(well)
    path = write_health(health_page(well, pictures), well.today, tmp_path)
    html = path.read_text()
    assert path == tmp_path / "health" / "2026-03-20" / "pipeline_health.html"
    assert len(pictures) == 3 and html.count("data:image/png;base64,") == 3
    assert not re.search(r"(src|href)=[\"']?https?:", html), "opens from a file, without a network"
    assert f"{int(NOW.timestamp())}e3" in html and "As of 2026-03-20 10:00 Europe/Berlin" in html


def test_a_picture_is_the_same_after_it_was_packed() -> None:
    from io import BytesIO

    import matplotlib.image as images

    (chart,) = health_charts(health(runs=frame([run("a", "i", "SUCCESS", ago(hours=1))], figures.RUNS_SCHEMA)))
    import vl_convert

    drawn = bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=1.5))
    packed = deflated(drawn)
    assert packed == png(chart) and len(packed) < len(drawn) / 2
    assert (images.imread(BytesIO(packed)) == images.imread(BytesIO(drawn))).all()
