"""Events, documents and leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
count = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "events",
        sa.Column("sequence", count, primary_key=True, autoincrement=False),
        sa.Column("at", text, nullable=False),
        sa.Column("kind", text, nullable=False),
        sa.Column("subject", text, nullable=False),
        sa.Column("turn", text, nullable=False),
        sa.Column("facts", text, nullable=False),
        sa.Column("previous", text, nullable=False),
        sa.Column("hash", text, nullable=False),
    )
    op.create_index("events_by_kind", "events", ["kind", "sequence"])
    op.create_index("events_by_subject", "events", ["subject", "sequence"])
    op.create_table(
        "documents",
        sa.Column("collection", text, primary_key=True),
        sa.Column("key", text, primary_key=True),
        sa.Column("value", text, nullable=False),
        sa.Column("changed_at", text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("name", text, primary_key=True),
        sa.Column("number", count, nullable=False),
        sa.Column("holder", text, nullable=False),
        sa.Column("host", text, nullable=False),
        sa.Column("pid", count, nullable=False),
        sa.Column("started", text, nullable=False),
        sa.Column("taken_at", text, nullable=False),
        sa.Column("expires_at", text, nullable=False),
    )
