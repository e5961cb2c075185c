"""``audit.options``, column marks and ``audit.defaults``, validated into AuditOptions."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

import sqlalchemy as sa

from alembic_audit.errors import DeclarationError
from alembic_audit.levels import LEVELS, OF_ROWS
from alembic_audit.spec import OPERATIONS, STYLES

OPTIONS_KEY = "audit.options"
DEFAULTS_KEY = "audit.defaults"
MARK_KEY = "audit"
MARKS = ("exclude", "ignore", "hash")


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """The options of one audited table, complete and validated.

    Attributes:
        schema_name: Schema of the audit table and the function; None is the table's schema.
        session_settings: Columns whose value comes from the setting ``audit.<name>``.
        include_columns: Source columns that are stored; None is all.
        exclude_columns: Source columns that are not stored.
        ignore_columns: Stored, but an UPDATE that changes nothing else is not recorded.
        hash_columns: Only a SHA-256 hash is stored.
        operations: What is recorded, of insert, update, delete, truncate.
        skip_unchanged: An UPDATE that changes no stored column is not recorded.
        changed_columns: An own column names the columns that an UPDATE changed.
        audit_columns: ``standard`` or ``classic``.
        always: The triggers fire also while ``session_replication_role`` is ``replica``.
        owner: The role that owns function and audit table; None is who runs the migration.
        indexes: Columns of each index of the audit table; None is one on the key and ``audit_id``.
        partitions: Partitions, in the table's schema, of which a TRUNCATE by name is recorded.
        append_only: UPDATE, DELETE and TRUNCATE of the audit table are refused, to its owner too.
        level: ``row``, ``statement``, or ``auto``, which is statement level where that records the
            same; one for all operations, or a dict of them by operation.
        sparse_columns: Large values that an UPDATE stores only when it changes them.
    """

    schema_name: str | None = None
    session_settings: tuple[sa.Column[Any], ...] = ()
    include_columns: tuple[str, ...] | None = None
    exclude_columns: tuple[str, ...] = ()
    ignore_columns: tuple[str, ...] = ()
    hash_columns: tuple[str, ...] = ()
    operations: tuple[str, ...] = OPERATIONS
    skip_unchanged: bool = False
    changed_columns: bool = False
    audit_columns: str = "standard"
    always: bool = False
    owner: str | None = None
    partitions: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] | None = None
    append_only: bool = False
    level: str | Mapping[str, str] = "auto"
    sparse_columns: tuple[str, ...] = ()


Level = Literal["auto", "row", "statement"]


class Options(TypedDict, total=False):
    """The keys of ``audit.options``, as ``audited`` and ``audit_table`` take them."""

    enabled: bool
    reason: str
    schema_name: str | None
    session_settings: Sequence[sa.Column[Any]]
    include_columns: Collection[str] | None
    exclude_columns: Collection[str]
    ignore_columns: Collection[str]
    hash_columns: Collection[str]
    operations: Collection[Literal["insert", "update", "delete", "truncate"]]
    skip_unchanged: bool
    changed_columns: bool
    audit_columns: Literal["standard", "classic"]
    always: bool
    owner: str | None
    partitions: Collection[str]
    indexes: Sequence[Sequence[str]] | None
    append_only: bool
    level: Level | Mapping[Literal["insert", "update", "delete"], Level]
    sparse_columns: Collection[str]


COLUMN_LISTS = (
    "include_columns",
    "exclude_columns",
    "ignore_columns",
    "hash_columns",
    "sparse_columns",
)
_NAMES = {field.name for field in dataclasses.fields(AuditOptions)}
_KEYS = {"enabled", "reason", *_NAMES}


def read(table: sa.Table) -> AuditOptions | None:
    """Return what *table* asks for; None where it asks for no audit.

    The user's dictionaries are read and never written.

    Raises:
        DeclarationError: An option is unknown, of the wrong type, or names an unknown column.
    """
    own = table.info.get(OPTIONS_KEY, {})
    asked = OPTIONS_KEY in table.info
    defaults = table.metadata.info.get(DEFAULTS_KEY, {})
    if not asked and not (isinstance(defaults, Mapping) and defaults.get("enabled")):
        if defaults:
            _check_keys(f"MetaData.info[{DEFAULTS_KEY!r}]", defaults)
        return None
    where = f"{OPTIONS_KEY!r} of table {table.fullname!r}"
    _check_keys(f"MetaData.info[{DEFAULTS_KEY!r}]", defaults)
    _check_keys(where, own)
    given: dict[str, Any] = {**defaults, **own}
    if "enabled" not in given:
        raise DeclarationError(
            f"{where} does not say whether the table is audited; write {{'enabled': True}}, "
            "or {'enabled': False, 'reason': '...'}"
        )
    if not isinstance(given["enabled"], bool):
        raise DeclarationError(f"enabled in {where} must be a bool, found {given['enabled']!r}")
    if not given["enabled"]:
        if defaults.get("enabled") and not own.get("reason"):
            raise DeclarationError(
                f"{where} says no where {DEFAULTS_KEY!r} audits everything; say why: "
                "{'enabled': False, 'reason': '...'}"
            )
        return None
    return _validated(table, where, {name: given[name] for name in _NAMES & set(given)})


def _check_keys(where: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise DeclarationError(f"{where} must be a dict, found {given!r}")
    for key in given:
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {sorted(_KEYS)}"
            raise DeclarationError(f"unknown option {key!r} in {where}: {hint}")


def _validated(table: sa.Table, where: str, given: dict[str, Any]) -> AuditOptions:
    marks = _column_marks(table)
    for name in COLUMN_LISTS:
        if name in given and (name, given[name]) != ("include_columns", None):
            given[name] = _column_names(table, where, name, given[name])
    for mark in MARKS:
        option = f"{mark}_columns"
        if marks[mark]:
            given[option] = tuple(dict.fromkeys((*given.get(option, ()), *marks[mark])))
    _check_contradictions(where, given)
    for name in ("skip_unchanged", "changed_columns", "always", "append_only"):
        if name in given and not isinstance(given[name], bool):
            raise DeclarationError(f"{name} in {where} must be a bool, found {given[name]!r}")
    for name in ("schema_name", "owner"):
        if name in given and not isinstance(given[name], str | None):
            raise DeclarationError(
                f"{name} in {where} must be a string or None, found {given[name]!r}"
            )
    if given.get("audit_columns", "standard") not in STYLES:
        raise DeclarationError(
            f"audit_columns in {where} must be one of {', '.join(STYLES)}, "
            f"found {given['audit_columns']!r}"
        )
    if "level" in given:
        _check_level(where, given["level"])
    if "partitions" in given:
        given["partitions"] = _strings(where, "partitions", given["partitions"])
    if given.get("indexes") is not None:
        given["indexes"] = _indexes(where, given["indexes"])
    if "operations" in given:
        given["operations"] = _operations(where, given["operations"])
    if "session_settings" in given:
        given["session_settings"] = _settings(table, where, given["session_settings"])
    return AuditOptions(**given)


def _check_level(where: str, level: Any) -> None:
    """See that a level is one word, or one for some operations; the others are ``auto``."""
    by_operation = level if isinstance(level, Mapping) else {}
    for name in by_operation:
        if name not in OF_ROWS:
            raise DeclarationError(
                f"level in {where} names {name!r}; it may name {', '.join(OF_ROWS)}"
            )
    for one in by_operation.values() if isinstance(level, Mapping) else [level]:
        if one not in (*LEVELS, "auto"):
            raise DeclarationError(
                f"level in {where} must be one of {', '.join((*LEVELS, 'auto'))}, or a dict of "
                f"them by operation, found {one!r}"
            )


def _check_contradictions(where: str, given: Mapping[str, Any]) -> None:
    """See that no column is left out for which something else is asked."""
    excluded, included = given.get("exclude_columns", ()), given.get("include_columns")
    if both := [
        name for name in given.get("sparse_columns", ()) if name in given.get("hash_columns", ())
    ]:
        raise DeclarationError(
            f"{where} names {both} in hash_columns and in sparse_columns; a hash is small: keep one"
        )
    for option in ("hash_columns", "ignore_columns", "sparse_columns", "include_columns"):
        if both := [name for name in given.get(option) or () if name in excluded]:
            raise DeclarationError(
                f"{where} names {both} in exclude_columns and in {option}; keep one"
            )
    for option in ("hash_columns", "ignore_columns", "sparse_columns"):
        if strays := [name for name in given.get(option, ()) if name not in (included or [name])]:
            raise DeclarationError(
                f"{where} names {strays} in {option}, and include_columns leaves them out; "
                "add them there"
            )


def _column_marks(table: sa.Table) -> dict[str, list[str]]:
    marks: dict[str, list[str]] = {mark: [] for mark in MARKS}
    for column in table.columns:
        mark = column.info.get(MARK_KEY)
        if mark is None:
            continue
        if mark not in MARKS:
            raise DeclarationError(
                f"column {column.name!r} of table {table.fullname!r} is marked "
                f"{MARK_KEY}={mark!r}; write one of {', '.join(MARKS)}"
            )
        marks[mark].append(column.name)
    return marks


def _strings(where: str, name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise DeclarationError(f"{name} in {where} must be a list of names, found {value!r}")
    return tuple(str(item) for item in value)


def _column_names(table: sa.Table, where: str, name: str, value: Any) -> tuple[str, ...]:
    columns = [column.name for column in table.columns]
    names = _strings(where, name, value)
    for wanted in names:
        if wanted not in columns:
            close = difflib.get_close_matches(wanted, columns, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {columns}"
            raise DeclarationError(
                f"{name} in {where} names {wanted!r}, which the table does not have: {hint}"
            )
    # In the table's order, so that a set does not make migrations differ from run to run.
    return tuple(column for column in columns if column in names)


def _indexes(where: str, value: Any) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise DeclarationError(
            f"indexes in {where} must be a list of lists of columns of the audit table, found "
            f"{value!r}; write [['email', 'audit_id']], or () for none"
        )
    indexes = tuple(_strings(where, "each of indexes", one) for one in value)
    if not all(indexes) or len(set(indexes)) < len(indexes):
        raise DeclarationError(f"indexes in {where} has an empty or a double one: {value!r}")
    return indexes


def _operations(where: str, value: Any) -> tuple[str, ...]:
    names = _strings(where, "operations", value)
    if not names or not set(names) <= set(OPERATIONS):
        raise DeclarationError(
            f"operations in {where} must be some of {', '.join(OPERATIONS)}, found {value!r}"
        )
    return tuple(name for name in OPERATIONS if name in names)


def _settings(table: sa.Table, where: str, value: Any) -> tuple[sa.Column[Any], ...]:
    if not isinstance(value, Sequence) or not all(
        isinstance(item, sa.Column) and item.name for item in value
    ):
        raise DeclarationError(
            f"session_settings in {where} must be a list of Column, found {value!r}; "
            "write Column('username', String, nullable=False)"
        )
    names = [item.name.lower() for item in value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DeclarationError(
            f"session_settings in {where} names {twice} twice; settings are lower-cased"
        )
    for item in value:
        if isinstance(item.type, sa.types.NullType):
            raise DeclarationError(
                f"session setting {item.name!r} of table {table.fullname!r} has no type; "
                f"write Column({item.name!r}, String)"
            )
    return tuple(value)
