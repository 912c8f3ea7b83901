"""What Alembic executes for every command: use the connection, and the transaction, of the caller."""

from alembic import context

from interlock.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
