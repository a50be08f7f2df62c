"""A PostgreSQL server of the tests' own: in a temporary folder, on loopback, with a password, gone when they end."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

USER = "reconwatch"
BACKSTAGE = "postgres"  # the database that every server has


class PostgreSQLMissing(RuntimeError):  # noqa: N818 (it says what happened)
    """There are no programs of PostgreSQL, or no user who may run them; the message says what to install."""


@dataclass(frozen=True)
class PostgreSQL:
    """A running server.

    Attributes:
        folder: its data, log and password; gone when it ends.
        runs_as: the system's user whose process it is; None where that is who runs the tests.
    """

    port: int
    password: str
    folder: Path
    programs: Path
    runs_as: str | None

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """The address of a database on it, as SQLAlchemy reads it."""
        return f"{driver}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The name of a database that is empty."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = BACKSTAGE) -> str:
        """What a statement prints, without headings."""
        program, place = str(self.programs / "psql"), f"host=127.0.0.1 port={self.port} user={USER} dbname={database}"
        command = [program, place, "-v", "ON_ERROR_STOP=1", "-qAtXc", statement]
        environment = os.environ | {"PGPASSWORD": self.password}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def start(self) -> None:
        """Start it, or start it again after `stop`; returns once it takes connections."""
        log = self.folder / "server.log"
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._control("start", "-w", "-l", str(log), "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """End it: `fast` breaks off what runs, `immediate` is as if its machine lost power."""
        self._control("stop", "-m", mode)

    def _control(self, *arguments: str) -> None:
        command = [str(self.programs / "pg_ctl"), "-s", "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, user=self.runs_as, check=True, cwd=self.folder, timeout=120, stdout=subprocess.DEVNULL)


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """A server on a free port, with a user who may do anything.

    Raises:
        PostgreSQLMissing: it cannot be started here.
    """
    programs, runs_as = _programs(), _runs_as()
    folder = Path(tempfile.mkdtemp(prefix="reconwatch-postgresql-"))
    try:
        port = free_port()
        server = PostgreSQL(port, secrets.token_urlsafe(12), folder, programs, runs_as)
        _initialise(server)
        server.start()
        try:
            yield server
        finally:
            _end(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(server: PostgreSQL) -> None:
    password = server.folder / "password"
    password.write_text(server.password, encoding="utf-8")
    if server.runs_as is not None:
        for path in (server.folder, password):
            shutil.chown(path, server.runs_as)
    options = ["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync", "--pwfile", str(password)]
    command = [str(server.programs / "initdb"), "-D", str(server.folder / "data"), *options]
    subprocess.run(command, user=server.runs_as, check=True, cwd=server.folder, stdout=subprocess.DEVNULL)


def _end(server: PostgreSQL) -> None:
    if (server.folder / "data" / "postmaster.pid").exists():  # a test may have stopped it
        server.stop("immediate")


def _programs() -> Path:
    """The folder of the newest version's programs; Debian has them outside of PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise PostgreSQLMissing("no PostgreSQL is installed (on Debian: apt-get install postgresql)")
    return versions[-1].parent


def _runs_as() -> str | None:
    """PostgreSQL refuses to run as root: its own user, which its package made, does."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        raise PostgreSQLMissing("PostgreSQL does not run as root, and there is no user 'postgres'") from None
    return "postgres"
