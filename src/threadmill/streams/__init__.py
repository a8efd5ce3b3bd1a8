"""The replayable event log of a thread: the port and its adapters."""
