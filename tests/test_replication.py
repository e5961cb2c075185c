"""A trail on a second server: logical replication, and a standby that is promoted."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import dumps
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project
from tools import postgres

Servers = tuple[postgres.Server, postgres.Server]
_numbers = count()


def wait_until_equal(expected: object, found: Callable[[], object]) -> None:
    """Wait until something is found, and say what was found instead."""
    end = time.monotonic() + 30
    while expected != found() and time.monotonic() < end:
        time.sleep(0.02)
    assert expected == found()


def run_sql(server: postgres.Server, database: str, script: str, path: Path) -> None:
    """Run a script as psql does, each statement for itself."""
    (path / "script.sql").write_text(script)
    options = ("-Xqv", "ON_ERROR_STOP=1", "-f", str(path / "script.sql"))
    server.run("psql", *options, database=database)


def records(project: Project, table: str) -> list[tuple[object, ...]]:
    """Return what was done to a table, in order."""
    return project.rows(
        f"SELECT audit_operation, id, value FROM {table}_audit ORDER BY audit_operation_timestamp"
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """A publisher and a subscriber, which begins again at once after an error."""
    with (
        postgres.server(postgres.binaries(), wal_level="logical") as publisher,
        postgres.server(
            postgres.binaries(), wal_level="logical", wal_retrieve_retry_interval="50ms"
        ) as subscriber,
    ):
        for one in (publisher, subscriber):
            one.run("psql", "-Xc", f"CREATE ROLE {dumps.KEEPER}")
        yield publisher, subscriber


class Pair:
    """A project on a publisher, and the same one on a subscriber.

    Attributes:
        source: The publisher's.
        target: The subscriber's, migrated too.
        tables: The audited tables of both.
    """

    def __init__(self, path: Path, servers: Servers, tables: Sequence[str]) -> None:
        self.name = f"pair_{next(_numbers)}"
        self.tables = tables
        databases = [Database(self.name, server) for server in servers]
        for server in servers:
            server.create_database(self.name)
        self.publisher, self.subscriber = servers
        self.source = dumps.project_in(path / "source", databases[0])
        dumps.start(self.source, *tables)
        self.target = dumps.same_project(self.source, path / "target", databases[1])
        self.target.upgrade()

    def subscribe(self, *publications: str) -> None:
        """Make publications, and a subscription to them."""
        for publication in publications:
            self.source.execute(f"CREATE PUBLICATION {publication}")
        names = ", ".join(publication.split()[0] for publication in publications)
        self.autocommit(
            f"CREATE SUBSCRIPTION {self.name} CONNECTION '{self.publisher.dsn(self.name)}' "
            f"PUBLICATION {names}"
        )

    def subscribe_to_all(self) -> None:
        """Subscribe as docs/backups.md says: to the tables, and to what trails gain."""
        trails = ", ".join(f"{name}_audit" for name in self.tables)
        self.subscribe(
            f"shop FOR TABLE {', '.join(self.tables)}",
            f"shop_trail FOR TABLE {trails} WITH (publish = 'insert')",
        )

    def autocommit(self, statement: str) -> None:
        """Run a statement on the subscriber that cannot run in a transaction."""
        with self.target.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)

    def wait_until_same(self) -> None:
        """Wait until the subscriber has what the publisher has."""
        expected = dumps.rows(self.source, *self.tables)
        wait_until_equal(expected, lambda: dumps.rows(self.target, *self.tables))

    def errors(self) -> int:
        """Return how often the subscriber could not apply what it got."""
        if self.subscriber.version < 15:
            pytest.skip("PostgreSQL 14 does not count errors")
        ((number,),) = self.target.rows(
            "SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats"
        )
        return int(number)


Pairs = Callable[..., Pair]


@pytest.fixture
def pairs(tmp_path: Path, servers: Servers) -> Iterator[Pairs]:
    """What makes a pair; its subscription ends with the test."""
    made: list[Pair] = []

    def make(*tables: str) -> Pair:
        made.append(Pair(tmp_path, servers, tables))
        return made[-1]

    yield make
    for pair in made:
        mine = "SELECT subname FROM pg_subscription JOIN pg_database AS d ON d.oid = subdbid"
        for (name,) in pair.target.rows(f"{mine} WHERE datname = current_database()"):
            pair.autocommit(f"DROP SUBSCRIPTION {name}")
        for server in servers:
            server.drop_database(pair.name)


def write_much(project: Project, *tables: str) -> None:
    """Write tables in every way."""
    for name in tables:
        project.execute(
            f"INSERT INTO {name} VALUES (11, 'x'), (12, 'y')",
            f"UPDATE {name} SET value = 'z' WHERE id IN (3, 11)",
            f"UPDATE {name} SET id = 13 WHERE id = 12",
            f"DELETE FROM {name} WHERE id = 11",
        )


def test_each_record_arrives_once(pairs: Pairs) -> None:
    """A subscriber to tables and trails has both as they are, and triggers that do not fire."""
    pair = pairs(*dumps.ORDINARY)
    pair.subscribe_to_all()
    pair.wait_until_same()
    write_much(pair.source, *dumps.ORDINARY)
    pair.source.execute("TRUNCATE meter", "TRUNCATE account CASCADE")
    pair.wait_until_same()
    assert ("T",) == pair.target.rows(
        "SELECT audit_operation FROM account_audit ORDER BY audit_id"
    )[-1]
    pair.target.check(dumps.models(*dumps.ORDINARY))


def test_all_tables(pairs: Pairs) -> None:
    """Alembic's own table is one of them, and each server has it; the others arrive."""
    pair = pairs("account")
    pair.subscribe("shop FOR ALL TABLES")
    pair.wait_until_same()
    wait_until_equal(True, lambda: pair.errors() > 0)
    states = """
        SELECT srrelid::regclass::text FROM pg_subscription_rel
        WHERE srsubstate <> 'r' AND srrelid::regclass::text !~ '^account'
    """
    assert [("alembic_version",)] == pair.target.rows(states)


def test_subscriber_takes_over(pairs: Pairs, tmp_path: Path) -> None:
    """Sequences are not replicated: audit_id has to be told where it goes on."""
    pair = pairs("account")
    primary: dict[str, object] = {
        "host=primary.example.org dbname=shop": pair.publisher.dsn(pair.name)
    }
    run_sql(pair.publisher, pair.name, dumps.from_the_page("publisher", {}), tmp_path)
    run_sql(pair.subscriber, pair.name, dumps.from_the_page("subscriber", primary), tmp_path)
    pair.wait_until_same()
    takeover = dumps.from_the_page("takeover", {})
    (end,) = re.findall("DROP SUBSCRIPTION .*", takeover)
    pair.autocommit(end)
    with pytest.raises(sa.exc.IntegrityError, match="account_audit_pkey"):
        pair.target.execute("INSERT INTO account VALUES (8)")
    pair.target.execute(takeover.replace(end, ""))
    dumps.check_that_it_goes_on(pair.target, "account")


def test_always_beside_a_copied_trail(pairs: Pairs) -> None:
    """A trigger that is ALWAYS fires as rows are copied, with numbers that the trail has too."""
    pair = pairs("watched")
    pair.subscribe_to_all()
    wait_until_equal(True, lambda: pair.errors() > 1)
    query = "SELECT audit_id, audit_operation, id FROM watched_audit ORDER BY 1"
    rows = pair.target.rows("SELECT id FROM watched ORDER BY 1")
    # Which of the two tables is copied first, nobody knows; the other one is not copied at all.
    assert (rows, pair.target.rows(query)) in [
        ([(1,), (3,)], [(1, "I", 1), (2, "I", 3)]),
        ([], pair.source.rows(query)),
    ]


@pytest.mark.parametrize("table", ["watched", "logged"])
def test_always_beside_a_trail_that_is_copied_later(pairs: Pairs, table: str) -> None:
    """While numbers do not meet, or without numbers, each record is there twice."""
    pair = pairs(table)
    pair.source.execute(f"TRUNCATE {table}", f"TRUNCATE {table}_audit")
    pair.subscribe_to_all()
    pair.source.execute(f"INSERT INTO {table} VALUES (5, 'e')")
    wait_until_equal([("I", 5, "e"), ("I", 5, "e")], lambda: records(pair.target, table))
    assert [("I", 5, "e")] == records(pair.source, table)
    pair.target.check(dumps.models(table))


def test_always_records_what_arrives(pairs: Pairs) -> None:
    """A subscriber to tables alone keeps trails of its own: what arrived, when, by which role."""
    pair = pairs(*dumps.ALWAYS)
    tables = ", ".join(dumps.ALWAYS)
    pair.subscribe(f"shop FOR TABLE {tables} WITH (publish_via_partition_root)")
    for name in pair.tables:
        copied = [("I", 1, "a"), ("I", 3, "d")]
        wait_until_equal(copied, lambda name=name: sorted(records(pair.target, name)))
    known = {name: len(records(pair.source, name)) for name in pair.tables}
    write_much(pair.source, *pair.tables)
    pair.source.execute(*(f"TRUNCATE {name}" for name in pair.tables))
    for name in pair.tables:
        made = records(pair.source, name)[known[name] :]
        wait_until_equal(made, lambda name=name: records(pair.target, name)[2:])
    assert [(pair.target.engine.url.username,)] == pair.target.rows(
        "SELECT DISTINCT audit_current_user FROM watched_audit"
    )
    pair.target.check(dumps.models(*pair.tables))


def test_always_records_partitions_that_are_truncated(pairs: Pairs) -> None:
    """TRUNCATE of a table arrives as one of each partition, if it is not published by the root."""
    pair = pairs("gauge")
    pair.source.execute("INSERT INTO gauge VALUES (8, 'h')")
    pair.subscribe("shop FOR TABLE gauge")
    copied = [("I", 1, "a"), ("I", 3, "d"), ("I", 8, "h")]
    wait_until_equal(copied, lambda: sorted(records(pair.target, "gauge")))
    pair.source.execute("TRUNCATE gauge")
    wait_until_equal([], lambda: pair.target.rows("SELECT FROM gauge"))
    assert [("T", None, None)] == records(pair.source, "gauge")[-1:]
    assert [("D", 1, "a"), ("D", 3, "d")] == sorted(records(pair.target, "gauge")[3:])


PURGE = "op.purge_audit_table({!r}, before='2999-01-01 00:00+00:00', reason='law', keep_last=None)"


def test_purge_stays_where_it_is(pairs: Pairs) -> None:
    """A publication of what trails gain does not pass a purge on; the subscriber runs its own."""
    pair = pairs("account", "ledger", "note")
    pair.subscribe_to_all()
    pair.wait_until_same()
    pair.source.write("; ".join(PURGE.format(f"{name}_audit") for name in pair.tables))
    pair.source.upgrade()
    pair.source.execute("INSERT INTO ledger VALUES (8, 'h')")
    last = "SELECT id FROM ledger_audit ORDER BY audit_id DESC LIMIT 1"
    wait_until_equal([(8,)], lambda: pair.target.rows(last))
    for name, kept in (("account", 7), ("ledger", 8), ("note", 7)):
        assert [(kept,)] == pair.target.rows(f"SELECT count(*) FROM {name}_audit")
    target = dumps.same_project(pair.source, pair.target.path, Database(pair.name, pair.subscriber))
    target.upgrade()
    assert [(0,)] == target.rows("SELECT count(*) FROM ledger_audit")
    target.check(dumps.models(*pair.tables))


def test_purge_that_is_published(pairs: Pairs) -> None:
    """DELETE arrives, and a trail that is append_only refuses it until its row guard is off."""
    pair = pairs("ledger")
    pair.subscribe("shop FOR TABLE ledger, ledger_audit")
    pair.wait_until_same()
    pair.source.write(PURGE.format("ledger_audit"))
    pair.source.upgrade()
    errors = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats"
    wait_until_equal([(True,)], lambda: pair.target.rows(errors))
    assert [(7,)] == pair.target.rows("SELECT count(*) FROM ledger_audit")
    guard = 'ALTER TABLE ledger_audit {} TRIGGER "00_audit_ledger_append_only_row"'
    pair.target.execute(guard.format("DISABLE"))
    pair.wait_until_same()
    pair.target.execute(guard.format("ENABLE ALWAYS"))
    assert [(0,)] == pair.target.rows("SELECT count(*) FROM ledger_audit")


def test_purge_of_a_classic_trail_that_is_published(pairs: Pairs) -> None:
    """It has no key by which a DELETE could be told, so PostgreSQL refuses the purge."""
    pair = pairs("note", "account")
    pair.source.execute("CREATE PUBLICATION shop FOR TABLE note_audit")
    pair.source.write(PURGE.format("note_audit"))
    with pytest.raises(sa.exc.DBAPIError, match="does not have a replica identity and publishes"):
        pair.source.upgrade()
    assert [(7,)] == pair.source.rows("SELECT count(*) FROM note_audit")


def test_column_that_comes(pairs: Pairs) -> None:
    """DDL is not replicated: the subscriber is migrated first, and loses no record."""
    pair = pairs("account")
    pair.subscribe_to_all()
    pair.wait_until_same()
    metadata = dumps.models("account")
    metadata.tables["account"].append_column(sa.Column("phone", sa.Text))
    pair.source.revision(metadata)
    target = dumps.same_project(pair.source, pair.target.path, Database(pair.name, pair.subscriber))
    target.upgrade()
    pair.source.execute("INSERT INTO account VALUES (8, 'h')")
    pair.source.upgrade()
    pair.source.execute("INSERT INTO account VALUES (9, 'i', '555')")
    pair.wait_until_same()
    target.check(metadata)


def back_up(primary: postgres.Server, cluster: postgres.Cluster) -> None:
    """Run what docs/backups.md says."""
    places: dict[str, object] = {
        "host=primary.example.org": primary.dsn(),
        "/srv/standby": cluster.data,
    }
    cluster.run("sh", "-ec", dumps.from_the_page("standby", places))


def test_standby_that_is_promoted(tmp_path: Path) -> None:
    """Nothing differs on a standby, and nothing after it took over; numbers and ids go on."""
    with postgres.server(postgres.binaries()) as primary:
        primary.run("psql", "-Xc", f"CREATE ROLE {dumps.KEEPER}")
        primary.create_database("shop")
        source = dumps.project_in(tmp_path / "source", Database("shop", primary))
        dumps.start(source)
        with postgres.server(fill=lambda cluster: back_up(primary, cluster)) as standby:
            source.execute("INSERT INTO account VALUES (9, 'late')")
            path = tmp_path / "standby"
            project = dumps.same_project(source, path, Database("shop", standby))
            wait_until_equal(dumps.rows(source), lambda: dumps.rows(project))
            assert snapshot(source.engine) == snapshot(project.engine)
            project.check(dumps.models())
            with pytest.raises(sa.exc.DBAPIError, match="read-only transaction"):
                project.execute("INSERT INTO account VALUES (8)")
            assert [(True,)] == project.rows(dumps.from_the_page("promote", {}))
            project.check(dumps.models())
            dumps.check_that_it_goes_on(project)
            *_, before, after = project.rows("SELECT audit_id FROM vault_audit ORDER BY 1")
            assert after[0] - before[0] <= 33
            ids = "SELECT audit_transaction_id FROM account_audit ORDER BY audit_id"
            assert sorted(project.rows(ids)) == project.rows(ids)
