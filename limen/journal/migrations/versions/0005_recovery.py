"""Shadows as work of their own, claims whose worker died, circuits of destinations, workers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables and columns."""
    for name in ("job", "delivery"):
        op.add_column(name, sa.Column("losses", sa.Integer, nullable=False, server_default="0"))
    urgent = sa.Column("urgent", sa.Boolean, nullable=False, server_default=sa.false())
    shadow = sa.Column("shadow", sa.String(255), nullable=False, server_default="")
    op.add_column("delivery", urgent)
    op.add_column("delivery", shadow)
    op.create_table(
        "shadow",
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("study_key", sa.String(32), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("due_at", sa.DateTime, nullable=False),
        sa.Column("publications", sa.Integer, nullable=False),
        sa.Column("publish_at", sa.DateTime, nullable=False),
        sa.Column("lease_until", sa.DateTime),
        sa.Column("owner", sa.String(120)),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("route", sa.String(255), nullable=False),
    )
    op.create_index("ix_shadow_study_key", "shadow", ["study_key"])
    op.create_index("ix_shadow_state", "shadow", ["state"])
    op.create_table(
        "circuit",
        sa.Column("destination", sa.String(40), primary_key=True),
        sa.Column("opened_at", sa.DateTime, nullable=False),
        sa.Column("opened_by", sa.String(120), nullable=False),
        sa.Column("shared", sa.Boolean, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("probe_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.String(120), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("lanes", sa.String(255), nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
        sa.Column("expected_at", sa.DateTime, nullable=False),
        sa.Column("clock_off_s", sa.Float, nullable=False),
    )
