"""A private PostgreSQL cluster: TCP on 127.0.0.1 with a password, synchronous commit."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from core import durable
from deploy.embedded.ports import free_port
from deploy.embedded.process import Command, Server, ServerError, program

_USER = "onescan"
_SYSTEM_USER = "postgres"
_READY_LINE = 7  # of postmaster.pid, where pg_ctl looks too
_database_number = itertools.count(1)


class PostgresCluster(Server):
    """A cluster of its own under `folder`; `dsn` is the address of its database `onescan`.

    PostgreSQL refuses to run as root. Started by root it runs as Debian's user `postgres`, and its files lie
    in the system's folder for temporary files where that user can't reach `folder` (say, below /root);
    `folder/location` then names the place. Such a cluster ends with the `with` block; `remove()` deletes any.

    A stop and a start keep the data, the port and the password. `stop(signal.SIGQUIT)` is the crash: the next
    start goes through recovery.
    """

    def __init__(self, folder: Path, port: int | None = None, settings: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self._settings = list(settings)

    @property
    def dsn(self) -> str:
        """Address of the database `onescan`, with password, as libpq understands it."""
        return self.dsn_of(_USER)

    def dsn_of(self, database: str) -> str:
        """Address of another database of this cluster."""
        return f"postgresql://{_USER}:{self._password()}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None) -> str:
        """Make an empty database (by default with a name not used before) and return its address."""
        name = name or f"test_{os.getpid()}_{next(_database_number)}_{secrets.token_hex(3)}"
        address = [
            "--host=127.0.0.1",
            f"--port={self.port}",
            f"--username={_USER}",
            "--maintenance-db=postgres",
        ]
        _run(
            [self._program("createdb"), *address, name],
            environment={**os.environ, "PGPASSWORD": self._password()},
        )
        return self.dsn_of(name)

    def prepare(self) -> Command:
        """Make the cluster if there is none yet."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "synchronous_commit": "on",
            "max_connections": "60",
            "log_min_messages": "warning",
            "timezone": "UTC",
        }
        settings = [f"{name}={value}" for name, value in options.items()] + self._settings
        argv = [self._program("postgres"), "-D", str(self._data), *(f"--{setting}" for setting in settings)]
        return Command(argv, user=_system_user(), stop_with=signal.SIGINT)  # SIGINT: don't wait for clients

    def is_ready(self) -> bool:
        """True when it accepts connections."""
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            # it may be seen empty, or half written
            return lines[:1] == [str(self.pid)] and lines[_READY_LINE : _READY_LINE + 1] == ["ready   "]
        return False

    def start(self) -> PostgresCluster:
        """As `Server.start`; makes the database `onescan` where it is missing."""
        if self.pid is None:
            super().start()
            if not self._made.exists():
                self.create_database(_USER)
                durable.write_text(self._made, _USER)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._elsewhere.exists():
            durable.remove_tree(self._data)
            self._forget()

    def remove(self) -> None:
        """Stop, and delete the cluster wherever it lies."""
        self.stop()
        durable.remove_tree(self._data)
        durable.remove_tree(self.folder)

    @property
    def _data(self) -> Path:
        return Path(self._elsewhere.read_text()) if self._elsewhere.exists() else self.folder / "data"

    @property
    def _elsewhere(self) -> Path:
        return self.folder / "location"

    @property
    def _made(self) -> Path:
        return self.folder / "database-made"

    def _forget(self) -> None:
        self._made.unlink(missing_ok=True)
        self._elsewhere.unlink(missing_ok=True)

    def _initialise(self) -> None:
        self._choose_location()
        durable.write_text(self.folder / "password", secrets.token_urlsafe(24), mode=0o600)
        owner = _system_user()
        with tempfile.NamedTemporaryFile("w") as password_file:
            password_file.write(self._password())
            password_file.flush()
            if owner is not None:
                shutil.chown(password_file.name, owner)
            _run(
                [
                    *_as_user(owner),
                    self._program("initdb"),
                    f"--pgdata={self._data}",
                    f"--username={_USER}",
                    f"--pwfile={password_file.name}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                ]
            )

    def _choose_location(self) -> None:
        """Make the empty data folder, owned by who will run the server."""
        owner = _system_user()
        self._forget()
        if owner is not None and not _can_reach(self.folder, owner):
            durable.write_text(self._elsewhere, tempfile.mkdtemp(prefix="onescan-postgres-"))
        else:
            durable.remove_tree(self._data)  # what a broken-off initdb left
            self._data.mkdir(mode=0o700)
        if owner is not None:
            shutil.chown(self._data, owner)

    def _password(self) -> str:
        return (self.folder / "password").read_text()

    def _program(self, name: str) -> str:
        """The program of the version that made the cluster, or of the newest one installed."""
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
        with contextlib.suppress(OSError):
            made_by = (self._data / "PG_VERSION").read_text().strip()
            versions = [path for path in versions if path.parent.name == made_by] or versions
        return program(name, *map(str, versions))


def _system_user() -> str | None:
    """Whom PostgreSQL runs as: None for "whoever we are"."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SYSTEM_USER).pw_name
    except KeyError as error:
        raise ServerError("PostgreSQL can't run as root, and its user `postgres` does not exist") from error


def _can_reach(folder: Path, user: str) -> bool:
    argv = [*_as_user(user), "test", "-x", str(folder)]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


def _as_user(user: str | None) -> list[str]:
    return [] if user is None else [program("runuser"), "-u", user, "--"]


def _run(argv: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment, cwd="/")
    if done.returncode != 0:
        raise ServerError(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()}")


def _version(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0.0


def _remove_below(root: Path) -> None:
    """Delete the clusters that lie outside `root` but belong to folders below it."""
    for named in root.rglob("location"):
        place = Path(named.read_text())
        ours = place.name.startswith("onescan-postgres-") and place.parent == Path(tempfile.gettempdir())
        if ours and stat.S_ISDIR(place.lstat().st_mode if place.exists() else 0):
            durable.remove_tree(place)


if __name__ == "__main__":  # `make clean`
    _remove_below(Path(sys.argv[1]))
