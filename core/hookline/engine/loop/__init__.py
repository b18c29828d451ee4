"""Components -> steps, evaluations, events and state."""
