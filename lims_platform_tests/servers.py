"""Real PostgreSQL and MariaDB for tests: an address given, a server that listens locally, or one started for the test run.

Each caller gets databases of its own and drops them. Not here: what is tested.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from lims_platform_tests.programs import cannot_run

POSTGRES, MARIADB = "postgresql://postgres@127.0.0.1:5432", "mysql://root@127.0.0.1:3306"


def _listens(uri: str) -> bool:
    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_user(user: str) -> dict[str, str]:
    """Servers refuse to run as root."""
    return {"user": user} if os.geteuid() == 0 else {}


def _start_postgres(folder: Path) -> tuple[str, list[str], dict[str, str]] | None:
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(bins[-1]) if bins else shutil.which("initdb")
    if initdb is None:
        return None
    user, port = _as_user("postgres"), free_port()
    if user:
        shutil.chown(folder, "postgres")
    data = folder / "pg"
    command = [initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)  # type: ignore[call-overload]
    server = [str(Path(initdb).with_name("postgres")), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-F"]
    return f"postgresql://postgres@127.0.0.1:{port}", [*server, "-k", str(folder)], user


def _start_mariadb(folder: Path) -> tuple[str, list[str], dict[str, str]] | None:
    install, server = shutil.which("mariadb-install-db"), shutil.which("mariadbd") or "/usr/sbin/mariadbd"
    if install is None or not Path(server).exists():
        return None
    user, port = _as_user("mysql"), free_port()
    if user:
        shutil.chown(folder, "mysql")
    data = f"--datadir={folder / 'maria'}"
    command = [install, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)  # type: ignore[call-overload]
    listen = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder / 's'}", f"--pid-file={folder / 'p'}"]
    return f"mysql://root@127.0.0.1:{port}", [server, "--no-defaults", data, *listen], user


def _server(kind: str, variable: str, local: str) -> Iterator[str]:
    given = os.environ.get(variable)
    if given:
        yield given.rstrip("/")
        return
    if _listens(local):
        yield local
        return
    folder = Path(tempfile.mkdtemp(prefix="lims"))
    folder.chmod(0o755)
    try:
        started = (_start_postgres if kind == "PostgreSQL" else _start_mariadb)(folder)
        if started is None:
            cannot_run(f"no {kind}: set {variable}, or install its Debian package")
            return
        uri, command, user = started
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)  # type: ignore[call-overload]
        try:
            for _ in range(300):
                if _listens(uri) or process.poll() is not None:
                    break
                time.sleep(0.1)
            if process.poll() is not None:
                pytest.fail(f"{kind} did not start: {(folder / 'log').read_text(errors='replace')[-2000:]}")
            yield uri
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a PostgreSQL server, without a database name."""
    yield from _server("PostgreSQL", "LIMS_TEST_POSTGRES", POSTGRES)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """Address of a MariaDB server, without a database name."""
    yield from _server("MariaDB", "LIMS_TEST_MARIADB", MARIADB)


def postgres_execute(uri: str, *statements: str) -> None:
    """Run statements one by one, each committed at once (CREATE DATABASE tolerates no transaction)."""
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def mariadb_execute(uri: str, *statements: str) -> None:
    """Run statements one by one."""
    import pymysql

    parts = urlsplit(uri)
    connection = pymysql.connect(
        host=parts.hostname or "", port=parts.port or 3306, user=parts.username or "root",
        password=parts.password or "", database=parts.path.strip("/") or None, autocommit=True, charset="utf8mb4",
    )  # fmt: skip
    with contextlib.closing(connection), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _with_database(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """Address of an empty PostgreSQL database that is dropped afterwards."""
    name = f"lims_test_{uuid.uuid4().hex[:12]}"
    admin = _with_database(postgres_server, "postgres")
    postgres_execute(admin, f"CREATE DATABASE {name}")
    try:
        yield _with_database(postgres_server, name)
    finally:
        postgres_execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def mariadb_database(mariadb_server: str) -> Iterator[str]:
    """Address of an empty MariaDB database that is dropped afterwards."""
    name = f"lims_test_{uuid.uuid4().hex[:12]}"
    mariadb_execute(mariadb_server, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield _with_database(mariadb_server, name)
    finally:
        mariadb_execute(mariadb_server, f"DROP DATABASE {name}")


def cut_proxy(target: tuple[str, int], after: int) -> tuple[int, Callable[[], None]]:
    """A TCP relay that drops the connection after so many bytes from the server."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for side in (source, sink):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(target)
            threading.Thread(target=pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=pump, args=(server, client, after), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], listener.close
