"""The child process of text_process.py: calls functions on users' texts until its parent closes the pipe.

It imports the standard library only, so that it starts quickly; the first call of a function imports its module.
"""

import os
import pickle
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

# A frame is its length and a pickle: (function, arguments) to the child, (succeeded, result or exception) back.
LENGTH: Final = struct.Struct("!I")
# Ends a child whose text has used up the budget. Nothing else sends this signal.
OVERRUN: Final = signal.SIGPROF


def main(seconds: float) -> None:
    """Each call may use `seconds` of processor time, without imports; then the kernel ends this process."""
    # Ctrl-C in a terminal reaches the whole process group; the parent decides when its child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # The output of a function that prints must not get between the frames.
    os.dup2(2, 1)
    while frame := _read(sys.stdin.buffer):
        try:
            # Unpickling imports the function's module the first time.
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
