"""Attacks by casts: whoever owns a type says what a cast of it runs, and as whom."""

import re
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import Session

from alembic_audit import AuditId, audit_table, restore, sql
from alembic_audit.naming import literal
from alembic_audit.spec import AuditSpec
from tests.attacks.conftest import APP, DEPLOYER, Lab, Refused
from tests.test_types import Raw

LOOT = (
    "CREATE TABLE app.loot (who text)",
    f"GRANT ALL ON app.loot TO {DEPLOYER}",
    "CREATE FUNCTION app.steal() RETURNS bool LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO app.loot VALUES (current_user); RETURN true; END'",
)
TYPES = (
    "CREATE TYPE app.mood AS ENUM ('sad', 'ok')",
    "CREATE DOMAIN app.mood_domain AS app.mood",
    "CREATE DOMAIN app.word AS text",
    "CREATE TYPE app.pair AS (a int, b text)",
)
MOOD: Any = pg.ENUM("sad", "ok", name="mood", schema="app", create_type=False)
WORD: Any = pg.DOMAIN("word", sa.Text, schema="app", create_type=False)
MOOD_DOMAIN: Any = pg.DOMAIN("mood_domain", MOOD, schema="app", create_type=False)

# What the source column is, a value, and what its audit column holds of it; the cast to attack.
STORED: dict[str, tuple[Any, str, str, str, str]] = {
    "enum": (MOOD, "sad", "sad", "app.mood", "text"),
    "domain of an enum": (MOOD_DOMAIN, "ok", "ok", "app.mood", "text"),
    "array of an enum": (pg.ARRAY(MOOD), "{sad,NULL}", "{sad,NULL}", "app.mood[]", "text[]"),
    "its elements": (pg.ARRAY(MOOD), "{sad,NULL}", "{sad,NULL}", "app.mood", "text"),
    "array of a domain": (pg.ARRAY(WORD), "{a,NULL}", "{a,NULL}", "app.word[]", "text[]"),
}
CONTEXTS = ("ASSIGNMENT", "IMPLICIT")
LEVELS = ("row", "statement")


def make_cast(given: str, made: str, value: str, context: str) -> tuple[str, ...]:
    """Return what makes a cast that notes as whom it ran, and gives *value*."""
    return (
        f"CREATE OR REPLACE FUNCTION app.evil(given {given}) RETURNS {made} LANGUAGE plpgsql AS "
        f"$$BEGIN PERFORM app.steal(); RETURN {literal(value)}::{made}; END$$",
        f"CREATE CAST ({given} AS {made}) WITH FUNCTION app.evil({given}) AS {context}",
    )


def begin(
    lab: Lab,
    kind: Any,
    level: Any = "row",
    change: Callable[[str], str] | None = None,
    owner: str = DEPLOYER,
    key: Any = sa.Integer,
) -> sa.Table:
    """Make a table with a column of a type, and the trail of the deployer on it."""
    lab.admin(
        "DROP TABLE IF EXISTS public.thing, public.thing_audit CASCADE",
        "DROP FUNCTION IF EXISTS public.public_thing_audit() CASCADE",
    )
    thing = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", key, primary_key=True, autoincrement=False),
        sa.Column("x", kind),
    )
    audit = audit_table(thing, level=level)
    dialect = lab.database.engine.dialect
    body = sql.body(thing.info["audit.spec"], "public")
    made = change(body) if change else body
    assert not change or made != body
    lab.deploy(
        *(str(sa.schema.CreateTable(one).compile(dialect=dialect)) for one in (thing, audit)),
        *(one.replace(body, made) for one in sql.create(thing.info["audit.spec"], "public")),
        f"GRANT ALL ON thing TO {APP}",
    )
    if owner != DEPLOYER:
        lab.admin(f"ALTER TABLE thing OWNER TO {owner}")
    return thing


def loot(lab: Lab) -> list[tuple[Any, ...]]:
    """Return as whom the casts ran, and forget it."""
    found = lab.admin("SELECT DISTINCT who FROM app.loot")
    lab.admin("DELETE FROM app.loot")
    return found


def assigned(text: str) -> str:
    """Return a text of SQL in which a column goes into its audit column by assignment."""
    text = re.sub(r"pg_catalog\.textin\(pg_catalog\.\w+_out\((.*?)\)\)(::\S+\])?", r"\1", text)
    return unchecked(re.sub(r"COALESCE\((\w+\.\"\w+\"), NULL\)", r"\1", text))


def unchecked(text: str) -> str:
    """Return a text of SQL without the checks of types."""
    return re.sub(r"CASE WHEN false\n(?:.*\n)*?\s*THEN NULL ELSE (.*) END", r"\1", text)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", STORED)
def test_the_owner_of_a_type(lab: Lab, name: str, context: str, level: str) -> None:
    """No cast that the owner of an enum or a domain made runs, nor changes what is recorded."""
    kind, value, stored, given, made = STORED[name]
    lab.attack(*LOOT, *TYPES, f"GRANT USAGE ON SCHEMA app TO {DEPLOYER}")
    evil = "{evil}" if made.endswith("[]") else "evil"
    lab.attack(*make_cast(given, made, evil, context))
    write = f"INSERT INTO thing VALUES (1, {literal(value)})"

    begin(lab, kind, level, assigned)
    lab.attack(write)
    assert [(DEPLOYER,)] == loot(lab)
    begin(lab, kind, level)
    lab.attack(
        write, "UPDATE thing SET id = 2", "DELETE FROM thing", "INSERT INTO thing VALUES (1)"
    )
    assert [] == loot(lab)
    found = lab.admin("SELECT audit_operation, x::text FROM thing_audit ORDER BY audit_id")
    assert [*((one, stored) for one in "IDUD"), ("I", None)] == found


RETYPED = {
    "a composite": (sa.Text, "app.pair", "ROW(1, x)::app.pair", "text", "evil"),
    "an enum": (sa.Text, "app.mood", "'sad'", "text", "evil"),
    "a domain of an enum": (sa.Text, "app.mood_domain", "'sad'", "text", "evil"),
    "an array": (Raw("app.pair"), "app.pair[]", "ARRAY[x]", "app.pair", "(9,evil)"),
    "an element": (pg.ARRAY(Raw("app.pair")), "app.pair", "x[1]", "app.pair[]", '{"(9,evil)"}'),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", RETYPED)
def test_the_owner_of_the_table(lab: Lab, name: str, context: str, level: str) -> None:
    """A column that its owner retypes is refused at the next write; nothing of the type runs."""
    kind, retyped, using, made, value = RETYPED[name]
    lab.attack(*LOOT, *TYPES)
    given = retyped.replace("app.mood_domain", "app.mood")
    lab.attack(*make_cast(given, made, value, context))
    alter = f"ALTER TABLE thing ALTER x TYPE {retyped} USING {using}"
    writes = ("INSERT INTO thing VALUES (1)", "UPDATE thing SET id = id + 2", "DELETE FROM thing")

    begin(lab, kind, level, unchecked, owner=APP)
    lab.attack(alter, *writes)
    assert [] != loot(lab)
    for write in writes:
        begin(lab, kind, level, owner=APP)
        with pytest.raises(Refused) as caught:
            # In one session, which planned the same statement of the function before.
            lab.attack(
                "INSERT INTO thing VALUES (7), (8)",
                "DELETE FROM thing WHERE id = 8",
                "UPDATE thing SET id = 9",
                alter,
                write,
            )
        assert caught.value.code in ("42883", "42804")
        assert "alembic revision --autogenerate" in str(caught.value)
        with pytest.raises(Refused) as caught:
            lab.attack(write)
        assert caught.value.code in ("42883", "42804")
    assert [] == loot(lab)


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("name", STORED)
def test_snapshot(lab: Lab, name: str, size: int | None) -> None:
    """A snapshot, in batches too, runs no cast; nor does it for a key that is an enum."""
    kind, value, stored, given, made = STORED[name]
    lab.attack(*LOOT, *TYPES)
    evil = "{evil}" if made.endswith("[]") else "evil"
    lab.attack(*make_cast(given, made, evil, "ASSIGNMENT"))
    for change in (assigned, None):
        thing = begin(lab, kind, key=MOOD)
        spec: AuditSpec = thing.info["audit.spec"]
        lab.deploy("ALTER TABLE thing DISABLE TRIGGER ALL")
        lab.attack(
            *(f"INSERT INTO thing VALUES ('{one}', {literal(value)})" for one in ("sad", "ok"))
        )
        statements = [
            sql.snapshot(spec, "public")
            if size is None
            else sql.snapshot_batch(spec, "public", size=1, after=after, settings={})
            for after in ([], ["sad"])[: size or 1]
        ]
        lab.deploy(*(change(one) if change else one for one in statements))
        assert ([(DEPLOYER,)] if change else []) == loot(lab)
    found = lab.admin("SELECT audit_operation, id, x::text FROM thing_audit ORDER BY audit_id")
    assert [("S", "sad", stored), ("S", "ok", stored)] == found


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_setting(lab: Lab, context: str) -> None:
    """A setting whose type belongs to somebody else is refused before the trail begins."""
    lab.attack(*LOOT, *TYPES, *make_cast("text", "app.mood", "ok", context))
    setting = sa.Column("mood", MOOD)
    thing = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    audit = audit_table(thing, session_settings=[setting], audit_columns="classic")
    dialect = lab.database.engine.dialect
    lab.deploy(
        *(str(sa.schema.CreateTable(one).compile(dialect=dialect)) for one in (thing, audit))
    )
    check, *statements = sql.create(thing.info["audit.spec"], "public")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege) as caught:
        lab.deploy(check, *statements)
    assert "holds a setting as app.mood, a type of" in str(caught.value)
    assert "Declare the setting as Text." in str(caught.value)
    lab.deploy(*statements, f"GRANT ALL ON thing TO {APP}")
    lab.attack("SET audit.mood = 'sad'", "INSERT INTO thing VALUES (1)")
    assert [(DEPLOYER,)] == loot(lab)


@pytest.mark.parametrize("name", ["enum", "domain of an enum", "array of an enum"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_restoring(lab: Lab, name: str, context: str) -> None:
    """Neither a plan nor its execution runs a cast, of the key neither, in either direction."""
    kind, value, _, given, made = STORED[name]
    lab.attack(*LOOT, *TYPES)
    # An implicit cast to text makes PostgreSQL refuse the comparison of two enums altogether.
    key, one = (MOOD, "ok") if context == "ASSIGNMENT" else (sa.Integer, 1)
    thing = begin(lab, kind, key=key)
    lab.attack(f"INSERT INTO thing VALUES ('{one}', {literal(value)})", "UPDATE thing SET x = NULL")
    evil = "{ok}" if made.endswith("[]") else "ok"
    for pair in ((given, made), (made, given)):
        lab.attack("DROP FUNCTION IF EXISTS app.evil CASCADE", *make_cast(*pair, evil, context))
        stolen = sa.text("SELECT count(*) FROM app.loot")
        with Session(lab.database.engine) as session:
            plan = restore(session, thing, one, as_of=AuditId(1))
            assert "x" in str(plan)
            plan.execute()
            assert session.scalar(stolen) == 0
            assert session.scalar(sa.text("SELECT concat(x) FROM thing")) == value
            given_value = sa.literal_column(f"{literal(value)}::{pair[0]}")
            session.scalar(sa.select(sa.cast(given_value, Raw(pair[1]))))
            assert session.scalar(stolen) == 1
            session.rollback()
