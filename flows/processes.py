"""Which process this is, and whether another one still lives."""

import os
import platform

import psutil


def this_process() -> str:
    """The address of this process: host, process id and start time, so that a reused id is no other's."""
    return f"{platform.node()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(address: str) -> bool:
    """Whether the process at `address` runs; one on another host cannot be asked and counts as alive."""
    host, _, rest = address.partition(":")
    process_id, _, started = rest.partition(":")
    if host != platform.node() and address:
        return True
    try:
        return f"{psutil.Process(int(process_id)).create_time():.2f}" == started
    except (psutil.NoSuchProcess, ValueError):
        return False
