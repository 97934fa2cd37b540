"""Requests for storage commitment, and instances by their own UID."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table and the index."""
    op.create_table(
        "commitment",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("peer", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("instances", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("due_at", sa.DateTime, nullable=False),
        sa.Column("lease_until", sa.DateTime),
        sa.Column("owner", sa.String(120)),
        sa.Column("last_error", sa.Text, nullable=False),
    )
    op.create_index("ix_commitment_state", "commitment", ["state"])
    op.create_index("ix_instance_sop_key", "instance", ["sop_key"])
