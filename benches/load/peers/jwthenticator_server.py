"""jwthenticator's own server from PyPI, unchanged, on the loopback address alone: by itself it listens on every address.

    jwthenticator_server.py PORT    in an empty folder, which gets its SQLite database
"""

import os
import sys

# Its modules read their settings from the environment when they are imported.
os.environ["DB_URI"] = "sqlite:///jwthenticator.db"
os.environ["ASYNC_URI"] = "sqlite+aiosqlite:///jwthenticator.db"

from aiohttp import web
from jwthenticator.loop_management import main_event_loop
from jwthenticator.server import Server

web.run_app(Server(start_server=False).app, host="127.0.0.1", port=int(sys.argv[1]), loop=main_event_loop)
