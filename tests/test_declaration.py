import copy
import re
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

import alembic_audit
from alembic_audit import DeclarationError, audit_table, audited
from alembic_audit.tables import derive, derive_all, storage_type

PG: Any = sa.create_mock_engine("postgresql+psycopg2://", print).dialect


def table(*columns: Any, name: str = "account", meta: sa.MetaData | None = None, **kw: Any) -> Any:
    """Return a Table with a key and an e-mail address, and more if asked for."""
    return sa.Table(
        name,
        meta if meta is not None else sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String),
        *columns,
        **kw,
    )


def info(**options: Any) -> dict[str, Any]:
    return {"audit.options": {"enabled": True, **options}}


def create(made: sa.Table) -> str:
    """Return the CREATE TABLE statement of a Table, with single spaces."""
    return " ".join(str(CreateTable(made).compile(dialect=PG)).split())


def names(made: sa.Table | None) -> list[str]:
    assert made is not None
    return [column.name for column in made.columns]


OWN = [
    "audit_id",
    "audit_operation",
    "audit_operation_timestamp",
    "audit_transaction_id",
    "audit_current_user",
]


# -- the ways to declare -----------------------------------------------------------------------


def test_table_info() -> None:
    """Table.info asks for an audit; the audit Table is in the same MetaData, marked as such."""
    account = table(info=info())
    made = derive(account)
    assert made is not None
    assert made is account.metadata.tables["account_audit"]
    assert names(made) == [*OWN, "id", "email"]
    assert account.info["audit.is_audited"] is True
    assert made.info["audit.is_audit_table"] is True
    assert made.info["audit.target_table"] is account
    for key in ("audit.create_ddl", "audit.drop_ddl"):
        assert isinstance(account.info[key], str)
        assert made.info[key] == account.info[key]


def test_table_args() -> None:
    """__table_args__ asks for an audit of a mapped class."""

    class Base(DeclarativeBase):
        pass

    class Account(Base):
        __tablename__ = "account"
        __table_args__: ClassVar = {"info": info(ignore_columns=["seen"])}
        id: Mapped[int] = mapped_column(primary_key=True)
        seen: Mapped[int]

    [spec] = derive_all(Base.metadata)
    assert spec.identity == (None, "account")
    assert spec.key == ("id",)
    assert spec.columns == ("id", "seen")
    assert spec.ignore_columns == ("seen",)


def test_decorator() -> None:
    """@audited() does the same for the class below it, which it returns."""

    class Base(DeclarativeBase):
        pass

    @audited(operations=["delete"])
    class Account(Base):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert issubclass(Account, Base)
    assert names(Base.metadata.tables["account_audit"]) == [*OWN, "id"]
    [spec] = derive_all(Base.metadata)
    assert spec.operations == ("delete",)


def test_decorator_without_table() -> None:
    """@audited() on a class without a table of its own says which class to mark."""

    class Mixin:
        pass

    with pytest.raises(DeclarationError, match=r"'Mixin', which has no table of its own"):
        audited()(Mixin)


def test_core() -> None:
    """audit_table() returns the audit Table, and takes the same options."""
    account = table()
    made = audit_table(account, exclude_columns=["email"])
    assert names(made) == [*OWN, "id"]
    assert account.info["audit.options"] == {"enabled": True, "exclude_columns": ["email"]}


def test_declared_twice() -> None:
    """Options in two places are refused."""
    with pytest.raises(DeclarationError, match=r"'account' has 'audit\.options' already"):
        audit_table(table(info=info()))


def test_core_disabled() -> None:
    """audit_table(enabled=False) is a mistake, and leaves the table as it was."""
    account = table()
    with pytest.raises(DeclarationError, match="audits nothing"):
        audit_table(account, enabled=False)
    assert list(account.metadata.tables) == ["account"]


def test_refused_leaves_no_trace() -> None:
    """A declaration that is refused leaves the table as it was."""
    account = table()
    with pytest.raises(DeclarationError):
        audit_table(account, exclude_columns=["nope"])
    assert account.info == {}
    assert list(account.metadata.tables) == ["account"]


def test_enable() -> None:
    """After enable() an audit Table is there as soon as its table is; twice is once."""
    alembic_audit.enable()
    alembic_audit.enable()
    try:
        account = table(info=info())
        assert list(account.metadata.tables) == ["account", "account_audit"]
    finally:
        sa.event.remove(sa.Table, "after_parent_attach", alembic_audit.listeners._attached)


def test_column_marks() -> None:
    """Column marks add to the options of the table."""
    made = table(
        sa.Column("a", sa.Text, info={"audit": "exclude"}),
        sa.Column("b", sa.Text, info={"audit": "ignore"}),
        sa.Column("c", sa.Text, info={"audit": "hash"}),
        sa.Column("d", sa.Text),
        info=info(exclude_columns=["d"], ignore_columns=["email"]),
    )
    assert names(derive(made)) == [*OWN, "id", "email", "b", "c_sha256"]
    spec = made.info["audit.spec"]
    assert spec.columns == ("id", "email", "b")
    assert spec.ignore_columns == ("email", "b")
    assert spec.hash_columns == ("c",)


def test_column_marks_travel_with_mixins() -> None:
    """A mark in a mixin counts in each class that has the column."""

    class Base(DeclarativeBase):
        pass

    class Login:
        secret: Mapped[str] = mapped_column(info={"audit": "hash"})
        seen: Mapped[int] = mapped_column(info={"audit": "ignore"})

    @audited()
    class Account(Login, Base):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)

    @audited()
    class Robot(Login, Base):
        __tablename__ = "robot"
        id: Mapped[int] = mapped_column(primary_key=True)

    specs = derive_all(Base.metadata)
    assert ["account", "robot"] == [spec.table for spec in specs]
    for spec in specs:
        assert spec.hash_columns == ("secret",)
        assert spec.ignore_columns == ("seen",)


def test_unknown_mark() -> None:
    """A mark that means nothing is refused."""
    account = table(sa.Column("a", sa.Text, info={"audit": "hide"}), info=info())
    with pytest.raises(DeclarationError, match=r"'a' of table 'account' is marked audit='hide'"):
        derive(account)


def test_defaults() -> None:
    """audit.defaults with enabled audits everything; options win; an exception has a reason."""
    meta = sa.MetaData(info={"audit.defaults": {"enabled": True, "audit_columns": "classic"}})
    table(meta=meta)
    table(meta=meta, name="event", info={"audit.options": {"audit_columns": "standard"}})
    reason = {"enabled": False, "reason": "can be computed again"}
    table(meta=meta, name="cache", info={"audit.options": reason})
    specs = derive_all(meta)
    assert [(spec.table, spec.audit_columns) for spec in specs] == [
        ("account", "classic"),
        ("event", "standard"),
    ]
    # The audit tables that are there now are not audited by default.
    assert derive_all(meta) == specs


def test_defaults_without_enabled() -> None:
    """Defaults that do not enable anything count for the tables that ask for an audit."""
    meta = sa.MetaData(info={"audit.defaults": {"operations": ["delete"]}})
    table(meta=meta, info=info())
    table(meta=meta, name="event")
    [spec] = derive_all(meta)
    assert (spec.table, spec.operations) == ("account", ("delete",))


# -- the user's dicts --------------------------------------------------------------------------


def test_dicts_are_not_mutated() -> None:
    """What the user wrote stays as it was, also where one dict serves two tables."""
    shared = info(session_settings=[sa.Column("username", sa.String)], hash_columns=["email"])
    before = {"audit.options": dict(shared["audit.options"])}
    defaults = {"audit.defaults": {"skip_unchanged": True}}
    meta = sa.MetaData(info=defaults)
    one = table(meta=meta, info=shared)
    two = table(meta=meta, info=shared, name="robot")
    derive_all(meta)
    derive_all(meta)
    assert shared == before
    assert defaults == {"audit.defaults": {"skip_unchanged": True}}
    assert one.info["audit.spec"].audit_table == "account_audit"
    assert two.info["audit.spec"].audit_table == "robot_audit"
    assert shared["audit.options"]["session_settings"][0].table is None


def test_column_info_is_not_mutated() -> None:
    """The columns of the user are read only."""
    column = sa.Column("a", sa.Text, info={"audit": "hash"}, server_default="x")
    before = copy.deepcopy(column.info)
    made = derive(table(column, info=info()))
    assert made is not None
    assert column.info == before
    assert made.c.a_sha256.server_default is None


# -- derived again -----------------------------------------------------------------------------


def test_derived_twice() -> None:
    """Deriving again gives the same Table where nothing changed."""
    account = table(info=info())
    assert derive(account) is derive(account)


def test_late_column() -> None:
    """A column appended later is in the audit table, in its place, after deriving again."""
    account = table(info=info())
    derive(account)
    account.append_column(sa.Column("age", sa.Integer))
    made = derive(account)
    assert names(made) == [*OWN, "id", "email", "age"]
    assert account.info["audit.spec"].columns == ("id", "email", "age")
    assert derive(account) is made
    assert list(account.metadata.tables) == ["account", "account_audit"]


def test_late_defaults_leave_no_former_audit_table() -> None:
    """Where the name of an audit Table becomes another, the former Table is gone."""
    account = table()
    audit_table(account)
    account.metadata.info["audit.defaults"] = {"schema_name": "audit"}
    derive_all(account.metadata)
    assert ["account", "audit.account_audit"] == list(account.metadata.tables)

    del account.metadata.info["audit.defaults"]
    derive_all(account.metadata)
    assert ["account", "account_audit"] == list(account.metadata.tables)


def test_foreign_key_of_later_table() -> None:
    """A foreign-key column takes the type of the column it refers to, once that is declared."""
    meta = sa.MetaData()
    account = table(sa.Column("team", sa.ForeignKey("team.id")), meta=meta, info=info())
    made = derive(account)
    assert made is not None
    assert isinstance(made.c.team.type, sa.types.NullType)
    sa.Table("team", meta, sa.Column("id", sa.Uuid, primary_key=True))
    derive_all(meta)
    made = meta.tables["account_audit"]
    assert isinstance(made.c.team.type, sa.Uuid)
    assert not made.foreign_keys
    assert not made.c.team.foreign_keys


def test_single_table_inheritance() -> None:
    """Columns that a subclass adds to the table of its parent are audited."""

    class Base(DeclarativeBase):
        pass

    @audited()
    class Account(Base):
        __tablename__ = "account"
        __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "account"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Admin(Account):
        __mapper_args__: ClassVar = {"polymorphic_identity": "admin"}
        level: Mapped[int | None]

    [spec] = derive_all(Base.metadata)
    assert spec.columns == ("id", "kind", "level")


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_column": ["a"]}, "unknown option 'exclude_column' in 'audit.options' of table "),
        ({"exclude_column": ["a"]}, "did you mean 'exclude_columns'?"),
        ({"sesion_settings": []}, "did you mean 'session_settings'?"),
        ({"zzz": 1}, "known are ["),
        ({"enabled": "yes"}, "enabled in 'audit.options' of table 'account' must be a bool"),
        ({"exclude_columns": "email"}, "exclude_columns in 'audit.options' of table 'account' mu"),
        ({"exclude_columns": 1}, "must be a list of names, found 1"),
        ({"exclude_columns": None}, "must be a list of names, found None"),
        ({"hash_columns": None}, "must be a list of names, found None"),
        ({"ignore_columns": None}, "must be a list of names, found None"),
        ({"skip_unchanged": 1}, "skip_unchanged in 'audit.options' of table 'account' must be a"),
        ({"changed_columns": "no"}, "changed_columns in 'audit.options' of table 'account' must"),
        ({"schema_name": 1}, "schema_name in 'audit.options' of table 'account' must be a string"),
        ({"audit_columns": "clasic"}, "must be one of standard, classic, found 'clasic'"),
        ({"audit_columns": ["classic"]}, "must be one of standard, classic, found ['classic']"),
        ({"operations": "insert"}, "operations in 'audit.options' of table 'account' must be a l"),
        ({"operations": ["upsert"]}, "must be some of insert, update, delete, truncate"),
        ({"operations": []}, "must be some of insert, update, delete, truncate"),
        ({"session_settings": ["username"]}, "must be a list of Column, found ['username']"),
        ({"session_settings": None}, "must be a list of Column, found None"),
        (
            {"session_settings": [sa.Column(sa.Text)]},
            "must be a list of Column, found [Column(None",
        ),
        (
            {"exclude_columns": ["emial"]},
            "exclude_columns in 'audit.options' of table 'account' names 'emial', which the table "
            "does not have: did you mean 'email'?",
        ),
        ({"include_columns": ["id", "zzz"]}, "it has ['id', 'email']"),
        ({"ignore_columns": ["emial"]}, "ignore_columns in"),
        ({"hash_columns": ["emial"]}, "hash_columns in"),
        ({"exclude_columns": ["id"]}, "key columns ['id'] of 'account' are not in columns"),
        ({"include_columns": ["email"]}, "key columns ['id'] of 'account' are not in columns"),
        ({"hash_columns": ["id"]}, "key columns ['id'] of 'account' are not in columns"),
        ({"include_columns": []}, "no column of 'account' would be recorded"),
        (
            {"session_settings": [sa.Column("app user", sa.Text)]},
            "'app user' cannot be read as audit.app",
        ),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    """A mistake is refused where it is made, by a message that names it and says what to write."""
    with pytest.raises(DeclarationError) as caught:
        derive(table(info={"audit.options": {"enabled": True, **options}}))
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [True, ["enabled"], [], "yes", None])
def test_options_of_wrong_type(value: Any) -> None:
    """Options that are no dict are refused, not taken for none."""
    with pytest.raises(DeclarationError, match=r"of table 'account' must be a dict, found"):
        derive(table(info={"audit.options": value}))


@pytest.mark.parametrize("options", [{}, {"skip_unchanged": True}])
def test_without_enabled(options: dict[str, Any]) -> None:
    """A dict that does not say whether to audit is refused."""
    with pytest.raises(DeclarationError, match="does not say whether the table is audited"):
        derive(table(info={"audit.options": options}))


@pytest.mark.parametrize("options", [None, info()])
def test_misspelt_default(options: dict[str, Any] | None) -> None:
    """A mistake in the defaults is refused too, whether or not a table uses them."""
    meta = sa.MetaData(info={"audit.defaults": {"enable": True}})
    with pytest.raises(DeclarationError) as caught:
        derive(table(meta=meta, info=options))
    assert str(caught.value) == (
        "unknown option 'enable' in MetaData.info['audit.defaults']: did you mean 'enabled'?"
    )


def test_mistake_in_disabled_options() -> None:
    """A misspelt option is refused where the audit is switched off as well."""
    with pytest.raises(DeclarationError, match="did you mean 'reason'"):
        derive(table(info={"audit.options": {"enabled": False, "reasons": "none"}}))


def test_audit_of_an_audit_table() -> None:
    """An audit table is not audited, and asking for it is an error."""
    account = table(info=info())
    made = derive(account)
    assert made is not None
    with pytest.raises(DeclarationError, match="'account_audit' is an audit table and cannot be"):
        audit_table(made)
    assert derive(made) is None


def test_computed_columns() -> None:
    """A stored computed column is recorded, a virtual one left out, an undecided one refused."""
    stored = sa.Column("s", sa.Integer, sa.Computed("1", persisted=True))
    virtual = sa.Column("v", sa.Integer, sa.Computed("1", persisted=False))
    assert names(derive(table(stored, virtual, info=info()))) == [*OWN, "id", "email", "s"]
    with pytest.raises(DeclarationError, match=r"column 'u' of 'account' is Computed without"):
        derive(table(sa.Column("u", sa.Integer, sa.Computed("1")), info=info()))


def test_column_without_a_type() -> None:
    """A column of no known type has no history, so it is refused."""
    with pytest.raises(DeclarationError, match=r"column 'x' of 'account' has no type"):
        derive(table(sa.Column("x"), info=info()))
    assert names(derive(table(sa.Column("x"), info=info(exclude_columns=["x"])))) == [
        *OWN,
        "id",
        "email",
    ]


# -- collisions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["audit_id"], {}, "two columns 'audit_id': own column and source column 'audit_id'"),
        (
            ["audit_operation"],
            {"audit_columns": "classic"},
            "two columns 'audit_operation': own column and source column 'audit_operation'",
        ),
        (
            ["username"],
            {"audit_columns": "classic", "session_settings": ["username"]},
            "two columns 'username': setting audit.username and source column 'username'",
        ),
        (
            ["audit_username"],
            {"session_settings": ["username"]},
            "'audit_username': setting audit.username and source column 'audit_username'",
        ),
        (
            [],
            {"session_settings": ["operation"]},
            "two columns 'audit_operation': own column and setting audit.operation",
        ),
        (
            ["audit_changed_columns"],
            {"changed_columns": True},
            "own column and source column 'audit_changed_columns'",
        ),
        (
            ["email_sha256"],
            {"hash_columns": ["email"]},
            "'email_sha256': source column 'email_sha256' and hash of source column 'email'",
        ),
        ([], {"session_settings": ["username", "username"]}, "names ['username'] twice"),
        ([], {"session_settings": ["username", "UserName"]}, "names ['username'] twice"),
    ],
)
def test_columns_collide(columns: list[str], options: dict[str, Any], message: str) -> None:
    """Own, setting and source columns must not share a name; the message names both sides."""
    options = dict(options)
    if "session_settings" in options:
        options["session_settings"] = [sa.Column(n, sa.Text) for n in options["session_settings"]]
    account = table(*(sa.Column(name, sa.Text) for name in columns), info=info(**options))
    with pytest.raises(DeclarationError) as caught:
        derive(account)
    assert "'account'" in str(caught.value)
    assert message in str(caught.value)


def test_our_names_are_free_in_classic() -> None:
    """A column may be called as a standard column is where the audit table is a classic one."""
    made = derive(table(sa.Column("audit_id", sa.Text), info=info(audit_columns="classic")))
    assert names(made) == [
        "audit_operation",
        "audit_operation_timestamp",
        "id",
        "email",
        "audit_id",
    ]


def test_setting_convention() -> None:
    """The naming convention audit.setting solves a collision."""
    meta = sa.MetaData(naming_convention={"audit.setting": "app_%(setting)s"})
    settings = [sa.Column("operation", sa.Text)]
    made = derive(table(meta=meta, info=info(session_settings=settings)))
    assert names(made) == [*OWN, "app_operation", "id", "email"]


def test_audit_table_exists() -> None:
    """A table that is declared under the name of an audit table is an error, as are two audits."""
    meta = sa.MetaData()
    table(meta=meta, name="account_audit")
    with pytest.raises(DeclarationError) as caught:
        derive(table(meta=meta, info=info()))
    assert "the audit table of 'account' would be 'account_audit', which is a table" in str(
        caught.value
    )
    meta = sa.MetaData(naming_convention={"audit.table": "history"})
    derive(table(meta=meta, info=info()))
    with pytest.raises(DeclarationError) as caught:
        derive(table(meta=meta, name="robot", info=info()))
    assert "would be 'history', which is the audit table of 'account' already" in str(caught.value)


def test_functions_collide() -> None:
    """Two tables whose functions would have one name are an error."""
    meta = sa.MetaData(naming_convention={"audit.function": "audit"})
    table(meta=meta, info=info())
    table(meta=meta, info=info(), name="robot")
    with pytest.raises(DeclarationError, match="of 'account' and 'robot' would both be 'audit'"):
        derive_all(meta)


@pytest.mark.parametrize("convention", ["%(tabel_name)s", "%", 1, ""])
def test_convention_is_wrong(convention: Any) -> None:
    """A naming convention that cannot be used is an error that says what to write."""
    meta = sa.MetaData(naming_convention={"audit.table": convention})
    with pytest.raises(DeclarationError, match=r"write a format of %\(table_name\)s"):
        derive(table(meta=meta, info=info()))


# -- names -------------------------------------------------------------------------------------


def test_names() -> None:
    """Names follow the conventions; the tokens know both schemas."""
    account = table(info=info(schema_name="history", level="row"), schema="app")
    derive(account)
    spec = account.info["audit.spec"]
    assert (spec.audit_schema, spec.audit_table) == ("history", "account_audit")
    assert spec.function == "history_account_audit"
    assert spec.trigger_names == {
        "row": "00_audit_account",
        "truncate": "00_audit_account_truncate",
    }
    account = table(
        meta=sa.MetaData(naming_convention={"audit.table": "%(source_schema)s_%(schema)s_a"}),
        info=info(schema_name="history"),
    )
    derive(account)
    assert account.info["audit.spec"].audit_table == "public_history_a"


def test_long_names() -> None:
    """Names over 63 bytes are shortened, suffix included, and stay apart."""
    account = table(info=info(), name="ä" * 31)
    made = derive(account)
    spec = account.info["audit.spec"]
    assert made is not None
    every = [made.name, spec.function, *spec.trigger_names.values()]
    every += [str(index.name) for index in made.indexes]
    assert len(set(every)) == 8
    assert all(len(name.encode()) <= 63 for name in every)


def test_constants() -> None:
    """The predecessor's three constants are there, with its values."""
    assert alembic_audit.DEFAULT_AUDIT_TABLE_NAMING_CONVENTION == "%(table_name)s_audit"
    assert (
        alembic_audit.DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION
        == "%(schema)s_%(table_name)s_audit"
    )
    assert alembic_audit.DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION == "00_audit_%(table_name)s"


# -- the audit table ---------------------------------------------------------------------------


def test_seed_first_example() -> None:
    """The predecessor's first example gives its CREATE TABLE word for word."""
    foo = sa.Table(
        "foo",
        sa.MetaData(),
        sa.Column("bar", sa.String),
        info={"audit.options": {"enabled": True, "audit_columns": "classic"}},
        schema="public",
    )
    derive(foo)
    expected = """
CREATE TABLE public.foo_audit (
        audit_operation VARCHAR(1) NOT NULL, 
        audit_operation_timestamp TIMESTAMP WITHOUT TIME ZONE NOT NULL, 
        bar VARCHAR
)
"""  # noqa: W291
    assert create(foo.metadata.tables["public.foo_audit"]) == " ".join(expected.split())


def test_seed_second_example() -> None:
    """The predecessor's second example, with settings, gives its CREATE TABLE word for word."""
    foo = sa.Table(
        "foo",
        sa.MetaData(naming_convention={"audit.table": "%(table_name)s_audr"}),
        sa.Column("bar", sa.String),
        info={
            "audit.options": {
                "enabled": True,
                "session_settings": [
                    sa.Column("username", sa.String, nullable=False),
                    sa.Column("app_uuid", postgresql.UUID),
                ],
                "audit_columns": "classic",
            }
        },
        schema="public",
    )
    derive(foo)
    expected = """
CREATE TABLE public.foo_audr (
        audit_operation VARCHAR(1) NOT NULL, 
        audit_operation_timestamp TIMESTAMP WITHOUT TIME ZONE NOT NULL, 
        username VARCHAR NOT NULL, 
        app_uuid UUID, 
        bar VARCHAR
)
"""  # noqa: W291
    assert create(foo.metadata.tables["public.foo_audr"]) == " ".join(expected.split())


def test_standard() -> None:
    """The standard table: own columns, settings, source columns, all of these nullable and bare."""
    account = sa.Table(
        "account",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("email", sa.String(80), nullable=False, unique=True, index=True),
        sa.Column("parent", sa.ForeignKey("account.id"), server_default="0"),
        sa.Column("active", sa.Boolean(create_constraint=True, name="ck"), nullable=False),
        sa.Column("secret", sa.Text),
        sa.CheckConstraint("id > 0"),
        info=info(
            session_settings=[
                sa.Column("username", sa.String(40), nullable=False),
                sa.Column("request", sa.Uuid),
            ],
            hash_columns=["secret"],
            changed_columns=True,
        ),
    )
    made = derive(account)
    assert made is not None
    assert str(CreateTable(made).compile(dialect=PG)) == (
        "\nCREATE TABLE account_audit (\n"
        "\taudit_id BIGINT GENERATED ALWAYS AS IDENTITY, \n"
        "\taudit_operation VARCHAR(1) NOT NULL, \n"
        "\taudit_operation_timestamp TIMESTAMP WITH TIME ZONE NOT NULL, \n"
        "\taudit_transaction_id BIGINT NOT NULL, \n"
        "\taudit_current_user VARCHAR(64) NOT NULL, \n"
        "\taudit_changed_columns TEXT[], \n"
        "\taudit_username VARCHAR(40) NOT NULL, \n"
        "\taudit_request UUID, \n"
        "\tid BIGINT, \n"
        "\temail VARCHAR(80), \n"
        "\tparent BIGINT, \n"
        "\tactive BOOLEAN, \n"
        "\tsecret_sha256 BYTEA, \n"
        "\tPRIMARY KEY (audit_id)\n"
        ")\n\n"
    )
    [index] = made.indexes
    assert index.name == "account_audit_key_idx"
    assert [column.name for column in index.columns] == ["id", "audit_id"]
    assert made.comment == "history kept by alembic_audit"


def test_no_index_without_a_key() -> None:
    """A table without a primary key has no key to index its history by."""
    made = derive(sa.Table("log", sa.MetaData(), sa.Column("line", sa.Text), info=info()))
    assert made is not None
    assert not made.indexes


class Wrapped(sa.TypeDecorator[Any]):
    impl = sa.Enum("a", "b", name="letter")
    cache_ok = True


class Money(sa.TypeDecorator[Any]):
    impl = sa.Numeric(10, 2)
    cache_ok = True


LETTER = sa.Enum("a", "b", name="letter", schema="s")
EMAIL = postgresql.DOMAIN("email", sa.String(80), not_null=True, check="VALUE <> ''")


@pytest.mark.parametrize(
    ("declared", "standard", "classic"),
    [
        (LETTER, "TEXT", "s.letter"),
        (postgresql.ENUM("a", "b", name="letter"), "TEXT", "letter"),
        (Wrapped(), "TEXT", "letter"),
        (sa.Enum("a", "bcd", native_enum=False), "VARCHAR(3)", "VARCHAR(3)"),
        (EMAIL, "VARCHAR(80)", "VARCHAR(80)"),
        (postgresql.DOMAIN("d", LETTER), "TEXT", "s.letter"),
        (postgresql.DOMAIN("d", postgresql.DOMAIN("e", sa.Date)), "DATE", "DATE"),
        (sa.ARRAY(LETTER), "TEXT[]", "s.letter[]"),
        (postgresql.ARRAY(EMAIL), "VARCHAR(80)[]", "VARCHAR(80)[]"),
        (postgresql.DOMAIN("d", sa.ARRAY(LETTER)), "TEXT[]", "s.letter[]"),
        (sa.ARRAY(sa.Integer, dimensions=2), "INTEGER[][]", "INTEGER[][]"),
        (sa.Text().with_variant(LETTER, "postgresql"), "TEXT", "s.letter"),
        (LETTER.with_variant(sa.Text(), "sqlite"), "TEXT", "s.letter"),
        (sa.Boolean(create_constraint=True, name="ck"), "BOOLEAN", "BOOLEAN"),
        (Money(), "NUMERIC(10, 2)", "NUMERIC(10, 2)"),
        (sa.Interval(), "INTERVAL", "INTERVAL"),
        (sa.JSON(), "JSON", "JSON"),
        (postgresql.JSONB(), "JSONB", "JSONB"),
        # SQLAlchemy has it from 2.0.7 on.
        *([(postgresql.CITEXT(), "CITEXT", "CITEXT")] if hasattr(postgresql, "CITEXT") else []),
        (sa.DateTime(), "TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMP WITHOUT TIME ZONE"),
    ],
)
def test_storage_type(declared: Any, standard: str, classic: str) -> None:
    """A trail holds no type hostage: enums are TEXT (in classic themselves), domains their base."""
    for style, expected in (("standard", standard), ("classic", classic)):
        stored = storage_type(declared, style)
        assert stored.compile(dialect=PG) == expected


@pytest.mark.parametrize("style", ["standard", "classic"])
def test_types_bring_no_baggage(style: str) -> None:
    """An audit table brings no CHECK along and creates no type."""
    meta = sa.MetaData()
    account = table(
        sa.Column("letter", LETTER),
        sa.Column("plain", sa.Enum("a", native_enum=False, create_constraint=True, name="ck1")),
        sa.Column("flag", sa.Boolean(create_constraint=True, name="ck2")),
        meta=meta,
        info=info(audit_columns=style),
    )
    made = derive(account)
    assert made is not None
    assert not any(isinstance(c, sa.CheckConstraint) for c in made.constraints)
    sent: list[str] = []
    engine = sa.create_mock_engine(
        "postgresql+psycopg2://",
        lambda statement, *_, **__: sent.append(str(statement.compile(dialect=PG))),
    )
    made.create(engine, checkfirst=False)
    assert not any(re.search("CREATE TYPE|CHECK", statement) for statement in sent)
