"""Credits: what users have, and what it is spent on."""
