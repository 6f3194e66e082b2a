"""``python -m tests.faults``: prints docs/faults.md; with ``--write``, writes it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where pytest finds it, too

from faults.document import DOCUMENT, document

if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        DOCUMENT.write_text(document())
    elif sys.argv[1:]:
        sys.exit("usage: python -m tests.faults [--write]")
    else:
        print(document(), end="")
