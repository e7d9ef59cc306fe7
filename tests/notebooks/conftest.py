"""A kernel for the notebooks."""

import json
import sys
from pathlib import Path

import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def execute(tmp_path):
    """Runs a notebook's cells in a kernel of this interpreter; returns it with its outputs."""
    folder = tmp_path / "kernels" / "same"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "same", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    specs = KernelSpecManager(kernel_dirs=[str(folder.parent)], ensure_native_kernel=False)

    def run(book):
        manager = AsyncKernelManager(kernel_name="same", kernel_spec_manager=specs)
        place = {"metadata": {"path": str(NOTEBOOKS)}}
        return NotebookClient(book, km=manager, timeout=900, resources=place).execute()

    return run
