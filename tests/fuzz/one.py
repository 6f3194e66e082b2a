"""One target in a process of its own, as libFuzzer wants it: ``python -m tests.fuzz.one NAME ...``.

What is behind the name are arguments of libFuzzer. Needs atheris.
"""

import logging
import shlex
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))  # where pytest finds it, too

with atheris.instrument_imports(include=["relay_app", "tomllib", "email"]):
    from fuzz.targets import TARGETS

from fuzz.mutator import Mutator

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # damaged journals say so
    _, name, *arguments = sys.argv
    again = f"{shlex.quote(sys.executable)} -m tests.fuzz.one {name}"  # how a merge calls itself
    # Asked of atheris each time: what stands there is another once it fuzzes.
    mutate = Mutator(TARGETS[name], lambda data, size: atheris.Mutate(data, size))
    atheris.Setup([again, *arguments], TARGETS[name].check, custom_mutator=mutate)
    atheris.Fuzz()
