"""What every test may use: each family of fixtures is one file in tests/fixtures."""

pytest_plugins = [
    "tests.fixtures.brokers",
    "tests.fixtures.cluster",
    "tests.fixtures.database",
    "tests.fixtures.fleet",
    "tests.fixtures.keeping",
    "tests.fixtures.postgres",
    "tests.fixtures.pooler",
    "tests.fixtures.redis",
    "tests.fixtures.redis_topologies",
    "tests.fixtures.savers",
    "tests.fixtures.ways",
    # It uses others.
    "tests.fixtures.away",
]
