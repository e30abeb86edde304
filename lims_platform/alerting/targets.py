"""Where alerts go: a small YAML file outside git, channel to Apprise addresses.

Here: reading and checking it. Its addresses hold passwords: they live in memory only and are never part of an error, a
log line or a table; a target is known as its channel and number (email/1). Not here: sending (``delivery``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import SecretStr

#: A channel that needs no address: the platform's own log.
LOG_CHANNEL = "log"


class TargetsError(ValueError):
    """LIMS_ALERT_TARGETS cannot be used; the message names file and channel, never an address."""


@dataclass(frozen=True)
class Target:
    """One receiver: its public name and its secret address; None is the platform's own log."""

    name: str
    address: SecretStr | None

    @property
    def keeps_incidents(self) -> bool:
        """Whether a message opens an incident of its own, to be acknowledged and resolved: PagerDuty does, unless the
        address folds all messages into one incident (dedup) or says itself what they do (action).
        """
        parts = urlsplit(self.address.get_secret_value() if self.address else "")
        return parts.scheme == "pagerduty" and not {"dedup", "action"} & parse_qs(parts.query).keys()


def load_targets(path: Path | None) -> dict[str, list[Target]]:
    """Channel to targets; only the log channel where no file is configured.

    TargetsError if the file is absent or readable by others (it holds passwords), is not a mapping of channel to a list
    of addresses, or holds an address Apprise does not understand.
    """
    log = {LOG_CHANNEL: [Target(LOG_CHANNEL, None)]}
    if path is None:
        return log
    try:
        mode = path.stat().st_mode & 0o077
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise TargetsError(f"LIMS_ALERT_TARGETS={path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise TargetsError(f"LIMS_ALERT_TARGETS={path}: not a readable YAML file") from None
    if mode:
        raise TargetsError(f"LIMS_ALERT_TARGETS={path}: others can read it, and it holds passwords; chmod 600 it")
    if not isinstance(content, dict):
        raise TargetsError(f"LIMS_ALERT_TARGETS={path}: must map each channel to a list of Apprise addresses")
    return log | {str(channel): _targets(path, str(channel), given) for channel, given in content.items()}


def _targets(path: Path, channel: str, given: object) -> list[Target]:
    from apprise import Apprise

    if channel == LOG_CHANNEL:
        raise TargetsError(f"LIMS_ALERT_TARGETS={path}, channel log: is the platform's own log and takes no address")
    if not isinstance(given, list) or not all(isinstance(address, str) for address in given):
        raise TargetsError(f"LIMS_ALERT_TARGETS={path}, channel {channel}: must be a list of Apprise addresses")
    targets = [Target(f"{channel}/{n}", SecretStr(address)) for n, address in enumerate(given, start=1)]
    for target in targets:
        if target.address and Apprise.instantiate(target.address.get_secret_value(), suppress_exceptions=True) is None:
            raise TargetsError(f"LIMS_ALERT_TARGETS={path}: {target.name} is no address Apprise understands")
    return targets
