"""Django projects that `countersign import` takes over from, on any database: made by Django's own migrations, filled through
the models of the applications.

    import_sources.py asymmetric DATABASE_URL [people]    asymmetric_jwt_auth from PyPI, unchanged; perhaps with the user model
                                                          of `people`
    import_sources.py jwtconnect DATABASE_URL             what django-jwtconnect-auth keeps

Reads users as a JSON array from standard input. May be run again for more of them, and for changes to those that are there.
Writes what clients have of them as a JSON object.
"""

import datetime
import hashlib
import json
import os
import sys
import urllib.parse

import django
from django.conf import settings


def main(application, database_url, *user_model):
    settings.configure(
        SECRET_KEY="of this process alone",
        USE_TZ=True,
        DATABASES={"default": database(database_url)},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        AUTH_USER_MODEL="people.Person" if user_model else "auth.User",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            *user_model,
            {"asymmetric": "asymmetric_jwt_auth", "jwtconnect": "jwtconnect_auth"}[application],
        ],
    )
    django.setup()
    from django.core.management import call_command

    # Applications without migrations get their tables first, and MySQL takes no reference to users who are not there yet.
    call_command("migrate", "auth", verbosity=0)
    call_command("migrate", verbosity=0, run_syncdb=True)
    print(json.dumps({"asymmetric": asymmetric, "jwtconnect": jwtconnect}[application](json.load(sys.stdin))))


def database(url):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path}
    if parts.scheme == "mysql":
        import pymysql

        pymysql.install_as_MySQLdb()
    engine = {"postgres": "postgresql", "mysql": "mysql"}[parts.scheme]
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": parts.username,
        "NAME": parts.path.removeprefix("/"),
    }


def user(fields):
    """The user of that name, as `fields` have it."""
    from django.contrib.auth import get_user_model

    joined = fields.get("date_joined")
    changes = {**fields, **({"date_joined": datetime.datetime.fromisoformat(joined)} if joined else {})}
    return get_user_model().objects.update_or_create(username=fields["username"], defaults=changes)[0]


def asymmetric(users):
    from asymmetric_jwt_auth.keys import Ed25519PrivateKey
    from asymmetric_jwt_auth.models import JWKSEndpointTrust, PublicKey
    from django.contrib.auth import get_user_model

    for fields in users:
        count = fields.pop("many", 0)
        if count:
            names = [f"{fields['username']}-{number}" for number in range(count)]
            made = get_user_model().objects.bulk_create([get_user_model()(username=name) for name in names])
            keys = [Ed25519PrivateKey.generate().public_key.as_pem.decode() for _ in made]
            PublicKey.objects.bulk_create([PublicKey(user=owner, key=key) for owner, key in zip(made, keys)])
            continue
        keys, jwks_url = fields.pop("keys", []), fields.pop("jwks_url", None)
        owner = user(fields)
        for key in keys:
            used = key.get("last_used_on")
            PublicKey.objects.create(
                user=owner,
                key=key["key"],
                comment=key.get("comment", ""),
                last_used_on=datetime.datetime.fromisoformat(used) if used else None,
            )
        if jwks_url:
            JWKSEndpointTrust.objects.create(user=owner, jwks_url=jwks_url)
    return {}


def jwtconnect(users):
    """Pairs of tokens with its claims, signed by RS256 without a `kid`."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from jwtconnect_auth.models import JWTConnectAuthToken
    import jwt

    signing_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    given = {}
    for fields in users:
        tokens = fields.pop("tokens", [])
        owner = user(fields)
        for token in tokens:
            jtis = {kind: hashlib.sha256(os.urandom(32)).hexdigest() for kind in "TR"}
            ends = {"T": now + datetime.timedelta(minutes=30), "R": now + datetime.timedelta(seconds=token["refresh_expires_in"])}
            sub = hashlib.sha256(owner.username.encode()).hexdigest()
            issued = {"iat": int(now.timestamp()), "iss": "http://localhost:8000", "sub": sub}
            access, refresh = (
                jwt.encode(
                    {**issued, "jti": jtis[kind], "ttype": kind, "exp": int(ends[kind].timestamp())}, signing_key, "RS256"
                )
                for kind in "TR"
            )
            JWTConnectAuthToken.objects.create(
                user=owner,
                access_token=access,
                refresh_token=refresh,
                issued_at=now,
                access_expire_at=ends["T"],
                refresh_expire_at=ends["R"],
                audience=token.get("audience"),
                sid=token.get("sid"),
                sub=sub,
                access_jti=jtis["T"],
                refresh_jti=jtis["R"],
                is_active=token.get("is_active", True),
            )
            given.setdefault(owner.username, []).append({"access_token": access, "refresh_token": refresh})
    return given


if __name__ == "__main__":
    main(*sys.argv[1:])
