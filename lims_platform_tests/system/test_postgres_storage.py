"""Dagster's event log in a real PostgreSQL, where its own storage would stop runs: pools and their slots."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from lims_platform.automation.postgres import LocalPostgresEventLogStorage
from lims_platform_tests.servers import postgres_database, postgres_server  # noqa: F401
from lims_platform_tests.slot_holders import assert_only_a_killed_holder_frees_its_slot

Make = Callable[[int], LocalPostgresEventLogStorage]


@pytest.fixture
def make(postgres_database: str, tmp_path: Path) -> Make:  # noqa: F811
    """Builds the storage as one more process would, with a default limit for pools."""

    instances = []  # a storage holds its instance by a weak reference only

    def build(limit: int = 1) -> LocalPostgresEventLogStorage:
        instances.append(dg.DagsterInstance.ephemeral(settings={"concurrency": {"pools": {"default_limit": limit}}}))
        storage = LocalPostgresEventLogStorage(str(tmp_path), postgres_database.replace("postgresql", "postgresql+psycopg2"))
        storage.register_instance(instances[-1])
        return storage

    return build


def test_two_runs_that_are_first_to_use_a_pool_both_go_on(make: Make) -> None:
    storages = [make(1) for _ in range(4)]
    for pool in (f"lake/{n}" for n in range(10)):
        with ThreadPoolExecutor(4) as threads:
            done = [threads.submit(storage.initialize_concurrency_limit_to_default, pool) for storage in storages]
        assert [one.result() for one in done] == [True] * 4
        assert storages[0].get_concurrency_info(pool).slot_count == 1
    make(3).initialize_concurrency_limit_to_default("lake/0")
    info = storages[0].get_concurrency_info("lake/0")
    assert (info.limit, info.slot_count) == (3, 3), "another default limit reaches pools that are known"


def test_a_killed_holder_frees_its_slot_and_a_living_one_does_not(make: Make, tmp_path: Path) -> None:
    storage = make(1)
    assert_only_a_killed_holder_frees_its_slot(storage, LocalPostgresEventLogStorage, str(tmp_path), storage.postgres_url)


@pytest.mark.parametrize("assigned", ["nobody", "a run that died before it took the slot"])
def test_a_free_pool_is_given_to_who_waits(make: Make, assigned: str) -> None:
    storage = make(1)
    storage.set_concurrency_slots("lake/a", 1)
    if assigned != "nobody":
        storage.add_pending_step("lake/a", "dead", "step", should_assign=True)
    storage.add_pending_step("lake/a", "second", "step", should_assign=False)
    assert storage.claim_concurrency_slot("lake/a", "second", "step").is_claimed
    assert not storage.claim_concurrency_slot("lake/a", "third", "step").is_claimed
