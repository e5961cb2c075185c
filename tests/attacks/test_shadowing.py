"""Attacks by names: what the function calls is looked up where the attacker put something."""

import re

import pytest

from alembic_audit import sql
from alembic_audit.spec import AuditSpec, Setting
from tests.attacks.conftest import APP, DEPLOYER, Lab

PATH = "SET search_path = app, pg_catalog, public"
WRITES = (
    "SET audit.who = 'ann'",
    "INSERT INTO public.account VALUES (1, 'a', 's')",
    "UPDATE public.account SET email = 'b'",
)
LOOT = (
    "CREATE TABLE app.loot (who text)",
    f"GRANT ALL ON app.loot TO {DEPLOYER}",
    "CREATE FUNCTION app.steal() RETURNS bool LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO app.loot VALUES (current_user); RETURN true; END'",
    f"GRANT EXECUTE ON FUNCTION app.steal() TO {DEPLOYER}",
)

FUNCTIONS = {
    "current_setting": ("a text, b bool", "text", "$1, $2"),
    "clock_timestamp": ("", "timestamptz", ""),
    "txid_current": ("", "bigint", ""),
    "sha256": ("a bytea", "bytea", "$1"),
    "record_send": ("a record", "bytea", "$1"),
    "substring": ("a bytea, b int", "bytea", "$1, $2"),
    "array_eq": ("a anyarray, b anyarray", "bool", "$1, $2"),
    "enum_out": ("a anyenum", "cstring", "$1"),
    "array_out": ("a anyarray", "cstring", "$1"),
    "textin": ("a cstring", "text", "$1"),
    "array_remove": ("a text[], b text", "text[]", "$1, $2"),
    "concat": ("a text, b text", "text", "$1, $2"),
    "set_config": ("a text, b text, c bool", "text", "$1, $2, $3"),
}
OF_PARTITIONS = ("set_config",)
OPERATORS = {"=": "text", "*=": "record", "*<>": "record", "<>": "name"}
TYPES = {"text": "pg_catalog.text"}

WIDEST = AuditSpec(
    table="account",
    schema=None,
    audit_table="account_audit",
    audit_schema=None,
    function="f",
    trigger="t",
    key=("id",),
    columns=("id", "mood", "moods"),
    as_text=(("mood", "text"), ("moods", "text[]")),
    hash_columns=("secret",),
    ignore_columns=("secret",),
    session_settings=(Setting("who", "audit_who", True),),
    skip_unchanged=True,
    changed_columns=True,
    partitions=("low",),
    append_only=True,
)


def loot(lab: Lab) -> bool:
    """Return whether something of the attacker's ran as the owner of the trail."""
    return (DEPLOYER,) in lab.admin("SELECT who FROM app.loot")


def test_all_names_are_known_here() -> None:
    """Every function, operator and type that a function of ours names is attacked below."""
    body = sql.body(WIDEST, "public")
    operators = set(re.findall(r"OPERATOR\(pg_catalog\.([^)]+)\)", body))
    functions = set(re.findall(r"pg_catalog\.(\w+)\(", body))
    types = set(re.findall(r"pg_catalog\.(\w+)(?![\w(])", body))
    assert set(OPERATORS) == operators
    assert set(FUNCTIONS) == functions
    assert {*TYPES, "record", "name"} == types  # record is a pseudo-type, name only in an array
    # No operator is left that is looked up by the search_path: nothing between words but these.
    plain = r"'(?:[^']|'')*'|--[^\n]*|\"[^\"]*\"|:=|::|OPERATOR\(\S+\)|%TYPE|#variable_conflict"
    code = re.sub(rf"{plain}|(ERRCODE|MESSAGE|HINT) =", " ", body)
    assert [] == re.findall(r"[-+*/<>=~!@#%^&|`?]+", code)
    assert not re.search(r"\b(IN|BETWEEN|LIKE|NULLIF|SIMILAR)\b", code)


OF_TYPES = ("array_eq", "enum_out", "array_out", "textin")
"""What is for types of others alone; test_casts shadows it too."""


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("concat", *OF_TYPES)])
def test_function_is_shadowed(lab: Lab, name: str) -> None:
    """A function of the same name in a schema before pg_catalog runs as the owner, or not."""
    arguments, kind, passed = FUNCTIONS[name]
    of_partitions = name in OF_PARTITIONS
    parts = {"table": "PARTITION BY RANGE (id)", "partitions": ["low"]} if of_partitions else {}

    def attack() -> bool:
        lab.attack(
            f"CREATE OR REPLACE FUNCTION app.{name}({arguments}) RETURNS {kind} LANGUAGE plpgsql "
            f"AS 'BEGIN PERFORM app.steal(); RETURN pg_catalog.{name}({passed}); END'",
            PATH,
            *WRITES,
            *(["TRUNCATE public.low"] if of_partitions else []),
        )
        return loot(lab)

    lab.attack(*LOOT)
    lab.start(lambda body: body.replace(f"pg_catalog.{name}(", f"{name}("), **parts)
    assert attack()
    lab.admin("DELETE FROM app.loot")
    lab.start(**parts)
    assert not attack()
    deleted = [("D", 1, "b")] if of_partitions else []
    assert [("I", 1, "a"), ("U", 1, "b"), *deleted] == lab.records()


@pytest.mark.parametrize("name", ["=", "*=", "*<>"])
def test_operator_is_shadowed(lab: Lab, name: str) -> None:
    """An operator of the same name in a schema before pg_catalog runs as the owner, or not."""
    kind = OPERATORS[name]
    lab.attack(
        *LOOT,
        f"CREATE FUNCTION app.compare(a {kind}, b {kind}) RETURNS bool LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM app.steal(); RETURN $1 OPERATOR(pg_catalog.{name}) $2; END'",
        f"CREATE OPERATOR app.{name} (FUNCTION = app.compare, LEFTARG = {kind}, RIGHTARG = {kind})",
    )
    lab.start(lambda body: body.replace(f"OPERATOR(pg_catalog.{name})", name))
    lab.attack(PATH, *WRITES)
    assert loot(lab)
    lab.admin("DELETE FROM app.loot")
    lab.start()
    lab.attack(PATH, *WRITES)
    assert not loot(lab)
    assert [("I", 1, "a"), ("U", 1, "b")] == lab.records()


@pytest.mark.parametrize("schema", ["app", "pg_temp"])
def test_type_is_shadowed(lab: Lab, schema: str) -> None:
    """A domain called text, whose CHECK runs code; pg_temp comes before pg_catalog unasked."""
    lab.attack(*LOOT)
    domain = f"CREATE DOMAIN {schema}.text AS pg_catalog.text CHECK (app.steal())"
    writes = (*([PATH] if schema == "app" else []), *WRITES)
    lab.start(lambda body: body.replace("audit_setting pg_catalog.text", "audit_setting text"))
    lab.attack(domain, *writes)
    assert loot(lab)
    lab.admin("DELETE FROM app.loot", "DROP DOMAIN IF EXISTS app.text")
    lab.start()
    lab.attack(domain, *writes)
    assert not loot(lab)


def test_temporary_table_takes_the_records(lab: Lab) -> None:
    """A temporary table called like the audit table comes first where no schema is written."""
    attack = ("CREATE TEMP TABLE account_audit (LIKE public.account_audit)", *WRITES)
    grant = f"GRANT SELECT ON account_audit TO {APP}"
    lab.start(lambda body: body.replace('"public"."account_audit"', '"account_audit"'), by=grant)
    # The function runs as the deployer, who needs a right on it that its owner gives gladly.
    give = f"GRANT ALL ON account_audit TO {DEPLOYER}"
    identity = "ALTER TABLE account_audit ALTER audit_id DROP NOT NULL"
    lab.attack(attack[0], give, identity, *attack[1:])
    assert [] == lab.records()
    lab.start(by=grant)
    lab.attack(attack[0], give, identity, *attack[1:])
    assert [("I", 1, "a"), ("U", 1, "b")] == lab.records()


def test_search_path_of_the_role(lab: Lab) -> None:
    """The attacker's own ALTER ROLE ... SET search_path holds in every session of that role."""
    lab.attack(
        *LOOT,
        "CREATE FUNCTION app.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS "
        "'BEGIN PERFORM app.steal(); RETURN pg_catalog.clock_timestamp(); END'",
        f"ALTER ROLE {APP} SET search_path = app, pg_catalog, public",
    )
    lab.start(lambda body: body.replace("pg_catalog.clock_timestamp", "clock_timestamp"))
    lab.attack(*WRITES)
    assert loot(lab)
    lab.admin("DELETE FROM app.loot")
    lab.start()
    lab.attack(*WRITES)
    assert not loot(lab)


def test_prepared_statement(lab: Lab) -> None:
    """A statement that was prepared under an honest search_path runs under another."""
    attack = (
        "PREPARE write AS INSERT INTO public.account VALUES ($1, 'a', 's')",
        "EXECUTE write(1)",
        PATH,
        "EXECUTE write(2)",
    )
    lab.attack(
        *LOOT,
        "CREATE FUNCTION app.txid_current() RETURNS bigint LANGUAGE plpgsql AS "
        "'BEGIN PERFORM app.steal(); RETURN 7; END'",
    )
    lab.start(lambda body: body.replace("pg_catalog.txid_current", "txid_current"))
    lab.attack(*attack)
    assert loot(lab)
    lab.admin("DELETE FROM app.loot")
    lab.start()
    lab.attack(*attack)
    assert not loot(lab)
    assert [(True,), (True,)] == lab.records("audit_transaction_id > 7")
