"""T4: deliberate bugs in a copy of the product's code, each of which T1, T2 or T3 must catch."""
