"""Applications whose API keys are in PostgreSQL: middlewares, and transactions that act for a key."""

from .caller import AsyncCaller, Caller, SyncCaller
from .errors import Refused
from .jobs import transaction

__all__ = ["AsyncCaller", "Caller", "Refused", "SyncCaller", "transaction"]
