"""Finished runs: records, statistics, tables, reports."""
