"""Senders: one module a kind of receiver, and the courier that brings the outbox to them."""
