"""Columns that are added, dropped, retyped and renamed: what they held stays, as it was."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import BothWays, Journey, Models, history, still_recorded
from tests.project import Project
from tests.test_changes import INSERT, MOVED, UPDATE, account, setting, using

MOOD = "CREATE TYPE mood AS ENUM ('calm', 'cross')"


def mood(**more: Any) -> sa.Column[Any]:
    kind = postgresql.ENUM("calm", "cross", name="mood", create_type=False)
    return sa.Column("mood", kind, **more)


def shapes(wide: bool) -> Models:
    """Return a table whose columns all have the narrower, or all the wider type."""
    kinds: dict[str, tuple[Any, Any]] = {
        "v": (sa.String(10), sa.Text()),
        "n": (sa.Numeric(6, 2), sa.Numeric(10, 2)),
        "t": (postgresql.TIMESTAMP(precision=0), postgresql.TIMESTAMP(precision=3)),
        "b": (postgresql.BIT(4, varying=True), postgresql.BIT(8, varying=True)),
        "i": (sa.Integer(), sa.BigInteger()),
        "shorter": (sa.String(20), sa.String(10)),
        "secret": (sa.String(10), sa.String(20)),
        "state": (sa.Text(), mood().type),
    }
    columns = [sa.Column(name, kind[wide]) for name, kind in kinds.items()]
    return account(*columns, hash_columns=["secret"])


NARROW = (
    "INSERT INTO account VALUES (1, 'a@x', '1234567890', 1234.50, '2020-01-02 03:04:05', '1010', "
    "7, 'short', 's', 'calm')"
)
WIDE = (
    "UPDATE account SET v = '12345678901', n = 12345678.90, t = '2020-01-02 03:04:05.678',"
    " b = '10101010', i = 5000000000, secret = 'longer than ten'",
    "DELETE FROM account",
)


def body(upgrade: str, downgrade: str) -> Callable[[str], str]:
    """Return what replaces the generated bodies by operations that a person writes."""

    def edit(text: str) -> str:
        head = text[: text.index("def upgrade")]
        return f"{head}def upgrade():\n    {upgrade}\n\n\ndef downgrade():\n    {downgrade}\n"

    return edit


def cast_to_mood(text: str) -> str:
    kind = "type_=postgresql.ENUM('calm', 'cross', name='mood', create_type=False),\n"
    using = kind.replace("\n", " postgresql_using='state::mood',\n")
    return text.replace(f"{kind}               existing", f"{using}               existing")


def renamed(key: str, email: str, secret: str, note: str) -> Models:
    def make() -> sa.MetaData:
        metadata = sa.MetaData()
        options = {"enabled": True, "hash_columns": [secret], "ignore_columns": [note]}
        sa.Table(
            "account",
            metadata,
            sa.Column(key, sa.Integer, primary_key=True),
            sa.Column(email, sa.Text),
            sa.Column(secret, sa.Text),
            sa.Column(note, sa.Text),
            info={"audit.options": options},
        )
        return metadata

    return make


def rename(old: str, new: str, key: str, columns: list[str], secret: str, note: str) -> str:
    return (
        f"op.rename_audited_column('account', '{old}', '{new}', audit_table='account_audit',"
        f" key=['{key}'], columns={columns}, hash_columns=['{secret}'],"
        f" ignore_columns=['{note}'], version=1, "
        "level={'insert': 'statement', 'update': 'row', 'delete': 'statement'})"
    )


def parts(*key: str, **options: Any) -> Models:
    """Return what makes a table of parts with this key."""

    def make() -> sa.MetaData:
        metadata = sa.MetaData()
        columns = [sa.Column(name, sa.Integer, nullable=False) for name in ("id", "part")]
        info = {"audit.options": {"enabled": True, **options}}
        sa.Table("parts", metadata, *columns, sa.PrimaryKeyConstraint(*key), info=info)
        return metadata

    return make


def rekeyed(text: str) -> str:
    """Change the key of the table, which Alembic does not see."""
    change = (
        "    op.drop_constraint('parts_pkey', 'parts')\n"
        "    op.create_primary_key('parts_pkey', 'parts', {})\n"
    )
    upgrade, downgrade = text.split("def downgrade")
    end = "    # ### end"
    upgrade = upgrade.replace(end, change.format(["id", "part"]) + end)
    downgrade = downgrade.replace(end, change.format(["id"]) + end)
    return f"{upgrade}def downgrade{downgrade}"


RENAMES = [
    (("id", "number"), ("number", ["number", "email", "note"], "secret", "note")),
    (("email", "mail"), ("number", ["number", "mail", "note"], "secret", "note")),
    (("secret", "token"), ("number", ["number", "mail", "note"], "token", "note")),
    (("note", "remark"), ("number", ["number", "mail", "remark"], "token", "remark")),
]
BACK = [
    (("remark", "note"), ("number", ["number", "mail", "note"], "token", "note")),
    (("token", "secret"), ("number", ["number", "mail", "note"], "secret", "note")),
    (("mail", "email"), ("number", ["number", "email", "note"], "secret", "note")),
    (("number", "id"), ("id", ["id", "email", "note"], "secret", "note")),
]


def all_of(renames: list[Any]) -> str:
    return "\n    ".join(rename(*names, *spec) for names, spec in renames)


JOURNEYS = [
    Journey(
        "add_enum",
        account(),
        account(mood(nullable=False, server_default="calm"), audit_columns="classic"),
        setup=(MOOD,),
        **MOVED,
    ),
    Journey(
        "retype_all",
        shapes(wide=False),
        shapes(wide=True),
        setup=(MOOD,),
        writes_before=(NARROW,),
        writes_after=WIDE,
        writes_back=(NARROW,),
        edit=cast_to_mood,
    ),
    *(
        Journey(
            f"rekey{name}",
            parts("id"),
            parts("id", "part", **options),
            configure={"include_schemas": True},
            writes_before=("INSERT INTO parts VALUES (1, 1)",),
            writes_after=("UPDATE parts SET part = 2",),
            writes_back=("UPDATE parts SET part = 3",),
            edit=rekeyed,
        )
        for name, options in (("", {}), ("_and_move", {"schema_name": "aside"}))
    ),
    Journey(
        "rename_columns",
        renamed("id", "email", "secret", "note"),
        renamed("number", "mail", "token", "remark"),
        writes_before=(
            "INSERT INTO account VALUES (1, 'a@x', 's', 'n')",
            "ALTER TABLE account_audit ADD COLUMN mail VARCHAR(80)",  # of a column dropped long ago
            "UPDATE account_audit SET mail = 'old'",
            "ALTER TABLE account_audit ADD COLUMN token_sha256 BYTEA",
        ),
        writes_after=("UPDATE account SET number = 2, mail = 'b@x', token = 't'",),
        writes_back=("UPDATE account SET email = 'c@x'",),
        records=(
            "SELECT audit_operation, number, mail, mail__former, remark,"
            " token_sha256 = sha256(CASE WHEN number = 2 THEN 't'::bytea ELSE 's' END)"
            " FROM account_audit ORDER BY audit_id",
            [
                ("I", 1, "a@x", "old", "n", True),
                ("D", 1, "a@x", None, "n", True),
                ("U", 2, "b@x", None, "n", True),
            ],
        ),
        edit=body(all_of(RENAMES), all_of(BACK)),
    ),
]


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
class TestJourneys(BothWays):
    """Each journey, there and back, and the same by --sql."""


class Walk:
    """Models one after the other; before each downgrade it is known what was there."""

    def __init__(self, path: Path, database: Database, **configure: Any) -> None:
        self.project = Project(path, database, **configure)

    def to(self, models: Models, *writes: str, edit: Callable[[str], str] | None = None) -> str:
        """Migrate, see that nothing differs and nothing is lost, and write."""
        recorded = history(self.project)
        text = self.project.revision(models())
        if edit:
            text = self.project.edit(edit)
        self.project.upgrade()
        self.project.check(models())
        still_recorded(recorded, self.project)
        self.project.execute(*writes)
        return text

    def down_and_up(self) -> None:
        """Go down step by step and up again; no value is lost on the way."""
        project, recorded = self.project, history(self.project)
        for _ in range(project.count - 1):
            project.downgrade()
            still_recorded(recorded, project)
        for number in range(2, project.count + 1):
            project.upgrade(f"{number:04}")
            still_recorded(recorded, project)

    def trail(self, columns: str) -> list[tuple[Any, ...]]:
        return self.project.rows(f"SELECT {columns} FROM account_audit ORDER BY audit_id")


@pytest.fixture
def walk(tmp_path: Path, database: Database) -> Walk:
    return Walk(tmp_path, database)


def test_dropped_and_added(walk: Walk) -> None:
    """A column that comes back goes on in the same audit column, one of another type does not."""
    text, number = sa.Column("note", sa.Text), sa.Column("note", sa.Integer)
    walk.to(account(text), "INSERT INTO account VALUES (1, 'a', 'one')")
    walk.to(account(), "UPDATE account SET email = 'b'")

    again = walk.to(account(text), "UPDATE account SET note = 'two'")
    assert "'account_audit', sa.Column" not in again
    walk.to(account())
    walk.to(account(number), "UPDATE account SET note = 3")

    expected = [("one", None), (None, None), ("two", None), (None, 3)]
    assert expected == walk.trail("note__text, note")
    walk.down_and_up()
    assert expected == walk.trail("note__text, note")


def test_retyped_in_a_row(walk: Walk) -> None:
    """TEXT, INTEGER, TEXT: the column that was set aside first comes back with what it holds."""
    text, number = account(sa.Column("n", sa.Text)), account(sa.Column("n", sa.Integer))
    walk.to(text, "INSERT INTO account VALUES (1, 'a', '007')")
    walk.to(number, "UPDATE account SET n = 8", edit=using("sa.Integer()", "n::integer"))
    walk.to(text, "UPDATE account SET n = '009'", edit=using("sa.INTEGER()", "n::integer"))

    assert [("007", None), (None, 8), ("009", None)] == walk.trail("n, n__integer")
    walk.down_and_up()
    assert [("007", None), (None, 8), ("009", None)] == walk.trail("n, n__integer")


def test_retyped_to_an_array_of_itself(walk: Walk) -> None:
    """INTEGER and INTEGER[] are set aside under two names, and swap back."""
    walk.to(account(sa.Column("n", sa.Integer)), "INSERT INTO account VALUES (1, 'a', 7)")
    types = ["sa.Integer()", "sa.ARRAY(sa.Integer())"]
    change = "op.alter_audit_column('account_audit', 'n', existing_type={}, type_={})".format
    walk.project.write(change(*types), change(*reversed(types)))

    walk.project.config.attributes["check_trails"] = False  # the table itself is not retyped here
    walk.project.upgrade()
    walk.project.execute("UPDATE account_audit SET n = '{8,9}'")
    assert [(7, [8, 9])] == walk.trail("n__integer, n")
    walk.project.downgrade()
    assert [(7, [8, 9])] == walk.trail("n, n__integer_array")


def test_kept_wider(walk: Walk) -> None:
    """A column that a downgrade kept wider is not made narrower by the way up again."""
    kinds = [postgresql.TIMESTAMP(precision=size) for size in (0, 3, 6)]
    lengths = [sa.String(4), sa.String(8), sa.Text()]
    for kind, length in zip(kinds, lengths, strict=True):
        walk.to(account(sa.Column("t", kind), sa.Column("v", length)))
    walk.project.execute(
        "INSERT INTO account VALUES (1, 'a', '2020-01-02 03:04:05.678901', '1234567890')",
        "DELETE FROM account",
    )

    walk.down_and_up()

    assert [("2020-01-02 03:04:05.678901", "1234567890")] * 2 == walk.trail("t::text, v")
    assert [("timestamp(6) without time zone",)] == walk.project.rows(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'account_audit'::regclass AND attname = 't'"
    )


def test_index_left_by_classic(walk: Walk) -> None:
    """An index that the classic layout left in place moves along, and is not made again."""
    walk.to(parts("id"), "INSERT INTO parts VALUES (1, 1)")
    walk.to(parts("id", audit_columns="classic"))
    before = snapshot(walk.project.engine)["indexes"]
    walk.project.config.attributes["configure"] = {"include_schemas": True}

    text = walk.to(parts("id", schema_name="aside"), "DELETE FROM parts")
    assert "op.create_index" not in text
    walk.project.downgrade()
    assert before == snapshot(walk.project.engine)["indexes"]


def test_setting_renamed_to_a_kept_column(walk: Walk) -> None:
    """A column of a setting that is called as a kept one sets that aside, and gives it back."""
    who: dict[str, Any] = {"session_settings": [setting("who")]}
    naming = {"audit.setting": "s_%(setting)s"}
    walk.to(account(**who), "SET LOCAL audit.who = 'ann'", INSERT)
    walk.to(account())
    walk.to(account(**who, naming=naming), "SET LOCAL audit.who = 'ben'", UPDATE)

    walk.to(account(**who))
    expected = [("ann", None), (None, "ben")]
    assert expected == walk.trail("audit_who__former, audit_who")
    walk.project.downgrade()
    assert expected == walk.trail("audit_who, s_who")


def test_order_of_dropped_columns(tmp_path: Path, database: Database) -> None:
    """Columns that leave a table or a trail stand in one order, whatever the hash of their names.

    Alembic takes them from a set.
    """
    project = Project(tmp_path, database)
    project.migrate(account(*(sa.Column(name, sa.Text) for name in "abcdef"))())
    text = project.migrate(account(audit_columns="classic")())
    assert list("abcdef") == re.findall(r"op.drop_column\('account', '(.)'\)", text)
    assert ["audit_current_user", "audit_transaction_id"] == re.findall(
        r"alter_audit_column\('account_audit', '(\w+)', nullable=True\)", text
    )
