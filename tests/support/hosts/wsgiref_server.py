"""The host application under a server that keeps its socket to itself, like waitress."""

from wsgiref.simple_server import make_server

from application import create_host

with make_server("127.0.0.1", 0, create_host()) as server:
    print(f"ready http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
