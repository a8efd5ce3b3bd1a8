"""One suite of tests per port: what every adapter must hold. They need pytest."""
