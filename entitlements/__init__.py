"""The small HTTP endpoint: check, record usage, summaries."""
