"""The training frame: features and labels side by side, its digest, and which columns a model may see.

Here: joining, the feature list, the stable digest that names the frame in the ledger, the matrix a model reads.
Not here: how labels (``labels``) or splits (``split``) are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: Days from the first on whose feature windows see zeros from before the data; they teach nothing.
WARM_UP_DAYS = 30

#: Columns that are no features: keys, labels, and in_outage, which selects rows and is constant among labelled ones.
NOT_FEATURES = frozenset({"device_id", "as_of_date", "in_outage", "label", "failure_date", "label_state"})


class FrameError(ValueError):
    """A frame lacks a column or has one of the wrong kind; the message names it."""


def feature_names(schema: Mapping[str, pl.DataType] | pl.Schema) -> list[str]:
    """Numeric and boolean columns that are neither key nor label, in the schema's order."""
    names = [n for n, t in schema.items() if n not in NOT_FEATURES and (t.is_numeric() or t == pl.Boolean)]
    if not names:
        raise FrameError(f"no numeric or boolean feature among {list(schema)}")
    return names


def training_frame(
    features: pl.DataFrame, labels: pl.DataFrame, warm_up_days: int = WARM_UP_DAYS, first_day: date | None = None
) -> pl.DataFrame:
    """Labelled device-days with their features, sorted by day and device.

    Columns: device_id, as_of_date, the features, label, failure_date. Rows without a label are left out, and so are the
    first ``warm_up_days`` from ``first_day`` (the platform's first day; default the first of ``features``), whose
    windows reach back to before the data. FrameError if a labelled row has no features or features hold a key twice.
    """
    names = feature_names(features.schema)
    known = labels.filter(pl.col("label").is_not_null()).select("device_id", "as_of_date", "label", "failure_date")
    keys = ["device_id", "as_of_date"]
    if features.select(keys).is_duplicated().any():
        raise FrameError("features hold a device and day more than once")
    missing = known.join(features.select(keys), on=keys, how="anti")
    if missing.height:
        row = missing.row(0, named=True)
        raise FrameError(
            f"{missing.height} labelled rows have no features, first: device {row['device_id']}, {row['as_of_date']}"
        )
    frame = known.join(features.select(*keys, *names), on=keys, how="inner")
    begin = first_day or features["as_of_date"].min()
    if isinstance(begin, date):
        frame = frame.filter(pl.col("as_of_date") >= begin + timedelta(days=warm_up_days))
    return frame.select(*keys, *names, "label", "failure_date").sort("as_of_date", "device_id")


def frame_digest(frame: pl.DataFrame) -> str:
    """SHA-256 of a frame's content: independent of row and column order and of the library's version.

    Columns are taken by name, rows sorted by all of them; floats enter as their IEEE 754 bytes (−0.0 as 0.0, one NaN),
    the rest as text, with lengths, so that no two different frames read the same.
    """
    names = sorted(frame.columns)
    keys = [n for n in ("as_of_date", "device_id") if n in names]
    ordered = frame.select(names).sort([*keys, *(n for n in names if n not in keys)], nulls_last=True)
    digest = hashlib.sha256(f"{frame.height}".encode())
    for name in names:
        column = ordered[name]
        digest.update(f"|{len(name)}:{name}:{'float' if column.dtype.is_float() else column.dtype}|".encode())
        digest.update(column.is_null().cast(pl.UInt8).to_numpy().tobytes())
        if column.dtype.is_float():
            values = column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0
            digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
        elif column.dtype.is_integer() or column.dtype == pl.Boolean:
            digest.update(column.cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes())
        else:
            text = column.cast(pl.String).fill_null("")
            digest.update(text.str.len_bytes().cast(pl.Int64).to_numpy().astype("<i8").tobytes())
            digest.update("".join(text.to_list()).encode())
    return digest.hexdigest()


def matrix(frame: pl.DataFrame, features: Iterable[str]) -> NDArray[np.float32]:
    """Features as float32, shape (rows, features); null and NaN both NaN, flags 0 and 1.

    Single precision in training too: the ONNX model reads float32, and a threshold learnt between two float32 values
    cannot be rounded to the wrong side. FrameError names missing, non-numeric and infinite columns.
    """
    names = list(features)
    missing = [n for n in names if n not in frame.columns]
    if missing:
        raise FrameError(f"features missing: {', '.join(missing)}")
    wrong = [n for n in names if not (frame.schema[n].is_numeric() or frame.schema[n] in (pl.Boolean, pl.Null))]
    if wrong:
        raise FrameError(f"features neither numeric nor boolean: {', '.join(f'{n} ({frame.schema[n]})' for n in wrong)}")
    out = np.empty((frame.height, len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        out[:, i] = frame[name].cast(pl.Float32).fill_null(float("nan")).to_numpy()
    infinite = np.flatnonzero(np.isinf(out).any(axis=0))
    if infinite.size:
        raise FrameError(f"infinite values in {', '.join(names[i] for i in infinite)}")
    return out
