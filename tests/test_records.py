import hashlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from alembic_audit.tables import derive
from tests.conftest import Database
from tests.project import Project

pytestmark = pytest.mark.core


@pytest.fixture
def project(tmp_path: Path, database: Database, driver: str) -> Iterator[Project]:
    """An Alembic project on an empty database, by each driver."""
    made = Project(tmp_path, database, driver)
    yield made
    made.engine.dispose()


Declare = Callable[..., sa.Table]


@pytest.fixture
def declare(project: Project) -> Declare:
    """Return a function that declares, migrates and returns the Table ``account``."""

    def declared(*columns: Any, **options: Any) -> sa.Table:
        account = sa.Table(
            "account",
            sa.MetaData(),
            *columns,
            info={"audit.options": {"enabled": True, **options}},
        )
        project.migrate(account.metadata)
        return account

    return declared


def key() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)


def email() -> sa.Column[str]:
    return sa.Column("email", sa.Text)


CHECKED_APART = ("audit_operation_timestamp", "audit_transaction_id")


def trail(project: Project, table: sa.Table) -> list[dict[str, Any]]:
    """Return every record by ``audit_id``, complete but for what differs from run to run.

    Time and transaction are looked at here: present, within this test, and never running backwards.
    """
    audit = derive(table)
    assert audit is not None
    with project.engine.connect() as connection:
        # What is in the database, not what the model says.
        columns = sa.inspect(connection).get_columns(audit.name)
        assert [column["name"] for column in columns] == [column.name for column in audit.columns]
        found = connection.execute(audit.select().order_by(audit.c.audit_id)).mappings()
        records = [dict(row) for row in found]
        now, started, current = connection.exec_driver_sql(
            "SELECT clock_timestamp(), pg_postmaster_start_time(), txid_current()"
        ).one()
    times = [record.pop("audit_operation_timestamp") for record in records]
    transactions = [record.pop("audit_transaction_id") for record in records]
    assert times == sorted(times)
    assert all(started < time < now for time in times)
    assert transactions == sorted(transactions)
    assert all(0 < transaction < current for transaction in transactions)
    return records


def record(number: int, operation: str, *, user: str = "", **rest: Any) -> dict[str, Any]:
    return {
        "audit_id": number,
        "audit_operation": operation,
        "audit_current_user": user,
        **rest,
    }


@pytest.fixture
def rec(project: Project) -> Callable[..., dict[str, Any]]:
    """Return a function that spells a record by the user who connects."""
    user = project.engine.url.username
    return lambda number, operation, **rest: record(number, operation, **{"user": user, **rest})


Rec = Callable[..., dict[str, Any]]


# -- what is recorded --------------------------------------------------------------------------


def test_insert_update_delete_truncate(project: Project, declare: Declare, rec: Rec) -> None:
    """INSERT and UPDATE record the new row, DELETE the old one, TRUNCATE that it happened."""
    account = declare(key(), email())
    project.execute(
        "INSERT INTO account VALUES (1, 'a'), (2, NULL)",
        "UPDATE account SET email = 'b' WHERE id = 1",
        "DELETE FROM account WHERE id = 1",
        "TRUNCATE account",
        "INSERT INTO account VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET email = 'd'",
        "INSERT INTO account VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET email = 'd'",
    )
    assert trail(project, account) == [
        rec(1, "I", id=1, email="a"),
        rec(2, "I", id=2, email=None),
        rec(3, "U", id=1, email="b"),
        rec(4, "D", id=1, email="b"),
        rec(5, "T", id=None, email=None),
        rec(6, "I", id=1, email="c"),
        rec(7, "U", id=1, email="d"),
    ]


def test_rolled_back(project: Project, declare: Declare) -> None:
    """What is rolled back leaves no record."""
    account = declare(key(), email())
    with project.engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")
        connection.rollback()
    assert trail(project, account) == []


def test_transaction_and_time(project: Project, declare: Declare) -> None:
    """Records of one transaction share its number; the time is the clock's, not its beginning."""
    declare(key(), email())
    with project.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")
        one = connection.exec_driver_sql("SELECT txid_current(), now()").one()
        connection.exec_driver_sql("DELETE FROM account")
    with project.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")
        other = connection.exec_driver_sql("SELECT txid_current(), now()").one()
    rows = project.rows(
        "SELECT audit_transaction_id, audit_operation_timestamp FROM account_audit ORDER BY 2"
    )
    assert [row[0] for row in rows] == [one[0], one[0], other[0]]
    assert one[1] < rows[0][1] < rows[1][1] < other[1] < rows[2][1]


def test_key_change(project: Project, declare: Declare, rec: Rec) -> None:
    """A changed key is a D of the old row and a U of the new one, so that replay works."""
    account = declare(key(), sa.Column("k", sa.Text, primary_key=True), email())
    project.execute(
        "INSERT INTO account VALUES (1, 'x', 'a')",
        "UPDATE account SET k = 'y', email = 'b'",
        "UPDATE account SET id = id, k = k, email = 'c'",
    )
    assert trail(project, account) == [
        rec(1, "I", id=1, k="x", email="a"),
        rec(2, "D", id=1, k="x", email="a"),
        rec(3, "U", id=1, k="y", email="b"),
        rec(4, "U", id=1, k="y", email="c"),
    ]


def test_without_a_key(project: Project, declare: Declare, rec: Rec) -> None:
    """Every UPDATE of a table without a primary key records old and new row."""
    account = declare(sa.Column("n", sa.Integer), email())
    project.execute(
        "INSERT INTO account VALUES (1, 'a'), (1, 'a')",
        "UPDATE account SET email = 'b'",
        "DELETE FROM account WHERE ctid = (SELECT min(ctid) FROM account)",
    )
    assert trail(project, account) == [
        rec(1, "I", n=1, email="a"),
        rec(2, "I", n=1, email="a"),
        rec(3, "D", n=1, email="a"),
        rec(4, "U", n=1, email="b"),
        rec(5, "D", n=1, email="a"),
        rec(6, "U", n=1, email="b"),
        rec(7, "D", n=1, email="b"),
    ]


def test_update_without_change(project: Project, declare: Declare, rec: Rec) -> None:
    """By default an UPDATE that changes nothing is recorded."""
    account = declare(key(), email())
    project.execute("INSERT INTO account VALUES (1, 'a')", "UPDATE account SET email = 'a'")
    assert trail(project, account) == [
        rec(1, "I", id=1, email="a"),
        rec(2, "U", id=1, email="a"),
    ]


def test_skip_unchanged(project: Project, declare: Declare, rec: Rec) -> None:
    """skip_unchanged leaves out an UPDATE that changes no stored column, NULL and json too."""
    account = declare(
        key(),
        email(),
        sa.Column("doc", sa.JSON),
        sa.Column("left_out", sa.Text),
        skip_unchanged=True,
        exclude_columns=["left_out"],
    )
    project.execute(
        """INSERT INTO account VALUES (1, NULL, '{"a": 1}', 'x')""",
        """UPDATE account SET email = NULL, doc = '{"a": 1}'""",
        "UPDATE account SET left_out = 'y'",
        "UPDATE account SET email = ''",
        "UPDATE account SET email = NULL",
    )
    assert trail(project, account) == [
        rec(1, "I", id=1, email=None, doc={"a": 1}),
        rec(2, "U", id=1, email="", doc={"a": 1}),
        rec(3, "U", id=1, email=None, doc={"a": 1}),
    ]


def test_skip_unchanged_without_a_key(project: Project, declare: Declare, rec: Rec) -> None:
    """Without a key, an UPDATE that changes nothing records neither D nor U."""
    account = declare(email(), skip_unchanged=True)
    project.execute("INSERT INTO account VALUES ('a')", "UPDATE account SET email = 'a'")
    assert trail(project, account) == [rec(1, "I", email="a")]


def test_ignore_columns(project: Project, declare: Declare, rec: Rec) -> None:
    """An UPDATE of ignored columns alone is not recorded; together with others they are."""
    account = declare(
        key(), email(), sa.Column("seen", sa.Integer), ignore_columns=["seen"], changed_columns=True
    )
    project.execute(
        "INSERT INTO account VALUES (1, 'a', 1)",
        "UPDATE account SET seen = 2",
        "UPDATE account SET seen = 3, email = 'b'",
        "DELETE FROM account",
    )
    assert trail(project, account) == [
        rec(1, "I", audit_changed_columns=None, id=1, email="a", seen=1),
        rec(2, "U", audit_changed_columns=["email", "seen"], id=1, email="b", seen=3),
        rec(3, "D", audit_changed_columns=None, id=1, email="b", seen=3),
    ]


def test_changed_columns(project: Project, declare: Declare, rec: Rec) -> None:
    """changed_columns names what an UPDATE changed, hashed columns by their own name."""
    account = declare(
        key(),
        email(),
        sa.Column("secret", sa.Text),
        changed_columns=True,
        hash_columns=["secret"],
        operations=["update"],
    )
    project.execute(
        "INSERT INTO account VALUES (1, NULL, NULL)",
        "UPDATE account SET email = 'a'",
        "UPDATE account SET email = NULL, secret = 'x'",
        "UPDATE account SET secret = 'x'",
        "UPDATE account SET id = 2",
    )
    secret = hashlib.sha256(b"x").digest()
    assert trail(project, account) == [
        rec(1, "U", audit_changed_columns=["email"], id=1, email="a", secret_sha256=None),
        rec(
            2,
            "U",
            audit_changed_columns=["email", "secret"],
            id=1,
            email=None,
            secret_sha256=secret,
        ),
        rec(3, "U", audit_changed_columns=[], id=1, email=None, secret_sha256=secret),
        rec(4, "D", audit_changed_columns=None, id=1, email=None, secret_sha256=secret),
        rec(5, "U", audit_changed_columns=["id"], id=2, email=None, secret_sha256=secret),
    ]


def test_hash_columns(project: Project, declare: Declare, rec: Rec) -> None:
    """Of a hashed column the SHA-256 of its binary form is stored; NULL stays NULL."""
    account = declare(
        key(),
        sa.Column("secret", sa.Text),
        sa.Column("pin", sa.Integer),
        hash_columns=["secret", "pin"],
    )
    project.execute(
        "INSERT INTO account VALUES (1, 'ä', 7)",
        "UPDATE account SET secret = NULL",
        "UPDATE account SET secret = '', pin = NULL",
        "DELETE FROM account",
    )
    seven = hashlib.sha256(b"\0\0\0\7").digest()
    assert trail(project, account) == [
        rec(1, "I", id=1, secret_sha256=hashlib.sha256("ä".encode()).digest(), pin_sha256=seven),
        rec(2, "U", id=1, secret_sha256=None, pin_sha256=seven),
        rec(3, "U", id=1, secret_sha256=hashlib.sha256(b"").digest(), pin_sha256=None),
        rec(4, "D", id=1, secret_sha256=hashlib.sha256(b"").digest(), pin_sha256=None),
    ]


def test_hash_is_independent_of_formats(project: Project, declare: Declare) -> None:
    """The same value has the same hash, whatever the session prints values like."""
    account = declare(
        key(),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("x", sa.Double),
        hash_columns=["at", "x"],
    )
    insert = "INSERT INTO account VALUES ({}, '2020-01-01 00:00+00', 0.1)"
    project.execute(
        insert.format(1),
        "SET LOCAL TimeZone = 'Asia/Tokyo'",
        "SET LOCAL DateStyle = 'German'",
        "SET LOCAL extra_float_digits = -5",
        insert.format(2),
    )
    one, other = trail(project, account)
    assert one["at_sha256"] == other["at_sha256"]
    assert one["x_sha256"] == other["x_sha256"]
    assert len({one["at_sha256"], one["x_sha256"], None}) == 3


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (["truncate"], "T"),
        (["delete", "insert"], "ID"),
        (["truncate", "update"], "UT"),
    ],
)
def test_operations(
    project: Project, declare: Declare, rec: Rec, operations: list[str], expected: str
) -> None:
    """Only the operations asked for are recorded."""
    account = declare(key(), email(), operations=operations)
    project.execute(
        "INSERT INTO account VALUES (1, 'a')",
        "UPDATE account SET email = 'b'",
        "DELETE FROM account",
        "TRUNCATE account",
    )
    rows: dict[str, dict[str, Any]] = {
        "I": {"id": 1, "email": "a"},
        "U": {"id": 1, "email": "b"},
        "D": {"id": 1, "email": "b"},
        "T": {"id": None, "email": None},
    }
    assert trail(project, account) == [
        rec(number, operation, **rows[operation]) for number, operation in enumerate(expected, 1)
    ]


def test_classic(project: Project, declare: Declare) -> None:
    """The classic table holds operation, local time, settings by their bare names, and the row."""
    declare(
        key(),
        email(),
        audit_columns="classic",
        session_settings=[sa.Column("username", sa.Text, nullable=False)],
    )
    project.execute(
        "SELECT set_config('audit.username', 'ann', true)",
        "INSERT INTO account VALUES (1, 'a')",
        "UPDATE account SET id = 2",
        "TRUNCATE account",
    )
    assert project.rows(
        "SELECT audit_operation, username, id, email FROM account_audit ORDER BY ctid"
    ) == [
        ("I", "ann", 1, "a"),
        ("D", "ann", 1, "a"),
        ("U", "ann", 2, "a"),
        ("T", "ann", None, None),
    ]
    assert project.rows(
        "SELECT bool_and(audit_operation_timestamp BETWEEN localtimestamp - interval '1 minute' "
        "AND clock_timestamp()::timestamp) FROM account_audit"
    ) == [(True,)]


# -- who ---------------------------------------------------------------------------------------


def test_set_role(project: Project, declare: Declare, database: Database, rec: Rec) -> None:
    """The role in force is recorded, not the owner of the function, and needs no right on it."""
    account = declare(key(), email())
    role = f"{database.name} Ann"
    project.execute(f'CREATE ROLE "{role}"', f'GRANT ALL ON account TO "{role}"')
    try:
        project.execute(
            "INSERT INTO account VALUES (1, 'a')",
            f'SET ROLE "{role}"',
            "UPDATE account SET email = 'b'",
            "RESET ROLE",
            "UPDATE account SET email = 'c'",
            f'SET LOCAL ROLE "{role}"',
            "TRUNCATE account",
        )
        assert trail(project, account) == [
            rec(1, "I", id=1, email="a"),
            rec(2, "U", user=role, id=1, email="b"),
            rec(3, "U", id=1, email="c"),
            rec(4, "T", user=role, id=None, email=None),
        ]
    finally:
        project.execute(f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


# -- session settings --------------------------------------------------------------------------


def username(*, required: bool) -> list[sa.Column[Any]]:
    return [sa.Column("UserName", sa.Text, nullable=not required)]


def test_settings(project: Project, declare: Declare, rec: Rec) -> None:
    """Each record holds the settings of its moment, unchanged whatever is in them."""
    account = declare(
        key(),
        email(),
        session_settings=[
            sa.Column("username", sa.Text, nullable=False),
            sa.Column("age", sa.Integer),
        ],
    )
    project.execute(
        """SELECT set_config('audit.username', 'O''Neil "x" \\ :y $audit$', true)""",
        "INSERT INTO account VALUES (1, 'a')",
        "SELECT set_config('audit.username', 'bob', true), set_config('audit.age', '7', true)",
        "DELETE FROM account",
    )
    assert trail(project, account) == [
        rec(1, "I", audit_username='O\'Neil "x" \\ :y $audit$', audit_age=None, id=1, email="a"),
        rec(2, "D", audit_username="bob", audit_age=7, id=1, email="a"),
    ]


def test_nullable_setting(project: Project, declare: Declare, rec: Rec) -> None:
    """A nullable setting that was never set is NULL; upper case in its name does not matter."""
    account = declare(key(), session_settings=username(required=False))
    project.execute(
        "INSERT INTO account VALUES (1)",
        "SELECT set_config('audit.UserName', 'ann', true)",
        "INSERT INTO account VALUES (2)",
    )
    assert trail(project, account) == [
        rec(1, "I", audit_username=None, id=1),
        rec(2, "I", audit_username="ann", id=2),
    ]


def test_required_setting(project: Project, declare: Declare, rec: Rec) -> None:
    """Without a required setting nothing is written, and the error says which and what to do."""
    account = declare(key(), session_settings=username(required=True))
    project.execute(
        "SELECT set_config('audit.username', 'ann', true)", "INSERT INTO account VALUES (1)"
    )
    for statement in (
        "INSERT INTO account VALUES (2)",
        "UPDATE account SET id = 2",
        "DELETE FROM account",
        "TRUNCATE account",
    ):
        with pytest.raises(IntegrityError) as caught:
            project.execute(statement)
        error: Any = caught.value.orig
        assert error.diag.sqlstate == "23502"
        assert error.diag.message_primary == (
            "session setting audit.username is not set, and the audit of "
            '"public"."account" requires it'
        )
        assert error.diag.message_hint == (
            "Run SELECT set_config('audit.username', '...', true) in the transaction, "
            "before the write."
        )
    assert project.rows("SELECT * FROM account") == [(1,)]
    assert trail(project, account) == [rec(1, "I", audit_username="ann", id=1)]


def test_required_setting_without_rows(project: Project, declare: Declare) -> None:
    """A statement that changes no row needs no setting."""
    account = declare(key(), session_settings=username(required=True))
    project.execute("UPDATE account SET id = 2", "DELETE FROM account")
    assert trail(project, account) == []


def test_emptied_setting(project: Project, declare: Declare, rec: Rec) -> None:
    """What was set and is gone reads as '' in PostgreSQL; it is NULL here, for every type."""
    account = declare(
        key(),
        session_settings=[
            sa.Column("text", sa.Text),
            sa.Column("uuid", sa.Uuid),
            sa.Column("number", sa.Integer),
        ],
    )
    ways = [
        ["BEGIN", "SET LOCAL audit.{0} = 'x'", "COMMIT"],
        ["SET audit.{0} = 'x'", "RESET audit.{0}"],
        ["SET audit.{0} = 'x'", "DISCARD ALL"],
        ["SET audit.{0} = ''"],
    ]
    for number, way in enumerate(ways, 1):
        engine = project.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in ("text", "uuid", "number"):
                for statement in way:
                    connection.exec_driver_sql(statement.format(name))
                left = connection.exec_driver_sql(f"SELECT current_setting('audit.{name}', true)")
                assert left.scalar_one() == ""
            connection.exec_driver_sql(f"INSERT INTO account VALUES ({number})")
            connection.invalidate()  # the next way begins in a session that never set anything
    nothing = {"audit_text": None, "audit_uuid": None, "audit_number": None}
    assert trail(project, account) == [rec(n, "I", id=n, **nothing) for n in (1, 2, 3, 4)]


def test_emptied_required_setting(project: Project, declare: Declare) -> None:
    """A required setting that is '' is not set."""
    account = declare(key(), session_settings=username(required=True))
    with pytest.raises(IntegrityError, match=r"session setting audit\.username is not set"):
        project.execute("SET LOCAL audit.username = ''", "INSERT INTO account VALUES (1)")
    assert trail(project, account) == []


def test_uuid_setting(project: Project, declare: Declare, rec: Rec) -> None:
    """A setting is stored in the type that was declared for it."""
    account = declare(key(), session_settings=[sa.Column("request", sa.Uuid, nullable=False)])
    request = uuid.UUID(int=7)
    project.execute(
        f"SELECT set_config('audit.request', '{request}', true)", "INSERT INTO account VALUES (1)"
    )
    assert trail(project, account) == [rec(1, "I", audit_request=request, id=1)]


# -- names -------------------------------------------------------------------------------------

HOSTILE = [
    "new",
    "old",
    "NEW",
    "select",
    "tg_op",
    "audit_user",
    "audit_setting",
    "audit_setting_1",
    'q"uote',
    '""',
    "it's",
    "100%",
    "%s",
    "%(id)s",
    "%%",
    ":colon",
    "::text",
    "white  space ",
    "back\\slash",
    "$audit$",
    "$1",
    "{brace}",
    "a.b",
    "--",
    "/*",
    ";",
    "ünïcode",
    "x" * 63,
    "ä" * 31,
]


@pytest.mark.parametrize(
    "name",
    ["new", "A\"b %s %% :c 'd' \\e $audit$ {f} --", "select", "y" * 63, "ö" * 31],
    ids=["new", "everything", "select", "63 bytes", "62 bytes"],
)
def test_hostile_names(project: Project, rec: Rec, name: str) -> None:
    """Any name works, for table, key, columns, hashed and ignored ones and required settings."""
    hashed, ignored, *plain = HOSTILE
    table = sa.Table(
        name,
        sa.MetaData(),
        sa.Column("ID %", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(column, sa.Text) for column in HOSTILE),
        info={
            "audit.options": {
                "enabled": True,
                "session_settings": [sa.Column("select", sa.Text, nullable=False)],
                "hash_columns": [hashed],
                "ignore_columns": [ignored],
                "changed_columns": True,
            }
        },
    )
    project.migrate(table.metadata)
    with project.engine.begin() as connection:
        connection.exec_driver_sql("SELECT set_config('audit.select', 'ann', true)")
        connection.execute(table.insert(), {"ID %": 1, **{column: column for column in HOSTILE}})
        connection.execute(table.update().values({ignored: "ignored"}))
        connection.execute(table.update().values(dict.fromkeys(plain, "changed")))
    same = {f"{hashed}_sha256": hashlib.sha256(hashed.encode()).digest()}
    assert trail(project, table) == [
        rec(
            1,
            "I",
            audit_changed_columns=None,
            audit_select="ann",
            **{"ID %": 1, **same, **{column: column for column in HOSTILE[1:]}},
        ),
        rec(
            2,
            "U",
            audit_changed_columns=plain,
            audit_select="ann",
            **{"ID %": 1, **same, ignored: "ignored", **dict.fromkeys(plain, "changed")},
        ),
    ]
    with pytest.raises(IntegrityError) as caught, project.engine.begin() as connection:
        connection.execute(table.delete())
    quoted = '"' + name.replace('"', '""') + '"'
    error: Any = caught.value.orig
    assert error.diag.message_primary == (
        f'session setting audit.select is not set, and the audit of "public".{quoted} requires it'
    )
    project.downgrade("base")
    audit = derive(table)
    assert audit is not None
    assert sorted(sa.inspect(project.engine).get_table_names()) == sorted(
        ["alembic_version", audit.name]
    )


def test_long_hashed_column(project: Project, declare: Declare, rec: Rec) -> None:
    """The hash of a column whose name leaves no room for the suffix has a shortened name."""
    name = "s" * 63
    account = declare(key(), sa.Column(name, sa.Text), hash_columns=[name])
    project.execute("INSERT INTO account VALUES (1, 'x')")
    digest = hashlib.sha256(f"{name}_sha256".encode()).hexdigest()[:8]
    assert trail(project, account) == [
        rec(1, "I", id=1, **{f"{'s' * 54}_{digest}": hashlib.sha256(b"x").digest()})
    ]
