"""What setup.cfg cannot declare: the parts that are compiled.

All are optional. Where there is no C compiler the installation goes on without them, and their
twins in Python do the work.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            name,
            sources=[source],
            depends=["relay_app/wire/spans.h"],
            extra_compile_args=["-O3"],
            optional=True,
        )
        for name, source in (
            ("relay_app.wire._scanner", "relay_app/wire/_scanner.c"),
            ("relay_app.wire._express", "relay_app/wire/_express.c"),
            ("relay_app.meter._skim", "relay_app/meter/_skim.c"),
        )
    ]
)
