"""Results of the timing scripts as files that the documentation shows.

``save`` writes what a script has measured, with its command, the date, the machine and
the versions, as JSON. The pages show the table by the directive ``results``, and the
scripts of ``doc/figures`` draw the data.
"""

import json
import os
import platform
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "scipy", "scikit-learn", "numba")


def machine():
    """The processor and the memory of this machine, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1] for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} cores of {name.strip()}, {memory:.0f} GiB of memory"


def versions(*more):
    """Python and the packages that are installed here, such as numpy 2.4.6."""
    found = [f"Python {platform.python_version()}"]
    for name in (*PACKAGES, *more):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return found


def save(path, head, rows, *, packages=(), others=(), data=None):
    """Write a table of strings, and any other data, to a file of JSON.

    head: titles of the columns. rows: lists of strings, as many as head each. packages:
    names of further packages whose versions matter. others: names and versions of
    packages in other environments. data: what figures are drawn from.
    """
    arguments = [Path(sys.argv[0]).name]
    for argument in sys.argv[1:]:  # paths of this machine by their last part
        name, equals, value = argument.rpartition("=")
        arguments.append(name + equals + (Path(value).name if "/" in value else value))
    result = {
        "command": "python examples/" + " ".join(arguments),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": [*versions(*packages), *others],
        "head": head,
        "rows": rows,
        "data": data,
    }
    Path(path).write_text(json.dumps(result, indent=1) + "\n")
