"""The reference tables a laboratory edits (data/reference/*.csv): their columns, and the bundle the science reads.

Here: what each table means, its columns, its key. Not here: reading the files (``lakehouse.reference``) or using them
(``laboratory.values``, ``units``, ``terminology``, ``limits``).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

#: Conditions an alert rule may name (``alerting.conditions`` tests them).
ALERT_CONDITIONS = (
    "device_drift", "device_risk", "outbreak", "qc_rejection", "critical_result", "corrected_report", "data_drift",
    "qc_fail_rate", "patient_qc", "critical_sample", "pipeline_failure", "api_latency", "freshness",
)  # fmt: skip

#: In a key column of the LOINC map, the conversions and the limits: any value, or none.
ANY = "*"
#: Families of what is measured on no specimen, or on any: a temperature sent with a blood gas, a specimen's own kind.
NO_SPECIMEN = ("patient", "any")


@dataclass(frozen=True)
class ReferenceColumn:
    """One CSV column. ``required`` cells may not be empty; ``allowed`` lists the only values a cell may hold."""

    name: str
    dtype: pl.DataType
    description: str
    required: bool = False
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferenceTable:
    """One CSV file. ``key`` is unique; ``refers`` maps a column to the (table, column) its values must exist in."""

    name: str
    description: str
    key: tuple[str, ...]
    columns: tuple[ReferenceColumn, ...]
    refers: tuple[tuple[str, str, str], ...] = ()
    #: Whether its content changes how a result is standardised: only such tables enter the digest.
    standardises: bool = True

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Column name to polars dtype, in file order."""
        return {c.name: c.dtype for c in self.columns}


@dataclass(frozen=True)
class Reference:
    """Every reference table as a frame of its schema, and the digest that names this state of them.

    ``digest`` is the SHA-256 of the bytes of the files that standardise (names included, extra LOINC maps too): two runs
    with the same digest standardised alike.
    """

    analytes: pl.DataFrame
    loinc_map: pl.DataFrame
    loinc_equivalents: pl.DataFrame
    specimens: pl.DataFrame
    units: pl.DataFrame
    unit_aliases: pl.DataFrame
    unit_conversions: pl.DataFrame
    unit_traps: pl.DataFrame
    value_codes: pl.DataFrame
    comparator_words: pl.DataFrame
    critical_limits: pl.DataFrame
    sigma_rules: pl.DataFrame
    alert_rules: pl.DataFrame
    drift_limits: pl.DataFrame
    sample_limits: pl.DataFrame
    digest: str


def _text(name: str, description: str, *, required: bool = False, allowed: tuple[str, ...] = ()) -> ReferenceColumn:
    return ReferenceColumn(name, pl.String(), description, required, allowed)


def _number(name: str, description: str, *, required: bool = False) -> ReferenceColumn:
    return ReferenceColumn(name, pl.Float64(), description, required)


ANALYTES = ReferenceTable(
    "analytes",
    "What the platform standardises: one row per LOINC code, with its standard unit and its limits",
    ("loinc_code",),
    (
        _text("loinc_code", "LOINC code of the standardised result", required=True),
        _text("analyte", "Name people read", required=True),
        _text("component", "What is measured, the same for all specimens and methods", required=True),
        _text("specimen", "Specimen the code is for, as in specimens.csv", required=True),
        _text(
            "scale",
            "Qn a number; OrdQn a number, a code or a rank; Ord a code or a rank; Nom a code",
            required=True,
            allowed=("Qn", "OrdQn", "Ord", "Nom"),
        ),
        _text("unit", "Standard unit, UCUM; empty where there is no number"),
        _text("unit_kind", "Kind of quantity, as in units.csv", required=True),
        _number("molar_factor", "A value in the standard unit times this is the value in molar_unit"),
        _text("molar_unit", "The unit on the other side of mass and amount of substance"),
        _text("molar_source", "Where the factor is from"),
        _number("valence", "Equivalents per mole, for mEq/L"),
        _number("plausible_low", "Below this no living patient's result lies, in the standard unit"),
        _number("plausible_high", "Above this no living patient's result lies"),
        _number("reference_low", "Adult reference interval, low"),
        _number("reference_high", "Adult reference interval, high"),
        _number("tea_percent", "Allowable total error, percent; the greater of the two counts"),
        _number("tea_absolute", "Allowable total error, in the standard unit"),
        _text("tea_source", "Who allows it"),
        _text("decision_limits", "Limits a treatment depends on, joined by ';'"),
        _text(
            "alternative_units", "Other units laboratories report, joined by ';': candidates when a unit is absent or wrong"
        ),
        ReferenceColumn(
            "takes_part_in_outbreak_alarms", pl.Boolean(), "Incidence test: positives may be an outbreak", required=True
        ),
        _text("target", "Organism, as the target codes of value_codes.csv"),
    ),
    (("unit", "units", "unit"), ("molar_unit", "units", "unit"), ("specimen", "specimens", "specimen")),
)

LOINC_MAP = ReferenceTable(
    "loinc_map",
    "Local code to LOINC; '*' is any value or none; the most specific row of the most specific source wins",
    ("source", "local_code", "specimen_type", "method_or_model", "unit_kind", "valid_from"),
    (
        _text("source", "Source of sources.yaml, or *", required=True),
        _text("local_code", "The laboratory's test code; case and outer spaces do not matter", required=True),
        _text("specimen_type", "Specimen as in specimens.csv or as the source writes it, or *", required=True),
        _text("method_or_model", "Method or device model, or *", required=True),
        _text("unit_kind", "Kind of the reported unit, as in units.csv, or *", required=True),
        _text("loinc_code", "LOINC code the result becomes", required=True),
        _text("source_loinc", "LOINC code of what the source reports, where it differs"),
        ReferenceColumn("valid_from", pl.Date(), "First day the row holds; empty: always"),
        ReferenceColumn("valid_to", pl.Date(), "Last day the row holds; empty: still"),
    ),
)

LOINC_EQUIVALENTS = ReferenceTable(
    "loinc_equivalents",
    "A source's own LOINC code that is standardised to another: other unit, other method, or a known slip of dictionaries",
    ("source_loinc", "unit_kind"),
    (
        _text("source_loinc", "LOINC code as the source gives it", required=True),
        _text("unit_kind", "Kind of the reported unit this holds for, or *", required=True),
        _text("loinc_code", "LOINC code the result becomes", required=True),
        _text("default_unit", "Unit the source code itself implies when none is written"),
        _text("note", "Why", required=True),
    ),
    (("loinc_code", "analytes", "loinc_code"), ("default_unit", "units", "unit")),
)

SPECIMENS = ReferenceTable(
    "specimens",
    "Spellings of specimen types. Specimens of one family may stand for each other where the map does not tell them apart",
    ("alias",),
    (
        _text("alias", "As sources write it, upper case", required=True),
        _text("specimen", "The platform's name", required=True),
        _text("family", "blood, urine, csf, respiratory, …", required=True),
    ),
)

UNITS = ReferenceTable(
    "units",
    "Units in UCUM spelling and their size within their kind",
    ("unit",),
    (
        _text("unit", "UCUM", required=True),
        _text("unit_kind", "Kind of quantity; only units of one kind convert by factor alone", required=True),
        _number("factor", "Size in the kind's base unit", required=True),
    ),
)

UNIT_ALIASES = ReferenceTable(
    "unit_aliases",
    "Spellings of units. IU and U are never the same here",
    ("alias", "analyte_kind", "match"),
    (
        _text("alias", "As written: exact, or folded (lower case, no spaces, u for micro, 10*n for powers)", required=True),
        _text("unit", "UCUM", required=True),
        _text("analyte_kind", "Only for analytes of this unit kind, or *", required=True),
        _text("match", "exact or folded", required=True, allowed=("exact", "folded")),
    ),
    (("unit", "units", "unit"),),
)

UNIT_CONVERSIONS = ReferenceTable(
    "unit_conversions",
    "Conversions that follow from no general rule: standard value = factor x value + offset",
    ("loinc_code", "source_loinc", "from_unit"),
    (
        _text("loinc_code", "Standardised analyte", required=True),
        _text("source_loinc", "Only for results the source reports under this LOINC code, or *", required=True),
        _text("from_unit", "UCUM", required=True),
        _number("factor", "Multiplier", required=True),
        _number("offset", "Added after multiplying", required=True),
        _text("note", "Where it is from", required=True),
    ),
    (("loinc_code", "analytes", "loinc_code"), ("from_unit", "units", "unit")),
)

UNIT_TRAPS = ReferenceTable(
    "unit_traps",
    "Pairs of analyte and unit known to mislead: such a result goes to quarantine, whatever the arithmetic allows",
    ("loinc_code", "from_unit"),
    (
        _text("loinc_code", "Analyte the code says", required=True),
        _text("from_unit", "Unit as reported, UCUM", required=True),
        _number("value_low", "Only from this value on, in the standard unit; both empty: every value"),
        _number("value_high", "Only up to this value, in the standard unit"),
        _text("proposal", "What would be right", required=True),
        _text("note", "Why", required=True),
    ),
    (("loinc_code", "analytes", "loinc_code"), ("from_unit", "units", "unit")),
)

VALUE_CODES = ReferenceTable(
    "value_codes",
    "Words that are results, in the laboratory's languages; accents do not matter",
    ("text", "match"),
    (
        _text("text", "As written; case, accents and underscores do not matter", required=True),
        _text(
            "match",
            "exact: the whole text; contains: anywhere in a text that is nothing else; target: an organism beside a code; "
            "behind: a remark behind a number that leaves it as it is",
            required=True,
            allowed=("exact", "contains", "target", "behind"),
        ),
        _text(
            "kind",
            "What the text is",
            required=True,
            allowed=("coded", "ordinal", "not_done", "instrument_error", "missing", "target", "remark"),
        ),
        _text("code", "Code of a coded or ordinal result, or of a target"),
        _number("rank", "Rank of an ordinal result"),
        _text("language", "ISO 639-1", required=True),
    ),
)

COMPARATOR_WORDS = ReferenceTable(
    "comparator_words",
    "Signs and words that censor the number beside them",
    ("text",),
    (
        _text("text", "As written; case and accents do not matter", required=True),
        _text("comparator", "What it means", required=True, allowed=("<", "<=", ">", ">=")),
        _text("place", "Where it stands: before the number or after", required=True, allowed=("before", "after")),
        _text("language", "ISO 639-1, or symbol", required=True),
    ),
)

CRITICAL_LIMITS = ReferenceTable(
    "critical_limits",
    "Results a clinician must hear of at once: strictly below low or strictly above high",
    ("loinc_code", "age_band", "location"),
    (
        _text("loinc_code", "Analyte", required=True),
        _text(
            "age_band",
            "neonate, infant, child, adult, or *",
            required=True,
            allowed=("neonate", "infant", "child", "adult", ANY),
        ),
        _text("location", "location_class of the result, or *", required=True),
        _number("low", "In the standard unit; empty: none"),
        _number("high", "In the standard unit; empty: none"),
    ),
    (("loinc_code", "analytes", "loinc_code"),),
)

SIGMA_RULES = ReferenceTable(
    "sigma_rules",
    "Quality control by sigma: which Westgard rules, controls a run and patients between runs are enough",
    ("sigma_from",),
    (
        _number("sigma_from", "From this sigma on, up to the next row's", required=True),
        _text("rules", "Westgard rules joined by ';'", required=True),
        _number("controls_per_run", "Control measurements a run needs", required=True),
        _number("run_size", "Patient results between two runs of controls", required=True),
    ),
    standardises=False,
)

ALERT_RULES = ReferenceTable(
    "alert_rules",
    "What the platform tells people of, how gravely, by which channels and how often; docs/alerts.md explains them",
    ("rule",),
    (
        _text("rule", "Name of the rule", required=True),
        _text("condition", "What is tested, one of the platform's conditions", required=True, allowed=ALERT_CONDITIONS),
        ReferenceColumn("enabled", pl.Boolean(), "false: not evaluated, its open alerts are resolved", required=True),
        _text("severity", "How grave", required=True, allowed=("LOW", "MEDIUM", "HIGH", "CRITICAL")),
        _text("channels", "Names of LIMS_ALERT_TARGETS joined by ';'; log is the platform's own log", required=True),
        _number("limit", "The condition's limit, in its own unit (score, minutes, percent, ms, hours)"),
        _number("below", "Fires only below this: a graver rule takes over there"),
        _number("least", "Fewest items that count (tests, control runs, days in alarm)"),
        _text("among", "Alert levels, verdicts or control rules that count, joined by ';'"),
        _number("window_hours", "How far back evidence counts"),
        _number("cooldown_hours", "No second notification of one subject within this time; 0: none", required=True),
        _text(
            "closes",
            "when_gone: as soon as the condition no longer holds; when_acknowledged: not before a person has seen it",
            required=True,
            allowed=("when_gone", "when_acknowledged"),
        ),
        _text("title", "What people read first", required=True),
        _text("action", "What to do", required=True),
    ),
    standardises=False,
)

DRIFT_LIMITS = ReferenceTable(
    "drift_limits",
    "What the laboratory chooses about drift alarms: false-alarm rates, effect floors, spans of days",
    ("name",),
    (
        _text("name", "Name of the limit", required=True),
        _number("value", "Its value; rates and shares as fractions", required=True),
        _text("unit", "Unit of the value", required=True),
        _text("meaning", "What it does", required=True),
    ),
    standardises=False,
)

SAMPLE_LIMITS = ReferenceTable(
    "sample_limits",
    "Measurements of batch samples: what a sensor can say, what is expected of it, and what is critical",
    ("measurement",),
    (
        _text(
            "measurement",
            "Column of batch_results",
            required=True,
            allowed=(
                "ph_level",
                "storage_temp_c",
                "dissolved_oxygen_ppm",
                "turbidity_ntu",
                "processing_time_hours",
            ),
        ),
        _text("label", "What people read", required=True),
        _text("unit", "Unit; empty where there is none"),
        _number("physical_low", "Below this no sample can be: the sensor failed", required=True),
        _number("physical_high", "Above this no sample can be", required=True),
        _number("expected_low", "Expected in normal operation from this value on; both empty: not watched"),
        _number("expected_high", "Expected in normal operation up to this value"),
        _number("critical_low", "A measurement below it is critical whatever its batch looks like; empty: none"),
        _number("critical_high", "A measurement above it is critical; empty: none"),
        _number("resolution", "Smallest difference that means anything; a batch's spread counts as no less", required=True),
        _text(
            "scale",
            "cube_root where values pile up near zero with a long tail (Wilson and Hilferty 1931), else linear",
            required=True,
            allowed=("linear", "cube_root"),
        ),
        _text("fault_codes", "Numbers the sensor or logger writes instead of a measurement, joined by ';'"),
    ),
    standardises=False,  # sample_measurements carries a digest of its own
)

REFERENCE_TABLES: dict[str, ReferenceTable] = {
    t.name: t
    for t in (
        ANALYTES,
        LOINC_MAP,
        LOINC_EQUIVALENTS,
        SPECIMENS,
        UNITS,
        UNIT_ALIASES,
        UNIT_CONVERSIONS,
        UNIT_TRAPS,
        VALUE_CODES,
        COMPARATOR_WORDS,
        CRITICAL_LIMITS,
        SIGMA_RULES,
        ALERT_RULES,
        DRIFT_LIMITS,
        SAMPLE_LIMITS,
    )
}
