"""Charts of a model's examination on its untouched test period, the new one beside the champion it met.

Here: what a chart shows. Not here: the figures (``learning.metrics``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import altair as alt

_SIDE = 300


def precision_recall(curves: pl.DataFrame) -> alt.Chart:
    """Precision against recall, one line per model: model, recall, precision."""
    import altair as alt

    share = alt.Scale(domain=[0, 1])
    return (
        alt.Chart(alt.Data(values=curves.to_dicts()), title="Precision against recall", width=_SIDE, height=_SIDE)
        .mark_line(interpolate="step-before")
        .encode(
            x=alt.X("recall:Q", scale=share),
            y=alt.Y("precision:Q", scale=share),
            order="recall:Q",
            color=alt.Color("model:N", title=None),
        )
    )


def calibration(groups: pl.DataFrame) -> alt.Chart:
    """Share observed against mean predicted with its 95 % interval, groups of equal size; on the dashed line they agree.

    groups: model, mean_predicted, observed, low, high (``learning.metrics.calibration_table``).
    """
    import altair as alt

    reach = max(float(groups[name].max() or 0.0) for name in ("mean_predicted", "high"))  # type: ignore[arg-type]
    span = alt.Scale(domain=[0, reach])
    base = alt.Chart(alt.Data(values=groups.select("model", "mean_predicted", "observed", "low", "high").to_dicts())).encode(
        x=alt.X("mean_predicted:Q", title="predicted", scale=span), color=alt.Color("model:N", title=None)
    )
    diagonal = alt.Chart(alt.Data(values=[{"a": 0, "b": 0}, {"a": reach, "b": reach}])).mark_line(
        strokeDash=[4, 4], color="gray"
    )
    points = base.mark_line(point=True).encode(y=alt.Y("observed:Q", title="observed", scale=span))
    bars = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
    drawn = diagonal.encode(x="a:Q", y="b:Q") + bars + points
    return drawn.properties(title="Observed against predicted", width=_SIDE, height=_SIDE)
