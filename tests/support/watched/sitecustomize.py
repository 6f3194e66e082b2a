"""For a process that has this folder on its PYTHONPATH: it says what it writes, and where."""

import os
import sys

CREATES = ("os.mkdir", "os.rename", "os.link", "os.symlink", "sqlite3.connect")


def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = mode is not None and set(str(mode)) & set("wax+")
        if isinstance(path, int) or not (writes or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
    elif event in CREATES:
        path = arguments[1 if event == "os.rename" else 0]
    elif event == "socket.bind" and isinstance(arguments[1], str | bytes):
        path = arguments[1]
    else:
        return
    os.write(2, f"writes {os.path.abspath(os.fsdecode(path))}\n".encode())


sys.addaudithook(watch)
