"""Deliveries of the received instances alone, which a prediction waits for."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make the column; the deliveries that are there bring results."""
    column = sa.Column("originals", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("delivery", column)
