"""What setup.cfg cannot declare: the parts that are compiled.

All are optional. Where there is no C compiler the installation goes on without them, and their
twins in Python do the work.
"""

from setuptools import Extension, setup

WIRE = "relay_app/wire/"
METER = "relay_app/meter/"

setup(
    ext_modules=[
        Extension(
            "relay_app.wire._compiled",
            sources=[WIRE + name for name in ("compiled.c", "scanner.c", "express.c", "gate.c")],
            depends=[WIRE + "compiled.h", WIRE + "spans.h"],
            extra_compile_args=["-O3"],
            optional=True,
        ),
        Extension(
            "relay_app.meter._skim",
            sources=[METER + name for name in ("skim.c", "notes.c", "usual.c")],
            depends=[METER + "notes.h", METER + "usual.h"],
            extra_compile_args=["-O3"],
            optional=True,
        ),
    ]
)
