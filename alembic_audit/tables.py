"""Source Table to audit Table, and the spec that belongs to them."""

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from alembic_audit import ddl, levels, naming, options, spec
from alembic_audit.errors import DeclarationError, SpecError
from alembic_audit.options import AuditOptions
from alembic_audit.sql.text import COMMENT

if TYPE_CHECKING:
    from typing_extensions import Unpack

SPEC_KEY = ddl.SPEC_KEY
IS_AUDITED_KEY = "audit.is_audited"
IS_AUDIT_TABLE_KEY = "audit.is_audit_table"
TARGET_KEY = ddl.TARGET_KEY
CREATE_KEY = "audit.create_ddl"
DROP_KEY = "audit.drop_ddl"
STOPPED_KEY = "audit.stopped"


class UnstorableTypeError(DeclarationError):
    """A type of which no trail can hold the values; the message lacks the column."""


_C = TypeVar("_C")
_AUDITED: "weakref.WeakSet[sa.MetaData]" = weakref.WeakSet()
_PG = postgresql.dialect()  # type: ignore[no-untyped-call]

_NUMBER, _OPERATION, _ROLE = sa.BigInteger(), sa.String(1), sa.String(64)
_TIMESTAMP = {standard: sa.DateTime(timezone=standard) for standard in (True, False)}


class _Column(NamedTuple):
    """What a column of an audit table is; deriving again compares it and makes none."""

    name: str
    kind: TypeEngine[Any]
    nullable: bool = True
    autoincrement: bool | Literal["auto"] = "auto"
    is_id: bool = False

    def make(self) -> sa.Column[Any]:
        """Return the column."""
        if self.is_id:
            return sa.Column(self.name, self.kind, sa.Identity(always=True), primary_key=True)
        return sa.Column(
            self.name, self.kind, nullable=self.nullable, autoincrement=self.autoincrement
        )


def audited(**given: "Unpack[options.Options]") -> Callable[[type[_C]], type[_C]]:
    """Mark a mapped class as audited; ``enabled=True`` is implied.

    Args:
        **given: The keys of ``audit.options``.

    Returns:
        A class decorator that puts the options into ``__table__.info``.

    Raises:
        DeclarationError: The class has no table of its own, or has options already.
    """

    def decorate(cls: type[_C]) -> type[_C]:
        table = vars(cls).get("__table__")
        if not isinstance(table, sa.Table):
            raise DeclarationError(
                f"@audited() on {getattr(cls, '__name__', cls)!r}, which has no table of its own; "
                "mark the class that has __tablename__"
            )
        audit_table(table, **given)
        return cls

    return decorate


def audit_table(table: sa.Table, **given: "Unpack[options.Options]") -> sa.Table:
    """Mark a Table as audited; ``enabled=True`` is implied.

    Args:
        table: The table to audit.
        **given: The keys of ``audit.options``.

    Returns:
        The audit Table, in the same MetaData.

    Raises:
        DeclarationError: The options are wrong, or the table has some already.
    """
    if options.OPTIONS_KEY in table.info:
        raise DeclarationError(
            f"table {table.fullname!r} has {options.OPTIONS_KEY!r} already; declare them once"
        )
    before = table.info
    table.info = {**before, options.OPTIONS_KEY: {"enabled": True, **given}}
    try:
        made = derive(table)
    except Exception:
        table.info = before
        raise
    if made is None:
        raise DeclarationError(
            f"audit_table({table.fullname!r}, enabled=False) audits nothing; write the options "
            f"into Table.info[{options.OPTIONS_KEY!r}] to refuse an audit with a reason"
        )
    return made


def audited_metadata() -> list[sa.MetaData]:
    """Every MetaData of this process with an audit table that was derived."""
    return list(_AUDITED)


def derive(table: sa.Table, *, has_children: bool = False) -> sa.Table | None:
    """Return the audit Table of *table*, made or brought up to date; None where none is asked for.

    Called again it does nothing where nothing changed, so that late columns and foreign-key columns
    whose type was not known are found.

    Args:
        table: The table to audit.
        has_children: Other tables inherit it.

    Raises:
        DeclarationError: What is asked for cannot be audited as written.
    """
    if _is_audit_table(table):
        if options.OPTIONS_KEY in table.info:
            raise DeclarationError(
                f"table {table.fullname!r} is an audit table and cannot be audited itself; "
                f"remove {options.OPTIONS_KEY!r} from it"
            )
        return None
    wanted = options.read(table)
    if wanted is None:
        return None
    made = make_spec(table, wanted, has_children=has_children)
    columns = _columns(table, wanted, made)
    indexes = _indexes(table, wanted, made, {column.name for column in columns})
    key = f"{made.audit_schema}.{made.audit_table}" if made.audit_schema else made.audit_table
    existing = table.metadata.tables.get(key)
    if existing is not None:
        target = _target(existing)
        if target is table and _same_columns(list(existing.columns), columns):
            if not table.info.get(SPEC_KEY) == existing.info.get(SPEC_KEY) == made:
                _mark(table, existing, made)
            return existing
        if target is not table and (target is not None or not _is_audit_table(existing)):
            owner = f"the audit table of {target.fullname!r}" if target is not None else "a table"
            raise DeclarationError(
                f"the audit table of {table.fullname!r} would be {key!r}, which is {owner} "
                "already; give one of them another schema_name, or write a naming convention "
                "'audit.table' that tells them apart"
            )
        table.metadata.remove(existing)
    _forget_former(table)
    audit = sa.Table(
        made.audit_table,
        table.metadata,
        *(column.make() for column in columns),
        schema=made.audit_schema,
        comment=COMMENT,
        info={IS_AUDIT_TABLE_KEY: True, TARGET_KEY: table},
    )
    for name, indexed in indexes.items():
        sa.Index(name, *(audit.c[column] for column in indexed))
    _mark(table, audit, made)
    ddl.attach(table.metadata)
    return audit


def derive_stopped(table: sa.Table) -> sa.Table | None:
    """Return what the audit Table of a table was that says ``enabled=False``, in no MetaData of it.

    Raises:
        DeclarationError: The options that the audit had are wrong.
    """
    own = table.info.get(options.OPTIONS_KEY)
    if not isinstance(own, Mapping) or own.get("enabled", True):
        return None
    kept: tuple[int, sa.Table] | None = table.info.get(STOPPED_KEY)
    if kept is not None and kept[0] == len(table.columns):
        return kept[1]
    apart = sa.MetaData(naming_convention=table.metadata.naming_convention)
    if options.DEFAULTS_KEY in table.metadata.info:
        apart.info[options.DEFAULTS_KEY] = table.metadata.info[options.DEFAULTS_KEY]
    twin = sa.Table(
        table.name,
        apart,
        *(
            sa.Column(column.name, column.type, primary_key=column.primary_key, info=column.info)
            for column in table.columns
        ),
        schema=table.schema,
    )
    asked = {name: value for name, value in own.items() if name != "reason"}
    audit = audit_table(twin, **{**asked, "enabled": True})
    table.info = {**table.info, STOPPED_KEY: (len(table.columns), audit)}
    return audit


def _forget_former(table: sa.Table) -> None:
    """Remove the audit Table that was made under another name, before the declaration changed."""
    former: spec.AuditSpec | None = table.info.get(SPEC_KEY)
    if former is None:
        return
    key = ".".join(filter(None, [former.audit_schema, former.audit_table]))
    audit = table.metadata.tables.get(key)
    if audit is not None and _target(audit) is table:
        table.metadata.remove(audit)


def _indexes(
    table: sa.Table, wanted: AuditOptions, made: spec.AuditSpec, known: Collection[str]
) -> dict[str, Sequence[str]]:
    """Return the indexes of an audit table: name to columns."""
    if wanted.indexes is None:
        if made.audit_columns != "standard" or not made.key:
            return {}
        # An index has at most 32 columns (INDEX_MAX_KEYS), and so has a key.
        return {spec.key_index(made): [*made.key, "audit_id"][:32]}
    for columns in wanted.indexes:
        if unknown := [name for name in columns if name not in known]:
            raise DeclarationError(
                f"indexes of table {table.fullname!r} names {unknown}, which its audit table does "
                f"not have: it has {sorted(known)}"
            )
    return {spec.index_name(made, columns): columns for columns in wanted.indexes}


def _is_audit_table(table: sa.Table) -> bool:
    """Return whether a Table is an audit table: made here, or reflected."""
    return bool(table.info.get(IS_AUDIT_TABLE_KEY)) or table.comment == COMMENT


def _target(audit: sa.Table) -> sa.Table | None:
    """Return the source of an audit table; None for one that was reflected, or is a copy."""
    target = audit.info.get(TARGET_KEY)
    if isinstance(target, sa.Table) and audit.metadata.tables.get(target.key) is target:
        return target
    return None


def _same_columns(olds: Sequence[sa.Column[Any]], news: Sequence[_Column]) -> bool:
    """Return whether a Table has the columns that it would be given."""
    return len(olds) == len(news) and all(
        old.name == new.name
        and old.nullable == new.nullable
        # Most types are those of the source's columns themselves, and repr() takes long.
        and (old.type is new.kind or repr(old.type) == repr(new.kind))
        for old, new in zip(olds, news, strict=True)
    )


def derive_all(metadata: sa.MetaData) -> list[spec.AuditSpec]:
    """Derive every audit Table of a MetaData; return the specs, sorted by audited table.

    Raises:
        DeclarationError: A declaration is wrong, or two of them collide.
    """
    specs = []
    parents = inherited(metadata)
    for table in list(metadata.tables.values()):
        if derive(table, has_children=bool(parents & {table.name, table.fullname})) is not None:
            specs.append(table.info[SPEC_KEY])
    specs.sort(key=lambda one: (one.schema or "", one.table))
    refuse_shared(specs, None)
    return specs


def refuse_shared(specs: Iterable[spec.AuditSpec], default_schema: str | None) -> None:
    """See that no two specs audit one table, or use one audit table or function.

    Args:
        specs: Of one MetaData or of several.
        default_schema: What a schema of None means, or None where that is not known.

    Raises:
        DeclarationError: Two do.
    """
    known: dict[tuple[str, str | None, str], spec.AuditSpec] = {}
    for one in specs:
        source = one.schema or default_schema
        audit = one.audit_schema or default_schema
        for what, schema, name, remedy in (
            ("audited table", source, one.table, "declare it once, under one MetaData"),
            ("audit table", audit, one.audit_table, _convention("audit.table")),
            ("audit function", audit, one.function, _convention("audit.function")),
        ):
            other = known.setdefault((what, schema, name), one)
            if other is not one:
                pair = " and ".join(
                    repr(f"{each.schema}.{each.table}" if each.schema else each.table)
                    for each in (other, one)
                )
                raise DeclarationError(f"the {what}s of {pair} would both be {name!r}; {remedy}")


def _convention(key: str) -> str:
    return f"write a naming convention {key!r} that tells them apart"


def make_spec(
    table: sa.Table, wanted: AuditOptions, *, has_children: bool = False
) -> spec.AuditSpec:
    """Return the spec of a table and its options.

    Args:
        table: The table to audit.
        wanted: Its options.
        has_children: Other tables inherit it.

    Raises:
        DeclarationError: Names collide, a key column is not stored, or the table is temporary.
    """
    _refuse_temporary(table)
    stored = _stored_columns(table, wanted)
    audit_schema = wanted.schema_name or table.schema
    convention = table.metadata.naming_convention
    names = {
        key: naming.conventional(
            convention,
            f"audit.{key}",
            table_name=table.name,
            schema=audit_schema,
            source_schema=table.schema,
        )
        for key in ("table", "function", "trigger")
    }
    try:
        settings = {naming.check_setting(column.name): column for column in wanted.session_settings}
        return spec.AuditSpec.from_kwargs(
            table.name,
            schema=table.schema,
            audit_table=names["table"],
            audit_schema=audit_schema,
            function=names["function"],
            trigger=names["trigger"],
            key=[column.name for column in table.primary_key.columns],
            columns=[name for name in stored if name not in wanted.hash_columns],
            hash_columns=[name for name in stored if name in wanted.hash_columns],
            ignore_columns=[name for name in stored if name in wanted.ignore_columns],
            session_settings={
                name: "nullable" if column.nullable else "required"
                for name, column in settings.items()
            },
            setting_columns={name: _setting_column(table, wanted, name) for name in settings},
            operations=wanted.operations,
            audit_columns=wanted.audit_columns,
            skip_unchanged=wanted.skip_unchanged,
            changed_columns=wanted.changed_columns,
            always=wanted.always,
            owner=wanted.owner,
            partitions=wanted.partitions,
            append_only=wanted.append_only,
            sparse_columns=[name for name in stored if name in wanted.sparse_columns],
            level=_level(table, wanted, has_children=has_children),
            as_text=_as_text(table, stored, wanted),
            version=spec.CURRENT_VERSION,
        )
    except SpecError as error:
        raise DeclarationError(f"table {table.fullname!r} cannot be audited: {error}") from error


def _level(table: sa.Table, wanted: AuditOptions, *, has_children: bool) -> str | dict[str, str]:
    """The level that was asked for, or that ``auto`` comes to, as the argument of an operation.

    It is decided from the declaration alone, so that it is the same in every database.
    """
    key = table.primary_key
    if str(key.initially).upper() == "DEFERRED":
        raise SpecError(
            "its primary key is INITIALLY DEFERRED, so that two rows can have one key until the "
            "COMMIT, and a record does not say which of them it is of; write initially='IMMEDIATE' "
            "in its PrimaryKeyConstraint, where one UPDATE can still exchange keys"
        )
    needed = levels.needed_by_foreign_keys(wanted, key.columns.keys(), _foreign_keys(table))
    needed |= levels.needed_by_options(wanted, key.columns.keys())
    if reason := _rows_needed(table, has_children=has_children):
        needed |= dict.fromkeys(levels.OF_ROWS, reason)
    rows = {name for name in levels.OF_ROWS if name in wanted.operations and name in needed}
    for name in levels.OF_ROWS:
        asked = (
            wanted.level.get(name, "auto") if isinstance(wanted.level, Mapping) else wanted.level
        )
        if name not in wanted.operations:
            continue
        if asked == "row":
            rows.add(name)
        elif asked == "statement" and name in rows:
            line = levels.as_argument(rows, wanted.operations)
            raise SpecError(
                f"level 'statement' of {name} does not go with {needed[name]}; "
                f"write level={line!r} or 'auto'"
            )
    if key.deferrable and "update" in rows:
        reason = needed.get("update")
        raise SpecError(
            "its primary key is DEFERRABLE, so that two rows can change places in one UPDATE, "
            "and the records of a row trigger could not be replayed; "
            + (f"leave out {reason}" if reason else "write level 'statement'")
            + ", or make the key NOT DEFERRABLE"
        )
    return levels.as_argument(rows, wanted.operations)


def _foreign_keys(table: sa.Table) -> list[levels.ForeignKey]:
    return [
        levels.ForeignKey.of(
            ", ".join(column.name for column in one.columns),
            [column.name for column in one.columns],
            one.ondelete,
            one.onupdate,
        )
        for one in table.foreign_key_constraints
    ]


def _rows_needed(table: sa.Table, *, has_children: bool) -> str | None:
    """What of a Table statement triggers cannot do, or would record in a wrong order."""
    postgres = table.dialect_options["postgresql"]
    if postgres["partition_by"]:
        return "a partitioned table"
    if postgres["inherits"] or has_children:
        return "inheritance"
    return "a foreign table" if "FOREIGN" in _prefixes(table) else None


def inherited(metadata: sa.MetaData) -> set[str]:
    """Return the names of the tables that others inherit, by ``postgresql_inherits``."""
    found: set[str] = set()
    for table in metadata.tables.values():
        names = table.dialect_options["postgresql"]["inherits"] or ()
        found.update([names] if isinstance(names, str) else names)
    return found


def _prefixes(table: sa.Table) -> list[str]:
    return " ".join(map(str, table._prefixes)).upper().split()


def _refuse_temporary(table: sa.Table) -> None:
    if {"TEMP", "TEMPORARY"} & set(_prefixes(table)):
        raise DeclarationError(
            f"table {table.fullname!r} is temporary: it is gone with the session that made it, and "
            "no migration can put a trigger on it; leave it out of the audit"
        )


def _setting_column(table: sa.Table, wanted: AuditOptions, name: str) -> str:
    convention = table.metadata.naming_convention.get("audit.setting")
    if convention is None:
        return spec.setting_column(name, wanted.audit_columns)
    try:
        return naming.shorten(str(convention) % {"setting": name})
    except (KeyError, ValueError, TypeError) as error:
        raise DeclarationError(
            f"naming convention 'audit.setting' is {convention!r}, which cannot be used: {error}; "
            "write a format of %(setting)s"
        ) from error


def _stored_columns(table: sa.Table, wanted: AuditOptions) -> list[str]:
    names = []
    for column in table.columns:
        if column.system or column.name in wanted.exclude_columns:
            continue
        if wanted.include_columns is not None and column.name not in wanted.include_columns:
            continue
        if column.computed is not None:
            if column.computed.persisted is None:
                raise DeclarationError(
                    f"column {column.name!r} of {table.fullname!r} is Computed without persisted=, "
                    "which PostgreSQL 18 reads otherwise than 17; write persisted=True or False"
                )
            if not column.computed.persisted:
                continue
        names.append(column.name)
    return names


def _as_text(table: sa.Table, stored: Collection[str], wanted: AuditOptions) -> dict[str, str]:
    """Return the columns that the function stores by their text, as the spec has them."""
    found = {}
    for column in table.columns:
        if column.name in stored and column.name not in wanted.hash_columns:
            with _named(table, column):
                kind = text_type(_type_of(table, column), wanted.audit_columns)
            if kind is not None:
                found[column.name] = kind
    return found


@contextlib.contextmanager
def _named(table: sa.Table, column: sa.Column[Any]) -> Iterator[None]:
    """Name the column in the error of a type."""
    try:
        yield
    except UnstorableTypeError as error:
        raise DeclarationError(f"column {column.name!r} of {table.fullname!r}: {error}") from error


def _columns(table: sa.Table, wanted: AuditOptions, made: spec.AuditSpec) -> list[_Column]:
    columns = _own_columns(made)
    required = {setting.name: setting for setting in made.session_settings}
    for declared in wanted.session_settings:
        setting = required[naming.check_setting(declared.name)]
        kind = storage_type(declared.type, made.audit_columns)
        columns.append(_Column(setting.column, kind, nullable=not setting.required))
    for column in table.columns:
        if column.name in made.columns:
            with _named(table, column):
                kind = storage_type(_type_of(table, column), made.audit_columns)
            columns.append(_Column(column.name, kind, autoincrement=False))
        elif column.name in made.hash_columns:
            with _named(table, column):
                _refuse_to_hash(_type_of(table, column))
            columns.append(_Column(spec.hash_column(column.name), sa.LargeBinary()))
    return columns


def _own_columns(made: spec.AuditSpec) -> list[_Column]:
    standard = made.audit_columns == "standard"
    columns = [
        _Column("audit_operation", _OPERATION, nullable=False),
        _Column("audit_operation_timestamp", _TIMESTAMP[standard], nullable=False),
    ]
    if standard:
        columns = [
            _Column("audit_id", _NUMBER, nullable=False, is_id=True),
            *columns,
            _Column("audit_transaction_id", _NUMBER, nullable=False),
            _Column("audit_current_user", _ROLE, nullable=False),
        ]
    for wanted, name in (
        (made.changed_columns, spec.CHANGED_COLUMNS),
        (made.sparse_columns, spec.OMITTED_COLUMNS),
    ):
        if wanted:
            columns.append(_Column(name, postgresql.ARRAY(sa.Text())))
    return columns


def _type_of(table: sa.Table, column: sa.Column[Any]) -> TypeEngine[Any]:
    """Return the type of a column, that of the column it refers to where it has none itself."""
    if not isinstance(column.type, sa.types.NullType):
        return column.type
    for foreign_key in column.foreign_keys:
        try:
            return _type_of(table, foreign_key.column)
        except sa.exc.InvalidRequestError:
            # The other table is declared later; deriving is repeated at autogenerate time.
            return column.type
    raise DeclarationError(
        f"column {column.name!r} of {table.fullname!r} has no type, so its history cannot be "
        "stored; give it one, or exclude it"
    )


_STORED_OTHERWISE = (
    sa.types.TypeDecorator,
    postgresql.DOMAIN,
    sa.Boolean,
    sa.ARRAY,
    sa.String,  # sa.Enum is one
)
"""The types of which `storage_type` may return another one."""


def storage_type(declared: TypeEngine[Any], style: str) -> TypeEngine[Any]:
    """Return the type in which an audit table stores values of a declared type.

    A trail must not change when an enum label is renamed, nor hold a type hostage: a domain becomes
    its base type, a native enum TEXT (in ``classic`` itself), both inside arrays too. Collations,
    and CHECK constraints that a type brings along, are left behind.

    Raises:
        UnstorableTypeError: No type can hold the values but the declared one.
    """
    variant = declared._variant_mapping.get("postgresql", declared)
    if not isinstance(variant, _STORED_OTHERWISE):
        return variant
    if isinstance(variant, sa.types.TypeDecorator) and not isinstance(variant, sa.Interval):
        inner = variant.load_dialect_impl(_PG)
        stored = storage_type(inner, style)
        # The decorator stays, for those who map the audit table, where there is nothing to change.
        unchanged = stored is inner._variant_mapping.get("postgresql", inner)
        return variant if unchanged else stored
    if isinstance(variant, postgresql.DOMAIN):
        return storage_type(variant.data_type, style)
    if isinstance(variant, sa.Enum):
        return _storage_of_enum(variant, style)
    if isinstance(variant, sa.Boolean):
        return sa.Boolean() if variant.create_constraint else variant
    if isinstance(variant, sa.ARRAY):
        item = storage_type(variant.item_type, style)
        if isinstance(item, sa.ARRAY):
            raise UnstorableTypeError(
                "an array of a domain that is an array itself has no base type; exclude it"
            )
        return postgresql.ARRAY(item, as_tuple=variant.as_tuple, dimensions=variant.dimensions)
    if isinstance(variant, sa.String) and variant.collation is not None:
        plain = variant.copy()
        plain.collation = None
        return plain
    return variant


def text_type(declared: TypeEngine[Any], style: str) -> str | None:
    """Return the type that the function makes of the text of a value; None where it needs none.

    An enum and an array of enums or domains would go into the type that stores them by a cast, and
    the owner of the enum or domain may create one. Their text needs none.

    Raises:
        UnstorableTypeError: The text of an array depends on the session.
    """
    plain = _plain(declared)
    if isinstance(plain, sa.Enum):
        return "text" if _is_native_enum(plain) and style == "standard" else None
    if not isinstance(plain, sa.ARRAY):
        return None
    item, whole = plain.item_type, storage_type(plain, style)
    if text_type(item, style) == "text":
        return "text[]"
    if not _is_domain(item):
        return None
    stored = str(whole.compile(dialect=_PG)).partition("(")[0].removesuffix("[]")
    if stored not in _TEXT_ARRAYS:
        raise UnstorableTypeError(
            f"an array of a domain over {stored} would be stored through a cast that the domain's "
            "owner may replace; make it an array of the base type, or exclude it"
        )
    return _TEXT_ARRAYS[stored]


_TEXT_ARRAYS = {
    "TEXT": "text[]",
    "VARCHAR": "varchar[]",
    "CHAR": "bpchar[]",
    "BOOLEAN": "bool[]",
    "SMALLINT": "int2[]",
    "INTEGER": "int4[]",
    "BIGINT": "int8[]",
    "NUMERIC": "numeric[]",
    "UUID": "uuid[]",
}
"""Array types of `spec.TEXT_TYPES`, by what SQLAlchemy calls their elements."""


def _refuse_to_hash(declared: TypeEngine[Any]) -> None:
    """See that the hash of a value is the same in every database, as far as the model tells.

    Raises:
        UnstorableTypeError: It is not. What the model does not tell, the migration finds.
    """
    plain = _plain(declared)
    is_number = isinstance(plain, (postgresql.REGCLASS, postgresql.REGCONFIG))
    if is_number or (
        isinstance(plain, sa.ARRAY)
        and (_is_domain(plain.item_type) or _is_native_enum(_plain(plain.item_type)))
    ):
        raise UnstorableTypeError(
            "the binary form of its type holds a number that is another one in each database, "
            "and so would the hash; store the column, or exclude it"
        )


def _is_native_enum(plain: TypeEngine[Any]) -> bool:
    return isinstance(plain, sa.Enum) and plain.native_enum


def _plain(declared: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return what a type is in PostgreSQL, without decorators and domains."""
    variant = declared._variant_mapping.get("postgresql", declared)
    if isinstance(variant, sa.types.TypeDecorator) and not isinstance(variant, sa.Interval):
        return _plain(variant.load_dialect_impl(_PG))
    return _plain(variant.data_type) if isinstance(variant, postgresql.DOMAIN) else variant


def _is_domain(declared: TypeEngine[Any]) -> bool:
    variant = declared._variant_mapping.get("postgresql", declared)
    if isinstance(variant, sa.types.TypeDecorator) and not isinstance(variant, sa.Interval):
        return _is_domain(variant.load_dialect_impl(_PG))
    return isinstance(variant, postgresql.DOMAIN)


def _storage_of_enum(declared: sa.Enum, style: str) -> TypeEngine[Any]:
    if not declared.native_enum:
        return sa.String(declared.length)
    if style == "classic":
        return postgresql.ENUM(
            *declared.enums, name=declared.name, schema=declared.schema, create_type=False
        )
    return sa.Text()


def _mark(table: sa.Table, audit: sa.Table, made: spec.AuditSpec) -> None:
    """Write our keys into the info of both tables.

    ``Table(info=d).info is d``, and one dict may serve two tables: copy, then write.
    """
    _AUDITED.add(table.metadata)
    create, drop = ddl.create_and_drop_text(made)
    shared = {CREATE_KEY: create, DROP_KEY: drop, SPEC_KEY: made}
    table.info = {**table.info, IS_AUDITED_KEY: True, **shared}
    audit.info = {**audit.info, IS_AUDIT_TABLE_KEY: True, TARGET_KEY: table, **shared}
