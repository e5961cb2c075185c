"""An audit table, or its schema, that the attacker made before the migration did."""

import psycopg2
import pytest

from alembic_audit import catalog, sql
from alembic_audit.spec import HEADER, AuditSpec
from alembic_audit.sql import schema
from alembic_audit.sql.text import COMMENT
from tests.attacks.conftest import APP, DEPLOYER, Lab
from tests.attacks.test_shadowing import LOOT, loot

SPEC = AuditSpec.from_kwargs(table="account", columns=["id", "email"], key=["id"])
COLUMNS = (
    "audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, audit_operation varchar(1) NOT NULL,"
    " audit_operation_timestamp timestamptz NOT NULL, audit_transaction_id bigint NOT NULL,"
    " audit_current_user varchar(64) NOT NULL, id int"
)
TABLE = f"CREATE TABLE public.account_audit ({COLUMNS}, email text)"
SPIES = {
    "trigger": [
        TABLE,
        "CREATE TRIGGER spy BEFORE INSERT ON public.account_audit FOR EACH ROW "
        "EXECUTE FUNCTION app.spy()",
    ],
    "default": [TABLE, "ALTER TABLE public.account_audit ADD spied bool DEFAULT app.steal()"],
    "check": [TABLE, "ALTER TABLE public.account_audit ADD CHECK (app.steal())"],
    "rule": [
        TABLE,
        "CREATE RULE spy AS ON INSERT TO public.account_audit DO ALSO SELECT app.steal()",
    ],
    "domain": [
        "CREATE DOMAIN app.word AS text CHECK (app.steal())",
        f"CREATE TABLE public.account_audit ({COLUMNS}, email app.word)",
    ],
}


SPY = (
    "CREATE FUNCTION app.spy() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO app.loot VALUES (current_user); RETURN NEW; END'",
    f"GRANT EXECUTE ON FUNCTION app.spy() TO {DEPLOYER}",
)


@pytest.fixture
def squatted(lab: Lab) -> Lab:
    """The attacker may create in the schema of audit tables, before there is one."""
    lab.admin(
        f"GRANT CREATE ON SCHEMA public TO {APP}",
        f"GRANT USAGE ON SCHEMA app TO {DEPLOYER}",
    )
    lab.attack(*LOOT, *SPY)
    lab.deploy("CREATE TABLE public.account (id int PRIMARY KEY, email text)")
    lab.deploy(f"GRANT INSERT ON public.account TO {APP}")
    return lab


def create(lab: Lab, *, checked: bool = True, spec: AuditSpec = SPEC) -> None:
    """Create the trail; a control leaves the first statement, which checks, out."""
    lab.deploy(*sql.create(spec, "public")[0 if checked else 1 :])


def make(lab: Lab, *statements: str) -> None:
    """Make the audit table as the attacker, and let the migration's role write it."""
    lab.attack(*statements, f"GRANT ALL ON public.account_audit TO {DEPLOYER}")


@pytest.mark.parametrize("owned", [True, False], ids=["attacker's", "handed over"])
@pytest.mark.parametrize("how", SPIES)
def test_audit_table_that_was_there(squatted: Lab, how: str, owned: bool) -> None:
    """Code of the attacker's on an audit table of theirs runs as the function's owner.

    It does too once the table is another's: what the table calls counts, not only whose it is.
    """
    lab = squatted
    make(lab, *SPIES[how])
    if not owned:
        lab.admin(f"ALTER TABLE public.account_audit OWNER TO {DEPLOYER}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege) as caught:
        create(lab)
    message = caught.value.diag.message_primary or ""
    if owned:
        assert message == (
            f'table "public"."account_audit" belongs to {APP}, who could read, forge and delete '
            f"records, and run code as {DEPLOYER}"
        )
    else:
        spy = "spy" if how == "trigger" else "steal"
        rule = ", rule spy" if how == "rule" else ""
        assert message == (
            'an INSERT into "public"."account_audit" would run, with the rights of its audit '
            f"function, function app.{spy}() of {APP}{rule}"
        )
    assert not loot(lab)
    create(lab, checked=False)
    lab.attack("INSERT INTO public.account VALUES (1, 'a')")
    assert loot(lab)


def test_audit_table_of_who_is_a_member(squatted: Lab) -> None:
    """That the migration's role may act as the table's owner does not make its owner trusted."""
    lab = squatted
    make(lab, *SPIES["trigger"])
    lab.admin(f"GRANT {APP} TO {DEPLOYER}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="belongs to"):
        create(lab)
    lab.admin(f"REVOKE {APP} FROM {DEPLOYER}", f"GRANT {DEPLOYER} TO {APP}")
    create(lab)  # the attacker is the deployer, by a grant


def test_audit_table_of_the_declared_owner(squatted: Lab) -> None:
    """With ``owner`` it is that role which the code on an audit table would run as."""
    lab = squatted
    lab.attack(TABLE)
    spec = AuditSpec.from_kwargs(
        table="account", columns=["id", "email"], key=["id"], owner=DEPLOYER
    )
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="run code as deployer"):
        lab.admin(*sql.create(spec, "public"))
    lab.admin(f"ALTER TABLE public.account_audit OWNER TO {DEPLOYER}")
    lab.admin(*sql.create(spec, "public"))


def test_superuser_and_a_table_of_anybody(squatted: Lab) -> None:
    """A superuser may act as anybody, and still takes no audit table of the attacker's."""
    lab = squatted
    lab.attack(TABLE)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=f"belongs to {APP}"):
        lab.admin(*sql.create(SPEC, "public"))


def test_schema_that_was_there(lab: Lab) -> None:
    """Who owns the schema drops the audit tables in it, whoever owns them."""
    lab.admin("CREATE TABLE app.account_audit (id int)")
    lab.attack("DROP TABLE app.account_audit")  # the control: a superuser's table
    for run in (lab.admin, lab.deploy):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege) as caught:
            run(schema.create("app", COMMENT))
        assert caught.value.diag.message_primary == (
            f'schema "app" belongs to {APP}, who could drop every audit table in it'
        )
    lab.admin(schema.create("public", COMMENT))
    lab.attack(schema.create("app", COMMENT))


def test_a_downgrade_does_not_run_it_as_the_deployer(squatted: Lab) -> None:
    """A trail of the attacker's own, with code in its function, is found, dropped and given back.

    The control is the same statement without the owner: the function of whoever runs the downgrade.
    """
    header = HEADER + AuditSpec.from_kwargs("mine", columns=["id"], key=["id"]).to_json()
    code = f"{header}\nBEGIN PERFORM app.steal(); RETURN NULL; END"
    squatted.attack(
        "CREATE TABLE public.mine (id int PRIMARY KEY)",
        f"CREATE TABLE public.mine_audit ({COLUMNS})",
        "CREATE FUNCTION public.public_mine_audit() RETURNS trigger LANGUAGE plpgsql SECURITY "
        f"DEFINER AS $code${code}$code$",
        'CREATE TRIGGER "00_audit_mine" AFTER INSERT ON public.mine FOR EACH ROW '
        "EXECUTE FUNCTION public.public_mine_audit()",
    )
    with squatted.database.engine.connect() as connection:
        (state,) = catalog.read(connection, [], "public", {"public"}).states.values()
    given_back = [one for one in state.found if " OWNER TO " in one or "CREATE OR" in one]
    assert [f'ALTER FUNCTION "public"."public_mine_audit"() OWNER TO "{APP}"'] == given_back[1:]
    for statements, owner in ((given_back[:1], None), (given_back, APP)):
        squatted.admin("DROP FUNCTION public.public_mine_audit() CASCADE", *statements)
        found = squatted.admin(
            "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'public_mine_audit'"
        )
        assert (found == [(APP,)]) is (owner == APP)


REFUSED = {
    "view": (
        "CREATE VIEW public.account_audit AS SELECT 1::bigint AS audit_id, 'I'::varchar(1) AS"
        " audit_operation, now() AS audit_operation_timestamp, 1::bigint AS audit_transaction_id,"
        " 'x'::varchar(64) AS audit_current_user, 1 AS id, 'x'::text AS email",
        "is a view or a foreign table, which keeps no records",
        "DROP VIEW public.account_audit; " + TABLE,
    ),
    "random": (
        TABLE.replace("GENERATED ALWAYS AS IDENTITY", "DEFAULT (random() * 1e9)"),
        "is numbered by no sequence, so records have no order",
        "ALTER TABLE public.account_audit ALTER audit_id DROP DEFAULT,"
        " ALTER audit_id ADD GENERATED ALWAYS AS IDENTITY",
    ),
    "parent": (
        f"CREATE TABLE public.above (email text); {TABLE} INHERITS (public.above)",
        "inherits from another table",
        "ALTER TABLE public.account_audit NO INHERIT public.above",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_no_audit_table(lab: Lab, how: str) -> None:
    """The deployer's own view, or a table without an order or with a parent, is no audit table."""
    made, message, remedy = REFUSED[how]
    lab.deploy("CREATE TABLE public.account (id int PRIMARY KEY, email text)", made)
    create(lab, checked=False)  # a control: PostgreSQL takes it
    lab.deploy("DROP FUNCTION public.public_account_audit() CASCADE")
    with pytest.raises(psycopg2.errors.WrongObjectType, match=message):
        create(lab)
    lab.deploy(remedy)
    create(lab)
