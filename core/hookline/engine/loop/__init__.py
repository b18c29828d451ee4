"""From components to steps, evaluations, events and state."""
