"""Attacks on the records: forged, changed, deleted, or kept from being written."""

import os

import psycopg2
import psycopg2.errors
import pytest

from tests.attacks.conftest import APP, DEPLOYER, FUNCTION, Lab, Refused

WRITE = "INSERT INTO public.account VALUES (1, 'a', 's')"
FORGED = (
    "INSERT INTO public.account_audit (audit_operation, audit_operation_timestamp, "
    "audit_transaction_id, audit_current_user) VALUES ('D', now(), 1, 'somebody else')"
)
# A trail that runs as who writes needs these rights; the predecessor's documentation grants them.
INVOKER = (
    f"ALTER FUNCTION {FUNCTION}() SECURITY INVOKER; GRANT ALL ON account_audit TO {APP}; "
    f"GRANT ALL ON SEQUENCE account_audit_audit_id_seq TO {APP}"
)
SEQUENCE = "public.account_audit_audit_id_seq"


@pytest.mark.parametrize(
    "statement",
    [
        FORGED,
        "UPDATE public.account_audit SET audit_current_user = 'somebody else'",
        "DELETE FROM public.account_audit",
        "TRUNCATE public.account_audit",
        "SELECT * FROM public.account_audit",
        "SELECT * FROM public.account_audit FOR UPDATE",
        "TABLE public.account_audit",
        f"SELECT nextval('{SEQUENCE}')",
        f"SELECT setval('{SEQUENCE}', 1)",
        "LOCK TABLE public.account_audit IN ROW EXCLUSIVE MODE",
        "LOCK TABLE public.account_audit IN ACCESS EXCLUSIVE MODE",
    ],
)
def test_direct_access(lab: Lab, statement: str) -> None:
    """Who may write the table may do nothing with its trail, which needs no right of theirs."""
    statements = (WRITE, "BEGIN", statement)
    lab.start(by=INVOKER)
    lab.attack(*statements)
    lab.start()
    with pytest.raises(Refused) as caught:
        lab.attack(*statements)
    assert "42501" == caught.value.code
    assert [("I", 1, "a")] == lab.records()


def test_function_on_a_table_of_ones_own(lab: Lab) -> None:
    """PUBLIC may execute a new function, and with that put it on a table and write any record."""
    attack = (
        "DROP TABLE IF EXISTS app.forge",
        "CREATE TABLE app.forge (id int, email text, secret text)",
        f"CREATE TRIGGER x AFTER INSERT ON app.forge FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()",
        "INSERT INTO app.forge VALUES (666, 'forged', '')",
    )
    lab.start(without="REVOKE", level="row")
    lab.attack(*attack)
    assert [("I", 666, "forged")] == lab.records()
    lab.start(level="row")
    with pytest.raises(Refused) as caught:
        lab.attack(*attack)
    assert "42501" == caught.value.code
    assert [] == lab.records()


@pytest.mark.parametrize(
    ("kind", "attack"),
    [
        ("TABLES", "DELETE FROM public.account_audit"),
        ("TABLES", FORGED),
        ("SEQUENCES", f"SELECT setval('{SEQUENCE}', 1)"),
    ],
)
def test_default_privileges(lab: Lab, kind: str, attack: str) -> None:
    """ALTER DEFAULT PRIVILEGES gives an application all that comes, the trail too."""
    lab.admin(f"ALTER DEFAULT PRIVILEGES FOR ROLE {DEPLOYER} GRANT ALL ON {kind} TO {APP}")
    lab.start(without="REVOKE")
    lab.attack(WRITE, attack)
    lab.start()
    with pytest.raises(Refused) as caught:
        lab.attack(WRITE, attack)
    assert "42501" == caught.value.code
    assert [("I", 1, "a")] == lab.records()


OWNERS = [
    'ALTER TABLE account DISABLE TRIGGER "00_audit_account"',
    "ALTER TABLE account DISABLE TRIGGER ALL",
    "ALTER TABLE account DISABLE TRIGGER USER",
    'DROP TRIGGER "00_audit_account" ON account',
    'ALTER TRIGGER "00_audit_account" ON account RENAME TO zz',
    "CREATE TABLE app.child () INHERITS (public.account)",
    "ALTER TABLE account RENAME TO elsewhere",
    "DROP TABLE account_audit",
    "ALTER TABLE account_audit RENAME TO elsewhere",
    "ALTER TABLE account_audit SET SCHEMA app",
    "ALTER TABLE account_audit ADD CHECK (audit_operation <> 'D')",
    "ALTER TABLE account_audit DROP COLUMN email",
    "CREATE UNIQUE INDEX jam ON account_audit (audit_operation)",
    "CREATE RULE swallow AS ON INSERT TO account_audit DO INSTEAD NOTHING",
    "CREATE TRIGGER swallow BEFORE INSERT ON account_audit FOR EACH ROW "
    "EXECUTE FUNCTION app.nothing()",
    "ALTER TABLE account_audit ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON account_audit USING (false)",
    f"ALTER SEQUENCE {SEQUENCE} RESTART",
    f"DROP FUNCTION {FUNCTION}() CASCADE",
    f"ALTER FUNCTION {FUNCTION}() SECURITY INVOKER",
    f"ALTER FUNCTION {FUNCTION}() SET search_path = app",
    f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RETURN NULL; END'",
]


@pytest.mark.parametrize("statement", OWNERS)
def test_what_only_an_owner_may(lab: Lab, statement: str) -> None:
    """An application that is also the owner, as where it migrates itself, can end its own trail.

    The control is that role; ours belongs to who deploys.
    """
    lab.attack(
        "CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    lab.start()
    with pytest.raises(Refused) as caught:
        lab.attack(statement)
    assert caught.value.code in ("42501", "42P16")
    lab.attack(WRITE)
    assert [("I", 1, "a")] == lab.records()
    lab.start(by=f"GRANT CREATE ON SCHEMA public TO {APP}; REASSIGN OWNED BY {DEPLOYER} TO {APP}")
    lab.attack(statement)


def test_rewriting_by_the_owner(lab: Lab) -> None:
    """The owner, too, may not change records of an append_only trail: they go by a purge alone."""
    for statement in (
        "UPDATE account_audit SET audit_current_user = 'somebody else'",
        "DELETE FROM account_audit",
        "TRUNCATE account_audit",
        "MERGE INTO account_audit AS t USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE"
        if lab.database.server.version >= 15
        else "DELETE FROM ONLY account_audit",
    ):
        lab.start()
        lab.attack(WRITE)
        lab.deploy(statement)
        assert [("I", 1, "a")] != lab.records("audit_operation, id, email") or (
            [("somebody else",)] == lab.records("audit_current_user")
        )
        lab.start(append_only=True)
        lab.attack(WRITE)
        with pytest.raises(Exception, match="is append-only, and refuses"):
            lab.deploy(statement)
        assert [("I", APP, 1)] == lab.records("audit_operation, audit_current_user, id")


def test_replacing_the_trigger(lab: Lab) -> None:
    """The TRIGGER privilege, which GRANT ALL includes, is enough to replace an audit trigger.

    PostgreSQL asks for no more; nothing of ours can refuse it but the lack of the privilege.
    """
    attack = (
        'CREATE OR REPLACE TRIGGER "00_audit_account" AFTER INSERT ON account FOR EACH ROW '
        "WHEN (false) EXECUTE FUNCTION app.nothing()",
        WRITE,
    )
    lab.attack(
        "CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    lab.start(level="row")
    lab.attack(*attack)
    assert [] == lab.records()
    lab.start(by=f"REVOKE TRIGGER ON account FROM {APP}", level="row")
    with pytest.raises(Refused) as caught:
        lab.attack(*attack)
    assert "42501" == caught.value.code
    lab.attack(WRITE)
    assert [("I", 1, "a")] == lab.records()


def test_owner_of_the_tables_alone(lab: Lab) -> None:
    """With an ``owner`` of its own, who owns the table can stop its trail and not rewrite it.

    The control is a trail of the same owner as the table.
    """
    rewrite = "UPDATE public.account_audit SET email = 'forged'"
    lab.start()
    lab.attack(WRITE)
    lab.deploy(rewrite)
    assert [("I", 1, "forged")] == lab.records()

    keeper = f"keeper_{os.getpid()}"
    lab.admin(f"CREATE ROLE {keeper}", f"GRANT CREATE ON SCHEMA public TO {keeper}")
    lab.admin(f"GRANT {keeper} TO {DEPLOYER}")
    try:
        lab.start(owner=keeper)
        lab.admin(f"REVOKE {keeper} FROM {DEPLOYER}")
        lab.attack(WRITE)
        for statement in (rewrite, "DELETE FROM account_audit", "DROP TABLE account_audit"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                lab.deploy(statement)
        lab.deploy("ALTER TABLE account DISABLE TRIGGER USER", "UPDATE account SET email = 'b'")
        assert [("I", 1, "a")] == lab.records()
    finally:
        lab.admin(f"DROP OWNED BY {keeper} CASCADE", f"DROP ROLE {keeper}")
