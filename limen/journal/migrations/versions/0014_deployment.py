"""Versions of models that serve, and how far each worker is with them."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make the tables; a bundle that a route names without versions has no row in them."""
    op.create_table(
        "deployment",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_by", sa.String(120), nullable=False),
        sa.Column("asked_at", sa.DateTime, nullable=False),
        sa.Column("served_at", sa.DateTime),
        sa.Column("ended_by", sa.String(120), nullable=False),
        sa.Column("ended_at", sa.DateTime),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_index("ix_deployment_name", "deployment", ["name", "state"])
    # Whatever two people type at the same moment: one is asked for, one serves all, one a part.
    for index, chosen in (
        ("asked", "state = 'asked'"),
        ("serving", "state = 'serving' AND percent = 100"),
        ("canary", "state = 'serving' AND percent < 100"),
    ):
        op.create_index(
            f"ux_deployment_{index}",
            "deployment",
            ["name"],
            unique=True,
            sqlite_where=sa.text(chosen),
            postgresql_where=sa.text(chosen),
        )
    op.create_table(
        "holding",
        sa.Column("worker", sa.String(120), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("deployment", sa.BigInteger, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
    )
