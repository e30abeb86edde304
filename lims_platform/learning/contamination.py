"""The training frame of the contamination model: confirmed samples, what was measured of them, and whether they were bad.

Here: which samples teach, and the frame. Not here: training (``training``), registering (``cycle``).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from lims_platform.learning.spec import CONTAMINATION

#: A sample without a batch is a batch of its own.
_NO_BATCH = pl.concat_str(pl.lit("sample "), pl.col("row_key"))


def contamination_frame(samples: pl.LazyFrame, data_end: date) -> pl.DataFrame:
    """Samples with a confirmed answer up to ``data_end``: row_key, as_of_date, batch_id, the four features, label 0 or 1.

    ``samples``: silver's sample_measurements. A sample not yet confirmed has no label and does not teach, nor does a row
    with a reason (a duplicate, no time). A failed sensor's value stays unknown (null): it is never imputed here.
    """
    assert CONTAMINATION.features is not None
    confirmed = samples.filter(
        pl.col("reason").is_null() & pl.col("is_contaminated").is_not_null() & (pl.col("event_date") <= data_end)
    )
    return (
        confirmed.select(
            "row_key",
            pl.col("event_date").alias("as_of_date"),
            pl.col("batch_id").fill_null(_NO_BATCH),
            *CONTAMINATION.features,
            pl.col("is_contaminated").cast(pl.Int8).alias("label"),
        )
        .sort("as_of_date", "row_key")
        .collect()
    )
