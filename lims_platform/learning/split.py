"""Cutting time: train | gap | validation | gap | test, and rolling-origin folds. Never by random rows.

Here: day arithmetic only. A row dated D carries a label about (D, D + horizon]; with a gap of the horizon between two
periods, no label of the earlier one speaks of a day of the later one. Method: rolling-origin evaluation, Tashman
(2000), Int. J. Forecasting 16:437-450; the gap: de Prado (2018), Advances in Financial Machine Learning, ch. 7
(purging).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

#: Fewest days a model may be trained on in the earliest fold.
MIN_TRAIN_DAYS = 21


class SplitError(ValueError):
    """Too little time to split; the message says what is needed and what there is."""


@dataclass(frozen=True)
class Period:
    """Days ``first`` to ``last``, both included."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1

    def rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame's rows dated in the period."""
        return frame.filter(pl.col("as_of_date").is_between(self.first, self.last))

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


@dataclass(frozen=True)
class Fold:
    """One rolling-origin fold: everything up to ``train.last`` teaches, ``check`` examines."""

    train: Period
    check: Period


@dataclass(frozen=True)
class TimeSplit:
    """``folds`` lie in ``train`` and end with (train, validation); ``fit`` is what the final model learns from."""

    train: Period
    validation: Period
    test: Period
    folds: tuple[Fold, ...]
    gap_days: int

    @property
    def fit(self) -> Period:
        """Train, gap and validation together: all days whose labels end before the test period."""
        return Period(self.train.first, self.validation.last)


def time_split(
    frame: pl.DataFrame,
    test_days: int = 60,
    gap_days: int = 7,
    folds: int = 3,
    validation_days: int | None = None,
    data_end: date | None = None,
) -> TimeSplit:
    """Split by ``as_of_date``.

    Parameters
    ----------
    frame : labelled rows with as_of_date.
    test_days : length of the test period in calendar days, counted back from ``data_end``.
    gap_days : days between periods whose rows are used by neither; at least the label's horizon.
    folds : rolling-origin folds, the last of them (train, validation); the others lie before, each with a later
        origin.
    validation_days : length of the validation period; default: a sixth of the days before the test, 7 to 60.
    data_end : last day of data; default the last labelled day. Given the true end, the test period also covers the
        immature
        days, so that nothing of the last ``test_days`` is ever trained on.

    Raises
    ------
    SplitError : what is missing, in days.
    """
    if min(test_days, folds) < 1 or gap_days < 0:
        raise SplitError(f"test_days {test_days} and folds {folds} must be at least 1, gap_days {gap_days} at least 0")
    if not frame.height:
        raise SplitError("no labelled rows: nothing is mature yet")
    first, last_labelled = frame["as_of_date"].min(), frame["as_of_date"].max()
    assert isinstance(first, date) and isinstance(last_labelled, date)
    end = data_end or last_labelled
    if end < last_labelled:
        raise SplitError(f"data_end {end} is before the last labelled day {last_labelled}")
    test = Period(end - timedelta(days=test_days - 1), end)
    before = (test.first - first).days
    check = validation_days or max(7, min(60, before // 6))
    needed = MIN_TRAIN_DAYS + folds * check + 2 * gap_days + test_days
    has = (end - first).days + 1
    if has < needed:
        raise SplitError(
            f"needs {needed} mature days ({MIN_TRAIN_DAYS} training, {folds} × {check} validation, "
            f"2 gaps of {gap_days}, {test_days} test), has {has} ({first} to {end})"
        )
    gap = timedelta(days=gap_days)
    day = timedelta(days=1)
    made: list[Fold] = []
    check_last = test.first - gap - day
    for _ in range(folds):
        check_first = check_last - timedelta(days=check - 1)
        made.append(Fold(Period(first, check_first - gap - day), Period(check_first, check_last)))
        check_last = check_first - day
    split = TimeSplit(made[0].train, made[0].check, test, tuple(reversed(made)), gap_days)
    for name, period in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        if not period.rows(frame).height:
            raise SplitError(f"no labelled rows in the {name} period {period}")
    return split
