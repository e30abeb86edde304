"""MLLP over TLS: the listener's certificate, whom it asks for one, and when plain text is refused.

Here: files to an SSL context. Not here: the wire (``mllp``).
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from lims_platform.settings import Settings


class TlsError(ValueError):
    """The listener cannot be secured as told; the message is one line that names the variable."""


def listener_security(settings: Settings, host: str) -> ssl.SSLContext | None:
    """The context of the listener on ``host``; None: plain text.

    TLS 1.2 or later; with LIMS_HL7_TLS_CLIENT_CA only peers whose certificate that authority signed (mutual TLS, as IHE
    ATNA asks). Raises TlsError for files that are absent, do not fit each other or are readable by others, and in
    production for plain text beyond this machine unless LIMS_HL7_PLAIN_TEXT allows it.
    """
    certificate, key, client_ca = settings.hl7_tls_certificate, settings.hl7_tls_key, settings.hl7_tls_client_ca
    if certificate is None or key is None:
        if settings.environment == "production" and not settings.hl7_plain_text and not _is_loopback(host):
            raise TlsError(
                f"LIMS_ENVIRONMENT=production refuses plain MLLP on {host}: results and patient numbers could be read on the"
                " way; set LIMS_HL7_TLS_CERTIFICATE and LIMS_HL7_TLS_KEY, or LIMS_HL7_PLAIN_TEXT=true where the network"
                " itself is protected"
            )
        return None
    if _mode(key, "LIMS_HL7_TLS_KEY") & 0o007:
        raise TlsError(f"LIMS_HL7_TLS_KEY={key}: others can read it; chmod o= it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _PassphraseError:
        raise TlsError(f"LIMS_HL7_TLS_KEY={key}: has a passphrase, and nobody is there to type it") from None
    except (OSError, ssl.SSLError) as error:
        _mode(certificate, "LIMS_HL7_TLS_CERTIFICATE")
        raise TlsError(
            f"LIMS_HL7_TLS_CERTIFICATE={certificate}, LIMS_HL7_TLS_KEY={key}: no certificate and key that fit each other,"
            f" in PEM ({_words(error)})"
        ) from None
    if client_ca is not None:
        _mode(client_ca, "LIMS_HL7_TLS_CLIENT_CA")
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"LIMS_HL7_TLS_CLIENT_CA={client_ca}: no certificates in PEM ({_words(error)})") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _PassphraseError(Exception):
    """The key asks for one."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _mode(path: Path, variable: str) -> int:
    """Permissions of a file that can be opened."""
    try:
        with path.open("rb"):
            return path.stat().st_mode
    except OSError as error:
        raise TlsError(f"{variable}={path}: cannot be read ({error.strerror})") from None


def _words(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or str(error)).replace("_", " ").lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
