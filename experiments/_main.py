"""What every experiment starts with: flags, errors a user can mend as one line, signals.

`launch(main)` parses the flags and calls `main()`. A UserError, a flag or config field that does
not exist: one line on stderr, exit status 2. A score that finds a shortcut: 3. A run stopped by
SIGTERM or Ctrl-C: status 143 / 130 after its checkpoint, so that whoever started it knows that it
is not done.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging

from omnijax.errors import UserError

SHORTCUT = 3  # the exit status of a score that says: a task does not need what it should


def _one_line(error: BaseException) -> str:
    """The last line of a message: config_flags wraps errors of a config file into its trace."""
    text = str(error).strip() or type(error).__name__
    last = text.splitlines()[-1].strip() if "Traceback" in text else " ".join(text.split())
    return re.sub(r"^[\w.]*(Error|Exception): ", "", last)


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def config_file(path: str) -> ModuleType:
    """The module of a config file, which has `get_config`."""
    spec = importlib.util.spec_from_file_location("omnijax_experiment_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _given_config(argv: list[str]) -> tuple[str, str]:
    """(file, stage) of --config; empty where there is none."""
    for i, arg in enumerate(argv):
        if match := re.match(r"--?config(?:=(.*))?$", arg):
            value = match[1] if match[1] is not None else "".join(argv[i + 1 : i + 2])
            path, _, stage = value.partition(":")
            if not Path(path).is_file():
                raise UserError(f"config file {path!r} does not exist")
            return path, stage
    return "", ""


def _check_fields(argv: list[str], path: str, stage: str) -> None:
    """Raises for a --config.FIELD that the config lacks, with those that it has."""
    named = [match[1] for arg in argv if (match := re.match(r"--?config\.([\w.]+)(=|$)", arg))]
    if not (path and named):
        return
    config = config_file(path).get_config(*([stage] if stage else [])).to_dict()
    for field in named:
        section, where = config, "config"
        for name in field.split("."):
            if name not in (section if isinstance(section, Mapping) else {}):
                has = ", ".join(section) if isinstance(section, Mapping) else "no fields"
                raise UserError(f"--config.{field}: {where} has no {name!r}; it has {has}")
            section, where = section[name], f"{where}.{name}"


def launch(
    main: Callable[..., int | None], argv: list[str] | None = None, *, commands: bool = False
) -> None:
    """Runs an experiment; never returns. With `commands`, main takes what is no flag."""
    argv = sys.argv if argv is None else argv
    logging.set_verbosity(logging.WARNING)
    if {"--help", "-h", "--helpfull"} & {*argv[1:]}:
        app.usage(shorthelp="--helpfull" not in argv, writeto_stdout=True, exitcode=0)
    try:
        _check_fields(argv, *_given_config(argv))
        rest = flags.FLAGS(argv)
        if len(rest) > 1 and not commands:
            raise UserError(f"cannot read the argument {rest[1]!r}: flags are --name=value")
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(_one_line(error))
    try:
        sys.exit(main(rest[1:]) if commands else main())
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def check_output(path: str, suffix: str | None = None, *, make_folder: bool = False) -> None:
    """Raises before any work is done if the file could not be written at its end."""
    target = Path(path).absolute()
    if make_folder:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
    if suffix and target.suffix != suffix:
        raise UserError(f"cannot write {path}: give the name of a {suffix} file")
    if not target.parent.is_dir():
        raise UserError(f"cannot write {path}: its folder does not exist")
    if target.is_dir() or not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UserError(f"cannot write {path}: it is a folder, or not yours to write")


def compilation_cache(directory: str | None = None) -> None:
    """Keeps compiled programs between runs, so that resuming starts in seconds."""
    import jax

    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "omnijax" / "xla"
    try:
        (path := Path(directory or default)).mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home: compile again
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
