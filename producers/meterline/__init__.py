"""Emit usage events to Meterline."""
