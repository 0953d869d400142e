"""A program that prints all that it finds around it: two processes that begin alike print the same."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    found = {
        "argv": sys.argv[1:], "command": sys.orig_argv, "folder": str(Path.cwd()), "env": dict(os.environ), "path": sys.path,
        "flags": str(sys.flags), "files": sorted(int(name) for name in os.listdir("/proc/self/fd")),  # noqa: PTH208
        "signals": {each.name: repr(signal.getsignal(each)) for each in signal.valid_signals() if isinstance(each, signal.Signals)},
        "kept from": [status[name].strip() for name in ("Umask", "SigIgn", "SigBlk", "NoNewPrivs", "Uid", "Gid")],
        "group": [os.getpgrp(), os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0)], "zone": time.tzname,
        "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CORE)],
        "streams": [[each.encoding, each.errors, each.line_buffering, each.isatty()] for each in (sys.stdin, sys.stdout, sys.stderr)],
        "threads": threading.active_count(), "main": __name__, "collecting": gc.isenabled(),
    }  # fmt: skip
    print(json.dumps(found))
    print("a last line on the other stream", file=sys.stderr)
    if "--killed" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(7)


if __name__ == "__main__":
    main()
