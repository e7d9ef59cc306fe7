"""Training in several processes, such as the hosts of a pod: each has some of the mesh's devices.

All run the same program. What only one can know, a signal or a clock, they agree on; what only one
may do, to write a file that is no checkpoint, the first does. Each reads the whole stream of
examples and makes arrays of the rows that its own devices need.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from omnijax.errors import UserError
from omnijax.sharding import partition_spec


class Share(NamedTuple):
    """The `index`-th of `count` equal runs of a batch's rows."""

    index: int
    count: int


ALONE = Share(0, 1)


def join(how: str) -> None:
    """Makes this process one of several, before JAX is asked for anything else.

    how: "auto" on a pod, under Slurm or MPI; else "HOST:PORT,INDEX,COUNT", the same HOST:PORT, of
    the first process, for all.
    """
    given: dict[str, Any] = {}
    if how != "auto":
        address, *numbers = how.split(",")
        if ":" not in address or len(numbers) != 2 or not all(n.isdigit() for n in numbers):
            raise UserError(f"distributed is {how!r}: give auto, or HOST:PORT,INDEX,COUNT")
        index, count = map(int, numbers)
        if index >= count:
            raise UserError(f"distributed is {how!r}: INDEX {index} must be below COUNT {count}")
        given = {"coordinator_address": address, "num_processes": count, "process_id": index}
    # Its own handler would take every SIGTERM; the loop's own leaves a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes ({how}): {error}") from None


def is_first() -> bool:
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def in_any(*flags: bool) -> tuple[bool, ...]:
    """Each flag, set where it is set in any process; all of them must ask at once."""
    if jax.process_count() == 1:
        return flags
    return tuple(bool(flag) for flag in multihost_utils.process_allgather(np.array(flags)).any(0))


def summed(share: Share, *numbers: int) -> tuple[int, ...]:
    """Counts of this process's rows -> of the whole batch's; all processes must ask at once."""
    if jax.process_count() == 1:
        return numbers
    total = multihost_utils.process_allgather(np.array(numbers, np.int32)).sum(0)
    return tuple(int(n) * share.count // jax.process_count() for n in total)


def share_of(mesh: Mesh | AbstractMesh, rows: int) -> Share:
    """Which of a batch's rows this process's devices compute on.

    Raises:
      UserError: a process has no device of the mesh, or no equal run of the rows.
    """
    if jax.process_count() == 1:
        return ALONE
    where = NamedSharding(mesh, partition_spec((rows,), ("batch",), mesh))
    read: dict[int, set[int]] = {process: set() for process in range(jax.process_count())}
    for device, (run,) in where.devices_indices_map((rows,)).items():
        read[device.process_index] |= set(range(*run.indices(rows)))
    return equal_run(read, rows, f"the mesh {dict(mesh.shape)}")[jax.process_index()]


def equal_run(read: Mapping[int, set[int]], rows: int, mesh: str) -> dict[int, Share]:
    """Each process's share of `rows` rows, of which it reads those in `read`."""
    shares = {}
    for process, places in read.items():
        if not places:
            raise UserError(f"{mesh} has no device of process {process}: it must use all of them")
        first, size = min(places), len(places)
        if max(places) - first + 1 != size or rows % size or first % size:
            raise UserError(
                f"{mesh} gives process {process} the rows {sorted(places)} of {rows}: they must "
                "be one of several equal runs"
            )
        shares[process] = Share(first // size, rows // size)
    if len({share.count for share in shares.values()}) > 1:
        sizes = {process: len(places) for process, places in read.items()}
        raise UserError(f"{mesh} gives processes different numbers of rows: {sizes}")
    return shares


def place(x: Any, where: NamedSharding) -> jax.Array:
    """An array that every process has whole -> the parts of it that its devices hold."""
    if jax.process_count() == 1:
        return jax.device_put(x, where)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, where, lambda part: x[part])


def place_rows(x: np.ndarray, where: NamedSharding, axis: int, share: Share) -> jax.Array:
    """This process's rows, along `axis`, -> its part of the whole batch on its devices."""
    if jax.process_count() == 1:
        return jax.device_put(x, where)
    shape = (*x.shape[:axis], x.shape[axis] * share.count, *x.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(where, x, shape)
