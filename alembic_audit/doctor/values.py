"""What doctor finds: the kinds, how bad each is, and what mends it."""

import dataclasses
from collections.abc import Mapping

from alembic_audit import states

ERROR = "error"
WARNING = "warning"
INFO = "info"
SEVERITIES = (ERROR, WARNING, INFO)
"""The worst first. An error loses records or writes; a warning may; an info is worth knowing."""

NOT_AUDITED = "not audited"
DIFFERS = "differs from the models"
NOT_IN_MODELS = "not in the models"
NOT_DECIDED = "neither audited nor refused"
PLUGIN_MISSING = "plugin not listed"
STRAY = "stray function"
NEWER = "newer version"
ABANDONED = "abandoned audit table"
FIRES_BEFORE = "trigger fires before"
FIRES_AFTER = "trigger between rows"
WRITES_ITS_TABLE = "trigger writes its own table"
STATEMENT_LEVEL = "wrong at statement level"
WRITES_TOO = "second writer"
AUDIT_TRIGGER = "trigger on the audit table"
PARTITION = "partition not covered"
CHILD = "child not covered"
MAY_CHANGE = "others may change the trail"
MAY_READ = "everybody may read the trail"
MAY_TRIGGER = "others may replace the trigger"
MAY_CREATE = "everybody may create in the schema"
MAY_DROP = "schema owner may drop the trail"
MAY_BECOME = "others may act as the owner"
POWERFUL = "powerful role"
MAY_SWITCH_OFF = "others may switch triggers off"
SUPERUSER = "runs as a superuser"
OTHERS_OWN = "others may retype a column"
FUNCTION_MAY_NOT = "function may not write"
SWITCHED_OFF = "triggers switched off"
SETTING_UNSET = "required setting without default"
SETTING_EMPTY = "setting never set"
ROW_SECURITY = "row level security"
UNLOGGED = "unlogged audit table"
RULE = "rule"
EVENT_TRIGGER = "event trigger"
CONSTRAINT = "constraint on the audit table"
DEFAULT = "default of an audit column"
NO_ORDER = "audit_id without a sequence"
PARENT = "parent of the audit table"
GIVEN_A_VALUE = "column added with a value"
TYPE_OF_ANOTHER = "others may drop the type"
REWRITTEN = "records written again"
KEY_INDEX = "key index missing"
WEAK_KEY = "key does not tell rows apart"
FROM_FUTURE = "transaction ids from the future"
SEQUENCE_BEHIND = "sequence behind"
NOT_READ = "not looked at"
NOT_REPLAYABLE = "cannot be replayed"
DIFFERS_FROM_TABLE = "ends otherwise than its table"
UNRECORDED = "rows without a record"
NOT_REPLAYED = "not replayed"

MIGRATE = "alembic revision --autogenerate, then alembic upgrade head"

KINDS: Mapping[str, tuple[str, str]] = {
    # Drift: what alembic_audit.catalog compares.
    states.BODY_EDITED: (ERROR, MIGRATE),
    states.HEADER_MISSING: (WARNING, MIGRATE),
    states.TRIGGER_MISSING: (ERROR, MIGRATE),
    states.TRIGGER_DISABLED: (ERROR, MIGRATE),
    states.DISABLED_ON_PARTITION: (ERROR, MIGRATE),
    states.ENABLE_ALWAYS_LOST: (ERROR, MIGRATE),
    states.TRIGGER_RETIMED: (ERROR, MIGRATE),
    states.TRIGGER_ELSEWHERE: (ERROR, MIGRATE),
    states.SECOND_TRIGGER: (ERROR, MIGRATE),
    states.SECURITY_DEFINER_LOST: (ERROR, MIGRATE),
    states.SET_CLAUSE: (WARNING, MIGRATE),
    states.EXECUTE_GRANTED: (WARNING, MIGRATE),
    states.OWNER_CHANGED: (WARNING, MIGRATE),
    states.ORPHANED_FUNCTION: (WARNING, MIGRATE),
    states.AUDIT_TABLE_MISSING: (ERROR, MIGRATE),
    states.AUDIT_COLUMN_MISSING: (ERROR, MIGRATE),
    states.COLUMN_MISSING: (ERROR, MIGRATE),
    states.SEQUENCE_CACHE: (WARNING, MIGRATE),
    # The models beside the database.
    NOT_AUDITED: (ERROR, MIGRATE),
    DIFFERS: (ERROR, MIGRATE),
    NOT_IN_MODELS: (WARNING, f"declare it, or let the recording end: {MIGRATE}"),
    NOT_DECIDED: (
        ERROR,
        "mark it with @audited(), or refuse in Table.info: "
        "{'audit.options': {'enabled': False, 'reason': '...'}}",
    ),
    PLUGIN_MISSING: (
        ERROR,
        'autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"] in context.configure()',
    ),
    STRAY: (WARNING, MIGRATE),
    NEWER: (WARNING, "upgrade alembic_audit"),
    ABANDONED: (INFO, "nothing; or, when its records are not wanted any more, drop it"),
    # Triggers, rules and tables around a trail.
    FIRES_BEFORE: (WARNING, "rename it, so that it comes after that of the audit by name"),
    FIRES_AFTER: (
        INFO,
        "know that in a statement of many rows it runs for one row before the next one is "
        "recorded; an AFTER STATEMENT trigger would not",
    ),
    WRITES_ITS_TABLE: (
        WARNING,
        "write the table in an AFTER ROW trigger; alembic-audit doctor --replay says what is wrong "
        "already",
    ),
    STATEMENT_LEVEL: (ERROR, f'write level="row" in the options of the table; then {MIGRATE}'),
    WRITES_TOO: (ERROR, "drop it; docs/adoption.md says how a trail is taken over"),
    AUDIT_TRIGGER: (WARNING, "drop it, if it may refuse, change or drop what is recorded"),
    PARTITION: (WARNING, "name it in the option 'partitions', or revoke TRUNCATE"),
    CHILD: (WARNING, "audit it as a table of its own, or write into the parent only"),
    RULE: (WARNING, "drop it, or write a trigger instead"),
    CONSTRAINT: (WARNING, "drop it: writes fail where it is violated, and its error shows the row"),
    DEFAULT: (WARNING, "drop it: records say what was written, or NULL"),
    NO_ORDER: (ERROR, "let PostgreSQL number the records: ADD GENERATED ALWAYS AS IDENTITY"),
    PARENT: (WARNING, "detach it: who may read or change the parent reads or changes the trail"),
    GIVEN_A_VALUE: (
        WARNING,
        f"rename the column, so that what it held is kept and told apart; then {MIGRATE}",
    ),
    TYPE_OF_ANOTHER: (WARNING, "give the type to the owner of the trail"),
    REWRITTEN: (
        WARNING,
        "compare the trail with a copy of it, and find who ran that transaction: ALTER TABLE ... "
        "TYPE and SET LOGGED write records again, and so does an edit without the guard",
    ),
    EVENT_TRIGGER: (INFO, "know that it runs in migrations, and may refuse or change them"),
    # Who may do what.
    MAY_CHANGE: (WARNING, "revoke it"),
    MAY_READ: (INFO, "revoke it, if not everybody may see what rows held"),
    MAY_TRIGGER: (WARNING, "revoke it; GRANT ALL includes it"),
    MAY_CREATE: (WARNING, "revoke it, as PostgreSQL does for public from 15 on"),
    MAY_DROP: (WARNING, "give schema and audit table one owner"),
    MAY_BECOME: (INFO, "give the trail an owner of its own, option 'owner', with no members"),
    POWERFUL: (INFO, "know that a trail proves nothing against this role"),
    MAY_SWITCH_OFF: (WARNING, "revoke it, or write the option 'always'"),
    SUPERUSER: (INFO, "give the trail an owner of its own by the option 'owner'"),
    OTHERS_OWN: (
        INFO,
        "know that a write fails once a column has another type than its audit column",
    ),
    FUNCTION_MAY_NOT: (ERROR, "give function and audit table one owner"),
    # Settings, and what is in the records.
    SWITCHED_OFF: (ERROR, "reset it, or write the option 'always'"),
    SETTING_UNSET: (
        INFO,
        "know that a write without it fails; ALTER ROLE or ALTER DATABASE could give it a default",
    ),
    SETTING_EMPTY: (WARNING, "set it where the application connects: audit_context, instrument()"),
    ROW_SECURITY: (WARNING, "disable row level security on the audit table"),
    UNLOGGED: (ERROR, "ALTER TABLE ... SET LOGGED: a crash empties it"),
    WEAK_KEY: (
        WARNING,
        "give the table a primary key that is NOT DEFERRABLE, and write its columns as the key",
    ),
    KEY_INDEX: (INFO, f"nothing, if the option 'indexes' leaves it out; else {MIGRATE}"),
    FROM_FUTURE: (
        WARNING,
        "read this trail by time or audit_id, not by transaction: it was restored from a dump of "
        "another server",
    ),
    SEQUENCE_BEHIND: (ERROR, "set it to the greatest audit_id: writes fail until it is beyond"),
    NOT_READ: (INFO, "run doctor as a role that may read it"),
    # A replay.
    NOT_REPLAYABLE: (
        ERROR,
        "do not trust as_of() between these records: a function or a BEFORE trigger wrote the "
        "table inside a statement on it, or rows were written while the trail was off; see "
        "docs/security.md",
    ),
    DIFFERS_FROM_TABLE: (
        ERROR,
        "op.snapshot_audit_table() records what is there; docs/security.md says how it comes about",
    ),
    UNRECORDED: (INFO, "op.snapshot_audit_table(); until then as_of() does not show them"),
    NOT_REPLAYED: (INFO, "see the reason"),
}
"""Every kind of finding: its severity, and what mends it where the finding does not say better."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a trail, or worth knowing about it.

    Attributes:
        kind: One of ``KINDS``.
        table: The audited table, as ``schema.name``; the audit table where it has none; empty for
            what concerns the whole database.
        what: What was found.
        cure: How to mend it.
        severity: ``error``, ``warning`` or ``info``.
    """

    kind: str
    table: str
    what: str
    cure: str
    severity: str


def finding(
    kind: str, table: str, what: str, cure: str | None = None, severity: str | None = None
) -> Finding:
    """Return a Finding, with the cure and severity of its kind where none is given."""
    usual, mends = KINDS[kind]
    return Finding(kind, table, what, cure or mends, severity or usual)
