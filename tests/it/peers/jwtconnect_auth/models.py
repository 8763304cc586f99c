from django.conf import settings
from django.db import models


class JWTConnectAuthToken(models.Model):
    """Columns as its five migrations leave them."""

    id = models.AutoField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    # Unique there, which MySQL does not do for a text of any length.
    access_token = models.TextField()
    refresh_token = models.TextField()
    issued_at = models.DateTimeField(blank=True, null=True)
    access_expire_at = models.DateTimeField(blank=True, null=True)
    refresh_expire_at = models.DateTimeField(blank=True, null=True)
    audience = models.CharField(max_length=256, blank=True, null=True)
    sid = models.CharField(max_length=256, blank=True, null=True)
    sub = models.CharField(max_length=256, blank=True, null=True)
    access_jti = models.CharField(max_length=256, unique=True, blank=True, null=True)
    refresh_jti = models.CharField(max_length=256, unique=True, blank=True, null=True)
    is_active = models.BooleanField(default=True)
    created = models.DateTimeField(auto_now_add=True)
