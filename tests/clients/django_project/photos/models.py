from django.db import models

from keysmith.django import CurrentTenantId


class Photo(models.Model):
    tenant_id = models.UUIDField(db_default=CurrentTenantId(), editable=False, db_index=True)
    name = models.TextField(unique=True)
