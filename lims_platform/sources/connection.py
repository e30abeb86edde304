"""One database address: reachable or a clear error, every statement bounded in time.

Here: connecting, time-outs, telling passing trouble from permanent. Not here: what is asked (``queries``).
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import polars as pl

from lims_platform.contracts.extract import SourceError
from lims_platform.sources.config import SourceConfig, redacted
from lims_platform.sources.dialects import DIALECTS, Dialect

#: Seconds on top of the statement time-out before the reader stops waiting for an engine that has not stopped itself.
_GRACE = 30.0
_PERMANENT = ("access denied", "authentication failed", "does not exist", "unknown database", "no such", "login failed")
_TRANSIENT = (
    "timed out", "timeout", "time-out", "max_statement_time", "max_execution_time", "maximum statement execution time",
    "connection refused", "connection reset", "connection closed", "broken pipe", "closed the connection",
    "server closed", "terminating connection", "lost connection", "gone away", "is locked", "too many connections",
    "too many clients", "starting up", "shutting down", "unexpected end of file", "could not connect",
    "error communicating", "deadlock", "query execution was interrupted", "unexpectedeof", "io error", "packets out of",
)  # fmt: skip


class Connection:
    """Runs SELECT statements of one source, each in its own connection.

    Args:
        name: the source's name, for messages.
        settings: the source.
        base: folder relative SQLite paths start from.
    """

    def __init__(self, name: str, settings: SourceConfig, base: Path) -> None:
        assert settings.uri is not None
        self.name = name
        self._patterns = dict(settings.identifier_patterns)
        self._timeout = settings.statement_timeout_seconds
        self._connect_timeout = settings.connect_timeout_seconds
        given = settings.uri.get_secret_value()
        scheme, _, rest = given.partition("://")
        scheme = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
        self.dialect: Dialect = DIALECTS[scheme]
        self._file: Path | None = None
        self._uri = f"{scheme}://{rest}"
        self._password = urlsplit(given).password
        self._address: tuple[str, int] | None = None
        self._prefix: str | None = None
        self._logged_in = False
        if scheme == "sqlite":
            self._file = base / rest.removeprefix("/") if not rest.startswith("//") else Path("/" + rest.lstrip("/"))
            self._uri = f"sqlite://{quote(str(self._file.absolute()))}"
        else:
            parts = urlsplit(self._uri)
            if not parts.hostname:
                raise SourceError(f"source {name}: uri names no host")
            self._address = (parts.hostname, parts.port or self.dialect.port or 0)
            if scheme == "postgresql":
                self._uri = self._postgresql_uri(settings)

    def _postgresql_uri(self, settings: SourceConfig) -> str:
        """Time-outs and read-only mode as session options, before any statement can run."""
        parts = urlsplit(self._uri)
        query = dict(parse_qsl(parts.query))
        options = (
            f"-c statement_timeout={int(self._timeout * 1000)} -c default_transaction_read_only=on "
            f"-c TimeZone={settings.timezone}"
        )
        query["options"] = f"{query.get('options', '')} {options}".strip()
        query.setdefault("connect_timeout", str(max(1, round(self._connect_timeout))))
        query.setdefault("application_name", "lims_platform")
        return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))

    def _reach(self) -> None:
        """Fail within the connect time-out: the connector's own pool would try for 30 seconds."""
        if self._file is not None:
            # SQLite would create an absent file and then find no table in it
            if not self._file.is_file():
                raise SourceError(
                    f"source {self.name}: no file {self._file} "
                    "(sqlite:///x is relative to sources.yaml, sqlite:////x absolute)"
                )
            return
        assert self._address is not None
        host, port = self._address
        try:
            socket.create_connection((unquote(host), port), timeout=self._connect_timeout).close()
        except OSError as error:
            raise SourceError(f"source {self.name}: cannot connect to {host}:{port}: {error}", transient=True) from None

    def _log_in(self) -> None:
        """Raise at once where PostgreSQL refuses user, password or database: the connector's pool would try for 30 seconds.

        Asked of libpq, once. Anything else it may say is left to the connector, which knows other options of the address.
        """
        if self._logged_in or self.dialect.name != "postgresql":
            return
        import adbc_driver_postgresql.dbapi as libpq

        try:
            libpq.connect(self._uri).close()
        except libpq.Error as error:
            if any(words in str(error).lower() for words in _PERMANENT):
                raise
        self._logged_in = True

    def _bounded(self, statement: str) -> str:
        """The statement with the engine's own time limit, where the session could not carry it."""
        if self.dialect.name != "mysql":
            return statement
        if self._prefix is None:
            version = str(self._read("SELECT CAST(VERSION() AS CHAR) AS v").item())
            self._prefix = (
                f"SET STATEMENT max_statement_time={self._timeout} FOR "
                if "mariadb" in version.lower()
                else f"/*+ MAX_EXECUTION_TIME({int(self._timeout * 1000)}) */"
            )
        if self._prefix.startswith("SET"):
            return self._prefix + statement
        return statement.replace("SELECT", f"SELECT {self._prefix}", 1)

    def _read(self, statement: str) -> pl.DataFrame:
        """Run in a thread that is abandoned when it outlives every limit: a dead network path must not hang the run."""
        result: list[pl.DataFrame] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.append(pl.read_database_uri(statement, self._uri, engine="connectorx"))
            except BaseException as error:  # the connector also raises PanicException, which is no Exception
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True, name=f"source-{self.name}")
        thread.start()
        thread.join(self._timeout + _GRACE)
        if failure:
            raise failure[0]
        if not result:
            raise TimeoutError(f"statement timeout: no answer within {self._timeout + _GRACE:.0f} s")
        return result[0]

    def run(self, statement: str, place: str) -> pl.DataFrame:
        """The statement's rows.

        Raises:
            SourceError: ``place`` and the engine's message in one line; transient where trying again can help.
        """
        self._reach()
        try:
            self._log_in()
            return self._read(self._bounded(statement))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            message = " ".join(str(error).split())
            if self._password:
                message = message.replace(self._password, "***").replace(unquote(self._password), "***")
            message = redacted(message, self._patterns)
            low = message.lower()
            transient = not any(p in low for p in _PERMANENT) and any(t in low for t in _TRANSIENT)
            hint = ""
            if "timeout" in low or "max_statement_time" in low:
                hint = f" (statement_timeout_seconds: {self._timeout:g})"
            raise SourceError(f"{place}: {message[:500]}{hint}", transient=transient) from None
