"""Content damaged by a seed, and processes of their own that read it: one that dies or hangs is told of."""

import multiprocessing
import random
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
SILENCE = 180.0  # seconds after which a process hangs; the largest bombs take one or two of a core


def spoiled(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """The content with one to four faults: flips, cuts, repeats, parts of `other`, extreme numbers."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        data, at = bytearray(content), chance.randrange(max(1, len(content)))
        length = min(len(data) - at, chance.choice((1, 2, 4, 16, 200)))
        match chance.randrange(8):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if data else b""
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * chance.choice((1, 50))
            case 5:
                start = chance.randrange(len(other))
                data[at : at + length] = other[start : start + length]
            case 6:
                number = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1))
                data[at : at + 4] = number.to_bytes(4, chance.choice(("big", "little")))
            case 7:
                data[at : at + length] = b"\0" * length
        content = bytes(data)
    return content


def told(work: Callable[[Path, Connection], None], folder: Path) -> Iterator[object]:
    """What a process of its own says while it works; fails where it dies, or is silent for too long."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(folder, theirs))
    process.start()
    theirs.close()
    last: object = "its beginning"
    try:
        while True:
            assert ours.poll(SILENCE), f"it hangs at {last}"
            last = ours.recv()
            if last is None:
                break
            yield last
    except EOFError:
        process.join()
        assert process.exitcode == 0, f"the process died with {process.exitcode} at {last}"
    finally:
        process.kill()
        process.join()
