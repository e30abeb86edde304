"""Reference tables that say what a result means: analytes, codes, units, words, limits. They enter the reference digest.

Here: columns, keys and meaning of each. Not here: tables that only watch or alert (``reference_watch``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference_table import ANY, ReferenceColumn, ReferenceTable, number, text

ANALYTES = ReferenceTable(
    "analytes",
    "What the platform standardises: one row per LOINC code, with its standard unit and its limits",
    ("loinc_code",),
    (
        text("loinc_code", "LOINC code of the standardised result", required=True),
        text("analyte", "Name people read", required=True),
        text("component", "What is measured, the same for all specimens and methods", required=True),
        text("specimen", "Specimen the code is for, as in specimens.csv", required=True),
        text(
            "scale",
            "Qn a number; OrdQn a number, a code or a rank; Ord a code or a rank; Nom a code",
            required=True,
            allowed=("Qn", "OrdQn", "Ord", "Nom"),
        ),
        text("unit", "Standard unit, UCUM; empty where there is no number"),
        text("unit_kind", "Kind of quantity, as in units.csv", required=True),
        number("molar_factor", "A value in the standard unit times this is the value in molar_unit"),
        text("molar_unit", "The unit on the other side of mass and amount of substance"),
        text("molar_source", "Where the factor is from"),
        number("valence", "Equivalents per mole, for mEq/L"),
        number("plausible_low", "Below this no living patient's result lies, in the standard unit"),
        number("plausible_high", "Above this no living patient's result lies"),
        number("reference_low", "Adult reference interval, low"),
        number("reference_high", "Adult reference interval, high"),
        number("tea_percent", "Allowable total error, percent; the greater of the two counts"),
        number("tea_absolute", "Allowable total error, in the standard unit"),
        text("tea_source", "Who allows it"),
        text("decision_limits", "Limits a treatment depends on, joined by ';'"),
        text(
            "alternative_units", "Other units laboratories report, joined by ';': candidates when a unit is absent or wrong"
        ),
        ReferenceColumn(
            "takes_part_in_outbreak_alarms", pl.Boolean(), "Incidence test: positives may be an outbreak", required=True
        ),
        text("target", "Organism, as the target codes of value_codes.csv"),
    ),
    (("unit", "units", "unit"), ("molar_unit", "units", "unit"), ("specimen", "specimens", "specimen")),
)

LOINC_MAP = ReferenceTable(
    "loinc_map",
    "Local code to LOINC; '*' is any value or none; the most specific row of the most specific source wins",
    ("source", "local_code", "specimen_type", "method_or_model", "unit_kind", "valid_from"),
    (
        text("source", "Source of sources.yaml, or *", required=True),
        text("local_code", "The laboratory's test code; case and outer spaces do not matter", required=True),
        text("specimen_type", "Specimen as in specimens.csv or as the source writes it, or *", required=True),
        text("method_or_model", "Method or device model, or *", required=True),
        text("unit_kind", "Kind of the reported unit, as in units.csv, or *", required=True),
        text("loinc_code", "LOINC code the result becomes", required=True),
        text("source_loinc", "LOINC code of what the source reports, where it differs"),
        ReferenceColumn("valid_from", pl.Date(), "First day the row holds; empty: always"),
        ReferenceColumn("valid_to", pl.Date(), "Last day the row holds; empty: still"),
    ),
)

LOINC_EQUIVALENTS = ReferenceTable(
    "loinc_equivalents",
    "A source's own LOINC code that is standardised to another: other unit, other method, or a known slip of dictionaries",
    ("source_loinc", "unit_kind"),
    (
        text("source_loinc", "LOINC code as the source gives it", required=True),
        text("unit_kind", "Kind of the reported unit this holds for, or *", required=True),
        text("loinc_code", "LOINC code the result becomes", required=True),
        text("default_unit", "Unit the source code itself implies when none is written"),
        text("note", "Why", required=True),
    ),
    (("loinc_code", "analytes", "loinc_code"), ("default_unit", "units", "unit")),
)

SPECIMENS = ReferenceTable(
    "specimens",
    "Spellings of specimen types. Specimens of one family may stand for each other where the map does not tell them apart",
    ("alias",),
    (
        text("alias", "As sources write it, upper case", required=True),
        text("specimen", "The platform's name", required=True),
        text("family", "blood, urine, csf, respiratory, …", required=True),
    ),
)

UNITS = ReferenceTable(
    "units",
    "Units in UCUM spelling and their size within their kind",
    ("unit",),
    (
        text("unit", "UCUM", required=True),
        text("unit_kind", "Kind of quantity; only units of one kind convert by factor alone", required=True),
        number("factor", "Size in the kind's base unit", required=True),
    ),
)

UNIT_ALIASES = ReferenceTable(
    "unit_aliases",
    "Spellings of units. IU and U are never the same here",
    ("alias", "analyte_kind", "match"),
    (
        text("alias", "As written: exact, or folded (lower case, no spaces, u for micro, 10*n for powers)", required=True),
        text("unit", "UCUM", required=True),
        text("analyte_kind", "Only for analytes of this unit kind, or *", required=True),
        text("match", "exact or folded", required=True, allowed=("exact", "folded")),
    ),
    (("unit", "units", "unit"),),
)

UNIT_CONVERSIONS = ReferenceTable(
    "unit_conversions",
    "Conversions that follow from no general rule: standard value = factor x value + offset",
    ("loinc_code", "source_loinc", "from_unit"),
    (
        text("loinc_code", "Standardised analyte", required=True),
        text("source_loinc", "Only for results the source reports under this LOINC code, or *", required=True),
        text("from_unit", "UCUM", required=True),
        number("factor", "Multiplier", required=True),
        number("offset", "Added after multiplying", required=True),
        text("note", "Where it is from", required=True),
    ),
    (("loinc_code", "analytes", "loinc_code"), ("from_unit", "units", "unit")),
)

UNIT_TRAPS = ReferenceTable(
    "unit_traps",
    "Pairs of analyte and unit known to mislead: such a result goes to quarantine, whatever the arithmetic allows",
    ("loinc_code", "from_unit"),
    (
        text("loinc_code", "Analyte the code says", required=True),
        text("from_unit", "Unit as reported, UCUM", required=True),
        number("value_low", "Only from this value on, in the standard unit; both empty: every value"),
        number("value_high", "Only up to this value, in the standard unit"),
        text("proposal", "What would be right", required=True),
        text("note", "Why", required=True),
    ),
    (("loinc_code", "analytes", "loinc_code"), ("from_unit", "units", "unit")),
)

VALUE_CODES = ReferenceTable(
    "value_codes",
    "Words that are results, in the laboratory's languages; accents do not matter",
    ("text", "match"),
    (
        text("text", "As written; case, accents and underscores do not matter", required=True),
        text(
            "match",
            "exact: the whole text; contains: anywhere in a text that is nothing else; target: an organism beside a code; "
            "behind: a remark behind a number that leaves it as it is",
            required=True,
            allowed=("exact", "contains", "target", "behind"),
        ),
        text(
            "kind",
            "What the text is",
            required=True,
            allowed=("coded", "ordinal", "not_done", "instrument_error", "missing", "target", "remark"),
        ),
        text("code", "Code of a coded or ordinal result, or of a target"),
        number("rank", "Rank of an ordinal result"),
        text("language", "ISO 639-1", required=True),
    ),
)

COMPARATOR_WORDS = ReferenceTable(
    "comparator_words",
    "Signs and words that censor the number beside them",
    ("text",),
    (
        text("text", "As written; case and accents do not matter", required=True),
        text("comparator", "What it means", required=True, allowed=("<", "<=", ">", ">=")),
        text("place", "Where it stands: before the number or after", required=True, allowed=("before", "after")),
        text("language", "ISO 639-1, or symbol", required=True),
    ),
)

CRITICAL_LIMITS = ReferenceTable(
    "critical_limits",
    "Results a clinician must hear of at once: strictly below low or strictly above high",
    ("loinc_code", "age_band", "location"),
    (
        text("loinc_code", "Analyte", required=True),
        text(
            "age_band",
            "neonate, infant, child, adult, or *",
            required=True,
            allowed=("neonate", "infant", "child", "adult", ANY),
        ),
        text("location", "location_class of the result, or *", required=True),
        number("low", "In the standard unit; empty: none"),
        number("high", "In the standard unit; empty: none"),
    ),
    (("loinc_code", "analytes", "loinc_code"),),
)

MEANING = (
    ANALYTES, LOINC_MAP, LOINC_EQUIVALENTS, SPECIMENS, UNITS, UNIT_ALIASES, UNIT_CONVERSIONS, UNIT_TRAPS, VALUE_CODES,
    COMPARATOR_WORDS, CRITICAL_LIMITS,
)  # fmt: skip
