"""Dirt: what a real LIMS does to clean results, planted row by row and written down in the truth.

Each planted row is one row of the truth table ``dirt`` with what stood there and what should have. Value, unit, code and
time kinds exclude each other on a row; late, amended, deleted and duplicated rows are otherwise clean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.simulator import catalogue, spellings
from lims_platform.simulator.clock import DAY, HOUR, NEVER
from lims_platform.simulator.pool import numbered
from lims_platform.simulator.randomness import uniforms
from lims_platform.simulator.results import Draft, wall_series
from lims_platform.simulator.world import World

DIRT_SCHEMA = {
    "table": pl.String(),
    "row_key": pl.String(),
    "kind": pl.String(),
    "planted": pl.String(),
    "true_value": pl.String(),
    "true_unit": pl.String(),
    "true_code": pl.String(),
    "recoverable": pl.Boolean(),
    "happens_at": pl.Datetime("us"),  # wall time of an amendment, deletion or late arrival
    "_visible": pl.Int64(),
}
#: Kinds from which a careful reader can still get the true result.
RECOVERABLE = frozenset(
    {"censored", "whitespace", "exponent", "coded_spelling", "unit_spelling", "other_unit"}
    | {"null_resulted", "duplicate", "conflicting_duplicate", "amended", "late"}
)
#: Longest time after its day that a row of a day's orders can still change: follow-up, lateness, amendment, deletion.
LOOK_BACK_DAYS = 30

Rows = NDArray[np.int64]


def plant(world: World, draft: Draft, first: int, stop: int) -> pl.DataFrame:
    """Dirty the draft in place; returns the truth (``DIRT_SCHEMA``)."""
    counts = np.bincount(draft.orders.day[draft.order] - first, minlength=stop - first)
    u = uniforms(world.config.seed, "dirt", list(range(first, stop)), counts, 4)
    dirt = world.config.dirt
    numeric = draft.code < catalogue.N_NUMERIC
    planter = _Planter(world, draft, u)
    kinds: list[tuple[str, NDArray[np.bool_] | None, Callable[[str, Rows], None]]] = [
        ("censored", numeric, planter.censored),
        ("whitespace", None, planter.whitespace),
        ("exponent", numeric, planter.exponent),
        ("coded_spelling", ~numeric, planter.coded_spelling),
        ("unit_spelling", numeric, planter.unit_spelling),
        ("other_unit", numeric, planter.other_unit),
        ("not_done", None, planter.not_done),
        ("cancelled", None, planter.cancelled),
        ("instrument_code", None, planter.instrument_code),
        ("ambiguous_number", numeric, planter.ambiguous_number),
        ("wrong_unit", numeric, planter.wrong_unit),
        ("unmapped_code", None, planter.unmapped_code),
        ("null_unit", numeric, planter.null_unit),
        ("null_value", None, planter.null_value),
        ("null_resulted", None, planter.null_resulted),
        ("no_time", None, planter.no_time),
        ("absurd_time", None, planter.absurd_time),
        ("clock_error", None, planter.clock_error),
        ("identifier_in_comment", None, planter.comment),
        ("amended", numeric, planter.amended),
        ("late", None, planter.late),
        ("deleted", None, planter.deleted),
    ]
    shares = np.array([getattr(dirt, kind) for kind, _, _ in kinds])
    if shares.sum() > 1.0:
        raise ValueError(f"Dirt: the shares of kinds that exclude each other add up to {shares.sum():.2f}, above 1")
    chosen = np.searchsorted(np.cumsum(shares), u[0], side="right")
    for i, (kind, applies, plant_kind) in enumerate(kinds):
        rows = np.flatnonzero(chosen == i)
        rows = rows if applies is None else rows[applies[rows]]
        if len(rows):
            plant_kind(kind, rows)
    planter.duplicates(chosen == len(kinds))
    return pl.concat([pl.DataFrame(schema=DIRT_SCHEMA), *planter.truth])


class _Planter:
    """Writes one kind of dirt on the rows it is given and keeps the truth."""

    def __init__(self, world: World, draft: Draft, u: NDArray[np.float64]) -> None:
        self.world, self.draft, self.u = world, draft, u
        self.truth: list[pl.DataFrame] = []

    def _note(
        self,
        kind: str,
        rows: Rows,
        planted: pl.Series | None,
        true_value: pl.Series | None = None,
        at: NDArray[np.int64] | None = None,
    ) -> None:
        draft = self.draft
        happens = np.full(len(rows), NEVER) if at is None else at
        self.truth.append(
            pl.DataFrame(
                {
                    "row_key": numbered("R", draft.number[rows], 14),
                    "planted": pl.Series([None] * len(rows), dtype=pl.String) if planted is None else planted,
                    "true_value": self._clean_value(rows) if true_value is None else true_value,
                    "true_unit": _OWN_UNIT.gather(draft.code[rows]),
                    "true_code": _CODE.gather(draft.code[rows]),
                    "happens_at": wall_series(self.world.clock.to_wall(happens)),
                    "_visible": draft.visible[rows],
                }
            )
            .with_columns(table=pl.lit("lab_results"), kind=pl.lit(kind), recoverable=pl.lit(kind in RECOVERABLE))
            .select(list(DIRT_SCHEMA))
        )

    def _clean_value(self, rows: Rows) -> pl.Series:
        draft = self.draft
        coded = np.where(draft.positive[rows], catalogue.POSITIVE, catalogue.NEGATIVE)
        return pl.Series(
            np.where(draft.code[rows] >= catalogue.N_NUMERIC, coded, _fixed(draft.amount[rows], draft.code[rows]))
        ).cast(pl.String)

    def _write_value(self, kind: str, rows: Rows, text: pl.Series) -> None:
        true_value = self._clean_value(rows)
        self.draft.value.write(rows, text)
        self._note(kind, rows, text, true_value)

    def _one_of(self, words: tuple[str, ...], rows: Rows) -> pl.Series:
        return pl.Series(words).gather((self.u[1, rows] * len(words)).astype(np.int64))

    def censored(self, kind: str, rows: Rows) -> None:
        """The value lay below a limit (above the true value by up to a half); the LIMS shows '<limit'."""
        code = self.draft.code[rows]
        step = 10.0 ** -_DECIMALS[code]
        limit = np.ceil((self.draft.amount[rows] * (1 + 0.5 * self.u[1, rows]) + step) / step) * step
        self._write_value(kind, rows, "<" + pl.Series(_fixed(limit, code)))

    def whitespace(self, kind: str, rows: Rows) -> None:
        self._write_value(kind, rows, " " + self._clean_value(rows) + " ")

    def exponent(self, kind: str, rows: Rows) -> None:
        # four digits: enough for every analyte to read back to its own precision
        text = [f"{x:.3E}" for x in self.draft.amount[rows].tolist()]
        self._write_value(kind, rows, pl.Series(text, dtype=pl.String))

    def coded_spelling(self, kind: str, rows: Rows) -> None:
        positive = pl.Series(self.draft.positive[rows])
        self._write_value(
            kind, rows, self._one_of(spellings.POSITIVE, rows).zip_with(positive, self._one_of(spellings.NEGATIVE, rows))
        )

    def unit_spelling(self, kind: str, rows: Rows) -> None:
        has = np.isin(self.draft.code[rows], _SPELLED)
        rows = rows[has]
        which = (self.u[1, rows] * 3).astype(np.int64)
        text = _SPELLINGS.gather(self.draft.code[rows] * 3 + which)
        self.draft.unit.write(rows, text)
        self._note(kind, rows, text)

    def other_unit(self, kind: str, rows: Rows) -> None:
        rows = rows[_MOLAR[self.draft.code[rows]] > 0]
        text = self._other_amount(rows)
        self.draft.unit.write(rows, _MOLAR_UNIT.gather(self.draft.code[rows]))
        self._write_value(kind, rows, text)

    def wrong_unit(self, kind: str, rows: Rows) -> None:
        # a factor near one would be no error at all
        factor = _MOLAR[self.draft.code[rows]]
        rows = rows[(factor > 0) & (np.abs(np.log(np.maximum(factor, 1e-9))) > 0.5)]
        self._write_value(kind, rows, self._other_amount(rows))

    def _other_amount(self, rows: Rows) -> pl.Series:
        code = self.draft.code[rows]
        converted = self.draft.amount[rows] * _MOLAR[code]
        return pl.Series([f"{x:.4g}" if x < 1000 else f"{x:.0f}" for x in converted.tolist()], dtype=pl.String)

    def not_done(self, kind: str, rows: Rows) -> None:
        self._write_value(kind, rows, self._one_of(spellings.NOT_DONE, rows))

    def cancelled(self, kind: str, rows: Rows) -> None:
        self.draft.cancelled[rows] = True
        self._write_value(kind, rows, pl.Series(["CANCELLED"] * len(rows)))

    def instrument_code(self, kind: str, rows: Rows) -> None:
        self._write_value(kind, rows, pl.Series(["-999"] * len(rows)))

    def ambiguous_number(self, kind: str, rows: Rows) -> None:
        """'4,123': 4.123 or 4123? Both readings are possible, the true one is in the truth."""
        thousandths = (1.0 + self.draft.amount[rows] % 9.0) * 1000 + np.floor(self.u[1, rows] * 999)
        whole = np.minimum(thousandths.astype(np.int64), 9_999)
        text = pl.Series([f"{x // 1000},{x % 1000:03d}" for x in whole.tolist()], dtype=pl.String)
        self._write_value(kind, rows, text)

    def unmapped_code(self, kind: str, rows: Rows) -> None:
        text = self._one_of(spellings.UNMAPPED, rows)
        self.draft.test.write(rows, text)
        self._note(kind, rows, text)

    def null_unit(self, kind: str, rows: Rows) -> None:
        self.draft.unit.index[rows] = 0
        self._note(kind, rows, None)

    def null_value(self, kind: str, rows: Rows) -> None:
        self.draft.value.index[rows] = 0
        self._note(kind, rows, None)

    def null_resulted(self, kind: str, rows: Rows) -> None:
        self.draft.resulted[rows] = NEVER
        self._note(kind, rows, None)

    def no_time(self, kind: str, rows: Rows) -> None:
        for times in (self.draft.resulted, self.draft.collected, self.draft.received, self.draft.verified):
            times[rows] = NEVER
        self._note(kind, rows, None)

    def absurd_time(self, kind: str, rows: Rows) -> None:
        self.draft.resulted[rows] = HOUR
        self._note(kind, rows, pl.Series(["1970-01-01"] * len(rows)))

    def clock_error(self, kind: str, rows: Rows) -> None:
        """The collection terminal ran ahead: collected after resulted, within the same day or the next."""
        self.draft.collected[rows] = self.draft.resulted[rows] + HOUR
        self._note(kind, rows, None)

    def comment(self, kind: str, rows: Rows) -> None:
        person = numbered("P", self.world.patients.number(self.draft.orders.patient[self.draft.order[rows]]), 7)
        sentences = (self.u[1, rows] * len(spellings.COMMENTS)).astype(np.int64).tolist()
        text = [spellings.COMMENTS[i].format(p) for i, p in zip(sentences, person, strict=True)]
        self._write_value(kind, rows, pl.Series(text, dtype=pl.String))

    def amended(self, kind: str, rows: Rows) -> None:
        """First reported wrong by a fifth to a half, corrected within five days."""
        code, amount = self.draft.code[rows], self.draft.amount[rows]
        wrong = amount * np.where(self.u[1, rows] < 0.5, 1.2 + 0.3 * self.u[2, rows], 0.8 - 0.3 * self.u[2, rows])
        text = pl.Series(_fixed(wrong, code))
        self.draft.first_value.write(rows, text)
        after = np.maximum(self.draft.verified[rows], self.draft.visible[rows])
        self.draft.amended[rows] = after + _seconds(HOUR + self.u[3, rows] ** 2 * 5 * DAY)
        self._note(kind, rows, text, at=self.draft.amended[rows])

    def late(self, kind: str, rows: Rows) -> None:
        """Resulted on a device that was offline: the LIMS got it one to seven days later."""
        self.draft.visible[rows] += _seconds(DAY * (1 + 6 * self.u[1, rows]))
        self.draft.verified[rows] = np.minimum(self.draft.verified[rows], self.draft.visible[rows])
        self._note(kind, rows, None, at=self.draft.visible[rows])

    def deleted(self, kind: str, rows: Rows) -> None:
        self.draft.deleted[rows] = self.draft.visible[rows] + _seconds(HOUR + self.u[1, rows] * 4 * DAY)
        self._note(kind, rows, None, at=self.draft.deleted[rows])

    def duplicates(self, clean: NDArray[np.bool_]) -> None:
        """Enter clean, at once verified rows twice: identically, or first ten per cent too high and right a minute later."""
        dirt, draft = self.world.config.dirt, self.draft
        at_once = clean & (draft.verified == draft.visible)
        # about half the rows are verified at once; the configured share counts all rows
        identical = np.flatnonzero(at_once & (self.u[2] < 2.0 * dirt.duplicate))
        other = (self.u[2] > 1.0 - 2.0 * dirt.conflicting_duplicate) & (draft.code < catalogue.N_NUMERIC)
        conflicting = np.flatnonzero(at_once & other)
        if len(identical):
            self._note("duplicate", identical, None)
        if len(conflicting):
            text = pl.Series(_fixed(draft.amount[conflicting] * 1.1, draft.code[conflicting]))
            self._note("conflicting_duplicate", conflicting, text)
            copies = draft.enter_again(conflicting)
            draft.value.write(conflicting, text)
            draft.visible[copies] += 60_000_000
        draft.enter_again(identical)


def _seconds(duration: NDArray[np.float64]) -> Rows:
    return duration.astype(np.int64) // 1_000_000 * 1_000_000


def _fixed(amount: NDArray[np.float64], code: Rows) -> list[str]:
    """Numbers as the LIMS writes them, with the analyte's decimals; a few rows at a time."""
    return [f"{x:.{d}f}" for x, d in zip(amount.tolist(), _DECIMALS[code].tolist(), strict=True)]


_NONE = [None] * len(catalogue.PATHOGENS)
_DECIMALS = np.array([a.decimals for a in catalogue.NUMERIC] + [0] * len(catalogue.PATHOGENS))
_CODE = pl.Series(catalogue.CODES)
_OWN_UNIT = pl.Series([a.unit for a in catalogue.NUMERIC] + _NONE, dtype=pl.String)
_MOLAR = np.array([a.molar for a in catalogue.NUMERIC] + [0.0] * len(catalogue.PATHOGENS))
_MOLAR_UNIT = pl.Series([a.molar_unit for a in catalogue.NUMERIC] + _NONE, dtype=pl.String)
_SPELLED = np.array([i for i, a in enumerate(catalogue.NUMERIC) if a.unit in spellings.UNIT_SPELLINGS])
_SPELLINGS = pl.Series(
    [s for a in catalogue.NUMERIC for s in spellings.UNIT_SPELLINGS.get(a.unit, ("", "", ""))], dtype=pl.String
)
