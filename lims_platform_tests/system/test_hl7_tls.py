"""MLLP over TLS with the listener as a process: who is let in, what production refuses, wrong files in one line."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lims_platform.privacy.pseudonyms import load_pseudonymiser
from lims_platform.sources.hl7.spool import read_segment
from lims_platform_tests.hl7_messages import MllpClient, oru
from lims_platform_tests.system.test_hl7_listener import ListenerProcess

PEM = serialization.Encoding.PEM


class Authority:
    """A certificate authority of the test, and the certificates it signs, as files of a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._signed(self._name, self._key.public_key(), authority=True).public_bytes(PEM))

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        return builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())

    def certify(self, name: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
        """Certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(self._signed(subject, key.public_key(), authority=False).public_bytes(PEM))
        seal = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        secret.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, seal))
        secret.chmod(0o600)
        return certificate, secret


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "laboratory")


@pytest.fixture
def started(tmp_path: Path, authority: Authority) -> Iterator[list[ListenerProcess]]:
    """Listeners that are killed afterwards."""
    (tmp_path / "sources.yaml").write_text("sources: {}\n")
    running: list[ListenerProcess] = []
    yield running
    for one in running:
        if one.process is not None and one.process.poll() is None:
            one.kill()


def variables(certificate: Path, key: Path, client_ca: Path | None = None) -> dict[str, str]:
    given = {"LIMS_HL7_TLS_CERTIFICATE": str(certificate), "LIMS_HL7_TLS_KEY": str(key)}
    return given | ({"LIMS_HL7_TLS_CLIENT_CA": str(client_ca)} if client_ca else {})


def start(folder: Path, started: list[ListenerProcess], **more: str) -> ListenerProcess:
    listener = ListenerProcess(folder / "data", LIMS_HL7_MESSAGE_SECONDS="2", LIMS_HL7_MESSAGE_BYTES="2000000", **more)
    started.append(listener)
    listener.start()
    return listener


def trusting(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def stored(folder: Path) -> list[bytes]:
    """Messages in the spool."""
    sealer = load_pseudonymiser(folder / "data" / "secrets" / "pseudonym.key", "demo").sealer()
    segments = sorted((folder / "data" / "spool" / "hl7").glob("*.spool"))
    return [one.data or b"" for path in segments for one in read_segment(path, sealer)]


def test_messages_are_acknowledged_over_tls_and_plain_text_is_not_understood(
    tmp_path: Path, authority: Authority, started: list[ListenerProcess]
) -> None:
    listener = start(tmp_path, started, **variables(*authority.certify("listener")))
    client = MllpClient(listener.port, tls=trusting(authority))
    assert isinstance(client.socket, ssl.SSLSocket) and client.socket.version() in ("TLSv1.2", "TLSv1.3")
    for number in range(50):
        client.post(oru(f"M{number}"))
    for number in range(50):
        assert f"MSA|AA|M{number}".encode() in client.answer()
    assert b"MSA|AA|LONG" in client.send(oru("LONG", [f"OBX|1|TX|N^Note^L||{'x' * 1_500_000}||||||F"]))
    old = trusting(authority)
    old.minimum_version = ssl.TLSVersion.TLSv1_1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    for refused in (None, old, ssl.create_default_context()):
        with pytest.raises(OSError):  # plain text, TLS 1.1, a client that does not know the authority
            MllpClient(listener.port, timeout=10, tls=refused).send(oru("PLAIN"))
    assert b"MSA|AA|LAST" in client.send(oru("LAST"))
    assert listener.stop() == 0
    assert len(stored(tmp_path)) == 52 and not any(b"PLAIN" in message for message in stored(tmp_path))


def test_with_a_client_authority_only_its_senders_are_let_in(
    tmp_path: Path, authority: Authority, started: list[ListenerProcess]
) -> None:
    listener = start(tmp_path, started, **variables(*authority.certify("listener"), authority.file))
    stranger = Authority(tmp_path, "stranger")
    for pair in (None, stranger.certify("analyser-9")):
        with pytest.raises(OSError):
            MllpClient(listener.port, timeout=10, tls=trusting(authority, pair)).send(oru("NO"))
    known = trusting(authority, authority.certify("analyser-1"))
    assert b"MSA|AA|YES" in MllpClient(listener.port, tls=known).send(oru("YES"))
    assert listener.stop() == 0 and len(stored(tmp_path)) == 1


def test_who_does_not_finish_the_handshake_is_cut_off(
    tmp_path: Path, authority: Authority, started: list[ListenerProcess]
) -> None:
    listener = start(tmp_path, started, **variables(*authority.certify("listener")))
    with socket.create_connection(("127.0.0.1", listener.port), 20) as silent:
        assert silent.recv(1) == b""
    assert b"MSA|AA|M" in MllpClient(listener.port, tls=trusting(authority)).send(oru("M"))


def refused(folder: Path, *arguments: str, **more: str) -> str:
    """The one line of a listener that does not start."""
    given = os.environ | {"LIMS_DATA_DIR": str(folder / "data"), "LIMS_START_DATE": "2026-01-01"} | more
    command = [sys.executable, "-m", "lims_platform", "hl7", "--port", "0", *arguments]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    return done.stderr


def test_wrong_files_are_one_line_that_names_the_variable(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.certify("listener")
    _, other = authority.certify("other")
    _, locked = authority.certify("locked", b"swordfish")
    readable = tmp_path / "readable.key"
    readable.write_bytes(key.read_bytes())
    readable.chmod(0o644)
    absent, junk = tmp_path / "absent.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    for given, words in (
        (variables(certificate, absent), f"LIMS_HL7_TLS_KEY={absent}: cannot be read"),
        (variables(absent, key), f"LIMS_HL7_TLS_CERTIFICATE={absent}: cannot be read"),
        (variables(certificate, other), "no certificate and key that fit each other"),
        (variables(junk, key), "no certificate and key that fit each other"),
        (variables(certificate, locked), "has a passphrase"),
        (variables(certificate, readable), "others can read it"),
        (variables(certificate, key, junk), f"LIMS_HL7_TLS_CLIENT_CA={junk}: no certificates"),
        ({"LIMS_HL7_TLS_CERTIFICATE": str(certificate)}, "without LIMS_HL7_TLS_KEY would leave MLLP in plain text"),
        ({"LIMS_HL7_TLS_CLIENT_CA": str(certificate)}, "without LIMS_HL7_TLS_CERTIFICATE would leave"),
    ):
        assert words in refused(tmp_path, **given)


def test_production_refuses_plain_text_beyond_this_machine(tmp_path: Path, authority: Authority) -> None:
    from lims_platform.settings import Settings
    from lims_platform.sources.hl7.tls import TlsError, listener_security

    production = Settings(data_dir=tmp_path).model_copy(update={"environment": "production"})
    for host in ("0.0.0.0", "::", "10.20.0.5", "hl7.lims.example", ""):
        with pytest.raises(TlsError, match="refuses plain MLLP"):
            listener_security(production, host)
        assert listener_security(production.model_copy(update={"hl7_plain_text": True}), host) is None
        assert listener_security(Settings(data_dir=tmp_path), host) is None, "the demo may"
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert listener_security(production, host) is None
    certificate, key = authority.certify("listener")
    secured = {"hl7_tls_certificate": certificate, "hl7_tls_key": key}
    assert listener_security(production.model_copy(update=secured), "0.0.0.0") is not None
