"""The archive of a backup as a folder or one file: packed whole, unpacked, and verified against its manifest.

Here: tar, checksums, the manifest's check. Not here: what belongs in it (``backup``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

FORMAT = 1


class BackupError(RuntimeError):
    """An archive cannot be made or put back; the message is one line naming the file."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(stage: Path) -> dict[str, str]:
    """SHA-256 of every file below ``stage``, by its path there."""
    return {str(p.relative_to(stage)): _digest(p) for p in sorted(stage.rglob("*")) if p.is_file()}


def measure(stage: Path) -> tuple[int, int]:
    """Number and bytes of the files below ``stage``."""
    sizes = [p.stat().st_size for p in stage.rglob("*") if p.is_file()]
    return len(sizes), sum(sizes)


def pack(stage: Path, target: Path) -> None:
    """One tar file, mode 0600, that appears under its name only when it is whole and on disk."""
    partial = target.with_name(f".{target.name}.packing")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for path in sorted(stage.iterdir()):
                    tar.add(path, path.name)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def unpack(archive: Path, stage: Path) -> None:
    """Put the archive, folder or file, into ``stage``; BackupError where it cannot be read."""
    if archive.is_dir():
        shutil.copytree(archive, stage, dirs_exist_ok=True)
        return
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(stage, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{archive}: cannot be read as a backup ({error})") from None


def verified(stage: Path, archive: Path) -> dict[str, Any]:
    """The manifest, after every file agreed with it: none missing, none changed, none beside. Else BackupError."""
    path = stage / "manifest.json"
    if not path.is_file():
        raise BackupError(f"{archive}: has no manifest.json; this is no backup of the platform")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise BackupError(f"{archive}: manifest.json is damaged ({error})") from None
    if manifest.get("format") != FORMAT:
        raise BackupError(f"{archive}: format {manifest.get('format')!r}; this platform reads format {FORMAT}")
    path.unlink()
    found, expected = checksums(stage), manifest["files"]
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            what = "is missing" if name not in found else "is not in the manifest" if name not in expected else "is damaged"
            raise BackupError(f"{archive}: {name} {what}; nothing was restored")
    return dict(manifest)
