"""The relay as a WSGI application, for ``gunicorn wsgi:app`` and ``flask --app wsgi run``."""

from relay_app.app import create_app

app = create_app()
