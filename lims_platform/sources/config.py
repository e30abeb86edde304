"""What a laboratory writes in sources.yaml, checked before anything is opened.

Here: the shape of the file, its defaults, environment variables in addresses, one-line errors.
Not here: reaching a source (``sql``, ``files``) or the columns of the LIMS contract (``contracts.source``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from lims_platform.contracts.extract import SourceError
from lims_platform.contracts.source import SOURCE_TABLES, UTC
from lims_platform.credentials import guessable_address
from lims_platform.settings import ZoneName

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEMES = ("postgresql://", "postgres://", "mysql://", "mariadb://", "sqlite://", "mssql://")


class SourceConfigError(SourceError):
    """sources.yaml cannot be used; the message is one line naming file, source, table and key."""


def redacted(message: str, patterns: Mapping[Any, str]) -> str:
    """An engine's message without identifiers: errors go to logs, and logs are disk."""
    for domain, pattern in patterns.items():
        message = re.sub(pattern, f"<{domain}>", message)
    return message


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableConfig(_Strict):
    """Where one table of the contract comes from inside a source: a query, a table or files, exactly one of them."""

    query: str | None = Field(None, description="SELECT whose column names are the contract's")
    table: str | None = Field(None, description="Shorthand for SELECT * FROM <table>; [schema.]name as SQL writes it")
    files: str | None = Field(None, description="Glob relative to the source's folder")
    columns: dict[str, str] = Field(default_factory=dict, description="Contract column: the source's name of it")
    constants: dict[str, str] = Field(default_factory=dict, description="Contract column: one fixed value")
    event_time: str | None = Field(None, description="Contract column that places a row in a day")
    event_time_has_offset: bool = Field(False, description="The event time is text that carries a UTC offset")
    time_format: str | None = Field(None, description="strftime pattern of text times that are not ISO 8601")
    change_cursor: str | None = Field(None, description="Contract column that grows with every change of a row")
    retention_days: int | None = Field(None, ge=1, description="Older days are never checked for deletes")
    allow_empty: bool = Field(False, description="No matching file means no rows instead of an error")
    encoding: str = Field("utf-8", description="Encoding of CSV files")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Delimiter of CSV files")

    @field_validator("constants", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return {k: str(v) for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_origin(self) -> TableConfig:
        if sum(x is not None for x in (self.query, self.table, self.files)) != 1:
            raise ValueError("give exactly one of query, table, files")
        return self


class SourceConfig(_Strict):
    """One source: a database address or a folder, how it writes times and numbers, and its tables."""

    engine: Literal["sql", "files", "hl7", "fhir"] | None = Field(None, description="sql for a uri, files for a folder")
    uri: SecretStr | None = None
    folder: Path | None = None
    timezone: ZoneName = Field(description="IANA zone of times without an offset")
    decimal: Literal["point", "comma"] = "point"
    statement_timeout_seconds: float = Field(300, gt=0)
    connect_timeout_seconds: float = Field(5, gt=0)
    identifier_patterns: dict[Literal["patient", "technician"], str] = Field(default_factory=dict)
    patient_identifier_type: str = Field("MR", description="Of a message's patient numbers the one of this type is taken")
    tables: dict[str, TableConfig]

    @property
    def kind(self) -> str:
        """The engine, named or by its place."""
        return self.engine or ("sql" if self.uri is not None else "files")

    @field_validator("identifier_patterns")
    @classmethod
    def _compiles(cls, value: dict[str, str]) -> dict[str, str]:
        for domain, pattern in value.items():
            try:
                re.compile(pattern)
                pl.Series([""]).str.contains(pattern)
            except (re.error, pl.exceptions.ComputeError) as error:
                said = str(error).strip().splitlines()[-1]
                raise ValueError(f"{domain}: {pattern!r} is no regular expression (no look-around): {said}") from error
            if re.search(pattern, "") is not None:
                raise ValueError(f"{domain}: {pattern!r} matches the empty text")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if (self.uri is None) == (self.folder is None):
            raise ValueError("give exactly one of uri, folder")
        if self.uri is not None and not self.uri.get_secret_value().startswith(_SCHEMES):
            raise ValueError(f"uri must begin with one of {', '.join(_SCHEMES)}")
        if (self.kind == "sql") != (self.uri is not None):
            raise ValueError(f"engine {self.kind} needs a {'uri' if self.kind == 'sql' else 'folder'}")
        if self.kind in ("hl7", "fhir") and set(self.tables) != {"lab_results"}:
            raise ValueError(f"engine {self.kind} holds the table lab_results, no other")
        for entry in self.tables.values():
            if self.kind in ("hl7", "fhir") and (entry.columns or entry.time_format):
                raise ValueError(f"tables.lab_results: engine {self.kind} takes neither columns nor time_format")
        for name, table in self.tables.items():
            if (table.files is not None) != (self.folder is not None):
                raise ValueError(f"tables.{name}: files belong to a folder, query and table to a uri")
            _check_columns(name, table)
        return self


def _check_columns(name: str, table: TableConfig) -> None:
    """Names in the file must be names of the contract; a typing error must not become a column of nulls."""
    if name not in SOURCE_TABLES:
        raise ValueError(f"tables.{name}: no such table; the contract has {', '.join(SOURCE_TABLES)}")
    contract = SOURCE_TABLES[name]
    named = {f"columns.{c}": c for c in table.columns} | {f"constants.{c}": c for c in table.constants}
    named |= {k: c for k in ("event_time", "change_cursor") if (c := getattr(table, k)) is not None}
    for key, column in named.items():
        if column not in contract.schema:
            raise ValueError(f"tables.{name}.{key}: {name} has no column {column}; it has {', '.join(contract.schema)}")
    both = set(table.columns) & set(table.constants)
    if both:
        raise ValueError(f"tables.{name}.constants: {', '.join(sorted(both))} also under columns")
    for key in ("event_time", "change_cursor"):
        column = getattr(table, key)
        if column is not None and contract.column(column).dtype != UTC:
            raise ValueError(f"tables.{name}.{key}: {column} is not a time")
    if table.event_time is not None and contract.event_time is None:
        raise ValueError(f"tables.{name}.event_time: {name} is a register and has no event time")


class SourcesConfig(_Strict):
    """All sources. ``base`` is the folder relative paths start from (the folder of sources.yaml)."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    base: Path = Field(default_factory=Path.cwd)


def _expand(text: str, environment: Mapping[str, str], where: str) -> str:
    """Replace ${VAR}; inside user:password@ the value is percent-encoded, so any password works."""
    begin = text.find("://") + 3 if "://" in text else 0
    end = text.rfind("@")

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in environment:
            raise SourceConfigError(f"{where}: environment variable {name} is not set")
        return quote(environment[name], safe="") if begin <= match.start() < end else environment[name]

    return _VARIABLE.sub(value, text)


def load_sources(path: Path, environment: Mapping[str, str] | None = None) -> SourcesConfig:
    """Read sources.yaml.

    Args:
        path: the YAML file; relative folders and SQLite paths start from its folder.
        environment: variables for ${VAR}; the process's by default.

    Raises:
        SourceConfigError: one line naming the file and, as far as known, source, table and key.
    """
    variables = os.environ if environment is None else environment
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SourceConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict):
        raise SourceConfigError(f"{path}: needs a mapping 'sources' of at least one source")
    for name, source in content["sources"].items():
        for key in ("uri", "folder"):
            if isinstance(source, dict) and isinstance(source.get(key), str):
                source[key] = _expand(source[key], variables, f"{path}: sources.{name}.{key}")
    return parse_sources(content, base=path.absolute().parent, name=str(path))


def parse_sources(content: Mapping[str, Any], base: Path, name: str = "sources") -> SourcesConfig:
    """The same from a mapping already in memory (the demo's own source); ``name`` begins every error message."""
    try:
        return SourcesConfig.model_validate({**content, "base": base})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise SourceConfigError(f"{name}: {place}: {message}{more}") from None


def refuse_guessable(config: SourcesConfig, name: str) -> None:
    """What production asks: no address with a password anyone would try first, and none without where one is needed.

    Raises:
        SourceConfigError: one line that begins with ``name`` and names the source, without any part of its address.
    """
    for source, entry in config.sources.items():
        why = guessable_address(entry.uri.get_secret_value()) if entry.uri is not None else None
        if why is not None:
            raise SourceConfigError(f"{name}: sources.{source}.uri: {why}; LIMS_ENVIRONMENT=production refuses it")
