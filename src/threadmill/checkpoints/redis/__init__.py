"""Checkpoints in Redis or Valkey, without modules: hashes, sorted sets and scripts.

`store` is the port's adapter, the `.lua` files beside it are its statements, `saver` is
LangGraph's interface. How a checkpoint is cut into chunks is the same as in PostgreSQL.
"""
