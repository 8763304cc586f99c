"""Runs the plugin of examples/kong in LuaJIT, as Kong would in its access phase, for the request on standard input.

    kong.py FOLDER    {"config": {...}, "request": {...}} in, {"exit": ..., "headers": ...} out

The plugin's files are the very ones of the example. What Kong and OpenResty give a plugin is stood in for here, as far as this one
uses it: the parts of the plugin development kit, `ngx.req` and `ngx.var`, and lua-resty-http, which really asks.
"""

import http.client
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from lupa.luajit21 import LuaRuntime

KINDS = {"string": str, "boolean": bool, "integer": int}


def main(folder):
    told = json.load(sys.stdin)
    plugin = Plugin(Path(folder) / "kong/plugins/countersign", told["request"])
    config = plugin.complete(told["config"])
    plugin.access(config)
    json.dump({"exit": plugin.exit, "headers": plugin.request["headers"]}, sys.stdout)


class Plugin:
    def __init__(self, folder, request):
        self.folder, self.request, self.exit = folder, request, None
        self.lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False)
        kong = {
            "request": {
                "get_method": lambda: request["method"],
                "get_forwarded_scheme": lambda: request["scheme"],
                "get_forwarded_port": lambda: request["port"],
            },
            "client": {"get_forwarded_ip": lambda: request["peer"]},
            "service": {"request": {"clear_header": self.clear, "set_header": self.set}},
            "response": {"exit": self.leave},
            "log": {"err": lambda *words: print(*words, file=sys.stderr)},
        }
        ngx = {
            "req": {"get_headers": self.headers},
            "var": {"http_host": request["host"], "host": request["server"], "request_uri": request["target"]},
        }
        globals_ = self.lua.globals()
        globals_.kong, globals_.ngx = self.table(kong), self.table(ngx)
        globals_.package.loaded["resty.http"] = self.table({"new": self.client})
        globals_.package.loaded["kong.db.schema.typedefs"] = self.lua.execute("""
            local typed = function(kind) return setmetatable({type = kind}, {__call = function(self, more)
                more.type = kind; return more end}) end
            return {url = typed "string", no_consumer = {}, protocols_http = {}}""")

    def complete(self, config):
        """The configuration with its defaults, held to the plugin's own schema."""
        schema = self.lua.execute((self.folder / "schema.lua").read_text())
        fields = next(field.config for field in schema.fields.values() if field.config).fields
        known = {name: field for entry in fields.values() for name, field in entry.items()}
        unknown = set(config) - set(known)
        assert not unknown, f"schema.lua knows no {unknown}"
        complete = {}
        for name, field in known.items():
            value = config.get(name, field.default)
            assert value is not None or not field.required, f"{name} is required"
            assert value is None or type(value) is KINDS[field.type], f"{name} is no {field.type}"
            complete[name] = value
        return complete

    def access(self, config):
        handler = self.lua.execute((self.folder / "handler.lua").read_text())
        handler.access(handler, self.table(config))

    def headers(self, _maximum):
        """Names in lower case, underscores as they are; several values in a table."""
        found = {}
        for name, value in self.request["headers"]:
            found.setdefault(name.lower(), []).append(value)
        return self.table({name: values[0] if len(values) == 1 else values for name, values in found.items()})

    def clear(self, name):
        self.request["headers"] = [pair for pair in self.request["headers"] if pair[0].lower() != name.lower()]

    def set(self, name, value):
        self.clear(name)
        self.request["headers"].append([name, value])

    def leave(self, status, body=None, headers=None):
        """Nothing runs after it."""
        self.exit = {"status": status, "body": body, "headers": [[name.lower(), value] for name, value in (headers or {}).items()]}

    def client(self):
        timeout = []
        return self.table({
            "set_timeout": lambda _self, milliseconds: timeout.append(milliseconds / 1000),
            "request_uri": lambda _self, url, parameters: self.ask(url, parameters, timeout[0]),
        })

    def ask(self, url, parameters, timeout):
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        try:
            connection.putrequest(parameters.method, target, skip_accept_encoding=True)
            for name, value in parameters.headers.items():
                for one in [value] if isinstance(value, str) else value.values():
                    connection.putheader(name, one)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read().decode()
        except OSError as error:
            return None, str(error)
        finally:
            connection.close()
        headers = self.table({name.lower(): value for name, value in answer.getheaders()})
        # Looked up without case.
        headers = self.lua.eval("function(h) return setmetatable({}, {__index = function(_, n) return h[n:lower()] end}) end")(headers)
        return self.table({"status": answer.status, "body": body, "headers": headers}), None

    def table(self, value):
        if isinstance(value, dict):
            table = self.lua.table()
            for name, part in value.items():
                table[name] = self.table(part)
            return table
        if isinstance(value, list):
            return self.lua.table(*map(self.table, value))
        return value


if __name__ == "__main__":
    main(sys.argv[1])
