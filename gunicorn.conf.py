"""gunicorn's configuration lives in the package; what is set here comes on top of it."""

from gevent import monkey

monkey.patch_all()

from relay_app.web.gunicorn import *  # noqa: E402, F403

wsgi_app = "wsgi:app"
