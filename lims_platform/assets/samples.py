"""Assets of batch samples under watch: verdicts, the day's figures, the four files. Here: inputs. Not here: tests, words."""

from datetime import UTC, datetime

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, table_asset
from lims_platform.assets.reports import report_asset
from lims_platform.contracts.reference import Reference
from lims_platform.settings import settings


@dg.asset(
    **table_asset(
        "sample_alerts", kinds={"polars", "deltalake"}, group="operations", ins={"samples": reads("sample_measurements")}
    )
)
def sample_alerts(samples: pl.LazyFrame, reference: dg.ResourceParam[Reference]) -> pl.DataFrame:
    from lims_platform.laboratory.sample_days import sample_alerts as watched

    return watched(samples, reference.sample_limits, settings().sample_false_alarms)


@dg.asset(
    **table_asset(
        "lims_daily_monitoring", kinds={"polars", "deltalake"}, group="operations", ins={"alerts": reads("sample_alerts")}
    )
)
def lims_daily_monitoring(alerts: pl.LazyFrame) -> pl.DataFrame:
    from lims_platform.laboratory.sample_days import daily_monitoring

    return daily_monitoring(alerts)


@dg.asset(
    **report_asset(
        "sample_monitoring",
        "The newest complete day's samples under watch: two CSV files, a JSON report and a dashboard as PNG.",
        {"csv", "json"},
        ins={"alerts": reads("sample_alerts")},
    )
)
def sample_monitoring(alerts: pl.LazyFrame, reference: dg.ResourceParam[Reference]) -> dg.MaterializeResult:
    from lims_platform.reporting import charts
    from lims_platform.reporting.figures import newest_days
    from lims_platform.reporting.sample_files import write_sample_files

    today = newest_days(alerts, settings().today)
    if today.is_empty():
        return dg.MaterializeResult(
            metadata={"outcome": "not evaluable: no complete day of batch samples yet", "dagster/row_count": 0}
        )
    folder = settings().report_dir / "samples" / str(today["as_of_date"][0])
    files = write_sample_files(today, reference.sample_limits, folder, datetime.now(UTC))
    picture = f"![samples]({charts.data_uri(files['monitoring_dashboard.png'].read_bytes())})"
    paths = {name: dg.MetadataValue.path(path) for name, path in files.items()}
    verdicts = {name.lower(): count for name, count in today["qa_alert"].value_counts().iter_rows()}
    return dg.MaterializeResult(
        metadata={"dagster/row_count": today.height, **verdicts, **paths, "dashboard": dg.MetadataValue.md(picture)}
    )


SAMPLE_ASSETS = [sample_alerts, lims_daily_monitoring, sample_monitoring]
