"""The first journal: instances, study revisions, jobs and deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _work(name: str, *more: sa.Column[str]) -> None:
    op.create_table(
        name,
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("study_key", sa.String(32), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("due_at", sa.DateTime, nullable=False),
        sa.Column("publications", sa.Integer, nullable=False),
        sa.Column("publish_at", sa.DateTime, nullable=False),
        sa.Column("lease_until", sa.DateTime),
        sa.Column("owner", sa.String(120)),
        sa.Column("last_error", sa.Text, nullable=False),
        *more,
    )
    op.create_index(f"ix_{name}_study_key", name, ["study_key"])
    op.create_index(f"ix_{name}_state", name, ["state"])


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "instance",
        sa.Column("study_key", sa.String(32), primary_key=True),
        sa.Column("sop_key", sa.String(32), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax", sa.String(64), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("peer", sa.String(16), nullable=False),
        sa.Column("received_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "study",
        sa.Column("study_key", sa.String(32), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("positive_images", sa.Integer),
        sa.Column("received_at", sa.DateTime, nullable=False),
        sa.Column("last_instance_at", sa.DateTime, nullable=False),
        sa.Column("complete_at", sa.DateTime),
        sa.Column("predicted_at", sa.DateTime),
        sa.Column("explained_at", sa.DateTime),
    )
    op.create_index("ix_study_received", "study", ["received_at"])
    op.create_index("ix_study_uid", "study", ["study_uid"])
    op.create_index("ix_study_state", "study", ["state"])
    _work("job")
    _work("delivery", sa.Column("destination", sa.String(40), nullable=False))
