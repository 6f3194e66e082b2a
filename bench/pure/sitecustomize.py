"""Makes the compiled modules unimportable, as where no compiler was: ``PYTHONPATH=bench/pure``.

The rule: nothing of the relay knows of it. Python imports a module of this name by itself.
"""

import sys

for name in ("relay_app.wire._compiled", "relay_app.meter._skim"):
    sys.modules[name] = None  # type: ignore[assignment]
