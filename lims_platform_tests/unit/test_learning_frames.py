"""Labels, training frames and splits: what is learnt from, exactly."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.contracts.gold import GOLD_TABLES
from lims_platform.learning.frames import FrameError, feature_names, frame_digest, matrix, training_frame
from lims_platform.learning.labels import LabelError, failure_days, failure_labels
from lims_platform.learning.split import SplitError, time_split

ZONE = "Europe/Berlin"
START = date(2024, 1, 1)


@lru_cache(maxsize=4)
def laboratory(devices: int = 40, days: int = 240, seed: int = 3, rate: float = 0.03) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features and failures of a small fleet: wear rises, errors and imprecision follow it, and so do failures."""
    rng = np.random.default_rng(seed)
    wear = np.zeros((days, devices))
    failures: list[tuple[str, datetime]] = []
    level = rng.uniform(0, 0.3, devices)
    for day in range(days):
        level = np.where((level > 0.3) | (rng.random(devices) < rate), level + 0.06, level)
        failed = rng.random(devices) < 0.35 * np.clip(level, 0, 1) ** 3 + 0.001
        at = datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=day)
        failures += [(f"D{d:03d}", at) for d in np.flatnonzero(failed)]
        level = np.where(failed, rng.uniform(0, 0.2, devices), np.minimum(level, 1))
        wear[day] = level
    size = days * devices
    w = wear.ravel()
    features = pl.DataFrame(
        {
            "device_id": [f"D{d:03d}" for d in range(devices)] * days,
            "as_of_date": [START + timedelta(days=i) for i in range(days) for _ in range(devices)],
            "error_rate_7d": rng.gamma(2, 0.01, size) * (1 + 3 * w),
            "qc_imprecision_7d": 1 + w + rng.normal(0, 0.15, size),
            "qc_pass_rate_7d": np.clip(1 - 0.1 * w + rng.normal(0, 0.02, size), 0, 1),
            "result_volume": rng.poisson(40, size),
            "calibration_overdue": rng.random(size) < 0.1,
            "nothing_known": pl.Series([None] * size, dtype=pl.Float64),
            "in_outage": np.zeros(size, dtype=bool),
        }
    ).with_columns(
        pl.when(pl.Series(rng.random(size) < 0.05)).then(None).otherwise(pl.col("qc_pass_rate_7d")).alias("qc_pass_rate_7d"),
        pl.col("as_of_date").cast(pl.Date),
    )
    events = pl.DataFrame(failures, schema={"device_id": pl.String, "failed_at": pl.Datetime("us", "UTC")}, orient="row")
    return features, events


@lru_cache(maxsize=4)
def frame(devices: int = 40, days: int = 240, seed: int = 3) -> pl.DataFrame:
    """A training frame of that fleet."""
    features, failures = laboratory(devices, days, seed)
    return training_frame(features, failure_labels(features, failures, START + timedelta(days=days - 1), ZONE))


def calendar(device: str = "A", days: int = 20) -> pl.DataFrame:
    return pl.DataFrame(
        {"device_id": device, "as_of_date": pl.date_range(START, START + timedelta(days=days - 1), eager=True)}
    )


def events(*times: datetime, device: str = "A", name: str = "failed_at") -> pl.DataFrame:
    return pl.DataFrame(
        {"device_id": [device] * len(times), name: list(times)}, schema_overrides={name: pl.Datetime("us", "UTC")}
    )


def states(labels: pl.DataFrame) -> dict[int, str]:
    days = (labels["as_of_date"] - START).dt.total_days().to_list()
    marks = {"labelled": "", "immature": "?", "outage": "o", "censored": "c"}
    return {
        d: marks[s] + ("" if v is None else str(v))
        for d, s, v in zip(days, labels["label_state"], labels["label"], strict=True)
    }


class TestLabels:
    def test_window_is_open_at_the_day_and_closed_at_the_seventh(self) -> None:
        failure = datetime(2024, 1, 11, 12, tzinfo=UTC)  # day 10
        got = states(failure_labels(calendar(), events(failure), START + timedelta(days=19), ZONE))
        assert [d for d, s in got.items() if s == "1"] == list(range(3, 10))
        assert got[2] == got[10] == "0"

    def test_a_day_is_a_day_of_the_laboratory(self) -> None:
        late = datetime(2024, 1, 10, 23, 30, tzinfo=UTC)  # 00:30 on 11 January in Berlin
        got = failure_labels(calendar(), events(late), START + timedelta(days=19), ZONE)
        assert got.filter(pl.col("label") == 1)["as_of_date"].max() == date(2024, 1, 10)
        assert set(got["failure_date"].drop_nulls()) == {date(2024, 1, 11)}

    def test_failures_within_a_day_are_one_episode_chained(self) -> None:
        base = datetime(2024, 1, 5, 12, tzinfo=UTC)
        chain = events(*(base + timedelta(hours=h) for h in (0, 24, 47, 71)), base + timedelta(hours=96, seconds=1))
        assert failure_days(chain, ZONE)["failure_date"].to_list() == [date(2024, 1, 5), date(2024, 1, 9)]

    def test_immature_even_if_the_failure_is_known(self) -> None:
        failure = datetime(2024, 1, 18, 12, tzinfo=UTC)
        got = states(failure_labels(calendar(), events(failure), START + timedelta(days=18), ZONE))
        assert got[11] == "1"  # day 11 + 7 = day 18, the last of data
        assert all(got[d] == "?" for d in range(12, 20))

    def test_outage_has_no_label(self) -> None:
        rows = calendar().with_columns((pl.col("as_of_date") == START + timedelta(days=4)).alias("in_outage"))
        assert states(failure_labels(rows, events(datetime(2024, 1, 9, tzinfo=UTC)), date(2024, 2, 1), ZONE))[4] == "o"

    def test_service_on_a_score_censors_only_what_it_may_have_prevented(self) -> None:
        service = events(datetime(2024, 1, 11, 9, tzinfo=UTC), name="at")  # day 10
        none = states(failure_labels(calendar(), events(), date(2024, 2, 1), ZONE, interventions=service))
        assert [d for d, s in none.items() if s == "c"] == list(range(3, 10))
        failed = events(datetime(2024, 1, 9, 9, tzinfo=UTC))  # day 8: it failed all the same
        got = states(failure_labels(calendar(), failed, date(2024, 2, 1), ZONE, interventions=service))
        assert got[3] == got[7] == "1" and got[8] == got[9] == "c"

    def test_bad_input_is_named(self) -> None:
        naive = events(datetime(2024, 1, 9, tzinfo=UTC)).with_columns(pl.col("failed_at").dt.replace_time_zone(None))
        with pytest.raises(LabelError, match=r"failures\.failed_at"):
            failure_labels(calendar(), naive, date(2024, 2, 1), ZONE)
        with pytest.raises(LabelError, match="device A, day 2024-01-01 more than once"):
            failure_labels(pl.concat([calendar(), calendar()]), events(), date(2024, 2, 1), ZONE)
        with pytest.raises(LabelError, match="no column failed_at"):
            failure_labels(calendar(), events().rename({"failed_at": "x"}), date(2024, 2, 1), ZONE)

    @given(
        st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 40 * 24)), max_size=8),
        st.integers(1, 9),
        st.integers(10, 45),
    )
    @settings(max_examples=60, deadline=None)
    def test_agrees_with_the_definition_row_by_row(self, hours: list[tuple[str, int]], horizon: int, end: int) -> None:
        rows = pl.concat([calendar("A", 40), calendar("B", 40)])
        base = datetime(2024, 1, 1, tzinfo=UTC)
        failures = pl.DataFrame(
            [{"device_id": d, "failed_at": base + timedelta(hours=h)} for d, h in hours],
            schema={"device_id": pl.String, "failed_at": pl.Datetime("us", "UTC")},
        )
        last = START + timedelta(days=end)
        got = failure_labels(rows, failures, last, "UTC", horizon)
        for device, day, label, *_ in got.iter_rows():
            times = sorted(h for d, h in hours if d == device)
            starts = [h for i, h in enumerate(times) if i == 0 or h - times[i - 1] > 24]
            fails = any(0 < (START + timedelta(days=h // 24) - day).days <= horizon for h in starts)
            assert label == (None if day + timedelta(days=horizon) > last else int(fails))


class TestFrame:
    def test_features_of_the_contract(self) -> None:
        dtypes = GOLD_TABLES["device_failure_features"].dtypes
        names = feature_names(dtypes)
        assert not {"device_id", "device_type", "facility_id", "as_of_date", "in_outage"} & set(names)
        assert {"error_rate_7d", "calibration_overdue", "result_volume"} <= set(names)
        assert set(dtypes) - set(names) == {"device_id", "device_type", "facility_id", "as_of_date", "in_outage"}

    def test_warm_up_and_unlabelled_rows_are_left_out(self) -> None:
        got = frame()
        assert got["label"].null_count() == 0
        assert got["as_of_date"].min() == START + timedelta(days=30)
        assert got["as_of_date"].max() == START + timedelta(days=239 - 7)

    def test_labels_without_features_are_an_error(self) -> None:
        features, failures = laboratory()
        labels = failure_labels(features, failures, START + timedelta(days=239), ZONE)
        with pytest.raises(FrameError, match="1 labelled rows have no features, first: device D000, 2024-01-01"):
            training_frame(features.filter(~((pl.col("device_id") == "D000") & (pl.col("as_of_date") == START))), labels)

    @given(st.randoms(use_true_random=False))
    @settings(max_examples=15, deadline=None)
    def test_digest_names_content_not_order(self, random: object) -> None:
        small = frame().head(50)
        columns = small.columns[:]
        random.shuffle(columns)  # type: ignore[attr-defined]
        assert frame_digest(small.select(columns).sample(fraction=1, shuffle=True)) == frame_digest(small)

    @pytest.mark.parametrize("column", ["error_rate_7d", "result_volume", "label", "device_id", "calibration_overdue"])
    def test_digest_changes_with_any_value(self, column: str) -> None:
        small = frame().head(50)
        values = small[column].to_list()
        value = values[17]
        values[17] = not value if isinstance(value, bool) else value + ("x" if isinstance(value, str) else 1)
        changed = small.with_columns(pl.Series(column, values, dtype=small.schema[column]))
        assert frame_digest(changed) != frame_digest(small)

    def test_digest_tells_null_from_zero(self) -> None:
        digests = {frame_digest(pl.DataFrame({"x": [v, 1.0]}, schema={"x": pl.Float64})) for v in (0.0, None, float("nan"))}
        assert len(digests) == 3
        assert frame_digest(pl.DataFrame({"x": [0.0]})) == frame_digest(pl.DataFrame({"x": [-0.0]}))

    def test_matrix(self) -> None:
        rows = pl.DataFrame({"a": [1.5, None], "b": [True, False], "c": ["x", "y"], "d": [1.0, float("inf")]})
        got = matrix(rows, ["b", "a"])
        assert got.dtype == np.float32 and got[0].tolist() == [1.0, 1.5] and np.isnan(got[1, 1])
        for bad, message in ((["a", "z"], "missing: z"), (["c"], "c \\(String\\)"), (["d"], "infinite values in d")):
            with pytest.raises(FrameError, match=message):
                matrix(rows, bad)


class TestSplit:
    @given(st.integers(60, 500), st.integers(1, 60), st.integers(0, 14), st.integers(1, 4))
    @settings(max_examples=150, deadline=None)
    def test_no_label_of_a_period_reaches_into_a_later_one(self, days: int, test_days: int, gap: int, folds: int) -> None:
        rows = calendar(days=days)
        try:
            split = time_split(rows, test_days, gap, folds)
        except SplitError as error:
            assert f"has {days}" in str(error)
            return
        reach = timedelta(days=gap)
        assert split.validation.last + reach < split.test.first and split.train.last + reach < split.validation.first
        assert split.test.days == test_days and split.test.last == rows["as_of_date"].max()
        assert len(split.folds) == folds and split.folds[-1].check == split.validation
        for earlier, later in zip(split.folds[:-1], split.folds[1:], strict=True):
            assert earlier.check.last < later.check.first and earlier.train.last < later.train.last
        assert all(f.train.last + reach < f.check.first and f.train.days >= 21 for f in split.folds)

    def test_too_little_says_what_is_missing(self) -> None:
        with pytest.raises(SplitError, match=r"needs 116 mature days .*, has 12 "):
            time_split(calendar(days=12), 60, 7, 3)
        with pytest.raises(SplitError, match="no labelled rows"):
            time_split(calendar(days=12).clear(), 60, 7, 3)

    def test_immature_days_count_as_test_days(self) -> None:
        split = time_split(calendar(days=200), 60, 7, 3, data_end=START + timedelta(days=206))
        assert split.test.first == START + timedelta(days=147)
