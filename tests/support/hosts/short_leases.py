"""The relay alone, with leases of two seconds: a test need not wait for 35."""

from flask import Flask

from relay_app.app import create_app


def create() -> Flask:
    return create_app(lease_seconds=2.0)
