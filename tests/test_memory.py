"""The memory that is free, and sizes for people."""

import sys
from pathlib import Path

import pytest

from sklearn_mach import _memory
from sklearn_mach._memory import format_bytes, free_memory

GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that writes the files from which the free memory is read."""

    def place(*parts):
        return Path(tmp_path, *(str(part).lstrip("/") for part in parts))

    def make(files):
        monkeypatch.setattr(_memory, "Path", place)
        for path, text in files.items():
            place(path).parent.mkdir(parents=True, exist_ok=True)
            place(path).write_text(text)

    return make


MEMINFO = {"/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n"}
AVAILABLE = 8_000_000 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/meminfo")
def test_free_memory_of_this_machine_is_at_most_all_of_it():
    line = next(
        line
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    assert 0 < free_memory() <= int(line.split()[1]) * 1024


def test_free_memory_without_a_control_group(machine):
    machine(MEMINFO)
    assert free_memory() == AVAILABLE


def test_free_memory_in_a_control_group(machine):
    group = {
        "/sys/fs/cgroup/memory.max": f"{4 * GB}\n",
        "/sys/fs/cgroup/memory.current": f"{3 * GB}\n",
        "/sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 1000\nactive_file 200\n",
    }
    machine(MEMINFO | group)
    assert free_memory() == GB + 1200  # cached files are dropped when needed
    machine({"/sys/fs/cgroup/memory.current": f"{5 * GB}\n"})
    assert free_memory() == 0
    machine({"/sys/fs/cgroup/memory.max": "max\n"})
    assert free_memory() == AVAILABLE
    machine({"/sys/fs/cgroup/memory.max": f"{400 * GB}\n"})
    assert free_memory() == AVAILABLE


def test_free_memory_in_an_old_control_group(machine):
    folder = "/sys/fs/cgroup/memory"
    group = {
        f"{folder}/memory.limit_in_bytes": f"{4 * GB}\n",
        f"{folder}/memory.usage_in_bytes": f"{3 * GB}\n",
        f"{folder}/memory.stat": (
            "inactive_file 7\ntotal_inactive_file 1000\ntotal_active_file 200\n"
        ),
    }
    machine(MEMINFO | group)
    assert free_memory() == GB + 1200


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (1_352_684_800, "1.35 GB"),
        (4 * 10**15, "4000.00 TB"),
    ],
)
def test_format_bytes(n_bytes, text):
    assert format_bytes(n_bytes) == text
