from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("results", "0003_undetermined")]

    operations = [
        migrations.CreateModel(
            name="PacsDelivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("study_uid", models.CharField(max_length=64)),
                ("revision", models.PositiveIntegerField()),
                (
                    "phase",
                    models.CharField(
                        choices=[("prediction", "Predicted"), ("explanation", "Explained")],
                        max_length=16,
                    ),
                ),
                ("destination", models.CharField(max_length=40)),
                ("state", models.CharField(max_length=16)),
                ("reason", models.TextField(blank=True)),
                ("objects_told", models.JSONField()),
                ("told_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("study_uid", "revision", "phase", "destination"),
                        name="pacs_delivery_key",
                    )
                ]
            },
        ),
    ]
