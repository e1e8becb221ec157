"""Shared test set-up: strict numerics, shape checks, four virtual CPU devices."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # One cache for all workers and the programs they start; gone at the end.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jax-cache-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Held for the whole session: every public signature is checked when it is called.
_hook = install_import_hook(["losses", "nrsfm_jax", "pose_jax"], "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def _programs(request):
    """How the programs of one file are compiled; they are of no use to the next.

    Most of the time of a test goes into compiling programs that run for milliseconds:
    without most optimisations it is half as much. A file whose programs run for
    seconds has ``RUNS_LONG``; JAX_DISABLE_MOST_OPTIMIZATIONS=0 is for all.
    """
    quick = not getattr(request.module, "RUNS_LONG", False)
    quick = quick and os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") != "0"
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def few_trials():
    """The EM tries the views for a short time only."""
    from em_bodies import make_trials_few

    with pytest.MonkeyPatch.context() as patch:
        make_trials_few(patch.setattr)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("NRSFM_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set NRSFM_DATA to its folder")
    return folder
