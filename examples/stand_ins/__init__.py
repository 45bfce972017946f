"""Stand-ins of what a product has of its own, so that the examples run alone: who signs in its users, and its model."""
