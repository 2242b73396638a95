"""Ray: plain tasks on the nodes of a cluster, in processes that keep what they have opened.

Actor pools, Ray's own `Pool` and joblib's backend for Ray have lost results or hung when workers were killed;
plain tasks did not. Ray runs a task again when its process or its node dies, and a task's result is not here
before it is whole.
"""

from __future__ import annotations

import importlib
import io
import logging
import math
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featbank._process import import_path, package_versions, pickle_for_child, usable_cores
from featbank.engines.mapping import Outcome
from featbank.errors import (
    FeatbankError,
    InvalidInputError,
    MissingPackageError,
    NodeError,
    WorkerLostError,
    one_line,
)

__all__ = ["RayEngine", "loopback_only"]

logger = logging.getLogger(__name__)

#: A task is run again so many times when its process or its node dies.
MAX_RETRIES = 3
#: What decides the last bits of results, and must be the same on every node.
_PACKAGES = ("featbank", "torch", "torchvision", "numpy", "scikit-learn")
#: How long the number of cores of a cluster is taken for known.
_KNOWN_S = 2.0
#: The port `ray start --head` listens at.
_PORT = 6379
#: Shared memory of a cluster of this machine alone, for results on their way; Ray would take 30 % of all.
_STORE_BYTES = 256 * 2**20
#: How long the head of a cluster may take to answer.
_ANSWER_S = 10.0


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster to compute on (``pip install 'featbank[ray]'``).

    Every node needs featbank in the same versions, and the same files under the same paths.

    Parameters
    ----------
    address : str, default="auto"
        ``"auto"``: the cluster that this machine is a node of. ``"local"``: one of this machine alone, made
        for this call, which talks to no other address. ``HOST[:PORT]``: the cluster with this head. A process
        that is connected to Ray already stays so, whatever stands here.
    cpus_per_task : int, default=1
        Cores that are set aside for one task, and threads it computes with.
    gpus_per_task : float, default=0
        Cards, or a part of one.

    Raises
    ------
    InvalidInputError
        If a number is out of range.

    Examples
    --------
    >>> RayEngine("local", cpus_per_task=2)
    RayEngine(address='local', cpus_per_task=2, gpus_per_task=0)
    """

    address: str = "auto"
    cpus_per_task: int = 1
    gpus_per_task: float = 0

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not self.address.strip():
            raise InvalidInputError(
                f"address={self.address!r} (--address) is no cluster; give auto, local or HOST[:PORT]"
            )
        cpus, gpus = self.cpus_per_task, self.gpus_per_task
        if not isinstance(cpus, int) or isinstance(cpus, bool) or cpus < 1:
            raise InvalidInputError(
                f"cpus_per_task={cpus!r} (--cpus-per-task) is not a whole number of cores, 1 or more"
            )
        if not isinstance(gpus, int | float) or not (0 <= gpus < 1 or (gpus > 0 and gpus % 1 == 0)):
            raise InvalidInputError(
                f"gpus_per_task={gpus!r} (--gpus-per-task) is neither a whole number of cards nor a part of "
                "one, such as 0.5"
            )

    @contextmanager
    def open(self, function: Callable[[Any], Any]) -> Iterator[_RayPool]:
        """Connect to the cluster, and to nothing else, as long as the block lasts.

        Parameters
        ----------
        function : callable
            What tasks will call; see `featbank.engines.map_unordered`.
        """
        ray = _import_ray()
        if ray.is_initialized():
            pool = _RayPool(ray, self, function)
            try:
                yield pool
            finally:
                pool.cancel()
            return
        worker = importlib.import_module("ray._private.worker")
        with _replaced(worker, "print_to_stdstream", _log_line):
            self._connect(ray)
            try:
                yield _RayPool(ray, self, function)
            finally:
                ray.shutdown()  # and with it everything that is still computed for this process

    def _connect(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address == "local":
                with loopback_only():
                    alone = {"num_cpus": usable_cores(), "object_store_memory": _STORE_BYTES}
                    ray.init(address="local", include_dashboard=False, **alone, **quiet)
            else:
                ray.init(address=self._reached(), **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            said = one_line(error, first=True)
            raise InvalidInputError(
                f"--address {self.address!r}: no Ray cluster answers ({said}); start one with "
                "'ray start --head', and 'ray start --address HEAD:6379' on every other node, this machine "
                "among them, or give --address local"
            ) from error

    def _reached(self) -> str:
        """Return HOST:PORT of the head, which listens: Ray itself would try for a quarter of an hour."""
        address: str | None = self.address
        if self.address == "auto":
            services = importlib.import_module("ray._private.services")
            address = services.canonicalize_bootstrap_address("auto")
            if address is None:
                raise ConnectionError("this machine is a node of none")
        host, colon, port = str(address).rpartition(":")
        if not colon:
            host, port = str(address), str(_PORT)
        if not port.isdigit() or "/" in host:
            raise ValueError("an address is HOST or HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        return f"{host}:{port}"


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to its makers
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingPackageError(
            "--engine ray needs Ray, which is not installed: pip install 'featbank[ray]'"
        ) from error


@contextmanager
def loopback_only() -> Iterator[None]:
    """Let a cluster that is started inside the block have the address 127.0.0.1, and no API server.

    The first is what Ray does by itself on macOS and Windows. As for the second, that of Ray 2.60 asks the
    metadata services of three clouds, by name and address, which of them it is in, also where usage reports
    are switched off. It is not needed: Ray goes on where it cannot be started.
    """
    services = importlib.import_module("ray._private.services")
    constants = importlib.import_module("ray._private.ray_constants")
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before = os.environ.get(name)
    os.environ[name] = "0"  # for the processes that are started; here it is read when Ray is imported
    try:
        with (
            _replaced(constants, "ENABLE_RAY_CLUSTER", False),
            _replaced(services, "start_api_server", lambda *_args, **_named: (None, None)),
        ):
            yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name, value)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _log_line(said: Mapping[str, Any], *_args: Any, **_named: Any) -> None:
    """Log what Ray has to say of nodes and processes, a line of it, which it would print among results."""
    logger.warning("Ray: %s", one_line("\n".join(map(str, said.get("lines", ()))), first=True))


class _RayPool:
    """A function on a cluster; see `featbank.engines.mapping.Pool`."""

    def __init__(self, ray: Any, engine: RayEngine, function: Callable[[Any], Any]) -> None:
        self._ray, self._engine = ray, engine
        self._waiting: set[Any] = set()
        self._told: set[str] = set()
        self._known: tuple[float, int] = (-math.inf, 0)
        self._refuse_if_too_small()
        packed = io.BytesIO()
        try:
            modules = pickle_for_child(function, packed)
        except Exception as error:  # pickling runs code of a head of the user's own
            raise InvalidInputError(
                f"what is to be computed cannot be sent to nodes ({type(error).__name__}: "
                f"{one_line(error, first=True)}); a head of your own must be one that can be pickled"
            ) from error
        options = {
            "num_cpus": engine.cpus_per_task,
            "num_gpus": engine.gpus_per_task,
            "max_calls": 0,  # the process is kept, and with it all that it has opened
            "max_retries": MAX_RETRIES,
            "scheduling_strategy": "SPREAD",
        }
        # the folders that Ray lets processes import from before all others, because this one runs in them
        strange = {os.path.realpath(os.path.curdir), str(Path(os.path.realpath(sys.argv[0])).parent)}
        strange -= {os.path.realpath(one) for one in import_path(modules)}
        self._task = ray.remote(**options)(_task(packed.getvalue(), strange, versions()))

    def _refuse_if_too_small(self) -> None:
        engine = self._engine
        nodes = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        asked = {"CPU": engine.cpus_per_task, "GPU": engine.gpus_per_task}
        if any(all(has.get(name, 0) >= n for name, n in asked.items()) for has in nodes):
            return
        most = {name: max((has.get(name, 0) for has in nodes), default=0) for name in asked}
        raise InvalidInputError(
            f"no node has {asked['CPU']} cores (--cpus-per-task) and {asked['GPU']:g} cards "
            f"(--gpus-per-task) at once: of {len(nodes)} nodes the largest have {most['CPU']:g} cores and "
            f"{most['GPU']:g} cards; ask for fewer"
        )

    def slots(self) -> int:
        """Return how many tasks the cluster, as it is now, can run at once."""
        at, slots = self._known
        if self.now() - at > _KNOWN_S:
            has, engine = self._ray.cluster_resources(), self._engine
            slots = int(has.get("CPU", 0) // engine.cpus_per_task)
            if engine.gpus_per_task:
                slots = min(slots, int(has.get("GPU", 0) // engine.gpus_per_task))
            self._known = self.now(), slots
        return slots

    def submit(self, item: Any) -> Any:
        """Hand a task to Ray."""
        # as bytes: Ray would import what an item is made of before the task can say where from
        ticket = self._task.remote(pickle.dumps(item))
        self._waiting.add(ticket)
        return ticket

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return the tasks whose results are on this node."""
        done: list[Any] = self._ray.wait(tickets, num_returns=1, timeout=timeout_s)[0]
        return done

    def outcome(self, ticket: Any, item: Any) -> Outcome[Any, Any]:
        """Return what a task said."""
        self._waiting.discard(ticket)
        try:
            what, duration_s, said, warned = self._ray.get(ticket)
        except self._ray.exceptions.RayTaskError as error:  # none of the item's: those are said
            raise NodeError(f"a process of a node cannot run tasks: {str(error).splitlines()[-1]}") from error
        except self._ray.exceptions.RayError as error:
            return Outcome(item, error=WorkerLostError(_lost(error)))
        for one in warned:
            if one not in self._told:  # by every process, often
                self._told.add(one)
                logger.warning("%s", one)
        if what == "node":
            raise NodeError(said)
        if what == "error":
            return Outcome(item, error=said, duration_s=duration_s)
        return Outcome(item, said, duration_s=duration_s)

    def cancel(self) -> None:
        """Give up what is still on its way."""
        for ticket in self._waiting:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ticket)

    def now(self) -> float:
        """Return the time of this machine's own clock."""
        return time.monotonic()


def _lost(error: Exception) -> str:
    return (
        f"the process that computed it was lost, {MAX_RETRIES + 1} times at most "
        f"({type(error).__name__}: {one_line(error, first=True)})"
    )


def versions() -> dict[str, str]:
    """Return the versions of what decides results, without importing it."""
    return {name: found or "not installed" for name, found in package_versions(_PACKAGES).items()}


#: What a task says: "done", "error" or "node"; its seconds; the result, error or message; what it warned of.
Said = tuple[str, float, Any, list[str]]


def _task(packed: bytes, strange: set[str], wanted: dict[str, str]) -> Callable[[Any], Said]:
    """Return what a process of a cluster runs for each item; `held` is its own.

    A function inside a function is sent as code, so that it can say that featbank is missing.
    """
    held: list[Callable[[Any], Any]] = []

    def task(item: bytes) -> Said:
        if not held:
            sys.path[:] = [one for one in sys.path if os.path.realpath(one) not in strange]
            try:
                from featbank.engines._ray import opened
            except ImportError as error:
                return "node", 0.0, f"node {socket.gethostname()} cannot import featbank: {error}", []
            function, said = opened(packed, wanted)
            if function is None:
                return "node", 0.0, said, []
            held.append(function)
        from featbank.engines._ray import called

        return called(held[0], item)

    return task


def opened(packed: bytes, wanted: dict[str, str]) -> tuple[Callable[[Any], Any] | None, str]:
    """Unpickle the function in a process of a node; or say what this node lacks."""
    have = versions()
    others = [f"{name} {have[name]} for {wanted[name]}" for name in _PACKAGES if have[name] != wanted[name]]
    if others:
        return None, f"{_node()} has {', '.join(others)}; install the same versions on every node"
    try:
        return pickle.loads(packed), ""
    except FeatbankError as error:
        return None, f"{_node()}: {error}"
    except ImportError as error:
        return None, f"{_node()} cannot import what is to be computed: {error}"


def called(function: Callable[[Any], Any], item: bytes) -> Said:
    """Call the function in a process of a node; an error is sent as it is, or as text if it cannot be."""
    start = time.perf_counter()
    with _warnings_kept() as warned:
        try:
            found = function(pickle.loads(item))
        except NodeError as error:
            return "node", 0.0, f"{_node()}: {error}", warned
        except Exception as error:  # noqa: BLE001 - whoever asked decides what to do with it
            took = time.perf_counter() - start
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # noqa: BLE001 - pickling runs code of the error's own
                return "error", took, RuntimeError(f"{type(error).__name__}: {error}"), warned
            return "error", took, error, warned
    return "done", time.perf_counter() - start, found, warned


@contextmanager
def _warnings_kept() -> Iterator[list[str]]:
    """Keep what the library logs as a warning: nobody reads what a process of a node prints."""
    kept: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    handler, library = Kept(logging.WARNING), logging.getLogger("featbank")
    library.addHandler(handler)
    try:
        yield kept
    finally:
        library.removeHandler(handler)


def _node() -> str:
    """Name the node this process is on."""
    import ray

    return f"node {socket.gethostname()} (of Ray's id {ray.get_runtime_context().get_node_id()[:8]})"
