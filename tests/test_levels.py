"""Statement level and what "auto" comes to: the same records as at row level, or a refusal."""

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit import DeclarationError, SpecError, audit_table, sql
from alembic_audit.spec import AuditSpec
from alembic_audit.tables import SPEC_KEY, derive_all
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

# Plain Alembic renders autoincrement=True for a retyped key, and warns of it when it runs.
pytestmark = pytest.mark.filterwarnings("ignore:autoincrement and existing_autoincrement")

COLUMNS = ("id", "email", "note")


def table(name: str = "account", *extra: sa.schema.SchemaItem, **kwargs: Any) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("note", sa.Text),
        *extra,
        **kwargs,
    )


def models(**options: Any) -> sa.MetaData:
    one = table()
    audit_table(one, **options)
    return one.metadata


def level_of(one: sa.Table, **options: Any) -> str:
    audit_table(one, **options)
    derive_all(one.metadata)
    spec: AuditSpec = one.info[SPEC_KEY]
    return spec.level


# -- what auto comes to ---------------------------------------------------------------------------

NEED_ROWS: list[dict[str, Any]] = [
    {"always": True},
    {"skip_unchanged": True},
    {"changed_columns": True},
    {"ignore_columns": ["note"]},
    {"sparse_columns": ["note"]},
]


def test_auto_is_statement_level_for_a_plain_table() -> None:
    """Without a word about it a plain table gets statement triggers."""
    assert "statement" == level_of(table())
    assert "statement" == level_of(table(), audit_columns="classic", append_only=True)
    assert "row" == level_of(table(), level="row")


@pytest.mark.parametrize("options", NEED_ROWS, ids=lambda options: next(iter(options)))
def test_auto_is_row_level_where_an_option_needs_rows(options: dict[str, Any]) -> None:
    """What needs the OLD row beside the NEW one is row level; to ask otherwise is refused."""
    assert "row" == level_of(table(), **options)
    with pytest.raises(
        DeclarationError, match=f"'statement' does not go with {next(iter(options))}"
    ):
        level_of(table(), level="statement", **options)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (table(postgresql_partition_by="RANGE (id)"), "a partitioned table"),
        (table(postgresql_inherits="base"), "inheritance"),
        (table(prefixes=["FOREIGN"]), "a foreign table"),
        (sa.Table("account", sa.MetaData(), sa.Column("email", sa.Text)), "a table without a key"),
    ],
    ids=["partitioned", "inherits", "foreign", "keyless"],
)
def test_auto_is_row_level_where_the_table_needs_rows(one: sa.Table, reason: str) -> None:
    """What statement triggers would miss or record in a wrong order is row level."""
    with pytest.raises(DeclarationError, match=f"'statement' .*{reason}"):
        audit_table(one, level="statement")
    assert "row" == level_of(one)


def test_auto_is_row_level_for_a_table_that_others_inherit() -> None:
    """A statement trigger of the parent sees rows of its children, a row trigger does not."""
    one = table()
    sa.Table("child", one.metadata, postgresql_inherits="account")
    assert "row" == level_of(one)


@pytest.mark.parametrize("level", ["auto", "row", "statement"])
@pytest.mark.parametrize("initially", ["DEFERRED", "deferred"])
def test_a_key_that_is_checked_at_commit(initially: str, level: str) -> None:
    """Two rows can have it at once; checked after each statement it is recorded as ever."""

    def made(initially: str) -> sa.Table:
        return sa.Table(
            "slot",
            sa.MetaData(),
            sa.Column("id", sa.Integer),
            sa.PrimaryKeyConstraint("id", deferrable=True, initially=initially),
            info={"audit.options": {"enabled": True, "level": level}},
        )

    with pytest.raises(DeclarationError, match=r"INITIALLY DEFERRED.*initially='IMMEDIATE'"):
        derive_all(made(initially).metadata)
    if level != "row":
        assert ["statement"] == [one.level for one in derive_all(made("IMMEDIATE").metadata)]


def test_a_deferrable_key_needs_statement_level() -> None:
    """Rows that change places in one UPDATE: a row trigger records them so that none can tell."""

    def one() -> sa.Table:
        made = table()
        made.primary_key.deferrable = True
        return made

    assert "statement" == level_of(one())
    with pytest.raises(DeclarationError, match=r"DEFERRABLE.*write level 'statement', or make"):
        level_of(one(), level="row")
    with pytest.raises(DeclarationError, match=r"DEFERRABLE.*leave out always=True, or make"):
        level_of(one(), always=True)
    assert "row" == level_of(one(), level="row", operations=["insert", "delete"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"always": True}, "always=True"),
        ({"partitions": ["p"]}, r"partitions=\['p'\]"),
        ({"key": []}, "a table without a key"),
        ({"sparse_columns": ["email"]}, r"sparse_columns=\['email'\]"),
    ],
)
def test_an_operation_at_statement_level_is_refused_with_what_needs_rows(
    arguments: dict[str, Any], reason: str
) -> None:
    """A hand-written op.create_audit_trigger says the same."""
    given = {"key": ["id"], "columns": ["id", "email"], "level": "statement", **arguments}
    with pytest.raises(SpecError, match=f"'statement' of 'account' does not go with {reason}"):
        AuditSpec.from_kwargs("account", **given)


def test_unknown_levels_are_refused() -> None:
    """The message names what there is."""
    with pytest.raises(DeclarationError, match=r"level in .* one of row, statement, auto"):
        audit_table(table(), level="cell")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="level must be one of row, statement, found 'auto'"):
        AuditSpec.from_kwargs("account", columns=["id"], level="auto")


# -- the same records -----------------------------------------------------------------------------

CREATE = "CREATE TABLE {0} (id integer PRIMARY KEY DEFERRABLE, email text, note text)"
WORK = [
    "INSERT INTO {0} VALUES (1, 'a', 'x')",
    "INSERT INTO {0} SELECT i, 'b' || i, NULL FROM generate_series(2, 9) AS i",
    "INSERT INTO {0} VALUES (11, 'a', 'x'), (10, 'd', 'z') ON CONFLICT (email, note) DO NOTHING",
    "INSERT INTO {0} VALUES (12, 'a', 'x'), (13, 'e', 'z') ON CONFLICT (email, note)"
    " DO UPDATE SET note = 'conflict'",
    "UPDATE {0} SET note = 'y' WHERE id < 5",
    "UPDATE {0} SET note = 'y' WHERE false",
    "UPDATE {0} SET id = 90 + id, email = 'k' WHERE id IN (8, 9)",
    "UPDATE {0} SET email = v.e FROM (VALUES (2, 'f2'), (3, 'f3')) AS v (i, e) WHERE id = v.i",
    "MERGE INTO {0} USING (VALUES (4), (5), (30)) AS v (i) ON id = v.i"
    " WHEN MATCHED AND v.i = 4 THEN DELETE WHEN MATCHED THEN UPDATE SET note = 'm'"
    " WHEN NOT MATCHED THEN INSERT VALUES (v.i, 'new', NULL)",
    "WITH gone AS (DELETE FROM {0} WHERE id = 6 RETURNING *), more AS"
    " (UPDATE {0} SET note = 'cte' WHERE id = 7) INSERT INTO {0} SELECT 60, email FROM gone",
    "DELETE FROM {0} WHERE id > 90",
    "DELETE FROM {0} WHERE id = 12345",
    "TRUNCATE {0}",
]


def create(database: Database, name: str, level: str, **arguments: Any) -> None:
    spec = AuditSpec.from_kwargs(name, key=["id"], columns=COLUMNS, level=level, **arguments)
    settings = "".join(f", {one.column} text" for one in spec.session_settings)
    with database.engine.begin() as connection:
        for statement in (
            CREATE.format(name),
            f"CREATE UNIQUE INDEX {name}_index ON {name} (email, note)",
            f"CREATE TABLE {name}_audit (audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " audit_operation varchar(1) NOT NULL, audit_operation_timestamp timestamptz NOT NULL,"
            " audit_transaction_id bigint NOT NULL, audit_current_user varchar(64) NOT NULL,"
            f" id integer, email text, note text{settings})",
            *sql.create(spec, "public"),
        ):
            connection.exec_driver_sql(statement.replace("%", "%%"))


def records(database: Database, name: str, after: int = 0) -> list[tuple[Any, ...]]:
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            f"SELECT audit_operation, audit_current_user, id, email, note FROM {name}_audit "
            f"WHERE audit_id > {after} ORDER BY audit_id"
        )
        return [tuple(row) for row in rows]


def execute(database: Database, *statements: str) -> None:
    with database.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def test_both_levels_record_the_same(database: Database) -> None:
    """Every statement leaves the same records at both levels, but for their order."""
    create(database, "by_row", "row")
    create(database, "by_statement", "statement")
    counts = {"by_row": 0, "by_statement": 0}
    for statement in WORK:
        made = {}
        for name, count in counts.items():
            execute(database, statement.format(name))
            made[name] = records(database, name, count)
            counts[name] += len(made[name])
        assert sorted(made["by_row"], key=repr) == sorted(made["by_statement"], key=repr)
    assert 31 == counts["by_row"]


def test_copy_is_recorded(database: Database) -> None:
    """COPY fires the statement trigger once, with all rows, in their order."""
    create(database, "account", "statement")
    execute(database, "COPY account FROM PROGRAM 'printf \"1\\ta\\tx\\n2\\tb\\ty\\n\"'")
    assert [("I", 1, "a", "x"), ("I", 2, "b", "y")] == [
        (one[0], *one[2:]) for one in records(database, "account")
    ]


def test_changed_keys_are_recorded_before_the_update(database: Database) -> None:
    """All D of a statement come before its U, so that two rows which swap keys can be replayed."""
    create(database, "account", "statement")
    execute(database, "INSERT INTO account VALUES (1, 'a', NULL), (2, 'b', NULL), (3, 'c', NULL)")
    execute(database, "UPDATE account SET id = CASE id WHEN 1 THEN 2 WHEN 2 THEN 1 ELSE id END")
    assert [("D", 1, "a"), ("D", 2, "b"), ("U", 2, "a"), ("U", 1, "b"), ("U", 3, "c")] == [
        (one[0], *one[2:4]) for one in records(database, "account", 3)
    ]


def test_a_changed_key_demands_the_setting_once(database: Database) -> None:
    """The trigger of changed keys records settings as the others do."""
    create(database, "account", "statement", session_settings={"who": "required"})
    with pytest.raises(sa.exc.IntegrityError, match=r"audit.who is not set"):
        execute(database, "INSERT INTO account VALUES (1)")
    execute(database, "SET LOCAL audit.who = 'ann'", "INSERT INTO account VALUES (1)")
    with pytest.raises(sa.exc.IntegrityError, match=r"audit.who is not set"):
        execute(database, "UPDATE account SET id = 2")
    execute(database, "SET LOCAL audit.who = 'ben'", "UPDATE account SET id = 2")
    with database.engine.connect() as connection:
        who = connection.exec_driver_sql("SELECT audit_who FROM account_audit ORDER BY audit_id")
        assert ["ann", "ben", "ben"] == who.scalars().all()


def test_a_statement_without_rows_demands_no_setting(database: Database) -> None:
    """A statement trigger fires for no row too; a write that changes nothing needs no actor."""
    create(database, "account", "statement", session_settings={"who": "required"})
    execute(
        database,
        "UPDATE account SET note = 'x'",
        "DELETE FROM account",
        "INSERT INTO account SELECT 1 WHERE false",
    )
    assert [] == records(database, "account")
    with pytest.raises(sa.exc.IntegrityError, match=r"audit.who is not set"):
        execute(database, "TRUNCATE account")


def test_temporary_tables_do_not_shadow_the_rows(database: Database) -> None:
    """The rows of a statement are looked up before every table of the session's."""
    create(database, "account", "statement")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMP TABLE audited_rows (LIKE account)")
        connection.exec_driver_sql("INSERT INTO audited_rows VALUES (7, 'forged', NULL)")
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'real', NULL)")
        connection.exec_driver_sql("UPDATE account SET note = 'x'")
    assert [(1, "real"), (1, "real")] == [one[2:4] for one in records(database, "account")]


# -- plans ----------------------------------------------------------------------------------------


def plans(database: Database, *statements: str) -> list[str]:
    """Return the plans that one session made of the records' INSERT."""
    raw = database.engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("SET jit_above_cost = 20; SET debug_print_plan = on")
        cursor.execute("SET client_min_messages = log")
        texts = []
        for statement in statements:
            del raw.driver_connection.notices[:]
            cursor.execute(statement)
            texts += [one for one in raw.driver_connection.notices if "NAMEDTUPLESTORE" in one]
        return texts
    finally:
        raw.close()


def jit_flags(texts: list[str]) -> set[str]:
    return {flag for one in texts for flag in re.findall(r":jitFlags (\d+)", one)}


ONE = "INSERT INTO account SELECT coalesce(max(id), 0) + 1, 'a', 'b' || random() FROM account"
MANY = (
    "INSERT INTO account SELECT m + i, 'a', 'b' || random() FROM generate_series(1, 10000) AS i,"
    " (SELECT coalesce(max(id), 0) AS m FROM account) AS m"
)


@pytest.mark.parametrize(
    "statements",
    [[*[ONE] * 5, MANY, *[ONE] * 20], [MANY, *[ONE] * 20], [*[MANY] * 6, *[ONE] * 20]],
    ids=["small first", "large first", "large for long"],
)
def test_a_session_plans_few_times_and_without_jit(
    database: Database, statements: list[str]
) -> None:
    """Whatever a session writes first: no later statement pays for its size.

    With PostgreSQL's defaults the plan of a large first statement is compiled by JIT for each
    single row after it. Six plans: PL/pgSQL tries five with values before it keeps one without.
    """
    create(database, "account", "statement")
    found = plans(database, *statements)
    assert len(found) <= 6
    assert {"0"} == jit_flags(found)


def test_without_its_setting_a_session_compiles_each_statement(database: Database) -> None:
    """The control: the same function without its SET clause."""
    create(database, "account", "statement")
    execute(database, "ALTER FUNCTION public_account_audit() RESET ALL")
    assert "0" not in jit_flags(plans(database, MANY, *[ONE] * 20))


@pytest.mark.parametrize("operation", [ONE, "UPDATE account SET note = 'c'", "DELETE FROM account"])
def test_the_rows_of_a_statement_are_read_by_one_node(database: Database, operation: str) -> None:
    """A volatile function among the values would be a node more to start, and to pass by row."""
    create(database, "account", "statement", session_settings={"who": "nullable"})
    for plan in plans(database, operation):
        assert ["MODIFYTABLE", "NAMEDTUPLESTORESCAN"] == re.findall(
            r"\{(MODIFYTABLE|[A-Z]*SCAN|RESULT|APPEND) ", plan
        )


def test_the_records_of_a_statement_have_one_time(database: Database) -> None:
    """At statement level; a row trigger runs at a time of its own for each row."""
    create(database, "account", "statement")
    execute(database, MANY, "UPDATE account SET id = -id", "DELETE FROM account WHERE id < -5")
    times = (
        "SELECT audit_operation, audit_transaction_id, count(DISTINCT audit_operation_timestamp)"
        " FROM account_audit GROUP BY 1, 2"
    )
    with database.engine.connect() as connection:
        found = {(row[0], row[2]) for row in connection.exec_driver_sql(times)}
    assert {("I", 1), ("U", 1)} < found


# -- through autogenerate -------------------------------------------------------------------------


def test_a_change_of_level_is_a_diff(tmp_path: Path, database: Database) -> None:
    """Row to statement and back; the level stands in the migration, and the check is clean."""
    project = Project(tmp_path, database)
    created = project.revision(models(level="row"))
    assert "        level='row',\n" in created
    project.upgrade()
    before = snapshot(database.engine)
    assert "level='statement'" in project.revision(models())
    assert "replaces={'level': 'row'}" in (tmp_path / "versions" / "0002_step.py").read_text()
    project.upgrade()
    project.check(models())
    assert ["00_audit_account_delete", "00_audit_account_insert", "00_audit_account_key"] == sorted(
        name for name in triggers(database) if "truncate" not in name and "update" not in name
    )
    project.execute("INSERT INTO account VALUES (1)")
    project.execute("DELETE FROM account_audit")
    project.downgrade("0001")
    assert before == snapshot(database.engine)


def triggers(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(
            connection.exec_driver_sql(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = 'account'::regclass"
                " AND NOT tgisinternal ORDER BY tgname"
            ).scalars()
        )


def test_a_key_changes_its_type(tmp_path: Path, database: Database) -> None:
    """No trigger names the key, so that it is retyped as any column is; nothing is lost."""
    project = Project(tmp_path, database)
    project.revision(models())
    project.upgrade()
    before = snapshot(database.engine)
    project.execute("INSERT INTO account VALUES (1, 'a', 'b')")
    wide = models()
    wide.tables["account"].c.id.type = sa.BigInteger()
    derive_all(wide)
    text = project.revision(wide)
    assert "drop_audit_trigger" not in text
    project.upgrade()
    project.check(wide)
    project.execute("UPDATE account SET id = 3000000000")
    project.execute("DELETE FROM account")
    assert [("I", None), ("D", 1), ("U", 3000000000), ("D", 3000000000)] == [
        (one[0], one[2]) for one in records(database, "account")
    ]
    project.execute("TRUNCATE account", "TRUNCATE account_audit")
    project.downgrade("0001")
    project.execute("DELETE FROM account_audit")
    assert before == snapshot(database.engine)


def test_other_migrations_change_a_key(database: Database) -> None:
    """A migration that is not ours retypes and drops the columns of a key."""
    create(database, "account", "statement")
    execute(database, "ALTER TABLE account ALTER COLUMN id TYPE bigint")
    execute(database, "ALTER TABLE account DROP COLUMN id")


def test_a_key_column_is_renamed_and_dropped(tmp_path: Path, database: Database) -> None:
    """The function knows the key by its name: both are replaced in one migration."""
    project = Project(tmp_path, database)

    def two(name: str | None) -> sa.MetaData:
        keys = [sa.Column(name, sa.Integer, primary_key=True)] if name else []
        one = table("account", *keys)
        audit_table(one)
        return one.metadata

    project.revision(two("line"))
    project.upgrade()
    created = (tmp_path / "versions" / "0001_step.py").read_text()
    call = created[created.index("op.create_audit_trigger(") :].split("\n    )\n")[0]
    renamed = call.replace("create_audit_trigger", "rename_audited_column").replace("line", "row")
    project.write(renamed.replace("'account',", "'account', 'line', 'row',", 1) + "\n    )")
    project.upgrade()
    project.check(two("row"))
    project.revision(two(None))
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1)")
    project.execute("UPDATE account SET id = 2")
    assert [("I", 1), ("D", 1), ("U", 2)] == [
        (one[0], one[2]) for one in records(database, "account")
    ]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE child () INHERITS (account)", "is a partition, inherits another table, or"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER theirs AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION f()",
            "has another AFTER ROW trigger, theirs",
        ),
    ],
    ids=["inheritance", "AFTER ROW trigger"],
)
def test_autogenerate_stops_where_the_database_needs_rows(
    tmp_path: Path, database: Database, statement: str, reason: str
) -> None:
    """It names the table, the reason and the line to write; with that line it goes on."""
    project = Project(tmp_path, database)
    project.revision(models())
    project.upgrade()
    project.execute(statement)
    with pytest.raises(CommandError, match=f'account {reason}.*write level="row" in its options'):
        project.revision(models())
    project.count = 1
    project.revision(models(level="row"))
    project.upgrade()
    project.check(models(level="row"))


@pytest.mark.parametrize(
    "make",
    [
        "CREATE TABLE account (id integer, email text) PARTITION BY RANGE (id)",
        "CREATE TABLE account (id integer, email text); CREATE TABLE c () INHERITS (account)",
        "CREATE TABLE p (id integer, email text); CREATE TABLE account () INHERITS (p)",
    ],
    ids=["partitioned", "parent", "child"],
)
def test_the_operation_refuses_a_hierarchy(database: Database, make: str) -> None:
    """Before anything is made, the message says what to write."""
    spec = AuditSpec.from_kwargs("account", key=["id"], columns=["id"], level="statement")
    execute(database, make, "CREATE TABLE account_audit ()")
    with pytest.raises(sa.exc.ProgrammingError, match=r"one of a hierarchy(.|\n)*level='row'"):
        execute(database, sql.create(spec, "public")[0])


DRIFT = [
    ('ALTER TABLE account DISABLE TRIGGER "00_audit_account_update"', "trigger disabled"),
    ('DROP TRIGGER "00_audit_account_key" ON account', "trigger missing"),
    (
        'CREATE OR REPLACE TRIGGER "00_audit_account_key" AFTER UPDATE ON account FOR EACH ROW '
        "WHEN (old.id <> new.id) "
        "EXECUTE FUNCTION public_account_audit()",
        "trigger retimed",
    ),
    (
        'CREATE OR REPLACE TRIGGER "00_audit_account_insert" AFTER INSERT ON account '
        "REFERENCING NEW TABLE AS others FOR EACH STATEMENT "
        "EXECUTE FUNCTION public_account_audit()",
        "trigger retimed",
    ),
    ("ALTER FUNCTION public_account_audit() RESET jit", "SET clause"),
    ("ALTER FUNCTION public_account_audit() SET work_mem = '1MB'", "SET clause"),
    ("ALTER FUNCTION public_account_audit() SET jit = on", "SET clause"),
]


@pytest.mark.parametrize(("statement", "kind"), DRIFT)
def test_changes_by_hand_are_found_and_mended(
    tmp_path: Path, database: Database, statement: str, kind: str
) -> None:
    """Each is a diff, the migration mends it, and its downgrade puts it back."""
    project = Project(tmp_path, database)
    project.revision(models())
    project.upgrade()
    good = snapshot(database.engine)
    project.execute(statement)
    bad = snapshot(database.engine)
    assert good != bad
    assert kind in str(project.differences(models()))
    project.revision(models())
    project.upgrade()
    project.check(models())
    assert good == snapshot(database.engine)
    project.downgrade("0001")
    assert bad == snapshot(database.engine)
