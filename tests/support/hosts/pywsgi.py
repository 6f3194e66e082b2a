"""The host application under gevent's own server, which is all gevent and patches nothing."""

import gevent
from application import create_host
from gevent.pywsgi import WSGIServer


def serve(**options) -> None:
    server = WSGIServer(("127.0.0.1", 0), create_host(), **options)
    server.start()
    print(f"ready http://127.0.0.1:{server.server_port}", flush=True)
    gevent.get_hub().join()


if __name__ == "__main__":
    serve()
