"""Billing a period on request: asked once, closed and exported by the exporter, ended when its invoice is paid."""
