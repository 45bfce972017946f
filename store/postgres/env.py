"""Alembic's environment: runs inside the connection, the lock and the transaction that store.migrate opened."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None, transactional_ddl=True, transaction_per_migration=False)
context.run_migrations()
