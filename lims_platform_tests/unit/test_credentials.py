"""Addresses and passwords: what anyone would try first is told, what was chosen is not, and nothing is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lims_platform.assets.door import Door
from lims_platform.contracts.extract import SourceError
from lims_platform.credentials import guessable, guessable_address, without_password
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import Settings


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("postgresql://lims:lims@db/lab", "the user's name"),
        ("postgresql://lims:LIMS2024!@db/lab", "the user's name"),
        ("postgresql://postgres:Postgres1!@db/lab", "the user's name"),
        ("postgresql://reader:p%61ssword@db/lab", "a default one"),
        ("postgresql://db/lab?user=reader&password=change_me", "a default one"),
        ("mysql://root:root@db/lab", "the user's name"),
        ("mysql://reader:0000@db/lab", "a few digits"),
        ("mssql://sa@db/lab", "no password"),
        ("postgresql+psycopg2://reader:@db/lab", "no password"),
        ("http://alice:@mlflow", "no password"),
        ("postgresql:///lab?host=/run/postgresql", None),
        ("postgresql://reader@/lab?host=/run/postgresql", None),
        ("postgresql://reader:lims-reader-7@db/lab", None),
        ("postgresql://reader:9c1d0f5e2b@db/lab", None),
        ("http://127.0.0.1:5000", None),
        ("sqlite:////srv/lims.db", None),
        ("http://alice:swordfish-17@mlflow", None),
    ],
)
def test_an_address_anyone_could_use(address: str, why: str | None) -> None:
    told = guessable_address(address)
    assert told is None if why is None else told is not None and why in told


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=20, max_size=40))
def test_a_long_password_of_ones_own_is_accepted_and_never_printed(password: str) -> None:
    assert guessable(password, "reader") is None
    address = f"postgresql://reader:{password}@db/lab"
    assert guessable_address(address) is None
    assert without_password(address) == "postgresql://reader:***@db/lab"


def test_the_door_of_a_production_laboratory_stays_shut(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text(
        "sources: {main: {uri: 'postgresql://lims:lims@db/lab', timezone: UTC, tables: {devices: {table: devices}}}}"
    )
    production = Settings(data_dir=tmp_path, sources=file).model_copy(update={"environment": "production"})
    with pytest.raises(SourceError) as error:
        _ = Door(production, Lake(tmp_path / "lake")).sources
    assert "sources.main.uri: its password is the user's name" in str(error.value) and "lims:lims" not in str(error.value)
    assert Door(Settings(data_dir=tmp_path, sources=file), Lake(tmp_path / "lake")).sources
