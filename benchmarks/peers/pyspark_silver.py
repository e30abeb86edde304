"""The standardisation of lab results in PySpark: what a Spark shop would write, as the peer of silver/lab_results_history.

Runs in an environment of its own (``pip install pyspark``; Java) and knows nothing of the platform. Reads bronze's Parquet
files, joins the tables ``scale.py`` resolved (words, codes and units, critical limits), parses the values, writes Parquet
(zstd) by day. In: number formats of one locale, comparators as signs and words, ranges, titres, coded words, instrument
errors, map of codes and units by join, plausibility, critical limits, turnaround. Left out: versions and knowledge times,
unit evidence, traps, proposals and their confidence, units read from the text, the rest of the grammar (dates that were
ranges, two readings of one number, organisms, several locales), the quarantine's words, the commit to a Delta log.

Run: python pyspark_silver.py BRONZE_FILES.json LOOKUPS_DIR TARGET
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F  # noqa: N812

NUMBER = r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
PLAIN = r"^[+-]?[0-9]+(?:\.[0-9]+)?$"
#: Flag, sign, number, second number, tail: the shape of a numeric result.
SHAPE = rf"^(?:[HL*!] )?(SIGNS)? ?({NUMBER})(?: ?(?:-|TO) ?({NUMBER}))? ?(?:[A-Z%#/°µμ\[{{(][^<>]{{0,40}})?$"
TITRE = r"^1 ?[:/] ?([0-9]{1,7})$"
HELPERS = ("clean", "word_kind", "factor", "offset", "low", "high", "unit_problem", "critical_low", "critical_high")
HELPERS += ("g_sign", "g_first", "g_second", "std_loinc")
SENTINEL = r"^[+-]?(?:-?9{3,}(?:\.9+)?|-99|-888|-777)$"


def number(text: Column) -> Column:
    """A decimal point, commas between thousands; null where there is no digit."""
    return F.when(text.rlike("[0-9]"), F.regexp_replace(text, ",", "").cast("double"))


def hours(end: Column, start: Column) -> Column:
    """Hours between two times, by microseconds."""
    return (F.unix_micros(end) - F.unix_micros(start)) / F.lit(3.6e9)


def silver(spark: SparkSession, files: list[str], base: str, lookups: str):
    """Every bronze row with its standardised columns, lazy."""
    names = ("words", "signs", "tests", "limits")
    words, signs, tests, limits = (spark.read.parquet(f"{lookups}/{name}.parquet") for name in names)
    before = {row.text: row.comparator for row in signs.collect()}
    pattern = SHAPE.replace("SIGNS", "|".join(f"\\Q{text}\\E" for text in sorted(before, key=len, reverse=True)))
    sign = F.create_map(*[F.lit(part) for pair in before.items() for part in pair])
    rows = spark.read.option("basePath", base).parquet(*files).withColumnRenamed("loinc_code", "reported_loinc")
    rows = rows.withColumn("clean", F.upper(F.trim(F.regexp_replace("result_value", r"\s+", " "))))
    rows = rows.withColumn("date_event", F.col("event_date")).join(F.broadcast(words), "clean", "left")
    keys = ["source", "test_code", "specimen_type", "result_unit"]
    rows = rows.join(F.broadcast(tests), [rows[k].eqNullSafe(tests[f"key_{k}"]) for k in keys], "left")
    place = ["std_loinc", "age_band", "location_class"]
    rows = rows.join(F.broadcast(limits), [rows[k].eqNullSafe(limits[f"limit_{k}"]) for k in place], "left")
    # nine results in ten are plain numbers: the long expression is for the others
    plain = F.col("clean").rlike(PLAIN)
    groups = [F.when(~plain, F.regexp_extract("clean", pattern, n)) for n in range(1, 4)]
    rows = rows.withColumns(
        {"g_sign": groups[0], "g_first": F.when(plain, F.col("clean")).otherwise(groups[1]), "g_second": groups[2]}
    )
    first, second, titre = number(F.col("g_first")), number(F.col("g_second")), F.regexp_extract("clean", TITRE, 1)
    comparator = sign[F.col("g_sign")]
    kind = (
        F.when(F.col("clean").isNull() | (F.col("clean") == ""), "missing")
        .when(F.col("word_kind").isNotNull(), F.col("word_kind"))
        .when(titre != "", "titre")
        .when(first.isNotNull() & second.isNull() & F.col("g_first").rlike(SENTINEL), "instrument_error")
        .when(first.isNotNull() & second.isNotNull(), F.when(first <= second, "range").otherwise("ambiguous"))
        .when(first.isNotNull() & comparator.isNotNull(), "censored")
        .when(first.isNotNull(), "number")
        .otherwise("unreadable")
    )
    rows = rows.withColumn("value_kind", kind).withColumn("comparator", comparator)
    counted = F.col("value_kind").isin("number", "censored", "range")
    scaled = lambda x: F.when(counted, x * F.coalesce("factor", F.lit(1.0)) + F.coalesce("offset", F.lit(0.0)))  # noqa: E731
    denominator = F.when(F.col("value_kind") == "titre", titre.cast("double"))
    rows = rows.withColumns({"value_number": F.coalesce(denominator, scaled(first)), "value_upper": scaled(second)})
    x = F.col("value_number")
    reason = (
        F.when(~F.col("value_kind").isin("number", "censored", "range", "titre", "ordinal", "coded"), F.col("value_kind"))
        .when(F.col("loinc_code").isNull(), "unmapped_code")
        .when(counted & F.col("unit_problem").isNotNull(), F.col("unit_problem"))
        .when(counted & ((x < F.col("low")) | (x > F.col("high"))), "implausible_value")
        .when(F.col("result_status") == "X", "cancelled")
    )
    done = F.coalesce("verified_timestamp", "resulted_timestamp")
    turnaround = hours(F.col("resulted_timestamp"), F.col("collected_timestamp"))
    late = F.when(turnaround < 0, "negative_turnaround")
    flags = F.concat_ws(";", "time_flag", late, F.when(F.col("collected_timestamp").isNull(), "missing_collected"))
    critical = counted & ((x < F.col("critical_low")) | (x > F.col("critical_high")))
    return rows.withColumns(
        {
            "reason": reason,
            "is_critical": F.coalesce(critical, F.lit(False)),
            "time_flag": flags,
            "turnaround_time_hours": turnaround,
            "pre_analytical_hours": hours(F.col("received_timestamp"), F.col("collected_timestamp")),
            "in_lab_hours": hours(done, F.col("received_timestamp")),
        }
    ).drop(*HELPERS, *[f"key_{k}" for k in keys], *[f"limit_{k}" for k in place])


def main() -> None:
    """Print the seconds from session to last file, the JVM's start left out."""
    files, lookups, target = sys.argv[1:]
    given = json.loads(Path(files).read_text())
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "6g")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    begin = time.perf_counter()
    silver(spark, given["files"], given["base"], lookups).write.mode("overwrite").partitionBy("date_event").parquet(target)
    print(json.dumps({"seconds": time.perf_counter() - begin}))
    spark.stop()


if __name__ == "__main__":
    main()
