"""A stand-in for FastDeploy: it serves no model and computes nothing.

The lab server looks like ``python -m fastdeploy.entrypoints.openai.api_server`` from the outside (flags,
processes, log lines, endpoints, metrics, arithmetic of GPU memory) so that a supervisor can be tried
where neither FastDeploy nor a GPU can be had. It is no part of PaddlePaddle/FastDeploy and contains none
of its code.
"""

from __future__ import annotations

import os

__version__ = "2.6.0" if os.environ.get("FD_LAB_ERA", "2.4") == "2.6" else "2.4.0"
