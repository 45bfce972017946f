"""What services record of their work for a user, and what the records of all add up to."""
