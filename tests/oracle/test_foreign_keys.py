"""Foreign key actions: after every statement the trail of each table, replayed, is the table.

    ALEMBIC_AUDIT_HISTORIES=5000 pytest -n 0 tests/oracle/test_foreign_keys.py

lives through as many random histories; 100 are run if the variable is not set. Every fifth has new
tables, with every action, composite keys, keys that refer, several ways to one table, trees and
cycles. A history is made of its number alone, so a failure names what to run again.

No statement here deletes a row and gives its key to another row by itself: at statement level that
cannot be replayed, with or without foreign keys.
"""

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from alembic_audit import audit_table, levels
from tests.conftest import Database

HISTORIES = int(os.environ.get("ALEMBIC_AUDIT_HISTORIES", "100"))
STATEMENTS = 8
HISTORIES_OF_A_GRAPH = 5

ACTIONS = (*["CASCADE"] * 8, *["SET NULL"] * 8, "SET DEFAULT", "NO ACTION", "RESTRICT")
KEYS = (*[("id",)] * 6, ("k", "id"), ("a", "b"), ("k", "a"))
COLUMNS = ("id", "k", "a", "b", "c")
Row = tuple[Any, ...]


class WrongTrailError(AssertionError):
    """A trail whose records do not give the table."""


# -- the tables -----------------------------------------------------------------------------------


def schema(pick: random.Random, version: int) -> sa.MetaData:
    """Tables that refer to one another and to themselves."""
    metadata = sa.MetaData()
    keys = {f"t{number}": pick.choice(KEYS) for number in range(pick.choice((1, 2, 2, 3)))}
    for name, key in keys.items():
        columns = [
            sa.Column(
                column,
                sa.Integer,
                primary_key=column in key,
                autoincrement=False,
                server_default=None if column == "id" else "0",
            )
            for column in COLUMNS
        ]
        sa.Table(name, metadata, *columns, sa.Column("note", sa.Text))
    number = 0
    for name, table in metadata.tables.items():
        used: set[str] = set()
        for _ in range(pick.choice((2, 2, 3) if name != "t0" or len(keys) == 1 else (0, 0, 1))):
            parent = pick.choice(("t0", *keys))
            own = _referring(pick, keys[name], keys[parent], used)
            on_delete = pick.choice(ACTIONS)
            if version >= 15 and on_delete.startswith("SET") and pick.random() < 0.3:
                on_delete += f" ({pick.choice(own)})"
            number += 1
            table.append_constraint(
                sa.ForeignKeyConstraint(
                    own,
                    [f"{parent}.{column}" for column in keys[parent]],
                    name=f"fk{number}",
                    ondelete=on_delete,
                    onupdate=pick.choice(ACTIONS),
                )
            )
    return metadata


def _referring(
    pick: random.Random, own: Sequence[str], parent: Sequence[str], used: set[str]
) -> list[str]:
    """Columns that refer to a key: those of no other key first, now and then the own key's."""
    pool = [column for column in COLUMNS if column not in own and column != "id"]
    if pick.random() < 0.4:
        pool += own
    pick.shuffle(pool)
    if pick.random() < 0.8:
        pool.sort(key=lambda column: column in used)
    used.update(pool[: len(parent)])
    return pool[: len(parent)]


# -- statements -----------------------------------------------------------------------------------


@dataclass
class Author:
    """Writes statements.

    Attributes:
        pick: Decides everything.
        tables: What is written.
        version: Of PostgreSQL.
        keys: Those that there are, by table.
        fresh: Where keys begin that no row ever had.
    """

    pick: random.Random
    tables: Sequence[sa.Table]
    version: int
    keys: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    fresh: int = 100

    def statement(self) -> str:
        kinds: list[Callable[[sa.Table], str]] = [
            *[self.update] * 2,
            *[self.move] * 3,
            *[self.delete] * 6,
            *[self.together] * 2,
            *([self.merge] if self.version >= 15 else ()),
        ]
        if self.pick.random() < 0.02:
            return f"TRUNCATE {self.pick.choice(self.tables).name} CASCADE"
        return self.pick.choice(kinds)(self.some_table())

    def some_table(self) -> sa.Table:
        """The first one more often, since the others refer to it."""
        return self.pick.choice((self.tables[0], *self.tables))

    def value(self) -> str:
        there = [str(value) for keys in self.keys.values() for key in keys for value in key]
        return self.pick.choice([*there, "0", "NULL"])

    def where(self) -> str:
        column = self.pick.choice(COLUMNS)
        return self.pick.choice(
            (
                f"{column} = {self.pick.randint(0, 9)}",
                f"{column} IN ({self.pick.randint(0, 9)}, {self.pick.randint(0, 9)})",
                f"{column} < {self.pick.randint(0, 9)}",
                f"{column} > {self.pick.randint(0, 9)}",
                *["true"] * 4,
            )
        )

    def row(self, table: sa.Table, *, fresh: bool = False) -> list[str]:
        """Values of a row that refers to rows that there are, or to none."""
        key = _key(table)
        row = {column: str(self.pick.randint(0, 9)) for column in COLUMNS}
        referring = set()
        for one in table.foreign_key_constraints:
            own = one.columns.keys()
            referring.update(own)
            there = self.keys[one.elements[0].target_fullname.split(".")[0]]
            free = [column for column in own if column not in key]
            if there and (not free or self.pick.random() < 0.95):
                row |= dict(zip(own, map(str, self.pick.choice(there)), strict=True))
            elif free:
                row[self.pick.choice(free)] = "NULL"
        if fresh:
            # One that no action changes, or the row is refused.
            self.fresh += 1
            row[next((one for one in key if one not in referring), key[-1])] = str(self.fresh)
        return list(row.values())

    def rows(self, table: sa.Table, *, fresh: bool = False) -> str:
        many = range(self.pick.randint(1, 4))
        return ", ".join(f"({', '.join(self.row(table, fresh=fresh))}, 'new')" for _ in many)

    def insert(self, table: sa.Table, *, fresh: bool = False) -> str:
        key = _key(table)
        columns = ", ".join((*COLUMNS, "note"))
        text = f"INSERT INTO {table.name} ({columns}) VALUES {self.rows(table, fresh=fresh)}"
        others = [column for column in COLUMNS if column not in key]
        conflict = self.pick.choice(
            (
                " ON CONFLICT DO NOTHING",
                f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET note = 'conflict', "
                f"{self.pick.choice(others)} = NULL",
            )
        )
        return text + ("" if fresh else conflict)

    def update(self, table: sa.Table) -> str:
        others = [column for column in COLUMNS if column not in _key(table)]
        column = self.pick.choice(others)
        return f"UPDATE {table.name} SET {column} = {self.value()} WHERE {self.where()}"

    def move(self, table: sa.Table, *, fresh: bool = False) -> str:
        """An UPDATE that changes keys."""
        column = self.pick.choice(_key(table))
        self.fresh += 10
        to = (
            f"{column} + {self.fresh}"
            if fresh
            else self.pick.choice(
                (f"{column} + {self.fresh}", f"{column} + 1", f"{column} - 1", "0")
            )
        )
        return f"UPDATE {table.name} SET {column} = {to} WHERE {self.where()}"

    def delete(self, table: sa.Table) -> str:
        return f"DELETE FROM {table.name} WHERE {self.where()}"

    def together(self, table: sa.Table) -> str:
        """Several writes in one statement; what they insert or move gets keys of its own."""
        writes = [self.some_table() for _ in range(self.pick.randint(1, 2))]
        parts = [f"w{number} AS ({self.part(one)})" for number, one in enumerate(writes)]
        return f"WITH {', '.join(parts)} {self.part(table)}"

    def part(self, table: sa.Table) -> str:
        kind = self.pick.choice(("insert", "update", "move", "delete", "delete"))
        if kind == "insert":
            return self.insert(table, fresh=True)
        if kind == "move":
            return self.move(table, fresh=True)
        return self.update(table) if kind == "update" else self.delete(table)

    def merge(self, table: sa.Table) -> str:
        key, columns = _key(table), (*COLUMNS, "note")
        # The first row decides the types of VALUES, and none may match twice.
        some = [self.row(table) for _ in range(self.pick.randint(1, 4))]
        some = [["NULL::int" if one == "NULL" else one for one in row] for row in some]
        rows = {tuple(row[COLUMNS.index(one)] for one in key): row for row in some}
        values = ", ".join(f"({', '.join(row)}, 'merged')" for row in rows.values())
        on = " AND ".join(f"t.{column} = v.{column}" for column in key)
        return (
            f"MERGE INTO {table.name} AS t USING (VALUES {values}) AS v ({', '.join(columns)}) "
            f"ON {on} WHEN MATCHED AND v.{key[0]} < {self.pick.randint(0, 9)} THEN DELETE "
            f"WHEN MATCHED THEN UPDATE SET note = 'merged' WHEN NOT MATCHED THEN "
            f"INSERT ({', '.join(columns)}) VALUES ({', '.join(f'v.{one}' for one in columns)})"
        )


def _key(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


# -- the replay -----------------------------------------------------------------------------------


@dataclass
class Trail:
    """The rows that the records of one table give, by key; nothing of alembic_audit is used."""

    table: sa.Table
    rows: dict[Row, Row] = field(default_factory=dict)
    last: int = 0

    def query(self) -> str:
        """A query for the new records, and for the rows of the table."""
        name, columns = self.table.name, ", ".join((*COLUMNS, "note"))
        return (
            f"SELECT '{name}', audit_id, audit_operation, {columns} FROM {name}_audit "
            f"WHERE audit_id > {self.last} UNION ALL SELECT '{name}', NULL, NULL, {columns} "
            f"FROM {name}"
        )

    def compare(self, found: Sequence[Row]) -> None:
        """Take the new records, and compare with the table."""
        places = [COLUMNS.index(column) for column in _key(self.table)]
        there = {}
        for number, operation, *row in found:
            key = tuple(row[place] for place in places)
            if number is None:
                there[key] = tuple(row)
            else:
                self.last = number
                self.take(number, operation, key, tuple(row))
        if there != self.rows:
            raise WrongTrailError(
                f"{self.table.name}: the trail has {_beside(self.rows, there)} "
                f"where the table has {_beside(there, self.rows)}"
            )

    def take(self, number: int, operation: str, key: Row, row: Row) -> None:
        if operation == "T":
            self.rows.clear()
        elif operation == "D":
            if self.rows.pop(key, None) is None:
                raise WrongTrailError(f"{self.table.name}: D {key} of no row, record {number}")
        elif operation == "I" and key in self.rows:
            raise WrongTrailError(f"{self.table.name}: I {key} of a row there, record {number}")
        else:
            self.rows[key] = row


def follow(cursor: Any, trails: Sequence[Trail]) -> None:
    """Take what is new of all trails, and compare each with its table."""
    cursor.execute(" UNION ALL ".join(one.query() for one in trails) + " ORDER BY 1, 2")
    found = cursor.fetchall()
    for trail in trails:
        trail.compare([row[1:] for row in found if row[0] == trail.table.name])


def _beside(some: dict[Row, Row], others: dict[Row, Row]) -> dict[Row, Row]:
    return {key: row for key, row in some.items() if others.get(key) != row}


# -- histories ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(shared_database: Database) -> Iterator[sa.Engine]:
    """A connection for all histories, each of which is rolled back; a new one now and then."""
    made = sa.create_engine(shared_database.url(), pool_recycle=20)
    yield made
    made.dispose()


def live(engine: sa.Engine, numbers: Sequence[int]) -> list[str]:
    """Live through histories, and undo them; return what is wrong, each with its whole history."""
    wrong = []
    for graph, some in groupby(numbers, lambda number: number // HISTORIES_OF_A_GRAPH):
        with engine.connect() as connection, connection.begin() as transaction:
            version = (connection.dialect.server_version_info or (0,))[0]
            metadata = schema(random.Random(graph), version)
            tables = list(metadata.tables.values())
            for table in tables:
                audit_table(table, indexes=())
            metadata.create_all(connection)
            raw: Any = connection.connection.driver_connection
            cursor = raw.cursor()
            for number in some:
                cursor.execute("SAVEPOINT history")
                script: list[str] = []
                try:
                    tell(cursor, Author(random.Random(number), tables, version), script)
                except WrongTrailError as error:
                    story = "\n".join((keys(tables), *script))
                    wrong.append(f"history {number}: {error}\n{story}")
                cursor.execute("ROLLBACK TO history")
            transaction.rollback()
    return wrong


def tell(cursor: Any, author: Author, script: list[str]) -> None:
    """Run the statements of one history.

    Raises:
        WrongTrailError: A trail is wrong.
    """
    trails = [Trail(table) for table in author.tables]
    for _ in range(STATEMENTS):
        # Some rows first, or what follows finds nothing.
        few = [trail.table for trail in trails if len(trail.rows) < 8]
        for write in (*(partial(author.insert, one) for one in few * 2), author.statement):
            if execute(cursor, write(), script):
                follow(cursor, trails)
            author.keys = {one.table.name: list(one.rows) for one in trails}


def execute(cursor: Any, statement: str, script: list[str]) -> bool:
    """Run a statement; one that the table refuses leaves no trace."""
    cursor.execute("SAVEPOINT step")
    try:
        cursor.execute(statement)
    except (psycopg2.IntegrityError, psycopg2.errors.CardinalityViolation):
        cursor.execute("ROLLBACK TO step")
        return False
    script.append(f"{statement};")
    cursor.execute("RELEASE step")
    return True


def keys(tables: Sequence[sa.Table]) -> str:
    lines = []
    for table in tables:
        lines.append(f"-- {table.name}: {table.info['audit.spec'].row_level}, key {_key(table)}")
        for one in table.foreign_key_constraints:
            target = one.elements[0].target_fullname.split(".")[0]
            lines.append(
                f"--   {one.name} ({', '.join(one.columns.keys())}) -> {target} "
                f"ON DELETE {one.ondelete} ON UPDATE {one.onupdate}"
            )
    return "\n".join(lines)


def test_foreign_key_actions(engine: sa.Engine) -> None:
    """Whatever refers to what: the trails give the tables, after every statement."""
    assert [] == live(engine, range(HISTORIES))


def test_statement_level_alone_is_wrong(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the rule some histories are recorded wrong."""
    monkeypatch.setattr(levels, "needed_by_foreign_keys", lambda *_: {})
    assert live(engine, range(max(HISTORIES, 100)))
