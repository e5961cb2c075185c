"""How Alembic reaches the database, which DATABASE_URL names, and what it compares it with."""

import os
from logging.config import fileConfig

import models
from alembic import context
from sqlalchemy import NullPool, create_engine

import alembic_audit

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

options = {
    # history.py asks for an earlier state of the models.
    "target_metadata": config.attributes.get("metadata", models.Base.metadata),
    # The one line that alembic_audit needs; check_trails below is the other that it likes.
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic_audit"],
}

if context.is_offline_mode():
    context.configure(url=os.environ["DATABASE_URL"], literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
        alembic_audit.check_trails(context)
else:
    engine = create_engine(os.environ["DATABASE_URL"], poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
            alembic_audit.check_trails(context)
