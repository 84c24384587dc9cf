"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Machines that run tests are noisy: how long an example takes says nothing about the code.
settings.register_profile("diagnose", deadline=None, print_blob=True)
settings.load_profile("diagnose")
