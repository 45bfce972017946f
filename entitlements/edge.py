"""How this endpoint answers what its routes raise: a problem document for everything that was foreseen."""

from __future__ import annotations

from access.principals import AccessRefused
from entitlements.problems import Problem
from entitlements.store import StoreAway
from runtime.http_edge import ANSWER_WITHIN_S, Defect, Late
from runtime.warehouse import WarehouseAway


def refuses(error: Exception) -> Problem | None:
    """The problem that an exception is answered with; None for one that nobody foresaw."""
    match error:
        case Problem():
            return error
        case AccessRefused():
            return Problem.of_access(error)
        case StoreAway():
            return Problem.try_again("store_unavailable", str(error))
        case WarehouseAway():
            return Problem.try_again("clickhouse_unavailable", str(error))
        case Late():
            late = f"No answer within {ANSWER_WITHIN_S:.0f} s. Whether usage was recorded is not known; send it again."
            return Problem.try_again("timeout", late)
        case Defect():
            return Problem(500, "internal", "This is a defect of the server; its log has the cause under this requestId.")
        case _:
            return None
