"""Alembic's scripts for the state database; run by :func:`interlock.store.schema.migrate` only."""
