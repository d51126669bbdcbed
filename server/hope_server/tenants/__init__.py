"""Tenants: who calls (API keys), what each may use (quotas), and how their sessions are named apart."""
