"""How the invoices of a period stand, by the mirror that webhooks keep."""

from __future__ import annotations

from control_plane.unit import Unit
from metering.billing import InvoiceStatus, of_all
from metering.periods import Period


class MirroredInvoices:
    """Reads the table `invoices`. The invoice of a period is the one whose period ends with it: usage is billed afterwards."""

    def of_period(self, unit: Unit, tenant_id: str, period: Period) -> tuple[InvoiceStatus, str | None]:
        """See steps.Invoices. A subscription of its own, such as a yearly one, may end a period on the same day: all are
        looked at, and the newest in the status that decides is named."""
        rows: list[tuple[str, InvoiceStatus]] = unit.pg.execute(
            "SELECT invoice_id, status FROM invoices WHERE tenant_id = %s AND period_end = %s AND period_start < period_end"
            " ORDER BY created_at DESC, invoice_id DESC",
            (tenant_id, period.ends_at),
        ).fetchall()
        status = of_all([status for _, status in rows])
        return status, next((invoice_id for invoice_id, of in rows if of == status), None)
