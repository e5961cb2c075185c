"""Doctor: every kind of finding, made on a real database; a healthy one has none."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from alembic_audit import AuditSpec, DeclarationError, doctor
from alembic_audit.doctor import values as kinds
from alembic_audit.tables import derive_all
from tests.conftest import Database, _database
from tests.project import Project
from tools import postgres

ROLES = {name: f"{name}_{os.getpid()}" for name in ("auditor", "app", "member")}
"""Roles are the server's: the process id keeps those of parallel workers apart."""


def table(metadata: sa.MetaData, name: str, **options: Any) -> sa.Table:
    given = {
        "enabled": True,
        "owner": ROLES["auditor"],
        "session_settings": [sa.Column("username", sa.Text)],
        "level": "row",
        **options,
    }
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("city", sa.Text),
        info={"audit.options": given},
    )


def models(**options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    table(metadata, "account", **options)
    table(metadata, "payment")
    return metadata


@pytest.fixture(scope="module")
def healthy(
    server: postgres.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """A healthy database, which every test leaves as it found it."""
    with _database(server) as made:
        project = Project(tmp_path_factory.mktemp("healthy"), made)
        project.execute(*(f"CREATE ROLE {role}" for role in ROLES.values()))
        project.migrate(models())
        project.execute(
            "SELECT set_config('audit.username', 'ann', true); "
            "INSERT INTO account VALUES (1, 'a@x', 'Rome')",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON account TO {ROLES['app']}",
            f"GRANT SELECT ON account_audit TO {ROLES['app']}",
        )
        project.engine.dispose()
        yield made
    with server._admin.connect() as connection:
        for role in ROLES.values():
            connection.exec_driver_sql(f"DROP ROLE {role}")


@pytest.fixture
def connection(healthy: Database) -> Iterator[sa.Connection]:
    """A transaction in the healthy database that is rolled back."""
    with healthy.engine.connect() as made:
        yield made


def run(connection: sa.Connection, *statements: str) -> None:
    """Run statements that hold names of roles, and of the database, in braces."""
    names = {**ROLES, "database": str(connection.engine.url.database)}
    for statement in statements:
        text = re.sub(r"{(\w+)}", lambda match: names.get(match[1], match[0]), statement)
        connection.exec_driver_sql(text, execution_options={"no_parameters": True})


def create(connection: sa.Connection, metadata: sa.MetaData) -> list[AuditSpec]:
    """Create tables with their trails."""
    specs = derive_all(metadata)
    metadata.create_all(connection)
    return specs


def said(findings: list[doctor.Finding]) -> list[str]:
    """Return findings as text, with the names of roles as they are written here."""
    texts = []
    for one in findings:
        assert one.kind in doctor.KINDS and one.cure
        text = f"{one.severity}: {one.kind} [{one.table}] {one.what}"
        for name, role in ROLES.items():
            text = text.replace(role, name)
        texts.append(re.sub(r"alembic_audit_\d+_\d+", "{database}", text))
    return texts


def examine(connection: sa.Connection, specs: list[AuditSpec] | None = None) -> list[str]:
    return said(doctor.examine(connection, specs))


FUNCTION = '"public"."public_account_audit"'
ACCOUNT = '"public"."account"'
AUDIT = '"public"."account_audit"'
TRIGGER = f'trigger "00_audit_account" on {ACCOUNT}'
NOTHING = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
INSERTS = NOTHING.replace(
    "BEGIN", "BEGIN INSERT INTO account_audit (audit_operation) VALUES (''I'');"
)


def replaced(body: str) -> str:
    """Return the statement that gives the audit function another body, from *body* of its own."""
    return f"""DO $do$ DECLARE body text := (
      SELECT prosrc FROM pg_proc WHERE proname = 'public_account_audit'
    ); BEGIN
      EXECUTE format('CREATE OR REPLACE FUNCTION public_account_audit() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER AS %L', {body});
    END $do$"""


CASES: dict[str, tuple[list[str], list[str]]] = {
    "body": (
        [replaced("body || '-- mine'")],
        [
            f"error: body edited [public.account] the body of {FUNCTION} was edited, in comments "
            "and white space"
        ],
    ),
    "no_header": (
        [replaced("substr(body, strpos(body, chr(10)) + 1)")],
        [
            f"warning: stray function [public.account] function {FUNCTION} is ours, and part of "
            "no trail"
        ],
    ),
    "newer": (
        [replaced("""replace(body, '"version":1', '"version":99')""")],
        [
            f"warning: newer version [] function {FUNCTION} was not looked at: template version "
            "99 is newer than this one"
        ],
    ),
    "disabled": (
        ['ALTER TABLE account DISABLE TRIGGER "00_audit_account"'],
        [f"error: trigger disabled [public.account] {TRIGGER} is in state DISABLE"],
    ),
    "missing": (
        ['DROP TRIGGER "00_audit_account" ON account'],
        [f"error: trigger missing [public.account] {TRIGGER} is gone"],
    ),
    "retimed": (
        [
            'DROP TRIGGER "00_audit_account" ON account',
            'CREATE TRIGGER "00_audit_account" BEFORE INSERT ON account FOR EACH ROW '
            "EXECUTE FUNCTION public_account_audit()",
        ],
        [
            f"error: trigger retimed [public.account] {TRIGGER} is now: CREATE TRIGGER "
            '"00_audit_account" BEFORE INSERT ON public.account FOR EACH ROW EXECUTE FUNCTION '
            "public.public_account_audit()"
        ],
    ),
    "second": (
        [
            "CREATE TRIGGER again AFTER INSERT ON account FOR EACH ROW "
            "EXECUTE FUNCTION public_account_audit()"
        ],
        [
            f'error: second trigger [public.account] trigger "again" on {ACCOUNT} calls '
            f"{FUNCTION} too"
        ],
    ),
    "elsewhere": (
        [
            "CREATE TABLE other (id int)",
            "CREATE TRIGGER again AFTER INSERT ON other FOR EACH ROW "
            "EXECUTE FUNCTION public_account_audit()",
        ],
        [
            'error: trigger on another table [public.account] trigger "again" on '
            f'"public"."other" calls {FUNCTION} too'
        ],
    ),
    "invoker": (
        ["ALTER FUNCTION public_account_audit() SECURITY INVOKER"],
        [f"error: SECURITY DEFINER lost [public.account] function {FUNCTION} is SECURITY INVOKER"],
    ),
    "set_clause": (
        ["ALTER FUNCTION public_account_audit() SET search_path = public"],
        [f"warning: SET clause [public.account] function {FUNCTION} has SET search_path=public"],
    ),
    "execute": (
        ["GRANT EXECUTE ON FUNCTION public_account_audit() TO {app}"],
        [f"warning: EXECUTE granted [public.account] app may execute {FUNCTION}"],
    ),
    "owner_of_table": (
        ["ALTER TABLE account_audit OWNER TO {app}"],
        [
            'error: function may not write [public.account] "auditor", who owns function '
            f"{FUNCTION}, may not insert into {AUDIT}: every write fails",
            f"warning: owner changed [public.account] audit table {AUDIT} belongs to app, not "
            "to auditor",
        ],
    ),
    "owner_of_function": (
        ["ALTER FUNCTION public_account_audit() OWNER TO CURRENT_USER"],
        [
            f"warning: owner changed [public.account] function {FUNCTION} belongs to postgres, "
            "not to auditor",
            'info: runs as a superuser [] superuser "postgres" owns functions: '
            "public_account_audit",
        ],
    ),
    "orphan": (
        ["DROP TABLE account"],
        [
            f"warning: orphaned function [public.account] {FUNCTION} is there, and table "
            f"{ACCOUNT} is not"
        ],
    ),
    "audit_table": (
        ["DROP TABLE account_audit"],
        [f"error: audit table missing [public.account] audit table {AUDIT} is gone"],
    ),
    "audit_column": (
        ["ALTER TABLE account_audit DROP COLUMN email"],
        [
            'error: audit column missing [public.account] column "email" of audit table '
            f"{AUDIT} is gone"
        ],
    ),
    "column": (
        ["ALTER TABLE account DROP COLUMN email"],
        [
            f"error: body edited [public.account] the body of {FUNCTION} was edited, in code",
            f'error: column missing [public.account] column "email" of {ACCOUNT} is gone',
        ],
    ),
    "cache": (
        ["ALTER SEQUENCE account_audit_audit_id_seq CACHE 10"],
        [
            'warning: sequence CACHE [public.account] "public"."account_audit_audit_id_seq" has '
            "CACHE 10, so that audit_id is no order"
        ],
    ),
    "before": (
        [
            NOTHING,
            'CREATE TRIGGER "00_a" AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION f()',
        ],
        [
            f'warning: trigger fires before [public.account] trigger "00_a" on {ACCOUNT} comes '
            "before that of the audit by name: what it writes is recorded before what caused it"
        ],
    ),
    "after": (
        [
            NOTHING,
            "CREATE TRIGGER touch AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE TRIGGER early BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE TRIGGER late AFTER INSERT ON account EXECUTE FUNCTION f()",
            "CREATE TRIGGER off AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION f()",
            "ALTER TABLE account DISABLE TRIGGER off",
        ],
        [
            f'info: trigger between rows [public.account] trigger "touch" on {ACCOUNT} is '
            "another AFTER ROW trigger"
        ],
    ),
    "writes_its_table": (
        [
            """CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              -- UPDATE account
              IF TG_OP = 'UPDATE' THEN PERFORM 1 FROM other FOR UPDATE; END IF;
              INSERT INTO other VALUES (1) ON CONFLICT DO UPDATE SET id = 2;
              DELETE FROM ONLY public."account" WHERE id = NEW.id - 1; RETURN NEW; END $$""",
            """CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              UPDATE other SET account = 1; RETURN NEW; END $$""",
            "CREATE TRIGGER touch BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE TRIGGER other BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION g()",
            "CREATE TRIGGER whole BEFORE INSERT ON account EXECUTE FUNCTION f()",
        ],
        [
            f'warning: trigger writes its own table [public.account] trigger "touch" on {ACCOUNT} '
            "is BEFORE ROW, and public.f writes the table: that is recorded before the statement "
            "that fired it"
        ],
    ),
    "second_writer": (
        [INSERTS, "CREATE TRIGGER touch AFTER INSERT ON account EXECUTE FUNCTION f()"],
        [
            f'error: second writer [public.account] trigger "touch" on {ACCOUNT} calls public.f, '
            "which inserts into the audit table"
        ],
    ),
    "writer_elsewhere": (
        [
            INSERTS,
            "CREATE TABLE other (id int)",
            "CREATE TRIGGER touch AFTER INSERT ON other EXECUTE FUNCTION f()",
        ],
        [
            'error: second writer [public.account] trigger "touch" on "public"."other" calls '
            "public.f, which inserts into the audit table"
        ],
    ),
    "audit_trigger": (
        [
            NOTHING,
            "CREATE TRIGGER lose BEFORE INSERT ON account_audit FOR EACH ROW EXECUTE FUNCTION f()",
        ],
        [
            f'warning: trigger on the audit table [public.account] trigger "lose" on {AUDIT} '
            "calls public.f"
        ],
    ),
    "child": (
        ["CREATE TABLE child () INHERITS (account)", "CREATE TABLE grandchild () INHERITS (child)"],
        [
            'warning: child not covered [public.account] "public"."child" inherits from it: '
            "writes there are not recorded",
            'warning: child not covered [public.account] "public"."grandchild" inherits from it: '
            "writes there are not recorded",
        ],
    ),
    "rule": (
        ["CREATE RULE lose AS ON INSERT TO account_audit DO INSTEAD NOTHING"],
        [f'error: rule [public.account] rule "lose" on {AUDIT}, for INSERT, does INSTEAD'],
    ),
    "rule_on_source": (
        ["CREATE RULE divert AS ON DELETE TO account DO INSTEAD NOTHING"],
        [f'warning: rule [public.account] rule "divert" on {ACCOUNT}, for DELETE, does INSTEAD'],
    ),
    "event_trigger": (
        [
            "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION f()",
        ],
        ["info: event trigger [] event trigger watch on ddl_command_end calls public.f"],
    ),
    "grants": (
        ["GRANT ALL ON account_audit TO {app}"],
        [
            "warning: others may change the trail [public.account] app has DELETE, INSERT, "
            f"TRIGGER, TRUNCATE, UPDATE on {AUDIT}"
        ],
    ),
    "grant_on_column": (
        ["GRANT UPDATE (email) ON account_audit TO {app}"],
        [
            "warning: others may change the trail [public.account] app has UPDATE (email) on "
            f"{AUDIT}"
        ],
    ),
    "grant_on_sequence": (
        ["GRANT ALL ON SEQUENCE account_audit_audit_id_seq TO {app}"],
        [
            "warning: others may change the trail [public.account] app has UPDATE, USAGE on "
            "SEQUENCE public.account_audit_audit_id_seq"
        ],
    ),
    "grant_to_public": (
        ["GRANT SELECT ON account_audit TO PUBLIC"],
        [f"info: everybody may read the trail [public.account] PUBLIC has SELECT on {AUDIT}"],
    ),
    "grant_of_trigger": (
        ["GRANT TRIGGER ON account TO {app}"],
        [
            f"warning: others may replace the trigger [public.account] app has TRIGGER on "
            f"{ACCOUNT}, and may replace the audit trigger"
        ],
    ),
    "create_in_schema": (
        ["GRANT CREATE ON SCHEMA public TO PUBLIC"],
        [
            'warning: everybody may create in the schema [] PUBLIC has CREATE on schema "public", '
            "where audit tables are"
        ],
    ),
    "schema_owner": (
        ["ALTER SCHEMA public OWNER TO {app}"],
        [
            'warning: schema owner may drop the trail [] "app" owns schema "public", and may drop '
            'audit tables of "auditor": account_audit, payment_audit'
        ],
    ),
    "members": (
        ["ALTER ROLE {member} LOGIN", "GRANT {auditor} TO {app}", "GRANT {app} TO {member}"],
        [
            'info: others may act as the owner [] "member" may act as "auditor", who owns '
            "account_audit, public_account_audit, payment_audit, public_payment_audit",
            *(
                f'info: not looked at [public.{name}] "public"."{name}_audit" is not examined: '
                f"table public.{name}_audit is owned by auditor, whose code would run with your "
                'rights; connect as "auditor", or as a role that has nothing but SELECT'
                for name in ("account", "payment")
            ),
        ],
    ),
    "superuser": (
        ["ALTER ROLE {member} LOGIN SUPERUSER"],
        ['info: powerful role [] "member" is a superuser'],
    ),
    "write_all": (
        ["ALTER ROLE {member} LOGIN", "GRANT pg_write_all_data TO {member}"],
        [
            'warning: powerful role [] "member" is a member of pg_write_all_data, and may change '
            "every audit table"
        ],
    ),
    "program": (
        ["ALTER ROLE {member} LOGIN", "GRANT pg_execute_server_program TO {member}"],
        [
            'info: powerful role [] "member" is a member of pg_execute_server_program, and may '
            "become superuser"
        ],
    ),
    "parameter": (
        ["GRANT SET ON PARAMETER session_replication_role TO {app}"],
        [
            "warning: others may switch triggers off [] app may set session_replication_role, by "
            "which triggers do not fire"
        ],
    ),
    "switched_off": (
        [
            "ALTER DATABASE {database} SET session_replication_role = replica",
            "ALTER ROLE {app} IN DATABASE {database} SET session_replication_role = replica",
            "ALTER ROLE {member} IN DATABASE {database} SET session_replication_role = origin",
        ],
        [
            "error: triggers switched off [] session_replication_role is replica for DATABASE "
            '"{database}": nothing is recorded for public.account, public.payment',
            'error: triggers switched off [] session_replication_role is replica for ROLE "app" '
            'IN DATABASE "{database}": nothing is recorded for public.account, public.payment',
        ],
    ),
    "empty_setting": (
        ["UPDATE account_audit SET audit_username = NULL"],
        [
            "warning: setting never set [public.account] audit.username has no value in all 1 "
            "records"
        ],
    ),
    "row_security": (
        ["ALTER TABLE account_audit ENABLE ROW LEVEL SECURITY"],
        [
            "warning: row level security [public.account] row level security is on for the audit "
            f"table {AUDIT}"
        ],
    ),
    "forced_row_security": (
        ["ALTER TABLE account_audit ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"],
        [
            "error: row level security [public.account] row level security is on for the audit "
            f"table {AUDIT}, and binds its owner, who writes the records"
        ],
    ),
    "unlogged": (
        ["ALTER TABLE account_audit SET UNLOGGED"],
        [
            f"error: unlogged audit table [public.account] audit table {AUDIT} is UNLOGGED: a "
            "crash empties it"
        ],
    ),
    "index": (
        [
            "DROP INDEX account_audit_key_idx",
            "CREATE INDEX ON account_audit (id, audit_id) WHERE id > 3",
            "CREATE INDEX ON account_audit (email, id)",
        ],
        [
            f"info: key index missing [public.account] no index of {AUDIT} begins with the key "
            "(id): the history of one row is looked for in all records"
        ],
    ),
    "other_index": (
        ["DROP INDEX account_audit_key_idx", "CREATE INDEX ON account_audit (id, email)"],
        [],
    ),
    "future": (
        ["UPDATE account_audit SET audit_transaction_id = 9000000000"],
        [
            f"warning: transaction ids from the future [public.account] {AUDIT} has a record of "
            "transaction 9000000000, which this server has not come to"
        ],
    ),
    "sequence": (
        ["ALTER SEQUENCE account_audit_audit_id_seq RESTART"],
        [
            f"error: sequence behind [public.account] the sequence of audit_id is at its start, "
            f"and {AUDIT} has a record 1: the next writes fail"
        ],
    ),
    "check": (
        ["ALTER TABLE account_audit ADD CONSTRAINT c CHECK (id < 9)"],
        [
            f'warning: constraint on the audit table [public.account] constraint "c" on {AUDIT}: '
            "CHECK ((id < 9))"
        ],
    ),
    "unique": (
        ["ALTER TABLE account_audit ADD CONSTRAINT c UNIQUE (id)"],
        [
            f'warning: constraint on the audit table [public.account] constraint "c" on {AUDIT}: '
            "UNIQUE (id)"
        ],
    ),
    "default": (
        [
            "ALTER TABLE account_audit ALTER email SET DEFAULT 'x'",
            "ALTER TABLE account_audit ADD more text NOT NULL DEFAULT 'y'",
        ],
        [
            f'warning: default of an audit column [public.account] column "email" of {AUDIT} has '
            "the default 'x'::text"
        ],
    ),
    "no_identity": (
        [
            "ALTER TABLE account_audit ALTER audit_id DROP IDENTITY, "
            "ALTER audit_id SET DEFAULT random() * 1000000"
        ],
        [
            f"error: audit_id without a sequence [public.account] column audit_id of {AUDIT} is "
            "numbered by no sequence, so that it is no order"
        ],
    ),
    "parent": (
        ["CREATE TABLE above (email text)", "ALTER TABLE account_audit INHERIT above"],
        [f"warning: parent of the audit table [public.account] {AUDIT} inherits from public.above"],
    ),
    "added_with_a_value": (
        [
            "ALTER TABLE account_audit DROP email",
            "ALTER TABLE account_audit ADD email text DEFAULT 'forged'",
            "ALTER TABLE account_audit ALTER email DROP DEFAULT",
        ],
        [
            f'warning: column added with a value [public.account] column "email" of {AUDIT} was '
            "added with a value for the records before it"
        ],
    ),
    "type_of_another": (
        [
            "CREATE TYPE box2 AS (low int)",
            "ALTER TYPE box2 OWNER TO {member}",
            "ALTER TABLE account_audit ALTER email TYPE box2[] USING NULL",
        ],
        [
            'warning: others may drop the type [public.account] "member" owns type public.box2 of '
            f'column "email" of {AUDIT}, and may erase what the column holds'
        ],
    ),
    "abandoned": (
        [
            "CREATE TABLE old (audit_operation varchar(1) NOT NULL, "
            "audit_operation_timestamp date)",
            "CREATE TABLE older (id int)",
            "COMMENT ON TABLE older IS 'history kept by alembic_audit'",
            "CREATE TABLE theirs (audit_operation varchar(1) NOT NULL, "
            "audit_operation_timestamp date)",
            INSERTS.replace("account_audit", "theirs"),
            "CREATE TABLE other (id int)",
            "CREATE TRIGGER touch AFTER INSERT ON other EXECUTE FUNCTION f()",
        ],
        [
            'info: abandoned audit table [public.old] nothing writes into audit table "public".'
            '"old" any more',
            'info: abandoned audit table [public.older] nothing writes into audit table "public".'
            '"older" any more',
        ],
    ),
}
"""What somebody does to the database, and what doctor says."""


@pytest.mark.parametrize("name", CASES)
def test_kinds(name: str, connection: sa.Connection) -> None:
    """What was done is named, and nothing else."""
    statements, expected = CASES[name]
    run(connection, *statements)

    assert expected == examine(connection)


def test_type_that_is_given_back(connection: sa.Connection) -> None:
    """The remedy gives a type of another to the owner of the trail."""
    run(connection, *CASES["type_of_another"][0])
    (one,) = doctor.examine(connection)
    run(connection, one.cure)
    assert [] == examine(connection)


def test_healthy(connection: sa.Connection) -> None:
    """A healthy database has no finding, with its models and without."""
    assert [] == examine(connection)
    assert [] == examine(connection, derive_all(models()))


def test_models(connection: sa.Connection) -> None:
    """What the models ask for is compared: none, another one, one too many."""
    wanted = models(skip_unchanged=True)
    wanted.remove(wanted.tables["payment"])
    table(wanted, "customer", session_settings=[])

    assert [
        "error: differs from the models [public.account] skip_unchanged is False, and the models "
        "say True",
        'error: not audited [public.customer] the models ask for an audit of "public"."customer", '
        "and it has none",
        'warning: not in the models [public.payment] "public"."payment" is audited, and the '
        "models do not ask for it",
    ] == examine(connection, derive_all(wanted))


def test_header_is_gone(connection: sa.Connection) -> None:
    """With models a function without its header is that of the trail."""
    run(connection, replaced("substr(body, strpos(body, chr(10)) + 1)"))

    assert [
        f"error: body edited [public.account] the body of {FUNCTION} was edited, in comments "
        "and white space",
        f"warning: header missing [public.account] function {FUNCTION} lost its first line",
    ] == examine(connection, derive_all(models()))


def test_newer_function_of_a_declared_table(connection: sa.Connection) -> None:
    """A table whose function a newer version wrote is not called unaudited."""
    run(connection, replaced("""replace(body, '"version":1', '"version":99')"""))

    assert ["newer version"] == [
        one.kind for one in doctor.examine(connection, derive_all(models()))
    ]


def partitioned(**options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    table(metadata, "measure", **options).dialect_options["postgresql"]["partition_by"] = (
        "RANGE (id)"
    )
    return metadata


PARTITIONS = [
    "CREATE TABLE low PARTITION OF measure FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE high PARTITION OF measure FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)",
    "CREATE TABLE higher PARTITION OF high FOR VALUES FROM (15) TO (20)",
]


def test_partitions(connection: sa.Connection) -> None:
    """Partitions whose TRUNCATE is not recorded: a warning where somebody else may do it."""
    create(connection, partitioned())
    run(connection, *PARTITIONS)
    names = '"public"."high", "public"."higher", "public"."low"'
    text = f"partition not covered [public.measure] TRUNCATE by name of {names} is not recorded"

    assert [f"info: {text}"] == examine(connection)
    run(connection, "GRANT TRUNCATE ON low TO {app}")
    assert [f"warning: {text}, which app may do"] == examine(connection)
    run(connection, 'ALTER TABLE ONLY low DISABLE TRIGGER "00_audit_measure"')
    assert (
        'error: trigger disabled on a partition [public.measure] trigger "00_audit_measure" on '
        '"public"."low" is in state DISABLE'
    ) == examine(connection)[0]


def test_partitions_that_do_not_matter(connection: sa.Connection) -> None:
    """Where TRUNCATE is not recorded at all, no partition has to be named."""
    create(connection, partitioned(operations=["insert", "update", "delete"]))
    run(connection, *PARTITIONS)

    assert [] == examine(connection)


def test_always(connection: sa.Connection) -> None:
    """ENABLE ALWAYS that was lost is named; with it no setting switches a trail off."""
    metadata = sa.MetaData()
    table(metadata, "invoice", always=True)
    create(connection, metadata)
    run(connection, "ALTER DATABASE {database} SET session_replication_role = replica")

    assert [
        "error: triggers switched off [] session_replication_role is replica for DATABASE "
        '"{database}": nothing is recorded for public.account, public.payment'
    ] == examine(connection)
    run(
        connection,
        "ALTER DATABASE {database} RESET session_replication_role",
        'ALTER TABLE invoice ENABLE TRIGGER "00_audit_invoice"',
    )
    assert [
        'error: ENABLE ALWAYS lost [public.invoice] trigger "00_audit_invoice" on "public".'
        '"invoice" is in state ENABLE'
    ] == examine(connection)


def test_required_setting(connection: sa.Connection) -> None:
    """A required setting without a default of any role or of the database is worth knowing."""
    metadata = sa.MetaData()
    table(metadata, "invoice", session_settings=[sa.Column("who", sa.Text, nullable=False)])
    create(connection, metadata)

    assert [
        "info: required setting without default [public.invoice] audit.who is required, and no "
        "role or database has a default: a write without it fails"
    ] == examine(connection)
    run(connection, "ALTER DATABASE {database} SET audit.who = 'nobody'")
    assert [] == examine(connection)


@pytest.mark.parametrize("before", [0, 3000])
def test_restored_dump_that_goes_on(before: int, connection: sa.Connection) -> None:
    """Transaction ids of the future are found behind thousands of newer records."""
    run(
        connection,
        "INSERT INTO account_audit (audit_operation, audit_operation_timestamp, "
        "audit_transaction_id, audit_current_user, audit_username) "
        "SELECT 'I', now(), CASE WHEN n BETWEEN "
        f"{before} AND {before + 100} THEN 9000000000 ELSE 1 END, 'x', 'ann' "
        "FROM generate_series(1, 6000) AS n",
    )

    assert ["transaction ids from the future"] == [one.kind for one in doctor.examine(connection)]


def test_own_transaction_is_no_future(connection: sa.Connection) -> None:
    """Records that the examining transaction wrote itself are healthy."""
    run(connection, "SET LOCAL audit.username = 'ann'", "INSERT INTO account VALUES (2)")

    assert [] == examine(connection)


def test_setting_of_newest_records(connection: sa.Connection) -> None:
    """A setting that was given once, a thousand records ago, is set no more."""
    run(connection, "INSERT INTO account SELECT generate_series(2, 1001)")

    assert [
        "warning: setting never set [public.account] audit.username has no value in the newest "
        "1,000 records"
    ] == examine(connection)


def test_role_without_rights(healthy: Database, connection: sa.Connection) -> None:
    """A role that may read the catalogs alone sees all but records, and is told."""
    run(
        connection,
        'ALTER TABLE account DISABLE TRIGGER "00_audit_account"',
        "UPDATE account_audit SET audit_username = NULL",
        "SET LOCAL ROLE {member}",
    )

    assert [
        f"error: trigger disabled [public.account] {TRIGGER} is in state DISABLE",
        f'info: not looked at [public.account] "member" may not read {AUDIT}: its records were '
        "not looked at",
        'info: not looked at [public.payment] "member" may not read "public"."payment_audit": '
        "its records were not looked at",
    ] == examine(connection)


def test_records_that_are_hidden(connection: sa.Connection) -> None:
    """No policy runs, and the examination goes on."""
    run(
        connection,
        "ALTER TABLE account_audit ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY broken ON account_audit USING (1 / (id - id) = 1)",
        "GRANT SELECT ON payment_audit TO {app}",
        "SET LOCAL ROLE {app}",
    )

    assert [
        "warning: row level security [public.account] row level security is on for the audit "
        f"table {AUDIT}",
        f"info: not looked at [public.account] {AUDIT} is not examined: row level security may "
        "hide records from you; connect as its owner, or as a role with BYPASSRLS",
    ] == examine(connection)


def test_nothing_is_written(healthy: Database) -> None:
    """It runs where nothing can be written."""
    engine = sa.create_engine(
        healthy.url(), connect_args={"options": "-c default_transaction_read_only=on"}
    )
    with engine.connect() as connection:
        assert [] == examine(connection)
        assert [] == examine(connection, derive_all(models()))
        assert connection.scalar(sa.text("SELECT pg_current_xact_id_if_assigned()")) is None
    engine.dispose()


def test_hostile_names(connection: sa.Connection) -> None:
    """Names with quotes, percents and colons are healthy, and named as they are."""
    metadata = sa.MetaData()
    name = "o\"d%s :x {0},'$$"
    sa.Table(
        name,
        metadata,
        sa.Column('k",%(y)s', sa.Integer, primary_key=True),
        info={
            "audit.options": {
                "enabled": True,
                "owner": ROLES["auditor"],
                "session_settings": [sa.Column("username", sa.Text)],
            }
        },
    )
    create(connection, metadata)
    assert [] == examine(connection)

    table_name = name.replace('"', '""')
    run(connection, f'ALTER TABLE "{table_name}" DISABLE TRIGGER USER')
    assert 5 * ["trigger disabled"] == [
        one.kind for one in doctor.examine(connection) if one.table == f"public.{name}"
    ]


def test_classic_and_keyless(connection: sa.Connection) -> None:
    """A trail without audit_id, and one without a key, are healthy."""
    metadata = sa.MetaData()
    table(metadata, "plain", audit_columns="classic")
    sa.Table(
        "keyless",
        metadata,
        sa.Column("email", sa.Text),
        info={"audit.options": {"enabled": True, "owner": ROLES["auditor"]}},
    )
    create(connection, metadata)
    run(connection, "SET LOCAL audit.username = 'ann'", "INSERT INTO plain VALUES (1)")

    assert [] == examine(connection)
    run(connection, "UPDATE plain_audit SET username = NULL")
    assert ["setting never set"] == [one.kind for one in doctor.examine(connection)]


def test_tenants(connection: sa.Connection) -> None:
    """Without models the trails of every tenant are found, each in its schema."""
    for tenant in ("north", "south"):
        run(connection, f"CREATE SCHEMA {tenant}", f"SET LOCAL search_path = {tenant}")
        run(connection, f"GRANT USAGE, CREATE ON SCHEMA {tenant} TO {ROLES['auditor']}")
        mapped = connection.execution_options(schema_translate_map={None: tenant})
        create(mapped, models())
        connection.execution_options(schema_translate_map=None)
    run(connection, "SET LOCAL search_path = public")
    run(connection, 'ALTER TABLE south.account DISABLE TRIGGER "00_audit_account"')

    found = doctor.examined(connection)

    assert [
        f"{schema}.{name}" for schema in ("north", "public", "south") for name in models().tables
    ] == found.tables
    assert [("trigger disabled", "south.account")] == [
        (one.kind, one.table) for one in found.findings
    ]


def test_statements_do_not_grow(connection: sa.Connection) -> None:
    """The catalogs are read by the same number of statements, whatever the number of tables."""
    statements: list[str] = []
    event.listen(
        connection, "before_cursor_execute", lambda *args: statements.append(args[2].strip())
    )

    def catalogs() -> int:
        statements.clear()
        doctor.examine(connection)
        return len([one for one in statements if "FROM pg_catalog." in one])

    before = catalogs()
    metadata = sa.MetaData()
    for number in range(20):
        table(metadata, f"t{number}", session_settings=[])
    create(connection, metadata)

    assert before == catalogs()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_drivers(driver: str, healthy: Database) -> None:
    """Each driver finds the same, asynchronous ones through run_sync."""

    def look(connection: sa.Connection) -> list[str]:
        run(
            connection,
            "UPDATE account_audit SET audit_transaction_id = 9000000000, audit_username = NULL",
        )
        return [one.kind for one in doctor.examine(connection, derive_all(models()))]

    async def look_async() -> list[str]:
        engine = create_async_engine(healthy.url(driver.removesuffix("_async")))
        async with engine.connect() as connection:
            found = await connection.run_sync(look)
        await engine.dispose()
        return found

    if driver == "psycopg":
        engine = sa.create_engine(healthy.url(driver))
        with engine.connect() as connection:
            found = look(connection)
        engine.dispose()
    else:
        found = asyncio.run(look_async())

    assert ["setting never set", "transaction ids from the future"] == found


def test_statement_level(connection: sa.Connection) -> None:
    """At statement level children and other AFTER ROW triggers make the trail wrong."""
    metadata = sa.MetaData()
    table(metadata, "invoice", level="statement")
    create(connection, metadata)
    assert [] == examine(connection)
    run(
        connection,
        NOTHING,
        "CREATE TRIGGER touch AFTER INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TABLE child () INHERITS (invoice)",
    )

    assert [
        'error: wrong at statement level [public.invoice] "public"."child" inherits from it: a '
        "write through the parent is recorded with the child's rows, one by name is not",
        'error: wrong at statement level [public.invoice] trigger "touch" on "public"."invoice" '
        "is AFTER ROW: what it writes is recorded before what caused it",
        'warning: child not covered [public.invoice] "public"."child" inherits from it: writes '
        "there are not recorded",
    ] == examine(connection)


def test_foreign_keys_at_statement_level(connection: sa.Connection) -> None:
    """Actions that no model declares are named, with the line to write."""
    metadata = sa.MetaData()
    table(metadata, "invoice", level="statement")
    create(connection, metadata)
    run(
        connection,
        "ALTER TABLE invoice ADD a integer CONSTRAINT one REFERENCES invoice ON DELETE CASCADE",
    )
    assert [] == examine(connection)
    run(
        connection,
        "ALTER TABLE invoice ADD b integer CONSTRAINT two REFERENCES invoice ON DELETE SET NULL",
    )
    found = doctor.examine(connection)
    assert [
        "error: wrong at statement level [public.invoice] it has actions of foreign keys that "
        "update (two) and delete (one) its rows",
    ] == examine(connection)
    line = "level={'insert': 'statement', 'update': 'row', 'delete': 'statement'}"
    assert [f"write {line} in the options of the table; then"] == [
        one.cure.partition(" alembic")[0] for one in found
    ]


def test_coverage() -> None:
    """A Table is audited, refused with a reason, or named; an undecided one is not silent."""
    metadata = models()
    derive_all(metadata)
    sa.Table("silent", metadata, sa.Column("id", sa.Integer))
    sa.Table(
        "refused",
        metadata,
        sa.Column("id", sa.Integer),
        info={"audit.options": {"enabled": False, "reason": "a cache"}},
    )
    sa.Table(
        "unreasoned",
        metadata,
        sa.Column("id", sa.Integer),
        schema="other",
        info={"audit.options": {"enabled": False}},
    )

    assert [
        "error: neither audited nor refused [other.unreasoned] the models do not say whether "
        "other.unreasoned is",
        "error: neither audited nor refused [silent] the models do not say whether silent is",
    ] == sorted(said(doctor.coverage([metadata])))


def test_coverage_of_a_wrong_declaration() -> None:
    """What autogenerate would refuse, coverage refuses."""
    metadata = models(operations=["insret"])

    with pytest.raises(DeclarationError, match="operations"):
        doctor.coverage([metadata])


def test_every_kind_is_documented() -> None:
    """docs/doctor.md has a line for each kind, with its severity."""
    page = Path("docs/doctor.md").read_text()
    lines = re.findall(r"^\| (\w+) \| ([^|]+) \|", page, re.MULTILINE)

    assert sorted((severity, kind) for kind, (severity, _) in doctor.KINDS.items()) == sorted(
        (severity, kind.strip()) for severity, kind in lines if severity in kinds.SEVERITIES
    )


@pytest.mark.core
def test_every_version(database: Database) -> None:
    """It runs on every PostgreSQL; before 15 everybody may create in public."""
    metadata = sa.MetaData()
    table(metadata, "account", owner="pg_monitor")
    with database.engine.connect() as connection:
        create(connection, metadata)
        connection.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        assert [] == examine(connection)
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
        assert ["everybody may create in the schema"] == [
            one.kind for one in doctor.examine(connection)
        ]
