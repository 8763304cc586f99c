"""The system that Countersign replaces, doing its own part: asymmetric_jwt_auth from PyPI, unchanged.

    asymmetric.py sign USERNAME PRIVATE_KEY_FILE COUNT    one Authorization header per line
    asymmetric.py fingerprint PUBLIC_KEY_FILE             what it calls the key: the `kid` of its tokens
    asymmetric.py serve PORT USERNAME PUBLIC_KEY_FILE...  a Django site behind its middleware, which answers each
                                                          request with {"username": whom the middleware recognised}
"""

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


def serve(port, username, *public_key_files):
    from asymmetric_jwt_auth.models import PublicKey
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from wsgiref.simple_server import make_server

    call_command("migrate", verbosity=0)
    user = User.objects.create(username=username)
    for file in public_key_files:
        PublicKey.objects.create(user=user, key=pathlib.Path(file).read_text())
    make_server("127.0.0.1", int(port), get_wsgi_application()).serve_forever()


def who_is_asking(request):
    return JsonResponse({"username": request.user.get_username()})


# Django reads this from its URL configuration, which is this file.
urlpatterns = [re_path("", who_is_asking)]

if __name__ == "__main__":
    main(*sys.argv[1:])
