"""What a person sees of many runs: searched, chosen, with tags and notes."""
