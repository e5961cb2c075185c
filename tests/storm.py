"""Writers under migrations: what they do, what they note, and how it compares with the trails.

`revisions(project)` generates a history of an audit, each revision by `alembic revision
--autogenerate`. `Writers` write its tables at every isolation level, while a test goes up and
down; each notes what it committed, with values that occur once, and whether there was a trail.
`compare` holds the notes against the trails, and the trails against the tables.
"""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from tests.conftest import Database
from tests.project import Project

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
DRIVERS = ("psycopg2", "psycopg")
"""psycopg prepares a statement at its fifth execution, and keeps the plan over the migrations."""

TABLES = ("account", "invoice", "receipt")
HOT = (1, 2, 3)
"""Rows of `account` that all writers update; every other row belongs to one writer."""

NAMES = {
    "audit.table": "%(table_name)s_history",
    "audit.function": "f_%(table_name)s",
    "audit.trigger": "00_%(table_name)s",
    "audit.setting": "s_%(setting)s",
}


# -- the revisions -----------------------------------------------------------------------------


def models(
    *,
    account: dict[str, Any] | None = None,
    invoice: dict[str, Any] | None = None,
    receipt: dict[str, Any] | None = None,
    mail: str = "email",
    note: bool = False,
    payer: bool = False,
    amount: type[Any] = sa.Integer,
    names: dict[str, str] | None = None,
) -> sa.MetaData:
    """Return the tables; each is audited with the options given, and `receipt` only there then."""

    def info(options: dict[str, Any] | None) -> dict[str, Any]:
        return {} if options is None else {"audit.options": {"enabled": True, **options}}

    def refers() -> sa.ForeignKey:
        return sa.ForeignKey("account.id", ondelete="CASCADE")

    def column(name: str, kind: Any = sa.BigInteger, *more: Any) -> sa.Column[Any]:
        return sa.Column(name, kind, *more)

    metadata = sa.MetaData(naming_convention=names or {})
    columns = [column("stamp"), column("seen"), column(mail, sa.Text)]
    columns += [column("note", sa.Text)] if note else []
    identity = sa.Column("id", sa.BigInteger, primary_key=True)
    sa.Table("account", metadata, identity, *columns, info=info(account))
    columns = [column("stamp"), column("account_id", sa.BigInteger, refers()), column("payer_id")]
    if payer:
        key = sa.ForeignKeyConstraint(
            ["payer_id"], ["account.id"], name="invoice_payer", ondelete="CASCADE"
        )
        columns.append(key)  # type: ignore[arg-type]
    identity = identity._copy()
    columns.append(column("amount", amount))
    sa.Table("invoice", metadata, identity, *columns, info=info(invoice))
    if receipt is not None:
        columns = [column("stamp"), column("account_id", sa.BigInteger, refers())]
        sa.Table("receipt", metadata, identity._copy(), *columns, info=info(receipt))
    return metadata


def who(nullable: bool = True) -> dict[str, Any]:
    return {"session_settings": [sa.Column("who", sa.Text, nullable=nullable)]}


def _stages() -> Iterator[dict[str, Any]]:
    """Return the arguments of `models` for each revision."""
    yield {}
    yield (now := {"account": {}})  # the first audit of a table that exists
    yield (now := now | {"note": True})  # a column more
    options: dict[str, Any] = {"ignore_columns": ["seen"]}
    yield (now := now | {"account": options})  # options: only the function changes
    options = options | {"changed_columns": True, "always": True}
    yield (now := now | {"account": options})  # options: audit table and triggers change too
    yield (now := now | {"account": options | who()})  # a setting
    yield (now := now | {"mail": "mail"})  # op.rename_audited_column
    # A second audited table, with a foreign key more to the first.
    yield (now := now | {"payer": True, "invoice": {"always": True, "append_only": True, **who()}})
    yield (now := now | {"receipt": {**who()}})  # a new table, audited, with a foreign key
    yield (now := now | {"amount": sa.Text})  # a column is retyped, and its history set aside
    yield (now := now | {"names": NAMES})  # everything is called otherwise
    yield (now := now | {"note": False})  # a column less
    # A setting is required, and the ignored column counts again.
    yield now | {"account": {"changed_columns": True, **who(nullable=False)}}


def stages() -> list[sa.MetaData]:
    return [models(**one) for one in _stages()]


def _rename(metadata: sa.MetaData, old: str, new: str) -> str:
    """Return the operation that renames a column of `account`, as a person writes it."""
    from alembic_audit.tables import derive

    derive(metadata.tables["account"])
    kwargs = metadata.tables["account"].info["audit.spec"].full_kwargs()
    kwargs = {name: value for name, value in kwargs.items() if name not in ("schema",)}
    arguments = "".join(f", {name}={value!r}" for name, value in kwargs.items())
    return f"op.rename_audited_column('account', {old!r}, {new!r}{arguments})"


def _edited(before: sa.MetaData, after: sa.MetaData) -> Callable[[str], str]:
    """Return what a person changes in the revision that autogenerate wrote between two models."""
    if "mail" in after.tables["account"].c and "email" in before.tables["account"].c:
        up, down = _rename(after, "email", "mail"), _rename(before, "mail", "email")
        body = f"def upgrade():\n    {up}\n\n\ndef downgrade():\n    {down}\n"
        return lambda text: text[: text.index("def upgrade")] + body
    to_integer = r"(op\.alter_column\('invoice', 'amount',\n.*\n +type_=sa\.INTEGER\(\)),"
    return lambda text: re.sub(to_integer, r"\1, postgresql_using='amount::integer',", text)


def revisions(project: Project, after_each: Callable[[], None] = lambda: None) -> list[sa.MetaData]:
    """Generate all revisions by autogenerate, upgrading on the way; return their models."""
    made = [models(**one) for one in _stages()]
    for before, after in zip([made[0], *made], made, strict=False):
        project.revision(after)
        project.edit(_edited(before, after))
        project.upgrade()
        after_each()
    return made


def last() -> sa.MetaData:
    """Return the models of the last revision."""
    *_, arguments = _stages()
    return models(**arguments)


# -- the writers -------------------------------------------------------------------------------

Key = tuple[str, str, int | None, int | None, int | None]
"""Of a record: table, operation, id, stamp and seen. No two writes have the same."""

STATE = "SELECT " + ", ".join(
    "pg_catalog.substring(pg_catalog.pg_get_functiondef(COALESCE("
    f"pg_catalog.to_regprocedure('public.public_{table}_audit()'),"
    f" pg_catalog.to_regprocedure('public.f_{table}()'))), '-- alembic_audit: ([^\\n]*)')"
    for table in TABLES
)
"""What records the tables now, whatever the isolation level: functions are looked up afresh."""

State = dict[str, dict[str, Any] | None]


@dataclass
class Write:
    """One row that a writer wrote, as it has to be recorded.

    Attributes:
        key: Of the record.
        touch: Only `seen` has changed, which may be ignored.
        note: What was written into `account.note`, if that was there.
    """

    key: Key
    touch: bool = False
    note: str | None = None


@dataclass
class Transaction:
    """What a writer committed.

    Attributes:
        writer: Its name.
        writes: In order.
        before: What recorded the tables before it.
        after: What records the tables when it has written: it holds their locks.
        sure: The server said that it is committed; without that it may be, or not.
    """

    writer: str
    before: State
    writes: list[Write] = field(default_factory=list)
    after: State = field(default_factory=dict)
    sure: bool = False

    def spec(self, table: str) -> dict[str, Any] | None:
        """Return what recorded a table during all of it, or None if that changed meanwhile."""
        before, after = self.before[table], self.after[table]
        return after if before == after else None

    def is_recorded(self, write: Write) -> bool | None:
        """Return whether there must be a record, or None if there may be one."""
        table = write.key[0]
        if self.after[table] is None:
            return False
        if not write.touch:
            return True
        spec = self.spec(table)
        return None if spec is None else "seen" not in spec.get("ignore_columns", [])


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
        else:
            raise error

    def _skew(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether a statement named what a migration took away, and look what there is."""
        said = str(error.orig).splitlines()[0]
        with self.engine.connect() as connection:
            self._look(connection)
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
        if self.count % 10 == 0:
            self._look(connection)
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


# -- the comparison ----------------------------------------------------------------------------


@dataclass
class Trails:
    """What is recorded and what is there."""

    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rows: dict[str, dict[int, tuple[Any, ...]]] = field(default_factory=dict)


def read(engine: sa.Engine) -> Trails:
    """Read all trails and tables, under whatever names they have."""
    with engine.connect() as connection:
        return read_by(connection)


def read_by(connection: sa.Connection) -> Trails:
    """Read them in a transaction."""
    found = Trails()
    for table in TABLES:
        names = [f"{table}_audit", f"{table}_history"]
        trails = [name for name in names if _is_there(connection, name)]
        assert len(trails) < 2, "a trail began twice"
        found.records[table] = [
            dict(row)
            for name in trails
            for row in connection.execute(
                sa.text(f"SELECT * FROM {name} ORDER BY audit_id")
            ).mappings()
        ]
        seen = "seen" if table == "account" else "NULL"
        found.rows[table] = {}
        if _is_there(connection, table):
            rows = connection.execute(sa.text(f"SELECT id, stamp, {seen} FROM {table}"))
            found.rows[table] = {number: (stamp, seen) for number, stamp, seen in rows}
    return found


def _is_there(connection: sa.Connection, table: str) -> bool:
    query = sa.text("SELECT to_regclass(:table) IS NOT NULL")
    return bool(connection.scalar(query, {"table": f"public.{table}"}))


def _key(table: str, record: dict[str, Any]) -> Key:
    number, stamp, seen = record["id"], record["stamp"], record.get("seen")
    return (table, record["audit_operation"], number, stamp, seen)


def compare(done: Iterable[Transaction], found: Trails) -> list[str]:
    """Return what is wrong with the trails, a line each: nothing is the answer that is wanted.

    Each write that was committed while there was a trail has one record, with its values, and
    there is no other record. A transaction of which nobody knows whether it was committed is
    recorded as a whole or not at all. The last record of each row is what the row is.
    """
    wrong: list[str] = []
    records = {
        key: record
        for table, all_of_it in found.records.items()
        for record in all_of_it
        if (key := _key(table, record))[1] != "T"
    }
    count = Counter(
        _key(table, record) for table, all_of_it in found.records.items() for record in all_of_it
    )
    allowed: Counter[Key] = Counter()
    unrecorded: set[tuple[str, int | None]] = {("account", number) for number in HOT}
    for one in done:
        must = [write for write in one.writes if one.is_recorded(write)]
        there = [write for write in must if count[write.key]]
        if not one.sure and not there:
            # Nothing of it is there, or nothing of it was recorded.
            unrecorded |= {(write.key[0], write.key[2]) for write in one.writes}
            continue
        for write in one.writes:
            recorded = one.is_recorded(write)
            if recorded is False or (recorded is None and not count[write.key]):
                unrecorded.add((write.key[0], write.key[2]))
                continue
            allowed[write.key] += 1
            if not count[write.key]:
                wrong.append(f"no record of {write.key} by {one.writer}")
            elif write.key[1] != "T":
                wrong += _values_differ(one, write, records[write.key])
    for key, number in count.items():
        if number != allowed[key] and (number > allowed[key] or key[1] == "T"):
            wrong.append(f"{number} records of {key}, {allowed[key]} wanted")
    for table in TABLES:
        wrong += _rows_differ(table, found, unrecorded)
    return wrong


def _values_differ(one: Transaction, write: Write, record: dict[str, Any]) -> list[str]:
    """Compare what a record holds beside its key with what was written."""
    spec = one.spec(write.key[0])
    if spec is None:
        return []
    expected: dict[str, Any] = {}
    if spec.get("session_settings"):
        column = spec.get("setting_columns", {}).get("who", "audit_who")
        expected[_present(record, column, "audit_who", "s_who")] = one.writer
    if write.note is not None and "note" in spec["columns"]:
        expected["note"] = write.note
    if write.touch and spec.get("changed_columns"):
        expected["audit_changed_columns"] = ["seen"]
    if write.key[0] == "account" and write.key[1] in "IU" and not write.touch:
        expected[_present(record, "mail", "email")] = f"mail {write.key[3]}"
    return [
        f"{name} of {write.key} is {record.get(name)!r}, not {value!r}"
        for name, value in expected.items()
        if record.get(name) != value
    ]


def _present(record: dict[str, Any], *names: str) -> str:
    return next((name for name in names if name in record), names[0])


def _rows_differ(table: str, found: Trails, unrecorded: set[tuple[str, int | None]]) -> list[str]:
    """Compare the last record of each row with the row."""
    last: dict[int, Key] = {}
    recorded: set[Key] = set()
    for record in found.records[table]:
        key = _key(table, record)
        if key[1] == "T":
            last.clear()
        else:
            last[record["id"]] = key
            recorded.add((table, "", *key[2:]))
    rows = found.rows[table]
    wrong = []
    for number, (stamp, seen) in rows.items():
        key = last.get(number)
        is_last = key is not None and key[1] != "D" and key[3] == stamp
        if (table, number) in unrecorded:
            is_last = is_last or (table, "", number, stamp, seen) not in recorded
        else:
            is_last = is_last and key is not None and key[4] == seen
        if not is_last:
            wrong.append(f"row {number} of {table} is {(stamp, seen)}, its last record {key}")
    if table != "receipt":  # which is dropped at times, and its rows with it
        wrong += [
            f"row {number} of {table} is gone, its last record {key}"
            for number, key in last.items()
            if number not in rows and key[1] != "D" and (table, number) not in unrecorded
        ]
    return wrong
