"""The words that every part speaks: frozen values, no behaviour beyond their own sense."""
