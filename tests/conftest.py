"""What tests of several folders share."""

from pathlib import Path

import jax
import jaxtyping
import pytest

PACKAGE = Path(__file__).parents[1] / "omnijax"


def checked_modules() -> list[str]:
    """The modules whose types are checked as tests call them: all, but for those that plan
    OmniWorld's examples, which hold no arrays and whose functions are called by the million."""
    data, world = PACKAGE / "data", PACKAGE / "data" / "omniworld"
    paths = [*PACKAGE.iterdir(), *data.iterdir(), *world.glob("*.py")]
    checked = [
        path
        for path in paths
        if (path.suffix == ".py" or (path / "__init__.py").exists())
        and path.name != "__init__.py"
        and path not in (data, world)
        and (path.parent != world or "omnijax.typing" in path.read_text())
    ]
    return [".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in sorted(checked)]


jaxtyping.install_import_hook(checked_modules(), "beartype.beartype")


@pytest.fixture(scope="module")
def quick_compile():
    """For tests that compile for longer than they run: XLA's least effort."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
