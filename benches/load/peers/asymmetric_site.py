"""A Django site behind the middleware of asymmetric_jwt_auth from PyPI, with everything as it comes but what its manual asks for:
the middleware, and a cache that several processes share, here Redis.

    asymmetric_site.py PUBLIC_KEY_FILE...    makes the database: a user for each file, named as the file is
    gunicorn asymmetric_site:application     serves: 200 to whom the middleware recognises, else 401

Both in the folder that holds the database; REDIS_URL names the cache.
"""

import os
import pathlib
import sys

from django import setup
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path

settings.configure(
    SECRET_KEY="of this process alone",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}},
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["REDIS_URL"]},
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "asymmetric_jwt_auth",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "asymmetric_jwt_auth.middleware.JWTAuthMiddleware",
    ],
    LOGGING_CONFIG=None,
)


def main(*public_key_files):
    setup()

    from asymmetric_jwt_auth.models import PublicKey
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    for file in map(pathlib.Path, public_key_files):
        user = User.objects.create(username=file.name)
        PublicKey.objects.create(user=user, key=file.read_text())


def who_is_asking(request):
    return HttpResponse(status=200 if request.user.is_authenticated else 401)


# Django reads this from its URL configuration, which is this file.
urlpatterns = [re_path("", who_is_asking)]

if __name__ == "__main__":
    main(*sys.argv[1:])
else:
    application = get_wsgi_application()
