"""How Alembic reaches the ledger: by the connection, and in the transaction, of who brings it up to date."""

from alembic import context

from flows.ledger.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,  # SQLite's is so where the transaction was begun by hand, as it is
)
with context.begin_transaction():
    context.run_migrations()
