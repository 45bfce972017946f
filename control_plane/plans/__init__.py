"""Plans as a noun: grants and limits of single tenants, and what a change of the catalog would have done last month.

The catalog itself, its file and its tables are `store.catalog`'s.
"""
