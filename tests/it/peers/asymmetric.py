"""The system that Countersign replaces, doing its own part: asymmetric_jwt_auth from PyPI, unchanged.

    asymmetric.py sign USERNAME PRIVATE_KEY_FILE COUNT    one Authorization header per line
    asymmetric.py fingerprint PUBLIC_KEY_FILE             what it calls the key: the `kid` of its tokens
    asymmetric.py serve PORT USERS_FILE                   a Django site behind its middleware, which answers each
                                                          request with {"username": whom the middleware recognised};
                                                          its users are a JSON array of
                                                          {"username", "is_active", "keys"}
"""

import json
import pathlib
import sys

import django
from django.conf import settings
from django.http import JsonResponse
from django.urls import re_path


def main(command, *arguments):
    settings.configure(
        SECRET_KEY="of this process alone",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}},
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
    )
    django.setup()
    {"sign": sign, "fingerprint": fingerprint, "serve": serve}[command](*arguments)


def sign(username, private_key_file, count):
    from asymmetric_jwt_auth.keys import PrivateKey
    from asymmetric_jwt_auth.tokens import Token

    key = PrivateKey.load_pem_from_file(private_key_file)
    for _ in range(int(count)):
        print(Token(username).create_auth_header(key))


def fingerprint(public_key_file):
    from asymmetric_jwt_auth.keys import PublicKey

    error, key = PublicKey.load_serialized_public_key(pathlib.Path(public_key_file).read_bytes())
    if key is None:
        raise error
    print(key.fingerprint)


def serve(port, users_file):
    from asymmetric_jwt_auth.models import PublicKey
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from wsgiref.simple_server import make_server

    call_command("migrate", verbosity=0)
    for user in json.loads(pathlib.Path(users_file).read_text()):
        keys = user.pop("keys")
        user = User.objects.create(**user)
        for key in keys:
            # As its pages do: what it does not read, it does not keep.
            row = PublicKey(user=user, key=key)
            row.full_clean()
            row.save()
    make_server("127.0.0.1", int(port), get_wsgi_application()).serve_forever()


def who_is_asking(request):
    return JsonResponse({"username": request.user.get_username()})


# Django reads this from its URL configuration, which is this file.
urlpatterns = [re_path("", who_is_asking)]

if __name__ == "__main__":
    main(*sys.argv[1:])
