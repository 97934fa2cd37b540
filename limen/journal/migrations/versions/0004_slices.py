"""A finding counts slices: how many are positive, of how many."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Name the column for what it counts, and keep the slices there were."""
    with op.batch_alter_table("study") as table:
        table.alter_column("positive_images", new_column_name="positive_slices")
        table.add_column(sa.Column("slices", sa.Integer))
