"""Attacks of a role that may write the audited table. Each succeeds without its defence first."""
