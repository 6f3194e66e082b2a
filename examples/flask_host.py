"""An existing Flask application with the relay inside it.

    gunicorn -k gevent --bind 127.0.0.1:8000 examples.flask_host:app

under gevent-websocket, so that the application's own sockets keep working:

    gunicorn -k relay_app.web.gevent_websocket.Worker examples.flask_host:app

RELAY_CONFIG names the relay's settings (relay.example.toml is one to start from). Clients then
connect to /v1/realtime beside the application's own routes.
"""

from flask import Flask

from relay_app.extension import RealtimeRelay

app = Flask(__name__)
relay = RealtimeRelay(app)


@app.get("/")
def index() -> str:
    """A route of the application's own."""
    return "an application from before the relay\n"
