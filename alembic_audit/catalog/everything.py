"""Every trail of a database, where no models say which there should be."""

import dataclasses

import sqlalchemy as sa

from alembic_audit.catalog import read
from alembic_audit.catalog.health import read_schemas
from alembic_audit.naming import CONVENTIONS
from alembic_audit.states import Catalog

_PREFIX = str(CONVENTIONS["audit.trigger"]).partition("%")[0]


def read_everything(connection: sa.Connection) -> Catalog:
    """Return every trail in a database, by the headers of our functions.

    A trail whose header has no schema is of the schema its function is in: a tenant's.
    """
    default_schema = connection.dialect.default_schema_name or "public"
    schemas = read_schemas(connection)
    found = read(connection, [], default_schema, schemas, {_PREFIX})
    for schema, has_ours in schemas.items():
        if not has_ours or schema == default_schema:
            continue
        here = read(connection, [], schema, [schema])
        for name, state in here.states.items():
            spec = state.spec
            if spec.schema is spec.audit_schema is None and name not in found.states:
                given = dataclasses.replace(spec, schema=schema, audit_schema=schema)
                found.states[name] = dataclasses.replace(state, spec=given)
                found.foreign_keys[name] = here.foreign_keys.get(name, ())
    return found
