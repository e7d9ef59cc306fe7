"""What tests of several folders share."""

import gc
import os
import sys
import tempfile
from pathlib import Path

# librosa's compiled functions are kept beside it: on a fresh machine two workers of one run would
# write them at the same time, and what the other then loads can crash it.
NUMBA_CACHE = tempfile.TemporaryDirectory(prefix="omnijax-numba-")
os.environ["NUMBA_CACHE_DIR"] = NUMBA_CACHE.name
# What one test compiled, others load (a run that is resumed is the same program again): one folder
# a run of the suite, made by the process that starts the workers, which inherit its name. Of two
# that write at once one may read half an entry: JAX then warns and compiles.
if "PYTEST_XDIST_WORKER" not in os.environ:
    XLA_CACHE = tempfile.TemporaryDirectory(prefix="omnijax-xla-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = XLA_CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

PACKAGE = Path(__file__).parents[1] / "omnijax"
# Of OmniWorld: they hold no arrays, and their functions are called by the million.
PLANNERS = {
    "calls", "clips", "drawing", "language", "pictures", "recall", "scenes", "sentences", "splits",
    "tasks", "voices", "wordings",
}  # fmt: skip


def checked_modules() -> list[str]:
    """The modules whose types are checked as tests call them: all but the planners."""
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    world = PACKAGE / "data" / "omniworld"
    checked = [path for path in files if path.parent != world or path.stem not in PLANNERS]
    packages = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "data"]
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted({*checked, *packages})  # a package's name stands for its __init__ too
    ]


assert "omnijax" not in sys.modules, "omnijax was imported before its types could be checked"
jaxtyping.install_import_hook(checked_modules(), "beartype.beartype")


MAPPINGS = Path("/proc/self/maps")  # of Linux, where a process may have 65,530 by default


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Compiled programs hold a mapping or more a kernel: those of all tests together are more than
    a process may have, and XLA crashes at the next."""
    yield
    if MAPPINGS.is_file() and MAPPINGS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quick_compile():
    """For tests that compile for longer than they run: XLA's least effort."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
