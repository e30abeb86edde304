"""Which Westgard rules judge the controls of a device and analyte on a day, and what they find.

Here: one set for all, or by the laboratory's choice the set that the sigma of the days before calls for (Westgard Sigma
Rules). Not here: what the rules are (``westgard_rules``), how sigma comes about (``qc_performance``), how a violation is
found (``westgard``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import polars as pl

from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.qc_performance import qc_performance, sigma_steps
from lims_platform.laboratory.qc_targets import qc_runs
from lims_platform.laboratory.westgard import violations
from lims_platform.laboratory.westgard_rules import chosen

#: The sigma a day is judged by is the lowest that any level and lot showed on so many days before it.
SIGMA_DAYS: Final = 7
_KEY: Final = ["device_id", "loinc_code", "as_of_date"]


class SigmaRulesError(ValueError):
    """A row of sigma_rules.csv names a rule that does not exist; the message names the row."""


@dataclass(frozen=True)
class RuleChoice:
    """What the laboratory chose: ``rules`` for everybody, or ``by_sigma`` those of each sigma, and ``rules`` where none is
    known. analytes and sigma_rules: the reference tables of those names.
    """

    rules: tuple[str, ...]
    by_sigma: bool
    analytes: pl.DataFrame
    sigma_rules: pl.DataFrame

    def sets(self, controls: Frame, first: date, last: date) -> pl.DataFrame:
        """device_id, loinc_code, as_of_date and ``judged_by`` (names of rules) of every day of [first, last] with controls.

        Only with ``by_sigma``. The day itself has no say in its own rules: a device that goes wrong today is judged as
        it was known yesterday. Raises SigmaRulesError.
        """
        steps = sigma_steps(self.sigma_rules).select("sigma_from", judged_by=pl.col("rules").str.split(";"))
        steps = steps.with_columns(pl.col("judged_by").list.eval(pl.element().str.strip_chars()))
        for row in steps.iter_rows(named=True):
            try:
                chosen(row["judged_by"])
            except ValueError as error:
                message = f"sigma_rules.csv, sigma_from {row['sigma_from']:g}, column rules: {error}"
                raise SigmaRulesError(message) from None
        shown = qc_performance(controls, self.analytes, self.sigma_rules, first - timedelta(days=SIGMA_DAYS), last)
        before = (
            shown.sort("as_of_date")
            .rolling("as_of_date", period=f"{SIGMA_DAYS}d", closed="left", group_by=_KEY[:2])
            .agg(pl.col("sigma").min())
            .unique(_KEY)
            .filter(pl.col("as_of_date") >= first)
        )
        known = before.filter(pl.col("sigma").is_not_null()).sort("sigma")
        return known.join_asof(steps, left_on="sigma", right_on="sigma_from").select(*_KEY, "judged_by")


def violations_between(
    controls: Frame, logs: Frame, first: date, last: date, calendar: str, choice: RuleChoice
) -> pl.DataFrame:
    """``westgard.violations`` of the days [first, last] by the rules chosen; controls, logs: as for ``qc_runs``."""
    runs = qc_runs(controls, logs)
    if not choice.by_sigma:
        return violations(runs, calendar=calendar, rules=choice.rules).filter(pl.col("as_of_date").is_between(first, last))
    sets = choice.sets(controls, first, last)
    named = sets["judged_by"].explode().drop_nulls().unique().to_list()
    found = violations(runs, calendar=calendar, rules=[*choice.rules, *sorted(set(named) - set(choice.rules))])
    rows = found.filter(pl.col("as_of_date").is_between(first, last)).join(sets, on=_KEY, how="left", maintain_order="left")
    return rows.filter(pl.col("rule").is_in(_or_default(choice))).drop("judged_by")


def performance_between(controls: Frame, first: date, last: date, choice: RuleChoice) -> pl.DataFrame:
    """``qc_performance`` of the days [first, last], and the rules its controls were judged by that day."""
    rows = qc_performance(controls, choice.analytes, choice.sigma_rules, first, last)
    if not choice.by_sigma:
        return rows.with_columns(rules_applied=pl.lit(";".join(choice.rules)))
    joined = rows.join(choice.sets(controls, first, last), on=_KEY, how="left", maintain_order="left")
    return joined.with_columns(rules_applied=_or_default(choice).list.join(";")).drop("judged_by")


def _or_default(choice: RuleChoice) -> pl.Expr:
    return pl.col("judged_by").fill_null(pl.lit(list(choice.rules), pl.List(pl.String)))
