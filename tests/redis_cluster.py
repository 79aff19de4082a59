"""Redis Cluster for tests: real nodes on free ports of the loopback address."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from .servers import Process, free_port

__all__ = ["ClusterNode", "RedisCluster"]

#: Milliseconds after which a node that does not reply counts as failed.
NODE_TIMEOUT = 1000

#: Seconds for the nodes to agree.
TIMEOUT = 30

SLOTS = 16_384


class ClusterNode:
    """One node; keeps its port, its id and its slots after a restart."""

    def __init__(self, program: str, folder: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        self._log = folder / "redis.log"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._command += ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        self._command += ["--cluster-port", str(free_port())]
        self._command += ["--cluster-node-timeout", str(NODE_TIMEOUT)]
        # A node that is down must not stop the others. Replicas of the tests have no lag.
        self._command += ["--cluster-require-full-coverage", "no"]
        self._command += [
            "--cluster-replica-validity-factor",
            "0",
            "--repl-diskless-sync-delay",
            "0",
        ]
        self.process: Process | None = None

    def start(self) -> None:
        self.process = Process(self._command, self._log)
        while "Ready to accept connections" not in self.process.next_line():
            pass

    def stop(self) -> None:
        """Kill it without a shutdown."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def ask(self, *words: Any) -> Any:
        """Execute one command and return the reply."""
        import redis

        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        """Its name within the cluster."""
        return str(self.ask("CLUSTER", "MYID"))


class RedisCluster:
    """Three masters, each with a third of the slots."""

    def __init__(self, folder: Path, masters: int = 3) -> None:
        pytest.importorskip("redis", reason="the library redis is missing")
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            pytest.skip("no redis-server on PATH")
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"v=(\d+)", version.stdout)
        if found is None or int(found[1]) < 7:
            pytest.skip(f"sharded Pub/Sub needs Redis 7: {version.stdout.strip()}")
        self._program = program
        self._folder = folder
        self.nodes = [ClusterNode(program, folder / str(number)) for number in range(masters)]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{hosts}"

    def start(self) -> RedisCluster:
        """Start the nodes, and wait until they serve all slots."""
        for node in self.nodes:
            node.start()
        step = SLOTS // len(self.nodes)
        for number, node in enumerate(self.nodes):
            last = SLOTS - 1 if number == len(self.nodes) - 1 else (number + 1) * step - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * step, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self._meet(node, self.nodes[0])
        self.wait_until_agreed()
        return self

    def _meet(self, node: ClusterNode, other: ClusterNode) -> None:
        bus = other._command[other._command.index("--cluster-port") + 1]
        node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, bus)

    def add_replica(self, master: ClusterNode) -> ClusterNode:
        """Start a replica of a master, and wait until it has its data."""
        replica = ClusterNode(self._program, self._folder / str(len(self.nodes)))
        replica.start()
        self.nodes.append(replica)
        self._meet(replica, self.nodes[0])
        name = master.id
        self.wait_for(lambda: name in str(replica.ask("CLUSTER", "NODES")))
        replica.ask("CLUSTER", "REPLICATE", name)
        self.wait_for(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
        self.wait_for(lambda: all(_replicas(node) >= 1 for node in self.running))
        return replica

    @property
    def running(self) -> list[ClusterNode]:
        """The nodes that are not stopped."""
        return [node for node in self.nodes if node.process is not None]

    def wait_until_agreed(self) -> None:
        """Wait until all running nodes know that all slots are served."""
        for node in self.running:
            self.wait_for(lambda node=node: _is_complete(node, len(self.running)))

    @staticmethod
    def wait_for(condition: Callable[[], Any]) -> None:
        """Wait until a condition holds: the nodes exchange messages among themselves."""
        until = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < until, f"the nodes do not agree after {TIMEOUT} s"
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.stop()

    def owner(self, key: str) -> ClusterNode:
        """Return the node that serves the slot of a key, as a running node knows."""
        slot = key_slot(key.encode())
        asked = self.running[0]
        for begin, end, (_, port, *_), *_ in asked.ask("CLUSTER", "SLOTS"):
            if begin <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"no node serves slot {slot}")

    def move_slot(self, key: str, target: ClusterNode) -> None:
        """Move the slot of a key to another node, as ``redis-cli --cluster reshard`` does."""
        slot, source = key_slot(key.encode()), self.owner(key)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.running):
            if _is_master(node):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def ask(self, *words: Any) -> Any:
        """Execute one command on each running node, and return the replies."""
        return [node.ask(*words) for node in self.running]

    def topics(self) -> set[str]:
        """Return all topics that have subscribers, except those that every server subscribes to."""
        names = {name for found in self.ask("PUBSUB", "SHARDCHANNELS") for name in found}
        return {name for name in names if not re.search(r":1:(servers|node):,", name)}


def _replicas(node: ClusterNode) -> int:
    shards = node.ask("CLUSTER", "SLOTS")
    return sum(len(shard) - 3 for shard in shards)


def _is_master(node: ClusterNode) -> bool:
    return bool(node.ask("ROLE")[0] == "master")


def _is_complete(node: ClusterNode, nodes: int) -> bool:
    info = node.ask("CLUSTER", "INFO")
    fields = (
        info
        if isinstance(info, dict)
        else dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    )
    return (
        fields["cluster_slots_ok"] == str(SLOTS)
        and int(fields["cluster_known_nodes"]) >= nodes
        and fields["cluster_state"] == "ok"
    )
