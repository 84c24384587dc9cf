"""Who is to be told what, and when: pure. Senders are in `diagnose.receivers`."""
