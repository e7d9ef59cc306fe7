"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from omnijax.errors import UserError


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A name to write to, of the same suffix, which takes the place of `path` at the end.

    The folder is made. Until the end, and after an error, what was at `path` stays.

    Raises:
      UserError: the disk is full or not ours to write.
    """
    path = Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
