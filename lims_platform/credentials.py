"""Passwords anyone would try first, told from an address.

Here: what makes a password no password. Not here: which addresses are asked about (``settings``, ``sources.config``), nor
how strong a password is otherwise: a guess list finds what was never chosen, nothing more.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

#: What installers, tutorials and examples set, without digits and signs around it.
# fmt: off
_DEFAULTS = frozenset((
    "admin", "administrator", "changeit", "changeme", "dagster", "database", "db", "default", "demo", "example",
    "guest", "lab", "labor", "lims", "mariadb", "mlflow", "mssql", "mysql", "pass", "passw", "passwd", "password",
    "placeholder", "postgres", "postgresql", "qwerty", "root", "sa", "sample", "secret", "simple", "sql", "system",
    "test", "tester", "user", "welcome",
))
# fmt: on
#: Schemes that reach a server, and so somebody else too.
_SERVERS = ("postgresql", "postgres", "mysql", "mariadb", "mssql")


def guessable(password: str, user: str | None = None) -> str | None:
    """Why anyone would guess this password, as words that do not repeat it; None where nothing says so.

    Capitals, digits and signs make no difference: Postgres1! is postgres.
    """
    bare = password.casefold()
    core = re.sub(r"[\W\d_]", "", bare)
    if user and bare.strip("0123456789!") == user.casefold():
        return "its password is the user's name"
    if not core and len(bare) < 12:
        return "its password is a few digits"
    return "its password is a default one" if core in _DEFAULTS else None


def guessable_address(address: str) -> str | None:
    """Why anyone could log in where this address leads, as words without any part of it; None where nothing says so.

    Args:
        address: ``scheme://user:password@host/name``, also with user and password as parameters; the scheme may name a
            driver (``postgresql+psycopg2``). A server reached over a local socket may do without password (the system
            vouches for the user), and so may HTTP, where nobody said who calls; files have none.
    """
    parts = urlsplit(address)
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    user = unquote(parts.username) if parts.username else asked.get("user")
    password = unquote(parts.password) if parts.password else asked.get("password")
    if password:
        return guessable(password, user)
    if parts.scheme.split("+")[0] in _SERVERS:
        host = parts.hostname or asked.get("host", "")
        return "it has no password" if host and not host.startswith("/") else None
    return "it has no password" if user else None


def without_password(address: str) -> str:
    """The address as it may be printed: a password in front of the host is ***."""
    return re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", address)
