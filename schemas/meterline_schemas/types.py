"""The words of the domain as types: a tenant is not a usage type, an offset is not an epoch."""

from __future__ import annotations

from typing import Literal, NewType

TenantId = NewType("TenantId", str)
UsageType = NewType("UsageType", str)

Micros = NewType("Micros", int)
"""A quantity in millionths: 1.5 is 1_500_000. Never a float."""

Epoch = NewType("Epoch", int)
"""One life of the events topic; from 1."""

Partition = NewType("Partition", int)
Offset = NewType("Offset", int)

Kind = Literal["usage", "correction"]
Verdict = Literal["admitted", "duplicate", "conflict", "invalid"]
