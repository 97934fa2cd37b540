"""DICOM objects on their way to a PACS, what it vouches for, and a PACS that rejects us."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables and columns."""
    op.add_column("delivery", sa.Column("about", sa.String(40), nullable=False, server_default=""))
    op.add_column("circuit", sa.Column("unwelcome", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "sent_object",
        sa.Column("delivery", sa.String(120), primary_key=True),
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("changed_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "commitment_asked",
        sa.Column("transaction_uid", sa.String(64), primary_key=True),
        sa.Column("delivery", sa.String(120), nullable=False),
        sa.Column("asked_at", sa.DateTime, nullable=False),
    )
    op.create_index("ix_commitment_asked_delivery", "commitment_asked", ["delivery"])
