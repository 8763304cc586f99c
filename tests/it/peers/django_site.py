"""A site on Django, with its defaults: django_site.py PORT"""

import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path


def route(name):
    return lambda request: JsonResponse({"route": name})


urlpatterns = [
    path("healthz", route("/healthz")),
    path("admin/", route("/admin")),
    path("admin/keys", route("/admin/keys")),
    path("orders", route("/orders")),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


def main(port):
    settings.configure(
        SECRET_KEY="of this process alone",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    )
    make_server("127.0.0.1", int(port), get_wsgi_application(), handler_class=Quiet).serve_forever()


main(sys.argv[1])
