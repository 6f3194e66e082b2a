"""The host application under gevent-websocket, which answers 101 before any view is asked."""

from geventwebsocket.handler import WebSocketHandler
from pywsgi import serve

serve(handler_class=WebSocketHandler)
