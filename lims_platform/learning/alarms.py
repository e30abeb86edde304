"""What a laboratory gets for its attention: failures found at a fixed number of alarms a week, and how early.

Here: the weekly alarm round as a measure on labelled rows. Not here: alert rows and their delivery (``automation``).

The policy measured: once a week, at the end of a day, the laboratory looks at today's scores (never at later ones) and
alarms the devices with the highest; a failure episode counts as found if its device was alarmed in the seven days
before it. Weeks may start on any weekday, so all seven phases are played and their episodes and alarms pooled: the
answer does not hang on a choice.
"""

from __future__ import annotations

import numpy as np
import polars as pl

#: Alarms a laboratory of this many devices is asked to look at in a week.
ALARMS_PER_WEEK = 5
DEVICES_PER_BUDGET = 40


def alarm_rounds(
    rows: pl.DataFrame, score: str, alarms: int = ALARMS_PER_WEEK, per_devices: int = DEVICES_PER_BUDGET
) -> pl.DataFrame:
    """Each row with ``alarmed``: whether a round held on its day would alarm its device.

    ``rows``: device_id, as_of_date and the score. The budget is alarms × devices / per_devices, rounded down, at least
    1, of the devices in ``rows``. Ties break by device_id.
    """
    budget = max(1, alarms * rows["device_id"].n_unique() // per_devices)
    ranked = rows.sort(["as_of_date", score, "device_id"], descending=[False, True, False])
    rank = pl.int_range(pl.len()).over("as_of_date")
    return ranked.with_columns((rank < budget).alias("alarmed"))


def alarm_metrics(
    rows: pl.DataFrame, score: str, alarms: int = ALARMS_PER_WEEK, per_devices: int = DEVICES_PER_BUDGET
) -> dict[str, float]:
    """Recall, precision and median lead time of the weekly rounds.

    ``rows``: labelled device-days with device_id, as_of_date, label, failure_date (day of the first episode in the
    window) and the score. Of every seven consecutive rounds each speaks of one phase; an episode met by a round is
    found in it or missed.

    Returns alarm_recall (episodes found / episodes met, pooled over the phases), alarm_precision (alarms followed by a
    failure), alarm_lead_days (median days from alarm to failure; NaN if none is found), alarms_per_week and
    alarm_episodes (distinct).
    """
    played = alarm_rounds(rows, score, alarms, per_devices)
    met = played.filter(pl.col("label") == 1)
    found = met.filter("alarmed")
    lead = (found["failure_date"] - found["as_of_date"]).dt.total_days().to_numpy()
    raised = int(played["alarmed"].sum())
    return {
        "alarm_recall": found.height / met.height if met.height else float("nan"),
        "alarm_precision": found.height / raised if raised else float("nan"),
        "alarm_lead_days": float(np.median(lead)) if lead.size else float("nan"),
        "alarms_per_week": raised / max(1, played["as_of_date"].n_unique()),
        "alarm_episodes": float(met.select("device_id", "failure_date").n_unique()),
    }
