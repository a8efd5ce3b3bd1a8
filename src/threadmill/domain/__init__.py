"""Pure rules over frozen values: no I/O, no clock, each rule once."""
