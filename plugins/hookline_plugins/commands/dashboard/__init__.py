"""The dashboard: a local page that lists the runs of a folder, follows those at work, and compares them."""
