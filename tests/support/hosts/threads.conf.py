"""A host's own gunicorn configuration, for workers of threads: the relay's would patch them."""

control_socket_disable = True
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s'


def when_ready(server) -> None:
    host, port = server.LISTENERS[0].sock.getsockname()
    print(f"ready http://{host}:{port}", flush=True)


def worker_exit(server, worker) -> None:
    worker.wsgi.extensions["relay_app"].close()
