"""The fault battery: real processes under load, harmed in every way we know.

Run it with `make chaos`. Nothing of it is shipped, but for what it judges with:
`threadmill.testing.history`.
"""
