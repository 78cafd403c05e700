r"""Is this answer the same mathematics as that one? Asked of math-verify, in a process that can be killed.

An answer of a model is untrusted: `9^{9^{9^9}}` would hold the interpreter for ever, and a signal does not reach a loop in C. So
one worker process does the reading and comparing, under a limit of memory, and is killed at a limit of time; the next question
starts another. This file is both ends of the pipe: `Worker` asks, and run as a script it answers. It knows nothing about
problems, grades or where an answer stands in a text. Example::

    WORKER.ask(r"\frac{1}{2}", "0.5")  # 'correct'

Source: math-verify, https://github.com/huggingface/Math-Verify, whose own time limit is a signal in the main thread.
"""

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

SECONDS = 3.0
"""For one answer. An ordinary one takes milliseconds; with the start of a new worker (about a second) it stays below 5."""

START_SECONDS = 60.0
"""For the start of a worker: the import of sympy, on a cold disk or a busy machine."""

MEMORY = 2 * 1024**3
"""Address space of the worker in bytes: sympy needs 0.2 GB, and a bomb must not reach the memory that holds the models."""


class Worker:
    """A process that is started with the first question, and again after it was killed. Threads take turns.

    Args:
        script: the file that the process runs; it ends in a call of `serve`.
        seconds: the limit for one answer.
    """

    def __init__(self, script: str = __file__, seconds: float = SECONDS):
        self.script, self.seconds = script, seconds
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, answer: str, gold: str) -> str:
        """`correct`, `wrong`, or `unparsed`: not read or not compared within the limits.

        A worker that dies before its time is asked once more, afresh: someone else killed it, or earlier answers used up its memory.

        Raises:
            MissingDependency: math-verify cannot be imported.
        """
        with self._lock:
            for _ in range(2):
                process = self.process or self._start()
                started = time.monotonic()
                reply = self._within(self.seconds, process, [answer, gold])
                if reply is not None:
                    return reply
                if time.monotonic() - started >= self.seconds:
                    break
            return "unparsed"

    def stop(self) -> None:
        """Kill the process, if there is one."""
        process, self.process = self.process, None
        if process:
            process.kill()
            process.wait()
            _close(process)

    def forget(self) -> None:
        """In a fork: the worker belongs to the parent, and a lock that was held there would never open here."""
        process, self.process = self.process, None
        self._lock = threading.Lock()
        if process:
            process.returncode = 0  # not a child of this process: nothing to wait for
            _close(process)

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the folder of the script, where chain.py and others lie, is no place to import from; own session: ctrl-C is not for the worker
        self.process = process = subprocess.Popen(
            [sys.executable, "-P", self.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        reply = self._within(START_SECONDS, process, ["1", "1"])
        if reply != "correct":
            from latentreason.errors import MissingDependency  # here: the script must start without the package

            self.stop()
            raise MissingDependency(
                f"Mathematical answers are graded by math-verify, which did not start ({reply or 'its process died'}). "
                "Install it: pip install 'math-verify>=0.9,<0.10'."
            )
        return process

    def _within(self, seconds: float, process: subprocess.Popen[bytes], question: list[str]) -> str | None:
        """The reply, or None where the process died or was killed at the limit; then it is cleared away."""
        assert process.stdin and process.stdout
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        reply = None
        try:
            _send(process.stdin, question)
            reply = _receive(process.stdout)
        except BrokenPipeError:
            pass
        finally:  # also on ctrl-C, or the late reply would answer the next question
            timer.cancel()
            if reply is None:
                self.stop()
        return None if reply is None else str(reply)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _send(pipe: IO[bytes], message: object) -> None:
    payload = json.dumps(message).encode("ascii")
    data = memoryview(struct.pack(">I", len(payload)) + payload)
    while data:
        data = data[pipe.write(data) :]


def _receive(pipe: IO[bytes]) -> object:
    """The next message, None at the end of the pipe."""

    def exactly(n: int) -> bytes:
        data = b""
        while len(data) < n and (more := pipe.read(n - len(data))):
            data += more
        return data

    header = exactly(4)
    if len(header) < 4:
        return None
    payload = exactly(*struct.unpack(">I", header))
    try:
        return json.loads(payload)
    except ValueError:  # cut short
        return None


def serve(judge: Callable[[str, str], str]) -> None:
    """The other end: answer questions from stdin until it closes. Alarm and memory limit hold even if the parent is gone."""
    import resource
    import signal

    questions, replies = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # whatever a library prints must not get into the replies
    with contextlib.suppress(ValueError, OSError):  # macOS knows no such limit, or a lower one is in force; the time limit holds
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    limit = START_SECONDS
    while (question := _receive(questions)) is not None:
        assert isinstance(question, list)
        signal.setitimer(signal.ITIMER_REAL, 2 * limit)  # no handler: the kernel ends the process, in C code too
        try:
            reply = judge(*question)
        except MemoryError:
            os._exit(1)  # a fresh process may have enough
        except Exception as error:  # sympy and the parser raise whatever they like; no verdict is the verdict
            reply = str(error) if limit == START_SECONDS else "unparsed"  # of the first, which `_start` asks, the reason is told
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)
        limit = SECONDS


def compare(answer: str, gold: str) -> str:
    """The verdict of math-verify on two answers without their wrappers; its own limits are off, ours hold."""
    from math_verify import parse, verify

    def read(text: str) -> list[object]:
        found: list[object] = parse(f"\\boxed{{{text}}}", fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)
        return found

    found, expected = read(answer), read(gold)
    if answer.endswith("%") != gold.endswith("%"):  # 12.5% is 12.5 as well as 0.125, where only one of the two has the sign
        found, expected = found + read(answer.rstrip("\\%")), expected + read(gold.rstrip("\\%"))
    if not found or not expected:
        return "unparsed"
    same = verify(expected, found, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
    return "correct" if same else "wrong"


WORKER = Worker()
"""The one of this process."""

atexit.register(WORKER.stop)
os.register_at_fork(after_in_child=WORKER.forget)

if __name__ == "__main__":
    serve(compare)
