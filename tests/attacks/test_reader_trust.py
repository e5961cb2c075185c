"""Attacks on whoever reads: an audit table, or a part of one, that runs code of its owner."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from alembic_audit import doctor
from alembic_audit.cli import main, output, trails
from alembic_audit.tables import derive_all
from tests.conftest import Database

EVIL, MIGRATOR, READER = (f"{name}_{os.getpid()}" for name in ("evil", "migrator", "reader"))

# What is planted calls these: they tell whoever else runs them.
BANG = f"""
CREATE FUNCTION lair.bang(anyelement) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF session_user <> '{EVIL}' THEN
    RAISE EXCEPTION 'ran as %', session_user;
  END IF;
  RETURN true;
END $$;
CREATE FUNCTION lair.compare(a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  PERFORM lair.bang(a);
  RETURN pg_catalog.btint4cmp(a, b);
END $$;
CREATE TYPE lair.mood AS ENUM ('good');
CREATE FUNCTION lair.as_json(lair.mood) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  PERFORM lair.bang(1);
  RETURN '1';
END $$;
CREATE CAST (lair.mood AS json) WITH FUNCTION lair.as_json(lair.mood);
"""
ASIDE = ("ALTER TABLE lair.account_audit RENAME TO account_aside",)
OPCLASS = (
    "CREATE OPERATOR CLASS lair.ops FOR TYPE int4 USING btree AS OPERATOR 1 <, OPERATOR 2 <=, "
    "OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 lair.compare(int4, int4)"
)
ATTACKS: dict[str, tuple[Sequence[str], Sequence[str], str]] = {
    # What a superuser did, what the attacker does, and what has to be read for the control.
    "index predicate": (
        (),
        ("CREATE INDEX ON lair.account_audit (audit_id) WHERE lair.bang(1)",),
        "count(*)",
    ),
    "index expression": (
        (),
        ("CREATE INDEX ON lair.account_audit ((lair.bang(1)))",),
        "count(*)",
    ),
    "statistics": (
        (),
        ("CREATE STATISTICS lair.s ON (lair.bang(1)), id FROM lair.account_audit",),
        "count(*)",
    ),
    "view": (
        (),
        (
            *ASIDE,
            "CREATE VIEW lair.account_audit AS SELECT * FROM lair.account_aside "
            "WHERE lair.bang(audit_id)",
        ),
        "count(*)",
    ),
    "policy": (
        (),
        (
            "CREATE POLICY p ON lair.account_audit USING (lair.bang(id))",
            "ALTER TABLE lair.account_audit ENABLE ROW LEVEL SECURITY",
        ),
        "count(*)",
    ),
    "operator class": (
        ("GRANT USAGE ON SCHEMA lair TO PUBLIC", OPCLASS),
        ("CREATE INDEX ON lair.account_audit (id lair.ops) WHERE id > 0",),
        "count(*) FILTER (WHERE audit_id > 0)",
    ),
    "type": (
        (),
        (
            "ALTER TABLE lair.account_audit ADD mood lair.mood",
            "UPDATE lair.account_audit SET mood = 'good'",
        ),
        "to_jsonb(account_audit)",
    ),
    "array of a type": (
        (),
        (
            "ALTER TABLE lair.account_audit ADD moods lair.mood[]",
            "UPDATE lair.account_audit SET moods = '{good}'",
        ),
        "to_jsonb(account_audit)",
    ),
    "composite": (
        (),
        (
            "CREATE TYPE lair.pair AS (one lair.mood)",
            "ALTER TABLE lair.account_audit ADD pair lair.pair",
            "UPDATE lair.account_audit SET pair = ROW('good')",
        ),
        "to_jsonb(account_audit)",
    ),
    "inheritance child": (
        (),
        (
            "CREATE TABLE lair.child () INHERITS (lair.account_audit)",
            "CREATE INDEX ON lair.child (audit_id) WHERE lair.bang(1)",
        ),
        "count(*)",
    ),
    "foreign table": (
        (
            "CREATE FOREIGN DATA WRAPPER fdw",
            f"GRANT USAGE ON FOREIGN DATA WRAPPER fdw TO {EVIL}",
        ),
        (
            *ASIDE,
            "CREATE SERVER srv FOREIGN DATA WRAPPER fdw",
            "CREATE FOREIGN TABLE lair.account_audit (audit_id bigint, "
            "audit_operation_timestamp timestamptz, audit_operation text, "
            "audit_transaction_id bigint, audit_current_user text, id int) SERVER srv",
        ),
        "count(*)",
    ),
}
COMMANDS = (["status"], ["tail"], ["show", "1"], ["log", "account", "1"], ["doctor"])


class Lair:
    """A database with a schema of the attacker's, and a trail in it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.run(
            None,
            f"CREATE ROLE {EVIL} LOGIN",
            f"CREATE ROLE {MIGRATOR} LOGIN",
            f"CREATE ROLE {READER} LOGIN",
            f"CREATE SCHEMA lair AUTHORIZATION {EVIL}",
            f"CREATE SCHEMA work AUTHORIZATION {MIGRATOR}",
            f"GRANT CREATE ON DATABASE {database.name} TO {EVIL}",
        )
        metadata = sa.MetaData()
        options = {"enabled": True, "schema_name": "lair"}
        sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            schema="lair",
            info={"audit.options": options},
        )
        derive_all(metadata)
        engine = sa.create_engine(database.url(user=EVIL))
        metadata.create_all(engine)
        engine.dispose()
        self.run(EVIL, BANG, "INSERT INTO lair.account VALUES (1)")

    def run(self, user: str | None, *statements: str) -> list[Any]:
        engine = sa.create_engine(self.database.url(user=user), poolclass=sa.NullPool)
        with engine.begin() as connection:
            for statement in statements:
                found = connection.exec_driver_sql(
                    statement, execution_options={"no_parameters": True}
                )
            return list(found.all()) if found.returns_rows else []

    def honest(self) -> None:
        """Give schema and tables to the superuser, and leave what is in them."""
        owner = "ALTER {} OWNER TO CURRENT_USER"
        names = self.run(
            None,
            "SELECT relkind::text, oid::regclass::text FROM pg_class WHERE relnamespace = "
            "'lair'::regnamespace AND relkind IN ('r', 'v')",
        )
        self.run(None, owner.format("SCHEMA lair"))
        for kind, name in names:
            self.run(None, owner.format(f"{'TABLE' if kind == 'r' else 'VIEW'} {name}"))
        self.run(None, "ALTER FUNCTION lair.lair_account_audit() OWNER TO CURRENT_USER")

    def read(self, user: str | None, capsys: pytest.CaptureFixture[str]) -> str:
        """What every command prints, and what examine() says."""
        url = self.database.url(user=user)
        for command in COMMANDS:
            main([*command, "--url", url.render_as_string(hide_password=False)])
        printed = "".join(capsys.readouterr())
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return printed + "\n".join(one.what for one in doctor.examine(connection))


@pytest.fixture
def lair(database: Database) -> Iterator[Lair]:
    made = Lair(database)
    yield made
    for role in (EVIL, MIGRATOR, READER):
        made.run(None, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (trails, doctor):
        monkeypatch.setattr(module, "lock_trusted", lambda *more: {})


@pytest.mark.core
@pytest.mark.parametrize("name", ATTACKS)
def test_planted(
    lair: Lair, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the attacker's runs as a superuser, or as somebody with rights of their own."""
    before, plant, what = ATTACKS[name]
    lair.run(None, *before, f"GRANT USAGE ON SCHEMA lair TO {MIGRATOR}, {READER}")
    lair.run(EVIL, *plant, f"GRANT SELECT ON lair.account_audit TO {MIGRATOR}, {READER}")
    victims = [MIGRATOR] if name == "policy" else [None, MIGRATOR]
    for victim in victims:
        with pytest.raises(sa.exc.DBAPIError, match=r"ran as|has no handler"):
            lair.run(
                victim,
                "SET enable_seqscan = off",
                f"SELECT {what} FROM lair.account_audit WHERE id = 1",
            )
        found = lair.read(victim, capsys)
        assert "ran as" not in found and "no handler" not in found
        if name not in ("view",):
            assert "is not examined: " in found and f'"{EVIL}"' in found
        assert "lair.account" in found
    if name not in ("foreign table", "policy"):
        lair.honest()
        found = lair.read(None, capsys)
        assert "ran as" not in found
        if name != "view":
            assert f"is owned by {EVIL}" in found
    # A role that has nothing but SELECT has nothing to lose.
    assert "is not examined: table" not in lair.read(READER, capsys)
    with monkeypatch.context() as patched:
        unguarded(patched)
        if name not in ("view", "operator class"):  # which no command reads, or calls
            assert any(
                one in lair.read(victims[-1], capsys)
                for one in ("ran as", "no handler", "row-level security")
            )


@pytest.mark.core
def test_who_is_trusted(lair: Lair, capsys: pytest.CaptureFixture[str]) -> None:
    """Who may act as the reader already; SET ROLE is no protection."""
    lair.run(None, f"GRANT USAGE ON SCHEMA lair TO {MIGRATOR}, {READER}")
    lair.run(EVIL, f"GRANT SELECT ON lair.account_audit TO {MIGRATOR}, {READER}")
    refused = "is not examined"
    assert refused not in lair.read(EVIL, capsys)
    assert refused in lair.read(None, capsys)
    assert refused in lair.read(MIGRATOR, capsys)
    assert refused not in lair.read(READER, capsys)

    lair.run(None, f"GRANT {MIGRATOR} TO {EVIL}")
    assert refused not in lair.read(MIGRATOR, capsys)
    lair.run(None, f"REVOKE {MIGRATOR} FROM {EVIL}", f"GRANT {EVIL} TO {MIGRATOR}")
    assert refused in lair.read(MIGRATOR, capsys)
    for more in (
        f"GRANT UPDATE ON lair.account_audit TO {READER}",
        f"GRANT SELECT (id) ON lair.account_audit TO {READER} WITH GRANT OPTION",
        f"GRANT CREATE ON SCHEMA work TO {READER}",
        f"GRANT pg_read_all_data TO {READER}",
        f"ALTER ROLE {READER} CREATEROLE",
        f"GRANT {MIGRATOR} TO {READER}",
    ):
        lair.run(None, more)
        assert refused in lair.read(READER, capsys), more
        lair.run(
            None,
            f"REVOKE UPDATE, SELECT (id) ON lair.account_audit FROM {READER}",
            f"REVOKE CREATE ON SCHEMA work FROM {READER}",
            f"REVOKE pg_read_all_data, {MIGRATOR} FROM {READER}",
            f"ALTER ROLE {READER} NOCREATEROLE",
        )
    lair.run(EVIL, f"GRANT SELECT ON lair.account_audit TO {READER}")
    assert refused not in lair.read(READER, capsys)

    with lair.database.engine.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {READER}")
        (found,) = [one for one in doctor.examine(connection) if one.kind == "not looked at"]
        assert f'connect as "{EVIL}", or as a role that has nothing but SELECT' in found.what
        trusted = doctor.examine(connection, trusted_owners=[EVIL])
        assert "not looked at" not in [one.kind for one in trusted]

    # Nobody may log in as this owner, or become it.
    lair.run(None, f"REVOKE {EVIL} FROM {MIGRATOR}", f"ALTER ROLE {EVIL} NOLOGIN")
    assert refused not in lair.read(None, capsys)


@pytest.mark.core
@pytest.mark.parametrize("guarded", [False, True])
def test_swapped_while_it_is_followed(
    lair: Lair,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    guarded: bool,
) -> None:
    """An honest table is dropped; the attacker, who may create in its schema, puts one there."""
    lair.honest()
    lair.run(None, f"GRANT USAGE, CREATE ON SCHEMA lair TO {EVIL}")
    if not guarded:
        unguarded(monkeypatch)
    looks: list[int] = []

    def wait(seconds: float) -> None:
        looks.append(1)
        if len(looks) == 1:
            lair.run(None, "ALTER TABLE lair.account_audit RENAME TO aside")
            lair.run(
                EVIL,
                "CREATE TABLE lair.account_audit (audit_id bigint, audit_operation text, "
                "audit_operation_timestamp timestamptz, audit_transaction_id bigint, "
                "audit_current_user text, id int)",
                "CREATE INDEX ON lair.account_audit (audit_id) WHERE lair.bang(1)",
                "SELECT txid_current()",
            )
        elif len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(output, "wait", wait)
    url = lair.database.url().render_as_string(hide_password=False)
    assert 2 == main(["tail", "--follow", "lair.account", "--url", url])
    error = capsys.readouterr().err
    assert ("ran as" in error) is not guarded
    if guarded:
        assert "is not examined: table lair.account_audit is owned by" in error
