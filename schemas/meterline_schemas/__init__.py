"""What travels: the event, its key, its rules, its delta. Only msgspec, xxhash and the standard library."""
