"""The delimiter grammar, the values and the rows of HL7 v2 messages."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lims_platform.sources.hl7.message import Hl7Error, Message, parse, split_messages, unescape
from lims_platform.sources.hl7.results import COLUMNS, result_rows
from lims_platform.sources.hl7.times import age_band, iso_text, offset_of
from lims_platform.sources.hl7.values import LONGEST_VALUE, MOST_REPETITIONS
from lims_platform_tests.hl7_messages import oru


def rows(message: bytes) -> list[dict[str, str | None]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in result_rows(parse(message))]


def values(kind: str, field: str) -> list[str | None]:
    return [row["result_value"] for row in rows(oru("1", [f"OBX|1|{kind}|T^Test^L||{field}|U|||||F"]))]


@pytest.mark.parametrize(
    ("kind", "field", "expected"),
    [
        ("NM", "4.10", ["4.10"]),
        ("NM", " 7 ", ["7"]),
        ("NM", "1e999", ["1e999"]),
        ("NM", "60~120", ["60", "120"]),
        ("NM", "", [None]),
        ("NM", '""', [None]),
        ("SN", ">^100", [">100"]),
        ("SN", "^182", ["182"]),
        ("SN", "=^5", ["5"]),
        ("SN", "<=^0.5", ["<=0.5"]),
        ("SN", "^10^-^20", ["10-20"]),
        ("SN", "^1^:^128", ["1:128"]),
        ("SN", "^1^/^2", ["1/2"]),
        ("SN", "^2^+", ["2+"]),
        ("SN", "182", ["182"]),
        ("ST", "a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f", ["a|b^c&d~e\\f"]),
        ("ST", "\\XC3A4\\", ["ä"]),
        ("ST", "\\Zfoo\\ \\X1\\", ["\\Zfoo\\ \\X1\\"]),
        ("ST", '"a ""quoted"" text"', ['"a ""quoted"" text"']),
        ("FT", "one\\.br\\two~three", ["one\ntwo\nthree"]),
        ("CWE", "260415000^not detected^SCT^^^^^^None seen", ["not detected"]),
        ("CE", "POS", ["POS"]),
        ("CWE", "^^^^^^^^None seen", ["None seen"]),
    ],
)
def test_values_by_type(kind: str, field: str, expected: list[str | None]) -> None:
    assert values(kind, field) == expected


@pytest.mark.parametrize(
    ("kind", "field", "begins"),
    [
        ("ED", "^application^pdf^Base64^" + "A" * 5000, "[encapsulated ED: "),
        ("RP", "https://pacs/PAT0815", "[encapsulated RP: "),
        ("ST", "x" * (LONGEST_VALUE + 1), "[too long for a result, ST: "),
        ("NM", "~".join("1" * (MOST_REPETITIONS + 1)), "[series of 101 values, NM: "),
    ],
)
def test_content_that_is_no_result_is_marked_and_its_change_shows(kind: str, field: str, begins: str) -> None:
    (value,) = values(kind, field)
    assert value is not None and value.startswith(begins) and "PAT0815" not in value
    assert values(kind, field + "1") != [value]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\n\r"])
def test_line_ends_and_a_bare_line_feed_inside_a_field(end: str) -> None:
    message = oru("1", ["OBX|1|ST|T^Test^L||first\nsecond|U|||||F"]).replace(b"\r", end.encode())
    (row,) = rows(message)
    assert (row["result_value"], row["result_unit"]) == ("first\nsecond", "U")


def test_declared_separators_are_obeyed() -> None:
    message = oru("1", ["OBX|1|SN|T^Test^LN||>^100|mg/dL|||||F"])
    other = message.translate(bytes.maketrans(b"|^~\\&", b"!:;?@"))
    assert rows(other) == [row | {"result_id": str(row["result_id"])} for row in rows(message)]


@pytest.mark.parametrize(
    ("declared", "codec"), [("", "utf-8"), ("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("8859/15", "iso8859-15")]
)
def test_character_sets(declared: str, codec: str) -> None:
    message = oru("1", ["OBX|1|ST|T^Größe^L||µg|U|||||F"], head=f"||||||{declared}").decode().encode(codec)
    assert rows(message)[0]["test_name"] == "Größe"


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (b"", "AR", "does not begin with MSH"),
        (b"\x00\xff" * 50, "AR", "does not begin with MSH"),
        (b"MSH|^~\\&", "AR", "no results"),
        (b"MSH|||||||||||||", "AR", "separators"),
        (b"MSH|^^~&|A|B|C|D|20240101||ORU^R01|1|P|2.5\r", "AR", "separators"),
        (oru("1").replace(b"ORU^R01^ORU_R01", b"ADT^A01"), "AR", "message type ADT^A01 carries no results"),
        (oru(""), "AE", "MSH-10"),
        (oru("1", head="||||||KLINGON"), "AE", "character set"),
        (oru("1").replace(b"JANE", b"J\xff\xfeNE"), "AE", "not utf-8 at byte"),
        (oru("1") + b"\n" * 200_000, "AR", "lines"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(damage: bytes, code: str, says: str) -> None:
    with pytest.raises(Hl7Error) as raised:
        result_rows(parse(damage))
    assert (raised.value.code, says in str(raised.value)) == (code, True)
    assert "DOE" not in str(raised.value)


def test_batch_envelopes_framing_and_rubbish_before_the_first_message() -> None:
    batch = b"FHS|^~\\&\rBHS|^~\\&\r" + oru("1") + oru("2") + b"BTS|2\rFTS|1\r"
    assert [parse(m).head(10) for m in split_messages(batch)] == ["1", "2"]
    framed = b"\xef\xbb\xbf\x0b" + oru("1") + b"\x1c\r\x0b" + oru("2") + b"\x1c\r"
    assert [parse(m).head(10) for m in split_messages(framed)] == ["1", "2"]
    assert [m[:4] for m in split_messages(b"rubbish\r" + oru("1"))] == [b"rubb", b"MSH|"]


def test_a_row_says_what_its_segments_say() -> None:
    obx = (
        "OBX|1|NM|GLU^Glucose^L^2345-7^Glucose^LN|1|5.3|mmol/L^^UCUM||N|||C|||20240401090000||77^Tech^Ann|"
        "|AU5800^SN1|20240401095500+0200"
    )
    spm = "SPM|1|PL9&L^S123&LAB|SER|SER^Serum^HL70487|||||||||||||20240401082000|20240401084500"
    (row,) = rows(oru("1", [obx], more=[spm, "TQ1|1||||||||S"]))
    expected = {
        "result_id": "F100^LIS|GLU|1", "patient_id": "P0000001", "test_code": "GLU", "loinc_code": "2345-7",
        "test_name": "Glucose", "result_value": "5.3", "result_unit": "mmol/L", "device_id": "AU5800",
        "collected_timestamp": "20240401083000", "resulted_timestamp": "20240401095500+0200", "technician_id": "77",
        "result_status": "C", "priority": "STAT", "facility_id": "LAB", "sex": "F",
    }  # fmt: skip
    assert {k: row[k] for k in expected if k not in ("priority",)} == {k: v for k, v in expected.items() if k != "priority"}
    assert row["priority"] == "STAT"


def test_specimens_precede_or_follow_by_message_type() -> None:
    spm, obr = "SPM|1|^{0}||SER", "OBR|1||{0}^LIS|P"
    obx = "OBX|1|NM|T^T^L||1|U|||||F"
    head = "MSH|^~\\&|A|L|||20240401||{0}|1|P|2.5.1"
    after = "\r".join(
        [head.format("ORU^R01"), obr.format("F1"), obx, spm.format("S1"), obr.format("F2"), obx, spm.format("S2")]
    )
    before = "\r".join(
        [head.format("OUL^R22"), spm.format("S1"), obr.format("F1"), obx, spm.format("S2"), obr.format("F2"), obx]
    )
    assert [r["specimen_id"] for r in rows(after.encode())] == ["S1", "S2"]
    assert [r["specimen_id"] for r in rows(before.encode())] == ["S1", "S2"]


@pytest.mark.parametrize(
    ("letter", "status"),
    [("P", "P"), ("F", "F"), ("C", "C"), ("X", "X"), ("D", "X"), ("W", "X"), ("I", "P"), ("R", "P"), ("U", "F"), ("", "F")],
)
def test_status_letters(letter: str, status: str) -> None:
    (row,) = rows(oru("1", [f"OBX|1|NM|GLU^G^L||1|U|||||{letter}"]))
    assert row["result_status"] == status  # an empty OBX-11 takes OBR-25


def test_the_key_outlives_status_and_order_of_segments() -> None:
    first = ["OBX|1|NM|A^A^L||1|U|||||P", "OBX|2|NM|B^B^L||2|U|||||P"]
    second = ["OBX|1|NM|B^B^L||3|U|||||C", "OBX|2|NM|A^A^L||1|U|||||F"]
    keys = [{r["test_code"]: r["result_id"] for r in rows(oru(c, o))} for c, o in (("1", first), ("2", second))]
    assert keys[0] == keys[1]
    assert rows(oru("3", first, order="F101"))[0]["result_id"] != rows(oru("1", first))[0]["result_id"]


def test_repeated_codes_without_a_sub_id_stay_apart() -> None:
    lines = ["OBX|1|TX|COM^C^L||one||||||F", "OBX|2|TX|COM^C^L||two||||||F"]
    assert [r["result_id"] for r in rows(oru("1", lines))] == ["F100^LIS|COM", "F100^LIS|COM|#2"]


@pytest.mark.parametrize(
    ("stamp", "offset", "iso"),
    [
        ("20240401", "+0200", "2024-04-01"),
        ("2024040110", None, "2024-04-01T10:00:00"),
        ("202404011005", "+0200", "2024-04-01T10:05:00+0200"),
        ("20240401100507.1234-0330", "+0200", "2024-04-01T10:05:07.1234-0330"),
        ("20240401100507+9999", "+0200", "20240401100507+9999"),
        ("202404", None, "202404"),
        ("01.04.2024", None, "01.04.2024"),
        ("00010101", None, "0001-01-01"),
    ],
)
def test_time_stamps(stamp: str, offset: str | None, iso: str) -> None:
    frame = pl.DataFrame({"t": [stamp], "o": [offset]}, schema={"t": pl.String, "o": pl.String})
    assert frame.select(iso_text(pl.col("t"), pl.col("o"))).item() == iso


def test_offsets_and_age_bands() -> None:
    frame = pl.DataFrame({"b": ["20240320", "20230901", "20060402", "20060401", "1930", None], "t": ["2024-04-01"] * 6})
    assert frame.select(age_band(pl.col("b"), pl.col("t"))).to_series().to_list() == [
        "0-28 d", "1-12 m", "1-17", "18-44", None, None,
    ]  # fmt: skip
    assert pl.select(offset_of(pl.lit("202404011005+0200"))).item() == "+0200"


_PIECES = st.sampled_from(["MSH|^~\\&|", "\rPID|", "\rOBR|", "\rOBX|1|SN|", "\rOBX|", "\\X", "ORU^R01", "SPM|", "1e400"]) | (
    st.sampled_from(["|", "^", "~", "&", "\\", "\r", "\n", "\x0b", "\x1c", '""', "NM", "20240101", "+9999", "ä"])
)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.lists(_PIECES | st.text(max_size=6), max_size=40).map(lambda p: "".join(p).encode())
    )
)
@example(b"MSH|^~\\&|||||||ORU|1|P|2.5\rOBX")
@example(b"MSH|^~\\&\rOBX|||||")
def test_any_bytes_are_rows_or_a_reason(data: bytes) -> None:
    for message in split_messages(data):
        for variant in (message, b"MSH|^~\\&|A|B|||20240101||ORU^R01|1|P|2.5\r" + message):
            try:
                found = result_rows(parse(variant))
            except Hl7Error as error:
                assert error.code in ("AE", "AR")
            else:
                assert all(len(row) == len(COLUMNS) and row[0] for row in found)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).map(lambda t: t.replace("\r", "").replace("\n", "")))
def test_an_escaped_text_comes_back(text: str) -> None:
    message: Message = parse(oru("1"))
    escaped = text.replace("\\", "\\E\\")
    for sign, name in (("|", "F"), ("^", "S"), ("&", "T"), ("~", "R")):
        escaped = escaped.replace(sign, f"\\{name}\\")
    assert unescape(escaped, message.delimiters) == text
