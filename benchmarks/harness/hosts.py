"""One experiment over the devices of several processes, on one machine or on many.

Every process runs the same command line and comes to the same decisions: what depends on one
machine, such as its clock and what lies in its folders, is process 0's to say. Process 0 alone
writes and prints.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a run, before anything is computed.

    The coordinator is process 0's "host:port", processes are counted from 0. All are None where jax
    finds out, as on SLURM, with Open MPI, and on Cloud TPUs.

    Raises:
        ConnectionError: if they do not come together; the message says how to name them.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"processes could not be joined ({str(error).strip()}); where no cluster is "
            "recognised, name --coordinator HOST:PORT, --num-processes and --process-id, in each "
            "of them."
        ) from error


def mesh() -> Mesh:
    """All devices of all processes, along one axis that shares out batches."""
    automatic = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=automatic)


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What a function, called in process 0 only, gives there, in every process: what JSON can hold.

    Errors of the types named, raised by it, are raised in every process with the same message.
    """
    if jax.process_count() == 1:
        return make()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": make()}
        except errors as error:
            answer = {"error": [type(error) is kind for kind in errors], "message": str(error)}
    content = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length, np.uint8)
    padded[: len(content)] = content[:length]
    answer = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if "error" in answer:
        raise errors[answer["error"].index(True)](answer["message"])
    return answer["value"]
