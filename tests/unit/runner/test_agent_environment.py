"""What an agent process finds in its environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runner.agents.child_environment import child_environment
from tests.certificates import Authority

PARSED = "import httpx; print(httpx.create_ssl_context().cert_store_stats()['x509_ca'])"


def certificates_parsed(server: str, folder: Path, ca: Path | None = None, **ours: str) -> int:
    """By a new HTTP client in an agent process."""
    environment = child_environment(server, folder, ca, ours)
    done = subprocess.run([sys.executable, "-c", PARSED], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_clients_parse_no_certificates_for_a_server_without_tls(tmp_path: Path):
    assert certificates_parsed("http://server:8420", tmp_path) == 0


def test_clients_of_a_server_with_tls_know_public_authorities(tmp_path: Path):
    assert certificates_parsed("https://server:8420", tmp_path) > 50


def test_an_operator_says_which_authorities_are_trusted(tmp_path: Path):
    ca = str(Authority(tmp_path).file)
    assert certificates_parsed("http://server:8420", tmp_path, SSL_CERT_FILE=ca) == 1
    assert certificates_parsed("https://server:8420", tmp_path, Path(ca)) == 1
