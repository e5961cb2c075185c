"""Connections that write at each isolation level, and note what they committed."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from tests.conftest import Database
from tests.storm.notes import HOT, TABLES, State, Transaction, Write

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
DRIVERS = ("psycopg2", "psycopg")
"""psycopg prepares a statement at its fifth execution, and keeps the plan over the migrations."""

STATE = "SELECT " + ", ".join(
    "pg_catalog.substring(pg_catalog.pg_get_functiondef(COALESCE("
    f"pg_catalog.to_regprocedure('public.public_{table}_audit()'),"
    f" pg_catalog.to_regprocedure('public.f_{table}()'))), '-- alembic_audit: ([^\\n]*)')"
    for table in TABLES
)
"""What records the tables now, whatever the isolation level: functions are looked up afresh."""


class Writer:
    """One connection that writes until it is told to stop."""

    def __init__(self, number: int, url: sa.URL, level: str, stop: threading.Event) -> None:
        self.name = f"writer {number}"
        self.level = level
        self.stop = stop
        self.engine = sa.create_engine(url, isolation_level=level, pool_size=1, max_overflow=0)
        self.chance = random.Random(number)
        self.base = (number + 1) * 10**9
        self.count = 0
        self.done: list[Transaction] = []
        self.failures: list[str] = []
        self.seen: Counter[str] = Counter()
        self.may_lose_connection = False
        self.lost = 0

    # What it knows of the schema; the application's own part in a migration.
    mail, note, receipt = "email", False, False
    stale = False
    pause = 0.0

    def number(self) -> int:
        """Return a number that nobody else has."""
        self.count += 1
        return self.base + self.count

    def run(self) -> None:
        """Write until told to stop, or until a write fails for a reason of ours."""
        try:
            while not self.stop.is_set():
                self._transaction()
                time.sleep(self.chance.random() * self.pause)
        except BaseException as error:
            self.failures.append(f"{self.name}, {self.level}: {type(error).__name__}: {error}")
        finally:
            with suppress(sa.exc.DBAPIError):
                self.engine.dispose()

    def _transaction(self) -> None:
        noted: Transaction | None = None
        try:
            with self.engine.connect() as connection:
                noted = Transaction(self.name, self._state(connection))
                connection.rollback()
                self._work(connection, noted)
                noted.after = self._state(connection)
                if self.chance.random() < 0.1:
                    connection.rollback()
                    self.seen["rolled back"] += 1
                    return
                self.done.append(noted)
                connection.commit()
            noted.sure = True
            self.seen["committed"] += 1
        except sa.exc.DBAPIError as error:
            self._failed(error, noted)
        except sa.exc.PendingRollbackError:  # of a connection that is lost
            if not self.may_lose_connection:
                raise

    def _failed(self, error: sa.exc.DBAPIError, noted: Transaction | None) -> None:
        """Go on after an error that is not ours, else raise it."""
        diag = getattr(error.orig, "diag", None)
        state = sqlstate(error)
        if self.may_lose_connection and is_lost(error):
            self.seen["connection lost"] += 1
            self.engine.dispose()
            self.stop.wait(0.05)
            return
        if noted is not None and self.done and self.done[-1] is noted:
            self.done.pop()  # COMMIT was refused
        context = (diag and diag.context) or ""
        if state == "40001":
            self.seen["serialization failure"] += 1
        elif state in ("42703", "42P01") and "PL/pgSQL" not in context and self._skew(error):
            self.seen["schema changed"] += 1
            self.stale = True
        else:
            raise error

    def _skew(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether a statement named what a migration took away."""
        said = str(error.orig).splitlines()[0]
        return any(f'"{name}"' in said for name in ("mail", "email", "note", "receipt"))

    def _look(self, connection: sa.Connection) -> None:
        query = (
            "SELECT attname FROM pg_attribute WHERE attrelid = 'account'::regclass AND attnum > 0"
        )
        columns = set(connection.scalars(sa.text(f"{query} AND NOT attisdropped")))
        self.mail = "mail" if "mail" in columns else "email"
        self.note = "note" in columns
        self.receipt = connection.scalar(sa.text("SELECT to_regclass('receipt')")) is not None
        connection.rollback()

    def _state(self, connection: sa.Connection) -> State:
        found = connection.execute(sa.text(STATE)).one()
        return {
            table: None if header is None else json.loads(header)
            for table, header in zip(TABLES, found, strict=True)
        }

    # -- what is written ----------------------------------------------------------------------

    def _work(self, connection: sa.Connection, noted: Transaction) -> None:
        if self.stale or self.count % 10 == 0:
            self._look(connection)
            self.stale = False
        connection.execute(
            sa.text("SELECT set_config('audit.who', :name, true)"), {"name": self.name}
        )
        chance = self.chance
        if self.receipt and chance.random() < 0.02:
            connection.execute(sa.text("TRUNCATE receipt"))
            noted.writes.append(Write(("receipt", "T", None, None, None)))
            return
        tables = [table for table in TABLES if table != "receipt" or self.receipt]
        for table in chance.sample(tables, chance.randint(1, len(tables))):
            kinds = [self._insert, self._update, self._delete, self._upsert, self._rolled_back]
            kinds += [self._touch] if table == "account" else [self._rekey]
            for kind in chance.choices(kinds, [5, 5, 1, 2, 1, 2], k=chance.randint(1, 2)):
                kind(connection, noted, table)
        if chance.random() < 0.3:
            self._update(connection, noted, "account", [chance.choice(HOT)])

    def _own(self, connection: sa.Connection, table: str, count: int) -> list[int]:
        """Return ids of some rows of its own."""
        query = f"SELECT id FROM {table} WHERE id > :base AND id < :top"
        found = connection.scalars(
            sa.text(f"{query} ORDER BY id DESC LIMIT 20"),
            {"base": self.base, "top": self.base + 10**9},
        ).all()
        return self.chance.sample(found, min(len(found), self.chance.randint(1, count)))

    def _values(self, connection: sa.Connection, table: str, stamp: int) -> dict[str, Any] | None:
        """Return the columns of a row, beside its id; None if there is no account to refer to."""
        if table == "account":
            values = {"stamp": stamp, self.mail: f"mail {stamp}"}
            return values | ({"note": f"note {stamp}"} if self.note else {})
        own = self._own(connection, "account", 1)
        if not own:
            return None
        values = {"stamp": stamp, "account_id": own[0]}
        return values | ({"payer_id": own[0]} if table == "invoice" else {})

    def _run(
        self,
        connection: sa.Connection,
        noted: Transaction,
        table: str,
        operation: str,
        statement: str,
        values: dict[str, Any],
        note: str | None = None,
        touch: bool = False,
    ) -> None:
        """Run a statement, and take note of the rows that it says it wrote."""
        returned = "id, stamp, seen" if table == "account" else "id, stamp, NULL"
        inserted = ", xmax = 0" if operation == "upsert" else ""
        result = connection.execute(sa.text(f"{statement} RETURNING {returned}{inserted}"), values)
        for number, stamp, seen, *is_new in result:
            letter = ("I" if is_new[0] else "U") if is_new else operation
            noted.writes.append(Write((table, letter, number, stamp, seen), touch, note))

    def _insert(self, connection: sa.Connection, noted: Transaction, table: str) -> None:
        self._put(connection, noted, table, [], self.chance.choice([1, 1, 3, 8]))

    def _upsert(self, connection: sa.Connection, noted: Transaction, table: str) -> None:
        self._put(connection, noted, table, self._own(connection, table, 3), 2)

    def _put(
        self, connection: sa.Connection, noted: Transaction, table: str, ids: list[int], new: int
    ) -> None:
        stamp = self.number()
        values = self._values(connection, table, stamp)
        if values is None:
            return
        upsert = bool(ids)
        ids = [*ids, *(self.number() for _ in range(new))]
        rows = ", ".join(
            f"({number}, {', '.join(f':{name}' for name in values)})" for number in ids
        )
        statement = f"INSERT INTO {table} (id, {', '.join(values)}) VALUES {rows}"
        if upsert:
            sets = ", ".join(f"{name} = excluded.{name}" for name in values)
            statement += f" ON CONFLICT (id) DO UPDATE SET {sets}"
        kind = "upsert" if upsert else "I"
        self._run(connection, noted, table, kind, statement, values, values.get("note"))

    def _update(
        self, connection: sa.Connection, noted: Transaction, table: str, ids: Sequence[int] = ()
    ) -> None:
        ids = ids or self._own(connection, table, 5)
        values = self._values(connection, table, self.number()) if ids else None
        if values is None:
            return
        sets = ", ".join(f"{name} = :{name}" for name in values)
        statement = f"UPDATE {table} SET {sets} WHERE id = ANY(:ids)"
        self._run(
            connection,
            noted,
            table,
            "U",
            statement,
            values | {"ids": list(ids)},
            values.get("note"),
        )

    def _touch(self, connection: sa.Connection, noted: Transaction, table: str) -> None:
        values = {"seen": self.number(), "ids": self._own(connection, table, 3)}
        statement = f"UPDATE {table} SET seen = :seen WHERE id = ANY(:ids)"
        self._run(connection, noted, table, "U", statement, values, touch=True)

    def _rekey(self, connection: sa.Connection, noted: Transaction, table: str) -> None:
        """Change the key of a row: two records."""
        for number in self._own(connection, table, 1):
            query = sa.text(f"SELECT stamp FROM {table} WHERE id = :id")
            former = connection.scalar(query, {"id": number})
            values = {"id": number, "new": self.number(), "stamp": self.number()}
            statement = f"UPDATE {table} SET id = :new, stamp = :stamp WHERE id = :id"
            count = len(noted.writes)
            self._run(connection, noted, table, "U", statement, values)
            if len(noted.writes) > count:
                noted.writes.append(Write((table, "D", number, former, None)))

    def _delete(self, connection: sa.Connection, noted: Transaction, table: str) -> None:
        """Delete rows; those of an account go with it by the foreign keys' cascades."""
        ids = self._own(connection, table, 2)
        others = [one for one in TABLES[1:] if one != "receipt" or self.receipt]
        before = [] if table != "account" else self._referring(connection, others, ids)
        self._run(
            connection, noted, table, "D", f"DELETE FROM {table} WHERE id = ANY(:ids)", {"ids": ids}
        )
        if before:
            after = self._referring(connection, others, ids)
            noted.writes += [
                Write((name, "D", number, stamp, None))
                for name, number, stamp in before
                if (name, number, stamp) not in after
            ]

    def _referring(
        self, connection: sa.Connection, tables: list[str], ids: list[int]
    ) -> list[tuple[str, int, int]]:
        return [
            (table, *row)
            for table in tables
            for row in connection.execute(
                sa.text(f"SELECT id, stamp FROM {table} WHERE account_id = ANY(:ids)"), {"ids": ids}
            )
        ]

    def _rolled_back(self, connection: sa.Connection, noted: Transaction, table: str) -> None:
        """Write and roll back to a savepoint: no record."""
        with connection.begin_nested() as savepoint:
            count = len(noted.writes)
            self._insert(connection, noted, table)
            self._update(connection, noted, table)
            savepoint.rollback()
            del noted.writes[count:]


def sqlstate(error: sa.exc.DBAPIError) -> str | None:
    """Return what the server called an error; None is one of the driver, of a connection mostly."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def is_lost(error: sa.exc.DBAPIError) -> bool:
    """Return whether there is no server at the other end of a connection any more."""
    state = sqlstate(error)
    if state is None:
        return not isinstance(error, sa.exc.ProgrammingError | sa.exc.DataError)
    return state in ("57P01", "57P02", "57P03")  # it shuts down, crashed, cannot connect now


class Writers:
    """Some writers at each isolation level, each with a connection of its own.

    Args:
        database: What they write.
        each: How many for each level.
        pause: For how many seconds each rests at most between two transactions.
        may_lose_connection: The server is going to be killed.
    """

    def __init__(
        self,
        database: Database,
        each: int,
        *,
        pause: float = 0.4,
        may_lose_connection: bool = False,
    ) -> None:
        self.stop = threading.Event()
        self.writers = [
            Writer(number, database.url(DRIVERS[number % 2]), LEVELS[number // each], self.stop)
            for number in range(each * len(LEVELS))
        ]
        for writer in self.writers:
            writer.pause = pause
            writer.may_lose_connection = may_lose_connection
        self.threads = [threading.Thread(target=one.run, daemon=True) for one in self.writers]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def wait(self, count: int) -> None:
        """Return when so many transactions more are committed, or a writer failed."""
        until = self.seen()["committed"] + count
        while self.seen()["committed"] < until and not self.failures:
            time.sleep(0.01)

    @property
    def failures(self) -> list[str]:
        return [failure for writer in self.writers for failure in writer.failures]

    def seen(self) -> Counter[str]:
        """Return how many transactions ended in which way."""
        return sum((writer.seen for writer in self.writers), Counter())

    def done(self) -> list[Transaction]:
        return [one for writer in self.writers for one in writer.done]
