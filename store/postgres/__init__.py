"""The schema of Postgres: Alembic's environment, and one numbered SQL file for each revision."""
