import keysmith.django
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        keysmith.django.CreateExtension(),
        migrations.CreateModel("Photo", [
            ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("tenant_id", models.UUIDField(db_default=keysmith.django.CurrentTenantId(), db_index=True, editable=False)),
            ("name", models.TextField(unique=True)),
        ]),
        keysmith.django.Isolate("photo", "tenant_id"),
    ]
