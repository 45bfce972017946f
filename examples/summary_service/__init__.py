"""A service that charges for what it has done: it works out a cost, checks, works, and records what it took."""
