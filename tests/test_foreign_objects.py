"""What is not ours is never proposed for anything, however much it looks like ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit.spec import HEADER
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY
from tests.project import Project


def models(audited: bool = True, **options: Any) -> sa.MetaData:
    """Two tables of the default schema, one audited, and an audited one of another schema."""
    metadata = sa.MetaData()
    for name, schema in (("account", None), ("plain", None), ("account", "app")):
        info = (
            {"audit.options": {"enabled": True, "level": "row", **options}}
            if name == "account"
            else {}
        )
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.Text),
            info=info if audited else {},
            schema=schema,
        )
    return metadata


TOUCH = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
NOTHING = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
ON_ACCOUNT = "ON account FOR EACH ROW EXECUTE FUNCTION"


@dataclass(frozen=True)
class Foreign:
    """Objects of others.

    Attributes:
        name: What stands in the name of each of them and in nothing of ours.
        make: How they are made, beside the models' tables.
        columns: Those of a table of that name, which the models declare.
    """

    name: str
    make: tuple[str, ...]
    columns: tuple[tuple[str, sa.types.TypeEngine[Any], bool], ...] = ()

    def __str__(self) -> str:
        return self.name

    def models(self, audited: bool = True, **options: Any) -> sa.MetaData:
        """Return the models, with the table of that name if there are columns."""
        metadata = models(audited, **options)
        if self.columns:
            columns = [sa.Column(name, kind, nullable=null) for name, kind, null in self.columns]
            sa.Table(self.name, metadata, *columns)
        return metadata


CASES = [
    Foreign(
        "user_trigger",
        (
            f"CREATE FUNCTION user_trigger() {TOUCH}",
            f"CREATE TRIGGER user_trigger_1 BEFORE INSERT OR UPDATE {ON_ACCOUNT} user_trigger()",
            f"CREATE TRIGGER zz_user_trigger AFTER UPDATE OF email {ON_ACCOUNT} user_trigger('x')",
            f'CREATE TRIGGER "00_audi_user_trigger" AFTER DELETE {ON_ACCOUNT} user_trigger()',
            "CREATE TRIGGER user_trigger_rows AFTER UPDATE ON account REFERENCING OLD TABLE AS o"
            " NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION user_trigger()",
            "CREATE CONSTRAINT TRIGGER user_trigger_late AFTER INSERT ON app.account"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION user_trigger()",
            "ALTER TABLE account DISABLE TRIGGER user_trigger_1",
            "ALTER TABLE account ENABLE ALWAYS TRIGGER zz_user_trigger",
        ),
    ),
    Foreign(
        "overloaded",
        (
            "CREATE FUNCTION public_account_audit(overloaded integer) RETURNS integer"
            " LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION public_account_audit(overloaded text) RETURNS text"
            " LANGUAGE sql AS 'SELECT 1'",
            "CREATE AGGREGATE public_account_audit(overloaded float8)"
            " (SFUNC = float8pl, STYPE = float8)",
            "CREATE PROCEDURE app_account_audit(overloaded integer) LANGUAGE sql AS 'SELECT 1'",
        ),
    ),
    Foreign(
        "public_plain_audit",  # the name that ours would have, were the table audited
        (
            f"CREATE FUNCTION public_plain_audit() {NOTHING}",
            'CREATE TRIGGER "public_plain_audit" AFTER INSERT ON plain'
            " FOR EACH ROW EXECUTE FUNCTION public_plain_audit()",
        ),
    ),
    Foreign(
        "elsewhere",
        (
            "CREATE SCHEMA elsewhere",
            f"CREATE FUNCTION elsewhere.public_account_audit() {TOUCH}",
            f"CREATE FUNCTION elsewhere.app_account_audit() {TOUCH}",
            f"CREATE TRIGGER b_elsewhere BEFORE UPDATE {ON_ACCOUNT}"
            " elsewhere.public_account_audit()",
            "CREATE TRIGGER b_elsewhere BEFORE UPDATE ON app.account FOR EACH ROW"
            " EXECUTE FUNCTION elsewhere.app_account_audit()",
        ),
    ),
    Foreign(
        "headers",
        (
            *(
                f"CREATE FUNCTION headers_{number}() RETURNS trigger LANGUAGE plpgsql"
                f" AS $headers${body}$headers$"
                for number, body in enumerate(
                    [
                        f"\n{HEADER}{{}}\nBEGIN RETURN NEW; END",
                        f"{HEADER}\nBEGIN RETURN NEW; END",
                        f"{HEADER}not json\nBEGIN RETURN NEW; END",
                        f"{HEADER}[1]\nBEGIN RETURN NEW; END",
                        f'{HEADER}{{"table": "account", "version": 1}}\nBEGIN RETURN NEW; END',
                        f'{HEADER}{{"table": 5, "columns": 5, "version": 1}}\nBEGIN END',
                        f'{HEADER}{{"table": "account", "columns": [], "version": "1"}}\nBEGIN END',
                        "-- alembic_audit is the name of a package\nBEGIN RETURN NEW; END",
                    ]
                )
            ),
            f"CREATE TRIGGER headers_t BEFORE UPDATE {ON_ACCOUNT} headers_1()",
        ),
    ),
    Foreign(
        "on_ddl",
        (
            "CREATE FUNCTION public_on_ddl_audit() RETURNS event_trigger LANGUAGE plpgsql"
            " AS 'BEGIN NULL; END'",
            'CREATE EVENT TRIGGER "00_audit_on_ddl" ON ddl_command_start'
            " EXECUTE FUNCTION public_on_ddl_audit()",
            'CREATE EVENT TRIGGER "00_audit_on_ddl_2" ON sql_drop'
            " EXECUTE FUNCTION public_on_ddl_audit()",
        ),
    ),
    Foreign(
        "others_around",
        (
            "CREATE VIEW others_around_audit AS SELECT * FROM account",
            f"CREATE FUNCTION others_around() {NOTHING}",
            "CREATE TRIGGER others_around_t INSTEAD OF INSERT ON others_around_audit"
            " FOR EACH ROW EXECUTE FUNCTION others_around()",
            "CREATE RULE others_around_r AS ON INSERT TO plain DO ALSO NOTIFY others_around",
            "CREATE POLICY others_around_p ON account USING (true)",
            "CREATE SEQUENCE others_around_audit_id_seq",
            "CREATE DOMAIN others_around_d AS text",
        ),
    ),
    Foreign(
        "account_audr",  # sqlalchemy-postgresql-audit, under a naming convention
        (
            "CREATE TABLE account_audr (audit_operation varchar(1) NOT NULL,"
            " audit_operation_timestamp timestamp NOT NULL, id integer, email text)",
            """CREATE FUNCTION public_account_audr() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF (TG_OP = 'DELETE') THEN
                INSERT INTO "account_audr" ("audit_operation", "audit_operation_timestamp", "id",
                  "email") SELECT 'D', now(), OLD.id, OLD.email;
                RETURN OLD;
              END IF;
              INSERT INTO "account_audr" ("audit_operation", "audit_operation_timestamp", "id",
                "email") SELECT substring(TG_OP, 1, 1), now(), NEW.id, NEW.email;
              RETURN NEW;
            END $$""",
            f"CREATE TRIGGER public_account_audr AFTER INSERT OR UPDATE OR DELETE {ON_ACCOUNT}"
            " public_account_audr()",
        ),
    ),
    Foreign(
        "account_decl",  # sqlalchemy-declarative-extensions, with a table of another name
        (
            "CREATE TABLE account_decl (audit_pk uuid NOT NULL DEFAULT gen_random_uuid(),"
            " audit_operation varchar(1) NOT NULL, audit_timestamp timestamptz NOT NULL,"
            " audit_current_user varchar(64) NOT NULL, id integer, email text)",
            *(
                f"CREATE FUNCTION public_account_decl_{name}() RETURNS trigger LANGUAGE plpgsql"
                " AS $$ BEGIN INSERT INTO account_decl (audit_operation, audit_timestamp,"
                f" audit_current_user, id, email) SELECT '{name[0].upper()}', now(), current_user,"
                f' {row}."id", {row}."email"; RETURN NULL; END $$'
                for name, row in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD"))
            ),
            *(
                f"CREATE TRIGGER public_account_decl_{name} AFTER {name} {ON_ACCOUNT}"
                f" public_account_decl_{name}()"
                for name in ("insert", "update", "delete")
            ),
        ),
        columns=(
            ("audit_pk", sa.Uuid(), False),
            ("audit_operation", sa.Unicode(1), False),
            ("audit_timestamp", sa.DateTime(timezone=True), False),
            ("audit_current_user", sa.Unicode(64), False),
            ("id", sa.Integer(), True),
            ("email", sa.Text(), True),
        ),
    ),
    *(
        Foreign(extension, (f"CREATE EXTENSION {extension}", *more))
        for extension, *more in [
            (
                "moddatetime",
                f"CREATE TRIGGER moddatetime_t BEFORE UPDATE {ON_ACCOUNT} moddatetime('email')",
                "ALTER TABLE account DISABLE TRIGGER moddatetime_t",
            ),
            (
                "insert_username",
                f"CREATE TRIGGER insert_username_t BEFORE INSERT {ON_ACCOUNT}"
                " insert_username('email')",
            ),
            ("citext",),
        ]
    ),
]


def foreign(database: Database, name: str) -> dict[str, dict[str, Any]]:
    """Return what the catalog holds of others, with the event triggers."""
    found = {
        kind: {key: row for key, row in rows.items() if name in key}
        for kind, rows in snapshot(database.engine).items()
    }
    with database.engine.connect() as connection:
        found["event triggers"] = {
            row.evtname: row._mapping
            for row in connection.exec_driver_sql(
                "SELECT evtname, evtevent, evtenabled, evtfoid::regproc::text"
                " FROM pg_event_trigger ORDER BY 1"
            )
        }
    return found


def project(path: Path, database: Database) -> Project:
    made = Project(path, database, include_schemas=True)
    made.execute("CREATE SCHEMA app")
    return made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_foreign(case: Foreign, tmp_path: Path, database: Database) -> None:
    """A trail begins, changes and ends, up and down: no text names them, nothing touches them."""
    alembic = project(tmp_path, database)
    alembic.migrate(models(audited=False))
    alembic.execute(*case.make)
    before = foreign(database, case.name)
    assert [kind for kind, rows in before.items() if rows]

    assert EMPTY == alembic.revision(case.models(audited=False))
    alembic.upgrade()
    steps = [case.models(), case.models(skip_unchanged=True), case.models(audited=False)]
    for metadata, verb in zip(steps, ("create", "replace", "drop"), strict=True):
        text = alembic.migrate(metadata)
        assert 2 == text.partition("def downgrade")[0].count(f"op.{verb}_audit_trigger(")
        assert case.name not in text
        assert before == foreign(database, case.name)
    for revision in ("0004", "0003", "0002"):
        alembic.downgrade(revision)
        assert before == foreign(database, case.name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_foreign_objects_made_later(case: Foreign, tmp_path: Path, database: Database) -> None:
    """Made beside a trail that is there, they are no drift of it."""
    alembic = project(tmp_path, database)
    alembic.migrate(models())

    alembic.execute(*case.make)

    alembic.check(case.models())


def test_function_of_exactly_our_name(tmp_path: Path, database: Database) -> None:
    """It is in the way of a new trail, and is neither replaced nor dropped nor called drift."""
    alembic = project(tmp_path, database)
    alembic.migrate(models(audited=False))
    alembic.execute(
        f"CREATE FUNCTION public_account_audit() {TOUCH}",
        f"CREATE TRIGGER zz BEFORE UPDATE {ON_ACCOUNT} public_account_audit()",
    )
    before = snapshot(database.engine)
    assert EMPTY == alembic.revision(models(audited=False))
    alembic.upgrade()

    text = alembic.revision(models()).partition("def downgrade")[0]
    assert 2 == text.count("op.create_audit_trigger(")
    assert "replace_audit_trigger" not in text
    assert "drop_audit_trigger" not in text
    with pytest.raises(sa.exc.ProgrammingError, match=r"public_account_audit.*exists already"):
        alembic.upgrade()
    assert before == snapshot(database.engine)


def test_copy_of_our_function(tmp_path: Path, database: Database) -> None:
    """A copy in another schema is another tenant's; one beside ours bears our header and goes."""
    alembic = project(tmp_path, database)

    def functions_and_triggers() -> dict[str, Any]:
        found = snapshot(database.engine)
        return found["functions"] | found["triggers"]

    alembic.migrate(models())
    meant = functions_and_triggers()
    ((definition,),) = alembic.rows(
        "SELECT pg_get_functiondef('public.public_account_audit'::regproc)"
    )
    with database.engine.begin() as connection, connection.connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA backup; CREATE SCHEMA z_backup")
        for name in (  # some are read before our function, some after it
            "public.copy_of_it",
            "public.z_copy_of_it",
            "app.copy_of_it",
            "backup.public_account_audit",
            "z_backup.public_account_audit",
        ):
            cursor.execute(definition.replace("public.public_account_audit", name, 1))
        cursor.execute(
            "CREATE TRIGGER copied AFTER INSERT ON plain"
            " FOR EACH ROW EXECUTE FUNCTION public.copy_of_it()"
        )
    drifted = functions_and_triggers()

    with pytest.raises(CommandError) as caught:
        alembic.check(models())
    assert 2 == str(caught.value).count("'drop_audit_trigger'")
    text = alembic.migrate(models())
    assert "backup" not in text
    elsewhere = {name for name in drifted if name.startswith(("app.", "backup.", "z_backup."))}
    assert meant | {name: drifted[name] for name in elsewhere} == functions_and_triggers()

    alembic.downgrade()
    assert drifted == functions_and_triggers()


def with_lookalike(*columns: str, exists: bool = True) -> sa.MetaData:
    metadata = models()
    if exists:
        sa.Table(
            "plain_audit",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(name, sa.Text, index=True) for name in columns),
        )
    return metadata


def test_table_that_has_the_name_of_an_audit_table(tmp_path: Path, database: Database) -> None:
    """A user's table `plain_audit` is a table: columns, indexes and itself come and go."""
    alembic = project(tmp_path, database)
    alembic.migrate(with_lookalike("auditor", "finding"))

    text = alembic.migrate(with_lookalike("auditor"))
    assert "op.drop_column('plain_audit', 'finding')" in text
    assert "op.drop_index(op.f('ix_plain_audit_finding')" in text
    text = alembic.migrate(with_lookalike(exists=False))
    assert "op.drop_table('plain_audit')" in text.partition("def downgrade")[0]
    assert "public.plain_audit" not in snapshot(database.engine)["relations"]
    alembic.downgrade("0001")
    assert "public.plain_audit.finding" in snapshot(database.engine)["columns"]
