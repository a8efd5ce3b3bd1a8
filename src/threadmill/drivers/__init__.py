"""Connections to the services Threadmill stands on.

One subpackage per service. A driver knows how to reach its service and how to
speak to it safely; it knows no tenant's rules, no graph and no HTTP.
"""
