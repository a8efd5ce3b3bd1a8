"""The LangGraph adapter: the only package that knows LangGraph's internals.

An activation enters a graph through its public `astream` and leaves it at a superstep.
What must differ from a plain call is passed in from outside: a saver that commits
under the fence (`saver`), a tap that records events with the commits that they
describe (`tap`), a hook through which tasks start (`tasks`), and what to enter with
(`entry`). Nothing of Pregel's own logic is copied; `selftest` refuses to work on a
LangGraph in which these seams behave differently.
"""
