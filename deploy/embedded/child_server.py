"""What every embedded server has in common: it is one child of this process, and how that ends."""

from __future__ import annotations

from deploy.embedded.processes import Child


class ChildServer:
    """Holds the child while it runs. `starting` is each server's own."""

    child: Child | None = None

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends it gracefully, or by force after the time. Harmless when it does not run."""
        if self.child is not None:
            self.child.stop(timeout_s)
            self.child = None

    def kill(self) -> None:
        """kill -9."""
        if self.child is not None:
            self.child.kill()
            self.child = None
