"""deploy/nginx.conf as a running nginx: its own lines with free ports, a certificate and a password of the test.

Not here: what is asked through it (``test_production``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lims_platform_tests.programs import program
from lims_platform_tests.servers import free_port
from lims_platform_tests.system.deployment import ROOT

WRAPPER = """{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, upstreams: Mapping[int, int], user: str, password: str) -> Iterator[int]:
    """Yields its TLS port. ``upstreams``: port in deploy/nginx.conf to port here."""
    executable = program("nginx", "nginx-light")
    folder.mkdir()
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-days", "1", "-subj", "/CN=lims.example"], check=True, capture_output=True
    )
    made = subprocess.run(["openssl", "passwd", "-apr1", password], check=True, capture_output=True, text=True)
    (folder / "users").write_text(f"{user}:{made.stdout}")
    port = free_port()
    changes = {
        "listen 443": f"listen 127.0.0.1:{port}",
        "listen 80": f"listen 127.0.0.1:{free_port()}",
        "/etc/ssl/lims/fullchain.pem": str(folder / "cert"),
        "/etc/ssl/lims/privkey.pem": str(folder / "key"),
        "/etc/nginx/lims.htpasswd": str(folder / "users"),
        **{f"http://127.0.0.1:{there};": f"http://127.0.0.1:{here};" for there, here in upstreams.items()},
    }
    site = (ROOT / "deploy" / "nginx.conf").read_text()
    for old, new in changes.items():
        assert old in site, old
        site = site.replace(old, new)
    root = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(WRAPPER.format(user=root, folder=folder, site=site))
    line = [executable, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(line, stderr=subprocess.STDOUT)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, host: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of one request, GET or (with a body) POST; of a WebSocket handshake only the status."""
    lines = {"Host": host, "Connection": "close", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the test made the certificate a moment ago
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain, context.wrap_socket(plain) as sealed:
        sealed.sendall(f"{head}\r\n{body}".encode())
        answer = b""
        while part := sealed.recv(65536):
            answer += part
            if answer.startswith(b"HTTP/1.1 101"):
                break
    status, _, rest = answer.decode(errors="replace").partition("\r\n")
    return int(status.split()[1]), rest.partition("\r\n\r\n")[2]
