"""The LangGraph adapter: the only package that knows LangGraph's internals.

(Of LangGraph's SDK, `engine.graph_factories` imports two private classes: the types by
which a graph's function may ask for the runtime.)

An activation enters a graph through its public `astream` and leaves it at a superstep.
What must differ from a plain call is passed in from outside: a saver that commits
under the fence (`saver`), a tap that records events with the commits that they
describe (`tap`), a hook through which tasks start (`tasks`), and what to enter with
(`entry`). These hang on private configuration keys, and on the handler of messages, a
private class. One thing is changed in LangGraph itself, for the whole process: `nested`
gives its loops an attribute. Nothing of Pregel's own logic is copied; `selftest`
refuses to work on a LangGraph in which these seams behave differently.
"""
