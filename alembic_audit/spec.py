"""AuditSpec: everything that one audit trigger does, as one frozen value.

The same type comes out of a declaration and out of the database, so equality is the diff.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alembic_audit import levels, naming
from alembic_audit.errors import SpecError

HEADER = "-- alembic_audit: "
"""What the first line of every generated function body begins with; JSON of the spec follows."""

OPERATIONS = ("insert", "update", "delete", "truncate")
STYLES = ("standard", "classic")
CURRENT_VERSION = 1
"""The newest version of the SQL templates in ``alembic_audit.sql``; what a declaration gets."""

OWN_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "standard": (
        "audit_id",
        "audit_operation",
        "audit_operation_timestamp",
        "audit_transaction_id",
        "audit_current_user",
    ),
    "classic": ("audit_operation", "audit_operation_timestamp"),
}
CHANGED_COLUMNS = "audit_changed_columns"
OMITTED_COLUMNS = "audit_omitted_columns"


TEXT_TYPES = (
    "text",
    *(
        f"{name}[]"
        for name in (
            "text",
            "varchar",
            "bpchar",
            "bool",
            "int2",
            "int4",
            "int8",
            "numeric",
            "uuid",
        )
    ),
)
"""What ``as_text`` may say: an enum becomes text; an array, by its text, one of a built-in type.

The text of these types is the same in every session, so that nothing is lost on the way.
"""


class NewerSpecError(SpecError):
    """A header that a newer version of this package wrote: the object must be left alone."""


def hash_column(column: str) -> str:
    """Return the name of the audit column that holds the hash of *column*."""
    return naming.shorten(f"{column}_sha256")


def key_index(spec: "AuditSpec") -> str:
    """Return the name of the index on the key columns and ``audit_id``."""
    return naming.shorten(f"{spec.audit_table}_key_idx")


def index_name(spec: "AuditSpec", columns: Iterable[str]) -> str:
    """Return the name of an index on columns of an audit table."""
    columns = tuple(columns)
    if columns == (*spec.key, "audit_id"):
        return key_index(spec)
    return naming.shorten(f"{spec.audit_table}_{'_'.join(columns)}_idx")


def setting_column(name: str, style: str) -> str:
    """Return the default name of the audit column of a setting."""
    return name if style == "classic" else naming.shorten(f"audit_{name}")


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """A session setting ``audit.<name>``, the column it is recorded in, and whether it must be."""

    name: str
    column: str
    required: bool = False


@dataclasses.dataclass(frozen=True)
class AuditSpec:
    """What one audited table records, and under which names.

    A schema of None is the default schema of the connection that runs the migration.
    """

    table: str
    schema: str | None
    audit_table: str
    audit_schema: str | None
    function: str
    trigger: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    hash_columns: tuple[str, ...] = ()
    ignore_columns: tuple[str, ...] = ()
    session_settings: tuple[Setting, ...] = ()
    operations: tuple[str, ...] = OPERATIONS
    audit_columns: str = "standard"
    skip_unchanged: bool = False
    changed_columns: bool = False
    always: bool = False
    owner: str | None = None
    partitions: tuple[str, ...] = ()
    append_only: bool = False
    row_level: tuple[str, ...] = levels.OF_ROWS
    sparse_columns: tuple[str, ...] = ()
    as_text: tuple[tuple[str, str], ...] = ()
    version: int = 1

    @property
    def identity(self) -> tuple[str | None, str]:
        """Schema and name of the audited table."""
        return (self.schema, self.table)

    @property
    def stored(self) -> tuple[str, ...]:
        """The source columns of which anything is stored, hashed ones included."""
        return self.columns + self.hash_columns

    @property
    def watched(self) -> tuple[str, ...]:
        """The source columns whose change makes an UPDATE worth recording."""
        return tuple(name for name in self.stored if name not in self.ignore_columns)

    @property
    def statement_level(self) -> tuple[str, ...]:
        """The operations that statement triggers record, without TRUNCATE."""
        recorded = (name for name in levels.OF_ROWS if name in self.operations)
        return tuple(name for name in recorded if name not in self.row_level)

    @property
    def truncate_trigger(self) -> str:
        """The name of the triggers for TRUNCATE, on the table and on its partitions."""
        return naming.shorten(f"{self.trigger}_truncate")

    @property
    def guard_triggers(self) -> dict[str, str]:
        """The triggers on the audit table that make it append-only: level to name.

        One for statements, TRUNCATE included, and one for rows: a write through an inheritance
        parent, and one that a subscription applies, fire that alone.
        """
        if not self.append_only:
            return {}
        return {
            "statement": naming.shorten(f"{self.trigger}_append_only"),
            "row": naming.shorten(f"{self.trigger}_append_only_row"),
        }

    @property
    def audit_column_names(self) -> tuple[str, ...]:
        """Every column of the audit table that the function writes or that we number."""
        own = OWN_COLUMNS[self.audit_columns]
        return (
            *own,
            *((CHANGED_COLUMNS,) if self.changed_columns else ()),
            *((OMITTED_COLUMNS,) if self.sparse_columns else ()),
            *(setting.column for setting in self.session_settings),
            *self.columns,
            *(hash_column(name) for name in self.hash_columns),
        )

    @property
    def trigger_names(self) -> dict[str, str]:
        """The triggers this spec has: kind to name.

        One ``row`` for all operations at row level; one for each operation at statement level, and
        with ``update`` one ``key`` for the rows of an UPDATE that change their key; ``truncate``.
        """
        names = {"row": naming.shorten(self.trigger)} if self.row_level else {}
        names |= {name: naming.shorten(f"{self.trigger}_{name}") for name in self.statement_level}
        if "update" in self.statement_level:
            names["key"] = naming.shorten(f"{self.trigger}_key")
        if "truncate" in self.operations:
            names["truncate"] = self.truncate_trigger
        return names

    def without(self, columns: Iterable[str]) -> "AuditSpec":
        """Return the spec without some source columns; the same if none would be left."""
        gone = set(columns)

        def left(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names if name not in gone)

        if not set(self.watched) - gone:
            return self
        return dataclasses.replace(
            self,
            key=left(self.key),
            columns=left(self.columns),
            hash_columns=left(self.hash_columns),
            ignore_columns=left(self.ignore_columns),
            sparse_columns=left(self.sparse_columns),
            as_text=tuple(pair for pair in self.as_text if pair[0] not in gone),
        )

    def with_renamed(self, column: str, renamed: str) -> "AuditSpec":
        """The spec with another name for a source column."""

        def names(before: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(renamed if one == column else one for one in before)

        return dataclasses.replace(
            self,
            key=names(self.key),
            columns=names(self.columns),
            hash_columns=names(self.hash_columns),
            ignore_columns=names(self.ignore_columns),
            sparse_columns=names(self.sparse_columns),
            as_text=tuple(
                sorted((renamed if name == column else name, kind) for name, kind in self.as_text)
            ),
        )

    def unordered(self) -> "AuditSpec":
        """Return the spec without the order of its columns, which means nothing in a database."""
        return dataclasses.replace(
            self,
            key=tuple(sorted(self.key)),
            columns=tuple(sorted(self.columns)),
            hash_columns=tuple(sorted(self.hash_columns)),
            ignore_columns=tuple(sorted(self.ignore_columns)),
            sparse_columns=tuple(sorted(self.sparse_columns)),
        )

    # -- literal keyword arguments, as they stand in a migration ---------------------------------

    @classmethod
    def from_kwargs(
        cls,
        table: str,
        *,
        schema: str | None = None,
        audit_table: str | None = None,
        audit_schema: str | None = None,
        function: str | None = None,
        trigger: str | None = None,
        key: Iterable[str] = (),
        columns: Iterable[str] = (),
        hash_columns: Iterable[str] = (),
        ignore_columns: Iterable[str] = (),
        session_settings: Mapping[str, str] | None = None,
        setting_columns: Mapping[str, str] | None = None,
        operations: Iterable[str] = OPERATIONS,
        audit_columns: str = "standard",
        skip_unchanged: bool = False,
        changed_columns: bool = False,
        always: bool = False,
        owner: str | None = None,
        partitions: Iterable[str] = (),
        append_only: bool = False,
        level: str | Mapping[str, str] = "row",
        sparse_columns: Iterable[str] = (),
        as_text: Mapping[str, str] | None = None,
        version: int = 1,
    ) -> "AuditSpec":
        """Return the spec that the arguments of ``op.create_audit_trigger`` describe.

        The default of *version* stays 1 for ever: a migration that was written without it goes on
        writing what it wrote.

        Raises:
            SpecError: They describe none; the message names the argument.
        """
        audit_schema = schema if audit_schema is None else audit_schema
        style = _one_of("audit_columns", audit_columns, STYLES)
        names = setting_columns or {}
        # Sorted: their order means nothing to the function, and JSON would not keep it.
        settings = tuple(
            sorted(
                Setting(
                    naming.check_setting(name),
                    names.get(name) or setting_column(naming.check_setting(name), style),
                    _one_of(f"session_settings[{name!r}]", need, ("required", "nullable"))
                    == "required",
                )
                for name, need in (session_settings or {}).items()
            )
        )
        if stray := sorted(set(names) - set(session_settings or {})):
            raise SpecError(f"setting_columns names {stray}, which session_settings does not have")

        recorded = tuple(
            sorted(
                {_one_of("operations", name, OPERATIONS) for name in operations},
                key=OPERATIONS.index,
            )
        )
        default = functools.partial(_default_name, table, audit_schema, schema)
        spec = cls(
            table=naming.check_identifier(table, "the audited table"),
            schema=schema,
            audit_table=audit_table or default("audit.table"),
            audit_schema=audit_schema,
            function=function or default("audit.function"),
            trigger=trigger or default("audit.trigger"),
            key=_names("key", key),
            columns=_names("columns", columns),
            hash_columns=_names("hash_columns", hash_columns),
            ignore_columns=_names("ignore_columns", ignore_columns),
            session_settings=settings,
            operations=recorded,
            audit_columns=style,
            skip_unchanged=bool(skip_unchanged),
            changed_columns=bool(changed_columns),
            always=bool(always),
            owner=owner,
            partitions=tuple(sorted(_names("partitions", partitions))),
            append_only=bool(append_only),
            row_level=levels.rows_of(level, recorded),
            sparse_columns=_names("sparse_columns", sparse_columns),
            as_text=tuple(
                (name, _one_of(f"as_text[{name!r}]", kind, TEXT_TYPES))
                for name, kind in sorted((as_text or {}).items())
            ),
            version=version,
        )
        spec._check()
        return spec

    def full_kwargs(self) -> dict[str, Any]:
        """Return every argument beside ``table`` that ``from_kwargs`` makes this spec of."""
        return {
            "schema": self.schema,
            "audit_table": self.audit_table,
            "audit_schema": self.audit_schema,
            "function": self.function,
            "trigger": self.trigger,
            "key": list(self.key),
            "columns": list(self.columns),
            "hash_columns": list(self.hash_columns),
            "ignore_columns": list(self.ignore_columns),
            "session_settings": {
                setting.name: "required" if setting.required else "nullable"
                for setting in self.session_settings
            },
            "setting_columns": {
                setting.name: setting.column
                for setting in self.session_settings
                if setting.column != setting_column(setting.name, self.audit_columns)
            },
            "operations": list(self.operations),
            "audit_columns": self.audit_columns,
            "skip_unchanged": self.skip_unchanged,
            "changed_columns": self.changed_columns,
            "always": self.always,
            "owner": self.owner,
            "partitions": list(self.partitions),
            "append_only": self.append_only,
            "level": levels.as_argument(self.row_level, self.operations),
            "sparse_columns": list(self.sparse_columns),
            "as_text": dict(self.as_text),
            "version": self.version,
        }

    def to_kwargs(self) -> dict[str, Any]:
        """Return ``full_kwargs`` without what equals its default.

        What a reader of a migration wants to see always stands there: audit table, key, columns,
        operations, level and version.
        """
        always = {"audit_table", "key", "columns", "operations", "level", "version"}
        schema = self.schema if self.audit_schema is None else self.audit_schema
        default = functools.partial(_default_name, self.table, schema, self.schema)
        defaults = {
            "schema": None,
            "audit_schema": self.schema,
            "function": default("audit.function"),
            "trigger": default("audit.trigger"),
            "audit_columns": "standard",
        }
        return {
            name: value
            for name, value in self.full_kwargs().items()
            if name in always or (value != defaults[name] if name in defaults else value)
        }

    # -- JSON, as it stands in the header of the function ----------------------------------------

    def to_json(self) -> str:
        """Return the spec as one line of sorted ASCII JSON."""
        return json.dumps(
            {"table": self.table, **self.to_kwargs()}, sort_keys=True, separators=(",", ":")
        )

    @classmethod
    def from_body(cls, body: str) -> "AuditSpec | None":
        """Return the spec in the header of a function body; None where there is no header.

        Raises:
            NewerSpecError: The header has a version or an argument that is not known here.
        """
        first, _, _ = body.partition("\n")
        if not first.startswith(HEADER):
            return None
        try:
            kwargs = json.loads(first.removeprefix(HEADER))
            if kwargs["version"] > CURRENT_VERSION:
                raise NewerSpecError(f"template version {kwargs['version']} is newer than this one")
            return cls.from_kwargs(**kwargs) if kwargs["version"] >= 1 else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, NewerSpecError) or (
                isinstance(error, TypeError) and "unexpected keyword" in str(error)
            ):
                raise NewerSpecError(str(error)) from error
            return None

    def _check(self) -> None:
        for what, name in (
            ("schema", self.schema),
            ("audit_table", self.audit_table),
            ("audit_schema", self.audit_schema),
            ("function", self.function),
            ("trigger", self.trigger),
            ("owner", self.owner),
            *(("setting_columns", setting.column) for setting in self.session_settings),
        ):
            if name is not None:
                naming.check_identifier(name, what)
        if len({setting.name for setting in self.session_settings}) < len(self.session_settings):
            raise SpecError(
                f"session_settings of {self.table!r} names a setting twice; they are lower-cased"
            )
        if not self.stored:
            raise SpecError(
                f"no column of {self.table!r} would be recorded; write columns=[...] with at "
                "least one column"
            )
        if not self.operations:
            raise SpecError(f"operations of {self.table!r} is empty; name at least one operation")
        if both := sorted(set(self.columns) & set(self.hash_columns)):
            raise SpecError(f"{both} of {self.table!r} stand in columns and in hash_columns")
        if missing := [name for name in self.key if name not in self.columns]:
            raise SpecError(
                f"key columns {missing} of {self.table!r} are not in columns; a record that "
                "cannot say which row it is of cannot be replayed"
            )
        if strays := [name for name in self.ignore_columns if name not in self.stored]:
            raise SpecError(
                f"ignore_columns of {self.table!r} names {strays}, which are not stored"
            )
        if ignored := [name for name in self.ignore_columns if name in self.key]:
            raise SpecError(f"ignore_columns of {self.table!r} names key columns {ignored}")
        if strays := [name for name in self.sparse_columns if name not in self.columns]:
            raise SpecError(
                f"sparse_columns of {self.table!r} names {strays}, which are not in columns"
            )
        if strays := [name for name, _ in self.as_text if name not in self.columns]:
            raise SpecError(f"as_text of {self.table!r} names {strays}, which are not in columns")
        if sparse := [name for name in self.sparse_columns if name in self.key]:
            raise SpecError(f"sparse_columns of {self.table!r} names key columns {sparse}")
        if self.sparse_columns and not self.key:
            raise SpecError(
                f"sparse_columns of {self.table!r}, which has no key: nothing tells which record "
                "has the value that another one leaves out; give key=[...], or leave them out"
            )
        if not self.watched:
            raise SpecError(f"ignore_columns of {self.table!r} leaves no column to watch")
        if self.partitions and "truncate" not in self.operations:
            raise SpecError(
                f"partitions of {self.table!r} are those whose TRUNCATE is recorded, and truncate "
                "is not in operations; add it, or name no partitions"
            )
        needed = levels.needed_by_options(self, self.key)
        for name in self.statement_level:
            if reason := needed.get(name):
                line = levels.as_argument({*self.row_level, *needed}, self.operations)
                raise SpecError(
                    f"level 'statement' of {name} of {self.table!r} does not go with {reason}; "
                    f"write level={line!r}"
                )
        names = self.audit_column_names
        if len(set(names)) < len(names):
            self._refuse_double(names)
        if len(names) > 1600:
            raise SpecError(
                f"the audit table of {self.table!r} would have {len(names)} columns; PostgreSQL "
                "allows 1,600: exclude some"
            )

    def _refuse_double(self, names: Sequence[str]) -> None:
        sides = [
            *(f"setting audit.{setting.name}" for setting in self.session_settings),
            *(f"source column {name!r}" for name in self.columns),
            *(f"hash of source column {name!r}" for name in self.hash_columns),
        ]
        own = len(names) - len(sides)
        seen: dict[str, str] = {}
        for name, side in zip(names, ["own column"] * own + sides, strict=True):
            if name in seen:
                raise SpecError(
                    f"the audit table of {self.table!r} would have two columns {name!r}: "
                    f"{seen[name]} and {side}; rename the setting by the naming convention "
                    "'audit.setting', or exclude the column"
                )
            seen[name] = side


def _default_name(table: str, schema: str | None, source_schema: str | None, key: str) -> str:
    """Return a name as it is where no naming convention says otherwise."""
    return naming.conventional(
        {}, key, table_name=table, schema=schema, source_schema=source_schema
    )


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SpecError(f"{what} must be one of {', '.join(allowed)}, found {value!r}")
    return value


def _names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise SpecError(f"{what} must be a list of column names, found the string {names!r}")
    found = tuple(naming.check_identifier(str(name), what) for name in names)
    if len(set(found)) != len(found):
        raise SpecError(f"{what} names a column twice: {list(found)}")
    return found
