"""Which operations a row trigger has to record, and how a level is written.

A statement trigger records all rows of a statement at once. It costs less for many rows, and it
sees an old row or a new one, never both. Each operation has a level of its own.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from alembic_audit.errors import SpecError

LEVELS = ("row", "statement")
OF_ROWS = ("insert", "update", "delete")
"""The operations that have a level. TRUNCATE is always recorded once, without rows."""


_IDENTIFIER = re.compile(r'"((?:[^"]|"")+)"|(\w+)')


class _Recorded(Protocol):
    """What a spec and the options of a declaration have in common."""

    @property
    def operations(self) -> tuple[str, ...]: ...
    @property
    def always(self) -> bool: ...
    @property
    def skip_unchanged(self) -> bool: ...
    @property
    def changed_columns(self) -> bool: ...
    @property
    def ignore_columns(self) -> tuple[str, ...]: ...
    @property
    def sparse_columns(self) -> tuple[str, ...]: ...
    @property
    def partitions(self) -> tuple[str, ...]: ...


class _Leveled(_Recorded, Protocol):
    """What a spec says beside that."""

    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def row_level(self) -> tuple[str, ...]: ...
    @property
    def statement_level(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class ForeignKey:
    """What a foreign key of a table does to its rows.

    Attributes:
        name: The constraint, or its columns.
        deletes: ON DELETE CASCADE deletes rows.
        updates: The columns that ON DELETE SET or ON UPDATE changes.
    """

    name: str
    deletes: bool
    updates: frozenset[str]

    @classmethod
    def of(
        cls, name: str, columns: Sequence[str], on_delete: str | None, on_update: str | None
    ) -> "ForeignKey":
        """What the clauses of a foreign key do, as they are written in SQL."""
        updates: set[str] = set()
        delete, update = (
            " ".join((clause or "NO ACTION").upper().split()) for clause in (on_delete, on_update)
        )
        if update not in ("NO ACTION", "RESTRICT"):
            updates.update(columns)
        if delete.startswith("SET"):
            # SET NULL (a, b): what cannot be read for sure may be any column.
            listed = {
                quoted.replace('""', '"') or plain.lower()
                for quoted, plain in _IDENTIFIER.findall((on_delete or "").partition("(")[2])
            }
            updates.update(listed if listed and listed <= set(columns) else columns)
        return cls(name, delete == "CASCADE", frozenset(updates))


def needed_by_options(recorded: _Recorded, key: Sequence[str]) -> dict[str, str]:
    """The operations that a row trigger has to record, each with the option that needs it.

    At statement level there is no OLD row beside a NEW one, no statement trigger fires where
    logical replication applies a change, and a partition that is written by its own name does
    not reach a statement trigger of its parent.
    """
    if recorded.always:
        return dict.fromkeys(_recorded(recorded), "always=True")
    if recorded.partitions:
        return dict.fromkeys(_recorded(recorded), f"partitions={list(recorded.partitions)}")
    if "update" not in recorded.operations:
        return {}
    for name in ("skip_unchanged", "changed_columns"):
        if getattr(recorded, name):
            return {"update": f"{name}=True"}
    for name in ("ignore_columns", "sparse_columns"):
        if columns := getattr(recorded, name):
            return {"update": f"{name}={list(columns)}"}
    return {} if key else {"update": "a table without a key"}


def needed_by_foreign_keys(
    recorded: _Recorded, key: Sequence[str], foreign_keys: Iterable[ForeignKey]
) -> dict[str, str]:
    """The operations that a row trigger has to record because of foreign key actions.

    All actions of a statement share its transition tables, and their statement triggers fire once
    and late: after the last UPDATE, and after the last DELETE, of any action. So the records of a
    row come in a wrong order only

    * where one action can delete a row that another one updated before: then UPDATE goes to row
      level, whose records keep their place; and nothing follows a deletion;
    * where an action changes the key: a row can change it twice, so UPDATE goes to row level; and
      if an action deletes rows too, the key of a deleted row can be given to another one before
      the late record of the deletion, so DELETE goes to row level as well.

    No action inserts, and the rows that a statement inserts are recorded before any action runs.
    Which tables the keys refer to does not matter: chains and cycles of actions end in these.

    Args:
        recorded: What to record.
        key: The key columns.
        foreign_keys: Those of the table itself.
    """
    if "update" not in recorded.operations:
        return {}
    acting = sorted(foreign_keys, key=lambda one: one.name)
    updating = [one for one in acting if one.updates]
    deleting = [one for one in acting if one.deletes]
    moving = [one for one in acting if one.updates & set(key)]
    needed = {}
    if updating and deleting:
        reason = f"actions of foreign keys that update ({_names(updating)}) and delete"
        needed["update"] = f"{reason} ({_names(deleting)}) its rows"
    elif moving:
        needed["update"] = f"actions of foreign keys that change its key ({_names(moving)})"
    if moving and deleting and "delete" in recorded.operations:
        reason = f"actions of foreign keys that change its key ({_names(moving)}) and delete"
        needed["delete"] = f"{reason} ({_names(deleting)}) its rows"
    return needed


def missing_rows(spec: _Leveled, foreign_keys: Iterable[ForeignKey]) -> tuple[str, str] | None:
    """Why foreign keys make the levels of a spec wrong, and the remedy; None if they do not."""
    needed = needed_by_foreign_keys(spec, spec.key, foreign_keys)
    for name in needed:
        if name in spec.statement_level:
            level = as_argument({*spec.row_level, *needed}, spec.operations)
            return needed[name], f"write level={level!r} in the options of the table"
    return None


def _names(keys: Iterable[ForeignKey]) -> str:
    return ", ".join(one.name for one in keys)


def _recorded(recorded: _Recorded) -> list[str]:
    return [name for name in OF_ROWS if name in recorded.operations]


def rows_of(level: str | Mapping[str, str], operations: Collection[str]) -> tuple[str, ...]:
    """The operations that a row trigger records, as the argument ``level`` says.

    Args:
        level: ``row``, ``statement``, or a dict that has one of them for each operation.
        operations: What is recorded.

    Raises:
        SpecError: It is something else.
    """
    recorded = [name for name in OF_ROWS if name in operations]
    given = level if isinstance(level, Mapping) else dict.fromkeys(recorded, level)
    words = list(given.values()) if given is level else [level]
    if strays := [one for one in words if one not in LEVELS]:
        raise SpecError(
            f"level must be one of {', '.join(LEVELS)}, or a dict that has one of them for each "
            f"operation; found {strays[0]!r}"
        )
    if set(given) != set(recorded):
        whole = {name: given.get(name, "statement") for name in recorded}
        raise SpecError(
            f"level must name the recorded operations {recorded}, found {dict(given)!r}; write "
            f"level={whole!r}"
        )
    return tuple(name for name in recorded if given[name] == "row")


def as_argument(rows: Collection[str], operations: Collection[str]) -> str | dict[str, str]:
    """The argument ``level`` for some operations at row level: one word where all are alike."""
    levels = {
        name: "row" if name in rows else "statement" for name in OF_ROWS if name in operations
    }
    first, *others = set(levels.values()) or {"statement"}
    return levels if others else first
