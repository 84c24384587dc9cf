"""Incidents to what people and programs read: values in, text out."""
