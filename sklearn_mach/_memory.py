"""Main memory that is free, and sizes for people."""

import os
from pathlib import Path


def free_memory():
    """Bytes of main memory that this process may still take, or None if unknown.

    The least of what the system and, in a container, its control group have left.
    """
    free = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    except OSError:  # not Linux: all of the memory there is
        try:
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):  # nor POSIX
            return None
    for folder, limit, used, prefix in (
        ("/sys/fs/cgroup", "max", "current", ""),
        ("/sys/fs/cgroup/memory", "limit_in_bytes", "usage_in_bytes", "total_"),
    ):
        try:
            left = int(Path(folder, f"memory.{limit}").read_text())
            left -= int(Path(folder, f"memory.{used}").read_text())
            for line in Path(folder, "memory.stat").read_text().splitlines():
                name, value = line.split()
                if name in (f"{prefix}active_file", f"{prefix}inactive_file"):
                    left += int(value)  # cached files, dropped when needed
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        free.append(max(left, 0))
    return min(free, default=None)


def format_bytes(n_bytes):
    """A size for people: '1.35 GB'."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    digits = 0 if unit == "bytes" else 2
    return f"{n_bytes:.{digits}f} {unit}"
