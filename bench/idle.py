"""What an idle `headway up` takes: processor seconds a minute of each process, and statements a second by their text.

    python -m bench.idle --base tiny=.headway-cache/tiny-arith [--seconds 60] [--settle 20]

The box has one base, one trainer, one sampler and one runner; nobody calls it. Statements are counted by PostgreSQL's
own log. The goal: all processes together under 5 % of a core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psycopg

_WORTH_SHOWING = 0.0002
_STATEMENT = re.compile(r"(?:statement|execute [^:]*): (.*)")


def main() -> None:
    """Start a box, let it settle, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--settle", type=float, default=20.0)
    parser.add_argument("--statements", action="store_true", help="log and count statements (which costs a little)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headway-idle-") as folder:
        data_dir = Path(folder)
        with (data_dir / "up.log").open("w") as log:
            command = [sys.executable, "-m", "cli", "up", "--base", options.base, "--port", "0", "--data-dir", folder]
            up = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_ready(up, data_dir)
            time.sleep(options.settle)
            _measure(up.pid, data_dir, options.seconds, log_statements=options.statements)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)


def _wait_until_ready(up: subprocess.Popen[bytes], data_dir: Path) -> None:
    until, env = time.monotonic() + 180, data_dir / "env"
    while time.monotonic() < until and up.poll() is None:
        if env.exists() and (found := re.search(r"HUD_\w*URL=['\"]?(http://[\d.]+:\d+)", env.read_text())):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{found[1]}/readyz").status_code == 200:
                    return
        time.sleep(0.5)
    raise SystemExit((data_dir / "up.log").read_text()[-4000:])


def _measure(up: int, data_dir: Path, seconds: float, *, log_statements: bool) -> None:
    dsn = _database_url(up)
    log = data_dir / "postgres" / "log"
    if log_statements:
        _set_logging(dsn, "all")
    before, started, at = _seconds_by_process(up), time.monotonic(), log.stat().st_size
    time.sleep(seconds)
    after, took_s = _seconds_by_process(up), time.monotonic() - started
    if log_statements:
        _set_logging(dsn, "none")
    shares = {name: (after[name] - before.get(name, 0.0)) / took_s for name in after}
    for name, share in sorted(shares.items(), key=lambda shown: -shown[1]):
        if share > _WORTH_SHOWING:
            print(f"{100 * share:6.2f} %  {60 * share:6.2f} s/min  {name}")
    print(f"{100 * sum(shares.values()):6.2f} %  of a core in all; load average {os.getloadavg()[0]:.2f}")
    if log_statements:
        with log.open("rb") as lines:
            lines.seek(at)
            _print_statements(lines.read().decode(errors="replace"), took_s)


def _print_statements(text: str, took_s: float) -> None:
    entries = re.split(r"\n(?=\d{4}-\d\d-\d\d )", text)
    found = Counter(" ".join(match[1].split())[:150] for e in entries if (match := _STATEMENT.search(_one_line(e))))
    print(f"{sum(found.values()) / took_s:.1f} statements/s")
    for statement, times in found.most_common(40):
        print(f"{times / took_s:6.2f}/s  {statement}")


def _one_line(entry: str) -> str:
    return " ".join(entry.split())


def _set_logging(dsn: str, level: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"alter system set log_statement = '{level}'".encode())
        connection.execute("select pg_reload_conf()")
    time.sleep(1)


def _database_url(up: int) -> str:
    for pid in _tree(up):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        for word in words:
            if word.startswith("HEADWAY_DATABASE_URL="):
                return re.sub(r"^postgresql\+\w+", "postgresql", word.partition("=")[2])
    raise SystemExit("no process of the box knows its database")


def _seconds_by_process(up: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for pid in _tree(up):
        try:
            found[f"{pid} {_name(pid)}"] = time.clock_gettime(_processor_clock(pid))
        except OSError:  # it has ended
            continue
    return found


def _processor_clock(pid: int) -> int:
    """The clock of what another process has used, as `clock_getcpuclockid` makes it: exact to the nanosecond. The ticks
    in /proc/PID/stat miss what wakes up with the timer and works for less than a tick."""
    return (~pid << 3) | 2


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += parents.get(pid, [])
    return found


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return " ".join(word.rpartition("/")[2] for word in words if word)[:70]


if __name__ == "__main__":
    main()
