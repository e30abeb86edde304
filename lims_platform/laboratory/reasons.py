"""Why a row waits in quarantine: the platform's list, in the order in which one reason hides the next."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "conflicting_duplicate": "another row of the same key and day won",
    "no_usable_time": "no time of the row says which day it belongs to",
    "outside_partitions": "the row's day lies outside the platform's calendar",
    "missing_key": "result_id or test_code is empty",
    "cancelled": "the source cancelled the result",
    "missing_value": "no result was written",
    "not_done": "the text says the test was not done",
    "instrument_error": "the text is an instrument's error code, not a result",
    "unmapped_code": "the test code has no LOINC code",
    "ambiguous_code": "the test code could be more than one LOINC code",
    "ambiguous_number": "the number can be read in two ways",
    "unreadable_value": "the text is not a result of this test",
    "unit_unknown": "the unit's spelling is not known",
    "unit_not_convertible": "the unit does not convert to the analyte's",
    "unit_contradicts_value": "the value is impossible in its unit and possible in another",
    "unit_missing": "no unit, and the value does not settle which",
    "implausible_value": "no living patient's result",
}
