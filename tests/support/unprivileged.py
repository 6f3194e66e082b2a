"""Becomes the user ``nobody``, if started by root, and then the program of its arguments.

Of root's privileges it keeps the one to read everything, for Python itself may be in a folder that
is root's alone.
"""

import ctypes
import os
import pwd
import struct
import sys

PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522


def become_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(*[nobody.pw_gid] * 3)
    os.setresuid(*[nobody.pw_uid] * 3)
    # Where root itself may not do so, Python has to be where everybody can read it.
    bit = 1 << CAP_DAC_READ_SEARCH
    libc.capset(
        struct.pack("Ii", _CAPABILITY_VERSION_3, 0), struct.pack("6I", bit, bit, bit, 0, 0, 0)
    )
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0)


if __name__ == "__main__":
    if os.getuid() == 0:
        become_nobody()
    os.execv(sys.argv[1], sys.argv[1:])
