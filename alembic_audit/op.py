"""Alembic's ``op`` with the audit operations; ``op.pyi`` has their types."""

import sys

import alembic.op

sys.modules[__name__] = alembic.op
