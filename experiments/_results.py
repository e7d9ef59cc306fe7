"""What an experiment of many runs knows so far: one JSON file that grows."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from omnijax.errors import UserError
from omnijax.files import whole

# Of every such experiment, which has its own defaults.
SEEDS = flags.DEFINE_integer("seeds", None, "Models of each kind.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", None, "Of training.", lower_bound=1)
INTO = flags.DEFINE_string("into", None, "Folder of results.json, index.html.")


class Results:
    """results.json in a folder, on disk after every addition; ``page`` is the page beside it.

    Args:
      settings: a dataclass; what was made with others cannot be mixed in, but for fields that
        ``may_grow``.
      parts: tables that runs add to.
    """

    def __init__(
        self,
        folder: Path,
        settings: Any,
        *,
        may_grow: Sequence[str],
        parts: Sequence[str],
        fresh: Mapping[str, Any] | None = None,
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        self.path, self.page = folder / "results.json", folder / "index.html"
        now = json.loads(json.dumps(dataclasses.asdict(settings)))
        self.data: dict[str, Any] = {part: {} for part in parts}
        if self.path.exists():
            try:
                self.data = json.loads(self.path.read_text())
                before = self.data["settings"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.path} cannot be read as results; move it away") from None
            for name in now:
                if name not in may_grow and before.get(name) != now[name]:
                    raise UserError(
                        f"{self.path} was made with {name} {before.get(name)}, not {now[name]}: "
                        "give another --into"
                    )
        self.data["settings"] = now
        for name, value in (fresh or {}).items():
            self.data[name] = {**self.data.get(name, {}), **value} if name == "tasks" else value

    def save(self) -> None:
        with whole(self.path) as partial:
            partial.write_text(json.dumps(self.data, indent=1) + "\n")


def spread(values: Sequence[float]) -> str:
    """Mean and, of several seeds, the least and the most."""
    if not len(values):
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
