"""The archive was called by the make of its bucket; deliveries on their way there still arrive."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Rename the destination, in the keys too; messages with an old key lead to nothing."""
    delivery = sa.table(
        "delivery",
        *(sa.column(c) for c in ("key", "destination", "publications", "publish_at", "due_at")),
    )
    columns = delivery.c
    op.execute(
        delivery.update()
        .where(columns.destination == "gcs")
        .values(
            key=sa.func.substr(columns.key, 1, sa.func.length(columns.key) - len("gcs"))
            + sa.literal("archive", sa.String),
            destination="archive",
            publications=0,
            publish_at=columns.due_at,
        )
    )
