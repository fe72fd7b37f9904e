"""Runs `affinity` on the machine of a test, in a fork of this process, which is ten times as fast as a start of it.

A line of input is a request in JSON, [arguments, variables]; one of output the answer, [exit status, stdout, stderr].
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from commands import called

for name in ("affinity.cli.ps", "affinity.cli.attach", "affinity.report.processes", "affinity.render.serialize"):
    import_module(name)  # once, not in each fork

for line in sys.stdin:
    arguments, variables = json.loads(line)
    child = os.fork()
    if child == 0:
        done = called(*arguments, **variables)
        print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("null", flush=True)
