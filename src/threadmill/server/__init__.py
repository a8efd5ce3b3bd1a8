"""The HTTP interface: what LangGraph's clients expect, over the engine's use-cases.

A server holds no conversation: any request of any thread may reach any server, and
one that dies takes nothing along but its open connections.
"""
