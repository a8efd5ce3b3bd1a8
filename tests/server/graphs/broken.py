"""Does not import."""

import a_module_that_is_not_there  # type: ignore[import-not-found]

graph = a_module_that_is_not_there.graph
