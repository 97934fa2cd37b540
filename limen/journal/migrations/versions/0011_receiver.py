"""Which receiver kept an instance: several may share a journal."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the column; of what is there already nobody knows."""
    column = sa.Column("receiver", sa.String(80), nullable=False, server_default="")
    op.add_column("instance", column)
