"""Files read in a process of their own.

What libraries in C do with a damaged file, to crash or to ask for any memory, must not
end the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Memory and seconds that any file may take, and more for each of its bytes.
_MEMORY, _SECONDS = (700 * 2**20, 150), (60, 1e-6)
# Stands in a program after its imports.
LIMITS = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
"""


def run_apart(program: str, path: Path, *arguments: str) -> bytes:
    """What a program prints that gets ``path``, two limits, and arguments.

    Raises:
        ValueError: it failed; with the last line that it said, or how it ended.
    """
    size = path.stat().st_size
    limits = (str(int(any + each * size)) for any, each in (_MEMORY, _SECONDS))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), *limits, *arguments],
        capture_output=True,
        check=False,
        # Each thread of the linear algebra would count as memory.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(
            lines[-1] if lines else f"its reader ended by {done.returncode}"
        )
    return done.stdout
