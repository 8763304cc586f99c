"""The clients of jwthenticator from PyPI, unchanged, on behalf of a test.

Reads one JSON object per line, {"do": ..., ...}, and answers each with {"result": ...}, or with {"class", "text"} of the
exception. Clients are kept, under the numbers that they are made with: they hold their tokens.
"""

import asyncio
import json
import sys
import uuid

from aiohttp import web
from jwthenticator import server_utils
from jwthenticator.client import Client, InternalClient

clients = []


async def main():
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        try:
            answer = {"result": await OPERATIONS[question.pop("do")](**question)}
        except Exception as exception:
            answer = {"class": type(exception).__name__, "text": str(exception)}
        print(json.dumps(answer), flush=True)


async def client(server, identifier, key=None, refresh_token=None):
    return kept(Client(server, uuid.UUID(identifier), key=key, refresh_token=refresh_token))


async def internal_client(server, identifier):
    return kept(InternalClient(server, uuid.UUID(identifier)))


def kept(made):
    clients.append(made)
    return len(clients) - 1


async def register_key(client, key):
    await clients[client].register_key(key)


async def is_key_registered(client, key):
    return await clients[client].is_key_registered(key)


async def authenticate(client):
    await clients[client].authenticate()


async def refresh(client, auth_on_fail):
    await clients[client].refresh(auth_on_fail=auth_on_fail)


async def get_with_auth(client, url):
    # The client closes its session before it hands the response over. This is aiohttp's own place to read it until then.
    async def read(response):
        await response.read()

    response = await clients[client].get_with_auth(url, raise_for_status=read)
    return {"status": response.status, "body": await response.text()}


async def tokens(client):
    return {"jwt": clients[client].jwt, "refresh_token": clients[client].refresh_token}


async def site(server):
    """A site with one page, which is for holders of a JWT alone; where it listens."""

    @server_utils.authenticate(server)
    async def page(request):
        return web.json_response({"page": request.path})

    application = web.Application()
    application.router.add_get("/page", page)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    return f"{host}:{port}"


OPERATIONS = {
    operation.__name__: operation
    for operation in (
        client, internal_client, register_key, is_key_registered, authenticate, refresh, get_with_auth, tokens, site
    )
}

if __name__ == "__main__":
    asyncio.run(main())
