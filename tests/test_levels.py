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


def level_of(one: sa.Table, **options: Any) -> Any:
    """Return the level as the migration shows it."""
    audit_table(one, **options)
    derive_all(one.metadata)
    spec: AuditSpec = one.info[SPEC_KEY]
    return spec.to_kwargs()["level"]


# -- what auto comes to ---------------------------------------------------------------------------

ONLY_UPDATE = {"insert": "statement", "update": "row", "delete": "statement"}
OTHERS = {"insert": "row", "update": "statement", "delete": "row"}
NEED_THE_OLD_ROW: list[dict[str, Any]] = [
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


@pytest.mark.parametrize("options", NEED_THE_OLD_ROW, ids=lambda options: next(iter(options)))
def test_only_update_is_row_level_where_an_option_needs_the_old_row(
    options: dict[str, Any],
) -> None:
    """INSERT and DELETE stay at statement level; the refusal names the line to write."""
    assert ONLY_UPDATE == level_of(table(), **options)
    with pytest.raises(
        DeclarationError,
        match=f"'statement' of update does not go with {next(iter(options))}.*; "
        f"write level={re.escape(str(ONLY_UPDATE))} or 'auto'",
    ):
        level_of(table(), level="statement", **options)
    assert ONLY_UPDATE == level_of(table(), level=ONLY_UPDATE, **options)
    assert "statement" == level_of(table(), operations=["insert", "delete"], **options)


def test_always_is_row_level() -> None:
    """No statement trigger fires where a subscription applies a change."""
    assert "row" == level_of(table(), always=True)
    with pytest.raises(DeclarationError, match=r"'statement' of insert .* always=True; .*'row'"):
        level_of(table(), level="statement", always=True)


@pytest.mark.parametrize(
    ("one", "reason", "level"),
    [
        (table(postgresql_partition_by="RANGE (id)"), "a partitioned table", "row"),
        (table(postgresql_inherits="base"), "inheritance", "row"),
        (table(prefixes=["FOREIGN"]), "a foreign table", "row"),
        (
            sa.Table("account", sa.MetaData(), sa.Column("email", sa.Text)),
            "a table without a key",
            ONLY_UPDATE,
        ),
    ],
    ids=["partitioned", "inherits", "foreign", "keyless"],
)
def test_auto_is_row_level_where_the_table_needs_rows(
    one: sa.Table, reason: str, level: Any
) -> None:
    """What statement triggers would miss or record in a wrong order is row level."""
    with pytest.raises(DeclarationError, match=f"'statement' .*{reason}"):
        audit_table(one, level="statement")
    assert level == level_of(one)


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
        assert ["statement"] == [
            one.to_kwargs()["level"] for one in derive_all(made("IMMEDIATE").metadata)
        ]


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
    message = f"'statement' of (insert|update) of 'account' does not go with {reason}; write level="
    with pytest.raises(SpecError, match=message):
        AuditSpec.from_kwargs("account", **given)


def test_unknown_levels_are_refused() -> None:
    """The message names what there is."""
    with pytest.raises(DeclarationError, match=r"level in .* one of row, statement, auto"):
        audit_table(table(), level="cell")  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match=r"level in .* names 'truncate'; it may name insert"):
        audit_table(table(), level={"truncate": "row"})  # type: ignore[dict-item]
    with pytest.raises(SpecError, match=r"level must be one of row, statement, or .* found 'auto'"):
        AuditSpec.from_kwargs("account", columns=["id"], level="auto")
    with pytest.raises(SpecError, match=r"level must be .* found 'cell'"):
        AuditSpec.from_kwargs("account", columns=["id"], level={"insert": "cell"})
    whole = "{'insert': 'row', 'update': 'statement', 'delete': 'statement'}"
    with pytest.raises(SpecError, match=rf"level must name .*; write level={re.escape(whole)}"):
        AuditSpec.from_kwargs("account", columns=["id"], level={"insert": "row"})


# -- foreign keys ---------------------------------------------------------------------------------


def referring(*clauses: tuple[str, str | None, str | None]) -> sa.Table:
    """Return a table with a key (tenant, id), and foreign keys: column, ON DELETE, ON UPDATE."""
    metadata = sa.MetaData()
    sa.Table("employee", metadata, sa.Column("id", sa.Integer, primary_key=True))
    return sa.Table(
        "task",
        metadata,
        *(sa.Column(name, sa.Integer, primary_key=True) for name in ("tenant", "id")),
        *(sa.Column(name, sa.Integer) for name in ("owner", "reviewer")),
        *(
            sa.ForeignKeyConstraint([column], ["employee.id"], ondelete=delete, onupdate=update)
            for column, delete, update in clauses
        ),
    )


@pytest.mark.parametrize(
    ("clauses", "level"),
    [
        ([("owner", None, None), ("reviewer", "RESTRICT", "NO ACTION")], "statement"),
        ([("owner", "CASCADE", None), ("tenant", "CASCADE", None)], "statement"),
        ([("owner", "SET NULL", "CASCADE"), ("reviewer", "set null", "CASCADE")], "statement"),
        ([("owner", "CASCADE", None), ("reviewer", "SET NULL", None)], ONLY_UPDATE),
        ([("owner", "cascade", "cascade")], ONLY_UPDATE),
        ([("tenant", None, "CASCADE")], ONLY_UPDATE),
        ([("tenant", "SET  DEFAULT", None)], ONLY_UPDATE),
        ([("tenant", None, "CASCADE"), ("owner", "CASCADE", None)], "row without insert"),
    ],
)
def test_auto_knows_foreign_key_actions(clauses: list[Any], level: Any) -> None:
    """UPDATE is row level where actions update and delete its rows, or change its key."""
    if level == "row without insert":
        level = {"insert": "statement", "update": "row", "delete": "row"}
    assert level == level_of(referring(*clauses))
    if level != "statement":
        with pytest.raises(
            DeclarationError, match=rf"actions of foreign keys.*level={re.escape(str(level))} or"
        ):
            level_of(referring(*clauses), level="statement")
        assert level == level_of(referring(*clauses), level=level)
    assert "row" == level_of(referring(*clauses), level="row")


def test_a_list_of_columns_that_are_set_is_read() -> None:
    """SET NULL (column) of PostgreSQL 15 changes that column alone, so the key stays."""

    def one(on_delete: str) -> sa.Table:
        metadata = sa.MetaData()
        sa.Table(
            "parent",
            metadata,
            *(sa.Column(name, sa.Integer, primary_key=True) for name in ("tenant", "id")),
        )
        return sa.Table(
            "child",
            metadata,
            *(sa.Column(name, sa.Integer, primary_key=True) for name in ("tenant", "id")),
            sa.Column("Parent", sa.Integer),
            sa.ForeignKeyConstraint(
                ["tenant", "Parent"], ["parent.tenant", "parent.id"], ondelete=on_delete
            ),
        )

    assert "statement" == level_of(one('SET NULL ("Parent")'))
    assert ONLY_UPDATE == level_of(one("SET NULL (tenant)"))
    assert ONLY_UPDATE == level_of(one("SET NULL (somewhere)"))
    assert ONLY_UPDATE == level_of(one("SET NULL"))


def test_a_level_for_some_operations_leaves_the_others_to_auto() -> None:
    """What is not named is as if nothing was said."""
    assert ONLY_UPDATE == level_of(table(), level={"update": "row"})
    assert "statement" == level_of(table(), level={"update": "auto"})
    assert ONLY_UPDATE == level_of(table(), level={"insert": "statement"}, skip_unchanged=True)
    assert "statement" == level_of(table(), level={"update": "row"}, operations=["delete"])


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


def create(database: Database, name: str, level: Any, **arguments: Any) -> None:
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


def test_all_levels_record_the_same(database: Database) -> None:
    """Every statement leaves the same records at every level, but for their order."""
    several = {"by_row": "row", "by_statement": "statement", "mixed": ONLY_UPDATE, "others": OTHERS}
    counts = dict.fromkeys(several, 0)
    for name, level in several.items():
        create(database, name, level)
    for statement in WORK:
        made = {}
        for name, count in counts.items():
            execute(database, statement.format(name))
            made[name] = sorted(records(database, name, count), key=repr)
            counts[name] += len(made[name])
        assert all(made["by_row"] == one for one in made.values())
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


TASKS = [
    "CREATE TABLE employee (id integer PRIMARY KEY)",
    "ALTER TABLE account ADD owner integer, ADD reviewer integer",
    "ALTER TABLE account ADD CONSTRAINT owns FOREIGN KEY (owner) REFERENCES employee "
    "ON DELETE CASCADE",
    "ALTER TABLE account ADD CONSTRAINT reviews FOREIGN KEY (reviewer) REFERENCES employee "
    "ON DELETE SET NULL",
]


def tasks(*names: str, **options: Any) -> sa.MetaData:
    """Declare the tables of TASKS, with some of the foreign keys."""
    one = table("account", *(sa.Column(name, sa.Integer) for name in ("owner", "reviewer")))
    sa.Table("employee", one.metadata, sa.Column("id", sa.Integer, primary_key=True))
    keys = {"owns": ("owner", "CASCADE"), "reviews": ("reviewer", "SET NULL")}
    for name in names:
        column, action = keys[name]
        key = sa.ForeignKeyConstraint([column], ["employee.id"], ondelete=action, name=name)
        one.append_constraint(key)
    audit_table(one, **options)
    return one.metadata


def without_foreign_keys(
    thing: Any, name: str | None, kind: str, reflected: bool, compare_to: Any
) -> bool:
    """Leave foreign keys to others, as an include_object of a project may."""
    return kind != "foreign_key_constraint"


def test_autogenerate_stops_at_foreign_keys_that_no_model_declares(
    tmp_path: Path, database: Database
) -> None:
    """The database alone knows the actions; with the line of the message it goes on."""
    project = Project(tmp_path, database, include_object=without_foreign_keys)
    project.revision(models())
    project.upgrade()
    project.execute(*TASKS)
    reason = (
        r"account, actions of foreign keys that update \(reviews\) and delete \(owns\) its rows"
    )
    with pytest.raises(CommandError, match=rf"{reason}.*write level={re.escape(str(ONLY_UPDATE))}"):
        project.revision(tasks())
    with pytest.raises(CommandError, match=reason):
        project.check(tasks())
    project.count = 1
    mixed = tasks(level=ONLY_UPDATE)
    project.revision(mixed)
    project.upgrade()
    project.check(mixed)
    project.execute(
        "INSERT INTO employee VALUES (1), (2)",
        "INSERT INTO account (id, owner, reviewer) VALUES (1, 1, 2), (2, 2, 1)",
        "DELETE FROM employee",
    )
    with database.engine.connect() as connection:
        trail = connection.exec_driver_sql(
            "SELECT audit_operation, id, reviewer FROM account_audit ORDER BY audit_id"
        ).all()
    assert [("I", 1, 2), ("I", 2, 1), ("U", 2, None), ("D", 1, 2), ("D", 2, None)] == trail


def test_foreign_keys_come_and_go_with_the_level(tmp_path: Path, database: Database) -> None:
    """A migration that adds or drops actions changes the level too, there and back."""
    project = Project(tmp_path, database)
    project.migrate(tasks("owns"))
    one = snapshot(database.engine)
    assert str(ONLY_UPDATE) in project.migrate(tasks("owns", "reviews"))
    project.check(tasks("owns", "reviews"))
    assert ["00_audit_account", "00_audit_account_delete", "00_audit_account_insert"] == [
        name for name in triggers(database) if not name.endswith("truncate")
    ]
    two = snapshot(database.engine)
    assert "level='statement'" in project.migrate(tasks("owns"))
    project.check(tasks("owns"))
    assert one == snapshot(database.engine)
    project.downgrade("0002")
    assert two == snapshot(database.engine)
    project.downgrade("0001")
    assert one == snapshot(database.engine)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ('DROP TRIGGER "00_audit_account" ON account', "trigger missing"),
        ('ALTER TABLE account DISABLE TRIGGER "00_audit_account_insert"', "trigger disabled"),
        (
            'CREATE OR REPLACE TRIGGER "00_audit_account" AFTER INSERT OR UPDATE ON account '
            "FOR EACH ROW EXECUTE FUNCTION public_account_audit()",
            "trigger retimed",
        ),
        (
            'CREATE TRIGGER "00_audit_account_key" AFTER UPDATE ON account '
            "FOR EACH ROW EXECUTE FUNCTION public_account_audit()",
            "second trigger",
        ),
    ],
)
def test_changes_by_hand_of_a_mixed_level_are_found_and_fixed(
    tmp_path: Path, database: Database, statement: str, kind: str
) -> None:
    """The triggers of both levels are compared, and put back as they were found."""
    project = Project(tmp_path, database)
    mixed = tasks("owns", "reviews")
    project.migrate(mixed)
    good = snapshot(database.engine)
    project.execute(statement)
    bad = snapshot(database.engine)
    assert kind in str(project.differences(mixed))
    project.migrate(mixed)
    project.check(mixed)
    assert good == snapshot(database.engine)
    project.downgrade("0001")
    assert bad == snapshot(database.engine)


@pytest.mark.parametrize(
    ("level", "order"),
    [
        ("row", "D1 D2 U1"),
        ("statement", "D2 D1 U1"),
        ({**ONLY_UPDATE, "delete": "row"}, "D1 D2 U1"),
        # What no replay can follow: the row that was deleted last is the one that is there.
        (ONLY_UPDATE, "D2 U1 D1"),
    ],
    ids=["row", "statement", "delete by row", "known gap"],
)
def test_an_update_gives_a_deleted_key_away(database: Database, level: Any, order: str) -> None:
    """In one statement: with UPDATE at row level it takes DELETE there too."""
    create(database, "account", level)
    if database.engine.dialect.server_version_info < (15,):  # type: ignore[operator]
        pytest.skip("MERGE came with PostgreSQL 15")
    execute(
        database,
        "INSERT INTO account VALUES (1, 'a', NULL), (2, 'b', NULL)",
        "MERGE INTO account USING (VALUES (1), (2)) AS v (i) ON id = v.i "
        "WHEN MATCHED AND v.i = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET id = 1",
    )
    assert order == " ".join(f"{one[0]}{one[2]}" for one in records(database, "account", 2))


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
