"""How far the clock of the host is ahead of one that nobody sets, for a journal on SQLite."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table; its row is written by whoever writes first."""
    op.create_table(
        "clock",
        sa.Column("host", sa.String(120), primary_key=True),
        sa.Column("ahead_s", sa.Float, nullable=False),
    )
