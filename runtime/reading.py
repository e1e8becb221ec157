"""Files of others: regular, of bounded size, and never run.

What a compressed file may become in memory is bounded by its size before it is read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 2**32
MOST_CONFIG = 2**20  # of one that a person writes
# Compressed landmarks shrink less; a file that claims more means harm.
_MOST_GROWTH, _SMALL = 100, 2**26


def open_file(path: str | Path, *, most: int = MOST_BYTES) -> BinaryIO:
    """Opens a regular file to read its bytes, and never waits.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder, or has more than
            ``most`` bytes.
    """
    # Without O_NONBLOCK, opening a pipe waits for someone to write.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        if state.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, *, most: int = MOST_BYTES) -> bytes:
    """The content of a file; raises as :func:`open_file` does."""
    with open_file(path, most=most) as file:
        return file.read(most)


def most_growth(path: str | Path) -> int:
    """How many bytes the arrays of a file may take in memory."""
    return max(_SMALL, _MOST_GROWTH * os.path.getsize(path))
