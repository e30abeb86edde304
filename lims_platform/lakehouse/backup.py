"""Backup and restore: one archive that holds a consistent state of everything the platform wrote.

Here: which bytes belong in it, pinned Delta versions, SQLite snapshots, putting it back. Not here: the archive as a file
(``archive``), the sources (a LIMS has its own backup), databases on a server (``pg_dump``), arguments of the command.

Layout: ``manifest.json``, ``data/`` (the data directory), ``reference/``, ``config/sources.yaml`` and, only if asked for,
``secrets/pseudonym.key``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlparse

from deltalake import DeltaTable

from lims_platform.lakehouse.archive import FORMAT, BackupError, checksums, measure, pack, unpack, verified
from lims_platform.settings import Settings

_BLOCK = 4 * 1024 * 1024
_SQLITE = b"SQLite format 3\0"
_VERSIONED = re.compile(r"^(\d{20})\.(json|checkpoint.*parquet)$")
#: What is derived is pinned before what it is derived from, so that no table in the archive is ahead of its inputs.
_PIN_LAST = {"silver": 1, "bronze": 2}
_SIDE_FILES = ("-wal", "-shm", "-journal")
#: Columns of MLflow's store that hold absolute artifact addresses.
_MLFLOW_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}


@dataclass(frozen=True)
class Backup:
    """What an archive holds. ``tables``: lake path to pinned version; ``left_out``: what is not in it, in words."""

    tables: dict[str, int]
    files: int
    bytes: int
    left_out: tuple[str, ...]


def backup(settings: Settings, target: Path, *, with_key: bool = False) -> Backup:
    """Write an archive: a folder, or one file where ``target`` ends in ``.tar``. Writers may go on meanwhile.

    Every Delta table is pinned at one version, reports and features before silver before bronze; every SQLite file is
    copied by SQLite's own online backup. It appears under its name only when it is complete.

    Raises:
        BackupError: ``target`` exists or lies inside the data directory, or a pinned file vanished (a vacuum ran).
    """
    if target.exists():
        raise BackupError(f"{target}: exists already; give a new name")
    if target.resolve().is_relative_to(settings.data_dir.resolve()):
        raise BackupError(f"{target}: lies inside the data directory {settings.data_dir}")
    stage = target.with_name(f".{target.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True, mode=0o700)
    try:
        tables = _copy_lake(settings.lake_dir, stage / "data" / "lake")
        _copy_data(settings, stage / "data")
        _copy_folder(settings.reference_dir, stage / "reference")
        if settings.sources is not None:
            _copy(settings.sources, stage / "config" / "sources.yaml")
        for path in _secrets(settings) if with_key else ():
            _copy(path, stage / "secrets" / ("pseudonym.key" + path.name.removeprefix(settings.key_path.name)))
        made = Backup(tables, *measure(stage), _left_out(settings, with_key))
        manifest = {
            "format": FORMAT,
            "made_at": datetime.now(UTC).isoformat(),
            "data_dir": str(settings.data_dir),
            "tables": tables,
            "left_out": made.left_out,
            "files": checksums(stage),
        }
        (stage / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
        if target.suffix == ".tar":
            pack(stage, target)
        else:
            stage.replace(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return made


def restore(archive: Path, to: Path) -> Backup:
    """Put an archive back into ``to``, which must be absent or empty; every file is compared with its checksum first.

    MLflow's artifact addresses are turned to the new place. The catalogue is not in the archive: rebuild it.

    Raises:
        BackupError: ``to`` is not empty, the archive is damaged (the message names the file), or of an unknown format.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BackupError(f"{to}: is not empty; restore into a new directory")
    stage = to.with_name(f".{to.name}.restoring")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True, mode=0o700)
    try:
        unpack(archive, stage)
        manifest = verified(stage, archive)
        made = Backup(dict(manifest["tables"]), len(manifest["files"]), measure(stage)[1], tuple(manifest["left_out"]))
        (stage / "data").mkdir(exist_ok=True)
        for part in ("reference", "config", "secrets"):
            if (stage / part).is_dir():
                (stage / part).replace(stage / "data" / part)
        _turn_mlflow(stage / "data", str(manifest["data_dir"]), str(to.absolute()))
        if to.exists():
            to.rmdir()
        (stage / "data").replace(to)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return made


def _pinned(lake: Path) -> dict[str, DeltaTable]:
    """Every Delta table of the lake at its latest version, in the order that keeps derived tables behind their inputs."""
    folders = [log.parent for log in lake.glob("*/*/_delta_log")]
    folders.sort(key=lambda folder: (_PIN_LAST.get(folder.parent.name, 0), folder))
    return {str(folder.relative_to(lake)): DeltaTable(str(folder)) for folder in folders}


def _copy_lake(lake: Path, target: Path) -> dict[str, int]:
    pinned = _pinned(lake)
    versions = {}
    for name, delta in pinned.items():
        versions[name] = version = int(delta.version())
        for uri in delta.file_uris():
            source = Path(unquote(urlparse(uri).path) if uri.startswith("file:") else uri)
            _copy_pinned(source, target / name / source.relative_to(lake / name), name, version)
        for source in _log_files(lake / name / "_delta_log", version):
            _copy_pinned(source, target / name / "_delta_log" / source.name, name, version)
        copied = DeltaTable(str(target / name))
        if copied.version() != version or len(copied.file_uris()) != len(delta.file_uris()):
            raise BackupError(f"{name}: its log changed while it was copied; run the backup again")
    return versions


def _log_files(log: Path, version: int) -> Iterator[Path]:
    """The log's entries up to ``version``; the pointer to a newer checkpoint stays behind (readers list the log then)."""
    for path in sorted(log.iterdir()):
        match = _VERSIONED.match(path.name)
        if path.name == "_last_checkpoint":
            upto = int(json.loads(path.read_text())["version"])
        elif match:
            upto = int(match.group(1))
        else:
            continue
        if upto <= version:
            yield path


def _copy_pinned(source: Path, target: Path, name: str, version: int) -> None:
    try:
        _copy(source, target)
    except FileNotFoundError:
        raise BackupError(
            f"{name}: {source.name} of version {version} vanished while it was copied; no vacuum may run during a backup"
        ) from None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _copy_folder(source: Path, target: Path) -> None:
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        _copy(path, target / path.relative_to(source))


def _copy_data(settings: Settings, target: Path) -> None:
    """Everything else below the data directory: SQLite files by their own backup, other files byte by byte."""
    root = settings.data_dir
    apart = [settings.lake_dir, root / "secrets", settings.reference_dir]
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(f for f in folders if here / f not in apart)
        for name in sorted(names):
            source = here / name
            if _is_left_behind(source, settings) or not source.is_file():
                continue
            copy = target / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                with source.open("rb") as file:
                    is_database = file.read(len(_SQLITE)) == _SQLITE
                if is_database:
                    _copy_sqlite(source, copy)
                else:
                    _copy(source, copy)
            except FileNotFoundError:
                continue  # its owner deleted it meanwhile: it is not part of the state any more


def _secrets(settings: Settings) -> list[Path]:
    """The key file and what belongs to it: the re-mappings of past rotations, the next key of one under way."""
    return sorted(settings.key_path.parent.glob(f"{settings.key_path.name}*"))


def _is_left_behind(path: Path, settings: Settings) -> bool:
    """The catalogue (rebuilt from the lake), SQLite's side files, the key, and the demo's own LIMS, which is a source."""
    is_demo = path.is_relative_to(settings.data_dir / "demo") and path.name != "first_day"
    is_catalog = path.name.lstrip(".").startswith(settings.catalog_path.name)
    return is_demo or is_catalog or path.name.endswith(_SIDE_FILES) or path in _secrets(settings)


def _copy_sqlite(source: Path, target: Path) -> None:
    opened = sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)
    with closing(opened) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, no side files to lose
    shutil.copymode(source, target)


def _left_out(settings: Settings, with_key: bool) -> tuple[str, ...]:
    words = ["the sources themselves", "older versions of the tables", "the catalogue (restore rebuilds it)"]
    if not with_key:
        words.insert(0, "the pseudonym key: without it nobody can be re-identified and no new row can be linked")
    if not settings.tracking_uri.startswith("sqlite:"):
        words.append("MLflow's database on its server")
    if settings.dagster_database is not None:
        words.append("Dagster's database on its server")
    return tuple(words)


def _turn_mlflow(data: Path, old: str, new: str) -> None:
    """Point MLflow's artifact addresses below the old data directory at the new one."""
    database = data / "mlflow" / "mlflow.db"
    if old == new or not database.is_file():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, columns in _MLFLOW_ADDRESSES.items():
            for column in columns if table in known else ():
                for prefix in ("", "file://"):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (prefix + new, len(prefix + old) + 1, len(prefix + old) + 1, f"{prefix + old}/"),
                    )
