"""The real-time API (a later issue). Nothing imports this room."""
