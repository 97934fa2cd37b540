"""The accession number of a study, by which people look for it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the column; studies that are there already have none."""
    column = sa.Column("accession", sa.String(64), nullable=False, server_default="")
    op.add_column("study", column)
    op.create_index("ix_study_accession", "study", ["accession"])
