"""Where the rows of a study are that were put away, years after it was purged."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Make the column; nothing was put away yet."""
    op.add_column("study", sa.Column("shelf", sa.String(80), nullable=False, server_default=""))
