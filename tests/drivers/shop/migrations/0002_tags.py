"""Outside of a transaction, as indexes of large tables are made."""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


def first_customer(apps, schema_editor):
    apps.get_model("shop", "Customer").objects.create(name="the first", tags=["migrated"])


def nobody(apps, schema_editor):
    apps.get_model("shop", "Customer").objects.all().delete()


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("Customer", "tags", ArrayField(models.TextField(), default=list)),
        AddIndexConcurrently("Customer", GinIndex(fields=["tags"], name="customer_tags")),
        migrations.RunPython(first_customer, nobody),
    ]
