"""What a day's results together say of their unit: for a unit that is absent, or stated and contradicted by all of them.

Here: groups of one source, code, specimen, device and written unit on one day, and the unit that explains their median. One
magnesium of 0.85 may be either unit; fifty of them are mmol/L. Not here: single rows (``plausibility``).

Evidence is a day's own rows and the reference intervals, nothing else: a day rebuilt alone, in a range or in another
order reads the same. The median's logarithm is taken as normal around the centre of the reference interval with the width
of a hospital's results (a hospital may lie as far from the healthy centre as its patients do) and the median's own error;
FLOOR keeps room for populations that fit no interval. A group too small for a device is judged with the source's other
devices.
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.distinct import per_distinct
from lims_platform.laboratory.ordered_tests import TEST_FIELDS, TEST_KEYS, TestResolver, validity_epoch
from lims_platform.laboratory.plausibility import ASSUME_FROM, PRIOR, candidates, facts

#: Fewer plain numbers than this are no distribution.
SMALLEST = 20
#: Prior odds that a whole group states a wrong unit: a mapping error of an interface, not a slip of one row.
WRONG_UNIT = 0.005
#: A written unit is contradicted above this confidence. Lower than for naming an absent one: the price is a row that waits.
CONTRADICT_FROM = 0.9
#: Likelihood of a median that fits nothing (a dialysis ward, a study); bounds what any distribution may claim.
FLOOR = 1e-5
#: A ward's median may lie this much further out than a hospital's single results: an oncology ward's haemoglobin of 8.5 g/dL
#: must not be taken for healthy mmol/L.
WARD = 1.25
#: An absent unit is named only if the median then lies this close to the centre, in SDs; a written one contradicted
#: only if it lies closer still.
_CLOSE, _CLOSER = 3.0, 1.5
#: A group wider than this many hospital SDs is a mixture and says nothing.
_WIDEST = 4.0

GROUP = ("source", "test_code", "specimen_type", "device_model", "loinc_code", "result_unit", "event_date")
_DEVICE = ("device_id",)
EVIDENCE_FIELDS: dict[str, pl.DataType] = {
    "evidence_unit": pl.String(), "evidence_confidence": pl.Float64(), "evidence_rows": pl.Int64(),
    "evidence_missing": pl.Boolean(),
}  # fmt: skip


def unit_evidence(rows: pl.LazyFrame, reference: Reference) -> pl.DataFrame:
    """The groups whose results decide their unit: GROUP, device_id and EVIDENCE_FIELDS; usually none or few rows.

    ``rows`` has GROUP, device_id and result_value. evidence_missing: no unit was written and evidence_unit is it;
    else the written unit is contradicted and evidence_unit fits. evidence_confidence is the posterior probability, at least
    plausibility.ASSUME_FROM, or CONTRADICT_FROM. Costs one pass over eight columns.
    """
    plain = pl.col("result_value").str.contains(r"^\s*[0-9]{1,9}(?:[.,](?:[0-9]{1,2}|[0-9]{4,9}))?\s*$")
    number = pl.col("result_value").str.strip_chars().str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
    log = pl.when(plain & (number > 0)).then(number.log())
    absent = [name for name in (*GROUP, *_DEVICE) if name not in rows.collect_schema()]
    groups = (
        rows.with_columns([pl.lit(None, pl.String).alias(name) for name in absent])
        .select(*GROUP, *_DEVICE, log=log)
        .drop_nulls("log")
        .group_by(*GROUP, *_DEVICE)
        .agg(n=pl.len().cast(pl.Int64), logs=pl.col("log"))
        .collect(engine="streaming")
    )
    small = groups.filter(pl.col("n") < SMALLEST)
    pooled = (
        groups.join(small, on=list(GROUP), how="semi", nulls_equal=True)
        .group_by(*GROUP)
        .agg(n=pl.col("n").sum(), logs=pl.col("logs").explode())
    )
    # pooled results are decided once, not once for each small device that they are to speak for
    pooled = _centred(pooled).with_columns([pl.lit(None, pl.String).alias(name) for name in _DEVICE])
    alone = _centred(groups).with_columns(alone=True)
    decided = _decided(pl.concat([alone, pooled.with_columns(alone=False).select(alone.columns)]), reference)
    together = decided.filter(~pl.col("alone")).drop(_DEVICE)
    together = small.select(*GROUP, *_DEVICE).join(together, on=list(GROUP), how="inner", nulls_equal=True)
    fields = (*GROUP, *_DEVICE, *EVIDENCE_FIELDS)
    return pl.concat([decided.filter("alone").select(fields), together.select(fields)])


def _centred(groups: pl.DataFrame) -> pl.DataFrame:
    """Groups of at least SMALLEST results with median and spread (IQR in SD) of their ``logs``, which go."""
    groups = groups.filter(pl.col("n") >= SMALLEST).with_columns(pl.col("logs").list.sort())
    quartile = [pl.col("logs").list.get((pl.col("n") * q // 4).cast(pl.Int64)) for q in (1, 3)]
    return groups.with_columns(
        median=pl.col("logs").list.median(), spread=(quartile[1] - quartile[0]) / 1.349
    ).drop("logs")  # fmt: skip


def _decided(groups: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """The groups whose posterior singles out one unit: GROUP, device_id, alone and EVIDENCE_FIELDS."""
    groups = groups.with_row_index("__row__")
    asked = groups.with_columns(value_unit=pl.lit(None, pl.String), day=validity_epoch(pl.col("event_date"), reference))
    resolve = TestResolver(reference).resolve
    tests = asked.select(per_distinct({name: pl.col(name) for name in TEST_KEYS}, resolve, TEST_FIELDS).alias("test"))
    tests = tests.unnest("test").select("std_loinc", "ucum", "factor", "offset", "unit_problem", "scale")
    known = groups.hstack(tests).filter(pl.col("scale") == "Qn")
    missing = pl.col("unit_problem") == "unit_missing"
    known = known.filter(missing.fill_null(False) | (pl.col("unit_problem").is_null() & pl.col("factor").is_not_null()))
    pairs = known.with_columns(missing=missing.fill_null(False)).join(
        facts(reference), left_on="std_loinc", right_on="loinc_code"
    )
    pairs = pairs.filter(pl.col("spread") <= _WIDEST * pl.col("sigma"))
    pairs = pairs.join(candidates(reference), left_on="std_loinc", right_on="loinc_code")
    value = pl.col("median").exp() * pl.col("option_factor") + pl.col("option_offset")
    stated = pl.col("median").exp() * pl.col("factor") + pl.col("offset")
    error = ((WARD * pl.col("sigma")).pow(2) + 1.57 * pl.col("spread").pow(2) / pl.col("n")).sqrt()
    pairs = pairs.with_columns(value=value, distance=(value.log() - pl.col("mu")) / error).with_columns(
        # a unit that gives the stated value is the stated unit, whatever its spelling (mEq/L, mmol/L)
        is_stated=((value / stated - 1).abs() < 1e-6).fill_null(False) & ~pl.col("missing"),
        possible=value.is_between(pl.col("low"), pl.col("high")).fill_null(True),
    )
    others = (pl.len().over("__row__") - 1).clip(1)
    usual = pl.when("missing").then("standard").otherwise("is_stated")
    share = pl.when("missing").then(pl.lit(PRIOR)).otherwise(1 - WRONG_UNIT)
    prior = pl.when(usual).then(share).otherwise((1 - share) / others)
    weight = prior * ((-pl.col("distance").pow(2) / 2).exp() + FLOOR) * pl.col("possible").cast(pl.Float64)
    pairs = pairs.with_columns(weight=weight.fill_nan(0.0).fill_null(0.0))
    # options of one value are one explanation
    merged = pl.col("weight").sum().over("__row__", pl.col("value").log().round(6))
    best = (
        pairs.with_columns(posterior=merged / pl.col("weight").sum().over("__row__"))
        .sort("__row__", "posterior", "standard", descending=[False, True, True], nulls_last=True)
        .unique("__row__", keep="first", maintain_order=True)
        .filter(
            (pl.col("posterior") >= pl.when("missing").then(ASSUME_FROM).otherwise(CONTRADICT_FROM)) & ~pl.col("is_stated")
        )
        .filter(pl.col("distance").abs() <= pl.when("missing").then(_CLOSE).otherwise(_CLOSER))
    )
    return best.select(
        *GROUP, *_DEVICE, "alone", evidence_unit="option_unit", evidence_confidence="posterior", evidence_rows="n",
        evidence_missing="missing",
    )  # fmt: skip


def with_evidence(frame: pl.LazyFrame, evidence: pl.DataFrame | None) -> pl.LazyFrame:
    """The frame with EVIDENCE_FIELDS, row for row in the same order; null where a row's group decides nothing."""
    if evidence is None or evidence.is_empty():
        return frame.with_columns([pl.lit(None, dtype).alias(name) for name, dtype in EVIDENCE_FIELDS.items()])
    keys = [*GROUP, *_DEVICE]
    return frame.join(evidence.lazy(), on=keys, how="left", nulls_equal=True, maintain_order="left")
