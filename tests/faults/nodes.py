"""A Ray cluster of several nodes on this machine, each with processes of its own that can be killed."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

#: Bytes of shared memory of a node: the least that Ray takes.
_STORE = 80 * 2**20


class Nodes:
    """Simulated nodes of one core each, on loopback alone.

    Parameters
    ----------
    n_nodes : int, default=3
        One of them is the head, which is not killed.
    """

    def __init__(self, n_nodes: int = 3) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        from featbank.engines._ray import loopback_only

        self._alone = ExitStack()
        self._alone.enter_context(loopback_only())  # nodes join later, too
        # a node that is killed is given up after a second instead of after fifteen
        soon = {
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 2,
            "health_check_initial_delay_ms": 1000,
        }
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "object_store_memory": _STORE,
                "include_dashboard": False,
                "_system_config": soon,
            },
        )
        self.others = [self._more() for _ in range(n_nodes - 1)]
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        """What ``--address`` is given."""
        return str(self.cluster.address)

    def _more(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=_STORE, wait=False)

    def kill_node(self) -> None:
        """Kill a node with all its processes, none of which has time to say a word."""
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)

    def add_node(self) -> None:
        """Let a node join."""
        self.others.append(self._more())
        self.cluster.wait_for_nodes()

    def workers(self) -> list[int]:
        """Return the processes that are computing just now."""
        nodes = [self.cluster.head_node, *self.others]
        parents = {node.all_processes["raylet"][0].process.pid for node in nodes}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in parents and (place / "cmdline").read_bytes().startswith(b"ray::task"):
                    found.append(int(place.name))
            except (OSError, ValueError):  # it ended just now
                continue
        return found

    def kill_worker(self) -> bool:
        """Kill a process that is computing; False if there is none just now."""
        found = self.workers()
        if found:
            os.kill(found[0], signal.SIGKILL)
        return bool(found)

    def shutdown(self) -> None:
        """End all of it."""
        self.cluster.shutdown()
        self._alone.close()
