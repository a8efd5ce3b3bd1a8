"""Where LangGraph's checkpoints live: the port, its adapters, and the savers."""
