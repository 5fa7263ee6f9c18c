# SPDX-License-Identifier: Apache-2.0
"""One comparison by several processes: a TPU pod, SLURM, or by hand.

Every process runs the same command on the same text, and `--out` is a folder that all
of them see; only process 0 writes into it, except that a checkpoint is written by all.

On a TPU pod, on every host (`gcloud ... --worker=all`), or under SLURM, with one task
a host or a GPU, jax finds the others by itself. `--processes 0` says so:

    srun python -m orthoptax compare --mesh fsdp=64,tp=8 --processes 0 \
        --model 124m --out /shared/run --resume

`--resume` in an empty folder starts from the beginning, so that the line of a job that
the scheduler starts again need not change. By hand, or to try it on one machine, say
who is who; here two processes of four CPU devices, in two terminals, N being 0 and 1:

    JAX_NUM_CPU_DEVICES=4 python -m orthoptax compare --mesh fsdp=4,tp=2 \
        --coordinator localhost:9876 --processes 2 --process N --out run --resume

The losses are those of one process with as many devices, but for rounding, and either
may go on from a checkpoint of the other.

When a process is lost (killed, its machine gone) the others cannot go on: what they
were to receive never comes. Each process therefore gives a sign of life every second,
a file in `alive/` of the folder, and looks for the others'. Within 20 seconds of the
last sign the rest end with a message that names what was lost, and with exit status 75
(EX_TEMPFAIL: worth another try). Where process 0 was lost, the runtime of jax may be
first, with its own message and status 134. Nothing is lost but the steps since the last
checkpoint (`--evaluate-every`): start all of them again, with `--resume`.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from orthoptax._check import message
from orthoptax.train.config import Compare, UsageError

LOST = 75  # exit status, EX_TEMPFAIL of sysexits.h
ALIVE = "alive"  # folder of the signs of life
SIGN, SILENCE = 1.0, 15.0  # seconds between two signs, and without one
SHUTDOWN = 30  # seconds that processes wait for each other at the end


@contextlib.contextmanager
def together(settings: Compare) -> Iterator[None]:
    """Joins the processes of a comparison; ends this one if another is lost.

    Does nothing where there is one.
    """
    if settings.processes == 1:
        yield
        return
    _join(settings)
    watch = Watch(settings.out / ALIVE, jax.process_index(), jax.process_count())
    try:
        yield
    except UsageError:
        watch.stop(done=False)
        raise
    except Exception:  # perhaps because another one is gone
        watch.wait()
        raise
    multihost_utils.sync_global_devices("end")
    watch.stop(done=True)
    multihost_utils.sync_global_devices("no more signs")
    if is_first():
        shutil.rmtree(watch.folder)


def _join(settings: Compare) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            settings.coordinator,
            settings.processes or None,
            settings.process,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except ValueError as error:
        raise UsageError(
            f"jax finds no other processes here: {str(error).rstrip('.')}",
            "SLURM, a TPU pod, or to be told who is who",
            "Give --processes, --process and --coordinator",
        ) from error


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


class Watch:
    """Gives signs of life and looks for those of the others, in a thread.

    Args:
      folder: where the signs are; seen by all.
      index, count: this process, and how many there are.
      silence: seconds without a sign after which a process is lost.
    """

    def __init__(self, folder: Path, index: int, count: int, silence: float = SILENCE):
        self.folder, self.index, self.silence = folder, index, silence
        self.others = [i for i in range(count) if i != index]
        self.seen: dict[int, tuple[str, float]] = {}
        self.signs = 0
        self.ended = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._sign()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self, done: bool) -> None:
        """No more signs; the others miss this process unless it is done."""
        self.ended.set()
        self.thread.join()
        if done:
            self._sign(done=True)

    def wait(self) -> None:
        """Gives the thread the time to find out who is gone; it ends the process."""
        time.sleep(self.silence + 3 * SIGN)
        self.stop(done=False)

    def lost(self) -> list[str]:
        """The processes that gave no sign for too long, in words."""
        now, gone = time.monotonic(), []
        for other in self.others:
            sign = self._read(other)
            before, since = self.seen.get(other, (None, now))
            if sign != before:  # a clock of ours, as theirs may differ
                self.seen[other] = sign, now
            elif now - since > self.silence and not _about(sign).get("done"):
                gone.append(_named(other, _about(sign)))
        return gone

    def _run(self) -> None:
        while not self.ended.wait(SIGN):
            self._sign()
            gone = self.lost()
            if gone:
                _end(f"no sign of {', '.join(gone)} for {self.silence:g} seconds")

    def _sign(self, done: bool = False) -> None:
        self.signs += 1
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        sign = json.dumps(about | {"sign": self.signs, "done": done})
        fresh = self.folder / f".{self.index}.tmp"
        with contextlib.suppress(OSError):  # a shared folder has its moments
            fresh.write_text(sign)
            os.replace(fresh, self.folder / f"{self.index}.json")

    def _read(self, index: int) -> str:
        try:
            return (self.folder / f"{index}.json").read_text()
        except OSError:
            return ""  # not there yet; on a shared folder perhaps just not now


def _about(sign: str) -> dict[str, Any]:
    return json.loads(sign) if sign else {}


def _named(index: int, about: dict[str, Any]) -> str:
    if not about:
        return f"process {index}"
    return f"process {index} (pid {about['pid']} on {about['host']})"


def _end(wrong: str) -> None:
    """Ends this process, whatever it is waiting for."""
    expected = "all processes to run until the end"
    action = "Start all of them again with --resume; the last checkpoint is kept"
    print(message("orthoptax", wrong, expected, action), file=sys.stderr, flush=True)
    os._exit(LOST)
