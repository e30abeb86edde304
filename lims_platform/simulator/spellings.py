"""The words and spellings dirt is planted with. Here: vocabulary. Not here: which rows get it (``dirt``)."""

from __future__ import annotations

NOT_DONE = ("HEMOLYZED", "QNS", "HOLD", "ERROR", "CLOTTED")
POSITIVE = ("Pos", "DETECTED", "Detected", "POS", "positive", "REACTIVE")
NEGATIVE = ("NOT DETECTED", "NEG.", "Neg", "negative", "Not detected", "NON-REACTIVE")
UNMAPPED = ("GLU-2", "XTRA9", "LACT_OLD", "K_ISTAT", "HB_POC", "CRPX")
UNIT_SPELLINGS: dict[str, tuple[str, ...]] = {
    "mg/dL": ("mg/dl", "MG/DL", "mg / dL"),
    "mmol/L": ("mmol/l", "MMOL/L", "mM"),
    "g/dL": ("g/dl", "G/DL", "gm/dL"),
    "10*3/uL": ("K/uL", "x10^3/uL", "10^3/uL"),
    "10*6/uL": ("M/uL", "x10^6/uL", "10^6/uL"),
    "U/L": ("u/l", "IU/L", "U/l"),
    "%": ("percent", "PERCENT", " %"),
    "mIU/L": ("uIU/mL", "mU/L", "MIU/L"),
}
COMMENTS = (
    "sample of patient {} clotted",
    "see earlier report of {}",
    "called to ward for patient {}, repeat requested",
)
