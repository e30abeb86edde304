"""What differs between SQL engines: quoting, casting, literals, and which texts are times.

Here: strings of SQL, nothing else. Not here: which rows are wanted (``queries``) or running anything (``sql``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from lims_platform.sources.times import ISO

#: How an engine delivers a column, learnt from an empty result.
KINDS = ("text", "naive", "aware", "date", "number", "boolean", "binary")
#: Texts that are numbers; texts that are integers in their only spelling.
_NUMBER = re.compile(r"^-?[0-9]{1,30}(?:\.[0-9]{1,30})?$")
_INTEGER = re.compile(r"^(?:0|-?[1-9][0-9]{0,17})$")


@dataclass(frozen=True)
class Dialect:
    """One SQL engine. ``typed`` is false where a column may hold values of any type (SQLite)."""

    name: str
    port: int | None = None
    typed: bool = True
    text_type: str = "text"
    real_type: str = "double precision"

    def quote(self, name: str) -> str:
        """An identifier, quoted."""
        if self.name == "mysql":
            return "`" + name.replace("`", "``") + "`"
        if self.name == "mssql":
            return "[" + name.replace("]", "]]") + "]"
        return '"' + name.replace('"', '""') + '"'

    def text(self, expression: str) -> str:
        """The expression as text, whatever it is."""
        return f"CAST({expression} AS {self.text_type})"

    def real(self, expression: str) -> str:
        """A number as a double."""
        return f"CAST({expression} AS {self.real_type})"

    def string(self, value: str) -> str:
        """A text literal; a backslash is data on every engine."""
        if self.name == "mysql" and "\\" in value:
            return f"CONVERT(0x{value.encode().hex()} USING utf8mb4)"
        prefix = "N" if self.name == "mssql" else ""
        return prefix + "'" + value.replace("'", "''") + "'"

    def stamp(self, moment: datetime, kind: str) -> str:
        """A literal to compare a column of that kind with; text and dates compare by day, the rest by moment."""
        if kind in ("text", "date", "number", "binary", "boolean"):
            day = f"{moment:%Y-%m-%d}"
            return f"CAST('{day}' AS BINARY)" if self.name == "mysql" and kind == "text" else f"'{day}'"
        if kind == "aware":
            literal = f"'{moment:%Y-%m-%d %H:%M:%S}+00:00'"
            return {"postgresql": f"TIMESTAMPTZ {literal}", "mssql": f"CAST({literal} AS datetimeoffset)"}.get(
                self.name, literal
            )
        if self.name == "mssql":
            return f"CAST('{moment:%Y-%m-%dT%H:%M:%S}' AS datetime2)"
        return f"'{moment:%Y-%m-%d %H:%M:%S}'"

    def comparable(self, expression: str, kind: str) -> str:
        """The expression in a form whose text order is byte order, so that ISO texts sort as days."""
        if kind != "text":
            return expression
        return {
            "postgresql": f'{expression} COLLATE "C"',
            "mysql": f"CAST({expression} AS BINARY)",
            "mssql": f"{expression} COLLATE Latin1_General_BIN2",
        }.get(self.name, expression)

    def absent(self, expression: str, kind: str) -> str:
        """True where the time is absent: null, or the empty text."""
        return f"({expression} IS NULL OR {expression} = '')" if kind == "text" else f"{expression} IS NULL"

    @property
    def hashes(self) -> bool:
        """Whether the engine has a hash of texts."""
        return self.name != "sqlite"

    def hashed(self, parts: list[str]) -> str:
        """A whole number below 2**60 that stands for these texts, nulls told from empty ones; their sum fits the engine."""
        if self.name == "mysql":
            joined = f"CONCAT_WS(CHAR(31), {', '.join(f'COALESCE({p}, CHAR(30))' for p in parts)})"
            return f"CAST(CONV(LEFT(MD5({joined}), 15), 16, 10) AS UNSIGNED)"
        if self.name == "mssql":
            filled = [f"COALESCE({p}, NCHAR(30))" for p in parts]
            joined = f"CONCAT(N'', {', NCHAR(31), '.join(filled)})"
            return f"CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', {joined}), 1, 7) AS bigint) AS decimal(38, 0))"
        joined = f"CONCAT_WS(CHR(31), {', '.join(f'COALESCE({p}, CHR(30))' for p in parts)})"
        return f"('x' || SUBSTRING(MD5({joined}), 1, 15))::bit(60)::bigint"

    def irregular(self, expression: str, kind: str) -> str | None:
        """True for every text the reader will not accept as a time (it may be true for more); None where impossible."""
        if self.name == "mysql" and kind in ("naive", "date"):
            # 2024-04-00 and, in lenient modes, 2024-02-31 are stored as dates and sort among them
            return f"NOT ({self.text(expression)} REGEXP {self.string(ISO)})"
        if kind != "text":
            return None
        if self.name == "sqlite":
            # date() also takes 24:00, several blanks and numbers; the other tests are stricter than the reader is
            return (
                f"(date({expression}) IS NOT substr({expression}, 1, 10) OR typeof({expression}) <> 'text' "
                f"OR length({expression}) NOT IN (10, 16, 19, 20, 23, 26) OR (length({expression}) > 10 AND NOT "
                f"({expression} GLOB '????-??-??[ T][0-2][0-9]:*' AND substr({expression}, 12, 2) < '24')))"
            )
        if self.name == "postgresql":
            return f"{expression} !~ {self.string(ISO)}"
        if self.name == "mysql":
            return f"NOT ({expression} REGEXP {self.string(ISO)})"
        return f"TRY_CONVERT(datetime2, {expression}) IS NULL"

    def day(self, expression: str, kind: str) -> str:
        """The calendar day the source itself would name, as text."""
        if kind == "text":
            return f"SUBSTRING({expression}, 1, 10)" if self.typed else f"substr({expression}, 1, 10)"
        return self.text(f"CAST({expression} AS DATE)")

    def key_list(self, expression: str, kind: str, values: list[str]) -> str | None:
        """``expression IN (…)`` in the column's own type, so that its index serves; None when no value can match."""
        numbers = [v for v in values if _INTEGER.match(v)]
        if kind == "number":
            literals = [v for v in values if _NUMBER.match(v)]
        elif self.typed:
            literals = [self.string(v) for v in values]
        else:
            # SQLite compares by stored type where a view hides the column's affinity
            literals = [self.string(v) for v in values] + numbers
        return f"{expression} IN ({', '.join(literals)})" if literals else None


DIALECTS: dict[str, Dialect] = {
    "sqlite": Dialect("sqlite", typed=False, text_type="TEXT", real_type="REAL"),
    "postgresql": Dialect("postgresql", port=5432),
    "mysql": Dialect("mysql", port=3306, text_type="CHAR", real_type="DOUBLE"),
    "mssql": Dialect("mssql", port=1433, text_type="NVARCHAR(MAX)", real_type="FLOAT"),
}
