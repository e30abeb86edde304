"""What makes one registered model another: its name, its keys, which rows belong together, what is a positive event.

Here: the specifications of the platform's models. Not here: how a model is trained (``training``), its labels (``labels``,
``contamination``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSpec:
    """One registered model.

    ``name``: in the registry; ``experiment``: its MLflow experiment. ``keys``: what names a row of its training frame,
    as_of_date among them. ``group``: rows of one are not independent; bootstraps draw whole groups. ``event``: what names a
    positive event, of which several rows may speak. ``features``: the columns it may see; None: every numeric one.
    ``gap_days``: days between two periods, the horizon of the label. ``naive``: the feature that alone is the baseline.
    ``weekly_rounds``: whether the weekly alarm round is measured (needs device_id and failure_date). ``rows``, ``events``,
    ``positive``, ``negative``: words for people.
    """

    name: str
    experiment: str
    keys: tuple[str, ...]
    group: str
    event: tuple[str, ...]
    features: tuple[str, ...] | None
    gap_days: int
    naive: str
    weekly_rounds: bool
    rows: str
    events: str
    positive: str
    negative: str

    @property
    def columns(self) -> list[str]:
        """Columns of a training frame that are no features: keys, group, label, event; each once."""
        return list(dict.fromkeys([*self.keys, self.group, "label", *self.event]))


DEVICE_FAILURE = ModelSpec(
    name="device_failure_predictor",
    experiment="device_failure",
    keys=("device_id", "as_of_date"),
    group="device_id",
    event=("device_id", "failure_date"),
    features=None,
    gap_days=7,
    naive="error_rate_7d",
    weekly_rounds=True,
    rows="device-days",
    events="failure episodes",
    positive="failure",
    negative="no failure",
)

CONTAMINATION = ModelSpec(
    name="contamination_predictor",
    experiment="contamination",
    keys=("row_key", "as_of_date"),
    group="batch_id",
    event=("row_key",),
    features=("ph_level", "storage_temp_c", "turbidity_ntu", "processing_time_hours"),
    gap_days=0,
    naive="turbidity_ntu",
    weekly_rounds=False,
    rows="samples",
    events="contaminated samples",
    positive="contaminated",
    negative="clean",
)
