"""API keys as a noun: issued, validated, revealed and ended; kept and found by `store.api_keys`."""
