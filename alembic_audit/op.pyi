from collections.abc import Iterable, Mapping
from typing import Any, Literal

from alembic.op import *  # noqa: F403

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
    version: int = ...,
    found: Iterable[str] = (),
) -> None: ...
def drop_audit_table(table_name: str, *, schema: str | None = None) -> None: ...
def drop_audit_column(table_name: str, column_name: str, *, schema: str | None = None) -> None: ...
