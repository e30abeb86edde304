"""What the laboratory can measure: analytes with their distributions, orders (panels), and device types.

Facts only, no drawing. Medians and spreads are those of a mixed hospital and outpatient population; allowable error is
the CLIA 2025 limit. Local codes are the laboratory's own: LOINC codes and unit conversion are the platform's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Analyte:
    """A numeric analyte.

    ``between`` and ``within`` are the SDs between people and from visit to visit, as a share of the median on the log
    scale when ``log`` is set, else in units. ``tea_share`` and ``tea_unit`` give the allowable error (the greater counts).
    ``molar`` converts to ``molar_unit``; ``factor`` is the factor on the shared patient factor (``factor_name``).
    """

    code: str
    unit: str
    decimals: int
    median: float
    between: float
    within: float
    low: float
    high: float
    log: bool
    factor_name: str
    factor: float
    tea_share: float
    tea_unit: float
    specimen: str
    molar: float = 0.0
    molar_unit: str = ""
    male: float = 1.0


_S, _B = "SERUM", "WHOLE BLOOD"
#: Factors of a patient that analytes share, so that results of a person agree with each other.
PATIENT_FACTORS = ("metabolic", "renal", "liver", "blood", "other")

NUMERIC: tuple[Analyte, ...] = (
    Analyte("GLU", "mg/dL", 0, 98, 0.14, 0.12, 15, 900, True, "metabolic", 1.0, 0.08, 6, "PLASMA", 0.05551, "mmol/L"),
    Analyte(
        "GLU_MMOL", "mmol/L", 1, 5.44, 0.14, 0.12, 0.8, 50, True, "metabolic", 1.0, 0.08, 0.33, "PLASMA", 18.015, "mg/dL"
    ),
    Analyte("HBA1C", "%", 1, 5.7, 0.11, 0.03, 3.5, 17, True, "metabolic", 1.0, 0.08, 0, _B),
    Analyte("CHOL", "mg/dL", 0, 190, 0.18, 0.06, 60, 600, True, "metabolic", 0.4, 0.10, 0, _S, 0.02586, "mmol/L"),
    Analyte("TRIG", "mg/dL", 0, 118, 0.42, 0.20, 20, 3000, True, "metabolic", 0.6, 0.15, 0, _S, 0.01129, "mmol/L"),
    Analyte("HDL", "mg/dL", 0, 53, 0.24, 0.07, 10, 140, True, "metabolic", -0.5, 0.20, 6, _S, 0.02586, "mmol/L", 0.86),
    Analyte("LDL", "mg/dL", 0, 112, 0.28, 0.08, 20, 400, True, "metabolic", 0.3, 0.20, 0, _S, 0.02586, "mmol/L"),
    Analyte("CREAT", "mg/dL", 2, 0.86, 0.26, 0.07, 0.2, 18, True, "renal", 1.0, 0.10, 0.2, _S, 88.4, "umol/L", 1.2),
    Analyte("BUN", "mg/dL", 0, 15, 0.30, 0.14, 2, 180, True, "renal", 0.9, 0.09, 2, _S, 0.357, "mmol/L"),
    Analyte("NA", "mmol/L", 0, 139.5, 1.6, 1.6, 105, 175, False, "renal", -0.3, 0, 4, _S),
    Analyte("K", "mmol/L", 1, 4.2, 0.22, 0.24, 1.8, 8.5, False, "renal", 0.6, 0, 0.3, _S),
    Analyte("CL", "mmol/L", 0, 103, 1.8, 1.7, 70, 135, False, "renal", 0.2, 0.05, 0, _S),
    Analyte("CA", "mg/dL", 1, 9.4, 0.25, 0.25, 5, 15, False, "other", 0.3, 0, 1.0, _S, 0.2495, "mmol/L"),
    Analyte("ALB", "g/dL", 1, 4.2, 0.28, 0.18, 1.2, 5.8, False, "liver", -0.7, 0.08, 0, _S, 10, "g/L"),
    Analyte("TP", "g/dL", 1, 7.0, 0.35, 0.25, 3, 11, False, "liver", -0.2, 0.08, 0, _S, 10, "g/L"),
    Analyte("ALP", "U/L", 0, 72, 0.30, 0.08, 10, 1500, True, "liver", 0.7, 0.20, 0, _S, 0.01667, "ukat/L"),
    Analyte("ALT", "U/L", 0, 23, 0.45, 0.18, 4, 4000, True, "liver", 1.0, 0.15, 6, _S, 0.01667, "ukat/L", 1.2),
    Analyte("AST", "U/L", 0, 24, 0.35, 0.15, 5, 4000, True, "liver", 1.0, 0.15, 6, _S, 0.01667, "ukat/L", 1.1),
    Analyte("TBIL", "mg/dL", 1, 0.6, 0.38, 0.18, 0.1, 30, True, "liver", 0.8, 0.20, 0.4, _S, 17.1, "umol/L", 1.1),
    Analyte("WBC", "10*3/uL", 1, 6.9, 0.24, 0.14, 0.3, 120, True, "other", 0.5, 0.10, 0, _B, 1.0, "10*9/L"),
    Analyte("RBC", "10*6/uL", 2, 4.6, 0.36, 0.14, 1.5, 7.5, False, "blood", 0.9, 0.04, 0, _B, 1.0, "10*12/L", 1.06),
    Analyte("HGB", "g/dL", 1, 13.7, 1.1, 0.4, 4, 21, False, "blood", 1.0, 0.04, 0, _B, 10, "g/L", 1.08),
    Analyte("HCT", "%", 1, 41, 3.2, 1.2, 12, 62, False, "blood", 1.0, 0.04, 0, _B, 0.01, "L/L", 1.07),
    Analyte("PLT", "10*3/uL", 0, 245, 0.24, 0.10, 5, 1400, True, "other", 0.3, 0.25, 0, _B, 1.0, "10*9/L"),
    Analyte("TSH", "mIU/L", 2, 1.7, 0.50, 0.22, 0.01, 100, True, "other", 0.1, 0.20, 0.2, _S),
)


@dataclass(frozen=True)
class Pathogen:
    """A pathogen test. Seasonal prevalence is ``base`` plus a winter wave of ``peak`` at ``peak_day`` of the year."""

    code: str
    base: float
    peak: float
    peak_day: int
    wave_days: float
    specimen: str
    infectious: bool  # takes part in planted outbreaks


PATHOGENS: tuple[Pathogen, ...] = (
    Pathogen("SARS2", 0.035, 0.13, 350, 38, "NASOPHARYNGEAL SWAB", True),
    Pathogen("FLUA", 0.006, 0.20, 33, 26, "NASOPHARYNGEAL SWAB", True),
    Pathogen("FLUB", 0.004, 0.08, 68, 30, "NASOPHARYNGEAL SWAB", True),
    Pathogen("RSV", 0.005, 0.11, 355, 28, "NASOPHARYNGEAL SWAB", True),
    Pathogen("HBSAG", 0.008, 0.0, 1, 30, _S, False),
    Pathogen("HCVAB", 0.012, 0.0, 1, 30, _S, False),
)

CODES: tuple[str, ...] = tuple(a.code for a in NUMERIC) + tuple(p.code for p in PATHOGENS)
N_NUMERIC = len(NUMERIC)
#: Allowable error at the median, in the analyte's unit; 1.0 for pathogens.
TEA = np.array([max(a.tea_share * a.median, a.tea_unit) for a in NUMERIC] + [1.0] * len(PATHOGENS))
#: Analytical SD of a healthy device at the median, a quarter of the allowable error or less.
ANALYTICAL_SD = TEA * 0.22


@dataclass(frozen=True)
class DeviceType:
    """A kind of analyser: its share of the fleet, its in-lab hours for a routine order, and what its controls cover."""

    name: str
    prefix: str
    models: tuple[str, str]
    share: float
    in_lab_hours: float
    qc_codes: tuple[str, ...]
    qc_levels: int


DEVICE_TYPES: tuple[DeviceType, ...] = (
    DeviceType("CHEMISTRY", "CHEM", ("Claritas C500", "Veritas AU-8"), 0.40, 1.1, ("GLU", "K", "CREAT", "ALT"), 2),
    DeviceType("HEMATOLOGY", "HEME", ("Sanguis XN-2", "Sanguis XN-9"), 0.22, 0.6, ("WBC", "HGB", "PLT"), 3),
    DeviceType("MOLECULAR", "MOL", ("Helix PCR-48", "Helix PCR-96"), 0.15, 3.5, ("SARS2", "FLUA"), 2),
    DeviceType("IMMUNOASSAY", "IMM", ("Lumina I-1000", "Lumina I-2000"), 0.15, 1.8, ("TSH", "HBSAG", "HCVAB"), 2),
    DeviceType("HPLC", "HPLC", ("Glyco G8", "Glyco G11"), 0.08, 2.4, ("HBA1C",), 2),
)


@dataclass(frozen=True)
class Panel:
    """An order: the analytes measured from one specimen on one device, and its share of all orders."""

    name: str
    codes: tuple[str, ...]
    device_type: str
    share: float
    tube: str


PANELS: tuple[Panel, ...] = (
    Panel("BMP", ("GLU", "CREAT", "BUN", "NA", "K", "CL", "CA"), "CHEMISTRY", 0.24, _S),
    Panel("LFT", ("ALB", "TP", "ALP", "ALT", "AST", "TBIL"), "CHEMISTRY", 0.10, _S),
    Panel("LIPID", ("CHOL", "TRIG", "HDL", "LDL"), "CHEMISTRY", 0.09, _S),
    Panel("GLU", ("GLU",), "CHEMISTRY", 0.09, "PLASMA"),
    Panel("CBC", ("WBC", "RBC", "HGB", "HCT", "PLT"), "HEMATOLOGY", 0.22, _B),
    Panel("RESP", ("SARS2", "FLUA", "FLUB", "RSV"), "MOLECULAR", 0.13, "NASOPHARYNGEAL SWAB"),
    Panel("TSH", ("TSH",), "IMMUNOASSAY", 0.05, _S),
    Panel("HEP", ("HBSAG", "HCVAB"), "IMMUNOASSAY", 0.03, _S),
    Panel("HBA1C", ("HBA1C",), "HPLC", 0.05, _B),
)
PANEL_SIZE = np.array([len(p.codes) for p in PANELS])
RESPIRATORY = next(i for i, p in enumerate(PANELS) if p.name == "RESP")
TYPE_OF_PANEL = np.array([[t.name for t in DEVICE_TYPES].index(p.device_type) for p in PANELS])
#: (panels, longest panel) analyte indices, padded with 0.
PANEL_CODES = np.array([[CODES.index(c) for c in p.codes] + [0] * (PANEL_SIZE.max() - len(p.codes)) for p in PANELS])

SPECIMENS: tuple[str, ...] = ("SERUM", "PLASMA", "WHOLE BLOOD", "NASOPHARYNGEAL SWAB")
PRIORITIES = ("ROUTINE", "STAT")
LOCATIONS = ("outpatient", "inpatient", "emergency", "intensive care")
AGE_BANDS = ("0-17", "18-44", "45-64", "65-79", "80+")
AGE_EDGES = (18, 45, 65, 80)
POSITIVE, NEGATIVE = "POSITIVE", "NEGATIVE"
#: Control targets per level as a multiple of the median; pathogen controls are Ct values (RNA) or signal to cut-off.
QC_TARGETS = np.array([1.0, 1.7, 0.55])
QC_PATHOGEN_TARGET = {"SARS2": 29.0, "FLUA": 30.5, "FLUB": 30.0, "RSV": 31.0, "HBSAG": 3.2, "HCVAB": 2.8}


def facility_id(index: int) -> str:
    """'FAC-01', …"""
    return f"FAC-{index + 1:02d}"
