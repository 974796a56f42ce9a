"""Pure functions that build statements: values in, SQLAlchemy statement out, and nothing executed.

Each bears the name of the coroutine it serves.
"""
