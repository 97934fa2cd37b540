"""The tables of the journal, as the newest migration leaves them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

__all__ = [
    "CIRCUIT",
    "CLOCK",
    "COMMITMENT",
    "DELIVERY",
    "DEPLOYMENT",
    "EVENT",
    "HOLDING",
    "INSTANCE",
    "JOB",
    "METADATA",
    "PURGE",
    "SENT_OBJECT",
    "SHADOW",
    "STUDY",
    "TRANSACTION",
    "VERSION",
    "WORKER",
    "Utc",
]


class Utc(TypeDecorator[datetime]):
    """UTC timestamps: stored without a zone, always read back with one."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


METADATA = sa.MetaData()

INSTANCE = sa.Table(
    "instance",
    METADATA,
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
    sa.Column("received_at", Utc, nullable=False),
    sa.Column("receiver", sa.String(80), nullable=False, server_default=""),
    sa.Index("ix_instance_sop_key", "sop_key"),
)
STUDY = sa.Table(
    "study",
    METADATA,
    sa.Column("study_key", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("accession", sa.String(64), nullable=False, default=""),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("probability", sa.Float),
    sa.Column("positive_slices", sa.Integer),
    sa.Column("slices", sa.Integer),
    sa.Column("received_at", Utc, nullable=False),
    sa.Column("last_instance_at", Utc, nullable=False),
    sa.Column("complete_at", Utc),
    sa.Column("predicted_at", Utc),
    sa.Column("explained_at", Utc),
    sa.Column("shelf", sa.String(80), nullable=False, server_default=""),
    sa.Index("ix_study_received", "received_at"),
    sa.Index("ix_study_uid", "study_uid"),
    sa.Index("ix_study_accession", "accession"),
    sa.Index("ix_study_state", "state"),
)


def _work_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("study_key", sa.String(32), nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
        sa.Column("losses", sa.Integer, nullable=False, default=0),
        sa.Column("created_at", Utc, nullable=False),
        sa.Column("due_at", Utc, nullable=False),
        sa.Column("publications", sa.Integer, nullable=False, default=0),
        sa.Column("publish_at", Utc, nullable=False),
        sa.Column("lease_until", Utc),
        sa.Column("owner", sa.String(120)),
        sa.Column("last_error", sa.Text, nullable=False, default=""),
    ]


JOB = sa.Table("job", METADATA, *_work_columns())
DELIVERY = sa.Table(
    "delivery",
    METADATA,
    *_work_columns(),
    sa.Column("destination", sa.String(40), nullable=False),
    sa.Column("urgent", sa.Boolean, nullable=False, default=False),
    sa.Column("shadow", sa.String(255), nullable=False, default=""),
    sa.Column("about", sa.String(40), nullable=False, default=""),
    sa.Column("originals", sa.Boolean, nullable=False, default=False),
)
SENT_OBJECT = sa.Table(
    "sent_object",
    METADATA,
    sa.Column("delivery", sa.String(120), primary_key=True),
    sa.Column("sop_uid", sa.String(64), primary_key=True),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("changed_at", Utc, nullable=False),
)
TRANSACTION = sa.Table(
    "commitment_asked",
    METADATA,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("delivery", sa.String(120), nullable=False, index=True),
    sa.Column("asked_at", Utc, nullable=False),
)
SHADOW = sa.Table(
    "shadow",
    METADATA,
    *_work_columns(),
    sa.Column("route", sa.String(255), nullable=False),
)
CIRCUIT = sa.Table(
    "circuit",
    METADATA,
    sa.Column("destination", sa.String(40), primary_key=True),
    sa.Column("opened_at", Utc, nullable=False),
    sa.Column("opened_by", sa.String(120), nullable=False),
    sa.Column("shared", sa.Boolean, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("probe_at", Utc, nullable=False),
    sa.Column("unwelcome", sa.Text, nullable=False, default=""),
)
CLOCK = sa.Table(
    "clock",
    METADATA,
    sa.Column("host", sa.String(120), primary_key=True),
    sa.Column("ahead_s", sa.Float, nullable=False),
)
WORKER = sa.Table(
    "worker",
    METADATA,
    sa.Column("id", sa.String(120), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("lanes", sa.String(255), nullable=False),
    sa.Column("started_at", Utc, nullable=False),
    sa.Column("seen_at", Utc, nullable=False),
    sa.Column("expected_at", Utc, nullable=False),
    sa.Column("clock_off_s", sa.Float, nullable=False),
)
DEPLOYMENT = sa.Table(
    "deployment",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("percent", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("asked_by", sa.String(120), nullable=False),
    sa.Column("asked_at", Utc, nullable=False),
    sa.Column("served_at", Utc),
    sa.Column("ended_by", sa.String(120), nullable=False, default=""),
    sa.Column("ended_at", Utc),
    sa.Column("note", sa.Text, nullable=False, default=""),
    sa.Index("ix_deployment_name", "name", "state"),
    *(
        sa.Index(
            f"ux_deployment_{which}",
            "name",
            unique=True,
            sqlite_where=sa.text(chosen),
            postgresql_where=sa.text(chosen),
        )
        for which, chosen in (
            ("asked", "state = 'asked'"),
            ("serving", "state = 'serving' AND percent = 100"),
            ("canary", "state = 'serving' AND percent < 100"),
        )
    ),
)
HOLDING = sa.Table(
    "holding",
    METADATA,
    sa.Column("worker", sa.String(120), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("deployment", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("since", Utc, nullable=False),
)
PURGE = sa.Table(
    "purge",
    METADATA,
    sa.Column("study_key", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("cause", sa.String(16), nullable=False),
    sa.Column("begun_at", Utc, nullable=False),
    sa.Column("done_at", Utc),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)
EVENT = sa.Table(
    "event",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("study_key", sa.String(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(120), nullable=False),
    sa.Column("who", sa.String(120), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("at", Utc, nullable=False),
    sa.Column("until", Utc),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("how", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
COMMITMENT = sa.Table(
    "commitment",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("peer", sa.String(16), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("instances", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("due_at", Utc, nullable=False),
    sa.Column("lease_until", Utc),
    sa.Column("owner", sa.String(120)),
    sa.Column("last_error", sa.Text, nullable=False),
)

VERSION = sa.table("alembic_version", sa.column("version_num"))
"""Alembic's own table: which migration ran last."""
