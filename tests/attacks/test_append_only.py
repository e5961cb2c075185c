"""Ways to change records of an append-only trail that no trigger for statements sees."""

import psycopg2
import pytest

from tests.attacks.conftest import Lab

WRITE = "INSERT INTO public.account VALUES (1, 'a', 's')"
ROW_GUARD = "append_only_row"
PARENTS = {
    "inheritance": (
        "CREATE TABLE parent (email text)",
        "ALTER TABLE account_audit INHERIT parent",
        "ALTER TABLE account_audit NO INHERIT parent",
    ),
    "partition": (
        "CREATE TABLE parent (LIKE account_audit INCLUDING IDENTITY) PARTITION BY LIST (audit_id)",
        "ALTER TABLE parent ATTACH PARTITION account_audit DEFAULT",
        "ALTER TABLE parent DETACH PARTITION account_audit",
    ),
}


@pytest.mark.parametrize("change", ["UPDATE parent SET email = 'forged'", "DELETE FROM parent"])
@pytest.mark.parametrize("how", PARENTS)
def test_writing_through_a_parent(lab: Lab, how: str, change: str) -> None:
    """A statement on a parent fires the row triggers of the audit table, and no others of it."""
    made, joined, parted = PARENTS[how]
    if how == "partition":  # an identity column belongs to the parent, since 17
        joined = f"ALTER TABLE account_audit ALTER audit_id DROP IDENTITY; {joined}"
        made = made.replace(" INCLUDING IDENTITY", "")

    def begin(without: str | None = None) -> None:
        lab.admin("DROP TABLE IF EXISTS parent CASCADE")
        lab.start(without=without, append_only=True)
        lab.attack(WRITE)
        lab.deploy(made, joined)

    begin(ROW_GUARD)
    lab.deploy(change, parted)
    assert [("I", 1, "a")] != lab.records()
    begin()
    with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState, match="is append-only"):
        lab.deploy(change)
    lab.deploy(parted)
    assert [("I", 1, "a")] == lab.records()
