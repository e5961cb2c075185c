"""Attacks that let a write go unrecorded, or be recorded as somebody else's."""

import io
from collections.abc import Callable

import psycopg2
import pytest
import sqlalchemy as sa

from tests.attacks.conftest import APP, DEPLOYER, FUNCTION, Lab, Refused

WRITE = "INSERT INTO public.account VALUES (1, 'a', 's')"
ROW = '"00_audit_account"'


def inserted(text: str) -> Callable[[str], str]:
    """Return what puts lines at the beginning of the function's code."""
    return lambda body: body.replace("\nBEGIN\n", f"\nBEGIN\n{text}\n", 1)


@pytest.mark.parametrize("setting", ["audit.disabled", "audit.enabled", "audit.skip", "audit.off"])
@pytest.mark.parametrize("value", ["on", "off"])
def test_setting_as_kill_switch(lab: Lab, setting: str, value: str) -> None:
    """No setting switches the trail off; in many a peer one does, and any client can set it."""
    lab.start(
        inserted(
            f"IF pg_catalog.current_setting('{setting}', true) OPERATOR(pg_catalog.=) '{value}' "
            "THEN RETURN NULL; END IF;"
        )
    )
    lab.attack(f"SET {setting} = '{value}'", WRITE)
    assert [] == lab.records()
    lab.start()
    lab.attack(f"SET {setting} = '{value}'", WRITE)
    assert [("I", 1, "a")] == lab.records()


def test_session_replication_role(lab: Lab) -> None:
    """Triggers are off under replica; it may not be set, and ``always`` withstands it.

    The control is a role that was granted the setting, as replication tools ask for.
    """
    replica = "SET session_replication_role = replica"
    lab.start()
    with pytest.raises(Refused) as caught:
        lab.attack(replica, WRITE)
    assert "42501" == caught.value.code
    if lab.database.server.version < 15:
        return
    lab.admin(f"GRANT SET ON PARAMETER session_replication_role TO {APP}")
    lab.attack(replica, WRITE)
    assert [] == lab.records()
    lab.start(always=True)
    lab.attack(replica, WRITE)
    assert [("I", 1, "a")] == lab.records()


def test_replication_role_of_the_role(lab: Lab) -> None:
    """Nor can it be set for all sessions to come."""
    alter = f"ALTER ROLE {APP} SET session_replication_role = replica"
    lab.start()
    with pytest.raises(Refused):
        lab.attack(alter)
    lab.admin(alter)
    lab.attack(WRITE)
    assert [] == lab.records()
    lab.start(always=True)
    lab.attack(WRITE)
    assert [("I", 1, "a")] == lab.records()


def test_truncate_of_a_partition(lab: Lab) -> None:
    """TRUNCATE of a partition fires nothing on the table; ``partitions`` names those that count."""
    attack = (WRITE, "TRUNCATE low")
    lab.start(table="PARTITION BY LIST (id)", level="row")
    lab.attack(*attack)
    assert [("I", 1, "a")] == lab.records()
    lab.start(table="PARTITION BY LIST (id)", level="row", partitions=["low"])
    lab.attack(*attack)
    assert [("I", 1, "a"), ("D", 1, "a")] == lab.records()


@pytest.mark.parametrize("option", ["", " (FREEZE)"])
def test_copy(lab: Lab, option: str) -> None:
    """COPY, also with FREEZE, passes by a trail that is kept by a rule."""
    lab.start(without="CREATE TRIGGER", by=RULE)
    copied(lab, option)
    assert [] == lab.records()
    lab.start()
    copied(lab, option)
    assert ("I", 1, "a") == lab.records()[-1]


RULE = (
    "CREATE RULE log AS ON INSERT TO account DO ALSO INSERT INTO account_audit (audit_operation, "
    "audit_operation_timestamp, audit_transaction_id, audit_current_user, id, email) VALUES "
    "('I', now(), 1, current_user, NEW.id, NEW.email)"
)


def copied(lab: Lab, option: str) -> None:
    url = lab.database.url(user=APP)
    with (
        psycopg2.connect(
            **url.translate_connect_args(username="user", database="dbname"), **url.query
        ) as connection,
        connection.cursor() as cursor,
    ):
        if option:
            cursor.execute("TRUNCATE account")
        cursor.copy_expert(f"COPY account FROM STDIN{option}", io.StringIO("1\ta\ts\n"))
    connection.close()


def test_write_from_a_trigger(lab: Lab) -> None:
    """A write that another trigger does is skipped where pg_trigger_depth() decides."""
    attack = (
        "DROP TABLE IF EXISTS app.door",
        "CREATE TABLE app.door (id int)",
        f"CREATE OR REPLACE FUNCTION app.push() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN {WRITE}; RETURN NULL; END$$",
        "CREATE TRIGGER push AFTER INSERT ON app.door FOR EACH ROW EXECUTE FUNCTION app.push()",
        "INSERT INTO app.door VALUES (1)",
    )
    lab.start(inserted("IF pg_catalog.pg_trigger_depth() > 1 THEN RETURN NULL; END IF;"))
    lab.attack(*attack)
    assert [] == lab.records()
    lab.start()
    lab.attack(*attack)
    assert [("I", 1, "a")] == lab.records()


def test_setting_changed_before_a_deferred_record(lab: Lab) -> None:
    """A constraint trigger that is deferred records who says so at COMMIT, not at the write."""
    attack = (
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; SET LOCAL audit.who = 'me';"
        f"{WRITE}; SET LOCAL audit.who = 'somebody else'; COMMIT",
    )
    lab.start(
        by=f"DROP TRIGGER {ROW} ON account; CREATE CONSTRAINT TRIGGER {ROW} AFTER INSERT "
        f"ON account DEFERRABLE FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()",
        level="row",
    )
    lab.attack(*attack)
    assert [("somebody else",)] == lab.records("audit_who")
    lab.start()
    lab.attack(*attack)
    assert [("me",)] == lab.records("audit_who")


def test_empty_setting_for_a_required_one(lab: Lab) -> None:
    """An empty text is no name; nor is what is left of SET LOCAL when its transaction has ended."""
    who = [sa.Column("who", sa.Text, nullable=False)]
    empty = "    audit_setting := NULL;\n"
    attacks = (
        ("SET audit.who = ''", WRITE),
        ("BEGIN; SET LOCAL audit.who = 'x'; COMMIT", WRITE),
    )
    for attack in attacks:
        lab.start(lambda body: body.replace(empty, ""), session_settings=who)
        lab.attack(*attack)
        assert [("",)] == lab.records("audit_who")
        lab.start(session_settings=who)
        with pytest.raises(Refused) as caught:
            lab.attack(*attack)
        assert "23502" == caught.value.code
        assert [] == lab.admin("SELECT FROM account")


USER = "  audit_user := pg_catalog.current_setting('role');\n"


def test_security_definer_wrapper(lab: Lab) -> None:
    """Who writes through a function of another stands there, where current_user would be its owner.

    The owner of a SECURITY DEFINER function in which the trigger is fired is not who did it.
    """
    wrapper = (
        f"CREATE OR REPLACE FUNCTION public.door() RETURNS void SECURITY DEFINER LANGUAGE sql AS "
        f"$${WRITE}$$; ALTER FUNCTION public.door() OWNER TO {DEPLOYER}"
    )
    lab.start(lambda body: body.replace(USER, "  audit_user := current_user;\n"), by=wrapper)
    lab.attack("SELECT public.door()")
    assert [(DEPLOYER,)] == lab.records("audit_current_user")
    lab.start(by=wrapper)
    lab.attack("SELECT public.door()")
    assert [(APP,)] == lab.records("audit_current_user")


def test_set_role(lab: Lab) -> None:
    """A name that the client writes into a setting is believed, a role it is no member of not.

    What a client claims stands in a column of its own; the role in force is PostgreSQL's word.
    """
    lab.start(
        lambda body: body.replace("current_setting('role')", "current_setting('audit.who', true)")
    )
    lab.attack(f"SET audit.who = '{DEPLOYER}'", WRITE)
    assert [(DEPLOYER,)] == lab.records("audit_current_user")
    lab.start()
    lab.attack(f"SET audit.who = '{DEPLOYER}'", WRITE)
    assert [(APP,)] == lab.records("audit_current_user")
    for statement in (f"SET ROLE {DEPLOYER}", f"SET SESSION AUTHORIZATION {DEPLOYER}"):
        with pytest.raises(Refused) as caught:
            lab.attack(statement, WRITE)
        assert "42501" == caught.value.code


def test_row_level_security(lab: Lab) -> None:
    """A policy that hides records from the writer stops a trail that is written as the writer."""
    by = (
        "ALTER TABLE account_audit ENABLE ROW LEVEL SECURITY;"
        f"GRANT INSERT ON account_audit TO {APP};"
        f"GRANT USAGE ON SEQUENCE account_audit_audit_id_seq TO {APP};"
        f"CREATE POLICY p ON account_audit TO {APP} WITH CHECK (false);"
    )
    lab.start(by=f"{by} ALTER FUNCTION {FUNCTION}() SECURITY INVOKER")
    with pytest.raises(Refused, match="row-level security"):
        lab.attack(WRITE)
    lab.start(by=by)
    lab.attack(WRITE)
    assert [("I", 1, "a")] == lab.records()


SETTINGS = (
    "x', 'x'); DELETE FROM public.account_audit; --",
    "'; DROP TABLE public.account; --",
    "$audit$; DROP TABLE public.account; --",
    "\\'; DROP TABLE public.account; --",
    "%s %I {} :who",
)
DYNAMIC = (
    "EXECUTE 'UPDATE public.account_audit SET audit_who = '''"
    " || pg_catalog.current_setting('audit.who', true) || '''';"
)


@pytest.mark.parametrize("value", SETTINGS)
def test_injection_through_a_setting(lab: Lab, value: str) -> None:
    """A value goes into its column as it is; the control builds a statement of it."""
    write = ("SELECT pg_catalog.set_config('audit.who', $q$" + value + "$q$, false)", WRITE)
    poison = "x'; INSERT INTO public.account_audit (audit_operation, audit_operation_timestamp, "
    poison += "audit_transaction_id, audit_current_user) VALUES ('X', now(), 1, 'forged'); --"
    lab.start(inserted(DYNAMIC))
    lab.attack(write[0].replace(value, poison), WRITE)
    assert ("X", None, None) in lab.records()
    lab.start()
    lab.attack(*write)
    assert [("I", value)] == lab.records("audit_operation, audit_who")


def test_update_of_nothing_hides_nothing(lab: Lab) -> None:
    """skip_unchanged compares bytes, which no equality of a type can be bent to call equal.

    1.0 and 1.00 are equal, and not the same; so is a text under a collation that ignores case.
    """
    case = "CREATE COLLATION app.blind (provider = icu, locale = 'und-u-ks-level2', "
    try:
        lab.admin(case + "deterministic = false)")
    except Exception as error:  # a server that was built without ICU
        pytest.skip(str(error))
    change = ("UPDATE account SET email = 'A'",)
    watched = 'ROW(NEW."id", NEW."email", NEW."secret")::pg_catalog.record'
    lab.start(
        lambda body: body.replace(
            watched,
            'NEW."email" COLLATE app.blind = OLD."email" THEN RETURN NULL; END IF; IF ROW'
            '(NEW."id", NEW."email", NEW."secret")::pg_catalog.record',
            1,
        ),
        by=f"GRANT USAGE ON SCHEMA app TO {DEPLOYER}",
    )
    lab.attack(WRITE, *change)
    assert [("I", 1, "a")] == lab.records()
    lab.start()
    lab.attack(WRITE, *change)
    assert [("I", 1, "a"), ("U", 1, "A")] == lab.records()
