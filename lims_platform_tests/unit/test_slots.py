"""A pool's slot is held by the living and freed by the death of its holder, however it died."""

from pathlib import Path

from lims_platform.automation.event_log import BatchedSqliteEventLogStorage
from lims_platform_tests.slot_holders import assert_only_a_killed_holder_frees_its_slot


def test_a_killed_holder_frees_its_slot_and_a_living_one_does_not(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    assert_only_a_killed_holder_frees_its_slot(storage, BatchedSqliteEventLogStorage, str(tmp_path))


def test_a_step_given_the_slot_but_killed_before_it_took_it_blocks_nobody(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    storage.set_concurrency_slots("lake/a", 1)
    storage.add_pending_step("lake/a", "dead", "step", should_assign=True)
    assert storage.claim_concurrency_slot("lake/a", "second", "step").is_claimed


def test_a_step_queued_while_the_last_slot_was_being_freed_is_not_forgotten(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    storage.set_concurrency_slots("lake/a", 1)
    # what the race leaves: the pool is free, the step waits without having been assigned
    storage.add_pending_step("lake/a", "second", "step", should_assign=False)
    assert storage.claim_concurrency_slot("lake/a", "second", "step").is_claimed
    assert not storage.claim_concurrency_slot("lake/a", "third", "step").is_claimed
