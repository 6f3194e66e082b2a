"""The same in a process that was monkey-patched before anything was imported."""

from gevent import monkey

monkey.patch_all()

from pywsgi import serve  # noqa: E402

serve()
