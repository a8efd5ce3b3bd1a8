"""Everything that knows PostgreSQL's protocol: pool, transactions, SQL files.

Stores, savers and streams build on `Database.tenant_tx`; nothing else opens a
connection to tenant data.
"""
