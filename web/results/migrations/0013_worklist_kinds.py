from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('results', '0012_model_versions'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='study',
            name='worklist_modality',
        ),
        migrations.AddIndex(
            model_name='study',
            index=models.Index(condition=models.Q(('is_test', False)), fields=['modality', 'phase', 'outcome', 'urgency'], name='worklist_kinds'),
        ),
    ]
