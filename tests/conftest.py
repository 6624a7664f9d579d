"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A clock is no part of any property, and a busy machine takes its time.
settings.register_profile("icrkit", deadline=None)
settings.load_profile("icrkit")
