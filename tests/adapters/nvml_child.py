"""A process that asks NVML through the real binding, told by lines of JSON what to do; tests start it.

The library that it loads is whatever its dynamic linker finds: the tests put their stub there.
"""

from __future__ import annotations

import ctypes
import json
import sys

import msgspec

from diagnose.ports import GpuUnavailableError
from diagnose.sources.gpu import NvmlReader, PatientReader


class Child:
    def __init__(self):
        self.seconds = 1000.0
        self.new()

    def new(self):
        self.reader = NvmlReader(lambda: self.seconds)
        self.patience = PatientReader(self.reader, 0.5)

    def later(self, seconds):
        self.seconds += seconds

    def patient(self):
        return self.read(reader=self.patience)

    def read(self, pids=(), reader=None):
        try:
            return {"cards": [msgspec.to_builtins(one) for one in (reader or self.reader).read(pids)]}
        except GpuUnavailableError as error:
            return {"kind": error.kind, "text": str(error)}

    def xids(self, after=0):
        return [msgspec.to_builtins(one) for one in self.reader.xids(after)]

    def calls(self, name):
        return ctypes.CDLL("libnvidia-ml.so.1").stub_calls(name.encode())

    def threads(self):
        import threading  # noqa: PLC0415 - asked for by one test

        return sorted(one.name for one in threading.enumerate())


def main():
    child = Child()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(child, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
