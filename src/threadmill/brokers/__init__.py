"""Hints between processes: the port and its adapters. The database is the truth."""
