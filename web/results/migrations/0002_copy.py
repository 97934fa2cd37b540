from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("results", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="renderedimage",
            name="copy",
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.RemoveConstraint(model_name="renderedimage", name="rendered_image_key"),
        migrations.AddConstraint(
            model_name="renderedimage",
            constraint=models.UniqueConstraint(
                fields=("report", "sop_uid", "frame", "copy", "kind"), name="rendered_image_key"
            ),
        ),
    ]
