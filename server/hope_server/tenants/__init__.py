"""Tenants: who calls (API keys) and what each may use (quotas)."""
