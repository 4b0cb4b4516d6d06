"""The door: drives HAProxy from membership and failures, reports drains and traffic."""
