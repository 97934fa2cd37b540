from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('results', '0013_worklist_kinds'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='modelversion',
            name='model_version_sha256',
        ),
        migrations.AddConstraint(
            model_name='modelversion',
            constraint=models.UniqueConstraint(fields=('sha256', 'version'), name='model_version_once'),
        ),
    ]
