"""A relay as one would write it first: flask-sock, simple-websocket, JSON parsed and written again.

It admits by key, counts what response.done reports, and knows nothing of back-pressure,
durability, budgets, close codes or large messages. Here to show what a design buys.

    BENCH_UPSTREAM=ws://127.0.0.1:9000 gunicorn -k gevent peers.naive:app
"""

import os
from collections import Counter
from typing import Any

import gevent
import ujson
from flask import Flask, abort, request
from flask_sock import Sock
from simple_websocket import Client, ConnectionClosed

UPSTREAM = os.environ["BENCH_UPSTREAM"]
KEYS = set(os.environ["BENCH_KEYS"].split(","))

app = Flask(__name__)
sock = Sock(app)
tokens: Counter[str] = Counter()


@app.before_request
def admit() -> None:
    if request.headers.get("Authorization", "").removeprefix("Bearer ") not in KEYS:
        abort(401)


@sock.route("/v1/realtime")
def realtime(client: Any) -> None:
    model = request.args["model"]
    target = Client.connect(
        f"{UPSTREAM}/v1/realtime?model={model}", headers={"Authorization": "Bearer sk-upstream"}
    )
    up = gevent.spawn(pump, client, target)
    try:
        pump(target, client, count)
    finally:
        up.kill()
        client.close()


def pump(source: Any, sink: Any, look: Any = None) -> None:
    try:
        while True:
            event = ujson.loads(source.receive())
            if look is not None:
                look(event)
            sink.send(ujson.dumps(event, escape_forward_slashes=False))
    except ConnectionClosed:
        sink.close()


def count(event: dict[str, Any]) -> None:
    if event["type"] == "response.done" and event["response"].get("usage"):
        usage = event["response"]["usage"]
        tokens["input"] += usage["input_tokens"]
        tokens["output"] += usage["output_tokens"]
