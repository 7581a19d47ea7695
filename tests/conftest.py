"""Hypothesis on noisy machines: speed is shown by benchmarks, never by a timed test, so neither deadlines nor slow draws fail one."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
