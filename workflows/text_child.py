"""The process that text_process.py starts: calls functions on people's texts until its parent closes the pipe.

Standard library only, so that it starts quickly; what a function needs is imported with the function.
"""

import os
import pickle
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

# A frame is its length, then a pickle: (function, arguments) to here, (succeeded, result or exception) back.
LENGTH: Final = struct.Struct("!I")
# What ends a child whose text used up the budget. Nothing else sends this signal.
OVERRUN: Final = signal.SIGPROF


def main(seconds: float) -> None:
    """Each call may use `seconds` of processor time, imports not counted; then the kernel ends this process."""
    # Ctrl-C in a terminal reaches the whole group; the parent decides when its child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # A function that prints must not write between the frames.
    os.dup2(2, 1)
    while frame := _read(sys.stdin.buffer):
        try:
            # Imports the function's module the first time.
            function, arguments = pickle.loads(frame)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            answer: tuple[bool, Any] = True, function(*arguments)
        except Exception as error:
            answer = False, error
        signal.setitimer(signal.ITIMER_PROF, 0)
        encoded = pickle.dumps(answer)
        answers.write(LENGTH.pack(len(encoded)) + encoded)
        answers.flush()


def _read(requests: BinaryIO) -> bytes:
    """The next frame; empty when the parent has closed the pipe or died."""
    header = requests.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return b""
    return requests.read(*LENGTH.unpack(header))


if __name__ == "__main__":
    main(float(sys.argv[1]))
