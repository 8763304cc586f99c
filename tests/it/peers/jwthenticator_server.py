"""jwthenticator's own server from PyPI, unchanged.

    jwthenticator_server.py serve PORT    on the loopback address alone: by itself it listens on every address
    jwthenticator_server.py fill          registers keys through its own managers, with times of their own: reads them as a JSON
                                          array from standard input, and writes the refresh tokens of each

Its modules read where its database is from DB_URI and ASYNC_URI.
"""

import datetime
import hashlib
import json
import sys
import uuid

from jwthenticator.loop_management import main_event_loop


def serve(port):
    from aiohttp import web
    from jwthenticator.server import Server

    web.run_app(Server(start_server=False).app, host="127.0.0.1", port=int(port), loop=main_event_loop)


def fill():
    from jwthenticator.keys import KeyManager
    from jwthenticator.tokens import TokenManager

    # They make the tables when they are made, in the loop.
    managers = KeyManager(), TokenManager("no key")
    print(json.dumps(main_event_loop.run_until_complete(filled(*managers, json.load(sys.stdin)))))


async def filled(key_manager, token_manager, keys):
    from jwthenticator.models import RefreshTokenInfo

    made = []
    for key in keys:
        await key_manager.create_key(key["key"], uuid.UUID(key["identifier"]), moment(key["expires_in"]))
        known = await key_manager.get_key(hashlib.sha512(key["key"].encode()).hexdigest())
        tokens = []
        for seconds in key.get("tokens", []):
            if seconds > 0:
                tokens.append(await token_manager.create_refresh_token(known.id, moment(seconds)))
                continue
            # Its manager makes none that is over already.
            async with token_manager.async_session_factory() as session, session.begin():
                session.add(RefreshTokenInfo(expires_at=moment(seconds), token=f"expired {uuid.uuid4()}", key_id=known.id))
        made.append(tokens)
    return made


def moment(seconds):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"serve": serve, "fill": fill}[command](*arguments)
