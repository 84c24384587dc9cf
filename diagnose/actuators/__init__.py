"""The hands: what changes the world when a remedy says so."""
