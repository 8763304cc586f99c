import uuid

from django.contrib.auth.models import AbstractBaseUser
from django.db import models


class Person(AbstractBaseUser):
    """Without any of the columns that a user model need not have, and with a primary key that is no number."""

    person_uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    username = models.CharField(max_length=150, unique=True)
    is_active = None

    USERNAME_FIELD = "username"
