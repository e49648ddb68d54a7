"""A sweep on a Dask cluster of which parts are killed."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from forked import Ended, Forked, complaint
from trial import GRID, Tree, is_beginning, start, tree

STRIDES = ",".join(str(1000 + i) for i in range(40))
SWEEP = ["sweep", *GRID, "--strides", STRIDES, "--heads", "2,4", "-o", "work/a.jsonl", "--resume"]
WORKERS = 2
PATIENCE = {"CONNECT_WITHIN": 10.0, "ASK_EVERY": 1.0, "SILENT_FOR": 15.0}
"""Seconds in place of minutes, in a command that waits for a cluster."""


class Cluster:
    """A scheduler and its workers, in processes of their own."""

    def __init__(self, place: Path) -> None:
        """Start them and wait until all have met."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.place = place
        self.scheduler = self._start("scheduler", "Scheduler at", "--host", f"tcp://{self.address}")
        options = ["--no-nanny", "--nthreads", "1", f"tcp://{self.address}"]
        self.workers = [self._start("worker", "Registered to", *options) for _ in range(WORKERS)]

    def _start(self, kind: str, sign: str, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-P", "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *options]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        log = self.place / f"{kind}.log"
        with log.open("w") as err:
            process = subprocess.Popen(command, cwd=self.place, stderr=err, text=True, env=environment)
        while sign not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        return process

    def kill(self, *processes: "subprocess.Popen[str]") -> None:
        """Kill some, and wait until they are gone."""
        for process in processes:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kill all."""
        self.kill(*self.workers, self.scheduler)


class ClusterTrial:
    """As a `Trial`, of a sweep whose worker, workers, scheduler or own process is killed at any moment."""

    faults: ClassVar = {"worker": 1, "workers": 1, "scheduler": 1, "moment": 1}
    calls = 0
    share = 1

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place, self.work = name, place, place / "work"
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """One that is whole."""
        if self._cluster is None:
            self._cluster = Cluster(self.place)
        return self._cluster

    def close(self) -> None:
        """End the cluster, if there is one."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    @cached_property
    def end(self) -> tuple[Tree, float]:
        """What is in the folder after the sweep, and how long its rows took; the second one, with kernels loaded."""
        for _ in range(2):
            self.reset()
            process = self.begin()
            began = time.perf_counter()
            ended = process.wait(give_up_after=120)
            assert ended.code == 0, ended
        return tree(self.work), time.perf_counter() - began

    def reset(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def begin(self) -> Forked:
        """Start the sweep, and wait until it has met the cluster."""
        address = self.cluster.address

        def body() -> int:
            from ropesearch.cli import main

            from ropesearch.search import sweep, workers

            for name, seconds in PATIENCE.items():
                setattr(workers, name, seconds)
            sweep.ASK_EVERY = workers.ASK_EVERY
            os.chdir(self.place)
            return main([*SWEEP, "--scheduler", address])

        process = Forked(body)
        file = self.work / "a.jsonl"
        while not (file.exists() and file.stat().st_size):  # before, it may wait for workers as long as it likes
            time.sleep(0.01)
        return process

    def disturb(self, fault: str, chance: random.Random) -> tuple[float, list[str]]:
        """Kill something of a sweep, then resume it; return when, and what is wrong."""
        new, seconds = self.end
        self.reset()
        when = chance.uniform(0, seconds)
        process = self.begin()
        if fault == "moment":
            ended = process.wait(kill_after=when)
        else:
            time.sleep(when)
            cluster = self.cluster
            killed = {"worker": cluster.workers[:1], "workers": cluster.workers, "scheduler": [cluster.scheduler]}
            cluster.kill(*killed[fault])
            ended = process.wait(give_up_after=120)
            self.close()
        found = self.wrong_end(fault, ended, new)
        left = tree(self.work)
        if not all(is_beginning(content, new.get(name)) for name, content in left.items()):
            found.append(f"what it left is none of its rows: {sorted(left)}")
        again = start(SWEEP, self.place).wait()
        if again.code != 0 or tree(self.work) != new:
            found.append(f"afterwards it ended otherwise: {again.code} {again.err}")
        return when, found

    def wrong_end(self, fault: str, ended: Ended, new: Tree) -> list[str]:
        if fault == "moment" and ended.code == -signal.SIGKILL:
            return []
        if ended.code == 0:
            return [] if tree(self.work) == new else ["it says that it is done, and is not"]
        if fault == "worker":
            return [f"it did not go on with the other worker: {ended.err}"]
        wrong = complaint(ended)
        return [wrong] if wrong else []
