"""One typed Settings: the only place that reads the environment (prefix LIMS_).

Here: what an operator may set, its default and its meaning. Not here: data/reference, which a laboratory edits.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lims_platform.credentials import guessable_address

REPOSITORY = Path(__file__).resolve().parent.parent


#: Where the demo keeps its first day: the partitions must not start a day later every day.
FIRST_DAY_FILE = Path("demo") / "first_day"


class SettingsError(ValueError):
    """A setting has a value the platform cannot use; the message is one line naming the variable."""

    transient = False
    advice = "Set the named environment variable and run again."


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{value!r} is no IANA time zone, e.g. Europe/Berlin") from error
    return value


#: Name of an IANA time zone that this machine knows.
ZoneName = Annotated[str, AfterValidator(_known_zone)]


class Settings(BaseSettings):
    """What an operator sets. Paths are absolute after loading; days are calendar days in ``timezone``."""

    model_config = SettingsConfigDict(env_prefix="LIMS_", frozen=True, extra="ignore")

    data_dir: Path = Field(REPOSITORY / "data", description="Everything the platform writes")
    reference_dir: Path = Field(REPOSITORY / "data" / "reference", description="The CSV files the laboratory edits")
    sources: Path | None = Field(None, description="Path of sources.yaml; the demo laboratory when absent")
    start_date: date | None = Field(
        None, description="First daily partition; required in production, the demo remembers its own"
    )
    timezone: ZoneName = Field(
        "Europe/Berlin", description="The laboratory's calendar: days and partitions are cut in this zone"
    )
    pseudonym_key_file: Path | None = Field(None, description="Secret key; the demo makes its own under the data directory")
    environment: Literal["demo", "production"] = Field("demo", description="production refuses demo keys and defaults")
    mlflow_tracking_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("MLFLOW_TRACKING_URI", "LIMS_MLFLOW_TRACKING_URI"),
        description="MLflow's tracking store; default: SQLite under the data directory; in production MLflow's server",
    )
    mlflow_backend_store_uri: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("MLFLOW_BACKEND_STORE_URI"),
        description="PostgreSQL behind MLflow's server, postgresql+psycopg2://…; see docs/production.md",
    )
    dagster_database: SecretStr | None = Field(
        None, description="PostgreSQL of Dagster's storage, postgresql+psycopg2://…; see docs/production.md"
    )
    chunk_rows: int = Field(2_000_000, ge=1_000, description="Source rows a bronze chunk aims at; bounds its memory")
    vanished_share: float = Field(0.01, gt=0, le=1, description="A day that lost more than this share is not written")
    vanished_floor: int = Field(5, ge=1, description="Fewer vanished rows a day than this never stop a run")
    hl7_host: str = Field("127.0.0.1", description="Address the HL7 listener binds")
    hl7_port: int = Field(2575, ge=0, le=65535, description="Port of the HL7 listener (MLLP)")
    hl7_message_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="A longer HL7 message is refused")
    hl7_message_seconds: float = Field(30, gt=0, description="A peer that takes longer to finish a message is cut off")
    hl7_idle_seconds: float = Field(3600, gt=0, description="A peer silent for longer is cut off")
    hl7_connections: int = Field(200, ge=1, description="Peers of the HL7 listener at once")
    hl7_segment_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="A spool segment that is longer is followed by a new one"
    )
    hl7_tls_certificate: Path | None = Field(
        None, description="Certificate of the HL7 listener and its chain, PEM; with it MLLP goes over TLS only"
    )
    hl7_tls_key: Path | None = Field(None, description="Its private key, PEM, without passphrase, not readable by others")
    hl7_tls_client_ca: Path | None = Field(
        None, description="Authorities, PEM; senders must show a certificate of theirs (mutual TLS)"
    )
    hl7_plain_text: bool = Field(
        False, description="In production: MLLP without TLS beyond this machine is wanted, the network is protected"
    )
    late_after_hours: float = Field(48, gt=0, description="A row first seen later than this after its result is late")
    outbreak_false_alarms: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="Share of weeks without an outbreak whose positives may exceed the threshold",
    )
    sample_false_alarms: float = Field(
        0.05, gt=0, le=10, description="Batch samples alarmed by chance on a day on which nothing is wrong"
    )
    westgard_rules: Annotated[tuple[str, ...], NoDecode] = Field(
        ("1-2s", "1-3s", "2-2s", "R-4s", "4-1s", "10x"),
        description="Westgard rules the controls are judged by, commas between",
    )
    westgard_by_sigma: bool = Field(
        False, description="Judge a device's analyte by the rules its sigma calls for (sigma_rules.csv), where it is known"
    )
    patient_qc_false_alarms: float = Field(
        0.01, gt=0, lt=1, description="Share of in-control days a device's patient-based QC of an analyte may alarm on"
    )
    patient_qc_bias: float = Field(1.0, gt=0, description="Bias patient-based QC is tuned to find, in allowable errors")
    patient_qc_history_days: int = Field(400, ge=1, description="Days of history patient-based QC is tuned on")
    alert_targets: Path | None = Field(None, description="YAML of channel to Apprise addresses, mode 0600; none: rows only")
    critical_notifications: Path | None = Field(
        None, description="CSV of calls made about critical results: result_id, notified_at (ISO 8601)"
    )
    dagster_url: str = Field("http://127.0.0.1:3000", description="Address of the Dagster UI, for links in alerts")
    reconcile_nightly_days: int = Field(7, ge=1, description="Days the nightly reconciliation compares with the source")
    reconcile_weekly_days: int = Field(90, ge=1, description="Days the weekly reconciliation compares with the source")
    keep_versions_days: int = Field(30, ge=7, description="Older versions of the tables are vacuumed")
    keep_runs_days: int = Field(90, ge=1, description="Older runs are pruned, unless a table's newest state is theirs")
    gold_at: time = Field(time(1), description="From when yesterday's features and marts are made")
    scoring_at: time = Field(time(2), description="From when yesterday's devices are scored")
    training_at: time = Field(time(3), description="From when a new challenger is trained, on LIMS_TRAINING_WEEKDAY")
    training_weekday: int = Field(6, ge=0, le=6, description="Day of training, 0 Monday to 6 Sunday")
    drift_at: time = Field(time(4), description="From when yesterday's drift report is made")
    plots_at: time = Field(time(5), description="From when the laboratory's plots are drawn")
    daily_grace_hours: float = Field(2, gt=0, description="A daily table is not fresh so long after its window opened")
    catch_up_days: int = Field(7, ge=1, description="Missed days are caught up this far back; older ones a person asks for")
    watch_days: int = Field(14, ge=1, description="Days the source is watched for late, amended and moved rows")
    watch_far_days: int = Field(90, ge=1, description="Days looked at once a day, for rows deleted from older days")
    watch_minutes: int = Field(15, ge=1, description="Minutes between two looks at the source")
    bronze_max_age_hours: float = Field(2, gt=0, description="Bronze older than this is not fresh")
    stalled_after_hours: float = Field(1, gt=0, description="A reading without any event for so long lost its process")
    transient_retries: int = Field(4, ge=0, description="How often a step is tried again after passing trouble")
    transient_wait_seconds: float = Field(30, gt=0, description="First pause before trying again; doubles each time")
    transient_wait_max_seconds: float = Field(900, gt=0, description="No pause is longer")
    demo_devices: int = Field(40, ge=2, description="Analysers of the demo laboratory")
    demo_seed: int = Field(7, ge=0, description="Seed of the demo laboratory")
    demo_results_per_day: int = Field(1600, ge=10, description="Results a day of the demo laboratory")

    @field_validator("westgard_rules", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator(
        "data_dir",
        "reference_dir",
        "sources",
        "pseudonym_key_file",
        "alert_targets",
        "critical_notifications",
        "hl7_tls_certificate",
        "hl7_tls_key",
        "hl7_tls_client_ca",
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @model_validator(mode="after")
    def _certificate_and_key_go_together(self) -> Settings:
        names = ("hl7_tls_certificate", "hl7_tls_key", "hl7_tls_client_ca")
        given = [name for name in names if getattr(self, name) is not None]
        lacking = [name for name in names[:2] if name not in given]
        if given and lacking:
            raise ValueError(f"LIMS_{given[0].upper()} without LIMS_{lacking[0].upper()} would leave MLLP in plain text")
        return self

    @model_validator(mode="after")
    def _production_is_explicit(self) -> Settings:
        if self.environment == "production":
            for name in ("sources", "start_date", "pseudonym_key_file"):
                if getattr(self, name) is None:
                    raise ValueError(f"LIMS_ENVIRONMENT=production needs LIMS_{name.upper()}")
            self._refuse_what_production_should_not_have()
        return self

    def _refuse_what_production_should_not_have(self) -> None:
        """ValueError of one line that names the variable and never holds its value: it may be a password."""
        store = self.mlflow_tracking_uri
        if store is None or urlsplit(store).scheme in ("", "file", "sqlite"):
            raise ValueError(
                "LIMS_ENVIRONMENT=production needs MLFLOW_TRACKING_URI=http://… (MLflow's server) or a PostgreSQL address:"
                " of several processes that open a new SQLite store at once all but one fail"
            )
        given = {
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_BACKEND_STORE_URI": revealed(self.mlflow_backend_store_uri),
            "LIMS_DAGSTER_DATABASE": revealed(self.dagster_database),
        }
        for variable, address in given.items():
            why = guessable_address(address) if address is not None else None
            if why is not None:
                raise ValueError(f"LIMS_ENVIRONMENT=production refuses {variable}: {why}")

    @property
    def zone(self) -> ZoneInfo:
        """The laboratory's time zone."""
        return ZoneInfo(self.timezone)

    @property
    def today(self) -> date:
        """Today in the laboratory's calendar."""
        return datetime.now(self.zone).date()

    @property
    def first_day(self) -> date:
        """First daily partition: LIMS_START_DATE, else the demo laboratory's first day, else 420 days before today."""
        if self.start_date is not None:
            return self.start_date
        remembered = self.data_dir / FIRST_DAY_FILE
        return (
            date.fromisoformat(remembered.read_text().strip()) if remembered.exists() else self.today - timedelta(days=420)
        )

    @property
    def lake_dir(self) -> Path:
        """Delta tables, ``<layer>/<table>``."""
        return self.data_dir / "lake"

    @property
    def reference_states(self) -> Path:
        """The states of the reference tables that standardised something, by digest."""
        return self.data_dir / "reference_states"

    @property
    def report_dir(self) -> Path:
        """Reports and workbooks for people."""
        return self.data_dir / "reports"

    @property
    def catalog_path(self) -> Path:
        """The DuckDB catalogue analysts open."""
        return self.data_dir / "catalog.duckdb"

    @property
    def audit_path(self) -> Path:
        """The audit trail."""
        return self.data_dir / "audit" / "audit.jsonl"

    @property
    def hl7_spool(self) -> Path:
        """Where the HL7 listener keeps what it acknowledged, sealed."""
        return self.data_dir / "spool" / "hl7"

    @property
    def key_path(self) -> Path:
        """The pseudonym key in force."""
        return self.pseudonym_key_file or self.data_dir / "secrets" / "pseudonym.key"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry store."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.data_dir / 'mlflow' / 'mlflow.db'}"


def revealed(secret: SecretStr | None) -> str | None:
    """The text of a secret setting, for the one place that needs it."""
    return None if secret is None else secret.get_secret_value()


def load_settings() -> Settings:
    """Read the environment; raise SettingsError with one clear line for the first wrong value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise SettingsError(message) from None
        variable = name if name.isupper() else f"LIMS_{name.upper()}"
        raise SettingsError(f"{variable}={first.get('input')!r}: {message}") from None


def remember_first_day(loaded: Settings, day: date) -> None:
    """Fix the demo laboratory's first partition, once."""
    path = loaded.data_dir / FIRST_DAY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{day.isoformat()}\n")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return load_settings()
