"""What every test may use: each family of fixtures is one file in tests/fixtures."""

pytest_plugins = ["tests.fixtures.postgres"]
