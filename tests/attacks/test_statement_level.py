"""Attacks on a trail at statement level: the same names, and the rows that it reads."""

import re
from typing import Any

import pytest

from alembic_audit import sql
from alembic_audit.spec import AuditSpec
from tests.attacks.conftest import DEPLOYER, Lab, Refused
from tests.attacks.test_shadowing import FUNCTIONS, LOOT, OPERATORS, PATH, TYPES, loot

PLAIN = {"changed_columns": False, "skip_unchanged": False}
WRITES = (
    "SET audit.who = 'ann'",
    "INSERT INTO public.account VALUES (1, 'a', 's')",
    "UPDATE public.account SET email = 'b'",
    "UPDATE public.account SET id = 2",
    "DELETE FROM public.account",
)
RECORDED = [("I", 1, "a"), ("U", 1, "b"), ("D", 1, "b"), ("U", 2, "b"), ("D", 2, "b")]
MIXED = {"insert": "statement", "update": "row", "delete": "statement"}
COLUMNS = {"key": ["id"], "columns": ["id", "email"], "version": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"level": "statement", "session_settings": {"who": "required"}},
        {"level": "row", "sparse_columns": ["email"]},
        {"level": {"insert": "row", "update": "statement", "delete": "row"}},
        {"level": MIXED, "sparse_columns": ["email"], "session_settings": {"who": "required"}},
    ],
    ids=["statement", "sparse", "key and rows", "mixed"],
)
def test_the_names_are_those_that_are_attacked(options: dict[str, object]) -> None:
    """No other function, operator or type is called than those that are shadowed for row level."""
    spec = AuditSpec.from_kwargs("account", **COLUMNS, **options)  # type: ignore[arg-type]
    body = sql.body(spec, "public")
    assert set(re.findall(r"OPERATOR\(pg_catalog\.([^)]+)\)", body)) <= set(OPERATORS)
    assert set(re.findall(r"pg_catalog\.(\w+)\(", body)) <= set(FUNCTIONS)
    assert set(re.findall(r"pg_catalog\.(\w+)(?![\w(])", body)) <= {*TYPES, "record", "bool"}
    plain = r"'(?:[^']|'')*'|--[^\n]*|\"[^\"]*\"|:=|::|OPERATOR\(\S+\)|%TYPE|#variable_conflict"
    code = re.sub(rf"{plain}|(ERRCODE|MESSAGE|HINT) =", " ", body)
    assert [] == re.findall(r"[-+*/<>=~!@#%^&|`?]+", code)
    assert not re.search(r"\b(IN|BETWEEN|LIKE|NULLIF|SIMILAR|JOIN|USING \()\b", code)


@pytest.mark.parametrize("name", ["current_setting", "clock_timestamp", "txid_current"])
def test_function_is_shadowed(lab: Lab, name: str) -> None:
    """What a statement trigger calls is looked up in pg_catalog, whatever comes before it."""
    arguments, kind, passed = FUNCTIONS[name]
    lab.attack(
        *LOOT,
        f"CREATE FUNCTION app.{name}({arguments}) RETURNS {kind} LANGUAGE plpgsql "
        f"AS 'BEGIN PERFORM app.steal(); RETURN pg_catalog.{name}({passed}); END'",
    )
    lab.start(lambda body: body.replace(f"pg_catalog.{name}(", f"{name}("), **PLAIN)
    lab.attack(PATH, *WRITES)
    assert loot(lab)
    lab.admin("DELETE FROM app.loot")
    lab.start(**PLAIN)
    lab.attack(PATH, *WRITES)
    assert not loot(lab)
    assert RECORDED == lab.records()


@pytest.mark.parametrize(("name", "level"), [("*=", "statement"), ("*<>", MIXED)])
def test_keys_are_compared(lab: Lab, name: str, level: Any) -> None:
    """The body compares old and new key by pg_catalog's operator, whatever comes before it."""
    kind = OPERATORS[name]
    lab.attack(
        *LOOT,
        f"CREATE FUNCTION app.compare(a {kind}, b {kind}) RETURNS bool LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM app.steal(); RETURN $1 OPERATOR(pg_catalog.{name}) $2; END'",
        f"CREATE OPERATOR app.{name} (FUNCTION = app.compare, LEFTARG = {kind}, RIGHTARG = {kind})",
    )
    lab.start(lambda body: body.replace(f"OPERATOR(pg_catalog.{name})", name), level=level, **PLAIN)
    lab.attack(PATH, *WRITES)
    assert loot(lab)
    lab.admin("DELETE FROM app.loot")
    lab.start(level=level, **PLAIN)
    lab.attack(PATH, *WRITES)
    assert not loot(lab)
    assert RECORDED == lab.records()


def test_the_rows_are_shadowed(lab: Lab) -> None:
    """A temporary table of the name of the rows is recorded by a function that reads a table.

    The control is a trigger without a transition table, as one that reads a table of changes.
    """
    own = (
        "CREATE TEMP TABLE audited_rows (LIKE public.account); GRANT ALL ON audited_rows TO PUBLIC"
    )
    forged = "INSERT INTO audited_rows VALUES (9, 'forged', NULL)"
    trigger = '"00_audit_account_insert"'
    lab.start(
        by=f"DROP TRIGGER {trigger} ON account; CREATE TRIGGER {trigger} AFTER INSERT ON account "
        "FOR EACH STATEMENT EXECUTE FUNCTION public_account_audit()",
        **PLAIN,
    )
    lab.attack(own, forged, *WRITES[:2])
    assert [("I", 9, "forged")] == lab.records()
    lab.start(**PLAIN)
    lab.attack(own, forged, *WRITES)
    assert RECORDED == lab.records()


def test_the_function_is_attached_to_a_table_with_other_rows(lab: Lab) -> None:
    """Whoever may execute the function could give it rows of their own as those of a statement."""
    attach = (
        "CREATE TABLE app.mine (LIKE public.account)",
        "CREATE TRIGGER t AFTER INSERT ON app.mine REFERENCING NEW TABLE AS audited_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION public.public_account_audit()",
        "INSERT INTO app.mine VALUES (9, 'forged', NULL)",
    )
    lab.start(without="DO ", **PLAIN)
    lab.attack(*attach)
    assert [("I", 9, "forged")] == lab.records()
    lab.attack("DROP TABLE app.mine")
    lab.start(**PLAIN)
    with pytest.raises(Refused) as caught:
        lab.attack(*attach)
    assert "42501" == caught.value.code
    assert [] == lab.records()
    assert [(DEPLOYER,)] == lab.admin(
        "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'account_audit'::regclass"
    )
