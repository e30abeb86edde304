"""Which error is passing trouble, which is lasting, which is a defect; how long the pauses are; what Dagster is told."""

import errno
from pathlib import Path

import dagster as dg
import hypothesis
import pytest
from deltalake.exceptions import CommitFailedError
from hypothesis import given
from hypothesis import strategies as st

from lims_platform import failures
from lims_platform.contracts.extract import SourceError
from lims_platform.failures import is_transient, pause_seconds, typed_failures
from lims_platform.lakehouse.history import VanishedRowsError
from lims_platform.lakehouse.lake import ContractError
from lims_platform.lakehouse.reference import ReferenceTableError
from lims_platform.privacy.pseudonyms import KeyFileError
from lims_platform.settings import Settings, SettingsError
from lims_platform.sources.config import SourceConfigError


class OperationalError(Exception):
    """Named as SQLAlchemy's, which MLflow's store raises."""


def wrapped(cause: Exception) -> Exception:
    try:
        raise RuntimeError("wrapped by a library") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (SourceError("lims: connection refused", transient=True), True),
        (SourceError("lims, table lab_results: column result_value is missing"), False),
        (SourceConfigError("sources.yaml: not YAML"), False),
        (VanishedRowsError("rows vanished"), False),
        (ContractError("gold/x: y: missing"), False),
        (ReferenceTableError("analytes.csv, line 3"), False),
        (KeyFileError("no key"), False),
        (SettingsError("LIMS_TIMEZONE"), False),
        (CommitFailedError("another writer was faster"), True),
        (ConnectionResetError("reset by peer"), True),
        (TimeoutError("no answer"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (RuntimeError("Generic LocalFileSystem error: No space left on device (os error 28)"), True),
        (RuntimeError("Generic LocalFileSystem error: Permission denied (os error 13)"), False),
        (OperationalError("(sqlite3.OperationalError) database is locked"), True),
        (OperationalError("no such column: x"), None),
        (wrapped(SourceError("reset", transient=True)), True),
        (wrapped(PermissionError(errno.EACCES, "no")), False),
        (ZeroDivisionError("a defect"), None),
        (ValueError("a defect"), None),
    ],
)
def test_every_error_has_its_type(error: Exception, transient: bool | None) -> None:
    assert is_transient(error) is transient


GIVEN = Settings(transient_wait_seconds=30, transient_wait_max_seconds=900)


@given(tried=st.integers(0, 60), chance=st.floats(0, 1, exclude_max=True))
@hypothesis.settings(deadline=None)
def test_pauses_double_up_to_the_longest_with_half_of_each_by_chance(tried: int, chance: float) -> None:
    whole = min(900, 30 * 2.0**tried)
    assert whole / 2 <= pause_seconds(tried, GIVEN, lambda: chance) <= whole


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pauses of a millisecond, two retries."""
    given_ = Settings(data_dir=tmp_path, transient_wait_seconds=0.001, transient_retries=2)
    monkeypatch.setattr(failures, "settings", lambda: given_)


def attempts(error: Exception, fails: int) -> tuple[int, dg.ExecuteInProcessResult]:
    """Runs of an asset that raises ``error`` the first ``fails`` times, as Dagster itself counts them."""
    tried = 0

    @dg.asset
    def reading(context: dg.AssetExecutionContext) -> None:
        nonlocal tried
        with typed_failures("bronze/lab_results_raw", context.retry_number, context.log.warning):
            tried += 1
            if tried <= fails:
                raise error

    return (result := dg.materialize([reading], raise_on_error=False)) and tried, result


def failure(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, object]]:
    event = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    data = event.step_failure_data
    assert data.user_failure_data is not None
    return data.user_failure_data.description or "", {k: v.value for k, v in data.user_failure_data.metadata.items()}


@pytest.mark.usefixtures("quick")
def test_passing_trouble_is_tried_again_until_it_passes() -> None:
    tried, result = attempts(SourceError("lims: connection refused", transient=True), fails=2)
    assert (tried, result.success) == (3, True)


@pytest.mark.usefixtures("quick")
def test_passing_trouble_that_stays_fails_after_its_retries_and_says_so() -> None:
    tried, result = attempts(SourceError("source lims: connection refused", transient=True), fails=99)
    assert (tried, result.success) == (3, False)
    words, metadata = failure(result)
    assert "connection refused" in words and "next scheduled run" in words
    assert metadata["kind"] == "transient" and metadata["tries"] == 3


@pytest.mark.usefixtures("quick")
def test_lasting_trouble_fails_once_in_words_a_laboratory_understands() -> None:
    error = SourceError("source lims, table lab_results: column result_value is missing")
    tried, result = attempts(error, fails=99)
    assert (tried, result.success) == (1, False)
    words, metadata = failure(result)
    assert words.startswith("bronze/lab_results_raw: source lims, table lab_results: column result_value is missing")
    assert "sources.yaml" in words and metadata["kind"] == "permanent"


@pytest.mark.usefixtures("quick")
def test_a_defect_goes_through_unchanged_and_is_not_tried_again() -> None:
    tried, result = attempts(ZeroDivisionError("a defect"), fails=99)
    assert (tried, result.success) == (1, False)
    event = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    assert event.step_failure_data.user_failure_data is None
    assert "ZeroDivisionError" in event.step_failure_data.error_display_string
