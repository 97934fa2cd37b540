from django.db import migrations, models

OUTCOMES = [
    ("positive", "Positive"),
    ("undetermined", "Undetermined"),
    ("partial", "Partial"),
    ("not_analysed", "Not analysed"),
    ("negative", "Negative"),
]
RANK = 1_000_000


def make_room(apps, schema_editor):
    """What comes after the positive moves back by one rank."""
    studies = apps.get_model("results", "Study").objects.using(schema_editor.connection.alias)
    studies.filter(urgency__gte=RANK).update(urgency=models.F("urgency") + RANK)


def close_up(apps, schema_editor):
    studies = apps.get_model("results", "Study").objects.using(schema_editor.connection.alias)
    studies.filter(urgency__gte=2 * RANK).update(urgency=models.F("urgency") - RANK)


class Migration(migrations.Migration):
    dependencies = [("results", "0002_copy")]

    operations = [
        migrations.AlterField(
            model_name="study",
            name="outcome",
            field=models.CharField(choices=OUTCOMES, max_length=16),
        ),
        migrations.AlterField(
            model_name="report",
            name="outcome",
            field=models.CharField(choices=OUTCOMES, max_length=16),
        ),
        migrations.RunPython(make_room, close_up),
    ]
