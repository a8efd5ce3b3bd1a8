"""PostgreSQL adapters of the stores: one module and one `.sql` file per aggregate."""
