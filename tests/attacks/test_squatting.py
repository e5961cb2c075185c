"""Attacks on names that a migration is about to use: somebody with CREATE was there first."""

import psycopg2
import pytest

from alembic_audit.sql import schema, trust
from tests.attacks.conftest import APP, DEPLOYER, Lab
from tests.attacks.test_shadowing import LOOT, loot

WRITE = "INSERT INTO public.account VALUES (1, 'a', 's')"
COLUMNS = (
    "audit_id bigint GENERATED ALWAYS AS IDENTITY, audit_operation varchar(1) NOT NULL, "
    "audit_operation_timestamp timestamptz NOT NULL, audit_transaction_id bigint NOT NULL, "
    "audit_current_user varchar(64) NOT NULL, audit_changed_columns text[], audit_who text, "
    "id int, email text, secret_sha256 bytea"
)
STEALS = (
    "CREATE FUNCTION app.steal_row() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN PERFORM app.steal(); RETURN NEW; END'",
    f"GRANT USAGE ON SCHEMA app TO {DEPLOYER}",
)
TRAP = (
    "CREATE TRIGGER trap BEFORE INSERT ON public.account_audit FOR EACH ROW "
    "EXECUTE FUNCTION app.steal_row()"
)
TRAPS = {
    "trigger": TRAP,
    "rule": "CREATE RULE trap AS ON INSERT TO public.account_audit DO ALSO SELECT app.steal()",
    "default": "ALTER TABLE public.account_audit ADD trap bool DEFAULT app.steal()",
    "check": "ALTER TABLE public.account_audit ADD CHECK (app.steal())",
    "nothing": "SELECT",
}
FORGED = "UPDATE public.account_audit SET audit_current_user = 'somebody else'"
GRANT = f"GRANT ALL ON public.account_audit TO {DEPLOYER}"


def squatted(lab: Lab, *statements: str) -> None:
    """Make the audit table as the attacker."""
    lab.admin(f"GRANT CREATE ON SCHEMA public TO {APP}")
    lab.attack(*LOOT, *STEALS, f"CREATE TABLE public.account_audit ({COLUMNS})", GRANT, *statements)


@pytest.mark.parametrize("trap", TRAPS)
def test_audit_table_of_another(lab: Lab, trap: str) -> None:
    """What is on a table that the attacker made runs as the owner of the trail; it is refused."""
    squatted(lab, TRAPS[trap])
    lab.start(kept=True, unchecked=True)
    lab.attack(WRITE)
    assert loot(lab) == (trap != "nothing")
    lab.attack(FORGED)
    with pytest.raises(psycopg2.Error, match=f"belongs to role {APP}, whose triggers") as caught:
        lab.start(kept=True)
    assert "42501" == caught.value.pgcode
    assert [] == lab.admin("SELECT FROM pg_proc WHERE proname = 'public_account_audit'")


def test_trigger_of_another(lab: Lab) -> None:
    """Who was given TRIGGER on a kept audit table, or had it by default, left one there."""
    lab.attack(*LOOT, *STEALS)
    kept = (
        f"CREATE TABLE public.account_audit ({COLUMNS})",
        f"GRANT INSERT, TRIGGER ON public.account_audit TO {APP}",
    )
    lab.deploy(*kept)
    lab.attack(TRAP, "GRANT EXECUTE ON FUNCTION app.steal_row() TO PUBLIC")
    lab.start(kept=True, unchecked=True)
    lab.attack(WRITE)
    assert loot(lab)
    with pytest.raises(psycopg2.Error, match=f"has triggers of others, .*: trap of role {APP}"):
        lab.start(kept=True)
    lab.deploy("DROP TRIGGER trap ON public.account_audit")
    lab.start(kept=True)
    lab.attack("DELETE FROM app.loot", WRITE)
    assert not loot(lab)


def test_superuser_trusts_no_role(lab: Lab) -> None:
    """A superuser has the rights of every role, which makes none of them trustworthy."""
    squatted(lab, TRAP)
    check = "\n".join(trust.check_audit_table('"public"."account_audit"', None))
    check = f"DO $x$DECLARE missing pg_catalog.text; BEGIN\n{check}\nEND$x$"
    assert [(True,)] == lab.admin(f"SELECT pg_has_role('{APP}', 'USAGE')")
    with pytest.raises(psycopg2.Error, match=f"belongs to role {APP}"):
        lab.admin(check)
    lab.admin(f"ALTER TABLE account_audit OWNER TO {DEPLOYER}")
    with pytest.raises(psycopg2.Error, match=f"belongs to role {DEPLOYER}"):
        lab.admin(check)
    lab.admin("ALTER TABLE account_audit OWNER TO CURRENT_USER")
    with pytest.raises(psycopg2.Error, match=f"trap of role {APP}"):
        lab.admin(check)
    lab.admin("DROP TRIGGER trap ON account_audit")
    lab.admin(check)


def test_role_that_the_deployer_may_use(lab: Lab) -> None:
    """A kept table of a group whose rights the deployer has is no other's."""
    group = f"group_{DEPLOYER}"
    lab.admin(
        f"CREATE ROLE {group}",
        f"CREATE TABLE account_audit ({COLUMNS})",
        f"ALTER TABLE account_audit OWNER TO {group}",
        f"GRANT ALL ON account_audit TO {DEPLOYER}",
    )
    try:
        with pytest.raises(psycopg2.Error, match=f"belongs to role {group}"):
            lab.start(kept=True)
        lab.admin(f"GRANT {group} TO {DEPLOYER}")
        lab.start(kept=True)
        lab.attack(WRITE)
        assert [("I", 1, "a")] == lab.records()
    finally:
        lab.admin(f"DROP OWNED BY {group} CASCADE", f"DROP ROLE {group}")


def test_schema_of_another(lab: Lab) -> None:
    """Whose schema it is can drop what others made in it: the trail is gone."""
    lab.admin(
        f"CREATE SCHEMA trail AUTHORIZATION {APP}", f"GRANT ALL ON SCHEMA trail TO {DEPLOYER}"
    )
    create = schema.create("trail", "x")
    check = "\n".join(trust.check_schema("trail"))
    assert check in create
    lab.deploy(create.replace(check, ""), "CREATE TABLE trail.account_audit (id int)")
    lab.attack("DROP TABLE trail.account_audit")
    with pytest.raises(psycopg2.Error, match=f"belongs to role {APP}, who could drop") as caught:
        lab.deploy(create)
    assert "42501" == caught.value.pgcode
    for owner in (DEPLOYER, "CURRENT_USER"):
        lab.admin(f"ALTER SCHEMA trail OWNER TO {owner}")
        lab.deploy(create)
