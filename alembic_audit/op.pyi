from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from alembic.op import *  # noqa: F403
from sqlalchemy.types import TypeEngine

def create_audit_trigger(
    table_name: str,
    *,
    schema: str | None = None,
    audit_table: str | None = None,
    audit_schema: str | None = None,
    function: str | None = None,
    trigger: str | None = None,
    key: Iterable[str] = (),
    columns: Iterable[str],
    hash_columns: Iterable[str] = (),
    ignore_columns: Iterable[str] = (),
    session_settings: Mapping[str, Literal["required", "nullable"]] | None = None,
    setting_columns: Mapping[str, str] | None = None,
    operations: Iterable[Literal["insert", "update", "delete", "truncate"]] = ...,
    audit_columns: Literal["standard", "classic"] = "standard",
    skip_unchanged: bool = False,
    changed_columns: bool = False,
    always: bool = False,
    owner: str | None = None,
    partitions: Iterable[str] = (),
    append_only: bool = False,
    level: Literal["row", "statement"]
    | Mapping[Literal["insert", "update", "delete"], Literal["row", "statement"]] = "row",
    sparse_columns: Iterable[str] = (),
    as_text: Mapping[str, str] | None = None,
    version: int = ...,
    found: Iterable[str] = (),
) -> None: ...
def drop_audit_trigger(
    table_name: str,
    *,
    schema: str | None = None,
    audit_table: str | None = None,
    audit_schema: str | None = None,
    function: str | None = None,
) -> None: ...
def replace_audit_trigger(
    table_name: str,
    *,
    replaces: Mapping[str, Any],
    schema: str | None = None,
    audit_table: str | None = None,
    audit_schema: str | None = None,
    function: str | None = None,
    trigger: str | None = None,
    key: Iterable[str] = (),
    columns: Iterable[str],
    hash_columns: Iterable[str] = (),
    ignore_columns: Iterable[str] = (),
    session_settings: Mapping[str, Literal["required", "nullable"]] | None = None,
    setting_columns: Mapping[str, str] | None = None,
    operations: Iterable[Literal["insert", "update", "delete", "truncate"]] = ...,
    audit_columns: Literal["standard", "classic"] = "standard",
    skip_unchanged: bool = False,
    changed_columns: bool = False,
    always: bool = False,
    owner: str | None = None,
    partitions: Iterable[str] = (),
    append_only: bool = False,
    level: Literal["row", "statement"]
    | Mapping[Literal["insert", "update", "delete"], Literal["row", "statement"]] = "row",
    sparse_columns: Iterable[str] = (),
    as_text: Mapping[str, str] | None = None,
    version: int = ...,
    found: Iterable[str] = (),
) -> None: ...
def drop_audit_table(table_name: str, *, schema: str | None = None) -> None: ...
def drop_audit_column(table_name: str, column_name: str, *, schema: str | None = None) -> None: ...
def restore_audit_trigger(
    table_name: str, statements: Iterable[str], *, schema: str | None = None
) -> None: ...
def rename_audited_table(
    old_table_name: str,
    new_table_name: str,
    *,
    schema: str | None = None,
    replaces: Mapping[str, Any] | None = None,
    audit_table: str | None = None,
    audit_schema: str | None = None,
    function: str | None = None,
    trigger: str | None = None,
    key: Iterable[str] = (),
    columns: Iterable[str],
    hash_columns: Iterable[str] = (),
    ignore_columns: Iterable[str] = (),
    session_settings: Mapping[str, Literal["required", "nullable"]] | None = None,
    setting_columns: Mapping[str, str] | None = None,
    operations: Iterable[Literal["insert", "update", "delete", "truncate"]] = ...,
    audit_columns: Literal["standard", "classic"] = "standard",
    skip_unchanged: bool = False,
    changed_columns: bool = False,
    always: bool = False,
    owner: str | None = None,
    partitions: Iterable[str] = (),
    append_only: bool = False,
    level: Literal["row", "statement"]
    | Mapping[Literal["insert", "update", "delete"], Literal["row", "statement"]] = "row",
    sparse_columns: Iterable[str] = (),
    as_text: Mapping[str, str] | None = None,
    version: int = ...,
) -> None: ...
def rename_audited_column(
    table_name: str,
    old_column_name: str,
    new_column_name: str,
    *,
    schema: str | None = None,
    audit_table: str | None = None,
    audit_schema: str | None = None,
    function: str | None = None,
    trigger: str | None = None,
    key: Iterable[str] = (),
    columns: Iterable[str],
    hash_columns: Iterable[str] = (),
    ignore_columns: Iterable[str] = (),
    session_settings: Mapping[str, Literal["required", "nullable"]] | None = None,
    setting_columns: Mapping[str, str] | None = None,
    operations: Iterable[Literal["insert", "update", "delete", "truncate"]] = ...,
    audit_columns: Literal["standard", "classic"] = "standard",
    skip_unchanged: bool = False,
    changed_columns: bool = False,
    always: bool = False,
    owner: str | None = None,
    partitions: Iterable[str] = (),
    append_only: bool = False,
    level: Literal["row", "statement"]
    | Mapping[Literal["insert", "update", "delete"], Literal["row", "statement"]] = "row",
    sparse_columns: Iterable[str] = (),
    as_text: Mapping[str, str] | None = None,
    version: int = ...,
) -> None: ...
def snapshot_audit_table(
    table_name: str,
    *,
    schema: str | None = None,
    batch_size: int | None = None,
    audit_table: str | None = None,
    audit_schema: str | None = None,
    function: str | None = None,
    trigger: str | None = None,
    key: Iterable[str] = (),
    columns: Iterable[str],
    hash_columns: Iterable[str] = (),
    ignore_columns: Iterable[str] = (),
    session_settings: Mapping[str, Literal["required", "nullable"]] | None = None,
    setting_columns: Mapping[str, str] | None = None,
    operations: Iterable[Literal["insert", "update", "delete", "truncate"]] = ...,
    audit_columns: Literal["standard", "classic"] = "standard",
    skip_unchanged: bool = False,
    changed_columns: bool = False,
    always: bool = False,
    owner: str | None = None,
    partitions: Iterable[str] = (),
    append_only: bool = False,
    level: Literal["row", "statement"]
    | Mapping[Literal["insert", "update", "delete"], Literal["row", "statement"]] = "row",
    sparse_columns: Iterable[str] = (),
    as_text: Mapping[str, str] | None = None,
    version: int = ...,
) -> None: ...
def alter_audit_column(
    table_name: str,
    column_name: str,
    *,
    schema: str | None = None,
    existing_type: TypeEngine[Any] | type[TypeEngine[Any]] | None = None,
    type_: TypeEngine[Any] | type[TypeEngine[Any]] | None = None,
    nullable: bool | None = None,
    new_column_name: str | None = None,
) -> None: ...
def number_audit_table(table_name: str, *, schema: str | None = None) -> None: ...
def purge_audit_table(
    table_name: str,
    *,
    before: str,
    reason: str,
    keep_last: Sequence[str] | None,
    schema: str | None = None,
) -> None: ...
def create_audit_schema(schema: str) -> None: ...
def drop_audit_schema(schema: str) -> None: ...
def lock_audited_tables(
    tables: Iterable[str | tuple[str, str]],
    *,
    mode: Literal["SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"] = "ACCESS EXCLUSIVE",
) -> None: ...
def set_audit_context(**given: Any) -> None: ...
