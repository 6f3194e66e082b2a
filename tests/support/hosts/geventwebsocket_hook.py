"""The same with the one line that leaves the relay's path to the relay."""

import gevent
from application import create_host
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from relay_app.web.gevent_websocket import leave_to_relay

server = WSGIServer(("127.0.0.1", 0), create_host(), handler_class=WebSocketHandler)
server.pre_start_hook = leave_to_relay
server.start()
print(f"ready http://127.0.0.1:{server.server_port}", flush=True)
gevent.get_hub().join()
